package embassy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"embassy/crypto"
	"embassy/embassy/format"
)

// ErrOwnKey: a nation cannot be its own partner.
var ErrOwnKey = errors.New("this is the nation's own key")

// GrantReport says what a grant did.
type GrantReport struct {
	CharterReport
	Keys    int      // session keys of the past that were granted now
	Failed  int      // things of the past that could not be read, and are not granted
	Missing []string // what the commit rule lacks for the grant records; empty: it holds
}

// Grant makes a partner nation a recipient of a compartment. With past it also
// grants everything that was written before, and no pack is touched; else the
// compartment begins a new writer epoch, so that nothing new rests on what the
// partner cannot open, and the next backups store everything once more. It may be
// run again: what is granted already is not granted twice. ErrUnknownName,
// ErrOwnKey, and, with past, ErrNotEnrolled when this machine does not write the
// compartment.
func (s *Service) Grant(ctx context.Context, root *crypto.Root, compartment string, to *format.PartnerKey, past bool) (GrantReport, error) {
	var rep GrantReport
	fingerprint, err := to.Fingerprint()
	if err != nil {
		return rep, err
	}
	if err := s.shared.own.Acquire(ctx, 1); err != nil {
		return rep, err
	}
	defer s.shared.own.Release(1)
	rep.CharterReport, err = s.amend(ctx, root, func(state *State, a *amendment) error {
		c, _ := a.named(compartment)
		mine := a.Agent(state.Agent())
		switch {
		case c == nil:
			return fmt.Errorf("compartment %q: %w", compartment, ErrUnknownName)
		case to.Nation == a.Nation:
			return ErrOwnKey
		case past && (mine == nil || mine.Status != format.AgentActive || !slices.Contains(mine.Compartments, c.ID)):
			return fmt.Errorf("compartment %s: what grants its past must be filed by a machine that writes it: %w", compartment, ErrNotEnrolled)
		}
		i := slices.IndexFunc(c.Recipients, to.Is)
		switch {
		case i < 0 && len(c.Recipients) == format.MaxRecipients:
			return fmt.Errorf("compartment %s: it has %d recipients, the most there can be: revoke a grant first", compartment, format.MaxRecipients)
		case i < 0:
			i = len(c.Recipients)
			c.Recipients = append(c.Recipients, format.RecipientKey{Key: to.Recipient, Partner: fingerprint})
		case !past || c.Recipients[i].Since == 0:
			return nil // granted already
		}
		c.Recipients[i].Since = 0
		what := "with its past"
		if !past {
			a.rotateWriter(c)
			c.Recipients[i].Since = c.Epoch
			what = fmt.Sprintf("from writer epoch %d on", c.Epoch)
		}
		a.say("compartment %s: granted to %s, %s", compartment, fingerprint, what)
		return nil
	})
	if err != nil || !past {
		return rep, err
	}
	// What is written from here on is sealed to the partner by who wrote it.
	return rep, s.grantPast(ctx, root, compartment, to, &rep)
}

// grantPast files records that grant the sessions of a compartment's past.
func (s *Service) grantPast(ctx context.Context, root *crypto.Root, compartment string, to *format.PartnerKey, rep *GrantReport) error {
	state, err := OpenState(s.site.StateDir)
	if err != nil {
		return err
	}
	ch, _, err := state.charter()
	if err != nil {
		return err
	}
	recipient, err := crypto.ParseRecipient(to.Recipient)
	if err != nil {
		return err
	}
	keys, err := RootKeys(ch, root)
	if err != nil {
		return err
	}
	one, err := keys.Named(compartment)
	if err != nil {
		return err
	}
	keys.Compartments = []*Compartment{one}
	mine, err := AgentKeys(ch, state.key)
	if err != nil {
		return err
	}
	own, err := mine.Named(compartment)
	if err != nil {
		return err
	}
	l, err := s.openLedger(state, mine, own)
	if err != nil {
		return err
	}
	if err := l.prepare(ctx); err != nil { // before the sweep: it brings what stewards ordered
		return err
	}
	view, err := OpenView(ctx, ViewOptions{Keys: keys, Members: s.order, Order: s.Ranked, Log: s.log, Warn: s.warn, Progress: s.progress, Now: s.now})
	if err != nil {
		return err
	}
	c := view.compartments[0]
	granter := format.NewGranter(ch.Nation, c.ID, c.Reader, recipient)
	if err := view.eachGrant(ctx, c, func(filed committed, g *format.Grant) error {
		if filed.ch.agent == state.Agent() { // others could grant what opens nothing
			granter.Skip(g)
		}
		return nil
	}); err != nil {
		return err
	}
	if rep.Failed, err = view.sweep(ctx, c, granter, s.deleted); err != nil {
		return err
	}
	if rep.Keys = granter.Len(); rep.Keys == 0 {
		return nil
	}
	if err := l.commitRecords(granter.Records()); err != nil {
		return fmt.Errorf("file the grant: %w", err)
	}
	if err := l.settle(ctx, patienceMin, nil); err != nil {
		return err
	}
	rep.Missing, err = l.missing(l.chain.head())
	return err
}

// ErrAmbiguous: more than one thing is meant.
var ErrAmbiguous = errors.New("more than one begins so")

// RevokeGrant takes a partner nation, whose fingerprint begins with prefix, from
// the recipients of a compartment. What was written until now stays open to it.
// ErrUnknownName, ErrAmbiguous.
func (s *Service) RevokeGrant(ctx context.Context, root *crypto.Root, compartment, prefix string) (CharterReport, error) {
	return s.amend(ctx, root, func(_ *State, a *amendment) error {
		c, _ := a.named(compartment)
		if c == nil {
			return fmt.Errorf("compartment %q: %w", compartment, ErrUnknownName)
		}
		meant := map[string]bool{} // one nation may have had several keys
		c.Recipients = slices.DeleteFunc(c.Recipients, func(r format.RecipientKey) bool {
			is := r.Epoch == 0 && strings.HasPrefix(r.Partner, prefix)
			if is {
				meant[r.Partner] = true
			}
			return is
		})
		if len(meant) == 0 {
			return fmt.Errorf("grant of compartment %s to %q: %w", compartment, prefix, ErrUnknownName)
		}
		if len(meant) > 1 {
			return fmt.Errorf("grant of compartment %s to %q: %w: give more of the fingerprint", compartment, prefix, ErrAmbiguous)
		}
		for fingerprint := range meant {
			a.say("compartment %s: no longer granted to %s", compartment, fingerprint)
		}
		return nil
	})
}

// Contents returns how many bytes the newest snapshots hold that this machine
// made in a compartment, as far as its catalog knows.
func (s *Service) Contents(compartment string) (uint64, error) {
	state, err := OpenState(s.site.StateDir)
	if err != nil {
		return 0, err
	}
	keys, err := state.Keys()
	if err != nil {
		return 0, err
	}
	c, err := keys.Named(compartment)
	if err != nil {
		return 0, nil // somebody else writes it
	}
	l, err := s.openLedger(state, keys, c)
	if err != nil {
		return 0, err
	}
	var bytes uint64
	for _, d := range c.Part.Datasets {
		n, _, err := l.newestOf(d.Name)
		if err != nil {
			return 0, err
		}
		bytes += n.Bytes
	}
	return bytes, nil
}
