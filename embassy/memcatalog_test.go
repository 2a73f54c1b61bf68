package embassy_test

import (
	"cmp"
	"fmt"
	"slices"
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
	placed map[string]map[format.Hash]time.Time
	seen   map[string]embassy.SeenHead
	dirs   map[string][]byte
	notes  map[string][]byte
	runs   []embassy.Run
}

func newMemCatalog() *memCatalog {
	return &memCatalog{
		chunks: map[chunk.ID]embassy.PackNum{}, heads: map[format.ID]uint64{},
		placed: map[string]map[format.Hash]time.Time{}, seen: map[string]embassy.SeenHead{},
		dirs: map[string][]byte{}, notes: map[string][]byte{},
	}
}

func (c *memCatalog) FindChunks(ids []chunk.ID, packs []embassy.PackNum) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, id := range ids {
		packs[i] = c.chunks[id]
	}
	return nil
}

func (c *memCatalog) AddPack(p embassy.PackState, ids []chunk.ID) (embassy.PackNum, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.IndexFunc(c.packs, func(o embassy.PackState) bool { return o.Hash == p.Hash })
	if i < 0 {
		i = len(c.packs)
		p.Num = embassy.PackNum(i + 1)
		c.packs = append(c.packs, p)
	}
	n := embassy.PackNum(i + 1)
	for _, id := range ids {
		if c.chunks[id] == 0 {
			c.chunks[id] = n
		}
	}
	return n, nil
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
		if p.Chain == chain && p.Entry == 0 {
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

func (c *memCatalog) Place(target string, h format.Hash, at time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.placed[target] == nil {
		c.placed[target] = map[format.Hash]time.Time{}
	}
	c.placed[target][h] = at
	return nil
}

func (c *memCatalog) Placed(target string, h format.Hash) (time.Time, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.placed[target][h], nil
}

func (c *memCatalog) SetSeenHead(target string, chain format.ID, h embassy.SeenHead) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := target + "/" + chain.String()
	if h.Seq < c.seen[key].Seq {
		return fmt.Errorf("head %d after %d", h.Seq, c.seen[key].Seq)
	}
	c.seen[key] = h
	return nil
}

func (c *memCatalog) SeenHead(target string, chain format.ID) (embassy.SeenHead, bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h, ok := c.seen[target+"/"+chain.String()]
	return h, ok, nil
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

func (c *memCatalog) Close() error { return nil }
