// Package ledger is what is known of an HMC and stored together with the events: the ids of
// notifications, entries of logs, hardware messages, gaps, what the HMCs of a group have seen. OS
// messages have a room of their own, console. It is pure: it has no goroutine, and time comes in as
// an argument.
package ledger
