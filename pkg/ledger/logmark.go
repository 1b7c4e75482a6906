package ledger

import (
	"encoding/binary"
	"slices"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

const (
	// logRecent is how many entries of a log are remembered, logStored how many of those over a restart.
	logRecent = 1024
	logStored = 256
	// LogOverlap is how much of what was seen already is asked for again: entries written in the same moment may be
	// published in another order than that of their times.
	LogOverlap = time.Minute
)

// LogMark is what is known of one of a console's logs (audit or security): enough to fetch what was missed and to tell
// it from what was seen. Times are those of the HMC's own clock, in milliseconds.
//
// An entry is recognized as long as it is among the last 1,024 (over a restart: 256, and all that a fetch that was due may
// bring again). Entries are fetched again from at
// most a minute before the last one seen, and never from before those that are remembered.
type LogMark struct {
	recent  []logEntry // a ring, in the order of arrival
	next    int        // where the next one goes once the ring is full
	ids     map[event.ID]struct{}
	last    int64 // the latest time seen
	resume  int64 // what is to be fetched begins here; 0: nothing is to be fetched
	pending int64 // what is being fetched begins here; 0: nothing is being fetched
	cut     bool  // read from the state, which held the latest entries only
	Changed bool  // since state was asked for
}

type logEntry struct {
	at int64
	id event.ID
}

// Add notes an entry and reports whether it is known already.
func (m *LogMark) Add(at int64, id event.ID) (duplicate bool) {
	if _, known := m.ids[id]; known {
		return true
	}
	m.note(logEntry{at, id})
	m.Changed = true
	return false
}

func (m *LogMark) note(e logEntry) {
	if m.ids == nil {
		m.ids = make(map[event.ID]struct{})
	}
	m.ids[e.id] = struct{}{}
	m.last = max(m.last, e.at)
	if len(m.recent) < logRecent {
		m.recent = append(m.recent, e)
		return
	}
	delete(m.ids, m.recent[m.next].id)
	m.recent[m.next] = e
	m.next = (m.next + 1) % logRecent
}

// Forget takes an entry back that could not be stored.
func (m *LogMark) Forget(id event.ID) {
	delete(m.ids, id) // its place in the ring stays: it goes with time
	m.Changed = true
}

// Blind notes that from now on entries may be missed: the next fetch begins where the last one was seen, or, where none
// was ever seen, at since. What is still to be fetched from before stays so.
func (m *LogMark) Blind(since time.Time) {
	if m.resume != 0 {
		return
	}
	m.resume = since.UnixMilli()
	if m.last != 0 {
		m.resume = m.last - LogOverlap.Milliseconds()
		oldest := m.oldest()
		if m.cut || len(m.recent) == logRecent {
			oldest++ // others of that time may be forgotten already
		}
		m.resume = max(m.resume, oldest)
	}
	m.Changed = true
}

// oldest returns the time of the oldest entry remembered.
func (m *LogMark) oldest() int64 {
	if len(m.recent) < logRecent {
		return m.recent[0].at
	}
	return m.recent[m.next].at
}

// BeginFetch returns where what is to be fetched begins; the zero time: nothing is to be fetched. What is missed while it
// is being fetched is to be fetched after that.
func (m *LogMark) BeginFetch() time.Time {
	if m.resume == 0 {
		return time.Time{}
	}
	m.pending, m.resume = m.resume, 0
	return time.UnixMilli(m.pending)
}

// EndFetch notes what has become of the fetch: all came, or only what is before begin.
func (m *LogMark) EndFetch(begin time.Time, all bool) {
	if !all && m.pending != 0 {
		m.resume = begin.UnixMilli() // it is before what was missed meanwhile
	}
	m.pending = 0
	m.Changed = true
}

// toFetch is where what did not come yet begins, also what is being fetched: that may be cut short by the daemon's end.
func (m *LogMark) toFetch() int64 {
	if m.pending != 0 {
		return m.pending
	}
	return m.resume
}

const logEntrySize = 8 + len(event.ID{})

// State returns what is to be stored: the time to resume at, and the latest entries, oldest first.
func (m *LogMark) State() []byte {
	m.Changed = false
	n := m.toStore()
	out := make([]byte, 0, 8+n*logEntrySize)
	out = binary.BigEndian.AppendUint64(out, uint64(m.toFetch()))
	for i := len(m.recent) - n; i < len(m.recent); i++ {
		e := &m.recent[(m.next+i)%len(m.recent)]
		if _, known := m.ids[e.id]; known {
			out = binary.BigEndian.AppendUint64(out, uint64(e.at))
			out = append(out, e.id[:]...)
		}
	}
	return out
}

// toStore is how many of the latest entries are stored: logStored, and while something is to be fetched all that may come
// with it.
func (m *LogMark) toStore() int {
	n := min(len(m.recent), logStored)
	if begin := m.toFetch(); begin != 0 {
		for i := range len(m.recent) - n {
			if m.recent[(m.next+i)%len(m.recent)].at >= begin {
				return len(m.recent) - i
			}
		}
	}
	return n
}

// LoadLogMark reads what state returned. Anything else is an unknown log.
func LoadLogMark(state []byte) *LogMark {
	m := new(LogMark)
	if len(state) < 8 || (len(state)-8)%logEntrySize != 0 {
		return m
	}
	m.resume = int64(binary.BigEndian.Uint64(state))
	for chunk := range slices.Chunk(state[8:], logEntrySize) {
		m.note(logEntry{int64(binary.BigEndian.Uint64(chunk)), event.ID(chunk[8:])})
	}
	m.cut = len(m.recent) >= logStored
	return m
}
