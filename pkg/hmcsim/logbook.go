package hmcsim

import (
	"fmt"
	"strings"
	"time"
)

// keepLogEntries is how many entries each of the console's logs holds.
const keepLogEntries = 20000

// logEntry is one entry of a log, in the one form that notifications and the log operations share.
type logEntry struct {
	time int64 // ms
	json []byte
}

// logBook is one of the console's logs, the oldest entry first.
type logBook struct{ entries []logEntry }

func (l *logBook) add(entries ...logEntry) {
	l.entries = append(l.entries, entries...)
	if n := len(l.entries) - keepLogEntries; n > keepLogEntries/10 {
		l.entries = append([]logEntry(nil), l.entries[n:]...)
	}
}

// LogEntry is an entry for one of the console's logs.
type LogEntry struct {
	Time    time.Time // zero: now
	EventID string    // digits
	Name    string    // event-name; may be ""
	Message string    // with {0}, {1}, ... for the Items
	User    string    // "" = none: userid and user-uri are null
	Items   []string  // event-data-items
}

// newLogEntry gives an entry the shape that clients of real HMCs read: event-id is a string of
// digits, event-time in ms, the items are not sorted, and their numbers are those of the message's
// places.
func (h *HMC) newLogEntry(e LogEntry) logEntry {
	if e.Time.IsZero() {
		e.Time = h.now()
	}
	text := e.Message
	for i, item := range e.Items {
		text = strings.ReplaceAll(text, fmt.Sprintf("{%d}", i), item)
	}
	ms := e.Time.UnixMilli()
	b := make([]byte, 0, 512)
	b = append(b, `{"event-time":`...)
	b = appendJSON(b, ms)
	b = append(b, `,"event-id":`...)
	b = appendString(b, e.EventID)
	b = append(b, `,"event-name":`...)
	b = appendString(b, e.Name)
	b = append(b, `,"event-message":`...)
	b = appendString(b, text)
	if e.User != "" {
		b = append(b, `,"userid":`...)
		b = appendString(b, e.User)
		b = append(b, `,"user-uri":"/api/users/`...)
		b = append(b, h.userID(e.User)...)
		b = append(b, '"')
	} else {
		b = append(b, `,"userid":null,"user-uri":null`...)
	}
	b = append(b, `,"event-data-items":[`...)
	for n := range e.Items {
		i := len(e.Items) - 1 - n
		if n > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"data-item-number":`...)
		b = appendJSON(b, i)
		b = append(b, `,"data-item-type":"string","data-item-value":`...)
		b = appendString(b, e.Items[i])
		b = append(b, '}')
	}
	b = append(b, `],"event-details":[]}`...)
	return logEntry{ms, b}
}

func (h *HMC) newLogEntries(entries []LogEntry) []logEntry {
	made := make([]logEntry, 0, len(entries))
	for _, e := range entries {
		made = append(made, h.newLogEntry(e))
	}
	return made
}

// book is the log of a topic type.
func (h *HMC) book(kind string) *logBook {
	if kind == TopicAudit {
		return &h.audit
	}
	return &h.security
}

// userID gives a user an object id that stays the same.
func (h *HMC) userID(userid string) string {
	if h.userIDs[userid] == "" {
		h.userIDs[userid] = h.world.uuid()
	}
	return h.userIDs[userid]
}

// apiLogonEntry and apiLogoffEntry are the security log's entries 1941 and 1942 that an HMC writes
// for each session of the Web Services API. They name the session's internal id, never its token.
func (h *HMC) apiLogonEntry(s *session, from string) logEntry {
	return h.newLogEntry(LogEntry{
		EventID: "1941", Name: "WebServicesLogon", User: s.user, Items: []string{s.user, s.id, from},
		Message: "User {0} has logged on to Web Services API session {1} from location {2}",
	})
}

func (h *HMC) apiLogoffEntry(s *session, why string) logEntry {
	return h.newLogEntry(LogEntry{
		EventID: "1942", Name: "WebServicesLogoff", User: s.user, Items: []string{s.user, s.id, why},
		Message: "User {0} has logged off from Web Services API session {1} due to {2}",
	})
}

func (h *HMC) badLogonEntry(userid string) logEntry {
	return h.newLogEntry(LogEntry{
		EventID: "522", Name: "LogonFailed", Items: []string{userid},
		Message: "User {0} attempted to log on with a user identification or password that was not valid",
	})
}

// logLocked writes entries into the log of a topic type, and publishes them in one notification.
func (h *HMC) logLocked(kind string, entries ...logEntry) int {
	h.book(kind).add(entries...)
	return h.publishAllLocked(kind, logEntryNotification(entries))
}
