package format

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
)

const orderMagic = "EMBORDR1"

// OrderKind says what a steward orders.
type OrderKind uint8

// The kinds of orders.
const (
	OrderRetire  OrderKind = 1 // these snapshots exist no more
	OrderMark    OrderKind = 2 // no entry that names this order, or a later one, references these objects
	OrderDelete  OrderKind = 3 // these objects, which were marked, go
	OrderPin     OrderKind = 4 // these snapshots are not to be retired
	OrderUnpin   OrderKind = 5
	OrderHold    OrderKind = 6 // no snapshot of the dataset is to be retired
	OrderRelease OrderKind = 7
	OrderReplace OrderKind = 8 // what these packs held lies in packs that the entry adds
)

func (k OrderKind) String() string {
	names := []string{"retire", "mark", "delete", "pin", "unpin", "hold", "release", "replace"}
	if k == 0 || int(k) > len(names) {
		return fmt.Sprintf("order %d", uint8(k))
	}
	return names[k-1]
}

// Ordered names an order that an entry gives: a record among its Adds.
type Ordered struct {
	Kind   OrderKind `cbor:"1,keyasint"` // as in the record
	Record Hash      `cbor:"2,keyasint"`
}

// Listed returns what the entry lists of an order that it gives; ok is false if
// it does not list it.
func (e Entry) Listed(o Ordered) (a Listed, ok bool) {
	i := slices.IndexFunc(e.Adds, func(a Listed) bool { return a.Kind == KindRecord && a.Hash == o.Record })
	if i < 0 {
		return Listed{}, false
	}
	return e.Adds[i], true
}

// Order is what a steward's entry orders. It is signed with the entry, and not
// sealed: who has no key acts on it too.
type Order struct {
	Version     uint8           `cbor:"1,keyasint"`
	Nation      ID              `cbor:"2,keyasint"`
	Compartment ID              `cbor:"3,keyasint"`
	Kind        OrderKind       `cbor:"4,keyasint"`
	Objects     []OrderedObject `cbor:"5,keyasint,omitempty"`
	Dataset     []byte          `cbor:"6,keyasint,omitempty"` // 8 bytes, Writer.DatasetName; of hold and release
	Replaced    []Replaced      `cbor:"7,keyasint,omitempty"` // of replace: ascending by agent and pack
	// Heads, of replace: what the entries up to these need of the packs lies in
	// those that took their place; another one's snapshots go by the old packs. None:
	// all that was in them does.
	Heads []Head `cbor:"8,keyasint,omitempty"`
}

// Replaced is a pack, and what took its place.
type Replaced struct {
	Agent ID     `cbor:"1,keyasint"` // in whose folder it lies
	Pack  Hash   `cbor:"2,keyasint"`
	By    []byte `cbor:"3,keyasint"` // hashes of packs end to end, ascending; none: nobody needs what it held
}

// Packs returns the hashes of what took its place.
func (r Replaced) Packs() []Hash { return hashes(r.By) }

// hashes are the hashes that lie end to end.
func hashes(b []byte) []Hash {
	out := make([]Hash, 0, len(b)/len(Hash{}))
	for h := range slices.Chunk(b, len(Hash{})) {
		out = append(out, Hash(h))
	}
	return out
}

// endToEnd lays hashes end to end, ascending, each once. It sorts all.
func endToEnd(all []Hash) []byte {
	slices.SortFunc(all, func(a, b Hash) int { return bytes.Compare(a[:], b[:]) })
	out := make([]byte, 0, len(all)*len(Hash{}))
	for _, h := range slices.Compact(all) {
		out = append(out, h[:]...)
	}
	return out
}

// NewReplaced says that packs took the place of one in an agent's folder.
func NewReplaced(agent ID, pack Hash, by []Hash) Replaced {
	return Replaced{agent, pack, endToEnd(slices.Clone(by))}
}

// OrderedObject are objects of one kind in one agent's folder.
type OrderedObject struct {
	Agent  ID     `cbor:"1,keyasint"`
	Kind   Kind   `cbor:"2,keyasint"`
	Hashes []byte `cbor:"3,keyasint"` // end to end, ascending
}

// All returns the hashes.
func (o OrderedObject) All() []Hash { return hashes(o.Hashes) }

// maxOrdered bounds the objects of one order record, so that it keeps to
// MaxSnapshotSize.
const maxOrdered = 400_000

// SealOrders encodes an order as records: several when it names very many
// objects. objects are by agent and kind; their order does not matter.
func SealOrders(o Order, objects map[OrderedKey][]Hash) ([][]byte, error) {
	var out [][]byte
	left := maxOrdered
	flush := func() error {
		record, err := o.seal()
		out = append(out, record)
		o.Objects, left = nil, maxOrdered
		return err
	}
	keys := make([]OrderedKey, 0, len(objects))
	for k := range objects {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b OrderedKey) int {
		if c := bytes.Compare(a.Agent[:], b.Agent[:]); c != 0 {
			return c
		}
		return int(a.Kind) - int(b.Kind)
	})
	for _, k := range keys {
		all := endToEnd(slices.Clone(objects[k]))
		for len(all) > 0 {
			if left == 0 {
				if err := flush(); err != nil {
					return nil, err
				}
			}
			n := min(left, len(all)/len(Hash{}))
			cut := n * len(Hash{})
			o.Objects = append(o.Objects, OrderedObject{k.Agent, k.Kind, all[:cut:cut]})
			all, left = all[cut:], left-n
		}
	}
	if len(o.Objects) > 0 || len(o.Dataset) > 0 {
		if err := flush(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// SealReplaced encodes an order that replaces packs as records: several when it
// names very many. It sorts all.
func SealReplaced(o Order, all []Replaced) ([][]byte, error) {
	o.Kind = OrderReplace
	slices.SortFunc(all, Replaced.compare)
	var out [][]byte
	for len(all) > 0 {
		n, left := 0, maxOrdered
		for n < len(all) && left > 0 {
			left -= 3 + len(all[n].By)/len(Hash{}) // it takes about so many hashes
			n++
		}
		o.Replaced = all[:n]
		record, err := o.seal()
		if err != nil {
			return nil, err
		}
		out, all = append(out, record), all[n:]
	}
	return out, nil
}

func (r Replaced) compare(o Replaced) int {
	return cmp.Or(bytes.Compare(r.Agent[:], o.Agent[:]), bytes.Compare(r.Pack[:], o.Pack[:]))
}

func (o Order) seal() ([]byte, error) {
	o.Version = Version
	if err := o.check(); err != nil {
		return nil, err
	}
	body, err := encodeRecord(o)
	if err != nil {
		return nil, fmt.Errorf("order: %w", err)
	}
	return append([]byte(orderMagic), body...), nil
}

// OrderedKey is the folder of ordered objects.
type OrderedKey struct {
	Agent ID
	Kind  Kind
}

// OpenOrder reads an order of a compartment, which an entry gives as one of that
// kind.
func OpenOrder(object []byte, nation, compartment ID, kind OrderKind) (*Order, error) {
	if len(object) > MaxSnapshotSize {
		return nil, fmt.Errorf("%w: order of %d bytes", ErrMalformed, len(object))
	}
	rest, ok := bytes.CutPrefix(object, []byte(orderMagic))
	if !ok {
		return nil, fmt.Errorf("%w: magic of an order", ErrMalformed)
	}
	o := new(Order)
	if err := decode(rest, o); err != nil {
		return nil, fmt.Errorf("order: %w", err)
	}
	if o.Nation != nation || o.Compartment != compartment || o.Kind != kind {
		return nil, fmt.Errorf("%w: order of another nation, compartment or kind", ErrMalformed)
	}
	return o, o.check()
}

func (o *Order) check() error {
	if o.Version != Version || o.Kind < OrderRetire || o.Kind > OrderReplace {
		return fmt.Errorf("%w: %s of version %d", ErrMalformed, o.Kind, o.Version)
	}
	if (o.Kind == OrderReplace) != (len(o.Replaced) > 0) || o.Kind != OrderReplace && len(o.Heads) > 0 {
		return fmt.Errorf("%w: %s that replaces %d packs", ErrMalformed, o.Kind, len(o.Replaced))
	}
	if o.Kind == OrderReplace {
		return o.checkReplaced()
	}
	about := o.Kind == OrderHold || o.Kind == OrderRelease
	if about != (len(o.Objects) == 0) || about != (len(o.Dataset) == 8) || !about && len(o.Dataset) != 0 {
		return fmt.Errorf("%w: %s of %d objects, dataset of %d bytes", ErrMalformed, o.Kind, len(o.Objects), len(o.Dataset))
	}
	for i, p := range o.Objects {
		if i > 0 {
			last := &o.Objects[i-1]
			if c := bytes.Compare(last.Agent[:], p.Agent[:]); c > 0 || c == 0 && last.Kind >= p.Kind {
				return fmt.Errorf("%w: %s: objects out of order", ErrMalformed, o.Kind)
			}
		}
		snapshots := o.Kind == OrderRetire || o.Kind == OrderPin || o.Kind == OrderUnpin
		if p.Kind < KindPack || p.Kind > KindCheckpoint || snapshots && p.Kind != KindSnapshot {
			return fmt.Errorf("%w: %s of a %s", ErrMalformed, o.Kind, p.Kind)
		}
		if len(p.Hashes) == 0 {
			return fmt.Errorf("%w: %s of no %s", ErrMalformed, o.Kind, p.Kind)
		}
		if err := checkHashes(p.Hashes); err != nil {
			return fmt.Errorf("%s: %w", o.Kind, err)
		}
	}
	return nil
}

func (o *Order) checkReplaced() error {
	if len(o.Objects) > 0 || len(o.Dataset) > 0 {
		return fmt.Errorf("%w: %s of objects or a dataset", ErrMalformed, o.Kind)
	}
	for i, r := range o.Replaced {
		if i > 0 && o.Replaced[i-1].compare(r) >= 0 {
			return fmt.Errorf("%w: %s: packs out of order", ErrMalformed, o.Kind)
		}
		if err := checkHashes(r.By); err != nil {
			return fmt.Errorf("%s: %w", o.Kind, err)
		}
	}
	return nil
}

// checkHashes returns an error unless hashes lie end to end, ascending, each once.
func checkHashes(b []byte) error {
	const size = len(Hash{})
	if len(b)%size != 0 {
		return fmt.Errorf("%w: %d bytes of hashes", ErrMalformed, len(b))
	}
	for at := size; at < len(b); at += size {
		if bytes.Compare(b[at-size:at], b[at:at+size]) >= 0 {
			return fmt.Errorf("%w: hashes out of order", ErrMalformed)
		}
	}
	return nil
}
