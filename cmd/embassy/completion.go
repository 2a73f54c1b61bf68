package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"embassy/embassy"
	"embassy/embassy/config"

	"github.com/urfave/cli/v2"
)

// completionWait bounds how long the names of snapshots are asked for.
const completionWait = 3 * time.Second

// shells are the scripts that make a shell ask embassy complete. A candidate
// may be followed by a tab and what it means. None: the shell offers files.
var shells = map[string]string{
	"bash": `_embassy() {
	mapfile -t COMPREPLY < <(embassy complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null | cut -f1)
}
complete -o default -F _embassy embassy
`,
	"zsh": `#compdef embassy
_embassy() {
	local -a candidates
	candidates=(${(f)"$(embassy complete -- "${(@)words[2,CURRENT]}" 2>/dev/null | sed 's/:/\\:/g; s/\t/:/')"})
	if (( ${#candidates} )); then _describe embassy candidates; else _files; fi
}
compdef _embassy embassy
`,
	"fish": `function __embassy_complete
	set -l words (commandline -opc) (commandline -ct)
	embassy complete -- $words[2..-1] 2>/dev/null
end
complete -c embassy -a '(__embassy_complete)'
`,
}

func completionCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:      "completion",
		Usage:     "print what makes a shell complete command lines, with datasets, targets and snapshots",
		ArgsUsage: "bash|zsh|fish",
		Description: "bash:  add to ~/.bashrc:  source <(embassy completion bash)\n" +
			"zsh:   add to ~/.zshrc, after compinit:  source <(embassy completion zsh)\n" +
			"fish:  embassy completion fish > ~/.config/fish/completions/embassy.fish",
		Action: action(con, func(c *cli.Context) (string, error) {
			if shell := c.Args().First(); c.Args().Len() == 1 && shells[shell] != "" {
				return shell, nil
			}
			return "", usage("name one shell: bash, zsh or fish")
		}, func(_ context.Context, shell string, con *console) error {
			_, err := fmt.Fprint(con.stdout, shells[shell])
			return err
		}),
	}
}

// completeCommand is what the scripts call: it prints what the last of the
// words may become. Whatever goes wrong, it offers less.
func completeCommand(con *console) *cli.Command {
	return &cli.Command{
		Name: "complete", Hidden: true, ArgsUsage: "-- [WORD...]",
		Action: func(c *cli.Context) error {
			for _, word := range con.candidates(c.Context, c.App, c.Args().Slice()) {
				if _, err := fmt.Fprintln(con.stdout, word); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// manualCommand prints the manual page, for make man.
func manualCommand(con *console) *cli.Command {
	return &cli.Command{
		Name: "manual", Hidden: true,
		Action: func(c *cli.Context) error {
			page, err := c.App.ToManWithSection(1)
			if err == nil {
				_, err = fmt.Fprint(con.stdout, page)
			}
			return err
		},
	}
}

// choices are the values of flags that have few.
var choices = map[string][]string{
	"level":        {"presence", "sample", "full", "decrypt"},
	"log-level":    {"debug", "info", "warn", "error"},
	"print-policy": {string(embassy.RoleAgent), string(embassy.RoleReplicator), string(embassy.RoleSteward)},
}

// candidates returns what the last of the words may become.
func (con *console) candidates(ctx context.Context, app *cli.App, words []string) []string {
	if len(words) == 0 {
		words = []string{""}
	}
	last := words[len(words)-1]
	name, commands, flags := "", app.Commands, app.Flags
	var arguments []string
	awaits := "" // the flag whose value is next
	for _, word := range words[:len(words)-1] {
		i := slices.IndexFunc(commands, func(c *cli.Command) bool { return c.HasName(word) })
		switch {
		case awaits != "":
			if awaits == "config" {
				con.config = word
			}
			awaits = ""
		case strings.HasPrefix(word, "-"):
			key, value, given := strings.Cut(strings.TrimLeft(word, "-"), "=")
			switch f := flagNamed(flags, key); {
			case f == nil:
			case !given && takesValue(f):
				awaits = f.Names()[0]
			case given && key == "config":
				con.config = value
			}
		case i >= 0 && len(arguments) == 0:
			name, flags, commands = strings.TrimSpace(name+" "+commands[i].Name), commands[i].Flags, commands[i].Subcommands
		default:
			arguments = append(arguments, word)
		}
	}
	var out []string
	switch {
	case awaits != "":
		out = con.values(ctx, awaits, arguments)
	case strings.HasPrefix(last, "-"):
		for _, f := range flags {
			if v, ok := f.(cli.VisibleFlag); ok && v.IsVisible() {
				out = append(out, "--"+f.Names()[0]+"\t"+usageOf(f))
			}
		}
	case name == "snapshots pin" || name == "snapshots unpin":
		for _, id := range con.snapshotNames(ctx, "") {
			if !strings.HasPrefix(id, "latest\t") { // which may be another one when the line runs
				out = append(out, id)
			}
		}
	case len(commands) > 0 && len(arguments) == 0:
		out = con.arguments(name)
		for _, c := range commands {
			if !c.Hidden {
				out = append(out, c.Name+"\t"+c.Usage)
			}
		}
	default:
		out = con.arguments(name)
	}
	return slices.DeleteFunc(out, func(word string) bool { return !strings.HasPrefix(word, last) })
}

func flagNamed(flags []cli.Flag, name string) cli.Flag {
	i := slices.IndexFunc(flags, func(f cli.Flag) bool { return slices.Contains(f.Names(), name) })
	if i < 0 {
		return nil
	}
	return flags[i]
}

func takesValue(f cli.Flag) bool {
	d, ok := f.(cli.DocGenerationFlag)
	return ok && d.TakesValue()
}

// usageOf is the first clause of a flag's usage.
func usageOf(f cli.Flag) string {
	d, ok := f.(cli.DocGenerationFlag)
	if !ok {
		return ""
	}
	text, _, _ := strings.Cut(d.GetUsage(), ";")
	return strings.ReplaceAll(text, "`", "")
}

// values returns what the value of a flag may be.
func (con *console) values(ctx context.Context, flag string, arguments []string) []string {
	switch flag {
	case "target", "from":
		return con.arguments("target check")
	case "snapshot":
		dataset := ""
		if len(arguments) > 0 {
			dataset = arguments[0]
		}
		return con.snapshotNames(ctx, dataset)
	}
	return slices.Clone(choices[flag])
}

// arguments returns what an argument of a command may be.
func (con *console) arguments(command string) []string {
	if command == "completion" {
		return []string{"bash", "zsh", "fish"}
	}
	cfg, err := config.Load(con.config)
	if err != nil {
		return nil
	}
	var out []string
	switch command {
	case "target check", "target trust", "target list":
		for _, t := range cfg.Targets {
			out = append(out, t.Name+"\t"+t.Jurisdiction)
		}
	case "prune":
		for _, c := range cfg.Compartments {
			out = append(out, c.Name+"\tcompartment")
		}
	case "backup", "restore", "snapshots", "ls", "find", "diff", "dump", "mount", "stats", "forget", "dataset hold", "dataset release":
		for _, d := range cfg.Datasets {
			out = append(out, d.Name+"\tdataset of "+d.Compartment)
		}
	}
	return out
}

// snapshotNames asks the targets for the names of snapshots, newest first.
func (con *console) snapshotNames(ctx context.Context, dataset string) []string {
	ctx, cancel := context.WithTimeout(ctx, completionWait)
	defer cancel()
	con.quiet = true
	var out []string
	err := con.viewing(ctx, limits{}, asAgent, nil, func(_ *site, view *embassy.View, _ *embassy.Keys) error {
		list := view.Snapshots(dataset)
		digits := idDigits(list)
		out = append(out, "latest\tthe newest")
		for _, i := range list {
			out = append(out, fmt.Sprintf("%s\t%s of %s", i.Hash.String()[:digits], i.Summary.Dataset, moment(i.Summary.When())))
		}
		return nil
	})
	if err != nil {
		return nil
	}
	return out
}
