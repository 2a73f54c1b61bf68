package format

import "bytes"

// Origin is what the plain parts of an object say of it. Nobody vouches for
// it.
type Origin struct {
	Kind  string // "pack", "index", "snapshot", "ledger entry" or "charter"
	Scope Scope
	Seq   uint64 // of an entry or charter; else 0
}

// OriginOf reads what an object says of itself; ok is false if it is no record
// of this format. The object may be cut behind its header, but for an index, an
// entry and a charter.
func OriginOf(object []byte) (o Origin, ok bool) {
	header := func(kind, magic string, b []byte) (Origin, bool) {
		h, _, _, _, err := parseHeader(magic, b)
		return Origin{Kind: kind, Scope: h.Scope}, err == nil
	}
	starts := func(magic string) bool { return bytes.HasPrefix(object, []byte(magic)) }
	switch {
	case starts(segmentMagic):
		return header("pack", segmentMagic, object)
	case starts(snapshotMagic):
		return header("snapshot", snapshotMagic, object)
	case starts(indexMagic):
		packs, err := ParseIndex(object)
		if err != nil || len(packs) == 0 || len(packs[0].Segments) == 0 {
			return o, false
		}
		return header("index", segmentMagic, packs[0].Segments[0].Head)
	case starts(entryMagic):
		r, err := parseSigned(entryMagic, MaxEntrySize, object)
		var e Entry
		if err != nil || decode(r.Body, &e) != nil {
			return o, false
		}
		return Origin{Kind: "ledger entry", Scope: e.scope(), Seq: e.Seq}, true
	case starts(charterMagic):
		r, err := parseSigned(charterMagic, MaxCharterSize, object)
		var c Charter
		if err != nil || decode(r.Body, &c) != nil {
			return o, false
		}
		return Origin{Kind: "charter", Scope: Scope{Nation: c.Nation}, Seq: c.Seq}, true
	}
	return o, false
}
