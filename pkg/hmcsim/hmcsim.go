package hmcsim

import (
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// What a simulated HMC is called by default.
const (
	DefaultUserid   = "hmcuser"
	DefaultPassword = "hmcpass"
	DefaultName     = "HMC1"
)

// Options say what kind of HMC Start starts. The zero value is an HMC on 127.0.0.1 with free ports,
// a small estate, no life in it (Rate 0), userid hmcuser and password hmcpass.
type Options struct {
	// host:port; "" = 127.0.0.1:0, port 0 = a free one
	RESTAddr, StompAddr string
	// Listen listens on one of them, for a network that is not the machine's; nil: net.Listen.
	Listen func(addr string) (net.Listener, error)

	// of the HMC; default HMC1
	Name string
	// of the HMC; default 2.16.0
	Version string

	// notifications per second of the living estate; 0: it lives only when it is told to
	Rate float64
	// default 2: every second one, beginning with the first, is in DPM mode
	CPCs int
	// DPM partitions and classic LPARs of all CPCs together; default 8; negative: none
	Partitions int
	// of the estate and its life; default 1
	Seed uint64

	// EstateOf makes this another HMC of that HMC's estate: the same CPCs and partitions with
	// the same object ids, whose changes show on both, whichever of them causes one. Sessions,
	// topics, sequence numbers, jobs, logs and the console's hardware messages are each HMC's
	// own. Rate, CPCs, Partitions, StepDelay, OSMessages and OSSequenceAtIPL are those of the
	// first HMC; a CA that is not given is its too. The HMCs may be closed in any order.
	EstateOf *HMC
	// Lag is by how much later than at an HMC without it the estate's notifications come: of
	// two real HMCs one is always the slower. What REST tells is never late.
	Lag time.Duration
	// OSMessageOffset is added to the sequence-number of each OS message at this HMC: each HMC
	// numbers the messages itself ("assigned by the HMC"). Whether two of them come to the same
	// numbers is not known.
	OSMessageOffset int64

	// default hmcuser, hmcpass
	Userid, Password string
	// further userids with their passwords
	Users map[string]string

	// NoAuditLog and NoSecurityLog take the permission for the console's logs away: their
	// topics are not listed, and the operations that read them answer 403.1.
	NoAuditLog, NoSecurityLog bool

	// DisableAfter disables a userid after so many refused logons in a row, as real HMCs do: it
	// is then refused with its right password too, until SetPassword. 0: never.
	DisableAfter int
	// ExpiredIsWrong refuses an expired password as a wrong one (403.0) instead of with a
	// reason of its own (400.45), see ExpirePassword. Clients have seen both.
	ExpiredIsWrong bool

	// per userid; default 100, beyond: 400.13
	MaxSessions int
	// a session without requests ends; default 6 h, the HMC's default; negative: never
	SessionIdleTimeout time.Duration
	// OnLogon is called for each session that a logon makes, before the logon is answered: for
	// a test that has to make the session known elsewhere, to a broker that is not the
	// simulator's for example. It may call the HMC's methods.
	OnLogon func(SessionInfo)
	// LinkKeepsSession makes a STOMP connection that was logged on with a session's id count as
	// activity. Whether it does on a real HMC is not known.
	LinkKeepsSession bool
	// CutOnSessionEnd closes the connections that are subscribed to a topic of a session that
	// ends; else they fall silent. Which of the two a real HMC does is not known.
	CutOnSessionEnd bool
	// SequencePerSession numbers all notifications of a session (header session-sequence-nr) in
	// one sequence; else each topic has its own. Which of the two a real HMC does is not known:
	// a capture speaks for the latter.
	SequencePerSession bool
	// RefreshOnce replays the OS messages held by the HMC to the first subscription of a topic
	// only; else to each. Which of the two a real HMC does is not known.
	RefreshOnce bool
	// how many OS messages are held per partition; default 200
	OSMessages int
	// OSSequenceAtIPL numbers the OS messages of a partition from 0 on at each IPL, and lets go
	// of those held; else the numbers go on. Which of the two a real HMC does is not known.
	OSSequenceAtIPL bool

	// Now is the clock of OS messages, log entries and hardware messages; nil: time.Now. With
	// it an HMC can be made to hold what another one held. Of one estate that of the first HMC
	// counts.
	Now func() time.Time

	// HardwareMessageChanges publishes a property-change of hardware-messages for each hardware
	// message that comes (in new-value) or goes (in old-value), HardwareMessageInventory an
	// inventory-change of class hardware-message. Without them only has-hardware-messages
	// tells, and only of the first and the last. Which of these a real HMC does is not known.
	HardwareMessageChanges   bool
	HardwareMessageInventory bool

	// MFA makes the userids need multi-factor authentication: a logon with userid and password
	// gives a partially authenticated session (status 201, or MFAReason 50 or 51: 409 with that
	// reason), and the broker accepts only a session id with its credential. NewSession makes
	// an authenticated one, as a person would.
	MFA       bool
	MFAReason int

	// of a kept-alive connection; default 20 s (real HMCs: 1 s to 30 s)
	HTTPIdleTimeout time.Duration
	// between the steps of what partitions do (starting, booting, ...); default 200 ms
	StepDelay time.Duration

	// issues the certificate of REST and broker; nil: a new one
	CA *CA
	// what is wrong with the certificate
	CertificateKind CertificateKind
	// used instead of one from the CA
	Certificate *tls.Certificate

	// further options of the broker; Addrs, CA, certificate, logon and OnSubscribe are set by
	// Start
	Broker BrokerOptions
	// see HMC.FaultREST
	RESTFaults []RESTFault
	// nil: none
	Logger *zap.Logger
}

// HMC is a simulated HMC. Its methods may be used from any goroutine.
type HMC struct {
	opts   Options
	log    *zap.Logger
	ca     *CA
	broker *Broker
	tls    *tls.Config

	users    map[string]string
	failures map[string]int // refused logons in a row, by userid
	expires  map[string]int // days until passwords expire, by userid; none: never

	world *world
	mu    *sync.Mutex // world.mu: guards everything below, and the world; taken before Broker.mu

	restAddr   string // stays the same over restarts
	server     *http.Server
	serving    sync.WaitGroup
	inFlight   sync.WaitGroup // requests; added to only while server is set
	bound      bool           // restAddr is what it has listened on before
	generation int            // counts restarts
	closed     bool

	sessions   map[string]*session // by token
	order      []*session          // the oldest first
	watching   bool                // checkIdleLocked is due some time
	sessionNr  int
	globalSeq  int64
	jobs       map[string]*job
	audit      logBook
	security   logBook
	rebuild    bool // inventory is published again to the first session after a restart
	restFaults []RESTFault
	hardware   hwMessages // of the console
	userIDs    map[string]string
	forbidden  int64
	logons     int64
	refused    int64
	logoffs    int64
	expired    int64
	published  map[string]int64
	delivered  map[string]int64
	requests   map[string]int64
	calls      callLog
	headers    []Header     // scratch
	ahead      atomic.Int64 // of the clock, see SetClock

	stopRequests chan struct{} // ends requests that a fault holds, at Close and Stop
}

// Start starts an HMC. Close ends it.
func Start(opts Options) (*HMC, error) {
	h, err := newHMC(opts)
	if err != nil {
		return nil, err
	}
	if err := h.Resume(); err != nil {
		_ = h.Close()
		return nil, err
	}
	h.world.start()
	return h, nil
}

// newHMC makes an HMC that does not listen yet, in an estate that does not live yet.
func newHMC(opts Options) (*HMC, error) {
	if opts.EstateOf != nil {
		opts.shareEstate(opts.EstateOf)
	}
	setDefaults(&opts)
	h := &HMC{
		opts: opts, log: opts.Logger.Named("hmcsim").With(zap.String("hmc", opts.Name)), ca: opts.CA,
		users: map[string]string{opts.Userid: opts.Password}, failures: make(map[string]int),
		expires:  make(map[string]int),
		restAddr: opts.RESTAddr, sessions: make(map[string]*session), sessionNr: 100 + int(opts.Seed%400),
		jobs: make(map[string]*job), published: make(map[string]int64), delivered: make(map[string]int64),
		requests: make(map[string]int64), userIDs: make(map[string]string),
		restFaults: append([]RESTFault(nil), opts.RESTFaults...),
	}
	maps.Copy(h.users, opts.Users)
	if h.ca == nil {
		ca, err := NewCA()
		if err != nil {
			return nil, err
		}
		h.ca = ca
	}
	// One certificate for both, as on a real HMC.
	var err error
	if h.tls, err = serverTLS(h.ca, opts.Certificate, opts.CertificateKind); err != nil {
		return nil, err
	}
	bo := opts.Broker
	bo.Addrs, bo.Listen = []string{opts.StompAddr}, opts.Listen
	bo.CA = h.ca
	bo.Certificate = &h.tls.Certificates[0]
	bo.Authenticate = h.authenticate
	bo.OnSubscribe = h.onSubscribe
	bo.ahead = &h.ahead
	if bo.Logger == nil {
		bo.Logger = h.log
	}
	if h.broker, err = newBroker(bo); err != nil {
		return nil, err
	}
	if opts.EstateOf != nil {
		h.world = opts.EstateOf.world
	} else {
		h.world = newWorld(worldOptions{
			cpcs: opts.CPCs, partitions: opts.Partitions, seed: opts.Seed, rate: opts.Rate,
			stepDelay: opts.StepDelay, keepMessages: opts.OSMessages, newSequence: opts.OSSequenceAtIPL, now: opts.Now,
		})
	}
	h.mu = &h.world.mu
	if !h.world.join(h) {
		_ = h.broker.Close()
		return nil, errors.New("hmcsim: the estate is gone: all its HMCs are closed")
	}
	return h, nil
}

// shareEstate takes over from another HMC what belongs to its estate.
func (o *Options) shareEstate(of *HMC) {
	o.Rate, o.CPCs, o.Partitions, o.StepDelay = of.opts.Rate, of.opts.CPCs, of.opts.Partitions, of.opts.StepDelay
	o.OSMessages, o.OSSequenceAtIPL = of.opts.OSMessages, of.opts.OSSequenceAtIPL
	if o.CA == nil {
		o.CA = of.ca
	}
}

func setDefaults(o *Options) {
	def := func(s *string, value string) {
		if *s == "" {
			*s = value
		}
	}
	def(&o.RESTAddr, "127.0.0.1:0")
	def(&o.StompAddr, "127.0.0.1:0")
	def(&o.Name, DefaultName)
	def(&o.Version, "2.16.0")
	if o.Userid == "" && o.Password == "" {
		o.Userid, o.Password = DefaultUserid, DefaultPassword
	}
	num := func(n *int, value int) {
		if *n == 0 {
			*n = value
		}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	num(&o.CPCs, 2)
	num(&o.Partitions, 8)
	num(&o.MaxSessions, 100)
	num(&o.OSMessages, 200)
	o.Partitions = max(o.Partitions, 0)
	o.CPCs = max(o.CPCs, 0)
	if o.Seed == 0 {
		o.Seed = 1
	}
	dur := func(d *time.Duration, value time.Duration) {
		if *d == 0 {
			*d = value
		}
	}
	dur(&o.SessionIdleTimeout, 6*time.Hour)
	dur(&o.HTTPIdleTimeout, 20*time.Second)
	dur(&o.StepDelay, 200*time.Millisecond)
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
}

// Close ends the HMC: both ports are closed, all connections are cut, and nothing happens or is
// answered any more when it returns. The estate ends with the last of its HMCs.
func (h *HMC) Close() error {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return nil
	}
	h.closed = true
	last := h.world.leaveLocked(h)
	h.mu.Unlock()
	if last {
		h.world.stop()
	}
	h.stopServing()
	return h.broker.Close()
}

// Restart restarts the HMC: both ports refuse connections for downtime, all connections are cut,
// all sessions and topics are gone, sessions are numbered anew, and message ids name a new start of
// the broker. The estate lives on, unseen. The ports stay the same. It returns when the HMC is up
// again.
func (h *HMC) Restart(downtime time.Duration) error {
	h.Stop()
	time.Sleep(downtime)
	return h.Resume()
}

// Stop takes the HMC down, as the first half of Restart.
func (h *HMC) Stop() {
	h.stopServing()
	h.broker.stop()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.order {
		s.ended = true
	}
	clear(h.sessions)
	h.order = nil
	clear(h.jobs)
	h.generation++
	h.sessionNr = 100 + int(h.opts.Seed%400) + 1000*h.generation
	h.globalSeq = 0
	h.rebuild = true
}

// Resume brings an HMC that was stopped up again.
func (h *HMC) Resume() error {
	if err := h.broker.start(h.opts.Broker.Topics); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return errors.New("hmcsim: closed")
	}
	return h.serveLocked()
}

func (h *HMC) serveLocked() error {
	if h.server != nil {
		return nil
	}
	ln, err := listen(h.opts.Listen, h.restAddr, h.bound)
	if err != nil {
		return fmt.Errorf("hmcsim: REST: %w", err)
	}
	h.restAddr, h.bound = ln.Addr().String(), true
	h.stopRequests = make(chan struct{})
	h.server = h.newServer()
	server := h.server
	h.serving.Go(func() {
		if err := server.ServeTLS(ln, "", ""); err != nil && !errors.Is(err, http.ErrServerClosed) {
			h.log.Error("REST ended", zap.Error(err))
		}
	})
	return nil
}

func (h *HMC) stopServing() {
	h.mu.Lock()
	server := h.server
	h.server = nil
	if server != nil {
		close(h.stopRequests)
	}
	h.mu.Unlock()
	if server != nil {
		_ = server.Close()
	}
	h.serving.Wait()
	h.inFlight.Wait()
}

// RESTAddr is where REST listens, host:port.
func (h *HMC) RESTAddr() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.restAddr
}

// RESTPort is the port of RESTAddr.
func (h *HMC) RESTPort() int { return addrPort(h.RESTAddr()) }

// StompAddr is where the broker listens, host:port.
func (h *HMC) StompAddr() string { return h.broker.Addr() }

// StompPort is the port of StompAddr.
func (h *HMC) StompPort() int { return h.broker.Port() }

// Host is the address that REST listens on, an IP address without brackets.
func (h *HMC) Host() string { return addrHost(h.RESTAddr()) }

// URL is the base URL of REST, "https://host:port".
func (h *HMC) URL() string { return "https://" + net.JoinHostPort(h.Host(), fmt.Sprint(h.RESTPort())) }

// CA is the authority that issued the certificate of REST and broker.
func (h *HMC) CA() *CA { return h.ca }

// CACertPEM is the certificate of CA in PEM form, as a ca_file holds it.
func (h *HMC) CACertPEM() []byte { return h.ca.PEM() }

// ServerCertificate is the certificate that REST and broker present.
func (h *HMC) ServerCertificate() tls.Certificate { return h.tls.Certificates[0] }

// Broker is the HMC's broker: its script of faults, its counts.
func (h *HMC) Broker() *Broker { return h.broker }

// Name is the HMC's name.
func (h *HMC) Name() string { return h.opts.Name }
