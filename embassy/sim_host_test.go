package embassy_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"embassy/crypto"
	"embassy/embassy/format"
	"embassy/targets"
)

// simHost is a target as the whole world sees it, whichever machine asks. It
// takes time to answer, and watches what is put on it: as long as it is
// honest, nothing may ever lie there before what it needs.
type simHost struct {
	s    *sim
	name string

	mu       sync.Mutex
	mem      *targets.Mem
	past     []*targets.Mem // earlier states, to roll back to
	mode     simMode
	from, to time.Time // an outage in between, whatever the mode
	stutter  simStutter
	calls    uint64
	keeps    bool   // what is overwritten or deleted
	guilty   string // the first thing it did wrong; empty: it is honest
	discards bool   // answers 200 and keeps nothing
	fickle   bool   // gives wrong bytes now and then
	hides    uint64 // lists only a part, chosen by this number; 0: all
	shown    map[string]bool
}

// simStutter makes some Gets of one object fail, and nothing else.
type simStutter struct {
	name       string
	pass, fail int // so many Gets that are left, of each
}

// get reports whether a Get fails.
func (g *simStutter) get(name string) bool {
	switch {
	case g.fail == 0 || g.name != name:
		return false
	case g.pass > 0:
		g.pass--
		return false
	}
	g.fail--
	return true
}

// simMode is how reachable a host is.
type simMode int

const (
	simUp      simMode = iota
	simRefuses         // connection refused
	simSilent          // a black hole, until the client gives up
	simFlaky           // one call in four fails, before or after it happened
)

func (m simMode) String() string {
	return [...]string{"up", "refuses", "silent", "flaky"}[m]
}

var (
	errRefused = errors.New("connection refused")
	errSilent  = errors.New("no answer for 20 s")
	errReset   = errors.New("connection reset by peer")
)

func newSimHost(s *sim, name string) *simHost {
	h := &simHost{s: s, name: name, keeps: s.rng.IntN(3) == 0, shown: map[string]bool{}}
	h.mem = targets.NewMemWith(targets.MemOptions{Versioning: h.keeps})
	return h
}

// simWait lets virtual time pass.
func simWait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// enter begins a call; after is what its outcome is replaced with once it
// happened. No two calls take equally long, so that one seed makes them
// happen in one order, as far as the program allows.
func (h *simHost) enter(ctx context.Context) (mem *targets.Mem, after error, err error) {
	h.mu.Lock()
	h.calls++
	roll := rand.New(rand.NewPCG(h.s.seed^h.calls, uint64(h.name[1])))
	delay := time.Millisecond + time.Duration(roll.Uint64N(20_000_000))
	mode := h.mode
	if now := time.Now(); mode == simUp && now.After(h.from) && now.Before(h.to) {
		mode = simRefuses
	}
	mem = h.mem
	h.mu.Unlock()
	if mode == simSilent {
		delay = 20 * time.Second
	}
	if err := simWait(ctx, delay); err != nil {
		return nil, nil, err
	}
	switch {
	case mode == simRefuses:
		return nil, nil, errRefused
	case mode == simSilent:
		return nil, nil, errSilent
	case mode == simFlaky && roll.IntN(8) == 0:
		return nil, nil, errReset
	case mode == simFlaky && roll.IntN(8) == 0:
		after = errReset
	}
	return mem, after, nil
}

// Put implements targets.Target.
func (h *simHost) Put(ctx context.Context, o targets.Object) error {
	mem, after, err := h.enter(ctx)
	if err != nil {
		return err
	}
	h.mu.Lock()
	if strings.Contains(o.Name, "/ledger/") {
		h.shown[o.Name] = true
	}
	discards := h.discards
	honest := h.guilty == ""
	h.mu.Unlock()
	if discards {
		return after
	}
	if err := mem.Put(ctx, o); err != nil {
		return err
	}
	h.s.stored(h, mem, o, honest)
	return after
}

// Get implements targets.Target.
func (h *simHost) Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	mem, after, err := h.enter(ctx)
	if err == nil {
		err = after
	}
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	stutters := h.stutter.get(name)
	h.mu.Unlock()
	if stutters {
		return nil, errReset
	}
	body, err := mem.Get(ctx, name, offset, length)
	h.mu.Lock()
	at, wrong := h.calls, h.fickle && h.calls%3 == 0
	h.mu.Unlock()
	if err != nil || !wrong {
		return body, err
	}
	data, err := io.ReadAll(body)
	if len(data) > 0 {
		data[at%uint64(len(data))] ^= 1
	}
	return io.NopCloser(bytes.NewReader(data)), err
}

// Stat implements targets.Target.
func (h *simHost) Stat(ctx context.Context, name string) (targets.Info, error) {
	mem, after, err := h.enter(ctx)
	if err == nil {
		err = after
	}
	if err != nil {
		return targets.Info{}, err
	}
	return mem.Stat(ctx, name)
}

// List implements targets.Target.
func (h *simHost) List(ctx context.Context, prefix string) iter.Seq2[targets.Info, error] {
	return func(yield func(targets.Info, error) bool) {
		mem, after, err := h.enter(ctx)
		if err != nil {
			yield(targets.Info{}, err)
			return
		}
		h.mu.Lock()
		hides := h.hides
		h.mu.Unlock()
		for info, err := range mem.List(ctx, prefix) {
			if err == nil && hides > 0 && (hides+uint64(info.Name[len(info.Name)-1]))%3 == 0 {
				continue
			}
			if !yield(info, err) || err != nil {
				return
			}
		}
		if after != nil {
			yield(targets.Info{}, after)
		}
	}
}

// Delete implements targets.Target.
func (h *simHost) Delete(ctx context.Context, name string) error {
	mem, after, err := h.enter(ctx)
	if err != nil {
		return err
	}
	h.deleting(name)
	if err := mem.Delete(ctx, name); err != nil {
		return err
	}
	return after
}

// simVersioned is a host that keeps versions. It answers about them at once.
type simVersioned struct{ *simHost }

func (h simVersioned) enter() (*targets.Mem, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if now := time.Now(); h.mode != simUp || now.After(h.from) && now.Before(h.to) {
		return nil, errRefused
	}
	return h.mem, nil
}

// Versions implements targets.Versioned.
func (h simVersioned) Versions(ctx context.Context, prefix string) iter.Seq2[targets.Version, error] {
	mem, err := h.enter()
	if err != nil {
		return func(yield func(targets.Version, error) bool) { yield(targets.Version{}, err) }
	}
	return mem.Versions(ctx, prefix)
}

// GetVersion implements targets.Versioned.
func (h simVersioned) GetVersion(ctx context.Context, name, id string, offset, length int64) (io.ReadCloser, error) {
	mem, err := h.enter()
	if err != nil {
		return nil, err
	}
	return mem.GetVersion(ctx, name, id, offset, length)
}

// DeleteVersion implements targets.Versioned.
func (h simVersioned) DeleteVersion(ctx context.Context, name, id string) error {
	mem, err := h.enter()
	if err != nil {
		return err
	}
	h.deleting(name)
	return mem.DeleteVersion(ctx, name, id)
}

// honest reports whether the host has done nothing wrong so far.
func (h *simHost) honest() bool { return h.guilty == "" }

// calm reports whether the host answers, and will.
func (h *simHost) calm() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.mode == simUp && !time.Now().Before(h.to) && h.stutter.fail == 0
}

// names returns what the host really holds, in order.
func (h *simHost) names() []string {
	var names []string
	for info, err := range h.mem.List(h.s.t.Context(), "") {
		h.s.must(err)
		names = append(names, info.Name)
	}
	return names
}

// has reports whether the host really holds an object.
func (h *simHost) has(name string) bool {
	_, err := h.mem.Stat(h.s.t.Context(), name)
	return err == nil
}

// data returns an object that the host really holds.
func (h *simHost) data(name string) []byte {
	info, err := h.mem.Stat(h.s.t.Context(), name)
	h.s.must(err)
	body, err := h.mem.Get(h.s.t.Context(), name, 0, info.Size)
	h.s.must(err)
	data, err := io.ReadAll(body)
	h.s.must(err)
	return data
}

// simEntry is a ledger entry that an agent signed.
type simEntry struct {
	format.Entry
	name string
	hash format.Hash
}

// object names what the entry adds.
func (e *simEntry) object(a format.Listed) string {
	return format.ObjectName(e.Nation, e.Compartment, e.Agent, a.Kind, a.Hash)
}

// file names the entry's file below the state directory that wrote it.
func (e *simEntry) file() string {
	return fmt.Sprintf("/chains/%s/%s/%016x-%s", e.Compartment, e.Chain, e.Seq, e.hash)
}

// prev is the name of the entry before; empty for the first.
func (e *simEntry) prev() string {
	if e.Seq == 1 {
		return ""
	}
	return format.EntryName(e.Nation, e.Compartment, e.Agent, e.Chain, e.Seq-1, e.Prev)
}

// lacks names what a target lacks of what must lie there before the entry. What
// the steward ordered to go is not needed, but an entry that took its place is; that
// may go ahead of its turn.
func (s *sim) lacks(e *simEntry, mem *targets.Mem) string {
	has := func(name string, size int64) bool {
		info, err := mem.Stat(context.Background(), name)
		return err == nil && (size == 0 || size == info.Size)
	}
	if b := e.prev(); b != "" && !e.replaces() && !has(b, 0) {
		return b
	}
	for _, a := range e.Adds {
		if has(e.object(a), int64(a.Size)) {
			continue
		}
		goes, heirs := s.goes(a.Hash)
		if len(goes) == 0 {
			return e.object(a)
		}
		if len(heirs) > 0 && !slices.ContainsFunc(heirs, func(h *simEntry) bool { return has(h.name, 0) }) {
			return "what took the place of " + e.object(a)
		}
	}
	return ""
}

// replaces reports whether the entry replaces packs.
func (e *simEntry) replaces() bool {
	return slices.ContainsFunc(e.Orders, func(o format.Ordered) bool { return o.Kind == format.OrderReplace })
}

// nameHash is the hash that a name promises.
func nameHash(name string) (format.Hash, error) {
	base := name[strings.LastIndexByte(name, '/')+1:]
	if _, after, ok := strings.Cut(base, "-"); ok {
		base = after
	}
	return format.ParseHash(base)
}

// stored looks at what was put on a host: it learns the genuine entries, and
// finds what never may lie on an honest one.
func (s *sim) stored(h *simHost, mem *targets.Mem, o targets.Object, honest bool) {
	hash, err := nameHash(o.Name)
	if (err != nil || format.HashOf(o.Data) != hash) && honest {
		s.violate("%s: other bytes than its name says were put on honest %s", o.Name, h.name)
		return
	}
	if strings.Contains(o.Name, "/record/") {
		s.recorded(o.Data)
	}
	if !strings.Contains(o.Name, "/ledger/") {
		return
	}
	e := s.genuine(o.Name, o.Data, hash)
	switch {
	case !honest:
	case e == nil:
		s.violate("%s: an entry that nobody signed was put on honest %s", o.Name, h.name)
	default:
		if missing := s.lacks(e, mem); missing != "" {
			s.violate("%s: put on %s before %s", o.Name, h.name, missing)
		}
	}
}

// genuine returns the entry if its agent signed it, and remembers it.
func (s *sim) genuine(name string, object []byte, hash format.Hash) *simEntry {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.entries[name]; e != nil {
		return e
	}
	parts := strings.Split(name, "/")
	ids := make([]format.ID, 3)
	for i := range ids {
		var err error
		if ids[i], err = format.ParseID(parts[i]); err != nil {
			return nil
		}
	}
	chain, seq, _, err := format.ParseEntryName(strings.Join(parts[4:], "/"))
	if err != nil || s.nation.signers[ids[2]] == nil {
		return nil
	}
	entry, err := format.OpenEntry(object, s.nation.signers[ids[2]],
		format.Entry{Nation: ids[0], Compartment: ids[1], Agent: ids[2], Chain: chain, Seq: seq})
	if err != nil {
		return nil
	}
	e := &simEntry{Entry: entry, name: name, hash: hash}
	s.entries[name] = e
	s.ordered(e)
	return e
}

// simSigners are the keys that sign entries, by agent.
type simSigners map[format.ID]*crypto.Verifier

func (h *simHost) String() string {
	if h.guilty != "" {
		return fmt.Sprintf("%s (%s; %s)", h.name, h.mode, h.guilty)
	}
	return fmt.Sprintf("%s (%s)", h.name, h.mode)
}
