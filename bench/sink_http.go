package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// webhookCase compares with posting JSON arrays by net/http.
func webhookCase() sinkCase {
	const batch = 100
	return sinkCase{
		name: "webhook", loop: "http.Client's Post of arrays of 100", events: 200_000, batch: batch, goal: sinkGoal,
		destination: startHTTP,
		sink: func(address string) config.Sink {
			return config.Sink{Webhook: &config.Webhook{URL: config.NewURL(address)}}
		},
		baseline: func(_ context.Context, address string) (sender, error) {
			return &httpLoop{address: address, client: new(http.Client), body: func(records []event.Record) ([]byte, error) {
				all := make([]json.RawMessage, len(records))
				for i := range records {
					all[i] = records[i].JSON
				}
				return joined(all), nil
			}}, nil
		},
		arrived: askHTTP,
	}
}

// alertmanagerCase compares with posting an alert for each event. Half of the events make an alert fire, the other half resolve
// one; what several events of one Send say of one alert the sink sends once, so what has arrived cannot be counted.
func alertmanagerCase() sinkCase {
	return sinkCase{
		name: "alertmanager", loop: "http.Client's Post of 256 alerts", events: 100_000, resources: 10_000, goal: sinkGoal,
		destination: startHTTP,
		records:     alertRecords,
		sink: func(address string) config.Sink {
			return config.Sink{Alertmanager: &config.Alertmanager{URLs: []config.URL{config.NewURL(address)}, Alerts: config.AlertNames()}}
		},
		baseline: func(_ context.Context, address string) (sender, error) {
			return &httpLoop{address: address + "/api/v2/alerts", client: new(http.Client), body: alertsOf}, nil
		},
	}
}

func alertRecords(n, resources int) []event.Record {
	begin := time.Now()
	records := make([]event.Record, n)
	for i := range records {
		at := begin.Add(time.Duration(i) * time.Microsecond)
		status, severity := "terminated", event.SeverityCritical
		if i/resources%2 == 1 {
			status, severity = "active", event.SeverityInfo
		}
		name := "PART" + strconv.Itoa(i%resources)
		records[i] = event.NewRecord(&event.Event{
			ID: event.NewID("bench", strconv.Itoa(i)), HMC: "hmc1", Type: event.TypeStatusChange, Time: at, Received: at, Origin: event.OriginLive,
			Severity: severity, Summary: "partition " + name + " on CPC1: " + status,
			Resource: &event.Resource{Class: "partition", Name: name, ObjectURI: "/api/partitions/" + strconv.Itoa(i%resources), CPC: "CPC1"},
			Body:     fmt.Appendf(nil, `{"change-reports":[{"new-status":%q}]}`, status),
		})
	}
	return records
}

// alertsOf makes an alert of each event.
func alertsOf(records []event.Record) ([]byte, error) {
	type alert struct {
		Labels      map[string]string `json:"labels"`
		Annotations map[string]string `json:"annotations"`
		StartsAt    time.Time         `json:"startsAt"`
		EndsAt      time.Time         `json:"endsAt"`
	}
	alerts := make([]alert, len(records))
	for i := range records {
		e, err := records[i].Event()
		if err != nil {
			return nil, err
		}
		ends := e.Time
		if e.Severity != event.SeverityInfo {
			ends = ends.Add(4 * time.Minute)
		}
		alerts[i] = alert{
			map[string]string{"alertname": "HMCResourceStatus", "severity": e.Severity, "hmc": e.HMC, "cpc": e.Resource.CPC, "resource": e.Resource.Name, "class": e.Resource.Class},
			map[string]string{"summary": e.Summary, "description": e.Summary},
			e.Time, ends,
		}
	}
	return json.Marshal(alerts)
}

// joined makes a JSON array.
func joined(all []json.RawMessage) []byte {
	body := []byte{'['}
	for i, one := range all {
		if i > 0 {
			body = append(body, ',')
		}
		body = append(body, one...)
	}
	return append(body, ']')
}

type httpLoop struct {
	address string
	client  *http.Client
	body    func([]event.Record) ([]byte, error)
	header  http.Header // nil: that of JSON
}

// Send posts at most 256 records at once.
func (l *httpLoop) Send(ctx context.Context, records []event.Record) error {
	for len(records) > 0 {
		n := min(len(records), 256)
		body, err := l.body(records[:n])
		if err != nil {
			return err
		}
		records = records[n:]
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, l.address, bytes.NewReader(body))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/json")
		maps.Copy(req.Header, l.header)
		resp, err := l.client.Do(req)
		if err != nil {
			return err
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("status %d", resp.StatusCode)
		}
	}
	return nil
}

func (l *httpLoop) Close() error {
	l.client.CloseIdleConnections()
	return nil
}

// startHTTP starts a server that counts the events in what is posted, and says how many on GET.
func startHTTP(ctx context.Context, _ string) (address string, stop func(), err error) {
	var events atomic.Int64
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			_, _ = fmt.Fprint(w, events.Load())
			return
		}
		var from io.Reader = r.Body
		if r.Header.Get("Content-Encoding") == "gzip" {
			z, err := gzip.NewReader(r.Body)
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			from = z
		}
		body, err := io.ReadAll(from)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		events.Add(int64(bytes.Count(body, []byte(`{"id":"`))))
	})}
	go func() { _ = server.Serve(listener) }()
	return "http://" + listener.Addr().String(), func() { _ = server.Close() }, nil
}

// askHTTP asks a server of startHTTP.
func askHTTP(ctx context.Context, address string) (n int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = fmt.Fscan(resp.Body, &n)
	return n, err
}
