package watch

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/heard"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/ledger"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/logon"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/record"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/translate"
)

// restTimeout bounds how long what a closed link has left is brought into the queue.
const restTimeout = 5 * time.Second

// busyMax is the longest that an HMC which is busy is left alone, whatever it asks for.
const busyMax = 2 * time.Minute

// Supervisor keeps one HMC's session and link. It is one state machine: a new session means new
// topic names, so it always means a new link, and a link is never made without asking whether its
// session still lives.
//
// Its fields Cfg (what it was made with; see Config), Metrics (the series of the HMC) and Rec (its
// recorder) stay the same.
type Supervisor struct {
	shared

	// of notifications
	Rate status.Minutes

	assumed *assumptions
	// onFailed is Tap.Failed.
	onFailed func(time.Time, string)

	// beat is when the loop last proved that it turns.
	beat *status.Beat
	// ending is why Run was told to end, if that is not the end of the daemon.
	ending atomic.Pointer[string]
	// used is Cfg with what its files held when they were read last; again ends a pause.
	used  atomic.Pointer[config.HMC]
	again chan struct{}

	// Of the supervisor's goroutine alone; linked is the session of the last link, confirmed when
	// that was closed from this side, if the HMC has said that it was.
	session   *logon.Session
	connector *logon.Connector
	backoff   *receiver.Backoff
	linked    *hmc.Session
	confirmed time.Time
	trouble   trouble
	// that is being recorded
	note translate.Notification

	listen listening
	// recorder is Rec, for those who may come before there is one.
	recorder atomic.Pointer[record.Recorder]
}

// shared is what all goroutines that look after one HMC may use.
type shared struct {
	Cfg     config.HMC
	Metrics *record.HMCMetrics
	Rec     *record.Recorder

	log       *zap.Logger
	queue     *queue.Queue
	intervals Intervals
	topics    translate.TopicTable
	source    source
}

// trouble is what was logged of an outage, so that it is one line and not a thousand.
type trouble struct {
	problem string
	// that failed
	attempts int
}

// New makes a Supervisor that does nothing yet. It makes every series that the HMC has in the
// metrics.
func New(o Options) (*Supervisor, error) {
	s, err := NewListening(o, 0, 0)
	if err == nil {
		s.Record(o)
	}
	return s, err
}

// NewListening is New without Queue and Group, for Listen, which keeps so many bytes of what it
// hears for a time. Record comes before Run.
func NewListening(o Options, keep time.Duration, keepBytes int) (*Supervisor, error) {
	name := o.HMC.Name
	s := &Supervisor{
		backoff: receiver.NewBackoff(o.HMC.Stomp), again: make(chan struct{}, 1), beat: status.NewBeat(),
		onFailed: o.Tap.Failed,
	}
	s.listen.heard = heard.NewLog(keep, keepBytes)
	s.Cfg, s.Metrics = o.HMC, o.Metrics.ForHMC(name)
	s.intervals = o.Intervals.withDefaults()
	s.log = o.Logger.Named("receiver").With(zap.String("hmc", name))
	s.assumed = newAssumptions(name, o.Metrics, s.log)
	var err error
	s.session, err = logon.NewSession(&s.Cfg, logon.SessionOptions{
		Logger: s.log, Version: o.Version, Notes: o.SessionNotes,
		Dial: o.Dial, Budget: o.Budget, OnExchange: s.assumed.exchange(o.Tap.Exchange),
		OnRequest: func(operation, code string) { o.Metrics.RestRequests.WithLabelValues(name, operation, code).Inc() },
	})
	if err != nil {
		return nil, err
	}
	if s.session.UsesREST() {
		for _, operation := range hmc.Operations() {
			// so that a rate has a beginning
			o.Metrics.RestRequests.WithLabelValues(name, operation, "200")
		}
	}
	s.topics.Set(make(map[string]string))
	s.source.board, s.source.metrics = newBoard(), s.Metrics
	s.connector = logon.NewConnector(s.session, receiver.Options{
		OnMissed: func(topic string) {
			s.assumed.missed(topic)
			if r := s.recorder.Load(); r != nil {
				r.Overflowed(topic, time.Now())
			} else {
				s.listen.heard.Missed()
			}
		},
		HandoverHold: func() bool { return s.recorder.Load() == nil || s.queue.Err() == nil },
		Limits:       receiver.Limits{Handover: o.Handover}, Budget: o.Budget,
		Dial: o.Dial, OnTraffic: s.assumed.traffic(o.Tap.Traffic),
	}, func(link *receiver.Receiver) {
		s.source.update(func(now *state) { now.attempted(link) })
	})
	s.used.Store(&s.Cfg)
	return s, nil
}

// Record has what comes from now on, and what was heard before and not seen recorded, recorded by
// Run.
func (s *Supervisor) Record(o Options) {
	s.queue = o.Queue
	s.Rec = record.New(record.Options{
		Config: s.Cfg, Group: o.Group, Watcher: &s.source, Metrics: s.Metrics, Logger: s.log, Topics: &s.topics,
		Timing: s.intervals.Recording, Budget: o.Budget, After: o.After, Heard: s.listen.heard.Since(),
	})
	s.recorder.Store(s.Rec)
}

// sessionEnded and disconnected tell the recorder, where there is one.
func (s *Supervisor) sessionEnded() {
	if s.Rec != nil {
		s.Rec.SessionEnded()
	}
}

func (s *Supervisor) disconnected(ctx context.Context, d record.Disconnection, lastFrame time.Time, unread bool) {
	if s.Rec != nil {
		s.Rec.Disconnected(ctx, d, lastFrame, unread)
	}
}

// Config returns Cfg with what the files that it names held when they were read last. It is not to
// be changed.
func (s *Supervisor) Config() *config.HMC { return s.used.Load() }

// TryNow ends the pause before the next attempt, if there is one.
func (s *Supervisor) TryNow() { signal(s.again) }

// Run keeps the HMC connected until ctx is done. It logs off before it returns.
func (s *Supervisor) Run(ctx context.Context, seen *ledger.SeenWindow) {
	board := s.source.board
	s.Rec.Open(seen)
	recording, stop := context.WithCancel(context.WithoutCancel(ctx))
	var recorder sync.WaitGroup
	recorder.Go(func() { s.Rec.Run(recording) })
	defer func() {
		board.update(func(now *state) { now.enter(status.StateDisconnected) })
		s.leaveLink("", "")()
		if s.session.Close(ctx) {
			s.Rec.SessionEnded()
		}
		stop()
		recorder.Wait()
		s.Rec.Close(context.WithoutCancel(ctx), s.endCause())
	}()
	s.rounds(ctx)
}

func (s *Supervisor) rounds(ctx context.Context) {
	for ctx.Err() == nil {
		if upSince, err := s.safeRound(ctx); ctx.Err() == nil {
			s.waitAfter(ctx, upSince, err)
		}
	}
}

// EndBecause says why Run will be told to end, if that is not the end of the daemon.
func (s *Supervisor) EndBecause(cause string) { s.ending.Store(&cause) }

func (s *Supervisor) endCause() string {
	if cause := s.ending.Load(); cause != nil {
		return *cause
	}
	return "the daemon was stopped"
}

// safeRound is round with a panic turned into an error: one HMC's trouble is not the others'.
func (s *Supervisor) safeRound(ctx context.Context) (upSince time.Time, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = s.panicked(p, "panic; the receiver is started again")
			s.leaveLink(err.Error(), receiver.ReasonOther)()
			s.recordLoss(ctx, err, true)
		}
	}()
	return s.round(ctx)
}

// panicked counts and logs a panic, and makes an error of it.
func (s *shared) panicked(p any, text string) error {
	s.Metrics.Panics.Inc()
	s.log.Error(text, zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
	return fmt.Errorf("panic: %v", p)
}

// round goes through one life of a link: session, topics, link, notifications until the link ends.
// It always returns an error: why the link, which came up at upSince, has ended, or, where that is
// zero, why none came up.
func (s *Supervisor) round(ctx context.Context) (upSince time.Time, err error) {
	select {
	case <-s.again: // here it is
	default:
	}
	if link, o := s.listen.take(); link != nil {
		return s.live(ctx, link, o)
	}
	s.refresh()
	board := s.source.board
	if s.session.UsesREST() {
		board.update(func(now *state) { now.attempt(status.StateLoggingOn) })
	}
	had := s.session.API
	o, err := s.session.Prepare(ctx)
	if had != nil && s.session.API != had {
		s.sessionEnded()
	}
	if err != nil {
		return upSince, err
	}
	s.topics.Set(maps.Clone(o.Kinds))
	board.update(func(now *state) { now.offered(o) })
	link, err := s.connect(ctx, o)
	if err != nil {
		return upSince, err
	}
	return s.live(ctx, link, o)
}

// live is the part of a round from when the link is up.
func (s *Supervisor) live(ctx context.Context, link *receiver.Receiver, o *logon.Offer) (upSince time.Time, err error) {
	upSince = time.Now()
	unread := false
	if s.Rec == nil {
		err = s.hear(ctx, link, o)
	} else {
		unread, err = s.watch(ctx, link, o)
	}
	s.recordLoss(ctx, err, unread)
	if hmc.SessionLost(err) {
		s.session.Logoff(ctx)
		s.sessionEnded()
	}
	return upSince, err
}

// refresh takes over what has changed in the files that the configuration names, and reports
// whether something has.
func (s *Supervisor) refresh() (changed bool) {
	if changed = s.session.Refresh(); changed {
		s.used.Store(s.session.Cfg)
	}
	return changed
}

// connect makes the link, with as many retries as connect_retries says. After that the round ends,
// and the next one looks after the session first, on the next host where there is one; the pauses
// go on growing where this one stopped.
func (s *Supervisor) connect(ctx context.Context, o *logon.Offer) (*receiver.Receiver, error) {
	retries, usual := s.Cfg.Stomp.ConnectRetries, receiver.DefaultStompRetryTimeoutConfig().ConnectRetries
	if retries < 0 || len(s.Cfg.Hosts) > 1 && retries > usual { // without end, which the rounds are
		retries = usual
	}
	for ; ; retries-- {
		s.source.update(func(now *state) { now.attempt(status.StateConnecting) })
		link, err := s.connector.Connect(ctx, o)
		refused := logon.IsHold(err) || logon.FailureReason(err) == receiver.ReasonAuthorization
		if err == nil || refused || retries == 0 || ctx.Err() != nil {
			return link, err
		}
		s.failed(ctx, err, status.StateDisconnected, jittered(s.backoff.Next()))
	}
}

// watch hands on what comes over a link until it ends, and returns why it did. unread says that
// something came which could not be handed on.
func (s *Supervisor) watch(ctx context.Context, link *receiver.Receiver, o *logon.Offer) (unread bool, err error) {
	linkCtx, cancel := context.WithCancelCause(ctx)
	var keeping sync.WaitGroup
	k := newKeeper(s, link, o, cancel)
	// Deferred, so that a panic leaves nothing running and loses nothing either.
	defer func() {
		cancel(nil)
		keeping.Wait()
		s.source.keeper.Store(nil)
		problem, reason := "", ""
		if err != nil && ctx.Err() == nil {
			problem, reason = s.explain(err)
		}
		closed := s.leaveLink(problem, reason)
		unread = s.recordRest(ctx, link)
		closed()
	}()
	s.linkUp(ctx, k, o)
	keeping.Go(func() { k.run(linkCtx) })
	keeping.Go(func() { k.askAll(linkCtx) })
	keeping.Go(func() { k.runProbe(linkCtx) })
	err = s.consume(linkCtx, link, k)
	if cause := context.Cause(linkCtx); cause != nil && !errors.Is(cause, context.Canceled) {
		err = cause // the keeper ended the link, and knows why
	}
	return false, err
}

// linkUp publishes and records that the link is up, and has the keeper fetch what was missed
// before.
func (s *Supervisor) linkUp(ctx context.Context, k *keeper, o *logon.Offer) {
	if s.source.now().link != k.link { // else it was up while another daemon recorded
		s.announce(k.link, o)
	}
	k.newSession, s.linked = k.session != s.linked, k.session
	up := record.Connection{Host: o.Host, Console: o.Console, NewSession: k.newSession}
	for _, topic := range slices.Sorted(maps.Keys(o.Kinds)) {
		up.Topics = append(up.Topics, record.TopicLabel{Name: topic, Type: o.Kinds[topic]})
	}
	if k.session != nil {
		s.source.keeper.Store(k)
	}
	wasBlind := s.Rec.Connected(ctx, up, o.Complete, s.connector.Asked)
	s.overheard(ctx)
	if wasBlind {
		s.source.Fetch(map[string]bool{"": true})
		return
	}
	for _, kind := range event.LogTopics() {
		s.source.FetchLog(kind)
	}
}

// announce publishes that the link is up.
func (s *Supervisor) announce(link *receiver.Receiver, o *logon.Offer) {
	now := s.source.update(func(now *state) { now.up(link) })
	if now.links > 1 {
		s.Metrics.Reconnects.Inc()
	}
	send, receive := link.HeartBeat()
	fields := []zap.Field{
		zap.String("host", o.Host), zap.Int("topics", len(o.Kinds)),
		zap.Duration("heartbeat_send", send), zap.Duration("heartbeat_receive", receive),
	}
	if s.trouble.attempts > 0 {
		fields = append(fields, zap.Int("failed_attempts", s.trouble.attempts))
	}
	s.trouble = trouble{}
	s.log.Info("connected to the HMC", fields...)
}

// leaveLink publishes that the link has ended, and begins to end it, if there is one. problem and
// reason say why, if that is a fault. What it returns waits for the end.
func (s *Supervisor) leaveLink(problem, reason string) (closed func()) {
	link := s.source.now().link
	if link == nil {
		return func() {}
	}
	s.source.update(func(now *state) { now.down(problem, reason) })
	began := time.Now()
	s.confirmed = time.Time{}
	link.BeginClose()
	return func() {
		if logon.CloseLink(link, s.log) && link.LastFrame().After(began) {
			s.confirmed = began
		}
	}
}

// recordLoss records that the link was lost.
func (s *Supervisor) recordLoss(ctx context.Context, err error, unread bool) {
	problem, reason := s.explain(err)
	d := record.Disconnection{
		State: status.StateDisconnected, Reason: reason, Cause: "the link was lost: " + problem, Confirmed: s.confirmed,
	}
	if ctx.Err() != nil {
		d.Planned, d.Cause = true, s.endCause()
	}
	frame, _ := s.source.now().lastTimes()
	s.disconnected(context.WithoutCancel(ctx), d, frame, unread)
}

// recordRest handles what was received and not yet handed on when the link was left from this side,
// and what comes until it has ended. It reports whether it could not hand all of it on.
func (s *Supervisor) recordRest(ctx context.Context, link *receiver.Receiver) (unread bool) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), restTimeout)
	defer cancel()
	defer s.Rec.Flush(ctx)
	link.BeginClose() // or it would be connected anew
	for n, err := range link.Notifications(ctx) {
		if !s.record(ctx, &n, err) && errors.Is(err, receiver.ErrClosed) {
			return false
		}
	}
	left := link.Buffered()
	if left > 0 { // the queue takes nothing, or too slowly
		s.source.Missed(event.TopicOther, left)
	}
	return left > 0
}

// consume hands notifications on until the link ends.
func (s *Supervisor) consume(ctx context.Context, link *receiver.Receiver, k *keeper) error {
	defer s.Rec.Flush(ctx)
	for n, err := range link.Notifications(ctx) {
		s.beat.Turn() // also where so much comes that the buffer is never empty
		if s.record(ctx, &n, err) {
			if err == nil {
				k.notified(&s.note)
				if s.session.ChangesPassword(&s.note) {
					s.session.Expires = nil
					s.source.update(func(now *state) { now.PasswordExpires = nil })
				}
			}
		} else if _, gone := errors.AsType[*receiver.ConnectionError](err); gone {
			return err
		} else if refused, ok := errors.AsType[*receiver.SubscriptionError](err); ok {
			k.refused(refused.Topic, err)
		} else if _, ok := errors.AsType[*receiver.JMSError](err); ok {
			s.log.Warn("the HMC's broker sent an error", zap.Error(err))
		} else {
			return err
		}
		if link.Buffered() == 0 {
			s.Rec.Flush(ctx)
		}
	}
	return errors.New("the link was closed")
}

// record stores what an iteration over notifications yielded, if it is one, and reports whether it
// is. A body that is not JSON makes it none the less one.
func (s *Supervisor) record(ctx context.Context, n *receiver.Notification, err error) bool {
	s.source.recording.Store(true)
	defer s.source.recording.Store(false)
	_, notJSON := errors.AsType[*receiver.ParseError](err)
	if err != nil && !notJSON {
		return false
	}
	if notJSON {
		s.Metrics.ParseErrors.Inc()
	}
	s.note.Parse(n, !notJSON)
	s.Metrics.Notified(s.note.Type)
	s.assumed.notified(&s.note)
	if s.Rec == nil {
		s.listen.heard.Hear(heard.Notification{Notification: *n, Valid: !notJSON}, s.note.Told())
		return true
	}
	s.Rec.Notification(ctx, &s.note)
	return true
}

// waitAfter decides what the end of a round means and how long the HMC is left alone after it.
func (s *Supervisor) waitAfter(ctx context.Context, upSince time.Time, err error) {
	wasUp := !upSince.IsZero()
	if wasUp && time.Since(upSince) >= s.intervals.StableAfter {
		s.backoff.Reset()
	}
	name, wait := status.StateAuthFailed, s.intervals.AuthHold
	if !logon.IsHold(err) {
		name, wait = status.StateDisconnected, jittered(s.backoff.Next())
		if !wasUp {
			s.session.NextHost()
		}
	}
	if wasUp {
		s.pause(ctx, err, name, wait)
		return
	}
	if busy, ok := errors.AsType[*hmc.BusyError](err); ok {
		wait = max(wait, min(busy.RetryAfter, busyMax))
	}
	s.failed(ctx, err, name, wait)
}

// failed counts and records an attempt that failed, and pauses.
func (s *Supervisor) failed(ctx context.Context, err error, name string, wait time.Duration) {
	problem, reason := s.explain(err)
	s.Metrics.ConnectFailed(reason)
	if s.onFailed != nil {
		s.onFailed(time.Now(), reason)
	}
	s.disconnected(ctx, record.Disconnection{State: name, Reason: reason, Cause: problem}, time.Time{}, false)
	s.pause(ctx, err, name, wait)
}

// explain says what is wrong, for people and as the metrics name it.
func (s *Supervisor) explain(err error) (problem, reason string) {
	return logon.Explain(&s.Cfg, err), logon.FailureReason(err)
}

// pause publishes what is wrong and waits before the next attempt.
func (s *Supervisor) pause(ctx context.Context, err error, name string, wait time.Duration) {
	problem, reason := s.explain(err)
	s.source.update(func(now *state) {
		now.rejected(err)
		now.wait(name, problem, reason, time.Now().Add(wait))
	})
	s.logTrouble(name, reason, problem, wait)
	s.sleep(ctx, wait)
	s.beat.Turn()
}

// sleep waits for d at most: TryNow ends it, and so does a change of the files that the
// configuration names, which may be the cure.
func (s *Supervisor) sleep(ctx context.Context, d time.Duration) {
	end := time.Now().Add(d)
	for left := d; left > 0; left = time.Until(end) {
		select {
		case <-ctx.Done():
			return
		case <-s.again:
			return
		case <-time.After(min(left, s.intervals.Files)):
		}
		if left > s.intervals.Files && s.refresh() {
			return
		}
	}
}

// logTrouble writes one line when trouble begins or changes, after that one in every fifty
// attempts, and always one when the HMC is left alone for long.
func (s *Supervisor) logTrouble(name, reason, problem string, wait time.Duration) {
	t := &s.trouble
	t.attempts++
	if problem == t.problem && name != status.StateAuthFailed && t.attempts%50 != 0 {
		s.log.Debug("still not connected", zap.String("problem", problem), zap.Duration("next_attempt_in", wait))
		return
	}
	t.problem = problem
	fields := []zap.Field{
		zap.String("problem", problem), zap.String("reason", reason),
		zap.Int("attempts", t.attempts), zap.Duration("next_attempt_in", wait),
	}
	if name == status.StateAuthFailed {
		s.log.Error("not connected, and trying again soon would do harm: "+
			"the HMC disables a userid that goes on being refused", fields...)
		return
	}
	s.log.Warn("not connected to the HMC", fields...)
}

// Alive says whether the supervisor's loop still turns: it has done so less than limit before at. A
// loop that waits for notifications lives as long as there are none to fetch, one that waits for
// its next attempt until then, and one that logs on or connects is bounded by the time-outs of the
// configuration, which may be long.
func (s *Supervisor) Alive(at time.Time, limit time.Duration) bool {
	now, last := s.source.now(), s.beat.Last()
	switch {
	case now.State == status.StateLoggingOn, now.State == status.StateConnecting:
		return true
	case now.link != nil && now.link.Buffered() == 0:
		return true
	case now.NextAttempt != nil:
		last = status.Later(last, *now.NextAttempt)
	}
	return at.Sub(last) < limit
}

// Link returns the link; nil while none is up.
func (s *Supervisor) Link() *receiver.Receiver { return s.source.now().link }

// Snapshot says how it stands with the HMC. It answers from memory.
func (s *Supervisor) Snapshot() status.HMCStatus {
	now, at := s.source.now(), time.Now()
	h := now.show(len(s.Cfg.OSMessages) > 0)
	h.Name, h.Missed, h.Notifications = s.Cfg.Name, int(s.source.missed.Load()), s.Metrics.Counts()
	h.NotificationsPerMinute = s.Rate.List(at, s.Metrics.Received())
	view := new(record.View)
	if s.Rec != nil {
		view = s.Rec.View()
	}
	h.BlindSince, h.Gaps = status.TimeOrNil(view.BlindSince), int64(view.Gaps)
	if g := view.LastGap; g != nil {
		h.LastGap = &status.GapStatus{
			From: g.From, To: g.To, Causes: g.Causes, Missed: g.Missed, Recovered: g.Recovered, MayBeMissed: g.Missing,
		}
	}
	h.Violations = s.assumed.violations()
	h.Troubles = h.FindTroubles(at)
	return h
}
