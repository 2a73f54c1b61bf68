package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"embassy/embassy"
	"embassy/embassy/schedule"
	"embassy/targets"

	systemd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/urfave/cli/v2"
	"golang.org/x/sync/errgroup"
)

const (
	stopWithin = time.Minute      // for runs to end after they were cancelled
	lookEvery  = 5 * time.Second  // at scheduler and catalog
	wellWithin = 30 * time.Second // both must have answered
)

func serveCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:  "serve",
		Usage: "back up, replicate, verify, renew locks, forget and prune on schedule, until stopped",
		Description: "The daemon owns the catalog: commands beside it that need the catalog run inside of it, over the socket\n" +
			"embassy.sock in the state directory. It reads the configuration once: restart it after a change.",
		Action: action(con, func(c *cli.Context) (slog.Level, error) {
			level := con.level
			if !c.IsSet("log-level") {
				level = slog.LevelInfo
			}
			return level, noArguments(c)
		}, runServe),
	}
}

func runServe(ctx context.Context, level slog.Level, con *console) (err error) {
	plain := *con // no progress: it is for the journal
	plain.quiet, plain.level = true, level
	s, err := plain.openSite()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if s.config.Serve.Listen != "" {
		if err := loopbackOnly(s.config.Serve.Listen); err != nil {
			return err
		}
	}
	if other, err := askDaemon(ctx, s.config.StateDir); err != nil {
		return err
	} else if other != nil {
		return fmt.Errorf("embassy serve runs already for %s: process %d, since %s", s.config.StateDir, other.PID, moment(other.Started))
	}
	if err := s.openCatalog(); err != nil {
		return err
	}
	d, err := newDaemon(s)
	if err != nil {
		return err
	}
	return d.run(ctx)
}

// loopbackOnly refuses an address that others than this machine could reach.
func loopbackOnly(listen string) error {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return usage("serve: listen: %s: write an address of this machine, such as 127.0.0.1:9347", err)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return usage("serve: listen: %s can be reached from outside, and anybody there could read what this machine protects: "+
			"listen on 127.0.0.1, and let a proxy with authentication stand before it", listen)
	}
	return nil
}

// daemon is one run of serve. It shares its members and its catalog with the
// commands that are sent to it.
type daemon struct {
	site    *site
	service *embassy.Service
	sum     string // of the configuration file as it was read
	started time.Time
	log     *slog.Logger
	runner  *schedule.Runner
	notify  *notifier
	metrics *metrics
	vitals  vitals
}

// newDaemon takes over the site, whose catalog is open. The caller closes it.
func newDaemon(s *site) (*daemon, error) {
	d := &daemon{site: s, started: time.Now(), log: s.log}
	var err error
	if d.sum, err = fileSum(s.config.File); err != nil {
		return nil, err
	}
	traffic := make([]*targets.Counter, len(s.members))
	for i, m := range s.members {
		s.members[i], traffic[i] = lasting(m, s.reopen[i])
	}
	if d.service, err = s.service(); err != nil {
		return nil, err
	}
	if d.notify, err = newNotifier(s.config, s.catalog, s.log); err != nil {
		return nil, err
	}
	seed, err := ownSeed(s.catalog)
	if err != nil {
		return nil, err
	}
	jobs := d.jobs()
	d.notify.keepOnly(jobs)
	d.runner, err = schedule.New(schedule.Options{
		Jobs: jobs, Store: schedule.Keep(s.catalog), Seed: seed, Log: s.log,
	})
	if err != nil {
		return nil, err
	}
	d.metrics = newMetrics(d, traffic)
	return d, nil
}

// ownSeed returns what makes this machine's jitter differ from others'.
func ownSeed(catalog embassy.Catalog) (string, error) {
	const key = "serve/seed"
	seed, ok, err := catalog.Noted(key)
	if err == nil && !ok {
		seed = []byte(rand.Text())
		err = catalog.Note(key, seed)
	}
	return string(seed), err
}

// run serves until the context ends, or something fails that the daemon cannot
// go on without. Then no run starts any more, and those under way are
// cancelled: they leave what can be resumed.
func (d *daemon) run(ctx context.Context) error {
	socket, err := listenSocket(d.site.config.StateDir)
	if err != nil {
		return err
	}
	var web net.Listener
	if listen := d.site.config.Serve.Listen; listen != "" {
		if web, err = net.Listen("tcp", listen); err != nil {
			return errors.Join(fmt.Errorf("listen for /healthz and /metrics: %w; set serve: {listen: ...} to a free address of this machine", err), socket.Close())
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.runner.Run(ctx) })
	g.Go(func() error { return d.notify.run(ctx) })
	g.Go(func() error { return d.metrics.run(ctx) })
	g.Go(func() error { return d.watch(ctx) })
	g.Go(func() error { return d.serveSocket(ctx, socket) })
	address := "none"
	if web != nil {
		address = web.Addr().String()
		g.Go(func() error { return d.serveWeb(ctx, web) })
	}
	d.log.Info("serving", "pid", os.Getpid(), "state", d.site.config.StateDir, "listen", address)
	d.tell(systemd.SdNotifyReady)

	<-ctx.Done()
	d.log.Info("stopping")
	d.tell(systemd.SdNotifyStopping)
	ended := make(chan error, 1)
	go func() { ended <- g.Wait() }()
	select {
	case err = <-ended:
	case <-time.After(stopWithin):
		err = fmt.Errorf("a run did not end within %s of being cancelled; it goes on at the next start", stopWithin)
	}
	d.log.Info("stopped")
	return err
}

// tell tells systemd, if that has started the daemon.
func (d *daemon) tell(state string) {
	if _, err := systemd.SdNotify(false, state); err != nil {
		d.log.Warn("notify systemd", "err", err)
	}
}

// serveWeb answers on a loopback address.
func (d *daemon) serveWeb(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", d.healthz)
	mux.Handle("GET /metrics", d.metrics.handler())
	server := &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute,
		ErrorLog: slog.NewLogLogger(d.log.Handler(), slog.LevelWarn),
	}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve /healthz and /metrics: %w", err)
	}
	return nil
}

// logged is a run in the log: one line when it starts, one when it ends.
type logged struct {
	log   *slog.Logger
	start time.Time
}

func (d *daemon) logRun(job, asked string) logged {
	l := logged{d.log.With("job", job), time.Now()}
	l.log.Info("run starts", "asked", asked)
	return l
}

func (l logged) end(exit int, text string) {
	level := slog.LevelInfo
	if exit != 0 {
		level = slog.LevelWarn
	}
	l.log.Log(context.Background(), level, "run ends", "exit", exit, "elapsed", time.Since(l.start).Round(time.Millisecond), "outcome", text)
}

// warnTo returns what puts findings into a log.
func warnTo(log *slog.Logger) func(embassy.Finding) {
	return func(f embassy.Finding) { log.Warn("finding", "target", f.Target, "object", f.Object, "err", f.Err) }
}

// fileSum identifies the content of a configuration file.
func fileSum(path string) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", badConfig(err)
	}
	return contentSum(data), nil
}

// siteFor is the daemon's site, for one command of a client.
func (d *daemon) siteFor(con *console, l limits) (*site, error) {
	if len(l.upload)+len(l.download) > 0 {
		return nil, usage("the daemon, process %d, has limits of its own: set limits in %s and restart it, or stop it", os.Getpid(), d.site.config.File)
	}
	s := &site{config: d.site.config, members: d.site.members, catalog: d.site.catalog, shared: d}
	var names []string
	for _, m := range s.members {
		names = append(names, m.Name)
	}
	s.screen = newScreen(con, names)
	s.log = s.screen.logger(con.level)
	return s, nil
}
