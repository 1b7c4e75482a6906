package ledger

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// A set of ids does what a map does, also where many have the same slot.
func TestIDSet(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Log("seed", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	set, model := newIDSet(), make(map[event.ID]bool)
	for range 50_000 {
		id := event.ID{byte(random.IntN(4)), 15: byte(random.IntN(200))} // 4 slots
		if id == (event.ID{}) {
			continue
		}
		if random.IntN(2) == 0 {
			set.remove(id)
			delete(model, id)
		} else if set.add(id) == model[id] {
			t.Fatalf("%s added is not %v", id, !model[id])
		} else {
			model[id] = true
		}
		if set.n != len(model) {
			t.Fatalf("%d in place of %d", set.n, len(model))
		}
	}
	for id := range model {
		if _, found := set.find(&id); !found {
			t.Errorf("%s is missing", id)
		}
	}
	if zero := (event.ID{}); set.add(zero) || set.n != len(model) {
		t.Error("the id of zeros was added")
	}
}
