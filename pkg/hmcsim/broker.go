package hmcsim

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// BrokerOptions say what kind of broker StartBroker starts. The zero value is a broker over TLS on
// 127.0.0.1 with a free port and a CA of its own, userid hmcuser, password hmcpass, and no topics.
type BrokerOptions struct {
	// where to listen, host:port with port 0 for a free one; none: 127.0.0.1:0
	Addrs []string
	// Listen listens on one of them, for a network that is not the machine's; nil: net.Listen.
	Listen func(addr string) (net.Listener, error)
	// no TLS, as old HMCs on port 61613
	PlainText bool

	// issues the server certificate; nil: a new one
	CA *CA
	// what is wrong with the certificate
	CertificateKind CertificateKind
	// used instead of one from the CA
	Certificate *tls.Certificate

	// the only logon accepted; default hmcuser, hmcpass
	Userid, Password string
	// instead of Userid and Password
	Authenticate func(login, passcode string) bool

	// topic names that may be subscribed to, without "/topic/"
	Topics []string
	// every topic may be subscribed to
	AnyTopic bool

	// close the connection after the ERROR for an unknown topic; a stock broker leaves it open
	CloseAfterRefusal bool

	// MaxPendingBytes limits what waits for one client that does not read. ActiveMQ keeps all
	// of it in memory, since the topics are non-durable and no limit is set on a stock broker
	// (what an HMC sets is not known). Beyond the limit the connection is dropped and counted
	// in BrokerStats.Overflows. Default 256 MiB.
	MaxPendingBytes int

	// from the accept to CONNECT; default 30 s, as ActiveMQ's
	ConnectTimeout time.Duration
	// in session and message ids; default HMCHOST
	HostName string
	// the header server of CONNECTED; default ActiveMQ/5.17.2
	Server string

	// OnSubscribe, if not nil, is called for each SUBSCRIBE. It must call attach once, which
	// makes the subscription (or refuses it when the topic is unknown) and delivers first,
	// before anything published later. It runs on the connection's reader and may take locks
	// that are also held around Publish.
	OnSubscribe func(topic string, attach func(first []Message))

	// the script, see Broker.Script
	Faults [][]Fault
	Logger *zap.Logger

	// how far the clock of the header timestamp is ahead, in nanoseconds; nil: it is right
	ahead *atomic.Int64
}

// Message is what Publish sends: the headers and body an HMC's producer gives. The broker adds
// destination, subscription, message-id, expires, priority and timestamp; where there is a
// message-id already, as when a message is played back, destination and subscription only.
type Message struct {
	Headers []Header
	Body    []byte
}

// BrokerStats are counts since the start of the broker; Links and Subscriptions are of now.
type BrokerStats struct {
	Accepted       int64 // TCP connections accepted
	Handshakes     int64 // TLS handshakes completed
	Links          int64 // connections that are CONNECTED now
	Logons         int64 // CONNECTED sent
	RefusedLogons  int64 // logons refused
	Subscriptions  int64 // subscriptions now
	Subscribes     int64 // SUBSCRIBE frames accepted
	RefusedTopics  int64 // SUBSCRIBE frames refused
	Published      int64 // messages published, whoever listens
	Delivered      int64 // MESSAGE frames handed to connections
	Withheld       int64 // MESSAGE frames a fault kept back
	HeartBeatLost  int64 // connections closed because the client's heart-beats stayed away
	ConnectTimeout int64 // connections closed because no CONNECT came
	Overflows      int64 // connections dropped because the client did not read
	Disconnects    int64 // DISCONNECT frames
}

// Broker is a STOMP broker that behaves as the Apache ActiveMQ inside an HMC: the HMC is the only
// producer, clients only subscribe, nothing is kept for a client that is not connected.
type Broker struct {
	opts BrokerOptions
	log  *zap.Logger
	ca   *CA
	tls  *tls.Config // nil without TLS

	mu        sync.Mutex
	addrs     []string // what is listened on; stays the same over StopListening and restart
	listeners []net.Listener
	links     map[*link]struct{}
	topics    map[string]*topic
	script    [][]Fault
	always    []Fault
	started   time.Time // names this run of the broker in ids
	lastLink  int
	producers int
	bound     bool // addrs are what it has listened on before
	down      bool // stopped or closed: nothing is accepted
	closed    bool
	enc       encoder

	wg    sync.WaitGroup
	stats struct {
		accepted, handshakes, links, logons, refusedLogons, subscriptions, subscribes, refusedTopics, published,
		delivered, withheld, heartBeatLost, connectTimeout, overflows, disconnects atomic.Int64
	}
}

type topic struct {
	name     string
	producer int   // of the message ids: one producer per topic, as in captures
	seq      int64 // messages published
	subs     []*subscription
}

type subscription struct {
	id    string
	line  []byte // the encoded header
	topic *topic // nil when the topic has ended
	link  *link
	// a later one has its id: both get messages, and only the later can be unsubscribed
	replaced bool
}

// StartBroker starts a broker. Close ends it.
func StartBroker(opts BrokerOptions) (*Broker, error) {
	b, err := newBroker(opts)
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.listenLocked(); err != nil {
		return nil, err
	}
	return b, nil
}

// newBroker makes a broker that does not listen yet.
func newBroker(opts BrokerOptions) (*Broker, error) {
	if len(opts.Addrs) == 0 {
		opts.Addrs = []string{"127.0.0.1:0"}
	}
	if opts.Userid == "" && opts.Password == "" {
		opts.Userid, opts.Password = DefaultUserid, DefaultPassword
	}
	if opts.Authenticate == nil {
		userid, password := opts.Userid, opts.Password
		opts.Authenticate = func(login, passcode string) bool { return login == userid && passcode == password }
	}
	if opts.OnSubscribe == nil {
		opts.OnSubscribe = func(_ string, attach func([]Message)) { attach(nil) }
	}
	if opts.MaxPendingBytes <= 0 {
		opts.MaxPendingBytes = 256 << 20
	}
	if opts.ConnectTimeout <= 0 {
		opts.ConnectTimeout = 30 * time.Second
	}
	if opts.HostName == "" {
		opts.HostName = "HMCHOST"
	}
	if opts.Server == "" {
		opts.Server = "ActiveMQ/5.17.2"
	}
	if opts.Logger == nil {
		opts.Logger = zap.NewNop()
	}
	b := &Broker{
		opts: opts, log: opts.Logger.Named("broker"), ca: opts.CA, addrs: slices.Clone(opts.Addrs),
		links: make(map[*link]struct{}), topics: make(map[string]*topic), script: slices.Clone(opts.Faults),
	}
	if b.ca == nil {
		ca, err := NewCA()
		if err != nil {
			return nil, err
		}
		b.ca = ca
	}
	if !opts.PlainText {
		var err error
		if b.tls, err = serverTLS(b.ca, opts.Certificate, opts.CertificateKind); err != nil {
			return nil, err
		}
	}
	b.restartLocked(opts.Topics)
	return b, nil
}

func serverTLS(ca *CA, cert *tls.Certificate, kind CertificateKind) (*tls.Config, error) {
	if cert == nil {
		c, err := ca.Certificate(kind)
		if err != nil {
			return nil, err
		}
		cert = &c
	}
	return &tls.Config{Certificates: []tls.Certificate{*cert}, MinVersion: tls.VersionTLS12}, nil
}

// restartLocked forgets everything a broker's process holds in memory. No link exists.
func (b *Broker) restartLocked(topics []string) {
	now := time.Now()
	if !now.After(b.started.Add(time.Millisecond)) {
		now = b.started.Add(time.Millisecond) // ids of two runs never meet
	}
	b.started = now
	b.topics = make(map[string]*topic)
	b.lastLink, b.producers = 0, 0
	for _, name := range topics {
		b.addTopicLocked(name)
	}
}

// listenLocked listens on b.addrs, with the ports of the first time ever after.
func (b *Broker) listenLocked() error {
	if len(b.listeners) > 0 {
		return nil
	}
	var listeners []net.Listener
	for i, addr := range b.addrs {
		ln, err := listen(b.opts.Listen, addr, b.bound)
		if err != nil {
			for _, l := range listeners {
				_ = l.Close()
			}
			return fmt.Errorf("hmcsim: broker: %w", err)
		}
		b.addrs[i] = ln.Addr().String()
		if i == 0 {
			// Further addresses with port 0 share the first one's port, so that
			// localhost is one broker on both families.
			_, port, err := net.SplitHostPort(b.addrs[0])
			if err == nil {
				for j := range b.addrs[1:] {
					if host, p, err := net.SplitHostPort(b.addrs[j+1]); err == nil && p == "0" {
						b.addrs[j+1] = net.JoinHostPort(host, port)
					}
				}
			}
		}
		listeners = append(listeners, ln)
	}
	b.listeners = listeners
	b.bound = true
	b.down = false
	for _, ln := range listeners {
		b.wg.Go(func() { b.acceptLoop(ln) })
	}
	return nil
}

// listen listens on addr. The port of an earlier time may have been taken by a passing connection:
// again waits a little for it.
func listen(on func(string) (net.Listener, error), addr string, again bool) (net.Listener, error) {
	if on != nil {
		return on(addr)
	}
	var lc net.ListenConfig
	for attempt := 0; ; attempt++ {
		ln, err := lc.Listen(context.Background(), "tcp", addr)
		if err == nil || !again || attempt == 40 {
			return ln, err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (b *Broker) acceptLoop(ln net.Listener) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			time.Sleep(10 * time.Millisecond) // out of descriptors: not for ever
			continue
		}
		b.stats.accepted.Add(1)
		b.mu.Lock()
		if b.down {
			b.mu.Unlock()
			_ = conn.Close()
			continue
		}
		faults := b.nextFaultsLocked()
		b.serveLocked(conn, faults)
		b.mu.Unlock()
	}
}

// serveLocked lets a connection speak STOMP.
func (b *Broker) serveLocked(conn net.Conn, faults []Fault) {
	b.lastLink++
	l := newLink(b, conn, b.lastLink, faults)
	b.links[l] = struct{}{}
	b.wg.Go(l.run)
}

func (b *Broker) nextFaultsLocked() []Fault {
	faults := slices.Clone(b.always)
	if len(b.script) > 0 {
		faults = append(faults, b.script[0]...)
		b.script = b.script[1:]
	}
	return faults
}

// Close ends the broker: it listens no longer, all connections are cut, and all its goroutines have
// ended when it returns.
func (b *Broker) Close() error {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.stop()
	return nil
}

// stop cuts everything off, as the end of the broker's process does.
func (b *Broker) stop() {
	b.mu.Lock()
	b.down = true
	for _, ln := range b.listeners {
		_ = ln.Close()
	}
	b.listeners = nil
	for l := range b.links {
		l.abort("broker stopped")
	}
	b.mu.Unlock()
	b.wg.Wait()
}

// Restart stops the broker, waits for downtime, and starts it again on the same ports. Connections
// are cut and subscriptions are gone; topics are gone too unless they are in topics; ids name a new
// start time.
func (b *Broker) Restart(downtime time.Duration, topics ...string) error {
	b.stop()
	time.Sleep(downtime)
	return b.start(topics)
}

func (b *Broker) start(topics []string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return errors.New("hmcsim: broker: closed")
	}
	if len(b.listeners) > 0 {
		return nil
	}
	b.restartLocked(topics)
	return b.listenLocked()
}

// StopListening closes the ports: a new connection is refused. Connections that exist live on.
func (b *Broker) StopListening() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, ln := range b.listeners {
		_ = ln.Close()
	}
	b.listeners = nil
}

// StartListening opens the same ports again.
func (b *Broker) StartListening() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return errors.New("hmcsim: broker: closed")
	}
	return b.listenLocked()
}

// Addr is the first address listened on, host:port.
func (b *Broker) Addr() string { return b.Addrs()[0] }

// Addrs are all addresses listened on.
func (b *Broker) Addrs() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.addrs)
}

// Host is the host of Addr, an IP address without brackets.
func (b *Broker) Host() string { return addrHost(b.Addr()) }

// Port is the port of Addr.
func (b *Broker) Port() int { return addrPort(b.Addr()) }

// CA is the authority that issued the broker's certificate.
func (b *Broker) CA() *CA { return b.ca }

// Stats returns the counts.
func (b *Broker) Stats() BrokerStats {
	s := &b.stats
	return BrokerStats{
		Accepted: s.accepted.Load(), Handshakes: s.handshakes.Load(), Links: s.links.Load(), Logons: s.logons.Load(),
		RefusedLogons: s.refusedLogons.Load(), Subscriptions: s.subscriptions.Load(), Subscribes: s.subscribes.Load(),
		RefusedTopics: s.refusedTopics.Load(), Published: s.published.Load(), Delivered: s.delivered.Load(),
		Withheld: s.withheld.Load(), HeartBeatLost: s.heartBeatLost.Load(), ConnectTimeout: s.connectTimeout.Load(),
		Overflows: s.overflows.Load(), Disconnects: s.disconnects.Load(),
	}
}

// AddTopic makes name a topic that may be subscribed to.
func (b *Broker) AddTopic(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.addTopicLocked(name)
}

func (b *Broker) addTopicLocked(name string) *topic {
	t := b.topics[name]
	if t == nil {
		b.producers++
		t = &topic{name: name, producer: b.producers}
		b.topics[name] = t
	}
	return t
}

// RemoveTopic ends a topic: it may not be subscribed to any more. Its subscriptions fall silent, or
// with cut their connections are closed. (Which of the two an HMC does when a session ends is not
// known.)
func (b *Broker) RemoveTopic(name string, cut bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.topics[name]
	if t == nil {
		return
	}
	delete(b.topics, name)
	b.stats.subscriptions.Add(-int64(len(t.subs)))
	for _, s := range t.subs {
		s.topic = nil
		if cut {
			s.link.abort("topic ended")
		}
	}
	t.subs = nil
}

// Subscribers returns how many subscriptions a topic has, without those of connections that have
// ended.
func (b *Broker) Subscribers(name string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.topics[name]
	if t == nil {
		return 0
	}
	n := 0
	for _, s := range t.subs {
		if !s.link.hasEnded() {
			n++
		}
	}
	return n
}

// Waiting returns how many bytes wait for the client that has most of them to read.
func (b *Broker) Waiting() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	most := 0
	for l := range b.links {
		l.mu.Lock()
		most = max(most, len(l.pending))
		l.mu.Unlock()
	}
	return most
}

// Publish sends a message to all subscribers of a topic and returns how many they are. It never
// waits for any of them. The message's memory is not kept. A topic that does not exist has no
// subscribers.
func (b *Broker) Publish(topicName string, headers []Header, body []byte) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stats.published.Add(1)
	t := b.topics[topicName]
	if t == nil {
		if !b.opts.AnyTopic {
			return 0
		}
		t = b.addTopicLocked(topicName)
	}
	t.seq++
	b.enc.begin(b, t, headers, body)
	for _, s := range t.subs {
		s.link.message(s, &b.enc)
	}
	return len(t.subs)
}

// Script appends to the script: each of conns is the faults of one connection yet to come, in the
// order they are accepted. An empty one stands for a connection that works.
func (b *Broker) Script(conns ...[]Fault) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.script = append(b.script, conns...)
}

// ScriptLeft returns how many connections the script still waits for.
func (b *Broker) ScriptLeft() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.script)
}

// ClearScript forgets the script and what FaultAlways set. Connections keep the faults they have.
func (b *Broker) ClearScript() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.script, b.always = nil, nil
}

// FaultAlways gives these faults to every connection accepted from now on, besides the script's;
// none ends that.
func (b *Broker) FaultAlways(faults ...Fault) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.always = slices.Clone(faults)
}

// FaultNow gives these faults to the connections that are CONNECTED now and returns how many they
// are. Kinds that act only while a connection is made have no effect.
func (b *Broker) FaultNow(faults ...Fault) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for l := range b.links {
		if l.addFaults(faults) {
			n++
		}
	}
	return n
}

// DropLinks cuts all connections, as a network that fails, and returns how many they were.
func (b *Broker) DropLinks() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	for l := range b.links {
		l.abort("dropped")
	}
	return len(b.links)
}

// subscribe makes a subscription, or says no. It runs on the connection's reader.
func (b *Broker) subscribe(l *link, id, destination, receipt string) {
	topicName := topicOf(destination)
	b.opts.OnSubscribe(topicName, func(first []Message) {
		b.mu.Lock()
		defer b.mu.Unlock()
		t := b.topics[topicName]
		if t == nil && b.opts.AnyTopic && topicName != "" {
			t = b.addTopicLocked(topicName)
		}
		refusal, refused := l.refuses(topicName)
		if t == nil || refused {
			b.stats.refusedTopics.Add(1)
			if refusal.NoReceiptID {
				receipt = ""
			}
			l.sendError(unapprovedTopic(destination), unapprovedTopicTrace(destination), receipt)
			if refusal.Close || b.opts.CloseAfterRefusal {
				l.closeAfterFlush("topic refused")
			}
			return
		}
		b.stats.subscribes.Add(1)
		b.stats.subscriptions.Add(1)
		s := &subscription{id: id, topic: t, link: l}
		if id != "" { // STOMP 1.0 needs none
			s.line = appendHeader(nil, "subscription", id, l.escapes())
		}
		for _, old := range l.subs {
			old.replaced = old.replaced || (id != "" && old.id == id)
		}
		l.subs = append(l.subs, s)
		l.sendReceipt(receipt) // before the first MESSAGE, as ActiveMQ does
		for i := range first {
			t.seq++
			b.enc.begin(b, t, first[i].Headers, first[i].Body)
			l.message(s, &b.enc)
		}
		t.subs = append(t.subs, s)
	})
}

// unsubscribe ends the subscription with the given id and says whether there was one.
func (b *Broker) unsubscribe(l *link, match func(*subscription) bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, s := range slices.Backward(l.subs) {
		if match(s) {
			l.subs = slices.Delete(l.subs, i, i+1)
			b.detachLocked(s)
			return true
		}
	}
	return false
}

func (b *Broker) detachLocked(s *subscription) {
	if s.topic == nil {
		return
	}
	if i := slices.Index(s.topic.subs, s); i >= 0 {
		s.topic.subs = slices.Delete(s.topic.subs, i, i+1)
		b.stats.subscriptions.Add(-1)
	}
	s.topic = nil
}

// remove forgets a link that has ended.
func (b *Broker) remove(l *link) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range l.subs {
		b.detachLocked(s)
	}
	l.subs = nil
	delete(b.links, l)
}

// unapprovedTopic is what a real HMC answered to a SUBSCRIBE for a topic it does not know (public
// capture of 2021). The body begins with the name of the Java class, as an ActiveMQ before 5.16
// prints it; the HMC's own classes in the trace are made up.
func unapprovedTopic(destination string) string {
	return "  remote addConsumer failed because the specified destination, '" + destinationURI(destination) +
		"', is not a known or approved topic."
}

func unapprovedTopicTrace(destination string) string {
	return "java.lang.SecurityException: " + unapprovedTopic(destination) + `
	at com.ibm.hwmca.fw.jms.HmcBrokerFilter.addConsumer(HmcBrokerFilter.java:371)
	at org.apache.activemq.broker.MutableBrokerFilter.addConsumer(MutableBrokerFilter.java:102)
	at org.apache.activemq.broker.TransportConnection.processAddConsumer(TransportConnection.java:673)
	at org.apache.activemq.command.ConsumerInfo.visit(ConsumerInfo.java:348)
	at org.apache.activemq.broker.TransportConnection.service(TransportConnection.java:336)
	at org.apache.activemq.broker.TransportConnection$1.onCommand(TransportConnection.java:200)
	at org.apache.activemq.transport.MutexTransport.onCommand(MutexTransport.java:50)
	at org.apache.activemq.transport.stomp.StompTransportFilter.sendToActiveMQ(StompTransportFilter.java:97)
	at org.apache.activemq.transport.stomp.ProtocolConverter.sendToActiveMQ(ProtocolConverter.java:202)
	at org.apache.activemq.transport.stomp.ProtocolConverter.onStompSubscribe(ProtocolConverter.java:651)
	at org.apache.activemq.transport.stomp.ProtocolConverter.onStompCommand(ProtocolConverter.java:264)
	at org.apache.activemq.transport.stomp.StompTransportFilter.onCommand(StompTransportFilter.java:85)
	at org.apache.activemq.transport.tcp.TcpTransport.doRun(TcpTransport.java:233)
	at org.apache.activemq.transport.tcp.TcpTransport.run(TcpTransport.java:215)
	at java.lang.Thread.run(Thread.java:822)
`
}

// encoder builds a MESSAGE once for all its subscribers: with and without escaping, each only if
// somebody needs it.
type encoder struct {
	headers []Header
	body    []byte
	// without, with escaping; what comes before and after the header subscription
	head, tail [2][]byte
	done       [2]bool
}

// begin takes a message. What it points to must stay unchanged until the next begin.
func (e *encoder) begin(b *Broker, t *topic, headers []Header, body []byte) {
	e.done = [2]bool{}
	e.body = body
	own := []Header{
		{"destination", "/topic/" + t.name},
		{"message-id", b.messageID(t.producer, t.seq)},
		{"expires", "0"},
		{"priority", "4"},
		{"timestamp", strconv.FormatInt(b.nowMilli(), 10)},
	}
	if headerValue(headers, "message-id") != "" { // the message has been sent before
		own = own[:1]
	}
	// The order of headers is arbitrary (ActiveMQ keeps them in a hash map); turning it makes
	// clients show that they do not count on one.
	n := len(own) + len(headers)
	turn := int(t.seq % int64(n))
	e.headers = e.headers[:0]
	for i := range n {
		if i = (i + turn) % n; i < len(own) {
			e.headers = append(e.headers, own[i])
		} else {
			e.headers = append(e.headers, headers[i-len(own)])
		}
	}
}

// nowMilli is the time by the HMC's clock.
func (b *Broker) nowMilli() int64 {
	now := time.Now()
	if b.opts.ahead != nil {
		now = now.Add(time.Duration(b.opts.ahead.Load()))
	}
	return now.UnixMilli()
}

// messageID gives an id in the form of captures: ID:host-port-start-n:1:1:producer:sequence.
func (b *Broker) messageID(producer int, seq int64) string {
	buf := make([]byte, 0, 64)
	buf = append(buf, "ID:"...)
	buf = append(buf, b.opts.HostName...)
	buf = append(buf, "-42915-"...)
	buf = strconv.AppendInt(buf, b.started.UnixMilli(), 10)
	buf = append(buf, "-5:1:1:"...)
	buf = strconv.AppendInt(buf, int64(producer), 10)
	buf = append(buf, ':')
	buf = strconv.AppendInt(buf, seq, 10)
	return string(buf)
}

// parts returns what comes before and after the header subscription.
func (e *encoder) parts(escape bool) (head, tail []byte) {
	v := 0
	if escape {
		v = 1
	}
	if !e.done[v] {
		e.done[v] = true
		h := append(e.head[v][:0], "MESSAGE\n"...)
		h = appendHeader(h, e.headers[0].Name, e.headers[0].Value, escape)
		t := e.tail[v][:0]
		for i := range e.headers[1:] {
			t = appendHeader(t, e.headers[i+1].Name, e.headers[i+1].Value, escape)
		}
		t = append(t, '\n')
		t = append(t, e.body...)
		t = append(t, 0, '\n')
		e.head[v], e.tail[v] = h, t
	}
	return e.head[v], e.tail[v]
}

func addrHost(addr string) string {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return ""
	}
	return host
}

func addrPort(addr string) int {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return 0
	}
	return n
}
