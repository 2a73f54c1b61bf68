package main

import (
	"testing"
	"time"

	"embassy/embassy"
)

func TestProgressLine(t *testing.T) {
	var s progress
	lines := []struct {
		p    embassy.Progress
		want string
	}{
		{embassy.Progress{Phase: "ledgers", Files: 1, FilesTotal: 2, Elapsed: 9 * time.Second}, "ledgers: 1 of 2 entries"},
		{embassy.Progress{Phase: "restore", Dataset: "land", FilesTotal: 4, BytesTotal: 4096,
			PerTarget: map[string]uint64{"a": 512, "b": 10}, Elapsed: time.Second},
			"restore land: 0 of 4 files, 0 B of 4.0 KiB; 522 B fetched, now from a"},
		{embassy.Progress{Phase: "restore", Dataset: "land", Files: 1, FilesTotal: 4, Bytes: 1024, BytesTotal: 4096,
			PerTarget: map[string]uint64{"a": 512, "b": 512}, Elapsed: 4 * time.Second},
			"restore land: 1 of 4 files, 1.0 KiB of 4.0 KiB; 1.0 KiB fetched, now from b, 256 B/s; 12s left"},
		{embassy.Progress{Phase: "restore", Dataset: "sea", FilesTotal: 1, BytesTotal: 1}, "restore sea: 0 of 1 files, 0 B of 1 B"},
	}
	for _, l := range lines {
		if got := s.line(l.p); got != l.want {
			t.Errorf("%q, want %q", got, l.want)
		}
	}
}
