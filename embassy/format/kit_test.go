package format_test

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"embassy/crypto"
	"embassy/embassy/format"
)

// kitText prints any bytes as the block of a kit.
func kitText(body []byte) string { return blockText("EMBASSY RECOVERY KIT", body) }

// cheapKit is a kit whose passphrase is "passphrase" and costs little.
func (w *world) cheapKit(t testing.TB) *format.Kit {
	t.Helper()
	wrapped, err := crypto.WrapParams{Time: 1, MemoryKiB: 64, Threads: 1}.WrapRoot(w.root, []byte("passphrase"),
		crypto.Context{Type: "recovery kit", Nation: w.nation})
	if err != nil {
		t.Fatal(err)
	}
	return &format.Kit{
		Version: 1, Nation: w.nation, Created: 1767225600_000000000, Wrapped: wrapped,
		RootSigner: w.root.Signer().Verifier().Bytes(), RootRecipient: w.root.Identity().Recipient().Bytes(),
	}
}

func mustText(t helper, k *format.Kit) string {
	t.Helper()
	text, err := k.Text("Estland")
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestNewKit(t *testing.T) {
	w := newWorld(t, 0)
	k, err := format.NewKit(w.root, w.nation, []byte("correct horse"), time.Unix(7, 0))
	if err != nil {
		t.Fatal(err)
	}
	text := mustText(t, k)
	parsed, err := format.ParseKit([]byte(text))
	if err != nil || !reflect.DeepEqual(parsed, k) {
		t.Fatalf("the kit does not come back: %v", err)
	}
	root, err := parsed.Unwrap([]byte("correct horse"))
	if err != nil || !root.Equal(&w.root.Secret) {
		t.Errorf("the root does not come back: %v", err)
	}
	if fp, err := parsed.Fingerprint(); err != nil || fp != w.root.Fingerprint() || !strings.Contains(text, fp) {
		t.Errorf("fingerprint %s, %v", fp, err)
	}
	if h, err := parsed.OpenHints(w.root); err != nil || !reflect.DeepEqual(h, format.Hints{}) {
		t.Errorf("hints %+v, %v", h, err)
	}
	if _, err := format.NewKit(w.root, w.nation, nil, time.Now()); err == nil {
		t.Error("an empty passphrase was taken")
	}
}

func TestKitHints(t *testing.T) {
	w := newWorld(t, 0)
	k := w.cheapKit(t)
	want := format.Hints{
		Time: 1, Charter: 2, Heads: []format.Head{{Chain: w.scope.Chain, Seq: 3}},
		Targets: []format.TargetHint{{Name: "tallinn", URL: "dir:/mnt/vault", Tier: 2, Jurisdiction: "EE"}},
	}
	if err := k.SetHints(want); err != nil {
		t.Fatal(err)
	}
	first := string(k.Hints)
	if got, err := k.OpenHints(w.root); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := k.OpenHints(newWorld(t, 1).root); class(err) != "authentication" {
		t.Errorf("another root: %v", err)
	}
	other := *k
	other.Nation[0]++
	if _, err := other.OpenHints(w.root); class(err) != "authentication" {
		t.Errorf("another nation: %v", err)
	}
	want.Targets[0].Name = strings.Repeat("n", 40)
	if err := k.SetHints(want); err != nil {
		t.Fatal(err)
	}
	if len(k.Hints) != len(first) || string(k.Hints) == first {
		t.Error("the size of a name shows, or the hints did not change")
	}
	want.Targets[0].Name = "\xff"
	if err := k.SetHints(want); class(err) != "malformed" {
		t.Errorf("a name that is not UTF-8: %v", err)
	}
}

// White space may be added, taken away and changed anywhere between words, and
// within the block anywhere; prose may stand around it.
func TestKitTextSurvives(t *testing.T) {
	w := newWorld(t, 0)
	k := w.cheapKit(t)
	text := mustText(t, k)
	begin, end := strings.Index(text, "KIT-----\n")+len("KIT-----"), strings.Index(text, "-----END")
	space := rapid.StringOfN(rapid.RuneFrom([]rune(" \t\r\n\u00a0\u2028")), 1, 4, -1)
	rapid.Check(t, func(t *rapid.T) {
		width := rapid.IntRange(1, 200).Draw(t, "width")
		var b strings.Builder
		b.WriteString(rapid.StringMatching(`[a-zA-Z ,.\n-]{0,80}`).Draw(t, "before"))
		b.WriteString("\r\n" + strings.ReplaceAll(text[:begin], "\n", "\r\n"))
		for i, c := range strings.Join(strings.Fields(text[begin:end]), "") {
			if i%width == 0 {
				b.WriteString(space.Draw(t, "space"))
			}
			b.WriteRune(c)
		}
		b.WriteString(space.Draw(t, "space") + strings.Replace(text[end:], " ", "\n", 1))
		b.WriteString(rapid.StringMatching(`[a-zA-Z ,.\n-]{0,80}`).Draw(t, "behind"))
		got, err := format.ParseKit([]byte(b.String()))
		if err != nil || !reflect.DeepEqual(got, k) {
			t.Fatalf("%v: %q", err, b.String())
		}
	})
}

// One wrong character is found, and its line named.
func TestKitTextDamaged(t *testing.T) {
	w := newWorld(t, 0)
	text := mustText(t, w.cheapKit(t))
	begin, end := strings.Index(text, "KIT-----\n")+len("KIT-----\n"), strings.Index(text, "-----END")
	const seed = 3
	random := rand.New(rand.NewPCG(seed, 0))
	for range 300 {
		at := begin + random.IntN(end-begin)
		c := "ABCabc019+/="[random.IntN(12)]
		if text[at] == c || text[at] == '\n' || text[at] == ' ' {
			continue
		}
		_, err := format.ParseKit([]byte(text[:at] + string(c) + text[at+1:]))
		want := fmt.Sprintf("line %d of the file", strings.Count(text[:at], "\n")+1)
		if class(err) != "malformed" || !strings.Contains(err.Error(), want) {
			t.Fatalf("seed %d: %q at %d: %v, want %s", seed, c, at, err, want)
		}
	}
}

// A line that is left out or misplaced is not blamed on the passphrase.
func TestKitTextLines(t *testing.T) {
	w := newWorld(t, 0)
	text := mustText(t, w.cheapKit(t))
	lines := strings.Split(text, "\n")
	first := slices.Index(lines, "-----BEGIN EMBASSY RECOVERY KIT-----") + 1
	end := slices.Index(lines, "-----END EMBASSY RECOVERY KIT-----")
	if end-first < 4 {
		t.Fatalf("a kit of %d lines", end-first)
	}
	swapped := slices.Clone(lines)
	swapped[first+1], swapped[first+2] = swapped[first+2], swapped[first+1]
	tests := map[string]struct {
		lines []string
		says  string
	}{
		"second missing": {slices.Delete(slices.Clone(lines), first+1, first+2), fmt.Sprintf("line 2 of its block is missing or out of order: see line %d of the file, at %q", first+2, lines[first+2][:9])},
		"swapped":        {swapped, "line 2 of its block is missing or out of order"},
		"last missing":   {slices.Delete(slices.Clone(lines), end-1, end), "its end is missing"},
		"last twice":     {slices.Insert(slices.Clone(lines), end, lines[end-1]), "line "},
		"first twice":    {slices.Insert(slices.Clone(lines), first, lines[first]), "line 2 of its block is missing or out of order"},
		"half a line":    {slices.Replace(slices.Clone(lines), first, first+1, lines[first][:30]), fmt.Sprintf("line %d of the file, at %q, is damaged", first+1, lines[first][:9])},
	}
	for name, tt := range tests {
		if _, err := format.ParseKit([]byte(strings.Join(tt.lines, "\n"))); class(err) != "malformed" || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v, want %q", name, err, tt.says)
		}
	}
}
