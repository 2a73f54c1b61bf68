package embassy_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"embassy/crypto"
	"embassy/embassy"
	"embassy/embassy/format"
)

// Two that make a kit in one place at once are not both told that it is
// there: the one of the other would open nothing.
func TestKitIsNeverReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kit.txt")
	var want string
	for range 2 {
		root := crypto.NewRoot()
		nation := format.NationID(root.Signer().Verifier(), root.Identity().Recipient())
		kit, err := format.NewKit(root, nation, passphrase, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		err = embassy.WriteKit(path, "testland", kit)
		if want == "" && err == nil {
			want = nation.String()
			continue
		}
		if !errors.Is(err, fs.ErrExist) {
			t.Errorf("a kit where there is one: %v", err)
		}
	}
	kit, err := embassy.ReadKit(path)
	if err != nil || kit.Nation.String() != want {
		t.Errorf("the first kit: %v", err)
	}
	if files, err := os.ReadDir(filepath.Dir(path)); err != nil || len(files) != 1 {
		t.Errorf("left behind: %v, %v", files, err)
	}
}

// Of ceremonies that are held in one folder at once, one is whole, and nothing
// of the others is left.
func TestCeremoniesAtOnce(t *testing.T) {
	for range 10 {
		parent := t.TempDir()
		dir := filepath.Join(parent, "keys")
		var held sync.WaitGroup
		errs, roots := make([]error, 4), make([]*crypto.Root, 4)
		for i := range errs {
			roots[i] = crypto.NewRoot()
			nation := format.NationID(roots[i].Signer().Verifier(), roots[i].Identity().Recipient())
			shares, err := format.NewShares(roots[i], nation, 5, 5, format.Hints{}, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			held.Go(func() { _, errs[i] = embassy.WriteShares(dir, "testland", shares) })
		}
		held.Wait()
		paths, err := embassy.SharesIn(dir)
		if err != nil {
			t.Fatal(err)
		}
		shares, err := embassy.ReadShares(paths)
		if err != nil {
			t.Fatal(err)
		}
		c, err := embassy.UnlockShares(shares)
		if err != nil {
			t.Fatal(err)
		}
		for i, err := range errs {
			if (err == nil) != c.Root.Equal(&roots[i].Secret) {
				t.Errorf("ceremony %d: %v, and the shares are its own: %v", i, err, c.Root.Equal(&roots[i].Secret))
			}
		}
		if files, err := os.ReadDir(parent); err != nil || len(files) != 1 {
			t.Errorf("left behind: %v, %v", files, err)
		}
	}
}
