//go:build real

package prometheus_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/goleak"

	realprom "github.com/hmcnotifyd/hmcnotifyd/tests/real/prometheus"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestServer(t *testing.T) {
	counter := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "things_total", Help: "Things."}, []string{"kind"})
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(counter)
	counter.WithLabelValues("a").Add(3)
	counter.WithLabelValues("b").Add(4)
	srv := httptest.NewServer(promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	defer srv.Close()

	rules := filepath.Join(t.TempDir(), "rules.yml")
	text := "groups: [{name: g, rules: [{record: doubled, expr: things_total * 2}]}]\n"
	if err := os.WriteFile(rules, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, status := realprom.Promtool(t, "check", "rules", rules); status != 0 {
		t.Errorf("promtool check rules: %s", out)
	}

	s := realprom.Start(t, realprom.Options{
		Jobs:      []realprom.Job{{Name: "test", Targets: []string{strings.TrimPrefix(srv.URL, "http://")}, Extra: "honor_labels: true\nscheme: http\n"}},
		RuleFiles: []string{rules},
	})
	s.AwaitTargets(t, 1)
	samples, err := s.Query(t.Context(), `sort(things_total{job="test"})`)
	if err != nil || len(samples) != 2 || samples[0].Value != 3 || samples[1].Labels["kind"] != "b" {
		t.Errorf("query: %v, %v", samples, err)
	}
	if samples, err := s.Query(t.Context(), "scalar(sum(things_total))"); err != nil || len(samples) != 1 || samples[0].Value != 7 {
		t.Errorf("scalar query: %v, %v", samples, err)
	}
	if _, err := s.Query(t.Context(), "sum("); err == nil {
		t.Error("a wrong query gave no error")
	}
	s.Await(t, 30*time.Second, `doubled{kind="b"}`, func(samples []realprom.Sample) bool {
		return len(samples) == 1 && samples[0].Value == 8
	})
}

func TestCheckMetrics(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: "things_total", Help: "Things."}))
	rec := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	realprom.CheckMetrics(t, rec.Body.String())

	bad := &recorder{TB: t}
	realprom.CheckMetrics(bad, "# HELP things Things.\n# TYPE things counter\nthings 1\n")
	if !bad.failed {
		t.Error("a counter without _total passed")
	}
}

// recorder notes a failure instead of failing.
type recorder struct {
	testing.TB
	failed bool
}

func (r *recorder) Errorf(string, ...any) { r.failed = true }
