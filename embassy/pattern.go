package embassy

import (
	"strings"

	"github.com/go-git/go-git/v5/plumbing/format/gitignore"
)

// matcher reads patterns in gitignore syntax, which are matched against the
// parts of absolute paths. It returns nil for no patterns.
func matcher(patterns []string) gitignore.Matcher {
	var ps []gitignore.Pattern
	for _, p := range patterns {
		if p = strings.TrimSpace(p); p != "" {
			ps = append(ps, gitignore.ParsePattern(p, nil))
		}
	}
	if len(ps) == 0 {
		return nil
	}
	return gitignore.NewMatcher(ps)
}
