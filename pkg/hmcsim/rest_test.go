package hmcsim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestLogonTopicsLogoff(t *testing.T) {
	h := startHMC(t, Options{})
	c := newRESTClient(t, h)
	if v := c.get("/api/version"); v["hmc-name"] != "HMC1" || v["hmc-version"] != "2.16.0" || v["api-major-version"] != 4.0 {
		t.Errorf("version %v", v)
	}
	c.fails(http.MethodGet, "/api/sessions/operations/get-notification-topics", nil, 403, 4)
	c.fails(http.MethodPost, "/api/sessions", map[string]any{"userid": "hmcuser", "password": "x"}, 403, 0)
	on := c.logon()
	for _, key := range []string{"api-session", "session-credential", "notification-topic", "job-notification-topic", "password-expires", "api-major-version", "api-minor-version"} {
		if on[key] == nil {
			t.Errorf("logon without %s", key)
		}
	}
	if len(c.token) != 50 || c.token == on["session-credential"] {
		t.Errorf("logon %v", on)
	}
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
	if n := h.RESTRequests()["get-notification-topics"]; n != 3 {
		t.Errorf("%d requests", n)
	}
	if n := h.BusiestMinute(); n != 7 || len(h.Calls()) != 7 {
		t.Errorf("%d requests within a minute, %d calls", n, len(h.Calls()))
	}
	last := h.Calls()[6]
	if last.Operation != "get-notification-topics" || last.Status != 403 || last.Reason != 5 || last.Session != 0 {
		t.Errorf("last call %+v", last)
	}
	if per := h.RequestsPerMinute(); len(per) == 0 || per[0]+per[len(per)-1] < 7 {
		t.Errorf("requests per minute %v", per)
	}
}

func TestLogonRefused(t *testing.T) {
	const good = `{"userid":"hmcuser","password":"hmcpass"}`
	for name, test := range map[string]struct {
		opts           Options
		body           string
		before         int // logons that work
		status, reason int
	}{
		"wrong password":    {Options{}, `{"userid":"hmcuser","password":"x"}`, 0, 403, 0},
		"unknown user":      {Options{}, `{"userid":"x","password":"hmcpass"}`, 0, 403, 0},
		"no body":           {Options{}, "", 0, 400, 3},
		"no JSON":           {Options{}, `{"userid"`, 0, 400, 9},
		"no object":         {Options{}, `[1]`, 0, 400, 9},
		"field missing":     {Options{}, `{"userid":"hmcuser"}`, 0, 400, 5},
		"field unknown":     {Options{}, `{"userid":"hmcuser","password":"hmcpass","x":1}`, 0, 400, 6},
		"field of type":     {Options{}, `{"userid":"hmcuser","password":1}`, 0, 400, 7},
		"too many sessions": {Options{MaxSessions: 2}, good, 2, 400, 13},
		"MFA, 50":           {Options{MFA: true, MFAReason: 50}, good, 0, 409, 50},
		"MFA, 51":           {Options{MFA: true, MFAReason: 51}, good, 0, 409, 51},
	} {
		t.Run(name, func(t *testing.T) {
			h := startHMC(t, test.opts)
			c := newRESTClient(t, h)
			for range test.before {
				c.logon()
			}
			_, v := c.do(http.MethodPost, "/api/sessions", test.body)
			c.fails(http.MethodPost, "/api/sessions", test.body, test.status, test.reason)
			if test.status == 403 && !strings.HasPrefix(fmt.Sprint(v.(map[string]any)["message"]), "Login failed. Try the operation again.") {
				t.Errorf("%v", v)
			}
			if h.Sessions() != test.before {
				t.Errorf("%d sessions", h.Sessions())
			}
		})
	}
}

// A userid is disabled by too many refused logons, and its right password does not help any more.
func TestLogonDisables(t *testing.T) {
	h := startHMC(t, Options{DisableAfter: 2})
	c := newRESTClient(t, h)
	wrong, right := `{"userid":"hmcuser","password":"x"}`, `{"userid":"hmcuser","password":"hmcpass"}`
	c.fails(http.MethodPost, "/api/sessions", wrong, 403, 0)
	c.logon()
	c.fails(http.MethodPost, "/api/sessions", wrong, 403, 0)
	if h.Disabled("hmcuser") {
		t.Error("disabled, though a logon was between")
	}
	c.fails(http.MethodPost, "/api/sessions", wrong, 403, 0)
	c.fails(http.MethodPost, "/api/sessions", right, 403, 0)
	if !h.Disabled("hmcuser") {
		t.Error("not disabled")
	}
	h.SetPassword("hmcuser", "hmcpass")
	c.logon()
}

// How long a password lives is told by each logon; one that has expired is refused in one of two ways.
func TestPasswordExpires(t *testing.T) {
	for _, asWrong := range []bool{false, true} {
		h := startHMC(t, Options{ExpiredIsWrong: asWrong})
		c := newRESTClient(t, h)
		const body = `{"userid":"hmcuser","password":"hmcpass"}`
		days := func() any {
			_, v := c.do(http.MethodPost, "/api/sessions", body)
			return v.(map[string]any)["password-expires"]
		}
		if d := days(); d != float64(-1) {
			t.Errorf("expires in %v days", d)
		}
		h.SetPasswordExpires("hmcuser", 2)
		if d := days(); d != float64(2) {
			t.Errorf("expires in %v days", d)
		}
		h.ExpirePassword("hmcuser")
		if asWrong {
			c.fails(http.MethodPost, "/api/sessions", body, 403, 0)
		} else {
			c.fails(http.MethodPost, "/api/sessions", body, 400, 45)
		}
		c.fails(http.MethodPost, "/api/sessions", `{"userid":"hmcuser","password":"x"}`, 403, 0)
		h.SetPassword("hmcuser", "hmcpass")
		if d := days(); d != float64(-1) {
			t.Errorf("a new password expires in %v days", d)
		}
	}
}

func TestMFA(t *testing.T) {
	h := startHMC(t, Options{MFA: true})
	c := newRESTClient(t, h)
	status, v := c.do(http.MethodPost, "/api/sessions", `{"userid":"hmcuser","password":"hmcpass"}`)
	if status != 201 {
		t.Fatalf("%d %v", status, v)
	}
	c.token, _ = v.(map[string]any)["api-session"].(string)
	c.fails(http.MethodGet, "/api/console", nil, 403, 5)
	if h.authenticate("hmcuser", "hmcpass") {
		t.Error("the broker takes the password")
	}
	if status, _ := c.do(http.MethodDelete, "/api/sessions/this-session", nil); status != 204 || h.Sessions() != 0 {
		t.Errorf("logoff: %d, %d sessions", status, h.Sessions())
	}
	s, err := h.NewSession("hmcuser")
	if err != nil {
		t.Fatal(err)
	}
	c.token = s.SessionID
	c.get("/api/console")
	if !h.authenticate(s.SessionID, s.Credential) || h.authenticate(s.SessionID, "x") {
		t.Error("the broker and session credentials")
	}
	if _, err := h.NewSession("nobody"); err == nil {
		t.Error("session of an unknown user")
	}
	if infos := h.SessionInfos(); len(infos) != 1 || infos[0].SessionID != s.SessionID || len(infos[0].Topics) != 4 {
		t.Errorf("%+v", infos)
	}
}

func TestHTTP(t *testing.T) {
	h := startHMC(t, Options{})
	c := newRESTClient(t, h)
	status, head, body := c.raw(http.MethodGet, "/api/console?x=1", nil)
	if status != 403 {
		t.Error(status)
	}
	for name, want := range map[string]string{
		"Server": "Hardware management console API web server / 2.0", "Cache-Control": "no-cache",
		"Content-Type": "application/json;charset=utf-8", "X-Content-Type-Options": "nosniff", "Keep-Alive": "timeout=20",
	} {
		if head.Get(name) != want {
			t.Errorf("%s: %q, want %q", name, head.Get(name), want)
		}
	}
	if !strings.HasPrefix(head.Get("X-Request-Id"), "Sx") {
		t.Errorf("request id %q", head.Get("X-Request-Id"))
	}
	var e map[string]any
	if err := json.Unmarshal(body, &e); err != nil || e["request-method"] != "GET" || e["request-uri"] != "/api/console?x=1" {
		t.Errorf("%s, %v", body, err)
	}
	c.logon()
	c.fails(http.MethodGet, "/api/nothing", nil, 404, 1)
	c.fails(http.MethodPut, "/api/console", nil, 405, 0)
	c.fails(http.MethodGet, "/api/cpcs?color=red", nil, 400, 1)
	c.fails(http.MethodGet, "/api/cpcs?name=[", nil, 400, 14)
	c.fails(http.MethodGet, "/api/cpcs?name=%zz", nil, 400, 14)
	c.fails(http.MethodPost, "/api/sessions", strings.Repeat(" ", maxRequestBody+1), 413, 0)

	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, h.URL()+"/api/version", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "text/html")
	resp, err := c.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != 406 {
		t.Errorf("Accept: %d", resp.StatusCode)
	}
	if !slices.Contains(Operations(), "open-os-message-channel") || !slices.IsSorted(Operations()) {
		t.Errorf("operations %q", Operations())
	}
}

// HTTP/2 is spoken to those who ask for it.
func TestHTTP2(t *testing.T) {
	h := startHMC(t, Options{})
	tr := &http.Transport{TLSClientConfig: h.CA().ClientTLS(), ForceAttemptHTTP2: true}
	defer tr.CloseIdleConnections()
	c := newRESTClient(t, h)
	c.http.Transport = tr
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, h.URL()+"/api/version", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.ProtoMajor != 2 || resp.StatusCode != 200 {
		t.Errorf("%s %d", resp.Proto, resp.StatusCode)
	}
}

// An idle connection is closed, as real HMCs do.
func TestHTTPIdle(t *testing.T) {
	t.Parallel()
	h := startHMC(t, Options{HTTPIdleTimeout: 50 * time.Millisecond})
	c := newRESTClient(t, h)
	c.get("/api/version")
	time.Sleep(200 * time.Millisecond)
	c.get("/api/version") // Go's client tries again on a connection that has gone
}

func TestExpireSessions(t *testing.T) {
	h := startHMC(t, Options{})
	c := newRESTClient(t, h)
	c.logon()
	c.logon()
	if n := h.ExpireSessions(false); n != 2 || h.Sessions() != 0 || h.ExpiredSessions() != 2 {
		t.Errorf("%d, %d left", n, h.Sessions())
	}
	c.fails(http.MethodGet, "/api/console", nil, 403, 5)
}

func TestRESTFaults(t *testing.T) {
	h := startHMC(t, Options{RESTFaults: []RESTFault{{Kind: RESTFaultDisabled, Times: 1}}})
	c := newRESTClient(t, h)
	status, head, body := c.raw(http.MethodGet, "/api/version", nil)
	if status != 500 || !strings.HasPrefix(head.Get("Content-Type"), "text/html") || !bytes.Contains(body, []byte("javax.servlet.ServletException: Web Services are not enabled.")) {
		t.Errorf("%d %s", status, body)
	}
	c.get("/api/version") // once only
	h.FaultREST(
		RESTFault{Kind: RESTFaultBusy, Operation: "logon", Times: 2},
		RESTFault{Kind: RESTFaultStatus, Status: 400, Reason: 13, Message: "x", Operation: "get-console-properties", Times: 1},
		RESTFault{Kind: RESTFaultSlow, Delay: 50 * time.Millisecond, Times: 1},
	)
	for range 2 {
		c.fails(http.MethodPost, "/api/sessions", nil, 503, 0)
	}
	start := time.Now()
	c.logon()
	if d := time.Since(start); d < 50*time.Millisecond {
		t.Errorf("answered after %s", d)
	}
	c.fails(http.MethodGet, "/api/console", nil, 400, 13)
	c.get("/api/console")

	h.FaultREST(RESTFault{Kind: RESTFaultGarbage, Times: 1})
	if status, _, body := c.raw(http.MethodGet, "/api/version", nil); status != 200 || json.Valid(body) {
		t.Errorf("%d %s", status, body)
	}
	try := func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.URL()+"/api/sessions", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.http.Do(req)
		if err != nil {
			return err
		}
		defer func() { _ = resp.Body.Close() }()
		_, err = io.ReadAll(resp.Body)
		return err
	}
	h.FaultREST(RESTFault{Kind: RESTFaultDrop, Times: 1})
	if err := try(t.Context()); !errors.Is(err, io.EOF) {
		t.Errorf("drop: %v", err)
	}
	h.FaultREST(RESTFault{Kind: RESTFaultTruncate, Times: 1})
	if err := try(t.Context()); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("truncate: %v", err)
	}
	h.FaultREST(RESTFault{Kind: RESTFaultHang})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := try(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("hang: %v", err)
	}
	done := make(chan error, 1)
	go func() { done <- try(context.Background()) }()
	eventually(t, "the hanging request", func() bool { return h.RESTRequests()["logon"] >= 5 })
	h.Stop() // ends what hangs
	if err := <-done; err == nil {
		t.Error("answered")
	}
	h.ClearRESTFaults()
	if err := h.Resume(); err != nil {
		t.Fatal(err)
	}
	c.get("/api/version")
}

func TestRestart(t *testing.T) {
	h := startHMC(t, Options{StepDelay: time.Millisecond})
	c := newRESTClient(t, h)
	on := c.logon()
	rest, stomp := h.RESTAddr(), h.StompAddr()
	h.Stop()
	for _, addr := range []string{rest, stomp} {
		var d net.Dialer
		if conn, err := d.DialContext(t.Context(), "tcp", addr); err == nil {
			_ = conn.Close()
			t.Errorf("%s accepts", addr)
		}
	}
	if err := h.RenamePartition("PART1", "RENAMED"); err != nil { // unseen
		t.Error(err)
	}
	if err := h.Resume(); err != nil {
		t.Fatal(err)
	}
	if h.RESTAddr() != rest || h.StompAddr() != stomp {
		t.Errorf("%s %s, was %s %s", h.RESTAddr(), h.StompAddr(), rest, stomp)
	}
	c.fails(http.MethodGet, "/api/console", nil, 403, 5)
	again := c.logon()
	if again["notification-topic"] == on["notification-topic"] {
		t.Errorf("topic %v twice", again["notification-topic"])
	}
	if _, err := h.Partition("RENAMED"); err != nil {
		t.Error(err)
	}
	// The inventory is told again: everything is "added".
	eventually(t, "inventory", func() bool { return h.Published()[typeInventoryChange] == 2+8 })
	if err := h.Restart(0); err != nil {
		t.Error(err)
	}
	c.get("/api/version")
}

func TestObjects(t *testing.T) {
	h := startHMC(t, Options{CPCs: 4, Partitions: 16})
	c := newRESTClient(t, h)
	c.logon()
	names := func(uri, key string) string {
		t.Helper()
		var all []string
		entries, _ := c.get(uri)[key].([]any)
		for _, e := range entries {
			all = append(all, fmt.Sprint(e.(map[string]any)["name"]))
		}
		return strings.Join(all, " ")
	}
	cpcs := h.CPCs()
	for uri, want := range map[string]string{
		"/api/cpcs":                                                       "CPC1 M90 CPC2 M91",
		"/api/cpcs?name=M9.":                                              "M90 M91",
		"/api/cpcs?name=CPC1&name=M91":                                    "CPC1 M91",
		"/api/cpcs?name=PC1":                                              "",
		cpcs[0].URI + "/partitions":                                       "PART1 PART2 PART3 PART4",
		cpcs[0].URI + "/partitions?x=y":                                   "",
		cpcs[1].URI + "/partitions":                                       "",
		cpcs[1].URI + "/logical-partitions?name=LP0%5B12%5D":              "LP01 LP02",
		cpcs[0].URI + "/partitions?status=stopped":                        "PART4",
		"/api/console/operations/list-permitted-partitions?cpc-name=CPC2": "PART1 PART2 PART3 PART4",
		"/api/console/operations/list-permitted-logical-partitions?status=not-activated&cpc-name=M90":       "LP04",
		"/api/console/operations/list-permitted-logical-partitions?status=operating&status=not-activated":   "LP01 LP01 LP02 LP02 LP03 LP03 LP04 LP04",
		"/api/console/operations/list-permitted-partitions?name=PART1&additional-properties=ifl-processors": "PART1 PART1",
		"/api/console/operations/list-permitted-logical-partitions?activation-mode=general&cpc-name=M90":    "LP01 LP03",
		"/api/console/operations/list-permitted-partitions?type=zvm":                                        "",
		"/api/console/operations/list-permitted-partitions?type=linux&name=PART4&status=stopped&status=bad": "PART4 PART4",
	} {
		if strings.Contains(uri, "x=y") {
			c.fails(http.MethodGet, uri, nil, 400, 1)
			continue
		}
		key := "logical-partitions"
		switch {
		case strings.HasPrefix(uri, "/api/cpcs") && !strings.Contains(uri, "artitions"):
			key = "cpcs"
		case strings.Contains(uri, "/partitions") || strings.Contains(uri, "permitted-partitions"):
			key = "partitions"
		}
		if got := names(uri, key); got != want {
			t.Errorf("%s: %q, want %q", uri, got, want)
		}
	}
	part, lpar := h.Partitions()[0], h.Partitions()[1]
	if p := c.get(part.URI); p["class"] != "partition" || p["parent"] != cpcs[0].URI || p["object-id"] != part.ID || p["name"] != "PART1" || p["status"] != "active" {
		t.Errorf("%v", p)
	}
	if p := c.get(lpar.URI + "?properties=name,class"); len(p) != 2 || p["class"] != "logical-partition" || p["name"] != "LP01" {
		t.Errorf("%v", p)
	}
	c.fails(http.MethodGet, lpar.URI+"?properties=color", nil, 400, 14)
	c.fails(http.MethodGet, lpar.URI+"?color=name", nil, 400, 1)
	c.fails(http.MethodGet, part.URI+"?cached-acceptable=true", nil, 400, 1)
	c.get(lpar.URI + "?cached-acceptable=true")
	c.fails(http.MethodGet, cpcs[1].URI+"/logical-partitions?status=operating", nil, 400, 1)
	entries, _ := c.get("/api/console/operations/list-permitted-partitions?name=PART1&cpc-name=CPC1&additional-properties=ifl-processors,parent")["partitions"].([]any)
	e, _ := entries[0].(map[string]any)
	for _, key := range []string{"name", "object-uri", "status", "type", "cpc-name", "cpc-object-uri", "se-version", "has-unacceptable-status", "ifl-processors", "parent"} {
		if _, ok := e[key]; !ok {
			t.Errorf("list without %s: %v", key, e)
		}
	}
	nics, _ := c.get(part.URI)["nic-uris"].([]any)
	if n := c.get(fmt.Sprint(nics[0])); n["class"] != "nic" || n["parent"] != part.URI {
		t.Errorf("%v", n)
	}
	if cp := c.get(cpcs[1].URI); cp["dpm-enabled"] != false || cp["has-hardware-messages"] != false {
		t.Errorf("%v", cp)
	}
	// A DPM partition is no LPAR, and what is not there is not found.
	c.fails(http.MethodGet, "/api/logical-partitions/"+part.ID, nil, 404, 1)
	c.fails(http.MethodGet, "/api/partitions/x", nil, 404, 1)
	c.fails(http.MethodGet, "/api/cpcs/x", nil, 404, 1)
	c.fails(http.MethodGet, "/api/cpcs/x/partitions", nil, 404, 1)
	c.fails(http.MethodGet, part.URI+"/nics/x", nil, 404, 1)
}

// Changes by requests are told before they are answered.
func TestUpdateCreateDelete(t *testing.T) {
	h := startHMC(t, Options{})
	c := newRESTClient(t, h)
	on := c.logon()
	l := listenTo(t, h, fmt.Sprint(on["notification-topic"]))
	part, cpc := h.Partitions()[0], h.CPCs()[0]
	if status, v := c.do(http.MethodPost, part.URI, map[string]any{"name": "NEW", "description": "d", "ifl-processors": 9}); status != 204 {
		t.Fatalf("%d %v", status, v)
	}
	m := l.next(typePropertyChange)
	if got := m.Header.Get("property-names"); got != " description ifl-processors name " {
		t.Errorf("property-names %q", got)
	}
	if !strings.Contains(string(m.Body), `{"property-name":"name","old-value":"PART1","new-value":"NEW"}`) {
		t.Errorf("%s", m.Body)
	}
	if m.Header.Get("name") != "NEW" || c.get(part.URI)["ifl-processors"] != 9.0 {
		t.Errorf("name %q", m.Header.Get("name"))
	}
	if status, _ := c.do(http.MethodPost, part.URI, map[string]any{"name": "NEW"}); status != 204 { // no change, nothing told
		t.Error(status)
	}
	c.fails(http.MethodPost, part.URI, map[string]any{"status": "active"}, 400, 6)
	c.fails(http.MethodPost, part.URI, nil, 400, 3)
	if status, _ := c.do(http.MethodPost, cpc.URI, map[string]any{"description": "d"}); status != 204 {
		t.Error(status)
	}
	if m := l.next(typePropertyChange); m.Header.Get("class") != "cpc" || m.Header.Get("object-uri") != cpc.URI {
		t.Errorf("%v", m.Header)
	}
	status, v := c.do(http.MethodPost, cpc.URI+"/partitions", map[string]any{"name": "P9", "initial-memory": 1024, "maximum-memory": 1024})
	uri := fmt.Sprint(v.(map[string]any)["object-uri"])
	if m := l.next(typeInventoryChange); status != 201 || m.Header.Get("action") != "add" || m.Header.Get("object-uri") != uri || len(m.Body) != 0 {
		t.Errorf("%d %v", status, m)
	}
	c.fails(http.MethodPost, cpc.URI+"/partitions", map[string]any{"name": "P9", "initial-memory": 1024, "maximum-memory": 1024}, 400, 8)
	c.fails(http.MethodPost, cpc.URI+"/partitions", nil, 400, 3)
	c.fails(http.MethodPost, cpc.URI+"/partitions", map[string]any{"name": "P8"}, 400, 5)
	c.fails(http.MethodPost, h.CPCs()[1].URI+"/partitions", map[string]any{"name": "P9", "initial-memory": 1024, "maximum-memory": 1024}, 409, 5)
	c.fails(http.MethodDelete, part.URI, nil, 409, 1) // active
	if status, _ := c.do(http.MethodDelete, uri, nil); status != 204 {
		t.Error(status)
	}
	if m := l.next(typeInventoryChange); m.Header.Get("action") != "remove" {
		t.Errorf("%v", m.Header)
	}
	c.fails(http.MethodGet, uri, nil, 404, 1)
}

func TestOSMessageChannel(t *testing.T) {
	h := startHMC(t, Options{StepDelay: time.Millisecond, OSMessages: 20})
	c := newRESTClient(t, h)
	c.logon()
	part, down := h.Partitions()[0], h.Partitions()[6]
	open := part.URI + "/operations/open-os-message-channel"
	c.fails(http.MethodPost, down.URI+"/operations/open-os-message-channel", nil, 409, 332)
	c.fails(http.MethodPost, "/api/partitions/x/operations/open-os-message-channel", nil, 404, 1)
	c.fails(http.MethodPost, open, `{"x":true}`, 400, 6)
	c.fails(http.MethodPost, open, `{"include-refresh-messages":1}`, 400, 7)
	status, v := c.do(http.MethodPost, open, nil)
	topic := fmt.Sprint(v.(map[string]any)["topic-name"])
	if want := fmt.Sprintf("hmcuser.%d", h.SessionInfos()[0].Nr) + "osm." + strings.ReplaceAll(part.ID, "-", ""); status != 200 || topic != want {
		t.Errorf("%d %s, want %s", status, topic, want)
	}
	c.fails(http.MethodPost, open, nil, 409, 331)
	topics, _ := c.get("/api/sessions/operations/get-notification-topics")["topics"].([]any)
	last, _ := topics[len(topics)-1].(map[string]any)
	if last["topic-type"] != TopicOSMessage || last["topic-name"] != topic || last["object-uri"] != part.URI || last["include-refresh-messages"] != true {
		t.Errorf("%v", last)
	}
	// Another session may have one too.
	other := newRESTClient(t, h)
	other.logon()
	if status, _ := other.do(http.MethodPost, open, `{"include-refresh-messages":false}`); status != 200 {
		t.Error(status)
	}

	// Subscribing replays what is held, flagged, then new ones come.
	held := part.OSMessages
	l := listenTo(t, h, topic)
	var seen []osMessageJSON
	for len(seen) < held {
		seen = append(seen, l.osMessages()...)
	}
	for i, m := range seen {
		if !m.Refresh || m.Sequence != int64(i) {
			t.Errorf("%d: %+v", i, m)
		}
	}
	if n, err := h.OSMessages("PART1", "a", "b\n"); n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if m := l.osMessages(); len(m) != 2 || m[0].Refresh || m[0].Text != "a" || m[1].Text != "b\n" || m[0].Sequence != part.NextOSMessage {
		t.Errorf("%+v", m)
	}
	// Not to a channel without refresh.
	for _, s := range h.SessionInfos() {
		if name := s.Topics[TopicOSMessage][0]; name != topic {
			o := listenTo(t, h, name)
			if _, err := h.OSMessages("CPC1/PART1", "c"); err != nil {
				t.Error(err)
			}
			if m := o.osMessages(); len(m) != 1 || m[0].Text != "c" {
				t.Errorf("%+v", m)
			}
		}
	}
	// A command's echo is a message, and so is its answer.
	l.osMessages()
	if status, v := c.do(http.MethodPost, part.URI+"/operations/send-os-cmd", map[string]any{"operating-system-command-text": "who"}); status != 204 {
		t.Errorf("%d %v", status, v)
	}
	if m := l.osMessages(); m[0].Text != "who" {
		t.Errorf("%+v", m)
	}
	if m := l.osMessages(); !strings.Contains(m[0].Text, "who") {
		t.Errorf("%+v", m)
	}
	c.fails(http.MethodPost, part.URI+"/operations/send-os-cmd", map[string]any{"operating-system-command-text": ""}, 400, 7)
	c.fails(http.MethodPost, part.URI+"/operations/send-os-cmd", map[string]any{"operating-system-command-text": strings.Repeat("x", 201)}, 400, 7)
	c.fails(http.MethodPost, part.URI+"/operations/send-os-cmd", nil, 400, 5)
	c.fails(http.MethodPost, down.URI+"/operations/send-os-cmd", map[string]any{"operating-system-command-text": "x"}, 409, 332)

	// The pull: the same messages without is-refresh; few are held.
	if err := h.SetOSMessageSequence("PART1", 1000); err != nil {
		t.Error(err)
	}
	for i := range 30 {
		if _, err := h.OSMessages("PART1", fmt.Sprint(i)); err != nil {
			t.Error(err)
		}
	}
	listing := func(query string) string {
		t.Helper()
		_, _, raw := c.raw(http.MethodGet, part.URI+"/operations/list-os-messages"+query, nil)
		if bytes.Contains(raw, []byte("is-refresh")) {
			t.Errorf("%s", raw)
		}
		var list struct {
			Messages []osMessageJSON `json:"os-messages"`
		}
		if err := json.Unmarshal(raw, &list); err != nil {
			t.Fatal(err)
		}
		if len(list.Messages) == 0 {
			return ""
		}
		return fmt.Sprint(len(list.Messages), list.Messages[0].Sequence, list.Messages[len(list.Messages)-1].Sequence)
	}
	for query, want := range map[string]string{
		"": "20 1010 1029", "?begin-sequence-number=1028": "2 1028 1029", "?begin-sequence-number=1011&end-sequence-number=1013": "3 1011 1013",
		"?max-messages=4": "4 1010 1013", "?is-held=true": "", "?is-held=false&is-priority=false": "20 1010 1029",
	} {
		if got := listing(query); got != want {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
	}
	c.fails(http.MethodGet, part.URI+"/operations/list-os-messages?max-messages=0", nil, 400, 14)
	c.fails(http.MethodGet, down.URI+"/operations/list-os-messages", nil, 409, 332)
	if status, _ := c.do(http.MethodPost, part.URI+"/operations/delete-os-message", `{"sequence-number":1011}`); status != 204 {
		t.Error(status)
	}
	c.fails(http.MethodPost, part.URI+"/operations/delete-os-message", `{"sequence-number":1011}`, 404, 1)
	c.fails(http.MethodPost, part.URI+"/operations/delete-os-message", nil, 400, 5)
	if got := listing("?begin-sequence-number=1010&end-sequence-number=1012"); got != "2 1010 1012" {
		t.Error(got)
	}
	// The channel ends with its partition.
	if err := h.DeletePartition("PART1"); err != nil {
		t.Error(err)
	}
	if h.Broker().Subscribers(topic) != 0 {
		t.Error("the topic lives on")
	}
}

// With RefreshOnce only the first subscription gets what is held.
func TestRefreshOnce(t *testing.T) {
	for _, once := range []bool{false, true} {
		h := startHMC(t, Options{RefreshOnce: once})
		c := newRESTClient(t, h)
		c.logon()
		_, v := c.do(http.MethodPost, h.Partitions()[0].URI+"/operations/open-os-message-channel", nil)
		topic := fmt.Sprint(v.(map[string]any)["topic-name"])
		if m := listenTo(t, h, topic).osMessages(); !m[0].Refresh {
			t.Errorf("%+v", m)
		}
		l := listenTo(t, h, topic)
		if _, err := h.OSMessages("PART1", "new"); err != nil {
			t.Error(err)
		}
		if m := l.osMessages(); m[0].Refresh == once {
			t.Errorf("once %t: %+v", once, m)
		}
	}
}

// Operations run as jobs: status changes and messages follow, and the session that started one is told of its end.
func TestOperations(t *testing.T) {
	h := startHMC(t, Options{StepDelay: time.Millisecond})
	c := newRESTClient(t, h)
	on := c.logon()
	objects := listenTo(t, h, fmt.Sprint(on["notification-topic"]))
	jobs := listenTo(t, h, fmt.Sprint(on["job-notification-topic"]))
	other := newRESTClient(t, h)
	otherJobs := listenTo(t, h, fmt.Sprint(other.logon()["job-notification-topic"]))

	runs := func(code float64, body any, uri, operation string, statuses ...string) {
		t.Helper()
		status, v := c.do(http.MethodPost, uri+"/operations/"+operation, body)
		if status != 202 {
			t.Fatalf("%s: %d %v", operation, status, v)
		}
		job := fmt.Sprint(v.(map[string]any)["job-uri"])
		for _, want := range statuses {
			if got := objects.statusOf(uri); got != want {
				t.Errorf("%s: %s, want %s", operation, got, want)
			}
		}
		m := jobs.next(typeJobCompletion)
		if m.Header.Get("job-uri") != job || len(m.Body) != 0 {
			t.Errorf("%s: %v, want %s", operation, m.Header, job)
		}
		if j := c.get(job); j["status"] != "complete" || j["job-status-code"] != code || code != 200 && j["job-reason-code"] != 263.0 {
			t.Errorf("%s: %v", operation, j)
		}
		if status, _ := c.do(http.MethodDelete, job, nil); status != 204 {
			t.Error(status)
		}
		c.fails(http.MethodGet, job, nil, 404, 1)
	}
	run := func(uri, operation string, statuses ...string) {
		t.Helper()
		runs(200, nil, uri, operation, statuses...)
	}
	force := map[string]any{"force": true}
	part, lpar := h.Partitions()[0].URI, h.Partitions()[1].URI
	run(part, "stop", "stopping", "stopped")
	c.fails(http.MethodPost, part+"/operations/stop", nil, 409, 1)
	run(part, "start", "starting", "active")
	said := func() any { return h.Partitions()[1].NextOSMessage }
	before := said()
	runs(500, nil, lpar, "deactivate")
	runs(500, nil, lpar, "activate")
	runs(500, nil, lpar, "load")
	runs(500, nil, lpar, "reset-normal")
	runs(200, force, lpar, "deactivate", "not-activated")
	runs(500, force, lpar, "deactivate")
	c.fails(http.MethodPost, lpar+"/operations/load", nil, 409, 0)
	c.fails(http.MethodPost, lpar+"/operations/start", nil, 409, 1)
	run(lpar, "activate", "not-operating")
	if said() != before {
		t.Error("an operating system that is deactivated has written something")
	}
	run(lpar, "load", "operating")
	token := c.get(lpar)["os-ipl-token"]
	if before = said(); token == noToken {
		t.Error("nothing was loaded")
	}
	// What is stopped stands still, and goes on where it was.
	run(lpar, "stop", "not-operating")
	c.fails(http.MethodPost, lpar+"/operations/stop", nil, 409, 1)
	run(lpar, "start", "operating")
	if now := c.get(lpar)["os-ipl-token"]; said() != before || now != token {
		t.Errorf("%v, %v: %v, %v", before, token, said(), now)
	}
	runs(200, force, lpar, "reset-clear", "not-operating")
	c.fails(http.MethodPost, lpar+"/operations/start", nil, 409, 1) // nothing is loaded
	_, _, log := c.raw(http.MethodGet, "/api/console/operations/get-audit-log", nil)
	if !bytes.Contains(log, []byte("Deactivate Logical Partition was performed on LP01 of M90 by user hmcuser")) {
		t.Errorf("%s", log)
	}
	c.fails(http.MethodPost, "/api/partitions/x/operations/start", nil, 404, 1)
	c.fails(http.MethodDelete, "/api/jobs/x", nil, 404, 1)
	c.fails(http.MethodPost, "/api/jobs/x/operations/cancel", nil, 404, 1)
	if n := len(otherJobs.sub.C); n != 0 {
		t.Errorf("%d job notifications for another session", n)
	}
	uris := h.CompleteJobs() // one for each session, the oldest first
	for i, l := range []*listener{jobs, otherJobs} {
		if m := l.next(typeJobCompletion); m.Header.Get("job-uri") != uris[i] {
			t.Errorf("%v, want %s", m.Header, uris[i])
		}
	}
}

func TestJobsRunning(t *testing.T) {
	h := startHMC(t, Options{StepDelay: time.Hour})
	c := newRESTClient(t, h)
	c.logon()
	part := h.Partitions()[0]
	_, v := c.do(http.MethodPost, part.URI+"/operations/stop", nil)
	job := fmt.Sprint(v.(map[string]any)["job-uri"])
	if j := c.get(job); len(j) != 1 || j["status"] != "running" {
		t.Errorf("%v", j)
	}
	c.fails(http.MethodDelete, job, nil, 409, 40)
	c.fails(http.MethodPost, job+"/operations/cancel", nil, 404, 4)
	c.fails(http.MethodPost, part.URI+"/operations/start", nil, 409, 2) // busy
	_, v = c.do(http.MethodPost, h.Partitions()[6].URI+"/operations/start", nil)
	job = fmt.Sprint(v.(map[string]any)["job-uri"])
	if status, _ := c.do(http.MethodPost, job+"/operations/cancel", nil); status != 202 {
		t.Error(status)
	}
	if j := c.get(job); j["status"] != "cancel-pending" {
		t.Errorf("%v", j)
	}
	c.fails(http.MethodPost, job+"/operations/cancel", nil, 409, 42)
	c.fails(http.MethodPost, job[:len(job)-1]+"x/operations/cancel", nil, 404, 1)
}

func TestLogs(t *testing.T) {
	h := startHMC(t, Options{})
	c := newRESTClient(t, h)
	on := c.logon()
	t0 := time.UnixMilli(1_700_000_000_000)
	h.LogEntries("audit",
		LogEntry{Time: t0, EventID: "1", Message: "one"}, LogEntry{Time: t0.Add(time.Second), EventID: "2", Message: `two "{1}" {0}`, User: "u", Items: []string{"a", "b"}})
	get := func(query string) string {
		t.Helper()
		status, v := c.do(http.MethodGet, "/api/console/operations/get-audit-log"+query, nil)
		entries, ok := v.([]any)
		if status != 200 || !ok {
			t.Fatalf("%d %v", status, v)
		}
		var ids []string
		for _, e := range entries {
			ids = append(ids, fmt.Sprint(e.(map[string]any)["event-id"]))
		}
		return strings.Join(ids, " ")
	}
	for query, want := range map[string]string{
		"": "2 1", "?begin-time=1700000000000": "2 1", "?begin-time=1700000000001": "2", "?end-time=1700000000999": "1",
		"?begin-time=1700000001000&end-time=1700000001000": "2", "?begin-time=1700000001001": "",
	} {
		if got := get(query); got != want {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
	}
	c.fails(http.MethodGet, "/api/console/operations/get-audit-log?begin-time=x", nil, 400, 14)
	// The own logon is in the security log: with the session's internal id, not with its secrets.
	_, _, raw := c.raw(http.MethodGet, "/api/console/operations/get-security-log", nil)
	if !bytes.Contains(raw, []byte(h.SessionInfos()[0].InternalID)) || !bytes.Contains(raw, []byte(`"event-id":"1941"`)) {
		t.Errorf("%s", raw)
	}
	for _, secret := range []any{on["api-session"], on["session-credential"], "hmcpass"} {
		if bytes.Contains(raw, []byte(fmt.Sprint(secret))) {
			t.Errorf("secret in %s", raw)
		}
	}
	denied := startHMC(t, Options{NoAuditLog: true, NoSecurityLog: true})
	c = newRESTClient(t, denied)
	c.logon()
	c.fails(http.MethodGet, "/api/console/operations/get-audit-log", nil, 403, 1)
	c.fails(http.MethodGet, "/api/console/operations/get-security-log", nil, 403, 1)
	if topics, _ := c.get("/api/sessions/operations/get-notification-topics")["topics"].([]any); len(topics) != 2 {
		t.Errorf("%v", topics)
	}
}

func TestHardwareMessages(t *testing.T) {
	h := startHMC(t, Options{})
	c := newRESTClient(t, h)
	l := listenTo(t, h, fmt.Sprint(c.logon()["notification-topic"]))
	cpc := h.CPCs()[0]
	for _, base := range []string{cpc.URI, "/api/console"} {
		key := cpc.Name
		if base == "/api/console" {
			key = ""
		}
		var uris []string
		for i := range 2 {
			uri, err := h.AddHardwareMessage(key, fmt.Sprint("problem ", i))
			if err != nil {
				t.Fatal(err)
			}
			uris = append(uris, uri)
		}
		m := l.next(typePropertyChange)
		if m.Header.Get("property-names") != " has-hardware-messages " || m.Header.Get("object-uri") != base ||
			string(m.Body) != `{"change-reports":[{"property-name":"has-hardware-messages","old-value":false,"new-value":true}]}` {
			t.Errorf("%v %s", m.Header, m.Body)
		}
		list, _ := c.get(base + "/hardware-messages")["hardware-messages"].([]any)
		if len(list) != 2 {
			t.Fatalf("%v", list)
		}
		one := c.get(uris[0])
		if one["class"] != "hardware-message" || one["text"] != "problem 0" || one["parent"] != base || one["service-supported"] != true {
			t.Errorf("%v", one)
		}
		if later, _ := c.get(fmt.Sprintf("%s/hardware-messages?begin-time=%d", base, time.Now().Add(time.Hour).UnixMilli()))["hardware-messages"].([]any); len(later) != 0 {
			t.Errorf("%v", later)
		}
		if all, _ := c.get(base)["hardware-messages"].([]any); len(all) != 2 || c.get(base)["has-hardware-messages"] != true {
			t.Errorf("%v", all)
		}
		c.fails(http.MethodGet, base+"/hardware-messages/x", nil, 404, 1)
		c.fails(http.MethodGet, base+"/hardware-messages?begin-time=x", nil, 400, 14)
		if err := h.DeleteHardwareMessages(key); err != nil {
			t.Error(err)
		}
		if m := l.next(typePropertyChange); !strings.Contains(string(m.Body), `"old-value":true,"new-value":false`) {
			t.Errorf("%s", m.Body)
		}
	}
	if h.ForbiddenCalls() != 0 {
		t.Error("forbidden calls")
	}
	// What a monitor must never call works, and is counted.
	var uris []string
	for range 4 {
		uri, err := h.AddHardwareMessage("", "x")
		if err != nil {
			t.Fatal(err)
		}
		uris = append(uris, uri)
	}
	if _, err := h.AddHardwareMessage("nowhere", "x"); err == nil {
		t.Error("no error")
	}
	c.get(uris[0] + "/operations/get-service-information?delete=false")
	for method, uri := range map[string]string{http.MethodDelete: uris[1], http.MethodPost: uris[2] + "/operations/request-service"} {
		if status, v := c.do(method, uri, nil); status != 204 {
			t.Errorf("%d %v", status, v)
		}
	}
	c.fails(http.MethodPost, uris[3]+"/operations/decline-service", nil, 400, 340)
	if h.ForbiddenCalls() != 4 {
		t.Errorf("%d forbidden calls", h.ForbiddenCalls())
	}
}
