// Package ledger is what is known of an HMC and stored together with its events: what was recorded
// before, and what is missing. Each kind of knowledge is a book. A book is read from the state of
// the queue by Load, at the start and again after a commit that failed: then it forgets whatever is
// not stored. Changes returns what is to be stored with the next commit. A book is pure: it starts
// no goroutine, has no lock and no clock of its own, and is not safe for concurrent use.
package ledger
