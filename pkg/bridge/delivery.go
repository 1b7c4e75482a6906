package bridge

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/sinks"
)

const (
	// readEvents and readBytes bound what a delivery reads ahead of its cursor.
	readEvents = 1024
	readBytes  = 4 << 20
	// trimEvery is how often the limits of a sink's queue are applied.
	trimEvery = 10 * time.Second
	// stuckAfter failed attempts in a row make a sink stuck: the daemon is not ready.
	stuckAfter = 3
)

// delivery brings the stored events to one sink at the sink's own pace: it reads from its cursor, filters, sends,
// tries again, puts aside what is refused for good, and acknowledges a prefix. Nothing it waits for is shared with
// another sink.
type delivery struct {
	cfg     config.Sink
	sink    sinks.Sink
	cursor  *queue.Cursor
	dead    *queue.DeadLetters
	router  router
	metrics *sinkMetrics
	log     *zap.Logger
	seed    maphash.Seed

	lanes                   int // sent side by side; the order within one is kept
	batchEvents, batchBytes int

	health health

	draining  chan struct{} // closed when draining begins
	mu        sync.Mutex
	interrupt context.CancelFunc // ends a wait for new events; nil while there is none
}

// health is what a sink's status shows: the last error and since when.
type health struct {
	mu           sync.Mutex
	failures     int // attempts in a row
	total        int // attempts since it started failing, all senders together
	failingSince time.Time
	lastError    string
	lastErrorAt  time.Time
	lastSuccess  time.Time
}

func newDelivery(cfg config.Sink, sink sinks.Sink, cursor *queue.Cursor, dead *queue.DeadLetters, m *Metrics, log *zap.Logger) *delivery {
	d := &delivery{
		cfg: cfg, sink: sink, cursor: cursor, dead: dead,
		router:  router{match: cfg.Match, drop: cfg.Drop},
		metrics: m.forSink(cfg.Name),
		log:     log.Named("sink").With(zap.String("sink", cfg.Name)),
		seed:    maphash.MakeSeed(),
	}
	d.batchEvents, d.batchBytes = sinks.MaxBatch(sink)
	d.lanes = cfg.Concurrency
	if cfg.Log != nil {
		d.lanes = 1 // a file has one end: more would only mix up the order
	}
	d.draining = make(chan struct{})
	return d
}

// drain makes run end as soon as everything stored is delivered, or at the first failure.
func (d *delivery) drain() {
	d.mu.Lock()
	defer d.mu.Unlock()
	close(d.draining)
	if d.interrupt != nil {
		d.interrupt()
	}
}

func (d *delivery) isDraining() bool {
	select {
	case <-d.draining:
		return true
	default:
		return false
	}
}

// interruptible returns a context that ends after trimEvery at the latest, or when draining begins.
func (d *delivery) interruptible(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, trimEvery)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.interrupt = cancel
	if d.isDraining() {
		cancel()
	}
	return ctx, cancel
}

// run delivers until ctx is done or draining is over.
func (d *delivery) run(ctx context.Context) {
	lastTrim := time.Time{}
	for ctx.Err() == nil {
		if time.Since(lastTrim) >= trimEvery {
			d.trim()
			lastTrim = time.Now()
		}
		records, err := d.next(ctx)
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, queue.ErrClosed) || errors.Is(err, errDrained) {
				return
			}
			if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
				continue // time to trim, or draining has just begun
			}
			d.log.Error("stored events cannot be read", zap.Error(err))
			if !sleep(ctx, time.Second) {
				return
			}
			continue
		}
		if !d.deliver(ctx, records) && d.isDraining() {
			return // the next start goes on here
		}
	}
}

// errDrained says that a draining delivery has nothing more to do.
var errDrained = errors.New("drained")

// next waits for stored events. While draining it does not wait.
func (d *delivery) next(ctx context.Context) ([]queue.Record, error) {
	if d.isDraining() {
		if waiting, _, _ := d.cursor.Pending(); waiting == 0 || d.failing() {
			return nil, errDrained
		}
		return d.cursor.Next(ctx, readEvents, readBytes)
	}
	wait, cancel := d.interruptible(ctx)
	defer cancel()
	records, err := d.cursor.Next(wait, readEvents, readBytes)
	if err == nil && d.cfg.Batch.MaxEvents > 1 && d.cfg.Batch.MaxWait > 0 {
		records = d.fill(wait, records)
	}
	return records, err
}

// fill waits up to max_wait for a batch to fill.
func (d *delivery) fill(ctx context.Context, records []queue.Record) []queue.Record {
	until, cancel := context.WithTimeout(ctx, d.cfg.Batch.MaxWait)
	defer cancel()
	for len(records) < d.cfg.Batch.MaxEvents {
		more, err := d.cursor.Next(until, d.cfg.Batch.MaxEvents-len(records), readBytes)
		if err != nil {
			break // the time is up; a real error comes back with the next read
		}
		records = append(records, more...)
	}
	return records
}

// deliver brings one window of records to the sink and acknowledges as far as everything is done. It reports whether
// all of it is.
func (d *delivery) deliver(ctx context.Context, window []queue.Record) bool {
	done := newWindow(window, d.cursor, d.log)
	lanes := make([][]lane, d.lanes)
	for i, rec := range window {
		r, err := event.ParseRecord(rec.Data)
		if err != nil {
			// Nothing can be done with it but to keep it where a person can look at it.
			if d.refuse([]event.Record{{JSON: rec.Data}}, 0, err) {
				done.finish(lane{index: i})
			}
			continue
		}
		if !d.router.wants(r) {
			d.metrics.filtered.add(1)
			done.finish(lane{index: i})
			continue
		}
		n := d.laneOf(r)
		lanes[n] = append(lanes[n], lane{index: i, record: r})
	}
	var senders sync.WaitGroup
	for _, l := range lanes[1:] {
		if len(l) > 0 {
			senders.Go(func() { d.sendAll(ctx, l, done) })
		}
	}
	d.sendAll(ctx, lanes[0], done)
	senders.Wait()
	if done.complete() {
		return true
	}
	// Interrupted, or a refused event could not be put aside. What is not done is read again, and nothing behind it
	// may be acknowledged before: that would acknowledge it too.
	d.cursor.Rewind()
	d.pause(ctx, time.Second)
	return false
}

// lane is one record on its way, and its place in the window.
type lane struct {
	index  int
	record event.Record
}

// laneOf keeps the events of one resource in one lane, in which they are sent one after the other.
func (d *delivery) laneOf(r event.Record) int {
	if d.lanes == 1 {
		return 0
	}
	return int(maphash.String(d.seed, r.Key) % uint64(d.lanes))
}

// sendAll sends the records of one lane in order, in batches where the sink takes them.
func (d *delivery) sendAll(ctx context.Context, l []lane, done *window) {
	batch := make([]event.Record, 0, max(1, min(len(l), d.batchEvents)))
	for len(l) > 0 {
		batch = batch[:0]
		bytes := 0
		for _, x := range l {
			if len(batch) > 0 && (len(batch) >= d.batchEvents || bytes+len(x.record.JSON) > d.batchBytes) {
				break
			}
			batch = append(batch, x.record)
			bytes += len(x.record.JSON)
		}
		if !d.send(ctx, batch) {
			return
		}
		done.finish(l[:len(batch)]...)
		l = l[len(batch):]
	}
}

// send brings one batch to its end: delivered or dead letter. It returns false when it was interrupted before.
func (d *delivery) send(ctx context.Context, batch []event.Record) bool {
	backoff := retryBackoff{cfg: d.cfg.Retry}
	var first time.Time
	for len(batch) > 0 {
		start := time.Now()
		attempt, cancel := context.WithTimeout(ctx, d.cfg.Timeout)
		err := d.sink.Send(attempt, batch)
		cancel()
		now := time.Now()
		d.metrics.duration.Observe(now.Sub(start).Seconds())
		if err == nil {
			d.metrics.success.Inc()
			d.accepted(now, batch...)
			return true
		}
		if parts, ok := errors.AsType[*sinks.BatchError](err); ok {
			if batch, err = d.partly(now, batch, parts); err == nil {
				return len(batch) == 0
			}
		}
		if ctx.Err() != nil {
			return false
		}
		if permanent, ok := errors.AsType[*sinks.PermanentError](err); ok {
			d.metrics.permanent.Inc()
			d.answered()
			return d.refuse(batch, permanent.Status, err)
		}
		d.metrics.retry.Inc()
		d.failed(now, err)
		if first.IsZero() {
			first = start
		}
		if maxAge := d.cfg.Retry.MaxAge; maxAge > 0 && now.Sub(first) >= maxAge {
			return d.refuse(batch, 0, fmt.Errorf("given up after %s: %w", maxAge, err))
		}
		if d.isDraining() {
			return false // the event stays stored, and is the first one after the next start
		}
		atLeast := time.Duration(0)
		if later, ok := errors.AsType[*sinks.RetryAfterError](err); ok {
			atLeast = later.After
		}
		if !d.pause(ctx, backoff.next(atLeast)) {
			return false
		}
	}
	return true
}

// partly sorts out a batch of which the sink took a part. It returns what is to be tried again and why, or no error
// when nothing is; records it could not put aside are returned without an error.
func (d *delivery) partly(now time.Time, batch []event.Record, parts *sinks.BatchError) ([]event.Record, error) {
	var (
		again []event.Record
		cause error
	)
	for i, r := range batch {
		var permanent *sinks.PermanentError
		switch err := parts.Errs[i]; {
		case err == nil:
			d.accepted(now, r)
		case errors.As(err, &permanent):
			d.metrics.permanent.Inc()
			if !d.refuse([]event.Record{r}, permanent.Status, err) {
				return batch[i:], nil
			}
		default:
			again, cause = append(again, r), err
		}
	}
	return again, cause
}

// accepted counts records that the sink took.
func (d *delivery) accepted(now time.Time, batch ...event.Record) {
	d.metrics.delivered.add(len(batch))
	for i := range batch {
		d.metrics.latency.Observe(now.Sub(batch[i].Received).Seconds())
	}
	d.succeeded(now)
}

// pause waits before the next attempt. It ends early, and with false, when the daemon shuts down.
func (d *delivery) pause(ctx context.Context, wait time.Duration) bool {
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
	case <-d.draining:
	}
	return false
}

// refuse puts a batch aside for good. It returns false if not even that was possible: then nothing is acknowledged.
func (d *delivery) refuse(batch []event.Record, status int, cause error) bool {
	letters := make([]queue.DeadLetter, len(batch))
	for i, r := range batch {
		letters[i] = queue.DeadLetter{
			Sink: d.cfg.Name, Time: time.Now(), Status: status, Reason: cause.Error(),
			Request: r.Type + " " + r.ID, Data: r.JSON,
		}
	}
	if err := d.dead.Put(letters...); err != nil {
		d.log.Error("refused events could not be put aside; they stay in the queue", zap.Int("events", len(batch)), zap.Error(err))
		return false
	}
	d.metrics.deadLetter.add(len(batch))
	d.log.Warn("refused for good and put aside as dead letters",
		zap.Int("events", len(batch)), zap.String("first_id", batch[0].ID), zap.Error(cause))
	return true
}

// trim applies the limits of the sink's queue: beyond them the oldest events go.
func (d *delivery) trim() {
	var olderThan time.Time
	if d.cfg.Queue.MaxAge > 0 {
		olderThan = time.Now().Add(-d.cfg.Queue.MaxAge)
	}
	dropped, err := d.cursor.Trim(int64(d.cfg.Queue.MaxBytes), olderThan)
	if err != nil {
		d.log.Error("the limits of the queue could not be applied", zap.Error(err))
		return
	}
	if dropped > 0 {
		d.metrics.dropped.add(dropped)
		d.log.Error("events were dropped: the sink's queue is beyond its limits", zap.Int("events", dropped))
	}
}

// succeeded notes an accepted event, and says so when the sink had been failing.
func (d *delivery) succeeded(now time.Time) {
	d.metrics.lastSuccess.Set(unixSeconds(now))
	h := &d.health
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lastSuccess = now
	if !h.failingSince.IsZero() {
		d.log.Info("the sink accepts events again",
			zap.Int("failed_attempts", h.total), zap.Duration("after", now.Sub(h.failingSince).Round(time.Millisecond)))
	}
	h.failures, h.total, h.failingSince = 0, 0, time.Time{}
}

// answered notes that the sink is there, though it refused.
func (d *delivery) answered() {
	d.health.mu.Lock()
	defer d.health.mu.Unlock()
	d.health.failures, d.health.total, d.health.failingSince = 0, 0, time.Time{}
}

// failed notes a failed attempt, and says so when it is the first in a row.
func (d *delivery) failed(now time.Time, err error) {
	h := &d.health
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.failingSince.IsZero() {
		h.failingSince = now
		d.log.Warn("the sink does not accept events; they wait and are tried again", zap.Error(err))
	}
	h.failures++
	h.total++
	h.lastError, h.lastErrorAt = err.Error(), now
}

func (d *delivery) failing() bool {
	d.health.mu.Lock()
	defer d.health.mu.Unlock()
	return !d.health.failingSince.IsZero()
}

// window tracks which records of one read are done, and acknowledges the prefix of those that are.
type window struct {
	mu      sync.Mutex
	records []queue.Record
	done    []bool
	prefix  int
	cursor  *queue.Cursor
	log     *zap.Logger
}

func newWindow(records []queue.Record, cursor *queue.Cursor, log *zap.Logger) *window {
	return &window{records: records, done: make([]bool, len(records)), cursor: cursor, log: log}
}

func (w *window) complete() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.prefix == len(w.done)
}

// finish marks records as done.
func (w *window) finish(all ...lane) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range all {
		w.done[all[i].index] = true
	}
	before := w.prefix
	for w.prefix < len(w.done) && w.done[w.prefix] {
		w.prefix++
	}
	if w.prefix == before {
		return
	}
	if err := w.cursor.Ack(w.records[w.prefix-1].Seq); err != nil {
		w.log.Error("deliveries could not be acknowledged; they may be repeated after a restart", zap.Error(err))
	}
}
