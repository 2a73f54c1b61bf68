package main

import (
	"context"
	"errors"
	"io/fs"

	"embassy/embassy"
	"embassy/embassy/format"
)

// holder is who rescues: the nation itself, a reader, or a partner nation.
type holder struct {
	nation format.ID // whose data it is
	hints  format.Hints
	find   func(context.Context, []*embassy.Member) (*format.Charter, error)
	keys   func(*format.Charter) (*embassy.Keys, error)
}

func (r *rescue) unlock(ctx context.Context) (holder, error) {
	if r.readerKey != "" {
		return r.asReader()
	}
	kit, root, err := r.openKit(ctx)
	if err != nil {
		return holder{}, err
	}
	if key := r.partnerOf; key != nil && key.Nation != kit.Nation {
		h := r.holderOf(*key)
		h.keys = func(ch *format.Charter) (*embassy.Keys, error) {
			defer root.Wipe() // a restore takes hours
			return embassy.PartnerKeys(ch, root)
		}
		return h, nil
	}
	hints, err := kit.OpenHints(root)
	if err != nil {
		r.say("warning: the hints in the kit cannot be read: %v", err)
	}
	return holder{
		nation: kit.Nation, hints: hints,
		find: func(ctx context.Context, members []*embassy.Member) (*format.Charter, error) {
			ch, _, err := embassy.FindCharterOf(ctx, members, kit.Nation, root, r.warn)
			return ch, err
		},
		keys: func(ch *format.Charter) (*embassy.Keys, error) {
			defer root.Wipe()
			return embassy.RootKeys(ch, root)
		},
	}, nil
}

// holderOf knows no more of a nation than its public key.
func (r *rescue) holderOf(key format.NationKey) holder {
	return holder{nation: key.Nation, find: func(ctx context.Context, members []*embassy.Member) (*format.Charter, error) {
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
