package integration_test

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"embassy/crypto"
	"embassy/embassy"
	"embassy/embassy/format"
)

// TestTargetsLearnNothing searches all that a host has for anything of the
// sources: object names, headers and bodies as S3 gives them, and every file
// of the bucket in the server's own folder.
func TestTargetsLearnNothing(t *testing.T) {
	src := t.TempDir()
	goroot, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	copyTree(t, filepath.Join(strings.TrimSpace(string(goroot)), "src", "sort"), filepath.Join(src, "ordinary-program-text"))
	write(t, filepath.Join(src, "folder-of-markers", "incompressible-marker.bin"), noise(11, 300_000))
	write(t, filepath.Join(src, "folder-of-markers", "tiny-marker.bin"), noise(12, 100))
	var register strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&register, "%d;citizen-%x;Pikk %d, Tallinn\n", 30000000000+i*7, noise(byte(i), 6), i)
	}
	write(t, filepath.Join(src, "rahvastikuregister.csv"), []byte(register.String()))
	if err := os.Symlink("where-a-link-leads-to", filepath.Join(src, "symbolic-link-name")); err != nil {
		t.Fatal(err)
	}

	stores := start(t, 3)
	s := newSite(t, stores...)
	s.nation = "vabariigi-arhiiv"
	d := dataset{name: "rahvastik-ja-maakataster", sources: []string{src}}
	s.configure(d)
	s.exits(0, "init", "--agent-name", "agent-seitsmes-kelder")
	s.backup(0)
	write(t, filepath.Join(src, "folder-of-markers", "later-marker.txt"), []byte("A second snapshot has an index of its own.\n"))
	s.backup(0)

	scan := newScanner()
	for _, name := range []string{s.nation, d.name, "agent-seitsmes-kelder", "official", "where-a-link-leads-to", "luxembourg", "helsinki"} {
		scan.addName(name)
	}
	err = filepath.WalkDir(src, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if len(e.Name()) >= 6 {
			scan.addName(e.Name())
		}
		if !e.Type().IsRegular() {
			return nil
		}
		data, err := os.ReadFile(path)
		scan.addText(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("looking for %d windows and %d forms of names", len(scan.windows), len(scan.needles))

	// The sources themselves and the configuration hold them.
	for _, path := range []string{filepath.Join(src, "folder-of-markers", "tiny-marker.bin"), s.path("embassy.yaml")} {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if len(scan.search(data)) == 0 {
			t.Errorf("the scanner finds nothing in %s", path)
		}
	}
	for _, st := range stores {
		scanned := 0
		for key := range st.list() {
			body, header := st.get(key)
			for where, data := range map[string][]byte{"name": []byte(key), "header": headerText(header), "body": body} {
				if found := scan.search(data); len(found) > 0 {
					t.Errorf("%s: %s of %s: %q", st.name, where, key, found)
				}
			}
			scanned += len(body)
		}
		files := scanTree(t, scan, filepath.Join(st.server.DataDir, st.bucket))
		for path, found := range files {
			if len(found) > 0 {
				t.Errorf("%s: %s: %q", st.name, path, found)
			}
		}
		if scanned < 300_000 || len(files) < len(st.list()) {
			t.Errorf("%s: only %d bytes and %d files were searched", st.name, scanned, len(files))
		}
	}

	// The same search finds what a careless program would have left there.
	stores[0].put("backup-of-rahvastikuregister.csv", []byte("id;name"))
	files := scanTree(t, scan, filepath.Join(stores[0].server.DataDir, stores[0].bucket))
	if !slices.ContainsFunc(slices.Collect(maps.Values(files)), func(found []string) bool { return len(found) > 0 }) {
		t.Error("a name on the store was not found")
	}
}

func headerText(h http.Header) []byte {
	var text strings.Builder
	for key, values := range h {
		fmt.Fprintf(&text, "%s: %s\n", key, strings.Join(values, "\n"))
	}
	return []byte(text.String())
}

// scanTree searches every file of a folder, and its path below it.
func scanTree(t testing.TB, scan *scanner, dir string) map[string][]string {
	t.Helper()
	files := map[string][]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		files[path] = append(scan.search(data), scan.search([]byte(strings.TrimPrefix(path, dir)))...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestAgentStateOpensNothing tries to read what an agent wrote with all that
// its state directory holds, when the store is dead and the packs lie in the
// spool.
func TestAgentStateOpensNothing(t *testing.T) {
	src := t.TempDir()
	write(t, filepath.Join(src, "file"), noise(1, 100_000))
	st := startOne(t, 0)
	s := newSite(t, st)
	s.found(dataset{name: "data", sources: []string{src}})
	s.backup(0)
	write(t, filepath.Join(src, "more"), noise(2, 100_000))
	st.proxy.Cut()
	s.backup(4)

	state, err := embassy.OpenState(s.path("state"))
	if err != nil {
		t.Fatal(err)
	}
	charter, err := format.OpenCharter(read(t, s.path("state/charter")), state.Nation(), state.Verifier())
	if err != nil {
		t.Fatal(err)
	}
	agent, err := crypto.ParseAgentKey(read(t, s.path("state/agent.key")))
	if err != nil {
		t.Fatal(err)
	}
	agentKeys, err := embassy.AgentKeys(charter, agent)
	if err != nil {
		t.Fatal(err)
	}
	_, root, err := embassy.OpenKit(s.path("kit.txt"), []byte(passphrase))
	if err != nil {
		t.Fatal(err)
	}
	rootKeys, err := embassy.RootKeys(charter, root)
	if err != nil {
		t.Fatal(err)
	}
	mine, readers := agentKeys.Compartments[0], rootKeys.Compartments[0]
	if mine.Reader != nil {
		t.Error("the agent holds a reader key")
	}
	asReader := format.NewReader(agent.Identity, root.Identity())
	identity := root.Reader(readers.ID, 1)
	below := root.Derive("compartment", crypto.Context{Compartment: readers.ID})
	secrets := map[string][]byte{
		"root": root.Bytes(), "reader key": identity.Bytes(), "passphrase": []byte(passphrase),
		"compartment secret": below.Bytes(), "seed of the reader key": below.Derive("reader", crypto.Context{Compartment: readers.ID, Epoch: 1}).Bytes(),
	}
	noteSession := func(name string, h format.Header) {
		k, ctx := h.Keys[0], h.Scope
		raw, err := identity.Open(crypto.Context{
			Type: "session key", Nation: ctx.Nation, Compartment: ctx.Compartment, Agent: ctx.Agent, Chain: ctx.Chain, Epoch: k.Epoch,
		}, k.Sealed[:])
		if err != nil {
			t.Fatalf("session key of %s: %v", name, err)
		}
		secrets["session key of "+name] = raw
	}

	packs, snapshots := 0, 0
	tryPack := func(name string, object []byte) {
		packs++
		if _, err := format.OpenSegment(asReader, object); !errors.Is(err, crypto.ErrAuthentication) {
			t.Errorf("%s: the agent opens its pack: %v", name, err)
		}
		segment, err := format.OpenSegment(readers.Reader, object)
		if err != nil {
			t.Fatalf("%s: not even a reader opens it: %v", name, err)
		}
		noteSession(name, segment.Header)
	}
	trySnapshot := func(name string, object []byte) {
		snapshots++
		snapshot, err := format.ParseSnapshot(object)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := snapshot.Summary(mine.Current()); err != nil {
			t.Errorf("%s: the agent cannot read its summary: %v", name, err)
		}
		if _, err := snapshot.Root(asReader); !errors.Is(err, crypto.ErrAuthentication) {
			t.Errorf("%s: the agent opens the root of its snapshot: %v", name, err)
		}
		if _, err := snapshot.Root(readers.Reader); err != nil {
			t.Errorf("%s: not even a reader opens it: %v", name, err)
		}
		noteSession(name, snapshot.Header)
	}
	for _, key := range st.keys("pack") {
		object, _ := st.get(key)
		tryPack(key, object)
	}
	for _, key := range st.keys("snapshot") {
		object, _ := st.get(key)
		trySnapshot(key, object)
	}
	spooled, err := filepath.Glob(s.path("state/spool/*/*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range spooled {
		switch object := read(t, path); string(object[:4]) {
		case "EMBS":
			tryPack(path, object)
		case "EMBN":
			trySnapshot(path, object)
		}
	}
	if packs < 2 || snapshots < 2 {
		t.Fatalf("%d packs and %d snapshots were tried, and %q are spooled", packs, snapshots, spooled)
	}

	// Nor does any file hold a key that does, in whatever form.
	scan, control := newScanner(), newScanner()
	for name, secret := range secrets {
		if len(secret) < windowSize {
			t.Fatalf("%s has %d bytes", name, len(secret))
		}
		scan.addText(secret)
	}
	for path, found := range scanTree(t, scan, s.path("state")) {
		if len(found) > 0 {
			t.Errorf("%s holds a secret: %q", path, found)
		}
	}
	control.addText(agent.Identity.Bytes())
	if found := scanTree(t, control, s.path("state"))[s.path("state/agent.key")]; len(found) == 0 {
		t.Error("the agent's own key was not found in its file")
	}
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
