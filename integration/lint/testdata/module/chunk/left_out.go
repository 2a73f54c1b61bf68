//go:build ignore

package chunk

import _ "math/rand"
