// Package child runs other programs: commands whose output is backed up, hooks
// beside a backup, and the command that tells people.
//
// A program gets no shell, no terminal and only the environment that it is
// given. It runs in a session, and so a process group, of its own, which is
// ended as one: when the context ends or the time is up its processes are asked
// to end, and after a grace of five seconds they are killed. Of what a program
// says, a bounded end is kept for the error. A process that leaves the group
// by making a session of its own is not followed.
package child

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
	"unicode"
)

const (
	grace    = 5 * time.Second // to end when asked to, and for what was left behind to close its output
	maxSaid  = 1000            // bytes of the output of a program that failed
	maxLines = 10
)

// Command is a program to run.
type Command struct {
	Args    []string      // the program, found in PATH unless it has a slash, and its arguments
	Env     []string      // all of its environment, as NAME=VALUE; [Inherited] makes one
	Stdin   io.Reader     // nil: empty
	Timeout time.Duration // zero: none
}

// Inherited is the environment of this process, but for the variables that
// start with EMBASSY_PASSPHRASE, and with extra ones.
func Inherited(extra ...string) []string {
	env := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "EMBASSY_PASSPHRASE") })
	return append(env, extra...)
}

// Run waits for the end of the program. The error names the program, and says
// how it ended and the last lines of what it said; it wraps the context's when
// that ended the program. A process that it leaves behind on success lives on,
// but nobody listens to it any more.
func (c Command) Run(ctx context.Context) error {
	said := new(tail)
	r, err := c.start(ctx, said, said)
	if err != nil {
		return err
	}
	return r.wait(false)
}

// Stream starts the program and returns its stdout. Read returns io.EOF only
// when the program has ended well, and else what Run would return: an output
// that was cut short is never taken for a whole one. Close ends the program if
// it still runs, and must be called.
func (c Command) Stream(ctx context.Context) (io.ReadCloser, error) {
	out, in, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("run %s: %w", c.Args[0], err)
	}
	r, err := c.start(ctx, in, new(tail))
	err = errors.Join(err, in.Close())
	if err != nil {
		return nil, errors.Join(err, out.Close())
	}
	s := &stream{out: out, run: r, ended: make(chan struct{})}
	go func() { // ends with the program, which Close ends
		defer close(s.ended)
		if s.err = r.wait(true); s.err != nil {
			// Who escaped the group may still hold the pipe. That this may fail
			// on a closed pipe is right.
			_ = out.SetReadDeadline(time.Now().Add(grace))
		}
	}()
	return s, nil
}

// stream is the stdout of a program.
type stream struct {
	out   *os.File
	run   *running
	ended chan struct{} // closed when err is final
	err   error
}

func (s *stream) Read(p []byte) (int, error) {
	n, err := s.out.Read(p)
	if n > 0 || err == nil {
		return n, nil
	}
	if err != io.EOF && !errors.Is(err, os.ErrDeadlineExceeded) {
		return 0, err
	}
	<-s.ended
	if s.err != nil {
		return 0, s.err
	}
	return 0, io.EOF
}

func (s *stream) Close() error {
	s.run.cancel()
	<-s.ended
	return s.out.Close()
}

// running is a program that was started.
type running struct {
	name   string
	cmd    *exec.Cmd
	said   *tail
	cancel context.CancelFunc
	cut    func() error // why it was ended from outside; nil: it was not
}

func (c Command) start(ctx context.Context, stdout io.Writer, said *tail) (*running, error) {
	limited, cancel := context.WithCancel(ctx)
	if c.Timeout > 0 {
		limited, cancel = context.WithTimeout(ctx, c.Timeout)
	}
	r := &running{name: c.Args[0], said: said, cancel: cancel, cut: func() error {
		if ctx.Err() == nil && errors.Is(limited.Err(), context.DeadlineExceeded) {
			return fmt.Errorf("not done within %s", c.Timeout)
		}
		return ctx.Err()
	}}
	r.cmd = exec.CommandContext(limited, c.Args[0], c.Args[1:]...)
	r.cmd.Env = append([]string{}, c.Env...) // nil would be all of this process
	r.cmd.Stdin, r.cmd.Stdout, r.cmd.Stderr = c.Stdin, stdout, said
	r.cmd.WaitDelay = grace
	apart(r.cmd)
	if err := r.cmd.Start(); err != nil {
		cancel()
		return nil, fmt.Errorf("run %s: %w", r.name, err)
	}
	return r, nil
}

// wait returns when the program has ended; unless that was well, nothing of
// its group is left. whole says that a process which it left behind, and which
// holds its output, is no good end.
func (r *running) wait(whole bool) error {
	err := r.cmd.Wait()
	cut := r.cut()
	r.cancel()
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay) && cut == nil && !whole:
		return nil
	case cut != nil:
		err = cut
	case errors.Is(err, exec.ErrWaitDelay):
		err = fmt.Errorf("it left a process behind that holds its output: %w", err)
	}
	killGroup(r.cmd)
	if text := r.said.String(); text != "" {
		return fmt.Errorf("run %s: %w: %s", r.name, err, text)
	}
	return fmt.Errorf("run %s: %w", r.name, err)
}

// tail keeps the end of what is written.
type tail struct{ data []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.data = append(t.data, p[max(0, len(p)-maxSaid):]...)
	t.data = t.data[max(0, len(t.data)-maxSaid):]
	return len(p), nil
}

// String is the last lines in one, without what would move a terminal.
func (t *tail) String() string {
	lines := strings.FieldsFunc(strings.ToValidUTF8(string(t.data), "?"), func(r rune) bool { return r == '\n' || r == '\r' })
	for i, line := range lines {
		lines[i] = strings.TrimSpace(strings.Map(func(r rune) rune {
			if unicode.IsControl(r) {
				return ' '
			}
			return r
		}, line))
	}
	return strings.Join(lines[max(0, len(lines)-maxLines):], " | ")
}
