package watch

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
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
			kind = k.s.topics.KindOf(topic, "")
		}
		if topic == "" || kind == event.TopicObject {
			k.relist, k.missed = true, time.Now()
		}
		for _, log := range k.s.Rec.LogKinds() {
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
	k.s.Rec.Sight.Filled()
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
	u.postpone(k.s.Timing)
	refused := hmc.IsReason(err, 403, 1)
	if u.tries < fillTries && !refused {
		k.s.log.Debug("what was missed could not be fetched; it is tried again", zap.String("what", what), zap.Error(err))
		return false
	}
	k.s.Rec.Sight.Problem(what + ", which could not be fetched: " + err.Error())
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
	rec := k.s.Rec
	call := k.session.GetAuditLog
	if kind == event.TopicSecurity {
		call = k.session.GetSecurityLog
	}
	begin := rec.BeginFetch(kind)
	defer func() { rec.EndFetch(kind, begin, err == nil) }()
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
		rec.FetchedEntries(ctx, kind, k.s.topicOf(kind), entries)
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
		if k.s.Rec.Replaying(c.partition.ObjectURI) { // which may bring it
			k.mu.Lock()
			if c.fill != nil {
				c.fill.due = now.Add(k.s.Timing.Recording.Settle)
			}
			k.mu.Unlock()
			continue
		}
		// The HMC replays what it holds when a channel is first subscribed to, which saves asking for it. What was missed
		// after that, or could not be stored, is asked for.
		if k.newSession && c.refresh && k.replayWillDo(c) && !c.opened.IsZero() {
			replayed := k.s.Rec.ReplayedSince(c.partition.ObjectURI, c.opened)
			k.mu.Lock()
			wait := c.opened.Add(2 * k.s.Timing.Recording.Settle)
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
	rec, uri := k.s.Rec, c.partition.ObjectURI
	missing, known := rec.Missing(uri)
	if !known {
		if c.refresh {
			return nil // the HMC replays all it holds
		}
		messages, err := k.session.ListOSMessages(ctx, uri, -1)
		if err == nil {
			rec.StartAfter(ctx, uri, messages)
		}
		return err
	}
	asked := time.Now()
	messages, err := k.session.ListOSMessages(ctx, uri, -1)
	if err != nil {
		return err
	}
	rec.FetchedMessages(ctx, c.partition, c.topic, c.refresh, messages, asked, missing)
	return nil
}
