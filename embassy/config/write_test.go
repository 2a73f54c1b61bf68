package config_test

import (
	"bytes"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"embassy/embassy/config"
	"embassy/embassy/format"
	"embassy/embassy/policy"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func parseFlags(t *testing.T, flags ...string) []config.Target {
	t.Helper()
	targets, err := config.ParseTargetFlags(flags)
	if err != nil {
		t.Fatal(err)
	}
	return targets
}

func TestParseTargetFlag(t *testing.T) {
	here, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		flag string
		want config.Target
	}{
		{"vault=dir:vault", config.Target{Name: "vault", URL: "dir:" + filepath.Join(here, "vault")}},
		{"lux=s3+https://s3.lux.example:9000/embassy/ee,jurisdiction=lu,operator=X y,hosting=embassy,legal_regimes=EU+LU,clearance=secret,region=eu-1,ca_file=ca.pem,access_key_env=K,secret_key_env=S",
			config.Target{
				Name: "lux", URL: "s3+https://s3.lux.example:9000/embassy/ee", Jurisdiction: "LU", Operator: "X y",
				Hosting: "embassy", LegalRegimes: []string{"EU", "LU"}, Clearance: "secret", Region: "eu-1",
				CAFile: filepath.Join(here, "ca.pem"), Credentials: config.Credentials{AccessKeyEnv: "K", SecretKeyEnv: "S"},
			}},
		{"a=s3+http://10.0.0.1/bucket,insecure=true,credentials_file=/keys",
			config.Target{Name: "a", URL: "s3+http://10.0.0.1/bucket", Insecure: true, Credentials: config.Credentials{File: "/keys", Profile: "default"}}},
		{"b=s3+http://[::1]:9000/bucket", config.Target{Name: "b", URL: "s3+http://[::1]:9000/bucket"}},
	} {
		got, err := config.ParseTargetFlag(test.flag)
		if err != nil {
			t.Errorf("%s: %v", test.flag, err)
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s: %s", test.flag, diff)
		}
	}
}

func TestParseTargetFlagBad(t *testing.T) {
	for _, test := range []struct{ flag, want string }{
		{"tallinn", "--target tallinn: there is no = between name and URL; write NAME=URL"},
		{"", "--target : there is no ="},
		{"=dir:/a", "the name of a target is empty"},
		{"a=", "url is empty"},
		{"A b=dir:/a", `write "a-b"`},
		{"a=https://host/bucket", "--target a: "},
		{"a=dir:/a,jurisdicton=LU", `unknown key "jurisdicton" in a target; write "jurisdiction"`},
		{"a=dir:/a,LU", `"LU" has no =`},
		{"a=dir:/a,jurisdiction=LU,jurisdiction=EE", "jurisdiction is already given; keep one"},
		{"a=dir:/a,hosting=cloud", "write hyperscale, sovereign"},
		{"a=s3+https://h/bucket,secret_key=hunter2", "would put a secret into the configuration"},
		{"a=s3+https://h/bucket,access_key_env=K", "credentials has no secret_key_env"},
		{"a=s3+https://h/bucket,insecure=maybe", "insecure must be true or false"},
	} {
		_, err := config.ParseTargetFlag(test.flag)
		var mistakes *config.Errors
		if !errors.As(err, &mistakes) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q: %v, want %q", test.flag, err, test.want)
		}
		if err != nil && (strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), ":0:0")) {
			t.Errorf("%q: %v", test.flag, err)
		}
	}
}

func TestParseTargetFlagsTogether(t *testing.T) {
	_, err := config.ParseTargetFlags([]string{"a=dir:/a", "a=dir:/b", "c=dir:/a", "d=ftp://x"})
	var mistakes *config.Errors
	if !errors.As(err, &mistakes) || len(mistakes.Problems) != 3 {
		t.Fatal(err)
	}
	for i, want := range []string{"--target a: the name", "--target c: this url", "--target d: "} {
		if got := mistakes.Problems[i].String(); !strings.HasPrefix(got, want) {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func TestWriteGolden(t *testing.T) {
	for _, test := range []struct {
		name  string
		draft config.Draft
	}{
		{"full", config.Draft{
			Nation: "ee", Kit: "./recovery-kit.txt",
			Targets: parseFlags(t,
				"tallinn=s3+https://s3.tallinn.example:9000/embassy,jurisdiction=EE,legal_regimes=EE+EU,operator=RIA,hosting=on-prem,clearance=secret",
				"luxembourg=s3+https://s3.lux.example/embassy,jurisdiction=LU,hosting=embassy,access_key_env=LUX_KEY,secret_key_env=LUX_SECRET,ca_file=/etc/lux ca.pem",
				"helsinki=s3+http://10.0.0.1/embassy,jurisdiction=FI,insecure=true,credentials_file=/etc/keys,region=eu-1",
				"vault=dir:/mnt/vault", "tape=dir:/mnt/tape,jurisdiction=NO"),
			Sources: []string{"/usr/share", "/srv/Population Register", "/opt/share", "/"},
		}},
		{"bare", config.Draft{Nation: "Eesti: \"e\" #1", StateDir: "/var/lib/embassy", Targets: parseFlags(t, "vault=dir:/mnt/vault")}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var out bytes.Buffer
			if err := config.Write(&out, test.draft); err != nil {
				t.Fatal(err)
			}
			golden(t, filepath.Join("testdata", "write", test.name+".golden"), out.String())
		})
	}
}

// A replicator's configuration parses, names the compartments by their
// pseudonyms, and gives away neither names nor where the agent has its keys.
func TestWriteReplicator(t *testing.T) {
	agent, err := config.Load(filepath.Join("testdata", "good", "everything.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	keyless, err := config.Load(filepath.Join("testdata", "good", "keyless.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	r := config.Replicator{
		Nation: agent.Nation, Key: keyless.NationKey,
		Targets:      append(agent.Targets, parseFlags(t, "1-vault=dir:/mnt/vault,jurisdiction=EE", "2nd=s3+https://s3.example/bucket")...),
		Compartments: agent.Compartments,
	}
	r.Targets[1].CAFile = "/etc/lux-ca.pem"
	r.Compartments[0].ID = format.ID{0x12, 0x34, 0x56, 0x78, 0x90, 0x12, 0x34, 0x56, 0x78, 0x90, 0x12, 0x34, 0x56, 0x78, 0x90, 0x12} // digits only
	r.Compartments[1].ID = format.ID{0xab, 15: 1}
	var out bytes.Buffer
	if err := config.WriteReplicator(&out, r); err != nil {
		t.Fatal(err)
	}
	golden(t, filepath.Join("testdata", "write", "replicator.golden"), out.String())
	c, err := config.Parse("/etc/embassy/embassy.yaml", out.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if c.NationKey.String() != r.Key.String() || c.StateDir == agent.StateDir || len(c.Datasets) > 0 {
		t.Errorf("key %s, state %s", c.NationKey, c.StateDir)
	}
	for i, k := range c.Compartments {
		want := agent.Compartments[i]
		want.Name, want.Classification, want.Dedup, want.ID = k.Name, "", "", r.Compartments[i].ID
		if diff := cmp.Diff(want, k); diff != "" {
			t.Error(diff)
		}
	}
	for i, got := range c.Targets {
		want := r.Targets[i]
		want.Credentials = got.Credentials
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
	for _, name := range []string{"official", "restricted", "population", "keys/lux"} {
		if strings.Contains(out.String(), name) {
			t.Errorf("it tells of %s", name)
		}
	}
}

func TestWriteRefused(t *testing.T) {
	var out bytes.Buffer
	err := config.Write(&out, config.Draft{Nation: "ee", Targets: []config.Target{{Name: "A", URL: "dir:/a"}}})
	var mistakes *config.Errors
	if !errors.As(err, &mistakes) || out.Len() > 0 {
		t.Errorf("%v, and %d bytes written", err, out.Len())
	}
}

// What Write writes means what the draft meant, whatever its texts contain.
func TestWriteProperties(t *testing.T) {
	printable := rapid.StringMatching(`[ -~éß]{0,20}[!-~é]`).Filter(func(s string) bool { return strings.TrimSpace(s) == s })
	word := rapid.OneOf(printable, rapid.SampledFrom([]string{"no", "null", "true", "~", "1e3", "0x1", "2024-01-01", "- a", "a: b", "#", "*x", "<<", "{}", "a,b"}))
	rapid.Check(t, func(t *rapid.T) {
		draft := config.Draft{Nation: word.Draw(t, "nation"), StateDir: "/" + word.Draw(t, "state"), Kit: "/" + word.Draw(t, "kit")}
		for i := range rapid.IntRange(1, 6).Draw(t, "targets") {
			draft.Targets = append(draft.Targets, config.Target{
				Name: string(rune('a' + i)), URL: "dir:/" + string(rune('a'+i)) + "/" + strings.Trim(word.Draw(t, "path"), "/."),
				Operator: word.Draw(t, "operator"), Clearance: word.Draw(t, "clearance"),
				Jurisdiction: rapid.SampledFrom([]string{"", "EE", "NO", "LU"}).Draw(t, "jurisdiction"),
				Limits: config.Limits{
					Upload:   rapid.OneOf(rapid.Just(int64(0)), rapid.Int64Range(1000, 1<<40)).Draw(t, "upload"),
					Download: rapid.SampledFrom([]int64{0, 10 << 20, 500_000, 3e9, 1 << 30, 1<<20 + 1}).Draw(t, "download"),
				},
			})
		}
		for range rapid.IntRange(0, 4).Draw(t, "sources") {
			draft.Sources = append(draft.Sources, "/srv/"+word.Draw(t, "source"))
		}
		var out bytes.Buffer
		if err := config.Write(&out, draft); err != nil {
			t.Fatal(err)
		}
		c, err := config.Parse("/etc/embassy.yaml", out.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		if c.Nation != draft.Nation || c.StateDir != filepath.Clean(draft.StateDir) || c.Kit != filepath.Clean(draft.Kit) {
			t.Fatalf("%q %q %q from %+v", c.Nation, c.StateDir, c.Kit, draft)
		}
		want := draft.Targets
		for i := range want {
			want[i].URL = "dir:" + filepath.Clean(strings.TrimPrefix(want[i].URL, "dir:"))
		}
		if diff := cmp.Diff(want, c.Targets); diff != "" {
			t.Fatal(diff)
		}
		for i, ranked := range policy.Order(c.Compartments[0].PACE) {
			if ranked.Target != draft.Targets[i].Name || ranked.Tier != policy.Tier(min(i, 3)) {
				t.Fatalf("target %d is %v", i, ranked)
			}
		}
		if len(c.Datasets) != len(draft.Sources) {
			t.Fatalf("%d datasets of %d sources", len(c.Datasets), len(draft.Sources))
		}
		for i, d := range c.Datasets {
			if d.Sources[0] != filepath.Clean(draft.Sources[i]) || d.Priority != i+1 {
				t.Fatalf("%+v from %q", d, draft.Sources[i])
			}
		}
	})
}
