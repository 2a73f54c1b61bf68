package chunk_test

import (
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"hash/maphash"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/restic/chunker"

	"embassy/chunk"
)

var (
	parameterRounds = flag.Int("rounds", 5, "BenchmarkParameters: rounds, each with another polynomial and other changes")
	parameterInputs = flag.String("inputs", "CSV,CSV bulk,SQLite,tar,image", "BenchmarkParameters: what to cut")
)

// parameters are what a splitter may be told; the greatest size is MaxSize.
type parameters struct {
	min  int // bytes
	bits int
}

// before is what the other sets are compared with: the defaults of
// restic/chunker.
var before = parameters{512 << 10, 20}

// parameterSets are all that are measured.
func parameterSets() []parameters {
	var sets []parameters
	for _, kib := range []int{256, 512, 576, 640, 768, 1024, 1536, 2048} {
		for bits := 18; bits <= 21; bits++ {
			sets = append(sets, parameters{kib << 10, bits})
		}
	}
	return append(sets, parameters{512 << 10, 16}, parameters{512 << 10, 17})
}

// outcome is what one set did to one input, over all rounds.
type outcome struct {
	spent  []time.Duration // of cutting both versions, a round each
	chunks int64           // of the first version
	after  int64           // bytes of the second version
	fresh  int64           // those in chunks that the first lacks
	packed int64           // the same as they are encoded
}

// BenchmarkParameters cuts several kinds of file, and the same a day later,
// with every set of parameters, and prints the table of docs/PERFORMANCE.md.
// It runs for 10 to 20 minutes:
//
//	go test -run '^$' -bench Parameters -benchtime 1x -timeout 1h ./chunk
//
// The sets take turns within a round, so that what else the machine does falls
// on all of them. Every round has its own polynomial and its own changes, so
// that no set is lucky in where it cuts.
func BenchmarkParameters(b *testing.B) {
	for b.Loop() {
		compareParameters(b)
	}
}

func compareParameters(b *testing.B) {
	sets := parameterSets()
	base := slices.Index(sets, before)
	var made []string
	sizes, results := map[string]int64{}, map[string][]outcome{}
	for _, in := range days {
		if !slices.Contains(strings.Split(*parameterInputs, ","), in.name) {
			continue
		}
		first, later := in.make(b)
		if first == nil {
			fmt.Printf("%s: left out, needs %s in the PATH\n", in.name, in.needs)
			continue
		}
		fmt.Printf("%s: %.0f MB\n", in.name, float64(len(first))/1e6)
		made = append(made, in.name)
		sizes[in.name] = int64(len(first))
		results[in.name] = measureParameters(b, sets, first, later)
	}

	rounds := int64(*parameterRounds)
	fmt.Printf("\n%d processors, %s/%s, %d rounds\n\n", runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, rounds)
	line := "| min KiB | bits | MB/s | × |"
	for _, name := range made {
		line += fmt.Sprintf(" %s: × | mean KiB | new %% |", name)
	}
	fmt.Println(line + " worst |")
	fmt.Println(strings.Repeat("|---", strings.Count(line, "|")) + "|")
	for i, p := range sets {
		all, allWas := make([]time.Duration, rounds), make([]time.Duration, rounds)
		cells, worst, cut := "", 0.0, int64(0)
		for _, name := range made {
			o, was := results[name][i], results[name][base]
			for r := range all {
				all[r] += o.spent[r]
				allWas[r] += was.spent[r]
			}
			cut += sizes[name] + o.after/rounds
			cells += fmt.Sprintf(" %.2f | %d | %.1f (%.2f) |", faster(o.spent, was.spent), rounds*sizes[name]/o.chunks>>10,
				100*float64(o.fresh)/float64(o.after), 100*float64(o.packed)/float64(o.after))
			worst = max(worst, float64(o.fresh)/float64(was.fresh), float64(o.packed)/float64(was.packed))
		}
		fmt.Printf("| %d | %d | %.0f | %.2f |%s %+.0f %% |\n", p.min>>10, p.bits,
			float64(cut)/1e6/median(all).Seconds(), faster(all, allWas), cells, 100*(worst-1))
	}
	fmt.Println()
}

// measureParameters cuts two versions of a file with every set.
func measureParameters(b *testing.B, sets []parameters, first []byte, later func(round byte) []byte) []outcome {
	cutter, enc := chunker.New(nil, 0), chunk.NewEncoder()
	buf, out := make([]byte, chunk.MaxSize), []byte(nil)
	ids := maphash.MakeSeed()
	results := make([]outcome, len(sets))
	for round := range *parameterRounds {
		second := later(byte(round))
		p, err := chunk.DerivePolynomial(binary.BigEndian.AppendUint64(make([]byte, 24), uint64(round)))
		if err != nil {
			b.Fatal(err)
		}
		for i, set := range sets {
			// cut calls each for every chunk, and returns how long cutting took.
			cut := func(data []byte, each func([]byte)) time.Duration {
				var spent time.Duration
				cutter.ResetWithBoundaries(bytes.NewReader(data), chunker.Pol(p), uint(set.min), chunk.MaxSize)
				cutter.SetAverageBits(set.bits)
				for {
					start := time.Now()
					c, err := cutter.Next(buf)
					spent += time.Since(start)
					if err == io.EOF {
						return spent
					}
					if err != nil {
						b.Fatal(err)
					}
					each(c.Data)
				}
			}
			o, known := &results[i], map[uint64]bool{}
			spent := cut(first, func(c []byte) {
				known[maphash.Bytes(ids, c)] = true
				o.chunks++
			})
			spent += cut(second, func(c []byte) {
				o.after += int64(len(c))
				id := maphash.Bytes(ids, c)
				if known[id] {
					return
				}
				known[id] = true
				o.fresh += int64(len(c))
				out = enc.Encode(out[:0], c)
				o.packed += int64(len(out))
			})
			o.spent = append(o.spent, spent)
		}
	}
	return results
}

// faster is the median of how many times faster a is than b, round by round.
func faster(a, b []time.Duration) float64 {
	var ratios []float64
	for r := range a {
		ratios = append(ratios, b[r].Seconds()/a[r].Seconds())
	}
	return median(ratios)
}

func median[T float64 | time.Duration](all []T) T {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}
