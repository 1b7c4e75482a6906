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
		for number := range int64(700) {
			live(fmt.Sprint("p", i), number)
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
