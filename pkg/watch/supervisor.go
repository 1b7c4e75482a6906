package watch

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/ledger"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/record"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/translate"
)

// follows says whether a topic of this kind is among those of the session.
func (s *Supervisor) follows(kind string) bool { return s.topicOf(kind) != "" }

// topicOf returns the name of the session's topic of this kind.
func (s *Supervisor) topicOf(kind string) string {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	for name, t := range s.status.wanted {
		if t.kind == kind {
			return name
		}
	}
	return ""
}

func (s *Supervisor) subscribedTopics() string {
	var kinds []string
	for _, t := range s.status.wanted {
		if t.problem == "" {
			kinds = append(kinds, t.kind)
		}
	}
	slices.Sort(kinds)
	return event.ListOrNone(kinds)
}

// Timing holds the intervals of a supervisor. Tests shorten them.
type Timing struct {
	Recording   record.RecorderTiming
	AuthHold    time.Duration // after a refused logon: the HMC disables a userid that keeps trying
	StableAfter time.Duration // a link that was up this long starts the back-off over
	Ping        time.Duration // between calls that keep the session alive and notice a dead HMC
	ChannelSoon time.Duration // first wait before an OS message channel is tried again after its partition's status has changed
	ChannelMin  time.Duration // first wait before an OS message channel or a refused topic is tried again ...
	ChannelMax  time.Duration // ... and the longest ...
	ChannelRest time.Duration // ... where the partition offers no messages: its next status change is the time
	Relist      time.Duration // between lists of the estate
	Logoff      time.Duration // for the logoff on the way out
	Hardware    time.Duration // how often hardware messages are listed while there are any
}

func DefaultTiming() Timing {
	return Timing{
		AuthHold: 30 * time.Minute, StableAfter: 30 * time.Second, Ping: time.Minute,
		ChannelSoon: 2 * time.Second, ChannelMin: 15 * time.Second, ChannelMax: 10 * time.Minute, ChannelRest: 6 * time.Hour, Relist: 10 * time.Second, Logoff: 5 * time.Second,
		Recording: record.RecorderTiming{Tick: 500 * time.Millisecond, Settle: 2 * time.Second, SeenEvery: 30 * time.Second}, Hardware: 5 * time.Minute,
	}
}

// RefusalsBeforeHold is how often in a row the broker may refuse the credential of a fresh session before the
// supervisor stops asking: a broker that is still starting refuses at first, one that goes on has a reason.
const RefusalsBeforeHold = 5

// Supervisor keeps one HMC's session and link. It is one state machine: a new session means new topic names, so it
// always means a new link, and a link is never kept without asking whether its session still lives.
type Supervisor struct {
	Cfg     config.HMC
	tls     *tls.Config
	log     *zap.Logger
	Metrics *record.HMCMetrics
	queue   *queue.Queue
	Timing  Timing

	Rec     *record.Recorder
	topics  translate.TopicTable
	backoff *receiver.Backoff

	// Of the supervisor's goroutine alone.
	Handover     int // bytes that may wait between its link and its events; 0: the receiver's default
	client       *hmc.Client
	session      *hmc.Session      // nil: no session
	complete     bool              // all topics that the session has are wanted
	linked       *hmc.Session      // the session of the last link ...
	asked        time.Time         // ... and when that began to be made
	openChannels map[string]string // topics of the session's OS message channels, by the partition's object id
	everUp       bool              // a link has been up before: the next one is a reconnect
	hostIndex    int               // the host in use where the REST client does not choose it
	refusals     int               // by the broker, in a row
	lastProblem  string            // what was logged last, so that an outage is one line and not a thousand
	problemCount int

	Mu     sync.Mutex // guards what status pages read
	status hmcStatus
	Rcv    *receiver.Receiver
	lastUp struct{ frame, notification time.Time }
	beat   time.Time      // when the loop last proved to be alive
	ending string         // why run was told to end, if that is not the end of the daemon
	Rate   status.Minutes // of notifications
}

// hmcStatus is the supervisor's state as others see it.
type hmcStatus struct {
	state       string
	since       time.Time
	host        string
	problem     string // what is wrong now; "" when nothing is
	reason      string // of the problem, as the metrics name it
	outages     []status.Outage
	nextAttempt time.Time
	reconnects  int
	wanted      map[string]topicStatus   // by topic name
	channels    map[string]channelStatus // OS message channels, by the partition's URI
	unlisted    string                   // why it is not known whose OS messages to follow; "" when it is
	missing     []string                 // what the configuration asks for and the userid may not have
	missed      int
	certificate time.Time
}

type topicStatus struct {
	kind    string
	problem string // "" when subscribed
}

func NewSupervisor(cfg config.HMC, q *queue.Queue, m *record.Metrics, log *zap.Logger, version string, t Timing) (*Supervisor, error) {
	tlsConfig, err := cfg.TLS.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("hmc %s: %w", cfg.Name, err)
	}
	s := &Supervisor{
		Cfg: cfg, tls: tlsConfig, queue: q, Timing: t,
		log:     log.Named("receiver").With(zap.String("hmc", cfg.Name)),
		Metrics: m.ForHMC(cfg.Name),
		backoff: receiver.NewBackoff(cfg.Stomp),
		status: hmcStatus{
			state: status.StateDisconnected, since: time.Now(), wanted: map[string]topicStatus{},
			channels: map[string]channelStatus{},
		},
		beat:         time.Now(),
		openChannels: map[string]string{},
	}
	s.topics.Set(map[string]string{})
	s.Rec = record.NewRecorder(cfg, q, s.Metrics, s.log, &s.topics, t.Recording)
	s.Rec.OnMissed, s.Rec.Status, s.Rec.InSight = s.missedOn, s.heartbeat, s.inSight
	s.Rec.Heard = func() time.Time {
		frame, _ := s.LastTimes()
		return frame
	}
	if s.usesREST() {
		for _, operation := range hmc.Operations() {
			m.RestRequests.WithLabelValues(cfg.Name, operation, "200") // so that a rate can be told from the start
		}
		s.client, err = hmc.New(hmc.Options{
			Hosts: cfg.Hosts, Port: cfg.RESTPort, TLS: tlsConfig, UserAgent: "hmcnotifyd/" + version,
			RequestsPerMinute: cfg.RESTRequestsPerMinute, Logger: s.log,
			OnRequest: func(operation, code string) {
				m.RestRequests.WithLabelValues(cfg.Name, operation, code).Inc()
			},
		})
		if err != nil {
			return nil, fmt.Errorf("hmc %s: %w", cfg.Name, err)
		}
	}
	return s, nil
}

// usesREST says whether the Web Services API is needed: not where the topics are known.
func (s *Supervisor) usesREST() bool { return len(s.Cfg.TopicNames) == 0 }

// Run keeps the HMC connected until ctx is done. It logs off before it returns.
func (s *Supervisor) Run(ctx context.Context, seen *ledger.SeenWindow) {
	s.Rec.Timing = s.Timing.Recording
	s.Rec.Open(seen)
	s.Rec.Group.Join(s.Rec)
	defer s.Rec.Group.Leave(s.Rec)
	recording, stop := context.WithCancel(context.WithoutCancel(ctx))
	var recorder sync.WaitGroup
	recorder.Go(func() { s.Rec.Run(recording) })
	defer func() {
		s.SetState(status.StateDisconnected)
		s.leave(ctx)
		stop()
		recorder.Wait()
		s.Rec.Close(context.WithoutCancel(ctx), s.endCause())
	}()
	for ctx.Err() == nil {
		err := s.safeRound(ctx)
		if ctx.Err() != nil {
			return
		}
		s.waitAfter(ctx, err)
	}
}

// EndBecause says why run will be told to end, if that is not the end of the daemon.
func (s *Supervisor) EndBecause(cause string) {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	s.ending = cause
}

func (s *Supervisor) endCause() string {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	return cmp.Or(s.ending, "the daemon was stopped")
}

// leave ends everything that the HMC knows of this supervisor, also when ctx is done.
func (s *Supervisor) leave(ctx context.Context) {
	s.closeReceiver()
	s.logoff(ctx)
	if s.client != nil {
		s.client.Close()
	}
}

// safeRound is round with a panic turned into an error: one HMC's trouble is not the others'.
func (s *Supervisor) safeRound(ctx context.Context) (err error) {
	defer func() {
		if p := recover(); p != nil {
			s.Metrics.Panics.Inc()
			s.log.Error("panic; the receiver is started again", zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
			err = fmt.Errorf("panic: %v", p)
			s.closeReceiver()
			s.lost(ctx, err, true)
		}
	}()
	return s.round(ctx)
}

// holdError says that trying again soon would do harm.
type holdError struct {
	reason string // label value
	err    error
}

func (e *holdError) Error() string { return e.err.Error() }

func (e *holdError) Unwrap() error { return e.err }

// lostError ends a round whose link had been up.
type lostError struct {
	upSince time.Time
	err     error
}

func (e *lostError) Error() string { return e.err.Error() }

func (e *lostError) Unwrap() error { return e.err }

// waitAfter decides what the end of a round means and how long the HMC is left alone after it.
func (s *Supervisor) waitAfter(ctx context.Context, err error) {
	if _, hold := errors.AsType[*holdError](err); hold {
		s.failed(ctx, err, status.StateAuthFailed, s.Timing.AuthHold)
		return
	}
	if lost, ok := errors.AsType[*lostError](err); ok {
		if time.Since(lost.upSince) >= s.Timing.StableAfter {
			s.backoff.Reset()
		}
		s.pause(ctx, err, status.StateDisconnected, jittered(s.backoff.Next()))
		return
	}
	wait := jittered(s.backoff.Next())
	if busy, ok := errors.AsType[*hmc.BusyError](err); ok {
		wait = max(wait, busy.RetryAfter)
	}
	s.failed(ctx, err, status.StateDisconnected, wait)
}

// failed counts an attempt that failed, and pauses.
func (s *Supervisor) failed(ctx context.Context, err error, state string, wait time.Duration) {
	s.Metrics.ConnectFailed(failureReason(err))
	s.Rec.Disconnected(ctx, record.Disconnection{State: state, Reason: failureReason(err), Cause: s.explain(err)}, time.Time{}, false)
	s.pause(ctx, err, state, wait)
}

// pause says what is wrong and waits before the next attempt.
func (s *Supervisor) pause(ctx context.Context, err error, state string, wait time.Duration) {
	problem := s.explain(err)
	s.SetState(state)
	s.Mu.Lock()
	s.status.nextAttempt, s.status.problem, s.status.reason = time.Now().Add(wait), problem, failureReason(err)
	s.status.noteOutage(problem)
	s.Mu.Unlock()
	s.logProblem(state, failureReason(err), problem, wait)
	// The wait is cut into pieces so that the watchdog sees a loop that lives.
	for end := time.Now().Add(wait); ctx.Err() == nil; s.tick() {
		left := time.Until(end)
		if left <= 0 {
			return
		}
		status.Sleep(ctx, min(left, 10*time.Second))
	}
}

// logProblem writes one line when trouble begins or changes, after that one in every fifty attempts, and always one when
// the HMC is left alone for long.
func (s *Supervisor) logProblem(state, reason, problem string, wait time.Duration) {
	s.problemCount++
	if problem == s.lastProblem && state != status.StateAuthFailed && s.problemCount%50 != 0 {
		s.log.Debug("still not connected", zap.String("problem", problem), zap.Duration("next_attempt_in", wait))
		return
	}
	s.lastProblem = problem
	fields := []zap.Field{
		zap.String("problem", problem), zap.String("reason", reason),
		zap.Int("attempts", s.problemCount), zap.Duration("next_attempt_in", wait),
	}
	if state == status.StateAuthFailed {
		s.log.Error("not connected, and trying again soon would do harm: the HMC disables a userid that goes on being refused", fields...)
		return
	}
	s.log.Warn("not connected to the HMC", fields...)
}

// explain is the error as the person on call needs it: with the setting to change where there is one.
func (s *Supervisor) explain(err error) string {
	if text := s.Cfg.TLS.Explain(err); text != "" {
		return text
	}
	return err.Error()
}

// failureReason maps an error to the label reason of receiver_connect_failures_total.
func failureReason(err error) string {
	var (
		hold    *holdError
		link    *receiver.ConnectionError
		rest    *hmc.ConnectError
		answer  *hmc.HTTPError
		partial *hmc.PartialLogonError
	)
	switch {
	case errors.As(err, &hold):
		return hold.reason
	case errors.As(err, &link):
		return link.Reason
	case errors.As(err, &rest):
		return rest.Reason
	case errors.As(err, &partial), errors.As(err, &answer):
		return status.ReasonLogon
	}
	return receiver.ReasonOther
}

// jittered adds full jitter to waits above 5 s: when an HMC comes back, its clients must not all arrive at once.
func jittered(d time.Duration) time.Duration {
	const above = 5 * time.Second
	if d <= above {
		return d
	}
	return status.RandomBetween(above, d)
}

// round goes through one life of a link: session, topics, link, notifications until the link ends. It always
// returns an error, the reason why the link ended or did not come up.
func (s *Supervisor) round(ctx context.Context) error {
	wanted, host, err := s.prepare(ctx)
	if err != nil {
		return err
	}
	rcv, err := s.connectRetrying(ctx, host, wanted)
	if err != nil {
		return err
	}
	upSince := time.Now()
	unread, err := s.watch(ctx, rcv)
	s.lost(ctx, err, unread)
	if hmc.SessionLost(err) {
		s.session = nil
	}
	return &lostError{upSince: upSince, err: err}
}

// watch hands on what comes over a link until it ends, and returns why it did. unread says that something came which
// could not be handed on.
func (s *Supervisor) watch(ctx context.Context, rcv *receiver.Receiver) (unread bool, err error) {
	linkCtx, cancel := context.WithCancelCause(ctx)
	var keeping sync.WaitGroup
	k := newKeeper(s, rcv, cancel)
	s.linkUp(rcv)
	s.recordLinkUp(ctx, k)
	// Deferred, so that a panic leaves nothing running and loses nothing either.
	defer func() {
		cancel(nil)
		keeping.Wait()
		s.Rec.Filler.Store(nil)
		s.Rec.AskJob.Store(nil)
		s.closeReceiver()
		unread = s.takeRest(ctx, rcv)
	}()
	keeping.Go(func() { k.run(linkCtx) })
	keeping.Go(func() { k.askJobs(linkCtx) })
	err = s.consume(linkCtx, rcv, k)
	if cause := context.Cause(linkCtx); cause != nil && !errors.Is(cause, context.Canceled) {
		err = cause // the keeper ended the link, and knows why
	}
	return false, err
}

// lost records that the link was lost.
func (s *Supervisor) lost(ctx context.Context, err error, unread bool) {
	cause, planned := s.explain(err), ctx.Err() != nil
	if planned {
		cause = s.endCause()
	} else {
		cause = "the link was lost: " + cause
	}
	frame, _ := s.LastTimes()
	d := record.Disconnection{State: status.StateDisconnected, Reason: failureReason(err), Cause: cause, Planned: planned}
	s.Rec.Disconnected(context.WithoutCancel(ctx), d, frame, unread)
}

// restTimeout bounds how long what a closed receiver still holds is brought into the queue.
const restTimeout = 5 * time.Second

// takeRest handles what was received and not yet handed on when the link was closed from this side. It reports whether
// something is left that it could not hand on.
func (s *Supervisor) takeRest(ctx context.Context, rcv *receiver.Receiver) (unread bool) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), restTimeout)
	defer cancel()
	defer s.Rec.FlushNow(ctx)
	for n, err := range rcv.Notifications(ctx) {
		if !s.take(ctx, &n, err) && errors.Is(err, receiver.ErrClosed) {
			return false
		}
	}
	left := rcv.Buffered()
	if left > 0 { // the queue takes nothing, or too slowly
		s.missed("", left)
	}
	return left > 0
}

// consume hands notifications on until the link ends.
func (s *Supervisor) consume(ctx context.Context, rcv *receiver.Receiver, k *keeper) error {
	defer s.Rec.FlushNow(ctx)
	for n, err := range rcv.Notifications(ctx) {
		var (
			subscription *receiver.SubscriptionError
			jms          *receiver.JMSError
			gone         *receiver.ConnectionError
		)
		switch {
		case s.take(ctx, &n, err):
			if err == nil {
				k.notified(&n)
			}
		case errors.As(err, &gone):
			return err
		case errors.As(err, &subscription):
			k.refused(subscription.Topic, err)
		case errors.As(err, &jms):
			s.log.Warn("the HMC's broker sent an error", zap.Error(err))
		default:
			return err
		}
		if rcv.Buffered() == 0 {
			s.Rec.FlushNow(ctx)
			s.tick()
		}
	}
	return errors.New("the link was closed")
}

// take handles what an iteration over notifications yielded, if it is one, and reports whether it is. A body that is not
// JSON makes it none the less one.
func (s *Supervisor) take(ctx context.Context, n *receiver.Notification, err error) bool {
	if err == nil {
		s.handle(ctx, n, true)
		return true
	}
	_, notJSON := errors.AsType[*receiver.ParseError](err)
	if notJSON {
		s.Metrics.ParseErrors.Inc()
		s.handle(ctx, n, false)
	}
	return notJSON
}

// handle records one notification.
func (s *Supervisor) handle(ctx context.Context, n *receiver.Notification, valid bool) {
	s.Metrics.Notified(s.Rec.Notification(ctx, n, valid))
}

// connectRetrying makes the link, with as many retries as connect_retries says. After that the round ends, and the next
// one looks after the session first; the pauses go on growing where this one stopped.
func (s *Supervisor) connectRetrying(ctx context.Context, host string, wanted map[string]string) (*receiver.Receiver, error) {
	retries := s.Cfg.Stomp.ConnectRetries
	if retries < 0 { // without end, which the rounds are
		retries = receiver.DefaultStompRetryTimeoutConfig().ConnectRetries
	}
	for {
		s.SetState(status.StateConnecting)
		rcv, err := s.connect(ctx, host, wanted)
		_, held := errors.AsType[*holdError](err)
		if err == nil || held || retries == 0 || ctx.Err() != nil || failureReason(err) == receiver.ReasonAuthorization {
			return rcv, err
		}
		retries--
		s.failed(ctx, err, status.StateDisconnected, jittered(s.backoff.Next()))
	}
}

// connect makes one attempt at the link.
func (s *Supervisor) connect(ctx context.Context, host string, wanted map[string]string) (*receiver.Receiver, error) {
	stomp := s.Cfg.Stomp
	stomp.ConnectRetries = 0
	opts := receiver.Options{
		Host: host, Port: s.Cfg.StompPort, TLS: s.tls, Config: &stomp, Logger: s.log,
		OnMissed:     func(topic string) { s.Rec.Overflowed(topic, time.Now()) },
		HandoverHold: func() bool { return s.queue == nil || s.queue.Err() == nil },
	}
	opts.Limits.Handover = s.Handover
	for topic := range wanted {
		opts.Topics = append(opts.Topics, topic)
	}
	switch {
	case s.session != nil:
		opts.SessionID, opts.SessionCredential = s.session.ID(), s.session.Credential()
	case s.Cfg.Session != nil:
		opts.SessionID, opts.SessionCredential = s.Cfg.Session.ID.Expose(), s.Cfg.Session.Credential.Expose()
	default:
		opts.Userid, opts.Password = s.Cfg.Userid, s.Cfg.Password.Expose()
	}
	rcv, err := receiver.New(opts)
	if err != nil {
		return nil, &holdError{reason: receiver.ReasonOther, err: fmt.Errorf("the configuration does not fit: %w", err)}
	}
	s.asked = time.Now()
	err = rcv.Connect(ctx)
	s.Mu.Lock()
	s.Rcv = rcv
	s.Mu.Unlock()
	s.noteCertificate(rcv)
	if err == nil {
		s.refusals = 0
		return rcv, nil
	}
	s.closeReceiver()
	s.nextHost(err)
	var link *receiver.ConnectionError
	if errors.As(err, &link) && link.Reason == receiver.ReasonAuthorization {
		switch {
		case s.Cfg.Session != nil:
			err = fmt.Errorf("the broker refuses the session given in the configuration; make a new one and name it in session.id and session.credential: %w", err)
			return nil, &holdError{reason: receiver.ReasonAuthorization, err: err}
		case opts.Userid != "":
			return nil, &holdError{reason: receiver.ReasonAuthorization, err: s.passwordRefused(err)}
		}
		err = fmt.Errorf("the broker refuses the sessions that the Web Services API makes: %w", err)
		// The broker does not know the session, so its topics are gone too.
		s.logoff(ctx)
		if s.refusals++; s.refusals >= RefusalsBeforeHold {
			s.refusals = 0
			return nil, &holdError{reason: receiver.ReasonAuthorization, err: err}
		}
	}
	return nil, err
}

// recordLinkUp records that the link is up, and asks the keeper for what was missed before.
func (s *Supervisor) recordLinkUp(ctx context.Context, k *keeper) {
	k.newSession = s.session != s.linked
	s.linked = s.session
	up := record.Connection{NewSession: k.newSession}
	s.Mu.Lock()
	up.Host = s.status.host
	for topic, st := range s.status.wanted {
		up.Topics = append(up.Topics, record.TopicLabel{Name: topic, Type: st.kind})
	}
	s.Mu.Unlock()
	slices.SortFunc(up.Topics, func(a, b record.TopicLabel) int { return cmp.Compare(a.Name, b.Name) })
	if k.session != nil {
		s.Rec.Filler.Store(new(k.fill))
		s.Rec.AskJob.Store(new((chan<- string)(k.jobs)))
	}
	if s.Rec.Connected(ctx, up, s.complete, s.asked, time.Now()) && k.session != nil {
		k.fillAll()
	}
}

// linkUp notes that the link is up.
func (s *Supervisor) linkUp(rcv *receiver.Receiver) {
	s.Mu.Lock()
	if s.everUp {
		s.status.reconnects++
		s.Metrics.Reconnects.Inc()
	}
	s.everUp = true
	s.status.endOutage(time.Now())
	for topic, st := range s.status.wanted {
		if rcv.Subscribed(topic) {
			st.problem = ""
		} else if st.problem == "" {
			st.problem = status.NotSubscribed
		}
		s.status.wanted[topic] = st
	}
	host, topics := s.status.host, len(s.status.wanted)
	s.Mu.Unlock()
	send, receive := rcv.HeartBeat()
	fields := []zap.Field{
		zap.String("host", host), zap.Int("topics", topics),
		zap.Duration("heartbeat_send", send), zap.Duration("heartbeat_receive", receive),
	}
	if s.problemCount > 0 {
		fields = append(fields, zap.Int("failed_attempts", s.problemCount))
	}
	s.problemCount, s.lastProblem = 0, ""
	s.SetState(status.StateConnected)
	s.log.Info("connected to the HMC", fields...)
}

// closeReceiver ends the link, if there is one: UNSUBSCRIBE, DISCONNECT, bounded in time.
func (s *Supervisor) closeReceiver() {
	s.Mu.Lock()
	rcv := s.Rcv
	s.Rcv = nil
	if rcv != nil {
		s.lastUp.frame, s.lastUp.notification = rcv.LastFrame(), rcv.LastNotification()
	}
	s.Mu.Unlock()
	if rcv != nil {
		if err := rcv.Close(); err != nil {
			s.log.Debug("the link did not end cleanly", zap.Error(err))
		}
	}
	s.Metrics.Connected.Set(0)
}

// SetState publishes the state. What was wrong stays on record until the link is up again, and so does since when:
// the attempts during an outage are not the beginning of it.
func (s *Supervisor) SetState(state string) {
	s.Mu.Lock()
	settled := func(state string) bool { return state == status.StateConnected || state == status.StateAuthFailed }
	if s.status.state != state && (settled(state) || settled(s.status.state)) {
		s.status.since = time.Now()
	}
	s.status.state = state
	if state == status.StateConnected {
		s.status.problem, s.status.reason = "", ""
	}
	if state != status.StateDisconnected && state != status.StateAuthFailed {
		s.status.nextAttempt = time.Time{}
	}
	s.Mu.Unlock()
	s.Metrics.SetState(state)
	s.publishConnected()
}

// publishConnected sets receiver_connected: the link is up and every wanted topic is subscribed.
func (s *Supervisor) publishConnected() {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	if s.status.connected() {
		s.Metrics.Connected.Set(1)
	} else {
		s.Metrics.Connected.Set(0)
	}
}

// missed counts notifications that are known to be missing on a topic.
func (s *Supervisor) missed(topic string, n int) {
	s.missedOn(s.topics.KindOf(topic, ""), n)
}

// missedOn counts notifications that are known to be missing on a topic of this type.
func (s *Supervisor) missedOn(topicType string, n int) {
	s.Mu.Lock()
	s.status.missed += n
	s.Mu.Unlock()
	s.Metrics.MissedOn(topicType, n)
}

func (s *Supervisor) noteCertificate(rcv *receiver.Receiver) {
	certs := rcv.PeerCertificates()
	if len(certs) == 0 {
		return
	}
	notAfter := certs[0].NotAfter
	s.Mu.Lock()
	s.status.certificate = notAfter
	s.Mu.Unlock()
	s.Metrics.Certificate.Set(status.UnixSeconds(notAfter))
}

// tick proves to the watchdog that the loop is alive.
func (s *Supervisor) tick() {
	s.Mu.Lock()
	s.beat = time.Now()
	s.Mu.Unlock()
}

// logoff ends the session on the HMC, unless it was made elsewhere.
func (s *Supervisor) logoff(ctx context.Context) {
	session := s.session
	s.session = nil
	if session == nil || s.Cfg.Session != nil {
		return
	}
	// Also on the way out, when ctx is done.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.Timing.Logoff)
	defer cancel()
	if err := session.Logoff(ctx); err != nil && !hmc.SessionLost(err) {
		s.log.Warn("the session may be left on the HMC until its idle time ends", zap.Error(err))
	}
}

// knownKinds maps a topic-type of the Web Services API to ours.
var knownKinds = map[string]string{
	hmc.TopicTypeObject:    event.TopicObject,
	hmc.TopicTypeJob:       event.TopicJob,
	hmc.TopicTypeAudit:     event.TopicAudit,
	hmc.TopicTypeSecurity:  event.TopicSecurity,
	hmc.TopicTypeOSMessage: event.TopicOSMessage,
}

func (s *Supervisor) isOSMessageTopic(topic string) bool {
	return s.topics.KindOf(topic, "") == event.TopicOSMessage
}

// IsUp says whether the link is up.
func (s *Supervisor) IsUp() bool {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	return s.status.state == status.StateConnected
}
