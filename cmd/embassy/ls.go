package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	pathpkg "path"
	"strings"
	"time"
	"unicode/utf8"

	"embassy/embassy"
	"embassy/embassy/format"

	"github.com/urfave/cli/v2"
)

// when names snapshots.
type when struct {
	id string    // unique prefix, or latest; empty: latest
	at time.Time // the newest not after it; zero: not asked for
}

func whenFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "snapshot", Usage: "the snapshot with this `ID`, a unique prefix of it, or latest (default: latest)"},
		&cli.StringFlag{Name: "at", Usage: "the newest snapshot not after `TIME`, such as 2026-11-21, \"2026-11-21 14:00\" (in UTC) or RFC 3339"},
	}
}

func decodeWhen(c *cli.Context) (w when, err error) {
	w.id = c.String("snapshot")
	if c.IsSet("at") {
		if c.IsSet("snapshot") {
			return w, usage("--snapshot and --at both name a snapshot: give one of them")
		}
		if w.at, err = embassy.ParseTime(c.String("at")); err != nil {
			return w, usage("--at: %s", err)
		}
	}
	return w, nil
}

// place in a nation: DATASET or DATASET:PATH.
type location struct {
	dataset string
	path    string // as it was on the source; empty: all
}

func parseLocation(arg string) (location, error) {
	dataset, path, _ := strings.Cut(arg, ":")
	if dataset == "" {
		return location{}, usage("%q names no dataset: write DATASET or DATASET:PATH", arg)
	}
	return location{dataset, path}, nil
}

type lsOptions struct {
	reader
	when
	location
	long, recursive bool
}

func lsCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:      "ls",
		Usage:     "list what is in a snapshot",
		ArgsUsage: "DATASET[:PATH]",
		Description: "PATH is as it was on the source. Without it, ls shows where the dataset begins.\n\n" +
			"embassy ls people\nembassy ls -lR --at 2026-11-20 people:/srv/people",
		Flags: append(append(readerFlags(), whenFlags()...),
			&cli.BoolFlag{Name: "l", Usage: "with mode, owner, size (or device numbers), time of change and target of a link"},
			&cli.BoolFlag{Name: "R", Usage: "with all that lies below"}),
		Action: action(con, decodeLs, runLs),
	}
}

func decodeLs(c *cli.Context) (o lsOptions, err error) {
	o = lsOptions{reader: decodeReader(c), long: c.Bool("l"), recursive: c.Bool("R")}
	if c.Args().Len() != 1 {
		return o, usage("ls takes one DATASET or DATASET:PATH, not %d", c.Args().Len())
	}
	if o.when, err = decodeWhen(c); err != nil {
		return o, err
	}
	o.location, err = parseLocation(c.Args().First())
	return o, err
}

func runLs(ctx context.Context, o lsOptions, con *console) error {
	return con.viewing(ctx, limits{}, o.open, []string{o.dataset}, func(_ *site, view *embassy.View, _ *embassy.Keys) error {
		info, err := view.Pick(o.dataset, o.id, o.at)
		if err != nil {
			return err
		}
		if con.json {
			nodes := []node{}
			if err := view.Walk(ctx, info, o.path, o.recursive, func(p string, n *format.Node) error {
				nodes = append(nodes, newNode(p, n))
				return nil
			}); err != nil {
				return notThere(o.location, info, err)
			}
			return printJSON(con.stdout, struct {
				schema
				Dataset  string    `json:"dataset"`
				Snapshot string    `json:"snapshot"`
				Time     time.Time `json:"time"`
				Nodes    []node    `json:"nodes"`
			}{schemaV1, o.dataset, info.Hash.String(), info.Summary.When(), nodes})
		}
		return notThere(o.location, info, view.Walk(ctx, info, o.path, o.recursive, func(p string, n *format.Node) error {
			_, err := fmt.Fprintln(con.stdout, listed(p, n, o.long))
			return err
		}))
	})
}

// notThere says of a path that is not in the snapshot where to look.
func notThere(o location, info embassy.SnapshotInfo, err error) error {
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	above := pathpkg.Dir(pathpkg.Clean("/" + o.path))
	return usage("there is no %s in snapshot %s of %s: look at embassy ls --snapshot %s %s:%s", printable(o.path), short(info.Hash), o.dataset,
		short(info.Hash), o.dataset, printable(above))
}

// listed is the line of a node.
func listed(p string, n *format.Node, long bool) string {
	line := printable(p)
	if n.Type == format.Dir && !strings.HasSuffix(p, "/") {
		line += "/"
	}
	if !long {
		return line
	}
	var bytes string
	switch n.Type {
	case format.File:
		bytes = fmt.Sprint(n.Content.Size)
	case format.CharDevice, format.Device:
		major, minor := embassy.DeviceNumbers(n.Rdev)
		bytes = fmt.Sprintf("%d, %d", major, minor)
	}
	line = fmt.Sprintf("%s  %-17s  %12s  %s  %s", modeOf(n), owner(n), dash(bytes), moment(time.Unix(n.Sec, int64(n.Nsec))), line)
	if n.Type == format.Symlink {
		line += " -> " + printable(string(n.Link))
	}
	if n.Changed {
		line += "  (changed while it was read)"
	}
	return line
}

func owner(n *format.Node) string {
	user, group := n.User, n.Group
	if user == "" {
		user = fmt.Sprint(n.UID)
	}
	if group == "" {
		group = fmt.Sprint(n.GID)
	}
	return printable(user) + ":" + printable(group)
}

// nodeTypes are the types of node, in JSON and as ls writes them.
var nodeTypes = map[format.NodeType]struct {
	name   string
	letter byte
}{
	format.File:       {"file", '-'},
	format.Dir:        {"folder", 'd'},
	format.Symlink:    {"symlink", 'l'},
	format.FIFO:       {"fifo", 'p'},
	format.Socket:     {"socket", 's'},
	format.CharDevice: {"char device", 'c'},
	format.Device:     {"device", 'b'},
}

// modeOf writes type and permissions as ls does.
func modeOf(n *format.Node) string {
	text := []byte(fs.FileMode(n.Mode & 0o777).String())
	text[0] = nodeTypes[n.Type].letter
	for i, bit := range []uint32{0o4000, 0o2000, 0o1000} {
		if n.Mode&bit == 0 {
			continue
		}
		x := &text[3*(i+1)]
		if *x == 'x' {
			*x = "sst"[i]
		} else {
			*x = "SST"[i]
		}
	}
	return string(text)
}

// path is a file name in JSON. Bytes that are no UTF-8 are kept in base64.
type path struct {
	Path string `json:"path"`
	Raw  []byte `json:"path_base64,omitempty"`
}

func newPath(name string) path {
	if utf8.ValidString(name) {
		return path{Path: name}
	}
	return path{Path: strings.ToValidUTF8(name, "\uFFFD"), Raw: []byte(name)}
}

// node is format.Node in JSON.
type node struct {
	path
	Type    string      `json:"type"`
	Mode    octal       `json:"mode"`
	UID     uint32      `json:"uid"`
	GID     uint32      `json:"gid"`
	User    string      `json:"user,omitempty"`
	Group   string      `json:"group,omitempty"`
	Size    *uint64     `json:"bytes,omitempty"`
	Time    time.Time   `json:"time"`
	Link    *linkTarget `json:"link,omitempty"`
	Device  *[2]uint32  `json:"device,omitempty"`    // major, minor
	Hard    uint64      `json:"hard_link,omitempty"` // the same for all names of one file
	Xattrs  []path      `json:"xattrs,omitempty"`
	Changed bool        `json:"changed,omitempty"`
}

// linkTarget is what a symlink points to.
type linkTarget struct{ path }

// octal is a mode as people write it.
type octal uint32

func (o octal) MarshalJSON() ([]byte, error) { return json.Marshal(fmt.Sprintf("%04o", uint32(o))) }

func newNode(p string, n *format.Node) node {
	out := node{
		path: newPath(p), Type: nodeTypes[n.Type].name, Mode: octal(n.Mode), UID: n.UID, GID: n.GID,
		User: n.User, Group: n.Group, Time: time.Unix(n.Sec, int64(n.Nsec)).UTC(), Hard: n.Hard, Changed: n.Changed,
	}
	if n.Type == format.File {
		out.Size = &n.Content.Size
	}
	if n.Type == format.Symlink {
		out.Link = &linkTarget{newPath(string(n.Link))}
	}
	if n.Type == format.CharDevice || n.Type == format.Device {
		major, minor := embassy.DeviceNumbers(n.Rdev)
		out.Device = &[2]uint32{major, minor}
	}
	for _, x := range n.Xattrs {
		out.Xattrs = append(out.Xattrs, newPath(string(x.Name)))
	}
	return out
}
