package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
)

// clusterGoal is what the path stores on three servers of this machine, in comparison with the disk.
const clusterGoal = 0.35

// logs are where the log is, in the order of the output.
var logs = []struct{ key, title string }{
	{"disk", "on the disk"},
	{"default", "on three NATS servers, which sync every two minutes"},
	{"always", "the same with sync_interval: always"},
}

// natsServer describes a server of a cluster.
type natsServer struct {
	Name        string
	Port, Route int
	Routes      []int
	Dir         string
	Always      bool // what is acknowledged is synced
}

// runNATS is a server, until its standard input ends.
func runNATS(_ context.Context, t target) error {
	var n natsServer
	if err := json.Unmarshal([]byte(t.arg), &n); err != nil {
		return err
	}
	o := &server.Options{
		ServerName: n.Name, Host: "127.0.0.1", Port: n.Port, NoLog: true, NoSigs: true, JetStream: true, StoreDir: n.Dir, SyncAlways: n.Always,
		Cluster: server.ClusterOpts{Name: "bench", Host: "127.0.0.1", Port: n.Route},
	}
	for _, port := range n.Routes {
		o.Routes = append(o.Routes, &url.URL{Scheme: "nats", Host: fmt.Sprintf("127.0.0.1:%d", port)})
	}
	s, err := server.NewServer(o)
	if err != nil {
		return err
	}
	s.Start()
	for !s.JetStreamIsCurrent() { // of the cluster that they form
		time.Sleep(10 * time.Millisecond)
	}
	fmt.Println("ready")
	_, err = io.Copy(io.Discard, os.Stdin)
	s.Shutdown()
	s.WaitForShutdown()
	return err
}

// runCluster is the daemon's own path with one log sink, and with its log on the servers of t.arg; "": on the disk.
func runCluster(ctx context.Context, t target) error {
	rest := t.logSinks(1)
	if t.arg != "" {
		rest += "storage: {jetstream: {urls: [" + t.arg + "], name: bench}}\n"
	}
	return runBridgeWith(ctx, t, 1, rest, 1, askEvery)
}

// compareClusters prints what storing on a cluster takes in comparison with the disk.
func (b bench) compareClusters(ctx context.Context, rounds int) error {
	results := make(map[string][]result)
	for round := range rounds {
		for _, l := range logs {
			var r result
			measure := func(urls string) (err error) {
				r, err = b.measureBridge(ctx, "cluster", urls, 1, func(broker *hmcsim.Broker) error {
					return floodAll(ctx, broker, topicsOf(1), int64(b.count))
				})
				return err
			}
			var err error
			if l.key == "disk" {
				err = measure("")
			} else {
				err = b.withServers(ctx, l.key == "always", measure)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", l.title, err)
			}
			results[l.key] = append(results[l.key], r)
			fmt.Fprintf(os.Stderr, "round %d of %d: (j) %s: %.0f notifications/s\n", round+1, rounds, l.title, float64(b.count)/r.Seconds)
		}
	}
	rate := func(key string) float64 {
		return median(results[key], func(r result) float64 { return float64(b.count) / r.Seconds })
	}
	fmt.Printf("\n(j)  whole path with one log sink, by where the log is; medians of %d runs\n\n", rounds)
	fmt.Printf("     %-52s %16s %12s %10s %10s\n", "", "notifications/s", "CPU us each", "peak MiB", "ratio")
	for _, l := range logs {
		cpu := median(results[l.key], func(r result) float64 { return r.CPUSeconds / float64(b.count) * 1e6 })
		peak := median(results[l.key], func(r result) float64 { return r.PeakMiB })
		goal := ""
		if l.key == "default" {
			goal = atLeast(clusterGoal, rate(l.key)/rate("disk"))
		}
		fmt.Printf("     %-52s %16.0f %12.2f %10.1f %9.2fx%s\n", l.title, rate(l.key), cpu, peak, rate(l.key)/rate("disk"), goal)
	}
	return nil
}

// withServers has three servers while use runs, which gets their addresses as a configuration has them.
func (b bench) withServers(ctx context.Context, always bool, use func(urls string) error) (err error) {
	dir, err := os.MkdirTemp(b.tmp, "nats-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	const count = 3
	ports, err := freePorts(2 * count)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	var urls []string
	var servers []*process
	for i := range count {
		name := fmt.Sprint("nats", i+1)
		arg, err := json.Marshal(natsServer{
			Name: name, Port: ports[i], Route: ports[count+i], Routes: ports[count:], Dir: filepath.Join(dir, name), Always: always,
		})
		if err != nil {
			return err
		}
		s, err := start(ctx, "nats", "-arg", string(arg))
		if err != nil {
			return err
		}
		defer func() { _ = s.end() }()
		urls, servers = append(urls, fmt.Sprintf(`"nats://127.0.0.1:%d"`, ports[i])), append(servers, s)
	}
	for _, s := range servers {
		if !s.lines.Scan() || s.lines.Text() != "ready" {
			return fmt.Errorf("a NATS server is not ready: %q", s.lines.Text())
		}
	}
	return use(strings.Join(urls, ", "))
}

// freePorts returns ports that nobody listens on.
func freePorts(n int) (ports []int, err error) {
	for range n {
		l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer func() { _ = l.Close() }() // together, so that each is another one
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}
