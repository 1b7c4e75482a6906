package record

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/estate"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
)

// A system stops: its event waits for the reason, what comes of the same system waits behind it, and what is known of it is not
// stored before: a crash in between would leave a system that has stopped and nobody who tells. Others go on.
func TestAStoppedSystemWaitsForItsReason(t *testing.T) {
	h, r, w := askingHouse(t)
	const uri = "/api/logical-partitions/l"
	h.group.Estate.Place(uri, "LP01", "")
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
	r.FactsKnown(t.Context(), "/api/logical-partitions/another", nil)
	r.FactsKnown(t.Context(), uri, &hmc.Info{PSWs: []string{"0002000080000000000000000017C0A2"}})
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
	if marks, _ := h.stored(); len(marks) != 2 || !r.Awaits(uri) {
		t.Errorf("stored %q", marks)
	}
	// The answer comes late: the event is told once more, with what it says.
	r.FactsKnown(t.Context(), uri, &hmc.Info{PSWs: []string{"0002000080000000000000000017C0A2"}})
	late := h.events()
	if len(late) != 1 || !late[0].Repeat || late[0].Severity != event.SeverityCritical || late[0].Unacceptable != nil ||
		!strings.Contains(late[0].Summary, "operating -> not-operating") || !strings.Contains(late[0].Summary, "; all processors in a disabled wait: 0A2") || r.Awaits(uri) {
		t.Errorf("%+v", late)
	}
	// So late that it says nothing any more, or of a system that has gone on.
	send(event.TypeStatusChange, "8", `{"change-reports":[{"old-status":"not-operating","new-status":"operating"}]}`)
	send(event.TypeStatusChange, "9", `{"change-reports":[{"old-status":"operating","new-status":"not-operating"}]}`)
	later := r.now
	r.now = func() time.Time { return later().Add(HoldWait) }
	r.tick(t.Context(), false)
	send(event.TypeStatusChange, "10", `{"change-reports":[{"old-status":"not-operating","new-status":"operating"}]}`)
	r.Flush(t.Context())
	h.stored()
	r.FactsKnown(t.Context(), uri, &hmc.Info{PSWs: []string{"0002000080000000000000000017C0A2"}})
	if all := h.events(); len(all) != 0 || r.Awaits(uri) {
		t.Errorf("%+v", all)
	}
	w.asked = w.asked[:2]
	// Nobody can be asked, or a repetition is told: it does not wait.
	w.asks = false
	send(event.TypeStatusChange, "6", `{"change-reports":[{"old-status":"not-operating","new-status":"not-operating"}]}`)
	send(event.TypeStatusChange, "7", `{"change-reports":[{"old-status":"exceptions","new-status":"not-operating"}]}`)
	r.Flush(t.Context())
	if marks, _ := h.stored(); len(marks) != 2 || len(w.asked) != 2 {
		t.Errorf("stored %q, asked for %q", marks, w.asked)
	}
}

// That a system has stopped by itself is news also where it is known late, and somebody seemed to have wanted it: it is no repetition.
func TestLateReasonOfAPlannedStop(t *testing.T) {
	h, r, _ := askingHouse(t)
	const uri = "/api/logical-partitions/l"
	h.group.Estate.Place(uri, "LP01", "")
	received(t, r, "u.audit", receiver.Headers{{Name: "notification-type", Value: event.TypeLogEntry}, {Name: "message-id", Value: "1"}},
		`{"log-entries":[{"event-time":1,"event-id":"1","userid":"OPER1","event-message":"Load of LP01"}]}`)
	received(t, r, "u.object", stopped(uri, event.TypeStatusChange), `{"change-reports":[{"old-status":"exceptions","new-status":"not-operating"}]}`)
	now := r.now
	r.now = func() time.Time { return now().Add(HoldWait) }
	r.tick(t.Context(), false)
	r.FactsKnown(t.Context(), uri, &hmc.Info{PSWs: []string{"000200008000000000000000000000B1"}})
	var told []string
	for _, e := range h.events() {
		if e.Type == event.TypeStatusChange {
			told = append(told, fmt.Sprintf("planned %v, repeat %v", e.Planned, e.Repeat))
		}
	}
	if want := []string{"planned true, repeat false", "planned false, repeat false"}; !slices.Equal(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}
}

// What waits behind an event that is held back is bounded: then it is told as it is.
func TestHeldBackIsBounded(t *testing.T) {
	h, r, _ := askingHouse(t)
	h.group.Estate.Place("/api/logical-partitions/l", "LP01", "")
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

// A message waits for as long as the HMC lists it as held, be it for days and over restarts; where the HMC cannot be asked, for one.
func TestHeldForDays(t *testing.T) {
	const (
		uri     = "/api/logical-partitions/l"
		message = `{"sequence-number":1,"message-text":"*17 DFS996I *IMS READY*","timestamp":1000,"is-held":true}`
	)
	h := newHouse(t, 1)
	r, _ := h.open("a")
	connect(r)
	start := time.Now()
	at := func(age time.Duration) { r.now = func() time.Time { return start.Add(age) } }
	answered := func(what string, want int) {
		t.Helper()
		n := 0
		for _, e := range h.events() {
			if event.Member(e.Body, "answered") != nil {
				n++
			}
		}
		if known, _ := h.group.Estate.Lookup(uri); n != want || len(known.Waiting) != 1-want {
			t.Fatalf("%s: %d answered, %d wait", what, n, len(known.Waiting))
		}
	}
	held := func() {
		received(t, r, "u.osm", stopped(uri, event.TypeOSMessage), `{"os-messages":[`+message+`]}`)
		r.Flush(t.Context())
	}
	asked := func(age time.Duration) {
		at(age)
		r.StillHeld(t.Context(), uri, [][]byte{[]byte(message)}, start.Add(age))
		r.tick(t.Context(), false)
	}
	held()
	for age := 10 * time.Minute; age < 72*time.Hour; age += 50 * time.Minute {
		asked(age)
		answered(age.String(), 0)
	}
	at(95 * time.Hour)
	r.tick(t.Context(), false)
	answered("asked a day ago", 0)
	at(97 * time.Hour)
	r.tick(t.Context(), false)
	answered("not asked for more than a day", 1)

	h = newHouse(t, 1)
	r, _ = h.open("a")
	at(-30 * time.Hour)
	connect(r)
	held()
	answered("before the restart", 0)
	h.group = NewGroup("east", h.queue, zap.NewNop())
	h.group.Configured(1)
	r, _ = h.open("a")
	connect(r)
	r.tick(t.Context(), false)
	answered("not asked since the restart", 0)
	asked(time.Minute)
	at(3 * time.Hour)
	r.tick(t.Context(), false)
	answered("asked since", 0)
}

// Partitions that the HMC cannot be asked about, with a support element that does not answer for example, keep it from no others.
func TestHeldIsAskedInTurn(t *testing.T) {
	h := newHouse(t, 1)
	r, _ := h.open("a")
	connect(r)
	now := time.Now()
	r.now = func() time.Time { return now }
	for i := range 25 {
		headers := stopped(fmt.Sprintf("/api/logical-partitions/%02d", i), event.TypeOSMessage)
		headers[1].Value = fmt.Sprint(i)
		received(t, r, "u.osm", headers, `{"os-messages":[{"sequence-number":1,"message-text":"*01 A","is-held":true}]}`)
	}
	asked := make(map[string]bool)
	for range 3 { // and no answer comes
		now = now.Add(time.Minute)
		for _, uri := range r.Holding(10) {
			asked[uri] = true
		}
	}
	if len(asked) != 25 {
		t.Errorf("%d partitions are asked about", len(asked))
	}
}

// Of an adapter no notification tells the CPC: the HMC is asked once. Events of adapters of the same name on two CPCs differ in it.
func TestWhereAnAdapterIs(t *testing.T) {
	h := newHouse(t, 1)
	r, w := h.open("a")
	w.asks = true
	connect(r)
	for _, cpc := range []string{"C1", "C2"} {
		h.group.Estate.SetStatus(&estate.Resource{URI: "/api/cpcs/" + cpc, Class: estate.ClassCPC, Name: cpc, Status: "active"}, time.Now())
	}
	h.stored()
	n := 0
	change := func(id, from, to string) {
		t.Helper()
		n++
		received(t, r, "u.object", receiver.Headers{
			{Name: "notification-type", Value: event.TypeStatusChange},
			{Name: "message-id", Value: fmt.Sprint(n)},
			{Name: "class", Value: "adapter"},
			{Name: "name", Value: "OSD 1"},
			{Name: "object-uri", Value: "/api/adapters/" + id},
		}, `{"change-reports":[{"old-status":"`+from+`","new-status":"`+to+`"}]}`)
	}
	expect := func(want ...string) {
		t.Helper()
		r.Flush(t.Context())
		var got []string
		for _, e := range h.events() {
			got = append(got, e.Severity+" "+e.Resource.CPC+" "+e.Summary)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	}
	change("a", "active", "not-active")
	change("b", "active", "not-active")
	change("a", "not-active", "active")
	expect()
	r.FactsKnown(t.Context(), "/api/adapters/a", &hmc.Info{Name: "OSD 1", CPCURI: "/api/cpcs/C1"})
	expect("warning C1 adapter OSD 1 on C1: active -> not-active", "info C1 adapter OSD 1 on C1: not-active -> active")
	change("a", "active", "exceptions")
	expect("warning C1 adapter OSD 1 on C1: active -> exceptions")
	r.FactsKnown(t.Context(), "/api/adapters/b", &hmc.Info{Name: "OSD 1", CPCURI: "/api/cpcs/C2"})
	expect("warning C2 adapter OSD 1 on C2: active -> not-active")
	if want := []string{"/api/adapters/a", "/api/adapters/b"}; !slices.Equal(w.asked, want) {
		t.Errorf("asked for %q", w.asked)
	}
	// The HMC does not tell: then it is not asked again. It does not answer: then it is.
	change("c", "active", "not-active")
	r.FactsKnown(t.Context(), "/api/adapters/c", new(hmc.Info))
	change("c", "not-active", "active")
	change("d", "active", "not-active")
	r.FactsKnown(t.Context(), "/api/adapters/d", nil)
	change("d", "not-active", "active")
	now := r.now
	r.now = func() time.Time { return now().Add(HoldWait) }
	r.tick(t.Context(), false)
	expect(
		"warning  adapter OSD 1: active -> not-active", "info  adapter OSD 1: not-active -> active",
		"warning  adapter OSD 1: active -> not-active", "info  adapter OSD 1: not-active -> active",
	)
	if n := len(w.asked); n != 5 {
		t.Errorf("asked for %q", w.asked)
	}
	// What is told twice is told once more.
	change("b", "active", "not-active")
	r.Flush(t.Context())
	if all := h.events(); len(all) != 1 || !all[0].Repeat {
		t.Errorf("%+v", all)
	}
}

// Where a partition belongs is told by the first list, which is on its way: nothing waits for that, so that a kill leaves
// no hole in what was received. One that is not in it is asked about.
func TestBeforeTheFirstList(t *testing.T) {
	for class, uri := range map[string]string{
		estate.ClassPartition: "/api/partitions/", estate.ClassLogicalPartition: "/api/logical-partitions/",
	} {
		t.Run(class, func(t *testing.T) {
			h := newHouse(t, 1)
			r, w := h.open("a")
			w.asks = true
			connect(r)
			h.stored()
			change := func(id string) {
				t.Helper()
				headers := stopped(uri+id, event.TypePropertyChange)
				headers[2].Value = class
				received(t, r, "u.object", headers, `{"change-reports":[{"property-name":"description","new-value":"x"}]}`)
			}
			change("1")
			if len(r.tx.held) != 0 || len(w.asked) != 0 {
				t.Fatalf("%d are held back, asked for %q", len(r.tx.held), w.asked)
			}
			list := estate.Listing{
				HMC: "a", Asked: time.Now(), Complete: map[string]bool{class: true},
				Resources: []estate.Resource{{URI: uri + "1", Class: class, Name: "LP01", CPC: "C1", Status: "operating"}},
			}
			h.group.Estate.Learn(&list)
			r.Reconcile(t.Context(), &list, time.Time{})
			change("2")
			if want := []string{uri + "2"}; len(r.tx.held) != 1 || !slices.Equal(w.asked, want) {
				t.Errorf("%d are held back, asked for %q", len(r.tx.held), w.asked)
			}
		})
	}
}

// What was activated and does not operate after minutes is told once, when nothing is in doubt.
func TestNotStarted(t *testing.T) {
	h := newHouse(t, 1)
	r, w := h.open("a")
	connect(r)
	const uri = "/api/logical-partitions/l"
	h.group.Estate.SetStatus(&estate.Resource{URI: uri, Class: estate.ClassLogicalPartition, Name: "LP01", Status: "not-activated", Since: time.Now().Add(time.Hour)}, time.Now())
	h.stored()
	received(t, r, "u.object", receiver.Headers{
		{Name: "notification-type", Value: event.TypeStatusChange},
		{Name: "message-id", Value: "1"},
		{Name: "class", Value: "logical-partition"},
		{Name: "name", Value: "LP01"},
		{Name: "object-uri", Value: uri},
	}, `{"change-reports":[{"old-status":"not-activated","new-status":"not-operating"}]}`)
	r.Flush(t.Context())
	tell := func(after time.Duration, want ...string) {
		t.Helper()
		now := r.now
		defer func() { r.now = now }()
		r.now = func() time.Time { return now().Add(after) }
		r.tick(t.Context(), false)
		var got []string
		for _, e := range h.events() {
			got = append(got, e.Severity+" "+e.Summary)
			if e.Type != event.TypeStatusChange || e.Repeat {
				t.Errorf("%+v", e)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%v: %q, want %q", after, got, want)
		}
	}
	tell(4*time.Minute, "warning logical-partition LP01: not-activated -> not-operating")
	r.Disconnected(t.Context(), Disconnection{State: status.StateDisconnected, Cause: "x"}, time.Now(), false)
	h.stored()
	tell(6 * time.Minute)
	connect(r)
	h.settle(r)
	h.stored()
	w.waits = true // something that was received is not recorded yet: it may be that it operates
	tell(7 * time.Minute)
	w.waits = false
	tell(7*time.Minute, "critical logical-partition LP01: still not-operating, 7m after its activation")
	tell(20 * time.Minute)
}

// For how long nothing was seen is told as it is known: from the end of a link that the HMC has confirmed, or from the last sign of
// it; and how long there was no link.
func TestWithoutSight(t *testing.T) {
	h := newHouse(t, 1)
	base, beat := time.Now().Add(-time.Hour), time.Duration(0)
	var r *Recorder
	open := func() {
		var w *watcher
		r, w = h.open("a")
		r.now = func() time.Time { return base.Add(beat) }
		w.contact = r.now
	}
	open()
	connected := func() string {
		t.Helper()
		up := Connection{Host: "h", Topics: []TopicLabel{{Name: "u.audit", Type: event.TopicAudit}}}
		r.Connected(t.Context(), up, true, r.now())
		all := h.events()
		_, text, _ := strings.Cut(all[len(all)-1].Summary, "1 topics")
		return text
	}
	expect := func(got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	expect(connected(), "")
	lose := func(d Disconnection, heardAgo time.Duration) {
		d.State, d.Cause = status.StateDisconnected, "x"
		r.Disconnected(t.Context(), d, r.now().Add(-heardAgo), false)
	}
	beat += 20 * time.Second // its heart-beats came every five seconds
	lose(Disconnection{Planned: true, Confirmed: r.now()}, 5*time.Second)
	beat += 2 * time.Second
	expect(connected(), ", after 2s without sight")
	beat += 20 * time.Second
	lose(Disconnection{}, 0)
	r.SessionEnded() // nobody knows when
	beat += 2 * time.Second
	expect(connected(), ", after 2s without a link, and at most 22s without sight")
	r.leave() // the daemon is killed
	h.group = NewGroup("east", h.queue, zap.NewNop())
	beat += 31 * time.Second
	open()
	expect(connected(), ", after at most 31s without sight")
	r.Close(t.Context(), "the daemon was stopped")
	h.group = NewGroup("east", h.queue, zap.NewNop())
	beat += 2 * time.Second
	open()
	expect(connected(), ", after 2s without sight")
}

// Nobody answers a message of a system that has stopped and was loaded anew; one of the new system goes on waiting.
func TestIPLEndsWhatWaited(t *testing.T) {
	h := newHouse(t, 1)
	r, _ := h.open("a")
	connect(r)
	const uri = "/api/logical-partitions/l"
	h.group.Estate.SetStatus(&estate.Resource{URI: uri, Class: estate.ClassLogicalPartition, Name: "LP01", Status: "operating"}, time.Now())
	h.group.Estate.Place(uri, "LP01", "")
	n := 0
	send := func(typ, body string) {
		n++
		received(t, r, "u.object", receiver.Headers{
			{Name: "notification-type", Value: typ},
			{Name: "message-id", Value: fmt.Sprint(n)},
			{Name: "class", Value: "logical-partition"},
			{Name: "name", Value: "LP01"},
			{Name: "object-uri", Value: uri},
		}, body)
	}
	held := func(number int) {
		send(event.TypeOSMessage, fmt.Sprintf(`{"os-messages":[{"sequence-number":%d,"message-text":"*%d REPLY","is-held":true}]}`, number, number))
	}
	held(17)
	send(event.TypeStatusChange, `{"change-reports":[{"old-status":"operating","new-status":"not-operating"}]}`)
	send(event.TypeStatusChange, `{"change-reports":[{"old-status":"not-operating","new-status":"operating"}]}`)
	held(0)
	send(event.TypePropertyChange, `{"change-reports":[{"property-name":"os-ipl-token","old-value":"00000000000000A1","new-value":"00000000000000A2"}]}`)
	r.Flush(t.Context())
	var answered []string
	for _, e := range h.events() {
		if strings.Contains(e.Summary, "answered, or gone") {
			answered = append(answered, e.Summary)
		}
	}
	known, _ := h.group.Estate.Lookup(uri)
	if len(answered) != 1 || !strings.HasSuffix(answered[0], "*17 REPLY") || len(known.Waiting) != 1 || known.Waiting[0].Number != 0 {
		t.Errorf("%q, %+v wait", answered, known.Waiting)
	}
}

// An OS message that waits behind an event that is held back is known when it is stored, and not before: whatever becomes of
// storage and daemon meanwhile, it arrives once.
func TestWhatWaitsIsNotKnown(t *testing.T) {
	const uri = "/api/logical-partitions/l"
	p := hmc.Partition{ObjectURI: uri, Name: "LP01", CPCName: "C"}
	message := `{"sequence-number":1,"message-text":"IXC220W","timestamp":1800000000000}`
	for _, test := range []struct {
		name string
		do   func(t *testing.T, h *house, r *Recorder) *Recorder
	}{
		{"nothing happens", func(_ *testing.T, _ *house, r *Recorder) *Recorder { return r }},
		{"what else is known is stored", func(t *testing.T, h *house, r *Recorder) *Recorder {
			h.change(r, "other")
			r.Flush(t.Context())
			return r
		}},
		{"and then refused", func(t *testing.T, h *house, r *Recorder) *Recorder {
			h.change(r, "other")
			r.Flush(t.Context())
			h.disk.failing.Store(1)
			h.change(r, "another")
			r.Flush(t.Context())
			h.refused()
			h.works()
			return r
		}},
		{"the event itself is refused", func(t *testing.T, h *house, r *Recorder) *Recorder {
			h.change(r, "other")
			r.Flush(t.Context())
			if err := h.queue.Flush(); err != nil {
				t.Fatal(err)
			}
			h.disk.failing.Store(1)
			r.FactsKnown(t.Context(), uri, new(hmc.Info))
			h.refused()
			h.works()
			return r
		}},
		{"the daemon is killed", func(t *testing.T, h *house, r *Recorder) *Recorder {
			h.change(r, "other")
			r.Flush(t.Context())
			if err := h.queue.Flush(); err != nil {
				t.Fatal(err)
			}
			h.group = NewGroup("east", h.queue, zap.NewNop())
			h.group.Configured(1)
			again, _ := h.open("a")
			connect(again)
			return again
		}},
	} {
		for _, listed := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, listed before: %v", test.name, listed), func(t *testing.T) {
				h := newHouse(t, 1)
				r, w := h.open("a")
				w.asks = true
				connect(r)
				h.group.Estate.Place(uri, "LP01", "")
				received(t, r, "u.object", stopped(uri, event.TypeStatusChange),
					`{"change-reports":[{"old-status":"operating","new-status":"not-operating"}]}`)
				received(t, r, "u.osm", stopped(uri, event.TypeOSMessage), `{"os-messages":[`+message+`]}`)
				if len(r.tx.held) != 2 {
					t.Fatalf("%d are held back", len(r.tx.held))
				}
				r = test.do(t, h, r)
				list := func() {
					r.ListedMessages(t.Context(), p, "u.osm", true, [][]byte{[]byte(message)}, time.Now().Add(time.Second), 0)
				}
				if listed {
					list()
				}
				r.FactsKnown(t.Context(), uri, new(hmc.Info))
				list()
				r.Flush(t.Context())
				var messages []*event.Event
				for _, e := range h.events() {
					if e.Type == event.TypeOSMessage {
						messages = append(messages, e)
					}
				}
				if len(messages) != 1 {
					t.Errorf("%d messages: %+v", len(messages), messages)
				}
			})
		}
	}
}

// stopped are headers of a notification about a partition.
func stopped(uri, typ string) receiver.Headers {
	return receiver.Headers{
		{Name: "notification-type", Value: typ},
		{Name: "message-id", Value: typ},
		{Name: "class", Value: "logical-partition"},
		{Name: "name", Value: "LP01"},
		{Name: "object-uri", Value: uri},
	}
}

// What one HMC of a group has reported is known to the others also while it is held back and the storage refuses something.
func TestReportThatIsHeldBack(t *testing.T) {
	h := newHouse(t, 2)
	a, asked := h.open("a")
	b, _ := h.open("b")
	asked.asks = true
	for _, r := range []*Recorder{a, b} {
		connect(r)
	}
	h.stored()
	const uri = "/api/logical-partitions/l"
	h.group.Estate.Place(uri, "LP01", "")
	send := func(r *Recorder, typ, body string) {
		t.Helper()
		received(t, r, "u.object", stopped(uri, typ), body)
	}
	send(a, event.TypeStatusChange, `{"change-reports":[{"old-status":"operating","new-status":"not-operating"}]}`)
	send(a, event.TypePropertyChange, `{"change-reports":[{"property-name":"description","new-value":"x"}]}`)
	if n := len(a.tx.held); n != 2 {
		t.Fatalf("%d are held back", n)
	}
	h.disk.failing.Store(1)
	h.change(b, "refused")
	b.Flush(t.Context())
	h.refused()
	h.works()
	send(b, event.TypeStatusChange, `{"change-reports":[{"old-status":"operating","new-status":"not-operating"}]}`)
	send(b, event.TypePropertyChange, `{"change-reports":[{"property-name":"description","new-value":"x"}]}`)
	a.FactsKnown(t.Context(), uri, new(hmc.Info))
	b.Flush(t.Context())
	if marks, _ := h.stored(); !slices.Equal(marks, []string{"LP01", "LP01"}) {
		t.Errorf("stored %q", marks)
	}
}

// Entries may have been lost on their way before what comes first in a session. Only its number tells, by topic or of all of them,
// for it is not known which of the two the HMC counts: the log is listed.
func TestFirstEntryOfASession(t *testing.T) {
	for _, test := range []struct {
		topic, number string
		listed        int
	}{
		{"u.audit", "0", 0}, {"u.audit", "1", 0}, {"u.audit", "2", 1}, {"u.audit", "17", 1}, {"u.object", "1", 0}, {"u.object", "2", 1},
	} {
		h := newHouse(t, 1)
		r, w := h.open("a")
		connect(r)
		w.logs = nil
		for _, nr := range []string{test.number, "18"} {
			received(t, r, test.topic, receiver.Headers{
				{Name: "notification-type", Value: event.TypeLogEntry},
				{Name: "message-id", Value: nr},
				{Name: "session-sequence-nr", Value: nr},
			}, `{"log-entry":{"event-id":"1","event-time":`+nr+`}}`)
		}
		if got := len(w.logs); got != test.listed {
			t.Errorf("%+v: %d logs are listed", test, got)
		}
		if q, ok := r.BeginFetch(event.TopicAudit); test.listed > 0 && (!ok || !q.Whole) {
			t.Errorf("%+v: %+v is to be fetched", test, q)
		}
	}
}
