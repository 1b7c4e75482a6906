package cluster

import (
	"fmt"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/hmcnotifyd/hmcnotifyd/tests/real/program"
)

// Servers that do not accept the credentials for a while, as where a password is changed there first, do not end the
// connection for good.
func TestLogonIsRefusedForAWhile(t *testing.T) {
	t.Parallel()
	const userid, password = "daemon", "right"
	options := server.Options{
		Host: "127.0.0.1", Port: program.FreePort(t), NoLog: true, NoSigs: true, JetStream: true, StoreDir: t.TempDir(),
		Username: userid, AuthTimeout: patience.Seconds(),
	}
	start := func(password string) *server.Server {
		t.Helper()
		o := options
		o.Password = password
		s, err := server.NewServer(&o)
		if err != nil {
			t.Fatal(err)
		}
		s.Start()
		if !s.ReadyForConnections(patience) {
			t.Fatal("the server does not start")
		}
		return s
	}
	running := start(password)
	stop := func() { running.Shutdown(); running.WaitForShutdown() }
	defer func() { stop() }()
	core, logs := observer.New(zapcore.WarnLevel)
	c, err := Connect(t.Context(), Options{
		URLs: []string{fmt.Sprintf("nats://127.0.0.1:%d", options.Port)}, Logon: []nats.Option{nats.UserInfo(userid, password)},
		Name: "x", Replicas: 1, Client: "test", Logger: zap.New(core),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	stop()
	running = start("another")
	const often = 5
	waitFor(t, "the logon to be refused again and again", func() bool {
		refused, err := running.Connz(&server.ConnzOptions{State: server.ConnClosed})
		return err == nil && refused.Total >= often
	})
	stop()
	running = start(password)
	waitFor(t, "the connection to be back", func() bool {
		_, err := c.Moved(t.Context())
		return c.Connected() && err == nil
	})
	if n := logs.FilterMessage("the NATS cluster says that something is wrong").Len(); n == 0 || n >= often {
		t.Errorf("%d lines about one reason", n)
	}
}
