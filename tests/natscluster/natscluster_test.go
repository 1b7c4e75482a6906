package natscluster_test

import (
	"testing"

	"github.com/nats-io/nats-server/v2/server"
)

// The servers of deploy/nats have what docs/availability.md asks for.
func TestDeployedServers(t *testing.T) {
	t.Setenv("SERVER_NAME", "nats1")
	o, err := server.ProcessConfigFile("../../deploy/nats/nats.conf")
	if err != nil {
		t.Fatal(err)
	}
	if o.ServerName != "nats1" || !o.JetStream || !o.SyncAlways || o.StoreDir != "/data" || o.JetStreamMaxStore < 1<<34 ||
		o.MaxPayload != 0 || o.Cluster.Name == "" || len(o.Routes) != 3 {
		t.Errorf("%+v", o)
	}
}
