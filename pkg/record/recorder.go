package record

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/estate"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/ledger"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/translate"
)

const (
	// heldMessages and heldBytes bound what is held of a partition's replay until it is complete.
	heldMessages = 4096
	heldBytes    = 8 << 20
	// silence is how long nothing comes when the network may be holding it up, silenceOver how long after that a link is taken
	// for one that works again.
	silence     = 2 * time.Second
	silenceOver = 10 * time.Second
)

const (
	stateOS = "os/" // HMC, partition: what is known of its OS messages
)

const (
	stateStart = "start/" // HMC, partition: the number from which on its OS messages are followed
)

const (
	stateLog = "log/" // HMC, audit or security: what is known of the log
)

const (
	stateLast = "last/" // HMC: when it was in sight last, and why not after that
)

const (
	stateGap = "gap/" // HMC: the gap that is not told yet
)

const (
	stateUnit = "unit/" // group, URI: a CPC or a partition of the estate
)

// RecorderTiming holds the intervals of a recorder. Tests shorten them.
type RecorderTiming struct {
	Tick      time.Duration // how often the recorder looks at what is due by time
	Settle    time.Duration // after the last of a replay or of what is fetched, that is complete
	SeenEvery time.Duration // how often it is stored that the HMC is in sight, while nothing else is stored
}

// Recorder makes the events of one HMC and brings them into the queue, whoever has something to record: the supervisor
// what the HMC sends, the keeper what it fetched, both what they know of the link. It recognizes what was recorded
// before, notices what is missing, and stores what it knows together with the events, so that no crash can separate
// them. Safe for concurrent use.
type Recorder struct {
	cfg      config.HMC
	queue    *queue.Queue
	metrics  *HMCMetrics
	log      *zap.Logger
	Timing   RecorderTiming
	topics   *translate.TopicTable
	Group    *Group
	Sight    ledger.Sight
	OnMissed func(topicType string, n int)

	Severities atomic.Pointer[translate.Severities]
	Heartbeat  atomic.Int64 // interval of bridge-heartbeat events; 0: none
	Status     func() Heartbeat
	Heard      func() time.Time                             // when the last bytes came
	InSight    func() time.Time                             // when the HMC was heard last, if everything it sent has been handed on; else the zero time
	Filler     atomic.Pointer[func(topics map[string]bool)] // has what was missed on topics fetched ("": on all); nil: it cannot be
	AskJob     atomic.Pointer[chan<- string]                // takes the URI of a job that has ended; nil: nobody can be asked
	LastGap    atomic.Pointer[ledger.Gap]
	Gaps       atomic.Int64 // told since the start

	mu         sync.Mutex // held while events are made and handed to the queue
	conv       translate.Converter
	Out        outbox
	seen       *ledger.SeenHandle
	sequence   ledger.SequenceTracker
	partitions map[string]*ledger.PartitionMark
	changed    map[string]*ledger.PartitionMark // whose state is to be stored
	asked      time.Time                        // when the topics were subscribed to ...
	subscribed map[string]time.Time             // ... and that of a partition, if later
	starts     map[string]int64                 // the number from which on a partition's messages are followed, where the HMC does not replay them
	held       map[string]*heldReplay
	jobs       []*heldJob           // in their order
	Replayed   map[string]time.Time // when the HMC replayed messages of a partition last
	logs       map[string]*ledger.LogMark
	hardware   hardwareBook
	up         bool      // the link is up
	told       string    // what the last bridge-disconnected said of the state; "" after a bridge-connected
	lastTaken  time.Time // when the notification that was handled last was received
	lastSeen   time.Time // as of the state that is stored
	sighted    time.Time // what inSight returned at the last tick
	lastHeard  time.Time // what heard returned at the last tick
	silence    struct{ from, to time.Time }
	lastBeat   time.Time
	notes      notes
	holds      []string     // URIs of the estate that others of the group must not store yet
	chain      *queue.Chain // of the batches whose state builds on each other

	inFlight atomic.Int64 // batches that the queue has not said of what became of them
	failedMu sync.Mutex
	failed   []notes // of batches that could not be stored
}

// notes are what has to be taken back if a batch cannot be stored.
type notes struct {
	first    time.Time // when the first of it was received
	ids      []event.ID
	messages []notedMessage
	entries  []notedEntry
	gaps     []*ledger.Gap
	changed  []string        // partitions whose state went with it
	before   []estate.Before // of what changed in the estate
	units    []string        // URIs of the estate's state that went with it
	twins    []notedTwin
	hardware []hardwareUndo
}

// notedTwin is something that was told first by this HMC.
type notedTwin struct {
	in  *ledger.Sightings
	key event.ID
}

type notedMessage struct {
	partition string
	message   ledger.OSMessage
}

type notedEntry struct {
	kind string
	id   event.ID
}

// heldReplay is what came of a partition's replay so far.
type heldReplay struct {
	messages []ledger.OSMessage
	events   []event.Event
	ids      []event.ID
	bytes    int
	last     time.Time
	cut      bool // more of it is to come
}

func NewRecorder(cfg config.HMC, q *queue.Queue, m *HMCMetrics, log *zap.Logger, topics *translate.TopicTable, t RecorderTiming) *Recorder {
	r := &Recorder{
		cfg: cfg, queue: q, metrics: m, log: log, Timing: t, topics: topics,
		partitions: make(map[string]*ledger.PartitionMark),
		changed:    make(map[string]*ledger.PartitionMark),
		subscribed: make(map[string]time.Time),
		starts:     make(map[string]int64),
		held:       make(map[string]*heldReplay),
		Replayed:   make(map[string]time.Time),
		logs:       make(map[string]*ledger.LogMark),
		chain:      new(queue.Chain),
	}
	r.Share(NewGroup(cfg.Group))
	r.Out = outbox{queue: q, metrics: m, log: log, onMissed: func(topicType string, n int) { r.OnMissed(topicType, n) }, onResult: r.stored}
	return r
}

// Open reads what is known of the HMC from the queue's state. Where the HMC was watched before, a blind window begins
// at the moment when it was in sight last.
func (r *Recorder) Open(seen *ledger.SeenWindow) {
	r.mu.Lock()
	defer r.mu.Unlock()
	name := r.cfg.Name
	r.seen = seen.Handle(name)
	r.lastBeat = time.Now()
	var damaged int
	r.partitions, damaged = ledger.LoadPartitionMarks(stateOS+name+"\x00", r.queue.StateRange)
	if damaged > 0 {
		r.log.Warn("a part of what is known of OS messages cannot be read; some may be delivered again", zap.Int("values", damaged))
	}
	prefix := stateStart + name + "\x00"
	r.queue.StateRange(prefix, func(key string, value []byte) bool {
		if len(value) == 8 {
			r.starts[key[len(prefix):]] = int64(binary.BigEndian.Uint64(value))
		}
		return true
	})
	r.openHardware()
	prefix = stateLog + name + "\x00"
	r.queue.StateRange(prefix, func(key string, value []byte) bool {
		r.logs[key[len(prefix):]] = ledger.LoadLogMark(value)
		return true
	})
	if data, ok := r.queue.State(stateGap + name); ok {
		g := new(ledger.Gap)
		if err := json.Unmarshal(data, g); err == nil {
			r.Sight.Resume(g)
		}
	}
	if data, ok := r.queue.State(stateLast + name); ok && len(data) >= 8 {
		r.lastSeen = time.Unix(0, int64(binary.BigEndian.Uint64(data)))
		cause := cmp.Or(string(data[8:]), "the daemon ended without notice")
		r.blind(r.lastSeen, cause)
	}
}

// Share makes the recorder one of a group.
func (r *Recorder) Share(g *Group) {
	r.Group = g
	r.conv = translate.Converter{HMC: r.cfg.Name, Topics: r.topics, Estate: g.Estate, Severities: &r.Severities}
}

// blind begins a blind window. r.mu is held.
func (r *Recorder) blind(from time.Time, cause string) {
	r.Sight.LinkLost(from, cause)
	r.awaitEntries(from, r.LogKinds())
}

// awaitEntries makes the entries of logs that are written from now on be fetched later. r.mu is held.
func (r *Recorder) awaitEntries(from time.Time, kinds []string) {
	for _, kind := range kinds {
		r.logMark(kind).Blind(from.Add(-ledger.LogOverlap))
	}
}

// LogKinds are the logs that are followed.
func (r *Recorder) LogKinds() []string {
	var kinds []string
	for _, kind := range []string{event.TopicAudit, event.TopicSecurity} {
		if slices.Contains(r.cfg.Topics, kind) {
			kinds = append(kinds, kind)
		}
	}
	return kinds
}

// kinds are the kinds of topics that are followed.
func (r *Recorder) kinds() []string {
	if len(r.cfg.TopicNames) > 0 {
		return []string{event.TopicOther}
	}
	return r.cfg.Topics
}

func (r *Recorder) logMark(kind string) *ledger.LogMark {
	m := r.logs[kind]
	if m == nil {
		m = new(ledger.LogMark)
		r.logs[kind] = m
	}
	return m
}

func (r *Recorder) partition(name string) *ledger.PartitionMark {
	m := r.partitions[name]
	if m == nil {
		m = new(ledger.PartitionMark)
		r.partitions[name] = m
	}
	return m
}

// Notification records what the HMC sent. valid says whether its body is JSON. It returns the notification's type.
func (r *Recorder) Notification(ctx context.Context, n *receiver.Notification, valid bool) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lastTaken = n.Received
	if number, ok := sequenceNumber(n); ok {
		for topic, count := range r.Sight.TakeDropped() {
			r.sequence.Dropped(topic, count)
		}
		r.sequence.Note(n.Topic, number, n.Received)
	}
	id, told := translate.NotificationID(r.cfg.Name, n)
	if told && r.seen.Add(id) {
		typ := cmp.Or(n.Headers.Get("notification-type"), translate.UnknownType)
		r.metrics.duplicate(typ)
		return typ
	}
	if told {
		r.notes.ids = append(r.notes.ids, id)
	}
	r.conv.SeenBy = nil
	if r.Group.changes.Shared() {
		r.conv.SeenBy = []string{r.cfg.Name}
		if typ := n.Headers.Get("notification-type"); valid && r.twin(typ, n) {
			r.metrics.duplicate(typ)
			return typ
		}
		if estate.Tracked(n.Headers.Get("class")) && n.Headers.Get("notification-type") != event.TypeOSMessage { // whose events may wait
			r.holdUnit(n.Headers.Get("object-uri"))
		}
	}
	r.conv.Convert(n, id, valid, r.take)
	r.notes.before = append(r.notes.before, r.conv.Changes...)
	r.conv.Changes = r.conv.Changes[:0]
	if r.Out.full() {
		r.flush(ctx)
	}
	return r.conv.Event.Type
}

// holdUnit keeps what is about to be known of a resource from being stored before the event that tells it. r.mu is held.
func (r *Recorder) holdUnit(uri string) {
	if uri != "" {
		uri = strings.Clone(uri)
		r.Group.hold(uri, r)
		r.holds = append(r.holds, uri)
	}
}

// take puts the event that the converter has made into the outbox, unless it is a repetition. r.mu is held.
func (r *Recorder) take(e *event.Event) {
	p := &r.conv.Part
	switch p.Kind {
	case translate.OSMessagePart:
		if e.Origin == event.OriginRefresh {
			r.hold(e, p)
			return
		}
		r.settleReplay(p.Partition, &p.Message)
		m := r.partition(p.Partition)
		v := m.Live(p.Message, e.Received)
		if v.Duplicate {
			r.metrics.duplicate(e.Type)
			return
		}
		if v.Missing > 0 {
			r.jumped(e)
		}
		if v.Epoch > 0 {
			e.ID = epochID(p.ID, v.Epoch)
		}
		r.noteMessage(p.Partition, m, p.Message)
		if r.twinMessage(e, p.Partition, ledger.TwinWithin) {
			r.metrics.duplicate(e.Type)
			return
		}
	case translate.LogEntryPart:
		if !r.takeEntry(e, p) {
			return
		}
	case translate.WholePart:
		if e.Type == event.TypeJobCompletion && r.holdJob(e) {
			return
		}
	}
	r.put(e)
}

// takeEntry reports whether a log entry is new. r.mu is held.
func (r *Recorder) takeEntry(e *event.Event, p *translate.Part) bool {
	if r.logMark(e.TopicType).Add(p.Time, p.ID) {
		r.metrics.duplicate(e.Type)
		return false
	}
	r.notes.entries = append(r.notes.entries, notedEntry{e.TopicType, p.ID})
	return true
}

func (r *Recorder) noteMessage(partition string, m *ledger.PartitionMark, message ledger.OSMessage) {
	r.notes.messages = append(r.notes.messages, notedMessage{partition, message})
	r.changed[partition] = m
}

func (r *Recorder) put(e *event.Event) {
	if r.notes.first.IsZero() {
		r.notes.first = e.Received
	}
	r.Out.add(e)
}

// epochID is the id of an OS message whose sequence number has begun anew: the same text under the same number, after an
// IPL, is another message.
func epochID(id event.ID, epoch uint32) string {
	return event.NewID(id.String(), fmt.Sprint(epoch))
}

// hold keeps a message that the HMC replays until the replay is complete: only the whole tells what of it is new. What
// is replayed of a partition that nothing is known of is new. r.mu is held.
func (r *Recorder) hold(e *event.Event, p *translate.Part) {
	held := r.held[p.Partition]
	if held == nil {
		held = new(heldReplay)
		r.held[p.Partition] = held
	}
	held.messages = append(held.messages, p.Message)
	held.events = append(held.events, copyEvent(e))
	held.ids = append(held.ids, p.ID)
	held.bytes += len(e.Body)
	held.last = time.Now()
	r.Replayed[p.Partition] = held.last
	switch full := len(held.messages) >= heldMessages || held.bytes >= heldBytes; {
	case full:
		held.cut = true
		r.settleReplay(p.Partition, nil)
	case r.partition(p.Partition).Empty():
		r.settleReplay(p.Partition, nil)
	}
}

// jumped notes that the number of a live OS message says that others before it were not seen. What the HMC holds of them
// is fetched. r.mu is held.
func (r *Recorder) jumped(e *event.Event) {
	if r.canFetch(event.TopicOSMessage) {
		r.Sight.Spot(r.lastTaken, r.lastTaken, "the numbers of OS messages jumped", e.Topic, event.TopicOSMessage, 0, true)
	}
}

// copyEvent returns an event that lasts longer than the converter's.
func copyEvent(e *event.Event) event.Event {
	c := *e
	c.Headers = slices.Clone(e.Headers)
	c.SessionSequenceNr, c.GlobalSequenceNr = clonePointer(e.SessionSequenceNr), clonePointer(e.GlobalSequenceNr)
	c.Resource = clonePointer(e.Resource)
	return c
}

func clonePointer[T any](p *T) *T {
	if p == nil {
		return nil
	}
	v := *p
	return &v
}

// settleReplay records what is new of a partition's replay. next is the live message that ended it; nil: none did. r.mu is
// held.
func (r *Recorder) settleReplay(partition string, next *ledger.OSMessage) {
	held := r.held[partition]
	if held == nil {
		return
	}
	delete(r.held, partition)
	asked := r.asked
	if at, ok := r.subscribed[partition]; ok {
		asked = status.Later(asked, at)
	}
	m := r.partition(partition)
	r.takeReplay(partition, held, event.OriginRefresh, ledger.Replayed{Messages: held.messages, Next: next, Asked: asked, Now: time.Now(), ToEnd: !held.cut})
	if _, to, n := m.Missing(); n > 0 && !held.cut {
		r.gone(m.Settle(to)) // the HMC has replayed all it holds
	}
}

// takeReplay records what is new of a replay, and returns how much that is. r.mu is held.
func (r *Recorder) takeReplay(partition string, list *heldReplay, origin string, what ledger.Replayed) (recovered int) {
	m := r.partition(partition)
	for i, v := range m.Replay(what) {
		e := &list.events[i]
		if v.Duplicate {
			r.metrics.duplicate(e.Type)
			continue
		}
		e.Origin = origin
		if v.Epoch > 0 {
			e.ID = epochID(list.ids[i], v.Epoch)
		}
		r.noteMessage(partition, m, list.messages[i])
		if r.twinMessage(e, partition, ledger.ReplayWithin) {
			r.metrics.duplicate(e.Type)
			continue
		}
		r.put(e)
		r.Sight.Recovered(event.TopicOSMessage)
		recovered++
	}
	r.changed[partition] = m
	r.gone(m.Abandoned())
	return recovered
}

// gone counts OS messages that the HMC does not hold any more. r.mu is held.
func (r *Recorder) gone(n int64) {
	if n <= 0 {
		return
	}
	r.OnMissed(event.TopicOSMessage, int(n))
	if !r.Sight.OverLink(event.TopicOSMessage, int(n)) {
		r.log.Warn("OS messages were missed, and the HMC does not hold them any more", zap.Int64("messages", n))
	}
}

// flush hands everything to the queue, with what is known now. It blocks while the queue's own buffer is full. r.mu is
// held.
func (r *Recorder) flush(ctx context.Context) {
	if r.Out.empty() {
		return
	}
	if !r.settled() && !r.Out.full() {
		return // with what could not be stored taken back, or the state would still name it
	}
	state := r.state()
	if r.up && r.lastTaken.After(r.lastSeen) && len(r.jobs) == 0 {
		state = append(state, r.lastState(r.lastTaken, ""))
	}
	r.send(ctx, state)
}

// send hands what is in the outbox to the queue, together with state. r.mu is held.
func (r *Recorder) send(ctx context.Context, state []queue.KeyValue) {
	n := r.notes
	r.notes = notes{}
	r.inFlight.Add(1)
	r.Out.send(ctx, state, r.chain, n)
	if len(r.holds) > 0 {
		r.Group.release(r.holds, r)
		r.holds = r.holds[:0]
	}
}

// state returns what has changed of what is known, and with it the ids of what is in the outbox. r.mu is held.
func (r *Recorder) state() []queue.KeyValue {
	state := r.seen.Persist(r.notes.ids, time.Now())
	for partition, m := range r.changed {
		state = m.AppendState(state, stateOS+r.cfg.Name+"\x00"+partition)
		r.notes.changed = append(r.notes.changed, partition)
	}
	clear(r.changed)
	for kind, m := range r.logs {
		if m.Changed {
			state = append(state, queue.KeyValue{Key: stateLog + r.cfg.Name + "\x00" + kind, Value: m.State()})
		}
	}
	prefix := stateUnit + r.Group.Name + "\x00"
	var held []string
	r.Group.Estate.Unstored(func(uri string, value []byte) {
		if r.Group.heldFrom(uri, r) {
			held = append(held, uri)
			return
		}
		state = append(state, queue.KeyValue{Key: prefix + uri, Value: value})
		r.notes.units = append(r.notes.units, uri)
	})
	r.Group.Estate.StoreAgain(held)
	if data, changed := r.Sight.Unstored(); changed {
		state = append(state, queue.KeyValue{Key: stateGap + r.cfg.Name, Value: data})
	}
	return state
}

// lastState says when the HMC was in sight last; cause says why not after that, where that is known.
func (r *Recorder) lastState(at time.Time, cause string) queue.KeyValue {
	r.lastSeen = at
	return queue.KeyValue{
		Key:   stateLast + r.cfg.Name,
		Value: append(binary.BigEndian.AppendUint64(nil, uint64(at.UnixNano())), cause...),
	}
}

// FlushNow is flush for those who do not hold r.mu.
func (r *Recorder) FlushNow(ctx context.Context) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.flush(ctx)
}

// stored is told what has become of a batch. The queue calls it; it must not wait for r.mu, whose holder may be waiting
// for the queue.
func (r *Recorder) stored(err error, n notes, missed map[string]int) {
	defer r.inFlight.Add(-1)
	if err == nil {
		r.storageWorks(time.Now())
		return
	}
	if n.first.IsZero() {
		n.first = time.Now()
	}
	if len(missed) > 0 {
		r.Sight.StorageFailed(n.first, "the storage refused what was received: "+err.Error(), missed)
	}
	r.failedMu.Lock()
	r.failed = append(r.failed, n)
	r.failedMu.Unlock()
}

func (r *Recorder) storageWorks(now time.Time) {
	if r.Sight.StorageWorks(now, r.Filler.Load() != nil) {
		r.log.Info("events are stored again")
	}
}

// settled reports whether what is known is what is stored, or on its way there. Where something could not be stored it waits for
// the batches that were built on it, which are not stored either, and takes all of it back. r.mu is held.
func (r *Recorder) settled() bool {
	if !r.chain.Failed() {
		return true
	}
	if r.inFlight.Load() > 0 {
		return false
	}
	r.takeBack()
	return true
}

// takeBack forgets what could not be stored, so that it can be recorded when it comes again, and reports whether there was
// anything. r.mu is held.
func (r *Recorder) takeBack() bool {
	r.failedMu.Lock()
	failed := r.failed
	r.failed = nil
	r.failedMu.Unlock()
	if r.chain.Failed() {
		r.chain = new(queue.Chain)
	}
	if len(failed) == 0 {
		return false
	}
	// What was to be stored with it is still to be stored.
	r.Sight.StoreAgain()
	for _, m := range r.logs {
		m.Changed = true
	}
	for _, n := range slices.Backward(failed) {
		for _, b := range slices.Backward(n.before) {
			r.Group.Estate.Restore(b)
		}
		r.Group.Estate.StoreAgain(n.units)
		for _, t := range slices.Backward(n.twins) {
			t.in.Forget(t.key, r.cfg.Name)
		}
	}
	for _, n := range failed {
		for _, partition := range n.changed {
			mark := r.partition(partition)
			mark.Forget(nil)
			r.changed[partition] = mark
		}
		r.seen.Forget(n.ids)
		for _, m := range n.messages {
			mark := r.partition(m.partition)
			mark.Forget([]ledger.OSMessage{m.message})
			r.changed[m.partition] = mark
		}
		for _, e := range n.entries {
			m := r.logMark(e.kind)
			m.Forget(e.id)
		}
		for _, g := range n.gaps {
			r.Sight.Untold(g)
		}
	}
	r.takeBackHardware(failed)
	r.awaitEntries(failed[0].first, r.LogKinds())
	return true
}

// awaitSettled waits until what is known may be stored, for as long as a disk that refuses may take to say so. r.mu is held.
func (r *Recorder) awaitSettled() {
	for range 200 {
		if r.settled() {
			return
		}
		time.Sleep(10 * time.Millisecond) // the queue says it without r.mu
	}
}

// Run does what is due by time, until ctx is done.
func (r *Recorder) Run(ctx context.Context) {
	tick := time.NewTicker(r.Timing.Tick)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		r.tick(ctx, time.Now(), false)
	}
}

// tick does what is due: it settles replays and jumps of sequence numbers, tells gaps and heart-beats, and stores what is
// known. all: nothing more comes.
func (r *Recorder) tick(ctx context.Context, now time.Time, all bool) {
	r.doDue(ctx, now, all)
	// Without r.mu: the filler has a lock of its own, which its goroutine holds when it asks the recorder.
	if fill := r.Filler.Load(); fill != nil {
		if topics := r.Sight.TakeRefill(); len(topics) > 0 {
			(*fill)(topics)
		}
	}
}

func (r *Recorder) doDue(ctx context.Context, now time.Time, all bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	corrected := r.inFlight.Load() == 0 && r.takeBack()
	if r.queue.Err() == nil {
		r.storageWorks(now)
	}
	for partition, held := range r.held {
		if all || now.Sub(held.last) >= r.Timing.Settle {
			held.cut = all // the rest may have been on its way
			r.settleReplay(partition, nil)
		}
	}
	r.releaseJobs(now, all)
	r.settleSequence(now, all)
	if len(r.held) == 0 {
		r.tellGaps(now)
	}
	r.beat(now)
	if corrected && r.Out.empty() {
		r.send(ctx, r.state())
	}
	r.flush(ctx)
	r.noteSight(ctx)
}

// settleSequence notes what the sequence numbers say is missing. r.mu is held.
func (r *Recorder) settleSequence(now time.Time, all bool) {
	for _, g := range r.sequence.Settle(now, all) {
		kind := event.TopicOther
		if g.Topic != "" {
			kind = r.topics.KindOf(g.Topic, "")
		}
		n := int(g.Missing)
		r.OnMissed(kind, n)
		if g.OverLink {
			if !r.Sight.OverLink(kind, n) {
				r.log.Warn("the sequence numbers say how many notifications were missed while the link was down",
					zap.String("topic_type", kind), zap.Int("notifications", n))
			}
			continue
		}
		if kind == event.TopicAudit || kind == event.TopicSecurity || kind == event.TopicOther {
			r.awaitEntries(g.First, r.LogKinds())
		}
		r.log.Warn("notifications were missed: their sequence numbers jumped", zap.String("topic", g.Topic),
			zap.String("topic_type", kind), zap.Int("notifications", n))
		r.Sight.Spot(g.First, g.Last, "the sequence numbers of the HMC jumped", g.Topic, kind, n, r.canFetch(kind))
	}
}

// Overflowed notes a notification that the hand-over buffer had no room for. It is called by the goroutine that reads
// from the HMC and never waits.
func (r *Recorder) Overflowed(topic string, now time.Time) {
	kind := r.topics.KindOf(topic, "")
	r.OnMissed(kind, 1)
	r.Sight.Overflow(topic)
	r.Sight.Spot(now, now, "the hand-over buffer was full", topic, kind, 1, r.canFetch(kind))
}

// canFetch says whether what was missed on a topic of this kind can be fetched.
func (r *Recorder) canFetch(kind string) bool {
	return r.Filler.Load() != nil && kind != event.TopicJob
}

// noteSight stores from time to time that the HMC is in sight, also while it sends nothing. What was read at one tick is
// used at the next: by then all that had come before it is recorded. r.mu is held.
func (r *Recorder) noteSight(ctx context.Context) {
	at := r.sighted
	r.sighted = time.Time{}
	if r.up {
		r.sighted = r.InSight()
		r.noteSilence(r.Heard())
	}
	if r.up && len(r.held) == 0 && len(r.jobs) == 0 && r.settled() && at.Sub(r.lastSeen) >= r.Timing.SeenEvery {
		r.send(ctx, append(r.state(), r.lastState(at, "")))
	}
}

// noteSilence remembers the last time in which nothing came although heart-beats are usual. r.mu is held.
func (r *Recorder) noteSilence(heard time.Time) {
	if !r.lastHeard.IsZero() && heard.Sub(r.lastHeard) > silence {
		r.silence.from, r.silence.to = r.lastHeard, heard
	}
	r.lastHeard = heard
}

// lastCertain returns since when something may be missing of a link that was lost, where its last bytes came at lastFrame. If
// those came soon after a silence the network may have held them up, and lost what was behind them. r.mu is held.
func (r *Recorder) lastCertain(lastFrame time.Time) time.Time {
	r.noteSilence(lastFrame)
	from := lastFrame
	if !r.silence.to.IsZero() && lastFrame.Sub(r.silence.to) < silenceOver {
		from = r.silence.from
	}
	r.silence.from, r.silence.to, r.lastHeard = time.Time{}, time.Time{}, time.Time{}
	return from
}

// Close records that the daemon does not look after the HMC any more.
func (r *Recorder) Close(ctx context.Context, cause string) {
	r.tick(ctx, time.Now(), true)
	r.mu.Lock()
	r.awaitSettled()
	r.flush(ctx)
	if !r.lastSeen.IsZero() {
		r.send(ctx, append(r.state(), r.lastState(r.lastSeen, cause)))
	}
	r.mu.Unlock()
	if r.queue.Flush() != nil { //nolint:contextcheck // as below
		r.mu.Lock()
		r.awaitSettled()
		if r.takeBack() || len(r.changed) > 0 {
			r.send(ctx, r.state())
		}
		r.mu.Unlock()
	}
	if err := r.queue.Flush(); err != nil { //nolint:contextcheck // what was accepted is stored, whatever ends
		r.log.Debug("what is known of the HMC could not be stored", zap.Error(err))
	}
}

// ForgetPartition forgets a partition that is gone, with what is stored of it.
func (r *Recorder) ForgetPartition(ctx context.Context, uri string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.settleReplay(uri, nil)
	r.awaitSettled()
	_, known := r.partitions[uri]
	for _, m := range []map[string]time.Time{r.subscribed, r.Replayed} {
		delete(m, uri)
	}
	delete(r.partitions, uri)
	delete(r.changed, uri)
	delete(r.starts, uri)
	if known {
		state := append(r.state(), queue.KeyValue{Key: stateStart + r.cfg.Name + "\x00" + uri})
		r.send(ctx, ledger.AppendMarkDeletion(state, stateOS+r.cfg.Name+"\x00"+uri))
	}
}

// sequenceNumber returns the session-sequence-nr of a notification, if it has one.
func sequenceNumber(n *receiver.Notification) (int64, bool) {
	var v int64
	p := translate.Number(n.Headers.Get("session-sequence-nr"), &v)
	return v, p != nil
}
