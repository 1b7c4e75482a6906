package sinks

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"mime"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	logspb "go.opentelemetry.io/proto/slim/otlp/collector/logs/v1"
	commonpb "go.opentelemetry.io/proto/slim/otlp/common/v1"
	logpb "go.opentelemetry.io/proto/slim/otlp/logs/v1"
	resourcepb "go.opentelemetry.io/proto/slim/otlp/resource/v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// What the sink sends, and answers come in.
const (
	otlpContent = "application/x-protobuf"
	otlpJSON    = "application/json"
)

// otlpOwn begins the names of attributes that no semantic convention has.
const otlpOwn = "hmcnotifyd."

// otlp sends events as log records, as the OpenTelemetry Protocol says (OTLP/HTTP,
// https://opentelemetry.io/docs/specs/otlp/#otlphttp).
type otlp struct {
	*endpoint
	// batch is how many records a request may have.
	batch  int
	gzip   bool
	header http.Header
	// of the daemon
	resource []*commonpb.KeyValue
	scope    *commonpb.InstrumentationScope
}

func newOTLP(cfg config.Sink, opts Options) (Sink, error) {
	c := cfg.OTLP
	u := httpURL(c.URL)
	if u == nil || u.User != nil {
		return nil, errors.New("otlp: url is not an http or https address without userid")
	}
	s := &otlp{
		batch: max(cfg.Batch.MaxEvents, 1), header: newHeader(opts, otlpContent),
		scope:    &commonpb.InstrumentationScope{Name: "hmcnotifyd", Version: opts.Version},
		resource: []*commonpb.KeyValue{otlpText("service.name", "hmcnotifyd")},
	}
	if opts.Version != "" {
		s.resource = append(s.resource, otlpText("service.version", opts.Version))
	}
	if host, err := os.Hostname(); err == nil {
		s.resource = append(s.resource, otlpText("host.name", host))
	}
	switch c.Compression {
	case "", config.CompressionNone:
	case config.CompressionGzip:
		s.gzip = true
		s.header["Content-Encoding"] = []string{"gzip"}
	default:
		return nil, fmt.Errorf("otlp: compression %q is not available", c.Compression)
	}
	client, err := newHTTPClient(c.HTTPConfig, clientOptions{
		timeout: timeoutOf(cfg), concurrency: max(cfg.Concurrency, 1), userAgent: userAgent(opts.Version),
	})
	if err != nil {
		return nil, fmt.Errorf("otlp: %w", err)
	}
	s.endpoint = newEndpoint("otlp", u, timeoutOf(cfg), client)
	return s, nil
}

// MaxBatch returns the configured size of a batch.
func (s *otlp) MaxBatch() (records, bytes int) { return s.batch, maxBatchBytes }

// Send makes one request with all records.
func (s *otlp) Send(ctx context.Context, records []event.Record) error {
	if len(records) == 0 {
		return nil
	}
	if len(records) > s.batch {
		return fmt.Errorf("%s: %d events in one request, at most %d", s.name, len(records), s.batch)
	}
	body, err := proto.Marshal(s.export(records))
	if err != nil { // none of its texts is anything but UTF-8
		return &PermanentError{Err: fmt.Errorf("%s: %w", s.name, err)}
	}
	if s.gzip {
		body = compress(body)
	}
	return s.send(ctx, func(attempt context.Context) *http.Request {
		return s.request(attempt, maps.Clone(s.header), body)
	}, func(a *httpAnswer) error { return s.judge(a, len(records)) })
}

// Close ends every connection, and with it every request.
func (s *otlp) Close() error {
	s.client.close()
	return nil
}

// judge says what an answer means. The specification has a list of statuses after which the same
// may be sent again; what says that the endpoint is wrong pauses the sink all the same.
func (s *otlp) judge(a *httpAnswer, sent int) error {
	media, _, _ := mime.ParseMediaType(a.Header.Get("Content-Type"))
	if a.Status >= 200 && a.Status <= 299 {
		return s.accepted(a, media, sent)
	}
	text := a.Body
	if message := otlpStatus(a.Body); media == otlpContent && message != nil {
		text = message
	}
	err := a.judge(a.Status, text)
	if later, ok := errors.AsType[*RetryAfterError](err); ok && !otlpRetryable(a.Status) {
		err = &PermanentError{Status: a.Status, Err: later.Err}
	}
	if a.Status == http.StatusInternalServerError && sent > 1 {
		// So a collector answers where what is behind its receiver has refused one of them for
		// good.
		return fmt.Errorf("%w: %w", ErrNotJudged, err)
	}
	return err
}

// otlpRetryable says whether the specification lets a request with such an answer be sent again.
func otlpRetryable(status int) bool {
	switch status {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// accepted reads what a request was answered with that the server has taken, at least in part.
func (s *otlp) accepted(a *httpAnswer, media string, sent int) error {
	var partial struct {
		rejected int64
		message  string
	}
	switch {
	case len(a.Body) == 0:
		return nil
	case media == otlpContent:
		var resp logspb.ExportLogsServiceResponse
		if err := proto.Unmarshal(a.Body, &resp); err != nil {
			return fmt.Errorf("status %d, and what follows is no answer of OTLP: %w", a.Status, err)
		}
		partial.rejected = resp.GetPartialSuccess().GetRejectedLogRecords()
		partial.message = resp.GetPartialSuccess().GetErrorMessage()
	case media == otlpJSON: // not what was asked for, but what some answer
		success := event.Member(a.Body, "partialSuccess")
		partial.rejected = event.Int(event.Member(success, "rejectedLogRecords"))
		partial.message = event.String(event.Member(success, "errorMessage"))
	case media == "text/html":
		// As a proxy asks to log on, or a server that has some page for every address.
		return &PausedError{Err: because(ReasonNotFound,
			"%s: status %d with a page (text/html): no OTLP server answers so", s.name, a.Status)}
	}
	return a.rejected(int(partial.rejected), sent, []byte(partial.message))
}

// otlpStatus returns the message of a google.rpc.Status, which is the body of an answer that
// refuses; nil: it is none.
func otlpStatus(body []byte) (message []byte) {
	const messageField = 2
	for len(body) > 0 {
		field, kind, n := protowire.ConsumeTag(body)
		if n < 0 {
			return nil
		}
		body = body[n:]
		if n = protowire.ConsumeFieldValue(field, kind, body); n < 0 {
			return nil
		}
		if field == messageField && kind == protowire.BytesType {
			message, _ = protowire.ConsumeBytes(body)
		}
		body = body[n:]
	}
	return message
}

// export makes the request of some records, sorted by what they are of.
func (s *otlp) export(records []event.Record) *logspb.ExportLogsServiceRequest {
	type origin struct{ hmc, cpc string }
	req := new(logspb.ExportLogsServiceRequest)
	groups := make(map[origin]*logpb.ScopeLogs, 1)
	for i := range records {
		l := newOTLPLog(&records[i])
		of := origin{l.hmc, l.cpc}
		group := groups[of]
		if group == nil {
			group = &logpb.ScopeLogs{Scope: s.scope}
			groups[of] = group
			attributes := append(slices.Clip(s.resource), otlpText("hmc", of.hmc))
			if of.cpc != "" {
				attributes = append(attributes, otlpText("cpc", of.cpc))
			}
			req.ResourceLogs = append(req.ResourceLogs, &logpb.ResourceLogs{
				Resource: &resourcepb.Resource{Attributes: attributes}, ScopeLogs: []*logpb.ScopeLogs{group},
			})
		}
		group.LogRecords = append(group.LogRecords, l.record)
	}
	return req
}

// otlpLog is an event as a log record, and what of it is of the resource.
type otlpLog struct {
	record   *logpb.LogRecord
	hmc, cpc string
	// of the resource of the event
	class, name string
}

// newOTLPLog makes the log record of an event. Its body is what people read; programs have the
// event as a whole in log.record.original.
func newOTLPLog(r *event.Record) otlpLog {
	original := strings.ToValidUTF8(string(r.JSON), "\uFFFD")
	l := otlpLog{record: &logpb.LogRecord{
		ObservedTimeUnixNano: otlpTime(r.Received),
		EventName:            otlpOwn + strings.ToValidUTF8(r.Type, "\uFFFD"),
		Attributes: append(make([]*commonpb.KeyValue, 0, 24),
			otlpText("log.record.uid", r.ID), otlpText("log.record.original", original)),
	}}
	at, summary := r.Received, r.Type
	for member, value := range event.Members([]byte(original)) {
		switch name := string(member); name {
		case "hmc":
			l.hmc = event.String(value)
		case "time":
			if t, err := time.Parse(time.RFC3339Nano, event.String(value)); err == nil {
				at = t
			}
		case "summary":
			summary = event.String(value)
		case "severity":
			l.record.SeverityText = event.String(value)
		case "resource":
			l.setResource(value)
		case "labels":
			for label, value := range event.Members(value) {
				l.add(otlpOwn+"label."+string(label), otlpValue(value))
			}
		case "id", "received", "headers", "body", "body_text": // they are elsewhere
		default:
			l.add(otlpOwn+name, otlpValue(value))
		}
	}
	l.record.TimeUnixNano = otlpTime(at)
	l.record.SeverityNumber = otlpSeverity(l.record.SeverityText)
	l.record.Body = otlpString(summary)
	return l
}

// setResource reads what an event is about. Some of it has names by semantic conventions as well.
func (l *otlpLog) setResource(resource []byte) {
	for member, value := range event.Members(resource) {
		name, text := string(member), event.String(value)
		switch name {
		case "cpc":
			l.cpc = text
			continue // an attribute of the OpenTelemetry resource
		case "class":
			l.class = text
		case "name":
			l.name = text
		case "os_name":
			l.add("os.name", otlpString(text))
		case "os_level":
			l.add("os.version", otlpString(text))
		case "sysplex":
			l.add("zos.sysplex.name", otlpString(text))
		}
		l.add(otlpOwn+"resource."+name, otlpValue(value))
	}
	switch {
	case l.class == "cpc" && l.cpc == "":
		l.cpc = l.name
	case l.class == "logical-partition" && l.name != "":
		l.add("mainframe.lpar.name", otlpString(l.name))
	}
}

func (l *otlpLog) add(name string, value *commonpb.AnyValue) {
	l.record.Attributes = append(l.record.Attributes, &commonpb.KeyValue{Key: name, Value: value})
}

// otlpSeverity is the number of a severity; 0: it is not known.
func otlpSeverity(severity string) logpb.SeverityNumber {
	switch severity {
	case event.SeverityInfo:
		return logpb.SeverityNumber_SEVERITY_NUMBER_INFO
	case event.SeverityWarning:
		return logpb.SeverityNumber_SEVERITY_NUMBER_WARN
	case event.SeverityCritical:
		return logpb.SeverityNumber_SEVERITY_NUMBER_ERROR
	}
	return logpb.SeverityNumber_SEVERITY_NUMBER_UNSPECIFIED
}

// otlpTime is a time as OTLP has it; 0: it is not known, or none that can be told.
func otlpTime(t time.Time) uint64 {
	if t.Year() < 1970 || t.Year() > 2261 {
		return 0
	}
	return uint64(max(t.UnixNano(), 0))
}

func otlpText(name, text string) *commonpb.KeyValue {
	return &commonpb.KeyValue{Key: name, Value: otlpString(text)}
}

func otlpString(text string) *commonpb.AnyValue {
	return &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{
		StringValue: strings.ToValidUTF8(text, "\uFFFD"),
	}}
}

// otlpValue is a JSON value: a text, a whole number, true or false, a list of such, and everything
// else as its JSON.
func otlpValue(value []byte) *commonpb.AnyValue {
	switch {
	case value[0] == '"':
		return otlpString(event.String(value))
	case string(value) == "true", string(value) == "false":
		return &commonpb.AnyValue{Value: &commonpb.AnyValue_BoolValue{BoolValue: event.True(value)}}
	case value[0] == '[':
		list := new(commonpb.ArrayValue)
		for element := range event.Elements(value) {
			if element[0] == '[' { // the depth is nobody's to choose
				return otlpString(string(value))
			}
			list.Values = append(list.Values, otlpValue(element))
		}
		return &commonpb.AnyValue{Value: &commonpb.AnyValue_ArrayValue{ArrayValue: list}}
	}
	if n, err := strconv.ParseInt(string(value), 10, 64); err == nil {
		return &commonpb.AnyValue{Value: &commonpb.AnyValue_IntValue{IntValue: n}}
	}
	return otlpString(string(value))
}
