//go:build race

package embassy_test

// withRace: this test binary is slow, and looks for races.
const withRace = true
