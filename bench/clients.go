package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/go-stomp/stomp/v3"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/bridge"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/budget"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/ha"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
)

func cpuTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func (t target) tls() (*tls.Config, error) {
	pem, err := os.ReadFile(t.caFile)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, errors.New("no certificate in the CA file")
	}
	return &tls.Config{RootCAs: pool, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS12}, nil
}

// runGoStomp is the baseline.
func runGoStomp(ctx context.Context, t target) error {
	cfg, err := t.tls()
	if err != nil {
		return err
	}
	conn, err := (&tls.Dialer{Config: cfg}).DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(t.port)))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	client, err := stomp.Connect(conn, stomp.ConnOpt.Login(hmcsim.DefaultUserid, hmcsim.DefaultPassword), stomp.ConnOpt.HeartBeat(0, 0))
	if err != nil {
		return err
	}
	sub, err := client.Subscribe("/topic/"+topicName, stomp.AckAuto)
	if err != nil {
		return err
	}
	// Subscribe does not wait for the broker; a second is plenty on loopback.
	time.Sleep(time.Second)
	t.ready()
	for i := range t.count {
		m, ok := <-sub.C
		if !ok {
			return errors.New("the connection ended")
		}
		if m.Err != nil {
			return m.Err
		}
		if i == 0 {
			t.begin()
		}
	}
	t.end()
	return nil
}

// runReceiver is our receiver alone. Unlike the baseline it checks that each body is JSON.
func runReceiver(ctx context.Context, t target) error {
	cfg, err := t.tls()
	if err != nil {
		return err
	}
	r, err := receiver.New(receiver.Options{
		Topics: []string{topicName}, Host: "127.0.0.1", Port: t.port, TLS: cfg,
		Userid: hmcsim.DefaultUserid, Password: hmcsim.DefaultPassword,
	})
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	if err := r.Connect(ctx); err != nil {
		return err
	}
	t.ready()
	n := 0
	for _, err := range r.Notifications(ctx) {
		if err != nil {
			return err
		}
		if n == 0 {
			t.begin()
		}
		if n++; n == t.count {
			t.end()
			return nil
		}
	}
	return errors.New("the iteration ended")
}

// runWholePath is the daemon's own bridge with one log sink, runThreeSinks with three.
func runWholePath(ctx context.Context, t target) error  { return runBridge(ctx, t, 1, 1, askEvery) }
func runThreeSinks(ctx context.Context, t target) error { return runBridge(ctx, t, 1, 3, askEvery) }

// runBridge is the daemon's own bridge with so many HMCs, which all send t.count notifications together.
func runBridge(ctx context.Context, t target, hmcs, sinks int, every time.Duration) error {
	return runBridgeWith(ctx, t, hmcs, t.logSinks(sinks), sinks, every)
}

// runBridgeWith is runBridge with what stands in the configuration behind the HMCs, so many log sinks among it.
func runBridgeWith(ctx context.Context, t target, hmcs int, rest string, sinks int, every time.Duration) error {
	b, err := startBridgeWith(ctx, t, hmcs, rest, func(s status.Status) bool { return s.Ready })
	if err != nil {
		return err
	}
	defer b.stop()
	b.every = every
	// What the daemon says of itself is delivered too.
	err = b.until(ctx, func(s status.Status) bool { return delivered(s) >= hmcs })
	if err != nil {
		return err
	}
	t.ready()
	if err := b.until(ctx, func(s status.Status) bool { return received(s) > 0 }); err != nil {
		return err
	}
	t.begin()
	b.every = max(b.every, time.Duration(hmcs)*time.Millisecond) // an answer takes longer the more there are
	var dropped int
	err = b.until(ctx, func(s status.Status) bool {
		dropped = 0
		for _, h := range s.HMCs {
			dropped += h.Missed
		}
		return delivered(s)+dropped >= t.count+hmcs
	})
	t.end()
	if err != nil {
		return err
	}
	if dropped > 0 {
		return fmt.Errorf("%d notifications were missed", dropped)
	}
	for i := range sinks {
		if err := checkLog(t.logFile(i), t.count); err != nil {
			return err
		}
	}
	return nil
}

// received is the number of notifications of all HMCs.
func received(s status.Status) int {
	var n int64
	for _, h := range s.HMCs {
		for _, c := range h.Notifications {
			n += c
		}
	}
	return int(n)
}

// delivered is the number of events that every sink has.
func delivered(s status.Status) int {
	if len(s.Sinks) == 0 { // it does not lead yet
		return 0
	}
	n := s.Sinks[0].Delivered
	for _, k := range s.Sinks {
		n = min(n, k.Delivered)
	}
	return int(n)
}

// idleHMCs are how many HMCs say nothing where memory is measured, each with the goal in MiB.
var idleHMCs = []struct {
	hmcs int
	goal float64
}{{10, 64}, {200, 96}}

// compareIdle prints the resident memory of the bridge with idle HMCs.
func (b bench) compareIdle(ctx context.Context, _ int) error {
	fmt.Printf("\n(m)  resident memory with HMCs that say nothing\n\n")
	for _, n := range idleHMCs {
		mib, err := b.measureIdle(ctx, n.hmcs)
		if err != nil {
			return fmt.Errorf("%d HMCs: %w", n.hmcs, err)
		}
		fmt.Printf("     %6d HMCs %10.1f MiB%s\n", n.hmcs, mib, below(n.goal, mib))
	}
	return nil
}

// measureIdle returns the resident memory of the bridge with so many idle HMCs, in MiB.
func (b bench) measureIdle(ctx context.Context, hmcs int) (mib float64, err error) {
	broker, err := hmcsim.StartBroker(hmcsim.BrokerOptions{Topics: topicsOf(hmcs)})
	if err != nil {
		return 0, err
	}
	defer func() { _ = broker.Close() }()
	err = b.withClient(ctx, "idle", strconv.Itoa(hmcs), broker, func(lines *bufio.Scanner, pid int) error {
		if !lines.Scan() || lines.Text() != "ready" {
			return fmt.Errorf("the client is not ready: %q", lines.Text())
		}
		time.Sleep(3 * time.Second) // heart-beats come and go
		mib = memoryOf(strconv.Itoa(pid), "VmRSS")
		return nil
	})
	return mib, err
}

// runIdle is the bridge with t.arg HMCs that say nothing, until its standard input ends.
func runIdle(ctx context.Context, t target) error {
	hmcs, err := strconv.Atoi(t.arg)
	if err != nil {
		return err
	}
	b, err := startBridge(ctx, t, hmcs, 1)
	if err != nil {
		return err
	}
	defer b.stop()
	fmt.Println("ready")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// topicOf is the topic of one of several HMCs, topicsOf are those of so many.
func topicOf(hmc int) string { return "bench." + strconv.Itoa(hmc+1) }

func topicsOf(hmcs int) (topics []string) {
	for i := range hmcs {
		topics = append(topics, topicOf(i))
	}
	return topics
}

// writeConfig writes a configuration of so many HMCs, which are all the one broker but each with a topic of its own, and of
// sinks, and returns its path.
func (t target) writeConfig(hmcs int, sinks string) (string, error) {
	var text strings.Builder
	text.WriteString("hmcs:\n")
	for i := range hmcs {
		fmt.Fprintf(&text, "  - {name: hmc%d, hosts: [127.0.0.1], stomp_port: %d, userid: %s, password: %s, tls: {ca_file: %q}, topic_names: [%s]}\n",
			i+1, t.port, hmcsim.DefaultUserid, hmcsim.DefaultPassword, t.caFile, topicOf(i))
	}
	text.WriteString("sinks:\n" + sinks)
	path := filepath.Join(t.dir, "hmcnotifyd.yaml")
	return path, os.WriteFile(path, []byte(text.String()), 0o600)
}

// logSinks are so many sinks that write to files.
func (t target) logSinks(n int) string {
	var text strings.Builder
	for i := range n {
		fmt.Fprintf(&text, "  - {name: log%d, log: {output: %q}}\n", i+1, t.logFile(i))
	}
	return text.String()
}

func (t target) logFile(sink int) string {
	return filepath.Join(t.dir, fmt.Sprintf("events%d.log", sink+1))
}

// runner is a bridge, or one that leads others.
type runner interface {
	Run(context.Context) error
	Status() status.Status
}

// runningBridge is a bridge with its goroutine.
type runningBridge struct {
	runner
	every  time.Duration // how often until asks
	cancel context.CancelFunc
	done   chan error
}

// startBridge starts a bridge with so many HMCs and log sinks and returns when it is ready.
func startBridge(ctx context.Context, t target, hmcs, sinks int) (*runningBridge, error) {
	return startBridgeWith(ctx, t, hmcs, t.logSinks(sinks), func(s status.Status) bool { return s.Ready })
}

// startBridgeWith starts a bridge with so many HMCs and returns when it is as it should be.
func startBridgeWith(ctx context.Context, t target, hmcs int, sinks string, ready func(status.Status) bool) (*runningBridge, error) {
	path, err := t.writeConfig(hmcs, sinks)
	if err != nil {
		return nil, err
	}
	cfg, err := config.Load(path)
	if err != nil {
		return nil, err
	}
	budget.PaceCollector() // as the program does
	registry := prometheus.NewRegistry()
	options := bridge.Options{
		Config: cfg, StoragePath: filepath.Join(t.dir, "data"), Version: "bench", Registerer: registry, Stdout: io.Discard, Stderr: os.Stderr,
		Logger: zap.NewNop(),
	}
	var b runner
	if cfg.Storage.JetStream != nil {
		b, err = ha.New(ctx, options, registry)
	} else {
		b, err = bridge.New(options)
	}
	if err != nil {
		return nil, err
	}
	life, cancel := context.WithCancel(ctx)
	r := &runningBridge{runner: b, every: askEvery, cancel: cancel, done: make(chan error, 1)}
	go func() { r.done <- b.Run(life) }()
	if err := r.until(ctx, ready); err != nil {
		r.stop()
		return nil, err
	}
	return r, nil
}

func (r *runningBridge) stop() {
	r.cancel()
	if err := <-r.done; err != nil {
		fmt.Fprintln(os.Stderr, "bench: bridge:", err)
	}
}

// askEvery costs next to nothing with one HMC and is exact enough for runs of seconds.
const askEvery = 5 * time.Millisecond

// until waits for a status.
func (r *runningBridge) until(ctx context.Context, ok func(status.Status) bool) error {
	tick := time.NewTicker(r.every)
	defer tick.Stop()
	for !ok(r.Status()) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// checkLog proves that nothing was left out: the log has one line for each notification. It is not part of the time.
func checkLog(path string, want int) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	lines := 0
	for r := bufio.NewReaderSize(f, 1<<20); ; {
		line, err := r.ReadSlice('\n')
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if !bytes.Contains(line, []byte(`"origin":"bridge"`)) {
			lines++
		}
	}
	if lines != want {
		return fmt.Errorf("the log has %d lines of %d", lines, want)
	}
	return nil
}
