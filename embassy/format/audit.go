package format

import (
	"encoding/binary"
	"fmt"
	"time"

	"embassy/crypto"
)

const auditMagic = "EMBAUDT1"

// Bounds of an audit record.
const (
	MaxAuditSize  = 128 << 10 // bytes of the object
	MaxAuditFacts = 32
	MaxAuditText  = 1 << 10 // bytes of any one text
)

// Audit is the place of an audit record in the log of one state directory. It
// is signed and not sealed, so that a log is verified without a key; what was
// done is sealed in it.
type Audit struct {
	Version     uint8  `cbor:"1,keyasint"`
	Nation      ID     `cbor:"2,keyasint"`
	Compartment ID     `cbor:"3,keyasint"` // where it is filed
	Agent       ID     `cbor:"4,keyasint"`
	Log         ID     `cbor:"5,keyasint"` // random, of the state directory
	Number      uint64 `cbor:"6,keyasint"` // from 1, over all compartments
	Prev        Hash   `cbor:"7,keyasint"` // hash of the object before; zero in the first
	Epoch       uint32 `cbor:"8,keyasint"` // of the writer secret that the deed is sealed under
	Sealed      []byte `cbor:"9,keyasint"` // box of a Deed
}

// Deed is what an audit record tells.
type Deed struct {
	Time    int64  `cbor:"1,keyasint"` // unix nanoseconds by the machine's clock
	What    string `cbor:"2,keyasint"` // short, and the same for every deed of a kind
	User    string `cbor:"3,keyasint"` // of the operating system
	Host    string `cbor:"4,keyasint"`
	Facts   []Fact `cbor:"5,keyasint,omitempty"`
	Outcome string `cbor:"6,keyasint,omitempty"`
}

// Fact is one thing that is told about a deed.
type Fact struct {
	Key   string `cbor:"1,keyasint"`
	Value string `cbor:"2,keyasint"`
}

// When returns the deed's time.
func (d Deed) When() time.Time { return time.Unix(0, d.Time).UTC() }

func (d Deed) check() error {
	if d.What == "" || len(d.Facts) > MaxAuditFacts {
		return fmt.Errorf("%w: deed %q of %d facts, at most %d", ErrMalformed, d.What, len(d.Facts), MaxAuditFacts)
	}
	texts := []string{d.What, d.User, d.Host, d.Outcome}
	for _, f := range d.Facts {
		texts = append(texts, f.Key, f.Value)
	}
	for _, t := range texts {
		if len(t) > MaxAuditText {
			return fmt.Errorf("%w: text of %d bytes in an audit record, at most %d", ErrMalformed, len(t), MaxAuditText)
		}
	}
	return nil
}

// seal is what a deed is sealed in: it opens in this place of this log only.
func (a *Audit) seal() (crypto.Context, []byte) {
	s := Scope{Nation: a.Nation, Compartment: a.Compartment, Agent: a.Agent, Chain: a.Log, Epoch: a.Epoch}
	return s.context(typeDeed), append(binary.BigEndian.AppendUint64(nil, a.Number), a.Prev[:]...)
}

func auditContext(nation, agent ID) crypto.Context {
	return Scope{Nation: nation, Agent: agent}.context(typeAudit)
}

// SealAudit seals a deed to those who have the writer secret, and signs it
// into its place. Nation, compartment and epoch are those of the writer.
func SealAudit(a Audit, d Deed, w *Writer, s *crypto.Signer) ([]byte, error) {
	a.Version, a.Nation, a.Compartment, a.Epoch = Version, w.Nation, w.Compartment, w.Epoch
	plain, err := encodeRecord(d)
	if err == nil {
		err = d.check()
	}
	if err != nil {
		return nil, fmt.Errorf("audit record: %w", err)
	}
	ctx, aad := a.seal()
	if a.Sealed, err = crypto.SealBox(w.derive(labelAuditKey), ctx, pad(plain, crypto.BoxOverhead), aad); err != nil {
		return nil, err
	}
	if err := a.check(); err != nil {
		return nil, err
	}
	body, err := encodeRecord(a)
	if err != nil {
		return nil, fmt.Errorf("audit record: %w", err)
	}
	return sealSigned(auditMagic, body, auditContext(a.Nation, a.Agent), s), nil
}

// IsAudit reports whether a record object says that it is an audit record.
func IsAudit(object []byte) bool {
	return len(object) >= len(auditMagic) && string(object[:len(auditMagic)]) == auditMagic
}

// OpenAudit verifies that the agent whose verifier is v signed the object as
// an audit record of that nation. The deed stays sealed. The caller compares
// the compartment with that in whose folder the object lay.
func OpenAudit(object []byte, v *crypto.Verifier, nation, agent ID) (*Audit, error) {
	r, err := parseSigned(auditMagic, MaxAuditSize, object)
	if err != nil {
		return nil, fmt.Errorf("audit record: %w", err)
	}
	if err := r.verify(auditContext(nation, agent), v); err != nil {
		return nil, fmt.Errorf("audit record: %w", err)
	}
	var a Audit
	if err := decode(r.Body, &a); err != nil {
		return nil, fmt.Errorf("audit record: %w", err)
	}
	if a.Nation != nation || a.Agent != agent {
		return nil, fmt.Errorf("%w: audit record is of another agent", ErrMalformed)
	}
	return &a, a.check()
}

func (a *Audit) check() error {
	if a.Version != Version {
		return fmt.Errorf("%w: audit record of version %d", ErrMalformed, a.Version)
	}
	if a.Number == 0 || (a.Number == 1) != a.Prev.IsZero() {
		return fmt.Errorf("%w: audit record %d: first and previous do not agree", ErrMalformed, a.Number)
	}
	return nil
}

// Deed opens what was done with the writer secret of the record's compartment
// and epoch.
func (a *Audit) Deed(w *Writer) (Deed, error) {
	var d Deed
	ctx, aad := a.seal()
	p, err := crypto.OpenBox(w.derive(labelAuditKey), ctx, a.Sealed, aad)
	if err == nil {
		p, err = unpad(p)
	}
	if err == nil {
		err = decode(p, &d)
	}
	if err == nil {
		err = d.check()
	}
	if err != nil {
		return Deed{}, fmt.Errorf("audit record %d: %w", a.Number, err)
	}
	return d, nil
}
