package config

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"embassy/embassy/format"

	"go.yaml.in/yaml/v3"
)

// reader walks the nodes of one file and collects what is wrong with them. Its
// methods named after a type return a function that stores a node's value, or
// reports why it cannot and leaves the destination as it was.
type reader struct {
	file     string // for messages
	base     string // absolute folder that relative paths start from
	problems []Problem
	warnings []Problem
}

func (r *reader) at(n *yaml.Node, message, hint string) Problem {
	return Problem{File: r.file, Line: n.Line, Column: n.Column, Message: message, Hint: hint}
}

func (r *reader) fail(n *yaml.Node, message, hint string) {
	r.problems = append(r.problems, r.at(n, message, hint))
}

func (r *reader) warn(n *yaml.Node, message, hint string) {
	r.warnings = append(r.warnings, r.at(n, message, hint))
}

// key is a known key of a mapping.
type key struct {
	name string
	read func(*yaml.Node)
	need string // when not empty the key is required, and this is what to write
}

// mapping reads the values of the known keys, in the order of keys and not of
// the file, and reports all other keys. A key without a value counts as absent.
func (r *reader) mapping(n *yaml.Node, what string, keys ...key) {
	names := make([]string, len(keys))
	for i, k := range keys {
		names[i] = k.name
	}
	if n.Kind != yaml.MappingNode {
		kind := "a list"
		if n.Kind == yaml.ScalarNode {
			kind = "a single value" // it may be a secret, and is not shown
		}
		r.fail(n, what+" must be a mapping, not "+kind, "write it as key: value, with the keys "+strings.Join(names, ", "))
		return
	}
	values := make(map[string]*yaml.Node)
	first := make(map[string]*yaml.Node)
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		switch {
		case k.Kind != yaml.ScalarNode || k.ShortTag() != "!!str":
			r.fail(k, "a key of "+what+" must be a word", "write one of "+among(names))
		case !slices.Contains(names, k.Value):
			r.unknown(k, what, names)
		case first[k.Value] != nil:
			r.fail(k, k.Value+" is already given"+line(first[k.Value]), "keep one of them")
		default:
			first[k.Value] = k
			if v.ShortTag() != "!!null" {
				values[k.Value] = v
			}
		}
	}
	for _, k := range keys {
		if v := values[k.name]; v != nil {
			k.read(v)
		} else if at := first[k.name]; at != nil && k.need != "" {
			r.fail(at, k.name+" has no value", k.need)
		} else if k.need != "" {
			r.fail(n, what+" has no "+k.name, k.need)
		}
	}
}

var (
	keySecrets    = []string{"access_key", "secret_key", "access_key_id", "secret_access_key", "aws_access_key_id", "aws_secret_access_key", "session_token", "token", "secret"}
	phraseSecrets = []string{"passphrase", "password", "passwd"}
)

func (r *reader) unknown(k *yaml.Node, what string, names []string) {
	word := strings.ReplaceAll(strings.ToLower(k.Value), "-", "_")
	switch near := nearest(k.Value, names); {
	case slices.Contains(keySecrets, word):
		r.fail(k, fmt.Sprintf("%q would put a secret into the configuration, where every backup and every reader of the file finds it", k.Value),
			"name environment variables with credentials: {access_key_env: NAME, secret_key_env: NAME}, or a file with credentials_file: PATH, and replace the secret if others could read this file")
	case slices.Contains(phraseSecrets, word):
		r.fail(k, fmt.Sprintf("%q would put a secret into the configuration", k.Value),
			"remove it, and use --passphrase-file or $EMBASSY_PASSPHRASE_FILE")
	case near != "":
		r.fail(k, fmt.Sprintf("unknown key %s in %s", quote(k.Value), what), fmt.Sprintf("write %q", near))
	default:
		r.fail(k, fmt.Sprintf("unknown key %s in %s", quote(k.Value), what), "remove it, or write one of "+among(names))
	}
}

// sequence calls each for every item.
func (r *reader) sequence(what string, each func(*yaml.Node)) func(*yaml.Node) {
	return func(n *yaml.Node) {
		if n.Kind != yaml.SequenceNode {
			hint := "start every item with a dash"
			if n.Kind == yaml.ScalarNode {
				hint = "write [" + strconv.Quote(n.Value) + "]"
			}
			r.fail(n, what+" must be a list, not "+kindOf(n), hint)
			return
		}
		for _, item := range n.Content {
			each(item)
		}
	}
}

// text takes a scalar that is not empty.
func (r *reader) text(what string, each func(n *yaml.Node, s string)) func(*yaml.Node) {
	return func(n *yaml.Node) {
		switch tag := n.ShortTag(); {
		case n.Kind != yaml.ScalarNode:
			r.fail(n, what+" must be text, not "+kindOf(n), "write a single word or a quoted text")
		case tag != "!!str" && tag != "!!null":
			r.fail(n, what+" must be text, not "+kindOf(n), "put it in quotes: "+strconv.Quote(n.Value))
		case tag == "!!null" || n.Value == "":
			r.fail(n, what+" is empty", "give it a value or remove it")
		case strings.ContainsFunc(n.Value, unicode.IsControl):
			r.fail(n, what+" contains a control character", "remove it")
		default:
			each(n, n.Value)
		}
	}
}

func (r *reader) string(what string, dst *string) func(*yaml.Node) {
	return r.text(what, func(_ *yaml.Node, s string) { *dst = s })
}

// bounded refuses a text that a snapshot could not carry.
func (r *reader) bounded(what string) func(*yaml.Node, string) (string, bool) {
	return func(n *yaml.Node, s string) (string, bool) {
		if len(s) > format.MaxSummaryText {
			r.fail(n, fmt.Sprintf("%s has %d bytes, and at most %d fit into a snapshot", what, len(s), format.MaxSummaryText), "shorten it")
			return "", false
		}
		return s, true
	}
}

// strings takes a list without repetitions.
func (r *reader) strings(what string, dst *[]string, convert ...func(n *yaml.Node, s string) (string, bool)) func(*yaml.Node) {
	return r.sequence(what, r.text("an item of "+what, func(n *yaml.Node, s string) {
		for _, c := range convert {
			var ok bool
			if s, ok = c(n, s); !ok {
				return
			}
		}
		if slices.Contains(*dst, s) {
			r.fail(n, fmt.Sprintf("%s is in %s twice", quote(s), what), "remove one of them")
			return
		}
		*dst = append(*dst, s)
	}))
}

var namePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

// name takes the name of what, and refuses one that is taken. A name that
// breaks the pattern still counts as taken, so that one mistake is told once.
func (r *reader) name(what string, taken map[string]*yaml.Node, dst *string) func(*yaml.Node) {
	return r.text("the name of "+what, func(n *yaml.Node, s string) {
		if !namePattern.MatchString(s) {
			r.fail(n, fmt.Sprintf("%s cannot be the name of %s: it takes a-z, 0-9 and, after the first, dashes, at most 63 in all", quote(s), what),
				fmt.Sprintf("write %q", sanitise(s)))
		}
		if other := taken[s]; other != nil {
			r.fail(n, fmt.Sprintf("the name %s is already taken%s", quote(s), line(other)), "choose another name")
			return
		}
		taken[s] = n
		*dst = s
	})
}

// sanitise turns any text into a name that is allowed.
func sanitise(s string) string {
	word := strings.Map(func(c rune) rune {
		c = unicode.ToLower(c)
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' {
			return c
		}
		return ' '
	}, s)
	word = strings.Join(strings.Fields(word), "-")
	word = strings.TrimRight(word[:min(len(word), 63)], "-")
	if word == "" {
		return "data"
	}
	return word
}

// path takes a path and makes it absolute.
func (r *reader) path(what string, dst *string) func(*yaml.Node) {
	return r.text(what, func(n *yaml.Node, s string) {
		if path, ok := r.resolve(n, what, s); ok {
			*dst = path
		}
	})
}

// resolve makes a path absolute. It refuses ~, which nothing expands here.
func (r *reader) resolve(n *yaml.Node, what, path string) (string, bool) {
	if path == "~" || strings.HasPrefix(path, "~/") {
		r.fail(n, what+" starts with ~, which is not expanded", "write the whole path")
		return "", false
	}
	if filepath.IsAbs(path) {
		return filepath.Clean(path), true
	}
	return filepath.Join(r.base, path), true
}

func (r *reader) integer(what string, lo int, dst *int) func(*yaml.Node) {
	return func(n *yaml.Node) {
		hint := fmt.Sprintf("write a whole number, at least %d", lo)
		v, err := strconv.Atoi(n.Value)
		if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!int" || err != nil {
			r.fail(n, what+" must be a whole number, not "+kindOf(n), hint)
			return
		}
		if v < lo {
			r.fail(n, fmt.Sprintf("%s cannot be %d", what, v), hint)
			return
		}
		*dst = v
	}
}

func (r *reader) boolean(what string, dst *bool) func(*yaml.Node) {
	return func(n *yaml.Node) {
		if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!bool" {
			r.fail(n, what+" must be true or false, not "+kindOf(n), "write true or false")
			return
		}
		*dst = strings.EqualFold(n.Value, "true")
	}
}

func (r *reader) duration(what string, dst *time.Duration) func(*yaml.Node) {
	return func(n *yaml.Node) {
		const hint = "write a number with s, m, h, d or w, such as 90m, 6h or 2d"
		if n.Kind != yaml.ScalarNode {
			r.fail(n, what+" must be a length of time, not "+kindOf(n), hint)
			return
		}
		d, err := ParseDuration(n.Value)
		if err != nil {
			r.fail(n, what+": "+err.Error(), hint)
			return
		}
		*dst = d
	}
}

// quantity takes what parse reads; kind says what that is.
func (r *reader) quantity(what, kind string, parse func(string) (int64, error), dst *int64, hint string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		if n.Kind != yaml.ScalarNode {
			r.fail(n, fmt.Sprintf("%s must be a %s, not %s", what, kind, kindOf(n)), hint)
			return
		}
		v, err := parse(n.Value)
		if err != nil {
			r.fail(n, what+": "+err.Error(), hint)
			return
		}
		*dst = v
	}
}

// rate takes a number of bytes per second.
func (r *reader) rate(what string, dst *int64) func(*yaml.Node) {
	return r.quantity(what, "rate", ParseRate, dst, "write bytes per second with a unit, such as 10MiB or 500kB")
}

func (r *reader) enum(what string, allowed []string, dst *string) func(*yaml.Node) {
	return r.text(what, func(n *yaml.Node, s string) {
		if !slices.Contains(allowed, s) {
			r.fail(n, fmt.Sprintf("%s cannot be %s", what, quote(s)), "write "+among(allowed))
			return
		}
		*dst = s
	})
}

// kindOf says what a node is, for a message.
func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	switch n.ShortTag() {
	case "!!int", "!!float":
		return "the number " + quote(n.Value)
	case "!!bool":
		return quote(n.Value)
	case "!!null":
		return "nothing"
	case "!!timestamp":
		return "the date " + quote(n.Value)
	case "!!str":
		return "the text " + quote(n.Value)
	}
	return "a value of type " + quote(n.Tag)
}

// quote quotes a value of the file, shortened to fit a message.
func quote(s string) string {
	if utf8.RuneCountInString(s) > 80 {
		s = string([]rune(s)[:80]) + "…"
	}
	return strconv.Quote(s)
}

// line says where a node stands; nothing, if it is not from a file.
func line(n *yaml.Node) string {
	if n.Line == 0 {
		return ""
	}
	return fmt.Sprintf(" in line %d", n.Line)
}

// scalar is a text node without a position.
func scalar(s string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s}
}
