package commandline

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRoff(t *testing.T) {
	for in, want := range map[string]string{
		"--a-b":   `\-\-a\-b`,
		".x\n'y'": `\&.x` + "\n" + `\(aqy\(aq`,
		`a\b`:     `a\eb`,
	} {
		if got := roff(in); got != want {
			t.Errorf("%q: %q, not %q", in, got, want)
		}
	}
}
