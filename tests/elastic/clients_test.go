//go:build real

package elastic

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/elastic/elastic-transport-go/v8/elastictransport"
	"github.com/elastic/go-elasticsearch/v9/esutil"
	"github.com/opensearch-project/opensearch-go/v4"
	"github.com/opensearch-project/opensearch-go/v4/opensearchapi"
	"go.uber.org/goleak"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/sinks"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// client creates documents with a client of a vendor, and returns the status that it reads of each, in their order.
type client func(t *testing.T, url, index string, ids, documents []string) []int

// byElastic is the bulk indexer of Elastic's client.
func byElastic(t *testing.T, address, index string, ids, documents []string) []int {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	own := &http.Transport{}
	defer own.CloseIdleConnections()
	transport, err := elastictransport.NewClient(elastictransport.WithURLs(u), elastictransport.WithTransport(own))
	if err != nil {
		t.Fatal(err)
	}
	indexer, err := esutil.NewBulkIndexer(esutil.BulkIndexerConfig{
		Client: transport, Index: index, NumWorkers: 1, FlushInterval: time.Hour,
		OnError: func(_ context.Context, err error) { t.Error(err) },
	})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	statuses := make([]int, len(ids))
	note := func(item esutil.BulkIndexerItem, answer esutil.BulkIndexerResponseItem) {
		mu.Lock()
		defer mu.Unlock()
		statuses[slices.Index(ids, item.DocumentID)] = answer.Status
	}
	for i, id := range ids {
		if err := indexer.Add(t.Context(), esutil.BulkIndexerItem{
			Action: "create", DocumentID: id, Body: strings.NewReader(documents[i]),
			OnSuccess: func(_ context.Context, item esutil.BulkIndexerItem, answer esutil.BulkIndexerResponseItem) {
				note(item, answer)
			},
			OnFailure: func(_ context.Context, item esutil.BulkIndexerItem, answer esutil.BulkIndexerResponseItem, err error) {
				if err != nil {
					t.Error(err)
				}
				note(item, answer)
			},
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := indexer.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	return statuses
}

// byOpenSearch is a bulk request of OpenSearch's client.
func byOpenSearch(t *testing.T, address, index string, ids, documents []string) []int {
	t.Helper()
	own := &http.Transport{}
	defer own.CloseIdleConnections()
	c, err := opensearchapi.NewClient(opensearchapi.Config{Client: opensearch.Config{Addresses: []string{address}, Transport: own}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Client.Close() }() // it looks after the cluster meanwhile
	var body bytes.Buffer
	for i, id := range ids {
		fmt.Fprintf(&body, "{\"create\":{\"_id\":%q}}\n%s\n", id, documents[i])
	}
	answer, err := c.Bulk(t.Context(), opensearchapi.BulkReq{Index: index, Body: &body})
	if err != nil {
		t.Fatal(err)
	}
	var statuses []int
	for _, item := range answer.Items {
		statuses = append(statuses, item["create"].Status)
	}
	return statuses
}

// TestClientsAgree has the clients of both vendors and the sink create documents: they read of the server what the sink does,
// and what one of them has created is there for the others.
func TestClientsAgree(t *testing.T) {
	for name, test := range map[string]struct {
		settings Settings
		client   client
		index    string
	}{
		"Elasticsearch, data stream": {Settings{}, byElastic, config.DefaultDataStream},
		"Elasticsearch, index":       {Settings{}, byElastic, "hmc-events"},
		"OpenSearch, index":          {Settings{OpenSearch: true}, byOpenSearch, "hmc-events"},
		"OpenSearch, data stream":    {Settings{OpenSearch: true, Streams: []string{config.DefaultDataStream}}, byOpenSearch, config.DefaultDataStream},
	} {
		t.Run(name, func(t *testing.T) {
			server := New(test.settings)
			listening := httptest.NewServer(server)
			defer listening.Close()
			sink, err := sinks.New(config.Sink{
				Elasticsearch: &config.Elasticsearch{URL: config.NewURL(listening.URL), Index: test.index},
				Batch:         config.Batch{MaxEvents: 100}, Timeout: time.Minute,
			}, sinks.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer sink.Close()
			records := make([]event.Record, 5)
			ids := make([]string, len(records))
			for i := range records {
				at := time.Date(2026, 11, 20, 10, 0, i, 0, time.UTC)
				records[i] = event.NewRecord(&event.Event{
					ID: event.NewID(fmt.Sprint(i)), HMC: "hmc-east", Type: event.TypeStatusChange, Time: at, Received: at,
					Origin: event.OriginLive, Severity: event.SeverityInfo, Summary: "a status",
				})
				ids[i] = records[i].ID
			}
			if err := sink.Send(t.Context(), records[:3]); err != nil {
				t.Fatal(err)
			}
			documents := make([]string, len(ids))
			for i := range documents {
				documents[i] = `{"@timestamp":"2026-11-20T10:00:00.000Z","message":"by another client"}`
			}
			documents[4] = `{"@timestamp":"2026-11-20T10:00:00.000Z","message":{"of":"another kind"}}`
			server.Change(func(s *Settings) { s.Overloaded = func(id string) bool { return id == ids[2] } })
			// Two are there, one comes too soon, one is new, one does not fit.
			if got := test.client(t, listening.URL, test.index, ids, documents); !slices.Equal(got, []int{409, 409, 429, 201, 400}) {
				t.Errorf("the client reads %v", got)
			}
			server.Change(func(s *Settings) { s.Overloaded = nil })
			// Of what the client has created the sink makes no second document.
			if err := sink.Send(t.Context(), records); err != nil {
				t.Error(err)
			}
			if n, _ := server.Counts(); n != len(records) {
				t.Errorf("%d documents", n)
			}
		})
	}
}
