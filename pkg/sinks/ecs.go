package sinks

import (
	"bytes"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// ecsVersion is that of the Elastic Common Schema whose names documents have:
// https://www.elastic.co/docs/reference/ecs/ecs-field-reference
const ecsVersion = "8.17.0"

// ecs makes documents of events.
type ecs struct {
	// fixed are the members that all documents have, from the opening bracket to a comma.
	fixed []byte
	// dataset is part of the object event.
	dataset []byte
}

// newECS makes documents for a data stream; "": for an index.
func newECS(stream, version string) ecs {
	dataset := "hmc"
	var e ecs
	e.fixed = append(e.fixed, `{"ecs":{"version":"`+ecsVersion+`"},"agent":{"type":"hmcnotifyd"`...)
	if version != "" {
		e.fixed = appendQuoted(append(e.fixed, `,"version":`...), version)
	}
	e.fixed = append(e.fixed, "},"...)
	// The name of a data stream consists of these three.
	if parts := strings.SplitN(stream, "-", 3); len(parts) == 3 {
		dataset = parts[1]
		e.fixed = appendQuoted(append(e.fixed, `"data_stream":{"type":`...), parts[0])
		e.fixed = appendQuoted(append(e.fixed, `,"dataset":`...), parts[1])
		e.fixed = appendQuoted(append(e.fixed, `,"namespace":`...), parts[2])
		e.fixed = append(e.fixed, "},"...)
	}
	e.dataset = appendQuoted(nil, dataset)
	return e
}

// ecsKind is what ECS calls a kind of event: lists of its values.
type ecsKind struct{ category, kind string }

var ecsKinds = map[string]ecsKind{
	event.TypeStatusChange:        {`["host"]`, `["change"]`},
	event.TypeStatusChangeSummary: {`["host"]`, `["change"]`},
	event.TypePropertyChange:      {`["host","configuration"]`, `["change"]`},
	event.TypeInventoryChange:     {`["host"]`, `["change"]`},
	event.TypeJobCompletion:       {`["process"]`, `["end"]`},
	event.TypeOSMessage:           {`["host"]`, `["info"]`},
	event.TypeHardwareMessage:     {`["host"]`, `["info"]`},
	event.TypeIPL:                 {`["host"]`, `["start"]`},
}

// ecsSource names a member of an event, where it is in a document, and how its value begins.
type ecsSource struct {
	from, object, name string
	form               byte
}

// fits says whether a value is of the type that a source has. The first document decides on the
// types in an index, and what is of another one is refused from then on: one event that is not as
// it should be must not decide for all others.
func (s *ecsSource) fits(value []byte) bool {
	switch form := value[0]; form {
	case '"', '{', '[', 't':
		return form == s.form
	case 'f':
		return s.form == 't'
	case 'n': // null
		return false
	default:
		return s.form == '0'
	}
}

// ecsSources names members of an event, and where they are in a document. Those of one object stand
// together.
var ecsSources = [...]ecsSource{
	{"summary", "", "message", '"'},
	{"labels", "", "labels", '{'},
	{"severity", "log", "level", '"'},
	{"hmc", "observer", "name", '"'},
	{"name", "host", "name", '"'},
	{"object_id", "host", "id", '"'},
	{"class", "host", "type", '"'},
	{"os_name", "host.os", "name", '"'},
	{"os_level", "host.os", "version", '"'},
	{"id", "event", "id", '"'},
	{"type", "event", "action", '"'},
	{"received", "event", "created", '"'},
	{"session_sequence_nr", "event", "sequence", '0'},
	{"runbook", "event", "reference", '"'},
	{"topic", "hmc", "topic", '"'},
	{"topic_type", "hmc", "topic_type", '"'},
	{"global_sequence_nr", "hmc", "global_sequence_nr", '0'},
	{"origin", "hmc", "origin", '"'},
	{"cpc", "hmc", "cpc", '"'},
	{"object_uri", "hmc", "object_uri", '"'},
	{"element_uri", "hmc", "element_uri", '"'},
	{"element_id", "hmc", "element_id", '"'},
	{"element_name", "hmc", "element_name", '"'},
	{"sysplex", "hmc", "sysplex", '"'},
	{"unacceptable", "hmc", "unacceptable", 't'},
	{"repeat", "hmc", "repeat", 't'},
	{"planned", "hmc", "planned", 't'},
	{"seen_by", "hmc", "seen_by", '['},
}

// ecsIndex finds a member of an event in ecsSources.
var ecsIndex = sync.OnceValue(func() map[string]int {
	index := make(map[string]int, len(ecsSources))
	for i, source := range ecsSources {
		index[source.from] = i
	}
	return index
})

// append appends the document of an event. What it takes out of the event's JSON it takes as it
// stands there. The event as a whole is event.original.
func (e *ecs) append(dst []byte, r *event.Record) []byte {
	var (
		values     [len(ecsSources)][]byte
		body, time []byte
		index      = ecsIndex()
	)
	read := func(object []byte) (resource []byte) {
		for name, value := range event.Members(object) {
			switch i, ok := index[string(name)]; {
			case ok && ecsSources[i].fits(value):
				values[i] = value
			case string(name) == "resource":
				resource = value
			case string(name) == "time":
				time = value
			case string(name) == "body":
				body = value
			}
		}
		return resource
	}
	read(read(r.JSON))
	values[index["id"]] = appendQuoted(nil, r.ID)

	f := eventFields{record: r, time: event.String(time)}
	dst = f.at().UTC().AppendFormat(append(append(dst, e.fixed...), `"@timestamp":"`...), ecsTime)
	dst = append(dst, '"', ',')
	open := ""
	for i, source := range ecsSources {
		if values[i] == nil {
			continue
		}
		if source.object != open {
			dst = e.enter(dst, open, source.object, r, body)
			open = source.object
		}
		dst = append(append(append(dst, '"'), source.name...), '"', ':')
		dst = append(append(dst, values[i]...), ',')
	}
	dst = closeObjects(dst, open)
	if user := event.String(event.Member(body, "userid")); r.Type == event.TypeLogEntry && user != "" {
		dst = append(appendQuoted(append(dst, `"user":{"name":`...), user), '}', ',')
	}
	dst[len(dst)-1] = '}'
	return dst
}

// ecsTime is a time that Elasticsearch reads, to the millisecond.
const ecsTime = "2006-01-02T15:04:05.000Z"

// enter ends one object and begins another. Each member has a comma behind it.
func (e *ecs) enter(dst []byte, from, to string, r *event.Record, body []byte) []byte {
	if inner, ok := strings.CutPrefix(to, from+"."); ok && from != "" {
		return append(append(append(dst, '"'), inner...), '"', ':', '{')
	}
	dst = closeObjects(dst, from)
	for name := range strings.SplitSeq(to, ".") {
		dst = append(append(append(dst, '"'), name...), '"', ':', '{')
	}
	if to == "event" {
		dst = append(append(dst, `"kind":"event","module":"hmc","dataset":`...), e.dataset...)
		dst = appendKind(append(dst, ','), r.Type, body)
		dst = append(appendText(append(dst, `"original":`...), r.JSON), ',')
	}
	return dst
}

// closeObjects ends an object, and those that it is in.
func closeObjects(dst []byte, path string) []byte {
	if path == "" {
		return dst
	}
	for range strings.SplitSeq(path, ".") {
		dst[len(dst)-1] = '}' // there is a member, and the comma behind it
		dst = append(dst, ',')
	}
	return dst
}

// appendKind appends what ECS calls the kind of an event.
func appendKind(dst []byte, typ string, body []byte) []byte {
	k := ecsKinds[typ]
	if typ == event.TypeLogEntry {
		id := event.Unquoted(event.Member(body, "event-id"))
		means := cadfKindOf(id)
		switch action, _, _ := strings.Cut(means.action, "/"); action {
		case "authenticate":
			k = ecsKind{`["authentication"]`, `["start"]`}
			if strings.Contains(means.action, "logoff") {
				k.kind = `["end"]`
			}
		case "create", "update", "delete":
			k = ecsKind{`["configuration"]`, `["change"]`}
		}
		if id != "" {
			dst = append(appendQuoted(append(dst, `"code":`...), id), ',')
		}
		outcome := means.outcome
		if outcome == "failed" {
			outcome = "failure"
		}
		dst = append(appendQuoted(append(dst, `"outcome":`...), outcome), ',')
	}
	if k.category != "" {
		dst = append(append(append(dst, `"category":`...), k.category...), ',')
		dst = append(append(append(dst, `"type":`...), k.kind...), ',')
	}
	return dst
}

// appendText appends JSON as the text of a JSON string.
func appendText(dst, text []byte) []byte {
	if !utf8.Valid(text) {
		text = bytes.ToValidUTF8(text, []byte("\ufffd"))
	}
	dst = append(dst, '"')
	start := 0
	for i, c := range text {
		if c == '"' || c == '\\' {
			dst = append(append(dst, text[start:i]...), '\\')
			start = i
		}
	}
	return append(append(dst, text[start:]...), '"')
}
