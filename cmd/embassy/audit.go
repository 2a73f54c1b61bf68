package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"embassy/catalog"
	"embassy/embassy"
	"embassy/embassy/format"

	"github.com/urfave/cli/v2"
)

// auditWait is how long a command that wrote into the audit log tries to bring
// that to the targets before it ends.
const auditWait = 3 * time.Second

func auditCommand(con *console) *cli.Command {
	all := &cli.BoolFlag{Name: "all", Usage: "also what the targets hold of every agent's log"}
	decode := func(c *cli.Context) (bool, error) { return c.Bool("all"), noArguments(c) }
	return &cli.Command{
		Name:  "audit",
		Usage: "who used the root or a reader key here, and what for",
		Subcommands: []*cli.Command{{
			Name:  "list",
			Usage: "list what is recorded",
			Description: "Every use of the root or of a reader key on this machine, every charter that it signed, every restore,\n" +
				"repair and forgiven target is one line. LISTED says that a ledger entry lists the record, so that it is on\n" +
				"the targets or on its way there. No target is asked, unless with --all.\n\n" +
				"embassy-rescue, and a machine without an agent's key, keep no record.",
			Flags:  []cli.Flag{all},
			Action: action(con, decode, runAuditList),
		}, {
			Name:  "verify",
			Usage: "verify every signature and number, and that each record follows the one before; exit code 5 when not",
			Description: "It names what was altered, what is missing, and numbers that are there twice, which a cloned machine writes.\n" +
				"No target is asked, unless with --all: then records that were removed from the end of the log on this\n" +
				"machine are found too, if a target has them.",
			Flags:  []cli.Flag{all},
			Action: action(con, decode, runAuditVerify),
		}},
	}
}

// audits opens the logs and closes the site.
func (con *console) audits(ctx context.Context, all bool) (report embassy.AuditReport, err error) {
	err = con.serving(func(s *site, service *embassy.Service) (err error) {
		if !all {
			report, err = service.AuditLog()
			return err
		}
		view, _, err := asAgent(ctx, s, con)
		if err == nil {
			report, err = service.AuditLogs(ctx, view)
		}
		return err
	})
	return report, err
}

func runAuditList(ctx context.Context, all bool, con *console) error {
	report, err := con.audits(ctx, all)
	if err != nil {
		return err
	}
	if con.json {
		return printAuditJSON(con.stdout, report)
	}
	for _, p := range report.Problems {
		con.warnf("%s", p)
	}
	if len(report.Records) == 0 {
		con.notef("Nothing is recorded.")
		return nil
	}
	w := table(con.stdout)
	fmt.Fprintln(w, "TIME (UTC)\tAGENT\tNUMBER\tLISTED\tWHO\tWHAT\tOUTCOME\tFACTS")
	for _, r := range report.Records {
		when, what := moment(r.Deed.When()), r.Deed.What
		if r.Sealed {
			when, what = "-", "(sealed: of a compartment that this agent is not in)"
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%s\t%s\t%s\n", when, agentTitle(r), r.Number, yesNo(r.Listed), dash(who(r.Deed)),
			printable(what), dash(printable(r.Deed.Outcome)), dash(facts(r.Deed)))
	}
	return w.Flush()
}

func runAuditVerify(ctx context.Context, all bool, con *console) error {
	report, err := con.audits(ctx, all)
	if err != nil {
		return err
	}
	if con.json {
		err = printAuditJSON(con.stdout, report)
	} else {
		err = printAuditVerified(con.stdout, report)
	}
	if err != nil || len(report.Problems) == 0 {
		return err
	}
	return outcome(5)
}

func printAuditVerified(out io.Writer, report embassy.AuditReport) error {
	for _, p := range report.Problems {
		fmt.Fprintln(out, printable(p.String()))
	}
	verdict := "every one is signed, and follows the one before"
	if n := len(report.Problems); n > 0 {
		verdict = fmt.Sprintf("INTEGRITY FAILURE: %s, as named above", plural(uint64(n), "problem", "problems"))
	}
	_, err := fmt.Fprintf(out, "%s: %s\n", plural(uint64(len(report.Records)), "record", "records"), verdict)
	return err
}

func agentTitle(r embassy.AuditRecord) string {
	if r.AgentName != "" {
		return printable(r.AgentName)
	}
	return r.Agent.String()[:8]
}

func who(d format.Deed) string {
	if d.Host == "" {
		return printable(d.User)
	}
	return printable(d.User + "@" + d.Host)
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// facts is a cell of the table.
func facts(d format.Deed) string {
	var out []string
	for _, f := range d.Facts {
		out = append(out, f.Key+"="+f.Value)
	}
	return printable(strings.Join(out, ", "))
}

// auditFact is format.Fact in JSON.
type auditFact struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// auditRecord is embassy.AuditRecord in JSON.
type auditRecord struct {
	Time        *time.Time  `json:"time"` // null when it is sealed
	Compartment string      `json:"compartment"`
	Agent       string      `json:"agent"`
	AgentName   string      `json:"agent_name,omitempty"`
	Log         string      `json:"log"`
	Number      uint64      `json:"number"`
	Record      string      `json:"record"` // hash of the object
	User        string      `json:"user,omitempty"`
	Host        string      `json:"host,omitempty"`
	What        string      `json:"what,omitempty"`
	Outcome     string      `json:"outcome,omitempty"`
	Facts       []auditFact `json:"facts"`
	Sealed      bool        `json:"sealed"`
	Here        bool        `json:"here"`
	Listed      bool        `json:"listed"`
}

// auditProblem is a finding in JSON.
type auditProblem struct {
	Object string `json:"object"`
	Error  string `json:"error"`
}

func printAuditJSON(out io.Writer, report embassy.AuditReport) error {
	doc := struct {
		schema
		Records  []auditRecord  `json:"records"`
		Problems []auditProblem `json:"problems"`
	}{schemaV1, []auditRecord{}, []auditProblem{}}
	for _, r := range report.Records {
		j := auditRecord{
			Compartment: r.Compartment, Agent: r.Agent.String(), AgentName: r.AgentName, Log: r.Log.String(), Number: r.Number,
			Record: r.Hash.String(), User: r.Deed.User, Host: r.Deed.Host, What: r.Deed.What, Outcome: r.Deed.Outcome,
			Facts: []auditFact{}, Sealed: r.Sealed, Here: r.Here, Listed: r.Listed,
		}
		if !r.Sealed {
			j.Time = stamp(r.Deed.When())
		}
		for _, f := range r.Deed.Facts {
			j.Facts = append(j.Facts, auditFact(f))
		}
		doc.Records = append(doc.Records, j)
	}
	for _, p := range report.Problems {
		doc.Problems = append(doc.Problems, auditProblem{p.Object, oneLine(p.Err)})
	}
	return printJSON(out, doc)
}

// deed is what a record tells. facts are keys and values in turn.
type deed struct {
	did     embassy.Did
	outcome string
	facts   []string
}

// record writes into the audit log of this machine what the command line does.
// That it cannot be written keeps nobody from the data: who holds the key can
// read without this program too. It is said.
func (s *site) record(con *console, did embassy.Did, outcome string, facts ...string) {
	service, err := s.service()
	if err == nil {
		err = service.Audit(did, outcome, append([]string{"command", strings.Join(con.args, " ")}, facts...)...)
	}
	if err != nil {
		s.screen.warn(embassy.Finding{Object: string(did), Err: err})
	}
}

// deliverAudit brings what the services of the site recorded to the targets, if
// the catalog is free and they answer. Otherwise the next backup does.
func (s *site) deliverAudit() {
	wrote := false
	for _, service := range s.made {
		wrote = service.Audited() || wrote
	}
	if !wrote {
		return
	}
	deliver := func() error {
		if s.shared == nil && s.catalog == nil {
			state, err := embassy.OpenState(s.config.StateDir)
			if err != nil {
				return err
			}
			if s.catalog, err = catalog.Open(state.CatalogDir(), catalog.Options{Logger: s.log}); err != nil {
				return err
			}
		}
		service, err := s.service()
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(context.Background(), auditWait) // also when the command was interrupted
		defer cancel()
		return service.DeliverAudit(ctx)
	}
	if err := deliver(); err != nil {
		s.log.Warn("audit records wait for the next backup", "err", err)
	}
}
