package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"embassy/embassy"
	"embassy/embassy/config"
	"embassy/embassy/format"
	"embassy/embassy/policy"

	"github.com/urfave/cli/v2"
)

func configCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:  "config",
		Usage: "look after the configuration",
		Subcommands: []*cli.Command{{
			Name:  "check",
			Usage: "say what is wrong with the configuration, or what it means",
			Action: action(con, func(c *cli.Context) (struct{}, error) {
				return struct{}{}, noArguments(c)
			}, runConfigCheck),
		}, {
			Name:  "replicator",
			Usage: "print the configuration of a machine that copies and checks, and holds no key",
			Description: "Run it on a machine that backs up, and save what it prints as embassy.yaml on the other one. It holds\n" +
				"no secret: the nation's public key, pseudonyms of compartments, where they lie, and the names of\n" +
				"environment variables that the keys of the stores are to be put into. No target is asked.",
			Action: action(con, func(c *cli.Context) (struct{}, error) {
				return struct{}{}, noArguments(c)
			}, runConfigReplicator),
		}},
	}
}

// problem is config.Problem in JSON.
type problem struct {
	File    string `json:"file"`
	Line    int    `json:"line"`
	Column  int    `json:"column"`
	Message string `json:"message"`
	Hint    string `json:"hint"`
}

func problems(list []config.Problem) []problem {
	out := []problem{}
	for _, p := range list {
		out = append(out, problem{p.File, p.Line, p.Column, p.Message, p.Hint})
	}
	return out
}

func runConfigCheck(_ context.Context, _ struct{}, con *console) error {
	cfg, err := config.Load(con.config)
	var mistakes *config.Errors
	if err != nil && !errors.As(err, &mistakes) {
		return badConfig(err)
	}
	var warnings []config.Problem
	if err == nil {
		if err := sameNation(cfg); err != nil {
			return err
		}
		warnings = append(cfg.Warnings(), unsigned(cfg)...)
	}
	if con.json {
		doc := struct {
			schema
			OK       bool      `json:"ok"`
			Problems []problem `json:"problems"`
			Warnings []problem `json:"warnings"`
		}{schema: schemaV1, OK: err == nil, Problems: []problem{}, Warnings: []problem{}}
		if mistakes != nil {
			doc.Problems = problems(mistakes.Problems)
		} else {
			doc.Warnings = problems(warnings)
		}
		if err := printJSON(con.stdout, doc); err != nil {
			return err
		}
	}
	if err != nil || con.json {
		return err
	}
	for _, w := range warnings {
		con.warnf("%s", w)
	}
	return printMeaning(con, cfg)
}

// runConfigReplicator prints YAML.
func runConfigReplicator(_ context.Context, _ struct{}, con *console) error {
	cfg, err := config.Load(con.config)
	if err != nil {
		return badConfig(err)
	}
	if con.json {
		return usage("config replicator prints YAML: leave --json out")
	}
	if cfg.Keyless() {
		return usage("%s has a nation_key already: run this on a machine that backs up", con.config)
	}
	if err := sameNation(cfg); err != nil {
		return err
	}
	state, err := embassy.OpenState(cfg.StateDir)
	if err != nil {
		return err
	}
	keys, err := state.Keys()
	if err != nil {
		return err
	}
	key, err := state.NewestKey()
	if err != nil {
		return err
	}
	r := config.Replicator{Nation: cfg.Nation, Key: key, Targets: cfg.Targets}
	listed := map[format.ID]bool{}
	for _, c := range cfg.Compartments {
		signed, err := keys.Named(c.Name)
		if err != nil {
			con.warnf("%s, and is left out: run embassy charter apply with the recovery kit", oneLine(err))
			continue
		}
		c.ID, listed[signed.ID] = signed.ID, true
		r.Compartments = append(r.Compartments, c)
	}
	for _, c := range keys.Charter.Compartments {
		if !listed[c.ID] {
			con.warnf("compartment %s of the charter is not in %s, and is left out: add it to what is printed, or it is not copied", c.ID, con.config)
		}
	}
	if len(r.Compartments) == 0 {
		return usage("no compartment of %s is in the charter: run embassy charter apply with the recovery kit", con.config)
	}
	slices.SortStableFunc(r.Compartments, func(a, b config.Compartment) int { return a.Rank - b.Rank })
	return config.WriteReplicator(con.stdout, r)
}

// unsigned warns of datasets that the charter of this machine does not have.
func unsigned(cfg *config.Config) []config.Problem {
	state, err := embassy.OpenState(cfg.StateDir)
	if err != nil {
		return nil // not set up yet
	}
	keys, err := state.Keys()
	if err != nil {
		return []config.Problem{{File: cfg.File, Message: oneLine(err)}}
	}
	var warnings []config.Problem
	for _, d := range cfg.Datasets {
		if _, err := findDataset(keys, d.Name); err != nil {
			warnings = append(warnings, config.Problem{File: cfg.File,
				Message: "the charter does not have the dataset " + d.Name, Hint: "run embassy charter apply with the recovery kit, or nothing of it is backed up"})
		}
	}
	return warnings
}

// printMeaning says in one screen what a configuration asks for.
func printMeaning(con *console, cfg *config.Config) error {
	w := table(con.stdout)
	fmt.Fprintf(w, "nation\t%s\nstate\t%s\n", cfg.Nation, cfg.StateDir)
	if cfg.Keyless() {
		fmt.Fprintf(w, "nation key\t%s: this machine copies and checks\n", cfg.NationKey)
	}
	if cfg.Kit != "" {
		fmt.Fprintf(w, "recovery kit\t%s\n", cfg.Kit)
	}
	if text := limitsText(cfg.Limits); text != "" {
		fmt.Fprintf(w, "limits\t%s, all targets together\n", text)
	}
	for _, t := range cfg.Targets {
		if text := limitsText(t.Limits); text != "" {
			fmt.Fprintf(w, "limits of %s\t%s\n", t.Name, text)
		}
	}
	fmt.Fprintf(w, "serve\t%s\n", serveText(cfg.Serve))
	for _, c := range cfg.Compartments {
		fmt.Fprintf(w, "\t\ncompartment %s\t%s\n", c.Name, c.Classification)
		if !c.ID.IsZero() {
			fmt.Fprintf(w, "  id\t%s, rank %d\n", c.ID, c.Rank)
		}
		for tier, names := range c.PACE.Tiers() {
			var stores []string
			for _, name := range names {
				t, _ := cfg.Target(name)
				stores = append(stores, fmt.Sprintf("%s (%s) %s", name, place(t.Jurisdiction), t.URL))
			}
			if len(stores) > 0 {
				fmt.Fprintf(w, "  %s\t%s\n", policy.Tier(tier), strings.Join(stores, ", "))
			}
		}
		fmt.Fprintf(w, "  commit\ta backup counts with %s\n", ruleText(c.Commit))
		for _, d := range cfg.Datasets {
			if d.Compartment == c.Name {
				fmt.Fprintf(w, "  dataset %s\t%s\n", d.Name, datasetText(d))
			}
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if cfg.Keyless() && len(cfg.Compartments) == 0 {
		con.notef("There are no compartments, so every one of the charter is copied to every target.")
	}
	if len(cfg.Datasets) == 0 && !cfg.Keyless() {
		con.warnf("there is no dataset, so nothing is backed up from this machine")
	}
	return nil
}

func place(jurisdiction string) string {
	if jurisdiction == "" {
		return "unknown jurisdiction"
	}
	return jurisdiction
}

// limitsText says what is sent and fetched at most; empty: anything.
func limitsText(l config.Limits) string {
	var words []string
	if l.Upload > 0 {
		words = append(words, "up "+size(uint64(l.Upload))+"/s")
	}
	if l.Download > 0 {
		words = append(words, "down "+size(uint64(l.Download))+"/s")
	}
	return strings.Join(words, ", ")
}

func serveText(s config.Serve) string {
	verify := s.VerifyLevel
	if verify == "sample" {
		verify = fmt.Sprintf("%.4g%%", 100*s.Sample)
	}
	if s.Repair {
		verify += " and repair"
	}
	return fmt.Sprintf("replicate %s; verify %s %s; renew locks %s; check targets %s; forget %s; prune %s; on %s",
		s.Replicate, verify, s.Verify, s.Locks, s.Check, s.Forget, s.Prune, s.Listen)
}

func ruleText(r policy.Rule) string {
	text := plural(uint64(r.Targets), "copy", "copies") + " in " + plural(uint64(r.Jurisdictions), "jurisdiction", "jurisdictions")
	if r.Guarded > 0 {
		text += fmt.Sprintf(", %d of them guarded", r.Guarded)
	}
	return text
}

func datasetText(d config.Dataset) string {
	from := strings.Join(d.Sources, ", ")
	switch {
	case !d.S3.IsZero():
		from = d.S3.URL
	case !d.Command.IsZero():
		from = "output of " + printable(strings.Join(d.Command.Args, " ")) + ", as " + d.Filename
	case d.Stdin:
		from = "input of embassy backup " + d.Name + ", as " + d.Filename
	}
	text := fmt.Sprintf("priority %d: %s", d.Priority, from)
	if !d.Schedule.IsZero() {
		text += "; " + d.Schedule.String()
	}
	if d.RPO > 0 {
		text += "; RPO " + length(d.RPO)
	}
	if d.RTO > 0 {
		text += "; RTO " + length(d.RTO)
	}
	if kept := retentionText(d.Retention); kept != "" {
		text += "; keep " + kept
	}
	return text
}

// retentionText says what embassy forget keeps; empty: everything.
func retentionText(r policy.Retention) string {
	if r.KeepsAll() {
		return ""
	}
	var words []string
	for _, rule := range []struct {
		name string
		n    int
	}{{"last", r.Last}, {"hourly", r.Hourly}, {"daily", r.Daily}, {"weekly", r.Weekly}, {"monthly", r.Monthly}, {"yearly", r.Yearly}} {
		if rule.n > 0 {
			words = append(words, fmt.Sprintf("%s %d", rule.name, rule.n))
		}
	}
	if r.Within > 0 {
		words = append(words, "within "+length(r.Within))
	}
	return strings.Join(append(words, "younger than "+length(r.MinAge)), ", ")
}
