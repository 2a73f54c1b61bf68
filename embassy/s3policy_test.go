package embassy_test

import (
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"embassy/embassy"
	"embassy/embassy/config"
	"embassy/embassy/format"
	"embassy/targets"
)

// keyless makes the machine of a site one that knows the nation's public key
// and nothing else.
func (s *site) keyless() {
	s.t.Helper()
	state, err := embassy.OpenState(s.config.StateDir)
	if err != nil {
		s.t.Fatal(err)
	}
	s.config.NationKey = format.NationKey{Nation: state.Nation(), Signer: state.Verifier()}
	s.config.StateDir = s.t.TempDir()
	s.config.Compartments, s.config.Datasets = nil, nil
	s.catalog = newMemCatalog()
}

// policies returns the policies of a role as text, with the pseudonyms of the
// site replaced.
func (s *site) policies(role embassy.Role, names ...string) []string {
	s.t.Helper()
	state, err := embassy.OpenState(s.config.StateDir)
	if errors.Is(err, embassy.ErrNoState) {
		s.t.Fatal("ask before keyless")
	}
	keys, err := state.Keys()
	if err != nil {
		s.t.Fatal(err)
	}
	hide := strings.NewReplacer(state.Nation().String(), "<n>", keys.Compartments[0].ID.String(), "<c>", state.Agent().String(), "<a>")
	ask := func() []string {
		policies, err := s.start().Policies(s.t.Context(), role, names)
		if err != nil {
			s.t.Fatal(err)
		}
		var out []string
		for _, p := range policies {
			if !json.Valid(p.Policy) || p.Role != role {
				s.t.Errorf("policy %+v", p)
			}
			out = append(out, p.Target+" "+strings.Join(strings.Fields(hide.Replace(string(p.Policy))), ""))
		}
		return out
	}
	mine := ask()
	config, catalog := *s.config, s.catalog
	s.keyless() // the charter on the targets says the same
	if theirs := ask(); !slices.Equal(mine, theirs) {
		s.t.Errorf("%s, by the agent:\n%q\nby a machine without a key:\n%q", role, mine, theirs)
	}
	*s.config, s.catalog = config, catalog
	return mine
}

// TestPolicies compares every policy word for word.
func TestPolicies(t *testing.T) {
	s := newSite(t, 3, 1)
	s.config.Targets[0].URL = "s3+https://s3.example/bucket/some/prefix"
	s.config.Targets[1].URL = "s3+https://s3.example:9000/locked"
	s.config.Targets[1].Lock = config.Lock{Mode: "compliance", Days: 30}
	statements := func(bucket, top string, rest ...string) string {
		top = bucket + "/" + top
		all := append([]string{
			`{"Sid":"AskTheBucket","Effect":"Allow","Action":["s3:GetBucketLocation","s3:GetBucketVersioning","s3:GetBucketObjectLockConfiguration"],"Resource":["arn:aws:s3:::` + bucket + `"]}`,
			`{"Sid":"ListTheNation","Effect":"Allow","Action":["s3:ListBucket","s3:ListBucketVersions"],"Resource":["arn:aws:s3:::` + bucket + `"],"Condition":{"StringLike":{"s3:prefix":["` + strings.TrimPrefix(top, bucket+"/") + `*"]}}}`,
			`{"Sid":"TellMissingFromForbidden","Effect":"Allow","Action":["s3:ListBucket"],"Resource":["arn:aws:s3:::` + bucket + `"],"Condition":{"Null":{"s3:prefix":["true"]}}}`,
			`{"Sid":"ReadTheNation","Effect":"Allow","Action":["s3:GetObject","s3:GetObjectVersion"],"Resource":["arn:aws:s3:::` + top + `*"]}`,
		}, rest...)
		return `{"Version":"2012-10-17","Statement":[` + strings.Join(all, ",") + `]}`
	}
	own := func(top string) string {
		return `{"Sid":"WriteOwnPrefix","Effect":"Allow","Action":["s3:PutObject"],"Resource":["arn:aws:s3:::` + top + `<c>/<a>/*"]}`
	}
	remove := func(top string) string {
		return `{"Sid":"DeleteInOwnCompartments","Effect":"Allow","Action":["s3:DeleteObject","s3:DeleteObjectVersion"],"Resource":["arn:aws:s3:::` + top + `<c>/*"]}`
	}
	replicator := func(top string) []string {
		return []string{
			`{"Sid":"CopyBelowTheNation","Effect":"Allow","Action":["s3:PutObject"],"Resource":["arn:aws:s3:::` + top + `*"]}`,
			`{"Sid":"SeeLocks","Effect":"Allow","Action":["s3:GetObjectRetention"],"Resource":["arn:aws:s3:::` + top + `*"]}`,
		}
	}
	renew := `{"Sid":"ExtendLocks","Effect":"Allow","Action":["s3:PutObjectRetention"],"Resource":["arn:aws:s3:::locked/<n>/*"],"Condition":{` +
		`"NumericGreaterThanEquals":{"s3:object-lock-remaining-retention-days":["29"]},"NumericLessThanEquals":{"s3:object-lock-remaining-retention-days":["31"]},` +
		`"StringEquals":{"s3:object-lock-mode":["COMPLIANCE"]}}}`
	const first, second = "some/prefix/<n>/", "<n>/"
	want := map[embassy.Role][]string{
		embassy.RoleAgent: {
			"t0 " + statements("bucket", first, own("bucket/"+first)),
			"t1 " + statements("locked", second, own("locked/"+second)),
		},
		embassy.RoleSteward: {
			"t0 " + statements("bucket", first, own("bucket/"+first), remove("bucket/"+first)),
			"t1 " + statements("locked", second, own("locked/"+second), remove("locked/"+second)),
		},
		embassy.RoleReplicator: {
			"t0 " + statements("bucket", first, replicator("bucket/"+first)...),
			"t1 " + statements("locked", second, append(replicator("locked/"+second), renew)...),
		},
	}
	for role, all := range want {
		if got := s.policies(role); !slices.Equal(got, all) {
			t.Errorf("%s:\n%s\nwant\n%s", role, strings.Join(got, "\n"), strings.Join(all, "\n"))
		}
	}
	if got := s.policies(embassy.RoleAgent, "t1"); !slices.Equal(got, want[embassy.RoleAgent][1:]) {
		t.Errorf("of t1 alone: %q", got)
	}
	for _, bad := range []struct {
		role embassy.Role
		name string
		want error
	}{{"king", "t0", embassy.ErrNoPolicy}, {embassy.RoleAgent, "t2", embassy.ErrNoPolicy}, {embassy.RoleAgent, "t9", embassy.ErrUnknownTarget}} {
		if _, err := s.start().Policies(t.Context(), bad.role, []string{bad.name}); !errors.Is(err, bad.want) {
			t.Errorf("%s on %s: %v", bad.role, bad.name, err)
		}
	}
}

// TestCheckKeyless checks from a machine that has no agent: its probes lie
// below the nation, and nobody's prefix is its own.
func TestCheckKeyless(t *testing.T) {
	s := newSite(t, 1, 1)
	nation := strings.SplitN(anyKey(s.objects(0)), "/", 2)[0]
	before := s.objects(0)
	s.keyless()
	c := s.check(&targets.Faulty{Target: s.mems[0], Before: func(op targets.Op, name string) error {
		if op == targets.OpPut && (!strings.HasPrefix(name, nation+"/probe/") || strings.Count(name, "/") != 2) {
			t.Errorf("put %s", name)
		}
		return nil
	}})
	answers{embassy.CanPut: embassy.Yes, embassy.MayWriteOther: embassy.Unknown, embassy.IsGuarded: embassy.No}.of(t, c)
	for _, v := range c.Verdicts {
		if v.Capability == embassy.MayWriteOther {
			t.Errorf("%+v", v)
		}
	}
	if after := s.objects(0); len(after) != len(before) {
		t.Errorf("before %v\nafter %v", before, after)
	}
	if a := s.start().Guarded("t0"); a != embassy.No {
		t.Errorf("not kept: %s", a)
	}
	if _, err := os.Stat(s.config.StateDir + "/agent.key"); err == nil {
		t.Error("it made itself an agent")
	}
}
