package record

import (
	"sync"
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

// testTiming waits for nothing that a test would have to sit out.
func testTiming() Timing {
	return Timing{Tick: 10 * time.Millisecond, Settle: 200 * time.Millisecond, SeenEvery: 100 * time.Millisecond}
}

func openQueue(t *testing.T) *queue.Queue {
	t.Helper()
	q, err := queue.Open(queue.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := q.Close(); err != nil {
			t.Error(err)
		}
	})
	return q
}

// watcher is a Watcher of which nothing is asked but what a test says.
type watcher struct {
	mu      sync.Mutex
	missed  map[string]int
	again   []string // consoles and CPCs whose hardware messages are to be listed
	fetch   bool
	fetched []map[string]bool // topics
	logs    []string
	asked   []string // jobs
	asks    bool
	heard   func() // when it is asked for the last contact
	contact func() time.Time
	waits   bool // something that was received
}

func (w *watcher) Missed(topicType string, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.missed == nil {
		w.missed = make(map[string]int)
	}
	w.missed[topicType] += n
}

func (w *watcher) LastContact() (time.Time, bool) {
	if w.heard != nil {
		w.heard()
	}
	if w.contact != nil {
		return w.contact(), !w.waits
	}
	return time.Now(), !w.waits
}
func (w *watcher) Heartbeat() Heartbeat         { return Heartbeat{} }
func (w *watcher) CanFetch() bool               { return w.fetch }
func (w *watcher) Fetch(topics map[string]bool) { w.fetched = append(w.fetched, topics) }
func (w *watcher) FetchLog(kind string)         { w.logs = append(w.logs, kind) }
func (w *watcher) Ask(uri string) bool          { w.asked = append(w.asked, uri); return w.asks }
func (w *watcher) ListHardware(parent string)   { w.again = append(w.again, parent) }

// openRecorder is a recorder of an HMC, on a queue and in a group.
func openRecorder(name string, g *Group, topics ...string) (*Recorder, *watcher) {
	w := new(watcher)
	r := New(Options{
		Config: config.HMC{Name: name, Topics: append(topics, event.TopicObject)}, Group: g, Watcher: w,
		Metrics: NewMetrics(prometheus.NewRegistry()).ForHMC(name), Logger: zap.NewNop(),
		Topics: topicTable(), Timing: testTiming(),
	})
	r.Open(ledger.NewSeenWindow(time.Minute, 100))
	return r, w
}

// fetchLog has the HMC asked for its audit log, which has these entries.
func fetchLog(t *testing.T, r *Recorder, entries ...string) {
	t.Helper()
	q, ok := r.BeginFetch(event.TopicAudit)
	if !ok {
		t.Fatal("nothing is to be fetched")
	}
	list := make([][]byte, len(entries))
	for i, e := range entries {
		list[i] = []byte(e)
	}
	r.FetchedEntries(t.Context(), event.TopicAudit, "u.audit", q, list)
	r.EndFetch(event.TopicAudit, q, true)
}

func topicTable() *translate.TopicTable {
	t := new(translate.TopicTable)
	t.Set(map[string]string{"u.audit": event.TopicAudit, "u.job": event.TopicJob})
	return t
}

// received records what the HMC sent.
func received(t *testing.T, r *Recorder, topic string, headers receiver.Headers, body string) {
	t.Helper()
	var n translate.Notification
	n.Parse(&receiver.Notification{Topic: topic, Headers: headers, Received: time.Now(), Body: []byte(body)}, true)
	r.Notification(t.Context(), &n)
}

func partitionHeaders(typ string, more ...receiver.Header) receiver.Headers {
	return append(receiver.Headers{
		{Name: "notification-type", Value: typ},
		{Name: "message-id", Value: "ID:HMCHOST-42915-1555356921407-5:1:1:65:2"},
		{Name: "timestamp", Value: "1557755398299"},
		{Name: "session-sequence-nr", Value: "1"},
		{Name: "global-sequence-nr", Value: "6399"},
		{Name: "class", Value: "partition"},
		{Name: "name", Value: "PART1"},
		{Name: "object-id", Value: "e12121da"},
		{Name: "object-uri", Value: "/api/partitions/e12121da"},
	}, more...)
}
