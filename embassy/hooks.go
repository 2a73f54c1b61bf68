package embassy

import (
	"context"
	"fmt"
	"strconv"

	"embassy/embassy/child"
	"embassy/embassy/config"
	"embassy/embassy/policy"
)

// exitInterrupted is the EMBASSY_RESULT of a run that was interrupted.
const exitInterrupted = 130

// withHooks runs the backup of a dataset between its hooks. When pre fails
// there is no backup. When it has succeeded, post is run whatever happens,
// also when the context has ended: what pre froze must thaw.
func (s *Service) withHooks(ctx context.Context, d config.Dataset, backup func() (BackupReport, error)) (BackupReport, error) {
	rep := BackupReport{Dataset: d.Name, Started: s.now()}
	if err := s.hook(ctx, "pre", d.Name, d.Pre); err != nil {
		return rep, err
	}
	rep, err := backup()
	result := rep.Exit
	switch {
	case ctx.Err() != nil:
		result = exitInterrupted
	case err != nil:
		result = exitFailed
	}
	rep.PostErr = s.hook(context.WithoutCancel(ctx), "post", d.Name, d.Post, "EMBASSY_RESULT="+strconv.Itoa(result))
	if rep.PostErr != nil {
		rep.Exit = policy.ExitCode(rep.Exit, exitFailed)
		if ctx.Err() != nil { // there will be no report
			s.warn(Finding{Object: "dataset " + d.Name, Err: rep.PostErr})
		}
	}
	return rep, err
}

// hook runs one hook; the zero Program is none.
func (s *Service) hook(ctx context.Context, kind, dataset string, p config.Program, env ...string) error {
	if p.IsZero() {
		return nil
	}
	s.log.Info("hook", "dataset", dataset, "kind", kind)
	c := child.Command{Args: p.Args, Timeout: p.Timeout, Env: child.Inherited(append(env, "EMBASSY_DATASET="+dataset)...)}
	if err := c.Run(ctx); err != nil {
		return fmt.Errorf("%s hook: %w", kind, err)
	}
	return nil
}
