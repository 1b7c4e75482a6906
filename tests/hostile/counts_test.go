package hostile_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/daemon"
	"github.com/hmcnotifyd/hmcnotifyd/tests/soak"
)

// An HMC that lists many more of something than the largest sites have costs neither the link nor its heart-beats: the first ones
// count, the state says that there are more, and notifications go on.
func TestMoreThanThereCanBe(t *testing.T) {
	soak.Parallel(t)
	many := soak.Count(t, "LISTED", 25_000, 150_000)
	for what, test := range map[string]struct {
		path, member, uri string
		n                 int
	}{
		"partitions":         {"/api/console/operations/list-permitted-partitions", "partitions", "object-uri", many},
		"logical partitions": {"/api/console/operations/list-permitted-logical-partitions", "logical-partitions", "object-uri", many},
		"topics":             {"/api/sessions/operations/get-notification-topics", "topics", "topic-name", many},
	} {
		t.Run(what, func(t *testing.T) {
			soak.Parallel(t)
			sim := hmctest.Start(t, hmcsim.Options{Name: "east", CPCs: 2, Partitions: 4})
			m := newMiddle(t, sim)
			for i := range 5000 { // as many of the topics as are subscribed to
				sim.Broker().AddTopic(fmt.Sprint("many-", i))
			}
			var once sync.Once
			var answer []byte
			m.answer = func(r *http.Response, body []byte) []byte {
				if r.Request.URL.Path != test.path {
					return body
				}
				once.Do(func() { answer = longer(t, body, test.member, test.uri, test.n) })
				return answer
			}
			entry := strings.Replace(m.entry(t, ""), ", stomp: {", ", stomp: {heartbeat_send_cycle: 15s, heartbeat_receive_cycle: 15s, ", 1)
			v := start(t, daemon.Options{Config: "hmcs:\n" + entry + "sinks:\n- {name: none, log: {output: /dev/null}}\n"})
			v.Process.Await(t, within, func() error {
				_, body := v.Get(t, "/-/ready")
				if !strings.Contains(body, "the HMC lists more than the") {
					return fmt.Errorf("/-/ready: %.1000s", body)
				}
				return nil
			})
			v.AwaitMetric(t, within, 1, "hmcnotifyd_receiver_state", "state", "connected")
			began := time.Now()
			const marks = 100
			for i := range marks {
				headers := []hmcsim.Header{
					{Name: "notification-type", Value: "property-change"},
					{Name: "class", Value: "partition"},
					{Name: "object-uri", Value: fmt.Sprint("/api/partitions/new-", i)},
				}
				if sim.Publish("object", headers, []byte(`{"change-reports":[]}`)) != 1 {
					t.Fatal("nobody has subscribed")
				}
			}
			v.Process.Await(t, within, func() error {
				if got := v.Metric(t, "hmcnotifyd_events_total", "type", "property-change"); got < marks {
					return fmt.Errorf("%v of %d are stored", got, marks)
				}
				return nil
			})
			t.Logf("%d notifications took %v, the daemon %.1f s of a processor", marks, time.Since(began).Round(time.Millisecond), v.Metric(t, "process_cpu_seconds_total"))
			if again := v.Metric(t, "hmcnotifyd_receiver_reconnects_total"); again > 0 {
				t.Errorf("%v reconnects", again)
			}
			v.end(t)
		})
	}
}

// longer makes an answer with a list of one whose list has n elements: those it has, and others like the first one.
func longer(t *testing.T, body []byte, member, uri string, n int) []byte {
	var list map[string][]map[string]any
	if err := json.Unmarshal(body, &list); err != nil || len(list[member]) == 0 {
		t.Errorf("no %s in %.300s: %v", member, body, err)
		return body
	}
	all := list[member]
	var out bytes.Buffer
	fmt.Fprintf(&out, `{%q:[`, member)
	for _, element := range all {
		text, err := json.Marshal(element)
		if err != nil {
			t.Error(err)
		}
		out.Write(append(text, ','))
	}
	all[0][uri] = "@"
	text, err := json.Marshal(all[0])
	if err != nil {
		t.Error(err)
	}
	for i := range n - len(all) {
		name := fmt.Sprint("/api/partitions/many-", i)
		if member == "topics" {
			name = fmt.Sprint("many-", i)
		}
		out.Write(bytes.Replace(text, []byte("@"), []byte(name), 1))
		out.WriteByte(',')
	}
	out.Truncate(out.Len() - 1)
	out.WriteString("]}")
	return out.Bytes()
}
