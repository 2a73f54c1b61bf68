//go:build !race

package embassy_test

const withRace = false
