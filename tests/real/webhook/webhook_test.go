//go:build real

// Package webhook_test has the webhook sink meet consumers that others wrote.
package webhook_test

import (
	"bytes"
	"compress/gzip"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	promconfig "github.com/prometheus/common/config"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"go.uber.org/goleak"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/sinks"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/certs"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/program"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

//go:embed consumer.py
var python string

const (
	patience = 5 * time.Minute
	secret   = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
)

func record(n, size int) event.Record {
	body, err := json.Marshal(map[string]string{"text": strings.Repeat("HWSM ", size/5)})
	if err != nil {
		panic(err)
	}
	at := time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC)
	return event.NewRecord(&event.Event{
		ID: event.NewID("webhook", strconv.Itoa(n)), HMC: "hmc-east", Type: event.TypeStatusChange, Time: at, Received: at,
		Origin: event.OriginLive, Severity: event.SeverityWarning, Body: body,
	})
}

// sink makes a sink that is closed with the test.
func sink(tb testing.TB, address string, change ...func(*config.Sink)) sinks.Sink {
	tb.Helper()
	cfg := config.Sink{Name: "ops", Webhook: &config.Webhook{URL: config.NewURL(address)}, Timeout: patience, Concurrency: 4}
	for _, c := range change {
		c(&cfg)
	}
	s, err := sinks.New(cfg, sinks.Options{Version: "1.2.3"})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = s.Close() })
	return s
}

func withTimeout(d time.Duration) func(*config.Sink) { return func(c *config.Sink) { c.Timeout = d } }

func withHTTP(change func(*promconfig.HTTPClientConfig)) func(*config.Sink) {
	return func(c *config.Sink) {
		client := c.Webhook.HTTPConfig.Client()
		change(&client)
		c.Webhook.HTTPConfig = config.NewHTTPConfig(client)
	}
}

// Outcomes of Send, as interface.md has them.
const (
	delivered = "delivered"
	retried   = "tried again"
	dead      = "dead letter"
	paused    = "paused"
)

func outcome(err error) string {
	switch {
	case err == nil:
		return delivered
	case errorIs[*sinks.PermanentError](err):
		return dead
	case errorIs[*sinks.PausedError](err):
		return paused
	}
	return retried
}

func errorIs[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// outcomeOf returns what interface.md says of a status.
func outcomeOf(status int) string {
	switch {
	case status >= 200 && status <= 299:
		return delivered
	case status == 408, status == 425, status == 429, status >= 500:
		return retried
	case status >= 300 && status <= 399, slices.Contains([]int{401, 402, 403, 404, 405, 407, 410, 421}, status):
		return paused
	}
	return dead
}

// bounded sends one event and checks that it takes less time and memory than the limits.
func bounded(t *testing.T, s sinks.Sink, r event.Record, limit time.Duration) error {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	result := make(chan error, 1)
	go func() { result <- s.Send(t.Context(), []event.Record{r}) }()
	select {
	case err := <-result:
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 4<<20 {
			t.Errorf("%d bytes were allocated", n)
		}
		if err != nil && len(err.Error()) > 700 {
			t.Errorf("an error of %d bytes", len(err.Error()))
		}
		t.Logf("%s: %v", time.Since(start).Round(time.Millisecond), err)
		return err
	case <-time.After(limit):
		t.Fatalf("Send takes longer than %s", limit)
		return nil
	}
}

// startPython starts the consumer made of http.server.
func startPython(t *testing.T) (string, *program.Process) {
	t.Helper()
	source := filepath.Join(t.TempDir(), "consumer.py")
	if err := os.WriteFile(source, []byte(python), 0o600); err != nil {
		t.Fatal(err)
	}
	port := program.FreePort(t)
	p := program.Start(t, program.Options{Name: "consumer.py", Path: program.Look(t, "python3", "python3"), Args: []string{source, strconv.Itoa(port)}})
	address := fmt.Sprintf("http://127.0.0.1:%d", port)
	probe := sink(t, address)
	p.Await(t, patience, func() error { return probe.Probe(t.Context()) })
	return address, p
}

func TestPythonStatus(t *testing.T) {
	address, p := startPython(t)
	for status := 200; status <= 599; status++ {
		s := sink(t, fmt.Sprintf("%s/status/%d", address, status))
		err := s.Send(t.Context(), []event.Record{record(status, 100)})
		if got := outcome(err); got != outcomeOf(status) {
			t.Errorf("%d: %s: %v", status, got, err)
		}
		if text := fmt.Sprintf("it is %d", status); err != nil && status != 304 && !strings.Contains(err.Error(), text) {
			t.Errorf("%d: the error %q does not say %q", status, err, text)
		}
		_ = s.Close()
	}
	if strings.Contains(p.Output(), record(301, 100).ID) {
		t.Error("a redirect was followed")
	}
}

// TestPythonBroken has the consumer hang and close in each phase, and answer with 10 MiB.
func TestPythonBroken(t *testing.T) {
	address, _ := startPython(t)
	for path, want := range map[string]string{
		"/hang/read": retried, "/hang/status": retried, "/hang/header": retried, "/hang/200": delivered, "/hang/400": dead, "/hang/503": retried,
		"/close/request": retried, "/close/header": retried, "/close/200": delivered, "/close/400": dead, "/close/503": retried,
		"/long/200": delivered, "/long/400": dead, "/long/503": retried,
	} {
		t.Run(path, func(t *testing.T) {
			s := sink(t, address+path, withTimeout(3*time.Second))
			err := bounded(t, s, record(0, 1000), patience)
			if got := outcome(err); got != want {
				t.Errorf("%s, want %s: %v", got, want, err)
			}
		})
	}
	t.Run("a large event is not read", func(t *testing.T) {
		s := sink(t, address+"/hang/read", withTimeout(time.Second))
		if err := s.Send(t.Context(), []event.Record{record(0, 20<<20)}); outcome(err) != retried {
			t.Errorf("%v", err)
		}
	})
}

// TestPythonNeverAccepts has a program that listens and does nothing else.
func TestPythonNeverAccepts(t *testing.T) {
	port := program.FreePort(t)
	p := program.Start(t, program.Options{
		Name: "listener", Path: program.Look(t, "python3", "python3"),
		Args: []string{"-c", fmt.Sprintf("import socket, time\ns = socket.socket()\ns.bind(('127.0.0.1', %d))\ns.listen(0)\nprint('ready', flush=True)\ntime.sleep(1000)", port)},
	})
	p.AwaitOutput(t, "ready", patience)
	// The kernel takes one or two connections by itself; behind these there is no answer to the first packet.
	for i := range 5 {
		s := sink(t, fmt.Sprintf("http://127.0.0.1:%d", port), withTimeout(time.Second))
		if err := bounded(t, s, record(i, 1000), patience); outcome(err) != retried {
			t.Errorf("%v", err)
		}
	}
}

// TestPythonStores sends many events, several at a time, and over a restart of the consumer.
func TestPythonStores(t *testing.T) {
	address, p := startPython(t)
	const senders, each = 4, 250
	s := sink(t, address+"/store")
	var wg sync.WaitGroup
	for i := range senders {
		wg.Go(func() {
			for j := range each {
				if err := s.Send(t.Context(), []event.Record{record(i*each+j, 1000)}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	got := map[string]int{}
	for line := range strings.Lines(p.Output()) {
		if id, _, ok := strings.Cut(line, " "); ok {
			got[id]++
		}
	}
	for n := range senders * each {
		if id := record(n, 0).ID; got[id] != 1 {
			t.Errorf("event %d was stored %d times", n, got[id])
		}
	}
	p.Kill()
	err := s.Send(t.Context(), []event.Record{record(0, 1000)})
	if outcome(err) != retried {
		t.Errorf("the consumer is gone: %v", err)
	}
}

// nginx is a running nginx.
type nginx struct {
	plain, tls string // addresses
	ca         *certs.Authority
	dir        string
}

// startNginx starts an nginx that answers for itself below /status, and else passes requests on to upstream.
func startNginx(t *testing.T, upstream string) *nginx {
	t.Helper()
	n := &nginx{ca: certs.NewAuthority(t), dir: t.TempDir()}
	certFile, keyFile := n.ca.Issue(t, certs.Request{}).WriteFiles(t, n.dir)
	write := func(name, text string) string {
		path := filepath.Join(n.dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	dead, silent := program.FreePort(t), listener(t)
	plain, secure := program.FreePort(t), program.FreePort(t)
	n.plain, n.tls = fmt.Sprintf("http://127.0.0.1:%d", plain), fmt.Sprintf("https://127.0.0.1:%d", secure)
	var status strings.Builder
	for code := 200; code <= 599; code++ {
		fmt.Fprintf(&status, "location = /status/%d { return %d \"it is %d\"; }\n", code, code, code)
	}
	conf := write("nginx.conf", fmt.Sprintf(`
daemon off;
master_process off;
worker_processes 1;
pid %[1]s/pid;
error_log stderr;
events { worker_connections 512; }
http {
  access_log off;
  client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
  limit_req_zone $binary_remote_addr zone=slow:1m rate=1r/m;
  keepalive_requests 3;
  server {
    listen 127.0.0.1:%[2]d;
    %[4]s
    location /pass { client_max_body_size 100m; proxy_pass %[5]s; }
    location /small { client_max_body_size 1k; proxy_pass %[5]s; }
    location /slow { limit_req zone=slow; limit_req_status 429; proxy_pass %[5]s; }
    location /password { auth_basic hooks; auth_basic_user_file %[1]s/users; proxy_pass %[5]s; }
    location /dead { proxy_pass http://127.0.0.1:%[6]d; }
    location /silent { proxy_read_timeout 1s; proxy_pass http://%[7]s; }
    location /closes { return 444; }
  }
  server {
    listen 127.0.0.1:%[3]d ssl http2;
    ssl_certificate %[8]s;
    ssl_certificate_key %[9]s;
    ssl_client_certificate %[10]s;
    ssl_verify_client on;
    location / { proxy_pass %[5]s; proxy_set_header X-Protocol $server_protocol; proxy_set_header X-Client $ssl_client_s_dn; }
  }
}
`, n.dir, plain, secure, status.String(), upstream, dead, silent, certFile, keyFile, n.ca.WriteFile(t)))
	write("users", "hmcnotifyd:{PLAIN}pass word\n")
	p := program.Start(t, program.Options{Name: "nginx", Path: program.Look(t, "nginx", "nginx"), Args: []string{"-e", "stderr", "-p", n.dir, "-c", conf}})
	probe := sink(t, n.plain)
	p.Await(t, patience, func() error { return probe.Probe(t.Context()) })
	return n
}

// listener accepts connections and says nothing.
func listener(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // loopback
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l.Addr().String()
}

// consumer is a Go server behind nginx.
type consumer struct {
	*httptest.Server
	mu     sync.Mutex
	bodies map[string][]byte // by webhook-id
	last   http.Header
	count  int
}

func newConsumer(t *testing.T) *consumer {
	c := &consumer{bodies: map[string][]byte{}}
	reference, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		if err := reference.Verify(body, r.Header); err != nil {
			http.Error(w, err.Error(), http.StatusUnauthorized)
			return
		}
		if r.Header.Get("Content-Encoding") == "gzip" {
			z, err := gzip.NewReader(bytes.NewReader(body))
			if err == nil {
				body, err = io.ReadAll(z)
			}
			if err != nil {
				t.Error(err)
			}
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.bodies[r.Header.Get("Webhook-Id")] = body
		c.last = r.Header
		c.count++
	}))
	t.Cleanup(c.Close)
	return c
}

func (c *consumer) get(r event.Record) ([]byte, http.Header) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bodies[r.ID], c.last
}

func signed(c *config.Sink) { c.Webhook.Secret = config.NewSecret(secret) }

func TestNginx(t *testing.T) {
	up := newConsumer(t)
	n := startNginx(t, up.URL)

	t.Run("every status", func(t *testing.T) {
		for status := 200; status <= 599; status++ {
			if status == 444 {
				continue // nginx closes the connection: below
			}
			s := sink(t, fmt.Sprintf("%s/status/%d", n.plain, status))
			err := s.Send(t.Context(), []event.Record{record(status, 100)})
			if got := outcome(err); got != outcomeOf(status) {
				t.Errorf("%d: %s: %v", status, got, err)
			}
			_ = s.Close()
		}
	})

	t.Run("what nginx refuses", func(t *testing.T) {
		for path, want := range map[string]struct {
			outcome, text string
			status        int
		}{
			"/small":    {dead, "413", 413},
			"/password": {paused, "401", 0},
			"/dead":     {retried, "502", 0},
			"/silent":   {retried, "504", 0},
			"/closes":   {retried, "EOF", 0},
		} {
			for _, size := range []int{2 << 10, 900 << 10} {
				s := sink(t, n.plain+path, signed, withTimeout(10*time.Second))
				err := bounded(t, s, record(1, size), patience)
				if got := outcome(err); got != want.outcome || !strings.Contains(err.Error(), want.text) && path != "/closes" {
					t.Errorf("%s, %d bytes: %s: %v", path, size, got, err)
				}
				if e, ok := errors.AsType[*sinks.PermanentError](err); ok && e.Status != want.status {
					t.Errorf("%s: status %d", path, e.Status)
				}
			}
		}
		s := sink(t, n.plain+"/slow", signed)
		var outcomes []string
		for range 3 {
			outcomes = append(outcomes, outcome(s.Send(t.Context(), []event.Record{record(1, 100)})))
		}
		if !slices.Equal(outcomes, []string{delivered, retried, retried}) {
			t.Errorf("a limit of requests: %q", outcomes)
		}
	})

	t.Run("password", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "password")
		if err := os.WriteFile(file, []byte("wr0ng-password\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		s := sink(t, n.plain+"/password", signed, withHTTP(func(c *promconfig.HTTPClientConfig) {
			c.BasicAuth = &promconfig.BasicAuth{Username: "hmcnotifyd", PasswordFile: file}
		}))
		if err := s.Send(t.Context(), []event.Record{record(2, 100)}); outcome(err) != paused || strings.Contains(err.Error(), "wr0ng") {
			t.Errorf("%v", err)
		}
		if err := os.WriteFile(file, []byte("pass word\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := s.Send(t.Context(), []event.Record{record(2, 100)}); err != nil {
			t.Error(err)
		}
	})

	// nginx closes each connection after three requests, whether or not the next one is under way.
	t.Run("connections that end", func(t *testing.T) {
		for name, change := range map[string]func(*config.Sink){
			"plain": func(*config.Sink) {},
			"gzip":  func(c *config.Sink) { c.Webhook.Compression = config.CompressionGzip },
		} {
			s := sink(t, n.plain+"/pass", signed, change)
			var wg sync.WaitGroup
			for i := range 4 {
				wg.Go(func() {
					for j := range 100 {
						r := record(1000+i*100+j, 5_000*(j%3))
						if err := s.Send(t.Context(), []event.Record{r}); err != nil {
							t.Errorf("%s: %v", name, err)
							return
						}
						if body, _ := up.get(r); !bytes.Equal(body, r.JSON) {
							t.Errorf("%s: event %d arrived as %d bytes, want %d", name, j, len(body), len(r.JSON))
						}
					}
				})
			}
			wg.Wait()
		}
	})

	t.Run("large event", func(t *testing.T) {
		r := record(3, 50<<20)
		s := sink(t, n.plain+"/pass", signed)
		if err := s.Send(t.Context(), []event.Record{r}); err != nil {
			t.Fatal(err)
		}
		if body, _ := up.get(r); !bytes.Equal(body, r.JSON) {
			t.Errorf("arrived as %d bytes, want %d", len(body), len(r.JSON))
		}
	})

	t.Run("TLS, HTTP/2 and a client certificate", func(t *testing.T) {
		dir := t.TempDir()
		certFile, keyFile := n.ca.Issue(t, certs.Request{Hosts: []string{"the-daemon"}}).WriteFiles(t, dir)
		ca := n.ca.WriteFile(t)
		for enable, protocol := range map[bool]string{true: "HTTP/2.0", false: "HTTP/1.1"} {
			s := sink(t, n.tls, signed, withHTTP(func(c *promconfig.HTTPClientConfig) {
				c.EnableHTTP2 = enable
				c.TLSConfig = promconfig.TLSConfig{CAFile: ca, CertFile: certFile, KeyFile: keyFile}
			}))
			if err := s.Probe(t.Context()); err != nil {
				t.Error(err)
			}
			for i := range 10 {
				r := record(4+i, 100)
				if err := s.Send(t.Context(), []event.Record{r}); err != nil {
					t.Fatal(err)
				}
				body, header := up.get(r)
				if !bytes.Equal(body, r.JSON) || header.Get("X-Protocol") != protocol || header.Get("X-Client") != "CN=the-daemon" {
					t.Errorf("%d bytes, %v", len(body), header)
				}
			}
			_ = s.Close()
		}
		// nginx says so in HTTP: 400 No required SSL certificate was sent.
		s := sink(t, n.tls, signed, withHTTP(func(c *promconfig.HTTPClientConfig) { c.TLSConfig.CAFile = ca }))
		if err := s.Send(t.Context(), []event.Record{record(5, 100)}); outcome(err) != dead || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("without a certificate: %v", err)
		}
		s = sink(t, strings.Replace(n.tls, "https:", "http:", 1), signed)
		if err := s.Send(t.Context(), []event.Record{record(5, 100)}); outcome(err) != dead || !strings.Contains(err.Error(), "plain HTTP request") {
			t.Errorf("http to https: %v", err)
		}
	})

	t.Run("batches", func(t *testing.T) {
		s := sink(t, n.plain+"/pass", signed, func(c *config.Sink) { c.Batch.MaxEvents = 500 })
		rs := make([]event.Record, 500)
		for i := range rs {
			rs[i] = record(2000+i, 500)
		}
		if err := s.Send(t.Context(), rs); err != nil {
			t.Fatal(err)
		}
		up.mu.Lock()
		defer up.mu.Unlock()
		for _, id := range slices.Sorted(maps.Keys(up.bodies)) {
			if !strings.HasPrefix(id, "batch-") {
				continue
			}
			var events []json.RawMessage
			if err := json.Unmarshal(up.bodies[id], &events); err != nil || len(events) != len(rs) {
				t.Errorf("%d events: %v", len(events), err)
			}
		}
	})
}
