package policy_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"embassy/embassy/policy"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestTierString(t *testing.T) {
	for tier, want := range map[policy.Tier]string{
		policy.Primary: "primary", policy.Alternate: "alternate",
		policy.Contingency: "contingency", policy.Emergency: "emergency",
		-1: "tier(-1)", 4: "tier(4)",
	} {
		if got := tier.String(); got != want {
			t.Errorf("tier %d: %q, want %q", int(tier), got, want)
		}
	}
}

func TestOrder(t *testing.T) {
	got := policy.Order(policy.PACE{
		Primary:     []string{"tallinn", "tartu"},
		Contingency: []string{"helsinki", "tartu"},
		Emergency:   []string{"vault"},
	})
	want := []policy.Ranked{
		{Target: "tallinn", Tier: policy.Primary},
		{Target: "tartu", Tier: policy.Primary},
		{Target: "helsinki", Tier: policy.Contingency},
		{Target: "vault", Tier: policy.Emergency},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got := policy.Order(policy.PACE{}); len(got) != 0 {
		t.Errorf("empty plan: %v", got)
	}
}

func TestRuleMissing(t *testing.T) {
	rule := policy.Rule{Targets: 3, Jurisdictions: 2, Guarded: 1}
	ee := policy.Copy{Target: "tallinn", Jurisdiction: "EE"}
	eeToo := policy.Copy{Target: "tartu", Jurisdiction: "EE"}
	lu := policy.Copy{Target: "luxembourg", Jurisdiction: "LU", Guarded: true}
	unknown := policy.Copy{Target: "vault"}
	unknownToo := policy.Copy{Target: "tape"}
	for _, test := range []struct {
		name   string
		rule   policy.Rule
		copies []policy.Copy
		want   []string
	}{
		{"no copy", rule, nil, []string{"3 more targets", "2 more jurisdictions", "1 more guarded target"}},
		{"one unguarded copy", rule, []policy.Copy{ee}, []string{"2 more targets", "1 more jurisdiction", "1 more guarded target"}},
		{"same jurisdiction", rule, []policy.Copy{ee, eeToo, eeToo}, []string{"1 more target", "1 more jurisdiction", "1 more guarded target"}},
		{"all", rule, []policy.Copy{ee, eeToo, lu}, nil},
		{"unknown is not another jurisdiction", rule, []policy.Copy{lu, unknown, unknownToo}, []string{"1 more jurisdiction"}},
		{"unknown is somewhere", policy.Rule{Targets: 1, Jurisdictions: 1}, []policy.Copy{unknown}, nil},
		{"several guarded missing", policy.Rule{Guarded: 2}, []policy.Copy{ee}, []string{"2 more guarded targets"}},
		{"zero rule", policy.Rule{}, nil, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, test.rule.Missing(test.copies)); diff != "" {
				t.Error(diff)
			}
			if got, want := test.rule.CanHold(test.copies), len(test.want) == 0; got != want {
				t.Errorf("CanHold %t, want %t", got, want)
			}
		})
	}
}

func TestDefaultRule(t *testing.T) {
	at := func(jurisdictions ...string) (copies []policy.Copy) {
		for i, j := range jurisdictions {
			copies = append(copies, policy.Copy{Target: fmt.Sprint(i), Jurisdiction: j})
		}
		return copies
	}
	for _, test := range []struct {
		copies []policy.Copy
		want   policy.Rule
	}{
		{nil, policy.Rule{Targets: 1, Jurisdictions: 1}},
		{at("EE"), policy.Rule{Targets: 1, Jurisdictions: 1}},
		{at("EE", "EE", "EE"), policy.Rule{Targets: 2, Jurisdictions: 1}},
		{at("", ""), policy.Rule{Targets: 2, Jurisdictions: 1}},
		{at("EE", "LU", "FI"), policy.Rule{Targets: 2, Jurisdictions: 2}},
	} {
		if got := policy.DefaultRule(test.copies); got != test.want {
			t.Errorf("%v: %+v, want %+v", test.copies, got, test.want)
		}
	}
}

func genCopies(t *rapid.T, label string) []policy.Copy {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) policy.Copy {
		return policy.Copy{
			Target:       rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "target"),
			Jurisdiction: rapid.SampledFrom([]string{"", "EE", "LU", "FI"}).Draw(t, "jurisdiction"),
			Guarded:      rapid.Bool().Draw(t, "guarded"),
		}
	}), 0, 8).Draw(t, label)
}

func TestRuleProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rule := policy.Rule{
			Targets:       rapid.IntRange(0, 4).Draw(t, "targets"),
			Jurisdictions: rapid.IntRange(0, 4).Draw(t, "jurisdictions"),
			Guarded:       rapid.IntRange(0, 4).Draw(t, "guarded"),
		}
		copies, more := genCopies(t, "copies"), genCopies(t, "more")
		missing := rule.Missing(copies)

		if diff := cmp.Diff(missing, rule.Missing(append(slices.Clone(copies), copies...))); diff != "" {
			t.Fatalf("repeating the copies changed the answer: %s", diff)
		}
		reversed := slices.Clone(copies)
		slices.Reverse(reversed)
		if diff := cmp.Diff(missing, rule.Missing(reversed)); diff != "" {
			t.Fatalf("the order of the copies changed the answer: %s", diff)
		}
		if len(missing) == 0 && !rule.CanHold(append(slices.Clone(copies), more...)) {
			t.Fatal("more copies broke a rule that held")
		}
		distinct := make(map[string]bool)
		for _, c := range copies {
			distinct[c.Target] = true
		}
		lacksTarget := len(missing) > 0 && strings.Contains(missing[0], "target") && !strings.Contains(missing[0], "guarded")
		if lacksTarget != (len(distinct) < rule.Targets) {
			t.Fatalf("%d targets for %+v: %v", len(distinct), rule, missing)
		}
		if len(copies) > 0 && !policy.DefaultRule(copies).CanHold(copies) {
			t.Fatal("the default rule cannot hold")
		}
	})
}

func TestOrderProperties(t *testing.T) {
	names := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f"}), 0, 5)
	rapid.Check(t, func(t *rapid.T) {
		pace := policy.PACE{
			Primary: names.Draw(t, "p"), Alternate: names.Draw(t, "a"),
			Contingency: names.Draw(t, "c"), Emergency: names.Draw(t, "e"),
		}
		order := policy.Order(pace)
		seen := make(map[string]bool)
		last := policy.Primary
		for _, r := range order {
			if seen[r.Target] || r.Tier < last || !slices.Contains(pace.Tiers()[r.Tier], r.Target) {
				t.Fatalf("%+v orders as %v", pace, order)
			}
			for better := range r.Tier {
				if slices.Contains(pace.Tiers()[better], r.Target) {
					t.Fatalf("%s has a better tier than %s", r.Target, r.Tier)
				}
			}
			seen[r.Target], last = true, r.Tier
		}
		for _, tier := range pace.Tiers() {
			for _, name := range tier {
				if !seen[name] {
					t.Fatalf("%s is lost", name)
				}
			}
		}
	})
}

func TestExitCode(t *testing.T) {
	for _, test := range []struct {
		codes []int
		want  int
	}{
		{nil, 0},
		{[]int{0, 0}, 0},
		{[]int{0, 3}, 3},
		{[]int{3, 4}, 4},
		{[]int{4, 1, 3}, 1},
		{[]int{1, 6, 4}, 6},
		{[]int{6, 5, 1}, 5},
		{[]int{5, 2}, 2},
		{[]int{2, 130, 5}, 130},
		{[]int{3, 77}, 1},
		{[]int{-1}, 1},
	} {
		if got := policy.ExitCode(test.codes...); got != test.want {
			t.Errorf("%v: %d, want %d", test.codes, got, test.want)
		}
	}
}

func TestExitCodeProperties(t *testing.T) {
	codes := rapid.SliceOf(rapid.SampledFrom([]int{0, 1, 2, 3, 4, 5, 6, 130}))
	rapid.Check(t, func(t *rapid.T) {
		a, b := codes.Draw(t, "a"), codes.Draw(t, "b")
		all := append(slices.Clone(a), b...)
		whole := policy.ExitCode(all...)
		if parts := policy.ExitCode(policy.ExitCode(b...), policy.ExitCode(a...)); parts != whole {
			t.Fatalf("in parts %d, at once %d", parts, whole)
		}
		if len(all) > 0 && !slices.Contains(all, whole) {
			t.Fatalf("%d is none of %v", whole, all)
		}
	})
}
