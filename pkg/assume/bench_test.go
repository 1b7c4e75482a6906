package assume

import (
	"fmt"
	"testing"
)

// BenchmarkMessage is what a daemon pays for each notification.
func BenchmarkMessage(b *testing.B) {
	for name, body := range map[string]string{
		"status-change":   `{"change-reports":[{"old-status":"active","new-status":"stopped","old-additional-status":null,"new-additional-status":null}]}`,
		"property-change": `{"change-reports":[{"property-name":"description","old-value":"one","new-value":"another"}]}`,
		"os-message": `{"os-messages":[{"message-id":"17","message-text":"IEF403I JOB17 - STARTED - TIME=12.00.00","os-name":"SYS1","sequence-number":1234,` +
			`"timestamp":1700000000000,"is-held":false,"is-priority":false,"is-refresh":false,"prompt-text":"","sound-alarm":false}]}`,
		"log-entry": `{"log-entries":[{"event-time":1700000000000,"event-id":"1941","event-name":"Logon","event-message":"User X has logged on to ` +
			`Web Services session Sx1234 from location 10.1.1.1","userid":"X","user-uri":"/api/users/1","event-data-items":[],"event-details":[]}]}`,
	} {
		for _, sampled := range []bool{false, true} {
			b.Run(fmt.Sprintf("%s/sampled=%v", name, sampled), func(b *testing.B) {
				o := NewObserver()
				o.Sampled = sampled
				o.Subscribe("t")
				headers := map[string]string{"notification-type": name, "session-sequence-nr": "1234"}
				header := func(h string) string { return headers[h] }
				b.ReportAllocs()
				for b.Loop() {
					o.Message("t", header, []byte(body))
				}
			})
		}
	}
}
