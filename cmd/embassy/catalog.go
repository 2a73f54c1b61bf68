package main

import (
	"context"
	"fmt"

	"embassy/embassy"

	"github.com/urfave/cli/v2"
)

func catalogCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:  "catalog",
		Usage: "look after this machine's memory of what lies where",
		Subcommands: []*cli.Command{{
			Name:  "rebuild",
			Usage: "learn the catalog again from the ledgers on one target, or on all",
			Description: "The catalog is a cache: nothing is lost with it, and a damaged one is set aside and learned again by\n" +
				"itself. Rebuild does the same on purpose, from one surviving target if it is named. What no ledger tells\n" +
				"is kept: how far every target had come, faults, and the history of runs.",
			Flags: []cli.Flag{
				&cli.StringFlag{Name: "from", Usage: "learn from this `TARGET` alone"},
			},
			Action: action(con, func(c *cli.Context) (string, error) {
				return c.String("from"), noArguments(c)
			}, runCatalogRebuild),
		}},
	}
}

func runCatalogRebuild(ctx context.Context, from string, con *console) error {
	var rep embassy.RebuildReport
	err := con.using(limits{}, nil, func(_ *site, service *embassy.Service) (err error) {
		rep, err = service.Rebuild(ctx, from)
		return err
	})
	if err != nil {
		return err
	}
	if con.json {
		err = printJSON(con.stdout, struct {
			schema
			From    string  `json:"from,omitempty"`
			Entries uint64  `json:"own_entries"`
			Packs   uint64  `json:"packs"`
			Lost    uint64  `json:"packs_lost"`
			Lines   int     `json:"chains"`
			Seconds float64 `json:"seconds"`
			Exit    int     `json:"exit_code"`
		}{schemaV1, rep.Target, rep.Entries, rep.Packs, rep.Lost, rep.Lines, rep.Elapsed.Seconds(), rep.Exit})
	} else {
		err = printRebuild(con, rep)
	}
	if err != nil {
		return err
	}
	return reported(rep.Exit)
}

func printRebuild(con *console, rep embassy.RebuildReport) error {
	from := "all targets"
	if rep.Target != "" {
		from = "target " + rep.Target
	}
	_, err := fmt.Fprintf(con.stdout, "Learned from %s in %s: %s, %s of this machine's, %s.\n", from, length(rep.Elapsed),
		plural(uint64(rep.Lines), "chain", "chains"), plural(rep.Entries, "entry", "entries"), plural(rep.Packs, "pack", "packs"))
	if err == nil && rep.Lost > 0 {
		_, err = fmt.Fprintf(con.stdout, "The chunks of %s could not be learned: the next backup stores that data again. Try another target.\n",
			plural(rep.Lost, "pack", "packs"))
	}
	return err
}
