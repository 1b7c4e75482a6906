package bridge

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/sinks"
)

const (
	// maxReason bounds the reason that a dead letter keeps.
	maxReason = 1000
	// sayEvery is how often the log speaks of the same thing that happens again and again.
	sayEvery = time.Minute
	// replayPage is how many letters a replay looks up at once.
	replayPage = 100
	// settleLetters and settleAfter bound how many accepted letters a replay has not deleted yet: a sync each would cost more than the
	// sending. After a crash those are sent again.
	settleLetters = 100
	settleAfter   = 100 * time.Millisecond
	// A replay waits for a sink that asks to be left alone, at most replayRest, and replayRests times for one letter.
	replayRest  = time.Minute
	replayRests = 5
)

var (
	// ErrNoSuchLetter says that a dead letter does not exist.
	ErrNoSuchLetter = errors.New("there is no such dead letter")
	// ErrNoSuchSink says that nothing is known by the name of a sink.
	ErrNoSuchSink = errors.New("there is no such sink")
	// ErrConfigured says that what was asked for is possible only with a sink that is not configured any more.
	ErrConfigured = errors.New("the sink is configured: its waiting events are going to be delivered")
	// ErrReplaying says that another replay is running.
	ErrReplaying = errors.New("another replay of dead letters is running; try again when it has ended")

	errLeaving = errors.New("the sink ends: the daemon ends, or its configuration was changed")
)

// DeadLetter is an event that a sink refused for good, or did not accept within its retry.max_age. It holds no secret.
type DeadLetter struct {
	ID        string          `json:"id"`
	Sink      string          `json:"sink"`
	Time      time.Time       `json:"time"`             // of the refusal
	Status    int             `json:"status,omitempty"` // of the answer; absent where there was none
	Reason    string          `json:"reason"`
	Request   string          `json:"request"`
	EventID   string          `json:"event_id,omitempty"`
	EventType string          `json:"event_type,omitempty"`
	Size      int             `json:"size"`            // bytes of the event
	Event     json.RawMessage `json:"event,omitempty"` // not in lists
	Data      []byte          `json:"data,omitempty"`  // instead of Event: what was stored is not an event
}

// DeadLetterFilter selects dead letters. Its zero value selects all.
type DeadLetterFilter struct {
	Sink  string
	IDs   []string // of letters or of events
	Since time.Time
}

func (f DeadLetterFilter) query() queue.DeadLetterFilter {
	return queue.DeadLetterFilter{Sink: f.Sink, IDs: f.IDs, Since: f.Since}
}

// fields are the filter as the log shows it.
func (f DeadLetterFilter) fields() []zap.Field {
	var fields []zap.Field
	if f.Sink != "" {
		fields = append(fields, zap.String("of_sink", f.Sink))
	}
	if len(f.IDs) > 0 {
		fields = append(fields, zap.Int("of_ids", len(f.IDs)))
	}
	if !f.Since.IsZero() {
		fields = append(fields, zap.Time("since", f.Since))
	}
	return fields
}

// throttle keeps the log from repeating itself.
type throttle struct {
	mu     sync.Mutex
	last   time.Time
	silent int
}

// note counts n more. It reports whether the log is to say so now, and how many there have been since it did last.
func (t *throttle) note(now time.Time, n int) (total int, say bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.silent += n
	if !t.last.IsZero() && now.Sub(t.last) < sayEvery {
		return 0, false
	}
	total, t.silent, t.last = t.silent, 0, now
	return total, true
}

// lettersOf makes dead letters of records that the sink has refused.
func (d *delivery) lettersOf(records []event.Record, cause error) []queue.DeadLetter {
	letters := make([]queue.DeadLetter, len(records))
	now, status := time.Now(), statusOf(cause)
	for i, r := range records {
		letters[i] = queue.DeadLetter{
			Sink: d.cfg.Name, Time: now, Status: status, Reason: bounded(cause.Error(), maxReason),
			Request: d.cfg.Request(), EventID: r.ID, EventType: r.Type, Data: r.JSON,
		}
	}
	return letters
}

// statusOf is the status of the answer that an error tells of; 0 where it tells of none.
func statusOf(err error) int {
	if e, ok := errors.AsType[*sinks.PermanentError](err); ok {
		return e.Status
	}
	if e, ok := errors.AsType[*sinks.RetryAfterError](err); ok {
		return e.Status
	}
	return 0
}

// bounded returns s, or its beginning and "..." where it is longer than limit.
func bounded(s string, limit int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= limit {
		return s
	}
	end := limit - len("...")
	for !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + "..."
}

// deadLettersDropped says in the log that the limit of their bytes has taken dead letters away.
func (b *Bridge) deadLettersDropped(sink string, letters int) {
	if total, say := b.deadDropped.note(time.Now(), letters); say {
		b.log.Error("dead letters were dropped, the oldest first: there are too many", zap.String("sink", sink), zap.Int("letters", total))
	}
}

// letterOf is a stored letter as it is shown, without its event.
func letterOf(l *queue.DeadLetter) DeadLetter {
	return DeadLetter{
		ID: l.ID, Sink: l.Sink, Time: l.Time.UTC(), Status: l.Status, Reason: l.Reason, Request: l.Request,
		EventID: l.EventID, EventType: l.EventType, Size: l.Size,
	}
}

// known fails for a sink's name that is neither configured nor has dead letters: that is a slip of whoever asks.
func (b *Bridge) known(sink string) error {
	b.mu.RLock()
	cfg := b.cfg
	b.mu.RUnlock()
	if sink == "" || b.dead.Count(sink) > 0 || sinkIndex(cfg, sink) >= 0 {
		return nil
	}
	return fmt.Errorf("%w: %q is not in the configuration and has no dead letters", ErrNoSuchSink, sink)
}

// deliveryTo returns the running delivery of a sink, nil if there is none.
func (b *Bridge) deliveryTo(sink string) *delivery {
	b.mu.RLock()
	defer b.mu.RUnlock()
	for _, r := range b.deliveries {
		if r.it.cfg.Name == sink {
			return r.it
		}
	}
	return nil
}

// DeadLetters returns at most limit dead letters without their events, oldest first, that are behind the one with the id
// after. If there may be more, next is what to give as after.
func (b *Bridge) DeadLetters(filter DeadLetterFilter, after string, limit int) (letters []DeadLetter, next string, err error) {
	if err := b.known(filter.Sink); err != nil {
		return nil, "", err
	}
	query := filter.query()
	query.After, query.Limit = after, limit
	list, err := b.dead.List(query)
	if err != nil {
		return nil, "", letterError(err)
	}
	letters = make([]DeadLetter, len(list))
	for i := range list {
		letters[i] = letterOf(&list[i])
	}
	if limit > 0 && len(letters) == limit {
		next = letters[limit-1].ID
	}
	return letters, next, nil
}

// DeadLetter returns one letter with its event.
func (b *Bridge) DeadLetter(id string) (DeadLetter, error) {
	stored, err := b.dead.Get(id)
	if err != nil {
		return DeadLetter{}, letterError(err)
	}
	l := letterOf(&stored)
	if json.Valid(stored.Data) {
		l.Event = stored.Data
	} else {
		l.Data = stored.Data
	}
	return l, nil
}

func letterError(err error) error {
	if errors.Is(err, queue.ErrNotFound) {
		return ErrNoSuchLetter
	}
	return err
}

// PurgeDeadLetters deletes dead letters for ever and returns how many. After an error those it has counted are gone.
func (b *Bridge) PurgeDeadLetters(filter DeadLetterFilter) (int, error) {
	if err := b.known(filter.Sink); err != nil {
		return 0, err
	}
	n, err := b.dead.Purge(filter.query())
	if n > 0 {
		b.log.Info("dead letters were purged", append(filter.fields(), zap.Int("letters", n))...)
	}
	return n, err
}

// RemovedSink is a sink that is not configured any more, and what still waits for it.
type RemovedSink struct {
	Name                  string  `json:"name"`
	QueueEvents           int64   `json:"queue_events"`
	QueueBytes            int64   `json:"queue_bytes"`
	OldestEventAgeSeconds float64 `json:"oldest_event_age_seconds"`
}

// removedSinks are the sinks that are not configured any more and for which events wait.
func (b *Bridge) removedSinks() []RemovedSink {
	b.mu.RLock()
	cfg := b.cfg
	b.mu.RUnlock()
	removed := []RemovedSink{}
	for _, name := range b.queue.Cursors() {
		cursor := b.queue.Lookup(name)
		if cursor == nil || sinkIndex(cfg, name) >= 0 {
			continue
		}
		if events, bytes, age := waitingBehind(cursor); events > 0 {
			removed = append(removed, RemovedSink{Name: name, QueueEvents: events, QueueBytes: bytes, OldestEventAgeSeconds: age})
		}
	}
	return removed
}

// PurgeRemovedSink gives up the events that wait for a sink which is not configured any more, and returns how many there were.
func (b *Bridge) PurgeRemovedSink(name string) (int64, error) {
	b.reloading.Lock() // the sink must not come back meanwhile
	defer b.reloading.Unlock()
	b.mu.RLock()
	cfg := b.cfg
	b.mu.RUnlock()
	if sinkIndex(cfg, name) >= 0 {
		return 0, fmt.Errorf("%s: %w", name, ErrConfigured)
	}
	cursor := b.queue.Lookup(name)
	if cursor == nil {
		return 0, fmt.Errorf("%w: no events wait for %q", ErrNoSuchSink, name)
	}
	events, _, _ := cursor.Pending()
	if err := b.queue.RemoveCursor(name); err != nil {
		return 0, err
	}
	b.log.Info("the events that waited for a removed sink were purged", zap.String("sink", name), zap.Int64("events", events))
	return events, nil
}

// The outcomes of a ReplayStep.
const (
	ReplayBegins   = "begins"   // with the letters of one sink
	ReplayAccepted = "accepted" // a letter, which is deleted
	ReplayRefused  = "refused"  // a letter, again: it stays
	ReplayWaits    = "waits"    // for a sink that asks to be left alone
	ReplayEnded    = "ended"    // with the letters of one sink
	ReplayStopped  = "stopped"  // before the last letter of one sink: those left stay as they are
	ReplayDone     = "done"     // with everything
)

// ReplayStep is one thing that a replay tells of while it runs.
type ReplayStep struct {
	Outcome string `json:"outcome"`
	Sink    string `json:"sink,omitempty"` // whose letters; absent when done
	To      string `json:"to,omitempty"`   // the sink they go to instead

	// Of a letter.
	ID        string `json:"id,omitempty"`
	EventID   string `json:"event_id,omitempty"`
	EventType string `json:"event_type,omitempty"`
	Status    int    `json:"status,omitempty"`
	// Reason says why a letter was refused, what is waited for, or why it stopped.
	Reason string `json:"reason,omitempty"`

	// Counts are absent for a letter and while waiting. When it begins they say what there is, else what became of it.
	Counts *ReplayCounts `json:"counts,omitempty"`
}

// ReplayCounts say what became of the letters of a replay. Those that somebody else deleted meanwhile are in Letters alone.
type ReplayCounts struct {
	Letters  int `json:"letters"`
	Accepted int `json:"accepted"`
	Refused  int `json:"refused"`
	Left     int `json:"left"` // not tried
}

func (c *ReplayCounts) add(other ReplayCounts) {
	c.Letters += other.Letters
	c.Accepted += other.Accepted
	c.Refused += other.Refused
	c.Left += other.Left
}

// Replay sends dead letters to the sink that refused them, or to the sink named to, one after the other, oldest first, sink by
// sink. It deletes what is accepted. What is refused again stays, with the new reason; at a temporary failure it stops with the letters of that
// sink. report is called at each step, the last of which is ReplayDone; an error of report ends the replay. If Replay returns an error
// nothing has been reported.
func (b *Bridge) Replay(ctx context.Context, filter DeadLetterFilter, to string, report func(ReplayStep) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	tell := func(s ReplayStep) {
		if ctx.Err() == nil && report(s) != nil {
			cancel()
		}
	}
	all, err := b.replay(ctx, filter, to, tell)
	if err == nil {
		tell(ReplayStep{Outcome: ReplayDone, Counts: &all}) // another one may begin as soon as this is heard
	}
	return err
}

// replay is Replay but for the last step.
func (b *Bridge) replay(ctx context.Context, filter DeadLetterFilter, to string, tell func(ReplayStep)) (all ReplayCounts, err error) {
	if !b.replaying.TryLock() {
		return all, ErrReplaying
	}
	defer b.replaying.Unlock()
	if to != "" && b.deliveryTo(to) == nil {
		return all, fmt.Errorf("%w: %q is not in the configuration", ErrNoSuchSink, to)
	}
	if err := b.known(filter.Sink); err != nil {
		return all, err
	}
	query := filter.query()
	query.Until = b.dead.Last() // what is refused from now on is not for this replay
	counts := map[string]int{}
	if query.Until != "" {
		if counts, err = b.dead.Matching(query); err != nil {
			return all, err
		}
	}
	for _, sink := range slices.Sorted(maps.Keys(counts)) {
		r := replay{
			ReplayCounts: ReplayCounts{Letters: counts[sink], Left: counts[sink]},
			dead:         b.dead, query: query, sink: sink, to: to, tell: tell,
		}
		r.query.Sink, r.query.Limit = sink, replayPage
		r.run(ctx, b.deliveryTo(cmp.Or(to, sink)))
		all.add(r.ReplayCounts)
		b.log.Info("dead letters were replayed", zap.String("of_sink", sink), zap.String("to_sink", cmp.Or(to, sink)),
			zap.Int("accepted", r.Accepted), zap.Int("refused", r.Refused), zap.Int("left", r.Left))
	}
	return all, nil
}

// replay sends the letters of one sink.
type replay struct {
	ReplayCounts

	dead     *queue.DeadLetters
	query    queue.DeadLetterFilter
	sink, to string
	tell     func(ReplayStep)

	accepted []string // not deleted yet
	since    time.Time
}

func (r *replay) step(outcome string) ReplayStep {
	return ReplayStep{Outcome: outcome, Sink: r.sink, To: r.to}
}

func (r *replay) run(ctx context.Context, d *delivery) {
	r.tellCounts(ReplayBegins, "")
	err := fmt.Errorf("%w: %q is not in the configuration", ErrNoSuchSink, r.sink)
	if d != nil {
		err = d.replays.use(ctx, d.draining, func(ctx context.Context) error { return r.sendAll(ctx, d) })
	}
	if err != nil {
		r.tellCounts(ReplayStopped, err.Error())
		return
	}
	r.tellCounts(ReplayEnded, "")
}

func (r *replay) tellCounts(outcome, reason string) {
	s, counts := r.step(outcome), r.ReplayCounts
	s.Reason, s.Counts = reason, &counts
	r.tell(s)
}

// sendAll returns why it stopped before the last letter.
func (r *replay) sendAll(ctx context.Context, d *delivery) (err error) {
	defer func() { err = errors.Join(err, r.settle()) }()
	for {
		letters, err := r.dead.List(r.query)
		if err != nil {
			return err
		}
		for i := range letters {
			l := &letters[i]
			if err := r.sendOne(ctx, d, l); err != nil {
				return err
			}
			r.Left--
			r.query.After = l.ID
			if len(r.accepted) >= settleLetters || (len(r.accepted) > 0 && time.Since(r.since) >= settleAfter) {
				if err := r.settle(); err != nil {
					return err
				}
			}
		}
		if len(letters) < r.query.Limit {
			r.Left = 0 // of those that were counted some may have been deleted meanwhile
			return nil
		}
	}
}

// settle deletes what was accepted.
func (r *replay) settle() error {
	if len(r.accepted) == 0 {
		return nil
	}
	if _, err := r.dead.Delete(r.accepted...); err != nil {
		return fmt.Errorf("%d accepted letters could not be deleted and would be sent again: %w", len(r.accepted), err)
	}
	r.accepted = r.accepted[:0]
	return nil
}

// sendOne sends a letter. An error means that it was neither accepted nor refused.
func (r *replay) sendOne(ctx context.Context, d *delivery, l *queue.DeadLetter) error {
	stored, err := r.dead.Get(l.ID)
	if errors.Is(err, queue.ErrNotFound) {
		return nil // somebody has purged it
	}
	var record event.Record
	if err == nil {
		record, err = recordOf(stored.Data)
	}
	if err != nil {
		return r.refused(d, l, err)
	}
	for rests := 0; ; rests++ {
		if err := r.leaveAlone(ctx, d, rests); err != nil {
			return err
		}
		err := d.sendAlone(ctx, record)
		if err == nil {
			r.Accepted++
			if len(r.accepted) == 0 {
				r.since = time.Now()
			}
			r.accepted = append(r.accepted, l.ID)
			r.tellOf(ReplayAccepted, l)
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if _, ok := errors.AsType[*sinks.PermanentError](err); ok {
			return r.refused(d, l, err)
		}
		later, ok := errors.AsType[*sinks.RetryAfterError](err)
		if !ok || later.After <= 0 || rests+1 >= replayRests {
			return err
		}
	}
}

// refused notes that a letter was refused again.
func (r *replay) refused(d *delivery, l *queue.DeadLetter, cause error) error {
	l.Time, l.Status, l.Reason, l.Request = time.Now(), statusOf(cause), bounded(cause.Error(), maxReason), d.cfg.Request()
	if err := r.dead.Update(*l); err != nil && !errors.Is(err, queue.ErrNotFound) {
		return err
	}
	r.Refused++
	r.tellOf(ReplayRefused, l)
	return nil
}

func (r *replay) tellOf(outcome string, l *queue.DeadLetter) {
	s := r.step(outcome)
	s.ID, s.EventID, s.EventType = l.ID, l.EventID, l.EventType
	if outcome == ReplayRefused {
		s.Status, s.Reason = l.Status, l.Reason
	}
	r.tell(s)
}

// leaveAlone waits as long as the sink has asked for, of a replay or of a lane.
func (r *replay) leaveAlone(ctx context.Context, d *delivery, rests int) error {
	for {
		wait := d.health.resting(time.Now())
		if wait <= 0 {
			return nil
		}
		reason := "the sink asks to be left alone for " + max(time.Second, wait.Round(time.Second)).String()
		if rests++; wait > replayRest || rests > replayRests {
			return errors.New(reason)
		}
		s := r.step(ReplayWaits)
		s.Reason = reason
		r.tell(s)
		if !sleep(ctx, wait) {
			return context.Cause(ctx)
		}
	}
}

// recordOf makes a record of the JSON of a dead letter.
func recordOf(data []byte) (event.Record, error) {
	e := new(event.Event)
	if err := json.Unmarshal(data, e); err != nil {
		return event.Record{}, fmt.Errorf("what was stored is not an event: %w", err)
	}
	if err := e.Validate(); err != nil {
		return event.Record{}, fmt.Errorf("what was stored is not an event: %w", err)
	}
	return event.Record{ID: e.ID, Type: e.Type, Key: e.Key(), Received: e.Received, JSON: data}, nil
}

// sendAlone makes one attempt beside the lanes. It counts as an attempt; that the event was not accepted in the first place has been
// counted already. A sink that does not come back is left behind.
func (d *delivery) sendAlone(ctx context.Context, record event.Record) error {
	return d.alone(ctx, func(ctx context.Context) error { return d.sink.Send(ctx, []event.Record{record}) })
}

// alone is sendAlone for a call of the sink.
func (d *delivery) alone(ctx context.Context, call func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, d.cfg.Timeout)
	defer cancel()
	start := time.Now()
	sent := make(chan error, 1)
	go func() { sent <- call(ctx) }()
	overdue := time.NewTimer(d.cfg.Timeout + overdueAfter)
	defer overdue.Stop()
	var err error
	select {
	case err = <-sent:
	case <-overdue.C:
		err = fmt.Errorf("an attempt has not ended after %s", d.cfg.Timeout+overdueAfter)
	}
	d.metrics.duration.Observe(time.Since(start).Seconds())
	if _, partial := errors.AsType[*sinks.PartialError](err); err == nil || partial {
		d.metrics.success.Inc()
		return err
	}
	if _, ok := errors.AsType[*sinks.PermanentError](err); ok {
		d.metrics.permanent.Inc()
		return err
	}
	d.metrics.retry.Inc()
	if later, ok := errors.AsType[*sinks.RetryAfterError](err); ok && later.After > 0 {
		d.health.rest(time.Now().Add(later.After))
	}
	return err
}

// replayGate lets one replay use a sink, as long as the sink does not end.
type replayGate struct {
	token   chan struct{} // held while a replay runs, and for ever when the sink has ended
	leaving chan struct{}
	leave   func()
}

func newReplayGate() replayGate {
	g := replayGate{token: make(chan struct{}, 1), leaving: make(chan struct{})}
	g.leave = sync.OnceFunc(func() { close(g.leaving) })
	return g
}

// use runs fn, whose context ends when the sink is about to end.
func (g *replayGate) use(ctx context.Context, draining <-chan struct{}, fn func(context.Context) error) error {
	select {
	case g.token <- struct{}{}:
	default:
		return errLeaving
	}
	defer func() { <-g.token }()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-draining:
		case <-g.leaving:
		case <-ctx.Done():
		}
		cancel(errLeaving)
	}()
	return fn(ctx)
}

// end ends the replay that uses the sink, and waits for that. No other begins.
func (g *replayGate) end(limit time.Duration) bool {
	g.leave()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case g.token <- struct{}{}:
		return true
	case <-timer.C:
		return false
	}
}

// deadLetterGauge exports how many dead letters wait for somebody to look at them, also those of sinks that are gone.
type deadLetterGauge struct {
	bridge *Bridge
	desc   *prometheus.Desc
}

func newDeadLetterGauge(b *Bridge) *deadLetterGauge {
	return &deadLetterGauge{bridge: b, desc: prometheus.NewDesc("hmcnotifyd_sink_dead_letters",
		"Dead letters that are kept until somebody replays or purges them.", []string{"sink"}, nil)}
}

// Describe implements prometheus.Collector.
func (g *deadLetterGauge) Describe(descs chan<- *prometheus.Desc) { descs <- g.desc }

// Collect implements prometheus.Collector.
func (g *deadLetterGauge) Collect(metrics chan<- prometheus.Metric) {
	names := make(map[string]bool)
	for _, name := range g.bridge.dead.Sinks() {
		names[name] = true
	}
	g.bridge.mu.RLock()
	for i := range g.bridge.cfg.Sinks {
		names[g.bridge.cfg.Sinks[i].Name] = true
	}
	g.bridge.mu.RUnlock()
	for name := range names {
		metrics <- prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, float64(g.bridge.dead.Count(name)), name)
	}
}
