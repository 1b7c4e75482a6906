package hmc

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/tests/output"
)

const (
	testPassword   = `p:a\s"s-wörd`
	testToken      = "1bcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmn"
	testCredential = "9zyxwvutsrqponmlkjihgfedcba9876543210zyxwvutsrqpon"
)

// request is what a wire server saw.
type request struct {
	line   string // "POST /api/sessions HTTP/1.1"
	header http.Header
	body   string
	conn   int // number of the connection, from 1
}

// wire is a TLS server that answers with exact bytes.
type wire struct {
	t     *testing.T
	ln    net.Listener
	roots *x509.CertPool
	cert  *x509.Certificate

	mu       sync.Mutex
	requests []request
	conns    []net.Conn
	wg       sync.WaitGroup
}

// startWire answers each request with what answer returns; "" closes the connection without an answer.
func startWire(t *testing.T, addr string, answer func(n int, r request) string) *wire {
	t.Helper()
	// httptest's certificate is good for 127.0.0.1, ::1 and example.com.
	certs := httptest.NewTLSServer(http.NotFoundHandler())
	defer certs.Close()
	w := &wire{t: t, cert: certs.Certificate(), roots: x509.NewCertPool()}
	w.roots.AddCert(w.cert)
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", addr)
	if err != nil {
		t.Skip("no such address here: ", err)
	}
	w.ln = tls.NewListener(ln, &tls.Config{MinVersion: tls.VersionTLS12, Certificates: certs.TLS.Certificates})
	w.wg.Go(func() {
		for n := 1; ; n++ {
			conn, err := w.ln.Accept()
			if err != nil {
				return
			}
			w.mu.Lock()
			w.conns = append(w.conns, conn)
			w.mu.Unlock()
			w.wg.Go(func() { w.serve(conn, n, answer) })
		}
	})
	t.Cleanup(w.close)
	return w
}

func (w *wire) serve(conn net.Conn, n int, answer func(int, request) string) {
	defer conn.Close()
	br := bufio.NewReader(conn)
	for {
		r, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		seen := request{line: r.Method + " " + r.RequestURI + " " + r.Proto, header: r.Header, body: string(body), conn: n}
		w.mu.Lock()
		w.requests = append(w.requests, seen)
		count := len(w.requests)
		w.mu.Unlock()
		out := answer(count, seen)
		if out == "" {
			return
		}
		if _, err := io.WriteString(conn, out); err != nil || strings.Contains(out, "Connection: close\r\n") {
			return
		}
	}
}

func (w *wire) close() {
	_ = w.ln.Close()
	w.mu.Lock()
	for _, c := range w.conns {
		_ = c.Close()
	}
	w.mu.Unlock()
	w.wg.Wait()
}

func (w *wire) seen() []request {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.requests)
}

func (w *wire) lines() []string {
	var lines []string
	for _, r := range w.seen() {
		lines = append(lines, strings.TrimSuffix(r.line, " HTTP/1.1"))
	}
	return lines
}

func (w *wire) port() int {
	addr, ok := w.ln.Addr().(*net.TCPAddr)
	if !ok {
		w.t.Fatal(w.ln.Addr())
	}
	return addr.Port
}

// client makes a Client of this server. It is closed with the test.
func (w *wire) client(opts Options) *Client {
	w.t.Helper()
	if opts.Hosts == nil {
		opts.Hosts = []string{"127.0.0.1"}
	}
	opts.Port = w.port()
	if opts.TLS == nil {
		opts.TLS = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: w.roots}
	}
	return newClient(w.t, opts)
}

func newClient(t *testing.T, opts Options) *Client {
	t.Helper()
	c, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// jsonAnswer has the headers of a real HMC (2.16).
func jsonAnswer(status int, body string) string {
	return fmt.Sprintf("HTTP/1.1 %d %s\r\n"+
		"Server: Hardware management console API web server / 2.0\r\n"+
		"Cache-control: no-cache\r\n"+
		"x-request-id: Sx9feb3000-e9e7-11e9-bf4a-00106f237ab1.53dd Rx1\r\n"+
		"Strict-Transport-Security: max-age=0\r\n"+
		"X-Content-Type-Options: nosniff\r\n"+
		"Content-Type: application/json;charset=UTF-8\r\n"+
		"Transfer-Encoding: chunked\r\n"+
		"Connection: keep-alive\r\n"+
		"Keep-Alive: timeout=20\r\n\r\n"+
		"%x\r\n%s\r\n0\r\n\r\n", status, http.StatusText(status), len(body), body)
}

const noContent = "HTTP/1.1 204 No Content\r\nServer: Hardware management console API web server / 2.0\r\n\r\n"

var logonBody = `{"api-session":"` + testToken + `","notification-topic":"ensadmin.145","job-notification-topic":"ensadmin.145job",` +
	`"api-major-version":4,"api-minor-version":40,"password-expires":-1,"session-credential":"` + testCredential + `","@@implementation-errors":[{"a":1}]}`

func errorBody(status, reason int, message string) string {
	return fmt.Sprintf(`{"http-status":%d,"reason":%d,"message":%q,"request-method":"X","request-uri":"/x","request-headers":{"x-api-session":%q},"request-body":{"password":%q},"stack":"java"}`,
		status, reason, message, testToken, testPassword)
}

// Every request and answer of the contract, byte by byte.
func TestCalls(t *testing.T) {
	answers := map[string]string{
		"GET /api/version":   jsonAnswer(200, `{"api-major-version":4,"api-minor-version":40,"hmc-name":"HMC1","hmc-version":"2.16.0","api-features":["a"],"new":{}}`),
		"POST /api/sessions": jsonAnswer(200, logonBody),
		"GET /api/sessions/operations/get-notification-topics":          jsonAnswer(200, `{"topics":[{"topic-type":"object-notification","topic-name":"ensadmin.145"},{"topic-type":"os-message-notification","topic-name":"ensadmin.145osm.e12121dac50331178e79c46bd3531b90","object-uri":"/api/partitions/e12121da-c503-3117-8e79-c46bd3531b90","include-refresh-messages":true},{"topic-type":"of-tomorrow","topic-name":"x"}]}`),
		"GET /api/console/operations/list-permitted-partitions":         jsonAnswer(200, `{"partitions":[{"object-uri":"/api/partitions/p1","name":"LINUX1","status":"active","type":"linux","cpc-name":"CPC1","cpc-object-uri":"/api/cpcs/c1","se-version":"2.16.0","has-unacceptable-status":false}]}`),
		"GET /api/console/operations/list-permitted-logical-partitions": jsonAnswer(200, `{"logical-partitions":[{"object-uri":"/api/logical-partitions/l1","name":"ZOS1","status":"operating","activation-mode":"esa390","cpc-name":"CPC2","cpc-object-uri":"/api/cpcs/c2"}]}`),
		"POST /api/partitions/p1/operations/open-os-message-channel":    jsonAnswer(200, `{"topic-name":"ensadmin.145osm.p1"}`),
		"DELETE /api/sessions/this-session":                             noContent,
	}
	w := startWire(t, "127.0.0.1:0", func(_ int, r request) string { return answers[strings.TrimSuffix(r.line, " HTTP/1.1")] })
	var ops []string
	c := w.client(Options{UserAgent: "hmcnotifyd/1.0", OnRequest: func(op, code string) { ops = append(ops, op+" "+code) }})
	ctx := t.Context()

	v, err := c.QueryAPIVersion(ctx)
	if err != nil || v.String() != "HMC1, version 2.16.0, API 4.40" || !slices.Equal(v.Features, []string{"a"}) {
		t.Fatalf("version %v, %v", v, err)
	}
	s, err := c.Logon(ctx, "monitor", testPassword)
	if err != nil {
		t.Fatal(err)
	}
	if s.ID() != testToken || s.Credential() != testCredential || s.ObjectTopic != "ensadmin.145" || s.JobTopic != "ensadmin.145job" || s.PasswordExpires != -1 || s.Host() != "127.0.0.1" {
		t.Errorf("session: %q %q %q %q %d %q", s.ID(), s.Credential(), s.ObjectTopic, s.JobTopic, s.PasswordExpires, s.Host())
	}
	topics, err := s.NotificationTopics(ctx)
	if want := []Topic{
		{Type: TopicTypeObject, Name: "ensadmin.145"},
		{TopicTypeOSMessage, "ensadmin.145osm.e12121dac50331178e79c46bd3531b90", "/api/partitions/e12121da-c503-3117-8e79-c46bd3531b90", true},
		{Type: "of-tomorrow", Name: "x"},
	}; err != nil || !slices.Equal(topics, want) {
		t.Errorf("topics %v, %v", topics, err)
	}
	partitions, err := s.ListPermittedPartitions(ctx)
	if len(partitions) == 1 && partitions[0].HasUnacceptableStatus != nil {
		partitions[0].HasUnacceptableStatus = nil // a pointer is not equal
	} else {
		t.Error("has-unacceptable-status was not read")
	}
	if want := (Partition{Name: "LINUX1", ObjectURI: "/api/partitions/p1", Status: "active", CPCName: "CPC1", CPCURI: "/api/cpcs/c1", SEVersion: "2.16.0", Type: "linux"}); err != nil || !slices.Equal(partitions, []Partition{want}) {
		t.Errorf("partitions %v, %v", partitions, err)
	}
	lpars, err := s.ListPermittedLogicalPartitions(ctx)
	if want := (Partition{Name: "ZOS1", ObjectURI: "/api/logical-partitions/l1", Status: "operating", CPCName: "CPC2", CPCURI: "/api/cpcs/c2", ActivationMode: "esa390"}); err != nil || !slices.Equal(lpars, []Partition{want}) {
		t.Errorf("logical partitions %v, %v", lpars, err)
	}
	topic, err := s.OpenOSMessageChannel(ctx, "/api/partitions/p1", false)
	if err != nil || topic != "ensadmin.145osm.p1" {
		t.Errorf("channel %q, %v", topic, err)
	}
	if err := s.Ping(ctx); err != nil {
		t.Error(err)
	}
	if err := s.Logoff(ctx); err != nil {
		t.Error(err)
	}
	if err := s.Logoff(ctx); err != nil {
		t.Error("second logoff:", err)
	}

	if want := []string{
		"query-api-version 200", "logon 200", "get-notification-topics 200", "list-permitted-partitions 200",
		"list-permitted-logical-partitions 200", "open-os-message-channel 200", "get-notification-topics 200", "logoff 204",
	}; !slices.Equal(ops, want) {
		t.Errorf("operations %v", ops)
	}
	for i, r := range w.seen() {
		wantToken := testToken
		if i < 2 {
			wantToken = ""
		}
		h := r.header
		if h.Get("X-API-Session") != wantToken || h.Get("Content-Type") != "application/json" || h.Get("Accept") != "*/*" ||
			h.Get("User-Agent") != "hmcnotifyd/1.0" || h.Get("X-Audit-Id") != "hmcnotifyd/1.0" || h["Idempotency-Key"] != nil || h.Get("Accept-Encoding") != "" {
			t.Errorf("%s: headers %v", r.line, h)
		}
		if !strings.HasSuffix(r.line, " HTTP/1.1") {
			t.Errorf("%s is not HTTP/1.1", r.line)
		}
	}
	seen := w.seen()
	if want := `{"password":"p:a\\s\"s-wörd","userid":"monitor"}`; seen[1].body != want {
		t.Errorf("logon with %s", seen[1].body)
	}
	if want := `{"include-refresh-messages":false}`; seen[5].body != want {
		t.Errorf("channel with %s", seen[5].body)
	}
	if certs := c.PeerCertificates(); len(certs) == 0 || !certs[0].Equal(w.cert) {
		t.Errorf("peer certificates %v", certs)
	}
}

// What each answer to a logon means, and what is left behind.
func TestLogonAnswers(t *testing.T) {
	const failed = "Login failed. Try the operation again. If the problem persists, contact your security administrator."
	html := "HTTP/1.1 500 Internal Server Error\r\nContent-Type: text/html;charset=utf-8\r\nConnection: close\r\n\r\n" +
		"<html><head><title>Error 500</title></head><body><pre>javax.servlet.ServletException: Web Services are not enabled.\n\tat com.ibm...</pre></body></html>"
	for name, tc := range map[string]struct {
		answer            string
		want              string // the error
		refused, tooMany  bool
		partial, loggedOf bool
	}{
		"wrong password": {
			answer: jsonAnswer(403, errorBody(403, 0, failed)), refused: true,
			want: "HTTP status 403, reason 0: " + failed,
		},
		"not permitted":     {answer: jsonAnswer(403, errorBody(403, 1, "no")), refused: true, want: "HTTP status 403, reason 1: no"},
		"unauthorized":      {answer: jsonAnswer(401, "{}"), refused: true, want: "HTTP status 401: unauthorized (answered with application/json that is not the API's)"},
		"password expired":  {answer: jsonAnswer(400, errorBody(400, 45, "expired")), refused: true, want: "HTTP status 400, reason 45: expired"},
		"too many sessions": {answer: jsonAnswer(400, errorBody(400, 13, "too many")), tooMany: true, want: "HTTP status 400, reason 13: too many"},
		"partial 201": {
			answer: jsonAnswer(201, `{"api-session":"`+testToken+`"}`), refused: true, partial: true, loggedOf: true,
			want: "hmc: logon: the userid needs multi-factor authentication (HTTP status 201): use a userid without, or a session that was logged on elsewhere",
		},
		"partial 409": {
			answer: jsonAnswer(409, errorBody(409, 50, "second factor")), refused: true, partial: true,
			want: "hmc: logon: the userid needs multi-factor authentication (HTTP status 409, reason 50: second factor): use a userid without, or a session that was logged on elsewhere",
		},
		"partial 409 with session": {
			answer: jsonAnswer(409, `{"http-status":409,"reason":51,"message":"m","api-session":"`+testToken+`"}`), refused: true, partial: true, loggedOf: true,
			want: "hmc: logon: the userid needs multi-factor authentication (HTTP status 409, reason 51: m): use a userid without, or a session that was logged on elsewhere",
		},
		"other 409":       {answer: jsonAnswer(409, errorBody(409, 1, "m")), want: "HTTP status 409, reason 1: m"},
		"no session":      {answer: jsonAnswer(200, `{"api-session":"","session-credential":"x"}`), want: "HTTP status 200: the answer to the logon holds no session"},
		"other success":   {answer: jsonAnswer(202, logonBody), loggedOf: true, want: "HTTP status 202: the answer to the logon holds no session"},
		"not JSON":        {answer: jsonAnswer(200, `{"api-session":"`+testToken), want: "HTTP status 200: the answer is not the JSON that is documented"},
		"wrong JSON":      {answer: jsonAnswer(200, `{"api-session":["`+testToken+`"]}`), want: "HTTP status 200: the answer is not the JSON that is documented"},
		"not enabled":     {answer: html, want: "HTTP status 500: the Web Services API is not enabled: enable it on the HMC, in the task Customize API Settings"},
		"HTML":            {answer: strings.Replace(html, "Web Services are not enabled", "Oops", 1), want: "HTTP status 500: internal server error (answered with text/html that is not the API's)"},
		"busy":            {answer: "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n", want: "HTTP status 503: service unavailable (without a message) (to be asked again after 7s)"},
		"redirect":        {answer: "HTTP/1.1 302 Found\r\nLocation: https://127.0.0.1/\r\nContent-Length: 0\r\n\r\n", want: "HTTP status 302: redirected, which the API never does: is this an HMC?"},
		"secret repeated": {answer: jsonAnswer(500, errorBody(500, 1, "cannot use "+testPassword)), want: "HTTP status 500, reason 1: (the message is not shown because it repeats a secret)"},
		"odd message":     {answer: jsonAnswer(500, `{"reason":2,"message":"a\nb\u0000`+strings.Repeat("x", 600)+`"}`), want: "HTTP status 500, reason 2: a b " + strings.Repeat("x", 496) + "..."},
		"huge HTML":       {answer: "HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n" + strings.Repeat("<p>", 1<<20), want: "HTTP status 502: bad gateway (answered with text/html that is not the API's)"},
	} {
		t.Run(name, func(t *testing.T) {
			w := startWire(t, "127.0.0.1:0", func(_ int, r request) string {
				if strings.HasPrefix(r.line, "DELETE") {
					return noContent
				}
				return tc.answer
			})
			s, err := w.client(Options{}).Logon(t.Context(), "monitor", testPassword)
			if err == nil || s != nil {
				t.Fatal("logged on")
			}
			if err.Error() != tc.want {
				t.Errorf("\n got %v\nwant %s", err, tc.want)
			}
			var partial *PartialLogonError
			if LogonRefused(err) != tc.refused || TooManySessions(err) != tc.tooMany || errors.As(err, &partial) != tc.partial || SessionLost(err) {
				t.Errorf("refused %v, too many %v, partial %v, lost %v", LogonRefused(err), TooManySessions(err), errors.As(err, &partial), SessionLost(err))
			}
			lines := w.lines()
			want := []string{"POST /api/sessions"}
			if tc.loggedOf {
				want = append(want, "DELETE /api/sessions/this-session")
			}
			if !slices.Equal(lines, want) {
				t.Errorf("requests %v", lines)
			}
			if tc.loggedOf && w.seen()[1].header.Get("X-API-Session") != testToken {
				t.Error("another session was logged off")
			}
			for _, secret := range []string{testPassword, testToken, testCredential} {
				if strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, err), secret) {
					t.Errorf("the error holds a secret: %+v", err)
				}
			}
		})
	}
}

func TestBusyError(t *testing.T) {
	for value, want := range map[string]time.Duration{
		"7": 7 * time.Second, "0": 0, "": 0, "-1": 0, "soon": 0, "999999999": 24 * time.Hour, "99999999999999999999": 0,
		"Thu, 01 Jan 1970 00:01:00 GMT": time.Minute, "Thu, 01 Jan 1970 00:00:00 GMT": 0, "Fri, 31 Dec 2100 23:59:59 GMT": 24 * time.Hour,
	} {
		if got := parseRetryAfter(value, time.Unix(0, 0)); got != want {
			t.Errorf("Retry-After %q: %v, want %v", value, got, want)
		}
	}
	w := startWire(t, "127.0.0.1:0", func(int, request) string {
		return strings.Replace(jsonAnswer(503, errorBody(503, 1, "too many requests")), "Server:", "Retry-After: 3\r\nServer:", 1)
	})
	_, err := w.client(Options{}).Resume("x", "y").NotificationTopics(t.Context())
	var busy *BusyError
	var httpErr *HTTPError
	if !errors.As(err, &busy) || busy.RetryAfter != 3*time.Second || !errors.As(err, &httpErr) || httpErr.Status != 503 || httpErr.Reason != 1 {
		t.Errorf("%#v", err)
	}
}

func TestSessionErrors(t *testing.T) {
	for _, tc := range []struct {
		status, reason int
		lost           bool
		is             func(error) bool
	}{
		{403, 4, true, nil},
		{403, 5, true, nil},
		{401, 0, true, nil},
		{403, 0, false, nil},
		{403, 1, false, func(err error) bool { return IsReason(err, 403, ReasonNotPermitted) }},
		{404, 1, false, nil},
		{409, 331, false, func(err error) bool { return IsReason(err, 409, ReasonChannelExists) }},
		{409, 332, false, func(err error) bool { return IsReason(err, 409, ReasonChannelUnavailable) }},
		{500, 12, false, nil},
	} {
		t.Run(fmt.Sprint(tc.status, ".", tc.reason), func(t *testing.T) {
			w := startWire(t, "127.0.0.1:0", func(int, request) string {
				return jsonAnswer(tc.status, errorBody(tc.status, tc.reason, "the x-api-session header did not map to a known session"))
			})
			s := w.client(Options{}).Resume(testToken, testCredential)
			for name, call := range map[string]func() error{
				"ping": func() error { return s.Ping(t.Context()) },
				"open": func() error {
					_, err := s.OpenOSMessageChannel(t.Context(), "/api/logical-partitions/x", true)
					return err
				},
				"list": func() error { _, err := s.ListPermittedPartitions(t.Context()); return err },
			} {
				err := call()
				var e *HTTPError
				if !errors.As(err, &e) || e.Status != tc.status || e.Reason != tc.reason || e.Message == "" {
					t.Fatalf("%s: %#v", name, err)
				}
				if SessionLost(err) != tc.lost || LogonRefused(err) || tc.is != nil && !tc.is(err) {
					t.Errorf("%s: %v: lost %v, refused %v", name, err, SessionLost(err), LogonRefused(err))
				}
			}
			err := s.Logoff(t.Context())
			if ignored := tc.status == 403 || tc.status == 401; (err == nil) != ignored {
				t.Errorf("logoff: %v", err)
			}
		})
	}
	if SessionLost(nil) || LogonRefused(nil) || TooManySessions(nil) || IsReason(nil, 403, 5) || SessionLost(io.EOF) {
		t.Error("what is no answer of the HMC says something about the session")
	}
}

func TestOpenOSMessageChannelRefusesOtherURIs(t *testing.T) {
	c := newClient(t, Options{Hosts: []string{"127.0.0.1"}, Port: 1})
	for _, uri := range []string{"", "/api/partitions/", "/api/cpcs/x", "/api/partitions/x/../../sessions", "/api/partitions/x?y", "/api/partitions/x#y", "https://h/api/partitions/x", "/api/partitions/%2e"} {
		if _, err := c.Resume("a", "b").OpenOSMessageChannel(t.Context(), uri, true); err == nil || strings.Contains(err.Error(), "refused") {
			t.Errorf("%q: %v", uri, err)
		}
	}
	w := startWire(t, "127.0.0.1:0", func(int, request) string { return jsonAnswer(200, "{}") })
	_, err := w.client(Options{}).Resume("a", "b").OpenOSMessageChannel(t.Context(), "/api/partitions/x", true)
	if _, ok := errors.AsType[*AnswerError](err); !ok {
		t.Errorf("no topic: %v", err)
	}
}

// An HMC closes idle connections after a second or more. A request that crosses this is repeated if that is harmless; a logon is
// never sent twice.
func TestIdleConnectionsClosed(t *testing.T) {
	// Every second request finds its connection closed instead of an answer.
	w := startWire(t, "127.0.0.1:0", func(n int, r request) string {
		switch {
		case n%2 == 0:
			return ""
		case strings.HasPrefix(r.line, "DELETE"):
			return noContent
		case strings.Contains(r.line, "channel"):
			return jsonAnswer(200, `{"topic-name":"t"}`)
		}
		return jsonAnswer(200, `{"topics":[]}`)
	})
	c := w.client(Options{})
	s := c.Resume("a", "b")
	if err := s.Ping(t.Context()); err != nil { // 1
		t.Fatal(err)
	}
	if err := s.Ping(t.Context()); err != nil { // 2 closed, 3
		t.Fatal(err)
	}
	if _, err := s.OpenOSMessageChannel(t.Context(), "/api/partitions/x", true); err != nil { // 4 closed, 5
		t.Fatal(err)
	}
	if err := s.Logoff(t.Context()); err != nil { // 6 closed, 7
		t.Fatal(err)
	}
	before := len(w.seen())
	if before != 7 {
		t.Fatalf("%d requests", before)
	}
	_, err := c.Logon(t.Context(), "u", testPassword) // 8 closed
	var unreachable *ConnectError
	if !errors.As(err, &unreachable) || unreachable.Reason != ReasonOther || !errors.Is(err, io.EOF) {
		t.Errorf("%v", err)
	}
	seen := w.seen()
	if len(seen) != before+1 {
		t.Errorf("the logon was sent %d times", len(seen)-before)
	}
	if seen[before].conn == seen[before-1].conn {
		t.Error("the logon went out on a connection that was idle")
	}
}

// A caller that goes while the HMC works on its logon leaves no session behind.
func TestLogonAbandoned(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	w := startWire(t, "127.0.0.1:0", func(_ int, r request) string {
		if strings.HasPrefix(r.line, "DELETE") {
			return noContent
		}
		cancel()
		return jsonAnswer(200, logonBody)
	})
	s, err := w.client(Options{}).Logon(ctx, "u", testPassword)
	if s != nil || !errors.Is(err, context.Canceled) {
		t.Fatalf("%v, %v", s, err)
	}
	if want := []string{"POST /api/sessions", "DELETE /api/sessions/this-session"}; !slices.Equal(w.lines(), want) {
		t.Errorf("requests %v", w.lines())
	}

	// Before the request is on its way there is nothing to wait for.
	dialing := make(chan struct{})
	c := newClient(t, Options{Hosts: []string{"127.0.0.1"}, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		close(dialing)
		<-ctx.Done()
		return nil, ctx.Err()
	}})
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	go func() { <-dialing; cancel() }()
	if _, err := c.Logon(ctx, "u", testPassword); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// An HMC that never answers the logon is not waited for longer than the grace.
func TestLogonGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &call{}
		r.written.Store(true)
		ctx, cancel := context.WithCancel(t.Context())
		work, stop := r.outlive(ctx, logonGrace)
		defer stop()
		start := time.Now()
		time.Sleep(time.Second)
		if work.Err() != nil {
			t.Fatal("ended by itself")
		}
		cancel()
		<-work.Done()
		if took := time.Since(start); took != time.Second+logonGrace {
			t.Errorf("ended after %v", took)
		}
	})
}

func TestHosts(t *testing.T) {
	version := func(name string) string { return jsonAnswer(200, `{"hmc-name":"`+name+`"}`) }
	var down atomic.Bool
	w := startWire(t, "127.0.0.1:0", func(_ int, r request) string {
		if strings.Contains(r.line, "version") {
			return version("second")
		}
		return jsonAnswer(200, logonBody)
	})
	// The first host is a dialer that refuses, or not.
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		host, _, _ := net.SplitHostPort(addr)
		switch {
		case host == "first.example.com" && down.Load():
			return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
		case host == "unknown.example.com":
			return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
		}
		return new(net.Dialer).DialContext(ctx, network, w.ln.Addr().String())
	}
	c := w.client(Options{
		Hosts: []string{"unknown.example.com", "first.example.com", "127.0.0.1"}, Dial: dial,
		TLS: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: w.roots, ServerName: "example.com"},
	})
	if c.Host() != "unknown.example.com" {
		t.Errorf("before any answer: %s", c.Host())
	}
	if _, err := c.QueryAPIVersion(t.Context()); err != nil || c.Host() != "first.example.com" {
		t.Fatalf("%v, %s", err, c.Host())
	}
	s, err := c.Logon(t.Context(), "u", "p")
	if err != nil || s.Host() != "first.example.com" {
		t.Fatalf("%v", err)
	}
	down.Store(true)
	c.Close()
	if _, err := c.QueryAPIVersion(t.Context()); err != nil || c.Host() != "127.0.0.1" {
		t.Fatalf("%v, %s", err, c.Host())
	}
	var unreachable *ConnectError
	if err := s.Ping(t.Context()); !errors.As(err, &unreachable) || unreachable.Host != "first.example.com" || unreachable.Reason != ReasonRefused {
		t.Errorf("the token of the first host went to another: %v", err)
	}

	// One that answers and is of no use is left for the next one, and the last one for the first.
	down.Store(false)
	for _, want := range []string{"first.example.com", "127.0.0.1", "first.example.com"} {
		c.NextHost()
		if _, err := c.QueryAPIVersion(t.Context()); err != nil || c.Host() != want {
			t.Fatalf("%v, %s instead of %s", err, c.Host(), want)
		}
	}
	down.Store(true)

	none := newClient(t, Options{Hosts: []string{"unknown.example.com", "first.example.com"}, Dial: dial})
	_, err = none.QueryAPIVersion(t.Context())
	if want := "hmc: no host can be reached: unknown.example.com: lookup unknown.example.com: no such host; first.example.com: dial: connection refused"; err == nil || err.Error() != want {
		t.Errorf("\n got %v\nwant %s", err, want)
	}
	if !errors.As(err, &unreachable) || unreachable.Reason != ReasonDNS || !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("%v", unreachable)
	}

	// An answer ends the search, even one that is an error.
	angry := startWire(t, "127.0.0.1:0", func(int, request) string { return jsonAnswer(500, errorBody(500, 0, "no")) })
	c = angry.client(Options{Hosts: []string{"127.0.0.1", "::1"}})
	var httpErr *HTTPError
	if _, err := c.QueryAPIVersion(t.Context()); !errors.As(err, &httpErr) || len(angry.seen()) != 1 {
		t.Errorf("%v after %d requests", err, len(angry.seen()))
	}
}

func TestIPv6(t *testing.T) {
	w := startWire(t, "[::1]:0", func(int, request) string { return jsonAnswer(200, `{"hmc-name":"six"}`) })
	for _, host := range []string{"::1", "0:0:0:0:0:0:0:1", "::1%lo"} {
		c := w.client(Options{Hosts: []string{host}})
		v, err := c.QueryAPIVersion(t.Context())
		if err != nil || v.HMCName != "six" {
			t.Errorf("%s: %v, %v", host, v, err)
		}
	}
}

func TestConnectErrors(t *testing.T) {
	var seen string
	c := newClient(t, Options{
		Hosts: []string{"127.0.0.1"}, Timeout: 200 * time.Millisecond, OnRequest: func(op, code string) { seen = op + " " + code },
		Dial: func(ctx context.Context, _, _ string) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() },
	})
	_, err := c.QueryAPIVersion(t.Context())
	var e *ConnectError
	if !errors.As(err, &e) || e.Reason != ReasonTimeout || !errors.Is(err, context.DeadlineExceeded) || seen != "query-api-version error" {
		t.Errorf("%v, %s", err, seen)
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.QueryAPIVersion(ctx); !errors.Is(err, context.Canceled) || errors.As(err, &e) && errors.Is(e, context.Canceled) {
		t.Errorf("a caller that gave up: %v", err)
	}

	// An answer that stops in the middle, one that never comes, one that does not end.
	hang := make(chan struct{})
	defer close(hang)
	for name, tc := range map[string]struct {
		answer string
		reason string
	}{
		"half a body":    {"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", ReasonTimeout},
		"cut body":       {"HTTP/1.1 200 OK\r\nContent-Length: 100\r\nConnection: close\r\n\r\n{", ReasonOther},
		"half a header":  {"HTTP/1.1 200 OK\r\nContent-", ReasonTimeout},
		"no HTTP":        {"SSH-2.0-OpenSSH\r\n\r\n", ReasonOther},
		"endless header": {"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 1<<20), ReasonOther},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			timeout := time.Minute
			if tc.reason == ReasonTimeout {
				timeout = 300 * time.Millisecond
			}
			w := startWire(t, "127.0.0.1:0", func(int, request) string { return tc.answer })
			_, err := w.client(Options{Timeout: timeout}).QueryAPIVersion(t.Context())
			var e *ConnectError
			if !errors.As(err, &e) || e.Reason != tc.reason {
				t.Errorf("%v", err)
			}
		})
	}
	w := startWire(t, "127.0.0.1:0", func(int, request) string {
		return "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + strings.Repeat(" ", maxAnswer+10)
	})
	_, err = w.client(Options{}).QueryAPIVersion(t.Context())
	var answer *AnswerError
	if !errors.As(err, &answer) || !strings.Contains(err.Error(), "longer than 32 MiB") {
		t.Errorf("an endless answer: %v", err)
	}
}

// At most two requests are in flight; a logoff passes.
func TestInFlight(t *testing.T) {
	release := make(chan struct{})
	var current, highest atomic.Int32
	arrived := make(chan struct{}, 10)
	w := startWire(t, "127.0.0.1:0", func(_ int, r request) string {
		if strings.HasPrefix(r.line, "DELETE") {
			return noContent
		}
		n := current.Add(1)
		for h := highest.Load(); n > h && !highest.CompareAndSwap(h, n); h = highest.Load() {
		}
		arrived <- struct{}{}
		<-release
		current.Add(-1)
		return jsonAnswer(200, `{"topics":[]}`)
	})
	c := w.client(Options{})
	s := c.Resume("a", "b")
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			if err := s.Ping(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	<-arrived
	<-arrived
	if err := c.Resume("c", "d").Logoff(t.Context()); err != nil {
		t.Error(err)
	}
	close(release)
	wg.Wait()
	if highest.Load() != maxInFlight {
		t.Errorf("%d requests in flight", highest.Load())
	}
}

// However requests come, no minute has more of them than the budget, also where some of them do not wait behind the others: each
// of those passes at once unless there are many.
func TestBudget(t *testing.T) {
	for _, perMinute := range []int{2, 5, 6, 10, 60, 600} {
		synctest.Test(t, func(t *testing.T) {
			c := &Client{slots: make(chan struct{}, maxInFlight), pressing: make(chan struct{}, 1)}
			c.budget, c.ordinary = newBudget(perMinute)
			var times []time.Time
			for i := range 4 * perMinute {
				if i == 2*perMinute {
					time.Sleep(10 * time.Minute) // the budget fills up
				}
				if err := c.wait(t.Context(), c.slots); err != nil {
					t.Fatal(err)
				}
				<-c.slots
				times = append(times, time.Now())
				if perMinute < 12 || i%20 != 3 {
					continue
				}
				if err := c.wait(t.Context(), c.pressing); err != nil {
					t.Fatal(err)
				}
				<-c.pressing
				if waited := time.Since(times[len(times)-1]); waited > 0 {
					t.Errorf("%d a minute: one that cannot wait has waited for %v", perMinute, waited)
				}
				times = append(times, time.Now())
			}
			busiest := 0
			for i := range times {
				n := 0
				for j := i; j < len(times) && times[j].Sub(times[i]) < time.Minute; j++ {
					n++
				}
				busiest = max(busiest, n)
			}
			if busiest > perMinute {
				t.Errorf("%d requests in a minute, the budget is %d", busiest, perMinute)
			}
			if idle := times[len(times)-1].Sub(times[0]); idle > 10*time.Minute+time.Duration(4*float64(time.Minute)*1.3) && perMinute > 5 {
				t.Errorf("%d requests took %v", len(times), idle)
			}
		})
	}
	if all, ordinary := newBudget(0); all != nil || ordinary != nil {
		t.Error("0 is not no budget")
	}
}

func TestBudgetWaits(t *testing.T) {
	w := startWire(t, "127.0.0.1:0", func(_ int, r request) string {
		if strings.HasPrefix(r.line, "DELETE") {
			return noContent
		}
		return jsonAnswer(200, `{"topics":[]}`)
	})
	s := w.client(Options{RequestsPerMinute: 6}).Resume("a", "b")
	if err := s.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := s.Ping(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "budget of 6 requests per minute") {
		t.Errorf("beyond the budget: %v", err)
	}
	canceled, cancel2 := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel2)
	if err := s.Ping(canceled); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller that gave up: %v", err)
	}
	if err := s.Logoff(t.Context()); err != nil {
		t.Errorf("the logoff must pass: %v", err)
	}
	if len(w.seen()) != 2 {
		t.Errorf("%d requests", len(w.seen()))
	}
}

func TestNewRefuses(t *testing.T) {
	for name, opts := range map[string]Options{
		"no hosts":   {},
		"empty host": {Hosts: []string{""}},
		"brackets":   {Hosts: []string{"[::1]"}},
		"url":        {Hosts: []string{"https://h"}},
		"port":       {Hosts: []string{"h:6794"}},
		"userinfo":   {Hosts: []string{"u@h"}},
		"port range": {Hosts: []string{"h"}, Port: 70000},
		"budget":     {Hosts: []string{"h"}, RequestsPerMinute: -1},
		"timeout":    {Hosts: []string{"h"}, Timeout: -1},
	} {
		if _, err := New(opts); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	if c := newClient(t, Options{Hosts: []string{"h", "10.0.0.1", "::1", "fe80::1%eth0"}}); c.opts.Port != DefaultPort || c.PeerCertificates() != nil {
		t.Error("defaults")
	}
}

// Neither the log at debug level nor a printed session shows a secret.
func TestNoSecretsInLogs(t *testing.T) {
	var lines output.Buffer
	w := startWire(t, "127.0.0.1:0", func(n int, r request) string {
		switch {
		case strings.HasPrefix(r.line, "POST"):
			return jsonAnswer(200, logonBody)
		case n%2 == 0:
			return jsonAnswer(500, errorBody(500, 1, "session "+testToken+" and "+testCredential))
		}
		return ""
	})
	c := w.client(Options{Logger: debugLogger(&lines)})
	s, err := c.Logon(t.Context(), "u", testPassword)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for range 3 {
		fmt.Fprintln(&out, s.Ping(t.Context()), s.Logoff(t.Context()))
	}
	type holder struct{ Session *Session }
	for _, v := range []any{s, *s, holder{s}, &holder{s}, []*Session{s}} {
		fmt.Fprintf(&out, "%v %+v %#v %s %q %x %d\n", v, v, v, v, v, v, v)
		debugLogger(&lines).Info("x", "v", v)
		slog.New(slog.NewJSONHandler(&lines, nil)).Info("x", "v", v)
	}
	out.WriteString(lines.String())
	for _, secret := range []string{testPassword, testToken, testCredential, strconv.Quote(testPassword), fmt.Sprintf("%x", testToken)} {
		if strings.Contains(out.String(), secret) {
			t.Errorf("%q is printed:\n%s", secret, out.String())
		}
	}
	if strings.Count(lines.String(), "msg=request ") < 7 || fmt.Sprint(s) != "session on 127.0.0.1" {
		t.Error("nothing was printed")
	}
}

// The odd answers to the operations that list what an HMC holds.
func TestLists(t *testing.T) {
	for _, test := range []struct {
		name, answer string
		want         []string
		problem      string
	}{
		{name: "documented", answer: jsonAnswer(200, `{"os-messages": [ {"a": 1}, {"b":[2]} ], "@@implementation-errors": "x"}`), want: []string{`{"a": 1}`, `{"b":[2]}`}},
		{name: "a bare array", answer: jsonAnswer(200, `[{"a":1}]`), want: []string{`{"a":1}`}},
		{name: "no messages", answer: jsonAnswer(200, `{"os-messages":[]}`)},
		{name: "no content, seen on a real HMC", answer: "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"},
		{name: "white space only", answer: jsonAnswer(200, " \n")},
		{name: "cut off within the JSON", answer: jsonAnswer(200, `{"os-messages":[{"a":1}`), problem: "not the JSON"},
		{name: "cut off by the network before all content", answer: "HTTP/1.1 200 OK\r\nContent-Length: 100\r\nConnection: close\r\n\r\n", problem: "EOF"},
		{name: "cut off by the network between chunks", answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\n[]\r\n", problem: "EOF"},
		{name: "cut off by the network", answer: "HTTP/1.1 200 OK\r\nContent-Length: 100\r\nConnection: close\r\n\r\n[{\"a\":1},", problem: "EOF"},
		{name: "an inconsistency of the HMC's own", answer: jsonAnswer(200, `{"@@implementation-errors":[{"x":1}],"os-messages":[{"a":1}]}`), want: []string{`{"a":1}`}},
		{name: "wrapped by another level of the HMC", answer: jsonAnswer(200, `{"count":1,"of-tomorrow":[{"a":"]}\\\""}]}`), want: []string{`{"a":"]}\\\""}`}},
		{name: "two arrays", answer: jsonAnswer(200, `{"a":[],"b":[]}`), problem: "not exactly one array"},
		{name: "no array", answer: jsonAnswer(200, `{"a":1}`), problem: "not exactly one array"},
		{name: "no objects", answer: jsonAnswer(200, `[{"a":1},null]`), problem: "not an object"},
		{name: "no list at all", answer: jsonAnswer(200, `"x"`), problem: "not the JSON"},
		{name: "too long", answer: "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + strings.Repeat(" ", maxAnswer+10), problem: "longer than"},
		{name: "busy", answer: jsonAnswer(503, errorBody(503, 1, "busy")), problem: "503, reason 1: busy"},
		{name: "gone", answer: jsonAnswer(404, errorBody(404, 1, "gone")), problem: "404, reason 1: gone"},
		{name: "redirect", answer: "HTTP/1.1 302 Found\r\nLocation: https://127.0.0.1/\r\nContent-Length: 0\r\n\r\n", problem: "redirected"},
		{name: "HTML with a status of success", answer: jsonAnswer(200, "<html></html>"), problem: "not the JSON"},
		{name: "HTML", answer: "HTTP/1.1 500 x\r\nContent-Type: text/html\r\nContent-Length: 12\r\n\r\n<pre>x</pre>", problem: "500"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := startWire(t, "127.0.0.1:0", func(int, request) string { return test.answer })
			s := w.client(Options{}).Resume(testToken, testCredential)
			for operation, get := range map[string]func() ([][]byte, error){
				"messages": func() ([][]byte, error) { return s.ListOSMessages(t.Context(), "/api/partitions/p1", 7) },
				"log":      func() ([][]byte, error) { return s.GetAuditLog(t.Context(), time.UnixMilli(5), time.UnixMilli(6)) },
			} {
				got, err := get()
				var texts []string
				for _, e := range got {
					texts = append(texts, string(e))
				}
				switch {
				case test.problem == "" && (err != nil || !slices.Equal(texts, test.want)):
					t.Errorf("%s: %q, %v", operation, texts, err)
				case test.problem != "" && (err == nil || !strings.Contains(err.Error(), test.problem)):
					t.Errorf("%s: %v", operation, err)
				}
				if busy := new(BusyError); errors.As(err, &busy) != (test.name == "busy") || IsReason(err, 404, 1) != (test.name == "gone") {
					t.Errorf("%s: %#v", operation, err)
				}
				var answer *AnswerError
				if tooLong := errors.As(err, &answer) && answer.TooLong; tooLong != (test.name == "too long") {
					t.Errorf("%s: too long is %v: %v", operation, tooLong, err)
				}
			}
			lines := w.lines()
			for _, want := range []string{
				"GET /api/partitions/p1/operations/list-os-messages?begin-sequence-number=7",
				"GET /api/console/operations/get-audit-log?begin-time=5&end-time=6",
			} {
				if !slices.Contains(lines, want) {
					t.Errorf("%q is not among %q", want, lines)
				}
			}
		})
	}
}

// Whatever an HMC answers, there is a value or an error, and no secret in it.
func FuzzAnswers(f *testing.F) {
	f.Add(200, "application/json", logonBody)
	f.Add(403, "application/json", errorBody(403, 0, "Login failed"))
	f.Add(500, "text/html", "<pre>javax.servlet.ServletException: Web Services are not enabled.</pre>")
	f.Add(200, "", `{"topics":[{"topic-type":1}]}`)
	f.Add(201, "", `{"api-session":null}`)
	f.Add(409, ";;", `{"reason":"50"}`)
	f.Add(301, "text/plain", "\xff\x00")
	f.Fuzz(func(t *testing.T, status int, contentType, body string) {
		if status < 200 || status > 999 {
			t.Skip()
		}
		for _, into := range []any{new(Version), new(logonAnswer), new(struct{ Topics []Topic }), new(struct{ Partitions []Partition }), new(list), nil} {
			r := &call{operation: "x", method: "GET", uri: "/api/x", into: into, secrets: []string{testToken}, status: status, header: http.Header{"Content-Type": {contentType}}}
			if err := r.read(strings.NewReader(body)); err != nil {
				t.Fatal(err)
			}
			err := r.interpret()
			var answer *AnswerError
			var httpErr *HTTPError
			if err != nil && !errors.As(err, &answer) && !errors.As(err, &httpErr) || err == nil && status/100 != 2 {
				t.Fatalf("%#v", err)
			}
			if err != nil && (strings.Contains(err.Error(), testToken) || strings.ContainsAny(err.Error(), "\n\r\x00") || len(err.Error()) > 4*maxMessage+200) {
				t.Fatalf("%q", err)
			}
		}
	})
}

// debugLogger writes everything to w, a line each.
func debugLogger(w io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}
