package embassy_test

import (
	"bytes"
	"cmp"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"embassy/chunk"
	"embassy/embassy"
	"embassy/embassy/format"
)

// memCatalog is a Catalog in memory. It checks what its callers promise.
type memCatalog struct {
	mu     sync.Mutex
	chunks map[chunk.ID]embassy.PackNum
	packs  []embassy.PackState // number n at n-1
	heads  map[format.ID]uint64
	placed map[string]map[format.Hash]embassy.Evidence
	seen   map[string]map[embassy.Line]embassy.SeenHead
	known  map[embassy.Line][]knownEntry
	faults map[string]embassy.Fault
	dirs   map[string][]byte
	notes  map[string][]byte
	runs   []embassy.Run
	fates  map[format.ID]map[format.Hash]embassy.KnownFate

	abandoned map[embassy.PackNum]bool
}

func newMemCatalog() *memCatalog {
	return &memCatalog{
		chunks: map[chunk.ID]embassy.PackNum{}, heads: map[format.ID]uint64{},
		placed: map[string]map[format.Hash]embassy.Evidence{}, seen: map[string]map[embassy.Line]embassy.SeenHead{},
		known: map[embassy.Line][]knownEntry{}, faults: map[string]embassy.Fault{},
		dirs: map[string][]byte{}, notes: map[string][]byte{},
		fates: map[format.ID]map[format.Hash]embassy.KnownFate{}, abandoned: map[embassy.PackNum]bool{},
	}
}

func (c *memCatalog) FindChunks(ids []chunk.ID, packs []embassy.PackNum) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, id := range ids {
		packs[i] = c.chunks[id]
		if c.condemned(packs[i]) {
			packs[i] = 0
		}
	}
	return nil
}

// condemned reports whether there is such a pack, and it is condemned. The
// caller holds the lock.
func (c *memCatalog) condemned(n embassy.PackNum) bool { return n != 0 && c.packs[n-1].Condemned }

func (c *memCatalog) AddPack(p embassy.PackState, ids []chunk.ID) (embassy.PackNum, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.IndexFunc(c.packs, func(o embassy.PackState) bool { return o.Hash == p.Hash })
	if i < 0 {
		i = len(c.packs)
		p.Num, p.Condemned = embassy.PackNum(i+1), false
		c.packs = append(c.packs, p)
	}
	n := embassy.PackNum(i + 1)
	for _, id := range ids {
		if in := c.chunks[id]; in == 0 || c.condemned(in) && !c.condemned(n) {
			c.chunks[id] = n
		}
	}
	return n, nil
}

func (c *memCatalog) Condemn(packs []format.Hash) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	condemned := map[format.Hash]bool{}
	for _, h := range packs {
		condemned[h] = true
	}
	for i := range c.packs {
		if p := &c.packs[i]; p.Num != 0 && condemned[p.Hash] {
			p.Condemned = true
		}
	}
	return nil
}

func (c *memCatalog) Abandon(n embassy.PackNum) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n == 0 || int(n) > len(c.packs) {
		return nil
	}
	if p := &c.packs[n-1]; p.Num != 0 && p.Entry == 0 {
		p.Condemned, p.Head = true, nil
		c.abandoned[n] = true
	}
	return nil
}

func (c *memCatalog) Pack(n embassy.PackNum) (embassy.PackState, bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n == 0 || int(n) > len(c.packs) || c.packs[n-1].Num == 0 {
		return embassy.PackState{}, false, nil
	}
	return c.packs[n-1], true, nil
}

func (c *memCatalog) PackByHash(h format.Hash) (embassy.PackState, bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.packs {
		if p.Hash == h {
			return p, true, nil
		}
	}
	return embassy.PackState{}, false, nil
}

func (c *memCatalog) UnlistedPacks(chain format.ID) ([]embassy.PackState, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []embassy.PackState
	for _, p := range c.packs {
		if p.Num != 0 && p.Chain == chain && p.Entry == 0 && !c.abandoned[p.Num] {
			out = append(out, p)
		}
	}
	return out, nil
}

func (c *memCatalog) SetListed(chain format.ID, seq uint64, packs []embassy.ListedPack) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if head := c.heads[chain]; seq != head && seq != head+1 {
		return fmt.Errorf("entry %d after %d", seq, head)
	}
	for _, l := range packs {
		p := &c.packs[l.Num-1]
		p.Entry, p.Pos, p.Head = seq, l.Pos, nil
	}
	c.heads[chain] = seq
	return nil
}

func (c *memCatalog) ListedHead(chain format.ID) (uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.heads[chain], nil
}

func (c *memCatalog) SetFates(compartment format.ID, fates []embassy.KnownFate) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fates[compartment] == nil {
		c.fates[compartment] = map[format.Hash]embassy.KnownFate{}
	}
	for _, f := range fates {
		if !f.Marked.Given() && !f.Deleted.Given() {
			continue
		}
		known, ok := c.fates[compartment][f.Hash]
		if !ok {
			known = embassy.KnownFate{Agent: f.Agent, Kind: f.Kind, Hash: f.Hash}
		}
		for _, o := range []struct{ dst, src *embassy.Order }{
			{&known.Marked, &f.Marked}, {&known.Deleted, &f.Deleted},
		} {
			if !o.dst.Given() && o.src.Given() {
				*o.dst = *o.src
			}
		}
		c.fates[compartment][f.Hash] = known
	}
	return nil
}

func (c *memCatalog) DropOrders(l embassy.Line, after uint64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for h, f := range c.fates[l.Compartment] {
		for _, o := range []*embassy.Order{&f.Marked, &f.Deleted} {
			if o.Agent == l.Agent && o.Chain == l.Chain && o.Seq > after {
				*o = embassy.Order{}
			}
		}
		if c.fates[l.Compartment][h] = f; !f.Marked.Given() && !f.Deleted.Given() {
			delete(c.fates[l.Compartment], h)
		}
	}
	return nil
}

func (c *memCatalog) Fate(compartment format.ID, h format.Hash) (embassy.Fate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.fates[compartment][h].Fate, nil
}

func (c *memCatalog) Fates(compartment format.ID) iter.Seq2[embassy.KnownFate, error] {
	c.mu.Lock()
	out := slices.SortedFunc(maps.Values(c.fates[compartment]), func(a, b embassy.KnownFate) int {
		return slices.Compare(a.Hash[:], b.Hash[:])
	})
	c.mu.Unlock()
	return func(yield func(embassy.KnownFate, error) bool) {
		for _, f := range out {
			if !yield(f, nil) {
				return
			}
		}
	}
}

func (c *memCatalog) Forget() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.packs {
		c.packs[i] = embassy.PackState{} // the number stays taken
	}
	clear(c.chunks)
	clear(c.heads)
	clear(c.placed)
	clear(c.dirs)
	return nil
}

func (c *memCatalog) ForgetCompartment(compartment format.ID) error {
	err := c.Forget()
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.known, func(l embassy.Line, _ []knownEntry) bool { return l.Compartment == compartment })
	delete(c.fates, compartment)
	return err
}

func (c *memCatalog) Place(target string, h format.Hash, at time.Time) error {
	return c.SetEvidence(target, map[format.Hash]embassy.Evidence{h: {Stored: at}})
}

func (c *memCatalog) Placed(target string, h format.Hash) (time.Time, error) {
	e, err := c.Evidence(target, h)
	return e.Stored, err
}

func (c *memCatalog) SetEvidence(target string, found map[format.Hash]embassy.Evidence) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.placed[target] == nil {
		c.placed[target] = map[format.Hash]embassy.Evidence{}
	}
	for h, e := range found {
		have := c.placed[target][h]
		for _, p := range []struct{ dst, src *time.Time }{
			{&have.Stored, &e.Stored}, {&have.Verified, &e.Verified}, {&have.Locked, &e.Locked},
		} {
			if !p.src.IsZero() {
				*p.dst = *p.src
			}
		}
		c.placed[target][h] = have
	}
	return nil
}

func (c *memCatalog) Evidence(target string, h format.Hash) (embassy.Evidence, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.placed[target][h], nil
}

func (c *memCatalog) DropEvidence(target string, h format.Hash) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.placed[target], h)
	return nil
}

// knownEntry is what Learn was given.
type knownEntry struct {
	embassy.Known
	adds []format.Listed
}

func (c *memCatalog) Learn(l embassy.Line, e embassy.Known, adds []format.Listed) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	known := c.known[l]
	switch n := uint64(len(known)); {
	case e.Seq >= 1 && e.Seq <= n && known[e.Seq-1].Known == e:
		return nil
	case e.Seq != n+1:
		return fmt.Errorf("learn entry %d after %d", e.Seq, n)
	}
	c.known[l] = append(known, knownEntry{e, slices.Clone(adds)})
	return nil
}

func (c *memCatalog) LearnAll(l embassy.Line, entries []embassy.LearnedEntry) error {
	for _, e := range entries {
		if err := c.Learn(l, e.Known, e.Adds); err != nil {
			return err
		}
	}
	return nil
}

func (c *memCatalog) KnownHead(l embassy.Line) (embassy.Known, bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.known[l]); n > 0 {
		return c.known[l][n-1].Known, true, nil
	}
	return embassy.Known{}, false, nil
}

func (c *memCatalog) KnownEntry(l embassy.Line, seq uint64) (embassy.Known, bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if seq == 0 || seq > uint64(len(c.known[l])) {
		return embassy.Known{}, false, nil
	}
	return c.known[l][seq-1].Known, true, nil
}

func (c *memCatalog) KnownEntries(l embassy.Line) (out []embassy.Known, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.known[l] {
		out = append(out, e.Known)
	}
	return out, nil
}

func (c *memCatalog) KnownLines() ([]embassy.Line, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.SortedFunc(maps.Keys(c.known), func(a, b embassy.Line) int {
		return cmp.Or(slices.Compare(a.Compartment[:], b.Compartment[:]), slices.Compare(a.Agent[:], b.Agent[:]), slices.Compare(a.Chain[:], b.Chain[:]))
	}), nil
}

func (c *memCatalog) KnownObjects(compartment, agent format.ID, kind format.Kind, prefix []byte) iter.Seq2[embassy.KnownObject, error] {
	c.mu.Lock()
	var out []embassy.KnownObject
	for l, entries := range c.known {
		if l.Compartment != compartment || l.Agent != agent {
			continue
		}
		for _, e := range entries {
			for _, a := range e.adds {
				if a.Kind == kind && bytes.HasPrefix(a.Hash[:], prefix) {
					out = append(out, embassy.KnownObject{Kind: kind, Hash: a.Hash, Size: a.Size, Chain: l.Chain, Seq: e.Seq})
				}
			}
		}
	}
	c.mu.Unlock()
	slices.SortFunc(out, func(a, b embassy.KnownObject) int {
		return cmp.Or(slices.Compare(a.Hash[:], b.Hash[:]), slices.Compare(a.Chain[:], b.Chain[:]), cmp.Compare(a.Seq, b.Seq))
	})
	return func(yield func(embassy.KnownObject, error) bool) {
		for _, o := range out {
			if !yield(o, nil) {
				return
			}
		}
	}
}

func faultKey(target string, kind embassy.FaultKind, object string) string {
	return target + "\x00" + string(kind) + "\x00" + object
}

func (c *memCatalog) AddFault(f embassy.Fault) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := faultKey(f.Target, f.Kind, f.Object)
	if before, ok := c.faults[key]; ok {
		f.First = before.First
	}
	c.faults[key] = f
	return nil
}

func (c *memCatalog) Faults(target string) ([]embassy.Fault, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []embassy.Fault
	for _, key := range slices.Sorted(maps.Keys(c.faults)) {
		if f := c.faults[key]; target == "" || f.Target == target {
			out = append(out, f)
		}
	}
	return out, nil
}

func (c *memCatalog) Fault(target string, kind embassy.FaultKind, object string) (embassy.Fault, bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f, ok := c.faults[faultKey(target, kind, object)]
	return f, ok, nil
}

func (c *memCatalog) ClearFault(target string, kind embassy.FaultKind, object string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.faults, faultKey(target, kind, object))
	return nil
}

func (c *memCatalog) SetSeenHead(target string, l embassy.Line, h embassy.SeenHead) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.seen[target] == nil {
		c.seen[target] = map[embassy.Line]embassy.SeenHead{}
	}
	if before := c.seen[target][l].Seq; h.Seq < before {
		return fmt.Errorf("head %d after %d", h.Seq, before)
	}
	c.seen[target][l] = h
	return nil
}

func (c *memCatalog) SeenHead(target string, l embassy.Line) (embassy.SeenHead, bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h, ok := c.seen[target][l]
	return h, ok, nil
}

func (c *memCatalog) ForgetTarget(target string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.placed, target)
	delete(c.seen, target)
	maps.DeleteFunc(c.faults, func(_ string, f embassy.Fault) bool { return f.Target == target })
	return nil
}

func (c *memCatalog) CachedDir(series, path string) ([]byte, bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	d, ok := c.dirs[series+"\x00"+path]
	return d, ok, nil
}

func (c *memCatalog) PutCachedDirs(series string, dirs map[string][]byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for path, d := range dirs {
		c.dirs[series+"\x00"+path] = slices.Clone(d)
	}
	return nil
}

func (c *memCatalog) AddRun(r embassy.Run) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.runs = append(c.runs, r)
	return nil
}

func (c *memCatalog) Runs(dataset string, n int) ([]embassy.Run, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []embassy.Run
	for _, r := range c.runs {
		if dataset == "" || r.Dataset == dataset {
			out = append(out, r)
		}
	}
	slices.SortStableFunc(out, func(a, b embassy.Run) int { return cmp.Compare(b.Ended.UnixNano(), a.Ended.UnixNano()) })
	return out[:min(n, len(out))], nil
}

func (c *memCatalog) Note(key string, value []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.notes[key] = slices.Clone(value)
	return nil
}

func (c *memCatalog) Noted(key string) ([]byte, bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, ok := c.notes[key]
	return v, ok, nil
}

func (c *memCatalog) Notes(prefix string) (map[string][]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := map[string][]byte{}
	for key, value := range c.notes {
		if rest, ok := strings.CutPrefix(key, prefix); ok {
			out[rest] = value
		}
	}
	return out, nil
}

func (c *memCatalog) Close() error { return nil }
