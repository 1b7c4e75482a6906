package watch

import (
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/ledger"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/translate"
)

// TestFillAfterReplay has something missed after the HMC has replayed what it holds, on the same
// link: only what was missed before comes with the replay, the rest has to be asked for.
func TestFillAfterReplay(t *testing.T) {
	const uri, topic = "/api/partitions/1", "ensadmin.1osm.1"
	opened := time.Now().Add(-time.Minute)
	s := newTestSupervisor(t)
	s.Rec.Open(ledger.NewSeenWindow(time.Minute, 100))
	var n translate.Notification
	n.Parse(&receiver.Notification{
		Topic: topic, Received: time.Now(), Body: []byte(`{"os-messages":[{"sequence-number":1,"message-text":"a","is-refresh":true}]}`),
		Headers: receiver.Headers{{Name: "notification-type", Value: "os-message"}, {Name: "object-uri", Value: uri}},
	}, true)
	s.Rec.Notification(t.Context(), &n)
	s.Rec.MissingMessages(uri) // the replay has ended
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

// TestReplays has the HMC replay what it holds for a channel that was opened after more was missed,
// in a new session only: where it replays nothing, a partition of which nothing is known, because
// the first of it could not be stored, is asked for.
func TestReplays(t *testing.T) {
	const uri, topic = "/api/partitions/1", "ensadmin.1osm.1"
	now := time.Now()
	for _, tt := range []struct {
		name             string
		newSession       bool
		missed, openedAt time.Time
		want             bool
	}{
		{"missed before it was opened", true, now, now.Add(time.Second), true},
		{"missed while it was opened", true, now.Add(time.Second), now, false},
		{"open since a link before this one", true, now, time.Time{}, false},
		{"the session goes on", false, now, now.Add(time.Second), false},
	} {
		k := newKeeper(newTestSupervisor(t), nil, new(Offer), nil)
		k.newSession = tt.newSession
		c := &channel{partition: hmc.Partition{ObjectURI: uri}, refresh: true, tried: true}
		k.channels.byURI[uri] = c
		if tt.missed.After(tt.openedAt) {
			c.opened = tt.openedAt
		}
		k.fetch.ask(map[string]bool{"": true})
		c.topic, c.opened = topic, tt.openedAt
		if got := k.fetch.replays(c); got != tt.want || c.fill == nil {
			t.Errorf("%s: replayed %v, want %v", tt.name, got, tt.want)
		}
	}
}
