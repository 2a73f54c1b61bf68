package integration_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"embassy/embassy/format"
)

// house is one nation's machine, with directories for targets.
type house struct {
	t    *testing.T
	dir  string // configuration, state, kit, passphrase, sources
	urls []string
}

// newHouse makes a nation with a dataset of random content in each compartment.
// The names of the datasets are those of the compartments with "-data" behind.
func newHouse(t *testing.T, nation string, compartments ...string) *house {
	t.Helper()
	h := &house{t: t, dir: t.TempDir()}
	write(t, h.path("phrase"), []byte(passphrase+"\n"))
	var text strings.Builder
	fmt.Fprintf(&text, "nation: %s\nstate_dir: ./state\nkit: ./kit.txt\ntargets:\n", nation)
	var known []format.TargetHint
	for _, name := range []string{"one", "two"} {
		must(t, os.Mkdir(h.path(name), 0o700))
		h.urls = append(h.urls, "dir:"+h.path(name))
		known = append(known, format.TargetHint{Name: name, URL: "dir:" + h.path(name), Jurisdiction: strings.ToUpper(nation)})
		fmt.Fprintf(&text, "  - {name: %s, url: %q, jurisdiction: %s}\n", name, "dir:"+h.path(name), strings.ToUpper(nation))
	}
	text.WriteString("compartments:\n")
	for _, c := range compartments {
		fmt.Fprintf(&text, "  - {name: %s, pace: {primary: [one], alternate: [two]}, commit: {targets: 2}}\n", c)
	}
	text.WriteString("datasets:\n")
	for i, c := range compartments {
		fmt.Fprintf(&text, "  - {name: %s-data, compartment: %s, priority: %d, sources: [%q]}\n", c, c, i+1, h.source(c))
		must(t, os.Mkdir(h.source(c), 0o700))
		writeNoise(t, filepath.Join(h.source(c), "first"), 3*mib)
	}
	write(t, h.path("embassy.yaml"), []byte(text.String()))
	cheapKit(t, h.path("kit.txt"), nation, known...)
	h.embassy(0, "init")
	return h
}

func (h *house) path(name string) string { return filepath.Join(h.dir, name) }

func (h *house) source(compartment string) string { return h.path("src-" + compartment) }

func (h *house) run(code int, program string, args ...string) result {
	h.t.Helper()
	cmd := exec.CommandContext(h.t.Context(), program, args...)
	cmd.Dir = h.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + h.dir, "TMPDIR=" + os.TempDir(), "EMBASSY_PASSPHRASE_FILE=" + h.path("phrase")}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		h.t.Fatal(err)
	}
	return result{args: cmd.Args, code: cmd.ProcessState.ExitCode(), stdout: stdout.String(), stderr: stderr.String()}.wants(h.t, code)
}

func (h *house) embassy(code int, args ...string) result {
	h.t.Helper()
	return h.run(code, embassyProgram, args...)
}

// backup returns the newest snapshots by dataset, and the bytes that were added.
func (h *house) backup() (snapshots map[string]string, added map[string]uint64) {
	h.t.Helper()
	var doc struct {
		Datasets []backupReport `json:"datasets"`
	}
	must(h.t, json.Unmarshal([]byte(h.embassy(0, "--json", "backup").stdout), &doc))
	snapshots, added = map[string]string{}, map[string]uint64{}
	for _, d := range doc.Datasets {
		snapshots[d.Dataset], added[d.Dataset] = d.Snapshot, d.Added
	}
	return snapshots, added
}

// packs returns the names of all packs on the first target.
func (h *house) packs() (names []string) {
	must(h.t, filepath.WalkDir(h.path("one"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.Contains(path, "/pack/") {
			names = append(names, path)
		}
		return err
	}))
	return names
}

// nationKey returns the public key of the nation.
func (h *house) nationKey() string {
	h.t.Helper()
	r := h.embassy(0, "config", "replicator")
	key := regexp.MustCompile(`(?m)^nation_key: "?([0-9a-f:]+)`).FindStringSubmatch(r.stdout)
	if key == nil {
		h.t.Fatalf("no nation_key:\n%s", r.stdout)
	}
	return key[1]
}

// rescued restores from another house with what keys open, and returns the
// folder and what was said.
func (h *house) rescued(code int, of *house, args ...string) (string, result) {
	h.t.Helper()
	out := filepath.Join(h.t.TempDir(), "out")
	return out, h.run(code, rescueProgram, append([]string{"--from", of.urls[1], "--to", out}, args...)...)
}

// holds fails the test unless the folder has just the datasets of these
// compartments, as they are now.
func (h *house) holds(out string, compartments ...string) {
	h.t.Helper()
	entries, err := os.ReadDir(out)
	must(h.t, err)
	if len(entries) != len(compartments) {
		h.t.Errorf("%v was restored, want %v", entries, compartments)
	}
	for _, c := range compartments {
		if text := differences(h.t, h.source(c), filepath.Join(out, c+"-data", h.source(c))); text != "" {
			h.t.Errorf("%s: %s", c, text)
		}
	}
}

// What was pruned is no past that a grant has to give.
func TestPartnerNationAfterPrune(t *testing.T) {
	ee, lv := newHouse(t, "ee", "official"), newHouse(t, "lv", "own")
	ee.backup()
	must(t, os.RemoveAll(ee.source("official")))
	write(t, filepath.Join(ee.source("official"), "second"), []byte("nothing of the first run is left"))
	ee.backup()
	ee.embassy(0, "forget", "--last", "1", "--min-age", "0")
	ee.embassy(0, "prune", "--grace", "0")
	if r := ee.embassy(0, "prune", "--grace", "0", "--max-remove", "100%"); !strings.Contains(r.stdout, "done; nothing waits") {
		t.Fatalf("nothing was deleted:\n%s", r.stdout)
	}
	lv.embassy(0, "keys", "partner-key", "--out", lv.path("partner.txt"))
	ee.embassy(0, "charter", "grant", "--past", "--yes", "--to", lv.path("partner.txt"), "official").
		says(t, "1 session keys of the past were granted now")
	out, _ := lv.rescued(0, ee, "--kit", lv.path("kit.txt"), "--nation-key", ee.nationKey())
	ee.holds(out, "official")
}

// A partner nation reads what it was granted with its own root, and nothing else.
func TestPartnerNation(t *testing.T) {
	ee := newHouse(t, "ee", "official", "secret")
	lv, fi := newHouse(t, "lv", "own"), newHouse(t, "fi", "own")
	ee.backup()
	write(t, filepath.Join(ee.source("official"), "second"), []byte("written by a second run"))
	ee.backup()
	for _, h := range []*house{lv, fi} {
		h.embassy(0, "keys", "partner-key", "--out", h.path("partner.txt"))
	}
	partner := func(h *house) []string {
		return []string{"--kit", h.path("kit.txt"), "--nation-key", ee.nationKey()}
	}
	_, r := lv.rescued(6, ee, partner(lv)...)
	r.says(t, "grants nothing to the nation whose root has the fingerprint")

	ee.embassy(2, "charter", "grant", "--past", "--to", lv.path("partner.txt"), "official").
		says(t, "Read it out to them by phone", "no terminal to ask on: give --yes")
	before := ee.packs()
	r = ee.embassy(0, "charter", "grant", "--past", "--yes", "--to", lv.path("partner.txt"), "official")
	r.says(t, "2 session keys of the past were granted now")
	fingerprint := regexp.MustCompile(`granted to ([a-z2-7-]{39})`).FindStringSubmatch(r.stdout)
	if fingerprint == nil {
		t.Fatalf("no fingerprint:\n%s", r.stdout)
	}
	ee.embassy(0, "charter", "grant", "--past", "--yes", "--to", lv.path("partner.txt"), "official").
		says(t, "0 session keys of the past were granted now")
	if after := ee.packs(); strings.Join(after, "\n") != strings.Join(before, "\n") {
		t.Errorf("the packs are others:\n%q\n%q", before, after)
	}
	out, _ := lv.rescued(0, ee, partner(lv)...)
	ee.holds(out, "official")
	_, r = lv.rescued(6, ee, append(partner(lv), "secret-data")...)
	r.says(t, `dataset "secret-data"`, "this nation is granted official alone")

	// From now on: nothing new rests on what the partner cannot open.
	ee.embassy(0, "charter", "grant", "--yes", "--to", fi.path("partner.txt"), "official")
	_, r = fi.rescued(1, ee, partner(fi)...)
	r.says(t, "2 snapshots are not shown: compartment official is granted to this nation from a later time on", "no such snapshot")
	_, added := ee.backup()
	if added["official-data"] < 3*mib || added["secret-data"] != 0 {
		t.Errorf("added %v", added)
	}
	for _, h := range []*house{lv, fi} {
		out, _ = h.rescued(0, ee, partner(h)...)
		ee.holds(out, "official")
		h.rescued(6, ee, append(partner(h), "secret-data")...)
	}
	list := fi.run(0, rescueProgram, append(partner(fi), "--from", ee.urls[0], "--list", "--json")...)
	if n := strings.Count(list.stdout, `"dataset": "official-data"`); n != 1 {
		t.Errorf("%d snapshots are shown:\n%s", n, list.stdout)
	}

	ee.embassy(0, "charter", "revoke-grant", "--from", fingerprint[1][:9], "official").says(t, "This takes nothing back", "keys rotate writer")
	lv.rescued(6, ee, partner(lv)...)
	out, _ = fi.rescued(0, ee, partner(fi)...)
	ee.holds(out, "official")
	ee.embassy(0, "verify", "--level", "decrypt")
	out, _ = ee.rescued(0, ee, "--kit", ee.path("kit.txt"))
	ee.holds(out, "official", "secret")
}

// A reader key reads one compartment, changes nothing, and ends with a rotation.
func TestReaderKey(t *testing.T) {
	ee := newHouse(t, "ee", "official", "secret")
	older, _ := ee.backup()
	key := ee.path("desk.key")
	ee.embassy(0, "keys", "export-reader", "--out", key, "official")
	ee.embassy(2, "keys", "export-reader", "--out", key, "official").says(t, "is there already")
	if info, err := os.Stat(key); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}

	// The desk has the configuration and the file, and no passphrase.
	must(t, os.Rename(ee.path("phrase"), ee.path("elsewhere")))
	out := filepath.Join(t.TempDir(), "out")
	ee.embassy(0, "restore", "--reader-key", key, "--all", "--to", out)
	ee.holds(out, "official")
	out, _ = ee.rescued(0, ee, "--reader-key", key)
	ee.holds(out, "official")
	ee.embassy(0, "ls", "--reader-key", key, "official-data")
	ee.embassy(0, "verify", "--level", "decrypt", "--reader-key", key)

	// Whoever steals it gets no further.
	ee.embassy(6, "restore", "--reader-key", key, "--to", out+"2", "secret-data").says(t, "this reader key is for compartment official alone")
	ee.rescued(6, ee, "--reader-key", key, "secret-data")
	ee.embassy(2, "charter", "apply", "--reader-key", key).says(t, "this needs the recovery kit")
	ee.embassy(2, "keys", "export-reader", "--reader-key", key, "--out", "more", "secret").says(t, "this needs the recovery kit")
	must(t, os.Chmod(key, 0o640))
	ee.embassy(1, "ls", "--reader-key", key, "official-data").says(t, "chmod 600")
	must(t, os.Chmod(key, 0o600))

	must(t, os.Rename(ee.path("elsewhere"), ee.path("phrase")))
	ee.embassy(0, "keys", "rotate", "reader", "official")
	ee.backup() // nothing changed, but the snapshot is sealed to the new key
	for _, r := range []result{
		ee.embassy(6, "restore", "--reader-key", key, "--all", "--to", out+"3"),
		ee.embassy(6, "ls", "--reader-key", key, "official-data"),
		ee.run(6, rescueProgram, "--from", ee.urls[0], "--reader-key", key, "--to", out+"3"),
	} {
		r.says(t, "was rotated since this file was made", "keys export-reader")
	}
	if _, err := os.Stat(out + "3"); err == nil {
		t.Error("a folder was made")
	}
	ee.embassy(0, "restore", "--reader-key", key, "--snapshot", older["official-data"], "--to", out+"4", "official-data")
	ee.holds(out+"4", "official")
	ee.embassy(0, "keys", "export-reader", "--out", ee.path("new.key"), "official")
	ee.embassy(0, "restore", "--reader-key", ee.path("new.key"), "--all", "--to", out+"5")
	ee.holds(out+"5", "official")

	// With another writer secret too, the old key does not even see later snapshots: it does
	// not pass an older one off as the latest.
	ee.embassy(0, "keys", "rotate", "writer", "--yes", "official")
	ee.backup()
	ee.embassy(6, "restore", "--reader-key", key, "--all", "--to", out+"3").says(t, "may be a later state", "was rotated since this file was made")
	ee.run(6, rescueProgram, "--from", ee.urls[0], "--reader-key", key, "--to", out+"3")
}
