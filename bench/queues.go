package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
)

const (
	// queueGoal is what the queue takes at least in comparison with the fastest other one.
	queueGoal = 2
	// queueProducers call at the same time, each again when what it has handed over is synced.
	queueProducers = 8
	// queueRecords are the events whose JSON is stored, again and again.
	queueRecords = 1000
	// queueTime is how long they are stored; what is stored then is read to its end.
	queueTime = 2 * time.Second
)

// queueModes are how many records a call has.
var queueModes = []int{1, 100}

// engines are what keeps records, in the order of the output; ours is the first one.
var engines = []struct {
	key, title string
	least      int // records in a call
}{
	{"queue", "pkg/queue in a directory", 1},
	{"collector", "collector: exporterhelper on filestorage, fsync", 1},
	{"jetstream", "JetStream, sync_interval: always, PublishAsync", 1},
	{"jetstream-batch", "JetStream, sync_interval: always, atomic batches", 2},
}

// compareQueues prints how fast records are stored, synced, and read, by what keeps them.
func (b bench) compareQueues(ctx context.Context, rounds int) error {
	peers := filepath.Join(b.tmp, "peers")
	build := exec.CommandContext(ctx, "go", "-C", filepath.Join("bench", "peers"), "build", "-o", peers, ".")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("bench/peers cannot be built: %w\n%s", err, out)
	}
	records, err := b.eventsOfPath(ctx)
	if err != nil {
		return err
	}
	size, err := os.Stat(records)
	if err != nil {
		return err
	}
	fmt.Printf("\n(k)  the queue alone: records of %d bytes from %d producers, stored and synced, read by one; medians of %d runs\n",
		size.Size()/queueRecords-1, queueProducers, rounds)
	for _, group := range queueModes {
		results := make(map[string][]result)
		for round := range rounds {
			for _, e := range engines {
				if group < e.least {
					continue
				}
				r, err := b.measureQueue(ctx, e.key, peers, records, group)
				if err != nil {
					return fmt.Errorf("%s: %w", e.title, err)
				}
				results[e.key] = append(results[e.key], r)
				fmt.Fprintf(os.Stderr, "round %d of %d: (k) %s, %d in a call: %.0f records/s\n",
					round+1, rounds, e.title, group, float64(r.Received)/r.Seconds)
			}
		}
		rate := func(key string) float64 {
			return median(results[key], func(r result) float64 { return float64(r.Received) / r.Seconds })
		}
		fmt.Printf("\n     %-52s %16s %12s %10s\n", fmt.Sprintf("%d in a call, which waits until they are synced", group), "records/s", "CPU us each", "ratio")
		var fastest float64
		for _, e := range engines[1:] {
			if len(results[e.key]) > 0 {
				fastest = max(fastest, rate(e.key))
			}
		}
		for i, e := range engines {
			if len(results[e.key]) == 0 {
				continue
			}
			cpu := median(results[e.key], func(r result) float64 { return r.CPUSeconds / float64(r.Received) * 1e6 })
			goal := ""
			if i == 0 {
				goal = atLeast(queueGoal, rate(e.key)/fastest)
			}
			fmt.Printf("     %-52s %16.0f %12.2f %9.2fx%s\n", e.title, rate(e.key), cpu, rate(e.key)/fastest, goal)
		}
	}
	return nil
}

// eventsOfPath has the whole path write events, and returns the file that they are in, one a line.
func (b bench) eventsOfPath(ctx context.Context) (string, error) {
	b.count = queueRecords
	broker, err := hmcsim.StartBroker(hmcsim.BrokerOptions{Topics: []string{topicName}})
	if err != nil {
		return "", err
	}
	defer func() { _ = broker.Close() }()
	dir, err := os.MkdirTemp(b.tmp, "events-")
	if err != nil {
		return "", err
	}
	err = b.withProcess(ctx, "c", dir, "", broker, func(lines *bufio.Scanner, _ int) error {
		if !lines.Scan() || lines.Text() != "ready" {
			return fmt.Errorf("the client is not ready: %q", lines.Text())
		}
		if _, err := broker.Flood(ctx, hmcsim.FloodOptions{Topic: topicName, Frames: queueRecords}); err != nil {
			return err
		}
		if !lines.Scan() {
			return errors.New("the client ended without a result")
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	// What the daemon says of itself is at the beginning.
	data, err := os.ReadFile(target{dir: dir}.logFile(0))
	if err != nil {
		return "", err
	}
	lines := bytes.SplitAfter(data, []byte("\n"))
	lines = lines[:len(lines)-1] // behind the last one is nothing
	if len(lines) < queueRecords {
		return "", fmt.Errorf("%d of %d events were written", len(lines), queueRecords)
	}
	file := filepath.Join(b.tmp, "records")
	return file, os.WriteFile(file, bytes.Join(lines[len(lines)-queueRecords:], nil), 0o600)
}

// measureQueue has a process of its own store records and read them.
func (b bench) measureQueue(ctx context.Context, key, peers, records string, group int) (r result, err error) {
	dir, err := os.MkdirTemp(b.tmp, "queue-")
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	if key == "collector" {
		cmd := exec.CommandContext(ctx, peers, "-dir", dir, "-records", records, "-time", queueTime.String(),
			"-group", strconv.Itoa(group), "-producers", strconv.Itoa(queueProducers))
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		if err != nil {
			return r, err
		}
		return r, json.Unmarshal(out, &r)
	}
	p, err := start(ctx, key, "-dir", dir, "-arg", fmt.Sprintf("%d %s", group, records), "-cpuprofile", b.profile)
	if err != nil {
		return r, err
	}
	if p.lines.Scan() {
		err = json.Unmarshal(p.lines.Bytes(), &r)
	}
	return r, errors.Join(err, p.end())
}

// storing is what keeps records.
type storing struct {
	// put returns when they are synced.
	put func(ctx context.Context, records [][]byte) error
	// read reads, and counts what it has read, until ctx is done.
	read func(ctx context.Context, count *atomic.Int64) error
}

// drive has all producers store the records of t.arg for a time, and one reader read them.
func (t target) drive(ctx context.Context, s storing) error {
	number, file, _ := strings.Cut(t.arg, " ")
	group, err := strconv.Atoi(number)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	records := bytes.Split(bytes.TrimSpace(data), []byte("\n"))
	errs := make([]error, queueProducers+1)
	var (
		producing, reading sync.WaitGroup
		stored, read       atomic.Int64
	)
	readCtx, end := context.WithCancel(ctx)
	t.begin()
	began := time.Now()
	reading.Go(func() { errs[queueProducers] = s.read(readCtx, &read) })
	for p := range queueProducers {
		producing.Go(func() {
			some := make([][]byte, 0, group)
			for i := p * group; time.Since(began) < queueTime; i += queueProducers * group {
				some = some[:0]
				for n := range group {
					some = append(some, records[(i+n)%len(records)])
				}
				if errs[p] = s.put(ctx, some); errs[p] != nil {
					return
				}
				stored.Add(int64(group))
			}
		})
	}
	producing.Wait()
	for errors.Join(errs[:queueProducers]...) == nil && read.Load() < stored.Load() && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	t.counted(int(read.Load()))
	t.end()
	end()
	reading.Wait()
	return errors.Join(errs...)
}

// ended leaves out what only says that a reader was told to end.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// runQueue is the queue of the daemon.
func runQueue(ctx context.Context, t target) error {
	q, err := queue.Open(queue.Options{Dir: t.dir})
	if err != nil {
		return err
	}
	c, err := q.Cursor("bench")
	if err != nil {
		return err
	}
	err = t.drive(ctx, storing{
		put: func(ctx context.Context, records [][]byte) error {
			done := make(chan error, 1)
			if err := q.Append(ctx, queue.Batch{Records: records, Done: func(err error) { done <- err }}); err != nil {
				return err
			}
			return <-done
		},
		read: func(ctx context.Context, count *atomic.Int64) error {
			for {
				records, err := c.Next(ctx, 0, 0)
				if err != nil {
					return ended(ctx, err)
				}
				if err := c.Ack(records[len(records)-1].Seq); err != nil {
					return err
				}
				count.Add(int64(len(records)))
			}
		},
	})
	return errors.Join(err, q.Close())
}

// runJetStream is a stream in files of a server in this process, runJetStreamBatches with what it has for groups.
func runJetStream(ctx context.Context, t target) error { return runStream(ctx, t, publishAll) }

func runJetStreamBatches(ctx context.Context, t target) error {
	return runStream(ctx, t, publishBatch)
}

func runStream(ctx context.Context, t target, put func(context.Context, jetstream.JetStream, [][]byte) error) error {
	s, stop, err := startServer(&server.Options{DontListen: true, StoreDir: t.dir, SyncAlways: true})
	if err != nil {
		return err
	}
	defer stop()
	nc, err := nats.Connect("", nats.InProcessServer(s))
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	stream, err := js.CreateStream(ctx, jetstream.StreamConfig{
		Name: natsStream, Subjects: []string{"hmc.>"}, Storage: jetstream.FileStorage, AllowAtomicPublish: true,
	})
	if err != nil {
		return err
	}
	c, err := stream.CreateConsumer(ctx, jetstream.ConsumerConfig{Durable: "bench", AckPolicy: jetstream.AckAllPolicy, MaxAckPending: -1})
	if err != nil {
		return err
	}
	return t.drive(ctx, storing{
		put: func(ctx context.Context, records [][]byte) error { return put(ctx, js, records) },
		read: func(ctx context.Context, count *atomic.Int64) error {
			for ctx.Err() == nil {
				some, err := c.Fetch(queue.DefaultNextRecords, jetstream.FetchMaxWait(10*time.Millisecond))
				if err != nil {
					return err
				}
				var last jetstream.Msg
				for last = range some.Messages() {
					count.Add(1)
				}
				if err := some.Error(); err != nil {
					return err
				}
				if last != nil {
					if err := last.Ack(); err != nil {
						return err
					}
				}
			}
			return nil
		},
	})
}

// publishAll publishes all records before the first answer is awaited.
func publishAll(ctx context.Context, js jetstream.JetStream, records [][]byte) error {
	futures := make([]jetstream.PubAckFuture, len(records))
	for i, r := range records {
		var err error
		if futures[i], err = js.PublishAsync("hmc.bench", r); err != nil {
			return err
		}
	}
	return acknowledged(ctx, futures)
}

// publishBatch publishes all records as one batch, which is stored as a whole or not at all.
func publishBatch(ctx context.Context, js jetstream.JetStream, records [][]byte) error {
	id := nats.NewInbox()[len(nats.InboxPrefix):]
	for i, r := range records {
		m := &nats.Msg{Subject: "hmc.bench", Data: r, Header: nats.Header{"Nats-Batch-Id": {id}, "Nats-Batch-Sequence": {strconv.Itoa(i + 1)}}}
		if i+1 < len(records) {
			if err := js.Conn().PublishMsg(m); err != nil {
				return err
			}
			continue
		}
		m.Header["Nats-Batch-Commit"] = []string{"1"}
		if _, err := js.PublishMsg(ctx, m); err != nil {
			return err
		}
	}
	return nil
}
