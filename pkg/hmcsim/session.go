package hmcsim

import (
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The types of topics, as Get Notification Topics names them.
const (
	TopicObject    = "object-notification"
	TopicJob       = "job-notification"
	TopicAudit     = "audit-notification"
	TopicSecurity  = "security-notification"
	TopicOSMessage = "os-message-notification"
)

// session is a session of the Web Services API. Guarded by HMC.mu.
type session struct {
	h          *HMC
	nr         int
	user       string
	token      string // the secret: X-API-Session
	credential string
	id         string // internal, not secret: as logs name it
	partial    bool   // partially authenticated: for logoff only
	ended      bool
	lastUsed   time.Time
	seq        int64 // session-sequence-nr with Options.SequencePerSession
	topics     []*sessionTopic
	channels   map[*partition]*sessionTopic
	endedJobs  []string // ids, the oldest first
}

// sessionTopic is one topic of a session.
type sessionTopic struct {
	kind      string
	name      string
	seq       int64
	partition *partition // of an OS message channel
	refresh   bool       // include-refresh-messages
	refreshed bool       // has been replayed once
}

// newSessionLocked makes a session for user, with its topics.
func (h *HMC) newSessionLocked(user string) *session {
	h.sessionNr++
	s := &session{
		h: h, nr: h.sessionNr, user: user, token: secret(50), credential: secret(50),
		id:       fmt.Sprintf("Sx%s.%x", h.world.uuid(), h.sessionNr),
		lastUsed: time.Now(), channels: make(map[*partition]*sessionTopic),
	}
	h.sessions[s.token] = s
	h.order = append(h.order, s)
	h.addTopicLocked(s, TopicObject, "")
	h.addTopicLocked(s, TopicJob, "job")
	if !h.opts.NoAuditLog {
		h.addTopicLocked(s, TopicAudit, "aud")
	}
	if !h.opts.NoSecurityLog {
		h.addTopicLocked(s, TopicSecurity, "sec")
	}
	if h.opts.SessionIdleTimeout > 0 && !h.watching {
		h.watching = true
		h.world.after(h.opts.SessionIdleTimeout, h.checkIdleLocked)
	}
	return s
}

func (h *HMC) addTopicLocked(s *session, kind, suffix string) *sessionTopic {
	t := &sessionTopic{kind: kind, name: s.user + "." + strconv.Itoa(s.nr) + suffix}
	s.topics = append(s.topics, t)
	h.broker.AddTopic(t.name)
	return t
}

// topic returns the session's topic of a kind, or nil.
func (s *session) topic(kind string) *sessionTopic {
	for _, t := range s.topics {
		if t.kind == kind {
			return t
		}
	}
	return nil
}

// checkIdleLocked ends the sessions whose time is over, and looks again when the next one's may be.
func (h *HMC) checkIdleLocked() {
	if h.closed {
		return
	}
	next := h.opts.SessionIdleTimeout
	for _, s := range slices.Clone(h.order) {
		if h.opts.LinkKeepsSession && s.hasLinkLocked() {
			s.lastUsed = time.Now()
		}
		left := h.opts.SessionIdleTimeout - time.Since(s.lastUsed)
		if left <= 0 {
			h.expired++
			h.endSessionLocked(s, "timeout", h.opts.CutOnSessionEnd)
			continue
		}
		next = min(next, left)
	}
	h.watching = len(h.order) > 0
	if h.watching {
		h.world.after(next, h.checkIdleLocked)
	}
}

func (s *session) hasLinkLocked() bool {
	for _, t := range s.topics {
		if s.h.broker.Subscribers(t.name) > 0 {
			return true
		}
	}
	return false
}

// endSessionLocked ends a session: its topics are no topics any more.
func (h *HMC) endSessionLocked(s *session, why string, cut bool) {
	if s.ended {
		return
	}
	s.ended = true
	delete(h.sessions, s.token)
	h.order = slices.DeleteFunc(h.order, func(o *session) bool { return o == s })
	for _, t := range s.topics {
		h.broker.RemoveTopic(t.name, cut)
	}
	for id, j := range h.jobs {
		if j.session == s {
			delete(h.jobs, id)
		}
	}
	if !s.partial {
		h.logLocked(TopicSecurity, h.apiLogoffEntry(s, why))
	}
}

// authenticate is the broker's logon: a userid with its password, or a session id with its
// credential. The user need not be the one whose session made the topic.
func (h *HMC) authenticate(login, passcode string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s := h.sessions[login]; s != nil {
		return !s.partial && s.credential == passcode
	}
	password, ok := h.users[login]
	return ok && password == passcode && !h.opts.MFA
}

// onSubscribe replays the OS messages held for a partition to a new subscription of a channel that
// was opened for it.
func (h *HMC) onSubscribe(topicName string, attach func([]Message)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s, t := h.findTopicLocked(topicName)
	if t == nil || t.kind != TopicOSMessage || !t.refresh || (t.refreshed && h.opts.RefreshOnce) {
		attach(nil)
		return
	}
	t.refreshed = true
	var first []Message
	for batch := range slices.Chunk(t.partition.held(), 10) {
		m := h.osMessageNotification(t.partition, batch, true)
		first = append(first, Message{h.sequenceLocked(nil, s, t, m.Headers), m.Body})
		h.published["os-message"]++
		h.delivered["os-message"]++
	}
	attach(first)
}

func (h *HMC) findTopicLocked(name string) (*session, *sessionTopic) {
	for _, s := range h.order {
		for _, t := range s.topics {
			if t.name == name {
				return s, t
			}
		}
	}
	return nil, nil
}

// sequenceLocked appends to dst the sequence numbers of a notification and its headers.
func (h *HMC) sequenceLocked(dst []Header, s *session, t *sessionTopic, headers []Header) []Header {
	seq := &t.seq
	if h.opts.SequencePerSession {
		seq = &s.seq
	}
	dst = append(dst,
		Header{"global-sequence-nr", strconv.FormatInt(h.globalSeq, 10)},
		Header{"session-sequence-nr", strconv.FormatInt(*seq, 10)})
	*seq++ // begins with 0
	h.globalSeq++
	return append(dst, headers...)
}

// publishLocked publishes a notification on one topic of a session.
func (h *HMC) publishLocked(s *session, t *sessionTopic, m Message) int {
	h.headers = h.sequenceLocked(h.headers[:0], s, t, m.Headers)
	n := h.broker.Publish(t.name, h.headers, m.Body)
	kind := headerValue(m.Headers, "notification-type")
	h.published[kind]++
	h.delivered[kind] += int64(n)
	return n
}

// publishAllLocked publishes a notification on the topic of the given kind (not of OS messages) of
// each session that has one.
func (h *HMC) publishAllLocked(kind string, m Message) int {
	n := 0
	for _, s := range h.order {
		if t := s.topic(kind); t != nil {
			n += h.publishLocked(s, t, m)
		}
	}
	return n
}

// secret returns n random characters, digits and lower-case letters, as real tokens are.
func secret(n int) string {
	return strings.ToLower(rand.Text() + rand.Text())[:n]
}

// SessionInfo tells of one session.
type SessionInfo struct {
	Nr                    int
	User                  string
	SessionID, Credential string // secrets: what the broker and X-API-Session take
	InternalID            string // as logs name it
	LastUsed              time.Time
	Topics                map[string][]string // names by type
}

func (s *session) info() SessionInfo {
	topics := make(map[string][]string)
	for _, t := range s.topics {
		topics[t.kind] = append(topics[t.kind], t.name)
	}
	return SessionInfo{
		Nr: s.nr, User: s.user, SessionID: s.token, Credential: s.credential, InternalID: s.id, LastUsed: s.lastUsed,
		Topics: topics,
	}
}

// SessionInfos tells of all sessions, the oldest first.
func (h *HMC) SessionInfos() []SessionInfo {
	h.mu.Lock()
	defer h.mu.Unlock()
	var infos []SessionInfo
	for _, s := range h.order {
		infos = append(infos, s.info())
	}
	return infos
}

// NewSession makes a session as a logon elsewhere would, MFA or not.
func (h *HMC) NewSession(userid string) (SessionInfo, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.users[userid]; !ok {
		return SessionInfo{}, fmt.Errorf("hmcsim: userid %q is unknown", userid)
	}
	if h.server == nil {
		return SessionInfo{}, errors.New("hmcsim: the HMC is down")
	}
	s := h.newSessionLocked(userid)
	h.loggedOnLocked(s, "127.0.0.1")
	return s.info(), nil
}

// ExpireSessions ends all sessions as their idle timeout would, and returns how many they were.
// With cut the connections subscribed to their topics are closed, else these fall silent.
func (h *HMC) ExpireSessions(cut bool) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := slices.Clone(h.order)
	for _, s := range all {
		h.expired++
		h.endSessionLocked(s, "timeout", cut)
	}
	return len(all)
}
