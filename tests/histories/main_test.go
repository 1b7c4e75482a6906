// Half of a handshake is ML-KEM, which HMCs do not have.
//go:debug tlsmlkem=0
//go:debug tlssecpmlkem=0

// Package histories_test draws random histories of HMCs, their networks and clocks, of disks and of the daemon
// itself, has them happen in a time of their own, and holds what was delivered against what docs/delivery.md
// promises. The daemon is the real one, in this process, with real files and simulated HMCs; only network and
// time are made: a history of minutes takes some hundredths of a second.
package histories_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/tests/scratch"

	"go.uber.org/goleak"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/soak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	// seedVariable names the only seed to play, or the first and the last: 300-399.
	seedVariable = "HMCNOTIFYD_HISTORIES_SEED"
	// keepVariable names a directory in which events and logs of the history that fails are kept.
	keepVariable = "HMCNOTIFYD_HISTORIES_KEEP"
)

// seeds are those to play.
func seeds(t *testing.T, count int) (from, to int) {
	text := os.Getenv(seedVariable)
	if text == "" {
		return 1, count
	}
	first, last, ok := strings.Cut(text, "-")
	if !ok {
		last = first
	}
	from, err := strconv.Atoi(first)
	if err == nil {
		to, err = strconv.Atoi(last)
	}
	if err != nil {
		t.Fatalf("%s: %v", seedVariable, err)
	}
	return from, to
}

// TestHistories plays 25 histories, in `make storm` 10,000.
func TestHistories(t *testing.T) {
	count := soak.Count(t, "HISTORIES", 25, 10_000)
	from, to := seeds(t, count)
	dir, now := scratch.Memory(t), time.Now()
	ca, err := hmcsim.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	a := authority{ca: ca, cert: filepath.Join(dir, "ca.pem")}
	if err := os.WriteFile(a.cert, ca.PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	for seed := from; seed <= to; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			p := draw(uint64(seed))
			problems := run(t, p, dir, a, now)
			if len(problems) == 0 {
				return
			}
			t.Errorf("repeat it by %s=%d:\n%s", seedVariable, seed, strings.Join(problems, "\n"))
			small := shrink(p, func(p *plan) bool { return len(run(t, p, dir, a, now)) > 0 })
			problems = run(t, small, dir, a, now)
			t.Errorf("%d of its %d steps:\n%v%s", len(small.steps), len(p.steps), small, strings.Join(problems, "\n"))
		})
	}
}

// run plays a history, and returns what is wrong with it.
func run(t *testing.T, p *plan, dir string, a authority, now time.Time) (problems []string) {
	t.Helper()
	dir, err := os.MkdirTemp(dir, fmt.Sprintf("%d-", p.seed)) //nolint:usetesting // as above
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	}()
	var log *os.File
	keep := os.Getenv(keepVariable)
	if keep != "" {
		if log, err = os.Create(filepath.Join(keep, fmt.Sprintf("%d.log", p.seed))); err != nil {
			t.Fatal(err)
		}
		defer log.Close()
	}
	synctest.Test(t, func(*testing.T) {
		var h *history
		var err error
		if log != nil {
			h, err = play(p, dir, a, now, log)
		} else {
			h, err = play(p, dir, a, now, nil)
		}
		problems = verdict(h)
		if err != nil {
			problems = append(problems, err.Error())
		}
		if keep == "" {
			return
		}
		var text strings.Builder
		for _, l := range h.lives {
			for _, line := range l.out {
				fmt.Fprintf(&text, "%s\n", line.data)
			}
		}
		if err := os.WriteFile(filepath.Join(keep, fmt.Sprintf("%d.events", p.seed)), []byte(text.String()), 0o600); err != nil {
			problems = append(problems, err.Error())
		}
	})
	return problems
}

// shrinkTries bounds how often a plan that fails is tried with fewer steps.
const shrinkTries = 200

// shrink leaves out of a plan what it does not take to fail, as far as that goes.
func shrink(p *plan, fails func(*plan) bool) *plan {
	tries := 0
	for size := max(len(p.steps)/2, 1); size > 0; size /= 2 {
		for at := 0; at+size <= len(p.steps); {
			if tries++; tries > shrinkTries {
				return p
			}
			try := *p
			try.steps = slices.Concat(p.steps[:at], p.steps[at+size:])
			if fails(&try) {
				p = &try
			} else {
				at += size
			}
		}
	}
	return p
}
