package status

import (
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
)

// maxExemplar is well above the length of an event id; OpenMetrics has 128 characters for name and
// value, and the library panics beyond them.
const maxExemplar = 64

// Latency observes what events took, and notes as an exemplar which event that was, for who asks a
// chart. That costs more than the rest: it is done once a second, and for each event that took an
// eighth longer than those since, so not for each of a backlog. It is used by one goroutine.
type Latency struct {
	noted   time.Time
	slowest time.Duration
}

// Observe observes what the event with this id took until now.
func (l *Latency) Observe(o prometheus.Observer, took time.Duration, id string, now time.Time) {
	seconds := max(0, took.Seconds()) // the clock may have been set back
	if since := now.Sub(l.noted); took-l.slowest > l.slowest/8 || since >= time.Second || since < 0 {
		e, ok := o.(prometheus.ExemplarObserver)
		if ok && len(id) <= maxExemplar && utf8.ValidString(id) {
			l.noted, l.slowest = now, took
			e.ObserveWithExemplar(seconds, prometheus.Labels{"event_id": id})
			return
		}
	}
	o.Observe(seconds)
}
