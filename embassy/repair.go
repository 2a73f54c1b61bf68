package embassy

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"embassy/embassy/format"
	"embassy/targets"
)

// Repair writes an object to a target only when all of these hold:
//
//   - a known entry that the target shows, or showed, lists the object, or it
//     is such an entry itself, or a charter of the nation;
//   - the bytes came from another target, or from an older version that this
//     one keeps, or are those of the charter at hand, and their hash is the one
//     in the name;
//   - of an entry that is not there: the target has all that the entry and
//     those before it list, and the entries that it depends on.

// remedy ends the text of a fault that another target may mend.
const remedy = "; embassy verify --repair mends it from another target"

// These end the text of a fault that a repair could not mend.
const (
	lostText    = "LOST: no target has it whole"
	nowhereText = "no other target that answers has it whole"
)

// errHeldBack: an entry is not put back yet.
var errHeldBack = errors.New("is held back until the target has all that it lists and follows")

// gap is an entry that is not there, and its place among what was reported.
type gap struct {
	thing
	place int
}

// report records damage, and returns its place; beyond the bound on what is
// listed, -1.
func (t *audit) report(o thing, kind FaultKind, cause error) int {
	t.mu.Lock()
	t.out.BadTotal++
	place := len(t.out.Bad)
	if place < maxBadListed {
		t.out.Bad = append(t.out.Bad, Damage{Finding: Finding{Target: t.m.Name, Object: o.name, Err: cause}, Kind: kind})
	}
	t.mu.Unlock()
	t.fault(o, kind, cause)
	if place < maxBadListed {
		return place
	}
	return -1
}

// fault writes damage into the book.
func (t *audit) fault(o thing, kind FaultKind, cause error) {
	switch {
	case kind == FaultUnsound:
		t.v.s.fault("", kind, o.name, cause)
	case slices.Contains(contentFaults, kind):
		t.v.s.fault(t.m.Name, kind, o.name, fmt.Errorf("%w%s", cause, remedy))
	default:
		t.v.s.fault(t.m.Name, kind, o.name, cause)
	}
}

// bad deals with an object that is not as it should be.
func (t *audit) bad(ctx context.Context, o thing, kind FaultKind, cause error, size int64) (err error) {
	if kind == FaultUnsound { // the bytes are right: nobody has better ones
		t.report(o, kind, cause)
		t.spoilt(o)
		return nil
	}
	if kind != FaultMissing && (t.v.o.Repair || t.v.o.Level > Presence) {
		if kind, cause, err = t.examine(ctx, o, size, kind, cause); err != nil {
			return err
		}
	}
	for _, was := range t.suspects[o.name] { // another fault takes its place
		if was != kind {
			if err := t.v.s.clearFault(t.m.Name, was, o.name); err != nil {
				return err
			}
		}
	}
	place := t.report(o, kind, cause) // before it is forgotten that the target had it
	if err := t.v.s.catalog.DropEvidence(t.m.Name, o.hash); err != nil {
		return err
	}
	denied := errors.Is(cause, targets.ErrDenied)
	if kind == FaultMissing && o.entry() && t.v.o.Repair && !denied {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.gaps = append(t.gaps, gap{o, place})
		return nil
	}
	if t.v.o.Repair {
		if err = t.mend(ctx, o, nil); err == nil && denied {
			err = t.given(ctx, o)
		}
	} else if err = errNotMended; place >= 0 {
		err = t.elsewhere(ctx, o)
	}
	return t.settle(o, kind, place, err)
}

// given returns nil when an object that was denied is given now, and right.
func (t *audit) given(ctx context.Context, o thing) error {
	for _, size := range o.sizes {
		sum, err := t.digest(ctx, o.name, int64(size))
		if err == nil && sum == o.hash {
			return nil
		}
		if err != nil && !answered(err) {
			return err
		}
	}
	return fmt.Errorf("was put again, and cannot be read: %w", targets.ErrDenied)
}

// errNotMended: nobody asked for a repair.
var errNotMended = errors.New("not mended")

// mend puts the right bytes, and reads them back. allow, which may be nil, has
// the last word. The error wraps errNowhere when no other target gave the
// object whole.
func (t *audit) mend(ctx context.Context, o thing, allow func(data []byte) error) error {
	lock := t.v.mending[o.hash[0]%uint8(len(t.v.mending))]
	if err := lock.Acquire(ctx, 1); err != nil {
		return err
	}
	defer lock.Release(1)
	room := min(2*int64(slices.Max(o.sizes)), copyRoom) // it is read back beside
	if err := t.v.s.room.Acquire(ctx, room); err != nil {
		return err
	}
	defer t.v.s.room.Release(room)
	data, err := t.v.fetch(ctx, o, t.m)
	if errors.Is(err, errNowhere) {
		if own, failed := older(ctx, t.m, o); failed == nil {
			data, err = own, nil
		}
	}
	if err == nil && allow != nil {
		err = allow(data)
	}
	if err != nil {
		return err
	}
	err = t.pen.putKept(ctx, o.name, data, o.hash)
	switch {
	case errors.Is(err, ErrDiscards):
		t.v.s.fault(t.m.Name, FaultDiscards, "", err)
	case err == nil:
		t.pen.recovered() // of being denied to read back
	}
	return err
}

// older returns the right bytes of an object from the versions that a target
// keeps.
func older(ctx context.Context, m *Member, o thing) ([]byte, error) {
	err := errNowhere
	if m.versioned(ctx, o.name) == nil {
		return nil, err
	}
	for _, size := range o.sizes {
		var data []byte
		if data, err = m.fetch(ctx, o.name, size, o.hash); err == nil {
			return data, nil
		}
	}
	return nil, err
}

// elsewhere looks for the object on other targets without moving it, and
// returns errNotMended, or an error that wraps errNowhere.
func (t *audit) elsewhere(ctx context.Context, o thing) error {
	members := t.v.s.order
	if o.r == nil && o.hash == format.HashOf(t.v.a.object) {
		return errNotMended
	}
	if o.r != nil {
		members = o.r.members
	}
	for _, m := range members {
		if m.Name == t.m.Name || m.Down() != nil {
			continue
		}
		for _, size := range o.sizes {
			if t.v.o.Level >= Full {
				sum, err := m.digest(ctx, o.name, int64(size), func(int) {})
				if err == nil && sum == o.hash {
					return errNotMended
				}
			} else if info, err := m.stat(ctx, o.name); err == nil && info.Size == int64(size) {
				return errNotMended
			}
		}
	}
	for _, m := range members {
		if m.Down() != nil {
			continue
		}
		room := min(int64(slices.Max(o.sizes)), copyRoom)
		if err := t.v.s.room.Acquire(ctx, room); err != nil {
			return err
		}
		_, err := older(ctx, m, o)
		t.v.s.room.Release(room)
		if err == nil {
			return errNotMended
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return errNowhere
}

// settle books how a repair ended. The error is the target's or the
// catalog's.
func (t *audit) settle(o thing, kind FaultKind, place int, err error) error {
	if err == nil {
		return t.healed(o, place)
	}
	t.spoilt(o)
	text := err
	lost := false
	switch {
	case errors.Is(err, errNotMended):
		return nil
	case errors.Is(err, errNowhere):
		lost = t.allAnswer(o)
		text = errors.New(nowhereText)
		if lost {
			text = errors.New(lostText)
		}
	case errors.Is(err, errHeldBack), errors.Is(err, ErrDiscards), errors.Is(err, targets.ErrDenied):
	default:
		return err
	}
	t.mu.Lock()
	cause := error(text)
	if place >= 0 {
		d := &t.out.Bad[place]
		d.Lost, d.Err = lost, fmt.Errorf("%w; %w", d.Err, text)
		cause = d.Err
	}
	if lost {
		t.out.Lost++
	}
	t.mu.Unlock()
	if lost {
		t.v.noteLost(o)
	}
	if place >= 0 {
		t.v.s.fault(t.m.Name, kind, o.name, cause)
		t.v.s.warn(Finding{Target: t.m.Name, Object: o.name, Err: text})
	}
	return nil
}

// healed books an object that was mended.
func (t *audit) healed(o thing, place int) error {
	t.mu.Lock()
	t.out.Repaired++
	if place >= 0 {
		t.out.Bad[place].Repaired = true
	}
	t.mu.Unlock()
	cat, now := t.v.s.catalog, t.v.s.now()
	err := cat.SetEvidence(t.m.Name, map[format.Hash]Evidence{o.hash: {Stored: now, Verified: now}})
	for _, was := range contentFaults {
		err = errors.Join(err, t.v.s.clearFault(t.m.Name, was, o.name))
	}
	return err
}

// spoilt remembers that the target lacks something that entries list.
func (t *audit) spoilt(o thing) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.v.o.Level == Decrypt { // nothing else reads it
		t.unfit[o.hash] = true
	}
	if o.kind == 0 {
		return
	}
	for _, b := range o.by {
		if first, ok := t.broken[b.l]; !ok || b.seq < first {
			t.broken[b.l] = b.seq
		}
	}
}

// allAnswer reports whether every target that may have the object answers.
func (t *audit) allAnswer(o thing) bool {
	members := t.v.s.order
	if o.r != nil {
		members = o.r.members
	}
	return !slices.ContainsFunc(members, func(m *Member) bool { return m.Down() != nil })
}

// putBack puts the entries that are not there, in the commit order.
func (t *audit) putBack(ctx context.Context, r *region) error {
	gaps := t.gaps
	t.gaps = nil
	slices.SortFunc(gaps, func(a, b gap) int {
		x, y := a.by[0], b.by[0]
		return cmp.Or(slices.Compare(x.l.Agent[:], y.l.Agent[:]), slices.Compare(x.l.Chain[:], y.l.Chain[:]), cmp.Compare(x.seq, y.seq))
	})
	for before := len(gaps) + 1; len(gaps) > 0 && len(gaps) < before; {
		before = len(gaps)
		var later []gap
		blocked := map[*line]bool{}
		for i, g := range gaps {
			at := g.by[0]
			first, broken := t.broken[at.l]
			if blocked[at.l] || broken && first <= at.seq {
				blocked[at.l] = true
				later = append(later, g)
				continue
			}
			err := t.mend(ctx, g.thing, func(object []byte) error {
				e, err := format.OpenEntry(object, at.l.signer, at.l.want(at.seq))
				if err != nil {
					return err
				}
				ready, err := r.ready(ctx, t.m, e)
				if err == nil && !ready {
					err = errHeldBack
				}
				return err
			})
			if errors.Is(err, errHeldBack) {
				blocked[at.l] = true
				later = append(later, g)
				continue
			}
			if err := t.settle(g.thing, FaultMissing, g.place, err); err != nil {
				return err
			}
			if err != nil {
				blocked[at.l] = true
				t.broken[at.l] = at.seq
				continue
			}
			t.mended = true
			if err := t.reach(at, gaps[i+1:]); err != nil {
				return err
			}
		}
		gaps = later
	}
	for _, g := range gaps {
		if err := t.settle(g.thing, FaultMissing, g.place, errHeldBack); err != nil {
			return err
		}
	}
	return nil
}

// reach books that an entry was put back, and all up to the next gap is there.
func (t *audit) reach(at vouch, rest []gap) error {
	n, err := at.l.headOn(t.m)
	if err != nil || n != at.seq-1 {
		return err
	}
	claim, err := at.l.claimOn(t.m)
	to := claim.to
	for _, g := range rest {
		if g.by[0].l == at.l {
			to = g.by[0].seq - 1
			break
		}
	}
	at.l.reached(t.m, to)
	return err
}

// look asks again for the ledgers when entries were put back, and notes of a
// target that was rolled back that it shows all again.
func (v *verification) look(ctx context.Context, all []*audit) error {
	if !slices.ContainsFunc(all, func(t *audit) bool { return t.mended }) {
		return nil
	}
	_, err := v.s.openAtlas(ctx)
	return err
}

const evidenceRoom = 1 << 30 // bytes of damaged objects that are kept on this machine

// keptEvidence keeps what was found in the place of objects that are mended,
// below <state_dir>/evidence/<target>: <unix seconds>-<start of the hash of the
// object's name>, at most 64 MiB of each, and a .json beside it. It lies here
// and not on the target, whose host could change it, and who writes there may
// write nothing but what a ledger lists. What was found first is kept: when
// the room is used up nothing is kept any more, and the repair goes on. An S3
// store with versions keeps what was overwritten besides.
type keptEvidence struct {
	s   *Service
	dir string

	mu   sync.Mutex
	used int64 // bytes; negative: not yet counted
	told bool
}

func newKeptEvidence(s *Service) *keptEvidence {
	return &keptEvidence{s: s, dir: filepath.Join(s.site.StateDir, "evidence"), used: -1}
}

// exhibit is the .json beside kept bytes.
type exhibit struct {
	Version  int       `json:"version"`
	Time     time.Time `json:"time"`
	Target   string    `json:"target"`
	Object   string    `json:"object"`
	Fault    FaultKind `json:"fault"`
	Expected string    `json:"expected_sha256"`
	Found    string    `json:"found_sha256"` // of what is kept
	Size     int64     `json:"size"`         // on the target; what is kept may be its beginning
	Kept     int64     `json:"kept"`
}

// keep stores the bytes that were found. What goes wrong is told, and stops no
// repair.
func (k *keptEvidence) keep(target string, o thing, kind FaultKind, size int64, found format.Hash, data []byte) {
	now := k.s.now()
	x := exhibit{Version: 1, Time: now.UTC(), Target: target, Object: o.name, Fault: kind,
		Expected: o.hash.String(), Found: found.String(), Size: size, Kept: int64(len(data))}
	dir := filepath.Join(k.dir, target)
	path := filepath.Join(dir, fmt.Sprintf("%d-%.16s", now.Unix(), format.HashOf([]byte(o.name)).String()))
	k.mu.Lock()
	defer k.mu.Unlock()
	err := os.MkdirAll(dir, 0o700)
	if err == nil {
		err = k.room(int64(len(data)))
	}
	if err == nil {
		err = writeFile(dir, path, data)
	}
	if err == nil {
		text, failed := json.MarshalIndent(x, "", "  ")
		err = errors.Join(failed, writeFile(dir, path+".json", append(text, '\n')))
	}
	if err == nil {
		k.used += int64(len(data))
	} else if !k.told {
		k.told = true
		k.s.warn(Finding{Target: target, Object: o.name, Err: fmt.Errorf("the damaged bytes are not kept, nor perhaps others: %w", err)})
	}
}

// errEvidenceFull: as much is kept as may be.
var errEvidenceFull = errors.New("1 GiB of damaged objects is kept already: look at it, then move it away")

// room returns an error unless so many bytes more may be kept.
func (k *keptEvidence) room(n int64) error {
	if k.used < 0 {
		k.used = 0
		err := filepath.WalkDir(k.dir, func(_ string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			info, err := d.Info()
			if err == nil {
				k.used += info.Size()
			}
			return err
		})
		if err != nil {
			k.used = -1
			return err
		}
	}
	if k.used+n > evidenceRoom {
		return fmt.Errorf("%s: %w", k.dir, errEvidenceFull)
	}
	free, err := freeBytes(k.dir)
	if err == nil && free < uint64(n)+spoolReserve {
		err = fmt.Errorf("%s: %d MiB free on its disk, %d MiB are kept free", k.dir, free>>20, spoolReserve>>20)
	}
	return err
}
