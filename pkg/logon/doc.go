// Package logon makes session and link of one HMC: which host, which credentials, which topics, one
// attempt at a time, and what a failed one means. When the next attempt is made is up to its
// caller.
package logon
