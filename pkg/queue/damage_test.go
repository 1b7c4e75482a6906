package queue

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	bolt "go.etcd.io/bbolt"
)

func damagedFiles(t testing.TB, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*"+damagedSuffix+"*"))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func segmentFiles(t testing.TB, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, segmentPrefix+"*"+segmentSuffix))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	return names
}

// damageRecord is the content of record i of makeStore.
func damageRecord(i int) string {
	return fmt.Sprintf("%d %s", i, strings.Repeat(string(rune('a'+i%26)), 100+i*37%900))
}

const damageAcked = 50

// makeStore makes a directory with n records in several segments, state, and the cursors "all" (at 0) and "some" (at 50).
func makeStore(t testing.TB, n int) string {
	t.Helper()
	dir := t.TempDir()
	q, err := Open(Options{Dir: dir, SegmentBytes: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	cursor(t, q, "all")
	some := cursor(t, q, "some")
	for i := 0; i < n; {
		var b Batch
		for range min(1+i%7*i%5, n-i) {
			i++
			b.Records = append(b.Records, []byte(damageRecord(i)))
			b.State = append(b.State, KeyValue{Key: fmt.Sprintf("id/%d", i), Value: []byte("x")})
		}
		if err := store(q, b); err != nil {
			t.Fatal(err)
		}
		if len(b.Records) == 0 {
			i++
			mustPut(t, q, damageRecord(i))
		}
	}
	next(t, some, damageAcked)
	if err := some.Ack(damageAcked); err != nil {
		t.Fatal(err)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

// memoryDir returns a directory in memory if there is such a thing: syncing is not what the test is about.
func memoryDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "hmcnotifyd-queue-test-") //nolint:usetesting // t.TempDir is on a disk
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func copyDir(t testing.TB, from, to string) {
	t.Helper()
	if err := os.RemoveAll(to); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

// harm damages a file at random and says how.
func harm(r *rand.Rand, path string) (string, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	stat, err := f.Stat()
	if err != nil {
		return "", err
	}
	size := stat.Size()
	at := r.Int64N(size)
	if r.IntN(3) == 0 {
		at = r.Int64N(min(size, 32<<10)) // the part with the tree
	}
	var what string
	switch r.IntN(4) {
	case 0:
		what, err = fmt.Sprintf("cut at %d", at), f.Truncate(at)
	case 1:
		b := make([]byte, 1)
		if _, err = f.ReadAt(b, at); err == nil {
			what = fmt.Sprintf("bit of byte %d", at)
			b[0] ^= 1 << r.IntN(8)
			_, err = f.WriteAt(b, at)
		}
	case 2:
		what = fmt.Sprintf("byte %d", at)
		_, err = f.WriteAt([]byte{byte(r.Uint32())}, at)
	case 3:
		what = fmt.Sprintf("512 bytes from %d", at)
		b := make([]byte, 512)
		if r.IntN(2) == 0 {
			for i := range b {
				b[i] = byte(r.Uint32())
			}
		}
		_, err = f.WriteAt(b, at)
	}
	return what, errors.Join(err, f.Close())
}

// TestDamage damages a file of a store at a random place and uses the store. HMCNOTIFYD_TEST_ROUNDS says how often,
// HMCNOTIFYD_TEST_SEED repeats a run.
func TestDamage(t *testing.T) {
	t.Parallel()
	const n = 400
	rounds := 250
	if s := os.Getenv("HMCNOTIFYD_TEST_ROUNDS"); s != "" {
		if _, err := fmt.Sscan(s, &rounds); err != nil {
			t.Fatal(err)
		}
	}
	pristine := makeStore(t, n)
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("HMCNOTIFYD_TEST_SEED"); s != "" {
		if _, err := fmt.Sscan(s, &seed); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	dir := filepath.Join(memoryDir(t), "copy")
	harmless := 0
	for round := range rounds {
		copyDir(t, pristine, dir)
		files := append(segmentFiles(t, dir), filepath.Join(dir, cursorsName))
		which := r.IntN(len(files))
		file := files[which]
		what, err := harm(r, file)
		if err != nil {
			t.Fatal(err)
		}
		where := fmt.Sprintf("round %d: %s, %s", round, filepath.Base(file), what)

		// What may be lost: the records of that file.
		var mayFrom, mayTo uint64
		if from, ok := parseSegmentName(filepath.Base(file)); ok {
			mayFrom, mayTo = from, uint64(n)
			if which+1 < len(files)-1 {
				to, _ := parseSegmentName(filepath.Base(files[which+1]))
				mayTo = to - 1
			}
		}
		var dropped [2]atomic.Int64
		index := map[string]int{"all": 0, "some": 1}
		metrics := NewMetrics(nil)
		q, err := Open(Options{Dir: dir, Metrics: metrics, OnDropped: func(name string, n int) { dropped[index[name]].Add(int64(n)) }})
		if err != nil {
			t.Fatalf("%s: %v", where, err)
		}
		if q.end < n && mayTo < n {
			t.Fatalf("%s: the queue ends with %d", where, q.end)
		}
		if err := tryPut(q, "new"); err != nil {
			t.Fatalf("%s: append: %v", where, err)
		}
		lost := 0
		for name, i := range index {
			c, err := q.Cursor(name)
			if err != nil {
				t.Fatalf("%s: %v", where, err)
			}
			last := c.Acked()
			if name == "some" && last != damageAcked && (mayTo == 0 || last < damageAcked || last > mayTo) {
				t.Fatalf("%s: the cursor is at %d", where, last)
			}
			missing := func(from, to uint64) {
				for seq := from; seq <= to && seq <= n; seq++ {
					lost++
					if seq < mayFrom || seq > mayTo {
						t.Fatalf("%s: %s: record %d is missing", where, name, seq)
					}
				}
			}
			if name == "all" {
				missing(1, last) // passed over when the queue was opened
			} else {
				missing(damageAcked+1, last)
			}
			for sawNew := false; !sawNew; {
				ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
				records, err := c.Next(ctx, 100, 0)
				cancel()
				if err != nil {
					t.Fatalf("%s: %s: %v", where, name, err)
				}
				for _, r := range records {
					missing(last+1, r.Seq-1)
					if sawNew = string(r.Data) == "new"; !sawNew && string(r.Data) != damageRecord(int(r.Seq)) {
						t.Fatalf("%s: %s: record %d is %.30q", where, name, r.Seq, r.Data)
					}
					if r.Seq <= last {
						t.Fatalf("%s: %s: %d after %d", where, name, r.Seq, last)
					}
					last = r.Seq
				}
			}
			if err := c.Ack(last); err != nil {
				t.Fatalf("%s: %v", where, err)
			}
			if events, bytes, _ := c.Pending(); events != 0 || bytes != 0 {
				t.Fatalf("%s: %s: %d records and %d bytes wait", where, name, events, bytes)
			}
			_ = i
		}
		if counted := dropped[0].Load() + dropped[1].Load(); counted != int64(lost) {
			t.Errorf("%s: %d lost, %d counted", where, lost, counted)
		}
		damaged := testutil.ToFloat64(metrics.damaged)
		if lost > 0 && damaged == 0 {
			t.Errorf("%s: %d lost and no damage counted", where, lost)
		}
		if damaged == 0 {
			harmless++
		}
		if err := q.Close(); err != nil {
			t.Fatalf("%s: close: %v", where, err)
		}
	}
	t.Logf("%d of %d rounds hit something that is used", rounds-harmless, rounds)
}

// countingQueue opens a queue and counts what its cursors lose.
func countingQueue(t *testing.T, opts Options) (*Queue, *atomic.Int64) {
	t.Helper()
	dropped := new(atomic.Int64)
	opts.OnDropped = func(_ string, n int) { dropped.Add(int64(n)) }
	opts.Metrics = NewMetrics(nil)
	return open(t, opts), dropped
}

// TestDamageWhileOpen shortens files under an open queue, which has them mapped.
func TestDamageWhileOpen(t *testing.T) {
	t.Parallel()
	fill := func(t *testing.T, q *Queue, n int) {
		t.Helper()
		for i := range n {
			mustPut(t, q, fmt.Sprintf("record %d%s", i+1, strings.Repeat(" ", 4000)))
		}
	}
	// all reads to the end, and returns how many records did not come.
	all := func(t *testing.T, c *Cursor, last, end uint64) (missing int) {
		t.Helper()
		for last < end {
			r := next(t, c, 1)[0]
			if want := fmt.Sprintf("record %d", r.Seq); r.Seq <= last || strings.TrimSpace(string(r.Data)) != want {
				t.Fatalf("got %d %.20q after %d", r.Seq, r.Data, last)
			}
			missing += int(r.Seq - last - 1)
			last = r.Seq
		}
		return missing
	}
	t.Run("old segment", func(t *testing.T) {
		t.Parallel()
		q, dropped := countingQueue(t, Options{SegmentBytes: 128 << 10, CacheBytes: 1})
		c := cursor(t, q, "c")
		fill(t, q, 200)
		files := segmentFiles(t, q.opts.Dir)
		next(t, c, 2) // the first file is open now
		if err := os.Truncate(files[0], pageSize); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(files[1], pageSize); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(files[2]); err != nil {
			t.Fatal(err)
		}
		fourth, _ := parseSegmentName(filepath.Base(files[3]))
		missing := all(t, c, 2, 200)
		if want := int(fourth) - 3; missing > want || missing < want-20 {
			t.Errorf("%d missing, want about %d", missing, want)
		}
		// What was read of the first file and is not acknowledged counts too: it would not come again.
		if got := dropped.Load(); got < int64(missing) || got > int64(fourth)-1 {
			t.Errorf("%d counted, %d missing", got, missing)
		}
		if got := testutil.ToFloat64(q.metrics.damaged); got != 3 {
			t.Errorf("%v files counted", got)
		}
		mustPut(t, q, "record 201")
		if err := c.Ack(200); err != nil {
			t.Fatal(err)
		}
		if events, _, _ := c.Pending(); events != 1 {
			t.Errorf("%d wait", events)
		}
		if got := len(damagedFiles(t, q.opts.Dir)); got != 2 {
			t.Errorf("%d files set aside", got)
		}
	})
	t.Run("newest segment, read", func(t *testing.T) {
		t.Parallel()
		q, dropped := countingQueue(t, Options{CacheBytes: 1})
		c := cursor(t, q, "c")
		fill(t, q, 50)
		if err := os.Truncate(segmentFiles(t, q.opts.Dir)[0], pageSize); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		for {
			records, err := c.Next(ctx, 10, 0)
			if err != nil {
				break
			}
			for _, r := range records { // from memory
				if want := fmt.Sprintf("record %d", r.Seq); strings.TrimSpace(string(r.Data)) != want {
					t.Fatalf("got %d %.20q", r.Seq, r.Data)
				}
			}
		}
		if dropped.Load() == 0 {
			t.Error("nothing counted")
		}
		// The committer notices, and begins a new segment.
		mustPut(t, q, "record 51")
		if all(t, c, 50, 51) != 0 {
			t.Error("something is missing")
		}
		q = reopen(t, q)
		mustPut(t, q, "record 52")
		if all(t, cursor(t, q, "c"), 50, 52) != 0 {
			t.Error("something is missing")
		}
		if got := len(damagedFiles(t, q.opts.Dir)); got != 1 {
			t.Errorf("%d files set aside", got)
		}
	})
	t.Run("newest segment, write", func(t *testing.T) {
		t.Parallel()
		q, _ := countingQueue(t, Options{CacheBytes: 1})
		c := cursor(t, q, "c")
		fill(t, q, 50)
		if err := os.Truncate(segmentFiles(t, q.opts.Dir)[0], pageSize); err != nil {
			t.Fatal(err)
		}
		stored := uint64(50)
		waitFor(t, "storing to go on", func() bool {
			err := tryPut(q, fmt.Sprintf("record %d", stored+1))
			if err == nil {
				stored++
			}
			return err == nil
		})
		for r := (Record{}); r.Seq < stored; {
			r = next(t, c, 1)[0]
		}
		q = reopen(t, q)
		mustPut(t, q, fmt.Sprintf("record %d", stored+1))
		if r := next(t, cursor(t, q, "c"), 1)[0]; strings.TrimSpace(string(r.Data)) != fmt.Sprintf("record %d", r.Seq) {
			t.Errorf("got %d %.20q", r.Seq, r.Data)
		}
	})
}

// TestSequenceAfterDamage loses the newest segment, and with it how far the sequence went: no number may be used again.
func TestSequenceAfterDamage(t *testing.T) {
	t.Parallel()
	q, _ := countingQueue(t, Options{})
	c := cursor(t, q, "c")
	mustPut(t, q, numbered(1, 100)...)
	next(t, c, 60)
	if err := c.Ack(50); err != nil {
		t.Fatal(err)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{segmentFiles(t, q.opts.Dir)[0], filepath.Join(q.opts.Dir, cursorsName)} {
		if err := os.WriteFile(name, []byte("nothing of it is left"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	q, _ = countingQueue(t, q.opts)
	if names := q.Cursors(); len(names) != 0 {
		t.Fatalf("cursors %q from nowhere", names)
	}
	c = cursor(t, q, "c")
	mustPut(t, q, "new")
	if r := next(t, c, 1)[0]; r.Seq <= 100 {
		t.Errorf("sequence number %d again", r.Seq)
	}
	if got := len(damagedFiles(t, q.opts.Dir)); got != 2 {
		t.Errorf("%d files set aside", got)
	}
}

// TestLostCursors loses the cursors' file: the copy in the newest segment is used.
func TestLostCursors(t *testing.T) {
	t.Parallel()
	for what, harm := range map[string]func(path string) error{
		"damaged": func(path string) error { return os.WriteFile(path, make([]byte, 100), 0o600) },
		"removed": os.Remove,
		"one slot": func(path string) error {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			clear(b[:100])
			return os.WriteFile(path, b, 0o600)
		},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			q := open(t, Options{})
			c := cursor(t, q, "c")
			mustPut(t, q, numbered(1, 10)...)
			next(t, c, 7)
			if err := c.Ack(7); err != nil {
				t.Fatal(err)
			}
			mustPut(t, q, numbered(11, 1)...) // with a copy of the positions
			if err := q.Close(); err != nil {
				t.Fatal(err)
			}
			if err := harm(filepath.Join(q.opts.Dir, cursorsName)); err != nil {
				t.Fatal(err)
			}
			q = open(t, q.opts)
			c = cursor(t, q, "c")
			expectRecords(t, c, 8, 4)
		})
	}
}

// TestNewerVersion refuses what a newer version of the program has written, and leaves it as it is.
func TestNewerVersion(t *testing.T) {
	t.Parallel()
	q := open(t, Options{})
	mustPut(t, q, "x")
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	file := segmentFiles(t, q.opts.Dir)[0]
	db, err := bolt.Open(file, 0o600, boltOptions(0))
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Update(func(tx *bolt.Tx) error {
		return tx.Bucket(metaBucket).Put(infoKey, []byte{segmentVersion + 1, 0})
	}); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if q, err := Open(q.opts); !errors.Is(err, errVersion) {
		t.Fatalf("%v, %v", q, err)
	}
	if got := segmentFiles(t, q.opts.Dir); len(got) != 1 || got[0] != file {
		t.Errorf("files: %q", got)
	}
}

// TestVerify has bbolt write files of many shapes, all of which must be found right.
func TestVerify(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	path := filepath.Join(memoryDir(t), "x.db")
	db, err := bolt.Open(path, 0o600, boltOptions(0))
	if err != nil {
		t.Fatal(err)
	}
	for round := range 60 {
		if err := db.Update(func(tx *bolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists(fmt.Appendf(nil, "bucket %d", r.IntN(5)))
			if err != nil {
				return err
			}
			for range r.IntN(300) {
				key := fmt.Appendf(nil, "%d", r.IntN(10000))
				switch r.IntN(4) {
				case 0, 1:
					err = b.Put(key, make([]byte, r.IntN(50)))
				case 2:
					err = b.Delete(key)
				case 3:
					var nested *bolt.Bucket
					if nested, err = b.CreateBucketIfNotExists(append(key, 'b')); err == nil {
						err = nested.Put([]byte("k"), make([]byte, r.IntN(3)*r.IntN(10000)))
					}
				}
				if err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if clean, err := verifyFile(path, ""); err != nil || !clean {
			t.Fatalf("round %d: %v, %v", round, clean, err)
		}
		if clean, err := verifyFile(path, "bucket 1"); err != nil || !clean {
			t.Fatalf("round %d: %v, %v", round, clean, err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}
