// Package deadletters keeps what sinks have refused for good, until somebody looks at it: a table
// of pkg/appendlog in a directory.
package deadletters

import (
	"cmp"
	"encoding/binary"
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
	"github.com/hmcnotifyd/hmcnotifyd/pkg/datadir"
)

// FileName is the file in the directory.
const FileName = "dead-letters.log"

// DefaultBytes is the default of Options.MaxBytes.
const DefaultBytes = 1 << 30

// ErrClosed is returned by what is used after its Close.
var ErrClosed = errors.New("queue: closed")

// ErrNotFound is returned for a dead letter that does not exist.
var ErrNotFound = errors.New("queue: no such dead letter")

// Letter is a record that a sink has refused for good.
type Letter struct {
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

// Options say where dead letters are kept.
type Options struct {
	// Dir is the directory of a Queue, which must be open: the lock is taken there.
	Dir string
	// MaxBytes bounds the data that is kept; beyond it the oldest go, of the sink that has the
	// most of it.
	MaxBytes int64
	// OnDropped is told of letters that went because of MaxBytes, from any goroutine. It must
	// not block.
	OnDropped func(sink string, letters int)
	Logger    *zap.Logger
	// Metrics may be nil.
	Metrics Metrics

	// System is what tests have in the place of the one that there is.
	System datadir.System
}

// Metrics are told of what is kept. Those of a queue are such.
type Metrics interface {
	// DeadLetters says how many bytes are kept, and that so many letters more have gone because
	// of the limit.
	DeadLetters(bytes int64, dropped int)
	// Damaged says that a file was found damaged, as a whole or in part.
	Damaged()
}

// NoMetrics are Metrics that count for nobody.
type NoMetrics struct{}

// DeadLetters is the one of Metrics.
func (NoMetrics) DeadLetters(int64, int) {}

// Damaged is the one of Metrics.
func (NoMetrics) Damaged() {}

// Filter selects dead letters. Its zero value selects all.
type Filter struct {
	// "" for all
	Sink string
	// IDs of letters or of their events; none for all.
	IDs []string
	// by Letter.Time
	Since time.Time
	// The ID of the letter behind which to begin; "" for the oldest. It need not exist any
	// more.
	After string
	// The ID of the last letter; "" for the newest.
	Until string
	// 0 for all
	Limit int
}

// Letters are the dead letters, wherever they are kept. The methods are those of File.
type Letters interface {
	Put(letters ...Letter) error
	List(filter Filter) ([]Letter, error)
	Matching(filter Filter) (map[string]int, error)
	Last() string
	Get(id string) (Letter, error)
	Update(l Letter) error
	Delete(ids ...string) (int, error)
	Count(sink string) int
	Sinks() []string
	Bytes() int64
	Close() error
}

// File keeps what sinks have refused for good, until somebody looks at it. Its methods may
// be called from any goroutine. Each change is synced to disk when the method returns.
type File struct {
	opts Options
	log  *zap.Logger
	path string

	mu sync.Mutex
	// Nil when it could not be opened: the next call tries again. A class is a sink, a number
	// an id.
	table  *appendlog.Table
	closed bool
}

// big is the byte order of all that is stored.
var big = binary.BigEndian

// The layout of the letters, and that of a version that did not keep the summary.
const letterVersion, letterWithoutSummary = 4, 3

// Open opens the dead letters of a directory. A damaged file is set aside and a new one
// begun. If the disk is full it opens all the same, and the file is made when there is space.
func Open(opts Options) (*File, error) {
	if opts.Dir == "" {
		return nil, errors.New("dead letters: no directory")
	}
	if opts.MaxBytes <= 0 {
		opts.MaxBytes = DefaultBytes
	}
	if opts.OnDropped == nil {
		opts.OnDropped = func(string, int) {}
	}
	opts.Logger = cmp.Or(opts.Logger, zap.NewNop())
	if opts.Metrics == nil {
		opts.Metrics = NoMetrics{}
	}
	opts.System = cmp.Or(opts.System, datadir.Disk)
	d := &File{
		opts: opts, path: filepath.Join(opts.Dir, FileName),
		log: opts.Logger,
	}
	if err := d.open(); err != nil {
		if !datadir.IsNoSpace(err) {
			return nil, fmt.Errorf("dead letters: %w", err)
		}
		d.log.Error("dead letters cannot be kept at the moment", zap.Error(err))
	}
	return d, nil
}

// open opens the file, or makes it.
func (d *File) open() (err error) {
	if err := d.takeOver(); err != nil {
		return err
	}
	options := appendlog.TableOptions{
		System: d.opts.System, Path: d.path,
		Describe: func(id uint64, shown []byte) (sink string, cost int64, err error) {
			l, err := decodeLetter(sequenceKey(id), shown)
			return l.Sink, l.Cost(), err
		},
		Damaged: func(err error) { d.damaged(datadir.Damaged(d.path, err)) },
		Failed: func(err error) {
			d.log.Warn("the file of the dead letters could not be made smaller", zap.Error(err))
		},
	}
	table, err := appendlog.OpenTable(options)
	if errors.Is(err, appendlog.ErrUnreadable) {
		if err := d.setAside(d.path, datadir.Damaged(d.path, err)); err != nil {
			return err
		}
		table, err = appendlog.OpenTable(options)
	}
	if err != nil {
		return err
	}
	d.table = table
	d.opts.Metrics.DeadLetters(d.bytes(), 0)
	return nil
}

// bytes is what all letters count for; d.mu is held.
func (d *File) bytes() (all int64) {
	if d.table != nil {
		_, all = d.table.Costs()
	}
	return all
}

// damaged reports damage.
func (d *File) damaged(err error) {
	d.opts.Metrics.Damaged()
	d.log.Error("dead letters are damaged", zap.Error(err))
}

// setAside keeps a damaged file under another name.
func (d *File) setAside(path string, damage error) error {
	d.damaged(damage)
	target, err := datadir.SetAside(path)
	if target != "" {
		d.log.Warn("damaged file was set aside", zap.String("file", target))
	}
	return err
}

// use runs fn with the open file.
func (d *File) use(what string, fn func() error) (err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return ErrClosed
	}
	if d.table != nil {
		if err := d.table.Whole(); err != nil {
			d.damaged(datadir.Damaged(d.path, err))
			_ = d.table.Close() // it is not used any more
			d.table = nil
		}
	}
	if d.table == nil {
		err = d.open()
	}
	if err == nil {
		err = fn()
		d.opts.Metrics.DeadLetters(d.bytes(), 0)
	}
	if err != nil && !errors.Is(err, ErrNotFound) {
		return fmt.Errorf("dead letters: %s: %w", what, err)
	}
	return err
}

// shown reads what List shows of a letter.
func (d *File) shown(e *appendlog.Entry) (Letter, error) {
	b, err := d.table.Shown(e)
	if err != nil {
		return Letter{}, fmt.Errorf("%s: %w", letterID(e.Number), err)
	}
	return decodeLetter(sequenceKey(e.Number), b)
}

// Cost is what a letter counts for against MaxBytes.
func (l *Letter) Cost() int64 {
	return int64(64 + l.Size + len(l.Sink) + len(l.Reason) + len(l.Request) + len(l.EventID) + len(l.EventType) +
		len(l.Summary))
}

// Put keeps letters, all of them or none, and gives them IDs.
func (d *File) Put(letters ...Letter) error {
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
		if err := d.table.Add(added, gone); err != nil {
			return err
		}
		d.opts.Metrics.DeadLetters(d.bytes(), len(gone))
		return nil
	})
	if err != nil {
		return err
	}
	for sink, n := range dropped {
		d.opts.OnDropped(sink, n)
	}
	return nil
}

// makeRoom returns the letters that have to go when some are added, until no more than MaxBytes are
// left: the oldest of the sink that has the most, so that one which refuses everything takes
// nothing from the others. dropped is how many they are of each sink.
func (d *File) makeRoom(added []appendlog.Addition) (gone []uint64, dropped map[string]int) {
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
func (d *File) scan(what string, f Filter, fn func(l *Letter) bool) error {
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
func (d *File) List(filter Filter) (letters []Letter, err error) {
	err = d.scan("list", filter, func(l *Letter) bool {
		letters = append(letters, *l)
		return filter.Limit <= 0 || len(letters) < filter.Limit
	})
	if err != nil {
		return nil, err
	}
	return letters, nil
}

// Matching returns how many letters of each sink the filter selects, whatever its Limit.
func (d *File) Matching(filter Filter) (map[string]int, error) {
	count := map[string]int{}
	err := d.scan("count", filter, func(l *Letter) bool {
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
func (d *File) Last() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.table == nil || d.table.Last() == 0 {
		return ""
	}
	return letterID(d.table.Last())
}

// lookup returns a letter without its Data.
func (d *File) lookup(key []byte) (*appendlog.Entry, Letter, error) {
	_, e := d.table.Find(big.Uint64(key))
	if e == nil {
		return nil, Letter{}, fmt.Errorf("%w: %s", ErrNotFound, letterID(big.Uint64(key)))
	}
	l, err := d.shown(e)
	return e, l, err
}

// Get returns one letter with its Data, or ErrNotFound.
func (d *File) Get(id string) (l Letter, err error) {
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
func (d *File) Update(l Letter) error {
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
func (d *File) Delete(ids ...string) (n int, err error) {
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

// purgeAtOnce is how many letters Purge removes in one transaction, in which nothing else can
// happen.
const purgeAtOnce = 1000

// Purge removes the letters that the filter selects, whatever its Limit, and returns how many.
// Letters that are put while it works stay. After an error those it has counted are gone.
func Purge(l Letters, filter Filter) (purged int, err error) {
	if filter.Until == "" {
		if filter.Until = l.Last(); filter.Until == "" {
			return 0, nil
		}
	}
	filter.Limit = purgeAtOnce
	for {
		letters, err := l.List(filter)
		if err != nil || len(letters) == 0 {
			return purged, err
		}
		ids := make([]string, len(letters))
		for i := range letters {
			ids[i] = letters[i].ID
		}
		n, err := l.Delete(ids...)
		purged += n
		if err != nil {
			return purged, err
		}
		filter.After = ids[len(ids)-1]
	}
}

// Count returns how many letters of a sink there are. It does not read the disk.
func (d *File) Count(sink string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.table == nil {
		return 0
	}
	return len(d.table.Class(sink))
}

// Sinks returns the names of the sinks that have letters, in order.
func (d *File) Sinks() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.table == nil {
		return nil
	}
	sizes, _ := d.table.Costs()
	return slices.Sorted(maps.Keys(sizes))
}

// Bytes returns what all letters count for against MaxBytes.
func (d *File) Bytes() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.bytes()
}

// Close closes the file.
func (d *File) Close() error {
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
func (l *Letter) Encode() ([]byte, error) {
	key, err := letterKey(l.ID)
	return encodeLetter(key, l), err
}

// Decode reads what Encode has returned.
func Decode(id string, b []byte) (Letter, error) {
	key, err := letterKey(id)
	if err != nil {
		return Letter{}, err
	}
	return decodeLetter(key, b)
}

func sequenceKey(id uint64) []byte { return big.AppendUint64(nil, id) }

func letterID(n uint64) string { return fmt.Sprintf("%016x", n) }

func letterKey(id string) ([]byte, error) {
	n, err := strconv.ParseUint(id, 16, 64)
	if err != nil || len(id) != 16 {
		return nil, fmt.Errorf("%w: %q", ErrNotFound, id)
	}
	return sequenceKey(n), nil
}

func encodeLetter(key []byte, l *Letter) []byte {
	b := []byte{letterVersion}
	b = big.AppendUint64(b, uint64(l.Time.UnixNano()))
	b = big.AppendUint32(b, uint32(int32(min(l.Status, 1<<30))))
	b = big.AppendUint32(b, uint32(l.Size))
	for _, s := range []string{l.Sink, l.Reason, l.Request, l.EventID, l.EventType, l.Summary} {
		b = appendlog.AppendSized(b, s)
	}
	return appendlog.AppendCRC(b, key...)
}

var errLetter = errors.New("a letter is unreadable")

func decodeLetter(key, b []byte) (Letter, error) {
	b, ok := appendlog.CutCRC(b, key...)
	if !ok || len(key) != 8 || len(b) < 17 {
		return Letter{}, errLetter
	}
	version := b[0]
	if version != letterVersion && version != letterWithoutSummary {
		return Letter{}, fmt.Errorf("%w: its layout is %d", errLetter, version)
	}
	l := Letter{
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
		v, rest, ok := appendlog.CutSized(b)
		if !ok {
			return Letter{}, errLetter
		}
		*field, b = string(v), rest
	}
	return l, nil
}
