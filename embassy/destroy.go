package embassy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"embassy/crypto"
	"embassy/embassy/format"
)

// A compartment is destroyed in steps. Whatever dies in between, the same
// command goes on:
//
//  1. A new root is made that follows the nation's, and holds every other
//     compartment's keys, and not this one's; it is kept (NewRoot).
//  2. A charter hands over to it, with a tombstone in the place of the
//     compartment (Destroy). From then on no machine writes, reads or copies it.
//  3. This machine forgets it, and what lies on the targets is deleted (Erase).
//
// The deletion is for room: what makes the data unreadable is the end of every
// kit and share of the roots before.

var (
	// ErrDestroyed: a compartment is no more.
	ErrDestroyed = errors.New("its keys are gone, and nothing of it is written or read any more: take it and its datasets out of the configuration")
	// ErrNotDestroyed: what is to be erased was not destroyed.
	ErrNotDestroyed = errors.New("is not destroyed")
	// ErrHeld: what is to be destroyed is under a hold.
	ErrHeld = errors.New("under a hold, and so not to be destroyed: see embassy dataset release")
	// ErrLastCompartment: a nation has one compartment at least.
	ErrLastCompartment = errors.New("it is the nation's only compartment, and without any there is no nation: add another one first, or delete the folder of the nation on every target, and every kit and share")
	// ErrPlaced: what is to be destroyed is still in the configuration.
	ErrPlaced = errors.New("is in the configuration: take it and its datasets out first, on every machine, so that nothing backs it up meanwhile; its targets stay")
	// ErrReduced: a root does not hold what it should.
	ErrReduced = errors.New("the new root cannot open it: it was made to destroy a compartment, or before this one was added; name a new kit or folder that does not exist yet, to make another one")
	// ErrHoldsIt: a root opens what is to be destroyed.
	ErrHoldsIt = errors.New("the root that is there opens it: name a new kit or folder that does not exist yet, to make one that does not")
)

// Destroyed is a compartment that is no more.
type Destroyed struct {
	ID       format.ID
	Name     string
	At       time.Time
	Datasets []string // that were in it, as far as known
}

// Refusal is the error of who asks for it; it wraps ErrDestroyed.
func (d Destroyed) Refusal() error {
	return fmt.Errorf("compartment %q was destroyed on %s: %w", d.Name, d.At.UTC().Format("2006-01-02 15:04 UTC"), ErrDestroyed)
}

// notices are those of the parts that tell of destroyed compartments.
func notices(parts []format.Part) []format.Part {
	return slices.DeleteFunc(slices.Clone(parts), func(p format.Part) bool { return p.Kind != format.NoticePart })
}

// mourn learns of the destroyed compartments whose names are sealed to an
// identity.
func (k *Keys) mourn(id *crypto.Identity) {
	for _, t := range k.Charter.Destroyed {
		if slices.ContainsFunc(k.Destroyed, func(d Destroyed) bool { return d.ID == t.ID }) {
			continue
		}
		part, err := k.Charter.OpenPart(t.ID, format.NoticePart, id)
		if err != nil {
			continue // it was none of the holder's
		}
		d := Destroyed{ID: t.ID, Name: part.Name, At: t.When()}
		for _, s := range part.Datasets {
			d.Datasets = append(d.Datasets, s.Name)
		}
		k.Destroyed = append(k.Destroyed, d)
	}
}

// notInCharter is the error about a compartment of the configuration that keys
// do not open, from their error.
func notInCharter(compartment string, err error) error {
	if errors.Is(err, ErrDestroyed) {
		return err
	}
	return fmt.Errorf("compartment %s: %w", compartment, ErrNotInCharter)
}

// Doomed returns what this machine's agent knows of a compartment that is to be
// destroyed, or was; its time is zero in the first case. When the agent knows
// none of that name, the root may.
func (s *Service) Doomed(ctx context.Context, name string) (Destroyed, error) {
	keys, err := s.AgentKeys(ctx)
	if err != nil {
		return Destroyed{}, err
	}
	return doomed(keys, name)
}

func doomed(keys *Keys, name string) (Destroyed, error) {
	for _, d := range keys.Destroyed {
		if d.Name == name {
			return d, nil
		}
	}
	c, err := keys.Named(name)
	if err != nil {
		return Destroyed{}, err
	}
	d := Destroyed{ID: c.ID, Name: name}
	for _, set := range c.Part.Datasets {
		d.Datasets = append(d.Datasets, set.Name)
	}
	return d, nil
}

// successorWithout makes a root that follows the ring, and holds every compartment
// but the named one; with no name, every one. It looks first whether that one may go.
func (s *Service) successorWithout(ctx context.Context, state *State, keys *Keys, ring *crypto.Root, name string) (*crypto.Root, error) {
	if name == "" {
		return ring.Succeed(), nil
	}
	c, err := keys.Named(name)
	if err != nil {
		return nil, err
	}
	if err := s.mayDestroy(ctx, state, keys, c); err != nil {
		return nil, err
	}
	var others [][16]byte
	for _, k := range keys.Charter.Compartments {
		if k.ID != c.ID {
			others = append(others, k.ID)
		}
	}
	return ring.SucceedWith(others), nil
}

// mayDestroy returns why a compartment cannot be destroyed, if it cannot.
func (s *Service) mayDestroy(ctx context.Context, state *State, keys *Keys, c *Compartment) error {
	if len(keys.Charter.Compartments) == 1 {
		return fmt.Errorf("compartment %s: %w", c.Part.Name, ErrLastCompartment)
	}
	me := keys.Charter.Agent(state.Agent())
	if me == nil || !slices.ContainsFunc(me.Compartments, func(id format.ID) bool { return id != c.ID }) {
		return fmt.Errorf("compartment %s: this machine writes no other one, so its audit log has no place to tell of this, and it %w: run it on the machine of another agent", c.Part.Name, ErrUnfit)
	}
	st := &stewardship{s: s, state: state, comp: c, keys: &Keys{Charter: keys.Charter, Compartments: []*Compartment{c}}, l: &ledger{chain: &chain{}}}
	if slices.Contains(keys.Charter.Compartment(c.ID).Stewards, state.Agent()) {
		id, err := state.currentChain(c.ID)
		if err == nil {
			st.l.chain, err = state.chainAt(c.ID, id)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	_, view, err := st.look(ctx, ViewOptions{})
	if err != nil {
		return fmt.Errorf("compartment %s: whether it is under a hold: %w", c.Part.Name, err)
	}
	for _, d := range c.Part.Datasets {
		if view.held(d.Name) {
			return fmt.Errorf("dataset %s of compartment %s is %w", d.Name, c.Part.Name, ErrHeld)
		}
	}
	if _, placed := s.site.Compartment(c.Part.Name); placed {
		return fmt.Errorf("compartment %s %w", c.Part.Name, ErrPlaced)
	}
	return nil
}

// Destroy makes next, a root that NewRoot made without the named compartment, the
// nation's root, and puts a tombstone into the charter in the place of the
// compartment. Where that has happened already, the newest charter is published
// again, and the report has no Added. ErrUnrelated, ErrHoldsIt, ErrReduced.
func (s *Service) Destroy(ctx context.Context, next *crypto.Root, name string) (CharterReport, error) {
	return s.succeed(ctx, next, func(state *State, a *amendment) error {
		id := a.pseudonym(name)
		if rules(a.Charter, next) && a.Tombstone(id) != nil {
			return nil
		}
		k := a.Compartment(id)
		switch {
		case k == nil:
			return fmt.Errorf("compartment %q: %w", name, ErrUnknownName)
		case !next.Lacks(id):
			return fmt.Errorf("compartment %s: %w", name, ErrHoldsIt)
		}
		if err := a.bury(state, id, name, next, s.now()); err != nil {
			return err
		}
		return a.handOver(next)
	})
}

// bury puts a tombstone in the place of a compartment.
func (a *amendment) bury(state *State, id format.ID, name string, next *crypto.Root, now time.Time) error {
	notice := format.CompartmentPart{NationName: state.Name(), Name: name}
	ch, _, err := state.charter()
	if err != nil {
		return err
	}
	keys, err := AgentKeys(ch, state.key)
	if err != nil {
		return err
	}
	if c := keys.at(id); c != nil {
		for _, d := range c.Part.Datasets {
			notice.Datasets = append(notice.Datasets, format.Dataset{Name: d.Name})
		}
	}
	tomb := format.Tombstone{ID: id, Time: now.UnixNano()}
	to := [][]byte{next.Identity().Recipient().Bytes()}
	for i := range a.Agents {
		g := &a.Agents[i]
		was := slices.Contains(g.Compartments, id)
		if was {
			tomb.Agents = append(tomb.Agents, g.ID)
			g.Compartments = slices.DeleteFunc(g.Compartments, func(c format.ID) bool { return c == id })
		}
		if g.Status == format.AgentActive && (was || g.ID == state.Agent()) {
			to = append(to, g.Recipient)
		}
	}
	for _, key := range to {
		recipient, err := crypto.ParseRecipient(key)
		if err != nil {
			return err
		}
		part, err := format.SealPart(a.Nation, id, 0, format.NoticePart, recipient, notice)
		if err != nil {
			return err
		}
		a.Parts = append(slices.Clone(a.Parts), part)
	}
	a.Compartments = slices.DeleteFunc(a.Compartments, func(c format.CharterCompartment) bool { return c.ID == id })
	delete(a.parts, id)
	a.Charter.Destroyed = append(slices.Clone(a.Charter.Destroyed), tomb)
	a.say("compartment %s is destroyed: the root that is in force from now on cannot open it", name)
	a.facts = []string{FactDestroyed, name}
	return nil
}

// EraseReport is the outcome of an Erase.
type EraseReport struct {
	Destroyed
	Started time.Time
	Elapsed time.Duration
	Targets []PrunedTarget // in the order of the configuration
	DryRun  bool
	Exit    int // 4: something is still there; else 0
}

// Erase removes what this machine has of a destroyed compartment, and deletes
// everything that lies in its folder on the targets, all versions, but for what a
// lock keeps. It may be run again, and on any machine whose agent knew the
// compartment. A dry run counts what lies there, also before the destruction.
// ErrNotDestroyed.
func (s *Service) Erase(ctx context.Context, name string, dryRun bool) (EraseReport, error) {
	rep := EraseReport{Started: s.now(), DryRun: dryRun}
	if err := s.shared.own.Acquire(ctx, 1); err != nil {
		return rep, err
	}
	defer s.shared.own.Release(1)
	state, err := OpenState(s.site.StateDir)
	if err != nil {
		return rep, err
	}
	ch, object, err := s.newestCharter(ctx, state)
	if err != nil {
		return rep, err
	}
	keys, err := AgentKeys(ch, state.key)
	if err != nil {
		return rep, err
	}
	if rep.Destroyed, err = doomed(keys, name); err != nil {
		return rep, err
	}
	if !dryRun {
		if rep.At.IsZero() {
			return rep, fmt.Errorf("compartment %s %w", name, ErrNotDestroyed)
		}
		if err := s.eraseHere(state, rep.ID); err != nil {
			return rep, err
		}
		s.present(ctx, ch, object)
	}
	rep.Targets = make([]PrunedTarget, len(s.order))
	charter := format.CharterName(ch.Nation, ch.Seq, format.HashOf(object))
	each(s.order, func(i int, m *Member) {
		c := &clearing{s: s, m: m, out: PrunedTarget{Target: m.Name}}
		c.out.Err = c.erase(ctx, fmt.Sprintf("%s/%s/", ch.Nation, rep.ID), charter, dryRun)
		rep.Targets[i] = c.out
	})
	if ctx.Err() != nil {
		return rep, ctx.Err()
	}
	var objects, bytes uint64
	for _, t := range rep.Targets {
		if t.Err != nil || t.Locked > 0 {
			rep.Exit = exitDegraded
		}
		objects, bytes = objects+t.Objects, bytes+t.Bytes
	}
	rep.Elapsed = s.now().Sub(rep.Started)
	if dryRun {
		return rep, nil
	}
	return rep, s.catalog.AddRun(Run{Kind: "destroy", Started: rep.Started, Ended: s.now(), Exit: rep.Exit,
		Note: fmt.Sprintf("%d objects of %d bytes deleted, over all targets", objects, bytes)})
}

// eraseHere removes what this machine has of a compartment: what the catalog
// knows, the spool and the own chains, which last name what the catalog may know.
func (s *Service) eraseHere(state *State, id format.ID) error {
	about := []string{id.String()}
	if err := state.eachChain(id, func(c *chain) error {
		about = append(about, c.id().String())
		return nil
	}); err != nil {
		return err
	}
	if err := s.catalog.ForgetCompartment(id); err != nil {
		return err
	}
	notes, err := s.catalog.Notes("")
	if err != nil {
		return err
	}
	for key, value := range notes {
		if len(value) > 0 && slices.ContainsFunc(about, func(a string) bool { return strings.Contains(key, a) }) {
			if err := s.catalog.Note(key, nil); err != nil {
				return err
			}
		}
	}
	for _, what := range []string{"spool", "chains"} {
		if err := state.removeDir(what, id.String()); err != nil {
			return err
		}
	}
	return nil
}

// erase deletes everything below a prefix, once the target has the charter that
// says that it is to go: who reads it there, does not miss it.
func (c *clearing) erase(ctx context.Context, prefix, charter string, dryRun bool) error {
	if c.m.Down() != nil {
		return fmt.Errorf("%w: %w", ErrDown, c.m.Down())
	}
	if _, err := c.versions(ctx, c.m.pen(), prefix); err != nil && !dryRun {
		return err // what a deletion hides would not be seen
	}
	all, err := c.lies(ctx, prefix)
	if err != nil {
		return err
	}
	for _, o := range all {
		c.out.Before += o.size
	}
	if dryRun || len(all) == 0 {
		c.out.Objects, c.out.Bytes = uint64(len(all)), c.out.Before
		return nil
	}
	if _, err := c.m.stat(ctx, charter); err != nil {
		return fmt.Errorf("it has not the charter that says so, and who backs up there would not know: %w", err)
	}
	if err := c.removeAll(ctx, all); err != nil {
		return err
	}
	left, err := c.lies(ctx, prefix)
	if err == nil && uint64(len(left)) > c.out.Locked {
		err = fmt.Errorf("%d objects are there after their deletion, such as %s: run it again; if they stay, its operator keeps them", len(left), left[0].name)
	}
	return err
}

// lies returns what a target shows below a prefix, also of what a deletion only
// hides.
func (c *clearing) lies(ctx context.Context, prefix string) (all []lying, err error) {
	err = c.m.do(ctx, func(ctx context.Context) error {
		all = nil
		for info, err := range c.m.names(ctx, prefix) {
			if err != nil {
				return err
			}
			o := lying{name: info.Name, size: uint64(info.Size)}
			o.agent, o.kind, o.hash, _ = parseObject(strings.TrimPrefix(info.Name, prefix))
			all = append(all, o)
		}
		return nil
	})
	return all, err
}
