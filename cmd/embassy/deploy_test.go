package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// directives are those that the units use, by the section that systemd reads
// them in. One that stands elsewhere is ignored by systemd, with a warning
// that nobody sees.
var directives = map[string][]string{
	"Unit":    {"Description", "Wants", "After"},
	"Install": {"WantedBy"},
	"Timer":   {"OnBootSec", "OnUnitInactiveSec", "RandomizedDelaySec"},
	"Service": {
		"Type", "ExecStart", "ExecStartPre", "User", "Group", "EnvironmentFile", "Restart", "RestartSec", "WatchdogSec",
		"TimeoutStartSec", "TimeoutStopSec", "KillMode", "Nice", "IOSchedulingPriority", "StateDirectory", "StateDirectoryMode",
		"UMask", "ProtectSystem", "ReadWritePaths", "ProtectHome", "PrivateTmp", "AmbientCapabilities", "CapabilityBoundingSet",
		"NoNewPrivileges", "PrivateDevices", "PrivateUsers", "ProtectClock", "ProtectControlGroups", "ProtectHostname",
		"ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables", "ProtectProc", "LockPersonality",
		"MemoryDenyWriteExecute", "RemoveIPC", "RestrictAddressFamilies", "RestrictNamespaces", "RestrictRealtime",
		"RestrictSUIDSGID", "SystemCallArchitectures", "SystemCallFilter", "SystemCallErrorNumber",
	},
}

// hardened is what every service must have.
var hardened = []string{
	"NoNewPrivileges=yes", "ProtectSystem=strict", "PrivateTmp=yes", "PrivateDevices=yes", "MemoryDenyWriteExecute=yes",
	"SystemCallFilter=@system-service", "SystemCallFilter=~@privileged", "UMask=0077", "StateDirectoryMode=0700",
}

func TestUnits(t *testing.T) {
	files, err := filepath.Glob("../../deploy/*")
	if err != nil || len(files) != 3 {
		t.Fatalf("%d units, %v", len(files), err)
	}
	dir := t.TempDir()
	var copies []string
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		base := filepath.Base(file)
		var lines []string
		section := ""
		for line := range strings.Lines(string(text)) {
			line = strings.TrimSpace(line)
			name, _, assigned := strings.Cut(line, "=")
			switch {
			case line == "", strings.HasPrefix(line, "#"):
			case strings.HasPrefix(line, "["):
				section = strings.Trim(line, "[]")
			case !assigned || !slices.Contains(directives[section], name):
				t.Errorf("%s: [%s] has no directive %q", base, section, line)
			}
			lines = append(lines, line)
		}
		if strings.HasSuffix(base, ".service") {
			for _, line := range hardened {
				if !slices.Contains(lines, line) {
					t.Errorf("%s lacks %s", base, line)
				}
			}
		}
		// The program need not be installed where the tests run.
		text = bytes.ReplaceAll(text, []byte("=/usr/local/bin/embassy "), []byte("=/bin/true "))
		copied := filepath.Join(dir, strings.Replace(base, "@.", "@0-4.", 1))
		if err := os.WriteFile(copied, text, 0o600); err != nil {
			t.Fatal(err)
		}
		copies = append(copies, copied)
	}
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Log("systemd-analyze is not installed: the sections were checked, the values were not")
		return
	}
	out, err := exec.Command(analyze, append([]string{"verify", "--man=no"}, copies...)...).CombinedOutput()
	if err != nil || bytes.Contains(out, []byte(dir)) {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}
