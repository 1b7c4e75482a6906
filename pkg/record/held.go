package record

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/console"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/estate"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
)

// Some notifications say what has happened and not how, why or where: that a job has ended, that a
// system has stopped, that an adapter has. The HMC is asked, and the event is held back until that
// is known, but not for long: it is recorded without, if the HMC does not answer or the budget of
// requests is used up. What comes of the same resource meanwhile waits behind it, so that the order
// is kept. Why a system has stopped is told by the event once more where the answer comes late. How
// a job has ended is not asked for late: that would be the time of those that end since.
const (
	// HoldWait is how long an event is held back at most, less the time until the recorder looks
	// at what is due.
	HoldWait = 1400 * time.Millisecond
	// answerWait is how long after that an answer is told.
	answerWait = time.Minute
	// MaxQuestions bounds how many are held back for an answer, and how many answers may come late.
	MaxQuestions = 100
	// maxHeld bounds those with what waits behind them.
	maxHeld = 1000
)

// held is an event that is held back, or that was.
type held struct {
	event event.Event
	// of the order; about is what was asked about, partition that of an OS message
	key, about, partition string
	due                   time.Time
	ready                 bool // nothing more is awaited
	kept                  int  // bytes
	// as what the HMCs of the group report it; zero: no other one does
	report event.ID
	// An OS message is judged when its turn comes: what is known of them is stored with the event.
	message  console.OSMessage
	unjudged bool
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
	if about == "" || t.questions() >= MaxQuestions || !t.awaits(about) && !t.r.watcher.Ask(about) {
		return false
	}
	return t.hold(&held{event: e.Copy(), key: e.Key(), about: about, due: t.now.Add(HoldWait)})
}

// hold holds an event back, if there is room for it.
func (t *tx) hold(h *held) bool {
	h.kept, h.report = h.event.Size(), t.report
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

// behind holds an event back if one of the same resource is; h has what else is to be known of it.
func (t *tx) behind(e *event.Event, h held) bool {
	if len(t.held) == 0 {
		return false
	}
	h.key, h.due, h.ready = e.Key(), t.now, true
	if !slices.ContainsFunc(t.held, func(o *held) bool { return o.key == h.key }) {
		return false
	}
	kept := h // only what is held back has to be in memory of its own
	kept.event = e.Copy()
	if !t.hold(&kept) {
		t.release(true)
		return false
	}
	return true
}

// putKnown records an event that is known to have been recorded from now on, and so does not wait:
// what does would be stored after that, or be lost. What is held back of the same resource goes
// first, as it is.
func (t *tx) putKnown(e *event.Event) {
	if len(t.held) > 0 {
		key, waits := e.Key(), false
		for _, h := range t.held {
			if h.key == key {
				h.due, waits = t.now, true
			}
		}
		if waits {
			t.release(false)
		}
	}
	t.store(e)
}

// Awaits says whether what is asked about something is still of use.
func (r *Recorder) Awaits(about string) bool {
	t := r.enter()
	defer t.end()
	return t.awaits(about)
}

func (t *tx) awaits(about string) bool {
	is := func(h *held) bool { return h.about == about && !h.ready }
	return slices.ContainsFunc(t.held, is) || slices.ContainsFunc(t.late, is)
}

// JobKnown notes what is known of a job whose completion is held back; nil: nothing.
func (r *Recorder) JobKnown(ctx context.Context, uri string, job *hmc.Job) {
	r.answered(ctx, uri, func(t *tx, e *event.Event) bool {
		if job == nil {
			return false
		}
		if body, err := json.Marshal(jobBody{job.Status, job.StatusCode, job.ReasonCode, job.Results}); err == nil {
			e.Body = body
		}
		t.conv.Describe(e)
		return true
	})
}

// FactsKnown notes what the HMC tells of a resource with an event that is held back; nil: nothing.
func (r *Recorder) FactsKnown(ctx context.Context, uri string, facts *hmc.Info) {
	if facts != nil && estate.OnCPC(uri) {
		r.group.Estate.Place(uri, facts.Name, facts.CPCURI)
	}
	r.answered(ctx, uri, func(t *tx, e *event.Event) bool {
		if facts == nil {
			return false
		}
		t.conv.Placed(e)
		return t.conv.Stopped(e, facts.PSWs)
	})
}

// answered completes the events that wait for an answer. complete reports whether it tells more
// than was told where it comes late.
func (r *Recorder) answered(ctx context.Context, about string, complete func(t *tx, e *event.Event) bool) {
	t := r.begin(ctx)
	defer t.end()
	for _, h := range t.held {
		if h.about == about && !h.ready {
			h.ready = true
			complete(t, &h.event)
		}
	}
	t.release(false)
	t.late = slices.DeleteFunc(t.late, func(h *held) bool {
		if h.about != about {
			return false
		}
		e := &h.event
		if told, wanted := e.Severity, e.Planned; t.now.Before(h.due) && complete(t, e) {
			e.ID, e.Received, e.Repeat = event.NewID(e.ID, "late"), t.now, e.Severity == told && e.Planned == wanted
			t.put(e)
		}
		t.kept.Give(h.kept)
		return true
	})
	t.flush()
}

// release records what need not be held back any longer.
func (t *tx) release(all bool) {
	waiting := make(map[string]bool)
	var due []*held
	t.held = slices.DeleteFunc(t.held, func(h *held) bool {
		if waiting[h.key] || !all && !h.ready && t.now.Before(h.due) {
			waiting[h.key] = true
			return false
		}
		due = append(due, h)
		return true
	})
	for _, h := range due {
		told := h.event // the rules rate it anew when it is told again
		if h.unjudged {
			t.live(&told, h.message, h.partition)
		} else {
			t.store(&told)
		}
		if !h.ready && estate.OnCPC(h.about) {
			h.due = t.now.Add(answerWait)
			t.late = append(t.late, h)
		} else {
			t.kept.Give(h.kept)
		}
	}
	excess := max(0, len(t.late)-MaxQuestions)
	t.late = slices.DeleteFunc(t.late, func(h *held) bool {
		gone := excess > 0 || !t.now.Before(h.due)
		if gone {
			excess--
			t.kept.Give(h.kept)
		}
		return gone
	})
}

// reportHeld reports once more what is held back, when what was known of it is not known any more:
// other HMCs of the group may have yet to report it.
func (t *tx) reportHeld() {
	for _, h := range t.held {
		if h.report != (event.ID{}) {
			t.g.changes.Report(h.report, t.r.name, h.event.Received, func(string, time.Time) bool { return false })
		}
	}
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
