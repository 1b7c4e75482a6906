package watch

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/ledger"
)

const (
	// fetchTries is how often something that was missed is asked for before a gap is reported
	// without it.
	fetchTries = 3
	// logShare bounds how much of its time an HMC spends on lists of a whole log, which may be
	// long: one in so many parts.
	logShare = 20
	// logAgain bounds how often times are listed again about which a list has left doubts, before
	// something else has its turn.
	logAgain = 8
	// shortestLogTime is the shortest time whose log entries are asked for at once, where the
	// answer for a longer one was too long to be read.
	shortestLogTime = int64(time.Minute / time.Millisecond)
)

// fetcher fetches what was missed: entries of the console's logs, and OS messages. Statuses come
// with a list of the estate, which it asks for.
type fetcher struct {
	k *keeper
	// The keeper's mu guards the rest. running says that something is to be fetched, logs which
	// are to be listed, by kind, and rest when that may be done at the earliest; states is when
	// something was missed that a list of the estate says.
	running bool
	logs    map[string]*retry
	rest    map[string]time.Time
	states  time.Time
}

// ask has what was missed on topics fetched; "": on all. It returns at once.
func (f *fetcher) ask(topics map[string]bool) {
	k := f.k
	followed := k.source.now()
	k.mu.Lock()
	defer k.mu.Unlock()
	f.running = true
	for topic := range topics {
		kind := ""
		if topic != "" {
			kind = k.topics.KindOf(topic, "")
		}
		if topic == "" || kind == event.TopicObject {
			k.lister.wanted, f.states = true, time.Now()
		}
		for _, log := range event.LogTopics() {
			if (topic == "" || kind == log) && followed.topicOf(log) != "" {
				f.logs[log] = &retry{due: f.rest[log]}
			}
		}
		for _, c := range k.channels.byURI {
			if topic == "" || c.topic == topic {
				c.fill, c.replay = new(retry), c.topic == "" && c.opened.IsZero()
			}
		}
	}
	signal(k.wake)
}

// askLog has a log listed, if it is followed. It returns at once.
func (f *fetcher) askLog(kind string) {
	k := f.k
	if k.source.now().topicOf(kind) == "" {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	f.running = true
	if r := f.logs[kind]; r != nil {
		r.again = true // it may be asked for just now, and the answer without this
	} else {
		f.logs[kind] = &retry{due: f.rest[kind]}
	}
	signal(k.wake)
}

// endRun reports whether there was something to fetch, and nothing is left of it.
func (f *fetcher) endRun() bool {
	k := f.k
	k.mu.Lock()
	defer k.mu.Unlock()
	if !f.running || !k.lister.done(f.states) {
		return false
	}
	for _, r := range f.logs {
		if r.tries < fetchTries {
			return false
		}
	}
	for _, c := range k.channels.byURI {
		if !c.tried || (c.topic != "" && c.fill != nil) {
			return false
		}
	}
	f.running = false
	return true
}

// settle decides what becomes of something that was to be fetched: it is tried again later, or done
// with. Then it calls done with the keeper's mu held: it may have been asked for again meanwhile.
func (f *fetcher) settle(r *retry, err error, what string, done func()) {
	k := f.k
	if err != nil {
		r.failed(&k.intervals)
		log := k.log.With(zap.String("what", what), zap.Error(err))
		if hmc.IsReason(err, http.StatusForbidden, 1) && r.tries < fetchTries {
			r.tries = fetchTries
		}
		if r.tries != fetchTries {
			log.Debug("what was missed could not be fetched; it is tried again")
			return
		}
		k.Rec.Problem(what + ", which could not be fetched: " + err.Error())
		log.Warn("what was missed could not be fetched")
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	done()
}

// fetchLogs fetches the entries of the console's logs that were missed. One that cannot be had is
// tried again for as long as the link is up, but nothing waits for it any more.
func (f *fetcher) fetchLogs(ctx context.Context) {
	k := f.k
	for _, kind := range event.LogTopics() {
		k.mu.Lock()
		r := f.logs[kind]
		due := r != nil && r.isDue(time.Now())
		if due {
			r.again = false
		}
		k.mu.Unlock()
		if !due {
			continue
		}
		err := f.fetchLog(ctx, kind)
		if k.over(ctx, err) {
			return
		}
		f.settle(r, err, "entries of the "+kind+" log", func() {
			switch {
			case err != nil || f.logs[kind] != r:
			case r.again:
				f.logs[kind] = &retry{due: f.rest[kind]}
			default:
				delete(f.logs, kind)
			}
		})
	}
}

// fetchLog fetches what was missed of one log: all that it has is compared with what is known, and
// then what that has left open.
func (f *fetcher) fetchLog(ctx context.Context, kind string) error {
	k := f.k
	for range logAgain {
		q, ok := k.Rec.BeginFetch(kind)
		if !ok {
			break
		}
		begin := time.Now()
		err := f.listLog(ctx, kind, q)
		k.Rec.EndFetch(kind, q, err == nil)
		if q.Whole {
			k.mu.Lock()
			f.rest[kind] = begin.Add(logShare * time.Since(begin))
			k.mu.Unlock()
		}
		if err != nil || !k.Rec.DoubtsLog(kind) {
			return err
		}
	}
	return nil
}

// listLog lists what is asked for of a log, the oldest first. Where the answer would be too long, a
// shorter time is asked for.
func (f *fetcher) listLog(ctx context.Context, kind string, q ledger.LogQuery) error {
	k := f.k
	call := k.session.GetAuditLog
	if kind == event.TopicSecurity {
		call = k.session.GetSecurityLog
	}
	for left := []logTimes{{q.Begin, q.End}}; len(left) > 0; {
		t := left[0]
		entries, err := call(ctx, timeOfMilli(t.begin), timeOfMilli(t.end))
		if err != nil {
			shorter := t.split(time.Now())
			if !isTooMuch(err) || len(shorter) == 0 {
				return err
			}
			left = append(shorter, left[1:]...)
			continue
		}
		left = left[1:]
		k.Rec.FetchedEntries(ctx, kind, k.source.now().topicOf(kind), q, entries)
	}
	return nil
}

// logTimes is a time of a log, in milliseconds, both inclusive; 0: no bound.
type logTimes struct{ begin, end int64 }

func timeOfMilli(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

// split returns shorter times that are the same together, the oldest first; none: it is short
// already. The last days may have as many entries as all the time before.
func (t logTimes) split(now time.Time) (shorter []logTimes) {
	const day, oldest = 24 * time.Hour, 12 // as a power of two: more than ten years
	begin, end := t.begin, t.end
	if end == 0 && begin < now.Add(-2*day).UnixMilli() {
		for age := oldest; age >= 0; age-- {
			if at := now.Add(-day << age).UnixMilli(); at > begin {
				shorter = append(shorter, logTimes{begin, at})
				begin = at + 1
			}
		}
		return append(shorter, logTimes{begin, 0})
	}
	if end == 0 { // the last one has no bound: the HMC's clock may be ahead, how far nobody knows
		end = max(now.UnixMilli(), begin) + max(day.Milliseconds(), 2*(begin-now.UnixMilli()))
	}
	if begin == 0 || end-begin < shortestLogTime {
		return nil
	}
	middle := begin + (end-begin)/2
	return []logTimes{{begin, middle}, {middle + 1, t.end}}
}

// isTooMuch says whether a request failed in a way that asking for less may help: the answer was
// too long to be read, or to be had in time.
func isTooMuch(err error) bool {
	if answer, ok := errors.AsType[*hmc.AnswerError](err); ok {
		return answer.TooLong
	}
	link, ok := errors.AsType[*hmc.ConnectError](err)
	return ok && link.Reason == hmc.ReasonTimeout
}

// fetchMessages lists the OS messages of partitions of which some were missed, where the HMC did
// not replay them.
func (f *fetcher) fetchMessages(ctx context.Context) {
	k := f.k
	due := f.dueChannels()
	for _, c := range due[:min(atOnce, len(due))] {
		k.mu.Lock()
		r, topic := c.fill, c.topic
		k.mu.Unlock()
		err := f.fetchMessagesOf(ctx, c, topic)
		if k.over(ctx, err) {
			return
		}
		unavailable := isUnavailable(err)
		if unavailable || hmc.IsReason(err, http.StatusNotFound, 1) {
			// the partition is not active, or is gone: there is nothing to be had now
			err = nil
		}
		f.settle(r, err, "OS messages of "+c.label(), func() {
			if c.fill == r {
				c.fill, c.unfilled = nil, unavailable
			}
		})
	}
}

// dueChannels are the channels whose missed messages are to be fetched now, the longest due first.
func (f *fetcher) dueChannels() []*channel {
	k, now := f.k, time.Now()
	var due []*channel
	k.mu.Lock()
	for _, c := range k.channels.byURI {
		if c.topic != "" && c.fill != nil && c.fill.isDue(now) {
			due = append(due, c)
		}
	}
	slices.SortFunc(due, func(a, b *channel) int { return a.fill.due.Compare(b.fill.due) })
	k.mu.Unlock()
	return slices.DeleteFunc(due, func(c *channel) bool { return f.awaitsReplay(c, now) })
}

// awaitsReplay reports whether what was missed of a partition is being replayed, may be yet, or has
// been. The HMC replays what it holds when a channel is first subscribed to, which saves asking for
// it. What was missed after that, or could not be stored, is asked for.
func (f *fetcher) awaitsReplay(c *channel, now time.Time) bool {
	k, uri := f.k, c.partition.ObjectURI
	replaying, replayed := k.Rec.Replaying(uri), k.Rec.ReplayedSince(uri, c.opened)
	settle := k.intervals.Recording.Settle
	k.mu.Lock()
	defer k.mu.Unlock()
	switch begun := c.opened.Add(2 * settle); {
	case replaying:
		c.fill.due = now.Add(settle)
	case !f.replays(c):
		return false
	case now.Before(begun):
		c.fill.due = begun
	case replayed:
		c.fill = nil
	default:
		return false
	}
	return true
}

// replays says whether the HMC replays what it holds of a partition since more of it was missed, or
// has: its channel was opened after that, and in a new session. The keeper's mu is held.
func (f *fetcher) replays(c *channel) bool {
	return f.k.newSession && c.refresh && c.replay && !c.opened.IsZero()
}

// fetchMessagesOf lists the messages that the HMC holds of one partition. All of them, not only
// those from the last one known on: after an IPL the numbers may be lower, and only the whole shows
// it.
func (f *fetcher) fetchMessagesOf(ctx context.Context, c *channel, topic string) error {
	rec, uri := f.k.Rec, c.partition.ObjectURI
	missing, known := rec.MissingMessages(uri)
	f.k.mu.Lock()
	replays := f.replays(c)
	f.k.mu.Unlock()
	if !known && replays {
		return nil // it held nothing
	}
	asked := time.Now()
	messages, err := f.k.session.ListOSMessages(ctx, uri, -1)
	if isUnavailable(err) && missing > 0 {
		f.k.Rec.Problem("OS messages of " + c.label() + ", which could not be fetched: " + err.Error())
	}
	switch {
	case err != nil:
	case known, c.refresh: // what it replayed could not be stored
		rec.ListedMessages(ctx, c.partition, topic, c.refresh, messages, asked, missing)
	default:
		rec.StartBehind(ctx, uri, messages)
	}
	return err
}
