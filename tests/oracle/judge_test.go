package oracle

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// story is a run that is made up: twenty notifications of one HMC, one each
// 100 ms, the odd ones of a kind that the HMC holds; a fault costs numbers 8 to
// 12, of which those that are held come afterwards.
type story struct {
	start     time.Time
	published []Notification
	windows   []Window
	got       Deliveries
}

func (s *story) at(n int) time.Time { return s.start.Add(time.Duration(n) * 100 * time.Millisecond) }

func (s *story) event(n int, origin string) Arrival {
	a := Arrival{
		ID: fmt.Sprintf("id-%d", n), HMC: "east", Type: "property-change", Origin: origin, Received: s.at(n),
		Topic: "t", mark: mark("east", "p", n), Body: json.RawMessage(fmt.Sprintf(`{"is-refresh":%v,"n":%d}`, origin == "refresh", n)),
	}
	a.raw = fmt.Appendf(nil, "%s %s", a.Body, origin)
	return a
}

func (s *story) gap(from, to time.Time) Arrival {
	body, err := json.Marshal(Gap{From: from, To: to, Causes: []string{"the link was lost"}})
	if err != nil {
		panic(err)
	}
	return Arrival{ID: "gap", HMC: "east", Type: "bridge-gap", Origin: "bridge", Body: body, raw: body}
}

// index returns where in the arrivals a number is, or -1.
func (s *story) index(n int) int {
	for i := range s.got.Arrivals {
		if s.got.Arrivals[i].mark == mark("east", "p", n) {
			return i
		}
	}
	return -1
}

func (s *story) remove(n int) {
	i := s.index(n)
	s.got.Arrivals = append(s.got.Arrivals[:i], s.got.Arrivals[i+1:]...)
}

// moveBehind has a number arrive just after another one.
func (s *story) moveBehind(n, other int) {
	a := s.got.Arrivals[s.index(n)]
	s.remove(n)
	s.got.Arrivals = slices.Insert(s.got.Arrivals, s.index(other)+1, a)
}

// refusedThenLate makes a dead letter of a number, which arrives after another one all the same.
func (s *story) refusedThenLate(n, other int) {
	s.got.Dead = append(s.got.Dead, s.got.Arrivals[s.index(n)])
	s.moveBehind(n, other)
}

func newStory() *story {
	s := &story{start: time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC), got: Deliveries{Sink: "hook"}}
	var late []Arrival
	for n := 1; n <= 20; n++ {
		s.published = append(s.published, Notification{hmc: "east", resource: "p", number: n, recoverable: n%2 == 1, at: s.at(n)})
		switch {
		case n < 8 || n > 12:
			s.got.Arrivals = append(s.got.Arrivals, s.event(n, "live"))
		case n%2 == 1:
			late = append(late, s.event(n, "backfill"))
		}
	}
	s.got.Arrivals = append(s.got.Arrivals, late...)
	s.got.Arrivals = append(s.got.Arrivals, s.gap(s.at(7), s.at(13).Add(-clockSlack)))
	s.windows = []Window{{hmc: "east", what: "cut", from: s.at(8), to: s.at(12)}}
	return s
}

func (s *story) judge() *Verdict {
	return Judge(map[string][]Notification{"east": s.published, "west": nil}, s.windows, s.got)
}

func TestJudge(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(s *story)
		want   string // how the only violation begins; "": there is none
	}{
		{"as promised", func(*story) {}, ""},
		{"a held one is lost", func(s *story) { s.remove(9) }, "lost: hook: chaos:east:p:9;"},
		{"one is lost after the gap", func(s *story) { s.remove(14) }, "lost and not named: hook: chaos:east:p:14;"},
		{"one is lost before the gap", func(s *story) { s.remove(4) }, "lost and not named: hook: chaos:east:p:4;"},
		{"the gap ends too early", func(s *story) { s.got.Arrivals[len(s.got.Arrivals)-1] = s.gap(s.at(7), s.at(11)) }, "lost and not named: hook: chaos:east:p:12;"},
		{"the gap begins too late", func(s *story) {
			// Number 12 is live: what comes before it came before.
			s.got.Arrivals = append(s.got.Arrivals[:7:7], append([]Arrival{s.event(10, "live")}, s.got.Arrivals[7:]...)...)
			s.got.Arrivals[len(s.got.Arrivals)-1] = s.gap(s.at(11), s.at(13))
		}, "lost and not named: hook: chaos:east:p:8;"},
		{"on its way when the gap began", func(s *story) { s.got.Arrivals[len(s.got.Arrivals)-1] = s.gap(s.at(11), s.at(13)) }, ""},
		{"the gap is of another HMC", func(s *story) { s.got.Arrivals[len(s.got.Arrivals)-1].HMC = "west" }, "lost and not named"},
		{"lost without a fault", func(s *story) { s.windows = nil }, "lost without a fault: hook: chaos:east:p:8;"},
		{"the fault is of another HMC", func(s *story) { s.windows[0].hmc = "west" }, "lost without a fault"},
		{"on its way as the fault ended", func(s *story) {
			s.windows[0].to = s.at(10).Add(-clockSlack / 2)
			s.got.Arrivals = slices.Insert(s.got.Arrivals, 7, s.event(10, "live"))
		}, ""},
		{"another topic is there before", func(s *story) {
			s.windows[0].to = s.at(9).Add(-clockSlack)
			s.published[9].resource = "audit"
			a := s.event(10, "live")
			a.mark, a.Topic = mark("east", "audit", 10), "audit"
			s.got.Arrivals = slices.Insert(s.got.Arrivals, 7, a)
		}, ""},
		{"a dead letter", func(s *story) {
			s.got.Dead = append(s.got.Dead, s.got.Arrivals[s.index(3)])
			s.remove(3)
		}, ""},
		{"sent again", func(s *story) { s.got.Arrivals = append(s.got.Arrivals, s.event(3, "live")) }, ""},
		{"sent again by the HMC", func(s *story) { s.got.Arrivals = append(s.got.Arrivals, s.event(3, "refresh")) }, ""},
		{"sent again and not the same", func(s *story) {
			a := s.event(3, "live")
			a.Body = json.RawMessage(`{"n":4}`)
			a.raw = a.Body
			s.got.Arrivals = append(s.got.Arrivals, a)
		}, "not the same"},
		{"under another id", func(s *story) {
			a := s.event(9, "backfill")
			a.ID = "other"
			s.got.Arrivals = append(s.got.Arrivals, a)
		}, "twice under two ids"},
		{"live out of order", func(s *story) {
			a := s.got.Arrivals
			a[2], a[3] = a[3], a[2]
		}, "out of order: hook: chaos:east:p:3;"},
		{"refused, and sent again after a kill", func(s *story) {
			s.refusedThenLate(3, 6)
			s.windows = append(s.windows, Window{what: "kill", from: s.at(6), to: s.at(7)})
		}, ""},
		{"refused, and late though nothing was killed since", func(s *story) {
			s.refusedThenLate(3, 6)
			s.windows = append(s.windows, Window{what: "kill", from: s.at(4), to: s.at(5)})
		}, "out of order: hook: chaos:east:p:3;"},
		{"late after a kill, and not refused", func(s *story) {
			s.refusedThenLate(3, 6)
			s.got.Dead = nil
			s.windows = append(s.windows, Window{what: "kill", from: s.at(6), to: s.at(7)})
		}, "out of order: hook: chaos:east:p:3;"},
		{"behind one that was refused before the kill", func(s *story) {
			s.refusedThenLate(3, 6)
			s.windows = append(s.windows, Window{what: "kill", from: s.at(6), to: s.at(7)})
			s.moveBehind(4, 3)
		}, "out of order: hook: chaos:east:p:4;"},
		{"fetched out of order", func(s *story) {
			i := s.index(9)
			s.got.Arrivals[i], s.got.Arrivals[i+1] = s.got.Arrivals[i+1], s.got.Arrivals[i]
		}, "out of order: hook: chaos:east:p:9;"},
		{"from nowhere", func(s *story) { s.got.Arrivals = append(s.got.Arrivals, s.event(21, "live")) }, "not published"},
		{"a gap that says nothing", func(s *story) {
			a := s.gap(s.at(1), s.at(2))
			a.ID, a.Body = "gap-2", json.RawMessage(`{}`)
			s.got.Arrivals = append(s.got.Arrivals, a)
		}, "bad gap"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newStory()
			tc.change(s)
			v := s.judge()
			switch {
			case tc.want == "" && len(v.Violations) > 0:
				t.Errorf("violations %q", v.Violations)
			case tc.want != "" && (len(v.Violations) == 0 || !strings.HasPrefix(v.Violations[0], tc.want)):
				t.Errorf("violations %q, want %q", v.Violations, tc.want)
			}
		})
	}
	c := newStory().judge().Counts["hook"]["east"]
	if want := (Count{Published: 20, Arrived: 17, Recovered: 2, Named: 3, Gaps: 1}); *c != want {
		t.Errorf("counts %+v, want %+v", *c, want)
	}
}

// A kill leaves half a line at most. More of them, or what is no event, is said.
func TestReadLog(t *testing.T) {
	whole := `{"id":"1","type":"status-change","hmc":"east"}` + "\n"
	for _, test := range []struct {
		text     string
		torn     int
		arrivals int
		ok       bool
	}{
		{whole + whole, 0, 2, true},
		{whole + `{"id":"2","ty` + "\n" + whole, 1, 2, true},
		{whole + `{"id":"2","ty` + "\n" + whole, 0, 1, false},
		{whole + `{"id":"2","ty` + "\n" + `{"id":` + "\n", 1, 1, false},
		{whole + `{"id":"2","ty`, 1, 1, true},
		{whole + `{"id":"2","ty`, 0, 1, false},
		{`{"id":"2"}` + "\n", 1, 0, false},
	} {
		path := filepath.Join(t.TempDir(), "events.log")
		if err := os.WriteFile(path, []byte(test.text), 0o600); err != nil {
			t.Fatal(err)
		}
		d, err := ReadLog("journal", path, test.torn)
		if len(d.Arrivals) != test.arrivals || (err == nil) != test.ok {
			t.Errorf("%q: %d arrivals, %v", test.text, len(d.Arrivals), err)
		}
	}
}
