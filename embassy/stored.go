package embassy

import (
	"context"
	"fmt"

	"embassy/embassy/format"
)

// Stored returns how many packs a snapshot refers to, and their bytes on one
// target. Other snapshots share them, and an agent may refer to a few more than
// it needs, so it is an upper bound of what the snapshot takes. It reads ledger
// entries and nothing else, and asks for no reader's key.
func (v *View) Stored(ctx context.Context, info SnapshotInfo) (packs, bytes uint64, err error) {
	s, err := v.find(info)
	if err != nil {
		return 0, 0, err
	}
	_, summary, err := v.snapshot(ctx, s, nil)
	if err != nil {
		return 0, 0, err
	}
	kin := s.kin()
	seen := map[format.Hash]bool{}
	for _, ref := range summary.Refs {
		entries := v.resolve(s.c, kin, ref)
		if len(entries) == 0 {
			return 0, 0, fmt.Errorf("snapshot %s needs entry %d of chain %s, which no target shows", info.Hash, ref.Seq, ref.Chain)
		}
		for _, e := range entries {
			all, err := v.fetchEntry(ctx, s.c, chainKey{e.Agent, e.Chain}, e.Seq, e, nil, 0)
			if err != nil {
				return 0, 0, err
			}
			positions, err := format.Positions(ref.Runs, uint32(len(all.Adds)))
			if err != nil {
				return 0, 0, err
			}
			for _, p := range positions {
				if a := all.Adds[p]; a.Kind == format.KindPack && !seen[a.Hash] {
					seen[a.Hash] = true
					packs++
					bytes += a.Size
				}
			}
		}
	}
	return packs, bytes, nil
}
