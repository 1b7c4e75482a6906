package sinks

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	cloudevents "github.com/cloudevents/sdk-go/v2"
	"github.com/leodido/go-syslog/v4/rfc5424"
	"github.com/twmb/franz-go/pkg/kfake"
	logspb "go.opentelemetry.io/proto/slim/otlp/collector/logs/v1"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// labeled is an event with labels, of which one has an underscore and a value that has to be escaped.
func labeled(e event.Event) event.Record {
	e.ID, e.HMC, e.Severity = event.NewID("labeled"), "a", event.SeverityCritical
	e.Time = time.Now().Add(-time.Minute).UTC().Truncate(time.Millisecond)
	e.Received = e.Time
	e.Labels = event.Headers{{Name: "oncall_team", Value: `sys"plex]`}, {Name: "site", Value: "DC1"}}
	return event.NewRecord(&e)
}

// Labels reach what is sent in every format, by names that are legal there.
func TestLabelsInEveryFormat(t *testing.T) {
	t.Parallel()
	const team, site = `sys"plex]`, "DC1"
	status := labeled(statusOf(partition("P1"), "stopped", ""))
	want := func(t *testing.T, what string, got, want any) {
		t.Helper()
		if got != want {
			t.Errorf("%s is %v, want %v", what, got, want)
		}
	}
	posted := func(t *testing.T, change func(*config.Sink)) []byte {
		t.Helper()
		requests := make(chan request, 1)
		s := webhookTo(t, consumer(t, requests).URL, change)
		if err := s.Send(t.Context(), []event.Record{status}); err != nil {
			t.Fatal(err)
		}
		return (<-requests).body
	}
	inJSON := func(t *testing.T, body []byte) {
		t.Helper()
		var e struct{ Labels map[string]string }
		if err := json.Unmarshal(body, &e); err != nil {
			t.Fatal(err)
		}
		want(t, "oncall_team", e.Labels["oncall_team"], team)
		want(t, "site", e.Labels["site"], site)
	}
	for name, test := range map[string]func(*testing.T){
		"json": func(t *testing.T) { inJSON(t, posted(t, func(*config.Sink) {})) },
		"log": func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "events.log")
			s, err := New(config.Sink{Log: &config.Log{Output: path}}, Options{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = s.Close() })
			if err := s.Send(t.Context(), []event.Record{status}); err != nil {
				t.Fatal(err)
			}
			line, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			inJSON(t, line)
		},
		"template": func(t *testing.T) {
			got := posted(t, withTemplate(`{{ json .Labels.oncall_team }}`))
			want(t, "body", string(got), `"sys\"plex]"`)
		},
		"cloudevents": func(t *testing.T) {
			var e cloudevents.Event
			if err := json.Unmarshal(posted(t, asCloudEvents), &e); err != nil {
				t.Fatal(err)
			}
			if err := e.Validate(); err != nil {
				t.Error(err)
			}
			want(t, "extensions", len(e.Extensions()), 2)
			want(t, "labeloncallteam", e.Extensions()["labeloncallteam"], team)
			want(t, "labelsite", e.Extensions()["labelsite"], site)
		},
		"syslog": func(t *testing.T) {
			f := syslogFormatOf(t, config.FramingOctetCounting)
			m, err := rfc5424.NewParser(rfc5424.WithCompliantMsg()).Parse(f.append(nil, &status, f.max))
			if err != nil {
				t.Fatal(err)
			}
			elements := *m.(*rfc5424.SyslogMessage).StructuredData
			want(t, "hmc", elements["hmcnotifyd@32473"]["hmc"], "a")
			want(t, "oncall_team", strings.ReplaceAll(elements["labels@32473"]["oncall_team"], `\`, ""), team)
			want(t, "site", elements["labels@32473"]["site"], site)
		},
		"cadf": func(t *testing.T) {
			entry := labeled(event.Event{Type: event.TypeLogEntry, TopicType: event.TopicAudit, Body: []byte(`{"event-id":"1941"}`)})
			f := syslogFormatOf(t, config.FramingOctetCounting, withFormat(config.FormatCADF))
			message := string(f.append(nil, &entry, f.max))
			var e struct {
				Labels map[string]string `json:"x_labels"`
			}
			if err := json.Unmarshal([]byte(message[strings.Index(message, "] {")+2:]), &e); err != nil {
				t.Fatalf("%v: %s", err, message)
			}
			want(t, "labels", fmt.Sprint(e.Labels), fmt.Sprint(map[string]string{"oncall_team": team, "site": site}))
		},
		"otlp": func(t *testing.T) {
			requests := make(chan *logspb.ExportLogsServiceRequest, 1)
			server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { requests <- readLogs(t, r) }))
			t.Cleanup(server.Close)
			s, err := New(otlpTo(server.URL, 1), Options{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = s.Close() })
			if err := s.Send(t.Context(), []event.Record{status}); err != nil {
				t.Fatal(err)
			}
			got := attributes(t, logRecords(<-requests)[0].GetAttributes())
			want(t, "oncall_team", got["hmcnotifyd.label.oncall_team"], team)
			want(t, "site", got["hmcnotifyd.label.site"], site)
		},
		"kafka": func(t *testing.T) {
			c := startKafka(t, kfake.SeedTopics(1, config.DefaultTopic))
			if err := kafkaTo(t, c.ListenAddrs()).Send(t.Context(), []event.Record{status}); err != nil {
				t.Fatal(err)
			}
			got := kafkaHeaders(kafkaRecords(t, c)[0])
			want(t, "oncall_team", got["label.oncall_team"], team)
			want(t, "site", got["label.site"], site)
		},
		"nats": func(t *testing.T) {
			s := startNATS(t)
			_, js := s.client()
			s.addStream(js)
			if err := natsTo(t, s).Send(t.Context(), []event.Record{status}); err != nil {
				t.Fatal(err)
			}
			got := s.messages(js)[0].Header
			want(t, "oncall_team", got.Get("Hmcnotifyd-Label-oncall_team"), team)
			want(t, "site", got.Get("Hmcnotifyd-Label-site"), site)
		},
		"alertmanager": func(t *testing.T) {
			f := startAlertmanager(t)
			cfg := alertmanagerConfig(f)
			cfg.Alertmanager.Labels = map[string]string{"site": "elsewhere", "env": "prod"}
			a := startAlerting(t, cfg, Options{})
			if err := a.sink.Send(t.Context(), []event.Record{status}); err != nil {
				t.Fatal(err)
			}
			got := f.all()[0].Labels
			want(t, "oncall_team", got["oncall_team"], team)
			want(t, "site", got["site"], site) // what is said of the event wins
			want(t, "env", got["env"], "prod")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t)
		})
	}
}

// Names of labels that mean the same, or are too long, in one of the formats spoil no message.
func TestOddLabels(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("l", 64)
	r := event.NewRecord(&event.Event{
		ID: "1", HMC: "h", Type: event.TypeBridgeGap, Time: time.Now(), Received: time.Now(),
		Labels: event.Headers{{Name: "a_b", Value: "first"}, {Name: "ab", Value: "second"}, {Name: long, Value: "x"}},
	})
	var e cloudevents.Event
	if err := json.Unmarshal(appendCloudEvent(nil, r), &e); err != nil {
		t.Fatal(err)
	}
	if err := e.Validate(); err != nil || e.Extensions()["labelab"] != "first" || len(e.Extensions()) != 2 {
		t.Errorf("%v: %v", err, e.Extensions())
	}
	f := syslogFormatOf(t, config.FramingOctetCounting)
	m, err := rfc5424.NewParser(rfc5424.WithCompliantMsg()).Parse(f.append(nil, &r, f.max))
	if err != nil {
		t.Fatal(err)
	}
	if got := (*m.(*rfc5424.SyslogMessage).StructuredData)["labels@32473"]; got["a_b"] != "first" || got["ab"] != "second" || got[long[:32]] != "x" {
		t.Errorf("%v", got)
	}
}

// Alerts have the address of the daemon, the runbook of the rule, and over a restart the labels of their events, whatever
// becomes of those of the sink.
func TestAlertsSayWhereTheyComeFrom(t *testing.T) {
	t.Parallel()
	f := startAlertmanager(t)
	cfg, store := alertmanagerConfig(f), new(memoryStore)
	opts := Options{Store: store, ExternalURL: "https://hmcnotifyd.example.com/"}
	a := startAlerting(t, cfg, opts)
	e := statusOf(partition("P1"), "stopped", event.SeverityWarning)
	e.Labels, e.Runbook = event.Headers{{Name: "team", Value: "sysplex"}}, "https://wiki.example.com/stopped"
	a.must(e)
	if err := a.sink.(Tester).Test(t.Context(), labeled(event.Event{Type: event.TypeBridgeTest})); err != nil {
		t.Fatal(err)
	}
	all := f.all()
	if first, test := all[0], all[1]; first.GeneratorURL != opts.ExternalURL || test.GeneratorURL != opts.ExternalURL ||
		first.Annotations["runbook_url"] != e.Runbook || first.Labels["team"] != "sysplex" || test.Labels["site"] != "DC1" {
		t.Errorf("%+v\n%+v", first, test)
	}
	at := a.at
	_ = a.sink.Close()
	cfg.Alertmanager.Labels = map[string]string{"env": "prod"}
	a = startAlerting(t, cfg, opts)
	a.at = at
	a.repeat()
	for _, alert := range f.all()[2:] {
		if alert.Labels["team"] != "sysplex" {
			t.Errorf("%+v", alert)
		}
	}
	// It ends under the labels that it has, also where the rules say something else by now.
	a.must(statusOf(partition("P1"), "active", event.SeverityInfo))
	a.expect(f, "HMCTest a  critical firing", "HMCResourceStatus a P1 warning resolved", "HMCResourceStatus a P1 warning resolved")
	// Without an address there is none.
	g := startAlertmanager(t)
	startAlerting(t, alertmanagerConfig(g), Options{}).must(e)
	if url := g.all()[0].GeneratorURL; url != "" {
		t.Errorf("generatorURL %q", url)
	}
}
