// Package policy holds the rules that decide how many copies are enough, in
// which order targets are read, and how a run ends.
//
// Every function is pure: same arguments, same answer, no I/O, no clock. It
// imports nothing of the project and knows neither keys nor targets, only
// their names and what was declared about them.
package policy

import (
	"fmt"
	"slices"
)

// Tier is a rank of the PACE plan. Lower is better.
type Tier int

const (
	Primary Tier = iota
	Alternate
	Contingency
	Emergency
)

// String returns the name of the tier as the configuration writes it.
func (t Tier) String() string {
	names := [...]string{"primary", "alternate", "contingency", "emergency"}
	if t < Primary || t > Emergency {
		return fmt.Sprintf("tier(%d)", int(t))
	}
	return names[t]
}

// PACE names the targets of a compartment by tier. Within a tier they are
// equals, in the order of the configuration.
type PACE struct {
	Primary, Alternate, Contingency, Emergency []string
}

// Tiers returns the target names of each tier; the index is the Tier. The
// inner slices are those of p.
func (p PACE) Tiers() [4][]string {
	return [4][]string{p.Primary, p.Alternate, p.Contingency, p.Emergency}
}

// Ranked is a target with its tier.
type Ranked struct {
	Target string
	Tier   Tier
}

// Order lists the targets of the plan, best tier first, and in the order of
// the plan within a tier. A target named twice keeps its best tier.
func Order(p PACE) []Ranked {
	var order []Ranked
	seen := make(map[string]bool)
	for tier, names := range p.Tiers() {
		for _, name := range names {
			if !seen[name] {
				seen[name] = true
				order = append(order, Ranked{Target: name, Tier: Tier(tier)})
			}
		}
	}
	return order
}

// Rule says how many confirmed copies a snapshot needs before it is committed.
// The three counts are independent, and all must be reached. The zero Rule
// asks for nothing.
type Rule struct {
	Targets       int // different targets
	Jurisdictions int // different jurisdictions of those targets
	Guarded       int // targets on which an agent cannot destroy what it wrote
}

// Copy is one confirmed copy. An empty Jurisdiction is unknown: it stands
// somewhere, but is never taken to be different from another one.
type Copy struct {
	Target       string
	Jurisdiction string
	Guarded      bool
}

// Missing says in phrases for a person what the rule still lacks, such as
// "1 more jurisdiction". It is empty when the rule holds. Several copies on
// one target count once, and as guarded if any of them is.
func (r Rule) Missing(copies []Copy) []string {
	have := count(copies)
	var missing []string
	lack := func(want, have int, one, many string) {
		switch n := want - have; {
		case n == 1:
			missing = append(missing, "1 more "+one)
		case n > 1:
			missing = append(missing, fmt.Sprintf("%d more %s", n, many))
		}
	}
	lack(r.Targets, have.Targets, "target", "targets")
	lack(r.Jurisdictions, have.Jurisdictions, "jurisdiction", "jurisdictions")
	lack(r.Guarded, have.Guarded, "guarded target", "guarded targets")
	return missing
}

// CanHold reports whether the rule would hold if every one of these copies
// were made. A copy that might turn out to be guarded is passed as guarded.
func (r Rule) CanHold(possible []Copy) bool { return len(r.Missing(possible)) == 0 }

// DefaultRule is the rule of a compartment that states none, over the copies
// it could have: two targets in two jurisdictions, as far as there are two.
func DefaultRule(possible []Copy) Rule {
	have := count(possible)
	return Rule{
		Targets:       max(1, min(2, have.Targets)),
		Jurisdictions: max(1, min(2, have.Jurisdictions)),
	}
}

// count returns the strictest rule that the copies satisfy.
func count(copies []Copy) Rule {
	targets, guarded := make(map[string]bool), make(map[string]bool)
	jurisdictions := make(map[string]bool)
	for _, c := range copies {
		targets[c.Target] = true
		if c.Guarded {
			guarded[c.Target] = true
		}
		if c.Jurisdiction != "" {
			jurisdictions[c.Jurisdiction] = true
		}
	}
	have := Rule{Targets: len(targets), Jurisdictions: len(jurisdictions), Guarded: len(guarded)}
	if have.Targets > 0 {
		have.Jurisdictions = max(1, have.Jurisdictions)
	}
	return have
}

// ExitCode combines the exit codes of several parts of a run into one: the
// gravest wins. 130 (interrupted) and 2 (usage) outrank all, because they end
// the run; then 5, 6, 1, 4 and 3; 0 only when every code is 0. A code that is
// none of these counts as 1.
func ExitCode(codes ...int) int {
	gravity := []int{130, 2, 5, 6, 1, 4, 3, 0}
	worst := len(gravity) - 1
	for _, code := range codes {
		rank := slices.Index(gravity, code)
		if rank < 0 {
			rank = slices.Index(gravity, 1)
		}
		worst = min(worst, rank)
	}
	return gravity[worst]
}
