package console

import (
	"encoding/binary"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
)

const (
	// Of each partition the latest messages are remembered one by one, in slots: what is stored
	// for a new message is its slot. There are at least leastEntries, and as many as the HMC
	// has replayed at once, but not more than mostEntries.
	slotEntries  = 32
	leastEntries = 1024
	osSlots      = 64
	mostEntries  = osSlots * slotEntries
	// maxEntries bounds those of all partitions together, within a factor of two, and
	// maxPartitions these: with more than 1,024 partitions fewer messages of each are remembered.
	maxEntries    = 1 << 20
	maxPartitions = 20_000

	// maxGaps bounds the ranges of missing numbers that are kept to be asked for.
	maxGaps = 16

	// maxJump is how far numbers may be apart in one sequence. No partition ever writes what is
	// missing in a wider jump while nobody looks: the numbers have begun anew.
	maxJump = 1 << 24

	// A live message that is known already, without a time of the operating system, is a
	// repetition within these times, and after them the first one of a sequence that began
	// anew. An HMC is not known to publish a message twice, and no system can be loaded and
	// write within 3 s. A message may well be published while it is replayed: its two copies
	// can be as far apart as the link and the answer of a request can be late.
	liveRepeat = 3 * time.Second
	replayRace = time.Minute

	// none is a number that no message has.
	none = math.MinInt64
)

// OSMessage is what tells one message of an operating system from the others of its partition.
type OSMessage struct {
	// Number is the sequence number that the HMC gave it.
	Number int64
	// ID is made of HMC, partition, number and text. It recognizes what an older version has
	// stored.
	ID event.ID
	// Text is the TextHash of its text.
	Text uint32
	// Time is in milliseconds, as the operating system gave it; 0 or less: it gave none.
	Time int64
	// Held says that it waited for an answer.
	Held bool
}

// TextHash returns a hash of the text of an OS message, without the blanks and line ends behind it:
// clients have seen those come and go. It is stored, and never changes.
func TextHash(text string) uint32 {
	const offset, prime = 2166136261, 16777619 // FNV-1a, without the copy that hash/fnv needs
	hash, text := uint32(offset), strings.TrimRight(text, " \t\r\n")
	for i := range len(text) {
		hash = (hash ^ uint32(text[i])) * prime
	}
	return hash
}

// OSVerdict says what an OS message is.
type OSVerdict struct {
	// Duplicate says that it was recorded before.
	Duplicate bool
	// Epoch is which of the partition's sequences it belongs to; part of its event id if not 0.
	Epoch uint32
	// Missing is how many numbers before a live message were skipped, Since when the message
	// before them came.
	Missing int64
	Since   time.Time
}

// OSReplay is what the HMC sent again: refresh messages, or an answer of List OS Messages.
type OSReplay struct {
	// Host is the HMC's host that sent it, which may number the messages in its own way.
	Host string
	// Messages are in the order of the HMC, oldest first.
	Messages []OSMessage
	// Next is the live message that came behind it and is given to Live after it; nil: none
	// came.
	Next *OSMessage
	// Asked is when the SUBSCRIBE or the request was sent: what was received later proves
	// nothing by being absent.
	Asked, Now time.Time
	// Complete says that the HMC holds nothing newer: it was not cut short, and no end was
	// asked for.
	Complete bool
}

// OSMessages knows the OS messages of all partitions of an HMC: which were recorded, and which are
// missing.
//
// The HMC numbers the messages of a partition. The numbers begin anew when they wrap, and perhaps
// at an IPL, a restart of the HMC, or on another host of it, which no message tells. The stretch
// between is a sequence, and has an epoch. A message is known by its number and text, and by its
// time where the operating system gives one. One that is not known is new, one that is known is a
// duplicate, but for this: the system may have been loaded and have written the same as before.
//
//   - A replay is divided where its numbers fall. The latest part that continues the present
//     sequence parts what is before it from what is behind it: there the numbers have begun anew,
//     and all is new whose time does not say that it is known.
//   - A part continues the present sequence if the highest number in both is the same message, and
//     it does not end before the newest message known. Nobody deletes just the newest: where an HMC
//     does not hold that any more, its numbers have begun anew. Messages with a time are certain by
//     it.
//   - A live message begins a new sequence if its number was published before. Without a time it is
//     a duplicate all the same within 3 s, and within 60 s if a replay had it, also where the
//     replay had another sequence behind it.
//   - A jump of more than 2^24 numbers begins a new sequence, and nothing is missing.
//   - Another host has a sequence of its own. Of what it replays the texts and times that the host
//     before had as often are duplicates, whatever their numbers.
//
// Of each partition the latest 1,024 messages are remembered, or as many as the HMC has replayed,
// up to 2,048: they take 32 bytes each, and 8 to 12 where they are stored. With more than 1,024
// partitions it is fewer of each. Of what an HMC holds beyond that, all is taken for known that is
// not missing.
type OSMessages struct {
	prefix, startPrefix string
	partitions          map[string]*osPartition
	changed             []*osPartition
	pending             []queue.KeyValue // to be stored beside what the changed partitions have
	base                time.Time        // what osEntry.received counts from
}

// osPartition is what is known of one partition.
type osPartition struct {
	book *OSMessages
	// what its keys begin with
	key string
	// in the order in which they were recorded
	entries []osEntry
	// running number of entries[0], a multiple of slotEntries; 0: none was dropped yet
	first int64
	// of entries
	limit int
	// the slots that are not stored as they are, a bit each
	dirty uint64

	// The present sequence. Numbers from lowest to highest were seen, but for the gaps.
	// a message was recorded
	begun bool
	epoch uint32
	// the highest epoch that was ever used
	top             uint32
	lowest, highest int64
	// the highest number whose entry was dropped; none if there is none
	floor int64
	gaps  spans
	// missing, can no longer be asked for, and not returned by Abandoned yet
	lost int64
	// the highest number that came live
	published        int64
	began, highestAt time.Duration
	// when the last message was recorded, in Unix milliseconds; 0: that is not known
	recorded int64
	// what is known beside what is stored was kept when it was loaded
	recalled bool
	// hash of the host that numbers it; 0: not known
	host uint32
	// that of the one before, which this one has not replayed all of yet; 0: none
	hostBefore uint32

	started bool
	start   osStart
}

// osStart is where a partition begins to be followed: at a number, as that host (0: not known, 1:
// several, which may have other numbers) numbers it, behind a message with this hash and time.
type osStart struct {
	Number     int64
	Host, Hash uint32
	Time       int64
}

// osEntry is one message that was recorded.
type osEntry struct {
	number   int64
	time     int64         // as that of the message; 0: none
	received time.Duration // since OSMessages.base; 0: before the state was loaded
	hash     uint32        // of the text; with byID of the event id
	epoch    uint32        // with byID and again
}

const (
	// byID marks an entry of an older version.
	byID = 1 << 31
	// again marks an entry of a message that has an entry before, under the number of another
	// host or in another sequence.
	again    = 1 << 30
	marks    = byID | again
	maxEpoch = 1<<30 - 1
)

// NewOSMessages returns a book that knows nothing yet of the HMC of that name.
func NewOSMessages(hmc string) *OSMessages {
	return &OSMessages{
		prefix: "os/" + hmc + "\x00", startPrefix: "start/" + hmc + "\x00", partitions: make(map[string]*osPartition),
	}
}

// Live judges a message that came as new from a host of the HMC, and records it.
func (o *OSMessages) Live(partition, host string, msg OSMessage, now time.Time) OSVerdict {
	return o.partition(partition).live(&msg, TextHash(host), o.clock(now))
}

// Replay judges messages that the HMC sent again, and records those that are new. The result has
// one verdict for each. If a replay is given in pieces, only the last one is Complete.
func (o *OSMessages) Replay(partition string, r OSReplay) []OSVerdict {
	return o.partition(partition).replay(&r, o.clock(r.Asked), o.clock(r.Now))
}

// Full says that nothing is known of a partition, and nothing more can be remembered of it either.
func (o *OSMessages) Full(partition string) bool {
	return len(o.partitions) >= maxPartitions && o.partitions[partition] == nil
}

// Empty says that no message of a partition was ever recorded.
func (o *OSMessages) Empty(partition string) bool { return !o.get(partition).begun }

// Known says that a message of a partition was recorded, or that it is known where it starts.
func (o *OSMessages) Known(partition string) bool {
	p := o.get(partition)
	return p.started || p.begun
}

// Missing returns the range from the lowest to the highest number that is missing and worth asking
// the HMC for, and how many numbers in it are missing; 0: none.
func (o *OSMessages) Missing(partition string) (from, to, n int64) {
	gaps := o.get(partition).gaps
	if len(gaps) == 0 {
		return 0, 0, 0
	}
	return gaps[0].from, gaps[len(gaps)-1].to, gaps.count()
}

// Settle notes that the HMC was asked for all that is missing up to a number, and that its answer
// was given to Replay. It returns how many are missing still: they are gone, and not reported
// again.
func (o *OSMessages) Settle(partition string, to int64) (n int64) {
	p := o.get(partition)
	if n = p.gaps.count(); n > 0 {
		p.gaps = p.gaps.above(to)
		p.touch(len(p.entries) - 1)
	}
	return n - p.gaps.count()
}

// Abandoned returns how many missing numbers, since it was called last, can no longer be asked for:
// the numbers began anew, or too many gaps came together.
func (o *OSMessages) Abandoned(partition string) (n int64) {
	p := o.get(partition)
	n, p.lost = p.lost, 0
	return n
}

// StartBehind notes that a partition is followed from behind these messages on, which the HMC held
// before: without this nothing would tell later which messages of a quiet partition are new.
func (o *OSMessages) StartBehind(partition, host string, messages []OSMessage) {
	start := osStart{Host: TextHash(host)}
	for i := range messages {
		last := messages[i].text()
		start = osStart{max(start.Number, messages[i].Number+1), start.Host, last.hash, last.time}
	}
	o.partition(partition).startAt(start)
}

// startAt notes where a partition begins to be followed.
func (p *osPartition) startAt(start osStart) {
	p.started, p.start = true, start
	key := p.book.startPrefix + p.key[len(p.book.prefix):]
	value, _ := binary.Append(nil, binary.BigEndian, start) // it has a fixed size
	p.book.pending = append(p.book.pending, queue.KeyValue{Key: key, Value: value})
}

// BeforeStart returns how many messages at the begin of a list the HMC held already when the
// partition began to be followed, where it was not asked for them then. Numbers that do not lead up
// to the first one followed are those of a sequence that began anew, of which everything counts; so
// are, once numbers have begun anew, those of a list that has nothing known of the first sequence.
// What is known is not before the start: it tells the list's sequences apart.
func (o *OSMessages) BeforeStart(partition, host string, messages []OSMessage) (n int) {
	p := o.get(partition)
	start := p.start.Number
	if !p.started {
		start = p.lowest
	} else if p.start.Host != 0 && p.start.Host != TextHash(host) {
		p.start.Host = 1
		p.startAt(p.start)
		return p.beforeText(messages)
	}
	end, before, known := 0, 0, -1
	for ; end < len(messages) && (end == 0 || messages[end].Number > messages[end-1].Number); end++ {
		if messages[end].Number < start {
			before++
		}
		if known < 0 && p.find(0, &messages[end]) != nil {
			known = end
		}
	}
	leads := before > 0 && (before < end || messages[before-1].Number == start-1)
	switch {
	case !leads || p.epoch != 0 && (known < 0 || end == len(messages)):
		return 0
	case known >= 0:
		return min(before, known)
	}
	return before
}

// beforeText is BeforeStart where numbers do not tell: what does is the message before the start,
// by text and time, or else the first that is known.
func (p *osPartition) beforeText(messages []OSMessage) int {
	last := osText{p.start.Hash, p.start.Time}
	at := slices.IndexFunc(messages, func(m OSMessage) bool { return m.text() == last })
	known := slices.IndexFunc(messages, func(m OSMessage) bool {
		return slices.ContainsFunc(p.entries, func(e osEntry) bool { return osText{e.hash, e.time} == m.text() })
	})
	if at >= 0 && (known < 0 || at < known) {
		return at + 1
	}
	if at < 0 && (last != osText{} || p.first > 0) {
		return 0 // it is gone, and so is what was before it
	}
	return max(known, 0)
}

// Forget forgets a partition that is gone, with what is stored of it.
func (o *OSMessages) Forget(partition string) {
	p := o.partitions[partition]
	if p == nil {
		return
	}
	p.dirty, p.entries = math.MaxUint64, nil
	o.pending = append(p.appendState(o.pending), queue.KeyValue{Key: o.startPrefix + partition})
	delete(o.partitions, partition)
}

// clock returns a time as entries have it. It does not follow the wall clock where that is set.
func (o *OSMessages) clock(t time.Time) time.Duration {
	if o.base.IsZero() {
		o.base = t.Add(-time.Hour)
	}
	return max(t.Sub(o.base), 1)
}

// get returns a partition to read from.
func (o *OSMessages) get(partition string) *osPartition {
	if p := o.partitions[partition]; p != nil {
		return p
	}
	return &osPartition{}
}

func (o *OSMessages) partition(name string) *osPartition {
	p := o.partitions[name]
	if p == nil {
		p = &osPartition{book: o, key: o.prefix + name, limit: leastEntries, published: none}
		o.partitions[name] = p
		if n := len(o.partitions); n&(n-1) == 0 { // those that are quiet have to make room as well
			for _, quiet := range o.partitions {
				if quiet.trim(0) {
					quiet.touch(len(quiet.entries) - 1) // that has the head
				}
			}
		}
	}
	return p
}

func (m *OSMessage) sameText(e *osEntry) bool {
	if e.epoch&byID != 0 {
		return e.hash == binary.BigEndian.Uint32(m.ID[:])
	}
	return e.hash == m.Text
}

// same says whether both are the same message.
func (m *OSMessage) same(o *OSMessage) bool {
	return m.Number == o.Number && m.Text == o.Text && m.sameTime(o.Time)
}

func (m *OSMessage) sameTime(at int64) bool { return m.Time == at || m.Time <= 0 || at <= 0 }

// is says whether the entry, which has the same number, is that message.
func (e *osEntry) is(m *OSMessage) bool { return m.sameText(e) && m.sameTime(e.time) }

// of says whether the entry is of the sequence with that epoch.
func (e *osEntry) of(epoch uint32) bool { return e.epoch&^marks == epoch }

// near says whether two numbers may be of one sequence.
func near(a, b int64) bool { return uint64(max(a, b))-uint64(min(a, b)) <= maxJump }

func (p *osPartition) live(msg *OSMessage, host uint32, now time.Duration) (v OSVerdict) {
	switch {
	case p.isOther(host):
		p.restart(msg.Number, now)
		p.hostBefore = p.host
	case p.begun && p.outrun(msg, now):
		return OSVerdict{Duplicate: true, Epoch: p.epoch}
	case p.begun && msg.Number > p.highest && near(msg.Number, p.highest):
		before := p.highestAt
		if v.Missing = p.extend(msg.Number); v.Missing > 0 {
			v.Since = p.book.base.Add(before)
		}
	case p.begun && msg.Number <= p.highest:
		e := p.find(p.epoch, msg)
		if e != nil && p.repeated(e, msg, now) {
			p.published = max(p.published, msg.Number)
			return OSVerdict{Duplicate: true, Epoch: p.epoch}
		}
		// Live messages come in order: only what was not published yet can have been
		// missing.
		if e != nil || msg.Number <= p.published || !p.fill(msg.Number) {
			p.restart(msg.Number, now)
		}
	default:
		p.restart(msg.Number, now)
	}
	p.host = host
	p.published = max(p.published, msg.Number)
	v.Epoch = p.epoch
	p.record(msg, v.Epoch, now)
	return v
}

// repeated says whether a live message is the one of the entry, and not another one that looks the
// same.
func (p *osPartition) repeated(e *osEntry, msg *OSMessage, now time.Duration) bool {
	limit := liveRepeat
	if msg.Number > p.published { // a replay had it
		limit = replayRace
	}
	return e.time > 0 && msg.Time > 0 || e.received > 0 && now-e.received < limit
}

// outrun says whether a replay, which tells that the numbers have begun anew since, had a message
// before it came live. The next number of the present sequence is a new message, whatever it says:
// a system writes the same each time it is loaded.
func (p *osPartition) outrun(msg *OSMessage, now time.Duration) bool {
	if p.published != none || msg.Number == p.highest+1 || p.find(p.epoch, msg) != nil || p.gaps.contains(msg.Number) {
		return false
	}
	return slices.ContainsFunc(p.entries, func(e osEntry) bool {
		return !e.of(p.epoch) && e.number == msg.Number && e.is(msg) && e.received > 0 && now-e.received < replayRace
	})
}

// isOther says whether the present sequence was numbered by another host.
func (p *osPartition) isOther(host uint32) bool { return p.host != 0 && host != p.host }

// find returns the entry of a message in the sequence with that epoch; nil: none.
func (p *osPartition) find(epoch uint32, msg *OSMessage) *osEntry {
	for i := range slices.Backward(p.entries) {
		if e := &p.entries[i]; e.number == msg.Number && e.of(epoch) && e.is(msg) {
			return e
		}
	}
	return nil
}

// restart makes the sequence that begins with a number the present one. What is missing of the one
// before can no longer be asked for: its numbers mean other messages now.
func (p *osPartition) restart(number int64, now time.Duration) {
	p.lost += p.gaps.count()
	p.epoch = p.top
	if p.begun {
		p.epoch = p.fresh()
		if !p.started {
			p.startAt(osStart{Number: p.lowest, Host: p.host})
		}
	}
	p.begun, p.began, p.gaps = true, now, nil
	p.lowest, p.highest, p.highestAt = number, number, now
	p.floor, p.published = none, none
}

// fresh returns an epoch that was never used.
func (p *osPartition) fresh() uint32 {
	p.top = min(p.top+1, maxEpoch)
	return p.top
}

// extend makes a higher number the last one, and returns how many it skips.
func (p *osPartition) extend(number int64) (skipped int64) {
	if skipped = number - p.highest - 1; skipped > 0 {
		p.gaps = append(p.gaps, span{p.highest + 1, number - 1})
		p.boundGaps()
	}
	return skipped
}

// fill notes that a number is not missing any more, and returns whether it was.
func (p *osPartition) fill(number int64) (was bool) {
	if p.gaps, was = p.gaps.remove(number); was {
		p.boundGaps()
		p.touch(len(p.entries) - 1)
	}
	return was
}

// boundGaps gives the lowest gap up if there are too many.
func (p *osPartition) boundGaps() {
	if len(p.gaps) > maxGaps {
		p.lost += p.gaps[0].count()
		p.gaps = slices.Delete(p.gaps, 0, 1)
	}
}

// record remembers a message. Those that have been there longest make room for it, a slot at once.
func (p *osPartition) record(msg *OSMessage, epoch uint32, now time.Duration) {
	if epoch == p.epoch && msg.Number >= p.highest {
		p.highest, p.highestAt = msg.Number, now
	}
	p.trim(1)
	p.recorded = p.book.base.Add(now).UnixMilli()
	p.entries = append(p.entries, osEntry{msg.Number, max(msg.Time, 0), now, msg.Text, epoch})
	p.touch(len(p.entries) - 1)
}

// trim makes room for n messages, and returns whether it had to. The head has to be stored then.
func (p *osPartition) trim(n int) (trimmed bool) {
	limit := min(p.limit, max(2*slotEntries, maxEntries/len(p.book.partitions)))
	for len(p.entries)+n > limit {
		trimmed = true
		p.touch(0)
		var newest []osEntry
		for _, e := range p.entries[:slotEntries] {
			if e.of(p.epoch) {
				p.floor = max(p.floor, e.number)
			}
			if e.of(p.epoch) && e.number == p.highest {
				newest = append(newest[:0], e) // came before a long replay, and tells sequences apart
			}
		}
		p.entries = append(slices.Delete(p.entries, 0, slotEntries), newest...)
		p.first += slotEntries
		if len(newest) > 0 {
			p.touch(len(p.entries) - 1)
		}
	}
	return trimmed
}
