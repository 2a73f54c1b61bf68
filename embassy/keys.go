package embassy

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"embassy/crypto"
	"embassy/embassy/format"
)

var (
	// ErrNotEnrolled: the charter does not know this agent, or not for that
	// compartment, or has suspended or revoked it.
	ErrNotEnrolled = errors.New("this agent is not enrolled")
	// ErrUnknownName: the charter knows no compartment or dataset of that name.
	ErrUnknownName = errors.New("not in the charter")
)

// Compartment is what a key holder can do in one compartment of the charter.
type Compartment struct {
	ID         format.ID
	Part       format.CompartmentPart // names, datasets
	Writers    []*format.Writer       // every epoch, ascending; the last one writes
	Recipients []format.Recipient     // that new packs are sealed to
	Reader     *format.Reader         // nil for an agent

	Past  bool   // what was written before the keys were in the charter is granted by records
	Lacks string // for people: why something may be sealed to others; empty: nothing is

	ahead []*format.Writer // of epochs that the charter does not know yet; the root's only
}

// epochsAhead is how many epochs behind those of a charter the root opens too: a
// target may have what was written under a charter that did not reach it, since
// agents need no right to put charters.
const epochsAhead = 4

// errNoEpoch: the keys do not have the writer secret of an epoch.
var errNoEpoch = fmt.Errorf("%w: its secret is not among these keys", crypto.ErrAuthentication)

// Writer returns the writer secret's keys of an epoch.
func (c *Compartment) Writer(epoch uint32) (*format.Writer, error) {
	for _, known := range [...][]*format.Writer{c.Writers, c.ahead} {
		for _, w := range known {
			if w.Epoch == epoch {
				return w, nil
			}
		}
	}
	return nil, fmt.Errorf("writer epoch %d of compartment %s: %w", epoch, c.Part.Name, errNoEpoch)
}

// Current returns the keys that new packs are written with.
func (c *Compartment) Current() *format.Writer { return c.Writers[len(c.Writers)-1] }

// Keys holds the compartments that the holder can open, in the charter's
// order.
type Keys struct {
	Charter      *format.Charter
	Compartments []*Compartment
	// Doubt says why a newer charter, which administrators signed, does not
	// count; nil: there is none such.
	Doubt error
	// Destroyed are the compartments that are no more, of those whose names the
	// holder may know.
	Destroyed []Destroyed
	// Limit says, for people, what the keys are for; empty: all of the nation, or
	// all of an agent.
	Limit string
}

// Named returns the compartment of that name.
func (k *Keys) Named(name string) (*Compartment, error) {
	for _, c := range k.Compartments {
		if c.Part.Name == name {
			return c, nil
		}
	}
	return nil, k.unknown("compartment", name)
}

// unknown is the error about a name that the keys do not open.
func (k *Keys) unknown(what, name string) error {
	for _, d := range k.Destroyed {
		if what == "compartment" && d.Name == name || what == "dataset" && slices.Contains(d.Datasets, name) {
			return d.Refusal()
		}
	}
	if k.Limit != "" {
		return fmt.Errorf("%s %q: %w: %s", what, name, ErrNotGranted, k.Limit)
	}
	return fmt.Errorf("%s %q: %w", what, name, ErrUnknownName)
}

// AgentKeys opens what the charter gives to an agent: writer secrets, no
// reader key. As for readers, what administrators sealed counts as far as it
// leaves alone what the root sealed to the same agent.
func AgentKeys(ch *format.Charter, key *crypto.AgentKey) (*Keys, error) {
	keys, err := agentKeys(ch, key)
	base := ch.Rooted()
	if base == ch || errors.Is(err, ErrNotEnrolled) {
		return keys, err
	}
	was, failed := agentKeys(base, key)
	if failed != nil {
		return keys, err // administrators enrolled it
	}
	for i := 0; err == nil && i < len(keys.Compartments); i++ {
		c := keys.Compartments[i]
		if w := was.at(c.ID); w != nil && !sameButAgents(c.Part, w.Part) {
			err = fmt.Errorf("compartment %s: %w", w.Part.Name, format.ErrOverreach)
		}
	}
	if err != nil {
		was.Doubt = setAside(ch, base, err)
		return was, nil
	}
	return keys, nil
}

func setAside(ch, base *format.Charter, why error) error {
	return fmt.Errorf("charter %d, which administrators signed, is set aside for charter %d: %w", ch.Seq, base.Seq, why)
}

func agentKeys(ch *format.Charter, key *crypto.AgentKey) (*Keys, error) {
	id := format.ID(key.ID())
	a := ch.Agent(id)
	if err := enrolled(id, a); err != nil {
		return nil, fmt.Errorf("%w (charter %d)", err, ch.Seq)
	}
	keys, err := openKeys(ch, func(c *format.CharterCompartment) (format.CompartmentPart, *format.Reader, bool, error) {
		if !slices.Contains(a.Compartments, c.ID) {
			return format.CompartmentPart{}, nil, false, nil
		}
		p, err := ch.OpenPart(c.ID, format.AgentPart, key.Identity)
		return p, nil, true, err
	})
	if err == nil {
		keys.mourn(key.Identity)
	}
	return keys, err
}

// ErrReplaced: the root was rotated since the kit or the shares were made.
var ErrReplaced = errors.New("the root was rotated since: use the kit or the shares that were made then")

// RootKeys opens everything, with the root and those before it. What
// administrators sealed counts as far as it leaves alone what the root sealed.
func RootKeys(ch *format.Charter, root *crypto.Root) (*Keys, error) {
	return within(ch, func(ch *format.Charter) (*Keys, error) { return rootKeys(ch, root) })
}

// within opens a charter of administrators, and the one of the root that it
// rests on. The latter counts when the former says more than it may, or cannot
// be opened.
func within(ch *format.Charter, open func(*format.Charter) (*Keys, error)) (*Keys, error) {
	keys, err := open(ch)
	base := ch.Rooted()
	if base == ch {
		return keys, err
	}
	was, failed := open(base)
	if failed != nil {
		return nil, failed
	}
	if err == nil {
		err = keys.within(was)
	}
	if err != nil {
		was.Doubt = setAside(ch, base, err)
		return was, nil
	}
	return keys, nil
}

// within returns nil when the compartments say what they said before, but for
// agents.
func (k *Keys) within(was *Keys) error {
	for _, w := range was.Compartments {
		i := slices.IndexFunc(k.Compartments, func(c *Compartment) bool { return c.ID == w.ID })
		if i < 0 || !sameButAgents(k.Compartments[i].Part, w.Part) {
			return fmt.Errorf("compartment %s: %w", w.Part.Name, format.ErrOverreach)
		}
	}
	return nil
}

func sameButAgents(a, b format.CompartmentPart) bool {
	same := a.NationName == b.NationName && a.Name == b.Name && a.Classification == b.Classification
	return same && slices.EqualFunc(a.Writers, b.Writers, func(x, y format.EpochSecret) bool {
		return x.Epoch == y.Epoch && bytes.Equal(x.Secret, y.Secret)
	}) && slices.EqualFunc(a.Datasets, b.Datasets, func(x, y format.Dataset) bool {
		return x.Name == y.Name && x.Priority == y.Priority
	})
}

func rootKeys(ch *format.Charter, root *crypto.Root) (*Keys, error) {
	ring, err := ch.Ring(root)
	if err != nil {
		return nil, fmt.Errorf("the roots before this one: %w", err)
	}
	if ring != root {
		defer ring.Wipe()
	}
	if !slices.ContainsFunc(ring.Ring(), func(r *crypto.Root) bool { return bytes.Equal(ch.RootSigner, r.Signer().Verifier().Bytes()) }) {
		return nil, fmt.Errorf("%w: %w", crypto.ErrAuthentication, ErrReplaced)
	}
	keys, err := openKeys(ch, func(c *format.CharterCompartment) (format.CompartmentPart, *format.Reader, bool, error) {
		var ids []*crypto.Identity
		for _, r := range derivable(ring, c.ID) {
			for epoch := c.ReaderEpoch() + epochsAhead; epoch > 0; epoch-- {
				ids = append(ids, r.Reader(c.ID, epoch))
			}
		}
		part, err := openReaderPart(ch, c.ID, ids)
		if errors.Is(err, crypto.ErrAuthentication) && ring.Lacks(c.ID) {
			return part, nil, false, nil // a charter of before its destruction
		}
		return part, format.NewReader(ids...), true, err
	})
	if err != nil {
		return nil, err
	}
	for _, r := range ring.Ring() {
		keys.mourn(r.Identity())
	}
	for _, c := range keys.Compartments {
		for i := range uint32(epochsAhead) {
			epoch := c.Current().Epoch + 1 + i
			c.ahead = append(c.ahead, format.NewWriter(ch.Nation, c.ID, epoch, root.Writer(c.ID, epoch)))
		}
	}
	return keys, nil
}

// derivable returns those of the roots of a ring that a compartment's keys can be
// derived from.
func derivable(ring *crypto.Root, compartment format.ID) []*crypto.Root {
	return slices.DeleteFunc(ring.Ring(), func(r *crypto.Root) bool { return !r.Holds(compartment) })
}

// openReaderPart opens a compartment's part with the first of the identities
// that can.
func openReaderPart(ch *format.Charter, compartment format.ID, ids []*crypto.Identity) (part format.CompartmentPart, err error) {
	err = crypto.ErrAuthentication
	for _, id := range ids {
		if part, err = ch.OpenPart(compartment, format.ReaderPart, id); err == nil {
			break
		}
	}
	return part, err
}

func openKeys(ch *format.Charter, open func(*format.CharterCompartment) (format.CompartmentPart, *format.Reader, bool, error)) (*Keys, error) {
	k := &Keys{Charter: ch}
	for i := range ch.Compartments {
		cc := &ch.Compartments[i]
		part, reader, mine, err := open(cc)
		if err != nil {
			return nil, fmt.Errorf("compartment %s: %w", cc.ID, err)
		}
		if !mine {
			continue
		}
		c := &Compartment{ID: cc.ID, Part: part, Reader: reader}
		for _, e := range part.Writers {
			secret, err := crypto.SecretFromBytes(e.Secret)
			if err != nil {
				return nil, fmt.Errorf("compartment %s: writer epoch %d: %w", part.Name, e.Epoch, err)
			}
			c.Writers = append(c.Writers, format.NewWriter(ch.Nation, cc.ID, e.Epoch, secret))
		}
		if len(c.Writers) == 0 || c.Current().Epoch != cc.Epoch {
			return nil, fmt.Errorf("compartment %s: writer epoch %d: %w", part.Name, cc.Epoch, crypto.ErrAuthentication)
		}
		for _, r := range cc.Recipients {
			key, err := crypto.ParseRecipient(r.Key)
			if err != nil {
				return nil, fmt.Errorf("compartment %s: recipient: %w", part.Name, err)
			}
			c.Recipients = append(c.Recipients, format.Recipient{Epoch: r.Epoch, Key: key, Since: r.Since})
		}
		k.Compartments = append(k.Compartments, c)
	}
	return k, nil
}
