package sinks

import (
	"cmp"
	"context"
	"crypto/x509"
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
	// natsReconnects and natsReconnectWait bound how long the library tries by itself to
	// reconnect, about two minutes for each server. Whoever sends later connects anew.
	natsReconnects    = 60
	natsReconnectWait = 2 * time.Second

	// natsPing finds out within a minute that a server has gone without a word.
	natsPing = 20 * time.Second

	// natsDoubt is how long an answer is waited for where there seems to be no stream.
	natsDoubt = 2 * time.Second

	// natsGrace is how much longer than its context a call of the library may take before it is
	// made to return.
	natsGrace = 100 * time.Millisecond
)

// natsSink publishes events to a JetStream stream. A stream keeps an event once, however often it
// is sent within the stream's duplicate window: its id is the message id.
type natsSink struct {
	stream
	// servers are as the library takes them.
	servers string
	// only is the name of the stream; "": any will do.
	only    string
	options []nats.Option

	// silent says that nobody has answered the last attempt. The server says that no stream
	// takes a subject only where nobody else listens to it.
	silent atomic.Bool

	// busy guards link, which is looked at and made under it.
	busy mutex
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
			// err would quote it.
			return nil, errors.New("nats: servers: not a nats or tls address, or not without userid")
		}
		hosts[i] = u.Host
	}
	common, err := newStream("nats", hosts, "subject", cmp.Or(c.Subject, config.DefaultSubject), cfg)
	if err != nil {
		return nil, err
	}
	n := &natsSink{stream: common, servers: strings.Join(c.Servers, ","), only: c.Stream, busy: newMutex()}
	n.tls = c.TLS
	n.explain = newRedactor(&url.URL{}, c.Password.Expose(), c.Token.Expose()).error
	n.options = []nats.Option{
		nats.Name(strings.TrimSpace(userAgent(opts.Version) + " " + cfg.Name)),
		nats.Timeout(n.connect),
		nats.MaxReconnects(natsReconnects),
		nats.ReconnectWait(natsReconnectWait),
		nats.ReconnectBufSize(-1), // nothing is sent later than its Send
		nats.PingInterval(natsPing),
		nats.SkipHostLookup(), // the dialer does it, with its limit of time
	}
	logon, err := NATSLogon(func() *config.NATSLogon { return &c.NATSLogon })
	if err != nil {
		return nil, fmt.Errorf("nats: %w", err)
	}
	n.options = append(n.options, logon...)
	return n, nil
}

// NATSLogon returns the options of a connection that say how to log on, and of TLS. Which way that
// is does not change; what the files hold is asked for with each connection.
func NATSLogon(current func() *config.NATSLogon) ([]nats.Option, error) {
	c := current()
	logon, err := natsLogon(c, current)
	if err != nil {
		return nil, err
	}
	tlsConfig, err := cmp.Or(c.TLS, &config.TLS{}).ClientConfig()
	if err != nil {
		return nil, err
	}
	return []nats.Option{logon, func(o *nats.Options) error {
		// A server may ask for TLS also without it.
		o.TLSConfig, o.Secure = tlsConfig, c.TLS != nil
		if tlsConfig.RootCAs != nil {
			o.RootCAsCB = func() (*x509.CertPool, error) {
				now, err := current().TLS.ClientConfig()
				if err != nil {
					return nil, err
				}
				return now.RootCAs, nil
			}
		}
		return nil
	}}, nil
}

// natsLogon returns the option of the way to log on that is configured; nil: there is none.
func natsLogon(c *config.NATSLogon, current func() *config.NATSLogon) (nats.Option, error) {
	switch {
	case c.CredentialsFile != "":
		return nats.UserCredentials(c.CredentialsFile), nil
	case c.NKeyFile != "":
		nkey, err := nats.NkeyOptionFromSeed(c.NKeyFile)
		if err != nil {
			// err might quote it
			return nil, fmt.Errorf("nkey_file: %s does not hold the seed of a user's nkey", c.NKeyFile)
		}
		return nkey, nil
	case c.Token.IsSet():
		return nats.TokenHandler(func() string { return current().Token.Expose() }), nil
	case c.Userid != "":
		return nats.UserInfoHandler(func() (user, password string) {
			now := current()
			return now.Userid, now.Password.Expose()
		}), nil
	}
	return nil, nil
}

// Send publishes the records and waits until the stream has acknowledged each. Those of one key go
// one after the other, so that they are in the stream in their order also where one of them has to
// be sent again.
func (n *natsSink) Send(ctx context.Context, records []event.Record) error {
	if len(records) == 0 {
		return nil
	}
	return n.with(ctx, noAcknowledgement, func(attempt context.Context, link *natsLink) error {
		if !n.silent.Load() {
			return n.publishAll(attempt, link, records)
		}
		// Only as an explanation: it may be a stream of another account, which cannot be
		// looked up.
		missing := n.lookUp(attempt, link)
		before := link.answers.Load()
		limited, cancel := attempt, context.CancelFunc(func() {})
		if missing != nil {
			limited, cancel = context.WithTimeout(attempt, natsDoubt)
		}
		defer cancel()
		err := n.publishAll(limited, link, records)
		if link.answers.Load() != before {
			n.silent.Store(false)
		} else if missing != nil && isEnd(err) {
			return missing
		}
		return err
	})
}

// Probe connects, and looks for the stream, as far as the server lets this client ask for it.
func (n *natsSink) Probe(ctx context.Context) error {
	return n.with(ctx, noAnswer, n.lookUp)
}

// with is do with a connection.
func (n *natsSink) with(ctx context.Context, late string, f func(context.Context, *natsLink) error) error {
	return n.do(ctx, late, func(attempt context.Context) error {
		link, err := n.connected(attempt)
		if err != nil {
			return err
		}
		before := link.answers.Load()
		err = f(attempt, link)
		if err != nil && errors.Is(attempt.Err(), context.DeadlineExceeded) && link.answers.Load() == before {
			// The next attempt should not trust it.
			link.giveUp(errors.New(noAnswer))
			n.silent.Store(true)
		}
		return err
	})
}

// natsLink is one connection, which reconnects by itself.
type natsLink struct {
	nc     *nats.Conn
	js     jetstream.JetStream
	dialer *natsDialer
	// answers counts those of the stream so far.
	answers atomic.Int64

	mu sync.Mutex
	// lost is why the connection is down.
	lost error
	// dead is why the connection must not be used any more.
	dead     error
	watchers map[*func(error)]struct{}
}

// watch calls denied with what the server does not permit, which comes without saying to which
// message, until stop is called.
func (l *natsLink) watch(denied func(error)) (stop func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.watchers[&denied] = struct{}{}
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.watchers, &denied)
	}
}

// onError is called by the library with what comes without being asked for.
func (l *natsLink) onError(_ *nats.Conn, _ *nats.Subscription, err error) {
	if !isOneOf(err, natsDenied...) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	// Sent once for a connection: no answer will ever arrive.
	if natsDeniesInbox(err) {
		l.dead = err
	}
	for w := range l.watchers {
		(*w)(err)
	}
}

func (l *natsLink) onDisconnect(_ *nats.Conn, err error) {
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

// bounded makes calls of the library return soon after ctx has ended: some wait for a write to the
// server, or for the end of an attempt to reconnect. The function it returns ends that.
func (l *natsLink) bounded(ctx context.Context) (stop func()) {
	over := make(chan struct{})
	forget := context.AfterFunc(ctx, func() {
		select {
		case <-over:
		// Else each cancel would cost all other senders their connection.
		case <-time.After(natsGrace):
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
	if err := n.busy.lock(ctx); err != nil {
		return nil, err
	}
	defer n.busy.unlock()
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
	var err error
	n.link, err = n.newLink(ctx)
	return n.link, err
}

// newLink connects.
func (n *natsSink) newLink(ctx context.Context) (*natsLink, error) {
	l := &natsLink{dialer: &natsDialer{conns: n.conns}, watchers: make(map[*func(error)]struct{})}
	options := append(slices.Clone(n.options),
		nats.SetCustomDialer(l.dialer),
		nats.ErrorHandler(l.onError),
		nats.DisconnectErrHandler(l.onDisconnect),
		nats.ReconnectErrHandler(l.onDisconnect),
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
		// Of what the Sends before were not answered something is left: they took their whole time.
		jetstream.WithPublishAsyncMaxPending(4*n.inFlight),
		// Nothing stays behind for long of a Send that has ended.
		jetstream.WithPublishAsyncTimeout(2*n.timeout))
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
	text := explainTLS(n.tls, err)
	switch {
	case text != nil:
		return text
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
	// cancel ends the call of Dial under way.
	cancel context.CancelFunc
	// the newest
	conn net.Conn
	// the last
	failed error
}

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
	record *event.Record
	// index is its place among the records of the Send.
	index   int
	subject string
	future  jetstream.PubAckFuture
	err     error
}

// publishAll publishes the records and waits for the answers. Of each key at most one record is on
// its way: the next one goes when the one before is acknowledged.
func (n *natsSink) publishAll(ctx context.Context, link *natsLink, records []event.Record) error {
	denials := natsDenials{more: make(chan struct{}, 1)}
	defer link.watch(denials.add)()
	defer link.bounded(ctx)()

	var each []error // nil: nothing has failed
	fail := func(record int, err error) {
		if each == nil {
			each = make([]error, len(records))
		}
		each[record] = err
	}
	sent := make([]natsMessage, 0, len(records))
	// What waits, by key.
	behind := make(map[string][]int, len(records))
	for i := range records {
		key := records[i].Key
		if waiting, ok := behind[key]; ok {
			behind[key] = append(waiting, i)
			continue
		}
		behind[key] = nil
		sent = append(sent, n.publish(link, records, i))
	}
	// A stream answers in the order in which it was asked: whoever waits for the first does not
	// keep the others waiting.
	for i := 0; i < len(sent); i++ {
		m := &sent[i]
		n.await(ctx, link, m, &denials)
		waiting := behind[m.record.Key]
		switch {
		case m.err != nil: // what is behind it must not be there before it
			fail(m.index, m.err)
			for _, record := range waiting {
				fail(record, ErrNotJudged)
			}
		case len(waiting) == 0:
		case ctx.Err() != nil:
			for _, record := range waiting {
				fail(record, ctx.Err())
			}
		default:
			behind[m.record.Key] = waiting[1:]
			sent = append(sent, n.publish(link, records, waiting[0]))
		}
	}
	if each == nil {
		return nil
	}
	return eventsError(each)
}

// Preview returns the data of a message.
func (n *natsSink) Preview(record event.Record) ([]byte, error) { return record.JSON, nil }

// publish sends a record without waiting for the answer.
func (n *natsSink) publish(link *natsLink, records []event.Record, index int) natsMessage {
	r := &records[index]
	f := fieldsOf(r)
	m := natsMessage{record: r, index: index, subject: n.naming.of(&f)}
	header := nats.Header{
		jetstream.MsgIDHeader: {r.ID},
		"Hmcnotifyd-Type":     {f.kind},
		"Hmcnotifyd-Hmc":      {f.hmc},
		"Hmcnotifyd-Severity": {f.severity},
	}
	for name, value := range f.labels() {
		header["Hmcnotifyd-Label-"+name] = []string{value}
	}
	if n.only != "" {
		header[jetstream.ExpectedStreamHeader] = []string{n.only}
	}
	var err error
	m.future, err = link.js.PublishMsgAsync(
		&nats.Msg{Subject: m.subject, Header: header, Data: r.JSON},
		// Another attempt is the caller's matter, and would mix up the order here.
		jetstream.WithRetryAttempts(0))
	if err != nil {
		m.err = n.refused(link, &m, err)
	}
	return m
}

// natsDenials are what the server does not permit, as far as it was said while a Send waits: also
// about messages of others.
type natsDenials struct {
	// more holds a token when there may be more.
	more chan struct{}

	mu sync.Mutex
	// all are by their text: each subject has its own.
	all map[string]error
}

func (d *natsDenials) add(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.all == nil {
		d.all = make(map[string]error)
	}
	d.all[err.Error()] = err
	select {
	case d.more <- struct{}{}:
	default:
	}
}

// of returns what is denied that keeps a message with this subject from being answered; nil:
// nothing.
func (d *natsDenials) of(subject string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for text, err := range d.all {
		if natsDeniesInbox(err) || strings.Contains(text, strconv.Quote(subject)) {
			return err
		}
	}
	return nil
}

// await waits for the answer to a message.
func (n *natsSink) await(ctx context.Context, link *natsLink, m *natsMessage, denials *natsDenials) {
	for m.err == nil {
		if m.err = denials.of(m.subject); m.err != nil {
			return
		}
		select {
		case <-m.future.Ok():
			link.answers.Add(1)
			return
		case err := <-m.future.Err():
			link.answers.Add(1)
			m.err = n.refused(link, m, err)
		case <-denials.more:
		case <-ctx.Done():
			m.err = ctx.Err()
		}
	}
}

// natsDenied are what the server does not let the client do.
var natsDenied = []error{nats.ErrPermissionViolation, nats.ErrMaxSubscriptionsExceeded}

// natsDeniesInbox reports whether the server does not let the client receive answers.
func natsDeniesInbox(err error) bool {
	return errors.Is(err, nats.ErrMaxSubscriptionsExceeded) || strings.Contains(err.Error(), "for Subscription to")
}

// refused turns what is wrong with one message into an error of Send.
func (n *natsSink) refused(link *natsLink, m *natsMessage, err error) error {
	tooLarge := func(limit string) error {
		return n.stream.refused(http.StatusRequestEntityTooLarge, "", m.record, fmt.Errorf("%w (%s)", err, limit))
	}
	var api *jetstream.APIError
	switch {
	case errors.Is(err, nats.ErrMaxPayload):
		return tooLarge("max_payload of the server")
	case errors.Is(err, jetstream.ErrNoStreamResponse):
		return because(ReasonNotFound, "no stream takes the subject %q: add one, or this subject to one", m.subject)
	case isOneOf(err, nats.ErrDisconnected, nats.ErrReconnectBufExceeded, nats.ErrConnectionClosed):
		link.mu.Lock()
		defer link.mu.Unlock()
		return fmt.Errorf("no acknowledgement: the connection is lost: %w", cmp.Or(link.lost, err))
	case errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeStreamMessageExceedsMaximum:
		return tooLarge("max_msg_size of the stream")
	case errors.As(err, &api) && api.ErrorCode == natsErrCodeOtherStream:
		return because(ReasonNotFound, "the stream that takes the subject %q is not %s", m.subject, n.only)
	case api != nil && api.ErrorCode == natsErrCodeSealed:
		return because(ReasonNotFound, "the stream that takes the subject %q is sealed: have another one take it",
			m.subject)
	case api != nil && slices.Contains(natsErrCodesFull, api.ErrorCode):
		return because(ReasonNoSpace, "subject %q: %w", m.subject, err)
	case api != nil: // its codes are those of HTTP
		return because(statusReason(api.Code), "subject %q: %w", m.subject, err)
	}
	return fmt.Errorf("subject %q: %w", m.subject, err)
}

// natsErrors are the library's.
var natsErrors = []knownErrors{
	{ReasonAuthorization, []error{
		nats.ErrAuthorization, nats.ErrAuthExpired, nats.ErrAuthRevoked, nats.ErrAccountAuthExpired,
		nats.ErrPermissionViolation,
	}},
	{ReasonTLS, []error{nats.ErrSecureConnWanted, nats.ErrSecureConnRequired}},
	{ReasonTooLarge, []error{nats.ErrMaxPayload}},
	{ReasonNotFound, []error{
		jetstream.ErrJetStreamNotEnabled, jetstream.ErrJetStreamNotEnabledForAccount, nats.ErrNoResponders,
	}},
	{ReasonTimeout, []error{nats.ErrTimeout, nats.ErrStaleConnection}},
	{ReasonOverloaded, []error{
		nats.ErrMaxConnectionsExceeded, nats.ErrMaxAccountConnectionsExceeded, nats.ErrMaxSubscriptionsExceeded,
	}},
	{ReasonUnavailable, []error{
		nats.ErrDisconnected, nats.ErrConnectionClosed, nats.ErrReconnectBufExceeded, nats.ErrNoServers,
	}},
}

// What streams answer; the library does not name it.
const (
	// It is not the one asked for.
	natsErrCodeOtherStream jetstream.ErrorCode = 10060
	natsErrCodeSealed      jetstream.ErrorCode = 10109
)

// natsErrCodesFull are those of a server, an account and a stream with no room for a message: a
// limit of theirs, or the disk.
var natsErrCodesFull = []jetstream.ErrorCode{10023, 10047, 10077}

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
	if n.only != "" {
		_, err = link.js.Stream(asking, n.only)
	} else {
		_, err = link.js.StreamNameBySubject(asking, n.subjects())
	}
	switch {
	case err == nil:
		return nil
	case isOneOf(context.Cause(asking), natsDenied...):
		if cause := context.Cause(asking); natsDeniesInbox(cause) {
			return cause
		}
		return nil // whoever may publish need not be allowed to ask
	case isOneOf(err,
		nats.ErrNoResponders, jetstream.ErrJetStreamNotEnabled, jetstream.ErrJetStreamNotEnabledForAccount):
		return fmt.Errorf("JetStream is not enabled: %w", err)
	case errors.Is(err, jetstream.ErrStreamNotFound) && n.only != "":
		return because(ReasonNotFound, "there is no stream %s", n.only)
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return because(ReasonNotFound, "no stream takes the subject %q: add one", n.subjects())
	}
	return err
}

// subjects returns the subject with * for what depends on the event.
func (n *natsSink) subjects() string {
	tokens := strings.Split(n.naming.pattern("*"), ".")
	for i, token := range tokens {
		// It means something only when it stands alone.
		if strings.Contains(token, "*") {
			tokens[i] = "*"
		}
	}
	return strings.Join(tokens, ".")
}

// Close ends the connection.
func (n *natsSink) Close() error {
	n.conns.close()
	n.busy <- struct{}{} // whoever has it returns now
	defer n.busy.unlock()
	if n.link != nil {
		n.link.close()
		n.link = nil
	}
	return nil
}
