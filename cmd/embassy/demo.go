package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"embassy/embassy"
	"embassy/embassy/config"
	"embassy/embassy/policy"
	"embassy/targets"

	"github.com/google/renameio/v2"
	"github.com/urfave/cli/v2"
)

type demoOptions struct {
	dir  string // empty: the system's folder for temporary files
	keep bool
}

func demoCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:  "demo",
		Usage: "back up to four jurisdictions, lose two of them in part, restore everything",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "dir", Usage: "work in a new folder below `DIR` (default: the system's temporary folder); about 400 MB"},
			&cli.BoolFlag{Name: "keep", Usage: "do not remove that folder at the end"},
		},
		Action: action(con, func(c *cli.Context) (demoOptions, error) {
			return demoOptions{dir: c.String("dir"), keep: c.Bool("keep")}, noArguments(c)
		}, runDemo),
	}
}

func runDemo(ctx context.Context, o demoOptions, con *console) (err error) {
	dir, err := os.MkdirTemp(o.dir, "embassy-demo-")
	if err != nil {
		return fmt.Errorf("make a folder for the demo: %w", err)
	}
	defer func() {
		if o.keep || err != nil {
			con.notef("The demo's folder is kept: %s", dir)
			return
		}
		err = os.RemoveAll(dir)
	}()
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	d := &demo{dir: dir, out: con.stdout, con: &console{
		stdin: strings.NewReader(""), stdout: io.Discard, stderr: indented{con.stdout},
		config: filepath.Join(dir, "embassy.yaml"), quiet: true, level: con.level,
	}}
	return d.run(ctx)
}

// demo runs the main job with the code that the commands run.
type demo struct {
	dir  string
	out  io.Writer // what happens, in plain words
	con  *console  // quiet; of the demo's own configuration
	step int
}

var (
	demoDatasets = []string{"population", "land"}
	demoTargets  = []string{
		"tallinn=%s,jurisdiction=EE,hosting=on-prem",
		"luxembourg=%s,jurisdiction=LU,hosting=embassy",
		"helsinki=%s,jurisdiction=FI,hosting=sovereign",
		"vault=%s,jurisdiction=CH,hosting=offline",
	}
)

// path names something in the demo's folder.
func (d *demo) path(elem ...string) string {
	return filepath.Join(append([]string{d.dir}, elem...)...)
}

func (d *demo) say(format string, args ...any) { fmt.Fprintf(d.out, "   "+format+"\n", args...) }

// next announces a step.
func (d *demo) next(format string, args ...any) {
	d.step++
	fmt.Fprintf(d.out, "\n%d. "+format+"\n", append([]any{d.step}, args...)...)
}

func (d *demo) run(ctx context.Context) error {
	start := time.Now()
	for _, step := range []func(context.Context) error{d.sample, d.init, d.backup, d.backupAgain, d.disaster} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	report, err := d.restore(ctx)
	if err != nil {
		return err
	}
	total, err := d.compare(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintln(d.out)
	for _, part := range report.Datasets {
		for _, s := range part.Served {
			fmt.Fprintf(d.out, "%s: tier %s (%s) served %s.\n", part.Dataset, s.Tier, s.Target, size(s.Bytes))
		}
	}
	_, err = fmt.Fprintf(d.out, "Every byte matched: %s, %s, with every mode, time and link, in %s.\n",
		plural(total.files, "file", "files"), size(total.bytes), length(time.Since(start)))
	return err
}

func (d *demo) sample(ctx context.Context) error {
	d.next("The nation's data: a population register, and a land register with its documents.")
	for _, dataset := range demoDatasets {
		if err := writeSample(ctx, d.path("data", dataset), dataset); err != nil {
			return fmt.Errorf("write sample data: %w", err)
		}
		total, err := measure(d.path("data", dataset))
		if err != nil {
			return err
		}
		d.say("%s: %s, %s", dataset, plural(total.files, "file", "files"), size(total.bytes))
	}
	return nil
}

func (d *demo) init(ctx context.Context) (err error) {
	d.next("embassy init: the root, its recovery kit, and four targets in four jurisdictions.")
	var flags, sources []string
	for _, t := range demoTargets {
		name, _, _ := strings.Cut(t, "=")
		flags = append(flags, fmt.Sprintf(t, "dir:"+d.path("targets", name)))
	}
	for _, dataset := range demoDatasets {
		sources = append(sources, d.path("data", dataset))
	}
	stores, err := config.ParseTargetFlags(flags)
	if err != nil {
		return err
	}
	var text bytes.Buffer
	if err := config.Write(&text, config.Draft{Nation: "demo", Kit: "./kit.txt", Targets: stores, Sources: sources}); err != nil {
		return err
	}
	phrase := []byte(rand.Text())
	err = errors.Join(
		renameio.WriteFile(d.con.config, text.Bytes(), 0o600),
		renameio.WriteFile(d.path("passphrase"), append(phrase, '\n'), 0o600),
		os.Mkdir(d.path("targets"), 0o700),
	)
	if err != nil {
		return err
	}
	s, err := d.con.openSiteWith(targets.CreateDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	service, err := s.service()
	if err != nil {
		return err
	}
	report, err := service.Init(ctx, embassy.InitOptions{Passphrase: phrase, KitPath: s.config.Kit, AgentName: "demo", Steward: true})
	if err != nil {
		return err
	}
	for _, t := range report.Targets {
		if t.Err != nil {
			return fmt.Errorf("target %s: %w", t.Target, t.Err)
		}
	}
	for _, c := range s.config.Compartments {
		for tier, names := range c.PACE.Tiers() {
			t, _ := s.config.Target(strings.Join(names, ""))
			d.say("%-11s %s (%s)", policy.Tier(tier), t.Name, t.Jurisdiction)
		}
		d.say("a backup counts with %s", ruleText(c.Commit))
	}
	d.say("root fingerprint %s", report.Fingerprint)
	return nil
}

func (d *demo) backup(ctx context.Context) error {
	d.next("embassy backup: read, sealed and compressed once, the same bytes to all four. No passphrase is needed.")
	reports, err := d.runBackup(ctx)
	if err != nil {
		return err
	}
	for _, r := range reports {
		d.say("%s: %s read, %s added to each target, in %s", r.Dataset, size(r.Read), size(r.Added), length(r.Elapsed))
	}
	return nil
}

func (d *demo) backupAgain(ctx context.Context) error {
	d.next("embassy backup again: nothing has changed.")
	before, err := d.packs("tallinn")
	if err != nil {
		return err
	}
	reports, err := d.runBackup(ctx)
	if err != nil {
		return err
	}
	after, err := d.packs("tallinn")
	if err != nil {
		return err
	}
	if len(after) != len(before) {
		return fmt.Errorf("the second backup uploaded %d packs, and nothing had changed", len(after)-len(before))
	}
	for _, r := range reports {
		d.say("%s: %s unchanged, no pack uploaded, in %s", r.Dataset, plural(r.Same, "file", "files"), length(r.Elapsed))
	}
	return nil
}

func (d *demo) runBackup(ctx context.Context) (reports []embassy.BackupReport, err error) {
	s, err := d.con.openSite()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if err := s.openCatalog(); err != nil {
		return nil, err
	}
	service, err := s.service()
	if err != nil {
		return nil, err
	}
	if reports, err = service.Backup(ctx, embassy.BackupOptions{}); err != nil {
		return nil, err
	}
	for _, r := range reports {
		if r.Exit != 0 {
			return nil, fmt.Errorf("backup of %s: exit code %d: %s", r.Dataset, r.Exit, reason(r))
		}
	}
	return reports, nil
}

// disaster loses Primary and this machine's state, and damages Alternate.
func (d *demo) disaster(context.Context) error {
	d.next("The disaster.")
	err := errors.Join(
		os.Rename(d.path("targets", "tallinn"), d.path("targets", "tallinn-burnt")),
		os.Rename(d.path("state"), d.path("state-burnt")),
	)
	if err != nil {
		return err
	}
	d.say("Primary burns (tallinn), and with it this machine's keys and catalog.")
	packs, err := d.packs("luxembourg")
	if err != nil {
		return err
	}
	if len(packs) == 0 {
		return errors.New("luxembourg holds no pack")
	}
	largest := packs[0]
	for _, p := range packs {
		if p.size > largest.size {
			largest = p
		}
	}
	if err := flip(largest.path, largest.size/2); err != nil {
		return err
	}
	d.say("One bit turns in the middle of a pack of %s on Alternate (luxembourg):", size(uint64(largest.size)))
	d.say("pack %s", filepath.Base(largest.path))
	return nil
}

// flip turns one bit of a file.
func flip(path string, offset int64) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	b := make([]byte, 1)
	_, err = f.ReadAt(b, offset)
	if err == nil {
		b[0] ^= 0x10
		_, err = f.WriteAt(b, offset)
	}
	return errors.Join(err, f.Close())
}

func (d *demo) restore(ctx context.Context) (report embassy.RestoreReport, err error) {
	d.next("embassy restore --all: with the recovery kit, its passphrase and what is left.")
	s, err := d.con.openSite()
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	view, keys, err := reader{phrases: d.path("passphrase")}.open(ctx, s, d.con)
	if err != nil {
		return report, err
	}
	picked, _, err := pick(view, keys, restoreOptions{all: true})
	if err != nil {
		return report, err
	}
	report, err = view.Restore(ctx, embassy.RestoreOptions{Snapshots: picked, To: d.path("restored"), Owners: embassy.OwnersHere()})
	if err != nil {
		return report, err
	}
	bad := 0
	for _, part := range report.Datasets {
		bad += len(part.Bad)
		d.say("%s (priority %d): %s, %s", part.Dataset, picked[0].Summary.Priority, plural(part.Files, "file", "files"), size(part.Bytes))
		picked = picked[1:]
	}
	if bad == 0 {
		return report, errors.New("the damaged pack was read, and nobody noticed")
	}
	d.say("in %s; the damaged copy was found, and another target served it", length(report.Elapsed))
	return report, nil
}

// compare is the demo's own judge: it shares no code with the restore.
func (d *demo) compare(ctx context.Context) (tally, error) {
	d.next("Compare the restored files with the originals, byte by byte.")
	var total tally
	for _, dataset := range demoDatasets {
		source := d.path("data", dataset)
		t, err := compareTrees(ctx, source, d.path("restored", dataset, source))
		if err != nil {
			return total, fmt.Errorf("the restored %s is not what was backed up: %w", dataset, err)
		}
		total.files, total.bytes = total.files+t.files, total.bytes+t.bytes
		d.say("%s: the same", dataset)
	}
	return total, nil
}

type packFile struct {
	path string
	size int64
}

// packs lists the packs on a target.
func (d *demo) packs(target string) ([]packFile, error) {
	var found []packFile
	err := filepath.WalkDir(d.path("targets", target), func(p string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() || !strings.Contains(filepath.ToSlash(p), "/pack/") {
			return err
		}
		info, err := e.Info()
		found = append(found, packFile{p, infoSize(info)})
		return err
	})
	return found, err
}

func infoSize(info fs.FileInfo) int64 {
	if info == nil {
		return 0
	}
	return info.Size()
}

// indented writes lines of warnings below a step of the demo.
type indented struct{ w io.Writer }

func (i indented) Write(p []byte) (int, error) {
	for line := range strings.Lines(string(p)) {
		if _, err := io.WriteString(i.w, "   "+line); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}
