package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/go-stomp/stomp/v3"
	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
)

const (
	// latencyRate is how many notifications per second are published to see how long they take, latencyTime for how long.
	latencyRate = 1000
	latencyTime = 6 * time.Second
	latencyGoal = 2.2
	diskGoal    = 1.3
	// latencyRounds keeps the time bearable.
	latencyRounds = 3
	diskTime      = 3 * time.Second
)

// runPlainLive is the plainest program there is: it posts what go-stomp's client reads, one after the other. It stores
// nothing, and loses what it has when it ends.
func runPlainLive(ctx context.Context, t target) error {
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
	time.Sleep(time.Second) // as in runGoStomp
	t.ready()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = conn.Close()
	}()
	for m := range sub.C {
		if m.Err != nil {
			return nil // it was told to end
		}
		if err := post(ctx, http.DefaultClient, t.arg, m.Body); err != nil {
			return err
		}
	}
	return nil
}

// runLive is the daemon's bridge with one webhook sink, until its standard input ends.
func runLive(ctx context.Context, t target) error {
	hook := fmt.Sprintf("  - {name: hook, webhook: {url: %q}}\n", t.arg)
	b, err := startBridgeWith(ctx, t, 1, hook, func(s status.Status) bool { return s.Ready && len(s.Sinks) > 0 && s.Sinks[0].Delivered > 0 })
	if err != nil {
		return err
	}
	defer b.stop()
	t.ready()
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// latencies are what is compared, in their order.
var latencies = []struct{ child, title string }{
	{"plain-live", "go-stomp's client and a plain loop, nothing stored"},
	{"live", "daemon: synced to disk before it is sent"},
	{"memory", "the same, its data directory in memory"},
	{"disk", "the disk: synced, not sent"},
}

// memoryDir is where files are in memory: what is synced there takes no time.
const memoryDir = "/dev/shm"

// compareLatency compares how long a notification takes from the HMC's socket to the webhook consumer, and shows the share of
// the disk: with files in memory, and alone.
func (b bench) compareLatency(ctx context.Context, rounds int) error {
	rounds = min(rounds, latencyRounds)
	results := make(map[string][]arrivals)
	err := b.withConsumer(ctx, func(consumer consumerProcess) error {
		for round := range rounds {
			for _, l := range latencies {
				tmp, child := b.tmp, l.child
				if child == "memory" {
					dir, err := os.MkdirTemp(memoryDir, "hmcnotifyd-bench-")
					if err != nil {
						continue // there is none on this machine
					}
					defer func() { _ = os.RemoveAll(dir) }()
					tmp, child = dir, "live"
				}
				measure := func() (arrivals, error) { return b.measureLatency(ctx, child, tmp, consumer) }
				if child == "disk" {
					measure = func() (arrivals, error) { return measureDisk(ctx, tmp) }
				}
				a, err := measure()
				if err != nil {
					return fmt.Errorf("%s: %w", l.title, err)
				}
				results[l.child] = append(results[l.child], a)
				fmt.Fprintf(os.Stderr, "round %d of %d: (f) %s: p99 %.2f ms\n", round+1, rounds, l.title, a.P99)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	reportLatencies(results, rounds)
	return nil
}

func reportLatencies(results map[string][]arrivals, rounds int) {
	p99 := func(child string) float64 { return median(results[child], func(a arrivals) float64 { return a.P99 }) }
	fmt.Printf("\n(f)  from the broker's socket to the webhook consumer at %d notifications per second, medians of %d runs\n\n", latencyRate, rounds)
	fmt.Printf("     %-52s %10s %10s %10s\n", "", "p50 ms", "p99 ms", "p99 ratio")
	for _, l := range latencies {
		if len(results[l.child]) == 0 {
			continue
		}
		ratio, goal := p99(l.child)/p99("plain-live"), ""
		if l.child == "live" {
			goal = below(latencyGoal, ratio)
			alone := p99(l.child) / p99("disk")
			goal += fmt.Sprintf(", %.2fx the disk alone", alone) + below(diskGoal, alone)
		}
		fmt.Printf("     %-52s %10.2f %10.2f %9.2fx%s\n", l.title,
			median(results[l.child], func(a arrivals) float64 { return a.P50 }), p99(l.child), ratio, goal)
	}
}

// measureDisk returns how long the daemon's queue alone takes until a record is synced, at the rate of the notifications.
func measureDisk(ctx context.Context, tmp string) (_ arrivals, err error) {
	dir, err := os.MkdirTemp(tmp, "disk-")
	if err != nil {
		return arrivals{}, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	q, err := queue.Open(queue.Options{Dir: dir, Logger: zap.NewNop()})
	if err != nil {
		return arrivals{}, err
	}
	var (
		synced = new(webhookConsumer)
		record = make([]byte, 1000)
		begin  = time.Now()
	)
	for i := range int(diskTime.Seconds() * latencyRate) {
		if wait := time.Until(begin.Add(time.Duration(i) * time.Second / latencyRate)); wait > 0 {
			time.Sleep(wait)
		}
		start := time.Now()
		// Done says why not, which Flush says too.
		err := q.Append(ctx, queue.Batch{Records: [][]byte{record}, Done: func(error) { synced.note(time.Since(start)) }})
		if err != nil {
			return arrivals{}, errors.Join(err, q.Close())
		}
	}
	err = errors.Join(q.Flush(), q.Close())
	return synced.arrivals(), err
}

func (b bench) measureLatency(ctx context.Context, key, tmp string, consumer consumerProcess) (a arrivals, err error) {
	broker, err := hmcsim.StartBroker(hmcsim.BrokerOptions{Topics: []string{topicName}})
	if err != nil {
		return a, err
	}
	defer func() { _ = broker.Close() }()
	if err := consumer.reset(ctx); err != nil {
		return a, err
	}
	dir, err := os.MkdirTemp(tmp, "latency-")
	if err != nil {
		return a, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	count := int(latencyTime.Seconds() * latencyRate)
	err = b.withProcess(ctx, key, dir, consumer.url+"/", broker, func(lines *bufio.Scanner, _ int) error {
		if !lines.Scan() || lines.Text() != "ready" {
			return fmt.Errorf("the client is not ready: %q", lines.Text())
		}
		if err := publishAt(ctx, broker, []string{topicName}, latencyRate, count, propertyChange); err != nil {
			return err
		}
		for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			if a, err = consumer.arrivals(ctx); err != nil || a.Requests >= count {
				return err
			}
			if time.Now().After(end) {
				return fmt.Errorf("%d of %d arrived", a.Requests, count)
			}
		}
	})
	return a, err
}

// propertyChange is the ith of property changes of 32 partitions.
func propertyChange(i int) hmcsim.Message {
	return hmcsim.Message{Headers: []hmcsim.Header{
		{Name: "notification-type", Value: "property-change"},
		{Name: "class", Value: "partition"},
		{Name: "name", Value: "PART1"},
		{Name: "object-uri", Value: fmt.Sprintf("/api/partitions/%d", i%32)},
	}, Body: fmt.Appendf(nil, `{"change-reports":[{"property-name":"description","old-value":"a","new-value":"%s%d"}]}`, sentMark, time.Now().UnixNano())}
}

// publishAt publishes notifications at an even rate, on the topics in turn. One that is late does not delay the next.
func publishAt(ctx context.Context, broker *hmcsim.Broker, topics []string, rate, count int, message func(i int) hmcsim.Message) error {
	begin := time.Now()
	for i := range count {
		if wait := time.Until(begin.Add(time.Duration(i) * time.Second / time.Duration(rate))); wait > 0 {
			time.Sleep(wait)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		m := message(i)
		n := broker.Publish(topics[i%len(topics)], append(m.Headers, hmcsim.Header{Name: "session-sequence-nr", Value: strconv.Itoa(i / len(topics))}), m.Body)
		if n != 1 {
			return errors.New("nobody has subscribed")
		}
	}
	return nil
}
