package deadletters_test

import (
	"strings"
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/cluster"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/deadletters"
	"github.com/hmcnotifyd/hmcnotifyd/tests/natscluster"
)

// The dead letters of a NATS cluster keep what those of a directory do.
func TestClusterLetters(t *testing.T) {
	t.Parallel()
	url := natscluster.Single(t)
	deadletters.TestLetters(t, func(t *testing.T) func(testing.TB, deadletters.LettersLimit) deadletters.Letters {
		c := connect(t, url)
		return func(t testing.TB, limit deadletters.LettersLimit) deadletters.Letters {
			l, err := c.OpenLetters(cluster.LettersOptions{
				DeadLetterOptions: deadletters.Options{MaxBytes: limit.MaxBytes, OnDropped: limit.OnDropped},
				Patience:          natscluster.Patience,
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = l.Close() })
			return l
		}
	})
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
