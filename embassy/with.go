package embassy

import "log/slog"

// With returns the service for one run, with its own listeners. Members,
// catalog and locks are shared.
func (s *Service) With(warn func(Finding), progress func(Progress), log *slog.Logger) *Service {
	c := *s
	c.warn, c.progress, c.log = warn, progress, log
	return &c
}
