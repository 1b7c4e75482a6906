// Package alertmanager runs a real Prometheus Alertmanager.
package alertmanager

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/tests/real/program"
)

const (
	debianPackage = "prometheus-alertmanager"
	startTimeout  = 5 * time.Minute
	queryTimeout  = time.Minute
)

// Alert is an alert as the API v2 and a webhook receiver tell it.
type Alert struct {
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	StartsAt    time.Time         `json:"startsAt"`
	EndsAt      time.Time         `json:"endsAt"`
	// Status is that of a webhook receiver: "firing" or "resolved". The API has an object there.
	Status json.RawMessage `json:"status"`
}

// Options of a server.
type Options struct {
	// Peers are the cluster addresses of other members.
	Peers []string
	// Receiver gets all alerts as webhook requests; "": nobody does.
	Receiver string
}

// Server is a running Alertmanager.
type Server struct {
	// URL is that of the web interface and the API, without a final slash.
	URL string
	// ClusterAddr is HOST:PORT for Options.Peers of another one.
	ClusterAddr string
	Process     *program.Process
}

// Start starts a server, which ends with the test, and returns when it is ready.
func Start(tb testing.TB, opts Options) *Server {
	tb.Helper()
	path := program.Look(tb, "prometheus-alertmanager", debianPackage)
	dir := tb.TempDir()
	config := filepath.Join(dir, "alertmanager.yml")
	receiver := "{name: all}"
	if opts.Receiver != "" {
		receiver = fmt.Sprintf("{name: all, webhook_configs: [{url: %q, send_resolved: true}]}", opts.Receiver)
	}
	text := "route: {receiver: all, group_by: [alertname, resource, hmc], group_wait: 50ms, group_interval: 100ms}\nreceivers: [" + receiver + "]\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
	local := func() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(program.FreePort(tb))) }
	addr := local()
	s := &Server{URL: "http://" + addr, ClusterAddr: local()}
	args := []string{
		"--config.file=" + config, "--storage.path=" + filepath.Join(dir, "data"), "--web.listen-address=" + addr,
		"--cluster.listen-address=" + s.ClusterAddr, "--cluster.advertise-address=" + s.ClusterAddr, "--cluster.settle-timeout=100ms",
	}
	for _, peer := range opts.Peers {
		args = append(args, "--cluster.peer="+peer)
	}
	s.Process = program.Start(tb, program.Options{Name: "alertmanager", Path: path, Dir: dir, Args: args})
	s.Process.Await(tb, startTimeout, func() error {
		_, err := s.get(tb.Context(), "/-/ready")
		return err
	})
	return s
}

// Alerts returns those that fire.
func (s *Server) Alerts(tb testing.TB) []Alert {
	tb.Helper()
	body, err := s.get(tb.Context(), "/api/v2/alerts")
	if err != nil {
		tb.Fatal(err)
	}
	var alerts []Alert
	if err := json.Unmarshal(body, &alerts); err != nil {
		tb.Fatalf("%v in %s", err, body)
	}
	return alerts
}

func (s *Server) get(ctx context.Context, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: status %d: %s", path, resp.StatusCode, body)
	}
	return body, err
}

// Receiver is what Alertmanager notifies.
type Receiver struct {
	URL string

	mu     sync.Mutex
	alerts []Alert
}

// StartReceiver starts a receiver that ends with the test.
func StartReceiver(tb testing.TB) *Receiver {
	tb.Helper()
	r := new(Receiver)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		var message struct{ Alerts []Alert }
		if err := json.NewDecoder(req.Body).Decode(&message); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.alerts = append(r.alerts, message.Alerts...)
	}))
	tb.Cleanup(server.Close)
	r.URL = server.URL
	return r
}

// Count returns how many notifications have told that an alert has a status, of those that have all the labels, which are
// names and values in turn.
func (r *Receiver) Count(status string, labels ...string) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.alerts {
		if string(r.alerts[i].Status) == strconv.Quote(status) && r.alerts[i].Has(labels...) {
			n++
		}
	}
	return n
}

// Has says whether the alert has these labels, which are names and values in turn.
func (a *Alert) Has(labels ...string) bool {
	for i := 0; i < len(labels); i += 2 {
		if a.Labels[labels[i]] != labels[i+1] {
			return false
		}
	}
	return true
}
