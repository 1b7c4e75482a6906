package record

import (
	"bytes"
	"fmt"
	"strconv"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/ledger"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/translate"
)

// BenchmarkNotification records property changes, a hundred for each transaction of the queue.
func BenchmarkNotification(b *testing.B) {
	q, err := queue.Open(queue.Options{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = q.Close() }()
	r, _ := openRecorder("a", NewGroup("a", q, zap.NewNop()))
	body := []byte(`{"change-reports":[{"property-name":"description","old-value":null,"new-value":"x"}]}`)
	var n translate.Notification
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		received := receiver.Notification{Topic: "u.object", Received: r.now(), Body: body, Headers: receiver.Headers{
			{Name: "notification-type", Value: event.TypePropertyChange},
			{Name: "message-id", Value: strconv.Itoa(i)},
			{Name: "session-sequence-nr", Value: strconv.Itoa(i)},
			{Name: "class", Value: "partition"},
			{Name: "name", Value: "P"},
			{Name: "object-uri", Value: "/api/partitions/1"},
			{Name: "property-names", Value: " description "},
		}}
		n.Parse(&received, true)
		r.Notification(b.Context(), &n)
		if i%100 == 0 {
			r.Flush(b.Context())
		}
	}
}

// BenchmarkFlood records what comes in masses, of 32 partitions, as fast as it can be.
func BenchmarkFlood(b *testing.B) {
	q, err := queue.Open(queue.Options{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = q.Close() }()
	r, _ := openRecorder("a", NewGroup("a", q, zap.NewNop()))
	r.Open(ledger.NewSeenWindow(time.Minute, 100_000))
	flood := make([]receiver.Notification, b.N)
	messages := hmcsim.FloodMessages()
	for i := range flood {
		m, number := messages[i%len(messages)], 1_000_000_000+i
		body := bytes.ReplaceAll(m.Body, []byte(hmcsim.FloodNumber), strconv.AppendInt(nil, int64(number), 10))
		sequence := strconv.AppendInt(nil, int64(2_000_000_000+i/len(messages)), 10)
		n := &flood[i]
		*n = receiver.Notification{Topic: "u.object", Body: bytes.ReplaceAll(body, []byte(hmcsim.FloodSequence), sequence)}
		for _, h := range append([]hmcsim.Header{
			{Name: "destination", Value: "/topic/u.object"},
			{Name: "subscription", Value: "sub-1"},
			{Name: "message-id", Value: "ID:HMCHOST-42915-1555356921407-5:1:1:65:" + strconv.Itoa(number)},
			{Name: "expires", Value: "0"},
			{Name: "priority", Value: "4"},
			{Name: "timestamp", Value: "1557755398299"},
			{Name: "global-sequence-nr", Value: strconv.Itoa(number)},
			{Name: "session-sequence-nr", Value: strconv.Itoa(number)},
		}, m.Headers...) {
			n.Headers = append(n.Headers, receiver.Header(h))
		}
	}
	var n translate.Notification
	b.ReportAllocs()
	b.ResetTimer()
	for i := range flood {
		flood[i].Received = r.now()
		n.Parse(&flood[i], true)
		r.Notification(b.Context(), &n)
	}
}

// BenchmarkCompareLog compares a log of 20,000 entries with what is known of it, which is all.
func BenchmarkCompareLog(b *testing.B) {
	const entries = 20_000
	q, err := queue.Open(queue.Options{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = q.Close() })
	r, w := openRecorder("a", NewGroup("a", q, zap.NewNop()), event.TopicAudit)
	w.fetch = true
	list := make([][]byte, entries)
	for i := range list {
		list[i] = fmt.Appendf(nil, `{"event-time":%d,"event-id":"1941","event-name":"WebServicesLogon","event-message":"User %d has logged on to Web Services API session Sx30de9b60.66 from location 10.1.2.3",`+
			`"userid":"monitor","user-uri":"/api/users/cffaed34-f60c-1160-a375-c0c480e85bf4","event-data-items":[{"data-item-number":0,"data-item-type":"string","data-item-value":"monitor"}],"event-details":[]}`, 1795168800296-i, i)
	}
	connect(r)
	compare := func() {
		query, ok := r.BeginFetch(event.TopicAudit)
		if !ok {
			b.Fatal("nothing is to be fetched")
		}
		r.FetchedEntries(b.Context(), event.TopicAudit, "u.audit", query, list)
		r.EndFetch(event.TopicAudit, query, true)
	}
	compare()
	for b.Loop() {
		r.TopicBack("u.audit")
		compare()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/entries, "ns/entry")
}
