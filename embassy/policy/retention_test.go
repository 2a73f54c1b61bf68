package policy_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"embassy/embassy/policy"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

const day = 24 * time.Hour

// at reads 2026-11-22 or 2026-11-22 15:04.
func at(t *testing.T, text string) time.Time {
	layout := "2006-01-02 15:04"[:len(text)]
	when, err := time.ParseInLocation(layout, text, time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	return when
}

func TestRetain(t *testing.T) {
	// whole makes complete snapshots of these times.
	whole := func(times ...string) []policy.Kept {
		var series []policy.Kept
		for _, text := range times {
			series = append(series, policy.Kept{Time: at(t, text), Whole: true})
		}
		return series
	}
	// with changes one of them.
	with := func(series []policy.Kept, i int, change func(*policy.Kept)) []policy.Kept {
		change(&series[i])
		return series
	}
	east := time.FixedZone("east", 3*60*60)
	tests := map[string]struct {
		series []policy.Kept
		rule   policy.Retention
		want   []string // reasons with commas between them
	}{
		"none":    {nil, policy.Retention{Last: 1}, nil},
		"no rule": {whole("2026-11-20", "2026-11-19"), policy.Retention{}, []string{"everything is kept, newest complete", "everything is kept"}},
		"no rule but min age": {whole("2026-11-20", "2026-11-01"), policy.Retention{MinAge: 14 * day},
			[]string{"everything is kept, newest complete, younger than 14d", "everything is kept"}},
		"last": {whole("2026-11-20", "2026-11-19", "2026-11-18"), policy.Retention{Last: 2}, []string{"newest complete, last", "last", ""}},
		"the newest of each hour": {whole("2026-11-20 11:59", "2026-11-20 11:00", "2026-11-20 10:59", "2026-11-20 08:00"), policy.Retention{Hourly: 2},
			[]string{"newest complete, hourly 2026-11-20 11:00", "", "hourly 2026-11-20 10:00", ""}},
		"days that have none do not count": {whole("2026-11-20", "2026-11-19 23:59", "2026-11-19", "2026-11-02", "2026-11-01"), policy.Retention{Daily: 3},
			[]string{"newest complete, daily 2026-11-20", "daily 2026-11-19", "", "daily 2026-11-02", ""}},
		"weeks begin on Monday": {whole("2026-11-16", "2026-11-15", "2026-11-09", "2026-11-08"), policy.Retention{Weekly: 2},
			[]string{"newest complete, weekly 2026-W47", "weekly 2026-W46", "", ""}},
		"a week has the year of its Thursday": {whole("2026-01-01", "2025-12-29"), policy.Retention{Weekly: 2, Yearly: 2},
			[]string{"newest complete, weekly 2026-W01, yearly 2026", "yearly 2025"}},
		"months": {whole("2026-11-01", "2026-10-31", "2026-10-30", "2025-10-31"), policy.Retention{Monthly: 3},
			[]string{"newest complete, monthly 2026-11", "monthly 2026-10", "", "monthly 2025-10"}},
		"within is counted from the newest": {whole("2026-10-30", "2026-10-23 00:01", "2026-10-23"), policy.Retention{Within: 7 * day},
			[]string{"newest complete, within 7d", "within 7d", ""}},
		"within hours": {whole("2026-10-30 12:00", "2026-10-29 00:01"), policy.Retention{Within: 36 * time.Hour},
			[]string{"newest complete, within 36h", "within 36h"}},
		"buckets are of UTC": {
			[]policy.Kept{{Time: time.Date(2026, 11, 20, 1, 0, 0, 0, east), Whole: true}, {Time: at(t, "2026-11-19 12:00"), Whole: true}},
			policy.Retention{Daily: 2}, []string{"newest complete, daily 2026-11-19", ""}},
		"younger than min age": {whole("2026-11-20", "2026-11-08 12:01", "2026-11-08 12:00"), policy.Retention{Last: 1, MinAge: 14 * day},
			[]string{"newest complete, last, younger than 14d", "younger than 14d", ""}},
		"min age counts from what the steward saw": {
			with(whole("2026-11-20", "2020-01-01"), 1, func(k *policy.Kept) { k.Since = at(t, "2026-11-19") }),
			policy.Retention{Last: 1, MinAge: 14 * day}, []string{"newest complete, last, younger than 14d", "younger than 14d"}},
		"what the steward saw before does not make it older": {
			with(whole("2026-11-20", "2026-11-19"), 1, func(k *policy.Kept) { k.Since = at(t, "2020-01-01") }),
			policy.Retention{Last: 1, MinAge: 14 * day}, []string{"newest complete, last, younger than 14d", "younger than 14d"}},
		"the newest and the newest complete": {
			with(with(whole("2026-11-20", "2026-11-19", "2026-11-18", "2026-11-17"), 0, func(k *policy.Kept) { k.Whole = false }), 1, func(k *policy.Kept) { k.Whole = false }),
			policy.Retention{Last: 1}, []string{"newest, last", "", "newest complete", ""}},
		"pin and hold": {
			with(with(whole("2026-11-20", "2026-11-19", "2026-11-18"), 1, func(k *policy.Kept) { k.Pinned = true }), 2, func(k *policy.Kept) { k.Held = true }),
			policy.Retention{Last: 1}, []string{"newest complete, last", "pinned", "hold"}},
		"doubt takes nobody's place": {
			with(whole("2026-11-20", "2026-11-19", "2026-11-18"), 0, func(k *policy.Kept) { k.Doubt = "dated before the one it follows" }),
			policy.Retention{Last: 1, Daily: 1},
			[]string{"dated before the one it follows", "newest complete, last, daily 2026-11-19", ""}},
		"neither does the future": {whole("2027-11-20", "2026-11-20", "2026-11-19"), policy.Retention{Last: 1, Within: day},
			[]string{"dated after now", "newest complete, last, within 1d", ""}},
		"every reason, in order": {
			with(whole("2026-11-20"), 0, func(k *policy.Kept) { k.Pinned, k.Held = true, true }),
			policy.Retention{Last: 1, Hourly: 1, Daily: 1, Weekly: 1, Monthly: 1, Yearly: 1, Within: day, MinAge: 7 * day},
			[]string{"newest complete, last, hourly 2026-11-20 00:00, daily 2026-11-20, weekly 2026-W47, monthly 2026-11, yearly 2026, within 1d, younger than 7d, pinned, hold"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, reasons := range policy.Retain(tt.series, tt.rule, at(t, "2026-11-22 12:00")) {
				got = append(got, strings.Join(reasons, ", "))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// genSeries draws a series, newest first by its chain; not all of its times are
// in that order.
func genSeries(t *rapid.T, now time.Time) []policy.Kept {
	when := now.Add(time.Duration(rapid.Int64Range(-40, 2).Draw(t, "first")) * day)
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) policy.Kept {
		when = when.Add(-time.Duration(rapid.SampledFrom([]int64{0, 1, 20, 60, 24 * 60, 9 * 24 * 60, -90}).Draw(t, "minutes")) * time.Minute)
		k := policy.Kept{Time: when, Whole: rapid.IntRange(0, 3).Draw(t, "whole") > 0}
		switch rapid.IntRange(0, 9).Draw(t, "odd") {
		case 0:
			k.Doubt = "doubt"
		case 1:
			k.Pinned = true
		case 2:
			k.Held = true
		case 3:
			k.Since = now.Add(-time.Duration(rapid.IntRange(0, 20).Draw(t, "since")) * day)
		}
		return k
	}), 0, 60).Draw(t, "series")
}

func genRule(t *rapid.T) policy.Retention {
	n := rapid.IntRange(0, 4)
	days := rapid.Map(rapid.Int64Range(0, 20), func(d int64) time.Duration { return time.Duration(d) * day })
	return policy.Retention{
		Last: rapid.IntRange(1, 4).Draw(t, "last"), Hourly: n.Draw(t, "hourly"), Daily: n.Draw(t, "daily"), Weekly: n.Draw(t, "weekly"),
		Monthly: n.Draw(t, "monthly"), Yearly: n.Draw(t, "yearly"), Within: days.Draw(t, "within"), MinAge: days.Draw(t, "min age"),
	}
}

func TestRetainProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
		series, rule := genSeries(t, now), genRule(t)
		got := policy.Retain(series, rule, now)
		if diff := cmp.Diff(got, policy.Retain(series, rule, now)); diff != "" {
			t.Fatalf("the second answer is another one:\n%s", diff)
		}
		var left []policy.Kept
		whole, believed := 0, 0
		for i, k := range series {
			old := now.Sub(k.Time) >= rule.MinAge && now.Sub(k.Since) >= rule.MinAge
			must := k.Doubt != "" || k.Pinned || k.Held || !old || k.Time.After(now)
			if k.Doubt == "" && !k.Time.After(now) {
				must = must || believed < rule.Last || k.Whole && whole == 0
				believed++
				if k.Whole {
					whole++
				}
			}
			if must && len(got[i]) == 0 {
				t.Fatalf("number %d is forgotten: %+v", i, k)
			}
			if len(got[i]) > 0 {
				left = append(left, k)
			}
		}

		// What is left stays, for the same reasons.
		var reasons [][]string
		for _, r := range got {
			if len(r) > 0 {
				reasons = append(reasons, r)
			}
		}
		if again := policy.Retain(left, rule, now); !slices.EqualFunc(reasons, again, slices.Equal) {
			t.Fatalf("the second run differs:\n%s", cmp.Diff(reasons, again))
		}

		// A rule that keeps more forgets nothing that a lesser one keeps.
		more := rule
		grow := rapid.IntRange(0, 3)
		for _, n := range []*int{&more.Last, &more.Hourly, &more.Daily, &more.Weekly, &more.Monthly, &more.Yearly} {
			*n += grow.Draw(t, "more")
		}
		more.Within += time.Duration(grow.Draw(t, "more days")) * day
		more.MinAge += time.Duration(grow.Draw(t, "older")) * day
		for i, r := range policy.Retain(series, more, now) {
			if len(r) == 0 && len(got[i]) > 0 {
				t.Fatalf("number %d is kept by %+v, and forgotten by %+v", i, rule, more)
			}
		}

		// A flood of junk evicts nothing that is younger than the minimum.
		flood := slices.Repeat([]policy.Kept{{Time: now, Whole: true}}, rapid.IntRange(1, 200).Draw(t, "flood"))
		flooded := policy.Retain(append(flood, series...), rule, now)[len(flood):]
		for i, k := range series {
			if now.Sub(k.Time) < rule.MinAge && len(flooded[i]) == 0 {
				t.Fatalf("the flood evicts number %d: %+v", i, k)
			}
		}
	})
}
