package deliver

import (
	"bytes"
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

const (
	// floodWindows is how many windows a group lasts at most: of a flood that does not end
	// there are several summaries.
	floodWindows = 6
	// maxGathered bounds the events that wait in the groups of one sink.
	maxGathered = 20_000
	// maxCPCs bounds the CPCs whose URIs are kept.
	maxCPCs = 1000
)

// gatherer is the stage of a sink with collapse: it gathers equal status changes of one CPC, so
// that a flood of them becomes one event.
//
// Where a group ends follows from when its events were received, not from when they were read,
// wherever that is possible. So what is read again after a crash makes the same groups, hence
// summaries with the same ids.
type gatherer struct {
	rules floodRules
	// acked returns the sequence number up to which events have gone, delivered or not.
	acked func() uint64
	// busy says whether the lanes have events with this key. nil: the order needs no keys.
	busy func(key string) bool

	groups map[floodKey]*flood
	// of the resources that have an event in a group
	waiting map[resourceKey]place
	// events in groups
	size int
	// clock is when the event that was read last was received, by group of HMCs.
	clock map[string]time.Time
	// loose are the keys of events without a CPC that were handed on since the last release:
	// the lanes do not have them yet.
	loose map[string]bool
	// URIs
	cpcs map[cpcKey]string
}

// floodRules are what the configuration says of floods.
type floodRules struct {
	config.Flood
	// groups are the groups of HMCs, by HMC: those of one group see the same CPCs, and a change
	// may come from any of them.
	groups map[string]string
}

func floodRulesOf(cfg *config.Config) floodRules {
	r := floodRules{Flood: cfg.Flood, groups: make(map[string]string, len(cfg.HMCs))}
	for i := range cfg.HMCs {
		r.groups[cfg.HMCs[i].Name] = cfg.HMCs[i].Group
	}
	return r
}

func (r floodRules) equal(other floodRules) bool {
	return r.Flood == other.Flood && maps.Equal(r.groups, other.groups)
}

// groupOf returns the group of an HMC. Events of one that is not configured any more may still
// wait.
func (r floodRules) groupOf(hmc string) string {
	if group, ok := r.groups[hmc]; ok {
		return group
	}
	return hmc
}

// cpcKey names a CPC, floodKey a status of its resources, resourceKey one of them. group is that of
// the HMCs.
type (
	cpcKey   struct{ group, cpc string }
	floodKey struct {
		cpcKey
		status string
	}
	resourceKey struct{ group, uri string }
)

// place is where the event of a resource waits.
type place struct {
	in     *flood
	member int
}

// flood holds what may be one: status changes of one CPC's resources to the same status, one per
// resource.
type flood struct {
	key      floodKey
	members  []gathered
	behind   []item // property changes of the members' resources, which have to wait for them
	received struct{ first, last time.Time }
	read     struct{ first, last time.Time }
	stored   time.Time // the last one, which does not follow the clock
}

// gathered is a status change in a group.
type gathered struct {
	item   item
	change statusChange
}

func newGatherer(rules floodRules, acked func() uint64, busy func(string) bool) *gatherer {
	return &gatherer{
		rules: rules, acked: acked, busy: busy,
		groups: make(map[floodKey]*flood), waiting: make(map[resourceKey]place),
		clock: make(map[string]time.Time), loose: make(map[string]bool), cpcs: make(map[cpcKey]string),
	}
}

func (g *gatherer) add(it item, now time.Time, out []item) (_ []item, leftOut bool) {
	c := readStatusChange(it.record)
	if c.Repeat || c.idle {
		return out, true
	}
	received, hmcs, res := it.record.Received, g.rules.groupOf(c.HMC), &c.Resource
	g.clock[hmcs] = received
	if res.Class == "cpc" && res.ObjectURI != "" && res.CPC != "" {
		if len(g.cpcs) >= maxCPCs {
			clear(g.cpcs)
		}
		g.cpcs[cpcKey{hmcs, res.CPC}] = res.ObjectURI
	}
	resource := resourceKey{hmcs, res.ObjectURI}
	at := g.waiting[resource]
	before := at.in
	key, ofCPC := g.orderKey(it.key, res, hmcs, before)
	it.key = key
	gk := floodKey{cpcKey{hmcs, res.CPC}, c.to}
	collect := ofCPC && c.to != "" && res.ObjectURI != "" && res.Class != "cpc" &&
		res.ElementURI == "" && res.ElementID == ""
	if before != nil {
		switch {
		case collect && before.key == gk && !g.apart(before, received):
			if bytes.Equal(before.members[at.member].change.reports(), c.reports()) {
				return out, true // HMCs send the same change twice when a support element is back
			}
			out = g.close(before, out)
		case it.record.Type == event.TypePropertyChange:
			// One may come with each status change (has-unacceptable-status). If it
			// ended the group there would be no floods.
			it.leave()
			before.behind = append(before.behind, it)
			g.size++
			return g.bound(out), false
		default:
			out = g.close(before, out)
		}
	}
	if !collect {
		return append(out, it), false
	}
	into := g.groups[gk]
	if into != nil && g.apart(into, received) {
		out = g.close(into, out)
		into = nil
	}
	if into == nil {
		into = &flood{key: gk}
		into.received.first, into.read.first = received, now
		g.groups[gk] = into
	}
	into.received.last, into.read.last, into.stored = received, now, it.record.Stored
	g.waiting[resource] = place{into, len(into.members)}
	it.leave()
	into.members = append(into.members, gathered{it, c})
	g.size++
	return g.bound(out), false
}

// orderKey returns what the order of an event is kept by, and whether that is its CPC: a summary
// and what comes later of the same partitions must not overtake each other.
func (g *gatherer) orderKey(own string, r *event.Resource, hmcs string, before *flood) (key string, ofCPC bool) {
	switch {
	case r.CPC != "":
		// What came before the CPC was known may still be on its way.
		if g.busy == nil || r.Class == "cpc" || !g.loose[own] && !g.busy(own) {
			return cpcKey{hmcs, r.CPC}.order(), true
		}
	case before != nil:
		return before.key.order(), false
	}
	g.loose[own] = true
	return own, false
}

// order is what the order of the CPC's events is kept by.
func (k cpcKey) order() string { return "cpc\x00" + k.group + "\x00" + k.cpc }

// apart says whether an event is too late to belong to a group.
func (g *gatherer) apart(in *flood, received time.Time) bool {
	return received.Sub(in.received.last) >= g.rules.Window ||
		received.Sub(in.received.first) >= floodWindows*g.rules.Window
}

// dueAt returns when a group ends, if no event comes until then: the zero time for at once.
func (g *gatherer) dueAt(in *flood, w wait) (at time.Time) {
	quiet, full := in.read.last, in.read.first.Add(floodWindows*g.rules.Window)
	switch w.reason {
	case forEver:
		return at
	case forRoom:
		if in.members[0].item.seq <= w.first {
			return at
		}
		return full
	case forEvents:
		if in.stored.Before(quiet) {
			quiet = in.stored // what was stored long ago does not wait any longer
		}
	case notAtAll:
		if g.apart(in, g.clock[in.key.group]) {
			return at
		}
	}
	if quiet = quiet.Add(g.rules.Window); quiet.Before(full) {
		return quiet
	}
	return full
}

func (g *gatherer) due(w wait) (at time.Time, ok bool) {
	for _, in := range g.groups {
		if t := g.dueAt(in, w); !ok || t.Before(at) {
			at, ok = t, true
		}
	}
	return at, ok
}

// release ends the groups that are due, oldest first.
func (g *gatherer) release(now time.Time, w wait, out []item) []item {
	clear(g.loose)
	var ended []*flood
	for _, in := range g.groups {
		if !g.dueAt(in, w).After(now) {
			ended = append(ended, in)
		}
	}
	slices.SortFunc(ended, byFirst)
	for _, in := range ended {
		out = g.close(in, out)
	}
	return out
}

func byFirst(x, y *flood) int { return cmp.Compare(x.members[0].item.seq, y.members[0].item.seq) }

// bound ends the oldest group where too much waits.
func (g *gatherer) bound(out []item) []item {
	if g.size <= maxGathered {
		return out
	}
	return g.close(slices.MinFunc(slices.Collect(maps.Values(g.groups)), byFirst), out)
}

// close ends a group and appends what becomes of it: a summary, or its events if they are no flood.
// What the limits of the queue have taken away meanwhile is not in it.
func (g *gatherer) close(in *flood, out []item) []item {
	delete(g.groups, in.key)
	for i := range in.members {
		delete(g.waiting, resourceKey{in.key.group, in.members[i].change.Resource.ObjectURI})
	}
	g.size -= len(in.members) + len(in.behind)
	acked := g.acked()
	in.members = slices.DeleteFunc(in.members, func(m gathered) bool { return m.item.seq <= acked })
	if n := len(in.members); n >= g.rules.Min && n > 0 {
		return append(append(out, in.summary(g.cpcs[in.key.cpcKey])), in.behind...)
	}
	from := len(out)
	for i := range in.members {
		out = append(out, in.members[i].item)
	}
	out = append(out, in.behind...)
	slices.SortFunc(out[from:], func(x, y item) int { return cmp.Compare(x.seq, y.seq) })
	return out
}
