package embassy

import (
	"context"
	"errors"
	"time"

	"embassy/embassy/config"
	"embassy/embassy/format"
)

// ErrNotSteward: only the steward of a compartment orders.
var ErrNotSteward = errors.New("this machine is not the steward")

// ForgetOptions say what to forget.
type ForgetOptions struct {
	Datasets []string          // none: all that this machine is the steward of
	Keep     *config.Retention // nil: what the configuration says of each
	DryRun   bool
}

// Judged is a snapshot with the reasons that keep it.
type Judged struct {
	SnapshotInfo
	Keep []string // none: it is forgotten
}

// ForgetReport is the outcome of a Forget.
type ForgetReport struct {
	Started   time.Time
	Elapsed   time.Duration
	Snapshots []Judged // by dataset and agent, newest first
	DryRun    bool
	Forgotten int
	Exit      int
}

// PruneOptions say how to prune.
type PruneOptions struct {
	Compartments []string      // none: all that this machine is the steward of
	Grace        time.Duration // between the mark and the deletion
	MaxRemove    float64       // share of the bytes on a target, above which nothing is removed there
	DryRun       bool
}

// PrunedCompartment is what was ordered about a compartment.
type PrunedCompartment struct {
	Compartment string
	Live        uint64   // packs that snapshots use
	Marked      uint64   // objects that are marked now, for the first time
	MarkedBytes uint64   // of them
	Waiting     uint64   // objects that were marked before, and are not yet to be deleted
	Deletable   uint64   // objects of which the deletion is ordered now
	Waits       []string // for what those that wait do, in words for a person
	Err         error    // why nothing could be ordered
}

// PrunedTarget is what was done on a target.
type PrunedTarget struct {
	Target  string
	Objects uint64    // deleted; of a dry run: to be deleted
	Bytes   uint64    // of them
	Before  uint64    // bytes of the nation's objects there before
	Locked  uint64    // objects that a lock still keeps
	Until   time.Time // when the last of these locks ends
	Err     error     // why nothing, or not all, was deleted
}

// PruneReport is the outcome of a Prune.
type PruneReport struct {
	Started      time.Time
	Elapsed      time.Duration
	Compartments []PrunedCompartment
	Targets      []PrunedTarget
	DryRun       bool
	Exit         int
}

// Forget retires the snapshots that no rule keeps. It is undone by nothing;
// their data stay until Prune has run twice.
func (s *Service) Forget(ctx context.Context, o ForgetOptions) (ForgetReport, error) {
	panic("not built")
}

// Prune marks what no snapshot uses, and deletes what was marked by an earlier
// run, once every agent knows.
func (s *Service) Prune(ctx context.Context, o PruneOptions) (PruneReport, error) {
	panic("not built")
}

// Pin says that a snapshot, given by the start of its id, is not to be forgotten; pinned false says that it may
// be again.
func (s *Service) Pin(ctx context.Context, id string, pinned bool) (SnapshotInfo, error) {
	panic("not built")
}

// Hold says that no snapshot of a dataset is to be forgotten; held false says
// that they may be again.
func (s *Service) Hold(ctx context.Context, dataset string, held bool) error { panic("not built") }

var _ = format.OrderMark
