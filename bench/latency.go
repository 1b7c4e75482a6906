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

	"github.com/hmcnotifyd/hmcnotifyd/pkg/bridge"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
)

const (
	// latencyRate is how many notifications per second are published to see how long they take, latencyTime for how long.
	latencyRate = 1000
	latencyTime = 8 * time.Second
	latencyGoal = 3
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
	b, err := startBridgeWith(ctx, t, 1, hook, func(s bridge.Status) bool { return s.Ready && len(s.Sinks) > 0 && s.Sinks[0].Delivered > 0 })
	if err != nil {
		return err
	}
	defer b.stop()
	t.ready()
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// compareLatency compares how long a notification takes from the HMC's socket to the webhook consumer.
func (b bench) compareLatency(ctx context.Context, rounds int) error {
	rounds = min(rounds, 3)
	got := make(map[string][]arrivals)
	err := b.withConsumer(ctx, func(consumer consumerProcess) error {
		for round := range rounds {
			for _, key := range []string{"plain-live", "live"} {
				a, err := b.measureLatency(ctx, key, consumer)
				if err != nil {
					return fmt.Errorf("%s: %w", key, err)
				}
				got[key] = append(got[key], a)
				fmt.Fprintf(os.Stderr, "round %d of %d: (f) %s: p99 %.2f ms\n", round+1, rounds, key, a.P99)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	p := func(key string, of func(arrivals) float64) float64 { return median(got[key], of) }
	p50, p99 := func(a arrivals) float64 { return a.P50 }, func(a arrivals) float64 { return a.P99 }
	ratio := p("live", p99) / p("plain-live", p99)
	fmt.Printf("\n(f)  from the broker's socket to the webhook consumer at %d notifications per second, medians of %d runs\n\n", latencyRate, rounds)
	fmt.Printf("     %-52s %10s %10s %10s\n", "", "p50 ms", "p99 ms", "p99 ratio")
	fmt.Printf("     %-52s %10.2f %10.2f\n", "go-stomp's client and a plain loop, nothing stored", p("plain-live", p50), p("plain-live", p99))
	fmt.Printf("     %-52s %10.2f %10.2f %9.2fx%s\n", "daemon: synced to disk before it is sent", p("live", p50), p("live", p99), ratio, below(latencyGoal, ratio))
	return nil
}

func (b bench) measureLatency(ctx context.Context, key string, consumer consumerProcess) (a arrivals, err error) {
	broker, err := hmcsim.StartBroker(hmcsim.BrokerOptions{Topics: []string{topicName}})
	if err != nil {
		return a, err
	}
	defer func() { _ = broker.Close() }()
	if err := consumer.reset(ctx); err != nil {
		return a, err
	}
	dir, err := os.MkdirTemp(b.tmp, "latency-")
	if err != nil {
		return a, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	count := int(latencyTime.Seconds() * latencyRate)
	err = b.withProcess(ctx, key, dir, consumer.url+"/", broker, func(lines *bufio.Scanner, _ int) error {
		if !lines.Scan() || lines.Text() != "ready" {
			return fmt.Errorf("the client is not ready: %q", lines.Text())
		}
		if err := publishAt(ctx, broker, []string{topicName}, latencyRate, count); err != nil {
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

// publishAt publishes notifications of many partitions at an even rate, on the topics in turn. One that is late does not delay
// the next.
func publishAt(ctx context.Context, broker *hmcsim.Broker, topics []string, rate, count int) error {
	begin := time.Now()
	for i := range count {
		if wait := time.Until(begin.Add(time.Duration(i) * time.Second / time.Duration(rate))); wait > 0 {
			time.Sleep(wait)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		n := broker.Publish(topics[i%len(topics)], []hmcsim.Header{
			{Name: "notification-type", Value: "property-change"}, {Name: "class", Value: "partition"}, {Name: "name", Value: "PART1"},
			{Name: "object-uri", Value: fmt.Sprintf("/api/partitions/%d", i%32)}, {Name: "session-sequence-nr", Value: strconv.Itoa(i / len(topics))},
		}, fmt.Appendf(nil, `{"change-reports":[{"property-name":"description","old-value":"a","new-value":"%s%d"}]}`, sentMark, time.Now().UnixNano()))
		if n != 1 {
			return errors.New("nobody has subscribed")
		}
	}
	return nil
}
