package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"embassy/cmd/internal/open"
	"embassy/embassy"
	"embassy/embassy/format"
	"embassy/embassy/policy"
	"embassy/targets"

	"github.com/urfave/cli/v2"
)

// probeFor is how long target list waits for a target.
const probeFor = 5 * time.Second

func targetCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:  "target",
		Usage: "look after the targets",
		Subcommands: []*cli.Command{{
			Name:  "list",
			Usage: "list the targets and ask each whether it answers",
			Action: action(con, func(c *cli.Context) (struct{}, error) {
				return struct{}{}, noArguments(c)
			}, runTargetList),
		}},
	}
}

// targetAnswer is one line of target list.
type targetAnswer struct {
	Name         string   `json:"name"`
	URL          string   `json:"url"`
	Jurisdiction string   `json:"jurisdiction,omitempty"`
	Tiers        []string `json:"tiers"` // compartment/tier
	Reachable    bool     `json:"reachable"`
	Milliseconds int64    `json:"milliseconds"`
	Error        string   `json:"error,omitempty"`
	Hint         string   `json:"hint,omitempty"`
}

func runTargetList(ctx context.Context, _ struct{}, con *console) (err error) {
	s, err := con.openSite()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	prefix := ""
	switch state, err := embassy.OpenState(s.config.StateDir); {
	case err == nil: // credentials may be good for the nation's part only
		prefix = format.CharterPrefix(state.Nation())
	case !errors.Is(err, embassy.ErrNoState):
		return err
	}
	answers := make([]targetAnswer, len(s.members))
	var wg sync.WaitGroup
	for i, m := range s.members {
		wg.Go(func() { answers[i] = ask(ctx, m, prefix) })
	}
	wg.Wait()
	if err := ctx.Err(); err != nil {
		return err
	}
	for i := range answers {
		answers[i].Tiers = s.tiersOf(answers[i].Name)
	}
	if con.json {
		return printJSON(con.stdout, struct {
			schema
			Targets []targetAnswer `json:"targets"`
		}{schemaV1, answers})
	}
	w := table(con.stdout)
	fmt.Fprintln(w, "TARGET\tANSWERS\tTIER\tJURISDICTION\tURL")
	for _, a := range answers {
		state := fmt.Sprintf("in %d ms", a.Milliseconds)
		if !a.Reachable {
			state = "no"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", a.Name, state, dash(strings.Join(a.Tiers, ", ")), dash(a.Jurisdiction), a.URL)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, a := range answers {
		if !a.Reachable {
			fmt.Fprintf(con.stderr, "target %s: %s; %s\n", a.Name, a.Error, a.Hint)
		}
	}
	return nil
}

// tiersOf lists the compartments that use a target, with its tier in them.
func (s *site) tiersOf(target string) []string {
	tiers := []string{}
	for _, c := range s.config.Compartments {
		for _, r := range policy.Order(c.PACE) {
			if r.Target == target {
				tiers = append(tiers, c.Name+"/"+r.Tier.String())
			}
		}
	}
	return tiers
}

// ask lists the start of a target.
func ask(ctx context.Context, m *embassy.Member, prefix string) targetAnswer {
	a := targetAnswer{Name: m.Name, URL: m.URL, Jurisdiction: m.Jurisdiction}
	err := m.Down()
	if m.Target != nil {
		ctx, cancel := context.WithTimeout(ctx, probeFor)
		defer cancel()
		start := time.Now()
		for _, err = range m.Target.List(ctx, prefix) {
			break
		}
		a.Milliseconds = time.Since(start).Milliseconds()
	}
	a.Reachable = err == nil
	if err != nil {
		a.Error, a.Hint = oneLine(err), hint(err)
	}
	return a
}

// hint says what to do about a target that does not answer as it should.
func hint(err error) string {
	if do := remedy(err); do != "" {
		return do
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return "it stayed silent for " + length(probeFor) + ": check the network on the way to it"
	}
	return "check its settings, and whether it is up"
}

// remedy says what to do about a fault that has one; else it is empty.
func remedy(err error) string {
	switch {
	case errors.Is(err, targets.ErrNoStore):
		return "make the bucket or directory, mount its disk, or correct the url"
	case errors.Is(err, targets.ErrDenied):
		return "check its credentials and what they may do"
	case errors.Is(err, open.ErrNoCredentials):
		return "put the keys there, or correct the credentials of the target"
	}
	return ""
}
