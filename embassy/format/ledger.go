package format

import (
	"fmt"
	"time"

	"embassy/crypto"
)

const entryMagic = "EMBLEDG1"

// Head is one entry of a chain: a place in time.
type Head struct {
	Chain ID     `cbor:"1,keyasint"`
	Seq   uint64 `cbor:"2,keyasint"`
	Hash  Hash   `cbor:"3,keyasint"`
}

// Listed is an object that an entry adds.
type Listed struct {
	Kind Kind   `cbor:"1,keyasint"`
	Hash Hash   `cbor:"2,keyasint"`
	Size uint64 `cbor:"3,keyasint"` // bytes
}

// Confirmation says how far the writing chain had come on one target.
type Confirmation struct {
	Target [8]byte `cbor:"1,keyasint"` // pseudonym: Writer.TargetName
	Seq    uint64  `cbor:"2,keyasint"`
}

// Entry is one record of a chain. Adds keeps its order for ever: snapshots
// refer to packs by position in it.
type Entry struct {
	Version     uint8          `cbor:"1,keyasint"`
	Nation      ID             `cbor:"2,keyasint"`
	Compartment ID             `cbor:"3,keyasint"`
	Agent       ID             `cbor:"4,keyasint"`
	Chain       ID             `cbor:"5,keyasint"`
	Seq         uint64         `cbor:"6,keyasint"` // from 1
	Prev        Hash           `cbor:"7,keyasint"` // hash of the previous entry's object; zero in the first
	Time        int64          `cbor:"8,keyasint"` // unix nanoseconds by the writer's clock
	Continues   []Head         `cbor:"9,keyasint,omitempty"`
	Adds        []Listed       `cbor:"10,keyasint,omitempty"`
	Snapshots   []Hash         `cbor:"11,keyasint,omitempty"` // committed by this entry; all among its Adds
	Depends     []Head         `cbor:"12,keyasint,omitempty"` // other chains whose chunks are reused
	Steward     []Head         `cbor:"13,keyasint,omitempty"` // newest heads of the steward's chains that the writer has read
	Confirmed   []Confirmation `cbor:"14,keyasint,omitempty"`
	Orders      []Ordered      `cbor:"15,keyasint,omitempty"` // a steward's; of anybody else they mean nothing
}

func (e Entry) scope() Scope {
	return Scope{Nation: e.Nation, Compartment: e.Compartment, Agent: e.Agent, Chain: e.Chain}
}

// When returns the entry's time.
func (e Entry) When() time.Time { return time.Unix(0, e.Time).UTC() }

// SealEntry encodes and signs an entry.
func SealEntry(e Entry, s *crypto.Signer) ([]byte, error) {
	e.Version = Version
	if err := e.check(); err != nil {
		return nil, err
	}
	body, err := encodeRecord(e)
	if err != nil {
		return nil, fmt.Errorf("ledger entry: %w", err)
	}
	object := sealSigned(entryMagic, body, e.scope().context(typeEntry), s)
	if len(object) > MaxEntrySize {
		return nil, fmt.Errorf("ledger entry of %d bytes, at most %d: list fewer objects in it", len(object), MaxEntrySize)
	}
	return object, nil
}

// OpenEntry verifies that the agent whose verifier is v signed the object as
// an entry of the chain and place that want names: nation, compartment,
// agent, chain and sequence number.
func OpenEntry(object []byte, v *crypto.Verifier, want Entry) (Entry, error) {
	r, err := parseSigned(entryMagic, MaxEntrySize, object)
	if err != nil {
		return Entry{}, fmt.Errorf("ledger entry: %w", err)
	}
	if err := r.verify(want.scope().context(typeEntry), v); err != nil {
		return Entry{}, fmt.Errorf("ledger entry %d of chain %s: %w", want.Seq, want.Chain, err)
	}
	var e Entry
	if err := decode(r.Body, &e); err != nil {
		return Entry{}, fmt.Errorf("ledger entry: %w", err)
	}
	if e.scope() != want.scope() || e.Seq != want.Seq {
		return Entry{}, fmt.Errorf("%w: ledger entry is of another chain or place", ErrMalformed)
	}
	return e, e.check()
}

func (e Entry) check() error {
	if e.Version != Version {
		return fmt.Errorf("%w: ledger entry of version %d", ErrMalformed, e.Version)
	}
	if e.Seq == 0 || (e.Seq == 1) != e.Prev.IsZero() || (e.Seq != 1 && len(e.Continues) != 0) {
		return fmt.Errorf("%w: ledger entry %d: first and previous do not agree", ErrMalformed, e.Seq)
	}
	for _, a := range e.Adds {
		if max := a.Kind.MaxSize(); a.Size == 0 || a.Size > max {
			return fmt.Errorf("%w: ledger entry %d lists a %s of %d bytes", ErrMalformed, e.Seq, a.Kind, a.Size)
		}
	}
	return nil
}
