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
	plain    time.Time // of the last plain line
	warnings int

	// paint guards what the bars show. The bars draw while mu is held by one
	// who waits for them.
	paint sync.Mutex
	lines []string
}

func newScreen(con *console, targets []string) *screen {
	s := &screen{out: con.stderr, order: targets, wanted: !con.quiet, relay: con.relay, plain: time.Now()}
	if f, ok := con.stderr.(*os.File); ok && s.wanted && xterm.IsTerminal(int(f.Fd())) {
		s.bars = mpb.New(mpb.WithOutput(f), mpb.WithRefreshRate(100*time.Millisecond))
	}
	return s
}

// logger returns a logger that writes above the progress.
func (s *screen) logger(level slog.Level) *slog.Logger {
	return slog.New(slog.NewTextHandler(s, &slog.HandlerOptions{Level: level}))
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
		s.printf("warning: %s\n", oneLine(errors.New(f.String())))
	}
}

// waits says that the catalog is in use.
func (s *screen) waits(who string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wanted {
		s.printf("waiting up to %s for the catalog, in use by %s\n", lockWait, who)
	}
}

// warned reports whether anything was shown by warn.
func (s *screen) warned() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.warnings > 0
}

func (s *screen) printf(format string, args ...any) {
	// Nobody can be told that stderr is gone.
	_, _ = s.write(fmt.Appendf(nil, format, args...))
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
	now := time.Now()
	if s.bars == nil && now.Sub(s.plain) < plainEvery {
		return
	}
	s.remember(p)
	lines := s.describe(p)
	if s.bars == nil {
		s.plain = now
		s.printf("%s\n", lines[0])
		return
	}
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

// remember keeps what a rate is computed from.
func (s *screen) remember(p embassy.Progress) {
	if n := len(s.samples); n > 0 && (s.samples[n-1].Phase != p.Phase || s.samples[n-1].Dataset != p.Dataset || s.samples[n-1].Elapsed > p.Elapsed) {
		s.samples = nil
	}
	for len(s.samples) > 1 && p.Elapsed-s.samples[1].Elapsed > rateWindow {
		s.samples = s.samples[1:]
	}
	s.samples = append(s.samples, p)
}

// describe returns the line of the whole and those of the targets.
func (s *screen) describe(p embassy.Progress) []string {
	first := embassy.Progress{}
	if len(s.samples) > 1 {
		first = s.samples[0]
	}
	measured := p.Elapsed-first.Elapsed >= rateFloor
	rate := func(now, then uint64) float64 {
		if span := (p.Elapsed - first.Elapsed).Seconds(); measured && now > then {
			return float64(now-then) / span
		}
		return 0
	}
	words := []string{p.Phase}
	if p.Dataset != "" {
		words = append(words, p.Dataset)
	}
	line := strings.Join(words, " ") + "  " + ofTotal(count(p.Files), count(p.FilesTotal), p.FilesTotal) + " " + p.Unit() + "  " +
		ofTotal(size(p.Bytes), size(p.BytesTotal), p.BytesTotal)
	speed := rate(p.Bytes, first.Bytes)
	if p.BytesTotal > 0 {
		line += fmt.Sprintf("  %d%%", min(100, 100*p.Bytes/p.BytesTotal))
	}
	if measured {
		line += "  " + size(uint64(speed)) + "/s"
	}
	if p.BytesTotal > p.Bytes && speed > 0 {
		line += "  ETA " + whole(time.Duration(float64(p.BytesTotal-p.Bytes)/speed*float64(time.Second))+time.Second-1)
	}
	lines := []string{line}
	widest := 0
	for _, name := range s.order {
		widest = max(widest, len(name))
	}
	for _, name := range s.order {
		if n, ok := p.PerTarget[name]; ok {
			line := fmt.Sprintf("  %-*s  %10s", widest, name, size(n))
			if measured {
				line += fmt.Sprintf("  %10s/s", size(uint64(rate(n, first.PerTarget[name]))))
			}
			lines = append(lines, line)
		}
	}
	return lines
}

func ofTotal(done, total string, known uint64) string {
	if known == 0 {
		return done
	}
	return done + " of " + total
}

// close removes the progress from the screen.
func (s *screen) close() {
	s.mu.Lock()
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
	fmt.Fprintf(s.out, "warning: and %d more like these\n", n)
}
