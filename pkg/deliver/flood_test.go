package deliver

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/sinks"
	"github.com/hmcnotifyd/hmcnotifyd/tests/scratch"
	"github.com/hmcnotifyd/hmcnotifyd/tests/soak"
)

const (
	floodDown   = "communications-not-active"
	floodWindow = 5 * time.Second
)

// aChange is a status change of a partition P<n> of CPC M90 at hmc "a".
func aChange(n int, from, to string) *event.Event {
	uri := "/api/partitions/" + strconv.Itoa(n)
	severity := event.SeverityWarning
	if to == floodDown {
		severity = event.SeverityCritical
	}
	return &event.Event{
		HMC: "a", Type: event.TypeStatusChange, Origin: event.OriginLive, Severity: severity,
		Resource: &event.Resource{Class: "partition", Name: "P" + strconv.Itoa(n), ObjectURI: uri, CPC: "M90"},
		Body:     fmt.Appendf(nil, `{"change-reports":[{"old-status":%q,"old-additional-status":null,"new-status":%q,"new-additional-status":null}]}`, from, to),
		Summary:  fmt.Sprintf("P%d %s -> %s", n, from, to),
	}
}

// another is another event of the partition.
func another(typ string, n int) *event.Event {
	e := aChange(n, "", "")
	e.Type, e.Body, e.Summary = typ, nil, fmt.Sprintf("P%d %s", n, typ)
	return e
}

// stream feeds a gatherer as a delivery does, with a clock of its own.
type stream struct {
	t       *testing.T
	g       *gatherer
	acked   uint64
	at      time.Time // events are received and read now
	number  uint64
	out     []item
	repeats int
	said    int
	stored  map[uint64]event.Record
}

func newStream(t *testing.T, minimum int) *stream {
	s := &stream{t: t, at: time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC), stored: make(map[uint64]event.Record)}
	s.g = newGatherer(floodRules{Flood: config.Flood{Window: floodWindow, Min: minimum}}, func() uint64 { return s.acked }, nil)
	return s
}

// add is one read with these events.
func (s *stream) add(events ...*event.Event) {
	s.t.Helper()
	for _, e := range events {
		if e.Received.IsZero() {
			e.Received = s.at
		}
		e.Time = e.Received
		if e.ID == "" {
			e.ID = strconv.FormatUint(s.number, 10)
		}
		var repeat bool
		s.out, repeat = s.g.add(s.item(e), s.at, s.out)
		s.number++
		if repeat {
			s.repeats++
		}
	}
	s.release(wait{})
}

// item is the event as it is read next.
func (s *stream) item(e *event.Event) item {
	r := event.NewRecord(e)
	r.Stored = e.Received
	s.stored[s.number+1] = r
	return item{seq: s.number + 1, key: r.Key, record: r}
}

// release is followed by reading what the gatherer has left in the queue.
func (s *stream) release(w wait) {
	s.out = s.g.release(s.at, w, s.out)
	for i := range s.out {
		if it := &s.out[i]; it.stored > 0 {
			it.record, it.stored = s.stored[it.seq], 0
		}
	}
}

// until is when the gatherer has something to do if nothing comes.
func (s *stream) until(w wait) time.Time {
	at, ok := s.g.due(w)
	if !ok {
		s.t.Error("nothing waits")
	}
	return at
}

// flood is one read with the same change of several partitions.
func (s *stream) flood(from, to int, old, status string) {
	s.t.Helper()
	var events []*event.Event
	for n := from; n < to; n++ {
		events = append(events, aChange(n, old, status))
	}
	s.add(events...)
}

// idle says that there is nothing to be read.
func (s *stream) idle() { s.release(wait{reason: forEvents}) }

func (s *stream) pass(d time.Duration) { s.at = s.at.Add(d) }

// says checks the summaries of what came out since the last time.
func (s *stream) says(want ...string) {
	s.t.Helper()
	var got []string
	for _, it := range s.out[s.said:] {
		got = append(got, eventOf(s.t, it.record).Summary)
	}
	s.said = len(s.out)
	if !slices.Equal(got, want) {
		s.t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

// ended checks that nothing waits any more, not even in what the gatherer keeps in mind.
func (s *stream) ended() {
	s.t.Helper()
	if len(s.g.groups) != 0 || s.g.size != 0 || len(s.g.waiting) != 0 || len(s.g.loose) != 0 {
		s.t.Errorf("%d groups with %d events, %d resources, %d keys are left", len(s.g.groups), s.g.size, len(s.g.waiting), len(s.g.loose))
	}
}

func eventOf(t *testing.T, r event.Record) *event.Event {
	t.Helper()
	e, err := r.Event()
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func floodBody(t *testing.T, e *event.Event) FloodSummary {
	t.Helper()
	var s FloodSummary
	if err := json.Unmarshal(e.Body, &s); err != nil {
		t.Fatalf("%v: %s", err, e.Body)
	}
	return s
}

// A flood becomes one event when nothing more of it came for a window, with all that its events
// said.
func TestFloodSummary(t *testing.T) {
	t.Parallel()
	s := newStream(t, 10)
	cpc := aChange(0, "active", "not-communicating")
	cpc.Resource = &event.Resource{Class: "cpc", Name: "M90", ObjectURI: "/api/cpcs/1", CPC: "M90"}
	cpc.Summary = "the CPC"
	s.add(cpc)
	s.says("the CPC")
	start := s.at
	for n := range 12 {
		s.add(aChange(n, "active", floodDown))
		s.pass(100 * time.Millisecond)
	}
	last := s.at.Add(-100 * time.Millisecond)
	s.idle()
	s.says()
	if got := s.until(wait{reason: forEvents}); !got.Equal(last.Add(floodWindow)) {
		t.Errorf("until %s", got)
	}
	s.at = last.Add(floodWindow - time.Millisecond)
	s.idle()
	s.says()
	s.pass(time.Millisecond)
	s.idle()
	s.says("CPC M90: 12 partitions active -> communications-not-active")
	s.ended()

	it := s.out[len(s.out)-1]
	e := eventOf(t, it.record)
	ids := []string{event.TypeStatusChangeSummary}
	for i := range 12 {
		ids = append(ids, strconv.Itoa(i+1))
	}
	if e.ID != event.NewID(ids...) || e.HMC != "a" || e.Type != "status-change-summary" || !e.Time.Equal(last) || !e.Received.Equal(start) ||
		e.Origin != event.OriginLive || e.Severity != event.SeverityCritical || *e.Resource != (event.Resource{Class: "cpc", Name: "M90", ObjectURI: "/api/cpcs/1", CPC: "M90"}) {
		t.Errorf("%+v %+v", e, e.Resource)
	}
	if err := e.Validate(); err != nil || it.record.ID != e.ID || it.record.Type != e.Type || !it.record.Received.Equal(start) {
		t.Errorf("%v, record %+v", err, it.record)
	}
	b := floodBody(t, e)
	if b.CPC != "M90" || b.NewStatus != floodDown || b.Count != 12 || len(b.Resources) != 12 || b.FirstTime != "2026-11-20T10:00:00.000Z" || b.LastTime != "2026-11-20T10:00:01.100Z" {
		t.Errorf("%+v", b)
	}
	if want := (floodResource{
		Class: "partition", Name: "P11", ObjectURI: "/api/partitions/11", OldStatus: "active", NewStatus: floodDown, Time: "2026-11-20T10:00:01.100Z", ID: "12",
	}); b.Resources[11] != want {
		t.Errorf("%+v", b.Resources[11])
	}
	if !strings.Contains(string(it.record.JSON), `"new-status":"communications-not-active","count":12,"first-time":`) || strings.Contains(string(it.record.JSON), "\n") {
		t.Errorf("%s", it.record.JSON)
	}
	for i, m := range it.members {
		if m != uint64(i+2) {
			t.Errorf("member %d is %d", i, m)
		}
	}
	if len(it.members) != 12 || it.key != s.out[0].key || it.seq != 13 {
		t.Errorf("%d members, key %q and %q", len(it.members), it.key, s.out[0].key)
	}
}

// What is no flood arrives one by one and unchanged.
func TestNoFlood(t *testing.T) {
	t.Parallel()
	s := newStream(t, 10)
	s.flood(0, 9, "active", "stopped")
	s.says()
	s.pass(floodWindow)
	s.idle()
	var want []string
	for n := range 9 {
		want = append(want, fmt.Sprintf("P%d active -> stopped", n))
	}
	s.says(want...)
	s.ended()
	for i, it := range s.out {
		if it.seq != uint64(i+1) || it.members != nil {
			t.Errorf("item %d: %+v", i, it)
		}
	}
}

func TestFloodText(t *testing.T) {
	t.Parallel()
	changes := func(counts ...any) (out []floodResource) {
		for i := 0; i < len(counts); i += 3 {
			n, ok := counts[i].(int)
			if !ok {
				t.Fatal("a number is missing")
			}
			for range n {
				out = append(out, floodResource{Class: fmt.Sprint(counts[i+1]), OldStatus: fmt.Sprint(counts[i+2])})
			}
		}
		return out
	}
	for _, test := range []struct {
		resources []floodResource
		want      string
	}{
		{changes(143, "partition", "active"), "CPC M90: 143 partitions active -> x"},
		{changes(23, "partition", "stopped", 120, "partition", "active"), "CPC M90: 143 partitions -> x (120 were active, 23 stopped)"},
		{changes(10, "logical-partition", ""), "CPC M90: 10 partitions -> x"}, // what they were was not told
		{changes(10, "logical-partition", "", 3, "partition", "a"), "CPC M90: 13 partitions -> x (3 were a, 10 others)"},
		{changes(5, "logical-partition", "a", 5, "partition", "a"), "CPC M90: 10 partitions a -> x"},
		{changes(5, "adapter", "a", 5, "partition", "a", 1, "adapter", "a"), "CPC M90: 11 resources a -> x"},
		{changes(12, "adapter", "a"), "CPC M90: 12 adapters a -> x"},
		{changes(12, "class-of-tomorrow", "a"), "CPC M90: 12 resources a -> x"},
		{
			changes(2, "partition", "b", 2, "partition", "a", 9, "partition", "e", 1, "partition", "d", 1, "partition", "c", 1, "partition", "f"),
			"CPC M90: 16 partitions -> x (9 were e, 2 a, 2 b, 1 c, 2 others)",
		},
	} {
		if got := (&FloodSummary{CPC: "M90", NewStatus: "x", Count: len(test.resources), Resources: test.resources}).text(); got != test.want {
			t.Errorf("got %q, want %q", got, test.want)
		}
	}
}

// What a flood is: of one HMC, one CPC, one status, and close together in time.
func TestFloodGroups(t *testing.T) {
	t.Parallel()
	const down4 = "CPC M90: 4 partitions active -> " + floodDown
	t.Run("apart by HMC, CPC and status", func(t *testing.T) {
		s := newStream(t, 4)
		var events []*event.Event
		for n := range 4 {
			other, elsewhere := aChange(n, "active", floodDown), aChange(n+10, "active", floodDown)
			other.HMC, elsewhere.Resource.CPC = "b", "M91"
			other.Origin, other.Severity = event.OriginReconcile, event.SeverityWarning
			events = append(events, aChange(n, "active", floodDown), other, elsewhere, aChange(n+20, "active", "stopped"))
		}
		events[3].Origin = event.OriginReconcile
		s.add(events...)
		s.pass(floodWindow)
		s.idle()
		s.says(down4, down4, "CPC M91: 4 partitions active -> "+floodDown, "CPC M90: 4 partitions active -> stopped")
		s.ended()
		for i, want := range []struct{ hmc, origin, severity string }{
			{"a", "live", "critical"}, {"b", "reconcile", "warning"}, {"a", "live", "critical"}, {"a", "live", "warning"},
		} {
			if e := eventOf(t, s.out[i].record); e.HMC != want.hmc || e.Origin != want.origin || e.Severity != want.severity || e.Resource.ObjectURI != "" {
				t.Errorf("%d: %+v", i, e)
			}
		}
	})
	t.Run("labels that all of them have", func(t *testing.T) {
		s := newStream(t, 3)
		var events []*event.Event
		for n := range 3 {
			e := aChange(n, "active", floodDown)
			e.Labels = event.Headers{{Name: "odd", Value: strconv.Itoa(n % 2)}, {Name: "site", Value: "DC1"}}
			events = append(events, e)
		}
		s.add(append(events, aChange(0, floodDown, "active"))...)
		if e := eventOf(t, s.out[0].record); e.Type != event.TypeStatusChangeSummary || !slices.Equal(e.Labels, event.Headers{{Name: "site", Value: "DC1"}}) {
			t.Errorf("%+v", e)
		}
		if got := events[0].Labels; len(got) != 2 {
			t.Errorf("the event has %v now", got)
		}
	})
	t.Run("HMCs that see the same machine", func(t *testing.T) {
		s := newStream(t, 4)
		s.g.rules.groups = map[string]string{"a": "g", "b": "g"}
		var events []*event.Event
		for n := range 4 {
			e := aChange(n, "active", floodDown)
			e.HMC = []string{"b", "b", "a", "b"}[n]
			e.SeenBy = []string{e.HMC}
			events = append(events, e)
		}
		up := aChange(0, floodDown, "active")
		s.add(append(events, up)...)
		s.says(down4)
		if e := eventOf(t, s.out[0].record); e.HMC != "b" || !slices.Equal(e.SeenBy, []string{"b", "a"}) {
			t.Errorf("%+v", e)
		}
		s.pass(floodWindow)
		s.idle()
		s.says("P0 " + floodDown + " -> active")
		if s.out[0].key != s.out[1].key {
			t.Errorf("keys %q and %q", s.out[0].key, s.out[1].key)
		}
	})
	t.Run("one that does not end", func(t *testing.T) {
		s := newStream(t, 4)
		n := 0
		for ; s.at.Sub(time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC)) < floodWindows*floodWindow; n++ {
			s.says()
			s.add(aChange(n, "active", floodDown))
			s.pass(floodWindow / 2)
			s.idle()
		}
		s.says("CPC M90: 12 partitions active -> " + floodDown)
		s.ended()
	})
	t.Run("stored long ago", func(t *testing.T) {
		s := newStream(t, 4)
		var events []*event.Event
		for hour := range 3 {
			for n := range 4 {
				e := aChange(4*hour+n, "active", floodDown)
				e.Received = s.at.Add(time.Duration(hour-10)*time.Hour + time.Duration(n)*time.Second)
				events = append(events, e)
			}
		}
		s.add(events...)
		s.says(down4, down4)
		if wait := s.until(wait{reason: forEvents}).Sub(s.at); wait > 0 {
			t.Errorf("waits for %s", wait)
		}
		s.idle()
		s.says(down4)
		s.ended()
	})
	t.Run("one that lasted long, stored long ago", func(t *testing.T) {
		s := newStream(t, 4)
		var events []*event.Event
		for n := range 12 + 4 {
			e := aChange(n, "active", floodDown)
			e.Received = s.at.Add(time.Duration(n)*floodWindow/2 - time.Hour)
			events = append(events, e)
		}
		s.add(events...)
		s.says("CPC M90: 12 partitions active -> " + floodDown)
		s.idle()
		s.says(down4)
	})
	t.Run("ended by what was received later", func(t *testing.T) {
		s := newStream(t, 4)
		s.flood(0, 4, "active", floodDown)
		later := another(event.TypeOSMessage, 100)
		later.Received = s.at.Add(floodWindow - time.Millisecond)
		s.add(later)
		s.says("P100 os-message")
		later = another(event.TypeOSMessage, 100)
		later.HMC = "b"
		later.Received = s.at.Add(time.Hour)
		s.add(later)
		s.says("P100 os-message") // another HMC's
		later = another(event.TypeOSMessage, 100)
		later.Received = s.at.Add(floodWindow)
		s.add(later)
		s.says("P100 os-message", down4)
		s.ended()
	})
	t.Run("clock set back", func(t *testing.T) {
		s := newStream(t, 4)
		s.flood(0, 2, "active", floodDown)
		e1, e2 := aChange(2, "active", floodDown), aChange(3, "active", floodDown)
		e1.Received, e2.Received = s.at.Add(-time.Hour), s.at.Add(-time.Hour)
		s.add(e1, e2)
		s.says()
		s.idle()
		s.says(down4)
		s.flood(0, 1, "a", "b")
		s.says()
		s.pass(floodWindow)
		s.add() // whatever is read meanwhile
		s.says("P0 a -> b")
	})
}

// What tells nothing new is left out.
func TestFloodRepeats(t *testing.T) {
	t.Parallel()
	s := newStream(t, 3)
	marked := aChange(1, "active", "stopped")
	marked.Repeat = true
	same := aChange(1, "stopped", "stopped")
	acceptable := aChange(1, "stopped", "stopped")
	acceptable.Body = []byte(`{"change-reports":[{"old-status":"stopped","old-additional-status":"a","new-status":"stopped","new-additional-status":"b"}]}`)
	none := aChange(1, "", "")
	none.Body = []byte(`{"change-reports":[]}`)
	unknown := aChange(1, "", "")
	s.add(marked, same, aChange(9, "x", "y"), acceptable, none, unknown)
	if s.repeats != 2 {
		t.Errorf("%d left out, want 2", s.repeats)
	}
	// the first had to wait until the second came
	s.says("P1 stopped -> stopped", "P1  -> ", "P1  -> ")
	s.pass(floodWindow)
	s.idle()
	s.says("P9 x -> y")

	// When a support element is back each change may come twice (public issues of users tell
	// so).
	s.repeats = 0
	for n := range 4 {
		s.add(aChange(n, floodDown, "active"), aChange(n, floodDown, "active"))
	}
	if s.repeats != 4 {
		t.Errorf("%d left out, want 4", s.repeats)
	}
	s.says()
	s.add(aChange(0, "starting", "active")) // not the same
	s.says("CPC M90: 4 partitions " + floodDown + " -> active")
	if s.repeats != 4 {
		t.Error("another change was left out")
	}
}

// The order per resource stays: what comes of a partition whose status change waits ends the wait,
// or waits as well.
func TestFloodOrder(t *testing.T) {
	t.Parallel()
	const down = "CPC M90: 3 partitions active -> " + floodDown
	s := newStream(t, 3)
	s.flood(0, 3, "active", floodDown)
	s.add(another(event.TypeOSMessage, 7))
	s.says("P7 os-message")
	s.add(aChange(1, floodDown, "active"))
	s.says(down)
	s.add(another(event.TypeOSMessage, 1))
	s.says("P1 "+floodDown+" -> active", "P1 os-message")
	s.ended()

	// A small one.
	s.flood(0, 2, "active", "stopped")
	s.add(another(event.TypeLogEntry, 1))
	s.says("P0 active -> stopped", "P1 active -> stopped", "P1 log-entry")

	// One property change per status change ends no flood.
	for n := range 3 {
		s.add(aChange(n, "active", floodDown), another(event.TypePropertyChange, n))
	}
	s.says()
	s.add(another(event.TypePropertyChange, 8))
	s.says("P8 property-change")
	s.pass(floodWindow)
	s.idle()
	s.says(down, "P0 property-change", "P1 property-change", "P2 property-change")
	s.add(aChange(0, "active", "stopped"), another(event.TypePropertyChange, 0), aChange(1, "active", "stopped"), another(event.TypeInventoryChange, 0))
	s.says("P0 active -> stopped", "P0 property-change", "P1 active -> stopped", "P0 inventory-change")
	s.ended()

	// Of an element, or without a CPC: not gathered, but in order.
	element := aChange(0, "active", floodDown)
	element.Resource.ElementURI = element.Resource.ObjectURI + "/nics/1"
	element.Summary = "element"
	alone := aChange(1, floodDown, "stopped")
	alone.Resource.CPC = ""
	s.flood(0, 2, "active", floodDown)
	s.add(element, aChange(1, "active", floodDown), alone)
	s.says("P0 active -> "+floodDown, "P1 active -> "+floodDown, "element", "P1 active -> "+floodDown, "P1 "+floodDown+" -> stopped")
	if a, b := s.out[len(s.out)-1].key, s.out[len(s.out)-2].key; a != b {
		t.Errorf("the keys of one partition are %q and %q", b, a)
	}
	s.pass(floodWindow)
	s.idle()
	s.ended()
}

// What came before the CPC of a partition was known is not overtaken.
func TestFloodOrderWithoutCPC(t *testing.T) {
	t.Parallel()
	s := newStream(t, 2)
	busy := map[string]bool{}
	s.g.busy = func(key string) bool { return busy[key] }
	unknown := aChange(1, "active", floodDown)
	unknown.Resource.CPC = ""
	uri := unknown.Resource.ObjectURI
	var repeat bool
	add := func(e *event.Event) {
		e.Received, e.ID = s.at, "x"
		s.out, repeat = s.g.add(s.item(e), s.at, s.out)
	}
	add(unknown)
	add(aChange(1, floodDown, "active"))
	if len(s.out) != 2 || s.out[0].key != uri || s.out[1].key != uri || repeat {
		t.Errorf("%+v", s.out)
	}
	s.release(wait{})
	busy[uri] = true
	add(aChange(1, "active", "stopped"))
	if len(s.out) != 3 || s.out[2].key != uri {
		t.Errorf("%+v", s.out)
	}
	busy[uri] = false
	s.release(wait{})
	add(aChange(1, "stopped", "active"))
	if len(s.out) != 3 || len(s.g.groups) == 0 {
		t.Errorf("%+v", s.out)
	}
}

// What the limits of the queue take away while it waits is in no summary.
func TestFloodTrimmed(t *testing.T) {
	t.Parallel()
	s := newStream(t, 3)
	s.flood(0, 5, "active", floodDown)
	s.acked = 2
	s.pass(floodWindow)
	s.idle()
	s.says("CPC M90: 3 partitions active -> " + floodDown)
	s.flood(0, 5, "active", floodDown)
	s.acked = 5 + 3
	s.pass(floodWindow)
	s.idle()
	s.says("P3 active -> "+floodDown, "P4 active -> "+floodDown)
	s.flood(0, 5, "active", floodDown)
	s.acked = 15
	s.pass(floodWindow)
	s.idle()
	s.says()
	s.ended()
}

// However much comes at once, what waits is bounded, and what nothing more can be read for does not
// wait.
func TestFloodBounded(t *testing.T) {
	t.Parallel()
	s := newStream(t, 2)
	s.flood(0, 5, "active", "stopped")
	for n := 5; n < maxGathered; n += 1000 {
		s.flood(n, min(n+1000, maxGathered), "active", floodDown)
	}
	s.says()
	s.add(another(event.TypePropertyChange, 7))
	s.says("CPC M90: 5 partitions active -> stopped")
	s.flood(maxGathered, maxGathered+10, "active", floodDown)
	if s.g.size > maxGathered {
		t.Errorf("%d wait", s.g.size)
	}
	s.release(wait{reason: forEver})
	s.ended()
	s.said = len(s.out)

	s.flood(0, 2, "active", "stopped")
	first := s.number
	s.flood(2, 4, "active", floodDown)
	s.release(wait{forRoom, first - 2})
	s.says()
	s.release(wait{forRoom, first - 1})
	s.says("CPC M90: 2 partitions active -> stopped")
	if got := s.until(wait{forRoom, first - 1}); !got.Equal(s.at.Add(floodWindows * floodWindow)) {
		t.Errorf("until %s", got)
	}
	s.at = s.until(wait{forRoom, first - 1})
	s.release(wait{forRoom, first - 1})
	s.says("CPC M90: 2 partitions active -> " + floodDown)
	s.ended()
}

// Whatever comes, and whenever groups end: each event comes out once, alone or in a summary, the
// order of each partition stays, and what is read again makes the same events.
func TestFloodWhateverComes(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Log("seed", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	statuses := []string{"active", "stopped", floodDown}
	for range soak.Count(t, "FLOODS", 50, 1000) {
		s := newStream(t, 2+random.IntN(3))
		now := make(map[int]string)
		repeated := make(map[uint64]bool)
		partitions := 1 + random.IntN(20)
		trim := random.IntN(4) == 0
		for range 300 {
			n := random.IntN(partitions)
			var e *event.Event
			switch random.IntN(10) {
			case 0:
				e = another(event.TypeOSMessage, n)
			case 1:
				e = another(event.TypePropertyChange, n)
			default:
				to := statuses[random.IntN(3)]
				e = aChange(n, now[n], to)
				now[n] = to
			}
			before := s.repeats
			s.add(e)
			if s.repeats > before {
				repeated[s.number-1] = true
			}
			s.pass(time.Duration(random.IntN(3000)) * time.Millisecond)
			switch random.IntN(10) {
			case 0:
				s.idle()
			case 1:
				s.release(wait{forRoom, s.number + 1 - uint64(random.IntN(int(min(s.number, 20))))})
			case 2:
				if trim {
					s.acked = s.number - uint64(random.IntN(int(s.number)))
				}
			}
		}
		s.release(wait{reason: forEver})
		s.ended()
		seen := make(map[uint64]bool)
		last := make(map[string]uint64)
		see := func(number uint64, uri string) {
			if seen[number] || repeated[number] {
				t.Fatalf("event %d comes twice", number)
			}
			seen[number] = true
			if before, ok := last[uri]; ok && before > number {
				t.Fatalf("%s: %d after %d", uri, number, before)
			}
			last[uri] = number
		}
		for _, it := range s.out {
			e := eventOf(t, it.record)
			if e.Type != event.TypeStatusChangeSummary {
				see(it.seq-1, e.Resource.ObjectURI)
				continue
			}
			b := floodBody(t, e)
			if len(it.members) != b.Count || b.Count < s.g.rules.Min {
				t.Fatalf("%d members: %+v", len(it.members), b)
			}
			for i, m := range it.members {
				see(m-1, b.Resources[i].ObjectURI)
			}
		}
		for n := range s.number {
			if !seen[n] && !repeated[n] && !trim {
				t.Fatalf("event %d is missing", n)
			}
		}
	}
}

// collected is a sink that keeps what it got, in the order of its arrival.
type collected struct {
	atOnce int // events it takes at most; 0: 100

	mu     sync.Mutex
	events []*event.Event
	answer func(events []*event.Event) error
	// refusal is the answer to whatever comes, which is not even read
	refusal error
	// each judges the events one by one; nil: answer does
	each func(events []*event.Event) []error
}

func (c *collected) Send(_ context.Context, records []event.Record) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refusal != nil {
		return c.refusal
	}
	var events []*event.Event
	for _, r := range records {
		e, err := r.Event()
		if err != nil {
			return err
		}
		events = append(events, e)
	}
	if c.answer != nil {
		if err := c.answer(events); err != nil {
			return err
		}
	}
	if c.each != nil {
		errs := c.each(events)
		failed := false
		for i, err := range errs {
			if err == nil {
				c.events = append(c.events, events[i])
			}
			failed = failed || err != nil
		}
		if !failed {
			return nil
		}
		return &sinks.EventsError{Events: errs}
	}
	c.events = append(c.events, events...)
	return nil
}

func (c *collected) MaxBatch() (records, bytes int) { return cmp.Or(c.atOnce, 100), 1 << 20 }

func (c *collected) Probe(context.Context) error { return nil }

func (c *collected) Close() error { return nil }

func (c *collected) got() []*event.Event {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.events)
}

func (c *collected) answers(answer func(events []*event.Event) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answer, c.refusal = answer, nil
}

func (c *collected) refuses(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refusal = err
}

// unavailable is the answer of a consumer in trouble.
var unavailable = &sinks.RetryAfterError{Status: http.StatusServiceUnavailable, Err: errors.New("status 503")}

// fixture is a delivery with collapse, and the queue it reads from. It lives in a bubble of
// synctest.
type fixture struct {
	t        *testing.T
	queue    *queue.Queue
	dead     *queue.DeadLetters
	consumer *collected
	to       sinks.Sink // nil: consumer
	delivery *Delivery
	metrics  *Metrics // nil: each run has its own
	end      func()   // at once, as a crash would
	finish   func()   // as at the end of the daemon
	ended    func()   // waits until it has ended by itself
	resume   *Done    // of whoever has delivered before
	stored   int
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	s := &fixture{t: t, queue: openQueue(t), consumer: new(collected)}
	var err error
	if s.dead, err = queue.OpenDeadLetters(queue.DeadLetterOptions{Dir: scratch.Memory(t)}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.dead.Close(); err != nil {
			t.Error(err)
		}
	})
	if _, err := s.queue.Cursor("hook"); err != nil {
		t.Fatal(err)
	}
	return s
}

// run begins to deliver from the first event that is not acknowledged, with metrics of its own.
func (s *fixture) run(flood config.Flood, concurrency int) {
	s.t.Helper()
	s.runWith(flood, fmt.Sprintf("collapse: true, concurrency: %d, batch: {max_events: 100}, retry: {initial: 1ms, max: 2ms}", concurrency))
}

// runWith is run with settings of the sink.
func (s *fixture) runWith(flood config.Flood, settings string) {
	s.t.Helper()
	cfg := load(s.t, s.t.TempDir(), fmt.Sprintf(`
hmcs: [{name: a, hosts: [h], userid: u, password: p, tls: {insecure_skip_verify: true}}]
sinks: [{name: hook, webhook: {url: "http://h"}, %s}]
`, settings))
	cfg.Flood = flood
	cursor, err := s.queue.Cursor("hook")
	if err != nil {
		s.t.Fatal(err)
	}
	cursor.Rewind()
	d := New(Options{
		Config: cfg, Sink: cfg.Sinks[0], To: cmp.Or[sinks.Sink](s.to, s.consumer), Cursor: cursor, Dead: s.dead, Metrics: cmp.Or(s.metrics, NewMetrics(nil)), Logger: zap.NewNop(),
		May:    func() bool { return true },
		Resume: func(context.Context) Done { return *cmp.Or(s.resume, new(Done)) },
	})
	s.delivery = d
	ctx, cancel := context.WithCancel(context.WithoutCancel(s.t.Context()))
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.Run(ctx)
	}()
	ended := sync.OnceFunc(func() {
		select {
		case <-done:
		case <-time.After(within):
			s.t.Fatal("the delivery does not end")
		}
		cancel()
	})
	s.ended = ended
	s.end = func() { cancel(); ended() }
	s.finish = func() { d.Drain(); ended() }
	s.t.Cleanup(s.end)
}

// store appends events that are received now.
func (s *fixture) store(events ...*event.Event) {
	s.t.Helper()
	var records [][]byte
	for _, e := range events {
		e.ID, e.Received = strconv.Itoa(s.stored), time.Now()
		s.stored++
		records = append(records, event.AppendRecord(nil, e))
	}
	if err := s.queue.Append(s.t.Context(), queue.Batch{Records: records}); err != nil {
		s.t.Fatal(err)
	}
	if err := s.queue.Flush(); err != nil {
		s.t.Fatal(err)
	}
}

func (s *fixture) eventually(what string, ok func() bool) {
	s.t.Helper()
	for end := time.Now().Add(within); ; time.Sleep(time.Millisecond) {
		synctest.Wait()
		if ok() {
			return
		}
		if time.Now().After(end) {
			s.t.Fatalf("%s: not within %s: %d arrived, %d acknowledged", what, within, len(s.consumer.got()), s.delivery.Cursor.Acked())
		}
	}
}

func (s *fixture) settled() bool {
	waiting, _, _ := s.delivery.Cursor.Pending()
	return waiting == 0
}

func (s *fixture) hasRoom() bool {
	ok, _ := s.delivery.progress.hasRoom()
	return ok
}

// left is how many events no lane has taken.
func (s *fixture) left() int {
	s.delivery.work.mu.Lock()
	defer s.delivery.work.mu.Unlock()
	return s.delivery.work.left
}

func (s *fixture) failing() bool { return s.delivery.Snapshot().FailedAttempts > 0 }

// sums checks that each stored event has become of something.
func (s *fixture) sums(delivered, filtered, deadLetters, dropped int64) {
	s.t.Helper()
	m := s.delivery.metrics
	got := [4]int64{m.delivered.N.Load(), m.filtered.N.Load(), m.deadLetter.N.Load(), m.dropped.N.Load()}
	if want := [4]int64{delivered, filtered, deadLetters, dropped}; got != want {
		s.t.Errorf("delivered, filtered, dead letters, dropped: %v, want %v", got, want)
	}
	if sum := got[0] + got[1] + got[2] + got[3]; sum != int64(s.stored) {
		s.t.Errorf("%d events were stored, something became of %d", s.stored, sum)
	}
}

func inBubble(f func(t *testing.T)) func(t *testing.T) {
	return func(t *testing.T) { synctest.Test(t, f) }
}

func downs(from, to int) (events []*event.Event) {
	for n := from; n < to; n++ {
		events = append(events, aChange(n, "active", floodDown))
	}
	return events
}

// neverEnds is a window that no test sits out.
const neverEnds = time.Hour

// A group that waits holds up nothing but itself: not the events of others, and not the reading of
// more than may be read beyond it.
func TestFloodHoldsUpNothing(t *testing.T) {
	t.Parallel()
	for _, concurrency := range []int{1, 4} {
		t.Run(fmt.Sprint("concurrency ", concurrency), inBubble(func(t *testing.T) {
			s := newFixture(t)
			s.run(config.Flood{Window: neverEnds, Min: 3}, concurrency)
			s.store(downs(0, 3)...)
			const others = 2000
			publishOthers := func() {
				var events []*event.Event
				for n := range others {
					events = append(events, another(event.TypeOSMessage, 10+n))
				}
				s.store(events...)
			}
			publishOthers()
			s.eventually("the others", func() bool { return len(s.consumer.got()) == others })
			if s.delivery.Cursor.Acked() != 0 {
				t.Error("what waits is acknowledged")
			}
			const rounds = 10 // as many as may be read beyond the first, and more
			for range rounds - 1 {
				publishOthers()
			}
			s.eventually("all", func() bool { return len(s.consumer.got()) == rounds*others+1 && s.settled() })
			s.sums(rounds*others+3, 0, 0, 0)
		}))
	}
}

// Where nothing more may be read because of an event that fails, and then because of a group that
// is behind that one, the group ends.
func TestFloodBehindAFailure(t *testing.T) {
	t.Parallel()
	for _, concurrency := range []int{1, 4} {
		t.Run(fmt.Sprint("concurrency ", concurrency), inBubble(func(t *testing.T) {
			s := newFixture(t)
			s.consumer.answers(func(events []*event.Event) error {
				if events[0].Type == event.TypeJobCompletion {
					return unavailable
				}
				return nil
			})
			s.run(config.Flood{Window: neverEnds, Min: 3}, concurrency)
			bad := another(event.TypeJobCompletion, 1)
			bad.Resource.CPC = ""
			s.store(bad)
			s.eventually("it fails", s.failing)
			s.store(downs(2, 5)...)
			const others = 20_000
			var events []*event.Event
			for n := range others {
				events = append(events, another(event.TypeOSMessage, 10+n))
			}
			s.store(events...)
			s.eventually("nothing more may be read", func() bool { return !s.hasRoom() })
			s.consumer.answers(nil)
			s.eventually("all", func() bool { return len(s.consumer.got()) == others+2 && s.settled() })
			s.sums(others+4, 0, 0, 0)
		}))
	}
}

// What a crash takes while a group waits is gathered again, and makes the same event; so does what
// was delivered and not acknowledged.
func TestFloodCrash(t *testing.T) {
	t.Parallel()
	synctest.Test(t, testFloodCrash)
}

func testFloodCrash(t *testing.T) {
	s := newFixture(t)
	s.run(config.Flood{Window: neverEnds, Min: 3}, 4)
	s.store(downs(0, 3)...)
	s.store(downs(1, 2)...) // a repeat
	s.store(another(event.TypeOSMessage, 9))
	s.eventually("the last", func() bool { return len(s.consumer.got()) == 1 })
	s.end()
	if got := s.delivery.Cursor.Acked(); got != 0 {
		t.Fatalf("%d acknowledged", got)
	}
	s.run(config.Flood{Window: 100 * time.Millisecond, Min: 3}, 4)
	s.eventually("all", func() bool { return len(s.consumer.got()) == 3 && s.settled() })
	s.sums(4, 1, 0, 0)
	for _, e := range s.consumer.got() {
		if e.Type == event.TypeStatusChangeSummary && (e.ID != event.NewID(e.Type, "0", "1", "2") || floodBody(t, e).Count != 3) {
			t.Errorf("%+v", e)
		}
	}
}

// At the end nothing waits for more.
func TestFloodDrain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, testFloodDrain)
}

func testFloodDrain(t *testing.T) {
	s := newFixture(t)
	s.run(config.Flood{Window: neverEnds, Min: 3}, 4)
	s.store(downs(0, 5)...)
	s.store(aChange(7, "active", "stopped"))
	s.finish()
	if got := s.consumer.got(); len(got) != 2 {
		t.Errorf("%d events", len(got))
	}
	s.sums(6, 0, 0, 0)
	if !s.settled() {
		t.Error("not all is acknowledged")
	}
}

// The limits of the queue may take what waits, in a group and in a lane. Each event counts once.
func TestFloodQueueLimits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, testFloodQueueLimits)
}

func testFloodQueueLimits(t *testing.T) {
	s := newFixture(t)
	s.run(config.Flood{Window: neverEnds, Min: 3}, 4)
	s.store(downs(0, 5)...)
	s.store(another(event.TypeOSMessage, 9))
	s.eventually("the last", func() bool { return len(s.consumer.got()) == 1 })
	_, bytes, _ := s.delivery.Cursor.Pending()
	s.delivery.Cfg.Queue = config.Queue{MaxBytes: config.Size(bytes * 4 / 6)}
	s.delivery.trim()
	if got := s.delivery.metrics.dropped.N.Load(); got != 2 {
		t.Fatalf("%d dropped", got)
	}
	s.finish()
	got := s.consumer.got()
	if len(got) != 2 || got[1].Summary != "CPC M90: 3 partitions active -> "+floodDown {
		t.Errorf("%d events, the last is %+v", len(got), got[len(got)-1])
	}
	s.sums(4, 0, 0, 2)

	// In a lane, while it is tried again: what is left of the summary counts.
	s = newFixture(t)
	s.run(config.Flood{Window: 100 * time.Millisecond, Min: 3}, 4)
	s.consumer.answers(func(events []*event.Event) error {
		if events[0].Type == event.TypeStatusChangeSummary {
			return unavailable
		}
		return nil
	})
	s.store(downs(0, 5)...)
	s.eventually("it fails", s.failing)
	_, bytes, _ = s.delivery.Cursor.Pending()
	s.delivery.Cfg.Queue = config.Queue{MaxBytes: config.Size(bytes * 3 / 5)}
	s.delivery.trim()
	s.consumer.answers(nil)
	s.eventually("all", s.settled)
	s.eventually("it is counted", func() bool { return s.delivery.metrics.delivered.N.Load() > 0 })
	s.sums(3, 0, 0, 2)

	// All of it, while something later is ahead of it.
	s = newFixture(t)
	s.consumer.answers(func(events []*event.Event) error {
		if events[0].Type == event.TypeJobCompletion {
			return unavailable
		}
		return nil
	})
	s.run(config.Flood{Window: 100 * time.Millisecond, Min: 3}, 1)
	s.store(another(event.TypeJobCompletion, 1))
	s.eventually("it fails", s.failing)
	s.store(append(downs(2, 5), another(event.TypeOSMessage, 9))...)
	s.eventually("the summary is behind it", func() bool {
		return s.left() == 2
	})
	// the OS message has less, each of the others about as much
	s.delivery.Cfg.Queue = config.Queue{MaxBytes: 500}
	s.delivery.trim()
	s.eventually("all", s.settled)
	s.finish()
	if got := s.consumer.got(); len(got) != 1 || got[0].Type != event.TypeOSMessage {
		t.Errorf("%d events, the first is %+v", len(got), got[0])
	}
	s.sums(1, 0, 0, 4)

	// All of it, in a lane.
	s = newFixture(t)
	s.consumer.refuses(unavailable)
	s.run(config.Flood{Window: 100 * time.Millisecond, Min: 3}, 4)
	s.store(downs(0, 5)...)
	s.eventually("it fails", s.failing)
	s.delivery.Cfg.Queue = config.Queue{MaxBytes: 1}
	s.delivery.trim()
	s.finish()
	s.sums(0, 0, 0, 5)
}

// Through lanes, batches and failures: everything arrives, and each partition's events in their
// order.
func TestFloodLanes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, testFloodLanes)
}

func testFloodLanes(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Log("seed", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	s := newFixture(t)
	requests := 0
	s.consumer.answers(func([]*event.Event) error {
		if requests++; requests%4 == 0 {
			return unavailable
		}
		return nil
	})
	s.run(config.Flood{Window: 100 * time.Millisecond, Min: 4}, 4)
	statuses := []string{"active", "stopped", floodDown}
	now := make(map[int]string)
	want := make(map[string][]string)
	for range 60 {
		to := statuses[random.IntN(3)]
		var events []*event.Event
		for n := range 100 {
			var e *event.Event
			switch random.IntN(20) {
			case 0:
				e = another(event.TypeOSMessage, n)
			case 1:
				e = another(event.TypePropertyChange, n)
			default:
				if now[n] == to {
					continue
				}
				e = aChange(n, now[n], to)
				now[n] = to
			}
			e.Resource.CPC = "M" + strconv.Itoa(n%5)
			e.Time = time.Now()
			want[e.Resource.ObjectURI] = append(want[e.Resource.ObjectURI], strconv.Itoa(s.stored+len(events)))
			events = append(events, e)
		}
		s.store(events...)
	}
	s.eventually("all", s.settled)
	s.finish()
	got := make(map[string][]string)
	summaries := 0
	for _, e := range s.consumer.got() {
		if e.Type != event.TypeStatusChangeSummary {
			got[e.Resource.ObjectURI] = append(got[e.Resource.ObjectURI], e.ID)
			continue
		}
		summaries++
		for _, r := range floodBody(t, e).Resources {
			got[r.ObjectURI] = append(got[r.ObjectURI], r.ID)
		}
	}
	if summaries == 0 {
		t.Error("no summary")
	}
	for uri := range want {
		if !slices.Equal(got[uri], want[uri]) {
			t.Errorf("%s:\ngot  %v\nwant %v", uri, got[uri], want[uri])
		}
	}
	if t.Failed() {
		return
	}
	s.sums(int64(s.stored), 0, 0, 0)
}
