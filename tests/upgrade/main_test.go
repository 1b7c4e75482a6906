// Package upgrade_test holds the daemon to a promise about its data directory: one that an earlier
// build has written is opened, and what it holds goes on as if nothing had happened. testdata has
// directories of earlier builds, each with what is to be expected of it. TestMake makes them.
package upgrade_test

import (
	"fmt"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// within is how long a test waits for something that takes moments on a machine with nothing else
// to do.
const within = 5 * time.Minute

// await waits until ok returns nil.
func await(t testing.TB, what string, ok func() error) {
	t.Helper()
	err := ok()
	for end := time.Now().Add(within); err != nil; err = ok() {
		if time.Now().After(end) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// fixture is what is to be expected of a data directory.
type fixture struct {
	Version string    `json:"version"` // of the build that wrote it
	Ended   time.Time `json:"ended"`   // when the daemon was
	Killed  bool      `json:"killed"`  // with SIGKILL, else with SIGTERM
	Made    time.Time `json:"made"`    // when the HMCs were
	// History is what has become of the HMCs since they were made.
	History []step `json:"history"`
	// Stored are all events in their order, with a checksum of their JSON.
	Stored []stored `json:"stored"`
	// Waiting are the ids of those that wait for a sink, in the order in which they were stored.
	Waiting map[string][]string `json:"waiting"`
	// DeadLetters are those of all sinks, the oldest first.
	DeadLetters []deadLetter `json:"dead_letters"`
	// Alerts are those that fire, with the time since when.
	Alerts map[string]time.Time `json:"alerts"`
	// LastContact is when an HMC was heard last, by its name.
	LastContact map[string]time.Time `json:"last_contact"`
	// Gaps are those that are not reported yet, by the name of the HMC.
	Gaps map[string]gap `json:"gaps"`
	// State are the keys of the queue's state, with a checksum of each value.
	State map[string]string `json:"state"`
}

type stored struct {
	ID  string `json:"id"`
	Sum string `json:"sum"`
}

type deadLetter struct {
	ID      string `json:"id"`
	Sink    string `json:"sink"`
	EventID string `json:"event_id"`
	Status  int    `json:"status"`
}

// gap is what is looked at in the body of a bridge-gap event.
type gap struct {
	From   time.Time `json:"from"`
	To     time.Time `json:"to"`
	Causes []string  `json:"causes"`
}

// configuration is that of both daemons. The partitions of east have their messages replayed at
// each subscription, those of west are followed from the first subscription on.
func configuration(east, west *console, ops, siem, alerts string) string {
	return fmt.Sprintf(`hmcs:
- {name: east, %s, topics: [object, job, audit, security], hardware_messages: true,
   os_messages: [{cpc: ".*", partition: ".*", include_refresh_messages: true}]}
- {name: west, %s, topics: [object, job, audit],
   os_messages: [{cpc: ".*", partition: ".*", include_refresh_messages: false}]}
sinks:
- {name: journal, log: {output: events.log}, queue: {max_age: 0s}}
- {name: ops, webhook: {url: %q}, concurrency: 1, retry: {initial: 10ms, max: 100ms, max_age: 0s}, queue: {max_age: 0s}}
- {name: siem, webhook: {url: %q}, concurrency: 2, batch: {max_events: 8, max_wait: 20ms},
   match: [{type: [os-message, log-entry, status-change, bridge-gap]}],
   retry: {initial: 10ms, max: 100ms, max_age: 0s}, queue: {max_age: 0s}}
- {name: alerts, alertmanager: {urls: [%q], resend_interval: 1s, os_message_resolve: 720h},
   retry: {initial: 10ms, max: 100ms, max_age: 0s}, queue: {max_age: 0s}}
`, east.entry, west.entry, ops, siem, alerts)
}
