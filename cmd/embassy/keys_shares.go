package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"embassy/crypto"
	"embassy/embassy"
	"embassy/embassy/format"

	"github.com/urfave/cli/v2"
)

// ceremonyOptions say how a root is shared out.
type ceremonyOptions struct {
	custodians, quorum int
	out                string // folder
	again              bool   // there are shares already
	reader
}

func ceremonyFlags() []cli.Flag {
	return append([]cli.Flag{
		&cli.IntFlag{Name: "custodians", Usage: "make `N` shares, at most 32"},
		&cli.IntFlag{Name: "quorum", Usage: "any `M` of which are needed, at least 2"},
		&cli.StringFlag{Name: "out", Usage: "write the share files into `DIR`, which must be new or empty", Value: "./" + defaultShares},
	}, rootFlags()...)
}

func decodeCeremony(again bool) func(c *cli.Context) (ceremonyOptions, error) {
	return func(c *cli.Context) (ceremonyOptions, error) {
		o := ceremonyOptions{c.Int("custodians"), c.Int("quorum"), c.String("out"), again, decodeReader(c)}
		if err := noArguments(c); err != nil {
			return o, err
		}
		if o.out == "" {
			return o, usage("--out is empty: name a folder")
		}
		return o, checkCeremony(c, o.custodians, o.quorum)
	}
}

func keysSplitCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:  "split",
		Usage: "share the root of the recovery kit among custodians",
		Description: "Each share is a file that can be printed and typed. Give each to one custodian, who runs embassy keys\n" +
			"check-share on it; then delete the folder. The kit goes on working until you destroy it.\n\n" +
			"  embassy keys split --custodians 5 --quorum 3",
		Flags:  ceremonyFlags(),
		Action: action(con, decodeCeremony(false), runCeremony),
	}
}

func keysReshareCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:  "reshare",
		Usage: "hold a new ceremony: new shares of the same root, from a quorum of the old ones or the kit",
		Description: "Old and new shares do not mix. But a quorum of the old ones still opens everything, until embassy keys\n" +
			"rotate root. Use it when custodians change and you trust those who leave; else rotate the root.\n\n" +
			"  embassy keys reshare --custodians 7 --quorum 4 --share A --share B --share C",
		Flags:  ceremonyFlags(),
		Action: action(con, decodeCeremony(true), runCeremony),
	}
}

func runCeremony(ctx context.Context, o ceremonyOptions, con *console) (err error) {
	s, err := con.keysSite()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	root, from, err := s.presentRoot(ctx, con, o.reader)
	if err != nil {
		return err
	}
	defer root.Wipe()
	shares, err := format.NewShares(root, from.Nation, o.quorum, o.custodians, from.Hints, time.Now())
	if err != nil {
		return err
	}
	paths, err := embassy.WriteShares(o.out, s.nationName(from.Nation), shares)
	if err != nil {
		return err
	}
	if con.json {
		return printJSON(con.stdout, struct {
			schema
			Nation      string   `json:"nation"`
			Fingerprint string   `json:"root_fingerprint"`
			Ceremony    string   `json:"ceremony"`
			Quorum      int      `json:"quorum"`
			Shares      []string `json:"shares"`
		}{schemaV1, from.Nation.String(), root.Fingerprint(), shares[0].Ceremony.String(), o.quorum, paths})
	}
	fmt.Fprintf(con.stdout, "The root is shared: any %d of %d shares open everything.\n\n", o.quorum, o.custodians)
	w := table(con.stdout)
	fmt.Fprintf(w, "nation\t%s\n", from.Nation)
	fmt.Fprintf(w, "root fingerprint\t%s\n", root.Fingerprint())
	fmt.Fprintf(w, "ceremony\t%s\n", shares[0].Ceremony)
	for i, path := range paths {
		fmt.Fprintf(w, "share %d\t%s\n", i+1, path)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	con.notef("\nGive each file to its custodian, who runs embassy keys check-share on it, prints it and keeps it;\nthen delete %s.", o.out)
	if o.again {
		con.notef("A quorum of the old shares still opens everything, until embassy keys rotate root. Have the old ones\n" +
			"destroyed, and rotate the root if you cannot be sure that they are.")
	} else {
		con.notef("The recovery kit still opens everything by itself: once the shares are checked, destroy it and its copies,\nor keep it on purpose.")
	}
	return nil
}

// nationName is what people call the nation, as far as this machine knows.
func (s *site) nationName(nation format.ID) string {
	if s.config.Nation != "" {
		return s.config.Nation
	}
	return "nation " + nation.String()
}

type combineOptions struct {
	out string
	reader
}

func keysCombineCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:  "combine",
		Usage: "make a recovery kit, under a new passphrase, from a quorum of shares",
		Description: "Nothing that restores needs this: every command that takes --kit takes a quorum of --share too. The kit\n" +
			"that it makes can be used by one person alone.\n\n" +
			"  embassy keys combine --share A --share B --share C --out recovery-kit.txt",
		Flags: []cli.Flag{
			shareFlag(),
			&cli.StringFlag{Name: "out", Usage: "write the recovery kit to `FILE`, which must not exist"},
			&cli.StringFlag{Name: "passphrase-file", Usage: "`FILE` whose first line is the new passphrase (default: ask)", EnvVars: []string{"EMBASSY_PASSPHRASE_FILE"}},
		},
		Action: action(con, func(c *cli.Context) (combineOptions, error) {
			o := combineOptions{c.String("out"), decodeReader(c)}
			switch {
			case len(o.shares) == 0:
				return o, usage("name the shares: --share FILE for each")
			case o.out == "":
				return o, usage("say where to write the kit: --out FILE")
			}
			return o, noArguments(c)
		}, runCombine),
	}
}

func runCombine(ctx context.Context, o combineOptions, con *console) (err error) {
	s, err := con.keysSite()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if _, err := os.Lstat(o.out); err == nil {
		return usage("%s exists: name another file, or move it away", o.out)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	root, from, err := s.presentRoot(ctx, con, o.reader)
	if err != nil {
		return err
	}
	defer root.Wipe()
	phrase, err := con.passphrases(o.phrases).New(ctx, "the recovery kit")
	if err != nil {
		return err
	}
	defer clear(phrase)
	kit, err := format.NewKit(root, from.Nation, phrase, time.Now())
	if err != nil {
		return err
	}
	if err := kit.SetHints(from.Hints); err != nil {
		return err
	}
	out, err := filepath.Abs(o.out)
	if err != nil {
		return err
	}
	if err := embassy.WriteKit(out, s.nationName(from.Nation), kit); err != nil {
		return err
	}
	if con.json {
		return printJSON(con.stdout, struct {
			schema
			Nation      string `json:"nation"`
			Fingerprint string `json:"root_fingerprint"`
			Kit         string `json:"kit"`
		}{schemaV1, from.Nation.String(), root.Fingerprint(), out})
	}
	w := table(con.stdout)
	fmt.Fprintf(w, "nation\t%s\nroot fingerprint\t%s\nrecovery kit\t%s\n", from.Nation, root.Fingerprint(), out)
	if err := w.Flush(); err != nil {
		return err
	}
	con.notef("\nWith its passphrase this kit opens everything, without any custodian. Move it off this machine.")
	return nil
}

func keysCheckCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:      "check-share",
		Usage:     "prove that share files are good, without showing what is in them; exit code 5 when one is not",
		ArgsUsage: "FILE...",
		Description: "It needs no other key, and works on any machine. Compare the fingerprint with the one that the nation\n" +
			"gave you: the file proves that it is whole, not whose root it is. On a machine of the nation that is\n" +
			"checked too.",
		Action: action(con, func(c *cli.Context) ([]string, error) {
			if !c.Args().Present() {
				return nil, usage("name the share files")
			}
			return c.Args().Slice(), nil
		}, runCheckShares),
	}
}

// checkedShare is what check-share says of a file. It holds no secret.
type checkedShare struct {
	File        string     `json:"file"`
	Good        bool       `json:"good"`
	Error       string     `json:"error,omitempty"`
	Nation      string     `json:"nation,omitempty"`
	Fingerprint string     `json:"root_fingerprint,omitempty"`
	Ceremony    string     `json:"ceremony,omitempty"`
	Held        *time.Time `json:"held,omitempty"`
	Number      uint8      `json:"share,omitempty"`
	Of          uint8      `json:"of,omitempty"`
	Quorum      uint8      `json:"quorum,omitempty"`
	NoHints     string     `json:"hints_error,omitempty"`
}

func runCheckShares(_ context.Context, files []string, con *console) (err error) {
	s, err := con.keysSite()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	var home *format.NationKey
	if state, err := embassy.OpenState(s.config.StateDir); s.config.StateDir != "" && err == nil {
		key, err := state.NewestKey()
		if err != nil {
			return err
		}
		home = &key
	}
	checked, worst := []checkedShare{}, 0
	for _, file := range files {
		c, err := checkShare(file, home)
		if err != nil {
			return err
		}
		if !c.Good {
			worst = 5
		}
		checked = append(checked, c)
	}
	if con.json {
		err = printJSON(con.stdout, struct {
			schema
			Shares []checkedShare `json:"shares"`
		}{schemaV1, checked})
	} else {
		err = printChecked(con, checked)
	}
	return errors.Join(err, reported(worst))
}

// checkShare checks one file. The error is that of a file that is not there.
func checkShare(file string, home *format.NationKey) (checkedShare, error) {
	c := checkedShare{File: file}
	shares, err := embassy.ReadShares([]string{file})
	if errors.Is(err, fs.ErrNotExist) {
		return c, usage("%s", err)
	}
	if err != nil {
		c.Error = err.Error()
		return c, nil
	}
	given := shares[0]
	defer given.Wipe()
	if errors.Is(given.Err, crypto.ErrAuthentication) {
		c.Error = "altered: the root that it names did not sign it so"
		return c, nil
	}
	if given.Err != nil {
		c.Error = given.Err.Error()
		return c, nil
	}
	share, held := given.Share, given.Share.When()
	if c.Fingerprint, err = share.Fingerprint(); err != nil {
		return c, err
	}
	c.Nation, c.Ceremony, c.Held = share.Nation.String(), share.Ceremony.String(), &held
	c.Number, c.Of, c.Quorum, c.NoHints = share.Number, share.Of, share.Quorum, message(share.HintsFault)
	switch {
	case given.Claimed != "" && given.Claimed != c.Fingerprint:
		c.Error = "altered: its share is whole, but the line for people names another root fingerprint, " + printable(given.Claimed)
	case home == nil || home.Nation == share.Nation && home.Signer.Fingerprint() == c.Fingerprint:
		c.Good = true
	case home.Nation != share.Nation:
		c.Error = "whole, but of another nation than this machine, which belongs to " + home.Nation.String()
	default:
		c.Error = "whole, but of another root than the nation has now, whose fingerprint is " + home.Signer.Fingerprint()
	}
	return c, nil
}

func printChecked(con *console, checked []checkedShare) error {
	for _, c := range checked {
		verdict := "good"
		if !c.Good {
			verdict = "NOT GOOD: " + c.Error
		}
		fmt.Fprintf(con.stdout, "%s: %s\n", c.File, verdict)
		if c.Number == 0 {
			continue
		}
		w := table(con.stdout)
		fmt.Fprintf(w, "  share\t%d of %d, any %d of which are the root\n", c.Number, c.Of, c.Quorum)
		fmt.Fprintf(w, "  nation\t%s\n  root fingerprint\t%s\n", c.Nation, c.Fingerprint)
		fmt.Fprintf(w, "  ceremony\t%s, held at %s\n", c.Ceremony, c.Held.Format(time.RFC3339))
		if c.NoHints != "" {
			fmt.Fprintf(w, "  hints\tcannot be read, and are not needed: %s\n", c.NoHints)
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
	return nil
}
