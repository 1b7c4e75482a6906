package record

import (
	"strconv"
	"testing"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
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
