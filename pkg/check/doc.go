// Package check tries a configuration: it does once, for a person, what the daemon does all the
// time with HMCs and sinks, and says what works and what does not. No event is sent. It also says
// what a configuration makes of events that somebody has written down.
package check
