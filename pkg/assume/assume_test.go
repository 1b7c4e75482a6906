package assume

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

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

// A restart of an HMC, and a notification that the program itself has dropped, are not what they are asked about.
func TestNoAnswers(t *testing.T) {
	now := time.Now()
	o := NewObserver()
	o.LinkEnded(now, true)
	o.Request(Exchange{Operation: "query-api-version", At: now})
	o.Request(Exchange{Operation: "list-cpcs", Status: 403, At: now.Add(time.Second), Answer: []byte(`{"reason":5}`)})
	header := func(nr int) func(string) string {
		return func(name string) string {
			if name == "session-sequence-nr" {
				return strconv.Itoa(nr)
			}
			return ""
		}
	}
	o.Subscribe("a")
	o.Subscribe("b")
	for i := range 5 {
		o.Message("a", header(i), nil)
		o.Message("b", header(i+100), nil)
	}
	o.Missed("a")
	o.Message("a", header(17), nil)
	if differs := o.Otherwise(); len(differs) > 0 {
		t.Error(differs)
	}
}

// Otherwise has the answers that are not as assumed, and no other.
func TestOtherwise(t *testing.T) {
	o := NewObserver()
	o.Request(Exchange{Operation: "submit-requests", Status: 200})
	if differs := o.Otherwise(); len(differs) > 0 {
		t.Error(differs)
	}
	o.Request(Exchange{Operation: "list-os-messages", Query: "is-held=true", Status: 400})
	if differs := o.Otherwise(); len(differs) != 1 || differs[0].ID != HeldFilter || differs[0].Verdict != Otherwise {
		t.Error(differs)
	}
}

// A message that was held and is missing in a list says something only where the list has what is before and behind it.
func TestHeldMessageIsMissing(t *testing.T) {
	const none, otherwise = "", Otherwise
	for name, test := range map[string]struct {
		notified int64 // a further message
		lists    []string
		want     string
	}{
		"others are there":             {7, []string{`[{"sequence-number":5},{"sequence-number":7}]`}, otherwise},
		"an IPL has taken all":         {9, []string{`[{"sequence-number":8},{"sequence-number":9}]`}, none},
		"nothing is listed":            {7, []string{`[]`}, none},
		"the list is older":            {7, []string{`[{"sequence-number":5}]`}, none},
		"and later it is missing":      {7, []string{`[{"sequence-number":5}]`, `[{"sequence-number":5},{"sequence-number":7}]`}, otherwise},
		"the numbers have begun anew":  {0, []string{`[{"sequence-number":0},{"sequence-number":9}]`}, none},
		"an IPL, and then all of them": {9, []string{`[{"sequence-number":8}]`, `[{"sequence-number":5},{"sequence-number":8}]`}, none},
	} {
		o := NewObserver()
		o.Subscribe("t")
		say := func(body string) {
			o.Message("t", func(name string) string {
				return map[string]string{"notification-type": "os-message", "object-uri": "/api/partitions/1"}[name]
			}, []byte(body))
		}
		say(`{"os-messages":[{"sequence-number":6,"is-held":true}]}`)
		say(fmt.Sprintf(`{"os-messages":[{"sequence-number":%d}]}`, test.notified))
		for _, list := range test.lists {
			o.Request(Exchange{
				Operation: "list-os-messages", URI: "/api/partitions/1/operations/list-os-messages", Status: 200,
				Answer: []byte(`{"os-messages":` + list + `}`),
			})
		}
		if got := verdicts(o)[Answered]; (got == Otherwise) != (test.want == otherwise) {
			t.Errorf("%s: %q", name, got)
		}
	}
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
	now := time.Now()
	only := func(name, value string) func(string) string {
		return func(asked string) string {
			if asked == name {
				return value
			}
			return ""
		}
	}
	connect := func(o *Observer, name, value string) { o.Frame("CONNECTED", only(name, value), nil) }
	unknown := func(o *Observer, reason int) {
		o.Request(Exchange{Operation: "list-cpcs", Status: 403, At: now.Add(time.Second), Answer: fmt.Appendf(nil, `{"reason":%d}`, reason)})
	}
	numbers := func(o *Observer, more string, all ...int) {
		for _, nr := range all {
			message(o, "os-message", fmt.Sprintf(`{"os-messages":[{"sequence-number":%d%s}]}`, nr, more), "object-uri", "/api/partitions/1")
		}
	}
	list := func(o *Observer, messages string) {
		o.Request(Exchange{
			Operation: "list-os-messages", URI: "/api/partitions/1/operations/list-os-messages", Status: 200,
			Answer: []byte(`{"os-messages":[` + messages + `]}`),
		})
	}
	sequence := func(o *Observer, topic string, nr int) {
		o.Message(topic, only("session-sequence-nr", strconv.Itoa(nr)), nil)
	}
	turns := func(o *Observer) { // so that it is sure that each topic counts for itself
		o.Subscribe("a")
		o.Subscribe("b")
		for i := range 3 {
			sequence(o, "a", i+1)
			sequence(o, "b", i+100)
		}
	}
	for id, both := range map[string][2]func(o *Observer){
		Bulk: {
			func(o *Observer) { o.Request(Exchange{Operation: "submit-requests", Status: 200}) },
			func(o *Observer) { o.Request(Exchange{Operation: "submit-requests", Status: 404}) },
		},
		HeldFilter: {
			func(o *Observer) {
				o.Request(Exchange{Operation: "list-os-messages", Query: "is-held=true", Status: 200})
			},
			func(o *Observer) {
				o.Request(Exchange{Operation: "list-os-messages", Query: "is-held=true", Status: 400})
			},
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
		Wrap: {
			func(o *Observer) { numbers(o, "", 2147483646, 0) },
			func(o *Observer) { numbers(o, "", 9999, 0) },
		},
		Answered: {
			func(o *Observer) { numbers(o, `,"is-held":true`, 6); list(o, `{"sequence-number":6,"is-held":false}`) },
			func(o *Observer) {
				numbers(o, `,"is-held":true`, 6)
				list(o, `{"sequence-number":5},{"sequence-number":7}`)
			},
		},
		SessionEnd: {
			func(o *Observer) { connect(o, "server", ""); unknown(o, 5) },
			func(o *Observer) { connect(o, "server", ""); o.LinkEnded(now, true); unknown(o, 4) },
		},
		LiveLink: {
			func(o *Observer) { turns(o); sequence(o, "a", 4) },
			func(o *Observer) { turns(o); sequence(o, "a", 9) },
		},
		BrokerKind: {
			func(o *Observer) { connect(o, "server", "ActiveMQ/5.15.2") },
			func(o *Observer) { connect(o, "server", "SECRETNAME/1") },
		},
		BrokerRefusal: {
			func(o *Observer) {
				o.Frame("ERROR", only("message", "User name [SECRETNAME] or password is invalid."), nil)
			},
			func(o *Observer) { o.Frame("ERROR", only("message", "SECRETNAME may not"), nil) },
		},
	} {
		for i, want := range []string{AsAssumed, Otherwise, AsAssumed, Otherwise} {
			o := NewObserver()
			o.Sampled = i >= 2
			if got := verdicts(o)[id]; got != NotSeen {
				t.Errorf("%s: %s before anything was seen", id, got)
			}
			both[i%2](o)
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
	want := strings.TrimRight(intro, "\n") + "\n\n| | question | what shows it | assumed first | otherwise |\n|---|---|---|---|---|\n"
	for _, q := range Questions() {
		want += "| " + q.ID + " | " + q.Asks + " | " + q.Shows + " | " + q.Assumed + " | " + q.Otherwise + " |\n"
	}
	if os.Getenv(updateDocs) != "" {
		if err := os.WriteFile(file, []byte(before+heading+want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if section != want {
		t.Errorf("%s is not as the list; %s=1 go test ./pkg/assume writes it", file, updateDocs)
	}
}
