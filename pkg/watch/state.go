package watch

import (
	"crypto/tls"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/logon"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
)

// maxOutages bounds how many outages a status shows.
const maxOutages = 10

// state is all that others see of a supervisor. One that was published never changes: the next one
// takes its place as a whole, so that status page, metrics and readiness never see half a change.
type state struct {
	// What the status page shows as it is: State, Since, Host, Connected, Reconnects,
	// NextAttempt, Outages, CertificateNotAfter and PasswordExpires. The rest is filled in when
	// it is asked for.
	status.HMCStatus

	// problem is why there is no link, reason the same as the metrics name it; "": nothing is
	// wrong.
	problem, reason string
	// wanted are the topics to be subscribed to, by name.
	wanted map[string]status.TopicStatus
	// channels are the OS message channels, by the partition's URI; unlisted is why it is not
	// known whose messages to follow.
	channels map[string]channelStatus
	unlisted string
	// unread is why the CPCs and partitions are not known as they are now; "": they are. read
	// says that they were all listed once.
	unread string
	read   bool
	// missing is what the configuration asks for and the userid may not have.
	missing []string
	// link is the one that is up, links how many have been.
	link  *receiver.Receiver
	links int
	// frame and notification are when the last of each came over links that have ended.
	frame, notification time.Time
}

// channelStatus says whether a partition's OS messages are followed.
type channelStatus struct {
	// partition is its name as a person knows it.
	partition string
	// problem is "" when they are followed; usual says that it is no fault: there are none now.
	problem string
	usual   bool
}

func newState() *state {
	return &state{
		HMCStatus: status.HMCStatus{State: status.StateDisconnected, Since: time.Now()},
		wanted:    make(map[string]status.TopicStatus), channels: make(map[string]channelStatus),
	}
}

// enter changes the name. An outage began with its first attempt, not with the one under way.
func (s *state) enter(name string) {
	settled := func(name string) bool { return name == status.StateConnected || name == status.StateAuthFailed }
	if s.State != name && (settled(name) || settled(s.State)) {
		s.Since = time.Now()
	}
	s.State = name
}

// attempt begins an attempt to log on or connect. What was wrong stays until the link is up.
func (s *state) attempt(name string) {
	s.enter(name)
	s.NextAttempt = nil
}

// attempted notes what the HMC showed in an attempt at the link, whatever became of it.
func (s *state) attempted(r *receiver.Receiver) {
	if certs := r.PeerCertificates(); len(certs) > 0 {
		s.CertificateNotAfter = status.TimeOrNil(certs[0].NotAfter)
	}
	s.heard(r)
}

// rejected notes the certificate that an attempt failed over: when it expired, for example.
func (s *state) rejected(err error) {
	e, ok := errors.AsType[*tls.CertificateVerificationError](err)
	if ok && len(e.UnverifiedCertificates) > 0 {
		s.CertificateNotAfter = status.TimeOrNil(e.UnverifiedCertificates[0].NotAfter)
	}
}

func (s *state) heard(r *receiver.Receiver) {
	s.frame = status.Later(s.frame, r.LastFrame())
	s.notification = status.Later(s.notification, r.LastNotification())
}

// offered notes the topics that a link will be subscribed to.
func (s *state) offered(o *logon.Offer) {
	s.Host, s.missing, s.unlisted = o.Host, o.Missing, o.Unlisted
	s.PasswordExpires = o.PasswordExpires
	if o.REST && !s.read && s.unread == "" {
		s.unread = "the CPCs and partitions are not listed yet"
	}
	s.channels, s.wanted = make(map[string]channelStatus), make(map[string]status.TopicStatus)
	for topic, kind := range o.Kinds {
		s.wanted[topic] = status.TopicStatus{Name: topic, Type: kind, Problem: status.NotSubscribed}
	}
}

// up notes that the link is up, which ends an outage.
func (s *state) up(link *receiver.Receiver) {
	for topic, t := range s.wanted {
		if link.Subscribed(topic) {
			t.Problem = ""
			s.wanted[topic] = t
		}
	}
	s.attempt(status.StateConnected)
	s.link, s.problem, s.reason = link, "", ""
	s.Reconnects = s.links
	s.links++
	if n := len(s.Outages); n > 0 && s.Outages[n-1].To == nil {
		s.Outages = slices.Clone(s.Outages)
		now := time.Now()
		s.Outages[n-1].To = &now
	}
}

// down notes that the link has ended; problem and reason say why, if that is a fault.
func (s *state) down(problem, reason string) {
	if s.link == nil {
		return
	}
	s.heard(s.link)
	s.link, s.problem, s.reason = nil, problem, reason
	s.enter(status.StateDisconnected)
}

// wait notes that there is no link, and when the next attempt is made.
func (s *state) wait(name, problem, reason string, next time.Time) {
	s.enter(name)
	s.problem, s.reason, s.NextAttempt = problem, reason, &next
	s.Outages = slices.Clone(s.Outages)
	if n := len(s.Outages); n > 0 && s.Outages[n-1].To == nil {
		s.Outages[n-1].Attempts++
		s.Outages[n-1].LastProblem = problem
		return
	}
	if len(s.Outages) == maxOutages {
		s.Outages = s.Outages[1:]
	}
	s.Outages = append(s.Outages, status.Outage{From: s.Since, Cause: problem})
}

// setTopic notes why a wanted topic is not subscribed; "" when it is.
func (s *state) setTopic(topic, problem string) {
	if t, known := s.wanted[topic]; known {
		t.Problem = problem
		s.wanted[topic] = t
	}
}

// dropChannel forgets a partition that is not followed any more, and the topic of its messages.
func (s *state) dropChannel(uri, topic string) {
	delete(s.channels, uri)
	delete(s.wanted, topic)
}

// problems ranges over what is wrong. All but status.ProblemEstate keeps the HMC from counting as
// connected.
func (s *state) problems() iter.Seq[status.Problem] {
	return func(yield func(status.Problem) bool) {
		found := func(kind status.ProblemKind, text string) bool {
			return yield(status.Problem{Kind: kind, Text: text})
		}
		if s.State != status.StateConnected {
			kind, text := status.ProblemKind(s.reason), "the link is "+strings.ReplaceAll(s.State, "_", " ")
			if s.State == status.StateAuthFailed {
				kind = status.ProblemLogonRefused
				text = "refused, and left alone until " + status.TimeOrNil(*s.NextAttempt).Format(time.RFC3339)
			}
			if s.problem != "" {
				text += ": " + s.problem
			}
			found(kind, text)
			return
		}
		switch {
		case s.unlisted != "" && !found(status.ProblemOSMessages, "OS messages: "+s.unlisted):
			return
		case s.unlisted == "" && s.unread != "" && !found(status.ProblemEstate, s.unread):
			return
		}
		for _, m := range s.missing {
			if !found(status.ProblemNotGranted, m) {
				return
			}
		}
		for name, t := range s.wanted {
			// those are named by partition
			if t.Problem == "" || t.Type == event.TopicOSMessage {
				continue
			}
			kind := status.ProblemTopic
			if t.Problem == status.NotSubscribed {
				kind = status.ProblemNotConfirmed
			}
			if !found(kind, fmt.Sprintf("topic %s (%s): %s", name, t.Type, t.Problem)) {
				return
			}
		}
		for _, c := range s.channels {
			if c.problem != "" && !c.usual && !yield(status.NotFollowed(c.partition, c.problem)) {
				return
			}
		}
	}
}

// reasons are all problems, in the order of their text; never nil: the status shows it as a list.
func (s *state) reasons() []status.Problem {
	out := slices.AppendSeq([]status.Problem{}, s.problems())
	slices.SortFunc(out, func(a, b status.Problem) int { return strings.Compare(a.Text, b.Text) })
	return out
}

// topicOf returns the name of the topic of a kind.
func (s *state) topicOf(kind string) string {
	for name, t := range s.wanted {
		if t.Type == kind {
			return name
		}
	}
	return ""
}

// lastTimes returns when the last bytes and the last notification came, over all links.
func (s *state) lastTimes() (frame, notification time.Time) {
	if s.link != nil {
		now := *s
		now.heard(s.link)
		return now.frame, now.notification
	}
	return s.frame, s.notification
}

// show returns the state as the status page shows it. osMessages says whether those of partitions
// are followed.
func (s *state) show(osMessages bool) status.HMCStatus {
	h := s.HMCStatus
	frame, notification := s.lastTimes()
	h.LastFrame, h.LastNotification = status.TimeOrNil(frame), status.TimeOrNil(notification)
	h.Problems, h.Outages, h.Topics = s.reasons(), append([]status.Outage{}, s.Outages...), []status.TopicStatus{}
	at := time.Now()
	h.Since = event.Wall(h.Since, at)
	if h.NextAttempt != nil {
		h.NextAttempt = status.TimeOrNil(*h.NextAttempt)
	}
	for i := range h.Outages {
		o := &h.Outages[i]
		if o.From = event.Wall(o.From, at); o.To != nil {
			o.To = status.TimeOrNil(*o.To)
		}
	}
	up := s.State == status.StateConnected
	for _, t := range s.wanted {
		t.Subscribed = up && t.Problem == ""
		h.Topics = append(h.Topics, t)
	}
	slices.SortFunc(h.Topics, func(a, b status.TopicStatus) int { return strings.Compare(a.Name, b.Name) })
	if !osMessages {
		return h
	}
	h.OSMessages = &status.OSMessageStatus{NotFollowed: make(map[string]string)}
	for _, c := range s.channels {
		switch {
		case c.problem != "":
			h.OSMessages.NotFollowed[c.partition] = c.problem
		case up:
			h.OSMessages.Followed++
		}
	}
	return h
}

// board publishes the state.
type board struct {
	// one at a time
	changes sync.Mutex
	current atomic.Pointer[state]
}

func newBoard() *board {
	b := new(board)
	b.current.Store(newState())
	return b
}

// now returns the state. It is not to be changed.
func (b *board) now() *state { return b.current.Load() }

// update publishes the state that change makes of the one before, and returns it.
func (b *board) update(change func(*state)) *state {
	b.changes.Lock()
	defer b.changes.Unlock()
	next := *b.now()
	next.wanted, next.channels, next.Connected = maps.Clone(next.wanted), maps.Clone(next.channels), true
	change(&next)
	for p := range next.problems() {
		if next.Connected = p.Kind == status.ProblemEstate; !next.Connected {
			break // one is enough: there may be thousands of channels
		}
	}
	b.current.Store(&next)
	return &next
}

// setChannel notes how it stands with a partition's OS messages, and reports whether that is news.
func (b *board) setChannel(uri string, c channelStatus) (news bool) {
	b.update(func(s *state) { news, s.channels[uri] = s.channels[uri] != c, c })
	return news
}

// setListing notes why not all CPCs and partitions could be listed; "" when they could. unlisted is
// "" too where whose OS messages to follow is known all the same. It reports whether that is news.
func (b *board) setListing(unlisted, unread string) (news bool) {
	b.update(func(s *state) {
		news = s.unlisted != unlisted || s.unread != unread
		s.unlisted, s.unread, s.read = unlisted, unread, s.read || unread == ""
	})
	return news
}

// setTopic notes why a topic is not subscribed; "" when it is.
func (b *board) setTopic(topic, problem string) {
	b.update(func(s *state) { s.setTopic(topic, problem) })
}

// want adds a topic that the link is to be subscribed to.
func (b *board) want(topic, kind string) {
	b.update(func(s *state) {
		if _, known := s.wanted[topic]; !known {
			s.wanted[topic] = status.TopicStatus{Name: topic, Type: kind, Problem: status.NotSubscribed}
		}
	})
}
