package translate

import (
	"bytes"
	"cmp"
	"encoding/json"
	"hash/crc32"
	"hash/fnv"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/estate"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/jsontext"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
)

const (
	// unknownType is the type of a notification without a notification-type header.
	unknownType = "unknown"
	// maxName bounds, in bytes, what a header names: HMCs name things with far less.
	maxName = 512
	// usualHeaders is what the headers of a frame have at most, in bytes, unless somebody makes
	// them large.
	usualHeaders = 8 << 10
	// maxPartHeaders bounds what the headers become in all parts of one notification together,
	// and maxPartHeader the value of one where that is not enough.
	maxPartHeaders = 16 << 20
	maxPartHeader  = 256
	// maxReports bounds how many of the reports of a change are looked at.
	maxReports = 1000
	// maxItems bounds how many data items of a log entry are put into their order.
	maxItems = 1000
	// maxBodyText bounds what is kept of a body that is not JSON, in bytes.
	maxBodyText = 1 << 20
)

// Notification is a notification of an HMC with what everybody asks of it, parsed once. It shares
// the memory of the one that was received.
type Notification struct {
	Topic string
	// the header notification-type; "unknown" where there is none
	Type    string
	Headers event.Headers
	// as the headers name it
	Resource event.Resource
	// when it happened by the HMC's clock; Received where the HMC does not say
	Time     time.Time
	Received time.Time
	// compact JSON; nil: there is none, or it is not JSON
	Body []byte
	// a body that is not JSON
	BodyText     string
	Reports      []event.Report
	session      int64
	global       int64
	sessionGiven bool
	globalGiven  bool
	messageID    string
	timestamp    string
	sessionText  string
	globalText   string
	bodySum      uint32
	// the headers action, property-names and job-uri, and a sum of those that are not known
	action, properties, job string
	otherSum                uint64
	headerBytes             int
	names                   uint64 // as Headers.Repeats has them
}

// Parse makes n what was received, and reuses its memory. valid says whether the body is JSON.
func (n *Notification) Parse(received *receiver.Notification, valid bool) {
	*n = Notification{
		Topic: received.Topic, Type: unknownType, Received: received.Received, Time: received.Received,
		Headers: n.Headers[:0], Reports: n.Reports[:0], bodySum: crc32.Checksum(received.Body, castagnoli),
	}
	for i := range received.Headers {
		n.headerBytes += len(received.Headers[i].Name) + len(received.Headers[i].Value)
	}
	for i := range received.Headers {
		n.header(received.Headers[i].Name, received.Headers[i].Value)
	}
	if r := &n.Resource; r.Class == "" && r.ElementURI == "" {
		r.Class = estate.ClassOf(r.ObjectURI)
	}
	switch {
	case len(received.Body) == 0:
	case received.Compact():
		n.Body = received.Body
	case valid:
		n.Body = event.CompactValid(received.Body)
	default:
		// One byte that is wrong hides nothing else of the body.
		if text := jsontext.Mended(received.Body); json.Valid(text) {
			n.Body = event.CompactValid(text)
		} else {
			n.BodyText = event.Cut(string(received.Body[:min(len(received.Body), maxBodyText+1)]), maxBodyText)
		}
	}
	switch n.Type {
	case event.TypeStatusChange, event.TypePropertyChange:
		n.Reports = event.AppendReports(n.Reports, n.Body, maxReports)
	}
}

func (n *Notification) header(name, value string) {
	n.Headers = append(n.Headers, event.Header{Name: name, Value: value})
	if n.Headers.Repeats(&n.names) {
		return // the first one counts
	}
	// They share their memory, and what is kept for long must not keep all of it.
	short := event.Beginning(value, maxName)
	if n.headerBytes > usualHeaders {
		short = strings.Clone(short)
	}
	r := &n.Resource
	switch name {
	case "notification-type":
		if value != "" {
			n.Type = short
		}
	case "message-id":
		n.messageID = value
	case "timestamp":
		n.timestamp = value
		if ms, ok := number(value); ok {
			n.Time = timeOf(ms, n.Time)
		}
	case "session-sequence-nr":
		n.sessionText = value
		n.session, n.sessionGiven = number(value)
	case "global-sequence-nr":
		n.globalText = value
		n.global, n.globalGiven = number(value)
	case "class":
		r.Class = short
	case "name":
		r.Name = short
	case "object-uri":
		r.ObjectURI = short
	case "object-id":
		r.ObjectID = short
	case "element-uri":
		r.ElementURI = short
	case "element-id":
		r.ElementID = short
	case "action":
		n.action = value
	case "property-names":
		n.properties = value
	case "job-uri":
		n.job = value
	default:
		n.note(name, value)
	}
}

// SequenceNr returns the number that the HMC gave the notification, and whether it gave it one.
func (n *Notification) SequenceNr() (int64, bool) { return n.session, n.sessionGiven && n.session >= 0 }

// ID identifies the notification by all that it says: what the broker and the HMC number it with,
// the other headers, and the body. The broker's message id holds the broker's start time and so
// does not repeat after an HMC restart; the rest is for a broker that is less careful. certain says
// whether the broker gave it an id at all: without one, two notifications alike are not one, and
// what tells them apart is when they came.
func (n *Notification) ID(hmc string) (id event.ID, certain bool) {
	broker := n.messageID
	if broker == "" {
		broker = n.Received.UTC().Format(time.RFC3339Nano)
	}
	r, buf := &n.Resource, [16]byte{}
	sums := strconv.AppendUint(append(strconv.AppendUint(buf[:0], uint64(n.bodySum), 16), '/'), n.otherSum, 16)
	return event.IDOf(hmc, n.Topic, broker, n.timestamp, n.sessionText, n.globalText, string(sums), n.Type,
		r.Class, r.Name, r.ObjectURI, r.ObjectID, r.ElementURI, r.ElementID, n.action, n.properties, n.job,
	), n.messageID != ""
}

// Content identifies what the notification says of an object, and about what of it: two HMCs say it
// alike, and so do two sessions. It reports false where it is of no object, or of another type.
func (n *Notification) Content() (says, about event.ID, ok bool) {
	if n.Resource.ObjectURI == "" {
		return says, about, false
	}
	parts := []string{n.Type, n.Resource.ObjectURI, n.Resource.ElementURI}
	of := slices.Clone(parts)
	switch n.Type {
	case event.TypeStatusChange, event.TypePropertyChange:
		// What says the same need not be written the same by two HMCs of different
		// versions.
		for i := range n.Reports {
			r := &n.Reports[i]
			of = append(of, r.Property)
			parts = append(parts, r.Property, r.OldStatus, r.NewStatus, escaped(r.NewAdditional), escaped(r.NewValue))
			if r.NewStatus == "" && r.Judged {
				parts = append(parts, strconv.FormatBool(r.Unacceptable))
			}
		}
	case event.TypeInventoryChange:
		parts = append(parts, n.Headers.Get("action"))
	default:
		return says, about, false
	}
	return event.IDOf(parts...), event.IDOf(of...), true
}

// escaped is JSON as it is stored.
func escaped(b []byte) string { return string(event.AppendEscaped(nil, b)) }

// Told identifies what the notification says, by whichever session. It is the zero ID of OS
// messages and log entries, which have ids of their own.
func (n *Notification) Told() event.ID {
	if n.Type == event.TypeOSMessage || n.Type == event.TypeLogEntry {
		return event.ID{}
	}
	if says, _, ok := n.Content(); ok {
		return says
	}
	body := escaped(n.Body)
	if n.job != "" { // how it has ended may be added
		body = ""
	}
	return event.IDOf(n.Type, n.Resource.ObjectURI, n.Resource.ElementURI, n.job, body)
}

// note takes a header that is known by no name here into the sum, in whichever order they come.
func (n *Notification) note(name, value string) {
	switch name { // they are of the one time that the broker sends it, and may be others the next time
	case "destination", "subscription", "redelivered", "ack", "expires", "priority", "persistent",
		"content-length", "content-type":
		return
	}
	h := fnv.New64a()
	_, _ = io.WriteString(h, name)
	_, _ = h.Write([]byte{0})
	_, _ = io.WriteString(h, value)
	n.otherSum += h.Sum64()
}

// castagnoli is the polynomial that processors compute by themselves.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// newName returns the name that a property-change gives.
func (n *Notification) newName() (name string, ok bool) {
	if names := n.Headers.Get("property-names"); names != "" && !strings.Contains(" "+names+" ", " name ") {
		return "", false
	}
	for i := range n.Reports {
		if r := &n.Reports[i]; r.Property == "name" {
			name, ok = event.String(r.NewValue), true
		}
	}
	return name, ok
}

// LogEntry is an entry of the console's audit or security log.
type LogEntry struct {
	Raw                            []byte // the object as it stands
	at                             string // the time as it stands
	Time                           int64  // in milliseconds; 0: the HMC gave none
	EventID, Name, Message, Userid string
	items                          string // the data items as they stand
}

// ParseLogEntry parses a log entry, which has to be valid JSON.
func ParseLogEntry(raw []byte) LogEntry {
	l := LogEntry{Raw: raw}
	for name, value := range event.Members(raw) {
		l.set(name, value)
	}
	return l
}

func readLogEntry(o *event.Objects) (l LogEntry) {
	for o.Member() {
		l.set(o.Name, o.Value)
	}
	l.Raw = o.Raw()
	return l
}

func (l *LogEntry) set(name, value []byte) {
	switch string(name) {
	case "event-time":
		l.at = string(value)
		l.Time = event.Int(value)
	case "event-id":
		l.EventID = event.Unquoted(value)
	case "event-name":
		l.Name = event.String(value)
	case "event-message":
		l.Message = event.String(value)
	case "userid":
		l.Userid = event.String(value)
	case "event-data-items":
		l.items = string(value)
	}
}

// ID returns what tells an entry of a log of an HMC from those with another content: it is the id
// of the first event with this one.
func (l *LogEntry) ID(hmc, log string) event.ID {
	return event.IDOf(event.TypeLogEntry, hmc, log, l.at, l.EventID, l.Userid, l.Message, sorted(l.items))
}

// sorted is an array of data items in the order of their numbers: an HMC promises none, and may
// list an entry otherwise than it has published it.
func sorted(items string) string {
	if n := strings.Count(items, "{"); n < 2 || n > maxItems {
		return items
	}
	var all []string
	for item := range event.Elements([]byte(items)) {
		all = append(all, string(item))
	}
	number := func(item string) int64 { return event.Int(event.Member([]byte(item), "data-item-number")) }
	byNumber := func(a, b string) int { return cmp.Or(cmp.Compare(number(a), number(b)), cmp.Compare(a, b)) }
	if slices.IsSortedFunc(all, byNumber) {
		return items
	}
	slices.SortFunc(all, byNumber)
	return "[" + strings.Join(all, ",") + "]"
}

// parts returns the elements of a notification of a type. A body of another shape has none.
func (n *Notification) parts(typ, member string) event.Objects {
	if n.Type != typ {
		return event.Objects{}
	}
	return event.ObjectsIn(n.Body, member)
}

// partHeaders returns the headers that each part of the notification has: all of them, unless that
// would become too much together. Then it is those that say what it is of.
func (n *Notification) partHeaders() event.Headers {
	if n.Type != event.TypeOSMessage && n.Type != event.TypeLogEntry ||
		n.headerBytes*bytes.Count(n.Body, []byte("{")) <= maxPartHeaders {
		return n.Headers
	}
	var out event.Headers
	for _, h := range n.Headers {
		switch h.Name {
		case "notification-type", "message-id", "timestamp", "session-sequence-nr", "global-sequence-nr", "destination",
			"class", "name", "object-uri", "object-id", "element-uri", "element-id":
			if len(h.Value) <= maxPartHeader {
				out = append(out, h)
			}
		}
	}
	return out
}

// timeOf returns a time in milliseconds as an HMC tells it; other, where no clock of an HMC can
// have told it, as where it is in seconds: a status would have lasted for decades, and an alert
// begin in 1970.
func timeOf(ms int64, other time.Time) time.Time {
	const year2000, year2100 = 946684800000, 4102444800000
	if ms < year2000 || ms >= year2100 {
		return other
	}
	return time.UnixMilli(ms)
}

// number reads a sequence number.
func number(s string) (n int64, ok bool) {
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}
