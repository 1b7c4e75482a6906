package record

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/ledger"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
)

// disk is a store whose commits fail or wait as a test says.
type disk struct {
	queue.Store
	full    atomic.Bool
	failing atomic.Int32 // how many commits fail
	refused atomic.Int32 // how many have, since somebody asked
	mu      sync.Mutex   // held: commits wait
}

func (d *disk) Commit(g *queue.Group) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.full.Load() || d.failing.Add(-1) >= 0 {
		d.refused.Add(1)
		return syscall.ENOSPC
	}
	return d.Store.Commit(g)
}

// house is a group whose events go to a disk that may refuse them.
type house struct {
	t      *testing.T
	disk   *disk
	queue  *queue.Queue
	cursor *queue.Cursor
	group  *Group
	gapsOf map[string][]ledger.Gap // by HMC, as stored returned them
}

func newHouse(t *testing.T, members int) *house {
	t.Helper()
	h := &house{t: t, disk: new(disk), gapsOf: make(map[string][]ledger.Gap)}
	var err error
	h.queue, err = queue.Open(queue.Options{Dir: t.TempDir(), Wrap: func(s queue.Store) queue.Store {
		h.disk.Store = s
		return h.disk
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.queue.Close() })
	if h.cursor, err = h.queue.Cursor("x"); err != nil {
		t.Fatal(err)
	}
	h.group = NewGroup("east", h.queue, zap.NewNop())
	h.group.Configured(members)
	return h
}

func (h *house) open(name string) (*Recorder, *watcher) {
	r, w := openRecorder(name, h.group, event.TopicAudit, event.TopicJob)
	w.fetch = true
	return r, w
}

// askingHouse is one of one HMC, which is connected, and can be asked.
func askingHouse(t *testing.T) (*house, *Recorder, *watcher) {
	t.Helper()
	h := newHouse(t, 1)
	r, w := h.open("a")
	w.asks = true
	connect(r)
	h.stored()
	return h, r, w
}

func connect(r *Recorder) {
	up := Connection{Host: "h", NewSession: true, Topics: []TopicLabel{{Name: "u.audit", Type: event.TopicAudit}}}
	r.Connected(context.Background(), up, true, time.Now())
}

// change has an HMC publish a property change with this mark, of a partition of that name.
func (h *house) change(r *Recorder, mark string) {
	h.t.Helper()
	h.group.Estate.Place("/api/partitions/"+mark, mark, "")
	received(h.t, r, "u.object", receiver.Headers{
		{Name: "notification-type", Value: event.TypePropertyChange},
		{Name: "message-id", Value: mark},
		{Name: "class", Value: "partition"},
		{Name: "name", Value: mark},
		{Name: "object-uri", Value: "/api/partitions/" + mark},
		{Name: "property-names", Value: " description "},
	}, `{"change-reports":[{"property-name":"description","new-value":"x"}]}`)
}

// refused waits until the disk has refused what was handed to it, and the group has heard of it. Where a transaction has begun
// since, it has loaded what is stored.
func (h *house) refused() {
	h.t.Helper()
	_ = h.queue.Flush() // after this the queue may have found out that the disk works again
	if h.disk.refused.Swap(0) == 0 {
		h.t.Fatal("nothing was refused")
	}
	if landing := h.group.flight.landing(); landing != nil {
		<-landing
	}
}

// works makes the disk work again.
func (h *house) works() {
	h.t.Helper()
	h.disk.full.Store(false)
	for end := time.Now().Add(time.Minute); h.queue.Err() != nil; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			h.t.Fatal("the queue does not try again")
		}
	}
}

// settle lets time pass for a recorder, until gaps are reported.
func (h *house) settle(r *Recorder) {
	h.t.Helper()
	r.tick(h.t.Context(), false)
	r.Filled()
	now := r.now
	defer func() { r.now = now }()
	r.now = func() time.Time { return now().Add(time.Minute) }
	r.tick(h.t.Context(), false)
}

// events returns what was stored since the last call.
func (h *house) events() (all []*event.Event) {
	h.t.Helper()
	if err := h.queue.Flush(); err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	for {
		records, err := h.cursor.Next(ctx, 1000, 0)
		if err != nil {
			return all
		}
		for i := range records {
			rec, err := event.ParseRecord(records[i].Data)
			if err != nil {
				h.t.Fatal(err)
			}
			e, err := rec.Event()
			if err != nil {
				h.t.Fatal(err)
			}
			all = append(all, e)
		}
		_ = h.cursor.Ack(records[len(records)-1].Seq)
	}
}

// stored returns what was stored since the last call: marks of changes, types of other events.
func (h *house) stored() (marks []string, gaps []ledger.Gap) {
	h.t.Helper()
	for _, e := range h.events() {
		switch {
		case e.Type == event.TypeBridgeGap:
			var g ledger.Gap
			if err := json.Unmarshal(e.Body, &g); err != nil {
				h.t.Fatal(err)
			}
			gaps = append(gaps, g)
			h.gapsOf[e.HMC] = append(h.gapsOf[e.HMC], g)
		case e.Resource != nil:
			marks = append(marks, e.Resource.Name)
		default:
			marks = append(marks, e.Type)
		}
	}
	return marks, gaps
}

// What could not be stored is counted and named by one gap, is as if it had never come, and is fetched once the disk works.
func TestCommitFails(t *testing.T) {
	h := newHouse(t, 1)
	r, w := h.open("a")
	connect(r)
	h.change(r, "before")
	r.Flush(t.Context())
	if marks, _ := h.stored(); !slices.Equal(marks, []string{event.TypeBridgeConnected, "before"}) {
		t.Fatalf("stored %q", marks)
	}
	before := time.Now()
	h.disk.full.Store(true)
	h.disk.mu.Lock() // or the refusal is heard of before the outbox has something
	h.change(r, "refused")
	r.Flush(t.Context())
	h.change(r, "in the outbox")
	h.disk.mu.Unlock()
	h.refused()
	// Whatever begins next finds what is stored.
	if r.Replaying("x"); h.group.flight.failed.Load() || len(h.group.out.ends) != 0 {
		t.Error("what could not be stored is still there")
	}
	if w.missed[event.TopicObject] != 2 {
		t.Errorf("missed: %v", w.missed)
	}
	if v := r.View(); v.BlindSince.Before(before) || !v.Pending {
		t.Errorf("view: %+v", v)
	}
	h.change(r, "while it refuses")
	r.tick(t.Context(), false)
	h.refused()
	r.tick(t.Context(), false)
	if v := r.View(); v.Gaps != 0 || len(w.fetched) != 0 {
		t.Errorf("%d gaps are reported to a disk that refuses, %v fetched", v.Gaps, w.fetched)
	}
	h.works()
	end := time.Now()
	h.change(r, "refused") // the broker sends it again
	h.settle(r)
	marks, gaps := h.stored()
	if !slices.Equal(marks, []string{"refused"}) || len(gaps) != 1 {
		t.Fatalf("stored %q, gaps %v", marks, gaps)
	}
	g := gaps[0]
	if g.From.Before(before.Truncate(time.Millisecond)) || g.To.Before(g.From) || g.To.Before(end.Add(-time.Second)) ||
		g.Missed[event.TopicObject] != 3 || len(g.Causes) != 1 || !strings.Contains(g.Causes[0], syscall.ENOSPC.Error()) {
		t.Errorf("gap %+v, from %s to %s", g, before, end)
	}
	if len(w.fetched) != 1 || !w.fetched[0][""] {
		t.Errorf("fetched %v", w.fetched)
	}
	h.settle(r)
	if marks, gaps := h.stored(); len(marks) != 0 || len(gaps) != 0 || r.View().Gaps != 1 || !r.View().BlindSince.IsZero() {
		t.Errorf("stored %q, gaps %v, view %+v", marks, gaps, r.View())
	}
}

// The events of all HMCs of a group are in one transaction: each of them loses, counts and reports its own.
func TestCommitOfGroupFails(t *testing.T) {
	h := newHouse(t, 2)
	a, wa := h.open("a")
	b, wb := h.open("b")
	connect(a)
	connect(b)
	h.stored()
	before := time.Now()
	h.disk.full.Store(true)
	h.disk.mu.Lock()
	h.change(a, "a's")
	a.Flush(t.Context())
	h.change(b, "b's, in flight")
	b.Flush(t.Context())
	h.change(b, "b's, in the outbox")
	h.disk.mu.Unlock()
	h.refused()
	// That the commit was refused is no news of other recorders: b, which begins first, loads for a too.
	h.change(b, "b's, after it")
	if wa.missed[event.TopicObject] != 1 || wb.missed[event.TopicObject] != 2 {
		t.Errorf("missed: %v, %v", wa.missed, wb.missed)
	}
	h.works()
	b.begin(t.Context()).end()
	if now := time.Now(); a.tx.gaps.Watched(before, now, event.TopicObject) || !a.tx.gaps.Linked(now, now) || b.tx.gaps.Watched(before, now, event.TopicObject) {
		t.Error("one of them has reported all that happened")
	}
	// a reports what b could not store, and is no repetition.
	h.change(a, "b's, in flight")
	h.change(a, "b's, after it")
	a.Flush(t.Context())
	h.settle(a)
	h.settle(b)
	marks, gaps := h.stored()
	if slices.Sort(marks); !slices.Equal(marks, []string{"b's, after it", "b's, in flight"}) {
		t.Errorf("stored %q", marks)
	}
	if len(gaps) != 2 || gaps[0].Missed[event.TopicObject] != 1 || gaps[1].Missed[event.TopicObject] != 2 {
		t.Errorf("gaps %+v", gaps)
	}
}

// A transaction that begins after a refusal waits for all that was built on what was refused.
func TestBeginWaitsForTheQueue(t *testing.T) {
	h := newHouse(t, 1)
	r, w := h.open("a")
	connect(r)
	h.stored()
	f := &h.group.flight
	batch, chain := f.add()
	f.failed.Store(true) // by a batch before it
	if one, other := f.landing(), f.landing(); chain == nil || one != other {
		t.Fatal("not one channel for all that wait")
	}
	begun := make(chan struct{})
	go func() {
		h.change(r, "after it")
		close(begun)
	}()
	select {
	case <-begun:
		t.Fatal("it did not wait")
	case <-time.After(50 * time.Millisecond):
	}
	h.group.mu.Lock() // nobody has it who waits
	again := len(w.again)
	h.group.mu.Unlock()
	lost := failures{r: {from: time.Now(), cause: "a test", missed: map[string]int{event.TopicObject: 1}}}
	f.land(batch, queue.ErrChain, lost)
	<-begun
	if f.failed.Load() || f.landing() != nil || r.View().BlindSince.IsZero() {
		t.Error("what is stored was not loaded")
	}
	if again != 0 || len(w.again) != 0 {
		t.Errorf("listed: %v", w.again)
	}
}

// Where several batches are refused, the gap is from the first to the last, with all that was in them.
func TestFailuresAddUp(t *testing.T) {
	r, all := new(Recorder), make(failures)
	at := time.Now()
	all.add(r, &failure{from: at, cause: "first", missed: map[string]int{"object": 1}})
	all.add(r, &failure{from: at.Add(-time.Second), cause: "second", missed: map[string]int{"object": 2, "job": 3}})
	all.add(r, &failure{from: at.Add(time.Second), cause: "third", missed: map[string]int{}})
	if f := all[r]; len(all) != 1 || !f.from.Equal(at.Add(-time.Second)) || f.cause != "first" || f.missed["object"] != 3 || f.missed["job"] != 3 {
		t.Errorf("%+v", all[r])
	}
}

// What the daemon says of itself, and what is listed again, is not missed when it cannot be stored.
func TestRefusedEventsOfTheDaemon(t *testing.T) {
	h := newHouse(t, 1)
	r, w := h.open("a")
	h.disk.full.Store(true)
	connect(r)
	r.RecordHardware(t.Context(), &HardwareParent{URI: ConsoleURI, Class: ClassConsole, Name: "a"},
		HardwareChange{Added: []hmc.HardwareMessage{{ElementURI: "/api/console/hardware-messages/1", Text: "x"}}})
	h.refused()
	r.tick(t.Context(), false)
	if len(w.missed) != 0 || r.View().Pending {
		t.Errorf("missed: %v", w.missed)
	}
}

// A gap whose event could not be stored is reported again, once, and its end is not moved.
func TestGapEventRefused(t *testing.T) {
	h := newHouse(t, 1)
	r, _ := h.open("a")
	connect(r)
	r.Disconnected(t.Context(), Disconnection{State: "disconnected", Cause: "cut"}, time.Now(), false)
	connect(r)
	r.Filled()
	if err := h.queue.Flush(); err != nil {
		t.Fatal(err)
	}
	up := time.Now()
	h.disk.failing.Store(1)
	h.settle(r)
	if err := h.queue.Flush(); err == nil {
		t.Fatal("not refused")
	}
	h.disk.full.Store(true)
	for range 3 { // while the disk refuses
		r.tick(t.Context(), false)
		_ = h.queue.Flush()
	}
	h.works()
	h.settle(r)
	_, gaps := h.stored()
	if n := r.View().Gaps; n != 1 {
		t.Errorf("%d gaps are counted", n)
	}
	if len(gaps) != 1 || gaps[0].To.After(up.Add(time.Millisecond)) || !slices.Equal(gaps[0].Causes, []string{"cut"}) {
		t.Errorf("gaps %+v, up at %s", gaps, up)
	}
}

// OS messages whose numbers jump while the disk refuses are not asked for before it takes what the HMC answers: it would be
// refused as well, and counted as missed, for every message that comes.
func TestNothingIsFetchedForADiskThatRefuses(t *testing.T) {
	h, r, w := askingHouse(t)
	say := func(number int) {
		received(t, r, "u.osm", partitionHeaders(event.TypeOSMessage, receiver.Header{Name: "destination", Value: fmt.Sprint(number)}),
			fmt.Sprintf(`{"os-messages":[{"sequence-number":%d,"message-text":"A","timestamp":%d}]}`, number, number))
		r.tick(t.Context(), false)
	}
	say(1)
	h.stored()
	h.disk.full.Store(true)
	for number := 2; number < 6; number++ {
		say(number)
		h.refused()
	}
	say(6)
	if len(w.fetched) != 0 {
		t.Errorf("fetched %v for a disk that refuses", w.fetched)
	}
	h.works()
	h.settle(r)
	if len(w.fetched) == 0 || !w.fetched[0][""] {
		t.Errorf("fetched %v when it works", w.fetched)
	}
}

// What was to be fetched when commits failed is fetched once they work, also where none of the HMC's events were lost: what is
// to be fetched would grow until the next gap, and bring again what is not remembered any more.
func TestRefetchAfterCommitFails(t *testing.T) {
	h := newHouse(t, 1)
	r, w := h.open("a")
	connect(r)
	fetchLog(t, r, `{"event-time":1700000000000,"event-id":1}`)
	h.stored()
	h.disk.failing.Store(1)
	r.StartBehind(t.Context(), "/api/partitions/x", nil) // nothing but state
	if err := h.queue.Flush(); err == nil {
		t.Fatal("not refused")
	}
	h.works()
	r.tick(t.Context(), false)
	if len(w.fetched) != 1 || !w.fetched[0][""] || !r.NeedsStart("/api/partitions/x") {
		t.Fatalf("fetched %v", w.fetched)
	}
	fetchLog(t, r, `{"event-time":1700000000000,"event-id":1}`)
	if q, ok := r.BeginFetch(event.TopicAudit); ok {
		t.Errorf("fetched again: %+v", q)
	}
	r.Filled()
	h.settle(r)
	if _, gaps := h.stored(); len(gaps) != 0 || len(w.missed) != 0 {
		t.Errorf("gaps %v, missed %v", gaps, w.missed)
	}
}

// A list of OS messages that was asked for before what is known was loaded is not recorded: it says too little of where numbers
// began anew. All is listed again, and each message is recorded once.
func TestListFromBeforeAReload(t *testing.T) {
	h := newHouse(t, 1)
	r, w := h.open("a")
	connect(r)
	p := hmc.Partition{ObjectURI: "/api/partitions/x", Name: "X"}
	list := func(asked time.Time) []string {
		var messages [][]byte
		for i, text := range []string{"a0", "a1", "a2", "b0", "b1"} { // of two sequences
			messages = append(messages, fmt.Appendf(nil, `{"sequence-number":%d,"message-text":%q}`, i%3, text))
		}
		r.ListedMessages(t.Context(), p, "u.osm", true, messages, asked, 0)
		marks, _ := h.stored()
		return slices.DeleteFunc(marks, func(m string) bool { return m != "X" })
	}
	h.stored()
	h.disk.failing.Store(1)
	asked := time.Now()
	h.change(r, "P")
	r.Flush(t.Context())
	h.refused()
	h.works()
	if got := list(asked); len(got) != 0 {
		t.Errorf("%d messages of a list from before the reload are recorded", len(got))
	}
	r.tick(t.Context(), false)
	if len(w.fetched) != 1 || !w.fetched[0][""] {
		t.Errorf("fetched %v", w.fetched)
	}
	if got := list(time.Now()); len(got) != 5 {
		t.Errorf("%d messages are recorded, not 5", len(got))
	}
	if got := list(time.Now()); len(got) != 0 {
		t.Errorf("%d messages are recorded again", len(got))
	}
}

// The end of a recorder whose last batch is refused stores what it can, and what it knows of what is lost.
func TestCloseWhenCommitsFail(t *testing.T) {
	for _, test := range []struct {
		name string
		fail func(h *house, r *Recorder)
		lost bool
	}{
		{"the last batch", func(h *house, _ *Recorder) { h.disk.failing.Store(1) }, true},
		// What is built on a refused batch is refused although the disk works again.
		{"one before it", func(h *house, r *Recorder) {
			chain := failedChain(h.t)
			r.watcher.(*watcher).heard = func() {
				if h.group.out.empty() { // the last tick has sent what there was
					h.group.flight.chain = chain
				}
			}
		}, false},
		{"none", func(*house, *Recorder) {}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newHouse(t, 1)
			r, _ := h.open("a")
			connect(r)
			h.stored()
			h.change(r, "last")
			test.fail(h, r)
			r.Close(t.Context(), "the daemon was stopped")
			h.works()
			if len(h.group.members) != 0 {
				t.Error("it is still a member")
			}
			r, w := h.open("a")
			if last, cause := r.tx.contact.Last(); last.IsZero() || cause != "the daemon was stopped" {
				t.Errorf("last contact %s, %q", last, cause)
			}
			connect(r)
			h.settle(r)
			marks, gaps := h.stored()
			if got := slices.Contains(marks, "last"); got == test.lost || len(gaps) != 1 {
				t.Fatalf("stored %q, gaps %+v, missed %v", marks, gaps, w.missed)
			}
			if n := gaps[0].Missed[event.TopicObject]; (n == 1) != test.lost {
				t.Errorf("gap %+v", gaps[0])
			}
		})
	}
}

// failedChain is a chain of which a batch was refused.
func failedChain(t *testing.T) *queue.Chain {
	h := newHouse(t, 1)
	h.disk.failing.Store(1)
	chain := new(queue.Chain)
	done := make(chan error, 1)
	b := queue.Batch{Records: [][]byte{{1}}, Done: func(err error) { done <- err }, Chain: chain}
	if err := h.queue.Append(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	return chain
}

// A reload of the configuration holds locks that everybody needs: it must not wait for the disk.
func TestConfiguredDoesNotWait(t *testing.T) {
	h := newHouse(t, 2)
	r, _ := h.open("a")
	tx := r.begin(t.Context())
	done := make(chan struct{})
	go func() {
		h.group.Configured(1)
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Error("it waits for a transaction")
	}
	if !h.group.changes.Shared() {
		t.Error("a transaction is not as it began")
	}
	tx.end()
	if r.Replaying(""); h.group.changes.Shared() {
		t.Error("one HMC shares nothing")
	}
}

// Completions of jobs that are held back when commits fail are not lost.
func TestHeldJobsOutliveARefusal(t *testing.T) {
	h, r, w := askingHouse(t)
	for i := range 2 {
		received(t, r, "u.job", receiver.Headers{
			{Name: "notification-type", Value: event.TypeJobCompletion},
			{Name: "message-id", Value: fmt.Sprint(i)},
			{Name: "job-uri", Value: fmt.Sprintf("/api/jobs/%d", i)},
		}, "")
	}
	h.disk.failing.Store(1)
	h.change(r, "refused")
	r.Flush(t.Context())
	if err := h.queue.Flush(); err == nil {
		t.Fatal("not refused")
	}
	h.works()
	if !r.Awaits("/api/jobs/0") || len(w.asked) != 2 {
		t.Errorf("asked for %v", w.asked)
	}
	r.JobKnown(t.Context(), "/api/jobs/1", nil)
	r.JobKnown(t.Context(), "/api/jobs/0", &hmc.Job{Status: "complete"})
	r.JobKnown(t.Context(), "/api/jobs/0", nil) // too late
	if marks, _ := h.stored(); !slices.Equal(marks, []string{event.TypeJobCompletion, event.TypeJobCompletion}) {
		t.Errorf("stored %q", marks)
	}
}

// What is stored and cannot be read is reported, and counts as not stored.
func TestDamagedState(t *testing.T) {
	h := newHouse(t, 1)
	for _, key := range []string{"unit/east\x00/api/cpcs/1", "os/a\x00p#0", "last/a", "gap/a"} {
		if err := h.queue.Append(t.Context(), queue.Batch{State: []queue.KeyValue{{Key: key, Value: []byte("x")}}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.queue.Flush(); err != nil {
		t.Fatal(err)
	}
	h.group = NewGroup("east", h.queue, zap.NewNop())
	r, _ := h.open("a")
	if connect(r); r.View().Pending || h.group.Estate.Len() != 0 {
		t.Errorf("%+v", r.View())
	}
}
