package catalog_test

import (
	"bufio"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"embassy/catalog"
	"embassy/chunk"
	"embassy/embassy"
)

// grow adds chunks in packs of 1,000 until there are that many.
func grow(b *testing.B, c *catalog.Catalog, have, want int) {
	for i := have / 1000; i < want/1000; i++ {
		addPack(b, c, pack(i, chain(1)), ids(i*1000, i*1000+1000))
	}
}

var most = flag.Int("chunks", 1_000_000, "chunks that a catalog grows to in benchmarks, by factors of ten")

// sizes are the numbers of chunks that are measured at.
func sizes() (all []int) {
	for n := 10_000; n <= *most; n *= 10 {
		all = append(all, n)
	}
	return all
}

// BenchmarkFindChunks asks for 256 ids, half of them unknown.
func BenchmarkFindChunks(b *testing.B) {
	c := open(b, b.TempDir())
	have := 0
	for _, size := range sizes() {
		grow(b, c, have, size)
		have = size
		rnd := rand.New(rand.NewPCG(1, 2))
		batches := make([][]chunk.ID, 200)
		for i := range batches {
			for range 256 {
				batches[i] = append(batches[i], chunk.ID(hash(rnd.IntN(2*size))))
			}
		}
		packs := make([]embassy.PackNum, 256)
		b.Run(fmt.Sprint("known=", size), func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				check(b, c.FindChunks(batches[i%len(batches)], packs))
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/256, "ns/id")
		})
	}
}

// BenchmarkAddPack adds packs of 1,000 new chunks.
func BenchmarkAddPack(b *testing.B) {
	c := open(b, b.TempDir())
	have, next := 0, *most
	for _, size := range sizes() {
		grow(b, c, have, size)
		have = size
		b.Run(fmt.Sprint("known=", size), func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				batch := ids(next*1000, next*1000+1000)
				b.StartTimer()
				addPack(b, c, pack(next, chain(1)), batch)
				next++
			}
			if peak := anonymous(b); peak > 0 {
				b.ReportMetric(float64(peak)/1024, "anon-MiB")
			}
		})
	}
}

// anonymous returns the process's anonymous memory in KiB, where it is known.
func anonymous(b *testing.B) (kib int64) {
	f, err := os.Open("/proc/self/status")
	if err != nil {
		return 0
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "RssAnon:"); ok {
			_, err := fmt.Sscan(rest, &kib)
			check(b, err)
		}
	}
	return kib
}
