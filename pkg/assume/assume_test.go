package assume

import (
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func verdicts(o *Observer) map[string]string {
	all := make(map[string]string)
	for _, a := range o.Answers() {
		all[a.ID] = a.Verdict
	}
	return all
}

// TestAnswers has each question that no simulator answers answered both ways.
func TestAnswers(t *testing.T) {
	message := func(o *Observer, kind, body string, headers ...string) {
		o.Subscribe("t")
		o.Message("t", func(name string) string {
			for i := 0; i < len(headers); i += 2 {
				if headers[i] == name {
					return headers[i+1]
				}
			}
			if name == "notification-type" {
				return kind
			}
			return ""
		}, []byte(body))
	}
	for id, both := range map[string][2]func(o *Observer){
		Bulk: {
			func(o *Observer) { o.Request("submit-requests", "", 200) },
			func(o *Observer) { o.Request("submit-requests", "", 404) },
		},
		HeldFilter: {
			func(o *Observer) { o.Request("list-os-messages", "is-held=true", 200) },
			func(o *Observer) { o.Request("list-os-messages", "is-held=true", 400) },
		},
		MessageID: {
			func(o *Observer) { message(o, "os-message", `{"os-messages":[{"message-id":"0"},{"message-id":7}]}`) },
			func(o *Observer) { message(o, "os-message", `{"os-messages":[{"message-id":null}]}`) },
		},
		EntryDetails: {
			func(o *Observer) { message(o, "log-entry", `{"log-entries":[{"event-details":[]},{}]}`) },
			func(o *Observer) { message(o, "log-entry", `{"log-entries":[{"event-details":[{"a":"SECRETNAME"}]}]}`) },
		},
		EntryResource: {
			func(o *Observer) { message(o, "log-entry", `{}`, "class", "console") },
			func(o *Observer) { message(o, "log-entry", `{}`, "object-uri", "/api/SECRETNAME") },
		},
	} {
		for i, want := range []string{AsAssumed, Otherwise} {
			o := NewObserver()
			if got := verdicts(o)[id]; got != NotSeen {
				t.Errorf("%s: %s before anything was seen", id, got)
			}
			both[i](o)
			if got := verdicts(o)[id]; got != want {
				t.Errorf("%s: %s, want %s", id, got, want)
			}
			for _, a := range o.Answers() {
				if a.ID == id && (!strings.HasPrefix(a.String(), want+": ") || !strings.Contains(a.String(), " Seen: ") ||
					strings.Contains(a.String(), "SECRETNAME")) {
					t.Errorf("%s: %s", id, a)
				}
			}
		}
	}
}

const updateDocs = "HMCNOTIFYD_WRITE_DOCS"

// TestQuestionsAreDocumented holds the table of docs/hmc-behavior.md against the list.
func TestQuestionsAreDocumented(t *testing.T) {
	const file, heading = "../../docs/hmc-behavior.md", "## Open questions\n"
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, section, ok := strings.Cut(string(text), heading)
	intro, _, _ := strings.Cut(section, "\n| ")
	if !ok {
		t.Fatalf("%s has no %q", file, heading)
	}
	want := strings.TrimRight(intro, "\n") + "\n\n| | question | assumed first | otherwise |\n|---|---|---|---|\n"
	for _, q := range Questions() {
		want += "| " + q.ID + " | " + q.Asks + " | " + q.Assumed + " | " + q.Otherwise + " |\n"
	}
	if os.Getenv(updateDocs) != "" {
		if err := os.WriteFile(file, []byte(before+heading+want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if section != want {
		t.Errorf("%s is not as the list; %s=1 go test ./pkg/assume writes it", file, updateDocs)
	}
}
