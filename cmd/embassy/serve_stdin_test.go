package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestServeInputsAndHooks feeds the daemon through a client, cuts that short,
// and lets the daemon run commands and hooks.
func TestServeInputsAndHooks(t *testing.T) {
	p := newPost(t, "0 3 1 1 *", "")
	text, err := os.ReadFile(p.config)
	if err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(p.dir, "log")
	p.write("embassy.yaml", strings.Replace(string(text), "serve:", fmt.Sprintf(`
  - name: fed
    stdin: true
    post: {command: [sh, -c, "echo $EMBASSY_DATASET $EMBASSY_RESULT >>%[1]s"]}
  - name: sleepy
    command: [sh, -c, "echo begun >>%[1]s; sleep 1000"]
    post: {command: [sh, -c, "echo $EMBASSY_DATASET $EMBASSY_RESULT >>%[1]s"]}
serve:`, log), 1), 0o600)
	if code, _, stderr := p.run("charter", "apply"); code != 0 {
		t.Fatalf("charter apply: %d\n%s", code, stderr)
	}
	st := p.start()
	logged := func(line string) func() bool {
		return func() bool {
			data, err := os.ReadFile(log)
			return err == nil && strings.HasSuffix(string(data), line+"\n")
		}
	}
	type end struct {
		code           int
		stdout, stderr string
	}
	backup := func(ctx context.Context, dataset string, stdin *os.File) <-chan end {
		ended := make(chan end, 1)
		go func() {
			var out, diag journal
			code := run(ctx, []string{"embassy", "--config", p.config, "backup", dataset}, stdin, &out, &diag)
			ended <- end{code, out.String(), diag.String()}
		}()
		return ended
	}
	snapshots := func(dataset string) int {
		t.Helper()
		code, out, stderr := p.run("snapshots", dataset)
		if code != 0 {
			t.Fatalf("snapshots: %d\n%s", code, stderr)
		}
		return strings.Count(out, " "+dataset+" ")
	}

	whole := strings.Repeat("minutes of the meeting\n", 100000)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	done := backup(t.Context(), "fed", r)
	if _, err := w.WriteString(whole); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if e := <-done; e.code != 0 || !strings.Contains(e.stdout, "fed: snapshot ") || !logged("fed 0")() || st.logged("run ends", "exit=0") != 1 {
		t.Errorf("fed: %+v", e)
	}

	// Who gives up in the middle gets no snapshot, and what pre began is ended.
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	if r, w, err = os.Pipe(); err != nil {
		t.Fatal(err)
	}
	done = backup(ctx, "fed", r)
	if _, err := w.WriteString(whole); err != nil {
		t.Fatal(err)
	}
	interrupt()
	if e := <-done; e.code != 130 {
		t.Errorf("interrupted: %+v", e)
	}
	p.eventually("post is told", logged("fed 130"))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}

	ctx, interrupt = context.WithCancel(t.Context())
	defer interrupt()
	done = backup(ctx, "sleepy", os.Stdin)
	p.eventually("the command runs", logged("begun"))
	interrupt()
	if e := <-done; e.code != 130 {
		t.Errorf("interrupted: %+v", e)
	}
	p.eventually("post is told", logged("sleepy 130"))
	st.stop()

	if n := snapshots("fed"); n != 1 {
		t.Errorf("%d snapshots of what was fed", n)
	}
	if n := snapshots("sleepy"); n != 0 {
		t.Errorf("%d snapshots of what was cut short", n)
	}
	out := filepath.Join(p.dir, "out")
	if code, _, stderr := p.run("restore", "--to", out, "fed"); code != 0 {
		t.Fatalf("restore: %d\n%s", code, stderr)
	}
	if got, err := os.ReadFile(filepath.Join(out, "fed", "fed")); err != nil || string(got) != whole {
		t.Errorf("restored %d bytes, %v", len(got), err)
	}
}
