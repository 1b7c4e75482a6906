package bridge

import (
	"strconv"
	"strings"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
)

// unknownType is the type of an event whose notification had no notification-type header.
const unknownType = "unknown"

// converter turns the notifications of one HMC into events. It belongs to one goroutine, and reuses the memory of the
// event it makes: that is encoded before the next one is made.
type converter struct {
	hmc    string
	topics *topicTable
	estate *directory

	event           event.Event
	resource        event.Resource
	headers         event.Headers
	session, global int64
}

// convert calls emit for each event in n: one per OS message, one per log entry, else one for the whole. valid says
// whether the body is JSON. The event is only valid during the call.
func (c *converter) convert(n *receiver.Notification, valid bool, emit func(*event.Event)) {
	e := &c.event
	*e = event.Event{
		HMC: c.hmc, Type: unknownType, Received: n.Received, Time: n.Received, Topic: n.Topic,
		Origin: event.OriginLive, Severity: event.SeverityInfo,
	}
	c.readHeaders(n.Headers)
	e.TopicType = c.topics.kindOf(n.Topic, e.Type)
	switch {
	case len(n.Body) == 0:
	case valid:
		e.Body = event.CompactValid(n.Body)
	default:
		e.BodyText = string(n.Body)
	}

	// The parts of a body of another shape cannot be told: it is then delivered as one event, whole.
	parts := 0
	whole := *e
	switch e.Type {
	case event.TypeOSMessage:
		for part := range event.Elements(event.Member(e.Body, "os-messages")) {
			*e = whole
			fillOSMessage(e, part)
			emit(e)
			parts++
		}
	case event.TypeLogEntry:
		for part := range event.Elements(event.Member(e.Body, "log-entries")) {
			*e = whole
			fillLogEntry(e, part)
			emit(e)
			parts++
		}
	}
	if parts == 0 {
		e.ID = c.wholeID(n)
		describe(e)
		emit(e)
	}
}

// wholeID identifies a notification by what the broker and the HMC number it with. The broker's message id holds the
// broker's start time and so does not repeat after an HMC restart. The rest is for a broker that gives no such id.
func (c *converter) wholeID(n *receiver.Notification) string {
	h := n.Headers
	id := h.Get("message-id")
	body := ""
	if id == "" {
		body = string(n.Body)
	}
	return event.NewID(c.hmc, n.Topic, id, h.Get("timestamp"), h.Get("session-sequence-nr"), h.Get("global-sequence-nr"), body)
}

// readHeaders fills in what the headers say, in one pass.
func (c *converter) readHeaders(headers receiver.Headers) {
	e, r := &c.event, &c.resource
	*r = event.Resource{}
	c.headers = c.headers[:0]
	for i := range headers {
		name, value := headers[i].Name, headers[i].Value
		c.headers = append(c.headers, event.Header{Name: name, Value: value})
		switch name {
		case "notification-type":
			if value != "" {
				e.Type = value
			}
		case "timestamp":
			if ms, err := strconv.ParseInt(value, 10, 64); err == nil && ms > 0 {
				e.Time = time.UnixMilli(ms)
			}
		case "session-sequence-nr":
			e.SessionSequenceNr = number(value, &c.session)
		case "global-sequence-nr":
			e.GlobalSequenceNr = number(value, &c.global)
		case "class":
			r.Class = value
		case "name":
			r.Name = value
		case "object-uri":
			r.ObjectURI = value
		case "object-id":
			r.ObjectID = value
		case "element-uri":
			r.ElementURI = value
		case "element-id":
			r.ElementID = value
		}
	}
	e.Headers = c.headers
	if known, ok := c.estate.lookup(r.ObjectURI); ok {
		r.CPC = known.cpc
		if r.Name == "" {
			r.Name = known.name
		}
	}
	if r.Class == "cpc" && r.CPC == "" {
		r.CPC = r.Name
	}
	if *r != (event.Resource{}) {
		e.Resource = r
	}
}

// fillOSMessage makes e the event of one os-message-info object. The HMC assigns the sequence number per partition;
// the timestamp is -1 where the operating system gave none, which is normal for Linux.
func fillOSMessage(e *event.Event, part []byte) {
	var sequence, text string
	for name, value := range event.Members(part) {
		switch string(name) {
		case "sequence-number":
			sequence = string(value)
		case "message-text":
			text = event.String(value)
		case "timestamp":
			if ms := event.Int(value); ms > 0 {
				e.Time = time.UnixMilli(ms)
			}
		case "is-refresh":
			if event.True(value) {
				e.Origin = event.OriginRefresh
			}
		case "is-held", "is-priority", "sound-alarm":
			if event.True(value) {
				e.Severity = event.SeverityWarning
			}
		}
	}
	partition := e.Topic
	if e.Resource != nil && e.Resource.ObjectURI != "" {
		partition = e.Resource.ObjectURI
	}
	e.Body = part
	e.ID = event.NewID(event.TypeOSMessage, e.HMC, partition, sequence, text)
	e.Summary = withResource(e, firstLine(text))
}

// fillLogEntry makes e the event of one entry of the console's audit or security log.
func fillLogEntry(e *event.Event, part []byte) {
	var at, id, name, message, userid, items string
	for key, value := range event.Members(part) {
		switch string(key) {
		case "event-time":
			at = string(value)
			if ms := event.Int(value); ms > 0 {
				e.Time = time.UnixMilli(ms)
			}
		case "event-id":
			id = unquoted(value)
		case "event-name":
			name = event.String(value)
		case "event-message":
			message = event.String(value)
		case "userid":
			userid = event.String(value)
		case "event-data-items":
			items = string(value)
		}
	}
	e.Body = part
	e.ID = event.NewID(event.TypeLogEntry, e.HMC, e.TopicType, at, id, userid, message, items)
	e.Summary = firstLine(message)
	if e.Summary == "" {
		e.Summary = strings.TrimSpace("log entry " + id + " " + name)
	}
}

// number reads a sequence number into n; nil where s is none.
func number(s string, n *int64) *int64 {
	v, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return nil
	}
	*n = v
	return n
}

func firstLine(s string) string {
	s = strings.TrimSpace(s)
	if i := strings.IndexAny(s, "\r\n"); i >= 0 {
		s = s[:i]
	}
	return s
}
