// Package config reads and writes embassy.yaml, the file that rules one
// machine: its targets, compartments, datasets and schedules.
//
// What Parse returns is complete and consistent: every name resolves, every
// default is filled in, every path is absolute, and every commit rule can be
// met by the targets it may use. Otherwise all mistakes of the file come back
// at once as *Errors, each with its position and what to write instead.
//
// It looks at nothing but the bytes of the file: whether a source, a folder, a
// credential or a target exists is for those who use them. It holds no secret,
// and refuses files that do. What the charter says about keys and agents is
// not checked here.
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

	Targets      []Target      // at least one, in the order of the file
	Compartments []Compartment // at least one
	Datasets     []Dataset     // none on a machine that only replicates or restores

	Notify Notify
	Spool  Spool

	warnings []Problem
}

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
	Mode   string        // "governance" or "compliance"
	Period time.Duration // from the put of an object
}

// Compartment is a unit of keys and placement.
type Compartment struct {
	Name           string
	ID             format.ID // its pseudonym, on a machine without keys; else zero
	Rank           int       // of copying, ascending; 0: not given
	Classification string
	PACE           policy.PACE // names of targets; never empty
	Commit         policy.Rule
}

// Dataset is a unit of sources, schedule and restore priority.
type Dataset struct {
	Name        string
	Compartment string
	Priority    int      // restored in ascending order; 100 unless given
	Sources     []string // absolute, clean, at least one
	Exclude     []string // patterns, as given
	Schedule    string   // five cron fields or a macro such as @daily; empty: not scheduled
	RPO, RTO    time.Duration
	Retention   Retention
	Label       string
	Tags        []string
}

// Retention says which snapshots are kept. When no count and no Within is set,
// all are.
type Retention struct {
	Last, Hourly, Daily, Weekly, Monthly, Yearly int

	Within time.Duration // everything younger is kept; zero: not asked for
	MinAge time.Duration // nothing younger is ever forgotten; 14 days unless given
}

// DefaultMinAge is the MinAge of a dataset that states none.
const DefaultMinAge = 14 * 24 * time.Hour

// DefaultPriority is the restore priority of a dataset that states none.
const DefaultPriority = 100

// Notify says whom to tell about the outcome of scheduled runs.
type Notify struct {
	Command      []string // program, absolute, and its arguments
	HeartbeatURL string   // http or https
}

// Spool bounds what waits on this machine for a target.
type Spool struct {
	MaxBytes int64 // zero: no bound is configured
}

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
