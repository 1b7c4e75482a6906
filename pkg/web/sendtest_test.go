package web_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/bridge"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/deliver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/replay"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/web"
)

func TestSendTestPath(t *testing.T) {
	s := &site{Server: httptest.NewServer(web.NewHandler(web.Options{
		Gatherer: prometheus.NewRegistry(),
		SendTest: func(_ context.Context, sink string, report func(deliver.TestStep) error) error {
			switch sink {
			case "nobody":
				return fmt.Errorf("%w: nobody", replay.ErrNoSuchSink)
			case "busy":
				return fmt.Errorf("%w: busy", bridge.ErrNotTested)
			case "broken":
				return errors.New("broken")
			}
			return errors.Join(report(deliver.TestStep{Outcome: deliver.TestBegins, Sink: sink}), report(deliver.TestStep{Outcome: deliver.TestDelivered, Sink: sink}))
		},
	}))}
	t.Cleanup(s.Close)
	for _, test := range []struct {
		method, path string
		status       int
		body         string
	}{
		{http.MethodPost, "/api/v1/sinks/a%2Fb%20c/test", 200, `{"outcome":"begins","sink":"a/b c","event_id":""}` + "\n" + `{"outcome":"delivered","sink":"a/b c","event_id":""}` + "\n"},
		{http.MethodPost, "/api/v1/sinks/ops/test?sink=x", 400, "no parameters"},
		{http.MethodPost, "/api/v1/sinks/nobody/test", 404, "nobody"},
		{http.MethodPost, "/api/v1/sinks/busy/test", 409, "nothing was sent: busy"},
		{http.MethodPost, "/api/v1/sinks/broken/test", 500, "broken"},
		{http.MethodGet, "/api/v1/sinks/ops/test", 405, ""},
	} {
		if resp, body := s.request(t, test.method, test.path); resp.StatusCode != test.status || !strings.Contains(body, test.body) {
			t.Errorf("%s %s: %d %s", test.method, test.path, resp.StatusCode, body)
		}
	}
}
