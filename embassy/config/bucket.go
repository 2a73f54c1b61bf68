package config

import (
	"fmt"
	"strings"

	"embassy/targets"

	"go.yaml.in/yaml/v3"
)

// Bucket is a bucket of others that a dataset is backed up from.
type Bucket struct {
	URL         string // s3+https or s3+http, as targets.Parse takes it
	Credentials Credentials
	CAFile      string // absolute; empty: the roots of the system
	Region      string // empty: the server's own
	Insecure    bool   // s3+http is meant, beyond loopback
}

// IsZero reports whether there is none.
func (b Bucket) IsZero() bool { return b.URL == "" }

// access is how a store is reached, with the keys that are given for S3 only.
type access struct {
	Bucket
	s3Only []givenKey
	file   *yaml.Node // credentials_file
}

// keys are those of a store but for its url, which is read after them.
func (s *sections) accessKeys(a *access) []key {
	return []key{
		s.of(&a.s3Only, "insecure", s.boolean("insecure", &a.Insecure), ""),
		s.of(&a.s3Only, "credentials", s.credentials(&a.Credentials), ""),
		s.of(&a.s3Only, "credentials_file", func(n *yaml.Node) {
			a.file = n
			s.path("credentials_file", &a.Credentials.File)(n)
		}, ""),
		s.of(&a.s3Only, "credentials_profile", s.string("credentials_profile", &a.Credentials.Profile), ""),
		s.of(&a.s3Only, "ca_file", s.path("ca_file", &a.CAFile), ""),
		s.of(&a.s3Only, "region", s.string("region", &a.Region), ""),
	}
}

// complete checks the keys of a store, which stands at n, against each other.
func (s *sections) complete(n *yaml.Node, what string, a *access) {
	switch c := &a.Credentials; {
	case a.file != nil && c.AccessKeyEnv != "":
		s.fail(a.file, what+" has both credentials and credentials_file", "keep one of them")
	case a.file == nil && c.Profile != "":
		s.fail(n, "credentials_profile is given without credentials_file", `add "credentials_file: PATH" or remove it`)
	case a.file != nil && c.Profile == "":
		c.Profile = "default"
	}
}

// url takes the URL of a store; a.Insecure is already set. use is told of one
// that may be used.
func (s *sections) url(a *access, use func(n *yaml.Node, at targets.Location)) func(*yaml.Node) {
	return s.text("url", func(n *yaml.Node, text string) {
		at, err := targets.Parse(text)
		if err != nil {
			s.fail(n, err.Error(), "")
			return
		}
		if at.Scheme == targets.SchemeDir {
			var ok bool
			if at.Path, ok = s.resolve(n, "the path of dir:", at.Path); !ok {
				return
			}
		}
		if a.URL, _ = s.bounded("url")(n, at.String()); a.URL == "" {
			return
		}
		plain := at.Scheme == targets.SchemeS3HTTP
		if plain && !a.Insecure && !loopback(at.Endpoint) {
			s.fail(n, "s3+http would send everything unencrypted to "+quote(at.Endpoint), `write s3+https, or add "insecure: true" when the network itself is trusted`)
		}
		if a.Insecure && !plain {
			s.fail(n, "insecure is meant for s3+http only", "remove insecure")
		}
		at.Endpoint = server(at)
		use(n, at)
	})
}

// bucket takes the bucket that a dataset is backed up from. It must hold
// nothing that a backup puts somewhere.
func (s *sections) bucket(dst *Bucket) func(*yaml.Node) {
	return func(n *yaml.Node) {
		var a access
		s.mapping(n, "s3", append(s.accessKeys(&a), key{"url", s.url(&a, func(n *yaml.Node, at targets.Location) {
			if at.Scheme == targets.SchemeDir {
				s.fail(n, "s3 is a bucket, and this is a directory", `write "sources: [`+at.Path+`]" instead of s3, or s3+https://HOST/BUCKET`)
				return
			}
			for _, t := range s.Targets {
				if other, err := targets.Parse(t.URL); err == nil && overlap(at, other) {
					s.fail(n, fmt.Sprintf("this bucket holds the target %s, so every backup would store all earlier ones again", t.Name),
						"write the prefix of what is to be backed up, or move the target")
				}
			}
		}), `write "url: s3+https://HOST/BUCKET"`})...)
		s.complete(n, "s3", &a)
		*dst = a.Bucket
	}
}

// overlap reports whether what lies in one of two stores may lie in the other.
func overlap(a, b targets.Location) bool {
	inside := func(a, b string) bool { return b == "" || strings.HasPrefix(a+"/", b+"/") }
	return b.Scheme != targets.SchemeDir && server(a) == server(b) && a.Bucket == b.Bucket &&
		(inside(a.Prefix, b.Prefix) || inside(b.Prefix, a.Prefix))
}

// server is the endpoint of a store as everybody may write it: in lower case,
// without the port that it has anyway.
func server(l targets.Location) string {
	port := ":443"
	if l.Scheme == targets.SchemeS3HTTP {
		port = ":80"
	}
	return strings.TrimSuffix(strings.ToLower(l.Endpoint), port)
}
