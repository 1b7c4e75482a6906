package web_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/bridge"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/web"
)

// startWithBridge serves a bridge that has no dead letters and does nothing.
func startWithBridge(t *testing.T, options ...func(*web.Options)) *site {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "hmcnotifyd.yaml")
	if err := os.WriteFile(file, []byte("hmcs:\n  - {name: a, hosts: [localhost], userid: u, password: p}\nsinks:\n  - {name: ops, log: {output: stderr}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	b, err := bridge.New(bridge.Options{Config: cfg, StoragePath: filepath.Join(dir, "data")})
	if err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	t.Cleanup(func() {
		if err := b.Run(ended); err != nil { // ends at once, and closes the storage
			t.Error(err)
		}
	})
	s := &site{}
	opts := web.Options{
		Status: b.Status, Config: func() web.ConfigStatus { return web.ConfigStatus{} },
		Reload: func() error {
			s.reloads++
			return nil
		},
		Gatherer: prometheus.NewRegistry(), Bridge: func() (*bridge.Bridge, error) { return b, nil }, SendTest: b.SendTest,
	}
	for _, set := range options {
		set(&opts)
	}
	s.Server = httptest.NewServer(web.NewHandler(opts))
	t.Cleanup(s.Close)
	return s
}

func TestDeadLetterPaths(t *testing.T) {
	s := startWithBridge(t)
	for _, test := range []struct {
		method, path string
		status       int
		body         string // a part, without white space
	}{
		{http.MethodGet, "", 200, `{"dead_letters":[]}`},
		{http.MethodGet, "?sink=ops&since=1h&limit=10&id=a&id=b", 200, `{"dead_letters":[]}`},
		{http.MethodGet, "?since=2026-11-20T10:00:00%2B02:00", 200, `[]`},
		{http.MethodGet, "?sink=nobody", 404, `nobody`},
		{http.MethodGet, "?snk=ops", 400, `unknownparameter`},
		{http.MethodGet, "?all=true", 400, `unknownparameter`},
		{http.MethodGet, "?sink=", 400, `sink:mustnotbeempty`},
		{http.MethodGet, "?id=a&id=", 400, `id:mustnotbeempty`},
		{http.MethodGet, "?sink=ops&sink=x", 400, `sink:maybegivenonce`},
		{http.MethodGet, "?since=yesterday", 400, `neitheraduration`},
		{http.MethodGet, "?since=-1h", 400, `neitheraduration`},
		{http.MethodGet, "?limit=0", 400, `from1to10000`},
		{http.MethodGet, "?limit=10001", 400, `from1to10000`},
		{http.MethodGet, "?limit=x", 400, `limit`},
		{http.MethodGet, "?after=x", 404, `nosuchdeadletter`},
		{http.MethodGet, "?sink=%zz", 400, `malformed`},
		{http.MethodGet, "/0123456789abcdef", 404, `nosuchdeadletter`},
		{http.MethodGet, "/x", 404, `nosuchdeadletter`},
		{http.MethodDelete, "", 400, `all=true`},
		{http.MethodDelete, "?all=false", 400, `all=true`},
		{http.MethodDelete, "?all=true", 200, `{"purged":0}`},
		{http.MethodDelete, "?sink=ops", 200, `{"purged":0}`},
		{http.MethodDelete, "?sink=ops&limit=1", 400, `unknownparameter`},
		{http.MethodPost, "/replay", 400, `all=true`},
		{http.MethodPost, "/replay?sink=nobody", 404, `nobody`},
		{http.MethodPost, "/replay?all=true&to=nobody", 404, `nobody`},
		{http.MethodPost, "/replay?all=true", 200, `{"outcome":"done","counts":{"letters":0,"accepted":0,"refused":0,"left":0}}`},
		{http.MethodGet, "/replay?all=true", 404, `nosuchdeadletter`},
		{http.MethodPost, "", 405, ``},
		{http.MethodDelete, "/../removed-sinks/ops", 409, `configured`},
		{http.MethodDelete, "/../removed-sinks/nobody", 404, `nobody`},
		{http.MethodDelete, "/../removed-hmcs/a", 409, `configured`},
		{http.MethodDelete, "/../removed-hmcs/nobody", 404, `nobody`},
	} {
		t.Run(test.method+" "+test.path, func(t *testing.T) {
			path := "/api/v1/dead-letters" + test.path
			path = strings.Replace(path, "/dead-letters/..", "", 1)
			resp, body := s.request(t, test.method, path)
			if resp.StatusCode != test.status || !strings.Contains(strings.Join(strings.Fields(body), ""), test.body) {
				t.Errorf("%d: %s", resp.StatusCode, body)
			}
			if test.status != 405 && !json.Valid([]byte(body)) {
				t.Errorf("not JSON: %s", body)
			}
		})
	}
}

// A page of another site can neither change anything nor read an answer.
func TestOtherSites(t *testing.T) {
	s := startWithBridge(t)
	for name, test := range map[string]struct {
		header http.Header
		status int
	}{
		"a program":             {http.Header{}, 200},
		"the page itself":       {http.Header{"Sec-Fetch-Site": {"same-origin"}, "Origin": {s.URL}}, 200},
		"typed by a person":     {http.Header{"Sec-Fetch-Site": {"none"}}, 200},
		"another site":          {http.Header{"Sec-Fetch-Site": {"cross-site"}, "Origin": {"https://example.com"}}, 403},
		"another port":          {http.Header{"Sec-Fetch-Site": {"same-site"}, "Origin": {"http://127.0.0.1:1"}}, 403},
		"an old browser":        {http.Header{"Origin": {"https://example.com"}}, 403},
		"a form in a file":      {http.Header{"Origin": {"null"}}, 403},
		"a form of simple type": {http.Header{"Sec-Fetch-Site": {"cross-site"}, "Content-Type": {"text/plain"}}, 403},
	} {
		t.Run(name, func(t *testing.T) {
			for _, r := range []struct{ method, path string }{
				{http.MethodDelete, "/api/v1/dead-letters?all=true"}, {http.MethodPost, "/api/v1/dead-letters/replay?all=true"}, {http.MethodPost, "/-/reload"},
			} {
				before := s.reloads
				if got, header := s.send(t, r.method, r.path, test.header); got != test.status {
					t.Errorf("%s: %d", r.path, got)
				} else if header.Get("Access-Control-Allow-Origin") != "" {
					t.Errorf("%s: %v", r.path, header)
				}
				if test.status != 200 && s.reloads != before {
					t.Error("it reloaded")
				}
			}
			if got, header := s.send(t, http.MethodGet, "/api/v1/dead-letters", test.header); got != 200 || header.Get("Access-Control-Allow-Origin") != "" {
				t.Errorf("%d, %v", got, header)
			}
		})
	}
}

func (s *site) send(t *testing.T, method, path string, header http.Header) (int, http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = header.Clone()
	resp, err := s.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	return resp.StatusCode, resp.Header
}

func TestParseSince(t *testing.T) {
	now := time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Time{
		"90m": now.Add(-90 * time.Minute), "0s": now, "2026-11-19T10:00:00Z": now.Add(-24 * time.Hour), "2026-11-20T11:00:00.5+01:00": now.Add(500 * time.Millisecond),
		"7d": now.AddDate(0, 0, -7), "1w1d12h": now.Add(-8*24*time.Hour - 12*time.Hour), "+1h": now.Add(-time.Hour),
		"": {}, "x": {}, "-1s": {}, "+-1s": {}, "7": {}, "2026-11-20": {},
	} {
		got, err := web.ParseSince(value, now)
		if (err != nil) != want.IsZero() || !got.Equal(want) {
			t.Errorf("%q: %s, %v", value, got, err)
		}
	}
}
