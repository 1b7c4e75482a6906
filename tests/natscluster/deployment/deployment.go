// Package deployment connects tests to a NATS server that they share.
package deployment

import (
	"strings"
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/cluster"
)

// Connect connects to a server, where each test has a deployment of its own.
func Connect(t testing.TB, url string) *cluster.Cluster {
	t.Helper()
	name := strings.NewReplacer("/", "-", " ", "-", "_", "-").Replace(t.Name())
	c, err := cluster.Connect(t.Context(), cluster.Options{URLs: []string{url}, Name: name, Replicas: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}
