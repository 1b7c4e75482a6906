package hmcsim

import (
	"encoding/json"
	"slices"
	"strconv"
)

// The notification types of an HMC, the header notification-type.
const (
	typeStatusChange    = "status-change"
	typePropertyChange  = "property-change"
	typeInventoryChange = "inventory-change"
	typeJobCompletion   = "job-completion"
	typeOSMessage       = "os-message"
	typeLogEntry        = "log-entry"
)

// object is a managed object as headers name it.
type object interface {
	class() string
	objectName() string
	objectID() string
	uri() string
}

// objectHeaders returns the headers of a notification about an object, in the order of a public
// capture, with room for two more.
func objectHeaders(kind string, o object) []Header {
	h := make([]Header, 0, 7)
	return append(h,
		Header{"notification-type", kind},
		Header{"class", o.class()},
		Header{"name", o.objectName()},
		Header{"object-id", o.objectID()},
		Header{"object-uri", o.uri()},
	)
}

// statusChange has exactly the four keys of a public capture of 2022. more adds
// has-unacceptable-status, which zhmcclient knows too, and a key that nobody knows yet.
func statusChange(o statusObject, from, to string, more bool) Message {
	b := make([]byte, 0, 192)
	b = append(b, `{"change-reports":[{"old-status":`...)
	b = appendString(b, from)
	b = append(b, `,"old-additional-status":null,"new-status":`...)
	b = appendString(b, to)
	b = append(b, `,"new-additional-status":null`...)
	if more {
		b = append(b, `,"has-unacceptable-status":`...)
		b = strconv.AppendBool(b, unacceptable(o, to))
		b = append(b, `,"status-change-origin":{"kind":"se","level":2}`...)
	}
	b = append(b, `}]}`...)
	return Message{objectHeaders(typeStatusChange, o), b}
}

// change is one change of a property; from and to are any values that JSON can hold.
type change struct {
	name     string
	from, to any
}

// propertyChange lists the changes in the order of time. The header property-names has a blank at
// both ends, as IBM's documentation says. element is the URI of an element of the object, or "".
func propertyChange(o object, element string, changes ...change) Message {
	headers := objectHeaders(typePropertyChange, o)
	names := []byte{' '}
	b := make([]byte, 0, 256)
	b = append(b, `{"change-reports":[`...)
	for i, c := range changes {
		names = append(append(names, c.name...), ' ')
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"property-name":`...)
		b = appendString(b, c.name)
		b = append(b, `,"old-value":`...)
		b = appendJSON(b, c.from)
		b = append(b, `,"new-value":`...)
		b = appendJSON(b, c.to)
		b = append(b, '}')
	}
	b = append(b, `]}`...)
	headers = append(headers, Header{"property-names", string(names)})
	return Message{elementHeaders(headers, element), b}
}

// inventoryChange has a body of zero length over STOMP (HMC 2.17.0 and earlier, as zhmcclient's
// issues tell), and its action is a header.
func inventoryChange(o object, element, action string) Message {
	headers := append(objectHeaders(typeInventoryChange, o), Header{"action", action})
	return Message{elementHeaders(headers, element), nil}
}

// elementHeaders adds the headers of an element of the object: object-uri stays the containing
// object's.
func elementHeaders(headers []Header, element string) []Header {
	if element == "" {
		return headers
	}
	for i := range headers {
		if headers[i].Name == "class" {
			headers[i].Value = elementClass(element)
		}
	}
	return append(headers, Header{"element-uri", element}, Header{"element-id", lastSegment(element)})
}

// jobCompletion has a body of zero length over STOMP.
func jobCompletion(uri string) Message {
	return Message{[]Header{{"notification-type", typeJobCompletion}, {"job-uri", uri}}, nil}
}

// osMessageNotification tells of one or more messages of a partition's operating system.
func (h *HMC) osMessageNotification(p *partition, messages []osMessage, refresh bool) Message {
	b := make([]byte, 0, 320*len(messages))
	b = append(b, `{"os-messages":[`...)
	for i := range messages {
		if i > 0 {
			b = append(b, ',')
		}
		b = messages[i].appendJSON(b, p, h.opts.OSMessageOffset, &refresh)
	}
	b = append(b, `]}`...)
	return Message{objectHeaders(typeOSMessage, p), b}
}

// logEntryNotification tells of one or more entries of a log. Which log it is shows only in the
// topic. Whether it names an object is not known; clients use notification-type and destination
// alone.
func logEntryNotification(entries []logEntry) Message {
	n := 0
	for i := range entries {
		n += len(entries[i].json) + 1
	}
	b := make([]byte, 0, n+24)
	b = append(b, `{"log-entries":[`...)
	for i := range entries {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, entries[i].json...)
	}
	b = append(b, `]}`...)
	return Message{[]Header{{"notification-type", typeLogEntry}}, b}
}

// appendString appends a JSON string.
func appendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c == '\n':
			b = append(b, '\\', 'n')
		case c < 0x20:
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}

// appendJSON appends any value that JSON can hold.
func appendJSON(b []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(b, "null"...)
	case string:
		return appendString(b, v)
	case bool:
		return strconv.AppendBool(b, v)
	case int:
		return strconv.AppendInt(b, int64(v), 10)
	case int64:
		return strconv.AppendInt(b, v, 10)
	}
	p, err := json.Marshal(v)
	if err != nil {
		return append(b, "null"...)
	}
	return append(b, p...)
}

// statusObject is an object with a status.
type statusObject interface {
	object
	// acceptable are the statuses that nobody is called for.
	acceptable() []string
}

// unacceptable says whether a status is one that people are called for.
func unacceptable(o statusObject, status string) bool {
	return !slices.Contains(o.acceptable(), status)
}

// judgementChange tells that a status is acceptable now, or not any more. That a report then has
// only this key is inferred: zhmcclient tests each key by itself.
func judgementChange(o statusObject, unacceptable bool) Message {
	b := strconv.AppendBool([]byte(`{"change-reports":[{"has-unacceptable-status":`), unacceptable)
	return Message{objectHeaders(typeStatusChange, o), append(b, `}]}`...)}
}
