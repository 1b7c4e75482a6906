package storage_test

import (
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/cluster"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/storage"
	"github.com/hmcnotifyd/hmcnotifyd/tests/natscluster"
	"github.com/hmcnotifyd/hmcnotifyd/tests/natscluster/deployment"
)

// The store on a NATS cluster keeps what a queue relies on, also where records and state are larger
// than a message.
func TestClusterStore(t *testing.T) {
	t.Parallel()
	url := natscluster.Single(t)
	small := natscluster.Single(t, func(o *server.Options) { o.MaxPayload = cluster.LeastPayload })
	for name, url := range map[string]string{"as it is": url, "small messages": small} {
		t.Run(name, func(t *testing.T) {
			testStore(t, func(t *testing.T) func(t testing.TB) storage.Store {
				c := deployment.Connect(t, url)
				epoch := uint64(0)
				return func(testing.TB) storage.Store {
					epoch++
					return cluster.NewStore(c, cluster.StoreOptions{Epoch: epoch, Patience: natscluster.Patience})
				}
			})
		})
	}
}
