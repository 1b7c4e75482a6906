package record

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
)

// Connection is the body of a bridge-connected event.
type Connection struct {
	Host       string       `json:"host"`
	NewSession bool         `json:"new_session"`
	Topics     []TopicLabel `json:"topics"`
	// Console is the HMC's own name of itself.
	Console string `json:"-"`
	// BlindSince: a bridge-gap event follows when what was missed has been fetched.
	BlindSince *time.Time `json:"blind_since,omitempty"`
}

// TopicLabel names a topic in a bridge-connected event.
type TopicLabel struct {
	Name string `json:"name"`
	Type string `json:"type"`
}

// Disconnection is the body of a bridge-disconnected event.
type Disconnection struct {
	// as receiver_state has it
	State  string `json:"state"`
	Reason string `json:"reason,omitempty"`
	Cause  string `json:"cause"`
	// the daemon ends, or its configuration was changed
	Planned bool `json:"planned,omitempty"`
	// Confirmed is from when on nothing more was asked for: the HMC has confirmed the end of the
	// link, and what it had sent before has come. The zero time: it has not.
	Confirmed time.Time  `json:"-"`
	LastSeen  *time.Time `json:"last_seen,omitempty"`
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

// bridgeEvent puts an event about the daemon's own sight of the HMC into the outbox.
func (t *tx) bridgeEvent(typ, severity, summary string, at time.Time, body any) {
	data, err := json.Marshal(body)
	if err != nil {
		t.r.log.Error("a bridge event could not be made", zap.String("type", typ), zap.Error(err))
		return
	}
	d, _ := body.(Disconnection)
	t.put(&event.Event{
		ID:  event.NewID(typ, t.r.name, strconv.FormatInt(t.now.UnixNano(), 10), string(data)),
		HMC: t.r.name, Type: typ, Time: at, Received: t.now, Origin: event.OriginBridge,
		Severity: severity, Summary: "HMC " + t.r.name + ": " + summary, Body: data,
		Planned: d.Planned,
	})
}

// Connected records that the link is up, and ends a blind window if there was one, which it
// reports. complete says that all topics of the session are subscribed to, and asked when, at the
// earliest.
func (r *Recorder) Connected(ctx context.Context, c Connection, complete bool, asked time.Time) (wasBlind bool) {
	t := r.begin(ctx)
	defer t.end()
	if c.NewSession {
		t.sequence.NewSession(complete)
	} else {
		t.sequence.NewLink(complete)
	}
	summary := fmt.Sprintf("connected to %s, %d topics", c.Host, len(c.Topics))
	if since := t.gaps.BlindSince(); !since.IsZero() {
		c.BlindSince = status.TimeOrNil(since)
		summary += t.withoutSight(t.now.Sub(since))
	}
	wasBlind = t.gaps.LinkUp(asked, t.now, r.watcher.CanFetch())
	if r.heardTo.IsZero() {
		r.heardTo = t.now
	}
	t.logs.LinkUp(c.Host + "\x00" + c.Console)
	for _, topic := range c.Topics {
		if event.IsLog(topic.Type) && r.watcher.CanFetch() {
			t.logs.Begin(topic.Type, r.cfg.LogStart.Since(asked), r.cfg.LogStart == config.LogStartNow)
		}
	}
	t.link.up, t.link.reported, t.link.asked, t.link.received, t.link.host = true, "", asked, t.now, c.Host
	t.link.lived, t.link.lost = asked, time.Time{}
	t.bridgeEvent(event.TypeBridgeConnected, event.SeverityInfo, summary, t.now, c)
	t.contact.Set(t.now, "")
	t.send()
	return wasBlind
}

// withoutSight says for how long nothing was seen, which is certain for as long as d: a link may
// have been of no use before it was lost, and one whose daemon was killed of use after that was
// stored.
func (t *tx) withoutSight(d time.Duration) string {
	round := func(d time.Duration) string { return d.Round(100 * time.Millisecond).String() }
	text, down := round(d)+" without sight", t.now.Sub(t.link.lost)
	switch _, cause := t.contact.Last(); {
	case t.link.lost.IsZero() && cause == "":
		text = "at most " + text
	case !t.link.lost.IsZero() && d-down >= time.Second:
		text = round(down) + " without a link, and at most " + text
	}
	return ", after " + text
}

// Disconnected records that the link was lost, or could not be made. lastFrame is when the HMC was
// heard last; unread says that something came which was not recorded.
func (r *Recorder) Disconnected(ctx context.Context, d Disconnection, lastFrame time.Time, unread bool) {
	r.tick(ctx, true)
	t := r.begin(ctx)
	defer t.end()
	wasUp := t.link.up
	t.link.up = false
	if wasUp {
		if unread || lastFrame.IsZero() {
			lastFrame = t.link.received
		}
		if lastFrame = t.link.silence.LastCertain(lastFrame); !unread && !d.Confirmed.IsZero() {
			lastFrame = d.Confirmed
		}
		lastFrame = status.Later(lastFrame, t.gaps.WindowUntil())
		t.link.lost = t.now
		t.contact.Set(lastFrame, "")
		t.blind(lastFrame, d.Cause)
	}
	if !wasUp && t.link.reported != "" && (t.link.reported == d.State || d.State != status.StateAuthFailed) {
		return
	}
	t.link.reported = d.State
	if last, _ := t.contact.Last(); !last.IsZero() {
		d.LastSeen = status.TimeOrNil(last)
	}
	severity, summary := event.SeverityWarning, "not connected: "+d.Cause
	switch {
	case d.State == status.StateAuthFailed:
		severity = event.SeverityCritical
		summary = "refused, and left alone for a while so that it does not disable the userid: " + d.Cause
	case wasUp:
		summary = d.Cause
	}
	t.bridgeEvent(event.TypeBridgeDisconnected, severity, summary, t.now, d)
	t.send()
}

// SessionLived notes that an answer of the HMC has shown that the session lived at a time.
func (r *Recorder) SessionLived(at time.Time) {
	t := r.enter()
	defer t.end()
	t.link.lived = at
}

// SessionEnded notes that the HMC has ended the session, nobody knows when: its link may have lived
// on, and have been silent. It is called when the link is down.
func (r *Recorder) SessionEnded() {
	t := r.enter()
	defer t.end()
	if since := status.Later(t.link.lived, t.link.received); !since.IsZero() {
		t.gaps.LostSince(since, t.now)
		t.awaitEntries(since, t.r.logKinds())
	}
}

// reportGaps records the gaps that are over and filled as far as they can be.
func (t *tx) reportGaps() {
	for _, g := range t.gaps.Due(t.now, t.r.timing.Settle) {
		kinds := t.unseen(g)
		if len(kinds) == 0 && !t.overheard(g) {
			t.r.log.Info("without sight of this HMC, but another one of its group reported what happened",
				zap.Time("from", g.From), zap.Time("to", g.To), zap.String("causes", strings.Join(g.Causes, "; ")))
			continue
		}
		t.due = append(t.due, g)
		report := g.Report(kinds)
		severity := event.SeverityInfo
		if len(report.Missing) > 0 {
			severity = event.SeverityWarning
		}
		t.bridgeEvent(event.TypeBridgeGap, severity, report.InWords(), report.To, report)
		t.r.log.Warn(
			"notifications were or may have been missed", zap.Time("from", report.From), zap.Time("to", report.To),
			zap.String("causes", strings.Join(report.Causes, "; ")), zap.Any("missed", report.Missed),
			zap.Any("recovered", report.Recovered), zap.Strings("may_be_missing", report.Missing),
		)
		v := *t.r.view.Load()
		v.LastGap = report
		t.r.view.Store(&v)
	}
}

// beat records a bridge-heartbeat event if one is due.
func (t *tx) beat() {
	interval := time.Duration(t.r.heartbeat.Load())
	if interval <= 0 || t.now.Sub(t.link.lastBeat) < interval {
		return
	}
	t.link.lastBeat = t.link.lastBeat.Add(interval)
	if t.now.Sub(t.link.lastBeat) >= interval {
		// the clock jumped, or the queue was busy: late is no reason for several at once
		t.link.lastBeat = t.now
	}
	h := t.r.watcher.Heartbeat()
	severity, summary := event.SeverityInfo, "connected"
	if !h.Connected {
		severity, summary = event.SeverityWarning, strings.Join(h.Problems, "; ")
	}
	t.bridgeEvent(event.TypeBridgeHeartbeat, severity, summary, t.now, h)
}

// noteContact stores from time to time that there is contact, also while the HMC sends nothing.
// What was read at one tick is used at the next: by then all that had come before it is recorded.
func (t *tx) noteContact() {
	at := t.link.handedOn
	t.link.handedOn = time.Time{}
	if !t.link.up {
		return
	}
	heard, handedOn := t.r.watcher.LastContact()
	if handedOn {
		t.link.handedOn = heard
	}
	t.link.silence.Heard(heard)
	if handedOn {
		t.logs.Arrived(t.now)
	}
	if last, _ := t.contact.Last(); len(t.replays) == 0 && len(t.held) == 0 && at.Sub(last) >= t.r.timing.SeenEvery {
		t.contact.Set(at, "")
		t.send()
	}
}

// Problem notes why something that was missed could not be fetched.
func (r *Recorder) Problem(text string) {
	t := r.enter()
	defer t.end()
	t.gaps.Problem(text)
}

// Filled notes that what was missed has been fetched, as far as it can be.
func (r *Recorder) Filled() {
	t := r.enter()
	defer t.end()
	t.gaps.Filled(t.now)
}

// TopicAway records that the broker has taken a topic away. Nothing of it is certain since the last
// notification that came.
func (r *Recorder) TopicAway(topic string) {
	kind := r.topics.KindOf(topic, "")
	t := r.enter()
	defer t.end()
	t.gaps.Away(topic, kind, fmt.Sprintf("the HMC had taken away a topic (%s)", kind), t.link.received)
}

// TopicBack records that a topic which the broker had taken away is subscribed to again.
func (r *Recorder) TopicBack(topic string) {
	kind := r.topics.KindOf(topic, "")
	t := r.enter()
	defer t.end()
	if since := t.gaps.Back(topic, t.canFetch(kind), t.now); !since.IsZero() && event.IsLog(kind) {
		t.awaitEntries(since, []string{kind})
	}
}
