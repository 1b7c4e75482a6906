package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/sinks"
)

// sinkCase is a kind of sink and the plain loop of the same client library that it is compared with. Both send the same
// events, as many at once, and wait for the same answers. A further kind is one more entry of sinkCases.
type sinkCase struct {
	name        string  // one word, unique
	loop        string  // what the plain loop is
	events      int     // per run
	batch       int     // events of one Send; 0: as many as the sink takes
	concurrency int     // so many Sends at a time; 0: four, as in the configuration
	resources   int     // the events are of so many: what is of one is kept in order; 0: 1000
	goal        float64 // of the ratio; 0: there is none

	// records makes n events of so many resources; nil: sinkRecords.
	records func(n, resources int) []event.Record

	// destination starts what is sent to, in a process of its own, and returns its address; nil: there is no such process,
	// and the address is the directory of the sender.
	destination func(ctx context.Context, dir string) (address string, stop func(), err error)
	sink        func(address string) config.Sink
	baseline    func(ctx context.Context, address string) (sender, error)

	// arrived returns how many events the destination has; nil: it cannot be asked.
	arrived func(ctx context.Context, address string) (int, error)
}

// senders is how many Sends there are at a time.
func (c sinkCase) senders() int { return cmp.Or(c.concurrency, 4) }

// sender is a sink, or the plain loop it is compared with.
type sender interface {
	Send(ctx context.Context, records []event.Record) error
	Close() error
}

// sinkCases are all that are compared, in the order of the output.
func sinkCases() []sinkCase {
	few := natsCase()
	few.name, few.loop, few.resources, few.goal = "nats-32", "the same, events of 32 resources", 32, 0
	return []sinkCase{webhookCase(), logCase(), syslogCase(), alertmanagerCase(), natsCase(), few, kafkaCase(), otlpCase(), splunkCase(), elasticsearchCase()}
}

func sinkCaseOf(name string) (sinkCase, error) {
	cases := sinkCases()
	i := slices.IndexFunc(cases, func(c sinkCase) bool { return c.name == name })
	if i < 0 {
		return sinkCase{}, fmt.Errorf("no sink %q", name)
	}
	return cases[i], nil
}

// sinkGoal is the ratio that a sink should have.
const sinkGoal = 0.7

// warmUp is how many events are sent before it counts: connections are made, what is looked up is known.
const warmUp = 1000

// sinkRecords returns n events of so many partitions, all different.
func sinkRecords(n, partitions int) []event.Record {
	messages := slices.DeleteFunc(hmcsim.FloodMessages(), func(m hmcsim.Message) bool {
		return slices.Contains(m.Headers, hmcsim.Header{Name: "notification-type", Value: "log-entry"})
	})
	begin := time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC)
	records := make([]event.Record, n)
	for i := range records {
		m := messages[i%len(messages)]
		at := begin.Add(time.Duration(i) * time.Millisecond)
		partition := i % partitions
		name, id := fmt.Sprintf("PART%d", partition+1), fmt.Sprintf("e12121da-c503-3117-8e79-c46bd35%05x", partition)
		e := event.Event{
			ID: event.NewID("bench", strconv.Itoa(i)), HMC: "hmc1", Time: at, Received: at, Topic: topicName, TopicType: event.TopicObject,
			Origin: event.OriginLive, Severity: event.SeverityInfo, Summary: "partition " + name + " on CPC1",
			Resource: &event.Resource{Class: "partition", Name: name, ObjectID: id, ObjectURI: "/api/partitions/" + id, CPC: "CPC1"},
			Body:     json.RawMessage(m.Body),
		}
		for _, h := range m.Headers {
			e.Headers = append(e.Headers, event.Header{Name: h.Name, Value: h.Value})
			if h.Name == "notification-type" {
				e.Type = h.Value
			}
		}
		records[i] = event.NewRecord(&e)
	}
	return records
}

// batches deals the records out to so many senders, each resource to one of them, in batches.
func batches(records []event.Record, senders, size int) [][][]event.Record {
	senderOf := make(map[string]int) // by key
	dealt := make([][]event.Record, senders)
	for _, r := range records {
		if _, ok := senderOf[r.Key]; !ok {
			senderOf[r.Key] = len(senderOf) % senders
		}
		dealt[senderOf[r.Key]] = append(dealt[senderOf[r.Key]], r)
	}
	all := make([][][]event.Record, senders)
	for i, rs := range dealt {
		all[i] = slices.Collect(slices.Chunk(rs, size))
	}
	return all
}

// sendAll lets each sender send its batches.
func sendAll(ctx context.Context, s sender, all [][][]event.Record) error {
	var sending sync.WaitGroup
	errs := make([]error, len(all))
	for i, own := range all {
		sending.Go(func() {
			for _, records := range own {
				if errs[i] = s.Send(ctx, records); errs[i] != nil {
					return
				}
			}
		})
	}
	sending.Wait()
	return errors.Join(errs...)
}

// runDestination is what is sent to, until its standard input ends. t.arg is the name of the sink.
func runDestination(ctx context.Context, t target) error {
	c, err := sinkCaseOf(t.arg)
	if err != nil {
		return err
	}
	address, stop, err := c.destination(ctx, t.dir)
	if err != nil {
		return err
	}
	defer stop()
	fmt.Println(address)
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// runSink sends through the sink, runSinkLoop by the plain loop. t.arg is the name of the sink and the address.
func runSink(ctx context.Context, t target) error {
	return runSender(ctx, t, func(c sinkCase, address string) (sender, error) {
		return newSink(c, address)
	})
}

func runSinkLoop(ctx context.Context, t target) error {
	return runSender(ctx, t, func(c sinkCase, address string) (sender, error) {
		return c.baseline(ctx, address)
	})
}

// newSink makes the sink with the defaults of what its case does not set.
func newSink(c sinkCase, address string) (sinks.Sink, error) {
	cfg := c.sink(address)
	cfg.Name, cfg.Concurrency = c.name, c.senders()
	cfg.Batch.MaxEvents = max(c.batch, 1)
	return sinks.New(cfg, sinks.Options{Version: "bench"})
}

func runSender(ctx context.Context, t target, connect func(c sinkCase, address string) (sender, error)) (err error) {
	name, address, _ := strings.Cut(t.arg, " ")
	c, err := sinkCaseOf(name)
	if err != nil {
		return err
	}
	if c.destination == nil {
		address = t.dir
	}
	size := c.batch
	if size == 0 {
		sink, err := newSink(c, address)
		if err != nil {
			return err
		}
		size, _ = sinks.MaxBatch(sink)
		if err := sink.Close(); err != nil {
			return err
		}
	}
	s, err := connect(c, address)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	makeRecords := sinkRecords
	if c.records != nil {
		makeRecords = c.records
	}
	records := makeRecords(warmUp+t.count, cmp.Or(c.resources, 1000))
	first, all := batches(records[:warmUp], 1, size), batches(records[warmUp:], c.senders(), size)
	if err := sendAll(ctx, s, first); err != nil {
		return err
	}
	t.begin()
	if err := sendAll(ctx, s, all); err != nil {
		return err
	}
	t.end()
	if c.arrived == nil {
		return nil
	}
	n, err := c.arrived(ctx, address)
	if err == nil && n != len(records) {
		err = fmt.Errorf("%d of %d events arrived", n, len(records))
	}
	return err
}

// compareSinks compares each sink with its plain loop.
func (b bench) compareSinks(ctx context.Context, rounds int) error {
	fmt.Printf("\n(i)  what a sink makes of the events it is given, against a plain loop of the same client library; medians of %d runs,\n"+
		"     the ratio that of the pairs\n\n", rounds)
	fmt.Printf("     %-12s %-44s %16s %12s %16s %12s %10s\n", "", "plain loop", "plain events/s", "CPU us each", "sink events/s", "CPU us each", "ratio")
	broker, err := hmcsim.StartBroker(hmcsim.BrokerOptions{}) // every process is given one
	if err != nil {
		return err
	}
	defer func() { _ = broker.Close() }()
	for _, c := range sinkCases() {
		b.count = c.events
		if err := b.compareSink(ctx, rounds, c, broker); err != nil {
			return fmt.Errorf("(i) %s: %w", c.name, err)
		}
	}
	return nil
}

func (b bench) compareSink(ctx context.Context, rounds int, c sinkCase, broker *hmcsim.Broker) error {
	rate := func(r result) float64 { return float64(b.count) / r.Seconds }
	cpu := func(r result) float64 { return r.CPUSeconds / float64(b.count) * 1e6 }
	var (
		plain, sink []result
		ratios      []float64
	)
	for round := range rounds {
		p, err := b.measureSink(ctx, "sink-loop", c, broker)
		if err != nil {
			return fmt.Errorf("plain loop: %w", err)
		}
		s, err := b.measureSink(ctx, "sink", c, broker)
		if err != nil {
			return fmt.Errorf("sink: %w", err)
		}
		plain, sink, ratios = append(plain, p), append(sink, s), append(ratios, rate(s)/rate(p))
		fmt.Fprintf(os.Stderr, "round %d of %d: (i) %s: plain loop %.0f, sink %.0f events/s\n", round+1, rounds, c.name, rate(p), rate(s))
	}
	ratio, goal := median(ratios, func(f float64) float64 { return f }), ""
	if c.goal > 0 {
		goal = atLeast(c.goal, ratio)
	}
	fmt.Printf("     %-12s %-44s %16.0f %12.2f %16.0f %12.2f %9.2fx%s\n", c.name, c.loop,
		median(plain, rate), median(plain, cpu), median(sink, rate), median(sink, cpu), ratio, goal)
	return nil
}

// measureSink runs a sender against a fresh destination.
func (b bench) measureSink(ctx context.Context, key string, c sinkCase, broker *hmcsim.Broker) (r result, err error) {
	send := func(address string) error {
		return b.withFreshDir(func(dir string) error {
			return b.withProcess(ctx, key, dir, c.name+" "+address, broker, func(lines *bufio.Scanner, _ int) error {
				if !lines.Scan() {
					return errors.New("the sender ended without a result")
				}
				return json.Unmarshal(lines.Bytes(), &r)
			})
		})
	}
	if c.destination == nil {
		return r, send("")
	}
	silent := b
	silent.profile = ""
	return r, b.withFreshDir(func(dir string) error {
		return silent.withProcess(ctx, "destination", dir, c.name, broker, func(lines *bufio.Scanner, _ int) error {
			if !lines.Scan() {
				return errors.New("the destination does not start")
			}
			return send(lines.Text())
		})
	})
}

func (b bench) withFreshDir(use func(dir string) error) error {
	dir, err := os.MkdirTemp(b.tmp, "sink-")
	if err != nil {
		return err
	}
	return errors.Join(use(dir), os.RemoveAll(dir))
}
