package main

import (
	"errors"
	"io/fs"
	"os"

	"embassy/crypto"
	"embassy/embassy/config"

	"github.com/urfave/cli/v2"
)

func keysCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:  "keys",
		Usage: "look after the root and the nation's keys",
		Description: "The root opens everything. A recovery kit is the root under a passphrase: one person can use it. Shares\n" +
			"are the root among custodians: a quorum of them can use it, and fewer know nothing.",
		Subcommands: []*cli.Command{keysAdminCommand(con), keysSplitCommand(con), keysCombineCommand(con), keysCheckCommand(con), keysReshareCommand(con),
			keysRotateCommand(con), keysExportReaderCommand(con), keysPartnerKeyCommand(con)},
	}
}

// keysSite is the site of a command that needs the root and no target. It may
// run on a machine without a configuration. The caller closes it.
func (con *console) keysSite() (*site, error) {
	if _, err := os.Stat(con.config); !errors.Is(err, fs.ErrNotExist) {
		return con.openSite()
	}
	s := &site{config: &config.Config{}, screen: newScreen(con, nil)}
	s.log = s.screen.logger(con.level)
	return s, nil
}

// checkCeremony refuses numbers of custodians that make no sense.
func checkCeremony(c *cli.Context, custodians, quorum int) error {
	if !c.IsSet("custodians") || !c.IsSet("quorum") {
		return usage("say how many custodians there are and how many of them are needed: --custodians 5 --quorum 3")
	}
	if err := crypto.CheckQuorum(quorum, custodians); err != nil {
		return usage("--custodians %d --quorum %d: %s", custodians, quorum, err)
	}
	return nil
}
