package bridge

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
)

// logWatch is a daemon that follows the audit log of a simulated HMC.
type logWatch struct {
	*daemon
	sim *hmcsim.HMC
}

func watchLog(t *testing.T, opts hmcsim.Options, extra ...string) *logWatch {
	t.Helper()
	opts.Partitions = cmp.Or(opts.Partitions, -1)
	w := &logWatch{sim: startSim(t, opts)}
	w.daemon = startDaemon(t, hmcYAML(t, "a", w.sim, append([]string{"topics: [object, audit]"}, extra...)...))
	w.connected("a")
	w.settled()
	return w
}

// settled waits until the HMC has been asked for its log and nothing more is being fetched.
func (w *logWatch) settled() {
	w.t.Helper()
	w.eventually("the log was listed", func() bool { return w.sim.RESTRequests()["get-console-audit-log"] > 0 })
}

func entry(text string) hmcsim.LogEntry {
	return hmcsim.LogEntry{EventID: "1", Message: "test " + text}
}

// want waits until entries have arrived, in whatever order, and says if another one has.
func (w *logWatch) want(texts ...string) {
	w.t.Helper()
	want := make([]string, len(texts))
	for i, text := range texts {
		want[i] = "test " + text
	}
	slices.Sort(want)
	got := func() []string { return slices.Sorted(slices.Values(marked(w.consumer.got(), event.TypeLogEntry))) }
	w.eventually(fmt.Sprintf("%q arrive", want), func() bool { return len(got()) >= len(want) })
	if got := got(); !slices.Equal(got, want) {
		w.t.Errorf("got %q, want %q", got, want)
	}
	w.uniqueIDs()
}

func (w *logWatch) uniqueIDs() {
	w.t.Helper()
	ids := make(map[string]bool)
	for _, e := range w.consumer.got() {
		if ids[e.ID] {
			w.t.Errorf("id %s twice: %s", e.ID, e.Summary)
		}
		ids[e.ID] = true
	}
}

// cut cuts the link until mend is called.
func (w *logWatch) cut() (mend func()) {
	w.t.Helper()
	w.sim.Broker().StopListening()
	w.sim.Broker().DropLinks()
	w.eventually("lost", func() bool { return w.hmc("a").State != status.StateConnected })
	return func() {
		w.t.Helper()
		if err := w.sim.Broker().StartListening(); err != nil {
			w.t.Fatal(err)
		}
		w.connected("a")
	}
}

// TestEntriesBehindAJump has the numbers of notifications jump over two entries, and the next one come minutes after them by the
// HMC's clock: only 2 of 4 arrived.
func TestEntriesBehindAJump(t *testing.T) {
	t.Parallel()
	w := watchLog(t, hmcsim.Options{})
	w.sim.LogEntries("audit", entry("1"))
	w.want("1")
	w.sim.LoseLogEntries("audit", entry("2"))
	w.sim.LoseLogEntries("audit", entry("3"))
	w.sim.SetClock(5 * time.Minute)
	w.sim.LogEntries("audit", entry("4"))
	w.want("1", "2", "3", "4")
	if g := w.awaitGaps(1)[0]; g.Recovered[event.TopicAudit] != 2 || len(g.Missing) != 0 {
		t.Errorf("gap %+v", g)
	}
}

// TestEntriesThatOverflowed has the hand-over buffer overflow on the audit topic while commits hang: only 2 of 3 arrived.
func TestEntriesThatOverflowed(t *testing.T) {
	t.Parallel()
	store := new(hangingStore)
	sim := startSim(t, hmcsim.Options{Partitions: -1})
	d := &daemon{t: t, dir: t.TempDir(), consumer: newConsumer(t), timing: testTiming(), wrapStore: store.wrap}
	d.start(d.config(hmcYAML(t, "a", sim, "topics: [object, audit]")))
	w := &logWatch{d, sim}
	w.connected("a")
	w.settled()
	sim.LogEntries("audit", entry("1"))
	w.want("1")
	store.hang()
	long := strings.Repeat("x", 4<<20)
	missed := func() float64 { return w.metric(`hmcnotifyd_notifications_missed_total{hmc="a",topic_type="audit"}`) }
	texts := []string{"1"}
	for i := 2; missed() == 0; i++ {
		text := strconv.Itoa(i)
		if sim.SetClock(time.Duration(i) * time.Minute); i < 50 {
			sim.LogEntries("audit", hmcsim.LogEntry{EventID: "1", Message: "test " + text, Items: []string{long}})
			texts = append(texts, text)
		}
		time.Sleep(100 * time.Millisecond)
	}
	store.goOn()
	sim.SetClock(time.Hour)
	sim.LogEntries("audit", entry("last"))
	w.want(append(texts, "last")...)
}

// TestEntriesOfAFullDisk has the disk full and then the link cut too: only 3 of 7 arrived, since what was fetched and could not
// be stored counted as stored.
func TestEntriesOfAFullDisk(t *testing.T) {
	t.Parallel()
	for _, spaceFirst := range []bool{false, true} {
		t.Run(fmt.Sprintf("space before the link %v", spaceFirst), func(t *testing.T) {
			t.Parallel()
			store := new(fullStore)
			sim := startSim(t, hmcsim.Options{Partitions: -1})
			d := &daemon{t: t, dir: t.TempDir(), consumer: newConsumer(t), timing: testTiming(), wrapStore: store.wrap}
			d.start(d.config(hmcYAML(t, "a", sim, "topics: [object, audit]")))
			w := &logWatch{d, sim}
			w.connected("a")
			w.settled()
			sim.LogEntries("audit", entry("1"))
			w.want("1")
			missed := func() float64 { return w.metric(`hmcnotifyd_notifications_missed_total{hmc="a",topic_type="audit"}`) }
			store.full.Store(true)
			for i := 2; i <= 3; i++ {
				sim.SetClock(time.Duration(i) * 5 * time.Minute)
				sim.LogEntries("audit", entry(strconv.Itoa(i)))
			}
			w.eventually("refused", func() bool { return missed() >= 1 })
			mend := w.cut()
			for i := 4; i <= 5; i++ {
				sim.SetClock(time.Duration(i) * 5 * time.Minute)
				sim.LogEntries("audit", entry(strconv.Itoa(i)))
			}
			if spaceFirst {
				store.full.Store(false)
			}
			refused := store.refused.Load()
			mend()
			if !spaceFirst {
				w.eventually("what is fetched is refused too", func() bool { return store.refused.Load() > refused+3 })
				w.cut()()
				store.full.Store(false)
			}
			for i := 6; i <= 7; i++ {
				sim.SetClock(time.Duration(i) * 5 * time.Minute)
				sim.LogEntries("audit", entry(strconv.Itoa(i)))
			}
			w.want("1", "2", "3", "4", "5", "6", "7")
		})
	}
}

// TestEntriesOfAFastClock has the HMC's clock an hour fast and then put right: 2 of 7 arrived, and nothing until the clock had
// caught up.
func TestEntriesOfAFastClock(t *testing.T) {
	t.Parallel()
	w := watchLog(t, hmcsim.Options{})
	w.sim.SetClock(time.Hour)
	w.sim.LogEntries("audit", entry("1"))
	w.sim.LogEntries("audit", entry("2"))
	w.want("1", "2")
	mend := w.cut()
	w.sim.LogEntries("audit", entry("3"))
	w.sim.SetClock(0)
	w.sim.LogEntries("audit", entry("4"))
	w.sim.LogEntries("audit", entry("5"))
	mend()
	w.want("1", "2", "3", "4", "5")
	mend = w.cut()
	w.sim.LogEntries("audit", entry("6"))
	mend()
	w.want("1", "2", "3", "4", "5", "6")
	w.sim.LoseLogEntries("audit", entry("7"))
	w.sim.LogEntries("audit", entry("8"))
	w.want("1", "2", "3", "4", "5", "6", "7", "8")
}

// hangingStore is a store whose commits hang.
type hangingStore struct {
	queue.Store
	mu sync.Mutex
}

func (s *hangingStore) wrap(other queue.Store) queue.Store { s.Store = other; return s }
func (s *hangingStore) hang()                              { s.mu.Lock() }
func (s *hangingStore) goOn()                              { s.mu.Unlock() }

func (s *hangingStore) Commit(g *queue.Group) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Store.Commit(g)
}

// fullStore is a store that may have no space.
type fullStore struct {
	queue.Store
	full    atomic.Bool
	refused atomic.Int64
}

func (s *fullStore) wrap(other queue.Store) queue.Store { s.Store = other; return s }

func (s *fullStore) Commit(g *queue.Group) error {
	if s.full.Load() {
		s.refused.Add(1)
		return syscall.ENOSPC
	}
	return s.Store.Commit(g)
}
