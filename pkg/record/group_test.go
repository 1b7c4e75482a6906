package record

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/ledger"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/translate"
)

// What an HMC has told is stored as known together with the event that tells it, and not before with those of another HMC of the group: a
// crash in between would lose the event, and no list would show a difference any more.
func TestStateOfAGroupGoesWithItsEvents(t *testing.T) {
	a, q := hardwareRecorder(t, filepath.Join(t.TempDir(), "q"))
	g := NewGroup("east")
	g.Configured(2)
	b := NewRecorder(config.HMC{Name: "b"}, q, NewMetrics(prometheus.NewRegistry()).ForHMC("b"), zap.NewNop(), new(translate.TopicTable), testTiming())
	b.OnMissed, b.InSight, b.Heard = a.OnMissed, a.InSight, a.Heard
	b.Open(ledger.NewSeenWindow(time.Minute, 100))
	for _, r := range []*Recorder{a, b} {
		r.Share(g)
		g.Join(r)
	}
	sent := 0
	status := func(r *Recorder, partition, status string) {
		sent++
		headers := receiver.Headers{
			{Name: "notification-type", Value: "status-change"},
			{Name: "message-id", Value: fmt.Sprint(sent)},
			{Name: "class", Value: "partition"},
			{Name: "name", Value: partition},
			{Name: "object-uri", Value: "/api/partitions/" + partition},
		}
		r.Notification(t.Context(), &receiver.Notification{Topic: "u.1", Received: time.Now(), Headers: headers, Body: fmt.Appendf(nil, `{"change-reports":[{"old-status":"active","new-status":%q}]}`, status)}, true)
	}
	stored := func(r *Recorder) (out []string) {
		t.Helper()
		r.FlushNow(t.Context())
		if err := q.Flush(); err != nil {
			t.Fatal(err)
		}
		q.StateRange(stateUnit+"east\x00", func(_ string, value []byte) bool {
			out = append(out, event.String(event.Member(value, "name"))+" "+event.String(event.Member(value, "status")))
			return true
		})
		slices.Sort(out)
		return out
	}
	for _, step := range []struct {
		by   *Recorder
		want []string
	}{
		{a, []string{"P1 stopped"}},
		{b, []string{"P1 stopped", "P2 stopped"}},
	} {
		if step.by == a {
			status(b, "P2", "stopped")
			status(a, "P1", "stopped")
		}
		if got := stored(step.by); !slices.Equal(got, step.want) {
			t.Errorf("stored with the events of %s: %q, want %q", step.by.cfg.Name, got, step.want)
		}
	}
	// Of one that both have told of whoever is last stores it.
	status(b, "P1", "paused")
	status(a, "P1", "active")
	stored(a)
	if got := stored(b); !slices.Equal(got, []string{"P1 active", "P2 stopped"}) {
		t.Errorf("stored %q", got)
	}
	if len(g.untold) != 0 {
		t.Errorf("held for ever: %v", g.untold)
	}
}
