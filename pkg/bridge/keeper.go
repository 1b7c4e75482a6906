package bridge

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
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
	session *hmc.Session            // nil: topics are known, there is no REST
	end     context.CancelCauseFunc // ends the link, with the reason
	wake    chan struct{}

	newSession bool // the session is not that of the link before: its channels are new, and the HMC replays what it holds

	// Of the keeper's goroutine alone.
	listing     upkeep // when the partitions are listed again after that failed
	listFailed  bool
	pingFailing bool

	mu       sync.Mutex // guards what notified and refused write from the supervisor's goroutine
	relist   bool
	again    map[string]*refusal // refused topics, by name
	channels map[string]*channel // by object URI
	logs     map[string]*upkeep  // logs whose entries are to be fetched, by kind
	filling  bool                // something that was missed is to be fetched
}

// refusal is a topic that the broker took away.
type refusal struct {
	upkeep
	since time.Time
}

func newKeeper(s *supervisor, rcv *receiver.Receiver, end context.CancelCauseFunc) *keeper {
	return &keeper{
		s: s, rcv: rcv, session: s.session, end: end, wake: make(chan struct{}, 1),
		again: make(map[string]*refusal), channels: make(map[string]*channel), logs: make(map[string]*upkeep),
	}
}

// upkeep is something that is tried again at growing intervals.
type upkeep struct {
	due   time.Time
	wait  time.Duration
	tries int // that failed, in a row
}

func (u *upkeep) postpone(t timing) {
	u.wait = min(max(2*u.wait, t.channelMin), t.channelMax)
	u.due = time.Now().Add(u.wait)
	u.tries++
}

// soon makes the next attempt due, and lets the intervals grow from the start again.
func (u *upkeep) soon() { *u = upkeep{} }

// channel is the OS message channel of one partition.
type channel struct {
	upkeep
	partition hmc.Partition
	refresh   bool
	topic     string // "" until it is open
	tried     bool   // to open it

	fill   *upkeep   // when what was missed is to be fetched; nil: nothing is
	replay bool      // the HMC's replay will do: nothing was missed after it
	opened time.Time // when it was subscribed to; zero: before this link
}

func (c *channel) label() string { return c.partition.Name + " on " + c.partition.CPCName }

// run works until the link ends.
func (k *keeper) run(ctx context.Context) {
	defer func() {
		if p := recover(); p != nil {
			k.s.metrics.panics.Inc()
			k.s.log.Error("panic; the link is made again", zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
			k.end(fmt.Errorf("panic: %v", p))
		}
	}()
	k.relist = k.session != nil
	nextPing := time.Now().Add(k.s.timing.ping)
	for {
		wait := k.work(ctx)
		if !time.Now().Before(nextPing) {
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
		err = k.session.Ping(ctx) // once more before a working link is given up
	}
	if ctx.Err() != nil || k.lost(err) {
		return
	}
	_, unreachable := errors.AsType[*hmc.ConnectError](err)
	send, receive := k.rcv.HeartBeat()
	switch {
	case err == nil:
		k.pingFailing = false
	case unreachable && (send == 0 || receive == 0):
		// Without heart-beats in both directions this is the only sign of a dead HMC.
		k.end(fmt.Errorf("the HMC does not answer: %w", err))
	case !k.pingFailing:
		k.pingFailing = true
		k.s.log.Warn("the session could not be kept alive; the link is up", zap.Error(err))
	}
}

// lost ends the link if err says that the HMC has ended the session, and reports whether it does.
func (k *keeper) lost(err error) bool {
	if !hmc.SessionLost(err) {
		return false
	}
	k.end(fmt.Errorf("the HMC has ended the session: %w", err))
	return true
}

// work does what is due and returns how long nothing else will be.
func (k *keeper) work(ctx context.Context) time.Duration {
	now := time.Now()
	k.mu.Lock()
	list := k.relist || (k.listFailed && !now.Before(k.listing.due))
	k.relist = false
	var topics []string
	for topic, u := range k.again {
		if !now.Before(u.due) {
			topics = append(topics, topic)
			u.postpone(k.s.timing)
		}
	}
	k.mu.Unlock()

	if list {
		k.list(ctx)
	}
	for _, topic := range topics {
		k.resubscribe(ctx, topic)
	}
	k.fetchLogs(ctx)
	for _, c := range k.dueChannels() {
		if ctx.Err() != nil {
			break
		}
		k.open(ctx, c)
	}
	k.fetchMessages(ctx)
	k.checkFilled()
	return k.untilDue(time.Now())
}

func (k *keeper) dueChannels() []*channel {
	now := time.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	var due []*channel
	for _, c := range k.channels {
		if c.topic == "" && !now.Before(c.due) {
			due = append(due, c)
		}
	}
	return due
}

func (k *keeper) untilDue(now time.Time) time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	wait := time.Hour
	for _, u := range k.again {
		wait = min(wait, u.due.Sub(now))
	}
	for _, c := range k.channels {
		if c.topic == "" {
			wait = min(wait, c.due.Sub(now))
		} else if c.fill != nil {
			wait = min(wait, c.fill.due.Sub(now))
		}
	}
	for _, u := range k.logs {
		wait = min(wait, u.due.Sub(now))
	}
	if k.listFailed {
		wait = min(wait, k.listing.due.Sub(now))
	}
	if k.relist {
		wait = 0
	}
	return max(wait, 0)
}

// partitionLists are the calls that together list every partition the userid may see: an HMC manages CPCs in DPM mode,
// classic ones, or both.
func partitionLists(s *hmc.Session) []func(context.Context) ([]hmc.Partition, error) {
	return []func(context.Context) ([]hmc.Partition, error){s.ListPermittedPartitions, s.ListPermittedLogicalPartitions}
}

// list learns the names of the partitions the userid may see, and which of them have a channel to open. Half an answer
// is none: what is known stays until both kinds of partitions could be listed.
func (k *keeper) list(ctx context.Context) {
	var all []hmc.Partition
	for _, call := range partitionLists(k.session) {
		list, err := call(ctx)
		if ctx.Err() != nil || k.lost(err) {
			return
		}
		if err != nil {
			k.listFailed = true
			k.listing.postpone(k.s.timing)
			problem := ""
			if len(k.s.cfg.OSMessages) > 0 {
				problem = "the partitions could not be listed: " + err.Error()
			}
			if k.s.noteListing(problem) || k.listing.wait <= k.s.timing.channelMin {
				k.s.log.Warn("the partitions could not be listed; new names and OS messages have to wait until they can", zap.Error(err))
			}
			return
		}
		all = append(all, list...)
	}
	k.listFailed = false
	k.listing.soon()
	defer k.s.noteListing("") // after the channels are known, so that nothing looks complete in between
	byURI := make(map[string]names, len(all))
	for _, p := range all {
		byURI[p.ObjectURI] = names{name: p.Name, cpc: p.CPCName}
	}
	k.s.estate.replace(byURI)

	var gone []string
	defer func() { // without k.mu
		for _, uri := range gone {
			k.s.rec.forgetPartition(ctx, uri)
		}
	}()
	k.mu.Lock()
	defer k.mu.Unlock()
	for uri, c := range k.channels {
		if _, exists := byURI[uri]; !exists {
			delete(k.channels, uri)
			k.s.dropChannel(uri)
			k.s.unwant(c.topic)
			gone = append(gone, uri)
		}
	}
	for _, p := range all {
		refresh, wanted := k.s.wantsMessages(p)
		if c, known := k.channels[p.ObjectURI]; known {
			c.partition = p // it may have another name now
			continue
		}
		if !wanted {
			continue
		}
		c := &channel{partition: p, refresh: refresh}
		if k.filling {
			c.fill, c.replay = new(upkeep), true
		}
		k.channels[p.ObjectURI] = c
		// The session may have the channel open from a link before this one: then it is subscribed already.
		if topic := k.s.openChannels[lastSegment(p.ObjectURI)]; topic != "" && k.rcv.Subscribed(topic) {
			c.topic, c.tried = topic, true
		}
		problem := ""
		if c.topic == "" {
			problem = "the channel is not open yet"
		}
		k.s.noteChannel(p.ObjectURI, channelStatus{partition: c.label(), problem: problem})
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
	opened := time.Now()
	topic, err := k.session.OpenOSMessageChannel(ctx, c.partition.ObjectURI, c.refresh)
	if hmc.IsReason(err, 409, hmc.ReasonChannelExists) {
		topic, err = k.existing(ctx, c.partition.ObjectURI)
	}
	if err == nil {
		k.s.want(topic, event.TopicOSMessage)
		k.s.rec.subscribing(c.partition.ObjectURI, time.Now())
		if err = k.rcv.Subscribe(ctx, topic); err == nil {
			k.s.subscribed(topic)
		} else {
			k.s.topicProblem(topic, err.Error())
		}
	}
	if ctx.Err() != nil || k.lost(err) {
		return
	}
	needsStart := err == nil && !c.refresh && k.s.rec.needsStart(c.partition.ObjectURI)
	k.mu.Lock()
	c.tried = true
	if err == nil {
		c.topic, c.opened = topic, opened
		if needsStart && c.fill == nil {
			c.fill = new(upkeep)
		}
	} else {
		c.postpone(k.s.timing)
	}
	k.mu.Unlock()
	status := channelStatus{partition: c.label()}
	switch {
	case err == nil:
	case hmc.IsReason(err, 409, hmc.ReasonChannelUnavailable):
		// Usual for a partition that is not active: its next status change is awaited.
		status.problem, status.usual = "the partition offers no operating system messages now", true
	default:
		status.problem = err.Error()
	}
	if k.s.noteChannel(c.partition.ObjectURI, status) && status.problem != "" && !status.usual {
		k.s.log.Warn("the messages of an operating system cannot be followed",
			zap.String("partition", status.partition), zap.Error(err), zap.Duration("next_attempt_in", c.wait))
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
	k.mu.Lock()
	c, known := k.channels[n.Headers.Get("object-uri")]
	switch {
	case typ == event.TypeInventoryChange:
		k.relist = true
	case known && c.topic == "":
		// It may offer its messages from now on, or soon: an operating system takes a while to start.
		c.soon()
	default:
		k.mu.Unlock()
		return
	}
	k.mu.Unlock()
	k.awake()
}

// refused notes that the broker took a topic away. It runs on the supervisor's goroutine.
func (k *keeper) refused(topic string, err error) {
	k.s.topicProblem(topic, err.Error())
	k.mu.Lock()
	isChannel := false
	for uri, c := range k.channels {
		if c.topic == topic {
			c.topic, isChannel = "", true
			c.postpone(k.s.timing)
			k.s.noteChannel(uri, channelStatus{partition: c.label(), problem: err.Error()})
		}
	}
	_, known := k.again[topic]
	if !isChannel && !known && !k.s.isOSMessageTopic(topic) { // open says it of those
		k.again[topic] = &refusal{since: time.Now()}
		k.s.log.Warn("the HMC refused a topic; the others go on", zap.String("topic", topic), zap.Error(err))
	}
	k.mu.Unlock()
	k.awake()
}

// resubscribe tries a refused topic again. The usual reason for a refusal is that the session has ended: then the
// topic never comes back, and a new session is due.
func (k *keeper) resubscribe(ctx context.Context, topic string) {
	if k.session != nil {
		topics, err := k.session.NotificationTopics(ctx)
		if k.lost(err) {
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
	now := time.Now()
	k.mu.Lock()
	since := now
	if r := k.again[topic]; r != nil {
		since = r.since
	}
	delete(k.again, topic)
	k.mu.Unlock()
	k.s.subscribed(topic)
	k.s.rec.topicBack(topic, since, now)
	k.s.log.Info("subscribed again", zap.String("topic", topic))
}

func (k *keeper) awake() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}
