// Package support makes the bundle that goes with a report of a bug: what a daemon shows of itself,
// its configuration and its log, without secrets and with names replaced.
package support
