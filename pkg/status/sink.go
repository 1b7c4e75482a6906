package status

import "time"

// longWait is how old the oldest waiting event of a sink that does not fail may be without a word.
const longWait = 10 * time.Minute

// SinkStatus says how a sink is doing. Delivered, Filtered and Dropped are since the start.
type SinkStatus struct {
	Name string `json:"name"`
	Kind string `json:"kind"`
	Waiting
	Delivered int64 `json:"delivered"`
	Filtered  int64 `json:"filtered"`
	Dropped   int64 `json:"dropped"`
	Stuck     bool  `json:"stuck"`
	// Paused is why the sink takes no event at all as it is, as sink_paused has it; absent where
	// it is not paused. A sink that is paused is stuck, too.
	Paused      string     `json:"paused,omitempty"`
	PausedSince *time.Time `json:"paused_since,omitempty"`
	// Refusing says that the last events, several of them or all there were, were refused for
	// good.
	Refusing       bool       `json:"refusing"`
	FailingSince   *time.Time `json:"failing_since,omitempty"`
	FailedAttempts int        `json:"failed_attempts"`
	LastError      string     `json:"last_error,omitempty"`
	// LastErrorReason says in one word what kind of error it was, LastErrorStatus the status of
	// the answer; that is absent where there was none.
	LastErrorReason string     `json:"last_error_reason,omitempty"`
	LastErrorStatus int        `json:"last_error_status,omitempty"`
	LastErrorTime   *time.Time `json:"last_error_time,omitempty"`
	LastSuccess     *time.Time `json:"last_success,omitempty"`
	DeadLetters     int        `json:"dead_letters"`
	// NotReady is why the daemon is not ready because of the sink, and what to do; "" if it is
	// not stuck.
	NotReady string `json:"-"`
	// DeliveredPerMinute is as HMCStatus.NotificationsPerMinute.
	DeliveredPerMinute []int64   `json:"delivered_per_minute"`
	Troubles           []Trouble `json:"troubles"`
}

// RemovedSink is a sink that is not configured any more, and what still waits for it.
type RemovedSink struct {
	Name string `json:"name"`
	Waiting
}

// Waiting is what is stored for a sink and not delivered yet.
type Waiting struct {
	QueueEvents           int64   `json:"queue_events"`
	QueueBytes            int64   `json:"queue_bytes"`
	OldestEventAgeSeconds float64 `json:"oldest_event_age_seconds"`
}

// Accepting says whether the sink takes what it is sent, as far as is known.
func (s *SinkStatus) Accepting() bool { return s.FailingSince == nil && !s.Stuck && !s.Refusing }

// failedSinceOldest says whether the last error came while the oldest waiting event waited.
func (s *SinkStatus) failedSinceOldest() bool {
	return s.LastErrorTime != nil && time.Since(*s.LastErrorTime).Seconds() < s.OldestEventAgeSeconds
}

// FindTroubles says what is wrong with the sink, and what to do; advice is what to do about its
// last error. It is never nil.
func (s *SinkStatus) FindTroubles(advice string) []Trouble {
	out := []Trouble{}
	const kept = " Nothing is lost meanwhile: events wait on disk and are tried again by themselves."
	switch {
	case s.Paused != "":
		out = append(out, critical("It is paused, because it takes no event at all as it is: "+period(s.LastError),
			sentence(advice)+" It goes on by itself when that is mended; events wait on disk until then.",
		).of("HmcnotifydSinkPaused", s.PausedSince))
	case s.FailingSince != nil:
		rate := warning
		if s.Stuck {
			rate = critical
		}
		out = append(out, rate("It does not accept events: "+period(s.LastError), sentence(advice)+kept).
			of("HmcnotifydSinkFailing", s.FailingSince))
	case s.Stuck:
		out = append(out, critical("An attempt to deliver hangs.", "Look at what the sink writes to."+kept).
			of("HmcnotifydSinkFailing", nil))
	case s.Refusing:
		out = append(out, critical("It refuses every event: "+period(s.LastError), sentence(advice)).
			of("HmcnotifydDeadLetters", nil))
	case s.QueueEvents > 0 && s.OldestEventAgeSeconds > longWait.Seconds() && s.failedSinceOldest():
		out = append(out, warning("It accepts events now and then: "+period(s.LastError), sentence(advice)+kept).
			of("HmcnotifydSinkLate", nil))
	case s.QueueEvents > 0 && s.OldestEventAgeSeconds > longWait.Seconds():
		out = append(out, warning("It accepts events, but more slowly than they come.",
			"Give it more concurrency or larger batches, or narrow match.").of("HmcnotifydQueueGrowing", nil))
	}
	if s.DeadLetters > 0 {
		refused := warning("It refused "+number(int64(s.DeadLetters), "event", "events")+" for good.",
			"See why, then send them again or delete them, with replay or purge instead of list.").
			of("HmcnotifydDeadLetters", nil)
		refused.Command = "hmcnotifyd dead-letters list --sink=" + s.Name
		out = append(out, refused)
	}
	if s.Dropped > 0 {
		out = append(out, critical(number(s.Dropped, "stored event", "stored events")+
			" went undelivered since the start, by a limit or because a file was damaged.",
			"Raise queue.max_bytes, queue.max_age or storage.max_bytes, or make the sink faster. "+
				"The daemon's log says what went.").of("HmcnotifydEventsDropped", nil))
	}
	return out
}
