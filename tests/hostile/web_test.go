package hostile_test

import (
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/tests/real/daemon"
	"github.com/hmcnotifyd/hmcnotifyd/tests/soak"
)

// Patterns of a few bytes that become hundreds of MiB: one request of 51 kB took 400 MiB, six took
// 2.9 GiB.
func TestPatterns(t *testing.T) {
	soak.Parallel(t)
	v := start(t, daemon.Options{Config: idle})
	client := newClient(t)
	var all sync.WaitGroup
	few := url.QueryEscape("(?i)" + strings.Repeat(`\pL{0,1000}`, 17)) // 191 bytes
	for _, query := range []string{
		"type=" + url.QueryEscape(strings.Repeat(`(?i)\pL{0,1000}`, 2000)), "type=" + few, strings.Repeat("type="+few+"&", 150),
		"hmc=" + few + "&type=" + few + "&severity=" + few, "type=" + strings.Repeat("a{1000}", 28), "type=" + url.QueryEscape(`([^a](\w|\W,)){900}`),
	} {
		for range 10 {
			all.Go(func() {
				switch status, body, err := ask(t.Context(), client, http.MethodGet, v.URL+"/api/v1/events?"+query, nil); {
				case err != nil: // larger than a request may be: it is not even read to its end
					if len(query) < 8<<10 {
						t.Error(err)
					}
				case status == http.StatusServiceUnavailable: // no place
				case status != http.StatusBadRequest && status != http.StatusRequestHeaderFieldsTooLarge:
					t.Errorf("%.40s: %d %s", query, status, body)
				}
			})
		}
	}
	all.Wait()
}

// A page of another site makes no operator's browser read events, and what somebody searches for on the status page comes back
// only in part.
func TestPagesOfOtherSites(t *testing.T) {
	soak.Parallel(t)
	v := start(t, daemon.Options{Config: idle})
	client := newClient(t)
	for name, value := range map[string]string{
		"Sec-Fetch-Site": "cross-site", "Origin": "http://evil.example", "Referer": "http://evil.example/x",
	} {
		status, body, err := ask(t.Context(), client, http.MethodGet, v.URL+"/api/v1/events", http.Header{name: {value}})
		if err != nil || status != http.StatusForbidden {
			t.Errorf("%s: %d %s, %v", name, status, body, err)
		}
	}
	status, body, err := ask(t.Context(), client, http.MethodGet, v.URL+"/?q="+strings.Repeat("y", 20_000), nil)
	if err != nil || status != http.StatusOK || strings.Contains(body, strings.Repeat("y", 201)) {
		t.Errorf("%d, %v: %d bytes", status, err, len(body))
	}
	v.end(t)
}
