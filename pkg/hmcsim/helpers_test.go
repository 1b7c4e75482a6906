package hmcsim

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-stomp/stomp/v3"
)

// quietStomp keeps go-stomp from logging every connection that a test breaks.
type quietStomp struct{}

func (quietStomp) Debugf(string, ...any)   {}
func (quietStomp) Infof(string, ...any)    {}
func (quietStomp) Warningf(string, ...any) {}
func (quietStomp) Errorf(string, ...any)   {}
func (quietStomp) Debug(string)            {}
func (quietStomp) Info(string)             {}
func (quietStomp) Warning(string)          {}
func (quietStomp) Error(string)            {}

// goStomp connects go-stomp's own client to a broker: a counterpart that shares nothing with it but the codec.
func goStomp(t *testing.T, b *Broker, opts ...func(*stomp.Conn) error) (*stomp.Conn, error) {
	t.Helper()
	sc, _, err := goStompOver(t, b, opts...)
	return sc, err
}

// goStompOver returns the connection below the client too.
func goStompOver(t *testing.T, b *Broker, opts ...func(*stomp.Conn) error) (*stomp.Conn, net.Conn, error) {
	t.Helper()
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: time.Minute}, Config: b.CA().ClientTLS()}
	conn, err := d.DialContext(t.Context(), "tcp", b.Addr())
	if err != nil {
		return nil, nil, err
	}
	sc, err := stomp.Connect(conn, append(opts, stomp.ConnOpt.Logger(quietStomp{}))...)
	if err != nil {
		_ = conn.Close()
		return nil, nil, err
	}
	t.Cleanup(func() { _ = conn.Close() })
	return sc, conn, nil
}

// eventually waits until cond holds.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func startBroker(t *testing.T, opts BrokerOptions) *Broker {
	t.Helper()
	b, err := StartBroker(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func receive(t *testing.T, sub *stomp.Subscription) *stomp.Message {
	t.Helper()
	select {
	case m, ok := <-sub.C:
		if !ok {
			t.Fatal("subscription closed")
		}
		return m
	case <-time.After(time.Minute):
		t.Fatal("no message within a minute")
		return nil
	}
}

// wireFrame is a frame as it was on the wire: headers neither unescaped nor in any order.
type wireFrame struct {
	command string
	headers map[string]string
	body    string
	end     string // what follows the NUL
}

// String gives what two brokers must have in common: not their session ids, nor the order of headers, nor the lines
// of a Java stack trace after the first.
func (f wireFrame) String() string {
	var headers []string
	for name, value := range f.headers {
		switch name {
		case "session", "message-id", "timestamp":
			value = "..."
		}
		headers = append(headers, name+":"+value)
	}
	slices.Sort(headers)
	body, _, _ := strings.Cut(f.body, "\n\tat ")
	return fmt.Sprintf("%s %q %q end %q", f.command, headers, body, f.end)
}

// wireClient speaks STOMP byte by byte.
type wireClient struct {
	t    *testing.T
	conn net.Conn
	r    *bufio.Reader
	n    int
}

func newWireClient(t *testing.T, port int) *wireClient {
	t.Helper()
	var d net.Dialer
	conn, err := d.DialContext(t.Context(), "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return &wireClient{t: t, conn: conn, r: bufio.NewReader(conn)}
}

func (c *wireClient) send(s string) {
	c.t.Helper()
	if _, err := c.conn.Write([]byte(s)); err != nil {
		c.t.Logf("write: %v", err) // the broker may have closed; what it said is to be read
	}
}

// frame reads the next frame; false at the end of the connection.
func (c *wireClient) frame() (wireFrame, bool) {
	text, err := c.r.ReadString(0)
	if err != nil {
		if strings.Trim(text, "\n") != "" {
			c.t.Fatalf("%q, then %v", text, err)
		}
		return wireFrame{}, false
	}
	f := wireFrame{headers: make(map[string]string)}
	head, body, _ := strings.Cut(strings.TrimSuffix(strings.TrimLeft(text, "\n"), "\x00"), "\n\n")
	f.body = body
	lines := strings.Split(head, "\n")
	f.command = lines[0]
	for _, line := range lines[1:] {
		name, value, _ := strings.Cut(line, ":")
		f.headers[name] = value
	}
	if b, err := c.r.Peek(1); err == nil && b[0] == '\n' {
		f.end = "\n"
		_, _ = c.r.Discard(1)
	}
	return f, true
}

// untilEOF reads what the broker says until it closes.
func (c *wireClient) untilEOF() []string {
	var all []string
	for {
		f, ok := c.frame()
		if !ok {
			return append(all, "EOF")
		}
		all = append(all, f.String())
	}
}

// messages reads n MESSAGE frames, which may come in any order.
func (c *wireClient) messages(n int) []string {
	var all []string
	for len(all) < n {
		f, ok := c.frame()
		if !ok {
			return append(all, "EOF")
		}
		all = append(all, f.String())
	}
	slices.Sort(all)
	return all
}

// answers reads what the broker says until it has answered a frame sent now, or has closed.
func (c *wireClient) answers() []string {
	c.n++
	mark := fmt.Sprintf("mark-%d", c.n)
	c.send("BEGIN\ntransaction:" + mark + "\nreceipt:" + mark + "\n\n\x00")
	var all []string
	for {
		f, ok := c.frame()
		if !ok {
			return append(all, "EOF")
		}
		if f.headers["receipt-id"] == mark {
			return all
		}
		all = append(all, f.String())
	}
}

const connect11 = "CONNECT\naccept-version:1.1\nlogin:hmcuser\npasscode:hmcpass\n\n\x00"

func connectWith(headers string) string {
	return "CONNECT\n" + headers + "login:hmcuser\npasscode:hmcpass\n\n\x00"
}

func subscribeFrame(id, topic, receipt string) string {
	return "SUBSCRIBE\nid:" + id + "\ndestination:/topic/" + topic + "\nack:auto\nreceipt:" + receipt + "\n\n\x00"
}

// restClient is a plain HTTP client of an HMC's REST interface.
type restClient struct {
	t     *testing.T
	h     *HMC
	http  *http.Client
	token string
}

func newRESTClient(t *testing.T, h *HMC) *restClient {
	t.Helper()
	tr := &http.Transport{TLSClientConfig: h.CA().ClientTLS()}
	t.Cleanup(tr.CloseIdleConnections)
	return &restClient{t: t, h: h, http: &http.Client{Transport: tr, Timeout: time.Minute}}
}

// do makes a request and returns status and decoded body.
func (c *restClient) do(method, uri string, body any) (int, any) {
	c.t.Helper()
	status, _, raw := c.raw(method, uri, body)
	if len(raw) == 0 {
		return status, nil
	}
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		c.t.Fatalf("%s %s: %d %q: %v", method, uri, status, raw, err)
	}
	return status, v
}

func (c *restClient) raw(method, uri string, body any) (int, http.Header, []byte) {
	c.t.Helper()
	var rd io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		rd = strings.NewReader(b)
	default:
		p, err := json.Marshal(body)
		if err != nil {
			c.t.Fatal(err)
		}
		rd = bytes.NewReader(p)
	}
	req, err := http.NewRequestWithContext(context.Background(), method, c.h.URL()+uri, rd)
	if err != nil {
		c.t.Fatal(err)
	}
	if c.token != "" {
		req.Header.Set("X-API-Session", c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, uri, err)
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, uri, err)
	}
	return resp.StatusCode, resp.Header, raw
}

// get makes a GET that must succeed, and returns the JSON object.
func (c *restClient) get(uri string) map[string]any {
	c.t.Helper()
	status, v := c.do(http.MethodGet, uri, nil)
	obj, ok := v.(map[string]any)
	if status != http.StatusOK || !ok {
		c.t.Fatalf("GET %s: %d %v", uri, status, v)
	}
	return obj
}

// fails makes a request that must fail with a status and reason.
func (c *restClient) fails(method, uri string, body any, status, reason int) {
	c.t.Helper()
	got, v := c.do(method, uri, body)
	obj, ok := v.(map[string]any)
	if !ok || got != status || obj["http-status"] != float64(status) || obj["reason"] != float64(reason) {
		c.t.Errorf("%s %s: %d %v, want %d.%d", method, uri, got, v, status, reason)
	}
}

// logon logs on and keeps the session.
func (c *restClient) logon() map[string]any {
	c.t.Helper()
	status, v := c.do(http.MethodPost, "/api/sessions", map[string]any{"userid": "hmcuser", "password": "hmcpass"})
	obj, ok := v.(map[string]any)
	if status != http.StatusOK || !ok {
		c.t.Fatalf("logon: %d %v", status, v)
	}
	c.token, _ = obj["api-session"].(string)
	return obj
}

func startHMC(t *testing.T, opts Options) *HMC {
	t.Helper()
	h, err := Start(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	return h
}

// mustFrame reads the next frame.
func (c *wireClient) mustFrame() wireFrame {
	c.t.Helper()
	f, ok := c.frame()
	if !ok {
		c.t.Fatal("the connection has ended")
	}
	return f
}

// listener is a subscription of one topic by go-stomp's client.
type listener struct {
	t    *testing.T
	sub  *stomp.Subscription
	last string // status change seen
}

// listenTo subscribes to a topic of an HMC.
func listenTo(t *testing.T, h *HMC, topic string) *listener {
	t.Helper()
	s := h.SessionInfos()[0]
	c, conn, err := goStompOver(t, h.Broker(), stomp.ConnOpt.Login(s.SessionID, s.Credential), stomp.ConnOpt.HeartBeat(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	before := h.Broker().Stats().Subscribes
	sub, err := c.Subscribe("/topic/"+topic, stomp.AckAuto)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the subscription", func() bool { return h.Broker().Stats().Subscribes > before })
	t.Cleanup(func() {
		_ = conn.Close()
		for range sub.C { // go-stomp leaves goroutines behind otherwise
		}
	})
	return &listener{t: t, sub: sub}
}

// next waits for the next notification of a type.
func (l *listener) next(kind string) *stomp.Message {
	l.t.Helper()
	for {
		m := receive(l.t, l.sub)
		if m.Err != nil {
			l.t.Fatal(m.Err)
		}
		if m.Header.Get("notification-type") == kind {
			return m
		}
	}
}

// statusOf waits for the next status change of an object, not counting repeats, and returns the new status.
func (l *listener) statusOf(uri string) string {
	l.t.Helper()
	for {
		m := l.next(typeStatusChange)
		if m.Header.Get("object-uri") != uri {
			continue
		}
		var body struct {
			Reports []struct {
				New string `json:"new-status"`
			} `json:"change-reports"`
		}
		if err := json.Unmarshal(m.Body, &body); err != nil {
			l.t.Fatal(err)
		}
		status := body.Reports[0].New
		if key := uri + " " + status; l.last != key {
			l.last = key
			return status
		}
	}
}

// osMessageJSON is an OS message as a client reads it.
type osMessageJSON struct {
	Sequence  int64  `json:"sequence-number"`
	ID        any    `json:"message-id"`
	Text      string `json:"message-text"`
	OSName    any    `json:"os-name"`
	Timestamp int64  `json:"timestamp"`
	Refresh   bool   `json:"is-refresh"`
	Prompt    any    `json:"prompt-text"`
	Held      bool   `json:"is-held"`
}

// osMessages waits for the next OS messages.
func (l *listener) osMessages() []osMessageJSON {
	l.t.Helper()
	var body struct {
		Messages []osMessageJSON `json:"os-messages"`
	}
	if err := json.Unmarshal(l.next(typeOSMessage).Body, &body); err != nil {
		l.t.Fatal(err)
	}
	return body.Messages
}
