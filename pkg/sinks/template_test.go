package sinks

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/render"
)

func withTemplate(text string) func(*config.Sink) {
	return func(c *config.Sink) { c.Webhook.Format, c.Webhook.Template = config.FormatTemplate, text }
}

func TestTemplate(t *testing.T) {
	requests := make(chan request, 1)
	server := consumer(t, requests)
	for _, test := range []struct {
		name, text, contentType string
		batch, send             int
		want                    string
	}{
		{"json", `{"text": {{ json .Resource.Name }}}`, "", 1, 1, `{"text": "PART0"}`},
		{"text", "{{ .Resource.Name }} {{ .Severity }}\n", "text/plain; charset=utf-8", 1, 1, "PART0 warning\n"},
		{"batch", `[{{ range $i, $e := .Events }}{{ if $i }},{{ end }}{{ json .Resource.Name }}{{ end }}]`, "application/x+json", 10, 3, `["PART0","PART1","PART2"]`},
		{"batch of one", `[{{ range $i, $e := .Events }}{{ if $i }},{{ end }}{{ json .Resource.Name }}{{ end }}]`, "", 10, 1, `["PART0"]`},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := webhookTo(t, server.URL, withTemplate(test.text), func(c *config.Sink) {
				c.Webhook.ContentType, c.Batch.MaxEvents = test.contentType, test.batch
			})
			if err := s.Send(t.Context(), records(0, test.send)); err != nil {
				t.Fatal(err)
			}
			got := <-requests
			want := test.contentType
			if want == "" {
				want = "application/json"
			}
			if string(got.body) != test.want || got.header.Get("Content-Type") != want || got.length != int64(len(test.want)) {
				t.Errorf("%s: %q", got.header.Get("Content-Type"), got.body)
			}
		})
	}
}

// TestTemplateFails has events that a template cannot take. They are refused for good, with the place, and nothing is sent.
func TestTemplateFails(t *testing.T) {
	requests := make(chan request, 1)
	server := consumer(t, requests)
	const secret = "hunter2"
	odd := recordWithBody(0, `{"n":"`+secret+`"}`)
	for batch, text := range map[int]string{
		1:  "{\n\"n\": {{ if lt (field \"n\" .Body | default 1) 3 }}1{{ else }}2{{ end }}}",
		10: "[\n{{ range $i, $e := .Events }}{{ if $i }},{{ end }}{{ if lt (field \"n\" .Body | default 1) 3 }}1{{ else }}2{{ end }}{{ end }}]",
	} {
		s := webhookTo(t, server.URL, withTemplate(text), func(c *config.Sink) { c.Batch.MaxEvents = batch })
		err := s.Send(t.Context(), []event.Record{odd})
		e, ok := errors.AsType[*PermanentError](err)
		if !ok || e.Status != 0 || !strings.Contains(err.Error(), "webhook: nothing was sent, the template failed: line 2: ") || strings.Contains(err.Error(), secret) {
			t.Errorf("%v", err)
		}
		if batch > 1 { // the status has the caller take it apart
			err := s.Send(t.Context(), []event.Record{record(1), odd})
			if e, ok := errors.AsType[*PermanentError](err); !ok || e.Status != 422 {
				t.Errorf("a batch: %v", err)
			}
		}
		if err := s.Send(t.Context(), []event.Record{record(1)}); err != nil {
			t.Errorf("the next event: %v", err)
		}
		<-requests
	}
	select {
	case r := <-requests:
		t.Errorf("sent: %s", r.body)
	default:
	}
}

// ready reads a ready template of the documentation.
func ready(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "..", "docs", "templates", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestReadyTemplates sends every sample through each ready template, and checks what arrives by what the receiver's
// documentation asks for.
func TestReadyTemplates(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(filepath.Join("..", "..", "docs", "templates", "*"))
	if err != nil || len(files) != len(readyTemplates) {
		t.Errorf("%d templates, %d tested: %v", len(files), len(readyTemplates), err)
	}
	for name, check := range readyTemplates {
		t.Run(name, func(t *testing.T) {
			requests := make(chan request, 1)
			s := webhookTo(t, consumer(t, requests).URL, withTemplate(ready(t, name)), func(c *config.Sink) {
				if name == "loki.tmpl" {
					c.Batch.MaxEvents = 100
				}
			})
			for _, sample := range render.Samples() {
				e, err := sample.Record.Event()
				if err != nil {
					t.Fatal(err)
				}
				if err := s.Send(t.Context(), []event.Record{sample.Record}); err != nil {
					t.Fatal(err)
				}
				got := <-requests
				t.Run(sample.Name, func(t *testing.T) {
					check(t, got.body, e)
					if t.Failed() {
						t.Logf("%s", got.body)
					}
				})
			}
		})
	}
}

var readyTemplates = map[string]func(*testing.T, []byte, *event.Event){
	"slack.tmpl":       checkSlack,
	"teams.tmpl":       checkTeams,
	"servicenow.tmpl":  checkServiceNow,
	"pagerduty.tmpl":   checkPagerDuty,
	"ansible-eda.tmpl": checkAnsible,
	"loki.tmpl":        checkLoki,
	"netcool.tmpl":     checkNetcool,
}

// shape reads body into v, which has a field for everything that the receiver knows.
func shape(t *testing.T, body []byte, v any) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		t.Fatalf("%v\n%s", err, body)
	}
	if _, err := d.Token(); err != io.EOF {
		t.Errorf("something follows the JSON value: %v", err)
	}
}

func oneOf(t *testing.T, what, got string, values ...string) {
	t.Helper()
	if !slices.Contains(values, got) {
		t.Errorf("%s is %q, want one of %q", what, got, values)
	}
}

func within(t *testing.T, what, got string, limit int) {
	t.Helper()
	if n := utf8.RuneCountInString(got); n == 0 || n > limit {
		t.Errorf("%s has %d characters, want 1 to %d", what, n, limit)
	}
}

func summaryOf(e *event.Event) string { return cmp.Or(strings.TrimSpace(e.Summary), e.Type) }

func cut(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}

func checkSlack(t *testing.T, body []byte, e *event.Event) {
	var m struct {
		Text        string
		Mrkdwn      *bool
		Attachments []struct {
			Color    string
			MrkdwnIn []string `json:"mrkdwn_in"`
			Fields   []struct {
				Title, Value string
				Short        bool
			}
			Footer string
			TS     int64
		}
	}
	shape(t, body, &m)
	within(t, "text", m.Text, 4000)
	want := strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(cut(summaryOf(e), 1000))
	if m.Text != want {
		t.Errorf("text %q, want %q", m.Text, want)
	}
	if len(m.Attachments) != 1 || m.Attachments[0].TS != e.Time.Unix() {
		t.Fatalf("%+v", m.Attachments)
	}
	a := m.Attachments[0]
	// Slack formats text unless it is told not to, and of an attachment what mrkdwn_in names:
	// https://docs.slack.dev/messaging/formatting-message-text
	if m.Mrkdwn == nil || *m.Mrkdwn || a.MrkdwnIn == nil || len(a.MrkdwnIn) > 0 {
		t.Errorf("Slack formats the text: mrkdwn %v, mrkdwn_in %q", m.Mrkdwn, a.MrkdwnIn)
	}
	if strings.TrimSpace(m.Text) == "" {
		t.Error("Slack refuses a message without a text")
	}
	oneOf(t, "color", a.Color, map[string]string{"info": "good", "warning": "warning", "critical": "danger"}[e.Severity])
	for _, f := range a.Fields {
		within(t, f.Title, f.Title, 50)
		within(t, f.Title, f.Value, 2000)
		if strings.TrimSpace(f.Title) == "" || strings.TrimSpace(f.Value) == "" || strings.ContainsAny(f.Title+f.Value, "<>") {
			t.Errorf("%s is %q: Slack takes that for markup, or for nothing", f.Title, f.Value)
		}
	}
}

func checkTeams(t *testing.T, body []byte, e *event.Event) {
	if len(body) > 28<<10 {
		t.Errorf("%d bytes are more than a message may have", len(body))
	}
	var m struct {
		Type        string
		Attachments []struct {
			ContentType string
			ContentURL  *string
			Content     struct {
				Schema        string `json:"$schema"`
				Type, Version string
				Body          []json.RawMessage
			}
		}
	}
	shape(t, body, &m)
	if m.Type != "message" || len(m.Attachments) != 1 || m.Attachments[0].ContentType != "application/vnd.microsoft.card.adaptive" {
		t.Fatalf("%+v", m)
	}
	card := m.Attachments[0].Content
	if card.Type != "AdaptiveCard" || card.Version != "1.4" || card.Schema != "http://adaptivecards.io/schemas/adaptive-card.json" || len(card.Body) < 4 {
		t.Fatalf("%+v", card)
	}
	// Teams takes Markdown in the text of a TextBlock and in titles and values of facts, not in a TextRun:
	// https://learn.microsoft.com/en-us/microsoftteams/platform/task-modules-and-cards/cards/cards-format
	for i, block := range card.Body {
		var text struct {
			Type, Spacing string
			Inlines       []struct{ Type, Text, Weight, Color string }
		}
		shape(t, block, &text)
		if text.Type != "RichTextBlock" {
			t.Errorf("%s: Teams takes its texts for Markdown", text.Type)
		}
		for _, run := range text.Inlines {
			within(t, "text", run.Text, 1000)
			if run.Type != "TextRun" || strings.TrimSpace(run.Text) == "" {
				t.Errorf("%+v", run)
			}
		}
		if i > 0 {
			if len(text.Inlines) != 2 || !strings.HasSuffix(text.Inlines[0].Text, ": ") {
				t.Errorf("%+v", text)
			}
			continue
		}
		if len(text.Inlines) != 1 || text.Inlines[0].Text != cut(summaryOf(e), 1000) {
			t.Fatalf("%+v", text)
		}
		oneOf(t, "color", text.Inlines[0].Color, map[string]string{"info": "Good", "warning": "Warning", "critical": "Attention"}[e.Severity])
	}
}

// checkLoki holds a body against https://grafana.com/docs/loki/latest/reference/loki-http-api/#ingest-logs and the limits of
// https://grafana.com/docs/loki/latest/configure/#limits_config: labels have values of up to 2048 characters, and are few.
func checkLoki(t *testing.T, body []byte, e *event.Event) {
	var m struct {
		Streams []struct {
			Stream map[string]string
			Values [][]json.RawMessage
		}
	}
	shape(t, body, &m)
	if len(m.Streams) != 1 || len(m.Streams[0].Values) != 1 || len(m.Streams[0].Values[0]) != 3 {
		t.Fatalf("%+v", m)
	}
	stream := m.Streams[0]
	for name, value := range stream.Stream {
		within(t, name, value, 2048)
		oneOf(t, "a label", name, "job", "hmc", "type", "severity")
	}
	var stamp, line string
	var metadata map[string]string
	for i, v := range []any{&stamp, &line, &metadata} {
		shape(t, stream.Values[0][i], v)
	}
	if stamp != strconv.FormatInt(e.Time.UnixNano(), 10) {
		t.Errorf("the time is %q", stamp)
	}
	if r := event.NewRecord(e); line != string(r.JSON) || metadata["id"] != e.ID {
		t.Errorf("%q, %q", line, metadata)
	}
}

// checkNetcool holds a body against the columns of alerts.status:
// https://www.ibm.com/docs/en/netcoolomnibus/8.1?topic=tables-alertsstatus-table
func checkNetcool(t *testing.T, body []byte, e *event.Event) {
	var m struct {
		Manager, Agent, Node, AlertGroup, AlertKey, Summary, URL, EventID, ResourceName, ResourceClass string
		Type, Severity                                                                                 int
		Occurrence                                                                                     int64
	}
	shape(t, body, &m)
	for what, value := range map[string]string{"Manager": m.Manager, "Agent": m.Agent, "Node": m.Node} {
		within(t, what, value, 64)
	}
	for what, value := range map[string]string{"AlertGroup": m.AlertGroup, "AlertKey": m.AlertKey, "Summary": m.Summary} {
		within(t, what, value, 255)
	}
	typ, severity := 13, map[string]int{"info": 2, "warning": 3, "critical": 5}[e.Severity]
	switch e.Type { // what generic_clear knows: 1 is a problem, 2 its resolution
	case event.TypeStatusChange, event.TypeBridgeConnected, event.TypeBridgeDisconnected, event.TypeHardwareMessage:
		typ = 1
	case event.TypeOSMessage:
		if bytes.Contains(e.Body, []byte(`"is-held":true`)) {
			typ = 1
		}
	}
	if resolves(e) {
		typ, severity = 2, 1
	}
	if m.Type != typ || m.Severity != severity || m.Occurrence != e.Time.Unix() || m.EventID != e.ID {
		t.Errorf("%+v, want type %d, severity %d", m, typ, severity)
	}
}

// netcoolRule is an assignment in the rules file of a probe.
var netcoolRule = regexp.MustCompile(`(?m)^\s*@(\w+) = (.*)$`)

// TestNetcoolRules has the rules file of docs/recipes.md use what the template makes, all of it, and set what deduplication and
// generic_clear look at.
func TestNetcoolRules(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "recipes.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rules, ok := strings.Cut(string(doc), "\n# message_bus.rules\n")
	if !ok {
		t.Fatal("docs/recipes.md has no rules file")
	}
	rules, _, _ = strings.Cut(rules, "\n```\n")
	used, set := map[string]bool{}, map[string]bool{}
	for _, m := range netcoolRule.FindAllStringSubmatch(rules, -1) {
		set[m[1]] = true
		for _, name := range regexp.MustCompile(`\$(\w+)`).FindAllStringSubmatch(m[2], -1) {
			used[name[1]] = true
		}
	}
	requests := make(chan request, 1)
	s := webhookTo(t, consumer(t, requests).URL, withTemplate(ready(t, "netcool.tmpl")))
	if err := s.Send(t.Context(), records(0, 1)); err != nil {
		t.Fatal(err)
	}
	var made map[string]any
	if err := json.Unmarshal((<-requests).body, &made); err != nil {
		t.Fatal(err)
	}
	if have := slices.Sorted(maps.Keys(made)); !slices.Equal(slices.Sorted(maps.Keys(used)), have) {
		t.Errorf("the rules use %q, the template makes %q", slices.Sorted(maps.Keys(used)), have)
	}
	for _, column := range []string{
		"Identifier", "Manager", "Node", "AlertGroup", "AlertKey", "Type", "Severity", "Summary", "FirstOccurrence", "LastOccurrence",
	} {
		if !set[column] {
			t.Errorf("the rules do not set %s", column)
		}
	}
}

// A text of blanks is no text.
func TestReadyTemplatesOfBlanks(t *testing.T) {
	for name, check := range map[string]func(*testing.T, []byte, *event.Event){"slack.tmpl": checkSlack, "teams.tmpl": checkTeams, "netcool.tmpl": checkNetcool} {
		requests := make(chan request, 1)
		s := webhookTo(t, consumer(t, requests).URL, withTemplate(ready(t, name)))
		e := &event.Event{
			ID: "1", HMC: "a", Type: event.TypeOSMessage, Severity: event.SeverityInfo, Time: time.Unix(1795168800, 0), Summary: " \t ",
			Resource: &event.Resource{Class: " ", Name: "\u00a0", CPC: " \n"},
		}
		if err := s.Send(t.Context(), []event.Record{event.NewRecord(e)}); err != nil {
			t.Fatal(err)
		}
		check(t, (<-requests).body, e)
	}
}

// resolves says whether an event is about something that is well again, or that nobody is to be called for.
func resolves(e *event.Event) bool {
	switch e.Type {
	case event.TypeStatusChange:
		return e.Severity == event.SeverityInfo
	case event.TypeBridgeConnected:
		return true
	case event.TypeBridgeDisconnected:
		return e.Planned
	case event.TypeHardwareMessage:
		return string(event.Member(e.Body, "deleted")) == "true"
	}
	return false
}

func checkServiceNow(t *testing.T, body []byte, e *event.Event) {
	var m struct {
		Records []struct {
			Source          string
			EventClass      string `json:"event_class"`
			Node, Resource  string
			Type            string
			MetricName      string `json:"metric_name"`
			MessageKey      string `json:"message_key"`
			Severity        string
			ResolutionState string `json:"resolution_state"`
			TimeOfEvent     string `json:"time_of_event"`
			Description     string
			AdditionalInfo  string `json:"additional_info"`
		}
	}
	shape(t, body, &m)
	if len(m.Records) != 1 {
		t.Fatalf("%d records", len(m.Records))
	}
	r := m.Records[0]
	for what, value := range map[string]string{"source": r.Source, "event_class": r.EventClass, "node": r.Node, "type": r.Type, "metric_name": r.MetricName} {
		within(t, what, value, 100)
	}
	within(t, "description", r.Description, 4000)
	within(t, "message_key", r.MessageKey, 1024)
	severity, state := map[string]string{"info": "5", "warning": "4", "critical": "1"}[e.Severity], "New"
	if resolves(e) {
		severity, state = "0", "Closing"
	}
	oneOf(t, "severity", r.Severity, severity)
	oneOf(t, "resolution_state", r.ResolutionState, state)
	if at, err := time.Parse(time.DateTime, r.TimeOfEvent); err != nil || !at.Equal(e.Time.Truncate(time.Second)) {
		t.Errorf("time_of_event %q: %v", r.TimeOfEvent, err)
	}
	var info map[string]string
	if err := json.Unmarshal([]byte(r.AdditionalInfo), &info); err != nil || info["event_id"] != e.ID {
		t.Errorf("additional_info %q: %v", r.AdditionalInfo, err)
	}
}

func checkPagerDuty(t *testing.T, body []byte, e *event.Event) {
	if len(body) > 512<<10 {
		t.Errorf("%d bytes are more than an event may have", len(body))
	}
	var m struct {
		RoutingKey  string `json:"routing_key"`
		EventAction string `json:"event_action"`
		DedupKey    string `json:"dedup_key"`
		Payload     struct {
			Summary, Source, Severity, Timestamp, Component, Group, Class string

			CustomDetails map[string]any `json:"custom_details"`
		}
		Client string
	}
	shape(t, body, &m)
	oneOf(t, "routing_key", m.RoutingKey, "YOUR-INTEGRATION-KEY")
	action := "trigger"
	if resolves(e) {
		action = "resolve"
	}
	oneOf(t, "event_action", m.EventAction, action)
	within(t, "dedup_key", m.DedupKey, 255)
	within(t, "summary", m.Payload.Summary, 1024)
	within(t, "source", m.Payload.Source, 255)
	oneOf(t, "severity", m.Payload.Severity, "critical", "error", "warning", "info")
	if at, err := time.Parse(time.RFC3339, m.Payload.Timestamp); err != nil || !at.Equal(e.Time) {
		t.Errorf("timestamp %q: %v", m.Payload.Timestamp, err)
	}
}

func checkAnsible(t *testing.T, body []byte, e *event.Event) {
	var m map[string]any
	shape(t, body, &m)
	for _, key := range []string{
		"id", "hmc", "type", "time", "origin", "severity", "summary", "cpc", "class", "name", "object_uri", "old_status", "new_status", "message",
	} {
		if _, ok := m[key].(string); !ok {
			t.Errorf("%s is a %T: conditions compare text", key, m[key])
		}
	}
	whole, ok := m["event"].(map[string]any)
	if !ok || whole["id"] != e.ID || m["id"] != e.ID {
		t.Errorf("event %v", m["event"])
	}
}

// What goes wrong and what is well again have the same key, whichever HMC of a group tells of them: a pager that is told the
// one by the first HMC and the other by the second resolves what it has opened.
func TestReadyTemplatesResolveInAGroupOfTwo(t *testing.T) {
	partition := &event.Resource{Class: "partition", Name: "PART1", ObjectURI: "/api/partitions/1", CPC: "CPC1"}
	cpc := func(element string) *event.Resource {
		return &event.Resource{Class: "cpc", Name: "CPC1", ObjectURI: "/api/cpcs/1", CPC: "CPC1", ElementURI: element}
	}
	console := &event.Resource{Class: "console", ObjectURI: "/api/console", ElementURI: "/api/console/hardware-messages/1"}
	hardware := func(element string, deleted bool) []byte {
		return fmt.Appendf(nil, `{"element-uri":%q,"text":"Fan failed.","timestamp":1795168800000,"deleted":%v}`, element, deleted)
	}
	port := func(id string) *event.Resource {
		return &event.Resource{Class: "storage-port", Name: "FCP 1", ObjectURI: "/api/adapters/1", ElementURI: "/api/adapters/1/storage-ports/" + id, CPC: "CPC1"}
	}
	status := func(from, to string) []byte {
		return fmt.Appendf(nil, `{"change-reports":[{"old-status":%q,"new-status":%q}]}`, from, to)
	}
	property := func(name, value string) []byte {
		return fmt.Appendf(nil, `{"change-reports":[{"property-name":%q,"new-value":%q}]}`, name, value)
	}
	type told struct {
		hmc, typ, severity string
		resource           *event.Resource
		body               []byte
	}
	const info, warning = event.SeverityInfo, event.SeverityWarning
	for _, tc := range []struct {
		name        string
		opens, ends told
		same        bool
	}{
		{
			"a status, told by one and the other",
			told{"a", event.TypeStatusChange, warning, partition, status("active", "stopped")},
			told{"b", event.TypeStatusChange, info, partition, status("stopped", "active")},
			true,
		},
		{
			"a status, of another group",
			told{"a", event.TypeStatusChange, warning, partition, status("active", "stopped")},
			told{"c", event.TypeStatusChange, info, partition, status("stopped", "active")},
			false,
		},
		{
			"a port, and the other one of its adapter",
			told{"a", event.TypeStatusChange, warning, port("0"), status("active", "not-active")},
			told{"a", event.TypeStatusChange, info, port("1"), status("not-active", "active")},
			false,
		},
		{
			"a property that is a status",
			told{"a", event.TypePropertyChange, warning, port("0"), property("physical-channel-status", "no-signal")},
			told{"b", event.TypePropertyChange, info, port("0"), property("physical-channel-status", "operating")},
			true,
		},
		{
			"of several changes of a property the last, whatever else changes",
			told{"a", event.TypePropertyChange, warning, port("0"), []byte(`{"change-reports":[{"property-name":"description","new-value":"d"},` +
				`{"property-name":"physical-channel-status","new-value":"operating"},{"property-name":"physical-channel-status","new-value":"stopped"}]}`)},
			told{"b", event.TypePropertyChange, info, port("0"), property("physical-channel-status", "operating")},
			true,
		},
		{
			"what operators find acceptable, without a status",
			told{"a", event.TypeStatusChange, warning, partition, status("active", "stopped")},
			told{"b", event.TypeStatusChange, info, partition, []byte(`{"change-reports":[{"has-unacceptable-status":false}]}`)},
			true,
		},
		{
			"a message that waits for an answer",
			told{"a", event.TypeOSMessage, warning, partition, []byte(`{"message-text":"*17","is-held":true}`)},
			told{"b", event.TypeOSMessage, info, partition, []byte(`{"message-text":"*17","is-held":false,"answered":"1"}`)},
			true,
		},
		{
			"a link",
			told{"a", event.TypeBridgeDisconnected, warning, nil, []byte(`{"state":"disconnected","cause":"EOF"}`)},
			told{"a", event.TypeBridgeConnected, info, nil, []byte(`{"host":"h"}`)},
			true,
		},
		{
			"the link of the other",
			told{"a", event.TypeBridgeDisconnected, warning, nil, []byte(`{"state":"disconnected","cause":"EOF"}`)},
			told{"b", event.TypeBridgeConnected, info, nil, []byte(`{"host":"h"}`)},
			false,
		},
		{
			"a hardware message of a CPC, which the two may name otherwise",
			told{"a", event.TypeHardwareMessage, warning, cpc("/api/cpcs/1/hardware-messages/1"), hardware("/api/cpcs/1/hardware-messages/1", false)},
			told{"b", event.TypeHardwareMessage, info, cpc("/api/cpcs/1/hardware-messages/2"), hardware("/api/cpcs/1/hardware-messages/2", true)},
			true,
		},
		{
			"a hardware message of a console",
			told{"a", event.TypeHardwareMessage, warning, console, hardware(console.ElementURI, false)},
			told{"a", event.TypeHardwareMessage, info, console, hardware(console.ElementURI, true)},
			true,
		},
		{
			"that of the other console",
			told{"a", event.TypeHardwareMessage, warning, console, hardware(console.ElementURI, false)},
			told{"b", event.TypeHardwareMessage, info, console, hardware(console.ElementURI, true)},
			false,
		},
	} {
		for name, keys := range map[string]struct{ state, key, opens, ends string }{
			"pagerduty.tmpl":  {"event_action", "dedup_key", "trigger", "resolve"},
			"servicenow.tmpl": {"resolution_state", "message_key", "New", "Closing"},
			"netcool.tmpl":    {"Type", "AlertKey", "1", "2"},
		} {
			t.Run(tc.name+"/"+name, func(t *testing.T) {
				requests := make(chan request, 1)
				s := webhookTo(t, consumer(t, requests).URL, withTemplate(ready(t, name)))
				s.Follow(map[string]string{"a": "east", "b": "east", "c": "west"})
				send := func(id string, e told) string {
					if err := s.Send(t.Context(), []event.Record{event.NewRecord(&event.Event{
						ID: id, HMC: e.hmc, Type: e.typ, Severity: e.severity, Time: time.Unix(1795168800, 0), Resource: e.resource, Body: e.body,
						Unacceptable: judgement(e.body),
					})}); err != nil {
						t.Fatal(err)
					}
					return string((<-requests).body)
				}
				opened, ended := send("1", tc.opens), send("2", tc.ends)
				if a, b := valueOf(t, opened, keys.state), valueOf(t, ended, keys.state); a != keys.opens || b != keys.ends {
					t.Errorf("%s and %s", a, b)
				}
				if a, b := valueOf(t, opened, keys.key), valueOf(t, ended, keys.key); (a == b) != tc.same {
					t.Errorf("%s and %s", a, b)
				}
			})
		}
	}
}

// judgement is what the HMC says in a body of the status; nil: nothing.
func judgement(body []byte) *bool {
	for r := range event.Reports(body) {
		if r.Judged {
			return &r.Unacceptable
		}
	}
	return nil
}

// A change of status that tells no status ends nothing, and of several reports in one the last counts.
func TestReadyTemplatesTellTheLastStatus(t *testing.T) {
	partition := &event.Resource{Class: "partition", Name: "PART1", ObjectURI: "/api/partitions/1", CPC: "CPC1"}
	send := func(name, severity, reports string) string {
		requests := make(chan request, 1)
		s := webhookTo(t, consumer(t, requests).URL, withTemplate(ready(t, name)))
		if err := s.Send(t.Context(), []event.Record{event.NewRecord(&event.Event{
			ID: "own", HMC: "a", Type: event.TypeStatusChange, Severity: severity, Time: time.Unix(1795168800, 0), Resource: partition,
			Body: []byte(`{"change-reports":[` + reports + `]}`),
		})}); err != nil {
			t.Fatal(err)
		}
		return string((<-requests).body)
	}
	for _, name := range []string{"ansible-eda.tmpl", "pagerduty.tmpl"} {
		body := send(name, event.SeverityWarning, `{"old-status":"active","new-status":"stopping"},`+
			`{"old-status":"stopping","new-status":"stopped"},{"new-additional-status":"x"}`)
		if from, to := valueOf(t, body, "old_status"), valueOf(t, body, "new_status"); from != "active" || to != "stopped" {
			t.Errorf("%s: %s to %s", name, from, to)
		}
	}
	for name, want := range map[string][2]string{
		"pagerduty.tmpl": {"event_action", "trigger"}, "servicenow.tmpl": {"resolution_state", "New"}, "netcool.tmpl": {"Type", "13"},
	} {
		if got := valueOf(t, send(name, event.SeverityInfo, `{}`), want[0]); got != want[1] {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// An orderly stop of the daemon opens nothing.
func TestReadyTemplatesOfAPlannedStop(t *testing.T) {
	for name, want := range map[string][2]string{
		"pagerduty.tmpl": {"event_action", "resolve"}, "servicenow.tmpl": {"resolution_state", "Closing"}, "netcool.tmpl": {"Type", "2"},
	} {
		requests := make(chan request, 1)
		s := webhookTo(t, consumer(t, requests).URL, withTemplate(ready(t, name)))
		r := event.NewRecord(&event.Event{
			ID: "1", HMC: "a", Type: event.TypeBridgeDisconnected, Severity: event.SeverityWarning, Time: time.Unix(1795168800, 0),
			Body: []byte(`{"state":"disconnected","cause":"the daemon was stopped","planned":true}`), Planned: true,
		})
		if err := s.Send(t.Context(), []event.Record{r}); err != nil {
			t.Fatal(err)
		}
		if got := valueOf(t, string((<-requests).body), want[0]); got != want[1] {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// valueOf returns the text that stands behind a key anywhere in body.
func valueOf(t *testing.T, body, key string) string {
	t.Helper()
	_, rest, ok := strings.Cut(body, `"`+key+`": `)
	if !ok {
		t.Fatalf("no %s in %s", key, body)
	}
	value, _, _ := strings.Cut(rest, "\n")
	return strings.Trim(value, `",`)
}
