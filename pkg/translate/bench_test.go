package translate

import (
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
)

// BenchmarkConvert is what the supervisor's goroutine does for one notification, but for the queue.
func BenchmarkConvert(b *testing.B) {
	for _, m := range hmcsim.FloodMessages()[:4] {
		n := receiver.Notification{Topic: "ensadmin.145", Body: m.Body, Received: time.Now()}
		for _, h := range append([]hmcsim.Header{
			{Name: "destination", Value: "/topic/ensadmin.145"},
			{Name: "subscription", Value: "sub-1"},
			{Name: "message-id", Value: "ID:HMCHOST-42915-1555356921407-5:1:1:65:1000000002"},
			{Name: "expires", Value: "0"},
			{Name: "priority", Value: "4"},
			{Name: "timestamp", Value: "1557755398299"},
			{Name: "global-sequence-nr", Value: "1000006399"},
			{Name: "session-sequence-nr", Value: "1000000001"},
		}, m.Headers...) {
			n.Headers = append(n.Headers, receiver.Header{Name: h.Name, Value: h.Value})
		}
		b.Run(n.Headers.Get("notification-type"), func(b *testing.B) {
			c := newConverter()
			var buf []byte
			var parsed Notification
			emit := func(p *Part) { buf = event.AppendRecord(buf[:0], p.Event) }
			b.ReportAllocs()
			for b.Loop() {
				parsed.Parse(&n, true)
				c.Convert(&parsed, event.ID{}, emit)
			}
		})
	}
}

// BenchmarkID is what tells a notification from the others.
func BenchmarkID(b *testing.B) {
	m := hmcsim.FloodMessages()[0]
	received := receiver.Notification{Topic: "ensadmin.145", Body: m.Body, Headers: receiver.Headers{
		{Name: "message-id", Value: "ID:HMCHOST-42915-1555356921407-5:1:1:65:1000000002"},
		{Name: "destination", Value: "/topic/ensadmin.145"},
		{Name: "subscription", Value: "sub-1"},
		{Name: "expires", Value: "0"},
		{Name: "priority", Value: "4"},
		{Name: "timestamp", Value: "1557755398299"},
		{Name: "global-sequence-nr", Value: "1000006399"},
		{Name: "session-sequence-nr", Value: "1000000001"},
	}}
	for _, h := range m.Headers {
		received.Headers = append(received.Headers, receiver.Header{Name: h.Name, Value: h.Value})
	}
	var n Notification
	n.Parse(&received, true)
	b.ReportAllocs()
	for b.Loop() {
		n.ID("hmc-east")
	}
}
