// Package bench_test compares this program with others, side by side on the
// same data and the same stores, and prints ratios. Run it with "make bench".
package bench_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"embassy/integration/minio"
)

var (
	program = flag.String("program", "", "the embassy to measure")
	data    = flag.String("data", "", "folder that the data is made in, and kept")
	named   = flag.String("profile", "mixed", "what data: mixed, tiny or quick")
	stores  = flag.String("stores", "dir,minio,minio3", "where to back up to")
	peers   = flag.String("peers", "restic,kopia", "programs to compare with, where they are in the PATH")
	rounds  = flag.Int("rounds", 5, "runs of each program, in turn; the median counts")
	before  = flag.String("baseline", "", "file with the medians of an earlier run on this machine, to compare with; made when it is not there")
)

// contender is a tool in one round.
type contender struct {
	name string
	tool tool
}

// step is what is measured of a tool.
var steps = []string{"backup", "unchanged", "restore"}

// BenchmarkPeers runs every tool in turn, round by round, so that what else the
// machine does falls on all of them.
func BenchmarkPeers(b *testing.B) {
	if *program == "" || *data == "" {
		b.Skip("needs -program and -data: run make bench")
	}
	p, ok := profiles[*named]
	if !ok {
		b.Fatalf("no profile %q", *named)
	}
	root := filepath.Join(*data, *named)
	if err := p.make(root); err != nil {
		b.Fatal(err)
	}
	src := filepath.Join(root, "src")
	contenders := []contender{{"embassy", embassy{*program}}}
	for _, c := range []contender{{"restic", restic{}}, {"kopia", kopia{}}} {
		if _, err := exec.LookPath(c.name); err == nil && slices.Contains(strings.Split(*peers, ","), c.name) {
			contenders = append(contenders, c)
		}
	}
	work, err := floor(src)
	if err != nil {
		b.Fatal(err)
	}
	cores := runtime.NumCPU()
	fmt.Printf("profile %s, %d processors, %s/%s, median of %d\n", *named, cores, runtime.GOOS, runtime.GOARCH, *rounds)
	fmt.Printf("floor of a backup: %.2f CPU s for cutting, hashing, compressing and sealing, %.2f s on all cores\n", work, work/float64(cores))
	medians := map[string]figures{}
	for _, store := range strings.Split(*stores, ",") {
		results := map[string][]figures{}
		for round := range *rounds {
			for _, c := range contenders {
				at := place{name: store}
				for range map[string]int{"minio": 1, "minio3": 3}[store] {
					at.servers = append(at.servers, minio.Start(b))
				}
				if err := c.measure(b, src, at, results); err != nil {
					b.Fatalf("round %d, %s to %s: %v", round, c.name, store, err)
				}
				for _, s := range at.servers {
					s.Stop()
					if err := os.RemoveAll(s.DataDir); err != nil {
						b.Fatal(err)
					}
				}
			}
		}
		report(store, contenders, results)
		for _, step := range steps {
			medians[store+" "+step] = median(results["embassy "+step])
		}
	}
	if *before != "" {
		if err := baseline(*before, medians); err != nil {
			b.Fatal(err)
		}
	}
}

// baseline compares with what an earlier run kept, or keeps this one.
func baseline(path string, now map[string]figures) error {
	text, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		fmt.Printf("\nThis run is the baseline from now on. Remove %s to make another one.\n", path)
		if text, err = json.MarshalIndent(now, "", "  "); err != nil {
			return err
		}
		return os.WriteFile(path, text, 0o644)
	}
	var then map[string]figures
	if err == nil {
		err = json.Unmarshal(text, &then)
	}
	if err != nil {
		return err
	}
	fmt.Printf("\n%-20s  %8s  %8s  %8s    as a share of the baseline\n", "", "wall", "CPU", "memory")
	for _, name := range slices.Sorted(maps.Keys(now)) {
		if old, ok := then[name]; ok {
			fmt.Printf("%-20s  %8.2f  %8.2f  %8.2f\n", name, now[name].Wall/old.Wall, now[name].CPU/old.CPU, now[name].Anon/old.Anon)
		}
	}
	return nil
}

// measure adds what one round of the tool took, by step.
func (c contender) measure(b *testing.B, src string, at place, results map[string][]figures) error {
	dir, err := os.MkdirTemp(*data, "run-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	const bucket = "bench"
	for _, s := range at.servers {
		s.Bucket(b, bucket)
	}
	if _, err := measure(b.Context(), c.tool.setup(dir, src, at, bucket)...); err != nil {
		return err
	}
	to := filepath.Join(dir, "restored")
	for _, step := range steps {
		commands := c.tool.backup(dir, src, at, bucket)
		switch step {
		case "unchanged":
			commands = commands[:1]
		case "restore":
			one, err := c.tool.restore(dir, to, at, bucket)
			if err != nil {
				return err
			}
			commands = []command{one}
		}
		f, err := measure(b.Context(), commands...)
		if err != nil {
			return err
		}
		results[c.name+" "+step] = append(results[c.name+" "+step], f)
	}
	return same(src, to)
}

// same compares how much is in two trees: the tools have tests of their own for
// the rest.
func same(src, to string) error {
	var sums [2]string
	for i, tree := range []string{src, to} {
		sum, err := exec.Command("sh", "-c", `find "$1" -type f -printf '%s\n' | sort | sha256sum`, "sh", tree).Output()
		if err != nil {
			return err
		}
		sums[i] = string(sum)
	}
	if sums[0] != sums[1] {
		return fmt.Errorf("what was restored to %s is not %s", to, src)
	}
	return nil
}

func report(store string, contenders []contender, results map[string][]figures) {
	fmt.Printf("\nto %s\n%-10s  %-9s  %8s  %8s  %8s    wall, CPU, memory of embassy as a share of it\n", store, "", "", "wall s", "CPU s", "anon MiB")
	for _, step := range steps {
		own := median(results["embassy "+step])
		for _, c := range contenders {
			f := median(results[c.name+" "+step])
			fmt.Printf("%-10s  %-9s  %8.2f  %8.2f  %8.0f", step, c.name, f.Wall, f.CPU, f.Anon)
			if c.name != "embassy" {
				fmt.Printf("    %.2f  %.2f  %.2f", own.Wall/f.Wall, own.CPU/f.CPU, own.Anon/f.Anon)
			}
			fmt.Println()
		}
	}
}
