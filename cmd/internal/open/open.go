// Package open opens targets by their URL and finds the credentials for them.
package open

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"embassy/embassy"
	"embassy/targets"
)

// Credentials say where the keys of an S3 target are. The first of these that
// is set counts: the keys themselves, two environment variables, a file. When
// nothing is set they are looked for where the AWS tools look:
// $AWS_ACCESS_KEY_ID and $AWS_SECRET_ACCESS_KEY, then the section
// $AWS_PROFILE of $AWS_SHARED_CREDENTIALS_FILE or ~/.aws/credentials.
type Credentials struct {
	AccessKey, SecretKey       string
	AccessKeyEnv, SecretKeyEnv string // names of environment variables
	File                       string // an AWS shared credentials file, of mode 0600
	Profile                    string // its section; empty: default
}

// Options say how a target is opened. The zero Options are those of a target
// without limits, which checks certificates with the authorities of the system.
type Options struct {
	CAFile   string           // PEM certificates that replace those of the system
	Region   string           // empty: us-east-1
	Insecure bool             // plain http beyond loopback
	Lock     targets.LockRule // of what is put to S3

	Upload, Download []*targets.Limiter // all of them count; nil ones do not

	Dir func(path string) (*targets.Dir, error) // opens directories; nil: targets.OpenDir
}

// Target opens a target. Nothing is asked of an S3 server, so the error is
// about credentials, files or settings; a directory must exist, unless Dir
// makes it. The target may be one that wraps another: see targets.As.
func Target(loc targets.Location, creds Credentials, o Options) (targets.Target, error) {
	open := s3
	if loc.Scheme == targets.SchemeDir {
		open = directory
	}
	t, err := open(loc, creds, o)
	if err != nil {
		return nil, err
	}
	return targets.Limit(t, o.Upload, o.Download), nil
}

// Bucket opens a bucket of others to be read. The limits are not used.
func Bucket(loc targets.Location, creds Credentials, o Options) (*targets.Bucket, error) {
	c, err := s3Config(loc, creds, o)
	if err != nil {
		return nil, err
	}
	return targets.OpenBucket(c)
}

func s3(loc targets.Location, creds Credentials, o Options) (targets.Target, error) {
	c, err := s3Config(loc, creds, o)
	if err != nil {
		return nil, err
	}
	return targets.OpenS3(c)
}

func s3Config(loc targets.Location, creds Credentials, o Options) (targets.S3Config, error) {
	k, err := creds.find()
	return targets.S3Config{
		Endpoint: loc.Endpoint, Secure: loc.Scheme == targets.SchemeS3HTTPS,
		Bucket: loc.Bucket, Prefix: loc.Prefix, Region: o.Region,
		AccessKey: k.access, SecretKey: k.secret, SessionToken: k.session,
		CAFile: o.CAFile, Insecure: o.Insecure, Lock: o.Lock,
	}, err
}

func directory(loc targets.Location, _ Credentials, o Options) (targets.Target, error) {
	if o.Dir != nil {
		return o.Dir(loc.Path)
	}
	return targets.OpenDir(loc.Path)
}

// ErrNoCredentials: the keys of a target are not where they should be.
var ErrNoCredentials = errors.New("no credentials")

type keys struct{ access, secret, session string }

func (c Credentials) find() (keys, error) {
	switch {
	case c.AccessKey != "" || c.SecretKey != "":
		return keys{access: c.AccessKey, secret: c.SecretKey}, nil
	case c.AccessKeyEnv != "" || c.SecretKeyEnv != "":
		access, err := variable(c.AccessKeyEnv)
		if err != nil {
			return keys{}, err
		}
		secret, err := variable(c.SecretKeyEnv)
		return keys{access: access, secret: secret}, err
	case c.File != "":
		return fromFile(c.File, c.Profile)
	}
	access, secret := os.Getenv("AWS_ACCESS_KEY_ID"), os.Getenv("AWS_SECRET_ACCESS_KEY")
	if access != "" && secret != "" {
		return keys{access, secret, os.Getenv("AWS_SESSION_TOKEN")}, nil
	}
	file := os.Getenv("AWS_SHARED_CREDENTIALS_FILE")
	if file == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return keys{}, ErrNowhere
		}
		file = filepath.Join(home, ".aws", "credentials")
	}
	k, err := fromFile(file, os.Getenv("AWS_PROFILE"))
	if errors.Is(err, fs.ErrNotExist) {
		return keys{}, ErrNowhere
	}
	return k, err
}

// ErrNowhere wraps ErrNoCredentials: nothing says where the keys are.
var ErrNowhere = fmt.Errorf("%w: name two environment variables or a file in the configuration, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", ErrNoCredentials)

func variable(name string) (string, error) {
	value := os.Getenv(name)
	if value == "" {
		return "", fmt.Errorf("%w: environment variable %s is not set", ErrNoCredentials, name)
	}
	return value, nil
}

// fromFile reads one section of an AWS shared credentials file, which must be
// private.
func fromFile(name, profile string) (keys, error) {
	if profile == "" {
		profile = "default"
	}
	err := embassy.CheckPrivate(name)
	var text []byte
	if err == nil {
		text, err = os.ReadFile(name)
	}
	if err != nil {
		return keys{}, fmt.Errorf("%w: %w", ErrNoCredentials, err)
	}
	var k keys
	found, inside := false, false
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if section, ok := strings.CutPrefix(line, "["); ok {
			section, _, _ = strings.Cut(section, "]")
			inside = strings.TrimSpace(section) == profile
			found = found || inside
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok || !inside || strings.HasPrefix(line, "#") || strings.HasPrefix(line, ";") {
			continue
		}
		value = strings.TrimSpace(value)
		switch strings.ToLower(strings.TrimSpace(key)) {
		case "aws_access_key_id":
			k.access = value
		case "aws_secret_access_key":
			k.secret = value
		case "aws_session_token":
			k.session = value
		}
	}
	if !found {
		return keys{}, fmt.Errorf("%w: file %s has no section [%s]", ErrNoCredentials, name, profile)
	}
	if k.access == "" || k.secret == "" {
		return keys{}, fmt.Errorf("%w: section [%s] of file %s lacks aws_access_key_id or aws_secret_access_key", ErrNoCredentials, profile, name)
	}
	return k, nil
}
