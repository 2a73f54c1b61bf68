package embassy_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"embassy/embassy"
	"embassy/embassy/format"
	"embassy/targets"
)

var (
	simSeed  = flag.Uint64("sim.seed", 0, "run only the simulation of this seed, and print what happens")
	simSeeds = flag.Uint64("sim.seeds", 0, "how many seeds TestSimulation runs; 0: 1000, or 100 with -short or -race")
)

const simFailures = 5 // after which the rest is not tried

// simMust must happen in one of fifty seeds at least.
var simMust = []string{"committed", "pending", "restored", "killed", "killed after the fact", "fork reported", "rollback reported",
	"object copied by a replicator", "forgery reported", "bad copy reported", "discarding reported", "repaired", "rotated the writer", "rotated the reader",
	"forgotten", "marked", "deletion ordered", "deleted", "joined", "repacked", "checkpoint held", "handed over"}

// simulate runs one episode on the production code, in virtual time, and
// returns the invariant that was violated, or nil. Which operations there are
// follows from the seed alone; in which order the calls of one operation reach
// the targets does as far as the program's own concurrency and keys allow: a
// seed that fails rarely is found again by -count.
func simulate(t *testing.T, n *simNation, keys *embassy.Keys, seed uint64, sabotage func(targets.Target) targets.Target) (s *sim, err error) {
	dir, err := os.MkdirTemp("", "sim")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	synctest.Test(t, func(t *testing.T) {
		s = newSim(t, n, keys, seed, dir, sabotage)
		steps := 3 + s.rng.IntN(6)
		if s.retains {
			s.fillUp()
			steps += 5
		}
		if s.rng.IntN(12) == 0 {
			steps *= 3
		}
		for i := range steps {
			if s.step(i); s.violated() {
				return
			}
			if s.retains && s.rng.IntN(4) == 0 {
				if s.checkSnapshots(nil); s.violated() {
					return
				}
			}
		}
		if len(s.forks(func(*simEntry) bool { return true })) > 0 {
			s.count("forked")
		}
		s.checkHosts()
		if s.heal(); s.violated() {
			return
		}
		s.checkHosts()
		s.checkSnapshots(s.replicated())
	})
	if s.violated() {
		return s, errors.New(s.violation)
	}
	return s, nil
}

// simKeys opens everything. Keys are not for several views at a time.
func simKeys(t *testing.T, n *simNation) *embassy.Keys {
	t.Helper()
	ch, err := format.OpenCharter(n.charter.Data, n.key.Nation, n.key.Signer)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := embassy.RootKeys(ch, n.root)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// Agents, a replicator and four targets, one of which may be hostile, live
// through random operations, crashes and lies. Whatever happens, every
// snapshot that was ever called committed restores from every honest target
// that claims it, and nobody is accused of what did not happen.
func TestSimulation(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // little lives for long
	n := newSimNation(t)
	first, seeds := uint64(1), *simSeeds
	if seeds == 0 {
		seeds = 1000
		if testing.Short() || withRace { // make test runs the 1000 without the race detector
			seeds = 100
		}
	}
	if *simSeed > 0 {
		first, seeds = *simSeed, 1
	}
	var next atomic.Uint64
	var failed atomic.Int64
	var mu sync.Mutex
	tally := map[string]int{}
	t.Run("episodes", func(t *testing.T) {
		for worker := range runtime.GOMAXPROCS(0) {
			t.Run(fmt.Sprint(worker), func(t *testing.T) {
				t.Parallel()
				keys := simKeys(t, n)
				for i := next.Add(1) - 1; i < seeds && failed.Load() < simFailures; i = next.Add(1) - 1 {
					seed := first + i
					t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
						s, err := simulate(t, n, keys, seed, nil)
						if err != nil || *simSeed > 0 {
							t.Log(strings.Join(s.log, "\n"))
						}
						if err != nil {
							failed.Add(1)
							t.Fatalf("%v\nagain: go test ./embassy -run TestSimulation -sim.seed %d -count 10 -failfast", err, seed)
						}
						mu.Lock()
						defer mu.Unlock()
						for what, n := range s.tally {
							tally[what] += n
						}
					})
				}
			})
		}
	})
	t.Logf("%d seeds: %v", seeds, tally)
	if *simSeed > 0 || t.Failed() || seeds < 500 { // too few for the rare ones
		return
	}
	for _, what := range simMust {
		if tally[what] < int(seeds)/50 {
			t.Errorf("%q happened %d times in %d seeds: the simulation proves too little", what, tally[what], seeds)
		}
	}
}

// Production code that breaks a rule on one target, which the simulation takes
// for honest, is caught soon.
func TestSimulationCatchesPlantedBugs(t *testing.T) {
	n := newSimNation(t)
	const within = 50
	for name, bug := range map[string]func(targets.Target) targets.Target{
		"entry before pack":          func(t targets.Target) targets.Target { return &lateLoader{Target: t} },
		"early delete":               func(t targets.Target) targets.Target { return &earlyDeleter{Target: t} },
		"confirmation without a put": func(t targets.Target) targets.Target { return &rashConfirmer{Target: t} },
	} {
		t.Run(name, func(t *testing.T) {
			keys := simKeys(t, n)
			for seed := uint64(1); seed <= within; seed++ {
				if _, err := simulate(t, n, keys, seed, bug); err != nil {
					t.Logf("seed %d: %v", seed, err)
					return
				}
			}
			t.Fatalf("not caught by %d seeds", within)
		})
	}
}
