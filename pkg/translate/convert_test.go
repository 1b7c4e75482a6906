package translate

import (
	"encoding/json"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/estate"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
)

// partition is a resource as the notification headers of a real HMC name it.
func partitionHeaders(typ string, more ...receiver.Header) receiver.Headers {
	return append(receiver.Headers{
		{Name: "notification-type", Value: typ},
		{Name: "message-id", Value: "ID:HMCHOST-42915-1555356921407-5:1:1:65:2"},
		{Name: "timestamp", Value: "1557755398299"},
		{Name: "session-sequence-nr", Value: "1"},
		{Name: "global-sequence-nr", Value: "6399"},
		{Name: "class", Value: "partition"},
		{Name: "name", Value: "PART1"},
		{Name: "object-id", Value: "e12121da"},
		{Name: "object-uri", Value: "/api/partitions/e12121da"},
	}, more...)
}

func newConverter() *Converter {
	topics, known := new(TopicTable), estate.New()
	topics.Set(map[string]string{"u.1": event.TopicObject, "u.1aud": event.TopicAudit})
	known.Learn(&estate.Listing{HMC: "hmc-east", Resources: []estate.Resource{{URI: "/api/partitions/e12121da", Class: "partition", Name: "PART1", CPC: "CPC1"}}})
	c := NewConverter("hmc-east", topics, known, nil)
	return &c
}

// convertAll returns the events as a consumer would read them.
func convertAll(t *testing.T, c *Converter, topic string, h receiver.Headers, body string) []*event.Event {
	t.Helper()
	n := receiver.Notification{Topic: topic, Headers: h, Received: time.Unix(1700000000, 0)}
	if body != "" {
		n.Body = []byte(body)
	}
	var out []*event.Event
	var parsed Notification
	parsed.Parse(&n, body == "" || utf8.ValidString(body) && json.Valid([]byte(body)))
	id, _ := parsed.ID(c.hmc)
	c.Convert(&parsed, id, func(p *Part) {
		e := p.Event
		rec, err := event.ParseRecord(event.AppendRecord(nil, e))
		if err != nil {
			t.Fatal(err)
		}
		if !json.Valid(rec.JSON) {
			t.Fatalf("not JSON: %s", rec.JSON)
		}
		back, err := rec.Event()
		if err != nil {
			t.Fatal(err)
		}
		if err := back.Validate(); err != nil {
			t.Error(err)
		}
		out = append(out, back)
	})
	return out
}

// What each shape of a notification becomes: those of captures from real HMCs and of IBM's book.
func TestConvert(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, topic   string
		headers       receiver.Headers
		body          string
		summary       string
		severity      string
		topicType     string
		bodyWant      string
		bodyText      string
		resourceClass string
	}{
		{
			name: "status-change", topic: "u.1", headers: partitionHeaders("status-change"),
			body:    `{"change-reports": [{"old-status":"active","old-additional-status":null, "new-status":"stopped","new-additional-status":null}]}`,
			summary: "partition PART1 on CPC1: active -> stopped", severity: event.SeverityWarning, topicType: event.TopicObject,
			bodyWant: `{"change-reports":[{"old-status":"active","old-additional-status":null,"new-status":"stopped","new-additional-status":null}]}`,
		},
		{
			name: "status-change of several reports, oldest first", topic: "u.1", headers: partitionHeaders("status-change"),
			body:    `{"change-reports":[{"old-status":"active","new-status":"stopping"},{"old-status":"stopping","new-status":"terminated"}]}`,
			summary: "partition PART1 on CPC1: active -> stopping -> terminated", severity: event.SeverityWarning, topicType: event.TopicObject,
		},
		{
			name: "a status nobody has seen passes through", topic: "u.1", headers: partitionHeaders("status-change"),
			body:    `{"change-reports":[{"old-status":"active","new-status":"dreaming","has-unacceptable-status":true,"new-key":{"a":[1]}}]}`,
			summary: "partition PART1 on CPC1: active -> dreaming", severity: event.SeverityWarning, topicType: event.TopicObject,
			bodyWant: `{"change-reports":[{"old-status":"active","new-status":"dreaming","has-unacceptable-status":true,"new-key":{"a":[1]}}]}`,
		},
		{
			name: "property-change", topic: "u.1",
			headers: partitionHeaders("property-change", receiver.Header{Name: "property-names", Value: " description ifl-processors "}),
			body:    `{"change-reports":[{"property-name":"description","old-value":"a","new-value":"b"},{"property-name":"ifl-processors","old-value":2,"new-value":3}]}`,
			summary: `partition PART1 on CPC1: description "a" -> "b", ifl-processors 2 -> 3`, severity: event.SeverityInfo, topicType: event.TopicObject,
		},
		{
			name: "inventory-change has an empty body", topic: "u.1",
			headers: partitionHeaders("inventory-change", receiver.Header{Name: "action", Value: "remove"}),
			summary: "partition PART1 on CPC1: removed", severity: event.SeverityInfo, topicType: event.TopicObject,
		},
		{
			name: "inventory-change of an element", topic: "u.1",
			headers: partitionHeaders("inventory-change", receiver.Header{Name: "action", Value: "add"},
				receiver.Header{Name: "element-uri", Value: "/api/partitions/e12121da/nics/n1"}),
			summary: "partition PART1 on CPC1: element nics/n1 added", severity: event.SeverityInfo, topicType: event.TopicObject,
		},
		{
			name: "job-completion has an empty body", topic: "u.1job",
			headers: receiver.Headers{{Name: "notification-type", Value: "job-completion"}, {Name: "job-uri", Value: "/api/jobs/17"}},
			summary: "job 17 completed", severity: event.SeverityInfo, topicType: event.TopicJob,
		},
		{
			name: "a type nobody has seen", topic: "u.1", headers: partitionHeaders("mood-change"), body: `{"mood":1}`,
			summary: "partition PART1 on CPC1: mood-change", severity: event.SeverityInfo, topicType: event.TopicObject, bodyWant: `{"mood":1}`,
		},
		{
			name: "a body that is not JSON", topic: "u.1", headers: partitionHeaders("status-change"), body: `{"change-reports":`,
			summary: "partition PART1 on CPC1: status changed", severity: event.SeverityInfo, topicType: event.TopicObject, bodyText: `{"change-reports":`,
		},
		{
			name: "an os-message without the array stays whole", topic: "u.1osm.x", headers: partitionHeaders("os-message"), body: `{"os-messages":null}`,
			summary: "partition PART1 on CPC1: os-message", severity: event.SeverityInfo, topicType: event.TopicOSMessage, bodyWant: `{"os-messages":null}`,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			all := convertAll(t, newConverter(), test.topic, test.headers, test.body)
			if len(all) != 1 {
				t.Fatalf("%d events", len(all))
			}
			e := all[0]
			if e.Summary != test.summary || e.Severity != test.severity || e.TopicType != test.topicType || e.Origin != event.OriginLive {
				t.Errorf("got %q, %s, %s, %s", e.Summary, e.Severity, e.TopicType, e.Origin)
			}
			if test.bodyWant != "" && string(e.Body) != test.bodyWant {
				t.Errorf("body %s", e.Body)
			}
			if e.BodyText != test.bodyText {
				t.Errorf("body_text %q", e.BodyText)
			}
			if e.Type != test.headers.Get("notification-type") || len(e.Headers) != len(test.headers) {
				t.Errorf("type %s, %d headers", e.Type, len(e.Headers))
			}
		})
	}
}

// A captured os-message: message-id as a string and as a number, timestamp -1, prompt "" and null, several at once.
func TestConvertOSMessages(t *testing.T) {
	t.Parallel()
	const body = `{"os-messages":[
	  {"sequence-number":1564,"message-id":"0","message-text":" \n","os-name":null,"timestamp":-1,"sound-alarm":false,"is-priority":false,"is-held":false,"is-refresh":false,"prompt-text":""},
	  {"sequence-number":1565,"message-id":2328551,"message-text":"IEE094D\nsecond line","os-name":"ZOS1","timestamp":1574705197000,"sound-alarm":false,"is-priority":false,"is-held":true,"is-refresh":true,"prompt-text":null}]}`
	c := newConverter()
	all := convertAll(t, c, "u.1osm.e12121da", partitionHeaders("os-message"), body)
	if len(all) != 2 {
		t.Fatalf("%d events", len(all))
	}
	first, second := all[0], all[1]
	if first.Origin != event.OriginLive || !first.Time.Equal(time.UnixMilli(1557755398299)) {
		t.Errorf("first: %s at %s", first.Origin, first.Time)
	}
	if second.Origin != event.OriginRefresh || !second.Time.Equal(time.UnixMilli(1574705197000)) || second.Severity != event.SeverityWarning {
		t.Errorf("second: %s at %s, %s", second.Origin, second.Time, second.Severity)
	}
	if second.Summary != "partition PART1 on CPC1: held, waits for an answer: IEE094D" {
		t.Errorf("summary %q", second.Summary)
	}
	if string(event.Member(second.Body, "message-id")) != "2328551" {
		t.Errorf("body %s", second.Body)
	}
	// The same message in another notification, as a refresh sends it, has the same id.
	again := convertAll(t, c, "u.2osm.e12121da", append(partitionHeaders("os-message"), receiver.Header{Name: "x", Value: "y"}),
		`{"os-messages":[{"sequence-number":1564,"message-text":" \n","is-refresh":true}]}`)
	if again[0].ID != first.ID || first.ID == second.ID {
		t.Errorf("ids %s %s %s", first.ID, second.ID, again[0].ID)
	}
}

func TestConvertLogEntries(t *testing.T) {
	t.Parallel()
	const entry = `{"event-time":1574705197000,"event-id":"1941","event-name":"x","event-message":"User zbc has logged on","userid":"zbc","user-uri":null,"event-data-items":[{"data-item-number":0}],"event-details":[]}`
	c := newConverter()
	h := receiver.Headers{{Name: "notification-type", Value: "log-entry"}, {Name: "message-id", Value: "ID:1"}}
	all := convertAll(t, c, "u.1aud", h, `{"log-entries":[`+entry+`,{"event-time":1574705197001,"event-id":"1942","event-message":""}]}`)
	if len(all) != 2 {
		t.Fatalf("%d events", len(all))
	}
	if all[0].TopicType != event.TopicAudit || all[0].Summary != "User zbc has logged on [1941]" || !all[0].Time.Equal(time.UnixMilli(1574705197000)) {
		t.Errorf("first: %+v", all[0])
	}
	if all[1].Summary != "log entry 1942" {
		t.Errorf("summary %q", all[1].Summary)
	}
	if string(all[0].Body) != entry {
		t.Errorf("body %s", all[0].Body)
	}
	// The same entry in the security log is another thing.
	sec := convertAll(t, c, "other.7sec", h, `{"log-entries":[`+entry+`]}`)
	if sec[0].TopicType != event.TopicSecurity || sec[0].ID == all[0].ID {
		t.Errorf("security: %s %s", sec[0].TopicType, sec[0].ID)
	}
}

// The id is the same for the same frame and another one for anything else.
func TestConvertIDs(t *testing.T) {
	t.Parallel()
	c := newConverter()
	one := convertAll(t, c, "u.1", partitionHeaders("status-change"), "{}")[0].ID
	if again := convertAll(t, c, "u.1", partitionHeaders("status-change"), "{}")[0].ID; again != one {
		t.Error("the same frame has another id")
	}
	h := partitionHeaders("status-change")
	h[1].Value = "ID:HMCHOST-42915-1555356921407-5:1:1:65:3"
	if convertAll(t, c, "u.1", h, "{}")[0].ID == one {
		t.Error("another message has the same id")
	}
	noID := receiver.Headers{{Name: "notification-type", Value: "x"}}
	if convertAll(t, c, "u.1", noID, `{"a":1}`)[0].ID == convertAll(t, c, "u.1", noID, `{"a":2}`)[0].ID {
		t.Error("without a message-id different bodies have the same id")
	}
}

func FuzzConvert(f *testing.F) {
	f.Add("os-message", []byte(`{"os-messages":[{"sequence-number":1}]}`))
	f.Add("log-entry", []byte(`{"log-entries":[{"event-id":1},2,"x",null,[]]}`))
	f.Add("status-change", []byte(`{"change-reports":[{"old-status":1}]}`))
	f.Add("property-change", []byte(`{"change-reports":[{"old-value":{"a":1}}]}`))
	f.Fuzz(func(t *testing.T, typ string, body []byte) {
		n := receiver.Notification{Topic: "u.1", Headers: partitionHeaders(typ), Body: body}
		valid := json.Valid(body)
		events := 0
		var parsed Notification
		parsed.Parse(&n, valid)
		newConverter().Convert(&parsed, event.ID{}, func(p *Part) {
			e := p.Event
			events++
			if !json.Valid(e.AppendJSON(nil)) {
				t.Fatalf("not JSON: %s", e.AppendJSON(nil))
			}
		})
		if events == 0 {
			t.Fatal("the notification vanished")
		}
	})
}
