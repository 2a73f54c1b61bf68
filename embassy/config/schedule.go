package config

import (
	"errors"
	"fmt"
	"strings"
	"time"

	cron "github.com/netresearch/go-cron"
	"go.yaml.in/yaml/v3"
)

// Schedule says when something is due. The zero Schedule never is. At most one
// of Cron and Every is set.
type Schedule struct {
	Cron   string         // five fields, or a macro such as @daily; as in crontab(5), a day matches by its date or its weekday when both are restricted
	Every  time.Duration  // since the last run, aligned to nothing
	Zone   *time.Location // of Cron; nil: that of this machine
	Jitter time.Duration  // up to which a run is put off, by whoever runs it; less than the time between two runs
}

// IsZero reports whether nothing is scheduled.
func (s Schedule) IsZero() bool { return s.Cron == "" && s.Every == 0 }

// String is the schedule in words.
func (s Schedule) String() string {
	text := s.Cron
	switch {
	case s.IsZero():
		return "never"
	case s.Every > 0:
		text = "every " + span(s.Every)
	case s.Zone != nil:
		text += " " + s.Zone.String()
	}
	if s.Jitter > 0 {
		text += ", up to " + span(s.Jitter) + " later"
	}
	return text
}

// span writes a length of time as ParseDuration reads it.
func span(d time.Duration) string {
	if d >= day && d%day == 0 {
		return fmt.Sprintf("%dd", d/day)
	}
	text := d.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(text, zero) {
			text = text[:len(text)-2]
		}
	}
	return text
}

// clockShift is more than any clock is put forward or back.
const clockShift = 3 * time.Hour

// Next returns when the next run is due that is due after that moment; zero:
// never. For Every the moment is that of the last run. Jitter is not added.
//
// When clocks are put forward, a run whose time of day does not exist that day
// is due when it would have been, had they not been; when they are put back, a
// time of day that comes twice counts once. A schedule of every hour just goes
// on: it counts hours, not times of the day.
func (s Schedule) Next(after time.Time) time.Time {
	if s.Every > 0 {
		return after.Add(s.Every)
	}
	zone := s.Zone
	if zone == nil {
		zone = time.Local
	}
	fields, err := parseCron(s.Cron)
	if err != nil {
		return time.Time{}
	}
	if everyHour := uint64(1)<<24 - 1; fields.Hour&everyHour == everyHour {
		fields.Location = zone
		return fields.Next(after.In(zone))
	}
	// In the time of a wall clock, for which UTC stands here, there are no
	// gaps. The order of what it shows and that of the moments differ near a
	// shift only.
	fields.Location = time.UTC
	var due time.Time
	for wall := onWall(after.In(zone)).Add(-clockShift); ; {
		wall = fields.Next(wall)
		if wall.IsZero() || !due.IsZero() && wall.After(onWall(due).Add(clockShift)) {
			return due
		}
		if at := moment(wall, zone); at.After(after) && (due.IsZero() || at.Before(due)) {
			due = at
		}
	}
}

// onWall is the date and time of day that t shows, as if they were UTC.
func onWall(t time.Time) time.Time {
	_, offset := t.Zone()
	return t.UTC().Add(time.Duration(offset) * time.Second)
}

// moment is when clocks of the zone show what wall shows: the first time, and
// if they never do, because they were put forward, when they would have.
func moment(wall time.Time, zone *time.Location) time.Time {
	with := func(near time.Time) time.Time {
		_, offset := near.In(zone).Zone()
		return wall.Add(-time.Duration(offset) * time.Second).In(zone)
	}
	about := time.Date(wall.Year(), wall.Month(), wall.Day(), wall.Hour(), wall.Minute(), 0, 0, zone)
	before, after := with(about.Add(-clockShift)), with(about.Add(clockShift))
	if !onWall(before).Equal(wall) && onWall(after).Equal(wall) {
		return after
	}
	return before
}

// A leap day is at most eight years away.
var cronParser = cron.MustNewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.Descriptor | cron.DowOrDom).WithMaxSearchYears(8)

var cronMacros = []string{"@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly", "@annually"}

// parseCron parses five fields or a macro. Errors are for people.
func parseCron(text string) (*cron.SpecSchedule, error) {
	if strings.HasPrefix(text, "TZ=") || strings.HasPrefix(text, "CRON_TZ=") {
		return nil, errors.New("the time zone does not stand in the fields")
	}
	parsed, err := cronParser.Parse(text)
	fields, ok := parsed.(*cron.SpecSchedule)
	switch {
	case err == nil && ok:
		return fields, nil
	case strings.HasPrefix(text, "@"):
		return nil, fmt.Errorf("unknown schedule %q", text)
	}
	names := []string{"minute (0 to 59)", "hour (0 to 23)", "day of the month (1 to 31)", "month (1 to 12, or jan to dec)", "day of the week (0 to 7, or sun to sat)"}
	given := strings.Fields(text)
	if len(given) != len(names) {
		return nil, fmt.Errorf("the schedule %q does not have %d fields", text, len(names))
	}
	for i, name := range names {
		alone := strings.Fields("* * * * *")
		alone[i] = given[i]
		if _, err := cronParser.Parse(strings.Join(alone, " ")); err != nil {
			return nil, fmt.Errorf("%q is no valid %s", given[i], name)
		}
	}
	return nil, fmt.Errorf("the schedule %q: %w", text, err)
}

const (
	cronHint     = `write minute, hour, day, month and weekday, such as "0 */6 * * *", or one of `
	everyHint    = `write "every: 6h"`
	scheduleHint = `write "0 */6 * * *", @daily, "every: 6h", never, or a mapping such as {cron: "0 3 * * *", time_zone: Europe/Tallinn, jitter: 5m}`
)

// schedule takes cron fields, a macro, "every: 6h", never, or a mapping.
func (r *reader) schedule(what string, dst *Schedule) func(*yaml.Node) {
	return func(n *yaml.Node) {
		var s Schedule
		before := len(r.problems)
		switch n.Kind {
		case yaml.MappingNode:
			r.scheduleMapping(n, what, &s)
		case yaml.SequenceNode:
			r.fail(n, what+" must be a text or a mapping, not a list", scheduleHint)
		default:
			r.text(what, func(n *yaml.Node, text string) { r.scheduleText(n, what, text, &s) })(n)
		}
		if len(r.problems) == before {
			*dst = s
		}
	}
}

func (r *reader) scheduleText(n *yaml.Node, what, text string, s *Schedule) {
	if text == "never" {
		return
	}
	for _, prefix := range []string{"every:", "every ", "@every "} {
		length, ok := strings.CutPrefix(text, prefix)
		if !ok {
			continue
		}
		every, err := ParseDuration(strings.TrimSpace(length))
		if err != nil {
			r.fail(n, what+": "+err.Error(), everyHint+", with a number and s, m, h, d or w")
		}
		s.Every = every
		return
	}
	r.cron(n, text, s)
}

func (r *reader) scheduleMapping(n *yaml.Node, what string, s *Schedule) {
	var zone *yaml.Node
	before := len(r.problems)
	r.mapping(n, what,
		key{"cron", r.text("cron", func(n *yaml.Node, text string) { r.cron(n, text, s) }), ""},
		key{"every", r.duration("every", &s.Every), ""},
		key{"time_zone", r.text("time_zone", func(n *yaml.Node, name string) {
			zone = n
			loaded, err := time.LoadLocation(name)
			if err != nil || name == "Local" {
				r.fail(n, fmt.Sprintf("there is no time zone %s", quote(name)), "write its name in the IANA database, such as Europe/Tallinn or UTC, or remove time_zone for that of this machine")
				return
			}
			s.Zone = loaded
		}), ""},
		key{"jitter", r.duration("jitter", &s.Jitter), ""},
	)
	if len(r.problems) > before {
		return
	}
	switch {
	case s.Cron == "" && s.Every == 0:
		r.fail(n, what+" has neither cron nor every", scheduleHint)
	case s.Cron != "" && s.Every > 0:
		r.fail(n, what+" has both cron and every", "keep one of them")
	case s.Every > 0 && zone != nil:
		r.fail(zone, "time_zone means nothing with every", "remove it, or write cron instead of every")
	default:
		first := s.Next(epoch)
		if between := s.Next(first).Sub(first); s.Jitter >= between {
			r.fail(n, fmt.Sprintf("jitter is %s, and two runs may be only %s apart", span(s.Jitter), span(between)), "write a shorter jitter")
		}
	}
}

// epoch is any moment from which schedules are looked at.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// cron takes what parseCron parses, if there is a day on which it is due.
func (r *reader) cron(n *yaml.Node, text string, s *Schedule) {
	hint := cronHint + among(cronMacros)
	if strings.Contains(text, "TZ=") {
		hint = `write {cron: "0 3 * * *", time_zone: Europe/Tallinn}`
	}
	if _, err := parseCron(text); err != nil {
		r.fail(n, err.Error(), hint)
		return
	}
	if (Schedule{Cron: text, Zone: time.UTC}).Next(epoch).IsZero() {
		r.fail(n, fmt.Sprintf("the schedule %q is never due: there is no such day", text), "correct it, or write never")
		return
	}
	s.Cron = text
}
