package format_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"embassy/embassy/format"
)

var ceremonyTime = time.Unix(1767225600, 0)

// ceremony shares the root of a world.
func (w *world) ceremony(t helper, quorum, n int, at time.Time) []*format.Share {
	t.Helper()
	shares, err := format.NewShares(w.root, w.nation, quorum, n, format.Hints{
		Time: at.UnixNano(), Charter: 1, Targets: []format.TargetHint{{Name: "tallinn", URL: "dir:/mnt/vault"}},
	}, at)
	if err != nil {
		t.Fatal(err)
	}
	return shares
}

func shareText(t helper, s *format.Share) string {
	t.Helper()
	text, err := s.Text("Estland")
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// given names shares a, b, c and so on.
func given(shares ...*format.Share) []format.NamedShare {
	var list []format.NamedShare
	for i, s := range shares {
		list = append(list, format.NamedShare{Name: string(rune('a' + i)), Share: s})
	}
	return list
}

// shareBlock is where the digits of the share begin and end in its text.
func shareBlock(text string) (begin, end int) {
	const head = "-----BEGIN EMBASSY SHARE-----\n"
	return strings.Index(text, head) + len(head), strings.Index(text, "-----END EMBASSY SHARE")
}

// Shares come back from their text, also as a person types it, with and without
// hints, and any quorum of them is the root.
func TestShares(t *testing.T) {
	w := newWorld(t, 0)
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 8).Draw(t, "n")
		quorum := rapid.IntRange(2, n).Draw(t, "quorum")
		shares := rapid.Permutation(w.ceremony(t, quorum, n, ceremonyTime)).Draw(t, "order")
		var parsed []format.NamedShare
		for _, s := range shares {
			text := shareText(t, s)
			begin, end := shareBlock(text)
			if lines := strings.Count(text[begin:end], "\n"); lines > 14 {
				t.Fatalf("%d lines are too many to type", lines)
			}
			if rapid.Bool().Draw(t, "typed") {
				s.Hints = nil
				body := strings.NewReplacer("0", "o", "1", "l", " ", "").Replace(strings.ToLower(text[begin:end]))
				text = "-----BEGIN EMBASSY SHARE-----\r\n" + strings.ReplaceAll(body, "\n", "\r\n\t") + "-----END EMBASSY SHARE-----"
			}
			got := format.NameShare(fmt.Sprint(s.Number), []byte(text))
			if got.Err != nil || !reflect.DeepEqual(got.Share, s) {
				t.Fatalf("%v: %q", got.Err, text)
			}
			parsed = append(parsed, got)
		}
		c, err := format.Combine(parsed[:quorum])
		if err != nil || !c.Root.Equal(&w.root.Secret) || c.Nation != w.nation || len(c.Faults) > 0 || c.HintsFault != nil {
			t.Fatalf("%+v, %v", c, err)
		}
		if hinted := slices.ContainsFunc(shares[:quorum], func(s *format.Share) bool { return s.Hints != nil }); hinted != (c.Hints.Charter == 1) {
			t.Fatalf("hints %+v", c.Hints)
		}
		c, err = format.Combine(parsed[:quorum-1])
		want := fmt.Sprintf("too few shares: %d are needed, and %d given", quorum, quorum-1)
		if c != nil || class(err) != "authentication" || err.Error() != want {
			t.Fatalf("%v, want %q", err, want)
		}
	})
}

// What is wrong with a share is said of that share, and of no other.
func TestCombineNames(t *testing.T) {
	w, foreign := newWorld(t, 0), newWorld(t, 1)
	later := ceremonyTime.Add(time.Hour)
	now, old, other := w.ceremony(t, 3, 5, later), w.ceremony(t, 3, 5, ceremonyTime), foreign.ceremony(t, 3, 5, later.Add(time.Hour))
	altered := *now[2]
	altered.Number = 4
	text := shareText(t, now[2])
	begin, _ := shareBlock(text)
	for text[begin+8] == ' ' {
		begin++
	}
	digit := "7"
	if text[begin+8] == '7' {
		digit = "8"
	}
	damaged := format.NameShare("damaged.txt", []byte(text[:begin+8]+digit+text[begin+9:]))
	_, alteredErr := format.ParseShare([]byte(shareText(t, &altered)))
	renamed := *foreign.ceremony(t, 3, 5, later)[2] // of another root that claims this nation
	renamed.Nation = w.nation
	_, renamedErr := format.ParseShare([]byte(shareText(t, &renamed)))
	if class(alteredErr) != "authentication" || class(renamedErr) != "authentication" {
		t.Fatalf("parsed: %v, %v", alteredErr, renamedErr)
	}
	impostor, err := format.NewShares(foreign.root, w.nation, 3, 5, format.Hints{}, later.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	name := func(name string, s *format.Share, err error) format.NamedShare {
		return format.NamedShare{Name: name, Share: s, Err: err}
	}
	tests := map[string]struct {
		third format.NamedShare
		says  string
	}{
		"damaged":         {damaged, "damaged.txt: damaged: malformed: share: line "},
		"altered":         {name("x", &altered, alteredErr), "x: altered: the root did not sign it so"},
		"another nation":  {name("x", other[2], nil), "x: of another nation: " + foreign.nation.String()},
		"another root":    {name("x", impostor[2], nil), "x: of another root"},
		"older ceremony":  {name("x", old[2], nil), "x: stale: of an older ceremony, held at 2026-01-01 00:00:00Z; the others are of 2026-01-01 01:00:00Z"},
		"given twice":     {name("x", now[0], nil), "x: share 1 is given twice: it is in a already"},
		"not a share":     {format.NameShare("x", []byte("a letter")), "x: damaged: "},
		"signature away":  {name("x", nil, alteredErr), "x: altered"},
		"newer, but less": {name("x", w.ceremony(t, 3, 5, later.Add(time.Minute))[2], nil), "x: of a newer ceremony"},
	}
	for what, tt := range tests {
		two := append(given(now[0], now[1]), tt.third)
		c, err := format.Combine(two)
		if c != nil || class(err) != "authentication" || !strings.Contains(err.Error(), tt.says) || !strings.Contains(err.Error(), "3 are needed, and 2 of the 3 given") {
			t.Errorf("%s: %v, want %q", what, err, tt.says)
		}
		var few *format.SharesError
		if !errors.As(err, &few) || len(few.Faults) != 1 || few.Faults[0].Name != tt.third.Name {
			t.Errorf("%s: blamed %+v", what, few)
		}
		// It does no harm beside a quorum.
		c, err = format.Combine(append(two, given(now[3])...))
		if err != nil || !c.Root.Equal(&w.root.Secret) || len(c.Faults) != 1 || !strings.HasPrefix(tt.says, c.Faults[0].Name+": ") {
			t.Errorf("%s beside a quorum: %v", what, err)
		}
	}
	if c, err := format.Combine(given(impostor[:3]...)); c != nil || class(err) != "authentication" || !strings.Contains(err.Error(), "not those of the root of nation") {
		t.Errorf("a quorum of another root that claims the nation: %v", err)
	}
	if _, err := format.Combine(nil); class(err) != "authentication" {
		t.Errorf("no share at all: %v", err)
	}
	// Of as many, the newest ceremony counts.
	var few *format.SharesError
	if _, err := format.Combine(given(old[0], now[1])); !errors.As(err, &few) || few.Faults[0].Name != "a" {
		t.Errorf("one of each: %v", err)
	}
}

// One wrong digit is found, its line named, and no digit of it shown.
func TestShareTextDamaged(t *testing.T) {
	w := newWorld(t, 0)
	text := shareText(t, w.ceremony(t, 2, 3, ceremonyTime)[1])
	begin, end := shareBlock(text)
	const seed = 5
	random := rand.New(rand.NewPCG(seed, 0))
	for range 200 {
		at := begin + random.IntN(end-begin)
		c := "02345789ABCDEFGHJK"[random.IntN(18)]
		if text[at] == c || text[at] == '\n' || text[at] == ' ' {
			continue
		}
		_, err := format.ParseShare([]byte(text[:at] + string(c) + text[at+1:]))
		line := strings.Count(text[:at], "\n")
		if want := fmt.Sprintf("line %d of the file", line+1); class(err) != "malformed" || !strings.Contains(err.Error(), want) {
			t.Fatalf("seed %d: %q at %d: %v, want %s", seed, c, at, err, want)
		}
		for _, group := range strings.Fields(strings.Split(text, "\n")[line]) {
			if strings.Contains(err.Error(), group) {
				t.Fatalf("%v shows %s", err, group)
			}
		}
	}
}

// Damaged hints do not make a share wrong.
func TestShareHintsDamaged(t *testing.T) {
	w := newWorld(t, 0)
	shares := w.ceremony(t, 2, 2, ceremonyTime)
	text := shareText(t, shares[0])
	at := strings.Index(text, "BEGIN EMBASSY HINTS-----\n") + 40
	s, err := format.ParseShare([]byte(text[:at] + "!" + text[at+1:]))
	if err != nil || s.Hints != nil || class(s.HintsFault) != "malformed" {
		t.Fatalf("%v, %v", err, s)
	}
	shares[1].Hints[len(shares[1].Hints)-1] ^= 1
	c, err := format.Combine(given(s, shares[1]))
	if err != nil || c.HintsFault == nil || c.Hints.Time != 0 {
		t.Fatalf("%v, %+v", err, c)
	}
}

// A typed share is checked line by line.
func TestShareLines(t *testing.T) {
	w := newWorld(t, 0)
	s := w.ceremony(t, 2, 3, ceremonyTime)[1]
	s.Hints = nil
	text := shareText(t, s)
	begin, end := shareBlock(text)
	lines := strings.Split(strings.TrimSpace(text[begin:end]), "\n")
	var typed format.ShareLines
	for i, line := range lines {
		wrong := []string{"", "x", line[:len(line)-1], line + "0", lines[(i+1)%len(lines)]}
		for _, bad := range wrong {
			if _, err := typed.Add(bad); class(err) != "malformed" {
				t.Fatalf("line %d: %q: %v", i+1, bad, err)
			}
		}
		last, err := typed.Add("  " + strings.ToLower(line) + "\r\n")
		if err != nil || last != (i == len(lines)-1) {
			t.Fatalf("line %d: last %t, %v", i+1, last, err)
		}
	}
	got, err := typed.Share()
	if err != nil || !reflect.DeepEqual(got, s) {
		t.Fatalf("%v", err)
	}
}

func TestSplitShares(t *testing.T) {
	w := newWorld(t, 0)
	var all string
	shares := w.ceremony(t, 2, 3, ceremonyTime)
	for _, s := range shares {
		all += shareText(t, s)
	}
	parts := format.SplitShares([]byte(all))
	if len(parts) != 3 || len(format.SplitShares([]byte("nothing"))) != 0 {
		t.Fatalf("%d parts", len(parts))
	}
	for i, p := range parts {
		if got, err := format.ParseShare(p); err != nil || got.Number != shares[i].Number || got.Hints == nil {
			t.Errorf("part %d: %v", i, err)
		}
	}
}

func TestNewSharesRefuses(t *testing.T) {
	w := newWorld(t, 0)
	for _, q := range [][2]int{{1, 5}, {6, 5}, {3, 33}, {3, 256 + 5}, {0, 0}} {
		if shares, err := format.NewShares(w.root, w.nation, q[0], q[1], format.Hints{}, time.Now()); err == nil || shares != nil {
			t.Errorf("%d of %d was taken", q[0], q[1])
		}
	}
}

// The shares of a root that was rotated carry the roots before it, and the
// nation is that of the first.
func TestSharesOfLaterRoot(t *testing.T) {
	w := newWorld(t, 0)
	w.root = w.root.Succeed()
	shares := w.ceremony(t, 2, 3, ceremonyTime)
	var list []format.NamedShare
	for _, s := range shares[1:] {
		list = append(list, format.NameShare("x", []byte(shareText(t, s))))
	}
	c, err := format.Combine(list)
	if err != nil || c.Nation != w.nation || len(c.Root.Ring()) != 2 || !c.Root.Equal(&w.root.Secret) {
		t.Fatalf("%+v, %v", c, err)
	}
	other := newWorld(t, 1)
	other.root, other.nation = other.root.Succeed(), w.nation
	if c, err := format.Combine(given(other.ceremony(t, 2, 2, ceremonyTime)...)); c != nil || class(err) != "authentication" {
		t.Errorf("roots of another nation: %v", err)
	}
}

func FuzzShare(f *testing.F) {
	w := newWorld(f, 0)
	for _, s := range w.ceremony(f, 2, 3, ceremonyTime) {
		f.Add(shareText(f, s))
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := format.ParseShare([]byte(text))
		if err != nil {
			return
		}
		s.HintsFault = nil
		if got, err := format.ParseShare([]byte(shareText(t, s))); err != nil || !reflect.DeepEqual(got, s) {
			t.Fatalf("%v: it does not come back", err)
		}
	})
}

// A ceremony with a quorum goes before one of which there are more shares, and too few.
func TestCombineTakesTheQuorum(t *testing.T) {
	w := newWorld(t, 0)
	old, now := w.ceremony(t, 4, 5, ceremonyTime), w.ceremony(t, 2, 3, ceremonyTime.Add(time.Hour))
	c, err := format.Combine(given(old[0], old[1], old[2], now[0], now[1]))
	if err != nil || !c.Root.Equal(&w.root.Secret) || len(c.Used) != 2 || len(c.Faults) != 3 {
		t.Fatalf("%+v, %v", c, err)
	}
}
