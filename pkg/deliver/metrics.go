package deliver

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/sinks"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
)

// Metrics holds the metrics of sinks. Their names are part of the project's interface.
type Metrics struct {
	events      *prometheus.CounterVec
	replayed    *prometheus.CounterVec
	attempts    *prometheus.CounterVec
	duration    *prometheus.HistogramVec
	latency     *prometheus.HistogramVec
	lastSuccess *prometheus.GaugeVec

	// live and paused describe what is read from memory at each scrape.
	live   [4]*prometheus.Desc
	paused *prometheus.Desc

	mu sync.Mutex
	// sinks are those that there are: a change of configuration does not make their counters
	// begin at 0.
	sinks map[string]*sinkMetrics
}

// NewMetrics registers the metrics with reg, which may be nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	name := func(s string) string { return prometheus.BuildFQName("hmcnotifyd", "", s) }
	counter := func(s, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name(s), Help: help}, []string{"sink", "outcome"})
	}
	histogram := func(s, help string, buckets ...float64) *prometheus.HistogramVec {
		opts := prometheus.HistogramOpts{Name: name(s), Help: help, Buckets: buckets}
		return prometheus.NewHistogramVec(opts, []string{"sink"})
	}
	m := &Metrics{
		sinks:  make(map[string]*sinkMetrics),
		events: counter("sink_events_total", "What became of each stored event."),
		replayed: counter("sink_replayed_events_total",
			"What became of stored events that were sent once more by hand; sink_events_total leaves them out."),
		attempts: counter("sink_attempts_total", "Attempts to deliver an event or a batch, by outcome."),
		duration: histogram("sink_attempt_duration_seconds", "How long one attempt to deliver took.",
			.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30),
		latency: histogram("sink_delivery_latency_seconds", "Time from the receipt of a notification to its delivery.",
			.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 60, 300, 3600, 21600),
		lastSuccess: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: name("sink_last_success_timestamp_seconds"),
			Help: "When the sink last accepted an event, as Unix time; 0 before the first.",
		}, []string{"sink"}),
	}
	for i, d := range [len(m.live)]struct{ name, help string }{
		{"sink_queue_events", "Events stored and waiting for the sink."},
		{"sink_queue_bytes", "Bytes stored and waiting for the sink."},
		{"sink_queue_max_bytes", "The limit of sink_queue_bytes, beyond which the oldest events go; 0: there is none."},
		{"sink_oldest_event_age_seconds", "Age of the oldest event waiting for the sink; 0 when none waits."},
	} {
		m.live[i] = prometheus.NewDesc(name(d.name), d.help, []string{"sink"}, nil)
	}
	m.paused = prometheus.NewDesc(name("sink_paused"),
		"1 while the sink takes no event at all as it is, for this reason, and one is tried now and then; else 0.",
		[]string{"sink", "reason"}, nil)
	if reg != nil {
		reg.MustRegister(m.events, m.replayed, m.attempts, m.duration, m.latency, m.lastSuccess, m)
	}
	return m
}

// Describe implements prometheus.Collector, for what is read from memory.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range m.live {
		ch <- d
	}
	ch <- m.paused
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	m.mu.Lock()
	// The queue calls Dropped while its cursors are locked, so that they must not be asked
	// under this lock.
	all := slices.Collect(maps.Values(m.sinks))
	m.mu.Unlock()
	for _, s := range all {
		var values [len(m.live)]float64
		paused := ""
		if d := s.delivery.Load(); d != nil {
			paused = d.health.pausedFor()
			w := WaitingBehind(d.Cursor)
			values = [...]float64{
				float64(w.QueueEvents), float64(w.QueueBytes), float64(d.Cfg.Queue.MaxBytes), w.OldestEventAgeSeconds,
			}
		}
		for i, value := range values {
			ch <- prometheus.MustNewConstMetric(m.live[i], prometheus.GaugeValue, value, s.sink)
		}
		for _, reason := range sinks.PauseReasons() {
			value := 0.0
			if reason == paused {
				value = 1
			}
			ch <- prometheus.MustNewConstMetric(m.paused, prometheus.GaugeValue, value, s.sink, reason)
		}
	}
}

// sinkMetrics are the series of one sink.
type sinkMetrics struct {
	all  *Metrics
	sink string

	delivered, filtered, deadLetter, dropped *status.Tally
	success, retry, permanent                prometheus.Counter
	replayed, refusedAgain                   prometheus.Counter
	duration, latency                        prometheus.Observer
	lastSuccess                              prometheus.Gauge

	// of deliveries
	rate status.Minutes
	// delivery is whose queue is read; nil: it does not run yet.
	delivery atomic.Pointer[Delivery]
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
		delivered: event("delivered"), filtered: event("filtered"),
		deadLetter: event("dead_letter"), dropped: event("dropped"),
		success: attempt("success"), retry: attempt("retry"), permanent: attempt("permanent"),
		replayed:     m.replayed.WithLabelValues(name, "delivered"),
		refusedAgain: m.replayed.WithLabelValues(name, "refused"),
		duration:     m.duration.WithLabelValues(name), latency: m.latency.WithLabelValues(name),
		lastSuccess: m.lastSuccess.WithLabelValues(name),
	}
	m.sinks[name] = s
	return s
}

// Replayed counts what became of events that were sent once more.
func (d *Delivery) Replayed(delivered, refused int) {
	d.metrics.replayed.Add(float64(delivered))
	d.metrics.refusedAgain.Add(float64(refused))
}

// Prepare creates the series of a sink, for the queue may drop events before there is a delivery.
func (m *Metrics) Prepare(sink string) { m.forSink(sink) }

// Dropped counts events that the queue has dropped by its own limit, or because of damage. Those of
// a sink that is not configured any more have no series; the queue says in the log what goes.
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
	for _, series := range []*prometheus.MetricVec{
		m.events.MetricVec, m.replayed.MetricVec, m.attempts.MetricVec, m.duration.MetricVec, m.latency.MetricVec,
		m.lastSuccess.MetricVec,
	} {
		series.DeletePartialMatch(prometheus.Labels{"sink": s.sink})
	}
}
