// Package ledger is what is known of an HMC and stored together with the events: the ids of
// notifications, OS messages by partition, entries of logs, gaps, what the HMCs of a group have
// seen. It is pure: it has no goroutine, and time comes in as an argument.
package ledger
