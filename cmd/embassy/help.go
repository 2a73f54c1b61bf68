package main

import (
	"slices"

	"github.com/urfave/cli/v2"
)

// helpCommand stands in the place of the library's own, which lists no commands
// of a group, and shows the group when one of them is asked for.
func helpCommand(con *console) *cli.Command {
	return &cli.Command{
		Name: "help", Aliases: []string{"h"}, ArgsUsage: "[COMMAND...]",
		Usage: "list all commands, or show what one of them does",
		Action: func(c *cli.Context) error {
			name, commands, words := "embassy", c.App.Commands, c.Args().Slice()
			for _, word := range words {
				i := slices.IndexFunc(commands, func(c *cli.Command) bool { return c.HasName(word) })
				switch {
				case len(commands) == 0:
					return usage("%s has no commands below it, and %q is none", name, word)
				case i < 0:
					return noCommand(name, commands, word)
				}
				name, commands = name+" "+commands[i].Name, commands[i].Subcommands
			}
			other := &console{stdin: con.stdin, stdout: con.stdout, stderr: con.stderr}
			return other.app().RunContext(c.Context, slices.Concat([]string{"embassy"}, words, []string{"--help"}))
		},
	}
}
