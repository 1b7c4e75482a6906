package ledger

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// FuzzBooks loads whatever may be stored, of a damaged disk or of another version: no book panics, and what it stores after
// that can be loaded again.
func FuzzBooks(f *testing.F) {
	f.Add("audit", []byte{0, 0, 0, 0, 0, 0, 0, 1})
	f.Add("audit", append(make([]byte, logHead-1), logWatched|logWhole))
	f.Add("audit\x00000002", make([]byte, 2*logEntrySize))
	f.Add("/api/console\x00/api/console/hardware-messages/1", []byte("12345678text"))
	f.Add("", []byte(`[{"from":"2026-11-20T10:00:00Z","to":"2026-11-20T10:00:01Z","causes":["x"],"missed":{"object":1}}]`))
	f.Add("", []byte(`{"from":"2026-11-20T10:00:00Z","causes":null}`))
	f.Add("0000000000000001", append(bytes.Repeat([]byte{1}, 24), 1, 1, 'a'))
	f.Add("0000000000000001", bytes.Repeat([]byte{1}, 24))
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		if strings.HasPrefix(key, "\xff") || len(value) > 1<<16 {
			t.Skip()
		}
		now := time.Unix(1_700_000_000, 0)
		w := NewSeenWindow(time.Hour, 1000)
		books := map[string]Book{
			seenPrefix + "a\x00": w.Of("a"), logPrefix + "a\x00": NewLogs("a"), hardwarePrefix + "a\x00": NewHardware("a"),
			gapPrefix + "a": NewGaps("a"), contactPrefix + "a": NewContact("a"),
			sightingsPrefix + "a\x00changes/": NewSightings("a", "changes", time.Hour),
		}
		for prefix, b := range books {
			state := map[string][]byte{prefix + key: value}
			b.Load(storedIn(state))
			switch b := b.(type) {
			case *Seen:
				b.Add(seenID(1), now)
			case *Logs:
				b.Published(key, 1, seenID(1), now)
				b.LinkUp(key)
				b.Begin(key, now, true)
				b.Missed(key, now)
				q, _ := b.BeginFetch(key, now)
				list := b.List(key, q, now, []event.ID{seenID(1), seenID(1)})
				list.Take(1, seenID(1))
				list.Take(1, seenID(1))
				list.End()
				b.EndFetch(key, q, true)
			case *Hardware:
				b.Add(key, "u", now, "x")
				b.Complete(key)
			case *Gaps:
				b.LinkLost(now, "x", now)
				b.LinkUp(now, now, false)
				for _, g := range b.Due(now.Add(time.Hour), time.Second) {
					_ = g.Report([]string{"object"}).InWords()
				}
			case *Contact:
				b.Set(now, key)
			case *Sightings:
				b.SetMembers(2)
				b.Report(seenID(1), "b", now, func(string, time.Time) bool { return true })
			}
			store(state, b)
			b.Load(storedIn(state))
		}
	})
}
