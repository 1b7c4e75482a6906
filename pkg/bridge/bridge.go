// Package bridge is the running daemon without its command line: it keeps a receiver connected to
// each HMC, stores every notification as events, and brings the events to every sink.
//
// The path is one way: receiver, supervisor (one goroutine per HMC), queue on disk, delivery (one
// per sink), sink. No HMC can hold up another, no sink can hold up another sink or an HMC.
package bridge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/budget"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/deliver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/ledger"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/match"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/record"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/replay"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/sinks"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/standby"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/translate"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/watch"
)

const (
	// drainTimeout is how long deliveries go on after the receivers have ended.
	drainTimeout = 8 * time.Second
	// stopTimeout bounds the end of the deliveries whose configuration changed.
	stopTimeout = 5 * time.Second
	// leaveTimeout is how long a delivery that should have ended, and then its sink's Close, is
	// still waited for.
	leaveTimeout = time.Second
	// readAlongTimeout is how long those who read along have for what was stored last.
	readAlongTimeout = time.Second
	// aliveWithin is how long a loop may be silent before the watchdog is told: well above the
	// longest bounded wait.
	aliveWithin = 3 * time.Minute
)

// Options are what a Bridge needs.
type Options struct {
	Config *config.Config
	// directory of the queue; made if it does not exist
	StoragePath string
	// nil: none
	Logger *zap.Logger
	// nil: no metrics are exported
	Registerer prometheus.Registerer
	Version    string
	// of the web side, as people reach it; "": it is not known
	ExternalURL string
	// for log sinks
	Stdout io.Writer
	Stderr io.Writer
	// how long deliveries go on after the receivers have ended; 0: 8 s
	DrainTimeout time.Duration
	// WrapStore, which may be nil, is called by New with the store of the queue; what it
	// returns is used in its place. Tests have commits fail with it.
	WrapStore func(queue.Store) queue.Store
	// Elsewhere, which may be nil, keeps events and dead letters in the place of StoragePath, which
	// then has only what belongs to this machine. It stays the caller's.
	Elsewhere *Elsewhere
	// Buffers is how many bytes may wait to be stored: so many of each HMC, and so many that are
	// being written. 0: 8 MiB of each HMC, less where there are many, and 4 MiB. Tests fill them.
	Buffers int
	// Intervals are those of each HMC; tests shorten them.
	Intervals watch.Intervals
	// Dial connects to HMCs; nil: net.Dialer. Tests have a network of their own.
	Dial watch.Dial
	// Tap sees what goes to and comes from all HMCs.
	Tap watch.Tap
	// Ears, which may be nil, have heard the HMCs until now.
	Ears *standby.Ears
}

// Elsewhere is where events and dead letters are kept that are not on this machine.
type Elsewhere struct {
	Store   queue.Store
	Letters func(queue.DeadLetterOptions) (queue.Letters, error)
	// Valid says whether this daemon leads: while it does not, nothing is delivered. nil: always.
	Valid func() bool
	// Lost is closed when it does not lead any more: then the end waits for no delivery.
	Lost <-chan struct{}
	// After says of whom this daemon has taken over, for the time that nobody has seen; "": of
	// nobody.
	After string
	// Resume, which may be nil, waits until it is known what whoever led before has brought to a
	// sink, and returns that.
	Resume func(ctx context.Context, sink string) deliver.Done
	// HandOver, which may be nil, lets another daemon lead at the end of this one, which stores
	// nothing any more, and tells it what is done of each sink; nil stands for one that still
	// delivers. It is called again when more is known. Taken is closed when another one leads.
	HandOver func(done map[string]*deliver.Done)
	Taken    <-chan struct{}
}

// ErrStandby is what a daemon answers (wrapped) that another one has to be asked for.
var ErrStandby = errors.New("this daemon stands by")

// Bridge connects HMCs to sinks. Make it with New, then call Run once.
type Bridge struct {
	opts        Options
	log         *zap.Logger
	metrics     *record.Metrics
	sinkMetrics *deliver.Metrics
	queue       *queue.Queue
	seen        *ledger.SeenWindow
	dead        queue.Letters
	started     time.Time
	// what Run starts, and what is closed when it has
	first *world
	begun chan struct{}

	// one replay, and one test of a sink, at a time
	replaying, testing sync.Mutex
	deadDropped        status.Throttle
	budget             *budget.Budget // of all HMCs, beyond the share of each
	live               *replay.Live
	current            atomic.Pointer[current]

	// one reload at a time; guards what follows
	reloading sync.Mutex
	// that were ever configured
	groups map[string]*record.Group
	gone   *record.Gone
	// The supervisors' life ends when Run's context does, that of the deliveries goes on while
	// they drain.
	life, deliverLife context.Context //nolint:containedctx // see above
}

// current is what runs now. It never changes: a reload makes another one.
type current struct {
	cfg         *config.Config
	supervisors []*running[*watch.Supervisor]
	deliveries  []*running[*deliver.Delivery]
}

// now returns what runs now.
func (b *Bridge) now() *current { return b.current.Load() }

// running is something with a goroutine of its own.
type running[T any] struct {
	it   T
	stop context.CancelFunc
	done chan struct{}
}

func start[T any](ctx context.Context, it T, run func(context.Context)) *running[T] {
	ctx, cancel := context.WithCancel(ctx)
	r := &running[T]{it: it, stop: cancel, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		defer cancel()
		run(ctx)
	}()
	return r
}

// New checks that everything the configuration asks for can be had (storage, sinks, TLS files) and
// returns a Bridge that does nothing yet. On an error nothing stays open.
func New(opts Options) (*Bridge, error) {
	opts.Logger = cmp.Or(opts.Logger, zap.NewNop())
	opts.DrainTimeout = cmp.Or(opts.DrainTimeout, drainTimeout)
	b := &Bridge{
		opts: opts, log: opts.Logger, started: time.Now(),
		sinkMetrics: deliver.NewMetrics(opts.Registerer),
		groups:      make(map[string]*record.Group),
		begun:       make(chan struct{}),
		budget:      budget.New(cmp.Or(opts.Buffers, budget.Common())),
	}
	if e := opts.Ears; e != nil {
		b.metrics, b.budget = e.Metrics, e.Budget
	} else {
		b.metrics = record.NewMetrics(opts.Registerer)
	}
	b.current.Store(&current{cfg: opts.Config})
	for _, c := range opts.Config.Sinks {
		// the queue may drop events of any sink when it is opened
		b.sinkMetrics.Prepare(c.Name)
	}
	storage := opts.Config.Storage
	queueMetrics := queue.NewMetrics(opts.Registerer)
	openLetters := func(o queue.DeadLetterOptions) (queue.Letters, error) { return queue.OpenDeadLetters(o) }
	var store queue.Store // in the directory
	if opts.Elsewhere != nil {
		store, openLetters = opts.Elsewhere.Store, opts.Elsewhere.Letters
	}
	q, err := queue.Open(queue.Options{
		Dir: opts.StoragePath, Store: store, CommitInterval: storage.CommitInterval,
		MaxBytes: cmp.Or(int64(storage.MaxBytes), queue.Unlimited), WaitBytes: int64(opts.Buffers),
		Retain: storage.Retain, Logger: b.log, Metrics: queueMetrics, OnDropped: b.sinkMetrics.Dropped,
		Wrap: opts.WrapStore,
	})
	if err != nil {
		return nil, fmt.Errorf("storage: %w", err)
	}
	b.live = replay.NewLive(replay.History{Queue: q}, func() *config.Config { return b.now().cfg })
	b.queue, b.gone = q, record.NewGone(q, b.log, func(group string) { delete(b.groups, group) })
	b.seen = ledger.NewSeenWindow(opts.Config.Dedup.Window, opts.Config.Dedup.MaxIDs)
	b.dead, err = openLetters(queue.DeadLetterOptions{
		Dir: opts.StoragePath, MaxBytes: cmp.Or(int64(storage.DeadLettersMaxBytes), queue.Unlimited),
		Logger: b.log, Metrics: queueMetrics, OnDropped: b.deadLettersDropped,
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("storage: %w", err), q.Close())
	}
	b.first, err = b.build(b.now())
	if err != nil {
		return nil, errors.Join(err, b.dead.Close(), q.Close())
	}
	if opts.Registerer != nil {
		opts.Registerer.MustRegister(newCollector(b), watch.NewCollector(b.watched))
	}
	return b, nil
}

// Run connects and delivers until ctx is done. Then it ends in the order of the data: receivers
// (unsubscribe, disconnect, log off), the queue's waiting commits, deliveries until they have
// caught up or the drain timeout, queue. A nil error means that everything was orderly.
func (b *Bridge) Run(ctx context.Context) error {
	var endDelivery context.CancelFunc
	b.reloading.Lock()
	b.life = ctx
	b.deliverLife, endDelivery = context.WithCancel(context.WithoutCancel(ctx))
	defer endDelivery()
	b.begin(&current{cfg: b.opts.Config}, b.first)
	b.retireOrphans()
	b.reloading.Unlock()
	close(b.begun)
	var watching sync.WaitGroup
	wrong := make(map[string]string)
	watching.Go(func() { every(ctx, rateEvery, b.noteRates) })
	//nolint:contextcheck // where a new sink begins is stored, whatever ends meanwhile
	watching.Go(func() { every(ctx, filesEvery, func(time.Time) { b.rereadSinks(wrong) }) })
	watching.Go(func() { every(ctx, orphansEvery, b.trimOrphans) })
	watching.Go(func() { b.forgetGone(time.Now()); every(ctx, goneEvery, b.forgetGone) })
	watching.Wait()                // until ctx ends: none of them may begin a reload after the end
	return b.shutdown(endDelivery) //nolint:contextcheck // what ctx ended with is the reason for this, not its limit
}

func (b *Bridge) shutdown(endDelivery context.CancelFunc) error {
	// A reload that is under way ends first, and none begins after it.
	b.reloading.Lock()
	defer b.reloading.Unlock()
	now := b.now()
	for _, s := range now.supervisors {
		s.stop()
	}
	for _, s := range now.supervisors {
		<-s.done
	}
	b.log.Debug("the receivers have ended")
	if err := b.queue.Flush(); err != nil {
		b.log.Error("the last events could not be stored", zap.Error(err))
	}
	// nothing is stored any more, and nobody who reads along holds up the end
	b.live.End()
	drain, e := b.opts.DrainTimeout, b.opts.Elsewhere
	lost := e != nil && isClosed(e.Lost)
	if lost {
		drain = 0
	}
	timer := time.AfterFunc(drain, endDelivery)
	defer timer.Stop()
	limit := time.Now().Add(drain + leaveTimeout)
	all := make(map[*deliver.Delivery]<-chan struct{})
	for _, d := range now.deliveries {
		d.it.Drain()
		all[d.it] = d.done
	}
	var err error
	if e != nil && e.HandOver != nil && !lost {
		for _, d := range now.deliveries {
			d.it.EndByHand(leaveTimeout)
		}
		err = b.dead.Close() // from now on they are another daemon's
		deliver.HandOver(all, e.HandOver, e.Taken, limit)
	}
	for _, d := range now.deliveries {
		err = errors.Join(err, b.end(d, limit))
		if waiting, _, _ := d.it.Cursor.Pending(); waiting > 0 {
			b.log.Info("events stay stored for the next start",
				zap.String("sink", d.it.Cfg.Name), zap.Int64("events", waiting))
		}
	}
	b.live.Left(readAlongTimeout)
	return errors.Join(err, b.dead.Close(), b.queue.Close())
}

// leads says whether this daemon may deliver now.
func (b *Bridge) leads() bool {
	e := b.opts.Elsewhere
	return e == nil || e.Valid == nil || e.Valid()
}

// resume returns what waits for what was done of a sink before this daemon led; nil: nothing was.
func (b *Bridge) resume(sink string) func(context.Context) deliver.Done {
	e := b.opts.Elsewhere
	if e == nil || e.Resume == nil {
		return nil
	}
	return func(ctx context.Context) deliver.Done { return e.Resume(ctx, sink) }
}

// end waits until a delivery that was told to end has done so, and closes its sink. A sink that
// hangs in a write which nothing can interrupt, to a pipe that nobody reads for example, is left
// behind after the limit.
func (b *Bridge) end(d *running[*deliver.Delivery], limit time.Time) error {
	wait := time.Until(limit)
	if d.it.Hanging() {
		wait = min(wait, leaveTimeout)
	}
	if !endsWithin(d.done, wait) {
		b.log.Error("a sink hangs and is left behind", zap.String("sink", d.it.Cfg.Name))
	}
	// it is told to end, and Close interrupts its request
	d.it.EndByHand(leaveTimeout)
	var err error
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		err = d.it.Sink.Close()
	}()
	if !endsWithin(closed, leaveTimeout) {
		b.log.Error("a sink hangs and could not be closed", zap.String("sink", d.it.Cfg.Name))
		return nil
	}
	if err != nil {
		return fmt.Errorf("sink %s: %w", d.it.Cfg.Name, err)
	}
	return nil
}

// endsWithin waits for done to be closed, and reports whether it was.
func endsWithin(done <-chan struct{}, limit time.Duration) bool {
	if isClosed(done) {
		return true
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}

// Reload makes cfg the running configuration. The new sinks and receivers are built first: on an
// error nothing has changed. HMCs and sinks whose configuration did not change go on untouched,
// with their link and their place in the queue; one that waits for its next attempt makes it now.
// The storage settings are those of the start. Before Run it waits for that.
func (b *Bridge) Reload(cfg *config.Config) error {
	<-b.begun
	b.reloading.Lock()
	defer b.reloading.Unlock()
	return b.reload(cfg)
}

// reload is Reload. b.reloading is locked.
func (b *Bridge) reload(cfg *config.Config) error {
	if b.life.Err() != nil {
		return errors.New("the daemon is not running")
	}
	if !cfg.Storage.Equal(&b.opts.Config.Storage) {
		b.log.Warn("the storage section of the configuration is not as it was at the start: " +
			"it takes effect when the daemon is started anew")
	}

	now, next := b.now(), &current{cfg: cfg}
	var (
		goneHMCs  []*running[*watch.Supervisor]
		goneSinks []*running[*deliver.Delivery]
	)
	next.deliveries, goneSinks = split(now.deliveries, func(d *deliver.Delivery) bool { return d.Fits(cfg) })
	next.supervisors, goneHMCs = split(now.supervisors, func(s *watch.Supervisor) bool {
		i := hmcIndex(cfg, s.Cfg.Name)
		return i >= 0 && cfg.HMCs[i].Equal(s.Config())
	})

	// Everything is built before anything is touched.
	w, err := b.build(next)
	if err != nil {
		return err
	}
	// The old receivers end (and log off) before a new one logs on, so that an HMC never has
	// two sessions.
	b.stopAll(goneHMCs, goneSinks, cfg)
	b.begin(next, w)
	return nil
}

// world is what a configuration needs beyond what runs already. Nothing of it has begun to work.
type world struct {
	sinks []newSink
	hmcs  []*watch.Supervisor
}

type newSink struct {
	cfg    config.Sink
	sink   sinks.Sink
	cursor *queue.Cursor
}

// build makes the sinks and supervisors of a configuration that are not kept. On an error nothing
// of it stays: no open file, no series in the metrics, no place in the queue.
func (b *Bridge) build(keep *current) (_ *world, err error) {
	cfg := keep.cfg
	w := new(world)
	var newCursors []string
	defer func() {
		if err == nil {
			return
		}
		for _, s := range w.sinks {
			err = errors.Join(err, s.sink.Close())
		}
		for _, s := range w.hmcs {
			s.Leave(context.Background())
		}
		for _, name := range newCursors {
			err = errors.Join(err, b.queue.RemoveCursor(name))
		}
		for _, c := range cfg.HMCs {
			if find(b.now().supervisors, hasName(c.Name)) == nil {
				b.metrics.DeleteHMC(c.Name)
			}
		}
	}()
	for _, c := range cfg.Sinks {
		if find(keep.deliveries, isTo(c.Name)) != nil {
			continue
		}
		sink, err := sinks.New(c, sinks.Options{
			Version: b.opts.Version, ExternalURL: b.opts.ExternalURL, Stdout: b.opts.Stdout, Stderr: b.opts.Stderr,
			Store:   deliver.Kept(b.queue, c.Name),
			Selects: match.Router{Match: c.Match, Drop: c.Drop}.Wants,
		})
		if err != nil {
			return nil, fmt.Errorf("sink %s: %w", c.Name, err)
		}
		w.sinks = append(w.sinks, newSink{cfg: c, sink: sink})
	}
	after := ""
	if e := b.opts.Elsewhere; e != nil && b.life == nil { // what comes with a reload was not taken over
		after = e.After
	}
	for _, c := range cfg.HMCs {
		if find(keep.supervisors, hasName(c.Name)) != nil {
			continue
		}
		o := watch.Options{
			HMC: c, Queue: b.queue, Group: b.group(c.Group), Metrics: b.metrics, Logger: b.log,
			Version: b.opts.Version, SessionNotes: filepath.Join(b.opts.StoragePath, standby.SessionsName, c.Name),
			Handover: cmp.Or(b.opts.Buffers, budget.Share(len(cfg.HMCs))), Budget: b.budget,
			Intervals: b.opts.Intervals, Dial: b.opts.Dial, Tap: b.opts.Tap, After: after,
		}
		s := b.opts.Ears.Take(&c)
		if s != nil {
			s.Record(o)
		} else if s, err = watch.New(o); err != nil {
			return nil, err
		}
		w.hmcs = append(w.hmcs, s)
	}
	// Last, because that writes to the disk.
	known := b.queue.Cursors()
	for i := range w.sinks {
		n := &w.sinks[i]
		n.cursor, err = b.live.Cursor(context.Background(), n.cfg.Name, n.cfg.Start)
		if err != nil {
			return nil, fmt.Errorf("sink %s: %w", n.cfg.Name, err)
		}
		if !slices.Contains(known, n.cfg.Name) {
			newCursors = append(newCursors, n.cfg.Name)
		}
	}
	return w, nil
}

// begin starts what was built, beside what is kept in next.
func (b *Bridge) begin(next *current, w *world) {
	cfg := next.cfg
	groups, members := groupsOf(cfg), make(map[string]int)
	for _, group := range groups {
		members[group]++
	}
	follow := func(sink sinks.Sink) {
		if f, ok := sink.(sinks.Follower); ok {
			f.Follow(groups)
		}
	}
	for _, r := range next.deliveries {
		follow(r.it.Sink)
	}
	for _, n := range w.sinks {
		follow(n.sink)
		n.cursor.Rewind()
		d := deliver.New(deliver.Options{
			Config: cfg, Sink: n.cfg, To: n.sink, Cursor: n.cursor, Dead: b.dead, Metrics: b.sinkMetrics, Logger: b.log,
			Backlog: b.live.Backlog(n.cfg.Name), May: b.leads, Resume: b.resume(n.cfg.Name),
		})
		next.deliveries = append(next.deliveries, start(b.deliverLife, d, d.Run))
		b.keepLimits(n.cfg)
	}
	severities, rules := translate.NewSeverities(cfg.Severity), translate.NewRules(cfg.Rules)
	for name, g := range b.groups {
		g.Configured(members[name])
	}
	for _, r := range next.supervisors {
		r.it.Rec.Configure(severities, rules, cfg.HeartbeatInterval)
		r.it.TryNow()
	}
	for _, s := range w.hmcs {
		s.Rec.Configure(severities, rules, cfg.HeartbeatInterval)
		next.supervisors = append(next.supervisors, start(b.life, s, func(ctx context.Context) { s.Run(ctx, b.seen) }))
	}
	b.seen.Configure(cfg.Dedup.Window, cfg.Dedup.MaxIDs)
	// As in the configuration, which is how a person looks for them in the status.
	slices.SortFunc(next.deliveries, func(x, y *running[*deliver.Delivery]) int {
		return sinkIndex(cfg, x.it.Cfg.Name) - sinkIndex(cfg, y.it.Cfg.Name)
	})
	slices.SortFunc(next.supervisors, func(x, y *running[*watch.Supervisor]) int {
		return hmcIndex(cfg, x.it.Cfg.Name) - hmcIndex(cfg, y.it.Cfg.Name)
	})
	b.current.Store(next)
}

// group returns the group of a name. What is known of its estate stays for as long as the daemon
// runs. Only New and Reload call it.
func (b *Bridge) group(name string) *record.Group {
	g := b.groups[name]
	if g == nil {
		g = record.NewGroup(name, b.queue, b.log)
		b.groups[name] = g
	}
	return g
}

// sinkIndex returns the place of a sink in the configuration; -1 if it is not there.
func sinkIndex(cfg *config.Config, name string) int {
	return slices.IndexFunc(cfg.Sinks, func(c config.Sink) bool { return c.Name == name })
}

// hmcIndex returns the place of an HMC in the configuration; -1 if it is not there.
func hmcIndex(cfg *config.Config, name string) int {
	return slices.IndexFunc(cfg.HMCs, func(c config.HMC) bool { return c.Name == name })
}

// stopAll ends what the new configuration does not have any more or has otherwise.
func (b *Bridge) stopAll(hmcs []*running[*watch.Supervisor], gone []*running[*deliver.Delivery], cfg *config.Config) {
	for _, r := range hmcs {
		r.it.EndBecause("the configuration of the HMC was changed")
		r.stop()
	}
	for _, r := range hmcs {
		<-r.done
		if hmcIndex(cfg, r.it.Cfg.Name) < 0 {
			r.it.Metrics.Delete()
		}
	}
	for _, r := range gone {
		r.stop()
	}
	limit := time.Now().Add(stopTimeout)
	for _, r := range gone {
		if err := b.end(r, limit); err != nil {
			b.log.Warn("a sink did not end cleanly", zap.Error(err))
		}
		if sinkIndex(cfg, r.it.Cfg.Name) >= 0 {
			continue
		}
		r.it.Forget()
		b.retire(r.it.Cfg.Name, r.it.Cursor)
	}
}

// find returns the first one that fits; nil: none does.
func find[T any](all []*running[T], fits func(T) bool) *running[T] {
	for _, r := range all {
		if fits(r.it) {
			return r
		}
	}
	return nil
}

func hasName(hmc string) func(*watch.Supervisor) bool {
	return func(s *watch.Supervisor) bool { return s.Cfg.Name == hmc }
}

func isTo(sink string) func(*deliver.Delivery) bool {
	return func(d *deliver.Delivery) bool { return d.Cfg.Name == sink }
}

// split separates what fits the new configuration from what does not.
func split[T any](all []*running[T], keep func(T) bool) (kept, gone []*running[T]) {
	for _, r := range all {
		if keep(r.it) {
			kept = append(kept, r)
		} else {
			gone = append(gone, r)
		}
	}
	return kept, gone
}

// Reopen makes log files be opened anew, after they were rotated.
func (b *Bridge) Reopen() error {
	var err error
	for _, d := range b.now().deliveries {
		if r, ok := d.it.Sink.(sinks.Reopener); ok {
			if e := r.Reopen(); e != nil {
				err = errors.Join(err, fmt.Errorf("sink %s: %w", d.it.Cfg.Name, e))
			}
		}
	}
	return err
}

// Status returns a snapshot. It never asks an HMC or a sink.
func (b *Bridge) Status() status.Status {
	now := b.now()
	s := status.Status{
		Role: status.RoleLeader, Started: b.started.UTC(), Reasons: []status.Reason{},
		HMCs: []status.HMCStatus{}, Sinks: []status.SinkStatus{}, Removed: b.removedSinks(), Held: now.held(),
		Storage: status.StorageStatus{
			Path: b.opts.StoragePath, Bytes: b.queue.Size(), MaxBytes: int64(b.opts.Config.Storage.MaxBytes),
			RetainedBytes: b.queue.Retained(),
		},
	}
	if len(now.supervisors) == 0 {
		s.Reasons = append(s.Reasons, status.Reason{Reason: "the daemon is starting"})
	}
	for _, r := range now.supervisors {
		h := r.it.Snapshot()
		s.HMCs = append(s.HMCs, h)
		for _, p := range h.Problems {
			s.Reasons = append(s.Reasons, status.Reason{HMC: h.Name, Reason: p.Text})
		}
	}
	for _, r := range now.deliveries {
		k := r.it.Snapshot()
		s.Sinks = append(s.Sinks, k)
		if k.Stuck {
			s.Reasons = append(s.Reasons, status.Reason{Sink: k.Name, Reason: k.NotReady})
		}
	}
	if !b.leads() {
		s.Reasons = append(s.Reasons, status.Reason{
			Reason: "the NATS cluster has not confirmed for too long that this daemon leads: nothing is delivered",
		})
	}
	if err := b.queue.Err(); err != nil {
		s.Storage.Error = err.Error()
		s.Reasons = append(s.Reasons, status.Reason{Reason: "storage is not writable: " + err.Error()})
	}
	s.Ready = len(s.Reasons) == 0
	s.Troubles = s.StorageTroubles()
	return s
}

// Alive says which loop does not turn any more; nil when all do. The systemd watchdog is fed by it.
func (b *Bridge) Alive() error { return b.aliveAt(time.Now()) }

func (b *Bridge) aliveAt(at time.Time) error {
	now := b.now()
	for _, r := range now.supervisors {
		if !r.it.Alive(at, aliveWithin) {
			return fmt.Errorf("the loop of HMC %s has not moved for %s", r.it.Cfg.Name, aliveWithin)
		}
	}
	// A sink that hangs is no reason to start again: only its own events wait. A loop that has
	// to notice that is another matter.
	for _, r := range now.deliveries {
		if !r.it.Alive(at, aliveWithin) && !isClosed(r.done) {
			return fmt.Errorf("the loop of sink %s has not moved for %s", r.it.Cfg.Name, aliveWithin)
		}
	}
	return nil
}

func isClosed(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// watched are the supervisors that run.
func (b *Bridge) watched() (supervisors []*watch.Supervisor) {
	for _, r := range b.now().supervisors {
		supervisors = append(supervisors, r.it)
	}
	return supervisors
}
