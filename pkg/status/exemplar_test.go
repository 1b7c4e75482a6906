package status

import (
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// TestLatencyExemplars observes 2,000 events within two seconds, each a little slower than the one
// before, and an id that is none: all are counted, and there is an exemplar of the first of each
// second, and of the one that was much slower.
func TestLatencyExemplars(t *testing.T) {
	t.Parallel()
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "h", Help: "h", Buckets: []float64{0.01, 0.1, 1, 10}})
	registry := prometheus.NewRegistry()
	registry.MustRegister(h)
	var l Latency
	start := time.Now()
	var noted []string
	last := ""
	for i := range 2000 {
		took := 5*time.Millisecond + time.Duration(i)
		if i == 1500 {
			took = 2 * time.Second
		}
		l.Observe(h, took, fmt.Sprint("id", i), start.Add(time.Duration(i)*time.Millisecond))
		if _, now := exemplars(t, registry); now != last {
			noted, last = append(noted, fmt.Sprint(i)), now
		}
	}
	if got, want := fmt.Sprint(noted), "[0 1000 1500]"; got != want {
		t.Errorf("exemplars were noted at %s, want %s", got, want)
	}
	l.Observe(h, time.Minute, "id\xff", start.Add(time.Hour))
	l.Observe(h, -time.Second, "before", start.Add(-time.Hour))
	n, last := exemplars(t, registry)
	if n != 2002 {
		t.Errorf("%d events were observed, not 2002", n)
	}
	if last != "0.01:before 10:id1500 " {
		t.Errorf("exemplars %s", last)
	}
}

// exemplars returns how much the histogram has observed, and the ids in its buckets.
func exemplars(t *testing.T, registry prometheus.Gatherer) (observed uint64, ids string) {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	h := families[0].GetMetric()[0].GetHistogram()
	for _, b := range h.GetBucket() {
		for _, label := range b.GetExemplar().GetLabel() {
			ids += fmt.Sprint(b.GetUpperBound(), ":", label.GetValue(), " ")
		}
	}
	return h.GetSampleCount(), ids
}
