package embassy

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"embassy/embassy/format"
)

const (
	maxEntryNames  = 1 << 18 // that one target may list of one agent in one compartment
	maxMemberNames = 1 << 19 // that one target may list in all
	listsPerTarget = 4       // at once
	maxForged      = 100     // entries that are none, beyond as many good ones, before a ledger is cut off
)

// entryName is what a listing says of an entry.
type entryName struct {
	ledger int // compartment and agent, as one number: see ledgerPrefix
	chain  format.ID
	seq    uint64
	hash   format.Hash
}

// listing is the union of what the members list.
type listing struct {
	mu     sync.Mutex
	names  map[entryName]*listed
	trials [][]trial // by member, and then by ledger
}

// listed says who shows an entry, and of how many bytes.
type listed struct {
	shown uint64
	sizes []uint32 // by member
}

// trial counts what a member's list of one ledger turned out to be worth.
type trial struct{ good, bad, unread atomic.Int64 }

func (t *trial) lost() bool { return t.bad.Load() >= maxForged+t.good.Load() }

// shelf holds what one member lists, by ledger. When it is full the longest
// list loses its end: who floods a ledger harms that one.
type shelf struct {
	mu    sync.Mutex
	lists [][]sizedName
	cut   []bool
	total int
}

type sizedName struct {
	entryName
	size uint32
}

func (s *shelf) add(ledger int, n sizedName) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cut[ledger] || len(s.lists[ledger]) == maxEntryNames {
		s.cut[ledger] = true
		return false
	}
	s.lists[ledger] = append(s.lists[ledger], n)
	if s.total++; s.total > maxMemberNames {
		longest := 0
		for i, list := range s.lists {
			if len(list) > len(s.lists[longest]) {
				longest = i
			}
		}
		list := s.lists[longest]
		s.lists[longest], s.cut[longest] = slices.Clone(list[:len(list)/2]), true
		s.total -= len(list) - len(list)/2
	}
	return true
}

// restart forgets a list, which begins anew.
func (s *shelf) restart(ledger int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total -= len(s.lists[ledger])
	s.lists[ledger], s.cut[ledger] = nil, false
}

// list asks every member for every agent's ledger.
func (v *View) list(ctx context.Context) *listing {
	l := &listing{names: map[entryName]*listed{}, trials: make([][]trial, len(v.members))}
	agents := len(v.keys.Charter.Agents)
	ledgers := len(v.compartments) * agents
	list := v.named()
	var wg sync.WaitGroup
	for i, m := range v.members {
		l.trials[i] = make([]trial, ledgers)
		if v.known != nil {
			l.add(i, len(v.members), list)
			continue
		}
		if m.Down() != nil {
			continue
		}
		wg.Go(func() {
			s := &shelf{lists: make([][]sizedName, ledgers), cut: make([]bool, ledgers)}
			var g errgroup.Group
			g.SetLimit(listsPerTarget)
			for n := range ledgers {
				g.Go(func() error {
					v.listOne(ctx, s, m, n)
					return nil
				})
			}
			g.Wait()
			for n, list := range s.lists {
				if s.cut[n] {
					v.warn(Finding{Target: m.Name, Object: v.ledgerPrefix(n), Err: fmt.Errorf("lists more entries than can be read; those after the first %d are ignored", len(list))})
				}
				l.add(i, len(v.members), list)
			}
			tellDown([]*Member{m}, v.warn)
		})
	}
	wg.Wait()
	return l
}

// named returns the entries that are known beforehand, as a list has them.
func (v *View) named() []sizedName {
	type owner struct{ compartment, agent format.ID }
	ledgers := map[owner]int{}
	for i, c := range v.compartments {
		for j, a := range v.keys.Charter.Agents {
			ledgers[owner{c.ID, a.ID}] = i*len(v.keys.Charter.Agents) + j
		}
	}
	var out []sizedName
	for _, k := range v.known {
		if n, ok := ledgers[owner{k.Compartment, k.Agent}]; ok {
			out = append(out, sizedName{entryName{n, k.Chain, k.Seq, k.Hash}, uint32(k.Size)})
		}
	}
	return out
}

func (v *View) ledgerPrefix(ledger int) string {
	ch := v.keys.Charter
	return format.LedgerPrefix(ch.Nation, v.compartments[ledger/len(ch.Agents)].ID, ch.Agents[ledger%len(ch.Agents)].ID)
}

func (v *View) listOne(ctx context.Context, s *shelf, m *Member, ledger int) {
	prefix := v.ledgerPrefix(ledger)
	odd := 0
	err := m.do(ctx, func(ctx context.Context) error {
		odd = 0
		s.restart(ledger)
		for info, err := range m.names(ctx, prefix) {
			if err != nil {
				return err
			}
			chain, seq, hash, err := format.ParseEntryName(strings.TrimPrefix(info.Name, prefix))
			if err != nil {
				if odd++; odd == maxEntryNames {
					return nil
				}
				continue
			}
			size := uint32(min(max(info.Size, 0), format.MaxEntrySize+1))
			if !s.add(ledger, sizedName{entryName{ledger, chain, seq, hash}, size}) {
				return nil
			}
		}
		return nil
	})
	// A fault trips the breaker, which tells; what was listed before counts.
	if err != nil && answered(err) {
		v.warn(Finding{Target: m.Name, Object: prefix, Err: err})
	}
	if odd > 0 {
		v.warn(Finding{Target: m.Name, Object: prefix, Err: fmt.Errorf("lists %d names that no ledger has", odd)})
	}
}

func (l *listing) add(member, members int, list []sizedName) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range list {
		e := l.names[n.entryName]
		if e == nil {
			e = &listed{sizes: make([]uint32, members)}
			l.names[n.entryName] = e
		}
		e.shown |= 1 << member
		e.sizes[member] = n.size
	}
}

// each calls fn with the trial of every member that shows the entry.
func (l *listing) each(n entryName, fn func(t *trial)) {
	for i := range l.trials {
		if l.names[n].shown&(1<<i) != 0 {
			fn(&l.trials[i][n.ledger])
		}
	}
}

// forged reports whether only lists that are cut off show the entry.
func (l *listing) forged(n entryName) bool {
	all := true
	l.each(n, func(t *trial) { all = all && t.lost() })
	return all
}

// tellForged tells what was cut off.
func (v *View) tellForged(l *listing) {
	for i, ts := range l.trials {
		for n := range ts {
			if unread := ts[n].unread.Load(); unread > 0 {
				v.warn(Finding{Target: v.members[i].Name, Object: v.ledgerPrefix(n),
					Err: fmt.Errorf("lists %d entries that are none; %d more, which no honest list shows, were not read", ts[n].bad.Load(), unread)})
			}
		}
	}
}
