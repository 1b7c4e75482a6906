package sinks

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// bulkFilter leaves of the answer to a bulk request what is judged. OpenSearch knows it as well.
const bulkFilter = "filter_path=error,errors,items.*.status,items.*.error"

// elasticsearch sends events to Elasticsearch or OpenSearch by bulk requests:
// https://www.elastic.co/docs/api/doc/elasticsearch/operation/operation-bulk
// https://docs.opensearch.org/latest/api-reference/document-apis/bulk/
//
// Each is created with its id, so that one which is there already stays as it is.
type elasticsearch struct {
	*bulk
	target *endpoint
	ecs    ecs
}

func newElasticsearch(cfg config.Sink, opts Options) (Sink, error) {
	c := cfg.Elasticsearch
	name := cmp.Or(c.Index, c.DataStream)
	if name == "" {
		return nil, errors.New("elasticsearch: neither data_stream nor index")
	}
	b, err := newBulk("elasticsearch", c.URL, c.HTTPConfig, c.Compression, cfg, opts)
	if err != nil {
		return nil, fmt.Errorf("elasticsearch: %w", err)
	}
	b.header = newHeader(opts, "application/x-ndjson")
	stream := c.DataStream
	if c.Index != "" {
		stream = ""
	}
	target := b.below("/"+name+"/_bulk", bulkFilter)
	return &elasticsearch{bulk: b, target: target, ecs: newECS(stream, opts.Version)}, nil
}

// Send makes one request.
func (s *elasticsearch) Send(ctx context.Context, records []event.Record) error {
	if len(records) == 0 {
		return nil
	}
	if len(records) > s.batch {
		return fmt.Errorf("%s: %d events in one request, at most %d", s.name, len(records), s.batch)
	}
	size := 0
	for i := range records {
		size += 2*len(records[i].JSON) + len(records[i].JSON)/2
	}
	body := make([]byte, 0, size)
	for i := range records {
		body = appendQuoted(append(body, `{"create":{"_id":`...), records[i].ID)
		body = append(body, "}}\n"...)
		body = append(s.ecs.append(body, &records[i]), '\n')
	}
	header := s.newHeader(1)
	body = s.encoded(header, body)
	return s.send(ctx, func(attempt context.Context) *http.Request {
		return s.target.request(attempt, header, body)
	}, func(a *httpAnswer) error { return s.judge(a, len(records)) })
}

// judge says what became of so many events.
func (s *elasticsearch) judge(a *httpAnswer, events int) error {
	if err := a.judge(a.Status, a.Body); err != nil {
		// What is wrong with an event its part says: this is about the request, or where it
		// went. Only a size is that of the events.
		if _, refused := errors.AsType[*PermanentError](err); refused && a.Status != http.StatusRequestEntityTooLarge {
			return &PausedError{Status: a.Status, Err: err}
		}
		return err
	}
	items := event.Member(a.Body, "items")
	if items == nil || !json.Valid(a.Body) {
		return a.paused(a.Status, ReasonNotFound, a.Body, "what answers is neither Elasticsearch nor OpenSearch")
	}
	each := make([]error, 0, events)
	for item := range event.Elements(items) { // in the order of the request
		for _, result := range event.Members(item) { // of the only action
			status, cause := event.Int(event.Member(result, "status")), event.Member(result, "error")
			each = append(each, s.judgeItem(a, int(status), cause))
		}
	}
	if len(each) != events {
		return fmt.Errorf("the answer tells of %d of %d events", len(each), events)
	}
	return eventsError(each)
}

// judgeItem is what became of one event.
func (s *elasticsearch) judgeItem(a *httpAnswer, status int, cause []byte) error {
	switch status {
	case 0:
		return fmt.Errorf("the answer has an item without a status: %s", a.excerpt(cause))
	case http.StatusConflict: // it was created before
		return nil
	}
	err := a.judge(status, cause)
	if err == nil {
		return nil
	}
	kind, text := event.String(event.Member(cause, "type")), event.String(event.Member(cause, "reason"))
	switch {
	case kind == "cluster_block_exception":
		// No index is written to while a disk is too full, which some versions say with 429
		// and some with 403, or because somebody has said so.
		if status != http.StatusTooManyRequests {
			return a.paused(status, ReasonNoSpace, cause, "nothing may be written to this index")
		}
		err = &reasonError{ReasonNoSpace, err}
	case kind == "validation_exception", // of the cluster: it has as many shards as it may
		kind == "invalid_index_name_exception", kind == "index_closed_exception",
		kind == "illegal_argument_exception" && strings.HasPrefix(text, "no write index is defined"):
		err = a.paused(status, ReasonNotFound, cause, "no event can be written to this index")
	}
	return err
}

// Probe asks the cluster who it is. Not every user may know; what may be written only an event
// shows.
func (s *elasticsearch) Probe(ctx context.Context) error {
	root := s.below("/", "")
	return s.send(ctx, func(attempt context.Context) *http.Request {
		return root.get(attempt, s.newHeader(0))
	}, func(a *httpAnswer) error {
		switch a.Status {
		case http.StatusForbidden, http.StatusNotFound, http.StatusMethodNotAllowed:
			return nil
		}
		return a.judge(a.Status, a.Body)
	})
}
