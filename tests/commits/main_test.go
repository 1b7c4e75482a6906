// Half of a handshake is ML-KEM, which HMCs do not have.
//go:debug tlsmlkem=0
//go:debug tlssecpmlkem=0

// Package commits_test has the commits of a daemon's queue fail at random, in bursts, while
// notifications come in, links are cut, numbers start anew and the daemon is restarted. The oracle of
// the chaos suite judges what has arrived: each notification once, or named by a gap, in order and
// unchanged. What an HMC still holds has to arrive in spite of everything.
package commits_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hmcnotifyd/hmcnotifyd/tests/soak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	// seedVariable names the only seed to run.
	seedVariable = "HMCNOTIFYD_COMMITS_SEED"
	// keepVariable names a directory in which logs and events of runs that fail are kept.
	keepVariable = "HMCNOTIFYD_COMMITS_KEEP"
	// atOnce is how many runs go on at a time: they wait most of their time.
	atOnce = 30
)

// number returns what an environment variable says; without it, other.
func number(t *testing.T, variable string, other int) int {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return other
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", variable, err)
	}
	return n
}

// TestCommits runs 20 seeds, in `make storm` 1,000. A seed decides on the HMCs, on what
// they publish and on how many commits fail. How the goroutines run against each other it cannot
// decide.
func TestCommits(t *testing.T) {
	count := soak.Count(t, "COMMITS", 20, 1000)
	from, to := 1, count
	if seed := number(t, seedVariable, 0); seed != 0 {
		from, to = seed, seed
	}
	dir, start := os.Getenv(keepVariable), time.Now()
	if dir == "" {
		dir = t.TempDir()
	}
	var total totals
	slots := make(chan struct{}, min(count, atOnce))
	var all sync.WaitGroup
	for seed := from; seed <= to; seed++ {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			r := &run{seed: uint64(seed), dir: fmt.Sprintf("%s/%d", dir, seed)}
			problems := r.do()
			total.add(r)
			if len(problems) > 0 {
				t.Errorf("seed %d (%s), repeat it by %s=%d:\n%s", seed, r.scenario, seedVariable, seed, strings.Join(problems, "\n"))
				return
			}
			if err := os.RemoveAll(r.dir); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	t.Logf("%d seeds in %s: %s", to-from+1, time.Since(start).Round(100*time.Millisecond), total.String())
}
