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

// chunksPerPack needs three transactions.
const chunksPerPack = 8_000

func other(role, dir string) error {
	var opts catalog.Options
	switch role {
	case "hold": // until stdin ends
		c, err := catalog.Open(dir, opts)
		if err != nil {
			return err
		}
		fmt.Println("open")
		if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
			return err
		}
		return c.Close()
	case "add": // packs, and stop for good before a certain transaction
		first, err := strconv.Atoi(os.Getenv("CATALOG_TEST_FIRST"))
		if err != nil {
			return err
		}
		commits, err := strconv.Atoi(os.Getenv("CATALOG_TEST_COMMITS"))
		if err != nil {
			return err
		}
		opened := false
		opts.Free = func(string) (uint64, error) { // asked before every transaction
			if opened && commits == 0 {
				fmt.Println("stopped")
				select {}
			}
			if opened {
				commits--
			}
			return 1 << 40, nil
		}
		c, err := catalog.Open(dir, opts)
		if err != nil {
			return err
		}
		opened = true
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
	cut := 0
	for commits := range 10 {
		p := start(t, "add", dir, fmt.Sprint("CATALOG_TEST_FIRST=", next), fmt.Sprint("CATALOG_TEST_COMMITS=", commits))
		added := map[int]embassy.PackNum{}
		for line := p.line(t); line != "stopped"; line = p.line(t) {
			var i int
			var n embassy.PackNum
			_, err := fmt.Sscan(line, &i, &n)
			check(t, err)
			if n != last+1 {
				t.Fatalf("number %d after %d", n, last)
			}
			last, next = n, i+1
			added[i] = n
		}
		p.kill(t)

		c := open(t, dir)
		for i, n := range added {
			want := pack(i, chain(1))
			want.Num = n
			equal(t, mustPack(t, c, n), want)
			equal(t, find(t, c, ids(i*chunksPerPack, (i+1)*chunksPerPack)), repeat(n, chunksPerPack))
		}
		// The pack that was under way.
		under := pack(next, chain(1))
		chunks := ids(next*chunksPerPack, (next+1)*chunksPerPack)
		known, ok, err := c.PackByHash(under.Hash)
		check(t, err)
		missing := 0
		for _, n := range find(t, c, chunks) {
			if n == 0 {
				missing++
			} else if !ok || n != known.Num {
				t.Fatalf("killed before transaction %d: chunk in pack %d, which is not there", commits, n)
			}
		}
		if ok {
			if known.Num != last+1 {
				t.Fatalf("number %d after %d", known.Num, last)
			}
			last++
			cut += min(missing, 1)
			equal(t, addPack(t, c, under, chunks).Num, last) // completes it
			equal(t, find(t, c, chunks), repeat(last, chunksPerPack))
			next++
		}
		check(t, c.Close())
	}
	if cut == 0 {
		t.Error("no pack was cut: the test tests nothing")
	}
}

// spaceFor are options with which space runs out after so many commits; -1:
// never.
func spaceFor(commits *int) catalog.Options {
	return catalog.Options{Free: func(string) (uint64, error) {
		if *commits == 0 {
			return 0, nil
		}
		*commits--
		return 1 << 40, nil
	}}
}

// A listing that does not fit into one transaction happens as a whole, or not.
func TestListingInterrupted(t *testing.T) {
	const count = 2_500
	dir := t.TempDir()
	commits := -1
	opts := spaceFor(&commits)
	c, err := catalog.Open(dir, opts)
	check(t, err)
	listed := make([]embassy.ListedPack, count)
	for i := range listed {
		listed[i] = embassy.ListedPack{Num: addPack(t, c, pack(i, chain(1)), nil).Num, Pos: uint32(i)}
	}
	for seq := uint64(1); ; seq++ {
		commits = int(seq)
		err := c.SetListed(chain(1), seq, listed)
		done := err == nil
		if !done && !errors.Is(err, catalog.ErrNoSpace) {
			t.Fatal(err)
		}
		commits = -1
		check(t, c.Close())
		if c, err = catalog.Open(dir, opts); err != nil {
			t.Fatal(err)
		}
		head, err := c.ListedHead(chain(1))
		check(t, err)
		if head != seq && (done || head != seq-1) {
			t.Fatalf("head %d after %d", head, seq)
		}
		for _, l := range listed {
			if p := mustPack(t, c, l.Num); p.Entry != head {
				t.Fatalf("pack %d in entry %d, head %d", p.Num, p.Entry, head)
			}
		}
		if done {
			if seq < 6 {
				t.Fatalf("only %d transactions: the test tests nothing", seq)
			}
			break
		}
	}
	check(t, c.Close())
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
			var told []string
			_, err := catalog.Open(dir, catalog.Options{LockWait: wait, Waits: func(who string) { told = append(told, who) }})
			if !errors.Is(err, catalog.ErrLocked) {
				t.Fatal(err)
			}
			equal(t, time.Since(began), wait)
			if long := wait > time.Second; long && len(told) != 1 || !long && len(told) != 0 {
				t.Errorf("waiting %v, it was told %q", wait, told)
			}
			for _, who := range told {
				if !strings.Contains(who, fmt.Sprintf("process %d ", os.Getpid())) {
					t.Errorf("waits for %q", who)
				}
			}
		}
	})
}
