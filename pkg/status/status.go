package status

import (
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// storageNearlyFull is the part of storage.max_bytes above which the oldest events are about to go,
// in percent.
const storageNearlyFull = 90

// The values of Status.Role.
const (
	RoleLeader  = "leader"
	RoleStandby = "standby"
)

// Status is a snapshot of everything a person or a probe may ask about the daemon. It holds no
// secret.
type Status struct {
	Ready   bool     `json:"ready"`
	Reasons []Reason `json:"reasons"`
	// Role is leader, or standby where another daemon leads that shares the log.
	Role string `json:"role"`
	// Leader is the machine that leads, where daemons share the log and that is known.
	Leader  string       `json:"leader,omitempty"`
	Started time.Time    `json:"started"`
	HMCs    []HMCStatus  `json:"hmcs"`
	Sinks   []SinkStatus `json:"sinks"`
	// Removed is what waits for sinks that are not configured any more.
	Removed []RemovedSink `json:"removed_sinks"`
	Storage StorageStatus `json:"storage"`
	// Held are messages of operating systems that wait for an answer, the oldest first.
	Held []HeldMessage `json:"os_messages_held"`
	// Troubles are those that are of no HMC and no sink that is configured.
	Troubles []Trouble `json:"troubles"`
}

// HeldMessage is a message of an operating system that waits for an answer.
type HeldMessage struct {
	// that told of it
	HMC   string `json:"hmc"`
	CPC   string `json:"cpc,omitempty"`
	Class string `json:"class"`
	Name  string `json:"name"`
	// Reply is what an answer begins with, as the HMC says, such as "R 17,".
	Reply  string    `json:"reply,omitempty"`
	Number int64     `json:"sequence_number"`
	Text   string    `json:"text"`
	Since  time.Time `json:"since"`
}

// Reason is one thing that keeps the daemon from being ready.
type Reason struct {
	HMC    string `json:"hmc,omitempty"`
	Sink   string `json:"sink,omitempty"`
	Reason string `json:"reason"`
}

// StorageStatus says how the queue on disk is doing.
type StorageStatus struct {
	Path  string `json:"path"`
	Bytes int64  `json:"bytes"`
	// MaxBytes is the limit beyond which the oldest events go; 0: none.
	MaxBytes int64 `json:"max_bytes"`
	// RetainedBytes are those of Bytes that no sink waits for. They go first.
	RetainedBytes int64  `json:"retained_bytes"`
	Error         string `json:"error,omitempty"`
}

// StorageTroubles says what is wrong with what the HMCs and sinks share. It is never nil.
func (s *Status) StorageTroubles() []Trouble {
	out := []Trouble{}
	if s.Storage.Error != "" {
		out = append(out, critical("The storage is not writable: "+period(s.Storage.Error),
			"Make space on the disk of "+s.Storage.Path+", or look whether it is mounted read-only. "+
				"What comes from the HMCs meanwhile waits in memory, and is missed when that is full.").
			of("HmcnotifydStorageFailing", nil))
	}
	if limit := s.Storage.MaxBytes; limit > 0 && s.Storage.Bytes-s.Storage.RetainedBytes > limit/100*storageNearlyFull {
		out = append(out, warning("The storage is nearly full; the oldest events go when it is.",
			"Look for the sink that has the most events waiting, or raise storage.max_bytes.").
			of("HmcnotifydStorageNearlyFull", nil))
	}
	for _, r := range s.Removed {
		removed := warning(number(r.QueueEvents, "event waits", "events wait")+" for the sink "+r.Name+
			", which is not configured any more.",
			"Give a sink that name to have them delivered, or give them up.")
		removed.Command = "hmcnotifyd dead-letters purge --waiting --sink=" + r.Name
		out = append(out, removed)
	}
	return out
}

// Unit is a CPC or a partition as the status page shows it.
type Unit struct {
	// of the HMCs that list it
	Group string
	Class string
	Name  string
	// of a CPC its own name
	CPC string
	// "" while it is not known
	Status string
	// of the status
	Severity string
	// What it runs, or ran last; "": that is not known.
	OSName, OSLevel, Sysplex string
	// Since is from when on the status is known to have lasted; Exact says that it began then.
	Since time.Time
	Exact bool
	// Current says that an HMC that lists it is connected; else the status is the last known
	// one.
	Current bool
}

// TimeOrNil returns t as a page shows it, by the clock as it is set now and in UTC; nil for the
// zero time.
func TimeOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = event.Wall(t, time.Now())
	return &t
}

// Later returns the later one of two times.
func Later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
