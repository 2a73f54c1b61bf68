package embassy_test

import (
	"strings"
	"sync/atomic"
	"testing"

	"embassy/embassy"
	"embassy/embassy/format"
	"embassy/targets"
)

// A captured agent lists great records without end. A partner nation, which
// looks for grants among them, reads so many, and is told of the rest.
func TestViewOfManyRecords(t *testing.T) {
	r, a := newRepo(t, 1, "pop")
	var adds []format.Listed
	for i := range 80 {
		adds = append(adds, format.Listed{Kind: format.KindRecord, Hash: format.HashOf([]byte{byte(i)}), Size: format.MaxSnapshotSize})
	}
	name, object := a.other(1, format.Hash{}, adds)
	r.put(name, object)
	var asked atomic.Int32
	r.through(0, func(tgt targets.Target) targets.Target {
		return &targets.Faulty{Target: tgt, Before: func(op targets.Op, name string) error {
			if op == targets.OpGet && strings.Contains(name, "/record/") {
				asked.Add(1)
			}
			return nil
		}}
	})
	ch, _, err := embassy.FindCharter(t.Context(), r.members, r.nation, r.root.Signer().Verifier(), nil)
	r.must(err)
	keys, err := embassy.RootKeys(ch, r.root)
	r.must(err)
	keys.Compartments[0].Past = true
	var told atomic.Bool
	_, err = embassy.OpenView(t.Context(), embassy.ViewOptions{Keys: keys, Members: r.members, Warn: func(f embassy.Finding) {
		if strings.Contains(f.Err.Error(), "16 records left out") {
			told.Store(true)
		}
	}})
	r.must(err)
	if asked.Load() > 64 || !told.Load() {
		t.Errorf("%d of 80 records were asked for; told: %t", asked.Load(), told.Load())
	}
}
