package main

import (
	"context"
	"fmt"
	"os"

	"embassy/crypto"
	"embassy/embassy"
	"embassy/embassy/format"

	"github.com/urfave/cli/v2"
)

type grantOptions struct {
	reader
	compartment string
	to          string // file
	from        string // beginning of a fingerprint
	past, yes   bool
}

func decodeGrant(c *cli.Context) (grantOptions, error) {
	o := grantOptions{
		reader: decodeReader(c), compartment: c.Args().First(),
		to: c.String("to"), from: c.String("from"), past: c.Bool("past"), yes: c.Bool("yes"),
	}
	if c.Args().Len() != 1 {
		return o, usage("name one compartment")
	}
	return o, nil
}

func charterGrantCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:      "grant",
		Usage:     "let another nation read a compartment with its own key",
		ArgsUsage: "COMPARTMENT",
		Description: "The other nation prints its key with embassy keys partner-key. Compare the fingerprint\n" +
			"with a person there whose voice you know: a wrong one lets a stranger read.\n" +
			"Without --past it reads what is written from now on: the next backups store everything\n" +
			"once more, under a new writer secret. With --past it also reads what was written before;\n" +
			"no pack is touched, and this machine, which must write the compartment, files the keys.\n" +
			"Run it again to grant what could not be read the first time.",
		Flags: append(rootFlags(),
			&cli.StringFlag{Name: "to", Usage: "partner key `FILE` of the other nation"},
			&cli.BoolFlag{Name: "past", Usage: "also what was written before"}, yesFlag()),
		Action: action(con, func(c *cli.Context) (grantOptions, error) {
			o, err := decodeGrant(c)
			if err == nil && o.to == "" {
				err = usage("name the other nation's key with --to FILE")
			}
			return o, err
		}, runCharterGrant),
	}
}

func runCharterGrant(ctx context.Context, o grantOptions, con *console) error {
	text, err := os.ReadFile(o.to)
	if err != nil {
		return usage("--to: %s", err)
	}
	key, err := format.ParsePartnerKey(text)
	if err != nil {
		return fmt.Errorf("%s: %w", o.to, err)
	}
	return con.using(limits{}, nil, func(s *site, service *embassy.Service) error {
		question, err := grantQuestion(service, key, o)
		if err != nil {
			return err
		}
		if err := con.confirmed(ctx, o.yes, question); err != nil {
			return err
		}
		root, _, err := s.openKit(ctx, con, o.reader)
		if err != nil {
			return err
		}
		defer root.Wipe()
		report, err := service.Grant(ctx, root, o.compartment, key, o.past)
		if err != nil {
			return err
		}
		s.screen.close()
		if err := printCharterReport(con, report.CharterReport); err != nil {
			return err
		}
		if o.past {
			con.notef("\n%d session keys of the past were granted now.", report.Keys)
		}
		codes := []int{0}
		if report.Failed > 0 {
			con.warnf("%d things of the past could not be read, and are not granted: see above, and run it again when the targets have them", report.Failed)
			codes = append(codes, 4)
		}
		for _, m := range report.Missing {
			con.warnf("the grant is filed, and the commit rule lacks %s for it: embassy replicate brings it there", m)
			codes = append(codes, 4)
		}
		return reported(codes...)
	})
}

// grantQuestion shows what people have to compare, and what a grant costs.
func grantQuestion(service *embassy.Service, key *format.PartnerKey, o grantOptions) (string, error) {
	fingerprint, err := key.Fingerprint()
	if err != nil {
		return "", err
	}
	text := fmt.Sprintf("Nation %s would read compartment %s. Its root has the fingerprint\n  %s\n"+
		"Read it out to them by phone: theirs must be the same.\n", key.Nation, o.compartment, fingerprint)
	if o.past {
		return text + "It gets everything that was ever written there, and that cannot be taken back.", nil
	}
	contents, err := service.Contents(o.compartment)
	if err != nil {
		return "", err
	}
	cost := ""
	if contents > 0 {
		cost = fmt.Sprintf(" (this machine's newest snapshots hold %s)", size(contents))
	}
	return text + "It gets what is written from now on, and the next backups store everything in the compartment\n" +
		"once more on every target" + cost + ".", nil
}

func charterRevokeGrantCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:      "revoke-grant",
		Usage:     "seal nothing more to another nation",
		ArgsUsage: "COMPARTMENT",
		Description: "What was written until now stays open to it, for ever: it may have copied everything. Until\n" +
			"embassy keys rotate writer it also sees names of datasets, sizes and times of what is\n" +
			"written later, where it can reach a target.",
		Flags: append(rootFlags(), &cli.StringFlag{Name: "from", Usage: "beginning of the other nation's `FINGERPRINT`"}),
		Action: action(con, func(c *cli.Context) (grantOptions, error) {
			o, err := decodeGrant(c)
			if err == nil && o.from == "" {
				err = usage("name the other nation with --from FINGERPRINT, or its beginning")
			}
			return o, err
		}, runCharterRevokeGrant),
	}
}

func runCharterRevokeGrant(ctx context.Context, o grantOptions, con *console) error {
	err := con.amending(ctx, o.reader, func(service *embassy.Service, root *crypto.Root) (embassy.CharterReport, error) {
		return service.RevokeGrant(ctx, root, o.compartment, o.from)
	})
	if err != nil {
		return err
	}
	con.notef("\nThis takes nothing back: everything that was written until now stays open to that nation. With the\n" +
		"writer secret that it has, it also sees names of datasets, sizes and summaries of what is written\n" +
		"later, until embassy keys rotate writer.")
	return nil
}
