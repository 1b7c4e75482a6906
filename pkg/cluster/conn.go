package cluster

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

const (
	// askTimeout is how long one answer of the cluster is waited for.
	askTimeout = 2 * time.Second
	// reconnectWait is the least time between two attempts at all servers.
	reconnectWait = 250 * time.Millisecond
	// outageAfter and outageEvery are when it is logged why there is no connection.
	outageAfter, outageEvery = 5 * time.Second, time.Minute
	// pingInterval finds out that a server has gone without a word.
	pingInterval = 2 * time.Second
	// duplicates is the least that a stream may have; who wrote what is known otherwise.
	duplicates = 100 * time.Millisecond
)

// Options say which cluster, and what is made on it.
type Options struct {
	// URLs of some of its servers.
	URLs []string
	// Logon are the options of the connection: how to log on, and TLS.
	Logon []nats.Option
	// Name begins the names of streams and buckets: "hmcnotifyd-NAME".
	Name string
	// Replicas are those of each stream.
	Replicas int
	// Client is what the daemon calls itself.
	Client string
	Logger *zap.Logger
	// Missing, which may be nil, is told of what is not there, which is not made then.
	Missing func(what string)
}

// Cluster is a connection to a cluster that has, and may be used for, all that the daemon needs.
type Cluster struct {
	opts   Options
	log    *zap.Logger
	nc     *nats.Conn
	js     jetstream.JetStream
	kv     jetstream.KeyValue
	outage outage
	// that of the connection
	life context.Context //nolint:containedctx // it is asked for
}

// LogStream is the name of the stream of a deployment.
func LogStream(name string) string { return "hmcnotifyd-" + name + "-log" }

// Bucket is the name of the bucket of a deployment, for cursors and lease.
func Bucket(name string) string { return "hmcnotifyd-" + name }

func (c *Cluster) stream() string             { return LogStream(c.opts.Name) }
func (c *Cluster) subject(kind string) string { return "hmcnotifyd." + c.opts.Name + "." + kind }

// Connect connects, makes what is missing, and checks what is there. ctx bounds that. The
// connection makes itself anew during its Life.
func Connect(ctx context.Context, opts Options) (_ *Cluster, err error) {
	life, end := context.WithCancel(context.Background())
	c := &Cluster{opts: opts, log: cmp.Or(opts.Logger, zap.NewNop()), life: life}
	c.outage.log = c.log
	said := "" // is of the goroutine that calls the handlers
	options := append([]nats.Option{
		nats.Name(opts.Client), nats.MaxReconnects(-1), nats.CustomReconnectDelay(c.outage.delay),
		nats.RetryOnFailedConnect(false), nats.ReconnectBufSize(-1), // nothing is sent later than it is waited for
		// Credentials may be changed on the servers first, and what servers know of an account is
		// not there at once after their start: that the logon is refused is not for good.
		nats.IgnoreAuthErrorAbort(),
		nats.PingInterval(pingInterval), nats.MaxPingsOutstanding(2), nats.Timeout(askTimeout),
		nats.DisconnectErrHandler(func(nc *nats.Conn, err error) {
			if err != nil { // else it was closed
				c.log.Warn("the connection to the NATS cluster is lost", zap.Error(err))
				c.outage.set(nc, err)
			}
		}),
		nats.ReconnectErrHandler(c.outage.set),
		nats.ClosedHandler(func(*nats.Conn) { end() }),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			said = ""
			c.outage.set(nil, nil)
			c.log.Info("the connection to the NATS cluster is back", zap.String("server", nc.ConnectedServerName()))
		}),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			if said == err.Error() { // with each attempt to connect
				return
			}
			said = err.Error()
			c.log.Warn("the NATS cluster says that something is wrong", zap.Error(err))
		}),
	}, opts.Logon...)
	if c.nc, err = nats.Connect(strings.Join(opts.URLs, ","), options...); err != nil {
		end()
		return nil, fmt.Errorf("no connection to the NATS cluster at %s: %w", strings.Join(opts.URLs, ", "), err)
	}
	c.js, err = jetstream.New(c.nc, jetstream.WithDefaultTimeout(askTimeout),
		jetstream.WithPublishAsyncTimeout(DefaultPatience)) // nothing stays behind for long
	if err == nil {
		err = c.prepare(ctx)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Check looks at what a daemon needs of a cluster, and makes nothing: opts.Missing is told of that.
func Check(ctx context.Context, opts Options) error {
	c, err := Connect(ctx, opts)
	if err != nil {
		return err
	}
	defer c.Close()
	return c.prepareLetters(ctx)
}

// leaves says that something is missing, where it is not to be made.
func (c *Cluster) leaves(what string) bool {
	if c.opts.Missing == nil {
		return false
	}
	c.opts.Missing(what)
	return true
}

// Connected says whether there is a connection at the moment.
func (c *Cluster) Connected() bool { return c.nc.IsConnected() }

// Life ends when there will be no connection any more: with Close, or where a server has said what
// the client library takes for final. Why says what that was.
func (c *Cluster) Life() context.Context { return c.life }

// Why says why there is no connection; nil: there is one, or it was closed.
func (c *Cluster) Why() error {
	c.outage.mu.Lock()
	defer c.outage.mu.Unlock()
	return cmp.Or(c.outage.why, c.nc.LastError())
}

// Close ends the connection.
func (c *Cluster) Close() { c.nc.Close() }

// outage is the time without a connection, which the client library makes anew without a word.
type outage struct {
	log *zap.Logger

	mu   sync.Mutex
	nc   *nats.Conn // nil: there is a connection
	why  error
	next time.Time // when that is logged
}

// set notes why there is no connection, or without nc that there is one.
func (o *outage) set(nc *nats.Conn, why error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.nc == nil {
		o.next = time.Now().Add(outageAfter)
	}
	o.nc, o.why = nc, why
}

// delay is called when all servers were tried once more: it says how long to wait.
func (o *outage) delay(int) time.Duration {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.nc != nil {
		o.why = cmp.Or(o.nc.LastError(), o.why) // a refusal of the logon or of TLS is there only
	}
	if now := time.Now(); o.nc != nil && now.After(o.next) {
		o.next = now.Add(outageEvery)
		o.log.Warn("the connection to the NATS cluster cannot be made anew yet", zap.Error(o.why))
	}
	return reconnectWait + rand.N(reconnectWait/2)
}

// apiError is what the cluster answers where it refuses.
type apiError struct {
	Code        int    `json:"code"`
	ErrCode     int    `json:"err_code"`
	Description string `json:"description"`
}

func (e *apiError) Error() string { return e.Description }

// stream is one stream of the cluster.
type stream struct {
	nc   *nats.Conn
	name string
}

func (c *Cluster) records() stream { return stream{c.nc, c.stream()} }

// raw is a message of a stream.
type raw struct {
	seq     uint64
	subject string
	data    []byte
}

// ask asks the leader of the stream, and nobody else: replicas may be behind.
func (s stream) ask(ctx context.Context, what string, request, response any) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	b, err := json.Marshal(request)
	if err != nil {
		return err
	}
	m, err := s.nc.RequestWithContext(ctx, "$JS.API.STREAM."+what+"."+s.name, b)
	if err != nil {
		return fmt.Errorf("stream %s: %w", s.name, err)
	}
	var failed struct {
		Error *apiError `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &failed); err != nil {
		return fmt.Errorf("stream %s: %w", s.name, err)
	}
	if failed.Error != nil {
		return fmt.Errorf("stream %s: %w", s.name, failed.Error)
	}
	return json.Unmarshal(m.Data, response)
}

// get returns what the leader of the stream has: the first message of a subject from seq on, or
// with seq 0 the last one. It is nil where there is none.
func (s stream) get(ctx context.Context, seq uint64, subject string) (*raw, error) {
	request := map[string]any{"last_by_subj": subject}
	if seq > 0 {
		request = map[string]any{"seq": seq, "next_by_subj": subject}
	}
	var answer struct {
		Message struct {
			Subject string `json:"subject"`
			Seq     uint64 `json:"seq"`
			Data    []byte `json:"data"`
		} `json:"message"`
	}
	err := s.ask(ctx, "MSG.GET", request, &answer)
	if e, ok := errors.AsType[*apiError](err); ok && e.ErrCode == int(jetstream.JSErrCodeMessageNotFound) {
		return nil, nil //nolint:nilnil // there is none, and nothing is wrong
	}
	if err != nil {
		return nil, err
	}
	return &raw{answer.Message.Seq, answer.Message.Subject, answer.Message.Data}, nil
}

// batch asks any replica for several messages at once: those of a subject, or with "" all.
func (s stream) batch(ctx context.Context, seq uint64, subject string, most, bytes int) (found []raw, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	inbox := s.nc.NewRespInbox()
	answers, err := s.nc.SubscribeSync(inbox)
	if err != nil {
		return nil, err
	}
	defer func() { _ = answers.Unsubscribe() }()
	request, err := json.Marshal(struct {
		Seq     uint64 `json:"seq"`
		Subject string `json:"next_by_subj,omitempty"`
		Batch   int    `json:"batch"`
		Bytes   int    `json:"max_bytes"`
	}{seq, subject, most, bytes})
	if err != nil {
		return nil, err
	}
	if err := s.nc.PublishRequest("$JS.API.DIRECT.GET."+s.name, inbox, request); err != nil {
		return nil, fmt.Errorf("stream %s: %w", s.name, err)
	}
	for {
		m, err := answers.NextMsgWithContext(ctx)
		if err != nil {
			return nil, fmt.Errorf("stream %s: read from message %d on: %w", s.name, seq, err)
		}
		switch status := m.Header.Get("Status"); status {
		case "":
		case "204", "404":
			return found, nil
		default:
			return nil, fmt.Errorf("stream %s: read from message %d on: %s %s",
				s.name, seq, status, m.Header.Get("Description"))
		}
		r := raw{subject: m.Header.Get("Nats-Subject"), data: m.Data}
		if r.seq, err = strconv.ParseUint(m.Header.Get("Nats-Sequence"), 10, 64); err != nil {
			return nil, fmt.Errorf("stream %s: an answer without a number", s.name)
		}
		found = append(found, r)
	}
}

// streamState is what the leader says of a stream.
type streamState struct {
	First uint64 `json:"first_seq"`
	Last  uint64 `json:"last_seq"`
}

func (s stream) state(ctx context.Context) (streamState, error) {
	var info struct {
		State streamState `json:"state"`
	}
	err := s.ask(ctx, "INFO", struct{}{}, &info)
	return info.State, err
}

// stored is a message of the log's stream.
type stored struct {
	seq uint64
	message
	// err says that its payload is not what was written.
	err error
}

func storedOf(r *raw) stored {
	s := stored{seq: r.seq}
	s.message, s.err = decode(r.data)
	return s
}

func (c *Cluster) state(ctx context.Context) (streamState, error) { return c.records().state(ctx) }

// get is that of the log's stream.
func (c *Cluster) get(ctx context.Context, seq uint64, subject string) (*stored, error) {
	r, err := c.records().get(ctx, seq, subject)
	if r == nil {
		return nil, err
	}
	s := storedOf(r)
	return &s, err
}

// fetch returns messages from seq on, at least one if there is any up to seq end, which the caller
// knows is stored. Any replica may answer.
func (c *Cluster) fetch(ctx context.Context, seq, end uint64, most, bytes int) (found []stored, err error) {
	several, err := c.records().batch(ctx, seq, "", most, bytes)
	if err != nil {
		return nil, err
	}
	if len(several) == 0 && seq <= end { // a replica that is behind has answered
		one, err := c.records().get(ctx, seq, c.subject(">"))
		if one == nil {
			return nil, err
		}
		several = []raw{*one}
	}
	for i := range several {
		found = append(found, storedOf(&several[i]))
	}
	return found, nil
}

// fullError says that the cluster has no room.
type fullError struct{ err error }

func (e *fullError) Error() string        { return "the NATS cluster has no room: " + e.err.Error() }
func (e *fullError) Unwrap() error        { return e.err }
func (e *fullError) Is(target error) bool { return target == syscall.ENOSPC }

// Codes of refusals that the library does not name.
const (
	codeInsufficient jetstream.ErrorCode = 10023
	codeResources    jetstream.ErrorCode = 10047
	codeStoreFailed  jetstream.ErrorCode = 10077
)

// refusal returns what a definite answer of the stream means: the message is not stored. fenced
// says that it was refused because another one is stored.
func refusal(err error) (refused, fenced bool, reason error) {
	var api *jetstream.APIError
	if !errors.As(err, &api) {
		return false, false, err
	}
	switch api.ErrorCode {
	case jetstream.JSErrCodeStreamWrongLastSequence, jetstream.JSErrCodeStreamWrongLastSequenceConstant:
		return true, true, err
	case codeInsufficient, codeResources, codeStoreFailed:
		return true, false, &fullError{err}
	}
	return true, false, err
}
