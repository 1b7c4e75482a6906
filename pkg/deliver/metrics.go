package deliver

import (
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
)

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

// Metrics holds the metrics of sinks. Their names are part of the project's interface.
type Metrics struct {
	events      *prometheus.CounterVec
	attempts    *prometheus.CounterVec
	duration    *prometheus.HistogramVec
	latency     *prometheus.HistogramVec
	queueEvents *prometheus.GaugeVec
	queueBytes  *prometheus.GaugeVec
	queueMax    *prometheus.GaugeVec
	oldestAge   *prometheus.GaugeVec
	lastSuccess *prometheus.GaugeVec

	refresh atomic.Pointer[func()]

	mu    sync.Mutex
	sinks map[string]*sinkMetrics // of the sinks there are; a change of configuration does not begin at 0
}

// liveDeliveryMetrics collects the gauges that are read from memory at each scrape instead of being set at each change.
type liveDeliveryMetrics struct{ m *Metrics }

func (l liveDeliveryMetrics) vectors() []*prometheus.GaugeVec {
	return []*prometheus.GaugeVec{l.m.queueEvents, l.m.queueBytes, l.m.queueMax, l.m.oldestAge}
}

// Describe implements prometheus.Collector.
func (l liveDeliveryMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, v := range l.vectors() {
		v.Describe(ch)
	}
}

// Collect implements prometheus.Collector.
func (l liveDeliveryMetrics) Collect(ch chan<- prometheus.Metric) {
	if refresh := l.m.refresh.Load(); refresh != nil {
		(*refresh)()
	}
	for _, v := range l.vectors() {
		v.Collect(ch)
	}
}

// OnScrape says what sets the gauges that are read from memory, before each scrape.
func (m *Metrics) OnScrape(refresh func()) { m.refresh.Store(&refresh) }

// NewMetrics registers the metrics with reg, which may be nil.
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
		events: counter("sink_events_total",
			"What became of each stored event.", "sink", "outcome"),
		attempts: counter("sink_attempts_total",
			"Attempts to deliver an event or a batch, by outcome.", "sink", "outcome"),
		duration: histogram("sink_attempt_duration_seconds",
			"How long one attempt to deliver took.", []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}, "sink"),
		latency: histogram("sink_delivery_latency_seconds",
			"Time from the receipt of a notification to its delivery.", []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 60, 300, 3600, 21600}, "sink"),
		queueEvents: gauge("sink_queue_events", "Events stored and waiting for the sink.", "sink"),
		queueBytes:  gauge("sink_queue_bytes", "Bytes stored and waiting for the sink.", "sink"),
		queueMax:    gauge("sink_queue_max_bytes", "The limit of sink_queue_bytes, beyond which the oldest events go; 0: there is none.", "sink"),
		oldestAge:   gauge("sink_oldest_event_age_seconds", "Age of the oldest event waiting for the sink; 0 when none waits.", "sink"),
		lastSuccess: gauge("sink_last_success_timestamp_seconds", "When the sink last accepted an event, as Unix time; 0 before the first.", "sink"),
	}
	if reg != nil {
		reg.MustRegister(m.events, m.attempts, m.duration, m.latency, m.lastSuccess, liveDeliveryMetrics{m})
	}
	return m
}

// sinkMetrics are the series of one sink.
type sinkMetrics struct {
	all  *Metrics
	sink string

	Delivered, filtered, deadLetter, dropped *status.Tally
	success, retry, permanent                prometheus.Counter
	duration, latency                        prometheus.Observer
	lastSuccess                              prometheus.Gauge
	QueueEvents, QueueBytes, QueueMax        prometheus.Gauge
	OldestAge                                prometheus.Gauge
}

// ForSink returns the series of the sink, which it creates with value 0 if there are none yet.
func (m *Metrics) ForSink(name string) *sinkMetrics {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s, ok := m.sinks[name]; ok {
		return s
	}
	s := &sinkMetrics{
		all: m, sink: name,
		Delivered:   status.NewTally(m.events.WithLabelValues(name, outcomeDelivered)),
		filtered:    status.NewTally(m.events.WithLabelValues(name, outcomeFiltered)),
		deadLetter:  status.NewTally(m.events.WithLabelValues(name, outcomeDeadLetter)),
		dropped:     status.NewTally(m.events.WithLabelValues(name, outcomeDropped)),
		success:     m.attempts.WithLabelValues(name, attemptSuccess),
		retry:       m.attempts.WithLabelValues(name, attemptRetry),
		permanent:   m.attempts.WithLabelValues(name, attemptPermanent),
		duration:    m.duration.WithLabelValues(name),
		latency:     m.latency.WithLabelValues(name),
		lastSuccess: m.lastSuccess.WithLabelValues(name),
		QueueEvents: m.queueEvents.WithLabelValues(name),
		QueueBytes:  m.queueBytes.WithLabelValues(name),
		QueueMax:    m.queueMax.WithLabelValues(name),
		OldestAge:   m.oldestAge.WithLabelValues(name),
	}
	m.sinks[name] = s
	return s
}

// Dropped counts events that the queue has dropped by its own limit, or because of damage. Those of a sink that is not
// configured any more have no series; the queue says in the log what goes.
func (m *Metrics) Dropped(sink string, events int) {
	m.mu.Lock()
	s := m.sinks[sink]
	m.mu.Unlock()
	if s != nil {
		s.dropped.AddN(events)
	}
}

// Delete removes every series of the sink.
func (s *sinkMetrics) Delete() {
	s.all.mu.Lock()
	delete(s.all.sinks, s.sink)
	s.all.mu.Unlock()
	labels := prometheus.Labels{"sink": s.sink}
	for _, v := range []interface {
		DeletePartialMatch(prometheus.Labels) int
	}{
		s.all.events, s.all.attempts, s.all.duration, s.all.latency, s.all.queueEvents,
		s.all.queueBytes, s.all.queueMax, s.all.oldestAge, s.all.lastSuccess,
	} {
		v.DeletePartialMatch(labels)
	}
}
