package embassy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
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
		root, resumed, err := s.initRoot(o)
		if err != nil {
			return rep, err
		}
		rep.Resumed, rep.KitFound = rep.Resumed || resumed, true
		if state, err = createState(s.site.StateDir, s.site.Nation, root); err != nil {
			return rep, err
		}
		did := DidOpenRoot
		if ch == nil {
			if ch, object, err = s.firstCharter(ctx, state, root, o); err != nil {
				return rep, err
			}
			did = DidSignCharter
		}
		// It goes to the targets with the first backup.
		if err := s.record(state, did, "", "charter", strconv.FormatUint(ch.Seq, 10), "by", "init"); err != nil {
			s.warn(Finding{Object: auditObject, Err: fmt.Errorf("%w: %w", ErrNotRecorded, err)})
		}
	}
	rep.Nation, rep.Fingerprint, rep.Agent = state.Nation(), state.Verifier().Fingerprint(), state.Agent()
	rep.Targets = s.publish(ctx, ch, object)
	return rep, nil
}

// initRoot returns the root of the kit, and makes both when there is no kit.
func (s *Service) initRoot(o InitOptions) (root *crypto.Root, resumed bool, err error) {
	_, root, err = OpenKit(o.KitPath, o.Passphrase)
	if err == nil {
		return root, true, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, false, err
	}
	root = crypto.NewRoot()
	nation := format.NationID(root.Signer().Verifier(), root.Identity().Recipient())
	kit, err := format.NewKit(root, nation, o.Passphrase, s.now())
	if err != nil {
		return nil, false, err
	}
	hints := format.Hints{Time: s.now().UnixNano(), Charter: 1}
	for _, m := range s.order {
		hints.Targets = append(hints.Targets, format.TargetHint{Name: m.Name, URL: m.URL, Jurisdiction: m.Jurisdiction})
	}
	if err := kit.SetHints(hints); err != nil {
		return nil, false, err
	}
	text, err := kit.Text(s.site.Nation)
	if err != nil {
		return nil, false, err
	}
	if err := os.MkdirAll(filepath.Dir(o.KitPath), 0o700); err != nil {
		return nil, false, err
	}
	if err := writeFile(filepath.Dir(o.KitPath), o.KitPath, []byte(text)); err != nil {
		return nil, false, fmt.Errorf("write recovery kit: %w", err)
	}
	return root, false, nil
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

// firstCharter signs charter 1, or takes the newest one that a target holds
// when this root already has one: then this machine only joins it again.
func (s *Service) firstCharter(ctx context.Context, state *State, root *crypto.Root, o InitOptions) (*format.Charter, []byte, error) {
	probe(ctx, state.Nation(), s.order)
	prev, object, err := FindCharter(ctx, s.order, state.Nation(), state.Verifier(), s.warn)
	if err != nil && (!errors.Is(err, ErrNoCharter) || errors.Is(err, errBadCharters)) {
		return nil, nil, err // a second first charter would be worse than none
	}
	if err != nil {
		prev, object = nil, nil
	}
	next, _, err := s.nextCharter(prev, object, root, state, o)
	if err != nil {
		return nil, nil, err
	}
	object, err = format.SealCharter(*next, root.Signer())
	if err != nil {
		return nil, nil, err
	}
	ch, err := state.acceptCharter(object)
	return ch, object, err
}

// CharterReport says what ApplyCharter added.
type CharterReport struct {
	Seq     uint64
	Added   []string // for people; empty: the charter already said it all
	Targets []TargetResult
}

// ApplyCharter signs what the configuration adds to the charter:
// compartments, datasets, and this machine as agent of both.
func (s *Service) ApplyCharter(ctx context.Context, root *crypto.Root) (CharterReport, error) {
	state, err := OpenState(s.site.StateDir)
	if err != nil {
		return CharterReport{}, err
	}
	ch, object, err := s.newestCharter(ctx, state)
	if err != nil {
		return CharterReport{}, err
	}
	next, added, err := s.nextCharter(ch, object, root, state, InitOptions{})
	if err != nil {
		return CharterReport{}, err
	}
	if len(added) > 0 {
		if object, err = format.SealCharter(*next, root.Signer()); err != nil {
			return CharterReport{}, err
		}
		if ch, err = state.acceptCharter(object); err != nil {
			return CharterReport{}, err
		}
		if err := s.Audit(DidSignCharter, "", "charter", strconv.FormatUint(ch.Seq, 10), "added", strings.Join(added, "; ")); err != nil {
			return CharterReport{}, err
		}
	}
	return CharterReport{Seq: ch.Seq, Added: added, Targets: s.publish(ctx, ch, object)}, nil
}

// newestCharter returns the newest charter that this machine or any answering
// target knows.
func (s *Service) newestCharter(ctx context.Context, state *State) (*format.Charter, []byte, error) {
	probe(ctx, state.Nation(), s.order)
	_, object, err := FindCharter(ctx, s.order, state.Nation(), state.Verifier(), s.warn)
	if err != nil && !errors.Is(err, ErrNoCharter) && !errors.Is(err, ErrDown) {
		return nil, nil, err
	}
	if err == nil {
		if _, err := state.acceptCharter(object); err != nil {
			return nil, nil, err
		}
	}
	return state.charter()
}

// nextCharter returns the charter after prev (nil: the first) that says what
// the configuration says, and lines about what is new.
func (s *Service) nextCharter(prev *format.Charter, prevObject []byte, root *crypto.Root, state *State, o InitOptions) (*format.Charter, []string, error) {
	next := &format.Charter{Nation: state.Nation(), Seq: 1}
	parts := map[format.ID]format.CompartmentPart{}
	var added []string
	if prev != nil {
		keys, err := RootKeys(prev, root)
		if err != nil {
			return nil, nil, fmt.Errorf("open charter %d: %w", prev.Seq, err)
		}
		for _, c := range keys.Compartments {
			parts[c.ID] = c.Part
		}
		*next = *prev
		next.Seq, next.Prev = prev.Seq+1, format.HashOf(prevObject)
		next.Compartments, next.Agents = slices.Clone(prev.Compartments), slices.Clone(prev.Agents)
	}
	next.Time = s.now().UnixNano()
	next.RootSigner = root.Signer().Verifier().Bytes()
	next.RootRecipient = root.Identity().Recipient().Bytes()
	me := state.Agent()
	if next.Agent(me) == nil {
		next.Agents = append(next.Agents, format.CharterAgent{
			ID: me, Signer: state.key.Signer.Verifier().Bytes(),
			Recipient: state.key.Identity.Recipient().Bytes(), Status: format.AgentActive,
		})
		added = append(added, "agent "+me.String())
	}
	mine := next.Agent(me)
	mine.Compartments = slices.Clone(mine.Compartments)

	for _, k := range s.site.Compartments {
		id := format.ID(root.CompartmentID(k.Name))
		if next.Compartment(id) == nil {
			cc := format.CharterCompartment{ID: id, Epoch: 1, Recipients: []format.RecipientKey{
				{Epoch: 1, Key: root.Reader(id, 1).Recipient().Bytes()},
			}}
			next.Compartments = append(next.Compartments, cc)
			parts[id] = format.CompartmentPart{
				NationName: s.site.Nation, Name: k.Name,
				Writers: []format.EpochSecret{{Epoch: 1, Secret: root.Writer(id, 1).Bytes()}},
			}
			added = append(added, "compartment "+k.Name)
		}
		p := parts[id]
		p.Classification = k.Classification
		if o.Steward {
			cc := next.Compartment(id)
			cc.Stewards = append(slices.Clone(cc.Stewards), me)
		}
		if !slices.Contains(mine.Compartments, id) {
			mine.Compartments = append(mine.Compartments, id)
		}
		if !slices.ContainsFunc(p.AgentNames, func(a format.AgentName) bool { return a.ID == me }) {
			p.AgentNames = append(slices.Clone(p.AgentNames), format.AgentName{ID: me, Name: o.AgentName})
		}
		for _, d := range s.site.Datasets {
			if d.Compartment == k.Name {
				var line string
				if p.Datasets, line = withDataset(p.Datasets, d.Name, d.Priority, me); line != "" {
					added = append(added, line)
				}
			}
		}
		parts[id] = p
	}
	return next, added, sealParts(next, parts, root)
}

// withDataset returns the list with the dataset in it, writable by the agent,
// and a line that says what that changed.
func withDataset(list []format.Dataset, name string, priority int, agent format.ID) ([]format.Dataset, string) {
	list = slices.Clone(list)
	i := slices.IndexFunc(list, func(d format.Dataset) bool { return d.Name == name })
	if i < 0 {
		return append(list, format.Dataset{Name: name, Priority: priority, Agents: []format.ID{agent}}), "dataset " + name
	}
	line := ""
	if list[i].Priority != priority {
		list[i].Priority, line = priority, fmt.Sprintf("dataset %s: priority %d", name, priority)
	}
	if !slices.Contains(list[i].Agents, agent) {
		list[i].Agents, line = append(slices.Clone(list[i].Agents), agent), fmt.Sprintf("dataset %s: written by this agent too", name)
	}
	return list, line
}

// sealParts seals every compartment's part to its reader key and its active
// agents.
func sealParts(c *format.Charter, parts map[format.ID]format.CompartmentPart, root *crypto.Root) error {
	c.Parts = nil
	for _, k := range c.Compartments {
		seal := func(kind format.PartKind, to *crypto.Recipient) error {
			p, err := format.SealPart(c.Nation, k.ID, k.Epoch, kind, to, parts[k.ID])
			c.Parts = append(c.Parts, p)
			return err
		}
		if err := seal(format.ReaderPart, root.Reader(k.ID, k.ReaderEpoch()).Recipient()); err != nil {
			return err
		}
		for _, a := range c.Agents {
			if a.Status != format.AgentActive || !slices.Contains(a.Compartments, k.ID) {
				continue
			}
			to, err := crypto.ParseRecipient(a.Recipient)
			if err != nil {
				return fmt.Errorf("agent %s: %w", a.ID, err)
			}
			if err := seal(format.AgentPart, to); err != nil {
				return err
			}
		}
	}
	return nil
}
