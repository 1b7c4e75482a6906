package record

import (
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
)

// testTiming waits for nothing that a test would have to sit out.
func testTiming() RecorderTiming {
	return RecorderTiming{Tick: 10 * time.Millisecond, Settle: 200 * time.Millisecond, SeenEvery: 100 * time.Millisecond}
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
