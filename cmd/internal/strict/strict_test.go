package strict_test

import (
	"errors"
	"testing"

	"embassy/cmd/internal/strict"

	"github.com/urfave/cli/v2"
)

func app() *cli.App {
	return &cli.App{
		Name:                   "embassy",
		UseShortOptionHandling: true,
		Flags:                  []cli.Flag{&cli.StringFlag{Name: "config"}, &cli.BoolFlag{Name: "json"}},
		Commands: []*cli.Command{
			{Name: "ls", Flags: []cli.Flag{
				&cli.StringFlag{Name: "at"}, &cli.BoolFlag{Name: "l"}, &cli.BoolFlag{Name: "R"},
				&cli.StringSliceFlag{Name: "include", Aliases: []string{"i"}},
			}},
			{Name: "config", Subcommands: []*cli.Command{{Name: "check"}}},
		},
	}
}

func TestCheck(t *testing.T) {
	tests := map[string]struct {
		args []string
		want string // the corrected line; empty: nothing is wrong with the order
	}{
		"right":                    {[]string{"--json", "ls", "-l", "--at", "2026", "pop:/srv"}, ""},
		"value that looks like it": {[]string{"ls", "--at", "--l", "pop"}, ""},
		"nothing":                  {nil, ""},
		"lone dash":                {[]string{"ls", "-"}, ""},
		"lone dash after argument": {[]string{"ls", "pop", "-"}, ""},
		"literal":                  {[]string{"ls", "-l", "--", "pop", "-R"}, ""},
		"unknown flag in front":    {[]string{"ls", "--bogus", "pop"}, ""},
		"argument named as a flag": {[]string{"ls", "at"}, ""},
		"command name as argument": {[]string{"ls", "config"}, ""},
		"flag after":               {[]string{"ls", "pop", "-l"}, "embassy ls -l pop"},
		"one dash":                 {[]string{"ls", "pop", "-at", "x"}, "embassy ls -at x pop"},
		"with value":               {[]string{"ls", "pop", "--at", "2026-11-21 14:00"}, "embassy ls --at '2026-11-21 14:00' pop"},
		"with equals":              {[]string{"ls", "pop", "--at=it's"}, `embassy ls '--at=it'\''s' pop`},
		"value missing":            {[]string{"ls", "pop", "--at"}, ""},
		"alias":                    {[]string{"ls", "pop", "-i", "*.c"}, "embassy ls -i '*.c' pop"},
		"between arguments":        {[]string{"ls", "-l", "a", "-R", "b"}, "embassy ls -l -R a b"},
		"combined letters":         {[]string{"ls", "a", "-lR"}, "embassy ls -lR a"},
		"combined with value":      {[]string{"ls", "a", "-li", "x"}, "embassy ls -li x a"},
		"unknown flag":             {[]string{"ls", "a", "--bogus"}, "embassy ls -- a --bogus"},
		"unknown and known":        {[]string{"ls", "a", "-x", "-l"}, "embassy ls -l -- a -x"},
		"a name begins as a flag":  {[]string{"ls", "a", "-2026"}, "embassy ls -- a -2026"},
		"late --":                  {[]string{"ls", "a", "--", "-l"}, "embassy ls -- a -l"},
		"global after command":     {[]string{"ls", "--json", "a"}, "embassy --json ls a"},
		"global with value":        {[]string{"ls", "a", "--config", "f"}, "embassy --config f ls a"},
		"global after nested":      {[]string{"config", "check", "--json"}, "embassy --json config check"},
		"help after argument":      {[]string{"ls", "a", "--help"}, "embassy ls --help a"},
		"nested":                   {[]string{"config", "check", "x", "-h"}, "embassy config check -h x"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			err := strict.Check(app(), append([]string{"embassy"}, tt.args...))
			got := ""
			var order *strict.OrderError
			if errors.As(err, &order) {
				got = order.Corrected
			} else if err != nil {
				t.Fatalf("Check returned %v, want an OrderError", err)
			}
			if got != tt.want {
				t.Errorf("corrected to %q, want %q (%v)", got, tt.want, err)
			}
		})
	}
}

func TestCheckMistakes(t *testing.T) {
	tests := map[string]struct {
		args []string
		want string // empty: none
	}{
		"right":                    {[]string{"--json", "ls", "-lR", "--at=2026", "pop"}, ""},
		"mistyped":                 {[]string{"ls", "--ta", "2026", "-l"}, "unknown flag --ta; did you mean --at?\nRun: embassy ls --help"},
		"mistyped before command":  {[]string{"--confg", "x", "ls"}, "unknown flag --confg; did you mean --config?\nRun: embassy --help"},
		"one dash, with equals":    {[]string{"ls", "-inclde=x"}, "unknown flag --inclde; did you mean --include?\nRun: embassy ls --help"},
		"after an argument":        {[]string{"ls", "pop", "--includ", "x"}, "unknown flag --includ; did you mean --include?\nRun: embassy ls --help"},
		"like none":                {[]string{"ls", "--bogus"}, "unknown flag --bogus\nRun: embassy ls --help"},
		"unknown letter":           {[]string{"ls", "-x"}, "unknown flag -x\nRun: embassy ls --help"},
		"value empty":              {[]string{"ls", "--at", "", "pop"}, "flag --at has an empty value; give it one, or leave it out\nRun: embassy ls --help"},
		"value empty after equals": {[]string{"--config=", "ls"}, "flag --config has an empty value; give it one, or leave it out\nRun: embassy --help"},
		"value missing":            {[]string{"ls", "-at"}, "flag --at needs a value\nRun: embassy ls --help"},
		"first counts":             {[]string{"ls", "--bogus", "--at"}, "unknown flag --bogus\nRun: embassy ls --help"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := ""
			if err := strict.Check(app(), append([]string{"embassy"}, tt.args...)); err != nil {
				got = err.Error()
			}
			if got != tt.want {
				t.Errorf("Check returned %q, want %q", got, tt.want)
			}
		})
	}
}
