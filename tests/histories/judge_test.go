package histories_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
)

// told is an event that was delivered.
type told struct {
	ID       string            `json:"id"`
	HMC      string            `json:"hmc"`
	Type     string            `json:"type"`
	Topic    string            `json:"topic_type"`
	Origin   string            `json:"origin"`
	Time     time.Time         `json:"time"`
	Received time.Time         `json:"received"`
	Summary  string            `json:"summary"`
	Headers  map[string]string `json:"headers"`
	Body     json.RawMessage   `json:"body"`
	Resource *struct {
		ObjectURI string `json:"object_uri"`
		Name      string `json:"name"`
	} `json:"resource"`

	fact *fact // nil: of none
	life int
	nr   int // in the order of delivery
}

func (e *told) String() string {
	return fmt.Sprintf("%s %s %s of %s, received %s: %s (id %.8s)", e.Origin, e.Type, e.Topic, e.HMC, clock(e.Received), e.Summary, e.ID)
}

// gap is the body of a bridge-gap event.
type gap struct {
	From      time.Time      `json:"from"`
	To        time.Time      `json:"to"`
	Causes    []string       `json:"causes"`
	Missed    map[string]int `json:"missed"`
	Recovered map[string]int `json:"recovered"`
	Missing   []string       `json:"may_be_missing"`
	event     *told
}

func (g *gap) String() string {
	return fmt.Sprintf("[%s to %s, %v, missed %v, got %v, may be missing %q]", clock(g.From), clock(g.To), g.Causes, g.Missed, g.Recovered, g.Missing)
}

func clock(t time.Time) string { return t.UTC().Format("15:04:05.000") }

var marks = regexp.MustCompile(`fact:\d+;`)

// words are what a gap says that may be missing, by type of topic.
var words = map[string]string{
	"object":     "object notifications",
	"job":        "job completions",
	"os-message": "OS messages",
	"audit":      "entries of the audit log",
	"security":   "entries of the security log",
}

// judge holds what the daemon has delivered against what happened, by the rules of docs/delivery.md.
type judge struct {
	h        *history
	events   []*told // each id once
	gaps     map[string][]*gap
	byFact   map[*fact][]*told
	kinds    []kind // of what happens
	problems []string
}

func (j *judge) wrong(format string, args ...any) {
	j.problems = append(j.problems, fmt.Sprintf(format, args...))
}

// verdict says what is wrong with a history.
func verdict(h *history) []string {
	j := &judge{h: h, gaps: make(map[string][]*gap), byFact: make(map[*fact][]*told)}
	j.problems = append(j.problems, h.problem...)
	for _, s := range h.steps {
		j.kinds = append(j.kinds, s.kind)
	}
	j.read()
	j.once()
	j.order()
	j.windows()
	j.statuses()
	return j.problems
}

// read reads what was delivered. What was delivered to a consumer may be delivered again after a kill, and is
// the same then.
func (j *judge) read() {
	facts := make(map[string]*fact)
	for _, f := range j.h.facts {
		facts[f.mark] = f
	}
	type first struct {
		life int
		data string
	}
	seen := make(map[string]first)
	for i, l := range j.h.lives {
		for _, line := range l.out {
			e := &told{life: i, nr: len(j.events)}
			if err := json.Unmarshal(line.data, e); err != nil {
				j.wrong("not an event: %v: %s", err, line.data)
				continue
			}
			if was, ok := seen[e.ID]; ok {
				switch {
				case was.data != string(line.data):
					j.wrong("one id, two events:\n  %s\n  %s", was.data, line.data)
				case was.life == i:
					j.wrong("delivered twice: %s", line.data)
				}
				continue
			}
			seen[e.ID] = first{i, string(line.data)}
			j.events = append(j.events, e)
			switch {
			case e.Type == "bridge-gap":
				g := &gap{event: e}
				if err := json.Unmarshal(e.Body, g); err != nil {
					j.wrong("not a gap: %v: %s", err, line.data)
				}
				j.gaps[e.HMC] = append(j.gaps[e.HMC], g)
			case strings.HasPrefix(e.Type, "bridge-"):
			default:
				mark := e.Headers["x-fact"]
				if mark == "" {
					mark = marks.FindString(string(e.Body))
				}
				if mark == "" {
					continue
				}
				if e.fact = facts[mark]; e.fact == nil {
					j.wrong("did not happen: %s", line.data)
					continue
				}
				j.byFact[e.fact] = append(j.byFact[e.fact], e)
			}
		}
	}
}

// once: each fact is told once, or a gap names it; what the HMC holds is told.
func (j *judge) once() {
	j.swap()
	for _, f := range j.h.facts {
		list := j.byFact[f]
		if len(list) > f.count && !j.apart(f, list) {
			text := ""
			for _, e := range list {
				text += "\n  " + e.String()
			}
			j.wrong("%s %s of %s, %s, is told %d times, and happened %d times:%s", f.topic, f.mark, f.lane, clock(f.at), len(list), f.count, text)
		}
		if len(list) >= f.count {
			continue
		}
		by := j.named(f)
		if by == nil {
			j.wrong("%s %s of %s, %s, is not told, and no gap names it (told %s)", f.topic, f.mark, f.lane, clock(f.at), times(f.hmcs))
		} else if f.held && j.holds(f) && !slices.ContainsFunc(by, (*gap).failed) {
			j.wrong("%s %s of %s, %s, is held by the HMC, and not told: %v", f.topic, f.mark, f.lane, clock(f.at), by)
		}
		if !j.faulty(f) {
			j.wrong("%s %s of %s, %s, is not told, and there was no fault", f.topic, f.mark, f.lane, clock(f.at))
		}
	}
}

// swap sets right which of several changes that say the same, and happen within moments, has been told: two
// HMCs that tell of them leave open whose report is of which.
func (j *judge) swap() {
	if !j.h.setup.grouped {
		return
	}
	for _, f := range j.h.facts {
		if f.says == "" || len(j.byFact[f]) > 0 {
			continue
		}
		for _, g := range j.h.facts {
			if list := j.byFact[g]; g.says == f.says && len(list) > 1 && g.at.Sub(f.at).Abs() < 5*time.Second+j.h.setup.lag {
				j.byFact[f], j.byFact[g] = list[1:2], slices.Delete(slices.Clone(list), 1, 2)
				break
			}
		}
	}
}

func times(m map[string]time.Time) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, k+" "+clock(m[k]))
	}
	return strings.Join(out, ", ")
}

// apart says whether HMCs of a group have reported something so that nobody can tell that it is the same.
func (j *judge) apart(f *fact, list []*told) bool {
	if f.count > 1 {
		return len(list)-f.count <= j.late(f, list)
	}
	by := make(map[string]bool)
	for i, e := range list {
		if by[e.HMC] || i > 0 && !j.unlike(list[i-1], e) {
			return false
		}
		by[e.HMC] = true
	}
	return len(f.hmcs) > 1
}

// late counts the reports that came so late that nobody can tell what they are of.
func (j *judge) late(f *fact, list []*told) (n int) {
	for _, e := range list {
		lag := j.h.hmc(e.HMC).lag
		soon := func(at time.Time) bool {
			d := e.Received.Sub(at.Add(lag))
			return d >= 0 && d <= 5*time.Second
		}
		if e.Origin == "live" && !soon(f.at) && !slices.ContainsFunc(f.again, soon) {
			n++
		}
	}
	return n
}

// unlike is apart for two reports.
func (j *judge) unlike(a, b *told) bool {
	if a.Received.After(b.Received) {
		a, b = b, a
	}
	if b.Origin != "live" { // what is replayed or listed is known for a day
		return false
	}
	first, second := a.Received, b.Received
	if second.Sub(first) > 5*time.Second {
		return true
	}
	// Another change of the object that the HMC has told between them is not to be the last word.
	if a.nr < b.nr && slices.ContainsFunc(j.events[a.nr+1:b.nr], func(e *told) bool {
		return e.fact != nil && e.fact.lane == b.fact.lane && e.HMC == b.HMC
	}) {
		return true
	}
	// What was told while a link was down, by an HMC that was lost then, may be told again.
	disturbed := func(hmc string, before time.Duration) bool {
		return slices.ContainsFunc(j.h.windows, func(w *window) bool {
			return (w.hmc == "" || w.hmc == hmc) && w.from.Before(second) && w.to.After(first.Add(-before))
		})
	}
	return disturbed(a.HMC, time.Minute) && disturbed(b.HMC, time.Minute)
}

// holds says whether an HMC holds what it told, at the end.
func (j *judge) holds(f *fact) bool {
	return f.topic != "os-message" || j.h.setup.keeps > len(j.h.facts)
}

// failed says that a gap tells of something that could not be fetched.
func (g *gap) failed() bool {
	return slices.ContainsFunc(g.Missing, func(s string) bool { return strings.Contains(s, "could not be fetched") })
}

// ofLink says that a gap is of a time without a link.
func (g *gap) ofLink() bool {
	return !slices.ContainsFunc(g.Causes, func(s string) bool {
		return !strings.HasPrefix(s, "the link was lost") && !strings.HasPrefix(s, "the daemon")
	})
}

// named returns the gaps that name a fact.
func (j *judge) named(f *fact) (by []*gap) {
	for _, name := range slices.Sorted(maps.Keys(f.hmcs)) {
		c := j.h.hmc(name)
		for _, at := range append([]time.Time{f.at}, f.again...) {
			from := at.Add(c.lag)
			to := c.arrives(from)
			for _, g := range j.gaps[name] {
				concerns := slices.ContainsFunc(g.Missing, func(s string) bool { return strings.Contains(s, words[f.topic]) })
				if concerns && !to.Before(g.From) && !from.After(g.To) {
					by = append(by, g)
				}
			}
		}
	}
	return by
}

func (h *history) hmc(name string) *hmc {
	return h.hmcs[slices.IndexFunc(h.hmcs, func(c *hmc) bool { return c.name == name })]
}

// mostDelay is how long something may be on its way that is not stalled.
const mostDelay = time.Second

// arrives returns when something that an HMC sends has arrived at the latest.
func (c *hmc) arrives(at time.Time) time.Time {
	for _, s := range c.stalls {
		if !at.Before(s.from.Add(-mostDelay)) && at.Before(s.to) {
			at = s.to
		}
	}
	return at.Add(mostDelay)
}

// faulty says whether a fault was at work when a fact happened, or is about to be.
func (j *judge) faulty(f *fact) bool {
	for _, w := range j.h.windows {
		for name, at := range f.hmcs {
			if w.hmc != "" && w.hmc != name {
				continue
			}
			from := w.from.Add(-3 * time.Second)
			for _, at := range append([]time.Time{at}, f.again...) {
				if !j.h.hmc(name).arrives(at).Before(from) && at.Before(w.to.Add(recovery)) {
					return true
				}
			}
		}
	}
	return false
}

// recovery is how long after a fault the daemon may take to see everything again.
const recovery = 15 * time.Minute

// order: of each resource what is live is told in the order in which it happened, by each HMC; what is fetched
// is in order among itself.
func (j *judge) order() {
	type place struct {
		lane, hmc string
		live      bool
	}
	last := make(map[place]*told)
	for _, e := range j.events {
		if e.fact == nil {
			continue
		}
		p := place{e.fact.lane, e.HMC, e.Origin == "live"}
		if !p.live && !e.fact.logAt.IsZero() && slices.Contains(j.kinds, clockSet) {
			continue // in the order of their times, whatever the clock was set to
		}
		if was := last[p]; was != nil && was.fact.nr > e.fact.nr && (p.live || !j.refused()) {
			j.wrong("out of order: %s (%s) comes after %s (%s)\n  %v\n  %v", e.fact.mark, clock(e.fact.at), was.fact.mark, clock(was.fact.at), was, e)
		}
		last[p] = e
	}
}

// refused says whether storage has refused something: what is fetched again for that comes later still.
func (j *judge) refused() bool {
	return slices.ContainsFunc(j.h.windows, func(w *window) bool { return w.what == string(refused) || w.what == string(full) })
}

// windows: gaps are true, and there is one for each window.
func (j *judge) windows() {
	for hmc, list := range j.gaps {
		for _, g := range list {
			if g.To.Before(g.From) || len(g.Causes) == 0 {
				j.wrong("%s: not a window: %v", hmc, g)
			}
			all := 0
			for _, n := range g.Recovered {
				all += n
			}
			for kind, n := range g.Missed {
				if kind == "other" && n <= all {
					continue // of whatever kind they were
				}
				if n > g.Recovered[kind] && len(g.Missing) == 0 {
					j.wrong("%s: %d %s are missed, and nothing is missing: %v", hmc, n, kind, g)
				}
			}
		}
		lost := slices.DeleteFunc(slices.Clone(list), func(g *gap) bool { return !g.ofLink() })
		sorted := slices.SortedFunc(slices.Values(lost), func(a, b *gap) int { return cmp.Or(a.From.Compare(b.From), a.To.Compare(b.To)) })
		for i := 1; i < len(sorted); i++ {
			// Times are rounded outwards.
			if a, b := sorted[i-1], sorted[i]; b.From.Before(a.To.Add(-2 * time.Millisecond)) {
				j.wrong("%s: two gaps of one time:\n  %v\n  %v", hmc, a, b)
			}
		}
		j.split(hmc, list)
	}
	j.blind()
}

// split: a window ends when everything is followed again.
func (j *judge) split(hmc string, list []*gap) {
	for _, g := range list {
		var up *told
		for _, e := range j.events {
			if e.HMC != hmc || !e.Received.After(g.From) || !e.Received.Before(g.To.Add(-2*time.Millisecond)) {
				continue
			}
			switch {
			case e.Type == "bridge-connected":
				up = e
			case e.Type == "bridge-disconnected" && up != nil && !j.refused():
				j.wrong("%s: one gap over two windows: %v\n  %v\n  %v", hmc, g, up, e)
			}
		}
	}
}

// blind: what a bridge-connected event announces follows.
func (j *judge) blind() {
	for _, e := range j.events {
		if e.Type != "bridge-connected" {
			continue
		}
		var c struct {
			Since *time.Time `json:"blind_since"`
		}
		if err := json.Unmarshal(e.Body, &c); err != nil {
			j.wrong("%v: %v", e, err)
		}
		if c.Since == nil || e.Received.Sub(*c.Since) < 2*time.Millisecond { // as short as times are told
			continue
		}
		n := 0
		for _, g := range j.gaps[e.HMC] {
			if !g.From.After(*c.Since) && !g.To.Before(e.Received.Truncate(time.Millisecond)) {
				n++
			}
		}
		if n != 1 && (n != 0 || !j.h.setup.grouped) {
			j.wrong("%d gaps for the window that %v ends: since %s", n, e, clock(*c.Since))
		}
	}
}

// statuses: the last status that was told is the one that a partition has.
func (j *judge) statuses() {
	last := make(map[string]*told)
	for _, e := range j.events {
		if e.Type == "status-change" && e.Resource != nil {
			last[e.Resource.ObjectURI] = e
		}
	}
	for _, c := range j.h.hmcs {
		for _, p := range c.sim.Partitions() {
			e := last[p.URI]
			if e == nil {
				continue
			}
			var b struct {
				Reports []struct {
					New string `json:"new-status"`
				} `json:"change-reports"`
			}
			if err := json.Unmarshal(e.Body, &b); err != nil || len(b.Reports) == 0 {
				j.wrong("%v: %v", e, err)
				continue
			}
			if s := b.Reports[len(b.Reports)-1].New; s != p.Status {
				j.wrong("the status of %s is %s, and was last told to be %s: %v", p.Name, p.Status, s, e)
			}
		}
	}
}
