package embassy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sort"

	"embassy/chunk"
	"embassy/embassy/format"
)

// File is a file of a snapshot. Safe for concurrent use.
type File struct {
	tree    *Tree
	content format.Content

	turn
	lists []listStart // of depth 1; nil: not yet found, or the content holds the ids itself
	ids   []chunk.ID  // of one of the lists, or of all chunks
	ends  []uint64    // offsets in the file, behind each of ids
	start uint64      // offset of the first of ids

	next, run int64 // offset behind the last read, and the bytes that were read in order
}

// listStart is a list of chunks, and the offset in the file at which it begins.
type listStart struct {
	id   chunk.ID
	from uint64
}

// ReadAt reads what begins at an offset. At the end of the file it returns
// io.EOF with what is left. Any other error says why bytes are not to be had;
// those before them may be in p.
func (f *File) ReadAt(ctx context.Context, p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, fmt.Errorf("read at offset %d: %w", off, fs.ErrInvalid)
	}
	for n < len(p) {
		at := uint64(off) + uint64(n)
		if at >= f.content.Size {
			return n, io.EOF
		}
		id, from, to, ahead, err := f.find(ctx, at, int64(len(p)-n))
		if err != nil {
			return n, err
		}
		data, err := f.tree.chunk(ctx, id, chunk.MaxSize, ahead)
		if err != nil {
			return n, err
		}
		if uint64(len(data)) != to-from {
			return n, fmt.Errorf("%w: chunk %s of %d bytes, should be %d", format.ErrMalformed, id, len(data), to-from)
		}
		n += copy(p[n:], data[at-from:])
	}
	return n, nil
}

// find returns the chunk that has the byte at an offset within the file, the
// offsets where it begins and ends, and how much more is worth fetching for a
// read of so many bytes.
func (f *File) find(ctx context.Context, at uint64, length int64) (id chunk.ID, from, to uint64, ahead int64, err error) {
	if err := f.turn.take(ctx); err != nil {
		return id, 0, 0, 0, err
	}
	defer f.turn.give()
	if len(f.ends) == 0 || at < f.start || at >= f.ends[len(f.ends)-1] {
		if err := f.load(ctx, at); err != nil {
			return id, 0, 0, 0, err
		}
	}
	i := sort.Search(len(f.ends), func(i int) bool { return f.ends[i] > at })
	if from = f.start; i > 0 {
		from = f.ends[i-1]
	}
	if d := int64(at) - f.next; d > nearby || d < -nearby {
		f.run = 0
	}
	f.run, f.next = f.run+length, int64(at)+length
	return f.ids[i], from, f.ends[i], min(f.run, int64(f.content.Size-at)), nil
}

// load finds the ids around an offset, and their ends. The first time it goes
// through all lists. The caller has the turn.
func (f *File) load(ctx context.Context, at uint64) error {
	r, done, err := f.tree.open(ctx)
	if err != nil {
		return err
	}
	defer done()
	ids, err := f.content.IDs()
	if err != nil {
		return err
	}
	if f.content.Depth == 0 {
		ends, err := r.table.ends(ids, 0, f.content.Size)
		if err == nil {
			err = f.covered(ends)
		}
		if err == nil {
			f.ids, f.ends = ids, ends
		}
		return err
	}
	if f.lists == nil {
		if err := f.index(ctx, r, ids); err != nil {
			return err
		}
	}
	l := f.lists[sort.Search(len(f.lists), func(i int) bool { return f.lists[i].from > at })-1]
	if ids, err = f.tree.ids(ctx, l.id); err != nil {
		return err
	}
	ends, err := r.table.ends(ids, l.from, f.content.Size)
	if err != nil {
		return err
	}
	if at >= ends[len(ends)-1] {
		return errors.New("the list of chunks is another than before")
	}
	f.ids, f.ends, f.start = ids, ends, l.from
	return nil
}

// index finds where each list of chunks begins.
func (f *File) index(ctx context.Context, r *reading, ids []chunk.ID) error {
	var lists []listStart
	var ends []uint64
	from := uint64(0)
	err := eachChunk(ctx, ids, f.content.Depth-1, f.tree.list, func(id chunk.ID) error {
		list, err := f.tree.ids(ctx, id)
		if err != nil {
			return err
		}
		if ends, err = r.table.ends(list, from, f.content.Size); err != nil {
			return err
		}
		if lists = append(lists, listStart{id, from}); len(lists) > maxLists {
			return fmt.Errorf("%w: a file of too many chunks", format.ErrMalformed)
		}
		from = ends[len(ends)-1]
		return nil
	})
	if err == nil {
		err = f.covered(ends)
	}
	if err == nil {
		f.lists = lists
	}
	return err
}

// covered checks that chunks with these ends make the whole file.
func (f *File) covered(ends []uint64) error {
	if size := f.content.Size; len(ends) == 0 || ends[len(ends)-1] != size {
		return fmt.Errorf("%w: content lacks bytes of %d", format.ErrMalformed, size)
	}
	return nil
}

// ids returns the ids in a list of chunks, at least one.
func (t *Tree) ids(ctx context.Context, list chunk.ID) ([]chunk.ID, error) {
	data, err := t.list(ctx, list)
	if err != nil {
		return nil, err
	}
	return parseList(data)
}

// ends returns the offsets behind each of the chunks of a file of that size,
// the first of which begins at an offset.
func (t *table) ends(ids []chunk.ID, at, size uint64) ([]uint64, error) {
	ends := make([]uint64, len(ids))
	for i, id := range ids {
		_, raw, err := t.piece(id, size-at)
		if err != nil {
			return nil, err
		}
		at += raw
		ends[i] = at
	}
	return ends, nil
}
