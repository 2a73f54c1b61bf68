package format

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	"embassy/crypto"
)

const checkpointMagic = "EMBCKPT1"

const (
	// maxRestatedChains bounds the chains of a checkpoint.
	maxRestatedChains = 1 << 16
	// maxRestatedAdds bounds what one entry adds: no more fits into MaxEntrySize.
	maxRestatedAdds = MaxEntrySize / 40
)

// Checkpoint restates the ledgers of a compartment in one object: a steward's
// word for what their entries say, without the objects that were ordered to be
// deleted. Whoever shows an entry that a checkpoint names need not be asked for it.
type Checkpoint struct {
	Version     uint8           `cbor:"1,keyasint"`
	Nation      ID              `cbor:"2,keyasint"`
	Compartment ID              `cbor:"3,keyasint"`
	Agent       ID              `cbor:"4,keyasint"`           // the steward
	Time        int64           `cbor:"5,keyasint"`           // unix nanoseconds by its clock
	Chains      []RestatedChain `cbor:"6,keyasint,omitempty"` // ascending by agent, then chain
	Retired     []OrderedObject `cbor:"7,keyasint,omitempty"` // snapshots that are retired; may leave out those that no entry of Chains lists any more because they are deleted
	Pinned      []OrderedObject `cbor:"8,keyasint,omitempty"` // snapshots
	Held        []byte          `cbor:"9,keyasint,omitempty"` // Writer.DatasetName end to end, ascending
}

// RestatedChain is a chain from its first entry on, as far as the steward goes.
type RestatedChain struct {
	Agent   ID     `cbor:"1,keyasint"`
	Chain   ID     `cbor:"2,keyasint"`
	Hashes  []byte `cbor:"3,keyasint"`           // of its entries, end to end
	Sizes   []byte `cbor:"4,keyasint"`           // of its entries: u32 bytes each
	Times   []byte `cbor:"5,keyasint"`           // of its entries: 8 bytes each
	Entries []byte `cbor:"6,keyasint,omitempty"` // those that still say something: u32 length, then Restated

	at []restatedAt // in Entries
}

// restatedAt is where the CBOR of a Restated stands.
type restatedAt struct {
	seq      uint64
	from, to int
}

// Restated is what an entry says, but for objects that are to be deleted, and
// snapshots among them.
type Restated struct {
	Seq       uint64        `cbor:"1,keyasint"`
	Count     uint32        `cbor:"2,keyasint,omitempty"` // of all objects that the entry adds
	Adds      []RestatedAdd `cbor:"3,keyasint,omitempty"` // ascending by At
	Continues []Head        `cbor:"4,keyasint,omitempty"`
	Snapshots []Hash        `cbor:"5,keyasint,omitempty"`
	Depends   []Head        `cbor:"6,keyasint,omitempty"`
	Steward   []Head        `cbor:"7,keyasint,omitempty"`
	Orders    []Ordered     `cbor:"8,keyasint,omitempty"`
}

// RestatedAdd is an object with its position in the Adds of its entry.
type RestatedAdd struct {
	At   uint32 `cbor:"1,keyasint"`
	Kind Kind   `cbor:"2,keyasint"`
	Hash Hash   `cbor:"3,keyasint"`
	Size uint64 `cbor:"4,keyasint"` // bytes
}

// Len is how many entries are restated.
func (c *RestatedChain) Len() uint64 { return uint64(len(c.Hashes) / len(Hash{})) }

// Hash, Size and Time are those of the object of entry seq, which is from 1 to
// Len.
func (c *RestatedChain) Hash(seq uint64) Hash {
	const size = uint64(len(Hash{}))
	return Hash(c.Hashes[(seq-1)*size : seq*size])
}

// Size returns bytes.
func (c *RestatedChain) Size(seq uint64) uint64 {
	return uint64(binary.BigEndian.Uint32(c.Sizes[4*(seq-1):]))
}

// Time returns unix nanoseconds.
func (c *RestatedChain) Time(seq uint64) int64 {
	return int64(binary.BigEndian.Uint64(c.Times[8*(seq-1):]))
}

// Head is the last entry that is restated.
func (c *RestatedChain) Head() Head {
	return Head{Chain: c.Chain, Seq: c.Len(), Hash: c.Hash(c.Len())}
}

// Add appends the next entry, as an object of that hash and size. Objects of
// Adds whose Kind is 0 are left out; what then says nothing is named only.
func (c *RestatedChain) Add(e Entry, h Hash, size uint64) {
	c.Hashes = append(c.Hashes, h[:]...)
	c.Sizes = binary.BigEndian.AppendUint32(c.Sizes, uint32(size))
	c.Times = binary.BigEndian.AppendUint64(c.Times, uint64(e.Time))
	r := Restated{
		Seq: c.Len(), Count: uint32(len(e.Adds)), Continues: e.Continues, Depends: e.Depends, Steward: e.Steward, Orders: e.Orders,
	}
	snapshots := map[Hash]bool{}
	for i, a := range e.Adds {
		if a.Kind != 0 {
			r.Adds = append(r.Adds, RestatedAdd{uint32(i), a.Kind, a.Hash, a.Size})
			snapshots[a.Hash] = a.Kind == KindSnapshot || snapshots[a.Hash]
		}
	}
	for _, s := range e.Snapshots {
		if snapshots[s] {
			r.Snapshots = append(r.Snapshots, s)
		}
	}
	if r.silent() {
		return
	}
	b := encode(r)
	c.Entries = append(binary.BigEndian.AppendUint32(c.Entries, uint32(len(b))), b...)
}

// silent reports whether there is nothing to restate.
func (r *Restated) silent() bool {
	return len(r.Adds)+len(r.Continues)+len(r.Snapshots)+len(r.Depends)+len(r.Steward)+len(r.Orders) == 0
}

// Chain returns the restated chain; nil: there is none.
func (c *Checkpoint) Chain(agent, chain ID) *RestatedChain {
	i, ok := slices.BinarySearchFunc(c.Chains, chain, func(have RestatedChain, chain ID) int {
		return cmp.Or(bytes.Compare(have.Agent[:], agent[:]), bytes.Compare(have.Chain[:], chain[:]))
	})
	if !ok {
		return nil
	}
	return &c.Chains[i]
}

// Entry returns an entry of a chain as far as it is restated: an object of Adds
// that is left out has Kind 0, and Confirmed is empty. Of an entry that is named
// only, Adds is empty too.
func (c *Checkpoint) Entry(ch *RestatedChain, seq uint64) (Entry, error) {
	e := Entry{
		Version: Version, Nation: c.Nation, Compartment: c.Compartment, Agent: ch.Agent, Chain: ch.Chain, Seq: seq, Time: ch.Time(seq),
	}
	if seq > 1 {
		e.Prev = ch.Hash(seq - 1)
	}
	i, ok := slices.BinarySearchFunc(ch.at, seq, func(a restatedAt, seq uint64) int { return cmp.Compare(a.seq, seq) })
	if !ok {
		return e, nil
	}
	var r Restated
	if err := decode(ch.Entries[ch.at[i].from:ch.at[i].to], &r); err != nil {
		return e, fmt.Errorf("checkpoint: entry %d of chain %s: %w", seq, ch.Chain, err)
	}
	e.Continues, e.Snapshots, e.Depends, e.Steward, e.Orders = r.Continues, r.Snapshots, r.Depends, r.Steward, r.Orders
	e.Adds = make([]Listed, r.Count)
	for _, a := range r.Adds {
		e.Adds[a.At] = Listed{a.Kind, a.Hash, a.Size}
	}
	return e, nil
}

// OrderedSnapshots returns snapshots by agent as a checkpoint tells them.
func OrderedSnapshots(of map[ID][]Hash) []OrderedObject {
	var out []OrderedObject
	for agent, hashes := range of {
		slices.SortFunc(hashes, func(a, b Hash) int { return bytes.Compare(a[:], b[:]) })
		o := OrderedObject{Agent: agent, Kind: KindSnapshot}
		for _, h := range hashes {
			o.Hashes = append(o.Hashes, h[:]...)
		}
		out = append(out, o)
	}
	slices.SortFunc(out, func(a, b OrderedObject) int { return bytes.Compare(a.Agent[:], b.Agent[:]) })
	return out
}

func checkpointContext(nation, compartment, agent ID) crypto.Context {
	return Scope{Nation: nation, Compartment: compartment, Agent: agent}.context(typeCheckpoint)
}

// SealCheckpoint encodes and signs a checkpoint, and sorts its chains. The error
// wraps ErrTooLarge when it holds more than a reader takes.
func SealCheckpoint(c Checkpoint, s *crypto.Signer) ([]byte, error) {
	c.Version = Version
	slices.SortFunc(c.Chains, func(a, b RestatedChain) int {
		return cmp.Or(bytes.Compare(a.Agent[:], b.Agent[:]), bytes.Compare(a.Chain[:], b.Chain[:]))
	})
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("checkpoint: %w", err)
	}
	object := sealSigned(checkpointMagic, encode(c), checkpointContext(c.Nation, c.Compartment, c.Agent), s)
	if len(object) > MaxCheckpointSize {
		return nil, fmt.Errorf("checkpoint of %d bytes: %w", len(object), ErrTooLarge)
	}
	return object, nil
}

// OpenCheckpoint verifies that the agent whose verifier is v signed the object
// as a checkpoint of that compartment. Whether it is a steward, the caller knows.
// Memory is bounded by the object's size.
func OpenCheckpoint(object []byte, v *crypto.Verifier, nation, compartment, agent ID) (*Checkpoint, error) {
	r, err := parseSigned(checkpointMagic, MaxCheckpointSize, object)
	if err != nil {
		return nil, fmt.Errorf("checkpoint: %w", err)
	}
	if err := r.verify(checkpointContext(nation, compartment, agent), v); err != nil {
		return nil, fmt.Errorf("checkpoint: %w", err)
	}
	c := new(Checkpoint)
	if err := decodeIn(checkpointMode, r.Body, c); err != nil {
		return nil, fmt.Errorf("checkpoint: %w", err)
	}
	if c.Nation != nation || c.Compartment != compartment || c.Agent != agent {
		return nil, fmt.Errorf("%w: checkpoint is of another compartment or agent", ErrMalformed)
	}
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("checkpoint: %w", err)
	}
	return c, nil
}

func (c *Checkpoint) check() error {
	if c.Version != Version || len(c.Chains) > maxRestatedChains {
		return fmt.Errorf("%w: version %d, %d chains", ErrMalformed, c.Version, len(c.Chains))
	}
	for i := range c.Chains {
		ch := &c.Chains[i]
		if i > 0 {
			last := &c.Chains[i-1]
			if cmp.Or(bytes.Compare(last.Agent[:], ch.Agent[:]), bytes.Compare(last.Chain[:], ch.Chain[:])) >= 0 {
				return fmt.Errorf("%w: chains out of order", ErrMalformed)
			}
		}
		if err := ch.check(); err != nil {
			return fmt.Errorf("chain %s: %w", ch.Chain, err)
		}
	}
	for _, objects := range [][]OrderedObject{c.Retired, c.Pinned} {
		o := Order{Version: Version, Kind: OrderPin, Objects: objects}
		if err := o.check(); len(objects) > 0 && err != nil {
			return err
		}
	}
	const name = 8
	if len(c.Held)%name != 0 {
		return fmt.Errorf("%w: %d bytes of names", ErrMalformed, len(c.Held))
	}
	for at := name; at < len(c.Held); at += name {
		if bytes.Compare(c.Held[at-name:at], c.Held[at:at+name]) >= 0 {
			return fmt.Errorf("%w: names out of order", ErrMalformed)
		}
	}
	return nil
}

// check also finds out where the entries stand.
func (c *RestatedChain) check() error {
	n := int(c.Len())
	if n == 0 || len(c.Hashes) != n*len(Hash{}) || len(c.Sizes) != 4*n || len(c.Times) != 8*n {
		return fmt.Errorf("%w: %d bytes of hashes, %d of sizes, %d of times", ErrMalformed, len(c.Hashes), len(c.Sizes), len(c.Times))
	}
	for seq := uint64(1); seq <= c.Len(); seq++ {
		if size := c.Size(seq); size == 0 || size > MaxEntrySize {
			return fmt.Errorf("%w: entry %d of %d bytes", ErrMalformed, seq, size)
		}
	}
	c.at = nil
	in := newCursor(c.Entries)
	for last := uint64(0); len(in.b) > 0; {
		size := int(in.u32())
		from := len(c.Entries) - len(in.b)
		b := in.take(size)
		if !in.ok || size > MaxEntrySize {
			return fmt.Errorf("%w: entries cut short", ErrMalformed)
		}
		var r Restated
		if err := decode(b, &r); err != nil {
			return err
		}
		if r.Seq <= last || r.Seq > c.Len() || r.silent() || r.Seq != 1 && len(r.Continues) > 0 || r.Count > maxRestatedAdds {
			return fmt.Errorf("%w: entry %d out of place", ErrMalformed, r.Seq)
		}
		for i, a := range r.Adds {
			if a.At >= r.Count || i > 0 && a.At <= r.Adds[i-1].At {
				return fmt.Errorf("%w: entry %d: object at %d of %d", ErrMalformed, r.Seq, a.At, r.Count)
			}
			if most := a.Kind.MaxSize(); a.Size == 0 || a.Size > most {
				return fmt.Errorf("%w: entry %d lists a %s of %d bytes", ErrMalformed, r.Seq, a.Kind, a.Size)
			}
		}
		last = r.Seq
		c.at = append(c.at, restatedAt{r.Seq, from, from + size})
	}
	return nil
}
