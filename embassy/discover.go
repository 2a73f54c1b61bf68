package embassy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"embassy/crypto"
	"embassy/embassy/format"
)

// ErrNoCharter: no target that answered holds a charter signed by the root.
var ErrNoCharter = errors.New("no charter")

const (
	maxCharterNames = 10_000 // that one target may list
	maxCharters     = 64     // newest, that are tried per target
	maxNations      = 8      // that an error message names
	shownNation     = 8      // digits of each
)

// ErrTwoHeirs: a root handed over to two others. Who knows only that root cannot
// tell the nation's heir from a thief's.
var ErrTwoHeirs = errors.New("they name two roots that took the place of one: somebody uses a root that was replaced; bring the public key of the nation's present root by hand, or a kit, shares or a reader key of that root")

// numberedCopy is a charter as one target lists it.
type numberedCopy struct {
	member *Member
	name   string
	seq    uint64
	hash   format.Hash
	size   int64
}

// FindCharter returns, of the charters of the nation that answering members hold
// and that the pinned root vouches for, the one that counts, with its object. A dead member
// costs one probe. Bad copies and dead members go to warn, which may be nil.
// When there is none, the error wraps ErrNoCharter and names the nations that
// the targets hold instead; when no member answered, it wraps their causes.
func FindCharter(ctx context.Context, members []*Member, nation format.ID, root *crypto.Verifier, warn func(Finding)) (*format.Charter, []byte, error) {
	return findCharter(ctx, members, nation, root, nil, warn)
}

// findCharter is FindCharter for a machine that accepted a charter before: one
// whose roots do not follow those of that one is left out. have may be nil.
func findCharter(ctx context.Context, members []*Member, nation format.ID, root *crypto.Verifier, have *format.Charter, warn func(Finding)) (*format.Charter, []byte, error) {
	if warn == nil {
		warn = func(Finding) {}
	}
	probe(ctx, nation, members)
	live := tellDown(members, warn)
	copies := listCharters(ctx, live, nation, maxCharters, warn)
	live = tellDown(live, warn)
	if err := ctx.Err(); err != nil {
		return nil, nil, fmt.Errorf("find charter: %w", err)
	}
	if len(live) == 0 {
		return nil, nil, noAnswer(members)
	}
	// Newest first; of one charter, in the order of the members.
	slices.SortStableFunc(copies, func(a, b numberedCopy) int {
		return cmp.Or(cmp.Compare(b.seq, a.seq), slices.Compare(a.hash[:], b.hash[:]))
	})
	var best *format.Charter
	var object []byte
	opened := map[format.Hash]bool{}
	for _, c := range copies {
		// No number tells what a charter is worth: who has a root that was replaced,
		// or administrators who were dismissed, sign any. But what counts for more
		// than an accepted one has no lesser number than what that rests on.
		if opened[c.hash] || have != nil && c.seq < have.Rank().Rooted {
			continue
		}
		late := best == nil || c.seq >= best.Rank().Rooted // else nobody needs it
		got, data, old, err := c.open(ctx, nation, root)
		if old != nil && late {
			warn(Finding{Target: c.member.Name, Object: c.name, Err: old})
		}
		if err != nil {
			if late {
				warn(Finding{Target: c.member.Name, Object: c.name, Err: err})
			}
			continue
		}
		opened[c.hash] = true
		switch {
		case have != nil && got.Rank().Rotations < have.Rank().Rotations:
			// by a root that was replaced
		case have != nil && !got.Follows(have):
			warn(Finding{Target: c.member.Name, Object: c.name, Err: ErrTwoRoots})
		case best != nil && !got.Follows(best) && !best.Follows(got):
			return nil, nil, fmt.Errorf("charters %d and %d: %w", best.Seq, got.Seq, ErrTwoHeirs)
		case best == nil || got.Rank().Compare(best.Rank()) > 0:
			best, object = got, data
		case got.Rank() == best.Rank():
			warn(Finding{Target: c.member.Name, Object: c.name,
				Err: fmt.Errorf("two charters with number %d are signed; the later one counts", c.seq)})
			if got.Time > best.Time {
				best, object = got, data
			}
		}
	}
	if best == nil {
		return nil, nil, noCharter(ctx, live, nation, len(copies))
	}
	return best, object, nil
}

// FindCharterOf is FindCharter with a root. Where no target shows a charter of
// that root, one of the roots before it will do: a target may have been away
// when the root was rotated.
func FindCharterOf(ctx context.Context, members []*Member, nation format.ID, root *crypto.Root, warn func(Finding)) (*format.Charter, []byte, error) {
	var first error
	for i, r := range root.Ring() {
		ch, object, err := FindCharter(ctx, members, nation, r.Signer().Verifier(), warn)
		if err == nil && i > 0 && warn != nil {
			warn(Finding{Object: "charter", Err: errors.New("only charters of a root that was replaced are to be had: what was written since the root was rotated is not shown")})
		}
		if err == nil || !errors.Is(err, ErrNoCharter) {
			return ch, object, err
		}
		if first == nil {
			first = err
		}
	}
	return nil, nil, first
}

// open reads a charter. old says that an older version had to be read.
func (c numberedCopy) open(ctx context.Context, nation format.ID, root *crypto.Verifier) (ch *format.Charter, data []byte, old, err error) {
	if data, old, err = c.member.readSized(ctx, c.name, c.hash, c.size, format.MaxCharterSize); err != nil {
		return nil, nil, nil, err
	}
	ch, err = format.OpenCharter(data, nation, root)
	if err == nil && ch.Seq != c.seq {
		err = fmt.Errorf("%w: charter %d under the number %d", format.ErrMalformed, ch.Seq, c.seq)
	}
	return ch, data, old, err
}

// listCharters returns the newest names of every member, so many of each.
func listCharters(ctx context.Context, members []*Member, nation format.ID, most int, warn func(Finding)) []numberedCopy {
	prefix := format.CharterPrefix(nation)
	found := make([][]numberedCopy, len(members))
	var wg sync.WaitGroup
	for i, m := range members {
		wg.Go(func() {
			names := 0
			err := m.do(ctx, func(ctx context.Context) error {
				names, found[i] = 0, nil
				for info, err := range m.names(ctx, prefix) {
					if err != nil {
						return err
					}
					if names++; names > maxCharterNames {
						return nil
					}
					seq, hash, err := format.ParseNumbered(strings.TrimPrefix(info.Name, prefix))
					if err != nil {
						continue // not the name of a charter
					}
					found[i] = append(found[i], numberedCopy{m, info.Name, seq, hash, info.Size})
				}
				return nil
			})
			if err != nil {
				found[i] = nil // the breaker tells
			}
			if names > maxCharterNames {
				warn(Finding{Target: m.Name, Object: prefix, Err: fmt.Errorf("lists more than %d charters; the rest is ignored", maxCharterNames)})
			}
			slices.SortStableFunc(found[i], func(a, b numberedCopy) int { return cmp.Compare(a.seq, b.seq) })
			found[i] = found[i][max(0, len(found[i])-most):]
		})
	}
	wg.Wait()
	return slices.Concat(found...)
}

// tellDown returns the members that answer, and tells of each other one once
// in the life of a Member.
func tellDown(members []*Member, warn func(Finding)) []*Member {
	var live []*Member
	for _, m := range members {
		cause := m.Down()
		if cause == nil {
			live = append(live, m)
		} else if m.health.told.CompareAndSwap(false, true) {
			warn(Finding{Target: m.Name, Err: fmt.Errorf("not used: %w", cause)})
		}
	}
	return live
}

// noAnswer is the error when every member is down.
func noAnswer(members []*Member) error {
	if len(members) == 0 {
		return fmt.Errorf("%w: no target to read from", ErrNoCharter)
	}
	var causes []error
	for _, m := range members {
		causes = append(causes, fmt.Errorf("target %s: %w: %w", m.Name, ErrDown, m.Down()))
	}
	return fmt.Errorf("no target answered: %w", errors.Join(causes...))
}

// errBadCharters: there is a charter, and no copy of it is good.
var errBadCharters = errors.New("none is whole and signed by its root")

// noCharter is the error when members answered and none holds a good charter.
func noCharter(ctx context.Context, live []*Member, nation format.ID, bad int) error {
	if bad > 0 {
		return fmt.Errorf("%w of nation %s: %d copies found: %w", ErrNoCharter, nation, bad, errBadCharters)
	}
	say := make([]string, len(live))
	var wg sync.WaitGroup
	for i, m := range live {
		wg.Go(func() { say[i] = "target " + m.Name + " " + holding(ctx, m) })
	}
	wg.Wait()
	return fmt.Errorf("%w of nation %s: %s", ErrNoCharter, nation, strings.Join(say, "; "))
}

// holding says what lies on a target that shows no charter of the nation.
func holding(ctx context.Context, m *Member) string {
	others, empty := nationsOn(ctx, m)
	switch {
	case len(others) > 1:
		return "holds other nations (" + strings.Join(others, ", ") + ")"
	case len(others) == 1:
		return "holds another nation (" + others[0] + ")"
	case empty:
		return "is empty"
	}
	return "holds no Embassy data"
}

// Witnesses returns the answering members that list a charter of the nation,
// and useful, which are these and the dead ones and those that hold other
// objects of it. Of each that is not useful, warn is told what it holds.
func Witnesses(ctx context.Context, members []*Member, nation format.ID, warn func(Finding)) (witnesses, useful []*Member) {
	copies := listCharters(ctx, tellDown(members, warn), nation, maxCharters, warn)
	for _, m := range members {
		switch {
		case slices.ContainsFunc(copies, func(c numberedCopy) bool { return c.member == m }):
			witnesses = append(witnesses, m)
		case m.Down() == nil && !holdsAny(ctx, m, nation):
			warn(Finding{Target: m.Name, Err: errors.New(holding(ctx, m) + ", not used")})
			continue
		}
		useful = append(useful, m)
	}
	return witnesses, useful
}

// HoldsMore reports whether any of the members that answer lists something of
// the nation that is no charter.
func HoldsMore(ctx context.Context, members []*Member, nation format.ID) bool {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	for _, m := range members {
		if m.Down() != nil {
			continue
		}
		for info, err := range m.names(ctx, nation.String()+"/") {
			if err != nil {
				break // of this target nobody can tell
			}
			if !strings.HasPrefix(info.Name, format.CharterPrefix(nation)) {
				return true
			}
		}
	}
	return false
}

// holdsAny reports whether the target lists any object of the nation, or
// cannot tell within the time of a probe.
func holdsAny(ctx context.Context, m *Member, nation format.ID) bool {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	for range m.Target.List(ctx, nation.String()+"/") {
		return true
	}
	return false
}

// nationsOn returns the starts of the first pseudonyms that a target shows,
// within the time of a probe.
func nationsOn(ctx context.Context, m *Member) (nations []string, empty bool) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	empty = true
	for info, err := range m.Target.List(ctx, "") {
		if err != nil {
			return nations, false
		}
		empty = false
		first, _, _ := strings.Cut(info.Name, "/")
		if _, err := format.ParseID(first); err != nil {
			continue
		}
		if short := first[:shownNation] + "…"; !slices.Contains(nations, short) {
			if nations = append(nations, short); len(nations) == maxNations {
				break
			}
		}
	}
	return nations, empty
}
