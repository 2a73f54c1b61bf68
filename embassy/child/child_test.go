//go:build unix

package child_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"embassy/embassy/child"
)

func sh(script string, args ...string) child.Command {
	return child.Command{Args: append([]string{"/bin/sh", "-c", script, "sh"}, args...), Env: child.Inherited()}
}

// streamed returns what a program wrote, and how its stream ended.
func streamed(t *testing.T, ctx context.Context, c child.Command) (string, error) {
	t.Helper()
	s, err := c.Stream(ctx)
	if err != nil {
		return "", err
	}
	data, err := io.ReadAll(s)
	if e := s.Close(); e != nil {
		t.Error(e)
	}
	return string(data), err
}

func TestStreamEndsAsProgramEnds(t *testing.T) {
	tests := map[string]struct {
		command child.Command
		out     string
		err     string // empty: none
	}{
		"good":             {sh("echo a; echo noise >&2; echo b"), "a\nb\n", ""},
		"fails at the end": {sh("echo a; echo first >&2; printf '\\033[2Jlast\\n' >&2; exit 7"), "a\n", "run /bin/sh: exit status 7: first | [2Jlast"},
		"killed":           {sh("echo a; kill -9 $$"), "a\n", "signal: killed"},
		"closes early":     {sh("echo a; exec >&-; exit 3"), "a\n", "exit status 3"},
		"too late":         {child.Command{Args: []string{"/bin/sh", "-c", "echo a; sleep 1000"}, Timeout: 200 * time.Millisecond}, "a\n", "not done within 200ms"},
		// The one who failed leaves another one that holds the output.
		"leaves another": {sh("sleep 1000 2>&- & echo a; exit 4"), "a\n", "exit status 4"},
		"not found":      {child.Command{Args: []string{"no-such-program"}}, "", "run no-such-program: exec: "},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, err := streamed(t, t.Context(), tt.command)
			if out != tt.out || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%q, %v; want %q, %q", out, err, tt.out, tt.err)
			}
		})
	}
}

// What the program started is ended with it.
func TestInterruptEndsGroup(t *testing.T) {
	t.Parallel() // it waits most of the time
	pid := filepath.Join(t.TempDir(), "pid")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s, err := sh(`trap "" TERM; sleep 1000 & echo $! >"$1"; echo ready; wait`, pid).Stream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(s, make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := s.Read(make([]byte, 1)); !errors.Is(err, context.Canceled) {
		t.Errorf("the stream ended with %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	text, err := os.ReadFile(pid)
	if err != nil {
		t.Fatal(err)
	}
	sleeper, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	// Its new parent may not have taken notice yet.
	for range 100 {
		if err = syscall.Kill(sleeper, 0); err != nil || zombie(sleeper) {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("process %d lives", sleeper)
}

func zombie(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && strings.Contains(string(stat), ") Z ")
}

// A reader that has enough ends the program.
func TestCloseEndsProgram(t *testing.T) {
	s, err := sh("yes").Stream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestRun(t *testing.T) {
	t.Setenv("EMBASSY_PASSPHRASE", "secret")
	t.Setenv("EMBASSY_PASSPHRASE_FILE", "secret")
	c := sh(`test -z "$EMBASSY_PASSPHRASE$EMBASSY_PASSPHRASE_FILE" && test "$EXTRA" = x && test -n "$PATH"`)
	c.Env = child.Inherited("EXTRA=x")
	if err := c.Run(t.Context()); err != nil {
		t.Error(err)
	}
	c.Env = nil
	if err := c.Run(t.Context()); err == nil {
		t.Error("no environment is all of this process")
	}
	if env := child.Inherited(); slices.ContainsFunc(env, func(v string) bool { return strings.Contains(v, "PASSPHRASE") }) {
		t.Error(env)
	}
	loud := sh("i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; exit 1")
	if err := loud.Run(t.Context()); err == nil || !strings.HasSuffix(err.Error(), "line 2998 | line 2999") || len(err.Error()) > 1200 {
		t.Error(err)
	}
}
