package main

import (
	"context"
	"fmt"

	"embassy/embassy"

	"github.com/urfave/cli/v2"
)

type pinOptions struct {
	id, reason string
	pinned     bool
}

func pinCommand(con *console, name, text string, pinned bool) *cli.Command {
	return &cli.Command{
		Name: name, Usage: text, ArgsUsage: "ID",
		Description: "ID is the start of the snapshot's id, as embassy snapshots shows it. Only the steward of its compartment may\n" +
			"do this; no passphrase is needed. A pin holds for every machine from then on. The reason goes into the audit log.",
		Flags: []cli.Flag{reasonFlag()},
		Action: action(con, func(c *cli.Context) (pinOptions, error) {
			if c.NArg() != 1 {
				return pinOptions{}, usage("embassy snapshots %s takes the id of one snapshot", name)
			}
			return pinOptions{c.Args().First(), c.String("reason"), pinned}, nil
		}, runPin),
	}
}

func runPin(ctx context.Context, o pinOptions, con *console) error {
	did, state := embassy.DidPin, "pinned: embassy forget keeps it"
	if !o.pinned {
		did, state = embassy.DidUnpin, "not pinned: embassy forget judges it as any other"
	}
	var info embassy.SnapshotInfo
	err := con.using(limits{}, nil, func(s *site, service *embassy.Service) (err error) {
		if info, err = service.Pin(ctx, o.id, o.pinned); err == nil {
			s.record(con, did, "", "dataset", info.Summary.Dataset, "snapshot", info.Hash.String(), "reason", o.reason)
		}
		return s.brief(err)
	})
	if err != nil {
		return err
	}
	if con.json {
		return printJSON(con.stdout, struct {
			schema
			snapshot
		}{schemaV1, newSnapshot(info)})
	}
	_, err = fmt.Fprintf(con.stdout, "%s: snapshot %s of %s is %s\n",
		info.Summary.Dataset, info.Hash.String()[:8], moment(info.Summary.When()), state)
	return err
}
