package hostile_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/daemon"
	"github.com/hmcnotifyd/hmcnotifyd/tests/soak"
)

// messagesOf makes the body of a notification with so many OS messages, numbered from a number on.
func messagesOf(from, n int, text string) []byte {
	var body bytes.Buffer
	body.WriteString(`{"os-messages":[`)
	for i := range n {
		if i > 0 {
			body.WriteByte(',')
		}
		fmt.Fprintf(&body, `{"sequence-number":%d,"message-text":%q,"is-refresh":false}`, from+i, text)
	}
	body.WriteString("]}")
	return body.Bytes()
}

// largeHeaders are n headers of 60 kB each, with those that an OS message has.
func largeHeaders(uri string, n int) []hmcsim.Header {
	headers := []hmcsim.Header{
		{Name: "notification-type", Value: "os-message"}, {Name: "class", Value: "partition"}, {Name: "name", Value: "P"}, {Name: "object-uri", Value: uri},
	}
	for i := range n {
		headers = append(headers, hmcsim.Header{Name: fmt.Sprint("x-", i), Value: strings.Repeat("x", 60_000)})
	}
	return headers
}

// One frame of 1.8 MB with 20,000 messages and 16 headers of 60 kB became 20 GB, as each event has all headers. All of them
// are delivered or counted.
func TestOneFrameOfManyParts(t *testing.T) {
	const messages = 20_000
	sim := startHMC(t, hmcsim.Options{Name: "east"})
	v := start(t, daemon.Options{Config: "hmcs:\n" + entry(t, sim, "") + "sinks:\n- {name: none, log: {output: /dev/null}}\n"})
	v.AwaitReady(t, within)
	frames := soak.Count(t, "FRAMES", 3, 100)
	for i := range frames {
		body := messagesOf(1+i*messages, messages, "m")
		if sim.Publish("object", largeHeaders("/api/partitions/p", 16), body) != 1 {
			t.Fatal("nobody has subscribed")
		}
	}
	accounted := func() float64 {
		text := v.Metrics(t)
		n := 0.0
		for _, series := range [][]string{
			{"hmcnotifyd_events_total", "type", "os-message"}, {"hmcnotifyd_notifications_missed_total"},
		} {
			got, err := daemon.Metric(text, series[0], series[1:]...)
			if err != nil {
				t.Fatal(err)
			}
			n += got
		}
		return n
	}
	v.Process.Await(t, within, func() error {
		if got := accounted(); got < float64(frames*messages) {
			return fmt.Errorf("%v of %d are delivered or counted", got, frames*messages)
		}
		return nil
	})
	t.Logf("%v OS messages stored, %v counted as missed", v.Metric(t, "hmcnotifyd_events_total", "type", "os-message"), v.Metric(t, "hmcnotifyd_notifications_missed_total"))
	v.AwaitReady(t, within) // the link is as it was
	v.end(t)
}
