package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"embassy/embassy"
	"embassy/embassy/format"

	"github.com/urfave/cli/v2"
)

type exportOptions struct {
	reader
	compartment string // of a reader key
	out         string // file
}

func keysExportReaderCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:      "export-reader",
		Usage:     "write the key that reads one compartment to a file",
		ArgsUsage: "COMPARTMENT",
		Description: "For a desk that restores from day to day, which then needs neither the recovery kit nor\n" +
			"its passphrase: embassy restore --reader-key FILE, and so on; embassy-rescue takes it too.\n" +
			"Whoever has the file can read everything in that compartment, and nothing else. It can\n" +
			"change nothing. When it may have been seen: embassy keys rotate reader, and writer.",
		Flags: append(rootFlags(), &cli.StringFlag{Name: "out", Usage: "new `FILE`, readable by its owner only"}),
		Action: action(con, func(c *cli.Context) (exportOptions, error) {
			o := exportOptions{decodeReader(c), c.Args().First(), c.String("out")}
			switch {
			case c.Args().Len() != 1:
				return o, usage("name one compartment")
			case o.out == "":
				return o, usage("say where to with --out FILE")
			}
			return o, nil
		}, runExportReader),
	}
}

func runExportReader(ctx context.Context, o exportOptions, con *console) (err error) {
	s, err := con.openSite()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	root, kit, err := s.openKit(ctx, con, o.reader)
	if err != nil {
		return err
	}
	defer root.Wipe()
	charter, _, err := embassy.FindCharterOf(ctx, s.members, kit.Nation, root, s.screen.warn)
	if err != nil {
		return s.brief(err)
	}
	key, err := embassy.ExportReader(charter, root, o.compartment)
	if err != nil {
		return err
	}
	text, err := key.Text()
	if err != nil {
		return err
	}
	if err := writeNew(o.out, text); err != nil {
		return err
	}
	s.screen.close()
	if con.json {
		return printJSON(con.stdout, struct {
			schema
			File        string `json:"file"`
			Compartment string `json:"compartment"`
			Epoch       uint32 `json:"reader_epoch"`
		}{schemaV1, o.out, o.compartment, key.Epoch()})
	}
	fmt.Fprintf(con.stdout, "%s reads compartment %s, reader epoch %d.\n", o.out, o.compartment, key.Epoch())
	con.notef("\nWhoever has this file reads everything in that compartment, without a passphrase. Bring it to the\n" +
		"machine that restores, and delete it here.")
	return nil
}

// writeNew writes a file that must not be there yet.
func writeNew(path, text string) error {
	err := embassy.WriteSecret(path, []byte(text))
	if errors.Is(err, fs.ErrExist) {
		return usage("%s is there already, and is not replaced: name another file", path)
	}
	return err
}

func keysPartnerKeyCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:  "partner-key",
		Usage: "print the public key to which other nations grant what they let this one read",
		Description: "Send the text to the other nation, and compare the fingerprint with them by phone. They\n" +
			"run embassy charter grant. Then this nation reads with its own kit:\n" +
			"embassy-rescue --kit FILE --nation-key KEY-OF-THE-OTHER --from URL --list",
		Flags: append(rootFlags(), &cli.StringFlag{Name: "out", Usage: "write it to a new `FILE` (default: print it)"}),
		Action: action(con, func(c *cli.Context) (exportOptions, error) {
			return exportOptions{reader: decodeReader(c), out: c.String("out")}, noArguments(c)
		}, runPartnerKey),
	}
}

func runPartnerKey(ctx context.Context, o exportOptions, con *console) (err error) {
	s, err := con.openSite()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	root, kit, err := s.presentRoot(ctx, con, o.reader)
	if err != nil {
		return err
	}
	defer root.Wipe()
	key := format.NewPartnerKey(kit.Nation, root)
	text, err := key.Text(s.config.Nation)
	if err != nil {
		return err
	}
	if o.out != "" {
		if err := writeNew(o.out, text); err != nil {
			return err
		}
	}
	s.screen.close()
	if con.json {
		return printJSON(con.stdout, struct {
			schema
			Nation      string `json:"nation"`
			Fingerprint string `json:"root_fingerprint"`
			Text        string `json:"text"`
			File        string `json:"file,omitempty"`
		}{schemaV1, kit.Nation.String(), root.Fingerprint(), text, o.out})
	}
	if o.out != "" {
		text = fmt.Sprintf("%s holds the partner key of nation %s, root fingerprint %s\n", o.out, kit.Nation, root.Fingerprint())
	}
	_, err = fmt.Fprint(con.stdout, text)
	return err
}
