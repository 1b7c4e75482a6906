package bridge

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
)

// unknownType is the type of an event whose notification had no notification-type header.
const unknownType = "unknown"

// converter turns the notifications of one HMC into events. It belongs to one goroutine.
type converter struct {
	hmc     string
	topics  *topicTable
	estate  *directory
	headers event.Headers // reused: an event is encoded before the next one is made
}

// convert calls emit for each event in n: one per OS message, one per log entry, else one for the whole. valid says
// whether the body is JSON. The event is only valid during the call.
func (c *converter) convert(n *receiver.Notification, valid bool, emit func(*event.Event)) {
	c.headers = c.headers[:0]
	for _, h := range n.Headers {
		c.headers = append(c.headers, event.Header{Name: h.Name, Value: h.Value})
	}
	e := event.Event{
		HMC:      c.hmc,
		Type:     n.Headers.Get("notification-type"),
		Received: n.Received,
		Time:     millis(n.Headers.Get("timestamp"), n.Received),
		Topic:    n.Topic,
		Origin:   event.OriginLive,
		Severity: event.SeverityInfo,
		Headers:  c.headers,
	}
	if e.Type == "" {
		e.Type = unknownType
	}
	e.TopicType = c.topics.kindOf(n.Topic, e.Type)
	e.SessionSequenceNr = number(n.Headers.Get("session-sequence-nr"))
	e.GlobalSequenceNr = number(n.Headers.Get("global-sequence-nr"))
	resource := c.resource(n.Headers)
	if resource != (event.Resource{}) {
		e.Resource = &resource
	}
	switch {
	case len(n.Body) == 0:
	case valid:
		e.Body = event.CompactValid(n.Body)
	default:
		e.BodyText = string(n.Body)
	}

	var parts []json.RawMessage
	switch e.Type {
	case event.TypeOSMessage:
		parts = elements(e.Body, "os-messages")
	case event.TypeLogEntry:
		parts = elements(e.Body, "log-entries")
	}
	if len(parts) == 0 {
		e.ID = c.wholeID(n)
		describe(&e)
		emit(&e)
		return
	}
	whole := e
	for _, part := range parts {
		e = whole
		e.Body = part
		if e.Type == event.TypeOSMessage {
			fillOSMessage(&e, part)
		} else {
			fillLogEntry(&e, part)
		}
		emit(&e)
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

// resource reads the managed object from the headers, and adds the names that only the estate knows.
func (c *converter) resource(h receiver.Headers) event.Resource {
	r := event.Resource{
		Class:      h.Get("class"),
		Name:       h.Get("name"),
		ObjectURI:  h.Get("object-uri"),
		ObjectID:   h.Get("object-id"),
		ElementURI: h.Get("element-uri"),
		ElementID:  h.Get("element-id"),
	}
	if known, ok := c.estate.lookup(r.ObjectURI); ok {
		r.CPC = known.cpc
		if r.Name == "" {
			r.Name = known.name
		}
	}
	if r.Class == "cpc" && r.CPC == "" {
		r.CPC = r.Name
	}
	return r
}

// elements returns the members of the array called key in a JSON object, or nil where the body has another shape: it
// is then delivered as one event, whole.
func elements(body []byte, key string) []json.RawMessage {
	var object map[string]json.RawMessage
	if json.Unmarshal(body, &object) != nil {
		return nil
	}
	var list []json.RawMessage
	if json.Unmarshal(object[key], &list) != nil {
		return nil
	}
	return list
}

// osMessage holds what the bridge reads of an os-message-info object. The sequence number is assigned by the HMC per
// partition; the timestamp is -1 where the operating system gave none, which is normal for Linux.
type osMessage struct {
	SequenceNumber json.Number `json:"sequence-number"`
	Text           string      `json:"message-text"`
	Timestamp      int64       `json:"timestamp"`
	IsRefresh      bool        `json:"is-refresh"`
	IsHeld         bool        `json:"is-held"`
	IsPriority     bool        `json:"is-priority"`
	SoundAlarm     bool        `json:"sound-alarm"`
}

func fillOSMessage(e *event.Event, part []byte) {
	var m osMessage
	decodeLoosely(part, &m)
	partition := e.Topic
	if e.Resource != nil && e.Resource.ObjectURI != "" {
		partition = e.Resource.ObjectURI
	}
	e.ID = event.NewID(event.TypeOSMessage, e.HMC, partition, m.SequenceNumber.String(), m.Text)
	if m.IsRefresh {
		e.Origin = event.OriginRefresh
	}
	if m.Timestamp > 0 {
		e.Time = time.UnixMilli(m.Timestamp)
	}
	if m.IsHeld || m.IsPriority || m.SoundAlarm {
		e.Severity = event.SeverityWarning
	}
	e.Summary = withResource(e, firstLine(m.Text))
}

// logEntry holds what the bridge reads of a log-entry object of the console's audit or security log.
type logEntry struct {
	EventTime    int64           `json:"event-time"`
	EventID      json.RawMessage `json:"event-id"`
	EventName    string          `json:"event-name"`
	EventMessage string          `json:"event-message"`
	Userid       string          `json:"userid"`
	DataItems    json.RawMessage `json:"event-data-items"`
}

func fillLogEntry(e *event.Event, part []byte) {
	var l logEntry
	decodeLoosely(part, &l)
	e.ID = event.NewID(event.TypeLogEntry, e.HMC, e.TopicType, strconv.FormatInt(l.EventTime, 10),
		unquoted(l.EventID), l.Userid, l.EventMessage, string(l.DataItems))
	if l.EventTime > 0 {
		e.Time = time.UnixMilli(l.EventTime)
	}
	e.Summary = firstLine(l.EventMessage)
	if e.Summary == "" {
		e.Summary = "event " + unquoted(l.EventID) + " " + l.EventName
	}
}

// decodeLoosely fills v with what fits: a field of an unexpected type (message-id is a number in IBM's book and was a
// string on a real HMC) stays empty and takes nothing else with it.
func decodeLoosely(data []byte, v any) {
	_ = json.Unmarshal(data, v)
}

// millis reads milliseconds since the epoch.
func millis(s string, fallback time.Time) time.Time {
	ms, err := strconv.ParseInt(s, 10, 64)
	if err != nil || ms <= 0 {
		return fallback
	}
	return time.UnixMilli(ms)
}

func number(s string) *int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return nil
	}
	return &n
}

func firstLine(s string) string {
	s = strings.TrimSpace(s)
	if i := strings.IndexAny(s, "\r\n"); i >= 0 {
		s = s[:i]
	}
	return s
}
