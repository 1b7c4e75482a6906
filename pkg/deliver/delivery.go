package deliver

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/match"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/sinks"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
)

const (
	// readEvents and readBytes bound what a delivery reads at once.
	readEvents = 1024
	readBytes  = 1 << 20
	// aheadEvents and aheadBytes bound how far a delivery with several lanes reads beyond the
	// first event that is not done, give or take one read, and so how much is repeated after a
	// restart.
	aheadEvents = 16 << 10
	aheadBytes  = 16 << 20
	// minHeld is how many bytes of them are in memory before the lanes want them, maxHeld how
	// many may be: the others are read again when it is their turn.
	minHeld = 1 << 20
	maxHeld = 2 << 20
	// trimEvery is how often the limits of a sink's queue are applied.
	trimEvery = 10 * time.Second
)

// Options are what a Delivery needs. All are required.
type Options struct {
	// Config is the whole configuration, Sink what it says of this one.
	Config *config.Config
	Sink   config.Sink
	To     sinks.Sink
	// Cursor is from where the sink's events are read.
	Cursor  *queue.Cursor
	Dead    queue.Letters
	Metrics *Metrics
	Logger  *zap.Logger
	Backlog Backlog
	// May says whether something may be sent now. It is asked before each attempt, and often while
	// it does not.
	May func() bool
	// Resume, which may be nil, waits until it is known what whoever has delivered before is done
	// with, and returns that.
	Resume func(context.Context) Done
}

// Backlog is what was stored before a sink began, up to record Last: its age counts from then on.
type Backlog struct {
	Last  uint64
	Began time.Time
}

// Delivery brings the stored events to one sink at the sink's own pace. It reads from its cursor,
// filters, and hands on to its lanes, which send, try again and put aside what is refused for good.
// What is done is acknowledged as far as everything before it is done too. Nothing it waits for is
// shared with another sink.
//
// Make it with New, then call Run once. All other methods may be called at any time, from any
// goroutine.
type Delivery struct {
	Cfg    config.Sink
	Sink   sinks.Sink
	Cursor *queue.Cursor
	// Wants says whether the sink is to get an event.
	Wants func(event.Record) bool

	may     func() bool
	resume  func(context.Context) Done
	dead    queue.Letters
	backlog Backlog
	rules   floodRules
	metrics *sinkMetrics
	log     *zap.Logger

	stage    stage
	lanes    []*lane
	work     *work
	progress *progress
	health   health
	refusals status.Throttle
	// overdue holds a token when there may be events that are too old to be sent.
	overdue chan struct{}

	// draining is done when draining or the end has begun, finishing when nothing may be begun.
	draining, finishing context.Context
	drain, finish       context.CancelFunc
	// sending holds a token while events are sent again by hand.
	sending chan struct{}
	// heir has something to send that the sink before it has left; nil: there is nothing.
	heir sinks.Heir
	// beat is when the loop last turned.
	beat *status.Beat
}

// New returns a Delivery that does nothing yet. One that has delivered to the same sink before,
// with the same Metrics, has ended, and its sink is closed.
func New(o Options) *Delivery {
	d := &Delivery{
		Cfg: o.Sink, Sink: o.To, Cursor: o.Cursor,
		may: o.May, resume: o.Resume, dead: o.Dead, backlog: o.Backlog,
		Wants:   match.Router{Match: o.Sink.Match, Drop: o.Sink.Drop}.Wants,
		rules:   floodRulesOf(o.Config),
		metrics: o.Metrics.forSink(o.Sink.Name),
		log:     o.Logger.Named("sink").With(zap.String("sink", o.Sink.Name)),
		stage:   passThrough{},
		overdue: make(chan struct{}, 1),
		sending: make(chan struct{}, 1),
		beat:    status.NewBeat(),
	}
	if s, ok := o.To.(sinks.Selector); ok {
		d.Wants = s.Wants
	}
	d.draining, d.drain = context.WithCancel(context.Background())
	d.finishing, d.finish = context.WithCancel(context.Background())
	lanes, ahead := o.Sink.Concurrency, aheadEvents
	if o.Sink.Log != nil {
		// A file has one end: more would only mix up the order.
		lanes = 1
	}
	goesOn := lanes > 1 || o.Sink.Collapse
	if !goesOn {
		ahead = readEvents
	}
	events, bytes := sinks.MaxBatch(o.To)
	d.progress = newProgress(o.Cursor, d.log, max(ahead, 2*lanes*events), aheadBytes)
	d.progress.eager = o.Sink.Collapse
	// The last one is the lane of the repetitions.
	d.health = health{
		log: d.log, lanes: make([]laneHealth, lanes+1),
		limit: o.Sink.Timeout + overdueAfter, overdue: d.metrics.retry.Inc,
	}
	d.work = newWork(lanes, events, bytes, o.Sink.Batch.MaxEvents, o.Sink.Batch.MaxWait)
	d.work.ahead = goesOn
	if o.Sink.Collapse {
		var busy func(string) bool
		if lanes > 1 {
			busy = d.work.has
		}
		d.stage = newGatherer(d.rules, o.Cursor.Acked, busy)
	}
	for i := range lanes {
		d.lanes = append(d.lanes, &lane{Delivery: d, own: &d.health.lanes[i]})
	}
	before := d.metrics.delivery.Swap(d)
	if h, ok := o.To.(sinks.Heir); ok && before != nil && h.Inherit(before.Sink) {
		d.heir = h
	}
	return d
}

// Kept is what a sink has to remember, as a part of the queue's state.
func Kept(q *queue.Queue, sink string) queue.Scope {
	return queue.Scope{Queue: q, Prefix: "sink/" + sink + "\x00"}
}

// Fits says whether a configuration asks for this very delivery.
func (d *Delivery) Fits(cfg *config.Config) bool {
	i := slices.IndexFunc(cfg.Sinks, func(c config.Sink) bool { return c.Name == d.Cfg.Name })
	return i >= 0 && cfg.Sinks[i].Equal(&d.Cfg) && (!d.Cfg.Collapse || d.rules.equal(floodRulesOf(cfg)))
}

// Drain makes Run end as soon as everything stored is delivered, or at the first failure.
func (d *Delivery) Drain() {
	d.drain()
	d.work.become(hurried)
}

// whenDraining has f called when draining begins, until it is stopped.
func (d *Delivery) whenDraining(f func()) (stop func() bool) { return context.AfterFunc(d.draining, f) }

// Run delivers until ctx is done or draining is over. Where a sink does not come back from Send, it
// does not return.
func (d *Delivery) Run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	reading, stopReading := context.WithCancel(ctx)
	defer stopReading()
	defer context.AfterFunc(d.finishing, stopReading)() //nolint:contextcheck // it ends whatever runs
	if d.resume != nil {
		d.progress.resume(d.resume(ctx))
	}
	var others, lanes sync.WaitGroup
	others.Go(func() { d.applyLimits(ctx) })
	others.Go(func() { d.sweep(ctx) })
	if r, ok := d.Sink.(sinks.Repeater); ok {
		others.Go(func() { d.repeat(ctx, r) })
	}
	if d.heir != nil {
		lanes.Go(func() { d.flush(ctx) })
	}
	for _, l := range d.lanes {
		lanes.Go(func() {
			if !l.run(ctx) {
				d.work.become(abandoned)
				stopReading()
			}
		})
	}
	r := reader{Delivery: d}
	r.run(reading)
	d.work.become(complete)
	lanes.Wait()
	cancel()
	others.Wait()
}

// repeat has a sink say again what it has said, for as long as ctx lasts.
func (d *Delivery) repeat(ctx context.Context, r sinks.Repeater) {
	partly := false
	for {
		if rest := d.Resting(); rest > 0 {
			if !status.Sleep(ctx, rest) {
				return
			}
			continue
		}
		v, now, err := d.attempt(ctx, d.repetitions(), time.Now(), r.Repeat)
		if ctx.Err() != nil || errors.Is(err, sinks.ErrClosed) {
			return
		}
		wait := r.RepeatInterval()
		if v != accepted {
			wait = min(wait, d.Cfg.Retry.Max)
		} else {
			partial, some := errors.AsType[*sinks.PartialError](err)
			if some {
				d.health.partly(partial, now)
			}
			if some && !partly {
				d.log.Warn("not all members of the sink accept what one of them does; they are told again",
					zap.Error(partial))
			} else if partly && !some {
				d.log.Info("all members of the sink accept again")
			}
			partly = some
		}
		if !status.Sleep(ctx, wait) {
			return
		}
	}
}

// flush has the sink send what the one before it has left: until it is done, ctx is, or there is
// no time for another attempt.
func (d *Delivery) flush(ctx context.Context) {
	backoff := retryBackoff{cfg: d.Cfg.Retry}
	for {
		v, _, err := d.attempt(ctx, d.repetitions(), time.Now(), d.heir.Flush)
		if v == accepted || errors.Is(err, sinks.ErrClosed) || !d.pause(ctx, backoff.next(), nil) {
			return
		}
	}
}

// applyLimits applies the limits of the queue now and then, for as long as ctx lasts.
func (d *Delivery) applyLimits(ctx context.Context) {
	tick := time.NewTicker(trimEvery)
	defer tick.Stop()
	for {
		d.trim()
		d.beat.Turn()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// Alive says whether the delivery's loop has turned within limit before now. That a sink hangs is
// no matter.
func (d *Delivery) Alive(now time.Time, limit time.Duration) bool {
	return now.Sub(d.beat.Last()) < limit
}

// trim applies the limits of the sink's queue: beyond them the oldest events go.
func (d *Delivery) trim() {
	limits := d.Cfg.Queue
	if tried := d.Cfg.Retry.MaxAge; tried > 0 && tried <= limits.MaxAge && !d.Hanging() {
		limits.MaxAge = 0 // they become dead letters before
	}
	if d.Cursor.Acked() < d.backlog.Last {
		limits.MaxBytes = 0
		if time.Since(d.backlog.Began) < limits.MaxAge {
			limits.MaxAge = 0
		}
	}
	dropped, err := Trim(d.Cursor, limits, time.Now())
	if err != nil {
		d.log.Error("the limits of the queue could not be applied", zap.Error(err))
		return
	}
	if dropped == 0 {
		return
	}
	if dropped -= d.progress.trimmed(d.Cursor.Acked()); dropped > 0 {
		d.metrics.dropped.AddN(dropped)
		d.log.Error("events were dropped: the sink's queue is beyond its limits", zap.Int("events", dropped))
	}
}

// Trim applies limits to what waits behind a cursor, and returns how many events went. Of a queue
// that is closed none does.
func Trim(cursor *queue.Cursor, limits config.Queue, now time.Time) (dropped int, err error) {
	var olderThan time.Time
	if limits.MaxAge > 0 {
		olderThan = now.Add(-limits.MaxAge)
	}
	dropped, err = cursor.Trim(int64(limits.MaxBytes), olderThan)
	if errors.Is(err, queue.ErrClosed) {
		return 0, nil
	}
	return dropped, err
}

// Hanging says whether an attempt is running that should have ended long ago.
func (d *Delivery) Hanging() bool { return d.health.hanging() }

// CountRate brings up to date how many events were delivered in each of the last minutes.
func (d *Delivery) CountRate(now time.Time) { d.metrics.rate.List(now, d.metrics.delivered.N.Load()) }

// Forget removes the metrics of the sink.
func (d *Delivery) Forget() { d.metrics.delete() }

// WaitingBehind says what is stored behind a cursor.
func WaitingBehind(cursor *queue.Cursor) status.Waiting {
	events, bytes, oldest := cursor.Pending()
	w := status.Waiting{QueueEvents: events, QueueBytes: bytes}
	if events > 0 && !oldest.IsZero() {
		w.OldestEventAgeSeconds = max(0, time.Since(oldest).Seconds())
	}
	return w
}

// Snapshot returns the status of the sink. It does not ask the sink.
func (d *Delivery) Snapshot() status.SinkStatus {
	s := status.SinkStatus{
		Name: d.Cfg.Name, Kind: d.Cfg.Kind(), Waiting: WaitingBehind(d.Cursor), DeadLetters: d.dead.Count(d.Cfg.Name),
		Delivered: d.metrics.delivered.N.Load(), Filtered: d.metrics.filtered.N.Load(),
		Dropped: d.metrics.dropped.N.Load(),
	}
	s.DeliveredPerMinute = d.metrics.rate.List(time.Now(), s.Delivered)
	d.health.show(&s, &d.Cfg)
	return s
}
