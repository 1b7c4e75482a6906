package web_test

import (
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/web"
)

// changes are all requests that change something.
func changes() []string {
	return []string{
		"DELETE /api/v1/dead-letters?sink=nobody", "POST /api/v1/dead-letters/replay?sink=nobody", "DELETE /api/v1/removed-sinks/nobody",
		"POST /api/v1/sinks/nobody/test", "POST /api/v1/sinks/nobody/replay?since=1h", "GET /debug/pprof/cmdline", "GET /debug/pprof/",
	}
}

// What changes something is for the machine itself, unless whoever runs it says otherwise.
func TestWhoMayChange(t *testing.T) {
	const remote, local = "192.0.2.7:4711", "127.0.0.1:4711"
	for name, test := range map[string]struct {
		from, host, header string
		admin, known       bool
		allowed            bool
	}{
		"another machine":                     {from: remote, host: "hmc-bridge:10291"},
		"another machine that says it is not": {from: remote, host: "localhost:10291"},
		"the machine itself":                  {from: local, host: "localhost:10291", allowed: true},
		"over IPv6":                           {from: "[::1]:4711", host: "[::1]:10291", allowed: true},
		"without a port":                      {from: local, host: "LOCALHOST", allowed: true},
		"another loopback address":            {from: "127.0.0.2:4711", host: "127.1.2.3:1", allowed: true},
		"IPv4 in IPv6":                        {from: "[::ffff:127.0.0.1]:4711", host: "127.0.0.1", allowed: true},
		"DNS rebinding":                       {from: local, host: "evil.example:10291"},
		"a name that looks like it":           {from: local, host: "localhost.evil.example"},
		"no host":                             {from: local, host: ""},
		"a proxy on the machine":              {from: local, host: "localhost:10291", header: "X-Forwarded-For"},
		"a proxy by the book":                 {from: local, host: "localhost:10291", header: "Forwarded"},
		"a proxy of another kind":             {from: local, host: "localhost:10291", header: "X-Forwarded-Proto"},
		"with the flag":                       {from: remote, host: "hmc-bridge:10291", admin: true, allowed: true},
		"authenticated":                       {from: remote, host: "hmc-bridge:10291", known: true, allowed: true},
		"authenticated by a proxy's client":   {from: local, host: "localhost:10291", header: "X-Forwarded-For", known: true, allowed: true},
	} {
		t.Run(name, func(t *testing.T) {
			s := startWithBridge(t, func(o *web.Options) {
				o.EnableAdminAPI, o.EnablePprof = test.admin, true
			})
			handler := s.Config.Handler
			if test.known {
				handler = protected(t, "basic_auth_users: {ops: "+hashed(t, "secret")+"}").Handler(handler)
			}
			for _, change := range changes() {
				method, path, _ := strings.Cut(change, " ")
				r, w := httptest.NewRequestWithContext(t.Context(), method, path, http.NoBody), httptest.NewRecorder()
				r.RemoteAddr, r.Host = test.from, test.host
				if test.header != "" {
					r.Header.Set(test.header, "x")
				}
				r.SetBasicAuth("ops", "secret") // which means nothing where nobody asks for it
				handler.ServeHTTP(w, r)
				if body := w.Body.String(); (w.Code != http.StatusForbidden) != test.allowed {
					t.Errorf("%s: %d %s", change, w.Code, body)
				} else if !test.allowed && (!strings.Contains(body, "--web.enable-admin-api") || strings.Count(body, "\n") > 3) {
					t.Errorf("%s: it does not say why in one line: %s", change, body)
				}
			}
			// What only looks, and a reload of what the owner of the machine has written, are for all.
			for _, look := range []string{"GET /", "GET /metrics", "GET /api/v1/status", "GET /api/v1/dead-letters", "POST /-/reload"} {
				method, path, _ := strings.Cut(look, " ")
				r, w := httptest.NewRequestWithContext(t.Context(), method, path, http.NoBody), httptest.NewRecorder()
				r.RemoteAddr, r.Host = test.from, test.host
				s.Config.Handler.ServeHTTP(w, r)
				if w.Code != http.StatusOK {
					t.Errorf("%s: %d %s", look, w.Code, w.Body)
				}
			}
		})
	}
}

// A page whose name was made to resolve to this machine reads nothing of a loopback listener.
func TestRebinding(t *testing.T) {
	s := startWithBridge(t)
	loopback, any := listener(t, "127.0.0.1:0"), listener(t, "[::]:0")
	for _, test := range []struct {
		of   net.Listener
		host string
		want int
	}{
		{loopback, "evil.example", 421},
		{loopback, "evil.example:10291", 421},
		{loopback, "10.1.2.3", 421},
		{loopback, "localhost.evil.example", 421},
		{loopback, "127.0.0.1.evil.example:80", 421},
		{loopback, "localhost", 200},
		{loopback, "localhost.:10291", 200},
		{loopback, "127.0.0.1:10291", 200},
		{loopback, "[::1]:10291", 200},
		{loopback, "", 200}, // no browser
		{any, "evil.example", 200},
		{any, "10.1.2.3", 200},
	} {
		for _, path := range []string{"/", "/-/healthy", "/metrics", "/api/v1/status", "/api/v1/dead-letters"} {
			r, w := httptest.NewRequestWithContext(web.BaseContext(test.of), http.MethodGet, path, http.NoBody), httptest.NewRecorder()
			r.Host = test.host
			s.Config.Handler.ServeHTTP(w, r)
			if w.Code != test.want {
				t.Errorf("%s of %s at %v: %d, not %d", path, test.host, test.of.Addr(), w.Code, test.want)
			}
		}
	}
}

func listener(t *testing.T, addr string) net.Listener {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// More changes than people make are refused, and so are more reloads.
func TestChangesArePaced(t *testing.T) {
	s := startWithBridge(t)
	for _, path := range []string{"DELETE /api/v1/dead-letters?all=true", "POST /-/reload"} {
		method, path, _ := strings.Cut(path, " ")
		refused, header := 0, http.Header(nil)
		for range 1000 {
			if status, h := s.send(t, method, path, nil); status == http.StatusTooManyRequests {
				refused++
				header = h
			} else if status != http.StatusOK {
				t.Fatalf("%s: %d", path, status)
			}
		}
		if refused < 500 || header.Get("Retry-After") == "" {
			t.Errorf("%s: %d of 1000 were refused, %v", path, refused, header)
		}
		if path == "/-/reload" && s.reloads+refused != 1000 {
			t.Errorf("%d reloads", s.reloads)
		}
	}
}
