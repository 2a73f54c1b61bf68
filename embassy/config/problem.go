package config

import (
	"fmt"
	"slices"
	"strings"
)

// Problem is one mistake. Line and Column count from 1, columns in
// characters; both are zero when there is no file.
type Problem struct {
	File         string // as it was given to Parse or Load
	Line, Column int
	Message      string // what is wrong
	Hint         string // what to write instead; empty when the message says it
}

func (p Problem) String() string {
	where := p.File
	if p.Line > 0 {
		where = fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
	}
	if p.Hint == "" {
		return where + ": " + p.Message
	}
	return where + ": " + p.Message + "; " + p.Hint
}

// Errors are all mistakes of one file or flag, in its order.
type Errors struct {
	Problems []Problem // at least one
}

// Error gives one line per problem.
func (e *Errors) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// nearest returns the candidate that a person most likely meant, or "".
func nearest(word string, candidates []string) string {
	best, limit := "", 1+len(word)/3
	for _, c := range candidates {
		if d := Distance(strings.ReplaceAll(strings.ToLower(word), "-", "_"), c); d <= limit {
			best, limit = c, d-1
		}
	}
	return best
}

// Distance is the number of letters to insert, delete, replace or swap with
// their neighbour to get from a to b.
func Distance(a, b string) int {
	const long = 64
	if len(a) > long || len(b) > long {
		return long
	}
	var before, last []int
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before, last, row = last, row, make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			change := last[j]
			if a[i] != b[j] {
				change++
			}
			row[j+1] = min(last[j+1]+1, row[j]+1, change)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
	}
	return row[len(b)]
}

// among joins words for a hint: "a, b or c".
func among(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

func sortProblems(problems []Problem) {
	slices.SortStableFunc(problems, func(a, b Problem) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
}
