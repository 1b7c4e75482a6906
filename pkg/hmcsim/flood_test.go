package hmcsim

import (
	"encoding/json"
	"testing"

	"github.com/go-stomp/stomp/v3"
)

// TestFloodIsOfDifferentNotifications: whoever leaves out what comes twice must not find anything to leave out, and the
// messages of each partition are numbered without a gap.
func TestFloodIsOfDifferentNotifications(t *testing.T) {
	t.Parallel()
	const frames = 5000 // more than a block has
	b := startBroker(t, BrokerOptions{Topics: []string{"u.1"}})
	c, err := goStomp(t, b, stomp.ConnOpt.Login("hmcuser", "hmcpass"), stomp.ConnOpt.HeartBeat(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	sub, err := c.Subscribe("/topic/u.1", stomp.AckAuto)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the subscription", func() bool { return b.Subscribers("u.1") == 1 })
	done := make(chan error, 1)
	go func() {
		_, err := b.Flood(t.Context(), FloodOptions{Topic: "u.1", Frames: frames})
		done <- err
	}()
	next := map[string]int64{} // sequence number by partition
	bodies := map[string]bool{}
	for range frames {
		m := receive(t, sub)
		if m.Err != nil {
			t.Fatal(m.Err)
		}
		var body struct {
			Messages []struct {
				Number int64  `json:"sequence-number"`
				Text   string `json:"message-text"`
			} `json:"os-messages"`
			Entries []struct {
				Time int64 `json:"event-time"`
			} `json:"log-entries"`
		}
		if err := json.Unmarshal(m.Body, &body); err != nil {
			t.Fatalf("%s: %v", m.Body, err)
		}
		switch m.Header.Get("notification-type") {
		case "os-message":
			partition := m.Header.Get("object-uri")
			got := body.Messages[0].Number
			if want, known := next[partition]; known && got != want {
				t.Fatalf("%s has number %d, want %d", partition, got, want)
			}
			next[partition] = got + 1
		case "log-entry":
			if at := body.Entries[0].Time; at < 1e12 || at > 1e13 {
				t.Fatalf("event-time %d is not in milliseconds", at)
			}
		default: // what changes may change again
			continue
		}
		if bodies[string(m.Body)] {
			t.Fatalf("came twice: %s", m.Body)
		}
		bodies[string(m.Body)] = true
	}
	if len(next) != 32 {
		t.Errorf("messages of %d partitions", len(next))
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	_ = c.MustDisconnect()
}
