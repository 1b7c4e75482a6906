package hmcsim

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

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
	return &restClient{t: t, h: h, http: &http.Client{Transport: tr, Timeout: 20 * time.Second}}
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

func TestLogonTopicsLogoff(t *testing.T) {
	h := startHMC(t, Options{})
	c := newRESTClient(t, h)
	if v := c.get("/api/version"); v["hmc-name"] != "HMC1" {
		t.Errorf("version %v", v)
	}
	c.fails(http.MethodGet, "/api/sessions/operations/get-notification-topics", nil, 403, 4)
	c.fails(http.MethodPost, "/api/sessions", map[string]any{"userid": "hmcuser", "password": "x"}, 403, 0)
	on := c.logon()
	topics, _ := c.get("/api/sessions/operations/get-notification-topics")["topics"].([]any)
	if len(topics) != 4 {
		t.Fatalf("topics %v", topics)
	}
	first, _ := topics[0].(map[string]any)
	if first["topic-type"] != TopicObject || first["topic-name"] != on["notification-topic"] {
		t.Errorf("first topic %v, logon %v", first, on)
	}
	if status, v := c.do(http.MethodDelete, "/api/sessions/this-session", nil); status != 204 || v != nil {
		t.Errorf("logoff: %d %v", status, v)
	}
	c.fails(http.MethodGet, "/api/sessions/operations/get-notification-topics", nil, 403, 5)
	if h.Sessions() != 0 || h.Logons() != 1 || h.RefusedLogons() != 1 || h.Logoffs() != 1 {
		t.Errorf("sessions %d, logons %d, refused %d, logoffs %d", h.Sessions(), h.Logons(), h.RefusedLogons(), h.Logoffs())
	}
}
