package queue

import "github.com/hmcnotifyd/hmcnotifyd/pkg/deadletters"

// What a sink refuses for good leaves the queue for the dead letters, which are kept in the same
// directory or on the same cluster.
type (
	// Letters are the dead letters, wherever they are kept.
	Letters = deadletters.Letters
	// DeadLetters are those of a directory.
	DeadLetters = deadletters.File
	// DeadLetterOptions say where they are kept.
	DeadLetterOptions = deadletters.Options
	// DeadLetter is one of them.
	DeadLetter = deadletters.Letter
	// DeadLetterFilter selects some.
	DeadLetterFilter = deadletters.Filter
)

// DefaultDeadLetterBytes is the default of DeadLetterOptions.MaxBytes.
const DefaultDeadLetterBytes = deadletters.DefaultBytes

// ErrNotFound is returned for a dead letter that does not exist.
var ErrNotFound = deadletters.ErrNotFound

// OpenDeadLetters opens the dead letters of a directory, which must be that of an open Queue.
func OpenDeadLetters(opts DeadLetterOptions) (*DeadLetters, error) { return deadletters.Open(opts) }

// DecodeDeadLetter reads what DeadLetter.Encode has returned.
func DecodeDeadLetter(id string, b []byte) (DeadLetter, error) { return deadletters.Decode(id, b) }

// Purge removes the letters that the filter selects, whatever its Limit, and returns how many.
func Purge(l Letters, filter DeadLetterFilter) (int, error) { return deadletters.Purge(l, filter) }
