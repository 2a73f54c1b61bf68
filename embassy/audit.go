package embassy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"embassy/embassy/format"
)

// Did is a kind of deed that the audit log tells of. The words are stable.
type Did string

// What is recorded today.
const (
	DidOpenRoot    Did = "root used"
	DidOpenReader  Did = "reader key used"
	DidSignCharter Did = "charter signed"
	DidRestore     Did = "restore"
	DidRepair      Did = "repair"
	DidTrust       Did = "trust"
	DidForget      Did = "forget"
	DidPrune       Did = "prune"
	DidRepack      Did = "repack"
	DidPin         Did = "pin"
	DidUnpin       Did = "unpin"
	DidHold        Did = "hold"
	DidRelease     Did = "release"
	DidOverride    Did = "override"
	DidDestroy     Did = "compartment destroyed"
)

// FactDestroyed is the key of the fact that names a compartment which is, or is
// about to be, destroyed: nothing is filed in it.
const FactDestroyed = "destroyed"

// auditObject is what findings call the audit log.
const auditObject = "audit log"

// ErrNotRecorded: the audit log of this machine could not be written.
var ErrNotRecorded = errors.New("the audit log of this machine was not written")

// Audit writes a signed record into the audit log of this machine. It is
// durable when Audit returns, and goes to the targets with the next ledger
// entry. facts are keys and values in turn; one whose key is compartment or
// dataset says where the record is filed, else it is this agent's first
// compartment, but for one that is called destroyed. What is too long is cut. It panics when a value is missing. A machine that is no agent has no log:
// nothing is written, and there is no error. Else the error wraps ErrNotRecorded.
func (s *Service) Audit(did Did, outcome string, facts ...string) error {
	err := s.audit(did, outcome, facts...)
	if err == nil {
		s.told.Store(true)
	}
	return err
}

// audit is Audit of what can wait for the next backup.
func (s *Service) audit(did Did, outcome string, facts ...string) error {
	state, err := OpenState(s.site.StateDir)
	if errors.Is(err, ErrNoState) {
		return nil
	}
	if err == nil {
		err = s.record(state, did, outcome, facts...)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotRecorded, err)
	}
	return nil
}

// Audited reports whether Audit was called since this was last asked, so that
// DeliverAudit may have something to do.
func (s *Service) Audited() bool { return s.told.Swap(false) }

func (s *Service) record(state *State, did Did, outcome string, facts ...string) error {
	keys, err := state.Keys()
	if err != nil {
		return err
	}
	d := format.Deed{Time: s.now().UnixNano(), What: string(did), User: userName(), Outcome: cutText(outcome)}
	if host, err := os.Hostname(); err == nil { // a machine may have no name
		d.Host = cutText(host)
	}
	if len(facts)%2 != 0 {
		panic("audit: fact without a value")
	}
	for i := 0; i < len(facts) && len(d.Facts) < format.MaxAuditFacts; i += 2 {
		d.Facts = append(d.Facts, format.Fact{Key: cutText(facts[i]), Value: cutText(facts[i+1])})
	}
	comp, err := filedIn(keys, d.Facts)
	if err != nil {
		return err
	}
	return state.logbook().write(d, comp.Current())
}

// filedIn returns the compartment that facts name.
func filedIn(keys *Keys, facts []format.Fact) (*Compartment, error) {
	var rest []*Compartment
	for _, c := range keys.Compartments {
		if !slices.Contains(facts, format.Fact{Key: FactDestroyed, Value: c.Part.Name}) {
			rest = append(rest, c)
		}
	}
	for _, f := range facts {
		for _, c := range rest {
			if f.Key == "compartment" && f.Value == c.Part.Name {
				return c, nil
			}
			for _, d := range c.Part.Datasets {
				if f.Key == "dataset" && f.Value == d.Name {
					return c, nil
				}
			}
		}
	}
	if len(rest) == 0 {
		return nil, fmt.Errorf("this agent is in no compartment: %w", ErrNotEnrolled)
	}
	return rest[0], nil
}

// userName is who runs this process, for people.
func userName() string {
	name := strconv.Itoa(os.Getuid())
	if u, err := user.Current(); err == nil { // the system may not know the number
		name = u.Username
	}
	if by := os.Getenv("SUDO_USER"); by != "" {
		name += " (sudo by " + by + ")"
	}
	return cutText(name)
}

// cutText makes a text fit into a record.
func cutText(text string) string {
	text = strings.ToValidUTF8(text, "\uFFFD")
	if len(text) <= format.MaxAuditText {
		return text
	}
	end := format.MaxAuditText - len("…")
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + "…"
}

// DeliverAudit lists in the own chains what the audit log holds and no entry
// lists, and brings it to the targets that answer before ctx ends. Where it
// cannot be done, the next backup does it.
func (s *Service) DeliverAudit(ctx context.Context) error {
	if s.catalog == nil || !s.shared.own.TryAcquire(1) {
		return nil
	}
	defer s.shared.own.Release(1)
	state, err := OpenState(s.site.StateDir)
	if err != nil {
		return err
	}
	ch, object, err := state.charter()
	if err != nil {
		return err
	}
	keys, err := AgentKeys(ch, state.key)
	if err != nil {
		return err
	}
	shown := false
	for _, c := range keys.Compartments {
		if _, placed := s.site.Compartment(c.Part.Name); !placed {
			continue
		}
		l, err := s.openLedger(state, keys, c)
		if err != nil {
			return err
		}
		waiting := false
		if _, err := l.audits.pending(l.chain.id(), c.ID, func([]byte) error { waiting = true; return nil }); err != nil {
			return err
		}
		if !waiting {
			continue
		}
		if !shown {
			probe(ctx, ch.Nation, s.order)
			s.present(ctx, ch, object)
			shown = true
		}
		if err := l.deliver(ctx); err != nil {
			return fmt.Errorf("compartment %s: %w", c.Part.Name, err)
		}
	}
	return nil
}

// deliver commits what is not listed, if a target answers and the chain is
// sound. A chain that is not, the next backup leaves behind.
func (l *ledger) deliver(ctx context.Context) error {
	l.look(ctx)
	if err := l.forkedBy(); err != nil {
		return err
	}
	lost, _, err := l.s.catalog.Noted(lostKey(l.chain.id()))
	if err != nil || len(lost) > 0 {
		return err
	}
	answers := false
	for _, m := range l.members {
		answers = answers || m.Down() == nil && l.found(m) == nil
	}
	if !answers || ctx.Err() != nil {
		return ctx.Err()
	}
	if err := l.replay(ctx); err != nil {
		return err
	}
	if _, err := l.commit(nil, nil); err != nil {
		return err
	}
	l.bring(ctx, l.members, 0)
	return l.tidy(context.WithoutCancel(ctx))
}

// auditRepair records what a verification mended. What is mended stays so,
// whether that can be recorded or not.
func (s *Service) auditRepair(r VerifyReport, failure error) {
	var bad, mended uint64
	var names []string
	for _, t := range r.Targets {
		if t.BadTotal > 0 {
			names = append(names, fmt.Sprintf("%s (%d bad, %d mended)", t.Target, t.BadTotal, t.Repaired))
		}
		bad, mended = bad+t.BadTotal, mended+t.Repaired
	}
	outcome := fmt.Sprintf("%d bad, %d mended", bad, mended)
	if failure != nil {
		outcome = "not finished: " + oneLine(failure)
	} else if bad == 0 {
		return // nothing was written anywhere
	}
	if err := s.Audit(DidRepair, outcome, "level", r.Level.String(), "targets", strings.Join(names, ", ")); err != nil {
		s.warn(Finding{Object: auditObject, Err: err})
	}
}
