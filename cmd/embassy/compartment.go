package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"embassy/cmd/internal/term"
	"embassy/embassy"

	"github.com/urfave/cli/v2"
)

type destroyOptions struct {
	rotateRootOptions
	name   string
	yes    string // the name once more; empty: ask
	dryRun bool
}

func compartmentCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:  "compartment",
		Usage: "destroy a compartment, so that nobody can read it any more",
		Subcommands: []*cli.Command{{
			Name:      "destroy",
			Usage:     "put a root in force that cannot open a compartment, and delete it on every target",
			ArgsUsage: "COMPARTMENT",
			Description: "For data that must be gone for good, whatever hosts keep. The new root is kept in a new kit, or in new\n" +
				"shares, as by embassy keys rotate root: they open every other compartment, with its whole past, and hold\n" +
				"nothing that this one's keys could be made from. Then the charter says that the compartment is no more, so\n" +
				"that no machine writes, reads or copies it; this machine forgets it; and all that lies in its folder is deleted,\n" +
				"every version, but for what an object lock still keeps. There is no way back.\n\n" +
				"What the deletion leaves, on a host that keeps what it was told to delete, is sealed to keys that are gone: IF\n" +
				"every old recovery kit is destroyed, and so many of the old shares that fewer than a quorum are left. At the end\n" +
				"a list says what else people have to destroy. docs/THREAT-MODEL.md says what is promised, and what is not.\n\n" +
				"First take the compartment out of every configuration, and leave its targets in. When something stops, run the\n" +
				"same command again. Once the charter is signed it needs no kit: where a target was down or objects were locked,\n" +
				"and on every other machine that wrote the compartment, run embassy compartment destroy COMPARTMENT.\n\n" +
				"embassy compartment destroy --dry-run cables\n" +
				"embassy compartment destroy --kit recovery-kit.txt --new-kit new-kit.txt cables\n" +
				"embassy compartment destroy --share A --share B --new-shares new --custodians 3 --quorum 2 cables",
			Flags: append(newRootFlags(),
				&cli.StringFlag{Name: "yes", Usage: "do not ask; `COMPARTMENT` is its name once more"},
				&cli.BoolFlag{Name: "dry-run", Usage: "count what lies on each target, and change nothing"}),
			Action: action(con, decodeDestroy, runDestroy),
		}},
	}
}

func decodeDestroy(c *cli.Context) (destroyOptions, error) {
	if c.NArg() != 1 {
		return destroyOptions{}, usage("embassy compartment destroy takes the name of one compartment")
	}
	o := destroyOptions{rotateRootOptions: decodeNewRoot(c), name: c.Args().First(), yes: c.String("yes"), dryRun: c.Bool("dry-run")}
	o.about = []string{embassy.FactDestroyed, o.name}
	if c.IsSet("yes") && o.yes != o.name {
		return o, usage("--yes %s is not the name of the compartment that is to be destroyed, %s: give --yes %s if it is meant", o.yes, o.name, o.name)
	}
	if o.newKit+o.newShares != "" {
		return o, o.check(c)
	}
	return o, nil
}

// destroyed is what a run of the command did.
type destroyed struct {
	embassy.EraseReport
	charter     *embassy.CharterReport // nil: it was signed before
	fingerprint string                 // of the new root
}

// changed reports whether the run signed or deleted anything.
func (d destroyed) changed() bool {
	return d.charter != nil || !d.DryRun && slices.ContainsFunc(d.Targets, func(t embassy.PrunedTarget) bool { return t.Objects > 0 })
}

func runDestroy(ctx context.Context, o destroyOptions, con *console) error {
	var done destroyed
	err := con.using(limits{}, nil, func(s *site, service *embassy.Service) error {
		d, err := service.Doomed(ctx, o.name)
		if err != nil && (o.dryRun || !errors.Is(err, embassy.ErrUnknownName)) {
			return s.brief(err)
		}
		if d.At.IsZero() && !o.dryRun {
			if err := s.destroy(ctx, con, service, o, &done); err != nil {
				return s.brief(err)
			}
		}
		if done.EraseReport, err = service.Erase(ctx, o.name, o.dryRun); err != nil {
			return s.brief(err)
		}
		if done.changed() {
			s.record(con, embassy.DidDestroy, destroyVerdict(done.EraseReport), embassy.FactDestroyed, o.name, "targets", clearedWords(done.Targets))
		}
		return nil
	})
	if err != nil {
		return err
	}
	if con.json {
		err = printDestroyJSON(con.stdout, done)
	} else {
		err = printDestroy(con.stdout, done)
	}
	if err != nil {
		return err
	}
	if !o.dryRun {
		con.notef("%s", duties(o, done))
	}
	return reported(done.Exit)
}

// destroy puts the new root, and the charter without the compartment, in force.
func (s *site) destroy(ctx context.Context, con *console, service *embassy.Service, o destroyOptions, done *destroyed) error {
	if o.keeping() == "" {
		return usage("say where the root is kept that follows: in a kit, --new-kit FILE, or in shares, --new-shares DIR --custodians 5 --quorum 3")
	}
	next, err := s.nextRoot(ctx, con, service, o.rotateRootOptions, o.name, func() error { return con.confirmedName(ctx, o) })
	if err != nil {
		return err
	}
	defer next.Wipe()
	report, err := service.Destroy(ctx, next, o.name)
	if err != nil {
		return fmt.Errorf("%s: %w", o.keeping(), err)
	}
	done.charter, done.fingerprint = &report, next.Fingerprint()
	return nil
}

// confirmedName asks a person for the name of the compartment, unless it was given
// twice.
func (con *console) confirmedName(ctx context.Context, o destroyOptions) error {
	if o.yes != "" {
		return nil
	}
	question := "Everything in compartment " + printable(o.name) + " is destroyed for good, on every target: nobody will be able to read any snapshot of it again."
	if !term.IsTerminal(con.stdin) {
		return usage("%s This asks for its name once more, and there is no terminal to ask on: give --yes %s", question, o.name)
	}
	line, err := term.NewLines(con.stdin, con.stderr).Ask(ctx, question+" Type its name to go on: ")
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil && !errors.Is(err, io.EOF):
		return fmt.Errorf("read answer: %w", err)
	case strings.TrimSpace(line) != o.name:
		return errors.New("that is not its name: nothing was changed")
	}
	return nil
}

// duties is what people still have to do.
func duties(o destroyOptions, done destroyed) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\nWhat a host, or anybody, kept of compartment %s can be read by whoever still holds a key of before. DO NOW, by hand:\n", printable(o.name))
	if done.charter != nil {
		fmt.Fprintf(&b, "  - keep the new root of %s, with the fingerprint\n      %s\n    safe: give the shares to the custodians, or copy the kit to two safe places, apart from its passphrase; then\n"+
			"    delete it here, and name the new kit where a configuration names the old one\n", o.keeping(), done.fingerprint)
	}
	b.WriteString("  - destroy every copy of every older recovery kit, on paper too: each still opens all of it, with its passphrase\n")
	b.WriteString("  - have the custodians destroy their older shares: " + oldShares(o.shares) + "\n")
	b.WriteString("  - delete every reader key file that was exported for it, wherever it went\n" +
		"  - ask partner nations that were granted access to delete what they hold: nothing here can take it from them\n" +
		"  - on every other machine that wrote it, take it out of the configuration and run this command again; and delete\n" +
		"    backups of those machines' state directories: they hold its names, sizes and times, though no content\n" +
		"  - delete what was restored from it, and the sources")
	if done.Exit != 0 {
		b.WriteString("\n  - run this command again for what is still there, as the table says")
	}
	return b.String()
}

// oldShares says how many of the shares of before must go.
func oldShares(paths []string) string {
	shares, err := embassy.ReadShares(paths)
	if err != nil || len(shares) == 0 || shares[0].Err != nil {
		return "all of them, of every ceremony. Where any M of N\n    shares open it, it is out of reach once N-M+1 custodians have"
	}
	defer func() {
		for _, s := range shares {
			s.Wipe()
		}
	}()
	s := shares[0].Share
	return fmt.Sprintf("all %d of them, and those of every earlier ceremony.\n    Any %d of the %d open it: it is out of their reach once %d of these custodians have", s.Of, s.Quorum, s.Of, int(s.Of)-int(s.Quorum)+1)
}

func destroyVerdict(r embassy.EraseReport) string {
	switch {
	case r.Exit != 0:
		return "NOT COMPLETE: something is still there, as the table says; the same command goes on"
	case r.DryRun:
		return "dry run, nothing changed"
	}
	return "done; the new root cannot open it, and no target shows anything of it"
}

func clearedWords(list []embassy.PrunedTarget) string {
	var words []string
	for _, t := range list {
		words = append(words, fmt.Sprintf("%s (%d objects, %d bytes, %d locked)", t.Target, t.Objects, t.Bytes, t.Locked))
	}
	return strings.Join(words, ", ")
}

func printDestroy(out io.Writer, r destroyed) error {
	if c := r.charter; c != nil {
		w := table(out)
		fmt.Fprintf(out, "Charter %d is signed.\n\n", c.Seq)
		for _, line := range c.Added {
			fmt.Fprintf(w, "new\t%s\n", printable(line))
		}
		printResults(w, c.Targets)
		fmt.Fprintln(w)
		if err := w.Flush(); err != nil {
			return err
		}
	}
	verb := "DELETED"
	if r.DryRun {
		verb = "LIES THERE"
	}
	if !r.At.IsZero() {
		fmt.Fprintf(out, "compartment %s, %s, was destroyed on %s UTC\n\n", printable(r.Name), r.ID, moment(r.At))
	} else {
		fmt.Fprintf(out, "compartment %s, %s, is not destroyed; datasets: %s\n\n", printable(r.Name), r.ID, dash(printable(strings.Join(r.Datasets, ", "))))
	}
	w := table(out)
	fmt.Fprintf(w, "TARGET\t%s\tBYTES\tLOCKED\tUNTIL (UTC)\tSTATE\n", verb)
	for _, t := range r.Targets {
		until, state := "-", "ok"
		if !t.Until.IsZero() {
			until, state = moment(t.Until), "locked: run this again then"
		}
		if t.Err != nil {
			state = "NOT DONE: " + cause(t.Target, t.Err)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", t.Target, plural(t.Objects, "object", "objects"), size(t.Bytes), count(t.Locked), until, printable(state))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "result: %s (exit code %d), in %s\n", destroyVerdict(r.EraseReport), r.Exit, length(r.Elapsed))
	return err
}

// clearedTarget is embassy.PrunedTarget in JSON.
type clearedTarget struct {
	Target  string     `json:"target"`
	Objects uint64     `json:"deleted"` // of a dry run: there
	Bytes   uint64     `json:"bytes_deleted"`
	Locked  uint64     `json:"locked"`
	Until   *time.Time `json:"locked_until"` // null when nothing is
	Error   string     `json:"error,omitempty"`
	Hint    string     `json:"hint,omitempty"`
}

func printDestroyJSON(out io.Writer, r destroyed) error {
	doc := struct {
		schema
		Compartment string          `json:"compartment"`
		ID          string          `json:"id"`
		Destroyed   *time.Time      `json:"destroyed"`         // null: it is not
		Charter     uint64          `json:"charter,omitempty"` // that this run signed
		Added       []string        `json:"added,omitempty"`
		Root        string          `json:"root_fingerprint,omitempty"` // of the new root
		DryRun      bool            `json:"dry_run"`
		Seconds     float64         `json:"seconds"`
		Exit        int             `json:"exit_code"`
		Targets     []clearedTarget `json:"targets"`
	}{schemaV1, r.Name, r.ID.String(), stamp(r.At), 0, nil, r.fingerprint, r.DryRun, r.Elapsed.Seconds(), r.Exit, []clearedTarget{}}
	if r.charter != nil {
		doc.Charter, doc.Added = r.charter.Seq, r.charter.Added
	}
	for _, t := range r.Targets {
		j := clearedTarget{Target: t.Target, Objects: t.Objects, Bytes: t.Bytes, Locked: t.Locked, Until: stamp(t.Until)}
		if t.Err != nil {
			j.Error, j.Hint = oneLine(t.Err), remedy(t.Err)
		}
		doc.Targets = append(doc.Targets, j)
	}
	return printJSON(out, doc)
}
