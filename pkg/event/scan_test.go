package event_test

import (
	"bytes"
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// The scanner must see what encoding/json sees, in everything that is valid JSON, and must end in everything else.
func FuzzScan(f *testing.F) {
	for _, s := range []string{
		`{"os-messages":[{"sequence-number":1564,"message-id":"0","message-text":" \n","os-name":null,"timestamp":-1,"is-held":false}]}`,
		`{"change-reports":[{"old-status":"active","new-status":"sto\"pped\\"}], "more" : [ 1 , -2.5e3, true,{"a":[]}, "x]" ] }`,
		`{}`, `[]`, ` [ ] `, `{"a":{}}`, `[[[]],{}]`, `1`, `"x"`, `null`, `{"\u0061":"\u0062"}`, `{"a"`, `[1`, `{"a":}`, `{,}`, `"`, `[`, `{`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		walk(t, data, json.Valid(data) && utf8.Valid(data), 0)
	})
}

// sameObject checks that the next element is this one, and has its members.
func sameObject(t *testing.T, o *event.Objects, element []byte, valid bool) {
	t.Helper()
	if !o.Next() {
		if valid {
			t.Fatalf("%q is no element", element)
		}
		return
	}
	if len(element)%2 == 0 { // else nobody asks for the members
		for name, value := range event.Members(element) {
			if there := o.Member(); valid && (!there || !bytes.Equal(o.Name, name) || !bytes.Equal(o.Value, value)) {
				t.Fatalf("%q: %q: %q, and not %q: %q", element, o.Name, o.Value, name, value)
			}
		}
		if more := o.Member(); valid && (more || !bytes.Equal(o.Raw(), element)) {
			t.Fatalf("%q: %q, and more: %v", element, o.Raw(), more)
		}
	}
}

func walk(t *testing.T, data []byte, valid bool, depth int) {
	t.Helper()
	var object map[string]json.RawMessage
	var array []json.RawMessage
	if valid {
		_ = json.Unmarshal(data, &object)
		_ = json.Unmarshal(data, &array)
	}
	names := map[string]bool{}
	for name, value := range event.Members(data) {
		names[string(name)] = true
		if depth < 50 && len(value) < len(data) {
			walk(t, value, valid, depth+1)
		}
		var text string
		if _ = json.Unmarshal(value, &text); valid && event.String(value) != text {
			t.Fatalf("%q is %q, and not %q", value, event.String(value), text)
		}
		event.Int(value)
	}
	i := 0
	objects := event.ObjectsIn(slices.Concat([]byte(`{ "b":[{}],"a" : `), data, []byte("}")), "a")
	for value := range event.Elements(data) {
		sameObject(t, &objects, value, valid)
		if valid && (i >= len(array) || !bytes.Equal(value, array[i])) {
			t.Fatalf("element %d of %q is %q", i, data, value)
		}
		i++
	}
	if more := objects.Next(); !valid {
		return
	} else if more {
		t.Fatalf("%q: %q as well", data, objects.Raw())
	}
	if i != len(array) {
		t.Fatalf("%q has %d elements, seen %d", data, len(array), i)
	}
	for name := range object {
		if !names[name] {
			t.Fatalf("%q: member %q was not seen", data, name)
		}
	}
}

func TestMembers(t *testing.T) {
	data := []byte(` { "a" : "x\ty" , "n":-12, "t":true, "o":{"z":[1,2]}, "last":null} `)
	if got := event.String(event.Member(data, "a")); got != "x\ty" {
		t.Errorf("string %q", got)
	}
	if got := event.Int(event.Member(data, "n")); got != -12 {
		t.Errorf("number %d", got)
	}
	if !event.True(event.Member(data, "t")) || event.True(event.Member(data, "last")) {
		t.Error("literals")
	}
	if got := string(event.Member(event.Member(data, "o"), "z")); got != "[1,2]" {
		t.Errorf("nested %q", got)
	}
	if event.Member(data, "absent") != nil {
		t.Error("absent member")
	}
}

func TestString(t *testing.T) {
	for _, text := range []string{
		`""`, `"a"`, `"a\n"`, `"\n\r\t\"\\\/"`, `"a\b\f"`, `"\u0041\n"`, `"caf\u00e9 é\n"`, `"\\"`, `"\""`, `"` + strings.Repeat(`x\n`, 600) + `"`,
		`"a\"`, `"a\`, `"a\n`, `"\x"`, `"a"b\n"`, "\"\x01\\n\"", `"`, `1`, `null`, `"\ud83d\ude00\n"`,
	} {
		var want string
		if json.Unmarshal([]byte(text), &want) != nil {
			want = ""
		}
		if got := event.String([]byte(text)); got != want {
			t.Errorf("%s is %q, want %q", text, got, want)
		}
	}
}

func TestInt(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "-0": 0, "7": 7, "-1": -1, `"17"`: 17, `"-17"`: -17, "1557755398299": 1557755398299,
		"999999999999999999": 999999999999999999, "-999999999999999999": -999999999999999999,
		"9223372036854775807": math.MaxInt64, "-9223372036854775808": math.MinInt64, "9223372036854775808": 0,
		"1.5e3": 1500, "1.5": 0, "-": 0, "": 0, "null": 0, "--1": 0, `"x"`: 0, "1x": 0,
	} {
		if got := event.Int([]byte(text)); got != want {
			t.Errorf("%s is %d, want %d", text, got, want)
		}
	}
}
