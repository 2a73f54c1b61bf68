package embassy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"embassy/chunk"
	"embassy/embassy/format"
)

// ErrPartial is wrapped by the error of a dump that did not write every byte
// asked for, and may have written some.
var ErrPartial = errors.New("dump is incomplete, and so is what it wrote")

const (
	dumpRoom   = 128 << 20 // bytes of the packs that contents are read from
	dumpWindow = 64 << 20  // bytes that are planned together
	dumpSteps  = 16 << 10
	dumpBuffer = 1 << 20 // bytes on their way out
)

// ErrArchive: a dump would write an archive, and was told not to.
var ErrArchive = errors.New("it needs an archive")

// Archive is a form in which a dump writes names beside contents.
type Archive int

// The forms of a dump.
const (
	Bare Archive = iota // the bytes of one file
	Tar                 // PAX, with owners, attributes, hard links and devices
	Zip
)

// DumpOptions say what of which snapshot to write, and how.
type DumpOptions struct {
	Snapshot SnapshotInfo
	Path     string  // absolute source path of a file or folder; empty: all
	Archive  Archive // Bare means Tar for a folder
	// NoArchive gives ErrArchive before anything is written, unless it is the
	// bytes of one file.
	NoArchive bool
}

// DumpReport says what a dump wrote.
type DumpReport struct {
	Archive    Archive
	Files      uint64 // hard links included
	Dirs       uint64
	Others     uint64       // neither file nor folder
	Bytes      uint64       // of content
	Left       uint64       // names that the archive cannot hold; each was told to Warn
	SourceGaps []format.Gap // what the backup could not read, there or below
}

// Dump writes a file, or a folder with all below, to out, in the order of the
// tree and with bounded memory. A name in an archive is the source path without
// the slash before it, and each of its parts is a plain name. Every byte was
// authenticated; a bad copy is told to Warn, and another one is read.
//
// The first thing that no target gives ends the dump. The error wraps
// ErrPartial then, names it, and may come after bytes were written. It is
// fs.ErrNotExist when nothing lies there. Any other error comes before anything
// was written.
func (v *View) Dump(ctx context.Context, o DumpOptions, out io.Writer) (DumpReport, error) {
	meter := newMeter(v.progress, v.now, "dump", o.Snapshot.Summary.Dataset)
	defer meter.end()
	r, err := v.open(ctx, o.Snapshot, newTally(meter), false)
	if err != nil {
		return DumpReport{}, err
	}
	defer r.close()
	at := path.Clean("/" + o.Path)
	top, err := r.seek(ctx, at)
	if err != nil {
		return DumpReport{}, err
	}
	report := DumpReport{Archive: o.Archive}
	if report.Archive == Bare && top.Type == format.Dir {
		report.Archive = Tar
	}
	switch {
	case report.Archive != Bare && o.NoArchive:
		return report, ErrArchive
	case report.Archive == Bare && top.Type == format.Symlink:
		return report, fmt.Errorf("%q is a symbolic link to %q: name what it points to, or write an archive", at, top.Link)
	case report.Archive == Bare && top.Type != format.File:
		return report, fmt.Errorf("%q is no file and has no content: write an archive", at)
	}
	for _, g := range r.root.Errors {
		if p := string(g.Path); at == "/" || p == at || strings.HasPrefix(p, at+"/") {
			report.SourceGaps = append(report.SourceGaps, g)
		}
	}
	if s := o.Snapshot.Summary; at == "/" {
		meter.add(func(p *Progress) { p.FilesTotal, p.BytesTotal = s.Files, s.Bytes })
	}
	data := r.contents(dumpRoom)
	defer data.close()
	buffer := bufio.NewWriterSize(out, dumpBuffer)
	d := &dumper{
		r: r, data: data, warn: v.warn, meter: meter, report: &report, hardLinks: report.Archive == Tar,
		out: newArchive(report.Archive, buffer),
	}
	if err := d.run(ctx, at, top); err != nil {
		err = errors.Join(err, buffer.Flush()) // what came before it is right
		return report, fmt.Errorf("%w: %w", ErrPartial, err)
	}
	if err := errors.Join(d.out.close(), buffer.Flush()); err != nil {
		return report, fmt.Errorf("%w: %w", ErrPartial, err)
	}
	if later := o.Snapshot.Later(); later != "" {
		return report, fmt.Errorf("%w: it %s", ErrPartial, later)
	}
	return report, nil
}

// archive writes names and contents one after another.
type archive interface {
	// add begins a name; first is that of the file that it is a hard link to,
	// if any. What is written next is its content. The error wraps errLeft if
	// the archive cannot hold it.
	add(name string, n *format.Node, first string) (io.Writer, error)
	close() error
}

// errLeft: an archive cannot hold what was to be added.
var errLeft = errors.New("left out")

// step is a name to be added, or a chunk of the file before it.
type step struct {
	path  string
	node  *format.Node // nil: a chunk
	first string       // source path
	id    chunk.ID
}

// dumper writes what lies below a path. What comes next is planned in windows
// of several files, so that a pack is asked for all of it at once.
type dumper struct {
	r, data   *reading // trees, and contents
	out       archive
	hardLinks bool // out knows them
	warn      func(Finding)
	meter     *meter
	report    *DumpReport

	first  firstNames
	steps  []step
	size   uint64          // bytes that the steps stand for
	packs  map[uint32]bool // that the steps need
	needed uint64          // bytes of these

	path string    // of the file that is being written
	to   io.Writer // its place
	left uint64    // bytes of it that are to come
}

func (d *dumper) run(ctx context.Context, at string, top *format.Node) error {
	if at != "/" {
		if err := d.plan(ctx, at, top); err != nil {
			return err
		}
	}
	if top.Type == format.Dir {
		err := d.r.walk(ctx, *top.Content, at, true,
			func(p string, n *format.Node) error { return d.plan(ctx, p, n) },
			func(p string, err error) error { return fmt.Errorf("%q: folder list: %w", p, err) })
		if err != nil {
			return err
		}
	}
	if err := d.flush(ctx); err != nil {
		return err
	}
	return named(d.path, d.ended())
}

// ended checks that the last file has all its bytes.
func (d *dumper) ended() error {
	if d.left > 0 {
		return fmt.Errorf("%w: content lacks %d bytes", format.ErrMalformed, d.left)
	}
	return nil
}

// plan adds the steps of a name, and takes them when they make a window.
func (d *dumper) plan(ctx context.Context, at string, n *format.Node) error {
	s := step{path: at, node: n}
	if d.hardLinks {
		s.first = d.first.another(n, at)
	}
	d.steps = append(d.steps, s)
	d.size += uint64(len(at) + len(n.Link))
	for _, x := range n.Xattrs {
		d.size += uint64(len(x.Value))
	}
	if n.Type != format.File || s.first != "" {
		return d.full(ctx)
	}
	left := n.Content.Size
	err := d.r.each(ctx, *n.Content, func(id chunk.ID) error {
		t := d.r.table
		p, raw, err := t.piece(id, left)
		if err != nil {
			return err
		}
		left -= raw
		if pack := t.segments[p.segment].pack; !d.packs[pack] {
			if d.needed += t.packs[pack].size; d.needed > dumpRoom && len(d.packs) > 0 {
				if err := d.flush(ctx); err != nil {
					return err
				}
				d.needed = t.packs[pack].size
			}
			if d.packs == nil {
				d.packs = map[uint32]bool{}
			}
			d.packs[pack] = true
		}
		d.steps = append(d.steps, step{path: at, id: id})
		d.size += raw
		return d.full(ctx)
	})
	if err == nil && left > 0 {
		err = fmt.Errorf("%w: content lacks %d bytes", format.ErrMalformed, left)
	}
	if err == nil {
		return d.full(ctx)
	}
	return named(at, err)
}

// full takes the steps if they make a window.
func (d *dumper) full(ctx context.Context) error {
	if d.size >= dumpWindow || len(d.steps) >= dumpSteps {
		return d.flush(ctx)
	}
	return nil
}

// pathError says what a dump ended at.
type pathError struct {
	path string
	err  error
}

func (e *pathError) Error() string { return fmt.Sprintf("%q: %v", e.path, e.err) }
func (e *pathError) Unwrap() error { return e.err }

// named gives an error the path, unless it has one.
func named(at string, err error) error {
	var has *pathError
	if err == nil || errors.As(err, &has) {
		return err
	}
	return &pathError{at, err}
}

// flush takes the steps.
func (d *dumper) flush(ctx context.Context) error {
	t := d.data.table
	d.data.ahead = map[uint32][]span{}
	for _, s := range d.steps {
		if from, to := t.find(s.id); s.node == nil && from < to {
			pack := t.segments[t.places[from].segment].pack
			d.data.ahead[pack] = append(d.data.ahead[pack], t.spans(t.places[from])...)
		}
	}
	for _, s := range d.steps {
		if err := d.take(ctx, s); err != nil {
			return named(s.path, err)
		}
	}
	clear(d.steps) // their nodes
	clear(d.packs)
	d.steps, d.size, d.needed = d.steps[:0], 0, 0
	return nil
}

func (d *dumper) take(ctx context.Context, s step) error {
	if s.node != nil {
		return d.begin(s)
	}
	data, err := d.data.chunk(ctx, s.id, chunk.MaxSize)
	if err != nil {
		return err
	}
	if uint64(len(data)) > d.left {
		return fmt.Errorf("%w: content of more bytes than it should have", format.ErrMalformed)
	}
	if _, err := d.to.Write(data); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	d.left -= uint64(len(data))
	d.report.Bytes += uint64(len(data))
	d.meter.add(func(p *Progress) { p.Bytes += uint64(len(data)) })
	return nil
}

// begin adds a name to the archive, if it can hold it.
func (d *dumper) begin(s step) error {
	if err := d.ended(); err != nil {
		return named(d.path, err)
	}
	to, err := d.out.add(strings.TrimPrefix(s.path, "/"), s.node, strings.TrimPrefix(s.first, "/"))
	if errors.Is(err, errLeft) {
		d.report.Left++
		d.warn(Finding{Object: fmt.Sprintf("%q", s.path), Err: err})
		return nil
	}
	if err != nil {
		return err
	}
	d.path, d.to = s.path, to
	switch s.node.Type {
	case format.File:
		d.report.Files++
		d.meter.add(func(p *Progress) { p.Files++ })
		if s.first == "" {
			d.left = s.node.Content.Size
		}
	case format.Dir:
		d.report.Dirs++
	default:
		d.report.Others++
	}
	return nil
}
