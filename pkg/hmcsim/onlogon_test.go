package hmcsim

import (
	"net/http"
	"testing"
)

// TestOnLogon shows that the hook has run when a client has its answer, and may ask the HMC.
func TestOnLogon(t *testing.T) {
	var infos []SessionInfo
	var h *HMC
	h = startHMC(t, Options{OnLogon: func(s SessionInfo) {
		infos = append(infos, s)
		if h.Sessions() != 1 {
			t.Errorf("%d sessions", h.Sessions())
		}
	}})
	c := newRESTClient(t, h)
	c.fails(http.MethodPost, "/api/sessions", map[string]any{"userid": "hmcuser", "password": "x"}, 403, 0)
	on := c.logon()
	if len(infos) != 1 || infos[0].SessionID != on["api-session"] || infos[0].Credential != on["session-credential"] ||
		infos[0].User != "hmcuser" || infos[0].Topics[TopicObject][0] != on["notification-topic"] {
		t.Errorf("hook was given %+v, logon was answered %v", infos, on)
	}
}
