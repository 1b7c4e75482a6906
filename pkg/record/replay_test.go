package record

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// What is missed of a partition may be asked for while the HMC still replays its messages: what is there of the replay so far
// must not be taken for the whole of it, which would begin anew with the first messages.
func TestFetchWithinReplay(t *testing.T) {
	r, q, _ := hardwareRecorder(t, filepath.Join(t.TempDir(), "q"))
	cursor, err := q.Cursor("x")
	if err != nil {
		t.Fatal(err)
	}
	const uri = "/api/partitions/e12121da"
	sent := 0
	send := func(from, to int, refresh bool) {
		t.Helper()
		var messages []string
		for i := from; i < to; i++ {
			messages = append(messages, fmt.Sprintf(`{"sequence-number":%d,"message-text":"line %d","timestamp":-1,"is-refresh":%t}`, i, i, refresh))
		}
		headers := partitionHeaders("os-message")
		headers[1].Value = fmt.Sprintf("ID:HMCHOST:%d", sent)
		headers[3].Value = fmt.Sprint(sent)
		sent++
		received(t, r, "u.1osm.e12121da", headers, `{"os-messages":[`+strings.Join(messages, ",")+`]}`)
	}
	send(0, 10, true)
	r.doDue(t.Context(), false)
	send(10, 13, false)

	at := time.Now()
	r.now = func() time.Time { return at }
	at = at.Add(time.Second)
	r.Subscribing(uri)
	send(0, 10, true)
	if !r.Replaying(uri) {
		t.Error("the replay is over")
	}
	r.MissingMessages(uri)
	send(10, 15, true)
	at = at.Add(time.Hour)
	r.doDue(t.Context(), false)
	if r.Replaying(uri) {
		t.Error("the replay is not over")
	}
	if err := q.Flush(); err != nil {
		t.Fatal(err)
	}
	var got []string
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	records, _ := cursor.Next(ctx, 100, 0)
	for _, record := range records {
		rec, err := event.ParseRecord(record.Data)
		if err != nil {
			t.Fatal(err)
		}
		e, err := rec.Event()
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e.ID)
	}
	if slices.Sort(got); len(got) != 15 || len(slices.Compact(got)) != 15 {
		t.Errorf("%d events, want 15", len(got))
	}
}
