package main

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	systemd "github.com/coreos/go-systemd/v22/daemon"
)

// vitals is when the catalog last answered.
type vitals struct {
	mu       sync.Mutex
	answered time.Time
	err      error // of the last question
}

// watch asks the catalog now and then, and tells systemd's watchdog while all
// is well.
func (d *daemon) watch(ctx context.Context) error {
	every := lookEvery
	limit, err := systemd.SdWatchdogEnabled(false)
	if err != nil {
		return fmt.Errorf("watchdog: %w", err)
	}
	if limit > 0 {
		every = min(every, limit/3)
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		_, _, err := d.site.catalog.Noted("serve/seed")
		d.vitals.mu.Lock()
		if d.vitals.err = err; err == nil {
			d.vitals.answered = time.Now()
		}
		d.vitals.mu.Unlock()
		if limit > 0 && len(d.problems()) == 0 {
			d.tell(systemd.SdNotifyWatchdog)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// problems says why the daemon is not well; empty: it is.
func (d *daemon) problems() []string {
	list := []string{}
	if turned := d.runner.Turned(); time.Since(turned) > wellWithin {
		list = append(list, "the scheduler has stood still since "+moment(turned))
	}
	d.vitals.mu.Lock()
	defer d.vitals.mu.Unlock()
	switch v := &d.vitals; {
	case v.err != nil:
		list = append(list, "the catalog fails: "+oneLine(v.err))
	case time.Since(v.answered) > wellWithin && time.Since(d.started) > wellWithin:
		list = append(list, "the catalog has not answered since "+moment(v.answered))
	}
	return list
}

// healthz answers 200 while the scheduler turns and the catalog answers, else
// 503. How safe the data is, is no part of it: see status and metrics.
func (d *daemon) healthz(w http.ResponseWriter, _ *http.Request) {
	doc := struct {
		schema
		Healthy  bool     `json:"healthy"`
		Problems []string `json:"problems"`
		Notices  []string `json:"notices"` // what people should look at meanwhile
	}{schemaV1, false, d.problems(), []string{}}
	doc.Healthy = len(doc.Problems) == 0
	if failing := d.notify.failing(); failing != "" {
		doc.Notices = append(doc.Notices, failing)
	}
	w.Header().Set("Content-Type", "application/json")
	if !doc.Healthy {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	// One who hangs up need not be told.
	_ = printJSON(w, doc)
}
