package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"embassy/embassy"
	"embassy/embassy/fusefs"

	"github.com/urfave/cli/v2"
)

// maxUnreadTold bounds the paths of a mount that are told one by one.
const maxUnreadTold = 1000

type mountOptions struct {
	reader
	when
	allowOther bool
	dir        string
	datasets   []string
}

func mountCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:      "mount",
		Usage:     "show snapshots as a folder, read-only, until it is unmounted",
		ArgsUsage: "DIR [DATASET...]",
		Description: "DIR is an empty folder. In it is a folder for each dataset, in that one for each snapshot, named by its\n" +
			"time and id, and latest, which leads to the newest. What is opened is fetched from the best target that\n" +
			"answers, and authenticated. What no target has whole cannot be read (an input/output error); it is named\n" +
			"here, and the exit code is 1. Snapshots that are made later are not shown.\n\n" +
			"embassy mount /mnt/embassy\n" +
			"embassy mount --at 2026-11-20 /mnt/embassy people\n\n" +
			"It ends with ctrl-C, or when somebody unmounts it: umount DIR as root, fusermount3 -u DIR as anybody else.\n" +
			"Only who mounts sees it, and all of it; with --allow-other everybody sees what modes, owners and ACLs let them.",
		Flags: append(append(readerFlags(), mountWhenFlags()...),
			&cli.BoolFlag{Name: "allow-other", Usage: "let other users in, as the modes, owners and ACLs of the files say"}),
		Action: action(con, decodeMount, runMount),
	}
}

func mountWhenFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "snapshot", Usage: "only the snapshot with this `ID`, a unique prefix of it, or latest: the newest of each dataset (default: all)"},
		&cli.StringFlag{Name: "at", Usage: "only the newest snapshot of each dataset not after `TIME`, such as 2026-11-21, \"2026-11-21 14:00\" (in UTC) or RFC 3339"},
	}
}

func decodeMount(c *cli.Context) (o mountOptions, err error) {
	o = mountOptions{reader: decodeReader(c), allowOther: c.Bool("allow-other")}
	if c.Args().Len() == 0 {
		return o, usage("mount takes an empty folder DIR, and then DATASETs if it is not to show all")
	}
	o.dir, o.datasets = c.Args().First(), c.Args().Tail()
	slices.Sort(o.datasets)
	o.datasets = slices.Compact(o.datasets)
	o.when, err = decodeWhen(c)
	return o, err
}

func runMount(ctx context.Context, o mountOptions, con *console) error {
	if con.json {
		return usage("mount shows a folder and no JSON: leave out --json")
	}
	if err := emptyFolder(o.dir); err != nil {
		return err
	}
	if err := fusefs.Available(); err != nil {
		return err
	}
	return con.viewing(ctx, limits{}, o.open, o.datasets, func(s *site, view *embassy.View, _ *embassy.Keys) error {
		shown, err := o.shown(view)
		if err != nil {
			return err
		}
		s.screen.close()
		stale := false
		for _, d := range shown {
			latest, err := view.Pick(d.Name, "latest", o.at)
			if err != nil {
				return err
			}
			newest := d.Snapshots[0]
			if later := latest.Later(); newest.Hash == latest.Hash && later != "" {
				stale = true
				con.warnf("%s: it %s", d.Name, later)
			}
			if newest.Summary.Errors > 0 {
				con.warnf("not in source: %s of %s/%s, which the backup could not read",
					plural(newest.Summary.Errors, "name", "names"), d.Name, fusefs.SnapshotName(newest))
			}
		}
		browser := view.Browse()
		defer browser.Close()
		unread := unreadPaths{con: con, paths: map[string]bool{}}
		err = fusefs.Run(ctx, fusefs.Options{
			Dir: o.dir, Datasets: shown, Browser: browser, AllowOther: o.allowOther,
			Mounted: func() { con.tellMounted(o.dir, shown) },
			Busy: func(cause error) {
				con.warnf("%s is still in use (%v); it is detached, and who uses it gets errors", o.dir, cause)
			},
			Warn: unread.warn,
		})
		if err != nil {
			return err
		}
		if n := unread.count(); n > 0 {
			con.errorf("%s could not be read: see the warnings; embassy verify --repair mends what another target has", plural(n, "path", "paths"))
			return finished{1}
		}
		if stale {
			return finished{1}
		}
		return nil
	})
}

// emptyFolder refuses what nothing can be mounted on without hiding something.
func emptyFolder(dir string) error {
	names, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return usage("there is no folder %s: make it, and mount again", dir)
	case err != nil:
		return usage("%s cannot be mounted on: %s", dir, err)
	case len(names) > 0:
		return usage("%s is not empty, and what is in it would be hidden: name an empty folder", dir)
	}
	return nil
}

// shown returns the snapshots that are asked for, by dataset.
func (o mountOptions) shown(view *embassy.View) ([]fusefs.Dataset, error) {
	names := o.datasets
	single := o.id != "" && o.id != "latest"
	if len(names) == 0 {
		for _, s := range view.Snapshots("") {
			names = append(names, s.Summary.Dataset)
		}
		slices.Sort(names)
		names = slices.Compact(names)
		if len(names) == 0 || single {
			info, err := view.Pick("", o.id, o.at)
			if err != nil {
				return nil, err
			}
			names = []string{info.Summary.Dataset}
		}
	}
	var out []fusefs.Dataset
	var none error
	for _, name := range names {
		d := fusefs.Dataset{Name: name, Snapshots: view.Snapshots(name)}
		if o.id != "" || !o.at.IsZero() || len(d.Snapshots) == 0 {
			info, err := view.Pick(name, o.id, o.at)
			if errors.Is(err, embassy.ErrNoSnapshot) && len(o.datasets) == 0 {
				none = err // others may have one
				continue
			}
			if err != nil {
				return nil, err
			}
			d.Snapshots = []embassy.SnapshotInfo{info}
		}
		out = append(out, d)
	}
	if len(out) == 0 {
		return nil, none
	}
	return out, nil
}

// tellMounted says what is where, and how to end it.
func (con *console) tellMounted(dir string, shown []fusefs.Dataset) {
	var what []string
	for _, d := range shown {
		what = append(what, fmt.Sprintf("%s (%s)", d.Name, plural(uint64(len(d.Snapshots)), "snapshot", "snapshots")))
	}
	if abs, err := filepath.Abs(dir); err == nil {
		dir = abs
	}
	end := "fusermount3 -u "
	if os.Geteuid() == 0 {
		end = "umount "
	}
	con.notef("mounted at %s, read-only: %s\nend it with ctrl-C, or: %s%s", printable(dir), strings.Join(what, ", "), end, printable(dir))
}

// unreadPaths tells what could not be read, each path once. Safe for
// concurrent use.
type unreadPaths struct {
	con   *console
	mu    sync.Mutex
	paths map[string]bool
	more  uint64
}

func (u *unreadPaths) warn(path string, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.paths[path] {
		return
	}
	if len(u.paths) == maxUnreadTold {
		u.more++
		return
	}
	u.paths[path] = true
	u.con.warnf("%s: cannot be read: %s", printable(path), oneLine(err))
}

// count returns how many paths could not be read, and of many more how often.
func (u *unreadPaths) count() uint64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	return uint64(len(u.paths)) + u.more
}
