package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"embassy/embassy"
	"embassy/embassy/format"
	"embassy/embassy/policy"

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
			Usage: "list the targets and ask each whether it answers; exit code 4 when none does",
			Description: "GUARDED says whether the last target check proved that the credentials of this machine cannot destroy\n" +
				"what was written: yes, no, or unproven when there was none in the last 35 days.",
			Action: action(con, func(c *cli.Context) (struct{}, error) {
				return struct{}{}, noArguments(c)
			}, runTargetList),
		}, targetCheckCommand(con), targetTrustCommand(con)},
	}
}

// targetAnswer is one line of target list.
type targetAnswer struct {
	Name         string   `json:"name"`
	URL          string   `json:"url"`
	Jurisdiction string   `json:"jurisdiction,omitempty"`
	Tiers        []string `json:"tiers"` // compartment/tier
	Guarded      string   `json:"guarded"`
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
	me, err := s.identity()
	if err != nil && !errors.Is(err, embassy.ErrNoState) {
		return err
	}
	guarded, err := s.guarded(me.key.Signer != nil)
	if err != nil {
		return err
	}
	answers := make([]targetAnswer, len(s.members))
	var wg sync.WaitGroup
	for i, m := range s.members {
		wg.Go(func() { answers[i] = ask(ctx, m, me) })
	}
	wg.Wait()
	if err := ctx.Err(); err != nil {
		return err
	}
	code := 4
	for i := range answers {
		answers[i].Tiers = s.tiersOf(answers[i].Name)
		answers[i].Guarded = guarded(answers[i].Name)
		if answers[i].Reachable {
			code = 0
		}
	}
	if con.json {
		if err := printJSON(con.stdout, struct {
			schema
			Targets []targetAnswer `json:"targets"`
		}{schemaV1, answers}); err != nil {
			return err
		}
		return reported(code)
	}
	w := table(con.stdout)
	fmt.Fprintln(w, "TARGET\tANSWERS\tGUARDED\tTIER\tJURISDICTION\tURL")
	for _, a := range answers {
		state := fmt.Sprintf("in %d ms", a.Milliseconds)
		if !a.Reachable {
			state = "no"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", a.Name, state, a.Guarded, dash(strings.Join(a.Tiers, ", ")), dash(a.Jurisdiction), a.URL)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, a := range answers {
		if !a.Reachable {
			text := a.Error
			if a.Hint != "" {
				text += "; " + a.Hint
			}
			con.errorf("target %s: %s", a.Name, text)
		}
	}
	return reported(code)
}

// guarded returns what is known of the guardedness of targets. A catalog that
// cannot be opened is told, and then nothing is known.
func (s *site) guarded(founded bool) (func(target string) string, error) {
	if founded {
		if err := s.openCatalog(); err != nil {
			s.screen.warn(embassy.Finding{Object: "GUARDED", Err: err})
		}
	}
	service, err := s.service()
	if err != nil {
		return nil, err
	}
	return func(target string) string { return guardedText(service.Guarded(target)) }, nil
}

// guardedText is the cell of a table.
func guardedText(a embassy.Answer) string {
	if a == embassy.Unknown {
		return "unproven"
	}
	return string(a)
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

// ask lists the start of what a target holds of the nation; me is zero when
// this machine belongs to none yet.
func ask(ctx context.Context, m *embassy.Member, me identity) targetAnswer {
	a := targetAnswer{Name: m.Name, URL: m.URL, Jurisdiction: m.Jurisdiction}
	err := m.Down()
	if m.Target != nil {
		ctx, cancel := context.WithTimeout(ctx, probeFor)
		defer cancel()
		prefix := ""
		known := me.key.Signer != nil
		if known { // credentials may be good for the nation's part only
			prefix = format.CharterPrefix(me.key.Nation)
		}
		start := time.Now()
		for _, err = range m.Target.List(ctx, prefix) {
			break
		}
		a.Milliseconds = time.Since(start).Milliseconds()
		if err == nil && known {
			err = m.Foreign(ctx, me.key.Nation)
		}
	}
	a.Reachable = err == nil
	if err != nil {
		a.Error, a.Hint = oneLine(err), hint(err)
	}
	return a
}
