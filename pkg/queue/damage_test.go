package queue

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/tests/scratch"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/appendlog"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/boltfile"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/datadir"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/deadletters"
	"github.com/hmcnotifyd/hmcnotifyd/tests/soak"
)

// The names of the files, which are those in the directories that there are.
const (
	cursorsName     = "cursors"
	segmentPrefix   = "segment-"
	segmentSuffix   = ".log"
	oldSuffix       = ".db" // of version 0.1
	barrier         = "segment-18446744073709551615.db"
	temporarySuffix = ".tmp"
)

// firstOf returns the first record of a segment, by the name of its file.
func firstOf(t testing.TB, path string) (base uint64) {
	t.Helper()
	digits := strings.TrimPrefix(filepath.Base(path), segmentPrefix)
	if _, err := fmt.Sscanf(digits, "%d.", &base); err != nil {
		t.Fatal(path, err)
	}
	return base
}

func damagedFiles(t testing.TB, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*"+datadir.DamagedSuffix+"*"))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func segmentFiles(t testing.TB, dir string) []string {
	t.Helper()
	return segmentsNamed(t, dir, segmentSuffix)
}

func segmentsNamed(t testing.TB, dir, suffix string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, segmentPrefix+"*"+suffix))
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

// makeStore makes a directory with n records in several segments, state, and the cursors "all"
// (at 0) and "some" (at 50).
func makeStore(t testing.TB, n int) string {
	t.Helper()
	dir := scratch.Memory(t)
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
	switch r.IntN(3) {
	case 0:
		at = r.Int64N(min(size, 32<<10)) // the part with the tree
	case 1:
		at = r.Int64N(min(size, 128<<10)) // what is used, in a file that has grown ahead
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

// cut leaves the first bytes of a file.
func cut(r *rand.Rand, path string) (string, error) {
	at := 1 + r.Int64N(100)
	return fmt.Sprintf("cut at %d", at), os.Truncate(path, at)
}

// onlyFrames says whether a file is nothing but frames, to its end.
func onlyFrames(t *testing.T, path string) bool {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for len(b) > 0 {
		f, ok := appendlog.Parse(b)
		if !ok {
			return false
		}
		b = b[f.End():]
	}
	return true
}

// TestDamage damages a file of a store at hundreds of random places, one at a time, and uses the
// store. HMCNOTIFYD_TEST_SEED repeats a run.
func TestDamage(t *testing.T) {
	t.Parallel()
	rounds := soak.Count(t, "QUEUE_DAMAGE", 100, 4000)
	if testing.Short() || os.Getenv(emulatorEnv) != "" {
		rounds = 100
	}
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("HMCNOTIFYD_TEST_SEED"); s != "" {
		if _, err := fmt.Sscan(s, &seed); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("seed %d", seed)
	pristine := makeStore(t, damageRecords)
	damage(t, rounds, seed, damager{pristine: pristine, letters: makeLetters(t, pristine), suffix: segmentSuffix, dead: deadletters.FileName}, pristine)
}

// damage damages copies of a store; opened is one of it that was opened before.
func damage(t *testing.T, rounds int, seed uint64, kind damager, opened string) {
	t.Helper()
	const shards = 4
	var state []string
	q := open(t, Options{Dir: opened})
	q.StateRange("", func(key string, _ []byte) bool {
		state = append(state, key)
		return true
	})
	if err := q.Close(); err != nil || len(state) < damageRecords/2 {
		t.Fatal(len(state), err)
	}
	var hit sync.Map // rounds in which damage was found, by kind of file
	for shard := range uint64(shards) {
		t.Run(fmt.Sprint(shard), func(t *testing.T) {
			t.Parallel()
			d := kind
			d.t, d.random, d.state = t, rand.New(rand.NewPCG(seed, shard)), state
			d.dir = filepath.Join(scratch.Memory(t), "copy")
			for round := range rounds / shards {
				d.round(round, shard == 0)
			}
			for kind, n := range d.found {
				sum, _ := hit.LoadOrStore(kind, new(atomic.Int64))
				sum.(*atomic.Int64).Add(int64(n))
			}
		})
	}
	t.Cleanup(func() {
		for _, name := range []string{"segment", cursorsName, kind.dead} {
			n := int64(0)
			if sum, ok := hit.Load(name); ok {
				n = sum.(*atomic.Int64).Load()
			}
			t.Logf("%s: damage was found in %d rounds", name, n)
			// One damaged place does no harm to the cursors' file: it has two slots.
			// TestLostCursors is about both.
			if n == 0 && name != cursorsName && !t.Failed() {
				t.Errorf("%s was never found damaged", name)
			}
		}
	})
}

const damageRecords, damageLetters = 400, 60

func damageLetter(i int) (reason, data string) {
	return fmt.Sprintf("reason %d", i), fmt.Sprintf("letter %d %s", i, strings.Repeat(string(rune('A'+i%26)), i*53%2000))
}

// makeLetters adds dead letters to a store, and returns their ids.
func makeLetters(t testing.TB, dir string) map[string]int {
	t.Helper()
	d, err := OpenDeadLetters(DeadLetterOptions{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	for i := range damageLetters {
		reason, data := damageLetter(i)
		if err := d.Put(DeadLetter{Sink: "s", Status: 400, Reason: reason, Data: []byte(data)}); err != nil {
			t.Fatal(err)
		}
	}
	ids := make(map[string]int)
	for i, l := range list(t, d, DeadLetterFilter{}) {
		ids[l.ID] = i
	}
	if err := d.Close(); err != nil || len(ids) != damageLetters {
		t.Fatal(len(ids), err)
	}
	return ids
}

// damager is one of those who damage copies of a store, and look at what is left.
type damager struct {
	t             *testing.T
	random        *rand.Rand
	pristine, dir string
	suffix, dead  string         // of segments and dead letters
	letters       map[string]int // number of each dead letter, by id
	state         []string       // keys
	found         map[string]int // rounds in which damage was found, by kind of file

	// Of the present round.
	where, file    string
	mayFrom, mayTo uint64 // what may be lost
	newest         bool   // the newest segment is damaged
	boundary       bool   // the file was cut where a frame ends: as if no more had been written
	dropped        map[string]*atomic.Int64
	log            *zap.Logger
	logs           *observer.ObservedLogs
	metrics        *Metrics
	lost           int
}

func (d *damager) fatal(format string, args ...any) {
	d.t.Helper()
	d.t.Fatalf("%s: %s", d.where, fmt.Sprintf(format, args...))
}

// round damages one file, and uses the store. The first rounds cut off almost all of each file in
// turn, those that there is one of first, if that is wanted: whether damage at a random place is found
// is a matter of chance.
func (d *damager) round(round int, cutFirst bool) {
	t := d.t
	t.Helper()
	copyDir(t, d.pristine, d.dir)
	segments := segmentsNamed(t, d.dir, d.suffix)
	files := append(slices.Clone(segments), filepath.Join(d.dir, cursorsName), filepath.Join(d.dir, d.dead))
	which, harm := d.random.IntN(len(files)), harm
	if cutFirst && round < len(files) {
		which, harm = len(files)-1-round, cut
	}
	d.file = files[which]
	what, err := harm(d.random, d.file)
	if err != nil {
		t.Fatal(err)
	}
	d.where = fmt.Sprintf("round %d: %s, %s", round, filepath.Base(d.file), what)
	d.boundary = onlyFrames(t, d.file)
	d.mayFrom, d.mayTo, d.newest, d.lost = 0, 0, which == len(segments)-1, 0
	kind := filepath.Base(d.file)
	if which < len(segments) {
		kind = "segment"
		d.mayFrom = firstOf(t, d.file)
		d.mayTo = damageRecords
		if !d.newest {
			d.mayTo = firstOf(t, files[which+1]) - 1
		}
	}
	core, logs := observer.New(zap.WarnLevel)
	d.log, d.logs, d.metrics = zap.New(core), logs, NewMetrics(nil)
	d.dropped = map[string]*atomic.Int64{"all": new(atomic.Int64), "some": new(atomic.Int64)}
	opts := Options{
		Dir: d.dir, Metrics: d.metrics, Logger: d.log,
		OnDropped: func(name string, n int) { d.dropped[name].Add(int64(n)) },
	}
	q, err := Open(opts)
	if err != nil {
		d.fatal("%v", err)
	}
	d.checkQueue(q)
	d.checkLetters()
	if err := q.Close(); err != nil {
		d.fatal("close: %v", err)
	}
	d.checkSaid()
	if testutil.ToFloat64(d.metrics.damaged) > 0 {
		if d.found == nil {
			d.found = make(map[string]int)
		}
		d.found[kind]++
	}
	// What was found is out of the way, if not at the end then at the next start.
	before := testutil.ToFloat64(d.metrics.damaged)
	for starts := 2; starts <= 3; starts++ {
		opts.Metrics = NewMetrics(nil)
		q, err := Open(opts)
		if err != nil {
			d.fatal("start %d: %v", starts, err)
		}
		n := testutil.ToFloat64(opts.Metrics.damaged)
		if n > 0 && (before == 0 || starts > 2) {
			d.fatal("start %d finds damage: %v", starts, d.logs.All())
		}
		for _, name := range q.Cursors() {
			if events, _, _ := cursor(t, q, name).Pending(); events != 0 {
				d.fatal("start %d: %s: %d records wait again", starts, name, events)
			}
		}
		if err := q.Close(); err != nil {
			d.fatal("close: %v", err)
		}
		if n == 0 {
			break
		}
	}
}

// checkQueue reads what is left of the records.
func (d *damager) checkQueue(q *Queue) {
	d.t.Helper()
	if q.end < damageRecords && d.mayTo < damageRecords {
		d.fatal("the queue ends with %d", q.end)
	}
	for _, key := range d.state {
		// each segment has all of the state before it
		if value, ok := q.State(key); ok != (string(value) == "x") || (!ok && !d.newest) {
			d.fatal("the state of %s is %q", key, value)
		}
	}
	if err := tryPut(q, "new"); err != nil {
		d.fatal("append: %v", err)
	}
	for _, name := range []string{"all", "some"} {
		d.checkCursor(q, name)
	}
	counted := d.dropped["all"].Load() + d.dropped["some"].Load()
	if counted != int64(d.lost) {
		d.t.Errorf("%s: %d lost, %d counted", d.where, d.lost, counted)
	}
}

func (d *damager) checkCursor(q *Queue, name string) {
	d.t.Helper()
	c, err := q.Cursor(name)
	if err != nil {
		d.fatal("%v", err)
	}
	last := c.Acked()
	if name == "some" && last != damageAcked && (d.mayTo == 0 || last < damageAcked || last > d.mayTo) {
		d.fatal("the cursor is at %d", last)
	}
	missing := func(from, to uint64) {
		for seq := from; seq <= to && seq <= damageRecords; seq++ {
			d.lost++
			if seq < d.mayFrom || seq > d.mayTo {
				d.fatal("%s: record %d is missing", name, seq)
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
			d.fatal("%s: %v", name, err)
		}
		for _, r := range records {
			missing(last+1, r.Seq-1)
			if sawNew = string(r.Data) == "new"; !sawNew && string(r.Data) != damageRecord(int(r.Seq)) {
				d.fatal("%s: record %d is %.30q", name, r.Seq, r.Data)
			}
			if r.Seq <= last {
				d.fatal("%s: %d after %d", name, r.Seq, last)
			}
			last = r.Seq
		}
	}
	if err := c.Ack(last); err != nil {
		d.fatal("%v", err)
	}
	if events, bytes, _ := c.Pending(); events != 0 || bytes != 0 {
		d.fatal("%s: %d records and %d bytes wait", name, events, bytes)
	}
}

// checkLetters reads what is left of the dead letters, and adds one.
func (d *damager) checkLetters() {
	d.t.Helper()
	harmed := filepath.Base(d.file) == d.dead
	dead, err := OpenDeadLetters(DeadLetterOptions{Dir: d.dir, Metrics: d.metrics, Logger: d.log})
	if err != nil {
		d.fatal("dead letters: %v", err)
	}
	listed, err := dead.List(DeadLetterFilter{})
	if err != nil && !harmed {
		d.fatal("dead letters: %v", err)
	}
	whole, last := 0, false
	for _, l := range listed {
		i, known := d.letters[l.ID]
		last = last || i == damageLetters-1
		reason, data := damageLetter(i)
		if !known || l.Reason != reason {
			d.fatal("dead letter %s is %+v", l.ID, l)
		}
		got, err := dead.Get(l.ID)
		switch {
		case err == nil && string(got.Data) != data:
			d.fatal("the data of dead letter %d is %.30q", i, got.Data)
		case err == nil:
			whole++
		case !harmed:
			d.fatal("dead letter %d: %v", i, err)
		}
	}
	// What is left of the last letter where its end is damaged looks like one that was being
	// written when the power went: it is cut off.
	torn := harmed && (d.boundary || !last && len(listed) == damageLetters-1)
	if !harmed && whole != damageLetters ||
		len(listed) < damageLetters && !torn && testutil.ToFloat64(d.metrics.damaged) == 0 {
		d.fatal("%d of %d dead letters are listed, %d are whole", len(listed), damageLetters, whole)
	}
	// A damaged file may refuse once: it is set aside then.
	err = dead.Put(DeadLetter{Sink: "s", Reason: "new"})
	if err != nil && harmed {
		err = dead.Put(DeadLetter{Sink: "s", Reason: "new"})
	}
	if err != nil {
		d.fatal("dead letter: %v", err)
	}
	if err := dead.Close(); err != nil {
		d.fatal("dead letters: close: %v", err)
	}
}

// checkSaid looks for what a person has to be told.
func (d *damager) checkSaid() {
	d.t.Helper()
	said := func(name string) bool {
		return slices.ContainsFunc(d.logs.All(), func(e observer.LoggedEntry) bool {
			return strings.Contains(fmt.Sprint(e.Message, e.ContextMap()), name)
		})
	}
	damaged := testutil.ToFloat64(d.metrics.damaged)
	if d.lost > 0 && damaged == 0 {
		d.fatal("%d lost and no damage counted", d.lost)
	}
	// What is missing of an old segment may be noticed in the one that was made of it.
	if damaged > 0 && !said(strings.TrimSuffix(filepath.Base(d.file), d.suffix)) {
		d.fatal("the log does not name the file: %v", d.logs.All())
	}
	for _, aside := range damagedFiles(d.t, d.dir) {
		if damaged == 0 || !said(filepath.Base(aside)) || !strings.HasPrefix(filepath.Base(aside), strings.TrimSuffix(filepath.Base(d.file), d.suffix)) {
			d.fatal("%s was set aside, %v files are counted, the log: %v", aside, damaged, d.logs.All())
		}
	}
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
		if err := os.Truncate(files[0], boltfile.PageSize); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(files[1], boltfile.PageSize); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(files[2]); err != nil {
			t.Fatal(err)
		}
		fourth := firstOf(t, files[3])
		missing := all(t, c, 2, 200)
		if want := int(fourth) - 3; missing > want || missing < want-20 {
			t.Errorf("%d missing, want about %d", missing, want)
		}
		// What was read of the first file and is not acknowledged counts too: it would not
		// come again.
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
	// What is written to is empty when all that is in front of it turns out to be gone.
	t.Run("all but an empty one", func(t *testing.T) {
		t.Parallel()
		q := open(t, Options{})
		cursor(t, q, "c")
		fill(t, q, 50)
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
		q, dropped := countingQueue(t, q.opts)
		if err := os.Truncate(segmentFiles(t, q.opts.Dir)[0], 10); err != nil {
			t.Fatal(err)
		}
		c := cursor(t, q, "c")
		expectNothing(t, c)
		mustPut(t, q, "record 51")
		if all(t, c, 50, 51) != 0 || dropped.Load() != 50 || testutil.ToFloat64(q.metrics.damaged) != 1 {
			t.Errorf("%d dropped, %v files damaged", dropped.Load(), testutil.ToFloat64(q.metrics.damaged))
		}
	})
	t.Run("newest segment, read", func(t *testing.T) {
		t.Parallel()
		q, dropped := countingQueue(t, Options{CacheBytes: 1})
		c := cursor(t, q, "c")
		fill(t, q, 50)
		if err := os.Truncate(segmentFiles(t, q.opts.Dir)[0], boltfile.PageSize); err != nil {
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
		if err := os.Truncate(segmentFiles(t, q.opts.Dir)[0], boltfile.PageSize); err != nil {
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

// TestSequenceAfterDamage loses the newest segment, and with it how far the sequence went: no
// number may be used again.
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

// TestEndIsKnown loses the newest segment after an orderly end, in which the last records were
// stored: all that was in it is counted.
func TestEndIsKnown(t *testing.T) {
	t.Parallel()
	q, _ := countingQueue(t, Options{CommitInterval: time.Hour})
	cursor(t, q, "c")
	var b Batch
	for _, r := range numbered(1, 100) {
		b.Records = append(b.Records, []byte(r))
	}
	if err := q.Append(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(segmentFiles(t, q.opts.Dir)[0], 50); err != nil {
		t.Fatal(err)
	}
	if _, dropped := countingQueue(t, q.opts); dropped.Load() != 100 {
		t.Errorf("%d counted", dropped.Load())
	}
}

// TestDamagedMeta flips each bit of what the newest segment says of itself and of the cursors:
// nothing of the other segments is lost, and no cursor goes anywhere.
func TestDamagedMeta(t *testing.T) {
	t.Parallel()
	pristine := makeStore(t, damageRecords)
	// a segment that begins with the positions
	if err := open(t, Options{Dir: pristine}).Close(); err != nil {
		t.Fatal(err)
	}
	files := segmentFiles(t, pristine)
	newest := files[len(files)-1]
	b, err := os.ReadFile(newest)
	if err != nil {
		t.Fatal(err)
	}
	position := binary.BigEndian.AppendUint64([]byte("\x04some"), damageAcked)
	if !bytes.Contains(b, position) {
		t.Fatal("no copy of the positions")
	}
	dir := filepath.Join(scratch.Memory(t), "copy")
	for bit := 1; bit < 64; bit += 3 {
		harmed := bytes.Clone(position)
		harmed[len(harmed)-1-bit/8] ^= 1 << (bit % 8)
		copyDir(t, pristine, dir)
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(newest)), bytes.ReplaceAll(b, position, harmed), 0o600); err != nil {
			t.Fatal(err)
		}
		q := open(t, Options{Dir: dir})
		if got := cursor(t, q, "some").Acked(); got != damageAcked {
			t.Errorf("bit %d: the cursor is at %d", bit, got)
		}
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
