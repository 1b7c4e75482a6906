package config

import (
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/match"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
)

const (
	kib = 1 << 10
	mib = 1 << 20
	gib = 1 << 30
)

// defaultRESTPort is the port of the HMC's Web Services API.
const defaultRESTPort = 6794

func (c *Config) setDefaults() {
	c.Storage = Storage{MaxBytes: 10 * gib, DeadLettersMaxBytes: gib}
	c.HA = defaultHA()
	c.Dedup = Dedup{Window: 10 * time.Minute, MaxIDs: 100_000}
	c.Severity = Severity{AcceptableStatus: AcceptableHonor}
	c.Flood = Flood{Window: 5 * time.Second, Min: 10}
	c.Estate = Estate{MaxResources: 10_000}
}

// setDefaults leaves Topics and Group to the validation: their defaults depend on other keys.
func (h *HMC) setDefaults() {
	h.RESTPort = defaultRESTPort
	h.StompPort = receiver.DefaultPort
	h.RESTRequestsPerMinute = 60
	h.RESTTimeout = 30 * time.Second
	h.LogStart = LogStartNow
	h.Stomp = receiver.DefaultStompRetryTimeoutConfig()
}

func (o *OSMessages) setDefaults() {
	o.CPC = match.All()
	o.Partition = match.All()
	o.IncludeRefreshMessages = true
}

func (s *Sink) setDefaults() {
	s.Timeout = 10 * time.Second
	s.Concurrency = 4
	s.Batch = Batch{MaxEvents: 1}
	s.Retry = Retry{Initial: time.Second, Max: time.Minute, MaxAge: 24 * time.Hour}
	s.Queue = DefaultQueue()
	s.Start = StartLatest
}

// DefaultQueue returns the limits that the queue of a sink has where the configuration names none.
func DefaultQueue() Queue { return Queue{MaxBytes: gib, MaxAge: 7 * 24 * time.Hour} }

func (w *Webhook) setDefaults() {
	w.Format = FormatJSON
	w.ContentType = DefaultContentType
	w.Compression = CompressionNone
}

func (l *Log) setDefaults() {
	l.Output = OutputStderr
	l.Format = FormatJSON
	l.MaxFiles = 5
}
