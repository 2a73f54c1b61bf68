package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"embassy/catalog"
	"embassy/cmd/internal/open"
	"embassy/crypto"
	"embassy/embassy"
	"embassy/embassy/config"
	"embassy/embassy/format"
	"embassy/targets"
)

// lockWait is how long a command waits for another one to release the catalog.
const lockWait = 10 * time.Second

// site is what the configuration file opens: this machine's view of the
// nation's targets.
type site struct {
	config  *config.Config
	members []*embassy.Member
	reopen  []func() (targets.Target, error) // opens the target of each member once more
	screen  *screen
	log     *slog.Logger
	catalog *catalog.Catalog // nil unless openCatalog was called
	made    []*embassy.Service
	shared  *daemon // nil unless all of this but the screen is the daemon's
}

// openSite reads the configuration and opens its targets. A target that cannot
// be opened becomes a member that is down, with the cause. The caller closes
// the site.
func (con *console) openSite() (*site, error) { return con.openLimited(limits{}) }

// openLimited is openSite with limits that override those of the configuration.
func (con *console) openLimited(l limits) (*site, error) { return con.open(l, targets.OpenDir) }

// openSiteWith is openSite; dir opens directories.
func (con *console) openSiteWith(dir func(path string) (*targets.Dir, error)) (*site, error) {
	return con.open(limits{}, dir)
}

func (con *console) open(l limits, dir func(path string) (*targets.Dir, error)) (*site, error) {
	if con.shared != nil {
		return con.shared.siteFor(con, l)
	}
	cfg, err := config.Load(con.config)
	if err != nil {
		return nil, badConfig(err)
	}
	if err := sameNation(cfg); err != nil {
		return nil, err
	}
	if err := l.check(cfg); err != nil {
		return nil, err
	}
	s := &site{config: cfg}
	up, down := l.overall(cfg)
	var names []string
	for _, t := range cfg.Targets {
		open := func() (targets.Target, error) {
			target, err := openTarget(t, dir)
			if err != nil {
				return nil, err
			}
			return l.limit(t, target, up, down), nil
		}
		target, err := open()
		s.reopen = append(s.reopen, open)
		s.members = append(s.members, embassy.NewMember(t.Name, t.URL, t.Jurisdiction, target, err, time.Now))
		names = append(names, t.Name)
	}
	s.screen = newScreen(con, names)
	s.log = s.screen.logger(con.level)
	return s, nil
}

// sameNation refuses a configuration of another nation than that which this
// machine belongs to.
func sameNation(cfg *config.Config) error {
	state, err := embassy.OpenState(cfg.StateDir)
	if err != nil {
		return nil // what is wrong with the state, its user says
	}
	if state.Name() != cfg.Nation {
		return usage("%s:%d: nation is %s, this machine belongs to %s: correct it, or name another state_dir",
			cfg.File, cfg.NationLine, cfg.Nation, state.Name())
	}
	if pinned := state.NationKey(); cfg.NationKey.Signer != nil && !state.Knows(cfg.NationKey) {
		return usage("%s:%d: nation_key is not that of the nation that this machine belongs to, which is %s: correct it, or name another state_dir",
			cfg.File, cfg.NationKeyLine, pinned)
	}
	return nil
}

// identity is what this machine knows of its nation by itself.
type identity struct {
	key   format.NationKey
	state *embassy.State // nil on a keyless machine, which has no more than the key
}

// identity tells which of the two this machine is. The error of one that is
// neither wraps [embassy.ErrNoState].
func (s *site) identity() (identity, error) {
	key, state, err := embassy.Identify(s.config)
	switch {
	case !errors.Is(err, embassy.ErrNoState):
	case s.config.NationKey.Signer != nil:
		err = fmt.Errorf("%w, or, to join the nation of nation_key, embassy agent request", err)
	default:
		err = fmt.Errorf("%w, or, to copy and check only, add the nation_key that embassy config replicator prints on a machine that backs up; with datasets and that key, run embassy agent request", err)
	}
	return identity{key, state}, err
}

// badConfig makes a configuration that cannot be read a mistake of usage.
func badConfig(err error) error {
	if as[*config.Errors](err) {
		return err
	}
	return usage("%s", err)
}

func openTarget(t config.Target, dir func(path string) (*targets.Dir, error)) (targets.Target, error) {
	loc, err := targets.Parse(t.URL)
	if err != nil {
		return nil, err
	}
	return open.Target(loc, keysOf(t.Credentials), open.Options{
		CAFile: t.CAFile, Region: t.Region, Insecure: t.Insecure, Dir: dir,
		Lock: targets.LockRule{Mode: t.Lock.Mode, For: t.Lock.Period()},
	})
}

func keysOf(c config.Credentials) open.Credentials {
	return open.Credentials{AccessKeyEnv: c.AccessKeyEnv, SecretKeyEnv: c.SecretKeyEnv, File: c.File, Profile: c.Profile}
}

// openBucket opens a bucket that a dataset is backed up from.
func openBucket(b config.Bucket) (embassy.Bucket, error) {
	loc, err := targets.Parse(b.URL)
	if err != nil {
		return nil, err
	}
	return open.Bucket(loc, keysOf(b.Credentials), open.Options{CAFile: b.CAFile, Region: b.Region, Insecure: b.Insecure})
}

// openCatalog opens the catalog of this machine. One that is damaged, or that
// another version of the program wrote, is moved aside, and an empty one takes
// its place: it is a cache.
func (s *site) openCatalog() error {
	if s.shared != nil {
		return nil
	}
	me, err := s.identity()
	if err != nil {
		return err
	}
	dir := filepath.Join(s.config.StateDir, "catalog")
	if me.state != nil {
		dir = me.state.CatalogDir()
	} else if err := os.MkdirAll(s.config.StateDir, 0o700); err != nil {
		return fmt.Errorf("make the state directory: %w", err)
	}
	if err := writable(s.config.StateDir); err != nil {
		return err
	}
	if s.catalog, err = s.openOrReplace(dir); err != nil {
		return err
	}
	if me.state == nil { // nothing else says whose directory it is
		err = s.claim(me.key)
	}
	return err
}

func (s *site) openOrReplace(dir string) (*catalog.Catalog, error) {
	options := catalog.Options{LockWait: lockWait, Waits: s.screen.waits, Logger: s.log}
	c, err := catalog.Open(dir, options)
	why := "was damaged"
	switch {
	case errors.Is(err, catalog.ErrSchema):
		why = "was written by another version of embassy"
	case !errors.Is(err, catalog.ErrCorrupt):
		return c, err
	}
	to, asideErr := catalog.MoveAside(dir, time.Now())
	if to == "" {
		return nil, errors.Join(err, asideErr)
	}
	s.screen.warn(embassy.Finding{Object: "catalog", Err: fmt.Errorf("it %s, and lies in %s now; what it knew is learned again from the ledgers", why, to)})
	if asideErr != nil {
		s.screen.warn(embassy.Finding{Object: "catalog", Err: asideErr})
	}
	return catalog.Open(dir, options)
}

// claim refuses a catalog of another nation, and marks a new one.
func (s *site) claim(key format.NationKey) error {
	const note = "nation"
	nation := key.Nation.String()
	owner, found, err := s.catalog.Noted(note)
	switch {
	case err != nil:
		return err
	case !found:
		return s.catalog.Note(note, []byte(nation))
	case string(owner) != nation:
		return usage("%s:%d: nation_key is of nation %s, and the state directory %s is of nation %s: correct the key, or name another state_dir",
			s.config.File, s.config.NationKeyLine, nation, s.config.StateDir, owner)
	}
	return nil
}

// writable says in words that a state directory belongs to somebody else.
func writable(dir string) error {
	f, err := os.CreateTemp(dir, ".writable-")
	if err == nil {
		err = errors.Join(f.Close(), os.Remove(f.Name()))
	}
	if path := (*fs.PathError)(nil); errors.As(err, &path) {
		return fmt.Errorf("cannot write the state directory %s (%w): run embassy as the user that it belongs to, with room on its disk", dir, path.Err)
	}
	return err
}

// using opens the site and its catalog, lends them to use, and closes both, so
// that the progress has ended before anything is printed. check, which may be
// nil, looks at the configuration before the catalog is opened.
func (con *console) using(l limits, check func(*site) error, use func(*site, *embassy.Service) error) (err error) {
	s, err := con.openLimited(l)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if check != nil {
		if err := check(s); err != nil {
			return err
		}
	}
	if err := s.openCatalog(); err != nil {
		return err
	}
	service, err := s.service()
	if err != nil {
		return err
	}
	return use(s, service)
}

// serving is using without limits and without the catalog.
func (con *console) serving(use func(*site, *embassy.Service) error) (err error) {
	s, err := con.openSite()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	service, err := s.service()
	if err != nil {
		return err
	}
	return use(s, service)
}

// opening is a way to see what the answering targets hold: reader.open, or
// asAgent.
type opening func(context.Context, *site, *console) (*embassy.View, *embassy.Keys, error)

// viewing opens the site and a view, lends them to use, and closes the site.
// The charter must have the datasets; an empty name is none.
func (con *console) viewing(ctx context.Context, l limits, open opening, datasets []string, use func(*site, *embassy.View, *embassy.Keys) error) (err error) {
	s, err := con.openLimited(l)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	view, keys, err := open(ctx, s, con)
	if err != nil {
		return err
	}
	for _, name := range datasets {
		if name == "" {
			continue
		}
		if _, err := findDataset(keys, name); err != nil {
			return err
		}
	}
	return use(s, view, keys)
}

// service returns the service over the site.
func (s *site) service() (*embassy.Service, error) {
	if s.shared != nil {
		service := s.shared.service.With(s.screen.warn, s.screen.teller(), s.log)
		s.made = append(s.made, service)
		return service, nil
	}
	o := embassy.Options{
		Site: s.config, Members: s.members, Log: s.log, Warn: s.screen.warn, Progress: s.screen.teller(),
		Bucket: openBucket,
	}
	if s.catalog != nil { // a nil *Catalog is no nil Catalog
		o.Catalog = s.catalog
	}
	service, err := embassy.New(o)
	if err == nil {
		s.made = append(s.made, service)
	}
	return service, err
}

// close ends the progress, lets what was recorded go to the targets, and closes
// the catalog.
func (s *site) close() error {
	s.screen.close()
	s.deliverAudit()
	if s.catalog == nil || s.shared != nil {
		return nil
	}
	c := s.catalog
	s.catalog = nil
	return c.Close()
}

// kitPath returns the recovery kit that is to be used.
func (s *site) kitPath(r reader) (string, error) {
	path := r.kit
	if path == "" {
		path = s.config.Kit
	}
	if path == "" {
		return "", usage("this needs the recovery kit, or a quorum of shares: name them with --kit FILE, or --share FILE for each")
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return "", usage("there is no recovery kit at %s: bring it to this machine, or name it with --kit FILE; or give a quorum of shares, each with --share FILE", path)
	}
	return path, nil
}

// presentRoot opens the root as openKit does, and refuses one that was replaced,
// as far as this machine knows: what is made of it opens nothing.
func (s *site) presentRoot(ctx context.Context, con *console, r reader) (*crypto.Root, *embassy.Custody, error) {
	root, c, err := s.openKit(ctx, con, r)
	if err != nil {
		return nil, nil, err
	}
	state, err := embassy.OpenState(s.config.StateDir)
	if s.config.StateDir == "" || errors.Is(err, embassy.ErrNoState) {
		return root, c, nil // no machine of the nation
	}
	if err == nil {
		err = state.CheckRoot(c.Nation, root)
	}
	if err != nil {
		root.Wipe()
		return nil, nil, err
	}
	return root, c, nil
}

// openKit opens the root with the recovery kit, or with a quorum of shares. The
// caller wipes it.
func (s *site) openKit(ctx context.Context, con *console, r reader) (*crypto.Root, *embassy.Custody, error) {
	if s.shared != nil {
		return nil, nil, usage("this needs the recovery kit, which must not come near the daemon that has the catalog, process %d: stop the daemon first", os.Getpid())
	}
	if r.key != "" {
		return nil, nil, usage("a reader key reads one compartment, and does nothing else: this needs the recovery kit, --kit FILE, or a quorum of shares")
	}
	open := s.unlockKit
	if len(r.shares) > 0 {
		open = s.unlockShares
	}
	c, err := open(ctx, con, r)
	if err != nil {
		return nil, nil, err
	}
	for _, note := range c.Notes {
		con.warnf("%s", note)
	}
	s.record(con, embassy.DidOpenRoot, "", append([]string{"with", cmp.Or(strings.Join(r.shares, " "), r.kit, s.config.Kit)}, r.about...)...)
	return c.Root, c, nil
}

func (s *site) unlockKit(ctx context.Context, con *console, r reader) (*embassy.Custody, error) {
	path, err := s.kitPath(r)
	if err != nil {
		return nil, err
	}
	phrase, err := con.passphrases(r.phrases).Existing(ctx, path)
	if err != nil {
		return nil, err
	}
	defer clear(phrase)
	return embassy.UnlockKit(path, phrase)
}

func (s *site) unlockShares(_ context.Context, con *console, r reader) (*embassy.Custody, error) {
	if r.kit != "" {
		return nil, usage("give either the recovery kit, --kit FILE, or shares, --share FILE: not both")
	}
	shares, err := embassy.ReadShares(r.shares)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, usage("%s", err)
	}
	if err != nil {
		return nil, err
	}
	return embassy.UnlockShares(shares)
}

// open opens the nation with the recovery kit and reads what the answering
// targets hold.
func (r reader) open(ctx context.Context, s *site, con *console) (*embassy.View, *embassy.Keys, error) {
	keys, err := s.rootKeys(ctx, con, r)
	if err != nil {
		return nil, nil, err
	}
	view, err := s.view(ctx, keys)
	return view, keys, err
}

// rootKeys opens the newest charter that the answering targets show with the
// root, or with a reader key as far as that goes.
func (s *site) rootKeys(ctx context.Context, con *console, r reader) (*embassy.Keys, error) {
	if r.key != "" {
		return s.readerKeys(ctx, con, r)
	}
	root, kit, err := s.openKit(ctx, con, r)
	if err != nil {
		return nil, err
	}
	defer root.Wipe()
	charter, _, err := embassy.FindCharterOf(ctx, s.members, kit.Nation, root, s.screen.warn)
	if err != nil {
		return nil, s.brief(err)
	}
	return embassy.RootKeys(charter, root)
}

// readerKeys is rootKeys with a reader key file.
func (s *site) readerKeys(ctx context.Context, con *console, r reader) (*embassy.Keys, error) {
	if r.kit != "" {
		return nil, usage("--kit and --reader-key are two ways to read: give one of them")
	}
	key, err := embassy.OpenReaderKey(r.key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, usage("there is no reader key at %s: embassy keys export-reader makes one", r.key)
	}
	if err != nil {
		return nil, err
	}
	s.record(con, embassy.DidOpenReader, "", "with", r.key)
	nation, err := key.NationKey()
	if err != nil {
		return nil, err
	}
	charter, _, err := embassy.FindCharter(ctx, s.members, nation.Nation, nation.Signer, s.screen.warn)
	if err != nil {
		return nil, s.brief(err)
	}
	return embassy.ReaderKeys(charter, key)
}

// view reads what the answering targets hold.
func (s *site) view(ctx context.Context, keys *embassy.Keys) (*embassy.View, error) {
	service, err := s.service()
	if err != nil {
		return nil, err
	}
	view, err := embassy.OpenView(ctx, embassy.ViewOptions{
		Keys: keys, Members: s.members, Order: service.Ranked,
		Log: s.log, Warn: s.screen.warn, Progress: s.screen.teller(),
	})
	return view, s.brief(err)
}

// asAgent opens the nation with this machine's agent key, which shows summaries
// and no content.
func asAgent(ctx context.Context, s *site, _ *console) (*embassy.View, *embassy.Keys, error) {
	service, err := s.service()
	if err != nil {
		return nil, nil, err
	}
	keys, err := service.AgentKeys(ctx)
	if err != nil {
		return nil, nil, err
	}
	view, err := s.view(ctx, keys)
	return view, keys, err
}
