package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"net/http"

	logspb "go.opentelemetry.io/proto/slim/otlp/collector/logs/v1"
	commonpb "go.opentelemetry.io/proto/slim/otlp/common/v1"
	logpb "go.opentelemetry.io/proto/slim/otlp/logs/v1"
	resourcepb "go.opentelemetry.io/proto/slim/otlp/resource/v1"
	"google.golang.org/protobuf/proto"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// otlpCase compares with posting the same log records by net/http, made of the decoded event with the same messages.
func otlpCase() sinkCase {
	const batch = 100
	return sinkCase{
		name: "otlp", loop: "http.Client's Post of 100 log records, gzip", events: 100_000, batch: batch, goal: 0.8,
		destination: startHTTP,
		sink: func(address string) config.Sink {
			return config.Sink{OTLP: &config.OTLP{URL: config.NewURL(address), Compression: config.CompressionGzip}}
		},
		baseline: func(_ context.Context, address string) (sender, error) {
			return &httpLoop{
				address: address, client: new(http.Client), body: logsOf,
				header: http.Header{"Content-Type": {"application/x-protobuf"}, "Content-Encoding": {"gzip"}},
			}, nil
		},
		arrived: askHTTP,
	}
}

// logsOf makes a log record of each event, and compresses them as fast as the sink does.
func logsOf(records []event.Record) ([]byte, error) {
	logs := &logpb.ScopeLogs{Scope: &commonpb.InstrumentationScope{Name: "hmcnotifyd"}}
	for i := range records {
		e, err := records[i].Event()
		if err != nil {
			return nil, err
		}
		severity := logpb.SeverityNumber_SEVERITY_NUMBER_INFO
		switch e.Severity {
		case event.SeverityWarning:
			severity = logpb.SeverityNumber_SEVERITY_NUMBER_WARN
		case event.SeverityCritical:
			severity = logpb.SeverityNumber_SEVERITY_NUMBER_ERROR
		}
		logs.LogRecords = append(logs.LogRecords, &logpb.LogRecord{
			TimeUnixNano: uint64(e.Time.UnixNano()), ObservedTimeUnixNano: uint64(e.Received.UnixNano()),
			SeverityNumber: severity, SeverityText: e.Severity, EventName: "hmcnotifyd." + e.Type, Body: logText(e.Summary),
			Attributes: []*commonpb.KeyValue{
				logAttribute("log.record.uid", e.ID), logAttribute("log.record.original", string(records[i].JSON)),
				logAttribute("hmcnotifyd.type", e.Type), logAttribute("hmcnotifyd.topic", e.Topic),
				logAttribute("hmcnotifyd.topic_type", e.TopicType), logAttribute("hmcnotifyd.origin", e.Origin),
				logAttribute("hmcnotifyd.resource.class", e.Resource.Class), logAttribute("hmcnotifyd.resource.name", e.Resource.Name),
				logAttribute("hmcnotifyd.resource.object_uri", e.Resource.ObjectURI), logAttribute("hmcnotifyd.resource.object_id", e.Resource.ObjectID),
			},
		})
	}
	data, err := proto.Marshal(&logspb.ExportLogsServiceRequest{ResourceLogs: []*logpb.ResourceLogs{{
		Resource:  &resourcepb.Resource{Attributes: []*commonpb.KeyValue{logAttribute("service.name", "hmcnotifyd"), logAttribute("hmc", "hmc1"), logAttribute("cpc", "CPC1")}},
		ScopeLogs: []*logpb.ScopeLogs{logs},
	}}})
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	_, err = w.Write(data)
	err = errors.Join(err, w.Close())
	return b.Bytes(), err
}

func logAttribute(name, text string) *commonpb.KeyValue {
	return &commonpb.KeyValue{Key: name, Value: logText(text)}
}

func logText(text string) *commonpb.AnyValue {
	return &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: text}}
}
