package embassy_test

import (
	"errors"
	"slices"
	"testing"

	"embassy/crypto"
	"embassy/embassy"
	"embassy/embassy/format"
	"embassy/targets"
)

// plantCharter puts a charter on one target.
func (s *site) plantCharter(i int, c format.Charter, signers ...*crypto.Signer) (format.Hash, []byte) {
	s.t.Helper()
	object, err := format.SealCharter(c, signers...)
	if err != nil {
		s.t.Fatal(err)
	}
	h := format.HashOf(object)
	if err := s.mems[i].Put(s.t.Context(), targets.Object{Name: format.CharterName(c.Nation, c.Seq, h), Data: object, SHA256: h}); err != nil {
		s.t.Fatal(err)
	}
	return h, object
}

// A thief signs charters of great numbers with a root that was replaced. What
// the nation's new root says is found all the same.
func TestReplacedRootHidesNothing(t *testing.T) {
	s := newSite(t, 2, 1)
	s.fill(1, 3, 2000)
	s.mustBackup(0)
	first := s.charter()
	second := s.root.Succeed()
	next := *first
	if err := next.Succeed(s.root, second); err != nil {
		t.Fatal(err)
	}
	next.Seq, next.Prev = 2, format.HashOf([]byte("charter 1"))
	s.plantCharter(0, next, second.Signer())
	stolen := *first
	stolen.Seq, stolen.Prev = 1<<40, format.HashOf([]byte("charter"))
	s.plantCharter(1, stolen, s.root.Signer())
	find := func() (*format.Charter, error) {
		ch, _, err := embassy.FindCharter(t.Context(), s.members(), first.Nation, s.root.Signer().Verifier(), nil)
		return ch, err
	}
	if ch, err := find(); err != nil || ch.Rank().Rotations != 1 {
		t.Fatalf("who knows the old root alone finds %+v, %v", ch, err)
	}
	if ch := s.charter(); ch.Seq != 2 {
		t.Fatalf("an agent finds charter %d", ch.Seq)
	}
	next.Seq, next.Prev = 3, format.HashOf([]byte("charter 2"))
	s.plantCharter(0, next, second.Signer())
	if ch := s.charter(); ch.Seq != 3 {
		t.Errorf("an agent that knows the new root finds charter %d", ch.Seq)
	}

	// The thief hands over, too.
	thief := s.root.Succeed()
	heir := *first
	if err := heir.Succeed(s.root, thief); err != nil {
		t.Fatal(err)
	}
	heir.Seq, heir.Prev = 1<<41, format.HashOf([]byte("charter"))
	s.plantCharter(1, heir, thief.Signer())
	if ch, err := find(); !errors.Is(err, embassy.ErrTwoHeirs) {
		t.Errorf("who knows the old root alone believes %+v, %v", ch, err)
	}
	if ch := s.charter(); ch.Seq != 3 {
		t.Errorf("an agent that knows the new root finds charter %d", ch.Seq)
	}
}

// Administrators whom the root dismissed name the charter that did so as the one
// before theirs. It counts all the same.
func TestDismissedAdministratorsHideNothing(t *testing.T) {
	s := newSite(t, 1, 1)
	s.fill(1, 3, 2000)
	s.mustBackup(0)
	admins := s.administered()
	named, object, _, err := s.start().CharterOf(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	next := *named
	next.Seq, next.Prev, next.Administrators, next.Quorum = named.Seq+1, format.HashOf(object), nil, 0
	dismissed, _ := s.plantCharter(0, next, s.root.Signer())
	rogue := *named
	rogue.Seq, rogue.Prev, rogue.Base = next.Seq+1, dismissed, object
	s.plantCharter(0, rogue, admins[:2]...)
	if ch := s.charter(); ch.Seq != next.Seq || ch.Quorum != 0 {
		t.Errorf("charter %d with a quorum of %d counts", ch.Seq, ch.Quorum)
	}
}

// A quorum of administrators seals another writer secret to an agent: what is
// written with it would open to nobody. The agent goes by what the root sealed.
func TestAdministratorsForgeNoSecret(t *testing.T) {
	s := newSite(t, 1, 1)
	s.fill(1, 3, 2000)
	s.mustBackup(0)
	admins := s.administered()
	base, object, keys, err := s.start().CharterOf(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	rogue := *base
	rogue.Seq, rogue.Prev, rogue.Base = base.Seq+1, format.HashOf(object), object
	rogue.Parts = slices.Clone(base.Parts)
	c, me := keys.Compartments[0], s.agentKey()
	part := c.Part
	part.Writers = []format.EpochSecret{{Epoch: 1, Secret: crypto.NewSecret().Bytes()}}
	forged, err := format.SealPart(base.Nation, c.ID, 1, format.AgentPart, me.Identity.Recipient(), part)
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range rogue.Parts {
		if p.Kind == format.AgentPart && p.To == forged.To {
			rogue.Parts[i] = forged
		}
	}
	s.plantCharter(0, rogue, admins[:2]...)
	s.fill(2, 3, 2000)
	s.mustBackup(0)
	s.restore(0)
	if !slices.ContainsFunc(s.findings, func(f embassy.Finding) bool { return errors.Is(f.Err, format.ErrOverreach) }) {
		t.Errorf("nobody is told: %v", s.findings)
	}
	inForce, object, _, err := s.start().CharterOf(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	rogue.Seq, rogue.Prev = inForce.Seq+1, format.HashOf(object)
	p, err := format.Propose(rogue)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.start().Review(t.Context(), p); !errors.Is(err, format.ErrOverreach) {
		t.Errorf("review: %v", err)
	}
}
