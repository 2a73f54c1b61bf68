// Package format owns the records that lie on a target and their codecs:
// charter, segment, index, snapshot, tree, ledger entry, checkpoint, audit record,
// recovery kit, share.
//
// It guarantees that what it parses was bounded before it was allocated, that
// a record that parses encodes to the same bytes again, and that everything
// sealed or signed is authenticated before it is returned. It does no I/O and
// knows no target. docs/FORMAT.md is the normative text.
package format

import (
	"errors"

	"embassy/crypto"
)

// ErrMalformed is wrapped by every error about bytes that are not a record of
// this format, or not of a version that this program reads.
var ErrMalformed = errors.New("malformed")

// ErrTooLarge: a record would hold more than a reader takes.
var ErrTooLarge = errors.New("too large")

// Version is the version of every record but the charters that say more than
// version 1 could.
const Version = 1

// Bounds on whole objects, in bytes. A reader asks for no more.
const (
	MaxPackSize       = 64 << 20
	MaxIndexSize      = 32 << 20
	MaxSnapshotSize   = 16 << 20
	MaxEntrySize      = 4 << 20
	MaxCharterSize    = 16 << 20
	MaxKitSize        = 1 << 20
	MaxRequestSize    = 1 << 20 // of its text
	MaxProposalSize   = 2 * MaxCharterSize
	MaxCheckpointSize = 64 << 20
)

// Record types, bound into every seal and signature through crypto.Context.
const (
	typeCharter     = "charter"
	typePart        = "charter part"
	typeEntry       = "ledger entry"
	typePack        = "pack"
	typeDirectory   = "pack directory"
	typeSessionKey  = "session key"
	typeSummary     = "snapshot summary"
	typeRoot        = "snapshot root"
	typeKit         = "recovery kit"
	typeHints       = "recovery hints"
	typeShare       = "share"
	typeHandover    = "handover"
	typeEarlier     = "earlier roots"
	typeKept        = "kept keys"
	typePartnerKey  = "partner key"
	typeRequest     = "agent request"
	typeAudit       = "audit record"
	typeDeed        = "audit deed"
	typeCheckpoint  = "checkpoint"
	labelIDKey      = "chunk id"
	labelPolynomial = "chunker polynomial"
	labelIndexKey   = "index"
	labelSummaryKey = "summary"
	labelTargetKey  = "target name"
	labelAuditKey   = "audit"
	labelDatasetKey = "dataset name"
)

// Scope says where a record belongs. Fields that do not apply are zero.
type Scope struct {
	Nation, Compartment, Agent, Chain ID
	Epoch                             uint32
}

func (s Scope) context(typ string) crypto.Context {
	return crypto.Context{
		Type: typ, Nation: s.Nation, Compartment: s.Compartment,
		Agent: s.Agent, Chain: s.Chain, Epoch: s.Epoch,
	}
}
