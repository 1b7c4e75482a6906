package sinks

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	promconfig "github.com/prometheus/common/config"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/tests/elastic"
)

func elasticsearchConfig(url string, change ...func(*config.Sink)) config.Sink {
	cfg := config.Sink{
		Elasticsearch: &config.Elasticsearch{URL: config.NewURL(url), DataStream: config.DefaultDataStream},
		Batch:         config.Batch{MaxEvents: 100}, Concurrency: 4, Timeout: patience,
	}
	for _, c := range change {
		c(&cfg)
	}
	return cfg
}

// elasticsearchTo makes a sink for a server.
func elasticsearchTo(t testing.TB, url string, change ...func(*config.Sink)) *elasticsearch {
	t.Helper()
	s, err := New(elasticsearchConfig(url, change...), Options{Version: "1.2.3"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s.(*elasticsearch)
}

// cluster starts a cluster.
func cluster(t testing.TB, settings elastic.Settings) (*elastic.Server, string) {
	t.Helper()
	c := elastic.New(settings)
	server := httptest.NewServer(c)
	t.Cleanup(server.Close)
	return c, server.URL
}

// original returns the event that a document has been made of.
func original(t testing.TB, d elastic.Document) json.RawMessage {
	t.Helper()
	var e struct {
		Event struct {
			ID       string `json:"id"`
			Original string `json:"original"`
		} `json:"event"`
	}
	if err := json.Unmarshal(d.Source, &e); err != nil || e.Event.ID != d.ID {
		t.Errorf("%v: %s is %s", err, d.ID, d.Source)
	}
	return json.RawMessage(e.Event.Original)
}

// The far side of a sink for Elasticsearch, or for an index of OpenSearch.
func newElasticsearchPeer(t *testing.T, openSearch bool) *peer {
	const userid, password = "hmcnotifyd", "p4ssword-of-the-index"
	c := elastic.New(elastic.Settings{OpenSearch: openSearch, Userid: userid, Password: password})
	g := newGate(t, c)
	p := &peer{
		cfg: elasticsearchConfig(g.server.URL, func(c *config.Sink) {
			e := c.Elasticsearch
			e.HTTPConfig = config.NewHTTPConfig(promconfig.HTTPClientConfig{
				BasicAuth: &promconfig.BasicAuth{Username: userid, Password: password},
			})
			if openSearch {
				e.DataStream, e.Index, e.Compression = "", "hmc-events", config.CompressionGzip
			}
		}),
		opts:    Options{Version: "1.2.3"},
		secrets: []string{password, base64.StdEncoding.EncodeToString([]byte(userid + ":" + password))},
		can:     []behavior{refuse, busy, defer30, hang, pause, refuseLarge},
		behave: func(b behavior) {
			g.state.Store(int32(b))
			c.Change(func(s *elastic.Settings) {
				s.Password, s.Overloaded, s.Refuse = password, nil, nil
				switch b {
				case pause:
					s.Password = "another"
				case busy:
					s.Overloaded = func(string) bool { return true }
				case refuse:
					s.Refuse = func(elastic.Document) bool { return true }
				case refuseLarge:
					s.Refuse = func(d elastic.Document) bool { return len(original(t, d)) > manyBytes }
				}
			})
		},
		hanging: func() bool { return g.waiting.Load() > 0 },
		received: func() (all []json.RawMessage) {
			for _, d := range c.Documents() {
				all = append(all, original(t, d))
			}
			return all
		},
		visitors: func() int { _, requests := c.Counts(); return requests },
		leave:    g.close,
	}
	return p
}

// The names of a document are those of the Elastic Common Schema; all of the event is event.original:
// https://www.elastic.co/docs/reference/ecs/ecs-field-reference
func TestElasticsearchDocument(t *testing.T) {
	c, url := cluster(t, elastic.Settings{})
	s := elasticsearchTo(t, url)
	r := fullEvent()
	entry := event.NewRecord(&event.Event{
		ID: event.NewID("entry"), HMC: "hmc-east", Type: event.TypeLogEntry, Time: time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC), Received: r.Received,
		TopicType: event.TopicSecurity, Origin: event.OriginBackfill, Severity: event.SeverityWarning, Summary: "logon failed",
		Body: json.RawMessage(`{"event-id":"1692","event-message":"User zbc could not log on","userid":"zbc"}`),
	})
	if err := s.Send(t.Context(), []event.Record{r, entry}); err != nil {
		t.Fatal(err)
	}
	document := func(i int) (got map[string]any) {
		d := c.Documents()[i]
		if err := json.Unmarshal(d.Source, &got); err != nil {
			t.Fatalf("%v: %s", err, d.Source)
		}
		if d.Index != "logs-hmc-default" || d.ID != []event.Record{r, entry}[i].ID {
			t.Errorf("%s in %s", d.ID, d.Index)
		}
		return got
	}
	type object = map[string]any
	stream := object{"type": "logs", "dataset": "hmc", "namespace": "default"}
	agent := object{"type": "hmcnotifyd", "version": "1.2.3"}
	want := object{
		"@timestamp": "2026-11-20T10:00:00.000Z", "ecs": object{"version": ecsVersion}, "agent": agent, "data_stream": stream,
		"message": "partition PART1: active -> stopped", "labels": object{"site": "DC1", "team": `z"os`}, "log": object{"level": "warning"},
		"observer": object{"name": "hmc-east"},
		"host":     object{"name": "PART1", "type": "partition", "os": object{"name": "SYS1", "version": "z/OS 3.1"}},
		"event": object{
			"kind": "event", "module": "hmc", "dataset": "hmc", "category": []any{"host"}, "type": []any{"change"}, "id": r.ID, "action": "status-change",
			"created": "2026-11-20T10:00:00.000Z", "sequence": 12.0, "reference": "https://wiki.example.com/stopped", "original": string(r.JSON),
		},
		"hmc": object{"origin": "live", "cpc": "CPC1", "object_uri": "/api/partitions/1", "sysplex": "PLEX1", "planned": true},
	}
	if got := document(0); !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%v\nwant\n%v", got, want)
	}
	want = object{
		"@timestamp": "2026-11-20T10:00:00.000Z", "ecs": object{"version": ecsVersion}, "agent": agent, "data_stream": stream,
		"message": "logon failed", "log": object{"level": "warning"}, "observer": object{"name": "hmc-east"}, "user": object{"name": "zbc"},
		"event": object{
			"kind": "event", "module": "hmc", "dataset": "hmc", "category": []any{"authentication"}, "type": []any{"start"}, "outcome": "failure", "code": "1692",
			"id": entry.ID, "action": "log-entry", "created": "2026-11-20T10:00:00.000Z", "original": string(entry.JSON),
		},
		"hmc": object{"topic_type": "security", "origin": "backfill"},
	}
	if got := document(1); !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%v\nwant\n%v", got, want)
	}
}

// An index has no data_stream, and a name of three parts does not make it one.
func TestElasticsearchIndex(t *testing.T) {
	c, url := cluster(t, elastic.Settings{OpenSearch: true})
	s := elasticsearchTo(t, url+"/search/", func(c *config.Sink) { c.Elasticsearch.Index = "hmc-events-1" })
	err := s.Send(t.Context(), records(0, 1))
	if verdict(err) != "paused: other" || !strings.Contains(err.Error(), "no handler found for uri") {
		t.Errorf("a wrong path: %v", err)
	}
	s = elasticsearchTo(t, url+"/", func(c *config.Sink) { c.Elasticsearch.Index = "hmc-events-1" })
	if err := s.Send(t.Context(), records(0, 1)); err != nil {
		t.Fatal(err)
	}
	d := c.Documents()[0]
	if d.Index != "hmc-events-1" || strings.Contains(string(d.Source), "data_stream") {
		t.Errorf("%+v", d)
	}
}

func TestElasticsearchOneOfAHundred(t *testing.T) {
	for _, openSearch := range []bool{false, true} {
		for _, bad := range []int{0, 33, 99} {
			id := record(bad).ID
			c, url := cluster(t, elastic.Settings{OpenSearch: openSearch, Refuse: func(d elastic.Document) bool { return d.ID == id }})
			oneOfAHundred(t, elasticsearchTo(t, url), bad, func() (ids []string) {
				for _, d := range c.Documents() {
					ids = append(ids, d.ID)
				}
				return ids
			})
		}
	}
}

// What is sent again is not there twice, and counts as delivered.
func TestElasticsearchRepetition(t *testing.T) {
	c, url := cluster(t, elastic.Settings{})
	s := elasticsearchTo(t, url)
	for range 3 {
		if err := s.Send(t.Context(), records(0, 50)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Send(t.Context(), records(25, 50)); err != nil {
		t.Fatal(err)
	}
	if n, requests := c.Counts(); n != 75 || requests != 4 {
		t.Errorf("%d documents, %d requests", n, requests)
	}
}

// Each item gets what its own part of the answer says.
func TestElasticsearchItems(t *testing.T) {
	for _, openSearch := range []bool{false, true} {
		c, url := cluster(t, elastic.Settings{OpenSearch: openSearch})
		s := elasticsearchTo(t, url)
		rs := records(0, 5)
		for i, site := range []string{`"north"`, `{"of":"another kind"}`} {
			rs[i].JSON = []byte(strings.Replace(string(rs[i].JSON), `{`, `{"labels":{"site":`+site+`},`, 1))
		}
		if err := s.Send(t.Context(), rs[:1]); err != nil {
			t.Fatal(err)
		}
		c.Change(func(x *elastic.Settings) { x.Overloaded = func(id string) bool { return id == rs[2].ID } })
		err := s.Send(t.Context(), rs)
		want := []string{"delivered", "refused: Bad Request", "again", "delivered", "delivered"}
		if got := verdicts(5, err); !slices.Equal(got, want) {
			t.Errorf("OpenSearch %v: got %q, want %q", openSearch, got, want)
		}
		if each, ok := errors.AsType[*EventsError](err); !ok ||
			!strings.Contains(each.Events[1].Error(), "parsing_exception") || !strings.Contains(each.Events[2].Error(), "rejected_execution") {
			t.Errorf("the reasons: %v", err)
		}
	}
}

// Of some items the type of the error says more than the status: nothing is wrong with the event.
func TestElasticsearchItemErrors(t *testing.T) {
	for _, test := range []struct {
		status     int
		kind, text string
		want       string
		reason     Reason
	}{
		{400, "document_parsing_exception", "failed to parse", "refused: Bad Request", ReasonContent},
		{400, "mapper_parsing_exception", "failed to parse", "refused: Bad Request", ReasonContent},
		{400, "strict_dynamic_mapping_exception", "not allowed", "refused: Bad Request", ReasonContent},
		{400, "illegal_argument_exception", "Limit of total fields [1000] has been exceeded", "refused: Bad Request", ReasonContent},
		{400, "illegal_argument_exception", "no write index is defined for alias [hmc]", "paused: not_found", ReasonNotFound},
		{400, "validation_exception", "this action would add [2] shards", "paused: not_found", ReasonNotFound},
		{400, "invalid_index_name_exception", "Invalid index name", "paused: not_found", ReasonNotFound},
		{400, "index_closed_exception", "closed", "paused: not_found", ReasonNotFound},
		{401, "security_exception", "missing authentication", "paused: unauthorized", ReasonAuthorization},
		{403, "security_exception", "is unauthorized", "paused: unauthorized", ReasonAuthorization},
		{403, "cluster_block_exception", "blocked by: [FORBIDDEN/12/index read-only / allow delete (api)];", "paused: other", ReasonNoSpace},
		{429, "cluster_block_exception", "disk usage exceeded flood-stage watermark", "again", ReasonNoSpace},
		{404, "index_not_found_exception", "no such index", "paused: not_found", ReasonNotFound},
		{409, "version_conflict_engine_exception", "document already exists", "delivered", ""},
		{429, "es_rejected_execution_exception", "rejected", "again", ReasonOverloaded},
		{429, "circuit_breaking_exception", "Data too large", "again", ReasonOverloaded},
		{503, "unavailable_shards_exception", "primary shard is not active", "again", ReasonUnavailable},
		{500, "exception", "x", "again", ReasonUnavailable},
		{413, "x", "x", "refused: Request Entity Too Large", ReasonTooLarge},
	} {
		url := answering(t, 200, fmt.Sprintf(`{"errors":true,"items":[{"create":{"status":%d,"error":{"type":%q,"reason":%q}}}]}`, test.status, test.kind, test.text))
		err := elasticsearchTo(t, url).Send(t.Context(), records(0, 1))
		if reason, _ := ReasonOf(err); verdict(err) != test.want || reason != test.reason {
			t.Errorf("%d %s: %s because of %q: %v", test.status, test.kind, verdict(err), reason, err)
		}
		if err != nil && !strings.Contains(err.Error(), test.text) {
			t.Errorf("the reason is not in %v", err)
		}
	}
}

// What the whole answer says is about the request and where it went, never about an event.
func TestElasticsearchAnswers(t *testing.T) {
	for _, test := range []struct {
		status int
		body   string
		want   string
	}{
		{400, `{"error":"no handler found for uri [/x] and method [POST]","status":400}`, "paused: other"},
		{400, `{"error":{"type":"illegal_argument_exception","reason":"unrecognized parameter"},"status":400}`, "paused: other"},
		{406, `{"error":"Content-Type header is not supported","status":406}`, "paused: other"},
		{401, "Unauthorized", "paused: unauthorized"},
		{403, `{"error":{"type":"security_exception"},"status":403}`, "paused: unauthorized"},
		{404, "", "paused: not_found"},
		{301, "", "paused: redirect"},
		{413, `{"Message":"Request size exceeded 10485760 bytes"}`, "refused: Request Entity Too Large"},
		{429, `{"error":{"type":"es_rejected_execution_exception"},"status":429}`, "again"},
		{503, `{"error":{"type":"cluster_block_exception"},"status":503}`, "again"},
		{504, "<html>", "again"},
		// Polite answers of something else.
		{200, "<html>Kibana</html>", "paused: not_found"},
		{200, "", "paused: not_found"},
		{200, `{"acknowledged":true}`, "paused: not_found"},
		{200, `{"items":[{"create":{"status":201}}`, "paused: not_found"},
		// Of two only one is said to be there: both are sent again, and neither is there twice.
		{200, `{"errors":false,"items":[{"create":{"status":201}}]}`, "again"},
		{200, `{"errors":false,"items":[]}`, "again"},
		{200, `{"errors":false,"items":[{"create":{}},{"create":{"status":"x"}}]}`, "again"},
		{200, `{"errors":false,"items":[{"create":{"status":201}},{"create":{"status":200}}]}`, "delivered"},
	} {
		err := elasticsearchTo(t, answering(t, test.status, test.body)).Send(t.Context(), records(0, 2))
		for _, got := range verdicts(2, err) {
			if got != test.want {
				t.Errorf("%d %s: %s, want %s: %v", test.status, test.body, got, test.want, err)
				break
			}
		}
	}
}

// What a cluster does that has trouble, of either kind.
func TestElasticsearchTrouble(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*elastic.Settings)
		want   string
	}{
		"a disk is too full":             {func(s *elastic.Settings) { s.FloodStage = 429 }, "again"},
		"the same, of an older version":  {func(s *elastic.Settings) { s.FloodStage = 403 }, "paused: other"},
		"too many shards":                {func(s *elastic.Settings) { s.ShardLimit = true }, "paused: not_found"},
		"no such index":                  {func(s *elastic.Settings) { s.NoAutoCreate = true }, "paused: not_found"},
		"no right to write":              {func(s *elastic.Settings) { s.Forbidden = []string{config.DefaultDataStream} }, "paused: unauthorized"},
		"too many requests":              {func(s *elastic.Settings) { s.Busy = 429 }, "again"},
		"no master":                      {func(s *elastic.Settings) { s.Busy = 503 }, "again"},
		"who sends it is not accepted":   {func(s *elastic.Settings) { s.APIKey = "a-key" }, "paused: unauthorized"},
		"a stream that templates made":   {func(s *elastic.Settings) { s.Streams = []string{config.DefaultDataStream} }, "delivered"},
		"a request that is not accepted": {func(s *elastic.Settings) { s.MaxContentLength = 10 }, "refused: Request Entity Too Large"},
	} {
		for _, openSearch := range []bool{false, true} {
			settings := elastic.Settings{OpenSearch: openSearch}
			test.change(&settings)
			c, url := cluster(t, settings)
			s := elasticsearchTo(t, url)
			err := s.Send(t.Context(), records(0, 3))
			for _, got := range verdicts(3, err) {
				if got != test.want {
					t.Errorf("%s, OpenSearch %v: %s, want %s: %v", name, openSearch, got, test.want, err)
					break
				}
			}
			c.Change(func(s *elastic.Settings) { *s = elastic.Settings{OpenSearch: openSearch} })
			if err := s.Send(t.Context(), records(0, 3)); err != nil {
				t.Errorf("%s, when it is over: %v", name, err)
			}
			if n, _ := c.Counts(); n != 3 {
				t.Errorf("%s: %d documents", name, n)
			}
		}
	}
}

// A request that is too large is sent in parts.
func TestElasticsearchTooLarge(t *testing.T) {
	c, url := cluster(t, elastic.Settings{MaxContentLength: 20_000})
	rs := records(0, 50)
	rs[20] = largeRecord(20, 50_000)
	if refused := sendInParts(t, elasticsearchTo(t, url), rs); !slices.Equal(refused, []string{rs[20].ID}) {
		t.Errorf("refused %v", refused)
	}
	if n := len(c.Documents()); n != 49 {
		t.Errorf("%d documents", n)
	}
}

// What is said about an index names it: the path of a request is no secret, that of the configuration is.
func TestElasticsearchErrorsNameTheIndex(t *testing.T) {
	for path, want := range map[string]string{"": "no such index [logs-hmc-default]", "/t0ken-in-the-path": "in <secret>"} {
		url := answering(t, 404, "no such index [logs-hmc-default] in /t0ken-in-the-path")
		err := elasticsearchTo(t, url+path).Send(t.Context(), records(0, 1))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// A probe shows whether the cluster answers, and accepts who asks.
func TestElasticsearchProbe(t *testing.T) {
	for name, test := range map[string]struct {
		settings elastic.Settings
		want     string
	}{
		"well":        {elastic.Settings{}, "delivered"},
		"no master":   {elastic.Settings{Busy: 503}, "again"},
		"another key": {elastic.Settings{APIKey: "another"}, "paused: unauthorized"},
		"the key":     {elastic.Settings{APIKey: "a-key"}, "delivered"},
	} {
		c, url := cluster(t, test.settings)
		s := elasticsearchTo(t, url, func(c *config.Sink) {
			c.Elasticsearch.HTTPConfig = config.NewHTTPConfig(promconfig.HTTPClientConfig{
				Authorization: &promconfig.Authorization{Type: "ApiKey", Credentials: "a-key"},
			})
		})
		if err := s.Probe(t.Context()); verdict(err) != test.want {
			t.Errorf("%s: %v", name, err)
		}
		if _, requests := c.Counts(); requests != 0 {
			t.Errorf("%s: %d requests", name, requests)
		}
	}
	// A user who may only write may not see it.
	if err := elasticsearchTo(t, answering(t, http.StatusForbidden, "")).Probe(t.Context()); err != nil {
		t.Error(err)
	}
}

// FuzzECS makes documents of any event: what comes out is JSON, with the event in it.
func FuzzECS(f *testing.F) {
	for _, r := range []event.Record{fullEvent(), record(0), largeRecord(1, 100)} {
		f.Add(r.JSON, r.Type)
	}
	f.Add([]byte(`{"id":7,"time":[],"resource":{"name":{}},"labels":"x","body":[1,"\u0000\xff"]}`), event.TypeLogEntry)
	e := newECS(config.DefaultDataStream, "1.2.3")
	f.Fuzz(func(t *testing.T, text []byte, typ string) {
		if !json.Valid(text) {
			t.Skip()
		}
		d := e.append(nil, &event.Record{ID: "an-id", Type: typ, JSON: text})
		if !json.Valid(d) {
			t.Fatalf("%s\nof %s", d, text)
		}
		got := original(t, elastic.Document{ID: "an-id", Source: d})
		if want := strings.ToValidUTF8(string(text), "\ufffd"); string(got) != want {
			t.Errorf("got\n%q\nwant\n%q", got, want)
		}
	})
}
