// Command bench measures what a notification costs: read and discarded by go-stomp's own client (a), by our receiver
// (b), on the whole path of receiver, de-duplication, queue on disk and log sink (c), and with three sinks (d). All read
// from the same broker, which sends over TLS as fast as it is read. Then how fast stored events are delivered to a webhook in
// comparison with a plain loop (e), how long a notification takes from the socket to the webhook's consumer (f), whether
// its cost depends on the number of HMCs (g), what an estate that changes costs (h), what sinks make of their client libraries'
// speed (i), what a log on a cluster costs (j), what hundreds of rules cost (r), the queue alone beside those of others (k), and
// what is resident with idle HMCs (m). What counts are the ratios within one run.
//
// Each measured client is a process of its own, so that its CPU time and memory are its alone.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
)

// topicName is the topic where there is only one HMC.
const topicName = "bench.1"

// client is one of the measured programs.
type client struct {
	key, title string
	run        func(context.Context, target) error
}

var clients = []client{
	{"a", "go-stomp's client, read and discarded", runGoStomp},
	{"b", "receiver, read and discarded", runReceiver},
	{"c", "receiver, queue on disk, log sink", runWholePath},
	{"d", "receiver, queue on disk, three sinks", runThreeSinks},
}

// helpers are the other processes, by the name they are started with.
var helpers = map[string]func(context.Context, target) error{
	"idle": runIdle, "hmcs": runHMCs, "consumer": runConsumer, "fill": runFill, "plain": runPlainLoop, "deliver": runDelivery,
	"plain-live": runPlainLive, "live": runLive, "destination": runDestination, "sink": runSink, "sink-loop": runSinkLoop,
	"rules": runRules, "cluster": runCluster, "nats": runNATS,
	"queue": runQueue, "jetstream": runJetStream, "jetstream-batch": runJetStreamBatches,
}

// parts are what can be measured alone, by the letters of the output.
var parts = []part{
	{"abcd", bench.compare},
	{"e", bench.compareWebhooks},
	{"f", bench.compareLatency},
	{"g", bench.compareHMCs},
	{"h", bench.compareEstate},
	{"i", bench.compareSinks},
	{"j", bench.compareClusters},
	{"r", bench.compareRules},
	{"k", bench.compareQueues},
	{"m", bench.compareIdle},
}

type part struct {
	letters string
	measure func(b bench, ctx context.Context, rounds int) error
}

// goals are the ratios of notifications per second that the project has set itself.
var goals = map[string]float64{"b": 2.7, "c": 1.2, "d": 1}

// atLeast and below say whether a ratio is as it should be.
func atLeast(goal, ratio float64) string {
	return verdict(fmt.Sprintf("goal %.2f", goal), ratio >= goal)
}

func below(goal, ratio float64) string {
	return verdict(fmt.Sprintf("goal below %.2f", goal), ratio < goal)
}

func verdict(goal string, met bool) string {
	if met {
		return " (" + goal + ": ok)"
	}
	return " (" + goal + ": missed)"
}

// profileName tells the profiles of the clients apart: the beginning of what a client has to know names what it does.
func profileName(child, arg string) string {
	if what, _, _ := strings.Cut(arg, " "); what != "" && !strings.Contains(what, "/") {
		return child + "-" + what
	}
	return child
}

func profileCPU(path string) (stop func(), err error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() {
		pprof.StopCPUProfile()
		_ = f.Close()
	}, nil
}

// result is what a client reports of itself.
type result struct {
	Seconds    float64 `json:"seconds"`
	CPUSeconds float64 `json:"cpu_seconds"`
	PeakMiB    float64 `json:"peak_mib"`
	MiB        float64 `json:"mib"` // resident at the end
	Received   int     `json:"received"`
}

// target says what a client connects to.
type target struct {
	port   int
	caFile string
	dir    string // of its own, for what it stores
	count  int
	arg    string // what else it has to know
	ready  func()
	begin  func() // the first notification has come
	end    func() // the last one has
	// There were so many, which is not known before.
	counted func(n int)
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	count := flags.Int("n", 200_000, "notifications per run")
	rounds := flags.Int("rounds", 5, "runs of each client; the median counts")
	child := flags.String("child", "", "internal: the client to be")
	port := flags.Int("port", 0, "internal: port of the broker")
	ca := flags.String("ca", "", "internal: file of the CA certificate")
	dir := flags.String("dir", "", "internal: directory for what is stored")
	arg := flags.String("arg", "", "internal: what else the client has to know")
	only := flags.String("only", "", "what to measure, by the letters of the output, as in c,e; all if empty. (a) is added where it is compared with")
	profile := flags.String("cpuprofile", "", "write CPU profiles of the clients to files that begin with this")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *child != "" {
		if *profile != "" {
			stop, err := profileCPU(*profile + "-" + profileName(*child, *arg) + ".prof")
			if err != nil {
				return err
			}
			defer stop()
		}
		return beClient(ctx, *child, target{port: *port, caFile: *ca, dir: *dir, count: *count, arg: *arg})
	}
	if *count < 1 || *rounds < 1 {
		return errors.New("-n and -rounds must be positive")
	}
	if strings.Trim(*only, "abcdefghijkmr,") != "" {
		return fmt.Errorf("-only %s: there are a to k, m and r", *only)
	}
	tmp, err := os.MkdirTemp("", "hmcnotifyd-bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	b := bench{tmp: tmp, profile: *profile, count: *count, only: strings.ReplaceAll(*only, ",", "")}
	for _, p := range parts {
		if b.only != "" && !strings.ContainsAny(b.only, p.letters) {
			continue
		}
		if err := p.measure(b, ctx, *rounds); err != nil {
			return err
		}
	}
	return nil
}

// bench is what all runs have in common.
type bench struct {
	tmp     string // directory for what the clients store
	profile string // what the files with the clients' CPU profiles begin with; "": no profiles
	count   int    // notifications per run
	only    string // letters of what is measured; "": all
}

// wants says whether a client of the path is to be measured: everything is compared with (a).
func (b bench) wants(c client) bool {
	return b.only == "" || c.key == "a" || strings.Contains(b.only, c.key)
}

// compare runs every client in turn, again and again, so that what else the machine does hits all alike.
func (b bench) compare(ctx context.Context, rounds int) error {
	results := make(map[string][]result)
	for round := range rounds {
		for _, c := range clients {
			if !b.wants(c) {
				continue
			}
			r, err := b.measure(ctx, c.key)
			if err != nil {
				return fmt.Errorf("(%s) %s: %w", c.key, c.title, err)
			}
			if r.Received != b.count {
				return fmt.Errorf("(%s) %s: %d of %d notifications arrived", c.key, c.title, r.Received, b.count)
			}
			results[c.key] = append(results[c.key], r)
			fmt.Fprintf(os.Stderr, "round %d of %d: (%s) %.0f notifications/s\n", round+1, rounds, c.key, float64(b.count)/r.Seconds)
		}
	}
	report(results, b.count)
	return nil
}

// report prints the medians and what they are in relation to go-stomp's client.
func report(results map[string][]result, count int) {
	rate := func(key string) float64 {
		return median(results[key], func(r result) float64 { return float64(count) / r.Seconds })
	}
	fmt.Printf("\n%d notifications per run over TLS, medians of %d runs\n\n", count, len(results["a"]))
	fmt.Printf("     %-40s %16s %12s %10s %10s\n", "", "notifications/s", "CPU us each", "peak MiB", "ratio")
	for _, c := range clients {
		if len(results[c.key]) == 0 {
			continue
		}
		cpu := median(results[c.key], func(r result) float64 { return r.CPUSeconds / float64(count) * 1e6 })
		peak := median(results[c.key], func(r result) float64 { return r.PeakMiB })
		goal := ""
		if g, ok := goals[c.key]; ok {
			goal = atLeast(g, rate(c.key)/rate("a"))
		}
		fmt.Printf("(%s)  %-40s %16.0f %12.2f %10.1f %9.2fx%s\n", c.key, c.title, rate(c.key), cpu, peak, rate(c.key)/rate("a"), goal)
	}
}

func median[T any](all []T, of func(T) float64) float64 {
	values := make([]float64, len(all))
	for i, r := range all {
		values[i] = of(r)
	}
	slices.Sort(values)
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}

// measure runs one client against a fresh broker.
func (b bench) measure(ctx context.Context, key string) (result, error) {
	broker, err := hmcsim.StartBroker(hmcsim.BrokerOptions{Topics: []string{topicName}})
	if err != nil {
		return result{}, err
	}
	defer func() { _ = broker.Close() }()
	var r result
	err = b.withClient(ctx, key, "", broker, func(lines *bufio.Scanner, _ int) error {
		if !lines.Scan() || lines.Text() != "ready" {
			return fmt.Errorf("the client is not ready: %q", lines.Text())
		}
		if _, err := broker.Flood(ctx, hmcsim.FloodOptions{Topic: topicName, Frames: int64(b.count)}); err != nil {
			return err
		}
		if !lines.Scan() {
			return errors.New("the client ended without a result")
		}
		return json.Unmarshal(lines.Bytes(), &r)
	})
	return r, err
}

// withClient is withProcess with a directory of its own.
func (b bench) withClient(ctx context.Context, key, arg string, broker *hmcsim.Broker, use func(lines *bufio.Scanner, pid int) error) (err error) {
	dir, err := os.MkdirTemp(b.tmp, "client-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	return b.withProcess(ctx, key, dir, arg, broker, use)
}

// withProcess starts this program as one of the processes that it consists of, hands over its output, and waits for its end.
func (b bench) withProcess(ctx context.Context, key, dir, arg string, broker *hmcsim.Broker, use func(lines *bufio.Scanner, pid int) error) error {
	caFile := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(caFile, broker.CA().PEM(), 0o600); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	p, err := start(ctx, key, "-port", strconv.Itoa(broker.Port()), "-ca", caFile, "-dir", dir,
		"-n", strconv.Itoa(b.count), "-arg", arg, "-cpuprofile", b.profile)
	if err != nil {
		return err
	}
	err = use(p.lines, p.cmd.Process.Pid)
	return errors.Join(err, p.end())
}

// process is this program as one of the processes that it consists of.
type process struct {
	cmd   *exec.Cmd
	in    io.Closer
	lines *bufio.Scanner // of its output
}

func start(ctx context.Context, key string, flags ...string) (*process, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, exe, append([]string{"-child", key}, flags...)...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return &process{cmd, in, bufio.NewScanner(out)}, cmd.Start()
}

// end ends the standard input of the process, and waits for it.
func (p *process) end() error { return errors.Join(p.in.Close(), p.cmd.Wait()) }

// beClient is the measured process: it says when it is ready, and at the end what it took.
func beClient(ctx context.Context, key string, t target) error {
	var (
		began time.Time
		cpu   time.Duration
		r     result
	)
	t.ready = func() { fmt.Println("ready") }
	t.counted = func(n int) { t.count = n }
	t.begin = func() { began, cpu = time.Now(), cpuTime() }
	t.end = func() {
		r = result{
			Seconds: time.Since(began).Seconds(), CPUSeconds: (cpuTime() - cpu).Seconds(),
			PeakMiB: memoryOf("self", "VmHWM"), MiB: memoryOf("self", "VmRSS"), Received: t.count,
		}
	}
	if helper, ok := helpers[key]; ok {
		if err := helper(ctx, t); err != nil || r.Received == 0 {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(r)
	}
	i := slices.IndexFunc(clients, func(c client) bool { return c.key == key })
	if i < 0 {
		return fmt.Errorf("no client %q", key)
	}
	if err := clients[i].run(ctx, t); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

// memoryOf returns a figure of /proc/PID/status in MiB.
func memoryOf(pid, field string) float64 {
	data, err := os.ReadFile(filepath.Join("/proc", pid, "status"))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			kib, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 64)
			if err == nil {
				return kib / 1024
			}
		}
	}
	return 0
}
