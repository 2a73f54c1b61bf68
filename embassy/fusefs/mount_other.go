//go:build !linux && !darwin

package fusefs

import (
	"context"
	"fmt"
	"runtime"
)

// Run is not possible on this system.
func Run(context.Context, Options) error { return Available() }

// Available says so. The error wraps ErrUnavailable.
func Available() error {
	return fmt.Errorf("%w: there is no FUSE for embassy on %s: use embassy restore, or embassy dump", ErrUnavailable, runtime.GOOS)
}
