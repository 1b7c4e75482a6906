package record

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/ledger"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/translate"
	"github.com/hmcnotifyd/hmcnotifyd/tests/clock"
)

// The window of a daemon that was killed begins at the last contact, also where the clock was set back or forward before that.
func TestGapAfterTheClockWasSet(t *testing.T) {
	for _, by := range []time.Duration{-200 * time.Hour, -3 * time.Hour, 3 * time.Hour, 200 * time.Hour} {
		t.Run(by.String(), func(t *testing.T) {
			q := openQueue(t)
			cursor, err := q.Cursor("test")
			if err != nil {
				t.Fatal(err)
			}
			var set, passed time.Duration
			now := func() time.Time { return clock.Set(t, time.Now().Add(passed), set) }
			open := func() *Recorder {
				r := New(Options{
					Config: config.HMC{Name: "a", Topics: []string{event.TopicObject}}, Group: NewGroup("a", q, zap.NewNop()), Watcher: new(watcher),
					Metrics: NewMetrics(prometheus.NewRegistry()).ForHMC("a"), Logger: zap.NewNop(), Topics: topicTable(), Timing: testTiming(), Now: now,
				})
				r.Open(ledger.NewSeenWindow(time.Minute, 100))
				return r
			}
			notify := func(r *Recorder, id string) {
				var n translate.Notification
				n.Parse(&receiver.Notification{
					Topic: "u.1", Received: now(), Headers: receiver.Headers{{Name: "notification-type", Value: "inventory-change"}, {Name: "message-id", Value: id}},
				}, true)
				r.Notification(t.Context(), &n)
				r.Flush(t.Context())
			}
			r := open()
			r.Connected(t.Context(), Connection{Host: "h"}, true, now())
			notify(r, "1")
			set, passed = by, 10*time.Minute
			notify(r, "2")
			last := now()
			if err := q.Flush(); err != nil {
				t.Fatal(err)
			}
			// Killed: another one opens what is stored.
			passed = 20 * time.Minute
			r = open()
			back := now()
			r.Connected(t.Context(), Connection{Host: "h"}, true, back)
			for end := time.Now().Add(time.Minute); r.View().Gaps == 0; time.Sleep(10 * time.Millisecond) {
				if r.tick(t.Context(), false); time.Now().After(end) {
					t.Fatal("no gap was told")
				}
			}
			if err := q.Flush(); err != nil {
				t.Fatal(err)
			}
			records, err := cursor.Next(t.Context(), 0, 0)
			if err != nil {
				t.Fatal(err)
			}
			for _, stored := range records {
				rec, err := event.ParseRecord(stored.Data)
				if err != nil || rec.Type != event.TypeBridgeGap {
					continue
				}
				e, err := rec.Event()
				var g ledger.Gap
				if err != nil || json.Unmarshal(e.Body, &g) != nil {
					t.Fatal(err, string(rec.JSON))
				}
				if g.From.Sub(last.Round(0)).Abs() > time.Second || g.To.Sub(back.Round(0)).Abs() > time.Second || g.To.Before(g.From) {
					t.Errorf("from %s to %s, the last contact was at %s and the next at %s", g.From, g.To, last, back)
				}
				return
			}
			t.Error("no gap was told")
		})
	}
}
