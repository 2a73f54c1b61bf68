package main

import (
	"context"
	"errors"
	"io/fs"

	"embassy/crypto"
	"embassy/embassy"
	"embassy/embassy/format"
)

// holder is who rescues: the nation itself, a reader, or a partner nation.
type holder struct {
	nation format.ID    // whose data it is
	root   *crypto.Root // of that nation; nil: a reader's or a partner's keys
	hints  format.Hints
	find   func(context.Context, []*embassy.Member) (*format.Charter, error)
	keys   func(*format.Charter) (*embassy.Keys, error)
	wipe   func()
}

func (r *rescue) unlock(ctx context.Context) (holder, error) {
	if r.readerKey != "" {
		return r.asReader()
	}
	kit, err := r.custody(ctx)
	if err != nil {
		return holder{}, err
	}
	root := kit.Root
	if key := r.partnerOf; key != nil && key.Nation != kit.Nation {
		h := r.holderOf(*key)
		h.wipe = root.Wipe
		h.keys = func(ch *format.Charter) (*embassy.Keys, error) { return embassy.PartnerKeys(ch, root) }
		return h, nil
	}
	return holder{
		nation: kit.Nation, root: root, hints: kit.Hints, wipe: root.Wipe,
		find: func(ctx context.Context, members []*embassy.Member) (*format.Charter, error) {
			ch, _, err := embassy.FindCharterOf(ctx, members, kit.Nation, root, r.warn)
			return ch, err
		},
		keys: func(ch *format.Charter) (*embassy.Keys, error) { return embassy.RootKeys(ch, root) },
	}, nil
}

// holderOf knows no more of a nation than its public key.
func (r *rescue) holderOf(key format.NationKey) holder {
	return holder{nation: key.Nation, wipe: func() {}, find: func(ctx context.Context, members []*embassy.Member) (*format.Charter, error) {
		ch, _, err := embassy.FindCharter(ctx, members, key.Nation, key.Signer, r.warn)
		return ch, err
	}}
}

func (r *rescue) asReader() (holder, error) {
	reader, err := embassy.OpenReaderKey(r.readerKey)
	if errors.Is(err, fs.ErrNotExist) {
		err = &usageError{"--reader-key: " + err.Error()}
	}
	if err != nil {
		return holder{}, err
	}
	key, err := reader.NationKey()
	if err != nil {
		return holder{}, err
	}
	h := r.holderOf(key)
	h.keys = func(ch *format.Charter) (*embassy.Keys, error) { return embassy.ReaderKeys(ch, reader) }
	return h, nil
}
