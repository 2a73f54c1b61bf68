package embassy

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"embassy/embassy/config"
	"embassy/embassy/format"
	"embassy/embassy/policy"
)

// ForgetOptions say what to forget.
type ForgetOptions struct {
	Datasets []string          // none: all that this machine is the steward of
	Keep     *policy.Retention // but for MinAge; nil: what the configuration says of each
	MinAge   *time.Duration    // nil: what the configuration says of each
	DryRun   bool
}

// Judged is a snapshot with the reasons that keep it.
type Judged struct {
	SnapshotInfo
	Keep []string // none: it is forgotten
}

// ForgetReport is the outcome of a Forget.
type ForgetReport struct {
	Started   time.Time
	Elapsed   time.Duration
	Snapshots []Judged // by dataset and agent, newest first
	DryRun    bool
	Forgotten int
	Exit      int // 4: the orders are on fewer targets than the commit rule wants; else 0
}

// series is what one agent wrote of one dataset.
type series struct {
	dataset string
	agent   format.ID
}

// Forget retires the snapshots that no rule keeps: nobody lists or restores them
// any more. Their data stay until Prune has run twice.
func (s *Service) Forget(ctx context.Context, o ForgetOptions) (ForgetReport, error) {
	rep := ForgetReport{Started: s.now(), DryRun: o.DryRun}
	err := s.stewarding(ctx, nil, func(all []*stewardship) error {
		for _, name := range o.Datasets { // before anything is forgotten
			if !slices.ContainsFunc(all, func(st *stewardship) bool { return st.rules(name) }) {
				return foreign(name, all)
			}
		}
		for _, st := range all {
			safe, err := st.forget(ctx, o, &rep)
			if err != nil {
				return fmt.Errorf("compartment %s: %w", st.comp.Part.Name, err)
			}
			if !safe {
				rep.Exit = exitDegraded
			}
		}
		return nil
	})
	if err != nil {
		return rep, err
	}
	rep.Elapsed = s.now().Sub(rep.Started)
	if o.DryRun {
		return rep, nil
	}
	return rep, s.catalog.AddRun(Run{Kind: "forget", Started: rep.Started, Ended: s.now(), Exit: rep.Exit, Note: fmt.Sprintf("%d snapshots forgotten", rep.Forgotten)})
}

// rules reports whether a dataset is in the compartment.
func (st *stewardship) rules(dataset string) bool {
	return slices.ContainsFunc(st.comp.Part.Datasets, func(d format.Dataset) bool { return d.Name == dataset })
}

// foreign is the error about a dataset that is in no compartment of the steward.
func foreign(dataset string, all []*stewardship) error {
	var known []string
	for _, st := range all {
		for _, d := range st.comp.Part.Datasets {
			known = append(known, d.Name)
		}
	}
	return fmt.Errorf("dataset %q: %w, in no compartment that this machine is the steward of; there are %s",
		dataset, ErrUnknownName, cmp.Or(strings.Join(known, ", "), "none"))
}

func (st *stewardship) forget(ctx context.Context, o ForgetOptions, rep *ForgetReport) (safe bool, err error) {
	v, c, err := st.view(ctx, ViewOptions{})
	if err == nil {
		err = st.onlyStewards(c)
	}
	if err != nil {
		return false, err
	}
	found := map[series][]SnapshotInfo{} // newest first, as the View has them
	var order []series
	for _, info := range v.snapshots {
		key := series{info.Summary.Dataset, info.Agent}
		if len(o.Datasets) > 0 && !slices.Contains(o.Datasets, key.dataset) {
			continue
		}
		if found[key] == nil {
			order = append(order, key)
		}
		found[key] = append(found[key], info)
	}
	slices.SortFunc(order, func(a, b series) int {
		if c := strings.Compare(a.dataset, b.dataset); c != 0 {
			return c
		}
		return slices.Compare(a.agent[:], b.agent[:])
	})
	gone := map[format.OrderedKey][]format.Hash{}
	for _, key := range order {
		for i, why := range policy.Retain(retained(found[key]), o.rule(st.s.retention(key.dataset)), st.s.now()) {
			info := found[key][i]
			rep.Snapshots = append(rep.Snapshots, Judged{info, why})
			if len(why) == 0 {
				rep.Forgotten++
				folder := format.OrderedKey{Agent: info.Agent, Kind: format.KindSnapshot}
				gone[folder] = append(gone[folder], info.Hash)
			}
		}
	}
	if o.DryRun || len(gone) == 0 {
		return true, nil
	}
	orders, err := st.orders(format.OrderRetire, gone)
	if err != nil {
		return false, err
	}
	return st.order(ctx, st.newest(v, c), orders...)
}

// newest returns the entries that commit the newest snapshot of every series,
// which every rule keeps, but for those of the own chain: whoever sees the order
// sees them.
func (st *stewardship) newest(v *View, c *compartmentView) (heads []format.Head) {
	seen := map[series]bool{}
	for _, info := range v.snapshots {
		key := series{info.Summary.Dataset, info.Agent}
		if seen[key] {
			continue
		}
		seen[key] = true
		for _, e := range c.chains[chainKey{info.Agent, info.Chain}].entries[info.Seq] {
			h := format.Head{Chain: info.Chain, Seq: info.Seq, Hash: e.hash}
			if slices.Contains(e.Snapshots, info.Hash) && info.Chain != st.l.chain.id() && !slices.Contains(heads, h) {
				heads = append(heads, h)
				break
			}
		}
	}
	return heads
}

// rule is the retention of a dataset of which the configuration says this.
func (o ForgetOptions) rule(configured policy.Retention) policy.Retention {
	r := configured
	if o.Keep != nil {
		r = *o.Keep
		r.MinAge = configured.MinAge
	}
	if o.MinAge != nil {
		r.MinAge = *o.MinAge
	}
	return r
}

// retention is what the configuration says of a dataset; of one that it does not
// name, all are kept.
func (s *Service) retention(dataset string) policy.Retention {
	for _, d := range s.site.Datasets {
		if d.Name == dataset {
			return d.Retention
		}
	}
	return policy.Retention{MinAge: config.DefaultMinAge}
}

// retained is a series as policy.Retain sees it.
func retained(series []SnapshotInfo) []policy.Kept {
	out := make([]policy.Kept, len(series))
	for i, s := range series {
		out[i] = policy.Kept{
			Time: s.placed(), Since: s.since, Whole: s.Summary.Errors == 0, Pinned: s.Pinned, Held: s.Held, Doubt: s.Doubt,
		}
	}
	return out
}

// Pin says that a snapshot, given by the start of its id, is not to be
// forgotten; pinned false says that it may be again. It does nothing when that
// is so already.
func (s *Service) Pin(ctx context.Context, id string, pinned bool) (info SnapshotInfo, err error) {
	err = s.stewarding(ctx, nil, func(all []*stewardship) error {
		var at *stewardship
		for _, st := range all {
			v, _, err := st.view(ctx, ViewOptions{})
			if err != nil {
				return fmt.Errorf("compartment %s: %w", st.comp.Part.Name, err)
			}
			for _, one := range v.snapshots {
				if !strings.HasPrefix(one.Hash.String(), strings.ToLower(id)) {
					continue
				}
				if at != nil {
					return fmt.Errorf("snapshot %q: %w: give more of its id", id, ErrAmbiguous)
				}
				info, at = one, st
			}
		}
		if at == nil {
			return fmt.Errorf("snapshot %q: %w in a compartment that this machine is the steward of", id, ErrNoSnapshot)
		}
		if info.Pinned == pinned {
			return nil
		}
		kind := format.OrderPin
		if !pinned {
			kind = format.OrderUnpin
		}
		info.Pinned = pinned
		orders, err := at.orders(kind, map[format.OrderedKey][]format.Hash{{Agent: info.Agent, Kind: format.KindSnapshot}: {info.Hash}})
		if err != nil {
			return err
		}
		return at.mustOrder(ctx, orders)
	})
	return info, err
}

// Hold says that no snapshot of a dataset is to be forgotten, as a court may
// order; held false says that they may be again. It does nothing when that is
// so already.
func (s *Service) Hold(ctx context.Context, dataset string, held bool) error {
	return s.stewarding(ctx, nil, func(all []*stewardship) error {
		for _, st := range all {
			if !st.rules(dataset) {
				continue
			}
			_, c, err := st.view(ctx, ViewOptions{})
			if err != nil || c.held(dataset) == held {
				return err
			}
			var orders []filing
			for _, w := range st.comp.Writers { // released under every name that it may be held under
				if held && w.Epoch != st.comp.Current().Epoch {
					continue
				}
				name := w.DatasetName(dataset)
				o := format.Order{Nation: st.keys.Charter.Nation, Compartment: st.comp.ID, Kind: format.OrderRelease, Dataset: name[:]}
				if held {
					o.Kind = format.OrderHold
				}
				filed, err := fileOrders(o, nil)
				if err != nil {
					return err
				}
				orders = append(orders, filed...)
			}
			return st.mustOrder(ctx, orders)
		}
		return foreign(dataset, all)
	})
}

// mustOrder is order for what people rely on.
func (st *stewardship) mustOrder(ctx context.Context, orders []filing) error {
	safe, err := st.order(ctx, nil, orders...)
	if err == nil && !safe {
		err = fmt.Errorf("the order is signed and on this machine, but on fewer targets than the commit rule wants: the next run brings it to the others")
	}
	return err
}
