package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"embassy/cmd/internal/open"
	"embassy/embassy"
	"embassy/embassy/format"
	"embassy/embassy/policy"
	"embassy/targets"
)

var (
	// errKit is wrapped by errors about the kit and its passphrase.
	errKit = errors.New("the recovery kit cannot be opened")
	// errShares is wrapped by errors about the shares.
	errShares = errors.New("the shares do not open the root")
)

const (
	maxShown = 20    // of what is missing in one dataset, and of the warnings
	maxBad   = 1_000 // bad copies that a report names at most
)

// rescue is one run.
type rescue struct {
	options
	stdin          io.Reader
	stdout, stderr io.Writer
	now            func() time.Time

	mu       sync.Mutex // of stderr
	live     bool       // a line of progress may stand on stderr
	warnings int
}

func (r *rescue) run(ctx context.Context) error {
	defer r.more()
	as, err := r.unlock(ctx)
	if err != nil {
		return err
	}
	defer as.wipe()
	hints := as.hints
	members, err := r.members(hints)
	if err != nil {
		return err
	}
	charter, err := as.find(ctx, members)
	if err != nil {
		left := as.root != nil && errors.Is(err, embassy.ErrNoCharter) && embassy.HoldsMore(ctx, members, as.nation)
		if left && !r.bare {
			err = fmt.Errorf("%w; other objects of the nation are there: --without-charter restores from packs and snapshots alone", err)
		}
		if !left || !r.bare {
			return fmt.Errorf("%w%s", err, r.others(hints))
		}
	}
	var view *embassy.View
	var keys *embassy.Keys
	if r.bare {
		view, keys, members, err = r.openBare(ctx, members, as.nation, as.root, charter, hints)
	} else {
		view, keys, members, err = r.openView(ctx, members, as, charter)
	}
	as.wipe() // a restore takes hours
	if err != nil {
		return err
	}
	if r.list {
		return r.listSnapshots(view, keys)
	}
	chosen, absent, err := r.choose(view, keys)
	if err != nil {
		return err
	}
	if chosen, err = r.resume(view, chosen); err != nil {
		return err
	}
	report, err := view.Restore(ctx, embassy.RestoreOptions{
		Snapshots: chosen, To: r.to, Privileged: r.privileged, Verify: r.verify, Owners: embassy.OwnersHere(),
	})
	if err != nil && ctx.Err() != nil {
		return interrupted(report, chosen)
	}
	if errors.Is(err, embassy.ErrNotEmpty) {
		return fmt.Errorf("%s: %w: name another one, or, to resume a rescue that was interrupted, the datasets that it was asked for", r.to, embassy.ErrNotEmpty)
	}
	if len(report.Datasets) > 0 && len(absent) > 0 {
		report.Datasets = append(report.Datasets, absent...)
		if err == nil {
			err = embassy.ErrIncomplete
		}
	}
	nameTiers(report, chosen, hints, members)
	r.tell(report, err)
	return err
}

// openView opens what the charter vouches for, and says how old it is. It
// returns the members that are of use.
func (r *rescue) openView(ctx context.Context, members []*embassy.Member, as holder, charter *format.Charter) (*embassy.View, *embassy.Keys, []*embassy.Member, error) {
	witnesses, members := embassy.Witnesses(ctx, members, as.nation, r.warn)
	keys, err := as.keys(charter)
	if err != nil {
		return nil, nil, nil, err
	}
	view, err := embassy.OpenView(ctx, embassy.ViewOptions{
		Keys: keys, Members: members, Warn: r.warn, Progress: r.progress(), Now: r.now,
	})
	if err != nil {
		return nil, nil, nil, err
	}
	r.tellAge(view, charter, as.hints, len(witnesses))
	return view, keys, members, nil
}

// interruptedError is the end of a run that a person stopped.
type interruptedError struct{ done string }

func (e *interruptedError) Error() string {
	return "interrupted" + e.done + "; run the same command again to go on"
}

// interrupted says how far a restore came.
func interrupted(report embassy.RestoreReport, chosen []embassy.SnapshotInfo) error {
	var done []string
	for _, d := range report.Datasets {
		for _, s := range chosen {
			if s.Hash == d.Snapshot {
				done = append(done, fmt.Sprintf("%d of %s of %s", d.Files, plural(s.Summary.Files, "file"), d.Dataset))
			}
		}
	}
	if len(done) == 0 {
		return &interruptedError{}
	}
	return &interruptedError{": " + strings.Join(done, ", ") + " are complete"}
}

// others tells of targets that were not asked, though the kit knows them.
func (r *rescue) others(hints format.Hints) string {
	var known []string
	for _, h := range hints.Targets {
		if len(r.from) > 0 && !slices.ContainsFunc(r.from, func(l targets.Location) bool { return l.String() == h.URL }) {
			known = append(known, h.URL)
		}
	}
	if len(known) == 0 {
		return ""
	}
	return fmt.Sprintf("; the kit also knows %s: leave out --from to try them", strings.Join(known, ", "))
}

// nameTiers gives those that served the tiers by which the snapshot, else the
// kit, knows them: --from only says in which order to ask.
func nameTiers(report embassy.RestoreReport, chosen []embassy.SnapshotInfo, hints format.Hints, members []*embassy.Member) {
	for _, d := range report.Datasets {
		var known []format.TargetHint
		for _, s := range chosen {
			if s.Hash == d.Snapshot {
				known = append(known, s.Summary.Targets...)
			}
		}
		known = append(known, hints.Targets...)
		for i := range d.Served {
			for _, m := range members {
				at := slices.IndexFunc(known, func(h format.TargetHint) bool { return h.URL == m.URL })
				if m.Name == d.Served[i].Target && at >= 0 {
					d.Served[i].Tier = policy.Tier(min(known[at].Tier, uint8(policy.Emergency)))
				}
			}
		}
	}
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
		return nil, &usageError{"neither kit nor shares name a target: name one with --from URL"}
	}
	var members []*embassy.Member
	for _, p := range places {
		t, err := r.open(p.loc, r.creds(hints, p.hint.Name))
		m := embassy.NewMember(p.hint.Name, p.hint.URL, p.hint.Jurisdiction, t, err, r.now)
		members = append(members, m.At(policy.Tier(p.hint.Tier)))
	}
	return members, nil
}

// open opens a target. Its errors name the flags of this program.
func (r *rescue) open(loc targets.Location, creds open.Credentials) (targets.Target, error) {
	o := open.Options{CAFile: caFor(loc, r.ca), Insecure: r.insecure}
	t, err := open.Target(loc, creds, o)
	switch {
	case err == nil:
	case errors.Is(err, open.ErrNowhere):
		err = fmt.Errorf("%w: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give --credentials-file FILE", open.ErrNoCredentials)
	case !r.insecure:
		o.Insecure = true
		if _, e := open.Target(loc, creds, o); e == nil {
			err = errors.New("plain http is for this machine only: write s3+https, or give --insecure")
		}
	}
	return t, err
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

// tellAge says how old what was found is, and what that proves. witnesses are
// the targets that show this nation.
func (r *rescue) tellAge(view *embassy.View, charter *format.Charter, hints format.Hints, witnesses int) {
	if t := view.Newest(); t.IsZero() {
		r.say("No ledger entry was found. The charter is number %d, of %s.", charter.Seq, r.age(charter.When()))
	} else {
		r.say("The newest ledger entry found is of %s.", r.age(t))
	}
	if hints.Time != 0 {
		r.say("What the kit knows is of %s.", r.age(hints.When()))
	}
	if witnesses < 2 {
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
		return fmt.Sprintf("%s, %s ago", stamp, plural(uint64(d.Minutes()), "minute"))
	case d < 48*time.Hour:
		return fmt.Sprintf("%s, %s ago", stamp, plural(uint64(d.Hours()), "hour"))
	}
	return fmt.Sprintf("%s, %s ago", stamp, plural(uint64(d.Hours()/24), "day"))
}

// ordered is every dataset, by restore priority, and each name once: without a
// charter a second compartment may have it too.
func ordered(keys *embassy.Keys) []format.Dataset {
	var all []format.Dataset
	seen := map[string]bool{}
	for _, c := range keys.Compartments {
		for _, d := range c.Part.Datasets {
			if !seen[d.Name] {
				seen[d.Name] = true
				all = append(all, d)
			}
		}
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
			if keys.Limit != "" {
				return nil, nil, fmt.Errorf("dataset %q: %w: %s, with %s", name, embassy.ErrNotGranted, keys.Limit, strings.Join(known, ", "))
			}
			who := "the charter knows no dataset %q; it knows %s"
			if r.bare {
				who = "no snapshot is of a dataset %q; they are of %s"
			}
			return nil, nil, &usageError{fmt.Sprintf(who, name, strings.Join(known, ", "))}
		}
	}
	for _, d := range all {
		if len(r.datasets) > 0 && !slices.Contains(r.datasets, d.Name) {
			continue
		}
		s, err := view.Pick(d.Name, "latest", r.at)
		if err != nil {
			if len(r.datasets) > 0 || errors.Is(err, embassy.ErrNotGranted) {
				return nil, nil, fmt.Errorf("%w%s", err, r.ledgersLost(view))
			}
			absent = append(absent, embassy.DatasetRestore{
				Dataset: d.Name, Missing: []format.Gap{{Path: []byte("/"), Reason: err.Error()}},
			})
			continue
		}
		chosen = append(chosen, s)
	}
	if len(chosen) == 0 {
		return nil, nil, fmt.Errorf("nothing to restore: %w%s", embassy.ErrNoSnapshot, r.ledgersLost(view))
	}
	return chosen, absent, nil
}

// resume replaces what is chosen by the snapshots whose restore into the folder
// was interrupted, unless a time is asked for: a target that came back since
// may show later ones.
func (r *rescue) resume(view *embassy.View, chosen []embassy.SnapshotInfo) ([]embassy.SnapshotInfo, error) {
	begun, err := embassy.Unfinished(r.to)
	if err != nil {
		return nil, fmt.Errorf("look into %s: %w", r.to, err)
	}
	for i, s := range chosen {
		hash := begun[s.Summary.Dataset]
		if hash == "" || hash == s.Hash.String() || !r.at.IsZero() {
			continue
		}
		if chosen[i], err = view.Pick(s.Summary.Dataset, hash, time.Time{}); err != nil {
			return nil, fmt.Errorf("resume the restore in %s: %w", r.to, err)
		}
		r.say("Resuming dataset %s with its snapshot of %s, as begun. The one of %s can be restored into another folder.",
			s.Summary.Dataset, chosen[i].Summary.When().Format(time.RFC3339), s.Summary.When().Format(time.RFC3339))
	}
	return chosen, nil
}

// tell prints what was restored from where, and the verdict.
func (r *rescue) tell(report embassy.RestoreReport, err error) {
	for _, d := range report.Datasets {
		if d.Time.IsZero() {
			fmt.Fprintf(r.stdout, "%s: nothing was restored\n", d.Dataset)
		} else {
			fmt.Fprintf(r.stdout, "%s: %s, %s, %s of %s, in %s\n",
				d.Dataset, plural(d.Files, "file"), plural(d.Dirs, "folder"), size(d.Bytes), d.Time.UTC().Format(time.RFC3339), d.Dir)
		}
		for _, s := range d.Served {
			fmt.Fprintf(r.stdout, "  from %s (%s): %s in %s\n", s.Target, s.Tier, size(s.Bytes), plural(s.Objects, "object"))
		}
		if d.Skipped > 0 {
			fmt.Fprintf(r.stdout, "  there already, and right: %s\n", plural(d.Skipped, "file"))
		}
		if d.ReadBack > 0 {
			fmt.Fprintf(r.stdout, "  read back as written: %s\n", size(d.ReadBack))
		}
		if n := len(d.Bad); n > 0 {
			how, used := "", "; others were used"
			if n >= maxBad {
				how = "at least "
			}
			if len(d.Missing) > 0 {
				used = ""
			}
			fmt.Fprintf(r.stdout, "  bad copies met: %s%d%s\n", how, n, used)
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
	fmt.Fprintf(r.stdout, "Complete: every byte of %s was restored and verified, in %s.\n",
		plural(uint64(len(report.Datasets)), "dataset"), report.Elapsed.Round(time.Second/10))
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

// warn shows a finding, if it is one of the first.
func (r *rescue) warn(f embassy.Finding) {
	r.mu.Lock()
	r.warnings++
	n := r.warnings
	r.mu.Unlock()
	if n <= maxShown {
		r.say("warning: %s", f)
	}
}

// more says how many findings were not shown.
func (r *rescue) more() {
	r.mu.Lock()
	n := r.warnings - maxShown
	r.mu.Unlock()
	if n > 0 {
		r.say("warning: and %d more like these", n)
	}
}

func (r *rescue) say(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.live {
		format = clearBelow + format
	}
	fmt.Fprintf(r.stderr, format+"\n", args...)
}

// plural prints a count of things.
func plural(n uint64, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return fmt.Sprintf("%d %s", n, thing)
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
