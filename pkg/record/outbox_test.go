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
	r, w := openRecorder("a", NewGroup("a", q, zap.NewNop()))
	r.group.out.maxRecord = 4 << 10
	send := func(texts ...string) {
		tx := r.begin(t.Context())
		defer tx.end()
		for _, text := range texts {
			tx.put(&event.Event{ID: text[:1], Type: event.TypePropertyChange, TopicType: event.TopicObject, BodyText: text})
		}
		tx.flush()
	}
	send("a", strings.Repeat("x", 5<<10), "b")
	if err := q.Flush(); err != nil {
		t.Fatal(err)
	}
	records, err := cursor.Next(t.Context(), 10, 0)
	if err != nil || len(records) != 2 || w.missed[event.TopicObject] != 1 {
		t.Fatalf("%d stored, %v missed, %v", len(records), w.missed, err)
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
	send("c")
	if len(w.missed) != 1 || w.missed[event.TopicObject] != 2 {
		t.Errorf("%v missed", w.missed)
	}
}
