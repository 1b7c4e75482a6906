package bridge

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
)

// keeper does for one link what needs the REST side and must not hold up the notifications: it keeps the session
// alive, learns the names of partitions, opens their OS message channels, and tries refused topics again. One
// goroutine, which ends with the link.
type keeper struct {
	s       *supervisor
	rcv     *receiver.Receiver
	session *hmc.Session // nil: topics are known, there is no REST
	host    string
	end     context.CancelCauseFunc // ends the link, with the reason
	wake    chan struct{}

	mu       sync.Mutex // guards what notified and refused write from the supervisor's goroutine
	relist   bool
	retryNow map[string]bool    // object URIs whose channel may be able to open now
	again    map[string]*upkeep // refused topics, by name
	channels map[string]*channel
}

// upkeep is something that is tried again at growing intervals.
type upkeep struct {
	due  time.Time
	wait time.Duration
}

func (u *upkeep) postpone(now time.Time, t timing) {
	u.wait = min(max(2*u.wait, t.channelMin), t.channelMax)
	u.due = now.Add(u.wait)
}

// channel is the OS message channel of one partition.
type channel struct {
	upkeep
	partition hmc.Partition
	refresh   bool
	open      bool
}

// run works until the link ends.
func (k *keeper) run(ctx context.Context) {
	defer func() {
		if p := recover(); p != nil {
			k.s.metrics.panics.Inc()
			k.end(fmt.Errorf("panic: %v", p))
		}
	}()
	if k.session != nil {
		k.list(ctx)
	}
	nextPing := time.Now().Add(k.s.timing.ping)
	for {
		now := time.Now()
		wait := k.work(ctx, now)
		if !now.Before(nextPing) {
			k.ping(ctx)
			nextPing = time.Now().Add(k.s.timing.ping)
		}
		timer := time.NewTimer(min(wait, time.Until(nextPing)))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		case <-k.wake:
			timer.Stop()
		}
	}
}

// ping keeps the session from its idle time-out and notices an HMC that is gone although the link says nothing.
func (k *keeper) ping(ctx context.Context) {
	if k.session == nil {
		return
	}
	err := k.session.Ping(ctx)
	if err != nil && ctx.Err() == nil {
		// Once more before a working link is given up: an idle HTTP connection may have been closed by the HMC.
		err = k.session.Ping(ctx)
	}
	if err == nil || ctx.Err() != nil {
		return
	}
	var unreachable *hmc.ConnectError
	send, receive := k.rcv.HeartBeat()
	switch {
	case hmc.SessionLost(err):
		k.end(fmt.Errorf("the HMC has ended the session: %w", err))
	case errors.As(err, &unreachable) && (send == 0 || receive == 0):
		// Without heart-beats in both directions this is the only sign of a dead HMC.
		k.end(fmt.Errorf("the HMC does not answer: %w", err))
	default:
		k.s.log.Warn("the session could not be kept alive; the link is up", zap.Error(err))
	}
}

// work does what is due and returns how long nothing else will be.
func (k *keeper) work(ctx context.Context, now time.Time) time.Duration {
	k.mu.Lock()
	relist := k.relist
	k.relist = false
	var topics []string
	for topic, u := range k.again {
		if !now.Before(u.due) {
			topics = append(topics, topic)
			u.postpone(now, k.s.timing)
		}
	}
	var due []*channel
	for uri, c := range k.channels {
		if c.open {
			continue
		}
		if k.retryNow[uri] || !now.Before(c.due) {
			due = append(due, c)
		}
	}
	clear(k.retryNow)
	k.mu.Unlock()

	if relist && k.session != nil {
		k.list(ctx)
	}
	for _, topic := range topics {
		k.resubscribe(ctx, topic)
	}
	for _, c := range due {
		if ctx.Err() != nil {
			break
		}
		k.open(ctx, c)
	}
	return k.untilDue(time.Now())
}

func (k *keeper) untilDue(now time.Time) time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	wait := time.Hour
	for _, u := range k.again {
		wait = min(wait, u.due.Sub(now))
	}
	for _, c := range k.channels {
		if !c.open {
			wait = min(wait, c.due.Sub(now))
		}
	}
	if k.relist {
		wait = 0
	}
	return max(wait, 0)
}

// list learns the names of the partitions the userid may see, and which of them have a channel to open.
func (k *keeper) list(ctx context.Context) {
	var all []hmc.Partition
	for _, call := range []func(context.Context) ([]hmc.Partition, error){
		k.session.ListPermittedPartitions, k.session.ListPermittedLogicalPartitions,
	} {
		list, err := call(ctx)
		if err != nil {
			if ctx.Err() == nil {
				k.s.log.Warn("the partitions could not be listed; names are missing until they can", zap.Error(err))
			}
			if hmc.SessionLost(err) {
				k.end(fmt.Errorf("the HMC has ended the session: %w", err))
				return
			}
			continue // an HMC that only manages one kind may refuse the other call
		}
		all = append(all, list...)
	}
	byURI := make(map[string]names, len(all))
	for _, p := range all {
		byURI[p.ObjectURI] = names{name: p.Name, cpc: p.CPCName}
	}
	k.s.estate.replace(byURI)

	k.mu.Lock()
	defer k.mu.Unlock()
	if k.channels == nil {
		k.channels = make(map[string]*channel)
	}
	for _, p := range all {
		if _, known := k.channels[p.ObjectURI]; known {
			continue
		}
		if refresh, ok := k.s.wantsMessages(p); ok {
			k.channels[p.ObjectURI] = &channel{partition: p, refresh: refresh}
		}
	}
	for uri := range k.channels {
		if _, exists := byURI[uri]; !exists && len(all) > 0 {
			delete(k.channels, uri)
		}
	}
}

// wantsMessages says whether the configuration selects the partition's OS messages, and with them those that the HMC
// still holds. The first entry that matches counts.
func (s *supervisor) wantsMessages(p hmc.Partition) (refresh, ok bool) {
	for _, want := range s.cfg.OSMessages {
		if want.CPC.Match(p.CPCName) && want.Partition.Match(p.Name) {
			return want.IncludeRefreshMessages, true
		}
	}
	return false, false
}

// open opens a partition's OS message channel and subscribes to it.
func (k *keeper) open(ctx context.Context, c *channel) {
	topic, err := k.session.OpenOSMessageChannel(ctx, c.partition.ObjectURI, c.refresh)
	if hmc.IsReason(err, 409, hmc.ReasonChannelExists) {
		topic, err = k.existing(ctx, c.partition.ObjectURI)
	}
	if err == nil {
		k.s.want(topic, event.TopicOSMessage)
		err = k.rcv.Subscribe(ctx, topic)
	}
	if ctx.Err() != nil {
		return
	}
	k.mu.Lock()
	if err == nil {
		c.open = true
	} else {
		c.postpone(time.Now(), k.s.timing)
	}
	k.mu.Unlock()
	label := c.partition.Name + " on " + c.partition.CPCName
	switch {
	case err == nil:
		k.s.channelProblem(label, "")
		k.s.subscribed(topic)
		k.s.log.Debug("following the messages of an operating system", zap.String("partition", label))
	case hmc.IsReason(err, 409, hmc.ReasonChannelUnavailable):
		// Usual for a partition that is not active: its next status change is awaited.
		k.s.channelProblem(label, "the partition offers no operating system messages now")
	case hmc.SessionLost(err):
		k.end(fmt.Errorf("the HMC has ended the session: %w", err))
	default:
		k.s.channelProblem(label, err.Error())
		k.s.log.Warn("the messages of an operating system cannot be followed",
			zap.String("partition", label), zap.Error(err), zap.Duration("next_attempt_in", c.wait))
	}
}

// existing finds the topic of a channel that the session has open already. The object-uri of such a topic is
// documented as an URI but was seen as a bare object id: the last segments are compared.
func (k *keeper) existing(ctx context.Context, uri string) (string, error) {
	topics, err := k.session.NotificationTopics(ctx)
	if err != nil {
		return "", err
	}
	for _, t := range topics {
		if t.Type == hmc.TopicTypeOSMessage && lastSegment(t.ObjectURI) == lastSegment(uri) {
			return t.Name, nil
		}
	}
	return "", fmt.Errorf("the HMC says that the channel for %s is open but does not list its topic", uri)
}

func lastSegment(uri string) string { return uri[strings.LastIndexByte(uri, '/')+1:] }

// notified looks at each notification for what concerns the channels. It runs on the supervisor's goroutine.
func (k *keeper) notified(n *receiver.Notification) {
	if len(k.s.cfg.OSMessages) == 0 {
		return
	}
	typ := n.Headers.Get("notification-type")
	if typ != event.TypeStatusChange && typ != event.TypeInventoryChange {
		return
	}
	class := n.Headers.Get("class")
	if class != "partition" && class != "logical-partition" {
		return
	}
	uri := n.Headers.Get("object-uri")
	k.mu.Lock()
	c, known := k.channels[uri]
	due := false
	switch {
	case typ == event.TypeInventoryChange:
		k.relist, due = true, true
	case known && !c.open:
		if k.retryNow == nil {
			k.retryNow = make(map[string]bool)
		}
		k.retryNow[uri], due = true, true
	}
	k.mu.Unlock()
	if due {
		k.awake()
	}
}

// refused notes that the broker took a topic away. It runs on the supervisor's goroutine.
func (k *keeper) refused(topic string, err error) {
	k.s.log.Warn("the HMC refused a topic; the others go on", zap.String("topic", topic), zap.Error(err))
	k.s.topicProblem(topic, err.Error())
	k.mu.Lock()
	if k.again == nil {
		k.again = make(map[string]*upkeep)
	}
	if _, known := k.again[topic]; !known {
		k.again[topic] = &upkeep{due: time.Now()}
	}
	k.mu.Unlock()
	k.awake()
}

// resubscribe tries a refused topic again. The usual reason for a refusal is that the session has ended: then the
// topic never comes back, and a new session is due.
func (k *keeper) resubscribe(ctx context.Context, topic string) {
	if k.session != nil {
		topics, err := k.session.NotificationTopics(ctx)
		if hmc.SessionLost(err) {
			k.end(fmt.Errorf("the HMC has ended the session: %w", err))
			return
		}
		listed := err != nil
		for _, t := range topics {
			listed = listed || t.Name == topic
		}
		if !listed {
			k.s.topicProblem(topic, "the HMC does not list the topic any more")
			return
		}
	}
	if err := k.rcv.Subscribe(ctx, topic); err != nil {
		if ctx.Err() == nil {
			k.s.topicProblem(topic, err.Error())
		}
		return
	}
	k.mu.Lock()
	delete(k.again, topic)
	k.mu.Unlock()
	k.s.subscribed(topic)
	k.s.log.Info("subscribed again", zap.String("topic", topic))
}

func (k *keeper) awake() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}
