package term

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"

	"golang.org/x/term"
)

// IsTerminal reports whether a person may be asked there.
func IsTerminal(in io.Reader) bool {
	f, ok := in.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// Lines asks a person for lines, which show as they are typed.
type Lines struct {
	in  *bufio.Reader
	out io.Writer
}

// NewLines returns a Lines that reads from in and prompts on out.
func NewLines(in io.Reader, out io.Writer) *Lines { return &Lines{bufio.NewReader(in), out} }

// Ask returns the next line, with its end; io.EOF when there is none. When
// ctx ends, the read goes on until the process ends.
func (l *Lines) Ask(ctx context.Context, prompt string) (string, error) {
	fmt.Fprint(l.out, prompt)
	type answer struct {
		line string
		err  error
	}
	done := make(chan answer, 1)
	go func() {
		line, err := l.in.ReadString('\n')
		if err == io.EOF && line != "" {
			err = nil
		}
		done <- answer{line, err}
	}()
	select {
	case <-ctx.Done():
		fmt.Fprintln(l.out)
		return "", ctx.Err()
	case a := <-done:
		return a.line, a.err
	}
}
