package bench_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

// figures are what one run of a program took.
type figures struct {
	Wall, CPU float64 // seconds
	Anon      float64 // peak of anonymous memory, in MiB; 0 where the system does not tell
}

// command is one program to run.
type command struct {
	args []string
	env  []string
	dir  string
}

// measure runs commands one after another, and returns what they took in all.
func measure(ctx context.Context, commands ...command) (f figures, err error) {
	for _, c := range commands {
		one, err := c.run(ctx)
		if err != nil {
			return f, err
		}
		f.Wall, f.CPU, f.Anon = f.Wall+one.Wall, f.CPU+one.CPU, max(f.Anon, one.Anon)
	}
	return f, nil
}

func (c command) run(ctx context.Context) (f figures, err error) {
	cmd := exec.CommandContext(ctx, c.args[0], c.args[1:]...)
	var said bytes.Buffer
	cmd.Dir, cmd.Stdout, cmd.Stderr = c.dir, &said, &said
	cmd.Env = append(os.Environ(), c.env...)
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return f, err
	}
	done, polled := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(polled)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				f.Anon = max(f.Anon, anonymous(cmd.Process.Pid))
			}
		}
	}()
	err = cmd.Wait()
	f.Wall = time.Since(start).Seconds()
	close(done)
	<-polled
	if err != nil {
		return f, fmt.Errorf("%s: %w\n%s", strings.Join(c.args, " "), err, said.Bytes())
	}
	f.CPU = (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
	return f, nil
}

// anonymous is the anonymous memory of a process, in MiB; 0 if it is not known.
func anonymous(pid int) float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if words := strings.Fields(line); len(words) > 1 && words[0] == "RssAnon:" {
			kib, err := strconv.ParseFloat(words[1], 64)
			if err == nil {
				return kib / 1024
			}
		}
	}
	return 0
}

// median is that of each figure by itself.
func median(all []figures) figures {
	of := func(get func(figures) float64) float64 {
		values := make([]float64, len(all))
		for i, f := range all {
			values[i] = get(f)
		}
		slices.Sort(values)
		return values[len(values)/2]
	}
	return figures{
		Wall: of(func(f figures) float64 { return f.Wall }),
		CPU:  of(func(f figures) float64 { return f.CPU }),
		Anon: of(func(f figures) float64 { return f.Anon }),
	}
}
