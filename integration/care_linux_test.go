package integration_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"embassy/crypto"
	"embassy/embassy"
)

// hide makes the launched programs run as a careless user would: with a umask
// that hides nothing, and the keys of the stores in a file. The environment
// holds no secret by itself, so that none may be found in it. They run in FIPS
// mode, with GODEBUG.
func (s *site) hide(program string, args ...string) *running {
	s.t.Helper()
	p := &running{t: s.t, ended: make(chan struct{})}
	p.cmd = exec.CommandContext(s.t.Context(), "sh", append([]string{"-c", `umask 0; exec "$@"`, "sh", program}, args...)...)
	p.cmd.Dir = s.dir
	p.cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir, "TMPDIR=" + os.TempDir(), "NO_PROXY=*", "GODEBUG=fips140=on",
		"EMBASSY_PASSPHRASE_FILE=" + s.path("phrase"),
	}
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	if err := p.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	s.t.Cleanup(func() { <-p.ended })
	return p
}

// TestSecretsStayInside looks for passphrase, S3 key, root and what is derived
// from it in all that the programs print, write and start.
func TestSecretsStayInside(t *testing.T) {
	src := t.TempDir()
	write(t, filepath.Join(src, "file"), noise(1, 100_000))
	st := startOne(t, 0)
	s := newSite(t, st)
	st.credentials = s.path("credentials")
	write(t, st.credentials, fmt.Appendf(nil, "[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", st.server.AccessKey, st.server.SecretKey))
	write(t, s.path("wrong"), []byte("a passphrase for another kit\n"))
	d := dataset{name: "data", sources: []string{src},
		more: `pre: {command: [sh, -c, "(ulimit -c; cat /proc/self/environ /proc/$PPID/cmdline) >seen"]}`}
	s.configure(d)

	printed := map[string]string{}
	run := func(code int, program string, args ...string) {
		t.Helper()
		r := s.hide(program, args...).result().wants(t, code)
		printed[strings.Join(args, " ")] = r.stdout + r.stderr
	}
	embassyDoes := func(code int, args ...string) {
		t.Helper()
		run(code, embassyProgram, append([]string{"--json", "--log-level", "debug"}, args...)...)
	}
	embassyDoes(0, "init")
	embassyDoes(0, "backup")
	embassyDoes(0, "snapshots")
	embassyDoes(0, "charter", "apply")
	embassyDoes(0, "restore", "--all", "--to", s.path("restored"))
	embassyDoes(6, "restore", "--all", "--passphrase-file", s.path("wrong"), "--to", s.path("nothing"))
	lifeline := []string{"--kit", s.path("kit.txt"), "--credentials-file", st.credentials, "--from", st.url()}
	run(0, rescueProgram, append(lifeline, "--to", s.path("rescued"))...)
	run(6, rescueProgram, append(lifeline, "--passphrase-file", s.path("wrong"), "--list", "--json")...)
	for _, out := range []string{"restored", "rescued"} {
		if text := differences(t, src, filepath.Join(s.path(out), d.name, src)); text != "" {
			t.Errorf("%s is not as the source:\n%s", out, text)
		}
	}

	_, root, err := embassy.OpenKit(s.path("kit.txt"), []byte(passphrase))
	if err != nil {
		t.Fatal(err)
	}
	official := root.CompartmentID("official")
	secrets := map[string][]byte{
		"root": root.Bytes(), "signer": root.Signer().Bytes()[2:], "identity": root.Identity().Bytes(),
		"reader key": root.Reader(official, 1).Bytes(), "writer secret": root.Writer(official, 1).Bytes(),
	}
	scan := newScanner()
	for _, name := range []string{passphrase, "a passphrase for another kit", st.server.SecretKey} {
		scan.addName(name)
	}
	for _, secret := range secrets {
		scan.addText(secret)
	}

	// A crash prints the arguments of all functions as words: of a process
	// that has a root in memory, while it waits for a host that says nothing.
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	crashed := s.hide(rescueProgram, "--kit", s.path("kit.txt"), "--credentials-file", st.credentials,
		"--from", "s3+http://"+silent.Addr().String()+"/embassy", "--list")
	conn, err := silent.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	limits := string(read(t, fmt.Sprintf("/proc/%d/limits", crashed.cmd.Process.Pid)))
	if _, after, _ := strings.Cut(limits, "Max core file size"); len(strings.Fields(after)) < 2 || strings.Join(strings.Fields(after)[:2], " ") != "0 0" {
		t.Errorf("the program may dump core: %s", limits)
	}
	printed["command line"] = string(read(t, fmt.Sprintf("/proc/%d/cmdline", crashed.cmd.Process.Pid)))
	if err := crashed.cmd.Process.Signal(syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	crash := crashed.result().wants(t, 2).stderr
	if !strings.Contains(crash, "SIGQUIT") || !strings.Contains(crash, "goroutine 1 ") || !strings.Contains(crash, "(0x") {
		t.Fatalf("the crash shows no words:\n%s", crash)
	}
	printed["crash"] = crash
	for name, secret := range secrets {
		if found := wordsOf(crash, secret); found != "" {
			t.Errorf("the crash shows %s of the %s:\n%s", found, name, crash)
		}
	}

	for what, text := range printed {
		if len(text) == 0 {
			t.Errorf("%s: nothing was printed", what)
		}
		if found := scan.search([]byte(text)); len(found) > 0 {
			t.Errorf("%s shows %q", what, found)
		}
	}
	if seen := read(t, s.path("seen")); !bytes.HasPrefix(seen, []byte("0\n")) || !bytes.Contains(seen, []byte("backup")) || bytes.Contains(seen, []byte("EMBASSY_PASSPHRASE")) {
		t.Errorf("a hook saw %q", seen)
	}
	for _, part := range []string{"state", "embassy.yaml", "kit.txt", "seen"} {
		for path, found := range scanTree(t, scan, s.path(part)) {
			if len(found) > 0 {
				t.Errorf("%s holds %q", path, found)
			}
		}
	}
	// The same search finds them where they are.
	if found := scan.search(read(t, s.path("phrase"))); len(found) == 0 {
		t.Error("the passphrase was not found in its file")
	}
	if found := scan.search(read(t, st.credentials)); len(found) == 0 {
		t.Error("the S3 key was not found in its file")
	}
	private(t, s.path("state"))
	private(t, s.path("kit.txt"))
}

// wordsOf returns the notation in which a crash shows four bytes of a secret in
// a row, or eight in a word.
func wordsOf(crash string, secret []byte) string {
	for i := 0; i+8 <= len(secret); i++ {
		w := secret[i : i+8]
		for _, form := range []string{
			fmt.Sprintf("%x", binary.LittleEndian.Uint64(w)), fmt.Sprintf("%x", binary.BigEndian.Uint64(w)),
			fmt.Sprintf("0x%x, 0x%x, 0x%x, 0x%x", w[0], w[1], w[2], w[3]), fmt.Sprint(w[:4]),
		} {
			if strings.Contains(crash, form) {
				return form
			}
		}
	}
	return ""
}

// private fails the test for a file that others may read: but for those of the
// catalog, whose folder they cannot enter.
func private(t *testing.T, root string) {
	t.Helper()
	files := 0
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		files++
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %04o", path, info.Mode().Perm())
		}
		if e.IsDir() && e.Name() == "catalog" {
			return fs.SkipDir
		}
		return nil
	})
	if err != nil || files == 0 {
		t.Errorf("%s: %d files, %v", root, files, err)
	}
}

func TestWordsOf(t *testing.T) {
	secret := crypto.NewSecret().Bytes()
	for _, crash := range []string{
		fmt.Sprintf("main.f(0x%x, ...)", binary.LittleEndian.Uint64(secret[8:])), fmt.Sprintf("rax 0x%x", binary.BigEndian.Uint64(secret)),
		fmt.Sprintf("main.f({0x%x, 0x%x, 0x%x, 0x%x, ...})", secret[0], secret[1], secret[2], secret[3]),
	} {
		if wordsOf(crash, secret) == "" {
			t.Errorf("nothing is found in %s", crash)
		}
	}
	if found := wordsOf("main.f(0xc000012345, 0x20, 0x20)", secret); found != "" {
		t.Error(found)
	}
}
