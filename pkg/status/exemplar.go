package status

import (
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
)

// maxExemplar is well above the length of an event id; OpenMetrics has 128 characters for name and
// value, and the library panics beyond them.
const maxExemplar = 64

// ObserveEvent observes what an event took, and where exemplar is set notes which event that was,
// for who asks a chart. That costs more than the rest: once a batch is enough.
func ObserveEvent(o prometheus.Observer, took time.Duration, id string, exemplar bool) {
	seconds := max(0, took.Seconds()) // the clock may have been set back
	e, ok := o.(prometheus.ExemplarObserver)
	if !ok || !exemplar || len(id) > maxExemplar || !utf8.ValidString(id) {
		o.Observe(seconds)
		return
	}
	e.ObserveWithExemplar(seconds, prometheus.Labels{"event_id": id})
}
