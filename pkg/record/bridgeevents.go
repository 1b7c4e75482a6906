package record

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/ledger"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
)

// Connection is the body of a bridge-connected event.
type Connection struct {
	Host       string       `json:"host"`
	NewSession bool         `json:"new_session"`
	Topics     []TopicLabel `json:"topics"`
	BlindSince *time.Time   `json:"blind_since,omitempty"` // a bridge-gap event follows when what was missed has been fetched
}

type TopicLabel struct {
	Name string `json:"name"`
	Type string `json:"type"`
}

// Disconnection is the body of a bridge-disconnected event.
type Disconnection struct {
	State    string     `json:"state"` // as receiver_state has it
	Reason   string     `json:"reason,omitempty"`
	Cause    string     `json:"cause"`
	Planned  bool       `json:"planned,omitempty"` // the daemon ends, or its configuration was changed
	LastSeen *time.Time `json:"last_seen,omitempty"`
}

// Heartbeat is the body of a bridge-heartbeat event.
type Heartbeat struct {
	Connected        bool       `json:"connected"`
	State            string     `json:"state"`
	Since            time.Time  `json:"since"`
	LastFrame        *time.Time `json:"last_frame,omitempty"`
	LastNotification *time.Time `json:"last_notification,omitempty"`
	Problems         []string   `json:"problems"`
}

// say records an event about the daemon's own sight of the HMC. r.mu is held.
func (r *Recorder) say(typ, severity, summary string, at time.Time, body any) {
	data, err := json.Marshal(body)
	if err != nil {
		r.log.Error("a bridge event could not be made", zap.String("type", typ), zap.Error(err))
		return
	}
	now := time.Now()
	r.put(&event.Event{
		ID:  event.NewID(typ, r.cfg.Name, strconv.FormatInt(now.UnixNano(), 10), string(data)),
		HMC: r.cfg.Name, Type: typ, Time: at, Received: now, Origin: event.OriginBridge,
		Severity: severity, Summary: "HMC " + r.cfg.Name + ": " + summary, Body: data,
	})
}

// Connected records that the link is up, and ends a blind window if there was one, which it reports. complete
// says that all topics of the session are subscribed to, and asked when, at the earliest.
func (r *Recorder) Connected(ctx context.Context, c Connection, complete bool, asked, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.awaitSettled()
	if c.NewSession {
		r.sequence.NewSession(complete)
	} else {
		r.sequence.NewLink(complete)
	}
	summary := fmt.Sprintf("connected to %s, %d topics", c.Host, len(c.Topics))
	if since := r.Sight.BlindSince(); !since.IsZero() {
		c.BlindSince = status.TimeOrNil(since)
		summary += ", after " + now.Sub(since).Round(100*time.Millisecond).String() + " without sight"
	}
	wasBlind := r.Sight.LinkUp(now, r.Filler.Load() != nil)
	r.up, r.told, r.asked = true, "", asked
	r.lastTaken = now
	r.say(event.TypeBridgeConnected, event.SeverityInfo, summary, now, c)
	r.send(ctx, append(r.state(), r.lastState(now, "")))
	return wasBlind
}

// Disconnected records that the link was lost, or could not be made. lastFrame is when the HMC was heard last; unread
// says that something came which was not recorded.
func (r *Recorder) Disconnected(ctx context.Context, d Disconnection, lastFrame time.Time, unread bool) {
	r.tick(ctx, time.Now(), true)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.awaitSettled()
	now := time.Now()
	wasUp := r.up
	r.up = false
	if wasUp {
		if unread || lastFrame.IsZero() {
			lastFrame = r.lastTaken
		}
		lastFrame = r.lastCertain(lastFrame)
		r.lastSeen = lastFrame
		r.blind(lastFrame, d.Cause)
	}
	if !wasUp && r.told != "" && (r.told == d.State || d.State != status.StateAuthFailed) {
		return
	}
	r.told = d.State
	if !r.lastSeen.IsZero() {
		d.LastSeen = status.TimeOrNil(r.lastSeen)
	}
	severity, summary := event.SeverityWarning, "not connected: "+d.Cause
	switch {
	case d.State == status.StateAuthFailed:
		severity, summary = event.SeverityCritical, "refused, and left alone for a while so that it does not disable the userid: "+d.Cause
	case wasUp:
		summary = d.Cause
	}
	r.say(event.TypeBridgeDisconnected, severity, summary, now, d)
	state := r.state()
	if wasUp {
		state = append(state, r.lastState(r.lastSeen, ""))
	}
	r.send(ctx, state)
}

// tellGaps records the gaps that are over and filled as far as they can be. r.mu is held.
func (r *Recorder) tellGaps(now time.Time) {
	for _, g := range r.Sight.Ready(now, r.Timing.Settle) {
		kinds := r.unseen(g)
		if len(kinds) == 0 {
			r.log.Info("without sight of this HMC, but another one of its group told what happened", zap.Time("from", g.From), zap.Time("to", g.To),
				zap.String("causes", strings.Join(g.Causes, "; ")))
			continue
		}
		r.notes.gaps = append(r.notes.gaps, g)
		told := *g
		told.From, told.To = g.From.UTC().Truncate(time.Millisecond), g.To.UTC().Add(time.Millisecond-1).Truncate(time.Millisecond)
		told.Conclude(kinds)
		severity := event.SeverityInfo
		if len(told.Missing) > 0 {
			severity = event.SeverityWarning
		}
		r.say(event.TypeBridgeGap, severity, told.InWords(), told.To, &told)
		r.log.Warn("notifications were or may have been missed", zap.Time("from", told.From), zap.Time("to", told.To),
			zap.String("causes", strings.Join(told.Causes, "; ")), zap.Any("missed", told.Missed), zap.Any("recovered", told.Recovered),
			zap.Strings("may_be_missing", told.Missing))
		r.LastGap.Store(&told)
		r.Gaps.Add(1)
	}
}

// unseen returns the kinds of topics of which no other HMC of the group has told what happened in a gap; none: the gap need not be
// told. r.mu is held.
func (r *Recorder) unseen(g *ledger.Gap) []string {
	kinds := slices.Clone(r.kinds())
	if len(g.Concerns) > 0 || len(g.Problems) > 0 || len(r.Group.others(r)) == 0 {
		return kinds
	}
	if len(r.cfg.OSMessages) > 0 {
		kinds = append(kinds, event.TopicOSMessage)
	}
	return slices.DeleteFunc(kinds, func(kind string) bool {
		switch {
		case g.Missed[kind] > 0:
			return false
		case kind == event.TopicJob: // of jobs that this session has started: the daemon starts none
			return r.cfg.Session == nil
		case kind == event.TopicObject, kind == event.TopicOSMessage:
			return r.Group.sawAll(r, g.From, g.To, kind)
		}
		return false
	})
}

// beat records a bridge-heartbeat event if one is due. r.mu is held.
func (r *Recorder) beat(now time.Time) {
	interval := time.Duration(r.Heartbeat.Load())
	if interval <= 0 || now.Sub(r.lastBeat) < interval {
		return
	}
	r.lastBeat = r.lastBeat.Add(interval)
	if now.Sub(r.lastBeat) >= interval {
		r.lastBeat = now // the clock jumped, or the queue was busy: late is no reason for several at once
	}
	h := r.Status()
	severity, summary := event.SeverityInfo, "connected"
	if !h.Connected {
		severity, summary = event.SeverityWarning, strings.Join(h.Problems, "; ")
	}
	r.say(event.TypeBridgeHeartbeat, severity, summary, now, h)
}
