package record

import (
	"context"
	"fmt"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/console"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/estate"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/ledger"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/translate"
)

// replayMessages and replayBytes bound what is kept of a partition's replay until it is complete.
const (
	replayMessages = 4096
	replayBytes    = 8 << 20
)

// keptFree is how many bytes of events an HMC may have for itself that wait for something before
// they are stored: replays, and what is held back. What is beyond is of the Budget of all HMCs.
const keptFree = 1 << 20

// replay is what the HMC sent again of a partition's messages so far.
type replay struct {
	messages []console.OSMessage
	events   []event.Event
	kept     int // bytes
	last     time.Time
	cut      bool // more of it is to come
}

func (l *replay) add(p *translate.Part, e event.Event) {
	l.messages = append(l.messages, messageOf(p))
	l.events = append(l.events, e)
}

func messageOf(p *translate.Part) console.OSMessage {
	return console.OSMessage{
		Number: p.Message.Number, ID: p.ID, Text: console.TextHash(p.Message.PlainText()), Time: p.Message.Time,
		Held: p.Message.Held,
	}
}

// message records an OS message that came over the link.
func (t *tx) message(p *translate.Part) {
	if p.Origin == event.OriginRefresh {
		t.addToReplay(p)
		return
	}
	m := messageOf(p)
	if !t.behind(p.Event, held{message: m, partition: p.Partition, unjudged: true}) {
		t.live(p.Event, m, p.Partition)
	}
}

// live records an OS message that came over the link, unless it was recorded before.
func (t *tx) live(e *event.Event, m console.OSMessage, partition string) {
	t.settleReplay(partition, &m)
	v := t.messages.Live(partition, t.link.host, m, e.Received)
	if v.Duplicate {
		t.r.metrics.duplicate(e.Type)
		return
	}
	if v.Missing > 0 && t.canFetch(event.TopicOSMessage) { // what the HMC holds of them is fetched
		since := status.Later(v.Since, t.gaps.WindowUntil())
		if since.After(t.link.received) {
			since = t.link.received
		}
		t.gaps.Missing(since, t.link.received, "the numbers of OS messages jumped", e.Topic, event.TopicOSMessage, 0,
			true, t.now)
	}
	t.putMessage(e, &m, v, partition, m.Time > 0)
}

// putMessage puts the event of a new message into the outbox, unless another HMC of the group has
// reported it. lasting is as repeats has it.
func (t *tx) putMessage(
	e *event.Event, m *console.OSMessage, v console.OSVerdict, partition string, lasting bool,
) (put bool) {
	if v.Epoch > 0 { // the same text under the same number, after an IPL, is another message
		e.ID = event.NewID(m.ID.String(), fmt.Sprint(v.Epoch))
	}
	if t.g.messages.Shared() { // each HMC numbers them itself
		e.SeenBy = t.r.seenBy
		text := strings.TrimRight(event.String(event.Member(e.Body, "message-text")), " \t\r\n")
		key := event.IDOf(partition, text, fmt.Sprint(max(m.Time, 0))) // however it is written
		report := sighting{key: key, kind: event.TopicOSMessage, at: e.Received, lasting: lasting}
		if t.repeats(t.g.messages, &report) {
			t.r.metrics.duplicate(e.Type)
			return false
		}
	}
	t.putKnown(e)
	if m.Held {
		parsed := event.ParseOSMessage(e.Body)
		t.waits(e, &parsed)
	}
	return true
}

// addToReplay keeps a message that the HMC replays until the replay is complete: only the whole
// tells what of it is new.
func (t *tx) addToReplay(p *translate.Part) {
	l := t.replays[p.Partition]
	if l == nil {
		l = new(replay)
		t.replays[p.Partition] = l
	}
	e := p.Copy()
	size := e.Size()
	room := t.kept.Take(size) == nil
	if room {
		l.kept += size
	}
	l.add(p, e)
	l.last = t.now
	t.replayed[p.Partition] = l.last
	if !room || len(l.messages) >= replayMessages || l.kept >= replayBytes {
		l.cut = true
		t.settleReplay(p.Partition, nil)
	}
}

// settleReplay records what is new of a partition's replay. next is the live message that ended it;
// nil: none did.
func (t *tx) settleReplay(partition string, next *console.OSMessage) {
	l := t.replays[partition]
	if l == nil {
		return
	}
	delete(t.replays, partition)
	t.kept.Give(l.kept)
	asked := status.Later(t.link.asked, t.link.subscribed[partition])
	if t.outdated(asked) && !t.messages.Empty(partition) {
		return
	}
	what := console.OSReplay{Next: next, Asked: asked, Complete: !l.cut && !asked.Before(t.loaded)}
	t.putReplay(partition, l, event.OriginRefresh, what)
	if _, to, n := t.messages.Missing(partition); n > 0 && what.Complete {
		t.gone(t.messages.Settle(partition, to)) // the HMC has replayed all it holds
	}
}

// outdated says whether what an HMC was asked for at a time says too little to be recorded: what is
// known was loaded since, for then it is not known what of it came after that. All that the HMC
// holds is listed again.
func (t *tx) outdated(asked time.Time) bool {
	return asked.Before(t.loaded) && t.canFetch(event.TopicOSMessage)
}

// putReplay puts what is new of a replay or a list into the outbox, and returns how much that is.
func (t *tx) putReplay(partition string, l *replay, origin string, what console.OSReplay) (recovered int) {
	what.Host, what.Messages, what.Now = t.link.host, l.messages, t.now
	verdicts := t.messages.Replay(partition, what)
	for i, v := range verdicts {
		e := &l.events[i]
		e.Origin = origin
		if v.Duplicate {
			t.r.metrics.duplicate(e.Type)
		} else if t.putMessage(e, &l.messages[i], v, partition, true) {
			t.gaps.Recovered(event.TopicOSMessage, t.now)
			recovered++
		}
	}
	t.gone(t.messages.Abandoned(partition))
	return recovered
}

// gone counts OS messages that the HMC does not hold any more.
func (t *tx) gone(n int64) {
	if n <= 0 {
		return
	}
	t.missed(event.TopicOSMessage, int(n))
	t.gaps.Problem(ledger.Unheld)
	if !t.gaps.MissedBefore(event.TopicOSMessage, int(n), t.now) {
		t.r.log.Warn("OS messages were missed, and the HMC does not hold them any more", zap.Int64("messages", n))
	}
}

// MissingMessages returns the highest number that is missing of a partition's messages, and whether
// anything is known of the partition.
func (r *Recorder) MissingMessages(uri string) (highest int64, known bool) {
	t := r.enter()
	defer t.end()
	if l := t.replays[uri]; l != nil {
		l.cut = true // the rest may be on its way
		t.settleReplay(uri, nil)
	}
	_, highest, _ = t.messages.Missing(uri)
	return highest, t.messages.Known(uri)
}

// listed makes a replay of listed messages.
func (t *tx) listed(p hmc.Partition, topic string, messages [][]byte) *replay {
	known, ok := t.g.Estate.Lookup(p.ObjectURI)
	if !ok {
		known = estate.Resource{URI: p.ObjectURI, Class: estate.ClassOf(p.ObjectURI)}
	}
	resource := resourceOf(&known)
	resource.Name, resource.CPC = p.Name, p.CPCName // as it was just listed
	l := new(replay)
	for _, message := range messages {
		e := t.conv.Fetched(event.TypeOSMessage, topic, event.TopicOSMessage, t.now)
		e.Resource = resource
		m := event.ParseOSMessage(event.CompactValid(message))
		l.add(t.conv.OSMessage(e, &m), *e)
	}
	return l
}

// ListedMessages records the messages of a list that are new, and counts those that are missing up
// to a number as gone for good. refresh says that the HMC replays what it held before the partition
// was followed.
func (r *Recorder) ListedMessages(
	ctx context.Context, p hmc.Partition, topic string, refresh bool, messages [][]byte, asked time.Time, missing int64,
) {
	t := r.begin(ctx)
	defer t.end()
	if t.outdated(asked) {
		return
	}
	l, uri := t.listed(p, topic, messages), p.ObjectURI
	if !refresh {
		n := t.messages.BeforeStart(uri, t.link.host, l.messages)
		l.messages, l.events = l.messages[n:], l.events[n:]
	}
	n := t.putReplay(uri, l, event.OriginBackfill, console.OSReplay{Asked: asked, Complete: true})
	for i := range l.messages {
		// the HMC was asked for everything up to this one
		missing = max(missing, l.messages[i].Number)
	}
	t.gone(t.messages.Settle(uri, missing))
	t.flush()
	r.log.Debug("OS messages were fetched",
		zap.String("partition", PartitionLabel(p)), zap.Int("messages", len(messages)), zap.Int("new", n))
}

// StartBehind notes that a partition is followed from behind these messages on, which were there
// before: without this nothing would tell, after a time without sight, which messages of a
// partition that had been quiet are new.
func (r *Recorder) StartBehind(ctx context.Context, uri string, messages [][]byte) {
	t := r.begin(ctx)
	defer t.end()
	t.messages.StartBehind(uri, t.link.host, t.listed(hmc.Partition{ObjectURI: uri}, "", messages).messages)
	t.send()
}

// NeedsStart says whether it is not known yet from where on a partition is followed.
func (r *Recorder) NeedsStart(uri string) bool {
	t := r.enter()
	defer t.end()
	return !t.messages.Known(uri)
}

// Subscribing notes that the topic of a partition's messages is about to be subscribed to.
func (r *Recorder) Subscribing(uri string) {
	t := r.enter()
	defer t.end()
	t.link.subscribed[uri] = t.now
}

// Replaying says whether messages of a partition are being replayed.
func (r *Recorder) Replaying(uri string) bool {
	t := r.enter()
	defer t.end()
	return t.replays[uri] != nil
}

// ReplayedSince says whether the HMC has replayed messages of a partition since then.
func (r *Recorder) ReplayedSince(uri string, since time.Time) bool {
	t := r.enter()
	defer t.end()
	return !t.replayed[uri].Before(since)
}

// ForgetPartition forgets a partition that is gone, with what is stored of it.
func (r *Recorder) ForgetPartition(ctx context.Context, uri string) {
	t := r.begin(ctx)
	defer t.end()
	t.settleReplay(uri, nil)
	delete(t.link.subscribed, uri)
	delete(t.replayed, uri)
	delete(t.heldAsked, uri)
	t.messages.Forget(uri)
	t.send()
}

// PartitionLabel names a partition as a person knows it.
func PartitionLabel(p hmc.Partition) string { return p.Name + " on " + p.CPCName }
