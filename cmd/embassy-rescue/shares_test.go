package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"embassy/crypto"
	"embassy/embassy"
	"embassy/embassy/format"

	"github.com/rogpeppe/go-internal/testscript"
)

// program is the tests, after which the lost nation is cleared away.
type program struct{ *testing.M }

func (p program) Run() int {
	code := p.M.Run()
	if n, err := nation(); err == nil {
		os.RemoveAll(filepath.Dir(n.kit))
	}
	return code
}

func TestMain(m *testing.M) {
	testscript.Main(program{m}, map[string]func(){"embassy-rescue": main})
}

func TestScripts(t *testing.T) {
	n := lostNation(t)
	c, err := embassy.UnlockKit(n.kit, []byte("correct horse battery staple"))
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("VAULT", n.vaults[0])
			return ceremonies(e.WorkDir, c)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exitsWith},
	})
}

// ceremonies writes the shares of the nation, one that is corrupted, one of an
// older ceremony, one of another nation, and what a person types.
func ceremonies(dir string, c *embassy.Custody) error {
	hold := func(root *crypto.Root, at time.Time) ([]string, error) {
		nation := format.NationID(root.Signer().Verifier(), root.Identity().Recipient())
		shares, err := format.NewShares(root, nation, 3, 5, c.Hints, at)
		var texts []string
		for _, s := range shares {
			text, e := s.Text("ee")
			err = errors.Join(err, e)
			texts = append(texts, text)
		}
		return texts, err
	}
	now := time.Now()
	texts, err := hold(c.Root, now)
	old, err2 := hold(c.Root, now.Add(-time.Hour))
	foreign, err3 := hold(crypto.NewRoot(), now)
	if err := errors.Join(err, err2, err3); err != nil {
		return err
	}
	lines := func(text string) string {
		_, rest, _ := strings.Cut(text, "-----BEGIN EMBASSY SHARE-----\n")
		lines, _, _ := strings.Cut(rest, "-----END")
		return lines
	}
	block := func(i int) string { return lines(texts[i]) }
	digit := map[bool]string{true: "3", false: "2"}
	at := strings.Index(texts[2], "-----BEGIN EMBASSY SHARE") + 100
	for strings.ContainsRune(" \n", rune(texts[2][at])) {
		at++
	}
	first, rest, _ := strings.Cut(block(0), "\n")
	files := map[string]string{
		"corrupted.txt": texts[2][:at] + digit[texts[2][at] == '2'] + texts[2][at+1:],
		"old.txt":       old[2], "foreign.txt": foreign[2],
		"three.txt": texts[0] + "\n" + texts[3] + texts[1],
		"stray.txt": lines(foreign[2]) + block(0) + block(3) + block(1),
		"typed.txt": strings.ToLower(first) + "\nnonsense\n" + rest + block(0) + block(3) + block(2),
	}
	for i, text := range texts {
		files[fmt.Sprintf("share-%d-of-5.txt", i+1)] = text
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// exitsWith runs a program and demands its exit code.
func exitsWith(ts *testscript.TestScript, neg bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	code := 0
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		code = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if (code == want) == neg {
		ts.Fatalf("exit code %d; want %d: %t", code, want, !neg)
	}
}

// Who comes with the root that was replaced is told so, and nothing else.
func TestReplacedRootExits6(t *testing.T) {
	if code := exitCode(t.Context(), fmt.Errorf("open: %w", embassy.ErrReplaced)); code != 6 {
		t.Fatalf("exit code %d", code)
	}
}

// A dataset without a snapshot has neither a time nor a folder.
func TestTellsOfNoSnapshot(t *testing.T) {
	var out strings.Builder
	r := &rescue{stdout: &out, stderr: &out}
	r.tell(embassy.RestoreReport{Datasets: []embassy.DatasetRestore{{Dataset: "archive"}}}, embassy.ErrNoSnapshot)
	if !strings.HasPrefix(out.String(), "archive: nothing was restored\n") {
		t.Fatal(out.String())
	}
}
