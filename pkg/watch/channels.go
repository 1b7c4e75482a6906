package watch

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/estate"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/record"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
)

// channel is the OS message channel of one partition.
type channel struct {
	// to open it
	retry

	partition hmc.Partition
	class     string
	// refresh says that the HMC is to replay the messages that it holds.
	refresh bool
	// topic is "" until it is open; tried says that this was tried.
	topic string
	tried bool
	// opened is when it was subscribed to; zero: before this link.
	opened time.Time
	// fill is when what was missed is fetched; nil: nothing was. replay says that the HMC's
	// replay will do: nothing was missed after it.
	fill   *retry
	replay bool
	// unfilled says that the partition offered no messages when they were to be fetched: its next
	// status change is the time.
	unfilled bool
}

func (c *channel) label() string { return record.PartitionLabel(c.partition) }

// channels are the OS message channels of a link.
type channels struct {
	k *keeper
	// byURI are those of the partitions that are followed, by the partition's URI. The keeper's
	// mu guards it, and what is in it.
	byURI map[string]*channel
	// known are the topics of those that the session had open before this link, by the
	// partition's object id.
	known map[string]string
}

// WantsMessages says whether the configuration selects the partition's OS messages, and with them
// those that the HMC still holds. The first entry that matches counts.
func WantsMessages(cfg *config.HMC, p *hmc.Partition) (refresh, ok bool) {
	for _, want := range cfg.OSMessages {
		if want.CPC.Match(p.CPCName) && want.Partition.Match(p.Name) {
			return want.IncludeRefreshMessages, true
		}
	}
	return false, false
}

// AtRest is 1 for the status of a partition that has nothing to say.
func AtRest(status string) int {
	switch status {
	case "stopped", "not-activated", "communications-not-active", "not-operating":
		return 1
	}
	return 0
}

// isUnavailable says that a partition offers no OS messages now.
func isUnavailable(err error) bool {
	return hmc.IsReason(err, http.StatusConflict, hmc.ReasonChannelUnavailable)
}

// sync makes the OS message channels fit the partitions that were listed, by class. It
// returns the topics of those that are not selected by the name they have now.
func (cs *channels) sync(listed map[string][]hmc.Partition) (unselected []string) {
	k := cs.k
	k.mu.Lock()
	defer k.mu.Unlock()
	k.source.update(func(now *state) {
		for class, partitions := range listed {
			for _, p := range partitions {
				refresh, wanted := WantsMessages(&k.Cfg, &p)
				c := cs.byURI[p.ObjectURI]
				switch {
				case c == nil && wanted:
					now.channels[p.ObjectURI] = cs.add(p, class, refresh)
				case wanted:
					c.partition = p // it may have another name now
				case c != nil:
					delete(cs.byURI, p.ObjectURI)
					now.dropChannel(p.ObjectURI, c.topic)
					if c.topic != "" {
						unselected = append(unselected, c.topic)
					}
				}
			}
		}
	})
	return unselected
}

// add begins to follow a partition. The keeper's mu is held.
func (cs *channels) add(p hmc.Partition, class string, refresh bool) channelStatus {
	k := cs.k
	c := &channel{partition: p, class: class, refresh: refresh}
	if k.fetch.running {
		c.fill, c.replay = new(retry), true
	}
	cs.byURI[p.ObjectURI] = c
	// The session may have it open from a link before this one: then it is subscribed already.
	if topic := cs.known[event.LastSegment(p.ObjectURI)]; topic != "" && k.link.Subscribed(topic) {
		c.topic, c.tried = topic, true
		return channelStatus{partition: c.label()}
	}
	return channelStatus{partition: c.label(), problem: status.NotOpenYet}
}

// dropGone drops the channels of partitions that are gone, and what is known of their messages. One
// that a list lacks is gone when the estate says so: else messages that are replayed would be new.
func (cs *channels) dropGone(ctx context.Context, l *estate.Listing) {
	k := cs.k
	gone := make(map[string]bool)
	k.mu.Lock()
	for uri, c := range cs.byURI {
		gone[uri] = l.Complete[c.class]
	}
	k.mu.Unlock()
	for i := range l.Resources {
		delete(gone, l.Resources[i].URI)
	}
	for uri, missing := range gone {
		if !missing || k.Rec.Group().Estate.Lists(k.Cfg.Name, uri) {
			continue
		}
		k.mu.Lock()
		topic := cs.byURI[uri].topic
		delete(cs.byURI, uri)
		k.mu.Unlock()
		k.source.update(func(now *state) { now.dropChannel(uri, topic) })
		k.Rec.ForgetPartition(ctx, uri)
	}
}

// openDue opens channels that are due, in that order; last those that were refused before, or whose
// partitions are at rest as far as is known.
func (cs *channels) openDue(ctx context.Context) {
	k := cs.k
	now := time.Now()
	var due []*channel
	unlikely := make(map[*channel]int)
	k.mu.Lock()
	for _, c := range cs.byURI {
		if c.topic == "" && c.isDue(now) {
			due = append(due, c)
			unlikely[c] = min(c.tries, 1)
		}
	}
	slices.SortFunc(due, func(a, b *channel) int { return a.due.Compare(b.due) })
	k.mu.Unlock()
	for _, c := range due {
		r, _ := k.Rec.Group().Estate.Lookup(c.partition.ObjectURI)
		unlikely[c] = max(unlikely[c], AtRest(r.Status))
	}
	slices.SortStableFunc(due, func(a, b *channel) int { return unlikely[a] - unlikely[b] })
	for _, c := range due[:min(atOnce, len(due))] {
		if ctx.Err() == nil {
			cs.open(ctx, c)
		}
	}
}

// open opens a partition's OS message channel and subscribes to it.
func (cs *channels) open(ctx context.Context, c *channel) {
	k := cs.k
	uri := c.partition.ObjectURI
	k.mu.Lock()
	c.opened = time.Now()
	k.mu.Unlock()
	topic, err := k.session.OpenOSMessageChannel(ctx, uri, c.refresh)
	if hmc.IsReason(err, http.StatusConflict, hmc.ReasonChannelExists) {
		topic, err = cs.topicOfOpen(ctx, uri)
	}
	if err == nil {
		k.topics.Add(topic, event.TopicOSMessage)
		k.source.want(topic, event.TopicOSMessage)
		k.Rec.Subscribing(uri)
		problem := ""
		if err = k.link.Subscribe(ctx, topic); err != nil {
			problem = err.Error()
		}
		k.source.setTopic(topic, problem)
	}
	if k.over(ctx, err) {
		return
	}
	needsStart := err == nil && !c.refresh && k.Rec.NeedsStart(uri)
	st := channelStatus{partition: c.label()}
	k.mu.Lock()
	c.tried = true
	if err != nil {
		c.opened = time.Time{}
	}
	switch {
	case err == nil:
		c.topic = topic
		if needsStart && c.fill == nil {
			c.fill = new(retry)
		}
	case isUnavailable(err):
		// Usual for a partition that is not active: its next status change is awaited.
		st.problem, st.usual = "the partition offers no operating system messages now", true
		c.failedUpTo(&k.intervals, k.intervals.ChannelRest)
	default:
		st.problem = err.Error()
		c.failed(&k.intervals)
	}
	wait := c.wait
	k.mu.Unlock()
	if err == nil {
		k.Rec.TopicBack(topic)
	}
	if k.source.setChannel(uri, st) && err != nil && !st.usual {
		k.log.Warn("the messages of an operating system cannot be followed",
			zap.String("partition", st.partition), zap.Error(err), zap.Duration("next_attempt_in", wait))
	}
}

// topicOfOpen finds the topic of a channel that the session has open already. The object-uri of
// such a topic is documented as an URI but was seen as a bare object id: the last segments are
// compared.
func (cs *channels) topicOfOpen(ctx context.Context, uri string) (string, error) {
	k := cs.k
	topics, err := k.session.NotificationTopics(ctx)
	for _, t := range topics {
		if t.Type == hmc.TopicTypeOSMessage && event.LastSegment(t.ObjectURI) == event.LastSegment(uri) {
			return t.Name, nil
		}
	}
	if err != nil {
		return "", err
	}
	return "", fmt.Errorf("the HMC says that the channel for %s is open but does not list its topic", uri)
}
