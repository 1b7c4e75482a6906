package sinks

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"syscall"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
)

// Reason says in one word why a sink failed. Advice is chosen by it rather than by the text of an error, which may
// quote anything.
type Reason string

// The reasons. Every error of a sink has one of them.
const (
	ReasonDNS           Reason = "dns"           // the name of the host has no address
	ReasonRefused       Reason = "refused"       // nothing listens on the port or socket
	ReasonUnreachable   Reason = "unreachable"   // there is no way to the host
	ReasonTimeout       Reason = "timeout"       // no answer in time
	ReasonTLS           Reason = "tls"           // a certificate that is not accepted by either side, or one side without TLS
	ReasonAuthorization Reason = "authorization" // the credentials are not accepted, or do not suffice
	ReasonMoved         Reason = "moved"         // a redirect, which is not followed
	ReasonNotFound      Reason = "not_found"     // nothing takes events at this address: URL, topic, stream, socket or folder
	ReasonTooLarge      Reason = "too_large"     // more than is accepted at once
	ReasonContent       Reason = "content"       // what was sent is not understood
	ReasonOverloaded    Reason = "overloaded"    // fewer requests are asked for
	ReasonUnavailable   Reason = "unavailable"   // in trouble: it said so, or ended the connection
	ReasonNoSpace       Reason = "no_space"      // the disk, or a quota, is full
	ReasonPermission    Reason = "permission"    // a file may not be read or written
	ReasonClosed        Reason = "closed"        // the sink was closed
	ReasonOther         Reason = "other"
)

// ReasonOf says why Send, Probe, Test or Repeat failed, and with which status; 0 where there was none. Of an error that
// joins several it is the reason of the first that has one. Without an error it is "".
func ReasonOf(err error) (reason Reason, status int) {
	if err == nil {
		return "", 0
	}
	if e, ok := errors.AsType[*PermanentError](err); ok {
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
	for _, list := range [][]knownError{netErrors, kafkaErrors, natsErrors} {
		for _, known := range list {
			if errors.Is(err, known.err) {
				return known.reason, 0
			}
		}
	}
	_, dns := errors.AsType[*net.DNSError](err)
	_, refused := errors.AsType[*PermanentError](err)
	timeout, ok := errors.AsType[net.Error](err)
	switch {
	case dns:
		return ReasonDNS, 0
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

// knownError is an error that has the same reason wherever it occurs.
type knownError struct {
	err    error
	reason Reason
}

// netErrors are those of the network and of files.
var netErrors = []knownError{
	{ErrClosed, ReasonClosed},
	{syscall.ECONNREFUSED, ReasonRefused},
	{syscall.EHOSTUNREACH, ReasonUnreachable},
	{syscall.ENETUNREACH, ReasonUnreachable},
	{http.ErrSchemeMismatch, ReasonTLS},
	{syscall.ENOSPC, ReasonNoSpace},
	{syscall.EDQUOT, ReasonNoSpace},
	{syscall.EROFS, ReasonPermission},
	{fs.ErrPermission, ReasonPermission},
	{fs.ErrNotExist, ReasonNotFound},
	{syscall.ECONNRESET, ReasonUnavailable},
	{syscall.EPIPE, ReasonUnavailable},
	{io.ErrUnexpectedEOF, ReasonUnavailable},
}

// reasonError gives an error a reason that its own type does not tell.
type reasonError struct {
	reason Reason
	error
}

func (e *reasonError) Unwrap() error { return e.error }

// because returns err with a reason; nil stays nil.
func because(reason Reason, err error) error {
	if err == nil {
		return nil
	}
	return &reasonError{reason, err}
}
