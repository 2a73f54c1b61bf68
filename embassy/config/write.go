package config

import (
	"bytes"
	"embed"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"

	"embassy/embassy/format"
	"embassy/embassy/policy"

	"go.yaml.in/yaml/v3"
)

// Draft is what a new configuration file is written from.
type Draft struct {
	Nation   string
	StateDir string   // as it shall stand in the file; empty: ./state
	Kit      string   // as it shall stand in the file; empty: no kit is named
	Targets  []Target // in PACE order; paths absolute, as ParseTargetFlags returns them
	Sources  []string // one dataset each, in order of restore priority; made absolute here
}

//go:embed *.yaml.tmpl
var templateFiles embed.FS

var templates = template.Must(template.New("").Funcs(template.FuncMap{
	"text": plainOrQuoted,
	"list": flowList,
	"env":  envStem,
	"rate": rateText,
	"s3":   func(t Target) bool { return !strings.HasPrefix(t.URL, "dir:") },
}).ParseFS(templateFiles, "*.yaml.tmpl"))

// Write writes a commented configuration file. What it writes parses; a draft
// of which that is not true is refused with *Errors, and nothing is written.
func Write(w io.Writer, d Draft) error {
	if d.StateDir == "" {
		d.StateDir = "./state"
	}
	names := make([]string, len(d.Targets))
	possible := make([]policy.Copy, len(d.Targets))
	for i, t := range d.Targets {
		names[i] = t.Name
		possible[i] = policy.Copy{Target: t.Name, Jurisdiction: t.Jurisdiction}
	}
	datasets, err := draftDatasets(d.Sources)
	if err != nil {
		return err
	}
	return compose(w, "embassy.yaml.tmpl", struct {
		Draft
		PACE     policy.PACE
		Commit   policy.Rule
		Datasets []Dataset
	}{d, defaultPACE(names), policy.DefaultRule(possible), datasets})
}

// Replicator is what the configuration of a keyless machine is written from.
type Replicator struct {
	Nation       string
	Key          format.NationKey
	Targets      []Target      // credentials are left out; the file names variables to fill in
	Compartments []Compartment // with their pseudonyms; names are left out
}

// WriteReplicator writes a commented keyless configuration. What it writes
// parses, and holds no secret.
func WriteReplicator(w io.Writer, r Replicator) error {
	r.Targets, r.Compartments = slices.Clone(r.Targets), slices.Clone(r.Compartments)
	for i := range r.Targets {
		t := &r.Targets[i]
		t.Credentials = Credentials{}
		if !strings.HasPrefix(t.URL, "dir:") {
			t.Credentials = Credentials{AccessKeyEnv: envStem(t.Name) + "_KEY", SecretKeyEnv: envStem(t.Name) + "_SECRET"}
		}
	}
	for i := range r.Compartments {
		c := &r.Compartments[i]
		c.Name = c.ID.String()[:12]
	}
	return compose(w, "replicator.yaml.tmpl", r)
}

// compose executes a template, and writes the result if it parses.
func compose(w io.Writer, name string, data any) error {
	var out bytes.Buffer
	if err := templates.ExecuteTemplate(&out, name, data); err != nil {
		return fmt.Errorf("compose configuration: %w", err)
	}
	if _, err := Parse("embassy.yaml", out.Bytes()); err != nil {
		return fmt.Errorf("compose configuration: %w", err)
	}
	if _, err := w.Write(out.Bytes()); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	return nil
}

// draftDatasets names a dataset after the last element of each source.
func draftDatasets(sources []string) ([]Dataset, error) {
	var datasets []Dataset
	for i, source := range sources {
		path, err := filepath.Abs(source)
		if err != nil {
			return nil, fmt.Errorf("locate source %s: %w", source, err)
		}
		stem := sanitise(filepath.Base(path))
		name := stem
		for n := 2; slices.ContainsFunc(datasets, func(d Dataset) bool { return d.Name == name }); n++ {
			suffix := fmt.Sprintf("-%d", n)
			name = strings.TrimRight(stem[:min(len(stem), 63-len(suffix))], "-") + suffix
		}
		datasets = append(datasets, Dataset{Name: name, Priority: i + 1, Sources: []string{path}})
	}
	return datasets, nil
}

// envStem is what the environment variables of a target start with.
func envStem(name string) string {
	stem := strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
	if stem != "" && stem[0] >= '0' && stem[0] <= '9' {
		return "TARGET_" + stem
	}
	return stem
}

// SizeText writes a size exactly, as ParseSize reads it.
func SizeText(n uint64) string {
	if n > math.MaxInt64 {
		return strconv.FormatUint(n, 10)
	}
	return rateText(int64(n))
}

// rateText writes a rate as ParseRate reads it.
func rateText(rate int64) string {
	for _, unit := range []struct {
		name string
		size int64
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}} {
		if rate%unit.size == 0 {
			return strconv.FormatInt(rate/unit.size, 10) + unit.name
		}
	}
	return strconv.FormatInt(rate, 10)
}

var plainText = regexp.MustCompile(`^[A-Za-z0-9/.]([A-Za-z0-9/._+:@-]*[A-Za-z0-9/._+@-])?$`)

// plainOrQuoted writes a text so that YAML reads it as the same text.
func plainOrQuoted(s string) string {
	var items []any
	err := yaml.Unmarshal([]byte("["+s+"]"), &items)
	if plainText.MatchString(s) && err == nil && len(items) == 1 && items[0] == s {
		return s
	}
	return strconv.Quote(s)
}

func flowList(items []string) string {
	texts := make([]string, len(items))
	for i, item := range items {
		texts[i] = plainOrQuoted(item)
	}
	return "[" + strings.Join(texts, ", ") + "]"
}
