package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"embassy/embassy"

	"github.com/urfave/cli/v2"
)

func snapshotsCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:        "snapshots",
		Usage:       "list the snapshots of a dataset, or all; needs no passphrase on an agent",
		ArgsUsage:   "[DATASET]",
		Description: "A dataset that is called pin or unpin cannot be named here: list all.",
		Subcommands: []*cli.Command{
			pinCommand(con, "pin", "keep a snapshot whatever embassy forget is told, until it is unpinned", true),
			pinCommand(con, "unpin", "let embassy forget judge a snapshot again", false),
		},
		Action: action(con, func(c *cli.Context) (string, error) {
			if c.Args().Len() > 1 {
				return "", usage("snapshots takes one dataset, not %d", c.Args().Len())
			}
			return c.Args().First(), nil
		}, runSnapshots),
	}
}

func runSnapshots(ctx context.Context, dataset string, con *console) error {
	return con.viewing(ctx, limits{}, asAgent, []string{dataset}, func(s *site, view *embassy.View, _ *embassy.Keys) error {
		s.screen.close()
		list := view.Snapshots(dataset)
		if con.json {
			return printSnapshotsJSON(con, list)
		}
		if len(list) == 0 {
			con.notef("The answering targets show no snapshot.")
			return nil
		}
		w := table(con.stdout)
		fmt.Fprintln(w, "SNAPSHOT\tTIME (UTC)\tAGE\tDATASET\tFILES\tSIZE\tADDED\tERRORS\tKEPT")
		digits := idDigits(list)
		now := time.Now()
		for _, i := range list {
			m := i.Summary
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", i.Hash.String()[:digits], moment(m.When()), whole(now.Sub(m.When())),
				m.Dataset, count(m.Files), size(m.Bytes), size(m.Added), count(m.Errors), spared(i))
		}
		return w.Flush()
	})
}

// spared says by whose word a snapshot is not forgotten.
func spared(i embassy.SnapshotInfo) string {
	var why []string
	if i.Pinned {
		why = append(why, "pinned")
	}
	if i.Held {
		why = append(why, "hold")
	}
	return dash(strings.Join(why, ", "))
}

// idDigits is how many digits of a snapshot's name are unique in the list, at
// least eight.
func idDigits(list []embassy.SnapshotInfo) int {
	for digits := 8; digits < 64; digits++ {
		seen := make(map[string]bool, len(list))
		for _, i := range list {
			seen[i.Hash.String()[:digits]] = true
		}
		if len(seen) == len(list) {
			return digits
		}
	}
	return 64
}

// findDataset returns the compartment of a dataset.
func findDataset(keys *embassy.Keys, name string) (*embassy.Compartment, error) {
	var known []string
	for _, c := range keys.Compartments {
		for _, d := range c.Part.Datasets {
			if d.Name == name {
				return c, nil
			}
			known = append(known, d.Name)
		}
	}
	for _, d := range keys.Destroyed {
		if slices.Contains(d.Datasets, name) {
			return nil, fmt.Errorf("dataset %q: %w", name, d.Refusal())
		}
	}
	if keys.Limit != "" {
		return nil, fmt.Errorf("dataset %q: %w: %s, with %s", name, embassy.ErrNotGranted, keys.Limit, strings.Join(known, ", "))
	}
	hint := "the charter names no dataset yet"
	if len(known) > 0 {
		hint = "the charter names " + strings.Join(known, ", ")
	}
	return nil, fmt.Errorf("dataset %q: %w; %s", name, embassy.ErrUnknownName, hint)
}

// snapshot is embassy.SnapshotInfo in JSON.
type snapshot struct {
	ID          string    `json:"id"`
	Time        time.Time `json:"time"`
	Dataset     string    `json:"dataset"`
	Compartment string    `json:"compartment"`
	Agent       string    `json:"agent"`
	Files       uint64    `json:"files"`
	Dirs        uint64    `json:"folders"`
	Others      uint64    `json:"others"`
	Bytes       uint64    `json:"bytes"`
	Added       uint64    `json:"bytes_added"`
	Errors      uint64    `json:"errors"`
	Label       string    `json:"label,omitempty"`
	Tags        []string  `json:"tags"`
	Pinned      bool      `json:"pinned"`
	Held        bool      `json:"held"` // its dataset is
}

func printSnapshotsJSON(con *console, list []embassy.SnapshotInfo) error {
	doc := struct {
		schema
		Snapshots []snapshot `json:"snapshots"`
	}{schemaV1, []snapshot{}}
	for _, i := range list {
		doc.Snapshots = append(doc.Snapshots, newSnapshot(i))
	}
	return printJSON(con.stdout, doc)
}

func newSnapshot(i embassy.SnapshotInfo) snapshot {
	m := i.Summary
	return snapshot{
		ID: i.Hash.String(), Time: m.When(), Dataset: m.Dataset, Compartment: i.Compartment, Agent: i.Agent.String(),
		Files: m.Files, Dirs: m.Dirs, Others: m.Others, Bytes: m.Bytes, Added: m.Added, Errors: m.Errors,
		Label: m.Label, Tags: append([]string{}, m.Tags...), Pinned: i.Pinned, Held: i.Held,
	}
}
