package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"embassy/embassy"
	"embassy/embassy/config"

	"github.com/urfave/cli/v2"
)

// usualPrune is how a prune goes when nobody says otherwise.
var usualPrune = embassy.PruneOptions{Grace: 7 * 24 * time.Hour, MaxRemove: 0.5, JoinAfter: 14 * 24 * time.Hour}

type pruneOptions struct {
	embassy.PruneOptions
	reader
	repack bool
}

func pruneCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:      "prune",
		Usage:     "delete from the targets what no snapshot uses, in two runs; needs no passphrase on the steward",
		ArgsUsage: "[COMPARTMENT...]",
		Description: "One run marks what no snapshot that is left uses, and every agent learns of it before it signs again. A later\n" +
			"run deletes what was marked at least --grace ago, once every agent that is active has said that it knows, and\n" +
			"still nothing uses it. Each run does both, so run it every day, or whenever you like: backups and replications\n" +
			"beside it are safe, and one that is stopped anywhere is gone on with by the next.\n\n" +
			"A target loses nothing while it lacks what the snapshots that are left need, and nothing that an object lock\n" +
			"still keeps. If more than --max-remove of what a target has were to go, nothing goes there: look at the\n" +
			"numbers with --dry-run, and run it again with a greater share if they are meant. What a join or a repack\n" +
			"moved does not count.\n\n" +
			"Each run also joins short packs of many small backups into full ones, once they are --join-after old: most\n" +
			"younger ones go by themselves when their snapshots are forgotten. That needs no key, and keeps start-up and\n" +
			"listings short.\n\n" +
			"What is not used any more, but shares a pack with what is, goes by --repack alone: it copies what is used out\n" +
			"of packs with much waste, the most wasteful first, until waste is 2% of what is used. Which chunks are used\n" +
			"only a reader can tell: it takes the recovery kit, shares or a reader key, and no daemon may run meanwhile.\n" +
			"Run it now and then, say once a month after embassy forget, when a dry run shows that it frees enough:\n\n" +
			"  embassy prune --repack --dry-run\n" +
			"  embassy prune --repack --max-repack 50GiB\n\n" +
			"Joined and repacked packs are replaced before they are marked, and go with a later run as all that is marked:\n" +
			"until then a target holds both.\n\n" +
			"WAITING counts what is marked and may not be deleted yet; the lines below say for what. Only the steward of a\n" +
			"compartment prunes, with credentials that may delete: embassy target check --print-policy steward.",
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "grace", Usage: "delete what was marked at least `D` ago, such as 36h or 7d, or 0", Value: whole(usualPrune.Grace)},
			&cli.StringFlag{Name: "max-remove", Usage: "delete nothing on a target of which more than this `SHARE` would go", Value: fmt.Sprintf("%.0f%%", 100*usualPrune.MaxRemove)},
			&cli.StringFlag{Name: "join-after", Usage: "join short packs that are at least `D` old, such as 36h or 7d, or 0", Value: whole(usualPrune.JoinAfter)},
			&cli.BoolFlag{Name: "repack", Usage: "also rewrite packs of which much is not used any more; needs a reader's key"},
			&cli.StringFlag{Name: "max-repack", Usage: "with --repack: copy at most `SIZE` in one run, such as 50GiB (default: no bound)"},
			&cli.BoolFlag{Name: "dry-run", Usage: "say what would be marked, joined, repacked and deleted, but change nothing"},
		}, readerFlags()...),
		Action: action(con, decodePrune, runPrune),
	}
}

func decodePrune(c *cli.Context) (o pruneOptions, err error) {
	o.Compartments, o.DryRun, o.repack, o.reader = c.Args().Slice(), c.Bool("dry-run"), c.Bool("repack"), decodeReader(c)
	if o.Grace, err = parseAge("grace", c.String("grace")); err != nil {
		return o, err
	}
	if o.JoinAfter, err = parseAge("join-after", c.String("join-after")); err != nil {
		return o, err
	}
	if o.MaxRemove, err = config.ParseShare(c.String("max-remove")); err != nil {
		return o, usage("--max-remove %s; write a share such as 50%%", err)
	}
	for _, name := range []string{"max-repack", "kit", "share", "reader-key"} {
		if c.IsSet(name) && !o.repack {
			return o, usage("--%s is for --repack: all else that prune does needs no key", name)
		}
	}
	if c.IsSet("max-repack") {
		most, err := config.ParseSize(c.String("max-repack"))
		if err != nil {
			return o, usage("--max-repack: %s; write bytes with a unit, such as 500MB or 50GiB", err)
		}
		o.MaxRepack = uint64(most)
	}
	return o, nil
}

func runPrune(ctx context.Context, o pruneOptions, con *console) error {
	if con.shared != nil && o.repack {
		return errDaemonReads
	}
	keys := func(s *site) (err error) {
		if o.repack {
			o.Readers, err = s.rootKeys(ctx, con, o.reader)
		}
		return err
	}
	var report embassy.PruneReport
	err := con.using(limits{}, keys, func(s *site, service *embassy.Service) (err error) {
		report, err = service.Prune(ctx, o.PruneOptions)
		for _, d := range pruneDeeds(o.PruneOptions, report, err) {
			s.record(con, d.did, d.outcome, d.facts...)
		}
		return s.brief(err)
	})
	if err != nil {
		return err
	}
	if con.json {
		err = printPruneJSON(con.stdout, report)
	} else {
		err = printPrune(con.stdout, report)
	}
	if err != nil {
		return err
	}
	return reported(report.Exit)
}

// pruneDeeds is one for each compartment in which a deletion was ordered, one for
// what went of earlier orders, and one for each repack, however it ended.
func pruneDeeds(o embassy.PruneOptions, r embassy.PruneReport, failure error) (deeds []deed) {
	if o.DryRun {
		return nil
	}
	did := func(did embassy.Did, outcome string, facts ...string) {
		deeds = append(deeds, deed{did, outcome, facts})
	}
	if repack := o.Readers != nil; repack && failure != nil {
		did(embassy.DidRepack, "not finished: "+oneLine(failure))
	} else if repack {
		for _, c := range r.Compartments {
			outcome := plural(c.Repacked, "pack", "packs") + " rewritten"
			if c.Err != nil {
				outcome = "not finished: " + oneLine(c.Err)
			}
			did(embassy.DidRepack, outcome, "compartment", c.Compartment,
				"bytes", fmt.Sprint(c.RepackedBytes), "used", fmt.Sprint(c.RepackedLive))
		}
	}
	var targets []string
	for _, t := range r.Targets {
		if t.Objects > 0 {
			targets = append(targets, fmt.Sprintf("%s (%d objects, %d bytes)", t.Target, t.Objects, t.Bytes))
		}
	}
	facts := []string{"grace", whole(o.Grace), "targets", dash(strings.Join(targets, ", "))}
	ordered := false
	for _, c := range r.Compartments {
		if c.Deletable > 0 {
			ordered = true
			did(embassy.DidPrune, plural(c.Deletable, "object", "objects")+" ordered to be deleted",
				append([]string{"compartment", c.Compartment}, facts...)...)
		}
	}
	if !ordered && len(targets) > 0 {
		did(embassy.DidPrune, "deleted what was ordered before", facts...)
	}
	return deeds
}

func printPrune(out io.Writer, r embassy.PruneReport) error {
	marked, joined, repacked, deletable, deleted := "MARKED", "JOINED", "REPACKED", "ORDERED", "DELETED"
	if r.DryRun {
		marked, joined, repacked, deletable, deleted = "TO MARK", "TO JOIN", "TO REPACK", "TO ORDER", "TO DELETE"
	}
	w := table(out)
	fmt.Fprintf(w, "COMPARTMENT\tLIVE\t%s\tBYTES\tWAITING\t%s\t%s\t%s\tSTATE\n", marked, deletable, joined, repacked)
	for _, c := range r.Compartments {
		state, short, waste := "ok", "-", "-"
		if c.Err != nil {
			state = "NOT DONE: " + oneLine(c.Err)
		}
		if c.Joined > 0 {
			short = fmt.Sprintf("%s into %s", plural(c.Joined, "pack", "packs"), count(c.JoinedInto))
		}
		if c.Repacked > 0 {
			waste = fmt.Sprintf("%s, %s to %s", plural(c.Repacked, "pack", "packs"), size(c.RepackedBytes), size(c.RepackedLive))
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", c.Compartment, plural(c.Live, "pack", "packs"), plural(c.Marked, "object", "objects"),
			size(c.MarkedBytes), count(c.Waiting), count(c.Deletable), short, waste, printable(state))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, c := range r.Compartments {
		for _, why := range c.Waits {
			fmt.Fprintf(out, "%s: waits for %s\n", c.Compartment, printable(why))
		}
	}
	w = table(out)
	fmt.Fprintf(w, "\nTARGET\t%s\tBYTES\tSHARE\tLOCKED\tUNTIL (UTC)\tSTATE\n", deleted)
	for _, t := range r.Targets {
		until, state := "-", "ok"
		if !t.Until.IsZero() {
			until = moment(t.Until)
		}
		if t.Err != nil {
			state = "NOT DONE: " + cause(t.Target, t.Err)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", t.Target, plural(t.Objects, "object", "objects"), size(t.Bytes), share(t.Bytes, t.Before),
			count(t.Locked), until, printable(state))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "result: %s (exit code %d), in %s\n", pruneVerdict(r), r.Exit, length(r.Elapsed))
	return err
}

// share is a part of a whole in percent.
func share(part, whole uint64) string {
	if whole == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f%%", 100*float64(part)/float64(whole))
}

// pruneVerdict says what a run did, and what its exit code means.
func pruneVerdict(r embassy.PruneReport) string {
	var waiting, locked uint64
	for _, c := range r.Compartments {
		waiting += c.Marked + c.Waiting + c.Joined + c.Repacked
	}
	for _, t := range r.Targets {
		locked += t.Locked
	}
	switch {
	case r.Exit == 5:
		return "INTEGRITY FAILURE: a target or a ledger must not be trusted; see embassy status"
	case r.Exit != 0:
		return "NOT COMPLETE: not everything was done, as the tables say; the next run goes on"
	case r.DryRun:
		return "dry run, nothing was changed"
	case waiting > 0:
		return fmt.Sprintf("done; %s for a later run", plural(waiting, "object is marked, and waits", "objects are marked, and wait"))
	case locked > 0:
		return fmt.Sprintf("done; %s a lock, as the table says, and a later run deletes them", plural(locked, "copy waits for the end of", "copies wait for the end of"))
	}
	return "done; nothing waits"
}

// prunedCompartment is embassy.PrunedCompartment in JSON.
type prunedCompartment struct {
	Compartment   string   `json:"compartment"`
	Live          uint64   `json:"live_packs"`
	Marked        uint64   `json:"marked"`
	MarkedBytes   uint64   `json:"bytes_marked"`
	Waiting       uint64   `json:"waiting"`
	Deletable     uint64   `json:"deletable"`
	Joined        uint64   `json:"joined"` // packs; of a dry run: would be
	JoinedInto    uint64   `json:"joined_into"`
	Repacked      uint64   `json:"repacked"` // packs; of a dry run: would be
	RepackedBytes uint64   `json:"bytes_repacked"`
	RepackedLive  uint64   `json:"bytes_repacked_used"` // of them; they are copied
	Waits         []string `json:"waits_for"`
	Error         string   `json:"error,omitempty"`
}

// prunedTarget is embassy.PrunedTarget in JSON.
type prunedTarget struct {
	Target  string     `json:"target"`
	Objects uint64     `json:"deleted"` // of a dry run: would be
	Bytes   uint64     `json:"bytes_deleted"`
	Before  uint64     `json:"bytes_before"`
	Locked  uint64     `json:"locked"`
	Until   *time.Time `json:"locked_until"` // null when nothing is
	Error   string     `json:"error,omitempty"`
	Hint    string     `json:"hint,omitempty"`
}

func printPruneJSON(out io.Writer, r embassy.PruneReport) error {
	doc := struct {
		schema
		DryRun       bool                `json:"dry_run"`
		Started      time.Time           `json:"started"`
		Seconds      float64             `json:"seconds"`
		Exit         int                 `json:"exit_code"`
		Compartments []prunedCompartment `json:"compartments"`
		Targets      []prunedTarget      `json:"targets"`
	}{schemaV1, r.DryRun, r.Started.UTC(), r.Elapsed.Seconds(), r.Exit, []prunedCompartment{}, []prunedTarget{}}
	for _, c := range r.Compartments {
		doc.Compartments = append(doc.Compartments, prunedCompartment{
			c.Compartment, c.Live, c.Marked, c.MarkedBytes, c.Waiting, c.Deletable,
			c.Joined, c.JoinedInto, c.Repacked, c.RepackedBytes, c.RepackedLive, append([]string{}, c.Waits...), message(c.Err),
		})
	}
	for _, t := range r.Targets {
		j := prunedTarget{Target: t.Target, Objects: t.Objects, Bytes: t.Bytes, Before: t.Before, Locked: t.Locked, Until: stamp(t.Until)}
		if t.Err != nil {
			j.Error, j.Hint = oneLine(t.Err), remedy(t.Err)
		}
		doc.Targets = append(doc.Targets, j)
	}
	return printJSON(out, doc)
}
