// Package soak says how much of what is to happen often a test does: a little
// in every run of the tests, all that is promised in `make storm`.
package soak

import (
	"os"
	"strconv"
	"testing"
)

// Count returns how often a test is to do something, or how much of it. With
// HMCNOTIFYD_STORM=full, as `make storm` sets it, that is full, else short. What
// the environment variable HMCNOTIFYD_STORM_<name> says goes before both.
func Count(tb testing.TB, name string, short, full int) int {
	tb.Helper()
	variable := "HMCNOTIFYD_STORM_" + name
	if s := os.Getenv(variable); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			tb.Fatalf("%s: %v", variable, err)
		}
		return n
	}
	if os.Getenv("HMCNOTIFYD_STORM") == "full" {
		return full
	}
	return short
}

// Parallel is t.Parallel for a test that mostly waits when it does little. In full, where it loads the machine and says how
// long something took, no other test of its package runs beside it, nor with HMCNOTIFYD_STORM_ALONE=1.
func Parallel(t *testing.T) {
	t.Helper()
	if Count(t, "ALONE", 0, 1) == 0 {
		t.Parallel()
	}
}
