package queue

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/boltfile"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/datadir"
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
	// Nil when the file could not be opened: the next call tries again.
	db     *bolt.DB
	closed bool
	// the newest id
	last  uint64
	bytes int64
	sinks map[string]sinkLetters
}

// sinkLetters is what there is of one sink.
type sinkLetters struct {
	count int
	bytes int64
	// Before it there is none: where to look for the oldest.
	from uint64
}

// A letter is kept in two buckets under the same key, its id: what List shows, and the record. Both
// end with a CRC-32C of the key and of what comes before it.
var (
	lettersBucket = []byte("letters")
	dataBucket    = []byte("data")
)

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
	d := &DeadLetters{
		opts: opts, path: filepath.Join(opts.Dir, deadName), sinks: map[string]sinkLetters{},
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

// open opens the file, or a new one if it is damaged.
func (d *DeadLetters) open() error {
	err := d.load()
	if !boltfile.IsDamage(err) {
		return err
	}
	if err := d.setAside(d.path, err); err != nil {
		return err
	}
	return d.load()
}

// load opens the file and counts what is in it.
func (d *DeadLetters) load() (err error) {
	last, unreadable, found := uint64(0), 0, change{}
	stat, err := os.Stat(d.path)
	switch {
	case err == nil && stat.Size() > 0:
		// It is going to be written to, so all of it has to be right.
		clean, err := boltfile.Verify(d.path, "")
		if err != nil {
			return err
		}
		// bbolt has two pages to begin with; where one is damaged the last change may be
		// lost
		if !clean {
			d.damaged(boltfile.Damagef(d.path, "the last change may be missing"))
		}
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return err
	}
	var db *bolt.DB
	defer func() {
		if err != nil {
			_ = boltfile.Close(db, d.path, err) // the error in hand is the one that counts
		}
	}()
	if db, err = boltfile.Open(d.path, boltfile.Options(0)); err != nil {
		return err
	}
	err = boltfile.Update(db, d.path, func(tx *bolt.Tx) error {
		for _, name := range [][]byte{lettersBucket, dataBucket} {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		return tx.Bucket(lettersBucket).ForEach(func(k, v []byte) error {
			l, err := decodeLetter(k, v)
			if err != nil {
				unreadable++
				return nil
			}
			last = max(last, big.Uint64(k))
			found.add(&l, 1)
			return nil
		})
	})
	if err == nil {
		err = datadir.Sync(d.opts.Dir)
	}
	if err != nil {
		return err
	}
	if unreadable > 0 {
		d.damaged(boltfile.Damagef(d.path, "%d letters are passed over", unreadable))
	}
	d.db, d.last, d.bytes, d.sinks = db, last, 0, map[string]sinkLetters{}
	d.apply(found)
	return nil
}

// change is what a transaction changes of the letters of each sink.
type change map[string]sinkLetters

// add counts a letter n times.
func (c change) add(l *DeadLetter, n int) {
	of := c[l.Sink]
	of.count += n
	of.bytes += int64(n) * l.Cost()
	c[l.Sink] = of
}

// apply counts what a transaction has changed.
func (d *DeadLetters) apply(c change) {
	for sink, of := range c {
		s := d.sinks[sink]
		s.count, s.bytes, s.from = s.count+of.count, s.bytes+of.bytes, max(s.from, of.from)
		if d.sinks[sink] = s; s.count <= 0 {
			delete(d.sinks, sink)
		}
		d.bytes += of.bytes
	}
	d.metrics.deadBytes.Set(float64(d.bytes))
}

// remove removes a letter, in whichever state it is, and counts it in c.
func (c change) remove(tx *bolt.Tx, key, value []byte) error {
	if l, err := decodeLetter(key, value); err == nil {
		c.add(&l, -1)
	}
	return errors.Join(tx.Bucket(lettersBucket).Delete(key), tx.Bucket(dataBucket).Delete(key))
}

// makeRoom removes letters until no more than MaxBytes are left: the oldest of the sink that has
// the most, so that one which refuses everything takes nothing from the others. It returns how many
// of each sink it has removed.
func (d *DeadLetters) makeRoom(tx *bolt.Tx, c change) (dropped map[string]int, err error) {
	sizes, total := map[string]int64{}, d.bytes
	for sink, s := range d.sinks {
		sizes[sink] = s.bytes
	}
	for sink, of := range c {
		sizes[sink] += of.bytes
		total += of.bytes
	}
	dropped = map[string]int{}
	for total > d.opts.MaxBytes && len(sizes) > 0 {
		sink := slices.MaxFunc(slices.Sorted(maps.Keys(sizes)), func(x, y string) int {
			return cmp.Compare(sizes[x], sizes[y])
		})
		key, value := d.oldest(tx, sink, c)
		if key == nil {
			delete(sizes, sink)
			continue
		}
		before := c[sink].bytes
		if err := c.remove(tx, key, value); err != nil {
			return nil, err
		}
		sizes[sink] += c[sink].bytes - before
		total += c[sink].bytes - before
		dropped[sink]++
	}
	return dropped, nil
}

// oldest returns the first letter of a sink; nil: it has none. What it has passed over is not
// looked at again.
func (d *DeadLetters) oldest(tx *bolt.Tx, sink string, c change) (key, value []byte) {
	of := c[sink]
	of.from = max(of.from, d.sinks[sink].from)
	cursor := tx.Bucket(lettersBucket).Cursor()
	for k, v := cursor.Seek(sequenceKey(of.from)); k != nil; k, v = cursor.Next() {
		if l, err := decodeLetter(k, v); err == nil && l.Sink == sink {
			of.from = big.Uint64(k)
			c[sink] = of
			return bytes.Clone(k), bytes.Clone(v)
		}
	}
	return nil, nil
}

// use runs fn in a transaction of the open file, and counts the changes that it notes. If the file
// turns out to be damaged a new one is begun, and the error returned all the same.
func (d *DeadLetters) use(
	what string, run func(*bolt.DB, string, func(*bolt.Tx) error) error, fn func(tx *bolt.Tx, c change) error,
) (err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return ErrClosed
	}
	if d.db == nil {
		err = d.open()
	}
	if err == nil {
		c := change{}
		err = run(d.db, d.path, func(tx *bolt.Tx) error { return fn(tx, c) })
		if err == nil {
			d.apply(c)
		}
		if boltfile.IsDamage(err) {
			_ = boltfile.Close(d.db, d.path, err) // the error in hand is the one that counts
			d.db = nil
			_ = d.setAside(d.path, err) // else it is tried with the next use
		}
	}
	if err != nil && !errors.Is(err, ErrNotFound) {
		return fmt.Errorf("queue: dead letters: %s: %w", what, err)
	}
	return err
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
	err := d.use("put", boltfile.Update, func(tx *bolt.Tx, c change) (err error) {
		meta, data := tx.Bucket(lettersBucket), tx.Bucket(dataBucket)
		meta.FillPercent, data.FillPercent = 0.9, 0.9
		for _, l := range letters {
			now := time.Now()
			d.last = max(d.last+1, uint64(now.UnixNano()))
			key := sequenceKey(d.last)
			l.Size = len(l.Data)
			l.Time = cmp.Or(l.Time, now)
			c.add(&l, 1)
			record := appendCRC(slices.Clone(l.Data), key...)
			if err := errors.Join(meta.Put(key, encodeLetter(key, &l)), data.Put(key, record)); err != nil {
				return err
			}
		}
		dropped, err = d.makeRoom(tx, c)
		return err
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
	return d.use(what, boltfile.View, func(tx *bolt.Tx, _ change) error {
		c := tx.Bucket(lettersBucket).Cursor()
		for k, v := c.Seek(after); k != nil && bytes.Compare(k, until) <= 0; k, v = c.Next() {
			l, err := decodeLetter(k, v)
			if err != nil || bytes.Equal(k, after) {
				continue // an unreadable one was reported when the file was opened
			}
			wanted := (f.Sink == "" || f.Sink == l.Sink) && !l.Time.Before(f.Since)
			if wanted && (len(ids) == 0 || ids[l.ID] || ids[l.EventID]) && !fn(&l) {
				return nil
			}
		}
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
	if d.last == 0 {
		return ""
	}
	return letterID(d.last)
}

// findLetter returns a letter without its Data.
func findLetter(tx *bolt.Tx, key []byte) (DeadLetter, error) {
	v := tx.Bucket(lettersBucket).Get(key)
	if v == nil {
		return DeadLetter{}, fmt.Errorf("%w: %s", ErrNotFound, letterID(big.Uint64(key)))
	}
	return decodeLetter(key, v)
}

// Get returns one letter with its Data, or ErrNotFound.
func (d *DeadLetters) Get(id string) (l DeadLetter, err error) {
	key, err := letterKey(id)
	if err != nil {
		return l, err
	}
	err = d.use("get", boltfile.View, func(tx *bolt.Tx, _ change) error {
		var err error
		if l, err = findLetter(tx, key); err != nil {
			return err
		}
		data, ok := cutCRC(tx.Bucket(dataBucket).Get(key), key...)
		if !ok {
			return fmt.Errorf("the record of %s is damaged", id)
		}
		l.Data = append([]byte{}, data...)
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
	return d.use("update", boltfile.Update, func(tx *bolt.Tx, c change) error {
		kept, err := findLetter(tx, key)
		if err != nil {
			return err
		}
		c.add(&kept, -1)
		kept.Time, kept.Status, kept.Reason, kept.Request = l.Time, l.Status, l.Reason, l.Request
		c.add(&kept, 1)
		return tx.Bucket(lettersBucket).Put(key, encodeLetter(key, &kept))
	})
}

// Delete removes letters and returns how many there were of them.
func (d *DeadLetters) Delete(ids ...string) (n int, err error) {
	err = d.use("delete", boltfile.Update, func(tx *bolt.Tx, c change) error {
		for _, id := range ids {
			key, err := letterKey(id)
			if err != nil {
				continue // no letter can have that name
			}
			if v := tx.Bucket(lettersBucket).Get(key); v != nil {
				n++
				if err := c.remove(tx, key, v); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return n, nil
}

// purgeAtOnce is how many letters Purge removes in one transaction, in which nothing else can
// happen.
const purgeAtOnce = 1000

// Purge removes the letters that the filter selects, whatever its Limit, and returns how many.
// Letters that are put while it works stay. After an error those it has counted are gone.
func Purge(l Letters, filter DeadLetterFilter) (purged int, err error) {
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
func (d *DeadLetters) Count(sink string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.sinks[sink].count
}

// Sinks returns the names of the sinks that have letters, in order.
func (d *DeadLetters) Sinks() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Sorted(maps.Keys(d.sinks))
}

// Bytes returns what all letters count for against MaxBytes.
func (d *DeadLetters) Bytes() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.bytes
}

// Close closes the file.
func (d *DeadLetters) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	if d.db == nil {
		return nil
	}
	db := d.db
	d.db = nil
	return boltfile.Close(db, d.path, nil)
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
