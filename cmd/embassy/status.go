package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"embassy/embassy"
	"embassy/embassy/format"

	"github.com/urfave/cli/v2"
)

func statusCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:  "status",
		Usage: "how safe is every dataset; exit code 4 beyond an RPO or below a commit rule",
		Description: "SAFE is the newest snapshot that the commit rule holds for, and all columns up to TIERS are about it.\n" +
			"STATE tells of a newer one that is not safe yet. TIERS says which targets have the safe one: P+ is\n" +
			"a primary one that has it, and E-3 an emergency one that lacks three entries of the ledger.\n" +
			"BEHIND counts the entries that a target lacks, of all chains that this machine knows; embassy replicate\n" +
			"brings them. A fault stays listed, with exit code 5, until it is mended (embassy verify --repair) or\n" +
			"forgiven (embassy target trust). A rollback is never mended by itself: only embassy target trust ends it.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "live", Usage: "ask the targets instead of telling what is remembered"},
		},
		Action: action(con, func(c *cli.Context) (bool, error) {
			return c.Bool("live"), noArguments(c)
		}, runStatus),
	}
}

func runStatus(ctx context.Context, live bool, con *console) error {
	var status embassy.Status
	err := con.using(limits{}, nil, func(_ *site, service *embassy.Service) (err error) {
		status, err = service.Status(ctx, live)
		return err
	})
	if err != nil {
		return err
	}
	if con.json {
		err = printStatusJSON(con, status)
	} else {
		err = printStatus(con, status)
	}
	if err != nil {
		return err
	}
	return reported(status.Exit())
}

func printStatus(con *console, status embassy.Status) error {
	w := table(con.stdout)
	if len(status.Datasets) > 0 {
		printDatasets(w, status.Datasets)
		if err := w.Flush(); err != nil {
			return err
		}
	}
	fmt.Fprintln(w, "TARGET\tIN\tGUARDED\tBEHIND\tCONFIRMED (UTC)\tVERIFIED (UTC)\tSTATE")
	var notes []string // that are too long for a table
	for _, t := range status.Targets {
		state := stateOfTarget(status, t)
		if len(state) > widestState {
			notes = append(notes, t.Name+": "+state)
			state = "see below"
		}
		behind := count(t.Behind)
		if status.Blind {
			behind = "?"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", t.Name, dash(t.Jurisdiction), guardedText(t.Guarded), behind,
			moment(t.AsOf), verifiedText(t.Verified), state)
	}
	if status.Blind {
		notes = append(notes, "This machine has not read a ledger yet, and knows nothing: run embassy replicate.")
	}
	for _, a := range status.Agents {
		notes = append(notes, agentText(a))
	}
	for i, n := range notes {
		if i == 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintln(w, n)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return printFaults(con.stdout, status.Faults)
}

// agentText says what is noteworthy of an agent.
func agentText(a embassy.AgentStatus) string {
	name := a.ID.String()
	if a.Name != "" {
		name = printable(a.Name) + " (" + name + ")"
	}
	var parts []string
	switch a.Status {
	case format.AgentSuspended:
		parts = append(parts, "suspended: it may not write; what it wrote counts")
	case format.AgentRevoked:
		if a.Entries == 0 {
			parts = append(parts, "revoked: none of its entries is in this catalog")
			break
		}
		parts = append(parts, fmt.Sprintf("revoked: of its %s, %s", plural(a.Entries, "known entry", "known entries"), plural(a.Counted, "counts", "count")))
	}
	if a.Quota > 0 && a.Status != format.AgentRevoked {
		text := fmt.Sprintf("%s of its quota of %s used", size(a.Used), size(a.Quota))
		if a.Full() {
			text = "ABOVE ITS QUOTA: " + text + "; replicators carry no more of it"
		}
		parts = append(parts, text)
	}
	if len(a.Orphans) > 0 {
		parts = append(parts, "NO AGENT WRITES "+printable(strings.Join(a.Orphans, ", "))+
			" ANY MORE, so the newest snapshot that counts only gets older: give it to another agent, with embassy charter apply and embassy backup on its machine")
	}
	return "agent " + name + ": " + strings.Join(parts, "; ")
}

// verifiedText is the last verification in a word.
func verifiedText(v *embassy.Verified) string {
	switch {
	case v == nil:
		return "never"
	case v.Listed == 0 && v.Error == "":
		return "holds nothing yet"
	case v.Error != "":
		return moment(v.Time) + " NOT TO THE END"
	case v.Classes > 0:
		return fmt.Sprintf("%s %s %d/%d", moment(v.Time), v.Level, v.Class+1, v.Classes)
	}
	return moment(v.Time) + " " + v.Level
}

// lockTrouble says why locks need somebody's attention.
func lockTrouble(l *embassy.Locked) string {
	switch {
	case l != nil && l.Error != "":
		return "LOCKS NOT RENEWED: " + printable(l.Error)
	case l != nil && l.Denied+l.Doubtful > 0:
		return fmt.Sprintf("LOCKS NOT RENEWED: %d denied, %d of objects that were written over", l.Denied, l.Doubtful)
	}
	return "LOCKS END SOON: embassy replicate renews them"
}

// widestState is how many characters the last column of a table may have.
const widestState = 40

// stateOfTarget says in words how a target is.
func stateOfTarget(status embassy.Status, t embassy.TargetStatus) string {
	var parts []string
	bad, aside := uint64(0), ""
	for _, f := range status.Faults {
		switch {
		case f.Target != t.Name:
		case f.Kind.Damages():
			bad++
		case f.Kind.Distrusts() && aside == "":
			aside = "SET ASIDE: " + string(f.Kind)
		}
	}
	switch {
	case aside != "":
		parts = append(parts, aside)
	case t.Err != nil:
		parts = append(parts, cause(t.Name, t.Err))
	case t.Live:
		parts = append(parts, "answers")
	}
	if bad > 0 {
		parts = append(parts, plural(bad, "bad object", "bad objects"))
	}
	if t.Verified != nil && t.Verified.Harmed > 0 {
		parts = append(parts, plural(t.Verified.Harmed, "snapshot", "snapshots")+" cannot be restored from it alone")
	}
	if len(parts) == 0 {
		parts = append(parts, "not asked")
	}
	switch {
	case t.LockDue:
		parts = append(parts, lockTrouble(t.Locked))
	case t.Locked != nil && t.Locked.Earliest != nil:
		parts = append(parts, "locked until "+t.Locked.Earliest.UTC().Format(time.DateOnly))
	}
	return strings.Join(parts, "; ")
}

func printDatasets(w io.Writer, datasets []embassy.DatasetStatus) {
	fmt.Fprintln(w, "DATASET\tPRIORITY\tSAFE (UTC)\tAGE\tRPO\tCOPIES\tGUARDED\tIN\tTIERS\tSTATE")
	for _, d := range datasets {
		age, rpo := "-", "-"
		if !d.Newest.IsZero() {
			age = whole(d.Age)
		}
		if d.RPO > 0 {
			rpo = length(d.RPO)
		}
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%d\t%d\t%s\t%s\t%s\n", d.Name, d.Priority, moment(d.Time), age, rpo,
			d.Copies, d.Guarded, dash(strings.Join(d.Jurisdictions, ",")), tiersText(d.Tiers), stateText(d))
	}
	fmt.Fprintln(w)
}

// faultsShown of one target and kind, before "and N more".
const faultsShown = 5

// printFaults lists the book of faults.
func printFaults(out io.Writer, faults []embassy.Fault) error {
	w := table(out)
	if len(faults) > 0 {
		fmt.Fprintln(w, "\nFAULT\tTARGET\tSINCE (UTC)\tOBJECT\tWHAT")
	}
	type group struct {
		target string
		kind   embassy.FaultKind
	}
	seen := map[group]int{}
	for _, f := range faults {
		g := group{f.Target, f.Kind}
		if seen[g]++; seen[g] <= faultsShown {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", f.Kind, dash(f.Target), moment(f.First), dash(title(f.Object)), printable(f.Text))
		}
	}
	for _, f := range faults {
		g := group{f.Target, f.Kind}
		if more := seen[g] - faultsShown; more > 0 {
			fmt.Fprintf(w, "%s\t%s\t\tand %d more\t--json lists all\n", f.Kind, dash(f.Target), more)
			delete(seen, g)
		}
	}
	return w.Flush()
}

// tiersText shows for each tier's target whether it has the safe snapshot:
// P+ for yes, P-3 for three entries behind.
func tiersText(tiers []embassy.TierStatus) string {
	var words []string
	for _, t := range tiers {
		word := strings.ToUpper(t.Tier.String()[:1])
		switch {
		case t.Damaged:
			word += "!"
		case t.Has:
			word += "+"
		case t.Behind > 0:
			word += fmt.Sprintf("-%d", t.Behind)
		default:
			word += "?"
		}
		words = append(words, word)
	}
	return dash(strings.Join(words, " "))
}

func stateText(d embassy.DatasetStatus) string {
	var faults []string
	switch {
	case d.Newest.IsZero() && d.Pending == nil:
		faults = append(faults, "no snapshot yet: run embassy backup")
	case d.Newest.IsZero():
		faults = append(faults, "no snapshot is safe")
	case d.Late:
		faults = append(faults, "beyond its RPO")
	}
	if p := d.Pending; p != nil {
		faults = append(faults, fmt.Sprintf("that of %s has %s and lacks %s", moment(p.Time),
			plural(uint64(p.Copies), "copy", "copies"), strings.Join(p.Missing, ", ")))
	}
	if d.Lost {
		faults = append(faults, "an object of it is LOST on every target: run embassy backup now, the sources may still have it")
	}
	for _, t := range d.Tiers {
		if t.Damaged {
			faults = append(faults, "damaged on "+t.Target+": run embassy verify --repair")
		}
	}
	last := d.LastRun
	if last != nil && (last.Exit == 1 || last.Exit == 2) {
		faults = append(faults, "the last run failed: "+oneLine(errors.New(last.Note)))
	}
	if len(faults) > 0 {
		return strings.Join(faults, "; ")
	}
	if last != nil && last.Exit == 3 {
		return "ok, " + last.Note
	}
	return "ok"
}

type tierStatus struct {
	Tier   string `json:"tier"`
	Target string `json:"target"`
	Has    bool   `json:"has_safe"`
	Behind uint64 `json:"entries_behind"`
	// Damaged: it lost or spoilt something, and counts as no copy.
	Damaged bool `json:"damaged"`
}

type lastRun struct {
	Kind     string    `json:"kind"`
	Started  time.Time `json:"started"`
	Ended    time.Time `json:"ended"`
	ExitCode int       `json:"exit_code"`
	Note     string    `json:"note,omitempty"`
}

// pending is embassy.Pending in JSON.
type pending struct {
	Snapshot string    `json:"snapshot"`
	Time     time.Time `json:"time"`
	Copies   int       `json:"copies"`
	Lacks    []string  `json:"lacks"`
}

type datasetStatus struct {
	Name          string       `json:"dataset"`
	Compartment   string       `json:"compartment"`
	Priority      int          `json:"priority"`
	Newest        string       `json:"safe,omitempty"`
	Time          *time.Time   `json:"time"`
	Age           float64      `json:"age_seconds"`
	RPO           float64      `json:"rpo_seconds,omitempty"`
	Late          bool         `json:"late"`
	Copies        int          `json:"copies"`
	Guarded       int          `json:"guarded"`
	Jurisdictions []string     `json:"jurisdictions"`
	Pending       *pending     `json:"pending"`
	Tiers         []tierStatus `json:"tiers"`
	LastRun       *lastRun     `json:"last_run"`
}

type targetStatus struct {
	Name         string     `json:"target"`
	URL          string     `json:"url"`
	Jurisdiction string     `json:"jurisdiction,omitempty"`
	AsOf         *time.Time `json:"as_of"`
	Guarded      string     `json:"guarded"`
	Behind       uint64     `json:"entries_behind"`
	Live         bool       `json:"live"`
	Error        string     `json:"error,omitempty"`

	Verified *embassy.Verified `json:"verified"`
	Locked   *embassy.Locked   `json:"locked"`
	LockDue  bool              `json:"lock_due"`
}

// fault is embassy.Fault in JSON.
type fault struct {
	Kind   string    `json:"kind"`
	Target string    `json:"target,omitempty"`
	Object string    `json:"object,omitempty"`
	Text   string    `json:"text"`
	First  time.Time `json:"first"`
	Last   time.Time `json:"last"`
}

// agentStatus is embassy.AgentStatus in JSON.
type agentStatus struct {
	ID      string   `json:"id"`
	Name    string   `json:"name,omitempty"`
	Status  string   `json:"status"`
	Used    uint64   `json:"bytes_used"`
	Quota   uint64   `json:"quota"` // bytes; 0: none
	Full    bool     `json:"above_quota"`
	Entries uint64   `json:"entries"`
	Counted uint64   `json:"entries_that_count"`
	Orphans []string `json:"datasets_without_agent"`
}

func printStatusJSON(con *console, status embassy.Status) error {
	doc := struct {
		schema
		Datasets []datasetStatus `json:"datasets"`
		Targets  []targetStatus  `json:"targets"`
		Agents   []agentStatus   `json:"agents"`
		Faults   []fault         `json:"faults"`
	}{schemaV1, []datasetStatus{}, []targetStatus{}, []agentStatus{}, []fault{}}
	for _, a := range status.Agents {
		doc.Agents = append(doc.Agents, agentStatus{a.ID.String(), a.Name, embassy.StatusWord(a.Status), a.Used, a.Quota, a.Full(),
			a.Entries, a.Counted, append([]string{}, a.Orphans...)})
	}
	for _, d := range status.Datasets {
		j := datasetStatus{
			Name: d.Name, Compartment: d.Compartment, Priority: d.Priority, Time: stamp(d.Time),
			Age: d.Age.Seconds(), RPO: d.RPO.Seconds(), Late: d.Late, Copies: d.Copies, Guarded: d.Guarded,
			Jurisdictions: append([]string{}, d.Jurisdictions...), Tiers: []tierStatus{},
		}
		if !d.Newest.IsZero() {
			j.Newest = d.Newest.String()
		}
		if p := d.Pending; p != nil {
			j.Pending = &pending{p.Snapshot.String(), p.Time.UTC(), p.Copies, append([]string{}, p.Missing...)}
		}
		for _, t := range d.Tiers {
			j.Tiers = append(j.Tiers, tierStatus{t.Tier.String(), t.Target, t.Has, t.Behind, t.Damaged})
		}
		if r := d.LastRun; r != nil {
			j.LastRun = &lastRun{r.Kind, r.Started.UTC(), r.Ended.UTC(), r.Exit, r.Note}
		}
		doc.Datasets = append(doc.Datasets, j)
	}
	for _, t := range status.Targets {
		doc.Targets = append(doc.Targets, targetStatus{t.Name, t.URL, t.Jurisdiction, stamp(t.AsOf), guardedText(t.Guarded), t.Behind, t.Live, message(t.Err), t.Verified, t.Locked, t.LockDue})
	}
	for _, f := range status.Faults {
		doc.Faults = append(doc.Faults, fault{string(f.Kind), f.Target, f.Object, f.Text, f.First.UTC(), f.Last.UTC()})
	}
	return printJSON(con.stdout, doc)
}
