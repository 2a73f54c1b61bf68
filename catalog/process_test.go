package catalog_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"embassy/catalog"
	"embassy/embassy"
)

// The test binary is also the other process.
func TestMain(m *testing.M) {
	if role := os.Getenv("CATALOG_TEST_ROLE"); role != "" {
		if err := other(role, os.Getenv("CATALOG_TEST_DIR")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// chunksPerPack needs several transactions.
const chunksPerPack = 30_000

func other(role, dir string) error {
	c, err := catalog.Open(dir, catalog.Options{})
	if err != nil {
		return err
	}
	switch role {
	case "hold": // until stdin ends
		fmt.Println("open")
		if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
			return err
		}
		return c.Close()
	case "add": // packs until killed
		first, err := strconv.Atoi(os.Getenv("CATALOG_TEST_FIRST"))
		if err != nil {
			return err
		}
		for i := first; ; i++ {
			n, err := c.AddPack(pack(i, chain(1)), ids(i*chunksPerPack, (i+1)*chunksPerPack))
			if err != nil {
				return err
			}
			fmt.Println(i, n)
		}
	}
	return fmt.Errorf("unknown role %q", role)
}

type process struct {
	*exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

func start(t *testing.T, role, dir string, env ...string) process {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), append(env, "CATALOG_TEST_ROLE="+role, "CATALOG_TEST_DIR="+dir)...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	check(t, err)
	out, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	p := process{cmd, in, bufio.NewScanner(out)}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			p.kill(t)
		}
	})
	return p
}

func (p process) line(t *testing.T) string {
	t.Helper()
	if !p.out.Scan() {
		t.Fatalf("the other process ended: %v", p.out.Err())
	}
	return p.out.Text()
}

func (p process) kill(t *testing.T) {
	t.Helper()
	check(t, p.Process.Kill())
	if err := p.Wait(); err == nil {
		t.Error("the other process was not killed")
	}
}

// Whatever AddPack returned is there after a kill, no chunk is in a pack that
// is not, and no number is given out twice.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	next, last := 0, embassy.PackNum(0)
	for round := range 6 {
		p := start(t, "add", dir, fmt.Sprint("CATALOG_TEST_FIRST=", next))
		added := map[int]embassy.PackNum{}
		for range round + 1 {
			var i int
			var n embassy.PackNum
			_, err := fmt.Sscan(p.line(t), &i, &n)
			check(t, err)
			if n != last+1 {
				t.Fatalf("round %d: number %d after %d", round, n, last)
			}
			last, next = n, i+1
			added[i] = n
		}
		p.kill(t) // most likely between two transactions of the next pack
		for p.out.Scan() {
			t.Fatal("output after Wait")
		}

		c := open(t, dir)
		for i, n := range added {
			want := pack(i, chain(1))
			want.Num = n
			equal(t, mustPack(t, c, n), want)
			equal(t, find(t, c, ids(i*chunksPerPack, (i+1)*chunksPerPack)), repeat(n, chunksPerPack))
		}
		// Packs that were added but not reported, and the one under way.
		var partial int
		for i := next; i < next+50; i++ {
			known, ok, err := c.PackByHash(pack(i, chain(1)).Hash)
			check(t, err)
			for _, n := range find(t, c, ids(i*chunksPerPack, (i+1)*chunksPerPack)) {
				if n != 0 && (!ok || n != known.Num) {
					t.Fatalf("round %d: chunk in pack %d, which is not there", round, n)
				}
				if n == 0 && ok {
					partial++
				}
			}
			if ok {
				last = known.Num
				// Adding it again completes it.
				equal(t, addPack(t, c, pack(i, chain(1)), ids(i*chunksPerPack, (i+1)*chunksPerPack)).Num, last)
				next = i + 1
			}
		}
		t.Logf("round %d: %d chunks of a pack were not added yet", round, partial)
		check(t, c.Close())
	}
}

func TestLockedByAnotherProcess(t *testing.T) {
	dir := t.TempDir()
	p := start(t, "hold", dir)
	equal(t, p.line(t), "open")
	_, err := catalog.Open(dir, catalog.Options{})
	if !errors.Is(err, catalog.ErrLocked) {
		t.Fatal(err)
	}
	for _, want := range []string{dir, fmt.Sprintf("process %d ", p.Process.Pid), filepath.Base(os.Args[0])} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %q", want, err)
		}
	}

	t.Run("waits until it is closed", func(t *testing.T) {
		opened := make(chan error, 1)
		go func() {
			c, err := catalog.Open(dir, catalog.Options{LockWait: time.Minute})
			if err == nil {
				err = c.Close()
			}
			opened <- err
		}()
		check(t, p.in.Close())
		check(t, <-opened)
		check(t, p.Wait())
	})

	t.Run("a killed holder holds nothing", func(t *testing.T) {
		p := start(t, "hold", dir)
		equal(t, p.line(t), "open")
		p.kill(t)
		open(t, dir)
		_, err := catalog.Open(dir, catalog.Options{})
		if !errors.Is(err, catalog.ErrLocked) || !strings.Contains(err.Error(), fmt.Sprintf("process %d ", os.Getpid())) {
			t.Errorf("got %v, want this process named", err)
		}
	})
}

func TestLockWait(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	synctest.Test(t, func(t *testing.T) {
		for _, wait := range []time.Duration{0, 25 * time.Millisecond, 10 * time.Second} {
			began := time.Now()
			_, err := catalog.Open(dir, catalog.Options{LockWait: wait})
			if !errors.Is(err, catalog.ErrLocked) {
				t.Fatal(err)
			}
			equal(t, time.Since(began), wait)
		}
	})
}
