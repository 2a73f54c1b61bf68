package config_test

import (
	"slices"
	"testing"
	"time"

	"embassy/embassy/config"
)

func zone(t *testing.T, name string) *time.Location {
	t.Helper()
	z, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

// In Tallinn clocks go from 03:00 to 04:00 on 29 March 2026, and from 04:00
// back to 03:00 on 25 October 2026.
func TestScheduleNextAcrossClockShifts(t *testing.T) {
	tallinn := zone(t, "Europe/Tallinn")
	for name, test := range map[string]struct {
		cron     string
		from, to string // from is not part of the span
		want     []string
	}{
		"forward, in the hour that is not there": {"30 3 * * *", "2026-03-28T03:30:00+02:00", "2026-03-30T23:00:00+03:00",
			[]string{"2026-03-29T04:30:00+03:00", "2026-03-30T03:30:00+03:00"}},
		"forward, several in that hour": {"*/20 3 * * *", "2026-03-28T03:40:00+02:00", "2026-03-29T23:00:00+03:00",
			[]string{"2026-03-29T04:00:00+03:00", "2026-03-29T04:20:00+03:00", "2026-03-29T04:40:00+03:00"}},
		"forward, two that meet": {"30 3,4 * * *", "2026-03-29T00:00:00+02:00", "2026-03-29T23:00:00+03:00",
			[]string{"2026-03-29T04:30:00+03:00"}},
		"forward, before and after that hour": {"15 2,3,4,5 * * *", "2026-03-29T00:00:00+02:00", "2026-03-29T23:00:00+03:00",
			[]string{"2026-03-29T02:15:00+02:00", "2026-03-29T04:15:00+03:00", "2026-03-29T05:15:00+03:00"}},
		"forward, every hour": {"0 * * * *", "2026-03-29T01:30:00+02:00", "2026-03-29T05:30:00+03:00",
			[]string{"2026-03-29T02:00:00+02:00", "2026-03-29T04:00:00+03:00", "2026-03-29T05:00:00+03:00"}},
		"back, in the hour that comes twice": {"30 3 * * *", "2026-10-24T03:30:00+03:00", "2026-10-26T23:00:00+02:00",
			[]string{"2026-10-25T03:30:00+03:00", "2026-10-26T03:30:00+02:00"}},
		"back, several in that hour": {"*/30 3 * * *", "2026-10-25T00:00:00+03:00", "2026-10-25T23:00:00+02:00",
			[]string{"2026-10-25T03:00:00+03:00", "2026-10-25T03:30:00+03:00"}},
		"back, before and after that hour": {"15 2-5 * * *", "2026-10-25T00:00:00+03:00", "2026-10-25T23:00:00+02:00",
			[]string{"2026-10-25T02:15:00+03:00", "2026-10-25T03:15:00+03:00", "2026-10-25T04:15:00+02:00", "2026-10-25T05:15:00+02:00"}},
		"back, every hour": {"0 * * * *", "2026-10-25T02:30:00+03:00", "2026-10-25T04:30:00+02:00",
			[]string{"2026-10-25T03:00:00+03:00", "2026-10-25T03:00:00+02:00", "2026-10-25T04:00:00+02:00"}},
		"on the eve": {"@daily", "2026-03-28T12:00:00+02:00", "2026-03-30T12:00:00+03:00",
			[]string{"2026-03-29T00:00:00+02:00", "2026-03-30T00:00:00+03:00"}},
	} {
		t.Run(name, func(t *testing.T) {
			parse := func(text string) time.Time {
				at, err := time.Parse(time.RFC3339, text)
				if err != nil {
					t.Fatal(err)
				}
				return at
			}
			s := config.Schedule{Cron: test.cron, Zone: tallinn}
			var got []string
			var due []time.Time
			for at := s.Next(parse(test.from)); at.Before(parse(test.to)); at = s.Next(at) {
				if got, due = append(got, at.Format(time.RFC3339)), append(due, at); len(got) > 20 {
					t.Fatal("it does not go on")
				}
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("%v, want %v", got, test.want)
			}
			// The answer is the same from every moment in between, to the
			// second that a daemon happens to be started at.
			i := 0
			for at := parse(test.from); at.Before(due[len(due)-1]); at = at.Add(19*time.Second + 7*time.Millisecond) {
				for !due[i].After(at) {
					i++
				}
				if next := s.Next(at); !next.Equal(due[i]) {
					t.Fatalf("after %s comes %s, want %s", at, next, due[i])
				}
			}
		})
	}
}

func TestScheduleNext(t *testing.T) {
	at := func(text string) time.Time {
		parsed, err := time.ParseInLocation("2006-01-02 15:04", text, zone(t, "Europe/Tallinn"))
		if err != nil {
			t.Fatal(err)
		}
		return parsed
	}
	tallinn := zone(t, "Europe/Tallinn")
	for _, test := range []struct {
		schedule    config.Schedule
		after, want string // in Tallinn
	}{
		{config.Schedule{Every: 6 * time.Hour, Jitter: time.Hour}, "2026-03-29 01:17", "2026-03-29 08:17"}, // no matter what clocks show
		{config.Schedule{Cron: "0 12 13 * fri", Zone: tallinn}, "2026-02-14 00:00", "2026-02-20 12:00"},    // a Friday that is no 13th
		{config.Schedule{Cron: "0 12 14 * fri", Zone: tallinn}, "2026-02-13 13:00", "2026-02-14 12:00"},    // a 14th that is no Friday
		{config.Schedule{Cron: "0 0 29 2 *", Zone: tallinn}, "2096-03-01 00:00", "2104-02-29 00:00"},
		{config.Schedule{Cron: "30 1 * * *", Zone: time.UTC}, "2026-07-01 12:00", "2026-07-02 04:30"},
		{config.Schedule{Cron: "30 1 * * *", Zone: zone(t, "America/New_York"), Jitter: time.Minute}, "2026-07-01 12:00", "2026-07-02 08:30"},
		// Half an hour is skipped: what was meant for 02:20 comes after what was meant for 02:40.
		{config.Schedule{Cron: "20,40 2 * * *", Zone: zone(t, "Australia/Lord_Howe")}, "2026-10-03 18:00", "2026-10-03 18:40"},
		{config.Schedule{Cron: "20,40 2 * * *", Zone: zone(t, "Australia/Lord_Howe")}, "2026-10-03 18:40", "2026-10-03 18:50"},
		{config.Schedule{Cron: "0 23 * * 7", Zone: tallinn}, "2026-11-21 12:00", "2026-11-22 23:00"}, // Sunday
	} {
		if got := test.schedule.Next(at(test.after)); !got.Equal(at(test.want)) {
			t.Errorf("%s after %s: %s, want %s", test.schedule, test.after, got, test.want)
		}
	}
	for _, never := range []config.Schedule{{}, {Cron: "0 0 30 2 *"}, {Cron: "rubbish"}} {
		if got := never.Next(at("2026-01-01 00:00")); !got.IsZero() {
			t.Errorf("%s is due at %s", never, got)
		}
	}
	// Where no zone is named it is that of the machine, not of the argument.
	here := config.Schedule{Cron: "0 7 * * *"}
	every := config.Schedule{Cron: "0 * * * *"}
	moment := at("2026-01-01 00:20")
	if got := here.Next(moment).In(time.Local); got.Hour() != 7 || got.Minute() != 0 {
		t.Errorf("due at %s", got)
	}
	if got := every.Next(moment.In(time.FixedZone("x", 1234))).In(time.Local); got.Minute() != 0 || got.Second() != 0 {
		t.Errorf("due at %s", got)
	}
}

func TestParseQuantities(t *testing.T) {
	for text, want := range map[string]int64{
		"1048576": 1 << 20, "10MiB": 10 << 20, "500kB": 500_000, "500KB": 500_000, "64KiB": 64 << 10, "2 GB": 2e9, "8TiB": 8 << 40,
		"": 0, "0": 0, "10 gigs": 0, "-1": 0, "1.5MB": 0, "10MiBs": 0, "99999999999TiB": 0, "kB": 0,
	} {
		if got, err := config.ParseSize(text); got != want || (err == nil) != (want > 0) {
			t.Errorf("size %q: %d, %v", text, got, err)
		}
	}
	for text, want := range map[string]int64{"10MiB": 10 << 20, "500kB/s": 500_000, "1000": 1000, "10": 0, "999B/s": 0, "fast": 0, "/s": 0} {
		if got, err := config.ParseRate(text); got != want || (err == nil) != (want > 0) {
			t.Errorf("rate %q: %d, %v", text, got, err)
		}
	}
	for text, want := range map[string]float64{"5%": 0.05, "0.5 %": 0.005, "100%": 1, "100.1%": 0, "0%": 0, "0.0%": 0, "5": 0, "0.05": 0, "%": 0, "1e1%": 0} {
		if got, err := config.ParseShare(text); got != want || (err == nil) != (want > 0) {
			t.Errorf("share %q: %g, %v", text, got, err)
		}
	}
}
