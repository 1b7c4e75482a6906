package hmc

import (
	"encoding/json"
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
