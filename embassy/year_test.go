package embassy_test

import (
	"flag"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"embassy/catalog"
	"embassy/embassy"
)

var (
	yearDays   = flag.Int("year.days", 3, "how many days of hourly runs TestYear simulates; 365 take more than an hour")
	yearAgents = flag.Int("year.agents", 10, "how many agents there are, one of which is the steward")
	yearTidy   = flag.Int("year.tidy", 1, "after how many days the steward forgets and prunes")
	yearEvery  = flag.Int("year.every", 30, "after how many days TestYear prints what there is, and what takes how long")
)

// yearCost is what one operation took.
type yearCost struct {
	took time.Duration
	yearCalls
}

// cost does something and measures it.
func (w *yearWorld) cost(do func() error) yearCost {
	w.t.Helper()
	var before, after yearCalls
	for _, y := range w.stores {
		before = before.plus(y.calls())
	}
	began := time.Now()
	if err := do(); err != nil {
		w.t.Fatal(err)
	}
	c := yearCost{took: time.Since(began)}
	for _, y := range w.stores {
		after = after.plus(y.calls())
	}
	c.yearCalls = after.since(before)
	return c
}

func (c yearCalls) plus(o yearCalls) yearCalls {
	return yearCalls{c.gets + o.gets, c.puts + o.puts, c.stats + o.stats, c.lists + o.lists, c.names + o.names, c.deletes + o.deletes}
}

// What is measured, in the order of the table.
const (
	yearOpen      = "open a catalog"
	yearStatus    = "status of an agent"
	yearStatusAll = "status of who knows all"
	yearBackup    = "backup of nothing new"
	yearSteward   = "the same of the steward"
	yearRescue    = "rescue, one target"
	yearAtlas     = "replicator that knows all"
	yearAtlasNew  = "replicator that is new"
)

var yearRows = []string{yearOpen, yearStatus, yearStatusAll, yearBackup, yearSteward, yearRescue, yearAtlas, yearAtlasNew}

// measure prints what there is, and what the beginnings of the commands cost.
func (w *yearWorld) measure(day int) map[string]yearCost {
	w.t.Helper()
	ctx := w.t.Context()
	var out strings.Builder
	status := func(m *yearMachine, live bool) func() error {
		return func() error {
			_, err := m.start(m.cat).Status(ctx, live)
			return err
		}
	}
	costs := map[string]yearCost{}
	agent, steward := w.agents[len(w.agents)-1], w.agents[0]
	w.must(steward.cat.Close())
	costs[yearOpen] = w.cost(func() error {
		steward.open("catalog")
		return nil
	})
	w.cost(status(w.keeper, true)) // it learns what is new
	costs[yearStatus] = w.cost(status(agent, false))
	costs[yearStatusAll] = w.cost(status(w.keeper, false))
	costs[yearBackup] = w.cost(func() error { return agent.backup(ctx) })
	costs[yearSteward] = w.cost(func() error { return steward.backup(ctx) })
	var shown []embassy.SnapshotInfo
	costs[yearRescue] = w.cost(func() error {
		v, err := w.view(0)
		if err == nil {
			shown = v.Snapshots("")
		}
		return err
	})
	w.cost(status(w.keeper, true))
	costs[yearAtlas] = w.cost(status(w.keeper, true))
	costs[yearAtlasNew] = w.cost(func() error {
		fresh := *w.keeper
		var err error
		if fresh.cat, err = catalog.Open(filepath.Join(w.t.TempDir(), "catalog"), catalog.Options{}); err != nil {
			return err
		}
		defer fresh.cat.Close()
		_, err = fresh.start(fresh.cat).Status(ctx, true)
		return err
	})

	var all yearStock
	stock := w.stores[0].stock()
	fmt.Fprintf(&out, "day %d: %d snapshots are kept of %d\n%-12s %10s %14s\n", day, len(shown), w.hours.Load()*int64(*yearAgents), "kind", "objects", "bytes")
	for _, kind := range yearKinds {
		s := stock[kind]
		all.objects, all.bytes = all.objects+s.objects, all.bytes+s.bytes
		fmt.Fprintf(&out, "%-12s %10d %14d\n", kind, s.objects, s.bytes)
	}
	content := w.content(shown)
	fmt.Fprintf(&out, "%-12s %10d %14d\n%-12s %10s %14d\noverhead %.0f %%, %d bytes\n", "all", all.objects, all.bytes, "content kept", "", content,
		100*float64(all.bytes-content)/float64(content), all.bytes-content)
	fmt.Fprintf(&out, "%-26s %10s %8s %8s %8s %8s %8s\n", "begin of", "took", "gets", "stats", "lists", "names", "puts")
	for _, row := range yearRows {
		c := costs[row]
		fmt.Fprintf(&out, "%-26s %10s %8d %8d %8d %8d %8d\n", row, c.took.Round(100*time.Microsecond), c.gets, c.stats, c.lists, c.names, c.puts)
	}
	w.t.Log("\n" + out.String())
	return costs
}

// content is how many bytes the snapshots hold, each once: of every agent the
// files that never change, and of every snapshot the one that does.
func (w *yearWorld) content(shown []embassy.SnapshotInfo) int64 {
	hours := map[string]bool{}
	for _, s := range shown {
		hours[fmt.Sprint(s.Agent, s.Summary.Time)] = true
	}
	return int64(len(hours)+*yearAgents*(yearFiles-1)) * yearContent
}

// Ten agents back up every hour, and a steward forgets and prunes every day. What
// a backup asks of targets before it begins with its work does not grow with what
// was ever written. After a year status and backup begin within a second, and a
// rescue within ten.
func TestYear(t *testing.T) {
	if testing.Short() {
		t.Skip("days of hourly runs: left out with -short")
	}
	w := newYearWorld(t)
	minAge, grace := 14*24*time.Hour, 7*24*time.Hour
	if *yearDays < 30 { // there is something to forget and to prune all the same
		minAge, grace = 0, 0
	}
	began := time.Now()
	var first, last map[string]yearCost
	var backups, forget, forgets, prune, prunes time.Duration
	for day := 1; day <= *yearDays; day++ {
		morning := time.Now()
		for range 24 {
			w.hour()
		}
		backups += time.Since(morning)
		if day%*yearTidy == 0 {
			forget, prune = w.tidy(minAge, grace)
			forgets, prunes = forgets+forget, prunes+prune
		}
		if day > 1 && day%*yearEvery != 0 && day != *yearDays {
			continue
		}
		last = w.measure(day)
		if first == nil {
			first = last
		}
		t.Logf("day %d after %.0f s: backups %.1f s (%.1f ms each), forget %.1f s (last %.2f s), prune %.1f s (last %.2f s)", day, time.Since(began).Seconds(),
			backups.Seconds(), 1000*backups.Seconds()/float64(w.hours.Load()*int64(*yearAgents)), forgets.Seconds(), forget.Seconds(), prunes.Seconds(), prune.Seconds())
	}
	if len(w.findings) > 0 {
		t.Errorf("%d findings, such as %s", len(w.findings), w.findings[0])
	}
	for _, row := range []string{yearBackup, yearSteward} {
		const slack = 20 // the steward's orders of the day
		if a, b := first[row], last[row]; b.gets > a.gets+slack || b.names > a.names+slack || b.stats > a.stats+slack || b.lists > a.lists+slack {
			t.Errorf("%s: %+v after %d days, %+v after one", row, b.yearCalls, *yearDays, a.yearCalls)
		}
	}
	if *yearDays < 365 {
		return
	}
	for row, most := range map[string]time.Duration{yearStatus: time.Second, yearStatusAll: time.Second, yearBackup: time.Second, yearSteward: time.Second, yearRescue: 10 * time.Second} {
		if took := last[row].took + last[yearOpen].took; took > most {
			t.Errorf("%s took %s after a year, at most %s is allowed", row, took, most)
		}
	}
}
