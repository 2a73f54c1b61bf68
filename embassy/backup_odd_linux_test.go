package embassy_test

import "testing"

// A file that holds more than its size says, as those of /proc do, is not
// stored as empty without a word.
func TestBackupFileWithoutSize(t *testing.T) {
	s := newSite(t, 1, 1)
	s.config.Datasets[0].Sources = []string{"/proc/version"}
	if rep := s.mustBackup(3); len(rep.Gaps) != 1 || rep.Bytes == 0 {
		t.Errorf("%+v", rep)
	}
}
