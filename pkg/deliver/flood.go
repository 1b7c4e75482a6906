package deliver

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

const (
	// floodWindows is how many windows a group lasts at most: a flood that does not end is told in parts.
	floodWindows = 6
	// maxGathered bounds the events that wait in the groups of one sink.
	maxGathered = 20_000
	// maxCPCs bounds the CPCs whose URIs are kept.
	maxCPCs = 1000
	// maxOldStatuses bounds how many old statuses a summary names.
	maxOldStatuses = 4
)

// gatherer gathers equal status changes of one CPC for a sink with collapse, so that a flood of them becomes one event. It
// belongs to the goroutine that reads the sink's events.
//
// Where a group ends follows from when its events were received, not from when they were read, wherever that is possible.
// So what is read again after a crash makes the same groups, hence summaries with the same ids.
type gatherer struct {
	Rules floodRules
	// acked returns the sequence number up to which events have gone, delivered or not.
	acked func() uint64
	// busy says whether events wait in the lanes that are kept in order by this key. nil: order needs no keys.
	busy func(key string) bool

	groups  map[floodKey]*flood
	waiting map[resourceKey]place // of the resources that have an event in a group
	size    int                   // events in groups
	clock   map[string]time.Time  // by group of HMCs: when the event that was read last was received
	loose   map[string]bool       // order keys of what this call to add and those since settle handed on without a CPC
	cpcs    map[cpcKey]string     // URIs
}

// floodRules are what the configuration says of floods.
type floodRules struct {
	config.Flood
	groups map[string]string // of HMCs, by HMC: those of one group see the same CPCs, and any of them tells of a change
}

func FloodRulesOf(cfg *config.Config) floodRules {
	r := floodRules{Flood: cfg.Flood, groups: make(map[string]string, len(cfg.HMCs))}
	for i := range cfg.HMCs {
		r.groups[cfg.HMCs[i].Name] = cfg.HMCs[i].Group
	}
	return r
}

func (r floodRules) Equal(other floodRules) bool {
	return r.Flood == other.Flood && maps.Equal(r.groups, other.groups)
}

// groupOf returns the group of an HMC. Events of one that is not configured any more may still wait.
func (r floodRules) groupOf(hmc string) string {
	if group, ok := r.groups[hmc]; ok {
		return group
	}
	return hmc
}

type (
	cpcKey      struct{ group, cpc string } // group: of HMCs
	floodKey    struct{ group, cpc, status string }
	resourceKey struct{ group, uri string }
)

// place is where the event of a resource waits.
type place struct {
	in     *flood
	member int
}

// flood holds what may be one: status changes of one CPC's resources to the same status, one per resource.
type flood struct {
	key      floodKey
	members  []gathered
	behind   []item // property changes of the members' resources, which have to wait for them
	received struct{ first, last time.Time }
	read     struct{ first, last time.Time }
}

// gathered is a status change in a group.
type gathered struct {
	item   item
	change statusChange
}

// floodMark is what an item of a sink with collapse has besides.
type floodMark struct {
	key     string   // what its order is kept by
	members []member // of a summary: the stored events it stands for, in their order
}

type member struct{ number, seq uint64 }

// statusChange is what the gatherer reads of an event.
type statusChange struct {
	hmc, class, name, uri, cpc string
	time, origin, severity     string
	element, repeat            bool
	shared                     bool // another HMC sees the same
	reports                    []byte
	from, to                   string // of a status change: before the first report, after the last
	idle                       bool   // of a status change: nothing has changed
}

func newGatherer(rules floodRules, acked func() uint64, busy func(string) bool) *gatherer {
	return &gatherer{
		Rules: rules, acked: acked, busy: busy,
		groups: make(map[floodKey]*flood), waiting: make(map[resourceKey]place),
		clock: make(map[string]time.Time), loose: make(map[string]bool), cpcs: make(map[cpcKey]string),
	}
}

// add takes in an event that was read now, and appends to out what is to be sent now, in this order: nothing if the event waits.
// repeat says that the event tells nothing new and is to be left out.
func (g *gatherer) add(it item, now time.Time, out []item) (_ []item, repeat bool) {
	c := readStatusChange(it.record)
	if c.repeat || c.idle {
		return out, true
	}
	hmcs := g.Rules.groupOf(c.hmc)
	g.clock[hmcs] = it.record.Received
	if c.class == "cpc" && c.uri != "" && c.cpc != "" {
		if len(g.cpcs) >= maxCPCs {
			clear(g.cpcs)
		}
		g.cpcs[cpcKey{hmcs, c.cpc}] = c.uri
	}
	resource := resourceKey{hmcs, c.uri}
	at := g.waiting[resource]
	before := at.in
	key, known := g.orderKey(&it, &c, hmcs, before)
	it.flood = &floodMark{key: key}
	gk := floodKey{hmcs, c.cpc, c.to}
	collect := known && c.to != "" && c.uri != "" && !c.element && c.class != "cpc"
	if before != nil {
		switch {
		case collect && before.key == gk && !g.apart(before, it.record.Received):
			if bytes.Equal(before.members[at.member].change.reports, c.reports) {
				return out, true // HMCs send the same change twice when a support element is back
			}
			out = g.close(before, out)
		case it.record.Type == event.TypePropertyChange:
			// One may come with each status change (has-unacceptable-status). If it ended the group there would be no floods.
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
	if into != nil && g.apart(into, it.record.Received) {
		out = g.close(into, out)
		into = nil
	}
	if into == nil {
		into = &flood{key: gk}
		into.received.first, into.read.first = it.record.Received, now
		g.groups[gk] = into
	}
	into.received.last, into.read.last = it.record.Received, now
	g.waiting[resource] = place{into, len(into.members)}
	into.members = append(into.members, gathered{it, c})
	g.size++
	return g.bound(out), false
}

// orderKey returns what the order of an event is kept by, and whether that is its CPC: a summary and what comes later of the same
// partitions must not overtake each other.
func (g *gatherer) orderKey(it *item, c *statusChange, hmcs string, before *flood) (key string, ofCPC bool) {
	own := it.record.Key
	switch {
	case c.cpc != "":
		// What came before the CPC was known may still be on its way.
		if g.busy != nil && c.class != "cpc" && (g.loose[own] || g.busy(own)) {
			g.loose[own] = true
			return own, false
		}
		return cpcOrderKey(hmcs, c.cpc), true
	case before != nil:
		return cpcOrderKey(before.key.group, before.key.cpc), false
	}
	if g.busy != nil {
		g.loose[own] = true
	}
	return own, false
}

func cpcOrderKey(group, cpc string) string { return "cpc\x00" + group + "\x00" + cpc }

// apart says whether an event is too late to belong to a group.
func (g *gatherer) apart(in *flood, received time.Time) bool {
	return received.Sub(in.received.last) >= g.Rules.Window || received.Sub(in.received.first) >= floodWindows*g.Rules.Window
}

// empty says that nothing waits.
func (g *gatherer) empty() bool { return len(g.groups) == 0 }

// settle ends the groups that nothing more belongs to, after a number of events was read. There may be more to be read.
func (g *gatherer) settle(now time.Time, out []item) []item {
	clear(g.loose)
	return g.closeIf(out, func(in *flood) bool {
		return now.Sub(in.read.last) >= g.Rules.Window || g.tooOld(in, now) || g.apart(in, g.clock[in.key.group])
	})
}

// idle ends the groups that nothing more belongs to when there is nothing more to be read: what was stored long ago does not
// wait any longer for that.
func (g *gatherer) idle(now time.Time, out []item) []item {
	return g.closeIf(out, func(in *flood) bool { return !g.idleAt(in).After(now) })
}

// until returns when idle has something to do next. There is a group.
func (g *gatherer) until() time.Time {
	return g.earliest(g.idleAt)
}

func (g *gatherer) idleAt(in *flood) time.Time {
	quiet, full := in.read.last, in.read.first.Add(floodWindows*g.Rules.Window)
	if in.received.last.Before(quiet) {
		quiet = in.received.last
	}
	if quiet = quiet.Add(g.Rules.Window); quiet.Before(full) {
		return quiet
	}
	return full
}

func (g *gatherer) tooOld(in *flood, now time.Time) bool {
	return now.Sub(in.read.first) >= floodWindows*g.Rules.Window
}

// blocked ends the groups that have waited for long, and those whose events are what nothing more can be read for: head is the
// number of the first event that is not done.
func (g *gatherer) blocked(now time.Time, head uint64, out []item) []item {
	return g.closeIf(out, func(in *flood) bool { return in.members[0].item.number <= head || g.tooOld(in, now) })
}

// blockedUntil returns when blocked has something to do because of the time. There is a group.
func (g *gatherer) blockedUntil() time.Time {
	return g.earliest(func(in *flood) time.Time { return in.read.first.Add(floodWindows * g.Rules.Window) })
}

// all ends all groups.
func (g *gatherer) all(out []item) []item {
	return g.closeIf(out, func(*flood) bool { return true })
}

func (g *gatherer) earliest(of func(*flood) time.Time) (at time.Time) {
	for _, in := range g.groups {
		if t := of(in); at.IsZero() || t.Before(at) {
			at = t
		}
	}
	return at
}

// closeIf ends the groups that are due, oldest first.
func (g *gatherer) closeIf(out []item, due func(*flood) bool) []item {
	var list []*flood
	for _, in := range g.groups {
		if due(in) {
			list = append(list, in)
		}
	}
	slices.SortFunc(list, byFirst)
	for _, in := range list {
		out = g.close(in, out)
	}
	return out
}

func byFirst(x, y *flood) int { return cmp.Compare(x.members[0].item.number, y.members[0].item.number) }

// bound ends the oldest group where too much waits.
func (g *gatherer) bound(out []item) []item {
	if g.size <= maxGathered {
		return out
	}
	var oldest *flood
	for _, in := range g.groups {
		if oldest == nil || byFirst(in, oldest) < 0 {
			oldest = in
		}
	}
	return g.close(oldest, out)
}

// close ends a group and appends what becomes of it: a summary, or its events if they are no flood. What the limits of the queue
// have taken away meanwhile is not in it.
func (g *gatherer) close(in *flood, out []item) []item {
	delete(g.groups, in.key)
	for i := range in.members {
		delete(g.waiting, resourceKey{in.key.group, in.members[i].change.uri})
	}
	g.size -= len(in.members) + len(in.behind)
	acked := g.acked()
	in.members = slices.DeleteFunc(in.members, func(m gathered) bool { return m.item.seq <= acked })
	if n := len(in.members); n >= g.Rules.Min && n > 0 {
		return append(append(out, g.summarize(in)), in.behind...)
	}
	from := len(out)
	for i := range in.members {
		out = append(out, in.members[i].item)
	}
	out = append(out, in.behind...)
	slices.SortFunc(out[from:], func(x, y item) int { return cmp.Compare(x.number, y.number) })
	return out
}

// FloodSummary is the body of a status-change-summary event.
type FloodSummary struct {
	CPC       string          `json:"cpc"`
	NewStatus string          `json:"new-status"`
	Count     int             `json:"count"`      // of resources
	FirstTime string          `json:"first-time"` // of the events, as in their member time
	LastTime  string          `json:"last-time"`
	Resources []floodResource `json:"resources"`
}

// floodResource is one of the status changes that a status-change-summary event stands for.
type floodResource struct {
	Class     string `json:"class"`
	Name      string `json:"name"`
	ObjectURI string `json:"object-uri"`
	OldStatus string `json:"old-status"` // "" where the HMC told none
	NewStatus string `json:"new-status"`
	Time      string `json:"time"`
	ID        string `json:"id"` // of its event, which sinks without collapse got
}

// summarize makes one item of all members of a group.
func (g *gatherer) summarize(in *flood) item {
	first := &in.members[0]
	last := &in.members[len(in.members)-1]
	e := event.Event{
		HMC: first.change.hmc, Type: event.TypeStatusChangeSummary, Received: first.item.record.Received, Origin: first.change.origin,
		Resource: &event.Resource{Class: "cpc", Name: in.key.cpc, ObjectURI: g.cpcs[cpcKey{in.key.group, in.key.cpc}], CPC: in.key.cpc},
		Severity: event.SeverityInfo,
	}
	body := FloodSummary{
		CPC: in.key.cpc, NewStatus: in.key.status, Count: len(in.members), FirstTime: first.change.time, LastTime: first.change.time,
		Resources: make([]floodResource, 0, len(in.members)),
	}
	mark := &floodMark{key: cpcOrderKey(in.key.group, in.key.cpc), members: make([]member, 0, len(in.members))}
	ids := append(make([]string, 0, 1+len(in.members)), e.Type)
	for i := range in.members {
		m, c := &in.members[i].item, &in.members[i].change
		mark.members = append(mark.members, member{m.number, m.seq})
		ids = append(ids, m.record.ID)
		if m.record.Received.Before(e.Received) {
			e.Received = m.record.Received
		}
		if c.shared && !slices.Contains(e.SeenBy, c.hmc) {
			e.SeenBy = append(e.SeenBy, c.hmc)
		}
		if c.origin != e.Origin {
			e.Origin = event.OriginLive
		}
		if severityRank(c.severity) > severityRank(e.Severity) {
			e.Severity = c.severity
		}
		// As events have them, times sort as text.
		body.FirstTime, body.LastTime = min(body.FirstTime, c.time), max(body.LastTime, c.time)
		body.Resources = append(body.Resources, floodResource{
			Class: c.class, Name: c.name, ObjectURI: c.uri, OldStatus: c.from, NewStatus: c.to, Time: c.time, ID: m.record.ID,
		})
	}
	e.ID = event.NewID(ids...)
	e.Summary = floodText(&body)
	var err error
	if e.Time, err = time.Parse(time.RFC3339Nano, body.LastTime); err != nil {
		e.Time = last.item.record.Received // not reached: events are written with a time
	}
	if e.Body, err = json.Marshal(body); err != nil {
		e.Body = nil // not reached: there is nothing in it but strings and a number
	}
	return item{number: first.item.number, seq: last.item.seq, record: event.NewRecord(&e), flood: mark}
}

// floodText sums a flood up in one line: "CPC M90: 143 partitions active -> communications-not-active".
func floodText(s *FloodSummary) string {
	type former struct {
		status string
		n      int
	}
	var formers []former
	what := ""
	for i := range s.Resources {
		r := &s.Resources[i]
		kind := "resources"
		switch r.Class {
		case "partition", "logical-partition":
			kind = "partitions"
		case "adapter":
			kind = "adapters"
		}
		if i > 0 && what != kind {
			kind = "resources"
		}
		what = kind
		from := event.OrUnknown(r.OldStatus)
		at := slices.IndexFunc(formers, func(f former) bool { return f.status == from })
		if at < 0 {
			at = len(formers)
			formers = append(formers, former{status: from})
		}
		formers[at].n++
	}
	many := fmt.Sprintf("CPC %s: %d %s", s.CPC, s.Count, what)
	if len(formers) == 1 {
		return many + " " + formers[0].status + " -> " + s.NewStatus
	}
	slices.SortFunc(formers, func(x, y former) int { return cmp.Or(cmp.Compare(y.n, x.n), cmp.Compare(x.status, y.status)) })
	var were []string
	others := 0
	for i, f := range formers {
		switch {
		case i >= maxOldStatuses:
			others += f.n
		case i == 0:
			were = append(were, fmt.Sprintf("%d were %s", f.n, f.status))
		default:
			were = append(were, fmt.Sprintf("%d %s", f.n, f.status))
		}
	}
	if others > 0 {
		were = append(were, fmt.Sprintf("%d others", others))
	}
	return many + " -> " + s.NewStatus + " (" + strings.Join(were, ", ") + ")"
}

func severityRank(severity string) int {
	return slices.Index([]string{event.SeverityInfo, event.SeverityWarning, event.SeverityCritical}, severity)
}

// readStatusChange reads of an event what the gatherer needs.
func readStatusChange(r event.Record) statusChange {
	var c statusChange
	var body []byte
	for name, value := range event.Members(r.JSON) {
		switch string(name) {
		case "hmc":
			c.hmc = event.String(value)
		case "time":
			c.time = event.String(value)
		case "origin":
			c.origin = event.String(value)
		case "severity":
			c.severity = event.String(value)
		case "repeat":
			c.repeat = event.True(value)
		case "seen_by":
			c.shared = true
		case "body":
			body = value
		case "resource":
			for name, value := range event.Members(value) {
				switch string(name) {
				case "class":
					c.class = event.String(value)
				case "name":
					c.name = event.String(value)
				case "object_uri":
					c.uri = event.String(value)
				case "cpc":
					c.cpc = event.String(value)
				case "element_uri", "element_id":
					c.element = true
				}
			}
		}
	}
	if r.Type == event.TypeStatusChange {
		c.readReports(event.Member(body, "change-reports"))
	}
	return c
}

// readReports reads the reports of a status change: oldest first, so that the last one is how things stand now
// (facts-hmc.md 4.1).
func (c *statusChange) readReports(reports []byte) {
	c.reports = reports
	n := 0
	c.idle = true
	for report := range event.Elements(reports) {
		var from, to, additionalFrom, additionalTo string
		for name, value := range event.Members(report) {
			switch string(name) {
			case "old-status":
				from = event.String(value)
			case "new-status":
				to = event.String(value)
			case "old-additional-status":
				additionalFrom = additionalStatus(value)
			case "new-additional-status":
				additionalTo = additionalStatus(value)
			}
		}
		if n == 0 {
			c.from = from
		}
		c.to = to
		if to == "" || from != to || additionalFrom != additionalTo {
			c.idle = false
		}
		n++
	}
	c.idle = c.idle && n > 0
}

// additionalStatus is a value as it stands, for classes have it in several forms; null is the same as none.
func additionalStatus(value []byte) string {
	if string(value) == "null" {
		return ""
	}
	return string(value)
}
