// Package config reads and writes embassy.yaml, the file that rules one
// machine: its targets, compartments, datasets and schedules.
//
// What Parse returns is complete and consistent: every name resolves, every
// default is filled in, every path is absolute, and every commit rule can be
// met by the targets it may use. Otherwise all mistakes of the file come back
// at once as *Errors, each with its position and what to write instead.
//
// A file with a nation_key and no datasets is that of a keyless machine: one
// that copies and checks sealed bytes, and backs nothing up. With datasets, the
// key is that of the nation which the machine asks to be enrolled by.
//
// It looks at nothing but the bytes of the file and the time zones of the
// system: whether a source, a folder, a credential or a target exists is for
// those who use them. It holds no secret, and refuses files that do. What the
// charter says about keys and agents is not checked here.
package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"embassy/embassy/format"
	"embassy/embassy/policy"
)

// MaxSize is the largest configuration file that is read, in bytes.
const MaxSize = 1 << 20

// Config is one configuration file. It is not modified after Parse.
type Config struct {
	File       string // absolute path of the file itself
	Nation     string
	NationLine int    // where the file names it, from 1
	StateDir   string // absolute
	Kit        string // absolute path of the recovery kit; empty: none named

	NationKey     format.NationKey // its Signer is nil when the file has none
	NationKeyLine int              // where the file has it, from 1

	Targets      []Target      // at least one, in the order of the file
	Compartments []Compartment // at least one, but for a keyless file: none is every one of the charter, on every target
	Datasets     []Dataset     // none on a machine that only replicates or restores

	PackSize int64 // bytes of a full pack: 16, 32 or 64 MiB; 0: DefaultPackSize

	Limits Limits // of all targets together
	Serve  Serve
	Notify Notify
	Spool  Spool

	warnings []Problem
}

// DefaultPackSize is the size of a full pack, in bytes, where none is given.
const DefaultPackSize = 16 << 20

// Target is one store.
type Target struct {
	Name         string
	URL          string // as targets.Parse takes it; a dir: path is absolute
	Credentials  Credentials
	CAFile       string // absolute; empty: the roots of the system
	Region       string // empty: the server's own
	Insecure     bool   // s3+http is meant, beyond loopback
	Jurisdiction string // upper case; empty: unknown, and never counted as another one
	LegalRegimes []string
	Operator     string
	Hosting      string // one of Hostings; empty: unknown
	Clearance    string
	Lock         Lock
	Limits       Limits // limit_upload and limit_download
}

// Limits bound what is sent and fetched, in bytes per second; zero: no bound.
type Limits struct {
	Upload, Download int64
}

// Hostings are the hosting models that a target may have.
var Hostings = []string{"hyperscale", "sovereign", "on-prem", "embassy", "tactical", "offline"}

// Credentials say where the keys of an S3 target are found: in two environment
// variables, or in a file, or, when all is empty, where the AWS tools look.
type Credentials struct {
	AccessKeyEnv string // name of an environment variable; set with SecretKeyEnv or not at all
	SecretKeyEnv string
	File         string // absolute path of an AWS shared credentials file
	Profile      string // its section; "default" unless the file names another
}

// Lock is the object lock that is asked of a target. The zero Lock asks for none.
type Lock struct {
	Mode string // "governance" or "compliance"
	Days int    // from the put of an object, and from every renewal; 1 to MaxLockDays
}

// Period is how long a lock lasts; 0: none is asked for.
func (l Lock) Period() time.Duration {
	if l.Mode == "" {
		return 0
	}
	return time.Duration(l.Days) * 24 * time.Hour
}

// MaxLockDays is the longest lock, in days, that stores accept: a century.
const MaxLockDays = 36500

// Compartment is a unit of keys and placement.
type Compartment struct {
	Name           string
	ID             format.ID // pseudonym in the charter; zero, unless the file is keyless
	Classification string
	Rank           int         // replicated in ascending order: as given, else the lowest priority of its datasets, else DefaultPriority
	Dedup          string      // DedupAgent, DedupCompartment, or empty: what the charter says stays
	PACE           policy.PACE // names of targets; never empty
	Commit         policy.Rule
}

// Values of dedup, whose chunks an agent reuses.
const (
	DedupAgent       = "agent"       // its own
	DedupCompartment = "compartment" // those of every agent of the compartment: they trust one another
)

// Dataset is a unit of sources, schedule and restore priority. What it holds
// comes from Sources, from S3, from Command or from Stdin: from one of them.
type Dataset struct {
	Name        string
	Compartment string
	Priority    int      // restored in ascending order; 100 unless given
	Sources     []string // absolute, clean
	Exclude     []string // patterns, as given

	OneFileSystem     bool  // other file systems below a source are left out
	ExcludeCaches     bool  // so is what folders with a valid CACHEDIR.TAG hold
	ExcludeLargerThan int64 // so are regular files of more bytes; zero: no bound

	S3       Bucket  // its objects are what is backed up
	Command  Program // its output is
	Stdin    bool    // the input of the backup is
	Filename string  // of that output or input in the snapshot; the dataset's name unless given; empty with Sources and S3

	Pre, Post Program // run before and after a backup

	RestoreFirst []string // patterns of what a restore brings back before all else

	Schedule  Schedule
	RPO, RTO  time.Duration
	Retention policy.Retention
	Label     string
	Tags      []string
}

// Program is another program to run. The zero Program is none.
type Program struct {
	Args    []string      // the program and its arguments; it gets no shell
	Timeout time.Duration // zero: no bound; of a hook DefaultHookTimeout, unless given
}

// IsZero reports whether there is none.
func (p Program) IsZero() bool { return len(p.Args) == 0 }

// DefaultHookTimeout is the Timeout of a hook that states none.
const DefaultHookTimeout = 5 * time.Minute

// DefaultMinAge is the MinAge of a dataset that states none.
const DefaultMinAge = 14 * 24 * time.Hour

// DefaultPriority is the restore priority of a dataset that states none.
const DefaultPriority = 100

// Serve is what the daemon does besides the schedules of the datasets.
type Serve struct {
	Listen      string   // HOST:PORT of /healthz and /metrics
	Replicate   Schedule // DefaultServe says when, unless the file does
	Verify      Schedule
	VerifyLevel string  // one of VerifyLevels
	Sample      float64 // share of the objects that a sample reads; above 0, at most 1
	Repair      bool    // what verify finds is mended
	Locks       Schedule
	Check       Schedule
	Forget      Schedule // never, unless the file says when; of the steward, as Prune
	Prune       Schedule
}

// VerifyLevels are the levels that the daemon, which has no reader's key, can
// verify at.
var VerifyLevels = []string{"presence", "sample", "full"}

// DefaultServe is a Serve of which the file says nothing.
var DefaultServe = Serve{
	Listen:      "127.0.0.1:9347",
	Replicate:   Schedule{Every: 15 * time.Minute},
	Verify:      Schedule{Every: day},
	VerifyLevel: "sample",
	Sample:      0.05,
	Repair:      true,
	Locks:       Schedule{Every: day},
	Check:       Schedule{Every: 7 * day},
}

// Notify says whom to tell about the outcome of scheduled runs.
type Notify struct {
	Command      []string // program, absolute, and its arguments
	HeartbeatURL string   // http or https
}

// Spool bounds what waits on this machine for a target.
type Spool struct {
	MaxBytes int64 // zero: no bound is configured
}

// Keyless reports whether the file is that of a machine that holds no key of
// the nation.
func (c *Config) Keyless() bool { return c.NationKey.Signer != nil && len(c.Datasets) == 0 }

// Target returns the target of that name.
func (c *Config) Target(name string) (Target, bool) {
	for _, t := range c.Targets {
		if t.Name == name {
			return t, true
		}
	}
	return Target{}, false
}

// Compartment returns the compartment of that name.
func (c *Config) Compartment(name string) (Compartment, bool) {
	for _, k := range c.Compartments {
		if k.Name == name {
			return k, true
		}
	}
	return Compartment{}, false
}

// Warnings returns what is allowed but probably not meant, in the order of
// the file.
func (c *Config) Warnings() []Problem { return c.warnings }

// Load reads and parses the file. Mistakes in it are *Errors; a file that
// cannot be read gives an error that wraps the cause.
func Load(path string) (*Config, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read configuration: %w; name the file with --config, or write one with embassy init", err)
	}
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	return Parse(path, data)
}
