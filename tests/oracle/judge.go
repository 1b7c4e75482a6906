package oracle

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"
	"time"
)

const (
	// clockSlack is how far the time at which something was published and the
	// times of a gap may be apart: the time that publishing takes.
	clockSlack = 50 * time.Millisecond
	// inFlight is how long before a fault something may have been published
	// that the fault costs: it was on its way to the disk.
	inFlight = 2 * time.Second
	// recovery is how long after a fault the daemon may take until it sees an
	// HMC again.
	recovery = 60 * time.Second
	// shown is how many violations of one kind are told.
	shown = 5
)

// Count is what became of the notifications of one HMC at one sink. Again is
// how many were sent again after a crash; Twice is how many came from the HMC
// twice and were not recognized.
type Count struct {
	Published, Arrived, Recovered, Dead, Named, Lost, Again, Twice, Gaps int
}

// Verdict is what the oracle found.
type Verdict struct {
	Counts     map[string]map[string]*Count // by sink and HMC
	Violations []string
	notTold    map[string]int
}

func (v *Verdict) violated(kind, format string, args ...any) {
	if v.notTold == nil {
		v.notTold = make(map[string]int)
	}
	if v.notTold[kind]++; v.notTold[kind] <= shown {
		v.Violations = append(v.Violations, kind+": "+fmt.Sprintf(format, args...))
	}
}

// Judge compares what was published with what arrived at each sink:
//
//   - What an HMC holds (OS messages, log entries) has arrived, whenever it
//     was published.
//   - Anything else that has not arrived was published in a time that a gap
//     event of the HMC names, and in which a fault was at work.
//   - What arrived twice has one id and is the same.
//   - Of each resource, what was live arrived in the order in which it was
//     published, and so did what was fetched or replayed. What the sink had
//     refused may arrive when the end of the daemon has it sent again.
//   - Nothing arrived that was not published.
func Judge(published map[string][]Notification, windows []Window, sinks ...Deliveries) *Verdict {
	v := &Verdict{Counts: make(map[string]map[string]*Count)}
	for _, d := range sinks {
		counts := make(map[string]*Count)
		v.Counts[d.Sink] = counts
		for hmc := range published {
			counts[hmc] = new(Count)
		}
		first := v.identity(d, counts)
		v.order(d, windows)
		gaps := v.gaps(d, counts)
		for _, hmc := range slices.Sorted(maps.Keys(published)) {
			v.losses(d.Sink, published[hmc], first, gaps[hmc], windows, counts[hmc])
		}
		v.inventions(d, published)
	}
	for _, kind := range slices.Sorted(maps.Keys(v.notTold)) {
		if n := v.notTold[kind] - shown; n > 0 {
			v.Violations = append(v.Violations, fmt.Sprintf("%s: and %d more", kind, n))
		}
	}
	return v
}

// identity returns the first arrival of each mark, and checks that what
// arrived more than once is the same.
func (v *Verdict) identity(d Deliveries, counts map[string]*Count) map[string]*Arrival {
	byID, byMark := make(map[string]*Arrival), make(map[string]*Arrival)
	see := func(a *Arrival, dead bool) {
		c := counts[a.HMC]
		if c == nil {
			v.violated("unknown HMC", "%s: %s", d.Sink, a.raw)
			return
		}
		if before := byID[a.ID]; before != nil {
			switch {
			case !bytes.Equal(before.raw, a.raw):
				c.Twice++
			case !dead:
				c.Again++
			}
			if !sameBody(before.Body, a.Body) {
				v.violated("not the same", "%s: id %s:\n  %s\n  %s", d.Sink, a.ID, before.raw, a.raw)
			}
			return
		}
		byID[a.ID] = a
		if a.mark == "" {
			return
		}
		if before := byMark[a.mark]; before != nil {
			v.violated("twice under two ids", "%s: %s:\n  %s\n  %s", d.Sink, a.mark, before.raw, a.raw)
			return
		}
		byMark[a.mark] = a
		switch {
		case dead:
			c.Dead++
		case a.Origin == "refresh" || a.Origin == "backfill":
			c.Recovered++
			fallthrough
		default:
			c.Arrived++
		}
	}
	for i := range d.Arrivals {
		see(&d.Arrivals[i], false)
	}
	for i := range d.Dead {
		see(&d.Dead[i], true)
	}
	return byMark
}

// sameBody says whether two bodies are the same but for what an HMC changes
// when it tells something again.
func sameBody(a, b []byte) bool {
	strip := func(body []byte) []byte {
		return bytes.ReplaceAll(bytes.ReplaceAll(body, []byte(`"is-refresh":true,`), nil), []byte(`"is-refresh":false,`), nil)
	}
	return bytes.Equal(strip(a), strip(b))
}

// ClockSet is what a window is called in which the clock of an HMC was set.
const ClockSet = "clock"

// order checks the numbers of first arrivals. What is fetched of a log is in the
// order of its times, which is another one where a clock was set.
func (v *Verdict) order(d Deliveries, windows []Window) {
	set := make(map[string]bool)
	for _, w := range windows {
		if w.what == ClockSet {
			set[w.hmc] = true
		}
	}
	type place struct {
		lane, resource string
		live           bool
	}
	last := make(map[place]*Arrival)
	seen, refused := make(map[string]bool), make(map[string]bool)
	for i := range d.Dead {
		refused[d.Dead[i].ID] = true
	}
	for i := range d.Arrivals {
		a := &d.Arrivals[i]
		if a.mark == "" || seen[a.ID] {
			continue
		}
		seen[a.ID] = true
		resource, number := parseMark(a.mark)
		if a.Type == "log-entry" && a.Origin != "live" && set[a.HMC] {
			continue
		}
		p := place{a.lane(), resource, a.Origin == "live"}
		if before := last[p]; before != nil {
			if _, n := parseMark(before.mark); n > number {
				if refused[a.ID] && endsAfter(windows, before.Received) {
					continue // its turn was when it was refused
				}
				v.violated("out of order", "%s: %s (%s, received %s) arrived after %s (%s, received %s)", d.Sink,
					a.mark, a.Origin, clock(a.Received), before.mark, before.Origin, clock(before.Received))
			}
		}
		last[p] = a
	}
}

// endsAfter says whether the daemon was ended, and started again, after a time.
func endsAfter(windows []Window, at time.Time) bool {
	return slices.ContainsFunc(windows, func(w Window) bool { return w.hmc == "" && w.to.After(at) })
}

// gaps returns the gaps that a sink was told, by HMC.
func (v *Verdict) gaps(d Deliveries, counts map[string]*Count) map[string][]Gap {
	gaps := make(map[string][]Gap)
	seen := make(map[string]bool)
	for _, a := range slices.Concat(d.Arrivals, d.Dead) {
		if a.Type != "bridge-gap" || seen[a.ID] {
			continue
		}
		seen[a.ID] = true
		var g Gap
		if err := json.Unmarshal(a.Body, &g); err != nil || g.From.IsZero() || g.To.Before(g.From) || len(g.Causes) == 0 {
			v.violated("bad gap", "%s: %v: %s", d.Sink, err, a.raw)
			continue
		}
		gaps[a.HMC] = append(gaps[a.HMC], g)
		if c := counts[a.HMC]; c != nil {
			c.Gaps++
		}
	}
	return gaps
}

// losses looks for what one HMC published, in that order, and did not arrive.
func (v *Verdict) losses(sink string, published []Notification, first map[string]*Arrival, gaps []Gap, windows []Window, c *Count) {
	next := nextReceived(published, first)
	faulty := make(map[string][]Window) // by topic: a link that is made again has them one after the other
	isFaulty := func(n *Notification) bool {
		topic := n.topic()
		if _, ok := faulty[topic]; !ok {
			faulty[topic] = faultyTimes(published, topic, first, windows)
		}
		return slices.ContainsFunc(faulty[topic], func(w Window) bool { return !n.at.Before(w.from) && !n.at.After(w.to) })
	}
	for i := range published {
		n := &published[i]
		c.Published++
		if first[n.Mark()] != nil {
			continue
		}
		if n.recoverable {
			c.Lost++
			v.violated("lost", "%s: %s, published %s to %d subscriptions, is held by the HMC and did not arrive",
				sink, n.Mark(), clock(n.at), n.subscribers)
			continue
		}
		if !slices.ContainsFunc(gaps, func(g Gap) bool { return names(g, n, next[i]) }) {
			c.Lost++
			v.violated("lost and not named", "%s: %s, published %s to %d subscriptions; next arrival received %s; nearest gaps %s",
				sink, n.Mark(), clock(n.at), n.subscribers, clock(next[i]), nearest(gaps, n.at))
			continue
		}
		c.Named++
		if !isFaulty(n) {
			v.violated("lost without a fault", "%s: %s, published %s to %d subscriptions; nearest gaps %s",
				sink, n.Mark(), clock(n.at), n.subscribers, nearest(gaps, n.at))
		}
	}
}

// names says whether a gap names the time of a notification. The gap's times
// are those at which the daemon received something, so what was on its way
// for a while may have been published before: it was lost within the gap if
// what came after it was received after the gap's begin.
func names(g Gap, n *Notification, next time.Time) bool {
	if n.at.After(g.To.Add(clockSlack)) {
		return false
	}
	return !n.at.Before(g.From.Add(-clockSlack)) || next.IsZero() || !next.Before(g.From)
}

// nextReceived returns for each notification when the next one after it that
// arrived live was received; the zero time: none did.
func nextReceived(published []Notification, first map[string]*Arrival) []time.Time {
	next := make([]time.Time, len(published))
	var at time.Time
	for i, n := range slices.Backward(published) {
		next[i] = at
		if a := first[n.Mark()]; a != nil && a.Origin == "live" {
			at = a.Received
		}
	}
	return next
}

// faultyTimes returns the times in which notifications of a topic of the HMC may be lost:
// from a little before a fault until the first notification that was published
// after it arrives live. What was published as it ended may have been on its
// way before the fault.
func faultyTimes(published []Notification, topic string, first map[string]*Arrival, windows []Window) []Window {
	if len(published) == 0 {
		return nil
	}
	var live []time.Time // ascending
	for i := range published {
		if a := first[published[i].Mark()]; a != nil && a.Origin == "live" && published[i].topic() == topic {
			live = append(live, published[i].at)
		}
	}
	var faulty []Window
	for _, w := range windows {
		if w.hmc != "" && w.hmc != published[0].hmc {
			continue
		}
		end := published[len(published)-1].at
		if !w.to.IsZero() {
			end = w.to.Add(recovery)
			if i := sort.Search(len(live), func(i int) bool { return live[i].After(w.to.Add(clockSlack)) }); i < len(live) && live[i].Before(end) {
				end = live[i]
			}
		}
		faulty = append(faulty, Window{hmc: w.hmc, what: w.what, from: w.from.Add(-inFlight), to: end})
	}
	return faulty
}

// inventions looks for what arrived and was not published.
func (v *Verdict) inventions(d Deliveries, published map[string][]Notification) {
	known := make(map[string]bool)
	for _, list := range published {
		for i := range list {
			known[list[i].Mark()] = true
		}
	}
	for i := range d.Arrivals {
		if a := &d.Arrivals[i]; a.mark != "" && !known[a.mark] {
			v.violated("not published", "%s: %s", d.Sink, a.raw)
		}
	}
}

// nearest tells the gaps around a time.
func nearest(gaps []Gap, at time.Time) string {
	distance := func(g Gap) time.Duration { return max(g.From.Sub(at), at.Sub(g.To)) }
	sorted := slices.SortedFunc(slices.Values(gaps), func(a, b Gap) int { return cmp.Compare(distance(a), distance(b)) })
	var out []string
	for _, g := range sorted[:min(2, len(sorted))] {
		out = append(out, fmt.Sprintf("%s to %s (%s)", clock(g.From), clock(g.To), strings.Join(g.Causes, "; ")))
	}
	return "[" + strings.Join(out, "], [") + "]"
}

func clock(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.UTC().Format("15:04:05.000")
}
