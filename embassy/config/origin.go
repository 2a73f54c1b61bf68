package config

import (
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
)

// origin gathers the keys that a dataset gives about where its data comes
// from, by the origin that they belong to.
type origin struct {
	files, commands, inputs, buckets []givenKey

	trees     []givenKey // of files or a bucket
	streams   []givenKey // of a command or the input
	schedules []givenKey // of all but the input
	need      string     // what to write for sources; empty: they are not needed
}

// givenKey is a key that stands in the file.
type givenKey struct {
	name string
	at   *yaml.Node
}

// of is a key that is also noted in list.
func (s *sections) of(list *[]givenKey, name string, read func(*yaml.Node), need string) key {
	return key{name, func(n *yaml.Node) {
		*list = append(*list, givenKey{name, n})
		read(n)
	}, need}
}

// given reports whether a mapping has the key, with a value.
func given(n *yaml.Node, name string) bool {
	for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name && n.Content[i+1].ShortTag() != "!!null" {
			return true
		}
	}
	return false
}

// oneOrigin refuses a dataset whose data comes from nowhere, or from two
// places, and keys that mean nothing for the one that it has.
func (s *sections) oneOrigin(n *yaml.Node, d *Dataset, o origin) {
	refuse := func(keys []givenKey, why, hint string) {
		for _, k := range keys {
			s.fail(k.at, k.name+" means nothing "+why, hint)
		}
	}
	switch {
	case given(n, "s3"):
		refuse(o.files, "with s3: what is stored is the bucket", "remove it, or make a dataset of its own for the files")
		refuse(o.commands, "with s3", "remove it, or remove s3")
		refuse(o.inputs, "with s3", "remove it, or remove s3")
		refuse(o.streams, "with s3, whose objects keep their names", "remove it")
		return
	case given(n, "command"):
		refuse(append(o.files, o.trees...), "with a command, whose output is all that is stored", "remove it, or make a dataset of its own for the files")
		refuse(o.inputs, "with a command", "remove it, or remove command")
	case d.Stdin:
		refuse(append(o.files, o.trees...), "with stdin, which is all that is stored", "remove it, or make a dataset of its own for the files")
		refuse(o.commands, "with stdin", "remove it, or remove stdin")
		refuse(o.schedules, "with stdin: nobody feeds a scheduled run", `remove it and run "embassy backup `+d.Name+` <FILE", or write a command instead of stdin`)
	default:
		refuse(o.commands, "without a command", `write "command: [PROGRAM, ARGUMENT]", or remove it`)
		refuse(o.streams, "with sources, which keep their names", "remove it")
		if o.need == "" && !given(n, "sources") {
			s.fail(n, "a dataset has no sources", `write "sources: [/PATH]", "command: [PROGRAM, ARGUMENT]", "s3: {url: s3+https://HOST/BUCKET}" or "stdin: true"`)
		}
		return
	}
	if d.Filename == "" {
		d.Filename = d.Name
	}
}

// filename is the name of a file in the root of a snapshot.
func (s *sections) filename(n *yaml.Node, name string) string {
	if len(name) > 255 || strings.ContainsAny(name, `/\`) || name == "." || name == ".." {
		s.fail(n, fmt.Sprintf("filename %s is not the name of a file", quote(name)), "write a name without a folder, at most 255 bytes, such as registry.dump")
		return ""
	}
	return name
}

// words takes a program and its arguments.
func (s *sections) words(what string, dst *[]string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		const hint = "write the program and its arguments as a list, such as [pg_dump, -Fc, registry]; for a pipe or a redirection, [sh, -c, \"...\"]"
		if n.Kind == yaml.ScalarNode {
			s.fail(n, what+" must be a list, not "+kindOf(n), hint)
			return
		}
		s.sequence(what, s.text("an item of "+what, func(_ *yaml.Node, word string) { *dst = append(*dst, word) }))(n)
		if n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
			s.fail(n, what+" is an empty list", hint)
		}
	}
}

// hook takes a program that is run beside a backup.
func (s *sections) hook(what string, p *Program) func(*yaml.Node) {
	return func(n *yaml.Node) {
		p.Timeout = DefaultHookTimeout
		s.mapping(n, what,
			key{"command", s.words("command", &p.Args), `write "command: [PROGRAM, ARGUMENT]"`},
			key{"timeout", s.duration("timeout", &p.Timeout), ""},
		)
	}
}
