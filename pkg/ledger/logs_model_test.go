package ledger

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/tests/soak"
)

// modelEntry is an entry that a console has written.
type modelEntry struct {
	at  int64
	id  event.ID
	old bool // written before the watch of this console began
	// dropped says that the console does not hold it any more, elsewhere that it was not received, and the next link may be to
	// another console
	dropped, elsewhere bool
}

// modelConsole is a console with a log and a clock.
type modelConsole struct {
	name    string
	ahead   time.Duration
	entries []*modelEntry
	watched bool
}

// modelNotice is a notification of entries.
type modelNotice struct {
	entries  []*modelEntry
	received time.Time
	jump     bool // one before it was lost on its way
}

// modelEvent is an event of an entry.
type modelEvent struct {
	id  event.ID
	nth int
}

// modelBatch is on its way to the disk.
type modelBatch struct {
	events []modelEvent
	state  map[string][]byte
	from   time.Time // when the first of it was received
}

// logModel plays an HMC with its log, the link and the lists, the disk and the daemon's lives at random against the book. What
// it demands of the events that were stored is in check.
type logModel struct {
	t    *testing.T
	rng  *rand.Rand
	seed uint64
	now  time.Time

	consoles []*modelConsole
	coarse   time.Duration // of the times of entries
	texts    int           // how many there are
	holds    int           // entries that a console holds
	clocks   bool          // they are changed
	fast     bool          // the clock is ahead when the watch begins
	start    string        // as log_start has it

	book  *Logs
	store map[string][]byte
	// built on each other; the last one is the one that is written to
	batches []*modelBatch
	stored  map[modelEvent]int
	contact time.Time // that is stored; zero: never

	at       *modelConsole // the link is to it; nil: it is down
	wire     []modelNotice // on their way
	buffered []modelNotice // received
	last     time.Time     // when the last one was handled
	lost     bool          // one on its way was, which the next one will show

	fetch    *modelFetch
	trace    []string
	began    time.Time
	fetching bool // a fetch was asked for
	calming  bool // nothing goes wrong any more
	settled  bool // as known says
}

// modelFetch is a fetch under way.
type modelFetch struct {
	q       LogQuery
	entries []*modelEntry // what the HMC answered
	asked   bool          // it has
	list    *LogList
	next    int
}

const modelLog = event.TopicAudit

func newLogModel(t *testing.T, seed uint64) *logModel {
	rng := rand.New(rand.NewPCG(seed, 7))
	m := &logModel{
		t: t, rng: rng, seed: seed, now: logClock, book: NewLogs("a"), store: make(map[string][]byte), stored: make(map[modelEvent]int),
		coarse: []time.Duration{time.Millisecond, time.Second, time.Minute}[rng.IntN(3)], texts: 1 + rng.IntN(3),
		holds: []int{1 << 20, 1 << 20, 40}[rng.IntN(3)], clocks: rng.IntN(2) == 0, start: []string{"now", "all", "24h"}[rng.IntN(3)],
	}
	m.consoles = []*modelConsole{{name: "one"}}
	if m.clocks {
		m.consoles[0].ahead = []time.Duration{0, time.Hour, -time.Hour}[rng.IntN(3)]
		m.fast = m.consoles[0].ahead > 0
	}
	if !m.clocks && rng.IntN(3) == 0 {
		m.consoles = append(m.consoles, &modelConsole{name: "two"})
	}
	m.batches = []*modelBatch{{}}
	for _, c := range m.consoles {
		for range rng.IntN(20) {
			m.write(c, m.now.Add(c.ahead-time.Duration(2+rng.IntN(100))*time.Hour), fmt.Sprint("old ", rng.IntN(5)), true)
		}
	}
	m.note("seed %d: times of %s, %d texts, holds %d, clocks %v, %d consoles, log_start %s",
		seed, m.coarse, m.texts, m.holds, m.clocks, len(m.consoles), m.start)
	return m
}

func (m *logModel) note(format string, args ...any) {
	m.trace = append(m.trace, m.now.Format("15:04:05.000 ")+fmt.Sprintf(format, args...))
}

// failf ends the test with what happened to the entries with an id.
func (m *logModel) failf(id event.ID, format string, args ...any) {
	m.t.Helper()
	story := slices.DeleteFunc(m.trace, func(line string) bool {
		return strings.Contains(line, "#") && !strings.Contains(line, modelID(id))
	})
	m.t.Fatalf("seed %d: %s\n%s", m.seed, fmt.Sprintf(format, args...), strings.Join(story, "\n"))
}

func modelID(id event.ID) string { return fmt.Sprintf("#%x", id[:2]) }

// write has a console write an entry.
func (m *logModel) write(c *modelConsole, at time.Time, text string, old bool) *modelEntry {
	ms := at.Truncate(m.coarse).UnixMilli()
	e := &modelEntry{at: ms, id: event.IDOf(c.name, fmt.Sprint(ms), text), old: old, elsewhere: len(m.consoles) > 1 && m.at != c}
	c.entries = append(c.entries, e)
	held := 0
	for _, e := range slices.Backward(c.entries) {
		if held++; held > m.holds {
			e.dropped = true
		}
	}
	return e
}

// publish has a console write entries, and publish them.
func (m *logModel) publish(c *modelConsole) {
	var n modelNotice
	for range 1 + m.rng.IntN(3) {
		n.entries = append(n.entries, m.write(c, m.now.Add(c.ahead), fmt.Sprint("text ", m.rng.IntN(m.texts)), !c.watched))
	}
	switch {
	case m.at != c:
		m.note("%s writes %s", c.name, modelTexts(n.entries))
	case m.mayFail() && m.rng.IntN(8) == 0:
		m.note("%s writes %s, which are lost on their way", c.name, modelTexts(n.entries))
		m.lost = true
	default:
		n.jump, m.lost = m.lost, false
		m.note("%s publishes %s", c.name, modelTexts(n.entries))
		m.wire = append(m.wire, n)
	}
}

func modelTexts(entries []*modelEntry) string {
	var texts []string
	for _, e := range entries {
		texts = append(texts, modelID(e.id))
	}
	return strings.Join(texts, " ")
}

// mayFail says whether something may be missed while the link is up. Until a log is known as it was when the watch began, times
// have to tell what is of the watch: then no clock may be wrong too. Nor may it be another console's before it was fetched.
func (m *logModel) mayFail() bool {
	return !m.calming && (!m.clocks || m.known()) && len(m.consoles) == 1
}

// known says that it is stored that the log is known, with all that was published since the watch began.
func (m *logModel) known() bool {
	head := m.store[logPrefix+"a\x00"+modelLog]
	if m.settled || len(head) != logHead || head[logHead-1]&logWhole == 0 {
		return m.settled
	}
	for _, c := range m.book.of(modelLog).coming {
		if len(c.quiet) > 0 {
			return false
		}
	}
	m.settled = len(m.batches) == 1 && len(m.batch().events) == 0
	return m.settled
}

func (m *logModel) batch() *modelBatch { return m.batches[len(m.batches)-1] }

func (m *logModel) tell(e *modelEntry, nth int) {
	if nth > 0 {
		m.batch().events = append(m.batch().events, modelEvent{e.id, nth})
	}
}

// handle takes up the oldest notification that was received.
func (m *logModel) handle() {
	n := m.buffered[0]
	m.buffered = m.buffered[1:]
	if b := m.batch(); b.from.IsZero() {
		b.from = n.received
	}
	for _, e := range n.entries {
		nth := m.book.Published(modelLog, e.at, e.id, n.received)
		m.note("published %s: %d", modelID(e.id), nth)
		m.tell(e, nth)
		if m.rng.IntN(3) == 0 {
			m.send()
		}
	}
	if n.jump {
		m.note("the numbers jumped")
		m.missed(m.last)
	}
	m.last = n.received
}

func (m *logModel) missed(since time.Time) {
	m.book.Missed(modelLog, since.Add(-LogOverlap))
	m.fetching = true
}

func (m *logModel) linkUp() {
	m.at = m.consoles[m.rng.IntN(len(m.consoles))]
	defer func() { m.note("the link to %s is up", m.at.name) }()
	m.book.LinkUp(m.at.name)
	if m.began.IsZero() { // in the first moment of a time that entries may have
		unit := max(m.coarse, time.Second)
		m.now = m.now.Truncate(unit).Add(unit)
		m.began = m.now
	}
	switch m.start {
	case "now":
		m.book.Begin(modelLog, m.now, true)
	case "all":
		m.book.Begin(modelLog, time.Time{}, false)
	default:
		m.book.Begin(modelLog, m.now.Add(-24*time.Hour), false)
	}
	m.contact = m.now
	m.last, m.fetching = m.now, true
	m.at.watched = true
	m.send()
}

func (m *logModel) linkDown() {
	m.note("the link is lost")
	m.received(len(m.wire) / 2)
	for len(m.buffered) > 0 {
		m.handle()
	}
	for _, n := range m.wire {
		for _, e := range n.entries {
			e.elsewhere = len(m.consoles) > 1
		}
	}
	m.gone()
	m.missed(m.last)
}

// gone is what every end of a link is to the HMC.
func (m *logModel) gone() {
	m.at, m.wire, m.buffered, m.lost = nil, nil, nil, false
	if f := m.fetch; f != nil {
		m.fetch = nil
		m.book.EndFetch(modelLog, f.q, false)
	}
}

// received has the first n of what is on its way received.
func (m *logModel) received(n int) {
	for range n {
		m.wire[0].received = m.now
		m.buffered = append(m.buffered, m.wire[0])
		m.wire = m.wire[1:]
	}
}

// send closes a batch, which has what has changed in the book.
func (m *logModel) send() {
	b := m.batch()
	b.state = make(map[string][]byte)
	for _, kv := range m.book.Changes(nil) {
		b.state[kv.Key] = kv.Value
	}
	m.batches = append(m.batches, new(modelBatch))
}

// commit stores the oldest batch, or not; then nothing of what was built on it is.
func (m *logModel) commit(ok bool) {
	b := m.batches[0]
	if ok {
		m.batches = m.batches[1:]
		for key, value := range b.state {
			if m.store[key] = value; value == nil {
				delete(m.store, key)
			}
		}
		for _, e := range b.events {
			m.stored[e]++
		}
		return
	}
	m.note("a commit fails")
	since := m.now
	for _, b := range m.batches {
		if !b.from.IsZero() && b.from.Before(since) {
			since = b.from
		}
	}
	m.batches = []*modelBatch{{}}
	if damaged := m.book.Load(storedIn(m.store)); damaged > 0 {
		m.failf(event.ID{}, "%d values are damaged", damaged)
	}
	m.missed(since)
}

// kill ends the daemon and starts it again.
func (m *logModel) kill() {
	m.note("kill -9")
	m.batches = []*modelBatch{{}}
	m.book = NewLogs("a")
	m.book.Load(storedIn(m.store))
	m.fetch = nil
	m.gone()
	m.fetching = false
	if len(m.store) == 0 { // nothing was ever watched
		m.began = time.Time{}
		for _, c := range m.consoles {
			c.watched = false
			for _, e := range c.entries {
				e.old = true
			}
		}
		return
	}
	m.missed(m.contact)
}

// stepFetch brings a fetch forward.
func (m *logModel) stepFetch() {
	f := m.fetch
	switch {
	case m.at == nil:
	case f == nil:
		q, ok := m.book.BeginFetch(modelLog, m.now)
		if !ok {
			m.fetching = m.book.Doubtful(modelLog)
			return
		}
		m.note("asks for %+v", q)
		m.fetch = &modelFetch{q: q}
	case !f.asked:
		f.asked = true
		for _, e := range m.at.entries {
			if !e.dropped && e.at >= f.q.Begin && (f.q.End == 0 || e.at <= f.q.End) {
				f.entries = append(f.entries, e)
			}
		}
		m.note("the HMC has %s", modelTexts(f.entries))
	case !m.calming && m.rng.IntN(10) == 0:
		m.note("the answer is lost")
		m.fetch = nil
		m.book.EndFetch(modelLog, f.q, false)
	case f.list == nil:
		ids := make([]event.ID, len(f.entries))
		for i, e := range f.entries {
			ids[i] = e.id
		}
		f.list = m.book.List(modelLog, f.q, m.now, ids)
	case f.next < len(f.entries):
		for range 1 + m.rng.IntN(60) {
			if f.next == len(f.entries) {
				break
			}
			e := f.entries[f.next]
			f.next++
			nth := f.list.Take(e.at, e.id)
			m.note("listed %s: %d", modelID(e.id), nth)
			if b := m.batch(); b.from.IsZero() && nth > 0 {
				b.from = m.now
			}
			m.tell(e, nth)
			if m.rng.IntN(3) == 0 {
				m.send()
			}
		}
	default:
		f.list.End()
		m.book.EndFetch(modelLog, f.q, true)
		m.note("all is taken up, doubt %v", m.book.Doubtful(modelLog))
		m.fetch = nil
	}
}

func (m *logModel) step() {
	m.now = m.now.Add(time.Duration(m.rng.IntN(1000)) * time.Millisecond)
	c := m.consoles[m.rng.IntN(len(m.consoles))]
	switch n := m.rng.IntN(100); {
	case n < 25:
		m.publish(c)
	case n < 40:
		if len(m.wire) > 0 {
			m.received(1 + m.rng.IntN(len(m.wire)))
		}
	case n < 60:
		if len(m.buffered) > 0 {
			m.handle()
		}
	case n < 75:
		if m.at != nil {
			m.stepFetch()
		}
	case n < 85:
		m.send()
		m.commit(true)
	case n < 86 && m.rng.IntN(2) == 0 && m.mayFail():
		m.commit(false)
	case n < 87 && m.mayFail():
		if len(m.buffered) > 0 {
			m.note("the buffer is full")
			n := m.buffered[0]
			m.buffered = m.buffered[1:]
			m.missed(n.received)
		}
	case n < 88 && m.rng.IntN(2) == 0 && m.mayFail():
		m.kill()
	case n < 90 && (m.mayFail() || len(m.consoles) > 1) && m.at != nil:
		m.linkDown()
	case n < 95 && m.at == nil:
		m.linkUp()
	case n < 96 && m.clocks && !m.began.IsZero() && m.known():
		c.ahead = []time.Duration{0, time.Hour, -time.Hour, -2 * time.Second, time.Second}[m.rng.IntN(5)]
		m.note("the clock is %s ahead", c.ahead)
	case n < 97:
		m.now = m.now.Add(time.Duration(m.rng.IntN(10)) * time.Minute)
	}
	if m.at != nil && len(m.wire) == 0 && len(m.buffered) == 0 {
		m.book.Arrived(m.now)
	}
}

// calm lets everything that is under way come to its end, over the link that there is and over one to each console.
func (m *logModel) calm() {
	m.calming = true
	if m.at != nil {
		m.rest()
		if len(m.consoles) == 1 {
			m.note("all is at rest")
			m.check()
		}
	}
	for _, c := range m.consoles {
		if m.at != nil {
			m.linkDown()
		}
		all := m.consoles
		m.consoles = []*modelConsole{c}
		m.linkUp()
		m.consoles = all
		m.rest()
	}
}

// rest lets everything that is under way come to its end.
func (m *logModel) rest() {
	if m.lost { // which the next one shows
		m.publish(m.at)
	}
	for range 10_000 {
		if len(m.wire)+len(m.buffered) == 0 && m.fetch == nil && !m.fetching {
			break
		}
		m.received(len(m.wire))
		if len(m.buffered) > 0 && m.rng.IntN(2) == 0 {
			m.handle()
		}
		if m.fetching = m.fetching || m.book.Doubtful(modelLog); m.fetching || m.fetch != nil {
			m.stepFetch()
		}
	}
	if m.fetching {
		m.failf(event.ID{}, "it never rests")
	}
	m.send()
	for len(m.batches) > 1 {
		m.commit(true)
	}
}

// check demands that each entry that is held, or was published, and is of the watch, was stored once, with an id of its own, and
// none that was written before, but where log_start says so.
func (m *logModel) check() {
	written, old, held := make(map[event.ID]int), make(map[event.ID]int), make(map[event.ID]int)
	for _, c := range m.consoles {
		for _, e := range c.entries {
			switch {
			case e.old && m.start != "all":
				old[e.id]++
				if e.dropped {
					held[e.id]--
				}
				continue
			case e.dropped:
				held[e.id]-- // of those alike nobody can tell which one is gone
			case !e.elsewhere:
				held[e.id]++
			}
			written[e.id]++
		}
	}
	told := make(map[event.ID]int)
	for e, n := range m.stored {
		if n != 1 {
			m.failf(e.id, "the entry %d of %s was stored %d times", e.nth, modelID(e.id), n)
		}
		told[e.id]++
	}
	for id, n := range held {
		if told[id] < n {
			m.failf(id, "%d of %d entries %s were stored", told[id], n, modelID(id))
		}
	}
	for id, n := range told {
		// Where times tell what is of the watch, what is older may be told: of another console what is as old as the last contact, of
		// a console whose clock is ahead what is as much older.
		byTimes := len(m.consoles) > 1 || m.start == "24h" || m.fast
		if n > written[id] && !(byTimes && n <= written[id]+old[id]) {
			m.failf(id, "%d entries %s were stored, of %d of the watch and %d before", n, modelID(id), written[id], old[id])
		}
	}
}

// TestLogsModel plays at random what HMCs, links, disks and clocks may do, with entries of which many are the same. Each that the
// HMC still holds is told once and under an id of its own.
func TestLogsModel(t *testing.T) {
	runs := soak.Count(t, "LOGS", 300, 20_000)
	seed := rand.Uint64() >> 1
	if s, err := strconv.ParseUint(os.Getenv("HMCNOTIFYD_LOGS_SEED"), 10, 64); err == nil {
		seed, runs = s, 1
	}
	t.Logf("%d runs from seed %d on; HMCNOTIFYD_LOGS_SEED=... repeats one", runs, seed)
	entries, told := 0, 0
	for i := range runs {
		m := newLogModel(t, seed+uint64(i))
		for range 600 {
			m.step()
		}
		m.calm()
		m.check()
		for _, c := range m.consoles {
			entries += len(c.entries)
		}
		told += len(m.stored)
	}
	t.Logf("%d entries were written, %d were told", entries, told)
}
