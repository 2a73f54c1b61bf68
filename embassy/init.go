package embassy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"

	"embassy/crypto"
	"embassy/embassy/format"
)

// each calls f for every member at once and returns when all have returned.
func each(members []*Member, f func(i int, m *Member)) {
	var wg sync.WaitGroup
	for i, m := range members {
		wg.Go(func() { f(i, m) })
	}
	wg.Wait()
}

// InitOptions say how a nation begins.
type InitOptions struct {
	Passphrase []byte
	KitPath    string
	AgentName  string // for people
	Steward    bool   // this machine becomes the steward of every compartment
}

// InitReport says what Init did.
type InitReport struct {
	Nation      format.ID
	Fingerprint string // of the root
	KitPath     string
	KitFound    bool // false when the machine was set up and its kit is elsewhere
	Agent       format.ID
	AgentName   string
	Resumed     bool
	Targets     []TargetResult
}

// Init makes the root, the kit, this machine's agent key and the first
// charter, in that order, each durable before the next. Run again, it goes on
// where it stopped, with the root of the kit that is there: it never makes a
// second one.
func (s *Service) Init(ctx context.Context, o InitOptions) (InitReport, error) {
	rep := InitReport{KitPath: o.KitPath, AgentName: o.AgentName, KitFound: true}
	state, err := OpenState(s.site.StateDir)
	if err != nil && !errors.Is(err, ErrNoState) {
		return rep, err
	}
	var object []byte
	var ch *format.Charter
	if state != nil {
		rep.Resumed = true
		if ch, object, err = state.charter(); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return rep, err
		}
	}
	if _, err := os.Stat(o.KitPath); errors.Is(err, fs.ErrNotExist) {
		if state != nil && ch == nil {
			return rep, fmt.Errorf("%s is not there, and this machine was set up only in part for nation %s: name its kit with --kit", o.KitPath, state.Nation())
		}
		rep.KitFound = false
	}
	if ch == nil || rep.KitFound {
		nation, root, resumed, err := s.initRoot(o)
		if err != nil {
			return rep, err
		}
		rep.Resumed, rep.KitFound = rep.Resumed || resumed, true
		if state, err = createState(s.site.StateDir, s.site.Nation,
			format.NationKey{Nation: nation, Signer: root.Signer().Verifier()}, root.Identity().Recipient()); err != nil {
			return rep, err
		}
		if ch == nil {
			if ch, object, err = s.firstCharter(ctx, state, root, o); err != nil {
				return rep, err
			}
		}
	}
	rep.Nation, rep.Fingerprint, rep.Agent = state.Nation(), state.Verifier().Fingerprint(), state.Agent()
	rep.Targets = s.publish(ctx, ch, object)
	return rep, nil
}

// initRoot returns the nation and the root of the kit, and makes all three when
// there is no kit.
func (s *Service) initRoot(o InitOptions) (nation format.ID, root *crypto.Root, resumed bool, err error) {
	kit, root, err := OpenKit(o.KitPath, o.Passphrase)
	if err == nil {
		return kit.Nation, root, true, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nation, nil, false, err
	}
	root = crypto.NewRoot()
	nation = format.NationID(root.Signer().Verifier(), root.Identity().Recipient())
	kit, err = format.NewKit(root, nation, o.Passphrase, s.now())
	if err != nil {
		return nation, nil, false, err
	}
	hints := format.Hints{Time: s.now().UnixNano(), Charter: 1}
	for _, m := range s.order {
		hints.Targets = append(hints.Targets, format.TargetHint{Name: m.Name, URL: m.URL, Jurisdiction: m.Jurisdiction})
	}
	if err := kit.SetHints(hints); err != nil {
		return nation, nil, false, err
	}
	text, err := kit.Text(s.site.Nation)
	if err != nil {
		return nation, nil, false, err
	}
	if err := os.MkdirAll(filepath.Dir(o.KitPath), 0o700); err != nil {
		return nation, nil, false, err
	}
	if err := writeFile(filepath.Dir(o.KitPath), o.KitPath, []byte(text)); err != nil {
		return nation, nil, false, fmt.Errorf("write recovery kit: %w", err)
	}
	return nation, root, false, nil
}

// OpenKit reads a kit file and unwraps its root; crypto.ErrAuthentication for
// a wrong passphrase.
func OpenKit(path string, passphrase []byte) (*format.Kit, *crypto.Root, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, fmt.Errorf("read recovery kit: %w", err)
	}
	kit, err := format.ParseKit(text)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	root, err := kit.Unwrap(passphrase)
	debug.FreeOSMemory() // the 256 MiB of Argon2 must not be the floor of what follows
	if err != nil {
		return nil, nil, fmt.Errorf("open recovery kit %s: wrong passphrase, or a damaged kit: %w", path, err)
	}
	return kit, root, nil
}
