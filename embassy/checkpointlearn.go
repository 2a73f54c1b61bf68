package embassy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"embassy/embassy/format"
)

// adoptAtOnce is how many entries the catalog learns together.
const adoptAtOnce = 1000

// restatement returns the region's newest checkpoint; nil: there is none. It is
// looked for once.
func (r *region) restatement(ctx context.Context) (*format.Checkpoint, error) {
	if r.sought {
		return r.checkpoint, nil
	}
	f := &checkpointFinder{charter: r.a.charter, compartment: r.id, members: r.members, tell: r.a.s.warn,
		usable: func(*format.Checkpoint) bool { return true }} // each line compares its own names
	var err error
	r.checkpoint, err = f.find(ctx)
	r.sought = err == nil
	return r.checkpoint, err
}

// adopt learns from a checkpoint what follows the entries of hashes, as far as
// just the names that it restates are shown, and appends their hashes. The last of
// them is read, and not adopted: it tells whether the one before it is right.
func (l *line) adopt(ctx context.Context, shown sightings, hashes []format.Hash) ([]format.Hash, error) {
	first := uint64(len(hashes)) + 1
	if l.disputed || len(shown) < len(hashes)+worthCheckpoint && !l.r.sought {
		return hashes, nil
	}
	cp, err := l.r.restatement(ctx)
	if err != nil || cp == nil {
		return hashes, err
	}
	ch := cp.Chain(l.Agent, l.Chain)
	if ch == nil || ch.Len() <= first || first > 1 && ch.Hash(first-1) != hashes[first-2] {
		return hashes, nil
	}
	last := first - 1
	for last < ch.Len() {
		one := shown[last+1]
		if len(one) != 1 || one[0].hash != ch.Hash(last+1) ||
			!slices.ContainsFunc(one[0].by, func(by shownBy) bool { return uint64(by.size) == ch.Size(last+1) }) {
			break
		}
		last++
	}
	if last <= first {
		return hashes, nil
	}
	e, _, err := l.open(ctx, last, shown[last][0])
	if err != nil || e.Prev != ch.Hash(last-1) {
		l.disputed = true
		if err == nil {
			l.r.a.s.warn(Finding{Object: folderOf(l.r.a.key.Nation, l.Line), Err: fmt.Errorf(
				"a checkpoint of the steward names another entry %d than the agent's entry %d follows: the chain is read entry by entry", last-1, last)})
		}
		return hashes, ctx.Err()
	}
	for seq := first; seq < last; seq += adoptAtOnce {
		learned, err := l.restated(ctx, cp, ch, seq, min(seq+adoptAtOnce, last))
		if err != nil {
			return hashes, err
		}
		if err := l.r.a.s.catalog.LearnAll(l.Line, learned); err != nil {
			return hashes, err
		}
		for _, k := range learned {
			hashes = append(hashes, k.Hash)
		}
		if uint64(len(learned)) < min(adoptAtOnce, last-seq) {
			l.disputed = true
			break
		}
	}
	return hashes, nil
}

// restated returns entries of a checkpoint from number from to before number to,
// once their orders are booked: fewer, when the record of an order is nowhere.
func (l *line) restated(ctx context.Context, cp *format.Checkpoint, ch *format.RestatedChain, from, to uint64) (out []LearnedEntry, err error) {
	for seq := from; seq < to; seq++ {
		e, err := cp.Entry(ch, seq)
		if err != nil {
			return nil, err
		}
		if err := l.obey(ctx, e); ctx.Err() != nil || err != nil && !errors.Is(err, errNowhere) {
			return nil, errors.Join(err, ctx.Err())
		} else if err != nil {
			l.r.a.s.warn(Finding{Object: l.name(seq, ch.Hash(seq)), Err: err})
			return out, nil
		}
		out = append(out, LearnedEntry{
			Known: Known{Seq: seq, Hash: ch.Hash(seq), Size: ch.Size(seq)},
			Adds:  slices.DeleteFunc(e.Adds, func(a format.Listed) bool { return a.Kind == 0 }),
		})
	}
	return out, nil
}

// fetchAhead fetches the entries after the first so many, while nobody waits for
// them yet. What it does not get, open asks for, and blames.
func (l *line) fetchAhead(ctx context.Context, shown sightings, after uint64) {
	if l.ahead != nil && after < l.aheadTo {
		return
	}
	l.ahead, l.aheadTo = map[format.Hash][]byte{}, after+smallFetches
	var mu sync.Mutex
	var g errgroup.Group
	for seq := after + 1; seq <= l.aheadTo; seq++ {
		if len(shown[seq]) != 1 { // else it takes care
			continue
		}
		s := shown[seq][0]
		i := slices.IndexFunc(s.by, func(by shownBy) bool { return !l.trials.of(by.m).lost() && by.m.Down() == nil })
		if i < 0 || s.err != nil {
			continue
		}
		g.Go(func() error {
			object, err := s.by[i].m.fetchSized(ctx, l.name(seq, s.hash), s.by[i].size, format.MaxEntrySize, s.hash)
			if err == nil {
				mu.Lock()
				l.ahead[s.hash] = object
				mu.Unlock()
			}
			return nil
		})
	}
	g.Wait()
}
