package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"embassy/embassy"
	"embassy/embassy/child"
	"embassy/embassy/config"
	"embassy/embassy/schedule"
)

const (
	notifyTime  = 30 * time.Second // for the command
	remindEvery = 24 * time.Hour
	retryFirst  = time.Minute // after the command failed; doubled up to retryMost
	retryMost   = time.Hour
	beatTime    = 10 * time.Second // for one request
	subjectKey  = "notify/"        // of a note, before the subject
)

// beatPauses lie between the attempts of one heartbeat.
var beatPauses = []time.Duration{2 * time.Second, 10 * time.Second}

// notifier tells people, by a command, when a subject starts to fail, fails in
// another way, still fails after a day, and is well again; and by a heartbeat,
// that all is well. A subject is a job. What people were told is kept in the
// catalog, so that a restart repeats and forgets nothing.
type notifier struct {
	command []string // empty: tells nobody
	url     *url.URL // nil: no heartbeat
	nation  string
	notes   interface {
		Note(key string, value []byte) error
		Notes(prefix string) (map[string][]byte, error)
	}
	log     *slog.Logger
	changed chan struct{} // has room for one

	mu       sync.Mutex
	subjects map[string]subject
	beat     bool      // a heartbeat is due
	broken   error     // why the command failed last; nil: it did not
	brokenAt time.Time // since when
	failures uint64    // of the command
	misses   uint64    // of heartbeats
}

// subject is how a job ended last, and what people know of it.
type subject struct {
	Exit   int       `json:"exit"` // 0: all is well
	Text   string    `json:"text"`
	Since  time.Time `json:"since"`
	Told   int       `json:"told"` // the exit code that people know of
	ToldAt time.Time `json:"told_at,omitzero"`
}

// pending reports whether people are to be told now.
func (s subject) pending(now time.Time) bool {
	return s.Exit != s.Told || s.Exit != 0 && now.Sub(s.ToldAt) >= remindEvery
}

// newNotifier reads what people were told before.
func newNotifier(cfg *config.Config, notes embassy.Catalog, log *slog.Logger) (*notifier, error) {
	n := &notifier{
		command: cfg.Notify.Command, nation: cfg.Nation, notes: notes, log: log,
		changed: make(chan struct{}, 1), subjects: map[string]subject{},
	}
	if cfg.Notify.HeartbeatURL != "" {
		var err error
		if n.url, err = url.Parse(cfg.Notify.HeartbeatURL); err != nil {
			return nil, err
		}
	}
	kept, err := notes.Notes(subjectKey)
	if err != nil {
		return nil, err
	}
	for name, value := range kept {
		var s subject
		if err := json.Unmarshal(value, &s); err != nil {
			return nil, fmt.Errorf("note of %s: %w", name, err)
		}
		n.subjects[name] = s
	}
	return n, nil
}

// keepOnly forgets what is not scheduled any more.
func (n *notifier) keepOnly(jobs []schedule.Job) {
	n.mu.Lock()
	defer n.mu.Unlock()
	maps.DeleteFunc(n.subjects, func(name string, _ subject) bool {
		return !slices.ContainsFunc(jobs, func(j schedule.Job) bool { return j.Name == name && j.When != nil })
	})
}

// outcome takes the end of a scheduled run. The error says that it is not kept
// for the next start.
func (n *notifier) outcome(name string, exit int, text string) error {
	if !bad(exit) {
		exit = 0
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	s, known := n.subjects[name]
	if !known || s.Exit != exit {
		s.Since = time.Now()
	}
	s.Exit, s.Text = exit, text
	n.beat = true
	select {
	case n.changed <- struct{}{}:
	default:
	}
	return n.set(name, s)
}

// set keeps a subject; n.mu is held.
func (n *notifier) set(name string, s subject) error {
	n.subjects[name] = s
	value, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return n.notes.Note(subjectKey+name, value)
}

// failing says that the command does not work; else it is empty.
func (n *notifier) failing() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.broken == nil {
		return ""
	}
	return fmt.Sprintf("the notify command has failed since %s: %s", moment(n.brokenAt), oneLine(n.broken))
}

// run tells people until the context ends.
func (n *notifier) run(ctx context.Context) error {
	pause := retryFirst
	for {
		wait := time.Hour // reminders need no more
		if err := n.tellAll(ctx); err != nil {
			wait, pause = pause, min(2*pause, retryMost)
		} else {
			pause = retryFirst
		}
		n.heartbeat(ctx)
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-n.changed:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// tellAll tells of all that people do not know yet, and stops where that
// fails.
func (n *notifier) tellAll(ctx context.Context) error {
	if len(n.command) == 0 {
		return nil
	}
	n.mu.Lock()
	subjects := maps.Clone(n.subjects)
	n.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(subjects)) {
		s, now := subjects[name], time.Now()
		if !s.pending(now) {
			continue
		}
		err := n.tell(ctx, name, s)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		n.mu.Lock()
		if err != nil {
			if n.broken == nil {
				n.brokenAt = now
			}
			n.broken = err
			n.failures++
		} else {
			n.broken = nil
			latest := n.subjects[name] // it may have changed meanwhile
			latest.Told, latest.ToldAt = s.Exit, now
			if err := n.set(name, latest); err != nil {
				n.log.Error("what people were told is not kept", "subject", name, "err", err)
			}
		}
		n.mu.Unlock()
		if err != nil {
			n.log.Error("notify command failed", "subject", name, "err", err)
			return err
		}
		n.log.Info("people were told", "subject", name, "event", eventName(s))
	}
	return nil
}

func eventName(s subject) string {
	if s.Exit == 0 {
		return "recovery"
	}
	return "failure"
}

// tell runs the command once. It gets no variable of the daemon but those that
// programs need to run at all: the daemon's have the keys of targets.
func (n *notifier) tell(ctx context.Context, name string, s subject) error {
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	input, err := json.Marshal(struct {
		schema
		Event   string    `json:"event"`
		Subject string    `json:"subject"`
		Text    string    `json:"text"`
		Exit    int       `json:"exit_code"`
		Since   time.Time `json:"since"`
		Nation  string    `json:"nation"`
		Host    string    `json:"host"`
	}{schemaV1, eventName(s), name, s.Text, s.Exit, s.Since.UTC(), n.nation, host})
	if err != nil {
		return err
	}
	c := child.Command{
		Args: n.command, Stdin: bytes.NewReader(append(input, '\n')), Timeout: notifyTime,
		Env: []string{"EMBASSY_EVENT=" + eventName(s), "EMBASSY_SUBJECT=" + name, "EMBASSY_TEXT=" + strings.ReplaceAll(s.Text, "\x00", "")},
	}
	for _, v := range []string{"PATH", "HOME", "USER", "LANG", "TZ", "TMPDIR"} {
		if value, ok := os.LookupEnv(v); ok {
			c.Env = append(c.Env, v+"="+value)
		}
	}
	return c.Run(ctx)
}

// heartbeat tells the monitor, once after any number of runs, whether all
// subjects are well. Nobody waits for it: what it misses is logged.
func (n *notifier) heartbeat(ctx context.Context) {
	n.mu.Lock()
	due, to := n.beat && n.url != nil, n.url
	n.beat = false
	for _, s := range n.subjects {
		if due && s.Exit != 0 {
			to = n.url.JoinPath("fail")
		}
	}
	n.mu.Unlock()
	if !due {
		return
	}
	err := get(ctx, to.String())
	for _, pause := range beatPauses {
		if err == nil || ctx.Err() != nil {
			break
		}
		select {
		case <-time.After(pause):
			err = get(ctx, to.String())
		case <-ctx.Done():
		}
	}
	if err != nil && ctx.Err() == nil {
		n.log.Error("heartbeat failed", "err", err)
		n.mu.Lock()
		n.misses++
		n.mu.Unlock()
	}
}

// get asks for a page, and for nothing that it says. The error does not have
// the address, which is a secret of those who may report.
func get(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, beatTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if wrapped := (*url.Error)(nil); errors.As(err, &wrapped) {
		return wrapped.Err
	}
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20))
	if err = errors.Join(err, resp.Body.Close()); err == nil && resp.StatusCode/100 != 2 {
		err = fmt.Errorf("the answer is %s", resp.Status)
	}
	return err
}

// tallies are the figures of a notifier.
type tallies struct {
	failures, misses uint64
	pending          int
}

func (n *notifier) tallies() tallies {
	n.mu.Lock()
	defer n.mu.Unlock()
	t := tallies{failures: n.failures, misses: n.misses}
	for _, s := range n.subjects {
		if len(n.command) > 0 && s.pending(time.Now()) {
			t.pending++
		}
	}
	return t
}
