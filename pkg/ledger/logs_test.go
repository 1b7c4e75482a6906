package ledger

import (
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// logClock is when the stories of these tests begin.
var logClock = time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC)

// logTest is a book of which one log is looked at, and what is stored of it.
type logTest struct {
	t     *testing.T
	book  *Logs
	state map[string][]byte
	now   time.Time
}

// newLogTest is a log that is watched from now on and has nothing yet.
func newLogTest(t *testing.T) *logTest {
	l := &logTest{t: t, book: NewLogs("a"), state: make(map[string][]byte), now: logClock}
	l.book.LinkUp("one")
	l.book.Begin(modelLog, l.now, true)
	l.list("")
	return l
}

func (l *logTest) at(n int) int64 { return logClock.Add(time.Duration(n) * time.Second).UnixMilli() }

// published takes up entries that are published, and demands which of its content each is.
func (l *logTest) published(want string, entries ...int) {
	l.t.Helper()
	var got []int
	for _, n := range entries {
		got = append(got, l.book.Published(modelLog, l.at(n), seenID(n), l.now))
	}
	if fmt.Sprint(got) != want {
		l.t.Errorf("published %v: %v, want %v", entries, got, want)
	}
}

// list has the HMC asked, which has these entries.
func (l *logTest) list(want string, entries ...int) {
	l.t.Helper()
	q, ok := l.book.BeginFetch(modelLog, l.now)
	if !ok {
		l.t.Error("nothing is to be fetched")
	}
	l.take(q, want, entries...)
	l.book.EndFetch(modelLog, q, true)
}

func (l *logTest) take(q LogQuery, want string, entries ...int) {
	l.t.Helper()
	var ids []event.ID
	for _, n := range entries {
		ids = append(ids, seenID(n))
	}
	list := l.book.List(modelLog, q, l.now, ids)
	var got []int
	for i, n := range entries {
		got = append(got, list.Take(l.at(n), ids[i]))
	}
	list.End()
	if want != "" && fmt.Sprint(got) != want {
		l.t.Errorf("listed %v: %v, want %v", entries, got, want)
	}
}

// restart makes another book of what is stored.
func (l *logTest) restart() {
	l.t.Helper()
	store(l.state, l.book)
	l.book = NewLogs("a")
	if damaged := l.book.Load(storedIn(l.state)); damaged > 0 {
		l.t.Errorf("%d values are damaged", damaged)
	}
}

// next passes time.
func (l *logTest) next() { l.now = l.now.Add(time.Second) }

// TestEqualEntries has three equal entries in one notification and a further one alone: each is another entry, also after a
// restart, and a list that has them has none that is new.
func TestEqualEntries(t *testing.T) {
	l := newLogTest(t)
	l.published("[1 2 3]", 7, 7, 7)
	l.published("[4]", 7)
	l.restart()
	l.published("[5]", 7)
	l.book.Missed(modelLog, l.now)
	l.next()
	l.list("[0 0 0 0 0 6]", 7, 7, 7, 7, 7, 7)
}

// TestListBeforeNotification has a list ask for entries whose notifications are handled after it: they are no further ones.
// One that was received after the list was asked for may be of a further one: then the list decides that is asked for next.
func TestListBeforeNotification(t *testing.T) {
	l := newLogTest(t)
	before := l.now
	l.next()
	l.book.Missed(modelLog, l.now)
	l.list("[1 2]", 7, 7)
	asked := l.now
	l.now = before
	l.published("[0]", 7)
	if l.book.Doubtful(modelLog) {
		t.Error("what was received before the list was asked for is on it")
	}
	l.now = asked.Add(time.Second)
	l.published("[0 3]", 7, 7)
	if !l.book.Doubtful(modelLog) {
		t.Fatal("what was received after the list was asked for may be another one")
	}
	if q, ok := l.book.BeginFetch(modelLog, l.now); !ok || q.Begin != l.at(7) || q.End != l.at(7) || q.Whole {
		t.Errorf("asks for %+v", q)
	} else {
		l.take(q, "[0 0 0 4]", 7, 7, 7, 7)
		l.book.EndFetch(modelLog, q, false)
	}
	if !l.book.Doubtful(modelLog) {
		t.Error("the answer did not come, and nothing is in doubt")
	}
	l.book.LinkUp("one")
	l.published("[5]", 7) // over another link nothing comes that was listed before
}

// TestArrived has a list that had an entry before its notification, and the notification does not come: soon one like it is a new
// one again.
func TestArrived(t *testing.T) {
	for _, tt := range []struct {
		wait time.Duration
		want string
	}{{logOnItsWay, "[0]"}, {logOnItsWay + 2*time.Second, "[2]"}} {
		l := newLogTest(t)
		l.next()
		l.book.Missed(modelLog, l.now)
		l.list("[1]", 7)
		l.now = l.now.Add(tt.wait)
		l.book.Arrived(l.now)
		l.published(tt.want, 7)
	}
}

// TestNotificationBeforeList has an entry published while a list is asked for that has one like it.
func TestNotificationBeforeList(t *testing.T) {
	l := newLogTest(t)
	l.book.Missed(modelLog, l.now)
	q, _ := l.book.BeginFetch(modelLog, l.now)
	l.next()
	l.published("[1]", 7)
	l.take(q, "[0]", 7)
	l.book.EndFetch(modelLog, q, true)
	l.next()
	l.list("[0 2]", 7, 7) // the list had been made before it was published
}

// TestLogBegins begins to watch a log in each way: what was written before is known and not told.
func TestLogBegins(t *testing.T) {
	for _, tt := range []struct {
		name    string
		start   int
		all     bool
		onlyNew bool
		want    string
	}{
		{"now", 0, false, true, "[0 0 1 0]"}, // what is of a later time than now is of an HMC whose clock is ahead
		{"from a time on", -50, false, false, "[0 1 1 1]"},
		{"all", 0, true, false, "[1 1 1 1]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := &logTest{t: t, book: NewLogs("a"), state: make(map[string][]byte), now: logClock}
			l.book.LinkUp("one")
			start := l.now.Add(time.Duration(tt.start) * time.Second)
			if tt.all {
				start = time.Time{}
			}
			l.book.Missed(modelLog, l.now.Add(-time.Hour)) // it is not watched
			if _, ok := l.book.BeginFetch(modelLog, l.now); ok {
				t.Error("a log is fetched that nobody watches")
			}
			l.book.Begin(modelLog, start, tt.onlyNew)
			l.restart() // before the log was listed
			l.book.LinkUp("one")
			l.book.Begin(modelLog, l.now.Add(time.Hour), false)
			l.book.Missed(modelLog, l.now.Add(-LogOverlap))
			l.list(tt.want, -100, -50, 1, 3600)
			l.restart()
			l.book.Missed(modelLog, l.now)
			l.list("[0 0 0 0 1]", -100, -50, 1, 3600, -3600) // a clock was put back
		})
	}
}

// TestBeginRefused has the first commit fail: that the watch had begun is known all the same.
func TestBeginRefused(t *testing.T) {
	l := newLogTest(t)
	l.published("[1]", 7)
	l.book.Changes(nil) // and refused
	l.book.Load(storedIn(l.state))
	l.book.Missed(modelLog, l.now)
	l.next()
	l.list("[0 1 2]", -7, 7, 7)
}

// TestFirstListIsNotStored has the storage fail right after the first list, with an HMC whose clock is ahead: what that list did
// not have is new.
func TestFirstListIsNotStored(t *testing.T) {
	l := newLogTest(t) // stored is nothing: neither that the watch has begun nor the list
	l.now = l.now.Add(time.Minute)
	l.published("[1]", 3600) // the clock of the HMC is ahead
	l.book.Load(storedIn(l.state))
	l.book.Missed(modelLog, l.now)
	l.list("[1 1]", 3600, 3660)
	other := newLogTest(t)
	other.book.Load(storedIn(other.state))
	other.book.LinkUp("two") // what that one has was never listed
	other.book.Missed(modelLog, l.now)
	other.list("[0]", 3600)
}

// TestOtherConsole lists the log of a console that was not known: of that it takes what was written since the last contact. The
// same console under another name is known by its entries.
func TestOtherConsole(t *testing.T) {
	l := newLogTest(t)
	l.published("[1]", 7)
	l.book.LinkUp("one by another name")
	l.book.Missed(modelLog, l.now.Add(100*time.Second))
	l.list("[1 0 1]", -3600, 7, 200)
	l.book.LinkUp("two")
	l.book.Missed(modelLog, l.now.Add(300*time.Second))
	l.published("[1]", 310) // is of this one, so that it shows nothing
	l.list("[0 1 0 1]", -1800, 300, 310, 320)
}

// TestLoadWhileListing has a commit fail while a list is taken up: the rest of it is not told by what was known before.
func TestLoadWhileListing(t *testing.T) {
	l := newLogTest(t)
	l.published("[1]", 7)
	store(l.state, l.book)
	l.published("[1]", 8)
	l.book.Missed(modelLog, l.now)
	q, _ := l.book.BeginFetch(modelLog, l.now)
	list := l.book.List(modelLog, q, l.now, []event.ID{seenID(8), seenID(9)})
	l.book.Load(storedIn(l.state))
	l.book.Missed(modelLog, l.now)
	if list.Take(l.at(8), seenID(8)) != 0 || list.Take(l.at(9), seenID(9)) != 0 {
		t.Error("a list is taken up that was asked for before")
	}
	list.End()
	l.book.EndFetch(modelLog, q, true)
	l.list("[0 1 1]", 7, 8, 9)
}

// TestLoadBeforeNotification has a commit fail between a list and the notifications of what it had: of what is stored of it they
// tell nothing new, of the rest they do.
func TestLoadBeforeNotification(t *testing.T) {
	l := newLogTest(t)
	store(l.state, l.book)
	l.book.Missed(modelLog, l.now)
	l.next()
	q, _ := l.book.BeginFetch(modelLog, l.now)
	l.take(q, "[1 2]", 7, 7)
	store(l.state, l.book)
	l.take(q, "[0 0 3]", 7, 7, 7)
	l.book.Changes(nil) // and refused
	l.book.Load(storedIn(l.state))
	l.book.Missed(modelLog, l.now)
	l.published("[0 0 3]", 7, 7, 7)
	l.list("[0 0 0 4]", 7, 7, 7, 7)
}

// TestMissedBefore lists a log again for what was missed before it was listed.
func TestMissedBefore(t *testing.T) {
	l := newLogTest(t)
	if l.book.MissedBefore(modelLog, l.now, l.now.Add(-time.Second)) {
		t.Error("the log was listed since")
	}
	l.next()
	if !l.book.MissedBefore(modelLog, l.now, l.now) {
		t.Error("the log was not listed since")
	}
	l.list("[1]", 7)
}

// TestLogsForget fills a log with more than is remembered: what was forgotten is not told again, and what is missed meanwhile is
// not forgotten before it could be fetched.
func TestLogsForget(t *testing.T) {
	l := newLogTest(t)
	for n := range logEntries {
		l.book.Published(modelLog, l.at(n), seenID(n), l.now)
	}
	l.book.Missed(modelLog, l.now)
	for n := logEntries; n < 2*logEntries; n++ {
		l.book.Published(modelLog, l.at(n), seenID(n), l.now)
	}
	l.list("[0 1]", 7, -7)
	if known := len(l.book.of(modelLog).known); known != logEntries {
		t.Errorf("%d entries are known", known)
	}
	l.restart()
	l.book.Missed(modelLog, l.now)
	if q, _ := l.book.BeginFetch(modelLog, l.now); q.Begin != l.at(logEntries-1)+1 {
		t.Errorf("asks from %d on, want %d", q.Begin, l.at(logEntries-1)+1)
	}
	l.book.Missed(modelLog, l.now)
	l.list("[0 0 0 1]", 7, -7, logEntries, 3*logEntries)
	if got, want := len(l.state), 1+(logEntries+logBlock-1)/logBlock; got != want {
		t.Errorf("%d values are stored, want %d", got, want)
	}
	most := 0
	for range 5 * logEntries { // while nothing can be fetched
		l.book.Missed(modelLog, l.now)
		most++
		l.book.Published(modelLog, l.at(4*logEntries+most), seenID(4*logEntries+most), l.now)
	}
	if known := len(l.book.of(modelLog).known); known > 4*logEntries {
		t.Errorf("%d entries are known", known)
	}
}

// TestLogsUnwatched remembers less of a log that is never fetched.
func TestLogsUnwatched(t *testing.T) {
	l := &logTest{t: t, book: NewLogs("a"), state: make(map[string][]byte), now: logClock}
	for n := range 3 * logUnwatched {
		l.published("[1]", n)
	}
	l.restart()
	l.published("[2 1]", 3*logUnwatched-1, 0)
	if n := len(l.book.of(modelLog).known); n < logUnwatched || n > 2*logUnwatched {
		t.Errorf("%d entries are known", n)
	}
}

// TestLogsOfEarlierVersions loads what earlier versions have stored: the last entries, and where the next fetch begins, if
// entries were missed. What is older than those is not told, and what the earlier version took for one entry is.
func TestLogsOfEarlierVersions(t *testing.T) {
	for _, tt := range []struct {
		name    string
		resume  int64
		entries int
		want    string
	}{
		{"all are kept", 0, 255, "[0 0 2 0 2 1]"},
		{"the last are kept", 0, 256, "[0 0 0 0 2 1]"},
		{"some were missed", logClock.Add(-time.Minute).UnixMilli(), 255, "[1 0 2 0 2 1]"},
	} {
		value := binary.BigEndian.AppendUint64(nil, uint64(tt.resume))
		for n := range tt.entries {
			id := seenID(n)
			value = append(binary.BigEndian.AppendUint64(value, uint64(logClock.UnixMilli()+int64(n)*1000)), id[:]...)
		}
		l := &logTest{t: t, book: NewLogs("a"), state: map[string][]byte{"log/a\x00audit": value}, now: logClock.Add(time.Hour)}
		l.restart()
		l.book.Missed(modelLog, l.now)
		l.book.LinkUp("one")
		l.book.Begin(modelLog, l.now, true)
		l.restart()
		l.book.LinkUp("one")
		t.Log(tt.name)
		l.list(tt.want, -10, 0, 0, 7, 7, 3600)
	}
}

// TestDamagedLogs loads what cannot be read: what is left is known, and stored as it has to be.
func TestDamagedLogs(t *testing.T) {
	for _, broken := range []string{"log/a\x00audit", "log/a\x00audit\x00000001"} {
		l := newLogTest(t)
		for n := range 3 * logBlock {
			l.published("[1]", n)
		}
		store(l.state, l.book)
		l.state[broken] = []byte{1}
		l.book = NewLogs("a")
		if damaged := l.book.Load(storedIn(l.state)); damaged != 1 {
			t.Errorf("%q: %d values are damaged", broken, damaged)
		}
		l.book.LinkUp("one")
		l.book.Begin(modelLog, l.now, false)
		l.book.Missed(modelLog, l.now)
		l.list("[0 0]", 0, 3*logBlock-1)
		l.restart()
		for _, value := range l.state {
			if len(value) == 1 {
				t.Errorf("%q: it is still there", broken)
			}
		}
	}
	// a block that is gone
	l := newLogTest(t)
	for n := range 3 * logBlock {
		l.published("[1]", n)
	}
	store(l.state, l.book)
	delete(l.state, "log/a\x00audit\x00000001")
	l.restart()
	if keys := slices.Sorted(func(yield func(string) bool) {
		for key := range l.state {
			yield(key)
		}
	}); len(keys) != 3 {
		t.Errorf("%q are stored", keys)
	}
	l.book.Missed(modelLog, l.now)
	l.list("[0 0 1]", 0, 3*logBlock-1, logBlock)
}
