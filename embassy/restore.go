package embassy

import (
	"context"
	"crypto/sha256"
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
	markerNew  = markerName + ".new" // being written
	markerLine = "An unfinished restore; the same command resumes it, and removes this file at its end."
	markerKeep = "An unfinished restore that keeps what was there; the same command resumes it, and removes this file at its end."
	maxMarker  = 1 << 20 // bytes
	nameCost   = 4 << 10 // bytes that a file or folder may take beside its content
)

// Overwrite says what becomes of what is there under a name to be restored.
// Folders are always taken as they are, and get the attributes that they had.
type Overwrite uint8

const (
	// OverwriteRefuse accepts no folder that is not empty, unless an
	// interrupted restore of the same snapshots left it.
	OverwriteRefuse Overwrite = iota
	// OverwriteNever keeps every other name that is there as it is.
	OverwriteNever
	// OverwriteIfChanged is OverwriteAlways, but takes a file of the same size
	// and modification time for the same.
	OverwriteIfChanged
	// OverwriteAlways compares every byte that is there, and writes what differs.
	OverwriteAlways
)

// Owners say whose the restored names are. Only a superuser may give them to
// others.
type Owners int

// Owners of a restored name.
const (
	OwnersLeft     Owners = iota // the user who restores
	OwnersByNumber               // as in the snapshot
	OwnersByName                 // as in the snapshot, where this system knows no user or group of the name
)

// OwnersHere are those that this user may set, as in the snapshot.
func OwnersHere() Owners {
	if os.Geteuid() == 0 {
		return OwnersByNumber
	}
	return OwnersLeft
}

// RestoreOptions say what to restore and where.
type RestoreOptions struct {
	Snapshots []SnapshotInfo      // in the order in which they are to be restored; one per dataset
	Paths     map[string][]string // per dataset: only these absolute source paths and what lies below; none: all
	Include   []string            // gitignore patterns: only what they match, and what lies below; none: all
	Exclude   []string            // gitignore patterns: neither what they match nor what lies below
	To        string              // folder; made if it does not exist
	Overwrite Overwrite           // what becomes of what is there
	Fastest   bool                // all tiers share the load
	FoldNames bool                // take names that differ in case only for the same, as some systems do
	// Privileged restores what lends rights as well: setuid and setgid bits of
	// files, devices, and attributes such as file capabilities.
	Privileged bool
	Owners     Owners
	// Delete removes what is in a restored folder and not in that of the
	// snapshot, as far as it is asked for by Paths, Include and Exclude. It takes
	// OverwriteIfChanged or OverwriteAlways. Links are never followed.
	Delete bool
	DryRun bool // report what would be written, kept and deleted; touch nothing, not even To
	// Verify reads what was written once more, from the disk where the system
	// lets it, and compares. What differs is removed, and missing.
	Verify bool
	// First is, per dataset, gitignore patterns of what comes before all else in
	// it. A pattern that does not begin with a slash matches at any depth.
	First map[string][]string
}

// Restore writes the snapshots below To, each as
// To/<dataset>/<absolute source path>. The folder must be empty, but for other
// datasets of the nation, unless Overwrite says what becomes of what is there,
// or an interrupted restore of the same snapshots left it: then files that are
// there and right are verified and kept. Nothing outside To is written or
// deleted, whatever a snapshot holds.
//
// One dataset does not stop the others, and one that may fill the disk comes
// after them. The error wraps ErrIncomplete unless every byte asked for is
// right and durable; the report is valid either way. ErrNotEmpty, errors about
// To itself, and format.ErrSealedToOthers where keys are limited, come before
// anything is written.
func (v *View) Restore(ctx context.Context, o RestoreOptions) (RestoreReport, error) {
	start := v.now()
	var report RestoreReport
	if err := checkRestore(o); err != nil {
		return report, err
	}
	if err := v.openable(ctx, o.Snapshots); err != nil {
		return report, err
	}
	dest, err := v.destination(o)
	if err != nil {
		return report, err
	}
	if dest.root != nil {
		defer dest.root.Close()
	}
	report.Datasets = make([]DatasetRestore, len(o.Snapshots))
	var broken []string
	var fatal error
	one := func(i int) {
		s, d := o.Snapshots[i], &report.Datasets[i]
		*d = DatasetRestore{
			Dataset: s.Summary.Dataset, Snapshot: s.Hash, Time: s.Summary.When(),
			Dir: filepath.Join(o.To, s.Summary.Dataset),
		}
		if fatal == nil {
			fatal = v.restoreDataset(ctx, dest, s, o, d)
		} else {
			d.Missing = []format.Gap{{Path: []byte("/"), Reason: "not begun: " + fatal.Error()}}
		}
		if later := s.Later(); later != "" {
			d.Missing = append(d.Missing, format.Gap{Path: []byte("/"), Reason: later})
		}
		if len(d.Missing) > 0 {
			broken = append(broken, d.Dataset)
		}
	}
	var late []int
	for i, s := range o.Snapshots {
		if fatal == nil && dest.root != nil && !v.fits(o.To, s.Summary) {
			late = append(late, i)
			continue
		}
		one(i)
	}
	for _, i := range late {
		one(i)
	}
	report.Elapsed = v.now().Sub(start)
	if report.Stopped = fatal; fatal != nil {
		return report, fmt.Errorf("%w: %w", ErrIncomplete, fatal)
	}
	if len(broken) > 0 {
		return report, fmt.Errorf("%w: %s", ErrIncomplete, strings.Join(broken, ", "))
	}
	if o.DryRun {
		return report, nil
	}
	if err := syncAll(dest.root); err != nil {
		return report, fmt.Errorf("%w: make %s durable: %w", ErrIncomplete, o.To, err)
	}
	if err := dest.unmark(o); err != nil {
		return report, fmt.Errorf("restore into %s: %w", o.To, err)
	}
	return report, nil
}

// destination is a folder to restore into.
type destination struct {
	root  *os.Root            // nil: it does not exist, and nothing is to be written
	fresh bool                // nothing was there
	torn  bool                // an unfinished restore was there, so that a time proves nothing
	other string              // the marker of an unfinished restore of something else
	bare  bool                // nothing gets an attribute by itself
	fold  func(string) string // names with one result are the same to the system; nil: if equal
}

// destination opens To, and marks it unless nothing is to be written.
func (v *View) destination(o RestoreOptions) (destination, error) {
	d, err := openFolder(o, v.beside(o))
	if err != nil {
		return destination{}, err
	}
	if !o.DryRun {
		if err := writeMarker(d.root, marker(o)+d.other); err != nil {
			d.root.Close()
			return destination{}, fmt.Errorf("restore into %s: %w", o.To, err)
		}
	}
	d.bare = d.fresh && d.root != nil && !inherits(d.root)
	d.fold = folding(d.root, o.FoldNames)
	return d, nil
}

// fits reports whether what a snapshot says to hold surely fits on the disk.
func (v *View) fits(to string, s format.Summary) bool {
	free, err := freeBytes(to)
	if err != nil {
		v.warn(Finding{Object: "folder " + to, Err: fmt.Errorf("ask for its free space: %w", err)})
		return true
	}
	// The numbers are the writer's, so that their sum may overflow an integer.
	need := float64(s.Bytes) + nameCost*(float64(s.Files)+float64(s.Dirs)+float64(s.Others))
	if need <= float64(free) {
		return true
	}
	v.warn(Finding{Object: "dataset " + s.Dataset,
		Err: fmt.Errorf("comes after the others: it may need %.1f MiB, and %s has %.1f MiB free", need/(1<<20), to, float64(free)/(1<<20))})
	return false
}

func checkRestore(o RestoreOptions) error {
	if len(o.Snapshots) == 0 {
		return fmt.Errorf("%w: nothing to restore", ErrNoSnapshot)
	}
	if o.Delete && o.Overwrite != OverwriteIfChanged && o.Overwrite != OverwriteAlways {
		return errors.New("to delete what a snapshot does not have, say that files may be overwritten, if changed or always")
	}
	seen := map[string]bool{}
	for _, s := range o.Snapshots {
		name := s.Summary.Dataset
		if seen[name] {
			return fmt.Errorf("dataset %s was asked for twice: restore its snapshots into different folders", name)
		}
		if !datasetFolder(name) {
			return fmt.Errorf("dataset %q: not a name for a folder", name)
		}
		seen[name] = true
	}
	return nil
}

// datasetFolder reports whether a dataset of that name can be restored.
func datasetFolder(name string) bool {
	return localName(name) && !strings.HasPrefix(strings.ToLower(name), markerName)
}

// localName reports whether the system takes the name as one plain name.
func localName(name string) bool {
	return filepath.IsLocal(name) && name != "." && !strings.ContainsAny(name, "/\x00") &&
		!strings.ContainsRune(name, filepath.Separator)
}

// beside returns the datasets of the charter that are not asked for. What was
// restored of them may lie in the same folder: the most urgent comes first.
func (v *View) beside(o RestoreOptions) map[string]bool {
	names := map[string]bool{}
	for _, c := range v.keys.Compartments {
		for _, d := range c.Part.Datasets {
			names[d.Name] = true
		}
	}
	for _, s := range o.Snapshots {
		delete(names, s.Summary.Dataset)
	}
	return names
}

// openFolder opens To, and looks what is in it but the folders beside. It
// refuses one that holds anything else, unless Overwrite accepts it or that is
// an interrupted restore of the same.
func openFolder(o RestoreOptions, beside map[string]bool) (destination, error) {
	if !o.DryRun {
		if err := os.MkdirAll(o.To, 0o755); err != nil {
			return destination{}, fmt.Errorf("restore into %s: %w", o.To, err)
		}
	}
	to, err := os.OpenRoot(o.To)
	if o.DryRun && errors.Is(err, fs.ErrNotExist) {
		return destination{fresh: true}, nil
	}
	if err != nil {
		return destination{}, fmt.Errorf("restore into %s: %w", o.To, err)
	}
	d := destination{root: to}
	d.fresh, err = vacant(to, beside)
	if err == nil && !d.fresh {
		d.torn, d.other, err = acceptable(to, o)
	}
	if err != nil {
		to.Close()
		return destination{}, err
	}
	return d, nil
}

func vacant(to *os.Root, beside map[string]bool) (bool, error) {
	f, err := to.Open(".")
	if err != nil {
		return false, err
	}
	defer f.Close()
	entries, err := f.ReadDir(len(beside) + 2)
	if err != nil && err != io.EOF {
		return false, err
	}
	for _, e := range entries {
		if e.Name() != markerNew && !(e.IsDir() && beside[e.Name()]) {
			return false, nil
		}
	}
	return len(entries) < len(beside)+2, nil
}

// acceptable returns nil if a folder that is not empty may be restored into,
// whether an unfinished restore is in it, and what the marker says of others
// than this one.
func acceptable(to *os.Root, o RestoreOptions) (torn bool, other string, err error) {
	was, err := readMarker(to)
	own, rest, _ := strings.Cut(was, markerAlso)
	switch {
	case errors.Is(err, fs.ErrNotExist) && o.Overwrite == OverwriteRefuse:
		return false, "", fmt.Errorf("%s: %w: name another one, or say with --overwrite never, if-changed or always what becomes of the files in it", o.To, ErrNotEmpty)
	case errors.Is(err, fs.ErrNotExist):
		return false, "", nil
	case err != nil:
		return false, "", fmt.Errorf("restore into %s: %w", o.To, err)
	case o.Overwrite == OverwriteNever && (!strings.HasPrefix(was, markerKeep) || rest != ""):
		return false, "", fmt.Errorf("%s: %w: it holds an unfinished restore, of which no file may be kept unseen; resume it with the command that began it, or give --overwrite if-changed", o.To, ErrNotEmpty)
	case o.Overwrite == OverwriteRefuse && own != marker(o):
		return false, "", fmt.Errorf("%s: %w: it holds an unfinished restore of other snapshots, or one with --overwrite never; give the same command to resume, name another folder, or add --overwrite", o.To, ErrNotEmpty)
	case own != marker(o):
		return true, markerAlso + was, nil
	case rest != "":
		return true, markerAlso + rest, nil
	}
	return true, "", nil
}

// markerAlso stands before the marker of another restore that is unfinished.
const markerAlso = "Before it began:\n"

// unmark removes the marker of a restore that is complete. That of another one
// stays, unless all of its datasets are right now.
func (d destination) unmark(o RestoreOptions) error {
	other, covered := strings.TrimPrefix(d.other, markerAlso), len(o.Paths)+len(o.Include)+len(o.Exclude) == 0
	for line := range strings.Lines(other) {
		hash, dataset, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if _, err := format.ParseHash(hash); err == nil {
			covered = covered && slices.ContainsFunc(o.Snapshots, func(s SnapshotInfo) bool { return s.Summary.Dataset == dataset })
		}
	}
	if other == "" || covered && o.Overwrite != OverwriteNever {
		return d.root.Remove(markerName)
	}
	return writeMarker(d.root, other)
}

// marker names the snapshots of a restore, in whatever order they come, and
// what is asked for of them.
func marker(o RestoreOptions) string {
	var lines []string
	for _, s := range o.Snapshots {
		lines = append(lines, s.Hash.String()+" "+s.Summary.Dataset)
	}
	slices.Sort(lines)
	if len(o.Paths)+len(o.Include)+len(o.Exclude) > 0 {
		lines = append(lines, fmt.Sprintf("%s%x", markerOnly, sha256.Sum256(fmt.Append(nil, o.Paths, o.Include, o.Exclude))))
	}
	first := markerLine
	if o.Overwrite == OverwriteNever {
		first = markerKeep
	}
	return first + "\n" + strings.Join(lines, "\n") + "\n"
}

// markerOnly begins the line with the hash of what is asked for, if not all.
const markerOnly = "a part: "

// writeMarker replaces the marker, which is there as a whole or not at all.
func writeMarker(to *os.Root, text string) error {
	if err := to.Remove(markerNew); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := to.OpenFile(markerNew, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return to.Rename(markerNew, markerName)
}

func readMarker(to *os.Root) (string, error) {
	f, err := to.Open(markerName)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxMarker))
	return string(text), err
}

// Unfinished returns the snapshots, as hexadecimal hashes by dataset, whose
// restore into a folder was interrupted. Of any other folder, or of none, it
// returns nothing.
func Unfinished(folder string) (map[string]string, error) {
	to, err := os.OpenRoot(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer to.Close()
	text, err := readMarker(to)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	own, _, _ := strings.Cut(text, markerAlso)
	lines, ok := strings.CutPrefix(own, markerLine+"\n")
	if !ok || strings.Contains(lines, "\n"+markerOnly) {
		return nil, nil
	}
	found := map[string]string{}
	for line := range strings.Lines(lines) {
		if hash, dataset, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " "); ok {
			found[dataset] = hash
		}
	}
	return found, nil
}

// restoreDataset restores one snapshot and fills its report. The error is for
// what stops the other datasets too: the end of ctx, or a full disk.
func (v *View) restoreDataset(ctx context.Context, to destination, s SnapshotInfo, o RestoreOptions, d *DatasetRestore) error {
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
	w := newRestorer(to, r, o, meter, d)
	err = w.run(ctx, chosen, ordering(o.First[d.Dataset]))
	if err == nil {
		w.tidyAll(len(s.Newer) > 0)
	}
	w.tellUnset()
	if w.untold > 0 {
		d.Missing = append(d.Missing, format.Gap{Path: []byte("…"), Reason: fmt.Sprintf("%d more are not named", w.untold)})
	}
	if err != nil {
		d.Missing = append(d.Missing, format.Gap{Path: []byte("/"), Reason: "not finished: " + err.Error()})
	}
	return err
}
