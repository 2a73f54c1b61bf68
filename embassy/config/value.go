package config

import (
	"fmt"
	"math"
	"regexp"
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

var sizePattern = regexp.MustCompile(`^([0-9]+) ?([kKMGT]i?B|B|)$`)

// ParseSize reads a number of bytes above zero such as 1048576, 500kB, 500MB
// or 10GiB.
func ParseSize(s string) (int64, error) {
	m := sizePattern.FindStringSubmatch(s)
	if m == nil {
		return 0, fmt.Errorf("%q is not a size", s)
	}
	base, power := int64(1000), 0
	if strings.Contains(m[2], "i") {
		base = 1024
	}
	if len(m[2]) > 1 {
		power = 1 + strings.Index("KMGT", strings.ToUpper(m[2][:1]))
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

// minRate, in bytes per second, is less than any link has, and more than any
// number of megabytes that lacks its unit.
const minRate = 1000

// ParseRate reads a number of bytes per second, written as ParseSize reads it,
// with or without /s behind it.
func ParseRate(s string) (int64, error) {
	n, err := ParseSize(strings.TrimSuffix(s, "/s"))
	if err != nil {
		return 0, fmt.Errorf("%q is not a rate", s)
	}
	if n < minRate {
		return 0, fmt.Errorf("%q is less than %d bytes per second", s, minRate)
	}
	return n, nil
}

var sharePattern = regexp.MustCompile(`^([0-9]+(?:\.[0-9]+)?) ?%$`)

// ParseShare reads a share above 0% and up to 100%, such as 5% or 0.5%.
func ParseShare(s string) (float64, error) {
	m := sharePattern.FindStringSubmatch(s)
	if m == nil {
		return 0, fmt.Errorf("%q is not a share", s)
	}
	v, err := strconv.ParseFloat(m[1], 64)
	if err != nil || v <= 0 || v > 100 {
		return 0, fmt.Errorf("%q is not above 0%% and up to 100%%", s)
	}
	return v / 100, nil
}
