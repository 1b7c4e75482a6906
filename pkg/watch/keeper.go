package watch

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/estate"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/logon"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/probe"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/record"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/translate"
)

// atOnce is how many OS message channels are opened, and of how many the missed messages are
// fetched, before something else has its turn: thousands take long within the budget.
const atOnce = 4

// keeper does for one link what needs the REST side and must not hold up the notifications: it
// keeps the session alive, lists the estate, opens OS message channels, fetches what was missed,
// and tries refused topics again. One goroutine, which ends with the link, and one that asks what
// events are held back for.
type keeper struct {
	*shared

	link *receiver.Receiver
	// session is nil where the topics are known: there is no REST.
	session *hmc.Session
	// newSession says that its channels are new, so that the HMC replays what it holds.
	newSession bool
	// end ends the link, with the reason.
	end  context.CancelCauseFunc
	wake chan struct{}
	// questions are URIs of jobs that have ended, and of resources.
	questions chan string

	lister   lister
	channels channels
	fetch    fetcher
	// nil: hardware messages are not asked for
	hardware *hardwareWatch
	// nil: there is no REST
	probe *probe.Probe
	// pingFailing is of the keeper's goroutine alone.
	pingFailing bool

	// mu guards what follows, and the fields of the parts above that say so. The recorder is never
	// called while it is held, so that it may ask the source whatever lock it holds itself.
	mu    sync.Mutex
	again map[string]*retry // topics that the broker took away
}

func newKeeper(s *Supervisor, link *receiver.Receiver, o *logon.Offer, end context.CancelCauseFunc) *keeper {
	k := &keeper{
		shared: &s.shared, link: link, session: s.session.API, end: end,
		wake: make(chan struct{}, 1), questions: make(chan string, record.MaxQuestions),
		again: make(map[string]*retry),
	}
	k.channels = channels{k: k, byURI: make(map[string]*channel), known: o.Channels}
	k.lister = lister{k: k, wanted: k.session != nil}
	k.fetch = fetcher{k: k, logs: make(map[string]*retry), rest: make(map[string]time.Time)}
	k.hardware = newHardwareWatch(k)
	if k.session != nil {
		k.probe = probe.New(probe.Options{
			Session: k.session, Recorder: k.Rec, Logger: k.log, Over: k.over, Intervals: k.intervals.Probe,
		})
	}
	return k
}

// run works until the link ends.
func (k *keeper) run(ctx context.Context) {
	defer k.isolate()
	defer k.hardware.start(ctx)()
	nextPing := time.Now().Add(k.intervals.Ping)
	for ctx.Err() == nil {
		wait := k.work(ctx)
		if !time.Now().Before(nextPing) {
			k.ping(ctx)
			nextPing = time.Now().Add(k.intervals.Ping)
		}
		sleepUntilWoken(ctx, min(wait, time.Until(nextPing)), k.wake)
	}
}

// runProbe asks what no notification tells, until the link ends.
func (k *keeper) runProbe(ctx context.Context) {
	defer k.isolate()
	if k.probe != nil {
		k.probe.Run(ctx)
	}
}

// sleepUntilWoken waits for d, for wake, or until ctx is done.
func sleepUntilWoken(ctx context.Context, d time.Duration, wake <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-wake:
	}
}

// isolate ends the link after a panic of the goroutine that defers it, and nothing else.
func (k *keeper) isolate() {
	if p := recover(); p != nil {
		k.end(k.panicked(p, "panic; the link is made again"))
	}
}

// work does what is due and returns how long nothing else will be.
func (k *keeper) work(ctx context.Context) time.Duration {
	k.lister.work(ctx)
	for _, topic := range k.dueTopics() {
		k.resubscribe(ctx, topic)
	}
	k.fetch.fetchLogs(ctx)
	k.lister.work(ctx) // each request may have waited for the budget
	k.channels.openDue(ctx)
	k.fetch.fetchMessages(ctx)
	if k.fetch.endRun() {
		k.Rec.Filled()
	}
	return k.untilDue(time.Now())
}

func (k *keeper) untilDue(now time.Time) time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	next := now.Add(time.Hour)
	until := func(due time.Time) {
		if due.Before(next) {
			next = due
		}
	}
	for _, r := range k.again {
		until(r.due)
	}
	for _, c := range k.channels.byURI {
		if c.topic == "" {
			until(c.due)
		} else if c.fill != nil {
			until(c.fill.due)
		}
	}
	for _, r := range k.fetch.logs {
		until(r.due)
	}
	k.lister.eachDue(until)
	return max(next.Sub(now), 0)
}

// ping keeps the session from its idle time-out and notices an HMC that is gone although the link
// says nothing.
func (k *keeper) ping(ctx context.Context) {
	if k.session == nil {
		return
	}
	asked := time.Now()
	err := k.session.Ping(ctx)
	if err == nil && k.Rec != nil {
		k.Rec.SessionLived(asked)
	}
	if err != nil && ctx.Err() == nil {
		err = k.session.Ping(ctx) // once more before a working link is given up
	}
	if k.over(ctx, err) {
		return
	}
	_, unreachable := errors.AsType[*hmc.ConnectError](err)
	send, receive := k.link.HeartBeat()
	switch {
	case err == nil:
		k.pingFailing = false
		if err := k.session.LogoffOthers(ctx); err != nil { // those that were left on other hosts
			k.log.Debug("a session that was left could not be logged off", zap.Error(err))
		}
	case unreachable && (send == 0 || receive == 0):
		// Without heart-beats in both directions this is the only sign of a dead HMC.
		k.end(fmt.Errorf("the HMC does not answer: %w", err))
	case !k.pingFailing:
		k.pingFailing = true
		k.log.Warn("the session could not be kept alive; the link is up", zap.Error(err))
	}
}

// over reports whether the link is at its end: ctx is done, or err says that the HMC has ended the
// session, for which the link is then ended.
func (k *keeper) over(ctx context.Context, err error) bool {
	lost := hmc.SessionLost(err)
	if lost {
		k.end(fmt.Errorf("the HMC has ended the session: %w", err))
	}
	return lost || ctx.Err() != nil
}

// askAll asks what events are held back for, until the link ends: of all resources that there are
// questions about at once, for many may stop at a time, and then of one job.
func (k *keeper) askAll(ctx context.Context) {
	defer k.isolate()
	var jobs, resources []string
	for {
		for uri := range k.asked(ctx, len(jobs) == 0) {
			switch {
			case !k.Rec.Awaits(uri):
			case strings.HasPrefix(uri, "/api/jobs/"):
				jobs = append(jobs, uri)
			default:
				resources = append(resources, uri)
			}
		}
		var err error
		switch {
		case ctx.Err() != nil:
			return
		case len(resources) > 0:
			err = k.askFacts(ctx, resources)
			resources = resources[:0]
		case len(jobs) > 0:
			err = k.askJob(ctx, jobs[0])
			jobs = jobs[1:]
		}
		if err != nil && !k.over(ctx, err) {
			k.log.Debug("what an event was held back for is not known", zap.Error(err))
		}
	}
}

// asked ranges over the questions that there are; wait says that there is nothing else to do before
// the first one.
func (k *keeper) asked(ctx context.Context, wait bool) iter.Seq[string] {
	return func(yield func(string) bool) {
		if wait {
			select {
			case <-ctx.Done():
				return
			case uri := <-k.questions:
				if !yield(uri) {
					return
				}
			}
		}
		for {
			select {
			case uri := <-k.questions:
				if !yield(uri) {
					return
				}
			default:
				return
			}
		}
	}
}

// answerTimeout is how long an answer is waited for. It may come too late for the event.
const answerTimeout = 10 * time.Second

// askFacts asks what the HMC tells of resources: where they belong, and why an LPAR has stopped.
func (k *keeper) askFacts(ctx context.Context, uris []string) error {
	asking, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	facts, err := k.session.GetFacts(asking, uris)
	for _, uri := range uris {
		var told *hmc.Info
		if i := slices.IndexFunc(facts, func(f hmc.Info) bool { return f.ObjectURI == uri }); i >= 0 {
			told = &facts[i]
		} else if err == nil {
			told = new(hmc.Info) // it is gone, or not for this userid
		}
		k.Rec.FactsKnown(ctx, uri, told)
	}
	return err
}

// askJob asks how a job has ended, if its event still waits for that.
func (k *keeper) askJob(ctx context.Context, uri string) error {
	if !k.Rec.Awaits(uri) {
		return nil
	}
	asking, cancel := context.WithTimeout(ctx, record.HoldWait)
	defer cancel()
	job, err := k.session.QueryJob(asking, uri)
	if err != nil {
		k.Rec.JobKnown(ctx, uri, nil)
		return err
	}
	k.Rec.JobKnown(ctx, uri, &job)
	return nil
}

// notified looks at each notification for what concerns the estate and the channels. It runs on the
// supervisor's goroutine.
func (k *keeper) notified(n *translate.Notification) {
	k.hardware.notified(n)
	if k.probe != nil {
		k.probe.Notified(n)
	}
	if k.session == nil || !estate.Tracked(n.Resource.Class) || n.Resource.ElementURI != "" {
		return
	}
	switch n.Type {
	case event.TypeInventoryChange:
		k.lister.ask()
	case event.TypePropertyChange:
		// A name decides whose messages are followed, and hardware messages have that of their
		// CPC. That a status is acceptable now may be told by the list alone.
		names := n.Headers.Get("property-names")
		named := len(k.Cfg.OSMessages) > 0 || k.hardware != nil && n.Resource.Class == estate.ClassCPC
		if named && strings.Contains(names, " name ") || strings.Contains(names, " acceptable-status ") {
			k.lister.ask()
		}
	case event.TypeStatusChange:
		k.mu.Lock()
		defer k.mu.Unlock()
		// It may offer its messages from now on, or soon: an operating system takes a while
		// to start.
		switch c := k.channels.byURI[n.Resource.ObjectURI]; {
		case c == nil:
			return
		case c.topic == "":
			c.retry = retry{soon: true}
		case c.unfilled:
			c.fill, c.replay, c.unfilled = new(retry), false, false
		}
		signal(k.wake)
	}
}

// refused notes that the broker took a topic away. It runs on the supervisor's goroutine.
func (k *keeper) refused(topic string, err error) {
	k.source.setTopic(topic, err.Error())
	k.Rec.TopicAway(topic)
	k.mu.Lock()
	defer k.mu.Unlock()
	// openDue says it of those
	isChannel := k.topics.KindOf(topic, "") == event.TopicOSMessage
	for uri, c := range k.channels.byURI {
		if c.topic == topic {
			c.topic, isChannel = "", true
			c.failed(&k.intervals)
			k.source.setChannel(uri, channelStatus{partition: c.label(), problem: err.Error()})
		}
	}
	if k.again[topic] == nil && !isChannel {
		k.again[topic] = new(retry)
		k.log.Warn("the HMC refused a topic; the others go on", zap.String("topic", topic), zap.Error(err))
	}
	signal(k.wake)
}

// dueTopics are the refused topics that are to be tried again now.
func (k *keeper) dueTopics() (topics []string) {
	now := time.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	for topic, r := range k.again {
		if r.isDue(now) {
			topics = append(topics, topic)
			r.failed(&k.intervals)
		}
	}
	return topics
}

// resubscribe tries a refused topic again. The usual reason for a refusal is that the session has
// ended: then the topic never comes back, and a new session is due.
func (k *keeper) resubscribe(ctx context.Context, topic string) {
	if k.session != nil {
		topics, err := k.session.NotificationTopics(ctx)
		if k.over(ctx, err) {
			return
		}
		if err == nil && !slices.ContainsFunc(topics, func(t hmc.Topic) bool { return t.Name == topic }) {
			k.source.setTopic(topic, "the HMC does not list the topic any more")
			return
		}
	}
	if err := k.link.Subscribe(ctx, topic); err != nil {
		if ctx.Err() == nil {
			k.source.setTopic(topic, err.Error())
		}
		return
	}
	k.mu.Lock()
	delete(k.again, topic)
	k.mu.Unlock()
	k.source.setTopic(topic, "")
	k.Rec.TopicBack(topic)
	k.log.Info("subscribed again", zap.String("topic", topic))
}
