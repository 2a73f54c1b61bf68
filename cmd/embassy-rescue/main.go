// Command embassy-rescue restores a nation's data on a bare machine: it needs
// the recovery kit with its passphrase, or a quorum of shares, and one surviving
// target. It has no configuration, no catalog and no state, and writes to no
// target.
//
// Data goes to stdout, everything else to stderr. Exit codes: 0 every byte
// asked for is right; 1 not; 2 usage, or no kit, share or passphrase to read; 6
// wrong passphrase, too few good shares, or keys that do not open what was asked
// for; 130 interrupted.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"embassy/cmd/internal/harden"
	"embassy/cmd/internal/strict"
	"embassy/cmd/internal/term"
	"embassy/crypto"
	"embassy/embassy"
	"embassy/embassy/format"
	"embassy/targets"

	"github.com/urfave/cli/v2"
)

// version is set by the build.
var version = "dev"

func main() {
	if err := harden.Process(); err != nil {
		fmt.Fprintln(os.Stderr, "warning:", err)
	}
	// The first signal ends the run in good order, the second at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args, os.Stdin, os.Stdout, os.Stderr))
}

// run is the whole program. It returns the exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	app := newApp(stdin, stdout, stderr)
	err := strict.Check(app, args)
	if err == nil {
		err = app.RunContext(ctx, args)
	}
	if err == nil {
		return 0
	}
	code := exitCode(ctx, err)
	if code == 130 {
		told := &interruptedError{}
		errors.As(err, &told)
		fmt.Fprintln(stderr, told)
		return code
	}
	// That a target is down goes without saying where the reason is given, which
	// may be that it refuses the keys.
	fmt.Fprintf(stderr, "error: %s\n", strings.ReplaceAll(err.Error(), embassy.ErrDown.Error()+": ", ""))
	if h := hint(err); h != "" {
		fmt.Fprintf(stderr, "hint: %s\n", h)
	}
	return code
}

// usageError is a mistake in the command line.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text + "; see embassy-rescue --help" }

func exitCode(ctx context.Context, err error) int {
	var usage *usageError
	var order *strict.OrderError
	switch {
	case ctx.Err() != nil, errors.Is(err, context.Canceled):
		return 130
	case errors.As(err, &usage), errors.As(err, &order), errors.Is(err, term.ErrNone), errors.Is(err, term.ErrUnfit), errors.Is(err, embassy.ErrNotEmpty):
		return 2
	case errors.Is(err, errKit), errors.Is(err, errShares), errors.Is(err, term.ErrEmpty),
		errors.Is(err, embassy.ErrReplaced), errors.Is(err, embassy.ErrNotGranted), errors.Is(err, format.ErrSealedToOthers):
		return 6
	}
	return 1
}

// hint says what to do about an error, where the error does not.
func hint(err error) string {
	var dial *net.OpError
	switch {
	case errors.Is(err, errKit) && errors.Is(err, crypto.ErrAuthentication):
		return "type the passphrase of this very kit; the sums of its lines are right, so none is missing or mistyped"
	case errors.As(err, new(*format.SharesError)):
		return "embassy keys check-share FILE says what a share is; ask another custodian for one"
	case errors.Is(err, embassy.ErrNoCharter):
		return "check the URL and its prefix, or name another target with --from"
	case errors.Is(err, embassy.ErrNoSnapshot):
		return "embassy-rescue --list shows what is there"
	case errors.Is(err, targets.ErrNoStore):
		return "check the end of the URL and, for a directory, whether its disk is mounted"
	case errors.Is(err, targets.ErrDenied):
		return "name other credentials with --credentials-file or, for a directory, run this as a user who may read it"
	case errors.As(err, &dial) && dial.Op == "dial":
		return "check host, port and network, or name another target with --from"
	}
	return ""
}

// newApp returns the program. An app is used once.
func newApp(stdin io.Reader, stdout, stderr io.Writer) *cli.App {
	app := &cli.App{
		Name:      "embassy-rescue",
		Usage:     "restore a nation's data with the recovery kit, or a quorum of shares, and one surviving target: nothing else",
		ArgsUsage: "[DATASET...]",
		Description: "With the recovery kit and its passphrase:\n\n" +
			"   embassy-rescue --kit FILE --from URL --to FOLDER\n\n" +
			"With a quorum of shares, from files, or typed from paper:\n\n" +
			"   embassy-rescue --share A --share B --share C --from URL --to FOLDER\n" +
			"   embassy-rescue --shares --from URL --to FOLDER\n\n" +
			"Without datasets all are restored, in the order of their restore priority.\n" +
			"Without --from the targets that the kit or the share files name are used. Credentials for S3 come\n" +
			"from --credentials-file, else from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY,\n" +
			"else from the kit, else from ~/.aws/credentials. A kit made by embassy init\n" +
			"carries none. With --reader-key one compartment is restored, and with the kit of\n" +
			"a partner nation and --nation-key what was granted to it; both need --from.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "kit", Usage: "recovery kit `FILE`"},
			&cli.StringSliceFlag{Name: "share", Usage: "share `FILE` of a custodian; repeat it until there is a quorum"},
			&cli.BoolFlag{Name: "shares", Usage: "type the shares at a prompt or, without a terminal, read their text from standard input"},
			&cli.StringFlag{Name: "reader-key", Usage: "reader key `FILE` of one compartment, instead of a kit"},
			&cli.StringFlag{Name: "nation-key", Usage: "public `KEY` of another nation, of which the kit's nation was granted something (embassy config replicator shows it)"},
			&cli.StringFlag{Name: "passphrase-file", Usage: "`FILE` whose first line is the passphrase (default: ask)", EnvVars: []string{"EMBASSY_PASSPHRASE_FILE"}},
			&cli.StringSliceFlag{Name: "from", Usage: "target `URL`, best first; may be repeated (default: as in the kit)"},
			&cli.StringFlag{Name: "credentials-file", Usage: "AWS shared credentials `FILE`"},
			&cli.StringFlag{Name: "ca-file", Usage: "PEM `FILE` of the authorities that the targets' certificates are from"},
			&cli.BoolFlag{Name: "insecure", Usage: "allow plain http beyond this machine"},
			&cli.BoolFlag{Name: "without-charter", Usage: "use packs and snapshots alone: for when charter or ledgers are lost"},
			&cli.BoolFlag{Name: "list", Usage: "list the snapshots, restore nothing"},
			&cli.BoolFlag{Name: "json", Usage: "print the list as JSON"},
			&cli.StringFlag{Name: "at", Usage: "restore the newest state not after this `TIME`, such as 2026-11-21 or 2026-11-21T14:00:00Z"},
			&cli.StringFlag{Name: "to", Usage: "`FOLDER` to restore into; it is made; but for other datasets it must be empty, or left by an interrupted restore"},
			&cli.BoolFlag{Name: "privileged", Usage: "restore what lends rights as well: setuid and setgid bits, devices, file capabilities"},
			&cli.BoolFlag{Name: "verify", Usage: "read what was written once more, from the disk, and compare"},
		},
		Version:                   version,
		HideHelpCommand:           true,
		DisableSliceFlagSeparator: true,
		Reader:                    stdin,
		Writer:                    stdout,
		ErrWriter:                 stderr,
		ExitErrHandler:            func(*cli.Context, error) {},
		OnUsageError: func(_ *cli.Context, err error, _ bool) error {
			return &usageError{err.Error()}
		},
	}
	app.Action = func(c *cli.Context) error {
		o, err := decode(c)
		if err != nil {
			return err
		}
		r := &rescue{options: o, stdin: stdin, stdout: stdout, stderr: stderr, now: time.Now}
		return r.run(c.Context)
	}
	return app
}

// options are the decoded command line.
type options struct {
	kit, phrases, credentials, ca, to string
	shares                            []string // files
	readerKey                         string
	partnerOf                         *format.NationKey // nil: the kit's own nation
	from                              []targets.Location
	insecure, list, json              bool
	privileged, verify, bare          bool
	at                                time.Time // zero: now
	datasets                          []string  // none: all
}

func decode(c *cli.Context) (options, error) {
	o := options{
		kit: c.String("kit"), phrases: c.String("passphrase-file"), credentials: c.String("credentials-file"),
		ca: c.String("ca-file"), to: c.String("to"), insecure: c.Bool("insecure"), list: c.Bool("list"), json: c.Bool("json"),
		privileged: c.Bool("privileged"), verify: c.Bool("verify"), bare: c.Bool("without-charter"),
		datasets: c.Args().Slice(), shares: c.StringSlice("share"), readerKey: c.String("reader-key"),
	}
	ways := 0
	for _, given := range []bool{o.kit != "", len(o.shares) > 0, c.Bool("shares"), o.readerKey != ""} {
		if given {
			ways++
		}
	}
	foreign := o.readerKey != "" || c.IsSet("nation-key")
	switch {
	case ways > 1:
		return o, &usageError{"give one of the recovery kit, --kit FILE, share files, --share FILE, typed shares, --shares, and a reader key, --reader-key FILE"}
	case ways == 0 && !term.IsTerminal(c.App.Reader):
		return o, &usageError{"name the recovery kit, --kit FILE, or a quorum of shares, --share FILE for each"}
	case o.readerKey != "" && c.IsSet("nation-key"):
		return o, &usageError{"--nation-key is for the kit of a partner nation, and --reader-key for a reader of the nation itself: leave one out"}
	case foreign && len(c.StringSlice("from")) == 0:
		return o, &usageError{"only the nation's own kit knows its targets: name one with --from URL"}
	case foreign && o.bare:
		return o, &usageError{"--without-charter needs the root of the nation: its kit, or its shares"}
	case o.list == (o.to != ""):
		return o, &usageError{"say either where to restore to, --to FOLDER, or --list"}
	case o.json && !o.list:
		return o, &usageError{"--json is for --list"}
	}
	if text := c.String("nation-key"); text != "" {
		key, err := format.ParseNationKey(text)
		if err != nil {
			return o, &usageError{"--nation-key: " + err.Error()}
		}
		o.partnerOf = &key
	}
	for _, url := range c.StringSlice("from") {
		loc, err := targets.Parse(url)
		if err != nil {
			return o, &usageError{"--from: " + err.Error()}
		}
		if slices.Contains(o.from, loc) {
			return o, &usageError{"--from " + url + " is given twice"}
		}
		o.from = append(o.from, loc)
	}
	if at := c.String("at"); at != "" {
		var err error
		if o.at, err = embassy.ParseTime(at); err != nil {
			return o, &usageError{"--at: " + err.Error()}
		}
	}
	return o, nil
}
