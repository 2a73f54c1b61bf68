package embassy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"embassy/embassy/format"
)

var (
	// ErrIncomplete is wrapped by the error of a restore that did not write
	// every byte asked for.
	ErrIncomplete = errors.New("restore is incomplete")
	// ErrNotEmpty: the folder to restore into holds something else.
	ErrNotEmpty = errors.New("folder is not empty")
)

const (
	markerName = ".embassy-restore"
	markerLine = "An unfinished restore; the same command resumes it, and removes this file at its end."
	maxMarker  = 1 << 20 // bytes
)

// RestoreOptions say what to restore and where.
type RestoreOptions struct {
	Snapshots []SnapshotInfo      // in the order in which they are to be restored; one per dataset
	Paths     map[string][]string // per dataset: only these absolute source paths and what lies below; none: all
	Include   []string            // gitignore patterns: only what they match, and what lies below; none: all
	Exclude   []string            // gitignore patterns: neither what they match nor what lies below
	To        string              // folder; made if it does not exist
	Overwrite bool                // accept a folder that is not empty, and replace files in it
	Fastest   bool                // all tiers share the load
	Setuid    bool                // keep setuid and setgid bits of files
	Owners    bool                // set owners, which only a superuser may
}

// Restore writes the snapshots below To, each as
// To/<dataset>/<absolute source path>. The folder must be empty, unless
// Overwrite is set, or an interrupted restore of the same snapshots left it:
// then files that are there and right are verified and kept. Nothing outside
// To is written, whatever a snapshot holds.
//
// One dataset does not stop the others. The error wraps ErrIncomplete unless
// every byte asked for is right; the report is valid either way. ErrNotEmpty
// and errors about To itself come before anything is written.
func (v *View) Restore(ctx context.Context, o RestoreOptions) (RestoreReport, error) {
	start := v.now()
	var report RestoreReport
	if err := checkRestore(o); err != nil {
		return report, err
	}
	to, fresh, err := openFolder(o)
	if err != nil {
		return report, err
	}
	defer to.Close()
	if err := to.WriteFile(markerName, marker(o.Snapshots), 0o600); err != nil {
		return report, fmt.Errorf("restore into %s: %w", o.To, err)
	}
	var broken []string
	var fatal error
	for _, s := range o.Snapshots {
		d := DatasetRestore{
			Dataset: s.Summary.Dataset, Snapshot: s.Hash, Time: s.Summary.When(),
			Dir: filepath.Join(o.To, s.Summary.Dataset),
		}
		if fatal == nil {
			fatal = v.restoreDataset(ctx, to, s, o, fresh, &d)
		} else {
			d.Missing = []format.Gap{{Path: []byte("/"), Reason: "not begun: " + fatal.Error()}}
		}
		if n := len(s.Newer); n > 0 {
			d.Missing = append(d.Missing, format.Gap{Path: []byte("/"), Reason: fmt.Sprintf(
				"may not be the latest state: %d later snapshots, such as %s, are committed, and no target that answers gives them whole", n, s.Newer[0])})
		}
		if len(d.Missing) > 0 {
			broken = append(broken, d.Dataset)
		}
		report.Datasets = append(report.Datasets, d)
	}
	report.Elapsed = v.now().Sub(start)
	if fatal != nil {
		return report, fmt.Errorf("%w: %w", ErrIncomplete, fatal)
	}
	if len(broken) > 0 {
		return report, fmt.Errorf("%w: %s", ErrIncomplete, strings.Join(broken, ", "))
	}
	if err := to.Remove(markerName); err != nil {
		return report, fmt.Errorf("restore into %s: %w", o.To, err)
	}
	return report, nil
}

func checkRestore(o RestoreOptions) error {
	if len(o.Snapshots) == 0 {
		return fmt.Errorf("%w: nothing to restore", ErrNoSnapshot)
	}
	seen := map[string]bool{}
	for _, s := range o.Snapshots {
		name := s.Summary.Dataset
		if seen[name] {
			return fmt.Errorf("dataset %s was asked for twice: restore its snapshots into different folders", name)
		}
		if !localName(name) || name == markerName {
			return fmt.Errorf("dataset %q: not a name for a folder", name)
		}
		seen[name] = true
	}
	return nil
}

// localName reports whether the system takes the name as one plain name.
func localName(name string) bool {
	return filepath.IsLocal(name) && name != "." && !strings.ContainsAny(name, "/\x00") &&
		!strings.ContainsRune(name, filepath.Separator)
}

// openFolder opens To, and reports whether nothing was in it. It refuses a
// folder that holds anything but an interrupted restore of the same.
func openFolder(o RestoreOptions) (*os.Root, bool, error) {
	if err := os.MkdirAll(o.To, 0o755); err != nil {
		return nil, false, fmt.Errorf("restore into %s: %w", o.To, err)
	}
	to, err := os.OpenRoot(o.To)
	if err != nil {
		return nil, false, fmt.Errorf("restore into %s: %w", o.To, err)
	}
	fresh, err := vacant(to)
	if err == nil && !fresh && !o.Overwrite {
		err = resumable(to, o)
	}
	if err != nil {
		to.Close()
		return nil, false, err
	}
	return to, fresh, nil
}

func vacant(to *os.Root) (bool, error) {
	f, err := to.Open(".")
	if err != nil {
		return false, err
	}
	defer f.Close()
	_, err = f.ReadDir(1)
	if err == io.EOF {
		return true, nil
	}
	return false, err
}

// resumable returns nil if the folder is that of an interrupted restore of the
// same snapshots.
func resumable(to *os.Root, o RestoreOptions) error {
	f, err := to.Open(markerName)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w: name another one, or add --overwrite to replace files in it", o.To, ErrNotEmpty)
	}
	if err != nil {
		return fmt.Errorf("restore into %s: %w", o.To, err)
	}
	defer f.Close()
	was, err := io.ReadAll(io.LimitReader(f, maxMarker))
	if err != nil {
		return fmt.Errorf("restore into %s: %w", o.To, err)
	}
	if string(was) != string(marker(o.Snapshots)) {
		return fmt.Errorf("%s: %w: it holds an unfinished restore of other snapshots; name the same ones to resume, name another folder, or add --overwrite", o.To, ErrNotEmpty)
	}
	return nil
}

// marker names the snapshots of a restore, in whatever order they come.
func marker(snapshots []SnapshotInfo) []byte {
	var lines []string
	for _, s := range snapshots {
		lines = append(lines, s.Hash.String()+" "+s.Summary.Dataset)
	}
	slices.Sort(lines)
	return []byte(markerLine + "\n" + strings.Join(lines, "\n") + "\n")
}

// restoreDataset restores one snapshot and fills its report. The error is for
// what stops the other datasets too: the end of ctx, or a full disk.
func (v *View) restoreDataset(ctx context.Context, to *os.Root, s SnapshotInfo, o RestoreOptions, fresh bool, d *DatasetRestore) error {
	meter := newMeter(v.progress, v.now, "restore", d.Dataset)
	defer meter.end()
	meter.add(func(p *Progress) { p.FilesTotal, p.BytesTotal = s.Summary.Files, s.Summary.Bytes })
	t := newTally(meter)
	defer func() { d.Served, d.Bad = t.list(), t.bad }()
	lost := func(err error) error {
		d.Missing = append(d.Missing, format.Gap{Path: []byte("/"), Reason: err.Error()})
		return ctx.Err()
	}
	r, err := v.open(ctx, s, t, o.Fastest)
	if err != nil {
		return lost(err)
	}
	defer r.close()
	d.SourceGaps = r.root.Errors
	chosen, err := newSelection(o.Paths[d.Dataset], o.Include, o.Exclude)
	if err != nil {
		return lost(err)
	}
	w := newRestorer(to, r, o, fresh, meter, d)
	err = w.run(ctx, chosen)
	w.tellUnset()
	if err != nil {
		w.missing("/", "not finished: "+err.Error())
	}
	return err
}
