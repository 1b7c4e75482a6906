//go:build real

package chaos

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/tests/real/daemon"
)

// sample is what a process has of what must not grow.
type sample struct {
	life              int
	at                time.Duration // since the run's start
	goroutines, files float64
	memory            float64 // bytes
}

func (s sample) String() string {
	return fmt.Sprintf("%.0f s: %.0f goroutines, %.0f descriptors, %.0f MiB", s.at.Seconds(), s.goroutines, s.files, s.memory/(1<<20))
}

// watchFlat takes samples until ctx is done. lives tells which life of the daemon it is.
func (r *run) watchFlat(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		life := r.lives.Load()
		s, err := r.takeSample(ctx)
		if err != nil || r.lives.Load() != life {
			continue // it is down
		}
		s.life = int(life)
		r.mu.Lock()
		r.samples = append(r.samples, s)
		r.mu.Unlock()
	}
}

func (r *run) takeSample(ctx context.Context) (s sample, err error) {
	text, err := r.api.text(ctx, "/metrics")
	if err != nil {
		return s, err
	}
	for name, to := range map[string]*float64{
		"go_goroutines": &s.goroutines, "process_open_fds": &s.files, "process_resident_memory_bytes": &s.memory,
	} {
		if *to, err = daemon.Metric(text, name); err != nil {
			return s, err
		}
	}
	s.at = time.Since(r.start)
	return s, nil
}

// flat says what of the longest life has grown: its end is compared with its first third, by the highest of each.
func flat(samples []sample) (report string, problems []string) {
	byLife := make(map[int][]sample)
	longest := 0
	for _, s := range samples {
		byLife[s.life] = append(byLife[s.life], s)
		if len(byLife[s.life]) > len(byLife[longest]) {
			longest = s.life
		}
	}
	life := byLife[longest]
	if len(life) < 30 {
		return "no life was long enough to tell what grows", nil
	}
	third := len(life) / 3
	early, late := highest(life[:third]), highest(life[len(life)-third:])
	grown := func(what string, before, after, slack float64) {
		if after > 1.25*before+slack {
			problems = append(problems, fmt.Sprintf("%s grow: %.0f in the first third of a life, %.0f in the last", what, before, after))
		}
	}
	grown("goroutines", early.goroutines, late.goroutines, 20)
	grown("descriptors", early.files, late.files, 10)
	grown("MiB of memory", early.memory/(1<<20), late.memory/(1<<20), 48)
	return strings.Join([]string{"of a life of " + (life[len(life)-1].at - life[0].at).Round(time.Second).String(), "at most at first " + early.String(), "at the end " + late.String()}, "; "), problems
}

func highest(list []sample) (h sample) {
	for _, s := range list {
		h.at = s.at
		h.goroutines, h.files, h.memory = max(h.goroutines, s.goroutines), max(h.files, s.files), max(h.memory, s.memory)
	}
	return h
}
