package config

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

const day = 24 * time.Hour

var durationUnits = map[string]time.Duration{
	"s": time.Second, "m": time.Minute, "h": time.Hour, "d": day, "w": 7 * day,
}

var durationPart = regexp.MustCompile(`^([0-9]+)([smhdw])`)

// ParseDuration reads a length of time above zero such as 90m, 6h, 2d, 1w or
// 1h30m; a day has 24 hours.
func ParseDuration(s string) (time.Duration, error) {
	var total time.Duration
	for rest := s; rest != "" || s == ""; {
		m := durationPart.FindStringSubmatch(rest)
		if m == nil {
			return 0, fmt.Errorf("%q is not a length of time", s)
		}
		n, err := strconv.ParseInt(m[1], 10, 64)
		unit := durationUnits[m[2]]
		if err != nil || n > (math.MaxInt64-int64(total))/int64(unit) {
			return 0, fmt.Errorf("%q is too long a time", s)
		}
		total += time.Duration(n) * unit
		rest = rest[len(m[0]):]
	}
	if total == 0 {
		return 0, fmt.Errorf("%q is not above zero", s)
	}
	return total, nil
}

var sizePattern = regexp.MustCompile(`^([0-9]+) ?([KMGT]i?B|B|)$`)

// parseSize reads a number of bytes above zero such as 500MB or 10GiB.
func parseSize(s string) (int64, error) {
	m := sizePattern.FindStringSubmatch(s)
	if m == nil {
		return 0, fmt.Errorf("%q is not a size", s)
	}
	base, power := int64(1000), 0
	if strings.Contains(m[2], "i") {
		base = 1024
	}
	if len(m[2]) > 1 {
		power = 1 + strings.Index("KMGT", m[2][:1])
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	for range power {
		if n > math.MaxInt64/base {
			return 0, fmt.Errorf("%q is too large", s)
		}
		n *= base
	}
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is not a size above zero", s)
	}
	return n, nil
}

var cronMacros = []string{"@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly", "@annually"}

var cronFields = []struct {
	name   string
	lo, hi int
	words  []string // words[i] stands for lo+i
}{
	{"minute", 0, 59, nil},
	{"hour", 0, 23, nil},
	{"day of the month", 1, 31, nil},
	{"month", 1, 12, strings.Fields("jan feb mar apr may jun jul aug sep oct nov dec")},
	{"day of the week", 0, 7, strings.Fields("sun mon tue wed thu fri sat")},
}

// checkSchedule accepts five cron fields or a macro.
func checkSchedule(s string) error {
	if strings.HasPrefix(s, "@") {
		if !slices.Contains(cronMacros, s) {
			return fmt.Errorf("unknown schedule %q", s)
		}
		return nil
	}
	fields := strings.Fields(s)
	if len(fields) != len(cronFields) {
		return fmt.Errorf("the schedule %q has %d fields instead of 5", s, len(fields))
	}
	for i, spec := range cronFields {
		for item := range strings.SplitSeq(fields[i], ",") {
			span, step, stepped := strings.Cut(item, "/")
			if n, err := strconv.Atoi(step); stepped && (err != nil || n < 1 || n > spec.hi) {
				return fmt.Errorf("%q has no valid step for the %s", item, spec.name)
			}
			if span == "*" {
				continue
			}
			from, to, isRange := strings.Cut(span, "-")
			if !isRange {
				to = from
			}
			value := func(text string) int {
				if i := slices.Index(spec.words, strings.ToLower(text)); i >= 0 {
					return spec.lo + i
				}
				if n, err := strconv.Atoi(text); err == nil && n >= spec.lo && n <= spec.hi {
					return n
				}
				return -1
			}
			if lo, hi := value(from), value(to); lo < 0 || hi < 0 || lo > hi {
				return fmt.Errorf("%q is not a valid %s (%d to %d)", item, spec.name, spec.lo, spec.hi)
			}
		}
	}
	return nil
}
