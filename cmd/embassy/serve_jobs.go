package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"strings"

	"embassy/embassy"
	"embassy/embassy/config"
	"embassy/embassy/policy"
	"embassy/embassy/schedule"
)

// Names of jobs. Those of datasets are backupJob followed by the dataset.
const (
	backupJob    = "backup/"
	replicateJob = "replicate"
	verifyJob    = "verify"
	locksJob     = "locks"
	checkJob     = "check"
	forgetJob    = "forget"
	pruneJob     = "prune"
)

// doing is what a job does. It returns its exit code and one line about it.
type doing func(ctx context.Context, s *embassy.Service) (exit int, text string, err error)

// jobs are all that the daemon does on schedule. What is not scheduled is
// among them, so that it can be claimed.
func (d *daemon) jobs() []schedule.Job {
	var jobs []schedule.Job
	add := func(name, lane string, priority int, when config.Schedule, do doing) {
		job := schedule.Job{
			Name: name, Lane: lane, Priority: priority, Jitter: when.Jitter, AtOnce: when.Every > 0,
			Run: func(ctx context.Context) schedule.Outcome { return d.runJob(ctx, name, do) },
		}
		if when.Every > 0 || when.Cron != "" {
			job.When = when
		}
		jobs = append(jobs, job)
	}
	cfg := d.site.config
	for _, ds := range cfg.Datasets {
		add(backupJob+ds.Name, backupJob, ds.Priority, ds.Schedule, d.backup(ds.Name))
	}
	add(replicateJob, replicateJob, 0, cfg.Serve.Replicate, d.replicate)
	add(verifyJob, verifyJob, 0, cfg.Serve.Verify, d.verify)
	add(locksJob, locksJob, 0, cfg.Serve.Locks, renewLocks)
	add(checkJob, checkJob, 0, cfg.Serve.Check, checkTargets)
	// A steward orders nothing while it backs up: after all backups that are due.
	add(forgetJob, backupJob, math.MaxInt-1, cfg.Serve.Forget, forget)
	add(pruneJob, backupJob, math.MaxInt, cfg.Serve.Prune, prune)
	return jobs
}

// runJob does one scheduled run.
func (d *daemon) runJob(ctx context.Context, name string, do doing) schedule.Outcome {
	run := d.logRun(name, "schedule")
	exit, text, err := do(ctx, d.service.With(warnTo(run.log), nil, run.log))
	if ctx.Err() != nil && (err != nil || exit != 0) {
		run.end(130, "cut short, goes on at the next start")
		return schedule.Cut
	}
	if err != nil {
		exit, text = exitCode(err), oneLine(err)
	}
	run.end(exit, text)
	d.metrics.ended(name, exit)
	if err := d.notify.outcome(name, exit, text); err != nil {
		run.log.Error("outcome is not kept for notify", "err", err)
	}
	if bad(exit) {
		return schedule.Failed
	}
	return schedule.Done
}

// bad reports whether people must be told of an exit code. Gaps in a source
// are told by status: a file that cannot be read today is no alarm.
func bad(exit int) bool { return exit != 0 && exit != 3 }

func (d *daemon) backup(dataset string) doing {
	return func(ctx context.Context, s *embassy.Service) (int, string, error) {
		reports, err := s.Backup(ctx, embassy.BackupOptions{Datasets: []string{dataset}})
		if err != nil || len(reports) != 1 {
			return 1, "no report", err
		}
		r := reports[0]
		d.metrics.backedUp(r)
		text := backupMeaning[r.Exit]
		if why := reason(r); why != "" {
			text += ": " + why
		}
		return r.Exit, text, nil
	}
}

func (d *daemon) replicate(ctx context.Context, s *embassy.Service) (int, string, error) {
	r, err := s.Replicate(ctx, embassy.ReplicateOptions{})
	if err != nil {
		return 1, "", err
	}
	var parts []string
	copied, sent := uint64(0), uint64(0)
	for _, t := range r.Targets {
		copied, sent = copied+t.Objects, sent+t.Bytes
		switch {
		case t.Err != nil:
			parts = append(parts, t.Target+": "+cause(t.Target, t.Err))
		case t.Behind > 0:
			parts = append(parts, t.Target+" is "+plural(t.Behind, "entry", "entries")+" behind")
		}
	}
	for _, c := range r.Unplaced {
		parts = append(parts, "compartment "+c+" of the charter has no place in the configuration, and is not copied")
	}
	text := plural(copied, "object", "objects") + " copied, " + size(sent)
	return r.Exit, strings.Join(append([]string{text}, parts...), "; "), nil
}

func (d *daemon) verify(ctx context.Context, s *embassy.Service) (int, string, error) {
	serve := d.site.config.Serve
	level, err := embassy.ParseVerifyLevel(serve.VerifyLevel)
	if err != nil {
		return 2, "", err
	}
	r, err := s.Verify(ctx, embassy.VerifyOptions{Level: level, Share: serve.Sample, Repair: serve.Repair})
	if err != nil {
		return 1, "", err
	}
	var read, bad, mended uint64
	var parts []string
	for _, t := range r.Targets {
		read, bad, mended = read+t.Read, bad+t.BadTotal, mended+t.Repaired
		if t.Err != nil {
			parts = append(parts, t.Target+": "+cause(t.Target, t.Err))
		}
		if n := t.Unmended(); n > 0 {
			parts = append(parts, fmt.Sprintf("%s: %s not mended", t.Target, plural(n, "bad object", "bad objects")))
		}
	}
	text := fmt.Sprintf("%s read, %d bad, %d mended", plural(read, "object", "objects"), bad, mended)
	return r.Exit, strings.Join(append([]string{text}, parts...), "; "), nil
}

func renewLocks(ctx context.Context, s *embassy.Service) (int, string, error) {
	r, err := s.RenewLocks(ctx)
	if err != nil {
		return 1, "", err
	}
	var extended uint64
	var parts []string
	for _, t := range r.Targets {
		extended += t.Extended
		if t.Err != nil {
			parts = append(parts, t.Target+": "+cause(t.Target, t.Err))
		}
		if t.Denied > 0 {
			parts = append(parts, fmt.Sprintf("%s: %s denied", t.Target, plural(t.Denied, "lock", "locks")))
		}
	}
	text := plural(extended, "lock", "locks") + " extended"
	return r.Exit, strings.Join(append([]string{text}, parts...), "; "), nil
}

func checkTargets(ctx context.Context, s *embassy.Service) (int, string, error) {
	checks, err := s.CheckTargets(ctx, nil)
	if err != nil {
		return 1, "", err
	}
	var codes []int
	var parts []string
	for _, c := range checks {
		codes = append(codes, c.Exit())
		switch {
		case c.Err != nil:
			parts = append(parts, c.Target+": "+cause(c.Target, c.Err))
		case c.Exit() != 0:
			parts = append(parts, fmt.Sprintf("%s does not do what it is needed for: run embassy target check %s", c.Target, c.Target))
		}
	}
	if len(parts) == 0 {
		parts = []string{plural(uint64(len(checks)), "target", "targets") + " checked"}
	}
	return policy.ExitCode(codes...), strings.Join(parts, "; "), nil
}

func forget(ctx context.Context, s *embassy.Service) (int, string, error) {
	r, err := s.Forget(ctx, embassy.ForgetOptions{})
	return r.Exit, forgetVerdict(r), cmp.Or(err, recordAll(s, forgetDeeds(r)))
}

func prune(ctx context.Context, s *embassy.Service) (int, string, error) {
	r, err := s.Prune(ctx, usualPrune)
	if err := cmp.Or(err, recordAll(s, pruneDeeds(usualPrune, r, err))); err != nil {
		return 1, "", err
	}
	var parts []string
	marked, objects, bytes := uint64(0), uint64(0), uint64(0)
	for _, c := range r.Compartments {
		if marked += c.Marked; c.Err != nil {
			parts = append(parts, "compartment "+c.Compartment+": "+oneLine(c.Err))
		}
		for _, why := range c.Waits {
			parts = append(parts, "compartment "+c.Compartment+" waits for "+why)
		}
	}
	for _, t := range r.Targets {
		objects, bytes = objects+t.Objects, bytes+t.Bytes
		if t.Err != nil {
			parts = append(parts, t.Target+": "+cause(t.Target, t.Err))
		}
	}
	text := fmt.Sprintf("%s marked, %s deleted, %s", plural(marked, "object", "objects"), count(objects), size(bytes))
	return r.Exit, strings.Join(append([]string{text}, parts...), "; "), nil
}

// recordAll writes into the audit log what a scheduled run did.
func recordAll(s *embassy.Service, deeds []deed) error {
	var errs []error
	for _, d := range deeds {
		errs = append(errs, s.Audit(d.did, d.outcome, append([]string{"command", "serve"}, d.facts...)...))
	}
	return errors.Join(errs...)
}
