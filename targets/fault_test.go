package targets_test

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"sync"
	"testing"

	"embassy/targets"
	"embassy/targets/targettest"
)

func TestFaultyWithoutHooks(t *testing.T) {
	targettest.Test(t, func(*testing.T) targets.Target { return &targets.Faulty{Target: targets.NewMem()} })
}

func TestCounterPassesEverything(t *testing.T) {
	targettest.Test(t, func(*testing.T) targets.Target { return targets.NewCounter(targets.NewMem()) })
}

var allOps = []targets.Op{targets.OpPut, targets.OpGet, targets.OpStat, targets.OpList, targets.OpDelete}

func TestFaultyFails(t *testing.T) {
	fault := errors.New("injected")
	for _, when := range []string{"failed", "failed but persisted"} {
		for _, op := range allOps {
			t.Run(when+" "+op.String(), func(t *testing.T) {
				mem := targets.NewMem()
				for _, name := range []string{"there", "doomed"} {
					if err := mem.Put(t.Context(), object(name, make([]byte, 1000))); err != nil {
						t.Fatal(err)
					}
				}
				hook := func(o targets.Op, _ string) error {
					if o == op {
						return fault
					}
					return nil
				}
				faulty := &targets.Faulty{Target: mem}
				if when == "failed" {
					faulty.Before = hook
				} else {
					faulty.After = hook
				}
				errs := everyOp(t.Context(), faulty, []byte("x"))
				if errs["delete"] = faulty.Delete(t.Context(), "doomed"); errs["delete"] == nil && op == targets.OpDelete {
					t.Error("the delete succeeded")
				}
				for name, err := range errs {
					if failed := errors.Is(err, fault); failed != (name == op.String()) {
						t.Errorf("%s: %v", name, err)
					}
				}
				persisted := op != targets.OpPut || when != "failed"
				names := listNames(t, mem, "")
				if slices.Contains(names, "new") != persisted {
					t.Errorf("after a put that should have persisted (%v): %q", persisted, names)
				}
				deleted := op != targets.OpDelete || when != "failed"
				if slices.Contains(names, "doomed") == deleted {
					t.Errorf("after a delete that should have happened (%v): %q", deleted, names)
				}
			})
		}
	}
}

func TestFaultyData(t *testing.T) {
	mem := targets.NewMem()
	if err := mem.Put(t.Context(), object("a", []byte("0123456789"))); err != nil {
		t.Fatal(err)
	}
	read := func(f *targets.Faulty) (string, error) {
		r, err := f.Get(t.Context(), "a", 2, 4)
		if err != nil {
			return "", err
		}
		data, err := io.ReadAll(r)
		return string(data), errors.Join(err, r.Close())
	}
	for _, c := range []struct {
		name string
		data func(name string, offset int64, data []byte) []byte
		want string
		err  error
	}{
		{"flipped", func(_ string, _ int64, data []byte) []byte { data[0] ^= 1; return data }, "3345", nil},
		{"replaced by offset", func(name string, offset int64, _ []byte) []byte {
			return []byte{name[0], byte('0' + offset), 'x', 'y'}
		}, "a2xy", nil},
		{"too long", func(_ string, _ int64, data []byte) []byte { return append(data, "more"...) }, "2345", nil},
		{"too short", func(_ string, _ int64, data []byte) []byte { return data[:1] }, "2", io.ErrUnexpectedEOF},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := read(&targets.Faulty{Target: mem, Data: c.data})
			if got != c.want || !errors.Is(err, c.err) {
				t.Errorf("read %q, %v; want %q, %v", got, err, c.want, c.err)
			}
		})
	}
}

func TestCounter(t *testing.T) {
	counter := targets.NewCounter(targets.NewMem())
	if err := counter.Put(t.Context(), object("there", bytes.Repeat([]byte("x"), 1000))); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			for op, err := range everyOp(t.Context(), counter, make([]byte, 5)) {
				if err != nil {
					t.Errorf("%s: %v", op, err)
				}
			}
		})
	}
	wg.Wait()
	if err := counter.Put(t.Context(), object("BAD", []byte("not counted"))); err == nil {
		t.Error("Put of a bad name succeeded")
	}
	for _, c := range []struct {
		op           targets.Op
		calls, bytes int64
	}{
		{targets.OpPut, 12, 1000 + 10*5}, {targets.OpGet, 10, 10 * 1000}, {targets.OpStat, 10, 0}, {targets.OpList, 10, 0}, {targets.OpDelete, 10, 0},
	} {
		if calls, n := counter.Calls(c.op), counter.Bytes(c.op); calls != c.calls || n != c.bytes {
			t.Errorf("%v: %d calls and %d bytes, want %d and %d", c.op, calls, n, c.calls, c.bytes)
		}
	}
}
