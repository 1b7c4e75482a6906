package render

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func rec(change func(*event.Event)) event.Record {
	at := time.Date(2026, 11, 20, 10, 0, 0, 123e6, time.UTC)
	n := int64(9007199254740993)
	e := &event.Event{
		ID: "9f0c", HMC: "hmc-east", Type: event.TypeStatusChange, Time: at, Received: at.Add(time.Second), Origin: event.OriginLive,
		Topic: "ensadmin.145", TopicType: event.TopicObject, SessionSequenceNr: &n, Severity: event.SeverityWarning,
		Resource: &event.Resource{Class: "partition", Name: `P"1`, ObjectURI: "/api/partitions/p", CPC: "CPC1"},
		Summary:  "partition P\"1 on CPC1:\nactive -> 'stopped'", SeenBy: []string{"a", "b"},
		Headers:  event.Headers{{Name: "notification-type", Value: "status-change"}, {Name: "name", Value: `P"1`}},
		Body:     json.RawMessage(`{"change-reports":[{"old-status":"active","new-status":"stopped","n":3,"f":1.5,"big":12345678901234567890,"none":null}],"userid":"zbc","at":1795168800123,"ok":false}`),
		BodyText: "plain",
	}
	if change != nil {
		change(e)
	}
	return event.NewRecord(e)
}

const plain = "text/plain"

func execute(t *testing.T, text string, opts Options, records ...event.Record) (string, error) {
	t.Helper()
	tmpl, err := New(text, opts)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	out, err := tmpl.Execute(records)
	return string(out), err
}

func TestExecute(t *testing.T) {
	full := rec(nil)
	bare := event.NewRecord(&event.Event{ID: "1", HMC: "h", Type: "t", Time: time.Unix(0, 0), Received: time.Unix(0, 0), Origin: "bridge", Severity: "info"})
	for _, test := range []struct {
		text, want string
		bare       string
	}{
		{"{{.ID}} {{.HMC}} {{.Type}} {{.Origin}} {{.Severity}}", "9f0c hmc-east status-change live warning", "1 h t bridge info"},
		{"{{.Time}} {{.Received}}", "2026-11-20T10:00:00.123Z 2026-11-20T10:00:01.123Z", "1970-01-01T00:00:00.000Z 1970-01-01T00:00:00.000Z"},
		{"[{{.Topic}} {{.TopicType}} {{.SessionSequenceNr}} {{.GlobalSequenceNr}}]", "[ensadmin.145 object 9007199254740993 ]", "[   ]"},
		{"[{{.Resource.Class}} {{.Resource.Name}} {{.Resource.ObjectURI}} {{.Resource.CPC}} {{.Resource.ElementID}}]", `[partition P"1 /api/partitions/p CPC1 ]`, "[    ]"},
		{"{{.Summary}}", "partition P\"1 on CPC1:\nactive -> 'stopped'", ""},
		{"{{.Repeat}} {{.SeenBy}} {{join \", \" .SeenBy}} {{.BodyText}}", `false ["a","b"] a, b plain`, "false null  "},
		{`[{{index .Headers "name"}} {{.Headers.name}} {{index .Headers "none"}}]`, `[P"1 P"1 ]`, "[  ]"},
		{"[{{.Body.userid}}{{.Body.none}}]", "[zbc]", "[]"},
		{`{{field "change-reports.0.new-status" .Body}}`, "stopped", ""},
		{`{{.Body | field "change-reports.0.n"}} {{field "change-reports.0.f" .Body}} {{field "change-reports.0.big" .Body}}`, "3 1.5 12345678901234567000", "  "},
		{`{{field "change-reports.1" .Body}}{{field "change-reports.x" .Body}}{{field "change-reports.0.none.x" .Body}}{{field "userid.x" .Body}}{{field "x" nil}}`, "", ""},
		{`{{field "name" .Headers}}`, `P"1`, ""},
		{`{{if eq (field "change-reports.0.n" .Body) 3}}three{{else}}not{{end}} {{eq .Body.userid "zbc"}}`, "three true", "not false"},
		{`{{range $i, $r := field "change-reports" .Body}}{{$i}}{{$r}}{{else}}none{{end}}`, `0{"big":12345678901234567000,"f":1.5,"n":3,"new-status":"stopped","none":null,"old-status":"active"}`, "none"},
		{"{{json .Summary}}", `"partition P\"1 on CPC1:\nactive -> 'stopped'"`, `""`},
		{`"{{js .Summary}}"`, `"partition P\"1 on CPC1:\nactive -> 'stopped'"`, `""`},
		{`{{json .Body.userid}} {{json .Body.x}} {{json .Body.at}} {{json .SeenBy}} {{js .Body.at}}`, `"zbc" null 1795168800123 ["a","b"] 1795168800123`, `null null null null `},
		{"{{json .}}", string(full.JSON), string(bare.JSON)},
		{"{{.}}", string(full.JSON), string(bare.JSON)},
		{`{{upper .Type}} {{lower "ÄB"}} {{trim "  x\n"}}`, "STATUS-CHANGE äb x", "T äb x"},
		{`{{default "none" .Resource.Name}} {{.Body.ok | default true}} {{default 7 .Body.x}}`, `P"1 false 7`, "none true 7"},
		{`{{date "2006-01-02 15:04:05" .Time}} {{date "unix" .Time}} {{date "unixmilli" .Time}} {{date "15:04:05.000" .Body.at}}`, "2026-11-20 10:00:00 1795168800 1795168800123 10:00:00.123", "1970-01-01 00:00:00 0 0 "},
		{`{{date "unix.000" .Time}} {{date "unixnano" .Time}} {{date "unix.000" .Body.at}} {{date "unixnano" .Received}}{{date "unixnano" nil}}`, "1795168800.123 1795168800123000000 1795168800.123 1795168801123000000", "0.000 0  0"},
		{`{{sha256 "abc"}} {{.Body.none | sha256 | truncate 9}}`, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad e3b0c442…", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad e3b0c442…"},
		{"{{regexReplace `^(\\w+)-(\\w+)$` \"$2 of ${1}\" .Type}} {{\"a1b22\" | regexReplace `[0-9]` \"#\"}} {{regexReplace \"x*\" \"-\" \"ab\"}} {{regexReplace \"b\" \"$0$0\" \"abc\"}}", "change of status a#b## -a-b- abbc", "t a#b## -a-b- abbc"},
		{`{{truncate 5 "äöüabc"}} {{truncate 6 "äöüabc"}} {{truncate 0 "a"}}{{truncate -1 "a"}}{{truncate 1 "ab"}}`, "äöüa… äöüabc …", "äöüa… äöüabc …"},
		{`{{replace "-" "_" .Type}} {{replace "" "x" "y"}} {{contains "status" .Type}}`, "status_change y true", "t y false"},
		{`{{printf "%s/%05d" .HMC 42}} {{print 1 2}} {{println "x"}}{{html "<a>"}} {{urlquery "a b&"}}`, "hmc-east/00042 1 2 x\n&lt;a&gt; a+b%26", "h/00042 1 2 x\n&lt;a&gt; a+b%26"},
		{`{{define "x"}}<{{.}}>{{end}}{{template "x" .HMC}}{{template "x"}}{{with $y := .Topic}}{{$y}}{{end}}`, "<hmc-east><>ensadmin.145", "<h><>"},
		{`{{range 5}}{{if eq . 1}}{{continue}}{{end}}{{if eq . 4}}{{break}}{{end}}{{.}}{{end}}`, "023", "023"},
	} {
		for _, c := range []struct {
			r    event.Record
			want string
		}{{full, test.want}, {bare, test.bare}} {
			got, err := execute(t, test.text, Options{ContentType: plain}, c.r)
			if err != nil || got != c.want {
				t.Errorf("%s\n gives %q, %v\n want  %q", test.text, got, err, c.want)
			}
		}
	}
}

func TestExecuteBatch(t *testing.T) {
	opts := Options{Batch: true, ContentType: "application/json"}
	const text = `{"records": [{{range $i, $e := .Events}}{{if $i}},{{end}}{"s": {{json $e.Summary}}}{{end}}], "all": {{json .}}}`
	a, b := rec(nil), rec(func(e *event.Event) { e.ID = "2" })
	got, err := execute(t, text, opts, a, b)
	if err != nil {
		t.Fatal(err)
	}
	s := `{"s": "partition P\"1 on CPC1:\nactive -> 'stopped'"}`
	if want := `{"records": [` + s + "," + s + `], "all": [` + string(a.JSON) + "," + string(b.JSON) + "]}"; got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	if _, err := execute(t, "{{.ID}}", Options{}, a, b); err == nil {
		t.Error("two events by a template for one")
	}
}

// TestNewRefuses has what is found when the configuration is read.
func TestNewRefuses(t *testing.T) {
	const jsonType = "application/json; charset=utf-8"
	for _, test := range []struct {
		name, text string
		opts       Options
		line       int
		msg        string
	}{
		{"empty", " \n", Options{}, 0, "is empty"},
		{"too large", strings.Repeat("x", MaxTemplate+1), Options{}, 0, "larger than 64 KiB"},
		{"syntax", "a\n{{.ID", Options{}, 2, "unclosed action"},
		{"no end", "a\n{{if .ID}}\n", Options{}, 3, "unexpected EOF"},
		{"unknown function", "\n\n{{env \"HOME\"}}", Options{}, 3, `function "env" not defined`},
		{"private function", "{{_step 1}}", Options{}, 1, `function "_step" not defined`},
		{"unknown field", "\n{{.Text}}", Options{}, 2, "tried on a sample event of the type status-change: <.Text>: there is no field Text"},
		{"unknown field of a resource", "{{.Resource.Foo}}", Options{}, 1, "there is no field Foo"},
		{"deep in the body", "\n{{.Body.a.b}}", Options{}, 2, `write {{ field "change-reports.0.new-status" .Body }}`},
		{"index in the body", `{{index .Body "change-reports" 0}}`, Options{}, 1, `write {{ field`},
		{"not for every type", `{{if eq .Type "bridge-gap"}}{{.X}}{{end}}`, Options{}, 1, "a sample event of the type bridge-gap: <.X>"},
		{"event in a batch", "{{.ID}}", Options{Batch: true}, 1, "there is no field ID"},
		{"batch of one", "{{range .Events}}{{.ID}}{{end}}", Options{}, 1, "there is no field Events"},
		{"not escaped", "{\n\"text\": \"{{.Summary}}\"}", Options{ContentType: jsonType}, 2, "the output is not valid JSON"},
		{"not quoted", "{\"a\": {{json .ID}},\n\"text\": {{js .Summary}}}", Options{ContentType: jsonType}, 2, "the output is not valid JSON"},
		{"comma", "{\"text\": {{json .Summary}},\n\n}", Options{ContentType: jsonType}, 1, "the output is not valid JSON"},
		{"cut after it was escaped", `{"text": "{{truncate 100 (js .Summary)}}"}`, Options{ContentType: jsonType}, 1, "the output is not valid JSON"},
		{"no output for some", `{{if .Resource.Name}}{}{{end}}`, Options{ContentType: "application/x+json"}, 0, "the output is not valid JSON"},
		{"itself", "{{define \"a\"}}{{template \"b\"}}{{end}}\n{{define \"b\"}}{{template \"a\"}}{{end}}{{template \"a\"}}", Options{}, 1, `template "a" calls itself`},
		{"not defined", "\n{{template \"a\"}}", Options{}, 2, `template "a" is not defined`},
		{"endless loop", "{{range 9999999999}}{{end}}", Options{}, 1, "it does too much"},
		{"loops in loops", "{{range 9999}}{{range 9999}}{{range 9999}}{{end}}{{end}}{{end}}", Options{}, 1, "it does too much"},
		{"templates that call two each", "{{define \"a\"}}x{{end}}" + doubling(40) + "{{template \"t39\"}}", Options{}, 1, "it does too much"},
		{"endless output", "{{range 99999}}xxxxxxxxxxxxxxxxxxxxxxxxxxx{{end}}", Options{}, 0, "the output is larger than 1 MiB"},
		{"a text that doubles", `{{$x := "a"}}{{range 64}}{{$x = print $x $x}}{{end}}`, Options{}, 1, "it does too much"},
		{"a text that is escaped again and again", `{{$x := "\""}}{{range 64}}{{$x = js $x}}{{end}}`, Options{}, 1, "it does too much"},
		{"a text whose parts are replaced", `{{$x := "aaaa"}}{{range 64}}{{$x = replace "a" "aaaa" $x}}{{end}}`, Options{}, 1, "it does too much"},
		{"a text whose parts are replaced by a pattern", `{{$x := "aaaa"}}{{range 64}}{{$x = regexReplace "a" "aaaa" $x}}{{end}}`, Options{}, 1, "it does too much"},
		{"a text that a pattern repeats", `{{$x := "aaaa"}}{{range 64}}{{$x = regexReplace ".+" "$0$0$0$0" $x}}{{end}}`, Options{}, 1, "it does too much"},
		{"a large pattern on a long text", "{{$x := \"\"}}{{range 3000}}{{$x = print $x \"ab\"}}{{end}}{{regexReplace `(a?b?){500}c` \"\" $x}}", Options{}, 1, "it does too much"},
		{"patterns of their own", `{{range $i := 9999}}{{regexReplace (printf "a%d{900}" $i) "" "a"}}{{end}}`, Options{}, 1, "it does too much"},
		{"no regular expression", "\n{{regexReplace \"(\" \"\" .Type}}", Options{}, 2, "regexReplace wants a regular expression"},
		{"a long regular expression", `{{regexReplace (printf "%999s%9s" "a" "a") "" .Type}}`, Options{}, 1, "a regular expression is longer than 1000 bytes"},
		{"a wide number", `{{printf "%9999d" 1}}`, Options{}, 1, "printf takes widths"},
		{"a width that is a value", `{{printf "%*d" 9999999 1}}`, Options{}, 1, "printf takes widths"},
		{"no date", `{{date "unix" .ID}}`, Options{}, 1, "date wants a time such as .Time"},
	} {
		t.Run(test.name, func(t *testing.T) {
			start := time.Now()
			_, err := New(test.text, test.opts)
			t.Logf("%s: %v", time.Since(start).Round(time.Millisecond), err)
			e, ok := errors.AsType[*Error](err)
			if !ok {
				t.Fatalf("a %T: %v", err, err)
			}
			if test.line != 0 && e.Line != test.line || !strings.Contains(e.Msg, test.msg) || strings.ContainsAny(e.Error(), "\n") {
				t.Errorf("got  line %d: %s\nwant line %d: %s", e.Line, e.Msg, test.line, test.msg)
			}
		})
	}
}

// doubling defines n templates, each of which calls the one before twice.
func doubling(n int) string {
	var b strings.Builder
	b.WriteString(`{{define "t0"}}{{end}}`)
	for i := 1; i < n; i++ {
		before := string(json.Number("t" + itoa(i-1)))
		b.WriteString(`{{define "t` + itoa(i) + `"}}{{template "` + before + `"}}{{template "` + before + `"}}{{end}}`)
	}
	return b.String()
}

func itoa(i int) string { return strings.TrimSpace(string(must(json.Marshal(i)))) }

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

// TestExecuteFails has events that a template cannot take although the samples were taken. The
// error says where, and nothing of the event.
func TestExecuteFails(t *testing.T) {
	const secret = "hunter2"
	for _, test := range []struct {
		name, text string
		line       int
		msg        string
	}{
		{"not JSON", "{\n\"type\": \"{{.Type}}\"}", 2, "the output is not valid JSON"},
		{"too large", "{\n\"a\": {{json .BodyText}}}", 2, "the output is larger than 1 MiB"},
		{"too much", "{\"a\":\n\"{{range .Body.list}}{{range $.Body.list}}{{end}}{{end}}\"}", 2, "it does too much"},
		{"another kind", "{\"a\": {{if eq (default 0 .Body.n) 3}}1{{else}}2{{end}}}", 1, "incompatible types for comparison"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := rec(func(e *event.Event) {
				e.Type, e.BodyText = `a"`+secret, strings.Repeat("x", MaxOutput)
				e.Body = json.RawMessage(`{"n":"` + secret + `","list":[` + strings.Repeat("1,", 5000) + `1]}`)
			})
			_, err := execute(t, test.text, Options{ContentType: "application/json"}, r)
			e, ok := errors.AsType[*Error](err)
			if !ok || e.Line != test.line || !strings.Contains(e.Msg, test.msg) || strings.Contains(err.Error(), secret) {
				t.Errorf("got %v, want line %d: %s", err, test.line, test.msg)
			}
		})
	}
}

func TestConcurrentUse(t *testing.T) {
	tmpl, err := New(`{{.ID}} {{range .SeenBy}}{{.}}{{end}} {{json .Body}}`, Options{})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			id := itoa(i)
			r := rec(func(e *event.Event) { e.ID, e.Body = id, json.RawMessage(`{"id":"`+id+`"}`) })
			for range 200 {
				if out, err := tmpl.Execute([]event.Record{r}); err != nil || string(out) != id+` ab {"id":"`+id+`"}` {
					t.Errorf("%s, %v", out, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// TestSamples holds the samples together with the types there are.
func TestSamples(t *testing.T) {
	seen := map[string]int{}
	for _, s := range Samples() {
		e, err := s.Record.Event()
		if err != nil {
			t.Fatalf("%s: %v", s.Name, err)
		}
		if err := e.Validate(); err != nil {
			t.Errorf("%s: %v", s.Name, err)
		}
		seen[e.Type]++
	}
	for _, kind := range append(event.NotificationTypes(), event.TypeBridgeConnected, event.TypeBridgeDisconnected, event.TypeBridgeGap,
		event.TypeBridgeHeartbeat, event.TypeBridgeTest, event.TypeStatusChangeSummary, event.TypeHardwareMessage) {
		if seen[kind] != 3 {
			t.Errorf("%d samples of %s, want 3", seen[kind], kind)
		}
	}
}

func FuzzNew(f *testing.F) {
	for _, s := range []string{
		"{{.ID}}", "{{range .SeenBy}}{{.}}{{end}}", `{{define "x"}}{{template "x"}}{{end}}`, `{{json .Body | truncate 5}}`,
		`{{field "a.0.b" .Body | default 1 | printf "%v"}}`, `{{block "b" .}}{{end}}{{break}}`, `{{$x := "a"}}{{range 5}}{{$x = js $x}}{{end}}`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, opts := range []Options{{}, {Batch: true, ContentType: "application/json"}} {
			tmpl, err := New(text, opts)
			if (tmpl == nil) == (err == nil) {
				t.Fatalf("%v, %v", tmpl, err)
			}
			if _, ok := errors.AsType[*Error](err); err != nil && !ok {
				t.Fatalf("a %T", err)
			}
		}
	})
}

func BenchmarkExecute(b *testing.B) {
	tmpl, err := New(`{"text": {{json .Summary}}, "status": {{field "change-reports.0.new-status" .Body | json}}, "at": "{{date "15:04" .Time}}"}`,
		Options{ContentType: "application/json"})
	if err != nil {
		b.Fatal(err)
	}
	rs := []event.Record{rec(nil)}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := tmpl.Execute(rs); err != nil {
			b.Fatal(err)
		}
	}
}

// TestFunctionsAreDocumented holds the documentation and the functions together.
func TestFunctionsAreDocumented(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "sinks.md"))
	if err != nil {
		t.Fatal(err)
	}
	for name := range (&run{}).functions() {
		if !regexp.MustCompile("(?m)^\\|.*`" + name + "[ `]").Match(doc) {
			t.Errorf("docs/sinks.md does not show the function %s", name)
		}
	}
	for _, field := range reflect.VisibleFields(reflect.TypeFor[Event]()) {
		if field.IsExported() && !field.Anonymous && !strings.Contains(string(doc), "`."+field.Name+"`") {
			t.Errorf("docs/sinks.md does not show the field %s", field.Name)
		}
	}
}

// Of several reports the last one says how things stand, also of a property that is a status by another name.
func TestStatusOfAnEvent(t *testing.T) {
	tmpl, err := New(`{{.OldStatus}}/{{.NewStatus}}/{{.StatusProperty}}/{{print .Unacceptable}}`, Options{})
	if err != nil {
		t.Fatal(err)
	}
	yes, no := true, false
	for _, test := range []struct {
		typ, class, reports string
		unacceptable        *bool
		want                string
	}{
		{event.TypeStatusChange, "partition", `{"old-status":"active","new-status":"stopping"},{"old-status":"stopping","new-status":"stopped"}`, &yes, "active/stopped//true"},
		{event.TypeStatusChange, "partition", `{"old-status":"active","new-status":"stopped"},{"has-unacceptable-status":false}`, &no, "active/stopped//false"},
		{event.TypeStatusChange, "partition", `{"has-unacceptable-status":false}`, &no, "///false"},
		{event.TypeStatusChange, "partition", "", nil, "///<nil>"},
		{
			event.TypePropertyChange, "storage-group", `{"property-name":"name","old-value":"a","new-value":"b"},` +
				`{"property-name":"fulfillment-state","old-value":"complete","new-value":"pending"},` +
				`{"property-name":"fulfillment-state","old-value":"pending","new-value":"incomplete"}`, nil, "complete/incomplete/fulfillment-state/<nil>",
		},
		{event.TypePropertyChange, "partition", `{"property-name":"fulfillment-state","new-value":"incomplete"}`, nil, "///<nil>"},
		{event.TypeJobCompletion, "partition", `{"old-status":"a","new-status":"b"}`, nil, "///<nil>"},
	} {
		got, err := tmpl.Execute([]event.Record{event.NewRecord(&event.Event{
			Type: test.typ, Resource: &event.Resource{Class: test.class}, Unacceptable: test.unacceptable,
			Body: []byte(`{"change-reports":[` + test.reports + `]}`),
		})})
		if err != nil || string(got) != test.want {
			t.Errorf("%s: %s, %v, want %s", test.reports, got, err, test.want)
		}
	}
}
