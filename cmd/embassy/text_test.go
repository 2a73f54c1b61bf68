package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"embassy/embassy"
)

func TestParseTime(t *testing.T) {
	tests := map[string]string{ // to RFC 3339 with nanoseconds; empty: refused
		"2026-11-21":                     "2026-11-21T23:59:59.999999999Z",
		"2026-11-21 14:00":               "2026-11-21T14:00:59.999999999Z",
		"2026-11-21 14:00:05":            "2026-11-21T14:00:05.999999999Z",
		"2026-11-21T14:00:05Z":           "2026-11-21T14:00:05.999999999Z",
		"2026-11-21T14:00:05+02:00":      "2026-11-21T12:00:05.999999999Z",
		"2026-11-21T14:00:05.25Z":        "2026-11-21T14:00:05.25Z",
		"2026-11-21T14:00:05.000000001Z": "2026-11-21T14:00:05.000000001Z",
		"21.11.2026":                     "",
		"2026-02-30":                     "",
		"yesterday":                      "",
		"":                               "",
	}
	for text, want := range tests {
		got, err := embassy.ParseTime(text)
		if want == "" {
			if err == nil {
				t.Errorf("embassy.ParseTime(%q) = %v, want an error", text, got)
			}
			continue
		}
		if err != nil || got.Format(time.RFC3339Nano) != want {
			t.Errorf("embassy.ParseTime(%q) = %v, %v; want %s", text, got, err, want)
		}
	}
}

// TestParseTimeOfListing: what a listing prints names the snapshot it prints.
func TestParseTimeOfListing(t *testing.T) {
	taken := time.Date(2026, 11, 21, 14, 0, 5, 987654321, time.UTC)
	at, err := embassy.ParseTime(moment(taken))
	if err != nil || at.Before(taken) {
		t.Errorf("--at %q is %v, %v: before the snapshot itself", moment(taken), at, err)
	}
}

func TestText(t *testing.T) {
	tests := []struct{ got, want string }{
		{size(0), "0 B"},
		{size(1023), "1023 B"},
		{size(1024), "1.0 KiB"},
		{size(1536), "1.5 KiB"},
		{size(1<<20 - 1), "1.0 MiB"},
		{size(32 << 20), "32.0 MiB"},
		{size(1<<64 - 1), "16.0 EiB"},
		{count(0), "0"},
		{count(999), "999"},
		{count(1000), "1,000"},
		{count(1234567), "1,234,567"},
		{plural(1, "copy", "copies"), "1 copy"},
		{plural(0, "copy", "copies"), "0 copies"},
		{length(0), "0.0s"},
		{length(312 * time.Millisecond), "0.3s"},
		{length(45 * time.Second), "45s"},
		{length(time.Hour), "1h"},
		{length(192 * time.Minute), "3h12m"},
		{length(52*time.Hour + time.Minute), "2d4h"},
		{length(-time.Minute), "-1m"},
		{whole(9900 * time.Millisecond), "9s"},
		{whole(61 * time.Second), "1m1s"},
		{moment(time.Time{}), "never"},
		{printable("läbi rääkimised"), "läbi rääkimised"},
		{printable("a\x1b[2Jb"), `"a\x1b[2Jb"`},
		{printable("a\xffb"), `"a\xffb"`},
		{printable("a\nb"), `"a\nb"`},
	}
	for _, tt := range tests {
		if tt.got != tt.want {
			t.Errorf("got %q, want %q", tt.got, tt.want)
		}
	}
}

func TestScreenDescribe(t *testing.T) {
	s := &screen{order: []string{"tallinn", "vault"}}
	at := func(seconds int, bytes uint64) embassy.Progress {
		return embassy.Progress{
			Phase: "restore", Dataset: "land", Files: 1200, FilesTotal: 5000, Bytes: bytes, BytesTotal: 100 << 20,
			PerTarget: map[string]uint64{"vault": bytes}, Elapsed: time.Duration(seconds) * time.Second,
		}
	}
	for second := range 20 { // slow, and then 1 MiB a second
		s.remember(at(second, uint64(second)))
	}
	var lines []string
	for second := range 15 {
		p := at(20+second, uint64(second)<<20)
		s.remember(p)
		lines = s.describe(p)
	}
	want := []string{
		"restore land  1,200 of 5,000 files  14.0 MiB of 100.0 MiB  14%  1.0 MiB/s  ETA 1m26s",
		"  vault      14.0 MiB     1.0 MiB/s",
	}
	if strings.Join(lines, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
	}
}

// An estimate that was passed is no total.
func TestScreenPassedEstimate(t *testing.T) {
	s := &screen{}
	p := embassy.Progress{Phase: "backup", Dataset: "land", Files: 1, FilesTotal: 2, Bytes: 13 << 20, BytesTotal: 13 << 20, Estimated: true}
	if got, want := s.describe(p)[0], "backup land  1 of about 2 files  13.0 MiB of about 13.0 MiB  100%"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	p.Files, p.Bytes = 3, 154<<20
	if got, want := s.describe(p)[0], "backup land  3 files  154.0 MiB"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// As JSON, lines are as rare, whatever a run tells, and the last one of each
// phase is there.
func TestScreenJSON(t *testing.T) {
	var out strings.Builder
	s := &screen{out: &out, json: true, wanted: true}
	now := time.Now()
	s.plain = now
	for _, phase := range []string{"backup", "confirm"} {
		for i := range 50 {
			if i == 10 {
				now = now.Add(jsonEvery)
			}
			s.tell(embassy.Progress{
				Phase: phase, Files: uint64(i), FilesTotal: 49, Estimated: true, Bytes: uint64(i) << 20, BytesTotal: 98 << 20,
				PerTarget: map[string]uint64{"vault": uint64(i)}, Elapsed: time.Duration(i) * time.Second,
			}, now)
		}
	}
	s.warn(embassy.Finding{Target: "vault", Object: "a/b", Err: errors.New("is bad\nand worse")})
	s.close()
	type line struct {
		Version                    int
		Event, Phase, Target, Text string
		Done                       uint64
		Rate                       uint64  `json:"bytes_per_second"`
		Left                       float64 `json:"seconds_left"`
		Estimated                  bool    `json:"totals_estimated"`
		Targets                    map[string]uint64
	}
	var got []string
	for text := range strings.Lines(out.String()) {
		var l line
		if err := json.Unmarshal([]byte(text), &l); err != nil || l.Version != 1 {
			t.Fatalf("%q: %v", text, err)
		}
		got = append(got, fmt.Sprint(l.Event, " ", l.Phase, l.Target, " ", l.Done, l.Rate>>20, l.Left, l.Targets["vault"], l.Estimated, " ", l.Text))
	}
	want := []string{
		"progress backup 10 1 88 10 true ", "progress backup 49 1 49 49 true ", "progress confirm 10 1 88 10 true ",
		"warning vault 0 0 0 0 false is bad; and worse", "progress confirm 49 1 49 49 true ",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// What only keeps snapshots from being restored is said, in the row and in the
// result.
func TestVerifyTextHarmed(t *testing.T) {
	r := embassy.VerifyReport{Level: embassy.Decrypt, Exit: 5, Targets: []embassy.VerifiedTarget{
		{Target: "tallinn", Listed: 9, HarmedTotal: 2, Harmed: []string{"people of Monday", "people of Tuesday"}}, {Target: "vault", Listed: 9},
	}}
	var out strings.Builder
	if err := printVerify(&out, r); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"  2 snapshots cannot be restored\n", "  ok\n", "tallinn: cannot be restored from it alone: people of Tuesday\n",
		"result: INTEGRITY FAILURE: 2 snapshots cannot be restored from tallinn alone (exit code 5)"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}
