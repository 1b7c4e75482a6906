package console

import (
	"cmp"
	"slices"
	"time"
)

// osReplay is the comparison of one replay with what is known.
type osReplay struct {
	*OSReplay
	p          *osPartition
	asked, now time.Duration
	// numbers that are skipped are missing
	skips    bool
	verdicts []OSVerdict
	// what was known before, sorted by number
	byNumber []osEntry
	// the highest number of each epoch there
	highest map[uint32]int64
	// the times of those that were given an epoch
	added map[osID]int64
	// how often the host before had a text, if this one has not replayed all yet
	texts map[osText]int
	// what was delivered under an epoch that it does not have any more
	left map[osKey]bool
}

// osKey is what two messages with one epoch must not have in common.
type osKey struct {
	number int64
	hash   uint32
}

// osID is what tells the events of two messages of a partition from each other.
type osID struct {
	osKey
	epoch uint32
}

type osText struct {
	hash uint32
	time int64
}

func (m *OSMessage) text() osText { return osText{m.Text, max(m.Time, 0)} }

// osRun is a part of a replay in which the numbers rise: messages of one sequence.
type osRun struct{ from, to int }

type osKind int

const (
	osPresent osKind = iota // it continues the present sequence
	osEarlier               // it is from before that
	osBegun                 // it begins a new one
)

func (p *osPartition) replay(r *OSReplay, asked, now time.Duration) []OSVerdict {
	a := &osReplay{
		OSReplay: r, p: p, asked: asked, now: now, verdicts: make([]OSVerdict, len(r.Messages)),
		highest: make(map[uint32]int64), added: make(map[osID]int64), texts: make(map[osText]int),
		left: make(map[osKey]bool),
	}
	if len(r.Messages) == 0 {
		return nil
	}
	if r.Complete {
		p.limit = min(max(len(r.Messages), leastEntries), mostEntries)
	}
	host := TextHash(r.Host)
	other := p.isOther(host)
	if other {
		p.hostBefore = p.host
	}
	a.index(other)
	runs := a.divide()
	known := p.begun && !other
	a.skips = known && p.hostBefore == 0
	last, young := len(runs)-1, p.began >= asked
	present := -1
	if known {
		present = a.present(runs, young)
	}
	for i, run := range runs {
		switch {
		case i == present:
			a.take(run, p.epoch, osPresent)
		case i < present:
			a.take(run, a.epochBefore(run, runs[present]), osEarlier)
		case known && (young && p.published != none || present < 0 && i < last):
			a.take(run, a.epochOf(run), osEarlier)
		default:
			a.begin(run, known, known && present < 0)
		}
	}
	if p.host != host || r.Complete && p.hostBefore != 0 {
		p.touch(len(p.entries) - 1)
	}
	p.host = host
	if r.Complete {
		p.hostBefore = 0
	}
	return a.verdicts
}

// index prepares the comparison.
func (a *osReplay) index(other bool) {
	p := a.p
	a.byNumber = slices.Clone(p.entries)
	slices.SortStableFunc(a.byNumber, func(x, y osEntry) int { return cmp.Compare(x.number, y.number) })
	a.noteHighest()
	if p.hostBefore == 0 {
		return
	}
	for i := range a.Messages {
		a.texts[a.Messages[i].text()] = 0
	}
	// No more than the replay has, and the latest: an older one with the same text is another
	// message. One that has several entries is counted once.
	counted := make(map[osText]bool)
	for i, n := len(p.entries)-1, len(a.Messages); i >= 0 && n > 0; i-- {
		e := &p.entries[i]
		key := osText{e.hash, e.time}
		count, ok := a.texts[key]
		if !ok || !other && e.of(p.epoch) {
			continue
		}
		if !counted[key] {
			a.texts[key] = count + 1
			n--
		}
		counted[key] = e.epoch&again != 0
	}
}

// noteHighest notes the highest number of each epoch.
func (a *osReplay) noteHighest() {
	clear(a.highest)
	for i := range a.byNumber {
		a.highest[a.byNumber[i].epoch] = a.byNumber[i].number
	}
}

// forgotten returns the place in the replay up to which messages are not remembered, although they
// may have been seen: there are more than can be remembered, up to the last that is known, or they
// are before what is known of their sequence.
func (a *osReplay) forgotten(run osRun, epoch uint32) int {
	if a.p.first == 0 || len(a.Messages) <= len(a.byNumber) {
		return 0
	}
	first, last := 0, 0
	for i := range a.Messages {
		match, _, elsewhere := a.lookup(epoch, &a.Messages[i])
		if match != nil || elsewhere != nil {
			last = i + 1
		}
		if match != nil && first == 0 && run.from <= i && i < run.to {
			first = i
		}
	}
	return max(first, last-len(a.byNumber))
}

// divide returns the runs.
func (a *osReplay) divide() (runs []osRun) {
	start := 0
	for i := range a.Messages {
		last, msg := &a.Messages[max(i, 1)-1], &a.Messages[i]
		a.verdicts[i].Duplicate = i > 0 && msg.same(last)
		if i > start && !a.verdicts[i].Duplicate && (msg.Number <= last.Number || !near(msg.Number, last.Number)) {
			runs = append(runs, osRun{start, i})
			start = i
		}
	}
	return append(runs, osRun{start, len(a.Messages)})
}

// lookup returns the entry of a message in a sequence, that of another message with the same number
// there, and that of the message in another sequence; nil: there is none.
func (a *osReplay) lookup(epoch uint32, msg *OSMessage) (match, other, elsewhere *osEntry) {
	i, _ := slices.BinarySearchFunc(a.byNumber, msg.Number, func(e osEntry, number int64) int {
		return cmp.Compare(e.number, number)
	})
	for ; i < len(a.byNumber) && a.byNumber[i].number == msg.Number; i++ {
		switch e, is := &a.byNumber[i], a.byNumber[i].is(msg); {
		case e.of(epoch) && is:
			match = e
		case e.of(epoch):
			other = e
		case is:
			elsewhere = e
		}
	}
	return match, other, elsewhere
}

// present returns the place of the run that continues the present sequence; -1: none does. One that
// has nothing in common with it may, but not behind one that has: there the numbers began anew.
func (a *osReplay) present(runs []osRun, young bool) int {
	present := -1
	for i := range slices.Backward(runs) {
		continues, common := a.continues(runs[i], young, i == len(runs)-1)
		if continues && (present < 0 || common && !young) {
			present = i
		}
		if present >= 0 && (common || young) {
			break
		}
	}
	return present
}

// continues says whether a run continues the present sequence, and whether they have messages in
// common; young: the sequence has begun since the replay was asked for. Other messages that came
// since do not count.
func (a *osReplay) continues(run osRun, young, last bool) (continues, common bool) {
	p := a.p
	differs := false
	for i := run.from; i < run.to; i++ {
		match, other, _ := a.lookup(p.epoch, &a.Messages[i])
		e := cmp.Or(match, other)
		if e == nil || e.received >= a.asked && !young {
			continue
		}
		if match != nil && match.time > 0 && a.Messages[i].Time > 0 {
			return true, true
		}
		common, differs = true, match == nil
	}
	reach := a.Messages[run.to-1].Number
	if last && a.Next != nil && !a.has(a.Next) {
		reach = max(reach, a.Next.Number)
	}
	switch {
	case differs: // the highest number in common is another message
		return false, common
	case !common && young && p.published != none:
		// it was written before what has been published since
		return reach <= p.highest && near(reach, p.highest), common
	case !common && !near(reach, p.highest):
		return false, common
	}
	return !a.Complete || reach >= p.highest || p.highestAt >= a.asked, common
}

// has says whether the replay has a message.
func (a *osReplay) has(msg *OSMessage) bool {
	return slices.ContainsFunc(a.Messages, func(m OSMessage) bool { return m.same(msg) })
}

// epochOf returns the epoch of an earlier run: that of what is known of it, or else one that was
// never used.
func (a *osReplay) epochOf(run osRun) uint32 {
	for i := run.to - 1; i >= run.from; i-- {
		if match, _, elsewhere := a.lookup(a.p.epoch, &a.Messages[i]); elsewhere != nil {
			return elsewhere.epoch &^ marks
		} else if match != nil {
			return a.p.epoch
		}
	}
	return a.p.fresh()
}

// epochBefore is epochOf for a run that is before that of the present sequence. If messages of both
// were taken for one sequence, before a replay told that the numbers had begun anew between them,
// the present one leaves it.
func (a *osReplay) epochBefore(run, present osRun) uint32 {
	old := a.p.epoch
	stays := make(map[*osEntry]bool)
	for i := present.from; i < present.to; i++ {
		match, _, _ := a.lookup(old, &a.Messages[i])
		stays[match] = true
	}
	for i := run.from; i < run.to; i++ {
		match, _, elsewhere := a.lookup(old, &a.Messages[i])
		if match != nil && elsewhere == nil && !stays[match] {
			a.leave(a.Messages[present.from].Number, stays)
			break
		}
	}
	for i := run.to - 1; i >= run.from; i-- {
		if _, _, elsewhere := a.lookup(a.p.epoch, &a.Messages[i]); elsewhere != nil {
			return elsewhere.epoch &^ marks
		}
	}
	return a.p.fresh()
}

// leave gives the present sequence an epoch of its own. It begins with a number, and has those
// entries and what came since the replay was asked for.
func (a *osReplay) leave(first int64, stays map[*osEntry]bool) {
	p, old := a.p, a.p.epoch
	for i := range a.Messages {
		p.fill(a.Messages[i].Number) // what the replay has was not lost
	}
	p.restart(first, a.asked)
	p.highest--
	moved := make(map[osEntry]bool)
	for i := range a.byNumber {
		if e := &a.byNumber[i]; e.of(old) && (stays[e] || e.received >= a.asked) {
			moved[*e] = true
			a.left[osKey{e.number, e.hash}] = true
			e.epoch = p.epoch | e.epoch&marks
		}
	}
	for i := range p.entries {
		if e := &p.entries[i]; moved[*e] {
			e.epoch = p.epoch | e.epoch&marks
			p.lowest = min(p.lowest, e.number)
			if e.number > p.highest {
				p.highest, p.highestAt = e.number, e.received
			}
			p.touch(i)
		}
	}
	a.noteHighest()
}

// begin makes a run the present sequence. With behind, what was published since the replay was
// asked for and has higher numbers belongs to it: it was taken for a part of the sequence before.
func (a *osReplay) begin(run osRun, known, behind bool) {
	p := a.p
	for i := run.from; i < run.to && known; i++ {
		p.fill(a.Messages[i].Number) // what the replay has was not lost
	}
	before := p.epoch
	p.restart(a.Messages[run.from].Number, a.asked)
	a.take(run, p.epoch, osBegun)
	for _, e := range a.byNumber {
		if behind && e.of(before) && e.received >= a.asked && e.number > p.highest && near(e.number, p.highest) {
			p.extend(e.number)
			p.published = e.number
			p.record(&OSMessage{Number: e.number, Time: e.time, Text: e.hash}, p.epoch|again, e.received)
		}
	}
}

// take records what is new of a run of the sequence with that epoch.
func (a *osReplay) take(run osRun, epoch uint32, kind osKind) {
	p := a.p
	present := epoch == p.epoch
	if first := a.Messages[run.from].Number; present && p.began >= a.asked && first < p.lowest {
		// what of it is in the replay is not missing
		p.gaps = append(spans{{first, p.lowest - 1}}, p.gaps...)
		p.lowest = first
	}
	forgotten, lowest := a.forgotten(run, epoch), p.lowest
	for i := run.from; i < run.to; i++ {
		msg, v := &a.Messages[i], &a.verdicts[i]
		match, other, elsewhere := a.lookup(epoch, msg)
		// It was recorded under the number of another host, or as a part of the sequence
		// before.
		recorded := a.renumbered(msg) || match == nil && elsewhere != nil && elsewhere.received >= max(p.began, 1)
		v.Epoch = epoch
		switch {
		case v.Duplicate:
		case match != nil:
			v.Duplicate = true
		case recorded:
		case elsewhere != nil && elsewhere.time > 0 && msg.Time > 0:
			v.Duplicate = true // whatever else: this is it
		case kind == osBegun:
		case elsewhere != nil && (kind == osEarlier || other != nil):
			v.Duplicate = true
		case elsewhere != nil && msg.Number < p.lowest && a.highest[elsewhere.epoch] < p.lowest:
			v.Duplicate = true // the numbers went on rising where that sequence ended
		case other != nil:
			if msg.sameText(other) {
				v.Epoch = p.fresh() // it differs in nothing but the time
			}
		case present && p.gaps.contains(msg.Number):
		case present && lowest <= msg.Number && msg.Number <= p.floor:
			// it was seen, and is not remembered
			v.Duplicate = true
		case present && msg.Number < lowest: // never seen
		default: // the HMC holds more than is remembered
			v.Duplicate = i < forgotten
		}
		if present {
			p.fill(msg.Number)
		}
		key := osKey{msg.Number, msg.Text}
		if a.left[key] && v.Epoch == epoch && !present {
			v.Epoch = p.fresh()
		}
		if at, given := a.added[osID{key, v.Epoch}]; given && !v.Duplicate {
			if v.Duplicate = at == msg.Time; !v.Duplicate { // else two replays were given as one
				v.Epoch = p.fresh() // of two sequences with one epoch: one was taken for the other
			}
		}
		if v.Duplicate {
			continue
		}
		a.added[osID{key, v.Epoch}] = msg.Time
		e := osEntry{number: msg.Number, time: msg.Time, hash: msg.Text, epoch: v.Epoch}
		if present && msg.Number > p.highest {
			if a.skips || kind != osBegun { // what the first replay of all skips was gone before
				p.extend(msg.Number)
			}
			p.highest = msg.Number
		} else if present {
			p.lowest = min(p.lowest, msg.Number)
		}
		if v.Duplicate = recorded; recorded {
			e.epoch |= again
		}
		p.record(msg, e.epoch, a.now)
	}
	if last := a.Messages[run.to-1].Number; present && last < lowest-1 {
		p.gaps = append(spans{{last + 1, lowest - 1}}, p.gaps...) // the next piece may have it
		p.boundGaps()
	}
}

// renumbered says whether a message was recorded under the number of the host before. It is asked
// once of each: of several with the same text as many are known as that host had.
func (a *osReplay) renumbered(msg *OSMessage) bool {
	if a.texts[msg.text()] == 0 {
		return false
	}
	a.texts[msg.text()]--
	return true
}
