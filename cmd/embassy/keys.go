package main

import "github.com/urfave/cli/v2"

func keysCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:        "keys",
		Usage:       "look after the nation's keys",
		Subcommands: []*cli.Command{keysRotateCommand(con), keysExportReaderCommand(con), keysPartnerKeyCommand(con)},
	}
}
