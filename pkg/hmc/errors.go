package hmc

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/secret"
)

// NoReason is the Reason of an answer that does not give one, because it is not the HMC's JSON.
const NoReason = -1

// Reason codes that callers decide upon, each with the HTTP status it comes with.
const (
	// 400: the userid has as many sessions as it may.
	ReasonTooManySessions = 13
	// 400: the password must be changed first.
	ReasonPasswordExpired = 45
	// 403: logged on, but without the permission for this.
	ReasonNotPermitted = 1
	// 403: no session id was provided; also seen after an HMC was restarted.
	ReasonNoSession = 4
	// 403: the session id is not, or no longer, known.
	ReasonInvalidSession = 5
	// 409: the logon needs another step (multi-factor authentication).
	ReasonPartialLogon50 = 50
	ReasonPartialLogon51 = 51 // 409: as 50
	// 409: the session has a channel for this partition already.
	ReasonChannelExists = 331
	// 409: the partition offers no OS messages now, because it is not active for example.
	ReasonChannelUnavailable = 332
)

// HTTPError is an answer that is not a success.
type HTTPError struct {
	// HTTP status
	Status int
	// Reason is the HMC's reason code; NoReason if there is none.
	Reason int
	// Message is the HMC's, shortened. It never holds a secret.
	Message string
	Method  string
	// path
	URI string
}

// Error returns what the HMC said. What was asked is in the fields: the one who asked knows what
// for, and says that in words.
func (e *HTTPError) Error() string {
	reason := ""
	if e.Reason != NoReason {
		reason = fmt.Sprintf(", reason %d", e.Reason)
	}
	return fmt.Sprintf("HTTP status %d%s: %s", e.Status, reason, e.Message)
}

// BusyError is an HMC that has too many requests to answer (HTTP status 503). It wraps an
// *HTTPError.
type BusyError struct {
	// RetryAfter is how long to leave it alone; 0: it did not say.
	RetryAfter time.Duration
	Err        error
}

// Error returns the HMC's answer, and how long it asks to be left alone.
func (e *BusyError) Error() string {
	if e.RetryAfter > 0 {
		return fmt.Sprintf("%v (to be asked again after %v)", e.Err, e.RetryAfter)
	}
	return e.Err.Error()
}

// Unwrap returns the *HTTPError.
func (e *BusyError) Unwrap() error { return e.Err }

// The reasons of a ConnectError.
const (
	ReasonDNS     = "dns"
	ReasonRefused = "refused"
	ReasonTimeout = "timeout"
	ReasonTLS     = "tls"
	ReasonOther   = "other"
)

// ConnectError is a request that no HTTP answer came to. It wraps the cause, so that errors.As
// finds an x509 error.
type ConnectError struct {
	Host string
	// Reason is one of the Reason constants of text, bounded for use as a label.
	Reason string
	Err    error
}

// Error names the host and the cause.
func (e *ConnectError) Error() string { return fmt.Sprintf("%s: %v", e.Host, e.Err) }

// Unwrap returns the cause.
func (e *ConnectError) Unwrap() error { return e.Err }

// PartialLogonError is a logon that ended half-way: the userid needs multi-factor authentication,
// which needs a person. The session that it left behind has been logged off. It is not to be
// retried.
type PartialLogonError struct {
	// Status is 201, or 409 with Reason 50 or 51.
	Status int
	// Reason is NoReason with 201.
	Reason int
	// Message is that of the HMC, if any.
	Message string
}

// Error says what to do.
func (e *PartialLogonError) Error() string {
	what := fmt.Sprintf("HTTP status %d", e.Status)
	if e.Reason != NoReason {
		what += fmt.Sprintf(", reason %d", e.Reason)
	}
	if e.Message != "" {
		what += ": " + e.Message
	}
	return "logon: the userid needs multi-factor authentication (" + what +
		"): use a userid without, or a session that was logged on elsewhere"
}

// AnswerError is an answer with a status of success, but not what the API documents.
type AnswerError struct {
	Method, URI string
	Status      int
	// Problem never holds a secret.
	Problem string
	// TooLong says that the answer was longer than is read: asking for less may help.
	TooLong bool
}

// Error returns what was asked, and what is wrong with the answer.
func (e *AnswerError) Error() string {
	return fmt.Sprintf("HTTP status %d: %s", e.Status, e.Problem)
}

// IsReason reports whether err is an answer of the HMC with this HTTP status and reason code.
func IsReason(err error, status, reason int) bool {
	var e *HTTPError
	return errors.As(err, &e) && e.Status == status && e.Reason == reason
}

// SessionLost reports whether err means that the session is gone: 403 with reason 4 or 5, or 401.
// Another logon is the cure, and it means new topics.
func SessionLost(err error) bool {
	var e *HTTPError
	if !errors.As(err, &e) || e.isLogon() {
		return false
	}
	return e.Status == http.StatusUnauthorized ||
		e.Status == http.StatusForbidden && (e.Reason == ReasonNoSession || e.Reason == ReasonInvalidSession)
}

// LogonRefused reports whether err is a logon that the HMC refused and would refuse again: a wrong
// userid or password (403), an expired password (400 with reason 45), or a partial logon. Trying
// again makes the HMC disable the userid.
func LogonRefused(err error) bool {
	if _, ok := errors.AsType[*PartialLogonError](err); ok {
		return true
	}
	var e *HTTPError
	if !errors.As(err, &e) || !e.isLogon() {
		return false
	}
	return e.Status == http.StatusForbidden || e.Status == http.StatusUnauthorized ||
		e.Status == http.StatusBadRequest && e.Reason == ReasonPasswordExpired
}

// TooManySessions reports whether err is a logon that was refused because the userid has as many
// sessions as it may (400 with reason 13, 100 sessions by default). It may succeed later, when
// others have ended.
func TooManySessions(err error) bool {
	return IsReason(err, http.StatusBadRequest, ReasonTooManySessions)
}

// PasswordExpired reports whether err is a logon that the HMC says it refused because the password
// has expired (400 with reason 45). Others were seen to refuse it as they do a wrong one.
func PasswordExpired(err error) bool {
	return IsReason(err, http.StatusBadRequest, ReasonPasswordExpired)
}

// isLogon reports whether this is the answer to a logon.
func (e *HTTPError) isLogon() bool { return e.Method == http.MethodPost && e.URI == sessionsURI }

// The HMC's messages are a line or two. Whatever is longer is no message.
const maxMessage = 500

// newHTTPError reads the answer to a failed request. Most are JSON; some of status 5xx are HTML.
// Besides the message the JSON may repeat the request's headers and body, which hold secrets: they
// are not looked at.
func newHTTPError(r *call) *HTTPError {
	e := &HTTPError{Status: r.status, Reason: NoReason, Method: r.method, URI: r.uri}
	var answer struct {
		Reason  json.RawMessage `json:"reason"`
		Message string          `json:"message"`
	}
	isAPI := json.Unmarshal(r.data, &answer) == nil
	reason, given := whole(answer.Reason)
	switch {
	case bytes.Contains(r.data, []byte("Web Services are not enabled")):
		// Captured from a real HMC: status 500, text/html, a
		// javax.servlet.ServletException.
		e.Message = "the Web Services API is not enabled: enable it on the HMC, in the task Customize API Settings"
	case isAPI && (given || answer.Message != ""):
		if given {
			e.Reason = reason
		}
		e.Message = answer.Message
	case e.Status/100 == 3:
		e.Message = "redirected, which the API never does: is this an HMC?"
	case len(r.data) == 0:
		e.Message = strings.ToLower(http.StatusText(e.Status)) + " (without a message)"
	default:
		kind, _, err := mime.ParseMediaType(r.header.Get("Content-Type"))
		if err != nil {
			kind = "something"
		}
		status := strings.ToLower(http.StatusText(e.Status))
		e.Message = fmt.Sprintf("%s (answered with %s that is not the API's)", status, kind)
	}
	e.Message = cleanMessage(e.Message, r.secrets)
	return e
}

// cleanMessage makes one line of a message and shortens it. A message that repeats a secret is not
// shown at all: a hole in a well-known text would show what stood there.
func cleanMessage(s string, secrets []string) string {
	if secret.New(secrets...).In(s) {
		return "(the message is not shown because it repeats a secret)"
	}
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) { // controls, and what turns the direction of a text
			return ' '
		}
		return r
	}, strings.ToValidUTF8(strings.TrimSpace(s), "?"))
	if r := []rune(s); len(r) > maxMessage {
		s = string(r[:maxMessage]) + "..."
	}
	return s
}

// parseRetryAfter reads the header Retry-After: seconds, or a date. 0: absent or useless.
func parseRetryAfter(value string, now time.Time) time.Duration {
	const longest = 24 * time.Hour
	var d time.Duration
	if n, err := strconv.ParseUint(value, 10, 31); err == nil {
		d = time.Duration(n) * time.Second
	} else if t, err := http.ParseTime(value); err == nil {
		d = t.Sub(now)
	}
	return min(max(d, 0), longest)
}

// FailureReason returns why a request has got no answer: one of the Reason constants of
// ConnectError.
func FailureReason(err error) string {
	if e, ok := errors.AsType[*ConnectError](err); ok {
		return e.Reason
	}
	return ReasonOther
}
