package embassy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"embassy/crypto"
	"embassy/embassy/format"
)

var (
	// ErrUnfinished: the root was made, and the one before it has not handed
	// over to it yet.
	ErrUnfinished = errors.New("the root before it has not handed over to this one yet: finish with embassy keys rotate root, or embassy compartment destroy if it was made for that, and with this kit for --new-kit, or the folder of these shares for --new-shares")
	// ErrUnrelated: a kit, or shares, that are there hold another root than the
	// one that is to follow now.
	ErrUnrelated = errors.New("its root does not follow the nation's present one: name a file, or a folder, that does not exist yet")
	// ErrSamePassphrase: what was to be the new passphrase is the old one.
	ErrSamePassphrase = errors.New("the new passphrase is the old one: choose another")
)

// rotateWriter begins a new writer epoch in a compartment.
func (a *amendment) rotateWriter(c *format.CharterCompartment) {
	c.Epoch++
	p := a.parts[c.ID]
	p.Writers = append(p.Writers, format.EpochSecret{Epoch: c.Epoch, Secret: a.root.Writer(c.ID, c.Epoch).Bytes()})
}

// rotateReader begins a new epoch of the nation's own reader key in a
// compartment. Partners keep theirs.
func (a *amendment) rotateReader(c *format.CharterCompartment) {
	was := c.ReaderEpoch()
	i := slices.IndexFunc(c.Recipients, func(r format.RecipientKey) bool { return r.Epoch == was })
	c.Recipients[i] = format.RecipientKey{Epoch: was + 1, Key: a.root.Reader(c.ID, was+1).Recipient().Bytes()}
}

// RotateReader begins a new reader epoch in the named compartments, or in all
// when none is named: what is written from now on is sealed to a new key. With
// the root everything stays readable. ErrUnknownName.
func (s *Service) RotateReader(ctx context.Context, root *crypto.Root, names []string) (CharterReport, error) {
	return s.rotate(ctx, root, names, func(a *amendment, c *format.CharterCompartment, name string) {
		a.rotateReader(c)
		a.say("compartment %s: reader epoch %d", name, c.ReaderEpoch())
	})
}

// RotateWriter begins a new writer epoch in the named compartments, or in all
// when none is named: whatever is backed up from now on has other ids and cut
// points, and is stored anew. ErrUnknownName.
func (s *Service) RotateWriter(ctx context.Context, root *crypto.Root, names []string) (CharterReport, error) {
	return s.rotate(ctx, root, names, func(a *amendment, c *format.CharterCompartment, name string) {
		a.rotateWriter(c)
		a.say("compartment %s: writer epoch %d", name, c.Epoch)
	})
}

// rotate does something with the named compartments, or all of them.
func (s *Service) rotate(ctx context.Context, root *crypto.Root, names []string, with func(*amendment, *format.CharterCompartment, string)) (CharterReport, error) {
	return s.amend(ctx, root, func(_ *State, a *amendment) error {
		for _, name := range names {
			if c, _ := a.named(name); c == nil {
				return fmt.Errorf("compartment %q: %w", name, ErrUnknownName)
			}
		}
		for i := range a.Compartments {
			c := &a.Compartments[i]
			if name := a.parts[c.ID].Name; len(names) == 0 || slices.Contains(names, name) {
				with(a, c, name)
			}
		}
		return nil
	})
}

// RootKeeping says where a new root is kept: in a recovery kit, or in shares.
type RootKeeping struct {
	KitPath            string // new; empty: shares
	Passphrase         []byte // of the kit
	SharesDir          string // new, or empty
	Quorum, Custodians int
	Hints              format.Hints // that came with the root before
	Without            string       // name of a compartment that the new root is not to open; empty: it opens all
}

// NewRoot makes the root that is to follow root, which is the nation's present
// one, and keeps it, durably, together with the roots before it. Nobody heeds it
// before RotateRoot, or, without a compartment, Destroy. fs.ErrExist, or ErrNotEmpty: something is there already.
func (s *Service) NewRoot(ctx context.Context, root *crypto.Root, o RootKeeping) error {
	if o.KitPath != "" {
		if _, err := os.Lstat(o.KitPath); !errors.Is(err, fs.ErrNotExist) {
			return errors.Join(fmt.Errorf("recovery kit %s: %w", o.KitPath, fs.ErrExist), err)
		}
	} else if err := noFolder(o.SharesDir); err != nil {
		return err
	}
	state, err := OpenState(s.site.StateDir)
	if err != nil {
		return err
	}
	ch, _, err := s.newestCharter(ctx, state)
	if err != nil {
		return err
	}
	keys, err := RootKeys(ch, root)
	if err != nil {
		return fmt.Errorf("open charter %d: %w", ch.Seq, err)
	}
	ring, err := ch.Ring(root)
	if err != nil {
		return err
	}
	if !rules(ch, ring) {
		return ErrUnfinished
	}
	next, err := s.successorWithout(ctx, state, keys, ring, o.Without)
	if err != nil {
		return err
	}
	defer next.Secret.Wipe()
	hints := s.firstHints()
	hints.Charter, hints.Heads, hints.Credentials = ch.Seq+1, o.Hints.Heads, o.Hints.Credentials
	if o.KitPath == "" {
		shares, err := format.NewShares(next, ch.Nation, o.Quorum, o.Custodians, hints, s.now())
		if err != nil {
			return err
		}
		_, err = WriteShares(o.SharesDir, s.site.Nation, shares)
		return err
	}
	kit, err := format.NewKit(next, ch.Nation, o.Passphrase, s.now())
	if err != nil {
		return err
	}
	if err := kit.SetHints(hints); err != nil {
		return err
	}
	return WriteKit(o.KitPath, s.site.Nation, kit)
}

// rules reports whether the root is the one that signs after the charter.
func rules(ch *format.Charter, root *crypto.Root) bool {
	return bytes.Equal(ch.RootSigner, root.Signer().Verifier().Bytes())
}

// RotateRoot makes next, a root that NewRoot made, the nation's
// root: the one before hands over to it, and every compartment gets a new
// reader and a new writer epoch. Where that has happened already, the newest
// charter is published again, and the report has no Added. ErrUnrelated.
func (s *Service) RotateRoot(ctx context.Context, next *crypto.Root) (CharterReport, error) {
	return s.succeed(ctx, next, func(_ *State, a *amendment) error {
		if rules(a.Charter, next) {
			return nil
		}
		return a.handOver(next)
	})
}

// handOver makes next, which must know the present root, the nation's root, and
// begins a new reader and a new writer epoch in every compartment.
func (a *amendment) handOver(next *crypto.Root) error {
	ring := next.Ring()
	if len(ring) < 2 || !rules(a.Charter, ring[1]) {
		return ErrUnrelated
	}
	for _, c := range a.Compartments {
		if a.parts[c.ID] == nil {
			return fmt.Errorf("compartment %s: %w", c.ID, ErrReduced)
		}
	}
	if err := a.Succeed(ring[1], next); err != nil {
		return err
	}
	a.say("root %s, in place of %s", next.Fingerprint(), ring[1].Fingerprint())
	for i := range a.Compartments {
		c := &a.Compartments[i]
		a.rotateReader(c)
		a.rotateWriter(c)
		a.say("compartment %s: reader epoch %d, writer epoch %d", a.parts[c.ID].Name, c.ReaderEpoch(), c.Epoch)
	}
	return nil
}

// succeed is amend with a root that is to follow the nation's, or has. ErrUnrelated.
func (s *Service) succeed(ctx context.Context, next *crypto.Root, change func(*State, *amendment) error) (CharterReport, error) {
	rep, err := s.amend(ctx, next, change)
	if errors.Is(err, ErrReplaced) { // or it has nothing to do with this nation
		err = ErrUnrelated
	}
	return rep, err
}

// RotatePassphrase replaces the kit in a file by one of the same root, nation
// and hints under another passphrase, durably: one of the two is there at any
// time. Other copies of the old kit still open with the old one.
// ErrSamePassphrase.
func RotatePassphrase(path, nationName string, old *format.Kit, root *crypto.Root, passphrase []byte, now time.Time) error {
	if _, err := old.Unwrap(passphrase); err == nil {
		return fmt.Errorf("recovery kit %s: %w", path, ErrSamePassphrase)
	}
	kit, err := format.NewKit(root, old.Nation, passphrase, now)
	if err != nil {
		return err
	}
	kit.Hints = old.Hints
	return writeKit(path, nationName, kit, writeFile)
}
