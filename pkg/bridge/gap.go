package bridge

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

// gap is one blind window: a time in which notifications of an HMC were, or may have been, missed. Its JSON is the body
// of the bridge-gap event.
type gap struct {
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

func (g *gap) cause(text string) {
	if !slices.Contains(g.Causes, text) && len(g.Causes) < maxCauses {
		g.Causes = append(g.Causes, text)
	}
}

// sight keeps account of what the daemon could not see of one HMC. Its methods may be called from any goroutine, the one
// that reads from the HMC among them: its lock is never held while anything waits.
type sight struct {
	mu          sync.Mutex
	current     *gap            // not told yet
	linkDown    bool            // the HMC is out of sight
	storageDown bool            // what is seen cannot be stored
	filling     bool            // what was missed is being fetched
	touched     time.Time       // when current changed last
	cutShort    []*gap          // complete before they could be filled
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

// clear reports whether nothing was out of sight in a time.
func (s *sight) clear(from, to time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	covers := func(up timeSpan) bool { return !up.from.After(from) && !up.to.Before(to) }
	isUp := !s.upSince.IsZero() && !s.upSince.After(from)
	if !isUp && !slices.ContainsFunc(s.ups, covers) {
		return false
	}
	if g := s.current; g != nil && g.From.Before(to) && (s.linkDown || s.storageDown || from.Before(g.To)) {
		return false
	}
	return !slices.ContainsFunc(s.told, func(t timeSpan) bool { return t.from.Before(to) && from.Before(t.to) })
}

// open returns the current gap, which begins no later than from.
func (s *sight) open(from time.Time) *gap {
	if s.current == nil {
		s.current = &gap{From: from, Missed: make(map[string]int), Recovered: make(map[string]int), Concerns: make(map[string]bool)}
	}
	if from.Before(s.current.From) {
		s.current.From = from
	}
	s.touched, s.dirty = time.Now(), true
	return s.current
}

// linkLost begins a blind window at the time something was last seen. One that is not told yet is then complete.
func (s *sight) linkLost(from time.Time, cause string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current != nil && !s.linkDown && !s.storageDown {
		if s.filling {
			s.current.Problems = append(s.current.Problems, "the link was lost again before everything could be fetched")
		}
		s.cutShort = append(s.cutShort, s.current)
		s.current = nil
	}
	if !s.upSince.IsZero() {
		s.ups = keepSpan(s.ups, timeSpan{s.upSince, from})
	}
	s.linkDown, s.filling, s.refill, s.upSince = true, false, nil, time.Time{}
	g := s.open(from)
	g.Whole = true
	g.cause(cause)
}

// resume takes up a gap that was not told before the daemon ended.
func (s *sight) resume(stored *gap) {
	s.mu.Lock()
	defer s.mu.Unlock()
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

// linkUp ends the blind window. It reports whether there was one: fill says that what was missed will be fetched, and
// filled is called then.
func (s *sight) linkUp(now time.Time, fill bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.linkDown, s.upSince = false, now
	if s.current == nil {
		return false
	}
	s.filling = fill
	s.seen(now)
	return true
}

// seen sets the end of the gap if nothing is out of sight any more.
func (s *sight) seen(now time.Time) {
	s.touched, s.dirty = now, true
	if s.current != nil && !s.linkDown && !s.storageDown && now.After(s.current.To) {
		s.current.To = now
	}
}

// filled notes that what could be fetched has been.
func (s *sight) filled() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.filling = false
	s.touched = time.Now()
}

// storageFailed begins a blind window, or goes on with one: what was received since from could not be stored.
func (s *sight) storageFailed(from time.Time, cause string, missed map[string]int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.storageDown = true
	g := s.open(from)
	g.Whole = true
	g.cause(cause)
	for kind, n := range missed {
		g.Missed[kind] += n
	}
}

// storageWorks ends what storageFailed began. It reports whether that is news.
func (s *sight) storageWorks(now time.Time, fill bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
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

// spot notes notifications of a topic that are known to be missing although the link was up. fill says that what can be
// will be fetched.
func (s *sight) spot(from, to time.Time, cause, topic, kind string, n int, fill bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
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
func (s *sight) wantFill(topic string) {
	s.filling = true
	if s.refill == nil {
		s.refill = make(map[string]bool)
	}
	s.refill[topic] = true
}

// overLink notes notifications that are known to have been missed in a blind window. It reports whether that is not told
// yet, so that they can be told with it.
func (s *sight) overLink(kind string, n int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil {
		return false
	}
	s.current.Missed[kind] += n
	s.touched, s.dirty = time.Now(), true
	return true
}

// overflow notes a notification that the hand-over buffer had no room for.
func (s *sight) overflow(topic string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dropped == nil {
		s.dropped = make(map[string]int)
	}
	s.dropped[topic]++
}

// takeDropped returns what overflow noted since the last call.
func (s *sight) takeDropped() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.dropped
	s.dropped = nil
	return d
}

// takeRefill returns the topics of which something is to be fetched.
func (s *sight) takeRefill() map[string]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.refill
	s.refill = nil
	return r
}

// recovered counts an event that was missed and came afterwards.
func (s *sight) recovered(kind string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current != nil {
		s.current.Recovered[kind]++
		s.touched, s.dirty = time.Now(), true
	}
}

// problem notes why something could not be fetched.
func (s *sight) problem(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g := s.current; g != nil && !slices.Contains(g.Problems, text) && len(g.Problems) < maxCauses {
		g.Problems = append(g.Problems, text)
		s.dirty = true
	}
}

// ready takes the gaps that can be told: nothing is out of sight, and for the time of quiet nothing has been added.
func (s *sight) ready(now time.Time, quiet time.Duration) []*gap {
	s.mu.Lock()
	defer s.mu.Unlock()
	gaps := s.cutShort
	s.cutShort, s.dirty = nil, s.dirty || len(gaps) > 0
	if s.current != nil && !s.linkDown && !s.storageDown && !s.filling && now.Sub(s.touched) >= quiet {
		gaps = append(gaps, s.current)
		s.current = nil
		s.dirty = true
	}
	for _, g := range gaps {
		s.told = keepSpan(s.told, timeSpan{g.From, g.To})
	}
	return gaps
}

// untold puts back a gap that could not be stored.
func (s *sight) untold(g *gap) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil {
		s.current = g
		s.touched, s.dirty = time.Now(), true
		return
	}
	s.cutShort = append(s.cutShort, g)
}

// storeAgain notes that what unstored returned could not be stored.
func (s *sight) storeAgain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dirty = true
}

// unstored returns the current gap as it is to be stored, and whether that has changed; nil: there is none.
func (s *sight) unstored() (data []byte, changed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.dirty {
		return nil, false
	}
	s.dirty = false
	if s.current == nil && len(s.cutShort) == 0 {
		return nil, true
	}
	g := gap{Missed: make(map[string]int), Recovered: make(map[string]int)}
	for i, part := range append(slices.Clone(s.cutShort), s.current) {
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

// blindSince returns since when the HMC is out of sight or what it sends cannot be stored; the zero time when it is in
// sight.
func (s *sight) blindSince() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current != nil && (s.linkDown || s.storageDown) {
		return s.current.From
	}
	return time.Time{}
}

// whatIsLost says in words what an HMC never tells again, of the kinds of topics that are followed.
var whatIsLost = map[string]string{
	event.TopicObject: "object notifications (status, property and inventory changes)",
	event.TopicJob:    "job completions",
	event.TopicOther:  "notifications",
}

// conclude fills in what may be missing for good. kinds are the kinds of topics that are followed.
func (g *gap) conclude(kinds []string) {
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

// inWords is the gap as the person on call reads it.
func (g *gap) inWords() string {
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
