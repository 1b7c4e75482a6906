package bridge

import (
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

func TestLogMark(t *testing.T) {
	at := time.UnixMilli(1_700_000_000_000)
	id := func(n int) event.ID { return seenID(n) }
	ms := func(n int) int64 { return at.Add(time.Duration(n) * time.Second).UnixMilli() }

	m := new(logMark)
	if begin := m.beginFetch(); !begin.IsZero() {
		t.Errorf("nothing was missed, fetch from %s", begin)
	}
	m.blind(at)
	if begin := m.beginFetch(); !begin.Equal(at) {
		t.Errorf("of a log never seen, fetch from %s", begin)
	}
	m.endFetch(at, true)
	for n := range 300 {
		if m.add(ms(n), id(n)) {
			t.Fatalf("entry %d is known", n)
		}
	}
	if !m.add(ms(299), id(299)) || !m.add(ms(0), id(0)) {
		t.Error("an entry is not known")
	}

	// From a minute before the last one, and not from what is seen while blind or fetching.
	m.blind(at)
	m.add(ms(400), id(400))
	m.blind(at.Add(time.Hour))
	begin := m.beginFetch()
	if want := ms(299) - logOverlap.Milliseconds(); begin.UnixMilli() != want {
		t.Errorf("fetch from %d, want %d", begin.UnixMilli(), want)
	}
	m.blind(at) // while it is being fetched
	stored := loadLogMark(m.state())
	if got := stored.beginFetch(); !got.Equal(begin) {
		t.Errorf("after a crash while fetching: from %s, want %s", got, begin)
	}
	if !stored.add(ms(299), id(299)) || stored.add(ms(0), id(0)) { // of 300 and one
		t.Error("after a restart other entries are known")
	}
	m.endFetch(begin, true)
	if again := m.beginFetch(); again.UnixMilli() != ms(400)-logOverlap.Milliseconds() {
		t.Errorf("what was missed meanwhile is fetched from %s", again)
	}
	m.endFetch(at.Add(500*time.Second), false) // a piece of it came
	if rest := m.beginFetch(); !rest.Equal(at.Add(500 * time.Second)) {
		t.Errorf("the rest is fetched from %s", rest)
	}
	m.endFetch(time.Time{}, true)

	m.forget(id(400))
	if m.add(ms(400), id(400)) {
		t.Error("what could not be stored is known")
	}

	// A burst: never from before what is remembered, or all of it would come twice.
	for n := range 2 * logRecent {
		m.add(ms(500), id(1000+n))
	}
	m.blind(at)
	if begin := m.beginFetch(); begin.UnixMilli() != ms(500)+1 {
		t.Errorf("after a burst: from %d, want %d", begin.UnixMilli(), ms(500)+1)
	}
	for _, broken := range [][]byte{nil, {1}, make([]byte, 8+logEntrySize-1)} {
		if m := loadLogMark(broken); len(m.recent) != 0 || m.resume != 0 {
			t.Errorf("%d bytes make an unknown log known", len(broken))
		}
	}
}

// TestLogMarkRestart lets the daemon end while entries are to be fetched that begin before the last 256, and while none
// are: what was seen is known, or is not asked for again.
func TestLogMarkRestart(t *testing.T) {
	ms := func(n int) int64 { return 1_700_000_000_000 + int64(n/2)*10 } // two of each time
	for _, fetching := range []bool{true, false} {
		m := new(logMark)
		for n := range 401 {
			m.add(ms(n), seenID(n))
		}
		if fetching {
			m.blind(time.Time{})
			for n := 401; n < 601; n++ { // live, before the fetch
				m.add(ms(n), seenID(n))
			}
		}
		last := len(m.recent)
		m = loadLogMark(m.state())
		m.blind(time.Time{})
		begin := m.beginFetch().UnixMilli()
		for n := range last {
			if ms(n) >= begin && !m.add(ms(n), seenID(n)) {
				t.Fatalf("fetching %v: entry %d of %d was seen, is fetched again and not known", fetching, n, last)
			}
		}
		if begin > ms(last-logStored)+10 {
			t.Errorf("fetching %v: from %d, later than what is remembered", fetching, begin)
		}
	}
}
