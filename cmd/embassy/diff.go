package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"embassy/embassy"
	"embassy/embassy/format"

	"github.com/urfave/cli/v2"
)

type diffOptions struct {
	reader
	location
	old, new when
}

func diffCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:      "diff",
		Usage:     "show what differs between two snapshots of a dataset",
		ArgsUsage: "DATASET[:PATH] OLD [NEW]",
		Description: "OLD and NEW are the beginning of a snapshot's ID, latest, or a time, as --at takes it\n" +
			"(default of NEW: latest). A line begins with + for added, - for removed and M for changed,\n" +
			"and says what changed: type, content, target (of a link or device), mode, owner, time, xattrs.\n" +
			"The exit code is 0, whether or not something differs.\n\n" +
			"embassy diff people 2026-11-20\nembassy diff people:/srv/people/list 3f9a21c7 latest",
		Flags:  readerFlags(),
		Action: action(con, decodeDiff, runDiff),
	}
}

func decodeDiff(c *cli.Context) (o diffOptions, err error) {
	o.reader = decodeReader(c)
	args := c.Args().Slice()
	if len(args) != 2 && len(args) != 3 {
		return o, usage("diff takes DATASET or DATASET:PATH, and one or two snapshots, not %d arguments", len(args))
	}
	if o.location, err = parseLocation(args[0]); err != nil {
		return o, err
	}
	o.old = parseWhen(args[1])
	if len(args) == 3 {
		o.new = parseWhen(args[2])
	}
	return o, nil
}

// parseWhen reads a snapshot's name, or a time.
func parseWhen(arg string) when {
	if t, err := embassy.ParseTime(arg); err == nil {
		return when{at: t}
	}
	return when{id: arg}
}

func runDiff(ctx context.Context, o diffOptions, con *console) error {
	return con.viewing(ctx, limits{}, o.open, []string{o.dataset}, func(s *site, view *embassy.View, _ *embassy.Keys) error {
		old, err := view.Pick(o.dataset, o.old.id, o.old.at)
		if err != nil {
			return err
		}
		new, err := view.Pick(o.dataset, o.new.id, o.new.at)
		if err != nil {
			return err
		}
		s.screen.close()
		d := difference{old: old, new: new, dataset: o.dataset}
		if con.json {
			d.Changes = []change{}
		} else if _, err := fmt.Fprintf(con.stdout, "--- %s of %s\n+++ %s of %s\n", short(old.Hash), moment(old.Summary.When()),
			short(new.Hash), moment(new.Summary.When())); err != nil {
			return err
		}
		err = view.Diff(ctx, old, new, o.path, func(c embassy.Change) error { return d.take(con, c) })
		if errors.Is(err, fs.ErrNotExist) {
			return notThere(o.location, new, err)
		}
		if con.json {
			return errors.Join(err, d.printJSON(con))
		}
		_, told := fmt.Fprintf(con.stdout, "\n%s added (%s), %s removed (%s), %s changed\n",
			count(d.Added.Names), size(d.Added.Bytes), count(d.Removed.Names), size(d.Removed.Bytes), count(d.Changed.Names))
		return errors.Join(err, told)
	})
}

// difference is what differs between two snapshots.
type difference struct {
	old, new embassy.SnapshotInfo
	dataset  string

	Added   sum      `json:"added"`
	Removed sum      `json:"removed"`
	Changed sum      `json:"changed"`
	Changes []change `json:"changes"`
}

// sum counts names, and the bytes of the files among them.
type sum struct {
	Names uint64 `json:"names"`
	Bytes uint64 `json:"bytes"`
}

func (s *sum) add(n *format.Node) {
	s.Names++
	if n.Type == format.File {
		s.Bytes += n.Content.Size
	}
}

// change is embassy.Change in JSON.
type change struct {
	path
	Change string   `json:"change"` // added, removed or changed
	What   []string `json:"what,omitempty"`
	Old    *node    `json:"old,omitempty"`
	New    *node    `json:"new,omitempty"`
}

// take counts a change, and prints it or keeps it for the document.
func (d *difference) take(con *console, c embassy.Change) error {
	sign, word, shown, total := "M", "changed", c.New, &d.Changed
	switch {
	case c.Old == nil:
		sign, word, total = "+", "added", &d.Added
	case c.New == nil:
		sign, word, shown, total = "-", "removed", c.Old, &d.Removed
	}
	total.add(shown)
	if con.json {
		j := change{path: newPath(c.Path), Change: word, What: c.What.Names()}
		if c.Old != nil {
			n := newNode(c.Path, c.Old)
			j.Old = &n
		}
		if c.New != nil {
			n := newNode(c.Path, c.New)
			j.New = &n
		}
		d.Changes = append(d.Changes, j)
		return nil
	}
	line := sign + "  " + listed(c.Path, shown, false)
	if what := c.What.Names(); len(what) > 0 {
		line += "  (" + strings.Join(what, ", ") + ")"
	}
	_, err := fmt.Fprintln(con.stdout, line)
	return err
}

func (d *difference) printJSON(con *console) error {
	type side struct {
		Snapshot string    `json:"snapshot"`
		Time     time.Time `json:"time"`
	}
	return printJSON(con.stdout, struct {
		schema
		Dataset string `json:"dataset"`
		Old     side   `json:"old"`
		New     side   `json:"new"`
		*difference
	}{schemaV1, d.dataset, side{d.old.Hash.String(), d.old.Summary.When()}, side{d.new.Hash.String(), d.new.Summary.When()}, d})
}
