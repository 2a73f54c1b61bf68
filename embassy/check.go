package embassy

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"embassy/embassy/config"
	"embassy/embassy/format"
	"embassy/embassy/policy"
)

const (
	provenFor  = 35 * 24 * time.Hour // that a check counts; the standard schedule checks weekly
	skewWarned = time.Minute         // of a store's clock
	checkKind  = "check"             // of a Run
)

// Answer is the outcome of one question to a target.
type Answer string

// The answers.
const (
	Yes     Answer = "yes"
	No      Answer = "no"
	Unknown Answer = "unknown"
)

// Capability is what a check asks about.
type Capability string

// What is asked of every target. Whether yes is good depends on the question:
// a Verdict that is not as it should be has advice.
const (
	CanPut         Capability = "put"
	CanReadBack    Capability = "read_back"       // gives the bytes that it took
	CanList        Capability = "listing"         // lists an object right after its put
	ClockAgrees    Capability = "clock"           // within a minute of this machine's
	KeepsVersions  Capability = "versioning"      // of what was overwritten
	CanLock        Capability = "object_lock"     // offers object lock
	LocksByItself  Capability = "default_lock"    // every new object
	LocksAsAsked   Capability = "configured_lock" // only where the configuration asks for a lock
	PutsIfAbsent   Capability = "conditional_put"
	ChecksHash     Capability = "checksum" // refuses bytes that do not match their SHA-256
	MayOverwrite   Capability = "may_overwrite"
	MayDelete      Capability = "may_delete"
	MayDeleteOld   Capability = "may_delete_version"
	MayShortenLock Capability = "may_shorten_lock"
	MayWriteOther  Capability = "may_write_elsewhere" // below another agent; not asked of a machine without an agent
	IsGuarded      Capability = "guarded"
)

// capabilities is the order in which they are told.
var capabilities = []Capability{
	CanPut, CanReadBack, CanList, ClockAgrees, KeepsVersions, CanLock, LocksByItself, LocksAsAsked, PutsIfAbsent, ChecksHash,
	MayOverwrite, MayDelete, MayDeleteOld, MayShortenLock, MayWriteOther, IsGuarded,
}

// Verdict is the answer to one question.
type Verdict struct {
	Capability Capability `json:"capability"`
	Answer     Answer     `json:"answer"`
	Reason     string     `json:"reason,omitempty"`
	Advice     string     `json:"advice,omitempty"` // what to do; empty: it is as it should be
}

// TargetCheck is what a check found out about one target, with the credentials
// at hand.
type TargetCheck struct {
	Target   string        `json:"target"`
	URL      string        `json:"url"`
	Time     time.Time     `json:"time"`
	Latency  time.Duration `json:"latency"`            // median of several small questions
	Upload   int64         `json:"upload"`             // bytes a second; 0: not measured
	Download int64         `json:"download"`           // bytes a second; 0: not measured
	Skew     time.Duration `json:"skew"`               // the store's clock, less this machine's
	Left     int           `json:"left"`               // probes that could not be deleted
	Verdicts []Verdict     `json:"verdicts,omitempty"` // in the order of the capabilities
	// Err says why the target does not answer, or not to the end. Such a check
	// proves nothing, and is not kept.
	Err error `json:"-"`
}

// Verdict returns the answer to a question; Unknown if it was not asked.
func (c TargetCheck) Verdict(of Capability) Verdict {
	for _, v := range c.Verdicts {
		if v.Capability == of {
			return v
		}
	}
	return Verdict{Capability: of, Answer: Unknown}
}

// Exit is 5 when the target gave other bytes than it took, 4 when it does not
// answer or lacks what it is needed for, else 0.
func (c TargetCheck) Exit() int {
	switch {
	case c.Verdict(CanReadBack).Answer == No:
		return exitLie
	case c.Err != nil || c.Verdict(CanPut).Answer == No || c.Verdict(LocksAsAsked).Answer == No:
		return exitDegraded
	}
	return exitDone
}

// CheckTargets finds out what the named targets can do, and what the
// credentials at hand may do there; no names mean all. All are checked at
// once, and none can hold it up: every request is bounded in time. The checks
// come back in the order of the configuration; each is kept in the catalog, if
// the service has one, and if the target answered to the end.
//
// It writes probes of random bytes below the agent's own prefix (on a machine
// without an agent, below the nation's), and one below the prefix of an agent
// that does not exist. It deletes them where that is allowed, and touches
// nothing else. ErrUnknownTarget is about a name, ErrNoState about this machine.
func (s *Service) CheckTargets(ctx context.Context, names []string) ([]TargetCheck, error) {
	members, err := s.named(names)
	if err != nil {
		return nil, err
	}
	who, err := s.whoami()
	if err != nil {
		return nil, err
	}
	started := s.now()
	checks := make([]TargetCheck, len(members))
	each(members, func(i int, m *Member) { checks[i] = s.inspect(ctx, m, who) })
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if s.catalog == nil {
		return checks, nil
	}
	run := Run{Kind: checkKind, Started: started, Note: "done"}
	var bad []string
	for _, c := range checks {
		run.Exit = max(run.Exit, c.Exit())
		if c.Exit() != exitDone {
			bad = append(bad, c.Target)
		}
		if c.Err == nil {
			if err := keepNote(s.catalog, checkKey(c.Target), c); err != nil {
				return nil, err
			}
		}
	}
	if len(bad) > 0 {
		run.Note = "not as it should be: " + strings.Join(bad, ", ")
	}
	run.Ended = s.now()
	return checks, s.catalog.AddRun(run)
}

func checkKey(target string) string { return "check/" + target }

// checked returns the last check of a target that was kept; ok is false if
// there is none, or it was of another store under that name.
func (s *Service) checked(target string) (c TargetCheck, ok bool) {
	if s.catalog == nil || s.members[target] == nil {
		return TargetCheck{}, false
	}
	c, ok, err := readNote[TargetCheck](s.catalog, checkKey(target))
	if err != nil {
		s.log.Error("read the last check", "target", target, "err", err)
		return TargetCheck{}, false
	}
	return c, ok && c.URL == s.members[target].URL
}

// Guarded says whether the last check of a target proved that the credentials
// of then cannot destroy what was written. Unknown: it was never checked, or
// too long ago, or could not be proved.
func (s *Service) Guarded(target string) Answer {
	c, ok := s.checked(target)
	age := s.now().Sub(c.Time)
	if !ok || age > provenFor || age < -clockSlack {
		return Unknown
	}
	return c.Verdict(IsGuarded).Answer
}

// timeFor is how long the upload of so many bytes takes at the speed last
// measured, by this process or by the last check; 0: unknown.
func (s *Service) timeFor(m *Member, bytes uint64) time.Duration {
	speed := m.speed()
	if c, ok := s.checked(m.Name); ok && speed == 0 {
		speed = float64(c.Upload)
	}
	if speed == 0 {
		return 0
	}
	return time.Duration(float64(bytes) / speed * float64(time.Second))
}

// self is who this machine is to the targets.
type self struct {
	key     format.NationKey
	agent   format.ID // zero on a machine without an agent
	keys    *Keys     // nil likewise
	steward bool      // of some compartment
}

// whoami reads the state directory, or the configuration of a machine that has
// none. No target is asked.
func (s *Service) whoami() (*self, error) {
	key, state, err := Identify(s.site)
	if err != nil || state == nil {
		return &self{key: key}, err
	}
	keys, err := state.Keys()
	if err != nil {
		return nil, err
	}
	me := &self{key: key, agent: state.Agent(), keys: keys}
	me.steward = slices.ContainsFunc(keys.Charter.Compartments, func(c format.CharterCompartment) bool {
		return c.Steward() == me.agent
	})
	return me, nil
}

// probeFolders returns where the probes on a target go, and where they must
// not be allowed to go; each ends with a slash. other is empty on a machine
// without an agent.
func (me *self) probeFolders(target string, site *config.Config) (own, other string) {
	if me.keys == nil || len(me.keys.Compartments) == 0 {
		return me.key.Nation.String() + "/probe/", ""
	}
	c := me.keys.Compartments[0]
	for _, placed := range site.Compartments {
		k, err := me.keys.Named(placed.Name)
		used := slices.ContainsFunc(policy.Order(placed.PACE), func(r policy.Ranked) bool { return r.Target == target })
		if err == nil && used {
			c = k
			break
		}
	}
	folder := func(agent string) string { return fmt.Sprintf("%s/%s/%s/probe/", me.key.Nation, c.ID, agent) }
	return folder(me.agent.String()), folder(randomName())
}

// randomName is 32 hexadecimal digits, as an ID has.
func randomName() string { return hex.EncodeToString(noise(16)) }

// noise returns n random bytes.
func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}
