package embassy

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"embassy/embassy/format"
)

// ErrSpoolFull says that an object that no target holds finds no room on this
// machine.
var ErrSpoolFull = errors.New("spool is full")

// spoolReserve is left free on the file system of the state directory, bytes:
// the catalog must be able to go on.
const spoolReserve = 256 << 20

// spool keeps sealed objects on this machine until enough targets hold them.
// Files are named by hash.
type spool struct {
	dir string
	max int64 // bytes in all; 0: bounded by the disk only
}

func (s *spool) path(h format.Hash) string { return filepath.Join(s.dir, h.String()) }

// put stores an object durably.
func (s *spool) put(h format.Hash, data []byte) error {
	if s.has(h) {
		return nil
	}
	free, err := freeBytes(s.dir)
	if err != nil {
		return fmt.Errorf("spool %s: %w", s.dir, err)
	}
	if free < uint64(len(data))+spoolReserve {
		return fmt.Errorf("spool %s: %d MiB free on its disk, %d MiB are kept free: %w", s.dir, free>>20, spoolReserve>>20, ErrSpoolFull)
	}
	if s.max > 0 {
		used, err := s.size()
		if err != nil {
			return fmt.Errorf("spool %s: %w", s.dir, err)
		}
		if used+int64(len(data)) > s.max {
			return fmt.Errorf("spool %s: spool.max_bytes is %d: %w", s.dir, s.max, ErrSpoolFull)
		}
	}
	if err := writeFile(s.dir, s.path(h), data); err != nil {
		return fmt.Errorf("spool %s: %w", s.dir, err)
	}
	return nil
}

func (s *spool) size() (int64, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return 0, err
	}
	var n int64
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			n += info.Size()
		}
	}
	return n, nil
}

func (s *spool) has(h format.Hash) bool {
	_, err := os.Stat(s.path(h))
	return err == nil
}

// get returns the object; fs.ErrNotExist when the spool does not hold it,
// errBadCopy when its bytes are damaged.
func (s *spool) get(h format.Hash) ([]byte, error) {
	data, err := os.ReadFile(s.path(h))
	if err != nil {
		return nil, err
	}
	if format.HashOf(data) != h {
		return nil, fmt.Errorf("spool %s: %s: %w", s.dir, h, errBadCopy)
	}
	return data, nil
}
