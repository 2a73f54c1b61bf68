package bench_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"embassy/integration/minio"
)

// place is a set of stores of the same kind that a tool backs up to.
type place struct {
	name    string
	servers []*minio.Server // none: one directory
}

// tool is a program to compare. Everything it keeps lies below dir, which is
// empty at setup.
type tool interface {
	setup(dir, src string, p place, bucket string) []command
	backup(dir, src string, p place, bucket string) []command        // to every store
	restore(dir, to string, p place, bucket string) (command, error) // from the first one
}

const secret = "correct horse battery staple"

func (p place) url(i int) string { return "http://" + p.servers[i].Endpoint }

// credentials are the same at every server.
func (p place) credentials() []string {
	if len(p.servers) == 0 {
		return nil
	}
	return []string{"AWS_ACCESS_KEY_ID=" + p.servers[0].AccessKey, "AWS_SECRET_ACCESS_KEY=" + p.servers[0].SecretKey}
}

// embassy is the program of this repository.
type embassy struct{ program string }

func (e embassy) command(dir string, p place, args ...string) command {
	return command{append([]string{e.program, "--quiet"}, args...),
		append(p.credentials(), "EMBASSY_PASSPHRASE_FILE="+filepath.Join(dir, "phrase")), dir}
}

func (e embassy) setup(dir, src string, p place, bucket string) []command {
	args := []string{"init", "--nation", "ee", "--kit", filepath.Join(dir, "kit.txt"), "--source", src}
	if len(p.servers) == 0 {
		args = append(args, "--target", "a=dir:"+filepath.Join(dir, "store")+",jurisdiction=EE")
	}
	for i := range p.servers {
		args = append(args, "--target", fmt.Sprintf("t%d=s3+%s/%s,jurisdiction=%s", i, p.url(i), bucket, []string{"EE", "LU", "CH"}[i]))
	}
	return []command{
		{[]string{"sh", "-c", "umask 077; echo '" + secret + "' >phrase"}, nil, dir},
		e.command(dir, p, args...),
	}
}

func (e embassy) backup(dir, _ string, p place, _ string) []command {
	return []command{e.command(dir, p, "backup")}
}

func (e embassy) restore(dir, to string, p place, _ string) (command, error) {
	return e.command(dir, p, "restore", "--all", "--to", to), nil
}

// restic copies from its first repository to the others.
type restic struct{}

func (restic) command(dir string, p place, repository string, args ...string) command {
	return command{append([]string{"restic", "--quiet", "-r", repository}, args...), append(p.credentials(),
		"RESTIC_PASSWORD="+secret, "RESTIC_FROM_PASSWORD="+secret, "RESTIC_CACHE_DIR="+filepath.Join(dir, "cache")), dir}
}

func (restic) repositories(dir string, p place, bucket string) []string {
	if len(p.servers) == 0 {
		return []string{filepath.Join(dir, "store")}
	}
	var all []string
	for i := range p.servers {
		all = append(all, "s3:"+p.url(i)+"/"+bucket)
	}
	return all
}

func (r restic) setup(dir, _ string, p place, bucket string) []command {
	all := r.repositories(dir, p, bucket)
	commands := []command{r.command(dir, p, all[0], "init")}
	for _, other := range all[1:] {
		commands = append(commands, r.command(dir, p, other, "init", "--from-repo", all[0], "--copy-chunker-params"))
	}
	return commands
}

func (r restic) backup(dir, src string, p place, bucket string) []command {
	all := r.repositories(dir, p, bucket)
	commands := []command{r.command(dir, p, all[0], "backup", src)}
	for _, other := range all[1:] {
		commands = append(commands, r.command(dir, p, other, "copy", "--from-repo", all[0]))
	}
	return commands
}

func (r restic) restore(dir, to string, p place, bucket string) (command, error) {
	return r.command(dir, p, r.repositories(dir, p, bucket)[0], "restore", "latest", "--target", to), nil
}

// kopia brings its other repositories to what the first one has.
type kopia struct{}

func (kopia) command(dir string, args ...string) command {
	return command{append([]string{"kopia", "--no-progress", "--config-file", filepath.Join(dir, "kopia.config"), "--log-dir", filepath.Join(dir, "log")}, args...), []string{
		"KOPIA_PASSWORD=" + secret, "KOPIA_CHECK_FOR_UPDATES=false", "KOPIA_CACHE_DIRECTORY=" + filepath.Join(dir, "cache"),
	}, dir}
}

func (kopia) store(dir string, p place, i int, bucket string) []string {
	if len(p.servers) == 0 {
		return []string{"filesystem", "--path", filepath.Join(dir, "store")}
	}
	return []string{"s3", "--bucket", bucket, "--endpoint", p.servers[i].Endpoint, "--disable-tls",
		"--access-key", p.servers[0].AccessKey, "--secret-access-key", p.servers[0].SecretKey}
}

func (k kopia) setup(dir, _ string, p place, bucket string) []command {
	return []command{
		k.command(dir, append([]string{"repository", "create"}, k.store(dir, p, 0, bucket)...)...),
		k.command(dir, "policy", "set", "--global", "--compression=zstd-fastest"),
	}
}

func (k kopia) backup(dir, src string, p place, bucket string) []command {
	commands := []command{k.command(dir, "snapshot", "create", src)}
	for i := 1; i < len(p.servers); i++ {
		commands = append(commands, k.command(dir, append([]string{"repository", "sync-to"}, k.store(dir, p, i, bucket)...)...))
	}
	return commands
}

func (k kopia) restore(dir, to string, _ place, _ string) (command, error) {
	list := k.command(dir, "snapshot", "list", "--json")
	cmd := exec.Command(list.args[0], list.args[1:]...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), list.env...)
	var snapshots []struct{ ID string }
	out, err := cmd.Output()
	if err == nil {
		err = json.Unmarshal(out, &snapshots)
	}
	if err != nil || len(snapshots) == 0 {
		return command{}, fmt.Errorf("kopia lists %s: %v", out, err)
	}
	return k.command(dir, "snapshot", "restore", snapshots[0].ID, to), nil
}
