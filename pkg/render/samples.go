package render

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// Sample is an event that a template is tried on.
type Sample struct {
	// for people
	Name   string
	Record event.Record
}

// nasty is in every text of a sample that an HMC does not promise to be a plain word.
const nasty = " \"quoted\" back\\slash 'single' <tag> & \t\r\n\u0001 Ünïcödé \u2028"

// Samples returns events of each type: one with every field, and with what breaks a careless
// template in its texts; one with long texts; and one with nothing but what every event has. The
// last is of a type that nobody has seen yet.
func Samples() []Sample {
	var all []Sample
	for i, s := range samples {
		e := s.event(nasty)
		// Whatever a text is cut to, in some of them the cut goes through an escape if it
		// comes behind the escaping.
		long := strings.Repeat("a", i) + strings.Repeat("\"\u0001a", 1500)
		all = append(all,
			Sample{"a sample event of the type " + s.kind, event.NewRecord(e)},
			Sample{"a sample event of the type " + s.kind + " with long texts", event.NewRecord(s.event(long))},
			Sample{"a sample event of the type " + s.kind + " with hardly any fields", event.NewRecord(&event.Event{
				ID: e.ID, HMC: e.HMC, Type: e.Type, Time: e.Time, Received: e.Received,
				Origin: e.Origin, Severity: e.Severity,
			})},
		)
	}
	return all
}

type sample struct {
	kind, origin, severity string
	resource               *event.Resource
	// "*" stands for a text
	body string
}

var (
	samplePartition = &event.Resource{
		Class: "partition", Name: "PART1", ObjectURI: "/api/partitions/9f0c", ObjectID: "9f0c", CPC: "CPC1",
	}
	sampleConsole = &event.Resource{Class: "console", Name: "HMC1", ObjectURI: "/api/console"}

	samples = []sample{
		{
			event.TypeStatusChange, event.OriginLive, event.SeverityWarning, samplePartition,
			`{"change-reports":[{"old-status":"active","new-status":"stopped","old-additional-status":"*",` +
				`"new-additional-status":null,"has-unacceptable-status":true}]}`,
		},
		{
			event.TypePropertyChange, event.OriginLive, event.SeverityInfo, samplePartition,
			`{"change-reports":[{"property-name":"description","old-value":"*","new-value":"*"},` +
				`{"property-name":"memory","old-value":4096,"new-value":8192.5}]}`,
		},
		{event.TypeInventoryChange, event.OriginLive, event.SeverityInfo, samplePartition, `{"action":"add"}`},
		{
			event.TypeJobCompletion, event.OriginLive, event.SeverityWarning, samplePartition,
			`{"status":"complete","job-status-code":500,"job-reason-code":1,"job-results":{"message":"*"}}`,
		},
		{
			event.TypeOSMessage, event.OriginRefresh, event.SeverityCritical, samplePartition,
			`{"sequence-number":4711,"message-id":"17","message-text":"*","os-name":null,` +
				`"timestamp":1795168800123,"sound-alarm":false,"is-priority":true,"is-held":true,"is-refresh":true,` +
				`"prompt-text":"*"}`,
		},
		{
			event.TypeLogEntry, event.OriginBackfill, event.SeverityInfo, sampleConsole,
			`{"event-time":1795168800123,"event-id":"1941","event-name":"WebServicesLogon","event-message":"*",` +
				`"userid":null,"user-uri":null,"event-data-items":[{"data-item-number":0,"data-item-type":"string",` +
				`"data-item-value":"*"}],"event-details":[]}`,
		},
		{
			event.TypeHardwareMessage, event.OriginBackfill, event.SeverityWarning, sampleConsole,
			`{"element-uri":"/api/console/hardware-messages/7","element-id":"7","class":"hardware-message",` +
				`"text":"*","timestamp":1795168800123,"service-supported":true}`,
		},
		{
			event.TypeStatusChangeSummary, event.OriginLive, event.SeverityWarning,
			&event.Resource{Class: "cpc", Name: "CPC1", ObjectURI: "/api/cpcs/1"},
			`{"cpc":"CPC1","new-status":"not-operating","count":1,"first-time":"2026-11-20T10:00:00.123Z",` +
				`"last-time":"2026-11-20T10:00:02.000Z","resources":[{"class":"partition","name":"*",` +
				`"object-uri":"/api/partitions/9f0c","old-status":"active","new-status":"not-operating",` +
				`"time":"2026-11-20T10:00:00.123Z","id":"9f0c"}]}`,
		},
		{
			event.TypeBridgeConnected, event.OriginBridge, event.SeverityInfo, nil,
			`{"host":"hmc1.example.com","new_session":true,"topics":[{"name":"ensadmin.145","type":"object"}]}`,
		},
		{
			event.TypeBridgeDisconnected, event.OriginBridge, event.SeverityWarning, nil,
			`{"state":"disconnected","cause":"*"}`,
		},
		{
			event.TypeBridgeGap, event.OriginBridge, event.SeverityWarning, nil,
			`{"from":"2026-11-20T09:59:00Z","to":"2026-11-20T10:00:00Z","causes":["*"],"missed":{"object":3}}`,
		},
		{
			event.TypeBridgeHeartbeat, event.OriginBridge, event.SeverityInfo, nil,
			`{"connected":true,"state":"connected","problems":["*"]}`,
		},
		{event.TypeBridgeTest, event.OriginBridge, event.SeverityInfo, nil, `{}`},
		{"type-of-tomorrow", event.OriginLive, event.SeverityInfo, samplePartition, `["*"]`},
	}
)

// event returns the event with text where it has one.
func (s sample) event(text string) *event.Event {
	session, global := int64(12), int64(6399)
	quoted, _ := json.Marshal(text) // cannot fail for a string
	at := time.Date(2026, 11, 20, 10, 0, 0, 123e6, time.UTC)
	e := &event.Event{
		ID: event.NewID(s.kind, "sample"), HMC: "hmc-east", Type: s.kind,
		Time: at, Received: at.Add(7 * time.Millisecond),
		Origin: s.origin, Severity: s.severity, Summary: "summary" + text,
		Body: json.RawMessage(strings.ReplaceAll(s.body, `"*"`, string(quoted))),
	}
	if s.origin != event.OriginBridge {
		e.Topic, e.TopicType = "ensadmin.145", event.TopicObject
		e.SessionSequenceNr, e.GlobalSequenceNr = &session, &global
		e.Headers = event.Headers{{Name: "notification-type", Value: s.kind}, {Name: "name", Value: text}}
		e.SeenBy = []string{"hmc-east", "hmc-west"}
		e.BodyText = text
	}
	if s.resource != nil {
		r := *s.resource
		r.Name += text
		r.ElementName = text
		e.Resource = &r
	}
	return e
}
