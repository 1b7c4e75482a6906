package soak_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/hmcnotifyd/hmcnotifyd/tests/soak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestCount(t *testing.T) {
	for _, test := range []struct {
		storm, count string
		want         int
	}{
		{"", "", 2}, {"short", "", 2}, {"full", "", 200}, {"", "7", 7}, {"full", "7", 7},
	} {
		t.Setenv("HMCNOTIFYD_STORM", test.storm)
		t.Setenv("HMCNOTIFYD_STORM_TEST", test.count)
		if got := soak.Count(t, "TEST", 2, 200); got != test.want {
			t.Errorf("with %q and %q: %d, want %d", test.storm, test.count, got, test.want)
		}
	}
}
