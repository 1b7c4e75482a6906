package storage_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"go.uber.org/zap/zaptest"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/diskstore"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/storage"
)

// storeUser uses a Store as a queue does.
type storeUser struct {
	t      testing.TB
	store  storage.Store
	loaded *storage.Loaded
	active storage.Segment
	state  map[string]string
}

// load opens the store that is tested.
func (u *storeUser) load(open func(t testing.TB) storage.Store) {
	u.t.Helper()
	u.store = open(u.t)
	loaded, err := u.store.Load()
	if err != nil {
		u.t.Fatal(err)
	}
	u.loaded, u.state, u.active = loaded, maps.Clone(loaded.State), storage.Segment{}
	if n := len(loaded.Segments); n > 0 {
		u.active = *loaded.Segments[n-1]
	}
}

func (u *storeUser) close() {
	u.t.Helper()
	if err := u.store.Close(); err != nil {
		u.t.Fatal(err)
	}
}

func (u *storeUser) begin(c *storage.Checkpoint) {
	u.t.Helper()
	start := &storage.Start{Positions: c, Base: max(u.loaded.End, u.active.Last) + 1}
	if !u.active.Empty() {
		start.PreviousBase, start.PreviousLast = u.active.Base, u.active.Last
	}
	start.State = func(put func(chunks [][]byte) error) error {
		for key, value := range u.state { // a block for each, which is more than a queue does
			if err := put(storage.FinishState(storage.AddEntry(nil, storage.AppendOp(nil, key, []byte(value)), nil))); err != nil {
				return err
			}
		}
		return nil
	}
	size, err := u.store.Begin(start)
	if err != nil || size < 0 {
		u.t.Fatal(size, err)
	}
	u.active = start.Segment()
	u.active.Size = size
}

// commit stores records and changes of the state: "key=value", or "key" to delete it.
func (u *storeUser) commit(c *storage.Checkpoint, records []string, state ...string) {
	u.t.Helper()
	g := &storage.Group{Positions: c, After: u.active}
	for _, r := range records {
		d := storage.AddEntry(nil, []byte(r), nil)[0]
		d.At = 1000 + int64(g.After.Last)
		if g.After.Empty() {
			g.After.FirstAt = d.At
		}
		first := g.After.Last + 1
		d.Finish(storage.KindRecords, first, g.After.Bytes)
		g.Records = append(g.Records, d.Buf)
		g.After.Last, g.After.Bytes, g.After.LastAt = first, g.After.Bytes+d.Bytes, d.At
	}
	for _, change := range state {
		key, value, set := strings.Cut(change, "=")
		var v []byte
		if set {
			v = []byte(value)
		}
		g.State = append(g.State, storage.FinishState(storage.AddEntry(nil, storage.AppendOp(nil, key, v), nil))...)
		storage.SetState(u.state, key, v)
	}
	if err := u.store.Commit(g); err != nil || g.Sealed {
		u.t.Fatal(err, g.Sealed)
	}
	for _, chunk := range slices.Concat(g.State, g.Records) { // a store keeps none of that memory
		copy(chunk, bytes.Repeat([]byte("used for others"), len(chunk)))
	}
	u.active = g.After
}

// expect reads every record of a segment.
func (u *storeUser) expect(s storage.Segment, record func(seq uint64) string) {
	u.t.Helper()
	for seq := s.Base; seq <= s.Last; seq++ {
		b, _, err := u.store.Read(s, seq)
		if err != nil || !b.Holds(seq) || b.Segment != s.Base || b.Last() > s.Last {
			u.t.Fatalf("record %d of %+v: %+v, %v", seq, s, b.Chunks, err)
		}
		c := b.Chunks[b.ChunkOf(seq)]
		data, offset := storage.NextEntry(b.Buf, c.Start)
		for range seq - c.First {
			data, offset = storage.NextEntry(b.Buf, offset)
		}
		if string(data) != record(seq) {
			u.t.Fatalf("record %d is %.30q instead of %.30q", seq, data, record(seq))
		}
	}
	u.store.Rest(s.Base)
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

// testStore checks what a queue relies on. open opens the store of one test, again after it was
// closed.
func testStore(t *testing.T, prepare func(t *testing.T) (open func(t testing.TB) storage.Store)) {
	at := func(end uint64, positions map[string]storage.Position) *storage.Checkpoint {
		return &storage.Checkpoint{end, positions}
	}
	for name, test := range map[string]func(u *storeUser, open func(t testing.TB) storage.Store){
		"empty": func(u *storeUser, open func(t testing.TB) storage.Store) {
			for range 2 {
				if l := u.loaded; len(l.Segments)+len(l.State)+len(l.Cursors)+len(l.Lost) > 0 || l.End != 0 {
					u.t.Fatalf("an empty store has %+v", l)
				}
				u.close()
				u.load(open)
			}
		},
		"records": func(u *storeUser, open func(t testing.TB) storage.Store) {
			var want []storage.Segment
			for range 3 {
				u.begin(at(u.active.Last, nil))
				for n := range uint64(8) {
					u.commit(at(u.active.Last, nil), contractRecords(u.active.Last+1, 1+n%3))
				}
				u.expect(u.active, contractRecord)
				want = append(want, u.active)
			}
			u.close()
			u.load(open)
			if len(u.loaded.Segments) != len(want) || u.loaded.End != want[2].Last || len(u.loaded.Lost) > 0 {
				u.t.Fatalf("loaded %+v", u.loaded)
			}
			for i, s := range u.loaded.Segments {
				want[i].Size = s.Size // what a store says of it is its own affair
				if *s != want[i] {
					u.t.Errorf("segment %+v instead of %+v", *s, want[i])
				}
				u.expect(*s, contractRecord)
			}
			u.begin(at(u.active.Last, nil))
			u.commit(at(u.active.Last, nil), contractRecords(u.active.Last+1, 3))
			u.expect(u.active, contractRecord)
		},
		"state": func(u *storeUser, open func(t testing.TB) storage.Store) {
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
				u.begin(at(u.active.Last, nil))
			}
		},
		"begin replaces an empty segment": func(u *storeUser, open func(t testing.TB) storage.Store) {
			u.begin(at(0, nil))
			u.begin(at(0, nil))
			u.commit(at(0, nil), contractRecords(1, 4), "a=1")
			u.expect(u.active, contractRecord)
			u.close()
			u.load(open)
			if len(u.loaded.Segments) != 1 || u.loaded.End != 4 || u.state["a"] != "1" {
				u.t.Fatalf("loaded %+v", u.loaded)
			}
		},
		"an empty group stores nothing": func(u *storeUser, open func(t testing.TB) storage.Store) {
			u.begin(at(0, nil))
			u.commit(at(0, nil), contractRecords(1, 2))
			if err := u.store.Commit(&storage.Group{Bytes: 1 << 20}); err != nil {
				u.t.Fatal(err)
			}
			u.commit(at(0, nil), contractRecords(3, 2))
			u.expect(u.active, contractRecord)
			u.close()
			u.load(open)
			if u.loaded.End != 4 || len(u.loaded.Segments) != 1 {
				u.t.Fatalf("loaded %+v", u.loaded)
			}
		},
		"cursors": func(u *storeUser, open func(t testing.TB) storage.Store) {
			u.begin(at(0, nil))
			u.commit(at(0, nil), contractRecords(1, 9))
			many := map[string]storage.Position{}
			for i := range 1000 {
				many[fmt.Sprintf("a cursor with a long name, number %d", i)] = storage.Position{Acked: uint64(i % 9), Segment: 1, Bytes: int64(i)}
			}
			for i, want := range []map[string]storage.Position{
				{"a": {Acked: 3, Segment: 1, Bytes: 17}, "b": {}}, {"a": {Acked: 9, Segment: 1, Bytes: 99}}, many, {},
			} {
				for _, sync := range []bool{false, true, false} {
					if err := u.store.SaveCursors(at(9, want), sync); err != nil {
						u.t.Fatal(err)
					}
				}
				u.close()
				u.load(open)
				if !maps.Equal(u.loaded.Cursors, want) {
					u.t.Fatalf("%d: the cursors are %v", i, u.loaded.Cursors)
				}
			}
		},
		"a group has the newer position": func(u *storeUser, open func(t testing.TB) storage.Store) {
			u.begin(at(0, nil))
			if err := u.store.SaveCursors(at(0, map[string]storage.Position{"a": {}, "b": {}}), true); err != nil {
				u.t.Fatal(err)
			}
			newer := storage.Position{Acked: 2, Segment: 1, Bytes: 5}
			u.commit(at(2, map[string]storage.Position{"a": newer, "removed": {}}), contractRecords(1, 5))
			u.close()
			u.load(open)
			if want := map[string]storage.Position{"a": newer, "b": {}}; !maps.Equal(u.loaded.Cursors, want) {
				u.t.Fatalf("the cursors are %v", u.loaded.Cursors)
			}
		},
		"trim": func(u *storeUser, open func(t testing.TB) storage.Store) {
			var segments []storage.Segment
			for i := range uint64(3) {
				u.begin(at(u.active.Last, nil))
				u.commit(at(u.active.Last, nil), contractRecords(u.active.Last+1, 5), fmt.Sprintf("%d=x", i))
				segments = append(segments, u.active)
			}
			for range 2 { // once more is no error
				if err := u.store.Trim(segments[0].Base); err != nil {
					u.t.Fatal(err)
				}
			}
			if _, _, err := u.store.Read(segments[0], 1); !errors.Is(err, storage.ErrGone) {
				u.t.Errorf("reading what is gone: %v", err)
			}
			u.store.Rest(segments[0].Base)
			u.expect(segments[1], contractRecord)
			u.close()
			u.load(open)
			if l := u.loaded; len(l.Segments) != 2 || l.Segments[0].Base != segments[1].Base || len(l.Lost) > 0 || len(l.State) != 3 || l.End != 15 {
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

// The store in a directory keeps what a queue relies on.
func TestDiskStore(t *testing.T) {
	t.Parallel()
	testStore(t, func(t *testing.T) func(t testing.TB) storage.Store {
		opts := diskstore.Options{Dir: t.TempDir(), Logger: zaptest.NewLogger(t), Metrics: queue.NewMetrics(nil)}
		return func(t testing.TB) storage.Store {
			s, err := diskstore.Open(opts)
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
	})
}
