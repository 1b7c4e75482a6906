package ledger

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
)

const (
	gapPrefix = "gap/" // HMC
	// maxCauses bounds how many causes, and how many reasons why something could not be
	// fetched, a gap has.
	maxCauses = 8
	// keptSpans is how many times of a kind are remembered.
	keptSpans = 16
	// sameLoss is how long after something has gone missing what else does so belongs to it.
	sameLoss = 2 * time.Second
	// maxWaiting bounds how many windows wait for what can be fetched.
	maxWaiting = 32
)

// Gap is one blind window: a time in which notifications of an HMC were, or may have been, missed.
// Its JSON is the body of the bridge-gap event.
type Gap struct {
	From   time.Time `json:"from"`
	To     time.Time `json:"to"` // the zero time: it is not over
	Causes []string  `json:"causes"`
	// notifications known to be missing, by topic type
	Missed map[string]int `json:"missed,omitempty"`
	// events that were fetched or replayed afterwards, by topic type
	Recovered map[string]int `json:"recovered,omitempty"`
	// what may be lost for good, in words
	Missing []string `json:"may_be_missing,omitempty"`

	// everything is concerned, not only these
	Whole bool `json:"-"`
	// topic types
	Concerns map[string]bool `json:"-"`
	// why something could not be fetched
	Problems []string `json:"-"`

	// it began with a storage that did not take what came
	storage bool
	// when something was added to it last
	touched time.Time
	// with which its event is on its way to the disk
	batch uint64
}

// awayTopic is a topic on which nothing comes, as it is stored among the gaps.
type awayTopic struct {
	Topic string    `json:"topic"`
	Kind  string    `json:"kind"`
	Cause string    `json:"cause"`
	Since time.Time `json:"since"`
}

// storedGap is a window as it is stored until it is reported, or a topic that is away.
type storedGap struct {
	*Gap
	Part     bool            `json:"part,omitempty"`
	Concerns map[string]bool `json:"concerns,omitempty"`
	Problems []string        `json:"problems,omitempty"`
	Away     *awayTopic      `json:"away,omitempty"`
}

func newGap(from time.Time) *Gap {
	return &Gap{
		From: from, Missed: make(map[string]int), Recovered: make(map[string]int), Concerns: make(map[string]bool),
	}
}

func (g *Gap) cause(text string)   { g.Causes = bounded(g.Causes, text) }
func (g *Gap) problem(text string) { g.Problems = bounded(g.Problems, text) }

// end sets the end of the window. Both of its ends are by the clock as it is set then.
func (g *Gap) end(at time.Time) {
	g.To = at
	g.From = event.Anchored(g.From, at)
}

// concerns says whether notifications of a kind may be missing.
func (g *Gap) concerns(kind string) bool { return g.Whole || g.Concerns[kind] }

// overlaps says whether something of a kind may be missing of a time.
func (g *Gap) overlaps(from, to time.Time, kind string) bool {
	return g.From.Before(to) && (g.To.IsZero() || from.Before(g.To)) &&
		(g.concerns(kind) || g.concerns(event.TopicOther))
}

func bounded(list []string, text string) []string {
	if slices.Contains(list, text) || len(list) >= maxCauses {
		return list
	}
	return append(list, text)
}

// Gaps is the Book of the blind windows of one HMC. Unlike the other books it is ahead of what is
// stored: a window is not made up by an event, but has to be reported by one. So Load keeps those
// that are known, and what is stored counts at the start only; a window whose event could not be
// stored is reported again.
//
// A time without contact, and a time in which the storage takes nothing, is a window of its own;
// the two are one where they overlap, for then nothing tells them apart. What goes missing while
// there is contact is one window with what else does so until sameLoss later.
type Gaps struct {
	key    string
	loaded bool
	// is not over; nil: there is none
	current *Gap
	// are over, the oldest first: what was missed may be fetched yet
	waiting []*Gap
	// over, and nothing is fetched for them any more
	complete []*Gap
	// their events are on their way to the disk
	reported []*Gap
	// how many were reported, less those whose events could not be stored
	count   int
	changed bool

	// there is no contact with the HMC
	linkDown bool
	// what comes cannot be stored
	storageDown bool
	// what was missed is being fetched
	filling bool
	// topics of which something was missed while the link was up: to be fetched
	refill map[string]bool
	// topics on which nothing comes although the link is up
	away []awayTopic

	// when the link came up; zero: it is down
	upSince time.Time
	// the last gaps that were reported, and times of which not all was
	past []*Gap
	// the last times in which the link was up
	ups []timeSpan
	// links are the same, from when the topics were subscribed to, at the earliest; asked is
	// that of the link that is up.
	links []timeSpan
	asked time.Time
}

// timeSpan is a time from one moment to another.
type timeSpan struct{ from, to time.Time }

// keep adds one to the last ones.
func keep[T any](last []T, v T) []T {
	if len(last) >= keptSpans {
		last = slices.Delete(last, 0, 1)
	}
	return append(last, v)
}

// NewGaps returns the book of an HMC.
func NewGaps(hmc string) *Gaps { return &Gaps{key: gapPrefix + hmc} }

// Load implements Book. The first time it takes up the windows that were not reported before the
// daemon ended: one that was over is complete, the last one that was not goes on.
func (b *Gaps) Load(stored Stored) (damaged int) {
	b.changed = true
	if b.loaded {
		b.count -= len(b.reported)
		b.complete = append(b.reported, b.complete...)
		b.reported = nil
		return 0
	}
	b.loaded = true
	stored(b.key, func(key string, value []byte) bool {
		if key != b.key { // another HMC, whose name begins with this one's
			return true
		}
		var gaps []storedGap
		if len(value) > 0 && value[0] == '{' { // of a version that stored one
			value = append(append([]byte{'['}, value...), ']')
		}
		if json.Unmarshal(value, &gaps) != nil {
			damaged++
			return true
		}
		for _, of := range gaps {
			if of.Away != nil {
				b.away = append(b.away, *of.Away)
				continue
			} else if of.Gap == nil {
				damaged++
				continue
			}
			g := newGap(of.From)
			g.To, g.Causes, g.Whole, g.Problems = of.To, of.Causes, !of.Part, of.Problems
			maps.Copy(g.Missed, of.Missed)
			maps.Copy(g.Recovered, of.Recovered)
			maps.Copy(g.Concerns, of.Concerns)
			if g.To.IsZero() {
				b.current = g
				continue
			}
			g.problem("the daemon ended before everything could be fetched")
			b.complete = append(b.complete, g)
		}
		return true
	})
	b.linkDown = true
	return damaged
}

// unreported ranges over the windows that are not reported, in their order.
func (b *Gaps) unreported() []*Gap {
	gaps := slices.Concat(b.complete, b.waiting)
	if b.current != nil {
		gaps = append(gaps, b.current)
	}
	return gaps
}

// Watched reports whether there was contact and nothing of a kind was missed in a time.
func (b *Gaps) Watched(from, to time.Time, kind string) bool {
	covers := func(up timeSpan) bool { return !up.from.After(from) && !up.to.Before(to) }
	isUp := !b.upSince.IsZero() && !b.upSince.After(from)
	if !isUp && !slices.ContainsFunc(b.ups, covers) {
		return false
	}
	overlaps := func(g *Gap) bool { return g.overlaps(from, to, kind) }
	return !slices.ContainsFunc(b.past, overlaps) && !slices.ContainsFunc(b.unreported(), overlaps)
}

// Unreported notes that not all that was seen in a time has been reported.
func (b *Gaps) Unreported(from, to time.Time) {
	concerns := map[string]bool{event.TopicOther: true}
	if n := len(b.past) - 1; n >= 0 {
		last := b.past[n]
		if maps.Equal(last.Concerns, concerns) && !from.After(last.To) && !last.From.After(from) {
			if to.Before(last.To) {
				to = last.To
			}
			b.past[n] = &Gap{From: last.From, To: to, Concerns: concerns}
			return
		}
	}
	b.past = keep(b.past, &Gap{From: from, To: to, Concerns: concerns})
}

// Linked reports whether the HMC may have sent over one link what it reported in a time.
func (b *Gaps) Linked(from, to time.Time) bool {
	covers := func(l timeSpan) bool { return !l.from.After(from) && !l.to.Before(to) }
	isUp := !b.upSince.IsZero() && !b.asked.After(from)
	return isUp || slices.ContainsFunc(b.links, covers)
}

// Blind reports whether there was a window in a time of which everything may be missing.
func (b *Gaps) Blind(from, to time.Time) bool {
	return slices.ContainsFunc(slices.Concat(b.past, b.unreported()), func(g *Gap) bool {
		return g.Whole && g.overlaps(from, to, event.TopicOther)
	})
}

// WindowUntil returns up to when another window has it that everything may be missing; the zero
// time: there was none.
func (b *Gaps) WindowUntil() (at time.Time) {
	at = b.upSince
	for _, g := range slices.Concat(b.past, b.complete, b.waiting) {
		if g.Whole && g.To.After(at) {
			at = g.To
		}
	}
	return at
}

// touch notes that something of a window has changed.
func (b *Gaps) touch(g *Gap, now time.Time) { g.touched, b.changed = now, true }

// LinkLost begins a blind window when there was contact last. Those that are not reported yet are
// then complete.
func (b *Gaps) LinkLost(from time.Time, cause string, now time.Time) {
	for _, g := range b.waiting {
		if b.filling {
			g.problem("the link was lost again before everything could be fetched")
		}
	}
	b.complete, b.waiting = append(b.complete, b.waiting...), nil
	b.endAway(from)
	if !b.upSince.IsZero() {
		b.ups = keep(b.ups, timeSpan{b.upSince, from})
		b.links = keep(b.links, timeSpan{b.asked, from})
	}
	b.linkDown, b.filling, b.refill, b.upSince = true, false, nil, time.Time{}
	b.blind(from, cause, now)
}

// LostSince has the blind window that goes on begin earlier: what seemed to be contact was none.
func (b *Gaps) LostSince(from, now time.Time) {
	if b.current == nil || !b.linkDown || !from.Before(b.current.From) {
		return
	}
	b.current.From = from
	b.touch(b.current, now)
	for _, spans := range [][]timeSpan{b.ups, b.links} {
		if n := len(spans) - 1; n >= 0 && spans[n].to.After(from) {
			spans[n].to = from
		}
	}
}

// endAway makes one window of the topics that are away when the link is lost.
func (b *Gaps) endAway(at time.Time) {
	var g *Gap
	for _, a := range b.away {
		if !at.After(a.Since) {
			continue
		}
		if g == nil {
			g = newGap(a.Since)
			b.complete = append(b.complete, g)
		}
		if a.Since.Before(g.From) {
			g.From = a.Since
		}
		g.end(at)
		g.Concerns[a.Kind] = true
		g.cause(a.Cause)
	}
	b.away = nil
}

// blind begins a blind window, or goes on with the one that is not over.
func (b *Gaps) blind(from time.Time, cause string, now time.Time) *Gap {
	from = event.Anchored(from, now)
	g := b.current
	if g == nil {
		g = newGap(from)
		b.current = g
	}
	g.From = event.Anchored(g.From, now)
	if from.Before(g.From) {
		g.From = from
	}
	g.Whole = true
	g.cause(cause)
	b.touch(g, now)
	return g
}

// LinkUp ends the blind window. It reports whether there was one: fill says that what was missed
// will be fetched, and Filled is called then. asked is when the topics were subscribed to, at the
// earliest.
func (b *Gaps) LinkUp(asked, now time.Time, fill bool) bool {
	b.linkDown, b.asked, b.upSince = false, asked, now
	if b.current == nil {
		return false
	}
	b.filling = fill
	b.contact(now)
	return true
}

// contact ends the window if nothing keeps the HMC out of sight any more.
func (b *Gaps) contact(now time.Time) {
	if g := b.current; g != nil && !b.linkDown && !b.storageDown {
		g.end(now)
		b.touch(g, now)
		b.waiting, b.current = append(b.waiting, g), nil
	}
}

// Filled notes that what could be fetched has been, but for what TakeRefill will return.
func (b *Gaps) Filled(now time.Time) {
	b.filling = len(b.refill) > 0
	for _, g := range b.waiting {
		b.touch(g, now)
	}
}

// StorageFailed begins a blind window, or goes on with one: what was received since from could not
// be stored. One that has just ended for the same reason goes on.
func (b *Gaps) StorageFailed(from time.Time, cause string, missed map[string]int, now time.Time) {
	begins := b.current == nil
	if last := len(b.waiting) - 1; begins && last >= 0 && b.waiting[last].storage &&
		from.Sub(b.waiting[last].To) <= sameLoss {
		b.current, b.waiting = b.waiting[last], b.waiting[:last]
		b.current.To = time.Time{}
	}
	g := b.blind(from, cause, now)
	b.storageDown, g.storage = true, g.storage || begins
	for kind, n := range missed {
		g.Missed[kind] += n
	}
}

// StorageWorks ends what StorageFailed began. It reports whether that is news.
func (b *Gaps) StorageWorks(now time.Time) bool {
	if !b.storageDown {
		return false
	}
	b.storageDown = false
	b.contact(now)
	return true
}

// Missing notes notifications of a topic that are known to be missing although the link was up.
// fill says that what can be will be fetched.
func (b *Gaps) Missing(from, to time.Time, cause, topic, kind string, n int, fill bool, now time.Time) {
	from, to = event.Anchored(from, now), event.Anchored(to, now)
	g := b.current
	if g == nil {
		if last := len(b.waiting) - 1; last >= 0 && !b.waiting[last].Whole &&
			(from.Sub(b.waiting[last].To) <= sameLoss || last >= maxWaiting) {
			g = b.waiting[last]
		} else {
			g = newGap(from)
			b.waiting = append(b.waiting, g)
		}
		if to.After(g.To) {
			g.end(to)
		}
	}
	if from.Before(g.From) {
		g.From = from
	}
	g.cause(cause)
	g.Missed[kind] += n
	g.Concerns[kind] = true
	b.touch(g, now)
	if fill && !b.linkDown {
		b.wantFill(topic)
	}
}

// Away notes that nothing comes on a topic any more since a time, although the link is up.
func (b *Gaps) Away(topic, kind, cause string, since time.Time) {
	if !b.linkDown && !slices.ContainsFunc(b.away, func(a awayTopic) bool { return a.Topic == topic }) {
		b.away, b.changed = append(b.away, awayTopic{topic, kind, cause, since}), true
	}
}

// Back notes that a topic is subscribed to again, and returns since when it was away; the zero
// time: it was not. fill says that what can be will be fetched.
func (b *Gaps) Back(topic string, fill bool, now time.Time) (since time.Time) {
	i := slices.IndexFunc(b.away, func(a awayTopic) bool { return a.Topic == topic })
	if i < 0 {
		return since
	}
	a := b.away[i]
	b.away = slices.Delete(b.away, i, i+1)
	b.Missing(a.Since, now, a.Cause, topic, a.Kind, 0, fill, now)
	return a.Since
}

// Lacks reports whether a topic of a kind is away.
func (b *Gaps) Lacks(kind string) bool {
	return slices.ContainsFunc(b.away, func(a awayTopic) bool { return a.Kind == kind })
}

// Refill asks for all that may be missed to be fetched again, once the link is up.
func (b *Gaps) Refill() {
	if !b.linkDown {
		b.wantFill("")
	}
}

// wantFill asks for what was missed on a topic; "": on all.
func (b *Gaps) wantFill(topic string) {
	b.filling = true
	if b.refill == nil {
		b.refill = make(map[string]bool)
	}
	b.refill[topic] = true
}

// TakeRefill returns the topics of which something is to be fetched.
func (b *Gaps) TakeRefill() map[string]bool {
	r := b.refill
	b.refill = nil
	return r
}

// MissedBefore notes notifications that are known to have been missed in the last blind window that
// concerns them. It reports whether that is not reported yet, so that they can be reported with it.
func (b *Gaps) MissedBefore(kind string, n int, now time.Time) bool {
	for _, g := range slices.Backward(b.open()) {
		if g.Whole || kind == event.TopicOSMessage && g.Concerns[kind] {
			g.Missed[kind] += n
			b.touch(g, now)
			return true
		}
	}
	return false
}

// open returns the windows of which something may be fetched.
func (b *Gaps) open() []*Gap {
	if b.current == nil {
		return b.waiting
	}
	return append(slices.Clone(b.waiting), b.current)
}

// Recovered counts an event that was missed and came afterwards: for the first window of which it
// is known that more is missing, or else the first one that concerns it.
func (b *Gaps) Recovered(kind string, now time.Time) {
	open := b.open()
	i := slices.IndexFunc(open, func(g *Gap) bool { return g.lacks(kind) })
	if i < 0 {
		i = slices.IndexFunc(open, func(g *Gap) bool { return g.concerns(kind) })
	}
	if i >= 0 {
		open[i].Recovered[kind]++
		b.touch(open[i], now)
	}
}

// Problem notes why something could not be fetched.
func (b *Gaps) Problem(text string) {
	for _, g := range b.open() {
		g.problem(text)
		b.changed = true
	}
}

// Due returns the gaps that can be reported: nothing keeps the HMC out of sight, and for the time
// of quiet nothing was added.
func (b *Gaps) Due(now time.Time, quiet time.Duration) []*Gap {
	due := b.complete
	b.complete = nil
	if !b.linkDown && !b.storageDown && !b.filling {
		b.waiting = slices.DeleteFunc(b.waiting, func(g *Gap) bool {
			if now.Sub(g.touched) < quiet {
				return false
			}
			due = append(due, g)
			return true
		})
	}
	for _, g := range due {
		b.past = keep(b.past, g)
		b.changed = true
	}
	return due
}

// Reported notes the batch with which a gap that was due is reported.
func (b *Gaps) Reported(g *Gap, batch uint64) {
	g.batch = batch
	b.reported = append(b.reported, g)
	b.count++
}

// Count returns how many gaps were reported since the start.
func (b *Gaps) Count() int { return b.count }

// Committed notes that all batches up to one are stored.
func (b *Gaps) Committed(batch uint64) {
	if len(b.reported) > 0 {
		b.reported = slices.DeleteFunc(b.reported, func(g *Gap) bool { return g.batch <= batch })
	}
}

// Changes implements Book.
func (b *Gaps) Changes(dst []queue.KeyValue) []queue.KeyValue {
	if !b.changed {
		return dst
	}
	b.changed = false
	kv := queue.KeyValue{Key: b.key}
	var gaps []storedGap
	for _, g := range b.unreported() {
		gaps = append(gaps, storedGap{Gap: g, Part: !g.Whole, Concerns: g.Concerns, Problems: g.Problems})
	}
	for i := range b.away {
		gaps = append(gaps, storedGap{Away: &b.away[i]})
	}
	if len(gaps) > 0 {
		kv.Value, _ = json.Marshal(gaps) // strings, numbers and times of this century
	}
	return append(dst, kv)
}

// Pending reports whether there is a gap that is not reported.
func (b *Gaps) Pending() bool { return b.current != nil || len(b.waiting)+len(b.complete) > 0 }

// BlindSince returns since when there is no contact with the HMC or what it sends cannot be stored;
// the zero time when there is contact.
func (b *Gaps) BlindSince() time.Time {
	if b.current != nil {
		return b.current.From
	}
	return time.Time{}
}

// lostKinds says in words what an HMC never tells again, of the kinds of topics that are followed.
var lostKinds = []struct{ kind, what string }{
	{event.TopicObject, "object notifications (status, property and inventory changes)"},
	{event.TopicJob, "job completions"},
	{event.TopicOther, "notifications"},
}

// heldKinds says the same of the kinds that an HMC holds for a while.
var heldKinds = []struct{ kind, what string }{
	{event.TopicAudit, "entries of the audit log"},
	{event.TopicSecurity, "entries of the security log"},
	{event.TopicOSMessage, Unheld},
}

// Unheld is what is missing of OS messages for good, in words.
const Unheld = "OS messages that the HMC does not hold any more"

// lacks says whether more of a kind is known to be missing than came afterwards.
func (g *Gap) lacks(kind string) bool { return g.Missed[kind] > g.Recovered[kind] }

// Report returns the gap as it is reported. kinds are the kinds of topics that are followed and
// that nobody else saw.
func (g *Gap) Report(kinds []string) *Gap {
	r := *g
	r.From = g.From.UTC().Truncate(time.Millisecond)
	r.To = g.To.UTC().Add(time.Millisecond - 1).Truncate(time.Millisecond)
	if r.To.Before(r.From) { // as a clock told that was set back while nobody looked
		r.From = r.To
	}
	for _, l := range lostKinds {
		if (g.Whole && slices.Contains(kinds, l.kind)) || g.Concerns[l.kind] ||
			l.kind != event.TopicOther && g.lacks(l.kind) {
			r.Missing = append(r.Missing, l.what)
		}
	}
	r.Missing = append(r.Missing, g.Problems...)
	recovered := 0
	for _, n := range g.Recovered {
		recovered += n
	}
	if g.Missed[event.TopicOther] > recovered { // of whatever kind they were
		r.missing("notifications")
	}
	for _, l := range heldKinds {
		if g.lacks(l.kind) {
			r.missing(l.what)
		}
	}
	return &r
}

func (g *Gap) missing(what string) {
	if !slices.Contains(g.Missing, what) {
		g.Missing = append(g.Missing, what)
	}
}

// InWords is the gap as the person on call reads it.
func (g *Gap) InWords() string {
	const clock = "15:04:05"
	var b strings.Builder
	fmt.Fprintf(&b, "blind for %s (%s to %s UTC): %s", g.To.Sub(g.From).Round(100*time.Millisecond),
		g.From.UTC().Format(clock), g.To.UTC().Format(clock), strings.Join(g.Causes, "; "))
	if text := listCounts(g.Missed); text != "" {
		b.WriteString("; known to be missed: " + text)
	}
	if text := listCounts(g.Recovered); text != "" {
		b.WriteString("; got afterwards: " + text)
	}
	if len(g.Missing) > 0 {
		b.WriteString("; may be missing: " + strings.Join(g.Missing, ", "))
	}
	return b.String()
}

// listCounts is "2 object, 1 audit".
func listCounts(counts map[string]int) string {
	var out []string
	for _, kind := range slices.Sorted(maps.Keys(counts)) {
		if n := counts[kind]; n > 0 {
			out = append(out, fmt.Sprintf("%d %s", n, kind))
		}
	}
	return strings.Join(out, ", ")
}
