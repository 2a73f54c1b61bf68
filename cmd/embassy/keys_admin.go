package main

import (
	"context"
	"fmt"

	"embassy/embassy"

	"github.com/urfave/cli/v2"
)

func keysAdminCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:  "admin",
		Usage: "make an administrator's key",
		Description: "Administrators enrol, suspend and revoke agents without the root. The key file stays with its owner,\n" +
			"on no machine that backs up; the public line goes to who has the root, who names the administrator\n" +
			"with embassy charter administrators --add, after comparing the fingerprint by phone.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "out", Usage: "write the key to `FILE`, which must not exist"},
		},
		Action: action(con, func(c *cli.Context) (string, error) {
			if c.String("out") == "" {
				return "", usage("say where the key goes: --out FILE")
			}
			return c.String("out"), noArguments(c)
		}, runKeysAdmin),
	}
}

func runKeysAdmin(_ context.Context, path string, con *console) error {
	key, err := embassy.NewAdminKey(path)
	if err != nil {
		return err
	}
	if con.json {
		return printJSON(con.stdout, struct {
			schema
			Public      string `json:"public"`
			Fingerprint string `json:"fingerprint"`
			File        string `json:"file"`
		}{schemaV1, key.String(), key.Fingerprint(), path})
	}
	w := table(con.stdout)
	fmt.Fprintf(w, "key\t%s (secret: it signs for you)\n", path)
	fmt.Fprintf(w, "public\t%s\n", key)
	fmt.Fprintf(w, "fingerprint\t%s\n", key.Fingerprint())
	return w.Flush()
}
