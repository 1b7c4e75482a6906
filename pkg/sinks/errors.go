package sinks

import (
	"errors"
	"fmt"
	"net/http"
	"time"
)

// PermanentError says that the destination refused the whole Send and will refuse it again: there
// is no point in another attempt with the same records.
type PermanentError struct {
	// Status is that of HTTP; 0 where the destination does not speak HTTP.
	Status int
	Err    error
}

// Error returns the text of Err.
func (e *PermanentError) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e *PermanentError) Unwrap() error { return e.Err }

// PausedError says that the destination takes no event at all as it is now, or as it is configured
// here: a credential, an address, a topic or a certificate is wrong. Nothing is wrong with the
// records. Another attempt is worth while when somebody has mended that.
type PausedError struct {
	// Status is that of HTTP; 0 where there was none.
	Status int
	Err    error
}

// Error returns the text of Err.
func (e *PausedError) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e *PausedError) Unwrap() error { return e.Err }

// The reasons for which a sink is paused, as sink_paused has them.
const (
	PausedUnauthorized = "unauthorized"
	PausedNotFound     = "not_found"
	PausedRedirect     = "redirect"
	PausedOther        = "other"
)

// PauseReasons are all of them.
func PauseReasons() []string {
	return []string{PausedUnauthorized, PausedNotFound, PausedRedirect, PausedOther}
}

// PauseReason sums up why the destination takes nothing; "" where err is no *PausedError.
func PauseReason(err error) string {
	paused, ok := errors.AsType[*PausedError](err)
	if !ok {
		return ""
	}
	reason, status := ReasonOf(paused)
	switch {
	case status == http.StatusMisdirectedRequest:
		return PausedOther
	case reason == ReasonAuthorization:
		return PausedUnauthorized
	case reason == ReasonNotFound:
		return PausedNotFound
	case reason == ReasonMoved:
		return PausedRedirect
	}
	return PausedOther
}

// ifPausing makes an error a *PausedError whose reason is one for which nothing is accepted,
// whatever is sent.
func ifPausing(err error) error {
	switch reason, _ := ReasonOf(err); reason {
	case ReasonAuthorization, ReasonNotFound, ReasonMoved, ReasonTLS:
		return &PausedError{Err: err}
	}
	return err
}

// RetryAfterError says that the destination answered, did not accept, and may do so later.
type RetryAfterError struct {
	// Status is that of HTTP; 0 where the destination does not speak HTTP.
	Status int
	// After is how long the destination wants to be left alone; 0 where it did not say.
	After time.Duration
	Err   error
}

// Error returns the text of Err, and After where it is set.
func (e *RetryAfterError) Error() string {
	if e.After > 0 {
		return fmt.Sprintf("%v (retry after %s)", e.Err, e.After.Round(time.Second))
	}
	return e.Err.Error()
}

// Unwrap returns Err.
func (e *RetryAfterError) Unwrap() error { return e.Err }

// PartialError says that not all members of the destination have accepted what one of them has.
type PartialError struct{ Err error }

// Error returns the text of Err.
func (e *PartialError) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e *PartialError) Unwrap() error { return e.Err }

// RejectedError says that the destination took the Send, but refused some of its events for good
// without saying which. None of them is to be sent again.
type RejectedError struct {
	// Events is how many it refused: fewer than there were.
	Events int
	Err    error
}

// Error returns the text of Err.
func (e *RejectedError) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e *RejectedError) Unwrap() error { return e.Err }

// EventsError says that the destination judged the records of a Send one by one.
type EventsError struct {
	// Events has for each record, in their order, the error that Send would return if it had
	// been alone; nil: it was accepted. At least one is not nil.
	Events []error
}

// ErrNotJudged is the error of a record, in an EventsError, that was not sent because one before it
// was not accepted, or that was refused together with others. It is sent again at once, with fewer
// others; a Send of one record never has it.
var ErrNotJudged = errors.New("not judged by itself")

// eventsError returns the error of a Send whose records ended like that: nil if all were accepted.
func eventsError(each []error) error {
	e := &EventsError{Events: each}
	switch {
	case e.Unwrap() == nil:
		return nil
	case len(each) == 1:
		return each[0]
	}
	return e
}

// Error says how many were not accepted, and why.
func (e *EventsError) Error() string {
	n := 0
	for _, err := range e.Events {
		if err != nil {
			n++
		}
	}
	return fmt.Sprintf("%d of %d events: %v", n, len(e.Events), e.Unwrap())
}

// Unwrap returns the error that says the most about the destination: that it takes nothing, then
// that it does not accept now, then what it has refused for good.
func (e *EventsError) Unwrap() error {
	var most error
	for _, err := range e.Events {
		if err != nil && (most == nil || weight(err) > weight(most)) {
			most = err
		}
	}
	return most
}

func weight(err error) int {
	_, paused := errors.AsType[*PausedError](err)
	_, refused := errors.AsType[*PermanentError](err)
	switch {
	case paused:
		return 4
	case errors.Is(err, ErrNotJudged):
		return 0
	case refused:
		return 1
	case isEnd(err):
		return 2
	}
	return 3
}
