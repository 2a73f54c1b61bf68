package embassy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"embassy/crypto"
	"embassy/embassy/config"
	"embassy/embassy/format"
)

var (
	errWaiting = fmt.Errorf("%w: its request waits for embassy agent approve, by who has the root or by the administrators", ErrNotEnrolled)
	// ErrRevoked: a revoked agent stays revoked.
	ErrRevoked = errors.New("it is revoked for good: enrol the machine as a new agent, with embassy agent request and an empty state directory")
	// ErrUnfit: what was asked for contradicts the charter.
	ErrUnfit = errors.New("cannot be signed")
	// ErrAfter: it was not said what of a revoked agent's chains counts.
	ErrAfter = errors.New("say what of its chains counts: --after HASH for each, the last good entry, or --after none for those of which nothing does")
)

// enrolled returns nil when the charter lets the agent write.
func enrolled(id format.ID, a *format.CharterAgent) error {
	switch {
	case a == nil:
		return fmt.Errorf("agent %s: %w", id, errWaiting)
	case a.Status == format.AgentSuspended:
		return fmt.Errorf("agent %s is suspended, and may not write; what it wrote counts: %w", id, ErrNotEnrolled)
	case a.Status != format.AgentActive:
		return fmt.Errorf("agent %s is revoked; this machine has to be enrolled as a new agent, with an empty state directory: %w", id, ErrNotEnrolled)
	}
	return nil
}

// Request makes this machine's agent key, unless there is one, pins the
// nation's public key, and returns the text that asks for enrolment, with the
// fingerprint that people compare. It asks no target.
func (s *Service) Request(name string, key format.NationKey) (text string, r format.Request, err error) {
	for _, d := range s.site.Datasets {
		r.Datasets = append(r.Datasets, format.Wish{Name: d.Name, Compartment: d.Compartment, Priority: d.Priority})
		if !slices.Contains(r.Compartments, d.Compartment) {
			r.Compartments = append(r.Compartments, d.Compartment)
		}
	}
	if len(r.Datasets) == 0 {
		return "", r, fmt.Errorf("%s names no dataset that this machine could back up: %w", s.site.File, ErrUnknownName)
	}
	state, err := createState(s.site.StateDir, s.site.Nation, key, nil)
	if err != nil {
		return "", r, err
	}
	if state.NationKey().String() != key.String() {
		return "", r, fmt.Errorf("state directory %s pins nation key %s, which is another one: name another state_dir or the right key", s.site.StateDir, state.NationKey())
	}
	r.Nation, r.Time, r.Name = key.Nation, s.now().UnixNano(), name
	r.Signer, r.Recipient = state.key.Signer.Verifier().Bytes(), state.key.Identity.Recipient().Bytes()
	text, err = r.Text(state.key, s.site.Nation)
	return text, r, err
}

// Authority signs a change of the agents: the root, or, where that is nil, the
// first of the administrators.
type Authority struct {
	Root  *crypto.Root
	Admin *crypto.Signer
	// Confirm is shown what is to be signed; its error ends the change. nil: nobody asks.
	Confirm func(lines []string) error
}

// ChangeReport is the outcome of a change of the agents.
type ChangeReport struct {
	CharterReport
	Proposal *format.Proposal // not nil: administrators have to sign it, and nothing is published
}

// change signs or proposes the charter that follows the newest one.
func (s *Service) change(ctx context.Context, by Authority, f func(*amendment) error) (ChangeReport, error) {
	whole := func(state *State, a *amendment) error {
		err := f(a)
		if err == nil && len(a.lines) > 0 && by.Confirm != nil {
			if err = by.Confirm(a.lines); err == nil { // people take their time
				err = s.current(ctx, state, a.Prev)
			}
		}
		return err
	}
	if by.Root == nil {
		return s.propose(ctx, by.Admin, whole)
	}
	report, err := s.amend(ctx, by.Root, whole)
	return ChangeReport{CharterReport: report}, err
}

// propose makes a proposal of administrators, on an agent's machine: what that
// agent can open is sealed anew where it has to be, all else is kept.
func (s *Service) propose(ctx context.Context, admin *crypto.Signer, change func(*State, *amendment) error) (rep ChangeReport, err error) {
	state, err := OpenState(s.site.StateDir)
	if err != nil {
		return rep, err
	}
	prev, object, err := s.newestCharter(ctx, state)
	if err != nil {
		return rep, err
	}
	keys, err := AgentKeys(prev, state.key)
	if err != nil {
		return rep, err
	}
	a := following(prev, object, keys, nil)
	if a.Base = prev.Base; len(a.Base) == 0 {
		a.Base = object
	}
	if err := change(state, a); err != nil {
		return rep, err
	}
	rep.Seq, rep.Added = prev.Seq, a.lines
	if len(a.lines) == 0 {
		return rep, nil
	}
	a.Time, rep.Seq = s.now().UnixNano(), a.Seq
	if err := a.reseal(prev); err != nil {
		return rep, err
	}
	if rep.Proposal, err = format.Propose(*a.Charter); err != nil {
		return rep, err
	}
	if err := rep.Proposal.Sign(admin); err != nil {
		return rep, err
	}
	_, err = rep.Proposal.Open(state.nation, state.verifier)
	return rep, err
}

// reseal keeps the parts of prev, but for those of agents that may read them
// no more, and for compartments that have to be sealed anew.
func (a *amendment) reseal(prev *format.Charter) error {
	a.Parts = notices(prev.Parts)
	for i := range a.Compartments {
		k := &a.Compartments[i]
		if a.fresh[k.ID] {
			if err := a.sealPart(k); err != nil {
				return fmt.Errorf("%w; make the proposal on the machine of an agent of that compartment", err)
			}
			continue
		}
		for _, p := range prev.Parts {
			if p.Compartment == k.ID && (p.Kind != format.AgentPart || a.reads(p)) {
				a.Parts = append(a.Parts, p)
			}
		}
	}
	return nil
}

// reads reports whether a part is that of an agent which may open it.
func (a *amendment) reads(p format.Part) bool {
	return slices.ContainsFunc(a.Agents, func(g format.CharterAgent) bool {
		to, err := crypto.ParseRecipient(g.Recipient)
		return err == nil && format.ID(to.ID()) == p.To && g.Status == format.AgentActive && slices.Contains(g.Compartments, p.Compartment)
	})
}

// ApproveOptions say what a new agent may do.
type ApproveOptions struct {
	Compartments []string // by name; none: all that it wishes
	Quota        uint64   // bytes on a target; 0: none
}

// Approve enrols the agent of a request. ErrUnknownName: a compartment, or,
// where administrators sign, a dataset, that the charter does not know.
func (s *Service) Approve(ctx context.Context, by Authority, r *format.Request, o ApproveOptions) (ChangeReport, error) {
	return s.change(ctx, by, func(a *amendment) error {
		if r.Nation != a.Nation {
			return fmt.Errorf("the request asks nation %s, and this is nation %s: %w", r.Nation, a.Nation, ErrNotEnrolled)
		}
		return a.approve(r, o)
	})
}

func (a *amendment) approve(r *format.Request, o ApproveOptions) error {
	for id, name := range a.names() {
		if name == r.Name && id != r.ID() {
			return fmt.Errorf("agent %s has the name %q already, so this %w: ask for a request with another --name", id, r.Name, ErrUnfit)
		}
	}
	mine := a.Agent(r.ID())
	if mine == nil {
		a.Agents = append(a.Agents, format.CharterAgent{ID: r.ID(), Signer: r.Signer, Recipient: r.Recipient, Status: format.AgentActive, Quota: o.Quota})
		mine = &a.Agents[len(a.Agents)-1]
		a.say("agent %s, fingerprint %s, is enrolled as %s", mine.ID, r.Fingerprint(), r.Name)
		if o.Quota > 0 {
			a.say("agent %s may take %s on a target", r.Name, config.SizeText(o.Quota))
		}
	} else if err := enrolled(mine.ID, mine); err != nil {
		return fmt.Errorf("%w; embassy agent resume ends a suspension", err)
	}
	for _, name := range o.Compartments {
		if !slices.Contains(r.Compartments, name) {
			return fmt.Errorf("compartment %q: %w: the request does not ask for it", name, ErrUnknownName)
		}
	}
	for _, name := range r.Compartments {
		if len(o.Compartments) > 0 && !slices.Contains(o.Compartments, name) {
			continue
		}
		if err := a.admit(mine, r, name); err != nil {
			return err
		}
	}
	return nil
}

// admit lets an agent write what it wishes in one compartment.
func (a *amendment) admit(mine *format.CharterAgent, r *format.Request, name string) error {
	k, p := a.named(name)
	if k == nil {
		return fmt.Errorf("compartment %q: %w: embassy charter apply adds it on a machine whose configuration has it", name, ErrUnknownName)
	}
	if !slices.Contains(mine.Compartments, k.ID) {
		mine.Compartments = append(mine.Compartments, k.ID)
		p.AgentNames = append(p.AgentNames, format.AgentName{ID: mine.ID, Name: r.Name})
		a.fresh[k.ID] = true
		a.say("agent %s may write compartment %s, and confirm of any file whether it lies there", r.Name, name)
	}
	for _, d := range r.Datasets {
		if d.Compartment != name {
			continue
		}
		i := slices.IndexFunc(p.Datasets, func(o format.Dataset) bool { return o.Name == d.Name })
		switch {
		case i < 0 && a.root == nil:
			return fmt.Errorf("dataset %q: %w, and only the root may add it: approve this request with --kit or --share, without --admin-key", d.Name, ErrUnknownName)
		case i < 0:
			p.Datasets = append(p.Datasets, format.Dataset{Name: d.Name, Priority: d.Priority, Agents: []format.ID{mine.ID}})
			a.say("agent %s may write dataset %s, which is new", r.Name, d.Name)
		case !slices.Contains(p.Datasets[i].Agents, mine.ID):
			beside := a.called(p.Datasets[i].Agents)
			p.Datasets[i].Agents = append(p.Datasets[i].Agents, mine.ID)
			a.say("agent %s may write dataset %s, beside %s", r.Name, d.Name, cmp.Or(beside, "nobody"))
		default:
			continue
		}
		a.fresh[k.ID] = true
	}
	return nil
}

// names returns what the agents are called, as far as this machine can tell.
func (a *amendment) names() map[format.ID]string {
	names := map[format.ID]string{}
	for _, p := range a.parts {
		for _, n := range p.AgentNames {
			names[n.ID] = cmp.Or(n.Name, names[n.ID])
		}
	}
	return names
}

// called names agents.
func (a *amendment) called(ids []format.ID) string {
	names := a.names()
	var words []string
	for _, id := range ids {
		words = append(words, cmp.Or(names[id], id.String()))
	}
	return strings.Join(words, ", ")
}

// minPrefix is how many digits of an id or a hash name something.
const minPrefix = 6

// find returns the agent of that name, or whose id begins so.
func (a *amendment) find(who string) (*format.CharterAgent, string, error) {
	names := a.names()
	var found []*format.CharterAgent
	for i := range a.Agents {
		g := &a.Agents[i]
		if g.ID.String() == who { // whatever others are called
			found = []*format.CharterAgent{g}
			break
		}
		if names[g.ID] == who || len(who) >= minPrefix && strings.HasPrefix(g.ID.String(), who) {
			found = append(found, g)
		}
	}
	switch {
	case len(found) == 0:
		return nil, "", fmt.Errorf("agent %q: %w; see embassy agent list", who, ErrUnknownName)
	case len(found) > 1:
		return nil, "", fmt.Errorf("agent %q names %d of them, so this %w: name it by its id", who, len(found), ErrUnfit)
	}
	g := found[0]
	if names[g.ID] == "" {
		return g, g.ID.String(), nil
	}
	return g, fmt.Sprintf("%s (%s)", names[g.ID], g.ID), nil
}

// standing is find of an agent that is not revoked.
func (a *amendment) standing(who string) (*format.CharterAgent, string, error) {
	g, name, err := a.find(who)
	if err == nil && g.Status == format.AgentRevoked {
		err = fmt.Errorf("agent %s: %w", name, ErrRevoked)
	}
	return g, name, err
}

// Suspend forbids an agent to write. What it wrote counts.
func (s *Service) Suspend(ctx context.Context, by Authority, who string) (ChangeReport, error) {
	return s.change(ctx, by, func(a *amendment) error {
		g, name, err := a.standing(who)
		switch {
		case err != nil:
			return err
		case g.Status == format.AgentActive:
			g.Status = format.AgentSuspended
			a.say("agent %s is suspended: it may not write, and gets no later names and secrets; what it wrote counts", name)
			a.bereaved(g)
		}
		return nil
	})
}

// Resume ends a suspension.
func (s *Service) Resume(ctx context.Context, by Authority, who string) (ChangeReport, error) {
	return s.change(ctx, by, func(a *amendment) error {
		g, name, err := a.standing(who)
		switch {
		case err != nil:
			return err
		case g.Status == format.AgentSuspended:
			g.Status = format.AgentActive
			for _, k := range g.Compartments {
				a.fresh[k] = true
			}
			a.say("agent %s is active again", name)
		}
		return nil
	})
}

// Steward makes an agent the steward of compartments that it may write, or of all of
// these where none is named. Only the root may.
func (s *Service) Steward(ctx context.Context, by Authority, who string, compartments []string) (ChangeReport, error) {
	return s.change(ctx, by, func(a *amendment) error {
		g, name, err := a.standing(who)
		switch {
		case err != nil:
			return err
		case a.root == nil:
			return fmt.Errorf("a steward %w by administrators: it deletes, and only the root names it: --kit or --share, without --admin-key", ErrUnfit)
		case g.Status == format.AgentSuspended:
			return fmt.Errorf("agent %s is suspended, so this %w: embassy agent resume", name, ErrUnfit)
		}
		for _, c := range compartments {
			if k, _ := a.named(c); k == nil || !slices.Contains(g.Compartments, k.ID) {
				return fmt.Errorf("compartment %q: %w among those that agent %s may write", c, ErrUnknownName, name)
			}
		}
		for i := range a.Compartments {
			k := &a.Compartments[i]
			p := a.parts[k.ID]
			if p == nil || !slices.Contains(g.Compartments, k.ID) || len(compartments) > 0 && !slices.Contains(compartments, p.Name) || k.Steward() == g.ID {
				continue
			}
			k.Stewards = append(k.Stewards, g.ID)
			a.say("agent %s is the steward of compartment %s: it says what is kept there, and deletes; its credentials must allow that, and nobody else's", name, p.Name)
		}
		return nil
	})
}

// bereaved says which compartments an agent leaves without a steward.
func (a *amendment) bereaved(g *format.CharterAgent) {
	for i := range a.Compartments {
		if k := &a.Compartments[i]; k.Steward() == g.ID && a.parts[k.ID] != nil {
			a.say("compartment %s has no steward now: nothing is forgotten or pruned there until embassy agent steward names another", a.parts[k.ID].Name)
		}
	}
}

// SetQuota bounds what an agent may take on a target, in bytes; 0: no bound.
func (s *Service) SetQuota(ctx context.Context, by Authority, who string, quota uint64) (ChangeReport, error) {
	return s.change(ctx, by, func(a *amendment) error {
		g, name, err := a.standing(who)
		switch {
		case err != nil:
			return err
		case g.Quota == quota:
			return nil
		case quota == 0:
			a.say("agent %s has no quota any more", name)
		default:
			a.say("agent %s may take %s on a target", name, config.SizeText(quota))
		}
		g.Quota = quota
		return nil
	})
}

// Administrators names and dismisses administrators, and says how many of them
// have to sign; quorum 0: as many as before, or more than half. With none left
// the quorum goes too.
func (s *Service) Administrators(ctx context.Context, by Authority, add, remove []format.AdministratorKey, quorum int) (ChangeReport, error) {
	return s.change(ctx, by, func(a *amendment) error {
		a.Administrators = slices.Clone(a.Administrators)
		for _, k := range remove {
			i := slices.IndexFunc(a.Administrators, func(b []byte) bool { return string(b) == string(k.Bytes()) })
			if i < 0 {
				return fmt.Errorf("administrator %s: %w", k.Fingerprint(), ErrUnknownName)
			}
			a.Administrators = slices.Delete(a.Administrators, i, i+1)
			a.say("administrator %s is dismissed", k.Fingerprint())
		}
		for _, k := range add {
			if !slices.ContainsFunc(a.Administrators, func(b []byte) bool { return string(b) == string(k.Bytes()) }) {
				a.Administrators = append(a.Administrators, k.Bytes())
				a.say("administrator %s", k.Fingerprint())
			}
		}
		n := len(a.Administrators)
		want := cmp.Or(uint32(quorum), a.Quorum, uint32(n/2+1))
		if n == 0 {
			want = 0
		}
		if int(want) > n {
			return fmt.Errorf("a quorum of %d among %d administrators %w: say another --quorum", want, n, ErrUnfit)
		}
		if want != a.Quorum {
			a.say("%d of %d administrators have to sign", want, n)
		}
		a.Quorum = want
		return nil
	})
}
