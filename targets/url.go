package targets

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// The schemes of a Location.
const (
	SchemeS3HTTPS = "s3+https"
	SchemeS3HTTP  = "s3+http"
	SchemeDir     = "dir"
)

// Location is where a target is: a parsed target URL. It holds no credentials.
type Location struct {
	Scheme   string // SchemeS3HTTPS, SchemeS3HTTP or SchemeDir
	Endpoint string // S3: host or host:port
	Bucket   string // S3
	Prefix   string // S3: without slashes at its ends; may be empty
	Path     string // dir: as written; may be relative
}

// Parse reads a target URL: s3+https://HOST[:PORT]/BUCKET[/PREFIX], s3+http
// likewise, or dir:PATH. Errors say what to write instead, and never repeat
// credentials.
func Parse(target string) (Location, error) {
	scheme, rest, ok := strings.Cut(target, ":")
	switch {
	case target == "":
		return Location{}, errors.New("empty target URL: write s3+https://HOST:PORT/BUCKET or dir:/PATH")
	case scheme != SchemeDir && strings.Contains(target, "@"):
		return Location{}, errors.New("credentials do not belong in a target URL: give them under credentials: in the configuration")
	case !ok || strings.ContainsAny(scheme, `/\.`):
		return Location{}, fmt.Errorf("target URL has no scheme: for a directory write dir:%s, for a bucket s3+https://HOST:PORT/BUCKET", target)
	}
	switch scheme {
	case SchemeDir:
		return parseDir(rest)
	case SchemeS3HTTPS, SchemeS3HTTP:
		return parseS3(scheme, rest)
	case "http", "https":
		return Location{}, fmt.Errorf("scheme %q is not a target: write s3+%s://HOST:PORT/BUCKET", scheme, scheme)
	case "s3":
		return Location{}, errors.New(`scheme "s3" does not name a server: write s3+https://HOST:PORT/BUCKET`)
	case "file":
		return Location{}, fmt.Errorf(`scheme "file" is not a target: write dir:/%s`, strings.TrimLeft(rest, "/"))
	}
	return Location{}, fmt.Errorf("unknown scheme %q: write s3+https://HOST:PORT/BUCKET or dir:/PATH", scheme)
}

// String returns the URL that Parse reads.
func (l Location) String() string {
	if l.Scheme == SchemeDir {
		return SchemeDir + ":" + l.Path
	}
	s := l.Scheme + "://" + l.Endpoint + "/" + l.Bucket
	if l.Prefix != "" {
		s += "/" + l.Prefix
	}
	return s
}

func parseDir(path string) (Location, error) {
	switch {
	case path == "":
		return Location{}, errors.New("dir: without a path: write dir:/PATH")
	case strings.HasPrefix(path, "//"):
		return Location{}, fmt.Errorf("dir:%s has too many slashes: write dir:/%s", path, strings.TrimLeft(path, "/"))
	}
	return Location{Scheme: SchemeDir, Path: path}, nil
}

func parseS3(scheme, rest string) (Location, error) {
	bad := func(format string, args ...any) (Location, error) {
		return Location{}, fmt.Errorf("%s target: %s: write %s://HOST:PORT/BUCKET or %s://HOST:PORT/BUCKET/PREFIX",
			scheme, fmt.Sprintf(format, args...), scheme, scheme)
	}
	after, ok := strings.CutPrefix(rest, "//")
	if !ok {
		return bad("no // after the scheme")
	}
	endpoint, path, _ := strings.Cut(after, "/")
	switch {
	case strings.ContainsAny(after, "?#"):
		return bad("a query or fragment does not belong in a target URL")
	case endpoint == "":
		return bad("no host")
	}
	u, err := url.Parse("//" + endpoint)
	if err != nil || u.Hostname() == "" || u.Host != endpoint {
		return bad("%q is not HOST or HOST:PORT", endpoint)
	}
	if port := u.Port(); strings.HasSuffix(endpoint, ":") || port != "" && !validPort(port) {
		return bad("%q has no valid port", endpoint)
	}
	bucket, prefix, _ := strings.Cut(path, "/")
	prefix = strings.TrimSuffix(prefix, "/")
	if bucket == "" {
		return bad("no bucket")
	}
	if err := firstErr(checkBucket(bucket), checkKeyPrefix(prefix)); err != nil {
		return bad("%v", err)
	}
	return Location{Scheme: scheme, Endpoint: endpoint, Bucket: bucket, Prefix: prefix}, nil
}

func validPort(port string) bool {
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0
}

var (
	bucketName = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)
	keyPrefix  = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$`)
)

func checkBucket(bucket string) error {
	if !bucketName.MatchString(bucket) || strings.Contains(bucket, "..") {
		return fmt.Errorf("%q is no bucket name (3 to 63 of a-z, 0-9, dot and dash)", bucket)
	}
	return nil
}

// checkKeyPrefix accepts what needs no escaping anywhere.
func checkKeyPrefix(prefix string) error {
	if prefix != "" && !keyPrefix.MatchString(prefix) {
		return fmt.Errorf("%q is no prefix (segments of letters, digits, dot, dash and underscore, none beginning with a dot)", prefix)
	}
	return nil
}
