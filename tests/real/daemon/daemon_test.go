package daemon_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/hmcnotifyd/hmcnotifyd/tests/real/daemon"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const text = `# HELP up Up.
# TYPE up gauge
up{hmc="a",kind="x"} 1
up{hmc="b",kind="x"} 2
# HELP n_total N.
# TYPE n_total counter
n_total 5
# HELP d_seconds D.
# TYPE d_seconds histogram
d_seconds_bucket{le="1"} 3
d_seconds_bucket{le="+Inf"} 4
d_seconds_sum 9
d_seconds_count 4
`

func TestMetric(t *testing.T) {
	for _, tc := range []struct {
		name   string
		labels []string
		want   float64
	}{
		{"up", nil, 3},
		{"up", []string{"hmc", "b"}, 2},
		{"up", []string{"kind", "x"}, 3},
		{"up", []string{"kind", "x", "hmc", "a"}, 1},
		{"n_total", nil, 5},
		{"d_seconds", nil, 4},
	} {
		if got, err := daemon.Metric(text, tc.name, tc.labels...); err != nil || got != tc.want {
			t.Errorf("%s%v: %v, %v, want %v", tc.name, tc.labels, got, err, tc.want)
		}
	}
	for _, tc := range []struct {
		name   string
		labels []string
	}{{"up", []string{"hmc", "c"}}, {"down", nil}, {"up", []string{"hmc"}}} {
		if got, err := daemon.Metric(text, tc.name, tc.labels...); err == nil {
			t.Errorf("%s%v: %v, no error", tc.name, tc.labels, got)
		}
	}
}
