package embassy_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"embassy/crypto"
	"embassy/embassy"
	"embassy/embassy/config"
	"embassy/embassy/format"
	"embassy/targets"
)

// beside is another machine at the same targets, with a dataset of its own and
// nothing else.
func (s *site) beside(dataset string) *site {
	s.t.Helper()
	dir := s.t.TempDir()
	b := &site{t: s.t, dir: dir, src: filepath.Join(dir, "src"), mems: s.mems, root: s.root, catalog: newMemCatalog()}
	c := *s.config
	c.StateDir, c.Datasets = filepath.Join(dir, "state"), slices.Clone(c.Datasets)
	c.Datasets[0].Name, c.Datasets[0].Sources = dataset, []string{b.src}
	b.config = &c
	b.fill(77, 3, 4000)
	return b
}

// key is the nation's public key.
func (s *site) key() format.NationKey {
	v := s.root.Signer().Verifier()
	return format.NationKey{Nation: format.NationID(v, s.root.Identity().Recipient()), Signer: v}
}

// ask writes a request, and reads it as the other side does.
func (s *site) ask(name string) *format.Request {
	s.t.Helper()
	text, _, err := s.start().Request(name, s.key())
	if err != nil {
		s.t.Fatal(err)
	}
	r, err := format.ParseRequest([]byte(text))
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

func (s *site) agentKey() *crypto.AgentKey {
	s.t.Helper()
	raw, err := os.ReadFile(filepath.Join(s.config.StateDir, "agent.key"))
	if err != nil {
		s.t.Fatal(err)
	}
	k, err := crypto.ParseAgentKey(raw)
	if err != nil {
		s.t.Fatal(err)
	}
	return k
}

// charter is the newest one on the targets.
func (s *site) charter() *format.Charter {
	s.t.Helper()
	ch, _, _, err := s.start().CharterOf(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	return ch
}

// joined is a site with a second agent, beta.
func joined(t *testing.T, n int) (a, b *site) {
	a = newSite(t, n, 1)
	a.fill(1, 3, 4000)
	a.mustBackup(0)
	b = a.beside("archive")
	if _, err := a.start().Approve(t.Context(), embassy.Authority{Root: a.root}, b.ask("beta"), embassy.ApproveOptions{}); err != nil {
		t.Fatal(err)
	}
	b.mustBackup(0)
	return a, b
}

// administered names three administrators, two of whom sign.
func (s *site) administered() []*crypto.Signer {
	s.t.Helper()
	var keys []*crypto.Signer
	var public []format.AdministratorKey
	for range 3 {
		k := crypto.NewSigner()
		keys = append(keys, k)
		public = append(public, format.AdministratorKey{Verifier: k.Verifier()})
	}
	if _, err := s.start().Administrators(s.t.Context(), embassy.Authority{Root: s.root}, public, nil, 2); err != nil {
		s.t.Fatal(err)
	}
	return keys
}

func TestSuspendedAgentReadsNothingLater(t *testing.T) {
	for _, by := range []string{"root", "administrators"} {
		t.Run(by, func(t *testing.T) {
			a, b := joined(t, 1)
			me := b.agentKey()
			comp := a.charter().Compartments[0].ID
			if _, err := a.charter().OpenPart(comp, format.AgentPart, me.Identity); err != nil {
				t.Fatal(err)
			}
			svc, ctx := a.start(), t.Context()
			other := a.charter().Parts
			if by == "root" {
				if _, err := svc.Suspend(ctx, embassy.Authority{Root: a.root}, "beta"); err != nil {
					t.Fatal(err)
				}
			} else {
				admins := a.administered()
				other = a.charter().Parts
				rep, err := svc.Suspend(ctx, embassy.Authority{Admin: admins[2]}, "beta")
				if err != nil {
					t.Fatal(err)
				}
				if _, err := svc.Publish(ctx, rep.Proposal); !errors.Is(err, format.ErrTooFew) {
					t.Fatalf("one of two signed: %v", err)
				}
				if err := rep.Proposal.Sign(admins[0]); err != nil {
					t.Fatal(err)
				}
				if _, err := svc.Publish(ctx, rep.Proposal); err != nil {
					t.Fatal(err)
				}
			}
			ch := a.charter()
			if g := ch.Agent(me.ID()); g.Status != format.AgentSuspended {
				t.Errorf("status %d", g.Status)
			}
			if _, err := ch.OpenPart(comp, format.AgentPart, me.Identity); !errors.Is(err, crypto.ErrAuthentication) {
				t.Errorf("the suspended agent opens its part: %v", err)
			}
			if by != "root" { // all else is kept, byte for byte
				kept := 0
				for _, p := range ch.Parts {
					if slices.ContainsFunc(other, func(o format.Part) bool { return slices.Equal(o.Box, p.Box) && o.To == p.To }) {
						kept++
					}
				}
				if kept != len(ch.Parts) || kept != len(other)-1 {
					t.Errorf("%d of %d parts were kept; there were %d", kept, len(ch.Parts), len(other))
				}
			}
			if _, err := b.backup(ctx); !errors.Is(err, embassy.ErrNotEnrolled) {
				t.Errorf("backup of the suspended agent: %v", err)
			}
			a.fill(2, 2, 100)
			a.mustBackup(0)
		})
	}
}

func TestAdministratorsEnrol(t *testing.T) {
	a := newSite(t, 1, 1)
	a.fill(1, 3, 4000)
	a.mustBackup(0)
	admins := a.administered()
	b := a.beside("population")
	ctx := t.Context()
	svc := a.start()
	rep, err := svc.Approve(ctx, embassy.Authority{Admin: admins[1]}, b.ask("beta"), embassy.ApproveOptions{Quota: 1 << 40})
	if err != nil {
		t.Fatal(err)
	}
	// By hand to the second one, who looks on the machine of an agent.
	p, err := format.ParseProposal([]byte(rep.Proposal.Text()))
	if err != nil {
		t.Fatal(err)
	}
	review, err := svc.Review(ctx, p)
	if err != nil {
		t.Fatal(err)
	}
	words := strings.Join(review.Changes, "\n")
	for _, want := range []string{"is enrolled, fingerprint " + b.ask("beta").Fingerprint(), "agent beta may write compartment official",
		"agent beta may write dataset population", "is called beta", "agent beta may take 1024GiB on a target"} {
		if !strings.Contains(words, want) {
			t.Errorf("the review does not say %q:\n%s", want, words)
		}
	}
	if len(review.Sealed) > 0 {
		t.Errorf("it cannot look into %v", review.Sealed)
	}
	if err := p.Sign(crypto.NewSigner()); !errors.Is(err, format.ErrNoAdministrator) {
		t.Errorf("a stranger signs: %v", err)
	}
	if err := p.Sign(admins[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := svc.Publish(ctx, p); err != nil {
		t.Fatal(err)
	}
	b.mustBackup(0)
	b.restore(0) // with the root, to whom what administrators sealed counts
	keys, err := embassy.RootKeys(a.charter(), a.root)
	if err != nil || keys.Doubt != nil || keys.Names().Of(b.agentKey().ID()) != "beta" {
		t.Errorf("the root reads %v, %v", keys.Doubt, err)
	}
}

// A proposal on a charter that another one followed is stale, and the older
// charter on a target is not believed.
func TestStaleCharters(t *testing.T) {
	a, b := joined(t, 2)
	admins := a.administered()
	ctx, svc := t.Context(), a.start()
	rep, err := svc.SetQuota(ctx, embassy.Authority{Admin: admins[0]}, "beta", 1<<40)
	if err != nil {
		t.Fatal(err)
	}
	if err := rep.Proposal.Sign(admins[1]); err != nil {
		t.Fatal(err)
	}
	old := map[string][]byte{}
	for name := range a.objects(0) {
		if strings.Contains(name, "/charter/") {
			old[name] = []byte(content(t, a.mems[0])[name])
		}
	}
	if _, err := svc.Suspend(ctx, embassy.Authority{Root: a.root}, "beta"); err != nil {
		t.Fatal(err)
	}
	if _, err := a.start().Publish(ctx, rep.Proposal); !errors.Is(err, embassy.ErrStale) {
		t.Errorf("publish: %v", err)
	}
	if _, err := a.start().Review(ctx, rep.Proposal); !errors.Is(err, embassy.ErrStale) {
		t.Errorf("review: %v", err)
	}
	if _, err := b.backup(ctx); !errors.Is(err, embassy.ErrNotEnrolled) {
		t.Fatalf("suspended: %v", err)
	}
	// Both hosts offer what was before.
	for i := range a.mems {
		for name := range a.objects(i) {
			if strings.Contains(name, "/charter/") && old[name] == nil {
				if err := a.mems[i].Delete(ctx, name); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if _, err := b.backup(ctx); !errors.Is(err, embassy.ErrNotEnrolled) {
		t.Errorf("an older charter is believed: %v", err)
	}
}

func TestPastTellsForksAndForgeries(t *testing.T) {
	a, _ := joined(t, 2)
	past, wrong, err := a.start().Past(t.Context())
	if err != nil || len(past) != 2 || len(wrong) != 0 || len(past[0].On) != 2 {
		t.Fatalf("%d charters, %v, %v", len(past), wrong, err)
	}
	// A twin of charter 2, signed by the root, and one that nobody signed.
	twin := *past[1].Charter
	twin.Time++
	object, err := format.SealCharter(twin, a.root.Signer())
	if err != nil {
		t.Fatal(err)
	}
	forged := twin
	forged.RootSigner = crypto.NewSigner().Verifier().Bytes()
	bad, err := format.SealCharter(forged, crypto.NewSigner())
	if err != nil {
		t.Fatal(err)
	}
	for _, data := range [][]byte{object, bad} {
		h := format.HashOf(data)
		if err := a.mems[1].Put(t.Context(), targets.Object{Name: format.CharterName(twin.Nation, 2, h), Data: data, SHA256: h}); err != nil {
			t.Fatal(err)
		}
	}
	past, wrong, err = a.start().Past(t.Context())
	if err != nil || len(past) != 3 || len(wrong) != 2 {
		t.Fatalf("%d charters, %v, %v", len(past), wrong, err)
	}
	if !slices.ContainsFunc(wrong, func(f embassy.Finding) bool { return errors.Is(f.Err, embassy.ErrForkedCharter) }) ||
		!slices.ContainsFunc(wrong, func(f embassy.Finding) bool {
			return f.Target == "t1" && errors.Is(f.Err, crypto.ErrAuthentication)
		}) {
		t.Errorf("found %v", wrong)
	}
}

// Past charters of a root that was replaced are verified with the ids that the
// newest one knows.
func TestPastOfEarlierRoot(t *testing.T) {
	a, _ := joined(t, 1)
	past, _, err := a.start().Past(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	object := []byte(content(t, a.mems[0])[format.CharterName(past[0].Nation, 1, past[0].Hash)])
	next := *past[1].Charter
	second := a.root.Succeed()
	if err := next.Succeed(a.root, second); err != nil {
		t.Fatal(err)
	}
	next.Seq, next.Prev = 3, past[1].Hash
	signed, err := format.SealCharter(next, second.Signer())
	if err != nil {
		t.Fatal(err)
	}
	newest, err := format.OpenCharter(signed, next.Nation, second.Signer().Verifier())
	if err != nil {
		t.Fatal(err)
	}
	if c, err := newest.OpenPast(object); err != nil || c.Seq != 1 {
		t.Errorf("%v", err)
	}
	if _, err := format.OpenCharter(object, next.Nation, second.Signer().Verifier()); !errors.Is(err, crypto.ErrAuthentication) {
		t.Errorf("the younger root alone opens it: %v", err)
	}
	object[len(object)-1] ^= 1
	if _, err := newest.OpenPast(object); !errors.Is(err, crypto.ErrAuthentication) {
		t.Errorf("altered: %v", err)
	}
}

// A replicator carries an agent's chain up to its quota, and no further.
func TestQuotaStopsReplicator(t *testing.T) {
	a := newSite(t, 2, 1)
	a.wrap = unreachable(1)
	for seed := range uint64(4) {
		a.fill(seed, 3, 60_000)
		a.mustBackup(0)
	}
	a.wrap = nil
	ctx := t.Context()
	whole := a.weight(0)
	quota := whole * 6 / 10
	id := a.agentKey().ID()
	if _, err := a.start().SetQuota(ctx, embassy.Authority{Root: a.root}, format.ID(id).String(), quota); err != nil {
		t.Fatal(err)
	}
	keyless := *a.config
	keyless.NationKey, keyless.StateDir, keyless.Datasets, keyless.Compartments = a.key(), t.TempDir(), nil, nil
	catalog := newMemCatalog()
	replicate := func(shards int) embassy.ReplicateReport {
		t.Helper()
		svc, err := embassy.New(embassy.Options{Site: &keyless, Members: a.members(), Catalog: catalog})
		if err != nil {
			t.Fatal(err)
		}
		rep, err := svc.Replicate(ctx, embassy.ReplicateOptions{Shards: shards})
		if err != nil {
			t.Fatal(err)
		}
		return rep
	}
	rep := replicate(0)
	got := a.weight(1)
	if rep.Exit != 4 || !errors.Is(rep.Targets[1].Err, embassy.ErrQuota) || rep.Targets[1].Behind == 0 {
		t.Errorf("exit code %d, %+v", rep.Exit, rep.Targets[1])
	}
	if got == 0 || got > quota {
		t.Errorf("%d of %d bytes were carried, and the quota is %d", got, whole, quota)
	}
	if rep = replicate(1); rep.Exit != 4 || a.weight(1) != got {
		t.Errorf("again: exit code %d, %d bytes", rep.Exit, a.weight(1))
	}
	svc, err := embassy.New(embassy.Options{Site: &keyless, Members: a.members(), Catalog: catalog})
	if err != nil {
		t.Fatal(err)
	}
	st, err := svc.Status(ctx, false)
	if err != nil || len(st.Agents) != 1 || !st.Agents[0].Full() || st.Agents[0].Used != whole || st.Exit() != 4 {
		t.Errorf("status %+v, %v; want %d bytes", st.Agents, err, whole)
	}
	a.wrap = unreachable(1)
	a.fill(9, 1, 100)
	if r := a.mustBackup(4); !errors.Is(r.Quota, embassy.ErrQuota) || r.Snapshot.IsZero() {
		t.Errorf("the agent is told %v", r.Quota)
	}
	a.wrap = nil
	if _, err := a.start().SetQuota(ctx, embassy.Authority{Root: a.root}, format.ID(id).String(), 0); err != nil {
		t.Fatal(err)
	}
	if rep = replicate(0); rep.Exit != 0 {
		t.Errorf("without a quota: exit code %d, %+v", rep.Exit, rep.Targets)
	}
}

// weight sums what agents wrote on a target.
func (s *site) weight(i int) (sum uint64) {
	for name, size := range s.objects(i) {
		if !strings.Contains(name, "/charter/") {
			sum += uint64(size)
		}
	}
	return sum
}

func TestRequestRefuses(t *testing.T) {
	a := newSite(t, 1, 1)
	b := a.beside("archive")
	r := b.ask("beta")
	by := embassy.Authority{Root: a.root}
	foreign := *r
	foreign.Nation[0] ^= 1
	if _, err := a.start().Approve(t.Context(), by, &foreign, embassy.ApproveOptions{}); !errors.Is(err, embassy.ErrNotEnrolled) {
		t.Errorf("a request to another nation: %v", err)
	}
	same := *r
	same.Name = "test" // as the first agent
	if _, err := a.start().Approve(t.Context(), by, &same, embassy.ApproveOptions{}); !errors.Is(err, embassy.ErrUnfit) {
		t.Errorf("a name that is taken: %v", err)
	}
	unwilling := errors.New("no")
	by.Confirm = func([]string) error { return unwilling }
	if _, err := a.start().Approve(t.Context(), by, r, embassy.ApproveOptions{}); !errors.Is(err, unwilling) || a.charter().Seq != 1 {
		t.Errorf("who says no signs charter %d: %v", a.charter().Seq, err)
	}
	by.Confirm = nil
	if _, err := a.start().Approve(t.Context(), by, r, embassy.ApproveOptions{Compartments: []string{"secret"}}); !errors.Is(err, embassy.ErrUnknownName) {
		t.Errorf("a compartment that it does not ask for: %v", err)
	}
	if _, _, err := b.start().Request("beta", format.NationKey{Nation: a.key().Nation, Signer: crypto.NewSigner().Verifier()}); err == nil {
		t.Error("another key of the nation took the place of the pinned one")
	}
	b.config.Datasets = []config.Dataset{}
	if _, _, err := b.start().Request("beta", a.key()); !errors.Is(err, embassy.ErrUnknownName) {
		t.Errorf("a machine without datasets: %v", err)
	}
}

// Whoever makes a proposal names any charter as the one before it. What it undoes
// is shown to those who sign, or it is stale.
func TestReviewHidesNothing(t *testing.T) {
	a, _ := joined(t, 1)
	admins := a.administered()
	ctx, svc := t.Context(), a.start()
	base, object, _, err := svc.CharterOf(ctx)
	if err != nil {
		t.Fatal(err)
	}
	rep, err := svc.Suspend(ctx, embassy.Authority{Admin: admins[0]}, "beta")
	if err != nil {
		t.Fatal(err)
	}
	if err := rep.Proposal.Sign(admins[1]); err != nil {
		t.Fatal(err)
	}
	if _, err := svc.Publish(ctx, rep.Proposal); err != nil {
		t.Fatal(err)
	}
	// It looks like a quota for the first agent, and resumes the other.
	next := *base
	next.Base, next.Prev = object, format.HashOf([]byte("another charter"))
	next.Agents = slices.Clone(base.Agents)
	next.Agents[0].Quota = 1 << 40
	for seq, want := range map[uint64]error{base.Seq + 2: embassy.ErrStale, base.Seq + 3: nil} {
		next.Seq = seq
		p, err := format.Propose(next)
		if err != nil {
			t.Fatal(err)
		}
		review, err := svc.Review(ctx, p)
		if !errors.Is(err, want) {
			t.Errorf("proposal of charter %d: %v", seq, err)
		}
		if want == nil && !strings.Contains(strings.Join(review.Changes, "\n"), "agent beta is active") {
			t.Errorf("proposal of charter %d against %d: %v", seq, review.Since, review.Changes)
		}
	}
}
