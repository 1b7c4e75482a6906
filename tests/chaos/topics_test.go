//go:build real

package chaos

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/hmcnotifyd/hmcnotifyd/tests/oracle"
)

const (
	kafkaTopic = "hmc-chaos"
	natsStream = "HMC"
)

// topics are a Kafka topic and a NATS stream, which are deleted and made again.
type topics struct {
	kafka  *kfake.Cluster
	url    string
	stream jetstream.JetStream
	config jetstream.StreamConfig
	reader *reader // of the topic there is now

	mu      sync.Mutex
	got     map[string][]oracle.Arrival // by sink
	refuses bool                        // what is produced
	wrong   []string
}

func startTopics(t *testing.T) *topics {
	s := &topics{got: make(map[string][]oracle.Arrival)}
	var err error
	if s.kafka, err = kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, kafkaTopic)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.kafka.Close)
	s.kafka.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		s.kafka.KeepControl()
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.refuses {
			return nil, errors.New("the topic is about to be deleted"), true
		}
		return nil, nil, false
	})
	if s.reader, err = s.startReader(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.reader.close() })

	n, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true, JetStream: true, StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	n.Start()
	t.Cleanup(func() { n.Shutdown(); n.WaitForShutdown() })
	if !n.ReadyForConnections(readyTimeout) {
		t.Fatal("the NATS server does not start")
	}
	addr, ok := n.Addr().(*net.TCPAddr)
	if !ok {
		t.Fatalf("%T", n.Addr())
	}
	s.url = fmt.Sprintf("nats://127.0.0.1:%d", addr.Port)
	nc, err := nats.Connect(s.url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	// What is published is seen also while no stream keeps it: what is sent again then has the same id.
	if _, err := nc.Subscribe("hmc.>", func(m *nats.Msg) { s.accept("stream", m.Data) }); err != nil {
		t.Fatal(err)
	}
	if s.stream, err = jetstream.New(nc); err != nil {
		t.Fatal(err)
	}
	s.config = jetstream.StreamConfig{Name: natsStream, Subjects: []string{"hmc.>"}, Storage: jetstream.MemoryStorage, Duplicates: time.Minute}
	if _, err := s.stream.CreateStream(t.Context(), s.config); err != nil {
		t.Fatal(err)
	}
	return s
}

// yaml are the sinks that write to them.
func (s *topics) yaml() string {
	return fmt.Sprintf("- {name: topic, kafka: {brokers: [%q], topic: %s}, retry: {initial: 50ms, max: 1s}}\n"+
		"- {name: stream, nats: {servers: [%q], stream: %s}, retry: {initial: 50ms, max: 1s}}\n",
		s.kafka.ListenAddrs()[0], kafkaTopic, s.url, natsStream)
}

// reader reads a topic from its begin.
type reader struct {
	client *kgo.Client
	end    context.CancelFunc
	ended  sync.WaitGroup
	read   atomic.Int64
}

func (s *topics) startReader() (*reader, error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(s.kafka.ListenAddrs()...), kgo.ConsumeTopics(kafkaTopic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(20*time.Millisecond))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &reader{client: client, end: cancel}
	r.ended.Go(func() {
		for ctx.Err() == nil {
			for _, record := range client.PollFetches(ctx).Records() {
				s.accept("topic", record.Value)
				r.read.Store(record.Offset + 1)
			}
		}
	})
	return r, nil
}

func (r *reader) close() {
	r.end()
	r.ended.Wait()
	r.client.Close()
}

// caughtUp waits until all that is in the topic has been read.
func (r *reader) caughtUp(ctx context.Context) error {
	for end := time.Now().Add(time.Minute); ; {
		last, err := r.last(ctx)
		if err == nil && r.read.Load() >= last {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("%d of %d records are read: %w", r.read.Load(), last, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// last is how many records the topic has.
func (r *reader) last(ctx context.Context) (int64, error) {
	req := kmsg.NewPtrListOffsetsRequest()
	topic, partition := kmsg.NewListOffsetsRequestTopic(), kmsg.NewListOffsetsRequestTopicPartition()
	partition.Timestamp = -1 // the end
	topic.Topic, topic.Partitions = kafkaTopic, append(topic.Partitions, partition)
	req.ReplicaID, req.Topics = -1, append(req.Topics, topic)
	resp, err := req.RequestWith(ctx, r.client)
	if err != nil {
		return 0, err
	}
	p := resp.Topics[0].Partitions[0]
	return p.Offset, kerr.ErrorForCode(p.ErrorCode)
}

// exists makes or deletes the topic.
func (r *reader) exists(ctx context.Context, yes bool) error {
	if yes {
		req, topic := kmsg.NewPtrCreateTopicsRequest(), kmsg.NewCreateTopicsRequestTopic()
		topic.Topic, topic.NumPartitions, topic.ReplicationFactor = kafkaTopic, 1, 1
		req.Topics = append(req.Topics, topic)
		resp, err := req.RequestWith(ctx, r.client)
		if err != nil {
			return err
		}
		return kerr.ErrorForCode(resp.Topics[0].ErrorCode)
	}
	req, topic := kmsg.NewPtrDeleteTopicsRequest(), kmsg.NewDeleteTopicsRequestTopic()
	topic.Topic = new(kafkaTopic)
	req.TopicNames, req.Topics = []string{kafkaTopic}, append(req.Topics, topic)
	resp, err := req.RequestWith(ctx, r.client)
	if err != nil {
		return err
	}
	return kerr.ErrorForCode(resp.Topics[0].ErrorCode)
}

func (s *topics) accept(sink string, data []byte) {
	a, err := oracle.ParseArrival(slices.Clone(data))
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.wrong = append(s.wrong, err.Error())
		return
	}
	s.got[sink] = append(s.got[sink], a)
}

// remake deletes both, and makes them again after a time. What was accepted has been read by then.
func (s *topics) remake(ctx context.Context, after time.Duration) error {
	s.setRefuses(true)
	err := errors.Join(s.reader.caughtUp(ctx), s.reader.exists(ctx, false))
	s.setRefuses(false)
	s.reader.close()
	err = errors.Join(err, s.stream.DeleteStream(ctx, natsStream))
	time.Sleep(after)
	next, failed := s.startReader()
	if failed != nil {
		return errors.Join(err, failed)
	}
	s.reader = next
	_, streamed := s.stream.CreateStream(ctx, s.config)
	return errors.Join(err, next.exists(ctx, true), streamed)
}

func (s *topics) setRefuses(yes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuses = yes
}

// deliveries returns what a sink has written.
func (s *topics) deliveries(sink string) (oracle.Deliveries, []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return oracle.Deliveries{Sink: sink, Arrivals: slices.Clone(s.got[sink])}, slices.Clone(s.wrong)
}
