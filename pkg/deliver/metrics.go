package deliver

import (
	"maps"
	"slices"
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
	lastSuccess *prometheus.GaugeVec

	// These are read from memory at each scrape.
	queueEvents, queueBytes, queueMax, oldestAge *prometheus.Desc

	mu sync.Mutex
	// sinks are those that there are: a change of configuration does not make their counters begin at 0.
	sinks map[string]*sinkMetrics
}

// NewMetrics registers the metrics with reg, which may be nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	name := func(s string) string { return prometheus.BuildFQName("hmcnotifyd", "", s) }
	live := func(s, help string) *prometheus.Desc { return prometheus.NewDesc(name(s), help, []string{"sink"}, nil) }
	counter := func(s, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name(s), Help: help}, []string{"sink", "outcome"})
	}
	histogram := func(s, help string, buckets ...float64) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name(s), Help: help, Buckets: buckets}, []string{"sink"})
	}
	m := &Metrics{
		sinks:    make(map[string]*sinkMetrics),
		events:   counter("sink_events_total", "What became of each stored event."),
		attempts: counter("sink_attempts_total", "Attempts to deliver an event or a batch, by outcome."),
		duration: histogram("sink_attempt_duration_seconds", "How long one attempt to deliver took.",
			.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30),
		latency: histogram("sink_delivery_latency_seconds", "Time from the receipt of a notification to its delivery.",
			.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 60, 300, 3600, 21600),
		lastSuccess: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: name("sink_last_success_timestamp_seconds"),
			Help: "When the sink last accepted an event, as Unix time; 0 before the first.",
		}, []string{"sink"}),
		queueEvents: live("sink_queue_events", "Events stored and waiting for the sink."),
		queueBytes:  live("sink_queue_bytes", "Bytes stored and waiting for the sink."),
		queueMax: live("sink_queue_max_bytes",
			"The limit of sink_queue_bytes, beyond which the oldest events go; 0: there is none."),
		oldestAge: live("sink_oldest_event_age_seconds", "Age of the oldest event waiting for the sink; 0 when none waits."),
	}
	if reg != nil {
		reg.MustRegister(m.events, m.attempts, m.duration, m.latency, m.lastSuccess, m)
	}
	return m
}

// Describe implements prometheus.Collector, for what is read from memory.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.queueEvents, m.queueBytes, m.queueMax, m.oldestAge} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	m.mu.Lock()
	all := slices.Collect(maps.Values(m.sinks)) // Dropped is called while cursors are locked
	m.mu.Unlock()
	for _, s := range all {
		var events, bytes, limit int64
		var age float64
		if d := s.delivery.Load(); d != nil {
			events, bytes, age = WaitingBehind(d.Cursor)
			limit = int64(d.Cfg.Queue.MaxBytes)
		}
		gauge := func(desc *prometheus.Desc, value float64) {
			ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, s.sink)
		}
		gauge(m.queueEvents, float64(events))
		gauge(m.queueBytes, float64(bytes))
		gauge(m.queueMax, float64(limit))
		gauge(m.oldestAge, age)
	}
}

// sinkMetrics are the series of one sink.
type sinkMetrics struct {
	all  *Metrics
	sink string

	delivered, filtered, deadLetter, dropped *status.Tally
	success, retry, permanent                prometheus.Counter
	duration, latency                        prometheus.Observer
	lastSuccess                              prometheus.Gauge

	delivery atomic.Pointer[Delivery] // whose queue is read; nil: it does not run yet
}

// forSink returns the series of the sink, which it creates with value 0 if there are none yet.
func (m *Metrics) forSink(name string) *sinkMetrics {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s, ok := m.sinks[name]; ok {
		return s
	}
	event := func(outcome string) *status.Tally { return status.NewTally(m.events.WithLabelValues(name, outcome)) }
	attempt := func(outcome string) prometheus.Counter { return m.attempts.WithLabelValues(name, outcome) }
	s := &sinkMetrics{
		all: m, sink: name,
		delivered: event(outcomeDelivered), filtered: event(outcomeFiltered),
		deadLetter: event(outcomeDeadLetter), dropped: event(outcomeDropped),
		success: attempt(attemptSuccess), retry: attempt(attemptRetry), permanent: attempt(attemptPermanent),
		duration: m.duration.WithLabelValues(name), latency: m.latency.WithLabelValues(name),
		lastSuccess: m.lastSuccess.WithLabelValues(name),
	}
	m.sinks[name] = s
	return s
}

// Prepare creates the series of a sink, for the queue may drop events before there is a delivery.
func (m *Metrics) Prepare(sink string) { m.forSink(sink) }

// Dropped counts events that the queue has dropped by its own limit, or because of damage. Those of a sink that
// is not configured any more have no series; the queue says in the log what goes.
func (m *Metrics) Dropped(sink string, events int) {
	m.mu.Lock()
	s := m.sinks[sink]
	m.mu.Unlock()
	if s != nil {
		s.dropped.AddN(events)
	}
}

// delete removes every series of the sink.
func (s *sinkMetrics) delete() {
	m := s.all
	m.mu.Lock()
	delete(m.sinks, s.sink)
	m.mu.Unlock()
	labels := prometheus.Labels{"sink": s.sink}
	m.events.DeletePartialMatch(labels)
	m.attempts.DeletePartialMatch(labels)
	m.duration.DeletePartialMatch(labels)
	m.latency.DeletePartialMatch(labels)
	m.lastSuccess.DeletePartialMatch(labels)
}
