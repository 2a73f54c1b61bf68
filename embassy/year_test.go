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
	yearDays  = flag.Int("year.days", 3, "how many days of hourly runs of ten agents TestYear simulates; 365 takes long")
	yearEvery = flag.Int("year.every", 30, "after so many of these days TestYear prints what there is, and what takes how long")
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
	fmt.Fprintf(&out, "day %d: %d snapshots are kept of %d\n%-12s %10s %14s\n", day, len(shown), w.hours.Load()*yearAgents, "kind", "objects", "bytes")
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
	return int64(len(hours)+yearAgents*(yearFiles-1)) * yearContent
}

// Ten agents back up every hour, and a steward forgets and prunes every day.
// What commands cost before they begin with their work does not grow with what
// was ever written.
func TestYear(t *testing.T) {
	w := newYearWorld(t)
	minAge, grace := 14*24*time.Hour, 7*24*time.Hour
	if *yearDays < 30 { // there is something to forget and to prune all the same
		minAge, grace = 0, 0
	}
	began := time.Now()
	var first, last map[string]yearCost
	var backups, forgets, prunes time.Duration
	for day := 1; day <= *yearDays; day++ {
		hours := time.Now()
		for range 24 {
			w.hour()
		}
		backups += time.Since(hours)
		forget, prune := w.tidy(minAge, grace)
		forgets, prunes = forgets+forget, prunes+prune
		if day == 1 || day%*yearEvery == 0 || day == *yearDays {
			last = w.measure(day)
			t.Logf("day %d: %s; backups %s (%s each), forget %s (last %s), prune %s (last %s); %d findings", day, time.Since(began).Round(time.Second),
				backups.Round(time.Second), (backups / time.Duration(w.hours.Load()*yearAgents)).Round(100*time.Microsecond),
				forgets.Round(time.Millisecond), forget.Round(time.Millisecond), prunes.Round(time.Millisecond), prune.Round(time.Millisecond), len(w.findings))
		}
		if first == nil {
			first = last
		}
	}
	if len(w.findings) > 0 {
		t.Errorf("%d findings, such as %s", len(w.findings), w.findings[0])
	}
	_ = first
}
