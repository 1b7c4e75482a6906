package translate

import (
	"hash/crc32"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/estate"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/ledger"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
)

// UnknownType is the type of an event whose notification had no notification-type header.
const UnknownType = "unknown"

// Converter turns the notifications of one HMC into events. It belongs to one goroutine, and reuses the memory of the
// event it makes: that is encoded before the next one is made.
type Converter struct {
	HMC        string
	Topics     *TopicTable
	Estate     *estate.Estate
	Severities *atomic.Pointer[Severities]
	SeenBy     []string // the HMC, where others of its group see the same

	Event           event.Event
	resource        event.Resource
	headers         event.Headers
	session, global int64
	Part            Part
	Changes         []estate.Before // what the events changed in the estate, since somebody took them
	elements        map[string]string
}

// Part says what the event that was made last is of its notification, and what tells it from others.
type Part struct {
	Kind      partKind
	ID        event.ID
	Partition string           // of an OS message: what its sequence numbers count for
	Message   ledger.OSMessage // of an OS message
	Time      int64            // of a log entry, in milliseconds; 0: none
}

type partKind int

const (
	WholePart partKind = iota
	OSMessagePart
	LogEntryPart
)

// Convert calls emit for each event in n: one per OS message, one per log entry, else one for the whole, which has the id
// given. valid says whether the body is JSON. The event is only valid during the call, and so is part.
func (c *Converter) Convert(n *receiver.Notification, id event.ID, valid bool, emit func(*event.Event)) {
	e := &c.Event
	*e = event.Event{
		HMC: c.HMC, Type: UnknownType, Received: n.Received, Time: n.Received, Topic: n.Topic,
		Origin: event.OriginLive, Severity: event.SeverityInfo,
	}
	c.readHeaders(n.Headers)
	e.TopicType = c.Topics.KindOf(n.Topic, e.Type)
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
		for element := range event.Elements(event.Member(e.Body, "os-messages")) {
			*e = whole
			c.FillOSMessage(e, element)
			emit(e)
			parts++
		}
	case event.TypeLogEntry:
		for element := range event.Elements(event.Member(e.Body, "log-entries")) {
			*e = whole
			c.FillLogEntry(e, element)
			emit(e)
			parts++
		}
	}
	if parts == 0 {
		c.Part = Part{ID: id}
		e.ID = id.String()
		e.SeenBy = c.SeenBy
		c.element(e)
		lasted := c.follow(e)
		Describe(e, lasted, c.Severities.Load())
		emit(e)
	}
}

// NotificationID identifies a notification by what the broker and the HMC number it with. The broker's message id holds
// the broker's start time and so does not repeat after an HMC restart. The rest is for a broker that is less careful.
// told says whether the broker gave it an id at all: without one, two notifications alike are not one.
func NotificationID(hmc string, n *receiver.Notification) (id event.ID, told bool) {
	h := n.Headers
	messageID := h.Get("message-id")
	sum := crc32.Checksum(n.Body, castagnoli)
	return event.IDOf(hmc, n.Topic, messageID, h.Get("timestamp"), h.Get("session-sequence-nr"), h.Get("global-sequence-nr"),
		strconv.FormatUint(uint64(sum), 16)), messageID != ""
}

// castagnoli is the polynomial that processors compute by themselves.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// readHeaders fills in what the headers say, in one pass.
func (c *Converter) readHeaders(headers receiver.Headers) {
	e, r := &c.Event, &c.resource
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
			e.SessionSequenceNr = Number(value, &c.session)
		case "global-sequence-nr":
			e.GlobalSequenceNr = Number(value, &c.global)
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
	if known, ok := c.Estate.Lookup(r.ObjectURI); ok {
		r.CPC = known.CPC
		if r.Name == "" {
			r.Name = known.Name
		}
	}
	if r.Class == "cpc" && r.CPC == "" {
		r.CPC = r.Name
	}
	if *r != (event.Resource{}) {
		e.Resource = r
	}
}

// FillOSMessage makes e the event of one os-message-info object. The HMC assigns the sequence number per partition;
// the timestamp is -1 where the operating system gave none, which is normal for Linux.
func (c *Converter) FillOSMessage(e *event.Event, element []byte) {
	var sequence, text string
	var at int64
	var held, priority, alarm bool
	for name, value := range event.Members(element) {
		switch string(name) {
		case "sequence-number":
			sequence = string(value)
		case "message-text":
			text = event.String(value)
		case "timestamp":
			if at = event.Int(value); at > 0 {
				e.Time = time.UnixMilli(at)
			}
		case "is-refresh":
			if event.True(value) {
				e.Origin = event.OriginRefresh
			}
		case "is-held":
			held = event.True(value)
		case "is-priority":
			priority = event.True(value)
		case "sound-alarm":
			alarm = event.True(value)
		}
	}
	partition := partitionOf(e)
	// Clients have seen the line end behind the text come and go.
	id := event.IDOf(event.TypeOSMessage, e.HMC, partition, sequence, strings.TrimRight(text, " \t\r\n"))
	number, _ := strconv.ParseInt(sequence, 10, 64)
	c.Part = Part{Kind: OSMessagePart, ID: id, Partition: partition, Message: ledger.OSMessage{Seq: number, Key: [8]byte(id[:8]), Time: at}}
	e.Body = element
	e.ID = id.String()
	describeOSMessage(e, text, held, priority, alarm)
}

// partitionOf returns what names the partition of an OS message, in this and in every other session: its URI, or else what
// the name of its topic ends with, <user>.<n>osm.<object id>.
func partitionOf(e *event.Event) string {
	if e.Resource != nil && e.Resource.ObjectURI != "" {
		return e.Resource.ObjectURI
	}
	return e.Topic[strings.LastIndexByte(e.Topic, '.')+1:]
}

// FillLogEntry makes e the event of one entry of the console's audit or security log.
func (c *Converter) FillLogEntry(e *event.Event, element []byte) {
	var at, id, name, message, userid, items string
	var ms int64
	for key, value := range event.Members(element) {
		switch string(key) {
		case "event-time":
			at = string(value)
			if ms = event.Int(value); ms > 0 {
				e.Time = time.UnixMilli(ms)
			}
		case "event-id":
			id = event.Unquoted(value)
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
	c.Part = Part{Kind: LogEntryPart, ID: event.IDOf(event.TypeLogEntry, e.HMC, e.TopicType, at, id, userid, message, items), Time: ms}
	e.Body = element
	e.ID = c.Part.ID.String()
	describeLogEntry(e, id, name, message, userid, c.Severities.Load())
}

// Number reads a sequence number into n; nil where s is none.
func Number(s string, n *int64) *int64 {
	v, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return nil
	}
	*n = v
	return n
}
