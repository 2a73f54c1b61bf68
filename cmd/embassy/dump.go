package main

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"embassy/embassy"

	"github.com/urfave/cli/v2"
	xterm "golang.org/x/term"
)

type dumpOptions struct {
	reader
	when
	location
	archive embassy.Archive
}

func dumpCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:      "dump",
		Usage:     "write a file, or a folder as tar or zip, to stdout",
		ArgsUsage: "DATASET[:PATH]",
		Description: "PATH is as it was on the source; without it, all of the dataset is written. A name in an archive\n" +
			"is the source path without the slash before it. When a byte is not to be had, dump ends with 1,\n" +
			"names the path, and what it wrote is incomplete: a pipe should check that (set -o pipefail).\n\n" +
			"embassy dump people:/srv/people/list.csv >list.csv\n" +
			"embassy dump people:/srv/people | tar -x --xattrs --xattrs-include='*' -C DIR\n" +
			"embassy dump --archive zip people >people.zip",
		Flags: append(append(readerFlags(), whenFlags()...),
			&cli.StringFlag{Name: "archive", Usage: "`FORM` of what is written: tar or zip (default: the bytes of a file, and tar for a folder)"}),
		Action: action(con, decodeDump, runDump),
	}
}

func decodeDump(c *cli.Context) (o dumpOptions, err error) {
	o.reader = decodeReader(c)
	if c.Args().Len() != 1 {
		return o, usage("dump takes one DATASET or DATASET:PATH, not %d", c.Args().Len())
	}
	switch form := c.String("archive"); {
	case form == "tar":
		o.archive = embassy.Tar
	case form == "zip":
		o.archive = embassy.Zip
	case c.IsSet("archive"):
		return o, usage("--archive %s is none of tar and zip", form)
	}
	if o.when, err = decodeWhen(c); err != nil {
		return o, err
	}
	o.location, err = parseLocation(c.Args().First())
	return o, err
}

func runDump(ctx context.Context, o dumpOptions, con *console) error {
	if con.json {
		return usage("dump writes bytes and no JSON: leave out --json")
	}
	return con.viewing(ctx, limits{}, o.open, []string{o.dataset}, func(s *site, view *embassy.View, _ *embassy.Keys) error {
		info, err := view.Pick(o.dataset, o.id, o.at)
		if err != nil {
			return err
		}
		f, ok := con.stdout.(*os.File)
		shown := ok && xterm.IsTerminal(int(f.Fd()))
		if shown {
			s.screen.close() // its lines and the content would mix
		}
		report, err := view.Dump(ctx, embassy.DumpOptions{Snapshot: info, Path: o.path, Archive: o.archive, NoArchive: shown}, con.stdout)
		if errors.Is(err, fs.ErrNotExist) {
			return notThere(o.location, info, err)
		}
		if errors.Is(err, embassy.ErrArchive) {
			return usage("this writes an archive, and stdout is a terminal: redirect it to a file or a pipe")
		}
		s.screen.close()
		if err == nil && report.Archive != embassy.Bare {
			con.notef("dumped %s, %s, %s, %s of snapshot %s of %s", plural(report.Files, "file", "files"),
				plural(report.Dirs, "folder", "folders"), plural(report.Others, "other", "others"), size(report.Bytes),
				short(info.Hash), moment(info.Summary.When()))
		}
		for _, g := range report.SourceGaps {
			con.warnf("not in source: %s: %s", printable(string(g.Path)), printable(g.Reason))
		}
		return err
	})
}
