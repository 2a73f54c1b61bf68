package term

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// ErrNobody: there is no terminal to ask on.
var ErrNobody = errors.New("this asks first, and there is no terminal to ask on: give --yes")

// Confirm asks a question that "yes" answers. The error is ErrNobody, or about
// the terminal or ctx.
func Confirm(ctx context.Context, in io.Reader, out io.Writer, question string) (bool, error) {
	f, ok := in.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return false, ErrNobody
	}
	fmt.Fprint(out, question+" Type yes to go on: ")
	type answer struct {
		line string
		err  error
	}
	done := make(chan answer, 1)
	go func() {
		line, err := bufio.NewReader(f).ReadString('\n')
		done <- answer{line, err}
	}()
	select {
	case <-ctx.Done():
		return false, ctx.Err()
	case a := <-done:
		if a.err != nil && !errors.Is(a.err, io.EOF) {
			return false, fmt.Errorf("read answer: %w", a.err)
		}
		return strings.EqualFold(strings.TrimSpace(a.line), "yes"), nil
	}
}
