package queue_test

import (
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/cluster"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/tests/natscluster"
)

// The store on a NATS cluster keeps what a Queue relies on, also where records and state are larger
// than a message.
func TestClusterStore(t *testing.T) {
	t.Parallel()
	url := natscluster.Single(t)
	small := natscluster.Single(t, func(o *server.Options) { o.MaxPayload = cluster.LeastPayload })
	for name, url := range map[string]string{"as it is": url, "small messages": small} {
		t.Run(name, func(t *testing.T) {
			queue.TestStore(t, func(t *testing.T) func(t testing.TB) queue.Store {
				c := connect(t, url)
				epoch := uint64(0)
				return func(testing.TB) queue.Store {
					epoch++
					return cluster.NewStore(c, cluster.StoreOptions{Epoch: epoch, Patience: natscluster.Patience})
				}
			})
		})
	}
}

// connect connects to a server, where each test has a deployment of its own.
func connect(t *testing.T, url string) *cluster.Cluster {
	t.Helper()
	deployment := strings.NewReplacer("/", "-", " ", "-", "_", "-").Replace(t.Name())
	c, err := cluster.Connect(t.Context(), cluster.Options{URLs: []string{url}, Name: deployment, Replicas: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}
