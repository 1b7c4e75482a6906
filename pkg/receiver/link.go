package receiver

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	stomp "github.com/go-stomp/stomp/v3/frame"
)

const (
	// defaultWriteLimit ends a link whose peer takes no bytes, where neither heart-beats nor a
	// ConnectTimeout say how long is too long.
	defaultWriteLimit = 30 * time.Second
	minWriteLimit     = time.Second
	// writeErrorGrace is how long after a failed write the reader may take to find out what
	// really happened: often an ERROR frame that explains why the HMC closed is still in the
	// socket.
	writeErrorGrace = time.Second
	// closeAfterError is how soon after an ERROR frame the HMC closes if it closes because of
	// that.
	closeAfterError = 5 * time.Second
)

const topicPrefix = "/topic/"

// link is one STOMP connection, from dial to loss. Its reader and its writer run until it is lost;
// nothing else does.
//
// The reader takes frames from the network and sorts them; only a full hand-over buffer makes it
// wait, and that for no longer than Limits.HandoverWait. The writer sends what others queue, and
// the heart-beats, so that nobody but the writer ever waits for the network.
type link struct {
	r    *Receiver
	wire *wire
	// conn is TLS over wire, or wire itself.
	conn   net.Conn
	frames *frameReader

	// escapes are those of STOMP 1.1 and later.
	escapes                 bool
	sendCycle, receiveCycle time.Duration
	writeLimit              time.Duration

	wake chan struct{} // wakes the writer: there is something in out
	done chan struct{} // is closed when cause is set
	// finished is closed when all that was received is handed over and the loss is known.
	finished chan struct{}

	// Guarded by r.mu:
	out      []byte
	subs     map[string]*linkSub // by subscription id
	requests map[string]*request // by receipt id
	// established says that Connect succeeded: a loss is reported by Notifications.
	established bool
	cause       error

	// For the reader only:
	items     []item // parsed and not yet handed over
	itemBytes int
	lastError *JMSError // the latest frame, if that was an ERROR
	errorAt   time.Time // when that came
	// fullSince is since when the hand-over buffer has had no room.
	fullSince   time.Time
	lastMessage time.Time // for Receiver.LastNotification
}

// linkSub is a subscription on this link.
type linkSub struct {
	*subscription
	confirmation *request
}

// request is a frame we sent that asks for a receipt.
type request struct {
	sub  *linkSub      // what it asks for, if it is a SUBSCRIBE
	done chan struct{} // is closed when it is answered
	err  error         // is set before
}

func (q *request) answer(err error) {
	select {
	case <-q.done:
	default:
		q.err = err
		close(q.done)
	}
}

func newLink(r *Receiver, conn net.Conn) *link {
	l := &link{
		r: r, wire: &wire{Conn: conn, lastByte: &r.lastByte}, lastMessage: r.lastNotification.get(),
		wake: make(chan struct{}, 1), done: make(chan struct{}), finished: make(chan struct{}),
		subs: make(map[string]*linkSub), requests: make(map[string]*request),
	}
	l.conn = l.wire
	l.frames = newFrameReader(l, r.limits)
	l.frames.hide = r.secrets.Hide
	if r.opts.Budget != nil {
		l.frames.charge = l.charge
	}
	return l
}

// run starts the link's goroutines.
func (l *link) run() {
	var writer sync.WaitGroup
	writer.Go(l.write)
	go func() {
		l.fail(l.read())
		l.flush()
		writer.Wait()
		l.tellEnd()
		l.r.lost(l)
		close(l.finished)
	}()
}

// fail ends the link. The first cause counts.
func (l *link) fail(cause error) { l.end(cause, l.wire) }

// end ends the link by closing conn: wire at once, or the whole of it with TLS's own goodbye.
func (l *link) end(cause error, conn net.Conn) {
	l.r.mu.Lock()
	first := l.cause == nil
	if first {
		l.cause = cause
		close(l.done)
	}
	l.r.mu.Unlock()
	if first {
		_ = conn.Close()
	}
}

// Read is what the frame reader reads from. What was parsed so far is handed over before it may
// wait for more.
func (l *link) Read(p []byte) (int, error) {
	l.flush()
	return l.conn.Read(p)
}

// read sorts frames until the link ends and returns why.
func (l *link) read() error {
	for {
		f, err := l.frames.next()
		if err != nil {
			l.r.buffer.give(&item{charged: f.charged})
			if l.lastError != nil && time.Since(l.errorAt) < closeAfterError && isEnd(err) {
				return endedBy("the HMC closed the link after "+l.lastError.Error(), l.lastError)
			}
			return readable(err, "")
		}
		l.tell(&f)
		l.lastError = nil
		it, queued := item{size: itemSize(&f)}, false
		it.charged = min(f.charged, it.size)
		l.r.buffer.give(&item{charged: f.charged - it.charged})
		switch f.command {
		case commandMessage:
			queued = l.message(&f, it)
		case commandReceipt:
			l.receipt(f.headers.Get(headerReceiptID))
		case commandError:
			queued = l.errorFrame(&f, it)
		case commandConnected: // a second one means nothing
		}
		if !queued {
			l.r.buffer.give(&it)
		}
	}
}

// tell has Options.OnTraffic see a frame.
func (l *link) tell(f *frame) {
	if on := l.r.opts.OnTraffic; on != nil {
		on(Traffic{Command: commandNames[f.command], Headers: f.headers, Body: f.body, At: l.wire.received})
	}
}

// tellEnd has Options.OnTraffic know that the link has ended.
func (l *link) tellEnd() {
	on := l.r.opts.OnTraffic
	if on == nil {
		return
	}
	end := Traffic{At: time.Now()}
	// After a DISCONNECT the HMC is often the first to close.
	if l.r.closing.Err() == nil && !errors.Is(l.cause, ErrClosed) {
		end.Lost = reasonOf(l.cause)
	}
	on(end)
}

// message hands a notification over, unless it is for nobody or there was no room for it.
func (l *link) message(f *frame, it item) (queued bool) {
	topic, ok := l.topicOf(f)
	if !ok {
		l.r.log.Debug("ignored a message for no subscription of ours",
			slog.String("subscription", l.frames.quote(f.headers.Get(headerSubscription))),
			slog.String("destination", l.frames.quote(f.headers.Get(headerDestination))))
		return false
	}
	l.lastMessage = l.wire.received
	it.notification = Notification{Topic: topic, Headers: f.headers, Body: f.body, Received: l.wire.received}
	if f.skipped {
		l.miss(&it)
		return true
	}
	l.queue(it)
	return true
}

// topicOf finds the topic of a message, by its subscription or, where a broker leaves that out, by
// its destination. A message is as good a confirmation of its subscription as a receipt.
func (l *link) topicOf(f *frame) (string, bool) {
	id, ok := f.headers.Lookup(headerSubscription)
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	var sub *linkSub
	if ok {
		sub = l.subs[id]
	} else if topic, isTopic := strings.CutPrefix(f.headers.Get(headerDestination), topicPrefix); isTopic {
		if wanted := l.r.wanted[topic]; wanted != nil {
			sub = l.subs[wanted.id]
		}
	}
	if sub == nil {
		return "", false
	}
	sub.confirmation.answer(nil)
	return sub.topic, true
}

func (l *link) receipt(id string) {
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	if q := l.requests[id]; q != nil {
		delete(l.requests, id)
		q.answer(nil)
	}
}

// errorFrame finds out what an ERROR is about: one of our frames, one of our topics, or nothing in
// particular. It reports whether Notifications will yield it.
func (l *link) errorFrame(f *frame, it item) (queued bool) {
	jms := l.r.jmsError(f)
	l.lastError, l.errorAt = jms, l.wire.received
	it.err = l.sortError(f, jms)
	if it.err != nil {
		l.queue(it)
	}
	return it.err != nil
}

// sortError answers the request an ERROR is about, and returns what Notifications is to yield.
func (l *link) sortError(f *frame, jms *JMSError) error {
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	id := f.headers.Get(headerReceiptID)
	if q := l.requests[id]; q != nil {
		delete(l.requests, id)
		if q.sub == nil { // whoever waits for it gets it
			q.answer(jms)
			return nil
		}
		return l.refuse(q.sub, jms)
	}
	if sub := l.namedIn(f); sub != nil {
		return l.refuse(sub, jms)
	}
	return jms
}

// refuse gives up a topic the HMC does not let us have. It returns what to yield: nothing where the
// topic is not wanted any more.
func (l *link) refuse(sub *linkSub, jms *JMSError) error {
	err := &SubscriptionError{Topic: sub.topic, Err: jms}
	sub.confirmation.answer(err)
	delete(l.subs, sub.id)
	if l.r.wanted[sub.topic] != sub.subscription {
		return nil
	}
	delete(l.r.wanted, sub.topic)
	return err
}

// namedIn returns the subscription whose topic an ERROR names as topic://NAME, the form of
// ActiveMQ. An HMC sends "... the specified destination, 'topic://NAME', is not a known or approved
// topic", without receipt-id.
func (l *link) namedIn(f *frame) *linkSub {
	const scheme = "topic://"
	message := f.headers.Get(headerMessage)
	if !strings.Contains(message, scheme) {
		message = string(f.body[:min(len(f.body), 4<<10)])
	}
	_, rest, ok := strings.Cut(message, scheme)
	if !ok {
		return nil
	}
	// One topic's name may begin with another's ("u.1" and "u.12job"): the longest that fits is
	// meant.
	var named *linkSub
	for _, sub := range l.subs {
		if strings.HasPrefix(rest, sub.topic) && (named == nil || len(sub.topic) > len(named.topic)) {
			named = sub
		}
	}
	if named != nil && goesOn(rest[len(named.topic):]) {
		return nil // a longer name, which is not ours
	}
	return named
}

// goesOn reports whether a topic's name goes on in rest, rather than being followed by a quote, a
// blank or a full stop.
func goesOn(rest string) bool {
	rest = strings.TrimLeft(rest, ".")
	if rest == "" {
		return false
	}
	c := rest[0]
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-_$#@", c) >= 0
}

// queue keeps an item for the next flush.
func (l *link) queue(it item) {
	l.items = append(l.items, it)
	l.itemBytes += it.size
	if l.itemBytes >= bufferSize {
		l.flush()
	}
}

// flush moves the parsed items to the hand-over buffer. If that is full it waits, and what then
// still has no room is lost; nothing is while the Receiver is being closed.
func (l *link) flush() {
	if len(l.items) == 0 {
		return
	}
	for rest := l.items; len(rest) > 0; {
		n := l.r.buffer.push(rest, l.over())
		if n > 0 {
			l.fullSince = time.Time{}
			rest = rest[n:]
			continue
		}
		if l.hold(rest) {
			continue
		}
		l.miss(&rest[0])
		rest = rest[1:]
	}
	l.r.lastNotification.set(l.lastMessage)
	clear(l.items)
	l.items, l.itemBytes = l.items[:0], 0
}

// over says that the link has ended and the Receiver is being closed: no more comes than is parsed.
func (l *link) over() bool {
	select {
	case <-l.done:
		return l.r.closing.Err() != nil
	default:
		return false
	}
}

// charge takes room for more of a body that is being read.
func (l *link) charge(n int) bool {
	for !l.r.buffer.take(n) {
		if l.flush(); l.over() || !l.hold(nil) {
			return false
		}
	}
	l.fullSince = time.Time{}
	return true
}

// hold waits for room in the hand-over buffer and reports whether to try again. Meanwhile nothing
// is read, so that TCP holds the sender. Each time the buffer becomes full it waits once, for
// HandoverWait; after that the reader keeps up with the HMC until there is room again, because an
// HMC that is held up for ever has to keep the notifications itself. It does so out of the Budget
// first, and waits once more when that is used up. Close ends the link soon: it waits until then.
//
// Before it waits it checks what is waiting: the consumer, which cannot keep up, need not.
func (l *link) hold(waiting []item) bool {
	if l.r.closing.Err() != nil {
		select {
		case <-l.r.buffer.room:
		case <-l.r.buffer.common:
		case <-l.done:
		}
		return true
	}
	if l.fullSince.IsZero() {
		l.fullSince = time.Now()
	}
	left := l.r.limits.HandoverWait - time.Since(l.fullSince)
	if left <= 0 || (l.r.opts.HandoverHold != nil && !l.r.opts.HandoverHold()) {
		return l.r.buffer.overflow()
	}
	for i := range waiting {
		waiting[i].check()
	}
	select {
	case <-l.r.buffer.room:
		return true
	case <-l.r.buffer.common:
		return true
	case <-time.After(left):
		return l.r.buffer.overflow()
	case <-l.r.closing.Done():
		return true
	}
}

// miss gives up an item for want of room.
func (l *link) miss(it *item) {
	l.r.buffer.give(it)
	switch {
	case is[*SubscriptionError](it.err):
		// There are as many as there were topics, and somebody has to know.
		l.r.buffer.push([]item{*it}, true)
	case it.err != nil:
		l.r.log.Warn("hand-over buffer full, dropped an ERROR of the HMC", slog.Any("error", it.err))
	case l.r.opts.OnMissed != nil:
		l.r.opts.OnMissed(it.notification.Topic)
	}
}

// write sends what is queued, and heart-beats at half the agreed cycle, because a broker may close
// a link whose heart-beat comes late by a little.
func (l *link) write() {
	var beats <-chan time.Time
	if l.sendCycle > 0 {
		ticker := time.NewTicker(l.sendCycle / 2)
		defer ticker.Stop()
		beats = ticker.C
	}
	beat := []byte("\n")
	for {
		var out []byte
		select {
		case <-l.done:
			return
		case <-beats:
			out = beat
		case <-l.wake:
			l.r.mu.Lock()
			out, l.out = l.out, nil
			l.r.mu.Unlock()
		}
		if err := l.send(out); err != nil {
			select {
			case <-l.done:
			case <-time.After(writeErrorGrace):
				l.fail(err)
			}
			return
		}
	}
}

func (l *link) send(out []byte) error {
	if len(out) == 0 {
		return nil
	}
	if err := l.conn.SetWriteDeadline(time.Now().Add(l.writeLimit)); err != nil {
		return err
	}
	_, err := l.conn.Write(out)
	if isTimeout(err) {
		return &timeoutError{"the HMC took no bytes", l.writeLimit}
	}
	if err != nil {
		return readable(err, "while sending")
	}
	return nil
}

// enqueue queues a frame for the writer. Called under r.mu, so that frames go out in the order of
// the decisions they are about.
func (l *link) enqueue(command string, headers ...string) {
	if l.escapes {
		var buf bytes.Buffer
		// A bytes.Buffer does not fail.
		_ = stomp.NewWriterSize(&buf, 512).Write(stomp.New(command, headers...))
		l.out = append(l.out, buf.Bytes()...)
	} else {
		l.out = appendFrame(l.out, command, headers...)
	}
	wake(l.wake)
}

// request queues a frame that asks for a receipt. Called under r.mu. Receipt ids and subscription
// ids never look alike: some brokers and clients keep both in one table.
func (l *link) request(sub *linkSub, command string, headers ...string) *request {
	l.r.lastReceipt++
	id := "receipt-" + strconv.FormatUint(l.r.lastReceipt, 10)
	q := &request{sub: sub, done: make(chan struct{})}
	l.requests[id] = q
	l.enqueue(command, slices.Concat(headers, []string{headerReceipt, id})...)
	return q
}

// subscribe asks for a topic. Called under r.mu.
func (l *link) subscribe(s *subscription) *linkSub {
	sub := &linkSub{subscription: s}
	l.subs[s.id] = sub
	if on := l.r.opts.OnTraffic; on != nil {
		on(Traffic{
			Command: stomp.SUBSCRIBE, At: time.Now(),
			Headers: Headers{{headerID, s.id}, {headerDestination, topicPrefix + s.topic}},
		})
	}
	sub.confirmation = l.request(sub, stomp.SUBSCRIBE,
		headerID, s.id, headerDestination, topicPrefix+s.topic, "ack", "auto")
	return sub
}

// unsubscribe gives up a topic. Called under r.mu. Late messages of it find no subscription.
func (l *link) unsubscribe(s *subscription) *request {
	delete(l.subs, s.id)
	return l.request(nil, stomp.UNSUBSCRIBE, headerID, s.id)
}

// disconnect says goodbye. Called under r.mu. The subscriptions stay known for what is still under
// way.
func (l *link) disconnect() *request {
	for _, s := range l.r.wantedInOrder() {
		l.enqueue(stomp.UNSUBSCRIBE, headerID, s.id)
	}
	return l.request(nil, stomp.DISCONNECT)
}
