package queue

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Metrics are the figures of the storage.
type Metrics struct {
	bytes, maxBytes, retained, available prometheus.Gauge
	segments, oldest, deadBytes          prometheus.Gauge

	commits, errors, damaged, deadDropped prometheus.Counter
	commitDuration                        prometheus.Histogram
}

// NewMetrics makes the metrics and registers them with reg; with nil they count for nobody.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	f, storage := promauto.With(reg), "hmcnotifyd_storage_"
	gauge := func(name, help string) prometheus.Gauge {
		return f.NewGauge(prometheus.GaugeOpts{Name: storage + name, Help: help})
	}
	counter := func(name, help string) prometheus.Counter {
		return f.NewCounter(prometheus.CounterOpts{Name: storage + name, Help: help})
	}
	return &Metrics{
		bytes: gauge("bytes", "Bytes on disk of the stored events, their index and the cursors."),
		maxBytes: gauge("max_bytes",
			"The limit of hmcnotifyd_storage_bytes, beyond which the oldest events go; 0: there is none."),
		retained: gauge("retained_bytes",
			"Those of hmcnotifyd_storage_bytes that no sink waits for: they go first where space is needed."),
		available: gauge("available_bytes",
			"Bytes that the file system of the storage has left, looked at every few seconds; -1: it does not say."),
		segments: gauge("segments", "Files that hold the stored events."),
		oldest: gauge("oldest_event_timestamp_seconds",
			"When the oldest event was stored that there is, as Unix time; 0: there is none."),
		commits: counter("commits_total", "Transactions committed and synced to disk."),
		commitDuration: f.NewHistogram(prometheus.HistogramOpts{
			Name:    storage + "commit_duration_seconds",
			Help:    "Duration of the transactions that store events, sync included.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}),
		errors: counter("errors_total", "Writes to storage that the system refused."),
		damaged: counter("segments_damaged_total",
			"Files of the storage that were found damaged and set aside, or passed over in part."),
		deadBytes: gauge("dead_letter_bytes", "Bytes of the dead letters that are kept."),
		deadDropped: counter("dead_letters_dropped_total",
			"Dead letters that went because of the limit of their bytes."),
	}
}

// DeadLetters shows how many bytes of dead letters are kept, and that so many more have gone
// because of the limit.
func (m *Metrics) DeadLetters(bytes int64, dropped int) {
	m.deadBytes.Set(float64(bytes))
	m.deadDropped.Add(float64(dropped))
}

// Available shows how many bytes the file system has left, -1 if it does not say.
func (m *Metrics) Available(bytes int64) { m.available.Set(float64(bytes)) }

// Damaged counts a damaged file.
func (m *Metrics) Damaged() { m.damaged.Inc() }
