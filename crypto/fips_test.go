package crypto_test

import (
	"crypto/fips140"
	"os"
	"strings"
	"testing"
)

// TestFIPSModeIsOn keeps a run that means to be in FIPS mode from passing
// without it.
func TestFIPSModeIsOn(t *testing.T) {
	if strings.Contains(os.Getenv("GODEBUG"), "fips140=on") != fips140.Enabled() {
		t.Errorf("GODEBUG is %q, and FIPS mode %v", os.Getenv("GODEBUG"), fips140.Enabled())
	}
}
