package record

import (
	"context"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/budget"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/console"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/ledger"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/translate"
)

// tx is a transaction of a recorder, from begin to end. It is the only access to what is known of
// the HMC and of its group: begin takes the lock of the group, and loads what is stored where
// something could not be. What a transaction puts into the outbox goes to the queue with send,
// together with what has changed in the books, or with a later transaction's.
type tx struct {
	r   *Recorder
	g   *Group
	ctx context.Context //nolint:containedctx // for as long as the transaction lasts
	now time.Time

	books
	pending
	link linkState
	// loaded is when what is known was loaded because something could not be stored.
	loaded time.Time
	conv   translate.Converter
	emit   func(*translate.Part)
	// split is what the parts of the notification have become so far, in bytes, and beyond how
	// many of them are too many.
	split, beyond int
	// as what other HMCs may report it; zero: they do not
	report event.ID
	due    []*ledger.Gap // whose events are in the outbox
	// refetch says that what may be missed since is to be fetched once the storage works again.
	refetch bool
}

// maxSplit bounds what the parts of a notification become together, in bytes.
const maxSplit = 64 << 20

// books are what is known of the HMC and stored with the events.
type books struct {
	seen     *ledger.Seen
	messages *console.OSMessages
	logs     *ledger.Logs
	hardware *ledger.Hardware
	gaps     *ledger.Gaps
	contact  *ledger.Contact
}

func (b *books) all() [6]ledger.Book {
	return [...]ledger.Book{b.seen, b.messages, b.logs, b.hardware, b.gaps, b.contact}
}

// pending are events that are not in the outbox yet, and what it takes to put them there.
type pending struct {
	sequence translate.SequenceTracker
	replays  map[string]*replay   // by partition
	replayed map[string]time.Time // when the HMC replayed messages of a partition last
	// when it was last asked which messages of a partition wait for an answer
	heldAsked map[string]time.Time
	expired   time.Time      // when it was looked last for messages that wait for too long
	held      []*held        // in their order
	late      []*held        // told, but not all of it: the answer may still come
	kept      budget.Account // bytes of events that wait
	started   time.Time      // when it was looked last for what was activated and does not operate
	// When something of an object was last put out that another HMC may report too: what
	// happened to it before, and is reported now, is not what happened last.
	changed map[event.ID]time.Time
}

// linkState is what is known of the link to the HMC while it is up, and of the last one.
type linkState struct {
	up   bool
	host string
	// the state of the last bridge-disconnected; "" after a bridge-connected
	reported string
	// of the notification that was recorded last
	received time.Time
	// when the session was known to live last, by an answer of the HMC
	lived time.Time
	// when it was lost, while it is down; the zero time: this process had none
	lost time.Time
	// when the topics were subscribed to ...
	asked time.Time
	// ... and that of a partition, if later
	subscribed map[string]time.Time
	// the last contact up to which everything is recorded, as of the last tick
	handedOn time.Time
	silence  ledger.Silence
	lastBeat time.Time
}

// begin begins a transaction. If something could not be stored it waits, without a lock, until the
// fate of everything that was built on it is known, which the queue always tells, and loads what is
// stored.
func (r *Recorder) begin(ctx context.Context) *tx {
	g, t := r.group, &r.tx
	g.mu.Lock()
	for g.flight.failed.Load() {
		landing := g.flight.landing()
		if landing == nil {
			g.reload()
			break
		}
		g.mu.Unlock()
		<-landing
		g.mu.Lock()
	}
	g.changes.SetMembers(int(g.configured.Load()))
	g.messages.SetMembers(int(g.configured.Load()))
	t.ctx, t.now = ctx, r.now()
	t.conv.Severities = r.severities.Load()
	t.gaps.Committed(g.flight.stored())
	t.overflowed()
	return t
}

// enter begins a transaction that nothing cuts short.
//
//nolint:contextcheck,nolintlint // whoever calls it, its end is no reason to leave out a part of it
func (r *Recorder) enter() *tx { return r.begin(context.Background()) }

// end ends the transaction.
func (t *tx) end() {
	t.r.publish()
	t.g.mu.Unlock()
}

// reload makes what is known what is stored, and begins a gap for what is not. g.mu is held, and no
// batch is pending.
func (g *Group) reload() {
	_, counts := g.out.take() // built on what could not be stored
	all := g.flight.restart()
	if all == nil {
		all = make(failures)
	}
	for r, f := range refused(errNotStored, counts) {
		all.add(r, f)
	}
	g.load()
	first := time.Now()
	for _, f := range all {
		if f.from.Before(first) {
			first = f.from
		}
	}
	for _, r := range g.members {
		t := &r.tx
		t.now, t.due, t.refetch = r.now(), nil, true
		t.gaps.Committed(g.flight.stored()) // nobody may have looked since
		t.load()
		t.reportHeld()
		t.loaded = t.now
		since := t.now
		if f := all[r]; f != nil {
			since = f.from
			t.gaps.StorageFailed(f.from, "the storage refused what was received: "+f.cause, f.missed, t.now)
		}
		// What was to be fetched before this is not stored either.
		if blind := t.gaps.BlindSince(); !blind.IsZero() && blind.Before(since) {
			since = blind
		}
		// Of what was lost by one HMC another one may have taken its own report for a repetition.
		t.gaps.Unreported(first, t.now)
		t.awaitEntries(since, r.logKinds())
		for _, parent := range t.hardware.Parents() {
			r.watcher.ListHardware(parent)
		}
	}
}

// load replaces what is known by what is stored.
func (t *tx) load() {
	for _, b := range t.all() {
		if damaged := b.Load(t.g.queue.StateRange); damaged > 0 {
			text := "a part of what is known of the HMC cannot be read; some may be delivered again"
			if b == ledger.Book(t.messages) {
				text = "a part of what is known of OS messages cannot be read; some may be delivered again"
			}
			t.r.log.Warn(text, zap.Int("values", damaged))
		}
	}
	now := t.r.now()
	t.seen.Anchor(now)
	t.contact.Anchor(now)
	t.messages.Anchor(now)
}

// put records an event, behind those of the same resource that are held back.
func (t *tx) put(e *event.Event) {
	if !t.behind(e, held{}) {
		t.store(e)
	}
}

// store adds an event to the outbox, with the labels of the HMC and rated by the rules. Everything
// that is stored comes by here.
func (t *tx) store(e *event.Event) {
	e.Labels = t.r.labels // which Apply does not change
	t.r.rules.Load().Apply(e)
	t.g.out.add(t.r, e)
}

// flush hands what is in the outbox to the queue. It blocks while the queue's own buffer is full,
// which holds up the receiver and, through TCP, the sender.
func (t *tx) flush() {
	if t.g.out.empty() {
		return
	}
	for _, o := range t.g.members {
		o.tx.noteReceived()
	}
	t.send()
}

// noteReceived notes that there was contact when the last notification was received, if all before
// it is recorded.
func (t *tx) noteReceived() {
	if last, _ := t.contact.Last(); t.link.up && t.link.received.After(last) && len(t.held) == 0 {
		t.contact.Set(t.link.received, "")
	}
}

// send hands what is in the outbox to the queue, together with what has changed of the group and of
// its HMCs.
//
//nolint:contextcheck,nolintlint // the transaction has the context it was begun with
func (t *tx) send() {
	g := t.g
	var state []queue.KeyValue
	for _, o := range g.members {
		for _, b := range o.tx.all() {
			state = b.Changes(state)
		}
	}
	state = g.messages.Changes(g.changes.Changes(state))
	g.Estate.Unstored(g.holds, func(uri string, value []byte) {
		state = append(state, queue.KeyValue{Key: unitPrefix + g.Name + "\x00" + uri, Value: value})
	})
	if len(state) == 0 && g.out.empty() {
		return
	}
	batch, chain := g.flight.add()
	for _, o := range g.members {
		for _, gap := range o.tx.due {
			o.tx.gaps.Reported(gap, batch)
		}
		o.tx.due = nil
	}
	records, counts := g.out.take()
	done := func(err error) {
		if err != nil {
			g.flight.land(batch, err, refused(err, counts))
			return
		}
		stored(counts)
		g.flight.land(batch, nil, nil)
	}
	// What was received is stored even when the daemon is about to end: the queue closes after
	// those who watch.
	b := queue.Batch{Records: records, State: state, Done: done, Chain: chain}
	if err := g.queue.Append(context.WithoutCancel(t.ctx), b); err != nil {
		done(err)
	}
}

// missed counts notifications that are known to be missing.
func (t *tx) missed(kind string, n int) { t.r.watcher.Missed(kind, n) }

// canFetch says whether what was missed on a topic of this kind can be fetched.
func (t *tx) canFetch(kind string) bool { return t.r.watcher.CanFetch() && kind != event.TopicJob }

// blind begins a blind window.
func (t *tx) blind(from time.Time, cause string) {
	t.gaps.LinkLost(from, cause, t.now)
	t.awaitEntries(from, t.r.logKinds())
}

// awaitEntries makes the entries of logs that are written from now on be fetched later.
func (t *tx) awaitEntries(from time.Time, kinds []string) {
	for _, kind := range kinds {
		t.logs.Missed(kind, from.Add(-ledger.LogOverlap))
	}
}

// overflowed takes up what the hand-over buffer had no room for.
func (t *tx) overflowed() {
	for topic, o := range t.r.overflow.take() {
		kind := t.r.topics.KindOf(topic, "")
		t.sequence.Dropped(topic, o.n)
		t.gaps.Missing(o.first, o.last, "the hand-over buffer was full", topic, kind, o.n, t.canFetch(kind), t.now)
		if event.IsLog(kind) {
			t.awaitEntries(o.first, []string{kind})
		}
	}
}

// notification records a notification.
func (t *tx) notification(n *translate.Notification) {
	t.link.received = n.Received
	if number, ok := n.SequenceNr(); ok {
		t.listLogs(n, number)
		t.sequence.Note(n.Topic, number, n.Received)
	}
	t.take(n)
}

// take records a notification, unless it was recorded before.
func (t *tx) take(n *translate.Notification) (taken bool) {
	id, certain := n.ID(t.r.name)
	if certain && t.seen.Add(id, n.Received) || t.repeatsChange(n) {
		t.r.metrics.duplicate(n.Type)
		return false
	}
	t.split, t.beyond = 0, 0
	t.conv.Convert(n, id, t.emit)
	t.report = event.ID{}
	if t.beyond > 0 {
		t.tooMany(n)
	}
	if t.g.out.full() {
		t.flush()
	}
	return true
}

// listLogs has logs listed whose entries may have been lost before the first number of a session.
func (t *tx) listLogs(n *translate.Notification, number int64) {
	ofTopic, ofSession := t.sequence.Behind(n.Topic, number)
	if !ofTopic && !ofSession {
		return
	}
	kind := t.r.topics.KindOf(n.Topic, n.Type)
	for _, log := range t.r.logKinds() {
		if ofSession || log == kind {
			t.awaitEntries(t.link.asked, []string{log})
			t.r.watcher.FetchLog(log)
		}
	}
}

// tooMany gives up the parts of a notification that is larger than all of them may become: they
// count as missed, and are fetched.
func (t *tx) tooMany(n *translate.Notification) {
	kind := t.r.topics.KindOf(n.Topic, n.Type)
	t.missed(kind, t.beyond)
	t.r.log.Warn("a notification has more parts than are taken of one; the others are fetched, if the HMC has them",
		zap.String("topic_type", kind), zap.Int("parts", t.beyond))
	t.gaps.Missing(n.Received, n.Received, "a notification had too many parts", n.Topic, kind, t.beyond,
		t.canFetch(kind), t.now)
	if event.IsLog(kind) {
		t.awaitEntries(n.Received, []string{kind})
	}
}

// part records an event that the converter has made, unless it is a repetition. A notification may
// become a thousand times as much in its parts as it was: they are stored as they are made.
func (t *tx) part(p *translate.Part) {
	if t.split > maxSplit {
		t.beyond++
		return
	}
	before := len(t.g.out.buf)
	t.record(p)
	t.split += max(0, len(t.g.out.buf)-before)
	if (p.Message != nil || p.Entry != nil) && t.g.out.full() {
		t.send()
	}
}

func (t *tx) record(p *translate.Part) {
	switch {
	case p.Message != nil && t.messages.Full(p.Partition):
		t.put(p.Event) // it is not recognized when it comes again
	case p.Message != nil:
		t.message(p)
	case p.Entry != nil:
		t.entry(p)
	default:
		if t.g.changes.Shared() {
			p.SeenBy = t.r.seenBy
			if p.Type == event.TypeIPL { // of a message that another HMC may have reported too
				key := event.IDOf(p.Type, p.Resource.ObjectURI)
				if t.repeats(t.g.changes, &sighting{key: key, kind: event.TopicObject, at: p.Received}) {
					return
				}
			}
		}
		typ, uri := p.Type, p.Key() // the next event is made in its place
		if !t.ask(p.Event, p.Ask) {
			t.put(p.Event)
		}
		if typ == event.TypeIPL {
			t.afterIPL(uri)
		}
	}
}

// maxChanged bounds how many objects are remembered of which something was reported.
const maxChanged = 10_000

// repeatsChange reports whether another HMC of the group has reported the same change of the same
// object.
func (t *tx) repeatsChange(n *translate.Notification) bool {
	if !t.g.changes.Shared() {
		return false
	}
	// What was reported before another change of this HMC's is not what this one is of, or that
	// one would be the last word.
	says, about, ok := n.Content()
	if !ok {
		return false
	}
	report := sighting{key: says, kind: event.TopicObject, at: n.Received, after: t.changed[about]}
	if n.Type != event.TypeStatusChange {
		report.after = time.Time{} // that a status is right in the end is worth a repetition
	}
	if t.repeats(t.g.changes, &report) {
		return true
	}
	if t.changed == nil || len(t.changed) >= maxChanged {
		t.changed = make(map[event.ID]time.Time)
	}
	t.changed[about], t.report = n.Received, report.key
	return false
}

// sighting is what an HMC of a group reports, which another one may have reported.
type sighting struct {
	key  event.ID
	kind string // of topic
	at   time.Time
	// The other one has reported it not before this; the zero time: whenever.
	after time.Time
	// It may be reported long after it happened, because it was replayed or listed, or because
	// its own time tells it from others.
	lasting bool
}

// repeats reports whether another HMC of the group has reported the same. If it is not lasting, a
// report is a repetition only if it comes soon after the first one, and if this HMC's link was up
// when that came: what happened while this one was out of sight, it does not report later. Or if
// the other HMC has been watched since: where this happened once more, the other HMC reports that
// too, or its gap names it. OS messages it holds, and is asked for: those it reports in any case.
func (t *tx) repeats(in *ledger.Sightings, s *sighting) bool {
	return in.Report(s.key, t.r.name, s.at, func(by string, reported time.Time) bool {
		switch {
		case s.lasting:
			return s.at.Sub(reported) <= replayWithin
		case s.at.Sub(reported) > arriveWithin, reported.Before(s.after):
			return false
		case t.gaps.Linked(reported, s.at) && !t.gaps.Blind(reported.Add(-arriveWithin), s.at):
			return true
		case !t.gaps.Linked(reported, reported):
			other := t.g.members[by]
			held := s.kind == event.TopicOSMessage
			if other == nil || !held && !other.tx.gaps.Watched(reported, s.at, s.kind) {
				return false
			}
		}
		// It may be of something else all the same, which the other HMC has yet to report.
		t.gaps.Unreported(reported, s.at.Add(arriveWithin))
		return true
	})
}

// overheard says whether this daemon has heard all of a gap itself, but for OS messages.
func (t *tx) overheard(g *ledger.Gap) bool {
	heard := t.r.heard
	return !heard.IsZero() && !g.From.Before(heard.Add(arriveWithin)) && !g.To.After(t.r.heardTo)
}

// unseen returns the kinds of topics of which no other HMC of the group has reported what happened
// in a gap; none: the gap need not be reported.
func (t *tx) unseen(g *ledger.Gap) []string {
	kinds := slices.Clone(t.r.kinds())
	if t.overheard(g) {
		kinds = nil
	}
	unsaid := g.Missed[event.TopicOther] > 0 // of which kind they were the numbers do not tell
	if len(g.Concerns) > 0 || len(g.Problems) > 0 || unsaid || len(t.g.members) < 2 {
		return kinds
	}
	if len(t.r.cfg.OSMessages) > 0 {
		kinds = append(kinds, event.TopicOSMessage)
	}
	return slices.DeleteFunc(kinds, func(kind string) bool {
		switch {
		case g.Missed[kind] > 0:
			return false
		case kind == event.TopicJob:
			// of jobs that this session has started: the daemon starts none
			return t.r.cfg.Session == nil
		case kind == event.TopicObject, kind == event.TopicOSMessage:
			return t.sawAll(g.From, g.To, kind)
		}
		return false
	})
}
