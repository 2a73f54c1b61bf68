package format

import (
	"bytes"
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
)

func (k OrderKind) String() string {
	names := []string{"retire", "mark", "delete", "pin", "unpin", "hold", "release"}
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
}

// OrderedObject are objects of one kind in one agent's folder.
type OrderedObject struct {
	Agent  ID     `cbor:"1,keyasint"`
	Kind   Kind   `cbor:"2,keyasint"`
	Hashes []byte `cbor:"3,keyasint"` // end to end, ascending
}

// All returns the hashes.
func (o OrderedObject) All() []Hash {
	out := make([]Hash, 0, len(o.Hashes)/len(Hash{}))
	for h := range slices.Chunk(o.Hashes, len(Hash{})) {
		out = append(out, Hash(h))
	}
	return out
}

// maxOrdered bounds the objects of one order record, so that it keeps to
// MaxSnapshotSize.
const maxOrdered = 400_000

// SealOrders encodes an order as records: several when it names very many
// objects. objects are by agent and kind; their order does not matter.
func SealOrders(o Order, objects map[OrderedKey][]Hash) ([][]byte, error) {
	o.Version = Version
	var out [][]byte
	left := 0
	flush := func() error {
		if err := o.check(); err != nil {
			return err
		}
		body, err := encodeRecord(o)
		if err != nil {
			return fmt.Errorf("order: %w", err)
		}
		out = append(out, append([]byte(orderMagic), body...))
		o.Objects, left = nil, maxOrdered
		return nil
	}
	left = maxOrdered
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
		hashes := slices.Clone(objects[k])
		slices.SortFunc(hashes, func(a, b Hash) int { return bytes.Compare(a[:], b[:]) })
		hashes = slices.Compact(hashes)
		for len(hashes) > 0 {
			if left == 0 {
				if err := flush(); err != nil {
					return nil, err
				}
			}
			n := min(left, len(hashes))
			all := make([]byte, 0, n*len(Hash{}))
			for _, h := range hashes[:n] {
				all = append(all, h[:]...)
			}
			o.Objects = append(o.Objects, OrderedObject{k.Agent, k.Kind, all})
			hashes, left = hashes[n:], left-n
		}
	}
	if len(o.Objects) > 0 || len(o.Dataset) > 0 {
		if err := flush(); err != nil {
			return nil, err
		}
	}
	return out, nil
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
	if o.Version != Version || o.Kind < OrderRetire || o.Kind > OrderRelease {
		return fmt.Errorf("%w: %s of version %d", ErrMalformed, o.Kind, o.Version)
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
		const size = len(Hash{})
		if len(p.Hashes) == 0 || len(p.Hashes)%size != 0 {
			return fmt.Errorf("%w: %s: %d bytes of hashes", ErrMalformed, o.Kind, len(p.Hashes))
		}
		for at := size; at < len(p.Hashes); at += size {
			if bytes.Compare(p.Hashes[at-size:at], p.Hashes[at:at+size]) >= 0 {
				return fmt.Errorf("%w: %s: hashes out of order", ErrMalformed, o.Kind)
			}
		}
	}
	return nil
}
