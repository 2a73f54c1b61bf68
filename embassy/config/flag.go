package config

import (
	"fmt"
	"path/filepath"
	"strings"

	"embassy/targets"

	"go.yaml.in/yaml/v3"
)

// ParseTargetFlag is ParseTargetFlags for one value.
func ParseTargetFlag(value string) (Target, error) {
	parsed, err := ParseTargetFlags([]string{value})
	if err != nil {
		return Target{}, err
	}
	return parsed[0], nil
}

// ParseTargetFlags reads the values of --target: NAME=URL, and after it
// key=value pairs with commas between them, with the keys of a target in the
// file. access_key_env and secret_key_env stand for credentials, and
// legal_regimes is written EE+EU. Relative paths start from the working
// directory. Mistakes are *Errors, of all values at once.
func ParseTargetFlags(values []string) ([]Target, error) {
	base, err := filepath.Abs(".")
	if err != nil {
		return nil, fmt.Errorf("locate the working directory: %w", err)
	}
	s := &sections{
		reader: &reader{base: base}, Config: new(Config),
		taken: make(map[string]*yaml.Node), stores: make(map[targets.Location]*yaml.Node),
	}
	for _, value := range values {
		s.targetFlag(value)
	}
	if len(s.problems) > 0 {
		return nil, &Errors{Problems: s.problems}
	}
	return s.Targets, nil
}

// targetFlag turns the value into the mapping that the file would hold, so
// that both are read by the same rules.
func (s *sections) targetFlag(value string) {
	name, rest, ok := strings.Cut(value, "=")
	s.file = "--target " + name
	root := &yaml.Node{Kind: yaml.MappingNode}
	if !ok {
		s.fail(root, "there is no = between name and URL", "write NAME=URL, such as tallinn=s3+https://HOST/BUCKET,jurisdiction=EE")
		return
	}
	parts := strings.Split(rest, ",")
	root.Content = []*yaml.Node{scalar("name"), scalar(name), scalar("url"), scalar(parts[0])}
	credentials := &yaml.Node{Kind: yaml.MappingNode}
	for _, part := range parts[1:] {
		k, v, ok := strings.Cut(part, "=")
		if !ok {
			s.fail(root, quote(part)+" has no =", "write key=value, such as jurisdiction=EE; a path that contains a comma can only stand in the configuration file")
			continue
		}
		into, node := root, scalar(v)
		switch k {
		case "access_key_env", "secret_key_env":
			into = credentials
		case "legal_regimes":
			node = &yaml.Node{Kind: yaml.SequenceNode}
			for regime := range strings.SplitSeq(v, "+") {
				node.Content = append(node.Content, scalar(regime))
			}
		case "insecure":
			if v == "true" || v == "false" {
				node.Tag = "!!bool"
			}
		}
		into.Content = append(into.Content, scalar(k), node)
	}
	if len(credentials.Content) > 0 {
		root.Content = append(root.Content, scalar("credentials"), credentials)
	}
	s.target(root)
}
