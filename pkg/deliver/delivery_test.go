package deliver

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
)

// The pauses grow to the maximum, and are spread over all of what they may be: who failed together
// does not come back together.
func TestRetryBackoff(t *testing.T) {
	t.Parallel()
	cfg := config.Retry{Initial: 100 * time.Millisecond, Max: time.Second}
	limits := []time.Duration{100 * time.Millisecond, 200 * time.Millisecond, 400 * time.Millisecond, 800 * time.Millisecond, time.Second, time.Second}
	low, high := slices.Repeat([]time.Duration{time.Hour}, len(limits)), make([]time.Duration, len(limits))
	for range 1000 {
		b := retryBackoff{cfg: cfg}
		for i, limit := range limits {
			wait := b.next()
			if wait < limit/10 || wait > limit {
				t.Fatalf("failure %d: %s, want at most %s and at least a tenth", i+1, wait, limit)
			}
			low[i], high[i] = min(low[i], wait), max(high[i], wait)
		}
	}
	for i, limit := range limits {
		if low[i] > limit/5 || high[i] < limit*9/10 {
			t.Errorf("failure %d: between %s and %s, want all up to %s", i+1, low[i], high[i], limit)
		}
	}
	b := retryBackoff{cfg: config.Retry{Initial: time.Second, Max: time.Minute}}
	for range 10_000 {
		b.next()
	}
	if wait := b.next(); wait < 6*time.Second || wait > time.Minute {
		t.Errorf("after 10,000 failures: %s", wait)
	}
}

// What the queue drops is counted for a sink that there is, and brings back no series of one that
// is gone.
func TestDroppedByTheQueue(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	m := NewMetrics(registry)
	s := m.forSink("x")
	m.Dropped("x", 3)
	if got := m.forSink("x").dropped.N.Load(); got != 3 {
		t.Errorf("%d dropped", got)
	}
	s.delete()
	m.Dropped("x", 1)
	if families, err := registry.Gather(); err != nil || strings.Contains(fmt.Sprint(families), `"x"`) {
		t.Errorf("the series are back (%v)", err)
	}
}

func TestHealth(t *testing.T) {
	t.Parallel()
	start := time.Unix(1_800_000_000, 0)
	at := func(d time.Duration) time.Time { return start.Add(d) }
	down := errors.New("down")
	for _, test := range []struct {
		name  string
		do    func(h *health)
		stuck bool // 3 s after the start
		lines int  // "accepts events again"
	}{
		{"nothing", func(*health) {}, false, 0},
		{"one failure of each lane", func(h *health) {
			for lane := range 4 {
				h.failed(&h.lanes[lane], at(0), down)
			}
		}, false, 0},
		{"three of one lane", func(h *health) {
			for range 3 {
				h.failed(&h.lanes[1], at(0), down)
				h.answered(&h.lanes[0], at(time.Second))
				h.delivered(at(time.Second))
			}
		}, true, 0},
		{"failing for long", func(h *health) { h.failed(&h.lanes[0], at(-stuckTime), down) }, true, 0},
		{"failing for long, others succeed", func(h *health) {
			h.failed(&h.lanes[0], at(-stuckTime), down)
			h.answered(&h.lanes[1], at(0))
			h.delivered(at(0))
		}, false, 0},
		{"recovered", func(h *health) {
			for lane := range 4 {
				for range 3 {
					h.failed(&h.lanes[lane], at(0), down)
				}
			}
			for lane := range 4 {
				h.answered(&h.lanes[lane], at(time.Second))
			}
		}, false, 1},
		{"recovered by a refusal", func(h *health) {
			h.failed(&h.lanes[0], at(0), down)
			h.answered(&h.lanes[0], at(time.Second))
		}, false, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			core, logs := observer.New(zapcore.DebugLevel)
			h := &health{log: zap.New(core), lanes: make([]laneHealth, 4)}
			test.do(h)
			if got := h.stuck(at(3 * time.Second)); got != test.stuck {
				t.Errorf("stuck: %v", got)
			}
			if got := logs.FilterMessage("the sink accepts events again").Len(); got != test.lines {
				t.Errorf("%d lines about the recovery", got)
			}
			if got := logs.FilterLevelExact(zapcore.WarnLevel).Len(); got > 1 {
				t.Errorf("%d lines about the failure", got)
			}
		})
	}
}

// An attempt that hangs makes the sink stuck and is counted once; one that ends in time is not
// counted.
func TestHealthOfAHangingAttempt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zapcore.DebugLevel)
		counted := 0
		h := &health{
			log: zap.New(core), lanes: make([]laneHealth, 4),
			limit: time.Second, overdue: func() { counted++ },
		}
		h.begin(&h.lanes[0], time.Now())
		time.Sleep(time.Second)
		synctest.Wait()
		if !h.hanging() || !h.stuck(time.Now()) || counted != 1 || h.total != 1 {
			t.Errorf("hanging %v, counted %d, %d failures", h.hanging(), counted, h.total)
		}
		if !h.end(&h.lanes[0]) || h.hanging() {
			t.Error("it is not known to be counted, or hangs for ever")
		}
		h.answered(&h.lanes[0], time.Now())
		if logs.FilterMessage("the sink accepts events again").Len() != 1 || h.total != 0 {
			t.Errorf("%d failures are left", h.total)
		}
		h.begin(&h.lanes[0], time.Now())
		if h.end(&h.lanes[0]) {
			t.Error("counted before its time")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if counted != 1 || h.hanging() || h.total != 0 {
			t.Errorf("counted %d after its end", counted)
		}
		// The timer of the attempt before says nothing about this one.
		h.begin(&h.lanes[0], time.Now())
		h.expire(&h.lanes[0])
		if counted != 1 || h.hanging() || h.end(&h.lanes[0]) {
			t.Errorf("counted %d for another attempt", counted)
		}
	})
}

// readTen returns a cursor that has read ten records, and these.
func readTen(t *testing.T) (*queue.Cursor, []queue.Record) {
	q := openQueue(t)
	cursor, err := q.Cursor("x")
	if err != nil {
		t.Fatal(err)
	}
	records := make([][]byte, 10)
	for i := range records {
		records[i] = []byte{byte(i)}
	}
	if err := q.Append(t.Context(), queue.Batch{Records: records}); err != nil {
		t.Fatal(err)
	}
	read, err := cursor.Next(t.Context(), 10, 0)
	if err != nil || len(read) != 10 {
		t.Fatal(len(read), err)
	}
	return cursor, read
}

// Who waits for room is woken when there is some, not with each event that is done.
func TestProgressWakesForRoom(t *testing.T) {
	t.Parallel()
	for _, eager := range []bool{false, true} {
		cursor, read := readTen(t)
		p := newProgress(cursor, zap.NewNop(), 5, 1<<20)
		p.eager = eager
		for _, r := range read {
			p.add([]entry{{seq: r.Seq, bytes: 1}})
		}
		for i, r := range read {
			p.finish([]uint64{r.Seq})
			woken := false
			select {
			case <-p.room:
				woken = true
			default:
			}
			if room, _ := p.hasRoom(); room != (i >= 5) || woken != (room || eager) {
				t.Errorf("eager %v, %d done: room %v, woken %v", eager, i+1, room, woken)
			}
		}
	}
}

func TestProgress(t *testing.T) {
	t.Parallel()
	cursor, read := readTen(t)
	p := newProgress(cursor, zap.NewNop(), 5, 1<<20)
	base := read[0].Seq - 1
	check := func(what string, acked uint64, room bool) {
		t.Helper()
		got := cursor.Acked() - base
		if ok, first := p.hasRoom(); got != acked || ok != room || !ok && first != base+acked+1 {
			t.Errorf("%s: acknowledged %d, room %v for %d", what, got, ok, first)
		}
	}
	for i, r := range read[:6] {
		p.add([]entry{{seq: r.Seq, bytes: 1, done: i == 0}})
	}
	check("the first is done when it is read", 1, false)
	p.finish([]uint64{base + 4, base + 3})
	check("one before them is not done", 1, false)
	p.finish([]uint64{base + 2})
	check("all before the fifth", 4, true)
	for _, r := range read[6:] {
		p.add([]entry{{seq: r.Seq, bytes: 1}})
	}
	p.finish([]uint64{base + 6})
	if done := p.trimmed(base + 7); done != 1 {
		t.Errorf("%d of the trimmed ones were done", done)
	}
	check("trimmed", 7, true)
	p.finish([]uint64{base + 5, base + 7}) // the lanes did not know it
	check("trimmed and then done", 7, true)
	p.finish([]uint64{base + 8, base + 9, base + 10})
	check("the end", 10, true)
	if p.bytes != 0 || p.entries.len() != 0 {
		t.Errorf("%d bytes left of %d records", p.bytes, p.entries.len())
	}
}
