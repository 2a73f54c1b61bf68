package embassy

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"embassy/embassy/format"
	"embassy/targets"
)

const (
	maxObjectName = 255 // bytes; file systems allow no more
	// odd begins the name of what has, between two slashes of its key, nothing
	// that could be a name. What begins so by itself is odd as well, so no two
	// keys meet.
	odd = ".s3-"

	attributePrefix = "user.s3."
	keyAttribute    = attributePrefix + "key"
	maxAttribute    = 255 // bytes of a name
)

// objectName is the name of what stands between two slashes of a key: itself,
// but for what is no name. Of that, % and the bytes that a name cannot have
// are written as in a URL, and what is still too long is a hash. The key is an
// attribute of every object whose path it is not.
func objectName(part string) string {
	if part != "" && part != "." && part != ".." && len(part) <= maxObjectName &&
		!strings.Contains(part, "\x00") && !strings.HasPrefix(part, odd) {
		return part
	}
	return oddName(part, "")
}

// besideFolder is the name of an object beside a folder that has its name.
func besideFolder(name string) string { return oddName(name, "%object") }

// oddName ends with a text that no escaped part contains.
func oddName(part, end string) string {
	escaped := strings.NewReplacer("%", "%25", "\x00", "%00").Replace(part)
	if part == "." || part == ".." {
		escaped = strings.ReplaceAll(part, ".", "%2E")
	}
	if name := odd + escaped + end; len(name) <= maxObjectName {
		return name
	}
	return fmt.Sprintf("%s%%%%%x%s", odd, sha256.Sum256([]byte(part)), end)
}

// withKey adds the key of an object to its attributes.
func withKey(list []format.Xattr, key string) []format.Xattr {
	list = append(slices.Clone(list), format.Xattr{Name: []byte(keyAttribute), Value: []byte(key)})
	slices.SortFunc(list, func(a, b format.Xattr) int { return strings.Compare(string(a.Name), string(b.Name)) })
	return list
}

// attributesOf makes extended attributes of what is stored with an object.
func attributesOf(fields []targets.Field) (list []format.Xattr, gaps []error) {
	sum := 0
	for _, f := range fields {
		name := attributePrefix + f.Name
		if sum += len(name) + len(f.Value); sum > maxAttributes || len(name) > maxAttribute {
			gaps = append(gaps, fmt.Errorf("metadata %.100q: more than fits into attributes", f.Name))
			continue
		}
		list = append(list, format.Xattr{Name: []byte(name), Value: []byte(f.Value)})
	}
	return list, gaps
}
