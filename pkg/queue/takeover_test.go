package queue

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/tests/scratch"

	"github.com/prometheus/client_golang/prometheus/testutil"
	bolt "go.etcd.io/bbolt"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/appendlog"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/boltfile"
	"github.com/hmcnotifyd/hmcnotifyd/tests/archive"
	"github.com/hmcnotifyd/hmcnotifyd/tests/soak"
)

// unpackOld returns a directory that version 0.1 has written: what makeStore and makeLetters make. Its files are of the
// byte order of the machine that wrote them, and read on no other.
func unpackOld(t testing.TB) string {
	t.Helper()
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("the files in testdata were written by a little-endian machine")
	}
	dir := scratch.Memory(t)
	for name, text := range archive.Files(t, "testdata/bbolt.tar.gz") {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// expectTakenOver opens a directory, in which there has to be all that unpackOld has.
func expectTakenOver(t *testing.T, dir string) {
	t.Helper()
	q, dropped := countingQueue(t, Options{Dir: dir})
	for name, from := range map[string]int{"all": 0, "some": damageAcked} {
		c := cursor(t, q, name)
		if events, _, _ := c.Pending(); int(events) != damageRecords-from {
			t.Errorf("%s: %d wait", name, events)
		}
		for i, r := range next(t, c, damageRecords-from) {
			if want := damageRecord(from + i + 1); string(r.Data) != want || r.Seq != uint64(from+i+1) {
				t.Fatalf("%s: record %d is %.30q", name, r.Seq, r.Data)
			}
		}
	}
	keys := 0
	q.StateRange("id/", func(_ string, value []byte) bool {
		if string(value) == "x" {
			keys++
		}
		return true
	})
	d := openDead(t, DeadLetterOptions{Dir: dir, Metrics: q.metrics})
	letters := list(t, d, DeadLetterFilter{})
	for i, l := range letters {
		got, err := d.Get(l.ID)
		if reason, data := damageLetter(i); err != nil || l.Reason != reason || string(got.Data) != data || l.Status != 400 {
			t.Errorf("letter %d: %+v, %v", i, l, err)
		}
	}
	if keys < damageRecords/2 || len(letters) != damageLetters {
		t.Errorf("%d keys, %d letters", keys, len(letters))
	}
	if n := testutil.ToFloat64(q.metrics.damaged); n != 0 || dropped.Load() != 0 || len(damagedFiles(t, dir)) > 0 {
		t.Errorf("%v damaged, %d dropped", n, dropped.Load())
	}
	old, err := filepath.Glob(filepath.Join(dir, "*"+oldSuffix))
	if err != nil || !slices.Equal(old, []string{filepath.Join(dir, barrier)}) {
		t.Errorf("still there: %q, %v", old, err)
	}
	expectBarrier(t, dir)
	mustPut(t, q, "on")
	if r := next(t, cursor(t, q, "all"), 1)[0]; r.Seq != damageRecords+1 || string(r.Data) != "on" {
		t.Errorf("then comes %d %q", r.Seq, r.Data)
	}
	if err := errors.Join(d.Close(), q.Close()); err != nil {
		t.Fatal(err)
	}
}

// expectBarrier checks that version 0.1 would notice a newer one: it wants a file with three buckets,
// reads what that says of its layout, with its checksum, and refuses what is above 2.
func expectBarrier(t *testing.T, dir string) {
	t.Helper()
	clean, err := boltfile.View(filepath.Join(dir, barrier), func(tx *bolt.Tx) error {
		for _, name := range []string{"meta", "records", "state"} {
			if tx.Bucket([]byte(name)) == nil {
				t.Fatalf("the barrier has no bucket %s", name)
			}
		}
		info, ok := appendlog.CutCRC(bytes.Clone(tx.Bucket([]byte("meta")).Get([]byte("info"))))
		if !ok || len(info) != 25 || info[0] <= 2 {
			t.Errorf("the layout of the barrier is %x", info)
		}
		return nil
	})
	if err != nil || !clean {
		t.Errorf("the barrier is damaged: %v", err)
	}
}

// What version 0.1 has stored is taken over at the first start, also by one that ends, or loses its
// power, in the middle of it.
func TestTakeOver(t *testing.T) {
	t.Parallel()
	expectTakenOver(t, unpackOld(t))
	r := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	base := scratch.Memory(t)
	for round := range soak.Count(t, "QUEUE_TAKEOVER", 8, 300) {
		dir := unpackOld(t)
		// All of it are about 500 operations.
		var m *powered
		for part := range 4 {
			if m == nil {
				m = newPowered(t, r, dir, r.IntN(400))
			} else {
				m.again(r.IntN(400))
			}
			opts := Options{Dir: dir, system: m, Metrics: NewMetrics(nil)}
			if q, err := Open(opts); err == nil {
				if d, err := OpenDeadLetters(DeadLetterOptions{Dir: dir, System: m}); err == nil {
					_ = d.Close()
				}
				_ = q.Close()
			} else if !errors.Is(err, errPowerless) {
				t.Fatal(err)
			}
			if r.IntN(3) == 0 {
				continue
			}
			next := filepath.Join(base, fmt.Sprint(round, part))
			m.leave(t, next)
			dir, m = next, nil
		}
		if expectTakenOver(t, dir); t.Failed() {
			t.Fatalf("round %d", round)
		}
	}
}

// TestTakeOverOfDamage damages files of version 0.1: what is not in a damaged file is taken over.
func TestTakeOverOfDamage(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	opened := unpackOld(t)
	if err := open(t, Options{Dir: opened}).Close(); err != nil {
		t.Fatal(err)
	}
	letters := map[string]int{}
	d := openDead(t, DeadLetterOptions{Dir: opened})
	for i, l := range list(t, d, DeadLetterFilter{}) {
		letters[l.ID] = i
	}
	rounds := soak.Count(t, "QUEUE_TAKEOVER_DAMAGE", 40, 2000)
	damage(t, rounds, seed, damager{pristine: unpackOld(t), letters: letters, suffix: oldSuffix, dead: "dead-letters.db"}, opened)
}

// TestLayout1 reads a store of the layout that has no checksums in the meta bucket.
func TestLayout1(t *testing.T) {
	t.Parallel()
	dir := unpackOld(t)
	for _, file := range segmentsNamed(t, dir, oldSuffix) {
		db, err := bolt.Open(file, 0o600, &bolt.Options{PageSize: boltfile.PageSize})
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Update(func(tx *bolt.Tx) error {
			meta := tx.Bucket([]byte("meta"))
			for _, key := range []string{"info", "summary", "cursors"} {
				value, ok := appendlog.CutCRC(bytes.Clone(meta.Get([]byte(key))))
				if !ok {
					return fmt.Errorf("%s has no checksum", key)
				}
				if key == "info" {
					value[0] = 1
				}
				if err := meta.Put([]byte(key), value); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(filepath.Join(dir, cursorsName)); err != nil {
		t.Fatal(err)
	}
	q, dropped := countingQueue(t, Options{Dir: dir})
	for name, from := range map[string]int{"all": 0, "some": damageAcked} {
		for i, r := range next(t, cursor(t, q, name), damageRecords-from) {
			if want := damageRecord(from + i + 1); string(r.Data) != want {
				t.Fatalf("%s: record %d is %.30q", name, r.Seq, r.Data)
			}
		}
	}
	if n := testutil.ToFloat64(q.metrics.damaged); n != 0 || dropped.Load() != 0 {
		t.Errorf("%v damaged, %d dropped", n, dropped.Load())
	}
}
