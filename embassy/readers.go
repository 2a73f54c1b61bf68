package embassy

import (
	"fmt"
	"slices"
	"strings"

	"embassy/crypto"
	"embassy/embassy/format"
)

// ErrNotGranted: the keys are not for what was asked for.
var ErrNotGranted = fmt.Errorf("%w: these keys do not open it", crypto.ErrAuthentication)

// ExportReader returns the key of a compartment's readers, for a desk that
// restores from day to day. It is a secret.
func ExportReader(ch *format.Charter, root *crypto.Root, compartment string) (*format.ReaderKey, error) {
	keys, err := RootKeys(ch, root)
	if err != nil {
		return nil, err
	}
	c, err := keys.Named(compartment)
	if err != nil {
		return nil, err
	}
	ring, err := ch.Ring(root)
	if err != nil {
		return nil, err
	}
	cc := keys.Charter.Compartment(c.ID)
	return &format.ReaderKey{
		Version: format.Version, Nation: ch.Nation, RootSigner: slices.Clone(ch.RootSigner),
		Compartment: c.ID, Identities: readerIdentities(ring, cc), Part: c.Part,
	}, nil
}

// readerIdentities are all private keys that a compartment's readers had, newest
// first.
func readerIdentities(ring *crypto.Root, c *format.CharterCompartment) (out []format.ReaderIdentity) {
	for _, r := range ring.Ring() {
		if !r.Holds(c.ID) {
			continue
		}
		for epoch := c.ReaderEpoch(); epoch > 0; epoch-- {
			out = append(out, format.ReaderIdentity{Epoch: epoch, Key: r.Reader(c.ID, epoch).Bytes()})
		}
	}
	return out
}

// OpenReaderKey reads a reader key file, which nobody but its owner may be able
// to read.
func OpenReaderKey(path string) (*format.ReaderKey, error) {
	text, err := readSecret(path, format.MaxKitSize+1)
	if err != nil {
		return nil, fmt.Errorf("read reader key: %w", err)
	}
	defer clear(text)
	k, err := format.ParseReaderKey(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return k, nil
}

// ReaderKeys opens the one compartment that a reader key is for. A key that was
// rotated since opens what is older, with what the charter said of the
// compartment then.
func ReaderKeys(ch *format.Charter, key *format.ReaderKey) (*Keys, error) {
	ids, err := key.Open()
	if err != nil {
		return nil, err
	}
	if t := ch.Tombstone(key.Compartment); t != nil {
		return nil, Destroyed{ID: t.ID, Name: key.Part.Name, At: t.When()}.Refusal()
	}
	cc := ch.Compartment(key.Compartment)
	if ch.Nation != key.Nation || cc == nil {
		return nil, fmt.Errorf("the reader key is for compartment %s of nation %s, and charter %d has none such: %w", key.Compartment, key.Nation, ch.Seq, ErrNotGranted)
	}
	stale := !slices.ContainsFunc(cc.Recipients, func(r format.RecipientKey) bool {
		return slices.ContainsFunc(ids, func(id *crypto.Identity) bool { return slices.Equal(r.Key, id.Recipient().Bytes()) })
	})
	open := func(ch *format.Charter) (*Keys, error) {
		return openKeys(ch, func(c *format.CharterCompartment) (format.CompartmentPart, *format.Reader, bool, error) {
			if c.ID != key.Compartment {
				return format.CompartmentPart{}, nil, false, nil
			}
			part, err := key.Part, error(nil)
			if !stale {
				part, err = openReaderPart(ch, c.ID, ids)
			}
			return part, format.NewReader(ids...), true, err
		})
	}
	var keys *Keys
	if stale {
		keys, err = open(asOf(ch, key))
	} else {
		keys, err = within(ch, open)
	}
	if err != nil {
		return nil, fmt.Errorf("open charter %d with the reader key: %w", ch.Seq, err)
	}
	keys.Limit = "this reader key is for compartment " + key.Part.Name + " alone"
	if stale {
		keys.Compartments[0].Lacks = fmt.Sprintf("the reader key of compartment %s was rotated since this file was made, which has those up to epoch %d: it opens what was written before; for newer data export a new one with embassy keys export-reader",
			key.Part.Name, key.Epoch())
	}
	return keys, nil
}

// asOf is the charter with the compartment's writer epoch as the key knows it.
func asOf(ch *format.Charter, key *format.ReaderKey) *format.Charter {
	old := *ch
	old.Compartments = slices.Clone(ch.Compartments)
	old.Compartment(key.Compartment).Epoch = key.Part.Writers[len(key.Part.Writers)-1].Epoch
	return &old
}

// PartnerKeys opens what the charter of another nation grants to the nation of
// the root. When that is nothing, the error wraps ErrNotGranted.
func PartnerKeys(ch *format.Charter, root *crypto.Root) (*Keys, error) {
	var ids []*crypto.Identity
	for _, r := range root.Ring() {
		ids = append(ids, r.Partner())
	}
	keys, err := within(ch, func(ch *format.Charter) (*Keys, error) {
		return openKeys(ch, func(c *format.CharterCompartment) (format.CompartmentPart, *format.Reader, bool, error) {
			mine := grantedTo(c, ids)
			if mine == nil {
				return format.CompartmentPart{}, nil, false, nil
			}
			part, err := ch.OpenPart(c.ID, format.ReaderPart, mine.Identity)
			return part, format.NewReader(ids...), true, err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("open charter %d as a partner: %w", ch.Seq, err)
	}
	if len(keys.Compartments) == 0 {
		return nil, fmt.Errorf("charter %d of nation %s grants nothing to the nation whose root has the fingerprint %s: %w", ch.Seq, ch.Nation, root.Fingerprint(), ErrNotGranted)
	}
	var names []string
	for _, c := range keys.Compartments {
		names = append(names, c.Part.Name)
		c.Past = grantedTo(keys.Charter.Compartment(c.ID), ids).since == 0
		c.Lacks = "compartment " + c.Part.Name + " is granted to this nation from a later time on, or a key of its past was not filed; people of the nation that grants it can run embassy charter grant --past"
	}
	keys.Limit = "this nation is granted " + strings.Join(names, ", ") + " alone"
	return keys, nil
}

// granted is an identity that a compartment lists as a partner.
type granted struct {
	*crypto.Identity
	since uint32 // the first writer epoch of which it has the secret; 0: all
}

// grantedTo returns the first of the identities that the compartment lists; nil
// if it lists none.
func grantedTo(c *format.CharterCompartment, ids []*crypto.Identity) *granted {
	for _, id := range ids {
		key := id.Recipient().Bytes()
		for _, r := range c.Recipients {
			if r.Epoch == 0 && slices.Equal(r.Key, key) {
				return &granted{id, r.Since}
			}
		}
	}
	return nil
}
