package queue

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
)

// storeUser uses a Store as a Queue does.
type storeUser struct {
	t      testing.TB
	store  Store
	loaded *Loaded
	active Segment
	state  map[string]string
}

// load opens the store that is tested.
func (u *storeUser) load(open func(t testing.TB) Store) {
	u.t.Helper()
	u.store = open(u.t)
	loaded, err := u.store.Load()
	if err != nil {
		u.t.Fatal(err)
	}
	u.loaded, u.state, u.active = loaded, maps.Clone(loaded.state), Segment{}
	if n := len(loaded.segments); n > 0 {
		u.active = *loaded.segments[n-1]
	}
}

func (u *storeUser) close() {
	u.t.Helper()
	if err := u.store.Close(); err != nil {
		u.t.Fatal(err)
	}
}

func (u *storeUser) begin(c *Checkpoint) {
	u.t.Helper()
	start := &Start{positions: c, segmentInfo: segmentInfo{base: max(u.loaded.end, u.active.last) + 1}}
	if !u.active.empty() {
		start.previousBase, start.previousLast = u.active.base, u.active.last
	}
	start.state = func(put func(chunks [][]byte) error) error {
		for key, value := range u.state { // a block for each, which is more than a Queue does
			var none []byte
			if err := put(finishState(addEntry(nil, appendOp(nil, key, []byte(value)), &none))); err != nil {
				return err
			}
		}
		return nil
	}
	size, err := u.store.Begin(start)
	if err != nil || size < 0 {
		u.t.Fatal(size, err)
	}
	u.active = Segment{base: start.base, last: start.base - 1, size: size}
}

// commit stores records and changes of the state: "key=value", or "key" to delete it.
func (u *storeUser) commit(c *Checkpoint, records []string, state ...string) {
	u.t.Helper()
	g := &Group{positions: c, after: u.active}
	var none []byte
	for _, r := range records {
		d := addEntry(nil, []byte(r), &none)[0]
		d.at = 1000 + int64(g.after.last)
		if g.after.empty() {
			g.after.firstAt = d.at
		}
		first := g.after.last + 1
		g.infos = append(g.infos, d.finish(kindRecords, first, g.after.bytes))
		g.records = append(g.records, d.buf)
		g.after.last, g.after.bytes, g.after.lastAt = first, g.after.bytes+d.bytes, d.at
	}
	for _, change := range state {
		key, value, set := strings.Cut(change, "=")
		var v []byte
		if set {
			v = []byte(value)
		}
		g.state = append(g.state, finishState(addEntry(nil, appendOp(nil, key, v), &none))...)
		setState(u.state, key, v)
	}
	if err := u.store.Commit(g); err != nil || g.sealed {
		u.t.Fatal(err, g.sealed)
	}
	u.active = g.after
}

// expect reads every record of a segment.
func (u *storeUser) expect(s Segment, record func(seq uint64) string) {
	u.t.Helper()
	for seq := s.base; seq <= s.last; seq++ {
		b, _, err := u.store.Read(s, seq)
		if err != nil || !b.holds(seq) || b.segment != s.base || b.last() > s.last {
			u.t.Fatalf("record %d of %+v: %+v, %v", seq, s, b.chunks, err)
		}
		c := b.chunks[b.chunkOf(seq)]
		data, offset := nextEntry(b.buf, c.start)
		for range seq - c.first {
			data, offset = nextEntry(b.buf, offset)
		}
		if string(data) != record(seq) {
			u.t.Fatalf("record %d is %.30q instead of %.30q", seq, data, record(seq))
		}
	}
	u.store.Rest(s.base)
}

func contractRecord(seq uint64) string {
	return fmt.Sprintf("%d %s", seq, strings.Repeat("x", int(seq*7919%20_000)))
}

func contractRecords(from, n uint64) (records []string) {
	for seq := from; seq < from+n; seq++ {
		records = append(records, contractRecord(seq))
	}
	return records
}

// testStore checks what a Queue relies on. open opens the store of one test, again after it was
// closed.
func testStore(t *testing.T, prepare func(t *testing.T) (open func(t testing.TB) Store)) {
	at := func(end uint64, positions map[string]position) *Checkpoint { return &Checkpoint{end, positions} }
	for name, test := range map[string]func(u *storeUser, open func(t testing.TB) Store){
		"empty": func(u *storeUser, open func(t testing.TB) Store) {
			for range 2 {
				if l := u.loaded; len(l.segments)+len(l.state)+len(l.cursors)+len(l.lost) > 0 || l.end != 0 {
					u.t.Fatalf("an empty store has %+v", l)
				}
				u.close()
				u.load(open)
			}
		},
		"records": func(u *storeUser, open func(t testing.TB) Store) {
			var want []Segment
			for range 3 {
				u.begin(at(u.active.last, nil))
				for n := range uint64(8) {
					u.commit(at(u.active.last, nil), contractRecords(u.active.last+1, 1+n%3))
				}
				u.expect(u.active, contractRecord)
				want = append(want, u.active)
			}
			u.close()
			u.load(open)
			if len(u.loaded.segments) != len(want) || u.loaded.end != want[2].last || len(u.loaded.lost) > 0 {
				u.t.Fatalf("loaded %+v", u.loaded)
			}
			for i, s := range u.loaded.segments {
				want[i].size = s.size // what a store says of it is its own affair
				if *s != want[i] {
					u.t.Errorf("segment %+v instead of %+v", *s, want[i])
				}
				u.expect(*s, contractRecord)
			}
			u.begin(at(u.active.last, nil))
			u.commit(at(u.active.last, nil), contractRecords(u.active.last+1, 3))
			u.expect(u.active, contractRecord)
		},
		"state": func(u *storeUser, open func(t testing.TB) Store) {
			u.begin(at(0, nil))
			u.commit(at(0, nil), nil, "a=1", "b=2", "empty=", "gone=5")
			u.commit(at(0, nil), contractRecords(1, 2), "a=3", "gone", "never")
			for range 3 { // the last time all of it comes from a segment without changes
				want := maps.Clone(u.state)
				u.close()
				u.load(open)
				if !maps.Equal(u.state, want) || len(want) != 3 || want["a"] != "3" {
					u.t.Fatalf("the state is %v instead of %v", u.state, want)
				}
				u.begin(at(u.active.last, nil))
			}
		},
		"begin replaces an empty segment": func(u *storeUser, open func(t testing.TB) Store) {
			u.begin(at(0, nil))
			u.begin(at(0, nil))
			u.commit(at(0, nil), contractRecords(1, 4), "a=1")
			u.expect(u.active, contractRecord)
			u.close()
			u.load(open)
			if len(u.loaded.segments) != 1 || u.loaded.end != 4 || u.state["a"] != "1" {
				u.t.Fatalf("loaded %+v", u.loaded)
			}
		},
		"an empty group stores nothing": func(u *storeUser, open func(t testing.TB) Store) {
			u.begin(at(0, nil))
			u.commit(at(0, nil), contractRecords(1, 2))
			if err := u.store.Commit(&Group{bytes: 1 << 20}); err != nil {
				u.t.Fatal(err)
			}
			u.commit(at(0, nil), contractRecords(3, 2))
			u.expect(u.active, contractRecord)
			u.close()
			u.load(open)
			if u.loaded.end != 4 || len(u.loaded.segments) != 1 {
				u.t.Fatalf("loaded %+v", u.loaded)
			}
		},
		"cursors": func(u *storeUser, open func(t testing.TB) Store) {
			u.begin(at(0, nil))
			u.commit(at(0, nil), contractRecords(1, 9))
			many := map[string]position{}
			for i := range 1000 {
				many[fmt.Sprintf("a cursor with a long name, number %d", i)] = position{acked: uint64(i % 9), segment: 1, bytes: int64(i)}
			}
			for i, want := range []map[string]position{
				{"a": {acked: 3, segment: 1, bytes: 17}, "b": {}}, {"a": {acked: 9, segment: 1, bytes: 99}}, many, {},
			} {
				for _, sync := range []bool{false, true, false} {
					if err := u.store.SaveCursors(at(9, want), sync); err != nil {
						u.t.Fatal(err)
					}
				}
				u.close()
				u.load(open)
				if !maps.Equal(u.loaded.cursors, want) {
					u.t.Fatalf("%d: the cursors are %v", i, u.loaded.cursors)
				}
			}
		},
		"a group has the newer position": func(u *storeUser, open func(t testing.TB) Store) {
			u.begin(at(0, nil))
			if err := u.store.SaveCursors(at(0, map[string]position{"a": {}, "b": {}}), true); err != nil {
				u.t.Fatal(err)
			}
			newer := position{acked: 2, segment: 1, bytes: 5}
			u.commit(at(2, map[string]position{"a": newer, "removed": {}}), contractRecords(1, 5))
			u.close()
			u.load(open)
			if want := map[string]position{"a": newer, "b": {}}; !maps.Equal(u.loaded.cursors, want) {
				u.t.Fatalf("the cursors are %v", u.loaded.cursors)
			}
		},
		"trim": func(u *storeUser, open func(t testing.TB) Store) {
			var segments []Segment
			for i := range uint64(3) {
				u.begin(at(u.active.last, nil))
				u.commit(at(u.active.last, nil), contractRecords(u.active.last+1, 5), fmt.Sprintf("%d=x", i))
				segments = append(segments, u.active)
			}
			for range 2 { // once more is no error
				if err := u.store.Trim(segments[0].base); err != nil {
					u.t.Fatal(err)
				}
			}
			if _, _, err := u.store.Read(segments[0], 1); !errors.Is(err, ErrGone) {
				u.t.Errorf("reading what is gone: %v", err)
			}
			u.store.Rest(segments[0].base)
			u.expect(segments[1], contractRecord)
			u.close()
			u.load(open)
			if l := u.loaded; len(l.segments) != 2 || l.segments[0].base != segments[1].base || len(l.lost) > 0 || len(l.state) != 3 || l.end != 15 {
				u.t.Fatalf("loaded %+v", l)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			open := prepare(t)
			u := &storeUser{t: t}
			u.load(open)
			test(u, open)
			u.close()
		})
	}
}

func TestDiskStore(t *testing.T) {
	t.Parallel()
	testStore(t, func(t *testing.T) func(t testing.TB) Store {
		opts := Options{Dir: t.TempDir()}
		if err := opts.setDefaults(); err != nil {
			t.Fatal(err)
		}
		return func(t testing.TB) Store {
			d, err := newDisk(&opts)
			if err != nil {
				t.Fatal(err)
			}
			return d
		}
	})
}
