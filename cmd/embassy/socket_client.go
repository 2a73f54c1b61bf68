package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"

	"embassy/embassy/config"
)

// forward runs the command in the daemon of the state directory. there is
// false when there is no daemon.
func (con *console) forward(ctx context.Context) (there bool, err error) {
	cfg, err := config.Load(con.config)
	if err != nil {
		return false, nil // the command says it
	}
	conn, err := dialSocket(ctx, cfg.StateDir)
	if err != nil || conn == nil {
		return false, err
	}
	defer conn.Close()
	sum, err := fileSum(cfg.File)
	if err != nil {
		return true, err
	}
	if err := con.sendStdin(conn, cfg); err != nil {
		return true, err
	}
	answers, who, err := introduce(conn, request{
		Protocol: socketProtocol, Args: con.args, JSON: con.json, Quiet: con.quiet, Level: con.level.String(), Config: cfg.File, Sum: sum,
	})
	if err != nil {
		return true, err
	}
	var names []string
	for _, t := range cfg.Targets {
		names = append(names, t.Name)
	}
	s := newScreen(con, names)
	defer s.close()
	// Interrupted, this side is closed: the daemon cancels the run, and tells
	// how it ended.
	stop := context.AfterFunc(ctx, func() { conn.CloseWrite() })
	defer stop()
	for {
		var f frame
		if err := answers.Decode(&f); err != nil {
			return true, fmt.Errorf("the daemon, process %d, went away in the middle of this; run the same command again to go on", who.PID)
		}
		switch {
		case f.Progress != nil:
			s.progress(*f.Progress)
		case f.Exit != nil && *f.Exit == 130:
			return true, context.Canceled
		case f.Exit != nil:
			return true, reported(*f.Exit)
		case f.Stdout != nil:
			s.close()
			_, err = con.stdout.Write(f.Stdout)
		case f.Stderr != nil:
			_, err = s.Write(f.Stderr)
		}
		if err != nil {
			return true, err
		}
	}
}

// introduce sends the request and reads who answers.
func introduce(conn net.Conn, req request) (*json.Decoder, *hello, error) {
	var f frame
	answers := json.NewDecoder(conn)
	err := conn.SetDeadline(time.Now().Add(askTime))
	if err == nil {
		err = json.NewEncoder(conn).Encode(req)
	}
	if err == nil {
		err = answers.Decode(&f)
	}
	if err == nil && f.Hello == nil {
		err = errors.New("it does not say who it is")
	}
	if err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	if err != nil {
		return nil, nil, fmt.Errorf("the daemon of this state directory does not answer (%w): look at its log, or stop it", err)
	}
	return answers, f.Hello, nil
}

// askDaemon returns who listens in the state directory, or nil.
func askDaemon(ctx context.Context, dir string) (*hello, error) {
	conn, err := dialSocket(ctx, dir)
	if err != nil || conn == nil {
		return nil, err
	}
	defer conn.Close()
	_, who, err := introduce(conn, request{Protocol: socketProtocol})
	return who, err
}
