package embassy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"embassy/embassy/config"
	"embassy/embassy/format"
	"embassy/embassy/policy"
)

// Options wires a Service. Site and Members are needed always.
type Options struct {
	Site     *config.Config
	Members  []*Member // one for every target of Site, in its order
	Catalog  Catalog   // needed by all but Init
	Now      func() time.Time
	Log      *slog.Logger
	Warn     func(Finding)  // called from several goroutines
	Progress func(Progress) // called from one goroutine at a time; nil: nobody watches

	// Bucket opens what a dataset with s3 is backed up from; nil: none can be.
	Bucket func(config.Bucket) (Bucket, error)
}

// Service is Embassy on one machine: it makes the nation, signs charters with
// a root that it is lent, backs up with the agent key alone, and copies,
// verifies and repairs without any key. Its methods may run beside each other.
type Service struct {
	*shared
	site     *config.Config
	members  map[string]*Member
	order    []*Member
	catalog  Catalog
	now      func() time.Time
	log      *slog.Logger
	warn     func(Finding)
	progress func(Progress)
	bucket   func(config.Bucket) (Bucket, error)
}

// shared is what the services of one process have in common.
type shared struct {
	own     *semaphore.Weighted // of 1: held by what makes entries or chains of its own, or empties the spool
	opening sync.Mutex          // held while own chains are opened
	heads   sync.Mutex          // held while a seen head is replaced
	faults  bookings
	told    atomic.Bool         // Audit wrote a record, and nobody asked yet
	room    *semaphore.Weighted // bytes of objects that are being copied
}

// With returns the same service that reports to somebody else. It shares
// members, catalog and locks.
func (s *Service) With(warn func(Finding), progress func(Progress), log *slog.Logger) *Service {
	c := *s
	c.warn, c.progress, c.log = warn, progress, log
	return &c
}

// New checks the options.
func New(o Options) (*Service, error) {
	s := &Service{
		shared: &shared{own: semaphore.NewWeighted(1), room: semaphore.NewWeighted(copyRoom)},
		site:   o.Site, order: o.Members, members: map[string]*Member{}, catalog: o.Catalog,
		now: o.Now, log: o.Log, warn: o.Warn, progress: o.Progress, bucket: o.Bucket,
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.warn == nil {
		s.warn = func(Finding) {}
	}
	for _, m := range o.Members {
		s.members[m.Name] = m
		m.health.tell = func(kind FaultKind, object string, cause error) {
			if s.catalog != nil {
				s.fault(m.Name, kind, object, cause)
			}
		}
	}
	for _, t := range s.site.Targets {
		if s.members[t.Name] == nil {
			return nil, fmt.Errorf("target %s was not opened", t.Name)
		}
	}
	return s, nil
}

// Ranked returns the members of a compartment in PACE order. Those that the
// last check proved guarded are marked so.
func (s *Service) Ranked(compartment string) []*Member {
	c, ok := s.site.Compartment(compartment)
	if !ok {
		return s.order
	}
	var out []*Member
	for _, r := range policy.Order(c.PACE) {
		if m := s.members[r.Target]; m != nil { // Rebuild looks at one only
			m = m.At(r.Tier)
			m.Guarded = m.Guarded || s.Guarded(r.Target) == Yes
			out = append(out, m)
		}
	}
	return out
}

// ErrUnknownTarget: the configuration has no target of that name.
var ErrUnknownTarget = errors.New("not in the configuration")

func (s *Service) unknownTarget(name string) error {
	var known []string
	for _, m := range s.order {
		known = append(known, m.Name)
	}
	return fmt.Errorf("target %q: %w, which has %s", name, ErrUnknownTarget, strings.Join(known, ", "))
}

// named returns the targets of these names, or all, in the order of the
// configuration.
func (s *Service) named(names []string) ([]*Member, error) {
	for _, name := range names {
		if s.members[name] == nil {
			return nil, s.unknownTarget(name)
		}
	}
	if len(names) == 0 {
		return s.order, nil
	}
	return slices.DeleteFunc(slices.Clone(s.order), func(m *Member) bool { return !slices.Contains(names, m.Name) }), nil
}

// state opens the state directory of an agent; ErrKeyless where there is none, and
// need not be.
func (s *Service) state() (*State, error) {
	_, state, err := Identify(s.site)
	if err == nil && state == nil {
		err = ErrKeyless
	}
	return state, err
}

// AgentKeys opens what the newest charter, of this machine and of the
// answering targets, gives to this machine's agent.
func (s *Service) AgentKeys(ctx context.Context) (*Keys, error) {
	state, err := s.state()
	if err != nil {
		return nil, err
	}
	ch, _, err := s.newestCharter(ctx, state)
	if err != nil {
		return nil, err
	}
	return AgentKeys(ch, state.key)
}

// copyOn says what a copy on a member is worth to a commit rule.
func copyOn(m *Member) policy.Copy {
	return policy.Copy{Target: m.Name, Jurisdiction: m.Jurisdiction, Guarded: m.Guarded}
}

// hints lists a compartment's targets for a rescue.
func (s *Service) hints(compartment string) []format.TargetHint {
	var out []format.TargetHint
	for _, m := range s.Ranked(compartment) {
		out = append(out, format.TargetHint{Name: m.Name, URL: m.URL, Tier: uint8(m.Tier), Jurisdiction: m.Jurisdiction})
	}
	return out
}

// TargetResult is the outcome of one operation on one target.
type TargetResult struct {
	Target string
	Err    error // nil: done
}

// publish puts a charter on every member at once, but on none that holds
// other nations only.
func (s *Service) publish(ctx context.Context, ch *format.Charter, object []byte) []TargetResult {
	h := format.HashOf(object)
	name := format.CharterName(ch.Nation, ch.Seq, h)
	results := make([]TargetResult, len(s.order))
	probe(ctx, ch.Nation, s.order)
	each(s.order, func(i int, m *Member) {
		if m.Down() == nil {
			if err := m.Foreign(ctx, ch.Nation); err != nil {
				m.trip(err)
			}
		}
		results[i] = TargetResult{Target: m.Name, Err: m.put(ctx, name, object, h)}
	})
	return results
}
