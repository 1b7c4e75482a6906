package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/datadir"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/storage"
)

const (
	// partBytes is what a message has of a group that is larger: enough for the cost of a message
	// to disappear, little enough for who reads one record of it.
	partBytes = 256 << 10
	// inFlight is how many messages of one write may be on their way.
	inFlight = 4
	// readBytes and readMessages are what is read at once, also where one record is asked for.
	readBytes, readMessages = 256 << 10, 256
	// runs is how many of these are kept, for readers at different places.
	runs = 8
	// loadTimeout bounds how long a log is read before it can be used.
	loadTimeout = 2 * time.Minute
	// retryWait is the pause before something is tried again.
	retryWait = 100 * time.Millisecond
	// DefaultPatience is the default of StoreOptions.Patience.
	DefaultPatience = 10 * time.Second
)

const cursorsKey = "cursors"

// StoreOptions say who writes.
type StoreOptions struct {
	// Epoch is above that of everybody who has written before.
	Epoch uint64
	// Patience is how long a write is tried before it fails; 0: DefaultPatience.
	Patience time.Duration
	// Committed, which may be nil, is told how long it took to store a group.
	Committed func(time.Duration)
	// Warm, which may be nil, is what was read of the log already: it has ended, and is given the
	// rest.
	Warm *Tail
	// Life ends all that waits for the cluster. It is not the end of the Store.
	Life context.Context //nolint:containedctx // the interface of a store knows none
}

// Store keeps a queue's data in the log's stream.
type Store struct {
	c        *Cluster
	epoch    uint64
	patience time.Duration
	// see StoreOptions
	committed func(time.Duration)
	life      context.Context //nolint:containedctx // see StoreOptions

	// What has read the log.
	tail *Tail

	// Used by who commits.
	writes uint64
	// The last message that is known to be in the stream.
	last uint64
	// The write of a segment that has failed and may be stored all the same, and whether it is.
	doubtful uint64
	begun    bool

	// Used by who saves cursors.
	revision uint64

	lost     chan struct{}
	lostOnce sync.Once
	// ending says that another daemon is to lead.
	ending atomic.Bool

	mu       sync.Mutex
	segments []*segment
	runs     []run
	why      error // of lost
}

// segment is where a segment of the queue is in the stream.
type segment struct {
	base    uint64
	summary []byte
	epoch   uint64
	// Its first message, which begins its state, and the last one that counts.
	from, to uint64
	size     int64
}

// run is what was read of a segment at once.
type run struct {
	segment uint64
	found   []stored
	// The last record in it, and the message behind it.
	last, behind uint64
}

// NewStore returns a store for a queue, which loads it and writes to it.
func NewStore(c *Cluster, o StoreOptions) *Store {
	s := &Store{
		c: c, epoch: o.Epoch, patience: cmp.Or(o.Patience, DefaultPatience), life: o.Life, lost: make(chan struct{}),
		committed: o.Committed,
	}
	if s.committed == nil {
		s.committed = func(time.Duration) {}
	}
	if s.life == nil {
		s.life = context.Background()
	}
	if s.tail = o.Warm; s.tail == nil {
		s.tail = c.Tail(nil)
	}
	return s
}

// Ending says that this daemon ends and another one may lead: what that forbids then is no error.
func (s *Store) Ending() { s.ending.Store(true) }

// Lost is closed when the log belongs to another daemon: the queue is to be closed.
func (s *Store) Lost() <-chan struct{} { return s.lost }

// Why is ErrDeposed once Lost is closed.
func (s *Store) Why() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.why
}

// lose ends all writing.
func (s *Store) lose(why error) error {
	s.lostOnce.Do(func() {
		s.mu.Lock()
		s.why = why
		s.mu.Unlock()
		close(s.lost)
	})
	return s.Why()
}

// segmentEntry is the size of an entry of the table of segments that a begun segment has.
const segmentEntry = 40 + 4*8

// encodeTable lists the segments.
func encodeTable(segments []*segment) []byte {
	b := big.AppendUint32(nil, uint32(len(segments)))
	for _, s := range segments {
		b = append(b, s.summary...)
		for _, n := range []uint64{s.epoch, s.from, s.to, uint64(s.size)} {
			b = big.AppendUint64(b, n)
		}
	}
	return b
}

// decodeTable reads what encodeTable wrote, and returns what is behind it.
func decodeTable(b []byte) (segments []*segment, rest []byte, err error) {
	if len(b) < 4 {
		return nil, nil, errMessage
	}
	n := int(big.Uint32(b))
	if b = b[4:]; n > len(b)/segmentEntry {
		return nil, nil, errMessage
	}
	for range n {
		s := &segment{base: big.Uint64(b), summary: b[:40:40]}
		for i, v := range []*uint64{&s.epoch, &s.from, &s.to} {
			*v = big.Uint64(b[40+8*i:])
		}
		s.size = int64(big.Uint64(b[64:]))
		segments, b = append(segments, s), b[segmentEntry:]
	}
	return segments, b, nil
}

// Load reads the newest segment, which has the state, and what it says of those before.
func (s *Store) Load() (*storage.Loaded, error) {
	ctx, cancel := context.WithTimeout(s.life, max(s.patience, loadTimeout))
	defer cancel()
	if err := s.announce(ctx); err != nil {
		return nil, err
	}
	l, positions, err := s.loadLog(ctx)
	for errors.Is(err, errBehind) && wait(ctx, retryWait) == nil {
		l, positions, err = s.loadLog(ctx)
	}
	if err != nil {
		return nil, err
	}
	saved, err := s.takeCursors(ctx)
	if err != nil {
		return nil, err
	}
	return l, l.Positions(saved, positions)
}

// announce writes a message that follows whatever is there: nobody of an earlier epoch can write
// after it, since what he knows of is not the last one any more.
func (s *Store) announce(ctx context.Context) error {
	payload := s.parts(kindVoid, 0).end(nil)[0].encode()
	for {
		m := &nats.Msg{Subject: s.c.subject("void"), Data: payload}
		ack, err := s.c.js.PublishMsg(ctx, m, jetstream.WithRetryAttempts(0))
		if err == nil {
			s.last = ack.Sequence
			return nil
		}
		if refused, fenced, reason := refusal(err); refused && !fenced {
			return reason
		}
		if wait(ctx, retryWait) != nil {
			return fmt.Errorf("stream %s: %w", s.c.stream(), err)
		}
	}
}

// errBehind says that a server has answered that does not know yet what others have stored.
var errBehind = errors.New("a server of the NATS cluster is behind")

// loadLog loads all but what SaveCursors has stored, and returns the newest positions besides.
func (s *Store) loadLog(ctx context.Context) (l *storage.Loaded, positions []byte, err error) {
	newest, err := s.c.get(ctx, 0, s.c.subject("segment"))
	if err != nil {
		return nil, nil, err
	}
	state, err := s.c.state(ctx)
	if err != nil {
		return nil, nil, err
	}
	if state.Last < s.last {
		return nil, nil, errBehind
	}
	s.last, s.segments = state.Last, nil
	if newest == nil {
		err = s.scan(ctx, max(state.First, 1), state.Last, func(*stored) error { return nil })
		return storage.NewLoaded(), nil, err
	}
	f, err := s.loadSegments(ctx, newest, state)
	if err != nil {
		return nil, nil, err
	}
	return f.loaded, f.positions, nil
}

// scan calls fn with all messages from one to another, which are there.
func (s *Store) scan(ctx context.Context, seq, last uint64, fn func(m *stored) error) error {
	missing := uint64(0)
	for seq <= last {
		found, err := s.c.fetch(ctx, seq, last, readMessages, 4*readBytes)
		if err != nil {
			return err
		}
		if len(found) == 0 {
			return errBehind
		}
		for i := range found {
			m := &found[i]
			if m.seq > last {
				break
			}
			missing += m.seq - seq
			if seq = m.seq + 1; m.err != nil {
				missing++ // or somebody else has written it, who may not
				continue
			}
			if m.epoch > s.epoch {
				return s.lose(ErrDeposed)
			}
			if err := fn(m); err != nil {
				return err
			}
		}
		if found[len(found)-1].seq > last {
			missing += last + 1 - seq
			break
		}
	}
	if missing > 0 {
		s.c.log.Error("messages of the log are missing or damaged: some of what was known may be lost",
			zap.String("stream", s.c.stream()), zap.Uint64("messages", missing))
	}
	return nil
}

// loadSegments loads what is stored; newest is the message that ends the beginning of the newest
// segment. What was read along is not read again.
func (s *Store) loadSegments(ctx context.Context, newest *stored, state streamState) (f *fold, err error) {
	if newest.err == nil && newest.epoch > s.epoch {
		return nil, s.lose(ErrDeposed)
	}
	if f = s.tail.fold; f == nil || !f.fits(newest, state) {
		if f, err = newFold(newest); err != nil {
			return nil, s.c.damaged(newest.seq, err)
		}
	}
	s.tail.fold = f
	err = s.scan(ctx, f.next, state.Last, func(m *stored) error {
		if m.seq > newest.seq && m.kind == kindSegment && m.is(flagLast) {
			return errBehind // there is a newer segment
		}
		if err := s.tail.take(m); err != nil {
			f.broken = true
			return s.c.damaged(m.seq, err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	last := f.known[len(f.known)-1]
	if last.from < state.First {
		return nil, fmt.Errorf("stream %s: its first message is %d, and %d is needed: somebody has removed what was "+
			"needed", s.c.stream(), state.First, last.from)
	}
	if !f.begun {
		return nil, fmt.Errorf("stream %s: the state that begins with message %d is not complete: somebody has "+
			"removed what was needed", s.c.stream(), last.from)
	}
	for _, k := range f.known {
		if k.from < state.First {
			continue // trimmed
		}
		if _, _, err := f.loaded.Segment(k.summary, k.size); err != nil {
			return nil, s.c.damaged(newest.seq, err)
		}
		s.segments = append(s.segments, k)
	}
	return f, nil
}

// limits of a part: what is usual, and what is possible.
func (s *Store) limits() (size, most int) {
	most = int(s.c.nc.MaxPayload()) - headerSize - 4096 // headers, and what describes the whole
	return min(partBytes, most), most
}

// parts begins a write.
func (s *Store) parts(kind uint8, first uint64) *parts {
	s.writes++
	p := &parts{message: message{kind: kind, epoch: s.epoch, write: s.writes, first: first}}
	p.size, p.most = s.limits()
	return p
}

// Begin makes a segment.
func (s *Store) Begin(start *storage.Start) (size int64, err error) {
	p := s.parts(kindSegment, start.Base)
	if err := start.State(func(chunks [][]byte) error { p.addState(chunks); return nil }); err != nil {
		return 0, err
	}
	begun := start.Segment()
	next := &segment{base: start.Base, summary: begun.Summary(), epoch: s.epoch}
	s.mu.Lock()
	segments := slices.Clone(s.segments)
	s.mu.Unlock()
	if n := len(segments); n > 0 && segments[n-1].base == next.base {
		segments = segments[:n-1] // it is empty
	}
	segments = append(segments, next)
	parts := p.end(nil)
	for _, m := range parts {
		next.size += int64(len(m.state))
	}
	// Where it begins is known only when it is written, and so the description is made then.
	describe := func(first, last uint64) []byte {
		next.from, next.to = first, last
		return append(encodeTable(segments), start.Positions.Encode()...)
	}
	if started, err := s.write("segment", parts, describe); err != nil {
		if started {
			s.doubtful = parts[0].write
		}
		return 0, err
	}
	s.doubtful, s.begun = 0, false
	s.mu.Lock()
	defer s.mu.Unlock()
	// Some may have been trimmed meanwhile.
	if n := len(s.segments); n > 0 && s.segments[n-1].base == next.base {
		s.segments = s.segments[:n-1]
	}
	s.segments = append(slices.Clone(s.segments), next)
	return next.size, nil
}

// Commit stores a group.
func (s *Store) Commit(g *storage.Group) error {
	if g.Empty() || s.doubtful != 0 {
		// It also settles what is in doubt: nothing that was to follow the same message can.
		p := s.parts(kindVoid, 0)
		p.state = make([]byte, min(max(g.Bytes, 1<<10), int64(p.size)))
		if _, err := s.write("void", p.end(nil), nil); err != nil || g.Empty() {
			return err
		}
		if s.doubtful = 0; s.begun {
			g.Sealed = true
			return errBegun
		}
	}
	state, records := g.State, g.Records
	p := s.parts(kindGroup, 0)
	if p.first = s.following(); len(records) > 0 {
		_, _, p.first, _ = storage.CutChunk(records[0])
	}
	p.addState(state)
	last := p.first - 1
	for _, r := range records {
		if len(p.record) > 0 && len(p.state)+len(p.record)+len(r) > p.size {
			p.next(0)
		}
		if len(p.record) == 0 {
			_, _, p.first, _ = storage.CutChunk(r)
		}
		p.add(&p.record, r)
		_, _, _, last = storage.CutChunk(r)
	}
	if len(p.record) == 0 {
		p.first = last + 1
	}
	summary := g.After.Summary()
	parts := p.end(append(slices.Clone(summary), g.Positions.Encode()...))
	var size int64
	for i := range parts {
		size += int64(len(parts[i].state) + len(parts[i].record))
	}
	began := time.Now()
	stored, err := s.write("group", parts, nil)
	if err != nil {
		if stored {
			g.Sealed = true
		}
		return err
	}
	s.committed(time.Since(began))
	g.After.Size += size
	s.mu.Lock()
	defer s.mu.Unlock()
	active := s.segments[len(s.segments)-1]
	active.summary, active.to, active.size = summary, s.last, active.size+size
	return nil
}

var errBegun = errors.New("a segment has been begun after all: the next group is to begin another one")

// following is the record that comes next.
func (s *Store) following() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.segments); n > 0 {
		return big.Uint64(s.segments[n-1].summary[8:]) + 1
	}
	return 1
}

// write puts the parts of a write into the stream, one behind the other, and returns when all of
// them are stored. describe, which may be nil, makes the description of the whole, given the
// numbers of its first and its last message. After an error started says that a part of it may be
// stored, or all.
func (s *Store) write(
	subject string, parts []message, describe func(first, last uint64) []byte,
) (started bool, err error) {
	if s.Why() != nil {
		return false, s.Why()
	}
	ctx, cancel := context.WithTimeout(s.life, s.patience)
	defer cancel()
	var first uint64 // the message with part 0
	for next := 0; ; {
		if next == 0 {
			first = s.last + 1
		}
		to, end := subject, len(parts)
		switch {
		case describe != nil && next < end-1: // the last part says that all others are there
			to, end = "part", end-1
		case describe != nil:
			parts[next].head = describe(first, s.last+1)
		}
		payloads := make([][]byte, 0, end-next)
		for i := next; i < end; i++ {
			payloads = append(payloads, parts[i].encode())
		}
		acknowledged, refused, err := s.publish(ctx, to, payloads)
		next += acknowledged
		s.last += uint64(acknowledged)
		switch {
		case err == nil && next == len(parts):
			return true, nil
		case err == nil:
			continue
		}
		started = started || next > 0 || !refused
		if _, full := errors.AsType[*fullError](err); refused && full {
			return started, err
		}
		for { // what is there
			var known error
			next, known = s.resolve(ctx, &parts[0], next)
			if known == nil {
				break
			}
			if s.Why() != nil {
				return started, known
			}
			if wait(ctx, retryWait) != nil {
				return true, fmt.Errorf("the NATS cluster does not say what is stored: %w", errors.Join(err, known))
			}
		}
		if next == len(parts) {
			return true, nil
		}
		if wait(ctx, retryWait) != nil {
			return true, fmt.Errorf("the NATS cluster has not stored it in %s: %w", s.patience, err)
		}
	}
}

// wait is a pause.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// publish sends messages, a few at a time, each to follow the one before. It returns how many of
// the first of them are stored, and of the first that is not, why, and whether that is certain of
// all that follow.
func (s *Store) publish(ctx context.Context, subject string, payloads [][]byte) (done int, refused bool, err error) {
	futures := make([]jetstream.PubAckFuture, 0, len(payloads))
	refused = true
	note := func(f jetstream.PubAckFuture) error {
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		select {
		case <-f.Ok():
			return nil
		case err := <-f.Err():
			certain, _, reason := refusal(err)
			refused = refused && certain
			return reason
		case <-ctx.Done():
			refused = false
			return ctx.Err()
		}
	}
	settle := func() { // the oldest that is on its way
		failure := note(futures[0])
		futures = futures[1:]
		if failure == nil && err == nil {
			done++
		}
		if err == nil {
			err = failure
		}
	}
	for i, payload := range payloads {
		if len(futures) == inFlight {
			settle()
		}
		if err != nil {
			break
		}
		m := nats.NewMsg(s.c.subject(subject))
		m.Data = payload
		m.Header.Set(jetstream.ExpectedLastSeqHeader, strconv.FormatUint(s.last+uint64(i), 10))
		f, sending := s.c.js.PublishMsgAsync(m, jetstream.WithRetryAttempts(0))
		if sending != nil { // nothing was sent
			err = sending
			break
		}
		futures = append(futures, f)
	}
	for len(futures) > 0 {
		settle()
	}
	return done, refused, err
}

// resolve reads what is behind the last message that is known, and returns how many parts of a
// write are stored; have is how many it has before that. What somebody else has written who must
// not any more is passed over.
func (s *Store) resolve(ctx context.Context, write *message, have int) (parts int, err error) {
	state, err := s.c.state(ctx)
	if err != nil {
		return have, err
	}
	for s.last < state.Last {
		m, err := s.c.get(ctx, s.last+1, s.c.subject(">"))
		switch {
		case err != nil:
			return have, err
		case m == nil || m.seq > state.Last:
			s.last = state.Last
			return have, nil
		case m.err == nil && m.epoch > s.epoch:
			return have, s.lose(ErrDeposed)
		case m.err == nil && m.epoch == s.epoch && m.write == write.write && int(m.part) == have:
			have++
		case m.err == nil && m.epoch == s.epoch && m.write == s.doubtful && m.is(flagLast):
			s.begun = true
		}
		s.last = m.seq
	}
	return have, nil
}

// takeCursors returns the positions that are stored, nil if there are none, and makes them its own.
func (s *Store) takeCursors(ctx context.Context) (positions []byte, err error) {
	for {
		var e jetstream.KeyValueEntry
		e, err = s.c.kv.Get(ctx, cursorsKey)
		switch {
		case errors.Is(err, jetstream.ErrKeyNotFound):
			s.revision = 0
			return nil, nil
		case err == nil && len(e.Value()) >= 8:
			if big.Uint64(e.Value()) > s.epoch {
				return nil, s.lose(ErrDeposed)
			}
			// A replica that is behind may have answered: what is written over it says so.
			positions = e.Value()[8:]
			own := append(big.AppendUint64(nil, s.epoch), positions...)
			s.revision, err = s.c.kv.Update(ctx, cursorsKey, own, e.Revision())
			if err == nil {
				return positions, nil
			}
		case err == nil:
			return nil, fmt.Errorf("bucket %s: %s: %w", Bucket(s.c.opts.Name), cursorsKey, errMessage)
		}
		if wait(ctx, retryWait) != nil {
			return nil, fmt.Errorf("bucket %s: %s: %w", Bucket(s.c.opts.Name), cursorsKey, err)
		}
	}
}

// SaveCursors stores the positions; whether the machines are to survive is theirs to know.
func (s *Store) SaveCursors(c *storage.Checkpoint, _ bool) error {
	err := s.saveCursors(c)
	if s.ending.Load() && errors.Is(err, ErrDeposed) {
		return nil
	}
	return err
}

func (s *Store) saveCursors(c *storage.Checkpoint) error {
	if s.Why() != nil {
		return s.Why()
	}
	ctx, cancel := context.WithTimeout(s.life, s.patience)
	defer cancel()
	value := append(big.AppendUint64(nil, s.epoch), c.Encode()...)
	for {
		revision, err := s.c.kv.Update(ctx, cursorsKey, value, s.revision)
		if err == nil {
			s.revision = revision
			return nil
		}
		e, other := s.c.kv.Get(ctx, cursorsKey)
		switch {
		case other != nil || len(e.Value()) < 8:
		case big.Uint64(e.Value()) > s.epoch:
			return s.lose(ErrDeposed)
		default:
			s.revision = e.Revision()
		}
		if wait(ctx, retryWait) != nil {
			return fmt.Errorf("bucket %s: %s: %w", Bucket(s.c.opts.Name), cursorsKey, err)
		}
	}
}

// find returns a segment.
func (s *Store) find(base uint64) (segment, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.segments {
		if g.base == base {
			return *g, true
		}
	}
	return segment{}, false
}

// Trim removes a segment. Its messages go when it is the oldest.
func (s *Store) Trim(base uint64) error {
	s.mu.Lock()
	i := slices.IndexFunc(s.segments, func(g *segment) bool { return g.base == base })
	if i >= 0 {
		s.segments = slices.Delete(slices.Clone(s.segments), i, i+1)
	}
	s.runs = slices.DeleteFunc(s.runs, func(r run) bool { return r.segment == base })
	var keep uint64
	if i == 0 && len(s.segments) > 0 {
		keep = s.segments[0].from
	}
	s.mu.Unlock()
	if keep == 0 || s.Why() != nil { // whoever leads now may need it
		return nil
	}
	ctx, cancel := context.WithTimeout(s.life, askTimeout)
	defer cancel()
	var done struct{}
	return s.c.records().ask(ctx, "PURGE", map[string]uint64{"seq": keep}, &done)
}

// Read returns the block with a record.
func (s *Store) Read(at storage.Segment, seq uint64) (b storage.Block, next uint64, err error) {
	chunk, next, err := s.chunk(at.Base, seq)
	if err != nil {
		return b, 0, err
	}
	if chunk != nil {
		if b, err = storage.NewBlock(chunk, at, seq); err == nil {
			return b, 0, nil
		}
	}
	if next <= seq || next > at.Last {
		next = at.Last + 1
	}
	err = cmp.Or(err, errMessage)
	return b, next, datadir.Damagef("stream "+s.c.stream(), "records %d to %d: %w", seq, next-1, err)
}

// chunk returns the chunk with a record, or nil, and the first record of the message behind.
func (s *Store) chunk(base, seq uint64) (chunk []byte, next uint64, err error) {
	ctx, cancel := context.WithTimeout(s.life, s.patience)
	defer cancel()
	g, ok := s.find(base)
	if !ok {
		return nil, 0, storage.ErrGone
	}
	from := g.to + 1 // where to read on, if what was read ends just before the record
	s.mu.Lock()
	for i, r := range s.runs {
		if r.segment != base {
			continue
		}
		if chunk, _ := search(r.found, g.epoch, seq); chunk != nil {
			s.mu.Unlock()
			return slices.Clone(chunk), 0, nil
		}
		if r.last+1 == seq {
			from = r.behind
			s.runs = slices.Delete(s.runs, i, i+1)
			break
		}
	}
	s.mu.Unlock()
	if from <= g.to {
		if chunk, next, err = s.load(ctx, &g, from, seq); chunk != nil || err != nil {
			return chunk, next, err
		}
	}
	if from, err = s.bisect(ctx, &g, seq); err != nil {
		return nil, 0, err
	}
	return s.load(ctx, &g, from, seq)
}

// walk calls fn with each chunk in messages that follow each other, and passed with the first
// record of each message that begins with a chunk.
func walk(found []stored, epoch uint64, passed func(first uint64), fn func(chunk []byte, first, last uint64)) {
	var begun []byte // of a chunk in several parts
	for i := range found {
		m := &found[i]
		if m.err != nil || m.epoch != epoch || m.kind != kindGroup {
			continue
		}
		if !m.is(flagRest) {
			begun = slices.Clip(m.record)
			passed(m.first)
		} else if begun != nil {
			begun = append(begun, m.record...)
		}
		if m.is(flagMore) {
			continue
		}
		for rest := begun; len(rest) > 0; {
			var c []byte
			var first, last uint64
			if c, rest, first, last = storage.CutChunk(rest); c == nil {
				break
			}
			fn(c, first, last)
		}
		begun = nil
	}
}

// search looks for the chunk with a record in messages that follow each other. Where it is not
// among them, next is the first record of the first message that is behind it, 0 if there is none.
func search(found []stored, epoch, seq uint64) (chunk []byte, next uint64) {
	walk(found, epoch, func(first uint64) {
		if first > seq && next == 0 {
			next = first
		}
	}, func(c []byte, first, last uint64) {
		if first <= seq && seq <= last {
			chunk = c
		}
	})
	return chunk, next
}

// load reads messages of a segment from one on and looks for the chunk with a record in them.
func (s *Store) load(ctx context.Context, g *segment, from, seq uint64) (chunk []byte, next uint64, err error) {
	var found []stored
	for from <= g.to {
		more, err := s.c.fetch(ctx, from, g.to, readMessages, readBytes)
		if err != nil {
			return nil, 0, err
		}
		if len(more) == 0 {
			break
		}
		from = more[len(more)-1].seq + 1
		more = slices.DeleteFunc(more, func(m stored) bool { return m.seq > g.to })
		found = append(found, more...)
		chunk, next = search(found, g.epoch, seq)
		end := &found[max(len(found)-1, 0)]
		if len(found) == 0 || chunk != nil || (next != 0 && !end.is(flagMore)) {
			break
		}
		if !end.is(flagMore) {
			found = nil
		}
	}
	if len(found) > 0 {
		r := run{segment: g.base, found: found, behind: from}
		walk(found, g.epoch, func(uint64) {}, func(_ []byte, _, last uint64) { r.last = last })
		s.mu.Lock()
		if len(s.runs) >= runs {
			s.runs = slices.Delete(s.runs, 0, 1)
		}
		s.runs = append(s.runs, r)
		s.mu.Unlock()
	}
	return slices.Clone(chunk), next, nil
}

// bisect returns the message with which to begin reading for a record.
func (s *Store) bisect(ctx context.Context, g *segment, seq uint64) (from uint64, err error) {
	low, high := g.from, g.to // the one looked for is among these
	for low < high {
		mid := low + (high-low+1)/2
		m, at, err := s.valid(ctx, g, mid, high)
		switch {
		case err != nil:
			return 0, err
		case m == nil || m.first > seq || (m.kind == kindGroup && m.is(flagRest) && m.first == seq):
			high = mid - 1
		default:
			low = at
		}
	}
	return low, nil
}

// valid returns the first message from one on that counts in a segment; nil: none up to end.
func (s *Store) valid(ctx context.Context, g *segment, seq, end uint64) (m *message, at uint64, err error) {
	for seq <= end {
		found, err := s.c.fetch(ctx, seq, end, 1, 1)
		if err != nil || len(found) == 0 || found[0].seq > end {
			return nil, 0, err
		}
		if f := &found[0]; f.err == nil && f.epoch == g.epoch && f.kind != kindVoid {
			return &f.message, f.seq, nil
		}
		seq = found[0].seq + 1
	}
	return nil, 0, nil
}

// Rest says that a reader has left a segment.
func (s *Store) Rest(base uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.runs = slices.DeleteFunc(s.runs, func(r run) bool { return r.segment == base })
}

// Close ends the use of the log. The Cluster stays open.
func (s *Store) Close() error { return nil }
