package format_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"strings"

	"embassy/chunk"
	"embassy/crypto"
	"embassy/embassy/format"
)

// operations are what the vectors exercise. Each takes the input of a vector
// and returns what a reader makes of it.
var operations = map[string]func(input) (any, error){
	"derive":   opDerive,
	"context":  opContext,
	"names":    opNames,
	"classes":  opClasses,
	"charter":  opCharter,
	"part":     opPart,
	"pack":     opPack,
	"index":    opIndex,
	"snapshot": opSnapshot,
	"entry":    opEntry,
	"audit":    opAudit,
	"nodes":    opNodes,
	"list":     opList,
	"content":  opContent,
	"tree":     opTree,
	"refs":     opRefs,
	"kit":      opKit, "share": opShare, "combine": opCombine, "ring": opRing,
	"chunk": opChunk,
	"cuts":  opCuts,
	"grant": opGrant, "readerkey": opReaderKey, "partnerkey": opPartnerKey,
	"request": opRequest, "order": opOrder, "checkpoint": opCheckpoint,
}

// id16 is an ID, zero when it is not given.
func id16(b hexBytes) (id format.ID) {
	copy(id[:], b)
	return id
}

func (in input) scope() format.Scope {
	return format.Scope{
		Nation: id16(in.Nation), Compartment: id16(in.Compartment), Agent: id16(in.Agent), Chain: id16(in.Chain), Epoch: in.Epoch,
	}
}

func (in input) writer() (*format.Writer, error) {
	s, err := crypto.SecretFromBytes(in.Writer)
	if err != nil {
		return nil, err
	}
	return format.NewWriter(id16(in.Nation), id16(in.Compartment), in.Epoch, s), nil
}

func (in input) reader() (*format.Reader, error) {
	var ids []*crypto.Identity
	for _, raw := range in.Identities {
		id, err := crypto.ParseIdentity(raw)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return format.NewReader(ids...), nil
}

func opDerive(in input) (any, error) {
	root, err := crypto.RootFromBytes(in.Root)
	if err != nil {
		return nil, err
	}
	signer, recipient := root.Signer().Verifier(), root.Identity().Recipient()
	comp := root.CompartmentID(in.Name)
	nation := format.NationID(signer, recipient)
	secret := root.Writer(comp, in.Epoch)
	w := format.NewWriter(nation, comp, in.Epoch, secret)
	poly, err := w.Polynomial()
	if err != nil {
		return nil, err
	}
	out := map[string]any{
		"root signer": root.Signer().Bytes(), "root verifier": signer.Bytes(), "root verifier id": signer.ID(),
		"root identity": root.Identity().Bytes(), "root recipient": recipient.Bytes(), "root recipient id": recipient.ID(),
		"fingerprint": root.Fingerprint(), "nation": nation, "compartment": comp,
		"partner identity": root.Partner().Bytes(), "partner id": root.Partner().Recipient().ID(),
		"reader identity": root.Reader(comp, in.Epoch).Bytes(), "reader id": root.Reader(comp, in.Epoch).Recipient().ID(),
		"writer secret": secret.Bytes(), "polynomial": uint64(poly),
		"chunk id of abc": w.Hasher().ID([]byte("abc")), "target name of tallinn": w.TargetName("tallinn"), "dataset name of population": w.DatasetName("population"),
		"agent id of the root's keys": crypto.AgentID(signer.Bytes(), recipient.Bytes()),
	}
	for _, label := range []string{"chunk id", "chunker polynomial", "index", "summary", "target name", "dataset name"} {
		ctx := crypto.Context{Type: label, Nation: nation, Compartment: comp, Epoch: in.Epoch}
		out["key: "+label] = secret.Derive(label, ctx).Bytes()
	}
	return out, nil
}

func opContext(in input) (any, error) {
	return ctxOf(in.Name, in.scope(), in.Epoch).Encode(), nil
}

func opNames(in input) (any, error) {
	s, h := in.scope(), format.HashOf(in.Object)
	chain, seq, hash, err := format.ParseEntryName(in.Name)
	if err != nil {
		return nil, err
	}
	return map[string]any{
		"chain": chain, "seq": seq, "hash": hash,
		"charter":    format.CharterName(s.Nation, in.Seq, h),
		"entry":      format.EntryName(s.Nation, s.Compartment, s.Agent, s.Chain, in.Seq, h),
		"pack":       format.ObjectName(s.Nation, s.Compartment, s.Agent, format.KindPack, h),
		"index":      format.ObjectName(s.Nation, s.Compartment, s.Agent, format.KindIndex, h),
		"snap":       format.ObjectName(s.Nation, s.Compartment, s.Agent, format.KindSnapshot, h),
		"record":     format.ObjectName(s.Nation, s.Compartment, s.Agent, format.KindRecord, h),
		"checkpoint": format.ObjectName(s.Nation, s.Compartment, s.Agent, format.KindCheckpoint, h),
	}, nil
}

func opClasses(in input) (any, error) {
	var sizes []int
	for k := range in.Count {
		sizes = append(sizes, format.ClassSize(uint8(k)))
	}
	return sizes, nil
}

func opCharter(in input) (any, error) {
	v, err := crypto.ParseVerifier(in.Verifier)
	if err != nil {
		return nil, err
	}
	return format.OpenCharter(in.Object, id16(in.Nation), v)
}

// opRequest reads the text of a request, or makes one of its bytes.
func opRequest(in input) (any, error) {
	text := in.Text
	if text == "" {
		text = block("EMBASSY AGENT REQUEST", in.Object)
	}
	return format.ParseRequest([]byte(text))
}

// block prints bytes as a block of lines with their sums.
func block(name string, data []byte) string {
	var b strings.Builder
	fmt.Fprintf(&b, "-----BEGIN %s-----\n", name)
	text := base64.StdEncoding.EncodeToString(data)
	for n := 1; text != ""; n++ {
		line, rest := text[:min(60, len(text))], text[min(60, len(text)):]
		end := ""
		if rest == "" {
			end = "end "
		}
		sum := sha256.Sum256(fmt.Appendf(nil, "%d %s%s", n, end, line))
		fmt.Fprintf(&b, "%x %s\n", sum[:2], line)
		text = rest
	}
	fmt.Fprintf(&b, "-----END %s-----\n", name)
	return b.String()
}

func opPart(in input) (any, error) {
	v, err := crypto.ParseVerifier(in.Verifier)
	if err != nil {
		return nil, err
	}
	c, err := format.OpenCharter(in.Object, id16(in.Nation), v)
	if err != nil {
		return nil, err
	}
	id, err := crypto.ParseIdentity(in.Identities[0])
	if err != nil {
		return nil, err
	}
	return c.OpenPart(id16(in.Compartment), format.PartKind(in.Kind), id)
}

// opPack reads a pack without an index: directory, then every chunk.
func opPack(in input) (any, error) {
	w, err := in.writer()
	if err != nil {
		return nil, err
	}
	r, err := in.reader()
	if err != nil {
		return nil, err
	}
	p, err := format.ParsePack(in.Object)
	if err != nil {
		return nil, err
	}
	type segment struct {
		Offset, Length uint64
		Header         format.Header
		Dir            []format.DirEntry
		Chunks         [][]byte
	}
	var out []segment
	d := chunk.NewDecoder()
	defer d.Close()
	for _, s := range p.Segments {
		h, dir, err := format.OpenDirectory(w, s.Head, s.Dir, s.Length)
		if err != nil {
			return nil, err
		}
		seg, err := format.OpenSegment(r, s.Head)
		if err != nil {
			return nil, err
		}
		got := segment{Offset: s.Offset, Length: s.Length, Header: h, Dir: dir}
		for i := range got.Header.Keys {
			got.Header.Keys[i].Sealed = [len(got.Header.Keys[i].Sealed)]byte{} // long, and in the object
		}
		for _, e := range dir {
			at := s.Offset + uint64(e.Offset)
			raw, err := openChunk(seg, w, d, e, in.Object[at:at+uint64(e.Length)])
			if err != nil {
				return nil, err
			}
			got.Chunks = append(got.Chunks, raw)
		}
		out = append(out, got)
	}
	return map[string]any{"hash": p.Hash, "size": p.Size, "segments": out}, nil
}

// openChunk opens, decodes and checks one chunk as its directory describes it.
func openChunk(seg *format.Segment, w *format.Writer, d *chunk.Decoder, e format.DirEntry, sealed []byte) ([]byte, error) {
	encoded, err := seg.Open(nil, e.Offset, sealed)
	if err != nil {
		return nil, err
	}
	raw, err := d.Decode(nil, encoded, chunk.MaxSize)
	if err != nil {
		return nil, err
	}
	if len(raw) != int(e.Raw) || w.Hasher().ID(raw) != e.ID {
		return nil, fmt.Errorf("chunk %s: %w", e.ID, chunk.ErrCorrupt)
	}
	return raw, nil
}

func opIndex(in input) (any, error) {
	packs, err := format.ParseIndex(in.Object)
	if err != nil {
		return nil, err
	}
	type segment struct {
		Offset, Length    uint64
		HeadHash, DirHash [32]byte
	}
	type pack struct {
		Hash     format.Hash
		Size     uint64
		Segments []segment
	}
	out := []pack{}
	for _, p := range packs {
		got := pack{Hash: p.Hash, Size: p.Size}
		for _, s := range p.Segments {
			got.Segments = append(got.Segments, segment{s.Offset, s.Length, sha256.Sum256(s.Head), sha256.Sum256(s.Dir)})
		}
		out = append(out, got)
	}
	return out, nil
}

func opSnapshot(in input) (any, error) {
	w, err := in.writer()
	if err != nil {
		return nil, err
	}
	r, err := in.reader()
	if err != nil {
		return nil, err
	}
	s, err := format.ParseSnapshot(in.Object)
	if err != nil {
		return nil, err
	}
	summary, err := s.Summary(w)
	if err != nil {
		return nil, err
	}
	root, err := s.Root(r)
	if err != nil {
		return nil, err
	}
	return map[string]any{"scope": s.Header.Scope, "summary": summary, "root": root}, nil
}

func opEntry(in input) (any, error) {
	v, err := crypto.ParseVerifier(in.Verifier)
	if err != nil {
		return nil, err
	}
	want := format.Entry{
		Nation: id16(in.Nation), Compartment: id16(in.Compartment), Agent: id16(in.Agent), Chain: id16(in.Chain), Seq: in.Seq,
	}
	return format.OpenEntry(in.Object, v, want)
}

// opNodes also writes again what it reads: a list has one encoding.
func opNodes(in input) (any, error) {
	nodes, err := format.ParseNodes(in.Object, in.After)
	if err != nil {
		return nil, err
	}
	var again []byte
	b := format.NewTreeBuilder(func(list []byte) (chunk.ID, error) {
		again = append(again, list...)
		return chunk.ID{}, nil
	})
	for i := range nodes {
		if err := b.Add(&nodes[i]); err != nil {
			return nil, fmt.Errorf("write again: %v", err)
		}
	}
	if _, err := b.Finish(); err != nil || !bytes.Equal(again, in.Object) {
		return nil, fmt.Errorf("written again it is another list: %v", err)
	}
	return nodes, nil
}

func opList(in input) (any, error) { return format.ParseIDList(in.Object) }

// numberedID is the id number i of the operations content and tree: the
// SHA-256 of i in eight bytes, big endian.
func numberedID(i int) chunk.ID { return sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(i))) }

// opContent builds the content of count chunks. A list chunk gets the SHA-256
// of its bytes as id.
func opContent(in input) (any, error) {
	var ids []chunk.ID
	for i := range in.Count {
		ids = append(ids, numberedID(i))
	}
	lists := []int{}
	c, err := format.BuildContent(uint64(in.Limit), ids, func(list []byte) (chunk.ID, error) {
		lists = append(lists, len(list))
		return sha256.Sum256(list), nil
	})
	return map[string]any{"content": c, "bytes of the lists": lists}, err
}

// opTree builds the list of a folder of count pipes named f00000, f00001, …,
// each in group staff.
func opTree(in input) (any, error) {
	lists := []int{}
	b := format.NewTreeBuilder(func(list []byte) (chunk.ID, error) {
		lists = append(lists, len(list))
		return sha256.Sum256(list), nil
	})
	for i := range in.Count {
		n := format.Node{Name: fmt.Appendf(nil, "f%05d", i), Type: format.FIFO, Mode: 0o600, UID: 1, GID: 2, Group: "staff", Sec: 3}
		if err := b.Add(&n); err != nil {
			return nil, err
		}
	}
	c, err := b.Finish()
	return map[string]any{"content": c, "bytes of the lists": lists}, err
}

func opRefs(in input) (any, error) {
	positions, err := format.Positions(in.Runs, uint32(in.Limit))
	return append([]uint32{}, positions...), err
}

func opKit(in input) (any, error) {
	k, err := format.ParseKit([]byte(in.Text))
	if err != nil {
		return nil, err
	}
	root, err := k.Unwrap([]byte(in.Passphrase))
	if err != nil {
		return nil, err
	}
	hints, err := k.OpenHints(root)
	if err != nil {
		return nil, err
	}
	fp, err := k.Fingerprint()
	return map[string]any{
		"nation": k.Nation, "created": k.Created, "root": root.Bytes(), "hints": hints, "fingerprint": fp,
	}, err
}

func opRing(in input) (any, error) {
	k, err := format.ParseKit([]byte(in.Text))
	if err != nil {
		return nil, err
	}
	root, err := k.Unwrap([]byte(in.Passphrase))
	if err != nil {
		return nil, err
	}
	var roots []any
	for _, r := range root.Ring() {
		comp := id16(in.Compartment)
		switch whole := r.Bytes(); {
		case !bytes.Equal(whole, make([]byte, len(whole))):
			roots = append(roots, whole)
		case r.Holds(comp):
			roots = append(roots, map[string]any{
				"root signer": r.Signer().Bytes(), "root identity": r.Identity().Bytes(), "partner identity": r.Partner().Bytes(),
				"reader identity": r.Reader(comp, in.Epoch).Bytes(), "writer secret": r.Writer(comp, in.Epoch).Bytes(), "compartment id of secret": r.CompartmentID("secret"),
			})
		default:
			roots = append(roots, "it does not hold the compartment")
		}
	}
	return roots, nil
}

func opChunk(in input) (any, error) {
	d := chunk.NewDecoder()
	defer d.Close()
	return d.Decode(nil, in.Object, in.Limit)
}

// opCuts cuts count bytes of the stream SHA-256(u64 0) ‖ SHA-256(u64 1) ‖ …
func opCuts(in input) (any, error) {
	w, err := in.writer()
	if err != nil {
		return nil, err
	}
	poly, err := w.Polynomial()
	if err != nil {
		return nil, err
	}
	var stream []byte
	for i := 0; len(stream) < in.Count; i++ {
		id := numberedID(i)
		stream = append(stream, id[:]...)
	}
	s := chunk.NewSplitter(poly)
	s.Reset(bytes.NewReader(stream[:in.Count]))
	buf := make([]byte, chunk.MaxSize)
	var sizes []int
	for {
		c, err := s.Next(buf)
		if err == io.EOF {
			return sizes, nil
		}
		if err != nil {
			return nil, err
		}
		sizes = append(sizes, len(c))
	}
}
