package translate

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/estate"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
)

// A change is planned where an entry of the audit log says who did it to what, in the minute before, and nowhere else.
func TestPlanned(t *testing.T) {
	t.Parallel()
	entry := func(user, message string, items ...string) string {
		var list []string
		for i, item := range items {
			list = append(list, fmt.Sprintf(`{"data-item-number":%d,"data-item-type":"string","data-item-value":%q}`, i, item))
		}
		return fmt.Sprintf(`{"event-time":1,"event-id":"9999","userid":%q,"event-message":%q,"event-data-items":[%s]}`, user, message, strings.Join(list, ","))
	}
	for _, test := range []struct {
		name, entry, to, want string
		after                 time.Duration
		topic                 string
	}{
		{"named in the text", entry("SYSPROG2", "Deactivate was performed on LP01 by SYSPROG2"), "not-activated", "; deactivated by SYSPROG2", time.Second, "u.1aud"},
		{"named in an item", entry("SYSPROG2", "The object was deactivated", "M90", "LP01"), "not-activated", "; deactivated by SYSPROG2", 59 * time.Second, "u.1aud"},
		{"stopped", entry("OPER1", "Stop of LP01"), "not-operating", "; stopped by OPER1", 0, "u.1aud"},
		{"too long ago", entry("SYSPROG2", "Deactivate of LP01"), "not-activated", "", 61 * time.Second, "u.1aud"},
		{"another object", entry("SYSPROG2", "Deactivate of LP011"), "not-activated", "", 0, "u.1aud"},
		{"another status", entry("SYSPROG2", "Deactivate of LP01"), "exceptions", "", 0, "u.1aud"},
		{"nobody", entry("", "Deactivate of LP01"), "not-activated", "", 0, "u.1aud"},
		{"another thing", entry("ensadmin", "The Activation profile LP01 was activated", "LP01", "Activation"), "operating", "", 0, "u.1aud"},
		{"code", entry("ensadmin", "The following internal code fixes were activated: LP01"), "operating", "", 0, "u.1aud"},
		{"no operation", entry("ensadmin", "The user looked at LP01"), "not-activated", "", 0, "u.1aud"},
		{"another log", entry("SYSPROG2", "Deactivate of LP01"), "not-activated", "", 0, "u.1sec"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := newConverter()
			c.operations = new(Operations)
			at := time.Unix(1_700_000_000, 0)
			convert := func(topic, body string, received time.Time, headers ...receiver.Header) (e event.Event) {
				var n Notification
				n.Parse(&receiver.Notification{Topic: topic, Received: received, Body: []byte(body), Headers: headers}, true)
				c.Convert(&n, event.IDOf("x"), func(p *Part) { e = *p.Event })
				return e
			}
			convert(test.topic, `{"log-entries":[`+test.entry+`]}`, at, receiver.Header{Name: "notification-type", Value: "log-entry"})
			e := convert("u.1", `{"change-reports":[{"old-status":"x","new-status":"`+test.to+`"}]}`, at.Add(test.after),
				receiver.Header{Name: "notification-type", Value: "status-change"}, receiver.Header{Name: "class", Value: "logical-partition"},
				receiver.Header{Name: "name", Value: "LP01"}, receiver.Header{Name: "object-uri", Value: "/api/logical-partitions/1"})
			if e.Planned != (test.want != "") || !strings.HasSuffix(e.Summary, test.to+test.want) {
				t.Errorf("%v, %q", e.Planned, e.Summary)
			}
		})
	}
	o := new(Operations)
	for i := range 3 * maxOperations {
		o.note(&LogEntry{Userid: "U", Message: fmt.Sprintf("Stop of P%d", i)}, time.Now())
	}
	explained := func(name string) bool {
		r := &event.Resource{Name: name, ObjectURI: "/api/partitions/" + name}
		return o.explain(r, []string{"stopped"}, time.Now(), func() bool { return false }) != ""
	}
	if len(o.list) != maxOperations || explained("P1") || !explained(fmt.Sprintf("P%d", 3*maxOperations-1)) {
		t.Errorf("%d are remembered", len(o.list))
	}
}

// An operation leads to a status once. What stops again in the same minute, or once the system has run that was to be brought up,
// has failed: nobody wanted that. The other LP01, on another CPC, was not named.
func TestPlannedOnce(t *testing.T) {
	t.Parallel()
	const other = "/api/logical-partitions/2"
	for _, test := range []struct {
		entry, path string
		want        string // which of the statuses are planned
	}{
		{"Load of LP01 on M90", "not-operating operating", "yy"},
		{"Load of LP01 on M90", "not-operating operating not-operating", "yyn"}, // the IPL has failed
		{"Load of LP01 on M90", "operating not-operating", "yn"},
		{"Load of LP01 on M90", "not-operating,operating", "y"},
		{"Load of LP01 on M90", "not-operating,operating,not-operating", "n"},
		{"Load of LP01 on M90", "not-operating not-operating,operating not-operating", "yyn"},
		{"Load of LP01 on M90", "not-operating,operating not-operating,operating not-operating", "yyn"},
		{"Load of LP01 on M90", "not-operating not-operating operating operating", "yyyy"}, // told twice
		{"Reset of LP01 on M90", "not-operating operating not-operating", "ynn"},
		{"Activate of LP01 on M90", "not-operating operating exceptions not-operating", "yynn"},
		{"Deactivate of LP01 on M90", "exceptions not-activated", "ny"},
		{"Stop of LP01 on M90", "stopping stopped", "yy"},
		{"Deactivate of LP01", "not-activated", "n"}, // of which of the two?
		{"Deactivate of LP01 on T29", "not-activated", "n"},
		{"Deactivate of LP01 on T29", "other:not-activated", "y"},
	} {
		t.Run(test.entry+", "+test.path, func(t *testing.T) {
			t.Parallel()
			c := newConverter()
			c.operations = new(Operations)
			c.estate.Learn(&estate.Listing{HMC: "hmc-east", Resources: []estate.Resource{
				{URI: "/api/logical-partitions/1", Class: "logical-partition", Name: "LP01", CPC: "M90"},
				{URI: other, Class: "logical-partition", Name: "LP01", CPC: "T29"},
			}})
			at := time.Unix(1_700_000_000, 0)
			c.operations.note(&LogEntry{Userid: "OPER1", Message: test.entry}, at)
			uri, path := "/api/logical-partitions/1", test.path
			if rest, ok := strings.CutPrefix(path, "other:"); ok {
				uri, path = other, rest
			}
			got := ""
			for i, status := range strings.Fields(path) {
				reports := `{"new-status":"` + strings.ReplaceAll(status, ",", `"},{"new-status":"`) + `"}`
				var n Notification
				n.Parse(&receiver.Notification{
					Topic: "u.1", Received: at.Add(time.Duration(i+1) * time.Second), Body: []byte(`{"change-reports":[` + reports + `]}`),
					Headers: receiver.Headers{
						{Name: "notification-type", Value: "status-change"}, {Name: "class", Value: "logical-partition"}, {Name: "object-uri", Value: uri},
					},
				}, true)
				c.Convert(&n, event.IDOf("x"), func(p *Part) {
					got += map[bool]string{true: "y", false: "n"}[p.Planned]
					again := *p.Event
					if c.Describe(&again); again.Planned != p.Planned { // with where it is, for example
						t.Errorf("%s is planned: %v, and then %v", status, p.Planned, again.Planned)
					}
				})
			}
			if got != test.want {
				t.Errorf("%s, want %s", got, test.want)
			}
		})
	}
}

// That a system waits by a code nobody has planned, whatever was done to it.
func TestWaitStateIsNotPlanned(t *testing.T) {
	t.Parallel()
	for psw, want := range map[string]struct {
		planned  bool
		severity string
	}{
		"000200008000000000000000000000B1": {false, event.SeverityCritical},
		"00020000800000000000000000000000": {true, event.SeverityWarning},
		"07850000800000000000000000001234": {true, event.SeverityWarning},
	} {
		c := newConverter()
		c.operations = new(Operations)
		at := time.Unix(1_700_000_000, 0)
		c.operations.note(&LogEntry{Userid: "OPER1", Message: "Activate of LP01"}, at)
		var n Notification
		n.Parse(&receiver.Notification{
			Topic: "u.1", Received: at.Add(time.Second), Body: []byte(`{"change-reports":[{"old-status":"not-activated","new-status":"not-operating"}]}`),
			Headers: receiver.Headers{
				{Name: "notification-type", Value: "status-change"},
				{Name: "class", Value: "logical-partition"},
				{Name: "name", Value: "LP01"},
				{Name: "object-uri", Value: "/api/logical-partitions/1"},
			},
		}, true)
		c.Convert(&n, event.IDOf("x"), func(p *Part) {
			if !p.Planned || p.Severity != event.SeverityWarning {
				t.Fatalf("%+v", p.Event)
			}
			if c.Stopped(p.Event, []string{psw}); p.Planned != want.planned || p.Severity != want.severity {
				t.Errorf("%s: planned %v, %s: %s", psw, p.Planned, p.Severity, p.Summary)
			}
		})
	}
}
