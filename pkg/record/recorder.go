package record

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/budget"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/console"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/ledger"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/translate"
)

// Timing holds the intervals of a recorder. Tests shorten them.
type Timing struct {
	// how often the recorder looks at what is due by time
	Tick time.Duration
	// after the last of a replay or of what is fetched, that is complete
	Settle time.Duration
	// how often it is stored that there is contact, while nothing else is stored
	SeenEvery time.Duration
}

// Watcher is what a Recorder asks of whoever watches the HMC. Its methods return at once: they are
// called within transactions, some by the queue, and must not wait for a transaction.
type Watcher interface {
	// Missed counts notifications that are known to be missing on topics of a type.
	Missed(topicType string, n int)
	// Heartbeat is what a bridge-heartbeat event tells.
	Heartbeat() Heartbeat
	// LastContact returns when the last bytes came, and whether everything before them has been
	// handed on.
	LastContact() (at time.Time, handedOn bool)
	// CanFetch says whether what was missed can be fetched now, and Fetch has it fetched, on
	// topics ("": on all). FetchLog has a log listed.
	CanFetch() bool
	Fetch(topics map[string]bool)
	FetchLog(kind string)
	// Ask has the HMC asked how a job has ended, or about a resource, which JobKnown and
	// FactsKnown tell. It reports false if that is not possible now.
	Ask(uri string) bool
	// ListHardware has the hardware messages of a console or CPC listed again.
	ListHardware(parent string)
}

// Options are what a Recorder needs.
type Options struct {
	Config  config.HMC
	Group   *Group
	Watcher Watcher
	Metrics *HMCMetrics
	Logger  *zap.Logger
	Topics  *translate.TopicTable
	Timing  Timing
	Budget  *budget.Budget   // of what waits to be stored; nil: there is none
	Now     func() time.Time // nil: time.Now
	After   string           // of whom the daemon has taken over; "": of nobody
	// Heard is from when on the daemon has heard what the HMC says before it records it, which
	// Overheard is told; the zero time: it has not.
	Heard time.Time
}

// Recorder brings what comes from one HMC into the queue, whoever has something to record:
// notifications as they come, what was fetched, and what the daemon knows of the link. It
// recognizes what was recorded before, notices what is missing, and stores what is known together
// with the events, so that no crash can separate them. Safe for concurrent use.
type Recorder struct {
	name    string
	cfg     config.HMC
	group   *Group
	watcher Watcher
	metrics *HMCMetrics
	log     *zap.Logger
	topics  *translate.TopicTable
	timing  Timing
	now     func() time.Time
	seenBy  []string // the HMC alone, for the events of a group
	labels  event.Headers
	after   string
	// see Options.Heard, and until when
	heard, heardTo time.Time

	severities atomic.Pointer[translate.Severities]
	rules      atomic.Pointer[translate.Rules]
	heartbeat  atomic.Int64 // interval of bridge-heartbeat events; 0: none
	view       atomic.Pointer[View]
	overflow   overflow
	refused    atomic.Bool // the last append was

	tx tx // from begin to end only
}

// View is what a page shows of a Recorder. It is replaced as a whole.
type View struct {
	BlindSince time.Time   // the zero time: there is contact, and what comes is stored
	Pending    bool        // there is a gap that is not reported
	Gaps       int         // reported since the start
	LastGap    *ledger.Gap // nil: none
}

// New returns a recorder that knows nothing yet; Open loads what is stored.
func New(opts Options) *Recorder {
	name := opts.Config.Name
	r := &Recorder{
		name: name, cfg: opts.Config, group: opts.Group, watcher: opts.Watcher, metrics: opts.Metrics, log: opts.Logger,
		topics: opts.Topics, timing: opts.Timing, now: opts.Now, seenBy: []string{name},
		labels: translate.Labels(opts.Config.Labels), after: opts.After, heard: opts.Heard,
	}
	if r.now == nil {
		r.now = time.Now
	}
	r.view.Store(new(View))
	t := &r.tx
	*t = tx{
		r: r, g: opts.Group,
		books: books{
			messages: console.NewOSMessages(name), logs: ledger.NewLogs(name), hardware: ledger.NewHardware(name),
			gaps: ledger.NewGaps(name), contact: ledger.NewContact(name),
		},
		pending: pending{replays: make(map[string]*replay), replayed: make(map[string]time.Time)},
		link:    linkState{subscribed: make(map[string]time.Time)},
		conv:    translate.NewConverter(name, opts.Topics, opts.Group.Estate, &opts.Group.operations),
	}
	t.emit, t.kept = t.part, budget.Account{Budget: opts.Budget, Free: keptFree}
	return r
}

// Group returns the group of the HMC.
func (r *Recorder) Group() *Group { return r.group }

// View returns what a page shows. It never waits.
func (r *Recorder) View() *View { return r.view.Load() }

// publish replaces the view if it is not true any more.
func (r *Recorder) publish() {
	gaps, old := r.tx.gaps, r.view.Load()
	v := View{gaps.BlindSince(), gaps.Pending(), gaps.Count(), old.LastGap}
	if v != *old {
		now := v // on the heap only where it is needed
		r.view.Store(&now)
	}
}

// Configure sets what may change while the recorder runs: how events are rated, and the interval of
// bridge-heartbeat events (0: none).
func (r *Recorder) Configure(s *translate.Severities, rules *translate.Rules, heartbeat time.Duration) {
	r.severities.Store(s)
	r.rules.Store(rules)
	r.heartbeat.Store(int64(heartbeat))
}

// Open loads what is known of the HMC. Where it was watched before, a blind window begins at the
// last contact. Close ends the use of the recorder.
func (r *Recorder) Open(seen *ledger.SeenWindow) {
	g, t := r.group, &r.tx
	g.mu.Lock()
	t.seen = seen.Of(r.name)
	t.load()
	g.members[r.name] = r
	g.mu.Unlock()

	t = r.enter()
	defer t.end()
	t.link.lastBeat, t.expired, t.heldAsked = t.now, t.now, make(map[string]time.Time)
	if last, cause := t.contact.Last(); !last.IsZero() {
		// A window that was over when it was stored has the time before its end.
		if until := t.gaps.WindowUntil(); until.After(last) && !until.After(t.now) {
			last = until
		}
		t.blind(last, cmp.Or(cause, "the daemon ended without notice"))
		if r.after != "" && !r.heard.IsZero() {
			t.blind(last, r.after+", and has heard itself what the HMC says since "+r.heard.UTC().Format(time.RFC3339))
		} else if r.after != "" {
			t.blind(last, r.after)
		}
	}
}

// logKinds are the logs that are to be followed.
func (r *Recorder) logKinds() []string {
	return slices.DeleteFunc(slices.Clone(r.cfg.Topics), func(kind string) bool { return !event.IsLog(kind) })
}

// kinds are the kinds of topics that are followed.
func (r *Recorder) kinds() []string {
	if len(r.cfg.TopicNames) > 0 {
		return []string{event.TopicOther}
	}
	return r.cfg.Topics
}

// Notification records what the HMC sent. It may keep it in memory until Flush.
func (r *Recorder) Notification(ctx context.Context, n *translate.Notification) {
	t := r.begin(ctx)
	defer t.end()
	t.notification(n)
}

// Overheard records what the HMC sent while another daemon recorded, unless that one has.
func (r *Recorder) Overheard(ctx context.Context, n *translate.Notification) {
	t := r.begin(ctx)
	defer t.end()
	if t.take(n) {
		t.gaps.Recovered(r.topics.KindOf(n.Topic, n.Type), t.now)
	}
}

// Flush hands to the queue what is in memory.
func (r *Recorder) Flush(ctx context.Context) {
	t := r.begin(ctx)
	defer t.end()
	t.flush()
}

// Overflowed notes a notification that the hand-over buffer had no room for. It never waits.
func (r *Recorder) Overflowed(topic string, now time.Time) {
	r.watcher.Missed(r.topics.KindOf(topic, ""), 1)
	r.overflow.add(topic, now)
}

// overflow is what the hand-over buffer had no room for since somebody took it.
type overflow struct {
	some   atomic.Bool
	mu     sync.Mutex
	topics map[string]*overflowed
}

type overflowed struct {
	n           int
	first, last time.Time
}

func (o *overflow) add(topic string, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.topics == nil {
		o.topics = make(map[string]*overflowed)
	}
	of := o.topics[topic]
	if of == nil {
		of = &overflowed{first: now}
		o.topics[topic] = of
	}
	of.n++
	of.last = now
	o.some.Store(true)
}

func (o *overflow) take() map[string]*overflowed {
	if !o.some.Load() {
		return nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.some.Store(false)
	topics := o.topics
	o.topics = nil
	return topics
}

// Run does what is due by time, until ctx is done.
func (r *Recorder) Run(ctx context.Context) {
	tick := time.NewTicker(r.timing.Tick)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			r.tick(ctx, false)
		case <-ctx.Done():
			return
		}
	}
}

// tick does what is due: it settles replays and jumps of sequence numbers, reports gaps and
// heart-beats, and stores what is known. all: nothing more comes over the link.
func (r *Recorder) tick(ctx context.Context, all bool) {
	if topics := r.doDue(ctx, all); len(topics) > 0 {
		r.watcher.Fetch(topics)
	}
}

func (r *Recorder) doDue(ctx context.Context, all bool) (refill map[string]bool) {
	t := r.begin(ctx)
	defer t.end()
	works := t.g.queue.Err() == nil
	if works && t.gaps.StorageWorks(t.now) {
		r.log.Info("events are stored again")
	}
	if works && t.refetch {
		if t.refetch = false; r.watcher.CanFetch() {
			t.gaps.Refill()
		}
	}
	for partition, held := range t.replays {
		if all || t.now.Sub(held.last) >= r.timing.Settle {
			held.cut = all // the rest may have been on its way
			t.settleReplay(partition, nil)
		}
	}
	t.release(all)
	t.expireWaiting()
	t.notStarted()
	t.settleSequence(all)
	if works && len(t.replays) == 0 {
		t.reportGaps()
	}
	t.beat()
	t.flush()
	t.noteContact()
	for _, kind := range r.logKinds() {
		if t.logs.Doubtful(kind) {
			r.watcher.FetchLog(kind)
		}
	}
	if works && r.watcher.CanFetch() { // before, it would be refused, and counted as missed
		refill = t.gaps.TakeRefill()
	}
	return refill
}

// settleSequence notes what the sequence numbers say is missing.
func (t *tx) settleSequence(all bool) {
	for _, g := range t.sequence.Settle(t.now, all) {
		kind := event.TopicOther
		if g.Topic != "" {
			kind = t.r.topics.KindOf(g.Topic, "")
		}
		n := int(g.Missing)
		t.missed(kind, n)
		if g.OverLink {
			if !t.gaps.MissedBefore(kind, n, t.now) {
				t.r.log.Warn("the sequence numbers say how many notifications were missed while the link was down",
					zap.String("topic_type", kind), zap.Int("notifications", n))
			}
			// Some may have been published when the link was up and the logs had been listed.
			for _, log := range t.r.logKinds() {
				if (kind == log || kind == event.TopicOther) && t.logs.MissedBefore(log, g.First, g.Last) {
					t.r.watcher.FetchLog(log)
				}
			}
			continue
		}
		if event.IsLog(kind) || kind == event.TopicOther {
			t.awaitEntries(g.First, t.r.logKinds())
		}
		t.r.log.Warn("notifications were missed: their sequence numbers jumped", zap.String("topic", g.Topic),
			zap.String("topic_type", kind), zap.Int("notifications", n))
		t.gaps.Missing(
			g.First, g.Last, "the sequence numbers of the HMC jumped", g.Topic, kind, n, t.canFetch(kind), t.now,
		)
	}
}

// Close records that nobody watches the HMC any more, and why.
func (r *Recorder) Close(ctx context.Context, cause string) {
	r.tick(ctx, true)
	for range 2 { // the second time with what could be loaded
		r.lastWords(ctx, cause)
		_ = r.group.queue.Flush() //nolint:contextcheck // what was accepted is stored, whatever ends
		if !r.group.flight.failed.Load() {
			break
		}
	}
	r.leave()
	// Another HMC of the group may have sent what is known of this one: nobody loads it before
	// it is stored or refused.
	if err := r.group.queue.Flush(); err != nil { //nolint:contextcheck // as above
		r.log.Debug("what is known of the HMC could not be stored", zap.Error(err))
	}
}

func (r *Recorder) leave() {
	r.group.mu.Lock()
	defer r.group.mu.Unlock()
	delete(r.group.members, r.name)
}

func (r *Recorder) lastWords(ctx context.Context, cause string) {
	t := r.begin(ctx)
	defer t.end()
	t.flush()
	if last, _ := t.contact.Last(); !last.IsZero() {
		t.contact.Set(last, cause)
	}
	t.send()
}
