package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"embassy/cmd/internal/term"
	"embassy/crypto"
	"embassy/embassy"
	"embassy/embassy/format"
)

// custody opens the root: with the kit and its passphrase, or with a quorum of
// shares from files, or as they are typed. The caller wipes it.
func (r *rescue) custody(ctx context.Context) (*embassy.Custody, error) {
	open := r.typed
	switch {
	case r.kit != "":
		open = r.fromKit
	case len(r.shares) > 0:
		open = r.fromShares
	}
	c, err := open(ctx)
	if err != nil {
		return nil, err
	}
	for _, note := range c.Notes {
		r.say("warning: %s", note)
	}
	return c, nil
}

func (r *rescue) fromKit(ctx context.Context) (*embassy.Custody, error) {
	_, err := embassy.ReadKit(r.kit) // before a passphrase is asked for
	if path := (*fs.PathError)(nil); errors.As(err, &path) {
		return nil, &usageError{"--kit: " + path.Error()}
	}
	if err != nil {
		return nil, err
	}
	p := term.Passphrases{File: r.phrases, In: r.stdin, Out: r.stderr}
	phrase, err := p.Existing(ctx, "the recovery kit")
	if err != nil {
		return nil, err
	}
	defer clear(phrase)
	c, err := embassy.UnlockKit(r.kit, phrase)
	if errors.Is(err, crypto.ErrAuthentication) {
		return nil, fmt.Errorf("%w: %w", errKit, err)
	}
	return c, err
}

func (r *rescue) fromShares(context.Context) (*embassy.Custody, error) {
	shares, err := embassy.ReadShares(r.shares)
	if path := (*fs.PathError)(nil); errors.As(err, &path) {
		return nil, &usageError{"--share: " + path.Error()}
	}
	if err != nil {
		return nil, err
	}
	return unlock(shares)
}

// unlock opens the root with shares.
func unlock(shares []format.NamedShare) (*embassy.Custody, error) {
	c, err := embassy.UnlockShares(shares)
	if errors.Is(err, crypto.ErrAuthentication) {
		return nil, fmt.Errorf("%w: %w", errShares, err)
	}
	return c, err
}

// typed takes shares from a person at a terminal, until there is a quorum, or
// from the text on standard input.
func (r *rescue) typed(ctx context.Context) (*embassy.Custody, error) {
	if !term.IsTerminal(r.stdin) {
		text, err := io.ReadAll(io.LimitReader(r.stdin, crypto.MaxShares*format.MaxKitSize))
		if err != nil {
			return nil, fmt.Errorf("read shares from standard input: %w", err)
		}
		defer clear(text)
		var shares []format.NamedShare
		for i, part := range format.SplitShares(text) {
			shares = append(shares, format.NameShare(fmt.Sprintf("number %d on standard input", i+1), part))
		}
		return unlock(shares)
	}
	r.say("Type the shares, each line with its sum, from the first line behind BEGIN EMBASSY SHARE on.\n" +
		"Spaces and small letters do not matter. What you type shows: see that nobody looks on.")
	lines := term.NewLines(r.stdin, r.stderr)
	// Every share that was typed is kept: which of them go together shows when
	// there are more, and none has to be typed twice.
	var typed []format.NamedShare
	good, told := 0, map[format.ShareFault]bool{}
	for {
		s, err := r.typeShare(ctx, lines, good+1)
		if err != nil {
			wipe(typed)
			return nil, err
		}
		typed = append(typed, s)
		// Only what is missing, or wrong, is of interest here.
		c, err := format.Combine(typed)
		few := (*format.SharesError)(nil)
		if err == nil {
			c.Root.Wipe()
		}
		if !errors.As(err, &few) {
			return unlock(typed)
		}
		good = few.Good
		for _, f := range few.Faults {
			if f.Name == s.Name || !told[f] {
				r.say("Share %s cannot be used with the others: %s", f.Name, f.Why)
			}
			told[f] = true
		}
		if few.Need > 0 {
			r.say("%d of %d shares are there.", few.Good, few.Need)
		}
	}
}

// typeShare asks for the lines of one share. A line whose sum does not fit is
// asked for again, and a share that is wrong in spite of its sums from its first
// line on.
func (r *rescue) typeShare(ctx context.Context, lines *term.Lines, n int) (format.NamedShare, error) {
	for {
		var share format.ShareLines
		for last := false; !last; {
			line, err := lines.Ask(ctx, fmt.Sprintf("share %d, line %d: ", n, share.Next()))
			if errors.Is(err, io.EOF) {
				return format.NamedShare{}, fmt.Errorf("%w: the typing ended before there was a quorum", errShares)
			}
			if err != nil {
				return format.NamedShare{}, err
			}
			if last, err = share.Add(line); err != nil {
				r.say("That is not line %d: compare it with the print, and type it again.", share.Next())
			}
		}
		s, err := share.Share()
		if err == nil {
			return format.NamedShare{Name: fmt.Sprintf("%d of %d of the ceremony of %s", s.Number, s.Of, s.When().Format("2006-01-02 15:04:05Z")), Share: s}, nil
		}
		r.say("This share is altered, or its lines are those of several: type it again.")
	}
}

func wipe(shares []format.NamedShare) {
	for _, s := range shares {
		s.Wipe()
	}
}
