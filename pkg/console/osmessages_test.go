package console

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/tests/soak"
)

// markClock is when the stories of these tests begin.
var markClock = time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC)

func markMessage(seq int64, text string, at int64) OSMessage {
	return OSMessage{
		Number: seq, Text: TextHash(text), Time: at, ID: event.IDOf(event.TypeOSMessage, "hmc", "P", fmt.Sprint(seq), text),
	}
}

// markRange returns the messages from one number to another, all with texts that begin with a word.
func markRange(word string, from, to int64) []OSMessage {
	var out []OSMessage
	for seq := from; seq <= to; seq++ {
		out = append(out, markMessage(seq, word, -1))
	}
	return out
}

// markRangeAt is markRange with a time, one second per number, from a start.
func markRangeAt(word string, from, to, start int64) []OSMessage {
	out := markRange(word, from, to)
	for i := range out {
		out[i].Time = start + 1000*out[i].Number
	}
	return out
}

// markBook is a book of which one partition is looked at, and what is committed of it.
type markBook struct {
	*OSMessages
	store map[string][]byte
}

const markPartition = "/api/partitions/1"

func newMarkBook() *markBook {
	return &markBook{OSMessages: NewOSMessages("hmc"), store: make(map[string][]byte)}
}

func (b *markBook) live(msg OSMessage, now time.Time) OSVerdict {
	return b.Live(markPartition, "", msg, now)
}
func (b *markBook) replay(r OSReplay) []OSVerdict { return b.Replay(markPartition, r) }
func (b *markBook) missing() (from, to, n int64)  { return b.Missing(markPartition) }
func (b *markBook) settle(to int64) int64         { return b.Settle(markPartition, to) }
func (b *markBook) abandoned() int64              { return b.Abandoned(markPartition) }
func (b *markBook) known() *osPartition           { return b.partition(markPartition) }

// commit stores what has changed, and returns it.
func (b *markBook) commit() []queue.KeyValue {
	state := b.Changes(nil)
	for _, kv := range state {
		if b.store[kv.Key] = kv.Value; kv.Value == nil {
			delete(b.store, kv.Key)
		}
	}
	return state
}

// load reads what is committed, into the same book: as after a commit that failed.
func (b *markBook) load() (damaged int) {
	return b.Load(func(prefix string, fn func(string, []byte) bool) {
		for _, key := range slices.Sorted(maps.Keys(b.store)) {
			if strings.HasPrefix(key, prefix) && !fn(key, b.store[key]) {
				return
			}
		}
	})
}

// restart makes another book of what is committed.
func (b *markBook) restart(t *testing.T, now time.Time) *markBook {
	t.Helper()
	again := &markBook{OSMessages: NewOSMessages("hmc"), store: b.store}
	if damaged := again.load(); damaged != 0 {
		t.Errorf("%d values are damaged", damaged)
	}
	again.Anchor(now)
	return again
}

// markStory plays a story with a book: each step is checked, and time passes between them.
type markStory struct {
	t   *testing.T
	m   *markBook
	now time.Time
}

// verdicts writes verdicts as text, equal ones in a row as one: "10 new, 3 dup, 5 new@1".
func verdicts(vs []OSVerdict) string {
	var parts []string
	for i := 0; i < len(vs); {
		name := func(v OSVerdict) string {
			word := "new"
			if v.Duplicate {
				return "dup"
			}
			if v.Epoch > 0 {
				word += fmt.Sprintf("@%d", v.Epoch)
			}
			return word
		}
		n := 1
		for i+n < len(vs) && name(vs[i+n]) == name(vs[i]) {
			n++
		}
		parts = append(parts, fmt.Sprintf("%d %s", n, name(vs[i])))
		i += n
	}
	return strings.Join(parts, ", ")
}

func (s *markStory) pass(d time.Duration) { s.now = s.now.Add(d) }

func (s *markStory) want(what string, vs []OSVerdict, want string) {
	s.t.Helper()
	if got := verdicts(vs); got != want {
		s.t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

// live plays messages that come as new.
func (s *markStory) live(want string, msgs ...OSMessage) {
	s.t.Helper()
	var vs []OSVerdict
	for _, msg := range msgs {
		vs = append(vs, s.m.live(msg, s.now))
	}
	s.want("live", vs, want)
}

// replay plays a whole replay that was asked for a second ago.
func (s *markStory) replay(want string, msgs ...OSMessage) {
	s.t.Helper()
	s.replayOf(want, OSReplay{Messages: msgs, Complete: true})
}

func (s *markStory) replayOf(want string, r OSReplay) {
	s.t.Helper()
	if r.Asked.IsZero() {
		r.Asked = s.now
	}
	s.pass(time.Second)
	r.Now = s.now
	s.want("replay", s.m.replay(r), want)
}

func (s *markStory) missing(from, to, n int64) {
	s.t.Helper()
	if f, t, c := s.m.missing(); f != from || t != to || c != n {
		s.t.Errorf("missing: got %d to %d, %d; want %d to %d, %d", f, t, c, from, to, n)
	}
}

// blind lets an hour pass, and the daemon be started again.
func (s *markStory) blind() {
	s.t.Helper()
	s.pass(time.Hour)
	s.restart()
}

func (s *markStory) restart() {
	s.t.Helper()
	s.m.commit()
	s.m = s.m.restart(s.t, s.now)
}

// commitFails forgets what was not committed.
func (s *markStory) commitFails() {
	s.t.Helper()
	if damaged := s.m.load(); damaged != 0 {
		s.t.Errorf("%d values are damaged", damaged)
	}
}

func TestPartitionMark(t *testing.T) {
	one := func(seq int64, text string) OSMessage { return markMessage(seq, text, -1) }
	tests := []struct {
		name string
		play func(s *markStory)
	}{
		{"everything is new on a partition never seen", func(s *markStory) {
			s.replay("10 new", markRange("a", 5, 14)...)
			s.missing(0, 0, 0)
			s.live("2 new", markRange("a", 15, 16)...)
		}},
		{"what a partition never seen has of two sequences keeps them apart", func(s *markStory) {
			s.replay("3 new, 3 new@1", slices.Concat(markRange("a", 98, 100), markRange("a", 1, 3))...)
			s.missing(0, 0, 0)
			s.replay("6 dup", slices.Concat(markRange("a", 98, 100), markRange("a", 1, 3))...)
		}},
		{"a live message before the first replay hides none of it", func(s *markStory) {
			asked := s.now
			s.live("1 new", one(10, "a"))
			s.replayOf("9 new, 1 dup, 1 new", OSReplay{Messages: markRange("a", 1, 11), Complete: true, Asked: asked})
			s.live("1 dup, 1 new", one(11, "a"), one(12, "a"))
		}},
		{"a message comes by the replay and as new", func(s *markStory) {
			s.replay("10 new", markRange("a", 1, 10)...)
			s.live("3 dup, 2 new", markRange("a", 8, 12)...)
		}},
		{"so do messages behind which the numbers began anew", func(s *markStory) {
			s.live("5 new", markRange("a", 1, 5)...)
			s.pass(time.Minute)
			s.replayOf("5 dup, 4 new, 2 new@1", OSReplay{
				Messages: slices.Concat(markRange("a", 1, 9), markRange("b", 0, 1)), Complete: true, Next: &markRange("a", 6, 6)[0],
			})
			s.live("6 dup, 1 new@1", slices.Concat(markRange("a", 6, 9), markRange("b", 0, 2))...)
			s.missing(0, 0, 0)
		}},
		{"they hide nothing of a system that writes the same again", func(s *markStory) {
			s.live("5 new", markRange("boot", 0, 4)...)
			s.pass(time.Minute)
			s.replay("5 dup, 5 new, 3 new@1", slices.Concat(markRange("boot", 0, 9), markRange("boot", 0, 2))...)
			s.live("7 new@1", markRange("boot", 3, 9)...)
		}},
		{"a day after the replay its first numbers and texts are a new sequence", func(s *markStory) {
			s.replay("5 new", markRange("boot", 1, 5)...)
			s.pass(24 * time.Hour)
			s.live("6 new@1", markRange("boot", 1, 6)...)
		}},
		{"soon after the replay too, once something newer was published", func(s *markStory) {
			s.replay("5 new", markRange("boot", 1, 5)...)
			s.live("1 new", one(6, "boot"))
			s.pass(5 * time.Second)
			s.live("6 new@1", markRange("boot", 1, 6)...)
		}},
		{"a notification comes twice", func(s *markStory) {
			s.live("3 new", markRange("a", 1, 3)...)
			s.live("3 dup, 1 new", append(markRange("a", 1, 3), one(4, "a"))...)
		}},
		{"a notification with times comes twice, much later", func(s *markStory) {
			s.live("3 new", markRangeAt("a", 1, 3, 5000)...)
			s.blind()
			s.live("3 dup", markRangeAt("a", 1, 3, 5000)...)
		}},
		{"the same numbers and texts at another time are a new sequence", func(s *markStory) {
			s.live("3 new", markRangeAt("a", 1, 3, 5000)...)
			s.live("3 new@1", markRangeAt("a", 1, 3, 9000)...)
		}},
		{"an IPL in sight, with the same messages", func(s *markStory) {
			s.live("30 new", markRange("boot", 1, 30)...)
			s.pass(time.Minute)
			s.live("30 new@1", markRange("boot", 1, 30)...)
			s.pass(time.Minute)
			s.live("5 new@2", markRange("boot", 1, 5)...)
			s.replay("35 dup", slices.Concat(markRange("boot", 1, 30), markRange("boot", 1, 5))...)
		}},
		{"an IPL in sight after hundreds of messages", func(s *markStory) {
			s.live("700 new", markRange("a", 1, 700)...)
			s.live("700 new@1", markRange("b", 1, 700)...)
			s.replay("701 dup", slices.Concat(markRange("a", 700, 700), markRange("b", 1, 700))...)
		}},
		{"an IPL in sight, most of the system before is no longer remembered", func(s *markStory) {
			s.live("300 new", markRange("a", 1, 300)...)
			s.live("100 new@1", markRange("b", 1, 100)...)
			s.replay("301 dup", slices.Concat(markRange("a", 100, 300), markRange("b", 1, 100))...)
		}},
		{"the HMC holds more of the system before than is remembered", func(s *markStory) {
			s.live("10 new", markRange("b", 1, 10)...)
			s.blind()
			s.replay("400 new@1, 10 dup, 1 new", slices.Concat(markRange("a", 1, 400), markRange("b", 1, 11))...)
			s.blind()
			s.replay("11 new@2", markRange("c", 1, 11)...)
			s.replay("422 dup", slices.Concat(markRange("a", 1, 400), markRange("b", 1, 11), markRange("c", 1, 11))...)
		}},
		{"what List OS Messages was asked for looks like the system before", func(s *markStory) {
			s.live("20 new", markRange("boot", 1, 20)...)
			s.pass(time.Minute)
			s.live("4 new@1", append(markRange("boot", 1, 3), one(20, "boot"))...)
			s.replayOf("16 new@1", OSReplay{Messages: markRange("boot", 4, 19)})
			s.missing(0, 0, 0)
		}},
		{"numbers wrap", func(s *markStory) {
			s.live("3 new", markRange("a", math.MaxInt32-2, math.MaxInt32)...)
			s.live("3 new@1", markRange("a", 0, 2)...)
			s.replay("6 dup, 1 new@1", slices.Concat(markRange("a", math.MaxInt32-2, math.MaxInt32), markRange("a", 0, 3))...)
		}},
		{"numbers wrap out of sight", func(s *markStory) {
			s.live("3 new", markRange("a", 95, 97)...)
			s.blind()
			s.replay("3 dup, 2 new, 4 new@1", slices.Concat(markRange("a", 95, 99), markRange("a", 0, 3))...)
			s.missing(0, 0, 0)
		}},
		{"numbers at the ends of what there is", func(s *markStory) {
			s.live("1 new, 1 new@1, 1 new@2, 1 dup", one(none, "a"), one(math.MaxInt64, "a"), one(math.MaxInt64, "b"), one(math.MaxInt64, "b"))
		}},
		{"a repeated number with another text is delivered", func(s *markStory) {
			s.live("2 new, 2 new@1", one(10, "a"), one(11, "a"), one(11, "b"), one(12, "a"))
			s.replay("4 dup", one(10, "a"), one(11, "a"), one(11, "b"), one(12, "a"))
		}},
		{"every SUBSCRIBE replays everything", func(s *markStory) {
			s.replay("40 new", markRange("a", 1, 40)...)
			for range 3 {
				s.blind()
				s.replay("40 dup", markRange("a", 1, 40)...)
			}
			s.live("1 new", one(41, "a"))
		}},
		{"a replay of more than is remembered", func(s *markStory) {
			s.replay("1000 new", markRange("a", 1, 1000)...)
			s.blind()
			s.replay("1000 dup, 7 new", markRange("a", 1, 1007)...)
		}},
		{"what was written out of sight", func(s *markStory) {
			s.live("20 new", markRange("a", 1, 20)...)
			s.blind()
			s.replay("15 dup, 30 new", markRange("a", 6, 50)...)
			s.missing(0, 0, 0)
		}},
		{"more was written out of sight than the HMC holds", func(s *markStory) {
			s.live("20 new", markRange("a", 1, 20)...)
			s.blind()
			s.replay("50 new", markRange("a", 51, 100)...)
			s.missing(21, 50, 30)
			if n := s.m.settle(50); n != 30 {
				s.t.Errorf("settled %d, want 30", n)
			}
			s.missing(0, 0, 0)
		}},
		{"messages between known ones come late", func(s *markStory) {
			s.live("13 new", append(markRange("a", 1, 10), markRange("a", 15, 17)...)...)
			s.missing(11, 14, 4)
			s.blind()
			s.missing(11, 14, 4)
			s.replay("10 dup, 4 new, 3 dup, 1 new", markRange("a", 1, 18)...)
			s.missing(0, 0, 0)
		}},
		{"List OS Messages has some of what is missing", func(s *markStory) {
			s.live("10 new", markRange("a", 1, 10)...)
			if v := s.m.live(one(15, "a"), s.now); v.Missing != 4 {
				s.t.Errorf("a jump over 4 numbers tells %d", v.Missing)
			}
			s.live("1 new", one(17, "a"))
			s.missing(11, 16, 5)
			s.replayOf("2 new, 1 dup", OSReplay{Messages: []OSMessage{one(12, "a"), one(13, "a"), one(15, "a")}})
			s.missing(11, 16, 3)
			if n := s.m.settle(16); n != 3 {
				s.t.Errorf("settled %d, want 3", n)
			}
			s.replay("14 dup", append(markRange("a", 1, 10), one(12, "a"), one(13, "a"), one(15, "a"), one(17, "a"))...)
		}},
		{"what is missing is known after thousands of others", func(s *markStory) {
			s.live("10 new", markRange("a", 1, 10)...)
			s.live("5000 new", markRange("a", 15, 5014)...)
			s.replayOf("4 new", OSReplay{Messages: markRange("a", 11, 14)})
			s.replay("5014 dup", markRange("a", 1, 5014)...)
		}},
		{"an answer of List OS Messages is older than what was published since", func(s *markStory) {
			s.live("10 new", markRange("a", 1, 10)...)
			asked := s.now.Add(time.Minute)
			s.pass(time.Minute + time.Second)
			s.live("10 new", markRange("a", 11, 20)...)
			s.replayOf("10 dup", OSReplay{Messages: markRange("a", 1, 10), Asked: asked, Complete: true})
		}},
		{"an answer of List OS Messages is ahead of what is published, one was deleted meanwhile", func(s *markStory) {
			s.live("10 new", markRange("a", 1, 10)...)
			s.pass(time.Minute)
			s.replay("10 dup, 9 new", slices.DeleteFunc(markRange("a", 1, 20), func(m OSMessage) bool { return m.Number == 15 })...)
			s.live("4 dup, 1 new, 5 dup, 1 new", markRange("a", 11, 21)...)
			s.missing(0, 0, 0)
		}},
		{"an IPL out of sight, with other messages", func(s *markStory) {
			s.live("100 new", markRange("a", 1, 100)...)
			s.blind()
			s.replay("20 new@1", markRange("b", 1, 20)...)
			s.live("1 new@1", one(21, "b"))
			s.blind()
			s.replay("21 dup", markRange("b", 1, 21)...)
		}},
		{"an IPL out of sight that begins with the same messages", func(s *markStory) {
			s.live("100 new", append(markRange("boot", 1, 8), markRange("a", 9, 100)...)...)
			s.blind()
			s.replay("20 new@1", append(markRange("boot", 1, 8), markRange("b", 9, 20)...)...)
		}},
		{"an IPL out of sight, beyond the number seen last", func(s *markStory) {
			s.live("20 new", append(markRange("boot", 1, 8), markRange("a", 9, 20)...)...)
			s.blind()
			s.replay("50 new@1", append(markRange("boot", 1, 8), markRange("b", 9, 50)...)...)
		}},
		{"an IPL out of sight, with the same messages only", func(s *markStory) {
			s.live("100 new", append(markRange("boot", 1, 20), markRange("a", 21, 100)...)...)
			s.blind()
			s.replay("20 new@1", markRange("boot", 1, 20)...)
			s.blind()
			s.replay("20 dup, 3 new@1", append(markRange("boot", 1, 20), markRange("b", 21, 23)...)...)
		}},
		{"an IPL out of sight, when the first messages are long forgotten", func(s *markStory) {
			s.live("1000 new", markRange("a", 1, 1000)...)
			s.blind()
			s.replay("20 new@1", markRange("a", 1, 20)...)
		}},
		{"an IPL out of sight, the HMC still holds what was before", func(s *markStory) {
			s.live("97 new", markRange("boot", 1, 97)...)
			s.blind()
			s.replay("38 dup, 8 new, 20 new@1", slices.Concat(markRange("boot", 60, 105), markRange("boot", 1, 20))...)
			s.blind()
			s.replay("66 dup, 1 new@1", slices.Concat(markRange("boot", 60, 105), markRange("boot", 1, 21))...)
		}},
		{"two IPLs out of sight", func(s *markStory) {
			s.live("97 new", markRange("boot", 1, 97)...)
			s.blind()
			s.replay("8 new, 20 new@1, 5 new@2", slices.Concat(markRange("boot", 98, 105), markRange("boot", 1, 20), markRange("boot", 1, 5))...)
			s.live("1 new@2", one(6, "boot"))
		}},
		{"an IPL in sight, its begin out of sight, the HMC holds what was before", func(s *markStory) {
			s.live("97 new", markRange("a", 1, 97)...)
			s.live("300 new@1", markRange("b", 20, 319)...)
			s.blind()
			s.replay("8 dup, 8 new, 19 new@1, 300 dup", slices.Concat(markRange("a", 90, 105), markRange("b", 1, 319))...)
		}},
		{"an IPL out of sight, and the first live message comes before the replay", func(s *markStory) {
			s.live("100 new", append(markRange("boot", 1, 20), markRange("a", 21, 100)...)...)
			s.blind()
			asked := s.now
			s.live("1 new@1", one(22, "b"))
			s.replayOf("20 new@1", OSReplay{Messages: markRange("boot", 1, 20), Asked: asked, Complete: true})
			s.missing(21, 21, 1)
			s.live("1 new@1", one(23, "b"))
		}},
		{"an IPL out of sight that looks the same, and its newest messages come before the replay", func(s *markStory) {
			s.replay("17 new", markRange("boot", 1, 17)...)
			s.blind()
			asked := s.now
			s.live("3 new@1", markRange("boot", 16, 18)...)
			s.replayOf("15 new@1, 3 dup", OSReplay{Messages: markRange("boot", 1, 18), Asked: asked, Complete: true})
		}},
		{"an IPL out of sight, and the first live message looks like the next one", func(s *markStory) {
			s.live("5 new", markRange("a", 1, 5)...)
			s.blind()
			asked := s.now
			s.live("1 new", one(10, "b"))
			s.replayOf("9 new@1", OSReplay{Messages: markRange("b", 1, 9), Asked: asked, Complete: true})
			s.missing(0, 0, 0)
			if n := s.m.abandoned(); n != 0 {
				s.t.Errorf("%d abandoned, want 0", n)
			}
			s.live("1 new@1", one(11, "b"))
			s.blind()
			s.replay("11 dup", markRange("b", 1, 11)...)
		}},
		{"the live message that ends a replay tells that it is no IPL", func(s *markStory) {
			s.live("10 new", markRange("a", 1, 10)...)
			s.blind()
			next := one(11, "a")
			asked := s.now
			s.replayOf("5 dup", OSReplay{Messages: markRange("a", 1, 5), Next: &next, Asked: asked, Complete: true})
			s.live("1 new", next)
			s.replayOf("6 dup", OSReplay{Messages: markRange("a", 6, 11), Asked: asked, Complete: true})
		}},
		{"the live message that ends a replay tells that it is one", func(s *markStory) {
			s.live("100 new", append(markRange("boot", 1, 20), markRange("a", 21, 100)...)...)
			s.blind()
			next := one(21, "b")
			s.replayOf("20 new@1", OSReplay{Messages: markRange("boot", 1, 20), Next: &next, Complete: true})
			s.live("1 new@1", next)
		}},
		{"a replay in pieces is no IPL", func(s *markStory) {
			s.live("600 new", markRange("a", 1, 600)...)
			s.blind()
			asked := s.now
			s.replayOf("200 dup", OSReplay{Messages: markRange("a", 1, 200), Asked: asked})
			s.replayOf("200 dup", OSReplay{Messages: markRange("a", 201, 400), Asked: asked})
			s.replayOf("200 dup, 9 new", OSReplay{Messages: markRange("a", 401, 609), Asked: asked, Complete: true})
		}},
		{"a replay in pieces, an IPL shows in the last: what looked the same in the first is new in the next replay", func(s *markStory) {
			s.live("600 new", append(markRange("boot", 1, 200), markRange("a", 201, 600)...)...)
			s.blind()
			asked := s.now
			s.replayOf("200 dup", OSReplay{Messages: markRange("boot", 1, 200), Asked: asked})
			s.replayOf("250 new@1", OSReplay{Messages: markRange("b", 201, 450), Asked: asked, Complete: true})
			s.missing(0, 0, 0)
			s.replay("200 new@1, 250 dup", append(markRange("boot", 1, 200), markRange("b", 201, 450)...)...)
		}},
		{"a replay in pieces, an IPL shows in the first", func(s *markStory) {
			s.live("100 new", markRange("boot", 1, 100)...)
			s.blind()
			asked := s.now
			s.replayOf("60 new@1", OSReplay{Messages: markRange("b", 1, 60), Asked: asked})
			s.replayOf("60 new@1", OSReplay{Messages: append(markRange("b", 61, 90), markRange("boot", 91, 120)...), Asked: asked, Complete: true})
		}},
		{"a partition never seen, in pieces", func(s *markStory) {
			asked := s.now
			s.replayOf("60 new", OSReplay{Messages: markRange("a", 1, 60), Asked: asked})
			s.replayOf("60 new, 5 new@1", OSReplay{Messages: append(markRange("a", 61, 120), markRange("b", 1, 5)...), Asked: asked, Complete: true})
			s.missing(0, 0, 0)
			s.replay("125 dup", append(markRange("a", 1, 120), markRange("b", 1, 5)...)...)
			s.live("1 new@1", one(6, "b"))
		}},
		{"a replay has the same message twice", func(s *markStory) {
			s.replay("1 new, 1 dup, 1 new", one(1, "a"), one(1, "a"), one(2, "a"))
			s.replay("2 dup, 1 new, 1 dup", one(1, "a"), one(2, "a"), one(3, "a"), one(3, "a"))
		}},
		{"two replays come as one", func(s *markStory) {
			s.live("20 new", markRange("a", 1, 20)...)
			s.replay("40 dup, 1 new", slices.Concat(markRange("a", 1, 20), markRange("a", 1, 21))...)
		}},
		{"deleted in the middle", func(s *markStory) {
			s.live("20 new", markRange("a", 1, 20)...)
			s.blind()
			s.replay("15 dup, 2 new", slices.DeleteFunc(markRange("a", 1, 22), func(m OSMessage) bool { return m.Number%4 == 0 })...)
			s.missing(0, 0, 0)
		}},
		{"the newest deleted out of sight, with times", func(s *markStory) {
			s.live("20 new", markRangeAt("a", 1, 20, 5000)...)
			s.blind()
			s.replay("15 dup", markRangeAt("a", 1, 15, 5000)...)
		}},
		{"the newest deleted out of sight, without times: looks like an IPL, once", func(s *markStory) {
			s.live("20 new", markRange("a", 1, 20)...)
			s.blind()
			s.replay("15 new@1", markRange("a", 1, 15)...)
			s.blind()
			s.replay("15 dup", markRange("a", 1, 15)...)
		}},
		{"the newest deleted out of sight, more written since", func(s *markStory) {
			s.live("20 new", markRange("a", 1, 20)...)
			s.blind()
			s.replay("15 dup, 1 new", append(markRange("a", 1, 15), one(21, "a"))...)
		}},
		{"only old messages with times are left", func(s *markStory) {
			s.live("600 new", markRangeAt("a", 1, 600, 5000)...)
			s.blind()
			s.replay("2 dup", markRangeAt("a", 3, 4, 5000)...)
		}},
		{"the same number and text at another time is another message", func(s *markStory) {
			s.live("3 new", markRangeAt("a", 1, 3, 5000)...)
			s.blind()
			s.replay("1 new@1, 2 dup", append(markRangeAt("a", 1, 1, 9000), markRangeAt("a", 2, 3, 5000)...)...)
		}},
		{"numbers go on rising where what is left of the system before ended", func(s *markStory) {
			s.live("3 new", markRange("a", 1, 3)...)
			s.live("9 new@1", markRange("b", 1, 9)...)
			s.blind()
			s.replay("9 dup", append(markRange("a", 1, 1), markRange("b", 2, 9)...)...)
		}},
		{"some messages have times only in the replay", func(s *markStory) {
			s.live("20 new", markRange("a", 1, 20)...)
			s.replay("20 dup, 1 new", markRangeAt("a", 1, 21, 5000)...)
		}},
		{"a text that has changed does not make an IPL if a later one has not", func(s *markStory) {
			s.live("20 new", markRange("a", 1, 20)...)
			s.blind()
			s.replay("9 dup, 1 new, 10 dup", slices.Concat(markRange("a", 1, 9), markRange("b", 10, 10), markRange("a", 11, 20))...)
			s.blind()
			s.replay("20 dup", slices.Concat(markRange("a", 1, 9), markRange("b", 10, 10), markRange("a", 11, 20))...)
		}},
		{"too many gaps", func(s *markStory) {
			for seq := int64(0); seq <= 2*(maxGaps+3); seq += 2 {
				s.live("1 new", one(seq, "a"))
			}
			s.missing(7, 2*(maxGaps+3)-1, maxGaps)
			if n := s.m.abandoned(); n != 3 {
				s.t.Errorf("%d abandoned, want 3", n)
			}
		}},
		{"what is missing before an IPL is given up", func(s *markStory) {
			s.live("2 new, 1 new@1", one(1, "a"), one(5, "a"), one(0, "a"))
			s.missing(0, 0, 0)
			if n := s.m.abandoned(); n != 3 {
				s.t.Errorf("%d abandoned, want 3", n)
			}
			if n := s.m.abandoned(); n != 0 {
				s.t.Errorf("%d abandoned twice", n)
			}
		}},
		{"a failed commit: live messages", func(s *markStory) {
			s.live("17 new", markRange("a", 1, 17)...)
			s.m.commit()
			s.live("3 new", markRange("a", 18, 20)...)
			s.commitFails()
			s.live("1 new", one(21, "a"))
			s.missing(18, 20, 3)
			s.replay("17 dup, 3 new, 1 dup", markRange("a", 1, 21)...)
			s.missing(0, 0, 0)
		}},
		{"a failed commit, and an IPL in sight", func(s *markStory) {
			s.live("15 new", markRange("a", 1, 15)...)
			s.m.commit()
			s.live("5 new", markRange("a", 16, 20)...)
			s.commitFails()
			s.pass(time.Minute)
			s.live("20 new@1", markRange("b", 1, 20)...)
			s.replay("15 dup, 5 new, 20 dup", slices.Concat(markRange("a", 1, 20), markRange("b", 1, 20))...)
		}},
		{"a failed commit: everything", func(s *markStory) {
			s.replay("20 new", markRange("a", 1, 20)...)
			s.commitFails()
			if !s.m.Empty(markPartition) {
				s.t.Error("not empty")
			}
			s.blind()
			s.replay("20 new", markRange("a", 1, 20)...)
		}},
		{"a failed commit: everything of the new sequence", func(s *markStory) {
			s.live("20 new", markRange("a", 1, 20)...)
			s.blind()
			s.replay("9 new@1", markRange("b", 1, 9)...)
			s.commitFails()
			s.blind()
			s.replay("10 new@1", markRange("b", 1, 10)...)
		}},
		{"a failed commit: more than is remembered", func(s *markStory) {
			s.live("10 new", markRange("a", 1, 10)...)
			s.m.commit()
			s.live("3000 new", markRange("a", 11, 3010)...)
			s.commitFails()
			s.replay("10 dup, 3000 new", markRange("a", 1, 3010)...)
		}},
		{"the HMC holds far more than is remembered, of two systems", func(s *markStory) {
			s.live("1500 new", markRange("a", 1, 1500)...)
			s.live("1500 new@1", markRange("b", 1, 1500)...)
			for range 2 {
				s.blind()
				s.replay("3000 dup", append(markRange("a", 1, 1500), markRange("b", 1, 1500)...)...)
			}
			s.replay("3000 dup, 5 new@1", append(markRange("a", 1, 1500), markRange("b", 1, 1505)...)...)
			s.replay("3005 dup", append(markRange("a", 1, 1500), markRange("b", 1, 1505)...)...)
		}},
		{"a failed commit: numbers that began anew went on where the stored ones end", func(s *markStory) {
			s.live("1 new", one(0, "a"))
			s.m.commit()
			s.live("20 new", markRange("a", 1, 20)...)
			s.live("2 new@1", markRange("b", 0, 1)...)
			s.commitFails()
			s.live("2 new", markRange("b", 2, 3)...)
			s.m.commit()
			held := slices.Concat(markRange("a", 0, 20), markRange("c", 0, 6), markRange("b", 0, 3))
			s.pass(time.Second)
			s.replay("1 dup, 20 new, 7 new@2, 2 new@1, 2 dup", held...)
			for range 2 {
				s.blind()
				s.replay("32 dup", held...)
			}
			s.live("1 new@1", one(4, "b"))
			s.missing(0, 0, 0)
		}},
		{"a failed commit: what a list has that proves nothing by its end", func(s *markStory) {
			s.live("6 new", markRange("a", 11, 16)...)
			s.restart()
			held := slices.Concat(markRange("a", 11, 19), markRange("b", 0, 1))
			s.replayOf("6 dup, 3 new, 2 new@1", OSReplay{Messages: held})
			s.live("2 new@1", markRange("b", 2, 3)...)
			s.replay("13 dup", append(held, markRange("b", 2, 3)...)...)
		}},
		{"a failed commit, before what a list had comes live", func(s *markStory) {
			s.live("20 new", markRange("a", 1, 20)...)
			s.replay("20 dup, 3 new", markRange("a", 1, 23)...)
			s.m.commit()
			s.commitFails()
			s.pass(30 * time.Second)
			s.live("3 dup, 1 new", markRange("a", 21, 24)...)
			s.pass(30 * time.Second)
			s.live("1 new@1", one(21, "a"))
		}},
		{"an empty replay tells nothing", func(s *markStory) {
			s.live("3 new", markRange("a", 1, 3)...)
			s.replay("")
			s.replay("3 dup", markRange("a", 1, 3)...)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.play(&markStory{t: t, m: newMarkBook(), now: markClock})
		})
	}
}

// markSeed returns what a test begins its random numbers with: another one each time, or that of
// the environment.
func markSeed(t *testing.T) uint64 {
	t.Helper()
	seed, err := strconv.ParseUint(os.Getenv("HMCNOTIFYD_TEST_SEED"), 10, 64)
	if err != nil {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("HMCNOTIFYD_TEST_SEED=%d", seed)
	return seed
}

// realMessage is a message of the simulated partition: two of them are never the same, however they
// look.
type realMessage struct {
	msg   OSMessage
	life  int
	ids   []string // as it was delivered
	taken bool     // for another one
}

// markModel is an HMC with one partition, and the daemon's recorder of it. It is told by a seed
// what happens.
type markModel struct {
	t    *testing.T
	rng  *rand.Rand
	log  []string
	now  time.Time
	real []*realMessage

	// The HMC.
	held          []*realMessage
	holds         int   // messages at most
	most          int   // that are written at once
	piece         int   // messages of a replay that are judged at once
	begin, wrap   int64 // the numbers
	next          int64
	times         bool // the operating system gives them
	keeps         bool // what the system before an IPL wrote
	everyRefresh  bool // at each SUBSCRIBE, else only at the first
	deletesNewest bool // people do
	boot          int  // how many messages are the same at each IPL
	hosts         bool // it has several, each with other numbers
	many          bool // it holds more than is remembered, and its numbers never begin anew
	offset        int64
	life          int // IPLs and wraps
	written       int // since the IPL

	// The daemon.
	fails       bool // commits do now and then
	connected   bool
	subscribed  bool // once
	mark        *markBook
	uncommitted []*realMessage

	// What came of it.
	ids      map[string]*realMessage
	looks    map[OSMessage]bool // delivered
	alike    int                // taken for others that look the same
	repeated int                // delivered once more
	wrong    int                // lost, or with the id of another one
}

func newMarkModel(t *testing.T, seed uint64, many bool) *markModel {
	rng := rand.New(rand.NewPCG(seed, 1))
	m := &markModel{
		t: t, rng: rng, now: markClock, mark: newMarkBook(),
		ids: make(map[string]*realMessage), looks: make(map[OSMessage]bool), many: many,
		holds: 20 + rng.IntN(500), begin: rng.Int64N(2), wrap: math.MaxInt64, times: rng.IntN(3) == 0, keeps: rng.IntN(2) == 0,
		everyRefresh: rng.IntN(3) > 0, deletesNewest: rng.IntN(2) == 0, boot: rng.IntN(60), fails: rng.IntN(2) == 0,
		most: 120, piece: 600,
	}
	if rng.IntN(3) == 0 {
		m.wrap = 500 + rng.Int64N(1000)
	}
	if many {
		m.holds, m.most, m.piece = 1000+rng.IntN(5000), 700, 200+rng.IntN(4000)
		m.wrap, m.keeps, m.deletesNewest, m.boot = math.MaxInt64, false, false, 0
	}
	m.next = m.begin
	return m
}

// exact says whether what the HMC does leaves nothing open: it does not hold the messages of
// several systems of which commits failed, or that begin alike.
func (m *markModel) exact() bool {
	if m.fails {
		return !m.keeps && m.wrap == math.MaxInt64
	}
	return !m.keeps || m.times || m.boot == 0
}

func (m *markModel) note(format string, args ...any) {
	m.log = append(m.log, m.now.Format("15:04:05 ")+fmt.Sprintf(format, args...))
}

func (m *markModel) fail(format string, args ...any) {
	m.t.Helper()
	m.t.Fatalf("%s\n%s\n%s", fmt.Sprintf(format, args...), m.log[0], strings.Join(m.log[max(0, len(m.log)-40):], "\n"))
}

// write lets the operating system write one message.
func (m *markModel) write() *realMessage {
	text := fmt.Sprintf("message %d", len(m.real))
	if m.written < m.boot {
		text = "boot"
	}
	m.written++
	msg := markMessage(m.next, text, -1)
	if m.times {
		msg.Time = m.now.UnixMilli() + int64(len(m.real))
	}
	if m.next++; m.next > m.wrap {
		m.next = m.begin
		m.life++
		m.written = m.boot + 1 // it goes on as it was
	}
	r := &realMessage{msg: msg, life: m.life}
	m.real = append(m.real, r)
	m.held = append(m.held, r)
	if len(m.held) > m.holds {
		m.held = m.held[1:]
	}
	return r
}

func (m *markModel) ipl() {
	m.note("IPL")
	m.life++
	m.written, m.next = 0, m.begin
	if !m.keeps {
		m.held = nil
	}
}

// judged is what the recorder does with a verdict.
func (m *markModel) judged(r *realMessage, v OSVerdict, how string) {
	if v.Duplicate {
		if len(r.ids) > 0 || r.taken {
			return
		}
		// It was never delivered. At most it may look like one that was, and not if it was
		// published while all was quiet.
		r.taken = true
		if !m.times && how != "live" && m.looks[m.look(r)] {
			m.alike++
			return
		}
		m.wrong++
		if m.exact() || how == "live" {
			m.fail("%s: message %d of life %d was never delivered and is taken for a duplicate", how, r.msg.Number, r.life)
		}
		return
	}
	id := fmt.Sprintf("%d %x %d", m.as(r).Number, r.msg.Text, v.Epoch)
	if other := m.ids[id]; other != nil && other != r {
		m.wrong++
		if m.exact() {
			m.fail("%s: message %d of life %d has the id of the one of life %d", how, r.msg.Number, r.life, other.life)
		}
	}
	if len(r.ids) > 0 {
		m.repeated++
		m.note("%s: message %d of life %d once more, %s after %v", how, r.msg.Number, r.life, id, r.ids)
		if !m.keeps && !m.deletesNewest && !m.fails && (m.times || m.boot == 0) {
			m.fail("a message is delivered once more")
		}
	}
	m.ids[id] = r
	r.ids = append(r.ids, id)
	m.uncommitted = append(m.uncommitted, r)
}

// host is the one that there is a link to.
func (m *markModel) host() string { return fmt.Sprint(m.offset) }

// as returns a message as that host has it.
func (m *markModel) as(r *realMessage) OSMessage {
	msg := r.msg
	msg.Number += m.offset
	return msg
}

// look returns what two messages have in common that may be taken for each other.
func (m *markModel) look(r *realMessage) OSMessage {
	if m.hosts {
		return OSMessage{Text: r.msg.Text}
	}
	return OSMessage{Number: r.msg.Number, Text: r.msg.Text}
}

func (m *markModel) live(r *realMessage, how string) {
	v := m.mark.Live(markPartition, m.host(), m.as(r), m.now)
	m.judged(r, v, how)
	if !v.Duplicate {
		m.looks[m.look(r)] = true
	}
}

func (m *markModel) replay(held []*realMessage, r OSReplay, how string) {
	for _, h := range held {
		r.Messages = append(r.Messages, m.as(h))
	}
	r.Host, r.Now = m.host(), m.now
	m.note("%s of %d%s, known %d to %d@%d", how, len(held), edges(held), m.mark.known().lowest, m.mark.known().highest, m.mark.known().epoch)
	vs := m.mark.replay(r)
	for i, h := range held {
		if !vs[i].Duplicate {
			m.looks[m.look(h)] = true
		}
	}
	for i, h := range held {
		m.judged(h, vs[i], how)
	}
}

func edges(held []*realMessage) string {
	if len(held) == 0 {
		return ""
	}
	return fmt.Sprintf(" (%d..%d)", held[0].msg.Number, held[len(held)-1].msg.Number)
}

// commit stores what was judged, or fails to.
func (m *markModel) commit() {
	if m.fails && m.rng.IntN(12) == 0 && len(m.uncommitted) > 0 {
		m.note("commit of %d fails", len(m.uncommitted))
		for _, r := range m.uncommitted {
			delete(m.ids, r.ids[len(r.ids)-1])
			r.ids = r.ids[:len(r.ids)-1]
		}
		m.mark.load()
		m.uncommitted = nil
		return
	}
	for _, kv := range m.mark.commit() {
		if len(kv.Value) > 1024 {
			m.fail("a slot of %d bytes", len(kv.Value))
		}
	}
	m.uncommitted = nil
}

// write some messages, with or without a link.
func (m *markModel) writeSome(n int) {
	m.note("%d messages from %d on, connected %v", n, m.next, m.connected)
	lost := m.connected && m.written > 0 && m.rng.IntN(10) == 0 // the hand-over buffer overflows
	for i := range n {
		r := m.write()
		if m.connected && (!lost || i == n-1) {
			m.live(r, "live")
		}
	}
	if m.connected {
		m.commit()
	}
}

// deleteSome lets the operating system or an operator delete messages.
func (m *markModel) deleteSome() {
	if len(m.held) == 0 {
		return
	}
	if m.deletesNewest && m.rng.IntN(4) == 0 {
		n := min(1+m.rng.IntN(3), len(m.held))
		m.note("the %d newest are deleted", n)
		m.held = m.held[:len(m.held)-n]
		return
	}
	for range 1 + m.rng.IntN(5) {
		if len(m.held) < 2 {
			return
		}
		i := m.rng.IntN(len(m.held) - 1)
		m.note("%d is deleted", m.held[i].msg.Number)
		m.held = slices.Delete(slices.Clone(m.held), i, i+1)
	}
}

// connect subscribes, and lets the HMC replay, or asks it.
func (m *markModel) connect() {
	m.connected = true
	if m.hosts && m.rng.IntN(3) == 0 {
		m.offset = []int64{0, 40, 1_000_000}[m.rng.IntN(3)]
		m.subscribed = false // in another session
	}
	asked := m.now
	refresh := m.everyRefresh || !m.subscribed
	m.subscribed = true
	m.note("SUBSCRIBE")
	if m.rng.IntN(4) == 0 { // written before the HMC has seen to the replay
		for range 1 + m.rng.IntN(4) {
			m.live(m.write(), "live")
		}
	}
	snapshot := slices.Clone(m.held)
	var late []*realMessage // published after the snapshot
	if m.rng.IntN(2) == 0 {
		loads := m.keeps && !m.hosts && m.rng.IntN(2) == 0
		for range 1 + m.rng.IntN(5) {
			late = append(late, m.write())
			if loads && m.rng.IntN(3) == 0 {
				m.ipl()
				loads = false
			}
		}
	}
	m.now = m.now.Add(time.Duration(1+m.rng.IntN(5)) * time.Second)
	if refresh && m.rng.IntN(3) == 0 && len(late) > 0 {
		// Replayed, and published as well.
		snapshot = append(snapshot, late[:1+m.rng.IntN(len(late))]...)
	}
	if !refresh {
		for _, r := range late { // the link is faster than the request
			m.live(r, "late")
		}
		late = nil
	}
	r := OSReplay{Asked: asked, Complete: true}
	for refresh && len(snapshot) > m.piece {
		m.replay(snapshot[:m.piece], OSReplay{Asked: asked}, "piece")
		snapshot = snapshot[m.piece:]
	}
	if len(late) > 0 && m.rng.IntN(2) == 0 {
		next := m.as(late[0])
		r.Next = &next
	}
	m.replay(snapshot, r, "replay")
	for _, r := range late {
		m.live(r, "late")
	}
	m.commit()
}

// ask asks the HMC for what is missing.
func (m *markModel) ask() {
	from, to, n := m.mark.missing()
	if n == 0 || !m.connected {
		return
	}
	asked := m.now
	var answer []*realMessage
	for _, r := range m.held {
		if number := m.as(r).Number; number >= from && number <= to {
			answer = append(answer, r)
		}
	}
	var late []*realMessage
	if m.rng.IntN(3) == 0 {
		for range 1 + m.rng.IntN(5) {
			late = append(late, m.write())
		}
	}
	if m.rng.IntN(2) == 0 {
		for _, r := range late {
			m.live(r, "late")
		}
		late = nil
	}
	m.replay(answer, OSReplay{Asked: asked}, "answer")
	m.mark.settle(to)
	for _, r := range late {
		m.live(r, "late")
	}
	m.commit()
}

func (m *markModel) step() {
	m.now = m.now.Add(time.Duration(61+m.rng.IntN(300)) * time.Second)
	switch n := m.rng.IntN(100); {
	case n < 40:
		m.writeSome(1 + m.rng.IntN(1+m.rng.IntN(m.most)))
	case n < 50:
		m.deleteSome()
	case n < 56 && !m.many:
		m.ipl()
	case n < 66:
		m.ask()
	case n < 75 && m.connected:
		m.note("the link is lost")
		m.connected = false
	case n < 80:
		m.note("the daemon is started again")
		m.connected = false
		m.mark = m.mark.restart(m.t, m.now)
	case !m.connected:
		m.connect()
	}
}

// TestPartitionMarkModel checks that no message is lost that the HMC published or still held, that
// none is delivered twice, and that no two have the same id. Where an HMC leaves it open, the same
// is bounded instead: nothing alike that was published while all was quiet is ever lost, and of the
// rest hardly anything.
func TestPartitionMarkModel(t *testing.T) { playMarkModel(t, false, false) }

// TestPartitionMarkModelOfMany checks the same of an HMC that holds more than is remembered, and replays it in pieces.
func TestPartitionMarkModelOfMany(t *testing.T) { playMarkModel(t, false, true) }

// TestPartitionMarkModelOfHosts checks the same of an HMC with hosts that number the messages
// differently.
func TestPartitionMarkModelOfHosts(t *testing.T) { playMarkModel(t, true, false) }

func playMarkModel(t *testing.T, hosts, many bool) {
	t.Helper()
	seed := markSeed(t)
	runs := soak.Count(t, "MARKS", 60, 3000)
	if many { // each has many times as many messages
		runs /= 3
	}
	var messages, alike, repeated, wrong int
	for i := range runs {
		seed := seed + uint64(i)
		if i == 0 && !hosts && !many {
			seed = 2002 // a replay in which one sequence was taken for an earlier one: two had one epoch
		}
		m := newMarkModel(t, seed, many)
		m.hosts = hosts
		m.note("seed %d: %+v", seed, []any{m.holds, m.wrap, m.times, m.keeps, m.everyRefresh, m.deletesNewest, m.boot, m.fails})
		for range 120 {
			m.step()
		}
		messages += len(m.real)
		alike += m.alike
		repeated += m.repeated
		wrong += m.wrong
	}
	t.Logf("%d messages, %d taken for others that look the same, %d delivered once more, %d lost or with the id of another", messages, alike, repeated, wrong)
	if repeated > messages/10 {
		t.Errorf("%d of %d messages were delivered once more", repeated, messages)
	}
	if wrong > messages/100 {
		t.Errorf("%d of %d messages were lost or have the id of another one", wrong, messages)
	}
}

// TestPartitionMarkState checks that what is stored bit by bit is what is known.
func TestPartitionMarkState(t *testing.T) {
	seed := markSeed(t)
	rng := rand.New(rand.NewPCG(seed, 2))
	m := newMarkBook()
	now, next := markClock, int64(0)
	for step := range 2000 {
		now = now.Add(time.Duration(rng.IntN(100)) * time.Second)
		switch rng.IntN(20) {
		case 0:
			next = 0
		case 1:
			next += 1 + rng.Int64N(1_000_000)
		case 2:
			_, to, _ := m.missing()
			m.settle(to)
		case 3:
			m.replay(OSReplay{
				Host: fmt.Sprint(rng.IntN(10) / 9), Messages: markRange("replayed", next, next+rng.Int64N(80)), Asked: now, Now: now, Complete: true,
			})
		}
		at := int64(-1)
		if rng.IntN(2) == 0 {
			at = now.UnixMilli()
		}
		msg := markMessage(next, fmt.Sprint("message ", rng.IntN(3)), at)
		next++
		v := m.Live(markPartition, fmt.Sprint(rng.IntN(100)/99), msg, now)
		if rng.IntN(10) == 0 {
			m.load() // the commit fails
			continue
		}
		state := m.commit()
		if !v.Duplicate && len(state) == 0 {
			t.Fatalf("step %d: nothing to store", step)
		}
		if len(m.Changes(nil)) != 0 {
			t.Fatalf("step %d: something is left to store", step)
		}
		m.abandoned()
		want, wanted := markText(m)
		if got, loaded := markText(m.restart(t, now)); got != want || !slices.Equal(loaded, wanted) {
			t.Fatalf("step %d: loaded\n%s\n%+v\nwant\n%s\n%+v", step, got, loaded, want, wanted)
		}
	}
}

// markText returns what is known of a partition, but for what is forgotten when the daemon is
// started again.
func markText(m *markBook) (string, []osEntry) {
	p := *m.known()
	entries := slices.Clone(p.entries)
	for i := range entries {
		entries[i].received = 0
	}
	p.book, p.entries, p.limit, p.published, p.began, p.highestAt, p.recalled = nil, nil, 0, 0, 0, 0, false
	return fmt.Sprintf("%+v", p), entries
}

// TestPartitionMarkDamaged checks that damaged or missing state loses nothing that was not seen.
func TestPartitionMarkDamaged(t *testing.T) {
	seed := markSeed(t)
	rng := rand.New(rand.NewPCG(seed, 3))
	for range 500 {
		seen := int64(1 + rng.IntN(600))
		m := newMarkBook()
		for _, msg := range markRange("a", 1, seen) {
			m.live(msg, markClock)
			m.commit()
		}
		keys := slices.Sorted(maps.Keys(m.store))
		broken := 0
		for _, i := range rng.Perm(len(keys))[:1+rng.IntN(len(keys))] {
			value := m.store[keys[i]]
			switch rng.IntN(3) {
			case 0:
				delete(m.store, keys[i])
				continue
			case 1:
				m.store[keys[i]] = value[:rng.IntN(len(value))]
			default:
				value = slices.Clone(value)
				value[rng.IntN(len(value))] ^= byte(1 + rng.IntN(255))
				m.store[keys[i]] = value
			}
			broken++
		}
		if damaged := m.load(); damaged != broken {
			t.Fatalf("%d values are told to be damaged, want %d", damaged, broken)
		}
		later := markClock.Add(time.Hour)
		vs := m.replay(OSReplay{Messages: markRange("a", 1, seen+50), Asked: later, Now: later, Complete: true})
		for i, v := range vs[seen:] {
			if v.Duplicate {
				t.Fatalf("message %d was never seen, %d were", seen+int64(i)+1, seen)
			}
		}
		m.commit()
		m.load()
		for i, v := range m.replay(OSReplay{Messages: markRange("a", seen+1, seen+50), Asked: later, Now: later, Complete: true}) {
			if !v.Duplicate {
				t.Fatalf("message %d is not known after it was stored", seen+int64(i)+1)
			}
		}
	}
}

// TestPartitionMarkWithoutHead checks a state whose newest value is lost.
func TestPartitionMarkWithoutHead(t *testing.T) {
	m := newMarkBook()
	for _, msg := range slices.Concat(markRange("a", 1, 50), markRange("b", 1, 60)) {
		m.live(msg, markClock)
		m.commit()
	}
	delete(m.store, "os/hmc\x00"+markPartition+"#3")
	m = m.restart(t, markClock.Add(time.Hour))
	if p := m.known(); p.highest != 46 || p.epoch != 1 {
		t.Fatalf("last is %d of epoch %d; want 46 of 1", p.highest, p.epoch)
	}
	s := &markStory{t: t, m: m, now: markClock.Add(time.Hour)}
	s.replay("96 dup, 14 new@1", slices.Concat(markRange("a", 1, 50), markRange("b", 1, 60))...)
	s.live("1 new@1, 1 new@2", markMessage(61, "b", -1), markMessage(1, "c", -1))
}

// TestPartitionMarkWithHole checks a state of which a value in the middle is lost: it was seen.
func TestPartitionMarkWithHole(t *testing.T) {
	m := newMarkBook()
	for _, msg := range markRange("a", 1, 200) {
		m.live(msg, markClock)
	}
	m.commit()
	delete(m.store, "os/hmc\x00"+markPartition+"#2")
	s := &markStory{t: t, m: m.restart(t, markClock.Add(time.Hour)), now: markClock.Add(time.Hour)}
	s.replay("200 dup, 1 new", markRange("a", 1, 201)...)
	s.restart()
	s.replay("201 dup, 1 new", markRange("a", 1, 202)...)
}

func TestPartitionMarksOfManyPartitions(t *testing.T) {
	m := newMarkBook()
	for i := range int64(40) {
		for _, msg := range markRange("a", 1, 100*i+1) {
			m.Live(fmt.Sprintf("/api/partitions/%d", i), "", msg, markClock)
		}
	}
	m.commit()
	m.store["os/hmc2\x00/api/partitions/1#0"] = m.store["os/hmc\x00/api/partitions/1#0"]
	m.store["os/hmc\x00none"] = []byte("x")
	m = &markBook{OSMessages: NewOSMessages("hmc"), store: m.store}
	if damaged := m.load(); len(m.partitions) != 40 || damaged != 1 {
		t.Fatalf("%d partitions, %d damaged; want 40 and 1", len(m.partitions), damaged)
	}
	for i := range int64(40) {
		if p := m.partition(fmt.Sprintf("/api/partitions/%d", i)); p.highest != 100*i+1 || len(p.entries) > leastEntries {
			t.Errorf("partition %d: last is %d of %d", i, p.highest, len(p.entries))
		}
	}
	m.Forget("/api/partitions/39")
	m.commit()
	for key := range m.store {
		if strings.HasPrefix(key, "os/hmc\x00/api/partitions/39") {
			t.Errorf("%q is left", key)
		}
	}
}

// A number that jumps so far that no HMC can have held what is between has begun anew: nothing is
// missing.
func TestJumpThatNoHMCCouldFill(t *testing.T) {
	for _, far := range []int64{20_000_000, 1_000_000_000, 5_000_000_000, math.MaxInt64, -5_000_000_000, math.MinInt64, -1} {
		s := &markStory{t: t, m: newMarkBook(), now: markClock}
		s.live("7 new", markRange("a", 1, 7)...)
		if v := s.m.live(markMessage(far, "b", -1), s.now); v != (OSVerdict{Epoch: 1}) {
			t.Errorf("7 to %d: %+v", far, v)
		}
		s.missing(0, 0, 0)
		s.pass(time.Minute)
		if v := s.m.live(markMessage(8, "a", -1), s.now); v.Duplicate || v.Missing > 8 {
			t.Errorf("%d to 8: %+v", far, v)
		}
		s.blind()
		s.replay("9 dup", slices.Concat(markRange("a", 1, 7), []OSMessage{markMessage(far, "b", -1), markMessage(8, "a", -1)})...)
		if far != -1 {
			s.missing(0, 0, 0)
			s.replay("8 dup, 2 new@2", markRange("a", 1, 10)...)
			s.missing(0, 0, 0)
		}
		if n := s.m.abandoned(); n != 0 {
			t.Errorf("%d abandoned", n)
		}
	}
	for _, far := range []int64{20_000_000, 1_000_000_000, 5_000_000_000} {
		s := &markStory{t: t, m: newMarkBook(), now: markClock}
		s.live("7 new", markRange("a", 1, 7)...)
		s.blind()
		s.replay("7 dup, 2 new@1", append(markRange("a", 1, 7), markRange("b", far, far+1)...)...)
		s.missing(0, 0, 0)
	}
}

// Another host of the HMC may have other numbers for the same messages: what it holds is not
// delivered twice.
func TestOtherHostHasOtherNumbers(t *testing.T) {
	for _, by := range []int64{0, 1, 40, -20, 1_000_000} {
		for _, at := range []int64{-1, 7000} {
			texts := func(from, to, by int64) (out []OSMessage) {
				for i := from; i <= to; i++ {
					msg := markMessage(i+by, fmt.Sprint("text ", i), -1)
					if at > 0 {
						msg.Time = at + i
					}
					if i%5 == 0 { // a text that comes again and again
						msg = markMessage(i+by, "login:", msg.Time)
					}
					out = append(out, msg)
				}
				return out
			}
			s := &markStory{t: t, m: newMarkBook(), now: markClock}
			from := func(host string, r OSReplay) OSReplay {
				r.Host, r.Complete = host, true
				return r
			}
			name := fmt.Sprintf("%d %d: ", by, at)
			s.replayOf("41 new", from("one", OSReplay{Messages: texts(1, 41, 0)}))
			s.blind()
			s.replayOf("41 dup, 3 new@1", from("two", OSReplay{Messages: texts(1, 44, by)}))
			s.missing(0, 0, 0)
			s.blind()
			s.replayOf("44 dup", from("two", OSReplay{Messages: texts(1, 44, by)}))
			if v := s.m.Live(markPartition, "two", texts(45, 45, by)[0], s.now); v != (OSVerdict{Epoch: 1}) {
				t.Errorf("%slive: %+v", name, v)
			}
			s.blind()
			// Back again, and the first live message is faster than the replay.
			asked := s.now
			if v := s.m.Live(markPartition, "one", texts(47, 47, 0)[0], s.now); v.Duplicate || v.Missing != 0 {
				t.Errorf("%slive: %+v", name, v)
			}
			s.replayOf("40 dup, 1 new@2, 1 dup", from("one", OSReplay{Messages: texts(6, 47, 0), Asked: asked}))
			s.missing(0, 0, 0)
			s.blind()
			s.replayOf("42 dup, 1 new@2", from("one", OSReplay{Messages: texts(6, 48, 0)}))
			if n := s.m.abandoned(); n != 0 {
				t.Errorf("%s%d abandoned", name, n)
			}
			if t.Failed() {
				t.Fatal(name)
			}
		}
	}
}

// What an HMC held before a partition was followed, which nobody wanted, stays left out on another host that has other
// numbers, and on the way back, and what is new on either is not.
func TestOtherHostAndWhatWasThereBefore(t *testing.T) {
	for _, by := range []int64{0, 1, 40, -20, 1_000_000} {
		for _, quiet := range []bool{false, true} {
			for _, stored := range []bool{false, true} {
				name := fmt.Sprintf("by %d, quiet %v, restarted %v: ", by, quiet, stored)
				m := newMarkBook()
				list := func(host string, from, to int64) (out []OSMessage) {
					offset := int64(0)
					if host == "two" {
						offset = by
					}
					for i := from; i <= to; i++ {
						out = append(out, markMessage(i+offset, fmt.Sprint("text ", i), -1))
					}
					return out
				}
				now := markClock
				fetched := func(host, want string, from, to int64) {
					t.Helper()
					if stored {
						m.commit()
						m = m.restart(t, markClock.Add(time.Hour))
					}
					now = now.Add(time.Hour)
					all := list(host, from, to)
					before := m.BeforeStart(markPartition, host, all)
					vs := m.Replay(markPartition, OSReplay{Host: host, Messages: all[before:], Asked: now, Now: now, Complete: true})
					for i := range vs {
						vs[i].Epoch = 0
					}
					if got := fmt.Sprint(before, " before, ", verdicts(vs)); got != want {
						t.Errorf("%s%s from %d to %d: %s, want %s", name, host, from, to, got, want)
					}
				}
				last := int64(20)
				if quiet {
					m.StartBehind(markPartition, "one", list("one", 1, 20))
				} else { // one came while the HMC was asked
					m.Live(markPartition, "one", list("one", 21, 21)[0], now)
					m.StartBehind(markPartition, "one", list("one", 1, 21))
					fetched("one", "20 before, 1 dup, 1 new", 1, 22)
					last = 22
				}
				known := last - 20
				dup := func(n int64) string {
					if n == 0 {
						return ""
					}
					return fmt.Sprint(n, " dup, ")
				}
				fetched("two", fmt.Sprint("20 before, ", dup(known), "3 new"), 1, last+3)
				fetched("two", fmt.Sprint("20 before, ", dup(known+3), "1 new"), 1, last+4)
				fetched("two", fmt.Sprint("15 before, ", dup(known+4), "1 new"), 6, last+5)
				fetched("one", fmt.Sprint("10 before, ", dup(known+5), "2 new"), 11, last+7)
				fetched("one", fmt.Sprint("0 before, ", dup(known+7), "1 new"), 21, last+8)
			}
		}
	}
}

// What the version before has stored is known, and goes on.
func TestStateOfVersion1(t *testing.T) {
	data, err := os.ReadFile("testdata/osmessages1.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, again := range []bool{false, true} {
		m := newMarkBook()
		if err := json.Unmarshal(data, &m.store); err != nil {
			t.Fatal(err)
		}
		if damaged := m.load(); damaged != 0 {
			t.Fatalf("%d damaged", damaged)
		}
		if again { // stored anew
			m.commit()
			m = m.restart(t, markClock.Add(time.Hour))
		}
		later := markClock.Add(24 * time.Hour)
		replay := func(partition, want string, messages ...OSMessage) {
			t.Helper()
			vs := m.Replay(partition, OSReplay{Messages: messages, Asked: later, Now: later, Complete: true})
			if got := verdicts(vs); got != want {
				t.Errorf("%s: got %q, want %q", partition, got, want)
			}
		}
		if from, to, n := m.Missing("two systems"); from != 50 || to != 53 || n != 4 {
			t.Errorf("%d missing, %d to %d", n, from, to)
		}
		replay("two systems", "250 dup, 4 new@1, 47 dup, 1 new@1", append(markRange("a", 100, 300), markRange("b", 1, 101)...)...)
		replay("times", "20 dup, 1 new", markRangeAt("a", 1, 21, 5000)...)
		if _, _, n := m.Missing("jump"); n != 0 {
			t.Errorf("%d missing after a jump", n)
		}
		replay("jump", "8 dup", append(markRange("a", 1, 7), markMessage(math.MaxInt64, "a", -1))...)
		replay("taken back", "10 dup, 10 new, 20 dup, 1 new", markRange("a", 1, 41)...)
		if !m.Empty("nothing") || m.Known("nothing") {
			t.Error("what was taken back is known")
		}
		if !m.Empty("quiet") || !m.Known("quiet") {
			t.Error("the start is not known")
		}
		if n := m.BeforeStart("quiet", "", markRange("a", 10, 20)); n != 7 {
			t.Errorf("%d before the start, want 7", n)
		}
		m.commit()
		for range 2 {
			m = m.restart(t, markClock.Add(time.Hour))
			replay("two systems", "302 dup", append(markRange("a", 100, 300), markRange("b", 1, 101)...)...)
			replay("taken back", "41 dup", markRange("a", 1, 41)...)
		}
	}
}

func TestStart(t *testing.T) {
	m := newMarkBook()
	if m.Known(markPartition) {
		t.Error("known")
	}
	m.StartBehind(markPartition, "", markRange("a", 3, 9))
	m.commit()
	m.live(markMessage(10, "a", -1), markClock)
	m.load()
	if !m.Known(markPartition) || !m.Empty(markPartition) {
		t.Error("the start is not known, or what was not stored is")
	}
	for _, tt := range []struct {
		list []OSMessage
		want int
	}{
		{markRange("a", 3, 12), 7},
		{markRange("a", 3, 9), 7},
		{markRange("a", 3, 7), 0},
		{slices.Concat(markRange("a", 3, 4), markRange("a", 10, 12)), 2},
		{slices.Concat(markRange("a", 3, 9), markRange("b", 1, 2)), 7},
		{markRange("b", 1, 2), 0},
		{nil, 0},
	} {
		if n := m.BeforeStart(markPartition, "", tt.list); n != tt.want {
			t.Errorf("%d of %v, want %d", n, tt.list, tt.want)
		}
	}
	m.live(markMessage(10, "a", -1), markClock)
	m.live(markMessage(0, "b", -1), markClock)
	for _, tt := range []struct {
		list []OSMessage
		want int
	}{
		{slices.Concat(markRange("a", 3, 12), markRange("b", 0, 20)), 7},
		{slices.Concat(markRange("a", 3, 9), markRange("b", 0, 20)), 0},
		{slices.Concat(markRange("b", 0, 20), markRange("c", 0, 20)), 0},
		{markRange("b", 0, 20), 0},
		{markRange("a", 3, 12), 0},
	} {
		if n := m.BeforeStart(markPartition, "", tt.list); n != tt.want {
			t.Errorf("numbers began anew: %d of %v, want %d", n, tt.list, tt.want)
		}
	}
	m.Forget(markPartition)
	m.Forget("unknown")
	m.commit()
	if m.Known(markPartition) || len(m.store) != 0 {
		t.Errorf("%d values are left", len(m.store))
	}
	m.live(markMessage(10, "a", -1), markClock)
	if n := m.BeforeStart(markPartition, "", markRange("a", 3, 12)); n != 7 {
		t.Errorf("%d are before what came first", n)
	}
	m.live(markMessage(0, "b", -1), markClock)
	m.commit()
	m = m.restart(t, markClock.Add(time.Hour))
	if n := m.BeforeStart(markPartition, "", slices.Concat(markRange("a", 3, 12), markRange("b", 0, 0))); n != 7 {
		t.Errorf("%d are before what came first, and numbers began anew", n)
	}
}

// TestStartBehindKnown has a message that came live while the HMC was asked what it held: it is
// before the start, and known. What it says of the list's sequences must not be lost.
func TestStartBehindKnown(t *testing.T) {
	m := newMarkBook()
	m.live(markMessage(11, "a", -1), markClock)
	m.StartBehind(markPartition, "", markRange("a", 0, 11))
	for _, anew := range []bool{false, true} {
		list := slices.Concat(markRange("a", 0, 14), markRange("b", 0, 4))
		if n := m.BeforeStart(markPartition, "", list); n != 11 {
			t.Errorf("%d are before the start, want 11; numbers began anew: %v", n, anew)
		}
		m.live(markMessage(12, "a", -1), markClock)
		m.live(markMessage(0, "b", -1), markClock)
	}
}

func TestTextHash(t *testing.T) {
	if a, b := TextHash("login:"), TextHash("login: \r\n"); a != b || a != 0x3b370998 || a == TextHash(" login:") {
		t.Errorf("%#x and %#x", a, b)
	}
}

// A message without a time that is known is a repetition only for seconds: this does not follow a
// wall clock that is set.
func TestRepetitionFollowsNoWallClock(t *testing.T) {
	m := newMarkBook()
	now := time.Now()
	m.live(markMessage(1, "boot", -1), now)
	if v := m.live(markMessage(1, "boot", -1), now.Add(time.Second)); !v.Duplicate {
		t.Error("published twice within a second")
	}
	// What has no monotonic part is what the wall clock said.
	set := now.Add(time.Minute)
	if v := m.live(markMessage(1, "boot", -1), set); v.Duplicate || v.Epoch != 1 {
		t.Error("an IPL a minute later is taken for a repetition")
	}
}

// TestPartitionMarkStateIsSmall checks what one new message costs to store.
func TestPartitionMarkStateIsSmall(t *testing.T) {
	for _, every := range []int64{1, 2} { // 2: there are as many gaps as there can be
		m, now, stored := newMarkBook(), markClock, 0
		for i := range int64(3200) {
			now = now.Add(time.Second)
			at := int64(-1)
			if every == 2 {
				at = now.UnixMilli()
			}
			m.live(markMessage(i*every, fmt.Sprint("a", i), at), now)
			state := m.commit()
			if len(state) > 2 || len(state[0].Value)+len(state[len(state)-1].Value) > 1024 {
				t.Fatalf("message %d: %d values are stored, the first of %d bytes", i, len(state), len(state[0].Value))
			}
			for _, kv := range state {
				stored += len(kv.Value)
			}
		}
		all := 0
		for _, value := range m.store {
			all += len(value)
		}
		t.Logf("%d bytes are stored per message, %d of the partition, %d entries, %d bytes in memory", stored/3200, all,
			len(m.known().entries), cap(m.known().entries)*int(unsafe.Sizeof(osEntry{})))
		if all > 32<<10 || cap(m.known().entries) > mostEntries {
			t.Errorf("%d bytes are stored of a partition, room for %d entries", all, cap(m.known().entries))
		}
	}
}

func TestPartitionMarkAllocatesNothing(t *testing.T) {
	m := newMarkBook()
	msg := markMessage(0, "a", -1)
	next := func() {
		msg.Number++
		m.live(msg, markClock)
	}
	for range 2 * mostEntries {
		next()
	}
	if n := testing.AllocsPerRun(1000, next); n != 0 {
		t.Errorf("%v allocations per message", n)
	}
}

// What is stored may be damaged in any way: it is read as far as it can be, and never becomes more
// than its limits.
func FuzzLoad(f *testing.F) {
	f.Add([]byte{}, uint8(0))
	f.Add([]byte{osVersion1, 0, 2, 1, 0xff, 1, 1, 2, 3, 4, 5}, uint8(0))
	f.Add(append([]byte{osVersion1, 0, 3, 0}, make([]byte, 64)...), uint8(3))
	m := newMarkBook()
	m.live(markMessage(1, "a", -1), markClock)
	m.live(markMessage(5, "b", 1), markClock)
	for _, kv := range m.commit() {
		f.Add(kv.Value[:len(kv.Value)-4], uint8(0))
	}
	if data, err := os.ReadFile("testdata/osmessages1.json"); err == nil {
		store := make(map[string][]byte)
		if err := json.Unmarshal(data, &store); err != nil {
			f.Fatal(err)
		}
		for _, value := range store {
			f.Add(value[:len(value)-4], uint8(1))
		}
	}
	f.Fuzz(func(t *testing.T, value []byte, slot uint8) {
		// A value whose checksum is wrong goes no further; the rest is to be tried too.
		sealed := binary.BigEndian.AppendUint32(slices.Clip(value), crc32.ChecksumIEEE(value))
		m := newMarkBook()
		key := "os/hmc\x00" + markPartition
		m.store = map[string][]byte{
			key + "#0": sealed, fmt.Sprintf("%s#%d", key, slot%osSlots): sealed, key + "#7": value, "os/hmc\x00none": sealed, "start/hmc\x00x": value,
		}
		damaged := m.load()
		if len(m.partitions) > 2 || damaged > len(m.store) {
			t.Fatalf("%d partitions, %d damaged", len(m.partitions), damaged)
		}
		p := m.known()
		if len(p.entries) > mostEntries || len(p.gaps) > maxGaps || p.gaps.count() < 0 {
			t.Fatalf("%d messages, %d gaps of %d", len(p.entries), len(p.gaps), p.gaps.count())
		}
		// It works, whatever it is, and what becomes of it can be stored and read again.
		m.replay(OSReplay{Messages: markRange("a", 1, 5), Asked: markClock, Now: markClock, Complete: true})
		m.live(markMessage(p.highest, "b", 1), markClock)
		m.settle(p.highest)
		want := *p
		m.commit()
		m.load()
		if got := m.known(); !got.begun || got.epoch != want.epoch || got.highest != want.highest {
			t.Fatalf("%d of epoch %d, want %d of %d", got.highest, got.epoch, want.highest, want.epoch)
		}
	})
}

func BenchmarkPartitionMarkLive(b *testing.B) {
	m := newMarkBook()
	msg := markMessage(0, "a", -1)
	b.ReportAllocs()
	for b.Loop() {
		msg.Number++
		m.live(msg, markClock)
	}
}

func BenchmarkPartitionMarkLiveAndState(b *testing.B) {
	m := newMarkBook()
	msg := markMessage(0, "a", -1)
	var state []queue.KeyValue
	b.ReportAllocs()
	for b.Loop() {
		msg.Number++
		m.live(msg, markClock)
		state = m.Changes(state[:0])
	}
}

func BenchmarkPartitionMarkReplay(b *testing.B) {
	m := newMarkBook()
	messages := markRange("a", 1, 500)
	m.replay(OSReplay{Messages: messages, Asked: markClock, Now: markClock, Complete: true})
	later := markClock.Add(time.Hour)
	b.ReportAllocs()
	for b.Loop() {
		m.replay(OSReplay{Messages: messages, Asked: later, Now: later, Complete: true})
	}
}

// An HMC may replay a message before it publishes it. When the daemon is started anew between, it is the same message
// for as long as it would have been without that; what had been published is another one, of a sequence that began anew.
func TestReplayedBeforeAndPublishedAfterStart(t *testing.T) {
	for _, test := range []struct {
		name      string
		published bool
		after     time.Duration
		same      bool
	}{
		{"soon", false, 2 * time.Second, true},
		{"late", false, replayRace + time.Second, false},
		{"published before", true, 2 * time.Second, false},
		{"the clock was set back", false, -time.Hour, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			b, now := newMarkBook(), time.Unix(1_800_000_000, 0)
			var held []OSMessage
			for i := range 5 {
				held = append(held, markMessage(int64(i), fmt.Sprint("line ", i), 0))
			}
			b.Replay(markPartition, OSReplay{Host: "h", Messages: held, Asked: now, Now: now, Complete: true})
			if test.published {
				b.Live(markPartition, "h", held[4], now)
				b.Live(markPartition, "h", markMessage(5, "line 5", 0), now)
				held = append(held, markMessage(5, "line 5", 0))
			}
			b.commit()
			at := now.Add(test.after)
			b = b.restart(t, at)
			last := held[len(held)-1]
			if v := b.Live(markPartition, "h", last, at); v.Duplicate != test.same {
				t.Errorf("%+v", v)
			}
			if !test.same {
				return
			}
			for _, v := range b.Replay(markPartition, OSReplay{Host: "h", Messages: held, Asked: at, Now: at, Complete: true}) {
				if !v.Duplicate {
					t.Errorf("replayed again, it is new: %+v", v)
				}
			}
		})
	}
}
