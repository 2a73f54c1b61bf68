package format

import (
	"fmt"
	"strings"
)

// Kind is the kind of a content-named object that a chain lists.
type Kind uint8

// The kinds, and the folder each lies in.
const (
	KindPack       Kind = 1
	KindIndex      Kind = 2
	KindSnapshot   Kind = 3
	KindRecord     Kind = 4
	KindCheckpoint Kind = 5
)

func (k Kind) String() string {
	switch k {
	case KindPack:
		return "pack"
	case KindIndex:
		return "index"
	case KindSnapshot:
		return "snapshot"
	case KindRecord:
		return "record"
	case KindCheckpoint:
		return "checkpoint"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// MaxSize bounds an object of the kind, in bytes; 0 for an unknown kind.
func (k Kind) MaxSize() uint64 {
	switch k {
	case KindPack:
		return MaxPackSize
	case KindCheckpoint:
		return MaxCheckpointSize
	case KindIndex:
		return MaxIndexSize
	case KindSnapshot, KindRecord:
		return MaxSnapshotSize
	}
	return 0
}

// ObjectName names what a chain lists: <n>/<c>/<a>/pack/<hh>/<hash> and so on.
func ObjectName(nation, compartment, agent ID, k Kind, h Hash) string {
	if k == KindPack {
		return fmt.Sprintf("%s/%s/%s/pack/%s/%s", nation, compartment, agent, h.String()[:2], h)
	}
	return fmt.Sprintf("%s/%s/%s/%s/%s", nation, compartment, agent, k, h)
}

// CharterPrefix is the folder of a nation's charters.
func CharterPrefix(nation ID) string { return nation.String() + "/charter/" }

// CharterName names a charter.
func CharterName(nation ID, seq uint64, h Hash) string {
	return CharterPrefix(nation) + numbered(seq, h)
}

// LedgerPrefix is the folder of all chains of an agent in a compartment.
func LedgerPrefix(nation, compartment, agent ID) string {
	return fmt.Sprintf("%s/%s/%s/ledger/", nation, compartment, agent)
}

// EntryName names an entry of a chain.
func EntryName(nation, compartment, agent, chain ID, seq uint64, h Hash) string {
	return LedgerPrefix(nation, compartment, agent) + chain.String() + "/" + numbered(seq, h)
}

func numbered(seq uint64, h Hash) string { return fmt.Sprintf("%016x-%s", seq, h) }

// ParseNumbered reads the last part of a charter's or an entry's name.
func ParseNumbered(base string) (seq uint64, h Hash, err error) {
	digits, rest, ok := strings.Cut(base, "-")
	var n [8]byte
	if !ok {
		return 0, Hash{}, fmt.Errorf("%w: name %q", ErrMalformed, base)
	}
	if err := decodeHex(n[:], digits); err != nil {
		return 0, Hash{}, fmt.Errorf("%w: name %q: %v", ErrMalformed, base, err)
	}
	if h, err = ParseHash(rest); err != nil {
		return 0, Hash{}, fmt.Errorf("%w: name %q: %v", ErrMalformed, base, err)
	}
	c := newCursor(n[:])
	return c.u64(), h, nil
}

// ParseEntryName reads what follows LedgerPrefix in an entry's name.
func ParseEntryName(rest string) (chain ID, seq uint64, h Hash, err error) {
	folder, base, ok := strings.Cut(rest, "/")
	if !ok {
		return ID{}, 0, Hash{}, fmt.Errorf("%w: name %q", ErrMalformed, rest)
	}
	if chain, err = ParseID(folder); err != nil {
		return ID{}, 0, Hash{}, fmt.Errorf("%w: name %q: %v", ErrMalformed, rest, err)
	}
	seq, h, err = ParseNumbered(base)
	return chain, seq, h, err
}
