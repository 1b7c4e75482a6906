package bridge

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/estate"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
)

// collector exports the dead letters, and the statuses of CPCs and partitions. The labels cpc and
// name are what zhmc-prometheus-exporter calls cpc and partition.
type collector struct {
	bridge                                             *Bridge
	letters, status, since, known, omitted, info, held *prometheus.Desc
	// hmc has besides these the labels that the configuration names.
	hmc *prometheus.Desc
}

const (
	hmcInfoName = "hmc_info"
	hmcInfoHelp = "1; the group of an HMC, and the labels that the configuration gives it."
)

func newCollector(b *Bridge) *collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("hmcnotifyd_"+name, help, labels, nil)
	}
	return &collector{
		bridge: b,
		letters: desc("sink_dead_letters",
			"Dead letters that are kept until somebody replays or purges them.", "sink"),
		status: desc("resource_status", "1 for the current status of a CPC or partition; "+
			"of a CPC the label name is the same as cpc. The series goes with the resource.",
			"hmc", "cpc", "class", "name", "status"),
		since: desc("resource_status_since_timestamp_seconds",
			"Since when a CPC or partition is known to have its current status, as Unix time.",
			"hmc", "cpc", "class", "name"),
		info: desc("resource_info", "1; what a CPC or partition runs, or ran last, where the HMC tells.",
			"hmc", "cpc", "class", "name", "os_name", "os_level", "sysplex"),
		held: desc("os_messages_held", "Messages of a partition's operating system that wait for an answer; "+
			"no series before the first one.", "hmc", "cpc", "class", "name"),
		hmc:   desc(hmcInfoName, hmcInfoHelp, "hmc", "group"),
		known: desc("resources", "CPCs and partitions that the HMC lists.", "hmc", "class"),
		omitted: desc("resources_not_exported", "CPCs and partitions without a series of their own: "+
			"beyond estate.max_resources, or with the name of another one.", "hmc"),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.letters, c.status, c.since, c.known, c.omitted, c.info, c.held, c.hmc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector. It answers from memory.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	set := func(d *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	now := c.bridge.now()
	// also of sinks that are gone
	names := c.bridge.dead.Sinks()
	for i := range now.cfg.Sinks {
		names = append(names, now.cfg.Sinks[i].Name)
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		set(c.letters, float64(c.bridge.dead.Count(name)), name)
	}
	c.hmcs(set, now.cfg.HMCs)
	left := now.cfg.Estate.MaxResources
	for _, s := range now.supervisors {
		left -= c.resources(set, s.it.Cfg.Name, s.it.Rec.Group().Estate, left)
	}
}

// hmcs exports what the configuration says of the HMCs. Prometheus takes an empty label for none.
func (c *collector) hmcs(set func(*prometheus.Desc, float64, ...string), hmcs []config.HMC) {
	var names []string
	for i := range hmcs {
		names = slices.AppendSeq(names, maps.Keys(hmcs[i].Labels))
	}
	slices.Sort(names)
	names = slices.Compact(names)
	desc := prometheus.NewDesc("hmcnotifyd_"+hmcInfoName, hmcInfoHelp, append([]string{"hmc", "group"}, names...), nil)
	for i := range hmcs {
		values := []string{hmcs[i].Name, hmcs[i].Group}
		for _, name := range names {
			values = append(values, hmcs[i].Labels[name])
		}
		set(desc, 1, values...)
	}
}

// labelSet is what tells the series of an HMC from each other: two that are the same would make the
// whole scrape fail.
type labelSet struct{ cpc, class, name string }

// resources exports what an HMC lists, no more than limit resources, and returns how many that
// were.
func (c *collector) resources(
	set func(*prometheus.Desc, float64, ...string), hmc string, e *estate.Estate, limit int,
) (exported int) {
	seen := make(map[labelSet]bool)
	known := map[string]int{estate.ClassCPC: 0, estate.ClassPartition: 0, estate.ClassLogicalPartition: 0}
	omitted := 0
	// whoever scrapes must not hold up what the HMC sends
	for _, r := range slices.Collect(e.All(hmc)) {
		known[r.Class]++
		l := labelSet{label(r.CPC), r.Class, label(r.Name)}
		if exported >= limit || seen[l] {
			omitted++
			continue
		}
		seen[l] = true
		exported++
		set(c.status, 1, hmc, l.cpc, l.class, l.name, label(cmp.Or(r.Status, "unknown")))
		if !r.Since.IsZero() {
			set(c.since, status.UnixSeconds(r.Since), hmc, l.cpc, l.class, l.name)
		}
		if s := r.System; s.OSName != "" || s.OSLevel != "" || s.Sysplex != "" {
			set(c.info, 1, hmc, l.cpc, l.class, l.name, label(s.OSName), label(s.OSLevel), label(s.Sysplex))
		}
		if r.Waiting != nil {
			set(c.held, float64(len(r.Waiting)), hmc, l.cpc, l.class, l.name)
		}
	}
	for class, n := range known {
		set(c.known, float64(n), hmc, class)
	}
	set(c.omitted, float64(omitted), hmc)
	return exported
}

// label makes a label value of what an HMC sent: one that is not UTF-8 would make the whole scrape
// fail, and one with characters that are not seen mislead who reads it.
func label(s string) string { return event.Printable(strings.ToValidUTF8(s, "\uFFFD")) }
