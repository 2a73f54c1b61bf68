package catalog

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/fxamacker/cbor/v2"

	"embassy/chunk"
	"embassy/embassy"
	"embassy/embassy/format"
)

// Keys are a tag and fields; numbers are big endian. A name is its length in
// two bytes and its bytes; text is bytes up to the end of the key; a line is
// compartment (16), agent (16) and chain (16).
const (
	tagSchema   = 's' // -> version (4)
	tagListing  = 'j' // -> chain (16), seq (8), then number (4) and position (4) of each pack: a SetListed that is under way
	tagLastPack = 'n' // -> the highest number ever given out (4)
	tagPack     = 'p' // number (4) -> packRecord
	tagHash     = 'h' // hash (32) -> number (4)
	tagUnlisted = 'u' // chain (16), number (4) -> Head, of packs that no entry lists
	tagHead     = 'l' // chain (16) -> seq (8) last listed
	tagChunk    = 'c' // id (32) -> number (4)
	tagEvidence = 'o' // target (name), hash (32) -> times: stored, verified, locked
	tagSeen     = 'v' // target (name), line -> seq (8), hash (32), time
	tagFault    = 'f' // target (name), kind (name), object (text) -> CBOR faultRecord
	tagLine     = 'i' // line -> known record of the last entry
	tagEntry    = 'e' // line, seq (8) -> known record
	tagBegun    = 'g' // line -> known record of an entry whose objects are being written, or were when the process died
	tagObject   = 'b' // compartment (16), agent (16), kind (1), hash (32), chain (16), seq (8) -> size (8); unseen while seq is above the line's
	tagDir      = 'd' // series (name), path (text) -> record
	tagRun      = 'r' // run (8) -> CBOR runRecord
	tagRunOf    = 'x' // dataset (name), run (8) -> nothing
	tagNote     = 'k' // key (text) -> value
	tagFate     = 't' // compartment (16), hash (32) -> agent (16), kind (1), then of retired, marked and deleted: agent (16), chain (16), seq (8; 0: not ordered), time

	// tagCondemned is the last of all tags; inspectTable relies on it.
	tagCondemned = 'z' // number (4) -> nothing
)

func schemaKey() []byte   { return []byte{tagSchema} }
func listingKey() []byte  { return []byte{tagListing} }
func lastPackKey() []byte { return []byte{tagLastPack} }

func packKey(n embassy.PackNum) []byte {
	return binary.BigEndian.AppendUint32([]byte{tagPack}, uint32(n))
}

func hashKey(h format.Hash) []byte { return append([]byte{tagHash}, h[:]...) }

func unlistedPrefix(chain format.ID) []byte { return append([]byte{tagUnlisted}, chain[:]...) }

func unlistedKey(chain format.ID, n embassy.PackNum) []byte {
	return binary.BigEndian.AppendUint32(unlistedPrefix(chain), uint32(n))
}

func condemnedKey(n embassy.PackNum) []byte {
	return binary.BigEndian.AppendUint32([]byte{tagCondemned}, uint32(n))
}

func headKey(chain format.ID) []byte { return append([]byte{tagHead}, chain[:]...) }

const chunkKeySize = 1 + len(chunk.ID{})

func appendChunkKey(buf []byte, id chunk.ID) []byte { return append(append(buf, tagChunk), id[:]...) }

func evidenceKey(target string, h format.Hash) []byte {
	return append(appendName([]byte{tagEvidence}, target), h[:]...)
}

func seenKey(target string, l embassy.Line) []byte {
	return appendLine(appendName([]byte{tagSeen}, target), l)
}

func faultKey(target string, kind embassy.FaultKind, object string) []byte {
	key := appendName(appendName([]byte{tagFault}, target), string(kind))
	return append(key, bounded(object)...)
}

func appendLine(buf []byte, l embassy.Line) []byte {
	return slices.Concat(buf, l.Compartment[:], l.Agent[:], l.Chain[:])
}

func lineKey(tag byte, l embassy.Line) []byte { return appendLine([]byte{tag}, l) }

// decodeLine is for the keys of tagLine.
func decodeLine(key []byte) (l embassy.Line, err error) {
	if len(key) != 1+3*len(l.Chain) {
		return l, errBad("a chain")
	}
	key = key[1:]
	key = key[copy(l.Compartment[:], key):]
	copy(l.Chain[:], key[copy(l.Agent[:], key):])
	return l, nil
}

func entryKey(l embassy.Line, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(lineKey(tagEntry, l), seq)
}

func agentPrefix(compartment, agent format.ID) []byte {
	return slices.Concat([]byte{tagObject}, compartment[:], agent[:])
}

const objectKeySize = 1 + 3*len(format.ID{}) + 1 + len(format.Hash{}) + 8

func objectKey(l embassy.Line, a format.Listed, seq uint64) []byte {
	b := append(make([]byte, 0, objectKeySize), tagObject)
	b = append(append(b, l.Compartment[:]...), l.Agent[:]...)
	b = append(append(b, byte(a.Kind)), a.Hash[:]...)
	return binary.BigEndian.AppendUint64(append(b, l.Chain[:]...), seq)
}

func decodeObject(key, value []byte) (o embassy.KnownObject, err error) {
	if len(key) != objectKeySize || len(value) != 8 {
		return o, errBad("a known object")
	}
	key = key[1+2*len(o.Chain):]
	o.Kind = format.Kind(key[0])
	key = key[1:]
	key = key[copy(o.Hash[:], key):]
	o.Seq = binary.BigEndian.Uint64(key[copy(o.Chain[:], key):])
	o.Size = binary.BigEndian.Uint64(value)
	return o, nil
}

func fatePrefix(compartment format.ID) []byte { return append([]byte{tagFate}, compartment[:]...) }

func fateKey(compartment format.ID, h format.Hash) []byte {
	return append(fatePrefix(compartment), h[:]...)
}

func dirKey(series, path string) []byte {
	return append(appendName([]byte{tagDir}, series), bounded(path)...)
}

func runKey(run uint64) []byte { return binary.BigEndian.AppendUint64([]byte{tagRun}, run) }

func runOfPrefix(dataset string) []byte { return appendName([]byte{tagRunOf}, dataset) }

func noteKey(key string) []byte { return append([]byte{tagNote}, key...) }

func appendName(buf []byte, name string) []byte {
	name = bounded(name)
	buf = binary.BigEndian.AppendUint16(buf, uint16(len(name)))
	return append(buf, name...)
}

// bounded keeps a key within Badger's limit whatever the text: the end of a
// very long one is replaced by its hash. No short text equals such a result.
func bounded(text string) string {
	if len(text) <= maxText {
		return text
	}
	sum := sha256.Sum256([]byte(text))
	return text[:maxText] + string(sum[:])
}

// maxText is how many bytes of a text a key takes as they are.
const maxText = 8 << 10

// errBad says that a value has not the form of its kind.
func errBad(what string) error { return fmt.Errorf("%w: bad record of %s", ErrCorrupt, what) }

// packRecord is a PackState without its number, its Head and, here, anything
// of variable length.
const packRecordSize = len(format.Hash{}) + 8 + len(format.ID{}) + 8 + 4

func encodePack(p embassy.PackState) []byte {
	b := append(make([]byte, 0, packRecordSize), p.Hash[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(p.Size))
	b = append(b, p.Chain[:]...)
	b = binary.BigEndian.AppendUint64(b, p.Entry)
	return binary.BigEndian.AppendUint32(b, p.Pos)
}

func decodePack(n embassy.PackNum, b []byte) (embassy.PackState, error) {
	p := embassy.PackState{Num: n}
	if len(b) != packRecordSize {
		return p, errBad("a pack")
	}
	b = b[copy(p.Hash[:], b):]
	p.Size = int64(binary.BigEndian.Uint64(b))
	b = b[8:]
	b = b[copy(p.Chain[:], b):]
	p.Entry = binary.BigEndian.Uint64(b)
	p.Pos = binary.BigEndian.Uint32(b[8:])
	return p, nil
}

func encodeNum(n embassy.PackNum) []byte { return binary.BigEndian.AppendUint32(nil, uint32(n)) }

func decodeNum(b []byte) (embassy.PackNum, error) {
	if len(b) != 4 {
		return 0, errBad("a pack number")
	}
	return embassy.PackNum(binary.BigEndian.Uint32(b)), nil
}

func encodeListing(chain format.ID, seq uint64, packs []embassy.ListedPack) []byte {
	b := append(make([]byte, 0, len(chain)+8+8*len(packs)), chain[:]...)
	b = binary.BigEndian.AppendUint64(b, seq)
	for _, p := range packs {
		b = binary.BigEndian.AppendUint32(b, uint32(p.Num))
		b = binary.BigEndian.AppendUint32(b, p.Pos)
	}
	return b
}

func decodeListing(b []byte) (chain format.ID, seq uint64, packs []embassy.ListedPack, err error) {
	if len(b) < len(chain)+8 || len(b)%8 != 0 {
		return chain, 0, nil, errBad("a listing")
	}
	b = b[copy(chain[:], b):]
	seq = binary.BigEndian.Uint64(b)
	for b = b[8:]; len(b) > 0; b = b[8:] {
		packs = append(packs, embassy.ListedPack{
			Num: embassy.PackNum(binary.BigEndian.Uint32(b)),
			Pos: binary.BigEndian.Uint32(b[4:]),
		})
	}
	return chain, seq, packs, nil
}

// A time is seconds (8) and nanoseconds (4) since 1970 UTC, so that the zero
// time and any year survive.
const timeSize = 8 + 4

func appendTime(b []byte, t time.Time) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(t.Unix()))
	return binary.BigEndian.AppendUint32(b, uint32(t.Nanosecond()))
}

func decodeTime(b []byte) (time.Time, error) {
	if len(b) != timeSize {
		return time.Time{}, errBad("a time")
	}
	return time.Unix(int64(binary.BigEndian.Uint64(b)), int64(binary.BigEndian.Uint32(b[8:]))).UTC(), nil
}

func encodeSeen(h embassy.SeenHead) []byte {
	b := binary.BigEndian.AppendUint64(nil, h.Seq)
	return appendTime(append(b, h.Hash[:]...), h.At)
}

func decodeSeen(b []byte) (h embassy.SeenHead, err error) {
	if len(b) != 8+len(h.Hash)+timeSize {
		return h, errBad("a head")
	}
	h.Seq = binary.BigEndian.Uint64(b)
	b = b[8:]
	b = b[copy(h.Hash[:], b):]
	h.At, err = decodeTime(b)
	return h, err
}

func encodeKnown(e embassy.Known) []byte {
	b := binary.BigEndian.AppendUint64(nil, e.Seq)
	return binary.BigEndian.AppendUint64(append(b, e.Hash[:]...), e.Size)
}

func decodeKnown(b []byte) (e embassy.Known, err error) {
	if len(b) != 8+len(e.Hash)+8 {
		return e, errBad("a known entry")
	}
	e.Seq = binary.BigEndian.Uint64(b)
	b = b[8:]
	e.Size = binary.BigEndian.Uint64(b[copy(e.Hash[:], b):])
	return e, nil
}

func encodeEvidence(e embassy.Evidence) []byte {
	return appendTime(appendTime(appendTime(nil, e.Stored), e.Verified), e.Locked)
}

func decodeEvidence(b []byte) (e embassy.Evidence, err error) {
	if len(b) != 3*timeSize {
		return e, errBad("evidence")
	}
	for _, t := range []*time.Time{&e.Stored, &e.Verified, &e.Locked} {
		if *t, err = decodeTime(b[:timeSize]); err != nil {
			return e, err
		}
		b = b[timeSize:]
	}
	return e, nil
}

const (
	orderSize = 2*len(format.ID{}) + 8 + timeSize
	fateSize  = len(format.ID{}) + 1 + 2*orderSize
)

func encodeFate(f embassy.KnownFate) []byte {
	b := append(make([]byte, 0, fateSize), f.Agent[:]...)
	b = append(b, byte(f.Kind))
	for _, o := range []embassy.Order{f.Marked, f.Deleted} {
		b = append(append(b, o.Agent[:]...), o.Chain[:]...)
		b = appendTime(binary.BigEndian.AppendUint64(b, o.Seq), o.At)
	}
	return b
}

func decodeFate(key, b []byte) (f embassy.KnownFate, err error) {
	if len(key) != len(fateKey(f.Agent, f.Hash)) || len(b) != fateSize {
		return f, errBad("a fate")
	}
	copy(f.Hash[:], key[len(fatePrefix(f.Agent)):])
	b = b[copy(f.Agent[:], b):]
	f.Kind = format.Kind(b[0])
	b = b[1:]
	for _, o := range []*embassy.Order{&f.Marked, &f.Deleted} {
		b = b[copy(o.Agent[:], b):]
		b = b[copy(o.Chain[:], b):]
		o.Seq = binary.BigEndian.Uint64(b)
		if o.At, err = decodeTime(b[8 : 8+timeSize]); err != nil {
			return f, err
		}
		b = b[8+timeSize:]
	}
	return f, nil
}

type faultRecord struct {
	Target string `cbor:"1,keyasint"`
	Kind   string `cbor:"2,keyasint"`
	Object string `cbor:"3,keyasint,omitempty"`
	Text   string `cbor:"4,keyasint,omitempty"`
	First  []byte `cbor:"5,keyasint"` // time
	Last   []byte `cbor:"6,keyasint"` // time
}

func encodeFault(f embassy.Fault) ([]byte, error) {
	return encMode.Marshal(faultRecord{
		Target: f.Target, Kind: string(f.Kind), Object: f.Object, Text: f.Text,
		First: appendTime(nil, f.First), Last: appendTime(nil, f.Last),
	})
}

func decodeFault(b []byte) (f embassy.Fault, err error) {
	var rec faultRecord
	if err := cbor.Unmarshal(b, &rec); err != nil {
		return f, fmt.Errorf("%w: %w", errBad("a fault"), err)
	}
	f = embassy.Fault{Target: rec.Target, Kind: embassy.FaultKind(rec.Kind), Object: rec.Object, Text: rec.Text}
	if f.First, err = decodeTime(rec.First); err != nil {
		return f, err
	}
	f.Last, err = decodeTime(rec.Last)
	return f, err
}

type runRecord struct {
	Kind     string `cbor:"1,keyasint"`
	Dataset  string `cbor:"2,keyasint"`
	Started  []byte `cbor:"3,keyasint"` // time
	Ended    []byte `cbor:"4,keyasint"` // time
	Exit     int    `cbor:"5,keyasint"`
	Snapshot []byte `cbor:"6,keyasint,omitempty"`
	Note     string `cbor:"7,keyasint,omitempty"`
}

func encodeRun(r embassy.Run) ([]byte, error) {
	rec := runRecord{
		Kind: r.Kind, Dataset: r.Dataset, Exit: r.Exit, Note: r.Note,
		Started: appendTime(nil, r.Started), Ended: appendTime(nil, r.Ended),
	}
	if !r.Snapshot.IsZero() {
		rec.Snapshot = r.Snapshot[:]
	}
	return encMode.Marshal(rec)
}

func decodeRun(b []byte) (r embassy.Run, err error) {
	var rec runRecord
	if err := cbor.Unmarshal(b, &rec); err != nil {
		return r, fmt.Errorf("%w: %w", errBad("a run"), err)
	}
	r = embassy.Run{Kind: rec.Kind, Dataset: rec.Dataset, Exit: rec.Exit, Note: rec.Note}
	copy(r.Snapshot[:], rec.Snapshot)
	if r.Started, err = decodeTime(rec.Started); err != nil {
		return r, err
	}
	r.Ended, err = decodeTime(rec.Ended)
	return r, err
}

var encMode = must(cbor.CoreDetEncOptions().EncMode())

// must is for constant options.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// get returns the value of a key, or nil if there is none. The value of an
// existing key is never nil.
func get(txn *badger.Txn, key []byte) ([]byte, error) {
	item, err := lookup(txn, key)
	if err != nil || item == nil {
		return nil, err
	}
	value, err := item.ValueCopy(nil)
	if value == nil {
		value = []byte{}
	}
	return value, err
}

// lookup returns the item of a key, or nil if there is none. Badger looks at
// the end of a block before it checks the block, and panics if that is damaged.
func lookup(txn *badger.Txn, key []byte) (item *badger.Item, err error) {
	defer guard(&err)
	item, err = txn.Get(key)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return nil, nil
	}
	return item, err
}

// scan calls fn for every record whose key begins with the prefix, in
// ascending order of key, from the key from on (nil: the first), while fn
// returns true. Both slices end with the call.
func scan(txn *badger.Txn, prefix, from []byte, fn func(key, value []byte) (more bool, err error)) (err error) {
	defer guard(&err)
	it := txn.NewIterator(badger.IteratorOptions{Prefix: prefix})
	defer it.Close()
	more := true
	for it.Seek(from); more && err == nil && it.Valid(); it.Next() {
		item := it.Item()
		err = item.Value(func(value []byte) (err error) {
			more, err = fn(item.Key(), value)
			return err
		})
	}
	return err
}

// guard makes a panic of Badger, which damaged files give it, an error. It is
// deferred.
func guard(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("%w: reading it panics: %.200v", ErrCorrupt, r)
	}
}
