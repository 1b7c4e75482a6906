package translate

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
)

// One byte that is not UTF-8 hides neither the other messages of the notification nor the prompt in one of them.
func TestBodyWithAByteThatIsNotUTF8(t *testing.T) {
	body := `{"os-messages":[{"sequence-number":1,"message-text":"A"},{"sequence-number":2,"message-text":"B` + "\xe9" +
		`"},{"sequence-number":3,"message-text":"C","is-held":true}]}`
	all := convertAll(t, newConverter(), "u.1osm.e12121da", partitionHeaders("os-message"), body)
	if len(all) != 3 {
		t.Fatalf("%d events, want 3", len(all))
	}
	if !strings.Contains(string(all[1].Body), "B\uFFFD") || all[2].Severity != event.SeverityWarning {
		t.Errorf("%s, %s", all[1].Body, all[2].Severity)
	}
}

// A report says what it says: a status that was not told is not named, and the judgement of a status that is over counts no
// more.
func TestReportsWithSomeKeysOnly(t *testing.T) {
	for _, test := range []struct{ body, summary, severity string }{
		{`[{"has-unacceptable-status":true}]`, "the status is unacceptable now", event.SeverityWarning},
		{`[{"has-unacceptable-status":false}]`, "the status is acceptable now", event.SeverityInfo},
		{
			`[{"old-status":"active","new-status":"starting","has-unacceptable-status":true},{"old-status":"starting","new-status":"active"}]`,
			"active -> starting -> active", event.SeverityInfo,
		},
		{`[{"new-additional-status":"x"}]`, "(additional status x)", event.SeverityInfo},
		{`[{}]`, "status changed", event.SeverityInfo},
	} {
		e := described(newConverter(), "status-change", `{"change-reports":`+test.body+`}`, "class", "partition", "name", "P")[0]
		if !strings.HasSuffix(e.Summary, ": "+test.summary) || e.Severity != test.severity {
			t.Errorf("%s: %q, %s", test.body, e.Summary, e.Severity)
		}
	}
}

// A time that no JSON can hold is none.
func TestTimesBeyondTheEra(t *testing.T) {
	for _, ms := range []string{"253402300800000", "9223372036854775807", "-1", "0", "x"} {
		headers := partitionHeaders("property-change")
		for i := range headers {
			if headers[i].Name == "timestamp" {
				headers[i].Value = ms
			}
		}
		e := convertAll(t, newConverter(), "u.1", headers, `{"change-reports":[]}`)[0]
		if !e.Time.Equal(e.Received) {
			t.Errorf("%s: %s", ms, e.Time)
		}
		body := fmt.Sprintf(`{"log-entries":[{"event-time":%s,"event-id":"1"}]}`, strings.Replace(ms, "x", "1e99", 1))
		if e := convertAll(t, newConverter(), "u.1aud", partitionHeaders("log-entry"), body)[0]; e.Time.Year() > 9999 {
			t.Errorf("log entry of %s: %s", ms, e.Time)
		}
	}
}

// Numbers that no HMC could have counted up to mean that it numbers anew, not that so many are missing.
func TestSequenceNumbersAnew(t *testing.T) {
	var tracker SequenceTracker
	for _, number := range []string{"7", "-1", "9223372036854775807", "1", "2"} {
		var n Notification
		n.Parse(&receiver.Notification{Topic: "u.1", Headers: receiver.Headers{{Name: "session-sequence-nr", Value: number}}}, true)
		if nr, ok := n.SequenceNr(); ok {
			tracker.Note("u.1", nr, time.Now())
		}
	}
	for _, g := range tracker.Settle(time.Now(), true) {
		t.Errorf("%d are missing", g.Missing)
	}
}
