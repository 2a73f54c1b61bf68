package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"embassy/cmd/internal/strict"
	"embassy/crypto"
	"embassy/embassy"
	"embassy/integration/kit"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/urfave/cli/v2"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"embassy": main})
}

const scriptPhrase = "correct horse battery staple"

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("EMBASSY_PASSPHRASE_FILE", e.WorkDir+"/phrase")
			return os.WriteFile(e.WorkDir+"/phrase", []byte(scriptPhrase+"\n"), 0o600)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exitsWith, "json": jsonHas, "sametree": sameTree, "objects": objects,
			"expand": expand, "damage": damage, "spoil": spoil, "cheapkit": cheapKit,
		},
	})
}

// exits CODE PROGRAM ARG... runs a program and demands its exit code.
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

// json PATH VALUE looks into the JSON on stdout: a.0.b is a key, an index and
// a key, and len counts.
func jsonHas(ts *testscript.TestScript, neg bool, args []string) {
	var v any
	if err := json.Unmarshal([]byte(ts.ReadFile("stdout")), &v); err != nil {
		ts.Fatalf("stdout is not JSON: %v", err)
	}
	for step := range strings.SplitSeq(args[0], ".") {
		switch node := v.(type) {
		case map[string]any:
			var ok bool
			if v, ok = node[step]; !ok {
				ts.Fatalf("no %s in %s", step, args[0])
			}
		case []any:
			if step == "len" {
				v = len(node)
				continue
			}
			i, err := strconv.Atoi(step)
			ts.Check(err)
			if i >= len(node) {
				ts.Fatalf("%s has %d elements", args[0], len(node))
			}
			v = node[i]
		default:
			ts.Fatalf("%s leads below a value", args[0])
		}
	}
	if (fmt.Sprint(v) == args[1]) == neg {
		ts.Fatalf("%s is %v; want %s: %t", args[0], v, args[1], !neg)
	}
}

// sametree WANT GOT compares two trees.
func sameTree(ts *testscript.TestScript, neg bool, args []string) {
	_, err := compareTrees(context.Background(), ts.MkAbs(args[0]), ts.MkAbs(args[1]))
	if (err == nil) == neg {
		ts.Fatalf("trees are the same: %t (%v)", err == nil, err)
	}
}

// objects TARGET-DIR FILE writes the names of the packs on a target to a file.
func objects(ts *testscript.TestScript, _ bool, args []string) {
	d := demo{dir: ts.MkAbs(".")}
	packs, err := d.packs("../" + args[0])
	ts.Check(err)
	var names strings.Builder
	for _, p := range packs {
		fmt.Fprintln(&names, p.path, p.size)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(names.String()), 0o600))
}

// cheapkit FILE writes the kit that init goes on with. To open it costs nothing.
func cheapKit(ts *testscript.TestScript, _ bool, args []string) {
	root, err := kit.Write(ts.MkAbs(args[0]), "ee", []byte(scriptPhrase))
	ts.Check(err)
	root.Wipe()
}

// expand FILE replaces $WORK in a file.
func expand(ts *testscript.TestScript, _ bool, args []string) {
	text := strings.ReplaceAll(ts.ReadFile(args[0]), "$WORK", ts.Getenv("WORK"))
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o600))
}

// damage TARGET-DIR turns one bit in the middle of every pack on a target.
func damage(ts *testscript.TestScript, _ bool, args []string) {
	d := demo{dir: ts.MkAbs(".")}
	packs, err := d.packs("../" + args[0])
	ts.Check(err)
	for _, p := range packs {
		ts.Check(flip(p.path, p.size/2))
	}
}

// spoil FILE changes one digit in the middle of a share.
func spoil(ts *testscript.TestScript, _ bool, args []string) {
	text := []byte(ts.ReadFile(args[0]))
	at := bytes.Index(text, []byte("-----BEGIN EMBASSY SHARE")) + 100
	for text[at] < '0' || text[at] > '9' {
		at++
	}
	text[at] = '0' + (text[at]-'0'+1)%10
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), text, 0o600))
}

// TestFlagAfterArgument tries every flag of every command.
func TestFlagAfterArgument(t *testing.T) {
	app := newApp(nil, nil, nil)
	checked := 0
	var walk func(path []string, c *cli.Command)
	walk = func(path []string, c *cli.Command) {
		path = append(path[:len(path):len(path)], c.Name)
		for _, sub := range c.Subcommands {
			walk(path, sub)
		}
		for _, f := range append(c.Flags, app.Flags...) {
			for _, name := range f.Names() {
				flag := "-" + name
				if len(name) > 1 {
					flag = "--" + name
				}
				line := append(path[:len(path):len(path)], "argument", flag)
				if f.(cli.DocGenerationFlag).TakesValue() {
					line = append(line, "value")
				}
				var order *strict.OrderError
				if err := strict.Check(app, line); !errors.As(err, &order) {
					t.Errorf("%q: %v, want an OrderError", line, err)
				} else if !strings.HasSuffix(order.Corrected, " argument") || !strings.Contains(order.Corrected, flag) {
					t.Errorf("%q corrected to %q", line, order.Corrected)
				}
				checked++
			}
		}
	}
	for _, c := range app.Commands {
		walk([]string{"embassy"}, c)
	}
	if checked < 60 {
		t.Errorf("only %d flags were tried", checked)
	}
}

func TestExitCode(t *testing.T) {
	tests := map[string]struct {
		err  error
		want int
	}{
		"none":         {nil, 0},
		"any":          {errors.New("x"), 1},
		"usage":        {usage("x"), 2},
		"name":         {fmt.Errorf("dataset x: %w", embassy.ErrUnknownName), 2},
		"not applied":  {fmt.Errorf("dataset x: %w", embassy.ErrNotInCharter), 2},
		"passphrase":   {fmt.Errorf("kit: %w", crypto.ErrAuthentication), 6},
		"not enrolled": {fmt.Errorf("agent: %w", embassy.ErrNotEnrolled), 6},
		"no steward":   {fmt.Errorf("compartment x: %w", embassy.ErrNotSteward), 6},
		"interrupted":  {fmt.Errorf("backup: %w", context.Canceled), 130},
		"reported":     {reported(0, 4, 3), 4},
		"success":      {reported(0, 0), 0},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := exitCode(tt.err); got != tt.want {
				t.Errorf("exitCode(%v) = %d, want %d", tt.err, got, tt.want)
			}
		})
	}
}
