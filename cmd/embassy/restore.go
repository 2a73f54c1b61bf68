package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"embassy/embassy"
	"embassy/embassy/config"

	"github.com/urfave/cli/v2"
)

type restoreOptions struct {
	reader
	when
	limits
	all                         bool
	locations                   []location
	to                          string
	include, exclude, first     []string
	overwrite                   embassy.Overwrite
	fastest, privileged         bool
	deleting, dryRun, verifying bool
	owners                      embassy.Owners
}

// overwrites are the values of --overwrite.
var overwrites = map[string]embassy.Overwrite{
	"never": embassy.OverwriteNever, "if-changed": embassy.OverwriteIfChanged, "always": embassy.OverwriteAlways,
}

func restoreCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:      "restore",
		Usage:     "bring datasets back, each object from the best tier that answers",
		ArgsUsage: "[DATASET[:PATH]...]",
		Description: "A DIR that is not empty is refused, unless an interrupted restore of the same\n" +
			"snapshots left it: the same command goes on with that, and fetches only what is\n" +
			"not there. Otherwise say what becomes of the files in it:\n\n" +
			"  --overwrite never       every name that is there stays as it is, unseen\n" +
			"  --overwrite if-changed  a file of the same size and time is taken for the same\n" +
			"  --overwrite always      every byte that is there is compared\n\n" +
			"With the last two, files are mended in place, and --delete removes what the\n" +
			"snapshot does not have. Folders get the attributes that they had in any case.\n" +
			"Look before with --dry-run.",
		Flags: append(append(readerFlags(), whenFlags()...),
			&cli.StringFlag{Name: "to", Usage: "restore below `DIR`, as DIR/DATASET/SOURCE-PATH"},
			&cli.BoolFlag{Name: "all", Usage: "every dataset of the nation, by restore priority"},
			&cli.StringSliceFlag{Name: "include", Usage: "only what matches `PATTERN`, as in .gitignore; repeat it"},
			&cli.StringSliceFlag{Name: "exclude", Usage: "not what matches `PATTERN`; repeat it"},
			&cli.BoolFlag{Name: "fastest", Usage: "let all tiers share the load"},
			&cli.StringFlag{Name: "overwrite", Usage: "allow a DIR that is not empty; `WHEN` a file in it is replaced: never, if-changed, always"},
			&cli.BoolFlag{Name: "delete", Usage: "with --overwrite: remove from restored folders what the snapshot does not have, but nothing that was not asked for or is excluded"},
			&cli.BoolFlag{Name: "dry-run", Usage: "say what would be written, kept and deleted; touch nothing"},
			&cli.BoolFlag{Name: "verify", Usage: "read what was written once more, from the disk, and compare"},
			&cli.StringSliceFlag{Name: "first", Usage: "before all else in a dataset, what matches `PATTERN`; repeat it; instead of restore_first in the configuration"},
			limitFlag("download", "fetch"),
			&cli.StringFlag{Name: "owners", Usage: "`WHOSE` the files are: numbers, as in the snapshot (the default for root, who alone may give files away), or names, where this system has users and groups of these names"},
			&cli.BoolFlag{Name: "privileged", Usage: "restore what lends rights as well: setuid and setgid bits, devices, file capabilities"}),
		Action: action(con, decodeRestore, runRestore),
	}
}

func decodeRestore(c *cli.Context) (o restoreOptions, err error) {
	o = restoreOptions{
		reader: decodeReader(c), all: c.Bool("all"), to: c.String("to"),
		include: c.StringSlice("include"), exclude: c.StringSlice("exclude"),
		fastest: c.Bool("fastest"), privileged: c.Bool("privileged"), first: c.StringSlice("first"),
		deleting: c.Bool("delete"), dryRun: c.Bool("dry-run"), verifying: c.Bool("verify"),
	}
	if when := c.String("overwrite"); c.IsSet("overwrite") {
		known := false
		if o.overwrite, known = overwrites[when]; !known {
			return o, usage("--overwrite %s: say when a file that is there is replaced: never, if-changed or always", when)
		}
	}
	if o.owners, err = decodeOwners(c); err != nil {
		return o, err
	}
	if o.limits, err = decodeLimits(c); err != nil {
		return o, err
	}
	if o.when, err = decodeWhen(c); err != nil {
		return o, err
	}
	for _, arg := range c.Args().Slice() {
		l, err := parseLocation(arg)
		if err != nil {
			return o, err
		}
		o.locations = append(o.locations, l)
	}
	switch {
	case o.to == "":
		err = usage("name the folder to restore into with --to DIR")
	case o.all && len(o.locations) > 0:
		err = usage("--all restores every dataset, and %s is named besides: leave one of them out", o.locations[0].dataset)
	case !o.all && len(o.locations) == 0:
		err = usage("name the datasets to restore, or give --all for every one")
	case o.deleting && o.overwrite != embassy.OverwriteIfChanged && o.overwrite != embassy.OverwriteAlways:
		err = usage("--delete removes what the snapshot does not have: give it with --overwrite if-changed or --overwrite always")
	case o.dryRun && o.verifying:
		err = usage("--dry-run writes nothing that --verify could read: leave one of them out")
	case o.id != "" && o.id != "latest" && (o.all || len(o.datasets()) > 1):
		err = usage("--snapshot %s names a snapshot of one dataset: name only that dataset, or use --at TIME", o.id)
	}
	return o, err
}

// decodeOwners reads --owners. Who is not root owns what it restores.
func decodeOwners(c *cli.Context) (embassy.Owners, error) {
	how := c.String("owners")
	if how != "" && how != "numbers" && how != "names" {
		return 0, usage("--owners %s: give what is restored to the users of the same numbers, or of the same names", how)
	}
	owners := embassy.OwnersHere()
	switch {
	case how != "" && owners == embassy.OwnersLeft:
		return 0, usage("--owners: only root may give files to others; without it they belong to who restores")
	case how == "names":
		owners = embassy.OwnersByName
	}
	return owners, nil
}

// datasets returns the named datasets, each once.
func (o restoreOptions) datasets() []string {
	var names []string
	for _, l := range o.locations {
		if !slices.Contains(names, l.dataset) {
			names = append(names, l.dataset)
		}
	}
	return names
}

// paths returns what is wanted of each dataset; nothing means all of it.
func (o restoreOptions) paths() map[string][]string {
	paths := make(map[string][]string)
	whole := make(map[string]bool)
	for _, l := range o.locations {
		whole[l.dataset] = whole[l.dataset] || l.path == ""
		paths[l.dataset] = append(paths[l.dataset], l.path)
	}
	for dataset := range whole {
		if whole[dataset] {
			delete(paths, dataset)
		}
	}
	return paths
}

func runRestore(ctx context.Context, o restoreOptions, con *console) error {
	return con.viewing(ctx, o.limits, o.open, nil, func(s *site, view *embassy.View, keys *embassy.Keys) error {
		picked, without, err := pick(view, keys, o)
		if err != nil {
			return err
		}
		report, failure := view.Restore(ctx, embassy.RestoreOptions{
			Snapshots: picked, Paths: o.paths(), Include: o.include, Exclude: o.exclude, To: o.to,
			Overwrite: o.overwrite, Delete: o.deleting, DryRun: o.dryRun, Verify: o.verifying, First: o.firsts(s.config, picked),
			Fastest: o.fastest, Privileged: o.privileged, Owners: o.owners,
		})
		s.screen.close()
		o.record(s, con, picked, failure)
		if failure != nil && !errors.Is(failure, embassy.ErrIncomplete) {
			return failure
		}
		r := restored{report: report, without: without, complete: failure == nil && len(without) == 0, dryRun: o.dryRun}
		if r.complete && len(o.include) > 0 && r.empty() {
			con.warnf("nothing matches --include %s", strings.Join(o.include, ", --include "))
			r.complete, r.nothing = false, true
		}
		if con.json {
			err = r.printJSON(con.stdout)
		} else {
			err = r.print(con.stdout, time.Now())
		}
		if err != nil || r.complete {
			return err
		}
		return outcome(1)
	})
}

// record tells the audit log how a restore ended.
func (o restoreOptions) record(s *site, con *console, picked []embassy.SnapshotInfo, failure error) {
	outcome := "complete"
	if failure != nil {
		outcome = oneLine(failure)
	}
	facts := []string{"to", o.to}
	for _, p := range picked {
		facts = append(facts, "dataset", p.Summary.Dataset, "snapshot", p.Hash.String())
	}
	if !o.dryRun {
		s.record(con, embassy.DidRestore, outcome, facts...)
	}
}

// firsts returns what comes first in each dataset.
func (o restoreOptions) firsts(cfg *config.Config, picked []embassy.SnapshotInfo) map[string][]string {
	first := map[string][]string{}
	for _, s := range picked {
		first[s.Summary.Dataset] = o.first
	}
	for _, d := range cfg.Datasets {
		if len(o.first) == 0 {
			first[d.Name] = d.RestoreFirst
		}
	}
	return first
}

// empty reports whether nothing but folders came back.
func (r restored) empty() bool {
	found := false
	for _, d := range r.report.Datasets {
		found = found || d.Written.Count+d.Skipped+d.Left > 0
		err := filepath.WalkDir(d.Dir, func(_ string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			found = true
			return fs.SkipAll
		})
		found = found || err != nil && !errors.Is(err, fs.ErrNotExist) // nobody knows
	}
	return !found
}

// pick returns the snapshots to restore, by priority, and the datasets that
// have none.
func pick(view *embassy.View, keys *embassy.Keys, o restoreOptions) (picked []embassy.SnapshotInfo, without []string, err error) {
	names := o.datasets()
	if o.all {
		for _, c := range keys.Compartments {
			for _, d := range c.Part.Datasets {
				if !slices.Contains(names, d.Name) { // it moved to another compartment
					names = append(names, d.Name)
				}
			}
		}
	}
	for _, name := range names {
		if _, err := findDataset(keys, name); err != nil {
			return nil, nil, err
		}
		if o.all && len(view.Snapshots(name)) == 0 {
			without = append(without, name)
			continue
		}
		info, err := view.Pick(name, o.id, o.at)
		if err != nil {
			return nil, nil, err
		}
		picked = append(picked, info)
	}
	if len(picked) == 0 {
		return nil, nil, errors.New("the answering targets show no snapshot to restore")
	}
	slices.SortStableFunc(picked, func(a, b embassy.SnapshotInfo) int {
		return cmp.Or(cmp.Compare(a.Summary.Priority, b.Summary.Priority), cmp.Compare(a.Summary.Dataset, b.Summary.Dataset))
	})
	return picked, without, nil
}

// restored is the outcome of a restore for a person.
type restored struct {
	report   embassy.RestoreReport
	without  []string // datasets of which no snapshot was found
	complete bool
	nothing  bool // what was asked for is not in the snapshots
	dryRun   bool
}

func (r restored) print(out io.Writer, now time.Time) error {
	for _, d := range r.report.Datasets {
		w := table(out)
		fmt.Fprintf(out, "%s: snapshot %s of %s, %s old\n", d.Dataset, short(d.Snapshot), moment(d.Time), whole(now.Sub(d.Time)))
		if r.dryRun {
			fmt.Fprintf(w, "  would hold\t%s, %s, %s in %s\n", plural(d.Files, "file", "files"), plural(d.Dirs, "folder", "folders"), size(d.Bytes), d.Dir)
			printNames(w, "would write", d.Written)
		} else {
			fmt.Fprintf(w, "  restored\t%s, %s, %s to %s\n", plural(d.Files, "file", "files"), plural(d.Dirs, "folder", "folders"), size(d.Bytes), d.Dir)
		}
		if n := d.Skipped - d.Trusted; n > 0 {
			fmt.Fprintf(w, "  kept\t%s, already there and verified\n", plural(n, "file", "files"))
		}
		if d.Trusted > 0 {
			fmt.Fprintf(w, "  kept\t%s, already there by size and time\n", plural(d.Trusted, "file", "files"))
		}
		if d.Left > 0 {
			fmt.Fprintf(w, "  left\t%s that were there, as they are\n", plural(d.Left, "name", "names"))
		}
		if d.ReadBack > 0 {
			fmt.Fprintf(w, "  read back\t%s, as written\n", size(d.ReadBack))
		}
		if r.dryRun {
			printNames(w, "would delete", d.Deleted)
		} else {
			printNames(w, "deleted", d.Deleted)
		}
		for _, s := range d.Served {
			fmt.Fprintf(w, "  %s\t%s served %s in %s\n", s.Tier, s.Target, size(s.Bytes), plural(s.Objects, "read", "reads"))
		}
		for _, b := range badCopies(d.Bad) {
			served := "; others served instead"
			if len(d.Missing) > 0 {
				served = "" // not all of them
			}
			fmt.Fprintf(w, "  bad copies\t%s on %s%s\n", count(b.Copies), b.Target, served)
		}
		printGaps(w, "MISSING", d.Missing)
		printGaps(w, "not in source", d.SourceGaps)
		if err := w.Flush(); err != nil {
			return err
		}
	}
	for _, name := range r.without {
		fmt.Fprintf(out, "%s: MISSING, the answering targets show no snapshot of it\n", name)
	}
	_, err := fmt.Fprintf(out, "\n%s\n", r.verdict())
	return err
}

// verdict is the last line.
func (r restored) verdict() string {
	if r.nothing {
		return "NOTHING was restored: the snapshots hold no such file."
	}
	if !r.complete && r.dryRun {
		return "DRY RUN: not all that was asked for could be restored, as listed above; nothing was touched."
	}
	if !r.complete {
		missing, absent := len(r.without), 0
		for _, d := range r.report.Datasets {
			missing, absent = missing+len(d.Missing), absent+d.Absent
		}
		advice := "Try again when more targets answer."
		switch {
		case r.report.Stopped != nil:
			advice = "What is restored stays: mend what stopped it, and the same command goes on."
		case len(r.without) == missing:
			advice = "If all targets answered, none counts: it was never backed up, or its agent was revoked (embassy charter show)."
		case absent == missing:
			advice = "See embassy ls for what the snapshots hold."
		}
		return fmt.Sprintf("INCOMPLETE after %s: %s could not be restored, as listed above. %s",
			length(r.report.Elapsed), plural(uint64(missing), "item", "items"), advice)
	}
	var files, bytes, trusted, left, written, wrote, deleted uint64
	gaps := 0
	for _, d := range r.report.Datasets {
		files, bytes, gaps = files+d.Files, bytes+d.Bytes, gaps+len(d.SourceGaps)
		trusted, left = trusted+d.Trusted, left+d.Left
		written, wrote, deleted = written+d.Written.Count, wrote+d.Wrote, deleted+d.Deleted.Count
	}
	if r.dryRun {
		return fmt.Sprintf("DRY RUN in %s: %s with %s would be written, %s deleted; nothing was touched.",
			length(r.report.Elapsed), plural(written, "name", "names"), size(wrote), plural(deleted, "name", "names"))
	}
	text := fmt.Sprintf("COMPLETE in %s: every byte that was asked for is restored and verified: %s, %s.",
		length(r.report.Elapsed), plural(files, "file", "files"), size(bytes))
	if trusted > 0 {
		text += fmt.Sprintf(" Of %s only size and time were compared.", plural(trusted, "file", "files"))
	}
	if left > 0 {
		text += fmt.Sprintf(" Not so %s that were there: they were left as they are, and not looked into.", plural(left, "name", "names"))
	}
	if gaps > 0 {
		text += fmt.Sprintf(" The snapshots lack %s that the source did not give.", plural(uint64(gaps), "item", "items"))
	}
	return text
}

// printNames lists the first names under a heading.
func printNames(w io.Writer, heading string, n embassy.Names) {
	for i, name := range n.First {
		if i == gapsShown {
			break
		}
		fmt.Fprintf(w, "  %s\t%s\n", heading, printable(name))
	}
	if shown := uint64(min(len(n.First), gapsShown)); n.Count > shown {
		fmt.Fprintf(w, "  %s\tand %d more\n", heading, n.Count-shown)
	}
}

// badCount is how many bad copies one target had.
type badCount struct {
	Target string `json:"target"`
	Copies uint64 `json:"copies"`
}

func badCopies(findings []embassy.Finding) []badCount {
	out := []badCount{}
	for _, f := range findings {
		i := slices.IndexFunc(out, func(b badCount) bool { return b.Target == f.Target })
		if i < 0 {
			i, out = len(out), append(out, badCount{Target: f.Target})
		}
		out[i].Copies++
	}
	return out
}

// served is embassy.Served in JSON.
type served struct {
	Target  string `json:"target"`
	Tier    string `json:"tier"`
	Objects uint64 `json:"reads"`
	Bytes   uint64 `json:"bytes"`
}

// badCopy is a finding in JSON.
type badCopy struct {
	Target string `json:"target"`
	Object string `json:"object"`
	Error  string `json:"error"`
}

// names is embassy.Names in JSON.
type names struct {
	Count uint64 `json:"count"`
	First []path `json:"first"`
}

func newNames(n embassy.Names) names {
	out := names{n.Count, []path{}}
	for _, name := range n.First {
		out.First = append(out.First, newPath(name))
	}
	return out
}

// datasetRestore is embassy.DatasetRestore in JSON.
type datasetRestore struct {
	Dataset    string     `json:"dataset"`
	Snapshot   string     `json:"snapshot,omitempty"`
	Time       *time.Time `json:"time"`
	Dir        string     `json:"dir,omitempty"`
	Files      uint64     `json:"files"`
	Dirs       uint64     `json:"folders"`
	Bytes      uint64     `json:"bytes"`
	Skipped    uint64     `json:"files_kept"`
	Trusted    uint64     `json:"files_kept_by_time"`
	Left       uint64     `json:"names_left"`
	Written    names      `json:"written"`
	Wrote      uint64     `json:"bytes_written"`
	Deleted    names      `json:"deleted"`
	ReadBack   uint64     `json:"bytes_read_back"`
	Served     []served   `json:"served"`
	Bad        []badCopy  `json:"bad_copies"`
	Missing    []gap      `json:"missing"`
	SourceGaps []gap      `json:"source_gaps"`
}

func (r restored) printJSON(out io.Writer) error {
	doc := struct {
		schema
		Complete bool             `json:"complete"`
		DryRun   bool             `json:"dry_run"`
		Seconds  float64          `json:"seconds"`
		Datasets []datasetRestore `json:"datasets"`
		Without  []string         `json:"datasets_without_snapshot"`
	}{schemaV1, r.complete, r.dryRun, r.report.Elapsed.Seconds(), []datasetRestore{}, append([]string{}, r.without...)}
	for _, d := range r.report.Datasets {
		j := datasetRestore{
			Dataset: d.Dataset, Snapshot: d.Snapshot.String(), Time: stamp(d.Time), Dir: d.Dir,
			Files: d.Files, Dirs: d.Dirs, Bytes: d.Bytes, Skipped: d.Skipped,
			Trusted: d.Trusted, Left: d.Left, Written: newNames(d.Written), Wrote: d.Wrote, Deleted: newNames(d.Deleted), ReadBack: d.ReadBack,
			Served: []served{}, Bad: []badCopy{}, Missing: gaps(d.Missing), SourceGaps: gaps(d.SourceGaps),
		}
		for _, s := range d.Served {
			j.Served = append(j.Served, served{s.Target, s.Tier.String(), s.Objects, s.Bytes})
		}
		for _, f := range d.Bad {
			j.Bad = append(j.Bad, badCopy{f.Target, f.Object, message(f.Err)})
		}
		doc.Datasets = append(doc.Datasets, j)
	}
	return printJSON(out, doc)
}
