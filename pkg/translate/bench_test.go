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
			emit := func(e *event.Event) { buf = event.AppendRecord(buf[:0], e) }
			b.ReportAllocs()
			for b.Loop() {
				c.Convert(&n, event.ID{}, true, emit)
			}
		})
	}
}
