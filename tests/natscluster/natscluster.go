// Package natscluster starts NATS servers with JetStream in files for tests: one in the test's own
// process, or several of a cluster, each a child process that may be killed, stopped for a while and
// started again. Whoever starts children calls Child first in TestMain.
package natscluster

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hmcnotifyd/hmcnotifyd/tests/real/program"
)

// Patience is for what takes moments on a machine with nothing else to do.
const Patience = 2 * time.Minute

// childEnv has the options of a server that a child process is to be.
const childEnv = "HMCNOTIFYD_TEST_NATS_SERVER"

// settings describe a server.
type settings struct {
	Name      string
	Port      int
	RoutePort int
	Routes    []int
	Dir       string
	// Lazy is the servers' default: what is acknowledged is synced some time later.
	Lazy bool
}

func (s settings) options() *server.Options {
	o := &server.Options{
		ServerName: s.Name, Host: "127.0.0.1", Port: s.Port, NoLog: true, NoSigs: true,
		JetStream: true, StoreDir: s.Dir, SyncAlways: !s.Lazy, AuthTimeout: Patience.Seconds(),
	}
	if s.RoutePort != 0 {
		o.Cluster = server.ClusterOpts{Name: "test", Host: "127.0.0.1", Port: s.RoutePort, NoAdvertise: true} // who goes by a proxy stays there
		for _, port := range s.Routes {
			o.Routes = append(o.Routes, &url.URL{Scheme: "nats", Host: fmt.Sprintf("127.0.0.1:%d", port)})
		}
	}
	return o
}

// Child is a server, for as long as the process lives, where this process was started to be one: then
// code is what the process is to end with. Else it returns at once.
func Child() (code int, child bool) {
	text := os.Getenv(childEnv)
	if text == "" {
		return 0, false
	}
	var s settings
	err := json.Unmarshal([]byte(text), &s)
	if err == nil {
		var srv *server.Server
		if srv, err = server.NewServer(s.options()); err == nil {
			srv.Start()
			srv.WaitForShutdown()
		}
	}
	fmt.Fprintln(os.Stderr, "the NATS server has ended:", err)
	return 1, true
}

// Single starts a server in the test's own process and returns its URL.
func Single(t testing.TB, change ...func(*server.Options)) string {
	t.Helper()
	_, url := SingleServer(t, change...)
	return url
}

// SingleServer is Single with the server itself.
func SingleServer(t testing.TB, change ...func(*server.Options)) (_ *server.Server, url string) {
	t.Helper()
	o := settings{Name: "single", Port: server.RANDOM_PORT, Dir: t.TempDir()}.options()
	o.SyncAlways = false // the process does not end before the test
	for _, c := range change {
		c(o)
	}
	s, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(Patience) {
		t.Fatal("the NATS server does not start")
	}
	addr, ok := s.Addr().(*net.TCPAddr)
	if !ok {
		t.Fatalf("%T", s.Addr())
	}
	return s, fmt.Sprintf("nats://127.0.0.1:%d", addr.Port)
}

// Cluster is a cluster of servers in child processes.
type Cluster struct {
	t       testing.TB
	servers []settings
	running []*program.Process
}

// Start starts so many servers, which sync what they acknowledge, and returns when they have a
// leader.
func Start(t testing.TB, n int) *Cluster { t.Helper(); return start(t, n, false) }

// StartLazy is Start for servers that sync when they like, which is their default.
func StartLazy(t testing.TB, n int) *Cluster { t.Helper(); return start(t, n, true) }

func start(t testing.TB, n int, lazy bool) *Cluster {
	t.Helper()
	c := &Cluster{t: t, running: make([]*program.Process, n)}
	var routes []int
	for range n {
		routes = append(routes, program.FreePort(t))
	}
	dir := t.TempDir()
	for i := range n {
		name := fmt.Sprintf("n%d", i+1)
		c.servers = append(c.servers, settings{
			Name: name, Port: program.FreePort(t), RoutePort: routes[i], Routes: routes, Dir: filepath.Join(dir, name), Lazy: lazy,
		})
	}
	for i := range n {
		c.StartServer(i)
	}
	c.AwaitLeader()
	return c
}

// URLs of all servers.
func (c *Cluster) URLs() []string {
	urls := make([]string, len(c.servers))
	for i, s := range c.servers {
		urls[i] = fmt.Sprintf("nats://127.0.0.1:%d", s.Port)
	}
	return urls
}

// Dir is where a server keeps its files.
func (c *Cluster) Dir(i int) string { return c.servers[i].Dir }

// StartServer starts a server that does not run.
func (c *Cluster) StartServer(i int) {
	c.t.Helper()
	self, err := os.Executable()
	if err != nil {
		c.t.Fatal(err)
	}
	text, err := json.Marshal(c.servers[i])
	if err != nil {
		c.t.Fatal(err)
	}
	c.running[i] = program.Start(c.t, program.Options{
		Name: "nats-" + c.servers[i].Name, Path: self, Env: []string{childEnv + "=" + string(text)},
	})
}

// Server is the process of a server.
func (c *Cluster) Server(i int) *program.Process { return c.running[i] }

// Kill kills a server.
func (c *Cluster) Kill(i int) { c.running[i].Kill() }

// AwaitLeader waits until the cluster can make and change streams.
func (c *Cluster) AwaitLeader() {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.t.Context()), Patience)
	defer cancel()
	for {
		err := c.probe(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			c.t.Fatal("the NATS cluster has no leader: ", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (c *Cluster) probe(ctx context.Context) error {
	nc, err := nats.Connect(strings.Join(c.URLs(), ","))
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	const name = "probe"
	_, err = js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: name, Subjects: []string{name}, Replicas: len(c.servers)})
	if err != nil {
		return err
	}
	return js.DeleteStream(ctx, name)
}
