package deliver

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
)

// The pauses grow to the maximum, and are spread over all of what they may be: who failed together does not come back
// together.
func TestRetryBackoff(t *testing.T) {
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
	b := retryBackoff{cfg: config.Retry{Initial: time.Second, Max: time.Minute}, failures: 10_000}
	if wait := b.next(); wait < 6*time.Second || wait > time.Minute {
		t.Errorf("after 10,000 failures: %s", wait)
	}
}

// What the queue drops is counted for a sink that there is, and brings back no series of one that is gone.
func TestDroppedByTheQueue(t *testing.T) {
	registry := prometheus.NewRegistry()
	m := NewMetrics(registry)
	s := m.ForSink("x")
	m.Dropped("x", 3)
	if got := m.ForSink("x").dropped.N.Load(); got != 3 {
		t.Errorf("%d dropped", got)
	}
	s.Delete()
	m.Dropped("x", 1)
	if families, err := registry.Gather(); err != nil || strings.Contains(fmt.Sprint(families), `"x"`) {
		t.Errorf("the series are back (%v)", err)
	}
}

func TestHealth(t *testing.T) {
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
				h.failed(lane, at(0), down)
			}
		}, false, 0},
		{"three of one lane", func(h *health) {
			for range 3 {
				h.failed(1, at(0), down)
				h.succeeded(0, at(time.Second))
			}
		}, true, 0},
		{"failing for long", func(h *health) { h.failed(0, at(-stuckTime), down) }, true, 0},
		{"failing for long, others succeed", func(h *health) {
			h.failed(0, at(-stuckTime), down)
			h.succeeded(1, at(0))
		}, false, 0},
		{"recovered", func(h *health) {
			for lane := range 4 {
				for range 3 {
					h.failed(lane, at(0), down)
				}
			}
			for lane := range 4 {
				h.succeeded(lane, at(time.Second))
			}
		}, false, 1},
		{"recovered by a refusal", func(h *health) {
			h.failed(0, at(0), down)
			h.answered(0, at(time.Second))
		}, false, 1},
		{"hangs", func(h *health) {
			h.began(0, at(0))
			for range 2 {
				if n := h.overdue(at(time.Second), time.Second, down); n > 1 || h.total != 1 {
					t.Errorf("%d overdue, %d failures", n, h.total)
				}
			}
		}, true, 0},
		{"hung", func(h *health) {
			h.began(0, at(0))
			h.overdue(at(time.Second), time.Second, down)
			if !h.ended(0) || h.ended(0) {
				t.Error("not counted, or twice")
			}
			h.succeeded(0, at(2*time.Second))
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

func TestProgress(t *testing.T) {
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
	p := newProgress(cursor, zap.NewNop(), 5, 1<<20)
	read, err := cursor.Next(t.Context(), 10, 0)
	if err != nil || len(read) != 10 {
		t.Fatal(len(read), err)
	}
	base := read[0].Seq - 1
	check := func(what string, acked uint64, room bool) {
		t.Helper()
		if got := cursor.Acked() - base; got != acked || p.hasRoom() != room {
			t.Errorf("%s: acknowledged %d, room %v", what, got, p.hasRoom())
		}
	}
	for i, r := range read[:6] {
		p.add([]entry{{seq: r.Seq, bytes: 1, done: i == 0}})
	}
	check("the first is done when it is read", 1, false)
	p.finish([]uint64{3, 2})
	check("one before them is not done", 1, false)
	p.finish([]uint64{1})
	check("all before the fifth", 4, true)
	for _, r := range read[6:] {
		p.add([]entry{{seq: r.Seq, bytes: 1}})
	}
	p.finish([]uint64{5})
	if done := p.trimmed(base + 7); done != 1 {
		t.Errorf("%d of the trimmed ones were done", done)
	}
	check("trimmed", 7, true)
	p.finish([]uint64{4, 6}) // the lanes did not know it
	check("trimmed and then done", 7, true)
	p.finish([]uint64{7, 8, 9})
	check("the end", 10, true)
	if p.bytes != 0 || p.next() != 10 {
		t.Errorf("%d bytes left, next number %d", p.bytes, p.next())
	}
}
