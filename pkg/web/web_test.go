package web_test

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/web"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// site is a running web side that shows what a test tells it to.
type site struct {
	*httptest.Server
	status    status.Status
	reloadErr error
	reloads   int
}

func start(t *testing.T) *site {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "test_metric", Help: "A metric of the test."}))
	s := &site{status: status.Status{
		Role:  status.RoleLeader,
		Ready: true, Reasons: []status.Reason{}, Sinks: []status.SinkStatus{},
		HMCs: []status.HMCStatus{{Name: `east<script>alert("x")</script>`, State: status.StateConnected, Since: time.Unix(1700000000, 0)}},
	}}
	s.Server = httptest.NewServer(web.NewHandler(web.Options{
		Status: func() status.Status { return s.status },
		Config: func() web.ConfigStatus { return web.ConfigStatus{File: "hmcnotifyd.yaml", LastReloadSuccessful: true} },
		Reload: func() error {
			s.reloads++
			return s.reloadErr
		},
		Gatherer: registry, Registerer: registry,
		Build: web.Build{Version: "1.2.3", Revision: "abc", GoVersion: "go1.26"},
	}))
	t.Cleanup(s.Close)
	return s
}

// answer is what came back, without its body, which is closed.
type answer struct {
	StatusCode int
	Header     http.Header
}

// request makes a request, again for as long as there were too many.
func (s *site) request(t *testing.T, method, path string) (answer, string) {
	t.Helper()
	a, body := s.requestOnce(t, method, path)
	for a.StatusCode == http.StatusTooManyRequests {
		time.Sleep(50 * time.Millisecond)
		a, body = s.requestOnce(t, method, path)
	}
	return a, body
}

func (s *site) requestOnce(t *testing.T, method, path string) (answer, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header}, string(body)
}

func TestPaths(t *testing.T) {
	s := start(t)
	for _, test := range []struct {
		method, path string
		status       int
		kind         string
		body         string // a part
	}{
		{http.MethodGet, "/", 200, "text/html; charset=utf-8", "1.2.3"},
		{http.MethodHead, "/", 200, "text/html; charset=utf-8", ""},
		{http.MethodGet, "/metrics", 200, "text/plain", "test_metric 0"},
		{http.MethodGet, "/-/healthy", 200, "text/plain", "healthy"},
		{http.MethodGet, "/-/ready", 200, "application/json", `"role": "leader"`},
		{http.MethodGet, "/api/v1/status", 200, "application/json", `"version": "1.2.3"`},
		{http.MethodPost, "/-/reload", 200, "", ""},
		{http.MethodGet, "/-/reload", 405, "text/plain", ""},
		{http.MethodPost, "/metrics", 405, "text/plain", ""},
		{http.MethodGet, "/nothing", 404, "text/plain", ""},
	} {
		t.Run(test.method+" "+test.path, func(t *testing.T) {
			resp, body := s.request(t, test.method, test.path)
			if resp.StatusCode != test.status || !strings.HasPrefix(resp.Header.Get("Content-Type"), test.kind) || !strings.Contains(body, test.body) {
				t.Errorf("%d, %s: %s", resp.StatusCode, resp.Header.Get("Content-Type"), body)
			}
			if resp.Header.Get("X-Content-Type-Options") != "nosniff" || !strings.Contains(resp.Header.Get("Content-Security-Policy"), "default-src 'none'") {
				t.Errorf("headers %v", resp.Header)
			}
		})
	}
	if s.reloads != 1 {
		t.Errorf("%d reloads", s.reloads)
	}
}

func TestNotReady(t *testing.T) {
	s := start(t)
	s.status.Ready = false
	s.status.Reasons = []status.Reason{{HMC: "east", Reason: "the link is disconnected: refused"}, {Sink: "ops", Reason: "503"}}
	resp, body := s.request(t, http.MethodGet, "/-/ready")
	var reasons []map[string]string
	if err := json.Unmarshal([]byte(body), &reasons); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	if resp.StatusCode != http.StatusServiceUnavailable || len(reasons) != 2 || reasons[0]["hmc"] != "east" || reasons[1]["sink"] != "ops" ||
		reasons[0]["role"] != status.RoleLeader || reasons[1]["role"] != status.RoleLeader {
		t.Errorf("%d %v", resp.StatusCode, reasons)
	}
	if resp, _ := s.request(t, http.MethodGet, "/-/healthy"); resp.StatusCode != http.StatusOK {
		t.Errorf("healthy: %d", resp.StatusCode)
	}
	if _, page := s.request(t, http.MethodGet, "/"); !strings.Contains(page, "Not ready yet") || !strings.Contains(page, "the link is disconnected: refused") || !strings.Contains(page, "503") {
		t.Errorf("page: %s", page)
	}
}

// Whatever an HMC or a configuration is called, the page shows it as text.
func TestPageEscapes(t *testing.T) {
	if _, page := start(t).request(t, http.MethodGet, "/"); strings.Contains(page, "<script>") || !strings.Contains(page, "&lt;script&gt;") {
		t.Errorf("page: %s", page)
	}
}

func TestReloadFails(t *testing.T) {
	s := start(t)
	s.reloadErr = errors.New("hmcnotifyd.yaml:3: hmcs[0]: unknown key")
	resp, body := s.request(t, http.MethodPost, "/-/reload")
	if resp.StatusCode != http.StatusInternalServerError || !strings.Contains(body, "unknown key") {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}
