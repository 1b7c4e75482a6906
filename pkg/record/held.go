package record

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/translate"
)

// Some notifications say what has happened and not how or why: that a job has ended, that a system
// has stopped. The HMC is asked, and the event is held back until that is known, but not for long:
// it is recorded without, if the HMC does not answer or the budget of requests is used up. What
// comes of the same resource meanwhile waits behind it, so that the order is kept.
const (
	// HoldWait is how long an event is held back at most, less the time until the recorder looks
	// at what is due.
	HoldWait = 1400 * time.Millisecond
	// MaxQuestions bounds how many are held back for an answer.
	MaxQuestions = 100
	// maxHeld bounds those with what waits behind them.
	maxHeld = 1000
)

// held is an event that is held back.
type held struct {
	event event.Event
	// of the order; about is what was asked about
	key, about string
	due        time.Time
	ready      bool // nothing more is awaited
	kept       int  // bytes
}

// jobBody is the answer to Query Job Status.
type jobBody struct {
	Status     string          `json:"status"`
	StatusCode *int            `json:"job-status-code,omitempty"`
	ReasonCode *int            `json:"job-reason-code,omitempty"`
	Results    json.RawMessage `json:"job-results,omitempty"`
}

// ask holds back an event if the HMC can be asked about what it is about ("": about nothing).
func (t *tx) ask(e *event.Event, about string) bool {
	if about == "" || t.questions() >= MaxQuestions || !t.r.watcher.Ask(about) {
		return false
	}
	return t.hold(&held{event: copyEvent(e), key: e.Key(), about: about, due: t.now.Add(HoldWait)})
}

// hold holds an event back, if there is room for it.
func (t *tx) hold(h *held) bool {
	h.kept = keptSize(&h.event)
	if len(t.held) >= maxHeld || t.kept.Take(h.kept) != nil {
		return false
	}
	t.held = append(t.held, h)
	return true
}

func (t *tx) questions() (n int) {
	for _, h := range t.held {
		if !h.ready {
			n++
		}
	}
	return n
}

// behind holds an event back if one of the same resource is.
func (t *tx) behind(e *event.Event) bool {
	key := e.Key()
	if !slices.ContainsFunc(t.held, func(h *held) bool { return h.key == key }) {
		return false
	}
	if !t.hold(&held{event: copyEvent(e), key: key, due: t.now, ready: true}) {
		t.release(true)
		return false
	}
	return true
}

// Awaits says whether an event is still held back for what is asked about something.
func (r *Recorder) Awaits(about string) bool {
	t := r.enter()
	defer t.end()
	return t.awaiting(about) != nil
}

func (t *tx) awaiting(about string) *held {
	i := slices.IndexFunc(t.held, func(h *held) bool { return h.about == about && !h.ready })
	if i < 0 {
		return nil
	}
	return t.held[i]
}

// JobKnown notes what is known of a job whose completion is held back; nil: nothing.
func (r *Recorder) JobKnown(ctx context.Context, uri string, job *hmc.Job) {
	r.answered(ctx, uri, func(t *tx, e *event.Event) {
		if job == nil {
			return
		}
		body, err := json.Marshal(jobBody{job.Status, job.StatusCode, job.ReasonCode, job.Results})
		if err == nil {
			e.Body = body
		}
		t.conv.Describe(e)
	})
}

// PSWsKnown notes the program status words of an LPAR that has stopped; none: they are not known.
func (r *Recorder) PSWsKnown(ctx context.Context, uri string, psws []string) {
	r.answered(ctx, uri, func(_ *tx, e *event.Event) {
		if why := translate.DisabledWait(psws); why != "" {
			e.Summary = event.OneLine(e.Summary + "; " + why)
		}
	})
}

func (r *Recorder) answered(ctx context.Context, about string, complete func(t *tx, e *event.Event)) {
	t := r.begin(ctx)
	defer t.end()
	h := t.awaiting(about)
	if h == nil {
		return // it took too long
	}
	h.ready = true
	complete(t, &h.event)
	t.release(false)
	t.flush()
}

// release records what need not be held back any longer.
func (t *tx) release(all bool) {
	waiting := make(map[string]bool)
	t.held = slices.DeleteFunc(t.held, func(h *held) bool {
		if !waiting[h.key] && (all || h.ready || !t.now.Before(h.due)) {
			t.store(&h.event)
			t.kept.Give(h.kept)
			return true
		}
		waiting[h.key] = true
		return false
	})
}

// holds says whether an event about a resource is held back: what is known of the resource is then
// not stored before it, or nobody would tell of it after a crash.
func (g *Group) holds(uri string) bool {
	for _, o := range g.members {
		for _, h := range o.tx.held {
			if h.key == uri {
				return true
			}
		}
	}
	return false
}
