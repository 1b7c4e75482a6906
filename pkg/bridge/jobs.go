package bridge

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
)

// A job-completion says only which job has ended. How it ended is asked for, and the event is held back until that is known, but
// not for long: it is recorded without, if the HMC does not answer or the budget of requests is used up.
const (
	// jobWait is how long a job-completion is held back at most, less the time until the recorder looks at what is due.
	jobWait = 1400 * time.Millisecond
	// maxHeldJobs bounds how many are held back.
	maxHeldJobs = 100
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
func (r *recorder) holdJob(e *event.Event) bool {
	held := heldJob{uri: e.Headers.Get("job-uri"), due: time.Now().Add(jobWait)}
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
func (r *recorder) askForJob(e *event.Event, uri string) bool {
	ask := r.askJob.Load()
	if ask == nil || uri == "" || len(e.Body) > 0 || len(r.jobs) >= maxHeldJobs {
		return false
	}
	select {
	case *ask <- uri:
		return true
	default:
		return false
	}
}

// awaitsJob says whether the completion of a job is still held back.
func (r *recorder) awaitsJob(uri string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.jobs, func(h *heldJob) bool { return h.uri == uri && !h.ready })
}

// jobKnown notes what is known of a job whose completion is held back; nil: nothing.
func (r *recorder) jobKnown(ctx context.Context, uri string, job *hmc.Job) {
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
		describe(&held.event, 0, r.severities.Load())
	}
	r.releaseJobs(time.Now(), false)
	r.flush(ctx)
}

// releaseJobs records what need not be held back any longer. r.mu is held.
func (r *recorder) releaseJobs(now time.Time, all bool) {
	for len(r.jobs) > 0 && (all || r.jobs[0].ready || !now.Before(r.jobs[0].due)) {
		r.put(&r.jobs[0].event)
		r.jobs = slices.Delete(r.jobs, 0, 1)
	}
}

// askJobs asks how jobs have ended, until the link does.
func (k *keeper) askJobs(ctx context.Context) {
	defer k.isolate()
	for {
		select {
		case <-ctx.Done():
			return
		case uri := <-k.jobs:
			if k.s.rec.awaitsJob(uri) {
				k.askJob(ctx, uri)
			}
		}
	}
}

func (k *keeper) askJob(ctx context.Context, uri string) {
	asking, cancel := context.WithTimeout(ctx, jobWait)
	defer cancel()
	job, err := k.session.QueryJob(asking, uri)
	if err != nil {
		k.s.log.Debug("it is not known how a job has ended", zap.String("job", uri), zap.Error(err))
		k.s.rec.jobKnown(ctx, uri, nil)
		k.lost(err)
		return
	}
	k.s.rec.jobKnown(ctx, uri, &job)
}
