package main

import (
	"context"
	"slices"

	"embassy/crypto"
	"embassy/embassy"
	"embassy/embassy/format"
)

// ledgersLost says what is left to do when there is a charter and no snapshot.
func (r *rescue) ledgersLost(view *embassy.View) string {
	if r.bare || len(view.Snapshots("")) > 0 {
		return ""
	}
	return "; if the ledgers are lost, --without-charter restores from packs and snapshots alone"
}

// openBare opens what packs and snapshots alone give, and says what that is
// worth. It returns the members that are of use.
func (r *rescue) openBare(ctx context.Context, members []*embassy.Member, nation format.ID, root *crypto.Root, charter *format.Charter, hints format.Hints) (*embassy.View, *embassy.Keys, []*embassy.Member, error) {
	r.say("Going on without the charter and the ledgers. Every byte is still opened with the nation's keys and checked, but nobody vouches")
	r.say("for which agent wrote what, or when: snapshots of revoked agents count like any other, and older snapshots may be shown as the newest.")
	if charter != nil {
		r.say("warning: charter %d, of %s, was found and is not used: leave out --without-charter unless the ledgers are lost", charter.Seq, r.age(charter.When()))
	}
	_, members = embassy.Witnesses(ctx, members, nation, r.warn)
	view, keys, err := embassy.OpenBareView(ctx, embassy.ViewOptions{
		Members: members, Warn: r.warn, Progress: r.progress(), Now: r.now,
	}, nation, root)
	if err != nil {
		return nil, nil, nil, err
	}
	all := view.Snapshots("")
	if len(all) > 0 {
		r.say("The newest snapshot found is of %s, by the clock of whoever made it.", r.age(all[0].Summary.When()))
	}
	if hints.Time != 0 {
		r.say("What the kit knows is of %s.", r.age(hints.When()))
	}
	for _, d := range ordered(keys) {
		r.tellAuthors(view.Snapshots(d.Name))
	}
	return view, keys, members, nil
}

// tellAuthors warns of a dataset whose snapshots are not all of one agent: only
// the charter says who may write it.
func (r *rescue) tellAuthors(snapshots []embassy.SnapshotInfo) {
	var agents []format.ID
	var compartments []string
	for _, s := range snapshots {
		if !slices.Contains(agents, s.Agent) {
			agents = append(agents, s.Agent)
		}
		if !slices.Contains(compartments, s.Compartment) {
			compartments = append(compartments, s.Compartment)
		}
	}
	if len(agents) > 1 || len(compartments) > 1 {
		r.say("warning: snapshots of dataset %s are of %s in %s; the newest is of agent %.8s in compartment %.8s. If that one was captured, name a time before with --at",
			snapshots[0].Summary.Dataset, plural(uint64(len(agents)), "agent"), plural(uint64(len(compartments)), "compartment"), agents[0], compartments[0])
	}
}
