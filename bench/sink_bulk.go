package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/tests/elastic"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hec"
)

// bulkGoal is the ratio that a sink should have whose answers tell of each event.
const bulkGoal = 0.8

// splunkCase compares with posting to the collector by net/http, and looking at the code of its answers.
func splunkCase() sinkCase {
	return sinkCase{
		name: "splunk", loop: "http.Client's Post of 100 events", events: 100_000, batch: 100, goal: bulkGoal,
		destination: func(ctx context.Context, _ string) (string, func(), error) {
			c := hec.New(hec.Settings{Token: "bench", Count: true})
			return startJudge(ctx, c, func() int { n, _, _ := c.Counts(); return n })
		},
		sink: func(address string) config.Sink {
			return config.Sink{Splunk: &config.Splunk{URL: config.NewURL(address), Token: config.NewSecret("bench"), Sourcetype: config.DefaultSourcetype}}
		},
		baseline: func(_ context.Context, address string) (sender, error) {
			return &bulkLoop{
				address: address + "/services/collector/event", client: new(http.Client), body: splunkBody,
				header: http.Header{"Authorization": {"Splunk bench"}, "Content-Type": {"application/json"}},
				read: func(body []byte, _ int) error {
					var answer struct {
						Code int `json:"code"`
					}
					if err := json.Unmarshal(body, &answer); err != nil || answer.Code != 0 {
						return fmt.Errorf("%w: %s", err, body)
					}
					return nil
				},
			}, nil
		},
		arrived: askJudge,
	}
}

// splunkBody makes of each event what the sink makes of it.
func splunkBody(records []event.Record) ([]byte, error) {
	var body bytes.Buffer
	out := json.NewEncoder(&body)
	for i := range records {
		e, err := records[i].Event()
		if err != nil {
			return nil, err
		}
		if err := out.Encode(map[string]any{
			"time": float64(e.Time.UnixMilli()) / 1000, "host": e.HMC, "source": "bench", "sourcetype": config.DefaultSourcetype,
			"fields": map[string]string{
				"id": e.ID, "hmc": e.HMC, "type": e.Type, "severity": e.Severity, "class": e.Resource.Class, "name": e.Resource.Name, "cpc": e.Resource.CPC,
			},
			"event": json.RawMessage(records[i].JSON),
		}); err != nil {
			return nil, err
		}
	}
	return body.Bytes(), nil
}

// elasticsearchCase compares with posting bulk requests by net/http, and looking at each item of the answers.
func elasticsearchCase() sinkCase {
	return sinkCase{
		name: "elasticsearch", loop: "http.Client's Post of 100 documents", events: 100_000, batch: 100, goal: bulkGoal,
		destination: func(ctx context.Context, _ string) (string, func(), error) {
			c := elastic.New(elastic.Settings{Count: true})
			return startJudge(ctx, c, func() int { n, _ := c.Counts(); return n })
		},
		sink: func(address string) config.Sink {
			return config.Sink{Elasticsearch: &config.Elasticsearch{URL: config.NewURL(address), DataStream: config.DefaultDataStream}}
		},
		baseline: func(_ context.Context, address string) (sender, error) {
			return &bulkLoop{
				address: address + "/" + config.DefaultDataStream + "/_bulk", client: new(http.Client), body: elasticBody,
				header: http.Header{"Content-Type": {"application/x-ndjson"}},
				read: func(body []byte, n int) error {
					var answer struct {
						Items []map[string]struct {
							Status int `json:"status"`
						} `json:"items"`
					}
					if err := json.Unmarshal(body, &answer); err != nil {
						return err
					}
					for _, item := range answer.Items {
						if status := item["create"].Status; status != http.StatusCreated {
							return fmt.Errorf("status %d", status)
						}
					}
					if len(answer.Items) != n {
						return fmt.Errorf("%d of %d items", len(answer.Items), n)
					}
					return nil
				},
			}, nil
		},
		arrived: askJudge,
	}
}

// elasticBody makes of each event what the sink makes of it.
func elasticBody(records []event.Record) ([]byte, error) {
	type object = map[string]any
	var body bytes.Buffer
	out := json.NewEncoder(&body)
	for i := range records {
		e, err := records[i].Event()
		if err != nil {
			return nil, err
		}
		document := object{
			"@timestamp": e.Time, "ecs": object{"version": "8.17.0"}, "agent": object{"type": "bench"}, "message": e.Summary,
			"data_stream": object{"type": "logs", "dataset": "hmc", "namespace": "default"},
			"log":         object{"level": e.Severity}, "observer": object{"name": e.HMC},
			"host": object{"name": e.Resource.Name, "id": e.Resource.ObjectID, "type": e.Resource.Class},
			"event": object{
				"kind": "event", "module": "hmc", "dataset": "hmc", "category": []string{"host"}, "type": []string{"change"}, "id": e.ID, "action": e.Type,
				"created": e.Received, "original": string(records[i].JSON),
			},
			"hmc": object{"topic": e.Topic, "topic_type": e.TopicType, "origin": e.Origin, "cpc": e.Resource.CPC, "object_uri": e.Resource.ObjectURI},
		}
		if err := out.Encode(object{"create": object{"_id": e.ID}}); err != nil {
			return nil, err
		}
		if err := out.Encode(document); err != nil {
			return nil, err
		}
	}
	return body.Bytes(), nil
}

// bulkLoop posts bodies of many events, and reads the answers.
type bulkLoop struct {
	address string
	client  *http.Client
	header  http.Header
	body    func([]event.Record) ([]byte, error)
	read    func(body []byte, events int) error
}

func (l *bulkLoop) Send(ctx context.Context, records []event.Record) error {
	body, err := l.body(records)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, l.address, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header = l.header.Clone()
	resp, err := l.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d: %s", resp.StatusCode, answer)
	}
	return l.read(answer, len(records))
}

func (l *bulkLoop) Close() error {
	l.client.CloseIdleConnections()
	return nil
}

// startJudge serves a judge of the tests, and at /arrived how many events it has.
func startJudge(ctx context.Context, judge http.Handler, arrived func() int) (address string, stop func(), err error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("/", judge)
	mux.HandleFunc("/arrived", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, arrived()) })
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: mux}
	go func() { _ = server.Serve(listener) }()
	return "http://" + listener.Addr().String(), func() { _ = server.Close() }, nil
}

// askJudge asks a server of startJudge.
func askJudge(ctx context.Context, address string) (int, error) {
	return askHTTP(ctx, address+"/arrived")
}
