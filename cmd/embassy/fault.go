package main

import (
	"context"
	"errors"
	"strings"

	"embassy/cmd/internal/open"
	"embassy/embassy"
	"embassy/embassy/config"
	"embassy/targets"
)

// oneLine is an error in one line. That a target is down goes without saying
// where the reason is given.
func oneLine(err error) string {
	text := strings.ReplaceAll(err.Error(), embassy.ErrDown.Error()+": ", "")
	return strings.ReplaceAll(text, "\n", "; ")
}

// cause is an error of a target in one line, with what to do about it, for a
// place that names the target.
func cause(target string, err error) string {
	text := strings.ReplaceAll(oneLine(err), "target "+target+": ", "")
	if do := remedy(err); do != "" {
		text += "; " + do
	}
	return text
}

// hint says what to do about a target that does not answer as it should.
func hint(err error) string {
	if do := remedy(err); do != "" {
		return do
	}
	switch {
	case errors.Is(err, embassy.ErrForeignTarget), errors.Is(err, embassy.ErrNotPrivate): // say it themselves
		return ""
	case errors.Is(err, context.DeadlineExceeded):
		return "it stayed silent for " + length(probeFor) + ": check the network on the way to it"
	}
	return "check its settings, and whether it is up"
}

// remedy says what to do about a fault that has one; else it is empty.
func remedy(err error) string {
	switch {
	case errors.Is(err, targets.ErrNoStore):
		return "make the bucket or directory, mount its disk, or correct the url"
	case errors.Is(err, targets.ErrDenied):
		return "check its credentials and what they may do"
	case errors.Is(err, embassy.ErrNotPrivate): // says it itself
	case errors.Is(err, open.ErrNoCredentials):
		return "put the keys there, or correct the credentials of the target"
	}
	return ""
}

// brief is an error whose parts have been told already.
type brief struct {
	text string
	error
}

func (e *brief) Error() string { return e.text }
func (e *brief) Unwrap() error { return e.error }

// brief shortens the error of a run that no target answered: a warning has
// told of each.
func (s *site) brief(err error) error {
	if errors.Is(err, embassy.ErrDown) && s.screen.warned() {
		return &brief{"no target answered: see the warnings", err}
	}
	return err
}

// near returns the word that was most likely meant, at most two letters away;
// else it is empty.
func near(word string, known []string) string {
	best, limit := "", min(2, len(word)-1)
	for _, k := range known {
		if d := config.Distance(word, k); d <= limit {
			best, limit = k, d-1
		}
	}
	return best
}
