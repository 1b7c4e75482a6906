package replay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/deliver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
)

const (
	// LettersPage is how many letters a replay looks up at once.
	LettersPage = 100
	// settleLetters and settleAfter bound how many accepted letters a replay has not deleted
	// yet: a sync each would cost more than the sending. After a crash those are sent again.
	settleLetters = 100
	settleAfter   = 100 * time.Millisecond
	// A replay waits for a sink that asks to be left alone, at most letterRest, and letterRests
	// times for one event.
	letterRest  = time.Minute
	letterRests = 5
)

// ErrReplaying says that another replay is running.
var ErrReplaying = errors.New("another replay is running; try again when it has ended")

// The outcomes of a LettersStep.
const (
	// LettersBegins: with the letters of one sink.
	LettersBegins = "begins"
	// LettersAccepted: a letter was accepted, and is deleted.
	LettersAccepted = "accepted"
	// LettersRefused: a letter was refused again, and stays.
	LettersRefused = "refused"
	// LettersWaits: the sink asks to be left alone.
	LettersWaits = "waits"
	// LettersEnded: with the letters of the sink.
	LettersEnded = "ended"
	// LettersStopped: before the last letter of the sink; those left stay as they are.
	LettersStopped = "stopped"
	// LettersDone: with all sinks.
	LettersDone = "done"
)

// LettersStep is what a replay reports.
type LettersStep struct {
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
	Counts *LettersCounts `json:"counts,omitempty"`
}

// LettersCounts say what became of the letters of a replay. Those that somebody else deleted
// meanwhile are in Letters alone.
type LettersCounts struct {
	Letters  int `json:"letters"`
	Accepted int `json:"accepted"`
	Refused  int `json:"refused"`
	// Left are those that were not tried.
	Left int `json:"left"`
}

// Add adds other counts.
func (c *LettersCounts) Add(other LettersCounts) {
	c.Letters += other.Letters
	c.Accepted += other.Accepted
	c.Refused += other.Refused
	c.Left += other.Left
}

// Letters sends the dead letters of one sink once more.
type Letters struct {
	LettersCounts

	Dead     queue.Letters
	Query    queue.DeadLetterFilter
	Sink, To string
	Report   func(LettersStep)

	// accepted are letters that are not deleted yet, since when the first of them was accepted.
	accepted []string
	since    time.Time
}

// Run sends them through d, oldest first, and deletes what is accepted. What is refused again
// stays, with the new reason; at a temporary failure it stops. d is nil where the sink is not
// configured.
func (r *Letters) Run(ctx context.Context, d *deliver.Delivery) {
	r.reportCounts(LettersBegins, "")
	err := fmt.Errorf("%w: %q is not in the configuration", ErrNoSuchSink, r.Sink)
	if d != nil {
		err = d.ByHand(ctx, func(ctx context.Context) error { return r.sendAll(ctx, d) })
	}
	if err != nil {
		r.reportCounts(LettersStopped, err.Error())
		return
	}
	r.reportCounts(LettersEnded, "")
}

func (r *Letters) reportCounts(outcome, reason string) {
	counts := r.LettersCounts
	r.Report(LettersStep{Outcome: outcome, Sink: r.Sink, To: r.To, Reason: reason, Counts: &counts})
}

// sendAll returns why it stopped before the last letter.
func (r *Letters) sendAll(ctx context.Context, d *deliver.Delivery) (err error) {
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
func (r *Letters) settle() error {
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
func (r *Letters) sendOne(ctx context.Context, d *deliver.Delivery, l queue.DeadLetter) error {
	stored, err := r.Dead.Get(l.ID)
	if errors.Is(err, queue.ErrNotFound) {
		return nil // somebody has purged it
	}
	var record event.Record
	if err == nil {
		record, err = recordOf(stored.Data)
	}
	v := deliver.Fate{Refused: true}
	if err == nil {
		v, err = patiently(ctx, d, record, func(reason string) {
			r.Report(LettersStep{Outcome: LettersWaits, Sink: r.Sink, To: r.To, Reason: reason})
		})
	}
	step := LettersStep{Sink: r.Sink, To: r.To, ID: l.ID, EventID: l.EventID, EventType: l.EventType}
	switch {
	case v.Accepted:
		r.Accepted++
		step.Outcome = LettersAccepted
		if len(r.accepted) == 0 {
			r.since = time.Now()
		}
		r.accepted = append(r.accepted, l.ID)
	case !v.Refused:
		return err
	default:
		now := d.Refusal(err)
		l.Time, l.Status, l.Reason, l.Request = now.Time, now.Status, now.Reason, now.Request
		if err := r.Dead.Update(l); err != nil && !errors.Is(err, queue.ErrNotFound) {
			return err
		}
		r.Refused++
		step.Outcome, step.Status, step.Reason = LettersRefused, l.Status, l.Reason
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

// patiently sends one event beside the lanes, and again when the sink asks to be left alone for a
// while; waits is called before that.
func patiently(
	ctx context.Context, d *deliver.Delivery, r event.Record, waits func(reason string),
) (deliver.Fate, error) {
	for rests := 0; ; {
		if wait := d.Resting(); wait > 0 {
			reason := "the sink asks to be left alone for " + max(time.Second, wait.Round(time.Second)).String()
			if rests++; wait > letterRest || rests > letterRests {
				return deliver.Fate{}, errors.New(reason)
			}
			waits(reason)
			if !status.Sleep(ctx, wait) {
				return deliver.Fate{}, context.Cause(ctx)
			}
			continue
		}
		v, err := d.Resend(ctx, []event.Record{r})
		switch {
		case v.Accepted:
			return v, nil
		case ctx.Err() != nil:
			return deliver.Fate{}, context.Cause(ctx)
		case v.Refused || v.Paused || d.Resting() <= 0 || rests+1 >= letterRests:
			return v, err
		}
	}
}
