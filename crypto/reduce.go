package crypto

import (
	"encoding/binary"
	"maps"
	"slices"
)

// A root can be reduced: then its secret is gone, and what is left are the keys
// below it that stand for themselves, and the secrets of some compartments. From
// these no key of any other compartment can be derived.

// keptSeeds are the labels of what is left of any root that was reduced, in the
// order in which it is sealed.
var keptSeeds = [...]string{"root signature", "root recipient", "partner", "compartment id"}

// remains is what is left of a root.
type remains struct {
	seeds        [len(keptSeeds)]*Secret
	compartments branches
}

// branches are secrets of compartments.
type branches map[ID]*Secret

// ids returns the compartments in ascending order.
func (b branches) ids() []ID {
	return slices.SortedFunc(maps.Keys(b), func(x, y ID) int { return slices.Compare(x[:], y[:]) })
}

// Holds reports whether the keys of a compartment can be derived from the root:
// of one that was reduced, only those of the compartments that were kept.
func (r *Root) Holds(compartment ID) bool {
	return r.left == nil || r.left.compartments[compartment] != nil
}

// Lacks reports whether the root, or one before it, was reduced, and does not
// hold the compartment.
func (r *Root) Lacks(compartment ID) bool {
	return slices.ContainsFunc(r.Ring(), func(e *Root) bool { return !e.Holds(compartment) })
}

// SucceedWith returns a new random root that follows r. Of r and the roots before
// it, it knows what opens these compartments, and nothing of any other.
func (r *Root) SucceedWith(compartments []ID) *Root {
	next := NewRoot()
	for _, e := range r.Ring() {
		next.earlier = append(next.earlier, e.reduce(compartments))
	}
	return next
}

// reduce returns what is left of the root when only these compartments are kept.
func (r *Root) reduce(compartments []ID) *Root {
	if r.left != nil {
		return &Root{left: r.left.only(compartments)}
	}
	left := &remains{compartments: branches{}}
	for i, label := range keptSeeds {
		left.seeds[i] = r.seed(label)
	}
	for _, id := range compartments {
		left.compartments[id] = r.compartment(id)
	}
	return &Root{left: left}
}

// only copies the remains, with those of these compartments that are there.
func (l *remains) only(compartments []ID) *remains {
	out := &remains{compartments: branches{}}
	for i, s := range l.seeds {
		out.seeds[i] = s.copy()
	}
	for _, id := range compartments {
		if s := l.compartments[id]; s != nil {
			out.compartments[id] = s.copy()
		}
	}
	return out
}

func (l *remains) wipe() {
	for _, s := range l.seeds {
		s.Wipe()
	}
	for _, s := range l.compartments {
		s.Wipe()
	}
}

// Derive derives from the root itself. It panics for one that was reduced.
func (r *Root) Derive(label string, ctx Context) *Secret {
	if r.left != nil {
		panic("crypto: a root that was reduced has no secret")
	}
	return r.Secret.Derive(label, ctx)
}

// seed returns what is derived under a label, with an empty Context.
func (r *Root) seed(label string) *Secret {
	if r.left == nil {
		return r.Derive(label, Context{})
	}
	return r.left.seeds[slices.Index(keptSeeds[:], label)].copy()
}

// compartment returns the secret that a compartment's keys are derived from.
func (r *Root) compartment(id ID) *Secret {
	switch {
	case r.left == nil:
		return r.Derive("compartment", Context{Compartment: id})
	case !r.Holds(id):
		panic("crypto: a key of a compartment that the root was reduced by")
	}
	return r.left.compartments[id].copy()
}

// SealKept seals what is left of the roots before r that were reduced, under r
// itself. It returns nil when there are none.
func (r *Root) SealKept(ctx Context) ([]byte, error) {
	var plain []byte
	defer func() { clear(plain) }()
	for _, e := range r.earlier {
		if e.left != nil {
			plain = e.left.append(plain)
		}
	}
	if len(plain) == 0 {
		return nil, nil
	}
	key := r.Derive("kept keys", ctx)
	defer key.Wipe()
	return SealBox(key, ctx, plain, nil)
}

func (l *remains) append(plain []byte) []byte {
	for _, s := range l.seeds {
		plain = append(plain, s.b[:]...)
	}
	plain = binary.BigEndian.AppendUint16(plain, uint16(len(l.compartments)))
	for _, id := range l.compartments.ids() {
		plain = append(append(plain, id[:]...), l.compartments[id].b[:]...)
	}
	return plain
}

// OpenRing returns a copy of r with the roots before it that SealEarlier and
// SealKept sealed, each with its Context; r itself when both boxes are empty. Else
// the error is ErrAuthentication.
func (r *Root) OpenRing(earlierCtx Context, earlier []byte, keptCtx Context, kept []byte) (*Root, error) {
	if len(earlier)+len(kept) == 0 {
		return r, nil
	}
	out := must(RootFromBytes(r.b[:]))
	err := out.open("earlier roots", earlierCtx, earlier, func(b []byte) (*Root, []byte) {
		if len(b) < KeySize {
			return nil, nil
		}
		return must(RootFromBytes(b[:KeySize])), b[KeySize:]
	})
	if err == nil {
		err = out.open("kept keys", keptCtx, kept, parseRemains)
	}
	if err != nil {
		out.Wipe()
		return nil, err
	}
	return out, nil
}

// open appends the roots before r that a box holds, one after the other.
func (r *Root) open(label string, ctx Context, box []byte, next func([]byte) (*Root, []byte)) error {
	if len(box) == 0 {
		return nil
	}
	key := r.Derive(label, ctx)
	defer key.Wipe()
	plain, err := OpenBox(key, ctx, box, nil)
	if err != nil || len(plain) == 0 {
		return ErrAuthentication
	}
	defer clear(plain)
	for rest := plain; len(rest) > 0; {
		var e *Root
		if e, rest = next(rest); e == nil {
			return ErrAuthentication
		}
		r.earlier = append(r.earlier, e)
	}
	return nil
}

// parseRemains reads what append wrote; nil: it did not.
func parseRemains(b []byte) (*Root, []byte) {
	const row = len(ID{}) + KeySize
	if len(b) < len(keptSeeds)*KeySize+2 {
		return nil, nil
	}
	l := &remains{compartments: branches{}}
	for i := range l.seeds {
		l.seeds[i] = must(SecretFromBytes(b[:KeySize]))
		b = b[KeySize:]
	}
	n := int(binary.BigEndian.Uint16(b))
	if b = b[2:]; len(b) < n*row {
		return nil, nil
	}
	var last ID
	for i := range n {
		id := ID(b[:len(ID{})])
		if i > 0 && slices.Compare(last[:], id[:]) >= 0 {
			return nil, nil
		}
		l.compartments[id] = must(SecretFromBytes(b[len(ID{}):row]))
		last, b = id, b[row:]
	}
	return &Root{left: l}, b
}
