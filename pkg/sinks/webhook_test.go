package sinks

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	promconfig "github.com/prometheus/common/config"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// webhookTo makes a sink for address.
func webhookTo(t testing.TB, address string, change ...func(*config.Sink)) *webhook {
	t.Helper()
	cfg := config.Sink{Name: "ops", Webhook: &config.Webhook{URL: config.NewURL(address)}, Timeout: patience}
	for _, c := range change {
		c(&cfg)
	}
	s, err := New(cfg, Options{Version: "1.2.3"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	w, ok := s.(*webhook)
	if !ok {
		t.Fatalf("%T", s)
	}
	return w
}

func withTimeout(d time.Duration) func(*config.Sink) { return func(c *config.Sink) { c.Timeout = d } }

// withHTTP sets the http_config, as it is by default but for what change does.
func withHTTP(change func(*promconfig.HTTPClientConfig)) func(*config.Sink) {
	return func(c *config.Sink) {
		client := c.Webhook.HTTPConfig.Client()
		change(&client)
		c.Webhook.HTTPConfig = config.NewHTTPConfig(client)
	}
}

func withTLS(tls promconfig.TLSConfig) func(*config.Sink) {
	return withHTTP(func(c *promconfig.HTTPClientConfig) { c.TLSConfig = tls })
}

// request is what a consumer has received.
type request struct {
	method, uri, proto string
	header             http.Header
	length             int64
	body               []byte
	at                 time.Time
}

// http returns the request as a library that reads requests wants it.
func (r request) http(t testing.TB) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), r.method, "http://consumer.example.com"+r.uri, bytes.NewReader(r.body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = r.header
	return req
}

// consumer is a webhook consumer that keeps what it gets and answers 204.
func consumer(t testing.TB, requests chan<- request) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		requests <- request{r.Method, r.RequestURI, r.Proto, r.Header, r.ContentLength, body, time.Now()}
		w.WriteHeader(http.StatusNoContent)
	}))
	t.Cleanup(server.Close)
	return server
}

func TestWebhookRequest(t *testing.T) {
	requests := make(chan request, 1)
	server := consumer(t, requests)
	s := webhookTo(t, server.URL+"/hooks/hmc?team=ops&x=%2F")
	r := record(1)
	sent := time.Now()
	if err := s.Send(t.Context(), []event.Record{r}); err != nil {
		t.Fatal(err)
	}
	got := <-requests
	if got.method != http.MethodPost || got.uri != "/hooks/hmc?team=ops&x=%2F" {
		t.Errorf("%s %s", got.method, got.uri)
	}
	if !bytes.Equal(got.body, r.JSON) || got.length != int64(len(r.JSON)) {
		t.Errorf("body of %d bytes\n%s\nwant\n%s", got.length, got.body, r.JSON)
	}
	stamp, err := strconv.ParseInt(got.header.Get("webhook-timestamp"), 10, 64)
	if err != nil || stamp < sent.Unix() || stamp > time.Now().Unix() {
		t.Errorf("webhook-timestamp %q: %v", got.header.Get("webhook-timestamp"), err)
	}
	got.header.Del("webhook-timestamp")
	want := http.Header{
		"Content-Type":   {"application/json"},
		"Content-Length": {strconv.Itoa(len(r.JSON))},
		"User-Agent":     {"hmcnotifyd/1.2.3"},
		"Webhook-Id":     {r.ID},
	}
	if !maps.EqualFunc(got.header, want, slices.Equal) {
		t.Errorf("header %v, want %v", got.header, want)
	}
}

func TestWebhookSignature(t *testing.T) {
	const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	reference, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	requests := make(chan request, 1)
	server := consumer(t, requests)
	for _, batch := range []int{1, 10} {
		for _, n := range []int{1, batch} {
			t.Run(fmt.Sprintf("%d of %d", n, batch), func(t *testing.T) {
				s := webhookTo(t, server.URL, func(c *config.Sink) {
					c.Webhook.Secret = config.NewSecret(secret)
					c.Batch.MaxEvents = batch
				})
				if err := s.Send(t.Context(), records(0, n)); err != nil {
					t.Fatal(err)
				}
				got := <-requests
				if err := reference.Verify(got.body, got.header); err != nil {
					t.Errorf("%v: %v", err, got.header)
				}
				if err := reference.Verify(append(got.body, ' '), got.header); err == nil {
					t.Error("a changed body verifies")
				}
			})
		}
	}
}

// TestWebhookRotation has requests signed with several secrets: a consumer that knows any one of them accepts them.
func TestWebhookRotation(t *testing.T) {
	const first, second, third = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_YW5vdGhlciBzZWNyZXQgb2YgdGhlIHNpbms=", "whsec_dGhlIHRoaXJkIHNlY3JldCBvZiB0aGlzIHNpbms="
	requests := make(chan request, 1)
	server := consumer(t, requests)
	for _, test := range []struct {
		secret  string
		secrets []string
		unknown []string
	}{
		{"", []string{first, second}, []string{third}},
		{first, []string{second}, []string{third}},
		{first, []string{second, third}, nil},
		{third, nil, []string{first, second}},
	} {
		s := webhookTo(t, server.URL, func(c *config.Sink) {
			c.Webhook.Secret = config.NewSecret(test.secret)
			for _, secret := range test.secrets {
				c.Webhook.Secrets = append(c.Webhook.Secrets, config.NewSecret(secret))
			}
		})
		if err := s.Send(t.Context(), records(0, 1)); err != nil {
			t.Fatal(err)
		}
		got := <-requests
		for _, secret := range []string{first, second, third} {
			reference, err := standardwebhooks.NewWebhook(secret)
			if err != nil {
				t.Fatal(err)
			}
			if err := reference.Verify(got.body, got.header); (err != nil) != slices.Contains(test.unknown, secret) {
				t.Errorf("secret %q and %q, verified with %q: %v", test.secret, test.secrets, secret, err)
			}
		}
	}
}

// TestWebhookGzip: what is signed is what is sent, that is the compressed body.
func TestWebhookGzip(t *testing.T) {
	const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	reference, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	requests := make(chan request, 1)
	s := webhookTo(t, consumer(t, requests).URL, func(c *config.Sink) {
		c.Webhook.Compression, c.Webhook.Secret = config.CompressionGzip, config.NewSecret(secret)
	})
	for _, r := range []event.Record{largeRecord(0, 100_000), record(1), largeRecord(2, 100_000)} {
		if err := s.Send(t.Context(), []event.Record{r}); err != nil {
			t.Fatal(err)
		}
		got := <-requests
		if err := reference.Verify(got.body, got.header); err != nil {
			t.Error(err)
		}
		if got.header.Get("Content-Encoding") != "gzip" || got.length != int64(len(got.body)) || len(r.JSON) > 10_000 && len(got.body) > len(r.JSON)/10 {
			t.Errorf("%d bytes of %d, %v", len(got.body), len(r.JSON), got.header)
		}
		body, err := readBody(got.http(t))
		if err != nil || !bytes.Equal(body, r.JSON) {
			t.Errorf("%s: %v", body, err)
		}
	}
}

// TestSign uses the example of the specification, and several keys.
func TestSign(t *testing.T) {
	const id, stamp, body = "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", `{"test": 2432232314}`
	key := []byte("another")
	spec := (&config.Webhook{Secret: config.NewSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")}).SigningKeys()
	const want = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
	if got := sign(spec, id, stamp, []byte(body)); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	two := sign(append(spec, key), id, stamp, []byte(body))
	if first, second, ok := strings.Cut(two, " "); !ok || first != want || !strings.HasPrefix(second, "v1,") || second == first {
		t.Errorf("two keys: %s", two)
	}
}

func TestWebhookBatch(t *testing.T) {
	requests := make(chan request, 1)
	server := consumer(t, requests)
	s := webhookTo(t, server.URL, func(c *config.Sink) { c.Batch.MaxEvents = 10 })
	send := func(rs []event.Record) (id string) {
		t.Helper()
		if err := s.Send(t.Context(), rs); err != nil {
			t.Fatal(err)
		}
		got := <-requests
		var events []json.RawMessage
		if err := json.Unmarshal(got.body, &events); err != nil {
			t.Fatalf("%v: %s", err, got.body)
		}
		if !slices.EqualFunc(events, rs, func(e json.RawMessage, r event.Record) bool { return bytes.Equal(e, r.JSON) }) {
			t.Errorf("body %s", got.body)
		}
		return got.header.Get("webhook-id")
	}
	rs := records(0, 10)
	first := send(rs)
	if again := send(clone(rs)); again != first {
		t.Errorf("the same batch has the ids %q and %q", first, again)
	}
	ids := map[string]bool{first: true}
	for _, other := range [][]event.Record{rs[:1], rs[1:2], rs[:9], rs[1:], {rs[0], rs[9]}, slices.Concat(rs[5:], rs[:5])} {
		id := send(other)
		if ids[id] {
			t.Errorf("another batch has the same id %q", id)
		}
		ids[id] = true
	}
}

// TestWebhookBatchInPieces sends large batches, which are not put together before, by each protocol and on a kept
// connection: they arrive whole.
func TestWebhookBatchInPieces(t *testing.T) {
	for _, want := range []string{"http HTTP/1.1", "https HTTP/1.1", "https HTTP/2.0"} {
		t.Run(want, func(t *testing.T) {
			requests := make(chan request, 1)
			server := httptest.NewUnstartedServer(consumer(t, requests).Config.Handler)
			server.EnableHTTP2 = strings.HasSuffix(want, "HTTP/2.0")
			if strings.HasPrefix(want, "https") {
				server.StartTLS()
			} else {
				server.Start()
			}
			defer server.Close()
			s := webhookTo(t, server.URL, withTLS(promconfig.TLSConfig{InsecureSkipVerify: true}),
				func(c *config.Sink) { c.Batch.MaxEvents = 100 })
			for round := range 3 {
				rs := append(records(round, 98-round), largeRecord(99, 70<<10), largeRecord(100, 1<<10))
				if err := s.Send(t.Context(), rs); err != nil {
					t.Fatal(err)
				}
				body := []byte("[")
				for i := range rs {
					body = append(append(body, rs[i].JSON...), ",]"[i/(len(rs)-1)])
				}
				got := <-requests
				if !bytes.Equal(got.body, body) || got.length != int64(len(body)) || !strings.HasSuffix(want, got.proto) {
					t.Errorf("%s: %d bytes of %d arrived, %d were sent", got.proto, len(got.body), got.length, len(body))
				}
			}
		})
	}
}

// TestWebhookStatus has every status there is.
func TestWebhookStatus(t *testing.T) {
	var other atomic.Int32
	mux := http.NewServeMux()
	mux.HandleFunc("/other", func(http.ResponseWriter, *http.Request) { other.Add(1) })
	mux.HandleFunc("/{status}", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		code, _ := strconv.Atoi(r.PathValue("status"))
		if code < 400 {
			w.Header().Set("Location", "/other")
		}
		w.WriteHeader(code)
		if code >= 300 && code != http.StatusNotModified {
			_, _ = fmt.Fprintf(w, "<h1>it is\r\n\t%d</h1>\x00", code)
		}
	})
	server := httptest.NewServer(mux)
	defer server.Close()

	for code := 200; code <= 599; code++ {
		s := webhookTo(t, server.URL+"/"+strconv.Itoa(code))
		err := s.Send(t.Context(), records(0, 1))
		_ = s.Close()
		permanent, isPermanent := errors.AsType[*PermanentError](err)
		temporary, isTemporary := errors.AsType[*RetryAfterError](err)
		paused, isPaused := errors.AsType[*PausedError](err)
		why := map[int]string{
			401: PausedUnauthorized, 402: PausedUnauthorized, 403: PausedUnauthorized, 407: PausedUnauthorized,
			404: PausedNotFound, 405: PausedNotFound, 410: PausedNotFound, 421: PausedOther,
		}[code]
		if code >= 300 && code <= 399 {
			why = PausedRedirect
		}
		if PauseReason(err) != why || isPaused != (why != "") || isPaused && paused.Status != code {
			t.Errorf("%d: paused for %q, want %q", code, PauseReason(err), why)
		}
		switch {
		case code <= 299:
			if err != nil {
				t.Errorf("%d: %v", code, err)
			}
			continue
		case code == 408, code == 425, code == 429, code >= 500:
			if !isTemporary || isPermanent || temporary.Status != code || temporary.After != 0 {
				t.Errorf("%d: %#v", code, err)
			}
		case isPaused:
			if isPermanent || isTemporary {
				t.Errorf("%d: %#v", code, err)
			}
		default:
			if !isPermanent || isTemporary || permanent.Status != code {
				t.Errorf("%d: %#v", code, err)
			}
		}
		text := "status " + strconv.Itoa(code)
		if code != http.StatusNotModified {
			text = fmt.Sprintf("<h1>it is %d</h1>", code)
		}
		if err == nil || !strings.Contains(err.Error(), text) || !strings.HasPrefix(err.Error(), "webhook: "+server.URL+": status ") {
			t.Errorf("%d: error %q does not say %q", code, err, text)
		}
	}
	if n := other.Load(); n != 0 {
		t.Errorf("%d redirects were followed", n)
	}
}

func TestWebhookRetryAfter(t *testing.T) {
	const date = "Fri, 20 Nov 2026 10:00:00 GMT" // of the consumer, whatever our clock says
	tests := []struct {
		value, date string
		want        time.Duration
	}{
		{"", date, 0},
		{"0", date, 0},
		{"1", date, time.Second},
		{"120", date, 2 * time.Minute},
		{"3600", date, time.Hour},
		{"3601", date, time.Hour},
		{"99999999999999999999999", date, time.Hour},
		{"-1", date, 0},
		{"1.5", date, 0},
		{"soon", date, 0},
		{"Fri, 20 Nov 2026 10:00:30 GMT", date, 30 * time.Second},
		{"Friday, 20-Nov-26 10:00:30 GMT", date, 30 * time.Second},
		{"Fri, 20 Nov 2026 09:00:00 GMT", date, 0},
		{"Fri, 20 Nov 2099 10:00:00 GMT", date, time.Hour},
		{"Fri, 20 Nov 2099 10:00:00 GMT", "", time.Hour},
		{"Fri, 20 Nov 2020 10:00:00 GMT", "yesterday", 0},
	}
	for _, test := range tests {
		header := http.Header{}
		header.Set("Retry-After", test.value)
		header.Set("Date", test.date)
		if got := retryAfter(header); got != test.want {
			t.Errorf("Retry-After %q, Date %q: %s, want %s", test.value, test.date, got, test.want)
		}
	}
}

// rawPeer accepts connections and calls serve for each. It keeps what serve leaves open until the test ends.
func rawPeer(t testing.TB, serve func(net.Conn)) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // loopback
	if err != nil {
		t.Fatal(err)
	}
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		conns []net.Conn
	)
	wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, conn)
			mu.Unlock()
			wg.Go(func() { serve(conn) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		mu.Lock()
		for _, c := range conns {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return listener.Addr().String()
}

// answer reads one request and writes text.
func answer(text string) func(net.Conn) {
	return func(conn net.Conn) {
		if readRequest(bufio.NewReader(conn)) {
			_, _ = io.WriteString(conn, text)
		}
	}
}

func readRequest(r *bufio.Reader) bool {
	req, err := http.ReadRequest(r)
	if err != nil {
		return false
	}
	_, err = io.Copy(io.Discard, req.Body)
	return err == nil
}

// endless writes text again and again, with a pause in between. It allocates nothing for each write: a test counts what
// the sink allocates meanwhile.
func endless(start, text string, pause time.Duration) func(net.Conn) {
	again := []byte(text)
	return func(conn net.Conn) {
		if !readRequest(bufio.NewReader(conn)) {
			return
		}
		if _, err := io.WriteString(conn, start); err != nil {
			return
		}
		for {
			if _, err := conn.Write(again); err != nil {
				return
			}
			time.Sleep(pause)
		}
	}
}

func closing(serve func(net.Conn)) func(net.Conn) {
	return func(conn net.Conn) {
		serve(conn)
		_ = conn.Close()
	}
}

// TestWebhookBrokenConsumers has consumers that break the rules in each phase of a request. Each is bounded in time and
// memory. No other test runs at the same time, as what is allocated is measured.
func TestWebhookBrokenConsumers(t *testing.T) {
	const (
		delivered = iota
		temporary // without a status
		busy
		permanent
	)
	const noAnswer = "no answer after" // what the others do is noticed without a timeout
	kilobyte := strings.Repeat("x", 1<<10)
	tests := []struct {
		name  string
		serve func(net.Conn)
		want  int
		text  string
	}{
		{"accepts and is silent", func(net.Conn) {}, temporary, noAnswer},
		{"reads and is silent", answer(""), temporary, noAnswer},
		{"closes at once", closing(func(net.Conn) {}), temporary, ""},
		{"closes after the request", closing(answer("")), temporary, "EOF"},
		{"closes within the status line", closing(answer("HTTP/1.1 2")), temporary, ""},
		{"closes within the header", closing(answer("HTTP/1.1 200 OK\r\nContent-Le")), temporary, ""},
		{"hangs within the status line", answer("HTTP/1.1 20"), temporary, noAnswer},
		{"hangs within the header", answer("HTTP/1.1 200 OK\r\nX-A: b\r\n"), temporary, noAnswer},
		{"drips its header", endless("HTTP/1.1 200 OK\r\nX-A: ", "a", time.Millisecond), temporary, noAnswer},
		{"endless header", endless("HTTP/1.1 200 OK\r\n", "X-A: "+kilobyte+"\r\n", 0), temporary, ""},
		{"endless header line", endless("HTTP/1.1 200 OK\r\nX-A: ", kilobyte, 0), temporary, ""},
		{"endless informational answers", endless("", "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", 0), temporary, ""},
		{"does not speak HTTP", answer("220 mail.example.com ESMTP\r\n"), temporary, "malformed"},
		{"status is no number", answer("HTTP/1.1 OK\r\n\r\n"), temporary, "malformed"},
		{"status 600", closing(answer("HTTP/1.1 600 Beyond\r\nContent-Length: 0\r\n\r\n")), permanent, "status 600"},
		{"status 999", closing(answer("HTTP/1.1 999 Denied\r\nContent-Length: 0\r\n\r\n")), permanent, "status 999"},
		{"other protocol", answer("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"), permanent, "status 101"},
		{"accepted, closes within the body", closing(answer("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nab")), delivered, ""},
		{"accepted, hangs within the body", answer("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nab"), delivered, ""},
		{"accepted, drips its body", endless("HTTP/1.1 200 OK\r\n\r\n", "a", time.Millisecond), delivered, ""},
		{"accepted, broken chunks", answer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n"), delivered, ""},
		{"accepted, endless body", endless("HTTP/1.1 200 OK\r\n\r\n", kilobyte, 0), delivered, ""},
		{"accepted, 1 TiB announced", endless("HTTP/1.1 200 OK\r\nContent-Length: 1099511627776\r\n\r\n", kilobyte, 0), delivered, ""},
		{"busy, hangs within the body", answer("HTTP/1.1 503 Busy\r\nContent-Length: 10\r\n\r\nab"), busy, "status 503 Service Unavailable: ab"},
		{"busy, endless body", endless("HTTP/1.1 503 Busy\r\n\r\n", kilobyte, 0), busy, "..."},
		{"refused, closes within the body", closing(answer("HTTP/1.1 400 No\r\nContent-Length: 10\r\n\r\nab")), permanent, "status 400 Bad Request: ab"},
		{"refused, drips its body", endless("HTTP/1.1 400 No\r\n\r\n", "a", time.Millisecond), permanent, "status 400 Bad Request: a"},
		{"refused, endless body", endless("HTTP/1.1 400 No\r\n\r\n", kilobyte, 0), permanent, "..."},
	}
	consumer := func(t *testing.T, serve func(net.Conn), want int, text string) {
		timeout := patience
		if text == noAnswer {
			timeout = 500 * time.Millisecond
		}
		s := webhookTo(t, "http://"+rawPeer(t, serve)+"/hook", withTimeout(timeout))
		start := time.Now()
		err := soon(t, "Send returns", func() error { return s.Send(t.Context(), records(0, 1)) })
		t.Logf("%s: %v", time.Since(start).Round(time.Millisecond), err)

		got := temporary
		if err == nil {
			got = delivered
		} else if _, ok := errors.AsType[*PermanentError](err); ok {
			got = permanent
		} else if _, ok := errors.AsType[*RetryAfterError](err); ok {
			got = busy
		}
		if got != want {
			t.Errorf("outcome %d, want %d: %v", got, want, err)
		}
		if err != nil && !strings.Contains(err.Error(), text) {
			t.Errorf("error %q does not say %q", err, text)
		}
		if err != nil && len(err.Error()) > 700 {
			t.Errorf("an error of %d bytes", len(err.Error()))
		}
	}
	ended := goroutinesOf(t)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	t.Run("each", func(t *testing.T) {
		for _, test := range tests {
			t.Run(test.name, func(t *testing.T) {
				t.Parallel()
				consumer(t, test.serve, test.want, test.text)
			})
		}
	})
	runtime.ReadMemStats(&after)
	ended()
	t.Logf("%d KiB", (after.TotalAlloc-before.TotalAlloc)>>10)
	if n := after.TotalAlloc - before.TotalAlloc; n > 6<<20 { // of all consumers together
		t.Errorf("%d bytes were allocated", n)
	}
}

// TestWebhookSlowAnswer shows that behind the status nothing takes the whole timeout.
func TestWebhookSlowAnswer(t *testing.T) {
	t.Parallel()
	for _, status := range []string{"200", "400", "503"} {
		t.Run(status, func(t *testing.T) {
			t.Parallel()
			s := webhookTo(t, "http://"+rawPeer(t, endless("HTTP/1.1 "+status+" x\r\n\r\n", "a", 10*time.Millisecond)), withTimeout(time.Hour))
			err := soon(t, "Send returns", func() error { return s.Send(t.Context(), records(0, 1)) })
			if (err == nil) != (status == "200") || err != nil && !strings.Contains(err.Error(), status) {
				t.Error(err)
			}
		})
	}
}

// TestWebhookLongAnswer sends 10 MiB of answer.
func TestWebhookLongAnswer(t *testing.T) {
	long := bytes.Repeat([]byte("no "), 10<<20/3)
	var written atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		code, _ := strconv.Atoi(r.URL.Path[1:])
		w.WriteHeader(code)
		n, _ := w.Write(long)
		written.Add(int64(n))
	}))
	defer server.Close()
	for _, code := range []int{200, 400, 503} {
		s := webhookTo(t, server.URL+"/"+strconv.Itoa(code))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := soon(t, "Send returns", func() error { return s.Send(t.Context(), records(0, 1)) })
		runtime.ReadMemStats(&after)
		if (err == nil) != (code == 200) {
			t.Errorf("%d: %v", code, err)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > 2<<20 {
			t.Errorf("%d: %d bytes were allocated", code, n)
		}
		if err != nil && !strings.HasSuffix(err.Error(), "no n...") {
			t.Errorf("%d: %v", code, err)
		}
	}
}

// TestWebhookConnectHangs has a listener whose queue of connections is full, so that a connection attempt is not
// answered.
func TestWebhookConnectHangs(t *testing.T) {
	t.Parallel()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	bound, ok := name.(*syscall.SockaddrInet4)
	if !ok {
		t.Fatalf("%T", name)
	}
	address := "127.0.0.1:" + strconv.Itoa(bound.Port)
	full := false
	for range 16 {
		dialer := net.Dialer{Timeout: 200 * time.Millisecond}
		conn, err := dialer.DialContext(t.Context(), "tcp", address)
		if err != nil {
			full = true
			break
		}
		defer conn.Close()
	}
	if !full {
		t.Skip("this system accepts any number of connections")
	}
	ended := goroutinesOf(t)

	s := webhookTo(t, "http://"+address, withTimeout(400*time.Millisecond))
	for what, do := range map[string]func() error{
		"Send":  func() error { return s.Send(t.Context(), records(0, 1)) },
		"Probe": func() error { return s.Probe(t.Context()) },
	} {
		if err := soon(t, what, do); err == nil || !strings.Contains(err.Error(), "timeout") && !strings.Contains(err.Error(), "no answer after") {
			t.Errorf("%s: %v", what, err)
		}
	}

	// With a long timeout the dial outlives a canceled Send, but not Close.
	s = webhookTo(t, "http://"+address)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err = soon(t, "Send", func() error { return s.Send(ctx, records(0, 1)) })
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Send: %v", err)
	}
	_ = s.Close()
	ended()
}

func TestWebhookTLSHangs(t *testing.T) {
	t.Parallel()
	address := rawPeer(t, func(net.Conn) {})
	ended := goroutinesOf(t)
	s := webhookTo(t, "https://"+address, withTimeout(400*time.Millisecond))
	for what, do := range map[string]func() error{
		"Send":  func() error { return s.Send(t.Context(), records(0, 1)) },
		"Probe": func() error { return s.Probe(t.Context()) },
	} {
		if err := soon(t, what, do); err == nil || strings.Contains(err.Error(), "certificate") {
			t.Errorf("%s: %v", what, err)
		}
	}
	s = webhookTo(t, "https://"+address)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := soon(t, "Send", func() error { return s.Send(ctx, records(0, 1)) }); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Send: %v", err)
	}
	_ = s.Close()
	ended()
}

// TestWebhookLargeAgainstEarlyAnswer has a consumer that answers before it has read the events, which go on being sent
// when the memory of the records is used for others.
func TestWebhookLargeAgainstEarlyAnswer(t *testing.T) {
	t.Parallel()
	for _, batch := range []int{1, 2} {
		s := webhookTo(t, "http://"+rawPeer(t, func(conn net.Conn) {
			_, _ = io.CopyN(io.Discard, conn, 1<<10)
			_, _ = io.WriteString(conn, "HTTP/1.1 413 Too large\r\nContent-Length: 9\r\n\r\ntoo large")
			_, _ = io.CopyN(io.Discard, conn, 1<<20)
		}), func(c *config.Sink) { c.Batch.MaxEvents = batch })
		rs := []event.Record{largeRecord(0, 20<<20), largeRecord(1, 20<<20)}[:batch]
		err := soon(t, "Send", func() error { return s.Send(t.Context(), rs) })
		clear(rs)
		if e, ok := errors.AsType[*PermanentError](err); !ok || e.Status != 413 || !strings.Contains(err.Error(), "too large") {
			t.Errorf("%d in a batch: %v", batch, err)
		}
	}
}

func TestWebhookConnectionReuse(t *testing.T) {
	const concurrency, each = 4, 50
	var connections atomic.Int32
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		switch r.Header.Get("webhook-id")[0] % 4 { // answers of all lengths that are read to the end
		case 0:
			w.WriteHeader(http.StatusNoContent)
		case 1:
			_, _ = io.WriteString(w, "ok")
		case 2:
			_, _ = w.Write(make([]byte, 60<<10))
		case 3:
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = w.Write(make([]byte, 10<<10))
		}
	}))
	server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			connections.Add(1)
		}
	}
	server.Start()
	defer server.Close()
	s := webhookTo(t, server.URL, func(c *config.Sink) { c.Concurrency = concurrency })
	var wg sync.WaitGroup
	for i := range concurrency {
		wg.Go(func() {
			for j := range each {
				if err := s.Send(t.Context(), records(i*each+j, 1)); err != nil && !strings.Contains(err.Error(), "503") {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	// A request may find the connection of the one before not put back yet and make one more.
	if n := connections.Load(); n > 4*concurrency {
		t.Errorf("%d connections for %d requests, %d at a time", n, concurrency*each, concurrency)
	}
}

// TestWebhookStaleConnection has a consumer that closes each kept connection just when the next request arrives.
func TestWebhookStaleConnection(t *testing.T) {
	for _, batch := range []int{1, 2} {
		t.Run(strconv.Itoa(batch), func(t *testing.T) { staleConnection(t, batch) })
	}
}

func staleConnection(t *testing.T, batch int) {
	rs := []event.Record{largeRecord(0, 100), largeRecord(1, 2*writeBuffer)}[:batch] // a batch goes in pieces
	var served atomic.Int32
	s := webhookTo(t, "http://"+rawPeer(t, func(conn net.Conn) {
		defer conn.Close()
		r := bufio.NewReader(conn)
		if !readRequest(r) {
			return
		}
		served.Add(1)
		if _, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"); err != nil {
			return
		}
		if batch == 1 {
			_, _ = r.ReadByte()
		} else { // of one that is cut while it is written a part has gone, which is an error
			readRequest(r)
		}
	}), func(c *config.Sink) { c.Batch.MaxEvents = batch })
	const n = 20
	for range n {
		if err := s.Send(t.Context(), rs); err != nil {
			t.Fatal(err)
		}
	}
	if got := served.Load(); got != n {
		t.Errorf("%d requests were answered, want %d", got, n)
	}
}

func TestWebhookIPv6(t *testing.T) {
	listener, err := net.Listen("tcp6", "[::1]:0") //nolint:noctx // loopback
	if err != nil {
		t.Skip("no IPv6 here: ", err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	_ = server.Listener.Close()
	server.Listener = listener
	server.Start()
	defer server.Close()
	s := webhookTo(t, server.URL)
	if err := s.Send(t.Context(), records(0, 1)); err != nil {
		t.Error(err)
	}
	if err := s.Probe(t.Context()); err != nil {
		t.Error(err)
	}
}

// caFile writes the certificate of server, which is its own authority, to a file.
func caFile(t *testing.T, server *httptest.Server) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(path, block, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// newTLSServer accepts everything over TLS, with a certificate for 127.0.0.1 and example.com.
func newTLSServer(t *testing.T) *httptest.Server {
	t.Helper()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	server.Config.ErrorLog = quiet()
	server.StartTLS()
	t.Cleanup(server.Close)
	return server
}

func TestWebhookTLS(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("http2 %v", http2), func(t *testing.T) {
			leaksNothing(t)
			var served atomic.Int32
			proto := make(chan string, 1)
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				served.Add(1)
				proto <- r.Proto
			}))
			server.EnableHTTP2 = http2
			server.Config.ErrorLog = quiet()
			server.StartTLS()
			defer server.Close()
			ca := caFile(t, server)
			_, port, err := net.SplitHostPort(server.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}

			tests := []struct {
				name, host string
				tls        promconfig.TLSConfig
				text       string // of the error
			}{
				{"own authority", "127.0.0.1", promconfig.TLSConfig{CAFile: ca}, ""},
				{"unknown authority", "127.0.0.1", promconfig.TLSConfig{}, "ca_file"},
				{"wrong name", "localhost", promconfig.TLSConfig{CAFile: ca}, "server_name"},
				{"name set", "localhost", promconfig.TLSConfig{CAFile: ca, ServerName: "example.com"}, ""},
				{"other name set", "127.0.0.1", promconfig.TLSConfig{CAFile: ca, ServerName: "example.org"}, "server_name"},
				{"not verified", "127.0.0.1", promconfig.TLSConfig{InsecureSkipVerify: true}, ""},
			}
			for _, test := range tests {
				t.Run(test.name, func(t *testing.T) {
					before := served.Load()
					s := webhookTo(t, "https://"+net.JoinHostPort(test.host, port)+"/", withTLS(test.tls))
					defer s.Close()
					for what, do := range map[string]func() error{
						"Send":  func() error { return s.Send(t.Context(), records(0, 1)) },
						"Probe": func() error { return s.Probe(t.Context()) },
					} {
						err := do()
						if (err == nil) != (test.text == "") || err != nil && !strings.Contains(err.Error(), test.text) {
							t.Errorf("%s: %v", what, err)
						}
						if _, ok := errors.AsType[*PermanentError](err); ok {
							t.Errorf("%s: %v is permanent", what, err)
						}
					}
					if test.text != "" {
						if served.Load() != before {
							t.Error("the event was sent nevertheless")
						}
						return
					}
					want := "HTTP/1.1"
					if http2 {
						want = "HTTP/2.0"
					}
					if got := <-proto; got != want {
						t.Errorf("%s, want %s", got, want)
					}
				})
			}
		})
	}
}

// TestWebhookWrongScheme has https in the address of an HTTP server and the other way round: the error has to say so.
func TestWebhookWrongScheme(t *testing.T) {
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	s := webhookTo(t, strings.Replace(plain.URL, "http:", "https:", 1))
	if err := s.Send(t.Context(), records(0, 1)); err == nil || !strings.Contains(err.Error(), "speaks http?") {
		t.Errorf("https to http: %v", err)
	}
	encrypted := httptest.NewUnstartedServer(http.NotFoundHandler())
	encrypted.Config.ErrorLog = quiet()
	encrypted.StartTLS()
	defer encrypted.Close()
	s = webhookTo(t, strings.Replace(encrypted.URL, "https:", "http:", 1))
	if err := s.Send(t.Context(), records(0, 1)); err == nil || !strings.Contains(err.Error(), "HTTP request to an HTTPS server") {
		t.Errorf("http to https: %v", err)
	}
}

func TestWebhookUnreachable(t *testing.T) {
	closed := rawPeerAddress(t)
	tests := []struct{ address, text string }{
		{"http://" + closed, "refused"},
		{"http://no-such-host.invalid/hook", "no-such-host.invalid"},
	}
	for _, test := range tests {
		s := webhookTo(t, test.address)
		for _, err := range []error{s.Send(t.Context(), records(0, 1)), s.Probe(t.Context())} {
			if err == nil || !strings.Contains(err.Error(), test.text) {
				t.Errorf("%s: %v", test.address, err)
			}
		}
	}
}

// rawPeerAddress returns an address nobody listens on.
func rawPeerAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // loopback
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// TestWebhooksDoNotShare has two sinks with different settings of TLS, and a default client that must stay as it is.
func TestWebhooksDoNotShare(t *testing.T) {
	server := newTLSServer(t)
	trusting := webhookTo(t, server.URL, withTLS(promconfig.TLSConfig{InsecureSkipVerify: true}))
	strict := webhookTo(t, server.URL)
	for range 2 {
		if err := trusting.Send(t.Context(), records(0, 1)); err != nil {
			t.Error(err)
		}
		if err := strict.Send(t.Context(), records(0, 1)); err == nil {
			t.Error("an unknown certificate was accepted")
		}
	}
	if err := strict.Close(); err != nil {
		t.Error(err)
	}
	if err := trusting.Send(t.Context(), records(0, 1)); err != nil {
		t.Errorf("after the other sink was closed: %v", err)
	}
	if d, ok := http.DefaultTransport.(*http.Transport); ok && d.TLSClientConfig != nil && d.TLSClientConfig.InsecureSkipVerify {
		t.Error("the default transport was changed")
	}
}

// TestWebhookEcho has a peer that is no HTTP server and sends the request back, as an echo service does.
func TestWebhookEcho(t *testing.T) {
	const token = "t0k3n-of-the-hook"
	s := webhookTo(t, "http://"+rawPeer(t, func(conn net.Conn) { _, _ = io.Copy(conn, conn) })+"/services/"+token+"?k="+token)
	err := s.Send(t.Context(), records(0, 1))
	if err == nil || strings.Contains(err.Error(), token) || !strings.Contains(err.Error(), "malformed") {
		t.Errorf("%v", err)
	}
}

func TestRedactor(t *testing.T) {
	u, err := url.Parse("https://hooks.example.com/services/T0CAFE/B%20BABE/qqqqqqqqqqqqqqqq?token=a%26b%22c&n=1&next=%2Fhome")
	if err != nil {
		t.Fatal(err)
	}
	r := newRedactor(u, "whsec_c2VjcmV0")
	tests := []struct{ text, want string }{
		{"plain", "plain"},
		{"", ""},
		{"n=1 stays readable", "n=1 stays readable"},
		{"no route " + u.RequestURI() + "!", "no route <secret>!"},
		{"no route " + u.Path + "!", "no route <secret>!"},
		{u.String(), "<secret>"},
		{`a&b"c a%26b%22c a&amp;b&#34;c a\u0026b\"c`, "<secret> <secret> <secret> <secret>"},
		{"key qqqqqqqqqqqqqqqq", "key <secret>"},
		{"whsec_c2VjcmV0", "<secret>"},
		{" two\r\n\tlines\x00\x1b[31m \xff ", "two lines [31m"},
		{strings.Repeat("é", 300), strings.Repeat("é", 99) + "..."},
	}
	for _, test := range tests {
		if got := r.excerpt([]byte(test.text), false); got != test.want {
			t.Errorf("%q: %q, want %q", test.text, got, test.want)
		}
	}
	// Wherever what was read ends, no part of a secret is left over.
	for shift := range 40 {
		text := strings.Repeat(" ", maxExcerptRead-shift) + strings.Repeat("qqqqqqqqqqqqqqqq", 4)
		if got := r.excerpt([]byte(text)[:maxExcerptRead], false); strings.Contains(got, "qq") {
			t.Fatalf("cut after %d bytes of it: %q", shift, got)
		}
	}
	for n := range len("whsec_c2VjcmV0") {
		secret := "whsec_c2VjcmV0"[:n]
		want := map[bool]string{true: "not for <secret>", false: "not for " + secret}[n >= minHidden]
		if got := r.excerpt([]byte("not for "+secret), true); got != strings.TrimSpace(want) {
			t.Errorf("cut after %d bytes of it: %q", n, got)
		}
	}

	io := errors.New("EOF")
	if got := r.error(io); got != io { //nolint:errorlint // the same one
		t.Errorf("a harmless error became %v", got)
	}
	if got := r.error(errors.New("at " + u.String())); got.Error() != "at <secret>" {
		t.Errorf("%v", got)
	}
	if got := r.error(errors.New(strings.Repeat("x", 5000))); len(got.Error()) > maxErrorText+3 {
		t.Errorf("%d bytes", len(got.Error()))
	}
}

func TestNewWebhookRefuses(t *testing.T) {
	const token = "t0k3n"
	tests := []struct {
		name   string
		change func(*config.Webhook)
		text   string
	}{
		{"no url", func(w *config.Webhook) { w.URL = config.URL{} }, "url"},
		{"userid", func(w *config.Webhook) { w.URL = config.NewURL("https://" + token + "@example.com/") }, "url"},
		{"no host", func(w *config.Webhook) { w.URL = config.NewURL("https:///" + token) }, "url"},
		{"other scheme", func(w *config.Webhook) { w.URL = config.NewURL("ftp://example.com/" + token) }, "url"},
		{"not a url", func(w *config.Webhook) { w.URL = config.NewURL("http://[::1/" + token) }, "url"},
		{"other format", func(w *config.Webhook) { w.Format = "xml" }, "format"},
		{"other compression", func(w *config.Webhook) { w.Compression = "zstd" }, "compression"},
		{"bad template", func(w *config.Webhook) { w.Format, w.Template = config.FormatTemplate, "{{ " }, "template"},
		{"one bad secret of two", func(w *config.Webhook) {
			w.Secret, w.Secrets = config.NewSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), []config.Secret{config.NewSecret("whsec_" + token + "!")}
		}, "secret"},
		{"bad secret", func(w *config.Webhook) { w.Secret = config.NewSecret("whsec_" + token + "!") }, "secret"},
		{"no CA file", func(w *config.Webhook) {
			w.HTTPConfig = config.NewHTTPConfig(promconfig.HTTPClientConfig{TLSConfig: promconfig.TLSConfig{CAFile: "/nonexistent/ca.pem"}})
		}, "http_config.tls_config"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			cfg := config.Sink{Name: "ops", Webhook: &config.Webhook{URL: config.NewURL("https://example.com/" + token)}}
			test.change(cfg.Webhook)
			s, err := New(cfg, Options{})
			if err == nil {
				_ = s.Close()
				t.Fatal("no error")
			}
			if !strings.HasPrefix(err.Error(), "webhook: ") || !strings.Contains(err.Error(), test.text) || strings.Contains(err.Error(), token) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestErrors(t *testing.T) {
	if got, want := (&RetryAfterError{After: 30 * time.Second, Err: io.EOF}).Error(), "EOF (retry after 30s)"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	for _, err := range []error{&PermanentError{Err: io.EOF}, &RetryAfterError{Err: io.EOF}} {
		if !errors.Is(err, io.EOF) {
			t.Errorf("%T hides its cause", err)
		}
	}
}
