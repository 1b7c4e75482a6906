package queue

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
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

// DeadLetters keeps what sinks have refused for good, until somebody looks at it. Its methods may
// be called from any goroutine. Each change is synced to disk when the method returns.
//
// It is a file of pkg/appendlog, to which each change is appended: letters, what is new of one, and
// which are gone. Where they are is in memory. When less than a half of the file counts, what does
// is written to a new one. Some room is reserved in the file, so that letters can be removed when the
// disk is full.
type DeadLetters struct {
	opts DeadLetterOptions
	reporter
	path   string
	system appendlog.System

	mu sync.Mutex
	// Nil when the file could not be opened: the next call tries again.
	file   *appendlog.File
	closed bool
	// the newest id
	last  uint64
	bytes int64
	sinks map[string]*sinkLetters
	// Bytes of the file that count.
	live int64
	// The file is not made anew before it is as large as this.
	compactAt int64
}

// sinkLetters is what there is of one sink, in the order of the ids.
type sinkLetters struct {
	letters []letterPlace
	bytes   int64
}

// letterPlace is where a letter is in the file.
type letterPlace struct {
	id uint64
	// The frames of what List shows and of the record; 0: it is damaged.
	shown, data         int64
	shownSize, dataSize int32
	cost                int64
}

func (p *letterPlace) size() int64 { return int64(p.shownSize) + int64(p.dataSize) }

// The kinds of frames: what List shows of a letter, its record, and the ids of letters that are gone.
// The number of the former two is the id. Both parts of a letter in one frame would have to be read
// together.
const (
	kindLetter = 1
	kindData   = 2
	kindGone   = 3
)

// The layout of the letters, and that of a version that did not keep the summary.
const letterVersion, letterWithoutSummary = 4, 3

const (
	// What is reserved for the removal of letters, and by how much the file grows.
	letterRoom, letterStep = 16 << 10, 64 << 10
	// A file is not made anew for less.
	letterWaste = 1 << 20
)

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
		opts: opts, path: filepath.Join(opts.Dir, deadName), sinks: map[string]*sinkLetters{},
		system: cmp.Or(opts.system, appendlog.Disk), reporter: reporter{opts.Logger, opts.Metrics, "dead letters are damaged"},
	}
	if err := d.open(); err != nil {
		if !boltfile.IsNoSpace(err) {
			return nil, fmt.Errorf("queue: dead letters: %w", err)
		}
		d.log.Error("dead letters cannot be kept at the moment", zap.Error(err))
	}
	return d, nil
}

// open opens the file, or makes it, and notes what is in it.
func (d *DeadLetters) open() error {
	if err := d.takeOver(); err != nil {
		return err
	}
	err := d.load()
	if boltfile.IsDamage(err) {
		if err = d.setAside(d.path, err); err == nil {
			err = d.load()
		}
	}
	return err
}

func (d *DeadLetters) load() error {
	file, err := d.system.Open(d.path, os.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) {
		return d.create()
	}
	if err != nil {
		return err
	}
	stat, err := file.Stat()
	if err != nil {
		return errors.Join(err, file.Close())
	}
	d.last, d.bytes, d.live, d.sinks = 0, 0, 0, map[string]*sinkLetters{}
	damaged := 0
	found, err := appendlog.Scan(file, stat.Size(), func(kind uint8) bool { return kind != kindData },
		func(g *appendlog.Group) error {
			if g.Damaged && g.Unsure {
				return appendlog.ErrCut
			}
			if g.Damaged {
				damaged++
			}
			d.scanned(g)
			return nil
		})
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	cut := stat.Size()%letterStep != 0 || found.Rest
	switch {
	case found.End == 0 && cut:
		return boltfile.Damagef(d.path, "nothing of it can be read")
	case damaged > 0:
		d.damaged(boltfile.Damagef(d.path, "%d changes of letters are passed over", damaged))
	case cut:
		d.damaged(boltfile.Damagef(d.path, "the last change may be missing"))
	}
	log, err := appendlog.Open(d.system, d.path, found.End)
	if err != nil {
		return err
	}
	if cut {
		if err := errors.Join(log.Cut(), log.Reserve(letterRoom, letterStep), log.Sync()); err != nil && !boltfile.IsNoSpace(err) {
			return errors.Join(err, log.Close())
		}
	}
	d.file, d.compactAt = log, 0
	d.metrics.deadBytes.Set(float64(d.bytes))
	return nil
}

// create makes the file.
func (d *DeadLetters) create() error {
	temporary := d.path + temporarySuffix
	log, err := appendlog.Create(d.system, temporary)
	if err == nil {
		err = d.place(log, temporary)
	}
	if err != nil {
		return err
	}
	d.file, d.live, d.bytes, d.sinks, d.compactAt = log, 0, 0, map[string]*sinkLetters{}, 0
	return nil
}

// place makes a file that is complete the one that is used. After an error it is gone.
func (d *DeadLetters) place(log *appendlog.File, temporary string) error {
	err := log.Reserve(letterRoom, letterStep)
	if err == nil {
		err = log.Place()
	}
	if err == nil {
		err = d.system.Rename(temporary, d.path)
	}
	if err != nil {
		return errors.Join(err, log.Close(), d.system.Remove(temporary))
	}
	return d.system.Sync(d.opts.Dir)
}

// scanned takes over a group of the file.
func (d *DeadLetters) scanned(g *appendlog.Group) {
	data := map[uint64]*appendlog.ScannedFrame{}
	for i := range g.Frames {
		f := &g.Frames[i]
		id := f.Numbers[0]
		switch f.Kind {
		case kindData:
			data[id] = f
		case kindLetter:
			l, err := decodeLetter(sequenceKey(id), f.Payload)
			if err != nil {
				continue // its sum was right: it cannot be
			}
			p := letterPlace{id: id, shown: f.Offset, shownSize: int32(f.End() - f.Offset), cost: l.cost()}
			if f := data[id]; f != nil {
				p.data, p.dataSize = f.Offset, int32(f.End()-f.Offset)
			}
			s, at, known := d.find(l.Sink, id)
			if known {
				if p.data == 0 {
					p.data, p.dataSize = s.letters[at].data, s.letters[at].dataSize
				}
				d.remove(map[uint64]bool{id: true})
				s, at, _ = d.find(l.Sink, id)
			}
			s.letters = slices.Insert(s.letters, at, p)
			d.count(l.Sink, s, &p, 1)
			d.last = max(d.last, id)
		case kindGone:
			gone := map[uint64]bool{}
			for b := f.Payload; len(b) >= 8; b = b[8:] {
				gone[big.Uint64(b)] = true
			}
			d.remove(gone)
		}
	}
}

// count counts a letter n times.
func (d *DeadLetters) count(sink string, s *sinkLetters, p *letterPlace, n int64) {
	s.bytes += n * p.cost
	d.bytes += n * p.cost
	d.live += n * p.size()
	if d.sinks[sink] = s; len(s.letters) == 0 {
		delete(d.sinks, sink)
	}
}

// find returns the letters of a sink, and where one of them is or would be.
func (d *DeadLetters) find(sink string, id uint64) (s *sinkLetters, at int, known bool) {
	if s = d.sinks[sink]; s == nil {
		s = &sinkLetters{}
	}
	at, known = slices.BinarySearchFunc(s.letters, id, func(p letterPlace, id uint64) int { return cmp.Compare(p.id, id) })
	return s, at, known
}

// remove forgets letters, and returns how many there were.
func (d *DeadLetters) remove(ids map[uint64]bool) (n int) {
	for sink, s := range d.sinks {
		var gone []letterPlace
		if len(ids) == 1 { // the usual case needs no walk
			for id := range ids {
				if _, at, known := d.find(sink, id); known {
					gone = append(gone, s.letters[at])
					s.letters = slices.Delete(s.letters, at, at+1)
				}
			}
		} else {
			s.letters = slices.DeleteFunc(s.letters, func(p letterPlace) bool {
				if ids[p.id] {
					gone = append(gone, p)
				}
				return ids[p.id]
			})
		}
		for i := range gone {
			d.count(sink, s, &gone[i], -1)
		}
		n += len(gone)
	}
	return n
}

// use runs fn with the open file.
func (d *DeadLetters) use(what string, fn func() error) (err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return ErrClosed
	}
	if d.file != nil {
		// What is shorter than it was, or not there any more, is read again.
		if stat, err := os.Stat(d.path); err != nil || stat.Size() < d.file.Size() || d.file.Doubtful() {
			d.damaged(boltfile.Damagef(d.path, "%w", cmp.Or(err, errShortened)))
			_ = d.file.Close() // it is not used any more
			d.file = nil
		}
	}
	if d.file == nil {
		err = d.open()
	}
	if err == nil {
		err = fn()
	}
	d.metrics.deadBytes.Set(float64(d.bytes))
	if err != nil && !errors.Is(err, ErrNotFound) {
		return fmt.Errorf("queue: dead letters: %s: %w", what, err)
	}
	return err
}

// letterFrame is a frame of the file.
func letterFrame(kind uint8, id uint64, payload []byte) []byte {
	frame := append(make([]byte, appendlog.HeaderSize, appendlog.HeaderSize+len(payload)), payload...)
	appendlog.Seal(frame, kind, 1, [4]uint64{id})
	return frame
}

// goneFrame says that letters are gone.
func goneFrame(ids []uint64) []byte { return letterFrame(kindGone, 0, appendUints(nil, ids...)) }

// frame reads a frame of the file.
func (d *DeadLetters) frame(at int64, size int32, id uint64) (whole, payload []byte, err error) {
	whole = make([]byte, size)
	if size > 0 {
		_, err = d.file.ReadAt(whole, at)
	}
	f, ok := appendlog.Parse(whole)
	if !ok || f.Numbers[0] != id {
		return nil, nil, cmp.Or(err, errLetter)
	}
	return whole, whole[appendlog.HeaderSize:f.End()], nil
}

// shown reads what List shows of a letter.
func (d *DeadLetters) shown(p *letterPlace) (DeadLetter, error) {
	_, b, err := d.frame(p.shown, p.shownSize, p.id)
	if err != nil {
		return DeadLetter{}, fmt.Errorf("%s: %w", letterID(p.id), err)
	}
	return decodeLetter(sequenceKey(p.id), b)
}

// each calls fn for the letters of a sink, or with "" of all, in order, from behind one on, until it
// returns false.
func (d *DeadLetters) each(sink string, after, until uint64, fn func(p *letterPlace) bool) {
	var lists [][]letterPlace
	for name := range d.sinks {
		if sink == "" || sink == name {
			s, at, known := d.find(name, after)
			if known {
				at++
			}
			lists = append(lists, s.letters[at:])
		}
	}
	for {
		next := -1
		for i, l := range lists {
			if len(l) > 0 && l[0].id <= until && (next < 0 || l[0].id < lists[next][0].id) {
				next = i
			}
		}
		if next < 0 || !fn(&lists[next][0]) {
			return
		}
		lists[next] = lists[next][1:]
	}
}

// compact makes the file anew when most of it does not count any more. If that fails the old one goes
// on, and it is tried again when that has grown.
func (d *DeadLetters) compact() {
	if size := d.file.Size(); size < max(2*d.live+letterWaste, d.compactAt) {
		return
	}
	if err := d.rewrite(); err != nil {
		d.compactAt = d.file.Size() + d.file.Size()/2
		d.log.Warn("the file of the dead letters could not be made smaller", zap.Error(err))
	}
}

func (d *DeadLetters) rewrite() (err error) {
	temporary := d.path + temporarySuffix
	log, err := appendlog.Create(d.system, temporary)
	if err != nil {
		return err
	}
	places := map[*letterPlace]letterPlace{}
	d.each("", 0, math.MaxUint64, func(p *letterPlace) bool {
		now, at := *p, log.Size()
		var group [][]byte
		data, _, damage := d.frame(p.data, p.dataSize, p.id)
		if damage != nil {
			now.data, now.dataSize = 0, 0
		} else {
			group, now.data = append(group, data), at
		}
		shown, _, damage := d.frame(p.shown, p.shownSize, p.id)
		if damage == nil {
			group, now.shown = append(group, shown), at+int64(now.dataSize)
			err = log.Append(nil, group)
		}
		places[p] = now
		return err == nil
	})
	if err != nil {
		return errors.Join(err, log.Close(), d.system.Remove(temporary))
	}
	if err := d.place(log, temporary); err != nil {
		return err
	}
	for p, now := range places {
		*p = now
	}
	_ = d.file.Close() // it is not used any more
	d.file, d.compactAt = log, 0
	return nil
}

// cost is what a letter counts for against MaxBytes.
func (l *DeadLetter) cost() int64 {
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
		at, size, last := d.file.Size(), int64(0), d.last
		var frames [][]byte
		added := map[string][]letterPlace{}
		for _, l := range letters {
			now := time.Now()
			last = max(last+1, uint64(now.UnixNano()))
			l.Size = len(l.Data)
			l.Time = cmp.Or(l.Time, now)
			data, shown := letterFrame(kindData, last, l.Data), letterFrame(kindLetter, last, encodeLetter(sequenceKey(last), &l))
			added[l.Sink] = append(added[l.Sink], letterPlace{
				id: last, cost: l.cost(), data: at + size, dataSize: int32(len(data)),
				shown: at + size + int64(len(data)), shownSize: int32(len(shown)),
			})
			frames = append(frames, data, shown)
			size += int64(len(data) + len(shown))
		}
		var gone []uint64
		if gone, dropped = d.makeRoom(added); len(gone) > 0 {
			frames = append(frames, goneFrame(gone))
			size += int64(len(frames[len(frames)-1]))
		}
		if err := d.file.Reserve(size+letterRoom, letterStep); err != nil {
			return err
		}
		if err := d.file.Append(nil, frames); err != nil {
			return err
		}
		d.last = last
		for sink, places := range added {
			s, _, _ := d.find(sink, 0)
			s.letters = append(s.letters, places...)
			for i := range places {
				d.count(sink, s, &places[i], 1)
			}
		}
		d.removeAll(gone)
		d.compact()
		return nil
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

func (d *DeadLetters) removeAll(ids []uint64) int {
	set := make(map[uint64]bool, len(ids))
	for _, id := range ids {
		set[id] = true
	}
	return d.remove(set)
}

// makeRoom returns the letters that have to go when some are added, until no more than MaxBytes are
// left: the oldest of the sink that has the most, so that one which refuses everything takes nothing
// from the others. dropped is how many they are of each sink.
func (d *DeadLetters) makeRoom(added map[string][]letterPlace) (gone []uint64, dropped map[string]int) {
	sizes, total := map[string]int64{}, d.bytes
	for sink, s := range d.sinks {
		sizes[sink] = s.bytes
	}
	for sink, places := range added {
		for i := range places {
			sizes[sink] += places[i].cost
			total += places[i].cost
		}
	}
	dropped = map[string]int{}
	for total > d.opts.MaxBytes && len(sizes) > 0 {
		sink := slices.MaxFunc(slices.Sorted(maps.Keys(sizes)), func(x, y string) int {
			return cmp.Compare(sizes[x], sizes[y])
		})
		s, _, _ := d.find(sink, 0)
		n := dropped[sink]
		var p letterPlace
		switch kept := len(s.letters); {
		case n < kept:
			p = s.letters[n]
		case n-kept < len(added[sink]):
			p = added[sink][n-kept]
		default:
			delete(sizes, sink)
			continue
		}
		gone = append(gone, p.id)
		dropped[sink]++
		sizes[sink] -= p.cost
		total -= p.cost
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
		unreadable := map[uint64]bool{}
		d.each(f.Sink, big.Uint64(after), big.Uint64(until), func(p *letterPlace) bool {
			l, err := d.shown(p)
			if err != nil {
				unreadable[p.id] = true
				return true
			}
			wanted := !l.Time.Before(f.Since) && (len(ids) == 0 || ids[l.ID] || ids[l.EventID])
			return !wanted || fn(&l)
		})
		if len(unreadable) > 0 {
			d.damaged(boltfile.Damagef(d.path, "%d letters are passed over", len(unreadable)))
			d.remove(unreadable)
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

// lookup returns a letter without its Data.
func (d *DeadLetters) lookup(key []byte) (sink string, p *letterPlace, l DeadLetter, err error) {
	id := big.Uint64(key)
	for sink := range d.sinks {
		if s, at, known := d.find(sink, id); known {
			l, err := d.shown(&s.letters[at])
			return sink, &s.letters[at], l, err
		}
	}
	return "", nil, l, fmt.Errorf("%w: %s", ErrNotFound, letterID(id))
}

// Get returns one letter with its Data, or ErrNotFound.
func (d *DeadLetters) Get(id string) (l DeadLetter, err error) {
	key, err := letterKey(id)
	if err != nil {
		return l, err
	}
	err = d.use("get", func() error {
		_, p, letter, err := d.lookup(key)
		if err != nil {
			return err
		}
		_, data, err := d.frame(p.data, p.dataSize, p.id)
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
		sink, p, kept, err := d.lookup(key)
		if err != nil {
			return err
		}
		kept.Time, kept.Status, kept.Reason, kept.Request = l.Time, l.Status, l.Reason, l.Request
		frame, at := letterFrame(kindLetter, p.id, encodeLetter(key, &kept)), d.file.Size()
		if err := d.file.Reserve(int64(len(frame))+letterRoom, letterStep); err != nil {
			return err
		}
		if err := d.file.Append(nil, [][]byte{frame}); err != nil {
			return err
		}
		s := d.sinks[sink]
		d.count(sink, s, p, -1)
		p.shown, p.shownSize, p.cost = at, int32(len(frame)), kept.cost()
		d.count(sink, s, p, 1)
		d.compact()
		return nil
	})
}

// Delete removes letters and returns how many there were of them.
func (d *DeadLetters) Delete(ids ...string) (n int, err error) {
	err = d.use("delete", func() error {
		var gone []uint64
		for _, id := range ids {
			key, err := letterKey(id)
			if err != nil {
				continue // no letter can have that name
			}
			for sink := range d.sinks {
				if _, _, known := d.find(sink, big.Uint64(key)); known {
					gone = append(gone, big.Uint64(key))
				}
			}
		}
		if len(gone) == 0 {
			return nil
		}
		frame := goneFrame(gone)
		// On a full disk it takes what is reserved for that.
		if err := d.file.Reserve(int64(len(frame))+letterRoom, letterStep); err != nil && !boltfile.IsNoSpace(err) {
			return err
		}
		if err := d.file.Append(nil, [][]byte{frame}); err != nil {
			return err
		}
		n = d.removeAll(gone)
		d.compact()
		return nil
	})
	return n, err
}

// purgeAtOnce is how many letters Purge removes in one transaction, in which nothing else can
// happen.
const purgeAtOnce = 1000

// Purge removes the letters that the filter selects, whatever its Limit, and returns how many.
// Letters that are put while it works stay. After an error those it has counted are gone.
func (d *DeadLetters) Purge(filter DeadLetterFilter) (purged int, err error) {
	if filter.Until == "" {
		if filter.Until = d.Last(); filter.Until == "" {
			return 0, nil
		}
	}
	filter.Limit = purgeAtOnce
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
	s, _, _ := d.find(sink, 0)
	return len(s.letters)
}

// Sinks returns the names of the sinks that have letters, in order.
func (d *DeadLetters) Sinks() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Sorted(maps.Keys(d.sinks))
}

// Close closes the file.
func (d *DeadLetters) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	if d.file == nil {
		return nil
	}
	log := d.file
	d.file = nil
	return log.Close()
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
