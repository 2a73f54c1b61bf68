package embassy

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"

	"embassy/embassy/format"
	"embassy/targets"
)

// errUnsigned marks a name in a ledger whose bytes the agent did not sign.
var errUnsigned = errors.New("is no entry that the agent signed")

// errUnread: who shows an entry showed too much that is none.
var errUnread = fmt.Errorf("is not read: more than %d names beside it are no entries", maxForged)

// open fetches and verifies one entry that somebody shows, and blames those
// that list it and do not give it. The error is errUnsigned when the bytes are
// those of the name, and not the agent's: then all that show it are blamed for
// forgery. Another error says that nobody gave it.
func (l *line) open(ctx context.Context, seq uint64, s *sighting) (format.Entry, Known, error) {
	if s.err != nil {
		return format.Entry{}, Known{}, s.err
	}
	a := l.r.a
	name := l.name(seq, s.hash)
	forged := func(by shownBy) bool { return a.booked[faultID{by.m.Name, FaultForged, name}] }
	if slices.ContainsFunc(s.by, forged) { // the bytes of a name do not change
		return format.Entry{}, Known{}, l.forged(s, name)
	}
	errs := []error{errNowhere}
	blame := map[*Member]error{}
	told := func(why string) {
		for m, err := range blame {
			a.s.fault(m.Name, kindOf(err), name, fmt.Errorf("%w%s", err, why))
		}
	}
	for _, by := range s.by {
		t := l.trials.of(by.m)
		if t.lost() {
			errs = append(errs, fmt.Errorf("target %s: %w", by.m.Name, errUnread))
			continue
		}
		object, err := l.ahead[s.hash], error(nil)
		if object == nil {
			object, err = by.m.fetchSized(ctx, name, by.size, format.MaxEntrySize, s.hash)
		}
		if err != nil {
			errs = append(errs, err)
			if answered(err) || errors.Is(err, format.ErrMalformed) || errors.Is(err, targets.ErrDenied) {
				if t.bad.Add(1); !by.hidden { // else it is not there
					blame[by.m] = err
				}
			}
			continue
		}
		e, err := format.OpenEntry(object, l.signer, l.want(seq))
		if err != nil {
			t.bad.Add(1)
			return e, Known{}, l.forged(s, name)
		}
		t.good.Add(1)
		told(remedy)
		return e, Known{Seq: seq, Hash: s.hash, Size: uint64(len(object))}, nil
	}
	if s.err = ctx.Err(); s.err == nil {
		s.err = fmt.Errorf("%s: %w", name, errors.Join(errs...))
		told("; no target that answers gives it")
	}
	return format.Entry{}, Known{}, s.err
}

// forged blames all that show a forgery, but for those where somebody has put
// it away. Of what is in the book, one stands for the rest.
func (l *line) forged(s *sighting, name string) error {
	a := l.r.a
	for _, by := range s.by {
		again := a.booked[faultID{by.m.Name, FaultForged, name}]
		if !by.hidden && (!again || l.trials.of(by.m).unread.Add(1) == 1) {
			a.s.fault(by.m.Name, FaultForged, name, errForged)
		}
	}
	s.err = errUnsigned
	return errUnsigned
}

// noteKey is the key of a note on the line.
func (l Line) noteKey(what string) string {
	return fmt.Sprintf("%s/%s/%s/%s", what, l.Compartment, l.Agent, l.Chain)
}

// object is the line's name in the book.
func (l Line) object() string { return fmt.Sprintf("chain %s of agent %s", l.Chain, l.Agent) }

// valid returns the last known entry.
func (l *line) valid() (uint64, error) {
	k, _, err := l.r.a.s.catalog.KnownHead(l.Line)
	return k.Seq, err
}

// forkNote, and the line: the number from which on it has branches.
const forkNote = "fork"

// forked freezes the line: what is known of it is kept where it should be, and
// nothing is learned any more.
func (l *line) forked(seq uint64) error {
	l.r.a.s.fault("", FaultFork, l.object(),
		fmt.Errorf("two entries with number %d are signed by the agent's key: its machine was cloned or captured, or restored from an old copy; both branches are kept, and nothing more of the chain is copied", seq))
	return l.r.a.s.catalog.Note(l.noteKey(forkNote), fmt.Appendf(nil, "%d", seq))
}

// everForked reports whether two branches of the line were ever shown.
func (l *line) everForked() (bool, error) {
	_, ok, err := l.r.a.s.catalog.Noted(l.noteKey(forkNote))
	return ok, err
}

// frozen reports whether the line is forked, and books it if it is so since
// now: somebody shows another entry than a known one, and the agent signed it.
func (l *line) frozen(ctx context.Context, shown sightings, hashes []format.Hash) (bool, error) {
	if ok, err := l.everForked(); err != nil || ok {
		return ok, err
	}
	for i, h := range hashes {
		for _, s := range shown[uint64(i)+1] {
			if s.hash == h {
				continue
			}
			if _, _, err := l.open(ctx, uint64(i)+1, s); err == nil {
				return true, l.forked(uint64(i) + 1)
			}
		}
	}
	return false, ctx.Err()
}

// past returns the hashes of the known entries, from number 1. They are read
// from the catalog only when what is shown is not just them.
func (l *line) past(shown sightings) ([]format.Hash, error) {
	n, err := l.valid()
	if err != nil || n == 0 {
		return nil, err
	}
	sum, _, err := l.r.a.s.catalog.Noted(l.noteKey("known"))
	if err != nil {
		return nil, err
	}
	hashes := make([]format.Hash, 0, n+64)
	for seq := uint64(1); seq <= n && len(shown[seq]) == 1; seq++ {
		hashes = append(hashes, shown[seq][0].hash)
	}
	if uint64(len(hashes)) == n && string(sum) == sumOf(hashes) {
		return hashes, nil
	}
	hashes = hashes[:0]
	for seq := uint64(1); seq <= n; seq++ {
		k, _, err := l.r.a.s.catalog.KnownEntry(l.Line, seq)
		if err != nil {
			return nil, err
		}
		hashes = append(hashes, k.Hash)
	}
	if string(sum) == sumOf(hashes) {
		return hashes, nil
	}
	return hashes, l.keepSum(hashes)
}

// keepSum notes what past compares with.
func (l *line) keepSum(hashes []format.Hash) error {
	return l.r.a.s.catalog.Note(l.noteKey("known"), []byte(sumOf(hashes)))
}

func sumOf(hashes []format.Hash) string {
	h := sha256.New()
	for i := range hashes {
		h.Write(hashes[i][:])
	}
	return string(h.Sum(nil))
}

// vouched follows the trail of the entry that the charter names of a revoked
// agent's chain down to those that are known. Entries up to limit count; of
// those that are not known yet, the ones on the trail.
func (l *line) vouched(ctx context.Context, agent *format.CharterAgent, shown sightings, hashes []format.Hash) (limit uint64, trail sightings, err error) {
	var top format.Head
	for _, h := range agent.After {
		if h.Chain == l.Chain && h.Seq > top.Seq {
			top = h
		}
	}
	known := uint64(len(hashes))
	trail = sightings{}
	seq, want := top.Seq, top.Hash
	for ; seq > 0 && (seq > known || hashes[seq-1] != want); seq-- {
		s := shown.find(seq, want)
		if s == nil {
			break
		}
		e, _, err := l.open(ctx, seq, s)
		if ctx.Err() != nil {
			return 0, nil, ctx.Err()
		}
		if err != nil {
			break
		}
		trail[seq], want = []*sighting{s}, e.Prev
	}
	joined := seq == 0 || seq <= known && hashes[seq-1] == want
	switch {
	case joined && (seq == known || seq == top.Seq):
		return top.Seq, trail, nil
	case seq > known:
		l.lacks(top.Seq-known, fmt.Errorf("entry %d, which the charter vouches for, is given by no target that answers", seq))
		return known, nil, nil
	case !joined:
		seq--
	}
	l.lacks(top.Seq-seq, fmt.Errorf("from number %d on this machine knows other entries than those that the charter vouches for: move the catalog out of the state directory, so that all is learned again", seq+1))
	return seq, nil, nil
}

// lacks counts entries that are not learned, and says why.
func (l *line) lacks(n uint64, why error) {
	l.r.beyond += n
	l.r.a.s.warn(Finding{Object: folderOf(l.r.a.key.Nation, l.Line), Err: fmt.Errorf("%w; %d entries are not copied", why, n)})
}

// learn verifies what is new of one chain, finds contradictions in it, and how
// far each listed member has come.
func (l *line) learn(ctx context.Context, agent *format.CharterAgent, all *ledgers) error {
	shown := all.chains[l.Chain]
	hashes, err := l.past(shown)
	if err != nil {
		return err
	}
	known, limit, news := len(hashes), uint64(math.MaxUint64), shown
	frozen, revoked := false, agent.Status == format.AgentRevoked
	if revoked {
		limit, news, err = l.vouched(ctx, agent, shown, hashes)
	} else {
		frozen, err = l.frozen(ctx, shown, hashes)
	}
	for err == nil && !frozen && uint64(len(hashes)) < limit {
		before := len(hashes)
		if !revoked {
			if hashes, err = l.adopt(ctx, shown, hashes); err != nil {
				break
			}
		}
		l.fetchAhead(ctx, news, uint64(len(hashes)))
		if hashes, frozen, err = l.next(ctx, news, hashes); len(hashes) == before {
			break
		}
	}
	l.ahead = nil
	if err != nil {
		return err
	}
	if len(hashes) > known {
		if err := l.keepSum(hashes); err != nil {
			return err
		}
	}
	l.last = min(uint64(len(hashes)), limit)
	if !frozen && !revoked {
		if err := l.await(ctx, shown); err != nil {
			return err
		}
	}
	if len(hashes) == 0 {
		return nil
	}
	for _, m := range all.whole {
		if err := l.measure(ctx, m, shown, hashes); err != nil {
			return err
		}
	}
	return nil
}

// next learns the entry after those of hashes, if somebody gives it, and
// appends its hash.
func (l *line) next(ctx context.Context, shown sightings, hashes []format.Hash) (_ []format.Hash, frozen bool, err error) {
	seq := uint64(len(hashes)) + 1
	list := shown[seq]
	rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	slices.SortStableFunc(list, func(a, b *sighting) int { return cmp.Compare(len(b.by), len(a.by)) }) // honest ones first
	var found []Known
	var entry format.Entry
	for _, s := range list {
		e, k, err := l.open(ctx, seq, s)
		if ctx.Err() != nil {
			return hashes, false, ctx.Err()
		}
		if err == nil {
			entry, found = e, append(found, k)
		}
	}
	if len(found) == 0 {
		return hashes, false, nil
	}
	if len(found) > 1 || seq > 1 && entry.Prev != hashes[seq-2] {
		return hashes, true, l.forked(seq)
	}
	if err := l.obey(ctx, entry); ctx.Err() != nil || err != nil && !errors.Is(err, errNowhere) {
		return hashes, false, errors.Join(err, ctx.Err())
	} else if err != nil {
		l.r.a.s.warn(Finding{Object: l.name(seq, found[0].Hash), Err: err})
		return hashes, false, nil
	}
	cat := l.r.a.s.catalog
	if err := cat.Learn(l.Line, found[0], entry.Adds); err != nil {
		other, ok, failed := cat.KnownEntry(l.Line, seq)
		if failed == nil && ok && other.Hash != found[0].Hash { // learned meanwhile
			return hashes, true, l.forked(seq)
		}
		return hashes, false, err
	}
	return append(hashes, found[0].Hash), false, nil
}

// await counts the numbers after the last learned one under which entries are,
// or may be, shown. Of many only the first are looked at.
func (l *line) await(ctx context.Context, shown sightings) error {
	var n uint64
	looked := 0
	for _, seq := range slices.Sorted(maps.Keys(shown)) {
		if seq <= l.last {
			continue
		}
		may := n > 0
		if looked++; looked <= maxForged {
			may = slices.ContainsFunc(shown[seq], func(s *sighting) bool {
				_, _, err := l.open(ctx, seq, s)
				return !errors.Is(err, errUnsigned)
			})
		}
		if may {
			n++
		}
	}
	if n > 0 && ctx.Err() == nil {
		l.lacks(n, fmt.Errorf("entry %d is given by no target that answers", l.last+1))
	}
	return ctx.Err()
}
