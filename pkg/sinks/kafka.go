package sinks

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

const (
	// maxKafkaTopic is the longest name of a topic.
	maxKafkaTopic = 249

	// kafkaUnknownTopic is how often a topic that is not known is asked for before its events
	// are turned down: it may just have been made.
	kafkaUnknownTopic = 1

	// kafkaMetadataAge is how soon after one look at the cluster there may be another.
	kafkaMetadataAge = 500 * time.Millisecond

	// kafkaGrace is how long after its end a Send waits for the client to let go of its
	// records.
	kafkaGrace = 500 * time.Millisecond

	// kafkaFlush is after how long the client is told once more to send what it has.
	kafkaFlush = time.Second
)

// kafkaSink produces events to a Kafka topic. The producer is idempotent: what it repeats by
// itself, because an answer was lost, is there once, and in order.
type kafkaSink struct {
	stream
	options   []kgo.Opt
	tlsConfig *tls.Config
	logsOn    bool

	mu sync.Mutex
	// idle are the clients that no attempt has, the one that was used last behind the others.
	idle []*kafkaClient
}

// kafkaClient is the library's client with what is known of it. One attempt has it at a time.
type kafkaClient struct {
	*kgo.Client
	// reached says that a broker has answered, and that since then no Send has failed as a
	// whole.
	reached bool
	// answers counts the records that were accepted so far.
	answers int
	// closed says that it is of no more use.
	closed bool
	// failed is what became of the last attempt to connect.
	failed atomic.Pointer[error]
}

func newKafka(cfg config.Sink, opts Options) (Sink, error) {
	c := cfg.Kafka
	if len(c.Brokers) == 0 {
		return nil, errors.New("kafka: brokers is not set")
	}
	common, err := newStream("kafka", c.Brokers, "topic", cmp.Or(c.Topic, config.DefaultTopic), cfg)
	if err != nil {
		return nil, err
	}
	k := &kafkaSink{stream: common, logsOn: c.SASL != nil}
	k.tls = c.TLS
	if c.TLS != nil {
		if k.tlsConfig, err = c.TLS.ClientConfig(); err != nil {
			return nil, fmt.Errorf("kafka: %w", err)
		}
	}
	k.options = []kgo.Opt{
		kgo.SeedBrokers(c.Brokers...),
		kgo.ClientID(cmp.Or(c.ClientID, config.DefaultClientID)),
		kgo.SoftwareNameAndVersion("hmcnotifyd", cmp.Or(opts.Version, "0")),
		kgo.DisableClientMetrics(),
		kgo.MetadataMinAge(kafkaMetadataAge),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		// As Kafka's own clients do.
		kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)),
		kgo.ProducerLinger(0),
		kgo.ProducerBatchMaxBytes(int32(cmp.Or(c.MaxMessageBytes, config.DefaultMaxMessageBytes))),
		kgo.ProduceRequestTimeout(max(k.timeout, 100*time.Millisecond)),
		kgo.UnknownTopicRetries(kafkaUnknownTopic),
		// Nothing is sent before all of a Send is there: see produce.
		kgo.ManualFlushing(),
		kgo.MaxBufferedRecords(math.MaxInt),
		// A Send ends in time, and its records with it, at the price of a record that is
		// there twice if an answer was lost just then: without this the client would keep
		// them, and send them, for ever. Its RecordDeliveryTimeout is of no use here: it
		// counts from the record's timestamp, which is that of the event.
		kgo.AllowIdempotentProduceCancellation(),
	}
	codec, ok := map[string]kgo.CompressionCodec{
		config.CompressionNone: kgo.NoCompression(), config.CompressionGzip: kgo.GzipCompression(),
		config.CompressionSnappy: kgo.SnappyCompression(), config.CompressionLZ4: kgo.Lz4Compression(),
		config.CompressionZstd: kgo.ZstdCompression(),
	}[cmp.Or(c.Compression, config.CompressionNone)]
	if !ok {
		return nil, fmt.Errorf("kafka: compression %q is not available", c.Compression)
	}
	k.options = append(k.options, kgo.ProducerBatchCompression(codec))
	password := ""
	if c.SASL != nil {
		password = c.SASL.Password.Expose()
		logon, err := kafkaLogon(c.SASL)
		if err != nil {
			return nil, err
		}
		k.options = append(k.options, logon)
	}
	redact := newRedactor(&url.URL{}, password)
	if err := kgo.ValidateOpts(k.options...); err != nil {
		return nil, fmt.Errorf("kafka: %w", redact.error(err))
	}
	k.explain = func(err error) error { return redact.error(k.whatHelps(err)) }
	return k, nil
}

func kafkaLogon(c *config.SASL) (kgo.Opt, error) {
	challenged := scram.Auth{User: c.Userid, Pass: c.Password.Expose()}
	switch c.Mechanism {
	case config.SASLPlain:
		return kgo.SASL(plain.Auth{User: challenged.User, Pass: challenged.Pass}.AsMechanism()), nil
	case config.SASLScramSHA256:
		return kgo.SASL(challenged.AsSha256Mechanism()), nil
	case config.SASLScramSHA512:
		return kgo.SASL(challenged.AsSha512Mechanism()), nil
	}
	return nil, fmt.Errorf("kafka: sasl: mechanism %q is not available", c.Mechanism)
}

// Send produces the records and waits until all replicas in sync have each.
//
// When it returns, the client has none of the records any more: another attempt cannot be overtaken
// by this one.
func (k *kafkaSink) Send(ctx context.Context, records []event.Record) error {
	if len(records) == 0 {
		return nil
	}
	return k.with(ctx, noAcknowledgement, func(attempt context.Context, c *kafkaClient) error {
		return k.produce(attempt, c, records)
	})
}

// Probe connects and, where there is but one topic, looks whether that is there and may be written
// to.
func (k *kafkaSink) Probe(ctx context.Context) error {
	return k.with(ctx, noAnswer, func(attempt context.Context, c *kafkaClient) error {
		if err := c.Ping(attempt); err != nil || !k.naming.fixed() {
			return err
		}
		return k.lookUp(attempt, c)
	})
}

// with is do with a client that nobody else has meanwhile.
func (k *kafkaSink) with(ctx context.Context, late string, f func(context.Context, *kafkaClient) error) error {
	var failed error // to connect, which time was spent with
	err := k.do(ctx, late, func(attempt context.Context) error {
		c, err := k.take()
		if err != nil {
			return err
		}
		defer k.put(c)
		before := c.answers
		if err = c.reach(attempt); err == nil {
			err = f(attempt, c)
		}
		if err != nil && errors.Is(attempt.Err(), context.DeadlineExceeded) && c.answers == before {
			// The library keeps what keeps it from sending to itself, a password that was
			// changed for example. A new one says so.
			k.giveUp(c)
		}
		if attempt.Err() != nil && isEnd(err) {
			if last := c.failed.Load(); last != nil {
				failed = *last
			}
		}
		return err
	})
	if failed != nil && ctx.Err() == nil && isEnd(err) {
		return ifPausing(fmt.Errorf("%w (%w)", err, k.whatHelps(failed)))
	}
	return err
}

// whatHelps says what to do about an error of a connection.
func (k *kafkaSink) whatHelps(err error) error {
	// As some brokers answer a wrong password.
	if k.logsOn && errors.Is(err, io.EOF) {
		return because(ReasonAuthorization, "%w: the broker may not accept how this sink logs on", err)
	}
	return cmp.Or(explainTLS(k.tls, err), err)
}

// reach waits for an answer of a broker: the library goes on trying for as long as it may, and says
// only then that there was none.
func (c *kafkaClient) reach(ctx context.Context) error {
	if c.reached {
		return nil
	}
	// The library does not look at ctx while it gets to know a broker.
	answer := make(chan error, 1)
	go func() { answer <- c.Ping(ctx) }()
	select {
	case err := <-answer:
		c.reached = err == nil
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// take returns a client for one attempt.
func (k *kafkaSink) take() (*kafkaClient, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.life.closed() {
		return nil, ErrClosed
	}
	if last := len(k.idle) - 1; last >= 0 {
		c := k.idle[last]
		k.idle = slices.Delete(k.idle, last, last+1)
		return c, nil
	}
	c := &kafkaClient{}
	var err error
	c.Client, err = kgo.NewClient(append(slices.Clip(k.options), kgo.Dialer(k.dialer(c)))...)
	return c, err
}

// put ends an attempt with a client.
func (k *kafkaSink) put(c *kafkaClient) {
	k.mu.Lock()
	closed := k.life.closed()
	if !closed && !c.closed {
		k.idle = append(k.idle, c)
	}
	k.mu.Unlock()
	if closed {
		c.close()
	}
}

// giveUp closes a client, and those that are idle: what it cannot get over they may not either.
func (k *kafkaSink) giveUp(c *kafkaClient) {
	c.close()
	k.closeIdle()
}

func (k *kafkaSink) closeIdle() {
	k.mu.Lock()
	idle := k.idle
	k.idle = nil
	k.mu.Unlock()
	for _, c := range idle {
		c.close()
	}
}

// close ends the client, and with it whatever it holds.
func (c *kafkaClient) close() {
	if !c.closed {
		c.closed = true
		c.Close()
	}
}

// dialer returns the function that connects c to a broker.
func (k *kafkaSink) dialer(c *kafkaClient) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, k.connect)
		defer cancel()
		conn, err := k.conns.dial(ctx, network, address)
		if err == nil && k.tlsConfig != nil {
			conn, err = handshake(ctx, conn, k.tlsConfig, address)
		}
		c.failed.Store(&err)
		return conn, err
	}
}

// handshake turns a connection into one with TLS, or closes it.
func handshake(ctx context.Context, conn net.Conn, cfg *tls.Config, address string) (net.Conn, error) {
	cfg = cfg.Clone()
	host, _, _ := net.SplitHostPort(address) // it was dialed
	cfg.ServerName = cmp.Or(cfg.ServerName, host)
	encrypted := tls.Client(conn, cfg)
	if err := encrypted.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return encrypted, nil
}

// produce hands the records to the client and waits for what becomes of each.
//
// The client sends those of a partition in their order, and when it cannot, fails all that it holds
// of this partition: what it got a moment later it would send, before those. So nobody else has
// this client, and it sends nothing until it has all records.
func (k *kafkaSink) produce(ctx context.Context, c *kafkaClient, records []event.Record) error {
	ready := make([]*kgo.Record, len(records))
	for i := range records {
		ready[i] = k.record(&records[i])
	}
	// The client calls what it promises one after the other.
	results := make([]error, len(records))
	var open sync.WaitGroup
	open.Add(len(records))
	broken := false
	var lost atomic.Bool
	for i := range ready {
		c.TryProduce(ctx, ready[i], func(_ *kgo.Record, err error) {
			if results[i] = err; err != nil && lost.Load() {
				results[i] = kgo.ErrClientClosed
			}
			// One that is too large has no others with it yet.
			broken = broken || err != nil && !errors.Is(err, kerr.MessageTooLarge)
			open.Done()
		})
	}
	// What has failed so far, as when a partition could not be looked up, is told before this,
	// which fails at once as it has no topic.
	handedOver := make(chan bool, 1)
	c.TryProduce(ctx, &kgo.Record{}, func(*kgo.Record, error) { handedOver <- !broken })
	if !<-handedOver || c.flush(ctx) != nil {
		// That finishes all of its records, which says nothing about them.
		lost.Store(true)
		k.giveUp(c)
	}
	open.Wait()

	var (
		each     []error // nil: nothing has failed
		accepted int
		unknown  bool
	)
	for i, err := range results {
		if err == nil {
			accepted++
			continue
		}
		if each == nil {
			each = make([]error, len(records))
		}
		unknown = unknown || isOneOf(err, kafkaUnknown...)
		each[i] = k.failure(ctx, &records[i], ready[i].Topic, len(records), err)
	}
	c.answers += accepted
	if each == nil {
		return nil
	}
	// If none, the next attempt looks first whether there is anybody.
	c.reached = c.reached && accepted > 0
	if unknown {
		// The library writes to no other topic of this name than the one it has known.
		k.giveUp(c)
	}
	return eventsError(each)
}

// flush sends what the client has, and waits for the answers until shortly after ctx.
func (c *kafkaClient) flush(ctx context.Context) error {
	patient, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(kafkaGrace, stop) })()
	for {
		// Where a producer may not begin, the client fails what it has, but for what it is just
		// assigning to partitions: nobody would send that, nor fail it.
		err := c.flushFor(patient, kafkaFlush)
		if err == nil || patient.Err() != nil {
			return err
		}
	}
}

func (c *kafkaClient) flushFor(ctx context.Context, limit time.Duration) error {
	ctx, stop := context.WithTimeout(ctx, limit)
	defer stop()
	return c.Flush(ctx)
}

// Preview returns the value of a record.
func (k *kafkaSink) Preview(record event.Record) ([]byte, error) { return record.JSON, nil }

// record returns an event as a record of Kafka.
func (k *kafkaSink) record(r *event.Record) *kgo.Record {
	f := fieldsOf(r)
	topic := k.naming.of(&f)
	rec := &kgo.Record{
		Topic: topic[:min(len(topic), maxKafkaTopic)],
		// What has no resource is in order for each HMC.
		Key:       []byte(cmp.Or(r.Key, f.hmc)),
		Value:     r.JSON,
		Timestamp: timestamp(&f),
		Headers: []kgo.RecordHeader{
			{Key: "id", Value: []byte(r.ID)},
			{Key: "type", Value: []byte(f.kind)},
			{Key: "hmc", Value: []byte(f.hmc)},
			{Key: "severity", Value: []byte(f.severity)},
		},
	}
	for name, value := range f.labels() {
		rec.Headers = append(rec.Headers, kgo.RecordHeader{Key: "label." + name, Value: []byte(value)})
	}
	return rec
}

// timestamp returns the time of the event. An HMC whose clock is ahead does not know it: brokers
// refuse what is far in the future, and no event can be later than its arrival.
func timestamp(f *eventFields) time.Time {
	r, at := f.record, f.at()
	if at.IsZero() || !r.Received.IsZero() && at.After(r.Received) {
		return r.Received
	}
	return at
}

// failure turns what became of one of some records into an error of Send.
func (k *kafkaSink) failure(ctx context.Context, r *event.Record, topic string, sent int, err error) error {
	switch {
	case sent > 1 && isOneOf(err, kafkaRefusals...):
		// A broker refuses all that came in one request.
		return ErrNotJudged
	case errors.Is(err, kerr.MessageTooLarge), errors.Is(err, kerr.RecordListTooLarge):
		return k.refused(http.StatusRequestEntityTooLarge, "topic "+topic+": ", r, err)
	case errors.Is(err, kerr.InvalidRecord), errors.Is(err, kerr.InvalidTimestamp):
		return k.refused(http.StatusUnprocessableEntity, "topic "+topic+": ", r, err)
	case isOneOf(err, kafkaUnknown...):
		return because(ReasonNotFound, "there is no topic %s, or none that this sink may see: create it", topic)
	case errors.Is(err, kerr.TopicAuthorizationFailed):
		return fmt.Errorf("this sink may not write to the topic %s: %w", topic, err)
	case errors.Is(err, kerr.ClusterAuthorizationFailed):
		return fmt.Errorf("this sink needs the right Write on the topic %s, "+
			"and before Kafka 3.0 IdempotentWrite on the cluster: %w", topic, err)
	// The client does not leave gaps.
	case isEnd(err) && ctx.Err() == nil:
		return because(ReasonTimeout, "topic %s: no acknowledgement in time of another event before it", topic)
	case isEnd(err):
		return ctx.Err()
	case errors.Is(err, kgo.ErrClientClosed): // by this attempt
		return cmp.Or(ctx.Err(), ErrNotJudged)
	}
	return fmt.Errorf("topic %s: %w", topic, err)
}

// kafkaRefusals are what brokers answer about what was sent.
var kafkaRefusals = []error{
	kerr.MessageTooLarge, kerr.RecordListTooLarge, kerr.InvalidRecord, kerr.InvalidTimestamp,
}

// kafkaUnknown are what is said of a topic that is not there, or not the one it was.
var kafkaUnknown = []error{kerr.UnknownTopicOrPartition, kerr.UnknownTopicID}

// kafkaErrors are what brokers answer about themselves.
var kafkaErrors = []knownErrors{
	{ReasonAuthorization, []error{
		kerr.SaslAuthenticationFailed, kerr.UnsupportedSaslMechanism, kerr.TopicAuthorizationFailed,
		kerr.ClusterAuthorizationFailed,
	}},
	{ReasonNotFound, append(slices.Clip(kafkaUnknown), kerr.InvalidTopicException)},
	{ReasonTimeout, []error{kerr.RequestTimedOut}},
	{ReasonOverloaded, []error{kerr.ThrottlingQuotaExceeded}},
	{ReasonUnavailable, []error{
		kerr.NotEnoughReplicas, kerr.NotEnoughReplicasAfterAppend, kerr.LeaderNotAvailable,
		kerr.NotLeaderForPartition, kerr.BrokerNotAvailable, kerr.KafkaStorageError,
	}},
}

// kafkaMayWrite is the bit of the right to write in what a broker says about a topic, and
// kafkaUnsaid what it says when it does not say.
const (
	kafkaMayWrite = 1 << 4
	kafkaUnsaid   = math.MinInt32
)

// lookUp asks whether the topic is there and may be written to.
func (k *kafkaSink) lookUp(ctx context.Context, c *kafkaClient) error {
	topic := k.naming.pattern("")
	req := kmsg.NewPtrMetadataRequest()
	req.IncludeTopicAuthorizedOperations = true
	asked := kmsg.NewMetadataRequestTopic()
	asked.Topic = new(topic)
	req.Topics = append(req.Topics, asked)
	resp, err := req.RequestWith(ctx, c)
	if err != nil {
		return err
	}
	for _, t := range resp.Topics {
		if err := kerr.ErrorForCode(t.ErrorCode); err != nil {
			return k.failure(ctx, &event.Record{}, topic, 1, err)
		}
		if t.AuthorizedOperations != kafkaUnsaid && t.AuthorizedOperations&kafkaMayWrite == 0 {
			return because(ReasonAuthorization, "this sink may not write to the topic %s", topic)
		}
	}
	return nil
}

// Close ends the connections.
func (k *kafkaSink) Close() error {
	k.conns.close()
	k.closeIdle()
	return nil
}
