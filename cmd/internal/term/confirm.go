package term

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
)

// ErrNobody: there is no terminal to ask on.
var ErrNobody = errors.New("this asks first, and there is no terminal to ask on: give --yes")

// Confirm asks a question that "yes" answers. The error is ErrNobody, or about
// the terminal or ctx.
func Confirm(ctx context.Context, in io.Reader, out io.Writer, question string) (bool, error) {
	if !IsTerminal(in) {
		return false, ErrNobody
	}
	line, err := NewLines(in, out).Ask(ctx, question+" Type yes to go on: ")
	switch {
	case ctx.Err() != nil:
		return false, ctx.Err()
	case err != nil && !errors.Is(err, io.EOF):
		return false, fmt.Errorf("read answer: %w", err)
	}
	return strings.EqualFold(strings.TrimSpace(line), "yes"), nil
}
