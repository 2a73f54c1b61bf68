package config

import (
	"fmt"
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"embassy/embassy/format"
	"embassy/embassy/policy"
	"embassy/targets"

	"go.yaml.in/yaml/v3"
)

// sections fills a Config, one section after the other.
type sections struct {
	*reader
	*Config
	taken  map[string]*yaml.Node // names of the current section
	stores map[targets.Location]*yaml.Node
	named  []*yaml.Node    // named[i] is where Targets[i] stands
	tiers  map[string]bool // targets that have a tier somewhere

	keyless bool // the file has a nation_key, right or wrong
	ids     map[format.ID]*yaml.Node
}

// target reads one item of targets. A target with mistakes is kept as far as
// it goes, so that what refers to it is not wrong as well.
func (s *sections) target(n *yaml.Node) {
	var t Target
	var a access
	keys := append([]key{{"name", s.name("a target", s.taken, &t.Name), `write "name: NAME"`}}, s.accessKeys(&a)...)
	s.mapping(n, "a target", append(keys,
		s.of(&a.s3Only, "lock", s.lock(&t.Lock), ""),
		key{"url", s.url(&a, func(n *yaml.Node, at targets.Location) {
			if other := s.stores[at]; other != nil {
				s.fail(n, "this url is already used"+line(other)+", and one store holds only one copy", "remove one of them, or write another url")
				return
			}
			s.stores[at] = n
		}), `write "url: s3+https://HOST/BUCKET" or "url: dir:/PATH"`},
		key{"jurisdiction", s.text("jurisdiction", func(n *yaml.Node, text string) { t.Jurisdiction = s.code(n, text) }), ""},
		key{"legal_regimes", s.strings("legal_regimes", &t.LegalRegimes, func(n *yaml.Node, text string) (string, bool) {
			code := s.code(n, text)
			return code, code != ""
		}), ""},
		key{"operator", s.string("operator", &t.Operator), ""},
		key{"hosting", s.enum("hosting", Hostings, &t.Hosting), ""},
		key{"clearance", s.string("clearance", &t.Clearance), ""},
		key{"limit_upload", s.rate("limit_upload", &t.Limits.Upload), ""},
		key{"limit_download", s.rate("limit_download", &t.Limits.Download), ""},
	)...)
	if strings.HasPrefix(a.URL, "dir:") {
		for _, k := range a.s3Only {
			s.fail(k.at, k.name+" means nothing for a directory", "remove it, or give the target an s3+https:// URL")
		}
	}
	s.complete(n, "the target", &a)
	t.URL, t.Credentials, t.CAFile, t.Region, t.Insecure = a.URL, a.Credentials, a.CAFile, a.Region, a.Insecure
	s.Targets = append(s.Targets, t)
	s.named = append(s.named, n)
}

var (
	envName   = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	awsKey    = regexp.MustCompile(`^A[KS]IA[A-Z0-9]{12,}$`)
	placeCode = regexp.MustCompile(`^[A-Z0-9][A-Z0-9-]{0,62}$`)
)

func (s *sections) credentials(c *Credentials) func(*yaml.Node) {
	variable := func(name string, dst *string) key {
		return key{name, s.text(name, func(n *yaml.Node, text string) {
			if !envName.MatchString(text) || awsKey.MatchString(text) {
				// The value may be the secret itself: it is not shown.
				s.fail(n, name+" must be the name of an environment variable, and this looks like something else",
					"write a name such as TALLINN_KEY, put the secret into that variable, and replace the secret if it stood here")
				return
			}
			*dst = text
		}), `write "` + name + `: NAME", the name of an environment variable`}
	}
	return func(n *yaml.Node) {
		s.mapping(n, "credentials", variable("access_key_env", &c.AccessKeyEnv), variable("secret_key_env", &c.SecretKeyEnv))
	}
}

func (s *sections) lock(l *Lock) func(*yaml.Node) {
	return func(n *yaml.Node) {
		s.mapping(n, "lock",
			key{"mode", s.enum("mode", []string{"governance", "compliance"}, &l.Mode), `write "mode: governance" or "mode: compliance"`},
			key{"days", func(n *yaml.Node) {
				s.integer("days", 1, &l.Days)(n)
				if l.Days > MaxLockDays {
					s.fail(n, fmt.Sprintf("days cannot be %d: no store locks for longer than %d", l.Days, MaxLockDays), "write fewer days, such as 30")
				}
			}, `write "days: 30"`},
		)
	}
}

// code returns a jurisdiction or legal regime in upper case, so that ee and EE
// are never counted as two; "" after reporting a bad one.
func (s *sections) code(n *yaml.Node, text string) string {
	code := strings.ToUpper(text)
	if !placeCode.MatchString(code) {
		s.fail(n, fmt.Sprintf("%s is no code of a jurisdiction", quote(text)), "write letters, digits and dashes, such as EE, EU or US-VA")
		return ""
	}
	return code
}

// loopback reports whether an endpoint, with or without a port, is this machine.
func loopback(endpoint string) bool {
	host := (&url.URL{Host: endpoint}).Hostname()
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

func (s *sections) targetNames() []string {
	var names []string
	for _, t := range s.Targets {
		if t.Name != "" {
			names = append(names, t.Name)
		}
	}
	return names
}

// compartments reads the section, or without one makes the compartment main.
func (s *sections) compartments(n *yaml.Node) {
	s.taken, s.ids = make(map[string]*yaml.Node), make(map[format.ID]*yaml.Node)
	if n == nil && s.keyless {
		return
	}
	if n == nil {
		s.compartment(&yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{scalar("name"), scalar("main")}})
		return
	}
	s.sequence("compartments", s.compartment)(n)
	if n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
		hint := "remove it to get one compartment named main, or write one"
		if s.keyless {
			hint = "remove it to get every compartment of the charter, or write one"
		}
		s.fail(n, "compartments is an empty list", hint)
	}
}

// id takes the pseudonym of a compartment. Only a keyless machine needs it:
// the others read names in the charter.
func (s *sections) id(dst *format.ID) key {
	k := key{"id", s.text("id", func(n *yaml.Node, text string) {
		id, err := format.ParseID(text)
		switch other := s.ids[id]; {
		case !s.keyless:
			s.fail(n, "id is for a configuration with nation_key and no datasets: this one knows the compartment by its name", "remove it")
		case err != nil || id.IsZero():
			s.fail(n, quote(text)+" is no pseudonym of a compartment: it has 32 lower-case hexadecimal digits", copyHint)
		case other != nil:
			s.fail(n, "the compartment of this id is already given"+line(other), "keep one of them")
		default:
			*dst, s.ids[id] = id, n
		}
	}), ""}
	if s.keyless {
		k.need = `write "id: DIGITS", and ` + copyHint
	}
	return k
}

const copyHint = "copy it from what embassy config replicator prints on a machine that backs up"

func (s *sections) compartment(n *yaml.Node) {
	var c Compartment
	var commit *yaml.Node
	before := len(s.problems)
	s.mapping(n, "a compartment",
		key{"name", s.name("a compartment", s.taken, &c.Name), `write "name: NAME"`},
		s.id(&c.ID),
		key{"rank", s.integer("rank", 1, &c.Rank), ""},
		key{"classification", s.string("classification", &c.Classification), ""},
		key{"dedup", s.text("dedup", func(n *yaml.Node, text string) {
			if c.Dedup = text; text != DedupAgent && text != DedupCompartment {
				s.fail(n, "dedup is "+quote(text), "write agent, or, if all agents of the compartment trust one another, compartment")
			}
		}), ""},
		key{"pace", s.pace(&c.PACE), ""},
		key{"commit", func(n *yaml.Node) { commit = n }, ""},
	)
	usable := len(s.problems) == before
	order := policy.Order(c.PACE)
	if len(order) == 0 && usable {
		c.PACE = defaultPACE(s.targetNames())
		order = policy.Order(c.PACE)
	}
	possible := make([]policy.Copy, len(order))
	for i, ranked := range order {
		t, _ := s.Target(ranked.Target)
		possible[i] = policy.Copy{Target: t.Name, Jurisdiction: t.Jurisdiction, Guarded: true}
		s.tiers[t.Name] = true
	}
	c.Commit = s.commit(commit, possible, usable)
	s.Compartments = append(s.Compartments, c)
}

// rank completes the ranks: a compartment is as urgent as its most urgent
// dataset.
func (s *sections) rank() {
	for i := range s.Compartments {
		c := &s.Compartments[i]
		if c.Rank > 0 {
			continue
		}
		for _, d := range s.Datasets {
			if d.Compartment == c.Name && (c.Rank == 0 || d.Priority < c.Rank) {
				c.Rank = d.Priority
			}
		}
		if c.Rank == 0 {
			c.Rank = DefaultPriority
		}
	}
}

// defaultPACE gives the first three targets a tier each, and the last tier to
// all others.
func defaultPACE(targets []string) policy.PACE {
	var p policy.PACE
	tiers := []*[]string{&p.Primary, &p.Alternate, &p.Contingency, &p.Emergency}
	for i, name := range targets {
		tier := tiers[min(i, len(tiers)-1)]
		*tier = append(*tier, name)
	}
	return p
}

func (s *sections) pace(p *policy.PACE) func(*yaml.Node) {
	tierOf := make(map[string]policy.Tier)
	tier := func(tier policy.Tier, dst *[]string, need string) key {
		return key{tier.String(), s.strings(tier.String(), dst, func(n *yaml.Node, name string) (string, bool) {
			if _, ok := s.Target(name); !ok {
				s.fail(n, fmt.Sprintf("there is no target %s", quote(name)), s.instead(name, s.targetNames(), "targets"))
				return "", false
			}
			if other, ok := tierOf[name]; ok && other != tier {
				s.fail(n, fmt.Sprintf("target %s is already in the tier %s", name, other), "keep it in one tier")
				return "", false
			}
			tierOf[name] = tier
			return name, true
		}), need}
	}
	return func(n *yaml.Node) {
		before := len(s.problems)
		s.mapping(n, "pace",
			tier(policy.Primary, &p.Primary, `write "primary: [NAME]" with the target that is used first, or remove pace to rank the targets in their order`),
			tier(policy.Alternate, &p.Alternate, ""),
			tier(policy.Contingency, &p.Contingency, ""),
			tier(policy.Emergency, &p.Emergency, ""),
		)
		if len(s.problems) == before && len(policy.Order(*p)) == 0 {
			s.fail(n, "pace names no target", "name at least one, or remove pace to rank the targets in their order")
		}
	}
}

// instead suggests what to write for a name that does not exist.
func (s *sections) instead(name string, known []string, section string) string {
	if near := nearest(name, known); near != "" {
		return fmt.Sprintf("write %q", near)
	}
	if len(known) == 0 {
		return "add it to " + section
	}
	return "write " + among(known) + ", or add it to " + section
}

// commit reads the rule and completes it. The rule must be able to hold with
// the possible copies, unless those are not usable.
func (s *sections) commit(n *yaml.Node, possible []policy.Copy, usable bool) policy.Rule {
	var rule policy.Rule
	check := func(name string, lo int, dst *int, part func() policy.Rule) key {
		return key{name, func(n *yaml.Node) {
			s.integer(name, lo, dst)(n)
			if missing := part().Missing(possible); usable && len(missing) > 0 {
				s.fail(n, fmt.Sprintf("%s: %d can never be met: the pace of this compartment lacks %s", name, *dst, missing[0]),
					"lower the number, or add targets to pace")
			}
		}, ""}
	}
	if n != nil {
		s.mapping(n, "commit",
			check("targets", 1, &rule.Targets, func() policy.Rule { return policy.Rule{Targets: rule.Targets} }),
			check("jurisdictions", 1, &rule.Jurisdictions, func() policy.Rule { return policy.Rule{Jurisdictions: rule.Jurisdictions} }),
			check("guarded", 0, &rule.Guarded, func() policy.Rule { return policy.Rule{Guarded: rule.Guarded} }),
		)
	}
	standard := policy.DefaultRule(possible)
	if rule.Targets == 0 {
		rule.Targets = standard.Targets
	}
	if rule.Jurisdictions == 0 {
		rule.Jurisdictions = min(standard.Jurisdictions, rule.Targets)
	}
	return rule
}

func (s *sections) dataset(n *yaml.Node) {
	d := Dataset{Priority: DefaultPriority, Retention: policy.Retention{MinAge: DefaultMinAge}}
	var names []string
	for _, c := range s.Compartments {
		names = append(names, c.Name)
	}
	needCompartment := ""
	if len(names) == 1 {
		d.Compartment = names[0]
	} else if len(names) > 1 {
		needCompartment = `write "compartment: NAME" with ` + among(names)
	}
	o := origin{need: `write "sources: [/PATH]"`}
	if given(n, "command") || given(n, "stdin") || given(n, "s3") {
		o.need = ""
	}
	s.mapping(n, "a dataset",
		key{"name", s.name("a dataset", s.taken, &d.Name), `write "name: NAME"`},
		key{"compartment", s.text("compartment", func(n *yaml.Node, name string) {
			if len(names) > 0 && !slices.Contains(names, name) {
				s.fail(n, fmt.Sprintf("there is no compartment %s", quote(name)), s.instead(name, names, "compartments"))
			}
			d.Compartment = name
		}), needCompartment},
		key{"priority", s.integer("priority", 1, &d.Priority), ""},
		s.of(&o.files, "sources", func(n *yaml.Node) {
			s.strings("sources", &d.Sources, s.source)(n)
			if n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
				s.fail(n, "sources is an empty list", `write "sources: [/PATH]"`)
			}
		}, o.need),
		s.of(&o.trees, "exclude", s.strings("exclude", &d.Exclude), ""),
		s.of(&o.files, "one_file_system", s.boolean("one_file_system", &d.OneFileSystem), ""),
		s.of(&o.files, "exclude_caches", s.boolean("exclude_caches", &d.ExcludeCaches), ""),
		s.of(&o.trees, "exclude_larger_than", s.quantity("exclude_larger_than", "size", ParseSize, &d.ExcludeLargerThan,
			"write a number of bytes, or one with a unit such as 500MB or 1GiB"), ""),
		s.of(&o.commands, "command", s.words("command", &d.Command.Args), ""),
		s.of(&o.commands, "timeout", s.duration("timeout", &d.Command.Timeout), ""),
		s.of(&o.inputs, "stdin", s.boolean("stdin", &d.Stdin), ""),
		s.of(&o.buckets, "s3", s.bucket(&d.S3), ""),
		s.of(&o.streams, "filename", s.text("filename", func(n *yaml.Node, text string) { d.Filename = s.filename(n, text) }), ""),
		key{"pre", s.hook("pre", &d.Pre), ""},
		key{"post", s.hook("post", &d.Post), ""},
		key{"restore_first", s.strings("restore_first", &d.RestoreFirst), ""},
		s.of(&o.schedules, "schedule", s.schedule("schedule", &d.Schedule), ""),
		key{"rpo", s.duration("rpo", &d.RPO), ""},
		key{"rto", s.duration("rto", &d.RTO), ""},
		key{"retention", s.retention(&d.Retention), ""},
		key{"label", s.text("label", func(n *yaml.Node, text string) { d.Label, _ = s.bounded("label")(n, text) }), ""},
		key{"tags", func(n *yaml.Node) {
			s.strings("tags", &d.Tags, s.bounded("a tag"))(n)
			if len(d.Tags) > format.MaxTags {
				s.fail(n, fmt.Sprintf("there are %d tags, and at most %d fit into a snapshot", len(d.Tags), format.MaxTags), "remove some of them")
			}
		}, ""},
	)
	s.oneOrigin(n, &d, o)
	for _, source := range d.Sources {
		if within(s.StateDir, source) {
			s.warn(n, fmt.Sprintf("the source %s contains state_dir", quote(source)), "exclude it, or move state_dir")
		}
		for _, t := range s.Targets {
			if path, ok := strings.CutPrefix(t.URL, "dir:"); ok && within(path, source) {
				s.warn(n, fmt.Sprintf("the source %s contains the target %s, so every backup would store all earlier ones again", quote(source), t.Name), "exclude it, or move the target")
			}
		}
	}
	s.Datasets = append(s.Datasets, d)
}

// within reports whether an absolute path is folder or lies below it.
func within(path, folder string) bool {
	rel, err := filepath.Rel(folder, path)
	return err == nil && path != "" && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator))
}

func (s *sections) source(n *yaml.Node, path string) (string, bool) {
	absolute, ok := s.resolve(n, "the source", path)
	if ok && !filepath.IsAbs(path) {
		s.fail(n, fmt.Sprintf("the source %s is not absolute", quote(path)), fmt.Sprintf("write %q if that is meant", absolute))
		return "", false
	}
	return absolute, ok
}

func (s *sections) retention(k *policy.Retention) func(*yaml.Node) {
	return func(n *yaml.Node) {
		before := len(s.problems)
		s.mapping(n, "retention",
			key{"last", s.integer("last", 0, &k.Last), ""},
			key{"hourly", s.integer("hourly", 0, &k.Hourly), ""},
			key{"daily", s.integer("daily", 0, &k.Daily), ""},
			key{"weekly", s.integer("weekly", 0, &k.Weekly), ""},
			key{"monthly", s.integer("monthly", 0, &k.Monthly), ""},
			key{"yearly", s.integer("yearly", 0, &k.Yearly), ""},
			key{"within", s.duration("within", &k.Within), ""},
			key{"min_age", s.duration("min_age", &k.MinAge), ""},
		)
		if len(s.problems) == before && k.KeepsAll() {
			s.fail(n, "retention keeps nothing", "write how many to keep, such as {last: 7, daily: 30, monthly: 12}, or remove it to keep all")
		}
	}
}

// advise warns about what is allowed but probably not meant.
func (s *sections) advise() {
	for i, t := range s.Targets {
		if !s.tiers[t.Name] && len(s.Compartments) > 0 {
			s.warn(s.named[i], fmt.Sprintf("target %s is in no tier of any compartment, so nothing is stored on it", t.Name), "add it to the pace of a compartment, or remove it")
		}
		if t.Jurisdiction == "" && len(s.Targets) > 1 {
			s.warn(s.named[i], fmt.Sprintf("target %s has no jurisdiction, so it never counts as another one", t.Name), `add "jurisdiction: CODE", such as EE`)
		}
	}
}
