package hostile_test

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/daemon"
	"github.com/hmcnotifyd/hmcnotifyd/tests/soak"
)

// refusing is the configuration of a simulated HMC and of a sink that refuses all, so that there are dead letters.
func refusing(t *testing.T) string {
	t.Helper()
	sim := hmctest.Start(t, hmcsim.Options{Name: "east", Rate: 5})
	refuses := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadRequest) }))
	t.Cleanup(refuses.Close)
	return "hmcs:\n" + hmctest.Entry(t, sim, "") + "sinks:\n- {name: ops, webhook: {url: \"" + refuses.URL + "\"}}\n"
}

// Who may change something: nobody whom whoever runs the daemon has not let in, whatever he says of himself.
func TestNobodyElseActs(t *testing.T) {
	soak.Parallel(t)
	cfg := refusing(t)
	client := newClient(t)
	do := func(method, url string, header ...string) int {
		t.Helper()
		h := http.Header{}
		for i := 0; i+1 < len(header); i += 2 {
			h.Set(header[i], header[i+1])
		}
		status, body, err := ask(t.Context(), client, method, url, h)
		if err != nil {
			t.Fatal(err)
		}
		if status == http.StatusForbidden && strings.Count(strings.TrimSpace(body), "\n") > 2 {
			t.Errorf("more than a line: %s", body)
		}
		return status
	}
	const purge, test, replay = "/api/v1/dead-letters?all=true", "/api/v1/sinks/ops/test", "/api/v1/dead-letters/replay?all=true"

	v := start(t, daemon.Options{Config: cfg})
	v.AwaitMetric(t, within, 1, "hmcnotifyd_receiver_connected")
	letters := func() float64 { return v.Metric(t, "hmcnotifyd_sink_dead_letters") }
	v.Process.Await(t, within, func() error {
		if letters() == 0 {
			return errors.New("no dead letters")
		}
		return nil
	})
	for _, header := range [][]string{
		{"Host", "evil.example"},
		{"Host", "evil.example:10291"},
		{"Origin", "http://evil.example"},
		{"Referer", "http://evil.example/x"},
		{"Sec-Fetch-Site", "cross-site"},
		{"X-Forwarded-For", "192.0.2.1"},
		{"Forwarded", "for=192.0.2.1"},
	} {
		for _, r := range [][2]string{{http.MethodDelete, purge}, {http.MethodPost, test}, {http.MethodPost, replay}} {
			before := letters()
			want := http.StatusForbidden
			if header[0] == "Host" {
				want = http.StatusMisdirectedRequest
			}
			if status := do(r[0], v.URL+r[1], header...); status != want {
				t.Errorf("%s %s with %v: %d", r[0], r[1], header, status)
			}
			if letters() < before {
				t.Errorf("%s %s with %v: dead letters are gone", r[0], r[1], header)
			}
		}
	}
	if status := do(http.MethodGet, v.URL+"/api/v1/status", "Host", "evil.example"); status != http.StatusMisdirectedRequest {
		t.Errorf("a page of another name may read: %d", status)
	}
	// The machine itself may, at a pace.
	counts := map[int]int{}
	for range 200 {
		counts[do(http.MethodDelete, v.URL+purge)]++
	}
	if counts[200] < 10 || counts[429] < 50 || counts[200]+counts[429] != 200 {
		t.Errorf("%v", counts)
	}

	other := otherAddress(t)
	for _, flag := range []string{"", "--web.enable-admin-api"} {
		flags := append([]string{"--web.listen-address=" + other + ":0"}, strings.Fields(flag)...)
		d := start(t, daemon.Options{Config: strings.ReplaceAll(idle, "none", "ops"), Flags: flags})
		var address string
		d.Process.Await(t, within, func() error { // it may answer before it says so
			_, rest, _ := strings.Cut(d.Process.Output(), `"addresses":[`)
			addresses, _, ok := strings.Cut(rest, "]")
			if !ok {
				return errors.New("it does not say where it listens")
			}
			_, address, _ = strings.Cut(strings.ReplaceAll(addresses, `"`, ""), ",")
			return nil
		})
		for _, r := range [][2]string{{http.MethodDelete, purge}, {http.MethodPost, test}, {http.MethodPost, replay}} {
			if status := do(r[0], "http://"+address+r[1], "Host", "localhost"); (status == http.StatusForbidden) != (flag == "") {
				t.Errorf("%s %s from another address, %q: %d", r[0], r[1], flag, status)
			}
		}
		if status := do(http.MethodGet, "http://"+address+"/-/healthy"); status != http.StatusOK {
			t.Errorf("/-/healthy: %d", status)
		}
	}
}

// otherAddress is an address of this machine that is none of loopback's.
func otherAddress(t *testing.T) string {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if ip, ok := a.(*net.IPNet); ok && ip.IP.To4() != nil && !ip.IP.IsLoopback() {
			return ip.IP.String()
		}
	}
	t.Skip("this machine has no other address than those of loopback")
	return ""
}
