package queue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/tests/scratch"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/datadir"
	"github.com/hmcnotifyd/hmcnotifyd/tests/soak"
)

var errPowerless = fmt.Errorf("the power is off: %w", syscall.ENXIO)

// powered is a file system that knows what of its files is on disk: what was not synced when the power
// goes is there, or is not, or in part, sector by sector. It may refuse operations; what a sync that
// failed has not written never comes to the disk, though it is read until the power goes.
type powered struct {
	mu   sync.Mutex
	rand *rand.Rand
	// How probable it is that an operation is refused.
	faults float64
	// Operations until the power goes; below zero it is off.
	left int
	off  chan struct{}
	// by path
	now, durable map[string]*content
	// What has happened to the names since the directory was synced.
	names []map[string]*content
}

// content is that of a file.
type content struct {
	synced  []byte
	pending []change
}

// change is a write, or without data a cut.
type change struct {
	at   int64
	data []byte
}

func (c *change) apply(b []byte) []byte {
	if c.data == nil {
		return append(b[:min(c.at, int64(len(b)))], make([]byte, max(0, c.at-int64(len(b))))...)
	}
	if end := c.at + int64(len(c.data)); end > int64(len(b)) {
		b = append(b, make([]byte, end-int64(len(b)))...)
	}
	copy(b[c.at:], c.data)
	return b
}

// tear applies a change sector by sector, each of them with a probability. A cut is whole.
func (c *change) tear(b []byte, r *rand.Rand, keep float64) []byte {
	if c.data == nil {
		if r.Float64() < keep {
			b = c.apply(b)
		}
		return b
	}
	if r.IntN(2) == 0 { // the size is known, what is there is not
		end := change{at: max(int64(len(b)), c.at+int64(len(c.data)))}
		b = end.apply(b)
	}
	for at := c.at; at < c.at+int64(len(c.data)); {
		sector := min((at/512+1)*512, c.at+int64(len(c.data)))
		if r.Float64() < keep {
			part := change{at, c.data[at-c.at : sector-c.at]}
			b = part.apply(b)
		}
		at = sector
	}
	return b
}

// newPowered makes one of what is in a directory.
func newPowered(t *testing.T, r *rand.Rand, dir string, left int) *powered {
	t.Helper()
	m := &powered{
		rand: rand.New(rand.NewPCG(r.Uint64(), 3)), left: left, off: make(chan struct{}), now: map[string]*content{},
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		m.now[filepath.Join(dir, e.Name())] = &content{synced: b}
	}
	m.durable = maps.Clone(m.now)
	return m
}

// step runs an operation while there is power.
func (m *powered) step(op func() error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.left--; m.left < 0 {
		if m.left == -1 {
			close(m.off)
		}
		return errPowerless
	}
	return op()
}

// again gives a process that comes after one that was killed what that has left, and so many
// operations.
func (m *powered) again(left int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.left, m.off, m.faults = left, make(chan struct{}), 0
}

// cut ends the process, or the power.
func (m *powered) cut() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.left >= 0 {
		m.left = -1
		close(m.off)
	}
}

// refuses returns an error at times. m.mu is held.
func (m *powered) refuses(errs ...error) error {
	if m.rand.Float64() >= m.faults {
		return nil
	}
	return errs[m.rand.IntN(len(errs))]
}

// renamed notes what the names are now.
func (m *powered) renamed() { m.names = append(m.names, maps.Clone(m.now)) }

func (m *powered) Open(path string, flag int) (f datadir.SystemFile, err error) {
	err = m.step(func() error {
		if flag&os.O_CREATE != 0 {
			if err := m.refuses(syscall.ENOSPC); err != nil {
				return err
			}
		}
		f, err = datadir.Disk.Open(path, flag)
		if err != nil {
			return err
		}
		if m.now[path] == nil {
			m.now[path] = &content{}
			m.renamed()
		}
		f = &poweredFile{f, m, m.now[path]}
		return nil
	})
	return f, err
}

func (m *powered) Rename(from, to string) error {
	return m.step(func() error {
		if err := m.refuses(syscall.EIO); err != nil {
			return err
		}
		m.now[to] = m.now[from]
		delete(m.now, from)
		m.renamed()
		return datadir.Disk.Rename(from, to)
	})
}

func (m *powered) Remove(path string) error {
	return m.step(func() error {
		if err := m.refuses(syscall.EIO); err != nil {
			return err
		}
		if m.now[path] != nil {
			delete(m.now, path)
			m.renamed()
		}
		return datadir.Disk.Remove(path)
	})
}

func (m *powered) Sync(string) error {
	return m.step(func() error {
		if err := m.refuses(syscall.EIO); err != nil {
			return err
		}
		m.durable, m.names = maps.Clone(m.now), nil
		return nil
	})
}

type poweredFile struct {
	datadir.SystemFile
	m *powered
	c *content
}

func (f *poweredFile) WriteAt(b []byte, at int64) (n int, err error) {
	err = f.m.step(func() error {
		refused := f.m.refuses(syscall.ENOSPC, syscall.EIO)
		if refused != nil {
			b = b[:f.m.rand.IntN(len(b)+1)]
		}
		f.c.pending = append(f.c.pending, change{at, slices.Clone(b)})
		n, err = f.SystemFile.WriteAt(b, at)
		return cmp.Or(refused, err)
	})
	return n, err
}

func (f *poweredFile) Truncate(size int64) error {
	return f.m.step(func() error {
		if err := f.m.refuses(syscall.EIO); err != nil {
			return err
		}
		f.c.pending = append(f.c.pending, change{at: size})
		return f.SystemFile.Truncate(size)
	})
}

func (f *poweredFile) Sync() error {
	return f.m.step(func() error {
		refused := f.m.refuses(syscall.EIO)
		for i := range f.c.pending {
			if p := &f.c.pending[i]; refused == nil {
				f.c.synced = p.apply(f.c.synced)
			} else {
				f.c.synced = p.tear(f.c.synced, f.m.rand, 0.5)
			}
		}
		f.c.pending = nil
		return refused
	})
}

// leave writes into a directory what is left when the power goes.
func (m *powered) leave(t *testing.T, to string) {
	t.Helper()
	m.cut()
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := os.MkdirAll(to, 0o700); err != nil {
		t.Fatal(err)
	}
	names := m.durable
	if n := m.rand.IntN(len(m.names) + 1); n > 0 { // changes of names keep their order
		names = m.names[n-1]
	}
	keep := []float64{0, 0.3, 0.9, 1}[m.rand.IntN(4)]
	for path, c := range names {
		b := slices.Clone(c.synced)
		for i := range c.pending {
			b = c.pending[i].tear(b, m.rand, keep)
		}
		if err := os.WriteFile(filepath.Join(to, filepath.Base(path)), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// history is what a store has been told and has confirmed.
type history struct {
	t    *testing.T
	rand *rand.Rand
	log  *zap.Logger

	batches []batch
	// What the batches may be instead: what was refused may be stored all the same, as long as
	// nothing that came after it was confirmed.
	instead []attempt
	// So many batches are confirmed.
	confirmed atomic.Int64
	mu        sync.Mutex
	seen      map[uint64]string
	acked     map[string]uint64
	// by number, what a letter says
	letters map[string]string
	// What that may be instead.
	doubtful []map[string]string
	dropped  atomic.Int64
}

// attempt is what was appended when something was refused, and what was confirmed then.
type attempt struct {
	batches   []batch
	confirmed int64
}

// batch is one that was appended: how many records it has, and what they say.
type batch struct {
	records int
	salt    uint32
}

func (b batch) record(number, i int) string {
	return fmt.Sprintf("%d.%d %d %s", number, i, b.salt, strings.Repeat("x", number*i*7919%3000))
}

func newHistory(t *testing.T, r *rand.Rand, log *zap.Logger) *history {
	return &history{t: t, rand: r, log: log, seen: map[uint64]string{}, acked: map[string]uint64{}, letters: map[string]string{}}
}

// TestPowerLoss stores, acknowledges and puts aside at random on a machine that loses its power, or a
// process that is killed, after any of the operations on its files, again and again, and that refuses
// some of them. Whatever was confirmed is there, each batch is there as a whole with its state or not at
// all, what a cursor has seen is what is stored under that number for ever, and none of that is called
// damage.
func TestPowerLoss(t *testing.T) {
	t.Parallel()
	rounds := soak.Count(t, "QUEUE_POWER", 40, 3000)
	seed := uint64(soak.Count(t, "SEED", int(time.Now().UnixNano()>>10&0xffffffff), int(time.Now().UnixNano()>>10&0xffffffff)))
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 18))
	core, logs := observer.New(zap.WarnLevel)
	h := newHistory(t, r, zap.New(core))
	base := scratch.Memory(t)
	dir := filepath.Join(base, "0")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	losses, batches, refused := 0, 0, 0
	var m *powered
	for round := range rounds {
		if round%20 == 19 {
			batches += len(h.batches) // a life of its own, since all of what is stored is looked at each time
			h, m = newHistory(t, r, h.log), nil
			if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700)); err != nil {
				t.Fatal(err)
			}
		}
		left, power, faults := 1+r.IntN(300), r.IntN(2) == 0, r.IntN(3) == 0
		if m == nil {
			m = newPowered(t, r, dir, left)
		} else {
			m.again(left) // what was not synced by then is not on disk now
		}
		if faults {
			m.faults = []float64{0.01, 0.05, 0.3}[r.IntN(3)]
			refused++
		}
		h.run(dir, m, r.IntN(4) == 0)
		if power {
			losses++
			next := filepath.Join(base, fmt.Sprint(round+1))
			m.leave(t, next)
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			dir = next
			m = newPowered(t, r, dir, 0)
		}
		m.again(math.MaxInt)
		if h.judge(round, dir, m); t.Failed() {
			t.Fatalf("round %d, power %v, faults %v, the log: %v", round, power, faults, entries(logs))
		}
		logs.TakeAll()
	}
	t.Logf("%d batches; the power was lost %d times, operations were refused in %d rounds", batches+len(h.batches), losses, refused)
}

// entries returns what was logged, a line each.
func entries(logs *observer.ObservedLogs) (lines string) {
	for _, e := range logs.All() {
		lines += fmt.Sprintln(e.Message, e.ContextMap())
	}
	return lines
}

// refusal tells that an error is one of those that a powered returns.
func refusal(err error) bool {
	return errors.Is(err, errPowerless) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EIO)
}

// run uses a store until the power goes; orderly tells whether it is closed before.
func (h *history) run(dir string, m *powered, orderly bool) {
	h.t.Helper()
	metrics := NewMetrics(nil)
	q, err := Open(Options{
		Dir: dir, SegmentBytes: 64 << 10, CacheBytes: 8 << 10, Metrics: metrics, Logger: h.log, system: m,
		OnDropped: func(string, int) { h.dropped.Add(1) },
	})
	if err != nil {
		if !refusal(err) {
			h.t.Fatal(err)
		}
		return
	}
	var group sync.WaitGroup
	ctx, cancel := context.WithCancel(h.t.Context())
	for _, name := range []string{"a", "b"} {
		c, err := q.Cursor(name)
		if err != nil {
			break
		}
		r := rand.New(rand.NewPCG(h.rand.Uint64(), 1))
		h.mu.Lock()
		if c.Acked() < h.acked[name+" synced"] {
			h.t.Errorf("cursor %s is at %d, and was stored at %d", name, c.Acked(), h.acked[name+" synced"])
		}
		h.mu.Unlock()
		group.Go(func() { h.read(ctx, q, c, r) })
	}
	seed := h.rand.Uint64()
	group.Go(func() { h.putAside(ctx, dir, m, rand.New(rand.NewPCG(seed, 2))) })
	h.write(ctx, q, m)
	if !orderly {
		select { // the power goes meanwhile
		case <-m.off:
		case <-time.After(time.Duration(h.rand.IntN(3)) * time.Millisecond):
			m.cut()
		}
	}
	cancel()
	group.Wait()
	if err := q.Close(); err != nil && !refusal(err) {
		h.t.Errorf("close: %v", err)
	}
	if n := testutil.ToFloat64(metrics.damaged); n > 0 {
		h.t.Errorf("%v files are called damaged", n)
	}
}

// write appends batches, each of which builds on the one before. After one that was refused it goes on
// with what is stored then.
func (h *history) write(ctx context.Context, q *Queue, m *powered) {
	chain, waiting, failures := new(Chain), new(sync.WaitGroup), 0
	for range h.rand.IntN(60) {
		select {
		case <-m.off:
			return
		default:
		}
		if chain.Failed() {
			waiting.Wait()
			confirmed := h.confirmed.Load()
			h.instead = append(h.instead, attempt{slices.Clone(h.batches), confirmed})
			h.batches = h.batches[:lastBatch(h.t, q)+1]
			if len(h.batches) != int(confirmed) {
				h.t.Errorf("%d batches are stored, %d are confirmed", len(h.batches), confirmed)
			}
			if failures++; failures == 5 { // each of them takes a while
				return
			}
			chain = new(Chain)
		}
		number, one := len(h.batches), batch{h.rand.IntN(12), h.rand.Uint32()}
		b := Batch{Chain: chain, State: []KeyValue{
			{Key: "last", Value: fmt.Append(nil, number)},
			{Key: fmt.Sprintf("k%d", number%50), Value: fmt.Append(nil, number, " ", one.salt)},
		}}
		for i := range one.records {
			b.Records = append(b.Records, []byte(one.record(number, i)))
		}
		stored := make(chan struct{})
		b.Done = func(err error) {
			if err == nil {
				h.confirmed.Store(int64(number + 1))
			}
			close(stored)
			waiting.Done()
		}
		waiting.Add(1)
		switch err := q.Append(ctx, b); {
		case errors.Is(err, ErrChain):
			waiting.Done()
			continue
		case err != nil:
			waiting.Done()
			return
		}
		h.batches = append(h.batches, one)
		if h.rand.IntN(3) == 0 {
			<-stored
		}
	}
}

// lastBatch is the number of the last batch that is stored, -1 if there is none.
func lastBatch(t *testing.T, q *Queue) int {
	t.Helper()
	last := -1
	if value, ok := q.State("last"); ok {
		if _, err := fmt.Sscan(string(value), &last); err != nil {
			t.Fatal(err)
		}
	}
	return last
}

// read reads and acknowledges.
func (h *history) read(ctx context.Context, q *Queue, c *Cursor, r *rand.Rand) {
	for {
		records, err := c.Next(ctx, 1+r.IntN(40), 0)
		if err != nil {
			return
		}
		h.mu.Lock()
		for _, record := range records {
			if was, ok := h.seen[record.Seq]; ok && was != string(record.Data) {
				h.t.Errorf("record %d was %.20q and is %.20q", record.Seq, was, record.Data)
			}
			h.seen[record.Seq] = string(record.Data)
		}
		h.mu.Unlock()
		if r.IntN(3) > 0 {
			_ = c.Ack(records[r.IntN(len(records))].Seq)
		}
		if acked := c.Acked(); r.IntN(4) == 0 && q.flushPositions(true) == nil {
			h.mu.Lock()
			h.acked[c.name+" synced"] = max(h.acked[c.name+" synced"], acked)
			h.mu.Unlock()
		}
	}
}

// lettersOf returns what the letters say, by the names of their events.
func lettersOf(listed []DeadLetter) map[string]string {
	all := map[string]string{}
	for _, l := range listed {
		all[l.EventID] = l.Reason
	}
	return all
}

// putAside puts, changes and removes dead letters. What was refused did not happen, as far as can be
// seen.
func (h *history) putAside(ctx context.Context, dir string, m *powered, r *rand.Rand) {
	metrics := NewMetrics(nil)
	d, err := OpenDeadLetters(DeadLetterOptions{Dir: dir, System: m, Metrics: metrics, Logger: h.log})
	if err != nil {
		return
	}
	defer func() {
		_ = d.Close()
		if n := testutil.ToFloat64(metrics.damaged); n > 0 {
			h.t.Errorf("%v files of letters are called damaged", n)
		}
	}()
	for range 200 {
		if ctx.Err() != nil {
			return
		}
		var listed []DeadLetter
		if listed, err = d.List(DeadLetterFilter{}); err != nil {
			return
		}
		if all := lettersOf(listed); !maps.Equal(all, h.letters) {
			h.t.Errorf("%d letters, %d are confirmed", len(all), len(h.letters))
			return
		}
		now := maps.Clone(h.letters)
		var n int
		switch size := len(listed); {
		case size == 0 || size < 40 && r.IntN(3) > 0:
			name := fmt.Sprint(r.Uint64())
			now[name] = "first"
			err = d.Put(DeadLetter{Sink: fmt.Sprint(r.IntN(3)), EventID: name, Reason: "first", Data: make([]byte, r.IntN(8_000))})
		case r.IntN(2) == 0:
			l := listed[r.IntN(size)]
			l.Reason = fmt.Sprint("again ", r.Uint32())
			now[l.EventID] = l.Reason
			err = d.Update(l)
		default:
			gone, ids := []DeadLetter{listed[r.IntN(size)]}, []string(nil)
			if r.IntN(4) == 0 {
				gone = listed
			}
			for _, l := range gone {
				delete(now, l.EventID)
				ids = append(ids, l.ID)
			}
			n, err = d.Delete(ids...)
			if err == nil && n != len(gone) {
				h.t.Errorf("%d of %d letters deleted", n, len(gone))
			}
		}
		if err != nil {
			h.doubtful = append(h.doubtful, now)
			continue
		}
		h.letters, h.doubtful = now, nil
	}
}

// judge opens what is left.
func (h *history) judge(round int, dir string, m *powered) {
	t := h.t
	t.Helper()
	metrics := NewMetrics(nil)
	q, err := Open(Options{
		Dir: dir, SegmentBytes: 64 << 10, Metrics: metrics, Logger: h.log, Retain: time.Hour, system: m,
	})
	if err != nil {
		t.Errorf("round %d: %v", round, err)
		return
	}
	// What is stored is a prefix of what was appended, whole batches, with their state.
	var got []string
	first, last := q.Bounds()
	r := q.Reader(0, false)
	for {
		records, err := r.Poll(1000, 0)
		if err != nil {
			t.Fatal(err)
		}
		if len(records) == 0 {
			break
		}
		for _, record := range records {
			got = append(got, string(record.Data))
			if was, ok := h.seen[record.Seq]; ok && was != string(record.Data) {
				t.Errorf("record %d was %.20q and is %.20q", record.Seq, was, record.Data)
			}
			h.seen[record.Seq] = string(record.Data)
		}
	}
	r.Close()
	if len(got) != int(last-first+1) {
		t.Errorf("%d records from %d to %d", len(got), first, last)
	}
	stored := lastBatch(t, q) + 1
	if int64(stored) < h.confirmed.Load() {
		t.Errorf("%d batches are confirmed, the state is that of %d", h.confirmed.Load(), stored)
		return
	}
	wrong := fits(q, h.batches, stored, got, last)
	for _, other := range h.instead {
		if wrong != nil && other.confirmed == h.confirmed.Load() {
			if fits(q, other.batches, stored, got, last) == nil {
				wrong, h.batches = nil, other.batches
			}
		}
	}
	if wrong != nil {
		t.Error(wrong)
		return
	}
	h.batches, h.instead = h.batches[:stored], nil
	h.confirmed.Store(int64(stored))
	if h.dropped.Load() > 0 || testutil.ToFloat64(metrics.damaged) > 0 {
		t.Errorf("dropped %d times, %v files are called damaged", h.dropped.Load(), testutil.ToFloat64(metrics.damaged))
	}
	d, err := OpenDeadLetters(DeadLetterOptions{Dir: dir, Metrics: metrics, Logger: h.log, System: m})
	if err != nil {
		t.Fatal(err)
	}
	listed := list(t, d, DeadLetterFilter{})
	letters := lettersOf(listed)
	for _, l := range listed {
		if l, err := d.Get(l.ID); err != nil || len(l.Data) != l.Size {
			t.Errorf("letter %s: %d bytes, %v", l.ID, len(l.Data), err)
		}
	}
	if !slices.ContainsFunc(append(h.doubtful, h.letters), func(d map[string]string) bool { return maps.Equal(d, letters) }) {
		t.Errorf("%d letters, %d are confirmed", len(letters), len(h.letters))
		for name, reason := range letters {
			if h.letters[name] != reason {
				t.Errorf("letter %s is %q instead of %q", name, reason, h.letters[name])
			}
		}
	}
	if n := testutil.ToFloat64(metrics.damaged); n > 0 {
		t.Errorf("%v files of letters are called damaged", n)
	}
	h.letters, h.doubtful = letters, nil
	if err := errors.Join(d.Close(), q.Close()); err != nil {
		t.Fatal(err)
	}
}

// fits tells whether what is stored are the first batches of a list.
func fits(q *Queue, batches []batch, stored int, got []string, last uint64) error {
	if stored > len(batches) {
		return fmt.Errorf("the state is that of %d batches, %d were appended", stored, len(batches))
	}
	var want []string
	for number, b := range batches[:stored] {
		for i := range b.records {
			want = append(want, b.record(number, i))
		}
	}
	if n := len(want) - len(got); n < 0 || !slices.Equal(want[n:], got) {
		return fmt.Errorf("%d records are stored, and are not the last of the %d that should be", len(got), len(want))
	}
	if int(last) != len(want) {
		return fmt.Errorf("the last record is %d, %d were stored", last, len(want))
	}
	for number := max(0, stored-50); number < stored; number++ {
		if v, _ := q.State(fmt.Sprintf("k%d", number%50)); string(v) != fmt.Sprint(number, " ", batches[number].salt) {
			return fmt.Errorf("the state of batch %d is %q", number, v)
		}
	}
	return nil
}
