package record

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
)

// otherType is the label value for a notification type nobody has seen yet: label values stay
// bounded.
const otherType = "other"

// Metrics holds the metrics of receivers and of the events that come from them. Their names are
// part of the project's interface.
type Metrics struct {
	reconnects      *prometheus.CounterVec
	connectFailures *prometheus.CounterVec
	panics          *prometheus.CounterVec
	notifications   *prometheus.CounterVec
	missed          *prometheus.CounterVec
	parseErrors     *prometheus.CounterVec
	events          *prometheus.CounterVec
	duplicates      *prometheus.CounterVec
	RestRequests    *prometheus.CounterVec
	Assumptions     *prometheus.CounterVec
}

// NewMetrics registers the metrics with reg, which may be nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "hmcnotifyd", Name: name, Help: help}, labels)
	}
	m := &Metrics{
		reconnects: counter("receiver_reconnects_total",
			"Links to the HMC made again after a loss.", "hmc"),
		connectFailures: counter("receiver_connect_failures_total",
			"Attempts to log on or connect that failed, by reason.", "hmc", "reason"),
		panics: counter("receiver_panics_total",
			"Panics of the goroutine that looks after an HMC; it was restarted each time.", "hmc"),
		notifications: counter("notifications_total",
			"Notifications received, by the HMC's notification-type; a type not known counts as other.", "hmc", "type"),
		missed: counter("notifications_missed_total",
			"Notifications known to be missing: sequence gap, hand-over buffer full, or storage refused.",
			"hmc", "topic_type"),
		parseErrors: counter("notification_parse_errors_total",
			"Notifications whose body was not JSON; they are delivered with body_text.", "hmc"),
		events: counter("events_total",
			"Events committed to disk, by type and origin.", "hmc", "type", "origin"),
		duplicates: counter("events_duplicate_total",
			"Events recognized as delivered before and not delivered again.", "hmc", "type"),
		RestRequests: counter("hmc_rest_requests_total",
			"Requests to the HMC's Web Services API, by operation and HTTP status.", "hmc", "operation", "code"),
		Assumptions: counter("hmc_assumption_violations_total",
			"How often the HMC did what it is assumed not to do, by open question.", "hmc", "assumption"),
	}
	if reg != nil {
		reg.MustRegister(
			m.reconnects, m.connectFailures, m.panics, m.notifications, m.missed, m.parseErrors, m.events,
			m.duplicates, m.RestRequests, m.Assumptions,
		)
	}
	return m
}

// HMCMetrics are the series of one HMC, looked up once: the lookup by label costs more than the
// count.
type HMCMetrics struct {
	all *Metrics
	hmc string

	Reconnects    prometheus.Counter
	Panics        prometheus.Counter
	ParseErrors   prometheus.Counter
	notifications map[string]*status.Tally
	missed        map[string]prometheus.Counter
	duplicates    map[string]prometheus.Counter
	events        map[typeOrigin]prometheus.Counter // of the supervisor's appender only
}

type typeOrigin struct{ typ, origin string }

// ForHMC creates every series of the HMC with value 0.
func (m *Metrics) ForHMC(name string) *HMCMetrics {
	h := &HMCMetrics{
		all: m, hmc: name, Reconnects: m.reconnects.WithLabelValues(name), Panics: m.panics.WithLabelValues(name),
		ParseErrors: m.parseErrors.WithLabelValues(name), notifications: make(map[string]*status.Tally),
		missed: make(map[string]prometheus.Counter), duplicates: make(map[string]prometheus.Counter),
		events: make(map[typeOrigin]prometheus.Counter),
	}
	for _, r := range status.FailureReasons {
		m.connectFailures.WithLabelValues(name, r)
	}
	for _, t := range event.NotificationTypes() {
		h.notifications[t] = status.NewTally(m.notifications.WithLabelValues(name, t))
		h.events[typeOrigin{t, event.OriginLive}] = m.events.WithLabelValues(name, t, event.OriginLive)
		h.duplicates[t] = m.duplicates.WithLabelValues(name, t)
	}
	for _, t := range []string{event.TypeHardwareMessage, otherType} {
		h.duplicates[t] = m.duplicates.WithLabelValues(name, t)
	}
	// What is counted the first time must be a rise that rate and increase can see.
	for _, t := range []string{event.TypeBridgeConnected, event.TypeBridgeDisconnected, event.TypeBridgeGap} {
		h.events[typeOrigin{t, event.OriginBridge}] = m.events.WithLabelValues(name, t, event.OriginBridge)
	}
	h.notifications[otherType] = status.NewTally(m.notifications.WithLabelValues(name, otherType))
	for _, t := range event.TopicTypes() {
		h.missed[t] = m.missed.WithLabelValues(name, t)
	}
	return h
}

// ConnectFailed counts an attempt to connect that has failed, by its reason.
func (h *HMCMetrics) ConnectFailed(reason string) {
	if !slices.Contains(status.FailureReasons, reason) {
		reason = receiver.ReasonOther
	}
	h.all.connectFailures.WithLabelValues(h.hmc, reason).Inc()
}

// Notified counts a notification by its type.
func (h *HMCMetrics) Notified(typ string) {
	c, ok := h.notifications[typ]
	if !ok {
		c = h.notifications[otherType]
	}
	c.AddN(1)
}

// duplicate counts an event that was recognized and is not delivered again.
func (h *HMCMetrics) duplicate(typ string) {
	c, ok := h.duplicates[typ]
	if !ok {
		c = h.duplicates[otherType]
	}
	c.Inc()
}

// Counts returns the notifications received since the start, by type.
func (h *HMCMetrics) Counts() map[string]int64 {
	out := make(map[string]int64, len(h.notifications))
	for typ, c := range h.notifications {
		out[typ] = c.N.Load()
	}
	return out
}

// Received returns how many notifications came since the start.
func (h *HMCMetrics) Received() int64 {
	var n int64
	for _, c := range h.notifications {
		n += c.N.Load()
	}
	return n
}

// MissedOn counts n notifications that were missed on topics of a type.
func (h *HMCMetrics) MissedOn(topicType string, n int) {
	c, ok := h.missed[topicType]
	if !ok {
		c = h.missed[event.TopicOther]
	}
	c.Add(float64(n))
}

// stored counts n events committed to disk. It is called from the queue's commit goroutine, one
// call at a time.
func (h *HMCMetrics) stored(k typeOrigin, n int) {
	c, ok := h.events[k]
	if !ok {
		label := k.typ
		if !knownType(label) {
			label = otherType
		}
		c = h.all.events.WithLabelValues(h.hmc, label, k.origin)
		if label != otherType {
			h.events[k] = c
		}
	}
	c.Add(float64(n))
}

// knownType says whether typ may be a label value as it is.
func knownType(typ string) bool {
	switch typ {
	case event.TypeBridgeConnected, event.TypeBridgeDisconnected, event.TypeBridgeGap,
		event.TypeBridgeHeartbeat, event.TypeBridgeTest, event.TypeHardwareMessage:
		return true
	}
	return slices.Contains(event.NotificationTypes(), typ)
}

// Delete removes every series of the HMC.
func (h *HMCMetrics) Delete() { h.all.DeleteHMC(h.hmc) }

// DeleteHMC removes every series of an HMC.
func (m *Metrics) DeleteHMC(name string) {
	labels := prometheus.Labels{"hmc": name}
	for _, v := range []interface {
		DeletePartialMatch(prometheus.Labels) int
	}{
		m.reconnects, m.connectFailures, m.panics, m.notifications, m.missed, m.parseErrors,
		m.events, m.duplicates, m.RestRequests, m.Assumptions,
	} {
		v.DeletePartialMatch(labels)
	}
}
