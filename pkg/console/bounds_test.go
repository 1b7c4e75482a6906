package console

import (
	"fmt"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
)

// The messages of all partitions that are remembered are bounded, and so are the partitions.
func TestManyPartitions(t *testing.T) {
	o := NewOSMessages("h")
	now := time.Now()
	live := func(partition string, number int64) OSVerdict {
		return o.Live(partition, "host", OSMessage{Number: number, Text: TextHash("m")}, now)
	}
	entries := func() (n int) {
		for _, p := range o.partitions {
			n += len(p.entries)
		}
		return n
	}
	const busy = 4200
	for i := range busy {
		partition := fmt.Sprint("p", i)
		for number := range int64(700) {
			live(partition, number)
		}
	}
	var state []queue.KeyValue
	state = o.Changes(state)
	if got := entries(); got > 2*maxEntries {
		t.Errorf("%d messages are remembered, %d are stored", got, len(state))
	}
	if v := live("p0", 699); !v.Duplicate {
		t.Error("the last message is not known any more")
	}
	for i := busy; !o.Full("new"); i++ {
		if i > maxPartitions {
			t.Fatal("there is no end of partitions")
		}
		live(fmt.Sprint("p", i), 1)
	}
	if len(o.partitions) != maxPartitions || o.Full("p1") {
		t.Errorf("%d partitions", len(o.partitions))
	}
	o.Forget("p1")
	if o.Full("new") {
		t.Error("the place of one that is gone is not free")
	}
}

// What has been forgotten for want of room is still known to have been seen, whatever is loaded and stored meanwhile, and
// loading alone forgets nothing.
func TestForgottenAndLoaded(t *testing.T) {
	b, now := newMarkBook(), markClock
	partitions := []string{"/api/partitions/1", "/api/partitions/2", "/api/partitions/3", "/api/partitions/4"}
	all := markRange("x", 1, 1500)
	for _, p := range partitions {
		b.Live(p, "", all[999], now.Add(time.Second)) // before the HMC replays
		b.Replay(p, OSReplay{Messages: all, Asked: now, Now: now.Add(2 * time.Second), Complete: true})
	}
	b.commit()
	for range 40 { // kills
		now = now.Add(time.Hour)
		b = b.restart(t, now)
		b.commit()
	}
	for _, p := range partitions {
		if n := len(b.partition(p).entries); n != len(all) {
			t.Errorf("%s: %d of %d are remembered", p, n, len(all))
		}
	}
	b.Live("/api/partitions/5", "", all[0], now)
	for i := range maxEntries / leastEntries { // so many that less is remembered of each
		b.Live(fmt.Sprint("/api/partitions/x", i), "", all[0], now)
	}
	b.commit()
	b = b.restart(t, now)
	for _, p := range partitions {
		vs := b.Replay(p, OSReplay{Messages: all, Asked: now.Add(time.Second), Now: now.Add(time.Minute), Complete: true})
		if got := verdicts(vs); got != "1500 dup" {
			t.Errorf("%s: %s", p, got)
		}
	}
}
