package sinks

import (
	"fmt"
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
