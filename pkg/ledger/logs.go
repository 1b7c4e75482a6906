package ledger

import (
	"encoding/binary"
	"slices"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
)

const (
	logPrefix = "log/" // HMC, NUL, audit or security
	// logRecent is how many entries of a log are remembered, logStored how many of those over a
	// restart.
	logRecent = 1024
	logStored = 256
	// LogOverlap is how much of what was seen already is asked for again: entries written in
	// the same moment may be published in another order than that of their times.
	LogOverlap = time.Minute
)

// Logs is the Book of a console's logs: enough to fetch what was missed of each and to recognize
// what was seen. Times are those of the HMC's own clock.
//
// An entry is recognized as long as it is among the last 1,024 (over a restart: 256, and all that a
// fetch that was due may bring again). Entries are fetched again from at most a minute before the
// last one seen, and never from before those that are remembered.
type Logs struct {
	prefix string
	logs   map[string]*log // by kind
}

// NewLogs returns the book of an HMC.
func NewLogs(hmc string) *Logs {
	return &Logs{prefix: logPrefix + hmc + "\x00", logs: make(map[string]*log)}
}

// log is what is known of one log.
type log struct {
	recent  []logEntry // a ring, in the order of arrival
	next    int        // where the next one goes once the ring is full
	ids     map[event.ID]struct{}
	last    int64 // the latest time seen, in milliseconds
	resume  int64 // what is to be fetched begins here; 0: nothing is to be fetched
	pending int64 // what is being fetched begins here; 0: nothing is being fetched
	cut     bool  // read from what is stored, which has the latest entries only
	changed bool  // since the last Changes
}

type logEntry struct {
	at int64
	id event.ID
}

func (l *Logs) of(kind string) *log {
	g := l.logs[kind]
	if g == nil {
		g = &log{ids: make(map[event.ID]struct{})}
		l.logs[kind] = g
	}
	return g
}

// Load implements Book. What is being fetched meanwhile has to be fetched again.
func (l *Logs) Load(stored Stored) (damaged int) {
	clear(l.logs)
	stored(l.prefix, func(key string, value []byte) bool {
		if !l.of(key[len(l.prefix):]).load(value) {
			damaged++
		}
		return true
	})
	return damaged
}

// Add notes an entry and reports whether it is known already. at is its time in milliseconds.
func (l *Logs) Add(kind string, at int64, id event.ID) (duplicate bool) {
	g := l.of(kind)
	if _, known := g.ids[id]; known {
		return true
	}
	g.add(logEntry{at, id})
	g.changed = true
	return false
}

// Missed notes that entries may be missed from now on: the next fetch begins where the last one was
// seen, or, where none was ever seen, at since. What is still to be fetched from before stays so.
func (l *Logs) Missed(kind string, since time.Time) {
	g := l.of(kind)
	if g.resume != 0 {
		return
	}
	g.resume = since.UnixMilli()
	if g.last != 0 {
		g.resume = g.last - LogOverlap.Milliseconds()
		oldest := g.oldest()
		if g.cut || len(g.recent) == logRecent {
			oldest++ // others of that time may be forgotten already
		}
		g.resume = max(g.resume, oldest)
	}
	g.changed = true
}

// BeginFetch returns where what is to be fetched begins; the zero time: nothing is to be fetched.
// What is missed while it is being fetched is to be fetched after that.
func (l *Logs) BeginFetch(kind string) time.Time {
	g := l.of(kind)
	if g.resume == 0 {
		return time.Time{}
	}
	g.pending, g.resume = g.resume, 0
	return time.UnixMilli(g.pending)
}

// EndFetch notes what has become of the fetch: all came, or only what is before begin.
func (l *Logs) EndFetch(kind string, begin time.Time, all bool) {
	g := l.of(kind)
	if g.pending == 0 {
		return // loaded since: what came is not stored
	}
	if !all {
		g.resume = begin.UnixMilli() // it is before what was missed meanwhile
	}
	g.pending, g.changed = 0, true
}

// Changes implements Book.
func (l *Logs) Changes(dst []queue.KeyValue) []queue.KeyValue {
	for kind, g := range l.logs {
		if g.changed {
			g.changed = false
			dst = append(dst, queue.KeyValue{Key: l.prefix + kind, Value: g.value()})
		}
	}
	return dst
}

func (g *log) add(e logEntry) {
	g.ids[e.id] = struct{}{}
	g.last = max(g.last, e.at)
	if len(g.recent) < logRecent {
		g.recent = append(g.recent, e)
		return
	}
	delete(g.ids, g.recent[g.next].id)
	g.recent[g.next] = e
	g.next = (g.next + 1) % logRecent
}

// oldest returns the time of the oldest entry remembered.
func (g *log) oldest() int64 {
	if len(g.recent) < logRecent {
		return g.recent[0].at
	}
	return g.recent[g.next].at
}

// toFetch is where what did not come yet begins, also what is being fetched: that may be cut short
// by the daemon's end.
func (g *log) toFetch() int64 {
	if g.pending != 0 {
		return g.pending
	}
	return g.resume
}

const logEntrySize = 8 + len(event.ID{})

// value is what is stored: the time to resume at, and the latest entries, oldest first.
func (g *log) value() []byte {
	n := g.toStore()
	out := make([]byte, 0, 8+n*logEntrySize)
	out = binary.BigEndian.AppendUint64(out, uint64(g.toFetch()))
	for i := len(g.recent) - n; i < len(g.recent); i++ {
		e := &g.recent[(g.next+i)%len(g.recent)]
		out = binary.BigEndian.AppendUint64(out, uint64(e.at))
		out = append(out, e.id[:]...)
	}
	return out
}

// toStore is how many of the latest entries are stored: logStored, and while something is to be
// fetched all that may come with it.
func (g *log) toStore() int {
	n := min(len(g.recent), logStored)
	if begin := g.toFetch(); begin != 0 {
		for i := range len(g.recent) - n {
			if g.recent[(g.next+i)%len(g.recent)].at >= begin {
				return len(g.recent) - i
			}
		}
	}
	return n
}

func (g *log) load(value []byte) bool {
	if len(value) < 8 || (len(value)-8)%logEntrySize != 0 {
		return false
	}
	g.resume = int64(binary.BigEndian.Uint64(value))
	for chunk := range slices.Chunk(value[8:], logEntrySize) {
		g.add(logEntry{int64(binary.BigEndian.Uint64(chunk)), event.ID(chunk[8:])})
	}
	g.cut = len(g.recent) >= logStored
	return true
}
