package embassy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"embassy/crypto"
	"embassy/embassy/config"
	"embassy/embassy/format"
)

// amendment is a charter in the making: its public part, and the sealed ones
// in the open.
type amendment struct {
	*format.Charter
	root  *crypto.Root // with those before it; nil: administrators sign
	parts map[format.ID]*format.CompartmentPart
	fresh map[format.ID]bool // compartments whose parts administrators have to seal anew
	lines []string           // for people: what is new; none: nothing
	facts []string           // for the audit log, beside them
}

// say notes what is new. A charter of which nothing is said is not signed.
func (a *amendment) say(format string, args ...any) {
	a.lines = append(a.lines, fmt.Sprintf(format, args...))
}

// named returns the compartment of that name, both faces; nil if there is none.
func (a *amendment) named(name string) (*format.CharterCompartment, *format.CompartmentPart) {
	for id, p := range a.parts {
		if p.Name == name {
			return a.Compartment(id), p
		}
	}
	return nil, nil
}

// following begins the charter after prev, whose object is given, with what
// keys open of it. Nothing in it is shared with prev.
func following(prev *format.Charter, object []byte, keys *Keys, root *crypto.Root) *amendment {
	next := *prev
	next.Seq, next.Prev, next.Base = prev.Seq+1, format.HashOf(object), nil
	next.Compartments, next.Agents = slices.Clone(prev.Compartments), slices.Clone(prev.Agents)
	for i := range next.Compartments {
		c := &next.Compartments[i]
		c.Recipients, c.Stewards = slices.Clone(c.Recipients), slices.Clone(c.Stewards)
	}
	for i := range next.Agents {
		next.Agents[i].Compartments = slices.Clone(next.Agents[i].Compartments)
	}
	a := &amendment{Charter: &next, root: root, parts: map[format.ID]*format.CompartmentPart{}, fresh: map[format.ID]bool{}}
	for _, c := range keys.Compartments {
		p := c.Part
		p.Writers, p.AgentNames, p.Datasets = slices.Clone(p.Writers), slices.Clone(p.AgentNames), slices.Clone(p.Datasets)
		for i := range p.Datasets {
			p.Datasets[i].Agents = slices.Clone(p.Datasets[i].Agents)
		}
		a.parts[c.ID] = &p
	}
	return a
}

// amendmentOf begins the charter after prev, whose object is given, with the root.
func (s *Service) amendmentOf(prev *format.Charter, object []byte, root *crypto.Root) (*amendment, error) {
	keys, err := RootKeys(prev, root)
	if err != nil {
		return nil, fmt.Errorf("open charter %d: %w", prev.Seq, err)
	}
	if keys.Doubt != nil {
		s.warn(Finding{Object: "charter", Err: keys.Doubt})
	}
	ring, err := prev.Ring(root)
	if err != nil {
		return nil, err
	}
	return following(prev, object, keys, ring), nil
}

// first begins the first charter of a nation.
func first(nation format.ID, root *crypto.Root) *amendment {
	return &amendment{
		Charter: &format.Charter{
			Nation: nation, Seq: 1,
			RootSigner: root.Signer().Verifier().Bytes(), RootRecipient: root.Identity().Recipient().Bytes(),
		},
		root: root, parts: map[format.ID]*format.CompartmentPart{},
	}
}

// seal seals every compartment's part to those who may read it: the newest
// reader key, partners, and active agents.
func (a *amendment) seal() error {
	a.Parts = notices(a.Parts)
	for i := range a.Compartments {
		if err := a.sealPart(&a.Compartments[i]); err != nil {
			return err
		}
	}
	return nil
}

func (a *amendment) sealPart(k *format.CharterCompartment) error {
	part := a.parts[k.ID]
	if part == nil {
		return fmt.Errorf("compartment %s: its names and secrets are not open to this machine: %w", k.ID, crypto.ErrAuthentication)
	}
	seal := func(kind format.PartKind, key []byte, p format.CompartmentPart) error {
		to, err := crypto.ParseRecipient(key)
		if err != nil {
			return fmt.Errorf("compartment %s: %w", part.Name, err)
		}
		box, err := format.SealPart(a.Nation, k.ID, k.Epoch, kind, to, p)
		a.Parts = append(a.Parts, box)
		return err
	}
	for _, r := range k.Recipients {
		p := *part
		p.Writers = slices.DeleteFunc(slices.Clone(p.Writers), func(e format.EpochSecret) bool { return e.Epoch < r.Since })
		if err := seal(format.ReaderPart, r.Key, p); err != nil {
			return err
		}
	}
	for _, agent := range a.Agents {
		if agent.Status == format.AgentActive && slices.Contains(agent.Compartments, k.ID) {
			if err := seal(format.AgentPart, agent.Recipient, *part); err != nil {
				return err
			}
		}
	}
	return nil
}

// sign returns the object of the charter, signed by the root.
func (s *Service) sign(a *amendment) ([]byte, error) {
	if !rules(a.Charter, a.root) {
		return nil, ErrUnfinished
	}
	a.Time = s.now().UnixNano()
	if err := a.seal(); err != nil {
		return nil, err
	}
	return format.SealCharter(*a.Charter, a.root.Signer())
}

// CharterReport says what a new charter changed.
type CharterReport struct {
	Seq     uint64
	Added   []string // for people; empty: the charter already said it all
	Targets []TargetResult
}

// amend signs the charter that follows the newest one, changed by change, with
// the root, and publishes it. When change has nothing to say, the newest one is
// published again.
func (s *Service) amend(ctx context.Context, root *crypto.Root, change func(*State, *amendment) error) (CharterReport, error) {
	state, err := OpenState(s.site.StateDir)
	if err != nil {
		return CharterReport{}, err
	}
	ch, was, err := s.newestCharter(ctx, state)
	if err != nil {
		return CharterReport{}, err
	}
	a, err := s.amendmentOf(ch, was, root)
	if err != nil {
		return CharterReport{}, err
	}
	object := was
	if err := change(state, a); err != nil {
		return CharterReport{}, err
	}
	if len(a.lines) > 0 {
		if object, err = s.sign(a); err != nil {
			return CharterReport{}, err
		}
		if ch, err = s.enact(ctx, state, ch, was, object, append([]string{"added", strings.Join(a.lines, "; ")}, a.facts...)...); err != nil {
			return CharterReport{}, err
		}
	}
	return CharterReport{Seq: ch.Seq, Added: a.lines, Targets: s.publish(ctx, ch, object)}, nil
}

// ErrUnpublished: nothing can follow a charter that is on no target.
var ErrUnpublished = errors.New("no target that answers has it, so none can follow it, and nothing was signed: embassy target list says what is wrong with them; then run this again")

// enact makes a charter that was signed here the newest one of this machine,
// and records it. The one before it goes to the targets first, where an
// interrupted run did not bring it: what follows a charter that is nowhere
// cannot be verified. The record comes first: a charter may end this machine's
// agent, and after a crash one record too many is better than one too few. It
// comes last where only the charter lets the agent write. That it cannot be
// written does not keep the charter from the targets: what suspends a captured
// agent must get there.
func (s *Service) enact(ctx context.Context, state *State, prev *format.Charter, was, object []byte, facts ...string) (*format.Charter, error) {
	if s.present(ctx, prev, was) == 0 {
		return nil, fmt.Errorf("charter %d: %w", prev.Seq, ErrUnpublished)
	}
	var unrecorded error
	audit := func() {
		unrecorded = s.Audit(DidSignCharter, "", append([]string{"charter", strconv.FormatUint(prev.Seq+1, 10)}, facts...)...)
	}
	ch, err := state.enactCharter(object, audit)
	if err != nil {
		return nil, err
	}
	if unrecorded != nil {
		audit()
	}
	if unrecorded != nil {
		s.warn(Finding{Object: auditObject, Err: unrecorded})
	}
	return ch, nil
}

// current returns nil while the charter of this hash is the newest one that this
// machine or any answering target knows; else ErrStale.
func (s *Service) current(ctx context.Context, state *State, h format.Hash) error {
	ch, object, err := s.newestCharter(ctx, state)
	if err == nil && format.HashOf(object) != h {
		err = fmt.Errorf("charter %d is in force: %w", ch.Seq, ErrStale)
	}
	return err
}

// ApplyCharter signs what the configuration adds to the charter:
// compartments, datasets, and this machine as agent of both.
func (s *Service) ApplyCharter(ctx context.Context, root *crypto.Root) (CharterReport, error) {
	return s.amend(ctx, root, func(state *State, a *amendment) error {
		return s.configure(state, a, InitOptions{})
	})
}

// firstCharter signs charter 1, or takes the newest one that a target holds
// when this root already has one: then this machine only joins it again.
func (s *Service) firstCharter(ctx context.Context, state *State, root *crypto.Root, o InitOptions) (*format.Charter, []byte, error) {
	probe(ctx, state.Nation(), s.order)
	prev, object, err := FindCharter(ctx, s.order, state.Nation(), state.Verifier(), s.warn)
	if err != nil && (!errors.Is(err, ErrNoCharter) || errors.Is(err, errBadCharters)) {
		return nil, nil, err // a second first charter would be worse than none
	}
	a := first(state.Nation(), root)
	if err == nil {
		if a, err = s.amendmentOf(prev, object, root); err != nil {
			return nil, nil, err
		}
	}
	if err := s.configure(state, a, o); err != nil {
		return nil, nil, err
	}
	if object, err = s.sign(a); err != nil {
		return nil, nil, err
	}
	ch, err := state.enactCharter(object, nil)
	return ch, object, err
}

// newestCharter returns the newest charter that this machine or any answering
// target knows.
func (s *Service) newestCharter(ctx context.Context, state *State) (*format.Charter, []byte, error) {
	have, _, err := state.charter()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	probe(ctx, state.Nation(), s.order)
	_, object, err := findCharter(ctx, s.order, state.Nation(), state.Verifier(), have, s.warn)
	if have != nil && errors.Is(err, ErrTwoHeirs) { // what was accepted holds
		s.warn(Finding{Object: "charter", Err: err})
		return state.charter()
	}
	if err != nil && !errors.Is(err, ErrNoCharter) && !errors.Is(err, ErrDown) {
		return nil, nil, err
	}
	if err == nil {
		if _, err := state.acceptCharter(object); err != nil {
			return nil, nil, err
		}
	}
	return state.charter()
}

// configure makes the charter say what the configuration says, with this
// machine as an agent.
func (s *Service) configure(state *State, a *amendment, o InitOptions) error {
	me := state.Agent()
	if a.Agent(me) == nil {
		a.Agents = append(a.Agents, format.CharterAgent{
			ID: me, Signer: state.key.Signer.Verifier().Bytes(),
			Recipient: state.key.Identity.Recipient().Bytes(), Status: format.AgentActive,
		})
		a.say("agent %s", me)
	}
	mine := a.Agent(me)
	for _, k := range s.site.Compartments {
		cc, p := a.named(k.Name)
		if t := a.Tombstone(a.pseudonym(k.Name)); t != nil {
			return fmt.Errorf("%w; for other data, choose another name", Destroyed{ID: t.ID, Name: k.Name, At: t.When()}.Refusal())
		}
		if cc == nil {
			cc, p = a.addCompartment(s.site.Nation, k.Name)
			a.say("compartment %s", k.Name)
		}
		p.Classification = k.Classification
		if shared := k.Dedup == config.DedupCompartment; k.Dedup != "" && shared != cc.Shared {
			cc.Shared = shared
			if shared {
				a.say("compartment %s: its agents trust one another, and reuse each other's chunks", k.Name)
			} else {
				a.say("compartment %s: its agents reuse each other's chunks no more", k.Name)
			}
		}
		if o.Steward {
			cc.Stewards = append(cc.Stewards, me)
		}
		if !slices.Contains(mine.Compartments, cc.ID) {
			mine.Compartments = append(mine.Compartments, cc.ID)
		}
		if !slices.ContainsFunc(p.AgentNames, func(n format.AgentName) bool { return n.ID == me }) {
			p.AgentNames = append(p.AgentNames, format.AgentName{ID: me, Name: cmp.Or(o.AgentName, a.names()[me])})
		}
		for _, d := range s.site.Datasets {
			if d.Compartment != k.Name {
				continue
			}
			var line string
			if p.Datasets, line = withDataset(p.Datasets, d.Name, d.Priority, me); line != "" {
				a.say("%s", line)
			}
		}
	}
	return nil
}

// pseudonym is that of a compartment. It is the one under the first root, so it
// stays when the root is rotated.
func (a *amendment) pseudonym(name string) format.ID {
	ring := a.root.Ring()
	return ring[len(ring)-1].CompartmentID(name)
}

// addCompartment adds a compartment with keys of the root.
func (a *amendment) addCompartment(nation, name string) (*format.CharterCompartment, *format.CompartmentPart) {
	id := a.pseudonym(name)
	a.Compartments = append(a.Compartments, format.CharterCompartment{ID: id, Epoch: 1, Recipients: []format.RecipientKey{
		{Epoch: 1, Key: a.root.Reader(id, 1).Recipient().Bytes()},
	}})
	a.parts[id] = &format.CompartmentPart{
		NationName: nation, Name: name,
		Writers: []format.EpochSecret{{Epoch: 1, Secret: a.root.Writer(id, 1).Bytes()}},
	}
	return a.Compartment(id), a.parts[id]
}

// withDataset returns the list with the dataset in it, writable by the agent,
// and a line that says what that changed.
func withDataset(list []format.Dataset, name string, priority int, agent format.ID) ([]format.Dataset, string) {
	list = slices.Clone(list)
	i := slices.IndexFunc(list, func(d format.Dataset) bool { return d.Name == name })
	if i < 0 {
		return append(list, format.Dataset{Name: name, Priority: priority, Agents: []format.ID{agent}}), "dataset " + name
	}
	line := ""
	if list[i].Priority != priority {
		list[i].Priority, line = priority, fmt.Sprintf("dataset %s: priority %d", name, priority)
	}
	if !slices.Contains(list[i].Agents, agent) {
		list[i].Agents, line = append(slices.Clone(list[i].Agents), agent), fmt.Sprintf("dataset %s: written by this agent too", name)
	}
	return list, line
}
