package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"embassy/catalog"
	"embassy/embassy"
	"embassy/embassy/config"
	"embassy/embassy/format"
	"embassy/embassy/policy"
	"embassy/integration/kit"
	"embassy/targets"
)

// lost is a nation whose machine is gone: a kit, its passphrase, and what lies
// on two targets.
type lost struct {
	kit, phrase string
	vaults      [2]string
	sources     map[string]map[string]string // dataset -> path -> content
	first       time.Time                    // after the first backup of land, before the second
}

var nation = sync.OnceValues(makeNation)

// makeNation backs up two datasets to two folders and deletes all else. The
// folder outlives one test.
func makeNation() (lost, error) {
	home, err := os.MkdirTemp("", "rescue")
	if err != nil {
		return lost{}, err
	}
	n := lost{
		kit: filepath.Join(home, "kit.txt"), phrase: filepath.Join(home, "phrase"),
		sources: map[string]map[string]string{"population": {}, "land": {}},
	}
	c := &config.Config{
		File: filepath.Join(home, "embassy.yaml"), Nation: "ee", StateDir: filepath.Join(home, "state"),
		Compartments: []config.Compartment{{Name: "official", Commit: policy.Rule{Targets: 2},
			PACE: policy.PACE{Primary: []string{"a"}, Alternate: []string{"b"}}}},
	}
	var members []*embassy.Member
	var known []format.TargetHint
	for i, name := range []string{"a", "b"} {
		n.vaults[i] = filepath.Join(home, "vault-"+name)
		t, err := targets.CreateDir(n.vaults[i])
		if err != nil {
			return n, err
		}
		url := "dir:" + n.vaults[i]
		c.Targets = append(c.Targets, config.Target{Name: name, URL: url})
		known = append(known, format.TargetHint{Name: name, URL: url})
		members = append(members, embassy.NewMember(name, url, "", t, nil, time.Now))
	}
	for i, name := range []string{"land", "population"} { // population comes back first
		src := filepath.Join(home, "src", name)
		c.Datasets = append(c.Datasets, config.Dataset{Name: name, Compartment: "official", Priority: 2 - i, Sources: []string{src}})
		for f, text := range map[string]string{"one": name + " one", "sub/two": strings.Repeat(name+" two ", 20_000)} {
			if err := n.write(name, filepath.Join(src, f), text); err != nil {
				return n, err
			}
		}
	}
	cat, err := catalog.Open(filepath.Join(home, "catalog"), catalog.Options{})
	if err != nil {
		return n, err
	}
	defer cat.Close()
	s, err := embassy.New(embassy.Options{Site: c, Members: members, Catalog: cat})
	if err != nil {
		return n, err
	}
	ctx := context.Background()
	phrase := []byte("correct horse battery staple")
	if err := os.WriteFile(n.phrase, append(phrase, '\n'), 0o600); err != nil {
		return n, err
	}
	root, err := kit.Write(n.kit, c.Nation, phrase, known...)
	if err != nil {
		return n, err
	}
	root.Wipe()
	if _, err := s.Init(ctx, embassy.InitOptions{Passphrase: phrase, KitPath: n.kit, AgentName: "here", Steward: true}); err != nil {
		return n, err
	}
	if _, err := s.Backup(ctx, embassy.BackupOptions{Datasets: []string{"land"}}); err != nil {
		return n, err
	}
	n.first = time.Now()
	if err := n.write("land", filepath.Join(home, "src", "land", "three"), "land three"); err != nil {
		return n, err
	}
	reports, err := s.Backup(ctx, embassy.BackupOptions{})
	for _, r := range reports {
		if err == nil && r.Exit != 0 {
			err = fmt.Errorf("backup of %s: %+v", r.Dataset, r)
		}
	}
	for _, gone := range []string{"src", "state", "embassy.yaml"} {
		if err == nil {
			err = os.RemoveAll(filepath.Join(home, gone))
		}
	}
	return n, err
}

func (n lost) write(dataset, path, text string) error {
	n.sources[dataset][path] = text
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(text), 0o640)
}

func lostNation(t *testing.T) lost {
	t.Helper()
	n, err := nation()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SHARED_CREDENTIALS_FILE", "EMBASSY_PASSPHRASE_FILE"} {
		t.Setenv(name, "")
	}
	t.Setenv("HOME", t.TempDir())
	return n
}

// rescued runs the program.
func rescued(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), append([]string{"embassy-rescue"}, args...), strings.NewReader(""), &out, &errs)
	return code, out.String(), errs.String()
}

// holds fails the test unless the files of a dataset are below to, and no
// others.
func (n lost) holds(t *testing.T, to, dataset string, without ...string) {
	t.Helper()
	want := map[string]string{}
	for path, text := range n.sources[dataset] {
		want[filepath.Join(to, dataset, path)] = text
	}
	for path := range want {
		for _, w := range without {
			if strings.HasSuffix(path, w) {
				delete(want, path)
			}
		}
	}
	err := filepath.WalkDir(filepath.Join(to, dataset), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if text, ok := want[path]; !ok || text != string(data) {
			t.Errorf("%s is not right", path)
		}
		delete(want, path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for path := range want {
		t.Errorf("%s is missing", path)
	}
}

func TestRescueAll(t *testing.T) {
	n := lostNation(t)
	to := filepath.Join(t.TempDir(), "out")
	code, out, errs := rescued(t, "--kit", n.kit, "--passphrase-file", n.phrase, "--from", "dir:"+n.vaults[1], "--verify", "--to", to)
	if code != 0 {
		t.Fatalf("exit code %d\n%s\n%s", code, out, errs)
	}
	n.holds(t, to, "population")
	n.holds(t, to, "land")
	if !strings.Contains(out, "Complete: every byte of 2 datasets") || strings.Index(out, "population:") > strings.Index(out, "land:") {
		t.Errorf("stdout is\n%s", out)
	}
	if strings.Count(out, "read back as written: ") != 2 {
		t.Errorf("what was written was not read back:\n%s", out)
	}
	if !strings.Contains(out, "from b (alternate)") {
		t.Errorf("the target that served is not named as the kit knows it:\n%s", out)
	}
	for _, want := range []string{"The newest ledger entry found is of", "cannot prove that this is the newest state"} {
		if !strings.Contains(errs, want) {
			t.Errorf("stderr lacks %q:\n%s", want, errs)
		}
	}
}

func TestRescueOne(t *testing.T) {
	n := lostNation(t)
	to := t.TempDir()
	code, out, errs := rescued(t, "--kit", n.kit, "--passphrase-file", n.phrase, "--from", "dir:"+n.vaults[0],
		"--at", n.first.UTC().Format(time.RFC3339Nano), "--to", to, "land")
	if code != 0 {
		t.Fatalf("exit code %d\n%s\n%s", code, out, errs)
	}
	n.holds(t, to, "land", "/three")
	if entries, err := os.ReadDir(to); err != nil || len(entries) != 1 {
		t.Errorf("restored %v, %v; want land alone", entries, err)
	}
}

func TestRescueTwoTargetsOneDamaged(t *testing.T) {
	n := lostNation(t)
	broken := t.TempDir()
	if err := os.CopyFS(broken, os.DirFS(n.vaults[0])); err != nil {
		t.Fatal(err)
	}
	flipped := 0
	err := filepath.WalkDir(broken, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.Contains(filepath.ToSlash(path), "/pack/") || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		data[len(data)/2] ^= 1
		flipped++
		if err := os.Chmod(path, 0o600); err != nil {
			return err
		}
		return os.WriteFile(path, data, 0o600)
	})
	if err != nil || flipped == 0 {
		t.Fatal(flipped, err)
	}
	to := t.TempDir()
	code, out, errs := rescued(t, "--kit", n.kit, "--passphrase-file", n.phrase,
		"--from", "dir:"+filepath.Join(broken, "no"), "--from", "dir:"+broken, "--from", "dir:"+n.vaults[1], "--to", to)
	if code != 0 {
		t.Fatalf("exit code %d\n%s\n%s", code, out, errs)
	}
	n.holds(t, to, "population")
	if !strings.Contains(errs, "target dir:"+broken+": pack ") || !strings.Contains(out, "; others were used") {
		t.Errorf("the bad copies are not named:\n%s\n%s", out, errs)
	}
}

// TestRescueResumes begins with a target that has lost its packs, and ends with
// one that shows a later snapshot: what was begun is finished.
func TestRescueResumes(t *testing.T) {
	n := lostNation(t)
	broken := t.TempDir()
	if err := os.CopyFS(broken, os.DirFS(n.vaults[0])); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(broken, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.Contains(filepath.ToSlash(path), "/pack/") || d.IsDir() {
			return err
		}
		return os.Remove(path)
	})
	if err != nil {
		t.Fatal(err)
	}
	to := t.TempDir()
	args := []string{"--kit", n.kit, "--passphrase-file", n.phrase, "--to", to}
	code, out, errs := rescued(t, append(args, "--from", "dir:"+broken, "--at", n.first.UTC().Format(time.RFC3339Nano), "land")...)
	if code != 1 || !strings.Contains(out, "bad copies met: ") || strings.Contains(out, "others were used") {
		t.Fatalf("exit code %d\n%s\n%s", code, out, errs)
	}
	args = append(args, "--from", "dir:"+n.vaults[1])
	code, out, errs = rescued(t, append(args, "population")...)
	if code != 2 || !strings.Contains(errs, "the datasets that it was asked for") || strings.Contains(errs, "--overwrite") {
		t.Errorf("another dataset: exit code %d\n%s\n%s", code, out, errs)
	}
	code, out, errs = rescued(t, append(args, "land")...)
	if code != 0 || !strings.Contains(errs, "Resuming dataset land") {
		t.Fatalf("exit code %d\n%s\n%s", code, out, errs)
	}
	n.holds(t, to, "land", "/three")
}

// TestRescueFromTheKit names no target: the kit does.
func TestRescueFromTheKit(t *testing.T) {
	n := lostNation(t)
	to := t.TempDir()
	code, out, errs := rescued(t, "--kit", n.kit, "--passphrase-file", n.phrase, "--to", to)
	if code != 0 || !strings.Contains(out, "from a (primary)") {
		t.Fatalf("exit code %d\n%s\n%s", code, out, errs)
	}
	n.holds(t, to, "population")
	if strings.Contains(errs, "cannot prove") {
		t.Errorf("two targets are said to be one:\n%s", errs)
	}
}

// A target of another nation, and one that is no target at all, prove nothing.
func TestRescueTargetsOfOthers(t *testing.T) {
	n := lostNation(t)
	other, junk := t.TempDir(), t.TempDir()
	stranger := strings.Repeat("ab", 16)
	for _, name := range []string{filepath.Join(other, stranger, "charter", "x"), filepath.Join(junk, "mine", "x")} {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	code, out, errs := rescued(t, "--kit", n.kit, "--passphrase-file", n.phrase, "--list",
		"--from", "dir:"+other, "--from", "dir:"+junk, "--from", "dir:"+n.vaults[0])
	if code != 0 {
		t.Fatalf("exit code %d\n%s\n%s", code, out, errs)
	}
	for _, want := range []string{
		"warning: target dir:" + other + ": holds another nation (abababab…), not used",
		"warning: target dir:" + junk + ": holds no Embassy data, not used",
		"cannot prove that this is the newest state",
	} {
		if !strings.Contains(errs, want) {
			t.Errorf("stderr lacks %q:\n%s", want, errs)
		}
	}
}

func TestRescueList(t *testing.T) {
	n := lostNation(t)
	t.Setenv("EMBASSY_PASSPHRASE_FILE", n.phrase)
	code, out, errs := rescued(t, "--kit", n.kit, "--from", "dir:"+n.vaults[0], "--list")
	if code != 0 || strings.Count(out, "\n") != 4 || strings.Count(out, "land ") != 2 {
		t.Errorf("exit code %d\n%s\n%s", code, out, errs)
	}
	var doc struct {
		Version   int
		Snapshots []struct {
			Dataset string
			Files   int
		}
	}
	code, out, _ = rescued(t, "--kit", n.kit, "--from", "dir:"+n.vaults[0], "--list", "--json")
	if err := json.Unmarshal([]byte(out), &doc); err != nil || code != 0 || doc.Version != 1 || len(doc.Snapshots) != 3 ||
		doc.Snapshots[0].Dataset != "population" || doc.Snapshots[0].Files != 2 {
		t.Errorf("exit code %d, %v\n%s", code, err, out)
	}
	code, out, _ = rescued(t, "--kit", n.kit, "--from", "dir:"+n.vaults[0], "--list", "population")
	if code != 0 || strings.Count(out, "\n") != 2 {
		t.Errorf("exit code %d\n%s", code, out)
	}
}

func TestRescueMistakes(t *testing.T) {
	n := lostNation(t)
	dir := t.TempDir()
	wrong, full, other := filepath.Join(dir, "wrong"), filepath.Join(dir, "full"), filepath.Join(dir, "other")
	empty, torn := filepath.Join(dir, "empty"), filepath.Join(dir, "torn")
	whole, err := os.ReadFile(n.kit)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(string(whole), "\n")
	at := slices.Index(lines, "-----BEGIN EMBASSY RECOVERY KIT-----\n") + 3
	without := strings.Join(slices.Delete(lines, at, at+1), "")
	for name, text := range map[string]string{wrong: "not this one", filepath.Join(full, "mine"): "x", empty: "\n", torn: without} {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	stranger := strings.Repeat("ab", 16)
	if err := os.MkdirAll(filepath.Join(other, stranger, "charter"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(other, stranger, "charter", "x"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	keys := filepath.Join(dir, "keys")
	if err := os.WriteFile(keys, []byte("[default]\naws_access_key_id=a\naws_secret_access_key=b\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(dir, "out")
	kit := []string{"--kit", n.kit, "--passphrase-file", n.phrase}
	from := append(kit, "--from", "dir:"+n.vaults[0])
	tests := map[string]struct {
		args []string
		code int
		says string
	}{
		"nothing":             {nil, 2, "--kit FILE"},
		"no folder":           {kit, 2, "--to FOLDER"},
		"folder and list":     {append(kit, "--list", "--to", to), 2, "either"},
		"unknown flag":        {[]string{"--bogus"}, 2, "--bogus"},
		"flag after argument": {append(from, "land", "--to", to), 2, "--to " + to + " land"},
		"no such kit":         {[]string{"--kit", to, "--to", to}, 2, "--kit: open " + to},
		"kit without a line":  {[]string{"--kit", torn, "--passphrase-file", n.phrase, "--to", to}, 1, fmt.Sprintf("line 3 of its block is missing or out of order: see line %d of the file", at+1)},
		"mistyped flag":       {append(kit, "--form", "s3+http://x/y", "--list"), 2, "unknown flag --form; did you mean --from?"},
		"flag without value":  {append(kit, "--to"), 2, "flag --to needs a value"},
		"target twice":        {append(from, "--from", "dir:"+n.vaults[0], "--to", to), 2, "is given twice"},
		"JSON of a restore":   {append(from, "--json", "--to", to), 2, "--json is for --list"},
		"no passphrase file":  {[]string{"--kit", n.kit, "--passphrase-file", to, "--to", to}, 2, "passphrase file: open " + to},
		"folder of them":      {[]string{"--kit", n.kit, "--passphrase-file", dir, "--to", to}, 2, "is a directory"},
		"empty passphrase":    {[]string{"--kit", n.kit, "--passphrase-file", empty, "--to", to}, 6, "the passphrase is empty"},
		"plain http":          {append(kit, "--credentials-file", keys, "--from", "s3+http://192.0.2.1/bucket", "--to", to), 1, "or give --insecure"},
		"no credentials":      {append(kit, "--from", "s3+http://127.0.0.1:1/bucket", "--to", to), 1, "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give --credentials-file FILE"},
		"no passphrase":       {[]string{"--kit", n.kit, "--to", to}, 2, "--passphrase-file"},
		"wrong passphrase":    {[]string{"--kit", n.kit, "--passphrase-file", wrong, "--to", to}, 6, "passphrase"},
		"bad URL":             {append(kit, "--from", "https://x/y", "--to", to), 2, "s3+https"},
		"bad time":            {append(from, "--at", "yesterday", "--to", to), 2, "2026-11-21"},
		"unknown dataset":     {append(from, "--to", to, "sea"), 2, "land"},
		"too early":           {append(from, "--at", "2001-01-01", "--to", to, "land"), 1, "no such snapshot"},
		"full folder":         {append(from, "--to", full), 2, "not empty"},
		"other nation":        {append(kit, "--from", "dir:"+other, "--to", to), 1, "another nation (" + stranger[:8]},
		"elsewhere":           {append(kit, "--from", "dir:"+other, "--to", to), 1, "the kit also knows dir:" + n.vaults[0]},
		"no such directory":   {append(kit, "--from", "dir:"+filepath.Join(dir, "none"), "--to", to), 1, "whether its disk is mounted"},
		"refused": {append(kit, "--credentials-file", keys, "--from", "s3+http://127.0.0.1:1/bucket", "--to", to), 1,
			"check host, port and network"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			code, out, errs := rescued(t, tt.args...)
			if code != tt.code || !strings.Contains(errs, tt.says) {
				t.Errorf("exit code %d, want %d; stderr should say %q:\n%s", code, tt.code, tt.says, errs)
			}
			if strings.Contains(errs, "is down") { // one that answers is not
				t.Errorf("stderr:\n%s", errs)
			}
			if out != "" {
				t.Errorf("stdout is %q", out)
			}
			if _, err := os.Stat(to); err == nil {
				t.Error("the folder was made")
			}
		})
	}
}

func TestRescueInterrupted(t *testing.T) {
	n := lostNation(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out, errs bytes.Buffer
	args := []string{"embassy-rescue", "--kit", n.kit, "--passphrase-file", n.phrase, "--to", filepath.Join(t.TempDir(), "out")}
	if code := run(ctx, args, strings.NewReader(""), &out, &errs); code != 130 || out.Len() > 0 ||
		!strings.Contains(errs.String(), "interrupted; run the same command again to go on\n") || strings.Contains(errs.String(), "cancel") {
		t.Errorf("exit code %d\n%s\n%s", code, out.String(), errs.String())
	}
	report := embassy.RestoreReport{Datasets: []embassy.DatasetRestore{{Dataset: "big", Snapshot: format.Hash{1}, Files: 7}}}
	chosen := []embassy.SnapshotInfo{{Hash: format.Hash{1}, Summary: format.Summary{Files: 10}}}
	if got := interrupted(report, chosen).Error(); got != "interrupted: 7 of 10 files of big are complete; run the same command again to go on" {
		t.Error(got)
	}
}
