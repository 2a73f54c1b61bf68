package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"embassy/embassy"
	"embassy/embassy/format"

	"github.com/urfave/cli/v2"
)

func charterHistoryCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:  "history",
		Usage: "every charter on the targets, and what each changed",
		Action: action(con, func(c *cli.Context) (bool, error) {
			return false, noArguments(c)
		}, runCharterPast),
	}
}

func charterVerifyCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:  "verify",
		Usage: "check every charter on every target; exit code 5 when one is forged, spoilt, forked or follows none",
		Action: action(con, func(c *cli.Context) (bool, error) {
			return true, noArguments(c)
		}, runCharterPast),
	}
}

// pastCharter is embassy.PastCharter in JSON.
type pastCharter struct {
	Seq      uint64    `json:"charter"`
	Hash     string    `json:"hash"`
	Time     time.Time `json:"time"`
	SignedBy string    `json:"signed_by"`
	On       []string  `json:"targets"`
	Changes  []string  `json:"changes"`
}

type charterFault struct {
	Target string `json:"target,omitempty"`
	Object string `json:"object"`
	Error  string `json:"error"`
}

// runCharterPast tells of all charters; judging, what is wrong with them is
// the outcome.
func runCharterPast(ctx context.Context, judging bool, con *console) (err error) {
	s, err := con.openSite()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if _, err := s.identity(); err != nil {
		return err
	}
	service, err := s.service()
	if err != nil {
		return err
	}
	past, wrong, err := service.Past(ctx)
	if err != nil {
		return s.brief(err)
	}
	_, _, keys, err := service.CharterOf(ctx)
	if err != nil {
		return err
	}
	down := 0
	for _, m := range s.members {
		if m.Down() != nil {
			down++
		}
	}
	s.screen.close()
	var list []pastCharter
	byHash := map[format.Hash]*format.Charter{}
	for _, p := range past {
		byHash[p.Hash] = p.Charter
		list = append(list, pastCharter{p.Seq, p.Hash.String(), p.When(), signedBy(p.Charter), p.On,
			append([]string{}, embassy.Changes(byHash[p.Prev], p.Charter, keys)...)})
	}
	faults := []charterFault{}
	for _, f := range wrong {
		faults = append(faults, charterFault{f.Target, f.Object, oneLine(f.Err)})
	}
	code := 0
	if judging {
		switch {
		case len(wrong) > 0:
			code = 5
		case down > 0:
			code = 4
		}
	}
	if con.json {
		err = printJSON(con.stdout, struct {
			schema
			Charters []pastCharter  `json:"charters"`
			Faults   []charterFault `json:"faults"`
			Exit     int            `json:"exit_code"`
		}{schemaV1, append([]pastCharter{}, list...), faults, code})
	} else {
		err = printPast(con, list, faults, judging, code, down)
	}
	if err != nil {
		return err
	}
	return reported(code)
}

func printPast(con *console, list []pastCharter, faults []charterFault, judging bool, code, down int) error {
	for _, p := range list {
		if _, err := fmt.Fprintf(con.stdout, "charter %d  %s UTC  %s  signed by %s, on %s\n", p.Seq, moment(p.Time), p.Hash[:12], p.SignedBy, strings.Join(p.On, ", ")); err != nil {
			return err
		}
		for _, line := range p.Changes {
			if judging {
				break
			}
			if _, err := fmt.Fprintf(con.stdout, "  %s\n", printable(line)); err != nil {
				return err
			}
		}
	}
	for _, f := range faults {
		con.warnf("%s: %s: %s", dash(f.Target), printable(f.Object), f.Error)
	}
	if !judging {
		return nil
	}
	verdict := "done: every charter is signed, and follows the one before"
	switch code {
	case 5:
		verdict = "INTEGRITY FAILURE: see above"
	case 4:
		verdict = fmt.Sprintf("NOT COMPLETE: %s did not answer", plural(uint64(down), "target", "targets"))
	}
	_, err := fmt.Fprintf(con.stdout, "result: %s (exit code %d)\n", verdict, code)
	return err
}

type administratorsOptions struct {
	signing
	add, remove []format.AdministratorKey
	quorum      int
}

func charterAdministratorsCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:  "administrators",
		Usage: "name those who enrol, suspend and revoke agents without the root",
		Description: "PUBLIC is the line that embassy keys admin printed; compare its fingerprint by phone. So many of them as --quorum\n" +
			"says have to sign together; without it more than half. They cannot name others, read anything by that, or revive an\n" +
			"agent that the root revoked.",
		Flags: append([]cli.Flag{
			&cli.StringSliceFlag{Name: "add", Usage: "`PUBLIC` key of a new administrator; may be repeated"},
			&cli.StringSliceFlag{Name: "remove", Usage: "`PUBLIC` key of one who is none any more; may be repeated"},
			&cli.IntFlag{Name: "quorum", Usage: "`M` of them have to sign"},
			&cli.BoolFlag{Name: "yes", Usage: "do not ask"},
		}, rootFlags()...),
		Action: action(con, func(c *cli.Context) (o administratorsOptions, err error) {
			o.reader, o.yes, o.quorum = decodeReader(c), c.Bool("yes"), c.Int("quorum")
			if o.quorum < 0 || c.IsSet("quorum") && o.quorum == 0 {
				return o, usage("--quorum is a number from 1 on")
			}
			for flag, to := range map[string]*[]format.AdministratorKey{"add": &o.add, "remove": &o.remove} {
				for _, text := range c.StringSlice(flag) {
					k, err := format.ParseAdministratorKey(strings.TrimSpace(text))
					if err != nil {
						return o, usage("--%s %s: %s", flag, text, err)
					}
					*to = append(*to, k)
				}
			}
			if len(o.add)+len(o.remove)+o.quorum == 0 {
				return o, usage("say what is to change: --add PUBLIC, --remove PUBLIC or --quorum M")
			}
			return o, noArguments(c)
		}, func(ctx context.Context, o administratorsOptions, con *console) error {
			return con.signed(ctx, o.signing, func(s *embassy.Service, by embassy.Authority) (embassy.ChangeReport, error) {
				return s.Administrators(ctx, by, o.add, o.remove, o.quorum)
			})
		}),
	}
}

type proposalOptions struct {
	file, admin, out string
	yes              bool
}

func charterSignCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:      "sign",
		Usage:     "as an administrator, add a signature to a proposal",
		ArgsUsage: "PROPOSAL",
		Description: "It verifies the proposal, shows what it changes, and asks. What it seals can be shown only on the machine of an agent\n" +
			"of the compartments concerned.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "admin-key", Usage: "the administrator's key `FILE`"},
			&cli.StringFlag{Name: "out", Usage: "write the signed proposal to `FILE` (default: where it was)"},
			&cli.BoolFlag{Name: "yes", Usage: "do not ask"},
		},
		Action: action(con, func(c *cli.Context) (o proposalOptions, err error) {
			o.admin, o.out, o.yes = c.String("admin-key"), c.String("out"), c.Bool("yes")
			if o.admin == "" {
				return o, usage("name the administrator's key: --admin-key FILE")
			}
			o.file, err = oneArgument(c, "the PROPOSAL")
			if o.out == "" {
				o.out = o.file
			}
			return o, err
		}, runCharterSign),
	}
}

func charterPublishCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:      "publish",
		Usage:     "put a proposal that enough administrators signed into force",
		ArgsUsage: "PROPOSAL",
		Action: action(con, func(c *cli.Context) (o proposalOptions, err error) {
			o.file, err = oneArgument(c, "the PROPOSAL")
			return o, err
		}, runCharterPublish),
	}
}

func openProposal(path string) (*format.Proposal, error) {
	text, err := fromFile(path, 2*format.MaxProposalSize)
	if err != nil {
		return nil, err
	}
	p, err := format.ParseProposal(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return p, nil
}

func runCharterSign(ctx context.Context, o proposalOptions, con *console) error {
	p, err := openProposal(o.file)
	if err != nil {
		return err
	}
	return con.serving(func(s *site, service *embassy.Service) error {
		if _, err := s.identity(); err != nil {
			return err
		}
		key, err := embassy.OpenAdminKey(o.admin)
		if err != nil {
			return err
		}
		proposed, err := service.Review(ctx, p)
		if err != nil {
			return err
		}
		s.screen.close()
		lines := append([]string{fmt.Sprintf("charter %d changes against charter %d:", proposed.Seq, proposed.Since)}, proposed.Changes...)
		for _, k := range proposed.Sealed {
			lines = append(lines, "compartment "+k+": names and secrets are sealed anew, and this machine cannot look into them")
		}
		if !o.yes {
			if err := con.confirm(ctx, lines); err != nil {
				return err
			}
		}
		if err := p.Sign(key); err != nil {
			return err
		}
		return con.keepProposal(p, o.out, proposed.Seq, lines[1:])
	})
}

func runCharterPublish(ctx context.Context, o proposalOptions, con *console) error {
	p, err := openProposal(o.file)
	if err != nil {
		return err
	}
	return con.serving(func(s *site, service *embassy.Service) error {
		proposed, err := service.Review(ctx, p)
		if err != nil && !errors.Is(err, embassy.ErrStale) { // published before, perhaps
			return err
		}
		report, err := service.Publish(ctx, p)
		if errors.Is(err, format.ErrTooFew) {
			return fmt.Errorf("%w: %s missing; another administrator runs embassy charter sign --admin-key FILE %s", err,
				plural(uint64(p.Lacks()), "is", "are"), o.file)
		}
		if err != nil {
			return err
		}
		report.Added = proposed.Changes
		s.screen.close()
		return printCharterReport(con, report)
	})
}
