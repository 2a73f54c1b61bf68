package format_test

import (
	"testing"

	"embassy/embassy/format"
)

// A captured agent puts the sealed key of another agent's session into a header
// of its own. That session is granted all the same.
func TestGrantOfCopiedKey(t *testing.T) {
	w := newWorld(t, 0)
	snapshot := func(scope format.Scope, before ...format.SealedKey) (*format.Session, *format.Snapshot) {
		s, err := format.NewSession(scope, []format.Recipient{{Epoch: 1, Key: w.reader.Recipient()}})
		if err != nil {
			t.Fatal(err)
		}
		s.Keys = append(before, s.Keys...)
		object, err := format.SealSnapshot(s, w.writer, format.Summary{Dataset: "population"}, format.Root{Host: "tallinn-1"})
		if err != nil {
			t.Fatal(err)
		}
		snap, err := format.ParseSnapshot(object)
		if err != nil {
			t.Fatal(err)
		}
		return s, snap
	}
	session, honest := snapshot(w.scope)
	copied := session.Keys[0]
	copied.To[0] ^= 1
	captured := w.scope
	captured.Agent = w.other.ID()
	_, evil := snapshot(captured, copied)
	g := format.NewGranter(w.nation, w.comp, format.NewReader(w.reader), w.partner.Recipient())
	for _, s := range []*format.Snapshot{evil, honest} {
		if err := g.Snapshot(s); err != nil {
			t.Fatal(err)
		}
	}
	r := format.NewReader(w.partner)
	for _, object := range g.Records() {
		grant, err := format.OpenGrant(object, w.nation, w.comp)
		if err != nil {
			t.Fatal(err)
		}
		r.Grant(grant)
	}
	for name, s := range map[string]*format.Snapshot{"captured": evil, "honest": honest} {
		if _, err := s.Root(r); err != nil {
			t.Errorf("%s agent, of %d keys: %v", name, g.Len(), err)
		}
	}
}
