package config

import (
	"bytes"
	_ "embed"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"time"

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

//go:embed embassy.yaml.tmpl
var fileTemplate string

var draftTemplate = template.Must(template.New("embassy.yaml").Funcs(template.FuncMap{
	"text":    plainOrQuoted,
	"list":    flowList,
	"env":     func(s string) string { return strings.ToUpper(strings.ReplaceAll(s, "-", "_")) },
	"seconds": func(d time.Duration) string { return fmt.Sprintf("%ds", int64(d/time.Second)) },
	"s3":      func(t Target) bool { return !strings.HasPrefix(t.URL, "dir:") },
}).Parse(fileTemplate))

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
	var out bytes.Buffer
	err = draftTemplate.Execute(&out, struct {
		Draft
		PACE     policy.PACE
		Commit   policy.Rule
		Datasets []Dataset
	}{d, defaultPACE(names), policy.DefaultRule(possible), datasets})
	if err != nil {
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
