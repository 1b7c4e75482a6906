package ledger

import (
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

func TestLogMark(t *testing.T) {
	at := time.UnixMilli(1_700_000_000_000)
	id := func(n int) event.ID { return seenID(n) }
	ms := func(n int) int64 { return at.Add(time.Duration(n) * time.Second).UnixMilli() }

	m := new(LogMark)
	if begin := m.BeginFetch(); !begin.IsZero() {
		t.Errorf("nothing was missed, fetch from %s", begin)
	}
	m.Blind(at)
	if begin := m.BeginFetch(); !begin.Equal(at) {
		t.Errorf("of a log never seen, fetch from %s", begin)
	}
	m.EndFetch(at, true)
	for n := range 300 {
		if m.Add(ms(n), id(n)) {
			t.Fatalf("entry %d is known", n)
		}
	}
	if !m.Add(ms(299), id(299)) || !m.Add(ms(0), id(0)) {
		t.Error("an entry is not known")
	}

	// From a minute before the last one, and not from what is seen while blind or fetching.
	m.Blind(at)
	m.Add(ms(400), id(400))
	m.Blind(at.Add(time.Hour))
	begin := m.BeginFetch()
	if want := ms(299) - LogOverlap.Milliseconds(); begin.UnixMilli() != want {
		t.Errorf("fetch from %d, want %d", begin.UnixMilli(), want)
	}
	m.Blind(at) // while it is being fetched
	stored := LoadLogMark(m.State())
	if got := stored.BeginFetch(); !got.Equal(begin) {
		t.Errorf("after a crash while fetching: from %s, want %s", got, begin)
	}
	if !stored.Add(ms(299), id(299)) || stored.Add(ms(0), id(0)) { // of 300 and one
		t.Error("after a restart other entries are known")
	}
	m.EndFetch(begin, true)
	if again := m.BeginFetch(); again.UnixMilli() != ms(400)-LogOverlap.Milliseconds() {
		t.Errorf("what was missed meanwhile is fetched from %s", again)
	}
	m.EndFetch(at.Add(500*time.Second), false) // a piece of it came
	if rest := m.BeginFetch(); !rest.Equal(at.Add(500 * time.Second)) {
		t.Errorf("the rest is fetched from %s", rest)
	}
	m.EndFetch(time.Time{}, true)

	m.Forget(id(400))
	if m.Add(ms(400), id(400)) {
		t.Error("what could not be stored is known")
	}

	// A burst: never from before what is remembered, or all of it would come twice.
	for n := range 2 * logRecent {
		m.Add(ms(500), id(1000+n))
	}
	m.Blind(at)
	if begin := m.BeginFetch(); begin.UnixMilli() != ms(500)+1 {
		t.Errorf("after a burst: from %d, want %d", begin.UnixMilli(), ms(500)+1)
	}
	for _, broken := range [][]byte{nil, {1}, make([]byte, 8+logEntrySize-1)} {
		if m := LoadLogMark(broken); len(m.recent) != 0 || m.resume != 0 {
			t.Errorf("%d bytes make an unknown log known", len(broken))
		}
	}
}

// TestLogMarkRestart lets the daemon end while entries are to be fetched that begin before the last 256, and while none
// are: what was seen is known, or is not asked for again.
func TestLogMarkRestart(t *testing.T) {
	ms := func(n int) int64 { return 1_700_000_000_000 + int64(n/2)*10 } // two of each time
	for _, fetching := range []bool{true, false} {
		m := new(LogMark)
		for n := range 401 {
			m.Add(ms(n), seenID(n))
		}
		if fetching {
			m.Blind(time.Time{})
			for n := 401; n < 601; n++ { // live, before the fetch
				m.Add(ms(n), seenID(n))
			}
		}
		last := len(m.recent)
		m = LoadLogMark(m.State())
		m.Blind(time.Time{})
		begin := m.BeginFetch().UnixMilli()
		for n := range last {
			if ms(n) >= begin && !m.Add(ms(n), seenID(n)) {
				t.Fatalf("fetching %v: entry %d of %d was seen, is fetched again and not known", fetching, n, last)
			}
		}
		if begin > ms(last-logStored)+10 {
			t.Errorf("fetching %v: from %d, later than what is remembered", fetching, begin)
		}
	}
}
