package bridge

import (
	"context"
	"io"
	"net"
	"path/filepath"
	"syscall"
	"testing"
	"testing/synctest"

	"go.uber.org/zap"
)

// A reload that is asked for while the daemon starts is made when it has started.
func TestReloadBeforeRun(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const hmcs = "hmcs: [{name: a, hosts: [127.0.0.1], userid: u, password: p}]\n"
	before := load(t, dir, hmcs+"sinks: [{name: first, log: {output: first.log}}]\n")
	after := load(t, dir, hmcs+"sinks: [{name: second, log: {output: second.log}}]\n")
	synctest.Test(t, func(t *testing.T) {
		b, err := New(Options{
			Config: before, StoragePath: filepath.Join(dir, "data"), Logger: zap.NewNop(), Version: "test",
			Stdout: io.Discard, Stderr: io.Discard, Intervals: testTiming(),
			Dial: func(context.Context, string, string) (net.Conn, error) { return nil, syscall.ECONNREFUSED },
		})
		if err != nil {
			t.Fatal(err)
		}
		reloaded, ran := make(chan error, 1), make(chan error, 1)
		go func() { reloaded <- b.Reload(after) }()
		synctest.Wait() // it is under way
		ctx, cancel := context.WithCancel(t.Context())
		go func() { ran <- b.Run(ctx) }()
		if err := <-reloaded; err != nil {
			t.Errorf("reload: %v", err)
		} else if running := b.now().cfg.Sinks[0].Name; running != "second" {
			t.Errorf("sink %s runs", running)
		}
		cancel()
		if err := <-ran; err != nil {
			t.Errorf("run: %v", err)
		}
	})
}
