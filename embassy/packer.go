package embassy

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"embassy/chunk"
	"embassy/embassy/format"
)

const openPacks = 2 // of data, beside one of tree chunks

// packer places encoded chunks in open packs, best fit, and passes full packs
// on to be sealed and sent. It knows every chunk of this run that is not yet
// durable, so that none is stored twice.
type packer struct {
	session *format.Session
	writer  *format.Writer
	full    int // bytes of a full pack
	out     *fanout
	seal    *errgroup.Group
	tight   bool // short packs are not padded

	mu      sync.Mutex
	open    map[format.ChunkKind][]*format.PackBuilder
	pending map[chunk.ID]struct{} // chunks of packs that are not durable yet
	stored  uint64                // bytes of packs made
	packs   int
}

func newPacker(session *format.Session, w *format.Writer, full int, out *fanout, seal *errgroup.Group) *packer {
	return &packer{
		session: session, writer: w, full: full, out: out, seal: seal,
		open: map[format.ChunkKind][]*format.PackBuilder{}, pending: map[chunk.ID]struct{}{},
	}
}

// claim reports whether the caller shall encode and add the chunk: nobody else
// in this run has. The catalog must be asked before.
func (p *packer) claim(id chunk.ID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.pending[id]; ok {
		return false
	}
	p.pending[id] = struct{}{}
	return true
}

// settle forgets chunks that the catalog knows from now on.
func (p *packer) settle(ids []chunk.ID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, id := range ids {
		delete(p.pending, id)
	}
}

// add places an encoded chunk. It waits while all buffers are on their way.
func (p *packer) add(ctx context.Context, kind format.ChunkKind, id chunk.ID, encoded []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		if b := p.bestFit(kind, len(encoded)); b != nil {
			b.Add(kind, id, encoded)
			return nil
		}
		if len(p.open[kind]) == p.limit(kind) {
			p.dispatch(kind, p.fullest(kind), false)
		}
		// The lock is not held while waiting for a buffer: others may fill what
		// is open, and packs that land need it.
		p.mu.Unlock()
		buf, err := p.out.buffer(ctx)
		p.mu.Lock()
		if err != nil {
			return err
		}
		if len(p.open[kind]) >= p.limit(kind) {
			p.out.release(buf)
			continue
		}
		p.open[kind] = append(p.open[kind], format.NewPackBuilder(p.session, p.full, buf))
	}
}

func (p *packer) limit(kind format.ChunkKind) int {
	if kind == format.TreeChunk {
		return 1
	}
	return openPacks
}

// bestFit returns the open pack with the least room that is enough, or nil.
func (p *packer) bestFit(kind format.ChunkKind, size int) *format.PackBuilder {
	var best *format.PackBuilder
	for _, b := range p.open[kind] {
		if b.Free() >= size && (best == nil || b.Free() < best.Free()) {
			best = b
		}
	}
	return best
}

func (p *packer) fullest(kind format.ChunkKind) *format.PackBuilder {
	return slices.MinFunc(p.open[kind], func(a, b *format.PackBuilder) int { return a.Free() - b.Free() })
}

// dispatch seals a pack beside the run and offers it; last says that none comes
// after it that would be fuller. p.mu is held.
func (p *packer) dispatch(kind format.ChunkKind, b *format.PackBuilder, last bool) {
	p.open[kind] = slices.DeleteFunc(p.open[kind], func(o *format.PackBuilder) bool { return o == b })
	p.packs++
	p.seal.Go(func() error {
		pack, err := b.Seal(p.writer)
		if err != nil {
			return fmt.Errorf("seal pack: %w", err)
		}
		ids := make([]chunk.ID, len(pack.Dir))
		for i, e := range pack.Dir {
			ids[i] = e.ID
		}
		if p.tight && (last || len(pack.Data) < p.full) {
			if pack, err = format.Join([]*format.Writer{p.writer}, pack.Data); err != nil {
				return err
			}
		}
		p.mu.Lock()
		p.stored += uint64(len(pack.Data))
		p.mu.Unlock()
		p.out.offer(pack, ids)
		return nil
	})
}

// flush dispatches what is open. Packs that fit into one go as one, data and
// tree together.
func (p *packer) flush() {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := slices.Concat(p.open[format.DataChunk], p.open[format.TreeChunk])
	p.open = map[format.ChunkKind][]*format.PackBuilder{}
	slices.SortFunc(all, func(a, b *format.PackBuilder) int { return a.Free() - b.Free() })
	for i, b := range all {
		if b == nil {
			continue
		}
		for j := len(all) - 1; j > i; j-- {
			if all[j] != nil && b.Absorb(all[j]) {
				p.out.release(all[j].Buffer())
				all[j] = nil
			}
		}
		if b.Len() == 0 {
			p.out.release(b.Buffer())
			continue
		}
		p.dispatch(format.DataChunk, b, true)
	}
}
