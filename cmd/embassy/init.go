package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"embassy/embassy"
	"embassy/embassy/config"
	"embassy/targets"

	"github.com/google/renameio/v2"
	"github.com/urfave/cli/v2"
)

type initOptions struct {
	nation  string
	targets []config.Target // for a new configuration
	sources []string        // likewise
	steward bool
	agent   string // name for people
	reader

	custodians, quorum int // 0: a kit is made
	sharesDir          string
}

func initCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:  "init",
		Usage: "make the nation's root, its recovery kit and this machine's agent",
		Description: "With a configuration file, init sets up what it says. Without one it writes one from\n" +
			"--nation, --target and --source. Run again, it goes on where it stopped; it never makes\n" +
			"a second root.\n\n" +
			"With --custodians 5 --quorum 3 the root is shared from the start: five files, any three of\n" +
			"which open everything, and neither kit nor passphrase.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "nation", Usage: "`NAME` of the nation, such as ee"},
			&cli.StringSliceFlag{Name: "target", Usage: "`NAME=URL[,KEY=VALUE,...]` of a target; repeat it, the best tier first. KEY is jurisdiction, credentials_file, access_key_env and secret_key_env (names of variables; default: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY), ca_file, region, hosting or another key of a target in embassy.yaml"},
			&cli.StringSliceFlag{Name: "source", Usage: "`PATH` to back up, one dataset each; repeat it, the most important first"},
			&cli.StringFlag{Name: "kit", Usage: "write the recovery kit to `FILE` (default: kit of the configuration, else recovery-kit.txt)"},
			&cli.IntFlag{Name: "custodians", Usage: "share the root among `N` custodians instead of making a kit"},
			&cli.IntFlag{Name: "quorum", Usage: "how many of them are needed: `M`, at least 2"},
			&cli.StringFlag{Name: "shares-dir", Usage: "write the shares into `DIR`, or find them there (default: keys, beside the configuration)"},
			&cli.BoolFlag{Name: "no-steward", Usage: "this machine may never delete anything from the targets"},
			&cli.StringFlag{Name: "agent-name", Usage: "`NAME` of this machine for people (default: its host name)"},
			phraseFlag(),
		},
		Action: action(con, decodeInit, runInit),
	}
}

func decodeInit(c *cli.Context) (initOptions, error) {
	o := initOptions{
		nation: c.String("nation"), sources: c.StringSlice("source"), steward: !c.Bool("no-steward"),
		reader:     decodeReader(c),
		custodians: c.Int("custodians"), quorum: c.Int("quorum"), sharesDir: c.String("shares-dir"),
	}
	if err := noArguments(c); err != nil {
		return o, err
	}
	if c.IsSet("custodians") || c.IsSet("quorum") {
		if err := checkCeremony(c, o.custodians, o.quorum); err != nil {
			return o, err
		}
		if o.kit != "" {
			return o, usage("give either --kit or --custodians: with custodians there is no kit")
		}
	}
	var err error
	if o.agent, err = machineName(c, "agent-name"); err != nil {
		return o, err
	}
	if given := c.StringSlice("target"); len(given) > 0 {
		o.targets, err = config.ParseTargetFlags(given)
	}
	return o, err
}

// machineName is what a flag calls this machine; without it, its host name.
func machineName(c *cli.Context, flag string) (string, error) {
	if name := c.String(flag); name != "" {
		return name, nil
	}
	host, err := os.Hostname()
	if err != nil {
		return "", usage("this machine has no host name (%s): name it with --%s", err, flag)
	}
	return host, nil
}

func runInit(ctx context.Context, o initOptions, con *console) (err error) {
	cfg, text, err := plan(o, con)
	if err != nil {
		return err
	}
	if cfg.NationKey.Signer != nil && !cfg.Keyless() {
		return usage("%s:%d: with nation_key and datasets, this machine joins a nation that exists: run embassy agent request", cfg.File, cfg.NationKeyLine)
	}
	if cfg.Keyless() {
		return usage("%s:%d: a configuration with nation_key is that of a machine without keys, which needs no init: run embassy target list, or remove nation_key", cfg.File, cfg.NationKeyLine)
	}
	kit := o.kit
	switch {
	case kit == "" && cfg.Kit != "":
		kit = cfg.Kit
	case kit == "":
		kit = filepath.Join(filepath.Dir(cfg.File), defaultKit)
	}
	if kit, err = filepath.Abs(kit); err != nil {
		return err
	}
	in := embassy.InitOptions{KitPath: kit, AgentName: o.agent, Steward: o.steward, Custodians: o.custodians, Quorum: o.quorum}
	if in.SharesDir = o.sharesDir; in.SharesDir == "" {
		in.SharesDir = filepath.Join(filepath.Dir(cfg.File), defaultShares)
	}
	if in.SharesDir, err = filepath.Abs(in.SharesDir); err != nil {
		return err
	}
	shared, err := in.Shared()
	if err != nil {
		return usage("%s", err)
	}
	if !shared {
		if in.Passphrase, err = initPassphrase(ctx, con, o, cfg, kit); err != nil {
			return err
		}
	}
	defer clear(in.Passphrase)
	if text != nil {
		if err := renameio.WriteFile(cfg.File, text, 0o644); err != nil {
			return fmt.Errorf("write configuration: %w", err)
		}
	}
	for _, path := range lacking(cfg) {
		con.warnf("the source %s does not exist yet", path)
	}
	s, err := con.openSiteWith(con.createDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	service, err := s.service()
	if err != nil {
		return err
	}
	report, err := service.Init(ctx, in)
	if err != nil {
		what := "recovery kit " + kit
		if shared {
			what = "shares in " + in.SharesDir
		}
		return s.unfinished(err, report.KitPath, what)
	}
	if err := s.close(); err != nil {
		return err
	}
	return printInit(con, report, cfg)
}

// unfinished says what an init that no target answered leaves behind.
func (s *site) unfinished(err error, path, what string) error {
	if _, missing := os.Stat(path); missing != nil || !errors.Is(err, embassy.ErrDown) {
		return err
	}
	return fmt.Errorf("%w\nThe root and its %s exist now. Correct the targets in %s, then run embassy init again; it goes on with them", s.brief(err), what, s.config.File)
}

// createDir opens the directory of a target, and says so when it has to make
// it: it may be that a disk is not mounted.
func (con *console) createDir(path string) (*targets.Dir, error) {
	_, err := os.Lstat(path)
	d, failure := targets.CreateDir(path)
	if failure == nil && errors.Is(err, fs.ErrNotExist) {
		con.warnf("made the target directory %s; if a disk belongs there, it is not mounted: remove the directory and mount it", path)
	}
	return d, failure
}

// lacking returns the sources that do not exist.
func lacking(cfg *config.Config) []string {
	var out []string
	for _, d := range cfg.Datasets {
		for _, source := range d.Sources {
			if _, err := os.Stat(source); err != nil {
				out = append(out, source)
			}
		}
	}
	return out
}

const (
	defaultKit    = "recovery-kit.txt"
	defaultShares = "keys" // folder
)

// plan returns the configuration that init works with, and its text when it
// is yet to be written.
func plan(o initOptions, con *console) (*config.Config, []byte, error) {
	existing, err := os.ReadFile(con.config)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("read configuration: %w", err)
	}
	if err == nil && len(o.targets) == 0 && len(o.sources) == 0 {
		cfg, err := config.Parse(con.config, existing)
		if err == nil && o.nation != "" && o.nation != cfg.Nation {
			err = usage("%s is the configuration of nation %s, not of %s: leave --nation out, or name another file with --config", con.config, cfg.Nation, o.nation)
		}
		return cfg, nil, err
	}
	there := err == nil
	if !there && (o.nation == "" || len(o.targets) == 0) {
		return nil, nil, usage("there is no configuration at %s to start from: write one, or give --nation NAME and --target NAME=URL for each target", con.config)
	}
	text, err := draft(o, con.config)
	// The same command again is no change, so that an interrupted init resumes.
	if there && (err != nil || !bytes.Equal(existing, text)) {
		return nil, nil, usage("%s exists, and it says which targets and sources there are: correct them there, and run embassy init without --target and --source", con.config)
	}
	if err != nil {
		return nil, nil, err
	}
	cfg, err := config.Parse(con.config, text)
	if there {
		text = nil
	}
	return cfg, text, err
}

// draft writes the configuration that the flags describe.
func draft(o initOptions, file string) ([]byte, error) {
	kit := "./" + defaultKit
	if o.custodians > 0 {
		kit = ""
	}
	if o.kit != "" {
		path, err := filepath.Abs(o.kit)
		if err != nil {
			return nil, err
		}
		base, err := filepath.Abs(filepath.Dir(file))
		if err != nil {
			return nil, err
		}
		kit = path
		if rel, err := filepath.Rel(base, path); err == nil && filepath.IsLocal(rel) {
			kit = "./" + filepath.ToSlash(rel)
		}
	}
	var text bytes.Buffer
	err := config.Write(&text, config.Draft{Nation: o.nation, Kit: kit, Targets: o.targets, Sources: o.sources})
	return text.Bytes(), err
}

// initPassphrase returns the passphrase of the kit: a new one for a new kit,
// and none on a machine that is set up and whose kit is elsewhere.
func initPassphrase(ctx context.Context, con *console, o initOptions, cfg *config.Config, kit string) ([]byte, error) {
	_, err := os.Stat(kit)
	if err == nil {
		return con.passphrases(o.phrases).Existing(ctx, kit)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("recovery kit: %w", err)
	}
	switch _, err := embassy.OpenState(cfg.StateDir); {
	case err == nil:
		return nil, nil
	case !errors.Is(err, embassy.ErrNoState):
		return nil, err
	}
	return con.passphrases(o.phrases).New(ctx, "the recovery kit")
}

func printInit(con *console, r embassy.InitReport, cfg *config.Config) error {
	if con.json {
		if err := printJSON(con.stdout, struct {
			schema
			Nation      string         `json:"nation"`
			Fingerprint string         `json:"root_fingerprint"`
			Agent       string         `json:"agent"`
			AgentName   string         `json:"agent_name"`
			Kit         string         `json:"kit,omitempty"`
			Shares      string         `json:"shares_dir,omitempty"`
			Config      string         `json:"config"`
			Resumed     bool           `json:"resumed"`
			Succeeds    []string       `json:"succeeds_stewards"`
			Targets     []targetResult `json:"targets"`
		}{schemaV1, r.Nation.String(), r.Fingerprint, r.Agent.String(), r.AgentName, foundAt(r, false), foundAt(r, true), cfg.File, r.Resumed, append([]string{}, r.Succeeds...), results(r.Targets)}); err != nil {
			return err
		}
		return published(r.Targets)
	}
	w := table(con.stdout)
	if r.Resumed {
		fmt.Fprintf(con.stdout, "Nation %s was set up before. Its root is the same.\n\n", cfg.Nation)
	} else {
		fmt.Fprintf(con.stdout, "Nation %s is set up.\n\n", cfg.Nation)
	}
	fmt.Fprintf(w, "nation\t%s\n", r.Nation)
	fmt.Fprintf(w, "root fingerprint\t%s\n", r.Fingerprint)
	fmt.Fprintf(w, "agent\t%s (%s)\n", r.Agent, r.AgentName)
	fmt.Fprintf(w, "configuration\t%s\n", cfg.File)
	switch {
	case r.KitFound && r.Shared:
		fmt.Fprintf(w, "shares\t%s\n", r.KitPath)
	case r.KitFound:
		fmt.Fprintf(w, "recovery kit\t%s\n", r.KitPath)
	default:
		fmt.Fprintf(w, "recovery kit, shares\tnot on this machine, as it should be\n")
	}
	printResults(w, r.Targets)
	if err := w.Flush(); err != nil {
		return err
	}
	advise(con, r, cfg)
	return published(r.Targets)
}

// foundAt is where the kit is, or the folder of the shares.
func foundAt(r embassy.InitReport, shared bool) string {
	if r.KitFound && r.Shared == shared {
		return r.KitPath
	}
	return ""
}

// advise says what to do next.
func advise(con *console, r embassy.InitReport, cfg *config.Config) {
	switch {
	case r.KitFound && r.Shared:
		con.notef("\nGive each file in %s to its custodian now, who runs embassy keys check-share on it, prints\n"+
			"it and keeps it; then delete the folder. Without a quorum nothing can be restored.", r.KitPath)
	case r.KitFound:
		con.notef("\nMove the recovery kit off this machine now: print it, or copy it to two safe places, apart\n"+
			"from its passphrase, and then delete %s.\n"+
			"Whoever has the kit and the passphrase has everything. Without both, nothing can be restored.", r.KitPath)
	}
	if len(r.Succeeds) > 0 {
		con.notef("\nThis machine is the steward now, which says what is kept and deletes, in the place of %s.\n"+
			"embassy agent steward gives that back.", printable(strings.Join(r.Succeeds, ", ")))
	}
	next := "embassy backup"
	if len(cfg.Datasets) == 0 {
		next = "add datasets to " + cfg.File + ", then embassy charter apply and embassy backup"
	}
	if published(r.Targets) == nil { // else the error says what is next
		con.notef("\nNext: %s", next)
	}
}

// targetResult is embassy.TargetResult in JSON.
type targetResult struct {
	Target string `json:"target"`
	Error  string `json:"error,omitempty"`
}

func results(list []embassy.TargetResult) []targetResult {
	out := []targetResult{}
	for _, r := range list {
		out = append(out, targetResult{r.Target, message(r.Err)})
	}
	return out
}

// printResults says which targets have the charter.
func printResults(w interface{ Write([]byte) (int, error) }, list []embassy.TargetResult) {
	for _, r := range list {
		text := "has the charter"
		if r.Err != nil {
			text = "has no charter yet: " + cause(r.Target, r.Err)
		}
		fmt.Fprintf(w, "target %s\t%s\n", r.Target, text)
	}
}

// published is a failure when no target at all has the charter; one that is
// missing gets it later.
func published(list []embassy.TargetResult) error {
	for _, r := range list {
		if r.Err == nil {
			return nil
		}
	}
	if len(list) == 0 { // nothing was to be put to any
		return nil
	}
	return errors.New("no target has the charter: embassy target list says what is wrong with them; then run this again")
}
