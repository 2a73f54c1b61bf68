package embassy

import (
	"context"
	"errors"
)

var errPlaceholder = errors.New("not built yet")

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
