package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path/filepath"
	"strings"
	"unicode"
	"unicode/utf8"

	"embassy/embassy/format"
	"embassy/targets"

	"go.yaml.in/yaml/v3"
)

// Parse reads the bytes of a configuration file. name is its path: it stands
// in messages, and relative paths in the file start from its folder. data is
// only borrowed. Mistakes are *Errors.
func Parse(name string, data []byte) (*Config, error) {
	path, err := filepath.Abs(name)
	if err != nil {
		return nil, fmt.Errorf("locate configuration: %w", err)
	}
	r := &reader{file: name, base: filepath.Dir(path)}
	c := &Config{File: path, Serve: DefaultServe}
	if root := r.document(data); root != nil {
		r.config(root, c)
	}
	sortProblems(r.problems)
	sortProblems(r.warnings)
	if len(r.problems) > 0 {
		return nil, &Errors{Problems: r.problems}
	}
	c.warnings = r.warnings
	return c, nil
}

const targetsHint = `write "targets:" and below it "  - name: NAME" and "    url: URL"`

const startHint = `start with "nation: NAME" and "targets:", or let embassy init write the file`

// document returns the only document of the file, or nil after reporting why
// there is none.
func (r *reader) document(data []byte) *yaml.Node {
	start := &yaml.Node{Line: 1, Column: 1}
	if len(data) > MaxSize {
		r.fail(start, fmt.Sprintf("the file is larger than %d bytes", MaxSize), "check that this is the configuration, and shorten it")
		return nil
	}
	documents, err := decode(data)
	if err != nil {
		r.problems = append(r.problems, r.syntax(data, err))
		return nil
	}
	if len(documents) == 0 || documents[0].Content[0].ShortTag() == "!!null" {
		r.fail(start, "the file is empty", startHint)
		return nil
	}
	if len(documents) > 1 {
		r.fail(documents[1], "a second document starts here", "remove the --- line and what follows, or merge it into the first")
		return nil
	}
	root := documents[0].Content[0]
	if r.aliases(root); len(r.problems) > 0 {
		return nil
	}
	return root
}

// decode returns up to two documents.
func decode(data []byte) ([]*yaml.Node, error) {
	var documents []*yaml.Node
	for d := yaml.NewDecoder(bytes.NewReader(data)); len(documents) < 2; {
		n := new(yaml.Node)
		if err := d.Decode(n); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
		documents = append(documents, n)
	}
	return documents, nil
}

// aliases reports every alias: a file that others must be able to trust at a
// glance says what it means where it means it.
func (r *reader) aliases(n *yaml.Node) {
	if n.Kind == yaml.AliasNode {
		r.fail(n, fmt.Sprintf("aliases such as *%s are not used here", n.Value),
			fmt.Sprintf("repeat the value, or quote it when the text \"*%s\" is meant", n.Value))
	}
	for _, child := range n.Content {
		r.aliases(child)
	}
}

// syntax places an error of the YAML parser. The parser's own line is often
// that of an enclosing block; the first line that makes the file unreadable is
// the one after the longest readable beginning.
func (r *reader) syntax(data []byte, err error) Problem {
	message := strings.TrimPrefix(err.Error(), "yaml: ")
	line := 1
	if _, scanErr := fmt.Sscanf(message, "line %d:", &line); scanErr == nil {
		_, message, _ = strings.Cut(message, ": ")
	}
	lines := bytes.SplitAfter(data, []byte("\n"))
	end, budget := len(data), 4*MaxSize // bytes to parse again, at most
	for i := len(lines) - 1; i >= 0 && budget > 0; i-- {
		end -= len(lines[i])
		budget -= end
		if _, err := decode(data[:end]); err == nil {
			line = i + 1
			break
		}
	}
	p := Problem{
		File: r.file, Line: line, Column: 1,
		Message: "not valid YAML: " + message,
		Hint:    `look here and one line above for wrong indentation, an open bracket or quote, a missing space after a colon, or a text that needs quotes because it contains ": " or starts with *, &, !, %, @ or a bracket`,
	}
	if line < 1 || line > len(lines) {
		p.Line = max(1, min(line, len(lines)))
		return p
	}
	text := string(lines[line-1])
	indent := text[:len(text)-len(strings.TrimLeft(text, " \t"))]
	p.Column = len(indent) + 1
	if tab := strings.IndexByte(indent, '\t'); tab >= 0 {
		p.Column = tab + 1
		p.Message, p.Hint = "a tab cannot indent YAML", "write spaces instead"
	}
	return p
}

// config reads the whole file. Targets come before compartments, and those
// before datasets, wherever they stand, so that references can be checked.
func (r *reader) config(root *yaml.Node, c *Config) {
	s := &sections{reader: r, Config: c, taken: make(map[string]*yaml.Node), stores: make(map[targets.Location]*yaml.Node), tiers: make(map[string]bool)}
	var compartments, datasets, serve *yaml.Node
	r.mapping(root, "the configuration",
		key{"nation", r.text("nation", func(n *yaml.Node, name string) {
			if utf8.RuneCountInString(name) > 63 || name != strings.TrimSpace(name) || strings.ContainsFunc(name, func(c rune) bool { return !unicode.IsPrint(c) }) {
				r.fail(n, fmt.Sprintf("%s cannot name a nation", quote(name)), "write at most 63 printable characters, such as ee")
			}
			c.Nation, c.NationLine = name, n.Line
		}), `write "nation: NAME"`},
		key{"nation_key", r.text("nation_key", func(n *yaml.Node, text string) {
			s.keyless = true
			k, err := format.ParseNationKey(text)
			if err != nil {
				r.fail(n, "this is no nation key: it has 32 hexadecimal digits, a colon, and the digits of the public key that signs charters",
					copyHint)
				return
			}
			c.NationKey, c.NationKeyLine = k, n.Line
		}), ""},
		key{"state_dir", r.path("state_dir", &c.StateDir), `write "state_dir: ./state"`},
		key{"kit", r.path("kit", &c.Kit), ""},
		key{"targets", func(n *yaml.Node) {
			r.sequence("targets", s.target)(n)
			if n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
				r.fail(n, "targets is an empty list", targetsHint)
			}
			if len(s.Targets) > format.MaxTargets {
				r.fail(s.named[format.MaxTargets], fmt.Sprintf("there are %d targets, and a nation has at most %d", len(s.Targets), format.MaxTargets), "remove some of them")
			}
		}, targetsHint},
		key{"compartments", func(n *yaml.Node) { compartments = n }, ""},
		key{"datasets", func(n *yaml.Node) { datasets = n }, ""},
		key{"pack_size", s.packSize, ""},
		key{"limits", s.limits, ""},
		key{"serve", func(n *yaml.Node) { serve = n }, ""},
		key{"notify", s.notify, ""},
		key{"spool", s.spool, ""},
	)
	if root.Kind != yaml.MappingNode {
		return
	}
	s.keyless = s.keyless && (datasets == nil || len(datasets.Content) == 0)
	s.compartments(compartments)
	if datasets != nil {
		s.taken = make(map[string]*yaml.Node)
		r.sequence("datasets", s.dataset)(datasets)
	}
	if serve != nil {
		s.serve(serve)
	}
	s.rank()
	s.advise()
}

func (s *sections) packSize(n *yaml.Node) {
	const hint = "write 16MiB, which is the default, 32MiB or 64MiB"
	before := len(s.problems)
	s.quantity("pack_size", "size", ParseSize, &s.PackSize, hint)(n)
	if size := s.PackSize; len(s.problems) == before && (size < 16<<20 || size > format.MaxPackSize || size&(size-1) != 0) {
		s.fail(n, fmt.Sprintf("pack_size cannot be %s", quote(n.Value)), hint)
	}
}

func (s *sections) limits(n *yaml.Node) {
	s.mapping(n, "limits", key{"upload", s.rate("upload", &s.Limits.Upload), ""}, key{"download", s.rate("download", &s.Limits.Download), ""})
}

func (s *sections) notify(n *yaml.Node) {
	s.mapping(n, "notify",
		key{"command", s.words("command", &s.Notify.Command), ""},
		key{"heartbeat_url", s.text("heartbeat_url", func(n *yaml.Node, text string) {
			u, err := url.Parse(text)
			if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
				s.fail(n, "heartbeat_url is not a web address", "write https://HOST/PATH")
				return
			}
			s.Notify.HeartbeatURL = text
		}), ""},
	)
	if c := s.Notify.Command; len(c) > 0 && !filepath.IsAbs(c[0]) {
		s.fail(n, fmt.Sprintf("the program %s of command is not an absolute path", quote(c[0])), "write the whole path, such as /usr/local/bin/"+filepath.Base(c[0]))
	}
}

func (s *sections) spool(n *yaml.Node) {
	s.mapping(n, "spool", key{"max_bytes", s.quantity("max_bytes", "size", ParseSize, &s.Spool.MaxBytes,
		"write a number of bytes, or one with a unit such as 500MB or 10GiB"), ""})
}
