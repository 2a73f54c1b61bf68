package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"embassy/embassy"
	"embassy/embassy/config"

	"github.com/urfave/cli/v2"
)

type verifyOptions struct {
	embassy.VerifyOptions
	reader
	limits
}

func verifyCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:  "verify",
		Usage: "compare what the targets hold with what the ledgers list, and mend it; no key is needed",
		Description: "The levels, each of which does what the one before does:\n" +
			"  presence  every object that a ledger lists is there, and has its size\n" +
			"  sample    every byte of a share is read and its hash compared; each run takes the next share,\n" +
			"            so that twenty runs of 5% read everything\n" +
			"  full      every byte is read\n" +
			"  decrypt   every chunk is opened and every snapshot walked on each target alone; this needs the\n" +
			"            recovery kit, and finds what a captured agent wrote wrong\n\n" +
			"--repair takes what is bad or missing from a target that has it whole, byte for byte, and reads it back.\n" +
			"It writes nothing but what a ledger lists. What was found in its place is kept in the folder evidence of\n" +
			"the state directory, up to 1 GiB in all. A target that shows less than it showed gets that back too.\n\n" +
			"What was found bad stays in embassy status until a later run finds it mended. The exit code is 0 when all\n" +
			"is well or mended, 4 when a target was not verified to the end, and 5 when something bad is left.",
		Flags: append(append([]cli.Flag{
			&cli.StringFlag{Name: "level", Usage: "the `LEVEL`: presence, sample, full or decrypt", Value: embassy.Sample.String()},
			&cli.StringFlag{Name: "sample", Usage: "the `SHARE` that level sample reads", Value: "5%"},
			&cli.BoolFlag{Name: "repair", Usage: "mend what is bad or missing from another target"},
			&cli.StringSliceFlag{Name: "target", Aliases: []string{"to"}, Usage: "verify this `TARGET` only; may be repeated"},
		}, readerFlags()...), limitFlags()...),
		Action: action(con, decodeVerify, runVerify),
	}
}

func decodeVerify(c *cli.Context) (o verifyOptions, err error) {
	if err := noArguments(c); err != nil {
		return o, err
	}
	o.Repair, o.Targets, o.reader = c.Bool("repair"), c.StringSlice("target"), decodeReader(c)
	if o.Level, err = embassy.ParseVerifyLevel(c.String("level")); err != nil {
		return o, usage("--level %s", err)
	}
	if o.Share, err = config.ParseShare(c.String("sample")); err != nil {
		return o, usage("--sample %s", err)
	}
	if c.IsSet("sample") && o.Level != embassy.Sample {
		return o, usage("--sample means nothing with --level %s: leave one of them out", o.Level)
	}
	if c.IsSet("kit") && o.Level != embassy.Decrypt {
		return o, usage("--kit is for --level decrypt: the other levels need no key")
	}
	o.limits, err = decodeLimits(c)
	return o, err
}

func runVerify(ctx context.Context, o verifyOptions, con *console) error {
	if con.shared != nil && o.Level == embassy.Decrypt {
		return errDaemonReads
	}
	check := func(s *site) (err error) {
		if err := knownTargets(s.config, o.Targets...); err != nil || o.Level != embassy.Decrypt {
			return err
		}
		o.Keys, err = s.rootKeys(ctx, con, o.reader)
		return err
	}
	var report embassy.VerifyReport
	var file string
	err := con.using(o.limits, check, func(s *site, service *embassy.Service) (err error) {
		file = s.config.File
		report, err = service.Verify(ctx, o.VerifyOptions)
		return s.brief(err)
	})
	if err != nil {
		return err
	}
	for _, c := range report.Unplaced {
		con.warnf("compartment %s of the charter has no place in %s, and is not verified: add it to compartments", c, file)
	}
	if con.json {
		err = printVerifyJSON(con.stdout, report)
	} else {
		err = printVerify(con.stdout, report)
	}
	if err != nil {
		return err
	}
	return reported(report.Exit)
}

func printVerify(out io.Writer, r embassy.VerifyReport) error {
	w := table(out)
	fmt.Fprintln(w, "TARGET\tOBJECTS\tREAD\tBYTES\tBAD\tMENDED\tSTATE")
	for _, t := range r.Targets {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", t.Target, count(t.Listed), count(t.Read), size(t.Bytes),
			count(t.BadTotal), count(t.Repaired), verifiedState(t))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, t := range r.Targets {
		for i, b := range t.Bad {
			if i == gapsShown {
				fmt.Fprintf(out, "%s: %s bad; embassy --json verify names up to 1,000\n", t.Target, plural(t.BadTotal-gapsShown, "more object is", "more objects are"))
				break
			}
			end := ""
			if b.Repaired {
				end = ", mended"
			}
			fmt.Fprintf(out, "%s: %s: %s: %s%s\n", t.Target, b.Kind, title(b.Object), oneLine(b.Err), end)
		}
		printSome(out, t.Target+": cannot be restored from it alone: ", t.Harmed, t.HarmedTotal)
	}
	for i, l := range r.Lost {
		if i == gapsShown {
			fmt.Fprintf(out, "LOST: %s\n", plural(uint64(len(r.Lost)-gapsShown), "more object", "more objects"))
			break
		}
		by := ""
		if l.Seq > 0 {
			by = fmt.Sprintf(", of entry %d of chain %s", l.Seq, l.Chain)
		}
		fmt.Fprintf(out, "LOST on every target: %s%s\n", title(l.Object), by)
		printSome(out, "  used by ", l.Hits, uint64(len(l.Hits)))
	}
	_, err := fmt.Fprintf(out, "result: %s (exit code %d), in %s\n", verifyVerdict(r), r.Exit, length(r.Elapsed))
	return err
}

// printSome prints the first lines of so many.
func printSome(out io.Writer, before string, lines []string, of uint64) {
	for i, line := range lines {
		if i == gapsShown {
			fmt.Fprintf(out, "%s%s\n", before, plural(of-gapsShown, "more snapshot", "more snapshots"))
			return
		}
		fmt.Fprintf(out, "%s%s\n", before, oneLine(errors.New(line)))
	}
}

func verifiedState(t embassy.VerifiedTarget) string {
	var words []string
	if t.Classes > 0 {
		words = append(words, fmt.Sprintf("share %d of %d", t.Class+1, t.Classes))
	}
	left := t.Unmended()
	harmed := ""
	if t.HarmedTotal > 0 {
		harmed = plural(t.HarmedTotal, "snapshot", "snapshots") + " cannot be restored"
	}
	switch {
	case t.Err != nil:
		words = append(words, "not verified to the end: "+cause(t.Target, t.Err))
	case left == 0 && t.BadTotal > 0:
		words = append(words, "all mended")
	case left == 0 && harmed == "":
		words = append(words, "ok")
	}
	if left > 0 {
		words = append(words, plural(left, "bad object is left", "bad objects are left"))
	}
	if t.Lost > 0 {
		words = append(words, count(t.Lost)+" lost on every target")
	}
	if harmed != "" {
		words = append(words, harmed)
	}
	return strings.Join(words, ", ")
}

// verifyVerdict says what the exit code of a verification means.
func verifyVerdict(r embassy.VerifyReport) string {
	var bad, mended uint64
	var harmed []string
	for _, t := range r.Targets {
		bad, mended = bad+t.BadTotal, mended+t.Repaired
		if t.HarmedTotal > 0 {
			harmed = append(harmed, plural(t.HarmedTotal, "snapshot", "snapshots")+" cannot be restored from "+t.Target+" alone")
		}
	}
	switch {
	case r.Exit == 0 && bad > 0:
		return "everything that was bad is mended: " + plural(mended, "object", "objects")
	case r.Exit == 0:
		return "nothing bad was found"
	case r.Exit == 4:
		return "NOT COMPLETE: not everything was verified"
	case bad > mended:
		return "INTEGRITY FAILURE: " + plural(bad-mended, "bad object is left", "bad objects are left")
	case len(harmed) > 0:
		return "INTEGRITY FAILURE: " + strings.Join(harmed, ", ")
	}
	return "INTEGRITY FAILURE: a target must not be trusted, or a ledger contradicts itself; see embassy status"
}

// damaged is embassy.Damage in JSON.
type damaged struct {
	Object   string            `json:"object"`
	Kind     embassy.FaultKind `json:"kind"`
	Error    string            `json:"error"`
	Repaired bool              `json:"repaired"`
	Lost     bool              `json:"lost"`
}

// verifiedTarget is embassy.VerifiedTarget in JSON.
type verifiedTarget struct {
	Target   string    `json:"target"`
	Objects  uint64    `json:"objects"`
	Read     uint64    `json:"objects_read"`
	Bytes    uint64    `json:"bytes_read"`
	Share    uint64    `json:"share,omitempty"` // from 1
	Shares   uint64    `json:"shares,omitempty"`
	Bad      uint64    `json:"bad"`
	Repaired uint64    `json:"repaired"`
	Lost     uint64    `json:"lost"`
	Damage   []damaged `json:"damage"`           // at most 1,000
	Harmed   []string  `json:"snapshots_harmed"` // at most 1,000
	Harms    uint64    `json:"harmed"`
	Error    string    `json:"error,omitempty"`
	Hint     string    `json:"hint,omitempty"`
}

// lostObject is embassy.LostObject in JSON.
type lostObject struct {
	Object string   `json:"object"`
	Chain  string   `json:"chain,omitempty"`
	Entry  uint64   `json:"entry,omitempty"`
	Used   []string `json:"used_by"`
}

func printVerifyJSON(out io.Writer, r embassy.VerifyReport) error {
	doc := struct {
		schema
		Level    string           `json:"level"`
		Started  time.Time        `json:"started"`
		Seconds  float64          `json:"seconds"`
		Exit     int              `json:"exit_code"`
		Targets  []verifiedTarget `json:"targets"`
		Lost     []lostObject     `json:"lost"`
		Unplaced []string         `json:"unplaced_compartments"`
	}{schemaV1, r.Level.String(), r.Started.UTC(), r.Elapsed.Seconds(), r.Exit, []verifiedTarget{}, []lostObject{}, append([]string{}, r.Unplaced...)}
	for _, t := range r.Targets {
		j := verifiedTarget{
			Target: t.Target, Objects: t.Listed, Read: t.Read, Bytes: t.Bytes, Shares: t.Classes,
			Bad: t.BadTotal, Repaired: t.Repaired, Lost: t.Lost, Damage: []damaged{}, Harmed: append([]string{}, t.Harmed...), Harms: t.HarmedTotal,
		}
		if t.Classes > 0 {
			j.Share = t.Class + 1
		}
		for _, b := range t.Bad {
			j.Damage = append(j.Damage, damaged{b.Object, b.Kind, oneLine(b.Err), b.Repaired, b.Lost})
		}
		if t.Err != nil {
			j.Error, j.Hint = oneLine(t.Err), remedy(t.Err)
		}
		doc.Targets = append(doc.Targets, j)
	}
	for _, l := range r.Lost {
		j := lostObject{Object: l.Object, Entry: l.Seq, Used: append([]string{}, l.Hits...)}
		if l.Seq > 0 {
			j.Chain = l.Chain.String()
		}
		doc.Lost = append(doc.Lost, j)
	}
	return printJSON(out, doc)
}
