package record

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
)

// What is missed of a partition may be asked for while the HMC still replays its messages: what is there of the replay so far
// must not be taken for the whole of it, which would begin anew with the first messages.
func TestFetchWithinReplay(t *testing.T) {
	r, _ := hardwareRecorder(t, filepath.Join(t.TempDir(), "q"))
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
		r.Notification(t.Context(), &receiver.Notification{
			Topic: "u.1osm.e12121da", Headers: headers, Received: time.Now(), Body: []byte(`{"os-messages":[` + strings.Join(messages, ",") + `]}`),
		}, true)
	}
	send(0, 10, true)
	r.doDue(t.Context(), time.Now(), false)
	send(10, 13, false)

	r.Subscribing(uri, time.Now().Add(time.Second))
	send(0, 10, true)
	if !r.Replaying(uri) {
		t.Error("the replay is over")
	}
	r.Missing(uri)
	send(10, 15, true)
	r.doDue(t.Context(), time.Now().Add(time.Hour), false)
	if r.Replaying(uri) {
		t.Error("the replay is not over")
	}
	if m := r.partition(uri); m.Epoch != 0 || m.Next != 15 || m.Highest != 14 {
		t.Errorf("sequence %d with %d messages up to number %d, want 0 with 15 up to 14", m.Epoch, m.Next, m.Highest)
	}
}
