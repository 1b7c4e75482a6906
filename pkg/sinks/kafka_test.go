package sinks

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl/plain"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/program"
)

const (
	kafkaUser     = "hmcnotifyd"
	kafkaPassword = "p4ssw0rd-of-the-topic"
)

// startKafka starts a cluster of three brokers that speaks Kafka's protocol.
func startKafka(t testing.TB, options ...kfake.Opt) *kfake.Cluster {
	t.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{
		kfake.BrokerConfigs(map[string]string{"message.max.bytes": strconv.Itoa(32 << 20)}),
	}, options...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func kafkaConfig(brokers []string) config.Sink {
	return config.Sink{
		Kafka: &config.Kafka{Brokers: brokers, Topic: config.DefaultTopic, MaxMessageBytes: 16 << 20},
		Batch: config.Batch{MaxEvents: 1}, Concurrency: 4, Timeout: patience,
	}
}

func kafkaTo(t testing.TB, brokers []string, change ...func(*config.Sink)) *kafkaSink {
	t.Helper()
	cfg := kafkaConfig(brokers)
	cfg.Name = "topic"
	for _, c := range change {
		c(&cfg)
	}
	s, err := New(cfg, Options{Version: "1.2.3"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	k, ok := s.(*kafkaSink)
	if !ok {
		t.Fatalf("%T", s)
	}
	return k
}

// kafkaHolds counts the records that the clients of a sink hold.
type kafkaHolds struct{ atomic.Int64 }

func (h *kafkaHolds) OnProduceRecordBuffered(*kgo.Record)          { h.Add(1) }
func (h *kafkaHolds) OnProduceRecordUnbuffered(*kgo.Record, error) { h.Add(-1) }

func holdsOf(k *kafkaSink) *kafkaHolds {
	h := &kafkaHolds{}
	k.options = append(k.options, kgo.WithHooks(h))
	return h
}

// kafkaRecords reads all that is in a cluster, partition by partition, in the order of each.
func kafkaRecords(t testing.TB, c *kfake.Cluster, options ...kgo.Opt) []*kgo.Record {
	t.Helper()
	reader, err := kgo.NewClient(append(options, kgo.SeedBrokers(c.ListenAddrs()...), kgo.ConsumeRegex(), kgo.ConsumeTopics(".*"), kgo.FetchMaxWait(10*time.Millisecond))...)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	ctx := context.WithoutCancel(t.Context())
	want, err := kafkaEnd(ctx, reader)
	if err != nil {
		t.Fatal(err)
	}
	var all []*kgo.Record
	for int64(len(all)) < want {
		fetched := reader.PollFetches(ctx)
		if err := fetched.Err(); err != nil {
			t.Fatal(err)
		}
		all = append(all, fetched.Records()...)
	}
	slices.SortStableFunc(all, func(a, b *kgo.Record) int { return int(a.Partition - b.Partition) })
	return all
}

// kafkaEnd counts the records there are.
func kafkaEnd(ctx context.Context, client *kgo.Client) (int64, error) {
	metadata, err := kmsg.NewPtrMetadataRequest().RequestWith(ctx, client)
	if err != nil {
		return 0, err
	}
	req := kmsg.NewPtrListOffsetsRequest()
	for _, t := range metadata.Topics {
		topic := kmsg.NewListOffsetsRequestTopic()
		topic.Topic = *t.Topic
		for _, p := range t.Partitions {
			partition := kmsg.NewListOffsetsRequestTopicPartition()
			partition.Partition, partition.Timestamp = p.Partition, -1
			topic.Partitions = append(topic.Partitions, partition)
		}
		req.Topics = append(req.Topics, topic)
	}
	var total int64
	for _, shard := range client.RequestSharded(ctx, req) {
		if shard.Err != nil {
			return 0, shard.Err
		}
		resp, ok := shard.Resp.(*kmsg.ListOffsetsResponse)
		if !ok {
			return 0, fmt.Errorf("%T", shard.Resp)
		}
		for _, t := range resp.Topics {
			for _, p := range t.Partitions {
				if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
					return 0, err
				}
				total += p.Offset
			}
		}
	}
	return total, nil
}

func kafkaPlain(password string) kgo.Opt {
	return kgo.SASL(plain.Auth{User: kafkaUser, Pass: password}.AsMechanism())
}

// The far side of a Kafka sink: a cluster in this process that speaks the protocol.
func newKafkaPeer(t *testing.T) *peer {
	c := startKafka(t, kfake.SeedTopics(1, config.DefaultTopic), kfake.EnableSASL(), kfake.Superuser("PLAIN", kafkaUser, kafkaPassword))
	var (
		state   atomic.Int32
		waiting atomic.Int32
		fault   *kfake.FaultHandle
	)
	visits := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: config.DefaultTopic, Count: -1, Observe: true})
	c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if behavior(state.Load()) == hang {
			waiting.Add(1)
			return nil, nil, true
		}
		return nil, nil, false
	})
	cfg := kafkaConfig(c.ListenAddrs())
	cfg.Kafka.SASL = &config.SASL{Mechanism: config.SASLPlain, Userid: kafkaUser, Password: config.NewSecret(kafkaPassword)}
	p := &peer{
		cfg:     cfg,
		opts:    Options{Version: "1.2.3"},
		secrets: []string{kafkaPassword},
		can:     []behavior{refuse, busy, hang, pause, refuseLarge},
		received: func() []json.RawMessage {
			var all []json.RawMessage
			for _, r := range kafkaRecords(t, c, kafkaPlain(kafkaPassword)) {
				all = append(all, r.Value)
			}
			return all
		},
		hanging:  func() bool { return waiting.Load() > 0 },
		visitors: func() int { return visits.Hits() },
		leave:    c.Close,
	}
	p.behave = func(b behavior) {
		state.Store(int32(b))
		if fault != nil {
			fault.Remove()
			fault = nil
		}
		fail := func(err *kerr.Error) {
			fault = c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: config.DefaultTopic, Err: err, Count: -1})
		}
		switch b {
		case refuse:
			fail(kerr.InvalidRecord)
		case busy:
			fail(kerr.PolicyViolation)
		case pause:
			fail(kerr.TopicAuthorizationFailed)
		case refuseLarge:
			p.cfg.Kafka.MaxMessageBytes = manyBytes
		}
	}
	return p
}

func kafkaHeaders(r *kgo.Record) map[string]string {
	headers := make(map[string]string)
	for _, h := range r.Headers {
		headers[h.Key] = string(h.Value)
	}
	return headers
}

func TestKafkaRecord(t *testing.T) {
	c := startKafka(t, kfake.SeedTopics(3, "hmc.hmc-east.status-change", "hmc.west.bridge-gap"))
	k := kafkaTo(t, c.ListenAddrs(), func(c *config.Sink) { c.Kafka.Topic = "hmc.{hmc}.{type}" })
	at := time.Date(2026, 11, 20, 10, 0, 0, 123_000_000, time.UTC)
	status := record(1)
	gap := event.NewRecord(&event.Event{
		ID: "b", HMC: "west", Type: event.TypeBridgeGap, Severity: event.SeverityWarning, Time: at, Received: at.Add(time.Second),
	})
	ahead := event.NewRecord(&event.Event{
		ID: "c", HMC: "west", Type: event.TypeBridgeGap, Severity: event.SeverityInfo, Time: at.Add(9 * time.Hour), Received: at.Add(2 * time.Second),
	})
	if err := k.Send(t.Context(), []event.Record{status, gap, ahead}); err != nil {
		t.Fatal(err)
	}
	got := make(map[string]*kgo.Record)
	for _, r := range kafkaRecords(t, c) {
		got[kafkaHeaders(r)["id"]] = r
	}
	for _, want := range []struct {
		record     event.Record
		topic, key string
		at         time.Time
		headers    map[string]string
	}{
		{status, "hmc.hmc-east.status-change", "/api/partitions/1", status.Received.Truncate(time.Millisecond), map[string]string{
			"id": status.ID, "type": "status-change", "hmc": "hmc-east", "severity": "warning",
		}},
		{gap, "hmc.west.bridge-gap", "west", at, map[string]string{"id": "b", "type": "bridge-gap", "hmc": "west", "severity": "warning"}},
		{ahead, "hmc.west.bridge-gap", "west", ahead.Received, map[string]string{"id": "c", "type": "bridge-gap", "hmc": "west", "severity": "info"}},
	} {
		r := got[want.record.ID]
		if r == nil {
			t.Errorf("%s is not there", want.record.ID)
			continue
		}
		if r.Topic != want.topic || string(r.Key) != want.key || !r.Timestamp.Equal(want.at) || !bytes.Equal(r.Value, want.record.JSON) {
			t.Errorf("topic %s, key %s, at %s: %s", r.Topic, r.Key, r.Timestamp, r.Value)
		}
		if headers := kafkaHeaders(r); !maps.Equal(headers, want.headers) {
			t.Errorf("headers %v, want %v", headers, want.headers)
		}
	}
}

func TestKafkaCompression(t *testing.T) {
	for _, compression := range []string{
		"", config.CompressionNone, config.CompressionGzip, config.CompressionSnappy, config.CompressionLZ4, config.CompressionZstd,
	} {
		t.Run(compression, func(t *testing.T) {
			c := startKafka(t, kfake.SeedTopics(1, config.DefaultTopic))
			var codec atomic.Int32
			c.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
				c.KeepControl()
				if produce, ok := req.(*kmsg.ProduceRequest); ok {
					var b kmsg.RecordBatch
					if err := b.ReadFrom(produce.Topics[0].Partitions[0].Records); err != nil {
						t.Error(err)
					}
					codec.Store(int32(b.Attributes & 7))
				}
				return nil, nil, false
			})
			k := kafkaTo(t, c.ListenAddrs(), func(c *config.Sink) { c.Kafka.Compression = compression })
			r := largeRecord(0, 10_000)
			if err := k.Send(t.Context(), []event.Record{r}); err != nil {
				t.Fatal(err)
			}
			codecs := []string{config.CompressionNone, config.CompressionGzip, config.CompressionSnappy, config.CompressionLZ4, config.CompressionZstd}
			if got := codecs[codec.Load()]; got != cmp.Or(compression, config.CompressionNone) {
				t.Errorf("compressed with %s", got)
			}
			if all := kafkaRecords(t, c); len(all) != 1 || !bytes.Equal(all[0].Value, r.JSON) {
				t.Errorf("%d records", len(all))
			}
		})
	}
	if _, err := New(config.Sink{Kafka: &config.Kafka{Brokers: []string{"k:1"}, Compression: "brotli"}}, Options{}); err == nil {
		t.Error("an unknown compression is taken")
	}
}

// A cluster in trouble, while several lanes send: leaders move, replicas are missing, answers get lost, brokers do not
// answer. Each event is there, those of each resource first come in their order, and what the client repeats by itself is
// not there twice.
func TestKafkaTrouble(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		timeout time.Duration // of one attempt
		exactly bool          // nothing but the client itself repeats
		trouble func(c *kfake.Cluster)
	}{
		{"leaders move", patience, true, func(c *kfake.Cluster) { c.ShufflePartitionLeaders() }},
		{"replicas are missing", patience, true, func(c *kfake.Cluster) {
			c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: config.DefaultTopic, Err: kerr.NotEnoughReplicas, Count: 3})
		}},
		{"answers are lost", patience, true, func(c *kfake.Cluster) {
			c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: config.DefaultTopic, Err: kerr.NotEnoughReplicasAfterAppend, Count: 3})
		}},
		{"connections break", patience, true, func(c *kfake.Cluster) {
			c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) { return nil, errors.New("broken"), true })
		}},
		{"permission comes and goes", patience, false, func(c *kfake.Cluster) {
			c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: config.DefaultTopic, Err: kerr.TopicAuthorizationFailed, Count: 2})
		}},
		{"no answer", time.Second, false, func(c *kfake.Cluster) {
			c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) { return nil, nil, true })
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := startKafka(t, kfake.SeedTopics(3, config.DefaultTopic))
			k := kafkaTo(t, c.ListenAddrs(), func(c *config.Sink) { c.Timeout = test.timeout })
			holds := holdsOf(k)
			const lanes, batches, size = 3, 12, 20
			var (
				wg   sync.WaitGroup
				sent atomic.Int32
			)
			for lane := range lanes {
				wg.Go(func() {
					for b := range batches {
						var batch []event.Record
						for i := range size {
							batch = append(batch, keyed((lane*batches+b)*size+i, fmt.Sprintf("L%d-%d", lane, i%4)))
						}
						if attempts, _ := sendAll(t, k, batch); attempts > 1 && test.exactly {
							t.Errorf("the client does not help itself: %d attempts", attempts)
						}
						sent.Add(1)
					}
				})
			}
			for round := range batches / 4 {
				test.trouble(c)
				want := int32(lanes * (round + 1) * 4 * 9 / 10)
				eventually(t, "some are sent", func() bool { return sent.Load() >= want })
			}
			wg.Wait()

			times := make(map[string]int)
			last := make(map[string]int64)
			for _, r := range kafkaRecords(t, c) {
				id := kafkaHeaders(r)["id"]
				times[id]++
				at := r.Timestamp.Unix()
				if times[id] == 1 && at < last[string(r.Key)] {
					t.Errorf("%s: %d comes first after %d", r.Key, at, last[string(r.Key)])
				}
				last[string(r.Key)] = max(last[string(r.Key)], at)
			}
			if want := lanes * batches * size; len(times) != want {
				t.Errorf("%d of %d events are there", len(times), want)
			}
			for id, n := range times {
				if test.exactly && n != 1 {
					t.Errorf("%s is there %d times", id, n)
				}
			}
			eventually(t, "the clients hold nothing", func() bool { return holds.Load() == 0 })
		})
	}
}

// slowHandOver waits before the client gets the second record of a Send: what is sent before it has all is answered then.
type slowHandOver struct {
	records  int
	answered func() bool
}

func (h *slowHandOver) OnProduceRecordBuffered(r *kgo.Record) {
	if h.records++; h.records != 2 || r.Topic == "" {
		return
	}
	for end := time.Now().Add(20 * time.Millisecond); time.Now().Before(end) && !h.answered(); {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(5 * time.Millisecond) // until the client knows
}

func (*slowHandOver) OnProduceRecordUnbuffered(*kgo.Record, error) {}

// Where a partition refuses the first that it gets of a Send, nothing of this Send gets there behind it: not while the
// client still gets what comes next, and not what is on its way already.
func TestKafkaNothingOvertakesWhatIsRefused(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		size int // of a Send
		max  int // bytes of a request
	}{{2, 16 << 20}, {256, 16 << 20}, {1000, 50_000}} {
		t.Run(fmt.Sprintf("%d in requests of %d", test.size, test.max), func(t *testing.T) {
			t.Parallel()
			c := startKafka(t, kfake.NumBrokers(1), kfake.SeedTopics(1, config.DefaultTopic))
			k := kafkaTo(t, c.ListenAddrs(), func(c *config.Sink) { c.Kafka.MaxMessageBytes = config.Size(test.max) })
			slow := &slowHandOver{records: 2}
			k.options = append(k.options, kgo.WithHooks(slow))
			if err := k.Send(t.Context(), records(0, 1)); err != nil {
				t.Fatal(err)
			}
			var batch []event.Record
			for i := range test.size {
				batch = append(batch, keyed(i, "A"))
			}
			// The first request of a Send, and not what is still on its way of the one before: the client begins a new
			// epoch after what was refused.
			var epoch [2]int64
			first := func(r kmsg.Request) bool {
				var b kmsg.RecordBatch
				if err := b.ReadFrom(r.(*kmsg.ProduceRequest).Topics[0].Partitions[0].Records); err != nil {
					t.Error(err)
				}
				of := [2]int64{b.ProducerID, int64(b.ProducerEpoch)}
				defer func() { epoch = of }()
				return of != epoch
			}
			for round := range 10 {
				fault := c.Fault(kfake.Fault{
					Keys: []kmsg.Key{kmsg.Produce}, Topic: config.DefaultTopic, Err: kerr.TopicAuthorizationFailed, Count: 1, When: first,
				})
				slow.records, slow.answered = 0, func() bool { return fault.Hits() > 0 }
				err := k.Send(t.Context(), batch)
				again, refused := left(batch, err)
				if len(again) != test.size || len(refused) != 0 || fault.Hits() != 1 {
					t.Fatalf("round %d: %d of %d were not accepted, %d requests refused: %v", round, len(again), test.size, fault.Hits(), err)
				}
			}
			if all := kafkaRecords(t, c); len(all) != 1 {
				t.Errorf("%d records are there", len(all)-1)
			}
		})
	}
}

// That the producer may not begin is said at once also where it is found out while the client still assigns records to partitions:
// it then forgets to fail those that it has assigned. Here the last one is too large, so that nothing is sent because of it.
func TestKafkaRefusedWhileAssigning(t *testing.T) {
	t.Parallel()
	c := startKafka(t, kfake.NumBrokers(1), kfake.SeedTopics(1, config.DefaultTopic))
	fault := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.InitProducerID}, Err: kerr.ClusterAuthorizationFailed, Count: -1})
	k := kafkaTo(t, c.ListenAddrs(), func(c *config.Sink) { c.Kafka.MaxMessageBytes = 50_000 })
	batch := []event.Record{keyed(0, "A"), keyed(1, "A")}
	batch[1].JSON = []byte(`"` + strings.Repeat("x", 60_000) + `"`)
	k.options = append(k.options, kgo.RecordPartitioner(kgo.BasicConsistentPartitioner(func(string) func(*kgo.Record, int) int {
		return func(r *kgo.Record, _ int) int {
			for end := time.Now().Add(10 * time.Second); len(r.Value) > 50_000 && fault.Hits() == 0 && time.Now().Before(end); {
				time.Sleep(time.Millisecond)
			}
			if len(r.Value) > 50_000 {
				time.Sleep(50 * time.Millisecond) // until the client knows
			}
			return 0
		}
	})))
	err := k.Send(t.Context(), batch)
	if again, _ := left(batch, err); len(again) != 2 || !strings.Contains(err.Error(), "IdempotentWrite on the cluster") {
		t.Errorf("%d were not accepted: %v", len(again), err)
	}
}

// What is wrong is said, and judged for what it is.
func TestKafkaErrors(t *testing.T) {
	t.Parallel()
	topic := kfake.SeedTopics(1, config.DefaultTopic)
	right := func(c *config.Sink) {
		c.Kafka.SASL = &config.SASL{Mechanism: config.SASLPlain, Userid: kafkaUser, Password: config.NewSecret(kafkaPassword)}
	}
	users := func(acls ...kfake.ACL) []kfake.Opt {
		return []kfake.Opt{topic, kfake.EnableSASL(), kfake.EnableACLs(), kfake.User("PLAIN", kafkaUser, kafkaPassword, acls...)}
	}
	allow := func(operation kmsg.ACLOperation) kfake.ACL {
		return kfake.ACL{Resource: kmsg.ACLResourceTypeTopic, Name: config.DefaultTopic, Pattern: kmsg.ACLResourcePatternTypeLiteral, Operation: operation, Allow: true}
	}
	for _, test := range []struct {
		name    string
		cluster []kfake.Opt
		fault   *kerr.Error // of Produce
		sink    func(*config.Sink)
		send    string // what the error of Send tells; "": none
		probe   string // and that of Probe
	}{
		{"no topic", nil, nil, nil, "there is no topic hmc-events", "there is no topic hmc-events"},
		{"permitted", users(allow(kmsg.ACLOperationWrite), allow(kmsg.ACLOperationDescribe)), nil, right, "", ""},
		{"may not write", users(allow(kmsg.ACLOperationDescribe)), nil, right, "needs the right Write on the topic hmc-events", "may not write to the topic hmc-events"},
		{"may not see", users(), nil, right, "topic hmc-events", "topic hmc-events"},
		{"wrong password", users(allow(kmsg.ACLOperationAll)), nil, func(c *config.Sink) {
			right(c)
			c.Kafka.SASL.Password = config.NewSecret("wr0ng-p4ssword")
		}, "may not accept how this sink logs on", "may not accept how this sink logs on"},
		{"wrong mechanism", users(allow(kmsg.ACLOperationAll)), nil, func(c *config.Sink) {
			right(c)
			c.Kafka.SASL.Mechanism = config.SASLScramSHA512
		}, "may not accept how this sink logs on", "may not accept how this sink logs on"},
		{"no idempotence", []kfake.Opt{topic}, kerr.ClusterAuthorizationFailed, nil, "IdempotentWrite on the cluster", ""},
		{"storage", []kfake.Opt{topic}, kerr.PolicyViolation, nil, "POLICY_VIOLATION", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			leaksNothing(t)
			c := startKafka(t, test.cluster...)
			if test.fault != nil {
				c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: config.DefaultTopic, Err: test.fault, Count: -1})
			}
			if test.sink == nil {
				test.sink = func(*config.Sink) {}
			}
			k := kafkaTo(t, c.ListenAddrs(), test.sink)
			p := &peer{secrets: []string{kafkaPassword, "wr0ng-p4ssword"}}
			for range 2 {
				for what, got := range map[string]struct {
					err  error
					want string
				}{
					"Send":  {k.Send(t.Context(), records(0, 1)), test.send},
					"Probe": {k.Probe(t.Context()), test.probe},
				} {
					err := p.check(t, got.err)
					if (err == nil) != (got.want == "") || err != nil && !strings.Contains(err.Error(), got.want) {
						t.Errorf("%s: %v, want %q", what, err, got.want)
					}
					if _, permanent := errors.AsType[*PermanentError](err); permanent {
						t.Errorf("%s: %v is permanent", what, err)
					}
					if errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("%s: found out by the timeout only: %v", what, err)
					}
				}
			}
		})
	}
}

// The ways to log on.
func TestKafkaLogon(t *testing.T) {
	for mechanism, name := range map[string]string{
		config.SASLPlain: "PLAIN", config.SASLScramSHA256: "SCRAM-SHA-256", config.SASLScramSHA512: "SCRAM-SHA-512",
	} {
		t.Run(mechanism, func(t *testing.T) {
			c := startKafka(t, kfake.SeedTopics(1, config.DefaultTopic), kfake.EnableSASL(), kfake.Superuser(name, kafkaUser, kafkaPassword))
			k := kafkaTo(t, c.ListenAddrs(), func(c *config.Sink) {
				c.Kafka.SASL = &config.SASL{Mechanism: mechanism, Userid: kafkaUser, Password: config.NewSecret(kafkaPassword)}
			})
			if err := k.Send(t.Context(), records(0, 1)); err != nil {
				t.Error(err)
			}
		})
	}
}

// An event that is refused for itself is refused for good; those beside it arrive, and once.
func TestKafkaTooLarge(t *testing.T) {
	for name, limit := range map[string]struct {
		broker, sink int
	}{"for the sink": {1 << 20, 100_000}, "for the topic": {100_000, 1 << 20}} {
		t.Run(name, func(t *testing.T) {
			c := startKafka(t, kfake.SeedTopics(1, config.DefaultTopic),
				kfake.BrokerConfigs(map[string]string{"message.max.bytes": strconv.Itoa(limit.broker)}))
			k := kafkaTo(t, c.ListenAddrs(), func(c *config.Sink) { c.Kafka.MaxMessageBytes = config.Size(limit.sink) })
			rs := records(0, 5)
			rs[2] = largeRecord(2, 200_000)
			_, refused := sendAll(t, k, rs)
			if !slices.Equal(refused, []string{rs[2].ID}) {
				t.Errorf("refused %v", refused)
			}
			var ids []string
			for _, r := range kafkaRecords(t, c) {
				ids = append(ids, kafkaHeaders(r)["id"])
			}
			if want := []string{rs[0].ID, rs[1].ID, rs[3].ID, rs[4].ID}; !slices.Equal(ids, want) {
				t.Errorf("arrived\n%v\nwant\n%v", ids, want)
			}
		})
	}
}

func TestKafkaTLS(t *testing.T) {
	authority := newTLSServer(t)
	ca := caFile(t, authority)
	c := startKafka(t, kfake.SeedTopics(1, config.DefaultTopic),
		kfake.TLS(&tls.Config{Certificates: authority.TLS.Certificates, MinVersion: tls.VersionTLS12}))
	for _, test := range []struct {
		name string
		tls  *config.TLS
		want string
	}{
		{"known", &config.TLS{CAFile: ca}, ""},
		{"known by another name", &config.TLS{CAFile: ca, ServerName: "example.com"}, ""},
		{"unverified", &config.TLS{InsecureSkipVerify: true}, ""},
		{"unknown", &config.TLS{}, "put this certificate into a file"},
		{"wrong name", &config.TLS{CAFile: ca, ServerName: "other.test"}, "not for other.test"},
		{"none", nil, "is TLS missing"},
	} {
		t.Run(test.name, func(t *testing.T) {
			k := kafkaTo(t, c.ListenAddrs(), func(c *config.Sink) { c.Kafka.TLS = test.tls })
			for what, err := range map[string]error{"Send": k.Send(t.Context(), records(0, 1)), "Probe": k.Probe(t.Context())} {
				if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
					t.Errorf("%s: %v, want %q", what, err, test.want)
				}
			}
		})
	}
}

// A cluster that goes away and comes back: an attempt fails soon and says why, the first that finds it succeeds.
func TestKafkaRestarts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var ports []int // that stay free meanwhile
	for range 3 {
		ports = append(ports, program.FreePort(t))
	}
	first := startKafka(t, kfake.Ports(ports...), kfake.SeedTopics(1, config.DefaultTopic), kfake.DataDir(dir))
	k := kafkaTo(t, first.ListenAddrs())
	if err := k.Send(t.Context(), records(0, 1)); err != nil {
		t.Fatal(err)
	}
	first.Close()
	k.timeout = time.Second // all of it is spent
	for i := range 3 {
		err := k.Send(t.Context(), records(1, 1))
		if err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("attempt %d: %v", i, err)
		}
	}
	k.timeout = patience
	second := startKafka(t, kfake.Ports(ports...), kfake.DataDir(dir))
	if err := k.Send(t.Context(), records(1, 1)); err != nil {
		t.Error(err)
	}
	if all := kafkaRecords(t, second); len(all) != 2 {
		t.Errorf("%d records", len(all))
	}
}

// kafkaTopic deletes a topic, or makes it.
func kafkaTopic(t *testing.T, c *kfake.Cluster, make bool, partitions int32) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	var code int16
	if make {
		req := kmsg.NewPtrCreateTopicsRequest()
		topic := kmsg.NewCreateTopicsRequestTopic()
		topic.Topic, topic.NumPartitions, topic.ReplicationFactor = config.DefaultTopic, partitions, 1
		req.Topics = append(req.Topics, topic)
		resp, err := req.RequestWith(t.Context(), client)
		if err != nil {
			t.Fatal(err)
		}
		code = resp.Topics[0].ErrorCode
	} else {
		req := kmsg.NewPtrDeleteTopicsRequest()
		topic := kmsg.NewDeleteTopicsRequestTopic()
		topic.Topic = new(config.DefaultTopic)
		req.TopicNames, req.Topics = []string{config.DefaultTopic}, append(req.Topics, topic)
		resp, err := req.RequestWith(t.Context(), client)
		if err != nil {
			t.Fatal(err)
		}
		code = resp.Topics[0].ErrorCode
	}
	if err := kerr.ErrorForCode(code); err != nil {
		t.Fatal(err)
	}
}

// A topic that is deleted and made again under its name is written to again at once, also with another number of
// partitions, and whether or not anything was sent meanwhile. What is said while it is not there is true.
func TestKafkaTopicDeleted(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		partitions int32
		meanwhile  int // attempts
	}{
		"the same": {3, 2}, "fewer partitions": {1, 2}, "more partitions": {8, 2}, "nobody noticed": {3, 0},
		"after a long time": {3, 20},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := startKafka(t, kfake.SeedTopics(3, config.DefaultTopic))
			k := kafkaTo(t, c.ListenAddrs(), func(c *config.Sink) { c.Timeout = 10 * time.Second })
			if err := k.Send(t.Context(), records(0, 50)); err != nil {
				t.Fatal(err)
			}
			kafkaTopic(t, c, false, 0)
			for range test.meanwhile {
				for what, err := range map[string]error{"Send": k.Send(t.Context(), records(50, 3)), "Probe": k.Probe(t.Context())} {
					if PauseReason(err) != PausedNotFound || !strings.Contains(err.Error(), "there is no topic hmc-events") {
						t.Errorf("%s while there is none: %v", what, err)
					}
				}
			}
			kafkaTopic(t, c, true, test.partitions)
			if err := k.Probe(t.Context()); err != nil {
				t.Errorf("Probe: %v", err)
			}
			start := time.Now()
			attempts, refused := sendAll(t, k, records(50, 50))
			if took := time.Since(start); attempts > 20 || len(refused) > 0 {
				t.Errorf("%d attempts in %s, refused %v", attempts, took, refused)
			}
			if all := kafkaRecords(t, c); len(all) != 50 {
				t.Errorf("%d records", len(all))
			}
		})
	}
}

// A broker that takes nothing any more: each call is bounded, and afterwards the client holds nothing.
func TestKafkaStalls(t *testing.T) {
	t.Parallel()
	c := startKafka(t, kfake.NumBrokers(1), kfake.SeedTopics(1, config.DefaultTopic))
	k := kafkaTo(t, c.ListenAddrs())
	holds := holdsOf(k)
	if err := k.Send(t.Context(), records(0, 1)); err != nil {
		t.Fatal(err)
	}
	k.timeout = 300 * time.Millisecond
	// How long the library itself waits for an answer.
	k.options = append(k.options, kgo.RequestTimeoutOverhead(15*time.Minute))
	c.ControlKey(-1, func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		return nil, nil, true
	})
	result := make(chan error, 3)
	for i := range 3 {
		go func() { result <- k.Send(t.Context(), records(i, 1)) }()
	}
	for range 3 {
		err := soon(t, "Send", func() error { return <-result })
		if err == nil || !strings.Contains(err.Error(), "no acknowledgement") {
			t.Error(err)
		}
	}
	eventually(t, "the clients hold nothing", func() bool { return holds.Load() == 0 })
	if len(k.idle) != 0 {
		t.Error("a client that nobody has answered is still trusted")
	}
}

// A Send that is ended leaves nothing behind, and ends no other.
func TestKafkaGivesUp(t *testing.T) {
	t.Parallel()
	c := startKafka(t, kfake.NumBrokers(1), kfake.SeedTopics(1, config.DefaultTopic))
	var hanging atomic.Bool
	hanging.Store(true)
	c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if hanging.Load() {
			c.SleepControl(func() { eventually(t, "the cluster answers", func() bool { return !hanging.Load() }) })
		}
		return nil, nil, false
	})
	k := kafkaTo(t, c.ListenAddrs())
	holds := holdsOf(k)
	const others = 10
	results := make(chan error, others)
	for i := range others {
		go func() { results <- k.Send(t.Context(), records(i, 3)) }()
	}
	eventually(t, "the clients have it", func() bool { return holds.Load() == 3*others })
	ctx, cancel := context.WithCancel(t.Context())
	last := make(chan error, 1)
	go func() { last <- k.Send(ctx, records(others, 3)) }()
	eventually(t, "a client has it", func() bool { return holds.Load() == 3*(others+1) })
	cancel()
	if err := soon(t, "Send", func() error { return <-last }); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	eventually(t, "the client holds nothing", func() bool { return holds.Load() == 3*others })
	hanging.Store(false)
	for range others {
		if err := soon(t, "Send", func() error { return <-results }); err != nil {
			t.Error(err)
		}
	}
	if err := k.Send(t.Context(), records(others, 3)); err != nil {
		t.Error(err)
	}
}

func TestNaming(t *testing.T) {
	f := eventFields{hmc: "hmc-east", kind: "status.change", cpc: "", class: "a b*>$c", name: strings.Repeat("Ü", 100), severity: "info"}
	for name, want := range map[string]string{
		"plain":            "plain",
		"hmc.{hmc}.{type}": "hmc.hmc-east.status_change",
		"{cpc}-{class}":    "_-a_b___c",
		"{name}":           strings.Repeat("_", 64),
		"{severity}.x":     "info.x",
	} {
		n, err := newNaming(name, "-_")
		if err != nil {
			t.Fatal(err)
		}
		if got := n.of(&f); got != want {
			t.Errorf("%s became %s, want %s", name, got, want)
		}
		if n.fixed() != (name == "plain") {
			t.Errorf("%s: fixed %v", name, n.fixed())
		}
	}
	if _, err := newNaming("{nothing}", ""); err == nil {
		t.Error("an unknown placeholder is taken")
	}
}
