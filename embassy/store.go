package embassy

import (
	"bytes"
	"context"
	"io"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"

	"embassy/chunk"
	"embassy/embassy/format"
)

const (
	smallBuffers = 48 // of chunk.MinSize bytes: whole small files
	largeBuffers = 6  // of chunk.MaxSize bytes: pieces of larger files
	fileReaders  = 4
)

// store turns bytes into stored chunks: read and split by a few readers,
// identified, looked up, compressed and packed by one worker per core. Every
// stage is bounded by its buffers.
type store struct {
	catalog Catalog
	packer  *packer
	writer  *format.Writer
	poly    func() (chunk.Polynomial, error) // derived for the first large file: that takes milliseconds
	used    *packSet

	readers int // files that are read at once

	files  chan *pendingFile
	pieces chan piece
	small  chan []byte // free buffers; nil stands for one not yet allocated
	large  chan []byte
}

// piece is one chunk on its way to a worker, which gives the buffer back.
type piece struct {
	file *pendingFile
	slot int // in file.ids
	data []byte
	home chan<- []byte // gets the buffer back
}

// pendingFile is a file whose content is being stored. done is closed when
// ids, size and err are final.
type pendingFile struct {
	open func() (io.ReadCloser, error)
	hint int64 // expected size
	firm bool  // whoever opens it finds out by itself when there was more

	done chan struct{}
	left sync.WaitGroup
	mu   sync.Mutex
	ids  []chunk.ID
	size uint64
	err  error
}

func newStore(cat Catalog, p *packer, w *format.Writer, used *packSet) *store {
	s := &store{
		catalog: cat, packer: p, writer: w, poly: sync.OnceValues(w.Polynomial), used: used, readers: fileReaders,
		files: make(chan *pendingFile, 2*fileReaders), pieces: make(chan piece, smallBuffers),
		small: make(chan []byte, smallBuffers), large: make(chan []byte, largeBuffers),
	}
	for range smallBuffers {
		s.small <- nil
	}
	for range largeBuffers {
		s.large <- nil
	}
	return s
}

// run serves until close; an error of a worker ends the run.
func (s *store) run(ctx context.Context) error {
	workers, wctx := errgroup.WithContext(ctx)
	var readers sync.WaitGroup
	for range s.readers {
		readers.Go(func() {
			split := sync.OnceValues(func() (*chunk.Splitter, error) {
				p, err := s.poly()
				return chunk.NewSplitter(p), err
			})
			for f := range s.files {
				f.read(wctx, s, split)
			}
		})
	}
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() error {
			k := s.newKeeper()
			var first error
			for p := range s.pieces {
				err := first // after an error only buffers are given back
				var id chunk.ID
				if err == nil {
					id, err = k.keep(wctx, format.DataChunk, p.data)
				}
				p.home <- p.data
				if err == nil {
					p.file.put(p.slot, id)
				} else {
					p.file.fail(err)
					first = err
				}
				p.file.left.Done()
			}
			return first
		})
	}
	readers.Wait()
	close(s.pieces)
	return workers.Wait()
}

// close says that no file will be submitted any more.
func (s *store) close() { close(s.files) }

// submit queues a file and returns at once, unless the queue is full.
func (s *store) submit(ctx context.Context, f *pendingFile) error {
	f.done = make(chan struct{})
	select {
	case s.files <- f:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *pendingFile) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = err
	}
}

// put sets the id of one chunk.
func (f *pendingFile) put(slot int, id chunk.ID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.ids) <= slot {
		f.ids = append(f.ids, chunk.ID{})
	}
	f.ids[slot] = id
}

// read splits the file and hands its pieces to the workers. A file below
// chunk.MinSize is one piece.
func (f *pendingFile) read(ctx context.Context, s *store, splitter func() (*chunk.Splitter, error)) {
	defer close(f.done)
	defer f.left.Wait()
	r, err := f.open()
	if err != nil {
		f.fail(err)
		return
	}
	defer r.Close()
	var in io.Reader = r
	if f.hint < chunk.MinSize {
		buf, err := take(ctx, s.small, chunk.MinSize)
		if err != nil {
			f.fail(err)
			return
		}
		want, least := buf, len(buf)
		if f.firm { // a byte more, for files that hold more than they say
			want, least = buf[:f.hint+1], max(int(f.hint), 1)
		}
		n, err := io.ReadAtLeast(r, want, least)
		if err == nil && n < len(want) || err == io.EOF || err == io.ErrUnexpectedEOF {
			if n == 0 {
				s.small <- buf
				return
			}
			f.send(s, piece{data: buf[:n], home: s.small})
			return
		}
		head := bytes.Clone(buf[:n])
		s.small <- buf
		if err != nil {
			f.fail(err)
			return
		}
		in = io.MultiReader(bytes.NewReader(head), r) // it has grown
	}
	split, err := splitter()
	if err != nil {
		f.fail(err)
		return
	}
	split.Reset(in)
	for slot := 0; ; slot++ {
		buf, err := take(ctx, s.large, chunk.MaxSize)
		if err != nil {
			f.fail(err)
			return
		}
		data, err := split.Next(buf)
		if err != nil {
			s.large <- buf
			if err != io.EOF {
				f.fail(err)
			}
			return
		}
		f.send(s, piece{slot: slot, data: data, home: s.large})
	}
}

func (f *pendingFile) send(s *store, p piece) {
	p.file = f
	f.size += uint64(len(p.data))
	f.left.Add(1)
	s.pieces <- p // workers take until it is closed
}

// take waits for a free buffer of the given capacity.
func take(ctx context.Context, free <-chan []byte, size int) ([]byte, error) {
	select {
	case b := <-free:
		if b == nil {
			return make([]byte, size), nil
		}
		return b[:size], nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// keeper identifies chunks and packs those that are new. Not for concurrent
// use.
type keeper struct {
	s      *store
	hasher *chunk.Hasher
	enc    *chunk.Encoder
	buf    []byte
	id     [1]chunk.ID
	pack   [1]PackNum
}

func (s *store) newKeeper() *keeper {
	return &keeper{s: s, hasher: s.writer.Hasher(), enc: chunk.NewEncoder()}
}

// keep returns the id of the chunk, and stores it if nothing holds it yet.
func (k *keeper) keep(ctx context.Context, kind format.ChunkKind, data []byte) (chunk.ID, error) {
	id := k.hasher.ID(data)
	if !k.s.packer.claim(id) {
		return id, nil
	}
	k.id[0] = id
	if err := k.s.catalog.FindChunks(k.id[:], k.pack[:]); err != nil {
		return id, err
	}
	if k.pack[0] != 0 {
		k.s.used.add(k.pack[0])
		k.s.packer.settle(k.id[:])
		return id, nil
	}
	k.buf = k.enc.Encode(k.buf[:0], data)
	return id, k.s.packer.add(ctx, kind, id, k.buf)
}
