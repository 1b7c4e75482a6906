package record

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
)

// What is known of a group is stored in the order in which it became so, whichever HMC has something to store: a crash in
// between costs no event whose state is there already.
func TestStateOfAGroupGoesWithItsEvents(t *testing.T) {
	q, err := queue.Open(queue.Options{Dir: filepath.Join(t.TempDir(), "q")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = q.Close() })
	cursor, err := q.Cursor("x")
	if err != nil {
		t.Fatal(err)
	}
	g := NewGroup("east", q, zap.NewNop())
	g.Configured(2)
	a, _ := openRecorder("a", g)
	b, _ := openRecorder("b", g)
	sent := 0
	status := func(r *Recorder, partition, status string) {
		sent++
		received(t, r, "u.1", receiver.Headers{
			{Name: "notification-type", Value: "status-change"},
			{Name: "message-id", Value: fmt.Sprint(sent)},
			{Name: "class", Value: "partition"},
			{Name: "name", Value: partition},
			{Name: "object-uri", Value: "/api/partitions/" + partition},
		}, fmt.Sprintf(`{"change-reports":[{"old-status":"active","new-status":%q}]}`, status))
	}
	stored := func(r *Recorder) (out []string) {
		t.Helper()
		r.Flush(t.Context())
		if err := q.Flush(); err != nil {
			t.Fatal(err)
		}
		q.StateRange("unit/east\x00", func(_ string, value []byte) bool {
			out = append(out, event.String(event.Member(value, "name"))+" "+event.String(event.Member(value, "status")))
			return true
		})
		slices.Sort(out)
		return out
	}
	status(b, "P2", "stopped")
	status(a, "P1", "stopped")
	// a's transaction stores what is known by b's event too: b's event has to be there by then.
	if got := stored(a); !slices.Equal(got, []string{"P1 stopped", "P2 stopped"}) {
		t.Errorf("stored %q", got)
	}
	records, err := cursor.Next(t.Context(), 10, 0)
	if err != nil || len(records) != 2 {
		t.Errorf("%d events are stored with the states of two, %v", len(records), err)
	}
	// Of one that both have told of whoever is last stores it.
	status(b, "P1", "paused")
	status(a, "P1", "active")
	stored(a)
	if got := stored(b); !slices.Equal(got, []string{"P1 active", "P2 stopped"}) {
		t.Errorf("stored %q", got)
	}
}
