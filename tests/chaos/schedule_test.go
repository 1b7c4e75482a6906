package chaos

import (
	"fmt"
	"testing"
	"time"
)

func TestPlan(t *testing.T) {
	const length = 5 * time.Minute
	a, b, other := plan(1, length), plan(1, length), plan(2, length)
	if fmt.Sprint(a) != fmt.Sprint(b) {
		t.Error("the same seed gives other faults")
	}
	if fmt.Sprint(a) == fmt.Sprint(other) {
		t.Error("another seed gives the same faults")
	}
	kindsSeen := make(map[string]bool)
	until := make(map[string]time.Duration)
	for seed := range uint64(20) {
		clear(until)
		for _, f := range plan(seed, length) {
			if f.At < until[f.Target] || f.At+f.For > length {
				t.Errorf("seed %d: %s at %s, the one before ends at %s", seed, f, f.At, until[f.Target])
			}
			until[f.Target] = f.At + f.For
			kindsSeen[f.Target+" "+f.Kind] = true
		}
	}
	for _, target := range []string{targetDaemon, targetConsumer, targetDisk, targetTopic, hmcEast, hmcWest, hmcNorth, hmcSouth, hmcActiveMQ} {
		for _, kind := range kinds(target) {
			if !kindsSeen[target+" "+kind.name] {
				t.Errorf("%s: never %s", target, kind.name)
			}
		}
	}
}
