package record

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
)

// A job-completion says only which job has ended. How it ended is asked for, and the event is held
// back until that is known, but not for long: it is recorded without, if the HMC does not answer or
// the budget of requests is used up.
const (
	// JobWait is how long a job-completion is held back at most, less the time until the
	// recorder looks at what is due.
	JobWait = 1400 * time.Millisecond
	// MaxHeldJobs bounds how many are held back.
	MaxHeldJobs = 100
)

// heldJob is a job-completion that is held back.
type heldJob struct {
	event event.Event
	uri   string
	due   time.Time
	ready bool // nothing more is awaited
}

// jobBody is the answer to Query Job Status.
type jobBody struct {
	Status     string          `json:"status"`
	StatusCode *int            `json:"job-status-code,omitempty"`
	ReasonCode *int            `json:"job-reason-code,omitempty"`
	Results    json.RawMessage `json:"job-results,omitempty"`
}

// holdJob holds back a job-completion, if it can be asked how the job ended, or if another one
// before it is held back: they keep their order.
func (t *tx) holdJob(e *event.Event) bool {
	uri := e.Headers.Get("job-uri")
	asked := uri != "" && len(e.Body) == 0 && len(t.jobs) < MaxHeldJobs && t.r.watcher.AskJob(uri)
	if !asked && len(t.jobs) == 0 {
		return false
	}
	t.jobs = append(t.jobs, &heldJob{event: copyEvent(e), uri: uri, due: t.now.Add(JobWait), ready: !asked})
	return true
}

// AwaitsJob says whether the completion of a job is still held back.
func (r *Recorder) AwaitsJob(uri string) bool {
	t := r.enter()
	defer t.end()
	return t.heldJob(uri) != nil
}

func (t *tx) heldJob(uri string) *heldJob {
	i := slices.IndexFunc(t.jobs, func(h *heldJob) bool { return h.uri == uri && !h.ready })
	if i < 0 {
		return nil
	}
	return t.jobs[i]
}

// JobKnown notes what is known of a job whose completion is held back; nil: nothing.
func (r *Recorder) JobKnown(ctx context.Context, uri string, job *hmc.Job) {
	t := r.begin(ctx)
	defer t.end()
	held := t.heldJob(uri)
	if held == nil {
		return // it took too long
	}
	held.ready = true
	if job != nil {
		body, err := json.Marshal(jobBody{job.Status, job.StatusCode, job.ReasonCode, job.Results})
		if err == nil {
			held.event.Body = body
		}
		t.conv.Describe(&held.event)
	}
	t.releaseJobs(false)
	t.flush()
}

// releaseJobs records what need not be held back any longer.
func (t *tx) releaseJobs(all bool) {
	for len(t.jobs) > 0 && (all || t.jobs[0].ready || !t.now.Before(t.jobs[0].due)) {
		t.put(&t.jobs[0].event)
		t.jobs = slices.Delete(t.jobs, 0, 1)
	}
}
