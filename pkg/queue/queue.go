// Package queue is a durable queue of opaque records in a directory. Everybody who reads has a
// named cursor of its own: reading does not remove, acknowledging does, and what every cursor has
// acknowledged gives its space back, at once or after Options.Retain.
//
// What is promised:
//
//   - A record whose Batch.Done was called with nil is synced to disk. It is delivered to every
//     cursor that existed when it was appended, at least once and in the order of the sequence
//     numbers, after a kill -9 or a loss of power too.
//   - Records and the changes of the state that came with them are stored together or not at all.
//   - Sequence numbers begin at 1, are never used twice, and have no holes but for what damage to
//     the files has taken.
//   - A cursor never goes back. After a crash up to 100 ms of acknowledgements may be forgotten,
//     after a power loss about a second: those records come again.
//   - A full disk harms nothing that is stored, acknowledging goes on working, and appending works
//     again when there is space.
//   - Damage to a file costs what was in that file, or the damaged part of it, and never ends the
//     process. The file is set aside as NAME.damaged.
package queue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/datadir"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/deadletters"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/diskstore"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/storage"
)

// Defaults of Options.
const (
	DefaultMaxBytes     = 10 << 30
	DefaultSegmentBytes = 32 << 20
	DefaultWaitBytes    = 4 << 20
	DefaultCacheBytes   = 4 << 20
)

// MaxRecordBytes is the largest record that Append takes.
const MaxRecordBytes = 256 << 20

const (
	// flushInterval is how long an acknowledgement may wait to be written, syncInterval how
	// long for the disk: each sync of the cursors holds up a commit.
	flushInterval = 100 * time.Millisecond
	syncInterval  = time.Second
	// commitBytes is what one transaction holds at most, unless a single batch is larger: its
	// memory is needed twice.
	commitBytes = 4 << 20
	// retryInterval is the least time between two transactions while the disk refuses them.
	retryInterval = 100 * time.Millisecond
	// probeInterval is how often the disk is tried while it refuses and nothing is appended.
	probeInterval = time.Second
	// ownKeys begins the keys of the state that the queue itself has, and shows nobody.
	ownKeys  = "\x00"
	clockKey = ownKeys + "clock"
	rangeKey = ownKeys + "clocks"
	// retainEvery is how often it is looked, at most, for what is not to be kept any longer.
	retainEvery = time.Minute
)

// ErrClosed is returned by everything that needs a queue which is open.
var ErrClosed = deadletters.ErrClosed

// ErrLocked is what Open returns (wrapped) when somebody else uses the directory.
var ErrLocked = datadir.ErrLocked

// ErrTooLarge is returned by Append for a record above MaxRecordBytes.
var ErrTooLarge = errors.New("queue: record is too large")

// Unlimited is an Options.MaxBytes that no disk has.
const Unlimited = math.MaxInt64

// What a program needs that puts a store of its own around the one of a queue (Options.Wrap), by
// embedding that:
//
//	type failing struct{ queue.Store }
//
//	func (f failing) Commit(g *queue.Group) error {
//		if rand.IntN(3) == 0 {
//			return syscall.ENOSPC
//		}
//		return f.Store.Commit(g)
//	}
type (
	// Store is what a queue keeps its data in.
	Store = storage.Store
	// Group is what is stored in one transaction.
	Group = storage.Group
	// Start describes a segment that is to be begun.
	Start = storage.Start
	// Checkpoint is what is stored of all cursors.
	Checkpoint = storage.Checkpoint
)

// Options say where and how to store. Only Dir or Store is needed.
type Options struct {
	// Dir is made if it does not exist. It belongs to one Queue at a time.
	Dir string
	// Store is used in the place of a directory.
	Store Store
	// CommitInterval is how long records are gathered for one transaction. With 0 a transaction
	// takes what has arrived while the one before it was written, which is best for latency and
	// nearly best for throughput.
	CommitInterval time.Duration
	// MaxBytes bounds the files; beyond it the oldest segment goes, whoever still needs it. It
	// is kept to within a segment. Unlimited is no limit.
	MaxBytes int64
	// Retain is how long records are kept, from when they were appended, that every cursor has
	// acknowledged; they go a segment at a time, and sooner beyond MaxBytes or on a full disk.
	Retain time.Duration
	// SegmentBytes is the size of a file at which the next one begins. Space comes back, and
	// damage takes, a segment at a time.
	SegmentBytes int64
	// WaitBytes bounds what waits to be written; while it is reached, Append blocks.
	WaitBytes int64
	// CacheBytes is the memory for the newest records, which serves cursors that keep up.
	CacheBytes int64
	// OnDropped is told of records that a cursor will not get though they were stored, because
	// of MaxBytes or of damage. It may be called during Open, from any goroutine and from
	// several at a time. It must not block, nor call the Queue or a Cursor.
	OnDropped func(cursor string, events int)
	// Logger is used for changes of the storage's state, never per record.
	Logger *zap.Logger
	// Metrics may be nil.
	Metrics *Metrics
	// From, which may be nil, is an open queue that nobody uses, all of which is copied by Open
	// to one that is empty. Copied is told up to which record it is, 0 at first; an error ends it.
	// Records that cannot be read are missing in the copy, and told to the OnDropped of From.
	From   *Queue
	Copied func(record uint64) error
	// Wrap, which may be nil, is called once, by Open, with the store of the queue; what it
	// returns is used in its place.
	Wrap func(Store) Store

	// Of tests: nil for the system that there is.
	system datadir.System
}

func (o *Options) setDefaults() error {
	if o.Dir == "" && o.Store == nil {
		return errors.New("queue: no directory")
	}
	if min(o.CommitInterval, o.Retain) < 0 || min(o.MaxBytes, o.SegmentBytes, o.WaitBytes, o.CacheBytes) < 0 {
		return errors.New("queue: a size or time is negative")
	}
	o.MaxBytes = cmp.Or(o.MaxBytes, DefaultMaxBytes)
	o.WaitBytes = cmp.Or(o.WaitBytes, DefaultWaitBytes)
	o.CacheBytes = cmp.Or(o.CacheBytes, DefaultCacheBytes)
	// The limit can only be kept by removing whole segments, and not the one that is written
	// to.
	o.SegmentBytes = max(min(cmp.Or(o.SegmentBytes, DefaultSegmentBytes), o.MaxBytes/4, 1<<30), 64<<10)
	if o.OnDropped == nil {
		o.OnDropped = func(string, int) {}
	}
	o.Logger = cmp.Or(o.Logger, zap.NewNop())
	o.Metrics = cmp.Or(o.Metrics, NewMetrics(nil))
	return nil
}

// Queue is the open queue. Its methods may be called from any goroutine.
type Queue struct {
	opts    Options
	log     *zap.Logger
	metrics *Metrics
	store   Store

	// waitMu guards what waits for the committer.
	waitMu    sync.Mutex
	groups    []*group
	waitBytes int64
	// Closed, and replaced, when the list becomes shorter.
	space  chan struct{}
	spares storage.Spares
	// Holds one token when there may be a group.
	work chan struct{}
	// Holds one token when a group should not wait for CommitInterval.
	urgent chan struct{}

	clock clock
	stored
	committer

	// Held while a cursor is made or removed; taken before flushMu.
	nameMu sync.Mutex
	// Held while positions are stored; taken before mu.
	flushMu sync.Mutex
	// Holds one token when a cursor has moved.
	dirty chan struct{}

	// Closed by Close, first: nothing new is accepted.
	closing   chan struct{}
	closeOnce sync.Once
	closeErr  error
	loops     sync.WaitGroup
	dones     chan func()
}

// stored is the part of a Queue that is stored. mu guards it. It may be held when a Cursor's mu is
// taken, never the other way round.
type stored struct {
	mu sync.RWMutex
	// by base
	segments []*storage.Segment
	// Last sequence number that is stored.
	end uint64
	// the newest ones
	cache   []storage.Block
	cached  int64
	cursors map[string]*Cursor
	// Those of the Readers, and whether nothing may become too old before they have read it.
	readers   map[*Cursor]bool
	state     map[string]string
	commitErr error
	cursorErr error
	// Bytes of the store besides the segments.
	besides int64
}

// committer is what the committer uses.
type committer struct {
	// Set by a cursor that cannot read the active segment: it is set aside before the next
	// commit.
	condemned atomic.Pointer[storage.Segment]

	// The positions could not be stored since the start: nothing is until they are.
	unsaved bool
	// Takes the next group; nil until one is begun.
	active *storage.Segment
	// Its size when it was begun.
	initial int64

	// When the last transaction failed, and its bytes.
	failed   time.Time
	failSize int64
	rollTry  time.Time
}

// Open opens the queue in a directory, or makes it. It fails with ErrLocked if the directory is in
// use, and for a directory that cannot be used at all. Damaged files are set aside and a full disk
// only shows in Err: neither keeps it from opening.
func Open(opts Options) (_ *Queue, err error) {
	if err := opts.setDefaults(); err != nil {
		return nil, err
	}
	store := opts.Store
	if store == nil {
		store, err = diskstore.Open(diskstore.Options{
			Dir: opts.Dir, Logger: opts.Logger, Metrics: opts.Metrics, System: opts.system,
		})
		if err != nil {
			return nil, fmt.Errorf("queue: %w", err)
		}
	}
	q := &Queue{
		opts: opts, log: opts.Logger, metrics: opts.Metrics, store: store,
		space: make(chan struct{}), closing: make(chan struct{}), dones: make(chan func(), 16),
		work: make(chan struct{}, 1), urgent: make(chan struct{}, 1), dirty: make(chan struct{}, 1),
	}
	if opts.Wrap != nil {
		q.store = opts.Wrap(store)
	}
	if err := q.load(); err != nil {
		_ = q.store.Close() // the error in hand is the one that counts
		return nil, fmt.Errorf("queue: open: %w", err)
	}
	if opts.MaxBytes != Unlimited {
		q.metrics.maxBytes.Set(float64(opts.MaxBytes))
	}
	q.loops.Go(q.commitLoop)
	q.loops.Go(q.doneLoop)
	q.loops.Go(q.flushLoop)
	return q, nil
}

// load takes over what is stored and begins a new segment.
func (q *Queue) load() error {
	l, err := q.store.Load()
	if err != nil {
		return err
	}
	q.segments, q.state, q.end, q.besides = l.Segments, l.State, l.End, l.Size
	q.cursors, q.readers = make(map[string]*Cursor, len(l.Cursors)), make(map[*Cursor]bool)
	for name, p := range l.Cursors {
		q.cursors[name] = newCursor(q, name, p)
	}
	q.clock.start(q.state[clockKey], q.segments)
	for _, gone := range l.Lost {
		q.skip(gone.First, gone.Last)
	}
	if q.opts.From != nil {
		err = q.copyFrom(q.opts.From, q.opts.Copied)
	} else if _, half := q.state[movingKey]; half {
		err = ErrHalfCopied
	}
	if err != nil {
		return err
	}
	if err := q.start(); err != nil {
		if !datadir.IsNoSpace(err) || q.opts.From != nil {
			return err
		}
		q.result(err, 0)
	}
	q.removeDone()
	for _, c := range q.cursors {
		c.loadHint()
	}
	return nil
}

// start stores the positions, with how far the sequence went, and begins a segment. In this order:
// where there is a segment and no positions, these are lost. A copy has no positions until it is
// complete, with its last segment.
func (q *Queue) start() error {
	steps := []func() error{q.savePositions, q.begin}
	if q.opts.From != nil {
		slices.Reverse(steps)
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// savePositions stores the positions for the first time since the start.
func (q *Queue) savePositions() error {
	err := q.flushPositions(true)
	q.unsaved = err != nil
	return err
}

// State returns the value of a key as it is stored, and whether it is set. A change is seen when
// its batch is stored, before the batch's Done is called with nil. What waits or was refused is
// never seen: when the Done of each batch that sets a key has been called, the value is that of the
// last one that got nil. It does not read the disk.
func (q *Queue) State(key string) ([]byte, bool) {
	q.mu.RLock()
	defer q.mu.RUnlock()
	v, ok := q.state[key]
	return []byte(v), ok
}

// StateRange calls fn for the keys that begin with prefix, in order, until it returns false. It
// sees what State sees at the moment of the call: all the changes of a batch or none of them.
func (q *Queue) StateRange(prefix string, fn func(key string, value []byte) bool) {
	var pairs [][2]string
	q.mu.RLock()
	for k, v := range q.state {
		if strings.HasPrefix(k, prefix) && !strings.HasPrefix(k, ownKeys) {
			pairs = append(pairs, [2]string{k, v})
		}
	}
	q.mu.RUnlock()
	slices.SortFunc(pairs, func(a, b [2]string) int { return cmp.Compare(a[0], b[0]) })
	for _, p := range pairs {
		if !fn(p[0], []byte(p[1])) {
			return
		}
	}
}

// PutState sets keys, nil removes one, and waits until that is stored.
func (q *Queue) PutState(ctx context.Context, values map[string][]byte) error {
	if len(values) == 0 {
		return nil
	}
	done := make(chan error, 1)
	batch := Batch{Done: func(err error) { done <- err }}
	for _, key := range slices.Sorted(maps.Keys(values)) {
		batch.State = append(batch.State, KeyValue{Key: key, Value: values[key]})
	}
	if err := q.Append(ctx, batch); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case err := <-done:
		return err
	}
}

// Cursor returns the cursor of that name. A new one begins behind the last record that is stored.
func (q *Queue) Cursor(name string) (*Cursor, error) { return q.CursorFrom(name, math.MaxUint64) }

// CursorFrom returns the cursor of that name. A new one begins with record first, or with the first
// one after it that is stored.
func (q *Queue) CursorFrom(name string, first uint64) (*Cursor, error) {
	if name == "" {
		return nil, errors.New("queue: cursor without a name")
	}
	if q.isClosing() {
		return nil, ErrClosed
	}
	q.nameMu.Lock()
	defer q.nameMu.Unlock()
	if c := q.Lookup(name); c != nil {
		return c, nil
	}
	p, err := q.placeOf(first)
	if err != nil {
		return nil, fmt.Errorf("queue: new cursor %s: %w", name, err)
	}
	q.mu.Lock()
	if p.Segment == 0 {
		p.Acked = q.end
		if n := len(q.segments); n > 0 {
			p.Segment, p.Bytes = q.segments[n-1].Base, q.segments[n-1].Bytes
		}
	}
	c := newCursor(q, name, p)
	q.cursors[name] = c
	q.mu.Unlock()
	// Not later, as with positions: what is appended from now on belongs to this cursor,
	// whatever happens.
	if err := q.flushPositions(true); err != nil {
		q.forget(name)
		return nil, fmt.Errorf("queue: new cursor %s: %w", name, err)
	}
	return c, nil
}

// Cursors returns the names of all cursors, also of those that nobody has asked for since the
// start, in order.
func (q *Queue) Cursors() []string {
	q.mu.RLock()
	defer q.mu.RUnlock()
	return slices.Sorted(maps.Keys(q.cursors))
}

// Lookup returns the cursor of that name, nil if there is none. Unlike Cursor it makes none.
func (q *Queue) Lookup(name string) *Cursor {
	q.mu.RLock()
	defer q.mu.RUnlock()
	return q.cursors[name]
}

// RemoveCursor removes a cursor and with it the claim to what it has not acknowledged. Its Next
// returns ErrClosed. A name that does not exist is no error.
func (q *Queue) RemoveCursor(name string) error {
	if q.isClosing() {
		return ErrClosed
	}
	q.nameMu.Lock()
	defer q.nameMu.Unlock()
	if !q.forget(name) {
		return nil
	}
	notify(q.dirty) // for the segments that it has held
	if err := q.flushPositions(true); err != nil {
		return fmt.Errorf("queue: remove cursor %s: %w", name, err)
	}
	return nil
}

// forget ends a cursor, and tells whether there was one.
func (q *Queue) forget(name string) bool {
	q.mu.Lock()
	c := q.cursors[name]
	delete(q.cursors, name)
	q.mu.Unlock()
	if c != nil {
		c.remove()
	}
	return c != nil
}

// Size returns the bytes of the queue's files that are in use.
func (q *Queue) Size() int64 {
	q.mu.RLock()
	defer q.mu.RUnlock()
	return q.size()
}

// size adds up what is stored. q.mu is held.
func (q *Queue) size() int64 {
	total := q.besides
	for _, s := range q.segments {
		total += s.Size
	}
	return total
}

// Retained returns those of Size that are only retained: nobody waits for them.
func (q *Queue) Retained() int64 {
	q.mu.RLock()
	defer q.mu.RUnlock()
	return q.retained()
}

// retained adds up what every cursor has passed. q.mu is held.
func (q *Queue) retained() (total int64) {
	if q.opts.Retain == 0 {
		return 0 // it goes at once
	}
	needed := q.needed()
	for i, s := range q.segments {
		if i+1 < len(q.segments) && s.Last <= needed {
			total += s.Size
		}
	}
	return total
}

// Err returns why the last write failed, nil when it succeeded. While it is not nil the disk is
// tried every second.
func (q *Queue) Err() error {
	q.mu.RLock()
	defer q.mu.RUnlock()
	return cmp.Or(q.commitErr, q.cursorErr)
}

// Close stores what was accepted, and the positions of the cursors, and releases the directory.
// Every Done has been called when it returns. Calls after the first wait for it and return the
// same.
func (q *Queue) Close() error {
	q.closeOnce.Do(func() {
		q.waitMu.Lock() // no Append is half-way
		close(q.closing)
		q.waitMu.Unlock()
		q.loops.Wait()
		// After the last commit: how far the queue goes is stored with the positions, and
		// tells later what damage has taken.
		if err := q.flushPositions(true); err != nil {
			q.log.Error("cursors were not stored at the end", zap.Error(err))
		}
		q.closeErr = q.store.Close()
	})
	return q.closeErr
}

func (q *Queue) isClosing() bool {
	select {
	case <-q.closing:
		return true
	default:
		return false
	}
}

// Flush waits until everything that was appended before is stored, or has failed, and returns Err.
func (q *Queue) Flush() error {
	done := make(chan struct{})
	if err := q.Append(context.Background(), Batch{Done: func(error) { close(done) }}); err != nil {
		return err
	}
	<-done
	return q.Err()
}
