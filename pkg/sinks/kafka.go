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
	"strings"
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

	// kafkaUnknownTopic is how often a topic that is not known is asked for before its events are turned down: it may just
	// have been made.
	kafkaUnknownTopic = 1

	// kafkaMetadataAge is how soon after one look at the cluster there may be another.
	kafkaMetadataAge = 500 * time.Millisecond

	// kafkaGrace is how long after its end a Send waits for the client to let go of its records.
	kafkaGrace = 500 * time.Millisecond

	// The headers of a record.
	kafkaHeaderID       = "id"
	kafkaHeaderType     = "type"
	kafkaHeaderHMC      = "hmc"
	kafkaHeaderSeverity = "severity"
)

// kafkaSink produces events to a Kafka topic. The producer is idempotent: what it repeats by itself, because an answer was
// lost, is there once, and in order.
type kafkaSink struct {
	target    string // for errors
	topic     naming
	timeout   time.Duration
	connect   time.Duration // for one broker
	batch     int
	maxBytes  int // of a record
	options   []kgo.Opt
	tls       *config.TLS
	tlsConfig *tls.Config // nil: unencrypted
	logsOn    bool
	redact    *redactor
	accepted  *acceptedIDs
	life      context.Context // ends with Close
	end       context.CancelFunc

	mu     sync.Mutex
	client *kafkaClient
}

// kafkaClient is the library's client with what is known of it.
type kafkaClient struct {
	*kgo.Client
	reached atomic.Bool // a broker has answered, and since then no Send has failed as a whole
	once    sync.Once   // for Close

	mu     sync.Mutex
	failed error // the last attempt to connect
}

func newKafka(cfg config.Sink, opts Options) (Sink, error) {
	c := cfg.Kafka
	if len(c.Brokers) == 0 {
		return nil, errors.New("kafka: brokers is not set")
	}
	topic, err := newNaming(cmp.Or(c.Topic, config.DefaultTopic), "-_")
	if err != nil {
		return nil, fmt.Errorf("kafka: topic: %w", err)
	}
	k := &kafkaSink{
		target:   strings.Join(c.Brokers, ", "),
		topic:    topic,
		timeout:  cmp.Or(max(cfg.Timeout, 0), defaultTimeout),
		batch:    max(cfg.Batch.MaxEvents, streamBatch),
		maxBytes: int(cmp.Or(c.MaxMessageBytes, config.DefaultMaxMessageBytes)),
		tls:      c.TLS,
		logsOn:   c.SASL != nil,
	}
	// Less than the whole attempt, as with NATS.
	k.connect = (k.timeout - k.timeout/8) / time.Duration(len(c.Brokers))
	inFlight := k.batch * max(cfg.Concurrency, 1)
	k.accepted = newAcceptedIDs(inFlight)
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
		kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)), // as Kafka's own clients do
		kgo.ProducerLinger(0),
		kgo.ProducerBatchMaxBytes(int32(k.maxBytes)),
		kgo.ProduceRequestTimeout(max(k.timeout, 100*time.Millisecond)),
		kgo.UnknownTopicRetries(kafkaUnknownTopic),
		kgo.MaxBufferedRecords(2 * inFlight), // of the Sends under way, and those that have just ended
		// A Send ends in time, and its records with it, at the price of a record that is there twice if an answer was lost just
		// then: without this the client would keep them, and send them, for ever. Its RecordDeliveryTimeout is of no use here: it
		// counts from the record's timestamp, which is that of the event.
		kgo.AllowIdempotentProduceCancellation(),
	}
	codec, err := kafkaCodec(c.Compression)
	if err != nil {
		return nil, err
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
	k.redact = newRedactor(&url.URL{}, password)
	if err := kgo.ValidateOpts(k.options...); err != nil {
		return nil, fmt.Errorf("kafka: %w", k.redact.error(err))
	}
	k.life, k.end = context.WithCancel(context.Background())
	return k, nil
}

func kafkaCodec(compression string) (kgo.CompressionCodec, error) {
	switch compression {
	case "", config.CompressionNone:
		return kgo.NoCompression(), nil
	case config.CompressionGzip:
		return kgo.GzipCompression(), nil
	case config.CompressionSnappy:
		return kgo.SnappyCompression(), nil
	case config.CompressionLZ4:
		return kgo.Lz4Compression(), nil
	case config.CompressionZstd:
		return kgo.ZstdCompression(), nil
	}
	return kgo.CompressionCodec{}, fmt.Errorf("kafka: compression %q is not available", compression)
}

func kafkaLogon(c *config.SASL) (kgo.Opt, error) {
	switch c.Mechanism {
	case config.SASLPlain:
		return kgo.SASL(plain.Auth{User: c.Userid, Pass: c.Password.Expose()}.AsMechanism()), nil
	case config.SASLScramSHA256:
		return kgo.SASL(scram.Auth{User: c.Userid, Pass: c.Password.Expose()}.AsSha256Mechanism()), nil
	case config.SASLScramSHA512:
		return kgo.SASL(scram.Auth{User: c.Userid, Pass: c.Password.Expose()}.AsSha512Mechanism()), nil
	}
	return nil, fmt.Errorf("kafka: sasl: mechanism %q is not available", c.Mechanism)
}

// MaxBatch returns what may be on its way at once for one Send.
func (k *kafkaSink) MaxBatch() (records, bytes int) { return k.batch, maxBatchBytes }

// Send produces the records and waits until all replicas in sync have each.
//
// When it returns, the client has none of the records any more: another attempt cannot be overtaken by this one.
func (k *kafkaSink) Send(ctx context.Context, records []event.Record) error {
	if len(records) == 0 {
		return nil
	}
	err := k.do(ctx, "no acknowledgement", func(attempt context.Context, c *kafkaClient) error {
		return k.produce(attempt, c, k.accepted.open(records))
	})
	if err == nil {
		k.accepted.done(records)
	}
	return err
}

// Probe connects and, where there is but one topic, looks whether that is there and may be written to.
func (k *kafkaSink) Probe(ctx context.Context) error {
	return k.do(ctx, "no answer", func(attempt context.Context, c *kafkaClient) error {
		if err := c.Ping(attempt); err != nil || !k.topic.fixed() {
			return err
		}
		return k.lookUp(attempt, c)
	})
}

// do calls f with a client and a context that ends with ctx, after the timeout or with Close.
func (k *kafkaSink) do(ctx context.Context, late string, f func(context.Context, *kafkaClient) error) error {
	start := time.Now()
	attempt, cancel := context.WithTimeout(ctx, k.timeout)
	defer cancel()
	defer context.AfterFunc(k.life, cancel)() //nolint:contextcheck // both contexts end it

	c, err := k.reach(attempt)
	if err == nil {
		err = f(attempt, c)
	}
	if err == nil {
		return nil
	}
	_, permanent := errors.AsType[*PermanentError](err)
	switch {
	case k.life.Err() != nil:
		err = ErrClosed
	case attempt.Err() != nil && isEnd(err):
		err = ended(ctx, attempt, late, start)
		if failed := c.lastFailure(); failed != nil && ctx.Err() == nil {
			err = fmt.Errorf("%w (%w)", err, k.explain(failed))
		}
	case permanent: // has its text
		return err
	default:
		err = k.redact.error(k.explain(err))
	}
	return fmt.Errorf("kafka: %s: %w", k.target, err)
}

// explain says what to do about an error of a connection.
func (k *kafkaSink) explain(err error) error {
	if k.logsOn && errors.Is(err, io.EOF) { // as some brokers answer a wrong password
		return because(ReasonAuthorization, fmt.Errorf("%w: the broker may not accept how this sink logs on", err))
	}
	if k.tls != nil {
		if text := k.tls.Explain(err); text != "" {
			return because(ReasonTLS, errors.New(text))
		}
	}
	return err
}

// reach returns a client that has had an answer from a broker: the library goes on trying for as long as it may, and says
// only then that there was none.
func (k *kafkaSink) reach(ctx context.Context) (*kafkaClient, error) {
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	c, err := k.newest()
	if err != nil {
		return nil, err
	}
	if c.reached.Load() {
		return c, nil
	}
	if err := c.Ping(ctx); err != nil {
		return c, err
	}
	c.reached.Store(true)
	return c, nil
}

func (k *kafkaSink) newest() (*kafkaClient, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.life.Err() != nil {
		return nil, ErrClosed
	}
	if k.client != nil {
		return k.client, nil
	}
	c := &kafkaClient{}
	client, err := kgo.NewClient(append(slices.Clip(k.options), kgo.Dialer(k.dialer(c)))...)
	if err != nil {
		return nil, err
	}
	c.Client, k.client = client, c
	return c, nil
}

// giveUp ends a client, and with it whatever it holds.
func (k *kafkaSink) giveUp(c *kafkaClient) {
	k.mu.Lock()
	if k.client == c {
		k.client = nil
	}
	k.mu.Unlock()
	c.once.Do(c.Close)
}

func (c *kafkaClient) lastFailure() error {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failed
}

// dialer returns the function that connects c to a broker.
func (k *kafkaSink) dialer(c *kafkaClient) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, k.connect)
		defer cancel()
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		if err == nil && k.tlsConfig != nil {
			conn, err = handshake(ctx, conn, k.tlsConfig, address)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.failed = err
		return conn, err
	}
}

// handshake turns a connection into one with TLS, or closes it.
func handshake(ctx context.Context, conn net.Conn, cfg *tls.Config, address string) (net.Conn, error) {
	if cfg.ServerName == "" {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			host = address
		}
		cfg = cfg.Clone()
		cfg.ServerName = host
	}
	encrypted := tls.Client(conn, cfg)
	if err := encrypted.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return encrypted, nil
}

// kafkaResults is what becomes of the records of one Send.
type kafkaResults struct {
	over chan struct{} // closed when nothing is awaited any more

	mu      sync.Mutex
	awaited int
	known   []bool // which records the client is done with
	errs    []error
}

func newKafkaResults(n int) *kafkaResults {
	return &kafkaResults{over: make(chan struct{}), known: make([]bool, n), errs: make([]error, n)}
}

// await says that more is awaited.
func (r *kafkaResults) await() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.awaited++
}

// is says what became of record i, or that another thing that was awaited is done if i is not a record.
func (r *kafkaResults) is(i int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if i >= 0 {
		r.known[i], r.errs[i] = true, err
	}
	if r.awaited--; r.awaited == 0 {
		close(r.over)
	}
}

// produce hands the records to the client and waits for what becomes of each.
func (k *kafkaSink) produce(ctx context.Context, c *kafkaClient, records []*event.Record) error {
	ready := make([]*kgo.Record, len(records)) // all before the first is sent, so that they go in few requests
	for i, r := range records {
		ready[i] = k.record(r)
	}
	var refused atomic.Bool
	results := newKafkaResults(len(records))
	results.await() // the end of this loop
	for i, r := range ready {
		if refused.Load() { // what comes behind must not be there before it
			break
		}
		results.await()
		c.TryProduce(ctx, r, func(_ *kgo.Record, err error) {
			if err != nil {
				refused.Store(true)
			}
			results.is(i, err)
		})
	}
	results.is(-1, nil)

	var (
		failed   []error
		accepted []*event.Record
	)
	select {
	case <-results.over:
	case <-ctx.Done():
		grace := time.NewTimer(kafkaGrace)
		defer grace.Stop()
		select {
		case <-results.over:
		case <-grace.C:
			failed = append(failed, ctx.Err())
			defer k.giveUp(c) // finishes all of its records, which says nothing about them
		}
	}
	results.mu.Lock()
	defer results.mu.Unlock() // before the client is given up
	for i, known := range results.known {
		if err := results.errs[i]; err != nil {
			failed = append(failed, k.failure(ctx, records[i], ready[i].Topic, err))
		} else if known {
			accepted = append(accepted, records[i])
		}
	}
	if len(failed) == 0 {
		return nil
	}
	k.accepted.keep(accepted)
	if len(accepted) == 0 {
		c.reached.Store(false) // the next attempt looks first whether there is anybody
	}
	return batchError(failed)
}

// record returns an event as a record of Kafka.
func (k *kafkaSink) record(r *event.Record) *kgo.Record {
	f := fieldsOf(r, k.topic)
	topic := k.topic.of(&f)
	return &kgo.Record{
		Topic: topic[:min(len(topic), maxKafkaTopic)],
		// What has no resource is in order for each HMC.
		Key:       []byte(cmp.Or(r.Key, f.hmc)),
		Value:     r.JSON,
		Timestamp: timestamp(r, &f),
		Headers: []kgo.RecordHeader{
			{Key: kafkaHeaderID, Value: []byte(r.ID)},
			{Key: kafkaHeaderType, Value: []byte(f.kind)},
			{Key: kafkaHeaderHMC, Value: []byte(f.hmc)},
			{Key: kafkaHeaderSeverity, Value: []byte(f.severity)},
		},
	}
}

// timestamp returns the time of the event. An HMC whose clock is ahead does not know it: brokers refuse what is far in the
// future, and no event can be later than its arrival.
func timestamp(r *event.Record, f *eventFields) time.Time {
	at, err := time.Parse(time.RFC3339Nano, event.String(f.time))
	if err != nil || at.IsZero() || !r.Received.IsZero() && at.After(r.Received) {
		return r.Received
	}
	return at
}

// failure turns what became of a record into an error of Send.
func (k *kafkaSink) failure(ctx context.Context, r *event.Record, topic string, err error) error {
	// About this record and nothing else, which HTTP has a status for: those that were sent with it may be fine.
	refused := func(status int) error {
		return &PermanentError{
			Status: status,
			Err:    fmt.Errorf("kafka: %s: topic %s: event of %d bytes: %w", k.target, topic, len(r.JSON), err),
		}
	}
	switch {
	case errors.Is(err, kerr.MessageTooLarge), errors.Is(err, kerr.RecordListTooLarge):
		return refused(http.StatusRequestEntityTooLarge)
	case errors.Is(err, kerr.InvalidRecord), errors.Is(err, kerr.InvalidTimestamp):
		return refused(http.StatusUnprocessableEntity)
	case errors.Is(err, kerr.UnknownTopicOrPartition), errors.Is(err, kerr.UnknownTopicID):
		return because(ReasonNotFound, fmt.Errorf("there is no topic %s, or none that this sink may see: create it", topic))
	case errors.Is(err, kerr.TopicAuthorizationFailed):
		return fmt.Errorf("this sink may not write to the topic %s: %w", topic, err)
	case errors.Is(err, kerr.ClusterAuthorizationFailed):
		return fmt.Errorf("this sink needs the right Write on the topic %s, and before Kafka 3.0 IdempotentWrite on the cluster: %w", topic, err)
	case isEnd(err) && ctx.Err() == nil, errors.Is(err, kgo.ErrClientClosed): // the client does not leave gaps
		return because(ReasonTimeout, fmt.Errorf("topic %s: no acknowledgement in time of another event before it", topic))
	case isEnd(err):
		return ctx.Err()
	}
	return fmt.Errorf("topic %s: %w", topic, err)
}

// kafkaErrors are what brokers answer.
var kafkaErrors = []knownError{
	{kerr.SaslAuthenticationFailed, ReasonAuthorization},
	{kerr.UnsupportedSaslMechanism, ReasonAuthorization},
	{kerr.TopicAuthorizationFailed, ReasonAuthorization},
	{kerr.ClusterAuthorizationFailed, ReasonAuthorization},
	{kerr.UnknownTopicOrPartition, ReasonNotFound},
	{kerr.UnknownTopicID, ReasonNotFound},
	{kerr.InvalidTopicException, ReasonNotFound},
	{kerr.RequestTimedOut, ReasonTimeout},
	{kerr.ThrottlingQuotaExceeded, ReasonOverloaded},
	{kerr.NotEnoughReplicas, ReasonUnavailable},
	{kerr.NotEnoughReplicasAfterAppend, ReasonUnavailable},
	{kerr.LeaderNotAvailable, ReasonUnavailable},
	{kerr.NotLeaderForPartition, ReasonUnavailable},
	{kerr.BrokerNotAvailable, ReasonUnavailable},
	{kerr.KafkaStorageError, ReasonUnavailable},
}

// kafkaMayWrite is the bit of the right to write in what a broker says about a topic, and kafkaUnsaid what it says when
// it does not say.
const (
	kafkaMayWrite = 1 << 4
	kafkaUnsaid   = math.MinInt32
)

// lookUp asks whether the topic is there and may be written to.
func (k *kafkaSink) lookUp(ctx context.Context, c *kafkaClient) error {
	topic := k.topic.pattern("")
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
			return k.failure(ctx, &event.Record{}, topic, err)
		}
		if t.AuthorizedOperations != kafkaUnsaid && t.AuthorizedOperations&kafkaMayWrite == 0 {
			return because(ReasonAuthorization, fmt.Errorf("this sink may not write to the topic %s", topic))
		}
	}
	return nil
}

// Close ends the connections.
func (k *kafkaSink) Close() error {
	k.end()
	k.mu.Lock()
	c := k.client
	k.client = nil
	k.mu.Unlock()
	if c != nil {
		c.once.Do(c.Close)
	}
	return nil
}
