package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"embassy/embassy"
)

// With --json every line on stderr is one event: an object with the version, the
// kind of the event, and what it is about. Prompts are no events.
const (
	noteEvent     = "note"    // advice, and what is good to know
	warningEvent  = "warning" // a bad copy, a dead target, a gap: the run goes on
	errorEvent    = "error"   // why the exit code is not 0
	progressEvent = "progress"
	logEvent      = "log" // what --log-level asks for
)

// event is a line of stderr for a person, and for a program.
type event struct {
	schema
	Event  string `json:"event"`
	Target string `json:"target,omitempty"`
	Object string `json:"object,omitempty"`
	Text   string `json:"text"`
	Exit   int    `json:"exit_code,omitempty"`
}

func (con *console) notef(format string, args ...any) {
	if !con.quiet {
		con.say(event{Event: noteEvent, Text: fmt.Sprintf(format, args...)})
	}
}

func (con *console) warnf(format string, args ...any) {
	con.say(event{Event: warningEvent, Text: fmt.Sprintf(format, args...)})
}

func (con *console) errorf(format string, args ...any) {
	con.say(event{Event: errorEvent, Text: fmt.Sprintf(format, args...)})
}

// say prints an event. Nobody can be told that stderr is gone.
func (con *console) say(e event) { _, _ = con.stderr.Write(e.line(con.json)) }

// line is how an event is printed.
func (e event) line(asJSON bool) []byte {
	if asJSON {
		e.schema, e.Text = schemaV1, strings.TrimSpace(e.Text)
		return jsonLine(e)
	}
	return []byte(map[string]string{warningEvent: "warning: ", errorEvent: "embassy: "}[e.Event] + e.Text + "\n")
}

// jsonLine is for values that always have a form in JSON.
func jsonLine(v any) []byte {
	line, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return append(line, '\n')
}

// progressLine is embassy.Progress in JSON. Totals are 0 while unknown.
type progressLine struct {
	schema
	Event      string            `json:"event"`
	Time       time.Time         `json:"time"`
	Phase      string            `json:"phase"`
	Dataset    string            `json:"dataset,omitempty"`
	Unit       string            `json:"unit"` // of done
	Done       uint64            `json:"done"`
	Total      uint64            `json:"total"`
	Bytes      uint64            `json:"bytes"`
	BytesTotal uint64            `json:"bytes_total"`
	Estimated  bool              `json:"totals_estimated"`
	Rate       uint64            `json:"bytes_per_second"`       // 0 in the first seconds
	Left       float64           `json:"seconds_left,omitempty"` // 0: not known
	Targets    map[string]uint64 `json:"targets"`                // bytes sent, or fetched
	Seconds    float64           `json:"seconds"`
}

func newProgressLine(p embassy.Progress, speed float64, left time.Duration) progressLine {
	return progressLine{
		schema: schemaV1, Event: progressEvent, Time: time.Now().UTC(), Phase: p.Phase, Dataset: p.Dataset, Unit: p.Unit(),
		Done: p.Files, Total: p.FilesTotal, Bytes: p.Bytes, BytesTotal: p.BytesTotal, Estimated: p.Estimated,
		Rate: uint64(speed), Left: seconds(left), Targets: p.PerTarget, Seconds: seconds(p.Elapsed),
	}
}

// seconds leaves out what nobody can measure.
func seconds(d time.Duration) float64 { return d.Round(time.Millisecond).Seconds() }

// logger returns what logs to out.
func logger(out io.Writer, level slog.Level, asJSON bool) *slog.Logger {
	o := &slog.HandlerOptions{Level: level}
	if asJSON {
		return slog.New(slog.NewJSONHandler(out, o)).With("version", schemaV1.Version, "event", logEvent)
	}
	return slog.New(slog.NewTextHandler(out, o))
}
