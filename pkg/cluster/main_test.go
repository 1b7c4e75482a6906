package cluster

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap/zaptest"

	"github.com/hmcnotifyd/hmcnotifyd/tests/natscluster"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/program"
)

func TestMain(m *testing.M) {
	if code, child := natscluster.Child(); child {
		os.Exit(code)
	}
	if text := os.Getenv(leaderEnv); text != "" {
		fmt.Println(lead(text))
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

const patience = natscluster.Patience

// connect connects to a cluster that must be there.
func connect(t testing.TB, name string, replicas int, urls ...string) *Cluster {
	t.Helper()
	c, err := tryConnect(t, name, replicas, urls...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func tryConnect(t testing.TB, name string, replicas int, urls ...string) (*Cluster, error) {
	t.Helper()
	c, err := Connect(t.Context(), Options{
		URLs: urls, Name: name, Replicas: replicas, Client: "test", Logger: zaptest.NewLogger(t),
	})
	if err == nil {
		t.Cleanup(c.Close)
	}
	return c, err
}

// waitFor waits for what takes moments.
func waitFor(t testing.TB, what string, cond func() bool) {
	t.Helper()
	program.Await(t, patience, func() error {
		if !cond() {
			return errNotYet(what)
		}
		return nil
	})
}

type errNotYet string

func (e errNotYet) Error() string { return "not yet: " + string(e) }

// ended is a context that is over.
func ended() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

const shortTTL = 900 * time.Millisecond
