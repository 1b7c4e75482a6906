// Package event defines the one thing hmcnotifyd delivers, its JSON form, and the record it is
// stored as.
//
// An event is built and encoded once, when it is stored. Whatever reads it later (a sink, the event
// stream) passes the stored JSON on, so that every consumer sees the same bytes.
package event

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
)

// The notification types a HMC is known to publish (header "notification-type").
// A type nobody has seen yet passes through unchanged.
const (
	TypeStatusChange    = "status-change"
	TypePropertyChange  = "property-change"
	TypeInventoryChange = "inventory-change"
	TypeJobCompletion   = "job-completion"
	TypeOSMessage       = "os-message"
	TypeLogEntry        = "log-entry"
)

// The types of bridge events: what the daemon reports about its own connection to an HMC.
const (
	TypeBridgeConnected    = "bridge-connected"
	TypeBridgeDisconnected = "bridge-disconnected"
	TypeBridgeGap          = "bridge-gap"
	TypeBridgeHeartbeat    = "bridge-heartbeat"
	TypeBridgeTest         = "bridge-test"
)

// The types of events that the daemon makes of several notifications, or of what it asked an HMC
// for.
const (
	// One event for a flood of equal status changes.
	TypeStatusChangeSummary = "status-change-summary"
	TypeHardwareMessage     = "hardware-message"
	// An operating system was loaded.
	TypeIPL = "ipl"
)

// NotificationTypes lists the six known notification types in the order of their documentation.
func NotificationTypes() []string {
	return []string{
		TypeStatusChange, TypePropertyChange, TypeInventoryChange,
		TypeJobCompletion, TypeOSMessage, TypeLogEntry,
	}
}

// Types lists every type that is known, those of notifications first.
func Types() []string {
	return append(NotificationTypes(),
		TypeBridgeConnected, TypeBridgeDisconnected, TypeBridgeGap, TypeBridgeHeartbeat, TypeBridgeTest,
		TypeStatusChangeSummary, TypeHardwareMessage, TypeIPL)
}

// How an event came to be known.
const (
	// The HMC published it while the link was up.
	OriginLive = "live"
	// The HMC replayed it (an OS message with is-refresh true).
	OriginRefresh = "refresh"
	// Fetched after a gap.
	OriginBackfill = "backfill"
	// Derived by comparing states.
	OriginReconcile = "reconcile"
	// About the daemon itself.
	OriginBridge = "bridge"
)

// How much an event matters to the person on call.
const (
	SeverityInfo     = "info"
	SeverityWarning  = "warning"
	SeverityCritical = "critical"
)

// Severities lists every severity, the least first.
func Severities() []string { return []string{SeverityInfo, SeverityWarning, SeverityCritical} }

// Worse returns the severity that matters more.
func Worse(a, b string) string {
	if slices.Index(Severities(), b) > slices.Index(Severities(), a) {
		return b
	}
	return a
}

// Milder returns the severity that matters less.
func Milder(a, b string) string {
	if Worse(a, b) == a {
		return b
	}
	return a
}

// The kinds of topics, as the label topic_type and the field topic_type name them.
const (
	TopicObject    = "object"
	TopicJob       = "job"
	TopicAudit     = "audit"
	TopicSecurity  = "security"
	TopicOSMessage = "os-message"
	TopicOther     = "other"
)

// TopicTypes lists every value a topic type can have.
func TopicTypes() []string {
	return []string{TopicObject, TopicJob, TopicAudit, TopicSecurity, TopicOSMessage, TopicOther}
}

// LogTopics lists the topic types of the console's logs.
func LogTopics() []string { return []string{TopicAudit, TopicSecurity} }

// IsLog says whether a topic type is that of one of the console's logs.
func IsLog(kind string) bool { return kind == TopicAudit || kind == TopicSecurity }

// Event is one thing the daemon delivers. Its JSON form is the project's interface: fields are
// added, never renamed or removed without a deprecation.
type Event struct {
	ID                string    `json:"id"`
	HMC               string    `json:"hmc"`
	Type              string    `json:"type"`
	Time              time.Time `json:"time"`
	Received          time.Time `json:"received"`
	Topic             string    `json:"topic,omitempty"`
	TopicType         string    `json:"topic_type,omitempty"`
	SessionSequenceNr *int64    `json:"session_sequence_nr,omitempty"`
	GlobalSequenceNr  *int64    `json:"global_sequence_nr,omitempty"`
	Origin            string    `json:"origin"`
	Resource          *Resource `json:"resource,omitempty"`
	Summary           string    `json:"summary,omitempty"`
	Severity          string    `json:"severity"`
	// Labels are of the HMC, or by rules, in the order of their names.
	Labels Headers `json:"labels,omitempty"`
	// Runbook is the address of a page that says what to do.
	Runbook string `json:"runbook,omitempty"`
	// Unacceptable is what the HMC itself says of the status that a resource has come to; nil: that
	// is not known.
	Unacceptable *bool `json:"unacceptable,omitempty"`
	// Repeat marks a status change that was reported before.
	Repeat bool `json:"repeat,omitempty"`
	// Planned marks what the daemon was told to do, or what an audit entry or a job explains.
	Planned bool `json:"planned,omitempty"`
	// SeenBy names the HMCs that see the same, the one that reported it first.
	SeenBy  []string `json:"seen_by,omitempty"`
	Headers Headers  `json:"headers,omitempty"`
	// Body is compact JSON, absent where the HMC sent none.
	Body json.RawMessage `json:"body,omitempty"`
	// BodyText is a body that was not JSON.
	BodyText string `json:"body_text,omitempty"`
}

// FieldNames lists the names that events have in JSON.
func FieldNames() []string {
	var names []string
	for _, t := range []reflect.Type{reflect.TypeFor[Event](), reflect.TypeFor[Resource]()} {
		for f := range t.Fields() {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			names = append(names, name)
		}
	}
	return names
}

// Resource is the managed object an event is about.
type Resource struct {
	Class       string `json:"class,omitempty"`
	Name        string `json:"name,omitempty"`
	ObjectURI   string `json:"object_uri,omitempty"`
	ObjectID    string `json:"object_id,omitempty"`
	ElementURI  string `json:"element_uri,omitempty"`
	ElementID   string `json:"element_id,omitempty"`
	ElementName string `json:"element_name,omitempty"`
	CPC         string `json:"cpc,omitempty"`
	// What an LPAR or partition runs, or ran last, where the HMC tells.
	OSName  string `json:"os_name,omitempty"`
	OSLevel string `json:"os_level,omitempty"`
	Sysplex string `json:"sysplex,omitempty"`
}

// Header is one STOMP header, unescaped.
type Header struct{ Name, Value string }

// Headers are the STOMP headers of a notification in the order of arrival. In JSON they are an
// object; of a repeated name the first one counts, as STOMP 1.2 says.
type Headers []Header

// Get returns the value of the first header called name, or "".
func (h Headers) Get(name string) string {
	for i := range h {
		if h[i].Name == name {
			return h[i].Value
		}
	}
	return ""
}

// UnmarshalJSON reads the object form. The order of the keys is kept.
func (h *Headers) UnmarshalJSON(data []byte) error {
	var m map[string]string
	if err := json.Unmarshal(data, &m); err != nil {
		return err
	}
	*h = make(Headers, 0, len(m))
	for name := range Members(data) {
		// As the map has it: U+FFFD for what is not UTF-8.
		key := string([]rune(string(name)))
		if value, first := m[key]; first {
			*h = append(*h, Header{Name: key, Value: value})
			delete(m, key)
		}
	}
	return nil
}

// Key names what the order of events is kept by: the resource, or the topic where there is none.
func (e *Event) Key() string {
	if e.Resource != nil && e.Resource.ObjectURI != "" {
		return e.Resource.ObjectURI
	}
	return e.Topic
}

// ID is an event id before it is written as text.
type ID [16]byte

// String returns the id as events have it: 32 lower-case hexadecimal digits.
func (id ID) String() string {
	var text [2 * len(id)]byte
	hex.Encode(text[:], id[:])
	return string(text[:])
}

// IDOf derives an event id from what the thing is: the same parts always give the same id, other
// parts another one.
func IDOf(parts ...string) ID {
	buf := make([]byte, 0, 512)
	for _, p := range parts {
		buf = append(buf, p...)
		// Keeps ("ab","c") and ("a","bc") apart: STOMP header values hold no NUL.
		buf = append(buf, 0)
	}
	sum := sha256.Sum256(buf)
	return ID(sum[:16])
}

// NewID returns what IDOf does, as text.
func NewID(parts ...string) string { return IDOf(parts...).String() }

// Validate says what an event lacks to be delivered.
func (e *Event) Validate() error {
	switch {
	case e.ID == "":
		return fmt.Errorf("event: no id")
	case e.HMC == "":
		return fmt.Errorf("event %s: no hmc", e.ID)
	case e.Type == "":
		return fmt.Errorf("event %s: no type", e.ID)
	}
	return nil
}
