package sinks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

const (
	// natsReconnects and natsReconnectWait bound how long the library tries by itself to reconnect, about two minutes
	// for each server. Whoever sends later connects anew.
	natsReconnects    = 60
	natsReconnectWait = 2 * time.Second

	// natsPing finds out within a minute that a server has gone without a word.
	natsPing = 20 * time.Second

	// natsGrace is how much longer than its context a call of the library may take before it is made to return.
	natsGrace = 100 * time.Millisecond

	// The headers of a message, besides those of the stream.
	natsHeaderType     = "Hmcnotifyd-Type"
	natsHeaderHMC      = "Hmcnotifyd-Hmc"
	natsHeaderSeverity = "Hmcnotifyd-Severity"
)

// natsSink publishes events to a JetStream stream. A stream keeps an event once, however often it is sent within the
// stream's duplicate window: its id is the message id.
type natsSink struct {
	servers  string // for the library
	target   string // for errors
	subject  naming
	stream   string
	timeout  time.Duration
	connect  time.Duration // for one server
	batch    int
	inFlight int // messages of all Sends together
	options  []nats.Option
	tls      *config.TLS
	redact   *redactor
	conns    *connections
	accepted *acceptedIDs

	// busy holds one value while somebody looks at link or makes it: a mutex that can be waited for with a context.
	busy chan struct{}
	link *natsLink
}

func newNATS(cfg config.Sink, opts Options) (Sink, error) {
	c := cfg.NATS
	if len(c.Servers) == 0 {
		return nil, errors.New("nats: servers is not set")
	}
	hosts := make([]string, len(c.Servers))
	for i, server := range c.Servers {
		u, err := url.Parse(server)
		if err != nil || (u.Scheme != "nats" && u.Scheme != "tls") || u.Hostname() == "" || u.User != nil {
			return nil, errors.New("nats: servers: not a nats or tls address, or not without userid") // err would quote it
		}
		hosts[i] = u.Host
	}
	subject, err := newNaming(cmp.Or(c.Subject, config.DefaultSubject), "-_")
	if err != nil {
		return nil, fmt.Errorf("nats: subject: %w", err)
	}
	n := &natsSink{
		servers: strings.Join(c.Servers, ","),
		target:  strings.Join(hosts, ", "),
		subject: subject,
		stream:  c.Stream,
		timeout: cmp.Or(max(cfg.Timeout, 0), defaultTimeout),
		batch:   max(cfg.Batch.MaxEvents, streamBatch),
		tls:     c.TLS,
		redact:  newRedactor(&url.URL{}, c.Password.Expose(), c.Token.Expose()),
		busy:    make(chan struct{}, 1),
	}
	n.inFlight = n.batch * max(cfg.Concurrency, 1)
	n.accepted = newAcceptedIDs(n.inFlight)
	// Less than the whole attempt, so that the second server has its turn when the first hangs, and that what keeps
	// from connecting is told rather than that time is over.
	n.connect = (n.timeout - n.timeout/8) / time.Duration(len(hosts))
	n.conns = newConnections(n.connect)

	n.options = []nats.Option{
		nats.Name(strings.TrimSpace(userAgent(opts.Version) + " " + cfg.Name)),
		nats.Timeout(n.connect),
		nats.MaxReconnects(natsReconnects),
		nats.ReconnectWait(natsReconnectWait),
		nats.ReconnectBufSize(-1), // nothing is sent later than its Send
		nats.PingInterval(natsPing),
		nats.SkipHostLookup(), // the dialer does it, with its limit of time
	}
	logon, err := natsLogon(c)
	if err != nil {
		return nil, fmt.Errorf("nats: %w", err)
	}
	n.options = append(n.options, logon...)
	tlsConfig, err := cmp.Or(c.TLS, &config.TLS{}).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("nats: %w", err)
	}
	n.options = append(n.options, func(o *nats.Options) error {
		o.TLSConfig, o.Secure = tlsConfig, c.TLS != nil // a server may ask for TLS also without it
		return nil
	})
	return n, nil
}

// natsLogon returns the options of the way to log on that is configured.
func natsLogon(c *config.NATS) ([]nats.Option, error) {
	switch {
	case c.CredentialsFile != "":
		return []nats.Option{nats.UserCredentials(c.CredentialsFile)}, nil
	case c.NKeyFile != "":
		nkey, err := nats.NkeyOptionFromSeed(c.NKeyFile)
		if err != nil {
			return nil, fmt.Errorf("nkey_file: %s does not hold the seed of a user's nkey", c.NKeyFile) // err might quote it
		}
		return []nats.Option{nkey}, nil
	case c.Token.IsSet():
		return []nats.Option{nats.Token(c.Token.Expose())}, nil
	case c.Userid != "":
		return []nats.Option{nats.UserInfo(c.Userid, c.Password.Expose())}, nil
	}
	return nil, nil
}

// MaxBatch returns what may be on its way at once for one Send.
func (n *natsSink) MaxBatch() (records, bytes int) { return n.batch, maxBatchBytes }

// Send publishes the records and waits until the stream has acknowledged each. Those of one key go one after the other,
// so that they are in the stream in their order also where one of them has to be sent again.
func (n *natsSink) Send(ctx context.Context, records []event.Record) error {
	if len(records) == 0 {
		return nil
	}
	err := n.do(ctx, "no acknowledgement", func(attempt context.Context, link *natsLink) error {
		return n.publishAll(attempt, link, n.accepted.open(records))
	})
	if err == nil {
		n.accepted.done(records)
	}
	return err
}

// Probe connects, and looks for the stream, as far as the server lets this client ask for it.
func (n *natsSink) Probe(ctx context.Context) error {
	return n.do(ctx, "no answer", n.lookUp)
}

// do calls f with a connection and a context that ends with ctx, after the timeout or with Close.
func (n *natsSink) do(ctx context.Context, late string, f func(context.Context, *natsLink) error) error {
	start := time.Now()
	attempt, cancel := context.WithTimeout(ctx, n.timeout)
	defer cancel()
	defer context.AfterFunc(n.conns.life, cancel)() //nolint:contextcheck // both contexts end it

	link, err := n.connected(attempt)
	if err == nil {
		before := link.answers.Load()
		err = f(attempt, link)
		if err != nil && errors.Is(attempt.Err(), context.DeadlineExceeded) && link.answers.Load() == before {
			link.giveUp(errors.New("no answer")) // the next attempt should not trust it
		}
	}
	_, permanent := errors.AsType[*PermanentError](err)
	switch {
	case err == nil:
		return nil
	case n.conns.closed():
		err = ErrClosed
	case attempt.Err() != nil && isEnd(err):
		err = ended(ctx, attempt, late, start)
	case permanent: // has its text
		return err
	}
	return fmt.Errorf("nats: %s: %w", n.target, n.redact.error(err))
}

// natsLink is one connection, which reconnects by itself.
type natsLink struct {
	nc      *nats.Conn
	js      jetstream.JetStream
	dialer  *natsDialer
	answers atomic.Int64 // of the stream so far

	mu       sync.Mutex
	lost     error // why the connection is down
	dead     error // why it must not be used any more
	watchers map[*natsWatcher]struct{}
}

// natsWatcher is told what the server does not permit: such a refusal comes without saying to which message.
type natsWatcher struct{ denied func(error) }

// watch calls denied with each refusal until stop is called.
func (l *natsLink) watch(denied func(error)) (stop func()) {
	w := &natsWatcher{denied}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.watchers[w] = struct{}{}
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.watchers, w)
	}
}

// onError is called by the library with what comes without being asked for.
func (l *natsLink) onError(err error) {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if natsDeniesInbox(err) { // told once for a connection: no answer will ever arrive
		l.dead = err
	}
	for w := range l.watchers {
		w.denied(err)
	}
}

func (l *natsLink) onDisconnect(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.lost = err
	}
}

func (l *natsLink) giveUp(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead == nil {
		l.dead = err
	}
}

// state returns why the link cannot be used now, and whether that may pass.
func (l *natsLink) state(ctx context.Context) (passes bool, reason error) {
	defer l.bounded(ctx)()
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.dead != nil:
		return false, l.dead
	case l.nc.IsClosed():
		return false, cmp.Or(l.nc.LastError(), nats.ErrConnectionClosed)
	case !l.nc.IsConnected():
		return true, cmp.Or(l.lost, nats.ErrDisconnected)
	}
	return true, nil
}

// bounded makes calls of the library return soon after ctx has ended: some wait for a write to the server, or for the end
// of an attempt to reconnect. The function it returns ends that.
func (l *natsLink) bounded(ctx context.Context) (stop func()) {
	over := make(chan struct{})
	forget := context.AfterFunc(ctx, func() {
		select {
		case <-over:
		case <-time.After(natsGrace): // else each cancel would cost all other senders their connection
			l.dialer.cut()
		}
	})
	return func() {
		close(over)
		forget()
	}
}

func (l *natsLink) close() {
	l.dialer.close()
	l.nc.Close()
}

// connected returns the link, and makes it if there is none.
func (n *natsSink) connected(ctx context.Context) (*natsLink, error) {
	select {
	case n.busy <- struct{}{}:
		defer func() { <-n.busy }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if ctx.Err() != nil { // select does not prefer
		return nil, ctx.Err()
	}
	if n.link != nil {
		passes, reason := n.link.state(ctx)
		switch {
		case reason == nil:
			return n.link, nil
		case passes:
			return nil, fmt.Errorf("the connection is lost and not back yet: %w", reason)
		}
		n.link.close()
		n.link = nil
	}
	link, err := n.newLink(ctx)
	if err != nil {
		return nil, err
	}
	n.link = link
	return link, nil
}

// newLink connects.
func (n *natsSink) newLink(ctx context.Context) (*natsLink, error) {
	l := &natsLink{dialer: newNATSDialer(n.conns), watchers: make(map[*natsWatcher]struct{})}
	options := append(slices.Clone(n.options),
		nats.SetCustomDialer(l.dialer),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { l.onError(err) }),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { l.onDisconnect(err) }),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { l.onDisconnect(err) }),
	)
	// The library does not know contexts: the dialer ends what it waits for.
	stop := context.AfterFunc(ctx, l.dialer.close)
	nc, err := nats.Connect(n.servers, options...)
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, n.notConnected(l.dialer, err)
	}
	l.nc = nc
	if !stop() {
		l.close()
		return nil, ctx.Err()
	}
	l.js, err = jetstream.New(nc,
		jetstream.WithPublishAsyncMaxPending(n.inFlight),
		jetstream.WithPublishAsyncTimeout(2*n.timeout)) // nothing stays behind for long of a Send that has ended
	if err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

// notConnected says why there is no connection.
func (n *natsSink) notConnected(dialer *natsDialer, err error) error {
	if errors.Is(err, nats.ErrNoServers) { // the library has forgotten why
		err = cmp.Or(dialer.lastError(), err)
	}
	if n.tls != nil {
		if text := n.tls.Explain(err); text != "" {
			return because(ReasonTLS, errors.New(text))
		}
	}
	switch {
	case errors.Is(err, nats.ErrAuthorization):
		return fmt.Errorf("%w: the server does not accept how this sink logs on", err)
	case errors.Is(err, nats.ErrSecureConnWanted):
		return fmt.Errorf("%w: the server does not offer TLS", err)
	}
	return err
}

// natsDialer dials for one link, and ends what the link waits for.
type natsDialer struct {
	conns *connections

	mu     sync.Mutex
	closed bool
	cancel context.CancelFunc // of the call of Dial under way
	conn   net.Conn           // the newest
	failed error              // the last
}

func newNATSDialer(conns *connections) *natsDialer { return &natsDialer{conns: conns} }

// Dial is called by the library, which has but one connection at a time.
func (d *natsDialer) Dial(network, address string) (net.Conn, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	d.mu.Lock()
	d.cancel = cancel
	if d.closed {
		cancel()
	}
	d.mu.Unlock()

	conn, err := d.conns.dial(ctx, network, address)

	d.mu.Lock()
	defer d.mu.Unlock()
	d.cancel = nil
	if err != nil {
		d.failed = err
		return nil, err
	}
	d.conn = conn
	if d.closed {
		_ = conn.Close()
	}
	return conn, nil
}

func (d *natsDialer) lastError() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.failed
}

// cut ends the connection, or the attempt to make one.
func (d *natsDialer) cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cancel != nil {
		d.cancel()
	}
	if d.conn != nil {
		_ = d.conn.Close()
	}
}

// close is cut, also for whatever comes later.
func (d *natsDialer) close() {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.cut()
}

// natsMessage is an event on its way.
type natsMessage struct {
	record  *event.Record
	subject string
	future  jetstream.PubAckFuture
	err     error
}

// publishAll publishes the records and waits for the answers. Of each key at most one record is on its way: the next one
// goes when the one before is acknowledged.
func (n *natsSink) publishAll(ctx context.Context, link *natsLink, records []*event.Record) error {
	denials := make(chan error, 16) // one that finds no room leaves the message to the timeout
	defer link.watch(func(err error) {
		select {
		case denials <- err:
		default:
		}
	})()
	defer link.bounded(ctx)()

	var (
		failed   []error
		accepted []*event.Record
		denied   []error
	)
	sent := make([]natsMessage, 0, len(records))
	behind := make(map[string][]*event.Record, len(records)) // what waits, by key
	for _, r := range records {
		if waiting, ok := behind[r.Key]; ok {
			behind[r.Key] = append(waiting, r)
			continue
		}
		behind[r.Key] = nil
		sent = append(sent, n.publish(link, r))
	}
	// A stream answers in the order in which it was asked: whoever waits for the first does not keep the others waiting.
	for i := 0; i < len(sent); i++ {
		m := &sent[i]
		denied = n.await(ctx, link, m, denied, denials)
		if m.err != nil { // what is behind it must not be there before it
			failed = append(failed, m.err)
			continue
		}
		accepted = append(accepted, m.record)
		waiting := behind[m.record.Key]
		switch {
		case len(waiting) == 0:
		case ctx.Err() != nil:
			failed = append(failed, ctx.Err())
		default:
			behind[m.record.Key] = waiting[1:]
			sent = append(sent, n.publish(link, waiting[0]))
		}
	}
	if len(failed) > 0 {
		n.accepted.keep(accepted)
	}
	return batchError(failed)
}

// publish sends a record without waiting for the answer.
func (n *natsSink) publish(link *natsLink, r *event.Record) natsMessage {
	f := fieldsOf(r, n.subject)
	m := natsMessage{record: r, subject: n.subject.of(&f)}
	header := nats.Header{
		jetstream.MsgIDHeader: {r.ID},
		natsHeaderType:        {f.kind},
		natsHeaderHMC:         {f.hmc},
		natsHeaderSeverity:    {f.severity},
	}
	if n.stream != "" {
		header[jetstream.ExpectedStreamHeader] = []string{n.stream}
	}
	var err error
	m.future, err = link.js.PublishMsgAsync(
		&nats.Msg{Subject: m.subject, Header: header, Data: r.JSON},
		jetstream.WithRetryAttempts(0)) // another attempt is the caller's matter, and would mix up the order here
	if err != nil {
		m.err = n.refused(link, &m, err)
	}
	return m
}

// await waits for the answer to a message. It returns what the server has denied so far, which may be about other messages.
func (n *natsSink) await(ctx context.Context, link *natsLink, m *natsMessage, denied []error, denials <-chan error) []error {
	for m.err == nil {
		for _, err := range denied {
			if natsDeniesInbox(err) || strings.Contains(err.Error(), strconv.Quote(m.subject)) {
				m.err = err
				return denied
			}
		}
		select {
		case <-m.future.Ok():
			link.answers.Add(1)
			return denied
		case err := <-m.future.Err():
			link.answers.Add(1)
			m.err = n.refused(link, m, err)
		case err := <-denials:
			denied = append(denied, err)
		case <-ctx.Done():
			m.err = ctx.Err()
		}
	}
	return denied
}

// natsDeniesInbox reports whether the server does not let the client receive answers.
func natsDeniesInbox(err error) bool { return strings.Contains(err.Error(), "for Subscription to") }

// refused turns what is wrong with one message into an error of Send.
func (n *natsSink) refused(link *natsLink, m *natsMessage, err error) error {
	// About this message and nothing else, which HTTP has a status for: those that were sent with it may be fine.
	tooLarge := func(limit string) error {
		return &PermanentError{
			Status: http.StatusRequestEntityTooLarge,
			Err:    fmt.Errorf("nats: %s: event of %d bytes: %w (%s)", n.target, len(m.record.JSON), err, limit),
		}
	}
	var api *jetstream.APIError
	switch {
	case errors.Is(err, nats.ErrMaxPayload):
		return tooLarge("max_payload of the server")
	case errors.Is(err, jetstream.ErrNoStreamResponse):
		return because(ReasonNotFound, fmt.Errorf("no stream takes the subject %q: add one, or this subject to one", m.subject))
	case errors.Is(err, nats.ErrDisconnected), errors.Is(err, nats.ErrReconnectBufExceeded), errors.Is(err, nats.ErrConnectionClosed):
		link.mu.Lock()
		defer link.mu.Unlock()
		return fmt.Errorf("no acknowledgement: the connection is lost: %w", cmp.Or(link.lost, err))
	case errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeStreamMessageExceedsMaximum:
		return tooLarge("max_msg_size of the stream")
	case errors.As(err, &api) && api.ErrorCode == natsErrCodeOtherStream:
		return because(ReasonNotFound, fmt.Errorf("the stream that takes the subject %q is not %s", m.subject, n.stream))
	case api != nil: // its codes are those of HTTP
		return because(statusReason(api.Code), fmt.Errorf("subject %q: %w", m.subject, err))
	}
	return fmt.Errorf("subject %q: %w", m.subject, err)
}

// natsErrors are the library's.
var natsErrors = []knownError{
	{nats.ErrAuthorization, ReasonAuthorization},
	{nats.ErrAuthExpired, ReasonAuthorization},
	{nats.ErrAuthRevoked, ReasonAuthorization},
	{nats.ErrAccountAuthExpired, ReasonAuthorization},
	{nats.ErrPermissionViolation, ReasonAuthorization},
	{nats.ErrSecureConnWanted, ReasonTLS},
	{nats.ErrSecureConnRequired, ReasonTLS},
	{nats.ErrMaxPayload, ReasonTooLarge},
	{jetstream.ErrJetStreamNotEnabled, ReasonNotFound},
	{jetstream.ErrJetStreamNotEnabledForAccount, ReasonNotFound},
	{nats.ErrNoResponders, ReasonNotFound},
	{nats.ErrTimeout, ReasonTimeout},
	{nats.ErrStaleConnection, ReasonTimeout},
	{nats.ErrMaxConnectionsExceeded, ReasonOverloaded},
	{nats.ErrMaxAccountConnectionsExceeded, ReasonOverloaded},
	{nats.ErrDisconnected, ReasonUnavailable},
	{nats.ErrConnectionClosed, ReasonUnavailable},
	{nats.ErrReconnectBufExceeded, ReasonUnavailable},
	{nats.ErrNoServers, ReasonUnavailable},
}

// natsErrCodeOtherStream is what a stream answers that is not the one asked for. The library does not name it.
const natsErrCodeOtherStream jetstream.ErrorCode = 10060

// lookUp looks for the stream without sending an event.
func (n *natsSink) lookUp(ctx context.Context, link *natsLink) error {
	asking, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer link.watch(func(err error) { cancel(err) })()
	defer link.bounded(ctx)()

	if err := link.nc.FlushWithContext(asking); err != nil {
		return err
	}
	var err error
	if n.stream != "" {
		_, err = link.js.Stream(asking, n.stream)
	} else {
		_, err = link.js.StreamNameBySubject(asking, n.subjects())
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(context.Cause(asking), nats.ErrPermissionViolation):
		if cause := context.Cause(asking); natsDeniesInbox(cause) {
			return cause
		}
		return nil // whoever may publish need not be allowed to ask
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		return fmt.Errorf("JetStream is not enabled: %w", err)
	case errors.Is(err, jetstream.ErrStreamNotFound) && n.stream != "":
		return because(ReasonNotFound, fmt.Errorf("there is no stream %s", n.stream))
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return because(ReasonNotFound, fmt.Errorf("no stream takes the subject %q: add one", n.subjects()))
	}
	return err
}

// subjects returns the subject with * for what depends on the event.
func (n *natsSink) subjects() string {
	tokens := strings.Split(n.subject.pattern("*"), ".")
	for i, token := range tokens {
		if strings.Contains(token, "*") { // it means something only when it stands alone
			tokens[i] = "*"
		}
	}
	return strings.Join(tokens, ".")
}

// Close ends the connection.
func (n *natsSink) Close() error {
	n.conns.close()
	n.busy <- struct{}{} // whoever has it returns now
	defer func() { <-n.busy }()
	if n.link != nil {
		n.link.close()
		n.link = nil
	}
	return nil
}
