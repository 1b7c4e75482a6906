package ledger

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
)

const (
	// logPrefix is followed by HMC, NUL and the log: audit or security. Under that is what is known
	// of the log as a whole; its entries are under it with NUL and the number of their block.
	logPrefix = "log/"
	logBlock  = 128 // entries of a block
	// logEntries is how many entries of a log are known at least, once there were as many. What is
	// still to be fetched may be older than those: while something is, four times as many.
	logEntries = 50_000
	// logUnwatched is the same of a log that is never fetched.
	logUnwatched = 1024
	// LogOverlap is how far clocks may be apart where a time has to tell whether an entry was
	// written before the watch began.
	LogOverlap = time.Minute
	// logOnItsWay is how long the notification of an entry that a list had may be on its way, when
	// all that was received is recorded.
	logOnItsWay = time.Minute
)

// Logs is the Book of a console's logs. It knows which entries were recorded, and of which of those
// that a list has the notification may still come.
//
// An entry has no number. Entries with the same content are told apart by how many there are: the
// HMC publishes each once, and a list has each once. So a notification is always of a new entry,
// unless a list that was asked for on the same link had more of that content than was known. An
// entry of a list is new if the list has more of that content than are known. Their times, which
// are those of the HMC's clock, are not needed for that: a list of the whole log is right also when
// that clock was changed.
//
// Where a notification came after a list was asked for that has the same content, either may be of
// an entry that the other one is not. Then the list is asked for again, of that time only.
//
// Times do count where a log is listed that was not known before: of a watch that begins, or of
// another console. Then what was written before the time given is known from then on, and not told.
type Logs struct {
	prefix  string
	console uint32 // the one that is connected
	logs    map[string]*log
}

// NewLogs returns the book of an HMC.
func NewLogs(hmc string) *Logs {
	return &Logs{prefix: logPrefix + hmc + "\x00", logs: make(map[string]*log)}
}

// log is what is known of one log.
type log struct {
	known  []logEntry // one for each entry
	counts map[event.ID]int
	// What is stored beside the entries. Those of a time up to floor that are not known were
	// forgotten. From since on entries may be missed; 0: none are. fetching is the same of those
	// that are being fetched.
	floor, since, fetching int64
	console                uint32 // whose log it is
	flags                  byte

	// as what Begin has made it, if it was not stored before; and the newest entry that the first
	// list had, and of which console, for that may not be stored either
	begun struct {
		since        int64
		flags        byte
		last, newest int64
		console      uint32
	}

	// Of the link that is up: how many entries were known before it, when it was last asked for the
	// whole log and for any list, and whether one is being read. coming are entries of lists whose
	// notifications may still come, live those that were published since the list was asked for.
	// doubt is the time of entries of which either may have another one.
	before          int
	compared, asked time.Time
	reading         bool
	coming          map[event.ID]*coming
	live            []logEntry
	doubt           timesMilli

	dirty  bool     // anything has to be stored
	from   int      // the first entry that has to be
	blocks int      // stored
	stale  []string // keys of others
}

const (
	logWatched = 1 << iota
	logWhole   // all that the log had when the watch began is known
	logOnlyNew // the watch begins now: what is of a later time than the list is old too
)

type logEntry struct {
	at int64 // in milliseconds
	id event.ID
}

func byTime(a, b logEntry) int { return cmp.Compare(a.at, b.at) }

// coming are entries with the same content that a list had and of which no notification came.
type coming struct {
	n     int
	quiet []int // which of them are older than the watch, unless their notifications come
	asked time.Time
}

// timesMilli is a time from one millisecond to another; none if both are 0.
type timesMilli struct{ from, to int64 }

func (t *timesMilli) add(at int64) {
	if *t == (timesMilli{}) {
		*t = timesMilli{at, at}
	}
	t.from, t.to = min(t.from, at), max(t.to, at)
}

func (l *Logs) of(kind string) *log {
	g := l.logs[kind]
	if g == nil {
		g = &log{counts: make(map[event.ID]int)}
		l.logs[kind] = g
	}
	return g
}

// Begin begins to watch a log, unless it was watched before: what was written since start is to be
// fetched. onlyNew: the watch begins now. The zero time: all that the log has is.
func (l *Logs) Begin(kind string, start time.Time, onlyNew bool) {
	g := l.of(kind)
	if g.flags&logWatched != 0 {
		return
	}
	g.begun.since, g.begun.flags = 1, logWatched
	if !start.IsZero() {
		g.begun.since = start.Truncate(time.Second).UnixMilli() // an HMC may give whole seconds
	}
	if onlyNew {
		g.begun.flags |= logOnlyNew
	}
	g.since, g.flags, g.dirty = g.begun.since, g.begun.flags, true
}

// LinkUp notes that there is a new link, and to which console: no notification of what was listed
// before will come over it.
func (l *Logs) LinkUp(console string) {
	l.console = crc32.ChecksumIEEE([]byte(console))
	for _, g := range l.logs {
		g.before, g.coming, g.live, g.reading, g.doubt = len(g.known), nil, nil, false, timesMilli{}
	}
}

// MissedBefore is Missed for what may have been missed before a time. It reports whether the log
// was not asked for since, as a whole.
func (l *Logs) MissedBefore(kind string, since, before time.Time) bool {
	if l.of(kind).compared.After(before) {
		return false
	}
	l.Missed(kind, since)
	return true
}

// Missed notes that entries of a log that is watched may be missed from a time on.
func (l *Logs) Missed(kind string, since time.Time) {
	g := l.of(kind)
	if g.flags&logWatched == 0 {
		return
	}
	at := since.UnixMilli()
	begun := earliest(g.since, g.fetching)
	if g.flags&logWhole == 0 && begun != 0 && begun <= at+LogOverlap.Milliseconds() {
		at = begun // before that it was not watched
	}
	g.since, g.dirty = earliest(g.since, at), true
}

// Published takes up an entry that was published, with its time in milliseconds, and returns which
// of those with its content it is, counted from 1; 0: it is known already.
func (l *Logs) Published(kind string, at int64, id event.ID, received time.Time) (nth int) {
	g := l.of(kind)
	c := g.coming[id]
	if c == nil {
		if g.reading && received.After(g.asked) {
			g.live = append(g.live, logEntry{at, id})
		}
		g.add(logEntry{at, id})
		g.trim()
		return g.counts[id]
	}
	if received.After(c.asked) {
		g.doubt.add(at)
	}
	if len(c.quiet) > 0 {
		nth, c.quiet = c.quiet[0], c.quiet[1:]
	}
	if c.n--; c.n == 0 {
		delete(g.coming, id)
	}
	return nth
}

// LogQuery is what is to be asked for of a log.
type LogQuery struct {
	// Begin and End are in milliseconds of the HMC's clock, both inclusive; 0: no bound.
	Begin, End int64
	// Whole says that it is all that the log may have of what is not known.
	Whole bool

	asked time.Time
	// since when the log was watched, if nothing is known of it
	since int64
}

// BeginFetch returns what is to be asked for now; false: nothing is. EndFetch has to be called
// after it. What is missed meanwhile is to be asked for after that.
func (l *Logs) BeginFetch(kind string, now time.Time) (q LogQuery, ok bool) {
	g := l.of(kind)
	switch {
	case g.since != 0:
		g.fetching, g.since, g.compared = earliest(g.fetching, g.since), 0, now
		q.Whole, q.since = true, g.fetching
		if g.floor > 0 {
			q.Begin = g.floor + 1
		}
	case g.doubt != timesMilli{}:
		q.Begin, q.End = g.doubt.from, g.doubt.to
	default:
		return q, false
	}
	g.reading, g.asked, g.live, g.doubt = true, now, nil, timesMilli{}
	q.asked = now
	return q, true
}

func earliest(a, b int64) int64 {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// EndFetch notes whether all came that was asked for.
func (l *Logs) EndFetch(kind string, q LogQuery, all bool) {
	g := l.of(kind)
	if b := &g.begun; all && q.Whole && b.newest == 0 {
		b.newest, b.console = max(1, b.last), l.console
	}
	if !g.reading {
		return // loaded since: what came may not be stored
	}
	g.reading, g.live = false, nil
	switch {
	case all && q.Whole:
		g.fetching, g.flags, g.console, g.dirty = 0, logWatched|logWhole, l.console, true
		g.trim()
	case all:
	case q.Whole:
		g.since, g.fetching, g.dirty = earliest(g.since, g.fetching), 0, true
	default:
		g.doubt.add(q.Begin)
		g.doubt.add(q.End)
	}
}

// Doubtful says whether a time of a log has to be listed again, and nothing more.
func (l *Logs) Doubtful(kind string) bool {
	g := l.of(kind)
	return g.doubt != timesMilli{} && g.since == 0 && !g.reading
}

// Arrived notes that all that was received is recorded.
func (l *Logs) Arrived(now time.Time) {
	for _, g := range l.logs {
		if !g.reading && now.Sub(g.asked) > logOnItsWay {
			g.coming = nil
		}
	}
}

// LogList is what a list has of a log. Its entries are taken up one after the other.
type LogList struct {
	logs *Logs
	kind string
	q    LogQuery
	has  map[event.ID]int // how many
	took map[event.ID]int
	// it is of a log of which nothing is known, of which these are of the watch
	unknown bool
	watch   timesMilli
	// what is of a later time than the watch and not newer than this was written before it
	newest, last int64
}

// List begins to take up what came of a log, entries with these contents.
func (l *Logs) List(kind string, q LogQuery, now time.Time, ids []event.ID) *LogList {
	list := &LogList{
		logs: l, kind: kind, q: q, has: make(map[event.ID]int), took: make(map[event.ID]int),
		watch: timesMilli{q.since, math.MaxInt64}, newest: math.MaxInt64,
	}
	for _, id := range ids {
		list.has[id]++
	}
	g := l.of(kind)
	list.unknown = g.flags&logWhole == 0 || g.console != l.console
	if q.since == 1 {
		list.watch.from = math.MinInt64
	}
	if g.flags&logOnlyNew != 0 {
		list.watch.to = now.Add(LogOverlap).UnixMilli()
	}
	if g.begun.newest != 0 && g.begun.console == l.console {
		list.newest = g.begun.newest // another one of that console, for the first was not stored
	}
	if g.flags&logWhole != 0 { // by another name it may be the same console
		for _, e := range slices.Backward(g.known[:min(g.before, len(g.known))]) {
			if list.has[e.id] > 0 {
				list.unknown = false
				break
			}
		}
	}
	return list
}

// Take takes up the next entry and returns which of those with its content it is, counted from 1;
// 0: it is not to be told, because it is known, or older than the watch.
func (s *LogList) Take(at int64, id event.ID) (nth int) {
	g := s.logs.of(s.kind)
	s.last = max(s.last, at)
	if !g.reading {
		return 0 // loaded since: it will be listed again
	}
	if s.took[id]++; s.took[id] <= g.counts[id] {
		return 0
	}
	if g.floor != 0 && at <= g.floor {
		return 0
	}
	g.add(logEntry{at, id})
	c := g.coming[id]
	if c == nil {
		if g.coming == nil {
			g.coming = make(map[event.ID]*coming)
		}
		c = &coming{asked: s.q.asked}
		g.coming[id] = c
	}
	c.n++
	if s.unknown && (at < s.watch.from || at > s.watch.to && at <= s.newest) {
		c.quiet = append(c.quiet, g.counts[id])
		return 0
	}
	return g.counts[id]
}

// End notes that all of the list was taken up.
func (s *LogList) End() {
	g := s.logs.of(s.kind)
	g.begun.last = max(g.begun.last, s.last)
	for _, e := range g.live {
		if s.has[e.id] > 0 {
			g.doubt.add(e.at)
		}
	}
}

func (g *log) add(e logEntry) {
	g.counts[e.id]++
	g.known = append(g.known, e)
	g.touch(len(g.known) - 1)
}

// touch notes that the entries from one on have to be stored.
func (g *log) touch(from int) {
	if !g.dirty || from < g.from {
		g.from = from
	}
	g.dirty = true
}

// trim forgets the entries with the lowest times, where there are too many: an HMC drops those
// first. They are not forgotten while something is to be fetched that may be older.
func (g *log) trim() {
	least := logEntries
	if g.flags&logWatched == 0 {
		least = logUnwatched
	}
	most := least + least/4
	if g.since != 0 || g.fetching != 0 || g.reading {
		most = 4 * least
	}
	if len(g.known) <= most {
		return
	}
	n := len(g.known) - least
	slices.SortStableFunc(g.known, byTime)
	for _, e := range g.known[:n] {
		if g.counts[e.id]--; g.counts[e.id] == 0 {
			delete(g.counts, e.id)
		}
		delete(g.coming, e.id)
	}
	g.floor = g.known[n-1].at
	g.known = slices.Delete(g.known, 0, n)
	g.before = len(g.known)
	g.touch(0)
}

// What is stored of a log as a whole: since, floor, console, flags.
const logHead = 8 + 8 + 4 + 1

const logEntrySize = 8 + len(event.ID{})

// Changes implements Book.
func (l *Logs) Changes(dst []queue.KeyValue) []queue.KeyValue {
	for kind, g := range l.logs {
		if !g.dirty {
			continue
		}
		key := l.prefix + kind
		head := make([]byte, 0, logHead)
		head = binary.BigEndian.AppendUint64(head, uint64(earliest(g.since, g.fetching)))
		head = binary.BigEndian.AppendUint64(head, uint64(g.floor))
		head = append(binary.BigEndian.AppendUint32(head, g.console), g.flags)
		dst = append(dst, queue.KeyValue{Key: key, Value: head})
		for _, stale := range g.stale {
			dst = append(dst, queue.KeyValue{Key: stale})
		}
		n := g.from / logBlock
		if g.from == len(g.known) {
			n = g.size()
		}
		for entries := range slices.Chunk(g.known[min(n*logBlock, len(g.known)):], logBlock) {
			block := make([]byte, 0, len(entries)*logEntrySize)
			for i := range entries {
				block = append(binary.BigEndian.AppendUint64(block, uint64(entries[i].at)), entries[i].id[:]...)
			}
			dst = append(dst, queue.KeyValue{Key: logBlockKey(key, n), Value: block})
			n++
		}
		for ; n < g.blocks; n++ {
			dst = append(dst, queue.KeyValue{Key: logBlockKey(key, n)})
		}
		g.blocks, g.stale, g.dirty, g.from = g.size(), nil, false, len(g.known)
	}
	return dst
}

// size is how many blocks there are.
func (g *log) size() int { return (len(g.known) + logBlock - 1) / logBlock }

// logBlockKey is in the order of the blocks.
func logBlockKey(key string, n int) string { return fmt.Sprintf("%s\x00%06d", key, n) }

// Load implements Book. What is being fetched meanwhile has to be fetched again. The notifications
// that may come over the link still may.
func (l *Logs) Load(stored Stored) (damaged int) {
	was := l.logs
	l.logs = make(map[string]*log)
	stored(l.prefix, func(key string, value []byte) bool {
		kind, _, isBlock := strings.Cut(key[len(l.prefix):], "\x00")
		g := l.of(kind)
		switch {
		case !isBlock:
		case key == logBlockKey(l.prefix+kind, g.blocks):
			g.blocks++
		default: // one before it is missing
			g.stale = append(g.stale, key)
			g.touch(0)
		}
		if !g.load(value, isBlock) {
			g.touch(0)
			damaged++
		}
		return true
	})
	for _, g := range l.logs {
		if !g.dirty {
			g.from = len(g.known)
		}
	}
	for kind, old := range was {
		g := l.of(kind)
		g.before, g.asked, g.begun = min(old.before, len(g.known)), old.asked, old.begun
		if g.flags == 0 && g.begun.flags != 0 { // that the watch had begun could not be stored
			g.since, g.flags, g.dirty = g.begun.since, g.begun.flags, true
		}
		for id, c := range old.coming {
			if c.n = min(c.n, g.counts[id]); c.n > 0 {
				if g.coming == nil {
					g.coming = make(map[event.ID]*coming)
				}
				c.quiet = slices.DeleteFunc(c.quiet, func(nth int) bool { return nth > g.counts[id] })
				g.coming[id] = c
			}
		}
	}
	return damaged
}

// logKept1 is how many entries earlier versions have stored, at least.
const logKept1 = 256

// load reads what is stored under one key. Earlier versions have stored the last entries with where
// the next fetch begins; of what is older than those nothing is known.
func (g *log) load(value []byte, isBlock bool) bool {
	switch {
	case isBlock:
	case len(value) == logHead:
		g.since = int64(binary.BigEndian.Uint64(value))
		g.floor = int64(binary.BigEndian.Uint64(value[8:]))
		g.console, g.flags = binary.BigEndian.Uint32(value[16:]), value[20]
		return true
	case len(value) < 8:
		return false
	default:
		g.since, g.flags = int64(binary.BigEndian.Uint64(value)), logWatched
		value = value[8:]
		g.touch(0)
	}
	if len(value)%logEntrySize != 0 {
		return false
	}
	for e := range slices.Chunk(value, logEntrySize) {
		g.counts[event.ID(e[8:])]++
		g.known = append(g.known, logEntry{int64(binary.BigEndian.Uint64(e)), event.ID(e[8:])})
	}
	if g.before = len(g.known); !isBlock && len(g.known) > 0 {
		oldest := slices.MinFunc(g.known, byTime).at
		if len(g.known) >= logKept1 {
			oldest++ // others of that time are not among them
		}
		g.since = earliest(g.since, oldest)
	}
	return true
}
