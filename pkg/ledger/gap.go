package ledger

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// maxCauses bounds how many causes, and how many reasons why something could not be fetched, a gap tells.
const maxCauses = 8

// Gap is one blind window: a time in which notifications of an HMC were, or may have been, missed. Its JSON is the body
// of the bridge-gap event.
type Gap struct {
	From      time.Time      `json:"from"`
	To        time.Time      `json:"to"`
	Causes    []string       `json:"causes"`
	Missed    map[string]int `json:"missed,omitempty"`         // notifications known to be missing, by topic type
	Recovered map[string]int `json:"recovered,omitempty"`      // events that were fetched or replayed afterwards, by topic type
	Missing   []string       `json:"may_be_missing,omitempty"` // what may be lost for good, in words

	Whole    bool            `json:"-"` // the link was down: everything is concerned, not only these
	Concerns map[string]bool `json:"-"` // topic types
	Problems []string        `json:"-"` // why something could not be fetched
}

func (g *Gap) cause(text string) {
	if !slices.Contains(g.Causes, text) && len(g.Causes) < maxCauses {
		g.Causes = append(g.Causes, text)
	}
}

// Sight keeps account of what the daemon could not see of one HMC. Its methods may be called from any goroutine, the one
// that reads from the HMC among them: its lock is never held while anything waits.
type Sight struct {
	Mu          sync.Mutex
	Current     *Gap            // not told yet
	linkDown    bool            // the HMC is out of sight
	storageDown bool            // what is seen cannot be stored
	filling     bool            // what was missed is being fetched
	touched     time.Time       // when current changed last
	CutShort    []*Gap          // complete before they could be filled
	dropped     map[string]int  // notifications by topic that the hand-over buffer had no room for, not yet told to the sequence tracker
	refill      map[string]bool // topics of which something was missed while the link was up: to be fetched
	dirty       bool            // current is not stored as it is
	upSince     time.Time       // when the link came up; zero: it is down
	told        []timeSpan      // the last gaps that were told
	ups         []timeSpan      // the last times in which the link was up
}

// timeSpan is a time from one moment to another.
type timeSpan struct{ from, to time.Time }

// keptSpans is how many times of a kind are remembered.
const keptSpans = 16

// keepSpan adds a time to the last ones.
func keepSpan(spans []timeSpan, t timeSpan) []timeSpan {
	if len(spans) >= keptSpans {
		spans = slices.Delete(spans, 0, 1)
	}
	return append(spans, t)
}

// Clear reports whether nothing was out of sight in a time.
func (s *Sight) Clear(from, to time.Time) bool {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	covers := func(up timeSpan) bool { return !up.from.After(from) && !up.to.Before(to) }
	isUp := !s.upSince.IsZero() && !s.upSince.After(from)
	if !isUp && !slices.ContainsFunc(s.ups, covers) {
		return false
	}
	if g := s.Current; g != nil && g.From.Before(to) && (s.linkDown || s.storageDown || from.Before(g.To)) {
		return false
	}
	return !slices.ContainsFunc(s.told, func(t timeSpan) bool { return t.from.Before(to) && from.Before(t.to) })
}

// open returns the current gap, which begins no later than from.
func (s *Sight) open(from time.Time) *Gap {
	if s.Current == nil {
		s.Current = &Gap{From: from, Missed: make(map[string]int), Recovered: make(map[string]int), Concerns: make(map[string]bool)}
	}
	if from.Before(s.Current.From) {
		s.Current.From = from
	}
	s.touched, s.dirty = time.Now(), true
	return s.Current
}

// LinkLost begins a blind window at the time something was last seen. One that is not told yet is then complete.
func (s *Sight) LinkLost(from time.Time, cause string) {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	if s.Current != nil && !s.linkDown && !s.storageDown {
		if s.filling {
			s.Current.Problems = append(s.Current.Problems, "the link was lost again before everything could be fetched")
		}
		s.CutShort = append(s.CutShort, s.Current)
		s.Current = nil
	}
	if !s.upSince.IsZero() {
		s.ups = keepSpan(s.ups, timeSpan{s.upSince, from})
	}
	s.linkDown, s.filling, s.refill, s.upSince = true, false, nil, time.Time{}
	g := s.open(from)
	g.Whole = true
	g.cause(cause)
}

// Resume takes up a gap that was not told before the daemon ended.
func (s *Sight) Resume(stored *Gap) {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	s.linkDown = true
	g := s.open(stored.From)
	g.Whole = true
	for _, c := range stored.Causes {
		g.cause(c)
	}
	for kind, n := range stored.Missed {
		g.Missed[kind] += n
	}
	for kind, n := range stored.Recovered {
		g.Recovered[kind] += n
	}
}

// LinkUp ends the blind window. It reports whether there was one: fill says that what was missed will be fetched, and
// filled is called then.
func (s *Sight) LinkUp(now time.Time, fill bool) bool {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	s.linkDown, s.upSince = false, now
	if s.Current == nil {
		return false
	}
	s.filling = fill
	s.seen(now)
	return true
}

// seen sets the end of the gap if nothing is out of sight any more.
func (s *Sight) seen(now time.Time) {
	s.touched, s.dirty = now, true
	if s.Current != nil && !s.linkDown && !s.storageDown && now.After(s.Current.To) {
		s.Current.To = now
	}
}

// Filled notes that what could be fetched has been.
func (s *Sight) Filled() {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	s.filling = false
	s.touched = time.Now()
}

// StorageFailed begins a blind window, or goes on with one: what was received since from could not be stored.
func (s *Sight) StorageFailed(from time.Time, cause string, missed map[string]int) {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	s.storageDown = true
	g := s.open(from)
	g.Whole = true
	g.cause(cause)
	for kind, n := range missed {
		g.Missed[kind] += n
	}
}

// StorageWorks ends what storageFailed began. It reports whether that is news.
func (s *Sight) StorageWorks(now time.Time, fill bool) bool {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	if !s.storageDown {
		return false
	}
	s.storageDown = false
	if !s.linkDown && fill {
		s.wantFill("")
	}
	s.seen(now)
	return true
}

// Spot notes notifications of a topic that are known to be missing although the link was up. fill says that what can be
// will be fetched.
func (s *Sight) Spot(from, to time.Time, cause, topic, kind string, n int, fill bool) {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	g := s.open(from)
	g.cause(cause)
	g.Missed[kind] += n
	g.Concerns[kind] = true
	if !s.linkDown && !s.storageDown && to.After(g.To) {
		g.To = to
	}
	if fill && !s.linkDown {
		s.wantFill(topic)
	}
}

// wantFill asks for what was missed on a topic; "": on all.
func (s *Sight) wantFill(topic string) {
	s.filling = true
	if s.refill == nil {
		s.refill = make(map[string]bool)
	}
	s.refill[topic] = true
}

// OverLink notes notifications that are known to have been missed in a blind window. It reports whether that is not told
// yet, so that they can be told with it.
func (s *Sight) OverLink(kind string, n int) bool {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	if s.Current == nil {
		return false
	}
	s.Current.Missed[kind] += n
	s.touched, s.dirty = time.Now(), true
	return true
}

// Overflow notes a notification that the hand-over buffer had no room for.
func (s *Sight) Overflow(topic string) {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	if s.dropped == nil {
		s.dropped = make(map[string]int)
	}
	s.dropped[topic]++
}

// TakeDropped returns what overflow noted since the last call.
func (s *Sight) TakeDropped() map[string]int {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	d := s.dropped
	s.dropped = nil
	return d
}

// TakeRefill returns the topics of which something is to be fetched.
func (s *Sight) TakeRefill() map[string]bool {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	r := s.refill
	s.refill = nil
	return r
}

// Recovered counts an event that was missed and came afterwards.
func (s *Sight) Recovered(kind string) {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	if s.Current != nil {
		s.Current.Recovered[kind]++
		s.touched, s.dirty = time.Now(), true
	}
}

// Problem notes why something could not be fetched.
func (s *Sight) Problem(text string) {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	if g := s.Current; g != nil && !slices.Contains(g.Problems, text) && len(g.Problems) < maxCauses {
		g.Problems = append(g.Problems, text)
		s.dirty = true
	}
}

// Ready takes the gaps that can be told: nothing is out of sight, and for the time of quiet nothing has been added.
func (s *Sight) Ready(now time.Time, quiet time.Duration) []*Gap {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	gaps := s.CutShort
	s.CutShort, s.dirty = nil, s.dirty || len(gaps) > 0
	if s.Current != nil && !s.linkDown && !s.storageDown && !s.filling && now.Sub(s.touched) >= quiet {
		gaps = append(gaps, s.Current)
		s.Current = nil
		s.dirty = true
	}
	for _, g := range gaps {
		s.told = keepSpan(s.told, timeSpan{g.From, g.To})
	}
	return gaps
}

// Untold puts back a gap that could not be stored.
func (s *Sight) Untold(g *Gap) {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	if s.Current == nil {
		s.Current = g
		s.touched, s.dirty = time.Now(), true
		return
	}
	s.CutShort = append(s.CutShort, g)
}

// StoreAgain notes that what unstored returned could not be stored.
func (s *Sight) StoreAgain() {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	s.dirty = true
}

// Unstored returns the current gap as it is to be stored, and whether that has changed; nil: there is none.
func (s *Sight) Unstored() (data []byte, changed bool) {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	if !s.dirty {
		return nil, false
	}
	s.dirty = false
	if s.Current == nil && len(s.CutShort) == 0 {
		return nil, true
	}
	g := Gap{Missed: make(map[string]int), Recovered: make(map[string]int)}
	for i, part := range append(slices.Clone(s.CutShort), s.Current) {
		if part == nil {
			continue
		}
		if i == 0 || part.From.Before(g.From) || g.From.IsZero() {
			g.From = part.From
		}
		for _, c := range part.Causes {
			g.cause(c)
		}
		for kind, n := range part.Missed {
			g.Missed[kind] += n
		}
		for kind, n := range part.Recovered {
			g.Recovered[kind] += n
		}
	}
	data, err := json.Marshal(&g)
	if err != nil {
		return nil, false // strings, numbers and times of this century
	}
	return data, true
}

// BlindSince returns since when the HMC is out of sight or what it sends cannot be stored; the zero time when it is in
// sight.
func (s *Sight) BlindSince() time.Time {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	if s.Current != nil && (s.linkDown || s.storageDown) {
		return s.Current.From
	}
	return time.Time{}
}

// whatIsLost says in words what an HMC never tells again, of the kinds of topics that are followed.
var whatIsLost = map[string]string{
	event.TopicObject: "object notifications (status, property and inventory changes)",
	event.TopicJob:    "job completions",
	event.TopicOther:  "notifications",
}

// Conclude fills in what may be missing for good. kinds are the kinds of topics that are followed.
func (g *Gap) Conclude(kinds []string) {
	for _, kind := range []string{event.TopicObject, event.TopicJob, event.TopicOther} {
		if (g.Whole && slices.Contains(kinds, kind)) || g.Concerns[kind] {
			g.Missing = append(g.Missing, whatIsLost[kind])
		}
	}
	g.Missing = append(g.Missing, g.Problems...)
	if n := g.Missed[event.TopicOSMessage] - g.Recovered[event.TopicOSMessage]; n > 0 {
		g.Missing = append(g.Missing, "OS messages that the HMC does not hold any more")
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
