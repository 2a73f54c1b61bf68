// Package strict refuses command lines with a flag that nobody knows, that
// lacks its value, or that stands after an argument, and says how the line is
// to be written. The flag parser stops at the first argument and would take
// such a flag for one more argument.
package strict

import (
	"embassy/embassy/config"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// OrderError is a flag that is unknown, lacks its value, or is in the wrong
// place.
type OrderError struct {
	Message   string
	Corrected string // the whole line, quoted for a shell; empty: only a person knows
}

func (e *OrderError) Error() string {
	if e.Corrected == "" {
		return e.Message
	}
	return e.Message + "; write instead:\n  " + e.Corrected
}

// Check looks at a command line, args[0] being the program, with the flags and
// commands of the app. It returns an *OrderError when a flag is unknown, lacks
// its value or has an empty one, or stands after an argument or after the command that follows it,
// and nil for all other mistakes: those are for the parser. A flag that takes a value is moved
// together with it. After -- everything is an argument.
func Check(app *cli.App, args []string) error {
	app.Setup() // adds the flags for help
	if len(args) == 0 {
		return nil
	}
	l := line{words: []level{{name: app.Name, flags: app.Flags}}, short: app.UseShortOptionHandling}
	l.read(args[1:], app.Commands)
	return l.problem()
}

// level is the program or a command, with what the line gives to it.
type level struct {
	name  string
	flags []cli.Flag
	given []string // flags and their values
}

type line struct {
	words     []level
	short     bool
	arguments []string
	literal   bool // -- stands before the first argument
	misplaced string
	unknown   bool   // no level has the misplaced flag
	mistake   string // about the first flag that no order can help
}

func (l *line) read(args []string, commands []*cli.Command) {
	for len(args) > 0 {
		word, rest := args[0], args[1:]
		switch {
		case l.literal:
			l.arguments = append(l.arguments, args...)
			return
		case word == "--" && len(l.arguments) == 0:
			l.literal = true
			args = rest
		case word == "--": // the parser would take it for an argument
			l.misplaced, l.literal = word, true
			args = rest
		case isFlag(word):
			args = l.flag(args)
		default:
			i := slices.IndexFunc(commands, func(c *cli.Command) bool { return c.HasName(word) })
			if len(l.arguments) == 0 && i >= 0 {
				l.words = append(l.words, level{name: word, flags: append(slices.Clone(commands[i].Flags), cli.HelpFlag)})
				commands = commands[i].Subcommands
			} else {
				l.arguments = append(l.arguments, word)
			}
			args = rest
		}
	}
}

// flag takes the flag at the start of args, and its value, and returns the
// rest.
func (l *line) flag(args []string) []string {
	last := len(l.words) - 1
	for i := last; i >= 0; i-- {
		takesValue, known := l.words[i].lookup(args[0], l.short)
		if !known {
			continue
		}
		n := 1
		if takesValue && !strings.Contains(args[0], "=") {
			if n = 2; len(args) < 2 {
				l.mistaken("flag " + spelled(args[0]) + " needs a value")
				n = 1
			}
		}
		// A variable that is not set must not stand for the default.
		_, value, inside := strings.Cut(args[0], "=")
		if takesValue && value == "" && (inside || n == 2 && args[1] == "") {
			l.mistaken("flag " + spelled(args[0]) + " has an empty value; give it one, or leave it out")
		}
		l.words[i].given = append(l.words[i].given, args[:n]...)
		if i < last || len(l.arguments) > 0 {
			l.misplace(args[0], false)
		}
		return args[n:]
	}
	near := l.near(args[0])
	if near != "" {
		near = "; did you mean " + near + "?"
	}
	if len(l.arguments) > 0 && near == "" { // it may be an argument
		l.misplace(args[0], true)
		l.arguments = append(l.arguments, args[0])
	} else {
		l.mistaken("unknown flag " + spelled(args[0]) + near)
	}
	return args[1:]
}

func (l *line) mistaken(text string) {
	if l.mistake == "" {
		l.mistake = text + "\nRun: " + strings.Join(names(l.words), " ") + " --help"
	}
}

// spelled is a flag as the help spells it, without its value.
func spelled(word string) string {
	name, _, _ := strings.Cut(strings.TrimLeft(word, "-"), "=")
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}

// near returns the flag that is meant by an unknown one, if that is plain.
func (l *line) near(word string) string {
	name, best, least := strings.TrimLeft(spelled(word), "-"), "", 3
	for _, v := range l.words {
		for _, f := range v.flags {
			for _, n := range f.Names() {
				if d := config.Distance(name, n); len(n) > 1 && d < least && d < min(len(n), len(name)) {
					best, least = "--"+n, d
				}
			}
		}
	}
	return best
}

func (l *line) misplace(flag string, unknown bool) {
	if l.misplaced == "" {
		l.misplaced = flag
	}
	l.unknown = l.unknown || unknown
}

// lookup finds a flag of this level. Known letters may be combined when short
// is set.
func (v level) lookup(word string, short bool) (takesValue, known bool) {
	name, _, _ := strings.Cut(strings.TrimLeft(word, "-"), "=")
	for _, f := range v.flags {
		if slices.Contains(f.Names(), name) {
			d, ok := f.(cli.DocGenerationFlag)
			return ok && d.TakesValue(), true
		}
	}
	if !short || strings.HasPrefix(word, "--") || len(name) < 2 {
		return false, false
	}
	for _, letter := range name {
		if takesValue, known = v.lookup("-"+string(letter), false); !known {
			return false, false
		}
	}
	return takesValue, true // only the last letter can take one
}

func (l *line) problem() error {
	if l.mistake != "" {
		return &OrderError{Message: l.mistake}
	}
	if l.misplaced == "" {
		return nil
	}
	var words []string
	for _, v := range l.words {
		words = append(append(words, v.name), v.given...)
	}
	e := &OrderError{Message: fmt.Sprintf("flag %s stands after an argument, and flags come first", l.misplaced)}
	switch {
	case l.unknown:
		e.Message = fmt.Sprintf("%s stands after an argument, and %s has no such flag; if it is an argument, -- must come before the arguments", l.misplaced, strings.Join(names(l.words), " "))
	case l.misplaced == "--":
		e.Message = "-- stands after an argument, and comes before the first one"
	case len(l.arguments) == 0:
		e.Message = fmt.Sprintf("flag %s belongs before the command", l.misplaced)
	}
	if l.unknown || l.literal || slices.ContainsFunc(l.arguments, isFlag) {
		words = append(words, "--")
	}
	words = append(words, l.arguments...)
	for i, w := range words {
		words[i] = quote(w)
	}
	e.Corrected = strings.Join(words, " ")
	return e
}

func names(levels []level) []string {
	var out []string
	for _, v := range levels {
		out = append(out, v.name)
	}
	return out
}

// isFlag reports whether the parser takes the word for a flag; a lone dash is
// an argument.
func isFlag(word string) bool { return len(word) > 1 && word[0] == '-' }

var plainWord = regexp.MustCompile(`^[A-Za-z0-9_@%+=:,./-]+$`)

func quote(word string) string {
	if plainWord.MatchString(word) {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
