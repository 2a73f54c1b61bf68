package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"embassy/embassy"
	"embassy/embassy/config"
	"embassy/embassy/format"

	"github.com/urfave/cli/v2"
	xterm "golang.org/x/term"
)

// gapsShown of a report, before "and N more".
const gapsShown = 10

type backupOptions struct {
	embassy.BackupOptions
	limits
}

func backupCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:      "backup",
		Usage:     "back up datasets, all of them when none is named",
		ArgsUsage: "[DATASET...]",
		Description: "A dataset with \"stdin: true\" holds what the command reads, and is backed up only when it is named:\n\n" +
			"   xz -dc minutes.xz | embassy backup minutes\n\n" +
			"No program tells the one behind its pipe that it failed. So write \"command: [pg_dump, -Fc, registry]\" for what a\n" +
			"program makes: when it fails, is killed or takes too long there is no snapshot, and the exit code is 1.\n\n" +
			"A dataset's pre hook runs before its backup, which does not start when that fails; its post hook runs after it,\n" +
			"also when the backup failed. docs/OPERATIONS.md says more: \"What is backed up\".",
		Flags: append([]cli.Flag{
			&cli.BoolFlag{Name: "dry-run", Usage: "read the sources and say which files are new or changed, but store nothing, and run no command and no hook"},
		}, limitFlags()...),
		Action: action(con, func(c *cli.Context) (backupOptions, error) {
			l, err := decodeLimits(c)
			return backupOptions{embassy.BackupOptions{Datasets: c.Args().Slice(), DryRun: c.Bool("dry-run")}, l}, err
		}, runBackup),
	}
}

func runBackup(ctx context.Context, o backupOptions, con *console) error {
	check := func(s *site) error {
		if s.config.Keyless() {
			return usage("%s has a nation_key, and is that of a machine that copies and checks: it backs nothing up", con.config)
		}
		if len(s.config.Datasets) == 0 {
			return usage("%s names no dataset: add one, then run embassy charter apply", con.config)
		}
		if err := knownDatasets(s.config, o.Datasets); err != nil || o.DryRun {
			return err
		}
		return fed(s.config, o.Datasets, con.stdin)
	}
	o.Stdin = con.stdin
	var reports []embassy.BackupReport
	var failure error // beside the reports of what was done before
	err := con.using(o.limits, check, func(_ *site, service *embassy.Service) error {
		reports, failure = service.Backup(ctx, o.BackupOptions)
		return nil
	})
	if err != nil {
		return err
	}
	var codes []int
	for _, r := range reports {
		codes = append(codes, r.Exit)
		for _, e := range []error{r.Err, r.PostErr} {
			if e != nil {
				con.errorf("dataset %s: %s", r.Dataset, oneLine(e))
			}
		}
	}
	if con.json {
		err = printBackupJSON(con.stdout, o.DryRun, reports)
	} else {
		told := map[string]string{}
		for i, r := range reports {
			if i > 0 {
				fmt.Fprintln(con.stdout)
			}
			if err = printBackup(con.stdout, r, told); err != nil {
				break
			}
		}
	}
	if err != nil || failure != nil {
		return errors.Join(failure, err)
	}
	return reported(codes...)
}

// knownDatasets refuses names that the configuration does not have.
func knownDatasets(cfg *config.Config, names []string) error {
	var known []string
	for _, d := range cfg.Datasets {
		known = append(known, d.Name)
	}
	for _, name := range names {
		if !slices.Contains(known, name) {
			return usage("dataset %q is not in %s, which has %s", name, cfg.File, strings.Join(known, ", "))
		}
	}
	return nil
}

// fed refuses a run that would wait for an input that nobody gives.
func fed(cfg *config.Config, names []string, stdin io.Reader) error {
	var read []string
	for _, d := range cfg.Datasets {
		if d.Stdin && slices.Contains(names, d.Name) {
			read = append(read, d.Name)
		}
	}
	if len(names) == 0 && !slices.ContainsFunc(cfg.Datasets, func(d config.Dataset) bool { return !d.Stdin }) {
		return usage("every dataset of %s has stdin, and is backed up only when it is named: run embassy backup DATASET <FILE", cfg.File)
	}
	if len(read) > 1 {
		return usage("%s have stdin, and one run has one input: name one of them", strings.Join(read, " and "))
	}
	if f, ok := stdin.(*os.File); ok && len(read) == 1 && xterm.IsTerminal(int(f.Fd())) {
		return usage("%s holds what this command reads, and that is a terminal: run embassy backup %s <FILE, or give it the output of a program", read[0], read[0])
	}
	return nil
}

// backupMeaning says what the exit code of one dataset's backup means.
var backupMeaning = map[int]string{
	0: "done",
	1: "FAILED",
	2: "NOT BACKED UP",
	3: "done, but parts of the source could not be read",
	4: "DEGRADED: the commit rule does not hold yet",
	5: "INTEGRITY FAILURE: a target shows less than it confirmed, or a chain forks",
}

// printBackup prints the report of one dataset. told has what was said of each
// target before, so that nothing is said twice.
func printBackup(out io.Writer, r embassy.BackupReport, told map[string]string) error {
	w := table(out)
	name := "no snapshot"
	switch {
	case r.DryRun:
		name = "dry run, nothing stored"
	case !r.Snapshot.IsZero():
		name = "snapshot " + short(r.Snapshot) + " of " + moment(r.Started)
	}
	fmt.Fprintf(out, "%s: %s\n", r.Dataset, name)
	if r.Err != nil && r.Files+r.Dirs == 0 {
		printGaps(w, "not read", r.Gaps)
		fmt.Fprintf(w, "  result\t%s: %s (exit code %d)\n", backupMeaning[r.Exit], reason(r), r.Exit)
		return w.Flush()
	}
	fmt.Fprintf(w, "  files\t%s new, %s changed, %s unchanged; %s, %s\n", count(r.New), count(r.Changed), count(r.Same),
		plural(r.Dirs, "folder", "folders"), plural(r.Others, "other", "others"))
	read := "read"
	if r.DryRun {
		read = "to read"
	}
	fmt.Fprintf(w, "  bytes\t%s in all, %s %s%s\n", size(r.Bytes), size(r.Read), read, added(r))
	for _, t := range r.Targets {
		state := targetState(t)
		if t.Err != nil && told[t.Target] == state {
			state = "behind, as above"
		} else {
			told[t.Target] = state
		}
		fmt.Fprintf(w, "  %s\t%s, %s: %s\n", t.Tier, t.Target, place(t.Jurisdiction), state)
	}
	if left := leftOut(r.Left); left != "" {
		fmt.Fprintf(w, "  left out\t%s\n", left)
	}
	printGaps(w, "not read", r.Gaps)
	verdict := backupMeaning[r.Exit]
	if r.Quota != nil && r.Exit == 4 && len(r.Missing) == 0 {
		verdict = "DEGRADED"
	}
	if why := reason(r); why != "" {
		verdict += ": " + why
	}
	fmt.Fprintf(w, "  result\t%s (exit code %d), in %s\n", verdict, r.Exit, length(r.Elapsed))
	return w.Flush()
}

// leftOut says what the configuration keeps out, and by which of its keys.
func leftOut(l embassy.LeftOut) string {
	var parts []string
	for _, p := range []struct {
		n               uint64
		one, many, more string
	}{
		{l.Excluded, "name", "names", " by exclude"},
		{l.Caches, "cache folder", "cache folders", " by exclude_caches"},
		{l.Larger, "file", "files", " of " + size(l.LargerBytes) + " by exclude_larger_than"},
		{l.Mounts, "mounted file system", "mounted file systems", " by one_file_system"},
	} {
		if p.n > 0 {
			parts = append(parts, plural(p.n, p.one, p.many)+p.more)
		}
	}
	return strings.Join(parts, ", ")
}

// added says how much is new, and where it went.
func added(r embassy.BackupReport) string {
	if r.DryRun {
		return ""
	}
	for _, t := range r.Targets {
		if t.Err == nil {
			return ", " + size(r.Added) + " of new packs for each target"
		}
	}
	return ", " + size(r.Added) + " of new packs, on no target yet"
}

// reason says why a dataset's exit code is not 0, as far as it can be said in
// one line.
func reason(r embassy.BackupReport) string {
	switch {
	case r.Err != nil:
		return oneLine(r.Err)
	case r.PostErr != nil:
		return oneLine(r.PostErr)
	case len(r.Missing) > 0:
		return "lacks " + strings.Join(r.Missing, ", ")
	case r.Quota != nil:
		return oneLine(r.Quota)
	}
	return ""
}

func targetState(t embassy.TargetProgress) string {
	text := size(t.Sent) + " of packs sent, has everything"
	switch {
	case t.Err != nil:
		text = "behind: " + cause(t.Target, t.Err)
	case t.Behind > 0:
		text = fmt.Sprintf("%s of packs sent, %s behind, catches up later", size(t.Sent), plural(t.Behind, "entry", "entries"))
	}
	return text
}

// printGaps lists the first gaps under a heading.
func printGaps(w io.Writer, heading string, gaps []format.Gap) {
	for i, g := range gaps {
		if i == gapsShown {
			fmt.Fprintf(w, "  %s\tand %d more\n", heading, len(gaps)-i)
			break
		}
		fmt.Fprintf(w, "  %s\t%s: %s\n", heading, printable(string(g.Path)), printable(g.Reason))
	}
}

// short is how a snapshot is named for people: a prefix long enough to be
// unique among any number of snapshots that one nation makes.
func short(h format.Hash) string { return h.String()[:12] }

// gap is format.Gap in JSON.
type gap struct {
	path
	Reason string `json:"reason"`
}

func gaps(list []format.Gap) []gap {
	out := []gap{}
	for _, g := range list {
		out = append(out, gap{newPath(string(g.Path)), g.Reason})
	}
	return out
}

// leftOutCounts is embassy.LeftOut in JSON.
type leftOutCounts struct {
	Excluded    uint64 `json:"excluded"`
	Caches      uint64 `json:"cache_folders"`
	Larger      uint64 `json:"files_too_large"`
	LargerBytes uint64 `json:"files_too_large_bytes"`
	Mounts      uint64 `json:"mounts"`
}

// targetProgress is embassy.TargetProgress in JSON.
type targetProgress struct {
	Target       string `json:"target"`
	Tier         string `json:"tier"`
	Jurisdiction string `json:"jurisdiction,omitempty"`
	Behind       uint64 `json:"entries_behind"`
	Sent         uint64 `json:"bytes_sent"`
	Error        string `json:"error,omitempty"`
}

// backupReport is embassy.BackupReport in JSON.
type backupReport struct {
	Dataset   string           `json:"dataset"`
	Snapshot  string           `json:"snapshot,omitempty"`
	Started   time.Time        `json:"started"`
	Seconds   float64          `json:"seconds"`
	Files     uint64           `json:"files"`
	Dirs      uint64           `json:"folders"`
	Others    uint64           `json:"others"`
	New       uint64           `json:"files_new"`
	Changed   uint64           `json:"files_changed"`
	Unchanged uint64           `json:"files_unchanged"`
	Bytes     uint64           `json:"bytes"`
	Read      uint64           `json:"bytes_read"`
	Added     uint64           `json:"bytes_added"`
	Targets   []targetProgress `json:"targets"`
	Lacks     []string         `json:"lacks"`
	Gaps      []gap            `json:"gaps"`
	Left      leftOutCounts    `json:"left_out"`
	Exit      int              `json:"exit_code"`
	Error     string           `json:"error,omitempty"`
	PostError string           `json:"post_error,omitempty"`
	Quota     string           `json:"quota_error,omitempty"`
}

func printBackupJSON(out io.Writer, dry bool, reports []embassy.BackupReport) error {
	doc := struct {
		schema
		DryRun   bool           `json:"dry_run"`
		Datasets []backupReport `json:"datasets"`
	}{schemaV1, dry, []backupReport{}}
	for _, r := range reports {
		b := backupReport{
			Dataset: r.Dataset, Started: r.Started.UTC(), Seconds: r.Elapsed.Seconds(),
			Files: r.Files, Dirs: r.Dirs, Others: r.Others, New: r.New, Changed: r.Changed, Unchanged: r.Same,
			Bytes: r.Bytes, Read: r.Read, Added: r.Added, Targets: []targetProgress{},
			Lacks: append([]string{}, r.Missing...), Gaps: gaps(r.Gaps), Left: leftOutCounts(r.Left),
			Exit: r.Exit, Error: message(r.Err), PostError: message(r.PostErr), Quota: message(r.Quota),
		}
		if !r.Snapshot.IsZero() {
			b.Snapshot = r.Snapshot.String()
		}
		for _, t := range r.Targets {
			b.Targets = append(b.Targets, targetProgress{t.Target, t.Tier.String(), t.Jurisdiction, t.Behind, t.Sent, message(t.Err)})
		}
		doc.Datasets = append(doc.Datasets, b)
	}
	return printJSON(out, doc)
}
