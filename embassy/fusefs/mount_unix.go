//go:build linux || darwin

package fusefs

import (
	"context"
	"fmt"
	"io"
	"log"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

const (
	forever     = 365 * 24 * time.Hour // that the kernel may remember what never changes
	detachGrace = 2 * time.Second      // for the kernel to let go of what was detached
)

// Available says whether this user can mount here, as far as that shows before
// it is tried. The error wraps ErrUnavailable.
func Available() error {
	_, err := mounting()
	return err
}

// Run mounts, and serves until it is unmounted, which is no error, or ctx ends.
// Then it unmounts; what is still used is detached, and its users get errors.
func Run(ctx context.Context, o Options) error {
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return err
	}
	how, err := mounting()
	if err != nil {
		return err
	}
	root := &top{o: o, gate: &gate{inside: map[int]context.CancelFunc{}}}
	for _, d := range o.Datasets {
		names, err := d.folders()
		if err != nil {
			return err
		}
		root.names = append(root.names, names)
	}
	timeout := forever
	options := &fs.Options{
		EntryTimeout: &timeout, AttrTimeout: &timeout, NegativeTimeout: &timeout, NullPermissions: true,
		MountOptions: how,
	}
	options.FsName, options.Name = "embassy", "embassy"
	options.EnableSymlinkCaching = true
	options.AllowOther = o.AllowOther
	if o.AllowOther { // the kernel asks modes, owners and ACLs who may see what
		options.Options = append(slices.Clone(options.Options), "default_permissions")
		options.EnableAcl = true
	}
	options.MountOptions.Logger = log.New(io.Discard, "", 0)
	options.Logger = options.MountOptions.Logger
	server, err := fuse.NewServer(fs.NewNodeFS(root, options), dir, &options.MountOptions)
	if err != nil {
		return refused(err)
	}
	ended := make(chan struct{})
	go func() { // after its grace it ends with the process
		server.Serve()
		close(ended)
	}()
	if err := server.WaitMount(); err != nil {
		err = refused(err)
		detach(dir)
		return err
	}
	if o.Mounted != nil {
		o.Mounted()
	}
	select {
	case <-ended:
		root.gate.shut()
		return nil
	case <-ctx.Done():
	}
	root.gate.shut()
	if err := server.Unmount(); err != nil {
		if o.Busy != nil {
			o.Busy(err)
		}
		if err := detach(dir); err != nil {
			return fmt.Errorf("unmount %s: %w", dir, err)
		}
	}
	// Where the kernel keeps it for those who still use it, the end of this
	// process ends it.
	select {
	case <-ended:
	case <-time.After(detachGrace):
	}
	return nil
}

// gate lets requests in, until it is shut; then it ends those inside.
type gate struct {
	mu      sync.Mutex
	closed  bool
	next    int
	inside  map[int]context.CancelFunc
	waiting sync.WaitGroup
}

// enter returns the context of a request, and what ends it; ok is false when
// the gate is shut.
func (g *gate) enter(ctx context.Context) (_ context.Context, leave func(), ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil, nil, false
	}
	ctx, cancel := context.WithCancel(ctx)
	n := g.next
	g.next++
	g.inside[n] = cancel
	g.waiting.Add(1)
	return ctx, func() {
		cancel()
		g.mu.Lock()
		delete(g.inside, n)
		g.mu.Unlock()
		g.waiting.Done()
	}, true
}

// shut returns when nobody is inside any more.
func (g *gate) shut() {
	g.mu.Lock()
	g.closed = true
	for _, cancel := range g.inside {
		cancel()
	}
	g.mu.Unlock()
	g.waiting.Wait()
}
