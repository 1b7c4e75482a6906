package watch

import (
	"fmt"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/ledger"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/logon"
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
	k := newKeeper(s, nil, new(logon.Offer), nil)
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
		k := newKeeper(newTestSupervisor(t), nil, new(logon.Offer), nil)
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

// TestEachHasItsTurn has the first partitions refuse again and again what was missed of theirs, and be due before those behind
// them were asked.
func TestEachHasItsTurn(t *testing.T) {
	k := newKeeper(newTestSupervisor(t), nil, new(logon.Offer), nil)
	for i := range 3 * atOnce {
		uri := fmt.Sprintf("/api/partitions/%02d", i)
		k.channels.byURI[uri] = &channel{partition: hmc.Partition{ObjectURI: uri}, topic: "ensadmin.1osm." + uri, fill: new(retry)}
	}
	begun, asked := time.Now(), make(map[string]bool)
	for i := range 3 {
		for _, c := range k.fetch.dueChannels()[:atOnce] {
			asked[c.partition.ObjectURI] = true
			c.fill.due = begun.Add(time.Duration(i-10) * time.Second)
		}
	}
	if len(asked) != 3*atOnce {
		t.Errorf("%d of %d partitions were asked", len(asked), 3*atOnce)
	}
}

// TestLogTimes asks for logs of which an answer holds a part only, of HMCs whose clocks may be ahead: every entry comes once, the
// oldest first, and after few requests.
func TestLogTimes(t *testing.T) {
	now := time.Now()
	const day = 24 * time.Hour
	for _, tt := range []struct {
		name     string
		from, to time.Duration // ago
		begin    time.Duration // ago, of what is asked for; 0: all
		requests int
	}{
		{"years", 3 * 365 * day, 0, 0, 150},
		{"an hour", time.Hour, 0, 0, 80},
		{"known but for a month", 3 * 365 * day, 0, 30 * day, 60},
		{"known but for a day", 3 * 365 * day, 0, day - time.Minute, 20},
		{"a day ahead", -23 * time.Hour, -day, 0, 80},
		{"ten years ahead", -3650 * day, -3651 * day, 0, 200},
	} {
		t.Run(tt.name, func(t *testing.T) {
			const entries, most = 10_000, 500
			at := func(i int) int64 { return now.Add(-tt.from + (tt.from-tt.to)/entries*time.Duration(i)).UnixMilli() }
			first := logTimes{}
			if tt.begin > 0 {
				first.begin = now.Add(-tt.begin).UnixMilli()
			}
			next, requests := 0, 0
			for next < entries && at(next) < first.begin {
				next++
			}
			for left := []logTimes{first}; len(left) > 0; {
				requests++
				asked, n := left[0], 0
				for next+n < entries && (asked.end == 0 || at(next+n) <= asked.end) {
					n++
				}
				if n > 0 && at(next) < asked.begin {
					t.Fatalf("an entry at %d is left out before %d", at(next), asked.begin)
				}
				if left = left[1:]; n > most {
					shorter := asked.split(now)
					if len(shorter) == 0 {
						t.Fatalf("%d entries of %+v cannot be asked for", n, asked)
					}
					left = append(shorter, left...)
					continue
				}
				next += n
			}
			if next != entries || requests > tt.requests {
				t.Errorf("%d of %d entries after %d requests, want at most %d", next, entries, requests, tt.requests)
			}
		})
	}
	if shorter := (logTimes{now.UnixMilli(), now.Add(time.Second).UnixMilli()}).split(now); len(shorter) > 0 {
		t.Errorf("a second is split into %v", shorter)
	}
}
