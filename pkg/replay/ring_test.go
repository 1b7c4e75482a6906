package replay

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// ringOf has so many events, of which it can keep about as many as keep says.
func ringOf(n, keep int) *Ring {
	r := new(Ring)
	for i := range n {
		addTo(r, i, keep)
	}
	return r
}

func addTo(r *Ring, i, keep int) {
	record := event.AppendRecord(nil, &event.Event{
		ID: fmt.Sprintf("event %04d", i), HMC: "east", Type: []string{event.TypeStatusChange, event.TypeOSMessage}[i%2],
		Received: time.Unix(int64(1000+i), 0), Time: time.Unix(int64(1000+i), 0), Severity: event.SeverityInfo, Origin: event.OriginLive,
	})
	r.MaxBytes = (keep + 1) * len(record)
	r.Add(uint64(i+1), record)
	r.Add(uint64(i+1), []byte("once more"))
}

// Whoever reads along in a ring gets what there is of the past, what comes, and how much of it has gone before its turn.
func TestReadAlongInARing(t *testing.T) {
	t.Parallel()
	const keep = 100
	ring := ringOf(300, keep)
	live := NewLiveOf(ring, func() *config.Config { return new(config.Config) })
	first, last := ring.Bounds()
	if last != 300 || last-first+1 < keep-5 || last-first > keep+1 {
		t.Fatalf("records %d to %d", first, last)
	}
	open := func(f LiveFilter, known bool) *LiveReader {
		t.Helper()
		r, err := live.Read()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(r.Close)
		if is, err := r.Only(f); err != nil || is != known {
			t.Errorf("known %v, %v", is, err)
		}
		return r
	}
	next := func(r *LiveReader, wantLost bool, want int) {
		t.Helper()
		for got := 0; got < 3; {
			events, lost, err := r.Next(t.Context())
			if err != nil || lost > 0 != wantLost {
				t.Fatalf("%d are lost, %v", lost, err)
			}
			wantLost = false
			for _, e := range events {
				if id := fmt.Sprintf("event %04d", want); e.ID != id && got < 3 {
					t.Fatalf("%s comes, not %s", e.ID, id)
				}
				got, want = got+1, want+1
			}
		}
	}
	next(open(LiveFilter{Last: 5}, true), false, 295)
	next(open(LiveFilter{After: "event 0290"}, true), false, 291)
	next(open(LiveFilter{Since: time.Unix(1294, 0)}, true), false, 294)
	next(open(LiveFilter{Since: time.Unix(0, 0)}, true), false, int(first)-1)
	open(LiveFilter{After: "event 0001"}, false) // it has gone

	slow := open(LiveFilter{}, true)
	for i := range 300 {
		addTo(ring, 300+i, keep)
	}
	first, _ = ring.Bounds()
	next(slow, true, int(first)-1)

	waits := open(LiveFilter{}, true)
	ended := make(chan error, 1)
	go func() {
		_, _, err := waits.Next(context.Background())
		ended <- err
	}()
	live.End()
	if err := <-ended; !errors.Is(err, ErrLiveEnded) {
		t.Errorf("at the end: %v", err)
	}
	if _, err := live.Read(); !errors.Is(err, ErrLiveEnded) {
		t.Errorf("after the end: %v", err)
	}
}
