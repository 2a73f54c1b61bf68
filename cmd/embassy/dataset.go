package main

import (
	"context"
	"fmt"

	"embassy/embassy"

	"github.com/urfave/cli/v2"
)

type holdOptions struct {
	dataset, reason string
	held            bool
}

func datasetCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:  "dataset",
		Usage: "put a dataset under a hold, so that none of its snapshots is forgotten",
		Subcommands: []*cli.Command{
			holdCommand(con, "hold", "keep every snapshot of a dataset until it is released, whatever its retention says", true),
			holdCommand(con, "release", "let embassy forget judge the snapshots of a dataset again", false),
		},
	}
}

func holdCommand(con *console, name, text string, held bool) *cli.Command {
	return &cli.Command{
		Name: name, Usage: text, ArgsUsage: "DATASET",
		Description: "For an investigation, or a court. It holds for what every agent backs up of the dataset, from then on, on every\n" +
			"machine. Only the steward of its compartment may do this; no passphrase is needed. The reason goes into the\n" +
			"audit log.",
		Flags: []cli.Flag{reasonFlag()},
		Action: action(con, func(c *cli.Context) (holdOptions, error) {
			if c.NArg() != 1 {
				return holdOptions{}, usage("embassy dataset %s takes the name of one dataset", name)
			}
			return holdOptions{c.Args().First(), c.String("reason"), held}, nil
		}, runHold),
	}
}

func reasonFlag() cli.Flag {
	return &cli.StringFlag{Name: "reason", Usage: "`TEXT` that says why, for those who read the audit log"}
}

func runHold(ctx context.Context, o holdOptions, con *console) error {
	did, state := embassy.DidHold, "on hold: none of its snapshots is forgotten"
	if !o.held {
		did, state = embassy.DidRelease, "released: embassy forget judges its snapshots again"
	}
	err := con.using(limits{}, nil, func(s *site, service *embassy.Service) error {
		err := service.Hold(ctx, o.dataset, o.held)
		if err == nil {
			s.record(con, did, "", "dataset", o.dataset, "reason", o.reason)
		}
		return s.brief(err)
	})
	if err != nil {
		return err
	}
	if con.json {
		return printJSON(con.stdout, struct {
			schema
			Dataset string `json:"dataset"`
			Held    bool   `json:"held"`
		}{schemaV1, o.dataset, o.held})
	}
	_, err = fmt.Fprintf(con.stdout, "dataset %s is %s\n", printable(o.dataset), state)
	return err
}
