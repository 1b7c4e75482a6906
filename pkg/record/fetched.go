package record

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/ledger"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
)

// BeginFetch returns the time from which on the entries of a log are to be fetched; the zero time: there is nothing to
// be fetched.
func (r *Recorder) BeginFetch(kind string) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.logMark(kind).BeginFetch()
}

// EndFetch notes what has become of a fetch: all came, or what is before begin.
func (r *Recorder) EndFetch(kind string, begin time.Time, all bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.logMark(kind).EndFetch(begin, all)
}

// FetchedEntries records the entries of a log that are new, in the order of their times, which the HMC does not promise.
// Those of one time stay in the order of the log, which an HMC may list from its end.
func (r *Recorder) FetchedEntries(ctx context.Context, kind, topic string, entries [][]byte) {
	at := func(entry []byte) int64 { return event.Int(event.Member(entry, "event-time")) }
	if n := len(entries); n > 1 && at(entries[0]) > at(entries[n-1]) {
		slices.Reverse(entries)
	}
	slices.SortStableFunc(entries, func(a, b []byte) int { return cmp.Compare(at(a), at(b)) })
	r.mu.Lock()
	defer r.mu.Unlock()
	now, new := time.Now(), 0
	for _, entry := range entries {
		e := r.fetchedEvent(event.TypeLogEntry, topic, kind, now)
		r.conv.FillLogEntry(e, event.CompactValid(entry))
		if !r.takeEntry(e, &r.conv.Part) {
			continue
		}
		r.put(e)
		r.Sight.Recovered(kind)
		if new++; r.Out.full() {
			r.flush(ctx)
		}
	}
	r.flush(ctx)
	r.log.Debug("log entries were fetched", zap.String("log", kind), zap.Int("entries", len(entries)), zap.Int("new", new))
}

// fetchedEvent begins an event that was not published but fetched. r.mu is held.
func (r *Recorder) fetchedEvent(typ, topic, kind string, now time.Time) *event.Event {
	e := &r.conv.Event
	*e = event.Event{
		HMC: r.cfg.Name, Type: typ, Received: now, Time: now, Topic: topic, TopicType: kind,
		Origin: event.OriginBackfill, Severity: event.SeverityInfo,
	}
	return e
}

// Missing returns the highest sequence number that is missing of a partition's messages, and whether anything is known of
// the partition.
func (r *Recorder) Missing(uri string) (highest int64, known bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if held := r.held[uri]; held != nil {
		held.cut = true // the rest may be on its way
		r.settleReplay(uri, nil)
	}
	m := r.partition(uri)
	_, highest, _ = m.Missing()
	_, started := r.starts[uri]
	return highest, started || !m.Empty()
}

// fetchedReplay makes a replay of listed messages.
func (r *Recorder) fetchedReplay(p hmc.Partition, topic string, messages [][]byte) *heldReplay {
	resource := &event.Resource{
		Class: classOf(p.ObjectURI), Name: p.Name, ObjectURI: p.ObjectURI, ObjectID: event.LastSegment(p.ObjectURI), CPC: p.CPCName,
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	list, now := new(heldReplay), time.Now()
	for _, message := range messages {
		e := r.fetchedEvent(event.TypeOSMessage, topic, event.TopicOSMessage, now)
		e.Resource = resource
		r.conv.FillOSMessage(e, event.CompactValid(message))
		list.messages = append(list.messages, r.conv.Part.Message)
		list.events = append(list.events, *e)
		list.ids = append(list.ids, r.conv.Part.ID)
	}
	return list
}

// FetchedMessages records the messages of a partition that are new, and counts those that are missing up to a number as
// gone for good.
func (r *Recorder) FetchedMessages(
	ctx context.Context, p hmc.Partition, topic string, refresh bool, messages [][]byte, asked time.Time, missing int64,
) {
	list := r.fetchedReplay(p, topic, messages)
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.partition(p.ObjectURI)
	if !refresh && m.Epoch == 0 { // of a sequence that began anew since, everything counts
		lowest, ok := r.starts[p.ObjectURI]
		if !ok {
			lowest = m.Lowest
		}
		list.dropEarlier(lowest)
	}
	n := r.takeReplay(p.ObjectURI, list, event.OriginBackfill, ledger.Replayed{Messages: list.messages, Asked: asked, Now: time.Now(), ToEnd: true})
	for i := range list.messages {
		missing = max(missing, list.messages[i].Seq) // the HMC was asked for everything up to this one
	}
	r.gone(m.Settle(missing))
	r.flush(ctx)
	r.log.Debug("OS messages were fetched", zap.String("partition", PartitionLabel(p)), zap.Int("messages", len(messages)), zap.Int("new", n))
}

// dropEarlier drops what the HMC held already when the partition began to be followed with the number lowest, and was not
// asked for then. Numbers that do not lead up to that one are those of a sequence that began anew.
func (h *heldReplay) dropEarlier(lowest int64) {
	n := 0
	for n < len(h.messages) && h.messages[n].Seq < lowest && (n == 0 || h.messages[n].Seq > h.messages[n-1].Seq) {
		n++
	}
	if n > 0 && (h.messages[n-1].Seq == lowest-1 || n < len(h.messages) && h.messages[n].Seq >= lowest) {
		h.messages, h.events, h.ids = h.messages[n:], h.events[n:], h.ids[n:]
	}
}

// StartAfter notes that a partition is followed from behind these messages on, which were there before: without this nothing
// would tell, after a time without sight, which messages of a partition that had been quiet are new.
func (r *Recorder) StartAfter(ctx context.Context, uri string, messages [][]byte) {
	list := r.fetchedReplay(hmc.Partition{ObjectURI: uri}, "", messages)
	r.mu.Lock()
	defer r.mu.Unlock()
	start := int64(0)
	for i := range list.messages {
		start = max(start, list.messages[i].Seq+1)
	}
	r.starts[uri] = start
	r.awaitSettled()
	r.send(ctx, append(r.state(), queue.KeyValue{
		Key: stateStart + r.cfg.Name + "\x00" + uri, Value: binary.BigEndian.AppendUint64(nil, uint64(start)),
	}))
}

// NeedsStart says whether it is not known yet from where on a partition is followed.
func (r *Recorder) NeedsStart(uri string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, started := r.starts[uri]
	return !started && r.partition(uri).Empty()
}

// Subscribing notes that the topic of a partition's messages is about to be subscribed to.
func (r *Recorder) Subscribing(uri string, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.subscribed[uri] = now
}

// Replaying says whether messages of a partition are being replayed.
func (r *Recorder) Replaying(uri string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.held[uri] != nil
}

// ReplayedSince says whether the HMC has replayed messages of a partition since then.
func (r *Recorder) ReplayedSince(uri string, since time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.Replayed[uri].Before(since)
}

// TopicBack records that a topic which the broker had taken away is subscribed to again.
func (r *Recorder) TopicBack(topic string, since, now time.Time) {
	kind := r.topics.KindOf(topic, "")
	r.mu.Lock()
	if kind == event.TopicAudit || kind == event.TopicSecurity {
		r.awaitEntries(since, []string{kind})
	}
	r.mu.Unlock()
	r.Sight.Spot(since, now, fmt.Sprintf("the HMC had taken away a topic (%s)", kind), topic, kind, 0, r.canFetch(kind))
}

// classOf returns the class of a partition by its URI.
func classOf(uri string) string {
	const lpars = "/api/logical-partitions/"
	if len(uri) > len(lpars) && uri[:len(lpars)] == lpars {
		return "logical-partition"
	}
	return "partition"
}

// PartitionLabel names a partition as a person knows it.
func PartitionLabel(p hmc.Partition) string { return p.Name + " on " + p.CPCName }
