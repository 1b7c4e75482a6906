package translate

import (
	"slices"
	"time"
)

const (
	// sequenceRestart is a jump that is no gap: the numbering began anew.
	sequenceRestart = 1_000_000
	// sequenceLate is how long a number may come late where all topics share the numbers: the
	// topics of a link are only roughly in order among each other.
	sequenceLate = time.Second
	// sequenceHoles bounds the holes that are waited for.
	sequenceHoles = 64
	// sequenceCertain is how much evidence is kept: a jump may by chance look as if the other
	// way to count explained it.
	sequenceCertain = 16
	// sequenceDoubts is how often numbers may jump that perhaps went to topics which are not
	// subscribed to.
	sequenceDoubts = 3
)

// SequenceTracker follows the header session-sequence-nr, to notice notifications that were missed.
// Its owner guards it.
//
// It is not documented whether an HMC counts the notifications of each topic or of the whole
// session; a capture speaks for the former. The tracker learns it from the first notification that
// only one of the two explains. Until then a jump is a gap only as far as neither explains it.
// Where the HMC counts the whole session, topics that are not subscribed to take numbers too: then
// a jump means nothing, and is none.
//
// Number for number: what is reported as missing was published and not received, provided that the
// HMC counts as described. The first number of a topic, one that is not above the last, and a jump
// by more than a million begin anew.
type SequenceTracker struct {
	// all topics of the session are subscribed to
	complete bool
	// numbers begin with 0: there was one
	zero bool
	link int
	// above 0: evidence for a count per topic, below 0: per session
	mode   int
	doubts int

	topics map[string]*sequence
	// of all topics
	session sequence
	// the last number of the session that was not above the one before
	below int64
	holes []sequenceHole
	// by topic, dropped by our own hand-over buffer: the jump is yet to come
	drops map[string]int64
	gaps  []SequenceGap
}

// sequence is where a count stands.
type sequence struct {
	known bool
	last  int64
	at    time.Time
	link  int
}

// sequenceHole is a range of numbers of the session that were not seen yet.
type sequenceHole struct {
	from, to    int64
	first, last time.Time
	overLink    bool
}

// SequenceGap says that notifications are missing.
type SequenceGap struct {
	Topic       string // "": the numbers do not tell
	Missing     int64
	First, Last time.Time // arrival of the notifications before and behind them
	OverLink    bool      // they were published while there was no link
}

// NewSession forgets all numbers: another session has other topics. complete says that all of them
// are subscribed to.
func (t *SequenceTracker) NewSession(complete bool) {
	*t = SequenceTracker{complete: complete, zero: t.zero, mode: t.mode, doubts: t.doubts, gaps: t.gaps}
}

// NewLink notes that the link is another one of the same session: the numbers went on meanwhile.
func (t *SequenceTracker) NewLink(complete bool) {
	t.complete = complete
	t.link++
	t.drops = nil
}

// Dropped notes notifications of a topic that were received and dropped, which is known and
// counted. The jump that they cause comes later, when what was received before them has been noted.
func (t *SequenceTracker) Dropped(topic string, n int) {
	if t.drops == nil {
		t.drops = make(map[string]int64)
	}
	t.drops[topic] += int64(n)
}

// Note takes the number of a notification, in the order of arrival.
func (t *SequenceTracker) Note(topic string, nr int64, now time.Time) {
	t.zero = t.zero || nr == 0
	own := t.topics[topic]
	if own == nil {
		if t.topics == nil {
			t.topics = make(map[string]*sequence)
		}
		own = new(sequence)
		t.topics[topic] = own
	}
	if t.mode < 0 && t.fill(nr) {
		*own = sequence{true, max(nr, own.last), now, t.link}
		return
	}
	nextOfTopic, nextOfSession := own.known && nr == own.last+1, t.session.known && nr == t.session.last+1
	switch {
	case own.known && nextOfTopic != nextOfSession:
		t.learn(nextOfTopic)
	case !own.known && t.session.known && nr <= t.session.last:
		t.learn(true) // another topic had this number
	}
	switch {
	case nextOfTopic && t.mode >= 0, nextOfSession && t.mode <= 0:
	case t.mode < 0:
		t.jumpOfSession(nr, now)
	default:
		t.jumpOfTopic(topic, own, nr, now)
	}
	*own = sequence{true, nr, now, t.link}
	if nr > t.session.last || !t.session.known || t.mode >= 0 {
		t.session = sequence{true, nr, now, t.link}
	}
}

// Behind says whether a number tells of notifications before it that did not come: it is the first
// of its topic in this session, or of all topics, as far as it is known which of the two the HMC
// counts. Numbers begin with 1, unless one was 0. Later ones are noticed by Note.
func (t *SequenceTracker) Behind(topic string, nr int64) (ofTopic, ofSession bool) {
	least := int64(1)
	if t.zero {
		least = 0
	}
	return nr > least && t.mode >= 0 && t.topics[topic] == nil, nr > least && t.mode <= 0 && !t.session.known
}

// learn weighs a number that only one of the two ways to count explains.
func (t *SequenceTracker) learn(perTopic bool) {
	if perTopic {
		t.mode = min(t.mode+1, sequenceCertain)
	} else {
		t.mode = max(t.mode-1, -sequenceCertain)
	}
}

// jumpOfTopic notes a number that is not the next one of its topic.
func (t *SequenceTracker) jumpOfTopic(topic string, own *sequence, nr int64, now time.Time) {
	if !own.known || nr <= own.last || nr-own.last > sequenceRestart {
		return
	}
	g := SequenceGap{Topic: topic, Missing: nr - own.last - 1, First: own.at, Last: now, OverLink: own.link != t.link}
	if t.mode == 0 {
		if ofSession := nr - t.session.last - 1; ofSession >= 0 && ofSession < g.Missing {
			g.Topic, g.Missing, g.First = "", ofSession, t.session.at
		}
		if !t.complete {
			if t.doubts >= sequenceDoubts {
				return
			}
			t.doubts++
		}
	}
	t.report(g, t.explained(topic, g.Missing))
}

// explained returns how many missing notifications of a topic (of all, if "") are known to have
// been dropped, and takes them off the account.
func (t *SequenceTracker) explained(topic string, missing int64) (n int64) {
	for name, drops := range t.drops {
		if topic != "" && name != topic {
			continue
		}
		took := min(drops, missing-n)
		n += took
		if t.drops[name] -= took; t.drops[name] == 0 {
			delete(t.drops, name)
		}
	}
	return n
}

func (t *SequenceTracker) report(g SequenceGap, explained int64) {
	if g.Missing -= explained; g.Missing > 0 {
		t.gaps = append(t.gaps, g)
	}
}

// jumpOfSession notes a number that is not the next one of the session.
func (t *SequenceTracker) jumpOfSession(nr int64, now time.Time) {
	s := &t.session
	switch {
	case !s.known:
	case nr > s.last && nr-s.last <= sequenceRestart:
		if len(t.holes) == sequenceHoles {
			t.close(t.holes[0])
			t.holes = slices.Delete(t.holes, 0, 1)
		}
		t.holes = append(
			t.holes,
			sequenceHole{from: s.last + 1, to: nr - 1, first: s.at, last: now, overLink: s.link != t.link},
		)
	case nr > s.last:
	case nr == t.below+1: // not late, but going on from there
		*s = sequence{true, nr, now, t.link}
		t.holes = nil
	default:
		t.below = nr
	}
}

// fill takes a number that came late out of the hole it is missing in.
func (t *SequenceTracker) fill(nr int64) bool {
	i := slices.IndexFunc(t.holes, func(h sequenceHole) bool { return h.from <= nr && nr <= h.to })
	if i < 0 {
		return false
	}
	h := t.holes[i]
	lower, upper := h, h
	lower.to, upper.from = nr-1, nr+1
	rest := slices.DeleteFunc([]sequenceHole{lower, upper}, func(h sequenceHole) bool { return h.from > h.to })
	t.holes = slices.Replace(t.holes, i, i+1, rest...)
	return true
}

// close makes a hole a gap.
func (t *SequenceTracker) close(h sequenceHole) {
	if !t.complete {
		return // the numbers went to topics that are not subscribed to, for all that can be known
	}
	g := SequenceGap{Missing: h.to - h.from + 1, First: h.first, Last: h.last, OverLink: h.overLink}
	if len(t.topics) == 1 {
		for topic := range t.topics {
			g.Topic = topic
		}
	}
	t.report(g, t.explained("", g.Missing))
}

// Settle returns the gaps that are certain by now, each once. all: nothing more comes over the
// link.
func (t *SequenceTracker) Settle(now time.Time, all bool) []SequenceGap {
	n := 0
	for n < len(t.holes) && (all || now.Sub(t.holes[n].last) >= sequenceLate) {
		t.close(t.holes[n])
		n++
	}
	t.holes = slices.Delete(t.holes, 0, n)
	gaps := t.gaps
	t.gaps = nil
	return gaps
}
