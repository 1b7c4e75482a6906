package bridge

import (
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
)

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

// maxOutages bounds how many an HMC's status tells of.
const maxOutages = 10

// noteOutage notes that there is no link, and why.
func (h *hmcStatus) noteOutage(problem string) {
	if n := len(h.outages); n > 0 && h.outages[n-1].To == nil {
		o := &h.outages[n-1]
		o.Attempts++
		o.LastProblem = problem
		return
	}
	if len(h.outages) == maxOutages {
		h.outages = slices.Delete(h.outages, 0, 1)
	}
	h.outages = append(h.outages, Outage{From: h.since.UTC(), Cause: problem})
}

// endOutage notes that the link is up.
func (h *hmcStatus) endOutage(now time.Time) {
	if n := len(h.outages); n > 0 && h.outages[n-1].To == nil {
		h.outages[n-1].To = timeOrNil(now)
	}
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

// problems ranges over what keeps the HMC from counting as connected.
func (h *hmcStatus) problems() iter.Seq[string] {
	return func(yield func(string) bool) {
		if h.state != StateConnected {
			text := "the link is " + strings.ReplaceAll(h.state, "_", " ")
			if h.state == StateAuthFailed {
				text = "refused, and left alone until " + h.nextAttempt.UTC().Format(time.RFC3339)
			}
			if h.problem != "" {
				text += ": " + h.problem
			}
			yield(text)
			return
		}
		if h.unlisted != "" && !yield("OS messages: "+h.unlisted) {
			return
		}
		for _, m := range h.missing {
			if !yield(m) {
				return
			}
		}
		for name, t := range h.wanted {
			if t.problem != "" && t.kind != event.TopicOSMessage && // those are told by partition
				!yield(fmt.Sprintf("topic %s (%s): %s", name, t.kind, t.problem)) {
				return
			}
		}
		for _, c := range h.channels {
			if c.problem != "" && !c.usual && !yield("OS messages of "+c.partition+": "+c.problem) {
				return
			}
		}
	}
}

// reasons are all problems, in the order of their text.
func (h *hmcStatus) reasons() []string {
	out := slices.AppendSeq([]string{}, h.problems()) // never nil: the status shows it as a list
	slices.Sort(out)
	return out
}

// connected says whether there is no problem. It is asked at each change of one of possibly thousands of channels, so
// it looks no further than the first.
func (h *hmcStatus) connected() bool {
	for range h.problems() {
		return false
	}
	return true
}

// want adds a topic that the link is to be subscribed to.
func (s *supervisor) want(topic, kind string) {
	s.topics.add(topic, kind)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.status.wanted[topic]; !known {
		s.status.wanted[topic] = topicStatus{kind: kind, problem: notSubscribed}
	}
}

// unwant forgets a topic.
func (s *supervisor) unwant(topic string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.status.wanted, topic)
}

func (s *supervisor) subscribed(topic string) { s.topicProblem(topic, "") }

// topicProblem notes why a topic is not subscribed; "" when it is.
func (s *supervisor) topicProblem(topic, problem string) {
	s.mu.Lock()
	t, known := s.status.wanted[topic]
	if known {
		t.problem = problem
		s.status.wanted[topic] = t
	}
	s.mu.Unlock()
	s.publishConnected()
}

// channelStatus says whether a partition's OS messages are followed.
type channelStatus struct {
	partition string // as a person knows it
	problem   string // "" when they are followed
	usual     bool   // no fault: the partition offers none now
}

// noteChannel notes how it stands with a partition's OS messages, and reports whether that is news.
func (s *supervisor) noteChannel(uri string, c channelStatus) bool {
	s.mu.Lock()
	before := s.status.channels[uri]
	s.status.channels[uri] = c
	s.mu.Unlock()
	s.publishConnected()
	return before != c
}

// dropChannel forgets a partition that is gone.
func (s *supervisor) dropChannel(uri string) {
	s.mu.Lock()
	delete(s.status.channels, uri)
	s.mu.Unlock()
	s.publishConnected()
}

// noteListing notes why the partitions could not be listed; "" when they could. It reports whether that is news.
func (s *supervisor) noteListing(problem string) bool {
	s.mu.Lock()
	before := s.status.unlisted
	s.status.unlisted = problem
	s.mu.Unlock()
	s.publishConnected()
	return before != problem
}

// lastTimes returns when the last bytes and the last notification came, over all links.
func (s *supervisor) lastTimes() (frame, notification time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	frame, notification = s.lastUp.frame, s.lastUp.notification
	if s.rcv != nil {
		frame, notification = later(frame, s.rcv.LastFrame()), later(notification, s.rcv.LastNotification())
	}
	return frame, notification
}

// alive says whether the supervisor's loop still turns. A loop that waits for notifications lives as long as there are
// none to fetch, and one that logs on or connects is bounded by the time-outs of the configuration, which may be long.
func (s *supervisor) alive(now time.Time, limit time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch s.status.state {
	case StateLoggingOn, StateConnecting:
		return true
	case StateConnected:
		if s.rcv != nil && s.rcv.Buffered() == 0 {
			return true
		}
	}
	return now.Sub(s.beat) < limit
}

// inSight returns when the last bytes came from the HMC, if everything before them has been handed on.
func (s *supervisor) inSight() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rcv == nil {
		return time.Time{}
	}
	if frame := s.rcv.LastFrame(); s.rcv.Buffered() == 0 {
		return frame
	}
	return time.Time{}
}

// heartbeat is what a bridge-heartbeat event tells.
func (s *supervisor) heartbeat() heartbeat {
	frame, notification := s.lastTimes()
	s.mu.Lock()
	defer s.mu.Unlock()
	problems := s.status.reasons()
	return heartbeat{
		Connected: len(problems) == 0, State: s.status.state, Since: s.status.since.UTC(), Problems: problems,
		LastFrame: timeOrNil(frame), LastNotification: timeOrNil(notification),
	}
}

func (s *supervisor) snapshot() HMCStatus {
	frame, notification := s.lastTimes()
	s.mu.Lock()
	defer s.mu.Unlock()
	h := HMCStatus{
		Name: s.cfg.Name, State: s.status.state, Since: s.status.since, Host: s.status.host,
		Problems: s.status.reasons(), Reconnects: s.status.reconnects, Missed: s.status.missed,
		LastFrame: timeOrNil(frame), LastNotification: timeOrNil(notification),
		NextAttempt: timeOrNil(s.status.nextAttempt), CertificateNotAfter: timeOrNil(s.status.certificate),
		Notifications: s.metrics.counts(),
		Topics:        []TopicStatus{},
	}
	h.Connected = len(h.Problems) == 0
	h.BlindSince, h.Gaps = timeOrNil(s.rec.sight.blindSince()), s.rec.gaps.Load()
	if g := s.rec.lastGap.Load(); g != nil {
		h.LastGap = &GapStatus{From: g.From, To: g.To, Causes: g.Causes, Missed: g.Missed, Recovered: g.Recovered, MayBeMissed: g.Missing}
	}
	up := s.status.state == StateConnected
	for name, t := range s.status.wanted {
		h.Topics = append(h.Topics, TopicStatus{Name: name, Type: t.kind, Subscribed: up && t.problem == "", Problem: t.problem})
	}
	slices.SortFunc(h.Topics, func(a, b TopicStatus) int { return strings.Compare(a.Name, b.Name) })
	if len(s.cfg.OSMessages) > 0 {
		h.OSMessages = &OSMessageStatus{NotFollowed: make(map[string]string)}
		for _, c := range s.status.channels {
			switch {
			case c.problem != "":
				h.OSMessages.NotFollowed[c.partition] = c.problem
			case up:
				h.OSMessages.Followed++
			}
		}
	}
	h.Outages = append([]Outage{}, s.status.outages...)
	now := time.Now()
	h.NotificationsPerMinute = s.rate.list(now, s.metrics.received())
	h.Troubles = h.troubles(s.status.reason, now)
	return h
}

// waiting says what is stored for the sink, and how many seconds ago the oldest of it was.
func (d *delivery) waiting() (events, bytes int64, age float64) { return waitingBehind(d.cursor) }

func waitingBehind(cursor *queue.Cursor) (events, bytes int64, age float64) {
	events, bytes, oldest := cursor.Pending()
	if events > 0 && !oldest.IsZero() {
		age = max(0, time.Since(oldest).Seconds())
	}
	return events, bytes, age
}

func (d *delivery) snapshot() SinkStatus {
	waiting, bytes, age := d.waiting()
	s := SinkStatus{Name: d.cfg.Name, Kind: d.cfg.Kind(), QueueEvents: waiting, QueueBytes: bytes, OldestEventAgeSeconds: age, DeadLetters: d.dead.Count(d.cfg.Name)}
	s.Delivered, s.Filtered, s.Dropped = d.metrics.delivered.n.Load(), d.metrics.filtered.n.Load(), d.metrics.dropped.n.Load()
	s.Stuck = d.health.stuck(time.Now())
	d.health.mu.Lock()
	defer d.health.mu.Unlock()
	s.FailingSince = timeOrNil(d.health.failingSince)
	s.FailedAttempts = d.health.total
	s.LastError, s.LastErrorTime = d.health.lastError, timeOrNil(d.health.lastErrorAt)
	s.LastSuccess = timeOrNil(d.health.lastSuccess)
	s.DeliveredPerMinute = d.rate.list(time.Now(), s.Delivered)
	s.Troubles = s.troubles()
	return s
}

func timeOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
