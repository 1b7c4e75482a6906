package bridge

import (
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/estate"
)

// resourceCollector exports the statuses of CPCs and partitions. The labels cpc and name are what
// zhmc-prometheus-exporter calls cpc and partition.
type resourceCollector struct {
	bridge                        *Bridge
	status, since, known, omitted *prometheus.Desc
}

func newResourceCollector(b *Bridge) *resourceCollector {
	return &resourceCollector{
		bridge: b,
		status: prometheus.NewDesc("hmcnotifyd_resource_status",
			"1 for the current status of a CPC or partition; of a CPC the label name is the same as cpc. The series goes with the resource.",
			[]string{"hmc", "cpc", "class", "name", "status"}, nil),
		since: prometheus.NewDesc("hmcnotifyd_resource_status_since_timestamp_seconds",
			"Since when a CPC or partition is known to have its current status, as Unix time.", []string{"hmc", "cpc", "class", "name"}, nil),
		known: prometheus.NewDesc("hmcnotifyd_resources", "CPCs and partitions that the HMC lists.", []string{"hmc", "class"}, nil),
		omitted: prometheus.NewDesc("hmcnotifyd_resources_not_exported",
			"CPCs and partitions without a series of their own: beyond estate.max_resources, or with the name of another one.", []string{"hmc"}, nil),
	}
}

// Describe implements prometheus.Collector.
func (c *resourceCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.status, c.since, c.known, c.omitted} {
		ch <- d
	}
}

// Collect implements prometheus.Collector. It answers from memory.
func (c *resourceCollector) Collect(ch chan<- prometheus.Metric) {
	c.bridge.mu.RLock()
	supervisors, left := c.bridge.supervisors, c.bridge.cfg.Estate.MaxResources
	c.bridge.mu.RUnlock()
	for _, s := range supervisors {
		left -= c.collect(ch, s.it.Cfg.Name, s.it.Rec.Group().Estate, left)
	}
}

// labelSet is what tells the series of an HMC from each other: two that are the same would make the
// whole scrape fail.
type labelSet struct{ cpc, class, name string }

// collect exports what an HMC lists, no more than limit resources, and returns how many that were.
func (c *resourceCollector) collect(ch chan<- prometheus.Metric, hmc string, e *estate.Estate, limit int) (exported int) {
	seen := make(map[labelSet]struct{})
	known := map[string]int{estate.ClassCPC: 0, estate.ClassPartition: 0, estate.ClassLogicalPartition: 0}
	omitted := 0
	// whoever reads ch must not hold up what the HMC sends
	for _, r := range slices.Collect(e.All(hmc)) {
		known[r.Class]++
		labels := labelSet{label(r.CPC), r.Class, label(r.Name)}
		_, twice := seen[labels]
		if exported >= limit || twice {
			omitted++
			continue
		}
		seen[labels] = struct{}{}
		exported++
		status := r.Status
		if status == "" {
			status = "unknown"
		}
		ch <- prometheus.MustNewConstMetric(c.status, prometheus.GaugeValue, 1, hmc, labels.cpc, labels.class, labels.name, label(status))
		if !r.Since.IsZero() {
			ch <- prometheus.MustNewConstMetric(c.since, prometheus.GaugeValue, float64(r.Since.UnixNano())/float64(time.Second), hmc, labels.cpc, labels.class, labels.name)
		}
	}
	for class, n := range known {
		ch <- prometheus.MustNewConstMetric(c.known, prometheus.GaugeValue, float64(n), hmc, class)
	}
	ch <- prometheus.MustNewConstMetric(c.omitted, prometheus.GaugeValue, float64(omitted), hmc)
	return exported
}

// label makes a label value of what an HMC sent: one that is not UTF-8 would make the whole scrape
// fail.
func label(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
