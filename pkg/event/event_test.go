package event_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func sample() *event.Event {
	session, global := int64(12), int64(6399)
	return &event.Event{
		ID: "9f0c", HMC: "hmc-east", Type: event.TypeStatusChange,
		Time:              time.Date(2026, 11, 20, 10, 0, 0, 123e6, time.UTC),
		Received:          time.Date(2026, 11, 20, 11, 0, 0, 130e6, time.FixedZone("", 3600)),
		Topic:             "ensadmin.145",
		TopicType:         event.TopicObject,
		SessionSequenceNr: &session, GlobalSequenceNr: &global,
		Origin:   event.OriginLive,
		Resource: &event.Resource{Class: "partition", Name: "PART1", ObjectURI: "/api/partitions/p", ObjectID: "p", CPC: "CPC1"},
		Summary:  "partition PART1 on CPC1: active -> stopped", Severity: event.SeverityWarning,
		Headers: event.Headers{{Name: "notification-type", Value: "status-change"}, {Name: "name", Value: "PART1"}},
		Body:    json.RawMessage(`{"change-reports":[{"old-status":"active","new-status":"stopped"}]}`),
	}
}

// The JSON form is the project's interface: the fields, their names and their order.
func TestJSONForm(t *testing.T) {
	const want = `{"id":"9f0c","hmc":"hmc-east","type":"status-change","time":"2026-11-20T10:00:00.123Z","received":"2026-11-20T10:00:00.130Z",` +
		`"topic":"ensadmin.145","topic_type":"object","session_sequence_nr":12,"global_sequence_nr":6399,"origin":"live",` +
		`"resource":{"class":"partition","name":"PART1","object_uri":"/api/partitions/p","object_id":"p","cpc":"CPC1"},` +
		`"summary":"partition PART1 on CPC1: active -> stopped","severity":"warning",` +
		`"headers":{"notification-type":"status-change","name":"PART1"},"body":{"change-reports":[{"old-status":"active","new-status":"stopped"}]}}`
	if got := string(sample().AppendJSON(nil)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestJSONLeavesOutWhatIsAbsent(t *testing.T) {
	e := &event.Event{ID: "1", HMC: "h", Type: "t", Origin: "live", Severity: "info", Resource: &event.Resource{Name: "N"}}
	got := string(e.AppendJSON(nil))
	const want = `{"id":"1","hmc":"h","type":"t","time":"0001-01-01T00:00:00.000Z","received":"0001-01-01T00:00:00.000Z","origin":"live","resource":{"name":"N"},"severity":"info"}`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// What only some events have stands between severity and headers.
func TestJSONOfWhatIsRare(t *testing.T) {
	e := &event.Event{
		ID: "1", HMC: "h", Type: "t", Origin: "live", Severity: "info", Repeat: true, SeenBy: []string{"h", "i"},
		Resource: &event.Resource{Class: "nic", ElementID: "e", ElementName: "eth0"},
	}
	got := string(e.AppendJSON(nil))
	const want = `"resource":{"class":"nic","element_id":"e","element_name":"eth0"},"severity":"info","repeat":true,"seen_by":["h","i"]}`
	if !strings.HasSuffix(got, want) {
		t.Errorf("got  %s\nwant ...%s", got, want)
	}
	var back event.Event
	if err := json.Unmarshal([]byte(got), &back); err != nil || !back.Repeat || len(back.SeenBy) != 2 || back.Resource.ElementName != "eth0" {
		t.Errorf("%v, %+v", err, back)
	}
}

// A string that the HMC sent must come out as the same string, whatever is in it; bytes that are not UTF-8 become
// U+FFFD, since JSON has no other place for them.
func FuzzJSONStrings(f *testing.F) {
	for _, s := range []string{"", `"\`, "a\x00b\x1f\n\r\t", "\xff\xfe", "ü€😀", "\u2028", "ID:HMC-1-2:1", strings.Repeat("x", 300)} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, name, text string) {
		e := sample()
		e.Summary, e.BodyText = text, text
		e.Headers = event.Headers{{Name: name, Value: text}, {Name: name, Value: "second"}}
		data := e.AppendJSON(nil)
		if bytes.ContainsAny(data, "\n\r") {
			t.Fatalf("not on one line: %q", data)
		}
		var back event.Event
		if err := json.Unmarshal(data, &back); err != nil {
			t.Fatalf("%v: %s", err, data)
		}
		if want := asJSON(t, text); back.Summary != want || back.BodyText != want || back.Headers.Get(asJSON(t, name)) != want || len(back.Headers) != 1 {
			t.Errorf("%q came back as %+v", text, back)
		}
	})
}

// asJSON is s after a way through encoding/json, which replaces each byte that is not UTF-8.
func asJSON(t *testing.T, s string) string {
	t.Helper()
	data, err := json.Marshal(s)
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestRecordRoundTrip(t *testing.T) {
	e := sample()
	rec, err := event.ParseRecord(event.AppendRecord([]byte("before"), e)[len("before"):])
	if err != nil {
		t.Fatal(err)
	}
	if rec.ID != e.ID || rec.Type != e.Type || rec.Key != "/api/partitions/p" || !rec.Received.Equal(e.Received) {
		t.Errorf("record %+v", rec)
	}
	if want := string(e.AppendJSON(nil)); string(rec.JSON) != want {
		t.Errorf("JSON %s", rec.JSON)
	}
	back, err := rec.Event()
	if err != nil {
		t.Fatal(err)
	}
	if *back.SessionSequenceNr != 12 || back.Resource.CPC != "CPC1" || back.Headers[1].Value != "PART1" {
		t.Errorf("event %+v", back)
	}
}

func TestRecordRefusesWhatIsNoRecord(t *testing.T) {
	whole := event.AppendRecord(nil, sample())
	header := len(whole) - len(sample().AppendJSON(nil))
	for n := range header {
		if _, err := event.ParseRecord(whole[:n]); err == nil {
			t.Errorf("a record cut after %d bytes was taken", n)
		}
	}
	if _, err := event.ParseRecord(append([]byte{9}, whole[1:]...)); err == nil || !strings.Contains(err.Error(), "version 9") {
		t.Errorf("another version: %v", err)
	}
}

func FuzzParseRecord(f *testing.F) {
	f.Add(event.AppendRecord(nil, sample()))
	f.Add([]byte{1, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(_ *testing.T, data []byte) {
		if rec, err := event.ParseRecord(data); err == nil {
			_, _ = rec.Event()
		}
	})
}

func TestNewID(t *testing.T) {
	if event.NewID("ab", "c") == event.NewID("a", "bc") {
		t.Error("different parts gave the same id")
	}
	if a, b := event.NewID("hmc", "ID:1"), event.NewID("hmc", "ID:1"); a != b || len(a) != 32 {
		t.Errorf("ids %q and %q", a, b)
	}
}

func FuzzCompactValid(f *testing.F) {
	for _, s := range []string{
		`{}`, ` { "a" : [ 1 , 2 ] } `, "{\n\t\"a b\": \"c \\\" d\"\r\n}", `"\\"`, `["\\\" x", " "]`, `""`, ` 1 `, `{"a":" \\ "}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if !json.Valid(body) {
			return
		}
		var want bytes.Buffer
		if err := json.Compact(&want, body); err != nil {
			t.Fatal(err)
		}
		if got := event.CompactValid(body); !bytes.Equal(got, want.Bytes()) {
			t.Errorf("%q became %q, want %q", body, got, want.Bytes())
		}
	})
}

func BenchmarkAppendRecord(b *testing.B) {
	e := sample()
	for _, name := range []string{ // as many as an HMC sends
		"destination", "subscription", "message-id", "expires", "priority", "timestamp", "session-sequence-nr",
		"global-sequence-nr", "class", "object-id", "object-uri",
	} {
		e.Headers = append(e.Headers, event.Header{Name: name, Value: "/api/partitions/" + name})
	}
	buf := event.AppendRecord(nil, e)
	b.SetBytes(int64(len(buf)))
	for b.Loop() {
		buf = event.AppendRecord(buf[:0], e)
	}
}
