package embassy

import (
	"fmt"
	"maps"
	"strconv"
	"strings"
	"sync"
	"time"

	"embassy/embassy/format"
	"embassy/embassy/policy"
)

// Finding is something that a person should know: a bad copy, a dead target,
// a gap. It stops nothing by itself.
type Finding struct {
	Target string // name of the target; empty: no one target's fault
	Object string // name of the object, or what else it is about; may be empty
	Err    error
}

// String is one line.
func (f Finding) String() string {
	s := ""
	if f.Target != "" {
		s = "target " + f.Target + ": "
	}
	if f.Object != "" {
		s += Title(f.Object) + ": "
	}
	return fmt.Sprintf("%s%v", s, f.Err)
}

// Title is what people call the object of that name on a target: its kind, and
// the start of its hash or its place in a chain. Other text stays as it is.
func Title(object string) string {
	parts := strings.Split(object, "/")
	last := parts[len(parts)-1]
	switch {
	case len(parts) == 3 && parts[1] == "charter":
		return "charter " + strings.TrimLeft(last[:strings.IndexByte(last+"-", '-')], "0")
	case len(parts) == 6 && parts[3] == "ledger" && len(last) > 17:
		if seq, err := strconv.ParseUint(last[:16], 16, 64); err == nil {
			return fmt.Sprintf("entry %d of chain %.8s", seq, parts[4])
		}
	case len(parts) >= 5 && len(last) == 64:
		return parts[3] + " " + last[:12]
	}
	return object
}

// Progress says how far a phase has come. Totals are 0 while unknown.
type Progress struct {
	Phase      string
	Dataset    string
	Files      uint64 // or what else the phase is about: see Unit
	FilesTotal uint64
	Bytes      uint64
	BytesTotal uint64
	Estimated  bool              // the totals are what is expected, and may be passed
	PerTarget  map[string]uint64 // bytes sent, or fetched so far; the callee may keep it
	Elapsed    time.Duration
}

// Unit is what Files counts.
func (p Progress) Unit() string {
	switch p.Phase {
	case "ledgers":
		return "entries"
	case "snapshots":
		return "snapshots"
	case "packs":
		return "packs"
	case "replicate", "verify":
		return "objects"
	}
	return "files"
}

const progressEvery = 100 * time.Millisecond

// meter counts one phase and tells of it at most ten times a second. A nil
// meter, or one without a function, tells nobody. Safe for concurrent use.
type meter struct {
	tell func(Progress)
	now  func() time.Time

	mu          sync.Mutex
	p           Progress
	start, last time.Time
}

func newMeter(tell func(Progress), now func() time.Time, phase, dataset string) *meter {
	return &meter{
		tell: tell, now: now, start: now(),
		p: Progress{Phase: phase, Dataset: dataset, PerTarget: map[string]uint64{}},
	}
}

// add changes the counts through f, and tells if it is time.
func (m *meter) add(f func(p *Progress)) {
	if m == nil || m.tell == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	f(&m.p)
	if t := m.now(); t.Sub(m.last) >= progressEvery {
		m.emit(t)
	}
}

// end tells the final counts.
func (m *meter) end() {
	if m == nil || m.tell == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.emit(m.now())
}

func (m *meter) emit(t time.Time) {
	m.last = t
	p := m.p
	p.PerTarget = maps.Clone(p.PerTarget)
	p.Elapsed = t.Sub(m.start)
	m.tell(p)
}

// Names are counted, and the first of them are listed.
type Names struct {
	Count uint64
	First []string // source paths, 1 MiB in all at most
	size  int      // of First, in bytes
}

const maxNamed = 1 << 20 // bytes

func (n *Names) add(name string) {
	n.Count++
	if n.size += len(name) + gapBytes; n.size <= maxNamed {
		n.First = append(n.First, name)
	}
}

// Served says what one target gave to a restore.
type Served struct {
	Target  string
	Tier    policy.Tier
	Objects uint64 // whole objects and ranges
	Bytes   uint64
}

// RestoreReport is the outcome of a restore, one part per dataset in the
// order asked for.
type RestoreReport struct {
	Datasets []DatasetRestore
	Elapsed  time.Duration
	Stopped  error // what ended it before all was tried: a full disk, or the end of ctx
}

// DatasetRestore is the outcome of one dataset.
type DatasetRestore struct {
	Dataset    string
	Snapshot   format.Hash
	Time       time.Time // of the snapshot
	Files      uint64    // regular files that are right, skipped ones included
	Dirs       uint64
	Bytes      uint64       // of content, skipped files included
	Skipped    uint64       // files that were already there, and verified
	Trusted    uint64       // of these: by size and time alone
	Left       uint64       // names that were there and stay as they are, whatever they are
	Written    Names        // files, links and special files written, or, in a dry run, to be written
	Wrote      uint64       // bytes of content written, or to be written
	Deleted    Names        // what the snapshot does not have; a folder ends in a slash
	ReadBack   uint64       // bytes of content that were read again after writing, and right
	Served     []Served     // best tier first
	Bad        []Finding    // copies met that were bad or missing; others served
	Missing    []format.Gap // what was asked for and is not restored
	Absent     int          // of these: paths that the snapshot does not have
	SourceGaps []format.Gap // what the backup could not read
	Dir        string       // where it went
}
