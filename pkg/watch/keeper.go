package watch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/estate"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/record"
)

// askJobs asks how jobs have ended, until the link does.
func (k *keeper) askJobs(ctx context.Context) {
	defer k.isolate()
	for {
		select {
		case <-ctx.Done():
			return
		case uri := <-k.jobs:
			if k.s.Rec.AwaitsJob(uri) {
				k.askJob(ctx, uri)
			}
		}
	}
}

func (k *keeper) askJob(ctx context.Context, uri string) {
	asking, cancel := context.WithTimeout(ctx, record.JobWait)
	defer cancel()
	job, err := k.session.QueryJob(asking, uri)
	if err != nil {
		k.s.log.Debug("it is not known how a job has ended", zap.String("job", uri), zap.Error(err))
		k.s.Rec.JobKnown(ctx, uri, nil)
		k.lost(err)
		return
	}
	k.s.Rec.JobKnown(ctx, uri, &job)
}

// channelsAtOnce is how many OS message channels are opened, and of how many the messages that were missed are fetched, before
// something else has its turn.
const channelsAtOnce = 4

// keeper does for one link what needs the REST side and must not hold up the notifications: it keeps the session
// alive, learns the names of partitions, opens their OS message channels, and tries refused topics again. One
// goroutine, which ends with the link.
type keeper struct {
	s       *Supervisor
	rcv     *receiver.Receiver
	session *hmc.Session            // nil: topics are known, there is no REST
	end     context.CancelCauseFunc // ends the link, with the reason
	wake    chan struct{}
	jobs    chan string // URIs of jobs that have ended

	newSession bool // the session is not that of the link before: its channels are new, and the HMC replays what it holds

	// Of the keeper's goroutine alone.
	listed      time.Time       // when the estate was listed last
	listing     *estate.Listing // that is to be compared ...
	comparing   time.Time       // ... from then on
	unsettled   bool            // the list that was compared last did not tell all
	compared    time.Time       // when the HMC was asked for the list that was compared last
	relisting   *upkeep         // when the estate is listed again after that failed; nil: it did not
	pingFailing bool

	mu       sync.Mutex // guards what notified and refused write from the supervisor's goroutine
	relist   bool
	again    map[string]*refusal // refused topics, by name
	channels map[string]*channel // by object URI
	logs     map[string]*upkeep  // logs whose entries are to be fetched, by kind
	filling  bool                // something that was missed is to be fetched
	missed   time.Time           // when something was missed that a list of the estate tells

	hardware *hardwareWatch // nil: hardware messages are not watched
}

// refusal is a topic that the broker took away.
type refusal struct {
	upkeep
	since time.Time
}

func newKeeper(s *Supervisor, rcv *receiver.Receiver, end context.CancelCauseFunc) *keeper {
	k := &keeper{
		s: s, rcv: rcv, session: s.session, end: end, relist: s.session != nil, wake: make(chan struct{}, 1), jobs: make(chan string, record.MaxHeldJobs),
		again: make(map[string]*refusal), channels: make(map[string]*channel), logs: make(map[string]*upkeep),
	}
	k.hardware = newHardwareWatch(k)
	return k
}

// upkeep is something that is tried again at growing intervals.
type upkeep struct {
	due   time.Time
	wait  time.Duration
	tries int  // that failed, in a row
	quick bool // it is about to become possible: the first attempts follow each other sooner
}

func (u *upkeep) postpone(t Timing) { u.postponeUpTo(t, t.ChannelMax) }

func (u *upkeep) postponeUpTo(t Timing, longest time.Duration) {
	first := t.ChannelMin
	if u.quick {
		first = t.ChannelSoon
	}
	u.wait = min(max(2*u.wait, first), longest)
	u.due = time.Now().Add(u.wait)
	u.tries++
}

// soon makes the next attempt due, and lets the intervals grow from the start again.
func (u *upkeep) soon() { *u = upkeep{} }

// channel is the OS message channel of one partition.
type channel struct {
	upkeep
	partition hmc.Partition
	class     string
	refresh   bool
	topic     string // "" until it is open
	tried     bool   // to open it

	fill   *upkeep   // when what was missed is to be fetched; nil: nothing is
	replay bool      // the HMC's replay will do: nothing was missed after it
	opened time.Time // when it was subscribed to; zero: before this link
}

func (c *channel) label() string { return record.PartitionLabel(c.partition) }

// run works until the link ends.
func (k *keeper) run(ctx context.Context) {
	defer k.isolate()
	defer k.hardware.start(ctx)()
	nextPing := time.Now().Add(k.s.Timing.Ping)
	for {
		wait := k.work(ctx)
		if !time.Now().Before(nextPing) {
			k.ping(ctx)
			nextPing = time.Now().Add(k.s.Timing.Ping)
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

// isolate ends the link after a panic of the goroutine that defers it, and nothing else.
func (k *keeper) isolate() {
	if p := recover(); p != nil {
		k.s.Metrics.Panics.Inc()
		k.s.log.Error("panic; the link is made again", zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
		k.end(fmt.Errorf("panic: %v", p))
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
	list := k.relist && now.Sub(k.listed) >= k.s.Timing.Relist || k.relisting != nil && !now.Before(k.relisting.due)
	if list {
		k.relist = false
	}
	var topics []string
	for topic, u := range k.again {
		if !now.Before(u.due) {
			topics = append(topics, topic)
			u.postpone(k.s.Timing)
		}
	}
	k.mu.Unlock()

	if list {
		k.list(ctx)
	}
	k.compare(ctx)
	for _, topic := range topics {
		k.resubscribe(ctx, topic)
	}
	k.fetchLogs(ctx)
	// Thousands of channels take long within the budget: the rest has its turn meanwhile.
	for i, c := range k.dueChannels() {
		if i >= channelsAtOnce || ctx.Err() != nil {
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
	// Those first that should have something to say.
	slices.SortStableFunc(due, func(a, b *channel) int { return cmp.Compare(k.unlikely(a), k.unlikely(b)) })
	return due
}

// unlikely is 1 for a channel that was refused before, or whose partition is at rest, as far as is known.
func (k *keeper) unlikely(c *channel) int {
	r, _ := k.s.Rec.Group.Estate.Lookup(c.partition.ObjectURI)
	switch r.Status {
	case "stopped", "not-activated", "communications-not-active", "not-operating":
		return 1
	}
	return min(c.tries, 1)
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
	if k.relisting != nil {
		wait = min(wait, k.relisting.due.Sub(now))
	}
	if k.relist {
		wait = min(wait, k.listed.Add(k.s.Timing.Relist).Sub(now))
	}
	if k.listing != nil {
		wait = min(wait, k.comparing.Sub(now))
	}
	return max(wait, 0)
}

// partitionList is a call that lists the partitions of a class.
type partitionList struct {
	class string
	call  func(context.Context) ([]hmc.Partition, error)
}

// partitionLists are the calls that together list every partition the userid may see: an HMC manages CPCs in DPM mode,
// classic ones, or both.
func partitionLists(s *hmc.Session) []partitionList {
	return []partitionList{
		{estate.ClassPartition, s.ListPermittedPartitions},
		{estate.ClassLogicalPartition, s.ListPermittedLogicalPartitions},
	}
}

// list asks for the CPCs and partitions that the userid may see: for their names, for which of them there is an OS message channel
// to open, and to compare them with what is known. A call that fails holds up none of the others; what it would have told
// stays as it is known.
func (k *keeper) list(ctx context.Context) {
	l := &estate.Listing{HMC: k.s.Cfg.Name, Asked: time.Now(), Complete: make(map[string]bool)}
	var failures []error
	note := func(class string, err error) {
		if err == nil {
			l.Complete[class] = true
		} else {
			failures = append(failures, err)
		}
	}
	cpcs, err := k.session.ListCPCs(ctx)
	note(estate.ClassCPC, err)
	for _, c := range cpcs {
		l.Resources = append(l.Resources, estate.Resource{
			URI: c.ObjectURI, Class: estate.ClassCPC, Name: c.Name, CPC: c.Name, Status: c.Status,
		})
	}
	var partitions []hmc.Partition
	for _, of := range partitionLists(k.session) {
		if ctx.Err() != nil || k.lost(err) {
			return
		}
		var list []hmc.Partition
		list, err = of.call(ctx)
		note(of.class, err)
		for _, p := range list {
			l.Resources = append(l.Resources, estate.Resource{
				URI: p.ObjectURI, Class: of.class, Name: p.Name, CPC: p.CPCName, CPCURI: p.CPCURI, Status: p.Status,
			})
		}
		partitions = append(partitions, list...)
	}
	if ctx.Err() != nil || k.lost(err) {
		return
	}
	k.listed = time.Now()
	k.s.Rec.Group.Estate.Learn(l)
	k.listing, k.comparing = l, k.listed.Add(k.s.Timing.Recording.Settle)
	unselected := k.syncChannels(partitions)
	k.dropGone(ctx, l)
	for _, topic := range unselected { // its channel stays open: nothing closes one but the end of the session
		if err := k.rcv.Unsubscribe(ctx, topic); err != nil && ctx.Err() == nil {
			k.s.log.Debug("a topic that is not wanted any more could not be unsubscribed", zap.String("topic", topic), zap.Error(err))
		}
	}
	k.noteListing(errors.Join(failures...), l)
}

// noteListing says so if a part of the estate could not be listed; that is tried again.
func (k *keeper) noteListing(err error, l *estate.Listing) {
	if err == nil {
		k.relisting = nil
		k.s.noteListing("")
		return
	}
	first := k.relisting == nil
	if first {
		k.relisting = new(upkeep)
	}
	k.relisting.postpone(k.s.Timing)
	k.s.Rec.Sight.Problem("states, which could not be compared: " + err.Error())
	problem := ""
	if len(k.s.Cfg.OSMessages) > 0 && !(l.Complete[estate.ClassPartition] && l.Complete[estate.ClassLogicalPartition]) {
		problem = "the partitions could not be listed: " + err.Error()
	}
	if k.s.noteListing(problem) || first {
		k.s.log.Warn("not all CPCs and partitions could be listed; new names and OS messages of the others have to wait until they can", zap.Error(err))
	}
}

// dropGone drops the channels of partitions that are gone, and what is known of their messages. One that a list lacks is not
// gone before the estate says so: what is forgotten would be told again when the HMC lists it again and replays its messages.
func (k *keeper) dropGone(ctx context.Context, l *estate.Listing) {
	exists := make(map[string]bool, len(l.Resources))
	for i := range l.Resources {
		exists[l.Resources[i].URI] = true
	}
	var gone []string
	k.mu.Lock()
	for uri, c := range k.channels {
		if !exists[uri] && l.Complete[c.class] && !k.s.Rec.Group.Estate.Lists(k.s.Cfg.Name, uri) {
			gone = append(gone, uri)
			k.drop(uri, c)
		}
	}
	k.mu.Unlock()
	for _, uri := range gone { // without k.mu
		k.s.Rec.ForgetPartition(ctx, uri)
	}
}

// syncChannels makes the OS message channels fit the partitions that were listed. It returns the topics of those that are not
// selected by the name they have now.
func (k *keeper) syncChannels(partitions []hmc.Partition) (unselected []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, p := range partitions {
		class := estate.ClassPartition
		if strings.HasPrefix(p.ObjectURI, "/api/logical-partitions/") {
			class = estate.ClassLogicalPartition
		}
		refresh, wanted := k.s.wantsMessages(p.CPCName, p.Name)
		c, known := k.channels[p.ObjectURI]
		switch {
		case known && wanted:
			c.partition = p // it may have another name now
			continue
		case known:
			k.drop(p.ObjectURI, c)
			if c.topic != "" {
				unselected = append(unselected, c.topic)
			}
			continue
		case !wanted:
			continue
		}
		c = &channel{partition: p, class: class, refresh: refresh}
		if k.filling {
			c.fill, c.replay = new(upkeep), true
		}
		k.channels[p.ObjectURI] = c
		// The session may have the channel open from a link before this one: then it is subscribed already.
		if topic := k.s.openChannels[event.LastSegment(p.ObjectURI)]; topic != "" && k.rcv.Subscribed(topic) {
			c.topic, c.tried = topic, true
		}
		problem := ""
		if c.topic == "" {
			problem = "the channel is not open yet"
		}
		k.s.noteChannel(p.ObjectURI, channelStatus{partition: c.label(), problem: problem})
	}
	return unselected
}

// drop forgets a channel. k.mu is held.
func (k *keeper) drop(uri string, c *channel) {
	delete(k.channels, uri)
	k.s.dropChannel(uri)
	k.s.unwant(c.topic)
}

// compare compares what was listed with what is known, once the notifications that were on their way have come.
func (k *keeper) compare(ctx context.Context) {
	l := k.listing
	if l == nil || time.Now().Before(k.comparing) {
		return
	}
	k.listing = nil
	again := k.s.Rec.Reconcile(ctx, l)
	k.dropGone(ctx, l)
	if again {
		k.mu.Lock()
		k.relist = true
		k.mu.Unlock()
	}
	// A gap waits for what the next list tells, but not for an estate that never rests.
	if !again || k.unsettled {
		k.compared = l.Asked
	}
	k.unsettled = again
}

// wantsMessages says whether the configuration selects the partition's OS messages, and with them those that the HMC
// still holds. The first entry that matches counts.
func (s *Supervisor) wantsMessages(cpc, partition string) (refresh, ok bool) {
	for _, want := range s.Cfg.OSMessages {
		if want.CPC.Match(cpc) && want.Partition.Match(partition) {
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
		k.s.Rec.Subscribing(c.partition.ObjectURI, time.Now())
		if err = k.rcv.Subscribe(ctx, topic); err == nil {
			k.s.subscribed(topic)
		} else {
			k.s.topicProblem(topic, err.Error())
		}
	}
	if ctx.Err() != nil || k.lost(err) {
		return
	}
	needsStart := err == nil && !c.refresh && k.s.Rec.NeedsStart(c.partition.ObjectURI)
	k.mu.Lock()
	c.tried = true
	if err == nil {
		c.topic, c.opened = topic, opened
		if needsStart && c.fill == nil {
			c.fill = new(upkeep)
		}
	} else if hmc.IsReason(err, 409, hmc.ReasonChannelUnavailable) {
		c.postponeUpTo(k.s.Timing, k.s.Timing.ChannelRest)
	} else {
		c.postpone(k.s.Timing)
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
		if t.Type == hmc.TopicTypeOSMessage && event.LastSegment(t.ObjectURI) == event.LastSegment(uri) {
			return t.Name, nil
		}
	}
	return "", fmt.Errorf("the HMC says that the channel for %s is open but does not list its topic", uri)
}

// notified looks at each notification for what concerns the estate and the channels. It runs on the supervisor's goroutine.
func (k *keeper) notified(n *receiver.Notification) {
	k.hardware.notified(n)
	if k.session == nil || !estate.Tracked(n.Headers.Get("class")) || n.Headers.Get("element-uri") != "" {
		return
	}
	switch n.Headers.Get("notification-type") {
	case event.TypeInventoryChange:
		k.mu.Lock()
		k.relist = true
		k.mu.Unlock()
	case event.TypePropertyChange:
		// By another name a partition may be one whose messages are to be followed, or not any more.
		if len(k.s.Cfg.OSMessages) == 0 || !strings.Contains(n.Headers.Get("property-names"), " name ") {
			return
		}
		k.mu.Lock()
		k.relist = true
		k.mu.Unlock()
	case event.TypeStatusChange:
		k.mu.Lock()
		c, known := k.channels[n.Headers.Get("object-uri")]
		if !known || c.topic != "" {
			k.mu.Unlock()
			return
		}
		// It may offer its messages from now on, or soon: an operating system takes a while to start.
		c.soon()
		c.quick = true
		k.mu.Unlock()
	default:
		return
	}
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
			c.postpone(k.s.Timing)
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
	k.s.Rec.TopicBack(topic, since, now)
	k.s.log.Info("subscribed again", zap.String("topic", topic))
}

func (k *keeper) awake() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}
