package heard

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/translate"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	keep     = 30 * time.Second
	maxBytes = 1 << 20
)

// said is what an HMC says in one session.
func said(session, typ, uri, body string, more ...receiver.Header) Notification {
	n := Notification{Valid: true}
	n.Topic, n.Body, n.Received = session+".topic", []byte(body), time.Now()
	n.Headers = append(receiver.Headers{
		{Name: "notification-type", Value: typ},
		{Name: "message-id", Value: session + fmt.Sprint(time.Now().UnixNano())},
		{Name: "session-sequence-nr", Value: "17"},
		{Name: "object-uri", Value: uri},
	}, more...)
	return n
}

func status(session, uri, from, to string) Notification {
	return said(session, event.TypeStatusChange, uri, fmt.Sprintf(`{"change-reports":[{"old-status":%q,"new-status":%q,"additional":[1, 2]}]}`, from, to))
}

func hear(l *Log, n Notification) {
	var of translate.Notification
	of.Parse(&n.Notification, n.Valid)
	l.Hear(n, of.Told())
}

// record has it recorded as another daemon does, which has heard it in its own session.
func record(l *Log, n Notification, change ...func(*event.Event)) {
	var of translate.Notification
	of.Parse(&n.Notification, n.Valid)
	e := &event.Event{Type: of.Type, Origin: event.OriginLive, Headers: of.Headers, Body: of.Body}
	for _, f := range change {
		f(e)
	}
	l.Recorded(e)
}

func left(l *Log) (uris []string) {
	for _, n := range l.Unrecorded() {
		uris = append(uris, n.Headers.Get("object-uri"))
	}
	return uris
}

// What was heard and not seen recorded is left, in order, however the two come: also of what happened more than once.
func TestUnrecorded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLog(keep, maxBytes)
		l.Begin()
		for i := range 3 { // it flaps
			hear(l, status("own", "/flaps", "active", "stopped"))
			hear(l, status("own", "/flaps", "stopped", "active"))
			if i < 2 {
				record(l, status("other", "/flaps", "active", "stopped"))
				record(l, status("other", "/flaps", "stopped", "active"))
			}
		}
		record(l, status("other", "/early", "active", "stopped"))
		record(l, status("other", "/asked", "active", "stopped"), func(e *event.Event) { e.Repeat = true })
		time.Sleep(time.Second)
		hear(l, status("own", "/early", "active", "stopped"))
		hear(l, status("own", "/asked", "active", "stopped"))
		hear(l, status("own", "/other", "active", "paused"))
		hear(l, said("own", event.TypeInventoryChange, "/new", "", receiver.Header{Name: "action", Value: "add"}))
		record(l, said("other", event.TypeInventoryChange, "/new", "", receiver.Header{Name: "action", Value: "remove"}))
		// How a job has ended is asked for, and what was found by comparing is told as the HMC would.
		hear(l, said("own", "job-completion", "", "", receiver.Header{Name: "job-uri", Value: "/api/jobs/1"}))
		record(l, said("other", "job-completion", "", `{"status":"complete"}`, receiver.Header{Name: "job-uri", Value: "/api/jobs/1"}))
		hear(l, said("own", "somewhat-new", "", `{"a":"b c"}`))
		record(l, said("other", "somewhat-new", "", `{ "a" : "b c" }`))
		hear(l, status("own", "/found", "active", "stopped"))
		record(l, said("", event.TypeStatusChange, "/found", `{"change-reports":[{"old-status":"active","new-status":"stopped"}]}`),
			func(e *event.Event) { e.Origin = event.OriginReconcile })
		// Of what was fetched or replayed nobody can know when it was heard.
		hear(l, status("own", "/fetched", "active", "stopped"))
		record(l, status("other", "/fetched", "active", "stopped"), func(e *event.Event) { e.Origin = event.OriginBackfill })
		hear(l, said("own", event.TypeOSMessage, "/message", `{"os-messages":[]}`))
		record(l, said("other", event.TypeOSMessage, "/message", `{"os-messages":[]}`))
		want := []string{"/flaps", "/flaps", "/asked", "/other", "/new", "/fetched", "/message"}
		if got := left(l); !slices.Equal(got, want) {
			t.Errorf("left are %v instead of %v", got, want)
		}
		if got := left(l); got != nil {
			t.Errorf("once more: %v", got)
		}
	})
}

// What is long ago is not told any more, and what was recorded long ago is not what is heard now.
func TestLongAgo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLog(keep, maxBytes)
		if record(l, status("other", "/before", "a", "b")); !l.Since().IsZero() {
			t.Error("it hears")
		}
		l.Begin()
		hear(l, status("own", "/before", "a", "b"))
		before := time.Now()
		record(l, status("other", "/long", "a", "b"))
		time.Sleep(aheadBy + time.Second)
		hear(l, status("own", "/long", "a", "b"))
		time.Sleep(keep - aheadBy)
		hear(l, status("own", "/now", "a", "b"))
		if got := left(l); !slices.Equal(got, []string{"/long", "/now"}) {
			t.Errorf("left are %v", got)
		}
		if !l.Since().Equal(before) { // when what has gone was heard, and perhaps not recorded
			t.Errorf("since %s", l.Since())
		}
		l.Missed()
		if !l.Since().Equal(time.Now()) {
			t.Errorf("since %s, when something was missed", l.Since())
		}
		hear(l, status("own", "/unsure", "a", "b"))
		time.Sleep(time.Second)
		if l.Unsure(); left(l) != nil || !l.Since().Equal(time.Now()) {
			t.Errorf("since %s, when it was not seen what was recorded", l.Since())
		}
		l.Lost()
		if l.Missed(); !l.Since().IsZero() {
			t.Error("it hears still")
		}
	})
}

// Beyond what it may have the oldest go, and it is known only since then.
func TestBytesOfWhatWasHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLog(keep, maxBytes)
		l.Begin()
		value := strings.Repeat("v", 64<<10)
		const n = maxBytes/(64<<10) + 10
		for i := range n {
			time.Sleep(time.Millisecond)
			hear(l, said("own", event.TypePropertyChange, fmt.Sprint(i), fmt.Sprintf(`{"change-reports":[{"property-name":"p","new-value":%q}]}`, value)))
		}
		since := l.Since()
		got := left(l)
		if len(got) == 0 || len(got) >= n || got[len(got)-1] != fmt.Sprint(n-1) {
			t.Fatalf("left are %v", got)
		}
		if first := time.Now().Add(-time.Duration(len(got)) * time.Millisecond); since.After(first.Add(time.Millisecond)) || since.Before(first.Add(-2*time.Millisecond)) {
			t.Errorf("since %s, and the first is of %s", since, first)
		}
		if len(l.waiting) > 0 || l.bytes != 0 || len(l.ahead) > 0 {
			t.Errorf("%d wait, %d bytes", len(l.waiting), l.bytes)
		}
	})
}
