package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"text/tabwriter"
	"time"

	"embassy/embassy"
)

// listed is a snapshot as --json prints it; the names are those of
// embassy --json snapshots.
type listed struct {
	ID       string    `json:"id"`
	Time     time.Time `json:"time"`
	Dataset  string    `json:"dataset"`
	Priority int       `json:"priority"`
	Files    uint64    `json:"files"`
	Dirs     uint64    `json:"folders"`
	Others   uint64    `json:"others"`
	Bytes    uint64    `json:"bytes"`
	Errors   uint64    `json:"errors"`
}

// listSnapshots prints the snapshots by restore priority, newest first.
func (r *rescue) listSnapshots(view *embassy.View, keys *embassy.Keys) error {
	doc := struct {
		Version   int      `json:"version"`
		Snapshots []listed `json:"snapshots"`
	}{1, []listed{}}
	for _, d := range ordered(keys) {
		if len(r.datasets) > 0 && !slices.Contains(r.datasets, d.Name) {
			continue
		}
		for _, s := range view.Snapshots(d.Name) {
			m := s.Summary
			if !r.at.IsZero() && m.When().After(r.at) {
				continue
			}
			doc.Snapshots = append(doc.Snapshots, listed{
				ID: s.Hash.String(), Time: m.When(), Dataset: d.Name, Priority: d.Priority,
				Files: m.Files, Dirs: m.Dirs, Others: m.Others, Bytes: m.Bytes, Errors: m.Errors,
			})
		}
	}
	if r.json {
		e := json.NewEncoder(r.stdout)
		e.SetIndent("", "  ")
		return e.Encode(doc)
	}
	w := tabwriter.NewWriter(r.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "DATASET\tTIME\tSNAPSHOT\tFILES\tSIZE\tPRIORITY")
	for _, s := range doc.Snapshots {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%d\n", s.Dataset, s.Time.Format(time.RFC3339), s.ID[:16], s.Files, size(s.Bytes), s.Priority)
	}
	return w.Flush()
}
