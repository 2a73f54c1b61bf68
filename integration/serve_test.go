package integration_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// served is a daemon that runs.
type served struct {
	*running
	s      *site
	listen string // host:port
	told   string // file: what notify was told, one JSON object a line
}

// serve starts the daemon. It may also be given settings of the section serve.
func (s *site) serve(settings string, datasets ...dataset) *served {
	s.t.Helper()
	d := &served{s: s, told: s.path("told")}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	d.listen = l.Addr().String()
	if err := l.Close(); err != nil {
		s.t.Fatal(err)
	}
	s.more = fmt.Sprintf("serve: {listen: %q, verify: never, locks: never, check: never, %s}\nnotify: {command: [/bin/sh, -c, 'cat >>\"$0\"', %q]}\n",
		d.listen, settings, d.told)
	s.configure(datasets...)
	d.running = s.launch(embassyProgram, "serve")
	d.eventually("it answers", func() bool {
		resp, err := http.Get("http://" + d.listen + "/healthz")
		return err == nil && resp.Body.Close() == nil && resp.StatusCode == http.StatusOK
	})
	return d
}

// eventually waits until a condition holds, and fails the test if that takes
// too long or the daemon ends.
func (d *served) eventually(what string, condition func() bool) {
	d.t.Helper()
	deadline, poll := time.After(2*time.Minute), time.NewTicker(100*time.Millisecond)
	defer poll.Stop()
	began := time.Now()
	for !condition() {
		select {
		case <-d.ended:
			r := d.result()
			d.t.Fatalf("the daemon ended with exit code %d while waiting until %s\n%s", r.code, what, r.stderr)
		case <-deadline:
			d.kill()
			d.t.Fatalf("it is not true that %s\nlog:\n%s", what, d.result().stderr)
		case <-poll.C:
		}
	}
	d.t.Logf("after %v %s", time.Since(began).Round(100*time.Millisecond), what)
}

// metrics scrapes the daemon. Keys are as printed: name{label="value"}.
func (d *served) metrics() map[string]float64 {
	d.t.Helper()
	resp, err := http.Get("http://" + d.listen + "/metrics")
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		d.t.Fatalf("metrics: %s, %v\n%s", resp.Status, err, body)
	}
	out := map[string]float64{}
	for line := range strings.Lines(string(body)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		at := strings.LastIndex(line, " ")
		v, err := strconv.ParseFloat(strings.TrimSpace(line[at:]), 64)
		if err != nil {
			d.t.Fatalf("metrics: %q: %v", line, err)
		}
		out[line[:at]] = v
	}
	return out
}

// is reports whether the daemon's metrics have a value.
func (d *served) is(key string, ok func(v float64) bool) bool {
	d.t.Helper()
	m := d.metrics()
	v, there := m[key]
	if !there {
		d.t.Fatalf("no metric %s in %q", key, slices.Sorted(maps.Keys(m)))
	}
	return ok(v)
}

// notice is what notify is told.
type notice struct {
	Event   string `json:"event"`
	Subject string `json:"subject"`
	Text    string `json:"text"`
	Exit    int    `json:"exit_code"`
}

// notices returns what notify was told so far.
func (d *served) notices() []notice {
	d.t.Helper()
	var all []notice
	if !exists(d.told) {
		return nil
	}
	for dec := json.NewDecoder(bytes.NewReader(read(d.t, d.told))); ; {
		var n notice
		if err := dec.Decode(&n); err == io.EOF {
			return all
		} else if err != nil {
			d.t.Fatal(err)
		}
		all = append(all, n)
	}
}

// runs counts the runs of a job in a daemon's log that ended with an exit code.
func runs(log, job string, exit int) int {
	n := 0
	for lines := bufio.NewScanner(strings.NewReader(log)); lines.Scan(); {
		line := lines.Text() + " "
		if strings.Contains(line, `msg="run ends"`) && strings.Contains(line, " job="+job+" ") && strings.Contains(line, fmt.Sprintf(" exit=%d ", exit)) {
			n++
		}
	}
	return n
}

// TestServe lets the daemon back up and replicate on schedules, kills the
// Primary and revives it. Every run is there once; metrics, notify and status
// say at each moment what is true. Ended in the middle of a run, it loses
// nothing.
func TestServe(t *testing.T) {
	t.Parallel()
	src := t.TempDir()
	write(t, filepath.Join(src, "file"), noise(1, mib))
	d := dataset{name: "data", sources: []string{src}, more: `schedule: "every: 2s", rpo: 1h`}
	stores := borrow(t, 3)
	stores[0] = startOne(t, 0)
	primary := stores[0]
	s := newSite(t, stores...)
	s.found(d)
	daemon := s.serve(`replicate: "every: 3s"`, d)
	const done = `embassy_job_runs_total{exit_code="0",job="backup/data"}`
	up, behind := `embassy_target_up{target="tallinn"}`, `embassy_target_behind_entries{target="tallinn"}`
	since := func(n float64) func(float64) bool { return func(v float64) bool { return v >= n } }
	is := func(n float64) func(float64) bool { return func(v float64) bool { return v == n } }

	daemon.eventually("two backups are done", func() bool { return daemon.metrics()[done] >= 2 })
	if m := daemon.metrics(); m[up] != 1 || m[behind] != 0 || m[`embassy_dataset_safe_copies{dataset="data"}`] != 3 {
		t.Errorf("with all targets: up %v, behind %v, %v copies", m[up], m[behind], m[`embassy_dataset_safe_copies{dataset="data"}`])
	}
	if lag := s.status(0).lag(); len(lag) > 0 {
		t.Errorf("with all targets the lag is %v", lag)
	}
	if told := daemon.notices(); len(told) > 0 {
		t.Errorf("with all targets people were told %+v", told)
	}

	primary.server.Kill()
	before := daemon.metrics()[done]
	daemon.eventually("backups go on without the Primary", func() bool { return daemon.is(done, since(before+2)) })
	daemon.eventually("the Primary is counted as down, and behind", func() bool { return daemon.is(up, is(0)) && daemon.is(behind, since(1)) })
	if lag := s.status(0).lag(); lag[primary.name] == 0 || len(lag) != 1 {
		t.Errorf("without the Primary the lag is %v", lag)
	}
	daemon.eventually("people are told of the Primary", func() bool {
		return slices.ContainsFunc(daemon.notices(), func(n notice) bool {
			return n.Event == "failure" && n.Subject == "replicate" && n.Exit == 4 && strings.Contains(n.Text, primary.name)
		})
	})

	primary.server.Restart()
	before = daemon.metrics()[done]
	daemon.eventually("the lag of the Primary is zero again", func() bool { return daemon.is(behind, is(0)) && daemon.is(up, is(1)) })
	daemon.eventually("backups go on with the Primary", func() bool { return daemon.is(done, since(before+1)) })
	daemon.eventually("people are told that all is well", func() bool {
		told := daemon.notices()
		return len(told) > 0 && told[len(told)-1].Event == "recovery" && told[len(told)-1].Subject == "replicate"
	})
	if told := daemon.notices(); len(told) != 2 {
		t.Errorf("people were told more than of one failure and its end: %+v", told)
	}

	// In the middle of a run.
	for _, st := range stores {
		st.proxy.Link(8_000_000, 0)
	}
	sentBefore := sent(stores)
	write(t, filepath.Join(src, "more"), noise(2, 24*mib))
	daemon.until(func() bool { return sent(stores)-sentBefore > 12*mib })
	if err := daemon.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	r := daemon.result()
	t.Logf("ended with exit code %d", r.code)
	if r.code != 0 {
		t.Errorf("ended with exit code %d:\n%s", r.code, r.stderr)
	}
	for _, st := range stores {
		st.proxy.Heal()
	}
	complete := runs(r.stderr, "backup/data", 0)
	listed := s.snapshots()
	if n := len(listed); n != complete && n != complete+1 { // the last run may have been through
		t.Errorf("%d runs were through, and %d snapshots are listed", complete, n)
	}
	s.backup(0)
	if now := s.snapshots(); len(now) != len(listed)+1 || !slices.Equal(now[1:], listed) {
		t.Errorf("snapshots before %q, and after one more backup %q", listed, now)
	}
	s.replicate(0)
	sameStores(t, stores)
	if n := len(stores[0].keys("snapshot")); n != len(listed)+1 {
		t.Errorf("%d snapshots lie on a target, and %d are listed", n, len(listed)+1)
	}
	s.fromEachAlone(stores, d)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
