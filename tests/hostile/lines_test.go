package hostile_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/daemon"
	"github.com/hmcnotifyd/hmcnotifyd/tests/soak"
)

// An HMC that sends errors as fast as it can fills no disk with lines of log, and what is left out is counted: 153,000 frames
// were as many lines.
func TestErrorsAsFastAsCanBe(t *testing.T) {
	soak.Parallel(t)
	frames := soak.Count(t, "ERROR_FRAMES", 5_000, 153_000)
	sim := hmctest.Start(t, hmcsim.Options{Name: "east"})
	m := newMiddle(t, sim)
	v := start(t, daemon.Options{Config: "hmcs:\n" + m.entry(t, "") + "sinks:\n- {name: none, log: {output: /dev/null}}\n"})
	v.AwaitReady(t, within)
	for i := range frames {
		n := m.say(func(map[string]string) []byte { return fmt.Appendf(nil, "ERROR\nmessage:trouble %d\n\n\x00", i) })
		if n != 1 {
			t.Fatalf("%d links after %d errors", n, i)
		}
	}
	mark := []hmcsim.Header{{Name: "notification-type", Value: "property-change"}, {Name: "class", Value: "partition"}, {Name: "object-uri", Value: "/x"}}
	if sim.Publish("object", mark, []byte(`{"change-reports":[]}`)) != 1 {
		t.Fatal("nobody has subscribed")
	}
	v.AwaitMetric(t, within, 1, "hmcnotifyd_events_total", "type", "property-change", "origin", "live") // what is before it has been read
	v.end(t)
	lines, told := 0, 0
	for line := range strings.Lines(v.Process.Output()) {
		var of struct {
			Msg     string
			LeftOut int `json:"lines_left_out"`
		}
		if err := json.Unmarshal([]byte(line), &of); err != nil {
			t.Errorf("a line that is no JSON: %.300s", line)
		}
		if of.Msg == "the HMC's broker sent an error" || strings.Contains(of.Msg, "dropped an ERROR") {
			lines++
			told += max(1, of.LeftOut)
		}
	}
	t.Logf("%d frames, %d lines, which tell of %d", frames, lines, told)
	if told != frames || lines > 100 {
		t.Errorf("%d lines tell of %d errors, of %d", lines, told, frames)
	}
}
