package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	"embassy/embassy"
)

// schema stands first in every JSON document. A change that breaks readers
// raises the number.
type schema struct {
	Version int `json:"version"`
}

var schemaV1 = schema{Version: 1}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// table aligns columns: cells are separated by tabs, and the writer is
// flushed at the end.
func table(w io.Writer) *tabwriter.Writer { return tabwriter.NewWriter(w, 0, 8, 2, ' ', 0) }

// size writes a number of bytes: 512 B, 1.5 KiB, 32.0 MiB.
func size(n uint64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, unit := float64(n)/1024, 0
	for f >= 1023.95 && unit < 5 {
		f, unit = f/1024, unit+1
	}
	return fmt.Sprintf("%.1f %ciB", f, "KMGTPE"[unit])
}

// count writes a number with commas.
func count(n uint64) string {
	s := strconv.FormatUint(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// plural writes a count with its noun.
func plural(n uint64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return count(n) + " " + many
}

// length writes a time span in its two largest units: 2d4h, 3h12m, 45s, 0.3s.
func length(d time.Duration) string {
	switch {
	case d < 0:
		return "-" + length(-d)
	case d < 10*time.Second:
		return fmt.Sprintf("%.1fs", d.Seconds())
	}
	const day = 24 * time.Hour
	for _, u := range []struct {
		size, next   time.Duration
		large, small string
	}{{day, time.Hour, "d", "h"}, {time.Hour, time.Minute, "h", "m"}, {time.Minute, time.Second, "m", "s"}} {
		if d >= u.size {
			text := fmt.Sprintf("%d%s", d/u.size, u.large)
			if rest := d % u.size / u.next; rest > 0 {
				text += fmt.Sprintf("%d%s", rest, u.small)
			}
			return text
		}
	}
	return fmt.Sprintf("%ds", d/time.Second)
}

// whole is length in whole seconds.
func whole(d time.Duration) string {
	if d = d.Truncate(time.Second); d > -10*time.Second && d < 10*time.Second {
		return fmt.Sprintf("%ds", d/time.Second)
	}
	return length(d)
}

// moment writes a time as --at takes it.
func moment(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.UTC().Format("2006-01-02 15:04:05")
}

// stamp is a time in JSON; null when it is zero.
func stamp(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	u := t.UTC()
	return &u
}

// message is an error in JSON; absent when there is none.
func message(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// printable shows a name from a file system or a host: control characters,
// which could steer a terminal, and bytes that are no text are escaped.
func printable(name string) string {
	if utf8.ValidString(name) && !strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return name
	}
	return strconv.Quote(name)
}

// dash stands for an empty cell.
func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// title is what people call an object. --json has the whole name.
func title(object string) string { return printable(embassy.Title(object)) }
