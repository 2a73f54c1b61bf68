package embassy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime/debug"
	"strconv"
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

	// With Custodians, the root is shared among them in files in SharesDir, and
	// there is neither kit nor passphrase.
	Custodians, Quorum int
	SharesDir          string
}

// InitReport says what Init did.
type InitReport struct {
	Nation      format.ID
	Fingerprint string // of the root
	KitPath     string // of the kit or, when Shared, the folder of the shares
	KitFound    bool   // false when the machine was set up and they are elsewhere
	Shared      bool   // among custodians
	Agent       format.ID
	AgentName   string
	Resumed     bool
	Succeeds    []string // for people: the stewards whose place this machine took, and where
	Targets     []TargetResult
}

// Init makes the root, the kit or the shares, this machine's agent key and the
// first charter, in that order, each durable before the next. Run again, it goes
// on where it stopped, with the root of the kit or the shares that are there: it
// never makes a second one.
func (s *Service) Init(ctx context.Context, o InitOptions) (InitReport, error) {
	rep := InitReport{AgentName: o.AgentName}
	var err error
	if rep.Shared, err = o.Shared(); err != nil {
		return rep, err
	}
	if rep.KitPath, rep.KitFound, err = o.source(rep.Shared); err != nil {
		return rep, err
	}
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
	if !rep.KitFound && state != nil && ch == nil {
		flag := "kit with --kit"
		if rep.Shared {
			flag = "shares with --shares-dir"
		}
		return rep, fmt.Errorf("%s is not there, and this machine was set up only in part for nation %s: name its %s", rep.KitPath, state.Nation(), flag)
	}
	if ch == nil || rep.KitFound && !rep.Shared { // custodians come for no less
		makeRoot := s.initRoot
		if rep.Shared {
			makeRoot = s.splitNew
		}
		nation, root, resumed, err := makeRoot(o)
		if err != nil {
			return rep, err
		}
		defer root.Wipe()
		if state != nil {
			if err := state.CheckRoot(nation, root); err != nil {
				return rep, err
			}
		}
		rep.Resumed, rep.KitFound = rep.Resumed || resumed, true
		if state, err = createState(s.site.StateDir, s.site.Nation,
			format.NationKey{Nation: nation, Signer: root.Signer().Verifier()}, root.Identity().Recipient()); err != nil {
			return rep, err
		}
		did := DidOpenRoot
		if ch == nil {
			if ch, object, err = s.firstCharter(ctx, state, root, o); err != nil {
				return rep, err
			}
			did = DidSignCharter
			if rep.Succeeds, err = succeeds(state, ch); err != nil {
				return rep, err
			}
		}
		// It goes to the targets with the first backup.
		if err := s.record(state, did, "", "charter", strconv.FormatUint(ch.Seq, 10), "by", "init"); err != nil {
			s.warn(Finding{Object: auditObject, Err: fmt.Errorf("%w: %w", ErrNotRecorded, err)})
		}
	}
	key, err := state.NewestKey()
	if err != nil {
		return rep, err
	}
	rep.Nation, rep.Fingerprint, rep.Agent = key.Nation, key.Signer.Fingerprint(), state.Agent()
	rep.Targets = s.publish(ctx, ch, object)
	return rep, nil
}

// succeeds names the stewards in whose place the charter puts this machine.
func succeeds(state *State, ch *format.Charter) (words []string, err error) {
	keys, err := AgentKeys(ch, state.key)
	if err != nil {
		return nil, err
	}
	names := keys.Names()
	for _, k := range ch.Compartments {
		if n := len(k.Stewards); n > 1 && k.Steward() == state.Agent() {
			words = append(words, fmt.Sprintf("agent %s in compartment %s", names.Of(k.Stewards[n-2]), names.Of(k.ID)))
		}
	}
	return words, nil
}

// initRoot returns the nation and the root of the kit, which the caller wipes,
// and makes all three when there is no kit.
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
	if err := kit.SetHints(s.firstHints()); err != nil {
		return nation, nil, false, err
	}
	if err := WriteKit(o.KitPath, s.site.Nation, kit); err != nil {
		if errors.Is(err, fs.ErrExist) {
			err = fmt.Errorf("another init made a kit at once: run it again, to go on with that one: %w", err)
		}
		root.Wipe()
		return nation, nil, false, err
	}
	return nation, root, false, nil
}

// ReadKit reads a kit file.
func ReadKit(path string) (*format.Kit, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read recovery kit: %w", err)
	}
	kit, err := format.ParseKit(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return kit, nil
}

// OpenKit reads a kit file and unwraps its root, which the caller wipes;
// crypto.ErrAuthentication for a wrong passphrase.
func OpenKit(path string, passphrase []byte) (*format.Kit, *crypto.Root, error) {
	kit, err := ReadKit(path)
	if err != nil {
		return nil, nil, err
	}
	root, err := kit.Unwrap(passphrase)
	debug.FreeOSMemory() // the 256 MiB of Argon2 must not be the floor of what follows
	if err != nil {
		return nil, nil, fmt.Errorf("open recovery kit %s: wrong passphrase, or a damaged kit: %w", path, err)
	}
	return kit, root, nil
}
