package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"embassy/cmd/internal/term"
	"embassy/crypto"
	"embassy/embassy"

	"github.com/urfave/cli/v2"
)

func keysRotateCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:  "rotate",
		Usage: "replace a key by a new one; what was written before stays readable",
		Subcommands: []*cli.Command{{
			Name:  "passphrase",
			Usage: "give the recovery kit another passphrase",
			Description: "Replaces the file of the kit. Every other copy of it, on paper too, still opens\n" +
				"with the old passphrase, for ever: if somebody may have both, embassy keys rotate\n" +
				"root is the remedy.",
			Flags:  append(rootFlags(), newPhraseFlag()),
			Action: action(con, decodeNewPhrase, runRotatePassphrase),
		}, {
			Name:      "reader",
			Usage:     "seal what is written from now on to a new reader key",
			ArgsUsage: "COMPARTMENT...",
			Description: "For when a reader key file may be in wrong hands, or a reader leaves. It opens what\n" +
				"was written before, and nothing that is written from now on. Costs nothing. What\n" +
				"has not changed is not written again, and so stays open to it; embassy keys rotate\n" +
				"writer has it written again.",
			Flags:  append(rootFlags(), allFlag()),
			Action: action(con, decodeRotation, runRotateReader),
		}, {
			Name:      "writer",
			Usage:     "name, cut and index what is written from now on under a new secret",
			ArgsUsage: "COMPARTMENT...",
			Description: "For when an agent was captured, and is suspended or revoked: with the secret that\n" +
				"it had, names of datasets, sizes and times can be read, and guesses about content\n" +
				"confirmed. The next backups store everything once more.",
			Flags:  append(rootFlags(), allFlag(), yesFlag()),
			Action: action(con, decodeRotation, runRotateWriter),
		}, {
			Name:  "root",
			Usage: "put a new root in the place of the nation's root",
			Description: "For when a recovery kit and its passphrase, or a quorum of shares, may be in wrong\n" +
				"hands. The new root is kept in a new kit, or in new shares, which open everything\n" +
				"that the old ones did; then the old root hands over to it, and every compartment\n" +
				"gets new reader and writer keys, so the next backups store everything once more.\n" +
				"Machines follow by themselves. If it is interrupted, the same command goes on with\n" +
				"the new kit or shares.\n\n" +
				"embassy keys rotate root --kit recovery-kit.txt --new-kit new-kit.txt\n" +
				"embassy keys rotate root --share A --share B --new-shares new --custodians 3 --quorum 2",
			Flags:  append(newRootFlags(), yesFlag()),
			Action: action(con, decodeRotateRoot, runRotateRoot),
		}},
	}
}

func newPhraseFlag() cli.Flag {
	return &cli.StringFlag{Name: "new-passphrase-file", Usage: "`FILE` whose first line is the new passphrase (default: ask)"}
}

func allFlag() cli.Flag {
	return &cli.BoolFlag{Name: "all", Usage: "every compartment of the nation"}
}

func yesFlag() cli.Flag {
	return &cli.BoolFlag{Name: "yes", Usage: "do not ask"}
}

// confirmed asks a person, unless yes was given.
func (con *console) confirmed(ctx context.Context, yes bool, question string) error {
	if yes {
		return nil
	}
	ok, err := term.Confirm(ctx, con.stdin, con.stderr, question)
	if errors.Is(err, term.ErrNobody) {
		return usage("%s This asks first, and there is no terminal to ask on: give --yes", question)
	}
	if err == nil && !ok {
		err = errors.New("nothing was changed")
	}
	return err
}

// newPassphrase asks for a passphrase of a kit that is to be made.
func (con *console) newPassphrase(ctx context.Context, file, what string) ([]byte, error) {
	phrase, err := con.passphrases(file).New(ctx, what)
	if errors.Is(err, term.ErrNone) && file == "" {
		err = usage("a new passphrase is needed, and there is no terminal to ask for it: write it into a file and name that with --new-passphrase-file FILE")
	}
	return phrase, err
}

type newPhraseOptions struct {
	reader
	newPhrases string // file; empty: ask
}

func decodeNewPhrase(c *cli.Context) (newPhraseOptions, error) {
	return newPhraseOptions{decodeReader(c), c.String("new-passphrase-file")}, noArguments(c)
}

func runRotatePassphrase(ctx context.Context, o newPhraseOptions, con *console) (err error) {
	if len(o.shares) > 0 {
		return usage("shares have no passphrase: make a kit from them with embassy keys combine")
	}
	s, err := con.keysSite()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	path, err := s.kitPath(o.reader)
	if err != nil {
		return err
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return fmt.Errorf("recovery kit: %w", err)
	}
	kit, err := embassy.ReadKit(path)
	if err != nil {
		return err
	}
	root, from, err := s.openKit(ctx, con, o.reader)
	if err != nil {
		return err
	}
	defer root.Wipe()
	phrase, err := con.newPassphrase(ctx, o.newPhrases, "the recovery kit")
	if err != nil {
		return err
	}
	defer clear(phrase)
	if err := embassy.RotatePassphrase(path, s.nationName(from.Nation), kit, root, phrase, time.Now()); err != nil {
		return err
	}
	if con.json {
		err = printJSON(con.stdout, struct {
			schema
			Kit         string `json:"kit"`
			Fingerprint string `json:"root_fingerprint"`
		}{schemaV1, path, root.Fingerprint()})
	} else {
		_, err = fmt.Fprintf(con.stdout, "The recovery kit %s opens with the new passphrase.\n", path)
	}
	con.notef("\nEvery other copy of the kit, on paper too, still opens with the old passphrase, for ever.\n" +
		"Replace them by copies of this one, and destroy them. If somebody may have one of them and the\n" +
		"old passphrase, nothing but embassy keys rotate root helps.")
	return err
}

type rotationOptions struct {
	reader
	compartments []string // none: all
	yes          bool
}

func decodeRotation(c *cli.Context) (rotationOptions, error) {
	o := rotationOptions{reader: decodeReader(c), compartments: c.Args().Slice(), yes: c.Bool("yes")}
	switch all := c.Bool("all"); {
	case all && len(o.compartments) > 0:
		return o, usage("--all is every compartment, and %s is named besides: leave one of them out", o.compartments[0])
	case !all && len(o.compartments) == 0:
		return o, usage("name the compartments, or give --all for every one")
	}
	return o, nil
}

func runRotateReader(ctx context.Context, o rotationOptions, con *console) error {
	if err := rotate(ctx, o, con, (*embassy.Service).RotateReader); err != nil {
		return err
	}
	con.notef("\nReader key files that were exported before open what was written before, and nothing newer:\n" +
		"export new ones. The recovery kit opens both.")
	return nil
}

func runRotateWriter(ctx context.Context, o rotationOptions, con *console) error {
	if err := con.confirmed(ctx, o.yes, "After a rotation of the writer secret the next backups read everything again, and store all of it once more on every target."); err != nil {
		return err
	}
	if err := rotate(ctx, o, con, (*embassy.Service).RotateWriter); err != nil {
		return err
	}
	con.notef("\nThe next embassy backup stores everything once more, under the new secret.")
	return nil
}

// rotate signs a charter with new epochs.
func rotate(ctx context.Context, o rotationOptions, con *console, with func(*embassy.Service, context.Context, *crypto.Root, []string) (embassy.CharterReport, error)) error {
	return con.amending(ctx, o.reader, func(service *embassy.Service, root *crypto.Root) (embassy.CharterReport, error) {
		return with(service, ctx, root, o.compartments)
	})
}

type rotateRootOptions struct {
	newPhraseOptions
	newKit, newShares  string // file, folder: one of them
	custodians, quorum int
	yes                bool
}

func decodeRotateRoot(c *cli.Context) (rotateRootOptions, error) {
	o := decodeNewRoot(c)
	o.yes = c.Bool("yes")
	if err := o.check(c); err != nil {
		return o, err
	}
	return o, noArguments(c)
}

// decodeNewRoot decodes the flags about the present root and the next one.
func decodeNewRoot(c *cli.Context) rotateRootOptions {
	return rotateRootOptions{
		newPhraseOptions: newPhraseOptions{decodeReader(c), c.String("new-passphrase-file")},
		newKit:           c.String("new-kit"), newShares: c.String("new-shares"),
		custodians: c.Int("custodians"), quorum: c.Int("quorum"),
	}
}

// check refuses a new root that is kept nowhere, or in two ways.
func (o rotateRootOptions) check(c *cli.Context) error {
	if (o.newKit == "") == (o.newShares == "") {
		return usage("say where the new root is kept: in a kit, --new-kit FILE, or in shares, --new-shares DIR --custodians 5 --quorum 3")
	}
	if o.newKit != "" && (c.IsSet("custodians") || c.IsSet("quorum")) {
		return usage("--new-kit is for a root without custodians: give --new-shares DIR for one with")
	}
	return nil
}

// newRootFlags are the flags about the present root and the next one.
func newRootFlags() []cli.Flag {
	return append(rootFlags(),
		&cli.StringFlag{Name: "new-kit", Usage: "keep the new root in the recovery kit `FILE`"}, newPhraseFlag(),
		&cli.StringFlag{Name: "new-shares", Usage: "keep the new root in shares, in the folder `DIR`"},
		&cli.IntFlag{Name: "custodians", Usage: "with --new-shares: make `N` shares, at most 32"},
		&cli.IntFlag{Name: "quorum", Usage: "with --new-shares: any `M` of which are needed, at least 2"})
}

// keeping is where the new root is.
func (o rotateRootOptions) keeping() string { return o.newKit + o.newShares }

// kept reports whether a new root is there already, and how it is opened.
func (o rotateRootOptions) kept() (reader, bool, error) {
	if o.newShares != "" {
		shares, err := embassy.SharesIn(o.newShares)
		return reader{shares: shares}, len(shares) > 0, err
	}
	_, err := os.Lstat(o.newKit)
	if errors.Is(err, fs.ErrNotExist) {
		return reader{kit: o.newKit, phrases: o.newPhrases}, false, nil
	}
	return reader{kit: o.newKit, phrases: o.newPhrases}, true, err
}

func runRotateRoot(ctx context.Context, o rotateRootOptions, con *console) (err error) {
	s, err := con.openSite()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if _, err := embassy.OpenState(s.config.StateDir); err != nil {
		return err
	}
	service, err := s.service()
	if err != nil {
		return err
	}
	next, err := s.nextRoot(ctx, con, service, o, "", func() error {
		return con.confirmed(ctx, o.yes, "After a rotation of the root the old kits and shares open nothing that is written from then on, and the next backups store everything once more on every target.")
	})
	if err != nil {
		return err
	}
	defer next.Wipe()
	report, err := service.RotateRoot(ctx, next)
	if err != nil {
		return fmt.Errorf("%s: %w", o.keeping(), err)
	}
	s.screen.close()
	if err := printCharterReport(con, report); err != nil {
		return err
	}
	if len(report.Added) == 0 {
		con.notef("\nThe root of %s was the nation's root before this run.", o.keeping())
	}
	con.notef("\nThe root of %s, with the fingerprint\n  %s\nis the nation's root. It opens what was written before, too.\n"+
		"Do now: give the shares to the custodians, or copy the kit to two safe places, apart from its passphrase, and\n"+
		"delete %s; destroy the old kits and shares; name the new kit where a configuration names the old one;\n"+
		"give new reader key files to those who need them. The next embassy backup stores everything once more.",
		o.keeping(), next.Fingerprint(), o.keeping())
	return nil
}

// nextRoot returns the root that is to follow: the one that is kept already, or,
// when people confirm that, a new one, which does not open the named compartment.
// The caller wipes it.
func (s *site) nextRoot(ctx context.Context, con *console, service *embassy.Service, o rotateRootOptions, without string, confirm func() error) (*crypto.Root, error) {
	_, there, err := o.kept()
	if err != nil {
		return nil, err
	}
	if there {
		con.notef("%s is there already: going on with the root that it holds.", o.keeping())
	} else if err := s.newRoot(ctx, con, service, o, without, confirm); err != nil {
		return nil, err
	}
	// It is read back before anything depends on it.
	open, _, err := o.kept()
	if err != nil {
		return nil, err
	}
	open.about = o.about
	next, _, err := s.openKit(ctx, con, open)
	return next, err
}

// newRoot makes the root that is to follow, and keeps it.
func (s *site) newRoot(ctx context.Context, con *console, service *embassy.Service, o rotateRootOptions, without string, confirm func() error) error {
	if o.newShares != "" {
		if err := crypto.CheckQuorum(o.quorum, o.custodians); err != nil {
			return usage("--custodians %d --quorum %d: %s", o.custodians, o.quorum, err)
		}
	}
	if err := confirm(); err != nil {
		return err
	}
	root, from, err := s.openKit(ctx, con, o.reader)
	if err != nil {
		return err
	}
	defer root.Wipe()
	keep := embassy.RootKeeping{KitPath: o.newKit, SharesDir: o.newShares, Quorum: o.quorum, Custodians: o.custodians, Hints: from.Hints, Without: without}
	if o.newKit != "" {
		if keep.Passphrase, err = con.newPassphrase(ctx, o.newPhrases, "the new recovery kit"); err != nil {
			return err
		}
		defer clear(keep.Passphrase)
	}
	return service.NewRoot(ctx, root, keep)
}
