package embassy

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"embassy/crypto"
	"embassy/embassy/format"
)

// Custody is a root in memory, and what came with it, whichever way it was
// opened. The caller wipes the root.
type Custody struct {
	Root   *crypto.Root
	Nation format.ID
	Hints  format.Hints // zero: there are none
	Notes  []string     // warnings for people
}

// UnlockKit opens a root with a recovery kit, as OpenKit does.
func UnlockKit(path string, passphrase []byte) (*Custody, error) {
	kit, root, err := OpenKit(path, passphrase)
	if err != nil {
		return nil, err
	}
	c := &Custody{Root: root, Nation: kit.Nation}
	if err := CheckPrivate(path); err != nil { // its passphrase still protects it, and a rescue must not wait
		c.Notes = append(c.Notes, err.Error())
	}
	if c.Hints, err = kit.OpenHints(root); err != nil {
		c.Notes = append(c.Notes, fmt.Sprintf("the hints in the kit cannot be read: %v", err))
	}
	return c, nil
}

// UnlockShares opens a root with a quorum of shares, and wipes these. The error
// of too few is a *format.SharesError.
func UnlockShares(shares []format.NamedShare) (*Custody, error) {
	defer func() {
		for _, s := range shares {
			s.Wipe()
		}
	}()
	joined, err := format.Combine(shares)
	if err != nil {
		return nil, err
	}
	c := &Custody{Root: joined.Root, Nation: joined.Nation, Hints: joined.Hints}
	for _, f := range joined.Faults {
		c.Notes = append(c.Notes, fmt.Sprintf("share %s was not used, and was not needed: %s", f.Name, f.Why))
	}
	if joined.HintsFault != nil {
		c.Notes = append(c.Notes, fmt.Sprintf("the hints in the shares cannot be read: %v", joined.HintsFault))
	}
	return c, nil
}

// ReadShares reads share files. What a file holds is not an error of this call,
// but of its share. Files that others can read are refused with ErrNotPrivate.
func ReadShares(paths []string) ([]format.NamedShare, error) {
	var shares []format.NamedShare
	for _, path := range paths {
		text, err := readSecret(path, format.MaxKitSize+1)
		if err != nil {
			return nil, fmt.Errorf("read share: %w", err)
		}
		shares = append(shares, format.NameShare(path, text))
		clear(text)
	}
	return shares, nil
}

// shareName is the name of a share's file.
func shareName(s *format.Share) string { return fmt.Sprintf("share-%d-of-%d.txt", s.Number, s.Of) }

// WriteShares writes one file for each share into a new folder, and wipes the
// shares. The folder appears with all of them, or not at all; one that is not
// empty is refused with ErrNotEmpty. It returns the paths.
func WriteShares(dir, nationName string, shares []*format.Share) (paths []string, err error) {
	defer func() {
		for _, s := range shares {
			s.Wipe()
		}
	}()
	dir = filepath.Clean(dir)
	if err := noFolder(dir); err != nil {
		return nil, err
	}
	parent := filepath.Dir(dir)
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return nil, err
	}
	partial := "." + filepath.Base(dir) + ".part-"
	making, err := os.MkdirTemp(parent, partial+"*") // another run may make others at once
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(making))
		}
	}()
	for _, s := range shares {
		text, err := s.Text(nationName)
		if err != nil {
			return nil, err
		}
		if err := writeFile(making, filepath.Join(making, shareName(s)), []byte(text)); err != nil {
			return nil, fmt.Errorf("write share %d: %w", s.Number, err)
		}
		paths = append(paths, filepath.Join(dir, shareName(s)))
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err // it is not empty any more
	}
	if err := os.Rename(making, dir); err != nil {
		return nil, err
	}
	dropPartial(parent, partial)
	return paths, syncDir(parent)
}

// dropPartial removes what interrupted runs left. A run that goes on finds its
// folder taken, and removes by itself what it still writes.
func dropPartial(parent, prefix string) {
	entries, _ := os.ReadDir(parent)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix) {
			_ = os.RemoveAll(filepath.Join(parent, e.Name()))
		}
	}
}

// noFolder refuses a folder that holds anything.
func noFolder(dir string) error {
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("folder of the shares: %w", err)
	case len(entries) > 0:
		return fmt.Errorf("folder of the shares %s: %w: hand out what is in it, delete it, or name another one", dir, ErrNotEmpty)
	}
	return nil
}

// SharesIn returns the paths of the share files in a folder; none when there is
// no such folder.
func SharesIn(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("folder of the shares: %w", err)
	}
	var paths []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "share-") && strings.HasSuffix(e.Name(), ".txt") {
			paths = append(paths, filepath.Join(dir, e.Name()))
		}
	}
	return paths, nil
}

// WriteKit writes a recovery kit, readable by its owner only, into a file that
// does not exist: fs.ErrExist, and the file stays as it is.
func WriteKit(path, nationName string, kit *format.Kit) error {
	return writeKit(path, nationName, kit, createFile)
}

func writeKit(path, nationName string, kit *format.Kit, write func(dir, path string, data []byte) error) error {
	text, err := kit.Text(nationName)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if err := write(filepath.Dir(path), path, []byte(text)); err != nil {
		return fmt.Errorf("write recovery kit: %w", err)
	}
	return nil
}

// splitNew makes a root and shares it, or takes the root of the shares that lie
// in the folder.
func (s *Service) splitNew(o InitOptions) (nation format.ID, root *crypto.Root, resumed bool, err error) {
	paths, err := SharesIn(o.SharesDir)
	if err != nil {
		return nation, nil, false, err
	}
	if len(paths) > 0 {
		shares, err := ReadShares(paths)
		if err != nil {
			return nation, nil, false, err
		}
		c, err := UnlockShares(shares)
		if err != nil {
			return nation, nil, false, fmt.Errorf("there are shares in %s, and init makes no second root: bring back a quorum of them, or move them away to begin another nation: %w", o.SharesDir, err)
		}
		return c.Nation, c.Root, true, nil
	}
	root = crypto.NewRoot()
	nation = format.NationID(root.Signer().Verifier(), root.Identity().Recipient())
	shares, err := format.NewShares(root, nation, o.Quorum, o.Custodians, s.firstHints(), s.now())
	if err != nil {
		return nation, nil, false, err
	}
	if _, err := WriteShares(o.SharesDir, s.site.Nation, shares); err != nil {
		return nation, nil, false, err
	}
	return nation, root, false, nil
}

// firstHints is what is known of the world before the first charter.
func (s *Service) firstHints() format.Hints {
	hints := format.Hints{Time: s.now().UnixNano(), Charter: 1}
	for _, m := range s.order {
		hints.Targets = append(hints.Targets, format.TargetHint{Name: m.Name, URL: m.URL, Jurisdiction: m.Jurisdiction})
	}
	return hints
}

// Shared reports whether the root is, or is to be, shared among custodians: it
// is when shares lie in their folder and no kit in its place.
func (o InitOptions) Shared() (bool, error) {
	if o.SharesDir == "" {
		if o.Custodians > 0 {
			return false, errors.New("no folder is named for the shares")
		}
		return false, nil
	}
	_, err := os.Stat(o.KitPath)
	kit := err == nil
	if kit && o.Custodians > 0 {
		return false, fmt.Errorf("the recovery kit %s has the root already: run embassy keys split --custodians %d --quorum %d, or move the kit away to begin another nation", o.KitPath, o.Custodians, o.Quorum)
	}
	lie, err := SharesIn(o.SharesDir)
	return o.Custodians > 0 || !kit && len(lie) > 0, err
}

// source is where the root of an init is, or will be.
func (o InitOptions) source(shared bool) (where string, there bool, err error) {
	if shared {
		lie, err := SharesIn(o.SharesDir)
		return o.SharesDir, len(lie) > 0, err
	}
	_, err = os.Stat(o.KitPath)
	return o.KitPath, !errors.Is(err, fs.ErrNotExist), nil
}
