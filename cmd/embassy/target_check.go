package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"embassy/embassy"

	"github.com/urfave/cli/v2"
)

func targetCheckCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:      "check",
		Usage:     "find out what targets can do, what the credentials may do there, and whether they are guarded; exit code 4 when one does not answer or lacks what it needs",
		ArgsUsage: "[TARGET...]",
		Description: "Writes small probes below this machine's own prefix (and one below the prefix of an agent that does not\n" +
			"exist), and deletes them where that is allowed. Nothing else is touched. What is found counts for 35 days.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "print-policy", Usage: "check nothing; print the S3 policy that the credentials of a `ROLE` (agent, replicator or steward) need"},
		},
		Action: action(con, func(c *cli.Context) (targetCheckOptions, error) {
			o := targetCheckOptions{names: c.Args().Slice(), role: embassy.Role(c.String("print-policy"))}
			if c.IsSet("print-policy") && !slices.Contains(embassy.Roles, o.role) {
				return o, usage("--print-policy %s: the roles are agent, replicator and steward", o.role)
			}
			return o, nil
		}, runTargetCheck),
	}
}

type targetCheckOptions struct {
	names []string
	role  embassy.Role // empty: check
}

func runTargetCheck(ctx context.Context, o targetCheckOptions, con *console) error {
	if o.role != "" {
		return runPolicies(ctx, o, con)
	}
	var checks []embassy.TargetCheck
	err := con.using(limits{}, nil, func(_ *site, service *embassy.Service) (err error) {
		checks, err = service.CheckTargets(ctx, o.names)
		return err
	})
	if err != nil {
		return err
	}
	if con.json {
		err = printChecksJSON(con, checks)
	} else {
		err = printChecks(con, checks)
	}
	if err != nil {
		return err
	}
	var codes []int
	for _, c := range checks {
		codes = append(codes, c.Exit())
	}
	return reported(codes...)
}

// runPolicies needs no catalog.
func runPolicies(ctx context.Context, o targetCheckOptions, con *console) error {
	return con.serving(func(s *site, service *embassy.Service) error {
		policies, err := service.Policies(ctx, o.role, o.names)
		if err != nil {
			return err
		}
		return printPolicies(con, policies)
	})
}

// printPolicies prints one policy as it is, so that it can be pasted; several
// stand below a line that says whose each is.
func printPolicies(con *console, policies []embassy.TargetPolicy) error {
	if con.json {
		type policy struct {
			Target string          `json:"target"`
			Role   embassy.Role    `json:"role"`
			Agent  string          `json:"agent,omitempty"`
			Policy json.RawMessage `json:"policy"`
		}
		doc := struct {
			schema
			Policies []policy `json:"policies"`
		}{schema: schemaV1}
		for _, p := range policies {
			agent := ""
			if !p.Agent.IsZero() {
				agent = p.Agent.String()
			}
			doc.Policies = append(doc.Policies, policy{p.Target, p.Role, agent, p.Policy})
		}
		return printJSON(con.stdout, doc)
	}
	for _, p := range policies {
		if len(policies) > 1 {
			whose := string(p.Role)
			if !p.Agent.IsZero() {
				whose += " " + p.Agent.String()
			}
			fmt.Fprintf(con.stdout, "# target %s, %s\n", p.Target, whose)
		}
		if _, err := fmt.Fprintf(con.stdout, "%s\n", p.Policy); err != nil {
			return err
		}
	}
	return nil
}

// questions are what a person reads for a capability.
var questions = map[embassy.Capability]string{
	embassy.CanPut:         "takes an object",
	embassy.CanReadBack:    "gives back what it took",
	embassy.CanList:        "lists it at once",
	embassy.ClockAgrees:    "clock agrees",
	embassy.KeepsVersions:  "keeps versions",
	embassy.CanLock:        "offers object lock",
	embassy.LocksByItself:  "locks every new object",
	embassy.LocksAsAsked:   "locks as configured",
	embassy.PutsIfAbsent:   "conditional put",
	embassy.ChecksHash:     "checks what it receives",
	embassy.MayOverwrite:   "credentials may overwrite",
	embassy.MayDelete:      "credentials may delete",
	embassy.MayDeleteOld:   "credentials may delete versions",
	embassy.MayShortenLock: "credentials may shorten locks",
	embassy.MayWriteOther:  "credentials may write elsewhere",
	embassy.IsGuarded:      "GUARDED",
}

func printChecks(con *console, checks []embassy.TargetCheck) error {
	for i, c := range checks {
		if i > 0 {
			fmt.Fprintln(con.stdout)
		}
		if c.Err != nil {
			text := oneLine(c.Err)
			if do := hint(c.Err); do != "" {
				text += "; " + do
			}
			state := "does not answer"
			if errors.Is(c.Err, embassy.ErrForeignTarget) {
				state = "is not checked"
			}
			fmt.Fprintf(con.stdout, "%s: %s: %s\n", c.Target, state, strings.TrimPrefix(text, "target "+c.Target+": "))
			continue
		}
		fmt.Fprintf(con.stdout, "%s: answers in %s%s\n", c.Target, c.Latency.Round(10*time.Microsecond), speeds(c))
		for _, v := range c.Verdicts {
			line := fmt.Sprintf("  %-32s %-8s %s", questions[v.Capability], v.Answer, v.Reason)
			if _, err := fmt.Fprintln(con.stdout, strings.TrimRight(line, " ")); err != nil {
				return err
			}
		}
		var told []string
		for _, v := range c.Verdicts {
			if v.Advice != "" && !slices.Contains(told, v.Advice) {
				told = append(told, v.Advice)
				fmt.Fprintf(con.stdout, "  to do: %s\n", v.Advice)
			}
		}
		if c.Left > 0 {
			fmt.Fprintf(con.stdout, "  %s of this check could not be deleted\n", plural(uint64(c.Left), "probe", "probes"))
		}
	}
	return nil
}

// speeds tells the throughput that was measured.
func speeds(c embassy.TargetCheck) string {
	text := ""
	if c.Upload > 0 {
		text += fmt.Sprintf(", takes %s/s", size(uint64(c.Upload)))
	}
	if c.Download > 0 {
		text += fmt.Sprintf(", gives %s/s", size(uint64(c.Download)))
	}
	return text
}

func printChecksJSON(con *console, checks []embassy.TargetCheck) error {
	type check struct {
		Target   string            `json:"target"`
		URL      string            `json:"url"`
		Time     time.Time         `json:"time"`
		Error    string            `json:"error,omitempty"`
		Hint     string            `json:"hint,omitempty"`
		Latency  float64           `json:"latency_seconds"`
		Upload   int64             `json:"upload_bytes_per_second"`
		Download int64             `json:"download_bytes_per_second"`
		Skew     float64           `json:"clock_skew_seconds"`
		Left     int               `json:"probes_left"`
		Guarded  embassy.Answer    `json:"guarded"`
		Verdicts []embassy.Verdict `json:"verdicts"`
	}
	doc := struct {
		schema
		Targets []check `json:"targets"`
	}{schema: schemaV1}
	for _, c := range checks {
		j := check{
			Target: c.Target, URL: c.URL, Time: c.Time.UTC(), Error: message(c.Err), Latency: c.Latency.Seconds(),
			Upload: c.Upload, Download: c.Download, Skew: c.Skew.Seconds(), Left: c.Left,
			Guarded: c.Verdict(embassy.IsGuarded).Answer, Verdicts: append([]embassy.Verdict{}, c.Verdicts...),
		}
		if c.Err != nil {
			j.Error, j.Hint = oneLine(c.Err), hint(c.Err)
		}
		doc.Targets = append(doc.Targets, j)
	}
	return printJSON(con.stdout, doc)
}

func targetTrustCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:      "trust",
		Usage:     "forgive a target what it did, and look at it as if for the first time",
		ArgsUsage: "TARGET",
		Description: "For a target that was emptied, rolled back or replaced on purpose. The reason goes into the history.\n" +
			"Run embassy target check and embassy verify afterwards: nothing is known of the target any more.\n\n" +
			"With --chain no target is forgiven: a fork, or what is unsound, which are no target's fault, are acknowledged.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "reason", Usage: "`TEXT` that says why, for those who read the history"},
			&cli.StringFlag{Name: "chain", Usage: "acknowledge that the chain whose `ID`, as status shows it, begins so forked or is unsound; or the whole OBJECT of one such fault"},
		},
		Action: action(con, func(c *cli.Context) (targetTrustOptions, error) {
			o := targetTrustOptions{c.Args().First(), c.String("chain"), c.String("reason")}
			if c.IsSet("chain") {
				if o.chain == "" || c.Args().Present() {
					return o, usage("embassy target trust takes the name of one target, or --chain with an ID")
				}
			} else if c.NArg() != 1 {
				return o, usage("embassy target trust takes the name of one target")
			}
			if strings.TrimSpace(o.reason) == "" {
				return o, usage("say why with --reason TEXT: it goes into the history")
			}
			return o, nil
		}, runTargetTrust),
	}
}

type targetTrustOptions struct{ target, chain, reason string }

func runTargetTrust(ctx context.Context, o targetTrustOptions, con *console) error {
	var forgiven []embassy.Fault
	err := con.using(limits{}, nil, func(_ *site, service *embassy.Service) (err error) {
		if o.chain != "" {
			forgiven, err = service.TrustChain(o.chain, o.reason)
		} else {
			forgiven, err = service.Trust(ctx, o.target, o.reason)
		}
		return err
	})
	if err != nil {
		return err
	}
	if con.json {
		return printForgivenJSON(con, o.target, forgiven)
	}
	switch {
	case o.chain != "":
		fmt.Fprintln(con.stdout, "acknowledged; a chain that forked stays frozen:")
	case len(forgiven) == 0:
		fmt.Fprintf(con.stdout, "target %s had no fault; what it showed is forgotten all the same\n", o.target)
		return nil
	default:
		fmt.Fprintf(con.stdout, "target %s is looked at as if for the first time; forgiven:\n", o.target)
	}
	w := table(con.stdout)
	fmt.Fprintln(w, "  FAULT\tFIRST (UTC)\tLAST (UTC)\tOBJECT\tWHAT")
	for _, f := range forgiven {
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%s\n", f.Kind, since(f.First), since(f.Last), dash(printable(f.Object)), printable(f.Text))
	}
	return w.Flush()
}

// since is the time of a fault, which may not be known.
func since(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return moment(t)
}

func printForgivenJSON(con *console, target string, forgiven []embassy.Fault) error {
	type fault struct {
		Kind   embassy.FaultKind `json:"kind"`
		Object string            `json:"object,omitempty"`
		Text   string            `json:"text"`
		First  *time.Time        `json:"first"`
		Last   *time.Time        `json:"last"`
	}
	doc := struct {
		schema
		Target   string  `json:"target,omitempty"`
		Forgiven []fault `json:"forgiven"`
	}{schemaV1, target, []fault{}}
	for _, f := range forgiven {
		doc.Forgiven = append(doc.Forgiven, fault{f.Kind, f.Object, f.Text, stamp(f.First), stamp(f.Last)})
	}
	return printJSON(con.stdout, doc)
}
