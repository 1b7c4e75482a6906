package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
)

// webhookEvents is how many events one delivery to a webhook consists of: enough for some seconds, beside which the start of
// the daemon does not count.
const webhookEvents = 40_000

// batchEvents is how many events a batch has.
const batchEvents = 100

// webhookMode is one way to deliver to a webhook.
type webhookMode struct {
	key, title  string
	concurrency int
	batch       int
	goal        float64 // 0: there is none
	events      int
	messages    []hmcsim.Message
}

// webhookModes returns what is compared. Log entries are all of one resource, the log: to keep their order they are sent one
// after the other, which the plain loop does not care about. What that costs has a line of its own.
func webhookModes() []webhookMode {
	all := hmcsim.FloodMessages()
	partitions := slices.DeleteFunc(slices.Clone(all), func(m hmcsim.Message) bool {
		return slices.Contains(m.Headers, hmcsim.Header{Name: "notification-type", Value: "log-entry"})
	})
	return []webhookMode{
		{"1", "one request at a time", 1, 1, 0.92, webhookEvents, partitions},
		{"8", "eight requests at a time", 8, 1, 0.9, 2 * webhookEvents, partitions},
		{"8log", "the same, 1/4 of one log", 8, 1, 0, 2 * webhookEvents, all},
		{"batch", "batches of 100", 1, batchEvents, 1.1, 10 * webhookEvents, partitions},
	}
}

func webhookModeOf(key string) (webhookMode, error) {
	modes := webhookModes()
	i := slices.IndexFunc(modes, func(m webhookMode) bool { return m.key == key })
	if i < 0 {
		return webhookMode{}, fmt.Errorf("no mode %q", key)
	}
	return modes[i], nil
}

// arrivals is what the consumer says of what it got.
type arrivals struct {
	Requests int     `json:"requests"`
	Events   int     `json:"events"`
	Seconds  float64 `json:"seconds"` // from the first request to the last
	P50      float64 `json:"p50"`     // milliseconds from sending to arrival, of what says when it was sent
	P99      float64 `json:"p99"`
}

// sentMark stands in front of the time, in Unix nanoseconds, in what is sent to measure how long it takes.
const sentMark = "sent="

// webhookConsumer is what all webhook requests go to: it reads, counts, and accepts.
type webhookConsumer struct {
	mu          sync.Mutex
	requests    int
	events      int
	first, last time.Time
	took        []time.Duration
}

func (c *webhookConsumer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/stats":
		_ = json.NewEncoder(w).Encode(c.arrivals())
		return
	case "/reset":
		c.mu.Lock()
		c.requests, c.events, c.first, c.took = 0, 0, time.Time{}, nil
		c.mu.Unlock()
		return
	}
	body, err := io.ReadAll(r.Body)
	now := time.Now()
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	n := 1
	if len(body) > 0 && body[0] == '[' {
		n = bytes.Count(body, []byte(`{"id":`))
	}
	c.mu.Lock()
	if c.first.IsZero() {
		c.first = now
	}
	c.requests++
	c.events += n
	c.last = now
	if i := bytes.Index(body, []byte(sentMark)); i >= 0 && len(body) >= i+len(sentMark)+19 {
		if sent, err := strconv.ParseInt(string(body[i+len(sentMark):i+len(sentMark)+19]), 10, 64); err == nil {
			c.took = append(c.took, now.Sub(time.Unix(0, sent)))
		}
	}
	c.mu.Unlock()
	w.WriteHeader(http.StatusNoContent)
}

// note takes in how long something took.
func (c *webhookConsumer) note(took time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.took = append(c.took, took)
}

func (c *webhookConsumer) arrivals() arrivals {
	c.mu.Lock()
	defer c.mu.Unlock()
	slices.Sort(c.took)
	at := func(q float64) float64 {
		if len(c.took) == 0 {
			return 0
		}
		return c.took[min(int(q*float64(len(c.took))), len(c.took)-1)].Seconds() * 1000
	}
	return arrivals{
		Requests: c.requests, Events: c.events, Seconds: c.last.Sub(c.first).Seconds(), P50: at(0.5), P99: at(0.99),
	}
}

// runConsumer is the consumer's process, until its standard input ends.
func runConsumer(ctx context.Context, _ target) error {
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: new(webhookConsumer), ReadHeaderTimeout: time.Minute}
	done := make(chan error, 1)
	go func() { done <- server.Serve(ln) }()
	fmt.Println("http://" + ln.Addr().String())
	_, _ = io.Copy(io.Discard, os.Stdin)
	if err := server.Close(); err != nil {
		return err
	}
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// runFill leaves t.count events in the data directory that wait for the sink hook, and their JSON in a log file.
func runFill(ctx context.Context, t target) error {
	// Nothing listens at the discard port, and after the first attempt nothing is tried again.
	hook := "  - {name: hook, webhook: {url: \"http://127.0.0.1:9/\"}, retry: {initial: 1h, max: 1h}}\n"
	b, err := startBridgeWith(ctx, t, 1, t.logSinks(1)+hook, func(s status.Status) bool { return len(s.HMCs) > 0 && s.HMCs[0].Connected })
	if err != nil {
		return err
	}
	defer b.stop()
	t.ready()
	return b.until(ctx, func(s status.Status) bool { return int(s.Sinks[0].Delivered) > t.count })
}

// runDelivery delivers what runFill has left, until its standard input ends. t.arg is the mode and the URL.
func runDelivery(ctx context.Context, t target) error {
	key, url, _ := strings.Cut(t.arg, " ")
	mode, err := webhookModeOf(key)
	if err != nil {
		return err
	}
	hook := fmt.Sprintf("  - {name: hook, webhook: {url: %q}, concurrency: %d, batch: {max_events: %d}}\n", url, mode.concurrency, mode.batch)
	b, err := startBridgeWith(ctx, t, 1, hook, func(s status.Status) bool { return len(s.Sinks) > 0 })
	if err != nil {
		return err
	}
	defer b.stop()
	t.begin()
	b.every = 50 * time.Millisecond // the consumer says how long it took
	err = b.until(ctx, func(s status.Status) bool { return int(s.Sinks[0].Delivered) >= t.count })
	t.end()
	return err
}

// runPlainLoop posts the lines of a log file, without anything else that a daemon does. t.arg is the mode and the URL.
func runPlainLoop(ctx context.Context, t target) error {
	key, url, _ := strings.Cut(t.arg, " ")
	mode, err := webhookModeOf(key)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(t.logFile(0))
	if err != nil {
		return err
	}
	var bodies [][]byte
	for line := range bytes.Lines(data) {
		bodies = append(bodies, bytes.TrimSpace(line))
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: mode.concurrency}}
	defer client.CloseIdleConnections()
	t.begin()
	var (
		posting sync.WaitGroup
		errs    = make([]error, mode.concurrency)
	)
	for n := range mode.concurrency {
		posting.Go(func() {
			for i := n * mode.batch; i < len(bodies) && errs[n] == nil; i += mode.concurrency * mode.batch {
				body := bodies[i]
				if mode.batch > 1 {
					body = slices.Concat([]byte("["), bytes.Join(bodies[i:min(i+mode.batch, len(bodies))], []byte(",")), []byte("]"))
				}
				errs[n] = post(ctx, client, url, body)
			}
		})
	}
	posting.Wait()
	t.end()
	return errors.Join(errs...)
}

// post sends one body.
func post(ctx context.Context, client *http.Client, url string, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return errors.Join(err, resp.Body.Close())
}

// consumerProcess is a running consumer.
type consumerProcess struct{ url string }

func (c consumerProcess) reset(ctx context.Context) error {
	return post(ctx, http.DefaultClient, c.url+"/reset", nil)
}

func (c consumerProcess) arrivals(ctx context.Context) (a arrivals, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url+"/stats", nil)
	if err != nil {
		return a, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return a, err
	}
	defer func() { _ = resp.Body.Close() }()
	return a, json.NewDecoder(resp.Body).Decode(&a)
}

// withConsumer runs a consumer meanwhile.
func (b bench) withConsumer(ctx context.Context, use func(consumerProcess) error) error {
	broker, err := hmcsim.StartBroker(hmcsim.BrokerOptions{}) // every process is given one
	if err != nil {
		return err
	}
	defer func() { _ = broker.Close() }()
	b.profile = ""
	return b.withClient(ctx, "consumer", "", broker, func(lines *bufio.Scanner, _ int) error {
		if !lines.Scan() {
			return errors.New("the consumer does not start")
		}
		return use(consumerProcess{lines.Text()})
	})
}

// compareWebhooks compares the delivery of stored events with a plain loop that posts the same bodies.
func (b bench) compareWebhooks(ctx context.Context, rounds int) error {
	return b.withConsumer(ctx, func(consumer consumerProcess) error {
		fmt.Printf("\n(e)  delivery of a stored backlog of 32 partitions to a webhook, each in order and acknowledged, against a plain loop of\n"+
			"     net/http that posts the same bodies to the same consumer in no order; medians of %d runs, the ratio that of the pairs\n\n", rounds)
		fmt.Printf("     %-26s %16s %12s %16s %12s %10s\n", "", "plain events/s", "CPU us each", "daemon events/s", "CPU us each", "ratio")
		for _, mode := range webhookModes() {
			b.count = mode.events
			if err := b.compareMode(ctx, rounds, mode, consumer); err != nil {
				return fmt.Errorf("%s: %w", mode.title, err)
			}
		}
		return nil
	})
}

func (b bench) compareMode(ctx context.Context, rounds int, mode webhookMode, consumer consumerProcess) error {
	broker, err := hmcsim.StartBroker(hmcsim.BrokerOptions{Topics: []string{topicName}})
	if err != nil {
		return err
	}
	defer func() { _ = broker.Close() }()
	filled := filepath.Join(b.tmp, "filled-"+mode.key)
	if err := os.Mkdir(filled, 0o700); err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(filled) }()
	err = b.withProcess(ctx, "fill", filled, "", broker, func(lines *bufio.Scanner, _ int) error {
		if !lines.Scan() {
			return errors.New("the data directory could not be filled")
		}
		_, err := broker.Flood(ctx, hmcsim.FloodOptions{Topic: topicName, Frames: int64(b.count), Messages: mode.messages})
		return err
	})
	if err != nil {
		return err
	}
	var plain, daemon, plainCPU, daemonCPU, ratios []float64
	for round := range rounds {
		rate, cpu, err := b.measureWebhook(ctx, "plain", mode, filled, broker, consumer)
		if err != nil {
			return fmt.Errorf("plain loop: %w", err)
		}
		plain, plainCPU = append(plain, rate), append(plainCPU, cpu)
		if rate, cpu, err = b.measureWebhook(ctx, "deliver", mode, filled, broker, consumer); err != nil {
			return fmt.Errorf("delivery: %w", err)
		}
		daemon, daemonCPU = append(daemon, rate), append(daemonCPU, cpu)
		ratios = append(ratios, rate/plain[round])
		fmt.Fprintf(os.Stderr, "round %d of %d: (e) %s: plain loop %.0f, daemon %.0f events/s\n", round+1, rounds, mode.title, plain[round], rate)
	}
	value := func(f float64) float64 { return f }
	ratio, goal := median(ratios, value), ""
	if mode.goal > 0 {
		goal = atLeast(mode.goal, ratio)
	}
	fmt.Printf("     %-26s %16.0f %12.2f %16.0f %12.2f %9.2fx%s\n", mode.title,
		median(plain, value), median(plainCPU, value), median(daemon, value), median(daemonCPU, value), ratio, goal)
	return nil
}

// measureWebhook returns the events per second as they arrive, and the CPU microseconds of the sender for each.
func (b bench) measureWebhook(ctx context.Context, key string, mode webhookMode, filled string, broker *hmcsim.Broker, consumer consumerProcess) (rate, cpu float64, err error) {
	dir, err := os.MkdirTemp(b.tmp, "webhook-")
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.CopyFS(filepath.Join(dir, "copy"), os.DirFS(filled)); err != nil {
		return 0, 0, err
	}
	if err := consumer.reset(ctx); err != nil {
		return 0, 0, err
	}
	var r result
	err = b.withProcess(ctx, key, filepath.Join(dir, "copy"), mode.key+" "+consumer.url+"/", broker, func(lines *bufio.Scanner, _ int) error {
		if !lines.Scan() {
			return errors.New("the sender ended without a result")
		}
		return json.Unmarshal(lines.Bytes(), &r)
	})
	if err != nil {
		return 0, 0, err
	}
	got, err := consumer.arrivals(ctx)
	if err != nil {
		return 0, 0, err
	}
	if got.Events < b.count {
		return 0, 0, fmt.Errorf("%d of %d events arrived", got.Events, b.count)
	}
	return float64(got.Events) / got.Seconds, r.CPUSeconds / float64(got.Events) * 1e6, nil
}
