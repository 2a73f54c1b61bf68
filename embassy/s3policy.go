package embassy

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"embassy/embassy/config"
	"embassy/embassy/format"
	"embassy/targets"
)

// Role is what credentials are for.
type Role string

// The roles.
const (
	RoleAgent      Role = "agent"      // writes its own prefix
	RoleReplicator Role = "replicator" // copies between targets, and extends locks
	RoleSteward    Role = "steward"    // is an agent, and deletes in its compartments
)

// Roles are all roles, those with the fewest rights first.
var Roles = []Role{RoleAgent, RoleReplicator, RoleSteward}

// ErrNoPolicy: there is nothing to print a policy for.
var ErrNoPolicy = errors.New("no policy")

// TargetPolicy is what credentials of one role need on one bucket, and no
// more.
type TargetPolicy struct {
	Target string
	Role   Role
	Agent  format.ID // whose credentials; zero for a replicator
	Policy json.RawMessage
}

// The rights that checks and policies speak of.
const (
	deleteObject  = "s3:DeleteObject"
	deleteVersion = "s3:DeleteObjectVersion"
	bypass        = "s3:BypassGovernanceRetention"
)

// Policies returns the S3 policies of a role on the named targets, or on all
// that are buckets. Agents and their compartments are those of the charter: on
// a machine that is one of them, only itself; on another machine, every active
// agent or every steward, and the charter is then read from the targets.
// ErrNoPolicy: a named target is a directory, or there is no such agent;
// ErrUnknownTarget is about a name.
func (s *Service) Policies(ctx context.Context, role Role, names []string) ([]TargetPolicy, error) {
	if !slices.Contains(Roles, role) {
		return nil, fmt.Errorf("%w for %q: the roles are agent, replicator and steward", ErrNoPolicy, role)
	}
	members, err := s.named(names)
	if err != nil {
		return nil, err
	}
	who, err := s.whoami()
	if err != nil {
		return nil, err
	}
	writers := []writer{{}}
	if role != RoleReplicator {
		ch, err := s.publicCharter(ctx, who)
		if err != nil {
			return nil, err
		}
		if writers = writersIn(ch, role, who.agent); len(writers) == 0 {
			return nil, fmt.Errorf("%w: the charter has no active %s", ErrNoPolicy, role)
		}
	}
	var out []TargetPolicy
	for _, m := range members {
		loc, err := targets.Parse(m.URL)
		if err != nil {
			return nil, fmt.Errorf("target %s: %w", m.Name, err)
		}
		if loc.Scheme == targets.SchemeDir {
			if len(names) > 0 {
				return nil, fmt.Errorf("target %s: %w: it is a directory", m.Name, ErrNoPolicy)
			}
			continue
		}
		for _, w := range writers {
			t, _ := s.site.Target(m.Name)
			p, err := json.MarshalIndent(policyFor(role, loc, who.key.Nation, w, t.Lock), "", "  ")
			if err != nil {
				return nil, err
			}
			out = append(out, TargetPolicy{Target: m.Name, Role: role, Agent: w.agent, Policy: p})
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: no target is a bucket", ErrNoPolicy)
	}
	return out, nil
}

// publicCharter returns the charter that this machine accepted, or the newest
// one on the targets.
func (s *Service) publicCharter(ctx context.Context, who *self) (*format.Charter, error) {
	if who.keys != nil {
		return who.keys.Charter, nil
	}
	ch, _, err := FindCharter(ctx, s.order, who.key.Nation, who.key.Signer, s.warn)
	return ch, err
}

// writer is an agent with the compartments that it writes, and those of them
// that it is the steward of.
type writer struct {
	agent           format.ID
	writes, deletes []format.ID
}

// writersIn returns those that may have the role; of this machine's agent, if
// it is one of them, only it.
func writersIn(ch *format.Charter, role Role, self format.ID) []writer {
	var all []writer
	for _, a := range ch.Agents {
		if a.Status != format.AgentActive {
			continue
		}
		w := writer{agent: a.ID, writes: a.Compartments}
		for _, c := range ch.Compartments {
			if c.Steward() == a.ID {
				w.deletes = append(w.deletes, c.ID)
			}
		}
		if role == RoleSteward && len(w.deletes) == 0 {
			continue
		}
		if a.ID == self {
			return []writer{w}
		}
		all = append(all, w)
	}
	slices.SortFunc(all, func(a, b writer) int { return cmp.Compare(a.agent.String(), b.agent.String()) })
	return all
}

type s3Policy struct {
	Version   string        `json:"Version"`
	Statement []s3Statement `json:"Statement"`
}

type s3Statement struct {
	Sid       string                         `json:"Sid"`
	Effect    string                         `json:"Effect"`
	Action    []string                       `json:"Action"`
	Resource  []string                       `json:"Resource"`
	Condition map[string]map[string][]string `json:"Condition,omitempty"`
}

// policyFor writes a policy. What it does not allow is refused. A replicator
// may overwrite, because repair does, and set the lock that the configuration
// asks for, counted from now. Amazon refuses to shorten a governance lock to
// whoever lacks s3:BypassGovernanceRetention, MinIO does not: so the policy
// says how long a lock must be, with a day of tolerance, and how long it may
// be, lest a captured replicator locks garbage for a century.
func policyFor(role Role, loc targets.Location, nation format.ID, w writer, lock config.Lock) s3Policy {
	bucket := "arn:aws:s3:::" + loc.Bucket
	top := nation.String() + "/"
	if loc.Prefix != "" {
		top = loc.Prefix + "/" + top
	}
	p := s3Policy{Version: "2012-10-17"}
	allow := func(sid string, actions []string, condition map[string]map[string][]string, resources ...string) {
		p.Statement = append(p.Statement, s3Statement{sid, "Allow", actions, resources, condition})
	}
	list := []string{"s3:ListBucket", "s3:ListBucketVersions"}
	allow("AskTheBucket", []string{"s3:GetBucketLocation", "s3:GetBucketVersioning", "s3:GetBucketObjectLockConfiguration"}, nil, bucket)
	allow("ListTheNation", list, map[string]map[string][]string{"StringLike": {"s3:prefix": {top + "*"}}}, bucket)
	// AWS says "forbidden" of an object that is missing, unless this request,
	// which has no prefix, could have been a listing.
	allow("TellMissingFromForbidden", list[:1], map[string]map[string][]string{"Null": {"s3:prefix": {"true"}}}, bucket)
	allow("ReadTheNation", []string{"s3:GetObject", "s3:GetObjectVersion"}, nil, bucket+"/"+top+"*")
	put := []string{"s3:PutObject"}
	if role == RoleReplicator {
		allow("CopyBelowTheNation", put, nil, bucket+"/"+top+"*")
		allow("SeeLocks", []string{"s3:GetObjectRetention"}, nil, bucket+"/"+top+"*")
		if lock.Mode != "" {
			const left = "s3:object-lock-remaining-retention-days"
			allow("ExtendLocks", []string{"s3:PutObjectRetention"}, map[string]map[string][]string{
				"StringEquals":             {"s3:object-lock-mode": {strings.ToUpper(lock.Mode)}},
				"NumericGreaterThanEquals": {left: {strconv.Itoa(max(lock.Days-1, 1))}},
				"NumericLessThanEquals":    {left: {strconv.Itoa(lock.Days + 1)}},
			}, bucket+"/"+top+"*")
		}
		return p
	}
	below := func(compartments []format.ID, rest string) []string {
		var out []string
		for _, c := range compartments {
			out = append(out, bucket+"/"+top+c.String()+"/"+rest)
		}
		return out
	}
	if len(w.writes) > 0 {
		allow("WriteOwnPrefix", put, nil, below(w.writes, w.agent.String()+"/*")...)
	}
	if role == RoleSteward {
		allow("DeleteInOwnCompartments", []string{deleteObject, deleteVersion}, nil, below(w.deletes, "*")...)
	}
	return p
}
