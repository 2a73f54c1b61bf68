package main

import (
	"context"
	"fmt"
	"runtime"

	"embassy/embassy/format"

	"github.com/urfave/cli/v2"
)

func versionCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:  "version",
		Usage: "print the versions of the program and of the format it writes",
		Action: action(con, func(c *cli.Context) (struct{}, error) {
			return struct{}{}, noArguments(c)
		}, runVersion),
	}
}

func runVersion(_ context.Context, _ struct{}, con *console) error {
	if con.json {
		return printJSON(con.stdout, struct {
			schema
			Program string `json:"program"`
			Format  int    `json:"format"`
			Go      string `json:"go"`
		}{schemaV1, version, format.Version, runtime.Version()})
	}
	_, err := fmt.Fprintf(con.stdout, "embassy %s, format %d, %s\n", version, format.Version, runtime.Version())
	return err
}
