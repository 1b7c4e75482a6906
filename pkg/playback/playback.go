package playback

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/capture"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
)

const (
	// subscribeWait is how long a frame waits for somebody to subscribe to its topic, and askWait
	// an answer for somebody to ask: who connects now may be slower than the captured one was,
	// above all where the capture is played faster. Time stands still meanwhile.
	subscribeWait = 30 * time.Second
	askWait       = 3 * time.Second
	// patience is how many questions in a row may stay away, before none is waited for.
	patience = 3
	poll     = 2 * time.Millisecond
	// maxWaiting is how much may wait for a client to read it, in bytes, before time stands still,
	// and maxPending how much before its link is cut, if it still does not read.
	maxWaiting, maxPending = 4 << 20, 24 << 20
	// patientPolls is for how many of them an answer waits while time stands still.
	patientPolls = 50
)

// Options say what is played, and where. File is required.
type Options struct {
	File string
	// host:port of either side; "": 127.0.0.1 with a free port
	RESTAddr, StompAddr string
	// how many times as fast as it was; 0: 1
	Speed  float64
	Logger *zap.Logger
	// 0: maxIndex
	limit int
}

// HMC plays a capture back, from the first subscription on. Userid and password are the
// simulator's.
type HMC struct {
	opts   Options
	log    *zap.Logger
	index  *index
	ca     *hmcsim.CA
	broker *hmcsim.Broker
	server *http.Server
	rest   net.Listener
	cancel context.CancelFunc
	wg     sync.WaitGroup
	played chan struct{}
	err    error // set before played is closed
	// shift is how long ago the capture was, in milliseconds, once somebody has come.
	come  sync.Once
	shift int64

	// at is the time of the capture, in nanoseconds.
	at atomic.Int64
	// still says that time stands still.
	still atomic.Bool

	mu       sync.Mutex
	sessions map[string]string // credentials, by id
	asked    map[string]bool   // what was asked since the link began
	told     map[string]map[string]change
	toldSize int // about, in bytes
}

// Start reads the capture, which ends with ctx, starts to listen, and plays when somebody
// subscribes.
func Start(ctx context.Context, o Options) (_ *HMC, err error) {
	h := &HMC{
		opts: o, log: o.Logger, played: make(chan struct{}), sessions: make(map[string]string),
		asked: make(map[string]bool), told: make(map[string]map[string]change),
	}
	if h.log == nil {
		h.log = zap.NewNop()
	}
	if h.opts.Speed == 0 {
		h.opts.Speed = 1
	}
	in, err := capture.Open(ctx, o.File)
	if err != nil {
		return nil, err
	}
	h.index, err = load(in, o.File, cmp.Or(o.limit, maxIndex))
	if err = errors.Join(err, in.Close()); err != nil {
		return nil, err
	}
	if h.ca, err = hmcsim.NewCA(); err != nil {
		return nil, err
	}
	cert, err := h.ca.Certificate(hmcsim.CertificateGood)
	if err != nil {
		return nil, err
	}
	address := func(addr string) string {
		if addr == "" {
			return "127.0.0.1:0"
		}
		return addr
	}
	h.broker, err = hmcsim.StartBroker(hmcsim.BrokerOptions{ //nolint:contextcheck // it lives until it is closed
		Addrs: []string{address(o.StompAddr)}, CA: h.ca, Certificate: &cert, Authenticate: h.mayConnect, Logger: h.log,
		MaxPendingBytes: maxPending,
	})
	if err != nil {
		return nil, err
	}
	h.begin(&h.index.segments[0]) // who subscribes at once finds the topics
	h.rest, err = new(net.ListenConfig).Listen(ctx, "tcp", address(o.RESTAddr))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("playback: %w", err), h.broker.Close())
	}
	h.server = &http.Server{
		Handler: http.HandlerFunc(h.serve), ReadHeaderTimeout: 30 * time.Second, IdleTimeout: 20 * time.Second,
		ErrorLog:  hmcsim.ErrorLog(h.log),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12},
	}
	playing, cancel := context.WithCancel(context.WithoutCancel(ctx))
	h.cancel = cancel
	h.wg.Go(func() { _ = h.server.ServeTLS(h.rest, "", "") }) // until it is closed
	h.wg.Go(func() {
		defer close(h.played)
		h.err = h.play(playing)
	})
	return h, nil
}

// Close ends it.
func (h *HMC) Close() error {
	h.cancel()
	err := errors.Join(h.server.Close(), h.broker.Close())
	h.wg.Wait()
	return err
}

// Played is closed when the capture was played to its end; Err is then why it was not.
func (h *HMC) Played() <-chan struct{} { return h.played }

// Err is why the playing has ended, once Played is closed; nil: all was played.
func (h *HMC) Err() error { return h.err }

// RESTPort returns the port of the Web Services API.
func (h *HMC) RESTPort() int { return h.rest.Addr().(*net.TCPAddr).Port }

// StompPort returns the port of the broker.
func (h *HMC) StompPort() int { return h.broker.Port() }

// CACertPEM returns the certificate of the authority that both certificates are from.
func (h *HMC) CACertPEM() []byte { return h.ca.PEM() }

// String says what is played.
func (h *HMC) String() string { return h.index.String() }

// now is the time of the capture.
func (h *HMC) now() time.Duration { return time.Duration(h.at.Load()) }

func (h *HMC) mayConnect(login, passcode string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	credential, ok := h.sessions[login]
	return ok && equal(credential, passcode) || isUser(login, passcode)
}

func isUser(userid, password string) bool {
	return equal(userid, hmcsim.DefaultUserid) && equal(password, hmcsim.DefaultPassword)
}

func equal(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

// logon makes a session.
func (h *HMC) logon() (id, credential string) {
	id, credential = rand.Text(), rand.Text()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sessions[id] = credential
	return id, credential
}

// began says that a time of the capture is now, to whoever comes first: what they are told of is
// then as new to them as it was to the captured daemon.
func (h *HMC) began(at time.Duration) {
	h.come.Do(func() { h.shift = time.Since(h.index.began.Add(at)).Milliseconds() })
}

// play says again what the HMC has said, link by link. Between two of them time stands still until
// somebody has subscribed again.
func (h *HMC) play(ctx context.Context) error {
	in, err := capture.Open(ctx, h.opts.File)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	p := player{HMC: h, in: in}
	for i := range h.index.segments {
		s := &h.index.segments[i]
		if i > 0 {
			h.begin(s)
		}
		if err := p.segment(ctx, s); err != nil {
			return err
		}
		if i == len(h.index.segments)-1 {
			break // the link stays, as what the HMC would have said is not known
		}
		h.still.Store(true)
		h.log.Info("the link of the capture ends")
		h.end(s, &h.index.segments[i+1])
	}
	h.still.Store(true)
	h.log.Info("the capture is played")
	return nil
}

// begin has a link begin: its topics are known.
func (h *HMC) begin(s *segment) {
	h.at.Store(int64(s.begins))
	for _, topic := range s.topics {
		h.broker.AddTopic(topic)
	}
}

// end ends a link, and the session, if the captured daemon had to log on again.
func (h *HMC) end(s, next *segment) {
	h.mu.Lock()
	clear(h.asked)
	if next.newSession {
		clear(h.sessions)
	}
	h.mu.Unlock()
	h.at.Store(int64(next.begins))
	for _, topic := range s.topics {
		if next.newSession {
			h.broker.RemoveTopic(topic, false)
		}
	}
	h.broker.DropLinks()
}

// player reads the file while it is played.
type player struct {
	*HMC

	in *capture.Reader
	// base is when the time of the capture was from.
	base time.Time
	from time.Duration
	// missing are topics that nobody has subscribed to, unasked how many questions stayed away.
	missing map[string]bool
	unasked int
}

func (p *player) segment(ctx context.Context, s *segment) error {
	p.missing = make(map[string]bool)
	if !p.until(ctx, 0, func() bool { return p.subscribed(s) }) {
		return ctx.Err()
	}
	p.base, p.from = time.Now(), s.begins
	for {
		e, err := p.in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		at := e.Time()
		if at < s.begins {
			continue
		}
		p.wait(ctx, at)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case e.Kind == capture.KindLink && !e.Link.Failed, e.Kind == capture.KindEnd:
			return nil
		case e.Kind == capture.KindRequest:
			p.request(ctx, e.Request)
		case e.Kind == capture.KindFrame && e.Frame.Command == capture.Message:
			p.message(ctx, e.Frame)
		}
	}
}

// subscribed says whether somebody has subscribed to one of the topics.
func (p *player) subscribed(s *segment) bool {
	for _, topic := range s.topics {
		if p.broker.Subscribers(topic) > 0 {
			return true
		}
	}
	return len(s.topics) == 0
}

// wait waits for a time of the capture.
func (p *player) wait(ctx context.Context, at time.Duration) {
	due := p.base.Add(time.Duration(float64(at-p.from) / p.opts.Speed))
	if d := time.Until(due); d >= time.Millisecond { // no timer is finer
		select {
		case <-ctx.Done():
			return
		case <-time.After(d):
		}
	}
	p.at.Store(int64(at))
}

// until waits for something, for so long; 0: without end. Time of the capture stands still.
func (p *player) until(ctx context.Context, limit time.Duration, happened func() bool) bool {
	began := time.Now()
	p.still.Store(true)
	defer func() {
		p.base, p.from = time.Now(), p.now()
		p.still.Store(false)
	}()
	for !happened() {
		if limit > 0 && time.Since(began) > limit {
			return false
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(poll):
		}
	}
	return true
}

// tellsOrder says whether the answer to a request, by method and path, says what there is, so that
// what is notified before it and after it depends on it.
func tellsOrder(key string) bool {
	method, path, _ := strings.Cut(key, " ")
	operation := path[strings.LastIndexByte(path, '/')+1:]
	return method == http.MethodGet && path != topicsPath && (path == "/api/cpcs" || operation == "hardware-messages" ||
		strings.HasPrefix(operation, "list-") || strings.HasPrefix(operation, "get-")) ||
		operation == "open-os-message-channel"
}

// request waits until somebody has asked what the captured daemon asked at this time, where the
// answer says what there is: what comes after it would not fit an older answer.
func (p *player) request(ctx context.Context, r *capture.Request) {
	key := keyOf(r.Method, r.URI, "")
	if !tellsOrder(key) {
		return
	}
	asked := func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.asked[key]
	}
	if asked() || p.unasked >= patience || r.Status == 0 {
		return
	}
	if p.unasked++; p.until(ctx, askWait, asked) {
		p.unasked = 0
	}
}

func (p *player) message(ctx context.Context, f *capture.Frame) {
	topic, ok := strings.CutPrefix(f.Get("destination"), topicPrefix)
	if !ok || p.missing[topic] || f.Body.Omitted > 0 {
		return
	}
	if p.broker.Subscribers(topic) == 0 &&
		!p.until(ctx, subscribeWait, func() bool { return p.broker.Subscribers(topic) > 0 }) {
		p.missing[topic] = true
		p.log.Info("nobody has subscribed to a topic of the capture", zap.String("topic", topic))
		return
	}
	if p.broker.Waiting() > maxWaiting {
		p.until(ctx, subscribeWait, func() bool { return p.broker.Waiting() == 0 })
	}
	p.note(f)
	headers := make([]hmcsim.Header, 0, len(f.Headers))
	for _, h := range f.Headers {
		if h[0] == "timestamp" {
			h[1] = p.laterText(h[1])
		}
		if h[0] != "destination" {
			headers = append(headers, hmcsim.Header{Name: h[0], Value: h[1]})
		}
	}
	p.broker.Publish(topic, headers, p.later(f.Body.Raw()))
}
