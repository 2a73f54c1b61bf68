package targets_test

import (
	"testing"

	"embassy/targets"
	"embassy/targets/targettest"
)

func TestMem(t *testing.T) {
	targettest.Test(t, func(*testing.T) targets.Target { return targets.NewMem() })
}
