package ledger

import (
	"cmp"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
)

const (
	// A mark remembers between 225 and 256 messages one by one, in slots: what is stored for a new message is its slot.
	markSlots       = 8
	markSlotEntries = 32
	markEntries     = markSlots * markSlotEntries

	// markGaps bounds the ranges of missing numbers that are kept to be asked for.
	markGaps = 16

	// markEarlier is how many messages of a sequence before the present one are remembered if all come by one replay: they
	// must not take the place of those of the present one.
	markEarlier = 32

	// markBefore bounds how many sequences before the present one are known by where they ended.
	markBefore = 4

	// A live message that was there already, without a time of the operating system, is that message once more within
	// these times, and after them the first one of a sequence that started anew. An HMC is not known to publish a message
	// twice, and no system can be loaded and write within 3 s. A message may well be published while it is replayed: its
	// two copies can be as far apart as the link and the answer of a request can be late.
	liveRepeat = 3
	replayRace = 60
)

// OSMessage is what tells one message of an operating system from the others of its partition.
type OSMessage struct {
	Seq  int64   // assigned by the HMC
	Key  [8]byte // hash of the number and the text
	Time int64   // in milliseconds, as the operating system gave it; 0 or less: it gave none
}

// same says whether two messages with the same number are one.
func (msg *OSMessage) same(other *OSMessage) bool {
	return msg.Key == other.Key && (msg.Time == other.Time || msg.Time <= 0 || other.Time <= 0)
}

// verdict says what an OS message is.
type verdict struct {
	Duplicate bool
	restarted bool   // it is the first one seen of a sequence that started anew
	Epoch     uint32 // which of the partition's sequences it belongs to; part of its event id if not 0
	Missing   int64  // how many numbers before it were skipped
}

// Replayed is what the HMC sent again: refresh messages, or an answer of List OS Messages.
type Replayed struct {
	Messages []OSMessage // oldest first
	// next is the live message that came behind it and is given to live after it; nil: none came. It is evidence only.
	Next *OSMessage
	// asked is when the SUBSCRIBE or the request was sent: what was received later proves nothing by being absent.
	Asked time.Time
	Now   time.Time
	// toEnd says that newer messages would be in it if the HMC held any: it was not cut short, and no end was asked for.
	ToEnd bool
}

// PartitionMark is what is known of the OS messages of one partition. The zero value knows nothing. It is not safe for
// concurrent use.
//
// The HMC numbers the messages of a partition. What makes the numbers hard is that they start anew: when they wrap, and
// perhaps at an IPL or a restart of the HMC, which no message tells. The stretch between is a sequence here, and has an
// epoch. Two messages are the same if sequence, number, text and time are; a time of the operating system proves it alone,
// but Linux gives none. Of each sequence is known from where to where it was seen, and which numbers between are missing;
// of the last messages also what they were, which tells one sequence from another.
//
// Promised, as long as the state is not damaged:
//   - A message that was never given to live or replay is new, unless nothing tells it from one that was (below).
//   - A message that was, is a duplicate when it comes by a replay: of whatever age, in whatever piece, at every SUBSCRIBE.
//   - The same text under the same number in another sequence has another epoch, and so another event id.
//
// What the HMC leaves open, and what was chosen:
//   - A replay has only messages known already, has no times, and ends before the newest one known: the system was loaded and
//     wrote the same as the last time, or somebody deleted the newest messages. Taken as loaded: all of it is new. So
//     deleting the newest messages while nobody looks repeats those before them in another epoch, once per deletion.
//   - A system was loaded while nobody looked, and wrote, without times, all that was known of the one before, and more:
//     only what is more is new.
//   - A message without a time is published again, number and text, within 3 s, or within 60 s of a replay that had it and
//     nothing newer published: a repetition, not the begin of a sequence.
//   - A replay has messages of several systems, because the HMC keeps them at an IPL. Each rising run of numbers is taken for
//     the sequence it has most in common with; those before the one that goes on are old if nothing tells that they were
//     not seen. Where the systems begin with the same messages without times, or the commit of many of several systems has
//     failed, some of what is not the present system's may be left out, or repeated.
//   - A system was loaded and goes on with higher numbers: no other sequence, the numbers between are missing.
//   - A number is repeated with another text: always new. Live, it begins another sequence, unless it was missing.
//
// If a part of the state is lost, what it told is delivered again where the HMC replays it, with the same ids.
type PartitionMark struct {
	entries     []markEntry // a ring
	base        uint64      // running number of entries[0] when the ring was not full yet; a multiple of markSlotEntries
	first, Next uint64      // running numbers: of the oldest entry, and the one that the next entry gets
	aged        bool        // there were older entries
	agedTime    int64       // the latest time of those, in milliseconds; the highest number there is if one had none

	// The present sequence. Numbers from lowest to highest were seen, but for the gaps.
	begun           bool
	began           int64  // when it was seen first, as an entry has it
	Epoch, top      uint32 // its epoch, and the highest that was ever used
	Lowest, Highest int64
	floor           int64 // the highest number whose entry is gone; none if there is none
	published       int64 // the highest number that came live; none if there is none
	gaps            spans // missing, and not settled
	lost            int64 // missing, no longer in gaps, and not told yet

	before []sequenceEnd // the sequences before, the latest last
	cut    cutReplay     // a replay of which more is to come
	stale  uint8         // the slots that are not stored as they are, a bit each
}

// none is a number that no message has.
const none = math.MinInt64

// markEntry is one message that was seen. Late ones come behind newer ones: the order within a sequence is that of the numbers.
type markEntry struct {
	seq      int64
	key      [8]byte
	time     int64
	received int64  // in Unix milliseconds; 0: before the daemon was started
	life     uint32 // epoch and flags
}

const (
	entryReplayed = 1 << 31 // it came by a replay
	entryGone     = 1 << 30 // it is to be ignored
	maxEpoch      = entryGone - 1

	// otherEpoch is for one that differs from another message of its sequence in nothing but the time.
	otherEpoch = maxEpoch + 1
)

func (e *markEntry) epoch() uint32 { return e.life & maxEpoch }

func (e *markEntry) gone() bool { return e.life&entryGone != 0 }

// is says whether the entry, which has the same number, is that message.
func (e *markEntry) is(msg *OSMessage) bool {
	return e.key == msg.Key && (e.time == msg.Time || e.time <= 0 || msg.Time <= 0)
}

// millis returns a time as entries have it.
func millis(t time.Time) int64 { return max(t.UnixMilli(), 1) }

// since says whether a time as entries have it is t or later.
func since(received int64, t time.Time) bool { return received != 0 && received >= t.UnixMilli() }

// within says whether the entry was received less than so many seconds before now.
func (e *markEntry) within(seconds int64, now time.Time) bool {
	return e.received != 0 && now.UnixMilli()-e.received < 1000*seconds
}

// sequenceEnd is where a sequence ended.
type sequenceEnd struct {
	epoch           uint32
	lowest, highest int64
	floor           int64 // the highest number whose entry is gone; none if there is none
	gaps            spans // what was missing of it
}

// unseen says whether a number of the sequence was not seen.
func (s *sequenceEnd) unseen(seq int64) bool {
	return seq < s.lowest || seq > s.highest || s.gaps.contains(seq)
}

// cutReplay is what has to be known of a replay that was cut short. Its first piece alone may not tell that the sequence
// started anew: if a later one does, what was taken as known is missing.
type cutReplay struct {
	asked    int64 // of the replay, in nanoseconds; 0: none
	from, to int64 // what was taken as known; from > to: nothing was
}

// Live judges a message that came as new, and records it.
func (m *PartitionMark) Live(msg OSMessage, now time.Time) verdict {
	v := verdict{}
	switch {
	case !m.begun:
		m.begin(m.Epoch, msg.Seq, now)
	case msg.Seq > m.Highest:
		v.Missing = m.extend(msg.Seq)
	default:
		e := m.find(&msg)
		if e != nil && m.repeated(e, &msg, now) {
			m.published = max(m.published, msg.Seq)
			return verdict{Duplicate: true, Epoch: m.Epoch}
		}
		// Live messages come in order: only what was not published yet can have been missing.
		if e != nil || msg.Seq <= m.published || !m.fill(msg.Seq) {
			m.restart(msg.Seq, now)
			v.restarted = true
		}
	}
	m.published = max(m.published, msg.Seq)
	v.Epoch = m.Epoch
	m.record(&msg, m.Epoch, now)
	return v
}

// repeated says whether a live message is the one of the entry, and not another one that looks the same.
func (m *PartitionMark) repeated(e *markEntry, msg *OSMessage, now time.Time) bool {
	switch {
	case e.time > 0 && msg.Time > 0:
		return true
	case e.life&entryReplayed != 0 && msg.Seq > m.published:
		// What was published before cannot be the other copy of what was replayed.
		return e.within(replayRace, now)
	default:
		return e.within(liveRepeat, now)
	}
}

// begin makes the sequence that begins with a number the present one.
func (m *PartitionMark) begin(epoch uint32, seq int64, now time.Time) {
	m.begun, m.began = true, millis(now)
	m.Epoch, m.top = epoch, max(m.top, epoch)
	m.Lowest, m.Highest = seq, seq
	m.floor, m.published = none, none
}

// restart ends the present sequence. What is missing of it can no longer be asked for: its numbers mean other messages now.
func (m *PartitionMark) restart(seq int64, now time.Time) {
	m.lost += m.gaps.count()
	if len(m.before) == markBefore {
		m.before = slices.Delete(m.before, 0, 1)
	}
	m.before = append(m.before, sequenceEnd{epoch: m.Epoch, lowest: m.Lowest, highest: m.Highest, floor: m.floor, gaps: m.gaps})
	m.gaps = nil
	m.begin(m.fresh(), seq, now)
}

// ended returns where a sequence before the present one ended; nil: it is not known.
func (m *PartitionMark) ended(epoch uint32) *sequenceEnd {
	for i := range m.before {
		if m.before[i].epoch == epoch {
			return &m.before[i]
		}
	}
	return nil
}

// fresh returns an epoch that was never used.
func (m *PartitionMark) fresh() uint32 {
	m.top = min(m.top+1, maxEpoch)
	return m.top
}

// extend makes a higher number the last one, and returns how many it skips.
func (m *PartitionMark) extend(seq int64) (skipped int64) {
	if from := m.Highest + 1; from < seq {
		m.skip(from, seq-1)
		skipped = span{from, seq - 1}.count()
	}
	m.Highest = seq
	return skipped
}

// skip notes numbers that are missing.
func (m *PartitionMark) skip(from, to int64) {
	m.gaps = m.gaps.add(from, to)
	m.boundGaps()
}

// fill notes that a number is not missing any more, and returns whether it was.
func (m *PartitionMark) fill(seq int64) (was bool) {
	m.gaps, was = m.gaps.remove(seq)
	m.boundGaps()
	return was
}

// boundGaps gives the lowest up if there are too many.
func (m *PartitionMark) boundGaps() {
	for len(m.gaps) > markGaps {
		m.lost += m.gaps[0].count()
		m.gaps = slices.Delete(m.gaps, 0, 1)
	}
}

// record remembers a message; flags are those of its entry.
func (m *PartitionMark) record(msg *OSMessage, life uint32, now time.Time) {
	if m.Next-m.first == markEntries {
		for range markSlotEntries {
			if e := m.at(m.first); !e.gone() {
				m.outlive(e)
			}
			m.first++
		}
		m.aged = true
	}
	e := markEntry{seq: msg.Seq, key: msg.Key, time: max(msg.Time, 0), received: millis(now), life: life}
	if i := int(m.Next-m.base) % markEntries; i < len(m.entries) {
		m.entries[i] = e
	} else {
		m.entries = append(m.entries, e)
	}
	m.Next++
	m.touch(m.Next - 1)
}

// outlive notes that an entry goes because it is too old.
func (m *PartitionMark) outlive(e *markEntry) {
	if e.epoch() == m.Epoch {
		m.floor = max(m.floor, e.seq)
	} else if end := m.ended(e.epoch()); end != nil {
		end.floor = max(end.floor, e.seq)
	}
	if m.agedTime = max(m.agedTime, e.time); e.time <= 0 {
		m.agedTime = math.MaxInt64
	}
}

// unseen says whether a message that is not remembered cannot have been seen: it would be remembered.
func (m *PartitionMark) unseen(msg *OSMessage) bool { return !m.aged || msg.Time > m.agedTime }

func (m *PartitionMark) at(n uint64) *markEntry { return &m.entries[(n-m.base)%markEntries] }

// touch notes that the slot of a running number has to be stored.
func (m *PartitionMark) touch(n uint64) { m.stale |= 1 << (n / markSlotEntries % markSlots) }

// newest returns a running number in the newest slot, which tells all but the entries.
func (m *PartitionMark) newest() uint64 { return max(m.Next, m.first+1) - 1 }

// find returns the entry of a message in the present sequence; nil: none.
func (m *PartitionMark) find(msg *OSMessage) *markEntry { return m.findIn(m.Epoch, msg) }

func (m *PartitionMark) findIn(epoch uint32, msg *OSMessage) *markEntry {
	for n := m.Next; n > m.first; n-- {
		if e := m.at(n - 1); e.seq == msg.Seq && e.life&^entryReplayed == epoch && e.is(msg) {
			return e
		}
	}
	return nil
}

// Replay judges messages that the HMC sent again, and records those that are new. The result has one verdict for each.
//
// A replay belongs to one SUBSCRIBE or one request. If it is given in pieces, all but the last have toEnd false.
func (m *PartitionMark) Replay(r Replayed) []verdict {
	out := make([]verdict, len(r.Messages))
	if len(r.Messages) == 0 {
		return out
	}
	a := newAlignment(m, &r, out)
	a.decide()
	a.apply()
	return out
}

// Empty says that no message of the partition was ever recorded.
func (m *PartitionMark) Empty() bool { return !m.begun }

// last returns the highest number of the present sequence.
func (m *PartitionMark) last() (seq int64, ok bool) { return m.Highest, m.begun }

// Missing returns the range from the lowest to the highest number that is missing and worth asking the HMC for, and how
// many numbers in it are missing; 0: none.
func (m *PartitionMark) Missing() (from, to, n int64) {
	if len(m.gaps) == 0 {
		return 0, 0, 0
	}
	return m.gaps[0].from, m.gaps[len(m.gaps)-1].to, m.gaps.count()
}

// Settle notes that the HMC was asked for all that is missing up to the number to, and that its answer was given to replay.
// It returns how many are missing still: the HMC has them no more, and they are not reported again.
func (m *PartitionMark) Settle(to int64) (n int64) {
	before := m.gaps.count()
	if before == 0 {
		return 0
	}
	m.gaps = m.gaps.above(to)
	m.touch(m.newest())
	return before - m.gaps.count()
}

// Abandoned returns how many missing numbers, since it was called last, can no longer be asked for: the sequence started
// anew, or too many gaps came together.
func (m *PartitionMark) Abandoned() int64 {
	n := m.lost
	m.lost = 0
	return n
}

// Forget takes messages back that were judged new and whose commit failed: as if they were never seen. Of the present
// sequence they are missing now. Whatever appendState has returned, it returns once more.
func (m *PartitionMark) Forget(msgs []OSMessage) {
	for i := range msgs {
		msg := &msgs[i]
		epoch := m.Epoch // of one whose entry is gone
		for n := m.Next; n > m.first; n-- {
			if e := m.at(n - 1); !e.gone() && e.seq == msg.Seq && e.is(msg) {
				epoch = e.epoch()
				e.life |= entryGone
				break
			}
		}
		if end := m.ended(epoch); end != nil {
			end.gaps = end.gaps.add(msg.Seq, msg.Seq)
			end.gaps = end.gaps[max(0, len(end.gaps)-markGaps):]
		} else if epoch == m.Epoch && m.Lowest <= msg.Seq && msg.Seq <= m.Highest {
			m.skip(msg.Seq, msg.Seq)
		}
	}
	left := m.aged
	for n := m.first; n < m.Next && !left; n++ {
		left = !m.at(n).gone()
	}
	if !left {
		m.begun, m.gaps, m.before = false, nil, nil
	}
	for n := m.first; n < m.Next; n += markSlotEntries {
		m.touch(n)
	}
	m.touch(m.newest())
}

// alignment is the comparison of one replay with what is known.
type alignment struct {
	m     *PartitionMark
	r     *Replayed
	out   []verdict
	runs  []replayRun
	index map[spot]*markEntry // by sequence and number, the newest

	epochs []uint32 // of all that is remembered, the latest first

	epoch  uint32     // the sequence that was the present one when the replay was asked for
	end    *markEntry // its newest message then; nil: none is remembered
	same   int        // the run that continues it; -1: none does
	newest int        // the latest run of that sequence or one before; -1: none is
	sure   bool       // beyond doubt
	young  bool       // another sequence has begun since
	known  bool       // there is something to compare with

	claimed map[spot]*OSMessage // what later runs have
}

type spot struct {
	epoch uint32
	seq   int64
}

// replayRun is a part of a replay in which the numbers rise: messages of one sequence.
type replayRun struct {
	from, to int // messages[from:to]
	kind     runKind
	assigned bool // to a sequence that is known
	epoch    uint32
}

type runKind int

const (
	runPresent  runKind = iota // of the present sequence
	runEarlier                 // of one before
	runRestart                 // of a new one that is the present one from now on
	runSeparate                // of a new one, before the present one
	runUnseen                  // of a new one, before all others
)

func newAlignment(m *PartitionMark, r *Replayed, out []verdict) *alignment {
	a := &alignment{m: m, r: r, out: out, known: m.begun, epoch: m.Epoch, same: -1, newest: -1, index: make(map[spot]*markEntry, m.Next-m.first)}
	a.claimed = make(map[spot]*OSMessage)
	found := !since(m.began, r.Asked)
	for n := m.Next; n > m.first; n-- {
		e := m.at(n - 1)
		if e.gone() {
			continue
		}
		s := spot{e.epoch(), e.seq}
		if a.index[s] == nil {
			a.index[s] = e
		}
		if !slices.Contains(a.epochs, s.epoch) {
			a.epochs = append(a.epochs, s.epoch)
		}
		if since(e.received, r.Asked) {
			continue
		}
		if !found {
			found, a.epoch = true, s.epoch
		}
		if s.epoch == a.epoch && (a.end == nil || s.seq > a.end.seq) {
			a.end = e
		}
	}
	a.young = a.epoch != m.Epoch
	start := 0
	for i := 1; i <= len(r.Messages); i++ {
		if i < len(r.Messages) {
			if msg, last := &r.Messages[i], &r.Messages[i-1]; msg.Seq > last.Seq {
				continue
			} else if msg.Seq == last.Seq && msg.same(last) {
				out[i].Duplicate = true // the same twice
				continue
			}
		}
		a.runs = append(a.runs, replayRun{from: start, to: i})
		start = i
	}
	return a
}

// lookup returns the entry with a message's number in a sequence, and whether it is that message.
func (a *alignment) lookup(epoch uint32, msg *OSMessage) (e *markEntry, match bool) {
	e = a.index[spot{epoch, msg.Seq}]
	if e == nil || e.is(msg) {
		return e, e != nil
	}
	if other := a.m.findIn(epoch, msg); other != nil {
		return other, true
	}
	return e, false
}

// fit is how well a run fits the sequence that was the present one.
type fit int

const (
	fitNot  fit = iota
	fitWell     // nothing speaks against it
	fitSure
)

// fit judges a run by the messages it has in common with what is known, and by where it ends.
func (a *alignment) fit(run *replayRun) fit {
	messages := a.r.Messages[run.from:run.to]
	newest := &messages[len(messages)-1]
	var common, differs, reached, published bool
	for i := range messages {
		msg := &messages[i]
		e, match := a.lookup(a.epoch, msg)
		if e == nil {
			continue
		}
		if since(e.received, a.r.Asked) {
			published = published || match
			continue
		}
		common, differs = true, !match
		if match && e.time > 0 && msg.Time > 0 {
			return fitSure
		}
		reached = reached || e == a.end
	}
	switch {
	case common && differs: // the highest number in common has another text
		return fitNot
	case reached, a.end == nil && published:
		return fitSure
	case a.end == nil:
		return fitWell
	}
	reach := newest.Seq
	if a.r.Next != nil && run.to == len(a.r.Messages) {
		reach = max(reach, a.r.Next.Seq)
	}
	switch {
	case reach > a.end.seq, !a.r.ToEnd:
		return fitWell
	case newest.Time > 0 && a.end.time > 0 && newest.Time <= a.end.time:
		return fitWell // the newer ones were deleted
	default:
		return fitNot
	}
}

// decide finds out what each run is, and which messages are new. It changes nothing but the verdicts.
func (a *alignment) decide() {
	m := a.m
	if a.known {
		a.assign()
	}
	for i := len(a.runs) - 1; i >= 0; i-- {
		run := &a.runs[i]
		switch {
		case run.assigned:
			a.judge(run, run.epoch)
		case i < a.newest:
			a.decideEarlier(run, a.newest-i)
		case !a.young:
			run.kind = runRestart
		case i < len(a.runs)-1:
			run.kind = runSeparate
		case a.contradicts(run, m.Epoch):
			run.kind = runRestart
		default:
			// The present sequence was noticed by a live message before what it began with was replayed.
			a.judge(run, m.Epoch)
		}
	}
	for i := range a.out {
		if msg := &a.r.Messages[i]; msg.Time > 0 && !a.out[i].Duplicate {
			a.out[i].Duplicate = slices.ContainsFunc(a.epochs, func(epoch uint32) bool {
				e, match := a.lookup(epoch, msg)
				return match && e.time > 0 // whatever else: this is it
			})
		}
	}
}

// judge judges the messages of a run of a sequence that is known.
func (a *alignment) judge(run *replayRun, epoch uint32) {
	run.epoch = epoch
	if epoch == a.m.Epoch {
		run.kind = runPresent
		a.judgePresent(run)
	} else {
		run.kind = runEarlier
		a.judgeEarlier(run)
	}
	if len(a.runs) == 1 {
		return
	}
	for i := run.from; i < run.to; i++ {
		msg := &a.r.Messages[i]
		if other := a.claimed[spot{epoch, msg.Seq}]; other != nil && other.same(msg) {
			a.out[i].Duplicate = true // it comes once more
		}
		a.claimed[spot{epoch, msg.Seq}] = msg
	}
}

// assign finds the runs of sequences that are known: those with most messages in common first, and each sequence once.
func (a *alignment) assign() {
	if a.m.cut.asked == a.asked() && a.r.Messages[0].Seq > a.m.Highest {
		// The next piece of the same replay.
		a.epoch, a.end, a.young, a.sure = a.m.Epoch, nil, false, true
		a.assignTo(0, a.epoch)
		return
	}
	type pair struct {
		run, common int
		epoch       uint32
	}
	var pairs []pair
	last := len(a.runs) - 1
	fits := make([]fit, len(a.runs))
	for i := range a.runs {
		fits[i] = a.fit(&a.runs[i])
		if i == last && !a.r.ToEnd && a.missing(&a.runs[i]) > 0 && !a.contradicts(&a.runs[i], a.m.Epoch) {
			pairs = append(pairs, pair{i, math.MaxInt, a.m.Epoch}) // what was asked for
			continue
		}
		for _, epoch := range a.epochs {
			n := a.common(&a.runs[i], epoch)
			switch {
			case epoch == a.epoch && fits[i] == fitNot:
				continue
			case epoch == a.epoch && fits[i] == fitSure:
				n = max(n, 1)
			case epoch == a.epoch:
			case a.young && epoch == a.m.Epoch:
				if i < last {
					continue
				}
				if _, match := a.lookup(epoch, &a.r.Messages[a.runs[i].to-1]); match {
					n = math.MaxInt // its newest message was published since
				}
			case i == last && a.r.ToEnd:
				continue // the newest messages there are cannot be older than what is known
			}
			if n > 0 {
				pairs = append(pairs, pair{i, n, epoch})
			}
		}
	}
	slices.SortStableFunc(pairs, func(x, y pair) int { return cmp.Compare(y.common, x.common) })
	owners := make(map[uint32]int)
	for _, p := range pairs {
		if a.runs[p.run].assigned {
			continue
		}
		if owner, ok := owners[p.epoch]; ok && !a.repeats(min(owner, p.run), max(owner, p.run)) {
			continue
		}
		owners[p.epoch] = p.run
		a.assignTo(p.run, p.epoch)
	}
	a.newest = -1
	for i := range a.runs {
		if run := &a.runs[i]; run.assigned && run.epoch == a.epoch {
			a.newest, a.same, a.sure = i, i, fits[i] == fitSure
		}
	}
	if a.same < 0 {
		for i := range a.runs {
			if run := &a.runs[i]; run.assigned && !(a.young && run.epoch == a.m.Epoch) {
				a.newest = i
			}
		}
		// Nothing in common, but the numbers are missing, or can go on.
		best := 0
		for i := a.newest + 1; i <= last; i++ {
			if fits[i] != fitWell || a.runs[i].assigned {
				continue
			}
			if n := a.missing(&a.runs[i]); a.same < 0 || a.end == nil || n > 0 && n >= best {
				a.same, best = i, n
			}
		}
		if a.same >= 0 {
			a.newest = a.same
			a.assignTo(a.same, a.epoch)
		}
	}
	for i := a.newest + 1; i <= last; i++ {
		if run := &a.runs[i]; !a.young || run.epoch != a.m.Epoch {
			run.assigned = false
		}
	}
}

// missing returns how many numbers of a run are missing in the present sequence.
func (a *alignment) missing(run *replayRun) (n int) {
	for i := run.from; i < run.to; i++ {
		if a.m.gaps.contains(a.r.Messages[i].Seq) {
			n++
		}
	}
	return n
}

func (a *alignment) assignTo(run int, epoch uint32) {
	a.runs[run].assigned, a.runs[run].epoch = true, epoch
	if epoch == a.epoch {
		a.same, a.newest = run, run
	}
}

// repeats says whether a later run has all messages of an earlier one: two replays were given as one, or nothing tells the
// sequences apart.
func (a *alignment) repeats(earlier, later int) bool {
	for i := a.runs[earlier].from; i < a.runs[earlier].to; i++ {
		msg := &a.r.Messages[i]
		if at, ok := a.position(&a.runs[later], msg.Seq); !ok || !msg.same(&a.r.Messages[at]) {
			return false
		}
	}
	return true
}

func (a *alignment) asked() int64 {
	if a.r.Asked.IsZero() {
		return -1
	}
	return a.r.Asked.UnixNano()
}

// contradicts says whether a sequence has a number of the run with another text.
func (a *alignment) contradicts(run *replayRun, epoch uint32) bool {
	for i := run.from; i < run.to; i++ {
		if e, match := a.lookup(epoch, &a.r.Messages[i]); e != nil && !match {
			return true
		}
	}
	return false
}

// judgePresent judges the messages of a run of the present sequence.
func (a *alignment) judgePresent(run *replayRun) {
	m := a.m
	for i := run.from; i < run.to; i++ {
		msg, v := &a.r.Messages[i], &a.out[i]
		v.Epoch = run.epoch
		if v.Duplicate {
			continue
		}
		e, match := a.lookup(run.epoch, msg)
		switch {
		case match:
			v.Duplicate = true
		case e != nil:
			v.Duplicate = a.elsewhere(run.epoch, msg)
			if !v.Duplicate && e.key == msg.Key {
				v.Epoch = otherEpoch
			}
		case msg.Seq > m.Highest, msg.Seq < m.Lowest, m.gaps.contains(msg.Seq):
		default:
			v.Duplicate = msg.Seq <= m.floor && !m.unseen(msg) // else it was missing and turns up late
		}
	}
}

// elsewhere says whether a message that is not the present sequence's is one of another: the numbers went on rising where
// that ended.
func (a *alignment) elsewhere(epoch uint32, msg *OSMessage) bool {
	return slices.ContainsFunc(a.epochs, func(other uint32) bool {
		_, match := a.lookup(other, msg)
		return match && other != epoch
	})
}

// judgeEarlier judges the messages of a run of an earlier sequence, of which some are remembered.
func (a *alignment) judgeEarlier(run *replayRun) {
	m := a.m
	end := m.ended(run.epoch)
	floor := int64(none) // what is up to it was seen, if it was not missing
	if end != nil {
		floor = end.floor
	} else if m.aged {
		floor = math.MaxInt64
		for s := range a.index {
			if s.epoch == run.epoch {
				floor = min(floor, s.seq)
			}
		}
	}
	for i := run.from; i < run.to; i++ {
		msg, v := &a.r.Messages[i], &a.out[i]
		v.Epoch = run.epoch
		e, match := a.lookup(run.epoch, msg)
		if e != nil && !match && e.key == msg.Key {
			v.Epoch = otherEpoch
		}
		missed := end != nil && end.unseen(msg.Seq)
		v.Duplicate = v.Duplicate || match || msg.Seq <= floor && !missed && !m.unseen(msg)
	}
}

// decideEarlier decides on a run before the one that continues the sequence known.
func (a *alignment) decideEarlier(run *replayRun, distance int) {
	m := a.m
	run.kind = runEarlier
	if !m.aged || !a.sure {
		run.kind = runSeparate
		return
	}
	var end *sequenceEnd
	if a.young {
		distance++
	}
	if i := len(m.before) - distance; i >= 0 {
		end = &m.before[i]
		run.epoch = end.epoch
	} else if len(m.before) < markBefore {
		run.kind = runUnseen // all sequences that were seen are known
		return
	}
	for i := run.from; i < run.to; i++ {
		v := &a.out[i]
		v.Epoch = run.epoch
		seq := a.r.Messages[i].Seq
		switch {
		case v.Duplicate:
		case end != nil && end.unseen(seq):
			// Where that sequence ended, and what was missing, is all that is known of it.
		case m.gaps.contains(seq), m.unseen(&a.r.Messages[i]):
			run.kind = runSeparate // its number was asked for, or its time tells
		default:
			v.Duplicate = true
		}
	}
}

// common returns how many messages of a run a sequence has; 0 if the highest number that both have is another message.
func (a *alignment) common(run *replayRun, epoch uint32) (n int) {
	match := false
	for i := run.from; i < run.to; i++ {
		if e, is := a.lookup(epoch, &a.r.Messages[i]); is {
			n, match = n+1, true
		} else if e != nil {
			match = false
		}
	}
	if !match {
		return 0
	}
	return n
}

// apply records what is new.
func (a *alignment) apply() {
	m := a.m
	for i := range a.runs {
		run := &a.runs[i]
		switch run.kind {
		case runPresent:
			a.applyPresent(run)
		case runEarlier:
			a.applyEarlier(run)
		case runSeparate, runUnseen:
			run.epoch = m.fresh()
			if run.kind == runUnseen && len(m.before) < markBefore {
				m.before = slices.Insert(m.before, 0, sequenceEnd{epoch: run.epoch, lowest: math.MaxInt64, highest: none, floor: none})
			}
			a.applyEarlier(run)
		case runRestart:
			a.applyRestart(run)
		}
	}
	a.noteCut()
}

// applyPresent adds the new messages of a run to the present sequence.
func (a *alignment) applyPresent(run *replayRun) {
	m := a.m
	if first := a.r.Messages[run.from].Seq; a.young && first < m.Lowest {
		m.skip(first, m.Lowest-1) // and what of it is in the replay is not missing
		m.Lowest = first
	}
	for i := run.from; i < run.to; i++ {
		msg, v := &a.r.Messages[i], &a.out[i]
		if v.Duplicate {
			continue
		}
		if msg.Seq > m.Highest {
			v.Missing = m.extend(msg.Seq)
		} else {
			m.Lowest = min(m.Lowest, msg.Seq)
			m.fill(msg.Seq)
		}
		if v.Epoch == otherEpoch {
			v.Epoch = m.fresh()
		}
		m.record(msg, v.Epoch|entryReplayed, a.r.Now)
	}
}

// applyEarlier adds the new messages of a run to a sequence before the present one.
func (a *alignment) applyEarlier(run *replayRun) {
	m := a.m
	end := m.ended(run.epoch)
	for i := run.from; i < run.to; i++ {
		msg, v := &a.r.Messages[i], &a.out[i]
		switch {
		case v.Duplicate:
			v.Epoch = run.epoch
			continue
		case v.Epoch == otherEpoch:
			v.Epoch = m.fresh()
		default:
			v.Epoch = run.epoch
		}
		if end != nil {
			end.lowest, end.highest = min(end.lowest, msg.Seq), max(end.highest, msg.Seq)
			if gaps, was := end.gaps.remove(msg.Seq); was && len(gaps) <= markGaps {
				end.gaps = gaps
			}
		}
		if i < run.to-markEarlier && v.Epoch == run.epoch {
			m.aged = true
			m.outlive(&markEntry{seq: msg.Seq, time: msg.Time, life: run.epoch})
			continue
		}
		m.record(msg, v.Epoch|entryReplayed, a.r.Now)
	}
}

// applyRestart makes a run the present sequence.
func (a *alignment) applyRestart(run *replayRun) {
	m := a.m
	first := a.r.Messages[run.from].Seq
	old := m.Epoch
	if m.begun {
		if a.end != nil {
			// What is missing behind it is missing of the new sequence, if at all.
			m.gaps = m.gaps.below(a.end.seq)
		}
		m.restart(first, a.r.Now)
		if c := &m.cut; c.asked == a.asked() && c.from <= c.to && c.to < first {
			m.skip(c.from, first-1)
			m.Lowest = c.from
		}
		a.out[run.from].restarted = true
	} else {
		m.begin(m.Epoch, first, a.r.Now)
	}
	m.cut = cutReplay{}
	run.epoch = m.Epoch
	var published []int64
	if a.known && run.to == len(a.r.Messages) {
		published = a.claimPublished(run, old)
	}
	for i := run.from; i < run.to; i++ {
		msg, v := &a.r.Messages[i], &a.out[i]
		v.Epoch = run.epoch
		if v.Duplicate {
			m.Highest = max(m.Highest, msg.Seq)
			continue
		}
		if a.known {
			v.Missing = m.extend(msg.Seq)
		}
		m.Highest = msg.Seq // what the first replay of all skips was gone before anybody looked
		m.record(msg, run.epoch|entryReplayed, a.r.Now)
	}
	for _, seq := range published {
		if seq > m.Highest {
			m.extend(seq)
		}
		m.fill(seq)
	}
}

// claimPublished makes what was published since the replay was asked for a part of the sequence that has just begun with the
// last run, where it was taken for the old one because its numbers were higher. It returns the numbers.
func (a *alignment) claimPublished(run *replayRun, old uint32) (numbers []int64) {
	m := a.m
	for n := m.first; n < m.Next; n++ {
		e := m.at(n)
		if e.life != old || !since(e.received, a.r.Asked) {
			continue
		}
		if i, ok := a.position(run, e.seq); ok && e.is(&a.r.Messages[i]) {
			if a.same >= 0 {
				if j, ok := a.position(&a.runs[a.same], e.seq); ok && e.is(&a.r.Messages[j]) {
					continue
				}
			}
			a.out[i].Duplicate = true
		} else if a.same >= 0 || e.seq <= a.r.Messages[run.to-1].Seq {
			continue
		}
		e.life = m.Epoch
		m.touch(n)
		m.published = max(m.published, e.seq)
		numbers = append(numbers, e.seq)
	}
	return numbers
}

// position returns where in the replay a run has a number.
func (a *alignment) position(run *replayRun, seq int64) (int, bool) {
	i, ok := slices.BinarySearchFunc(a.r.Messages[run.from:run.to], seq, func(msg OSMessage, seq int64) int { return cmp.Compare(msg.Seq, seq) })
	return run.from + i, ok
}

// noteCut keeps what the next piece of the replay has to know of this one.
func (a *alignment) noteCut() {
	m := a.m
	if a.r.ToEnd {
		m.cut = cutReplay{}
		return
	}
	if m.cut.asked != a.asked() {
		m.cut = cutReplay{asked: a.asked(), from: 1}
	}
	run := &a.runs[len(a.runs)-1]
	if a.sure || run.kind != runPresent {
		return
	}
	for i := run.from; i < run.to; i++ {
		if !a.out[i].Duplicate {
			continue
		}
		if seq := a.r.Messages[i].Seq; m.cut.from > m.cut.to {
			m.cut.from, m.cut.to = seq, seq
		} else {
			m.cut.to = max(m.cut.to, seq)
		}
	}
}

// span is a range of numbers, both ends included.
type span struct{ from, to int64 }

// count returns how many numbers it has, or the highest number there is if they are more.
func (s span) count() int64 {
	if n := uint64(s.to) - uint64(s.from); n < math.MaxInt64 {
		return int64(n) + 1
	}
	return math.MaxInt64
}

// spans are ranges in rising order that do not touch.
type spans []span

func (s spans) count() (n int64) {
	for i := range s {
		if c := s[i].count(); n <= math.MaxInt64-c {
			n += c
		} else {
			n = math.MaxInt64
		}
	}
	return n
}

// search returns the first range that ends at seq or behind it.
func (s spans) search(seq int64) int {
	i, _ := slices.BinarySearchFunc(s, seq, func(one span, seq int64) int {
		if one.to < seq {
			return -1
		}
		return 1
	})
	return i
}

func (s spans) contains(seq int64) bool {
	i := s.search(seq)
	return i < len(s) && s[i].from <= seq
}

// add returns s with a range more.
func (s spans) add(from, to int64) spans {
	i := s.search(max(from, none+1) - 1)
	j := i
	for ; j < len(s) && (to == math.MaxInt64 || s[j].from <= to+1); j++ {
		from, to = min(from, s[j].from), max(to, s[j].to)
	}
	return slices.Replace(s, i, j, span{from, to})
}

// remove returns s without a number, and whether that was in it.
func (s spans) remove(seq int64) (spans, bool) {
	i := s.search(seq)
	if i == len(s) || s[i].from > seq {
		return s, false
	}
	var parts []span
	if one := s[i]; one.from < seq {
		parts = append(parts, span{one.from, seq - 1})
	}
	if one := s[i]; seq < one.to {
		parts = append(parts, span{seq + 1, one.to})
	}
	return slices.Replace(s, i, i+1, parts...), true
}

// above returns s without the numbers up to seq.
func (s spans) above(seq int64) spans {
	i := s.search(seq)
	if i < len(s) && s[i].from <= seq {
		if s[i].to == seq {
			i++
		} else {
			s[i].from = seq + 1
		}
	}
	return slices.Delete(s, 0, i)
}

// below returns s without the numbers from seq on.
func (s spans) below(seq int64) spans {
	i := s.search(seq)
	if i < len(s) && s[i].from < seq {
		s[i].to = seq - 1
		i++
	}
	return s[:i]
}

// A slot is stored as:
//
//	version, 1 byte
//	running number of its first entry, number of entries: uvarint
//	1 and the head if it is the newest slot, else 0
//	the entries: flags, and unless it is gone: epoch if it is not that of the entry before (uvarint), difference to the
//	    number before (varint), key, difference to the time before if it has one (varint)
//	CRC-32 of all that
//
// The head: flags, epoch, top (uvarint), lowest, highest, floor, time of the floor (varint), gaps: how many (uvarint), and from and to of each
// (varint); how many sequences before are known (uvarint), and epoch (uvarint),
// lowest, highest, floor (varint) and gaps of each.
const markVersion = 1

// Flags of a stored entry.
const (
	storedGone = 1 << iota
	storedReplayed
	storedTime
	storedEpoch
)

// Flags of a stored head.
const (
	storedBegun = 1 << iota
	storedAged
)

// dirty says that appendState has something to return.
func (m *PartitionMark) dirty() bool { return m.stale != 0 }

// AppendState appends what is to be stored since the last call. key begins every key of the partition: prefix and partition.
func (m *PartitionMark) AppendState(to []queue.KeyValue, key string) []queue.KeyValue {
	if m.stale == 0 {
		return to
	}
	newest := m.newest() / markSlotEntries * markSlotEntries
	for start := m.first; start <= newest; start += markSlotEntries {
		slot := start / markSlotEntries % markSlots
		if m.stale&(1<<slot) != 0 {
			to = append(to, queue.KeyValue{Key: key + markKeySeparator + strconv.FormatUint(slot, 10), Value: m.encodeSlot(start, start == newest)})
		}
	}
	m.stale = 0
	return to
}

const markKeySeparator = "#"

// AppendMarkDeletion appends the deletion of everything that appendState has stored under the key.
func AppendMarkDeletion(to []queue.KeyValue, key string) []queue.KeyValue {
	for slot := range uint64(markSlots) {
		to = append(to, queue.KeyValue{Key: key + markKeySeparator + strconv.FormatUint(slot, 10)})
	}
	return to
}

func (m *PartitionMark) encodeSlot(start uint64, head bool) []byte {
	end := min(start+markSlotEntries, m.Next)
	b := make([]byte, 0, 96+16*(end-start))
	b = append(b, markVersion)
	b = binary.AppendUvarint(b, start)
	b = binary.AppendUvarint(b, end-start)
	if head {
		b = m.appendHead(append(b, 1))
	} else {
		b = append(b, 0)
	}
	var before markEntry
	for n := start; n < end; n++ {
		e := m.at(n)
		if e.gone() {
			b = append(b, storedGone)
			continue
		}
		flags := byte(0)
		if e.life&entryReplayed != 0 {
			flags |= storedReplayed
		}
		if e.time > 0 {
			flags |= storedTime
		}
		if e.epoch() != before.epoch() {
			flags |= storedEpoch
		}
		b = append(b, flags)
		if flags&storedEpoch != 0 {
			b = binary.AppendUvarint(b, uint64(e.epoch()))
		}
		b = binary.AppendVarint(b, e.seq-before.seq)
		b = append(b, e.key[:]...)
		at := before.time
		if flags&storedTime != 0 {
			b = binary.AppendVarint(b, e.time-at)
			at = e.time
		}
		before = *e
		before.time = at
	}
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
}

func (m *PartitionMark) appendHead(b []byte) []byte {
	flags := byte(0)
	if m.begun {
		flags |= storedBegun
	}
	if m.aged {
		flags |= storedAged
	}
	b = append(b, flags)
	b = binary.AppendUvarint(b, uint64(m.Epoch))
	b = binary.AppendUvarint(b, uint64(m.top))
	b = binary.AppendVarint(b, m.Lowest)
	b = binary.AppendVarint(b, m.Highest)
	b = binary.AppendVarint(b, m.floor)
	b = binary.AppendVarint(b, m.agedTime)
	b = m.gaps.append(b)
	b = binary.AppendUvarint(b, uint64(len(m.before)))
	for i := range m.before {
		b = binary.AppendUvarint(b, uint64(m.before[i].epoch))
		b = binary.AppendVarint(b, m.before[i].lowest)
		b = binary.AppendVarint(b, m.before[i].highest)
		b = binary.AppendVarint(b, m.before[i].floor)
		b = m.before[i].gaps.append(b)
	}
	return b
}

func (s spans) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	for i := range s {
		b = binary.AppendVarint(b, s[i].from)
		b = binary.AppendVarint(b, s[i].to)
	}
	return b
}

// storedSlot is a slot as it was read.
type storedSlot struct {
	start   uint64
	entries []markEntry
	head    *PartitionMark // all but the entries; nil: it has none
}

var errMarkDamaged = errors.New("damaged")

// markReader reads the numbers of a slot. After the first that is not there, all are 0.
type markReader struct {
	b   []byte
	bad bool
}

func (r *markReader) take(n int) []byte {
	if r.bad || n <= 0 || n > len(r.b) {
		r.bad = true
		return make([]byte, 8)
	}
	taken := r.b[:n]
	r.b = r.b[n:]
	return taken
}

func (r *markReader) byte() byte { return r.take(1)[0] }

func (r *markReader) uvarint(limit uint64) uint64 {
	v, n := binary.Uvarint(r.b)
	r.take(n)
	if v > limit {
		r.bad = true
	}
	if r.bad {
		return 0
	}
	return v
}

func (r *markReader) varint() int64 {
	v, n := binary.Varint(r.b)
	r.take(n)
	if r.bad {
		return 0
	}
	return v
}

func decodeSlot(b []byte) (storedSlot, error) {
	const sumSize = 4
	if len(b) < sumSize || crc32.ChecksumIEEE(b[:len(b)-sumSize]) != binary.BigEndian.Uint32(b[len(b)-sumSize:]) {
		return storedSlot{}, errMarkDamaged
	}
	r := &markReader{b: b[:len(b)-sumSize]}
	if r.byte() != markVersion {
		return storedSlot{}, errMarkDamaged
	}
	s := storedSlot{start: r.uvarint(math.MaxInt64)}
	count := r.uvarint(markSlotEntries)
	if r.byte() == 1 {
		s.head = r.head()
	}
	var before markEntry
	for range count {
		flags := r.byte()
		if flags&storedGone != 0 {
			s.entries = append(s.entries, markEntry{life: entryGone})
			continue
		}
		e := markEntry{life: before.epoch()}
		if flags&storedEpoch != 0 {
			e.life = uint32(r.uvarint(maxEpoch))
		}
		e.seq = before.seq + r.varint()
		copy(e.key[:], r.take(len(e.key)))
		at := before.time
		if flags&storedTime != 0 {
			e.time = at + r.varint()
			at = e.time
		}
		before = e
		before.time = at
		if flags&storedReplayed != 0 {
			e.life |= entryReplayed
		}
		s.entries = append(s.entries, e)
	}
	if r.bad || len(r.b) != 0 || s.start%markSlotEntries != 0 {
		return storedSlot{}, errMarkDamaged
	}
	return s, nil
}

func (r *markReader) head() *PartitionMark {
	flags := r.byte()
	m := &PartitionMark{
		begun: flags&storedBegun != 0, aged: flags&storedAged != 0,
		Epoch: uint32(r.uvarint(maxEpoch)), top: uint32(r.uvarint(maxEpoch)),
		Lowest: r.varint(), Highest: r.varint(), floor: r.varint(), agedTime: r.varint(), published: none,
	}
	m.gaps = r.spans()
	for range r.uvarint(markBefore) {
		m.before = append(m.before, sequenceEnd{epoch: uint32(r.uvarint(maxEpoch)), lowest: r.varint(), highest: r.varint(), floor: r.varint(), gaps: r.spans()})
	}
	return m
}

func (r *markReader) spans() (s spans) {
	for range r.uvarint(markGaps) {
		s = append(s, span{r.varint(), r.varint()})
	}
	return s
}

// LoadPartitionMarks reads what appendState returned for the partitions whose keys begin with prefix. stateRange is that of
// the queue. damaged is how many values could not be read: what they told is not known.
func LoadPartitionMarks(prefix string, stateRange func(prefix string, fn func(key string, value []byte) bool)) (marks map[string]*PartitionMark, damaged int) {
	slots := make(map[string][]storedSlot)
	stateRange(prefix, func(key string, value []byte) bool {
		name := strings.TrimPrefix(key, prefix)
		s, err := decodeSlot(value)
		i := strings.LastIndex(name, markKeySeparator)
		if err != nil || i < 0 || name[i+1:] != strconv.FormatUint(s.start/markSlotEntries%markSlots, 10) {
			damaged++
			return true
		}
		slots[name[:i]] = append(slots[name[:i]], s)
		return true
	})
	marks = make(map[string]*PartitionMark, len(slots))
	for partition, of := range slots {
		marks[partition] = joinSlots(of)
	}
	return marks, damaged
}

// joinSlots makes a mark of the slots that could be read, at least one. Those missing are taken as full of messages that
// were seen and are not remembered. If it is the newest, what it told is not known: it will be delivered again if the HMC
// replays it, under the same event ids.
func joinSlots(slots []storedSlot) *PartitionMark {
	slices.SortFunc(slots, func(a, b storedSlot) int { return cmp.Compare(a.start, b.start) })
	newest := slots[len(slots)-1]
	m := newest.head
	if m == nil {
		m = headOf(slots)
	}
	slots = slices.DeleteFunc(slots, func(s storedSlot) bool { return newest.start-s.start >= markEntries })
	m.base, m.first, m.Next = slots[0].start, slots[0].start, slots[0].start
	m.published = m.Highest // all of it was written before the daemon was started
	if m.first > 0 && !m.aged {
		m.aged, m.agedTime = true, math.MaxInt64
	}
	hole := false
	for _, s := range slots {
		for ; m.Next < s.start; m.Next++ {
			m.entries = append(m.entries, markEntry{life: entryGone})
			hole = true
			m.aged, m.agedTime = true, math.MaxInt64
		}
		for i := range s.entries {
			e := &s.entries[i]
			if hole && !e.gone() && e.epoch() == m.Epoch {
				m.floor, hole = max(m.floor, e.seq-1), false
			}
			m.entries = append(m.entries, *e)
			m.Next++
		}
	}
	return m
}

// headOf derives from the entries what can be.
func headOf(slots []storedSlot) *PartitionMark {
	m := &PartitionMark{aged: true, agedTime: math.MaxInt64, Lowest: math.MaxInt64, Highest: none, floor: none, published: none}
	for _, s := range slots {
		for i := range s.entries {
			if e := &s.entries[i]; !e.gone() {
				m.begun, m.Epoch, m.top = true, max(m.Epoch, e.epoch()), max(m.top, e.epoch())
			}
		}
	}
	for _, s := range slots {
		for i := range s.entries {
			if e := &s.entries[i]; !e.gone() && e.epoch() == m.Epoch {
				m.Lowest, m.Highest = min(m.Lowest, e.seq), max(m.Highest, e.seq)
			}
		}
	}
	return m
}
