package queue

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
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

	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/appendlog"
	"github.com/hmcnotifyd/hmcnotifyd/tests/soak"
)

var errPowerless = fmt.Errorf("the power is off: %w", syscall.ENXIO)

// powered is a file system that knows what of its files is on disk: what was not synced when the power
// goes is there, or is not, or in part, sector by sector.
type powered struct {
	mu   sync.Mutex
	rand *rand.Rand
	// Operations until the power goes; below zero it is off.
	left int
	off  chan struct{}
	// by path
	now, durable map[string]*content
	// What has happened to the names since the directory was synced.
	names []map[string]*content
	// Of the file of the cursors, which is written past this: what was synced last.
	cursors []byte
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

// newPowered makes one of what is in a directory.
func newPowered(t *testing.T, r *rand.Rand, dir string, left int) *powered {
	t.Helper()
	m := &powered{rand: r, left: left, off: make(chan struct{}), now: map[string]*content{}}
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
		if e.Name() == cursorsName {
			m.cursors = b
		}
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

// rename notes what the names are now.
func (m *powered) renamed() { m.names = append(m.names, maps.Clone(m.now)) }

func (m *powered) Open(path string, flag int) (f appendlog.SystemFile, err error) {
	err = m.step(func() error {
		f, err = appendlog.Disk.Open(path, flag)
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
		m.now[to] = m.now[from]
		delete(m.now, from)
		m.renamed()
		return appendlog.Disk.Rename(from, to)
	})
}

func (m *powered) Remove(path string) error {
	return m.step(func() error {
		if m.now[path] != nil {
			delete(m.now, path)
			m.renamed()
		}
		return appendlog.Disk.Remove(path)
	})
}

func (m *powered) Sync(string) error {
	return m.step(func() error {
		m.durable, m.names = maps.Clone(m.now), nil
		return nil
	})
}

type poweredFile struct {
	appendlog.SystemFile
	m *powered
	c *content
}

func (f *poweredFile) WriteAt(b []byte, at int64) (n int, err error) {
	err = f.m.step(func() error {
		f.c.pending = append(f.c.pending, change{at, slices.Clone(b)})
		n, err = f.SystemFile.WriteAt(b, at)
		return err
	})
	return n, err
}

func (f *poweredFile) Truncate(size int64) error {
	return f.m.step(func() error {
		f.c.pending = append(f.c.pending, change{at: size})
		return f.SystemFile.Truncate(size)
	})
}

func (f *poweredFile) Sync() error {
	return f.m.step(func() error {
		for i := range f.c.pending {
			f.c.synced = f.c.pending[i].apply(f.c.synced)
		}
		f.c.pending = nil
		return nil
	})
}

// poweredStore notes what is synced of the cursors.
type poweredStore struct {
	Store
	m   *powered
	dir string
}

func (s poweredStore) SaveCursors(c *Checkpoint, sync bool) error {
	return s.m.step(func() error {
		err := s.Store.SaveCursors(c, sync)
		if err == nil && (sync || s.m.cursors == nil) {
			s.m.cursors, err = os.ReadFile(filepath.Join(s.dir, cursorsName))
		}
		return err
	})
}

// leave writes into a directory what is left when the power goes, or when only the process ends.
func (m *powered) leave(t *testing.T, from, to string, power bool) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.left >= 0 {
		m.left = -1
		close(m.off)
	}
	if err := os.MkdirAll(to, 0o700); err != nil {
		t.Fatal(err)
	}
	names := m.now
	if power {
		names = m.durable
		if n := m.rand.IntN(len(m.names) + 1); n > 0 { // changes of names keep their order
			names = m.names[n-1]
		}
	}
	keep := []float64{0, 0.3, 0.9, 1}[m.rand.IntN(4)]
	for path, c := range names {
		b := slices.Clone(c.synced)
		for _, p := range c.pending {
			if !power {
				b = p.apply(b)
				continue
			}
			if p.data == nil {
				if m.rand.Float64() < keep {
					b = p.apply(b)
				}
				continue
			}
			if m.rand.IntN(2) == 0 { // the size is known, what is there is not
				end := change{at: max(int64(len(b)), p.at+int64(len(p.data)))}
				b = end.apply(b)
			}
			for at := p.at; at < p.at+int64(len(p.data)); {
				sector := min((at/512+1)*512, p.at+int64(len(p.data)))
				if m.rand.Float64() < keep {
					part := change{at, p.data[at-p.at : sector-p.at]}
					b = part.apply(b)
				}
				at = sector
			}
		}
		if err := os.WriteFile(filepath.Join(to, filepath.Base(path)), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(filepath.Join(from, cursorsName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if err != nil {
		return
	}
	if power && len(b) == len(m.cursors) {
		for at := 0; at < len(b); at += 512 {
			if m.rand.IntN(2) == 0 {
				copy(b[at:at+512], m.cursors[at:])
			}
		}
	}
	if err := os.WriteFile(filepath.Join(to, cursorsName), b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// history is what a store has been told and has confirmed.
type history struct {
	t    *testing.T
	rand *rand.Rand
	// Of each batch its number of records; batch i holds records "i.0", "i.1" ...
	batches []int
	// So many batches are confirmed.
	confirmed atomic.Int64
	mu        sync.Mutex
	seen      map[uint64]string
	acked     map[string]uint64
	// by number, what a letter says; nil: it was removed
	letters map[string]string
	// What the last change makes of that, which may not have been stored.
	doubtful map[string]string
	dropped  atomic.Int64
	log      *zap.Logger
}

func historyRecord(batch, i int) string {
	return fmt.Sprintf("%d.%d %s", batch, i, strings.Repeat("x", batch*i*7919%3000))
}

// TestPowerLoss stores, acknowledges and puts aside at random on a machine that loses its power, or a
// process that is killed, after any of the operations on its files, again and again. Whatever was
// confirmed is there, each batch is there as a whole with its state or not at all, what a cursor has
// seen is what is stored under that number for ever, and none of that is called damage.
func TestPowerLoss(t *testing.T) {
	t.Parallel()
	rounds := soak.Count(t, "QUEUE_POWER", 60, 3000)
	seed := uint64(soak.Count(t, "SEED", int(time.Now().UnixNano()>>10&0xffffffff), int(time.Now().UnixNano()>>10&0xffffffff)))
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 18))
	core, logs := observer.New(zap.ErrorLevel)
	h := &history{log: zap.New(core), t: t, rand: r, seen: map[uint64]string{}, acked: map[string]uint64{}, letters: map[string]string{}}
	base := memoryDir(t)
	dir := filepath.Join(base, "0")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	losses, batches := 0, 0
	for round := range rounds {
		if round%20 == 19 {
			batches += len(h.batches) // a life of its own, since all of what is stored is looked at each time
			h = &history{log: h.log, t: t, rand: r, seen: map[uint64]string{}, acked: map[string]uint64{}, letters: map[string]string{}}
			if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700)); err != nil {
				t.Fatal(err)
			}
		}
		m := newPowered(t, r, dir, 1+r.IntN(300))
		how := r.IntN(4)
		h.run(dir, m, how == 0)
		next := filepath.Join(base, fmt.Sprint(round+1))
		m.leave(t, dir, next, how >= 2)
		if how >= 2 {
			losses++
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		dir = next
		h.judge(round, dir)
		if !t.Failed() {
			logs.TakeAll()
		}
		if t.Failed() {
			t.Fatalf("round %d, the log: %v", round, logs.All())
		}
	}
	t.Logf("%d batches; the power was lost %d times", batches+len(h.batches), losses)
}

// run uses a store until the power goes; orderly tells whether it is closed before.
func (h *history) run(dir string, m *powered, orderly bool) {
	h.t.Helper()
	metrics := NewMetrics(nil)
	q, err := Open(Options{
		Dir: dir, SegmentBytes: 64 << 10, CacheBytes: 8 << 10, Metrics: metrics, Logger: h.log, system: m,
		Wrap:      func(s Store) Store { return poweredStore{s, m, dir} },
		OnDropped: func(string, int) { h.dropped.Add(1) },
	})
	if err != nil {
		if !errors.Is(err, errPowerless) {
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
	stop := h.rand.IntN(60)
	for range stop {
		i := len(h.batches)
		b := Batch{State: []KeyValue{{Key: "last", Value: fmt.Append(nil, i)}, {Key: fmt.Sprintf("k%d", i%50), Value: fmt.Append(nil, i)}}}
		n := h.rand.IntN(12)
		for j := range n {
			b.Records = append(b.Records, []byte(historyRecord(i, j)))
		}
		b.Done = func(err error) {
			if err == nil {
				h.confirmed.Store(int64(i + 1))
			}
		}
		if h.rand.IntN(3) == 0 {
			done := b.Done
			stored := make(chan error, 1)
			b.Done = func(err error) { done(err); stored <- err }
			h.batches = append(h.batches, n)
			if q.Append(ctx, b) != nil || <-stored != nil {
				break
			}
			continue
		}
		h.batches = append(h.batches, n)
		if q.Append(ctx, b) != nil {
			break
		}
		select {
		case <-m.off:
		default:
			continue
		}
		break
	}
	if !orderly {
		select { // the power goes meanwhile
		case <-m.off:
		case <-time.After(time.Duration(h.rand.IntN(3)) * time.Millisecond):
			m.mu.Lock()
			if m.left >= 0 {
				m.left = -1
				close(m.off)
			}
			m.mu.Unlock()
		}
	}
	cancel()
	group.Wait()
	if err := q.Close(); err != nil && !errors.Is(err, errPowerless) {
		h.t.Errorf("close: %v", err)
	}
	if n := testutil.ToFloat64(metrics.damaged); n > 0 {
		h.t.Errorf("%v files are called damaged", n)
	}
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

// putAside puts, changes and removes dead letters.
func (h *history) putAside(ctx context.Context, dir string, m *powered, r *rand.Rand) {
	metrics := NewMetrics(nil)
	d, err := OpenDeadLetters(DeadLetterOptions{Dir: dir, System: m, Metrics: metrics, Logger: h.log})
	if err != nil {
		return
	}
	defer func() { _ = d.Close() }()
	for ctx.Err() == nil {
		var listed []DeadLetter
		if listed, err = d.List(DeadLetterFilter{}); err != nil {
			return
		}
		now := maps.Clone(h.letters)
		var n int
		switch size := len(listed); {
		case size == 0 || size < 40 && r.IntN(3) > 0:
			name := fmt.Sprint(r.Uint64())
			now[name] = "first"
			h.doubtful = now
			err = d.Put(DeadLetter{Sink: fmt.Sprint(r.IntN(3)), EventID: name, Reason: "first", Data: make([]byte, r.IntN(8_000))})
		case r.IntN(2) == 0:
			l := listed[r.IntN(size)]
			l.Reason = fmt.Sprint("again ", r.Uint32())
			now[l.EventID] = l.Reason
			h.doubtful = now
			err = d.Update(l)
		default:
			l := listed[r.IntN(size)]
			delete(now, l.EventID)
			h.doubtful = now
			n, err = d.Delete(l.ID)
			if err == nil && n != 1 {
				h.t.Errorf("%d letters deleted", n)
			}
		}
		if err != nil {
			return
		}
		h.letters, h.doubtful = now, nil
	}
}

// judge opens what is left.
func (h *history) judge(round int, dir string) {
	t := h.t
	t.Helper()
	metrics := NewMetrics(nil)
	q, err := Open(Options{Dir: dir, SegmentBytes: 64 << 10, Metrics: metrics, Logger: h.log, Retain: time.Hour})
	if err != nil {
		t.Fatalf("round %d: %v", round, err)
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
	value, ok := q.State("last")
	stored := 0
	if ok {
		if _, err := fmt.Sscan(string(value), &stored); err != nil {
			t.Fatal(err)
		}
		stored++
	}
	if int64(stored) < h.confirmed.Load() || stored > len(h.batches) {
		t.Errorf("%d batches are confirmed, %d were appended, the state is that of %d", h.confirmed.Load(), len(h.batches), stored)
		return
	}
	h.confirmed.Store(int64(stored))
	h.batches = h.batches[:stored]
	var want []string
	for i, n := range h.batches {
		for j := range n {
			want = append(want, historyRecord(i, j))
		}
	}
	if n := len(want) - len(got); n < 0 || !slices.Equal(want[n:], got) {
		t.Errorf("%d records are stored, and are not the last of the %d that should be", len(got), len(want))
	}
	if int(last) != len(want) {
		t.Errorf("the last record is %d, %d were stored", last, len(want))
	}
	for i := max(0, stored-50); i < stored; i++ {
		if v, _ := q.State(fmt.Sprintf("k%d", i%50)); string(v) != fmt.Sprint(i) {
			t.Errorf("the state of batch %d is %q", i, v)
		}
	}
	if h.dropped.Load() > 0 || testutil.ToFloat64(metrics.damaged) > 0 {
		t.Errorf("dropped %d times, %v files are called damaged", h.dropped.Load(), testutil.ToFloat64(metrics.damaged))
	}
	d, err := OpenDeadLetters(DeadLetterOptions{Dir: dir, Metrics: metrics, Logger: h.log})
	if err != nil {
		t.Fatal(err)
	}
	letters := map[string]string{}
	for _, l := range list(t, d, DeadLetterFilter{}) {
		letters[l.EventID] = l.Reason
		if l, err := d.Get(l.ID); err != nil || len(l.Data) != l.Size {
			t.Errorf("letter %s: %d bytes, %v", l.ID, len(l.Data), err)
		}
	}
	if !maps.Equal(letters, h.letters) && (h.doubtful == nil || !maps.Equal(letters, h.doubtful)) {
		t.Errorf("%d letters, %d are confirmed", len(letters), len(h.letters))
		for name, reason := range letters {
			if h.letters[name] != reason {
				t.Errorf("letter %s is %q instead of %q", name, reason, h.letters[name])
			}
		}
	}
	h.letters, h.doubtful = letters, nil
	if err := errors.Join(d.Close(), q.Close()); err != nil {
		t.Fatal(err)
	}
}
