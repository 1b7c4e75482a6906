package ledger

import (
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

func TestLogs(t *testing.T) {
	at := time.UnixMilli(1_700_000_000_000)
	id := func(n int) event.ID { return seenID(n) }
	ms := func(n int) int64 { return at.Add(time.Duration(n) * time.Second).UnixMilli() }

	m := NewLogs("a")
	const kind = event.TopicAudit
	state := make(map[string][]byte)
	if begin := m.BeginFetch(kind); !begin.IsZero() {
		t.Errorf("nothing was missed, fetch from %s", begin)
	}
	m.Missed(kind, at)
	if begin := m.BeginFetch(kind); !begin.Equal(at) {
		t.Errorf("of a log never seen, fetch from %s", begin)
	}
	m.EndFetch(kind, at, true)
	for n := range 300 {
		if m.Add(kind, ms(n), id(n)) {
			t.Fatalf("entry %d is known", n)
		}
	}
	if !m.Add(kind, ms(299), id(299)) || !m.Add(kind, ms(0), id(0)) {
		t.Error("an entry is not known")
	}

	// From a minute before the last one, and not from what is seen while blind or fetching.
	m.Missed(kind, at)
	m.Add(kind, ms(400), id(400))
	m.Missed(kind, at.Add(time.Hour))
	begin := m.BeginFetch(kind)
	if want := ms(299) - LogOverlap.Milliseconds(); begin.UnixMilli() != want {
		t.Errorf("fetch from %d, want %d", begin.UnixMilli(), want)
	}
	m.Missed(kind, at) // while it is being fetched
	store(state, m)
	stored := NewLogs("a")
	stored.Load(storedIn(state))
	if got := stored.BeginFetch(kind); !got.Equal(begin) {
		t.Errorf("after a crash while fetching: from %s, want %s", got, begin)
	}
	if !stored.Add(kind, ms(299), id(299)) || stored.Add(kind, ms(0), id(0)) { // of 300 and one
		t.Error("after a restart other entries are known")
	}
	m.EndFetch(kind, begin, true)
	if again := m.BeginFetch(kind); again.UnixMilli() != ms(400)-LogOverlap.Milliseconds() {
		t.Errorf("what was missed meanwhile is fetched from %s", again)
	}
	m.EndFetch(kind, at.Add(500*time.Second), false) // a piece of it came
	if rest := m.BeginFetch(kind); !rest.Equal(at.Add(500 * time.Second)) {
		t.Errorf("the rest is fetched from %s", rest)
	}
	m.EndFetch(kind, time.Time{}, true)

	store(state, m)
	m.Add(kind, ms(401), id(401))
	m.Changes(nil) // on its way, and refused
	m.Missed(kind, at)
	m.BeginFetch(kind)
	m.Load(storedIn(state))
	m.EndFetch(kind, time.Time{}, true) // of a fetch that began before
	if !m.Add(kind, ms(400), id(400)) || m.Add(kind, ms(401), id(401)) {
		t.Error("what is known is not what is stored")
	}

	// A burst: never from before what is remembered, or all of it would come twice.
	for n := range 2 * logRecent {
		m.Add(kind, ms(500), id(1000+n))
	}
	m.Missed(kind, at)
	if begin := m.BeginFetch(kind); begin.UnixMilli() != ms(500)+1 {
		t.Errorf("after a burst: from %d, want %d", begin.UnixMilli(), ms(500)+1)
	}
	for _, broken := range [][]byte{nil, {1}, make([]byte, 8+logEntrySize-1)} {
		m := NewLogs("a")
		if damaged := m.Load(storedIn(map[string][]byte{"log/a\x00audit": broken})); damaged != 1 || !m.BeginFetch(kind).IsZero() {
			t.Errorf("%d bytes make an unknown log known", len(broken))
		}
	}
}

// TestLogsRestart lets the daemon end while entries are to be fetched that begin before the last 256, and while none
// are: what was seen is known, or is not asked for again.
func TestLogsRestart(t *testing.T) {
	ms := func(n int) int64 { return 1_700_000_000_000 + int64(n/2)*10 } // two of each time
	for _, fetching := range []bool{true, false} {
		m := NewLogs("a")
		const kind = event.TopicSecurity
		for n := range 401 {
			m.Add(kind, ms(n), seenID(n))
		}
		if fetching {
			m.Missed(kind, time.Time{})
			for n := 401; n < 601; n++ { // live, before the fetch
				m.Add(kind, ms(n), seenID(n))
			}
		}
		last := len(m.logs[kind].recent)
		state := make(map[string][]byte)
		store(state, m)
		m = NewLogs("a")
		m.Load(storedIn(state))
		m.Missed(kind, time.Time{})
		begin := m.BeginFetch(kind).UnixMilli()
		for n := range last {
			if ms(n) >= begin && !m.Add(kind, ms(n), seenID(n)) {
				t.Fatalf("fetching %v: entry %d of %d was seen, is fetched again and not known", fetching, n, last)
			}
		}
		if begin > ms(last-logStored)+10 {
			t.Errorf("fetching %v: from %d, later than what is remembered", fetching, begin)
		}
	}
}
