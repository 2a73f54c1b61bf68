package format

import (
	"crypto/sha256"
	"fmt"
	"time"

	"embassy/crypto"
)

// Charter is the signed statement of the nation's keys, compartments and
// agents. It shows a host pseudonyms and public keys only; names lie in the
// sealed parts.
type Charter struct {
	Version       uint8                `cbor:"1,keyasint"`
	Nation        ID                   `cbor:"2,keyasint"`
	Seq           uint64               `cbor:"3,keyasint"` // from 1
	Prev          Hash                 `cbor:"4,keyasint"` // hash of the previous charter's object
	Time          int64                `cbor:"5,keyasint"` // unix nanoseconds
	RootSigner    []byte               `cbor:"6,keyasint"` // crypto.Verifier
	RootRecipient []byte               `cbor:"7,keyasint"` // crypto.Recipient
	Compartments  []CharterCompartment `cbor:"8,keyasint"`
	Agents        []CharterAgent       `cbor:"9,keyasint"`
	// Administrators may, Quorum of them together, enrol, suspend and revoke
	// agents.
	Administrators [][]byte `cbor:"10,keyasint,omitempty"` // crypto.Verifier
	Quorum         uint32   `cbor:"11,keyasint,omitempty"`
	Parts          []Part   `cbor:"12,keyasint"`
	// Succession tells of every rotation of the root, oldest first.
	Succession []Handover `cbor:"13,keyasint,omitempty"`
	// Base is, in a charter that administrators signed, the object of the last
	// charter that the root signed. Only Agents and Parts may differ from it.
	Base []byte `cbor:"14,keyasint,omitempty"`

	// Destroyed tells of compartments that are no more, oldest first.
	Destroyed []Tombstone `cbor:"15,keyasint,omitempty"`

	base *Charter // what OpenCharter found in Base
}

// Tombstone is what a charter says of a compartment that was destroyed. Nothing
// of it is written, read, or wanted any more.
type Tombstone struct {
	ID   ID    `cbor:"1,keyasint"`
	Time int64 `cbor:"2,keyasint"` // unix nanoseconds
	// Agents wrote it, and may have filed audit records in it.
	Agents []ID `cbor:"3,keyasint"`
}

// When returns the time of the destruction, by the clock of who signed it.
func (t Tombstone) When() time.Time { return time.Unix(0, t.Time).UTC() }

// Tombstone returns what the charter says of a compartment that was destroyed;
// nil: it was not.
func (c *Charter) Tombstone(id ID) *Tombstone {
	for i := range c.Destroyed {
		if c.Destroyed[i].ID == id {
			return &c.Destroyed[i]
		}
	}
	return nil
}

// Handover makes another root the nation's. The root before signed it.
type Handover struct {
	From      [16]byte `cbor:"1,keyasint"` // crypto.Verifier.ID of the root before
	Signer    []byte   `cbor:"2,keyasint"` // crypto.Verifier of the new root
	Recipient []byte   `cbor:"3,keyasint"` // crypto.Recipient of the new root
	Earlier   []byte   `cbor:"4,keyasint"` // the whole roots before, sealed under the new one: crypto.Root.SealEarlier
	Sig       []byte   `cbor:"5,keyasint"`
	Kept      []byte   `cbor:"6,keyasint,omitempty"` // what is left of those that were reduced: crypto.Root.SealKept
}

// CharterCompartment is the public face of a compartment.
type CharterCompartment struct {
	ID         ID             `cbor:"1,keyasint"`
	Epoch      uint32         `cbor:"2,keyasint"` // writer epoch, from 1
	Recipients []RecipientKey `cbor:"3,keyasint"` // all that new packs are sealed to
	Stewards   []ID           `cbor:"4,keyasint"` // the last is the one; the others were
	// Shared says that its agents reuse one another's chunks.
	Shared bool `cbor:"5,keyasint,omitempty"`
}

// RecipientKey is a public key as the charter lists it.
type RecipientKey struct {
	Epoch   uint32 `cbor:"1,keyasint"` // reader epoch; 0 for a partner nation
	Key     []byte `cbor:"2,keyasint"`
	Partner string `cbor:"3,keyasint,omitempty"` // fingerprint of the partner that people compared
	// Since is the first writer epoch whose secret a partner gets; 0: all.
	Since uint32 `cbor:"4,keyasint,omitempty"`
}

// Steward is the agent that orders and deletes; zero: there is none.
func (c *CharterCompartment) Steward() ID {
	if n := len(c.Stewards); n > 0 {
		return c.Stewards[n-1]
	}
	return ID{}
}

// ReaderEpoch returns the newest epoch of the nation's own reader key.
func (c *CharterCompartment) ReaderEpoch() uint32 {
	var newest uint32
	for _, r := range c.Recipients {
		newest = max(newest, r.Epoch)
	}
	return newest
}

// AgentStatus is what the charter says of an agent.
type AgentStatus uint8

// The states of an agent.
const (
	AgentActive    AgentStatus = 1
	AgentSuspended AgentStatus = 2
	AgentRevoked   AgentStatus = 3
)

// CharterAgent is the public face of an agent.
type CharterAgent struct {
	ID           ID          `cbor:"1,keyasint"`
	Signer       []byte      `cbor:"2,keyasint"`
	Recipient    []byte      `cbor:"3,keyasint"`
	Compartments []ID        `cbor:"4,keyasint"`
	Status       AgentStatus `cbor:"5,keyasint"`
	Quota        uint64      `cbor:"6,keyasint,omitempty"` // bytes on a target; 0: none
	// After holds, of a revoked agent, the last good entry of each chain; only
	// they and their ancestors count.
	After []Head `cbor:"7,keyasint,omitempty"`
}

// PartKind says whom a part is for.
type PartKind uint8

// The kinds of sealed part.
const (
	AgentPart  PartKind = 1 // to one agent, of one compartment
	ReaderPart PartKind = 2 // to one reader key of one compartment
	RootPart   PartKind = 3 // to the root: private to the nation's administration
	NoticePart PartKind = 4 // to an agent of a compartment that was destroyed: its name, and no secret
)

// Part is a CompartmentPart sealed to one recipient.
type Part struct {
	Kind        PartKind `cbor:"1,keyasint"`
	Compartment ID       `cbor:"2,keyasint"`
	Epoch       uint32   `cbor:"3,keyasint"` // writer epoch of the compartment
	To          ID       `cbor:"4,keyasint"`
	Box         []byte   `cbor:"5,keyasint"`
}

// CompartmentPart holds a compartment's names and writer secrets.
type CompartmentPart struct {
	NationName     string        `cbor:"1,keyasint"`
	Name           string        `cbor:"2,keyasint"`
	Classification string        `cbor:"3,keyasint,omitempty"`
	Writers        []EpochSecret `cbor:"4,keyasint"` // every epoch, ascending
	Datasets       []Dataset     `cbor:"5,keyasint"`
	AgentNames     []AgentName   `cbor:"6,keyasint"`
}

// EpochSecret is a writer secret.
type EpochSecret struct {
	Epoch  uint32 `cbor:"1,keyasint"`
	Secret []byte `cbor:"2,keyasint"`
}

// Dataset is what the charter says of a dataset.
type Dataset struct {
	Name     string `cbor:"1,keyasint"`
	Priority int    `cbor:"2,keyasint"`
	Agents   []ID   `cbor:"3,keyasint"` // that may write it
}

// AgentName is an agent's name for people.
type AgentName struct {
	ID   ID     `cbor:"1,keyasint"`
	Name string `cbor:"2,keyasint"`
}

// NationID derives the pseudonym from the public keys of the first root.
func NationID(signer *crypto.Verifier, recipient *crypto.Recipient) ID {
	b := append([]byte("embassy/v1 nation\x00"), signer.Bytes()...)
	sum := sha256.Sum256(append(b, recipient.Bytes()...))
	return ID(sum[:16])
}

// Compartment returns the compartment of that pseudonym, or nil.
func (c *Charter) Compartment(id ID) *CharterCompartment {
	for i := range c.Compartments {
		if c.Compartments[i].ID == id {
			return &c.Compartments[i]
		}
	}
	return nil
}

// Agent returns the agent of that pseudonym, or nil.
func (c *Charter) Agent(id ID) *CharterAgent {
	for i := range c.Agents {
		if c.Agents[i].ID == id {
			return &c.Agents[i]
		}
	}
	return nil
}

// When returns the charter's time.
func (c *Charter) When() time.Time { return time.Unix(0, c.Time).UTC() }

func partScope(nation, compartment ID, epoch uint32, k PartKind) Scope {
	// The kind takes the place of a chain, so that no part passes for another.
	return Scope{Nation: nation, Compartment: compartment, Epoch: epoch, Chain: ID{15: byte(k)}}
}

// SealPart seals a compartment's names and secrets to one recipient.
func SealPart(nation, compartment ID, epoch uint32, k PartKind, to *crypto.Recipient, p CompartmentPart) (Part, error) {
	plain, err := encodeRecord(p)
	if err != nil {
		return Part{}, fmt.Errorf("charter part: %w", err)
	}
	body := pad(plain, crypto.RecipientOverhead)
	box, err := to.Seal(partScope(nation, compartment, epoch, k).context(typePart), body)
	if err != nil {
		return Part{}, fmt.Errorf("seal charter part: %w", err)
	}
	return Part{Kind: k, Compartment: compartment, Epoch: epoch, To: to.ID(), Box: box}, nil
}

// OpenPart opens the first part of the charter that the identity can open for
// the compartment; ErrAuthentication if there is none.
func (c *Charter) OpenPart(compartment ID, k PartKind, id *crypto.Identity) (CompartmentPart, error) {
	to := ID(id.Recipient().ID())
	for _, p := range c.Parts {
		if p.Kind != k || p.Compartment != compartment || p.To != to {
			continue
		}
		body, err := id.Open(partScope(c.Nation, compartment, p.Epoch, k).context(typePart), p.Box)
		if err != nil {
			return CompartmentPart{}, fmt.Errorf("charter part: %w", err)
		}
		var out CompartmentPart
		if body, err = unpad(body); err == nil {
			err = decode(body, &out)
		}
		if err != nil {
			return CompartmentPart{}, fmt.Errorf("charter part: %w", err)
		}
		return out, nil
	}
	return CompartmentPart{}, crypto.ErrAuthentication
}
