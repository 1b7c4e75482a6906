package deliver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
)

const (
	// ReplayPage is how many letters a replay looks up at once.
	ReplayPage = 100
	// settleLetters and settleAfter bound how many accepted letters a replay has not deleted
	// yet: a sync each would cost more than the sending. After a crash those are sent again.
	settleLetters = 100
	settleAfter   = 100 * time.Millisecond
	// A replay waits for a sink that asks to be left alone, at most replayRest, and replayRests
	// times for one event.
	replayRest  = time.Minute
	replayRests = 5
)

var (
	// ErrReplaying says that another replay is running.
	ErrReplaying = errors.New("another replay is running; try again when it has ended")
	// ErrLeaving is why a replay stops when its sink does.
	ErrLeaving = errors.New("the sink ends: the daemon ends, or its configuration was changed")
)

// The outcomes of a ReplayStep.
const (
	// ReplayBegins: with the letters of one sink.
	ReplayBegins = "begins"
	// ReplayAccepted: a letter was accepted, and is deleted.
	ReplayAccepted = "accepted"
	// ReplayRefused: a letter was refused again, and stays.
	ReplayRefused = "refused"
	// ReplayWaits: the sink asks to be left alone.
	ReplayWaits = "waits"
	// ReplayEnded: with the letters of the sink.
	ReplayEnded = "ended"
	// ReplayStopped: before the last letter of the sink; those left stay as they are.
	ReplayStopped = "stopped"
	// ReplayDone: with all sinks.
	ReplayDone = "done"
)

// ReplayStep is what a replay reports.
type ReplayStep struct {
	Outcome string `json:"outcome"`
	// Sink is whose letters they are; absent when done.
	Sink string `json:"sink,omitempty"`
	// To is the sink they go to instead.
	To string `json:"to,omitempty"`

	// Of a letter.
	ID        string `json:"id,omitempty"`
	EventID   string `json:"event_id,omitempty"`
	EventType string `json:"event_type,omitempty"`
	Status    int    `json:"status,omitempty"`
	// Reason says why a letter was refused, what is waited for, or why it stopped.
	Reason string `json:"reason,omitempty"`

	// Counts are absent for a letter and while waiting. When it begins they say what there is,
	// else what became of it.
	Counts *ReplayCounts `json:"counts,omitempty"`
}

// ReplayCounts say what became of the letters of a replay. Those that somebody else deleted
// meanwhile are in Letters alone.
type ReplayCounts struct {
	Letters  int `json:"letters"`
	Accepted int `json:"accepted"`
	Refused  int `json:"refused"`
	// Left are those that were not tried.
	Left int `json:"left"`
}

// Add adds other counts.
func (c *ReplayCounts) Add(other ReplayCounts) {
	c.Letters += other.Letters
	c.Accepted += other.Accepted
	c.Refused += other.Refused
	c.Left += other.Left
}

// Replay sends the dead letters of one sink.
type Replay struct {
	ReplayCounts

	Dead     queue.Letters
	Query    queue.DeadLetterFilter
	Sink, To string
	Report   func(ReplayStep)

	// accepted are letters that are not deleted yet, since when the first of them was accepted.
	accepted []string
	since    time.Time
}

// Run sends them through d, oldest first, and deletes what is accepted. What is refused again
// stays, with the new reason; at a temporary failure it stops. d is nil where the sink is not
// configured.
func (r *Replay) Run(ctx context.Context, d *Delivery) {
	r.reportCounts(ReplayBegins, "")
	err := fmt.Errorf("%w: %q is not in the configuration", ErrNoSuchSink, r.Sink)
	if d != nil {
		err = d.ByHand(ctx, func(ctx context.Context) error { return r.sendAll(ctx, d) })
	}
	if err != nil {
		r.reportCounts(ReplayStopped, err.Error())
		return
	}
	r.reportCounts(ReplayEnded, "")
}

func (r *Replay) reportCounts(outcome, reason string) {
	counts := r.ReplayCounts
	r.Report(ReplayStep{Outcome: outcome, Sink: r.Sink, To: r.To, Reason: reason, Counts: &counts})
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
			if err := r.sendOne(ctx, d, letters[i]); err != nil {
				return err
			}
			r.Left--
			r.Query.After = letters[i].ID
			if len(r.accepted) >= settleLetters || time.Since(r.since) >= settleAfter {
				if err := r.settle(); err != nil {
					return err
				}
			}
		}
		if len(letters) < r.Query.Limit {
			// Of those that were counted some may have been deleted meanwhile.
			r.Left = 0
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
func (r *Replay) sendOne(ctx context.Context, d *Delivery, l queue.DeadLetter) error {
	stored, err := r.Dead.Get(l.ID)
	if errors.Is(err, queue.ErrNotFound) {
		return nil // somebody has purged it
	}
	var record event.Record
	if err == nil {
		record, err = recordOf(stored.Data)
	}
	v := refused
	if err == nil {
		v, err = d.resend(ctx, record, func(reason string) {
			r.Report(ReplayStep{Outcome: ReplayWaits, Sink: r.Sink, To: r.To, Reason: reason})
		})
	}
	step := ReplayStep{Sink: r.Sink, To: r.To, ID: l.ID, EventID: l.EventID, EventType: l.EventType}
	switch v {
	case again, paused:
		return err
	case accepted:
		r.Accepted++
		step.Outcome = ReplayAccepted
		if len(r.accepted) == 0 {
			r.since = time.Now()
		}
		r.accepted = append(r.accepted, l.ID)
	default:
		now := d.refusal(err)
		l.Time, l.Status, l.Reason, l.Request = now.Time, now.Status, now.Reason, now.Request
		if err := r.Dead.Update(l); err != nil && !errors.Is(err, queue.ErrNotFound) {
			return err
		}
		r.Refused++
		step.Outcome, step.Status, step.Reason = ReplayRefused, l.Status, l.Reason
	}
	r.Report(step)
	return nil
}

// recordOf makes a record of the JSON of a dead letter.
func recordOf(data []byte) (event.Record, error) {
	e := new(event.Event)
	err := json.Unmarshal(data, e)
	if err == nil {
		err = e.Validate()
	}
	if err != nil {
		return event.Record{}, fmt.Errorf("what was stored is not an event: %w", err)
	}
	return event.Record{ID: e.ID, Type: e.Type, Key: e.Key(), Received: e.Received, JSON: data}, nil
}

// ByHand runs fn, which sends beside the lanes, as long as the delivery does not end: ctx is done
// then.
func (d *Delivery) ByHand(ctx context.Context, fn func(context.Context) error) error {
	select {
	case d.sending <- struct{}{}:
	default:
		return ErrLeaving
	}
	defer func() { <-d.sending }()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer d.whenDraining(func() { cancel(ErrLeaving) })()
	return fn(ctx)
}

// EndByHand ends the replay that uses the sink, and waits at most limit for that. No other begins.
func (d *Delivery) EndByHand(limit time.Duration) {
	d.drain()
	select {
	case d.sending <- struct{}{}:
	case <-time.After(limit):
	}
}

// resend sends one event beside the lanes, and again when the sink asks to be left alone for a
// while; waits is called before that. The verdict again means that the event was neither accepted
// nor refused.
func (d *Delivery) resend(ctx context.Context, r event.Record, waits func(reason string)) (verdict, error) {
	for rests := 0; ; {
		if wait := d.Resting(); wait > 0 {
			reason := "the sink asks to be left alone for " + max(time.Second, wait.Round(time.Second)).String()
			if rests++; wait > replayRest || rests > replayRests {
				return again, errors.New(reason)
			}
			waits(reason)
			if !status.Sleep(ctx, wait) {
				return again, context.Cause(ctx)
			}
			continue
		}
		v, err := d.alone(ctx, func(ctx context.Context) error { return d.Sink.Send(ctx, []event.Record{r}) })
		switch {
		case v == accepted:
			return v, nil
		case ctx.Err() != nil:
			return again, context.Cause(ctx)
		case v > again || v == paused || d.Resting() <= 0 || rests+1 >= replayRests:
			return v, err
		}
	}
}
