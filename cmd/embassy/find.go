package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	pathpkg "path"
	"slices"
	"strings"
	"time"

	"embassy/embassy"
	"embassy/embassy/config"
	"embassy/embassy/format"

	"github.com/urfave/cli/v2"
)

type findOptions struct {
	reader
	locations       []location // none: every dataset
	names           []string
	kind            format.NodeType // 0: any
	larger, smaller int64           // bytes; 0: any
	newer, older    time.Time       // zero: any
}

func findCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:      "find",
		Usage:     "find names in all snapshots, and say in which of them each is",
		ArgsUsage: "[DATASET[:PATH]...]",
		Description: "Shows every state of a file that matches, with the first and the last snapshot that has it so.\n" +
			"Without DATASET it looks in all. Quote a PATTERN: it is for Embassy, not for the shell.\n\n" +
			"embassy find --name '*.csv' people\nembassy find --type file --larger 1GiB --older 2026-01-01",
		Flags: append(readerFlags(),
			&cli.StringSliceFlag{Name: "name", Usage: "whose last part matches `PATTERN`, with *, ? and [...]; repeat it for others"},
			&cli.StringFlag{Name: "type", Usage: "of this `TYPE`: file, folder, symlink, fifo, socket, device or char-device"},
			&cli.StringFlag{Name: "larger", Usage: "files of more than `SIZE`, such as 10MiB"},
			&cli.StringFlag{Name: "smaller", Usage: "files of less than `SIZE`"},
			&cli.StringFlag{Name: "newer", Usage: "changed after `TIME`, as --at takes it; after the end of a day"},
			&cli.StringFlag{Name: "older", Usage: "changed not after `TIME`; up to the end of a day"}),
		Action: action(con, decodeFind, runFind),
	}
}

func decodeFind(c *cli.Context) (o findOptions, err error) {
	o = findOptions{reader: decodeReader(c), names: c.StringSlice("name")}
	asked := false
	for _, name := range []string{"name", "type", "larger", "smaller", "newer", "older"} {
		asked = asked || c.IsSet(name)
	}
	if !asked {
		return o, usage("say what to find: --name PATTERN, --type, --larger, --smaller, --newer or --older")
	}
	for _, p := range o.names {
		if strings.Contains(p, "/") {
			return o, usage("--name %s: a name has no slash; say where to look with DATASET:PATH", p)
		}
		if _, err := pathpkg.Match(p, ""); err != nil {
			return o, usage("--name %s: %s", p, err)
		}
	}
	if t := c.String("type"); c.IsSet("type") {
		for kind, known := range nodeTypes {
			if known.name == strings.ReplaceAll(t, "-", " ") {
				o.kind = kind
			}
		}
		if o.kind == 0 {
			return o, usage("--type %s is none of file, folder, symlink, fifo, socket, device and char-device", t)
		}
	}
	for name, bytes := range map[string]*int64{"larger": &o.larger, "smaller": &o.smaller} {
		if c.IsSet(name) {
			if *bytes, err = config.ParseSize(c.String(name)); err != nil {
				return o, usage("--%s: %s", name, err)
			}
		}
	}
	for name, at := range map[string]*time.Time{"newer": &o.newer, "older": &o.older} {
		if c.IsSet(name) {
			if *at, err = embassy.ParseTime(c.String(name)); err != nil {
				return o, usage("--%s: %s", name, err)
			}
		}
	}
	for _, arg := range c.Args().Slice() {
		l, err := parseLocation(arg)
		if err != nil {
			return o, err
		}
		o.locations = append(o.locations, l)
	}
	return o, nil
}

// match reports whether a node is what was asked for.
func (o findOptions) match(n *format.Node) bool {
	changed := time.Unix(n.Sec, int64(n.Nsec))
	sized := o.larger == 0 && o.smaller == 0 ||
		n.Type == format.File && n.Content.Size > uint64(o.larger) && (o.smaller == 0 || n.Content.Size < uint64(o.smaller))
	return sized && (o.kind == 0 || n.Type == o.kind) &&
		(o.newer.IsZero() || changed.After(o.newer)) && (o.older.IsZero() || !changed.After(o.older)) &&
		(len(o.names) == 0 || slices.ContainsFunc(o.names, func(p string) bool {
			ok, err := pathpkg.Match(p, string(n.Name))
			return ok && err == nil // the pattern was checked
		}))
}

// match is embassy.Found in JSON.
type match struct {
	Dataset string `json:"dataset"`
	node
	First     string    `json:"first_snapshot"`
	FirstTime time.Time `json:"first_time"`
	Last      string    `json:"last_snapshot"`
	LastTime  time.Time `json:"last_time"`
	Snapshots int       `json:"snapshots"`
}

func runFind(ctx context.Context, o findOptions, con *console) error {
	var named []string
	for _, l := range o.locations {
		named = append(named, l.dataset)
	}
	return con.viewing(ctx, limits{}, o.open, named, func(s *site, view *embassy.View, keys *embassy.Keys) error {
		if len(o.locations) == 0 {
			for _, c := range keys.Compartments {
				for _, d := range c.Part.Datasets {
					if len(view.Snapshots(d.Name)) > 0 {
						o.locations = append(o.locations, location{dataset: d.Name})
					}
				}
			}
		}
		matches := []match{}
		var broken error
		for _, l := range o.locations {
			found, err := view.Find(ctx, l.dataset, l.path, o.match)
			if errors.Is(err, fs.ErrNotExist) {
				return usage("there is no %s in any snapshot of %s: look at embassy ls %s", printable(l.path), l.dataset, l.dataset)
			}
			broken = errors.Join(broken, err)
			for _, f := range found {
				matches = append(matches, match{
					l.dataset, newNode(f.Path, f.Node), f.First.Hash.String(), f.First.Summary.When(),
					f.Last.Hash.String(), f.Last.Summary.When(), f.Snapshots,
				})
			}
		}
		s.screen.close()
		if con.json {
			return errors.Join(broken, printJSON(con.stdout, struct {
				schema
				Matches []match `json:"matches"`
			}{schemaV1, matches}))
		}
		return errors.Join(broken, printMatches(con, matches))
	})
}

func printMatches(con *console, matches []match) error {
	if len(matches) == 0 {
		con.notef("Nothing in the snapshots matches.")
		return nil
	}
	w := table(con.stdout)
	fmt.Fprintln(w, "DATASET\tSIZE\tCHANGED (UTC)\tFIRST SNAPSHOT\tLAST SNAPSHOT\tIN\tPATH")
	for _, m := range matches {
		bytes := "-"
		if m.Size != nil {
			bytes = size(*m.Size)
		}
		name := m.Path
		if m.Raw != nil {
			name = string(m.Raw)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%.12s %s\t%.12s %s\t%d\t%s\n", m.Dataset, bytes, moment(m.Time),
			m.First, moment(m.FirstTime), m.Last, moment(m.LastTime), m.Snapshots, printable(name))
	}
	return w.Flush()
}
