package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"embassy/embassy"

	"github.com/urfave/cli/v2"
)

type replicateOptions struct {
	embassy.ReplicateOptions
	limits
}

func replicateCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:  "replicate",
		Usage: "bring every target to what any of them has; no key is needed",
		Description: "Every target gets the sealed objects and ledger entries that it lacks, from any target that has them,\n" +
			"the compartments of the lowest rank first. Nothing is decrypted, so it runs with the nation's public key\n" +
			"alone: embassy config replicator prints the configuration for such a machine. Stopped anywhere, the same\n" +
			"command goes on where it was; a dead target holds up no other.\n\n" +
			"Where the configuration asks a target for object locks, those that end within half of the period are\n" +
			"extended afterwards.\n\n" +
			"To share the work among machines, give each its part: --shard 0/3, --shard 1/3, --shard 2/3.\n\n" +
			"BEHIND counts the entries of all ledgers that a target still lacks. The exit code is 0 when every target\n" +
			"has everything, 4 when something is left behind or a compartment of the charter is not placed by the\n" +
			"configuration, and 5 when a target lies or gave a bad copy.",
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "shard", Usage: "do part `I/N` of the work; parts count from 0"},
			&cli.StringSliceFlag{Name: "to", Usage: "copy to this `TARGET` only; may be repeated"},
			&cli.BoolFlag{Name: "dry-run", Usage: "say what would be copied and how long it would take, but copy nothing"},
		}, limitFlags()...),
		Action: action(con, decodeReplicate, runReplicate),
	}
}

func decodeReplicate(c *cli.Context) (o replicateOptions, err error) {
	if err := noArguments(c); err != nil {
		return o, err
	}
	o.Targets, o.DryRun = c.StringSlice("to"), c.Bool("dry-run")
	if c.IsSet("shard") {
		if o.Shard, o.Shards, err = parseShard(c.String("shard")); err != nil {
			return o, err
		}
	}
	o.limits, err = decodeLimits(c)
	return o, err
}

// parseShard reads I/N. Parts count from 0, as schedulers number their jobs.
func parseShard(text string) (part, parts int, err error) {
	first, second, _ := strings.Cut(text, "/")
	part, partErr := strconv.Atoi(first)
	parts, partsErr := strconv.Atoi(second)
	if partErr != nil || partsErr != nil || part < 0 || part >= parts {
		return 0, 0, usage("--shard %q is no part of the work: write I/N with I from 0 to N-1, such as 0/3", text)
	}
	return part, parts, nil
}

func runReplicate(ctx context.Context, o replicateOptions, con *console) error {
	var report embassy.ReplicateReport
	var locks embassy.LockReport
	var file string
	check := func(s *site) error { return knownTargets(s.config, o.Targets...) }
	err := con.using(o.limits, check, func(s *site, service *embassy.Service) (err error) {
		file = s.config.File
		if report, err = service.Replicate(ctx, o.ReplicateOptions); err == nil && !o.DryRun && o.Shard == 0 { // one machine is enough for it
			locks, err = service.RenewLocks(ctx)
		}
		return s.brief(err)
	})
	if err != nil {
		return err
	}
	for _, c := range report.Unplaced {
		con.warnf("compartment %s of the charter has no place in %s, and is not copied: add it to compartments", c, file)
	}
	if con.json {
		err = printReplicateJSON(con, report, locks)
	} else if err = printReplicate(con, report); err == nil {
		err = printLocks(con, locks)
	}
	if err != nil {
		return err
	}
	return reported(report.Exit, locks.Exit)
}

// printLocks tells of the targets whose configuration asks for object locks.
func printLocks(con *console, r embassy.LockReport) error {
	for _, t := range r.Targets {
		text := "none ends soon"
		if !t.Earliest.IsZero() {
			text = "the first ends " + t.Earliest.UTC().Format(time.DateOnly)
		}
		if t.Doubtful > 0 {
			text += fmt.Sprintf("; %s NOT LOCKED: something else was written over them, run embassy verify --repair", plural(t.Doubtful, "object", "objects"))
		}
		if t.Denied > 0 {
			text += fmt.Sprintf("; %s DENIED: these credentials may not extend locks", plural(t.Denied, "object", "objects"))
		}
		if t.Err != nil {
			text = "NOT RENEWED: " + cause(t.Target, t.Err)
		}
		if _, err := fmt.Fprintf(con.stdout, "locks on %s: %s extended of %s; %s\n", t.Target, count(t.Extended), count(t.Objects), text); err != nil {
			return err
		}
	}
	return nil
}

// replicateMeaning says what the exit code of a replication means.
var replicateMeaning = map[int]string{
	0: "done: every target has everything",
	4: "NOT COMPLETE: something is left behind, or has no place",
	5: "INTEGRITY FAILURE: a target lies, or gave a bad copy; see embassy status",
}

func printReplicate(con *console, r embassy.ReplicateReport) error {
	w := table(con.stdout)
	verb, extra := "COPIED", ""
	if r.DryRun {
		verb, extra = "TO COPY", "TIME\t"
	}
	fmt.Fprintf(w, "TARGET\t%s\tBYTES\tENTRIES\tBEHIND\t%sSTATE\n", verb, extra)
	for _, t := range r.Targets {
		if r.DryRun {
			extra = estimate(t) + "\t"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s%s\n", t.Target, plural(t.Objects, "object", "objects"), size(t.Bytes),
			count(t.Entries), count(t.Behind), extra, replicatedState(t))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	verdict := replicateMeaning[r.Exit]
	if r.DryRun && r.Exit == 0 {
		verdict = "dry run, nothing copied"
	}
	_, err := fmt.Fprintf(con.stdout, "result: %s (exit code %d), in %s\n", verdict, r.Exit, length(r.Elapsed))
	return err
}

// estimate says how long the copying to a target would take.
func estimate(t embassy.ReplicatedTarget) string {
	switch {
	case t.Objects == 0:
		return "-"
	case t.Estimate == 0:
		return "not measured yet"
	}
	return "about " + length(t.Estimate.Round(time.Second))
}

func replicatedState(t embassy.ReplicatedTarget) string {
	switch {
	case t.Err != nil:
		return "behind: " + cause(t.Target, t.Err)
	case t.Behind > 0:
		return "behind"
	}
	return "has everything"
}

// replicatedTarget is embassy.ReplicatedTarget in JSON.
type replicatedTarget struct {
	Target   string  `json:"target"`
	Objects  uint64  `json:"objects"`
	Bytes    uint64  `json:"bytes"`
	Entries  uint64  `json:"entries"`
	Behind   uint64  `json:"entries_behind"`
	Estimate float64 `json:"estimate_seconds,omitempty"`
	Error    string  `json:"error,omitempty"`
	Hint     string  `json:"hint,omitempty"`
}

// lockedTarget is embassy.LockedTarget in JSON.
type lockedTarget struct {
	Target   string     `json:"target"`
	Objects  uint64     `json:"objects"`
	Extended uint64     `json:"extended"`
	Denied   uint64     `json:"denied"`
	Earliest *time.Time `json:"earliest"`
	Error    string     `json:"error,omitempty"`
}

func printReplicateJSON(con *console, r embassy.ReplicateReport, locks embassy.LockReport) error {
	doc := struct {
		schema
		DryRun   bool               `json:"dry_run"`
		Started  time.Time          `json:"started"`
		Seconds  float64            `json:"seconds"`
		Exit     int                `json:"exit_code"`
		Unplaced []string           `json:"unplaced_compartments"`
		Targets  []replicatedTarget `json:"targets"`
		Locks    []lockedTarget     `json:"locks"`
	}{schemaV1, r.DryRun, r.Started.UTC(), r.Elapsed.Seconds(), r.Exit, append([]string{}, r.Unplaced...), []replicatedTarget{}, []lockedTarget{}}
	for _, t := range r.Targets {
		j := replicatedTarget{Target: t.Target, Objects: t.Objects, Bytes: t.Bytes, Entries: t.Entries, Behind: t.Behind, Estimate: t.Estimate.Seconds()}
		if t.Err != nil {
			j.Error, j.Hint = oneLine(t.Err), remedy(t.Err)
		}
		doc.Targets = append(doc.Targets, j)
	}
	for _, t := range locks.Targets {
		doc.Locks = append(doc.Locks, lockedTarget{t.Target, t.Objects, t.Extended, t.Denied, stamp(t.Earliest), message(t.Err)})
	}
	return printJSON(con.stdout, doc)
}
