package bridge

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
)

// The values of the label state of receiver_state.
const (
	StateDisconnected = "disconnected"
	StateLoggingOn    = "logging_on"
	StateConnecting   = "connecting"
	StateConnected    = "connected"
	StateAuthFailed   = "auth_failed"
)

var states = []string{StateDisconnected, StateLoggingOn, StateConnecting, StateConnected, StateAuthFailed}

// reasonLogon is the connect failure that only the REST side can have; the others are the receiver's.
const reasonLogon = "logon"

var failureReasons = []string{
	receiver.ReasonDNS, receiver.ReasonRefused, receiver.ReasonTimeout, receiver.ReasonTLS,
	reasonLogon, receiver.ReasonAuthorization, receiver.ReasonBroker, receiver.ReasonOther,
}

// The values of the label outcome.
const (
	outcomeDelivered  = "delivered"
	outcomeFiltered   = "filtered"
	outcomeDeadLetter = "dead_letter"
	outcomeDropped    = "dropped"

	attemptSuccess   = "success"
	attemptRetry     = "retry"
	attemptPermanent = "permanent"
)

// otherType is the label value for a notification type nobody has seen yet: label values stay bounded.
const otherType = "other"

// Metrics holds the metrics of receivers, events and sinks. Their names are part of the project's interface.
type Metrics struct {
	connected        *prometheus.GaugeVec
	reconnects       *prometheus.CounterVec
	connectFailures  *prometheus.CounterVec
	state            *prometheus.GaugeVec
	panics           *prometheus.CounterVec
	lastFrame        *prometheus.GaugeVec
	lastNotification *prometheus.GaugeVec
	notifications    *prometheus.CounterVec
	missed           *prometheus.CounterVec
	parseErrors      *prometheus.CounterVec
	events           *prometheus.CounterVec
	duplicates       *prometheus.CounterVec
	certificate      *prometheus.GaugeVec
	restRequests     *prometheus.CounterVec
	sinkEvents       *prometheus.CounterVec
	sinkAttempts     *prometheus.CounterVec
	sinkDuration     *prometheus.HistogramVec
	sinkLatency      *prometheus.HistogramVec
	sinkQueueEvents  *prometheus.GaugeVec
	sinkQueueBytes   *prometheus.GaugeVec
	sinkQueueMax     *prometheus.GaugeVec
	sinkOldestAge    *prometheus.GaugeVec
	sinkLastSuccess  *prometheus.GaugeVec

	refresh atomic.Pointer[func()]

	mu    sync.Mutex
	sinks map[string]*sinkMetrics // of the sinks there are; a change of configuration does not begin at 0
}

// live collects the gauges that are read from memory at each scrape instead of being set at each frame or event.
type live struct{ m *Metrics }

func (l live) vectors() []*prometheus.GaugeVec {
	return []*prometheus.GaugeVec{
		l.m.lastFrame, l.m.lastNotification, l.m.sinkQueueEvents, l.m.sinkQueueBytes, l.m.sinkQueueMax, l.m.sinkOldestAge,
	}
}

// Describe implements prometheus.Collector.
func (l live) Describe(ch chan<- *prometheus.Desc) {
	for _, v := range l.vectors() {
		v.Describe(ch)
	}
}

// Collect implements prometheus.Collector.
func (l live) Collect(ch chan<- prometheus.Metric) {
	if refresh := l.m.refresh.Load(); refresh != nil {
		(*refresh)()
	}
	for _, v := range l.vectors() {
		v.Collect(ch)
	}
}

// NewMetrics registers the bridge's metrics with reg, which may be nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "hmcnotifyd", Name: name, Help: help}, labels)
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "hmcnotifyd", Name: name, Help: help}, labels)
	}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(
			prometheus.HistogramOpts{Namespace: "hmcnotifyd", Name: name, Help: help, Buckets: buckets}, labels)
	}
	m := &Metrics{
		sinks: make(map[string]*sinkMetrics),
		connected: gauge("receiver_connected",
			"Whether the link to the HMC is up and every wanted topic is subscribed.", "hmc"),
		reconnects: counter("receiver_reconnects_total",
			"Links to the HMC made again after a loss.", "hmc"),
		connectFailures: counter("receiver_connect_failures_total",
			"Attempts to log on or connect that failed, by reason.", "hmc", "reason"),
		state: gauge("receiver_state",
			"The state of the receiver: 1 for the current one, 0 for the others.", "hmc", "state"),
		panics: counter("receiver_panics_total",
			"Panics of the goroutine that looks after an HMC; it was restarted each time.", "hmc"),
		lastFrame: gauge("receiver_last_frame_timestamp_seconds",
			"When the last bytes (a frame or a heart-beat) came from the HMC, as Unix time; 0 before the first.", "hmc"),
		lastNotification: gauge("receiver_last_notification_timestamp_seconds",
			"When the last notification came from the HMC, as Unix time; 0 before the first.", "hmc"),
		notifications: counter("notifications_total",
			"Notifications received, by the HMC's notification-type; a type not known counts as other.", "hmc", "type"),
		missed: counter("notifications_missed_total",
			"Notifications known to be missing: sequence gap, hand-over buffer full, or storage refused.", "hmc", "topic_type"),
		parseErrors: counter("notification_parse_errors_total",
			"Notifications whose body was not JSON; they are delivered with body_text.", "hmc"),
		events: counter("events_total",
			"Events committed to disk, by type and origin.", "hmc", "type", "origin"),
		duplicates: counter("events_duplicate_total",
			"Events recognized as delivered before and not delivered again.", "hmc", "type"),
		certificate: gauge("hmc_certificate_not_after_timestamp_seconds",
			"When the HMC's server certificate expires, as Unix time; 0 before it was seen.", "hmc"),
		restRequests: counter("hmc_rest_requests_total",
			"Requests to the HMC's Web Services API, by operation and HTTP status.", "hmc", "operation", "code"),
		sinkEvents: counter("sink_events_total",
			"What became of each stored event.", "sink", "outcome"),
		sinkAttempts: counter("sink_attempts_total",
			"Attempts to deliver an event or a batch, by outcome.", "sink", "outcome"),
		sinkDuration: histogram("sink_attempt_duration_seconds",
			"How long one attempt to deliver took.", []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}, "sink"),
		sinkLatency: histogram("sink_delivery_latency_seconds",
			"Time from the receipt of a notification to its delivery.", []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 60, 300, 3600, 21600}, "sink"),
		sinkQueueEvents: gauge("sink_queue_events", "Events stored and waiting for the sink.", "sink"),
		sinkQueueBytes:  gauge("sink_queue_bytes", "Bytes stored and waiting for the sink.", "sink"),
		sinkQueueMax:    gauge("sink_queue_max_bytes", "The limit of sink_queue_bytes, beyond which the oldest events go; 0: there is none.", "sink"),
		sinkOldestAge:   gauge("sink_oldest_event_age_seconds", "Age of the oldest event waiting for the sink; 0 when none waits.", "sink"),
		sinkLastSuccess: gauge("sink_last_success_timestamp_seconds", "When the sink last accepted an event, as Unix time; 0 before the first.", "sink"),
	}
	if reg != nil {
		reg.MustRegister(m.connected, m.reconnects, m.connectFailures, m.state, m.panics,
			m.notifications, m.missed, m.parseErrors, m.events, m.duplicates, m.certificate, m.restRequests,
			m.sinkEvents, m.sinkAttempts, m.sinkDuration, m.sinkLatency, m.sinkLastSuccess, live{m})
	}
	return m
}

// hmcMetrics are the series of one HMC, looked up once: the lookup by label costs more than the count.
type hmcMetrics struct {
	all *Metrics
	hmc string

	connected        prometheus.Gauge
	reconnects       prometheus.Counter
	panics           prometheus.Counter
	parseErrors      prometheus.Counter
	lastFrame        prometheus.Gauge
	lastNotification prometheus.Gauge
	certificate      prometheus.Gauge
	notifications    map[string]*tally
	missed           map[string]prometheus.Counter
	duplicates       map[string]prometheus.Counter
	events           map[typeOrigin]prometheus.Counter // of the supervisor's appender only
}

// tally is a counter that can be read back for the status page.
type tally struct {
	prometheus.Counter
	n atomic.Int64
}

func newTally(c prometheus.Counter) *tally { return &tally{Counter: c} }

func (t *tally) add(n int) {
	t.Add(float64(n))
	t.n.Add(int64(n))
}

type typeOrigin struct{ typ, origin string }

// forHMC creates every series of the HMC with value 0.
func (m *Metrics) forHMC(name string) *hmcMetrics {
	h := &hmcMetrics{
		all: m, hmc: name,
		connected:        m.connected.WithLabelValues(name),
		reconnects:       m.reconnects.WithLabelValues(name),
		panics:           m.panics.WithLabelValues(name),
		parseErrors:      m.parseErrors.WithLabelValues(name),
		lastFrame:        m.lastFrame.WithLabelValues(name),
		lastNotification: m.lastNotification.WithLabelValues(name),
		certificate:      m.certificate.WithLabelValues(name),
		notifications:    make(map[string]*tally),
		missed:           make(map[string]prometheus.Counter),
		duplicates:       make(map[string]prometheus.Counter),
		events:           make(map[typeOrigin]prometheus.Counter),
	}
	for _, s := range states {
		m.state.WithLabelValues(name, s)
	}
	for _, r := range failureReasons {
		m.connectFailures.WithLabelValues(name, r)
	}
	for _, t := range event.NotificationTypes() {
		h.notifications[t] = newTally(m.notifications.WithLabelValues(name, t))
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
	h.notifications[otherType] = newTally(m.notifications.WithLabelValues(name, otherType))
	for _, t := range event.TopicTypes() {
		h.missed[t] = m.missed.WithLabelValues(name, t)
	}
	return h
}

func (h *hmcMetrics) setState(state string) {
	for _, s := range states {
		v := 0.0
		if s == state {
			v = 1
		}
		h.all.state.WithLabelValues(h.hmc, s).Set(v)
	}
}

func (h *hmcMetrics) connectFailed(reason string) {
	if !slices.Contains(failureReasons, reason) {
		reason = receiver.ReasonOther
	}
	h.all.connectFailures.WithLabelValues(h.hmc, reason).Inc()
}

func (h *hmcMetrics) notified(typ string) {
	c, ok := h.notifications[typ]
	if !ok {
		c = h.notifications[otherType]
	}
	c.add(1)
}

// duplicate counts an event that was recognized and is not delivered again.
func (h *hmcMetrics) duplicate(typ string) {
	c, ok := h.duplicates[typ]
	if !ok {
		c = h.duplicates[otherType]
	}
	c.Inc()
}

// counts returns the notifications received since the start, by type.
func (h *hmcMetrics) counts() map[string]int64 {
	out := make(map[string]int64, len(h.notifications))
	for typ, c := range h.notifications {
		out[typ] = c.n.Load()
	}
	return out
}

// received returns how many notifications came since the start.
func (h *hmcMetrics) received() int64 {
	var n int64
	for _, c := range h.notifications {
		n += c.n.Load()
	}
	return n
}

func (h *hmcMetrics) missedOn(topicType string, n int) {
	c, ok := h.missed[topicType]
	if !ok {
		c = h.missed[event.TopicOther]
	}
	c.Add(float64(n))
}

// stored counts n events committed to disk. It is called from the queue's commit goroutine, one call at a time.
func (h *hmcMetrics) stored(k typeOrigin, n int) {
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

// delete removes every series of the HMC.
func (h *hmcMetrics) delete() { h.all.deleteHMC(h.hmc) }

// deleteHMC removes every series of an HMC.
func (m *Metrics) deleteHMC(name string) {
	labels := prometheus.Labels{"hmc": name}
	for _, v := range []interface {
		DeletePartialMatch(prometheus.Labels) int
	}{
		m.connected, m.reconnects, m.connectFailures, m.state, m.panics, m.lastFrame,
		m.lastNotification, m.notifications, m.missed, m.parseErrors, m.events,
		m.duplicates, m.certificate, m.restRequests,
	} {
		v.DeletePartialMatch(labels)
	}
}

// sinkMetrics are the series of one sink.
type sinkMetrics struct {
	all  *Metrics
	sink string

	delivered, filtered, deadLetter, dropped *tally
	success, retry, permanent                prometheus.Counter
	duration, latency                        prometheus.Observer
	lastSuccess                              prometheus.Gauge
	queueEvents, queueBytes, queueMax        prometheus.Gauge
	oldestAge                                prometheus.Gauge
}

// forSink returns the series of the sink, which it creates with value 0 if there are none yet.
func (m *Metrics) forSink(name string) *sinkMetrics {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s, ok := m.sinks[name]; ok {
		return s
	}
	s := &sinkMetrics{
		all: m, sink: name,
		delivered:   newTally(m.sinkEvents.WithLabelValues(name, outcomeDelivered)),
		filtered:    newTally(m.sinkEvents.WithLabelValues(name, outcomeFiltered)),
		deadLetter:  newTally(m.sinkEvents.WithLabelValues(name, outcomeDeadLetter)),
		dropped:     newTally(m.sinkEvents.WithLabelValues(name, outcomeDropped)),
		success:     m.sinkAttempts.WithLabelValues(name, attemptSuccess),
		retry:       m.sinkAttempts.WithLabelValues(name, attemptRetry),
		permanent:   m.sinkAttempts.WithLabelValues(name, attemptPermanent),
		duration:    m.sinkDuration.WithLabelValues(name),
		latency:     m.sinkLatency.WithLabelValues(name),
		lastSuccess: m.sinkLastSuccess.WithLabelValues(name),
		queueEvents: m.sinkQueueEvents.WithLabelValues(name),
		queueBytes:  m.sinkQueueBytes.WithLabelValues(name),
		queueMax:    m.sinkQueueMax.WithLabelValues(name),
		oldestAge:   m.sinkOldestAge.WithLabelValues(name),
	}
	m.sinks[name] = s
	return s
}

// dropped counts events that the queue has dropped by its own limit, or because of damage. Those of a sink that is not
// configured any more have no series; the queue says in the log what goes.
func (m *Metrics) dropped(sink string, events int) {
	m.mu.Lock()
	s := m.sinks[sink]
	m.mu.Unlock()
	if s != nil {
		s.dropped.add(events)
	}
}

// delete removes every series of the sink.
func (s *sinkMetrics) delete() {
	s.all.mu.Lock()
	delete(s.all.sinks, s.sink)
	s.all.mu.Unlock()
	labels := prometheus.Labels{"sink": s.sink}
	for _, v := range []interface {
		DeletePartialMatch(prometheus.Labels) int
	}{
		s.all.sinkEvents, s.all.sinkAttempts, s.all.sinkDuration, s.all.sinkLatency, s.all.sinkQueueEvents,
		s.all.sinkQueueBytes, s.all.sinkQueueMax, s.all.sinkOldestAge, s.all.sinkLastSuccess,
	} {
		v.DeletePartialMatch(labels)
	}
}

// unixSeconds is t as the metrics show it: 0 for the zero time.
func unixSeconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}
