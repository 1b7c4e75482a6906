package translate

import (
	"cmp"
	"strconv"
	"strings"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/estate"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// Converter turns the notifications of one HMC into events. It belongs to one goroutine at a time,
// and reuses the memory of the event it makes: that is encoded before the next one is made.
type Converter struct {
	hmc        string
	topics     *TopicTable
	estate     *estate.Estate
	operations *Operations
	Severities *Severities

	event           event.Event
	resource        event.Resource
	session, global int64
	unacceptable    bool
	part            Part
	message         event.OSMessage
	entry           LogEntry
	elements        map[string]string
}

// NewConverter returns a converter for an HMC that keeps an estate true to what the notifications
// tell, and notes operations, which are those of the HMC's group; nil: it does not.
func NewConverter(hmc string, topics *TopicTable, e *estate.Estate, operations *Operations) Converter {
	return Converter{hmc: hmc, topics: topics, estate: e, operations: operations}
}

// Part is an event, and what tells what it is of from others. Both are valid until the next event
// is made.
type Part struct {
	*event.Event
	ID        event.ID
	Partition string           // of an OS message: what its numbers count for
	Message   *event.OSMessage // nil: it is none
	Entry     *LogEntry        // nil: it is none
	// Ask is the URI of what the HMC can be asked about, to complete the event: a job, or the
	// resource; "": of nothing.
	Ask string
}

// Convert calls emit for each event in n: one per OS message, one per log entry, else one for the
// whole, which has the id given.
func (c *Converter) Convert(n *Notification, id event.ID, emit func(*Part)) {
	c.begin(n)
	c.event.Headers = n.partHeaders()
	whole := c.event
	parts := 0
	for o := n.parts(event.TypeOSMessage, "os-messages"); o.Next(); {
		c.message = event.ReadOSMessage(&o)
		c.event = whole
		emit(c.OSMessage(&c.event, &c.message))
		c.iplMessage(n, emit)
		parts++
	}
	for o := n.parts(event.TypeLogEntry, "log-entries"); o.Next(); {
		c.entry = readLogEntry(&o)
		c.event = whole
		emit(c.LogEntry(&c.event, &c.entry))
		if c.operations != nil && whole.TopicType == event.TopicAudit {
			c.operations.note(&c.entry, whole.Received)
		}
		parts++
	}
	if parts > 0 {
		return
	}
	// The parts of a body of another shape cannot be told: it is then delivered as one event,
	// whole.
	e := &c.event
	e.Headers = n.Headers
	e.ID, e.Body, e.BodyText = id.String(), n.Body, n.BodyText
	c.element(n)
	o := c.follow(n)
	c.describe(e, n, &o)
	c.part = Part{Event: e, ID: id, Ask: c.question(e, &o)}
	emit(&c.part)
	if o.ipl {
		c.emitIPL(n, emit)
	}
}

// question is what the HMC can be asked about an event: how a job has ended, why an LPAR has
// stopped, or on which CPC something is.
func (c *Converter) question(e *event.Event, o *outcome) string {
	r := e.Resource
	switch {
	case e.Type == event.TypeJobCompletion && len(e.Body) == 0:
		return e.Headers.Get("job-uri")
	case e.Type == event.TypeStatusChange && !e.Repeat && o.status == notOperating &&
		classOf(e) == estate.ClassLogicalPartition:
		return r.ObjectURI
	case r == nil || r.CPC != "" || !estate.OnCPC(r.ObjectURI) || e.Headers.Get("action") == "remove":
		return ""
	}
	if _, _, known := c.estate.PlaceOf(r.ObjectURI); known {
		return "" // the HMC does not tell
	}
	if class := estate.ClassOf(r.ObjectURI); class != "" && !c.estate.Listed(c.hmc, class) {
		return "" // the first list is on its way, and tells of all of them
	}
	return r.ObjectURI
}

// place fills in where something belongs that is not listed, as far as the HMC was asked.
func (c *Converter) place(r *event.Resource) {
	if r.CPC != "" || !estate.OnCPC(r.ObjectURI) {
		return
	}
	name, cpc, _ := c.estate.PlaceOf(r.ObjectURI)
	r.CPC = cpc
	if r.ElementURI == "" {
		r.Name = cmp.Or(r.Name, name)
	}
}

// Placed completes an event with where its resource belongs, which is known by now, and reports
// whether that tells more.
func (c *Converter) Placed(e *event.Event) bool {
	r := e.Resource
	if r == nil || r.CPC != "" {
		return false
	}
	if c.place(r); r.CPC == "" {
		return false
	}
	c.Describe(e)
	return true
}

// begin begins the event of a notification.
func (c *Converter) begin(n *Notification) {
	c.event = event.Event{
		HMC: c.hmc, Type: n.Type, Received: n.Received, Time: n.Time, Topic: n.Topic,
		TopicType: c.topics.KindOf(n.Topic, n.Type), Origin: event.OriginLive, Severity: event.SeverityInfo,
		Headers: n.Headers,
	}
	e, r := &c.event, &c.resource
	if n.sessionGiven {
		c.session = n.session
		e.SessionSequenceNr = &c.session
	}
	if n.globalGiven {
		c.global = n.global
		e.GlobalSequenceNr = &c.global
	}
	*r = n.Resource
	if known, ok := c.estate.Lookup(r.ObjectURI); ok {
		r.CPC = known.CPC
		r.Name = cmp.Or(r.Name, known.Name)
		r.OSName, r.OSLevel, r.Sysplex = known.System.OSName, known.System.OSLevel, known.System.Sysplex
	}
	c.place(r)
	if r.Class == estate.ClassCPC && r.CPC == "" {
		r.CPC = r.Name
	}
	if *r != (event.Resource{}) {
		e.Resource = r
	}
}

// Fetched begins an event that was not published but fetched.
func (c *Converter) Fetched(typ, topic, kind string, now time.Time) *event.Event {
	c.event = event.Event{
		HMC: c.hmc, Type: typ, Received: now, Time: now, Topic: topic, TopicType: kind,
		Origin: event.OriginBackfill, Severity: event.SeverityInfo,
	}
	return &c.event
}

// OSMessage makes e the event of an OS message.
func (c *Converter) OSMessage(e *event.Event, m *event.OSMessage) *Part {
	e.Time = timeOf(m.Time, e.Time)
	if m.Refresh {
		e.Origin = event.OriginRefresh
	}
	c.part = Part{Event: e, Message: m, Partition: partitionOf(e)}
	p := &c.part
	p.ID = event.IDOf(event.TypeOSMessage, e.HMC, p.Partition, m.Sequence, m.PlainText())
	e.Body, e.ID = m.Raw, p.ID.String()
	describeOSMessage(e, m)
	return p
}

// partitionOf returns what names the partition of an OS message, in this and in every other
// session: its URI, or else what the name of its topic ends with, <user>.<n>osm.<object id>.
func partitionOf(e *event.Event) string {
	if e.Resource != nil && e.Resource.ObjectURI != "" {
		return e.Resource.ObjectURI
	}
	return e.Topic[strings.LastIndexByte(e.Topic, '.')+1:]
}

// Nth makes a log entry the n-th of those with the same content, counted from 1: each is another
// entry, and has an id of its own.
func (p *Part) Nth(n int) {
	if n > 1 {
		p.Event.ID = event.NewID(event.TypeLogEntry, p.ID.String(), strconv.Itoa(n))
	}
}

// LogEntry makes e the event of an entry of the console's audit or security log.
func (c *Converter) LogEntry(e *event.Event, l *LogEntry) *Part {
	e.Time = timeOf(l.Time, e.Time)
	c.part = Part{Event: e, Entry: l}
	p := &c.part
	p.ID = l.ID(e.HMC, e.TopicType)
	e.Body, e.ID = l.Raw, p.ID.String()
	describeLogEntry(e, l, c.Severities)
	return p
}

// Describe fills in summary and severity of an event that is a whole notification and was not
// published as it is. ask is as in Part.
func (c *Converter) Describe(e *event.Event) (ask string) {
	n := Notification{Type: e.Type, Headers: e.Headers}
	for report := range event.Reports(e.Body) {
		n.Reports = append(n.Reports, report)
	}
	o := outcomeOf(n.Reports)
	if e.Resource != nil {
		if known, ok := c.estate.Lookup(e.Resource.ObjectURI); ok {
			o.complete(&known)
		}
	}
	c.describe(e, &n, &o)
	return c.question(e, &o)
}
