package format

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"unicode/utf8"

	"embassy/chunk"
)

// NodeType is the type of a file system object.
type NodeType uint8

// The types of node.
const (
	File       NodeType = 1
	Dir        NodeType = 2
	Symlink    NodeType = 3
	FIFO       NodeType = 4
	Socket     NodeType = 5
	CharDevice NodeType = 6
	Device     NodeType = 7
)

// Bounds of a tree.
const (
	MaxNameSize   = 4096
	MaxTreeDepth  = 4096
	maxListDepth  = 6
	inlineChunks  = 32   // chunk ids that a Content holds itself
	listChunks    = 8192 // most chunk ids in one list chunk
	MaxTreeChunk  = 1 << 20
	treeCutBytes  = 64 << 10 // a node list is not cut before so many bytes
	treeCutMask   = 1<<10 - 1
	listCutChunks = 1024
	listCutMask   = 1<<10 - 1
)

// Content is a sequence of bytes as chunks: the content of a file, or the
// node list of a folder. With Depth 0, Chunks are the chunks themselves; with
// Depth d they are tree chunks that hold the chunk ids of depth d-1.
type Content struct {
	Size   uint64 `cbor:"1,keyasint"`
	Chunks []byte `cbor:"2,keyasint,omitempty"` // 32-byte ids, end to end
	Depth  uint8  `cbor:"3,keyasint,omitempty"`
}

// IDs returns the ids that the content itself holds.
func (c Content) IDs() ([]chunk.ID, error) {
	if !c.valid() {
		return nil, fmt.Errorf("%w: content", ErrMalformed)
	}
	return ParseIDList(c.Chunks)
}

func (c Content) valid() bool {
	return len(c.Chunks)%32 == 0 && len(c.Chunks) <= 32*inlineChunks && c.Depth <= maxListDepth
}

// ParseIDList reads ids laid end to end: a list chunk.
func ParseIDList(b []byte) ([]chunk.ID, error) {
	if len(b)%32 != 0 || len(b) > 32*listChunks {
		return nil, fmt.Errorf("%w: list of chunks of %d bytes", ErrMalformed, len(b))
	}
	ids := make([]chunk.ID, len(b)/32)
	for i := range ids {
		copy(ids[i][:], b[i*32:])
	}
	return ids, nil
}

// BuildContent makes the Content of size bytes that lie in the chunks ids.
// Long lists become chunks, stored through put; they are cut where an id says
// so, so that an insertion moves few of them.
func BuildContent(size uint64, ids []chunk.ID, put func(list []byte) (chunk.ID, error)) (Content, error) {
	c := Content{Size: size}
	for len(ids) > inlineChunks {
		if c.Depth++; c.Depth > maxListDepth {
			return Content{}, fmt.Errorf("content of %d bytes has too many chunks", size)
		}
		var up []chunk.ID
		for len(ids) > 0 {
			n := 0
			for n < len(ids) && n < listChunks {
				n++
				if n >= listCutChunks && binary.BigEndian.Uint16(ids[n-1][:])&listCutMask == 0 {
					break
				}
			}
			list := make([]byte, 0, 32*n)
			for _, id := range ids[:n] {
				list = append(list, id[:]...)
			}
			id, err := put(list)
			if err != nil {
				return Content{}, err
			}
			up, ids = append(up, id), ids[n:]
		}
		ids = up
	}
	c.Chunks = make([]byte, 0, 32*len(ids))
	for _, id := range ids {
		c.Chunks = append(c.Chunks, id[:]...)
	}
	return c, nil
}

// Xattr is one extended attribute.
type Xattr struct {
	Name  []byte `cbor:"1,keyasint"`
	Value []byte `cbor:"2,keyasint"`
}

// Node is one name in a folder.
type Node struct {
	Name    []byte   `cbor:"1,keyasint"`
	Type    NodeType `cbor:"2,keyasint"`
	Mode    uint32   `cbor:"3,keyasint"` // permission, setuid 04000, setgid 02000, sticky 01000
	UID     uint32   `cbor:"4,keyasint"`
	GID     uint32   `cbor:"5,keyasint"`
	User    string   `cbor:"6,keyasint,omitempty"`
	Group   string   `cbor:"7,keyasint,omitempty"`
	Sec     int64    `cbor:"8,keyasint"` // modification time, unix
	Nsec    uint32   `cbor:"9,keyasint,omitempty"`
	Content *Content `cbor:"10,keyasint,omitempty"` // of a file or folder
	Link    []byte   `cbor:"11,keyasint,omitempty"` // target of a symlink
	Rdev    uint64   `cbor:"12,keyasint,omitempty"`
	Xattrs  []Xattr  `cbor:"13,keyasint,omitempty"`
	// Hard groups the names of one file within a snapshot; 0: only one name.
	Hard uint64 `cbor:"14,keyasint,omitempty"`
	// Holes of a sparse file: offset, length, ascending. Their zeros are part
	// of the content.
	Holes []uint64 `cbor:"15,keyasint,omitempty"`
	// Changed says that the file changed while it was read.
	Changed bool `cbor:"16,keyasint,omitempty"`
}

func (n *Node) check() error {
	bad := len(n.Name) == 0 || len(n.Name) > MaxNameSize || n.Type < File || n.Type > Device ||
		n.Mode > 0o7777 || n.Nsec >= 1e9 ||
		(n.Content != nil) != (n.Type == File || n.Type == Dir) || (len(n.Link) != 0) != (n.Type == Symlink) ||
		(n.Content != nil && !n.Content.valid()) || !n.holesValid() ||
		bytes.ContainsAny(n.Name, "/\x00") || string(n.Name) == "." || string(n.Name) == ".."
	if bad {
		return fmt.Errorf("%w: node %q", ErrMalformed, n.Name)
	}
	return nil
}

// holesValid reports whether the holes ascend, touch nowhere, and lie within
// the file.
func (n *Node) holesValid() bool {
	if len(n.Holes) == 0 {
		return true
	}
	if len(n.Holes)%2 != 0 || n.Type != File || n.Content == nil {
		return false
	}
	var end uint64
	for i := 0; i < len(n.Holes); i += 2 {
		at, length := n.Holes[i], n.Holes[i+1]
		if (i > 0 && at <= end) || length == 0 || at > n.Content.Size || length > n.Content.Size-at {
			return false
		}
		end = at + length
	}
	return true
}

// TreeBuilder writes the node list of one folder, in ascending order of
// names, and cuts it into chunks at names that say so.
type TreeBuilder struct {
	put  func(list []byte) (chunk.ID, error)
	buf  []byte
	last []byte
	ids  []chunk.ID
	size uint64
}

// NewTreeBuilder starts a folder. put stores a tree chunk; it may not keep
// the bytes.
func NewTreeBuilder(put func(list []byte) (chunk.ID, error)) *TreeBuilder {
	return &TreeBuilder{put: put}
}

// Add appends a node. Of User and Group, which are for people, what is not
// UTF-8 is replaced.
func (b *TreeBuilder) Add(n *Node) error {
	if !utf8.ValidString(n.User) || !utf8.ValidString(n.Group) {
		readable := *n
		readable.User, readable.Group = toText(n.User), toText(n.Group)
		n = &readable
	}
	if err := n.check(); err != nil {
		return err
	}
	if b.last != nil && bytes.Compare(b.last, n.Name) >= 0 {
		return fmt.Errorf("%w: node %q after %q", ErrMalformed, n.Name, b.last)
	}
	b.last = append(b.last[:0], n.Name...)
	node := encode(n)
	if len(node) > MaxTreeChunk {
		return fmt.Errorf("node %q of %d bytes, at most %d", n.Name, len(node), MaxTreeChunk)
	}
	if len(b.buf)+len(node) > MaxTreeChunk {
		if err := b.cut(); err != nil {
			return err
		}
	}
	b.buf = append(b.buf, node...)
	if len(b.buf) >= treeCutBytes && nameHash(n.Name)&treeCutMask == 0 {
		return b.cut()
	}
	return nil
}

func (b *TreeBuilder) cut() error {
	if len(b.buf) == 0 {
		return nil
	}
	id, err := b.put(b.buf)
	if err != nil {
		return err
	}
	b.ids, b.size, b.buf = append(b.ids, id), b.size+uint64(len(b.buf)), b.buf[:0]
	return nil
}

// Finish returns the folder's content.
func (b *TreeBuilder) Finish() (Content, error) {
	if err := b.cut(); err != nil {
		return Content{}, err
	}
	return BuildContent(b.size, b.ids, b.put)
}

// toText replaces what is not UTF-8.
func toText(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// nameHash is 64-bit FNV-1a.
func nameHash(name []byte) uint64 {
	h := uint64(14695981039346656037)
	for _, c := range name {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return h
}

// ParseNodes reads one chunk of a node list. after is the last name of the
// chunk before; names ascend strictly.
func ParseNodes(b, after []byte) ([]Node, error) {
	if len(b) > MaxTreeChunk {
		return nil, fmt.Errorf("%w: list of nodes of %d bytes", ErrMalformed, len(b))
	}
	var nodes []Node
	for len(b) > 0 {
		var n Node
		rest, err := decMode.UnmarshalFirst(b, &n)
		if err != nil {
			return nil, fmt.Errorf("%w: node: %v", ErrMalformed, err)
		}
		if !bytes.Equal(encode(&n), b[:len(b)-len(rest)]) {
			return nil, fmt.Errorf("%w: node %q is not in its one encoding", ErrMalformed, n.Name)
		}
		if err := n.check(); err != nil {
			return nil, err
		}
		if after != nil && bytes.Compare(after, n.Name) >= 0 {
			return nil, fmt.Errorf("%w: node %q after %q", ErrMalformed, n.Name, after)
		}
		nodes, after, b = append(nodes, n), n.Name, rest
	}
	return nodes, nil
}
