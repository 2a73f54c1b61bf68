package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"embassy/embassy"
	"embassy/embassy/format"
	"embassy/embassy/schedule"

	"github.com/urfave/cli/v2"
)

// A command that needs the catalog, and finds a daemon that has it, sends its
// command line over a socket in the state directory. The daemon says who it
// is, runs the same command on its own members and catalog, and sends back what
// it prints, how far it is, and its exit code. When the client closes its side,
// the run is cancelled. Whoever may open the socket, which has mode 0600, is
// the user that the state directory belongs to: it is asked for nothing else.
const (
	socketName     = "embassy.sock"
	socketProtocol = 1
	askTime        = 10 * time.Second // for a command line to arrive
	frameTime      = time.Minute      // for a client to take what it is sent
	maxRequest     = 1 << 20          // bytes
)

// errDaemonReads: a command that a daemon was asked to run would take a reader's key.
var errDaemonReads = errors.New("a daemon runs here, and must not hold a reader's key: stop it, run this again, then start it")

// request is the first and only thing that a client says.
type request struct {
	Protocol int      `json:"protocol"`
	Args     []string `json:"args,omitempty"` // from the command on; empty: only asks who is there
	JSON     bool     `json:"json,omitempty"`
	Quiet    bool     `json:"quiet,omitempty"`
	Level    string   `json:"log_level,omitempty"`
	Config   string   `json:"config,omitempty"` // absolute path
	Sum      string   `json:"sum,omitempty"`    // of its content
}

// frame is one thing that the daemon says. The first one is its hello, the
// last one has the exit code.
type frame struct {
	Hello    *hello            `json:"hello,omitempty"`
	Stdout   []byte            `json:"stdout,omitempty"`
	Stderr   []byte            `json:"stderr,omitempty"`
	Progress *embassy.Progress `json:"progress,omitempty"`
	Exit     *int              `json:"exit,omitempty"`
}

// hello says whose socket it is.
type hello struct {
	PID     int       `json:"pid"`
	Started time.Time `json:"started"`
}

func contentSum(data []byte) string { return format.HashOf(data).String() }

// ownedByDaemon are the commands that run where the catalog is, and the jobs
// that each takes the place of: they do not run at the same time.
var ownedByDaemon = map[string]func(d *daemon, arguments []string) []string{
	"backup":          (*daemon).backupJobs,
	"status":          nothing,
	"replicate":       only(replicateJob),
	"verify":          only(verifyJob),
	"forget":          only(forgetJob),
	"prune":           only(pruneJob),
	"snapshots pin":   nothing,
	"snapshots unpin": nothing,
	"dataset hold":    nothing,
	"dataset release": nothing,
	"target list":     nothing,
	"target check":    only(checkJob),
	"target trust":    nothing,
	"catalog rebuild": func(d *daemon, _ []string) []string { return d.jobNames() },
}

func nothing(*daemon, []string) []string { return nil }

func only(job string) func(*daemon, []string) []string {
	return func(*daemon, []string) []string { return []string{job} }
}

func (d *daemon) jobNames() []string {
	var names []string
	for _, j := range d.runner.States() {
		names = append(names, j.Name)
	}
	return names
}

// backupJobs are those of the named datasets, or of all. The command itself
// refuses names that nobody knows.
func (d *daemon) backupJobs(datasets []string) []string {
	var names []string
	for _, ds := range d.site.config.Datasets {
		if len(datasets) == 0 || slices.Contains(datasets, ds.Name) {
			names = append(names, backupJob+ds.Name)
		}
	}
	return names
}

// route sends the commands that need the catalog to a daemon, where there is
// one; inside of a daemon it lets only those run.
func route(con *console, path string, commands []*cli.Command) {
	for _, c := range commands {
		name := strings.TrimSpace(path + " " + c.Name)
		route(con, name, c.Subcommands)
		jobs, here := ownedByDaemon[name], c.Action
		switch {
		case con.shared != nil && jobs == nil:
			c.Action = func(*cli.Context) error { return usage("the daemon does not run embassy %s", name) }
		case con.shared != nil:
			c.Action = func(c *cli.Context) error { return con.shared.instead(c, con, jobs, here) }
		case jobs != nil:
			c.Action = func(c *cli.Context) error {
				if there, err := con.forward(c.Context); there || err != nil {
					return err
				}
				return here(c)
			}
		}
	}
}

// instead runs a command in the place of jobs.
func (d *daemon) instead(c *cli.Context, con *console, jobs func(*daemon, []string) []string, run cli.ActionFunc) error {
	claimed := jobs(d, c.Args().Slice())
	release, err := d.runner.Claim(c.Context, claimed, func(job string) {
		con.notef("waiting for the run of %s to end", job)
	})
	if busy := (*schedule.BusyError)(nil); errors.As(err, &busy) {
		return fmt.Errorf("%w in the daemon, process %d: wait for its end, and see embassy status for its outcome", busy, os.Getpid())
	}
	if err != nil {
		return err
	}
	defer release()
	if len(claimed) == 0 {
		return run(c)
	}
	l := d.logRun(strings.Join(con.args, " "), "socket")
	err = run(c)
	text := "done"
	if err != nil {
		text = oneLine(err)
	}
	l.end(exitCode(err), text)
	return err
}

// listenSocket makes the socket. The caller has the catalog open, so a socket
// that is there already was left by a daemon that died.
func listenSocket(dir string) (net.Listener, error) {
	path := filepath.Join(dir, socketName)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	short, done, err := shortPath(dir)
	if err != nil {
		return nil, err
	}
	var private net.ListenConfig
	private.Control = privateSocket
	l, err := private.Listen(context.Background(), "unix", filepath.Join(short, socketName))
	done()
	if err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // its name may mean nothing by then
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return &socket{l, path}, nil
}

// socket is a listener that removes its file first.
type socket struct {
	net.Listener
	path string
}

func (s *socket) Close() error { return errors.Join(os.Remove(s.path), s.Listener.Close()) }

// dialSocket returns nil when no daemon listens.
func dialSocket(ctx context.Context, dir string) (*net.UnixConn, error) {
	short, done, err := shortPath(dir)
	if err != nil {
		return nil, nil // no daemon could listen there
	}
	defer done()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", filepath.Join(short, socketName))
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, nil
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("a daemon of another user has the state directory %s: run embassy as that user", dir)
	case err != nil:
		return nil, fmt.Errorf("socket of the daemon: %w", err)
	}
	return conn.(*net.UnixConn), nil
}

// serveSocket runs what clients ask for until the context ends, and returns
// when all of that has ended.
func (d *daemon) serveSocket(ctx context.Context, l net.Listener) error {
	var clients sync.WaitGroup
	defer clients.Wait()
	stop := context.AfterFunc(ctx, func() {
		if err := l.Close(); err != nil {
			d.log.Warn("close socket", "err", err)
		}
	})
	defer stop()
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("socket: %w", err)
		}
		clients.Go(func() { d.client(ctx, conn.(*net.UnixConn)) })
	}
}

// client serves one client.
func (d *daemon) client(ctx context.Context, conn *net.UnixConn) {
	w, in := &wire{conn: conn}, &stdinReader{conn: conn}
	defer func() {
		if in.stdin != nil {
			in.stdin.Close() // it was only read
		}
	}()
	var req request
	err := conn.SetReadDeadline(time.Now().Add(askTime))
	if err == nil {
		err = json.NewDecoder(io.LimitReader(in, maxRequest)).Decode(&req)
	}
	if err == nil {
		err = conn.SetReadDeadline(time.Time{})
	}
	if err == nil {
		err = w.send(frame{Hello: &hello{os.Getpid(), d.started}})
	}
	if err != nil || len(req.Args) == 0 {
		d.log.Debug("a client left without a command", "err", errors.Join(err, conn.Close()))
		return
	}
	run, cancel := context.WithCancel(ctx)
	defer cancel()
	w.lost = cancel
	gone := make(chan struct{})
	go func() { // ends when the connection does
		defer close(gone)
		// It says nothing more: this waits for its end.
		_, _ = io.Copy(io.Discard, conn)
		cancel()
	}()
	con := &console{stdin: strings.NewReader(""), stdout: w.stdout(), stderr: w.stderr(), json: req.JSON, shared: d, relay: w.progress}
	if in.stdin != nil {
		con.stdin = in.stdin
	}
	code := d.command(run, req, con)
	if code == 130 && ctx.Err() != nil {
		code = 1
		con.errorf("the daemon was stopped in the middle of this; run the same command again to go on")
	}
	// Nobody is there to be told that they are gone.
	_ = w.send(frame{Exit: &code})
	_ = conn.Close()
	<-gone
}

// command runs one command line and returns its exit code; 130, of which
// nothing has been said, when it was cancelled.
func (d *daemon) command(ctx context.Context, req request, con *console) int {
	if err := d.mayServe(req, con); err != nil {
		con.explain(err, exitCode(err))
		return exitCode(err)
	}
	args := []string{"embassy", "--config", d.site.config.File, "--log-level", req.Level}
	if req.JSON {
		args = append(args, "--json")
	}
	if req.Quiet {
		args = append(args, "--quiet")
	}
	err := con.app().RunContext(ctx, append(args, req.Args...))
	if err != nil && ctx.Err() != nil {
		return 130
	}
	con.explain(err, exitCode(err))
	return exitCode(err)
}

// mayServe refuses clients that mean another configuration.
func (d *daemon) mayServe(req request, con *console) error {
	switch {
	case req.Protocol != socketProtocol:
		return usage("the daemon, process %d, is of another version of embassy: restart it", os.Getpid())
	case req.Sum == d.sum:
	case req.Config != d.site.config.File:
		return usage("the daemon, process %d, has the catalog and works with %s, which is not the same as %s: name that file, or stop the daemon",
			os.Getpid(), d.site.config.File, req.Config)
	default:
		con.warnf("%s has changed since the daemon, process %d, read it: restart the daemon", req.Config, os.Getpid())
	}
	return nil
}

// wire sends frames to one client. Safe for concurrent use.
type wire struct {
	mu   sync.Mutex
	conn net.Conn
	lost context.CancelFunc
	err  error // the client is gone: nothing is sent any more
}

// send fails when the client does not take the frame in time; a run must not
// wait for one who has stopped reading.
func (w *wire) send(f frame) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return w.err
	}
	if w.err = w.conn.SetWriteDeadline(time.Now().Add(frameTime)); w.err == nil {
		w.err = json.NewEncoder(w.conn).Encode(f)
	}
	if w.err != nil && w.lost != nil {
		w.lost()
	}
	return w.err
}

func (w *wire) progress(p embassy.Progress) {
	// One who is gone is noticed by lost.
	_ = w.send(frame{Progress: &p})
}

type wireWriter func(p []byte) error

func (f wireWriter) Write(p []byte) (int, error) {
	if err := f(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (w *wire) stdout() io.Writer {
	return wireWriter(func(p []byte) error { return w.send(frame{Stdout: p}) })
}

func (w *wire) stderr() io.Writer {
	return wireWriter(func(p []byte) error { return w.send(frame{Stderr: p}) })
}
