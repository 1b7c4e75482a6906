package web_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/deliver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/replay"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/web"
)

// script is a reader of live events that plays what a test tells it to.
type script struct {
	steps   chan step
	closed  chan struct{}
	refuses error
}

type step struct {
	events []event.Record
	lost   int
	err    error
}

func newScript() *script { return &script{steps: make(chan step, 100), closed: make(chan struct{})} }

func (s *script) Next(ctx context.Context) ([]event.Record, int, error) {
	select {
	case st := <-s.steps:
		return st.events, st.lost, st.err
	case <-ctx.Done():
		return nil, 0, ctx.Err()
	}
}

func (s *script) Only(replay.LiveFilter) (bool, error) { return true, s.refuses }

func (s *script) Close() { close(s.closed) }

// liveHandler serves one reader.
func liveHandler(open func() (web.LiveReader, error)) http.Handler {
	return web.NewHandler(web.Options{
		Status: func() status.Status { return status.Status{} }, Config: func() web.ConfigStatus { return web.ConfigStatus{} },
		Reload: func() error { return nil }, Gatherer: prometheus.NewRegistry(), Live: open,
	})
}

func record(id, json string) event.Record { return event.Record{ID: id, JSON: []byte(json)} }

// get makes a request; the body is closed at the end of the test.
func get(ctx context.Context, t *testing.T, url string) (answer, io.Reader) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	transport := new(http.Transport)
	t.Cleanup(transport.CloseIdleConnections)
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	return answer{resp.StatusCode, resp.Header}, resp.Body
}

func TestLiveStream(t *testing.T) {
	t.Parallel()
	s := newScript()
	server := httptest.NewUnstartedServer(liveHandler(func() (web.LiveReader, error) { return s, nil }))
	// Shorter than the stream lasts: it must not be cut by a limit that is meant for requests.
	server.Config.ReadTimeout = time.Second
	server.Start()
	t.Cleanup(server.Close)
	resp, stream := get(t.Context(), t, server.URL+"/api/v1/events")
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream" || resp.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%d %v", resp.StatusCode, resp.Header)
	}
	in := bufio.NewReader(stream)
	expect := func(want ...string) {
		t.Helper()
		for _, w := range want {
			if line, err := in.ReadString('\n'); err != nil || line != w+"\n" {
				t.Fatalf("%q, %v; not %q", line, err, w)
			}
		}
	}
	expect("retry: 2000", ": live events", "")
	s.steps <- step{events: []event.Record{record("1", `{"id":"1"}`), record("2", "{\"id\":\n\"2\r\"}")}}
	expect("id: 1", `data: {"id":"1"}`, "", "id: 2", `data: {"id": "2 "}`, "")
	time.Sleep(server.Config.ReadTimeout * 3 / 2) // the time of the limit itself
	s.steps <- step{lost: 7, events: []event.Record{record("3", "{}")}}
	expect("event: lost", `data: {"lost":7}`, "", "id: 3", "data: {}", "")
	s.steps <- step{err: replay.ErrLiveEnded}
	expect("event: end", `data: "the daemon is ending"`, "")
	if _, err := in.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("%v", err)
	}
	<-s.closed
}

// A client that goes away frees its reader; it need not wait for the next event.
func TestLiveClientLeaves(t *testing.T) {
	s := newScript()
	server := httptest.NewServer(liveHandler(func() (web.LiveReader, error) { return s, nil }))
	t.Cleanup(server.Close)
	ctx, cancel := context.WithCancel(t.Context())
	_, stream := get(ctx, t, server.URL+"/api/v1/events")
	if _, err := bufio.NewReader(stream).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	cancel()
	<-s.closed
}

// flushes is a ResponseWriter that hands on what is flushed.
type flushes struct {
	header http.Header
	buf    strings.Builder
	out    chan string
}

func (f *flushes) Header() http.Header         { return f.header }
func (f *flushes) WriteHeader(int)             {}
func (f *flushes) Write(p []byte) (int, error) { return f.buf.Write(p) }
func (f *flushes) Flush() {
	f.out <- f.buf.String()
	f.buf.Reset()
}

func TestLiveHeartBeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newScript(), &flushes{header: http.Header{}, out: make(chan string)}
		h := liveHandler(func() (web.LiveReader, error) { return s, nil })
		ctx, cancel := context.WithCancel(t.Context())
		go h.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, "/api/v1/events", http.NoBody))
		<-w.out
		for range 3 {
			start := time.Now()
			if text := <-w.out; text != ": heart-beat\n\n" || time.Since(start) != web.HeartBeat {
				t.Errorf("%q after %s", text, time.Since(start))
			}
		}
		cancel()
		<-s.closed
	})
}

func TestLiveRefused(t *testing.T) {
	for name, test := range map[string]struct {
		query      string
		full, only error
		status     int
		body       string
	}{
		"too many":          {"", replay.ErrTooManyReaders, nil, 503, "too many readers"},
		"the end":           {"", replay.ErrLiveEnded, nil, 503, "ending"},
		"no such sink":      {"?sink=x", nil, fmt.Errorf("%w: x", replay.ErrNoSuchSink), 404, "no such sink"},
		"unknown parameter": {"?typ=x", nil, nil, 400, `unknown parameter \"typ\"`},
		"no expression":     {"?type=(", nil, nil, 400, "type: error parsing regexp"},
		"two texts":         {"?text=a&text=b", nil, nil, 400, "text: may be given once"},
		"too long":          {"?text=" + strings.Repeat("x", 201), nil, nil, 400, "text: at most 200 bytes"},
		"too many values":   {"?" + strings.Repeat("type=a&", 11), nil, nil, 400, "type: at most 10 values"},
		"malformed":         {"?a=%zz", nil, nil, 400, "malformed"},
		// What it compiles to, of one value and of all of them.
		"too large":       {`?type=(?i)\pL{0,1000}`, nil, nil, 400, "type: is too large"},
		"large together":  {"?" + strings.Repeat("hmc=(a|b|d){900}(b|c){900}&", 4), nil, nil, 400, "hmc: is too large"},
		"without a place": {"?type=(", replay.ErrTooManyReaders, nil, 503, "too many readers"}, // nothing was compiled
	} {
		t.Run(name, func(t *testing.T) {
			s := newScript()
			s.refuses = test.only
			server := httptest.NewServer(liveHandler(func() (web.LiveReader, error) {
				if test.full != nil {
					return nil, test.full
				}
				return s, nil
			}))
			t.Cleanup(server.Close)
			resp, stream := get(t.Context(), t, server.URL+"/api/v1/events"+test.query)
			body, err := io.ReadAll(stream)
			if err != nil || resp.StatusCode != test.status || !strings.Contains(string(body), test.body) {
				t.Errorf("%d %s, %v", resp.StatusCode, body, err)
			}
			if test.status == 503 && resp.Header.Get("Retry-After") == "" {
				t.Errorf("%v", resp.Header)
			}
			if test.full == nil {
				<-s.closed // its place is free again
			}
		})
	}
}

// A page of another site can neither take the places of readers nor change anything: what the
// browser says of where it comes from counts, also where it is old or the site has no TLS.
func TestWhereRequestsComeFrom(t *testing.T) {
	const own, other = "http://hmc-bridge:10291", "http://evil.example"
	for _, from := range []struct {
		header, value string
		refused       bool
	}{
		{"Sec-Fetch-Site", "same-origin", false},
		{"Sec-Fetch-Site", "none", false},
		{"Sec-Fetch-Site", "same-site", true},
		{"Sec-Fetch-Site", "cross-site", true},
		{"Origin", own, false},
		{"Origin", other, true},
		{"Origin", "null", true},
		{"Origin", "http://hmc-bridge:80", true}, // another service of the same machine
		{"Referer", own + "/?q=x", false},
		{"Referer", other + "/page.html", true},
		{"Referer", "http://hmc-bridge.evil.example:10291/", true},
		{"User-Agent", "curl/8", false},
	} {
		h := web.NewHandler(web.Options{
			Status: func() status.Status { return status.Status{} }, Config: func() web.ConfigStatus { return web.ConfigStatus{} },
			Reload: func() error { return nil }, Gatherer: prometheus.NewRegistry(),
			Live:           func() (web.LiveReader, error) { return nil, replay.ErrTooManyReaders },
			SendTest:       func(context.Context, string, func(deliver.TestStep) error) error { return replay.ErrNoSuchSink },
			EnableAdminAPI: true,
		})
		for path, usual := range map[string]int{"GET /api/v1/events": 503, "POST /-/reload": 200, "POST /api/v1/sinks/x/test": 404, "GET /": 200} {
			method, path, _ := strings.Cut(path, " ")
			r, w := httptest.NewRequestWithContext(t.Context(), method, own+path, http.NoBody), httptest.NewRecorder()
			r.Header.Set(from.header, from.value)
			h.ServeHTTP(w, r)
			want := usual
			if from.refused && path != "/" { // a link to the page is no attack
				want = http.StatusForbidden
			}
			if w.Code != want {
				t.Errorf("%s %s with %s: %s: %d, not %d", method, path, from.header, from.value, w.Code, want)
			}
		}
	}
}

func TestParseLiveFilter(t *testing.T) {
	f, err := web.ParseLiveFilter("type=status-change&type=bridge-.*&hmc=east&severity=&text=PANIC&sink=")
	if err != nil {
		t.Fatal(err)
	}
	if !f.Type.Match("bridge-gap") || !f.Type.Match("status-change") || f.Type.Match("log-entry") || !f.HMC.Match("east") || f.Severity.IsSet() || f.Text != "PANIC" || f.Sink != "" {
		t.Errorf("%+v", f)
	}
}
