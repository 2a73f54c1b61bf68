package embassy

import (
	"context"
	"errors"
	"time"
)

var errPlaceholder = errors.New("not built yet")

type ReplicateOptions struct {
	Targets       []string
	Shard, Shards int
	DryRun        bool
}

type ReplicateReport struct {
	Started time.Time
	Elapsed time.Duration
	Targets []ReplicatedTarget
	DryRun  bool
	Exit    int
}

type ReplicatedTarget struct {
	Target         string
	Objects, Bytes uint64
	Entries        uint64
	Behind         uint64
	Estimate       time.Duration
	Err            error
}

func (s *Service) Replicate(context.Context, ReplicateOptions) (ReplicateReport, error) {
	return ReplicateReport{}, errPlaceholder
}

type VerifyLevel int

func ParseVerifyLevel(string) (VerifyLevel, error) { return 0, nil }

type VerifyOptions struct {
	Level   VerifyLevel
	Share   float64
	Repair  bool
	Targets []string
	Keys    *Keys
}

type VerifyReport struct{ Exit int }

func (s *Service) Verify(context.Context, VerifyOptions) (VerifyReport, error) {
	return VerifyReport{}, errPlaceholder
}

type LockReport struct{ Exit int }

func (s *Service) RenewLocks(context.Context) (LockReport, error) {
	return LockReport{}, errPlaceholder
}

type TargetCheck struct {
	Target string
	Err    error
}

func (TargetCheck) Exit() int { return 0 }

func (s *Service) CheckTargets(context.Context, []string) ([]TargetCheck, error) {
	return nil, errPlaceholder
}
