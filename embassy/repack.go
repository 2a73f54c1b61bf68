package embassy

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"embassy/chunk"
	"embassy/embassy/format"
)

const (
	// repackWaste is the part of what is live that may be left as waste: packs are
	// rewritten, those with the most first, until no more is.
	repackWaste = 0.02
	// repackGain is the least part of what is rewritten that must be saved.
	repackGain = 0.05
	// repackBatch is how many bytes of packs one entry replaces: what was done
	// before a crash is then not done again.
	repackBatch = 1 << 30
)

// repack rewrites packs of which much is not used any more. It needs a reader: who
// uses what, only the trees tell, and a chunk is bound to its place in a pack. What
// a snapshot that is not known yet may use is not lost: the order says for which
// entries it is, and what others refer to stays. What cannot be read stays as it is.
func (p *prunePlan) repack(ctx context.Context) error {
	if p.o.Readers == nil {
		return nil
	}
	places, live, err := p.liveChunks(ctx)
	if err != nil {
		return fmt.Errorf("repack: %w: embassy verify --level decrypt tells more", err)
	}
	groups, err := p.wasteful(places, live)
	if err != nil {
		return err
	}
	for _, group := range groups {
		for _, s := range group {
			p.out.Repacked++
			p.out.RepackedBytes += s.size
			p.out.RepackedLive += s.live
			p.taken[s.stock] = true
		}
		for len(group) > 0 && !p.o.DryRun {
			n, size := 0, uint64(0)
			for n < len(group) && (n == 0 || size+group[n].size <= repackBatch) {
				size += group[n].size
				n++
			}
			if err := p.rewritePacks(ctx, group[:n], live); err != nil {
				return fmt.Errorf("repack: %w", err)
			}
			group = group[n:]
		}
	}
	return nil
}

// liveChunks goes through the trees of all snapshots, and returns the places of all
// chunks that they may use, and the keys of those in them. Packs that a snapshot may
// use whose trees cannot be read are left as they are.
func (p *prunePlan) liveChunks(ctx context.Context) (_ *table, live map[uint64]bool, err error) {
	about := "repack of compartment " + p.comp.Part.Name
	b, err := p.v.newTable(ctx, p.c, about, false, nil)
	if err != nil {
		return nil, nil, err
	}
	type closed struct {
		s    committed
		refs []format.Refs
		err  error
	}
	var failed []closed
	var all []*reading
	opener := newOpener(p.c)
	defer opener.close()
	for _, info := range p.v.snapshots {
		r, _, err := p.v.openRoot(ctx, info, nil, false)
		if err == nil {
			r.close()
			r.opener, r.table = opener, b.table
			b.refer(r.s, r.refs)
			all = append(all, r)
			continue
		}
		s, bad := p.v.find(info)
		var summary format.Summary
		if bad == nil {
			_, summary, bad = p.v.snapshot(ctx, s, nil)
		}
		if bad != nil || ctx.Err() != nil {
			return nil, nil, fmt.Errorf("snapshot %.12s: %w", info.Hash, err)
		}
		failed = append(failed, closed{s, summary.Refs, err})
	}
	if _, err := b.build(ctx); err != nil {
		return nil, nil, err
	}
	l := liveWalk{live: map[uint64]bool{}, seen: map[[sha256.Size]byte]bool{}}
	for i, r := range all {
		if i > 0 {
			r.cache = all[i-1].cache // trees have much in common
		}
		if err := l.folder(ctx, r, r.root.Tree, 0); ctx.Err() != nil {
			return nil, nil, err
		} else if err != nil {
			failed = append(failed, closed{r.s, r.refs, err})
		}
	}
	if len(failed) == 0 {
		return b.table, l.live, nil
	}
	spared, err := p.v.newTable(ctx, p.c, about, false, nil)
	if err != nil {
		return nil, nil, err
	}
	for _, f := range failed {
		spared.refer(f.s, f.refs)
	}
	last := failed[len(failed)-1]
	unread := fmt.Errorf("snapshot %.12s: %w: embassy verify --level decrypt tells more", last.s.hash, last.err)
	packs, err := spared.meant(ctx)
	if err != nil {
		return nil, nil, errors.Join(unread, err)
	}
	for _, pack := range packs {
		p.taken[p.listed[spot{pack.by.Agent, pack.hash}]] = true
	}
	p.unread = fmt.Errorf("not rewritten is what snapshots use whose trees cannot be read, %d of them: %w", len(failed), unread)
	return b.table, l.live, nil
}

// liveWalk marks the chunks of trees.
type liveWalk struct {
	live map[uint64]bool            // by placeKey
	seen map[[sha256.Size]byte]bool // contents that were gone through
}

func contentSum(r *reading, c format.Content, kind format.NodeType) [sha256.Size]byte {
	name := binary.BigEndian.AppendUint32([]byte{c.Depth, byte(kind)}, r.naming.epoch) // a file may have the bytes of a folder
	return sha256.Sum256(append(name, c.Chunks...))
}

// content marks the chunks of a file or a folder, and reports whether that is new.
func (l *liveWalk) content(ctx context.Context, r *reading, c format.Content, kind format.NodeType) (bool, error) {
	sum := contentSum(r, c, kind)
	if l.seen[sum] {
		return false, nil
	}
	ids, err := c.IDs()
	if err != nil {
		return false, err
	}
	err = eachChunk(ctx, ids, c.Depth, func(ctx context.Context, id chunk.ID) ([]byte, error) {
		l.live[placeKey(id)] = true
		return r.chunk(ctx, id, format.MaxTreeChunk)
	}, func(id chunk.ID) error {
		if from, to := r.table.find(id); from == to {
			return errNoPlace(id)
		}
		l.live[placeKey(id)] = true
		return nil
	})
	l.seen[sum] = err == nil
	return true, err
}

func (l *liveWalk) folder(ctx context.Context, r *reading, dir format.Content, depth int) (err error) {
	if depth > format.MaxTreeDepth {
		return errTooDeep
	}
	if fresh, err := l.content(ctx, r, dir, format.Dir); err != nil || !fresh {
		return err
	}
	defer func() {
		if err != nil { // not all that is in it is marked: another snapshot that has it may not rely on that
			delete(l.seen, contentSum(r, dir, format.Dir))
		}
	}()
	return r.nodes(ctx, dir, func(n *format.Node) error {
		if err := r.count(n); err != nil {
			return err
		}
		switch n.Type {
		case format.File:
			_, err := l.content(ctx, r, *n.Content, format.File)
			return err
		case format.Dir:
			return l.folder(ctx, r, *n.Content, depth+1)
		}
		return nil
	})
}

// wasteful returns the packs that are to be rewritten, by the agent that wrote them,
// oldest first.
func (p *prunePlan) wasteful(t *table, live map[uint64]bool) ([][]short, error) {
	used := map[spot]uint64{} // bytes of live chunks
	for _, at := range t.places {
		pack := t.packs[t.segments[at.segment].pack]
		s := spot{pack.agent, pack.hash}
		if used[s] += 0; live[at.key] {
			used[s] += uint64(at.length)
		}
	}
	var all []short
	var waste, sum uint64
	for at, n := range used {
		h := p.listed[at]
		if h == nil || p.taken[h] {
			continue
		}
		if ok, err := p.movable(at, h); err != nil || !ok {
			if err != nil {
				return nil, err
			}
			continue
		}
		h.live = min(n, h.size)
		sum, waste = sum+h.live, waste+h.size-h.live
		all = append(all, short{at, h})
	}
	slices.SortFunc(all, func(a, b short) int { // the most wasteful first
		return cmp.Or(cmp.Compare(float64(a.live)/float64(a.size), float64(b.live)/float64(b.size)), slices.Compare(a.hash[:], b.hash[:]))
	})
	groups := map[format.ID][]short{}
	most := cmp.Or(p.o.MaxRepack, math.MaxUint64)
	for _, s := range all {
		if float64(waste) <= repackWaste*float64(sum) || s.live > most {
			break
		}
		waste -= s.size - s.live
		most -= s.live
		groups[s.owner] = append(groups[s.owner], s)
	}
	for owner, group := range groups {
		if !worth(group) {
			delete(groups, owner)
		}
		slices.SortFunc(group, short.compare)
	}
	return slices.SortedFunc(maps.Values(groups), func(a, b []short) int { return slices.Compare(a[0].owner[:], b[0].owner[:]) }), nil
}

// worth reports whether it saves enough to rewrite packs of one agent.
func worth(group []short) bool {
	var before, live uint64
	for _, s := range group {
		before, live = before+s.size, live+s.live
	}
	after := live + live/100 + 8<<10 // with headers and directories, about
	return float64(before-min(before, after)) >= repackGain*float64(before)
}

// rewritePacks makes packs of what is live in others, and orders that they take
// their place.
func (p *prunePlan) rewritePacks(ctx context.Context, group []short, live map[uint64]bool) error {
	w := p.rewrite(ctx)
	w.check = func(data []byte) error { return p.c.eachInPack(data, openEach) }
	r := &repacker{p: p, w: w, live: live, packers: map[uint32]*packer{}, keeps: make([][]chunk.ID, len(group)), left: make([]error, len(group))}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(2)
	for i, s := range group {
		g.Go(func() error { return r.pack(gctx, i, s) })
	}
	err := g.Wait()
	for _, out := range r.packers {
		if err == nil {
			out.flush()
		}
	}
	if e := r.sealing.Wait(); err == nil {
		err = e
	}
	err = w.end(err)
	for _, out := range r.packers {
		out.session.Wipe()
	}
	if err != nil {
		return err
	}
	where := map[chunk.ID]format.Hash{}
	for _, m := range w.made {
		for _, id := range m.ids {
			where[id] = m.Hash
		}
	}
	var replaced []format.Replaced
	for i, s := range group {
		by := make([]format.Hash, len(r.keeps[i]))
		for k, id := range r.keeps[i] {
			var ok bool
			if by[k], ok = where[id]; !ok { // it was to come from a pack that cannot be read
				r.left[i] = cmp.Or(r.left[i], errNoPlace(id))
			}
		}
		if r.left[i] != nil {
			p.out.Repacked, p.out.RepackedBytes, p.out.RepackedLive = p.out.Repacked-1, p.out.RepackedBytes-s.size, p.out.RepackedLive-s.live
			p.unread = cmp.Or(p.unread, fmt.Errorf("not rewritten is what cannot be read, such as pack %.12s: %w: embassy verify --repair", s.hash, r.left[i]))
			continue
		}
		replaced = append(replaced, format.NewReplaced(s.agent, s.hash, by))
	}
	if len(replaced) == 0 {
		return w.abandon()
	}
	return w.replace(ctx, replaced, p.tips())
}

// tips are the last entries of all chains, and of every branch of one that forks.
func (p *prunePlan) tips() (tips []format.Head) {
	for _, ch := range p.c.sorted() {
		for _, n := range ch.numbers() {
			for _, e := range ch.entries[n] {
				if !slices.ContainsFunc(ch.entries[n+1], func(next *readEntry) bool { return next.Prev == e.hash }) {
					tips = append(tips, format.Head{Chain: ch.chain, Seq: n, Hash: e.hash})
				}
			}
		}
	}
	return tips
}

// openEach opens a chunk, so that it is known to be right.
func openEach(_ format.Scope, _ format.DirEntry, open func() ([]byte, error)) error {
	_, err := open()
	return err
}

// repacker copies live chunks into new packs.
type repacker struct {
	p       *prunePlan
	w       *rewriting
	live    map[uint64]bool
	sealing errgroup.Group
	keeps   [][]chunk.ID // the live chunks of each pack
	left    []error      // why a pack is not rewritten

	mu      sync.Mutex
	packers map[uint32]*packer // by writer epoch, which names the chunks
}

// pack copies what is live in a pack. If it cannot be read, r.left says why.
func (r *repacker) pack(ctx context.Context, i int, s short) error {
	data := make([]byte, s.size)
	if r.left[i] = r.p.c.source.whole(ctx, s.object(), data, false, nil); r.left[i] != nil {
		return ctx.Err()
	}
	var failed error
	r.left[i] = r.p.c.eachInPack(data, func(scope format.Scope, e format.DirEntry, open func() ([]byte, error)) error {
		if !r.live[placeKey(e.ID)] {
			return nil
		}
		r.keeps[i] = append(r.keeps[i], e.ID)
		out, err := r.packer(scope.Epoch)
		if err != nil {
			failed = err
			return err
		}
		if !out.claim(e.ID) {
			return nil
		}
		encoded, err := open()
		if err != nil {
			return err
		}
		failed = out.add(ctx, e.Kind, e.ID, encoded)
		return failed
	})
	return failed
}

// packer returns what makes packs of chunks of a writer epoch. They are sealed to
// whom may read that epoch now.
func (r *repacker) packer(epoch uint32) (*packer, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if out := r.packers[epoch]; out != nil {
		return out, nil
	}
	w, err := r.p.c.Writer(epoch)
	if err != nil {
		return nil, err
	}
	to := slices.DeleteFunc(slices.Clone(r.p.c.Recipients), func(to format.Recipient) bool { return to.Since > epoch })
	session, err := format.NewSession(r.p.l.scope(epoch), to)
	if err != nil {
		return nil, err
	}
	out := newPacker(session, w, r.p.s.packSize(), r.w.out, &r.sealing)
	out.tight = true // as joined ones
	r.packers[epoch] = out
	return out, nil
}
