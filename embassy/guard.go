package embassy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"embassy/targets"
)

const (
	lockProbe  = 3 * time.Minute // a probe that carries no lock gets one of this length,
	lockWeaker = 2 * time.Minute // and every lock is then shortened to this
	lockSlack  = time.Hour       // that a lock may fall short of the configuration
	mostOld    = 64              // versions of one probe
)

// guard finds out whether these credentials can destroy what was written. It
// does to a probe what a captured machine would do to an object: it overwrites
// it, deletes it, deletes its first version, and shortens the lock of another
// probe. The target is guarded when the first bytes are still there
// afterwards, under the id that the first version had, and when neither the
// version could be deleted nor the lock be shortened; or when it refuses to
// overwrite and to delete in the first place.
//
// The probe is random, so that a host has to keep it to pass. That is all that
// a host has to do: it can always keep the versions of probes and of nothing
// else. Guardedness protects the nation from captured credentials, on a host
// that keeps its promises; from the host itself only copies elsewhere protect.
// Nor is it asked whether the credentials may change the bucket itself, its
// versioning, lifecycle or policy: that would touch more than probes. The
// policies that are printed give no such right.
func (in *inspection) guard(ctx context.Context) error {
	name, first, second := in.name(in.own), noise(smallProbe), noise(smallProbe)
	if err := in.put(ctx, name, first); err != nil {
		return err
	}
	store, versioned := targets.As[targets.Versioned](in.m.Target)
	var old targets.Version
	var unlisted error
	if versioned {
		var ended error
		if old, unlisted, ended = try(ctx, in.m, func(ctx context.Context) (targets.Version, error) {
			return newestVersion(ctx, store, name)
		}); ended != nil {
			return ended
		}
	}
	overwritten, err := in.overwrite(ctx, name, first, second)
	if err != nil {
		return err
	}
	deleted, err := in.remove(ctx, name)
	if err != nil {
		return err
	}
	var kept, gone bool
	if versioned && unlisted == nil {
		if kept, gone, err = in.old(ctx, store, name, old, first); err != nil {
			return err
		}
	}
	shortened, err := in.locks(ctx)
	if err != nil {
		return err
	}
	in.keeps(versioned, unlisted, kept || gone, overwritten == Yes || deleted == Yes)
	const take = "turn on versioning or object lock, and give the credentials no right to delete versions"
	switch {
	case in.out.Verdict(CanReadBack).Answer == No:
		in.say(IsGuarded, No, "it gave other bytes than it took", "do not use this target: its store or its host is broken, or lies")
	case overwritten == No && deleted == No:
		in.say(IsGuarded, Yes, "it refuses to overwrite and to delete", "")
	case !versioned:
		in.say(IsGuarded, No, "it keeps no versions: what is overwritten or deleted is gone", "count it as unguarded, or write to it from a replicator's machine only")
	case unlisted != nil:
		in.say(IsGuarded, Unknown, "versions cannot be listed: "+plainCause(in.m, unlisted), "give the credentials the right to list versions")
	case gone:
		in.say(IsGuarded, No, "the credentials may delete versions", in.lessRights(deleteVersion))
	case !kept:
		in.say(IsGuarded, No, "what was overwritten is not given back", take)
	case shortened == Yes:
		in.say(IsGuarded, No, "the credentials may shorten locks", in.lessRights(bypass))
	case overwritten == Unknown || in.out.Verdict(MayDeleteOld).Answer != No:
		in.say(IsGuarded, Unknown, "some of its answers prove nothing", "")
	default:
		in.say(IsGuarded, Yes, "", "")
	}
	return nil
}

// lessRights says how to take a right away. A steward needs to delete.
func (in *inspection) lessRights(right string) string {
	if in.role == "steward" && right != bypass {
		return "a steward has to delete: turn on object lock, which keeps even it from deleting too early"
	}
	return in.rights("take away " + right)
}

// mayDelete is the advice where something could be deleted.
func (in *inspection) mayDelete(right string) string {
	if in.role == "steward" {
		return ""
	}
	return in.rights("take away " + right)
}

// overwrite puts other bytes under the name, and looks at what is there then.
func (in *inspection) overwrite(ctx context.Context, name string, first, second []byte) (Answer, error) {
	err := in.put(ctx, name, second)
	if err != nil && !errors.Is(err, targets.ErrDenied) {
		if !settled(err) {
			return Unknown, err
		}
		in.say(MayOverwrite, Unknown, plainCause(in.m, err), "")
		return Unknown, nil
	}
	got, failed := in.get(ctx, name, len(first))
	switch {
	case failed != nil && !settled(failed):
		return Unknown, failed
	case failed != nil:
		in.say(MayOverwrite, Unknown, "the probe cannot be read: "+plainCause(in.m, failed), "")
		return Unknown, nil
	case bytes.Equal(got, first):
		reason := ""
		if err == nil {
			reason = "it took other bytes, and gives the first ones"
		}
		in.say(MayOverwrite, No, reason, "")
		return No, nil
	case err == nil && bytes.Equal(got, second):
		in.say(MayOverwrite, Yes, "", "") // as on every S3 store: versions are what protects
		return Yes, nil
	}
	in.say(MayOverwrite, Unknown, "it gives bytes that nobody put", "do not use this target: its store or its host is broken, or lies")
	return Unknown, nil
}

// remove deletes the probe by name.
func (in *inspection) remove(ctx context.Context, name string) (Answer, error) {
	_, refusal, ended := try(ctx, in.m, func(ctx context.Context) (none, error) { return none{}, in.m.Target.Delete(ctx, name) })
	if ended != nil {
		return Unknown, ended
	}
	if refusal != nil {
		if errors.Is(refusal, targets.ErrDenied) {
			in.say(MayDelete, No, "", "")
			return No, nil
		}
		in.say(MayDelete, Unknown, plainCause(in.m, refusal), "")
		return Unknown, nil
	}
	_, err := must(ctx, in.m, 0, func(ctx context.Context) (targets.Info, error) { return in.m.Target.Stat(ctx, name) })
	switch {
	case errors.Is(err, targets.ErrNotFound):
		in.say(MayDelete, Yes, "", in.mayDelete(deleteObject))
		return Yes, nil
	case err == nil:
		in.say(MayDelete, No, "it said that it deleted, and did not", "")
		return No, nil
	case settled(err):
		in.say(MayDelete, Unknown, plainCause(in.m, err), "")
		return Unknown, nil
	}
	return Unknown, err
}

// old looks for the first version of the probe, and tries to delete it. kept:
// it still has its bytes; gone: these credentials could delete it.
func (in *inspection) old(ctx context.Context, store targets.Versioned, name string, v targets.Version, first []byte) (kept, gone bool, err error) {
	same := func() (bool, error) {
		got, refusal, ended := try(ctx, in.m, func(ctx context.Context) ([]byte, error) {
			r, err := store.GetVersion(ctx, name, v.ID, 0, int64(len(first)))
			return readProbe(r, err, len(first))
		})
		return refusal == nil && bytes.Equal(got, first), ended
	}
	if kept, err = same(); err != nil || !kept {
		in.say(MayDeleteOld, Unknown, "there is no old version to try it on", "")
		return false, false, err
	}
	_, refusal, ended := try(ctx, in.m, func(ctx context.Context) (none, error) {
		return none{}, store.DeleteVersion(ctx, name, v.ID)
	})
	if ended != nil {
		return false, false, ended
	}
	if kept, err = same(); err != nil {
		return false, false, err
	}
	switch {
	case refusal == nil || !kept:
		in.say(MayDeleteOld, Yes, "", in.mayDelete(deleteVersion))
		return kept, true, nil
	case errors.Is(refusal, targets.ErrDenied):
		in.say(MayDeleteOld, No, "", "")
	default:
		in.say(MayDeleteOld, Unknown, plainCause(in.m, refusal), "")
	}
	return kept, false, nil
}

// newestVersion returns what a name stands for now.
func newestVersion(ctx context.Context, store targets.Versioned, name string) (targets.Version, error) {
	for v, err := range store.Versions(ctx, name) {
		if err != nil {
			return targets.Version{}, err
		}
		if v.Name == name && v.Latest && !v.Marker {
			return v, nil
		}
		break
	}
	return targets.Version{}, errors.New("the listing of versions lacks what was just put")
}

// keeps says whether the store keeps versions. old: the first version of the
// probe was there; changed: something had come after it.
func (in *inspection) keeps(versioned bool, unlisted error, old, changed bool) {
	switch {
	case !versioned:
		in.say(KeepsVersions, No, "a directory keeps none", "")
	case unlisted == nil && changed && old:
		in.say(KeepsVersions, Yes, "", "")
	case unlisted == nil && changed:
		in.say(KeepsVersions, No, "", "turn on versioning of the bucket: without it, captured credentials can destroy what they wrote")
	case in.features.Versioning:
		in.say(KeepsVersions, Unknown, "the store says so, and it could not be tried", "")
	default:
		in.say(KeepsVersions, Unknown, "it could not be tried", "")
	}
}

// locks looks at the lock that a new object has, and tries to shorten it. A
// probe without one gets one for some minutes, if the credentials may.
func (in *inspection) locks(ctx context.Context) (shortened Answer, err error) {
	store, ok := targets.As[targets.Locker](in.m.Target)
	if !ok {
		in.lockedAsAsked(targets.Lock{}, nil)
		in.say(MayShortenLock, No, "it has no locks", "")
		return No, nil
	}
	name := in.name(in.own)
	if err := in.put(ctx, name, noise(smallProbe)); err != nil {
		return Unknown, err
	}
	lockOf := func() (targets.Lock, error, error) {
		return try(ctx, in.m, func(ctx context.Context) (targets.Lock, error) { return store.LockOf(ctx, name) })
	}
	set := func(l targets.Lock) (error, error) {
		_, refusal, ended := try(ctx, in.m, func(ctx context.Context) (none, error) { return none{}, store.SetLock(ctx, name, l) })
		return refusal, ended
	}
	has, hidden, ended := lockOf()
	if ended != nil {
		return Unknown, ended
	}
	in.lockedAsAsked(has, hidden)
	at := in.now().Add(in.out.Skew).Truncate(time.Second)
	bare := has.Mode == ""
	if bare {
		has = targets.Lock{Mode: "governance", Until: at.Add(lockProbe)}
		refusal, ended := set(has)
		if ended != nil {
			return Unknown, ended
		}
		if refusal != nil {
			in.say(MayShortenLock, No, "the credentials may set no lock", "")
			return No, nil
		}
	}
	refusal, ended := set(targets.Lock{Mode: has.Mode, Until: at.Add(lockWeaker)})
	if ended != nil {
		return Unknown, ended
	}
	if refusal != nil {
		in.say(MayShortenLock, No, "", "")
		return No, nil
	}
	now, hidden, ended := lockOf()
	switch {
	case ended != nil:
		return Unknown, ended
	case hidden == nil && !now.Until.Before(has.Until):
		in.say(MayShortenLock, No, "it said that it shortened a lock, and did not", "")
		return No, nil
	}
	if bare {
		if _, ended := set(targets.Lock{}); ended != nil { // so that the probe can be deleted
			return Unknown, ended
		}
	}
	in.say(MayShortenLock, Yes, "a lock that can be shortened protects nothing", in.lessRights(bypass))
	return Yes, nil
}

// lockedAsAsked compares the lock of an object that was just put with the one
// that the configuration asks for. hidden: the credentials may not see it.
func (in *inspection) lockedAsAsked(has targets.Lock, hidden error) {
	if in.asked.Mode == "" {
		return
	}
	advice := fmt.Sprintf("make the bucket with object lock, and set its default to %s, %s; or take lock: out of the configuration", in.asked.Mode, days(in.askFor))
	strong := func(mode string) bool { return mode == in.asked.Mode || mode == "compliance" }
	until := in.now().Add(in.out.Skew + in.askFor - lockSlack)
	f := in.features
	switch {
	case hidden == nil && has.Mode == "" && !f.Locks:
		in.say(LocksAsAsked, No, "the bucket has no object lock", advice)
	case hidden == nil && has.Mode == "":
		in.say(LocksAsAsked, No, "a new object has no lock", advice)
	case hidden == nil && (!strong(has.Mode) || has.Until.Before(until)):
		in.say(LocksAsAsked, No, fmt.Sprintf("a new object is locked as %s until %s only", has.Mode, has.Until.UTC().Format(time.DateTime)), advice)
	case hidden == nil:
		in.say(LocksAsAsked, Yes, "", "")
	case !f.Locks:
		in.say(LocksAsAsked, No, "the bucket has no object lock, or does not tell these credentials", advice)
	case f.DefaultMode != "" && strong(f.DefaultMode) && f.DefaultFor >= in.askFor:
		in.say(LocksAsAsked, Yes, "by the default of the bucket", "")
	case f.DefaultMode != "":
		in.say(LocksAsAsked, No, fmt.Sprintf("the default of the bucket is %s, %s", f.DefaultMode, days(f.DefaultFor)), advice)
	default:
		in.say(LocksAsAsked, Unknown, "the bucket has no default, and these credentials may not see the lock of an object", advice)
	}
}

// tidy deletes the probes, as far as that is allowed. It counts those whose
// bytes stay.
func (in *inspection) tidy(ctx context.Context) {
	if in.m.Down() != nil {
		in.out.Left = len(in.probes)
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tidyTime)
	defer cancel()
	store, versioned := targets.As[targets.Versioned](in.m.Target)
	for _, name := range in.probes {
		gone, _, _ := try(ctx, in.m, func(ctx context.Context) (bool, error) {
			if !versioned {
				return discard(ctx, in.m.Target, name)
			}
			return discardVersions(ctx, in.m.Target, store, name)
		})
		if !gone {
			in.out.Left++
		}
	}
}

// discard deletes a probe, and reports whether nothing is left of it.
func discard(ctx context.Context, t targets.Target, name string) (bool, error) {
	if err := t.Delete(ctx, name); err != nil {
		return false, err
	}
	return true, nil
}

// discardVersions deletes a probe with all its versions. When that is not
// allowed it is only hidden, if even that is.
func discardVersions(ctx context.Context, t targets.Target, store targets.Versioned, name string) (bool, error) {
	var ids []string
	for v, err := range store.Versions(ctx, name) {
		if err != nil {
			return discard(ctx, t, name)
		}
		if v.Name == name {
			if ids = append(ids, v.ID); len(ids) == mostOld {
				break
			}
		}
	}
	for _, id := range ids {
		if err := store.DeleteVersion(ctx, name, id); err != nil {
			_, err := discard(ctx, t, name)
			return false, err
		}
	}
	return true, nil
}
