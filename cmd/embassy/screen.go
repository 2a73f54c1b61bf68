package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"embassy/embassy"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	xterm "golang.org/x/term"
)

const (
	plainEvery  = 10 * time.Second // between two progress lines without a terminal
	jsonEvery   = time.Second      // and as JSON
	rateWindow  = 10 * time.Second // that a rate is measured over
	rateFloor   = 3 * time.Second  // below which a rate says nothing
	warningsMax = 20               // shown of one run; the report has the counts
)

// screen shows the progress of a run and what a person should know of it
// meanwhile: on a terminal as lines that are redrawn, one for the whole and
// one for each target, and otherwise as a plain line now and then. It is safe
// for concurrent use. The caller closes it before the report is printed.
type screen struct {
	mu       sync.Mutex
	out      io.Writer
	order    []string               // names of targets
	wanted   bool                   // progress is to be shown
	relay    func(embassy.Progress) // not nil: it is shown elsewhere
	bars     *mpb.Progress
	drawn    []*mpb.Bar
	samples  []embassy.Progress
	json     bool
	held     []byte    // the last line as JSON, unless it is printed
	long     bool      // the first line was due
	plain    time.Time // of the last line that was not drawn
	warnings int

	// paint guards what the bars show. The bars draw while mu is held by one
	// who waits for them.
	paint sync.Mutex
	lines []string
}

func newScreen(con *console, targets []string) *screen {
	s := &screen{out: con.stderr, order: targets, wanted: !con.quiet, relay: con.relay, json: con.json, plain: time.Now()}
	if f, ok := con.stderr.(*os.File); ok && s.wanted && !s.json && xterm.IsTerminal(int(f.Fd())) {
		s.bars = mpb.New(mpb.WithOutput(f), mpb.WithRefreshRate(100*time.Millisecond))
	}
	return s
}

// logger returns a logger that writes above the progress.
func (s *screen) logger(level slog.Level) *slog.Logger {
	return logger(s, level, s.json)
}

// Write prints whole lines above the progress.
func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.write(p)
}

func (s *screen) write(p []byte) (int, error) {
	if s.bars != nil && len(s.drawn) > 0 {
		return s.bars.Write(p)
	}
	return s.out.Write(p)
}

// warn shows a finding. A run that finds very many shows the first of them.
func (s *screen) warn(f embassy.Finding) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.warnings++; s.warnings <= warningsMax {
		if !s.json {
			f = embassy.Finding{Err: errors.New(f.String())}
		}
		s.say(event{Event: warningEvent, Target: f.Target, Object: f.Object, Text: oneLine(f.Err)})
	}
}

// waits says that the catalog is in use.
func (s *screen) waits(who string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wanted {
		s.say(event{Event: noteEvent, Text: fmt.Sprintf("waiting up to %s for the catalog, in use by %s", lockWait, who)})
	}
}

// warned reports whether anything was shown by warn.
func (s *screen) warned() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.warnings > 0
}

// say prints an event. Nobody can be told that stderr is gone.
func (s *screen) say(e event) { _, _ = s.write(e.line(s.json)) }

// teller returns progress, or nil when nobody wants to see it.
func (s *screen) teller() func(embassy.Progress) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.wanted {
		return nil
	}
	return s.progress
}

// progress shows where the run is.
func (s *screen) progress(p embassy.Progress) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.wanted {
		return
	}
	if s.relay != nil {
		s.relay(p)
		return
	}
	if s.bars == nil {
		s.tell(p, time.Now())
		return
	}
	s.remember(p)
	lines := s.describe(p)
	s.paint.Lock()
	s.lines = lines
	s.paint.Unlock()
	for i := len(s.drawn); i < len(lines); i++ {
		bar, err := s.bars.Add(0, mpb.BarFillerFunc(func(w io.Writer, stat decor.Statistics) error {
			return s.draw(w, i, stat.AvailableWidth)
		}), mpb.BarFillerTrim())
		if err != nil { // the bars are closed
			return
		}
		s.drawn = append(s.drawn, bar)
	}
}

// tell prints a line now and then, and, as JSON, the last one of every phase;
// of a run that is over before the first line is due, none.
func (s *screen) tell(p embassy.Progress, now time.Time) {
	if !s.json {
		if now.Sub(s.plain) >= plainEvery {
			s.plain = now
			s.remember(p)
			_, _ = s.write([]byte(s.describe(p)[0] + "\n")) // as of say
		}
		return
	}
	if s.remember(p) {
		s.flush()
	}
	v := s.speed(p)
	s.held = jsonLine(newProgressLine(p, v.rate, v.left))
	if now.Sub(s.plain) >= jsonEvery {
		s.plain, s.long = now, true
		s.flush()
	}
}

// flush prints the line that is held back, of a run that is long enough.
func (s *screen) flush() {
	if s.long && len(s.held) > 0 {
		_, _ = s.write(s.held) // as of say
	}
	s.held = nil
}

func (s *screen) draw(w io.Writer, i, width int) error {
	s.paint.Lock()
	line := ""
	if i < len(s.lines) {
		line = s.lines[i]
	}
	s.paint.Unlock()
	for utf8.RuneCountInString(line) > width {
		_, last := utf8.DecodeLastRuneInString(line)
		line = line[:len(line)-last]
	}
	_, err := io.WriteString(w, line)
	return err
}

// remember keeps what a rate is computed from, and reports whether p is the
// first of another phase.
func (s *screen) remember(p embassy.Progress) (another bool) {
	if n := len(s.samples); n > 0 {
		last := s.samples[n-1]
		another = last.Phase != p.Phase || last.Dataset != p.Dataset || last.Elapsed > p.Elapsed
	}
	if another {
		s.samples = nil
	}
	for len(s.samples) > 1 && p.Elapsed-s.samples[1].Elapsed > rateWindow {
		s.samples = s.samples[1:]
	}
	s.samples = append(s.samples, p)
	return another
}

// speed is how fast a run has been lately, and how long it needs at that speed.
type speed struct {
	since embassy.Progress // what it is measured from
	known bool
	rate  float64       // bytes per second
	left  time.Duration // 0: not known
}

func (s *screen) speed(p embassy.Progress) speed {
	v := speed{}
	if len(s.samples) > 1 {
		v.since = s.samples[0]
	}
	if v.known = p.Elapsed-v.since.Elapsed >= rateFloor; !v.known {
		return v
	}
	v.rate = v.of(p, p.Bytes, v.since.Bytes)
	if p.BytesTotal > p.Bytes && v.rate > 0 {
		v.left = time.Duration(float64(p.BytesTotal-p.Bytes) / v.rate * float64(time.Second))
	}
	return v
}

// of is the rate of one of the counts of p.
func (v speed) of(p embassy.Progress, now, then uint64) float64 {
	return float64(now-min(now, then)) / (p.Elapsed - v.since.Elapsed).Seconds()
}

// describe returns the line of the whole and those of the targets.
func (s *screen) describe(p embassy.Progress) []string {
	if p.Estimated && p.Bytes > p.BytesTotal { // it tells nothing any more
		p.BytesTotal = 0
	}
	if p.Estimated && p.Files > p.FilesTotal {
		p.FilesTotal = 0
	}
	words := []string{p.Phase}
	if p.Dataset != "" {
		words = append(words, p.Dataset)
	}
	total := func(of string, known uint64) string {
		switch {
		case known == 0:
			return ""
		case p.Estimated:
			return " of about " + of
		}
		return " of " + of
	}
	line := strings.Join(words, " ") + "  " + count(p.Files) + total(count(p.FilesTotal), p.FilesTotal) + " " + p.Unit() + "  " +
		size(p.Bytes) + total(size(p.BytesTotal), p.BytesTotal)
	if p.BytesTotal > 0 {
		line += fmt.Sprintf("  %d%%", min(100, 100*p.Bytes/p.BytesTotal))
	}
	v := s.speed(p)
	if v.known {
		line += "  " + size(uint64(v.rate)) + "/s"
	}
	if v.left > 0 {
		line += "  ETA " + whole(v.left+time.Second-1)
	}
	lines := []string{line}
	widest := 0
	for _, name := range s.order {
		widest = max(widest, len(name))
	}
	for _, name := range s.order {
		if n, ok := p.PerTarget[name]; ok {
			line := fmt.Sprintf("  %-*s  %10s", widest, name, size(n))
			if v.known {
				line += fmt.Sprintf("  %10s/s", size(uint64(v.of(p, n, v.since.PerTarget[name]))))
			}
			lines = append(lines, line)
		}
	}
	return lines
}

// close removes the progress from the screen.
func (s *screen) close() {
	s.mu.Lock()
	s.flush()
	bars, drawn := s.bars, slices.Clone(s.drawn)
	s.bars, s.drawn, s.wanted = nil, nil, false
	if s.warnings > warningsMax {
		defer s.more(s.warnings - warningsMax)
	}
	s.mu.Unlock()
	if bars == nil {
		return
	}
	for _, b := range drawn {
		b.Abort(true)
	}
	bars.Wait()
}

func (s *screen) more(n int) {
	s.say(event{Event: warningEvent, Text: fmt.Sprintf("and %d more like these", n)})
}
