package status

import (
	"time"
)

// RemovedSink is a sink that is not configured any more, and what still waits for it.
type RemovedSink struct {
	Name                  string  `json:"name"`
	QueueEvents           int64   `json:"queue_events"`
	QueueBytes            int64   `json:"queue_bytes"`
	OldestEventAgeSeconds float64 `json:"oldest_event_age_seconds"`
}

// Status is a snapshot of everything a person or a probe may ask about the daemon. It holds no secret.
type Status struct {
	Ready   bool          `json:"ready"`
	Reasons []Reason      `json:"reasons"`
	Started time.Time     `json:"started"`
	HMCs    []HMCStatus   `json:"hmcs"`
	Sinks   []SinkStatus  `json:"sinks"`
	Removed []RemovedSink `json:"removed_sinks"` // what waits for sinks that are not configured any more
	Storage StorageStatus `json:"storage"`
	// Troubles are those that are of no HMC and no sink that is configured.
	Troubles []Trouble `json:"troubles"`
}

// Reason is one thing that keeps the daemon from being ready.
type Reason struct {
	HMC    string `json:"hmc,omitempty"`
	Sink   string `json:"sink,omitempty"`
	Reason string `json:"reason"`
}

// HMCStatus says how the daemon sees one HMC.
type HMCStatus struct {
	Name                string           `json:"name"`
	State               string           `json:"state"`
	Since               time.Time        `json:"since"`
	Connected           bool             `json:"connected"` // as receiver_connected: link up and every topic subscribed
	Host                string           `json:"host,omitempty"`
	Topics              []TopicStatus    `json:"topics"`
	Problems            []string         `json:"problems"`
	NextAttempt         *time.Time       `json:"next_attempt,omitempty"`
	Reconnects          int              `json:"reconnects"`
	LastFrame           *time.Time       `json:"last_frame,omitempty"`
	LastNotification    *time.Time       `json:"last_notification,omitempty"`
	Notifications       map[string]int64 `json:"notifications"`
	Missed              int              `json:"notifications_missed"`
	BlindSince          *time.Time       `json:"blind_since,omitempty"` // what came since then may be missed
	Gaps                int64            `json:"gaps"`                  // blind windows that are over, since the start
	LastGap             *GapStatus       `json:"last_gap,omitempty"`
	OSMessages          *OSMessageStatus `json:"os_messages,omitempty"`
	CertificateNotAfter *time.Time       `json:"certificate_not_after,omitempty"`
	// Outages are the last times without a link, the oldest first; the last one may not be over.
	Outages []Outage `json:"outages"`
	// NotificationsPerMinute are those of the last 60 minutes, the oldest first; the last one is still running.
	NotificationsPerMinute []int64   `json:"notifications_per_minute"`
	Troubles               []Trouble `json:"troubles"`
}

// Outage is a time without a link to an HMC.
type Outage struct {
	From        time.Time  `json:"from"`
	To          *time.Time `json:"to,omitempty"` // absent while it lasts
	Cause       string     `json:"cause"`        // what it began with
	LastProblem string     `json:"last_problem,omitempty"`
	Attempts    int        `json:"attempts"` // that failed
}

// GapStatus is a blind window that is over.
type GapStatus struct {
	From        time.Time      `json:"from"`
	To          time.Time      `json:"to"`
	Causes      []string       `json:"causes"`
	Missed      map[string]int `json:"missed,omitempty"`
	Recovered   map[string]int `json:"recovered,omitempty"`
	MayBeMissed []string       `json:"may_be_missing,omitempty"`
}

// TopicStatus says whether a topic is subscribed.
type TopicStatus struct {
	Name       string `json:"name"`
	Type       string `json:"type"`
	Subscribed bool   `json:"subscribed"`
	Problem    string `json:"problem,omitempty"`
}

// OSMessageStatus says which partitions' operating system messages are not followed, and why. A partition that is not
// active is no fault.
type OSMessageStatus struct {
	Followed    int               `json:"followed"`
	NotFollowed map[string]string `json:"not_followed"`
}

// SinkStatus says how a sink is doing.
type SinkStatus struct {
	Name                  string     `json:"name"`
	Kind                  string     `json:"kind"`
	QueueEvents           int64      `json:"queue_events"`
	QueueBytes            int64      `json:"queue_bytes"`
	OldestEventAgeSeconds float64    `json:"oldest_event_age_seconds"`
	Delivered             int64      `json:"delivered"` // this and what follows: since the start
	Filtered              int64      `json:"filtered"`
	Dropped               int64      `json:"dropped"`
	Stuck                 bool       `json:"stuck"`
	FailingSince          *time.Time `json:"failing_since,omitempty"`
	FailedAttempts        int        `json:"failed_attempts"`
	LastError             string     `json:"last_error,omitempty"`
	LastErrorTime         *time.Time `json:"last_error_time,omitempty"`
	LastSuccess           *time.Time `json:"last_success,omitempty"`
	DeadLetters           int        `json:"dead_letters"`
	// DeliveredPerMinute is as HMCStatus.NotificationsPerMinute.
	DeliveredPerMinute []int64   `json:"delivered_per_minute"`
	Troubles           []Trouble `json:"troubles"`
}

// StorageStatus says how the queue on disk is doing.
type StorageStatus struct {
	Path  string `json:"path"`
	Bytes int64  `json:"bytes"`
	// MaxBytes is the limit beyond which the oldest events go; 0: none.
	MaxBytes int64  `json:"max_bytes"`
	Error    string `json:"error,omitempty"`
}

func TimeOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

func Later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// NotSubscribed is the problem of a topic before the broker has confirmed or refused it.
const NotSubscribed = "not subscribed"

// Unit is a CPC or a partition as the status page shows it.
type Unit struct {
	Group    string // of the HMCs that list it
	Class    string
	Name     string
	CPC      string // of a CPC its own name
	Status   string // "" while it is not known
	Severity string // of the status
	// Since is from when on the status is known to have lasted; Exact says that it began then.
	Since time.Time
	Exact bool
	// Current says that an HMC that tells of it is in sight; else the status is what it was when one was.
	Current bool
}
