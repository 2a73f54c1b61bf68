package open_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"embassy/cmd/internal/open"
	"embassy/targets"
)

// accessKey returns the access key with which a target signs its requests.
func accessKey(t *testing.T, creds open.Credentials) (string, error) {
	t.Helper()
	used := ""
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, after, _ := strings.Cut(r.Header.Get("Authorization"), "Credential=")
		used, _, _ = strings.Cut(after, "/")
		w.WriteHeader(http.StatusForbidden)
	}))
	defer server.Close()
	loc, err := targets.Parse("s3+" + server.URL + "/bucket")
	if err != nil {
		t.Fatal(err)
	}
	target, err := open.Target(loc, creds, open.Options{})
	if err != nil {
		return "", err
	}
	if _, err := target.Stat(t.Context(), "x"); err == nil {
		t.Error("Stat succeeded on a server that refuses all")
	}
	return used, nil
}

func TestCredentials(t *testing.T) {
	file := filepath.Join(t.TempDir(), "credentials")
	text := "# comment = x\n[default]\naws_access_key_id = DEFAULT\naws_secret_access_key=s\n" +
		"[ other ]\r\nAWS_ACCESS_KEY_ID=OTHER\r\naws_secret_access_key = s\r\n[half]\naws_access_key_id=H\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	wide := file + "-for-all"
	if err := errors.Join(os.WriteFile(wide, []byte(text), 0o600), os.Chmod(wide, 0o640)); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		creds open.Credentials
		env   map[string]string
		want  string
		fails string // part of the error
	}{
		"given":            {creds: open.Credentials{AccessKey: "GIVEN", SecretKey: "s"}, want: "GIVEN"},
		"variables":        {creds: open.Credentials{AccessKeyEnv: "A", SecretKeyEnv: "S"}, env: map[string]string{"A": "FROMENV", "S": "s"}, want: "FROMENV"},
		"variable not set": {creds: open.Credentials{AccessKeyEnv: "A", SecretKeyEnv: "S"}, env: map[string]string{"A": "FROMENV"}, fails: "variable S"},
		"file":             {creds: open.Credentials{File: file}, want: "DEFAULT"},
		"section":          {creds: open.Credentials{File: file, Profile: "other"}, want: "OTHER"},
		"no such section":  {creds: open.Credentials{File: file, Profile: "none"}, fails: "[none]"},
		"half a section":   {creds: open.Credentials{File: file, Profile: "half"}, fails: "lacks"},
		"file for others":  {creds: open.Credentials{File: wide}, fails: "(mode 0640): run chmod 600"},
		"AWS for others":   {env: map[string]string{"AWS_SHARED_CREDENTIALS_FILE": wide}, fails: "(mode 0640): run chmod 600"},
		"no such file":     {creds: open.Credentials{File: file + "x"}, fails: "no such file"},
		"AWS variables":    {env: map[string]string{"AWS_ACCESS_KEY_ID": "AWS", "AWS_SECRET_ACCESS_KEY": "s"}, want: "AWS"},
		"AWS file":         {env: map[string]string{"AWS_SHARED_CREDENTIALS_FILE": file, "AWS_PROFILE": "other"}, want: "OTHER"},
		"AWS home":         {fails: "AWS_ACCESS_KEY_ID"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			for _, name := range []string{"A", "S", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SHARED_CREDENTIALS_FILE", "AWS_PROFILE"} {
				t.Setenv(name, tt.env[name])
			}
			t.Setenv("HOME", t.TempDir())
			got, err := accessKey(t, tt.creds)
			if tt.fails != "" {
				if !errors.Is(err, open.ErrNoCredentials) || !strings.Contains(err.Error(), tt.fails) {
					t.Errorf("Target returned %v, want ErrNoCredentials with %q", err, tt.fails)
				}
				return
			}
			if err != nil || got != tt.want {
				t.Errorf("requests are signed by %q, %v; want %q", got, err, tt.want)
			}
		})
	}
}

func TestTargetInDirectory(t *testing.T) {
	dir := t.TempDir()
	in := func(path string) targets.Location { return targets.Location{Scheme: targets.SchemeDir, Path: path} }
	target, err := open.Target(in(dir), open.Credentials{}, open.Options{})
	if _, ok := target.(*targets.Dir); err != nil || !ok {
		t.Errorf("Target returned a %T, %v", target, err)
	}
	target, err = open.Target(in(dir+"/none"), open.Credentials{}, open.Options{})
	if !errors.Is(err, targets.ErrNoStore) || target != nil {
		t.Errorf("Target returned %v, %v; want nil and ErrNoStore", target, err)
	}
	limits := []*targets.Limiter{nil, targets.NewLimiter(1000)}
	target, err = open.Target(in(dir+"/made"), open.Credentials{}, open.Options{Dir: targets.CreateDir, Upload: limits})
	if err != nil {
		t.Fatal(err)
	}
	if _, limited := target.(interface{ Unwrap() targets.Target }); !limited {
		t.Errorf("Target returned a %T without limits", target)
	}
}

// A lock goes with every put.
func TestTargetLocks(t *testing.T) {
	mode := ""
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mode = r.Header.Get("X-Amz-Object-Lock-Mode")
		w.Header().Set("ETag", `"x"`)
	}))
	defer server.Close()
	loc, err := targets.Parse("s3+" + server.URL + "/bucket")
	if err != nil {
		t.Fatal(err)
	}
	target, err := open.Target(loc, open.Credentials{AccessKey: "a", SecretKey: "s"},
		open.Options{Lock: targets.LockRule{Mode: "compliance", For: time.Hour}})
	if err != nil {
		t.Fatal(err)
	}
	if err := target.Put(t.Context(), targets.Object{Name: "a"}); err != nil || mode != "COMPLIANCE" {
		t.Errorf("the put asks for the lock %q, %v", mode, err)
	}
}
