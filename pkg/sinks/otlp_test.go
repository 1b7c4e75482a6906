package sinks

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	promconfig "github.com/prometheus/common/config"
	logspb "go.opentelemetry.io/proto/slim/otlp/collector/logs/v1"
	commonpb "go.opentelemetry.io/proto/slim/otlp/common/v1"
	logpb "go.opentelemetry.io/proto/slim/otlp/logs/v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// readLogs reads a request as OTLP/HTTP says, and fails the test if it is none.
func readLogs(t *testing.T, r *http.Request) *logspb.ExportLogsServiceRequest {
	body, err := readBody(r)
	if err != nil {
		return nil // the client has gone
	}
	if r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/x-protobuf" {
		t.Errorf("%s %s with %s", r.Method, r.URL.Path, r.Header.Get("Content-Type"))
	}
	req := new(logspb.ExportLogsServiceRequest)
	if err := proto.Unmarshal(body, req); err != nil {
		t.Error(err)
	}
	return req
}

// attributes are those of a record or resource as Go values.
func attributes(t *testing.T, list []*commonpb.KeyValue) map[string]any {
	all := make(map[string]any)
	for _, kv := range list {
		if _, twice := all[kv.GetKey()]; twice {
			t.Errorf("%s is there twice", kv.GetKey())
		}
		all[kv.GetKey()] = goValue(kv.GetValue())
	}
	return all
}

func goValue(v *commonpb.AnyValue) any {
	switch v := v.GetValue().(type) {
	case *commonpb.AnyValue_StringValue:
		return v.StringValue
	case *commonpb.AnyValue_BoolValue:
		return v.BoolValue
	case *commonpb.AnyValue_IntValue:
		return v.IntValue
	case *commonpb.AnyValue_ArrayValue:
		var list []any
		for _, e := range v.ArrayValue.GetValues() {
			list = append(list, goValue(e))
		}
		return list
	}
	return fmt.Sprintf("%T", v.GetValue())
}

// logRecords returns the records of a request, in their order.
func logRecords(req *logspb.ExportLogsServiceRequest) (all []*logpb.LogRecord) {
	for _, rl := range req.GetResourceLogs() {
		for _, sl := range rl.GetScopeLogs() {
			all = append(all, sl.GetLogRecords()...)
		}
	}
	return all
}

// The body of an answer that refuses: a google.rpc.Status.
func rpcStatus(code uint64, message string) []byte {
	b := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), code)
	return protowire.AppendString(protowire.AppendTag(b, 2, protowire.BytesType), message)
}

func otlpTo(url string, batch int) config.Sink {
	return config.Sink{
		Name: "collector", OTLP: &config.OTLP{URL: config.NewURL(url), Compression: config.CompressionGzip},
		Batch: config.Batch{MaxEvents: batch}, Concurrency: 4, Timeout: patience,
	}
}

// The far side of an otlp sink: it repeats what it was asked with in its answers.
func newOTLPPeer(t *testing.T, batch int) *peer {
	var (
		state, visits, waiting atomic.Int32
		mu                     sync.Mutex
		received               []json.RawMessage
	)
	leave := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		visits.Add(1)
		req := readLogs(t, r)
		w.Header().Set("Content-Type", "application/x-protobuf")
		answer := func(status int) {
			w.WriteHeader(status)
			_, _ = w.Write(rpcStatus(3, fmt.Sprintf("not for %s %q", r.URL, r.Header)))
		}
		resp, keep := new(logspb.ExportLogsServiceResponse), logRecords(req)
		switch behavior(state.Load()) {
		case refuse:
			answer(http.StatusBadRequest)
			return
		case pause:
			answer(http.StatusUnauthorized)
			return
		case busy:
			answer(http.StatusServiceUnavailable)
			return
		case defer30:
			w.Header().Set("Retry-After", "30")
			answer(http.StatusTooManyRequests)
			return
		case hang:
			waiting.Add(1)
			select {
			case <-r.Context().Done():
			case <-leave:
			}
			return
		case refuseLarge: // as a collector answers where what is behind it refuses one for good
			if slices.ContainsFunc(keep, func(record *logpb.LogRecord) bool { return proto.Size(record) > manyBytes }) {
				answer(http.StatusInternalServerError)
				return
			}
		case refuseOne:
			keep = keep[1:]
			resp.PartialSuccess = &logspb.ExportLogsPartialSuccess{RejectedLogRecords: 1, ErrorMessage: "one is not for " + r.URL.String()}
		}
		mu.Lock()
		for _, record := range keep {
			original, _ := attributes(t, record.GetAttributes())["log.record.original"].(string)
			received = append(received, json.RawMessage(original))
		}
		mu.Unlock()
		body, err := proto.Marshal(resp)
		if err != nil {
			t.Error(err)
		}
		_, _ = w.Write(body)
	}))
	stop := sync.OnceFunc(func() { close(leave); server.Close() })
	t.Cleanup(stop)
	const tenant, password = "t3nant-in-the-path", "p4ss-of-the-collector"
	cfg := otlpTo(server.URL+"/"+tenant+"/v1/logs", batch)
	cfg.OTLP.HTTPConfig = config.NewHTTPConfig(promconfig.HTTPClientConfig{
		BasicAuth: &promconfig.BasicAuth{Username: "hmc", PasswordFile: secretFile(t, password)}, EnableHTTP2: true,
	})
	can := []behavior{refuse, busy, defer30, hang, pause, refuseOne}
	if batch > 1 {
		can = append(can, refuseLarge)
	}
	return &peer{
		cfg: cfg, opts: Options{Version: "1.2.3"}, secrets: []string{tenant, password},
		can:     can,
		behave:  func(b behavior) { state.Store(int32(b)) },
		hanging: func() bool { return waiting.Load() > 0 },
		received: func() []json.RawMessage {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(received)
		},
		visitors: func() int { return int(visits.Load()) },
		leave:    stop,
	}
}

// What an event becomes: resource, severity, body, name, attributes, both times.
func TestOTLPRecord(t *testing.T) {
	t.Parallel()
	requests := make(chan *logspb.ExportLogsServiceRequest, 1)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { requests <- readLogs(t, r) }))
	t.Cleanup(server.Close)
	s, err := New(otlpTo(server.URL+"/v1/logs", 10), Options{Version: "1.2.3"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	at := time.Date(2026, 11, 20, 10, 0, 0, 123_000_000, time.UTC)
	number, unacceptable := int64(12), true
	lpar := event.Event{
		ID: "9f0c", HMC: "hmc-east", Type: event.TypeStatusChange, Time: at, Received: at.Add(7 * time.Millisecond), Topic: "ensadmin.145",
		TopicType: event.TopicObject, SessionSequenceNr: &number, Origin: event.OriginLive, Severity: event.SeverityCritical,
		Summary: "LPAR SYS1 on CPC1: operating -> not-operating", Runbook: "https://wiki.example.com/a", Unacceptable: &unacceptable, Planned: true,
		Labels:  event.Headers{{Name: "site", Value: "DC1"}, {Name: "team", Value: "sysplex"}},
		SeenBy:  []string{"hmc-east", "hmc-west"},
		Headers: event.Headers{{Name: "class", Value: "logical-partition"}},
		Body:    json.RawMessage(`{"change-reports":[{"new-status":"not-operating"}]}`),
		Resource: &event.Resource{
			Class: "logical-partition", Name: "SYS1", ObjectURI: "/api/logical-partitions/x", ObjectID: "x", CPC: "CPC1",
			OSName: "z/OS", OSLevel: "03.02.00", Sysplex: "PLEX1",
		},
	}
	cpc := event.Event{
		ID: "9f0d", HMC: "hmc-east", Type: event.TypePropertyChange, Time: at, Received: at, Origin: event.OriginRefresh, Severity: event.SeverityWarning,
		Resource: &event.Resource{Class: "cpc", Name: "CPC2"},
	}
	bridge := event.Event{ID: "9f0e", HMC: "hmc-west", Type: event.TypeBridgeConnected, Time: at, Received: at, Origin: event.OriginBridge, Severity: event.SeverityInfo}
	third := lpar
	third.ID, third.Severity = "9f0f", event.SeverityInfo
	var rs []event.Record
	for _, e := range []*event.Event{&lpar, &cpc, &bridge, &third} {
		rs = append(rs, event.NewRecord(e))
	}
	if err := s.Send(t.Context(), rs); err != nil {
		t.Fatal(err)
	}
	req := <-requests

	type resource struct{ hmc, cpc any }
	var groups []resource
	for _, rl := range req.GetResourceLogs() {
		of := attributes(t, rl.GetResource().GetAttributes())
		groups = append(groups, resource{of["hmc"], of["cpc"]})
		if of["service.name"] != "hmcnotifyd" || of["service.version"] != "1.2.3" || of["host.name"] == "" || of["host.name"] == nil {
			t.Errorf("resource %v", of)
		}
		if scope := rl.GetScopeLogs()[0].GetScope(); scope.GetName() != "hmcnotifyd" || scope.GetVersion() != "1.2.3" {
			t.Errorf("scope %v", scope)
		}
	}
	if want := []resource{{"hmc-east", "CPC1"}, {"hmc-east", "CPC2"}, {"hmc-west", nil}}; !slices.Equal(groups, want) {
		t.Errorf("groups %v, want %v", groups, want)
	}
	logs := logRecords(req)
	if len(logs) != 4 {
		t.Fatalf("%d records", len(logs))
	}
	first := logs[0]
	if first.GetTimeUnixNano() != uint64(lpar.Time.UnixNano()) || first.GetObservedTimeUnixNano() != uint64(lpar.Received.UnixNano()) {
		t.Errorf("times %d, %d", first.GetTimeUnixNano(), first.GetObservedTimeUnixNano())
	}
	if first.GetEventName() != "hmcnotifyd.status-change" || first.GetBody().GetStringValue() != lpar.Summary || first.GetSeverityText() != "critical" {
		t.Errorf("%v", first)
	}
	want := map[string]any{
		"log.record.uid": "9f0c", "log.record.original": string(rs[0].JSON), "hmcnotifyd.type": "status-change", "hmcnotifyd.origin": "live",
		"hmcnotifyd.topic": "ensadmin.145", "hmcnotifyd.topic_type": "object", "hmcnotifyd.session_sequence_nr": int64(12),
		"hmcnotifyd.runbook": lpar.Runbook, "hmcnotifyd.unacceptable": true, "hmcnotifyd.planned": true,
		"hmcnotifyd.seen_by":    []any{"hmc-east", "hmc-west"},
		"hmcnotifyd.label.site": "DC1", "hmcnotifyd.label.team": "sysplex",
		"hmcnotifyd.resource.class": "logical-partition", "hmcnotifyd.resource.name": "SYS1", "hmcnotifyd.resource.object_uri": "/api/logical-partitions/x",
		"hmcnotifyd.resource.object_id": "x", "hmcnotifyd.resource.os_name": "z/OS", "hmcnotifyd.resource.os_level": "03.02.00",
		"hmcnotifyd.resource.sysplex": "PLEX1", "mainframe.lpar.name": "SYS1", "zos.sysplex.name": "PLEX1", "os.name": "z/OS", "os.version": "03.02.00",
	}
	got := attributes(t, first.GetAttributes())
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if fmt.Sprint(got[name]) != fmt.Sprint(want[name]) || fmt.Sprintf("%T", got[name]) != fmt.Sprintf("%T", want[name]) {
			t.Errorf("%s is %v (%T), want %v", name, got[name], got[name], want[name])
		}
		delete(got, name)
	}
	if len(got) > 0 {
		t.Errorf("further attributes %v", got)
	}
	var numbers []logpb.SeverityNumber
	for _, l := range logs {
		numbers = append(numbers, l.GetSeverityNumber())
	}
	// By resource: the two of CPC1, then that of CPC2, then that of no CPC.
	if want := []logpb.SeverityNumber{17, 9, 13, 9}; !slices.Equal(numbers, want) {
		t.Errorf("severity numbers %v, want %v", numbers, want)
	}
	// Without a summary there is the type to read.
	if body := logs[3].GetBody().GetStringValue(); body != event.TypeBridgeConnected {
		t.Errorf("body %q", body)
	}
}

// Times that OTLP has no number for, and texts that protobuf does not take, refuse no event.
func TestOTLPOddEvents(t *testing.T) {
	t.Parallel()
	p := newOTLPPeer(t, 10)
	s := p.open(t)
	rs := []event.Record{
		{ID: "\xff", Type: "t\xff", JSON: []byte("{\"id\":\"a\",\"hmc\":\"\xff\",\"time\":\"1066-10-14T00:00:00Z\",\"x\":[[[1]]],\"y\":1.5,\"z\":null,\"resource\":7,\"labels\":[]}")},
		{ID: "b", Type: "t", Received: time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC), JSON: []byte(`{"id":"b","hmc":"h","x":{"a":[]},"y":[{"a":1},2]}`)},
	}
	if err := s.Send(t.Context(), rs); err != nil {
		t.Fatal(err)
	}
	if got := p.received(); len(got) != 2 {
		t.Errorf("%d received", len(got))
	}
}

// What becomes of the events by what a server answers.
func TestOTLPAnswers(t *testing.T) {
	t.Parallel()
	success := func(rejected int64, message string) string {
		body, err := proto.Marshal(&logspb.ExportLogsServiceResponse{PartialSuccess: &logspb.ExportLogsPartialSuccess{RejectedLogRecords: rejected, ErrorMessage: message}})
		if err != nil {
			t.Fatal(err)
		}
		return string(body)
	}
	const pb = "application/x-protobuf"
	for name, test := range map[string]struct {
		status     int
		kind, body string
		want       string // the type of the error
		text       string // part of it
	}{
		"empty":                       {200, pb, "", "<nil>", ""},
		"202 and a word":              {202, "text/plain", "Accepted", "<nil>", ""},
		"a warning":                   {200, pb, success(0, "use less"), "<nil>", ""},
		"some are refused":            {200, pb, success(2, "too old"), "*sinks.RejectedError", "2 of 5 events refused: too old"},
		"all are refused":             {200, pb, success(5, "too old"), "*sinks.PermanentError", "5 of 5 events refused"},
		"more than there are":         {200, pb, success(1<<40, "?"), "*sinks.PermanentError", "5 of 5 events refused"},
		"some, as JSON":               {200, "application/json; charset=utf-8", `{"partialSuccess":{"rejectedLogRecords":"2","errorMessage":"old"}}`, "*sinks.RejectedError", "2 of 5 events refused: old"},
		"nothing, as JSON":            {200, "application/json", `{"partialSuccess":null}`, "<nil>", ""},
		"a page":                      {200, "text/html; charset=utf-8", "<html>Please log on", "*sinks.PausedError", "no OTLP server"},
		"no protobuf":                 {200, pb, "\xff\xff\xff", "*fmt.wrapError", "no answer of OTLP"},
		"400 with a Status":           {400, pb, string(rpcStatus(3, "bad field")), "*sinks.PermanentError", "status 400 Bad Request: bad field"},
		"400 in words":                {400, "text/plain", "bad field", "*sinks.PermanentError", "status 400 Bad Request: bad field"},
		"400 with something":          {400, pb, "\xff\xff", "*sinks.PermanentError", "status 400"},
		"401":                         {401, pb, "", "*sinks.PausedError", ""},
		"403":                         {403, pb, "", "*sinks.PausedError", ""},
		"404":                         {404, "text/plain", "404 page not found", "*sinks.PausedError", ""},
		"301":                         {301, pb, "", "*sinks.PausedError", "redirects"},
		"413":                         {413, pb, "", "*sinks.PermanentError", ""},
		"408, which is not retryable": {408, pb, "", "*sinks.PermanentError", ""},
		"429":                         {429, pb, "", "*sinks.RetryAfterError", "retry after 7s"},
		"500, of several at once":     {500, pb, string(rpcStatus(13, "broken")), "*fmt.wrapErrors", "broken"},
		"501":                         {501, pb, "", "*sinks.PermanentError", ""},
		"502":                         {502, "text/html", "<h1>Bad Gateway", "*sinks.RetryAfterError", "retry after 7s"},
		"503":                         {503, pb, string(rpcStatus(14, "later")), "*sinks.RetryAfterError", "later (retry after 7s)"},
		"504":                         {504, pb, "", "*sinks.RetryAfterError", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_ = readLogs(t, r)
				w.Header().Set("Content-Type", test.kind)
				w.Header().Set("Retry-After", "7")
				w.WriteHeader(test.status)
				_, _ = w.Write([]byte(test.body))
			}))
			t.Cleanup(server.Close)
			s, err := New(otlpTo(server.URL+"/v1/logs", 10), Options{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = s.Close() })
			err = s.Send(t.Context(), records(0, 5))
			if got := fmt.Sprintf("%T", err); got != test.want && !(test.want == "*fmt.wrapError" && err != nil && !isAnswer(err)) {
				t.Errorf("%s: %v", got, err)
			}
			if err != nil && !strings.Contains(err.Error(), test.text) {
				t.Errorf("%v", err)
			}
			if test.status == http.StatusInternalServerError { // not retryable, and of one there is nothing to divide
				one := s.Send(t.Context(), records(0, 1))
				if _, ok := errors.AsType[*PermanentError](one); !ok || errors.Is(one, ErrNotJudged) || !errors.Is(err, ErrNotJudged) {
					t.Errorf("of one: %v; of several: %v", one, err)
				}
			}
			if rejected, ok := errors.AsType[*RejectedError](err); ok && rejected.Events != 2 {
				t.Errorf("%d refused", rejected.Events)
			}
		})
	}
}

// Without compression the body is protobuf as it is.
func TestOTLPCompression(t *testing.T) {
	t.Parallel()
	for _, compression := range []string{"", config.CompressionNone, config.CompressionGzip} {
		encodings := make(chan string, 1)
		server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			encodings <- r.Header.Get("Content-Encoding")
			_ = readLogs(t, r)
		}))
		t.Cleanup(server.Close)
		cfg := otlpTo(server.URL, 1)
		cfg.OTLP.Compression = compression
		s, err := New(cfg, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(s.Send(t.Context(), records(0, 1)), s.Close()); err != nil {
			t.Error(err)
		}
		want := ""
		if compression == config.CompressionGzip {
			want = "gzip"
		}
		if got := <-encodings; got != want {
			t.Errorf("%q: Content-Encoding %q", compression, got)
		}
	}
	cfg := otlpTo("http://localhost/v1/logs", 1)
	cfg.OTLP.Compression = "zstd"
	if _, err := New(cfg, Options{}); err == nil {
		t.Error("zstd is taken")
	}
}
