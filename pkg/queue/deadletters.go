package queue

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/appendlog"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/boltfile"
)

// DefaultDeadLetterBytes is the default of DeadLetterOptions.MaxBytes.
const DefaultDeadLetterBytes = 1 << 30

// ErrNotFound is returned for a dead letter that does not exist.
var ErrNotFound = errors.New("queue: no such dead letter")

// DeadLetter is a record that a sink has refused for good.
type DeadLetter struct {
	// ID is given by Put: 16 hexadecimal digits. IDs are unique and sort by the time of Put.
	ID string
	// Sink is the name of the sink that has refused.
	Sink string
	// Time is when it refused. Put takes the present time for zero.
	Time time.Time
	// Status is the status code of its answer, 0 if there was none.
	Status int
	// Reason says why, in words.
	Reason string
	// Request sums up what was sent.
	Request string
	// EventID and EventType name the event that the record is; Summary says in a line what it
	// is about.
	EventID, EventType, Summary string
	// Data is the record. List leaves it out.
	Data []byte
	// Size is the number of bytes of Data. Put sets it.
	Size int
}

// DeadLetterOptions say where dead letters are kept.
type DeadLetterOptions struct {
	// Dir is the directory of a Queue, which must be open: the lock is taken there.
	Dir string
	// MaxBytes bounds the data that is kept; beyond it the oldest go, of the sink that has the
	// most of it.
	MaxBytes int64
	// OnDropped is told of letters that went because of MaxBytes, from any goroutine. It must
	// not block.
	OnDropped func(sink string, letters int)
	Logger    *zap.Logger
	Metrics   *Metrics

	// Of tests: nil for the system that there is.
	system appendlog.System
}

// DeadLetterFilter selects dead letters. Its zero value selects all.
type DeadLetterFilter struct {
	// "" for all
	Sink string
	// IDs of letters or of their events; none for all.
	IDs []string
	// by DeadLetter.Time
	Since time.Time
	// The ID of the letter behind which to begin; "" for the oldest. It need not exist any
	// more.
	After string
	// The ID of the last letter; "" for the newest.
	Until string
	// 0 for all
	Limit int
}

// Letters are the dead letters, wherever they are kept. The methods are those of DeadLetters.
type Letters interface {
	Put(letters ...DeadLetter) error
	List(filter DeadLetterFilter) ([]DeadLetter, error)
	Matching(filter DeadLetterFilter) (map[string]int, error)
	Last() string
	Get(id string) (DeadLetter, error)
	Update(l DeadLetter) error
	Delete(ids ...string) (int, error)
	Purge(filter DeadLetterFilter) (int, error)
	Count(sink string) int
	Sinks() []string
	Bytes() int64
	Close() error
}

// DeadLetters keeps what sinks have refused for good, until somebody looks at it. Its methods may
// be called from any goroutine. Each change is synced to disk when the method returns.
type DeadLetters struct {
	opts DeadLetterOptions
	reporter
	path string

	mu sync.Mutex
	// Nil when it could not be opened: the next call tries again. A class is a sink, a number
	// an id.
	table  *appendlog.Table
	closed bool
}

// The layout of the letters, and that of a version that did not keep the summary.
const letterVersion, letterWithoutSummary = 4, 3

// OpenDeadLetters opens the dead letters of a directory. A damaged file is set aside and a new one
// begun. If the disk is full it opens all the same, and the file is made when there is space.
func OpenDeadLetters(opts DeadLetterOptions) (*DeadLetters, error) {
	if opts.Dir == "" {
		return nil, errors.New("queue: dead letters: no directory")
	}
	if opts.MaxBytes <= 0 {
		opts.MaxBytes = DefaultDeadLetterBytes
	}
	if opts.OnDropped == nil {
		opts.OnDropped = func(string, int) {}
	}
	opts.Logger = cmp.Or(opts.Logger, zap.NewNop())
	opts.Metrics = cmp.Or(opts.Metrics, NewMetrics(nil))
	opts.system = cmp.Or(opts.system, appendlog.Disk)
	d := &DeadLetters{
		opts: opts, path: filepath.Join(opts.Dir, deadName),
		reporter: reporter{opts.Logger, opts.Metrics, "dead letters are damaged"},
	}
	if err := d.open(); err != nil {
		if !boltfile.IsNoSpace(err) {
			return nil, fmt.Errorf("queue: dead letters: %w", err)
		}
		d.log.Error("dead letters cannot be kept at the moment", zap.Error(err))
	}
	return d, nil
}

// open opens the file, or makes it.
func (d *DeadLetters) open() (err error) {
	if err := d.takeOver(); err != nil {
		return err
	}
	options := appendlog.TableOptions{
		System: d.opts.system, Path: d.path,
		Describe: func(id uint64, shown []byte) (sink string, cost int64, err error) {
			l, err := decodeLetter(sequenceKey(id), shown)
			return l.Sink, l.Cost(), err
		},
		Damaged: func(err error) { d.damaged(boltfile.Damaged(d.path, err)) },
		Failed: func(err error) {
			d.log.Warn("the file of the dead letters could not be made smaller", zap.Error(err))
		},
	}
	table, err := appendlog.OpenTable(options)
	if errors.Is(err, appendlog.ErrUnreadable) {
		if err := d.setAside(d.path, boltfile.Damaged(d.path, err)); err != nil {
			return err
		}
		table, err = appendlog.OpenTable(options)
	}
	if err != nil {
		return err
	}
	d.table = table
	d.account()
	return nil
}

// account shows how much there is.
func (d *DeadLetters) account() {
	if d.table != nil {
		_, bytes := d.table.Costs()
		d.metrics.deadBytes.Set(float64(bytes))
	}
}

// use runs fn with the open file.
func (d *DeadLetters) use(what string, fn func() error) (err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return ErrClosed
	}
	if d.table != nil {
		if err := d.table.Whole(); err != nil {
			d.damaged(boltfile.Damaged(d.path, err))
			_ = d.table.Close() // it is not used any more
			d.table = nil
		}
	}
	if d.table == nil {
		err = d.open()
	}
	if err == nil {
		err = fn()
		d.account()
	}
	if err != nil && !errors.Is(err, ErrNotFound) {
		return fmt.Errorf("queue: dead letters: %s: %w", what, err)
	}
	return err
}

// shown reads what List shows of a letter.
func (d *DeadLetters) shown(e *appendlog.Entry) (DeadLetter, error) {
	b, err := d.table.Shown(e)
	if err != nil {
		return DeadLetter{}, fmt.Errorf("%s: %w", letterID(e.Number), err)
	}
	return decodeLetter(sequenceKey(e.Number), b)
}

// Cost is what a letter counts for against MaxBytes.
func (l *DeadLetter) Cost() int64 {
	return int64(64 + l.Size + len(l.Sink) + len(l.Reason) + len(l.Request) + len(l.EventID) + len(l.EventType) +
		len(l.Summary))
}

// Put keeps letters, all of them or none, and gives them IDs.
func (d *DeadLetters) Put(letters ...DeadLetter) error {
	if len(letters) == 0 {
		return nil
	}
	var dropped map[string]int
	err := d.use("put", func() error {
		last := d.table.Last()
		var added []appendlog.Addition
		for _, l := range letters {
			now := time.Now()
			last = max(last+1, uint64(now.UnixNano()))
			l.Size = len(l.Data)
			l.Time = cmp.Or(l.Time, now)
			added = append(added, appendlog.Addition{
				Class: l.Sink, Number: last, Cost: l.Cost(), Shown: encodeLetter(sequenceKey(last), &l), Data: l.Data,
			})
		}
		var gone []uint64
		gone, dropped = d.makeRoom(added)
		return d.table.Add(added, gone)
	})
	if err != nil {
		return err
	}
	for sink, n := range dropped {
		d.metrics.deadDropped.Add(float64(n))
		d.opts.OnDropped(sink, n)
	}
	return nil
}

// makeRoom returns the letters that have to go when some are added, until no more than MaxBytes are
// left: the oldest of the sink that has the most, so that one which refuses everything takes
// nothing from the others. dropped is how many they are of each sink.
func (d *DeadLetters) makeRoom(added []appendlog.Addition) (gone []uint64, dropped map[string]int) {
	sizes, total := d.table.Costs()
	dropped = map[string]int{}
	for i := range added {
		sizes[added[i].Class] += added[i].Cost
		total += added[i].Cost
	}
	for total > d.opts.MaxBytes && len(sizes) > 0 {
		sink := slices.MaxFunc(slices.Sorted(maps.Keys(sizes)), func(x, y string) int {
			return cmp.Compare(sizes[x], sizes[y])
		})
		var id uint64
		var cost int64
		if kept, n := d.table.Class(sink), dropped[sink]; n < len(kept) {
			id, cost = kept[n].Number, kept[n].Cost
		} else {
			n -= len(kept)
			i := slices.IndexFunc(added, func(a appendlog.Addition) bool {
				n -= map[bool]int{true: 1}[a.Class == sink]
				return n < 0
			})
			if i < 0 {
				delete(sizes, sink)
				continue
			}
			id, cost = added[i].Number, added[i].Cost
		}
		gone = append(gone, id)
		dropped[sink]++
		sizes[sink] -= cost
		total -= cost
	}
	return gone, dropped
}

// scan calls fn for each letter that the filter selects, in order, until it returns false.
func (d *DeadLetters) scan(what string, f DeadLetterFilter, fn func(l *DeadLetter) bool) error {
	after, err := letterKey(cmp.Or(f.After, letterID(0)))
	if err != nil {
		return err
	}
	until, err := letterKey(cmp.Or(f.Until, letterID(math.MaxUint64)))
	if err != nil {
		return err
	}
	ids := make(map[string]bool, len(f.IDs))
	for _, id := range f.IDs {
		ids[id] = true
	}
	return d.use(what, func() error {
		var unreadable []uint64
		d.table.Each(f.Sink, big.Uint64(after), big.Uint64(until), func(e *appendlog.Entry) bool {
			l, err := d.shown(e)
			if err != nil {
				unreadable = append(unreadable, e.Number)
				return true
			}
			wanted := !l.Time.Before(f.Since) && (len(ids) == 0 || ids[l.ID] || ids[l.EventID])
			return !wanted || fn(&l)
		})
		d.table.Forget(unreadable)
		return nil
	})
}

// List returns the letters that the filter selects, oldest first, without their Data.
func (d *DeadLetters) List(filter DeadLetterFilter) (letters []DeadLetter, err error) {
	err = d.scan("list", filter, func(l *DeadLetter) bool {
		letters = append(letters, *l)
		return filter.Limit <= 0 || len(letters) < filter.Limit
	})
	if err != nil {
		return nil, err
	}
	return letters, nil
}

// Matching returns how many letters of each sink the filter selects, whatever its Limit.
func (d *DeadLetters) Matching(filter DeadLetterFilter) (map[string]int, error) {
	count := map[string]int{}
	err := d.scan("count", filter, func(l *DeadLetter) bool {
		count[l.Sink]++
		return true
	})
	if err != nil {
		return nil, err
	}
	return count, nil
}

// Last returns the ID of the newest letter there has been, as far as is known: what Put keeps from
// now on has a greater one. It is "" if there has been none.
func (d *DeadLetters) Last() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.table == nil || d.table.Last() == 0 {
		return ""
	}
	return letterID(d.table.Last())
}

// lookup returns a letter without its Data.
func (d *DeadLetters) lookup(key []byte) (*appendlog.Entry, DeadLetter, error) {
	_, e := d.table.Find(big.Uint64(key))
	if e == nil {
		return nil, DeadLetter{}, fmt.Errorf("%w: %s", ErrNotFound, letterID(big.Uint64(key)))
	}
	l, err := d.shown(e)
	return e, l, err
}

// Get returns one letter with its Data, or ErrNotFound.
func (d *DeadLetters) Get(id string) (l DeadLetter, err error) {
	key, err := letterKey(id)
	if err != nil {
		return l, err
	}
	err = d.use("get", func() error {
		e, letter, err := d.lookup(key)
		if err != nil {
			return err
		}
		data, err := d.table.Data(e)
		if err != nil {
			return fmt.Errorf("the record of %s is damaged: %w", id, err)
		}
		l, l.Data = letter, data
		return nil
	})
	return l, err
}

// Update notes that a letter was refused once more: it gets the Time, Status, Reason and Request of
// l. Everything else stays as it is. It returns ErrNotFound if the letter is gone.
func (d *DeadLetters) Update(l DeadLetter) error {
	key, err := letterKey(l.ID)
	if err != nil {
		return err
	}
	return d.use("update", func() error {
		e, kept, err := d.lookup(key)
		if err != nil {
			return err
		}
		kept.Time, kept.Status, kept.Reason, kept.Request = l.Time, l.Status, l.Reason, l.Request
		return d.table.Change(e.Number, encodeLetter(key, &kept), kept.Cost())
	})
}

// Delete removes letters and returns how many there were of them.
func (d *DeadLetters) Delete(ids ...string) (n int, err error) {
	var numbers []uint64
	for _, id := range ids {
		if key, err := letterKey(id); err == nil { // else no letter can have that name
			numbers = append(numbers, big.Uint64(key))
		}
	}
	err = d.use("delete", func() (err error) {
		n, err = d.table.Remove(numbers)
		return err
	})
	return n, err
}

// PurgeAtOnce is how many letters Purge removes in one transaction, in which nothing else can
// happen.
const PurgeAtOnce = 1000

// Purge removes the letters that the filter selects, whatever its Limit, and returns how many.
// Letters that are put while it works stay. After an error those it has counted are gone.
func (d *DeadLetters) Purge(filter DeadLetterFilter) (purged int, err error) {
	if filter.Until == "" {
		if filter.Until = d.Last(); filter.Until == "" {
			return 0, nil
		}
	}
	filter.Limit = PurgeAtOnce
	for {
		letters, err := d.List(filter)
		if err != nil || len(letters) == 0 {
			return purged, err
		}
		ids := make([]string, len(letters))
		for i := range letters {
			ids[i] = letters[i].ID
		}
		n, err := d.Delete(ids...)
		purged += n
		if err != nil {
			return purged, err
		}
		filter.After = ids[len(ids)-1]
	}
}

// Count returns how many letters of a sink there are. It does not read the disk.
func (d *DeadLetters) Count(sink string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.table == nil {
		return 0
	}
	return len(d.table.Class(sink))
}

// Sinks returns the names of the sinks that have letters, in order.
func (d *DeadLetters) Sinks() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.table == nil {
		return nil
	}
	sizes, _ := d.table.Costs()
	return slices.Sorted(maps.Keys(sizes))
}

// Bytes returns what all letters count for against MaxBytes.
func (d *DeadLetters) Bytes() (all int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.table != nil {
		_, all = d.table.Costs()
	}
	return all
}

// Close closes the file.
func (d *DeadLetters) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	closed := d.closed
	d.closed = true
	if closed || d.table == nil {
		return nil
	}
	return d.table.Close()
}

// Encode returns all of the letter but its Data, for a store of another package.
func (l *DeadLetter) Encode() ([]byte, error) {
	key, err := letterKey(l.ID)
	return encodeLetter(key, l), err
}

// DecodeDeadLetter reads what Encode has returned.
func DecodeDeadLetter(id string, b []byte) (DeadLetter, error) {
	key, err := letterKey(id)
	if err != nil {
		return DeadLetter{}, err
	}
	return decodeLetter(key, b)
}

func letterID(n uint64) string { return fmt.Sprintf("%016x", n) }

func letterKey(id string) ([]byte, error) {
	n, err := strconv.ParseUint(id, 16, 64)
	if err != nil || len(id) != 16 {
		return nil, fmt.Errorf("%w: %q", ErrNotFound, id)
	}
	return sequenceKey(n), nil
}

func encodeLetter(key []byte, l *DeadLetter) []byte {
	b := []byte{letterVersion}
	b = big.AppendUint64(b, uint64(l.Time.UnixNano()))
	b = big.AppendUint32(b, uint32(int32(min(l.Status, 1<<30))))
	b = big.AppendUint32(b, uint32(l.Size))
	for _, s := range []string{l.Sink, l.Reason, l.Request, l.EventID, l.EventType, l.Summary} {
		b = appendSized(b, s)
	}
	return appendCRC(b, key...)
}

var errLetter = errors.New("a letter is unreadable")

func decodeLetter(key, b []byte) (DeadLetter, error) {
	b, ok := cutCRC(b, key...)
	if !ok || len(key) != 8 || len(b) < 17 {
		return DeadLetter{}, errLetter
	}
	version := b[0]
	if version != letterVersion && version != letterWithoutSummary {
		return DeadLetter{}, fmt.Errorf("%w: its layout is %d", errLetter, version)
	}
	l := DeadLetter{
		ID:     letterID(big.Uint64(key)),
		Time:   time.Unix(0, int64(big.Uint64(b[1:]))),
		Status: int(int32(big.Uint32(b[9:]))),
		Size:   int(big.Uint32(b[13:])),
	}
	b = b[17:]
	fields := []*string{&l.Sink, &l.Reason, &l.Request, &l.EventID, &l.EventType, &l.Summary}
	if version == letterWithoutSummary {
		fields = fields[:5]
	}
	for _, field := range fields {
		v, rest, ok := cutSized(b)
		if !ok {
			return DeadLetter{}, errLetter
		}
		*field, b = string(v), rest
	}
	return l, nil
}
