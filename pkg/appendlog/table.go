package appendlog

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"slices"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/datadir"
)

// Table keeps entries by their number, in the order of these, and in classes. An entry has two
// parts: what is shown of it, which can be changed, and its data. They are frames of a File, to
// which each change is appended; where they are is in memory. When less than a half of the file
// counts, what does is written to a new one; so it is after a change that failed in a way which
// leaves doubt about the file. Some room is reserved, so that entries can be removed when the disk
// is full.
type Table struct {
	TableOptions
	file *File
	// the greatest number there has been
	last    uint64
	cost    int64
	classes map[string]*class
	// Bytes of the file that count.
	live int64
	// The file is not made anew before so many do not count.
	wasteAt int64
	// Bytes of the file when it was opened.
	opened int64
}

// TableOptions say where a Table is, and what it is of.
type TableOptions struct {
	System datadir.System
	Path   string
	// Describe says of which class an entry is and what it costs, by what is shown of it.
	Describe func(number uint64, shown []byte) (class string, cost int64, err error)
	// Damaged is told what is lost, and of a new file that could not be made.
	Damaged, Failed func(err error)
}

// class are the entries of a class.
type class struct {
	entries []Entry
	cost    int64
}

// Entry is an entry of a Table.
type Entry struct {
	Number uint64
	Cost   int64
	// Where the frames are, and their bytes; 0: it is damaged.
	shown, data         int64
	shownSize, dataSize int32
}

func (e *Entry) size() int64 { return int64(e.shownSize) + int64(e.dataSize) }

// Addition is an entry that is added.
type Addition struct {
	Class       string
	Number      uint64
	Cost        int64
	Shown, Data []byte
}

// The kinds of frames: what is shown of an entry, its data, and the numbers of entries that are
// gone. The number of the former two is that of the entry.
const (
	kindShown = 1
	kindData  = 2
	kindGone  = 3
)

const (
	// What is reserved for the removal of entries, at least and for each of them, and by how much
	// the file grows.
	tableRoom, entryRoom, tableStep = 16 << 10, 9, 64 << 10
	// A file is not made anew for less.
	tableWaste = 1 << 20
)

// ErrUnreadable is returned by OpenTable for a file of which nothing can be read.
var ErrUnreadable = errors.New("nothing of it can be read")

var errEntry = errors.New("an entry is damaged")

// OpenTable opens a table, or makes it.
func OpenTable(o TableOptions) (*Table, error) {
	t := &Table{TableOptions: o, classes: map[string]*class{}}
	// One that was not complete when the process ended. It may be large.
	if err := o.System.Remove(o.Path + temporarySuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	file, err := o.System.Open(o.Path, os.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) {
		t.file, err = makeTable(o.System, o.Path, tableRoom, func(*File) error { return nil })
		return t, err
	}
	if err != nil {
		return nil, err
	}
	stat, err := file.Stat()
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	damaged := 0
	found, err := Scan(file, stat.Size(), func(kind uint8) bool { return kind != kindData }, func(g *Group) error {
		if g.Damaged && g.Unsure {
			return ErrCut
		}
		if g.Damaged {
			damaged++
		}
		t.scanned(g)
		return nil
	})
	if err := errors.Join(err, file.Close()); err != nil {
		return nil, err
	}
	aligned := stat.Size()%tableStep == 0
	switch {
	case found.End == 0 && found.Rest:
		return nil, ErrUnreadable
	case damaged > 0:
		o.Damaged(fmt.Errorf("%d changes are passed over", damaged))
	case found.Rest && !aligned: // a change that was not complete has had its room
		o.Damaged(errors.New("the last change may be missing"))
	}
	if t.file, err = Open(o.System, o.Path, found); err != nil {
		return nil, err
	}
	if found.Rest || !aligned {
		if err := errors.Join(t.file.Cut(), t.file.settleSize()); err != nil {
			return nil, errors.Join(err, t.file.Close())
		}
		_ = t.reserve(0) // it is tried again before something is stored
	}
	t.opened = t.file.Size()
	return t, nil
}

// reserve makes room for so many bytes, and for the removal of all entries after that.
func (t *Table) reserve(bytes int64) error {
	return t.file.Reserve(bytes+t.room(), tableStep)
}

func (t *Table) room() int64 {
	n := 0
	for _, c := range t.classes {
		n += len(c.entries)
	}
	return tableRoom + int64(n)*entryRoom
}

// MakeTable makes the file of a table, of all that fill adds to it.
func MakeTable(
	system datadir.System, path string, fill func(add func(number uint64, shown, data []byte) error) error,
) error {
	f, err := makeTable(system, path, tableRoom, func(f *File) error {
		return fill(func(number uint64, shown, data []byte) error {
			var group [][]byte
			if data != nil {
				group = append(group, tableFrame(kindData, number, data))
			}
			return f.Append(nil, append(group, tableFrame(kindShown, number, shown)))
		})
	})
	if err != nil {
		return err
	}
	return f.Close()
}

// makeTable makes a file that is complete when it has its name.
func makeTable(system datadir.System, path string, room int64, fill func(f *File) error) (*File, error) {
	f, err := Create(system, path)
	if err != nil {
		return nil, err
	}
	if err = fill(f); err == nil && f.Size() == 0 {
		err = f.Append(nil) // see sound
	}
	if err == nil {
		err = f.Reserve(room, tableStep)
	}
	if err == nil {
		err = f.Place()
	}
	if err != nil {
		f.Abandon()
		return nil, err
	}
	return f, nil
}

// scanned takes over a group of the file.
func (t *Table) scanned(g *Group) {
	data := map[uint64]*ScannedFrame{}
	for i := range g.Frames {
		f := &g.Frames[i]
		number := f.Numbers[0]
		switch f.Kind {
		case kindData:
			data[number] = f
		case kindShown:
			name, cost, err := t.Describe(number, f.Payload)
			if err != nil {
				continue
			}
			e := Entry{Number: number, Cost: cost, shown: f.Offset, shownSize: int32(f.End() - f.Offset)}
			if f := data[number]; f != nil {
				e.data, e.dataSize = f.Offset, int32(f.End()-f.Offset)
			}
			if _, before := t.Find(number); before != nil {
				if e.data == 0 {
					e.data, e.dataSize = before.data, before.dataSize
				}
				t.forget([]uint64{number})
			}
			t.add(name, e)
		case kindGone:
			var gone []uint64
			for b := f.Payload; len(b) >= 8; b = b[8:] {
				gone = append(gone, big.Uint64(b))
			}
			t.forget(gone)
		}
	}
}

// add notes an entry.
func (t *Table) add(name string, e Entry) {
	c := t.classes[name]
	if c == nil {
		c = &class{}
		t.classes[name] = c
	}
	at, _ := c.find(e.Number)
	c.entries = slices.Insert(c.entries, at, e)
	t.count(c, &e, 1)
	t.last = max(t.last, e.Number)
}

func (t *Table) count(c *class, e *Entry, n int64) {
	c.cost += n * e.Cost
	t.cost += n * e.Cost
	t.live += n * e.size()
}

func (c *class) find(number uint64) (at int, known bool) {
	return slices.BinarySearchFunc(c.entries, number, func(e Entry, n uint64) int { return cmp.Compare(e.Number, n) })
}

// forget forgets entries, and returns how many there were.
func (t *Table) forget(numbers []uint64) (n int) {
	for name, c := range t.classes {
		gone := map[uint64]bool{}
		for _, number := range numbers {
			if at, known := c.find(number); known && !gone[number] {
				gone[number] = true
				t.count(c, &c.entries[at], -1)
			}
		}
		if n += len(gone); len(gone) > 0 {
			c.entries = slices.DeleteFunc(c.entries, func(e Entry) bool { return gone[e.Number] })
		}
		if len(c.entries) == 0 {
			delete(t.classes, name)
		}
	}
	return n
}

// Whole returns an error if the file is not what was written to it any more: the table is to be
// closed, and opened again.
func (t *Table) Whole() error {
	stat, err := os.Stat(t.Path)
	switch {
	case err != nil:
		return err
	case stat.Size() < t.file.Size():
		return errors.New("it was cut off while in use")
	}
	return nil
}

// sound makes the file anew if nobody knows what of it is on disk, and puts something into one that
// has nothing: there, what is torn next would look as what was damaged.
func (t *Table) sound() error {
	switch {
	case t.file.Doubtful():
		return t.remake()
	case t.file.Size() == 0:
		return t.file.Append(nil)
	}
	return nil
}

func tableFrame(kind uint8, number uint64, payload []byte) []byte {
	frame := append(make([]byte, HeaderSize, HeaderSize+len(payload)), payload...)
	Seal(frame, kind, 1, [4]uint64{number})
	return frame
}

func goneFrame(numbers []uint64) []byte {
	var b []byte
	for _, n := range numbers {
		b = big.AppendUint64(b, n)
	}
	return tableFrame(kindGone, 0, b)
}

// Add adds entries, of which the numbers are above all others, and removes some, all of it or
// nothing.
func (t *Table) Add(entries []Addition, gone []uint64) error {
	if err := t.sound(); err != nil {
		return err
	}
	at, size := t.file.Size(), int64(0)
	var frames [][]byte
	places := make([]Entry, len(entries))
	for i, e := range entries {
		data, shown := tableFrame(kindData, e.Number, e.Data), tableFrame(kindShown, e.Number, e.Shown)
		places[i] = Entry{
			Number: e.Number, Cost: e.Cost, data: at + size, dataSize: int32(len(data)),
			shown: at + size + int64(len(data)), shownSize: int32(len(shown)),
		}
		frames = append(frames, data, shown)
		size += places[i].size()
	}
	if len(gone) > 0 {
		frames = append(frames, goneFrame(gone))
		size += int64(len(frames[len(frames)-1]))
	}
	if err := t.reserve(size + int64(len(entries))*entryRoom); err != nil {
		return err
	}
	if err := t.file.Append(nil, frames); err != nil {
		return err
	}
	for i, e := range entries {
		t.add(e.Class, places[i])
	}
	t.forget(gone)
	t.compact()
	return nil
}

// Change changes what is shown of an entry, and its cost.
func (t *Table) Change(number uint64, shown []byte, cost int64) error {
	c, e := t.find(number)
	if e == nil {
		return fs.ErrNotExist
	}
	if err := t.sound(); err != nil {
		return err
	}
	frame, at := tableFrame(kindShown, number, shown), t.file.Size()
	if err := t.reserve(int64(len(frame))); err != nil {
		return err
	}
	if err := t.file.Append(nil, [][]byte{frame}); err != nil {
		return err
	}
	t.count(c, e, -1)
	e.shown, e.shownSize, e.Cost = at, int32(len(frame)), cost
	t.count(c, e, 1)
	t.compact()
	return nil
}

// Remove removes entries, and returns how many there were of them. On a full disk it takes what is
// reserved for that.
func (t *Table) Remove(numbers []uint64) (n int, err error) {
	numbers = slices.DeleteFunc(slices.Clone(numbers), func(n uint64) bool {
		_, e := t.find(n)
		return e == nil
	})
	if len(numbers) == 0 {
		return 0, nil
	}
	if err := t.sound(); err != nil {
		return 0, err
	}
	frame := goneFrame(numbers)
	err = t.reserve(int64(len(frame)) - int64(len(numbers))*entryRoom)
	if err != nil && t.file.Room() < int64(len(frame))+HeaderSize {
		return 0, err
	}
	if err := t.file.Append(nil, [][]byte{frame}); err != nil {
		return 0, err
	}
	n = t.forget(numbers)
	t.compact()
	return n, nil
}

// Forget removes entries that turned out to be damaged, and says so.
func (t *Table) Forget(numbers []uint64) {
	if n := t.forget(numbers); n > 0 {
		t.Damaged(fmt.Errorf("%d entries are passed over", n))
	}
}

// Each calls fn for the entries of a class, or with "" of all, in order, from behind a number up to
// another one, until it returns false. Nothing may be changed meanwhile.
func (t *Table) Each(name string, after, until uint64, fn func(e *Entry) bool) {
	var lists [][]Entry
	for n, c := range t.classes {
		if name == "" || name == n {
			at, known := c.find(after)
			if known {
				at++
			}
			lists = append(lists, c.entries[at:])
		}
	}
	for {
		next := -1
		for i, l := range lists {
			if len(l) > 0 && l[0].Number <= until && (next < 0 || l[0].Number < lists[next][0].Number) {
				next = i
			}
		}
		if next < 0 || !fn(&lists[next][0]) {
			return
		}
		lists[next] = lists[next][1:]
	}
}

func (t *Table) find(number uint64) (*class, *Entry) {
	for _, c := range t.classes {
		if at, known := c.find(number); known {
			return c, &c.entries[at]
		}
	}
	return nil, nil
}

// Find returns an entry, and its class; nil if there is none.
func (t *Table) Find(number uint64) (class string, e *Entry) {
	for name, c := range t.classes {
		if at, known := c.find(number); known {
			return name, &c.entries[at]
		}
	}
	return "", nil
}

// Class returns the entries of a class, in order.
func (t *Table) Class(name string) []Entry {
	if c := t.classes[name]; c != nil {
		return c.entries
	}
	return nil
}

// Costs returns what the entries of each class cost, and all of them.
func (t *Table) Costs() (of map[string]int64, all int64) {
	of = make(map[string]int64, len(t.classes))
	for name, c := range t.classes {
		of[name] = c.cost
	}
	return of, t.cost
}

// Last returns the greatest number there has been, as far as is known.
func (t *Table) Last() uint64 { return t.last }

// Shown reads what is shown of an entry.
func (t *Table) Shown(e *Entry) ([]byte, error) {
	_, b, err := t.read(e.shown, e.shownSize, e.Number)
	return b, err
}

// Data reads the data of an entry.
func (t *Table) Data(e *Entry) ([]byte, error) {
	_, b, err := t.read(e.data, e.dataSize, e.Number)
	return b, err
}

// read reads a frame.
func (t *Table) read(at int64, size int32, number uint64) (whole, payload []byte, err error) {
	whole = make([]byte, size)
	if size > 0 {
		_, err = t.file.ReadAt(whole, at)
	}
	f, ok := Parse(whole)
	if !ok || f.Numbers[0] != number {
		return nil, nil, cmp.Or(err, errEntry)
	}
	return whole, whole[HeaderSize:f.End()], nil
}

// compact makes the file anew when most of it does not count any more. If that fails the old one
// goes on, and it is tried again when half as much more does not count.
func (t *Table) compact() {
	waste, empty := t.file.Size()-t.live, len(t.classes) == 0
	if waste < t.live+tableWaste || waste < t.wasteAt && !empty {
		return
	}
	var err error
	if empty { // which works on a full disk, too
		if err = t.file.Clear(); err == nil {
			err = t.sound()
			_ = t.reserve(0)
		}
	} else {
		err = t.remake()
	}
	if t.wasteAt = 0; err != nil {
		t.wasteAt = waste + waste/2
		t.Failed(err)
	}
}

// remake writes what counts to a new file, in the place of the old one.
func (t *Table) remake() error {
	places := map[*Entry]Entry{}
	file, err := makeTable(t.System, t.Path, t.room(), func(f *File) (err error) {
		t.Each("", 0, math.MaxUint64, func(e *Entry) bool {
			now, at := *e, f.Size()
			var group [][]byte
			if data, _, err := t.read(e.data, e.dataSize, e.Number); err == nil {
				group, now.data = append(group, data), at
			} else {
				now.data, now.dataSize = 0, 0
			}
			if shown, _, err := t.read(e.shown, e.shownSize, e.Number); err == nil {
				group, now.shown = append(group, shown), at+int64(now.dataSize)
			} else {
				now.shown, now.shownSize = 0, 0
			}
			places[e] = now
			err = f.Append(nil, group)
			return err == nil
		})
		return err
	})
	if err != nil {
		return err
	}
	t.live = 0
	for e, now := range places {
		*e = now
		t.live += e.size()
	}
	_ = t.file.Close() // it is not used any more
	t.file = file
	return nil
}

// Close closes the file. What was stored last is followed by a group with nothing in it, if that
// can be written: else damage to it looks as a change that was never complete.
func (t *Table) Close() error {
	if t.file.Size() != t.opened && !t.file.Doubtful() {
		_ = t.reserve(0)
		if t.file.Room() >= HeaderSize {
			_ = t.file.Append(nil)
		}
	}
	return t.file.Close()
}
