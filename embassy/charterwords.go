package embassy

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"

	"embassy/crypto"
	"embassy/embassy/config"
	"embassy/embassy/format"
)

// NameBook is what people call agents and compartments, as far as keys show it.
type NameBook map[format.ID]string

// Of returns the name, or else the pseudonym; of those that are called the same,
// as a machine and the one that took its place often are, both.
func (n NameBook) Of(id format.ID) string {
	name := n[id]
	if name == "" {
		return id.String()
	}
	for other, s := range n {
		if s == name && other != id {
			return fmt.Sprintf("%s (%s)", name, id.String()[:8])
		}
	}
	return name
}

// Names returns the names that the keys open; none of nil keys.
func (k *Keys) Names() NameBook {
	names := NameBook{}
	if k == nil {
		return names
	}
	for _, c := range k.Compartments {
		names[c.ID] = c.Part.Name
		for _, n := range c.Part.AgentNames {
			names[n.ID] = cmp.Or(n.Name, names[n.ID])
		}
	}
	for _, d := range k.Destroyed {
		names[d.ID] = d.Name
	}
	return names
}

// StatusWord is the status of an agent in a word.
func StatusWord(s format.AgentStatus) string {
	switch s {
	case format.AgentActive:
		return "active"
	case format.AgentSuspended:
		return "suspended"
	case format.AgentRevoked:
		return "revoked"
	}
	return fmt.Sprintf("status %d", s)
}

// Changes tells in words what a charter changed; before is nil for the first
// one, and keys may be nil.
func Changes(before, after *format.Charter, keys *Keys) []string {
	if before == nil {
		before = &format.Charter{Nation: after.Nation, RootSigner: after.RootSigner}
	}
	return differences(before, after, keys)
}

func differences(before, after *format.Charter, keys *Keys) []string {
	names := keys.Names()
	var lines []string
	say := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	if !bytes.Equal(before.RootSigner, after.RootSigner) {
		say("the root was rotated; the new one has fingerprint %s", crypto.Fingerprint(after.RootSigner))
	}
	for _, t := range after.Destroyed {
		if before.Tombstone(t.ID) == nil {
			say("compartment %s is destroyed", names.Of(t.ID))
		}
	}
	for _, k := range before.Compartments {
		if after.Compartment(k.ID) == nil && after.Tombstone(k.ID) == nil {
			say("compartment %s is gone", names.Of(k.ID))
		}
	}
	for _, k := range after.Compartments {
		was := before.Compartment(k.ID)
		if was == nil {
			say("compartment %s is new", names.Of(k.ID))
			was = &format.CharterCompartment{}
		} else if was.Epoch != k.Epoch {
			say("compartment %s: writer epoch %d", names.Of(k.ID), k.Epoch)
		}
		for _, r := range k.Recipients {
			if !slices.ContainsFunc(was.Recipients, func(o format.RecipientKey) bool { return bytes.Equal(o.Key, r.Key) && o.Since == r.Since }) {
				say("compartment %s: %s", names.Of(k.ID), RecipientWords(r))
			}
		}
		for _, r := range was.Recipients {
			if !slices.ContainsFunc(k.Recipients, func(o format.RecipientKey) bool { return bytes.Equal(o.Key, r.Key) }) {
				r.Since = 0
				say("compartment %s: no longer %s", names.Of(k.ID), RecipientWords(r))
			}
		}
		if !slices.Equal(was.Stewards, k.Stewards) && len(k.Stewards) > 0 {
			say("compartment %s: steward is agent %s", names.Of(k.ID), names.Of(k.Steward()))
		}
		if was.Shared != k.Shared {
			say("compartment %s: agents reuse one another's chunks: %t", names.Of(k.ID), k.Shared)
		}
	}
	lines = append(lines, agentDifferences(before, after, names)...)
	for _, key := range after.Administrators {
		if !slices.ContainsFunc(before.Administrators, func(o []byte) bool { return bytes.Equal(o, key) }) {
			say("administrator %s", crypto.Fingerprint(key))
		}
	}
	for _, key := range before.Administrators {
		if !slices.ContainsFunc(after.Administrators, func(o []byte) bool { return bytes.Equal(o, key) }) {
			say("administrator %s is dismissed", crypto.Fingerprint(key))
		}
	}
	if before.Quorum != after.Quorum {
		say("%d of %d administrators have to sign", after.Quorum, len(after.Administrators))
	}
	return lines
}

// RecipientWords says whom a compartment is sealed to.
func RecipientWords(r format.RecipientKey) string {
	if r.Epoch > 0 {
		return fmt.Sprintf("sealed to reader key %d, fingerprint %s", r.Epoch, crypto.Fingerprint(r.Key))
	}
	words := "sealed to a partner, fingerprint " + r.Partner
	if r.Since > 0 {
		words += fmt.Sprintf(", from writer epoch %d on", r.Since)
	}
	return words
}

func agentDifferences(before, after *format.Charter, names NameBook) (lines []string) {
	say := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	for _, g := range before.Agents {
		if after.Agent(g.ID) == nil {
			say("agent %s is left out", names.Of(g.ID))
		}
	}
	for _, g := range after.Agents {
		was, name := before.Agent(g.ID), names.Of(g.ID)
		if was == nil {
			say("agent %s is enrolled, fingerprint %s", name, crypto.AgentFingerprint(g.Signer, g.Recipient))
			was = &format.CharterAgent{Status: format.AgentActive}
		}
		if was.Status != g.Status {
			say("agent %s is %s", name, StatusWord(g.Status))
		}
		for _, h := range g.After {
			if !slices.Contains(was.After, h) {
				say("agent %s: of its chain %s, entries up to %d count, the last one %s", name, h.Chain, h.Seq, h.Hash)
			}
		}
		if g.Status == format.AgentRevoked && (was.Status != g.Status || len(was.After) > len(g.After)) {
			say("agent %s: of its other chains nothing counts", name)
		}
		for _, k := range g.Compartments {
			if !slices.Contains(was.Compartments, k) {
				say("agent %s may write compartment %s", name, names.Of(k))
			}
		}
		for _, k := range was.Compartments {
			if !slices.Contains(g.Compartments, k) && after.Tombstone(k) == nil {
				say("agent %s may no longer write compartment %s", name, names.Of(k))
			}
		}
		switch {
		case was.Quota == g.Quota:
		case g.Quota == 0:
			say("agent %s has no quota any more", name)
		default:
			say("agent %s may take %s on a target", name, config.SizeText(g.Quota))
		}
	}
	return lines
}

// sealedDifferences tells what changed in the names that both keys open.
func sealedDifferences(before, after *Keys) (lines []string) {
	names := after.Names()
	for _, c := range after.Compartments {
		i := slices.IndexFunc(before.Compartments, func(o *Compartment) bool { return o.ID == c.ID })
		if i < 0 {
			continue
		}
		was := before.Compartments[i].Part
		for _, n := range c.Part.AgentNames {
			if !slices.Contains(was.AgentNames, n) {
				lines = append(lines, fmt.Sprintf("compartment %s: agent %s is called %s", c.Part.Name, n.ID, n.Name))
			}
		}
		for _, d := range c.Part.Datasets {
			j := slices.IndexFunc(was.Datasets, func(o format.Dataset) bool { return o.Name == d.Name })
			for _, id := range d.Agents {
				if j < 0 || !slices.Contains(was.Datasets[j].Agents, id) {
					lines = append(lines, fmt.Sprintf("agent %s may write dataset %s", names.Of(id), d.Name))
				}
			}
			for _, o := range was.Datasets {
				for _, id := range o.Agents {
					if o.Name == d.Name && !slices.Contains(d.Agents, id) {
						lines = append(lines, fmt.Sprintf("agent %s may no longer write dataset %s", names.Of(id), d.Name))
					}
				}
			}
		}
	}
	return lines
}
