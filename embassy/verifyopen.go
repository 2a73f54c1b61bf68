package embassy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/bits"
	"path"
	"slices"

	"embassy/chunk"
	"embassy/embassy/format"
)

// open looks with a reader's keys into an object whose hash is right. What it
// returns as unsound is its writer's doing; the error is the target's.
func (t *audit) open(ctx context.Context, c *compartmentView, o thing, data []byte) (unsound, err error) {
	switch o.kind {
	case format.KindPack:
		unsound = t.v.openPack(c, o, data)
	case format.KindIndex:
		unsound, err = t.openIndex(ctx, c, o, data)
	case format.KindSnapshot:
		unsound = t.v.openSnapshot(c, o, data)
	}
	if unsound != nil {
		unsound = fmt.Errorf("its writer, agent %s, made it so in chain %s: %w", o.by[0].l.Agent, o.by[0].l.Chain, unsound)
	}
	return unsound, err
}

// openPack opens every chunk of a pack, and compares it with its id.
func (v *verification) openPack(c *compartmentView, o thing, data []byte) error {
	return c.eachInPack(data, func(s format.Scope, _ format.DirEntry, open func() ([]byte, error)) error {
		if !v.belongs(o, s, true) {
			return fmt.Errorf("a segment of agent %s is from elsewhere", s.Agent)
		}
		_, err := open()
		return err
	})
}

// eachInPack calls fn with every chunk of a pack. open returns it encoded, until the
// next call, once it has opened it and compared it with its id.
func (c *compartmentView) eachInPack(data []byte, fn func(s format.Scope, e format.DirEntry, open func() ([]byte, error)) error) error {
	p, err := format.ParsePack(data)
	if err != nil {
		return err
	}
	opener := newOpener(c)
	defer opener.close()
	for _, s := range p.Segments {
		h, dir, err := c.directory(s)
		if err != nil {
			return fmt.Errorf("segment at %d: directory: %w", s.Offset, err)
		}
		ref := segmentRef{offset: uint32(s.Offset), head: uint32(len(s.Head)), epoch: h.Scope.Epoch}
		segment, err := c.openSegment(data, ref)
		if err != nil {
			return fmt.Errorf("segment at %d is sealed to nobody who reads here", s.Offset)
		}
		for _, e := range dir {
			err := fn(h.Scope, e, func() ([]byte, error) {
				if _, err := opener.chunk(segment, ref, place{offset: e.Offset, length: e.Length, raw: e.Raw}, data, e.ID, mostOf(e.Kind)); err != nil {
					return nil, fmt.Errorf("chunk %s does not open to its id", e.ID)
				}
				return opener.encoded, nil
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// mostOf is how many bytes a chunk can have.
func mostOf(kind format.ChunkKind) int {
	if kind == format.TreeChunk {
		return format.MaxTreeChunk
	}
	return chunk.MaxSize
}

// belongs reports whether a record of that scope may lie under the object's
// name. A steward joins what others wrote.
func (v *verification) belongs(o thing, s format.Scope, joined bool) bool {
	l := o.by[0].l
	if s.Nation != v.a.key.Nation || s.Compartment != l.Compartment {
		return false
	}
	cc := v.a.charter.Compartment(l.Compartment)
	return s.Agent == l.Agent || joined && cc != nil && slices.Contains(cc.Stewards, l.Agent)
}

// openIndex opens the directories in an index, and compares them with those in
// the packs.
func (t *audit) openIndex(ctx context.Context, c *compartmentView, o thing, data []byte) (unsound, err error) {
	packs, unsound := format.ParseIndex(data)
	if unsound != nil {
		return unsound, nil
	}
	for _, p := range packs {
		for _, s := range p.Segments {
			if _, _, err := c.directory(s); err != nil {
				return fmt.Errorf("directory of pack %s: %w", p.Hash, err), nil
			}
		}
	}
	for _, p := range packs {
		if unsound, err = t.compareIndexed(ctx, o, p); unsound != nil || err != nil {
			return unsound, err
		}
	}
	return nil, nil
}

// compareIndexed compares what an index says of a pack with the pack, if
// entries list it so: else nobody reads it by the index.
func (t *audit) compareIndexed(ctx context.Context, index thing, p format.IndexedPack) (unsound, err error) {
	agent := index.by[0].l.Agent
	name := format.ObjectName(t.v.a.key.Nation, index.r.id, agent, format.KindPack, p.Hash)
	listed := false
	for k, err := range t.v.s.catalog.KnownObjects(index.r.id, agent, format.KindPack, p.Hash[:]) {
		if err != nil {
			return nil, err
		}
		listed = k.Size == p.Size
		break // who lists it with several sizes is told when the pack is looked at
	}
	if !listed {
		return nil, nil
	}
	for _, s := range p.Segments {
		same, err := t.same(ctx, name, s)
		if err == nil && !same {
			same, err = t.proven(ctx, index, name, p, s)
		}
		switch {
		case !answered(err):
			return nil, err
		case err != nil: // the pack is reported for itself
			return nil, nil
		case !same:
			return fmt.Errorf("says of pack %s what the pack does not say", p.Hash), nil
		}
	}
	return nil, nil
}

// ends are the header and the directory of a segment, and where they lie.
func ends(s format.IndexedSegment) (at []part, want [][]byte) {
	return []part{{s.Offset, uint64(len(s.Head))}, {s.Offset + s.Length - uint64(len(s.Dir)), uint64(len(s.Dir))}}, [][]byte{s.Head, s.Dir}
}

// same reports whether the target gives a segment's header and directory.
func (t *audit) same(ctx context.Context, pack string, s format.IndexedSegment) (bool, error) {
	at, want := ends(s)
	for i, p := range at {
		got := make([]byte, p.n)
		if err := t.m.read(ctx, pack, int64(p.at), got); err != nil {
			return false, fmt.Errorf("target %s: %w", t.m.Name, err)
		}
		if !bytes.Equal(got, want[i]) {
			return false, nil
		}
	}
	return true, nil
}

// proven is same that reads the whole pack: before a writer is blamed, the hash
// must prove the bytes. A pack that is bad says nothing against the index. No
// pack is read twice for that: of a second index that does not fit it, nobody is
// blamed, and nothing is blamed on anybody that uses it.
func (t *audit) proven(ctx context.Context, index thing, name string, p format.IndexedPack, s format.IndexedSegment) (bool, error) {
	t.mu.Lock()
	again := t.proved[p.Hash]
	t.proved[p.Hash] = true
	if again {
		t.unfit[index.hash] = true
	}
	t.mu.Unlock()
	if again {
		return false, errBadCopy
	}
	at, want := ends(s)
	sum, got, err := t.m.digestParts(ctx, name, int64(p.Size), at, t.arrived)
	if err = t.asked(ctx, err); err == nil && sum != p.Hash {
		err = errBadCopy
	}
	return slices.EqualFunc(got, want, bytes.Equal), err
}

// openSnapshot opens both parts of a snapshot.
func (v *verification) openSnapshot(c *compartmentView, o thing, data []byte) error {
	snap, err := format.ParseSnapshot(data)
	if err != nil {
		return err
	}
	if !v.belongs(o, snap.Header.Scope, false) {
		return errors.New("is from elsewhere")
	}
	w, err := c.Writer(snap.Header.Scope.Epoch)
	if err != nil {
		return err
	}
	if _, err := snap.Summary(w); err != nil {
		return fmt.Errorf("summary: %w", err)
	}
	c.reading.Lock()
	defer c.reading.Unlock()
	if _, err := snap.Root(c.Reader); err != nil {
		return fmt.Errorf("root: %w", err)
	}
	return nil
}

// snapshots walks every snapshot that the target should hold, with nothing but
// what lies on it. What its own damage explains is told as harm; what nothing
// explains but its writer, when the target gave all that matters and gave it
// right, is its writer's doing. An object for which no answer came ends it.
func (t *audit) snapshots(ctx context.Context) error {
	keys := *t.v.o.Keys
	keys.Compartments = slices.DeleteFunc(slices.Clone(keys.Compartments), func(c *Compartment) bool {
		return !slices.ContainsFunc(t.v.a.regions, func(r *region) bool { // then nobody looked what is damaged
			_, placed := r.member(t.m)
			return r.id == c.ID && placed
		})
	})
	known, err := t.known()
	if err != nil {
		return err
	}
	v, err := OpenView(ctx, ViewOptions{Keys: &keys, Members: []*Member{t.m}, Log: t.v.s.log, Now: t.v.s.now, known: known, spoilt: t.unfit})
	if err != nil {
		return err
	}
	if err := t.silent(ctx, v); err != nil {
		return err
	}
	behind, err := t.behind()
	if err != nil {
		return err
	}
	tell := func(s committed, what string, cause error, proven bool) {
		switch {
		case t.unfit[s.hash]: // told
		case proven:
			t.report(thing{name: s.c.source.name(s.object), hash: s.hash}, FaultUnsound, cause)
			t.unfit[s.hash] = true
		default:
			if t.out.HarmedTotal++; len(t.out.Harmed) < maxBadListed {
				t.out.Harmed = append(t.out.Harmed, fmt.Sprintf("%s: %v", what, cause))
			}
		}
	}
	for _, s := range v.unread {
		// When its bytes are right, the chain that commits it is not its own.
		tell(s, fmt.Sprintf("snapshot %.12s", s.hash.String()), fmt.Errorf("committed in chain %s: %w", s.ch.chain, s.err), !errors.Is(s.err, errNowhere))
	}
	for _, info := range v.snapshots {
		v.silence.Store(nil)
		cause, proven := t.walkSnapshot(ctx, v, info)
		if err := ctx.Err(); err != nil {
			return err
		}
		if cause == nil {
			continue
		}
		if err := t.silent(ctx, v); err != nil {
			return err
		}
		s, err := v.find(info)
		if err != nil {
			return err
		}
		tell(s, snapshotLine(info.Summary, info.Hash), cause, proven && v.shows(s) && !behind[s.c.ID])
	}
	return nil
}

// behind returns the compartments of which the target lacks what stewards wrote: who
// has it alone cannot tell what took the place of a pack.
func (t *audit) behind() (map[format.ID]bool, error) {
	out := map[format.ID]bool{}
	for _, r := range t.v.a.regions {
		for _, l := range r.lines {
			if !r.steward(l.Agent) {
				continue
			}
			claim, err := l.claimOn(t.m)
			if err != nil {
				return nil, err
			}
			out[r.id] = out[r.id] || claim.to < l.last
		}
	}
	return out, nil
}

// known returns the entries that the target should hold, and that were looked
// at: whatever else it lists, and does not list, changes nothing.
func (t *audit) known() ([]knownEntry, error) {
	out := []knownEntry{}
	for _, r := range t.v.a.regions {
		for _, l := range r.lines {
			claim, err := l.claimOn(t.m)
			if err != nil {
				return nil, err
			}
			for seq := range claim.numbers() {
				k, ok, err := t.v.s.catalog.KnownEntry(l.Line, seq)
				if err != nil {
					return nil, err
				}
				if ok {
					out = append(out, knownEntry{l.Line, k})
				}
			}
		}
	}
	return out, nil
}

// silent is why what could not be read says nothing: no answer came, or would
// come now.
func (t *audit) silent(ctx context.Context, v *View) error {
	probe(ctx, t.v.a.key.Nation, []*Member{t.m})
	if err := ctx.Err(); err != nil {
		return err
	}
	if down := t.m.Down(); down != nil {
		return fmt.Errorf("target %s: %w: %w", t.m.Name, ErrDown, down)
	}
	if unanswered := v.silence.Load(); unanswered != nil {
		return fmt.Errorf("target %s: %w", t.m.Name, *unanswered)
	}
	return nil
}

// shows reports whether all entries were read that the references of a
// snapshot may mean.
func (v *View) shows(s committed) bool {
	if len(v.holes) == 0 {
		return true
	}
	for _, agent := range v.holes {
		if v.steward(s.c, agent) {
			return false
		}
	}
	for _, entries := range s.kin() {
		for _, e := range entries {
			needs := slices.Concat(e.Continues, e.Depends, []format.Head{{Chain: e.Chain, Seq: e.Seq - 1, Hash: e.Prev}})
			for _, h := range needs {
				if _, hole := v.holes[h]; hole {
					return false
				}
			}
		}
	}
	return true
}

// snapshotLine names a snapshot for people.
func snapshotLine(s format.Summary, h format.Hash) string {
	return fmt.Sprintf("%s of %s (%.12s)", s.Dataset, s.When().Format("2006-01-02 15:04:05"), h.String())
}

// walkSnapshot goes through a tree, and looks for every chunk that it names in
// the packs that the snapshot may use and that were found good. proven says that
// it met nothing bad, so that only the snapshot's writer explains the cause.
func (t *audit) walkSnapshot(ctx context.Context, v *View, info SnapshotInfo) (cause error, proven bool) {
	r, err := v.open(ctx, info, nil, false)
	if err != nil {
		return err, !errors.Is(err, errNowhere)
	}
	defer r.close()
	cause = t.walkTree(ctx, r)
	return cause, v.doubts.Load() == r.doubts && !r.table.moved // else a steward may have lost it
}

func (t *audit) walkTree(ctx context.Context, r *reading) error {
	var files int
	var first error
	harm := func(at string, err error) {
		if files++; first == nil {
			first = fmt.Errorf("%s: %w", at, err)
		}
	}
	var walk func(dir format.Content, at string, depth int) error
	walk = func(dir format.Content, at string, depth int) error {
		if depth > format.MaxTreeDepth {
			return errTooDeep
		}
		var wrong error // what ends the walk
		err := r.nodes(ctx, dir, func(n *format.Node) error {
			if wrong = r.count(n); wrong != nil {
				return wrong
			}
			name := path.Join(at, string(n.Name))
			switch n.Type {
			case format.File:
				if err := t.hasContent(ctx, r, *n.Content); err != nil {
					harm(name, err)
				}
			case format.Dir:
				wrong = walk(*n.Content, name, depth+1)
			}
			return wrong
		})
		if wrong != nil || ctx.Err() != nil {
			return err
		}
		if err != nil {
			harm(at, err)
		}
		return nil
	}
	if err := walk(r.root.Tree, "/", 0); err != nil {
		return err
	}
	if files == 0 {
		return nil
	}
	if files == 1 {
		return fmt.Errorf("1 file or folder is not whole: %w", first)
	}
	return fmt.Errorf("%d files or folders are not whole, the first is %w", files, first)
}

// hasContent looks for every chunk of a file.
func (t *audit) hasContent(ctx context.Context, r *reading, c format.Content) error {
	var size uint64
	err := r.each(ctx, c, func(id chunk.ID) error {
		from, to := r.table.find(id)
		for _, p := range r.table.places[from:to] {
			if !r.view.meets(r.table.packs[r.table.segments[p.segment].pack].hash) {
				size += uint64(p.raw)
				return nil
			}
		}
		if from < to {
			return fmt.Errorf("chunk %s lies in a pack that is bad", id)
		}
		return errNoPlace(id)
	})
	if err == nil && size != c.Size {
		err = fmt.Errorf("its chunks hold %d bytes of %d", size, c.Size)
	}
	return err
}

// noteLost remembers what is to be named at the end. A machine that writes the
// chain stores again what it lists: see ledger.prepare.
func (v *verification) noteLost(o thing) {
	for _, b := range o.by {
		if err := v.s.catalog.Note(lostKey(b.l.Chain), []byte(o.name)); err != nil {
			v.s.log.Error("note lost object", "object", o.name, "err", err)
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.lost) < maxBadListed && !slices.ContainsFunc(v.lost, func(l thing) bool { return l.name == o.name }) {
		v.lost = append(v.lost, o)
	}
}

// name says of what is lost which snapshots use it, as far as keys allow.
func (v *verification) name(ctx context.Context) ([]LostObject, error) {
	if len(v.lost) == 0 {
		return nil, nil
	}
	var out []LostObject
	for _, o := range v.lost {
		lost := LostObject{Object: o.name}
		if len(o.by) > 0 {
			lost.Chain, lost.Seq = o.by[0].l.Chain, o.by[0].seq
		}
		out = append(out, lost)
	}
	keys := v.o.Keys
	if keys == nil {
		keys = v.a.keys
	}
	if keys == nil {
		return out, nil
	}
	view, err := OpenView(ctx, ViewOptions{Keys: keys, Members: v.s.order, Log: v.s.log, Now: v.s.now})
	if err != nil {
		return out, ctx.Err()
	}
	for _, c := range view.compartments {
		for _, ch := range c.sorted() {
			for _, s := range view.committed(c, ch) {
				for i, o := range v.lost {
					if o.hash == s.hash {
						out[i].Hits = append(out[i].Hits, "a snapshot itself")
					}
				}
				if err := v.hits(ctx, view, s, out); err != nil {
					return out, err
				}
			}
		}
	}
	return out, nil
}

// hits adds a snapshot to what it uses of the lost objects. The error is of
// ctx.
func (v *verification) hits(ctx context.Context, view *View, s committed, out []LostObject) error {
	_, summary, err := view.snapshot(ctx, s, nil)
	if err != nil {
		return ctx.Err() // lost itself
	}
	moves, err := view.moves(ctx, s.c)
	if err != nil {
		return err
	}
	for _, ref := range summary.Refs {
		uses := func(o thing) bool {
			return slices.ContainsFunc(o.by, func(b vouch) bool { return b.l.Chain == ref.Chain && b.seq == ref.Seq })
		}
		if len(moves) == 0 && !slices.ContainsFunc(v.lost, uses) {
			continue
		}
		for _, e := range view.resolve(s.c, s.kin(), ref) {
			all, err := view.fetchEntry(ctx, s.c, chainKey{e.Agent, e.Chain}, e.Seq, e, nil, 0)
			if err != nil {
				continue
			}
			positions, err := format.Positions(ref.Runs, uint32(len(all.Adds)))
			if err != nil {
				continue
			}
			needs := map[format.Hash]bool{}
			for _, p := range positions {
				meant(moves, s, spot{e.Agent, all.Adds[p].Hash}, needs)
			}
			for i, o := range v.lost {
				if len(out[i].Hits) < maxCandidates && needs[o.hash] && !slices.Contains(out[i].Hits, snapshotLine(summary, s.hash)) {
					out[i].Hits = append(out[i].Hits, snapshotLine(summary, s.hash))
				}
			}
		}
	}
	return ctx.Err()
}

// apart reports whether two pseudonyms are different ones, and not one of them
// with a bit or two flipped.
func apart(a, b format.ID) bool {
	n := 0
	for i := range a {
		n += bits.OnesCount8(a[i] ^ b[i])
	}
	return n > 16
}
