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
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
)

// logWatch is a daemon that follows the audit log of a simulated HMC.
type logWatch struct {
	*daemon
	sim *hmcsim.HMC
}

func watchLog(t *testing.T, opts hmcsim.Options, extra ...string) *logWatch {
	t.Helper()
	return watchLogIn(t, nil, opts, extra...)
}

// watchLogIn is watchLog with a store of its own.
func watchLogIn(t *testing.T, wrap func(queue.Store) queue.Store, opts hmcsim.Options, extra ...string) *logWatch {
	t.Helper()
	opts.Partitions = cmp.Or(opts.Partitions, -1)
	w := &logWatch{sim: hmctest.Start(t, opts)}
	w.daemon = &daemon{t: t, dir: t.TempDir(), consumer: newConsumer(t), timing: testTiming(), wrap: wrap, buffers: 256 << 10}
	w.start(w.config(hmcYAML(t, "a", w.sim, append([]string{"topics: [object, audit]"}, extra...)...)))
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
	w.eventually(fmt.Sprintf("%q arrive", want), func() bool {
		got := w.consumer.got()
		return len(got) >= len(want) && len(marked(got, event.TypeLogEntry)) >= len(want)
	})
	if got := slices.Sorted(slices.Values(marked(w.consumer.got(), event.TypeLogEntry))); !slices.Equal(got, want) {
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
	w := watchLogIn(t, store.wrap, hmcsim.Options{})
	sim := w.sim
	sim.LogEntries("audit", entry("1"))
	w.want("1")
	store.hang()
	long := strings.Repeat("x", 32<<10)
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
			w := watchLogIn(t, store.wrap, hmcsim.Options{})
			sim := w.sim
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

// TestEqualEntriesAreDifferent has entries with the same content: three in one notification, one alone, two while the link is
// cut, two while the daemon is down. Each is an event with an id of its own, and the first has the id that it always had.
func TestEqualEntriesAreDifferent(t *testing.T) {
	t.Parallel()
	w := watchLog(t, hmcsim.Options{})
	e := entry("same")
	e.Time = time.Now()
	arrived := func(n int) {
		t.Helper()
		want := make([]string, n)
		for i := range want {
			want[i] = "same"
		}
		w.want(want...)
	}
	w.sim.LogEntries("audit", e, e, e)
	arrived(3)
	w.sim.LogEntries("audit", e)
	arrived(4)
	first := event.NewID(event.TypeLogEntry, "a", event.TopicAudit, strconv.FormatInt(e.Time.UnixMilli(), 10), "1", "", "test same", "[]")
	if got := w.consumer.got()[0].ID; got != first {
		t.Errorf("the first has the id %s, want %s", got, first)
	}
	mend := w.cut()
	w.sim.LogEntries("audit", e, e)
	mend()
	arrived(6)
	w.sim.LogEntries("audit", e)
	arrived(7)
	w.stop()
	w.sim.LogEntries("audit", e, e)
	w.start(w.bridge.now().cfg)
	w.connected("a")
	arrived(9)
	w.awaitGaps(2)
	arrived(9)
}

// TestLogStart begins to follow logs that have entries already.
func TestLogStart(t *testing.T) {
	t.Parallel()
	for start, want := range map[string][]string{
		"now": nil, "24h": {"3 hours ago"}, "all": {"3 days ago", "3 hours ago"},
		time.Now().Add(-96 * time.Hour).UTC().Format(time.RFC3339): {"3 days ago", "3 hours ago"},
	} {
		t.Run(start, func(t *testing.T) {
			t.Parallel()
			sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
			write := func(text string, ago time.Duration) {
				e := entry(text)
				e.Time = time.Now().Add(-ago)
				sim.LogEntries("audit", e)
			}
			write("3 days ago", 72*time.Hour)
			write("3 hours ago", 3*time.Hour)
			d := startDaemon(t, hmcYAML(t, "a", sim, "topics: [audit]", "log_start: "+start))
			w := &logWatch{d, sim}
			w.connected("a")
			w.settled()
			sim.LogEntries("audit", entry("live"))
			want := append(slices.Clone(want), "live")
			w.want(want...)
			w.cut()()
			w.awaitGaps(1)
			w.want(want...) // what is older stays untold
			for _, e := range w.consumer.got() {
				if fetched := e.Origin == event.OriginBackfill; fetched == strings.Contains(e.Summary, "live") {
					t.Errorf("%s came by %s", e.Summary, e.Origin)
				}
			}
			got := marked(w.consumer.got(), event.TypeLogEntry)
			got = slices.DeleteFunc(got, func(mark string) bool { return mark == "test live" }) // may come first
			if len(got) == 2 && got[0] != "test 3 days ago" {
				t.Errorf("not in the order of their times: %q", got)
			}
		})
	}
}

// TestLogThatCannotBeListed has the list of a log fail for longer than a gap waits for it: what was missed comes all the same, as
// soon as the HMC answers.
func TestLogThatCannotBeListed(t *testing.T) {
	t.Parallel()
	w := watchLog(t, hmcsim.Options{})
	w.sim.LogEntries("audit", entry("1"))
	w.want("1")
	w.sim.FaultREST(hmcsim.RESTFault{Kind: hmcsim.RESTFaultStatus, URI: "get-audit-log", Status: 500})
	w.sim.LoseLogEntries("audit", entry("2"))
	w.sim.LogEntries("audit", entry("3"))
	w.want("1", "3")
	if g := w.awaitGaps(1)[0]; !strings.Contains(fmt.Sprint(g.Missing), "entries of the audit log, which could not be fetched") {
		t.Errorf("gap %+v", g)
	}
	w.sim.ClearRESTFaults()
	w.want("1", "2", "3")
}

// TestEntryLostWhileTheLogIsListed has the first entry of a session get lost while an answer is on its way that was made before:
// that it is missing shows at once, and was forgotten with the answer.
func TestEntryLostWhileTheLogIsListed(t *testing.T) {
	t.Parallel()
	late := hmcsim.RESTFault{Kind: hmcsim.RESTFaultLate, URI: "get-audit-log", Times: 1, Delay: 300 * time.Millisecond}
	w := watchLog(t, hmcsim.Options{RESTFaults: []hmcsim.RESTFault{late}})
	w.eventually("the answer is on its way", func() bool {
		return slices.ContainsFunc(w.sim.Calls(), func(c hmcsim.Call) bool { return c.Operation == "get-console-audit-log" })
	})
	w.sim.LoseLogEntries("audit", entry("1"))
	w.sim.LoseLogEntries("audit", entry("2")) // the first number may be 0 or 1: one says nothing
	w.sim.LogEntries("audit", entry("3"))
	w.want("1", "2", "3")
}

// TestLogOfAnotherHost has a second console take over, which has a log of its own: of that what was written since the last
// contact with the first one is told, and not all that it has. Back again, what the first one wrote meanwhile is.
func TestLogOfAnotherHost(t *testing.T) {
	t.Parallel()
	one := hmctest.Start(t, hmcsim.Options{Partitions: -1, Name: "one"})
	two := hmctest.Start(t, hmcsim.Options{
		Partitions: -1, Name: "two", CA: one.CA(), RESTAddr: fmt.Sprintf("127.0.0.2:%d", one.RESTPort()), StompAddr: fmt.Sprintf("127.0.0.2:%d", one.StompPort()),
	})
	old := entry("old")
	old.Time = time.Now().Add(-time.Hour)
	two.LogEntries("audit", old)
	hosts := strings.NewReplacer(one.Host()+`"]`, one.Host()+`", 127.0.0.2]`, "tls: {", "tls: {server_name: localhost, ")
	d := startDaemon(t, hosts.Replace(hmcYAML(t, "a", one, "topics: [object, audit]")))
	w := &logWatch{d, one}
	w.connected("a")
	w.settled()
	one.LogEntries("audit", entry("1"))
	w.want("1")
	one.Stop()
	two.LogEntries("audit", entry("2"))
	w.eventually("the second took over", func() bool { h := w.hmc("a"); return h.Connected && h.Host == "127.0.0.2" })
	two.LogEntries("audit", entry("3"))
	w.want("1", "2", "3")
	w.awaitGaps(1)
	w.want("1", "2", "3")
	two.Stop()
	if err := one.Resume(); err != nil {
		t.Fatal(err)
	}
	w.eventually("the first is back", func() bool { h := w.hmc("a"); return h.Connected && h.Host == "127.0.0.1" })
	one.LogEntries("audit", entry("4"))
	w.awaitGaps(2)
	w.want("1", "2", "3", "4")
}
