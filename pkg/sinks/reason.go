package sinks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"reflect"
	"slices"
	"syscall"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
)

// Reason says in one word why a sink failed. Advice is chosen by it rather than by the text of an
// error, which may quote anything.
type Reason string

// The reasons. Every error of a sink has one of them.
const (
	// The name of the host has no address.
	ReasonDNS Reason = "dns"
	// Nothing listens on the port or socket.
	ReasonRefused Reason = "refused"
	// There is no way to the host.
	ReasonUnreachable Reason = "unreachable"
	// No answer came in time.
	ReasonTimeout Reason = "timeout"
	// A side does not accept the other's certificate, or does not speak TLS.
	ReasonTLS Reason = "tls"
	// The credentials are not accepted, or do not suffice.
	ReasonAuthorization Reason = "authorization"
	// A redirect, which is not followed.
	ReasonMoved Reason = "moved"
	// Nothing takes events at this address: URL, topic, stream, socket or folder.
	ReasonNotFound Reason = "not_found"
	// It is more than is accepted at once.
	ReasonTooLarge Reason = "too_large"
	// What was sent is not understood.
	ReasonContent Reason = "content"
	// The destination asks for fewer requests.
	ReasonOverloaded Reason = "overloaded"
	// The destination is in trouble: it said so, or ended the connection.
	ReasonUnavailable Reason = "unavailable"
	// The disk, or a quota, is full.
	ReasonNoSpace Reason = "no_space"
	// A file may not be read or written.
	ReasonPermission Reason = "permission"
	// The sink was closed.
	ReasonClosed Reason = "closed"
	ReasonOther  Reason = "other"
)

// ReasonOf says why Send, Probe, Test or Repeat failed, and with which status; 0 where there was
// none. Of an error that joins several it is the reason of the first that has one. Without an error
// it is "".
func ReasonOf(err error) (reason Reason, status int) {
	if err == nil {
		return "", 0
	}
	if e, ok := errors.AsType[*PermanentError](err); ok {
		status = e.Status
	} else if e, ok := errors.AsType[*PausedError](err); ok {
		status = e.Status
	} else if e, ok := errors.AsType[*RetryAfterError](err); ok {
		status = e.Status
	}
	if e, ok := errors.AsType[*reasonError](err); ok {
		return e.reason, status
	}
	if status != 0 {
		return statusReason(status), status
	}
	for _, known := range slices.Concat(netErrors, kafkaErrors, natsErrors) {
		if isOneOf(err, known.errs...) {
			return known.reason, 0
		}
	}
	_, dns := errors.AsType[*net.DNSError](err)
	_, refused := errors.AsType[*PermanentError](err)
	timeout, ok := errors.AsType[net.Error](err)
	switch {
	case dns:
		return ReasonDNS, 0
	case refusedCertificate(err):
		return ReasonAuthorization, 0
	case config.TLS{}.Explain(err) != "":
		return ReasonTLS, 0
	case ok && timeout.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return ReasonTimeout, 0
	case errors.Is(err, io.EOF):
		return ReasonUnavailable, 0
	case refused:
		return ReasonContent, 0
	}
	return ReasonOther, 0
}

// refusedCertificate says whether the other side does not accept the certificate that was shown to
// it, or misses one. Who that is, is said by an alert of TLS (RFC 8446 section 6.2), whose type
// crypto/tls keeps to itself.
func refusedCertificate(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	if !ok || op.Op != "remote error" {
		return false
	}
	alert := reflect.ValueOf(op.Err)
	if alert.Kind() != reflect.Uint8 {
		return false
	}
	switch alert.Uint() {
	case 42, 43, 44, 45, 46, // bad, unsupported, revoked, expired, unknown certificate
		48, 49, 116: // unknown authority, access denied, certificate required
		return true
	}
	return false
}

// statusReason says what an HTTP status means.
func statusReason(status int) Reason {
	switch status {
	case http.StatusUnauthorized, http.StatusPaymentRequired, http.StatusForbidden, http.StatusProxyAuthRequired:
		return ReasonAuthorization
	case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusGone, http.StatusMisdirectedRequest:
		return ReasonNotFound
	case http.StatusRequestTimeout:
		return ReasonTimeout
	case http.StatusRequestEntityTooLarge:
		return ReasonTooLarge
	case http.StatusTooManyRequests:
		return ReasonOverloaded
	case http.StatusInsufficientStorage:
		return ReasonNoSpace
	}
	switch status / 100 {
	case 3:
		return ReasonMoved
	case 4:
		return ReasonContent
	case 5:
		return ReasonUnavailable
	}
	return ReasonOther
}

// knownErrors are errors that have the same reason wherever they occur.
type knownErrors struct {
	reason Reason
	errs   []error
}

// netErrors are those of the network and of files.
var netErrors = []knownErrors{
	{ReasonClosed, []error{ErrClosed}},
	{ReasonRefused, []error{syscall.ECONNREFUSED}},
	{ReasonUnreachable, []error{syscall.EHOSTUNREACH, syscall.ENETUNREACH}},
	{ReasonTLS, []error{http.ErrSchemeMismatch}},
	{ReasonNoSpace, []error{syscall.ENOSPC, syscall.EDQUOT}},
	{ReasonPermission, []error{syscall.EROFS, fs.ErrPermission}},
	{ReasonNotFound, []error{fs.ErrNotExist}},
	{ReasonUnavailable, []error{syscall.ECONNRESET, syscall.EPIPE, io.ErrUnexpectedEOF}},
}

// reasonError gives an error a reason that its own type does not show.
type reasonError struct {
	reason Reason
	error
}

func (e *reasonError) Unwrap() error { return e.error }

// because is fmt.Errorf with a reason.
func because(reason Reason, format string, args ...any) error {
	return &reasonError{reason, fmt.Errorf(format, args...)}
}

// isOneOf reports whether an error is one of those, or wraps one.
func isOneOf(err error, those ...error) bool {
	return slices.ContainsFunc(those, func(e error) bool { return errors.Is(err, e) })
}
