package replay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/deliver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/match"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/sinks"
)

var (
	// ErrNothing says that no event of the time that was asked for is stored.
	ErrNothing = errors.New("nothing is stored of that time")
	// ErrPresent says that a sink has no use for the past.
	ErrPresent = errors.New("the sink tells what is, and events of the past would falsify that")
)

const (
	// progressEvery is how often a replay says at most how far it is.
	progressEvery = 200 * time.Millisecond
	// maxRefused is how many refused events a replay names.
	maxRefused = 20
	// maxReason bounds a reason that it gives.
	maxReason = 1000
)

// Query says which stored events a replay is for.
type Query struct {
	// Since is the first time of receipt, Until the one behind the last; zero: the present.
	Since, Until time.Time
	// none: all
	Type, HMC match.Patterns
	// DryRun has them counted, and nothing sent.
	DryRun bool
}

func (q *Query) fits(r event.Record) bool {
	if q.Type.IsSet() && !q.Type.Match(r.Type) {
		return false
	}
	if !q.HMC.IsSet() {
		return true
	}
	e, err := r.Event()
	return err == nil && q.HMC.Match(e.HMC)
}

// The outcomes of a Step.
const (
	Begins = "begins"
	// Sends: some were sent, or counted.
	Sends = "sends"
	// Refused: the sink has refused an event for good. The first 20 are named.
	Refused = "refused"
	// Waits: the sink does not accept now; it is tried again.
	Waits = "waits"
	// Stopped: before the end.
	Stopped = "stopped"
	Done    = "done"
)

// Step is what a replay reports. It holds no secret.
type Step struct {
	Outcome string `json:"outcome"`
	Sink    string `json:"sink"`

	// When it begins: the time that was asked for, and when the first of the events that are
	// stored was received.
	Since    *time.Time `json:"since,omitempty"`
	Until    *time.Time `json:"until,omitempty"`
	HeldFrom *time.Time `json:"held_from,omitempty"`

	// Of an event that was refused.
	EventID   string `json:"event_id,omitempty"`
	EventType string `json:"event_type,omitempty"`
	// Reason says why it was refused, what is waited for, or why it stopped.
	Reason string `json:"reason,omitempty"`

	// Counts say what there was so far. At is when the last event was received that is done
	// with.
	Counts *Counts    `json:"counts,omitempty"`
	At     *time.Time `json:"at,omitempty"`
}

// Counts say what became of the events of a replay.
type Counts struct {
	// Events are those of that time, and of the types and HMCs that were asked for.
	Events int `json:"events"`
	// Filtered are those that the sink's match and drop leave out.
	Filtered  int `json:"filtered"`
	Delivered int `json:"delivered"`
	Refused   int `json:"refused"`
	// Missing went by the limit of all that is stored before they were read, of whatever time.
	Missing int `json:"missing"`
}

// run is one replay.
type run struct {
	*span
	Counts

	to     *deliver.Delivery
	query  Query
	report func(Step)
	at     time.Time
	told   time.Time
}

// Replay sends the stored events that q asks for once more through a sink, in the order in which
// they were stored, beside its lanes. It waits for as long as the sink does not accept them. report
// is called at each step, the last of which is Done or Stopped. If Replay returns an error, nothing
// has been sent or reported.
func (h History) Replay(ctx context.Context, d *deliver.Delivery, q Query, report func(Step)) (Counts, error) {
	if _, repeats := d.Sink.(sinks.Repeater); repeats {
		return Counts{}, fmt.Errorf("%s: %w", d.Cfg.Name, ErrPresent)
	}
	if now := time.Now(); q.Until.IsZero() || q.Until.After(now) {
		q.Until = now
	}
	s, err := h.span(q.Since, q.Until)
	if err != nil {
		return Counts{}, err
	}
	defer s.reader.Close()
	page, err := s.page()
	if err != nil {
		return Counts{}, err
	}
	from, to, err := h.Held()
	if err != nil {
		return Counts{}, err
	}
	if len(page) == 0 {
		return Counts{}, fmt.Errorf("%w: %s", ErrNothing, heldText(from, to))
	}
	r := run{span: s, to: d, query: q, report: report}
	since, until, from := q.Since.UTC(), q.Until.UTC(), from.UTC()
	r.tell(Step{Outcome: Begins, Since: &since, Until: &until, HeldFrom: &from})
	all := func(ctx context.Context) error { return r.all(ctx, page) }
	if q.DryRun {
		err = all(ctx)
	} else {
		err = d.ByHand(ctx, all)
	}
	end := Step{Outcome: Done}
	if err != nil {
		end = Step{Outcome: Stopped, Reason: event.Bounded(err.Error(), maxReason)}
	}
	r.tellCounts(end)
	return r.Counts, nil
}

// heldText says of what time events are stored.
func heldText(from, to time.Time) string {
	if from.IsZero() {
		return "there is none at all; storage.retain says how long delivered events are kept"
	}
	return fmt.Sprintf("what there is was received from %s to %s; "+
		"storage.retain says how long delivered events are kept",
		from.UTC().Format(time.RFC3339), to.UTC().Format(time.RFC3339))
}

func (r *run) tell(s Step) {
	s.Sink = r.to.Cfg.Name
	r.report(s)
}

// tellCounts adds to a step how far it is.
func (r *run) tellCounts(s Step) {
	r.Missing = r.missing
	counts := r.Counts
	s.Counts, r.told = &counts, time.Now()
	if !r.at.IsZero() {
		at := r.at.UTC()
		s.At = &at
	}
	r.tell(s)
}

// progress says how far it is, unless it just has.
func (r *run) progress() {
	if time.Since(r.told) >= progressEvery {
		r.tellCounts(Step{Outcome: Sends})
	}
}

// all sends page by page, and returns why it stopped before the end.
func (r *run) all(ctx context.Context, page []event.Record) (err error) {
	for ; len(page) > 0 && err == nil; page, err = r.page() {
		last := page[len(page)-1].Received
		wanted := page[:0]
		for _, rec := range page {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			switch {
			case !r.query.fits(rec):
				continue
			case !r.to.Wants(rec):
				r.Filtered++
			default:
				wanted = append(wanted, rec)
			}
			r.Events++
		}
		if !r.query.DryRun {
			if err := r.resend(ctx, wanted); err != nil {
				return err
			}
		}
		r.at = last
		r.progress()
	}
	return err
}

func (r *run) became(events []event.Record, err error) {
	if len(events) == 0 {
		return
	}
	r.at = events[len(events)-1].Received
	if err == nil {
		r.Delivered += len(events)
		r.to.Replayed(len(events), 0)
		r.progress()
		return
	}
	r.to.Replayed(0, len(events))
	for _, e := range events {
		if r.Refused++; r.Refused <= maxRefused {
			r.tell(Step{
				Outcome: Refused, EventID: e.ID, EventType: e.Type, Reason: event.Bounded(err.Error(), maxReason),
			})
		}
	}
	r.progress()
}

func (r *run) waits(reason string) {
	r.tellCounts(Step{Outcome: Waits, Reason: event.Bounded(reason, maxReason)})
}
