package record

import (
	"strings"
	"testing"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// One event that the queue cannot take costs no other, and everything that is lost is counted where people look.
func TestOutboxLosesOnlyWhatIsTooLarge(t *testing.T) {
	q := openQueue(t)
	cursor, err := q.Cursor("x")
	if err != nil {
		t.Fatal(err)
	}
	missed := 0
	o := outbox{
		queue: q, metrics: NewMetrics(nil).ForHMC("a"), log: zap.NewNop(), maxRecord: 4 << 10,
		onMissed: func(topicType string, n int) {
			if topicType != event.TopicObject {
				t.Errorf("topic type %s", topicType)
			}
			missed += n
		},
		onResult: func(error, notes, map[string]int) {},
	}
	for _, text := range []string{"a", strings.Repeat("x", 5<<10), "b"} {
		o.add(&event.Event{ID: text[:1], Type: event.TypePropertyChange, TopicType: event.TopicObject, BodyText: text})
	}
	o.send(t.Context(), nil, nil, notes{})
	if err := q.Flush(); err != nil {
		t.Fatal(err)
	}
	records, err := cursor.Next(t.Context(), 10, 0)
	if err != nil || len(records) != 2 || missed != 1 {
		t.Fatalf("%d stored, %d missed, %v", len(records), missed, err)
	}
	for i, want := range []string{"a", "b"} {
		if r, err := event.ParseRecord(records[i].Data); err != nil || r.ID != want {
			t.Errorf("event %d is %q, %v", i, r.ID, err)
		}
	}
	// A queue that takes nothing any more.
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	o.add(&event.Event{ID: "c", Type: event.TypePropertyChange, TopicType: event.TopicObject})
	o.send(t.Context(), nil, nil, notes{})
	if missed != 2 {
		t.Errorf("%d missed", missed)
	}
}
