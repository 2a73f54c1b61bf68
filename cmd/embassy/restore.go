package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"embassy/embassy"

	"github.com/urfave/cli/v2"
)

type restoreOptions struct {
	reader
	when
	all                            bool
	locations                      []location
	to                             string
	include, exclude               []string
	fastest, overwrite, privileged bool
}

func restoreCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:      "restore",
		Usage:     "bring datasets back, each object from the best tier that answers",
		ArgsUsage: "[DATASET[:PATH]...]",
		Flags: append(append(readerFlags(), whenFlags()...),
			&cli.StringFlag{Name: "to", Usage: "restore below `DIR`, as DIR/DATASET/SOURCE-PATH"},
			&cli.BoolFlag{Name: "all", Usage: "every dataset of the nation, by restore priority"},
			&cli.StringSliceFlag{Name: "include", Usage: "only what matches `PATTERN`, as in .gitignore; repeat it"},
			&cli.StringSliceFlag{Name: "exclude", Usage: "not what matches `PATTERN`; repeat it"},
			&cli.BoolFlag{Name: "fastest", Usage: "let all tiers share the load"},
			&cli.BoolFlag{Name: "overwrite", Usage: "allow a DIR that is not empty, and replace files in it"},
			&cli.BoolFlag{Name: "privileged", Usage: "restore what lends rights as well: setuid and setgid bits, devices, file capabilities"}),
		Action: action(con, decodeRestore, runRestore),
	}
}

func decodeRestore(c *cli.Context) (o restoreOptions, err error) {
	o = restoreOptions{
		reader: decodeReader(c), all: c.Bool("all"), to: c.String("to"),
		include: c.StringSlice("include"), exclude: c.StringSlice("exclude"),
		fastest: c.Bool("fastest"), overwrite: c.Bool("overwrite"), privileged: c.Bool("privileged"),
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
	case o.id != "" && o.id != "latest" && (o.all || len(o.datasets()) > 1):
		err = usage("--snapshot %s names a snapshot of one dataset: name only that dataset, or use --at TIME", o.id)
	}
	return o, err
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

func runRestore(ctx context.Context, o restoreOptions, con *console) (err error) {
	s, err := con.openSite()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	view, keys, err := s.openView(ctx, con, o.reader)
	if err != nil {
		return err
	}
	picked, without, err := pick(view, keys, o)
	if err != nil {
		return err
	}
	report, failure := view.Restore(ctx, embassy.RestoreOptions{
		Snapshots: picked, Paths: o.paths(), Include: o.include, Exclude: o.exclude, To: o.to,
		Overwrite: o.overwrite, Fastest: o.fastest, Privileged: o.privileged, Owners: os.Geteuid() == 0,
	})
	s.screen.close()
	if failure != nil && !errors.Is(failure, embassy.ErrIncomplete) {
		return failure
	}
	r := restored{report: report, without: without, complete: failure == nil && len(without) == 0}
	if r.complete && len(o.include) > 0 && r.empty() {
		fmt.Fprintf(con.stderr, "warning: nothing matches --include %s\n", strings.Join(o.include, ", --include "))
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
}

// empty reports whether nothing but folders came back.
func (r restored) empty() bool {
	found := false
	for _, d := range r.report.Datasets {
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
				names = append(names, d.Name)
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
}

func (r restored) print(out io.Writer, now time.Time) error {
	for _, d := range r.report.Datasets {
		w := table(out)
		fmt.Fprintf(out, "%s: snapshot %s of %s, %s old\n", d.Dataset, short(d.Snapshot), moment(d.Time), whole(now.Sub(d.Time)))
		fmt.Fprintf(w, "  restored\t%s, %s, %s to %s\n", plural(d.Files, "file", "files"), plural(d.Dirs, "folder", "folders"), size(d.Bytes), d.Dir)
		if d.Skipped > 0 {
			fmt.Fprintf(w, "  kept\t%s, already there and verified\n", plural(d.Skipped, "file", "files"))
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
	if !r.complete {
		missing := len(r.without)
		for _, d := range r.report.Datasets {
			missing += len(d.Missing)
		}
		return fmt.Sprintf("INCOMPLETE after %s: %s could not be restored, as listed above. Try again when more targets answer.",
			length(r.report.Elapsed), plural(uint64(missing), "item", "items"))
	}
	var files, bytes uint64
	gaps := 0
	for _, d := range r.report.Datasets {
		files, bytes, gaps = files+d.Files, bytes+d.Bytes, gaps+len(d.SourceGaps)
	}
	text := fmt.Sprintf("COMPLETE in %s: every byte that was asked for is restored and verified: %s, %s.",
		length(r.report.Elapsed), plural(files, "file", "files"), size(bytes))
	if gaps > 0 {
		text += fmt.Sprintf(" The snapshots lack %s that the source did not give.", plural(uint64(gaps), "item", "items"))
	}
	return text
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
	Served     []served   `json:"served"`
	Bad        []badCopy  `json:"bad_copies"`
	Missing    []gap      `json:"missing"`
	SourceGaps []gap      `json:"source_gaps"`
}

func (r restored) printJSON(out io.Writer) error {
	doc := struct {
		schema
		Complete bool             `json:"complete"`
		Seconds  float64          `json:"seconds"`
		Datasets []datasetRestore `json:"datasets"`
		Without  []string         `json:"datasets_without_snapshot"`
	}{schemaV1, r.complete, r.report.Elapsed.Seconds(), []datasetRestore{}, append([]string{}, r.without...)}
	for _, d := range r.report.Datasets {
		j := datasetRestore{
			Dataset: d.Dataset, Snapshot: d.Snapshot.String(), Time: stamp(d.Time), Dir: d.Dir,
			Files: d.Files, Dirs: d.Dirs, Bytes: d.Bytes, Skipped: d.Skipped,
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
