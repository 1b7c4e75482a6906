package record

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/estate"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
)

// A system stops: its event waits for the reason, what comes of the same system waits behind it, and what is known of it is not
// stored before: a crash in between would leave a system that has stopped and nobody who tells. Others go on.
func TestAStoppedSystemWaitsForItsReason(t *testing.T) {
	h := newHouse(t, 1)
	r, w := h.open("a")
	w.asks = true
	connect(r)
	h.stored()
	const uri = "/api/logical-partitions/l"
	send := func(typ, id, body string) {
		t.Helper()
		received(t, r, "u.object", receiver.Headers{
			{Name: "notification-type", Value: typ},
			{Name: "message-id", Value: id},
			{Name: "class", Value: "logical-partition"},
			{Name: "name", Value: "LP01"},
			{Name: "object-uri", Value: uri},
		}, body)
	}
	unit := func() (value string) {
		h.queue.StateRange("unit/", func(key string, v []byte) bool {
			if strings.HasSuffix(key, uri) {
				value = string(v)
			}
			return true
		})
		return value
	}
	send(event.TypeStatusChange, "1", `{"change-reports":[{"old-status":"x","new-status":"operating"}]}`)
	r.Flush(t.Context())
	if marks, _ := h.stored(); !slices.Equal(marks, []string{"LP01"}) || !strings.Contains(unit(), `"operating"`) {
		t.Fatalf("stored %q, %s", marks, unit())
	}
	send(event.TypeStatusChange, "2", `{"change-reports":[{"old-status":"operating","new-status":"not-operating"}]}`)
	send(event.TypeOSMessage, "3", `{"os-messages":[{"sequence-number":1,"message-text":"IXC220W"}]}`)
	h.change(r, "other")
	r.Flush(t.Context())
	if marks, _ := h.stored(); !slices.Equal(marks, []string{"other"}) || !strings.Contains(unit(), `"operating"`) || !r.Awaits(uri) {
		t.Errorf("stored %q, %s", marks, unit())
	}
	r.PSWsKnown(t.Context(), "/api/logical-partitions/another", nil)
	r.PSWsKnown(t.Context(), uri, []string{"0002000080000000000000000017C0A2"})
	if marks, _ := h.stored(); !slices.Equal(marks, []string{"LP01", "LP01"}) || !strings.Contains(unit(), `"not-operating"`) || r.Awaits(uri) {
		t.Errorf("stored %q, %s", marks, unit())
	}
	if want := []string{uri}; !slices.Equal(w.asked, want) {
		t.Errorf("asked for %q", w.asked)
	}
	// Nobody answers: it is told in time all the same.
	send(event.TypeStatusChange, "4", `{"change-reports":[{"old-status":"not-operating","new-status":"operating"}]}`)
	send(event.TypeStatusChange, "5", `{"change-reports":[{"old-status":"operating","new-status":"not-operating"}]}`)
	now := r.now
	r.now = func() time.Time { return now().Add(HoldWait) }
	r.tick(t.Context(), false)
	if marks, _ := h.stored(); len(marks) != 2 || r.Awaits(uri) {
		t.Errorf("stored %q", marks)
	}
	// Nobody can be asked, or a repetition is told: it does not wait.
	w.asks = false
	send(event.TypeStatusChange, "6", `{"change-reports":[{"old-status":"not-operating","new-status":"not-operating"}]}`)
	send(event.TypeStatusChange, "7", `{"change-reports":[{"old-status":"exceptions","new-status":"not-operating"}]}`)
	r.Flush(t.Context())
	if marks, _ := h.stored(); len(marks) != 2 || len(w.asked) != 2 {
		t.Errorf("stored %q, asked for %q", marks, w.asked)
	}
}

// What waits behind an event that is held back is bounded: then it is told as it is.
func TestHeldBackIsBounded(t *testing.T) {
	h := newHouse(t, 1)
	r, w := h.open("a")
	w.asks = true
	connect(r)
	h.stored()
	headers := func(typ, id string) receiver.Headers {
		return receiver.Headers{
			{Name: "notification-type", Value: typ},
			{Name: "message-id", Value: id},
			{Name: "class", Value: "logical-partition"},
			{Name: "name", Value: "LP01"},
			{Name: "object-uri", Value: "/api/logical-partitions/l"},
		}
	}
	received(t, r, "u.object", headers(event.TypeStatusChange, "0"), `{"change-reports":[{"old-status":"operating","new-status":"not-operating"}]}`)
	for i := range 2 * maxHeld {
		received(t, r, "u.object", headers(event.TypeInventoryChange, strings.Repeat("x", i+1)), "")
	}
	r.Flush(t.Context())
	if n := len(r.tx.held); n > maxHeld {
		t.Errorf("%d are held back", n)
	}
	if marks, _ := h.stored(); len(marks) != 2*maxHeld+1 {
		t.Errorf("%d are stored", len(marks))
	}
}

// Another token than the one before is an IPL that nobody has told; the same facts again change nothing.
func TestInformed(t *testing.T) {
	h := newHouse(t, 1)
	r, _ := h.open("a")
	connect(r)
	const uri = "/api/logical-partitions/l"
	h.group.Estate.SetStatus(&estate.Resource{URI: uri, Class: estate.ClassLogicalPartition, Name: "LP01", Status: "operating"}, time.Now())
	h.stored()
	info := hmc.Info{ObjectURI: uri, OSName: "SY1", OSLevel: "z/OS V2.5", Sysplex: "P", IPLToken: "1", AcceptableStatus: []string{"operating"}}
	inform := func(want ...string) {
		t.Helper()
		r.Informed(t.Context(), []hmc.Info{info, {ObjectURI: "/api/partitions/nobody", OSName: "X"}})
		if marks, _ := h.stored(); !slices.Equal(marks, want) {
			t.Errorf("told of %q, want %q", marks, want)
		}
	}
	inform() // the first token is no news
	inform()
	dirty := 0
	h.group.Estate.Unstored(func(string) bool { return false }, func(string, []byte) { dirty++ })
	if known, _ := h.group.Estate.Lookup(uri); dirty != 0 || known.System.OSName != "SY1" || known.Judged != estate.Acceptable || h.group.Estate.Len() != 1 {
		t.Errorf("%d are to be stored again, %+v", dirty, known)
	}
	info.IPLToken = "2"
	inform("LP01")
	info = hmc.Info{ObjectURI: uri} // it was deactivated
	inform()
	if known, _ := h.group.Estate.Lookup(uri); known.System.Sysplex != "P" || known.System.IPLToken != "2" || known.Acceptable == nil {
		t.Errorf("what it was is forgotten: %+v", known)
	}
	info = hmc.Info{ObjectURI: uri, OSName: "SY1", IPLToken: "2"} // it has left the sysplex
	inform()
	if known, _ := h.group.Estate.Lookup(uri); known.System.Sysplex != "" {
		t.Errorf("%+v", known)
	}
}

// A list says nothing of what has come since it was asked for, and messages are told from each other by text and time, since another
// HMC numbers them otherwise; what nobody can be asked about ends by itself.
func TestStillHeld(t *testing.T) {
	h := newHouse(t, 1)
	r, _ := h.open("a")
	connect(r)
	h.stored()
	const uri = "/api/logical-partitions/l"
	before := time.Now()
	for i, text := range []string{"*01 A", "*02 B", "*02 B"} {
		received(t, r, "u.osm", receiver.Headers{
			{Name: "notification-type", Value: event.TypeOSMessage},
			{Name: "message-id", Value: text + strings.Repeat("x", i)},
			{Name: "class", Value: "logical-partition"},
			{Name: "name", Value: "LP01"},
			{Name: "object-uri", Value: uri},
		}, fmt.Sprintf(`{"os-messages":[{"sequence-number":%d,"message-text":"%s \n","timestamp":%d,"is-held":true,"prompt-text":"R"}]}`, i, text, 1000+i))
	}
	r.Flush(t.Context())
	h.stored()
	waiting := func() (texts []string) {
		known, _ := h.group.Estate.Lookup(uri)
		for _, m := range known.Waiting {
			texts = append(texts, m.Text)
		}
		return texts
	}
	expect := func(answered int, want ...string) {
		t.Helper()
		if marks, _ := h.stored(); len(marks) != answered || !slices.Equal(waiting(), want) {
			t.Errorf("%d were told of, %q wait", len(marks), waiting())
		}
	}
	if got := r.Holding(10); !slices.Equal(got, []string{uri}) {
		t.Errorf("to be asked about: %q", got)
	}
	r.StillHeld(t.Context(), uri, nil, before)
	expect(0, "*01 A", "*02 B", "*02 B")
	now := time.Now().Add(time.Second)
	r.StillHeld(t.Context(), uri, [][]byte{
		[]byte(`{"sequence-number":99,"message-text":"*01 A","timestamp":1000,"is-held":true}`),
		[]byte(`{"sequence-number":2,"message-text":"*02 B","timestamp":1001,"is-held":false}`),
		[]byte(`{"sequence-number":3,"message-text":"*02 B\n","timestamp":1002,"is-held":true}`),
	}, now)
	expect(1, "*01 A", "*02 B")
	at := r.now
	r.now = func() time.Time { return at().Add(waitingFor + time.Minute) }
	r.tick(t.Context(), false)
	expect(2)
	if got := r.Holding(10); len(got) > 0 {
		t.Errorf("to be asked about: %q", got)
	}
}
