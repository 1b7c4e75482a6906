package hmc

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/time/rate"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/budget"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/secret"
)

const (
	defaultTimeout = 30 * time.Second
	// A long answer may take so many times the timeout, as long as it goes on.
	longFactor  = 10
	maxInFlight = 2
	// 10,000 partitions take about 4 MiB.
	maxAnswer = 32 << 20
	// A stack trace is longer than any message.
	maxErrorAnswer = 256 << 10
	// freeAnswer is what of an answer does not count against the Budget, and roomTimeout how
	// long it waits for room there.
	freeAnswer  = 1 << 20
	roomTimeout = 2 * time.Second
	// A real HMC announces "Keep-Alive: timeout=1" or 20, and closes idle connections after 15
	// to 30 s.
	idleTimeout = 10 * time.Second
)

// Options are the settings of a Client. Only Hosts is required.
type Options struct {
	// Hosts are bare DNS names, IPv4 or IPv6 addresses of one HMC, or of several that stand in
	// for each other.
	Hosts []string
	// 0: DefaultPort
	Port int

	// TLS verifies the HMC's certificate; nil: against the system's authorities. ServerName
	// defaults to the host. It is not changed.
	TLS *tls.Config

	// UserAgent is sent with each request, and its first 64 characters also as X-Audit-Id,
	// which the HMC copies into its audit records.
	UserAgent string

	// RequestsPerMinute is the budget: requests beyond it wait; 0: no budget.
	RequestsPerMinute int

	// SessionNotes is the path with which the names of files begin that keep the sessions of
	// Logon until their logoff: what a killed process has left on the HMC is logged off by the
	// next logon, or by LogoffOthers. Their directory is made if there is none (mode 0700), the
	// files hold host, port and session id (mode 0600). A Client has one session at a time
	// then, and no other one uses the path. "": nothing is kept.
	SessionNotes string

	// Timeout is that of one request from connecting to the end of the answer, after any wait;
	// 0: 30 s. An answer that may be long (OS messages, the logs) can take ten times as long,
	// if never longer than this passes without anything of it.
	Timeout time.Duration

	// Budget is what several Clients, and others, may hold together of answers, beyond 1 MiB of
	// each; nil: none.
	Budget *budget.Budget
	// Logger gets one line per request at debug level; nil: none.
	Logger *slog.Logger
	// Dial connects; nil: net.Dialer.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// OnRequest is called after each request, by several goroutines; code is the HTTP status or
	// "error".
	OnRequest func(operation, code string)
	// OnExchange, which may be nil, is called after each request with all of it, by several
	// goroutines. Request and answer hold secrets, and are not valid after it returns.
	OnExchange func(Exchange)
}

// Exchange is a request and its answer.
type Exchange struct {
	// Operation is one of Operations.
	Operation, Host, Method, URI, Query string
	// Sent is the body of the request; nil: none.
	Sent  []byte
	Began time.Time
	Took  time.Duration
	// Status is that of HTTP; 0: there is no answer, because of Err.
	Status int
	Header http.Header
	Answer []byte
	Err    error
}

// Client talks to one HMC. Its methods may be used from any goroutine.
type Client struct {
	opts Options
	log  *slog.Logger
	http *http.Client
	// budget is that of all requests. Those that can wait go by ordinary as well, which leaves a
	// part of it to those that cannot. nil: none
	budget, ordinary *rate.Limiter
	// slots holds one value for each request in flight; pressing has a place for one that cannot
	// wait.
	slots, pressing chan struct{}
	tls             atomic.Pointer[tls.Config]
	host            atomic.Pointer[string]
	// first is the index of the host that is asked first.
	first atomic.Int64
	mu    sync.Mutex // guards what follows
	certs []*x509.Certificate
	// known are secrets that the HMC was told, see know.
	known []string
}

// New checks the options and makes a Client. It connects to nothing.
func New(opts Options) (*Client, error) {
	if len(opts.Hosts) == 0 {
		return nil, errors.New("hmc: no hosts")
	}
	for _, h := range opts.Hosts {
		isAddress := !strings.Contains(h, ":") || net.ParseIP(withoutZone(h)) != nil
		if h == "" || strings.ContainsAny(h, "[]/@ ") || !isAddress {
			return nil, fmt.Errorf("hmc: host %q: must be a bare DNS name or IP address", h)
		}
	}
	opts.Port = cmp.Or(opts.Port, DefaultPort)
	if opts.Port < 0 || opts.Port > 65535 || opts.RequestsPerMinute < 0 || opts.Timeout < 0 {
		return nil, fmt.Errorf("hmc: port %d, %d requests per minute, timeout %v: out of range",
			opts.Port, opts.RequestsPerMinute, opts.Timeout)
	}
	opts.Hosts = slices.Clone(opts.Hosts)
	opts.Timeout = cmp.Or(opts.Timeout, defaultTimeout)
	opts.Logger = cmp.Or(opts.Logger, slog.New(slog.DiscardHandler))
	if opts.Dial == nil {
		opts.Dial = new(net.Dialer).DialContext
	}
	if opts.OnRequest == nil {
		opts.OnRequest = func(string, string) {}
	}
	if opts.OnExchange == nil {
		opts.OnExchange = func(Exchange) {}
	}
	c := &Client{
		opts: opts, log: opts.Logger,
		slots: make(chan struct{}, maxInFlight), pressing: make(chan struct{}, 1),
	}
	c.budget, c.ordinary = newBudget(opts.RequestsPerMinute)
	c.host.Store(&opts.Hosts[0])
	c.tls.Store(cmp.Or(opts.TLS, &tls.Config{MinVersion: tls.VersionTLS12}).Clone())
	protocols := new(http.Protocols)
	// The HMC speaks HTTP/2 as well; a few requests a minute gain nothing by it.
	protocols.SetHTTP1(true)
	c.http = &http.Client{
		Transport: &http.Transport{
			DialTLSContext:         c.dialTLS,
			Protocols:              protocols,
			MaxConnsPerHost:        maxInFlight + 2, // one that cannot wait, and a logoff
			MaxIdleConnsPerHost:    maxInFlight + 1,
			IdleConnTimeout:        idleTimeout,
			MaxResponseHeaderBytes: 64 << 10,
			DisableCompression:     true,
		},
		// A redirect would carry the session's token to another place.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c, nil
}

// newBudget returns a token bucket that lets no more than perMinute requests pass in any 60 s, and
// one for those that can wait: a sixth of them at once, the others evenly. A twelfth is left, when
// these use up all that they may, to those that cannot wait.
func newBudget(perMinute int) (all, ordinary *rate.Limiter) {
	if perMinute == 0 {
		return nil, nil
	}
	burst, kept := max(perMinute/6, 1), perMinute/12
	every := rate.Limit(max(perMinute-burst-kept, 1)) / 60
	return rate.NewLimiter(every, burst+kept), rate.NewLimiter(every, burst)
}

// Host returns the host that requests go to: the one that answered the last QueryAPIVersion, before
// that the first one.
func (c *Client) Host() string { return *c.host.Load() }

// PeerCertificates returns the certificates that the HMC showed when the last connection was made;
// nil: there was none. They were verified, unless Options.TLS says otherwise.
func (c *Client) PeerCertificates() []*x509.Certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.certs
}

// SetTLS has connections that are made from now on verified with cfg, which is not changed.
func (c *Client) SetTLS(cfg *tls.Config) {
	c.tls.Store(cfg.Clone())
	c.http.CloseIdleConnections()
}

// NextHost has the next QueryAPIVersion begin with the host behind the one in use, for a host that
// answers and is of no use all the same.
func (c *Client) NextHost() {
	c.first.Store(int64((slices.Index(c.opts.Hosts, c.Host()) + 1) % len(c.opts.Hosts)))
}

// Close closes idle connections. Sessions are not logged off by it.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// QueryAPIVersion asks the hosts in their order (see NextHost) for the version of the API, and uses
// the first that answers for all that follows (sessions keep the host they were made on). It needs
// no session. Only a host that cannot be connected to is skipped: an answer, even one that is an
// error, ends the search. Where none answers, the error holds a *ConnectError for each.
func (c *Client) QueryAPIVersion(ctx context.Context) (Version, error) {
	var errs []error
	for i := range c.opts.Hosts {
		i = (i + int(c.first.Load())) % len(c.opts.Hosts)
		var v Version
		err := c.do(ctx, &call{
			operation: opQueryAPIVersion, host: c.opts.Hosts[i], method: http.MethodGet, uri: "/api/version", into: &v,
		})
		if _, ok := errors.AsType[*ConnectError](err); ok {
			errs = append(errs, err)
			continue
		}
		if err != nil {
			return Version{}, err
		}
		c.host.Store(&c.opts.Hosts[i])
		return v, nil
	}
	if len(errs) == 1 {
		return Version{}, errs[0]
	}
	return Version{}, &noHostError{errs}
}

// noHostError is the error of all hosts, in one line.
type noHostError struct{ errs []error }

func (e *noHostError) Error() string {
	texts := make([]string, len(e.errs))
	for i, err := range e.errs {
		texts[i] = strings.TrimPrefix(err.Error(), "hmc: ")
	}
	return "hmc: no host can be reached: " + strings.Join(texts, "; ")
}

func (e *noHostError) Unwrap() []error { return e.errs }

// call is one request.
type call struct {
	// operation is for OnRequest and the log.
	operation string
	host      string
	method    string
	// path
	uri   string
	query string
	// token is that of the session; "": none.
	token string
	// body is sent as JSON; nil: none. sent is what it became.
	body any
	sent []byte
	// into is where the JSON answer goes; nil: it does not matter.
	into    any
	secrets []string

	// urgent requests pass the budget and the limit of requests in flight.
	urgent bool
	// pressing requests do not wait behind others: an event is held back for the answer.
	pressing bool
	// repeatable requests may be sent again where a reused connection turns out to be closed;
	// GET always may.
	repeatable bool
	// long says that the answer may take longer than the timeout, see Options.Timeout.
	long bool
	// quiet says that the answer holds a secret: errors do not quote it.
	quiet bool

	// written says that the request was written to the connection, so that the HMC may act on
	// it.
	written atomic.Bool
	// of the answer
	status int
	// header is that of the answer; nil: it did not arrive as a whole.
	header http.Header
	// of the answer; cut says that it goes on
	data []byte
	cut  bool
	// memory counts what the answer takes, wait waits for room there.
	memory budget.Account
	wait   func(room <-chan struct{}) bool
}

// failed is the error of a request in a line of log; nothing where there is none.
func failed(err error) slog.Attr {
	if err == nil {
		return slog.Attr{}
	}
	return slog.Any("error", err)
}

// do sends one request and reads its answer. Errors are *ConnectError, *HTTPError, *BusyError,
// *AnswerError, or that of ctx.
func (c *Client) do(ctx context.Context, r *call) error {
	if !r.urgent {
		places := c.slots
		if r.pressing {
			places = c.pressing
		}
		if err := c.wait(ctx, places); err != nil {
			return fmt.Errorf("hmc: %s %s: %w", r.method, r.uri, err)
		}
		defer func() { <-places }()
	} else if c.budget != nil {
		c.budget.Reserve() // it counts, but does not wait
		c.ordinary.Reserve()
	}
	r.secrets = c.know(r.secrets...)
	start := time.Now()
	r.memory.Budget, r.memory.Free = c.opts.Budget, freeAnswer
	defer r.memory.Close()
	err := c.exchange(ctx, r)
	code := "error"
	x := Exchange{
		Operation: r.operation, Host: r.host, Method: r.method, URI: r.uri, Query: r.query, Sent: r.sent,
		Began: start, Took: time.Since(start), Header: r.header, Err: err,
	}
	if r.header != nil {
		code = strconv.Itoa(r.status)
		x.Status, x.Answer = r.status, r.data
	}
	c.opts.OnRequest(r.operation, code)
	c.opts.OnExchange(x)
	c.log.Debug("request", slog.String("operation", r.operation), slog.String("host", r.host),
		slog.String("uri", r.uri),
		slog.String("code", code), slog.Duration("took", time.Since(start)), failed(err))
	if err != nil {
		return err
	}
	return r.interpret()
}

// know takes up secrets that the HMC learns, and returns the latest: it may repeat them in any
// answer.
func (c *Client) know(secrets ...string) []string {
	const latest = 16
	c.mu.Lock()
	defer c.mu.Unlock()
	known := slices.DeleteFunc(slices.Clone(c.known), func(s string) bool { return slices.Contains(secrets, s) })
	known = append(known, secrets...)
	c.known = known[max(0, len(known)-latest):]
	return c.known
}

// wait waits for the budget, then for one of the places in flight.
func (c *Client) wait(ctx context.Context, places chan struct{}) error {
	if c.budget != nil {
		var err error
		if places != c.pressing {
			err = c.ordinary.Wait(ctx)
		}
		if err == nil {
			err = c.budget.Wait(ctx)
		}
		if err != nil {
			if ctx.Err() == nil {
				return fmt.Errorf("the budget of %d requests per minute is used up for longer than the deadline: %w",
					c.opts.RequestsPerMinute, context.DeadlineExceeded)
			}
			return ctx.Err()
		}
		if places == c.pressing {
			c.ordinary.Reserve() // those that can wait do so for this one as well
		}
	}
	select {
	case places <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// exchange sends the request and reads the whole answer into r.
func (c *Client) exchange(parent context.Context, r *call) error {
	ctx, goesOn, stop := c.limit(parent, r)
	defer stop()
	var body io.Reader
	if r.body != nil {
		data, err := json.Marshal(r.body)
		if err != nil {
			return fmt.Errorf("hmc: %s %s: the request cannot be encoded", r.method, r.uri)
		}
		r.sent, body = data, bytes.NewReader(data)
	}
	host := net.JoinHostPort(r.host, strconv.Itoa(c.opts.Port))
	u := url.URL{Scheme: "https", Host: host, Path: r.uri, RawQuery: r.query}
	req, err := http.NewRequestWithContext(r.trace(ctx), r.method, u.String(), body)
	if err != nil {
		return fmt.Errorf("hmc: %s %s: the request cannot be made", r.method, r.uri)
	}
	// What zhmcclient sends as well: the API answers 406 to what it takes for a bad Accept.
	req.Header.Set("Accept", "*/*")
	req.Header.Set("Content-Type", "application/json")
	if c.opts.UserAgent != "" {
		req.Header.Set("User-Agent", c.opts.UserAgent)
		req.Header.Set("X-Audit-Id", c.opts.UserAgent[:min(len(c.opts.UserAgent), 64)])
	}
	if r.token != "" {
		req.Header.Set("X-API-Session", r.token)
	}
	if r.repeatable {
		// net/http then repeats a request that met a connection which the HMC had closed.
		// Without a value the header is not sent.
		req.Header["Idempotency-Key"] = nil
	}
	resp, err := c.http.Do(req)
	if err == nil {
		defer func() { _ = resp.Body.Close() }()
		r.status = resp.StatusCode
		r.wait = func(room <-chan struct{}) bool { return waitFor(ctx, room) }
		err = r.read(&notingReader{resp.Body, goesOn})
	}
	var tooLong *AnswerError
	switch {
	case err == nil || errors.As(err, &tooLong):
		r.header = resp.Header
		return err
	case parent.Err() != nil:
		return fmt.Errorf("hmc: %s %s: %w", r.method, r.uri, parent.Err())
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	}
	return newConnectError(r, err)
}

// limit returns a context that ends when the request has taken too long; its cause says so. goesOn
// is to be called whenever something of the answer has come, stop in the end.
func (c *Client) limit(parent context.Context, r *call) (ctx context.Context, goesOn, stop func()) {
	timeout := c.opts.Timeout
	late := func(what string, after time.Duration) error {
		return fmt.Errorf("%s within %v: %w", what, after, context.DeadlineExceeded)
	}
	if !r.long {
		ctx, cancel := context.WithTimeoutCause(parent, timeout, late("no answer", timeout))
		return ctx, func() {}, cancel
	}
	whole := longFactor * timeout
	ctx, cancel := context.WithTimeoutCause(parent, whole, late("no end of the answer", whole))
	ctx, stall := context.WithCancelCause(ctx)
	timer := time.AfterFunc(timeout, func() { stall(late("nothing of the answer", timeout)) })
	return ctx, func() { timer.Reset(timeout) }, func() {
		timer.Stop()
		stall(nil)
		cancel()
	}
}

// notingReader calls a function whenever something could be read.
type notingReader struct {
	from io.Reader
	note func()
}

func (r *notingReader) Read(p []byte) (int, error) {
	n, err := r.from.Read(p)
	if n > 0 {
		r.note()
	}
	return n, err
}

// read reads the answer, within limits.
func (r *call) read(body io.Reader) error {
	limit := maxAnswer
	if r.status/100 != 2 {
		limit = maxErrorAnswer
	}
	for {
		if len(r.data) == cap(r.data) {
			size := max(4<<10, min(2*cap(r.data), limit+1))
			for room := r.memory.Take(size - cap(r.data)); room != nil; room = r.memory.Take(size - cap(r.data)) {
				if r.wait(room) {
					continue
				}
				return r.cutOff("there is no memory for an answer of more than %d MiB", len(r.data))
			}
			r.data = append(make([]byte, 0, size), r.data...)
		}
		n, err := body.Read(r.data[len(r.data):cap(r.data)])
		r.data = r.data[:len(r.data)+n]
		switch {
		case len(r.data) > limit && r.status/100 != 2:
			r.data = r.data[:limit] // not JSON any more: the status is what counts
			return nil
		case len(r.data) > limit:
			return r.cutOff("the answer is longer than %d MiB", limit)
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}

// waitFor waits a little for room, and reports whether there may be some.
func waitFor(ctx context.Context, room <-chan struct{}) bool {
	select {
	case <-room:
		return true
	case <-time.After(roomTimeout):
	case <-ctx.Done():
	}
	return false
}

// cutOff ends the reading of an answer, which is an error unless its beginning is of use.
func (r *call) cutOff(problem string, bytes int) error {
	if _, ok := r.into.(beginning); ok {
		r.cut = true
		return nil
	}
	return r.tooLong(fmt.Sprintf(problem, bytes>>20))
}

func (r *call) tooLong(problem string) error {
	wrong := r.wrong(problem)
	wrong.TooLong = true
	return wrong
}

// interpret turns the answer into the value it is expected to be, or into an error.
func (r *call) interpret() error {
	if r.status/100 != 2 {
		e := newHTTPError(r)
		if r.status == http.StatusServiceUnavailable {
			return &BusyError{RetryAfter: parseRetryAfter(r.header.Get("Retry-After"), time.Now()), Err: e}
		}
		return e
	}
	if r.into == nil {
		return nil
	}
	if err := decodeAnswer(r.data, r.cut, r.into); errors.Is(err, errTooMany) {
		return r.tooLong(err.Error())
	} else if err != nil {
		problem := "the answer is not the JSON that is documented"
		if !r.quiet {
			problem += ": " + cleanMessage(err.Error(), r.secrets)
		}
		return r.wrong(problem)
	}
	return nil
}

// wrong is the error of an answer that is not what the API documents.
func (r *call) wrong(problem string) *AnswerError {
	return &AnswerError{Method: r.method, URI: r.uri, Status: r.status, Problem: problem}
}

// handshakeError marks what went wrong between the TCP connection and the end of the TLS handshake.
type handshakeError struct{ error }

func (e handshakeError) Unwrap() error { return e.error }

// dialTLS connects and verifies the certificate. It is the transport's way to a connection.
func (c *Client) dialTLS(ctx context.Context, network, addr string) (net.Conn, error) {
	raw, err := c.opts.Dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	cfg := c.tls.Load().Clone()
	host, _, _ := net.SplitHostPort(addr) // it was dialed
	cfg.ServerName = cmp.Or(cfg.ServerName, withoutZone(host))
	conn := tls.Client(raw, cfg)
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, handshakeError{err}
	}
	certs := conn.ConnectionState().PeerCertificates
	c.mu.Lock()
	c.certs = certs
	c.mu.Unlock()
	return conn, nil
}

// withoutZone cuts the zone off an IPv6 address (fe80::1%eth0): no certificate has one.
func withoutZone(host string) string {
	host, _, _ = strings.Cut(host, "%")
	return host
}

// newConnectError names the cause of a request without an answer. What net/http wraps around it
// (method and URL) is known.
func newConnectError(r *call, err error) *ConnectError {
	if ue, ok := errors.AsType[*url.Error](err); ok {
		err = ue.Err
	}
	var (
		dns       *net.DNSError
		handshake handshakeError
		netErr    net.Error
	)
	reason := ReasonOther
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		reason = ReasonTimeout
	case errors.As(err, &dns):
		reason = ReasonDNS
	case errors.As(err, &netErr) && netErr.Timeout():
		reason = ReasonTimeout
	case errors.Is(err, syscall.ECONNREFUSED):
		reason = ReasonRefused
	case errors.As(err, &handshake):
		reason = ReasonTLS
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		err = fmt.Errorf("the connection was closed before the answer was complete: %w", err)
	}
	if secret.New(r.secrets...).In(err.Error()) { // net/http quotes what is no HTTP
		err = errors.New("(the cause is not shown because it repeats a secret)")
	}
	return &ConnectError{Host: r.host, Reason: reason, Err: err}
}
