package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"embassy/embassy"

	"github.com/urfave/cli/v2"
)

func statsCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:      "stats",
		Usage:     "show how much each dataset is, and what its snapshots take; needs no passphrase on an agent",
		ArgsUsage: "[DATASET]",
		Description: "FILES and SIZE are of the newest snapshot, as the source has them. PACKS is what the packs that it\n" +
			"refers to take on one target, compressed, deduplicated, sealed and padded; snapshots share packs.\n" +
			"ADDED is what all runs together added. Nothing but ledgers and summaries is read.",
		Action: action(con, func(c *cli.Context) (string, error) {
			if c.Args().Len() > 1 {
				return "", usage("stats takes one dataset, not %d", c.Args().Len())
			}
			return c.Args().First(), nil
		}, runStats),
	}
}

// datasetStats are the numbers of one dataset, in JSON too.
type datasetStats struct {
	Dataset   string     `json:"dataset"`
	Snapshots int        `json:"snapshots"`
	Oldest    *time.Time `json:"oldest"`
	Newest    *time.Time `json:"newest"`
	Latest    string     `json:"newest_snapshot,omitempty"`
	Files     uint64     `json:"files"`
	Dirs      uint64     `json:"folders"`
	Others    uint64     `json:"others"`
	Bytes     uint64     `json:"bytes"`
	Packs     uint64     `json:"packs"`
	PackBytes uint64     `json:"pack_bytes"`
	Added     uint64     `json:"bytes_added"`
	Error     string     `json:"error,omitempty"` // why the packs are not known
}

func runStats(ctx context.Context, dataset string, con *console) error {
	return con.viewing(ctx, limits{}, asAgent, []string{dataset}, func(s *site, view *embassy.View, keys *embassy.Keys) error {
		all := []datasetStats{}
		var broken error
		for _, c := range keys.Compartments {
			for _, d := range c.Part.Datasets {
				if dataset != "" && d.Name != dataset {
					continue
				}
				one, err := statsOf(ctx, view, d.Name)
				broken = errors.Join(broken, err)
				all = append(all, one)
			}
		}
		s.screen.close()
		if con.json {
			return errors.Join(broken, printJSON(con.stdout, struct {
				schema
				Datasets []datasetStats `json:"datasets"`
			}{schemaV1, all}))
		}
		w := table(con.stdout)
		fmt.Fprintln(w, "DATASET\tSNAPSHOTS\tOLDEST (UTC)\tNEWEST (UTC)\tFILES\tSIZE\tPACKS\tADDED")
		for _, d := range all {
			if d.Snapshots == 0 {
				fmt.Fprintf(w, "%s\t0\t-\t-\t-\t-\t-\t-\n", d.Dataset)
				continue
			}
			packs := fmt.Sprintf("%s in %s", size(d.PackBytes), count(d.Packs))
			if d.Error != "" {
				packs = "unknown"
			}
			fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\n", d.Dataset, d.Snapshots, moment(*d.Oldest), moment(*d.Newest),
				count(d.Files), size(d.Bytes), packs, size(d.Added))
		}
		return errors.Join(broken, w.Flush())
	})
}

// statsOf returns the numbers of a dataset; the error is about its packs.
func statsOf(ctx context.Context, view *embassy.View, dataset string) (datasetStats, error) {
	list := view.Snapshots(dataset)
	d := datasetStats{Dataset: dataset, Snapshots: len(list)}
	if len(list) == 0 {
		return d, nil
	}
	newest := list[0]
	m := newest.Summary
	d.Oldest, d.Newest = stamp(list[len(list)-1].Summary.When()), stamp(m.When())
	d.Latest, d.Files, d.Dirs, d.Others, d.Bytes = newest.Hash.String(), m.Files, m.Dirs, m.Others, m.Bytes
	for _, i := range list {
		d.Added += i.Summary.Added
	}
	var err error
	if d.Packs, d.PackBytes, err = view.Stored(ctx, newest); err != nil {
		d.Error = err.Error()
		return d, fmt.Errorf("packs of %s: %w", dataset, err)
	}
	return d, nil
}
