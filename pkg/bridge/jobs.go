package bridge

import (
	"context"
	"encoding/json"
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
	due   time.Time
}

// jobBody is the answer to Query Job Status.
type jobBody struct {
	Status     string          `json:"status"`
	StatusCode *int            `json:"job-status-code,omitempty"`
	ReasonCode *int            `json:"job-reason-code,omitempty"`
	Results    json.RawMessage `json:"job-results,omitempty"`
}

// holdJob holds back a job-completion, if it can be asked how the job ended. r.mu is held.
func (r *recorder) holdJob(e *event.Event) bool {
	ask, uri := r.askJob.Load(), e.Headers.Get("job-uri")
	if ask == nil || uri == "" || len(e.Body) > 0 || r.jobs[uri] != nil || len(r.jobs) >= maxHeldJobs {
		return false
	}
	select {
	case *ask <- uri:
	default:
		return false
	}
	r.jobs[uri] = &heldJob{event: copyEvent(e), due: time.Now().Add(jobWait)}
	return true
}

// jobKnown records a job-completion that was held back, with what is known of the job; nil: nothing.
func (r *recorder) jobKnown(ctx context.Context, uri string, job *hmc.Job) {
	r.mu.Lock()
	defer r.mu.Unlock()
	held := r.jobs[uri]
	if held == nil {
		return // it took too long
	}
	if job != nil {
		body, err := json.Marshal(jobBody{job.Status, job.StatusCode, job.ReasonCode, job.Results})
		if err == nil {
			held.event.Body = body
		}
		describe(&held.event, 0, r.severities.Load())
	}
	r.releaseJob(uri, held)
	r.flush(ctx)
}

// releaseJobs records what was held back for long enough. r.mu is held.
func (r *recorder) releaseJobs(now time.Time, all bool) {
	for uri, held := range r.jobs {
		if all || !now.Before(held.due) {
			r.releaseJob(uri, held)
		}
	}
}

func (r *recorder) releaseJob(uri string, held *heldJob) {
	delete(r.jobs, uri)
	r.put(&held.event)
}

// askJobs asks how jobs have ended, until the link does.
func (k *keeper) askJobs(ctx context.Context) {
	defer k.isolate()
	for {
		select {
		case <-ctx.Done():
			return
		case uri := <-k.jobs:
			k.askJob(ctx, uri)
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
