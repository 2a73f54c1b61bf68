package main

import (
	"context"
	"errors"
	"fmt"

	"embassy/crypto"
	"embassy/embassy"

	"github.com/urfave/cli/v2"
)

func charterCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:  "charter",
		Usage: "look after the nation's charter",
		Subcommands: []*cli.Command{
			{
				Name:  "apply",
				Usage: "sign what the configuration adds: compartments, datasets, this agent",
				Flags: rootFlags(),
				Action: action(con, func(c *cli.Context) (reader, error) {
					return decodeReader(c), noArguments(c)
				}, runCharterApply),
			},
			charterShowCommand(con), charterHistoryCommand(con), charterVerifyCommand(con),
			charterAdministratorsCommand(con), charterSignCommand(con), charterPublishCommand(con),
			charterGrantCommand(con), charterRevokeGrantCommand(con),
		},
	}
}

func runCharterApply(ctx context.Context, r reader, con *console) error {
	return con.amending(ctx, r, func(service *embassy.Service, root *crypto.Root) (embassy.CharterReport, error) {
		return service.ApplyCharter(ctx, root)
	})
}

// amending lends the root to what signs a charter on an agent's machine, and
// prints what that changed.
func (con *console) amending(ctx context.Context, r reader, sign func(*embassy.Service, *crypto.Root) (embassy.CharterReport, error)) error {
	return con.serving(func(s *site, service *embassy.Service) error {
		if _, err := embassy.OpenState(s.config.StateDir); err != nil {
			return err
		}
		root, _, err := s.openKit(ctx, con, r)
		if err != nil {
			return err
		}
		defer root.Wipe()
		report, err := sign(service, root)
		if err != nil {
			return err
		}
		s.screen.close()
		return printCharterReport(con, report)
	})
}

// printCharterReport tells what a charter added, and which targets have it.
func printCharterReport(con *console, report embassy.CharterReport) error {
	if con.json {
		if err := printJSON(con.stdout, struct {
			schema
			Seq     uint64         `json:"charter"`
			Added   []string       `json:"added"`
			Targets []targetResult `json:"targets"`
		}{schemaV1, report.Seq, append([]string{}, report.Added...), results(report.Targets)}); err != nil {
			return err
		}
		return charterPublished(report.Targets)
	}
	w := table(con.stdout)
	if len(report.Added) == 0 {
		fmt.Fprintf(con.stdout, "Charter %d says it all already.\n\n", report.Seq)
	} else {
		fmt.Fprintf(con.stdout, "Charter %d is signed.\n\n", report.Seq)
	}
	for _, line := range report.Added {
		fmt.Fprintf(w, "new\t%s\n", printable(line))
	}
	printResults(w, report.Targets)
	if err := w.Flush(); err != nil {
		return err
	}
	return charterPublished(report.Targets)
}

// charterPublished is published of a charter that this machine keeps: to sign
// another one would not be the same.
func charterPublished(list []embassy.TargetResult) error {
	if published(list) == nil {
		return nil
	}
	return errors.New("no target has the charter, which this machine keeps: embassy target list says what is wrong with them; then embassy charter apply, or the next embassy backup here, brings it to them: do not sign it again")
}
