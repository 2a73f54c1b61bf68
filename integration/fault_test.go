package integration_test

import (
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestTargetFaults inflicts what targets do, one fault after the other. Each
// time every exit code is honest, status names the lie, and in the end
// everything is restored from each target alone.
func TestTargetFaults(t *testing.T) {
	for name, inflict := range map[string]func(t *testing.T, n *troubled){
		"replicate is killed":     replicateIsKilled,
		"upload is torn":          uploadIsTorn,
		"bad copies":              badCopies,
		"stale listing":           staleListing,
		"storm of 503":            stormOf503,
		"no right to write":       noRightToWrite,
		"endless answers":         endlessAnswers,
		"says 200, keeps nothing": keepsNothing,
		"target is rolled back":   targetIsRolledBack,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inflict(t, newTroubled(t, borrow(t, 4)))
		})
	}
}

// troubled is a nation with three backups. The last of its four stores, far,
// has the first only, and is reachable.
type troubled struct {
	*site
	d     dataset
	near  []*store // that have everything
	far   *store
	added [3][]string // keys that each backup added
	past  [3]string   // copies of the source as each backup saw it
}

func newTroubled(t *testing.T, stores []*store) *troubled {
	src := filepath.Join(t.TempDir(), "src")
	n := &troubled{d: dataset{name: "data", sources: []string{src}}, near: stores[:3], far: stores[3]}
	n.site = newSite(t, stores...)
	n.found(n.d)
	for i := range n.added {
		before := n.near[0].list()
		n.backUp(t, i, 0)
		for key := range n.near[0].list() {
			if _, ok := before[key]; !ok {
				n.added[i] = append(n.added[i], key)
			}
		}
		n.past[i] = filepath.Join(t.TempDir(), "past")
		copyTree(t, src, n.past[i])
		n.far.proxy.Cut()
	}
	n.far.proxy.Heal()
	return n
}

// backUp makes the source another one, and backs it up. The run succeeds; code
// is 5 when it also has to tell of a target that lies.
func (n *troubled) backUp(t testing.TB, i, code int) {
	t.Helper()
	write(t, filepath.Join(n.d.sources[0], fmt.Sprint(i)), noise(byte(i), mib-64<<10))
	write(t, filepath.Join(n.d.sources[0], "changing"), noise(byte(100+i), 10_000))
	n.backup(code)
}

// one returns the only object of a kind that a backup added.
func (n *troubled) one(backup int, kind string) string {
	n.t.Helper()
	keys := slices.DeleteFunc(slices.Clone(n.added[backup]), func(key string) bool { return !strings.Contains(key, "/"+kind+"/") })
	if len(keys) != 1 {
		n.t.Fatalf("backup %d added of kind %s: %q", backup, kind, keys)
	}
	return keys[0]
}

// whole fails the test unless all stores hold the same, every one alone gives
// everything back, and status has nothing to tell.
func (n *troubled) whole(t *testing.T) {
	t.Helper()
	sameStores(t, n.stores)
	n.fromEachAlone(n.stores, n.d)
	if s := n.status(0, "--live"); len(s.Faults) > 0 || len(s.lag()) > 0 {
		t.Errorf("status in the end: %+v", s)
	}
}

// named fails the test unless status ends with 5 and tells of a target exactly
// these kinds of faults.
func (n *troubled) named(t *testing.T, st *store, kinds ...string) {
	t.Helper()
	if got := n.status(5).kinds(st.name); !slices.Equal(got, kinds) {
		t.Errorf("status tells of %s: %q, want %q", st.name, got, kinds)
	}
}

// replicateIsKilled kills a replicator on its way, again and again. At no time
// does the target show a snapshot that it cannot give.
func replicateIsKilled(t *testing.T, n *troubled) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	machine := n.replicator(true)
	for range 4 {
		n.far.proxy.Link(2_000_000, 0)
		start, after := n.far.proxy.Sent(), rng.Int64N(mib)
		p := machine.launch(embassyProgram, "replicate")
		p.until(func() bool { return n.far.proxy.Sent()-start >= after })
		p.kill()
		n.far.proxy.Link(0, 0)
		out := filepath.Join(t.TempDir(), "out")
		n.rescue(0, []*store{n.far}, "--to", out)
		got := filepath.Join(out, n.d.name, n.d.sources[0])
		if !slices.ContainsFunc(n.past[:], func(past string) bool { return differences(t, past, got) == "" }) {
			t.Errorf("killed after %d bytes, the target gives a state that never was", after)
		}
	}
	machine.replicate(0)
	n.whole(t)
}

// uploadIsTorn cuts the connections in the middle of an upload. The same run
// goes on when the link is back.
func uploadIsTorn(t *testing.T, n *troubled) {
	n.far.proxy.Link(2_000_000, 0)
	start := n.far.proxy.Sent()
	p := n.launch(embassyProgram, "replicate")
	p.until(func() bool { return n.far.proxy.Sent()-start >= mib/2 })
	n.far.proxy.Cut()
	n.far.proxy.Heal()
	t.Logf("done in %v", p.result().wants(t, 0).took)
	n.whole(t)
}

// badCopies spoils objects of every kind on the best tier, which a replicator
// reads first.
func badCopies(t *testing.T, n *troubled) {
	best := n.near[0]
	flip := func(key string) {
		data, _ := best.get(key)
		data[len(data)/2] ^= 1
		best.put(key, data)
	}
	spoiled := []string{n.one(1, "pack"), n.one(1, "index"), n.one(1, "snapshot"), n.one(2, "ledger")}
	for _, key := range spoiled {
		flip(key)
	}
	charter := best.keys("charter")[0]
	flip(charter)
	cut, swapped, gone := n.one(2, "index"), n.one(2, "pack"), n.one(2, "snapshot")
	data, _ := best.get(cut)
	best.put(cut, data[:len(data)/2])
	other, _ := best.get(n.one(0, "pack"))
	best.put(swapped, other)
	best.remove(gone)
	spoiled = append(spoiled, cut, swapped, gone)

	machine := n.replicator(true)
	machine.replicate(5)
	told := machine.status(5)
	for _, key := range spoiled {
		i := slices.IndexFunc(told.Faults, func(f fault) bool { return f.Target == best.name && f.Object == key })
		if i < 0 {
			t.Errorf("status does not tell of %s", key)
		}
	}
	sameStores(t, n.stores[1:])
	n.fromEachAlone(n.stores[1:], n.d)
	n.exits(0, "verify", "--level", "full", "--repair")
	n.replicate(0) // the record of the repair goes everywhere
	n.whole(t)
}

// staleListing shows an old listing of a ledger on a target.
func staleListing(t *testing.T, n *troubled) {
	stale := n.near[1]
	front := stale.inFront()
	n.configure(n.d)
	n.replicate(0)
	entry := n.one(2, "ledger")
	front.hide(func(key string) bool { return key == entry })
	n.replicate(5)
	n.named(t, stale, "rollback")
	n.backUp(t, 3, 5)
	if got := n.status(5).Datasets[0].Copies; got != 3 {
		t.Errorf("%d copies are counted, with one target of four that shows an old state", got)
	}
	front.hide(nil)
	n.exits(0, "target", "trust", "--reason", "its listing was stale", stale.name)
	n.replicate(0)
	n.whole(t)
}

// stormOf503 makes two targets refuse a share of all requests: one that is
// copied from, and one that is copied to.
func stormOf503(t *testing.T, n *troubled) {
	var mu sync.Mutex
	rng := rand.New(rand.NewPCG(1, 2))
	var refused atomic.Int64
	for _, st := range []*store{n.near[0], n.far} {
		st.inFront().lies(func(w http.ResponseWriter, r request) bool {
			mu.Lock()
			defer mu.Unlock()
			if rng.IntN(100) >= 15 {
				return false
			}
			refused.Add(1)
			w.Header().Set("Content-Type", "application/xml")
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprint(w, `<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>`)
			return true
		})
	}
	n.configure(n.d)
	for run := 1; ; run++ {
		r := n.embassy("replicate")
		t.Logf("run %d: exit code %d in %v, %d requests refused so far", run, r.code, r.took, refused.Load())
		if r.code == 0 {
			break
		}
		if r.code != 4 || run == 3 {
			t.Fatalf("run %d: exit code %d\n%s%s", run, r.code, r.stdout, r.stderr)
		}
	}
	if refused.Load() == 0 {
		t.Error("there was no storm")
	}
	for _, st := range []*store{n.near[0], n.far} {
		st.front.lies(nil)
	}
	n.whole(t)
}

// noRightToWrite takes rights from the credentials of a target: first that to
// write, then all.
func noRightToWrite(t *testing.T, n *troubled) {
	const readOnly = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:GetObject","s3:ListBucket","s3:GetBucketLocation"],"Resource":["arn:aws:s3:::*"]}]}`
	access, secret, token := n.far.server.Restricted(t, readOnly)
	n.far.credentials = n.path("credentials")
	write(t, n.far.credentials, fmt.Appendf(nil, "[default]\naws_access_key_id = %s\naws_secret_access_key = %s\naws_session_token = %s\n", access, secret, token))
	n.configure(n.d)
	before := n.far.contents()
	report, _ := n.replicate(4)
	if at := report.Targets[3]; at.Target != n.far.name || at.Behind != 2 || !strings.Contains(at.Error, "access denied") {
		t.Errorf("%+v", at)
	}
	write(t, n.far.credentials, []byte("[default]\naws_access_key_id = revoked\naws_secret_access_key = revokedrevoked\n"))
	report, _ = n.replicate(4)
	if at := report.Targets[3]; at.Behind != 2 || at.Error == "" {
		t.Errorf("%+v", at)
	}
	if now := n.far.contents(); !maps.Equal(now, before) {
		t.Errorf("the target was changed:\n%v\n%v", before, now)
	}
	if lag := n.status(0).lag(); lag[n.far.name] != 2 {
		t.Errorf("the lag is %v", lag)
	}
	n.far.credentials = ""
	n.configure(n.d)
	n.replicate(0)
	n.whole(t)
}

// endlessAnswers makes the best tier answer without end: when it is asked for
// a pack, and then when it is asked what it has.
func endlessAnswers(t *testing.T, n *troubled) {
	best := n.near[0]
	front := best.inFront()
	n.configure(n.d)
	pack := n.one(1, "pack")
	pour := func(w io.Writer, text string) {
		for line := []byte(strings.Repeat(text, 100)); ; {
			if _, err := w.Write(line); err != nil {
				return
			}
		}
	}
	front.lies(func(w http.ResponseWriter, r request) bool {
		if r.key != pack || r.Method != http.MethodGet {
			return false
		}
		w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
		w.Header().Set("ETag", `"00000000000000000000000000000000"`)
		pour(w, "no end ")
		return true
	})
	_, r := n.replicate(5)
	t.Logf("a pack without end: %v", r.took)
	sameStores(t, n.stores)
	if told := n.status(5); !slices.ContainsFunc(told.Faults, func(f fault) bool { return f.Target == best.name && f.Object == pack }) {
		t.Errorf("status does not name %s: %+v", pack, told.Faults)
	}

	front.lies(func(w http.ResponseWriter, r request) bool {
		if !r.list || r.Method != http.MethodGet {
			return false
		}
		w.Header().Set("Content-Type", "application/xml")
		fmt.Fprint(w, `<?xml version="1.0" encoding="UTF-8"?><ListBucketResult><IsTruncated>false</IsTruncated>`)
		pour(w, `<Contents><Key>x</Key><Size>1</Size><LastModified>2026-01-02T03:04:05.000Z</LastModified></Contents>`)
		return true
	})
	write(t, filepath.Join(n.d.sources[0], "changing"), []byte("once more"))
	reports, r := n.backup(0)
	t.Logf("a listing without end: backup in %v", r.took)
	if behind := reports[0].behind(); !slices.Equal(behind, []string{best.name}) {
		t.Errorf("behind are %q", behind)
	}
	r = n.embassy("replicate")
	t.Logf("a listing without end: replicate in %v", r.took)
	if r.code != 4 && r.code != 5 {
		t.Errorf("exit code %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	n.fromEachAlone(n.stores[1:], n.d)
	front.lies(nil)
	n.replicate(0)
	n.exits(0, "verify", "--level", "full", "--repair")
	n.whole(t)
}

// keepsNothing makes a target say that it stored what it threw away.
func keepsNothing(t *testing.T, n *troubled) {
	front := n.far.inFront()
	n.configure(n.d)
	before := n.far.contents()
	front.lies(func(w http.ResponseWriter, r request) bool {
		if r.Method != http.MethodPut {
			return false
		}
		if _, err := io.Copy(io.Discard, r.Body); err == nil {
			w.Header().Set("ETag", `"00000000000000000000000000000000"`)
		}
		return true
	})
	n.replicate(5)
	n.named(t, n.far, "discards")
	if now := n.far.contents(); !maps.Equal(now, before) {
		t.Errorf("the front let something through:\n%v\n%v", before, now)
	}
	reports, _ := n.backup(5)
	if behind := reports[0].behind(); !slices.Equal(behind, []string{n.far.name}) {
		t.Errorf("behind are %q", behind)
	}
	n.fromEachAlone(n.near, n.d)
	front.lies(nil)
	n.named(t, n.far, "discards")
	n.exits(0, "target", "trust", "--reason", "the host was mended", n.far.name)
	n.replicate(0)
	n.whole(t)
}

// targetIsRolledBack puts an old copy of its disk under a server.
func targetIsRolledBack(t *testing.T, n *troubled) {
	own := startOne(t, 3)
	own.name, own.jurisdiction = n.far.name, n.far.jurisdiction
	n.stores[3], n.far = own, own
	n.configure(n.d)
	n.exits(0, "target", "trust", "--reason", "it moved to another server", own.name)
	n.replicate(0)
	own.server.Stop()
	old := filepath.Join(t.TempDir(), "old")
	copyTree(t, own.server.DataDir, old)
	own.server.Restart()
	n.backUp(t, 3, 0)
	n.backUp(t, 4, 0)
	sameStores(t, n.stores)
	own.server.Stop()
	if err := os.RemoveAll(own.server.DataDir); err != nil {
		t.Fatal(err)
	}
	copyTree(t, old, own.server.DataDir)
	own.server.Restart()
	before := own.contents()
	n.replicate(5)
	n.named(t, own, "rollback")
	if now := own.contents(); !maps.Equal(now, before) {
		t.Errorf("the evidence was changed:\n%v\n%v", before, now)
	}
	n.backUp(t, 5, 5)
	if got := n.status(5).Datasets[0].Copies; got != 3 {
		t.Errorf("%d copies are counted, with one target of four rolled back", got)
	}
	n.fromEachAlone(n.near, n.d)
	out := filepath.Join(t.TempDir(), "out")
	n.rescue(0, []*store{own}, "--to", out) // in need it gives what it has
	if text := differences(t, n.past[2], filepath.Join(out, n.d.name, n.d.sources[0])); text != "" {
		t.Errorf("the target that was rolled back does not give its state:\n%s", text)
	}
	n.exits(0, "target", "trust", "--reason", "a disk was restored from an old copy", own.name)
	n.replicate(0)
	n.whole(t)
}
