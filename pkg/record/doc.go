// Package record brings what comes from an HMC into the queue: events, together with what is known
// after them. What was recorded before is recognized, what is missing is noticed. It is the only
// writer of both.
package record
