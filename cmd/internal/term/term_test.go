package term_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"embassy/cmd/internal/term"
)

func write(t *testing.T, text string, mode fs.FileMode) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "phrase")
	if err := os.WriteFile(name, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(name, mode); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestPassphraseFile(t *testing.T) {
	tests := map[string]struct {
		text string
		want string
		err  error
	}{
		"no newline":         {"correct horse", "correct horse", nil},
		"newline":            {"correct horse\n", "correct horse", nil},
		"windows":            {"correct horse\r\n", "correct horse", nil},
		"spaces are kept":    {" correct horse \n", " correct horse ", nil},
		"first line only":    {"correct horse\nanother\n", "correct horse", nil},
		"empty":              {"", "", term.ErrEmpty},
		"empty first line":   {"\ncorrect horse\n", "", term.ErrEmpty},
		"longer than any":    {strings.Repeat("x", 4097), "", term.ErrUnfit},
		"as long as allowed": {strings.Repeat("x", 4096) + "\n", strings.Repeat("x", 4096), nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			got, err := term.Passphrases{File: write(t, tt.text, 0o600), Out: &out}.Existing(t.Context(), "it")
			if string(got) != tt.want || !errors.Is(err, tt.err) {
				t.Errorf("Existing returned %q, %v; want %q", got, err, tt.want)
			}
			if out.Len() != 0 {
				t.Errorf("unexpected warning %q", out.String())
			}
		})
	}
}

func TestPassphraseFileReadableByOthers(t *testing.T) {
	var out bytes.Buffer
	for _, mode := range []os.FileMode{0o644, 0o640, 0o602} {
		name := write(t, "correct horse\n", mode)
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
		phrase, err := term.Passphrases{File: name, Out: &out}.Existing(t.Context(), "it")
		if !errors.Is(err, term.ErrNone) || len(phrase) != 0 || !strings.Contains(err.Error(), "chmod 600 "+name) {
			t.Errorf("mode %04o: %q, %v", mode, phrase, err)
		}
	}
	if out.Len() != 0 {
		t.Errorf("unexpected warning %q", out.String())
	}
}

func TestNewPassphraseLength(t *testing.T) {
	for phrase, fit := range map[string]bool{"": false, "eleven char": false, "twelve chars": true, "кириллица": false} {
		got, err := term.Passphrases{File: write(t, phrase+"\n", 0o600)}.New(t.Context(), "it")
		if (err == nil) != fit || errors.Is(err, term.ErrUnfit) == fit || fit && string(got) != phrase {
			t.Errorf("New with %q returned %q, %v", phrase, got, err)
		}
	}
}

func TestPassphraseWithoutTerminal(t *testing.T) {
	pipe, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	defer w.Close()
	for _, p := range []term.Passphrases{{In: strings.NewReader("correct horse\n")}, {In: pipe}} {
		if _, err := p.Existing(t.Context(), "it"); !errors.Is(err, term.ErrNone) {
			t.Errorf("Existing returned %v, want ErrNone", err)
		}
	}
}

func TestPassphraseFileMissing(t *testing.T) {
	dir := t.TempDir()
	for _, file := range []string{filepath.Join(dir, "none"), dir} {
		_, err := term.Passphrases{File: file, Out: io.Discard}.Existing(t.Context(), "it")
		if !errors.Is(err, term.ErrNone) || errors.Is(err, fs.ErrNotExist) == (file == dir) || strings.Count(err.Error(), file) != 1 {
			t.Errorf("Existing of %s returned %v, want ErrNone and the cause", file, err)
		}
	}
}
