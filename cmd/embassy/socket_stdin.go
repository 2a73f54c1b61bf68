package main

import (
	"fmt"
	"net"
	"os"
	"slices"
	"syscall"

	"embassy/embassy/config"
)

// A client whose command has an input sends its stdin itself, as a file
// descriptor beside a first line break: what the input holds goes to the daemon
// without a detour, and ends there when the client's run is cancelled.

// sendStdin sends the input of a command that has one.
func (con *console) sendStdin(conn *net.UnixConn, cfg *config.Config) error {
	f, ok := con.stdin.(*os.File)
	if !ok || con.args[0] != "backup" || !slices.ContainsFunc(cfg.Datasets, func(d config.Dataset) bool {
		return d.Stdin && slices.Contains(con.args[1:], d.Name)
	}) {
		return nil
	}
	_, _, err := conn.WriteMsgUnix([]byte("\n"), syscall.UnixRights(int(f.Fd())), nil)
	if err != nil {
		return fmt.Errorf("give the input to the daemon: %w", err)
	}
	return nil
}

// stdinReader reads what a client says, and takes the input that may come with
// the first of it.
type stdinReader struct {
	conn  *net.UnixConn
	begun bool
	stdin *os.File // nil: none came; the owner of the reader closes it
}

func (r *stdinReader) Read(p []byte) (int, error) {
	if r.begun {
		return r.conn.Read(p)
	}
	r.begun = true
	beside := make([]byte, syscall.CmsgSpace(4)) // room for one, mostly
	n, size, _, _, err := r.conn.ReadMsgUnix(p, beside)
	if err != nil {
		return n, err
	}
	messages, err := syscall.ParseSocketControlMessage(beside[:size])
	if err != nil {
		return n, err
	}
	for _, m := range messages {
		files, err := syscall.ParseUnixRights(&m)
		if err != nil {
			return n, err
		}
		for _, fd := range files {
			if r.stdin == nil {
				r.stdin = os.NewFile(uintptr(fd), "stdin of a client")
			} else if err := syscall.Close(fd); err != nil {
				return n, err
			}
		}
	}
	return n, nil
}
