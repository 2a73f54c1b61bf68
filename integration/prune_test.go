package integration_test

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	miniogo "github.com/minio/minio-go/v7"

	"embassy/integration/minio"
)

var (
	pruneRounds = flag.Int("prune.rounds", 8, "how many rounds TestPruneKilled runs")
	pruneSeed   = flag.Uint64("prune.seed", 0, "what TestPruneKilled does; 0: something new")
)

// pruneReport is what prune --json prints.
type pruneReport struct {
	Compartments []struct {
		Marked    int      `json:"marked"`
		Waiting   int      `json:"waiting"`
		Deletable int      `json:"deletable"`
		Joined    int      `json:"joined"`
		Repacked  int      `json:"repacked"`
		Waits     []string `json:"waits_for"`
		Error     string   `json:"error"`
	} `json:"compartments"`
	Targets []prunedTarget `json:"targets"`
}

type prunedTarget struct {
	Target  string    `json:"target"`
	Deleted int       `json:"deleted"`
	Locked  int       `json:"locked"`
	Until   time.Time `json:"locked_until"`
	Error   string    `json:"error"`
}

// prune runs prune without a grace period.
func (s *site) prune() (pruneReport, result) {
	s.t.Helper()
	return s.pruneAtMost("100%")
}

func (s *site) pruneAtMost(share string) (pruneReport, result) {
	s.t.Helper()
	r := s.exits(0, "--json", "prune", "--grace", "0", "--max-remove", share)
	var rep pruneReport
	if err := json.Unmarshal([]byte(r.stdout), &rep); err != nil {
		s.t.Fatalf("%q: %v\n%s", r.args, err, r.stdout)
	}
	return rep, r
}

// on returns what was done on a store.
func (r pruneReport) on(st *store) prunedTarget {
	i := slices.IndexFunc(r.Targets, func(t prunedTarget) bool { return t.Target == st.name })
	if i < 0 {
		st.t.Fatalf("%s is not in the report: %+v", st.name, r)
	}
	return r.Targets[i]
}

// at returns a new bucket on the same server, as the store of another place.
func (st *store) at(place int, o minio.BucketOptions) *store {
	st.t.Helper()
	c := *st
	c.name, c.jurisdiction = places[place][0], places[place][1]
	c.bucket, c.client = st.server.BucketWith(st.t, st.bucket+"-"+c.name, o), st.connect()
	return &c
}

// versions returns the ids of all versions, by object; of a deletion marker,
// with a sign.
func (st *store) versions() map[string][]string {
	st.t.Helper()
	all := map[string][]string{}
	for o := range st.client.ListObjects(st.t.Context(), st.bucket, miniogo.ListObjectsOptions{Recursive: true, WithVersions: true}) {
		if o.Err != nil {
			st.t.Fatalf("list %s: %v", st.name, o.Err)
		}
		id := o.VersionID
		if o.IsDeleteMarker {
			id = "deleted: " + id
		}
		all[o.Key] = append(all[o.Key], id)
	}
	return all
}

// overwrite puts every object a second time.
func (st *store) overwrite() {
	st.t.Helper()
	for key := range st.list() {
		data, _ := st.get(key)
		st.put(key, data)
	}
}

// lockAll locks all versions, so that nobody can unlock them.
func (st *store) lockAll(until time.Time) {
	st.t.Helper()
	mode := miniogo.Compliance
	for key, ids := range st.versions() {
		for _, id := range ids {
			o := miniogo.PutObjectRetentionOptions{Mode: &mode, RetainUntilDate: &until, VersionID: id}
			if err := st.client.PutObjectRetention(st.t.Context(), st.bucket, key, o); err != nil {
				st.t.Fatalf("lock %s on %s: %v", key, st.name, err)
			}
		}
	}
}

// lockedUntil is when the last lock of the newest versions of objects ends.
func (st *store) lockedUntil(keys []string) time.Time {
	st.t.Helper()
	var last time.Time
	for _, key := range keys {
		mode, until, err := st.client.GetObjectRetention(st.t.Context(), st.bucket, key, "")
		if err != nil || *mode != miniogo.Compliance {
			st.t.Fatalf("the lock of %s on %s: %v, %v", key, st.name, mode, err)
		}
		if until.After(last) {
			last = *until
		}
	}
	return last
}

// clock is the time of the server, to the second.
func (st *store) clock() time.Time {
	st.t.Helper()
	resp, err := http.Get("http://" + st.server.Endpoint + "/minio/health/live")
	if err != nil {
		st.t.Fatal(err)
	}
	defer resp.Body.Close()
	now, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		st.t.Fatal(err)
	}
	return now
}

// passes returns when the clock of the server is past a time.
func (st *store) passes(until time.Time) {
	st.t.Helper()
	poll := time.NewTicker(100 * time.Millisecond)
	defer poll.Stop()
	for end := time.Now().Add(processTime); !st.clock().After(until); <-poll.C {
		if time.Now().After(end) {
			st.t.Fatalf("the clock of %s stands at %v", st.name, st.clock())
		}
	}
}

// lost returns the objects that were there before and have no version now. It
// fails the test when one lost some versions only, or was hidden.
func (st *store) lost(before map[string][]string) []string {
	st.t.Helper()
	now := st.versions()
	var gone []string
	for key, ids := range before {
		switch {
		case now[key] == nil:
			gone = append(gone, key)
		case !slices.Equal(now[key], ids):
			st.t.Errorf("%s on %s has the versions %q, and had %q", key, st.name, now[key], ids)
		}
	}
	slices.Sort(gone)
	return gone
}

// TestPruneLocked prunes what lies on a plain bucket, on one that keeps versions,
// on one that locks every object for a day, and on one where locks end soon.
// Every object has two versions where there are any.
func TestPruneLocked(t *testing.T) {
	t.Parallel()
	src := t.TempDir()
	d := dataset{name: "data", sources: []string{src}}
	plain := borrow(t, 1)[0]
	locked := plain.at(1, minio.BucketOptions{DefaultMode: "compliance", DefaultDays: 1})
	locked.lock = "{mode: compliance, days: 1}"
	versions := plain.at(2, minio.BucketOptions{Versioning: true})
	soon := plain.at(3, minio.BucketOptions{Lock: true})
	stores := []*store{plain, locked, versions, soon}
	s := newSite(t, stores...)
	write(t, filepath.Join(src, "stays"), noise(1, mib))
	for i := range 3 {
		write(t, filepath.Join(src, "changes"), noise(byte(10+i), mib))
		if i == 0 {
			s.found(d)
		}
		s.backup(0)
	}
	sameStores(t, stores)
	for _, st := range stores[1:] {
		st.overwrite()
	}
	s.exits(0, "forget", "--last", "1", "--min-age", "0")
	marking, r := s.prune()
	if c := marking.Compartments[0]; c.Marked == 0 || c.Deletable > 0 {
		t.Fatalf("the first run: %+v", c)
	}
	until := soon.clock().Add(5*time.Second + 10*r.took.Round(time.Second)) // the next run ends long before
	soon.lockAll(until)
	before := map[*store]map[string][]string{}
	for _, st := range stores {
		before[st] = st.versions()
	}

	deleting, _ := s.prune()
	if now := soon.clock(); !now.Before(until) {
		t.Fatalf("it is %v already, and the locks ended at %v", now, until)
	}
	gone := plain.lost(before[plain])
	if c := deleting.Compartments[0]; c.Deletable != len(gone) || c.Deletable != marking.Compartments[0].Marked {
		t.Errorf("marked was %+v, ordered to go %+v, and gone are %q", marking, c, gone)
	}
	for _, kind := range []string{"pack", "index", "snapshot"} {
		if !slices.ContainsFunc(gone, func(key string) bool { return strings.Contains(key, "/"+kind+"/") }) {
			t.Errorf("no %s is gone: %q", kind, gone)
		}
	}
	if also := versions.lost(before[versions]); !slices.Equal(also, gone) {
		t.Errorf("gone from %s are %q, and from %s %q", plain.name, gone, versions.name, also)
	}
	for _, st := range []*store{plain, versions} {
		if on := deleting.on(st); on.Deleted != len(gone) || on.Locked != 0 || on.Error != "" {
			t.Errorf("%+v, and %d are gone", on, len(gone))
		}
	}
	holds := func(r pruneReport, st *store) {
		t.Helper()
		if lost := st.lost(before[st]); len(lost) > 0 {
			t.Errorf("%q were locked on %s, and are gone", lost, st.name)
		}
		if on := r.on(st); on.Deleted != 0 || on.Locked != len(gone) || !on.Until.Equal(st.lockedUntil(gone)) || on.Error != "" {
			t.Errorf("%+v, and %d are locked until %v", on, len(gone), st.lockedUntil(gone))
		}
	}
	holds(deleting, locked)
	holds(deleting, soon)

	soon.passes(until)
	late, _ := s.pruneAtMost("1%") // what was once not too much is not weighed again
	holds(late, locked)
	if also := soon.lost(before[soon]); !slices.Equal(also, gone) || late.on(soon).Deleted != len(gone) || late.on(soon).Locked != 0 {
		t.Errorf("gone from %s are %q, and from %s, when no lock was left, %q: %+v", plain.name, gone, soon.name, also, late.on(soon))
	}
	s.restore(d)
	s.fromEachAlone(stores, d)
}

// pruning is two machines of which one prunes, and what their snapshots must
// hold.
type pruning struct {
	t        *testing.T
	rng      *rand.Rand
	a, b     *site // a is the steward
	datasets map[*site]dataset
	tries    map[string][]attempt // to back up, by dataset
	took     map[string]time.Duration
	contents [][]byte
	moved    struct{ joined, repacked int } // packs, as the prunes say that were not killed
}

// attempt is one run of backup, that may have been killed.
type attempt struct {
	began time.Time
	copy  string // of the source as it was
}

// change makes another source of contents, of which many were there before, and
// keeps a copy of it. What small wrote stays.
func (p *pruning) change(s *site) {
	p.t.Helper()
	source := p.datasets[s].sources[0]
	old, err := os.ReadDir(source)
	for _, e := range old {
		if err == nil && e.Name() != "small" {
			err = os.RemoveAll(filepath.Join(source, e.Name()))
		}
	}
	if err != nil {
		p.t.Fatal(err)
	}
	for i := range 5 {
		write(p.t, filepath.Join(source, fmt.Sprintf("%d", i%3), fmt.Sprintf("file-%d", i)), p.contents[p.rng.IntN(len(p.contents))])
	}
	write(p.t, filepath.Join(source, "new"), noise(byte(p.rng.Uint32()), 100_000+p.rng.IntN(mib)))
	p.keep(s)
}

// small backs up one more small file so many times: short packs, to be joined.
func (p *pruning) small(s *site, times int) {
	p.t.Helper()
	for range times {
		name := fmt.Sprintf("%016x", p.rng.Uint64())
		write(p.t, filepath.Join(p.datasets[s].sources[0], "small", name), []byte(name))
		p.keep(s)
		s.backup(0)
	}
}

// keep copies a source as it is before an attempt.
func (p *pruning) keep(s *site) {
	p.t.Helper()
	source, name := p.datasets[s].sources[0], p.datasets[s].name
	keep := filepath.Join(p.t.TempDir(), "copy")
	copyTree(p.t, source, keep)
	p.tries[name] = append(p.tries[name], attempt{time.Now(), keep})
}

// ends checks how a process ended that may have been killed.
func (p *pruning) ends(run *running, killed bool, codes ...int) result {
	p.t.Helper()
	r := run.result()
	if !(killed && r.code == -1) && !slices.Contains(codes, r.code) {
		p.t.Fatalf("%q: exit code %d after %v\nstdout:\n%s\nstderr:\n%s", r.args, r.code, r.took, r.stdout, r.stderr)
	}
	return r
}

// startPrune begins a prune; half of those that may repack do.
func (p *pruning) startPrune(may bool) *running {
	line := []string{"--json", "prune", "--grace", "0", "--join-after", "0", "--max-remove", "100%"}
	if may && p.rng.IntN(2) == 0 {
		line = append(line, "--repack", "--reader-key", "desk.key")
	}
	return p.a.launch(embassyProgram, line...)
}

// count adds what a prune that was not killed says that it moved.
func (p *pruning) count(r result) {
	p.t.Helper()
	var rep pruneReport
	if err := json.Unmarshal([]byte(r.stdout), &rep); err != nil {
		p.t.Fatalf("%q: %v\n%s", r.args, err, r.stdout)
	}
	for _, c := range rep.Compartments {
		p.moved.joined, p.moved.repacked = p.moved.joined+c.Joined, p.moved.repacked+c.Repacked
	}
}

// round changes both sources, backs one up, and then the other beside some prunes.
// The last of them, or the backup, dies.
func (p *pruning) round(n int) {
	p.t.Helper()
	tidy := func() { p.count(p.ends(p.startPrune(false), false, 0, 4)) } // 4: a slow target lacks the last entry of the backup
	for _, quiet := range []func(){func() { p.b.backup(0) }, tidy} {     // so that there is more to delete
		if p.rng.IntN(2) == 0 {
			quiet()
		}
	}
	join := n%4 == 1
	if join {
		p.small(p.b, 17) // as many as are joined, and the first, which may carry what a prune marked
	}
	p.change(p.a)
	p.change(p.b)
	finished := map[string]string{} // snapshots
	if p.rng.IntN(4) > 0 {
		reports, _ := p.a.backup(0)
		finished[reports[0].Dataset] = reports[0].Snapshot
	}
	p.a.exits(0, "forget", "--last", "2", "--min-age", "0")

	// Slow enough for a mark and the deletion, or not.
	backup := p.b.launch(embassyProgram, "--json", "backup", "--limit-upload", []string{"none", "2MB"}[p.rng.IntN(2)])
	prune, more := p.startPrune(!join), p.rng.IntN(4)
	if n == 1 {
		more = max(1, more) // at least one tells what it joined
	}
	for range more {
		p.count(p.ends(prune, false, 0, 4))
		prune = p.startPrune(!join)
	}
	victim, name := prune, "prune"
	if p.rng.IntN(2) == 0 {
		victim, name = backup, "backup"
	}
	after := time.Duration(p.rng.Int64N(int64(p.took[name])))
	select {
	case <-time.After(after):
		if err := victim.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			p.t.Fatal(err)
		}
	case <-victim.ended:
	}
	pruned := p.ends(prune, victim == prune, 0, 4)
	backedUp := p.ends(backup, victim == backup, 0)
	p.t.Logf("round %d: %s killed after %v: prune %d after %v, backup %d after %v", n, name, after, pruned.code, pruned.took, backedUp.code, backedUp.took)
	if pruned.code >= 0 {
		p.count(pruned)
		p.took["prune"] = pruned.took
	}
	if backedUp.code == 0 {
		p.took["backup"] = backedUp.took
		r := parseBackup(p.t, backedUp)[0]
		finished[r.Dataset] = r.Snapshot
	}
	p.restore(finished)
}

// live is a snapshot that is listed.
type live struct {
	ID      string    `json:"id"`
	Time    time.Time `json:"time"`
	Dataset string    `json:"dataset"`
}

// listed parses a list of snapshots.
func (p *pruning) listed(r result) []live {
	p.t.Helper()
	var doc struct{ Snapshots []live }
	if err := json.Unmarshal([]byte(r.stdout), &doc); err != nil {
		p.t.Fatalf("%q: %v\n%s", r.args, err, r.stdout)
	}
	return doc.Snapshots
}

// restore restores every snapshot that is listed, and every one that some store
// by itself shows, and compares it with the source as it was then. Those that
// were finished must be listed.
func (p *pruning) restore(finished map[string]string) {
	p.t.Helper()
	all := p.listed(p.a.exits(0, "--json", "snapshots"))
	for name, id := range finished {
		if !slices.ContainsFunc(all, func(l live) bool { return l.ID == id }) {
			p.t.Errorf("snapshot %s of %s is not listed: %v", id, name, all)
		}
	}
	for _, l := range all {
		p.same(l, embassyProgram, "restore", "--reader-key", "desk.key", "--snapshot", l.ID)
	}
	one := p.a.stores[p.rng.IntN(len(p.a.stores))]
	alone := []string{"--reader-key", "desk.key", "--from", one.url()}
	for _, l := range p.listed(p.a.launch(rescueProgram, append(alone, "--list", "--json")...).result().wants(p.t, 0)) {
		p.same(l, rescueProgram, append(alone, "--at", l.Time.Format(time.RFC3339Nano))...)
	}
}

// same restores a snapshot and compares it.
func (p *pruning) same(l live, program string, args ...string) {
	p.t.Helper()
	tries := p.tries[l.Dataset]
	i := slices.IndexFunc(tries, func(a attempt) bool { return a.began.After(l.Time) })
	if i < 0 {
		i = len(tries)
	}
	if i == 0 {
		p.t.Fatalf("snapshot %s of %s, of %v, is older than its source", l.ID, l.Dataset, l.Time)
	}
	out, err := os.MkdirTemp("", "embassy-restored-")
	if err != nil {
		p.t.Fatal(err)
	}
	defer os.RemoveAll(out)
	r := p.a.launch(program, append(args, "--to", filepath.Join(out, "all"), l.Dataset)...).result().wants(p.t, 0)
	for _, d := range p.datasets {
		if d.name != l.Dataset {
			continue
		}
		if text := differences(p.t, tries[i-1].copy, filepath.Join(out, "all", d.name, d.sources[0])); text != "" {
			p.t.Errorf("%q: snapshot %s of %s, of %v, is not as the source was:\n%s", r.args, l.ID, l.Dataset, l.Time, text)
		}
	}
}

// TestPruneKilled lets one machine back up while another, the steward, prunes,
// joins and repacks, and kills one of the two at any moment. What is listed restores.
func TestPruneKilled(t *testing.T) {
	t.Parallel()
	for _, dedup := range []string{"agent", "compartment"} {
		t.Run(dedup, func(t *testing.T) {
			t.Parallel()
			seed := *pruneSeed
			if seed == 0 {
				seed = rand.Uint64()
			}
			defer func() {
				if t.Failed() {
					t.Logf("again: -run '%s' -prune.seed %d -prune.rounds %d", t.Name(), seed, *pruneRounds)
				}
			}()
			dir := t.TempDir()
			data := dataset{name: "data", sources: []string{filepath.Join(dir, "data")}}
			archive := dataset{name: "archive", sources: []string{filepath.Join(dir, "archive")}}
			p := &pruning{t: t, rng: rand.New(rand.NewPCG(seed, 0)), tries: map[string][]attempt{}}
			for i := range 20 {
				p.contents = append(p.contents, noise(byte(i), 20_000+p.rng.IntN(300_000)))
			}
			stores := borrow(t, 3)
			p.a = newSite(t, stores...)
			p.a.dedup = dedup
			for _, d := range []dataset{data, archive} {
				write(t, filepath.Join(d.sources[0], "first"), p.contents[0])
			}
			p.a.found(data)
			p.b = p.a.join("beta", archive)
			p.b.dedup = dedup
			p.b.configure(archive)
			p.datasets = map[*site]dataset{p.a: data, p.b: archive}
			p.a.exits(0, "keys", "export-reader", "--out", "desk.key", "official")
			p.change(p.a)
			p.change(p.b)
			p.a.backup(0)
			_, backup := p.b.backup(0)
			_, prune := p.a.prune()
			p.took = map[string]time.Duration{"backup": backup.took, "prune": prune.took}
			before := map[string]bool{}
			unseen := func() bool { return p.moved.joined == 0 || p.moved.repacked == 0 }
			for n := 0; n < *pruneRounds || unseen() && n < 4**pruneRounds; n++ { // chance may kill all that repack
				for _, key := range stores[0].keys("pack") {
					before[key] = true
				}
				if p.round(n); t.Failed() {
					return
				}
			}

			// What nobody kills ends well, and the targets are alike again.
			finished := map[string]string{}
			for range 2 {
				for _, s := range []*site{p.a, p.b} {
					p.change(s)
					reports, _ := s.backup(0)
					finished[reports[0].Dataset] = reports[0].Snapshot
				}
				p.a.exits(0, "forget", "--last", "1", "--min-age", "0")
				p.a.prune()
			}
			p.restore(finished)
			p.a.fromEachAlone(stores, data, archive)
			left := stores[0].keys("pack")
			gone := slices.DeleteFunc(slices.Collect(maps.Keys(before)), func(key string) bool { return slices.Contains(left, key) })
			t.Logf("%d packs are gone, %d are left; %+v", len(gone), len(left), p.moved)
			if len(gone) == 0 || unseen() {
				t.Error("no prune deleted a pack, or none joined or repacked some")
			}
		})
	}
}
