// Command embassy backs up a nation's data to targets outside of it and brings
// it back. It holds no logic of its own: it decodes flags, opens targets and
// catalog, calls the service, and tells a person what happened.
//
// Data goes to stdout, everything else to stderr. The exit codes are those of
// exitCode.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"

	"embassy/cmd/internal/harden"
	"embassy/cmd/internal/strict"
	"embassy/cmd/internal/term"
	"embassy/crypto"
	"embassy/embassy"
	"embassy/embassy/config"
	"embassy/embassy/format"
	"embassy/embassy/policy"

	"github.com/urfave/cli/v2"
)

// garbage is how much the heap may grow before it is collected, in percent,
// unless $GOGC says otherwise. Most of the memory of a run is buffers that live
// as long as it does, so it need not double.
const garbage = 50

// memory is how many bytes the heap may take before garbage is collected as
// soon as there is some, unless $GOMEMLIMIT says otherwise: on a busy machine
// the collector lags behind a run over very many small files.
const memory = 224 << 20

func main() {
	if err := harden.Process(); err != nil {
		fmt.Fprintln(os.Stderr, "warning:", err)
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbage)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memory)
	}
	// The first signal ends the run in good order, the second at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args, os.Stdin, os.Stdout, os.Stderr))
}

// run is the whole program. It returns the exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	con := &console{stdin: stdin, stdout: stdout, stderr: stderr}
	app := con.app()
	err := strict.Check(app, args)
	if err == nil {
		err = app.RunContext(ctx, args)
	} else { // no flag was taken yet
		command := slices.IndexFunc(args, func(arg string) bool { return app.Command(arg) != nil })
		con.json = slices.Contains(args[:max(command, 0)], "--json")
	}
	code := exitCode(err)
	if err != nil && ctx.Err() != nil && !as[finished](err) {
		code = policy.ExitCode(code, 130)
	}
	con.explain(err, code)
	return code
}

// exits maps errors to exit codes; the first match counts.
var exits = []struct {
	is   func(error) bool
	code int
}{
	{is(context.Canceled), 130},
	{as[*usageError], 2},
	{as[*strict.OrderError], 2},
	{as[*config.Errors], 2},
	{as[cli.ExitCoder], 2}, // the parser's own, such as help for an unknown command
	{is(term.ErrNone), 2},
	{is(term.ErrUnfit), 2},
	{is(embassy.ErrUnknownName), 2},
	{is(embassy.ErrNotInCharter), 2},
	{is(embassy.ErrDestroyed), 2},
	{is(embassy.ErrPlaced), 2},
	{is(embassy.ErrHeld), 2},
	{is(embassy.ErrLastCompartment), 2},
	{is(embassy.ErrHoldsIt), 2},
	{is(embassy.ErrReduced), 2},
	{is(embassy.ErrUnknownTarget), 2},
	{is(embassy.ErrNoReason), 2},
	{is(embassy.ErrKeyless), 2},
	{is(embassy.ErrNoPolicy), 2},
	{is(embassy.ErrOwnKey), 2},
	{is(embassy.ErrAmbiguous), 2},
	{is(embassy.ErrNotEmpty), 2},
	{is(embassy.ErrAfter), 2},
	{is(embassy.ErrUnfit), 2},
	{is(embassy.ErrRevoked), 2},
	{is(embassy.ErrStale), 2},
	{is(embassy.ErrForkedCharter), 5},
	{is(embassy.ErrTwoHeirs), 5},
	{is(format.ErrNoAdministrator), 6},
	{is(format.ErrTooFew), 6},
	{is(crypto.ErrAuthentication), 6},
	{is(embassy.ErrNotEnrolled), 6},
	{is(embassy.ErrNotSteward), 6},
}

func exitCode(err error) int {
	if err == nil {
		return 0
	}
	var told outcome
	if errors.As(err, &told) {
		return int(told)
	}
	for _, e := range exits {
		if e.is(err) {
			return e.code
		}
	}
	return 1
}

func is(target error) func(error) bool { return func(err error) bool { return errors.Is(err, target) } }

func as[T any](err error) bool {
	var target T
	return errors.As(err, &target)
}

// explain tells a person what an error means.
func (con *console) explain(err error, code int) {
	told := func(text string) { con.say(event{Event: errorEvent, Text: text, Exit: code}) }
	var usage *usageError
	var mistakes *config.Errors
	switch {
	case err == nil:
	case code == 130:
		told("interrupted; run the same command again to go on")
	case as[outcome](err): // its report has told all
	case errors.As(err, &mistakes):
		for _, p := range mistakes.Problems {
			if p.Line == 0 || con.json { // of a flag
				told(p.String())
			} else {
				fmt.Fprintln(con.stderr, p)
			}
		}
	case errors.As(err, &usage) && usage.command != "":
		told(fmt.Sprintf("%s\nRun: %s --help", err, usage.command))
	default:
		told(strings.ReplaceAll(err.Error(), embassy.ErrDown.Error()+": ", ""))
	}
}

// outcome is the exit code of a run whose report has been printed.
type outcome int

func (o outcome) Error() string { return fmt.Sprintf("exit code %d", int(o)) }

// finished is the outcome of what has no other end than an interruption.
type finished struct{ outcome }

func (f finished) Unwrap() error { return f.outcome }

// reported returns the outcome of the codes, nil for success.
func reported(codes ...int) error {
	if code := policy.ExitCode(codes...); code != 0 {
		return outcome(code)
	}
	return nil
}

// usageError is a mistake on the command line.
type usageError struct {
	command string // whose help tells more; empty: the text tells all
	text    string
}

func (e *usageError) Error() string { return e.text }

func usage(format string, args ...any) error { return &usageError{text: fmt.Sprintf(format, args...)} }
