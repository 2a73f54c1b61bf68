package integration_test

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// replicator returns a keyless machine of the same nation, in a folder of its
// own: it has a configuration that names targets and the public key of the
// nation, and credentials for the stores. placed tells whether it also says
// where compartments lie.
func (s *site) replicator(placed bool) *site {
	s.t.Helper()
	r := &site{t: s.t, nation: s.nation, dir: s.t.TempDir(), stores: s.stores}
	text := s.exits(0, "config", "replicator").stdout
	if !placed {
		var targets strings.Builder
		for _, st := range s.stores {
			fmt.Fprintf(&targets, "  - {name: %s, url: %q}\n", st.name, st.url())
		}
		key := regexp.MustCompile(`(?m)^nation_key: .*$`).FindString(text)
		if key == "" {
			s.t.Fatalf("no nation key in:\n%s", text)
		}
		text = fmt.Sprintf("nation: %s\n%s\nstate_dir: ./replicator\ntargets:\n%s", s.nation, key, &targets)
	}
	write(s.t, r.path("embassy.yaml"), []byte(text))
	return r
}

// pseudonym returns what stores call the compartment of a rank.
func (s *site) pseudonym(rank int) string {
	s.t.Helper()
	text := s.exits(0, "config", "replicator").stdout
	found := regexp.MustCompile(fmt.Sprintf(`id: ([0-9a-f]{32})\s+rank: %d\s`, rank)).FindStringSubmatch(text)
	if found == nil {
		s.t.Fatalf("no compartment of rank %d in:\n%s", rank, text)
	}
	return found[1]
}

// replication is what replicate --json prints.
type replication struct {
	Exit    int `json:"exit_code"`
	Targets []struct {
		Target  string `json:"target"`
		Objects uint64 `json:"objects"`
		Bytes   uint64 `json:"bytes"`
		Entries uint64 `json:"entries"`
		Behind  uint64 `json:"entries_behind"`
		Error   string `json:"error"`
	} `json:"targets"`
}

// replicate runs replicate with the exit code that must come.
func (s *site) replicate(code int, args ...string) (replication, result) {
	s.t.Helper()
	r := s.exits(code, append([]string{"--json", "replicate"}, args...)...)
	return parseReplication(s.t, r), r
}

func parseReplication(t testing.TB, r result) replication {
	t.Helper()
	var doc replication
	if err := json.Unmarshal([]byte(r.stdout), &doc); err != nil {
		t.Fatalf("%q: %v\n%s%s", r.args, err, r.stdout, r.stderr)
	}
	return doc
}

// behind returns the entries that each target lacks, of those that lack any.
func (r replication) behind() map[string]uint64 {
	lag := map[string]uint64{}
	for _, t := range r.Targets {
		if t.Behind > 0 || t.Error != "" {
			lag[t.Target] = t.Behind
		}
	}
	return lag
}

// status is what status --json prints.
type status struct {
	Datasets []struct {
		Dataset string `json:"dataset"`
		Safe    string `json:"safe"`
		Copies  int    `json:"copies"`
		Pending *struct {
			Snapshot string `json:"snapshot"`
		} `json:"pending"`
		Tiers []struct {
			Target string `json:"target"`
			Has    bool   `json:"has_safe"`
			Behind uint64 `json:"entries_behind"`
		} `json:"tiers"`
	} `json:"datasets"`
	Targets []struct {
		Target string `json:"target"`
		Behind uint64 `json:"entries_behind"`
		Error  string `json:"error"`
	} `json:"targets"`
	Faults []fault `json:"faults"`
}

// fault is what status tells of a target.
type fault struct {
	Target string `json:"target"`
	Kind   string `json:"kind"`
	Object string `json:"object"`
	Text   string `json:"text"`
}

// status runs status with the exit code that must come.
func (s *site) status(code int, args ...string) status {
	s.t.Helper()
	r := s.exits(code, append([]string{"--json", "status"}, args...)...)
	var doc status
	if err := json.Unmarshal([]byte(r.stdout), &doc); err != nil {
		s.t.Fatalf("%q: %v\n%s", r.args, err, r.stdout)
	}
	return doc
}

// lag returns the entries that each target lacks, of those that lack any.
func (s status) lag() map[string]uint64 {
	lag := map[string]uint64{}
	for _, t := range s.Targets {
		if t.Behind > 0 {
			lag[t.Target] = t.Behind
		}
	}
	return lag
}

// kinds returns the kinds of faults that are told of a target, sorted.
func (s status) kinds(target string) []string {
	var kinds []string
	for _, f := range s.Faults {
		if f.Target == target {
			kinds = append(kinds, f.Kind)
		}
	}
	slices.Sort(kinds)
	return slices.Compact(kinds)
}

// fromEachAlone restores everything from each store alone, with the kit and no
// state, and compares it with the sources.
func (s *site) fromEachAlone(stores []*store, datasets ...dataset) {
	s.t.Helper()
	var runs []*running
	var outs []string
	for _, st := range stores {
		out := filepath.Join(s.t.TempDir(), "out")
		outs = append(outs, out)
		runs = append(runs, s.launch(rescueProgram, "--kit", s.path("kit.txt"), "--passphrase-file", s.path("phrase"),
			"--from", st.url(), "--to", out))
	}
	for i, run := range runs {
		if r := run.result(); r.code != 0 {
			s.t.Errorf("from %s alone: exit code %d\n%s%s", stores[i].name, r.code, r.stdout, r.stderr)
			continue
		}
		compare(s.t, outs[i], datasets...)
	}
}

// TestReturningTarget loses one of four targets before two backups. The others
// get everything; when it is back, replicate brings it all that it missed, run
// by the agent, or on a machine without any key.
func TestReturningTarget(t *testing.T) {
	for _, c := range []struct {
		name    string
		machine func(s *site) *site
	}{
		{"agent", func(s *site) *site { return s }},
		{"keyless", func(s *site) *site { return s.replicator(false) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			src := t.TempDir()
			file := filepath.Join(src, "data")
			d := dataset{name: "data", sources: []string{src}}
			stores := borrow(t, 4)
			s := newSite(t, stores...)
			s.found(d)
			write(t, file, noise(1, mib))
			s.backup(0)
			dead, alive := stores[2], slices.Concat(stores[:2], stores[3:])

			dead.proxy.Cut()
			for seed := range 2 {
				write(t, file, noise(byte(2+seed), mib))
				reports, r := s.backup(0)
				if behind := reports[0].behind(); !slices.Equal(behind, []string{dead.name}) {
					t.Errorf("behind are %q", behind)
				}
				r.warns(t, dead.name)
			}
			sameStores(t, alive)
			if lag := s.status(0).lag(); len(lag) != 1 || lag[dead.name] != 2 {
				t.Errorf("the lag is %v", lag)
			}
			machine := c.machine(s)
			report, r := machine.replicate(4)
			if behind := report.behind(); len(behind) != 1 || behind[dead.name] == 0 {
				t.Errorf("with a dead target behind are %v", behind)
			}
			r.warns(t, dead.name)

			dead.proxy.Heal()
			report, _ = machine.replicate(0)
			for _, at := range report.Targets {
				if missed := at.Target == dead.name; at.Behind > 0 || (at.Entries > 0) != missed || (at.Objects > 0) != missed {
					t.Errorf("%+v", at)
				}
			}
			if lag := machine.status(0).lag(); len(lag) > 0 {
				t.Errorf("the lag is %v on the machine that replicated", lag)
			}
			if lag := s.status(0, "--live").lag(); len(lag) > 0 {
				t.Errorf("the lag is %v on the agent", lag)
			}
			sameStores(t, stores)
			s.fromEachAlone([]*store{dead}, d)

			if report, _ = machine.replicate(0); report.Targets[2].Objects+report.Targets[2].Entries > 0 {
				t.Errorf("nothing was missing, and this was copied: %+v", report)
			}
		})
	}
}
