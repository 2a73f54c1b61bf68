package main

import (
	"context"
	"log/slog"
	"net/http"
	"runtime"
	"strconv"
	"sync"
	"time"

	"embassy/embassy"
	"embassy/targets"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// scrapeWait is how long a scrape waits for a new status before it tells the
// last one.
const scrapeWait = 3 * time.Second

// faultKinds are shown with a zero as long as there is none, so that a first
// one is a change.
var faultKinds = []embassy.FaultKind{
	embassy.FaultRollback, embassy.FaultDiscards, embassy.FaultMissing, embassy.FaultAltered, embassy.FaultSwapped,
	embassy.FaultCut, embassy.FaultForged, embassy.FaultForeign, embassy.FaultFork,
}

// metrics collects the figures of a daemon when they are asked for.
type metrics struct {
	d       *daemon
	traffic []*targets.Counter // of the site's members, in their order
	ask     chan chan struct{}
	runs    *prometheus.CounterVec

	mu      sync.Mutex
	status  embassy.Status
	asOf    time.Time // of both; zero: never
	exits   map[string]int
	backups map[string]embassy.BackupReport
}

func newMetrics(d *daemon, traffic []*targets.Counter) *metrics {
	return &metrics{
		d: d, traffic: traffic, ask: make(chan chan struct{}),
		runs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "embassy_job_runs_total", Help: "Scheduled runs of a job that ended, by exit code.",
		}, []string{"job", "exit_code"}),
		exits: map[string]int{}, backups: map[string]embassy.BackupReport{},
	}
}

// handler answers scrapes from a registry of its own.
func (m *metrics) handler() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(m, m.runs, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(m.d.log.Handler(), slog.LevelWarn), MaxRequestsInFlight: 4,
	})
}

// ended counts a scheduled run.
func (m *metrics) ended(job string, exit int) {
	m.runs.WithLabelValues(job, strconv.Itoa(exit)).Inc()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.exits[job] = exit
}

// backedUp takes the figures of a scheduled backup.
func (m *metrics) backedUp(r embassy.BackupReport) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.backups[r.Dataset] = r
}

// run looks at the status for those who ask, until the context ends.
func (m *metrics) run(ctx context.Context) error {
	quiet := m.d.service.With(func(embassy.Finding) {}, func(embassy.Progress) {}, m.d.log)
	for {
		select {
		case <-ctx.Done():
			return nil
		case done := <-m.ask:
			status, err := quiet.Status(ctx, false)
			if err != nil && ctx.Err() == nil {
				m.d.log.Warn("no status for metrics", "err", err)
			}
			if err == nil {
				m.mu.Lock()
				m.status, m.asOf = status, time.Now()
				m.mu.Unlock()
			}
			close(done)
		}
	}
}

// refresh waits a little for a new status.
func (m *metrics) refresh() {
	done, late := make(chan struct{}), time.After(scrapeWait)
	select {
	case m.ask <- done:
		select {
		case <-done:
		case <-late:
		}
	case <-late:
	}
}

// family is one metric, whose figures are computed at every scrape.
type family struct {
	*prometheus.Desc
	kind prometheus.ValueType
}

func gauge(name, help string, labels ...string) family {
	return family{prometheus.NewDesc("embassy_"+name, help, labels, nil), prometheus.GaugeValue}
}

func counter(name, help string, labels ...string) family {
	return family{prometheus.NewDesc("embassy_"+name, help, labels, nil), prometheus.CounterValue}
}

var (
	buildInfo = gauge("build_info", "The version of the program.", "version", "goversion")
	statusAge = gauge("status_timestamp_seconds", "When the figures of datasets and of faults were true.")

	safeAge      = gauge("dataset_safe_age_seconds", "Age of the newest snapshot that the commit rule holds for.", "dataset")
	rpoSeconds   = gauge("dataset_rpo_seconds", "The age that a dataset's newest safe snapshot must not exceed.", "dataset")
	isLate       = gauge("dataset_late", "1 when the newest safe snapshot is older than the RPO, or there is none.", "dataset")
	isPending    = gauge("dataset_pending", "1 when the newest snapshot is not safe yet.", "dataset")
	copies       = gauge("dataset_safe_copies", "Targets that confirmed the newest safe snapshot.", "dataset")
	guarded      = gauge("dataset_safe_guarded_copies", "Guarded targets that confirmed the newest safe snapshot.", "dataset")
	lastExit     = gauge("dataset_last_run_exit_code", "Exit code of the last backup.", "dataset")
	lastDuration = gauge("dataset_last_run_duration_seconds", "How long the last backup took.", "dataset")
	lastEnd      = gauge("dataset_last_run_timestamp_seconds", "When the last backup ended.", "dataset")
	lastBytes    = gauge("dataset_last_scheduled_run_bytes", "Of the last scheduled backup since the daemon started: content in all, read from the sources, and added as new packs.", "dataset", "what")

	isUp        = gauge("target_up", "1 when the target answered when it was last used.", "target")
	breaker     = gauge("target_breaker_open", "1 while the target is not asked, because it failed.", "target")
	banned      = gauge("target_banned", "1 when the target is not used any more until the daemon is restarted.", "target")
	behind      = gauge("target_behind_entries", "Ledger entries that the target lacks, over all chains that this machine knows.", "target")
	provenGuard = gauge("target_guarded", "1 when the last check proved that these credentials cannot destroy what was written.", "target")
	sent        = counter("target_sent_bytes_total", "Bytes of objects put on the target.", "target")
	received    = counter("target_received_bytes_total", "Bytes of objects read from the target.", "target")
	lockEnd     = gauge("target_lock_expiry_timestamp_seconds", "When the first object lock on the target ends, as the last renewal found.", "target")
	faults      = gauge("target_faults", "Faults of the target that are neither mended nor forgiven.", "target", "kind")

	jobStart   = gauge("job_last_start_timestamp_seconds", "When the last scheduled run of the job started.", "job")
	jobSuccess = gauge("job_last_success_timestamp_seconds", "When the last scheduled run of the job that succeeded started.", "job")
	jobNext    = gauge("job_next_timestamp_seconds", "When the job is due.", "job")
	jobRunning = gauge("job_running", "1 while a run of the job is under way, scheduled or asked for.", "job")
	jobExit    = gauge("job_last_exit_code", "Exit code of the last scheduled run since the daemon started.", "job")

	notifyFailures = counter("notify_failures_total", "Times that the notify command failed.")
	notifyPending  = gauge("notify_pending", "Changes that people have not been told of yet.")
	beatFailures   = counter("heartbeat_failures_total", "Heartbeats that the monitor did not take.")
)

// Describe implements prometheus.Collector: what there is depends on the
// configuration.
func (m *metrics) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(out chan<- prometheus.Metric) {
	m.refresh()
	put := func(f family, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(f.Desc, f.kind, v, labels...)
	}
	when := func(f family, t time.Time, labels ...string) {
		if !t.IsZero() {
			put(f, float64(t.UnixMilli())/1000, labels...)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	put(buildInfo, 1, version, runtime.Version())
	when(statusAge, m.asOf)
	if !m.asOf.IsZero() {
		m.datasets(put, when)
	}
	m.targets(put, when)
	for _, j := range m.d.runner.States() {
		when(jobStart, j.Record.Started, j.Name)
		when(jobSuccess, j.Record.Succeeded, j.Name)
		when(jobNext, j.Next, j.Name)
		put(jobRunning, oneIf(!j.Held.IsZero()), j.Name)
		if exit, ok := m.exits[j.Name]; ok {
			put(jobExit, float64(exit), j.Name)
		}
	}
	t := m.d.notify.tallies()
	put(notifyFailures, float64(t.failures))
	put(notifyPending, float64(t.pending))
	put(beatFailures, float64(t.misses))
}

func (m *metrics) datasets(put func(family, float64, ...string), when func(family, time.Time, ...string)) {
	for _, d := range m.status.Datasets {
		if !d.Time.IsZero() {
			put(safeAge, time.Since(d.Time).Seconds(), d.Name)
		}
		if d.RPO > 0 {
			put(rpoSeconds, d.RPO.Seconds(), d.Name)
		}
		put(isLate, oneIf(d.Late), d.Name)
		put(isPending, oneIf(d.Pending != nil), d.Name)
		put(copies, float64(d.Copies), d.Name)
		put(guarded, float64(d.Guarded), d.Name)
		if r := d.LastRun; r != nil {
			put(lastExit, float64(r.Exit), d.Name)
			put(lastDuration, r.Ended.Sub(r.Started).Seconds(), d.Name)
			when(lastEnd, r.Ended, d.Name)
		}
		if r, ok := m.backups[d.Name]; ok {
			put(lastBytes, float64(r.Bytes), d.Name, "content")
			put(lastBytes, float64(r.Read), d.Name, "read")
			put(lastBytes, float64(r.Added), d.Name, "added")
		}
	}
}

func (m *metrics) targets(put func(family, float64, ...string), when func(family, time.Time, ...string)) {
	counts := map[string]map[embassy.FaultKind]int{}
	for _, f := range m.status.Faults {
		if counts[f.Target] == nil {
			counts[f.Target] = map[embassy.FaultKind]int{}
		}
		counts[f.Target][f.Kind]++
	}
	known := map[string]embassy.TargetStatus{}
	for _, t := range m.status.Targets {
		known[t.Name] = t
	}
	for i, t := range m.d.site.members {
		down := t.Down() != nil
		put(isUp, oneIf(!down && known[t.Name].Err == nil), t.Name)
		put(breaker, oneIf(down), t.Name)
		put(banned, oneIf(t.Banned()), t.Name)
		put(sent, float64(m.traffic[i].Bytes(targets.OpPut)), t.Name)
		put(received, float64(m.traffic[i].Bytes(targets.OpGet)), t.Name)
		if k, ok := known[t.Name]; ok {
			put(behind, float64(k.Behind), t.Name)
			if k.Locked != nil && k.Locked.Earliest != nil {
				when(lockEnd, *k.Locked.Earliest, t.Name)
			}
			put(provenGuard, oneIf(k.Guarded == embassy.Yes), t.Name)
		}
		for _, kind := range faultKinds {
			put(faults, float64(counts[t.Name][kind]), t.Name, string(kind))
		}
	}
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
