package embassy

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"embassy/crypto"
	"embassy/embassy/format"
	"embassy/embassy/policy"
)

// maxMembers bounds the targets of a View.
const maxMembers = 64

// ViewOptions say whose keys open which targets.
type ViewOptions struct {
	Keys     *Keys
	Members  []*Member
	Order    func(compartment string) []*Member // best first, with Tier set; nil: Members as given
	Log      *slog.Logger                       // nil: discard
	Warn     func(Finding)                      // nil: dropped; called from several goroutines
	Progress func(Progress)                     // nil: none
	Now      func() time.Time                   // nil: time.Now
	// Checkpoint is from how many entries on a checkpoint is looked for; 0: 64.
	Checkpoint int

	known  []knownEntry         // if not nil, the entries to be read, whatever the members list
	spoilt map[format.Hash]bool // objects that are known to be bad; not changed while the View is used
	// uses, if not nil, is told what every snapshot that is not retired refers to;
	// called from several goroutines.
	uses func(s committed, refs []format.Refs)
	// gone, if not nil, reports whether the deletion of a snapshot was ordered. Then only
	// these are retired, and those of which every target can come to show that they are.
	gone func(compartment format.ID, h format.Hash) (bool, error)
}

// knownEntry is an entry that was verified before.
type knownEntry struct {
	Line
	Known
}

// SnapshotInfo is a snapshot that a valid entry commits. Refs of the Summary
// are left out.
type SnapshotInfo struct {
	Compartment string
	Agent       format.ID
	Chain       format.ID
	Seq         uint64 // of the entry that commits it
	Hash        format.Hash
	Summary     format.Summary
	// Newer, of a snapshot picked as the latest, are those that may be later
	// states of the dataset, and that no target gives whole. A restore of it
	// is incomplete.
	Newer []format.Hash

	Pinned bool   // a steward said that it is to be kept
	Held   bool   // so are all of its dataset
	Doubt  string // why its time is not believed; empty: it is

	when  int64     // Summary.Time, corrected by the snapshot's place in its chain
	since time.Time // it was made after that, by the steward's clock; zero: not known
}

// Later says that the snapshot may not be the latest state, if there are Newer.
func (s SnapshotInfo) Later() string {
	if len(s.Newer) == 0 {
		return ""
	}
	return fmt.Sprintf("may not be the latest state: %d later snapshots, such as %s, are committed, and no target that answers gives them whole",
		len(s.Newer), s.Newer[0])
}

// View is what the answering targets show of a nation, verified: the union of
// their chains, and the snapshots that these commit. Its methods may be called
// one at a time.
type View struct {
	keys     *Keys
	members  []*Member // a member's place is its bit
	desks    []desk
	log      *slog.Logger
	warn     func(Finding)
	progress func(Progress)
	now      func() time.Time
	signers  map[format.ID]*crypto.Verifier // of the charter's agents
	room     *semaphore.Weighted            // bytes of snapshots, or of entries, that are open at once
	texts    ration                         // of tags and target hints
	known    []knownEntry
	spoilt   map[format.Hash]bool
	uses     func(committed, []format.Refs)
	gone     func(format.ID, format.Hash) (bool, error)
	pays     int // ViewOptions.Checkpoint

	doubts  atomic.Int64              // bad copies and spoilt objects that were met
	silence atomic.Pointer[error]     // of the last object that no member gave, and some for want of an answer
	holes   map[format.Head]format.ID // entries that are listed and not read, with their agents

	compartments []*compartmentView
	snapshots    []SnapshotInfo // newest first
	unread       []committed    // committed, and not to be had
}

// compartmentView is one compartment of a View.
type compartmentView struct {
	*Compartment
	source *source
	chains map[chainKey]*readChain
	bare   *bareView // nil where there is a charter
	orders viewOrders
	// checkpoint, if not nil, restates entries that are listed: those are not fetched.
	checkpoint *format.Checkpoint

	moving     turn            // to read moves
	moves      map[spot][]move // by the pack that was replaced; nil: not read yet
	moveOrders []*moveOrder    // of moves, in their order
	unmoved    int             // orders to replace packs that no member gives

	reading sync.Mutex // held while Reader is used
}

// chainKey names a chain. A chain's id means nothing outside its agent: anyone
// can write any id.
type chainKey struct{ agent, chain format.ID }

// readChain is a chain as the targets together show it.
type readChain struct {
	chainKey
	entries map[uint64][]*readEntry // by number; several where the chain forks
	last    uint64                  // greatest number
	fork    uint64                  // the first number that two entries have; 0: none
	heard   []heard                 // what its writer had read of the stewards' chains
}

// readEntry is a verified entry. Of its Adds only snapshots and records are kept; packs
// are many, and read again when they are wanted. Confirmed is left out.
type readEntry struct {
	format.Entry
	hash format.Hash
	adds uint32 // how many objects it adds; 0 too where a checkpoint only names it
	// restated: a checkpoint says what is in it, and the agent's signature was not
	// seen.
	restated bool
	*listed
}

// OpenView probes the members and reads all chains that any of them shows.
// Bad copies, gaps and forks go to Warn and hide nothing else. The error is
// about the context, or wraps ErrDown when no member answers.
func OpenView(ctx context.Context, o ViewOptions) (*View, error) {
	v, err := newView(o)
	if err != nil {
		return nil, err
	}
	for _, c := range o.Keys.Compartments {
		v.compartments = append(v.compartments, v.compartment(c, o.Order))
	}
	if o.Keys.Doubt != nil {
		v.warn(Finding{Object: "charter", Err: o.Keys.Doubt})
	}
	live, err := v.reach(ctx)
	if err != nil {
		return nil, err
	}
	if err := v.readChains(ctx); err != nil {
		return nil, fmt.Errorf("read the ledgers: %w", err)
	}
	if err := v.readGrants(ctx); err != nil {
		return nil, fmt.Errorf("read the grants: %w", err)
	}
	if err := v.readOrders(ctx); err != nil {
		return nil, fmt.Errorf("read the orders of the stewards: %w", err)
	}
	for _, c := range v.compartments {
		if v.uses == nil { // else they are read when a snapshot is opened
			break
		}
		if _, err := v.moves(ctx, c); err != nil {
			return nil, fmt.Errorf("read the orders of the stewards: %w", err)
		}
	}
	if err := v.readSnapshots(ctx); err != nil {
		return nil, fmt.Errorf("read the snapshots: %w", err)
	}
	v.log.Debug("ledgers read", "targets", len(live), "snapshots", len(v.snapshots))
	return v, nil
}

// newView returns a View that has read nothing, and knows no compartment.
func newView(o ViewOptions) (*View, error) {
	v := &View{
		keys: o.Keys, log: o.Log, warn: o.Warn, progress: o.Progress, now: o.Now, members: o.Members,
		signers: map[format.ID]*crypto.Verifier{}, room: semaphore.NewWeighted(4 * format.MaxSnapshotSize),
		known: o.known, spoilt: o.spoilt, uses: o.uses, gone: o.gone, pays: o.Checkpoint, holes: map[format.Head]format.ID{},
	}
	if v.now == nil {
		v.now = time.Now
	}
	if v.log == nil {
		v.log = slog.New(slog.DiscardHandler)
	}
	if v.warn == nil {
		v.warn = func(Finding) {}
	}
	if len(v.members) > maxMembers {
		return nil, fmt.Errorf("%d targets, at most %d can be read together", len(v.members), maxMembers)
	}
	v.desks = make([]desk, len(v.members))
	return v, nil
}

// reach probes the members, and returns those that answer. The error is about
// the context, or wraps ErrDown when none does.
func (v *View) reach(ctx context.Context) ([]*Member, error) {
	probe(ctx, v.keys.Charter.Nation, v.members)
	live := tellDown(v.members, v.warn)
	for i, m := range v.members {
		v.desks[i].demoted.Store(m.Down() != nil)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("probe the targets: %w", err)
	}
	if len(live) == 0 {
		return nil, noAnswer(v.members)
	}
	return live, nil
}

// compartment ranks the members. Those that the compartment's order leaves out
// come last: something may lie there from another time.
func (v *View) compartment(c *Compartment, order func(string) []*Member) *compartmentView {
	nation := v.keys.Charter.Nation
	s := &source{view: v, prefix: func(k format.Kind, agent format.ID, h format.Hash) string {
		return format.ObjectName(nation, c.ID, agent, k, h)
	}}
	members := v.members
	if order != nil {
		members = slices.Clone(order(c.Part.Name))
		for _, m := range v.members {
			if !slices.ContainsFunc(members, func(o *Member) bool { return o.Name == m.Name }) {
				members = append(members, m.At(policy.Emergency))
			}
		}
	}
	for _, m := range members {
		i := slices.IndexFunc(v.members, func(o *Member) bool { return o.Name == m.Name })
		if i < 0 {
			continue // not among those that this View may ask
		}
		s.order = append(s.order, ranked{Member: m, bit: 1 << i, desk: &v.desks[i]})
	}
	return &compartmentView{Compartment: c, source: s, chains: map[chainKey]*readChain{}, moving: newTurn()}
}

// steward reports whether the agent is or was the compartment's steward.
func (v *View) steward(c *compartmentView, agent format.ID) bool {
	cc := v.keys.Charter.Compartment(c.ID)
	return cc != nil && slices.Contains(cc.Stewards, agent)
}

// Heads returns the furthest entries of every chain; several where a chain
// forks at its end.
func (v *View) Heads() []format.Head {
	var heads []format.Head
	for _, c := range v.compartments {
		for _, ch := range c.sorted() {
			for _, e := range ch.entries[ch.last] {
				heads = append(heads, format.Head{Chain: ch.chain, Seq: ch.last, Hash: e.hash})
			}
		}
	}
	return heads
}

// Newest returns the time of the newest entry by its writer's clock; zero if
// there is none.
func (v *View) Newest() time.Time {
	var newest time.Time
	for _, c := range v.compartments {
		for _, ch := range c.chains {
			for _, e := range ch.entries[ch.last] {
				if t := e.When(); t.After(newest) {
					newest = t
				}
			}
		}
	}
	return newest
}

// sorted returns the chains in an order that does not change.
func (c *compartmentView) sorted() []*readChain {
	return slices.SortedFunc(maps.Values(c.chains), func(a, b *readChain) int {
		if n := slices.Compare(a.agent[:], b.agent[:]); n != 0 {
			return n
		}
		return slices.Compare(a.chain[:], b.chain[:])
	})
}

// byID returns the chains by their id, which several agents may have written.
func (c *compartmentView) byID() map[format.ID][]*readChain {
	byID := map[format.ID][]*readChain{}
	for _, ch := range c.sorted() {
		byID[ch.chain] = append(byID[ch.chain], ch)
	}
	return byID
}

// splits reports whether the chain forks at that number or before.
func (ch *readChain) splits(seq uint64) bool { return ch.fork > 0 && seq >= ch.fork }

// numbers returns the numbers of the entries that are there, ascending.
func (ch *readChain) numbers() []uint64 { return slices.Sorted(maps.Keys(ch.entries)) }

// entry returns the entry of that number and hash, or nil.
func (ch *readChain) entry(seq uint64, h format.Hash) *readEntry {
	for _, e := range ch.entries[seq] {
		if e.hash == h {
			return e
		}
	}
	return nil
}
