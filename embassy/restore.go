package embassy

import (
	"context"
	"errors"
)

var (
	// ErrIncomplete is wrapped by the error of a restore that did not write
	// every byte asked for.
	ErrIncomplete = errors.New("restore is incomplete")
	// ErrNotEmpty: the folder to restore into holds something else.
	ErrNotEmpty = errors.New("folder is not empty")
)

// RestoreOptions say what to restore and where.
type RestoreOptions struct {
	Snapshots []SnapshotInfo      // in the order in which they are to be restored
	Paths     map[string][]string // per dataset: only these source paths and what lies below; none: all
	Include   []string            // gitignore patterns; none: all
	Exclude   []string            // gitignore patterns
	To        string              // folder; made if it does not exist
	Overwrite bool                // accept a folder that is not empty, and replace files in it
	Fastest   bool                // all tiers share the load
	Setuid    bool                // keep setuid and setgid bits
	Owners    bool                // set owners; needs the right to
}

// Restore writes the snapshots below To, each as
// To/<dataset>/<absolute source path>. It returns an error that wraps
// ErrIncomplete unless every byte asked for is right; the report is valid
// either way.
func (v *View) Restore(ctx context.Context, o RestoreOptions) (RestoreReport, error) {
	return RestoreReport{}, ErrIncomplete
}
