package embassy

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"embassy/embassy/format"
	"embassy/targets"
)

const (
	inspectTime  = 5 * time.Minute  // for one target
	questionTime = 15 * time.Second // for a request that moves few bytes
	tidyTime     = 20 * time.Second // to delete the probes of one target
	latencyAsked = 5                // times; the median counts
	racers       = 16
	smallProbe   = 4 << 10 // bytes
	slowLink     = 1e6     // bytes a second; a slower target gets no larger probe
)

// speedProbes are the sizes that throughput is measured with, in bytes: the
// second only on a target that is not slow.
var speedProbes = []int{1 << 20, 4 << 20}

// inspection is the check of one target.
type inspection struct {
	m      *Member
	now    func() time.Time
	nation format.ID
	own    string // folder of its probes
	other  string // folder of another agent's; empty: not asked
	role   string // whose credentials these should be
	asked  targets.Lock
	askFor time.Duration // that the configuration asks a lock for; with asked.Mode

	bucket   bool // not a directory
	features targets.Features
	probes   []string // that may lie on the target
	out      TargetCheck
}

// inspect checks one target. It always returns in bounded time.
func (s *Service) inspect(ctx context.Context, m *Member, who *self) TargetCheck {
	in := &inspection{
		m: m, now: s.now, nation: who.key.Nation,
		out: TargetCheck{Target: m.Name, URL: m.URL, Time: s.now()},
	}
	_, in.bucket = targets.As[targets.Versioned](m.Target)
	in.own, in.other = who.probeFolders(m.Name, s.site)
	switch {
	case who.keys == nil:
		in.role = "replicator"
	case who.steward:
		in.role = "steward"
	default:
		in.role = "agent"
	}
	if t, ok := s.site.Target(m.Name); ok && t.Lock.Mode != "" {
		in.asked, in.askFor = targets.Lock{Mode: t.Lock.Mode}, t.Lock.Period()
	}
	bounded, cancel := context.WithTimeoutCause(ctx, inspectTime, fmt.Errorf("the check was not done after %s", inspectTime))
	defer cancel()
	if in.out.Err = in.run(bounded); in.out.Err != nil {
		in.out.Verdicts = nil
	}
	slices.SortStableFunc(in.out.Verdicts, func(a, b Verdict) int {
		return cmp.Compare(slices.Index(capabilities, a.Capability), slices.Index(capabilities, b.Capability))
	})
	in.tidy(ctx)
	return in.out
}

// run asks everything. Its error says that the target does not answer any
// more; what the target refuses is a verdict.
func (in *inspection) run(ctx context.Context) error {
	if cause := in.m.Down(); cause != nil {
		return fmt.Errorf("target %s: %w", in.m.Name, cause)
	}
	if err := in.reach(ctx); err != nil {
		if silent(err) {
			return err
		}
		return errors.Join(err, in.late(ctx))
	}
	if err := in.look(ctx); err != nil {
		return err
	}
	writes, err := in.speed(ctx)
	if err != nil {
		return err
	}
	if !writes {
		in.say(IsGuarded, Unknown, "no probe can be put", "")
		return nil
	}
	for _, ask := range []func(context.Context) error{in.hashChecked, in.race, in.guard, in.elsewhere} {
		if err := ask(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (in *inspection) say(of Capability, a Answer, reason, advice string) {
	in.out.Verdicts = append(in.out.Verdicts, Verdict{of, a, reason, advice})
}

// settled reports whether err is the store's answer to a request, a refusal
// included.
func settled(err error) bool { return answered(err) || errors.Is(err, targets.ErrDenied) }

// silent reports whether err says that no answer came.
func silent(err error) bool {
	return errors.Is(err, ErrHung) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}

// question makes one request that moves so many bytes, once.
func question[T any](ctx context.Context, m *Member, size int, f func(context.Context) (T, error)) (T, error) {
	var got, none T
	err := m.bounded(ctx, questionTime+time.Duration(size)*time.Second/slowest, func(ctx context.Context) (err error) {
		got, err = f(ctx)
		return err
	})
	if errors.Is(err, ErrHung) {
		return none, err // got is still f's
	}
	return got, err
}

// must is question, again after a fault that may pass. An error that is not
// settled ends the check; silence is not repeated.
func must[T any](ctx context.Context, m *Member, size int, f func(context.Context) (T, error)) (T, error) {
	var got T
	err := m.attempt(ctx, settled, func(ctx context.Context) (err error) {
		got, err = question(ctx, m, size, f)
		if silent(err) && ctx.Err() == nil {
			m.trip(err)
		}
		return err
	})
	return got, err
}

// try is question where a store may not know what it is asked: whatever it
// answers, refusal is that. ended is set when it does not answer at all.
func try[T any](ctx context.Context, m *Member, f func(context.Context) (T, error)) (got T, refusal, ended error) {
	got, err := question(ctx, m, 0, f)
	if silent(err) {
		if ctx.Err() == nil {
			m.trip(err)
		}
		return got, nil, fmt.Errorf("target %s: %w", m.Name, err)
	}
	return got, err, nil
}

// none is the value of a request that gives none.
type none = struct{}

// name returns a new name for a probe below a folder, and remembers it.
func (in *inspection) name(folder string) string {
	n := folder + randomName()
	in.probes = append(in.probes, n)
	return n
}

func (in *inspection) put(ctx context.Context, name string, data []byte) error {
	sum := format.HashOf(data)
	_, err := must(ctx, in.m, len(data), func(ctx context.Context) (none, error) {
		return none{}, in.m.Target.Put(ctx, targets.Object{Name: name, Data: data, SHA256: sum})
	})
	return err
}

// get returns the first size bytes of a probe.
func (in *inspection) get(ctx context.Context, name string, size int) ([]byte, error) {
	return must(ctx, in.m, size, func(ctx context.Context) ([]byte, error) {
		r, err := in.m.Target.Get(ctx, name, 0, int64(size))
		return readProbe(r, err, size)
	})
}

// readProbe reads what Get or GetVersion returned.
func readProbe(r io.ReadCloser, err error, size int) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	data := make([]byte, size)
	_, err = io.ReadFull(r, data)
	if err := errors.Join(err, r.Close()); err != nil {
		return nil, err
	}
	return data, nil
}

// reach finds out whether the target answers, is this nation's, and how fast.
func (in *inspection) reach(ctx context.Context) error {
	// A target that is dead, or refuses the keys, ends here, after one probe.
	probe(ctx, in.nation, []*Member{in.m})
	if cause := in.m.Down(); cause != nil {
		return fmt.Errorf("target %s: %w", in.m.Name, cause)
	}
	_, foreign, err := try(ctx, in.m, func(ctx context.Context) (none, error) {
		return none{}, in.m.Foreign(ctx, in.nation)
	})
	if err = errors.Join(foreign, err); err != nil {
		return err
	}
	var took []time.Duration
	missing := in.own + randomName()
	for range latencyAsked {
		start := time.Now()
		_, err := must(ctx, in.m, 0, func(ctx context.Context) (targets.Info, error) { return in.m.Target.Stat(ctx, missing) })
		if err != nil && !settled(err) {
			return err
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	in.out.Latency = took[len(took)/2]
	return nil
}

// look asks the store what it says of itself.
func (in *inspection) look(ctx context.Context) error {
	power, ok := targets.As[targets.Inspected](in.m.Target)
	if !ok {
		in.say(ClockAgrees, Unknown, "it does not say its time", "")
		in.say(CanLock, No, "a directory has no object lock", "")
		return nil
	}
	before := in.now()
	f, err := must(ctx, in.m, 0, power.Features)
	if err != nil {
		if !settled(err) {
			return err
		}
		in.say(ClockAgrees, Unknown, plainCause(in.m, err), "")
		return nil
	}
	in.features = f
	in.clock(before, in.now())
	switch {
	case f.Locks:
		in.say(CanLock, Yes, "", "")
	case !in.bucket:
		in.say(CanLock, No, "a directory has no object lock", "")
	default:
		in.say(CanLock, No, "the bucket has none, or does not tell these credentials", "")
	}
	if f.DefaultMode != "" {
		in.say(LocksByItself, Yes, fmt.Sprintf("%s, %s", f.DefaultMode, days(f.DefaultFor)), "")
	} else {
		in.say(LocksByItself, No, "", "")
	}
	return nil
}

// late says that a target refuses everything because a clock is wrong.
func (in *inspection) late(ctx context.Context) error {
	power, ok := targets.As[targets.Inspected](in.m.Target)
	if !ok || in.m.Banned() {
		return nil
	}
	before := in.now()
	f, _ := question(ctx, in.m, 0, power.Features) // the clock may come beside an error
	in.features.Clock = f.Clock
	in.clock(before, in.now())
	if v := in.out.Verdict(ClockAgrees); v.Answer == No {
		return errors.New(v.Reason + ": " + v.Advice)
	}
	return nil
}

// clock compares the store's clock, which is good to the second, with this
// machine's before and after the question.
func (in *inspection) clock(before, after time.Time) {
	at := in.features.Clock
	if at.IsZero() {
		in.say(ClockAgrees, Unknown, "it does not say its time", "")
		return
	}
	switch {
	case at.Add(time.Second).Before(before):
		in.out.Skew = at.Sub(before)
	case at.After(after):
		in.out.Skew = at.Sub(after)
	}
	in.out.Skew = in.out.Skew.Round(time.Second)
	word := "ahead of"
	if in.out.Skew < 0 {
		word = "behind"
	}
	reason := fmt.Sprintf("its clock is %s %s this machine's", in.out.Skew.Abs(), word)
	switch {
	case in.out.Skew == 0:
		in.say(ClockAgrees, Yes, "", "")
	case in.out.Skew.Abs() < skewWarned:
		in.say(ClockAgrees, Yes, reason, "")
	default:
		in.say(ClockAgrees, No, reason, "set the wrong clock right: from 15 minutes on S3 refuses every request")
	}
}

// speed measures the throughput with probes that are listed and read back
// right after their put. writes is false when not even that is allowed.
func (in *inspection) speed(ctx context.Context) (writes bool, err error) {
	for i, size := range speedProbes {
		name, data := in.name(in.own), noise(size)
		start := time.Now()
		if err := in.put(ctx, name, data); err != nil {
			if !settled(err) {
				return false, err
			}
			in.say(CanPut, No, plainCause(in.m, err), in.rights("give the credentials the right to put below their own prefix"))
			return false, nil
		}
		in.out.Upload = rate(size, time.Since(start))
		if i == 0 {
			in.say(CanPut, Yes, "", "")
			if err := in.listed(ctx, name, size); err != nil {
				return false, err
			}
		}
		start = time.Now()
		got, err := in.get(ctx, name, size)
		in.out.Download = rate(size, time.Since(start))
		switch {
		case err != nil && !settled(err):
			return false, err
		case err != nil:
			in.say(CanReadBack, No, plainCause(in.m, err), "give the credentials the right to read below the nation's prefix")
			return true, nil
		case !bytes.Equal(got, data):
			in.say(CanReadBack, No, "it gave other bytes than it took", "do not use this target: its store or its host is broken, or lies")
			return true, nil
		}
		if in.out.Upload < slowLink {
			break
		}
	}
	in.say(CanReadBack, Yes, "", "")
	return true, nil
}

// rate is in bytes a second.
func rate(size int, took time.Duration) int64 {
	return int64(float64(size) / max(took, time.Microsecond).Seconds())
}

// listed asks for the probe's name by its own prefix.
func (in *inspection) listed(ctx context.Context, name string, size int) error {
	found, err := must(ctx, in.m, 0, func(ctx context.Context) (bool, error) {
		for info, err := range in.m.Target.List(ctx, name) {
			return err == nil && info.Name == name && info.Size == int64(size), err
		}
		return false, nil
	})
	switch {
	case err != nil && !settled(err):
		return err
	case err != nil:
		in.say(CanList, No, plainCause(in.m, err), "give the credentials the right to list below the nation's prefix")
	case found:
		in.say(CanList, Yes, "", "")
	default:
		in.say(CanList, No, "an object is not listed right after its put", "expect false alarms of rollback from this store: use it in the last tier only")
	}
	return nil
}

// hashChecked puts bytes under the hash of others.
func (in *inspection) hashChecked(ctx context.Context) error {
	name, data := in.name(in.own), noise(smallProbe)
	wrong := format.HashOf(noise(smallProbe))
	_, refusal, err := try(ctx, in.m, func(ctx context.Context) (none, error) {
		return none{}, in.m.Target.Put(ctx, targets.Object{Name: name, Data: data, SHA256: wrong})
	})
	switch {
	case err != nil:
		return err
	case errors.Is(refusal, targets.ErrCorrupt):
		in.say(ChecksHash, Yes, "", "")
	case refusal == nil:
		in.say(ChecksHash, No, "it checks nothing: read-back stays on", "")
	default:
		in.say(ChecksHash, Unknown, plainCause(in.m, refusal), "")
	}
	return nil
}

// race lets many put different objects under one new name at once. Nothing
// depends on the outcome: the layout needs no conditional put.
func (in *inspection) race(ctx context.Context) error {
	power, ok := targets.As[targets.Inspected](in.m.Target)
	if !ok {
		in.say(PutsIfAbsent, Unknown, "a directory is not asked", "")
		return nil
	}
	name := in.name(in.own)
	var mu sync.Mutex
	var winners [][]byte
	var refusal, ended error
	var wg sync.WaitGroup
	for range racers {
		wg.Go(func() {
			data := noise(smallProbe)
			created, refused, err := try(ctx, in.m, func(ctx context.Context) (bool, error) {
				return power.PutNew(ctx, targets.Object{Name: name, Data: data, SHA256: format.HashOf(data)})
			})
			mu.Lock()
			defer mu.Unlock()
			refusal, ended = cmp.Or(refusal, refused), cmp.Or(ended, err)
			if created {
				winners = append(winners, data)
			}
		})
	}
	wg.Wait()
	if ended != nil {
		return ended
	}
	var kept []byte
	if len(winners) == 1 {
		var err error
		if kept, err = in.get(ctx, name, smallProbe); err != nil && !settled(err) {
			return err
		}
	}
	switch {
	case len(winners) > 1:
		in.say(PutsIfAbsent, No, fmt.Sprintf("%d of %d won a race that has one winner", len(winners), racers), "")
	case len(winners) == 1 && bytes.Equal(kept, winners[0]):
		in.say(PutsIfAbsent, Yes, fmt.Sprintf("one winner of %d", racers), "")
	case len(winners) == 1:
		in.say(PutsIfAbsent, No, "it kept another object than the winner's", "")
	case refusal != nil:
		in.say(PutsIfAbsent, Unknown, plainCause(in.m, refusal), "")
	default:
		in.say(PutsIfAbsent, No, "nobody won", "")
	}
	return nil
}

// elsewhere puts a probe below an agent that does not exist.
func (in *inspection) elsewhere(ctx context.Context) error {
	if in.other == "" {
		return nil
	}
	err := in.put(ctx, in.name(in.other), noise(smallProbe))
	switch {
	case err == nil:
		in.say(MayWriteOther, Yes, "a captured machine could overwrite what other agents wrote", in.rights("limit the credentials to their own prefix"))
	case errors.Is(err, targets.ErrDenied):
		in.say(MayWriteOther, No, "", "")
	case settled(err):
		in.say(MayWriteOther, Unknown, plainCause(in.m, err), "")
	default:
		return err
	}
	return nil
}

// rights says what to do about what the credentials may do; of a directory,
// nothing.
func (in *inspection) rights(what string) string {
	if !in.bucket {
		return ""
	}
	return what + ": see embassy target check --print-policy " + in.role
}

// plainCause is an error of a target without the target's name.
func plainCause(m *Member, err error) string {
	return strings.TrimPrefix(err.Error(), "target "+m.Name+": ")
}

// days writes a long time span.
func days(d time.Duration) string {
	if d >= 24*time.Hour && d%(24*time.Hour) == 0 {
		return fmt.Sprintf("%d days", d/(24*time.Hour))
	}
	return d.String()
}
