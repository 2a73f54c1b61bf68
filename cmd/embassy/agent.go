package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"embassy/cmd/internal/term"
	"embassy/embassy"
	"embassy/embassy/config"
	"embassy/embassy/format"

	"github.com/google/renameio/v2"
	"github.com/urfave/cli/v2"
)

func agentCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:  "agent",
		Usage: "enrol machines, suspend them, revoke them, name the steward",
		Description: "A new machine asks (agent request), people compare its fingerprint, and who has the root signs (agent approve).\n" +
			"Without the root, administrators do it: --admin-key makes a proposal, which the others sign with\n" +
			"embassy charter sign, and which embassy charter publish puts into force.",
		Subcommands: []*cli.Command{
			agentRequestCommand(con), agentApproveCommand(con), agentListCommand(con),
			agentChangeCommand(con, "suspend", "forbid an agent to write; what it wrote counts",
				func(ctx context.Context, s *embassy.Service, by embassy.Authority, o agentChange) (embassy.ChangeReport, error) {
					return s.Suspend(ctx, by, o.who)
				}),
			agentChangeCommand(con, "resume", "end a suspension",
				func(ctx context.Context, s *embassy.Service, by embassy.Authority, o agentChange) (embassy.ChangeReport, error) {
					return s.Resume(ctx, by, o.who)
				}),
			agentRevokeCommand(con), agentQuotaCommand(con), agentStewardCommand(con),
		},
	}
}

type requestOptions struct{ name, key, out string }

func agentRequestCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:  "request",
		Usage: "on a new machine: make its key, and write a request to be enrolled",
		Description: "The configuration names the targets, and the datasets that the machine is to back up. Its nation_key, or\n" +
			"--nation-key, is the nation's public key: embassy charter show prints it on a machine that backs up. Bring it\n" +
			"by hand: what it says is believed for good.\n\n" +
			"The request is a text without secrets, but with the names of compartments and datasets. It goes from hand to\n" +
			"hand, to who runs embassy agent approve. When that is done, embassy backup works here without a further step.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "name", Usage: "`NAME` of this machine for people (default: its host name)"},
			&cli.StringFlag{Name: "nation-key", Usage: "public `KEY` of the nation (default: nation_key of the configuration)"},
			&cli.StringFlag{Name: "out", Usage: "write the request to `FILE`", Value: "agent-request.txt"},
		},
		Action: action(con, func(c *cli.Context) (requestOptions, error) {
			o := requestOptions{c.String("name"), c.String("nation-key"), c.String("out")}
			if err := noArguments(c); err != nil {
				return o, err
			}
			var err error
			o.name, err = machineName(c, "name")
			return o, err
		}, runAgentRequest),
	}
}

func runAgentRequest(_ context.Context, o requestOptions, con *console) (err error) {
	s, err := con.openSite()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	key := s.config.NationKey
	if o.key != "" {
		given, err := format.ParseNationKey(o.key)
		if err != nil {
			return usage("--nation-key: %s", err)
		}
		if key.Signer != nil && key.String() != given.String() {
			return usage("%s:%d: nation_key is not that of --nation-key: keep the right one", s.config.File, s.config.NationKeyLine)
		}
		key = given
	}
	if key.Signer == nil {
		return usage("whose agent is this machine to be? Bring the nation's public key, which embassy charter show prints on a machine that backs up, as nation_key in %s or with --nation-key", s.config.File)
	}
	service, err := s.service()
	if err != nil {
		return err
	}
	text, request, err := service.Request(o.name, key)
	if err != nil {
		return err
	}
	if err := renameio.WriteFile(o.out, []byte(text), 0o600, renameio.IgnoreUmask()); err != nil {
		return fmt.Errorf("write the request: %w", err)
	}
	s.screen.close()
	if con.json {
		return printJSON(con.stdout, struct {
			schema
			Nation      string `json:"nation"`
			Agent       string `json:"agent"`
			Name        string `json:"name"`
			Fingerprint string `json:"fingerprint"`
			Request     string `json:"request"`
		}{schemaV1, request.Nation.String(), request.ID().String(), request.Name, request.Fingerprint(), o.out})
	}
	w := table(con.stdout)
	fmt.Fprintf(w, "nation\t%s\n", request.Nation)
	fmt.Fprintf(w, "agent\t%s (%s)\n", request.ID(), printable(request.Name))
	fmt.Fprintf(w, "fingerprint\t%s\n", request.Fingerprint())
	fmt.Fprintf(w, "request\t%s\n", o.out)
	if err := w.Flush(); err != nil {
		return err
	}
	con.notef("\nBring %s to who enrols agents, and tell them the fingerprint by phone.\nIt holds no secret, but the names of compartments and datasets: it goes from hand to hand.", filepath.Base(o.out))
	return nil
}

// signing is how a command gets a change of the agents signed.
type signing struct {
	reader
	admin, out string // key file and proposal of an administrator; both empty: the root signs
	yes        bool
	nothing    bool // nothing is to be signed, so neither is needed
}

func signingFlags() []cli.Flag {
	return append([]cli.Flag{
		&cli.StringFlag{Name: "admin-key", Usage: "instead of the root, sign with an administrator's key `FILE`, and write a proposal"},
		&cli.StringFlag{Name: "out", Usage: "write the proposal to `FILE`"},
		&cli.BoolFlag{Name: "yes", Usage: "do not ask"},
	}, rootFlags()...)
}

func decodeSigning(c *cli.Context) (signing, error) {
	o := signing{reader: decodeReader(c), admin: c.String("admin-key"), out: c.String("out"), yes: c.Bool("yes")}
	if (o.admin == "") != (o.out == "") {
		return o, usage("--admin-key FILE signs a proposal, and --out FILE says where it goes: give both, or, with the root, neither")
	}
	return o, nil
}

// signed runs a change of the agents with the root, or as a proposal of an
// administrator, and prints its outcome.
func (con *console) signed(ctx context.Context, o signing, change func(*embassy.Service, embassy.Authority) (embassy.ChangeReport, error)) error {
	return con.serving(func(s *site, service *embassy.Service) error {
		if _, err := embassy.OpenState(s.config.StateDir); err != nil {
			return err
		}
		by := embassy.Authority{Confirm: func(lines []string) error {
			if o.yes {
				return nil
			}
			s.screen.close()
			return con.confirm(ctx, lines)
		}}
		var err error
		switch {
		case o.admin != "":
			by.Admin, err = embassy.OpenAdminKey(o.admin)
		case !o.nothing:
			by.Root, _, err = s.openKit(ctx, con, o.reader)
		}
		if err != nil {
			return err
		}
		if by.Root != nil {
			defer by.Root.Wipe()
		}
		report, err := change(service, by)
		if err != nil {
			return err
		}
		s.screen.close()
		if report.Proposal == nil {
			return printCharterReport(con, report.CharterReport)
		}
		return con.keepProposal(report.Proposal, o.out, report.Seq, report.Added)
	})
}

// keepProposal writes a proposal and says what is to be done with it.
func (con *console) keepProposal(p *format.Proposal, path string, seq uint64, changes []string) error {
	if err := renameio.WriteFile(path, []byte(p.Text()), 0o600, renameio.IgnoreUmask()); err != nil {
		return fmt.Errorf("write the proposal: %w", err)
	}
	if con.json {
		return printJSON(con.stdout, struct {
			schema
			Seq      uint64   `json:"charter"`
			Changes  []string `json:"changes"`
			Signed   []string `json:"signed_by"`
			Lacks    int      `json:"signatures_missing"`
			Proposal string   `json:"proposal"`
		}{schemaV1, seq, append([]string{}, changes...), append([]string{}, p.Signers()...), p.Lacks(), path})
	}
	w := table(con.stdout)
	fmt.Fprintf(w, "proposal\t%s, of charter %d\n", path, seq)
	for _, line := range changes {
		fmt.Fprintf(w, "changes\t%s\n", printable(line))
	}
	for _, f := range p.Signers() {
		fmt.Fprintf(w, "signed by\t%s\n", f)
	}
	fmt.Fprintf(w, "lacks\t%s\n", plural(uint64(p.Lacks()), "signature", "signatures"))
	if err := w.Flush(); err != nil {
		return err
	}
	if p.Lacks() > 0 {
		con.notef("\nNext, another administrator: embassy charter sign --admin-key FILE %s", path)
	} else {
		con.notef("\nNext: embassy charter publish %s", path)
	}
	return nil
}

// errUnwilling: a person said no.
var errUnwilling = errors.New("nothing was signed")

// confirm shows what is to be signed, and asks.
func (con *console) confirm(ctx context.Context, lines []string) error {
	if !term.IsTerminal(con.stdin) {
		return usage("this shows what it signs, and asks, and there is no terminal to ask on; add --yes when people have compared the fingerprints")
	}
	for _, line := range lines {
		fmt.Fprintln(con.stderr, printable(line))
	}
	line, err := term.NewLines(con.stdin, con.stderr).Ask(ctx, "Sign this? Type yes: ")
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil || !strings.HasSuffix(line, "\n") || strings.TrimSpace(line) != "yes":
		return errUnwilling
	}
	return nil
}

// fromFile reads a text that people bring, of at most so many bytes.
func fromFile(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, usage("%s", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return text, nil
}

type approveOptions struct {
	signing
	embassy.ApproveOptions
	file string
}

func agentApproveCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:      "approve",
		Usage:     "enrol the machine that wrote a request",
		ArgsUsage: "FILE",
		Description: "It shows who asks and what it will be allowed. Compare the fingerprint with that on the new machine, by phone\n" +
			"or face to face: nothing else says whose request it is.",
		Flags: append([]cli.Flag{
			&cli.StringSliceFlag{Name: "compartment", Usage: "of those that it asks for, let it write this `NAME` only; may be repeated"},
			&cli.StringFlag{Name: "quota", Usage: "let it take this `SIZE` on a target, such as 500GiB"},
		}, signingFlags()...),
		Action: action(con, func(c *cli.Context) (o approveOptions, err error) {
			if o.signing, err = decodeSigning(c); err != nil {
				return o, err
			}
			o.Compartments = c.StringSlice("compartment")
			if c.IsSet("quota") {
				if o.Quota, err = parseQuota(c.String("quota")); err != nil {
					return o, err
				}
			}
			o.file, err = oneArgument(c, "the request FILE")
			return o, err
		}, runAgentApprove),
	}
}

// parseQuota reads a size, or none.
func parseQuota(text string) (uint64, error) {
	if text == "none" {
		return 0, nil
	}
	n, err := config.ParseSize(text)
	if err != nil {
		return 0, usage("%q is no size: write 500GiB, a number of bytes, or none", text)
	}
	return uint64(n), nil
}

// oneArgument is for decode of commands that take one.
func oneArgument(c *cli.Context, what string) (string, error) {
	if c.NArg() != 1 {
		return "", usage("%s takes one argument, %s, and got %d", c.Command.HelpName, what, c.NArg())
	}
	return c.Args().First(), nil
}

func runAgentApprove(ctx context.Context, o approveOptions, con *console) error {
	text, err := fromFile(o.file, format.MaxRequestSize)
	if err != nil {
		return err
	}
	request, err := format.ParseRequest(text)
	if err != nil {
		return fmt.Errorf("%s: %w", o.file, err)
	}
	con.notef("nation       %s\nagent        %s (%s)\nfingerprint  %s\n", request.Nation, request.ID(), printable(request.Name), request.Fingerprint())
	return con.signed(ctx, o.signing, func(s *embassy.Service, by embassy.Authority) (embassy.ChangeReport, error) {
		return s.Approve(ctx, by, request, o.ApproveOptions)
	})
}

// agentChange is a change of one agent.
type agentChange struct {
	signing
	who   string
	after []string
	quota uint64
	names []string // of compartments
}

func agentChangeCommand(con *console, name, what string, change func(context.Context, *embassy.Service, embassy.Authority, agentChange) (embassy.ChangeReport, error)) *cli.Command {
	return &cli.Command{
		Name: name, Usage: what, ArgsUsage: "NAME|ID", Flags: signingFlags(),
		Action: action(con, func(c *cli.Context) (o agentChange, err error) {
			if o.signing, err = decodeSigning(c); err != nil {
				return o, err
			}
			o.who, err = oneArgument(c, "the agent's NAME or ID")
			return o, err
		}, func(ctx context.Context, o agentChange, con *console) error {
			return con.signed(ctx, o.signing, func(s *embassy.Service, by embassy.Authority) (embassy.ChangeReport, error) {
				return change(ctx, s, by, o)
			})
		}),
	}
}

func agentRevokeCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:      "revoke",
		Usage:     "end an agent for good, and say what of it still counts",
		ArgsUsage: "NAME|ID",
		Description: "Of each of its chains, --after names the last entry that counts, by the beginning of its hash; --after none stands\n" +
			"for the chains that are not named. Without --after, the chains are listed with their newest entries, and nothing is\n" +
			"signed. What counts no more is not deleted, but no restore uses it, and no replicator carries it on.\n\n" +
			"It cannot be undone. A dataset that nobody else writes needs another agent: put it into the configuration of a\n" +
			"machine that is enrolled, and run embassy charter apply and embassy backup there. All of it is stored again.",
		Flags: append([]cli.Flag{
			&cli.StringSliceFlag{Name: "after", Usage: "`HASH` of the last good entry of a chain, or none; may be repeated"},
		}, signingFlags()...),
		Action: action(con, func(c *cli.Context) (o agentChange, err error) {
			if o.signing, err = decodeSigning(c); err != nil {
				return o, err
			}
			o.after = c.StringSlice("after")
			o.nothing = len(o.after) == 0 && o.kit == "" && len(o.shares) == 0 // the chains are listed
			o.who, err = oneArgument(c, "the agent's NAME or ID")
			return o, err
		}, func(ctx context.Context, o agentChange, con *console) error {
			return con.signed(ctx, o.signing, func(s *embassy.Service, by embassy.Authority) (embassy.ChangeReport, error) {
				return s.Revoke(ctx, by, o.who, o.after)
			})
		}),
	}
}

func agentQuotaCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:      "quota",
		Usage:     "bound what an agent may take on a target",
		ArgsUsage: "NAME|ID SIZE",
		Description: "SIZE is such as 500GiB, or none. It is measured by what the agent's ledgers list. At the quota, replicators carry\n" +
			"its chains no further and say so (exit code 4); what lies on targets stays.",
		Flags: signingFlags(),
		Action: action(con, func(c *cli.Context) (o agentChange, err error) {
			if o.signing, err = decodeSigning(c); err != nil {
				return o, err
			}
			if c.NArg() != 2 {
				return o, usage("%s takes two arguments, the agent's NAME or ID and a SIZE, and got %d", c.Command.HelpName, c.NArg())
			}
			o.who = c.Args().First()
			o.quota, err = parseQuota(c.Args().Get(1))
			return o, err
		}, func(ctx context.Context, o agentChange, con *console) error {
			return con.signed(ctx, o.signing, func(s *embassy.Service, by embassy.Authority) (embassy.ChangeReport, error) {
				return s.SetQuota(ctx, by, o.who, o.quota)
			})
		}),
	}
}

func agentStewardCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:      "steward",
		Usage:     "name the agent that says what is kept, and deletes",
		ArgsUsage: "NAME|ID",
		Description: "Only the root names it, with --kit or --share. Each compartment has one steward, which forgets, pins, holds and prunes\n" +
			"there. What the one before ordered still counts. Take its right to delete away, give it to the new one (embassy\n" +
			"target check --print-policy steward), and let both back up once: until the old one has read the new charter it\n" +
			"may go on, which harms nothing.",
		Flags: append([]cli.Flag{
			&cli.StringSliceFlag{Name: "compartment", Usage: "of those that it may write, this `NAME` only; may be repeated"},
		}, signingFlags()...),
		Action: action(con, func(c *cli.Context) (o agentChange, err error) {
			if o.signing, err = decodeSigning(c); err != nil {
				return o, err
			}
			o.names = c.StringSlice("compartment")
			o.who, err = oneArgument(c, "the agent's NAME or ID")
			return o, err
		}, func(ctx context.Context, o agentChange, con *console) error {
			return con.signed(ctx, o.signing, func(s *embassy.Service, by embassy.Authority) (embassy.ChangeReport, error) {
				return s.Steward(ctx, by, o.who, o.names)
			})
		}),
	}
}
