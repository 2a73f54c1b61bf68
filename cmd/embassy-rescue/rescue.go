package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"embassy/cmd/internal/open"
	"embassy/cmd/internal/term"
	"embassy/crypto"
	"embassy/embassy"
	"embassy/embassy/format"
	"embassy/embassy/policy"
	"embassy/targets"

	xterm "golang.org/x/term"
)

// errKit is wrapped by errors about the kit and its passphrase.
var errKit = errors.New("the recovery kit cannot be opened")

const maxShown = 20 // of what is missing in one dataset

// rescue is one run.
type rescue struct {
	options
	stdin          io.Reader
	stdout, stderr io.Writer
	now            func() time.Time

	mu sync.Mutex // of stderr
}

func (r *rescue) run(ctx context.Context) error {
	kit, root, err := r.openKit(ctx)
	if err != nil {
		return err
	}
	hints, err := kit.OpenHints(root)
	if err != nil {
		r.say("warning: the hints in the kit cannot be read: %v", err)
	}
	members, err := r.members(hints)
	if err != nil {
		return err
	}
	charter, _, err := embassy.FindCharter(ctx, members, kit.Nation, root.Signer().Verifier(), r.warn)
	if err != nil {
		return err
	}
	keys, err := embassy.RootKeys(charter, root)
	if err != nil {
		return err
	}
	view, err := embassy.OpenView(ctx, embassy.ViewOptions{
		Keys: keys, Members: members, Warn: r.warn, Progress: r.progress(), Now: r.now,
	})
	if err != nil {
		return err
	}
	r.tellAge(view, charter, hints, members)
	if r.list {
		return r.listSnapshots(view, keys)
	}
	chosen, absent, err := r.choose(view, keys)
	if err != nil {
		return err
	}
	report, err := view.Restore(ctx, embassy.RestoreOptions{Snapshots: chosen, To: r.to, Owners: os.Geteuid() == 0})
	if len(report.Datasets) > 0 && len(absent) > 0 {
		report.Datasets = append(report.Datasets, absent...)
		if err == nil {
			err = embassy.ErrIncomplete
		}
	}
	r.tell(report, err)
	return err
}

func (r *rescue) openKit(ctx context.Context) (*format.Kit, *crypto.Root, error) {
	if _, err := os.Stat(r.kit); err != nil {
		return nil, nil, fmt.Errorf("read recovery kit: %w", err) // before a passphrase is asked for
	}
	p := term.Passphrases{File: r.phrases, In: r.stdin, Out: r.stderr}
	phrase, err := p.Existing(ctx, "the recovery kit")
	if err != nil {
		return nil, nil, err
	}
	defer clear(phrase)
	kit, root, err := embassy.OpenKit(r.kit, phrase)
	debug.FreeOSMemory() // unwrapping takes a quarter of a gigabyte, once
	if errors.Is(err, crypto.ErrAuthentication) {
		return nil, nil, fmt.Errorf("%w: %w", errKit, err)
	}
	return kit, root, err
}

// members opens the targets, best first. One that cannot be opened is told and
// passed over.
func (r *rescue) members(hints format.Hints) ([]*embassy.Member, error) {
	type place struct {
		loc  targets.Location
		hint format.TargetHint
	}
	var places []place
	for i, loc := range r.from {
		p := place{loc, format.TargetHint{Name: loc.String(), URL: loc.String(), Tier: uint8(min(i, int(policy.Emergency)))}}
		for _, h := range hints.Targets {
			if h.URL == p.hint.URL {
				p.hint.Name, p.hint.Jurisdiction = h.Name, h.Jurisdiction
			}
		}
		places = append(places, p)
	}
	if len(r.from) == 0 {
		for _, h := range hints.Targets {
			loc, err := targets.Parse(h.URL)
			if err != nil {
				r.say("warning: the kit names target %s, whose URL cannot be read: %v", h.Name, err)
				continue
			}
			if h.Tier = min(h.Tier, uint8(policy.Emergency)); !slices.ContainsFunc(places, func(p place) bool { return p.hint.URL == h.URL }) {
				places = append(places, place{loc, h})
			}
		}
	}
	if len(places) == 0 {
		return nil, &usageError{"the kit names no target: name one with --from URL"}
	}
	var members []*embassy.Member
	for _, p := range places {
		t, err := open.Target(p.loc, r.creds(hints, p.hint.Name), caFor(p.loc, r.ca), "", r.insecure)
		m := embassy.NewMember(p.hint.Name, p.hint.URL, p.hint.Jurisdiction, t, err, r.now)
		members = append(members, m.At(policy.Tier(p.hint.Tier)))
	}
	return members, nil
}

// caFor leaves the authorities out where no certificate is checked.
func caFor(loc targets.Location, file string) string {
	if loc.Scheme != targets.SchemeS3HTTPS {
		return ""
	}
	return file
}

func (r *rescue) creds(hints format.Hints, target string) open.Credentials {
	if r.credentials != "" {
		return open.Credentials{File: r.credentials}
	}
	if os.Getenv("AWS_ACCESS_KEY_ID") == "" || os.Getenv("AWS_SECRET_ACCESS_KEY") == "" {
		for _, c := range hints.Credentials {
			if c.Target == target {
				return open.Credentials{AccessKey: c.AccessKey, SecretKey: c.SecretKey}
			}
		}
	}
	return open.Credentials{}
}

// tellAge says how old what was found is, and what that proves.
func (r *rescue) tellAge(view *embassy.View, charter *format.Charter, hints format.Hints, members []*embassy.Member) {
	if t := view.Newest(); t.IsZero() {
		r.say("No ledger entry was found. The charter is number %d, of %s.", charter.Seq, r.age(charter.When()))
	} else {
		r.say("The newest ledger entry found is of %s.", r.age(t))
	}
	if hints.Time != 0 {
		r.say("What the kit knows is of %s.", r.age(hints.When()))
	}
	live := 0
	for _, m := range members {
		if m.Down() == nil {
			live++
		}
	}
	if live == 1 {
		r.say("One target alone cannot prove that this is the newest state: ask another one too, if another is left.")
	}
	if charter.Seq < hints.Charter {
		r.say("warning: the kit knows charter %d, the targets show %d: they are behind, or hold something back", hints.Charter, charter.Seq)
	}
	found := map[format.ID]uint64{}
	for _, h := range view.Heads() {
		found[h.Chain] = max(found[h.Chain], h.Seq)
	}
	for _, h := range hints.Heads {
		if found[h.Chain] < h.Seq {
			r.say("warning: the kit knows entry %d of chain %s, the targets show %d: they are behind, or hold something back", h.Seq, h.Chain, found[h.Chain])
		}
	}
}

func (r *rescue) age(t time.Time) string {
	d := r.now().Sub(t)
	stamp := t.UTC().Format(time.RFC3339)
	switch {
	case d < 0:
		return stamp + ", which is in the future: check the clock of this machine"
	case d < 2*time.Hour:
		return fmt.Sprintf("%s, %d minutes ago", stamp, int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%s, %d hours ago", stamp, int(d.Hours()))
	}
	return fmt.Sprintf("%s, %d days ago", stamp, int(d.Hours()/24))
}

// ordered is every dataset of the charter, by restore priority.
func ordered(keys *embassy.Keys) []format.Dataset {
	var all []format.Dataset
	for _, c := range keys.Compartments {
		all = append(all, c.Part.Datasets...)
	}
	slices.SortStableFunc(all, func(a, b format.Dataset) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.Name, b.Name))
	})
	return all
}

// choose picks the snapshots, in the order of restore priority. absent are the
// datasets of the charter that have none, though everything is asked for.
func (r *rescue) choose(view *embassy.View, keys *embassy.Keys) (chosen []embassy.SnapshotInfo, absent []embassy.DatasetRestore, err error) {
	all := ordered(keys)
	for _, name := range r.datasets {
		if !slices.ContainsFunc(all, func(d format.Dataset) bool { return d.Name == name }) {
			var known []string
			for _, d := range all {
				known = append(known, d.Name)
			}
			return nil, nil, &usageError{fmt.Sprintf("the charter knows no dataset %q; it knows %s", name, strings.Join(known, ", "))}
		}
	}
	for _, d := range all {
		if len(r.datasets) > 0 && !slices.Contains(r.datasets, d.Name) {
			continue
		}
		s, err := view.Pick(d.Name, "latest", r.at)
		if err != nil {
			if len(r.datasets) > 0 {
				return nil, nil, err
			}
			absent = append(absent, embassy.DatasetRestore{
				Dataset: d.Name, Missing: []format.Gap{{Path: []byte("/"), Reason: err.Error()}},
			})
			continue
		}
		chosen = append(chosen, s)
	}
	if len(chosen) == 0 {
		return nil, nil, fmt.Errorf("nothing to restore: %w", embassy.ErrNoSnapshot)
	}
	return chosen, absent, nil
}

func (r *rescue) listSnapshots(view *embassy.View, keys *embassy.Keys) error {
	w := tabwriter.NewWriter(r.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "DATASET\tTIME\tSNAPSHOT\tFILES\tSIZE\tPRIORITY")
	for _, d := range ordered(keys) {
		if len(r.datasets) > 0 && !slices.Contains(r.datasets, d.Name) {
			continue
		}
		for _, s := range view.Snapshots(d.Name) {
			if !r.at.IsZero() && s.Summary.When().After(r.at) {
				continue
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%d\n", d.Name, s.Summary.When().Format(time.RFC3339),
				s.Hash.String()[:16], s.Summary.Files, size(s.Summary.Bytes), d.Priority)
		}
	}
	return w.Flush()
}

// tell prints what was restored from where, and the verdict.
func (r *rescue) tell(report embassy.RestoreReport, err error) {
	for _, d := range report.Datasets {
		fmt.Fprintf(r.stdout, "%s: %d files, %d folders, %s of %s, in %s\n",
			d.Dataset, d.Files, d.Dirs, size(d.Bytes), d.Time.UTC().Format(time.RFC3339), d.Dir)
		for _, s := range d.Served {
			fmt.Fprintf(r.stdout, "  from %s (%s): %s in %d objects\n", s.Target, s.Tier, size(s.Bytes), s.Objects)
		}
		if d.Skipped > 0 {
			fmt.Fprintf(r.stdout, "  %d files were there already and are right\n", d.Skipped)
		}
		if n := len(d.Bad); n > 0 {
			fmt.Fprintf(r.stdout, "  %d bad copies were met, and others used\n", n)
		}
		r.gaps("was not readable when it was backed up", d.SourceGaps)
		r.gaps("MISSING", d.Missing)
	}
	if len(report.Datasets) == 0 {
		return
	}
	if err != nil {
		fmt.Fprintln(r.stdout, "INCOMPLETE: not every byte was restored; see what is missing above.")
		return
	}
	fmt.Fprintf(r.stdout, "Complete: every byte of %d datasets was restored and verified, in %s.\n",
		len(report.Datasets), report.Elapsed.Round(time.Second/10))
}

func (r *rescue) gaps(what string, gaps []format.Gap) {
	for i, g := range gaps {
		if i == maxShown {
			fmt.Fprintf(r.stdout, "  %s: %d more\n", what, len(gaps)-i)
			return
		}
		fmt.Fprintf(r.stdout, "  %s: %q: %s\n", what, g.Path, g.Reason)
	}
}

func (r *rescue) warn(f embassy.Finding) { r.say("warning: %s", f) }

func (r *rescue) say(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintf(r.stderr, format+"\n", args...)
}

// progress returns what shows progress on a terminal, or nil.
func (r *rescue) progress() func(embassy.Progress) {
	f, ok := r.stderr.(*os.File)
	if !ok || !xterm.IsTerminal(int(f.Fd())) {
		return nil
	}
	return func(p embassy.Progress) {
		r.mu.Lock()
		defer r.mu.Unlock()
		rate := uint64(float64(p.Bytes) / max(p.Elapsed.Seconds(), 0.1))
		fmt.Fprintf(r.stderr, "\r\x1b[K%s %s: %d of %d files, %s of %s, %s/s\r",
			p.Phase, p.Dataset, p.Files, p.FilesTotal, size(p.Bytes), size(p.BytesTotal), size(rate))
	}
}

// size prints bytes for people.
func size(n uint64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, i := float64(n)/1024, 0
	for v >= 1024 && i < len(units)-1 {
		v, i = v/1024, i+1
	}
	return fmt.Sprintf("%.1f %ciB", v, units[i])
}
