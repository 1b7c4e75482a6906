package hmcsim

import "net/http"

// keepJobs is how many ended jobs of a session are kept that nobody deletes.
const keepJobs = 1000

// job is an asynchronous operation of a session.
type job struct {
	id      string
	session *session
	state   string // running, cancel-pending, canceled, complete
	result  JobResult
	cancel  bool // may be canceled
}

// JobResult is how a job ended, as Query Job Status tells it.
type JobResult struct {
	Status  int            // job-status-code, an HTTP status; 0 stands for 200
	Reason  int            // job-reason-code, told when Status is one of an error
	Results map[string]any // job-results; nil: there are none
}

func (j *job) uri() string { return "/api/jobs/" + j.id }

// newJobLocked starts a job for a session.
func (h *HMC) newJobLocked(s *session) *job {
	j := &job{id: h.world.uuid(), session: s, state: "running"}
	h.jobs[j.id] = j
	return j
}

// ended says whether the job has ended.
func (j *job) ended() bool { return j.state == "complete" || j.state == "canceled" }

// endJobLocked ends a job, as canceled if that was asked for, and tells the session that started
// it, and no other.
func (h *HMC) endJobLocked(j *job, result JobResult) {
	if j.ended() || j.session.ended {
		return
	}
	if result.Status == 0 {
		result.Status = http.StatusOK
	}
	canceled := j.state == "cancel-pending"
	j.state, j.result = "complete", result
	if canceled {
		j.state = "canceled"
	}
	j.session.endedJobs = append(j.session.endedJobs, j.id)
	if len(j.session.endedJobs) > keepJobs {
		delete(h.jobs, j.session.endedJobs[0])
		j.session.endedJobs = j.session.endedJobs[1:]
	}
	h.publishLocked(j.session, j.session.topic(TopicJob), jobCompletion(j.uri()))
}

func (r *request) job() *job {
	j := r.h.jobs[r.ids[0]]
	if j == nil || j.session.user != r.session.user {
		return nil
	}
	return j
}

func queryJob(r *request) reply {
	j := r.job()
	if j == nil {
		return r.notFound()
	}
	body := map[string]any{"status": j.state}
	if j.ended() {
		body["job-status-code"] = j.result.Status
		if j.result.Status >= http.StatusBadRequest {
			body["job-reason-code"] = j.result.Reason
		}
		if j.result.Results != nil {
			body["job-results"] = j.result.Results
		}
	}
	return ok(body)
}

func deleteJob(r *request) reply {
	j := r.job()
	switch {
	case j == nil:
		return r.notFound()
	case !j.ended():
		return r.fail(http.StatusConflict, 40, "The job has not ended.")
	}
	delete(r.h.jobs, j.id)
	return noContent()
}

func cancelJob(r *request) reply {
	j := r.job()
	switch {
	case j == nil:
		return r.notFound()
	case j.state == "cancel-pending":
		return r.fail(http.StatusConflict, 42, "The job is being canceled already.")
	case j.state != "running":
		return r.fail(http.StatusConflict, 41, "The job has ended.")
	case !j.cancel:
		return r.fail(http.StatusNotFound, 4, "The job cannot be canceled.")
	}
	j.state = "cancel-pending"
	return reply{status: http.StatusAccepted}
}

// accepted answers an operation that goes on as a job.
func accepted(j *job) reply {
	return reply{status: http.StatusAccepted, body: map[string]any{"job-uri": j.uri()}}
}
