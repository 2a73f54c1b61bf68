package main

import (
	"fmt"
	"os"
	"time"

	"embassy/embassy"

	xterm "golang.org/x/term"
)

const (
	rateFloor  = 2 * time.Second // before a rate means anything
	clearBelow = "\r\x1b[K"      // the line of the progress
)

// progress is what a line of progress builds on.
type progress struct {
	dataset string
	fetched map[string]uint64 // bytes by target, at the line before
	serving string            // the target that gave most between the last two
}

// progress returns what shows progress on a terminal, or nil.
func (r *rescue) progress() func(embassy.Progress) {
	f, ok := r.stderr.(*os.File)
	if !ok || !xterm.IsTerminal(int(f.Fd())) {
		return nil
	}
	r.live = true
	var state progress
	return func(p embassy.Progress) {
		r.mu.Lock()
		defer r.mu.Unlock()
		fmt.Fprint(r.stderr, clearBelow+state.line(p)+"\r")
	}
}

// line says how far a phase is, which target serves it, and when it will end.
func (s *progress) line(p embassy.Progress) string {
	if s.dataset != p.Dataset {
		*s = progress{dataset: p.Dataset}
	}
	var most, sum uint64
	for name, n := range p.PerTarget {
		sum += n
		if more := n - min(n, s.fetched[name]); more > most {
			most, s.serving = more, name
		}
	}
	s.fetched = p.PerTarget
	line := p.Phase
	if p.Dataset != "" {
		line += " " + p.Dataset
	}
	line += fmt.Sprintf(": %d of %d %s", p.Files, p.FilesTotal, p.Unit())
	if p.BytesTotal > 0 {
		line += fmt.Sprintf(", %s of %s", size(p.Bytes), size(p.BytesTotal))
	}
	if s.serving != "" {
		line += fmt.Sprintf("; %s fetched, now from %s", size(sum), s.serving)
	}
	if p.Elapsed < rateFloor {
		return line
	}
	if sum > 0 {
		line += fmt.Sprintf(", %s/s", size(uint64(float64(sum)/p.Elapsed.Seconds())))
	}
	if p.Bytes > 0 && p.BytesTotal > p.Bytes {
		left := time.Duration(float64(p.Elapsed) * float64(p.BytesTotal-p.Bytes) / float64(p.Bytes))
		line += fmt.Sprintf("; %s left", left.Round(time.Second))
	}
	return line
}
