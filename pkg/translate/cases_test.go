package translate

import (
	"fmt"
	"slices"
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

// What keeps a body from being JSON hides nothing else of it: each message is an event, and one that waits for an answer a
// warning.
func TestBodiesThatAreNearlyJSON(t *testing.T) {
	for name, test := range map[string]struct{ text, want string }{
		"Latin-1":                     {"\xe9t\xe9", "\uFFFDt\uFFFD"},
		"several bytes in a row":      {"a\xff\xfe\xfdb", "a\uFFFDb"},
		"half a character at the end": {"a\xe2\x82", "a\uFFFD"},
		"a surrogate":                 {"a\xed\xa0\x80b", "a\uFFFDb"},
		"a character too long":        {"a\xc0\x80b", "a\uFFFDb"},
		"a tab":                       {"a\tb", "a\tb"},
		"a line end":                  {"a\r\nb", "a\r\nb"},
		"an escape":                   {"a\x1b[31mb", "a\x1b[31mb"},
		"behind an escaped quote":     {`a\"` + "\x01" + `\\`, "a\"\x01\\"},
		"a backslash before it":       {`a\\` + "\n", "a\\\n"},
		"and one that is no escape":   {`a\` + "\n", "a\\\n"},
		"a path":                      {`C:\dir\x.txt`, `C:\dir\x.txt`},
		"a dollar":                    {`a\$b\'\\`, `a\$b\'\`},
		"half an escape":              {`a\u12 \uD83 \u00e9`, `a\u12 \uD83 é`},
	} {
		t.Run(name, func(t *testing.T) {
			body := `{"os-messages":[{"sequence-number":1,"message-text":"A"},{"sequence-number":2,"message-text":"` + test.text +
				`"},{"sequence-number":3,"message-text":"C","is-held":true}]}`
			for _, mark := range []string{"", "\uFEFF"} {
				all := convertAll(t, newConverter(), "u.1osm.e12121da", partitionHeaders("os-message"), mark+body)
				if len(all) != 3 {
					t.Fatalf("%d events, want 3: %q", len(all), mark+body)
				}
				if got := event.String(event.Member(all[1].Body, "message-text")); got != test.want || all[2].Severity != event.SeverityWarning {
					t.Errorf("%q, want %q; %s", got, test.want, all[2].Severity)
				}
			}
		})
	}
	// What is not nearly so stays as it came.
	for _, body := range []string{`{"os-messages":[`, `{"a":1}{"b":2}`, "{\x01}", `'x'`, "\x00", `{"a":"b\`} {
		all := convertAll(t, newConverter(), "u.1osm.e12121da", partitionHeaders("os-message"), body)
		if len(all) != 1 || all[0].BodyText != body || len(all[0].Body) > 0 {
			t.Errorf("%q: %+v", body, all)
		}
	}
}

// Numbers are written in more than one way.
func TestNumbersAsHMCsWriteThem(t *testing.T) {
	for _, test := range []struct {
		value string
		want  int64
	}{
		{"1564", 1564},
		{`"1564"`, 1564},
		{"1564.0", 1564},
		{"1.557755398299E12", 1557755398299},
		{`"-1"`, -1},
		{"-1", -1},
		{"9223372036854775807", 9223372036854775807},
		{`"9223372036854775807"`, 9223372036854775807},
		{"1e300", 0},
		{"1.5", 0},
		{`"x"`, 0},
		{`""`, 0},
		{"null", 0},
		{"true", 0},
		{"[1]", 0},
		{`"0x10"`, 0},
	} {
		if m := event.ParseOSMessage([]byte(`{"sequence-number":` + test.value + `}`)); m.Number != test.want {
			t.Errorf("%s: %d, want %d", test.value, m.Number, test.want)
		}
	}
}

// So may booleans be, in strings; what is none says nothing.
func TestBooleansAsHMCsWriteThem(t *testing.T) {
	for value, want := range map[string]struct{ held, judged bool }{
		"true": {true, true}, `"true"`: {true, true}, "false": {false, true}, `"false"`: {false, true}, "null": {}, `"yes"`: {}, "1": {}, `""`: {}, "[]": {},
	} {
		if m := event.ParseOSMessage([]byte(`{"is-held":` + value + `}`)); m.Held != want.held {
			t.Errorf("%s: held %v", value, m.Held)
		}
		for r := range event.Reports([]byte(`{"change-reports":[{"has-unacceptable-status":` + value + `}]}`)) {
			if r.Judged != want.judged || r.Unacceptable != want.held {
				t.Errorf("%s: %+v", value, r)
			}
		}
	}
}

// A broker that was started again may use its ids once more. Two notifications differ all the same if any header does; what is
// of one delivery is none of the notification, and nor is the order of the headers.
func TestIDsTakeTheHeadersIn(t *testing.T) {
	id := func(headers receiver.Headers) event.ID {
		var n Notification
		n.Parse(&receiver.Notification{Topic: "u.1", Headers: headers}, true)
		id, certain := n.ID("hmc-east")
		if !certain {
			t.Error("not certain")
		}
		return id
	}
	headers := append(partitionHeaders("inventory-change"), receiver.Header{Name: "action", Value: "add"}, receiver.Header{Name: "element-uri", Value: "/api/x"},
		receiver.Header{Name: "property-names", Value: " a "}, receiver.Header{Name: "job-uri", Value: "/api/jobs/1"}, receiver.Header{Name: "new-header", Value: "a"},
		receiver.Header{Name: "newer-header", Value: "b"})
	first := id(headers)
	for i := range headers {
		other := slices.Clone(headers)
		other[i].Value += "x"
		if id(other) == first {
			t.Errorf("another %s, and the same id", headers[i].Name)
		}
	}
	if id(headers[:len(headers)-1]) == first {
		t.Error("one header less, and the same id")
	}
	swapped := slices.Clone(headers)
	swapped[len(headers)-1].Value, swapped[len(headers)-2].Value = "a", "b"
	if id(swapped) == first {
		t.Error("values of each other, and the same id")
	}
	again := append(slices.Clone(headers), receiver.Header{Name: "redelivered", Value: "true"}, receiver.Header{Name: "subscription", Value: "7"})
	slices.Reverse(again)
	if id(again) != first {
		t.Error("sent again, and another id")
	}
	twice := append(slices.Clone(headers), receiver.Header{Name: "object-uri", Value: "/api/other"})
	if id(twice) != first {
		t.Error("of a header that comes twice the second counts")
	}
}

// Without an id of the broker two notifications that say the same are two, and a consumer tells them apart.
func TestNotificationsWithoutID(t *testing.T) {
	var ids []event.ID
	for i := range 2 {
		var n Notification
		n.Parse(&receiver.Notification{Topic: "u.1", Received: time.Unix(1700000000, int64(i)), Headers: receiver.Headers{
			{Name: "notification-type", Value: "inventory-change"}, {Name: "object-uri", Value: "/api/partitions/1"}, {Name: "action", Value: "add"},
		}}, true)
		id, certain := n.ID("hmc-east")
		if certain {
			t.Error("certain")
		}
		ids = append(ids, id)
	}
	if ids[0] == ids[1] {
		t.Error("two notifications have one id")
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
		{`[{"new-status":"stopped"}]`, "now stopped", event.SeverityWarning},
		{`[{"old-status":null,"new-status":"stopped"}]`, "now stopped", event.SeverityWarning},
		{`[{"old-status":"active"}]`, "no longer active", event.SeverityInfo},
		{`[{"old-status":"active","new-status":"stopped"},{"has-unacceptable-status":true}]`, "active -> stopped", event.SeverityWarning},
		{`[{"old-status":"active"},{"new-status":"stopped"}]`, "active -> stopped", event.SeverityWarning},
		{`[{"new-status":"stopping"},{"new-status":"stopped"}]`, "stopping -> stopped", event.SeverityWarning},
		{`[{"old-status":"active","new-status":"active"}]`, "active -> active", event.SeverityInfo},
	} {
		e := described(newConverter(), "status-change", `{"change-reports":`+test.body+`}`, "class", "partition", "name", "P")[0]
		if !strings.HasSuffix(e.Summary, ": "+test.summary) || e.Severity != test.severity {
			t.Errorf("%s: %q, %s", test.body, e.Summary, e.Severity)
		}
	}
}

// A report that names no status is rated by the one that there is: nothing is over because an additional status has changed.
func TestReportsThatNameNoStatus(t *testing.T) {
	c := newConverter()
	headers := []string{"class", "logical-partition", "name", "LP01", "object-uri", "/api/logical-partitions/1"}
	change := func(reports string) event.Event {
		return described(c, "status-change", `{"change-reports":`+reports+`}`, headers...)[0]
	}
	for _, step := range []struct{ reports, summary, severity string }{
		{`[{"new-additional-status":"a"}]`, "(additional status a)", event.SeverityInfo}, // nothing is known
		{`[{"old-status":"operating","new-status":"not-operating"}]`, "operating -> not-operating", event.SeverityCritical},
		{`[{"old-additional-status":"a","new-additional-status":"b"}]`, "(additional status b)", event.SeverityCritical},
		{`[{"old-status":null,"new-status":null,"old-additional-status":"b","new-additional-status":null}]`, "status changed", event.SeverityCritical},
		{`[{"has-unacceptable-status":false}]`, "the status not-operating is acceptable now", event.SeverityInfo},
		{`[{"old-additional-status":null,"new-additional-status":"c"}]`, "(additional status c)", event.SeverityInfo},
		{`[{"has-unacceptable-status":true}]`, "the status not-operating is unacceptable now", event.SeverityCritical},
		{`[{"old-status":"not-operating"}]`, "no longer not-operating", event.SeverityInfo}, // what it is now, nobody says
		{`[{"old-status":"exceptions"}]`, "no longer exceptions", event.SeverityCritical},
		{`[{}]`, "status changed", event.SeverityCritical},
		{`[{"old-status":"not-operating","new-status":"operating","has-unacceptable-status":false}]`, "not-operating -> operating", event.SeverityInfo},
		{`[{"old-additional-status":"c","new-additional-status":"d"}]`, "(additional status d)", event.SeverityInfo},
	} {
		if e := change(step.reports); !strings.Contains(e.Summary, "LP01: "+step.summary) || e.Severity != step.severity || e.Repeat {
			t.Errorf("%s: %q, %s, repeat %v", step.reports, e.Summary, e.Severity, e.Repeat)
		}
	}
}

// An additional status that is empty is none, whichever way an HMC writes that: the change is the same.
func TestEmptyAdditionalStatus(t *testing.T) {
	c, says := newConverter(), make(map[event.ID]bool)
	for i, additional := range []string{`null,"new-additional-status":null`, `"","new-additional-status":""`, `null,"new-additional-status":""`, `"","new-additional-status":null`} {
		body := `{"change-reports":[{"old-status":"operating","new-status":"not-operating","old-additional-status":` + additional + `}]}`
		headers := []string{"class", "logical-partition", "name", "LP01", "object-uri", "/api/logical-partitions/1"}
		if e := described(c, "status-change", body, headers...)[0]; e.Repeat != (i > 0) || !strings.HasSuffix(e.Summary, "-> not-operating") {
			t.Errorf("%s: repeat %v, %q", additional, e.Repeat, e.Summary)
		}
		var n Notification
		n.Parse(&receiver.Notification{
			Topic: "u.1", Body: []byte(body),
			Headers: receiver.Headers{{Name: "notification-type", Value: "status-change"}, {Name: "object-uri", Value: "/api/logical-partitions/1"}},
		}, true)
		what, _, ok := n.Content()
		says[what] = ok
	}
	if len(says) != 1 {
		t.Errorf("%d HMCs of a group say %d things", 4, len(says))
	}
}

// A time that no clock of an HMC can have told is none: one that JSON cannot hold, one in seconds or microseconds.
func TestTimesBeyondTheEra(t *testing.T) {
	headerTime := time.UnixMilli(1557755398299)
	for _, ms := range []string{
		"253402300800000", "9223372036854775807", "-1", "0", "x", "1", "1796016528", "1796016528868000", "253402300799999",
		"946684799999", "4102444800000",
	} {
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
		if e := convertAll(t, newConverter(), "u.1aud", partitionHeaders("log-entry"), body)[0]; !e.Time.Equal(headerTime) {
			t.Errorf("log entry of %s: %s", ms, e.Time)
		}
		body = fmt.Sprintf(`{"os-messages":[{"sequence-number":1,"timestamp":%s}]}`, strings.Replace(ms, "x", "null", 1))
		if e := convertAll(t, newConverter(), "u.1osm.0", partitionHeaders("os-message"), body)[0]; !e.Time.Equal(headerTime) {
			t.Errorf("OS message of %s: %s", ms, e.Time)
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

// The items of a log entry come in no particular order: the entry is the same.
func TestLogEntryWithItemsInAnotherOrder(t *testing.T) {
	item := func(n int, value string) string {
		return fmt.Sprintf(`{"data-item-number":%d,"data-item-type":"string","data-item-value":%q}`, n, value)
	}
	id := func(items ...string) event.ID {
		l := ParseLogEntry([]byte(`{"event-time":1574705197000,"event-id":"1941","event-data-items":[` + strings.Join(items, ",") + `]}`))
		return l.ID("hmc-east", "audit")
	}
	first := id(item(0, "a"), item(1, "b"), item(10, "c"))
	for _, same := range []event.ID{id(item(1, "b"), item(0, "a"), item(10, "c")), id(item(10, "c"), item(1, "b"), item(0, "a"))} {
		if same != first {
			t.Error("another order, and another id")
		}
	}
	for _, other := range []event.ID{
		id(), id(item(0, "a"), item(1, "b")), id(item(0, "b"), item(1, "a"), item(10, "c")), id(item(0, "a"), item(1, "b"), item(10, "c"), item(10, "c")),
	} {
		if other == first {
			t.Error("other items, and the same id")
		}
	}
}

// Of several changes of a property that is a status the last one counts; of two such properties the worse.
func TestTheLastValueOfAStatusPropertyCounts(t *testing.T) {
	for _, test := range []struct{ reports, want string }{
		{`"fulfillment-state","complete","incomplete";"fulfillment-state","incomplete","complete"`, event.SeverityInfo},
		{`"fulfillment-state","incomplete","complete";"fulfillment-state","complete","incomplete"`, event.SeverityWarning},
		{`"fulfillment-state","complete","incomplete";"description","a","b"`, event.SeverityWarning},
		{`"physical-channel-status","operating","stopped";"fulfillment-state","incomplete","complete"`, event.SeverityWarning},
		{`"physical-channel-status","operating","stopped";"physical-channel-status","stopped","operating"`, event.SeverityInfo},
	} {
		var reports []string
		for r := range strings.SplitSeq(test.reports, ";") {
			v := strings.Split(r, ",")
			reports = append(reports, fmt.Sprintf(`{"property-name":%s,"old-value":%s,"new-value":%s}`, v[0], v[1], v[2]))
		}
		e := described(newConverter(), event.TypePropertyChange, `{"change-reports":[`+strings.Join(reports, ",")+`]}`,
			"class", "storage-group", "name", "SG1", "object-uri", "/api/storage-groups/1")[0]
		if e.Severity != test.want {
			t.Errorf("%s: %s, want %s", test.reports, e.Severity, test.want)
		}
	}
}

// A status change that tells nothing at all does not say that all is well: the status is what it was.
func TestStatusChangeThatTellsNothing(t *testing.T) {
	for _, body := range []string{`{"change-reports":[]}`, `{"change-reports":[{}]}`, `{}`, `null`, `{"change-reports":[{"new-status":null}]}`} {
		c := newConverter()
		described(c, event.TypeStatusChange, `{"change-reports":[{"old-status":"active","new-status":"stopped"}]}`)
		e := described(c, event.TypeStatusChange, body)[0]
		if e.Severity != event.SeverityWarning || e.Summary != "partition PART1 on CPC1: status changed" {
			t.Errorf("%s: %s, %s", body, e.Severity, e.Summary)
		}
	}
}

// The class of a CPC or partition is in its URI too, where the HMC does not say it.
func TestClassOfTheURI(t *testing.T) {
	c := newConverter()
	e := described(c, event.TypeStatusChange, `{"change-reports":[{"old-status":"active","new-status":"stopped"}]}`,
		"object-uri", "/api/partitions/e12121da")[0]
	if e.Resource.Class != "partition" || e.Summary != "partition PART1 on CPC1: active -> stopped" {
		t.Errorf("%+v: %s", e.Resource, e.Summary)
	}
	if known, _ := c.estate.Lookup("/api/partitions/e12121da"); known.Status != "stopped" {
		t.Errorf("%+v", known)
	}
	for _, headers := range [][]string{
		{"object-uri", "/api/partitions/e12121da", "element-uri", "/api/partitions/e12121da/nics/1"}, // the class is that of the element
		{"object-uri", "/api/adapters/1"},
		{"name", "X"},
	} {
		if e := described(newConverter(), event.TypeInventoryChange, "", headers...)[0]; e.Resource.Class != "" {
			t.Errorf("%q: %s", headers, e.Resource.Class)
		}
	}
}
