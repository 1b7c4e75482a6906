package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/deadletters"
)

// A dead letter is a message with the subject "meta.ID": big endian,
//
//	 0  uint8   version of this layout
//	 1  uint32  number of messages that its record has for itself
//	 5  uint32  CRC-32C of its record
//	 9  uint32  length of the letter without its record
//	13          the letter, with a checksum of its own; the record, if it is short
//
// A longer record is in messages of its own, with the subjects "data.ID.0" and on, which are there
// before the letter is and go after it. A letter that changes takes the place of its message.
const (
	letterHeader  = 13
	letterVersion = 1
	// inlineBytes is how long a record may be that is in the letter's message.
	inlineBytes = 8 << 10
	// lettersInFlight is how many messages may be on their way.
	lettersInFlight = 64
	metaSubject     = "meta."
	dataSubject     = "data."
)

// DeadStream is the name of the stream with the dead letters of a deployment.
func DeadStream(name string) string { return "hmcnotifyd-" + name + "-dead" }

// LettersOptions say how much is kept.
type LettersOptions struct {
	// Dir is not used.
	deadletters.Options
	// Patience is how long a call is tried before it fails; 0: DefaultPatience.
	Patience time.Duration
	// Life ends all that waits for the cluster.
	Life context.Context //nolint:containedctx // the interface knows none
}

// letter is what is known of one without asking.
type letter struct {
	id, seq uint64
	parts   uint32
	cost    int64
}

// box is what there is of one sink, in the order of the ids.
type box struct {
	letters []letter
	bytes   int64
}

// Letters are dead letters on the cluster, for the one who leads.
type Letters struct {
	c    *Cluster
	s    stream
	opts LettersOptions

	// Held by whoever changes something.
	writing sync.Mutex

	mu     sync.Mutex
	closed bool
	last   uint64
	bytes  int64
	boxes  map[string]*box
}

func (c *Cluster) deadSubject(rest string) string {
	return "hmcnotifyd-dead." + c.opts.Name + "." + rest
}

// OpenLetters opens the dead letters, and makes their stream if there is none.
func (c *Cluster) OpenLetters(opts LettersOptions) (*Letters, error) {
	if opts.MaxBytes <= 0 {
		opts.MaxBytes = deadletters.DefaultBytes
	}
	if opts.OnDropped == nil {
		opts.OnDropped = func(string, int) {}
	}
	if opts.Life == nil {
		opts.Life = context.Background()
	}
	if opts.Metrics == nil {
		opts.Metrics = deadletters.NoMetrics{}
	}
	opts.Patience = cmp.Or(opts.Patience, DefaultPatience)
	l := &Letters{c: c, s: stream{c.nc, DeadStream(c.opts.Name)}, opts: opts, boxes: map[string]*box{}}
	ctx, cancel := l.ctx()
	defer cancel()
	if err := c.prepareLetters(ctx); err != nil {
		return nil, err
	}
	if err := l.load(ctx); err != nil {
		return nil, fmt.Errorf("dead letters: %w", err)
	}
	return l, nil
}

func (l *Letters) ctx() (context.Context, context.CancelFunc) {
	return context.WithTimeout(l.opts.Life, l.opts.Patience)
}

// load reads which letters there are, and removes records whose letter was not written any more.
func (l *Letters) load(ctx context.Context) error {
	state, err := l.s.state(ctx)
	if err != nil {
		return err
	}
	found := map[uint64]bool{}
	for seq := max(state.First, 1); seq <= state.Last; {
		some, err := l.s.batch(ctx, seq, l.c.deadSubject(metaSubject+"*"), readMessages, readBytes)
		if err == nil && len(some) == 0 { // a replica that is behind may have answered
			var one *raw
			if one, err = l.s.get(ctx, seq, l.c.deadSubject(metaSubject+"*")); one != nil {
				some = []raw{*one}
			}
		}
		if err != nil {
			return err
		}
		if len(some) == 0 {
			break
		}
		for i := range some {
			seq = some[i].seq + 1
			d, parts, _, err := readLetter(&some[i])
			if err != nil {
				l.c.log.Error("a dead letter is damaged, and passed over",
					zap.Uint64("message", some[i].seq), zap.Error(err))
				continue
			}
			id := numberOf(d.ID)
			found[id] = true
			l.last = max(l.last, id)
			l.add(d.Sink, letter{id, some[i].seq, parts, d.Cost()})
		}
	}
	var info struct {
		State struct {
			Subjects map[string]int `json:"subjects"`
		} `json:"state"`
	}
	filter := map[string]string{"subjects_filter": l.c.deadSubject(dataSubject + ">")}
	if err := l.s.ask(ctx, "INFO", filter, &info); err != nil {
		return err
	}
	for subject := range info.State.Subjects {
		id, _, _ := strings.Cut(strings.TrimPrefix(subject, l.c.deadSubject(dataSubject)), ".")
		if !found[numberOf(id)] {
			if err := l.purge(ctx, subject); err != nil {
				return err
			}
		}
	}
	l.opts.Metrics.DeadLetters(l.bytes, 0)
	return nil
}

func idOf(n uint64) string { return fmt.Sprintf("%016x", n) }

// numberOf returns the number of an id; 0: it is none.
func numberOf(id string) (n uint64) {
	if len(id) != 16 || strings.Trim(id, "0123456789abcdefABCDEF") != "" {
		return 0
	}
	_, _ = fmt.Sscanf(id, "%x", &n)
	return n
}

// readLetter reads a letter's message. record is nil where it is in messages of its own.
func readLetter(r *raw) (d deadletters.Letter, parts uint32, record []byte, err error) {
	b := r.data
	if len(b) < letterHeader || b[0] != letterVersion || int(big.Uint32(b[9:])) > len(b)-letterHeader {
		return d, 0, nil, errMessage
	}
	end := letterHeader + int(big.Uint32(b[9:]))
	id := r.subject[strings.LastIndexByte(r.subject, '.')+1:]
	d, err = deadletters.Decode(id, b[letterHeader:end])
	if parts = big.Uint32(b[1:]); parts == 0 {
		record = b[end:]
	}
	return d, parts, record, err
}

// add notes a letter; mu is held, or nobody else knows of l.
func (l *Letters) add(sink string, n letter) {
	b := l.boxes[sink]
	if b == nil {
		b = &box{}
		l.boxes[sink] = b
	}
	i := sort.Search(len(b.letters), func(i int) bool { return b.letters[i].id >= n.id })
	if i < len(b.letters) && b.letters[i].id == n.id { // it has changed
		b.bytes -= b.letters[i].cost
		l.bytes -= b.letters[i].cost
		b.letters[i] = n
	} else {
		b.letters = slices.Insert(b.letters, i, n)
	}
	b.bytes += n.cost
	l.bytes += n.cost
}

// forget removes a letter from what is known. mu is held.
func (l *Letters) forget(sink string, id uint64) {
	b := l.boxes[sink]
	if b == nil {
		return
	}
	i := sort.Search(len(b.letters), func(i int) bool { return b.letters[i].id >= id })
	if i == len(b.letters) || b.letters[i].id != id {
		return
	}
	b.bytes -= b.letters[i].cost
	l.bytes -= b.letters[i].cost
	if b.letters = slices.Delete(b.letters, i, i+1); len(b.letters) == 0 {
		delete(l.boxes, sink)
	}
}

// find returns what is known of a letter. mu is held.
func (l *Letters) find(id uint64) (sink string, n letter, ok bool) {
	for sink, b := range l.boxes {
		i := sort.Search(len(b.letters), func(i int) bool { return b.letters[i].id >= id })
		if i < len(b.letters) && b.letters[i].id == id {
			return sink, b.letters[i], true
		}
	}
	return "", letter{}, false
}

// purge removes the messages of a subject.
func (l *Letters) purge(ctx context.Context, subject string) error {
	var done struct{}
	return l.s.ask(ctx, "PURGE", map[string]string{"filter": subject}, &done)
}

// outgoing is a message of letters.
type outgoing struct {
	subject string
	data    []byte
	// over is the message that it replaces; 0: none.
	over uint64
}

// publish publishes messages and returns their numbers. After an error some may be there.
func (l *Letters) publish(ctx context.Context, messages []outgoing) (seqs []uint64, err error) {
	futures := make([]jetstream.PubAckFuture, 0, lettersInFlight)
	settle := func() {
		f := futures[0]
		futures = futures[1:]
		var failure error
		select {
		case ack := <-f.Ok():
			seqs = append(seqs, ack.Sequence)
		case failure = <-f.Err():
			if refused, _, reason := refusal(failure); refused {
				failure = reason
			}
		case <-ctx.Done():
			failure = ctx.Err()
		}
		err = cmp.Or(err, failure)
	}
	for _, m := range messages {
		if len(futures) == lettersInFlight {
			settle()
		}
		if err != nil {
			break
		}
		message := &nats.Msg{Subject: l.c.deadSubject(m.subject), Data: m.data, Header: nats.Header{}}
		f, failure := l.c.js.PublishMsgAsync(message,
			jetstream.WithExpectLastSequencePerSubject(m.over), jetstream.WithRetryAttempts(0))
		if failure != nil {
			err = failure
			break
		}
		futures = append(futures, f)
	}
	for len(futures) > 0 {
		settle()
	}
	return seqs, err
}

// begin locks for a change.
func (l *Letters) begin() error {
	l.writing.Lock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		l.writing.Unlock()
		return deadletters.ErrClosed
	}
	return nil
}

// Put keeps letters. After an error none of them is kept, unless the cluster is away so that they
// cannot be removed again: then some may be found later.
func (l *Letters) Put(letters ...deadletters.Letter) error {
	if len(letters) == 0 {
		return nil
	}
	if err := l.begin(); err != nil {
		return err
	}
	defer l.writing.Unlock()
	ctx, cancel := l.ctx()
	defer cancel()
	most := int(l.c.nc.MaxPayload()) - 4096
	var data, meta []outgoing
	notes := make([]letter, len(letters))
	for i := range letters {
		d := letters[i]
		now := time.Now()
		l.mu.Lock()
		l.last = max(l.last+1, uint64(now.UnixNano()))
		notes[i].id = l.last
		l.mu.Unlock()
		d.ID, d.Size, d.Time = idOf(notes[i].id), len(d.Data), cmp.Or(d.Time, now)
		text, err := d.Encode()
		if err != nil {
			return fmt.Errorf("dead letters: put: %w", err)
		}
		b := append(make([]byte, letterHeader), text...)
		b[0] = letterVersion
		big.PutUint32(b[5:], crc32.Checksum(d.Data, castagnoli))
		big.PutUint32(b[9:], uint32(len(text)))
		if len(d.Data) <= inlineBytes {
			b = append(b, d.Data...)
		} else {
			for part := range slices.Chunk(d.Data, most) {
				data = append(data, outgoing{subject: fmt.Sprint(dataSubject, d.ID, ".", notes[i].parts), data: part})
				notes[i].parts++
			}
			big.PutUint32(b[1:], notes[i].parts)
		}
		notes[i].cost = d.Cost()
		meta = append(meta, outgoing{subject: metaSubject + d.ID, data: b})
	}
	_, err := l.publish(ctx, data)
	var seqs []uint64
	if err == nil {
		seqs, err = l.publish(ctx, meta)
	}
	if err != nil {
		for i := range meta {
			err = errors.Join(err, l.remove(ctx, &notes[i]))
			if ctx.Err() != nil {
				break
			}
		}
		return fmt.Errorf("dead letters: put: %w", err)
	}
	l.mu.Lock()
	for i := range notes {
		notes[i].seq = seqs[i]
		l.add(letters[i].Sink, notes[i])
	}
	l.mu.Unlock()
	return l.makeRoom(ctx)
}

// remove removes the messages of a letter.
func (l *Letters) remove(ctx context.Context, n *letter) error {
	err := l.purge(ctx, l.c.deadSubject(metaSubject+idOf(n.id)))
	if err == nil && n.parts > 0 {
		err = l.purge(ctx, l.c.deadSubject(dataSubject+idOf(n.id)+".*"))
	}
	return err
}

// makeRoom removes letters until no more than MaxBytes are left: the oldest of the sink that has
// the most, so that one which refuses everything takes nothing from the others.
func (l *Letters) makeRoom(ctx context.Context) error {
	dropped := map[string]int{}
	defer func() {
		n := 0
		for sink, of := range dropped {
			l.opts.OnDropped(sink, of)
			n += of
		}
		l.opts.Metrics.DeadLetters(l.Bytes(), n)
	}()
	for {
		l.mu.Lock()
		if l.bytes <= l.opts.MaxBytes || len(l.boxes) == 0 {
			l.mu.Unlock()
			return nil
		}
		sink := slices.MaxFunc(slices.Sorted(maps.Keys(l.boxes)), func(x, y string) int {
			return cmp.Compare(l.boxes[x].bytes, l.boxes[y].bytes)
		})
		oldest := l.boxes[sink].letters[0]
		l.mu.Unlock()
		if err := l.remove(ctx, &oldest); err != nil {
			l.c.log.Warn("a dead letter beyond the limit was not removed", zap.Error(err))
			return nil // it is with the next one
		}
		l.mu.Lock()
		l.forget(sink, oldest.id)
		l.mu.Unlock()
		dropped[sink]++
	}
}

// scan calls fn for each letter that the filter selects, in order, until it returns false.
func (l *Letters) scan(f deadletters.Filter, fn func(d *deadletters.Letter) bool) error {
	after, until := numberOf(f.After), numberOf(f.Until)
	for _, id := range []string{f.After, f.Until} {
		if id != "" && numberOf(id) == 0 && id != idOf(0) {
			return fmt.Errorf("%w: %q", deadletters.ErrNotFound, id)
		}
	}
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return deadletters.ErrClosed
	}
	var all []letter
	for sink, b := range l.boxes {
		if f.Sink == "" || f.Sink == sink {
			all = append(all, b.letters...)
		}
	}
	l.mu.Unlock()
	slices.SortFunc(all, func(a, b letter) int { return cmp.Compare(a.id, b.id) })
	ids := make(map[string]bool, len(f.IDs))
	for _, id := range f.IDs {
		ids[id] = true
	}
	ctx, cancel := l.ctx()
	defer cancel()
	read := map[uint64]*raw{}
	for i := range all {
		n := &all[i]
		if n.id <= after || (f.Until != "" && n.id > until) {
			continue
		}
		r, err := l.read(ctx, n, read)
		if err != nil {
			return err
		}
		if r == nil {
			continue // gone meanwhile
		}
		d, _, _, err := readLetter(r)
		if err != nil || d.Time.Before(f.Since) {
			continue // a damaged one was reported at the start
		}
		if (len(ids) == 0 || ids[d.ID] || ids[d.EventID]) && !fn(&d) {
			return nil
		}
	}
	return nil
}

// read returns a letter's message, and reads those behind it too, which are wanted next.
func (l *Letters) read(ctx context.Context, n *letter, known map[uint64]*raw) (*raw, error) {
	if r := known[n.seq]; r != nil {
		delete(known, n.seq)
		return r, nil
	}
	some, err := l.s.batch(ctx, n.seq, l.c.deadSubject(metaSubject+"*"), readMessages, readBytes)
	if err != nil {
		return nil, err
	}
	clear(known)
	for i := range some {
		known[some[i].seq] = &some[i]
	}
	if r := known[n.seq]; r != nil {
		return r, nil
	}
	return l.s.get(ctx, 0, l.c.deadSubject(metaSubject+idOf(n.id)))
}

// List returns the letters that the filter selects, oldest first, without their Data.
func (l *Letters) List(filter deadletters.Filter) (letters []deadletters.Letter, err error) {
	err = l.scan(filter, func(d *deadletters.Letter) bool {
		letters = append(letters, *d)
		return filter.Limit <= 0 || len(letters) < filter.Limit
	})
	if err != nil {
		return nil, fmt.Errorf("dead letters: list: %w", err)
	}
	return letters, nil
}

// Matching returns how many letters of each sink the filter selects, whatever its Limit.
func (l *Letters) Matching(filter deadletters.Filter) (map[string]int, error) {
	count := map[string]int{}
	err := l.scan(filter, func(d *deadletters.Letter) bool { count[d.Sink]++; return true })
	if err != nil {
		return nil, fmt.Errorf("dead letters: count: %w", err)
	}
	return count, nil
}

// Last returns the ID of the newest letter there has been, "" if there has been none.
func (l *Letters) Last() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.last == 0 {
		return ""
	}
	return idOf(l.last)
}

// get returns a letter's message.
func (l *Letters) get(ctx context.Context, id string) (*raw, error) {
	l.mu.Lock()
	closed := l.closed
	_, n, ok := l.find(numberOf(id))
	l.mu.Unlock()
	if closed {
		return nil, deadletters.ErrClosed
	}
	if !ok {
		return nil, fmt.Errorf("%w: %s", deadletters.ErrNotFound, id)
	}
	r, err := l.s.get(ctx, 0, l.c.deadSubject(metaSubject+idOf(n.id)))
	if err == nil && r == nil {
		err = fmt.Errorf("%w: %s", deadletters.ErrNotFound, id)
	}
	return r, err
}

// Get returns one letter with its Data, or deadletters.ErrNotFound.
func (l *Letters) Get(id string) (deadletters.Letter, error) {
	ctx, cancel := l.ctx()
	defer cancel()
	r, err := l.get(ctx, id)
	if err != nil {
		return deadletters.Letter{}, err
	}
	d, parts, record, err := readLetter(r)
	if err != nil {
		return deadletters.Letter{}, fmt.Errorf("dead letters: get: %w", err)
	}
	d.Data = append([]byte{}, record...)
	for part := range parts {
		r, err := l.s.get(ctx, 0, l.c.deadSubject(fmt.Sprint(dataSubject, d.ID, ".", part)))
		if err != nil {
			return deadletters.Letter{}, fmt.Errorf("dead letters: get: %w", err)
		}
		if r != nil {
			d.Data = append(d.Data, r.data...)
		}
	}
	if crc32.Checksum(d.Data, castagnoli) != big.Uint32(r.data[5:]) {
		return deadletters.Letter{}, fmt.Errorf("dead letters: get: the record of %s is damaged", id)
	}
	return d, nil
}

// Update notes that a letter was refused once more: it gets the Time, Status, Reason and Request of
// d. It returns deadletters.ErrNotFound if the letter is gone.
func (l *Letters) Update(d deadletters.Letter) error {
	if err := l.begin(); err != nil {
		return err
	}
	defer l.writing.Unlock()
	ctx, cancel := l.ctx()
	defer cancel()
	r, err := l.get(ctx, d.ID)
	if err != nil {
		return err
	}
	kept, parts, record, err := readLetter(r)
	if err != nil {
		return fmt.Errorf("dead letters: update: %w", err)
	}
	kept.Time, kept.Status, kept.Reason, kept.Request = d.Time, d.Status, d.Reason, d.Request
	text, err := kept.Encode()
	if err != nil {
		return fmt.Errorf("dead letters: update: %w", err)
	}
	b := append(slices.Clone(r.data[:letterHeader]), text...)
	big.PutUint32(b[9:], uint32(len(text)))
	seqs, err := l.publish(ctx, []outgoing{{metaSubject + kept.ID, append(b, record...), r.seq}})
	if err != nil {
		return fmt.Errorf("dead letters: update: %w", err)
	}
	l.mu.Lock()
	l.add(kept.Sink, letter{numberOf(kept.ID), seqs[0], parts, kept.Cost()})
	l.mu.Unlock()
	l.opts.Metrics.DeadLetters(l.Bytes(), 0)
	return nil
}

// Delete removes letters and returns how many there were of them. After an error those it has
// counted are gone.
func (l *Letters) Delete(ids ...string) (n int, err error) {
	if err := l.begin(); err != nil {
		return 0, err
	}
	defer l.writing.Unlock()
	ctx, cancel := l.ctx()
	defer cancel()
	for _, id := range ids {
		l.mu.Lock()
		sink, of, ok := l.find(numberOf(id))
		l.mu.Unlock()
		if !ok {
			continue
		}
		if err = l.remove(ctx, &of); err != nil {
			err = fmt.Errorf("dead letters: delete: %w", err)
			break
		}
		l.mu.Lock()
		l.forget(sink, of.id)
		l.mu.Unlock()
		n++
	}
	l.opts.Metrics.DeadLetters(l.Bytes(), 0)
	return n, err
}

// Count returns how many letters of a sink there are. It asks nobody.
func (l *Letters) Count(sink string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if b := l.boxes[sink]; b != nil {
		return len(b.letters)
	}
	return 0
}

// Sinks returns the names of the sinks that have letters, in order.
func (l *Letters) Sinks() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Sorted(maps.Keys(l.boxes))
}

// Bytes returns what all letters count for against MaxBytes.
func (l *Letters) Bytes() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bytes
}

// Close ends the use of the letters. The Cluster stays open.
func (l *Letters) Close() error {
	l.writing.Lock()
	defer l.writing.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	return nil
}
