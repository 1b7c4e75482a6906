package deliver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/sinks"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
)

const (
	// MaxReason bounds the reason that a dead letter keeps.
	MaxReason = 1000
	// sayEvery is how often the log speaks of the same thing that happens again and again.
	sayEvery = time.Minute
	// ReplayPage is how many letters a replay looks up at once.
	ReplayPage = 100
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

	ErrLeaving = errors.New("the sink ends: the daemon ends, or its configuration was changed")
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

func (f DeadLetterFilter) Query() queue.DeadLetterFilter {
	return queue.DeadLetterFilter{Sink: f.Sink, IDs: f.IDs, Since: f.Since}
}

// Fields are the filter as the log shows it.
func (f DeadLetterFilter) Fields() []zap.Field {
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

// Throttle keeps the log from repeating itself.
type Throttle struct {
	mu     sync.Mutex
	last   time.Time
	silent int
}

// Note counts n more. It reports whether the log is to say so now, and how many there have been since it did last.
func (t *Throttle) Note(now time.Time, n int) (total int, say bool) {
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
func (d *Delivery) lettersOf(records []event.Record, cause error) []queue.DeadLetter {
	letters := make([]queue.DeadLetter, len(records))
	now, status := time.Now(), statusOf(cause)
	for i, r := range records {
		letters[i] = queue.DeadLetter{
			Sink: d.Cfg.Name, Time: now, Status: status, Reason: event.Bounded(cause.Error(), MaxReason),
			Request: d.Cfg.Request(), EventID: r.ID, EventType: r.Type, Data: r.JSON,
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

// LetterOf is a stored letter as it is shown, without its event.
func LetterOf(l *queue.DeadLetter) DeadLetter {
	return DeadLetter{
		ID: l.ID, Sink: l.Sink, Time: l.Time.UTC(), Status: l.Status, Reason: l.Reason, Request: l.Request,
		EventID: l.EventID, EventType: l.EventType, Size: l.Size,
	}
}

func LetterError(err error) error {
	if errors.Is(err, queue.ErrNotFound) {
		return ErrNoSuchLetter
	}
	return err
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

func (c *ReplayCounts) Add(other ReplayCounts) {
	c.Letters += other.Letters
	c.Accepted += other.Accepted
	c.Refused += other.Refused
	c.Left += other.Left
}

// Replay sends the letters of one sink.
type Replay struct {
	ReplayCounts

	Dead     *queue.DeadLetters
	Query    queue.DeadLetterFilter
	Sink, To string
	Tell     func(ReplayStep)

	accepted []string // not deleted yet
	since    time.Time
}

func (r *Replay) step(outcome string) ReplayStep {
	return ReplayStep{Outcome: outcome, Sink: r.Sink, To: r.To}
}

func (r *Replay) Run(ctx context.Context, d *Delivery) {
	r.tellCounts(ReplayBegins, "")
	err := fmt.Errorf("%w: %q is not in the configuration", ErrNoSuchSink, r.Sink)
	if d != nil {
		err = d.Replays.use(ctx, d.draining, func(ctx context.Context) error { return r.sendAll(ctx, d) })
	}
	if err != nil {
		r.tellCounts(ReplayStopped, err.Error())
		return
	}
	r.tellCounts(ReplayEnded, "")
}

func (r *Replay) tellCounts(outcome, reason string) {
	s, counts := r.step(outcome), r.ReplayCounts
	s.Reason, s.Counts = reason, &counts
	r.Tell(s)
}

// sendAll returns why it stopped before the last letter.
func (r *Replay) sendAll(ctx context.Context, d *Delivery) (err error) {
	defer func() { err = errors.Join(err, r.settle()) }()
	for {
		letters, err := r.Dead.List(r.Query)
		if err != nil {
			return err
		}
		for i := range letters {
			l := &letters[i]
			if err := r.sendOne(ctx, d, l); err != nil {
				return err
			}
			r.Left--
			r.Query.After = l.ID
			if len(r.accepted) >= settleLetters || (len(r.accepted) > 0 && time.Since(r.since) >= settleAfter) {
				if err := r.settle(); err != nil {
					return err
				}
			}
		}
		if len(letters) < r.Query.Limit {
			r.Left = 0 // of those that were counted some may have been deleted meanwhile
			return nil
		}
	}
}

// settle deletes what was accepted.
func (r *Replay) settle() error {
	if len(r.accepted) == 0 {
		return nil
	}
	if _, err := r.Dead.Delete(r.accepted...); err != nil {
		return fmt.Errorf("%d accepted letters could not be deleted and would be sent again: %w", len(r.accepted), err)
	}
	r.accepted = r.accepted[:0]
	return nil
}

// sendOne sends a letter. An error means that it was neither accepted nor refused.
func (r *Replay) sendOne(ctx context.Context, d *Delivery, l *queue.DeadLetter) error {
	stored, err := r.Dead.Get(l.ID)
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
func (r *Replay) refused(d *Delivery, l *queue.DeadLetter, cause error) error {
	l.Time, l.Status, l.Reason, l.Request = time.Now(), statusOf(cause), event.Bounded(cause.Error(), MaxReason), d.Cfg.Request()
	if err := r.Dead.Update(*l); err != nil && !errors.Is(err, queue.ErrNotFound) {
		return err
	}
	r.Refused++
	r.tellOf(ReplayRefused, l)
	return nil
}

func (r *Replay) tellOf(outcome string, l *queue.DeadLetter) {
	s := r.step(outcome)
	s.ID, s.EventID, s.EventType = l.ID, l.EventID, l.EventType
	if outcome == ReplayRefused {
		s.Status, s.Reason = l.Status, l.Reason
	}
	r.Tell(s)
}

// leaveAlone waits as long as the sink has asked for, of a replay or of a lane.
func (r *Replay) leaveAlone(ctx context.Context, d *Delivery, rests int) error {
	for {
		wait := d.Health.Resting(time.Now())
		if wait <= 0 {
			return nil
		}
		reason := "the sink asks to be left alone for " + max(time.Second, wait.Round(time.Second)).String()
		if rests++; wait > replayRest || rests > replayRests {
			return errors.New(reason)
		}
		s := r.step(ReplayWaits)
		s.Reason = reason
		r.Tell(s)
		if !status.Sleep(ctx, wait) {
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
func (d *Delivery) sendAlone(ctx context.Context, record event.Record) error {
	return d.Alone(ctx, func(ctx context.Context) error { return d.Sink.Send(ctx, []event.Record{record}) })
}

// Alone is sendAlone for a call of the sink.
func (d *Delivery) Alone(ctx context.Context, call func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, d.Cfg.Timeout)
	defer cancel()
	start := time.Now()
	sent := make(chan error, 1)
	go func() { sent <- call(ctx) }()
	overdue := time.NewTimer(d.Cfg.Timeout + overdueAfter)
	defer overdue.Stop()
	var err error
	select {
	case err = <-sent:
	case <-overdue.C:
		err = fmt.Errorf("an attempt has not ended after %s", d.Cfg.Timeout+overdueAfter)
	}
	d.Metrics.duration.Observe(time.Since(start).Seconds())
	if _, partial := errors.AsType[*sinks.PartialError](err); err == nil || partial {
		d.Metrics.success.Inc()
		return err
	}
	if _, ok := errors.AsType[*sinks.PermanentError](err); ok {
		d.Metrics.permanent.Inc()
		return err
	}
	d.Metrics.retry.Inc()
	if later, ok := errors.AsType[*sinks.RetryAfterError](err); ok && later.After > 0 {
		d.Health.rest(time.Now().Add(later.After))
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
		return ErrLeaving
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
		cancel(ErrLeaving)
	}()
	return fn(ctx)
}

// End ends the replay that uses the sink, and waits for that. No other begins.
func (g *replayGate) End(limit time.Duration) bool {
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
