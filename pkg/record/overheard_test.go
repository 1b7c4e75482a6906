package record

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/ledger"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/translate"
)

// A daemon that has heard the HMC while another one recorded records what it is told of that, without finding that numbers jump, and its gap
// says since when it has heard: what came since the last record is not missing, if it has heard all of that.
func TestGapOfWhatWasOverheard(t *testing.T) {
	for _, test := range []struct {
		name    string
		heard   time.Duration // before the last contact
		missing bool
	}{
		{"all of it", time.Minute, false},
		{"not all of it", -time.Second, true},
		{"perhaps not all of it, as the clocks of two machines go", time.Second, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			q := openQueue(t)
			cursor, err := q.Cursor("test")
			if err != nil {
				t.Fatal(err)
			}
			var passed time.Duration
			now := func() time.Time { return time.Now().Add(passed) }
			open := func(o Options) *Recorder {
				o.Config = config.HMC{Name: "a", Topics: []string{event.TopicObject, event.TopicJob}}
				o.Group, o.Watcher, o.Metrics = NewGroup("a", q, zap.NewNop()), new(watcher), NewMetrics(prometheus.NewRegistry()).ForHMC("a")
				o.Logger, o.Topics, o.Timing, o.Now = zap.NewNop(), new(translate.TopicTable), testTiming(), now
				o.Topics.Set(map[string]string{"u.1": event.TopicObject, "v.1": event.TopicObject})
				r := New(o)
				r.Open(ledger.NewSeenWindow(time.Minute, 100))
				return r
			}
			said := func(topic, id, number string) *translate.Notification {
				n := new(translate.Notification)
				n.Parse(&receiver.Notification{Topic: topic, Received: now(), Headers: receiver.Headers{
					{Name: "notification-type", Value: "inventory-change"},
					{Name: "message-id", Value: id},
					{Name: "session-sequence-nr", Value: number},
					{Name: "object-uri", Value: "/api/partitions/" + id},
					{Name: "action", Value: "add"},
				}}, true)
				return n
			}
			old := open(Options{})
			old.Connected(t.Context(), Connection{Host: "h", NewSession: true}, true, now())
			old.Notification(t.Context(), said("u.1", "1", "1"))
			old.Flush(t.Context())
			if err := q.Flush(); err != nil {
				t.Fatal(err)
			}
			last := now()
			passed += 10 * time.Second
			r := open(Options{After: "the daemon on b leads now, after the one on a", Heard: last.Add(-test.heard)})
			r.Connected(t.Context(), Connection{Host: "h", NewSession: true}, true, last.Add(-test.heard))
			for _, number := range []string{"102", "107"} { // what is between was recorded
				r.Overheard(t.Context(), said("v.1", number, number))
			}
			r.Notification(t.Context(), said("v.1", "120", "120"))
			r.Flush(t.Context())
			passed += time.Minute
			for end := time.Now().Add(time.Minute); r.View().Gaps == 0 && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
				r.tick(t.Context(), false)
			}
			gap := r.View().LastGap
			if gap == nil {
				t.Fatal("there is no gap")
			}
			if said := strings.Join(gap.Causes, "; "); !strings.Contains(said, "leads now, after the one on a, and has heard itself what the HMC says since 20") {
				t.Errorf("causes: %s", said)
			}
			if len(gap.Missing) > 0 != test.missing || gap.Recovered[event.TopicObject] != 2 || len(gap.Missed) > 0 {
				t.Errorf("missing %v, recovered %v, missed %v", gap.Missing, gap.Recovered, gap.Missed)
			}
			r.Close(t.Context(), "the test ends")
			if got := idsOf(t, cursor, event.TypeInventoryChange); len(got) != 4 {
				t.Errorf("%d events: %v", len(got), got)
			}
		})
	}
}

// idsOf are those of the stored events of a type.
func idsOf(t *testing.T, cursor *queue.Cursor, typ string) (ids []string) {
	t.Helper()
	for {
		if waiting, _, _ := cursor.Pending(); waiting == 0 {
			return ids
		}
		records, err := cursor.Next(t.Context(), 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, one := range records {
			if rec, err := event.ParseRecord(one.Data); err == nil && rec.Type == typ {
				ids = append(ids, rec.ID)
			}
		}
		if err := cursor.Ack(records[len(records)-1].Seq); err != nil {
			t.Fatal(err)
		}
	}
}
