package hmc

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// An answer that is nearly JSON is read as a notification is: one byte that is wrong hides nothing, and a text is the same
// text by both ways.
func TestAnswersThatAreNearlyJSON(t *testing.T) {
	const body = "{\"os-messages\":[{\"message-text\":\"a\xe9b\"},{\"message-text\":\"c\nd\x1b\"}]}"
	messages := list{member: "os-messages"}
	if err := decodeAnswer([]byte(body), false, &messages); err != nil || len(messages.elements) != 2 {
		t.Fatalf("%v: %d elements", err, len(messages.elements))
	}
	for i, want := range []string{"a\uFFFDb", "c\nd\x1b"} {
		var m struct {
			Text string `json:"message-text"`
		}
		if err := json.Unmarshal(messages.elements[i], &m); err != nil || m.Text != want {
			t.Errorf("%v: %q, want %q", err, m.Text, want)
		}
		if strings.Contains(string(messages.elements[i]), "\xe9") {
			t.Errorf("%q is not UTF-8", messages.elements[i])
		}
	}
	names := limited[CPC]{member: "cpcs", max: 1}
	if err := decodeAnswer([]byte("{\"cpcs\":[{\"name\":\"a\tb\"},{\"name\":\"c"), true, &names); err != nil || len(names.items) != 1 || names.items[0].Name != "a\tb" {
		t.Errorf("%v: %+v", err, names)
	}
	for _, text := range []string{"<html>", `{"os-messages":[`, "{\"a\":1}{\x01"} {
		if err := decodeAnswer([]byte(text), false, &list{member: "os-messages"}); err == nil {
			t.Errorf("%q is read", text)
		}
	}
}

// What is of another type than it is documented to be hides nothing else: nobody is kept from following an HMC by how it writes a
// number that is only for information, and a session that has ended is known as such.
func TestAnswersOfOtherTypes(t *testing.T) {
	for value, want := range map[string]int{
		"30": 30, `"30"`: 30, "30.0": 30, "0": 0, "-1": -1, "-7": -1, `"never"`: -1, "null": -1, "true": -1, "[1]": -1, "1.5": -1,
		"36500": 36500, "36501": -1, "2147483647": -1, "9223372036854775807": -1, "1e300": -1,
	} {
		w := startWire(t, "127.0.0.1:0", func(int, request) string {
			return jsonAnswer(200, fmt.Sprintf(`{"api-session":%q,"session-credential":%q,"password-expires":%s}`, testToken, testCredential, value))
		})
		s, err := w.client(Options{}).Logon(t.Context(), "monitor", testPassword)
		if err != nil || s.PasswordExpires != want {
			t.Errorf("password-expires %s: %v, %v", value, s, err)
		}
	}
	for reason, lost := range map[string]bool{"5": true, `"5"`: true, "4.0": true, `"4"`: true, "1": false, `"x"`: false, "null": false, "5.5": false} {
		w := startWire(t, "127.0.0.1:0", func(int, request) string {
			return jsonAnswer(403, `{"http-status":403,"reason":`+reason+`,"message":"m"}`)
		})
		if err := w.client(Options{}).Resume(testToken, testCredential).Ping(t.Context()); SessionLost(err) != lost {
			t.Errorf("reason %s: %v", reason, err)
		}
	}
	w := startWire(t, "127.0.0.1:0", func(int, request) string {
		return jsonAnswer(200, `{"partitions":[{"name":7,"object-uri":"/api/partitions/1","has-unacceptable-status":"true","type":[1]},`+
			`{"name":"P2","object-uri":"/api/partitions/2","status":"active","has-unacceptable-status":true}]}`)
	})
	list, err := w.client(Options{}).Resume(testToken, testCredential).ListPermittedPartitions(t.Context())
	if err != nil || len(list) != 2 || list[0].Name != "" || list[0].ObjectURI == "" || list[0].HasUnacceptableStatus != nil ||
		list[1].Name != "P2" || list[1].HasUnacceptableStatus == nil || !*list[1].HasUnacceptableStatus {
		t.Errorf("%+v, %v", list, err)
	}
}
