package receiver

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
)

// ErrClosed is returned by every method of a Receiver that was closed.
var ErrClosed = errors.New("receiver: closed")

// The values of ConnectionError.Reason.
const (
	// The host's name has no address.
	ReasonDNS = "dns"
	// Nothing listens on the port.
	ReasonRefused = "refused"
	// No answer in time, in any phase; or no bytes for longer than the agreed heart-beats
	// allow.
	ReasonTimeout = "timeout"
	// The TLS handshake failed, or the peer ended TLS with an alert.
	ReasonTLS = "tls"
	// The HMC refused the userid or its password.
	ReasonAuthorization = "authorization"
	// The HMC closed the link, answered with an ERROR, or broke the protocol.
	ReasonBroker = "broker"
	ReasonOther  = "other"
)

// ConnectionError says that a link could not be made, or that it was lost.
type ConnectionError struct {
	// Reason is one of the Reason constants.
	Reason string
	// Attempts is the number of attempts that were made; 0 when an existing link was lost.
	Attempts int
	// Err is the cause. For ReasonTLS it wraps the error of crypto/tls or crypto/x509 (such as
	// x509.UnknownAuthorityError, x509.HostnameError and x509.CertificateInvalidError), where
	// the broker said why, a *JMSError.
	Err error
}

// Error implements error.
func (e *ConnectionError) Error() string {
	switch e.Attempts {
	case 0:
		return fmt.Sprintf("connection lost: %v", e.Err)
	case 1:
		return fmt.Sprintf("connect: %v", e.Err)
	default:
		return fmt.Sprintf("connect: %v (attempt %d)", e.Err, e.Attempts)
	}
}

// Unwrap returns the cause.
func (e *ConnectionError) Unwrap() error { return e.Err }

// JMSError is an ERROR frame from the HMC's broker.
type JMSError struct {
	Headers Headers
	// Message is the frame's header "message", or the first line of its body where it has none.
	Message string
	// Body is the frame's body: often the same text, from older HMCs followed by a Java stack
	// trace.
	Body []byte
}

// Error implements error.
func (e *JMSError) Error() string {
	const limit = 500
	text := strings.TrimSpace(e.Message)
	if len(text) > limit {
		text = strings.ToValidUTF8(text[:limit], "") + "..."
	}
	return fmt.Sprintf("ERROR from the HMC: %q", text)
}

// ParseError says that a notification's body is not JSON, or not valid UTF-8.
type ParseError struct {
	// Body is as it was received.
	Body []byte
	Err  error
}

// Error implements error.
func (e *ParseError) Error() string {
	return fmt.Sprintf("notification body of %d bytes: %v", len(e.Body), e.Err)
}

// Unwrap returns the cause.
func (e *ParseError) Unwrap() error { return e.Err }

// SubscriptionError says that the HMC refused a topic, ended its subscription, or did not answer in
// time.
type SubscriptionError struct {
	Topic string
	// Err is a *JMSError where the HMC said why.
	Err error
}

// Error implements error.
func (e *SubscriptionError) Error() string {
	return fmt.Sprintf("subscription to topic %q: %v", e.Topic, e.Err)
}

// Unwrap returns the cause.
func (e *SubscriptionError) Unwrap() error { return e.Err }

// SubscriptionNotFoundError says that a topic is not among the receiver's topics.
type SubscriptionNotFoundError struct{ Topic string }

// Error implements error.
func (e *SubscriptionNotFoundError) Error() string {
	return fmt.Sprintf("no subscription to topic %q", e.Topic)
}

// timeoutError is a wait that took too long.
type timeoutError struct {
	what  string
	limit time.Duration
}

func (e *timeoutError) Error() string { return fmt.Sprintf("%s within %v", e.what, e.limit) }
func (e *timeoutError) Unwrap() error { return os.ErrDeadlineExceeded }

// linkError is why a link failed, with a reason that the cause does not show.
type linkError struct {
	reason, text string
	err          error // the cause; nil: there is no other
}

func (e *linkError) Error() string { return e.text }
func (e *linkError) Unwrap() error { return e.err }

// protocolErrorf is a violation of STOMP, or of our limits, by the peer.
func protocolErrorf(format string, args ...any) error {
	return &linkError{ReasonBroker, fmt.Sprintf(format, args...), nil}
}

// endedBy says who ended the link where the operating system's text does not.
func endedBy(text string, err error) error { return &linkError{ReasonBroker, text, err} }

// readable turns the bare end of a stream into words. doing says what was going on, if anything in
// particular.
func readable(err error, doing string) error {
	if doing != "" {
		doing = " " + doing
	}
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return endedBy("the HMC closed the link"+doing+", in the middle of a frame", err)
	case errors.Is(err, io.EOF):
		return endedBy("the HMC closed the link"+doing, err)
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return endedBy(fmt.Sprintf("the HMC reset the link%s: %v", doing, err), err)
	default:
		return err
	}
}

// reasonOf classifies the cause of a failed attempt or of a loss.
func reasonOf(err error) string {
	if e, ok := errors.AsType[*linkError](err); ok {
		return e.reason
	}
	switch {
	case is[*net.DNSError](err):
		return ReasonDNS
	case errors.Is(err, syscall.ECONNREFUSED):
		return ReasonRefused
	case isTimeout(err):
		return ReasonTimeout
	case isTLS(err):
		return ReasonTLS
	case is[*JMSError](err), isEnd(err):
		return ReasonBroker
	default:
		return ReasonOther
	}
}

func is[T error](err error) bool {
	_, ok := errors.AsType[T](err)
	return ok
}

func isTimeout(err error) bool {
	e, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err)
	return ok && e.Timeout()
}

// isEnd reports whether the peer ended the connection.
func isEnd(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

func isTLS(err error) bool {
	// crypto/tls reports alerts so: sent by the peer, and by us.
	op, ok := errors.AsType[*net.OpError](err)
	return ok && (op.Op == "remote error" || op.Op == "local error")
}
