package record

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/estate"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/translate"
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

// Two HMCs do not report a change at the same instant: where the link of one has come up between
// the two reports it is still the same change, if the other one has been watched since. Else it may
// have happened again, for what was out of its sight an HMC does not report later. An OS message
// may not: the other HMC holds it, and reports it when it is in sight again.
func TestLinkComesUpBetweenTwoReports(t *testing.T) {
	const osMessage = `{"os-messages":[{"sequence-number":%d,"message-text":"*010 IEE600I","timestamp":-1}]}`
	for _, test := range []struct {
		typ  string
		lost bool
		want int
	}{
		{event.TypeStatusChange, false, 1},
		{event.TypeStatusChange, true, 2},
		{event.TypeOSMessage, false, 1},
		{event.TypeOSMessage, true, 1},
	} {
		h := newHouse(t, 2)
		now := time.Now()
		a, _ := h.open("a")
		b, _ := h.open("b")
		for _, r := range []*Recorder{a, b} {
			r.now = func() time.Time { return now }
		}
		link := func(r *Recorder) {
			r.Connected(t.Context(), Connection{Host: "h", NewSession: true}, true, now)
		}
		report := func(r *Recorder, number int) {
			body := `{"change-reports":[{"old-status":"active","new-status":"stopped"}]}`
			if test.typ == event.TypeOSMessage {
				body = fmt.Sprintf(osMessage, number)
			}
			var n translate.Notification
			n.Parse(&receiver.Notification{
				Topic: "u.object", Received: now, Headers: partitionHeaders(test.typ), Body: []byte(body),
			}, true)
			r.Notification(t.Context(), &n)
			r.Flush(t.Context())
		}
		link(a)
		now = now.Add(time.Minute)
		report(a, 1)
		now = now.Add(300 * time.Millisecond)
		if test.lost {
			a.Disconnected(t.Context(), Disconnection{State: "disconnected", Cause: "cut"}, now, false)
		}
		link(b)
		now = now.Add(300 * time.Millisecond)
		report(b, 7)
		events := func() int {
			marks, _ := h.stored()
			return len(slices.DeleteFunc(marks, func(m string) bool { return m != "PART1" }))
		}
		if n := events(); n != test.want {
			t.Errorf("%s, the other one's link was lost %t: %d events, not %d", test.typ, test.lost, n, test.want)
		}
		if test.typ == event.TypeOSMessage { // it was written twice
			if report(a, 2); events() != 1 {
				t.Errorf("the other one's link was lost %t: what it reports itself is not reported", test.lost)
			}
		}
	}
}

// What one HMC has reported at the same time as another one, but waited to be recorded meanwhile, is not new, whatever the other
// one has reported since.
func TestReportThatWaited(t *testing.T) {
	h := newHouse(t, 2)
	began := time.Now()
	a, _ := h.open("a")
	b, _ := h.open("b")
	connect(a)
	connect(b)
	report := func(r *Recorder, name string, after time.Duration) {
		var n translate.Notification
		n.Parse(&receiver.Notification{
			Topic: "u.object", Received: began.Add(after), Headers: partitionHeaders(event.TypePropertyChange),
			Body: fmt.Appendf(nil, `{"change-reports":[{"property-name":"description","old-value":"","new-value":%q}]}`, name),
		}, true)
		r.Notification(t.Context(), &n)
		r.Flush(t.Context())
	}
	report(a, "one", 100*time.Millisecond)
	report(a, "two", 10*time.Second)
	report(b, "one", 200*time.Millisecond)
	report(b, "two", 11*time.Second)
	n := 0
	for _, e := range h.events() {
		if e.Type == event.TypePropertyChange {
			n++
		}
	}
	if n != 2 {
		t.Errorf("%d events, not 2", n)
	}
}

// HMCs of different versions write the same message differently: a number in a string, none for -1. It waits for its answer all
// the same, whichever of them is asked.
func TestMessageThatIsWrittenDifferently(t *testing.T) {
	for _, times := range [][2]string{{"1557755398299", `"1557755398299"`}, {"-1", "null"}, {"0", "-1"}, {`"-1"`, "0"}} {
		h := newHouse(t, 2)
		a, _ := h.open("a")
		b, _ := h.open("b")
		message := ""
		for i, r := range []*Recorder{a, b} {
			connect(r)
			message = fmt.Sprintf(`{"sequence-number":%d,"message-text":"*010 IEE600I","timestamp":%s,"is-held":true}`, 7*i+1, times[i])
			received(t, r, "u.osm", partitionHeaders(event.TypeOSMessage), `{"os-messages":[`+message+`]}`)
			r.Flush(t.Context())
		}
		b.StillHeld(t.Context(), "/api/partitions/e12121da", [][]byte{[]byte(message)}, time.Now().Add(time.Second))
		var told []string
		for _, e := range h.events() {
			if e.Type == event.TypeOSMessage {
				told = append(told, e.Summary)
			}
		}
		if len(told) != 1 {
			t.Errorf("%s: %q", times, told)
		}
	}
}

// What waits for an answer is asked about of another HMC of the group while the one that told of it is out of sight, if that one has
// the partition: from one that has not, nothing follows.
func TestWhoIsAskedWhatIsHeld(t *testing.T) {
	const uri = "/api/partitions/e12121da"
	h := newHouse(t, 2)
	a, _ := h.open("a")
	b, _ := h.open("b")
	connect(a)
	connect(b)
	received(t, a, "u.osm", partitionHeaders(event.TypeOSMessage),
		`{"os-messages":[{"sequence-number":1,"message-text":"*010 REPLY","timestamp":-1,"is-held":true}]}`)
	asked := func(what string, ofA, ofB bool) {
		t.Helper()
		for r, want := range map[*Recorder]bool{a: ofA, b: ofB} {
			if got := slices.Equal(r.Holding(10), []string{uri}); got != want {
				t.Errorf("%s: %s is asked: %v", what, r.name, got)
			}
		}
	}
	asked("both are there", true, false)
	a.Disconnected(t.Context(), Disconnection{State: "disconnected", Cause: "cut"}, time.Now(), false)
	asked("b does not have it", true, false)
	list := estate.Listing{
		HMC: "b", Asked: time.Now(), Complete: map[string]bool{estate.ClassPartition: true},
		Resources: []estate.Resource{{URI: uri, Class: estate.ClassPartition, Name: "PART1", CPC: "C", Status: "active"}},
	}
	h.group.Estate.Learn(&list)
	h.group.Estate.Compare(&list, time.Now(), func(string) bool { return false })
	asked("b has it", true, true)
	connect(a)
	asked("both are there again", true, false)
}
