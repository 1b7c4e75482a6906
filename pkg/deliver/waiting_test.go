package deliver

import (
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// heap returns the bytes that are in use.
func heap() int {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// What waits for a sink that is down is on the disk and not in memory, however many resources it
// belongs to, and whether it is read ahead or not. When the sink is back it gets all, in order.
func TestWaitingTakesNoMemory(t *testing.T) {
	for _, c := range []struct {
		name, settings string
		resources      int
	}{
		{"many resources", "concurrency: 4", 400},
		{"fewer than lanes", "concurrency: 4", 3},
		{"batches", "concurrency: 4, batch: {max_events: 100}", 40},
		{"one lane", "concurrency: 1", 400},
		{"collapse", "concurrency: 4, collapse: true", 400},
		{"collapse and one lane", "concurrency: 1, collapse: true", 400},
	} {
		t.Run(c.name, inBubble(func(t *testing.T) {
			const (
				events = 3000
				size   = 8 << 10
				kept   = 8 << 20 // what has been read, and the queue's own
			)
			s := newFixture(t)
			s.consumer.refuses(unavailable)
			s.runWith(config.Flood{Window: neverEnds, Min: 100}, c.settings+", retry: {initial: 1ms, max: 2ms}")
			s.store(another(event.TypeOSMessage, 0))
			s.eventually("it fails", s.failing)
			before := heap()
			body, err := json.Marshal(map[string]string{"text": strings.Repeat("x", size)})
			if err != nil {
				t.Fatal(err)
			}
			for from := 1; from < events; from += 100 {
				var several []*event.Event
				for n := from; n < min(from+100, events); n++ {
					e := another([]string{event.TypeOSMessage, event.TypeStatusChange}[n%2], n%c.resources)
					e.Body = body
					several = append(several, e)
				}
				s.store(several...)
			}
			s.eventually("no more is read", func() bool { return !s.hasRoom() || !s.delivery.work.isHungry() })
			if used := heap() - before; used > kept {
				t.Errorf("%d bytes in memory of %d that wait", used, events*size)
			}
			s.consumer.answers(nil)
			s.eventually("all", func() bool { return len(s.consumer.got()) == events && s.settled() })
			s.sums(events, 0, 0, 0)
			last := make(map[string]int)
			for _, e := range s.consumer.got() {
				var n int
				if _, err := fmt.Sscan(e.ID, &n); err != nil {
					t.Fatal(err)
				}
				if before, ok := last[e.Resource.ObjectURI]; ok && n <= before || n > 0 && len(e.Body) < size {
					t.Fatalf("event %d behind %d, with %d bytes", n, before, len(e.Body))
				}
				last[e.Resource.ObjectURI] = n
			}
		}))
	}
}
