package watch

import (
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/record"
)

// TestFillAfterReplay has something missed after the HMC has replayed what it holds, on the same
// link: only what was missed before comes with the replay, the rest has to be asked for.
func TestFillAfterReplay(t *testing.T) {
	const uri, topic = "/api/partitions/1", "ensadmin.1osm.1"
	opened := time.Now().Add(-time.Minute)
	s := newTestSupervisor(t)
	s.Rec = &record.Recorder{Replayed: map[string]time.Time{uri: opened.Add(time.Second)}}
	k := newKeeper(s, nil, new(Offer), nil)
	k.newSession = true
	c := &channel{partition: hmc.Partition{ObjectURI: uri}, refresh: true, tried: true, fill: new(retry), replay: true, topic: topic, opened: opened}
	k.channels.byURI[uri] = c
	if due := k.fetch.dueChannels(); len(due) != 0 || c.fill != nil {
		t.Errorf("%d partitions are asked for what the HMC has replayed", len(due))
	}
	for _, missed := range []string{topic, ""} { // a jump of the numbers; what the storage refused
		k.fetch.ask(map[string]bool{missed: true})
		if due := k.fetch.dueChannels(); len(due) != 1 {
			t.Errorf("missed on %q after the replay: %d partitions are asked for it", missed, len(due))
		}
		c.fill = nil
	}
}
