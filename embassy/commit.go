package embassy

import (
	"cmp"
	"context"
	"embassy/embassy/format"
	"embassy/embassy/policy"
	"embassy/targets"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// snapshotMaker makes the snapshot object of an entry, once the places of all
// packs in it are known.
type snapshotMaker func(refs []format.Refs) ([]byte, error)

// filing is a record, or another small object, that an entry lists.
type filing struct {
	object []byte
	kind   format.Kind      // 0: a record
	order  format.OrderKind // 0: it is no order
}

// commit writes the next entry: it lists every pack and audit record that no
// entry lists yet, the snapshot, if there is one, and records, and orders what they order. When commit returns, the entry is durable
// on this machine and the catalog knows it; no target has it yet.
func (l *ledger) commit(used []PackNum, snapshot snapshotMaker, records ...filing) (format.Hash, error) {
	return l.commitAfter(nil, used, snapshot, records...)
}

// commitAfter is commit of an entry that depends on these heads too.
func (l *ledger) commitAfter(heads []format.Head, used []PackNum, snapshot snapshotMaker, records ...filing) (format.Hash, error) {
	l.committing.Lock()
	defer l.committing.Unlock()
	cat := l.s.catalog
	if head, err := cat.ListedHead(l.chain.id()); err != nil || head != l.chain.head() {
		return format.Hash{}, fmt.Errorf("the catalog knows %d of %d ledger entries (%v): run it again", head, l.chain.head(), err)
	}
	unlisted, err := cat.UnlistedPacks(l.chain.id())
	if err != nil {
		return format.Hash{}, err
	}
	e := format.Entry{Depends: heads}
	var parts [][]byte // of indexes
	var listed []ListedPack
	here := map[PackNum]ListedPack{}
	for i, p := range unlisted {
		e.Adds = append(e.Adds, format.Listed{Kind: format.KindPack, Hash: p.Hash, Size: uint64(p.Size)})
		parts = append(parts, p.Head)
		listed = append(listed, ListedPack{Num: p.Num, Pos: uint32(i)})
		here[p.Num] = listed[i]
	}
	indexes, err := format.BuildIndexes(parts)
	if err != nil {
		return format.Hash{}, err
	}
	add := func(k format.Kind, object []byte) (format.Hash, error) {
		h := format.HashOf(object)
		e.Adds = append(e.Adds, format.Listed{Kind: k, Hash: h, Size: uint64(len(object))})
		return h, l.spool.put(h, object)
	}
	for _, object := range indexes {
		if _, err := add(format.KindIndex, object); err != nil {
			return format.Hash{}, err
		}
	}
	told, err := l.audits.pending(l.chain.id(), l.comp.ID, func(record []byte) error {
		_, err := add(format.KindRecord, record)
		return err
	})
	if err != nil {
		return format.Hash{}, err
	}
	var id format.Hash
	var object []byte
	if snapshot != nil {
		refs, err := l.refs(used, here)
		if err != nil {
			return format.Hash{}, err
		}
		if object, err = snapshot(refs); err != nil {
			return format.Hash{}, err
		}
		if id, err = add(format.KindSnapshot, object); err != nil {
			return format.Hash{}, err
		}
		e.Snapshots = []format.Hash{id}
		needs, err := l.depends(refs)
		if err != nil {
			return format.Hash{}, err
		}
		e.Depends = append(e.Depends, needs...)
	}
	given := map[format.Hash][]byte{}
	for _, r := range records {
		h, err := add(cmp.Or(r.kind, format.KindRecord), r.object)
		if err != nil {
			return format.Hash{}, err
		}
		if r.order != 0 {
			given[h] = r.object
			e.Orders = append(e.Orders, format.Ordered{Kind: r.order, Record: h})
		}
	}
	if len(e.Adds) == 0 {
		return id, nil
	}
	if e.Steward, err = l.naming(); err != nil {
		return format.Hash{}, err
	}
	for _, m := range l.members {
		seen, ok, err := l.seenOn(m)
		if err != nil {
			return format.Hash{}, err
		}
		if ok {
			e.Confirmed = append(e.Confirmed, format.Confirmation{Target: l.comp.Current().TargetName(m.Name), Seq: seen.Seq})
		}
	}
	e.Time = l.s.now().UnixNano()
	if e, err = l.chain.append(e); err != nil {
		return format.Hash{}, err
	}
	if err := l.named(e.Steward); err != nil {
		return format.Hash{}, err
	}
	if err := l.audits.setListed(l.chain.id(), told); err != nil {
		return format.Hash{}, err
	}
	if err := l.s.obey(e, func(a format.Listed) ([]byte, error) { return given[a.Hash], nil }); err != nil {
		return format.Hash{}, err
	}
	if object != nil {
		if err := l.remember(e.Seq, object); err != nil {
			return format.Hash{}, err
		}
	}
	return id, cat.SetListed(l.chain.id(), e.Seq, listed)
}

// commitRecords writes an entry that lists records.
func (l *ledger) commitRecords(records [][]byte) error {
	filed := make([]filing, len(records))
	for i, r := range records {
		filed[i].object = r
	}
	_, err := l.commit(nil, nil, filed...)
	return err
}

// refs arranges packs by entry and position. here are those that the next
// entry lists.
func (l *ledger) refs(used []PackNum, here map[PackNum]ListedPack) ([]format.Refs, error) {
	at := map[format.Head][]uint32{}
	var order []format.Head
	for _, n := range used {
		place := format.Head{Chain: l.chain.id(), Seq: l.chain.head() + 1}
		p, ok := here[n]
		if !ok {
			state, found, err := l.s.catalog.Pack(n)
			if err != nil {
				return nil, err
			}
			if !found || state.Entry == 0 {
				return nil, fmt.Errorf("pack %d (%s) is in no entry of chain %s", n, state.Hash, state.Chain)
			}
			place, p = format.Head{Chain: state.Chain, Seq: state.Entry}, ListedPack{n, state.Pos}
		}
		if at[place] == nil {
			order = append(order, place)
		}
		at[place] = append(at[place], p.Pos)
	}
	var out []format.Refs
	for _, place := range order {
		out = append(out, format.Refs{Chain: place.Chain, Seq: place.Seq, Runs: format.RefRuns(slices.Sorted(slices.Values(at[place])))})
	}
	return out, nil
}

// advance brings one target to the head of the own chain. What this run has
// not put there comes from the spool or from a target that has it. copying
// false stops at the first entry that needs such a copy.
func (l *ledger) advance(ctx context.Context, m *Member, copying bool) error {
	head, err := l.survey(ctx, m)
	if err != nil {
		return err
	}
	if _, err = l.courier.advance(ctx, l.chain, m, head, copying); errors.Is(err, errWaits) && copying {
		err = cmp.Or(l.leadAll(ctx, m), err)
	}
	return err
}

func (l *ledger) others(m *Member) []*Member {
	var out []*Member
	for _, o := range l.members {
		if o.Name != m.Name && o.Down() == nil {
			out = append(out, o)
		}
	}
	return out
}

// nudge lets targets that have everything so far take the newest entries,
// beside a run that goes on.
func (l *ledger) nudge(ctx context.Context) {
	for _, m := range l.members {
		l.mu.Lock()
		busy := l.nudged[m.Name] || m.Down() != nil
		l.nudged[m.Name] = l.nudged[m.Name] || !busy
		l.mu.Unlock()
		if busy {
			continue
		}
		l.background.Go(func() {
			if err := l.advance(ctx, m, false); err != nil && ctx.Err() == nil {
				l.s.log.Warn("interim entry", "target", m.Name, "err", err)
			}
			l.mu.Lock()
			l.nudged[m.Name] = false
			l.mu.Unlock()
		})
	}
}

// settle brings every target to the head of the chain, all at once. As soon
// as the commit rule holds, the rest have patience more to get there: what
// they still lack then, the next run or a replicator brings. When it does not
// hold, targets that were alive get a second chance once their breakers close.
func (l *ledger) settle(ctx context.Context, patience time.Duration, alive []*Member) error {
	l.background.Wait()
	l.bring(ctx, l.members, patience)
	if missing, err := l.missing(l.chain.head()); err != nil || ctx.Err() != nil {
		return errors.Join(err, ctx.Err())
	} else if len(missing) > 0 {
		again := slices.DeleteFunc(slices.Clone(alive), func(m *Member) bool {
			err := l.found(m)
			refused := errors.Is(err, targets.ErrDenied) || errors.Is(err, targets.ErrNoStore)
			return err == nil || refused || errors.Is(err, errWaits) || suspect(err) || errors.Is(err, ErrLost)
		})
		if len(again) > 0 {
			if err := sleep(ctx, downFor); err != nil {
				return err
			}
			l.bring(ctx, again, patience)
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return l.tidy(ctx)
}

// bring advances members at once, and cancels those that are not done when
// the commit rule has held for patience.
func (l *ledger) bring(ctx context.Context, members []*Member, patience time.Duration) {
	run, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan struct{}, len(members))
	for _, m := range members {
		go func() {
			err := l.advance(run, m, true)
			if err != nil && run.Err() != nil && ctx.Err() == nil {
				err = errLagging
			}
			l.judge(m, err)
			done <- struct{}{}
		}()
	}
	var limit <-chan time.Time
	for left := len(members); left > 0; {
		select {
		case <-limit:
			cancel()
			continue
		case <-done:
			left--
		}
		if missing, err := l.missing(l.chain.head()); err == nil && len(missing) == 0 && limit == nil {
			limit = time.After(patience)
		}
	}
}

// missing says what the commit rule lacks for an entry; empty: it holds.
func (l *ledger) missing(seq uint64) ([]string, error) {
	var copies []policy.Copy
	for _, m := range l.members {
		seen, ok, err := l.seenOn(m)
		if err != nil {
			return nil, err
		}
		if ok && seen.Seq >= seq && !suspect(l.found(m)) {
			copies = append(copies, copyOn(m))
		}
	}
	return l.rule.Missing(copies), nil
}

// tidy removes from the spool what enough targets hold: the objects of every
// entry for which the commit rule holds. Packs that no entry lists stay.
func (l *ledger) tidy(ctx context.Context) error {
	files, err := os.ReadDir(l.spool.dir)
	if err != nil || len(files) == 0 {
		return err
	}
	needed := map[format.Hash]bool{}
	unlisted, err := l.s.catalog.UnlistedPacks(l.chain.id())
	if err != nil {
		return err
	}
	for _, p := range unlisted {
		needed[p.Hash] = true
	}
	for seq := l.chain.head(); seq > 0; seq-- {
		missing, err := l.missing(seq)
		if err != nil {
			return err
		}
		if len(missing) == 0 {
			break // nor for any entry before it
		}
		e, _, err := l.chain.entry(ctx, seq)
		if err != nil {
			return err
		}
		for _, a := range e.Adds {
			needed[a.Hash] = true
		}
	}
	for _, f := range files {
		h, err := format.ParseHash(f.Name())
		if err == nil && needed[h] {
			continue
		}
		if err := os.Remove(filepath.Join(l.spool.dir, f.Name())); err != nil {
			return err
		}
	}
	return nil
}
