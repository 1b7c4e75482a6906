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

// A job-completion says only which job has ended. How it ended is asked for, and the event is held back until that is known, but
// not for long: it is recorded without, if the HMC does not answer or the budget of requests is used up.
const (
	// JobWait is how long a job-completion is held back at most, less the time until the recorder looks at what is due.
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

// holdJob holds back a job-completion, if it can be asked how the job ended, or if another one before it is held back: they keep
// their order. r.mu is held.
func (r *Recorder) holdJob(e *event.Event) bool {
	held := heldJob{uri: e.Headers.Get("job-uri"), due: time.Now().Add(JobWait)}
	if !r.askForJob(e, held.uri) {
		if len(r.jobs) == 0 {
			return false
		}
		held.ready = true
	}
	held.event = copyEvent(e)
	r.jobs = append(r.jobs, &held)
	return true
}

// askForJob reports whether it will be asked how a job has ended. r.mu is held.
func (r *Recorder) askForJob(e *event.Event, uri string) bool {
	ask := r.AskJob.Load()
	if ask == nil || uri == "" || len(e.Body) > 0 || len(r.jobs) >= MaxHeldJobs {
		return false
	}
	select {
	case *ask <- uri:
		return true
	default:
		return false
	}
}

// AwaitsJob says whether the completion of a job is still held back.
func (r *Recorder) AwaitsJob(uri string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.jobs, func(h *heldJob) bool { return h.uri == uri && !h.ready })
}

// JobKnown notes what is known of a job whose completion is held back; nil: nothing.
func (r *Recorder) JobKnown(ctx context.Context, uri string, job *hmc.Job) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.IndexFunc(r.jobs, func(h *heldJob) bool { return h.uri == uri && !h.ready })
	if i < 0 {
		return // it took too long
	}
	held := r.jobs[i]
	held.ready = true
	if job != nil {
		body, err := json.Marshal(jobBody{job.Status, job.StatusCode, job.ReasonCode, job.Results})
		if err == nil {
			held.event.Body = body
		}
		translate.Describe(&held.event, 0, r.Severities.Load())
	}
	r.releaseJobs(time.Now(), false)
	r.flush(ctx)
}

// releaseJobs records what need not be held back any longer. r.mu is held.
func (r *Recorder) releaseJobs(now time.Time, all bool) {
	for len(r.jobs) > 0 && (all || r.jobs[0].ready || !now.Before(r.jobs[0].due)) {
		r.put(&r.jobs[0].event)
		r.jobs = slices.Delete(r.jobs, 0, 1)
	}
}
