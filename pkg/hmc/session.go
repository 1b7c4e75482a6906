package hmc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
	"time"
)

const (
	sessionsURI    = "/api/sessions"
	thisSessionURI = "/api/sessions/this-session"

	// How long a logon under way is waited for once the caller has given up: the HMC may be
	// about to make a session that has to be logged off.
	logonGrace = 3 * time.Second
	// How long the logoff of a session takes at most that the caller never sees.
	cleanupTimeout = 5 * time.Second
	// What expires in more days than this never does.
	longestPassword = 100 * 365
)

// Session is a session of the Web Services API. Its methods may be used from any goroutine. It
// prints without its secrets.
type Session struct {
	c *Client
	// host is where it was made: no other HMC knows it.
	host       string
	id         string
	credential string
	// It is logged off; lost: the HMC had ended it before that.
	over, lost *atomic.Bool
	// file notes it, see Options.SessionNotes.
	file string

	// What the logon returned; empty for a resumed session.
	// ObjectTopic is the name of the object-notification topic.
	ObjectTopic string
	// JobTopic is the name of the job-notification topic.
	JobTopic string
	// PasswordExpires is the number of days until the userid's password expires; -1: never, or
	// not known.
	PasswordExpires int
}

// logonAnswer is what the HMC answers to a logon.
type logonAnswer struct {
	ID              string          `json:"api-session"`
	Credential      string          `json:"session-credential"`
	ObjectTopic     string          `json:"notification-topic"`
	JobTopic        string          `json:"job-notification-topic"`
	PasswordExpires json.RawMessage `json:"password-expires"`
}

// Logon makes a session on the host of Host. The caller must end it with Logoff on every way out.
//
// It sends the request once. A refusal (see LogonRefused) must not be repeated soon. If ctx ends
// while the HMC is working on the logon, its answer is waited for a little longer, and a session
// that comes of it is logged off. With Options.SessionNotes, what is left on that host is logged
// off before: it may be in the way.
func (c *Client) Logon(ctx context.Context, userid, password string) (*Session, error) {
	// On a connection that was idle the HMC's closing of it could cross the request, and nobody
	// would know whether there is a session now.
	c.http.CloseIdleConnections()
	host := c.Host()
	if err := c.logoffLeft(ctx, func(s *Session) bool { return s.host == host }); err != nil {
		c.log.Warn("a session that was left on the HMC could not be logged off", slog.Any("error", err))
	}

	var answer logonAnswer
	r := &call{
		operation: opLogon, host: host, method: http.MethodPost, uri: sessionsURI,
		body: map[string]string{"userid": userid, "password": password}, into: &answer,
		secrets: []string{password}, quiet: true,
	}
	work, stop := r.outlive(ctx, logonGrace)
	err := c.do(work, r)
	stop()

	s := c.Resume(answer.ID, answer.Credential)
	s.host = r.host
	s.note()
	s.ObjectTopic, s.JobTopic = answer.ObjectTopic, answer.JobTopic
	if days, ok := whole(answer.PasswordExpires); ok && days <= longestPassword {
		s.PasswordExpires = max(days, -1)
	}
	var refusal *HTTPError
	errors.As(err, &refusal)
	switch {
	case r.status == http.StatusCreated,
		IsReason(err, http.StatusConflict, ReasonPartialLogon50),
		IsReason(err, http.StatusConflict, ReasonPartialLogon51):
		partial := &PartialLogonError{Status: r.status, Reason: NoReason}
		if refusal != nil {
			partial.Reason, partial.Message = refusal.Reason, refusal.Message
			// A session is not documented here; if there is one, it is logged off.
			_ = decodeAnswer(r.data, false, &answer)
			s.id = answer.ID
		}
		c.cleanUp(ctx, s)
		return nil, partial
	case ctx.Err() != nil:
		c.cleanUp(ctx, s)
		return nil, fmt.Errorf("the logon was given up: %w", ctx.Err())
	case err != nil:
		return nil, err
	case r.status != http.StatusOK || s.id == "":
		c.cleanUp(ctx, s)
		return nil, r.wrong("the answer to the logon holds no session")
	}
	return s, nil
}

// outlive returns a context that ends with ctx as long as the request has not been written, and a
// grace later once it has. stop releases what it holds.
func (r *call) outlive(ctx context.Context, grace time.Duration) (work context.Context, stop func()) {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	end := context.AfterFunc(ctx, func() {
		if !r.written.Load() {
			cancel()
			return
		}
		timer := time.NewTimer(grace)
		defer timer.Stop()
		select {
		case <-timer.C:
			cancel()
		case <-work.Done():
		}
	})
	return work, func() {
		end()
		cancel()
	}
}

// trace records that the request is on its way to the HMC.
func (r *call) trace(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteHeaders: func() { r.written.Store(true) },
	})
}

// cleanUp logs off a session that the caller never sees, if there is one.
func (c *Client) cleanUp(ctx context.Context, s *Session) {
	if s.id == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	if err := s.Logoff(ctx); err != nil {
		const text = "a session that is of no use could not be logged off; the HMC ends it after its idle time"
		c.log.Warn(text, slog.Any("error", err))
	}
}

// Resume makes a Session of one that was logged on elsewhere, on the host of Host. It asks the HMC
// nothing.
func (c *Client) Resume(sessionID, credential string) *Session {
	c.know(sessionID, credential)
	return &Session{
		c: c, host: c.Host(), id: sessionID, credential: credential, PasswordExpires: -1,
		over: new(atomic.Bool), lost: new(atomic.Bool),
	}
}

// ID returns the session's id. It is a secret: it gives all that the session may do.
func (s *Session) ID() string { return s.id }

// Credential returns what the session's id is combined with as the password of the broker. It is a
// secret.
func (s *Session) Credential() string { return s.credential }

// Host returns the host that the session was made on.
func (s *Session) Host() string { return s.host }

// String names the host only.
func (s Session) String() string { return "session on " + s.host }

// GoString names the host only.
func (s Session) GoString() string { return s.String() }

// Format prints what String returns for every verb of package fmt.
func (s Session) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(s.String())) }

// MarshalText returns what String returns, for loggers and encoders.
func (s Session) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// call completes a request of this session.
func (s *Session) call(r *call) *call {
	r.host, r.token = s.host, s.id
	r.secrets = append(r.secrets, s.id, s.credential)
	return r
}

// get fetches what an operation answers.
func (s *Session) get(ctx context.Context, operation, uri string, into any) error {
	return s.c.do(ctx, s.call(&call{operation: operation, method: http.MethodGet, uri: uri, into: into}))
}

// NotificationTopics lists the topics of the session. Where there are more than MaxTopics it
// returns a *TooManyError along with as many.
func (s *Session) NotificationTopics(ctx context.Context) ([]Topic, error) {
	answer := limited[Topic]{member: "topics", what: "topics", max: MaxTopics}
	err := s.get(ctx, opGetNotificationTopics, "/api/sessions/operations/get-notification-topics", &answer)
	return answer.list(err)
}

// Ping keeps the session from ending for idleness (after six hours by default; any request does
// that), and reports whether it is still there: see SessionLost.
func (s *Session) Ping(ctx context.Context) error {
	_, err := s.NotificationTopics(ctx)
	if _, tooMany := errors.AsType[*TooManyError](err); tooMany {
		return nil
	}
	return err
}

// Logoff ends the session, and with it its topics. It passes the budget. A session that is gone
// already, or was logged off before, is no error.
func (s *Session) Logoff(ctx context.Context) error {
	if s.over.Load() {
		return nil
	}
	err := s.c.do(ctx, s.call(&call{
		operation: opLogoff, method: http.MethodDelete, uri: thisSessionURI, urgent: true, repeatable: true,
	}))
	var answer *HTTPError
	if errors.As(err, &answer) && (answer.Status == http.StatusForbidden || answer.Status == http.StatusUnauthorized) {
		// As in zhmcclient, 403 is no error here: the session is not known any more.
		err = nil
		s.lost.Store(true)
	}
	if err == nil {
		s.over.Store(true)
		s.forget()
	}
	return err
}

// Lost says that a logoff has found that the HMC had ended the session before.
func (s *Session) Lost() bool { return s.lost.Load() }

// ListPermittedPartitions lists the DPM partitions of all CPCs that the userid has access to. Where
// there are more than MaxPartitions it returns a *TooManyError along with as many, and where some
// cannot be read an *AnswerError along with the others.
func (s *Session) ListPermittedPartitions(ctx context.Context) ([]Partition, error) {
	answer := limited[Partition]{member: "partitions", what: "partitions", max: MaxPartitions, usable: hasURI}
	err := s.get(ctx, opListPermittedPartitions, "/api/console/operations/"+opListPermittedPartitions, &answer)
	return answer.list(err)
}

func hasURI(p *Partition) bool { return p.ObjectURI != "" }

// ListPermittedLogicalPartitions lists the classic logical partitions of all CPCs that the userid
// has access to, in the same way.
func (s *Session) ListPermittedLogicalPartitions(ctx context.Context) ([]Partition, error) {
	answer := limited[Partition]{
		member: "logical-partitions", what: "logical partitions", max: MaxPartitions, usable: hasURI,
	}
	const operation = opListPermittedLogicalPartitions
	err := s.get(ctx, operation, "/api/console/operations/"+operation, &answer)
	return answer.list(err)
}

// OpenOSMessageChannel opens a channel for the operating system messages of a partition, and
// returns the name of its topic. The channel ends with the session. With refresh, whoever
// subscribes to the topic first gets the messages that the HMC still holds.
//
// The HMC refuses a second channel of one session for a partition (409 with ReasonChannelExists;
// the topic is among those of NotificationTopics), and a partition that offers no messages now (409
// with ReasonChannelUnavailable). It needs object access to the partition (else 404) and the task
// "Operating System Messages".
func (s *Session) OpenOSMessageChannel(
	ctx context.Context, objectURI string, refresh bool,
) (topicName string, err error) {
	if !isPartition(objectURI) {
		return "", fmt.Errorf("open OS message channel: %q is not the URI of a partition", objectURI)
	}
	var answer struct {
		TopicName string `json:"topic-name"`
	}
	r := s.call(&call{
		operation: opOpenOSMessageChannel, method: http.MethodPost,
		uri:  objectURI + "/operations/" + opOpenOSMessageChannel,
		body: map[string]bool{"include-refresh-messages": refresh}, into: &answer,
		repeatable: true, // a second one is refused, not opened
	})
	if err := s.c.do(ctx, r); err != nil {
		return "", err
	}
	if answer.TopicName == "" {
		return "", r.wrong("the answer names no topic")
	}
	return answer.TopicName, nil
}

// isPartition says whether a string is the URI of a DPM partition or a classic one.
func isPartition(uri string) bool {
	return isObject(uri, "/api/partitions/") || isObject(uri, "/api/logical-partitions/")
}

// isObject says whether a string is the URI of an object: of what is below prefix, a single segment
// without anything that would lead elsewhere.
func isObject(uri, prefix string) bool {
	id, ok := strings.CutPrefix(uri, prefix)
	return ok && id != "" && !strings.ContainsAny(id, "/?#%. ")
}
