// Package integration_test runs the built programs as processes against real
// MinIO servers. It judges them from outside: by exit codes and what they
// print, by rsync, by what another S3 client sees in the buckets, and by the
// bytes that proxies count.
package integration_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"embassy/embassy/format"
	"embassy/integration/kit"
	"embassy/integration/minio"
)

const (
	passphrase  = "correct horse battery staple"
	processTime = 5 * time.Minute // after which a process is taken to hang
	mib         = 1 << 20
	packMax     = 16 * mib // a full pack
)

// embassyProgram and rescueProgram are the built programs.
var embassyProgram, rescueProgram string

func TestMain(m *testing.M) { os.Exit(buildAndRun(m)) }

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "embassy-programs-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	build := exec.Command("go", "build", "-race=false", "-buildvcs=false", "-o", dir, "embassy/cmd/embassy", "embassy/cmd/embassy-rescue")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the programs: %v\n%s", err, out)
		return 1
	}
	embassyProgram, rescueProgram = filepath.Join(dir, "embassy"), filepath.Join(dir, "embassy-rescue")
	code := m.Run()
	if err := shared.life.end(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// dataset is a dataset of a configuration. Its priority is its place.
type dataset struct {
	name        string
	sources     []string
	compartment string // empty: official
	more        string // settings in YAML, such as "schedule: ..."; may be empty
}

// site is one machine of a nation, with the stores that it backs up to.
type site struct {
	t      testing.TB
	nation string
	dir    string         // configuration, state, kit, passphrase
	stores []*store       // best tier first
	commit int            // targets, and jurisdictions
	ranks  map[string]int // of compartments; those that are missing give none
	dedup  string         // of all compartments; empty: agent
	more   string         // further sections of the configuration; may be empty
}

var tiers = []string{"primary", "alternate", "contingency", "emergency"}

// newSite returns a machine that knows its stores and nothing else yet.
func newSite(t testing.TB, stores ...*store) *site {
	t.Helper()
	s := &site{t: t, nation: "ee", dir: t.TempDir(), stores: stores, commit: min(2, len(stores))}
	write(t, s.path("phrase"), []byte(passphrase+"\n"))
	return s
}

func (s *site) path(name string) string { return filepath.Join(s.dir, name) }

// configure writes the configuration.
func (s *site) configure(datasets ...dataset) {
	s.t.Helper()
	var text, pace strings.Builder
	fmt.Fprintf(&text, "nation: %s\nstate_dir: ./state\nkit: ./kit.txt\ntargets:\n", s.nation)
	for i, st := range s.stores {
		fmt.Fprintf(&text, "  - {name: %s, url: %q, jurisdiction: %s", st.name, st.url(), st.jurisdiction)
		for key, value := range map[string]string{"ca_file": st.server.CAFile, "credentials_file": st.credentials} {
			if value != "" {
				fmt.Fprintf(&text, ", %s: %q", key, value)
			}
		}
		if st.lock != "" {
			fmt.Fprintf(&text, ", lock: %s", st.lock)
		}
		fmt.Fprintf(&text, "}\n")
		fmt.Fprintf(&pace, "%s: [%s], ", tiers[i], st.name)
	}
	compartments := []string{"official"}
	for i := range datasets {
		d := &datasets[i]
		d.compartment = cmp.Or(d.compartment, compartments[0])
		if !slices.Contains(compartments, d.compartment) {
			compartments = append(compartments, d.compartment)
		}
	}
	text.WriteString("compartments:\n")
	for _, name := range compartments {
		fmt.Fprintf(&text, "  - name: %s\n    pace: {%s}\n    commit: {targets: %d, jurisdictions: %d}\n",
			name, strings.TrimSuffix(pace.String(), ", "), s.commit, s.commit)
		if rank, ok := s.ranks[name]; ok {
			fmt.Fprintf(&text, "    rank: %d\n", rank)
		}
		if s.dedup != "" {
			fmt.Fprintf(&text, "    dedup: %s\n", s.dedup)
		}
	}
	if len(datasets) > 0 {
		text.WriteString("datasets:\n")
	}
	for i, d := range datasets {
		sources, err := json.Marshal(d.sources)
		if err != nil {
			s.t.Fatal(err)
		}
		fmt.Fprintf(&text, "  - {name: %s, compartment: %s, priority: %d, sources: %s%s}\n", d.name, d.compartment, i+1, sources, also(d.more))
	}
	text.WriteString(s.more)
	write(s.t, s.path("embassy.yaml"), []byte(text.String()))
}

// also joins further settings to a mapping.
func also(settings string) string {
	if settings == "" {
		return ""
	}
	return ", " + settings
}

// found makes the nation: configuration, agent, charter, and root, whose kit
// opens at once.
func (s *site) found(datasets ...dataset) {
	s.t.Helper()
	s.configure(datasets...)
	s.cheapKit()
	s.exits(0, "init")
}

// cheapKit writes the kit that init goes on with. To open it costs nothing.
func (s *site) cheapKit() {
	s.t.Helper()
	var known []format.TargetHint
	for _, st := range s.stores {
		known = append(known, format.TargetHint{Name: st.name, URL: st.url(), Jurisdiction: st.jurisdiction})
	}
	cheapKit(s.t, s.path("kit.txt"), s.nation, known...)
}

func cheapKit(t testing.TB, path, nation string, known ...format.TargetHint) {
	t.Helper()
	root, err := kit.Write(path, nation, []byte(passphrase), known...)
	if err != nil {
		t.Fatal(err)
	}
	root.Wipe()
}

// result is a process that has ended.
type result struct {
	args           []string
	code           int // -1: killed
	stdout, stderr string
	took           time.Duration
}

// wants fails the test unless the process ended with the code.
func (r result) wants(t testing.TB, code int) result {
	t.Helper()
	if r.code != code {
		t.Fatalf("%q: exit code %d, want %d, after %v\nstdout:\n%s\nstderr:\n%s", r.args, r.code, code, r.took, r.stdout, r.stderr)
	}
	return r
}

// warns fails the test unless a run with --json warns of the target.
func (r result) warns(t testing.TB, target string) {
	t.Helper()
	r.says(t, fmt.Sprintf(`"event":"warning","target":%q`, target))
}

// says fails the test unless stderr holds every text.
func (r result) says(t testing.TB, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(r.stderr, text) {
			t.Errorf("%q: stderr does not say %q:\n%s", r.args, text, r.stderr)
		}
	}
}

// running is a process that may not have ended. Its methods are for one
// goroutine.
type running struct {
	t              testing.TB
	cmd            *exec.Cmd
	stdout, stderr said
	started        time.Time
	ended          chan struct{} // closed when the rest is final
	err            error
	took           time.Duration
}

// said is what a program has printed so far. Safe for concurrent use.
type said struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// launch starts a program in the site's folder. The passphrase reaches it
// through the environment.
func (s *site) launch(program string, args ...string) *running {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), processTime)
	p := &running{t: s.t, cmd: exec.CommandContext(ctx, program, args...), started: time.Now(), ended: make(chan struct{})}
	p.cmd.Dir = s.dir
	p.cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir, "TMPDIR=" + os.TempDir(), "NO_PROXY=*",
		"AWS_ACCESS_KEY_ID=" + s.stores[0].server.AccessKey, "AWS_SECRET_ACCESS_KEY=" + s.stores[0].server.SecretKey,
		"EMBASSY_PASSPHRASE_FILE=" + s.path("phrase"),
	}
	for _, st := range s.stores { // what config replicator asks for
		p.cmd.Env = append(p.cmd.Env, strings.ToUpper(st.name)+"_KEY="+st.server.AccessKey, strings.ToUpper(st.name)+"_SECRET="+st.server.SecretKey)
	}
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	if err := p.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() {
		defer cancel()
		p.err = p.cmd.Wait()
		p.took = time.Since(p.started)
		close(p.ended)
	}()
	s.t.Cleanup(func() {
		cancel()
		<-p.ended
	})
	return p
}

// result waits for the end.
func (p *running) result() result {
	p.t.Helper()
	<-p.ended
	var exit *exec.ExitError
	if p.err != nil && !errors.As(p.err, &exit) {
		p.t.Fatalf("%q: %v", p.cmd.Args, p.err)
	}
	return result{p.cmd.Args, p.cmd.ProcessState.ExitCode(), p.stdout.String(), p.stderr.String(), p.took}
}

// until returns when the condition holds, and fails the test if the process
// ends before.
func (p *running) until(condition func() bool) {
	p.t.Helper()
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	for !condition() {
		select {
		case <-p.ended:
			r := p.result()
			p.t.Fatalf("%q ended too early, with exit code %d:\n%s%s", r.args, r.code, r.stdout, r.stderr)
		case <-poll.C:
		}
	}
}

// kill ends the process as a power cut would.
func (p *running) kill() {
	p.t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		p.t.Fatalf("kill: %v", err)
	}
	if r := p.result(); r.code != -1 {
		p.t.Fatalf("%q ended before it could be killed, with exit code %d", r.args, r.code)
	}
}

// embassy runs the program to its end.
func (s *site) embassy(args ...string) result {
	s.t.Helper()
	return s.launch(embassyProgram, args...).result()
}

// exits is embassy, with the exit code that must come.
func (s *site) exits(code int, args ...string) result {
	s.t.Helper()
	return s.embassy(args...).wants(s.t, code)
}

// rescue runs embassy-rescue with the site's kit against the URLs alone.
func (s *site) rescue(code int, from []*store, args ...string) result {
	s.t.Helper()
	line := []string{"--kit", s.path("kit.txt"), "--passphrase-file", s.path("phrase")}
	for _, st := range from {
		line = append(line, "--from", st.url())
	}
	return s.launch(rescueProgram, append(line, args...)...).result().wants(s.t, code)
}

// backupReport is what backup --json prints of a dataset.
type backupReport struct {
	Dataset  string `json:"dataset"`
	Snapshot string `json:"snapshot"`
	New      uint64 `json:"files_new"`
	Changed  uint64 `json:"files_changed"`
	Same     uint64 `json:"files_unchanged"`
	Read     uint64 `json:"bytes_read"`
	Added    uint64 `json:"bytes_added"`
	Targets  []struct {
		Target string `json:"target"`
		Behind uint64 `json:"entries_behind"`
		Error  string `json:"error"`
	} `json:"targets"`
	Gaps []struct {
		Path   string `json:"path"`
		Reason string `json:"reason"`
	} `json:"gaps"`
	Exit int `json:"exit_code"`
}

// backup runs backup with the exit code that must come, and returns the
// reports of the datasets and how long it took.
func (s *site) backup(code int, datasets ...string) ([]backupReport, result) {
	s.t.Helper()
	r := s.exits(code, append([]string{"--json", "backup"}, datasets...)...)
	return parseBackup(s.t, r), r
}

func parseBackup(t testing.TB, r result) []backupReport {
	t.Helper()
	var doc struct {
		Datasets []backupReport `json:"datasets"`
	}
	if err := json.Unmarshal([]byte(r.stdout), &doc); err != nil {
		t.Fatalf("%q: %v\n%s", r.args, err, r.stdout)
	}
	return doc.Datasets
}

// behind returns the targets that a report does not count as complete.
func (b backupReport) behind() []string {
	var names []string
	for _, t := range b.Targets {
		if t.Behind > 0 || t.Error != "" {
			names = append(names, t.Target)
		}
	}
	return names
}

// snapshots returns the ids that snapshots --json lists, newest first.
func (s *site) snapshots() []string {
	s.t.Helper()
	r := s.exits(0, "--json", "snapshots")
	var doc struct {
		Snapshots []struct {
			ID string `json:"id"`
		} `json:"snapshots"`
	}
	if err := json.Unmarshal([]byte(r.stdout), &doc); err != nil {
		s.t.Fatalf("%v\n%s", err, r.stdout)
	}
	ids := []string{}
	for _, snapshot := range doc.Snapshots {
		ids = append(ids, snapshot.ID)
	}
	return ids
}

// restore restores everything into a new folder, and fails unless the exit
// code is 0 and rsync finds every source restored.
func (s *site) restore(datasets ...dataset) result {
	s.t.Helper()
	out := filepath.Join(s.t.TempDir(), "out")
	r := s.exits(0, "restore", "--all", "--to", out)
	compare(s.t, out, datasets...)
	return r
}

// compare fails the test unless rsync finds every source restored below out.
func compare(t testing.TB, out string, datasets ...dataset) {
	t.Helper()
	for _, d := range datasets {
		for _, source := range d.sources {
			if text := differences(t, source, filepath.Join(out, d.name, source)); text != "" {
				t.Errorf("%s is not restored as it was:\n%s", source, text)
			}
		}
	}
}

// differences is the judge: what rsync would have to change in got, without
// trusting size or time. It is empty when the trees are the same.
func differences(t testing.TB, want, got string) string {
	t.Helper()
	return rsyncFinds(t, want, got, "-aHn")
}

func rsyncFinds(t testing.TB, want, got string, flags ...string) string {
	t.Helper()
	rsync, err := exec.LookPath("rsync")
	if err != nil {
		missing(t, "rsync")
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(rsync, append(flags, "--modify-window=-1", "--checksum", "--delete", "--itemize-changes", want+"/", got+"/")...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil || stderr.Len() > 0 {
		t.Fatalf("%q: %v\n%s%s", cmd.Args, err, stdout.String(), stderr.String())
	}
	return stdout.String()
}

// missing ends a test that lacks a capability of the machine.
func missing(t testing.TB, tool string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf("no %s: run make tools", tool)
	}
	t.Skipf("no %s: run make tools", tool)
}

// write writes a file, and the folders to it.
func write(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, data, 0o600)); err != nil {
		t.Fatal(err)
	}
}

// noise returns n bytes that do not compress, the same for the same seed.
func noise(seed byte, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b) // never fails
	return b
}

// sent sums what clients have sent through the proxies of the stores.
func sent(stores []*store) int64 {
	var sum int64
	for _, st := range stores {
		sum += st.proxy.Sent()
	}
	return sum
}

// start starts servers, each with a bucket and a proxy in front of it.
func start(t testing.TB, n int) []*store {
	t.Helper()
	var stores []*store
	for i := range n {
		stores = append(stores, startOne(t, i))
	}
	return stores
}

// startOne starts the server of one place.
func startOne(t testing.TB, place int, opts ...minio.Option) *store {
	t.Helper()
	server := minio.Start(t, opts...)
	st := &store{t: t, name: places[place][0], jurisdiction: places[place][1], server: server, proxy: minio.Proxy(t, server.Endpoint)}
	return st.in("embassy")
}

// in returns the stores with other, new buckets on the same servers.
func in(stores []*store, bucket string) []*store {
	out := slices.Clone(stores)
	for i, st := range stores {
		out[i] = st.in(bucket)
	}
	return out
}
