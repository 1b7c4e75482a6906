package watch

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/record"
)

// newTestSupervisor returns a supervisor of an HMC that nobody connects to.
func newTestSupervisor(t *testing.T) *Supervisor {
	t.Helper()
	q, err := queue.Open(queue.Options{Dir: t.TempDir(), Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = q.Close() })
	s, err := New(Options{
		HMC: config.HMC{
			Name: "a", Hosts: []string{"localhost"}, TopicNames: []string{"t.1"}, Userid: "u",
			Stomp: receiver.DefaultStompRetryTimeoutConfig(),
		},
		Queue: q, Group: record.NewGroup("a", q, zap.NewNop()), Metrics: record.NewMetrics(prometheus.NewRegistry()), Logger: zap.NewNop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}
