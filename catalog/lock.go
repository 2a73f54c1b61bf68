package catalog

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// lock is the right to open the catalog. The file "lock" is locked for as long
// as the catalog is open; the file "holder" says who did that. A process locks
// "holder" for the moment in which it tries "lock" and then writes or reads
// "holder", so what is read there was written by the one that has the lock.
type lock struct {
	dir  string
	file *os.File
}

// acquire tries for that long, and says for whom it waits if that takes more
// than a moment; waits may be nil. The error wraps ErrLocked.
func acquire(dir string, wait time.Duration, waits func(who string), now func() time.Time) (*lock, error) {
	deadline := time.Now().Add(wait)
	const longest = 500 * time.Millisecond
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, longest) {
		l, holder, err := try(dir, now)
		if l != nil || err != nil {
			return l, err
		}
		left := time.Until(deadline)
		if left <= 0 {
			return nil, fmt.Errorf("%w by %s: wait until it is done, or stop it", ErrLocked, holder)
		}
		if pause == longest && waits != nil {
			waits(holder)
			waits = nil
		}
		time.Sleep(min(pause, left))
	}
}

// try returns the lock, or else who holds it.
func try(dir string, now func() time.Time) (l *lock, holder string, err error) {
	err = withHolder(dir, func(f *os.File) error {
		file, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return err
		}
		locked, err := tryLock(file)
		if err != nil {
			return errors.Join(err, file.Close())
		}
		if !locked {
			text, err := io.ReadAll(io.LimitReader(f, 512))
			holder = string(text)
			return errors.Join(err, file.Close())
		}
		me := fmt.Sprintf("process %d (%s) since %s",
			os.Getpid(), filepath.Base(os.Args[0]), now().UTC().Format(time.RFC3339))
		if err := rewrite(f, me); err != nil {
			return errors.Join(err, file.Close())
		}
		l = &lock{dir: dir, file: file}
		return nil
	})
	if err != nil {
		return nil, "", fmt.Errorf("lock: %w", err)
	}
	if holder == "" {
		holder = "a process that is just closing it"
	}
	return l, holder, nil
}

// release gives the lock back.
func (l *lock) release() error {
	err := withHolder(l.dir, func(f *os.File) error { return rewrite(f, "") })
	return errors.Join(err, l.file.Close())
}

// withHolder runs fn with the file "holder", alone among all processes.
func withHolder(dir string, fn func(*os.File) error) error {
	f, err := os.OpenFile(filepath.Join(dir, "holder"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := waitLock(f); err != nil {
		return errors.Join(err, f.Close())
	}
	return errors.Join(fn(f), f.Close())
}

func rewrite(f *os.File, text string) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.WriteAt([]byte(text), 0)
	return err
}
