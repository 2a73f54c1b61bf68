package main

import (
	"context"
	"flag"
	"io"
	"log/slog"
	"strconv"
	"strings"
	_ "time/tzdata" // schedules name time zones, and not every machine has them

	"embassy/cmd/internal/term"
	"embassy/embassy"

	"github.com/urfave/cli/v2"
)

// version is set by the build.
var version = "dev"

const defaultConfig = "embassy.yaml"

// console is what every command gets besides its own options: the streams and
// the global flags.
type console struct {
	stdin  io.Reader
	stdout io.Writer // data
	stderr io.Writer // everything else
	config string    // path of the configuration
	json   bool      // data as JSON
	quiet  bool      // no progress, no advice
	level  slog.Level

	args   []string               // of the command line, from the command on
	shared *daemon                // not nil: the command runs inside of this daemon
	relay  func(embassy.Progress) // not nil: shows the progress elsewhere
}

// sharedFlag is a flag of every app. A daemon runs several apps at once, and
// the library's own would keep what one line gives in one place for all.
type sharedFlag struct{ *cli.BoolFlag }

// Apply implements cli.Flag.
func (f sharedFlag) Apply(set *flag.FlagSet) error {
	own := *f.BoolFlag
	return own.Apply(set)
}

func init() {
	cli.HelpFlag = sharedFlag{&cli.BoolFlag{Name: "help", Aliases: []string{"h"}, Usage: "show help", DisableDefaultText: true}}
	cli.VersionFlag = sharedFlag{&cli.BoolFlag{Name: "version", Aliases: []string{"v"}, Usage: "print the version", DisableDefaultText: true}}
}

// newApp returns the program. An app is used once.
func newApp(stdin io.Reader, stdout, stderr io.Writer) *cli.App {
	return (&console{stdin: stdin, stdout: stdout, stderr: stderr}).app()
}

// app returns the program on a console.
func (con *console) app() *cli.App {
	var level string
	app := &cli.App{
		Name:  "embassy",
		Usage: "keep a nation's critical data alive outside the nation",
		Description: "Exit codes: 0 done; 1 failed; 2 usage or configuration; 3 done, with gaps in the source; 4 done, and the\n" +
			"commit rule or an RPO is not met; 5 a target lies or gave a bad copy; 6 authentication; 130 interrupted.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "config", Usage: "configuration `FILE`", Value: defaultConfig, EnvVars: []string{"EMBASSY_CONFIG"}, Destination: &con.config},
			&cli.BoolFlag{Name: "json", Usage: "print data as JSON", Destination: &con.json},
			&cli.BoolFlag{Name: "quiet", Usage: "no progress and no advice; warnings and errors only", Destination: &con.quiet},
			&cli.StringFlag{Name: "log-level", Usage: "log what is at least this `LEVEL`: debug, info, warn or error", Value: "error", Destination: &level},
			cli.HelpFlag, // the library adds it with a help command of its own only
		},
		Before: func(c *cli.Context) error {
			con.args = c.Args().Slice()
			if con.config == "" { // an empty $EMBASSY_CONFIG
				con.config = defaultConfig
			}
			if err := con.level.UnmarshalText([]byte(level)); err != nil {
				return &usageError{"embassy", "--log-level " + level + " is none of debug, info, warn and error"}
			}
			return nil
		},
		Commands: []*cli.Command{
			initCommand(con), configCommand(con), charterCommand(con), agentCommand(con), keysCommand(con), targetCommand(con), datasetCommand(con), compartmentCommand(con),
			backupCommand(con), replicateCommand(con), verifyCommand(con), forgetCommand(con), pruneCommand(con), snapshotsCommand(con), lsCommand(con), findCommand(con),
			diffCommand(con), dumpCommand(con), mountCommand(con), restoreCommand(con), statusCommand(con), statsCommand(con), auditCommand(con), serveCommand(con), catalogCommand(con),
			demoCommand(con), completionCommand(con), completeCommand(con), manualCommand(con), versionCommand(con), helpCommand(con),
		},
		Version:                   version,
		Reader:                    con.stdin,
		Writer:                    con.stdout,
		ErrWriter:                 con.stderr,
		ExitErrHandler:            func(*cli.Context, error) {},
		DisableSliceFlagSeparator: true, // a target's settings are separated by commas
		UseShortOptionHandling:    true,
	}
	app.Action = group("embassy", app.Commands)
	app.OnUsageError = usageErrorOf("embassy")
	complete("embassy", app.Commands)
	route(con, "", app.Commands)
	return app
}

// complete gives the commands what all of them have in common.
func complete(parent string, commands []*cli.Command) {
	for _, c := range commands {
		name := parent + " " + c.Name
		c.HideHelpCommand = true // a dataset may be called help
		c.OnUsageError = usageErrorOf(name)
		if len(c.Subcommands) > 0 {
			if c.Action == nil {
				c.Action = group(name, c.Subcommands)
			}
			complete(name, c.Subcommands)
		}
	}
}

// group refuses a command that only has commands below it.
func group(name string, commands []*cli.Command) cli.ActionFunc {
	return func(c *cli.Context) error { return noCommand(name, commands, c.Args().First()) }
}

// noCommand is the error about a word that is none of the commands; empty: there
// is no word.
func noCommand(name string, commands []*cli.Command, word string) error {
	var known []string
	for _, c := range commands {
		if !c.Hidden {
			known = append(known, c.Name)
		}
	}
	text := name + " needs a command: " + strings.Join(known, ", ")
	if word != "" {
		text = "unknown command " + name + " " + word
		if meant := near(word, known); meant != "" {
			text += ". Did you mean " + strconv.Quote(meant) + "?"
		}
	}
	return &usageError{name, text}
}

func usageErrorOf(command string) cli.OnUsageErrorFunc {
	return func(_ *cli.Context, err error, _ bool) error {
		text := err.Error()
		if name, ok := strings.CutPrefix(text, "flag provided but not defined: -"); ok {
			text = "unknown flag --" + strings.TrimLeft(name, "-")
		}
		return &usageError{command, text}
	}
}

// action joins the two halves of a command: decode reads flags and arguments,
// run does the work and knows no flags.
func action[T any](con *console, decode func(*cli.Context) (T, error), run func(context.Context, T, *console) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		o, err := decode(c)
		if err != nil {
			if u := (*usageError)(nil); as[*usageError](err) {
				u = err.(*usageError)
				u.command = c.Command.HelpName
			}
			return err
		}
		return run(c.Context, o, con)
	}
}

// noArguments is for decode of commands that take none.
func noArguments(c *cli.Context) error {
	if c.Args().Present() {
		return usage("%s takes no arguments, and %q is one", c.Command.HelpName, c.Args().First())
	}
	return nil
}

// reader is how a reader's command gets at its keys.
type reader struct {
	kit     string   // file; empty: as configured
	phrases string   // file; empty: ask
	shares  []string // files; a quorum of them stands for the kit
	key     string   // reader key file, instead of a kit
	about   []string // facts for the audit record of their use
}

// readerFlags name what opens data.
func readerFlags() []cli.Flag { return openFlags(false) }

// rootFlags name what opens the root. A reader key does not, and is refused in
// words.
func rootFlags() []cli.Flag { return openFlags(true) }

func openFlags(root bool) []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "kit", Usage: "recovery kit `FILE` (default: kit of the configuration)"},
		phraseFlag(), shareFlag(),
		&cli.StringFlag{Name: "reader-key", Usage: "reader key `FILE` of one compartment, instead of the kit; for reading only", Hidden: root},
	}
}

func shareFlag() cli.Flag {
	return &cli.StringSliceFlag{Name: "share", Usage: "share `FILE` of a custodian; repeat it until there is a quorum, which needs no kit and no passphrase"}
}

func phraseFlag() cli.Flag {
	return &cli.StringFlag{Name: "passphrase-file", Usage: "`FILE` whose first line is the passphrase (default: ask)", EnvVars: []string{"EMBASSY_PASSPHRASE_FILE"}}
}

func decodeReader(c *cli.Context) reader {
	return reader{kit: c.String("kit"), phrases: c.String("passphrase-file"), shares: c.StringSlice("share"), key: c.String("reader-key")}
}

func (con *console) passphrases(file string) term.Passphrases {
	return term.Passphrases{File: file, In: con.stdin, Out: con.stderr}
}
