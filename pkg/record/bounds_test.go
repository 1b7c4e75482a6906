package record

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/budget"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/translate"
)

// manyMessages is the body of a notification with so many OS messages.
func manyMessages(first, n int, text string, refresh bool) string {
	var body bytes.Buffer
	body.WriteString(`{"os-messages":[`)
	for i := range n {
		if i > 0 {
			body.WriteByte(',')
		}
		fmt.Fprintf(&body, `{"sequence-number":%d,"message-text":%q,"timestamp":-1,"is-refresh":%t}`, first+i, text, refresh)
	}
	return body.String() + "]}"
}

// largeHeaders are those of an OS message and n of 60 kB each.
func largeHeaders(id string, n int) receiver.Headers {
	headers := partitionHeaders("os-message")
	headers[1].Value = id
	for i := range n {
		headers = append(headers, receiver.Header{Name: fmt.Sprint("x-", i), Value: strings.Repeat("x", 60_000)})
	}
	return headers
}

// storedEvents returns how many events are stored, and the bytes of the largest.
func storedEvents(t *testing.T, q *queue.Queue, c *queue.Cursor) (n, largest int) {
	t.Helper()
	if err := q.Flush(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for {
		records, _ := c.Next(ctx, 1000, 0)
		if len(records) == 0 {
			return n, largest
		}
		for _, r := range records {
			largest = max(largest, len(r.Data))
		}
		n += len(records)
	}
}

// One notification with thousands of messages and large headers became gigabytes, as each event has all of the headers, and
// none of them was stored before all were made.
func TestOneNotificationOfManyParts(t *testing.T) {
	q := openQueue(t)
	cursor, err := q.Cursor("x")
	if err != nil {
		t.Fatal(err)
	}
	r, w := openRecorder("a", NewGroup("a", q, zap.NewNop()))
	const messages = 20_000
	outbox := 0
	emit := r.tx.emit
	r.tx.emit = func(p *translate.Part) {
		emit(p)
		outbox = max(outbox, len(r.group.out.buf))
	}
	received(t, r, "u.1osm.e12121da", largeHeaders("ID:1", 16), manyMessages(1, messages, "m", false))
	r.Flush(t.Context())
	n, largest := storedEvents(t, q, cursor)
	if n != messages || len(w.missed) != 0 {
		t.Errorf("%d stored, %v missed", n, w.missed)
	}
	if largest > 4<<10 || outbox > 2*outboxBytes {
		t.Errorf("the largest event has %d bytes, the outbox had %d", largest, outbox)
	}
	// of few messages each has all that came with it
	received(t, r, "u.1osm.e12121da", largeHeaders("ID:2", 16), manyMessages(messages+1, 3, "m", false))
	r.Flush(t.Context())
	if n, largest := storedEvents(t, q, cursor); n != 3 || largest < 16*60_000 {
		t.Errorf("%d stored, the largest has %d bytes", n, largest)
	}
}

// What the parts of one notification become together is bounded; those beyond are counted, reported and fetched.
func TestPartsThatBecomeTooMuch(t *testing.T) {
	q := openQueue(t)
	cursor, err := q.Cursor("x")
	if err != nil {
		t.Fatal(err)
	}
	r, w := openRecorder("a", NewGroup("a", q, zap.NewNop()))
	w.fetch = true
	connect(r)
	storedEvents(t, q, cursor)
	const messages = 150_000
	headers := partitionHeaders("os-message")
	for _, name := range []string{"name", "destination", "object-id"} { // parts have them all the same
		headers = append(headers, receiver.Header{Name: name, Value: strings.Repeat("\x01", 250)})
	}
	received(t, r, "u.1osm.e12121da", headers, manyMessages(1, messages, "", false))
	r.Flush(t.Context())
	n, _ := storedEvents(t, q, cursor)
	missed := w.missed[event.TopicOSMessage]
	if n < 1000 || missed < 1000 || n+missed != messages {
		t.Errorf("%d stored, %d missed of %d", n, missed, messages)
	}
	if !r.tx.gaps.Pending() {
		t.Error("no gap is known")
	}
}

// What waits until a replay is complete is a copy of what it needs, and within the budget: a replay of messages that share a
// large notification kept all of that, for each partition.
func TestReplaysKeepWithinTheBudget(t *testing.T) {
	q := openQueue(t)
	cursor, err := q.Cursor("x")
	if err != nil {
		t.Fatal(err)
	}
	r, w := openRecorder("a", NewGroup("a", q, zap.NewNop()))
	all := budget.New(4 << 20)
	r.tx.kept.Budget = all
	const partitions, messages = 100, 20
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	for i := range partitions {
		headers := partitionHeaders("os-message", receiver.Header{Name: "x", Value: strings.Repeat("y", 20_000)})
		headers[1].Value = fmt.Sprint("ID:", i)
		for j := range headers {
			if headers[j].Name == "object-uri" {
				headers[j].Value = fmt.Sprint("/api/partitions/p", i)
			}
		}
		received(t, r, fmt.Sprint("u.1osm.p", i), headers, manyMessages(1, messages, "m", true)+strings.Repeat(" ", 1<<20))
	}
	if grown := heap() - before; grown > 24<<20 {
		t.Errorf("%d MiB are kept", grown>>20)
	}
	if all.Used() < 2<<20 {
		t.Errorf("%d of the budget are used", all.Used())
	}
	at := time.Now().Add(time.Hour)
	r.now = func() time.Time { return at }
	r.doDue(t.Context(), true)
	if n, _ := storedEvents(t, q, cursor); n < partitions*messages || len(w.missed) != 0 {
		t.Errorf("%d stored of %d, %v missed", n, partitions*messages, w.missed)
	}
	if all.Used() != 0 {
		t.Errorf("%d are not given back", all.Used())
	}
}
