package watch

import (
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/record"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
)

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
	h.outages = append(h.outages, status.Outage{From: h.since.UTC(), Cause: problem})
}

// endOutage notes that the link is up.
func (h *hmcStatus) endOutage(now time.Time) {
	if n := len(h.outages); n > 0 && h.outages[n-1].To == nil {
		h.outages[n-1].To = status.TimeOrNil(now)
	}
}

// problems ranges over what keeps the HMC from counting as connected.
func (h *hmcStatus) problems() iter.Seq[string] {
	return func(yield func(string) bool) {
		if h.state != status.StateConnected {
			text := "the link is " + strings.ReplaceAll(h.state, "_", " ")
			if h.state == status.StateAuthFailed {
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
func (s *Supervisor) want(topic, kind string) {
	s.topics.Add(topic, kind)
	s.Mu.Lock()
	defer s.Mu.Unlock()
	if _, known := s.status.wanted[topic]; !known {
		s.status.wanted[topic] = topicStatus{kind: kind, problem: status.NotSubscribed}
	}
}

// unwant forgets a topic.
func (s *Supervisor) unwant(topic string) {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	delete(s.status.wanted, topic)
}

func (s *Supervisor) subscribed(topic string) { s.topicProblem(topic, "") }

// topicProblem notes why a topic is not subscribed; "" when it is.
func (s *Supervisor) topicProblem(topic, problem string) {
	s.Mu.Lock()
	t, known := s.status.wanted[topic]
	if known {
		t.problem = problem
		s.status.wanted[topic] = t
	}
	s.Mu.Unlock()
	s.publishConnected()
}

// channelStatus says whether a partition's OS messages are followed.
type channelStatus struct {
	partition string // as a person knows it
	problem   string // "" when they are followed
	usual     bool   // no fault: the partition offers none now
}

// noteChannel notes how it stands with a partition's OS messages, and reports whether that is news.
func (s *Supervisor) noteChannel(uri string, c channelStatus) bool {
	s.Mu.Lock()
	before := s.status.channels[uri]
	s.status.channels[uri] = c
	s.Mu.Unlock()
	s.publishConnected()
	return before != c
}

// dropChannel forgets a partition that is gone.
func (s *Supervisor) dropChannel(uri string) {
	s.Mu.Lock()
	delete(s.status.channels, uri)
	s.Mu.Unlock()
	s.publishConnected()
}

// noteListing notes why the partitions could not be listed; "" when they could. It reports whether that is news.
func (s *Supervisor) noteListing(problem string) bool {
	s.Mu.Lock()
	before := s.status.unlisted
	s.status.unlisted = problem
	s.Mu.Unlock()
	s.publishConnected()
	return before != problem
}

// LastTimes returns when the last bytes and the last notification came, over all links.
func (s *Supervisor) LastTimes() (frame, notification time.Time) {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	frame, notification = s.lastUp.frame, s.lastUp.notification
	if s.Rcv != nil {
		frame, notification = status.Later(frame, s.Rcv.LastFrame()), status.Later(notification, s.Rcv.LastNotification())
	}
	return frame, notification
}

// Alive says whether the supervisor's loop still turns. A loop that waits for notifications lives as long as there are
// none to fetch, and one that logs on or connects is bounded by the time-outs of the configuration, which may be long.
func (s *Supervisor) Alive(now time.Time, limit time.Duration) bool {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	switch s.status.state {
	case status.StateLoggingOn, status.StateConnecting:
		return true
	case status.StateConnected:
		if s.Rcv != nil && s.Rcv.Buffered() == 0 {
			return true
		}
	}
	return now.Sub(s.beat) < limit
}

// inSight returns when the last bytes came from the HMC, if everything before them has been handed on.
func (s *Supervisor) inSight() time.Time {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	if s.Rcv == nil {
		return time.Time{}
	}
	if frame := s.Rcv.LastFrame(); s.Rcv.Buffered() == 0 {
		return frame
	}
	return time.Time{}
}

// heartbeat is what a bridge-heartbeat event tells.
func (s *Supervisor) heartbeat() record.Heartbeat {
	frame, notification := s.LastTimes()
	s.Mu.Lock()
	defer s.Mu.Unlock()
	problems := s.status.reasons()
	return record.Heartbeat{
		Connected: len(problems) == 0, State: s.status.state, Since: s.status.since.UTC(), Problems: problems,
		LastFrame: status.TimeOrNil(frame), LastNotification: status.TimeOrNil(notification),
	}
}

func (s *Supervisor) Snapshot() status.HMCStatus {
	frame, notification := s.LastTimes()
	s.Mu.Lock()
	defer s.Mu.Unlock()
	h := status.HMCStatus{
		Name: s.Cfg.Name, State: s.status.state, Since: s.status.since, Host: s.status.host,
		Problems: s.status.reasons(), Reconnects: s.status.reconnects, Missed: s.status.missed,
		LastFrame: status.TimeOrNil(frame), LastNotification: status.TimeOrNil(notification),
		NextAttempt: status.TimeOrNil(s.status.nextAttempt), CertificateNotAfter: status.TimeOrNil(s.status.certificate),
		Notifications: s.Metrics.Counts(),
		Topics:        []status.TopicStatus{},
	}
	h.Connected = len(h.Problems) == 0
	h.BlindSince, h.Gaps = status.TimeOrNil(s.Rec.Sight.BlindSince()), s.Rec.Gaps.Load()
	if g := s.Rec.LastGap.Load(); g != nil {
		h.LastGap = &status.GapStatus{From: g.From, To: g.To, Causes: g.Causes, Missed: g.Missed, Recovered: g.Recovered, MayBeMissed: g.Missing}
	}
	up := s.status.state == status.StateConnected
	for name, t := range s.status.wanted {
		h.Topics = append(h.Topics, status.TopicStatus{Name: name, Type: t.kind, Subscribed: up && t.problem == "", Problem: t.problem})
	}
	slices.SortFunc(h.Topics, func(a, b status.TopicStatus) int { return strings.Compare(a.Name, b.Name) })
	if len(s.Cfg.OSMessages) > 0 {
		h.OSMessages = &status.OSMessageStatus{NotFollowed: make(map[string]string)}
		for _, c := range s.status.channels {
			switch {
			case c.problem != "":
				h.OSMessages.NotFollowed[c.partition] = c.problem
			case up:
				h.OSMessages.Followed++
			}
		}
	}
	h.Outages = append([]status.Outage{}, s.status.outages...)
	now := time.Now()
	h.NotificationsPerMinute = s.Rate.List(now, s.Metrics.Received())
	h.Troubles = h.FindTroubles(s.status.reason, now)
	return h
}
