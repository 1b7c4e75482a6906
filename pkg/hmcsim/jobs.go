package hmcsim

import "net/http"

// keepJobs is how many ended jobs of a session are kept that nobody deletes.
const keepJobs = 1000

// job is an asynchronous operation of a session.
type job struct {
	id      string
	session *session
	state   string // running, cancel-pending, canceled, complete
	status  int    // job-status-code, when it has ended
	reason  int    // job-reason-code, on errors
	results map[string]any
	cancel  bool // may be canceled
}

func (j *job) uri() string { return "/api/jobs/" + j.id }

// newJobLocked starts a job for a session.
func (h *HMC) newJobLocked(s *session) *job {
	j := &job{id: h.world.uuid(), session: s, state: "running"}
	h.jobs[j.id] = j
	return j
}

// endJobLocked ends a job and tells the session that started it, and no other.
func (h *HMC) endJobLocked(j *job, status, reason int, results map[string]any) {
	if j.state == "complete" || j.state == "canceled" || j.session.ended {
		return
	}
	canceled := j.state == "cancel-pending"
	j.state, j.status, j.reason, j.results = "complete", status, reason, results
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
	if j.state == "complete" || j.state == "canceled" {
		body["job-status-code"] = j.status
		if j.status >= http.StatusBadRequest {
			body["job-reason-code"] = j.reason
		}
		if j.results != nil {
			body["job-results"] = j.results
		}
	}
	return ok(body)
}

func deleteJob(r *request) reply {
	j := r.job()
	switch {
	case j == nil:
		return r.notFound()
	case j.state == "running" || j.state == "cancel-pending":
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
