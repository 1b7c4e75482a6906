package deliver

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/sinks"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
)

const (
	// readEvents and readBytes bound what a delivery reads at once.
	readEvents = 1024
	readBytes  = 4 << 20
	// aheadEvents and aheadBytes bound how far a delivery with several lanes reads beyond the first event that is not
	// done, give or take one read. It bounds memory, and how much is repeated after a restart.
	aheadEvents = 16 << 10
	aheadBytes  = 16 << 20
	// trimEvery is how often the limits of a sink's queue are applied.
	trimEvery = 10 * time.Second
	// watchEvery is how often a delivery looks for attempts that do not end.
	watchEvery = time.Second
	// overdueAfter is how much longer than its timeout an attempt may take before it counts as failed.
	overdueAfter = time.Second
)

// Delivery brings the stored events to one sink at the sink's own pace. It reads from its cursor, filters, and hands
// on to its lanes, which send, try again and put aside what is refused for good. What is done is acknowledged as far
// as everything before it is done too. Nothing it waits for is shared with another sink.
type Delivery struct {
	Cfg     config.Sink
	Sink    sinks.Sink
	Cursor  *queue.Cursor
	dead    *queue.DeadLetters
	wants   func(event.Record) bool
	Metrics *sinkMetrics
	log     *zap.Logger

	batchEvents, batchBytes int // what one Send takes

	Lanes    []*lane
	Work     *work
	progress *progress
	Flood    *gatherer // nil: the sink has no collapse
	Health   health
	Replays  replayGate
	refusals Throttle
	Rate     status.Minutes // of deliveries

	draining chan struct{} // closed when draining begins
	gaveUp   chan struct{} // closed when a lane has ended before all was done
	giveUp   func()

	// Of distribute, used again.
	entries []entry
	items   []item

	Beat atomic.Int64 // when watch last proved to be alive, in Unix nanoseconds
}

func NewDelivery(cfg config.Sink, rules floodRules, sink sinks.Sink, cursor *queue.Cursor, dead *queue.DeadLetters, m *Metrics, log *zap.Logger) *Delivery {
	d := &Delivery{
		Cfg: cfg, Sink: sink, Cursor: cursor, dead: dead,
		wants:    Router{Match: cfg.Match, Drop: cfg.Drop}.Wants,
		Metrics:  m.ForSink(cfg.Name),
		log:      log.Named("sink").With(zap.String("sink", cfg.Name)),
		draining: make(chan struct{}),
		gaveUp:   make(chan struct{}),
		Replays:  newReplayGate(),
	}
	d.Rate.Total = d.Metrics.Delivered.N.Load() // the series are older than this, after a reload
	d.Beat.Store(time.Now().UnixNano())
	d.giveUp = sync.OnceFunc(func() { close(d.gaveUp) })
	if s, ok := sink.(sinks.Selector); ok {
		d.wants = s.Wants
	}
	d.batchEvents, d.batchBytes = sinks.MaxBatch(sink)
	lanes, ahead := cfg.Concurrency, aheadEvents
	if cfg.Log != nil {
		lanes = 1 // a file has one end: more would only mix up the order
	}
	if lanes == 1 && !cfg.Collapse {
		ahead = readEvents // there is nobody to go on with what is behind
	}
	d.progress = newProgress(cursor, d.log, max(ahead, 2*lanes*d.batchEvents), aheadBytes)
	d.Health = health{log: d.log, lanes: make([]laneHealth, lanes+1)} // the last one is that of the repetitions
	d.Work = newWork(lanes, d.batchEvents, d.batchBytes, cfg.Batch.MaxEvents, cfg.Batch.MaxWait)
	if cfg.Collapse {
		var busy func(string) bool
		if lanes > 1 {
			busy = d.Work.has
		}
		d.Flood = newGatherer(rules, cursor.Acked, busy)
		d.progress.eager = true
	}
	for i := range lanes {
		d.Lanes = append(d.Lanes, &lane{Delivery: d, index: i})
	}
	return d
}

// Drain makes run end as soon as everything stored is delivered, or at the first failure. It is called once.
func (d *Delivery) Drain() { close(d.draining) }

// Run delivers until ctx is done or draining is over. Where a sink does not come back from Send, it does not return.
func (d *Delivery) Run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	var watch, lanes sync.WaitGroup
	watch.Go(func() { d.watch(ctx) })
	if r, ok := d.Sink.(sinks.Repeater); ok {
		watch.Go(func() { d.repeat(ctx, r) })
	}
	for _, l := range d.Lanes {
		lanes.Go(func() { l.run(ctx) })
	}
	d.dispatch(ctx)
	d.Work.close()
	lanes.Wait()
	cancel()
	watch.Wait()
}

// dispatch reads and hands on to the lanes until ctx is done or, while draining, there is nothing more to read or a
// lane has given up.
func (d *Delivery) dispatch(ctx context.Context) {
	reading, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		select {
		case <-d.draining:
			stop()
		case <-reading.Done():
		}
	}()
	for d.awaitRoom(ctx) {
		records, err := d.next(reading)
		switch {
		case err == nil:
			d.distribute(records)
		case reading.Err() != nil || errors.Is(err, queue.ErrClosed):
			if d.Flood != nil && ctx.Err() == nil {
				d.handOn(d.Flood.all(d.items))
			}
			return
		case errors.Is(err, context.DeadlineExceeded):
			d.handOn(d.Flood.idle(time.Now(), d.items))
		default:
			d.log.Error("stored events cannot be read", zap.Error(err))
			status.Sleep(reading, time.Second)
		}
	}
}

// next reads. What is there comes even when ctx is done. Where groups of the gatherer wait it ends when one of them is due and
// there is nothing to be read, with context.DeadlineExceeded.
func (d *Delivery) next(ctx context.Context) ([]queue.Record, error) {
	if d.Flood != nil && !d.Flood.empty() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, d.Flood.until())
		defer cancel()
	}
	return d.Cursor.Next(ctx, readEvents, readBytes)
}

// awaitRoom waits until more may be read. It returns false when nothing is to be read any more.
func (d *Delivery) awaitRoom(ctx context.Context) bool {
	for {
		select {
		case <-d.gaveUp:
			return false
		case <-ctx.Done():
			return false
		default:
		}
		if d.progress.hasRoom() {
			return true
		}
		var due <-chan time.Time
		if d.Flood != nil { // what waits in it may be what there has to be room for
			d.handOn(d.Flood.blocked(time.Now(), d.progress.firstLeft(), d.items))
			if !d.Flood.empty() {
				due = time.After(time.Until(d.Flood.blockedUntil()))
			}
		}
		select {
		case <-d.progress.room:
		case <-due:
		case <-d.gaveUp:
		case <-ctx.Done():
		}
	}
}

// distribute hands the records that the sink wants to the lanes.
func (d *Delivery) distribute(records []queue.Record) {
	number, filtered, now := d.progress.next(), 0, time.Time{}
	if d.Flood != nil {
		now = time.Now()
	}
	for i := range records {
		data := records[i].Data
		it := item{number: number + uint64(i), seq: records[i].Seq}
		it.record, it.invalid = event.ParseRecord(data)
		if it.invalid != nil {
			it.record = event.Record{JSON: data}
		}
		wanted := it.invalid != nil || d.wants(it.record)
		switch {
		case !wanted:
		case d.Flood != nil && it.invalid == nil:
			var repeat bool
			d.items, repeat = d.Flood.add(it, now, d.items)
			wanted = !repeat
		default:
			d.items = append(d.items, it)
		}
		d.entries = append(d.entries, entry{seq: it.seq, bytes: len(data), done: !wanted})
		if !wanted {
			filtered++
		}
	}
	if d.Flood != nil {
		d.items = d.Flood.settle(now, d.items)
	}
	if filtered > 0 {
		d.Metrics.filtered.AddN(filtered)
	}
	d.progress.add(d.entries)
	d.entries = d.entries[:0]
	d.handOn(d.items)
}

// handOn gives items, which share the memory of d.items, to the lanes.
func (d *Delivery) handOn(items []item) {
	if len(items) > 0 {
		d.Work.add(d.keyOf, items)
		clear(items)
	}
	d.items = items[:0]
}

// keyOf names what the order of an event is kept by: with a single lane everything keeps its order anyway.
func (d *Delivery) keyOf(it *item) string {
	if len(d.Lanes) == 1 {
		return ""
	}
	if it.flood != nil {
		return it.flood.key
	}
	return it.record.Key
}

// watch applies the limits of the queue and notices attempts that do not end, for as long as ctx lasts.
func (d *Delivery) watch(ctx context.Context) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	limit := d.Cfg.Timeout + overdueAfter
	hangs := fmt.Errorf("an attempt has not ended after %s", limit)
	lastTrim := time.Now()
	d.trim()
	for {
		d.Beat.Store(time.Now().UnixNano())
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		now := time.Now()
		if n := d.Health.overdue(now, limit, hangs); n > 0 {
			d.Metrics.retry.Add(float64(n))
		}
		if now.Sub(lastTrim) >= trimEvery {
			lastTrim = now
			d.trim()
		}
	}
}

// trim applies the limits of the sink's queue: beyond them the oldest events go.
func (d *Delivery) trim() {
	dropped, err := trimCursor(d.Cursor, d.Cfg.Queue)
	if err != nil {
		if !errors.Is(err, queue.ErrClosed) {
			d.log.Error("the limits of the queue could not be applied", zap.Error(err))
		}
		return
	}
	if dropped == 0 {
		return
	}
	dropped -= d.progress.trimmed(d.Cursor.Acked())
	if dropped > 0 {
		d.Metrics.dropped.AddN(dropped)
		d.log.Error("events were dropped: the sink's queue is beyond its limits", zap.Int("events", dropped))
	}
}

// trimCursor applies limits to what waits behind a cursor and returns how many events went.
func trimCursor(cursor *queue.Cursor, limits config.Queue) (int, error) {
	var olderThan time.Time
	if limits.MaxAge > 0 {
		olderThan = time.Now().Add(-limits.MaxAge)
	}
	return cursor.Trim(int64(limits.MaxBytes), olderThan)
}
