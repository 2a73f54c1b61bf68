package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"embassy/catalog"
	"embassy/embassy"
	"embassy/embassy/schedule"
	"embassy/targets"
)

// post is a machine with two directory targets and one dataset, docs.
type post struct {
	t      *testing.T
	dir    string
	config string
	gate   *gate
}

// newPost sets the machine up; extra is more of its configuration.
func newPost(t *testing.T, when, extra string) *post {
	t.Helper()
	p := &post{t: t, dir: t.TempDir(), gate: &gate{}}
	p.config = filepath.Join(p.dir, "embassy.yaml")
	p.write("phrase", "correct horse battery staple\n", 0o600)
	p.write("docs/file", "content", 0o600)
	t.Setenv("EMBASSY_PASSPHRASE_FILE", filepath.Join(p.dir, "phrase"))
	// The path of the socket is longer than the system takes.
	p.write("embassy.yaml", fmt.Sprintf(`
nation: ee
state_dir: ./%s
kit: ./kit.txt
targets:
  - {name: tallinn, url: "dir:tallinn", jurisdiction: EE}
  - {name: helsinki, url: "dir:helsinki", jurisdiction: FI}
datasets:
  - {name: docs, sources: [%s/docs], schedule: %q, rpo: 6h}
serve: {listen: "127.0.0.1:0", replicate: never, verify: never, locks: never, check: never}
%s`, strings.Repeat("x", 100), p.dir, when, extra), 0o600)
	if code, _, stderr := p.run("init"); code != 0 {
		t.Fatalf("init: %d\n%s", code, stderr)
	}
	return p
}

func (p *post) write(name, text string, mode fs.FileMode) {
	p.t.Helper()
	path := filepath.Join(p.dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), mode)); err != nil {
		p.t.Fatal(err)
	}
}

func (p *post) state() string { return filepath.Join(p.dir, strings.Repeat("x", 100)) }

// run runs a command of this machine.
func (p *post) run(args ...string) (code int, stdout, stderr string) {
	return p.runIn(p.t.Context(), args...)
}

func (p *post) runIn(ctx context.Context, args ...string) (code int, stdout, stderr string) {
	var out, diag journal
	code = run(ctx, append([]string{"embassy", "--config", p.config}, args...), strings.NewReader(""), &out, &diag)
	return code, out.String(), diag.String()
}

// edit changes what the catalog has while no daemon runs.
func (p *post) edit(f func(c *catalog.Catalog) error) {
	p.t.Helper()
	c, err := catalog.Open(filepath.Join(p.state(), "catalog"), catalog.Options{})
	if err != nil {
		p.t.Fatal(err)
	}
	if err := errors.Join(f(c), c.Close()); err != nil {
		p.t.Fatal(err)
	}
}

// journal is what a process says.
type journal struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.String()
}

// gate lets no object pass while it is shut.
type gate struct {
	mu      sync.Mutex
	open    chan struct{} // nil: open
	waiting int
}

func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open = make(chan struct{})
}

func (g *gate) lift() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.open)
	g.open = nil
}

func (g *gate) held() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.waiting > 0
}

func (g *gate) add(n int) chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.waiting += n
	return g.open
}

// gated is a target behind a gate.
type gated struct {
	targets.Target
	gate *gate
}

func (t gated) Put(ctx context.Context, o targets.Object) error {
	open := t.gate.add(1)
	defer t.gate.add(-1)
	if open != nil {
		select {
		case <-open:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return t.Target.Put(ctx, o)
}

// station is a daemon that runs in this process.
type station struct {
	p     *post
	log   *journal
	stop  func() // as SIGTERM does
	ended chan error
	web   string
}

// start starts the daemon of the machine, with its targets behind the gate.
func (p *post) start() *station {
	p.t.Helper()
	log := &journal{}
	con := &console{stdin: strings.NewReader(""), stdout: io.Discard, stderr: log, config: p.config, quiet: true}
	s, err := con.openSite()
	if err != nil {
		p.t.Fatal(err)
	}
	for i, m := range s.members {
		s.members[i] = embassy.NewMember(m.Name, m.URL, m.Jurisdiction, gated{m.Target, p.gate}, nil, time.Now)
	}
	if err := s.openCatalog(); err != nil {
		p.t.Fatal(err)
	}
	d, err := newDaemon(s)
	if err != nil {
		p.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(p.t.Context())
	st := &station{p: p, log: log, ended: make(chan error, 1)}
	go func() { st.ended <- errors.Join(d.run(ctx), s.close()) }()
	st.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-st.ended; err != nil {
			p.t.Errorf("the daemon ended with %v", err)
		}
	})
	p.t.Cleanup(func() {
		if st.stop(); p.t.Failed() {
			p.t.Logf("the log of a daemon:\n%s", log)
		}
	})
	p.eventually("the daemon serves", func() bool {
		_, after, ok := strings.Cut(log.String(), "listen=")
		st.web, _, _ = strings.Cut(after, "\n")
		return ok && st.web != ""
	})
	return st
}

// eventually waits for what must come, for as long as a slow machine may need.
func (p *post) eventually(what string, is func() bool) {
	p.t.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			p.t.Fatalf("never: %s", what)
		}
	}
}

// get asks the daemon over HTTP.
func (st *station) get(path string) (code int, body string) {
	st.p.t.Helper()
	resp, err := http.Get("http://" + st.web + path)
	if err != nil {
		st.p.t.Fatal(err)
	}
	data, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		st.p.t.Fatal(err)
	}
	return resp.StatusCode, string(data)
}

// metric returns the value of a metric, by its name and labels as they are
// written; "" when it is not there.
func (st *station) metric(name string) string {
	st.p.t.Helper()
	_, body := st.get("/metrics")
	for line := range strings.Lines(body) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func (st *station) wantMetric(name, want string) {
	st.p.t.Helper()
	if got := st.metric(name); got != want {
		st.p.t.Errorf("%s is %q, want %q", name, got, want)
	}
}

// logged counts the lines of the log that have all of the words.
func (st *station) logged(words ...string) int {
	n := 0
	for line := range strings.Lines(st.log.String()) {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
			n++
		}
	}
	return n
}

// scheduled waits until so many scheduled runs of docs have ended.
func (st *station) scheduled(n int) {
	st.p.t.Helper()
	st.p.eventually(fmt.Sprintf("run %d of docs", n), func() bool {
		return st.logged("run ends", "job=backup/docs") >= n && st.metric(`embassy_job_running{job="backup/docs"}`) == "0"
	})
}

func TestServeSharesTheCatalog(t *testing.T) {
	p := newPost(t, "every: 1h", "")
	stale, err := net.Listen("unix", shortSocket(t, p.state()))
	if err != nil {
		t.Fatal(err)
	}
	stale.(*net.UnixListener).SetUnlinkOnClose(false)
	stale.Close()
	st := p.start()
	st.scheduled(1) // it never ran before

	if info, err := os.Stat(filepath.Join(p.state(), socketName)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", info, err)
	}
	if code, body := st.get("/healthz"); code != http.StatusOK || !strings.Contains(body, `"healthy": true`) {
		t.Errorf("healthz: %d\n%s", code, body)
	}
	code, stdout, stderr := p.run("status")
	if code != 0 || !strings.Contains(stdout, "docs ") || !strings.Contains(stdout, " ok\n") {
		t.Errorf("status: %d\n%s%s", code, stdout, stderr)
	}
	st.wantMetric(`embassy_dataset_safe_copies{dataset="docs"}`, "2")
	st.wantMetric(`embassy_dataset_rpo_seconds{dataset="docs"}`, "21600")
	st.wantMetric(`embassy_dataset_late{dataset="docs"}`, "0")
	st.wantMetric(`embassy_dataset_last_scheduled_run_bytes{dataset="docs",what="content"}`, "7")
	st.wantMetric(`embassy_target_up{target="helsinki"}`, "1")
	st.wantMetric(`embassy_target_behind_entries{target="helsinki"}`, "0")
	st.wantMetric(`embassy_target_faults{kind="rollback",target="tallinn"}`, "0")
	st.wantMetric(`embassy_job_runs_total{exit_code="0",job="backup/docs"}`, "1")
	if st.metric(`embassy_target_sent_bytes_total{target="tallinn"}`) == "0" || st.metric(`embassy_job_last_success_timestamp_seconds{job="backup/docs"}`) == "" {
		t.Error("no bytes, or no success")
	}

	p.write("docs/file", "more content", 0o600)
	var report struct {
		Datasets []struct {
			Changed  int `json:"files_changed"`
			ExitCode int `json:"exit_code"`
		} `json:"datasets"`
	}
	code, stdout, stderr = p.run("--json", "backup", "docs")
	if err := json.Unmarshal([]byte(stdout), &report); err != nil || code != 0 || report.Datasets[0].Changed != 1 {
		t.Errorf("backup: %d, %v\n%s%s", code, err, stdout, stderr)
	}
	if st.logged("run starts", "asked=socket", "backup docs") != 1 || st.logged("run ends", "backup docs", "exit=0") != 1 {
		t.Errorf("log:\n%s", st.log)
	}
	if code, _, stderr := p.run("backup", "dogs"); code != 2 || !strings.Contains(stderr, `dataset "dogs" is not in`) {
		t.Errorf("backup of an unknown dataset: %d\n%s", code, stderr)
	}
	if code, _, stderr := p.run("serve"); code != 1 || !strings.Contains(stderr, fmt.Sprintf("runs already for %s: process %d", p.state(), os.Getpid())) {
		t.Errorf("second daemon: %d\n%s", code, stderr)
	}

	for _, line := range []struct {
		code int
		says string
		args []string
	}{
		{0, "helsinki ", []string{"replicate"}},
		{2, "set limits in ", []string{"replicate", "--limit-upload", "1MB"}},
		{0, "", []string{"catalog", "rebuild", "--from", "helsinki"}},
		{0, "helsinki ", []string{"target", "list"}},
		{0, "nothing was changed", []string{"prune", "--dry-run"}},
		{1, "must not hold a reader's key", []string{"prune", "--repack", "--dry-run"}},
	} {
		if code, stdout, stderr := p.run(line.args...); code != line.code || !strings.Contains(stdout+stderr, line.says) {
			t.Errorf("%q: %d\n%s%s", line.args, code, stdout, stderr)
		}
	}

	// What is sent over the socket without the client's care.
	frames := p.ask(request{Protocol: socketProtocol, Args: []string{"backup"}, Level: "error"})
	last := frames[len(frames)-1]
	if last.Exit == nil || *last.Exit != 0 || !slices.ContainsFunc(frames, func(f frame) bool { return f.Progress != nil && f.Progress.Dataset == "docs" }) {
		t.Errorf("backup answers %d frames, the last %+v", len(frames), last)
	}
	for name, req := range map[string]request{
		"not for the daemon": {Protocol: socketProtocol, Args: []string{"restore", "--to", p.dir + "/out", "docs"}, Level: "error"},
		"another version":    {Protocol: socketProtocol + 1, Args: []string{"status"}, Level: "error"},
	} {
		if frames := p.ask(req); *frames[len(frames)-1].Exit != 2 {
			t.Errorf("%s: %+v", name, frames)
		}
	}

	// Other files.
	text, err := os.ReadFile(p.config)
	if err != nil {
		t.Fatal(err)
	}
	p.write("other.yaml", string(text)+"# another file\n", 0o600)
	p.write("elsewhere.yaml", strings.Replace(string(text), "state_dir: ./", "state_dir: ./y", 1), 0o600)
	if code, _, stderr := p.run("--config", p.dir+"/other.yaml", "status"); code != 2 || !strings.Contains(stderr, "which is not the same as") {
		t.Errorf("another configuration: %d\n%s", code, stderr)
	}
	if code, _, stderr := p.run("--config", p.dir+"/elsewhere.yaml", "status"); code != 1 || !strings.Contains(stderr, "not set up") {
		t.Errorf("another state directory: %d\n%s", code, stderr)
	}
	p.write("embassy.yaml", string(text)+"# changed\n", 0o600)
	if code, _, stderr := p.run("status"); code != 0 || !strings.Contains(stderr, "has changed since the daemon") {
		t.Errorf("changed configuration: %d\n%s", code, stderr)
	}

	st.stop()
	if _, err := os.Stat(filepath.Join(p.state(), socketName)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
	if code, stdout, stderr := p.run("status"); code != 0 {
		t.Errorf("status without a daemon: %d\n%s%s", code, stdout, stderr)
	}
}

// shortSocket is a path of the socket that is short enough.
func shortSocket(t *testing.T, state string) string {
	t.Helper()
	dir, done, err := shortPath(state)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(done)
	return filepath.Join(dir, socketName)
}

// ask sends a request, with what it needs of the configuration, and returns
// all frames but the first.
func (p *post) ask(req request) []frame {
	p.t.Helper()
	var err error
	req.Config = p.config
	if req.Sum, err = fileSum(p.config); err != nil {
		p.t.Fatal(err)
	}
	conn, err := dialSocket(p.t.Context(), p.state())
	if err != nil || conn == nil {
		p.t.Fatalf("dial: %v, %v", conn, err)
	}
	defer conn.Close()
	answers, who, err := introduce(conn, req)
	if err != nil || who.PID != os.Getpid() {
		p.t.Fatalf("hello: %+v, %v", who, err)
	}
	var frames []frame
	for {
		var f frame
		if err := answers.Decode(&f); errors.Is(err, io.EOF) && len(frames) > 0 {
			return frames
		} else if err != nil {
			p.t.Fatal(err)
		}
		frames = append(frames, f)
	}
}

func TestServeOverlapAndStop(t *testing.T) {
	p := newPost(t, "0 3 1 1 *", "")
	st := p.start()
	p.gate.shut()
	type result struct {
		code           int
		stdout, stderr string
	}
	background := func(ctx context.Context, args ...string) chan result {
		done := make(chan result, 1)
		go func() {
			code, stdout, stderr := p.runIn(ctx, args...)
			done <- result{code, stdout, stderr}
		}()
		p.eventually("a put waits", p.gate.held)
		return done
	}

	// A second run of the dataset is refused, and status answers.
	ctx, interrupt := context.WithCancel(t.Context())
	first := background(ctx, "backup", "docs")
	code, _, stderr := p.run("backup")
	if code != 1 || !strings.Contains(stderr, "backup/docs: a run is under way since") || !strings.Contains(stderr, fmt.Sprint("process ", os.Getpid())) {
		t.Errorf("overlap: %d\n%s", code, stderr)
	}
	if code, stdout, _ := p.run("status"); code != 4 || !strings.Contains(stdout, "no snapshot yet") {
		t.Errorf("status meanwhile: %d\n%s", code, stdout)
	}
	st.wantMetric(`embassy_job_running{job="backup/docs"}`, "1")

	// An interrupted client interrupts its run.
	interrupt()
	if r := <-first; r.code != 130 || strings.Count(r.stderr, "interrupted") != 1 {
		t.Errorf("interrupted: %+v", r)
	}
	p.eventually("the run has ended", func() bool { return st.metric(`embassy_job_running{job="backup/docs"}`) == "0" })

	// So does a daemon that is stopped.
	second := background(t.Context(), "backup", "docs")
	st.stop()
	if r := <-second; r.code != 1 || !strings.Contains(r.stderr, "the daemon was stopped in the middle of this") {
		t.Errorf("stopped: %+v", r)
	}

	// Three years are missed, and caught up by one run, which is cut short and
	// repeated.
	p.edit(func(c *catalog.Catalog) error {
		return schedule.Keep(c).Save("backup/docs", schedule.Record{Base: time.Now().AddDate(-3, 0, 0)})
	})
	st = p.start()
	p.eventually("a put waits", p.gate.held)
	st.stop()
	if st.logged("run starts", "job=backup/docs") != 1 || st.logged("run ends", "job=backup/docs", "cut short") != 1 {
		t.Errorf("log:\n%s", st.log)
	}
	p.gate.lift()
	st = p.start()
	st.scheduled(1)
	st.stop()
	if st.logged("run starts") != 1 || st.logged("run ends", "exit=0") != 1 {
		t.Errorf("log:\n%s", st.log)
	}
	st = p.start()
	if code, stdout, stderr := p.run("status"); code != 0 {
		t.Errorf("status: %d\n%s%s", code, stdout, stderr)
	}
	st.stop()
	if n := st.logged("run starts"); n != 0 {
		t.Errorf("%d runs for nothing:\n%s", n, st.log)
	}
	p.edit(func(c *catalog.Catalog) error {
		runs, err := c.Runs("docs", 10)
		if len(runs) != 1 {
			t.Errorf("%d runs ended, want 1: %+v", len(runs), runs)
		}
		return err
	})
	if code, stdout, _ := p.run("--json", "snapshots"); code != 0 || strings.Count(stdout, `"id"`) != 1 {
		t.Errorf("snapshots: %d\n%s", code, stdout)
	}
}

func TestServeTellsPeople(t *testing.T) {
	var mu sync.Mutex
	var beats []string
	monitor := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if len(beats) == 0 || beats[len(beats)-1] != r.URL.String() {
			beats = append(beats, r.URL.String())
		}
	}))
	defer monitor.Close()
	t.Setenv("SECRET_OF_A_TARGET", "hunter2")
	told := filepath.Join(t.TempDir(), "told")
	script := told + ".sh"
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho \"$EMBASSY_EVENT $EMBASSY_SUBJECT: $EMBASSY_TEXT\" >>$1\ncat >>$1.json\nenv >>$1.env\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	p := newPost(t, "every: 1s", fmt.Sprintf("notify: {command: [%q, %q], heartbeat_url: \"%s/abc?x=y\"}", script, told, monitor.URL))
	st := p.start()
	st.scheduled(1)
	if err := os.Rename(filepath.Join(p.dir, "docs"), filepath.Join(p.dir, "away")); err != nil {
		t.Fatal(err)
	}
	lines := func(name string) []string {
		data, err := os.ReadFile(name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		return strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
	}
	failed := func(n int) {
		t.Helper()
		p.eventually("failed runs", func() bool { return st.logged("run ends", "job=backup/docs", "exit=1") >= n })
	}
	failed(2)
	p.eventually("people know of the failure", func() bool { return strings.HasPrefix(lines(told)[0], "failure backup/docs: FAILED: ") })
	st.wantMetric(`embassy_job_last_exit_code{job="backup/docs"}`, "1")
	st.wantMetric(`embassy_dataset_last_run_exit_code{dataset="docs"}`, "1")
	st.stop()
	st = p.start() // which repeats nothing
	failed(2)
	if err := os.Rename(filepath.Join(p.dir, "away"), filepath.Join(p.dir, "docs")); err != nil {
		t.Fatal(err)
	}
	p.eventually("people know of the recovery", func() bool { return len(lines(told)) > 1 })
	p.eventually("no change is pending", func() bool { return st.metric("embassy_notify_pending") == "0" })
	if got := lines(told); len(got) != 2 || got[1] != "recovery backup/docs: done" {
		t.Errorf("people were told %q", got)
	}
	var event struct {
		Event, Subject, Nation string
		Exit                   int `json:"exit_code"`
	}
	if err := json.Unmarshal([]byte(lines(told + ".json")[0]), &event); err != nil || event.Event != "failure" || event.Subject != "backup/docs" || event.Nation != "ee" || event.Exit != 1 {
		t.Errorf("event %+v, %v", event, err)
	}
	if env := strings.Join(lines(told+".env"), "\n"); strings.Contains(env, "hunter2") || !strings.Contains(env, "EMBASSY_EVENT=failure") {
		t.Errorf("environment of the command:\n%s", env)
	}
	p.eventually("a good heartbeat", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(beats) >= 3
	})
	mu.Lock()
	defer mu.Unlock()
	if want := []string{"/abc?x=y", "/abc/fail?x=y", "/abc?x=y"}; !slices.Equal(beats, want) {
		t.Errorf("heartbeats %q, want %q", beats, want)
	}
}

// TestServeTidies forgets, and marks what is not used any more, on schedule. A machine
// that is no steward says so to people.
func TestServeTidies(t *testing.T) {
	p := newPost(t, "never", "")
	config, err := os.ReadFile(p.config)
	if err != nil {
		t.Fatal(err)
	}
	configure := func(serve string) {
		t.Helper()
		text := strings.Replace(string(config), "rpo: 6h", "rpo: 6h, retention: {last: 2, min_age: 1s}", 1)
		p.write("embassy.yaml", strings.Replace(text, "check: never", "check: never, "+serve, 1), 0o600)
	}
	for i := range 4 {
		p.write("docs/file", fmt.Sprintf("content %d", i), 0o600)
		if code, _, stderr := p.run("backup"); code != 0 {
			t.Fatalf("backup: %d\n%s", code, stderr)
		}
	}
	time.Sleep(time.Second) // then none of them is too young to be forgotten

	configure(`forget: "every: 1s", prune: {every: 2s}`)
	st := p.start()
	p.eventually("two are forgotten", func() bool { return st.logged("job=forget", "exit=0", "2 snapshots forgotten, 2 kept") == 1 })
	p.eventually("what they used is marked", func() bool {
		return st.logged("job=prune", "exit=0", "objects marked, 0 deleted") > st.logged("job=prune", `outcome="0 objects marked`)
	})
	st.wantMetric(`embassy_job_last_exit_code{job="forget"}`, "0")
	st.stop()
	if code, stdout, _ := p.run("--json", "snapshots"); code != 0 || strings.Count(stdout, `"id"`) != 2 {
		t.Errorf("snapshots: %d\n%s", code, stdout)
	}
	if code, stdout, _ := p.run("audit", "list"); code != 0 || strings.Count(stdout, "2 of 4 snapshots") != 1 || !strings.Contains(stdout, "command=serve") {
		t.Errorf("audit list: %d\n%s", code, stdout)
	}
}

// TestServeCommand runs the command itself.
func TestServeCommand(t *testing.T) {
	p := newPost(t, "0 3 1 1 *", "")
	ctx, terminate := context.WithCancel(t.Context())
	defer terminate()
	ended := make(chan int, 1)
	var log journal
	go func() {
		ended <- run(ctx, []string{"embassy", "--config", p.config, "serve"}, strings.NewReader(""), io.Discard, &log)
	}()
	p.eventually("it serves", func() bool { return strings.Contains(log.String(), "msg=serving") })
	if who, err := askDaemon(t.Context(), p.state()); err != nil || who == nil || who.PID != os.Getpid() {
		t.Errorf("asked who it is: %+v, %v", who, err)
	}
	terminate()
	if code := <-ended; code != 0 || !strings.Contains(log.String(), "msg=stopped") {
		t.Errorf("exit code %d\n%s", code, log.String())
	}

	if code, _, stderr := p.run("serve", "now"); code != 2 {
		t.Errorf("an argument: %d\n%s", code, stderr)
	}
	for _, listen := range []string{"0.0.0.0:9347", "[::]:9347", ":9347", "192.0.2.1:9347", "example.com:9347"} {
		if err := loopbackOnly(listen); exitCode(err) != 2 {
			t.Errorf("listen on %s: %v", listen, err)
		}
	}
	for _, listen := range []string{"127.0.0.1:0", "localhost:9347", "[::1]:9347", "127.8.8.8:1"} {
		if err := loopbackOnly(listen); err != nil {
			t.Errorf("listen on %s: %v", listen, err)
		}
	}
}
