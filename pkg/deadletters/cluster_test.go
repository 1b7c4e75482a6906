package deadletters_test

import (
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/cluster"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/deadletters"
	"github.com/hmcnotifyd/hmcnotifyd/tests/natscluster"
	"github.com/hmcnotifyd/hmcnotifyd/tests/natscluster/deployment"
)

// The dead letters of a NATS cluster keep what those of a directory do.
func TestClusterLetters(t *testing.T) {
	t.Parallel()
	url := natscluster.Single(t)
	deadletters.TestLetters(t, func(t *testing.T) func(testing.TB, deadletters.LettersLimit) deadletters.Letters {
		c := deployment.Connect(t, url)
		return func(t testing.TB, limit deadletters.LettersLimit) deadletters.Letters {
			l, err := c.OpenLetters(cluster.LettersOptions{
				Options:  deadletters.Options{MaxBytes: limit.MaxBytes, OnDropped: limit.OnDropped},
				Patience: natscluster.Patience,
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = l.Close() })
			return l
		}
	})
}
