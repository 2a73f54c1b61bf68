package embassy

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"embassy/embassy/format"
	"embassy/targets"
)

// claims returns what a target should hold of each line, by agent and chain, and
// the agents in order.
func (r *region) claims(m *Member) (claims map[format.ID]map[format.ID]claim, agents []format.ID, err error) {
	claims = map[format.ID]map[format.ID]claim{}
	for _, l := range r.lines {
		on, err := l.claimOn(m)
		if err != nil {
			return nil, nil, err
		}
		if claims[l.Agent] == nil {
			claims[l.Agent] = map[format.ID]claim{}
			agents = append(agents, l.Agent)
		}
		claims[l.Agent][l.Chain] = on
	}
	return claims, agents, nil
}

// objects yields what a target should hold of one kind of an agent's objects,
// in ascending order of names. claims says what it claims of each chain.
func (r *region) objects(agent format.ID, kind format.Kind, claims map[format.ID]claim) iter.Seq2[thing, error] {
	nation := r.a.key.Nation
	return func(yield func(thing, error) bool) {
		var o thing
		for k, err := range r.wanted(agent, kind) {
			if err != nil {
				yield(thing{}, err)
				return
			}
			claim, ok := claims[k.Chain]
			if !ok || !claim.has(k.Seq) {
				continue
			}
			if o.r == nil || k.Hash != o.hash {
				if o.r != nil && !yield(o, nil) {
					return
				}
				o = thing{r: r, name: format.ObjectName(nation, r.id, agent, kind, k.Hash), kind: kind, hash: k.Hash}
			}
			if len(o.by) < maxVouches {
				o.by = append(o.by, vouch{claim.l, k.Seq})
			}
			if len(o.sizes) < maxVouches && !slices.Contains(o.sizes, k.Size) {
				o.sizes = append(o.sizes, k.Size)
			}
		}
		if o.r != nil {
			yield(o, nil)
		}
	}
}

// entries yields the entries of a line that are claimed, in ascending order of names.
func (r *region) entries(c claim) iter.Seq2[thing, error] {
	return func(yield func(thing, error) bool) {
		for seq := range c.numbers() {
			k, ok, err := r.a.s.catalog.KnownEntry(c.l.Line, seq)
			if err == nil && !ok {
				err = fmt.Errorf("ledger entry %d of %s is not in the catalog", seq, c.l.Chain)
			}
			o := thing{r: r, name: c.l.name(seq, k.Hash), hash: k.Hash, sizes: []uint64{k.Size}, by: []vouch{{c.l, seq}}}
			if !yield(o, err) || err != nil {
				return
			}
		}
	}
}

// absent is the size of what a listing does not show.
const absent = -1

// compare goes through a folder's listing and what should be in it, which are
// in the same order, and has every object inspected.
func (t *audit) compare(ctx context.Context, g *errgroup.Group, folder string, expected iter.Seq2[thing, error]) error {
	next, stop := iter.Pull2(expected)
	defer stop()
	o, failed, more := next()
	pass := func(size int64) {
		if failed = t.meet(ctx, g, o, size); failed == nil {
			o, failed, more = next()
		}
	}
	after, stray := "", 0
	err := t.m.do(ctx, func(ctx context.Context) error {
		for info, err := range t.m.Target.List(ctx, folder) {
			if err != nil {
				return err
			}
			if info.Name <= after { // the listing began again
				continue
			}
			after = info.Name
			for failed == nil && more && o.name < info.Name {
				pass(absent)
			}
			if failed != nil {
				return nil
			}
			if more && o.name == info.Name {
				pass(info.Size)
			} else if stray++; stray > maxStray {
				return nil
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for failed == nil && more {
		pass(absent)
	}
	if failed == nil && slices.Contains(t.suspects[folder], FaultForged) {
		t.met[folder] = true
		if stray <= maxStray {
			failed = t.v.s.clearFault(t.m.Name, FaultForged, folder)
		}
	}
	if stray > maxStray && failed == nil {
		t.report(thing{name: folder}, FaultForged,
			fmt.Errorf("lists more than %d names that no ledger entry lists: the host, or somebody with its credentials, makes them up; each object was asked for instead", maxStray))
	}
	return failed
}

// meet counts an object, and has it inspected beside others unless all that is
// asked is in the listing.
func (t *audit) meet(ctx context.Context, g *errgroup.Group, o thing, size int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	t.mu.Lock()
	t.out.Listed++
	if len(t.suspects[o.name]) > 0 {
		t.met[o.name] = true
	}
	t.mu.Unlock()
	t.v.meter.add(func(p *Progress) { p.Files++ })
	if size >= 0 && !t.reads(o) && slices.Contains(o.sizes, uint64(size)) {
		return t.good(o, false)
	}
	g.Go(func() error { return t.inspect(ctx, o, size) })
	return nil
}

// reads reports whether all of an object is to be read.
func (t *audit) reads(o thing) bool {
	switch {
	case t.v.o.Level >= Full, len(t.suspects[o.name]) > 0:
		return true
	case t.v.o.Level == Sample:
		return o.r == nil || binary.BigEndian.Uint64(o.hash[24:])%t.out.Classes == t.out.Class
	}
	return false
}

// inspect finds out what is wrong with an object, and deals with it. The error
// is the target's or the catalog's, not the object's.
func (t *audit) inspect(ctx context.Context, o thing, size int64) error {
	if size == absent { // a listing may lag, or lie
		if made, err := t.neverPut(ctx, o); err != nil || made {
			return err
		}
		info, err := t.stat(ctx, o.name)
		switch {
		case err == nil:
			size = info.Size
		case !answered(err):
			return err
		}
	}
	whole := t.reads(o)
	kind, cause, err := t.judge(ctx, o, size, whole)
	switch {
	case err != nil:
		return err
	case cause == nil:
		return t.good(o, whole)
	case errors.Is(cause, targets.ErrDenied):
		if waits, err := t.refuse(o, size, cause); waits || err != nil {
			return err
		}
	}
	return t.bad(ctx, o, kind, cause, size)
}

// judge says what is wrong with an object; a nil cause: nothing.
func (t *audit) judge(ctx context.Context, o thing, size int64, whole bool) (kind FaultKind, cause, err error) {
	switch {
	case size == absent:
		return FaultMissing, errors.New("is not there any more"), nil
	case !slices.Contains(o.sizes, uint64(size)):
		if right, err := t.missized(ctx, o, size, whole); right || err != nil {
			return FaultUnsound, o.liedAbout(size), err
		}
		kind = FaultAltered
		if uint64(size) < slices.Min(o.sizes) {
			kind = FaultCut
		}
		return kind, fmt.Errorf("has %d bytes and should have %d", size, o.sizes[0]), nil
	case !whole:
		return "", nil, nil
	}
	unsound, err := t.read(ctx, o, size)
	switch {
	case err == nil && unsound == nil && len(o.sizes) > 1:
		return FaultUnsound, o.liedAbout(size), nil
	case err == nil && unsound == nil:
		return "", nil, nil
	case err == nil:
		return FaultUnsound, unsound, nil
	case !answered(err):
		return "", nil, err
	case errors.Is(err, targets.ErrNotFound):
		return FaultMissing, errors.New("is listed, and not given"), nil
	case errors.Is(err, targets.ErrDenied):
		return FaultMissing, fmt.Errorf("is listed, and not given: %w", err), nil
	case errors.Is(err, errUnreadable):
		return FaultCut, errors.New("is not given whole: the store fails over it each time"), nil
	case errors.Is(err, io.ErrUnexpectedEOF):
		return FaultCut, fmt.Errorf("ends before its %d bytes", size), nil
	}
	return FaultAltered, errBadCopy, nil
}

// missized reports whether an object of another size than any that is listed
// is the right one: then no target cut it.
func (t *audit) missized(ctx context.Context, o thing, size int64, whole bool) (bool, error) {
	if !whole || o.r == nil || size <= 0 || size > format.MaxPackSize {
		return false, nil
	}
	sum, err := t.digest(ctx, o.name, size)
	if !answered(err) {
		return false, err
	}
	return err == nil && sum == o.hash, nil
}

// liedAbout says that entries list a right object with a size that it has not.
func (o thing) liedAbout(size int64) error {
	return fmt.Errorf("has the %d bytes that it should have, and agent %s lists it with other sizes: %d", size, o.by[0].l.Agent, o.sizes)
}

// read reads every byte of an object, and returns errBadCopy unless its hash
// is right. unsound is what a reader's keys find wrong in the right bytes.
func (t *audit) read(ctx context.Context, o thing, size int64) (unsound, err error) {
	c := t.v.readers[o.compartment()]
	if c == nil || o.kind == 0 || o.kind == format.KindRecord || o.kind == format.KindCheckpoint {
		sum, err := t.digest(ctx, o.name, size)
		if err == nil && sum != o.hash {
			err = errBadCopy
		}
		return nil, err
	}
	err = t.holding(ctx, size, func(data []byte) error {
		if err := t.fill(ctx, o.name, data, t.arrived); err != nil {
			return fmt.Errorf("target %s: %w", t.m.Name, err)
		}
		if format.HashOf(data) != o.hash {
			return errBadCopy
		}
		unsound, err = t.open(ctx, c, o, data)
		return err
	})
	return unsound, err
}

// holding lends f a buffer within the room that copies share.
func (t *audit) holding(ctx context.Context, size int64, f func(data []byte) error) error {
	room := min(size, copyRoom)
	if err := t.v.s.room.Acquire(ctx, room); err != nil {
		return err
	}
	defer t.v.s.room.Release(room)
	return f(make([]byte, size))
}

func (t *audit) arrived(n int) {
	t.mu.Lock()
	t.out.Bytes += uint64(n)
	t.mu.Unlock()
	t.v.meter.add(func(p *Progress) {
		p.Bytes += uint64(n)
		p.PerTarget[t.m.Name] += uint64(n)
	})
}

// compartment is the pseudonym of the object's compartment; zero for a
// charter.
func (o thing) compartment() format.ID {
	if o.r == nil {
		return format.ID{}
	}
	return o.r.id
}

// examine looks at the bytes that are there instead of an object's: whose they
// are, and keeps them before they are replaced.
func (t *audit) examine(ctx context.Context, o thing, size int64, kind FaultKind, cause error) (FaultKind, error, error) {
	n := min(size, format.MaxPackSize)
	if n <= 0 {
		return kind, cause, nil
	}
	err := t.holding(ctx, n, func(data []byte) error {
		if err := t.fill(ctx, o.name, data, func(int) {}); err != nil {
			if answered(err) {
				return nil // now it is worse, or better: what was found before counts
			}
			return fmt.Errorf("target %s: %w", t.m.Name, err)
		}
		found := format.HashOf(data)
		whose, err := t.v.whose(o, data, found)
		if err != nil {
			return err
		}
		if whose != "" {
			kind, cause = FaultSwapped, fmt.Errorf("gives the bytes of %s instead", whose)
		}
		if t.v.o.Repair {
			t.v.kept.keep(t.m.Name, o, kind, size, found, data)
		}
		return nil
	})
	return kind, cause, err
}

// whose says of which other object, or of whose, the bytes are; empty: of
// nobody's that is known.
func (v *verification) whose(o thing, data []byte, found format.Hash) (string, error) {
	nation := v.a.key.Nation
	if found == o.hash { // it gives the right bytes at times
		return "", nil
	}
	for _, c := range v.charters {
		if c.hash == found {
			return c.name, nil
		}
	}
	for _, r := range v.a.regions {
		seen := map[format.ID]bool{}
		for _, l := range r.lines {
			for _, kind := range listedKinds {
				if seen[l.Agent] {
					break
				}
				for k, err := range v.s.catalog.KnownObjects(r.id, l.Agent, kind, found[:]) {
					return format.ObjectName(nation, r.id, l.Agent, kind, k.Hash), err
				}
			}
			seen[l.Agent] = true
		}
	}
	is, ok := format.OriginOf(data)
	if !ok {
		return "", nil
	}
	switch is.Kind {
	case "ledger entry":
		l := Line{Compartment: is.Scope.Compartment, Agent: is.Scope.Agent, Chain: is.Scope.Chain}
		k, _, err := v.s.catalog.KnownEntry(l, is.Seq)
		if err != nil || k.Hash == found {
			return format.EntryName(nation, l.Compartment, l.Agent, l.Chain, is.Seq, found), err
		}
	}
	switch {
	case apart(is.Scope.Nation, nation):
		return fmt.Sprintf("a %s of another nation, %s,", is.Kind, is.Scope.Nation), nil
	case is.Kind != o.what():
		return "some " + is.Kind, nil
	case o.r != nil && apart(is.Scope.Compartment, o.r.id):
		return fmt.Sprintf("a %s of another compartment, %s,", is.Kind, is.Scope.Compartment), nil
	}
	return "", nil
}

// what is the object's kind in words, as format.OriginOf has them.
func (o thing) what() string {
	switch {
	case o.r == nil:
		return "charter"
	case o.kind == 0:
		return "ledger entry"
	}
	return o.kind.String()
}

// knownCharter is a charter that the root signed, or whose successor names it.
type knownCharter struct {
	thing
	seq uint64
}

// knownCharters follows the charters back from the newest, as far as any
// target still shows them.
func (a *atlas) knownCharters(ctx context.Context) ([]knownCharter, error) {
	nation := a.key.Nation
	add := func(out []knownCharter, seq uint64, object []byte) []knownCharter {
		h := format.HashOf(object)
		return append(out, knownCharter{thing{name: format.CharterName(nation, seq, h), hash: h, sizes: []uint64{uint64(len(object))}}, seq})
	}
	out := add(nil, a.charter.Seq, a.object)
	ch := a.charter
	if ch.Seq == 1 {
		return out, nil
	}
	var live []*Member
	for _, m := range a.s.order {
		if m.Down() == nil {
			live = append(live, m)
		}
	}
	copies := listCharters(ctx, live, nation, maxCharters, a.s.warn)
	for ch != nil && ch.Seq > 1 && len(out) < maxCharters {
		seq, prev := ch.Seq-1, ch.Prev
		ch = nil
		for _, c := range copies {
			if c.seq != seq || c.hash != prev || ch != nil {
				continue
			}
			found, object, _, err := c.open(ctx, nation, a.key.Signer)
			if err == nil {
				ch, out = found, add(out, seq, object)
			}
		}
	}
	slices.SortFunc(out, func(a, b knownCharter) int { return strings.Compare(a.name, b.name) })
	return out, ctx.Err()
}

// inspectCharters looks at the charters that the target shows or once had. One
// that it never had, replication brings; but a target that has come along and
// shows none at all has lost them.
func (t *audit) inspectCharters(ctx context.Context) error {
	shown := map[string]int64{}
	prefix := format.CharterPrefix(t.v.a.key.Nation)
	err := t.m.do(ctx, func(ctx context.Context) error {
		clear(shown)
		for info, err := range t.m.Target.List(ctx, prefix) {
			if err != nil {
				return err
			}
			if len(shown) < maxCharterNames {
				shown[info.Name] = info.Size
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	joined := false
	for _, r := range t.v.a.regions {
		for _, l := range r.lines {
			claim, err := l.claimOn(t.m)
			if err != nil {
				return err
			}
			_, member := r.member(t.m)
			joined = joined || member && claim.to > 0
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(readsAtOnce)
	for _, c := range t.v.charters {
		size, ok := shown[c.name]
		if !ok {
			had, err := t.v.s.catalog.Placed(t.m.Name, c.hash)
			if err != nil {
				return err
			}
			newest := c.seq == t.v.a.charter.Seq
			if had.IsZero() && !(newest && joined && len(shown) == 0) && len(t.suspects[c.name]) == 0 {
				continue
			}
			size = absent
		}
		if err := t.meet(ctx, g, c.thing, size); err != nil {
			return errors.Join(err, g.Wait())
		}
	}
	return g.Wait()
}

// good books an object that is as it should be, as far as was looked.
func (t *audit) good(o thing, whole bool) error {
	if key, lost := t.v.noted[o.name]; lost { // it is there again
		if err := t.v.s.catalog.Note(key, nil); err != nil {
			return err
		}
	}
	now := t.v.s.now()
	e := Evidence{Stored: now}
	if whole {
		e.Verified = now
	}
	t.mu.Lock()
	if whole {
		t.out.Read++
	}
	t.found[o.hash] = e
	full := len(t.found) >= evidenceBatch
	t.mu.Unlock()
	if whole {
		for _, kind := range t.suspects[o.name] {
			if err := t.v.s.clearFault(t.m.Name, kind, o.name); err != nil {
				return err
			}
		}
	}
	if full {
		return t.flush()
	}
	return nil
}

// flush books what was found in order.
func (t *audit) flush() error {
	t.mu.Lock()
	found := t.found
	t.found = map[format.Hash]Evidence{}
	t.mu.Unlock()
	if len(found) == 0 {
		return nil
	}
	return t.v.s.catalog.SetEvidence(t.m.Name, found)
}

// fetch returns the right bytes of an object from another target than m.
func (v *verification) fetch(ctx context.Context, o thing, m *Member) ([]byte, error) {
	if o.r == nil {
		if o.hash == format.HashOf(v.a.object) {
			return bytes.Clone(v.a.object), nil
		}
		errs := []error{errNowhere}
		for _, other := range v.s.order {
			if other.Name == m.Name || other.Down() != nil {
				continue
			}
			data, err := other.fetch(ctx, o.name, o.sizes[0], o.hash)
			if err == nil {
				return data, nil
			}
			errs = append(errs, err)
		}
		return nil, errors.Join(errs...)
	}
	var last error
	for _, size := range o.sizes {
		data, err := o.r.fetch(ctx, o.by[0].l, o.by[0].seq, o.name, size, o.hash, m)
		if err == nil {
			return data, nil
		}
		last = err
	}
	return nil, last
}
