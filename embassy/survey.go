package embassy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"embassy/embassy/format"
	"embassy/targets"
)

// survey finds out how far a target has come with the own chain, and that it
// is neither rolled back nor ahead.
func (l *ledger) survey(ctx context.Context, m *Member) (uint64, error) {
	seen, ok, err := l.s.catalog.SeenHead(m.Name, l.chain.line())
	if err != nil {
		return 0, err
	}
	if ok {
		if ours, err := l.chain.wrote(seen); err != nil {
			return 0, err
		} else if !ours {
			return 0, ErrForked
		}
	}
	// The head that it showed must still be listed: who reads from this target
	// alone goes by what it lists.
	head := seen.Seq
	var shown []shownEntry
	for try := 1; ; try++ { // a listing may lag a little behind a put
		if shown, err = l.shown(ctx, m, max(head, 1)); err != nil {
			return 0, err
		}
		if !ok || slices.ContainsFunc(shown, func(e shownEntry) bool { return e.seq == head && e.hash == seen.Hash }) {
			break
		}
		if try == attempts {
			return 0, ErrRolledBack
		}
		if err := sleep(ctx, time.Duration(try*try)*readBackPause); err != nil {
			return 0, err
		}
	}
	for _, e := range shown {
		if err := l.chain.reach(e.seq); err != nil {
			return 0, err
		}
	}
	for _, e := range shown {
		switch {
		case e.seq == seen.Seq && e.hash == seen.Hash: // looked at before
		case e.seq > l.chain.head() || l.chain.hash(e.seq) != e.hash:
			if err := l.convict(ctx, m, e); err != nil {
				return 0, err
			}
		case e.seq == head+1:
			head = e.seq
		}
	}
	if head == 0 {
		return 0, nil
	}
	return head, l.s.saw(m, l.chain.line(), SeenHead{Seq: head, Hash: l.chain.hash(head), At: l.s.now()})
}

// shownEntry is a name in the chain's folder on a target.
type shownEntry struct {
	seq  uint64
	hash format.Hash
	size int64
	name string
}

// shown lists the entries of the own chain on a target from a number on, up to
// the one after our head.
func (l *ledger) shown(ctx context.Context, m *Member, from uint64) ([]shownEntry, error) {
	folder := format.LedgerPrefix(l.chain.scope.Nation, l.chain.scope.Compartment, l.chain.scope.Agent) + l.chain.id().String() + "/"
	numbered := func(seq uint64) string { return fmt.Sprintf("%s%016x", folder, seq) }
	end := l.chain.head() + 1
	var out []shownEntry
	err := m.do(ctx, func(ctx context.Context) error {
		out = nil
		names := uint64(0)
		for info, err := range targets.ListAfter(ctx, m.Target, folder, numbered(from)) {
			if err != nil {
				return err
			}
			if info.Name > numbered(end+1) {
				break
			}
			if names++; names > 2*end+1000 {
				return fmt.Errorf("%s: more than %d names: the host makes them up", folder, names)
			}
			seq, h, err := format.ParseNumbered(info.Name[len(folder):])
			if err == nil {
				out = append(out, shownEntry{seq, h, info.Size, info.Name})
			}
		}
		return nil
	})
	return out, err
}

// convict returns ErrForked when what lies in our chain's folder, and is not
// ours, is an entry that our key signed. Anything else there is a forgery, and
// is told.
func (l *ledger) convict(ctx context.Context, m *Member, e shownEntry) error {
	if e.size > 0 && e.size <= format.MaxEntrySize {
		object, err := m.fetchSized(ctx, e.name, e.size, format.MaxEntrySize, e.hash)
		if err != nil && !answered(err) {
			return err
		}
		if err != nil && !errors.Is(err, targets.ErrNotFound) { // whatever the name stands for, these are not its bytes
			l.s.fault(m.Name, kindOf(err), e.name, err)
			return nil
		}
		want := l.chain.scope
		want.Seq = e.seq
		if err == nil {
			if _, err = format.OpenEntry(object, l.chain.key.Signer.Verifier(), want); err == nil {
				return ErrForked
			}
		}
	}
	l.mu.Lock()
	told := l.forged[m.Name+e.name]
	l.forged[m.Name+e.name] = true
	l.mu.Unlock()
	if !told {
		l.s.fault(m.Name, FaultForged, e.name, errForged)
	}
	return nil
}
