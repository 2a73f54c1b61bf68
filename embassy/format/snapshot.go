package format

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"embassy/crypto"
)

// Refs names the packs of one ledger entry that a snapshot uses. Runs
// alternates, by position in the entry's Adds: so many unused, so many used,
// and so on. A superset is allowed.
type Refs struct {
	Chain ID       `cbor:"1,keyasint"`
	Seq   uint64   `cbor:"2,keyasint"`
	Runs  []uint32 `cbor:"3,keyasint"`
}

// RefRuns encodes ascending positions.
func RefRuns(positions []uint32) []uint32 {
	var runs []uint32
	var at uint32
	for i, p := range positions {
		if i > 0 && p == at {
			runs[len(runs)-1]++
		} else {
			runs = append(runs, p-at, 1)
		}
		at = p + 1
	}
	return runs
}

// Positions returns the positions that runs name, below n. It refuses runs
// that RefRuns would not have written.
func Positions(runs []uint32, n uint32) ([]uint32, error) {
	var out []uint32
	var at uint64
	if len(runs)%2 != 0 {
		return nil, fmt.Errorf("%w: refs end in a run of unused objects", ErrMalformed)
	}
	for i, r := range runs {
		end := at + uint64(r)
		if r == 0 && i > 0 {
			return nil, fmt.Errorf("%w: empty run of refs", ErrMalformed)
		}
		if end > uint64(n) {
			return nil, fmt.Errorf("%w: refs beyond %d objects", ErrMalformed, n)
		}
		if i%2 == 1 {
			for ; at < end; at++ {
				out = append(out, uint32(at))
			}
		}
		at = end
	}
	return out, nil
}

// TargetHint tells a rescue where else to look.
type TargetHint struct {
	Name         string `cbor:"1,keyasint"`
	URL          string `cbor:"2,keyasint"` // without credentials
	Tier         uint8  `cbor:"3,keyasint"` // 0 Primary to 3 Emergency
	Jurisdiction string `cbor:"4,keyasint,omitempty"`
}

// Bounds of a Summary: a list keeps every snapshot's texts in memory.
const (
	MaxTags        = 64
	MaxTargets     = 64
	MaxSummaryText = 1 << 10 // bytes of any one text
)

// Summary is what an agent may read of a snapshot.
type Summary struct {
	Dataset  string       `cbor:"1,keyasint"`
	Time     int64        `cbor:"2,keyasint"` // unix nanoseconds
	Priority int          `cbor:"3,keyasint"`
	Files    uint64       `cbor:"4,keyasint"`
	Dirs     uint64       `cbor:"5,keyasint"`
	Others   uint64       `cbor:"6,keyasint"` // neither file nor folder
	Bytes    uint64       `cbor:"7,keyasint"` // of content
	Added    uint64       `cbor:"8,keyasint"` // bytes that this run added to a target
	Errors   uint64       `cbor:"9,keyasint"` // entries of Root.Errors
	Label    string       `cbor:"10,keyasint,omitempty"`
	Tags     []string     `cbor:"11,keyasint,omitempty"`
	Targets  []TargetHint `cbor:"12,keyasint"`
	Refs     []Refs       `cbor:"13,keyasint"`
}

func (s Summary) check() error {
	if len(s.Tags) > MaxTags || len(s.Targets) > MaxTargets {
		return fmt.Errorf("%w: snapshot of %d tags and %d targets, at most %d and %d", ErrMalformed, len(s.Tags), len(s.Targets), MaxTags, MaxTargets)
	}
	texts := append([]string{s.Dataset, s.Label}, s.Tags...)
	for _, t := range s.Targets {
		texts = append(texts, t.Name, t.URL, t.Jurisdiction)
	}
	for _, t := range texts {
		if len(t) > MaxSummaryText {
			return fmt.Errorf("%w: text of %d bytes in a snapshot summary, at most %d", ErrMalformed, len(t), MaxSummaryText)
		}
	}
	return nil
}

// When returns the snapshot's time.
func (s Summary) When() time.Time { return time.Unix(0, s.Time).UTC() }

// Root is what only readers may read of a snapshot.
type Root struct {
	Tree    Content  `cbor:"1,keyasint"`
	Errors  []Gap    `cbor:"2,keyasint,omitempty"`
	Host    string   `cbor:"3,keyasint"`
	Program string   `cbor:"4,keyasint"`
	Sources [][]byte `cbor:"5,keyasint"` // absolute paths as configured; none of a command or an input
}

// Gap is something that the source did not give.
type Gap struct {
	Path   []byte `cbor:"1,keyasint"`
	Reason string `cbor:"2,keyasint"`
}

// SealSnapshot encodes and seals a snapshot. Of Host and the reasons of
// Errors, which are for people, what is not UTF-8 is replaced.
func SealSnapshot(s *Session, w *Writer, summary Summary, root Root) ([]byte, error) {
	root.Host, root.Errors = toText(root.Host), slices.Clone(root.Errors)
	for i := range root.Errors {
		root.Errors[i].Reason = toText(root.Errors[i].Reason)
	}
	plainSummary, err := encodeRecord(summary)
	if err == nil {
		err = summary.check()
	}
	if err != nil {
		return nil, fmt.Errorf("snapshot summary: %w", err)
	}
	plainRoot, err := encodeRecord(root)
	if err != nil {
		return nil, fmt.Errorf("snapshot root: %w", err)
	}
	key, salt, commitment, err := crypto.NewSealKey(s.key, s.Scope.context(typeRoot))
	if err != nil {
		return nil, err
	}
	body, inner := pad(plainSummary, crypto.BoxOverhead), pad(plainRoot, crypto.TagSize)
	size := headerSize(len(s.Keys)) + 4 + len(body) + crypto.BoxOverhead + len(inner) + crypto.TagSize
	if size > MaxSnapshotSize {
		return nil, fmt.Errorf("snapshot record of %d bytes, at most %d", size, MaxSnapshotSize)
	}
	h := Header{Scope: s.Scope, Keys: s.Keys, salt: salt, commitment: commitment}
	object := h.append(make([]byte, 0, size), snapshotMagic, uint64(size))
	aad := HashOf(object[preambleSize:])
	box, err := crypto.SealBox(w.summary, s.Scope.context(typeSummary), body, aad[:])
	if err != nil {
		return nil, err
	}
	object = binary.BigEndian.AppendUint32(object, uint32(len(box)))
	object = append(object, box...)
	aad = HashOf(object[preambleSize:])
	return key.Seal(object, 0, inner, aad[:]), nil
}

// Snapshot is a parsed, still sealed snapshot.
type Snapshot struct {
	Header  Header
	aad     [32]byte // of the summary
	rootAAD [32]byte // of the root: header and summary
	summary []byte
	root    []byte
}

// ParseSnapshot reads the plain parts.
func ParseSnapshot(object []byte) (*Snapshot, error) {
	if len(object) > MaxSnapshotSize {
		return nil, fmt.Errorf("%w: snapshot of %d bytes", ErrMalformed, len(object))
	}
	h, aad, size, length, err := parseHeader(snapshotMagic, object)
	if err != nil {
		return nil, fmt.Errorf("snapshot: %w", err)
	}
	c := newCursor(object[size:])
	summary := c.take(int(c.u32()))
	if !c.ok || length != uint64(len(object)) || h.DirClass != 0 {
		return nil, fmt.Errorf("%w: snapshot", ErrMalformed)
	}
	return &Snapshot{
		Header: h, aad: aad, rootAAD: HashOf(object[preambleSize : len(object)-len(c.b)]),
		summary: summary, root: c.b,
	}, nil
}

// Summary opens the part that an agent may read.
func (s *Snapshot) Summary(w *Writer) (Summary, error) {
	var out Summary
	p, err := crypto.OpenBox(w.summary, s.Header.Scope.context(typeSummary), s.summary, s.aad[:])
	if err == nil {
		p, err = unpad(p)
	}
	if err == nil {
		err = decode(p, &out)
	}
	if err == nil {
		err = out.check()
	}
	if err != nil {
		return Summary{}, fmt.Errorf("snapshot summary: %w", err)
	}
	return out, nil
}

// Root opens the part that only readers may read.
func (s *Snapshot) Root(r *Reader) (Root, error) {
	var out Root
	key, err := r.sealKey(&s.Header, typeRoot)
	if err != nil {
		return out, fmt.Errorf("snapshot root: %w", err)
	}
	p, err := key.Open(nil, 0, s.root, s.rootAAD[:])
	if err == nil {
		p, err = unpad(p)
	}
	if err == nil {
		err = decode(p, &out)
	}
	if err != nil {
		return Root{}, fmt.Errorf("snapshot root: %w", err)
	}
	return out, nil
}
