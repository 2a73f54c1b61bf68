package embassy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"embassy/crypto"
	"embassy/embassy/format"
)

const (
	auditRation = 64 << 20 // bytes of records that are read of one agent
	minAudit    = 1 << 10  // bytes that one counts for at least
)

// AuditRecord is one record of an audit log, verified.
type AuditRecord struct {
	Compartment string // where it is filed
	Agent       format.ID
	AgentName   string // for people
	Log         format.ID
	Number      uint64
	Hash        format.Hash
	Deed        format.Deed
	Sealed      bool // nobody here can open what was done
	Here        bool // it is in the log of this machine
	Listed      bool // a ledger entry lists it: it is on its way to the targets, or there

	prev format.Hash
}

// AuditReport is what audit logs say.
type AuditReport struct {
	Records  []AuditRecord // by agent, log and number
	Problems []Finding     // what is altered, missing, or there twice
	Bytes    uint64        // of the objects that were read from targets
}

// AuditLog reads and verifies the audit log of this machine. No target is
// asked.
func (s *Service) AuditLog() (AuditReport, error) {
	var rep AuditReport
	state, keys, bad, err := s.auditHere(&rep)
	if err != nil {
		return rep, err
	}
	rep.verify(func(r AuditRecord) bool { return bad[r.Number] }, func(format.ID) bool { return true })
	return rep, rep.shortened(state, keys)
}

var errNotHere = errors.New("a target has it, and the log in the state directory has not: files were removed or altered there, or another machine has this agent's key")

// AuditLogs is AuditLog together with what the targets of a view hold of every
// agent's logs.
func (s *Service) AuditLogs(ctx context.Context, v *View) (AuditReport, error) {
	var rep AuditReport
	state, keys, bad, err := s.auditHere(&rep)
	if err != nil {
		return rep, err
	}
	me := state.Agent()
	there, err := v.audits(ctx, &rep)
	if err != nil {
		return rep, err
	}
	type number struct {
		log    format.ID
		number uint64
	}
	at, here := map[format.Hash]int{}, map[number]bool{} // agents may list many
	for i, r := range rep.Records {
		at[r.Hash], here[number{r.Log, r.Number}] = i, true
	}
	for _, r := range there {
		if i, ok := at[r.Hash]; ok {
			rep.Records[i].Listed = true
			continue
		}
		if r.Agent == me && !here[number{r.Log, r.Number}] { // a fork is named below
			rep.Problems = append(rep.Problems, Finding{Object: r.title(), Err: errNotHere})
		}
		rep.Records = append(rep.Records, r)
	}
	rep.verify(func(r AuditRecord) bool { return r.Agent == me && bad[r.Number] }, func(agent format.ID) bool { return seesAll(keys, agent) })
	return rep, rep.shortened(state, keys)
}

// seesAll reports whether keys open every compartment of an agent, and so
// every record of its logs.
func seesAll(keys *Keys, agent format.ID) bool {
	for _, t := range keys.Charter.Destroyed {
		if slices.Contains(t.Agents, agent) {
			return false
		}
	}
	a := keys.Charter.Agent(agent)
	return a != nil && !slices.ContainsFunc(a.Compartments, func(id format.ID) bool { return keys.at(id) == nil })
}

// at returns the compartment of an id, or nil.
func (k *Keys) at(id format.ID) *Compartment {
	for _, c := range k.Compartments {
		if c.ID == id {
			return c
		}
	}
	return nil
}

// auditHere reads the log of this machine, and returns the numbers of the files
// that are no sound records. An agent that is not enrolled any more, and so has
// no keys, still has its log verified.
func (s *Service) auditHere(rep *AuditReport) (*State, *Keys, map[uint64]bool, error) {
	state, err := s.state()
	if err != nil {
		return nil, nil, nil, err
	}
	ch, _, err := state.charter()
	if err != nil {
		return nil, nil, nil, err
	}
	keys, err := AgentKeys(ch, state.key)
	if errors.Is(err, ErrNotEnrolled) {
		keys, err = &Keys{Charter: ch}, nil
	}
	if err != nil {
		return nil, nil, nil, err
	}
	b := state.logbook()
	listed := map[format.ID]uint64{}
	for _, c := range keys.Compartments {
		if listed[c.ID], err = b.listedIn(c.ID); err != nil {
			return nil, nil, nil, err
		}
	}
	numbers, err := b.numbers()
	if err != nil {
		return nil, nil, nil, err
	}
	bad := map[uint64]bool{}
	for _, n := range numbers {
		a, object, err := b.read(n)
		if object == nil {
			return nil, nil, nil, err
		}
		r, failure := AuditRecord{}, err
		if err == nil {
			r, failure = keys.auditRecord(a, object)
		}
		if failure != nil {
			bad[n] = true
			rep.Problems = append(rep.Problems, Finding{Object: b.path(n), Err: fmt.Errorf("it was altered, or is no record of this machine: %w", failure)})
			continue
		}
		r.Here, r.Listed = true, n <= listed[a.Compartment]
		rep.Records = append(rep.Records, r)
	}
	return state, keys, bad, nil
}

// auditRecord opens a record as far as the keys do. The error says that it
// does not hold what its agent should have sealed in it.
func (k *Keys) auditRecord(a *format.Audit, object []byte) (AuditRecord, error) {
	r := AuditRecord{
		Compartment: a.Compartment.String(), Agent: a.Agent, Log: a.Log, Number: a.Number, prev: a.Prev,
		Hash: format.HashOf(object), Sealed: true,
	}
	c := k.at(a.Compartment)
	if c == nil {
		return r, nil
	}
	r.Compartment, r.Sealed = c.Part.Name, false
	for _, n := range c.Part.AgentNames {
		if n.ID == a.Agent {
			r.AgentName = n.Name
		}
	}
	w, err := c.Writer(a.Epoch)
	if err == nil {
		r.Deed, err = a.Deed(w)
	}
	return r, err
}

// title is what people call a record.
func (r AuditRecord) title() string {
	who := r.AgentName
	if who == "" {
		who = r.Agent.String()
	}
	return fmt.Sprintf("audit record %d of log %s of agent %s", r.Number, r.Log, who)
}

// shortened finds records that entries list and the folder has not: those at the
// end of a log leave no gap.
func (rep *AuditReport) shortened(state *State, keys *Keys) error {
	numbers, err := state.logbook().numbers()
	if err != nil {
		return err
	}
	last := uint64(0)
	if len(numbers) > 0 {
		last = numbers[len(numbers)-1]
	}
	told := uint64(0)
	for _, c := range keys.Compartments {
		n, err := state.logbook().listedIn(c.ID)
		if err != nil {
			return err
		}
		told = max(told, n)
	}
	if told > last {
		rep.Problems = append(rep.Problems, Finding{Object: state.logbook().dir, Err: fmt.Errorf("the log ends at number %d, and ledger entries list it up to %d: files were removed", last, told)})
	}
	return nil
}

// verify sorts the records and finds gaps, forks and breaks in every log. A
// number whose file is bad is named already. Gaps are looked for in the logs of
// agents of whom everything can be seen.
func (rep *AuditReport) verify(bad func(AuditRecord) bool, whole func(agent format.ID) bool) {
	slices.SortFunc(rep.Records, func(a, b AuditRecord) int {
		return cmp.Or(slices.Compare(a.Agent[:], b.Agent[:]), slices.Compare(a.Log[:], b.Log[:]), cmp.Compare(a.Number, b.Number), slices.Compare(a.Hash[:], b.Hash[:]))
	})
	tell := func(r AuditRecord, text string, args ...any) {
		rep.Problems = append(rep.Problems, Finding{Object: r.title(), Err: fmt.Errorf(text, args...)})
	}
	var before []AuditRecord // of the number before, or of this one
	var numbered []AuditRecord
	for _, r := range rep.Records {
		if len(numbered) > 0 && (numbered[0].Agent != r.Agent || numbered[0].Log != r.Log) {
			before, numbered = nil, nil
		}
		if len(numbered) > 0 && numbered[0].Number == r.Number {
			if numbered = append(numbered, r); len(numbered) == 2 {
				tell(r, "the agent signed more than one record of this number: a cloned machine, or a log that was cut and written again")
			}
		} else {
			before, numbered = numbered, []AuditRecord{r}
		}
		last := uint64(0)
		if len(before) > 0 {
			last = before[0].Number
		}
		switch {
		case last+1 == r.Number:
			if r.Number > 1 && !slices.ContainsFunc(before, func(b AuditRecord) bool { return b.Hash == r.prev }) {
				tell(r, "it does not follow record %d that is there: that one was replaced, or another one is missing", last)
			}
		case len(numbered) == 1 && whole(r.Agent):
			from := last + 1
			for from < r.Number && bad(AuditRecord{Agent: r.Agent, Number: from}) {
				from++
			}
			to := r.Number - 1
			for to >= from && bad(AuditRecord{Agent: r.Agent, Number: to}) {
				to--
			}
			if from <= to {
				tell(r, "the records %d to %d before it are missing", from, to)
			}
		}
	}
}

// audits reads the audit records that the entries of a view list. What an entry
// lists and is unsound, or to be had nowhere, becomes a problem.
func (v *View) audits(ctx context.Context, rep *AuditReport) ([]AuditRecord, error) {
	type place struct {
		c *compartmentView
		object
	}
	if err := v.witness(ctx, func(*readChain) bool { return true }); err != nil { // a steward hides no deed
		return nil, err
	}
	found := map[format.Hash]place{}
	for _, c := range v.compartments {
		for _, ch := range c.sorted() {
			for _, n := range ch.numbers() {
				for _, e := range ch.entries[n] {
					for _, a := range e.Adds {
						if a.Kind == format.KindRecord && a.Size <= format.MaxAuditSize {
							p := place{c, object{a.Kind, a.Hash, a.Size, ch.agent, e.shown}}
							p.shown |= found[a.Hash].shown
							found[a.Hash] = p
						}
					}
				}
			}
		}
	}
	var mu sync.Mutex
	var out []AuditRecord
	var kept ration
	left := map[format.ID]int{} // records that are left out, by agent
	var g errgroup.Group
	g.SetLimit(smallFetches)
	for _, p := range found {
		if !kept.take(p.agent, max(int(p.size), minAudit), auditRation) {
			left[p.agent]++
			continue
		}
		g.Go(func() error {
			if ctx.Err() != nil {
				return nil
			}
			data := make([]byte, p.size)
			var r AuditRecord
			err := p.c.source.whole(ctx, p.object, data, false, nil)
			if err == nil && !format.IsAudit(data) {
				return nil
			}
			if err == nil {
				r, err = v.auditRecord(p.c, p.agent, data)
			}
			mu.Lock()
			defer mu.Unlock()
			rep.Bytes += p.size
			if err != nil {
				rep.Problems = append(rep.Problems, Finding{Object: p.c.source.name(p.object), Err: err})
				return nil
			}
			out = append(out, r)
			return nil
		})
	}
	g.Wait()
	for agent, n := range left {
		rep.Problems = append(rep.Problems, Finding{Object: "agent " + agent.String(),
			Err: fmt.Errorf("%d records left out: it lists more than %d MiB of them", n, auditRation>>20)})
	}
	slices.SortFunc(rep.Problems, func(a, b Finding) int { return cmp.Compare(a.Object, b.Object) })
	return out, ctx.Err()
}

func (v *View) auditRecord(c *compartmentView, agent format.ID, data []byte) (AuditRecord, error) {
	by := v.signers[agent]
	if by == nil {
		return AuditRecord{}, fmt.Errorf("the charter knows no key of agent %s: %w", agent, crypto.ErrAuthentication)
	}
	a, err := format.OpenAudit(data, by, v.keys.Charter.Nation, agent)
	if err != nil {
		return AuditRecord{}, err
	}
	if a.Compartment != c.ID {
		return AuditRecord{}, fmt.Errorf("%w: audit record of another compartment", format.ErrMalformed)
	}
	r, err := v.keys.auditRecord(a, data)
	r.Listed = true
	return r, err
}
