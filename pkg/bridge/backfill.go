package bridge

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
)

const (
	// fillTries is how often something that was missed is asked for before a gap is told without it.
	fillTries = 3
	// logPiece is the longest time whose log entries are asked for at once.
	logPiece = 24 * time.Hour
	// shortestLogPiece is the shortest, where the answer for a longer one was too long to be read.
	shortestLogPiece = time.Minute
)

// fillAll asks for everything that may have been missed.
func (k *keeper) fillAll() { k.fill(map[string]bool{"": true}) }

// fill asks for what was missed on topics; "": on all. It returns at once.
func (k *keeper) fill(topics map[string]bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.filling = true
	for topic := range topics {
		kind := ""
		if topic != "" {
			kind = k.s.topics.kindOf(topic, "")
		}
		if topic == "" || kind == event.TopicObject {
			k.relist, k.missed = true, time.Now()
		}
		for _, log := range k.s.rec.logKinds() {
			if (topic == "" || kind == log) && k.s.follows(log) {
				k.logs[log] = new(upkeep)
			}
		}
		for _, c := range k.channels {
			if topic == "" || c.topic == topic {
				c.fill, c.replay = new(upkeep), c.topic == ""
			}
		}
	}
	k.awake()
}

// follows says whether a topic of this kind is among those of the session.
func (s *supervisor) follows(kind string) bool { return s.topicOf(kind) != "" }

// topicOf returns the name of the session's topic of this kind.
func (s *supervisor) topicOf(kind string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, t := range s.status.wanted {
		if t.kind == kind {
			return name
		}
	}
	return ""
}

// checkFilled says so when everything that was missed and can be had has been fetched.
func (k *keeper) checkFilled() {
	k.mu.Lock()
	defer k.mu.Unlock()
	failed := k.relisting != nil && k.listed.After(k.missed)
	if !k.filling || len(k.logs) > 0 || k.compared.Before(k.missed) && !failed {
		return
	}
	for _, c := range k.channels {
		if !c.tried || (c.topic != "" && c.fill != nil) {
			return
		}
	}
	k.filling = false
	k.s.rec.sight.filled()
}

// fetchLogs fetches the entries of the console's logs that were missed.
func (k *keeper) fetchLogs(ctx context.Context) {
	for kind, u := range k.dueLogs() {
		err := k.fetchLog(ctx, kind)
		if ctx.Err() != nil || k.lost(err) {
			return
		}
		k.mu.Lock()
		if done := k.fetched(u, err, "entries of the "+kind+" log"); done && k.logs[kind] == u { // not asked for again meanwhile
			delete(k.logs, kind)
		}
		k.mu.Unlock()
	}
}

// fetched decides what becomes of something that was to be fetched: it is done with, or tried again later.
func (k *keeper) fetched(u *upkeep, err error, what string) (done bool) {
	if err == nil {
		return true
	}
	u.postpone(k.s.timing)
	refused := hmc.IsReason(err, 403, 1)
	if u.tries < fillTries && !refused {
		k.s.log.Debug("what was missed could not be fetched; it is tried again", zap.String("what", what), zap.Error(err))
		return false
	}
	k.s.rec.sight.problem(what + ", which could not be fetched: " + err.Error())
	k.s.log.Warn("what was missed could not be fetched", zap.String("what", what), zap.Error(err))
	return true
}

func (k *keeper) dueLogs() map[string]*upkeep {
	now := time.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	due := maps.Clone(k.logs)
	maps.DeleteFunc(due, func(_ string, u *upkeep) bool { return now.Before(u.due) })
	return due
}

// fetchLog fetches what was missed of one log, a piece of time after the other: the log of a long absence need not fit
// into one answer.
func (k *keeper) fetchLog(ctx context.Context, kind string) (err error) {
	rec := k.s.rec
	call := k.session.GetAuditLog
	if kind == event.TopicSecurity {
		call = k.session.GetSecurityLog
	}
	begin := rec.beginFetch(kind)
	defer func() { rec.endFetch(kind, begin, err == nil) }()
	piece := logPiece
	for !begin.IsZero() {
		var end time.Time // the last piece has none: the HMC's clock may be ahead
		if time.Since(begin) > piece {
			end = begin.Add(piece)
		}
		entries, err := call(ctx, begin, end)
		if tooMuch(err) && piece > shortestLogPiece {
			piece = min(piece, time.Since(begin)) / 4
			continue
		}
		if err != nil {
			return err
		}
		rec.fetchedEntries(ctx, kind, k.s.topicOf(kind), entries)
		if end.IsZero() {
			return nil
		}
		begin = end.Add(time.Millisecond) // the bounds are inclusive
	}
	return nil
}

// tooMuch says whether a request failed in a way that asking for less may help: the answer was too long to be read, or to
// be had in time.
func tooMuch(err error) bool {
	if answer, ok := errors.AsType[*hmc.AnswerError](err); ok {
		return answer.TooLong
	}
	link, ok := errors.AsType[*hmc.ConnectError](err)
	return ok && link.Reason == hmc.ReasonTimeout
}

// fetchMessages lists the OS messages of the partitions of which some were missed, where the HMC did not replay them.
func (k *keeper) fetchMessages(ctx context.Context) {
	for i, c := range k.dueFills() {
		if i >= channelsAtOnce { // as with opening them
			return
		}
		k.mu.Lock()
		u := c.fill
		k.mu.Unlock()
		if u == nil {
			continue
		}
		err := k.fetchMessagesOf(ctx, c)
		if ctx.Err() != nil || k.lost(err) {
			return
		}
		if hmc.IsReason(err, 409, hmc.ReasonChannelUnavailable) || hmc.IsReason(err, 404, 1) {
			err = nil // the partition is not active, or is gone: there is nothing to be had
		}
		k.mu.Lock()
		if done := k.fetched(u, err, "OS messages of "+c.label()); done && c.fill == u { // not asked for again meanwhile
			c.fill = nil
		}
		k.mu.Unlock()
	}
}

// dueFills are the channels whose missed messages are to be fetched now.
func (k *keeper) dueFills() []*channel {
	now := time.Now()
	var due []*channel
	for _, c := range k.fills(now) {
		if k.s.rec.replaying(c.partition.ObjectURI) { // which may bring it
			k.mu.Lock()
			if c.fill != nil {
				c.fill.due = now.Add(k.s.timing.recording.settle)
			}
			k.mu.Unlock()
			continue
		}
		// The HMC replays what it holds when a channel is first subscribed to, which saves asking for it. What was missed
		// after that, or could not be stored, is asked for.
		if k.newSession && c.refresh && k.replayWillDo(c) && !c.opened.IsZero() {
			replayed := k.s.rec.replayedSince(c.partition.ObjectURI, c.opened)
			k.mu.Lock()
			wait := c.opened.Add(2 * k.s.timing.recording.settle)
			switch {
			case c.fill == nil:
			case now.Before(wait):
				c.fill.due = wait
			case replayed:
				c.fill = nil
			default:
				due = append(due, c)
			}
			k.mu.Unlock()
			continue
		}
		due = append(due, c)
	}
	slices.SortFunc(due, func(a, b *channel) int { return cmp.Compare(a.partition.ObjectURI, b.partition.ObjectURI) })
	return due
}

func (k *keeper) replayWillDo(c *channel) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return c.replay
}

// fills are the channels whose missed messages may be fetched now.
func (k *keeper) fills(now time.Time) []*channel {
	k.mu.Lock()
	defer k.mu.Unlock()
	var out []*channel
	for _, c := range k.channels {
		if c.topic != "" && c.fill != nil && !now.Before(c.fill.due) {
			out = append(out, c)
		}
	}
	return out
}

// fetchMessagesOf lists the messages that the HMC holds of one partition. All of them, not only those from the last one
// known on: after an IPL the numbers may be lower, and only the whole tells.
func (k *keeper) fetchMessagesOf(ctx context.Context, c *channel) error {
	rec, uri := k.s.rec, c.partition.ObjectURI
	missing, known := rec.missing(uri)
	if !known {
		if c.refresh {
			return nil // the HMC replays all it holds
		}
		messages, err := k.session.ListOSMessages(ctx, uri, -1)
		if err == nil {
			rec.startAfter(ctx, uri, messages)
		}
		return err
	}
	asked := time.Now()
	messages, err := k.session.ListOSMessages(ctx, uri, -1)
	if err != nil {
		return err
	}
	rec.fetchedMessages(ctx, c.partition, c.topic, c.refresh, messages, asked, missing)
	return nil
}

// beginFetch returns the time from which on the entries of a log are to be fetched; the zero time: there is nothing to
// be fetched.
func (r *recorder) beginFetch(kind string) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.logMark(kind).beginFetch()
}

// endFetch notes what has become of a fetch: all came, or what is before begin.
func (r *recorder) endFetch(kind string, begin time.Time, all bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.logMark(kind).endFetch(begin, all)
}

// fetchedEntries records the entries of a log that are new, in the order of their times, which the HMC does not promise.
// Those of one time stay in the order of the log, which an HMC may list from its end.
func (r *recorder) fetchedEntries(ctx context.Context, kind, topic string, entries [][]byte) {
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
		r.conv.fillLogEntry(e, event.CompactValid(entry))
		if !r.takeEntry(e, &r.conv.part) {
			continue
		}
		r.put(e)
		r.sight.recovered(kind)
		if new++; r.out.full() {
			r.flush(ctx)
		}
	}
	r.flush(ctx)
	r.log.Debug("log entries were fetched", zap.String("log", kind), zap.Int("entries", len(entries)), zap.Int("new", new))
}

// fetchedEvent begins an event that was not published but fetched. r.mu is held.
func (r *recorder) fetchedEvent(typ, topic, kind string, now time.Time) *event.Event {
	e := &r.conv.event
	*e = event.Event{
		HMC: r.cfg.Name, Type: typ, Received: now, Time: now, Topic: topic, TopicType: kind,
		Origin: event.OriginBackfill, Severity: event.SeverityInfo,
	}
	return e
}

// missing returns the highest sequence number that is missing of a partition's messages, and whether anything is known of
// the partition.
func (r *recorder) missing(uri string) (highest int64, known bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if held := r.held[uri]; held != nil {
		held.cut = true // the rest may be on its way
		r.settleReplay(uri, nil)
	}
	m := r.partition(uri)
	_, highest, _ = m.missing()
	_, started := r.starts[uri]
	return highest, started || !m.empty()
}

// fetchedReplay makes a replay of listed messages.
func (r *recorder) fetchedReplay(p hmc.Partition, topic string, messages [][]byte) *heldReplay {
	resource := &event.Resource{
		Class: classOf(p.ObjectURI), Name: p.Name, ObjectURI: p.ObjectURI, ObjectID: lastSegment(p.ObjectURI), CPC: p.CPCName,
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	list, now := new(heldReplay), time.Now()
	for _, message := range messages {
		e := r.fetchedEvent(event.TypeOSMessage, topic, event.TopicOSMessage, now)
		e.Resource = resource
		r.conv.fillOSMessage(e, event.CompactValid(message))
		list.messages = append(list.messages, r.conv.part.message)
		list.events = append(list.events, *e)
		list.ids = append(list.ids, r.conv.part.id)
	}
	return list
}

// fetchedMessages records the messages of a partition that are new, and counts those that are missing up to a number as
// gone for good.
func (r *recorder) fetchedMessages(
	ctx context.Context, p hmc.Partition, topic string, refresh bool, messages [][]byte, asked time.Time, missing int64,
) {
	list := r.fetchedReplay(p, topic, messages)
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.partition(p.ObjectURI)
	if !refresh && m.epoch == 0 { // of a sequence that began anew since, everything counts
		lowest, ok := r.starts[p.ObjectURI]
		if !ok {
			lowest = m.lowest
		}
		list.dropEarlier(lowest)
	}
	n := r.takeReplay(p.ObjectURI, list, event.OriginBackfill, replayed{messages: list.messages, asked: asked, now: time.Now(), toEnd: true})
	for i := range list.messages {
		missing = max(missing, list.messages[i].seq) // the HMC was asked for everything up to this one
	}
	r.gone(m.settle(missing))
	r.flush(ctx)
	r.log.Debug("OS messages were fetched", zap.String("partition", partitionLabel(p)), zap.Int("messages", len(messages)), zap.Int("new", n))
}

// dropEarlier drops what the HMC held already when the partition began to be followed with the number lowest, and was not
// asked for then. Numbers that do not lead up to that one are those of a sequence that began anew.
func (h *heldReplay) dropEarlier(lowest int64) {
	n := 0
	for n < len(h.messages) && h.messages[n].seq < lowest && (n == 0 || h.messages[n].seq > h.messages[n-1].seq) {
		n++
	}
	if n > 0 && (h.messages[n-1].seq == lowest-1 || n < len(h.messages) && h.messages[n].seq >= lowest) {
		h.messages, h.events, h.ids = h.messages[n:], h.events[n:], h.ids[n:]
	}
}

// startAfter notes that a partition is followed from behind these messages on, which were there before: without this nothing
// would tell, after a time without sight, which messages of a partition that had been quiet are new.
func (r *recorder) startAfter(ctx context.Context, uri string, messages [][]byte) {
	list := r.fetchedReplay(hmc.Partition{ObjectURI: uri}, "", messages)
	r.mu.Lock()
	defer r.mu.Unlock()
	start := int64(0)
	for i := range list.messages {
		start = max(start, list.messages[i].seq+1)
	}
	r.starts[uri] = start
	r.awaitSettled()
	r.send(ctx, append(r.state(), queue.KeyValue{
		Key: stateStart + r.cfg.Name + "\x00" + uri, Value: binary.BigEndian.AppendUint64(nil, uint64(start)),
	}))
}

// needsStart says whether it is not known yet from where on a partition is followed.
func (r *recorder) needsStart(uri string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, started := r.starts[uri]
	return !started && r.partition(uri).empty()
}

// subscribing notes that the topic of a partition's messages is about to be subscribed to.
func (r *recorder) subscribing(uri string, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.subscribed[uri] = now
}

// replaying says whether messages of a partition are being replayed.
func (r *recorder) replaying(uri string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.held[uri] != nil
}

// replayedSince says whether the HMC has replayed messages of a partition since then.
func (r *recorder) replayedSince(uri string, since time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.replayed[uri].Before(since)
}

// topicBack records that a topic which the broker had taken away is subscribed to again.
func (r *recorder) topicBack(topic string, since, now time.Time) {
	kind := r.topics.kindOf(topic, "")
	r.mu.Lock()
	if kind == event.TopicAudit || kind == event.TopicSecurity {
		r.awaitEntries(since, []string{kind})
	}
	r.mu.Unlock()
	r.sight.spot(since, now, fmt.Sprintf("the HMC had taken away a topic (%s)", kind), topic, kind, 0, r.canFetch(kind))
}

// classOf returns the class of a partition by its URI.
func classOf(uri string) string {
	const lpars = "/api/logical-partitions/"
	if len(uri) > len(lpars) && uri[:len(lpars)] == lpars {
		return "logical-partition"
	}
	return "partition"
}
