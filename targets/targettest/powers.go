package targettest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"embassy/targets"
)

// power returns the target as a T, which it must be.
func power[T any](t *testing.T, target targets.Target) T {
	t.Helper()
	p, ok := targets.As[T](target)
	if !ok {
		t.Fatalf("%T lacks the power", target)
	}
	return p
}

// Versioned checks a target that keeps versions. open is as in Test.
func Versioned(t *testing.T, open func(t *testing.T) targets.Target) {
	for _, c := range []struct {
		name string
		test func(*testing.T, targets.Target, targets.Versioned)
	}{
		{"what was overwritten or deleted", testVersions},
		{"order and prefixes", testVersionsOrder},
		{"more than one page", testVersionsMany},
		{"deleting for good", testDeleteVersion},
		{"stopped, cancelled, invalid", testVersionsEnd},
	} {
		t.Run(c.name, func(t *testing.T) {
			target := open(t)
			c.test(t, target, power[targets.Versioned](t, target))
		})
	}
}

func testVersions(t *testing.T, target targets.Target, v targets.Versioned) {
	first, second := randomBytes(5000), randomBytes(7000)
	put(t, target, "n/o", first)
	put(t, target, "n/o", second)
	if err := target.Delete(t.Context(), "n/o"); err != nil {
		t.Fatal(err)
	}
	got := versions(t, v, "n/o")
	if len(got) != 3 {
		t.Fatalf("versions are %+v, want a marker and two", got)
	}
	for i, want := range []targets.Version{{Latest: true, Marker: true}, {Info: targets.Info{Size: 7000}}, {Info: targets.Info{Size: 5000}}} {
		g := got[i]
		if g.Name != "n/o" || g.Latest != want.Latest || g.Marker != want.Marker || g.Size != want.Size || g.ID == "" || g.Modified.IsZero() {
			t.Errorf("version %d is %+v, want %+v", i, g, want)
		}
	}
	wantVersion(t, v, "n/o", got[1].ID, 0, 7000, second)
	wantVersion(t, v, "n/o", got[2].ID, 100, 50, first[100:150])
	if _, err := target.Stat(t.Context(), "n/o"); !errors.Is(err, targets.ErrNotFound) {
		t.Errorf("Stat of a hidden object: %v", err)
	}
	if names := list(t, target, ""); len(names) != 0 {
		t.Errorf("List shows %q", names)
	}
	if _, err := version(t.Context(), v, "n/o", got[0].ID, 0, 1); !errors.Is(err, targets.ErrNotFound) {
		t.Errorf("bytes of a marker: %v, want ErrNotFound", err)
	}
	if _, err := version(t.Context(), v, "n/o", got[2].ID, 0, 5001); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("more than a version has: %v, want io.ErrUnexpectedEOF", err)
	}
	// The same bytes again bring it back.
	put(t, target, "n/o", first)
	wantRange(t, target, "n/o", 0, 5000, first)
	if again := versions(t, v, "n/o"); len(again) != 4 || !again[0].Latest || again[0].Marker || again[1].Latest {
		t.Errorf("versions are %+v", again)
	}
}

func testVersionsOrder(t *testing.T, target targets.Target, v targets.Versioned) {
	putNested(t, target)
	for _, name := range nested {
		put(t, target, name, []byte("again"))
	}
	if err := target.Delete(t.Context(), "a/b"); err != nil {
		t.Fatal(err)
	}
	for _, prefix := range []string{"", "a/", "a/b", "c/1", "none"} {
		var want []string
		for _, name := range nested {
			if strings.HasPrefix(name, prefix) {
				want = append(want, name, name)
				if name == "a/b" {
					want = append(want, name)
				}
			}
		}
		var got []string
		for _, one := range versions(t, v, prefix) {
			if one.Latest != (len(got) == 0 || got[len(got)-1] != one.Name) {
				t.Errorf("prefix %q: %+v after %d others", prefix, one, len(got))
			}
			got = append(got, one.Name)
		}
		if !slices.Equal(got, want) {
			t.Errorf("prefix %q: versions of %q, want %q", prefix, got, want)
		}
	}
}

func testVersionsMany(t *testing.T, target targets.Target, v targets.Versioned) {
	const count, each = 260, 4 // a page of S3 ends within a name, too
	var g errgroup.Group
	g.SetLimit(8)
	for i := range count {
		g.Go(func() error {
			for n := range each {
				if err := target.Put(t.Context(), object(fmt.Sprintf("m/%03d", i), make([]byte, n))); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	got := versions(t, v, "m/")
	if len(got) != count*each {
		t.Fatalf("%d versions, want %d", len(got), count*each)
	}
	for i, one := range got {
		if want := fmt.Sprintf("m/%03d", i/each); one.Name != want || one.Size != int64(each-1-i%each) || one.Latest != (i%each == 0) {
			t.Fatalf("version %d is %+v", i, one)
		}
	}
}

func testDeleteVersion(t *testing.T, target targets.Target, v targets.Versioned) {
	put(t, target, "d/o", []byte("first"))
	put(t, target, "d/o", []byte("second"))
	all := versions(t, v, "d/o")
	for range 2 { // a missing one is no error
		if err := v.DeleteVersion(t.Context(), "d/o", all[0].ID); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := version(t.Context(), v, "d/o", all[0].ID, 0, 1); !errors.Is(err, targets.ErrNotFound) {
		t.Errorf("bytes of a deleted version: %v, want ErrNotFound", err)
	}
	wantRange(t, target, "d/o", 0, 5, []byte("first"))
	if err := target.Delete(t.Context(), "d/o"); err != nil {
		t.Fatal(err)
	}
	// Without its marker it is seen again.
	if err := v.DeleteVersion(t.Context(), "d/o", versions(t, v, "d/o")[0].ID); err != nil {
		t.Fatal(err)
	}
	wantRange(t, target, "d/o", 0, 5, []byte("first"))
	if err := v.DeleteVersion(t.Context(), "d/o", all[1].ID); err != nil {
		t.Fatal(err)
	}
	if left := versions(t, v, ""); len(left) != 0 {
		t.Errorf("left are %+v", left)
	}
}

func testVersionsEnd(t *testing.T, target targets.Target, v targets.Versioned) {
	putNested(t, target)
	seen := 0
	for _, err := range v.Versions(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		if seen++; seen == 2 {
			break
		}
	}
	if seen != 2 {
		t.Errorf("saw %d versions", seen)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	yields := 0
	for _, err := range v.Versions(ctx, "") {
		if yields++; !errors.Is(err, context.Canceled) {
			t.Errorf("Versions with a cancelled context: %v", err)
		}
	}
	if yields != 1 {
		t.Errorf("Versions with a cancelled context yielded %d times, want its error once", yields)
	}
	id := versions(t, v, "z")[0].ID
	if _, err := version(ctx, v, "z", id, 0, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("GetVersion with a cancelled context: %v", err)
	}
	if err := v.DeleteVersion(ctx, "z", id); !errors.Is(err, context.Canceled) {
		t.Errorf("DeleteVersion with a cancelled context: %v", err)
	}
	for _, err := range v.Versions(t.Context(), "/a") {
		if !errors.Is(err, targets.ErrName) {
			t.Errorf("Versions of an invalid prefix: %v", err)
		}
	}
	for _, bad := range [][2]string{{"../z", id}, {"z", ""}, {"z", string(bytes.Repeat([]byte("x"), 1025))}} {
		if _, err := version(t.Context(), v, bad[0], bad[1], 0, 1); !errors.Is(err, targets.ErrName) {
			t.Errorf("GetVersion of %.20q: %v, want ErrName", bad, err)
		}
		if err := v.DeleteVersion(t.Context(), bad[0], bad[1]); !errors.Is(err, targets.ErrName) {
			t.Errorf("DeleteVersion of %.20q: %v, want ErrName", bad, err)
		}
	}
}

// Locker checks a target that has locks, none by default, and whose credentials
// may weaken a governance lock. open is as in Test. What it locks stays locked
// for an hour.
func Locker(t *testing.T, open func(t *testing.T) targets.Target) {
	target := open(t)
	l := power[targets.Locker](t, target)
	v := power[targets.Versioned](t, target)
	now := time.Now().Truncate(time.Second)
	set := func(name, mode string, in time.Duration) error {
		return l.SetLock(t.Context(), name, targets.Lock{Mode: mode, Until: now.Add(in)})
	}
	want := func(name, mode string, in time.Duration) {
		t.Helper()
		got, err := l.LockOf(t.Context(), name)
		if wanted := now.Add(in); err != nil || got.Mode != mode || mode != "" && !got.Until.Equal(wanted) {
			t.Errorf("the lock of %s is %+v, %v; want %s until %v", name, got, err, mode, wanted)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	denied := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, targets.ErrDenied) {
			t.Errorf("%s: %v, want ErrDenied", what, err)
		}
	}
	for _, name := range []string{"free", "governed", "bound"} {
		put(t, target, name, []byte(name))
		want(name, "", 0)
	}
	must(set("governed", "governance", 30*time.Minute))
	must(set("bound", "compliance", 30*time.Minute))
	want("governed", "governance", 30*time.Minute)
	want("bound", "compliance", 30*time.Minute)
	must(set("bound", "compliance", time.Hour))
	want("bound", "compliance", time.Hour)
	denied("shorten a compliance lock", set("bound", "compliance", 30*time.Minute))
	denied("make a compliance lock one of governance", set("bound", "governance", 2*time.Hour))
	denied("remove a compliance lock", l.SetLock(t.Context(), "bound", targets.Lock{}))
	want("bound", "compliance", time.Hour)

	for _, name := range []string{"governed", "bound"} {
		id := versions(t, v, name)[0].ID
		denied("delete locked "+name, v.DeleteVersion(t.Context(), name, id))
		put(t, target, name, []byte("another"))
		must(target.Delete(t.Context(), name))
		if _, err := l.LockOf(t.Context(), name); !errors.Is(err, targets.ErrNotFound) {
			t.Errorf("LockOf of hidden %s: %v, want ErrNotFound", name, err)
		}
		wantVersion(t, v, name, id, 0, int64(len(name)), []byte(name))
		for _, one := range versions(t, v, name)[:2] { // neither is locked
			must(v.DeleteVersion(t.Context(), name, one.ID))
		}
	}
	must(set("governed", "governance", 10*time.Minute))
	want("governed", "governance", 10*time.Minute)
	must(l.SetLock(t.Context(), "governed", targets.Lock{}))
	want("governed", "", 0)
	must(v.DeleteVersion(t.Context(), "governed", versions(t, v, "governed")[0].ID))

	if _, err := l.LockOf(t.Context(), "missing"); !errors.Is(err, targets.ErrNotFound) {
		t.Errorf("LockOf of a missing object: %v, want ErrNotFound", err)
	}
	if err := set("missing", "governance", time.Hour); !errors.Is(err, targets.ErrNotFound) {
		t.Errorf("SetLock of a missing object: %v, want ErrNotFound", err)
	}
	for what, bad := range map[string]targets.Lock{
		"no time": {Mode: "governance"}, "no mode": {Until: now.Add(time.Hour)}, "unknown mode": {Mode: "WORM", Until: now.Add(time.Hour)},
	} {
		if err := l.SetLock(t.Context(), "free", bad); err == nil {
			t.Errorf("SetLock took a lock with %s", what)
		}
	}
}

// Inspected checks what a target says of itself, Clock excepted, which is to be
// that of this machine, and that it creates an object once. open is as in Test.
func Inspected(t *testing.T, want targets.Features, open func(t *testing.T) targets.Target) {
	target := open(t)
	p := power[targets.Inspected](t, target)
	before := time.Now().Add(-2 * time.Second)
	got, err := p.Features(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got.Clock.Before(before) || got.Clock.After(time.Now().Add(2*time.Second)) {
		t.Errorf("the clock says %v", got.Clock)
	}
	got.Clock = want.Clock
	if got != want {
		t.Errorf("the features are %+v, want %+v", got, want)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Features(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Features with a cancelled context: %v", err)
	}
	if _, err := p.PutNew(ctx, object("n/o", nil)); !errors.Is(err, context.Canceled) {
		t.Errorf("PutNew with a cancelled context: %v", err)
	}
	if _, err := p.PutNew(t.Context(), object("../o", nil)); !errors.Is(err, targets.ErrName) {
		t.Errorf("PutNew of an invalid name: %v", err)
	}

	const racers = 8
	var winners, winner atomic.Int64
	var g errgroup.Group
	for i := range racers {
		g.Go(func() error {
			created, err := p.PutNew(t.Context(), object("n/raced", bytes.Repeat([]byte{byte(i)}, 100_000)))
			if created {
				winners.Add(1)
				winner.Store(int64(i))
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if winners.Load() != 1 {
		t.Errorf("%d racers created the object", winners.Load())
	}
	wantRange(t, target, "n/raced", 0, 100_000, bytes.Repeat([]byte{byte(winner.Load())}, 100_000))
	if err := target.Delete(t.Context(), "n/raced"); err != nil {
		t.Fatal(err)
	}
	if created, err := p.PutNew(t.Context(), object("n/raced", []byte("x"))); err != nil || !created {
		t.Errorf("PutNew of a deleted name: %v, %v", created, err)
	}
	if names := list(t, target, ""); !slices.Equal(names, []string{"n/raced"}) {
		t.Errorf("listed %q", names)
	}
}

func versions(t *testing.T, v targets.Versioned, prefix string) []targets.Version {
	t.Helper()
	var all []targets.Version
	for one, err := range v.Versions(t.Context(), prefix) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, one)
	}
	return all
}

// version reads all that GetVersion yields.
func version(ctx context.Context, v targets.Versioned, name, id string, offset, length int64) ([]byte, error) {
	r, err := v.GetVersion(ctx, name, id, offset, length)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(r)
	return data, errors.Join(err, r.Close())
}

func wantVersion(t *testing.T, v targets.Versioned, name, id string, offset, length int64, want []byte) {
	t.Helper()
	got, err := version(t.Context(), v, name, id, offset, length)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes of version %s of %s from %d: %d bytes, %v", length, id, name, offset, len(got), err)
	}
}

// testListAfter is run on every target: one that cannot begin in the middle skips.
func testListAfter(t *testing.T, target targets.Target) {
	putNested(t, target)
	for _, prefix := range []string{"", "a", "a/", "a/c/", "none"} {
		for _, after := range append([]string{"", "a", "a-", "a/", "a/b", "a/b-", "a/c", "a/c/", "none", "zz"}, nested...) {
			if after = max(after, prefix); !strings.HasPrefix(after, prefix) {
				continue
			}
			var want, got []string
			for _, name := range nested {
				if strings.HasPrefix(name, prefix) && name > after {
					want = append(want, name)
				}
			}
			for info, err := range targets.ListAfter(t.Context(), target, prefix, after) {
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, info.Name)
			}
			if !slices.Equal(got, want) {
				t.Errorf("prefix %q after %q: listed %q, want %q", prefix, after, got, want)
			}
		}
	}
}
