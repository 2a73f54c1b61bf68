package embassy

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"embassy/embassy/format"
	"embassy/embassy/policy"
	"embassy/targets"
)

// VerifyLevel says how much a verification reads. Each reads what the one
// before does, and more.
type VerifyLevel int

// The levels.
const (
	Presence VerifyLevel = iota // names and sizes
	Sample                      // every byte of a share, another one in every run
	Full                        // every byte
	Decrypt                     // every chunk against its id, every snapshot walked; needs a reader's keys
)

var levelNames = []string{"presence", "sample", "full", "decrypt"}

// String is the name of the level.
func (l VerifyLevel) String() string {
	if l < 0 || int(l) >= len(levelNames) {
		return fmt.Sprintf("level %d", int(l))
	}
	return levelNames[l]
}

// ParseVerifyLevel reads what String wrote.
func ParseVerifyLevel(name string) (VerifyLevel, error) {
	i := slices.Index(levelNames, name)
	if i < 0 {
		return 0, fmt.Errorf("%q is no level: write presence, sample, full or decrypt", name)
	}
	return VerifyLevel(i), nil
}

const (
	// defaultShare is the share of a sample that names none.
	defaultShare = 0.05
	// readsAtOnce is how many objects are read from one target at once.
	readsAtOnce = 4
	// maxStray is how many names that no entry lists are read past in one
	// folder. What crashed runs leave behind is far less.
	maxStray = 1 << 18
	// maxVouches is how many of the entries that list one object are kept.
	maxVouches = 64
	// evidenceBatch is how many objects are booked at once.
	evidenceBatch = 1_000
)

// VerifyOptions say what to verify and how.
type VerifyOptions struct {
	Level VerifyLevel
	// Share is the part of the objects that one run of Sample reads, of 1; 0:
	// 0.05. So many runs as it fits into 1 read everything.
	Share   float64
	Repair  bool     // mend what is damaged from another target
	Targets []string // none: all
	Keys    *Keys    // of a reader, for Decrypt
}

// classes is how many runs of a sample read everything.
func (o VerifyOptions) classes() uint64 {
	share := o.Share
	if share <= 0 || share > 1 {
		share = defaultShare
		if o.Share > 1 {
			share = 1
		}
	}
	return uint64(max(1, math.Round(1/share)))
}

// Damage is an object that a target does not give as it should.
type Damage struct {
	Finding
	Kind     FaultKind
	Repaired bool // the right bytes were put, and read back
	Lost     bool // every target answered, and none has it whole
}

// VerifiedTarget is the outcome on one target.
type VerifiedTarget struct {
	Target   string
	Listed   uint64   // objects that it should hold
	Read     uint64   // of them, those of which every byte was read
	Bytes    uint64   // read
	Bad      []Damage // at most 1,000
	BadTotal uint64
	Repaired uint64
	Lost     uint64
	// Class is the share that a sample read, from 0, of Classes. Classes is 0
	// for other levels.
	Class, Classes uint64
	Harmed         []string // of Decrypt: snapshots that cannot be restored from it alone, one line each; at most 1,000
	HarmedTotal    uint64
	Err            error // why it was not looked at to the end; nil: it was
}

// Unmended returns how many bad objects are left.
func (t VerifiedTarget) Unmended() uint64 { return t.BadTotal - t.Repaired }

// LostObject is an object that no target has whole.
type LostObject struct {
	Object string
	Chain  format.ID
	Seq    uint64   // of an entry that lists it, or its own
	Hits   []string // snapshots that use it, one line each; none: unknown without keys
}

// VerifyReport is the outcome of a verification.
type VerifyReport struct {
	Started  time.Time
	Elapsed  time.Duration
	Level    VerifyLevel
	Targets  []VerifiedTarget // in the order of the configuration
	Lost     []LostObject     // at most 1,000
	Unplaced []string         // compartments of the charter that the configuration gives no place: not verified
	// Exit is 5 when something bad is left, 4 when a target was not looked at
	// to the end, else 0, also when all was mended.
	Exit int
}

// Verify compares what targets hold with what the ledgers list, reads as much
// of it as the level says, and records what is wrong. It needs no key but for
// Decrypt. All targets are verified at once, and none holds up another; memory
// does not grow with the number of objects. Repair writes nothing but what a
// valid entry lists, the entries and the charters, with bytes that another
// target gave and whose hash is right; damaged bytes are kept below
// <state_dir>/evidence first. Stopped anywhere, it can be run again.
func (s *Service) Verify(ctx context.Context, o VerifyOptions) (VerifyReport, error) {
	rep, err := s.verify(ctx, o)
	if o.Repair {
		s.auditRepair(rep, err)
	}
	return rep, err
}

func (s *Service) verify(ctx context.Context, o VerifyOptions) (VerifyReport, error) {
	rep := VerifyReport{Started: s.now(), Level: o.Level}
	members, err := s.named(o.Targets)
	if err != nil {
		return rep, err
	}
	if o.Level == Decrypt && (o.Keys == nil || slices.ContainsFunc(o.Keys.Compartments, func(c *Compartment) bool { return c.Reader == nil })) {
		return rep, ErrNoReader
	}
	if o.Level == Decrypt {
		for _, c := range o.Keys.Compartments {
			if c.Lacks != "" { // what they do not open is not unsound
				return rep, fmt.Errorf("%w: %s", ErrNotGranted, c.Lacks)
			}
		}
	}
	book := s.watchFaults(o.Targets...)
	a, err := s.openAtlas(ctx)
	if err != nil {
		return rep, err
	}
	v := newVerification(s, a)
	v.o, v.meter = o, newMeter(s.progress, s.now, "verify", "")
	defer v.meter.end()
	if o.Level == Decrypt {
		for _, c := range o.Keys.Compartments {
			v.readers[c.ID] = &compartmentView{Compartment: c}
		}
		for _, k := range o.Keys.Charter.Compartments {
			if v.readers[k.ID] == nil {
				s.warn(Finding{Object: "compartment " + k.ID.String(), Err: errors.New("not decrypted: these keys do not open it; its objects are read and compared with their names alone")})
			}
		}
	}
	if v.charters, err = a.knownCharters(ctx); err != nil {
		return rep, err
	}
	notes, err := s.catalog.Notes(lostNote)
	if err != nil {
		return rep, err
	}
	v.noted = map[string]string{}
	for chain, name := range notes {
		if len(name) > 0 {
			v.noted[string(name)] = lostNote + chain
		}
	}
	all := make([]*audit, len(members))
	for i, m := range members {
		all[i] = &audit{v: v, m: m, pen: m.pen(), out: VerifiedTarget{Target: m.Name}, found: map[format.Hash]Evidence{},
			broken: map[*line]uint64{}, unfit: map[format.Hash]bool{}, proved: map[format.Hash]bool{}, met: map[string]bool{}}
	}
	each(members, func(i int, _ *Member) { all[i].out.Err = all[i].run(ctx) })
	for _, t := range all {
		if o.Level == Decrypt && t.out.Err == nil {
			t.out.Err = t.snapshots(ctx) // one target after the other: keys are not shared
		}
	}
	if err := ctx.Err(); err != nil {
		return rep, err
	}
	if o.Repair {
		if err := v.look(ctx, all); err != nil {
			return rep, err
		}
	}
	if rep.Lost, err = v.name(ctx); err != nil {
		return rep, err
	}
	codes := []int{book.exit()}
	for _, t := range all {
		if t.out.Unmended() > 0 || t.out.HarmedTotal > 0 {
			codes = append(codes, exitLie)
		}
		if t.out.Err != nil {
			codes = append(codes, exitDegraded)
		}
		if err := t.noteDown(rep); err != nil {
			return rep, err
		}
		rep.Targets = append(rep.Targets, t.out)
	}
	if rep.Unplaced = a.unplaced; len(rep.Unplaced) > 0 {
		codes = append(codes, exitDegraded)
	}
	rep.Exit, rep.Elapsed = policy.ExitCode(codes...), s.now().Sub(rep.Started)
	return rep, s.catalog.AddRun(Run{Kind: "verify", Started: rep.Started, Ended: s.now(), Exit: rep.Exit, Note: rep.note()})
}

func (r *VerifyReport) note() string {
	var listed, read, bad, repaired, lost, harmed uint64
	unread := 0
	for _, t := range r.Targets {
		listed, read, bad, repaired, lost = listed+t.Listed, read+t.Read, bad+t.BadTotal, repaired+t.Repaired, lost+t.Lost
		harmed += t.HarmedTotal
		if t.Err != nil {
			unread++
		}
	}
	note := fmt.Sprintf("%s: %d objects listed, %d read, %d bad, %d mended", r.Level, listed, read, bad, repaired)
	if lost > 0 {
		note += fmt.Sprintf(", %d lost", lost)
	}
	if harmed > 0 {
		note += fmt.Sprintf(", %d snapshots not to be restored from one target alone", harmed)
	}
	if unread > 0 {
		note += fmt.Sprintf("; %d targets not verified to the end", unread)
	}
	return note
}

// Verified is the dated evidence of the last verification of a target.
type Verified struct {
	Time     time.Time `json:"time"`
	Level    string    `json:"level"`
	Class    uint64    `json:"class,omitempty"`
	Classes  uint64    `json:"classes,omitempty"`
	Listed   uint64    `json:"objects"`
	Read     uint64    `json:"objects_read"`
	Bytes    uint64    `json:"bytes_read"`
	Bad      uint64    `json:"bad"`
	Repaired uint64    `json:"repaired"`
	Lost     uint64    `json:"lost"`
	Harmed   uint64    `json:"snapshots_harmed,omitempty"` // that cannot be restored from it alone
	Error    string    `json:"error,omitempty"`            // it was not looked at to the end
}

const (
	verifiedNote = "verified/" // and the name of the target
	sampleNote   = "sample/"   // and the name of the target: so many samples of it ended
)

// LastVerified returns what the last verification of a target found; ok is
// false when there was none.
func (s *Service) LastVerified(target string) (v Verified, ok bool, err error) {
	return readNote[Verified](s.catalog, verifiedNote+target)
}

// noteDown keeps the evidence, unless there is none: what was found before
// stays then.
func (t *audit) noteDown(rep VerifyReport) error {
	if t.out.Err != nil && t.out.Listed == 0 {
		return nil
	}
	v := Verified{
		Time: t.v.s.now().UTC(), Level: rep.Level.String(), Class: t.out.Class, Classes: t.out.Classes,
		Listed: t.out.Listed, Read: t.out.Read, Bytes: t.out.Bytes,
		Bad: t.out.BadTotal, Repaired: t.out.Repaired, Lost: t.out.Lost, Harmed: t.out.HarmedTotal,
	}
	if t.out.Err != nil {
		v.Error = oneLine(t.out.Err)
	}
	return keepNote(t.v.s.catalog, verifiedNote+t.m.Name, v)
}

// verification is one run of Verify.
type verification struct {
	s        *Service
	a        *atlas
	o        VerifyOptions
	charters []knownCharter
	kept     *keptEvidence
	readers  map[format.ID]*compartmentView // of Decrypt, by compartment
	meter    *meter
	noted    map[string]string       // names of objects that were lost, and where that is noted
	mending  [64]*semaphore.Weighted // of 1, by hash: what one target's repair reads, no other's replaces

	mu   sync.Mutex
	lost []thing // at most maxBadListed
}

// newVerification returns one that can mend; to verify it needs the rest.
func newVerification(s *Service, a *atlas) *verification {
	v := &verification{s: s, a: a, kept: newKeptEvidence(s), readers: map[format.ID]*compartmentView{}}
	for i := range v.mending {
		v.mending[i] = semaphore.NewWeighted(1)
	}
	return v
}

// thing is an object that a target should hold.
type thing struct {
	r     *region // nil: a charter
	name  string
	kind  format.Kind // 0: an entry or a charter
	hash  format.Hash
	sizes []uint64 // that entries list: one, unless an agent lies
	by    []vouch  // that list it, or the entry itself; none: a charter
}

// vouch is an entry of a line.
type vouch struct {
	l   *line
	seq uint64
}

func (o thing) entry() bool { return o.kind == 0 && o.r != nil }

// audit verifies one target.
type audit struct {
	v   *verification
	m   *Member
	pen *Member // for writing

	mu       sync.Mutex
	out      VerifiedTarget
	suspects map[string][]FaultKind // what the book says, by object
	met      map[string]bool        // of them, what something lists
	refused  []refusal              // while nothing was read yet
	found    map[format.Hash]Evidence
	broken   map[*line]uint64     // the first entry of which something is bad
	gaps     []gap                // entries that are to be put back
	unfit    map[format.Hash]bool // what is bad; of Decrypt only
	proved   map[format.Hash]bool // packs that were read again to prove an index wrong
	mended   bool                 // an entry was put back
}

// run looks at everything that the target should hold.
func (t *audit) run(ctx context.Context) error {
	s := t.v.s
	if cause := t.m.Down(); cause != nil {
		return fmt.Errorf("target %s: %w: %w", t.m.Name, ErrDown, cause)
	}
	if err := t.m.Foreign(ctx, t.v.a.key.Nation); err != nil {
		s.fault(t.m.Name, FaultForeign, "", err)
		return err
	}
	if err := s.clearFault(t.m.Name, FaultForeign, ""); err != nil {
		return err
	}
	if err := t.suspicions(); err != nil {
		return err
	}
	runs, err := t.samples()
	if err != nil {
		return err
	}
	if t.v.o.Level == Sample {
		t.out.Classes = t.v.o.classes()
		t.out.Class = runs % t.out.Classes
	}
	err = t.walk(ctx)
	if err := errors.Join(err, t.flush()); err != nil {
		return err
	}
	if err := t.absolve(ctx); err != nil {
		return err
	}
	if t.v.o.Level == Sample {
		return s.catalog.Note(sampleNote+t.m.Name, fmt.Appendf(nil, "%d", runs+1))
	}
	return nil
}

// samples returns how many samples of the target have ended.
func (t *audit) samples() (n uint64, err error) {
	raw, _, err := t.v.s.catalog.Noted(sampleNote + t.m.Name)
	if err != nil || len(raw) == 0 {
		return 0, err
	}
	if _, err := fmt.Sscan(string(raw), &n); err != nil {
		return 0, fmt.Errorf("catalog: note %s%s: %w", sampleNote, t.m.Name, err)
	}
	return n, nil
}

// contentFaults are the kinds that reading an object whole can heal.
var contentFaults = []FaultKind{FaultMissing, FaultCut, FaultAltered, FaultSwapped}

// suspicions reads from the book which objects of the target were found bad,
// and which names there are none.
func (t *audit) suspicions() error {
	faults, err := t.v.s.catalog.Faults(t.m.Name)
	t.suspects = map[string][]FaultKind{}
	for _, f := range faults {
		if f.Object != untold && (f.Kind == FaultForged || slices.Contains(contentFaults, f.Kind)) {
			t.suspects[f.Object] = append(t.suspects[f.Object], f.Kind)
		}
	}
	return err
}

// absolve clears from the book the bad names that nothing lists and that are
// not there any more, and what stood for others, if they would have been found.
func (t *audit) absolve(ctx context.Context) error {
	s := t.v.s
	forged := false
	for name, kinds := range t.suspects {
		if t.met[name] {
			continue
		}
		gone := false
		if !slices.Contains(kinds, FaultMissing) { // which being gone does not mend
			var err error
			if gone, err = t.gone(ctx, name); err != nil {
				return err
			}
		}
		for _, kind := range kinds {
			if forged = forged || !gone && kind == FaultForged; !gone {
				continue
			}
			if err := s.clearFault(t.m.Name, kind, name); err != nil {
				return err
			}
		}
	}
	for _, kind := range contentFaults {
		if t.out.Unmended() <= maxBadListed && (kind == FaultMissing || t.v.o.Level >= Full) {
			if err := s.clearFault(t.m.Name, kind, untold); err != nil {
				return err
			}
		}
	}
	if forged {
		return nil
	}
	return s.clearFault(t.m.Name, FaultForged, untold)
}

// gone reports whether the target shows no object of that name any more, or,
// of a folder, no more names than it may.
func (t *audit) gone(ctx context.Context, name string) (bool, error) {
	if !strings.HasSuffix(name, "/") {
		_, err := t.stat(ctx, name)
		if err == nil || answered(err) {
			return errors.Is(err, targets.ErrNotFound), nil
		}
		return false, err
	}
	names := 0
	err := t.m.do(ctx, func(ctx context.Context) error {
		names = 0
		for _, err := range t.m.Target.List(ctx, name) {
			if err != nil {
				return err
			}
			if names++; names > maxStray {
				return nil
			}
		}
		return nil
	})
	return names <= maxStray, err
}

// walk goes through charters and compartments.
func (t *audit) walk(ctx context.Context) error {
	if err := t.inspectCharters(ctx); err != nil {
		return err
	}
	for _, r := range t.v.a.regions {
		if _, ok := r.member(t.m); !ok {
			continue
		}
		if err := t.region(ctx, r); err != nil {
			return err
		}
	}
	return errors.Join(ctx.Err(), t.denials(ctx))
}

// listedKinds are what entries list, in the order in which it is looked at.
var listedKinds = []format.Kind{format.KindPack, format.KindIndex, format.KindSnapshot, format.KindRecord, format.KindCheckpoint}

// region looks at a compartment: first at objects, then at entries, so that
// what is put back comes in the commit order.
func (t *audit) region(ctx context.Context, r *region) error {
	claims, agents, err := r.claims(t.m)
	if err != nil {
		return err
	}
	nation := t.v.a.key.Nation
	work := func(f func(ctx context.Context, g *errgroup.Group) error) error {
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(readsAtOnce)
		err := f(ctx, g)
		if first := g.Wait(); first != nil {
			return first
		}
		return err
	}
	err = work(func(ctx context.Context, g *errgroup.Group) error {
		for _, agent := range agents {
			for _, kind := range listedKinds {
				folder := fmt.Sprintf("%s/%s/%s/%s/", nation, r.id, agent, kind)
				if err := t.compare(ctx, g, folder, r.objects(agent, kind, claims[agent])); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	err = work(func(ctx context.Context, g *errgroup.Group) error {
		for _, l := range r.lines {
			if err := t.compare(ctx, g, folderOf(nation, l.Line), r.entries(claims[l.Agent][l.Chain])); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := t.denials(ctx); err != nil {
		return err
	}
	return t.putBack(ctx, r)
}
