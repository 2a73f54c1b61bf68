package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"embassy/embassy"
	"embassy/embassy/config"
	"embassy/embassy/policy"

	"github.com/urfave/cli/v2"
)

func forgetCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:      "forget",
		Usage:     "retire the snapshots that no rule keeps; needs no passphrase on the steward",
		ArgsUsage: "[DATASET...]",
		Description: "Each series, which is what one agent backs up of one dataset, is looked at by itself. What stays is what the\n" +
			"retention of the dataset in the configuration says, or the flags, which replace it:\n\n" +
			"  embassy forget --dry-run\n" +
			"  embassy forget --last 7 --daily 30 --monthly 12 people\n\n" +
			"A dataset without a retention keeps everything. Always kept are the newest snapshot and the newest complete\n" +
			"one of a series, what is younger than --min-age, what is pinned (embassy snapshots pin), all of a dataset under\n" +
			"a hold (embassy dataset hold), and a snapshot whose date does not fit its place in its chain, which takes no\n" +
			"other's place. Hours, days, weeks, months and years are those of UTC, and the newest snapshot of each stays.\n\n" +
			"What is forgotten is seen no more, and nothing brings it back. Its data stay on the targets until embassy\n" +
			"prune has run twice. Only the steward of a compartment forgets.",
		Flags: []cli.Flag{
			keepFlag("last", "keep the newest `N` snapshots"), bucketFlag("hourly", "hours"), bucketFlag("daily", "days"),
			bucketFlag("weekly", "weeks"), bucketFlag("monthly", "months"), bucketFlag("yearly", "years"),
			&cli.StringFlag{Name: "within", Usage: "keep what is younger than the newest by less than `D`, such as 48h, 14d or 8w"},
			&cli.StringFlag{Name: "min-age", Usage: "keep what is younger than `D`; 0 for no such bound (default: as configured, which is 14d unless given)"},
			&cli.BoolFlag{Name: "dry-run", Usage: "say what would be forgotten, and why the rest stays, but forget nothing"},
		},
		Action: action(con, decodeForget, runForget),
	}
}

func keepFlag(name, text string) cli.Flag {
	return &cli.IntFlag{Name: name, Usage: text, DefaultText: "as configured"}
}

func bucketFlag(name, what string) cli.Flag {
	return keepFlag(name, "keep the newest of each of the newest `N` "+what+" that have one")
}

func decodeForget(c *cli.Context) (o embassy.ForgetOptions, err error) {
	o.Datasets, o.DryRun = c.Args().Slice(), c.Bool("dry-run")
	var r policy.Retention
	given := false
	for _, f := range []struct {
		name string
		n    *int
	}{{"last", &r.Last}, {"hourly", &r.Hourly}, {"daily", &r.Daily}, {"weekly", &r.Weekly}, {"monthly", &r.Monthly}, {"yearly", &r.Yearly}} {
		if *f.n = c.Int(f.name); *f.n < 0 {
			return o, usage("--%s %d: write how many to keep", f.name, *f.n)
		}
		given = given || c.IsSet(f.name)
	}
	if c.IsSet("within") {
		given = true
		if r.Within, err = parseAge("within", c.String("within")); err != nil {
			return o, err
		}
	}
	if given && r.KeepsAll() {
		return o, usage("that keeps nothing: write how many to keep, such as --last 7 --daily 30 --monthly 12, or none of these flags, for what is configured")
	}
	if given {
		o.Keep = &r
	}
	if c.IsSet("min-age") {
		age, err := parseAge("min-age", c.String("min-age"))
		if err != nil {
			return o, err
		}
		o.MinAge = &age
	}
	return o, nil
}

// parseAge reads a length of time as the configuration has it, or 0.
func parseAge(flag, text string) (time.Duration, error) {
	if text == "0" {
		return 0, nil
	}
	d, err := config.ParseDuration(text)
	if err != nil {
		return 0, usage("--%s: %s; write a number with s, m, h, d or w, such as 36h or 14d", flag, err)
	}
	return d, nil
}

func runForget(ctx context.Context, o embassy.ForgetOptions, con *console) error {
	var report embassy.ForgetReport
	err := con.using(limits{}, nil, func(s *site, service *embassy.Service) (err error) {
		report, err = service.Forget(ctx, o)
		for _, d := range forgetDeeds(report) {
			s.record(con, d.did, d.outcome, d.facts...)
		}
		return s.brief(err)
	})
	if err != nil {
		return err
	}
	if con.json {
		err = printForgetJSON(con.stdout, report)
	} else {
		err = printForget(con, report)
	}
	if err != nil {
		return err
	}
	return reported(report.Exit)
}

// forgetDeeds is one for each dataset that something was forgotten of.
func forgetDeeds(r embassy.ForgetReport) (deeds []deed) {
	if r.DryRun || r.Forgotten == 0 {
		return nil
	}
	gone, all := map[string][]string{}, map[string]uint64{}
	var datasets []string
	for _, j := range r.Snapshots {
		name := j.Summary.Dataset
		if all[name]++; len(j.Keep) > 0 {
			continue
		}
		if len(gone[name]) == 0 {
			datasets = append(datasets, name)
		}
		gone[name] = append(gone[name], j.Hash.String()[:16])
	}
	for _, name := range datasets {
		deeds = append(deeds, deed{embassy.DidForget, fmt.Sprintf("%d of %s", len(gone[name]), plural(all[name], "snapshot", "snapshots")),
			[]string{"dataset", name, "snapshots", strings.Join(gone[name], " ")}})
	}
	return deeds
}

func printForget(con *console, r embassy.ForgetReport) error {
	if len(r.Snapshots) == 0 {
		con.notef("There is no snapshot.")
		return nil
	}
	list := make([]embassy.SnapshotInfo, len(r.Snapshots))
	for i, j := range r.Snapshots {
		list[i] = j.SnapshotInfo
	}
	digits, now, verb := idDigits(list), time.Now(), "FORGOTTEN"
	if r.DryRun {
		verb = "TO BE FORGOTTEN"
	}
	w := table(con.stdout)
	fmt.Fprintln(w, "DATASET\tAGENT\tSNAPSHOT\tTIME (UTC)\tAGE\tKEPT")
	for _, j := range r.Snapshots {
		why := verb
		if len(j.Keep) > 0 {
			why = printable(strings.Join(j.Keep, ", "))
		}
		m := j.Summary
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", m.Dataset, j.Agent.String()[:8], j.Hash.String()[:digits], moment(m.When()), whole(now.Sub(m.When())), why)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(con.stdout, "result: %s (exit code %d), in %s\n", forgetVerdict(r), r.Exit, length(r.Elapsed))
	return err
}

// forgotten is how many go, or, in a dry run, would.
func forgotten(r embassy.ForgetReport) int {
	n := 0
	for _, j := range r.Snapshots {
		if len(j.Keep) == 0 {
			n++
		}
	}
	return n
}

// forgetVerdict is the line of totals.
func forgetVerdict(r embassy.ForgetReport) string {
	gone := forgotten(r)
	kept, text := uint64(len(r.Snapshots)-gone), ""
	switch {
	case gone == 0:
		text = "nothing to forget: " + plural(kept, "snapshot", "snapshots") + " kept"
	case r.DryRun:
		text = fmt.Sprintf("dry run, nothing forgotten: %s would be, %s kept", plural(uint64(gone), "snapshot", "snapshots"), count(kept))
	default:
		text = fmt.Sprintf("%s forgotten, %s kept; the data stay on the targets until embassy prune has run twice",
			plural(uint64(r.Forgotten), "snapshot", "snapshots"), count(kept))
	}
	if r.Exit != 0 {
		text += "; NOT COMPLETE, see the warnings"
	}
	return text
}

// judged is embassy.Judged in JSON.
type judged struct {
	snapshot
	Keep []string `json:"keep"` // why it stays; none: it is forgotten
}

func printForgetJSON(out io.Writer, r embassy.ForgetReport) error {
	doc := struct {
		schema
		DryRun    bool      `json:"dry_run"`
		Started   time.Time `json:"started"`
		Seconds   float64   `json:"seconds"`
		Exit      int       `json:"exit_code"`
		Forgotten int       `json:"forgotten"` // of a dry run: would be
		Snapshots []judged  `json:"snapshots"`
	}{schemaV1, r.DryRun, r.Started.UTC(), r.Elapsed.Seconds(), r.Exit, forgotten(r), []judged{}}
	for _, j := range r.Snapshots {
		doc.Snapshots = append(doc.Snapshots, judged{newSnapshot(j.SnapshotInfo), append([]string{}, j.Keep...)})
	}
	return printJSON(out, doc)
}
