// Package term reads passphrases: from a file, or from a terminal without
// echo. It never takes one from a flag or shows one.
package term

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"unicode/utf8"

	"embassy/crypto"
	"embassy/embassy"

	"golang.org/x/term"
)

// MinLength is the length of the shortest new passphrase, in characters.
const MinLength = 12

const maxLength = 4096 // bytes of a passphrase

var (
	// ErrNone: there is no file and no terminal to read a passphrase from.
	ErrNone = errors.New("a passphrase is needed, and there is no terminal to ask for it; write it into a file and name that with --passphrase-file FILE or $EMBASSY_PASSPHRASE_FILE")
	// ErrUnfit: what was given cannot be a passphrase.
	ErrUnfit = errors.New("unfit passphrase")
	// ErrEmpty: an empty passphrase opens nothing.
	ErrEmpty = fmt.Errorf("the passphrase is empty: %w", crypto.ErrAuthentication)
)

// fileError is about the passphrase file. It is an ErrNone too: there is no
// passphrase to go on with.
type fileError struct{ err error }

func (e *fileError) Error() string        { return "passphrase file: " + e.err.Error() }
func (e *fileError) Unwrap() error        { return e.err }
func (e *fileError) Is(target error) bool { return target == ErrNone }

// Passphrases says where passphrases come from.
type Passphrases struct {
	File string    // the first line of this file; empty: ask
	In   io.Reader // a terminal, or there is nobody to ask
	Out  io.Writer // of prompts and warnings
}

// Existing returns the passphrase that opens what, such as "the recovery
// kit". The caller wipes it. The error is, or wraps, ErrNone, ErrUnfit or
// ErrEmpty, or is about the terminal or ctx.
func (p Passphrases) Existing(ctx context.Context, what string) ([]byte, error) {
	if p.File != "" {
		phrase, err := p.fromFile()
		if err == nil && len(phrase) == 0 {
			err = fmt.Errorf("passphrase file %s: the first line must hold it: %w", p.File, ErrEmpty)
		}
		return phrase, err
	}
	phrase, err := p.ask(ctx, "Passphrase of "+what+": ")
	if err == nil && len(phrase) == 0 {
		err = ErrEmpty
	}
	return phrase, err
}

// New returns a passphrase for something that does not exist yet: of at least
// MinLength characters and, on a terminal, typed twice. The caller wipes it.
func (p Passphrases) New(ctx context.Context, what string) ([]byte, error) {
	if p.File != "" {
		phrase, err := p.fromFile()
		if err != nil {
			return nil, err
		}
		if err := fit(phrase, MinLength); err != nil {
			return nil, fmt.Errorf("passphrase file %s: %w", p.File, err)
		}
		return phrase, nil
	}
	phrase, err := p.ask(ctx, fmt.Sprintf("New passphrase of %s, at least %d characters: ", what, MinLength))
	if err != nil {
		return nil, err
	}
	if err := fit(phrase, MinLength); err != nil {
		return nil, err
	}
	again, err := p.ask(ctx, "The same again: ")
	if err != nil {
		return nil, err
	}
	defer clear(again)
	if !bytes.Equal(phrase, again) {
		return nil, fmt.Errorf("%w: the two do not match; start again", ErrUnfit)
	}
	return phrase, nil
}

func fit(phrase []byte, shortest int) error {
	switch {
	case len(phrase) == 0:
		return fmt.Errorf("%w: it is empty", ErrUnfit)
	case utf8.RuneCount(phrase) < shortest:
		return fmt.Errorf("%w: it has %d characters, and needs at least %d; take six or more random words", ErrUnfit, utf8.RuneCount(phrase), shortest)
	}
	return nil
}

func (p Passphrases) fromFile() ([]byte, error) {
	f, err := os.Open(p.File)
	if err != nil {
		return nil, &fileError{err}
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, &fileError{err}
	}
	if err := embassy.CheckPrivateInfo(p.File, info); err != nil {
		return nil, &fileError{err}
	}
	line, err := bufio.NewReader(io.LimitReader(f, maxLength+1)).ReadBytes('\n')
	if err != nil && err != io.EOF {
		return nil, &fileError{err}
	}
	phrase := bytes.TrimRight(line, "\r\n")
	if len(phrase) > maxLength {
		return nil, fmt.Errorf("passphrase file %s: %w: the first line has more than %d bytes", p.File, ErrUnfit, maxLength)
	}
	return phrase, nil
}

// ask reads a line without echo. When ctx ends, the terminal is restored; the
// read itself cannot be interrupted and ends with the process.
func (p Passphrases) ask(ctx context.Context, prompt string) ([]byte, error) {
	in, ok := p.In.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return nil, ErrNone
	}
	fd := int(in.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return nil, fmt.Errorf("read passphrase: %w", err)
	}
	fmt.Fprint(p.Out, prompt)
	defer fmt.Fprintln(p.Out)
	type answer struct {
		phrase []byte
		err    error
	}
	done := make(chan answer, 1)
	go func() {
		phrase, err := term.ReadPassword(fd)
		done <- answer{phrase, err}
	}()
	select {
	case <-ctx.Done():
		return nil, errors.Join(ctx.Err(), term.Restore(fd, before))
	case a := <-done:
		if a.err != nil {
			return nil, fmt.Errorf("read passphrase: %w", a.err)
		}
		return a.phrase, nil
	}
}
