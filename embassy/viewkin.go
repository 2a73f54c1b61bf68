package embassy

import "embassy/embassy/format"

// kin returns the entries that the references of a snapshot may mean: of the
// entries that commit it, their ancestors, in the chains that these continue
// too, and what they depend on with its ancestors. Whatever the agent signs
// elsewhere does not count.
func (s committed) kin() map[format.Head][]*readEntry {
	byID := s.c.byID()
	kin := map[format.Head][]*readEntry{} // by chain and number, without hash
	seen := map[*readEntry]bool{}
	whole := map[*readChain]uint64{} // so many first numbers are in
	var continues []format.Head
	depends := map[format.Head]bool{}
	add := func(e *readEntry, own bool) {
		if seen[e] {
			return
		}
		seen[e] = true
		place := format.Head{Chain: e.Chain, Seq: e.Seq}
		kin[place] = append(kin[place], e)
		if own {
			continues = append(continues, e.Continues...)
			for _, d := range e.Depends {
				depends[d] = true
			}
		}
	}
	// trace adds the entry of that hash and its ancestors. Behind a gap nobody
	// can tell who is an ancestor, and all count.
	trace := func(ch *readChain, seq uint64, h format.Hash, own bool) {
		for ; seq > 0; seq-- {
			e := ch.entry(seq, h)
			if e == nil {
				break
			}
			if seen[e] {
				return
			}
			add(e, own)
			h = e.Prev
		}
		if seq == 0 || seq-1 <= whole[ch] {
			return
		}
		for n, es := range ch.entries {
			for _, e := range es {
				if n < seq {
					add(e, own)
				}
			}
		}
		whole[ch] = seq - 1
	}
	for _, e := range s.by {
		trace(s.ch, e.Seq, e.hash, true)
	}
	for i := 0; i < len(continues); i++ {
		if ch := s.c.chains[chainKey{s.ch.agent, continues[i].Chain}]; ch != nil {
			trace(ch, continues[i].Seq, continues[i].Hash, true)
		}
	}
	for d := range depends {
		for _, ch := range byID[d.Chain] {
			if ch.entry(d.Seq, d.Hash) != nil {
				trace(ch, d.Seq, d.Hash, false)
			}
		}
	}
	return kin
}

// resolve returns the entries that a reference means: of the snapshot's kin,
// or else of the stewards.
func (v *View) resolve(c *compartmentView, kin map[format.Head][]*readEntry, ref format.Refs) []*readEntry {
	out := kin[format.Head{Chain: ref.Chain, Seq: ref.Seq}]
	if len(out) > 0 {
		return out
	}
	for _, ch := range c.sorted() {
		if ch.chain == ref.Chain && v.steward(c, ch.agent) {
			out = append(out, ch.entries[ref.Seq]...)
		}
	}
	return out
}
