package hmcsim

import (
	"net/http"
	"testing"
)

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
