package receiver

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/budget"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/secret"
)

// DefaultPort is the port on which an HMC offers STOMP over TLS.
const DefaultPort = 61612

// Options say whom a Receiver connects to, as whom, and for what. Host and one pair of credentials
// are required.
type Options struct {
	// Topics are the names of the topics to start with, as the HMC gives them (without
	// "/topic/"). There may be none.
	Topics []string
	// Host is a DNS name, an IPv4 or an IPv6 address, bare; an IPv6 address in brackets is
	// accepted.
	Host string
	// Port is DefaultPort if 0.
	Port int

	// Userid and Password of an HMC user. (A password that begins or ends with a blank is
	// refused: the broker in an HMC, ActiveMQ, takes such blanks off.) Or else
	Userid, Password string
	// SessionID and SessionCredential of a Web Services API session. The HMC takes them with
	// and without multi-factor authentication, where a user who has that cannot log on with a
	// password.
	SessionID, SessionCredential string
	// Secrets are what else the peer may know, and repeat, that must not be shown.
	Secrets []string

	// TLS configures the connection. It is not modified. nil verifies the HMC's certificate
	// against the system's roots. ServerName is Host unless it is set.
	TLS *tls.Config
	// PlainText turns TLS off: for port 61613 of old HMCs, and for tests.
	PlainText bool
	// Config is DefaultStompRetryTimeoutConfig if nil.
	Config *StompRetryTimeoutConfig
	// Limits are the defaults where they are 0.
	Limits Limits
	// Logger gets what helps to find a fault and is not returned as an error: attempts that
	// will be repeated, messages that are ignored. It never gets a password or a session id.
	// nil: none.
	Logger *slog.Logger
	// Dial makes the network connection, which must support deadlines. nil: net.Dialer's.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// OnMissed is called for each notification that was dropped because the hand-over buffer
	// stayed full. It is called by the goroutine that reads from the HMC, so it must not block,
	// and not call Close.
	OnMissed func(topic string)
	// OnTraffic, which may be nil, is called for each frame that comes, for each SUBSCRIBE that
	// goes out, and when a link ends. It must not block.
	OnTraffic func(Traffic)
	// HandoverHold says whether the HMC may be held up (Limits.HandoverWait) while the
	// hand-over buffer is full. Where it returns false, notifications without room are dropped
	// at once. nil: it may. It must not block.
	HandoverHold func() bool
	// Budget is what several receivers may hold together beyond Limits.Handover of each. nil:
	// a Receiver holds one notification beyond that.
	Budget *budget.Budget
}

const maxHeaderLine, maxHeaderCount, maxHeaders, maxBody, maxHandover = 64 << 10, 1000, 1 << 20, 4 << 20, 8 << 20

// Limits bound the memory that a peer makes a Receiver use, and for how long. 0 is the default.
type Limits struct {
	// HeaderLine is the length of one header line in bytes, 64 KiB.
	HeaderLine int
	// HeaderCount is the number of headers of a frame, 1000, Headers their length in bytes, 1 MiB.
	HeaderCount, Headers int
	// Body is the length of one body in bytes, 4 MiB. The largest known are those of a console's
	// hardware messages as a property: about 1 MiB.
	Body int
	// Handover is the size of the buffer between the reader of the link and the consumer of
	// Notifications, 8 MiB. It counts what a notification takes in memory, which is about twice
	// its size on the wire.
	Handover int
	// HandoverWait is how long the reader waits each time that buffer becomes full, 2 s.
	// Meanwhile the HMC is held up by TCP; heart-beats go on. What has no room after that is
	// dropped, see Options.OnMissed.
	HandoverWait time.Duration
}

// Traffic is a frame of a link, or its end.
type Traffic struct {
	// Command is MESSAGE, RECEIPT, ERROR or CONNECTED, of a frame that came, or SUBSCRIBE, of one
	// that goes out. "": the link has ended.
	Command string
	Headers Headers
	// Body is not valid after the call.
	Body []byte
	At   time.Time
	// Lost is why the link has ended, one of the Reason constants; "": it was closed from here.
	Lost string
}

// Notification is one message the HMC published.
type Notification struct {
	// Topic is as it was subscribed to.
	Topic   string
	Headers Headers
	// Body is JSON in UTF-8, checked, as it was received. It is nil where the HMC sent none, as
	// with inventory-change and job-completion notifications.
	Body []byte
	// Received is when its last bytes were read from the network.
	Received time.Time
	compact  bool
}

// Compact says that Body is known to have no white space outside its strings.
func (n *Notification) Compact() bool { return n.compact }

// Receiver receives the notifications of one HMC over STOMP, the counterpart of zhmcclient's
// NotificationReceiver. Its methods may be called from any goroutine, at any time.
type Receiver struct {
	opts    Options
	config  StompRetryTimeoutConfig
	limits  Limits
	tls     *tls.Config // nil: plain text
	address string
	// logons are what to log on with, in the spellings of ActiveMQ and of STOMP where these
	// differ.
	logons  []logon
	secrets secret.Set
	dial    func(ctx context.Context, network, address string) (net.Conn, error)
	log     *slog.Logger

	buffer     *handover
	connecting chan struct{} // holds one value while a Connect is at work
	spelling   int           // the index in logons that is used; for that Connect only
	// closing is done when Close has begun.
	closing    context.Context
	beginClose context.CancelFunc
	closed     chan struct{} // is closed when Close is done
	closeErr   error         // is set before

	lastByte, lastNotification moment
	// taken is how much running iterations took from the buffer and have not yielded.
	taken atomic.Int64

	// mu guards what follows and the fields of link that say so. It is never held while
	// anything waits.
	mu sync.Mutex
	// by topic
	wanted map[string]*subscription
	// link is the latest, until its loss is known.
	link             *link
	certs            []*x509.Certificate
	lastSubscription uint64
	lastReceipt      uint64
}

// subscription is a wanted topic. It lives on from link to link.
type subscription struct {
	topic  string
	number uint64
	id     string
}

// New checks the options and returns a Receiver. It does not connect.
func New(o Options) (*Receiver, error) {
	r := &Receiver{
		opts: o, config: DefaultStompRetryTimeoutConfig(), log: o.Logger, dial: o.Dial,
		connecting: make(chan struct{}, 1), closed: make(chan struct{}), wanted: make(map[string]*subscription),
	}
	r.lastByte.began = time.Now()
	r.lastNotification.began = r.lastByte.began
	if err := r.configure(); err != nil {
		return nil, err
	}
	for _, topic := range o.Topics {
		if err := checkTopic(topic); err != nil {
			return nil, err
		}
		r.want(topic)
	}
	r.buffer = newHandover(r.limits.Handover)
	if all := o.Budget; all != nil {
		r.buffer.budget = all
		// What nobody has come for is given back when it is gone.
		runtime.AddCleanup(r, func(held *atomic.Int64) { all.Give(int(held.Load())) }, r.buffer.held)
	}
	r.closing, r.beginClose = context.WithCancel(context.Background())
	return r, nil
}

// configure checks the options and fills in the defaults.
func (r *Receiver) configure() error {
	o := &r.opts
	host, err := bareHost(o.Host)
	if err != nil {
		return err
	}
	o.Host = host
	if o.Port == 0 {
		o.Port = DefaultPort
	}
	if o.Port < 1 || o.Port > 65535 {
		return fmt.Errorf("port %d: not from 1 to 65535", o.Port)
	}
	r.address = net.JoinHostPort(o.Host, strconv.Itoa(o.Port))
	if err := r.setCredentials(); err != nil {
		return err
	}
	switch {
	case o.PlainText && o.TLS != nil:
		return errors.New("both TLS and PlainText are set")
	case !o.PlainText:
		r.tls = verifiedTLS(o.TLS, o.Host)
	}
	if o.Config != nil {
		r.config = *o.Config
	}
	if err := r.config.Validate(); err != nil {
		return err
	}
	if r.limits, err = o.Limits.withDefaults(); err != nil {
		return err
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	if r.dial == nil {
		// Keep-alive is set by setKeepalive, also on connections of a Dial of the caller's.
		r.dial = (&net.Dialer{KeepAlive: -1}).DialContext
	}
	return nil
}

// bareHost checks a host and takes the brackets off an IPv6 address.
func bareHost(host string) (string, error) {
	bare := host
	if inner, ok := strings.CutPrefix(host, "["); ok {
		if bare, ok = strings.CutSuffix(inner, "]"); !ok {
			return "", fmt.Errorf("host %q: a bracket is missing", host)
		}
	}
	switch {
	case bare == "":
		return "", errors.New("host is not set")
	case strings.Contains(bare, ":"):
		if _, err := netip.ParseAddr(bare); err != nil {
			return "", fmt.Errorf("host %q: neither a name nor an address (a port is set by Port)", host)
		}
	case bare != host:
		return "", fmt.Errorf("host %q: only an IPv6 address can be in brackets", host)
	case strings.ContainsAny(bare, "/@ \t\r\n\x00"):
		return "", fmt.Errorf("host %q: neither a name nor an address", host)
	}
	return bare, nil
}

// setCredentials chooses and checks what to log on with. Its errors do not show any of it.
func (r *Receiver) setCredentials() error {
	o := &r.opts
	user, session := o.Userid != "" || o.Password != "", o.SessionID != "" || o.SessionCredential != ""
	names := [2]string{"userid", "password"}
	plain := logon{o.Userid, o.Password}
	if session {
		names = [2]string{"session id", "session credential"}
		plain = logon{o.SessionID, o.SessionCredential}
	}
	switch {
	case user && session:
		return errors.New("both userid and session are set")
	case !user && !session:
		return errors.New("neither userid and password nor session id and session credential are set")
	}
	for i, value := range []string{plain.login, plain.passcode} {
		if value == "" {
			return fmt.Errorf("%s is not set", names[i])
		}
		// CONNECT is not escaped, so these cannot be sent.
		if strings.ContainsAny(value, "\n\r\x00") {
			return fmt.Errorf("%s contains a line end or a NUL, which STOMP cannot send", names[i])
		}
	}
	r.logons = spellings(plain)
	secrets := slices.Clone(o.Secrets)
	for _, l := range r.logons {
		secrets = append(secrets, l.passcode)
		if session {
			secrets = append(secrets, l.login)
		}
	}
	r.secrets = secret.New(secrets...)
	return nil
}

func (l Limits) withDefaults() (Limits, error) {
	for value, standard := range map[*int]int{
		&l.HeaderLine: maxHeaderLine, &l.HeaderCount: maxHeaderCount, &l.Headers: maxHeaders,
		&l.Body: maxBody, &l.Handover: maxHandover,
	} {
		if *value < 0 || l.HandoverWait < 0 {
			return l, errors.New("a limit is negative")
		}
		*value = cmp.Or(*value, standard)
	}
	l.HandoverWait = cmp.Or(l.HandoverWait, 2*time.Second)
	return l, nil
}

func checkTopic(topic string) error {
	switch {
	case topic == "":
		return errors.New("the name of a topic is empty")
	case strings.ContainsAny(topic, "\n\r\x00"):
		return fmt.Errorf("topic %q: a line end or a NUL in the name", topic)
	case strings.HasPrefix(topic, topicPrefix):
		return fmt.Errorf("topic %q: give the name without %q", topic, topicPrefix)
	}
	return nil
}

// want adds a topic to the wanted ones. Called under mu.
func (r *Receiver) want(topic string) *subscription {
	s := r.wanted[topic]
	if s == nil {
		r.lastSubscription++
		number := r.lastSubscription
		s = &subscription{topic: topic, number: number, id: "sub-" + strconv.FormatUint(number, 10)}
		r.wanted[topic] = s
	}
	return s
}

// wantedInOrder returns the wanted topics in the order they became wanted. Called under mu.
func (r *Receiver) wantedInOrder() []*subscription {
	return slices.SortedFunc(maps.Values(r.wanted), func(a, b *subscription) int {
		return cmp.Compare(a.number, b.number)
	})
}

// Connect connects if there is no link: it dials, logs on, subscribes to every wanted topic and
// waits until each is confirmed or refused. A refused topic is not an error of Connect;
// Notifications yields it.
//
// A failed attempt is repeated with the delays of Backoff, ConnectRetries times. A refused logon is
// not repeated, because an HMC disables a userid that fails to log on too often. The error is a
// *ConnectionError, or that of ctx, or ErrClosed.
func (r *Receiver) Connect(ctx context.Context) error {
	if r.closing.Err() != nil {
		return ErrClosed
	}
	ctx, cancel := r.untilClosed(ctx)
	defer cancel()
	select {
	case r.connecting <- struct{}{}:
		defer func() { <-r.connecting }()
	case <-ctx.Done():
		return r.ended(ctx, nil)
	}
	backoff := NewBackoff(r.config)
	lastText := ""
	for attempts := 1; ; attempts++ {
		progress, err := r.connectOnce(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil || errors.Is(err, ErrClosed) {
			return r.ended(ctx, err)
		}
		failure := &ConnectionError{Reason: reasonOf(err), Attempts: attempts, Err: err}
		if failure.Reason == ReasonAuthorization {
			if r.spelling++; r.spelling < len(r.logons) {
				continue
			}
			r.spelling = 0
			return failure
		}
		if progress {
			// The HMC ended the link over a topic that is no longer wanted. The rest
			// deserves its full number of attempts.
			attempts = 0
			backoff.Reset()
		} else if retries := r.config.ConnectRetries; retries >= 0 && attempts > retries {
			return failure
		}
		delay := backoff.Next()
		log := r.log.Debug
		// An outage is one line, not a thousand.
		if text := err.Error(); text != lastText {
			lastText, log = text, r.log.Warn
		}
		log("connection attempt failed, trying again",
			slog.String("reason", failure.Reason), slog.Duration("after", delay), slog.Any("error", err))
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return r.ended(ctx, err)
		}
	}
}

// untilClosed returns a context that also ends when Close begins.
func (r *Receiver) untilClosed(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(r.closing, func() { cancel(ErrClosed) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}

// ended returns the error of a Connect whose context ended; last is why it had not succeeded so
// far.
func (r *Receiver) ended(ctx context.Context, last error) error {
	cause := context.Cause(ctx)
	switch {
	case r.closing.Err() != nil:
		return ErrClosed
	case last == nil || errors.Is(last, cause):
		return fmt.Errorf("connecting was given up: %w", ctx.Err())
	default:
		return fmt.Errorf("connecting was given up: %w (before that: %w)", ctx.Err(), last)
	}
}

// connectOnce makes one attempt. progress says that although it failed, a topic that was in the way
// is no longer wanted.
func (r *Receiver) connectOnce(ctx context.Context) (progress bool, err error) {
	if connected, err := r.settled(ctx); connected || err != nil {
		return false, err
	}
	attempt, cancel := r.withConnectTimeout(ctx)
	l, err := r.attempt(attempt)
	cancel()
	if err != nil {
		return false, err
	}
	// From here on Subscribe and Unsubscribe act on the link themselves.
	r.mu.Lock()
	if r.closing.Err() != nil {
		r.mu.Unlock()
		_ = l.wire.Close()
		return false, ErrClosed
	}
	r.link = l
	var subs []*linkSub
	for _, s := range r.wantedInOrder() {
		subs = append(subs, l.subscribe(s))
	}
	r.mu.Unlock()
	l.run()

	receipts, cancel := r.withConnectTimeout(ctx)
	defer cancel()
	for _, sub := range subs {
		select {
		case <-sub.confirmation.done:
		case <-l.done:
		case <-receipts.Done():
			late := fmt.Sprintf("no receipt for the subscription to topic %q", sub.topic)
			l.fail(phase(receipts, receipts.Err(), late, ""))
		}
	}
	r.mu.Lock()
	l.established = l.cause == nil
	err = l.cause
	r.mu.Unlock()
	if err == nil {
		r.log.Debug("connected", slog.Int("topics", len(subs)),
			slog.Duration("heartbeat_send", l.sendCycle), slog.Duration("heartbeat_receive", l.receiveCycle))
		return false, nil
	}
	for _, sub := range subs {
		select {
		case <-sub.confirmation.done:
			progress = progress || sub.confirmation.err != nil
		default:
		}
	}
	return progress, err
}

// settled waits until a link that is being lost is gone, and reports whether there is one that
// lives.
func (r *Receiver) settled(ctx context.Context) (connected bool, err error) {
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	r.mu.Lock()
	l := r.link
	connected = l != nil && l.cause == nil
	r.mu.Unlock()
	if l == nil || connected {
		return connected, nil
	}
	select {
	case <-l.finished:
		return false, nil
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
}

// lost is called when a link is gone and all it received is handed over.
func (r *Receiver) lost(l *link) {
	r.mu.Lock()
	defer r.mu.Unlock()
	// A loss during Close is no news.
	if l.established && r.closing.Err() == nil {
		r.buffer.push([]item{{err: &ConnectionError{Reason: reasonOf(l.cause), Err: l.cause}, last: true}}, true)
	}
	r.link = nil
}

// live returns the link if it lives. Called under mu.
func (r *Receiver) live() *link {
	if r.link == nil || r.link.cause != nil {
		return nil
	}
	return r.link
}

// Connected reports whether there is a link on which the HMC accepted the logon and whose loss was
// not noticed yet.
func (r *Receiver) Connected() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.live() != nil
}

// Subscribe adds a topic to the wanted ones; every connection from now on subscribes to it. On a
// live link it subscribes at once and waits for the confirmation. Without a link it returns nil at
// once, and the next Connect subscribes.
//
// It returns a *SubscriptionError if the HMC refuses the topic (which is then not wanted any more;
// Notifications yields that error too) or does not answer within ConnectTimeout, a *ConnectionError
// if the link is lost meanwhile, ctx's error, or ErrClosed. Unless the topic was refused it stays
// wanted.
func (r *Receiver) Subscribe(ctx context.Context, topic string) error {
	if err := checkTopic(topic); err != nil {
		return &SubscriptionError{Topic: topic, Err: err}
	}
	r.mu.Lock()
	if r.closing.Err() != nil {
		r.mu.Unlock()
		return ErrClosed
	}
	s := r.want(topic)
	l := r.live()
	if l == nil {
		r.mu.Unlock()
		return nil
	}
	sub := l.subs[s.id]
	if sub == nil {
		sub = l.subscribe(s)
	}
	r.mu.Unlock()
	return r.await(ctx, l, sub.confirmation, topic)
}

// Unsubscribe removes a topic from the wanted ones. On a live link it unsubscribes and waits for
// the receipt; messages of the topic that are still under way are ignored from now on, those in the
// hand-over buffer are still yielded.
//
// It returns a *SubscriptionNotFoundError if the topic is not wanted, a *SubscriptionError if the
// HMC answers with an error or not within ConnectTimeout, ctx's error, or ErrClosed. The topic is
// not wanted any more in any case.
func (r *Receiver) Unsubscribe(ctx context.Context, topic string) error {
	r.mu.Lock()
	if r.closing.Err() != nil {
		r.mu.Unlock()
		return ErrClosed
	}
	s := r.wanted[topic]
	if s == nil {
		r.mu.Unlock()
		return &SubscriptionNotFoundError{Topic: topic}
	}
	delete(r.wanted, topic)
	l := r.live()
	if l == nil {
		r.mu.Unlock()
		return nil
	}
	receipt := l.unsubscribe(s)
	r.mu.Unlock()
	err := r.await(ctx, l, receipt, topic)
	if _, lost := errors.AsType[*ConnectionError](err); lost {
		return nil // and with the link the subscription
	}
	return err
}

// await waits for the answer to a request about a topic.
func (r *Receiver) await(ctx context.Context, l *link, q *request, topic string) error {
	ctx, cancel := r.untilClosed(ctx)
	defer cancel()
	limited, cancel := r.withConnectTimeout(ctx)
	defer cancel()
	select {
	case <-q.done:
	case <-l.done:
	case <-limited.Done():
	}
	select {
	case <-q.done: // counts, whatever else happened
		if q.err == nil || is[*SubscriptionError](q.err) {
			return q.err
		}
		return &SubscriptionError{Topic: topic, Err: q.err}
	default:
	}
	select {
	case <-l.done:
		r.mu.Lock()
		cause := l.cause
		r.mu.Unlock()
		if errors.Is(cause, ErrClosed) {
			return ErrClosed
		}
		return &ConnectionError{Reason: reasonOf(cause), Err: cause}
	default:
	}
	switch {
	case errors.Is(context.Cause(ctx), ErrClosed):
		return ErrClosed
	case ctx.Err() != nil:
		return fmt.Errorf("topic %q: %w", topic, ctx.Err())
	default:
		return &SubscriptionError{Topic: topic, Err: &timeoutError{"no receipt", r.config.ConnectTimeout}}
	}
}

// Topics returns the wanted topics in the order they became wanted.
func (r *Receiver) Topics() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	topics := make([]string, 0, len(r.wanted))
	for _, s := range r.wantedInOrder() {
		topics = append(topics, s.topic)
	}
	return topics
}

// Subscribed reports whether the HMC confirmed the subscription to a topic on the present link.
func (r *Receiver) Subscribed(topic string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	l, s := r.live(), r.wanted[topic]
	if l == nil || s == nil || l.subs[s.id] == nil {
		return false
	}
	select {
	case <-l.subs[s.id].confirmation.done:
		return true // if it had been refused it would not be wanted
	default:
		return false
	}
}

// SubscriptionID returns the STOMP id of the subscription to a wanted topic. It is unique within
// the Receiver and stays the same over reconnects. The error is a *SubscriptionNotFoundError.
func (r *Receiver) SubscriptionID(topic string) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.wanted[topic]; s != nil {
		return s.id, nil
	}
	return "", &SubscriptionNotFoundError{Topic: topic}
}

// Notifications returns an iterator over what the HMC publishes on the wanted topics, in the order
// of its arrival. It connects if there is no link.
//
// With a notification the error is nil, or a *ParseError if its body is not JSON. A *JMSError is an
// ERROR the HMC sent that is about no topic; a *SubscriptionError says that it refused, or ended,
// the subscription to a topic, which is then not wanted any more. After any of these the iteration
// goes on. A *ConnectionError, the error of ctx, or ErrClosed where the Receiver was closed before,
// comes last. What was received before a loss is yielded before its error, and nothing that was
// received is lost by leaving the loop: ranging again goes on where it stopped, and connects again.
//
// When Close is called the iteration ends without an error, after what was received until the link
// has ended.
// Of several iterators that are used at a time each yields a part of the notifications.
func (r *Receiver) Notifications(ctx context.Context) iter.Seq2[Notification, error] {
	return func(yield func(Notification, error) bool) {
		if r.closing.Err() != nil {
			for ended := false; r.drain(ctx, yield); {
				if ended {
					yield(Notification{}, ErrClosed)
					return
				}
				select {
				case <-r.buffer.ready:
				case <-ctx.Done():
				case <-r.closed:
					ended = true
				}
			}
			return
		}
		for r.drain(ctx, yield) {
			r.mu.Lock()
			l, empty := r.link, r.buffer.empty()
			r.mu.Unlock()
			switch {
			// The end of a link, perhaps, which comes before a new one.
			case !empty:
				continue
			case l != nil:
				select {
				case <-r.buffer.ready:
				// It may never have been established, and end without a word.
				case <-l.finished:
				case <-ctx.Done():
				}
				continue
			}
			err := r.Connect(ctx)
			switch {
			case errors.Is(err, ErrClosed):
				<-r.closed
				r.drain(ctx, yield)
				return
			case err != nil:
				yield(Notification{}, err)
				return
			}
		}
	}
}

// drain yields what is buffered. It reports whether to go on after that.
func (r *Receiver) drain(ctx context.Context, yield func(Notification, error) bool) bool {
	var items [popCount]item
	for {
		if err := ctx.Err(); err != nil {
			yield(Notification{}, err)
			return false
		}
		n := r.buffer.pop(&items)
		if n == 0 {
			return true
		}
		if !r.yieldAll(ctx, items[:n], yield) {
			return false
		}
	}
}

// yieldAll yields items until the consumer or ctx ends the iteration, or a loss does. It puts back
// what it did not get to.
func (r *Receiver) yieldAll(ctx context.Context, items []item, yield func(Notification, error) bool) bool {
	done := ctx.Done()
	r.taken.Add(int64(len(items)))
	// Deferred, so that a consumer that panics or calls runtime.Goexit loses nothing either.
	defer func() {
		r.buffer.unpop(items)
		r.taken.Add(-int64(len(items)))
	}()
	for len(items) > 0 {
		select {
		case <-done:
			return true // drain says so
		default:
		}
		it := &items[0]
		items = items[1:]
		r.taken.Add(-1)
		it.check()
		more := yield(it.notification, cmp.Or(it.err, it.invalid))
		r.buffer.give(it)
		if !more || it.last {
			return false
		}
	}
	return true
}

// Buffered returns how many notifications and errors were received and are not yet yielded. Within
// an iteration, 0 says that the next one may take long: a consumer that gathers batches finishes
// the one it has.
func (r *Receiver) Buffered() int { return int(r.taken.Load()) + r.buffer.len() }

// closeTimeout is how long Close lets the HMC take to confirm the DISCONNECT.
const closeTimeout = time.Second

// Close unsubscribes, disconnects and ends everything the Receiver does: a running Connect returns
// ErrClosed, a running iteration ends. It takes at most about two seconds and returns an error if
// the HMC did not confirm the DISCONNECT in time; the Receiver is closed nevertheless. Calling it
// again waits for the first call and returns the same.
func (r *Receiver) Close() error {
	r.BeginClose()
	<-r.closed
	return r.closeErr
}

// BeginClose is Close that does not wait, for who goes on with what is still coming: an iteration
// yields all that came before the HMC confirmed the DISCONNECT. Where nobody makes room in a full
// hand-over buffer, that is not read before Close gives it up.
func (r *Receiver) BeginClose() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closing.Err() != nil {
		return
	}
	r.beginClose()
	var receipt *request
	if r.live() != nil {
		receipt = r.link.disconnect()
	}
	go r.finishClose(r.link, receipt)
}

func (r *Receiver) finishClose(l *link, receipt *request) {
	timer := time.NewTimer(closeTimeout)
	defer timer.Stop()
	if receipt != nil {
		select {
		case <-receipt.done:
			l.end(ErrClosed, l.conn)
		case <-l.done:
		case <-timer.C:
			r.closeErr = fmt.Errorf("close: %w", &timeoutError{"no receipt for DISCONNECT", closeTimeout})
			l.fail(ErrClosed)
		}
	}
	if l != nil {
		<-l.finished
	}
	// A Connect that is at work ends by closing; see it end, unless a Dial of the caller's does
	// not obey its context.
	timer.Reset(closeTimeout)
	select {
	case r.connecting <- struct{}{}:
	case <-timer.C:
	}
	close(r.closed)
}

// LastFrame returns when the last byte came from the HMC, be it of a notification or a heart-beat;
// the zero time if none did.
func (r *Receiver) LastFrame() time.Time { return r.lastByte.get() }

// LastNotification returns when the last notification came; the zero time if none did.
func (r *Receiver) LastNotification() time.Time { return r.lastNotification.get() }

// PeerCertificates returns the certificates the HMC showed last, its own first, also if they were
// refused: nil if it showed none. They are not to be modified.
func (r *Receiver) PeerCertificates() []*x509.Certificate {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.certs
}

// HeartBeat returns the heart-beat cycles agreed upon for the present link, 0 where there are none
// or no link.
func (r *Receiver) HeartBeat() (send, receive time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if l := r.live(); l != nil {
		return l.sendCycle, l.receiveCycle
	}
	return 0, 0
}

// jmsError makes an error of an ERROR frame. A broker that repeats what we logged on with must not
// bring it into a log.
func (r *Receiver) jmsError(f *frame) *JMSError {
	// A secret that is cut in two would not be found.
	const longest = 4 << 10
	body := []byte(r.secrets.Hide(string(f.body[:min(len(f.body), bufferSize+longest)])))
	e := &JMSError{Headers: make(Headers, len(f.headers)), Body: body[:min(len(body), bufferSize)]}
	for i, h := range f.headers {
		e.Headers[i] = Header{r.secrets.Hide(h.Name), r.secrets.Hide(h.Value)}
	}
	e.Message = e.Headers.Get(headerMessage)
	if strings.TrimSpace(e.Message) == "" {
		e.Message, _, _ = strings.Cut(string(e.Body), "\n")
	}
	return e
}
