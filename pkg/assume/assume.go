// Package assume has the list of what nobody outside IBM has published about HMCs, and finds
// answers in what goes to and from one. It is fed with requests and frames, keeps no texts of
// them, and knows nothing of who sends them.
package assume

import (
	"encoding/json"
	"fmt"
	"strconv"
)

// Question is something about HMCs that is not known.
type Question struct {
	ID string
	// Asks is the question, Assumed the answer that the daemon is made for first, and Otherwise
	// what it does, or what goes wrong, where the other one is true.
	Asks, Assumed, Otherwise string
}

// The questions.
const (
	MessageID     = "message-id"
	Sequence      = "session-sequence"
	RefreshAgain  = "refresh-again"
	NumbersAtIPL  = "numbers-at-ipl"
	HeldFilter    = "held-filter"
	Bulk          = "submit-requests"
	HardwareTold  = "hardware-messages-told"
	EntryResource = "log-entry-resource"
	EntryDetails  = "event-details"
)

// Questions lists all of them.
func Questions() []Question {
	return []Question{
		{
			MessageID, "Is the message-id of an OS message a string or a number?",
			"either, as it is documented and as it was seen", "the id is left out",
		},
		{
			Sequence, "Does session-sequence-nr count per topic or per session?",
			"per topic", "the numbers of all topics are one sequence, which is known by what comes",
		},
		{
			RefreshAgain, "Are the OS messages that an HMC holds replayed to each subscription, or to the first only?",
			"to each", "they are fetched after a lost link",
		},
		{
			NumbersAtIPL, "Do the numbers of OS messages go on after an IPL?",
			"they go on", "they begin anew; messages are told apart by their text",
		},
		{
			HeldFilter, "Can OS messages that wait for an answer be listed alone (is-held)?",
			"for LPARs", "all messages are listed",
		},
		{
			Bulk, "Does the HMC take several requests in one (Submit Requests)?",
			"it does", "properties are asked for one by one, which takes more of the budget",
		},
		{
			HardwareTold, "Is each hardware message notified?",
			"only that there are any", "it is known at once, and not with the next list",
		},
		{
			EntryResource, "Does the notification of a log entry name a resource?",
			"it names none", "the resource is in the event",
		},
		{
			EntryDetails, "Are there event-details in log entries?",
			"there are none", "they are in the event's body, and nowhere else",
		},
	}
}

// The verdicts of an Answer.
const (
	NotSeen   = "not seen"
	AsAssumed = "as assumed"
	Otherwise = "otherwise"
)

// Answer is what was seen of a Question. Where an HMC shows both, Otherwise counts.
type Answer struct {
	Question

	Verdict string
	// Evidence says what was seen, without names or texts.
	Evidence string
}

// String says it in one line.
func (a Answer) String() string {
	text := fmt.Sprintf("%s: %s Assumed: %s.", a.Verdict, a.Asks, a.Assumed)
	if a.Evidence != "" {
		text += " Seen: " + a.Evidence + "."
	}
	if a.Verdict == Otherwise {
		text += " So: " + a.Otherwise + "."
	}
	return text
}

// seen is what was seen of one question.
type seen struct {
	asAssumed, otherwise int
	// the first of each, in words
	how, other string
}

// topic is what is known of a topic of the session.
type topic struct {
	last  int64 // session-sequence-nr
	known bool
	// refreshed says that messages were replayed, waiting that it was subscribed to again and
	// nothing has come yet.
	refreshed, waiting bool
}

// maxTracked bounds how many topics, and how many partitions, are told apart.
const maxTracked = 10_000

// Observer finds answers in the traffic of one HMC. It is used by one goroutine at a time.
type Observer struct {
	seen   map[string]*seen
	topics map[string]*topic
	// of the session
	last      int64
	known     bool
	lastTopic string
	numbers   map[string]int64 // of partitions
}

// NewObserver makes an Observer that has seen nothing.
func NewObserver() *Observer {
	return &Observer{seen: make(map[string]*seen), topics: make(map[string]*topic), numbers: make(map[string]int64)}
}

func (o *Observer) note(id string, asAssumed bool, format string, args ...any) {
	s := o.seen[id]
	if s == nil {
		s = new(seen)
		o.seen[id] = s
	}
	n, text := &s.asAssumed, &s.how
	if !asAssumed {
		n, text = &s.otherwise, &s.other
	}
	if *n++; *n == 1 {
		*text = fmt.Sprintf(format, args...)
	}
}

// Answers returns an answer for each question, in their order.
func (o *Observer) Answers() []Answer {
	var all []Answer
	for _, q := range Questions() {
		a := Answer{Question: q, Verdict: NotSeen}
		switch s := o.seen[q.ID]; {
		case s == nil:
		case s.otherwise > 0:
			a.Verdict, a.Evidence = Otherwise, fmt.Sprintf("%s (%d times)", s.other, s.otherwise)
		default:
			a.Verdict, a.Evidence = AsAssumed, fmt.Sprintf("%s (%d times)", s.how, s.asAssumed)
		}
		all = append(all, a)
	}
	return all
}

// Request takes up a request and how it was answered.
func (o *Observer) Request(operation, query string, status int) {
	switch {
	case status == 0:
	case operation == "submit-requests":
		o.note(Bulk, status != 404 && status != 405, "answered with %d", status)
	case operation == "list-os-messages" && query == "is-held=true":
		o.note(HeldFilter, status != 400, "answered with %d", status)
	case operation == "logon" && status/100 == 2: // a new session, with topics of its own
		o.known, o.lastTopic = false, ""
		clear(o.topics)
	}
}

// Subscribe takes up a subscription to a topic.
func (o *Observer) Subscribe(name string) {
	t := o.topics[name]
	if t == nil && len(o.topics) < maxTracked {
		o.topics[name] = new(topic)
	} else if t != nil {
		t.waiting = t.refreshed
		t.known = false
	}
	o.known = false // what came while there was no link is not known
}

// Message takes up a notification; header returns one of its headers.
func (o *Observer) Message(name string, header func(string) string, body []byte) {
	t := o.topics[name]
	if t == nil {
		return
	}
	if nr, err := strconv.ParseInt(header("session-sequence-nr"), 10, 64); err == nil {
		o.sequence(name, t, nr)
	}
	switch header("notification-type") {
	case "os-message":
		o.osMessages(t, header("object-uri"), body)
	case "log-entry":
		o.note(EntryResource, header("object-uri") == "" && header("name") == "", "headers class %q", header("class"))
		o.entries(body)
	case "property-change", "inventory-change":
		o.hardware(header, body)
	}
}

// sequence tells the two ways to count apart where topics take turns: the number then goes on from
// that of the other topic, or from the topic's own.
func (o *Observer) sequence(name string, t *topic, nr int64) {
	if o.known && t.known && o.lastTopic != name && t.last != o.last {
		switch nr {
		case o.last + 1:
			o.note(Sequence, false, "number %d after %d of another topic, and %d of its own", nr, o.last, t.last)
		case t.last + 1:
			o.note(Sequence, true, "number %d after %d of another topic, and %d of its own", nr, o.last, t.last)
		}
	}
	t.last, t.known = nr, true
	o.last, o.known, o.lastTopic = nr, true, name
}

func (o *Observer) osMessages(t *topic, partition string, body []byte) {
	var b struct {
		Messages []struct {
			ID       json.RawMessage `json:"message-id"`
			Sequence *int64          `json:"sequence-number"`
			Refresh  bool            `json:"is-refresh"`
		} `json:"os-messages"`
	}
	if json.Unmarshal(body, &b) != nil {
		return
	}
	for _, m := range b.Messages {
		if len(m.ID) > 0 {
			kind := kindOf(m.ID)
			o.note(MessageID, kind == "string" || kind == "number", "a %s", kind)
		}
		if t.waiting {
			o.note(RefreshAgain, m.Refresh, "the first message after a further subscription: is-refresh %v", m.Refresh)
			t.waiting = false
		}
		t.refreshed = t.refreshed || m.Refresh
		if m.Sequence == nil {
			continue
		}
		last, known := o.numbers[partition]
		if known && !m.Refresh && *m.Sequence <= 1 && last > *m.Sequence {
			o.note(NumbersAtIPL, false, "number %d after %d", *m.Sequence, last)
		}
		if known || len(o.numbers) < maxTracked {
			o.numbers[partition] = *m.Sequence
		}
	}
}

func kindOf(value json.RawMessage) string {
	switch value[0] {
	case '"':
		return "string"
	case '{', '[':
		return "structure"
	case 't', 'f', 'n':
		return string(value)
	}
	return "number"
}

func (o *Observer) entries(body []byte) {
	var b struct {
		Entries []struct {
			Details json.RawMessage `json:"event-details"`
		} `json:"log-entries"`
	}
	if json.Unmarshal(body, &b) != nil {
		return
	}
	for _, e := range b.Entries {
		none := len(e.Details) == 0 || string(e.Details) == "[]" || string(e.Details) == "null"
		o.note(EntryDetails, none, "%d bytes of event-details", len(e.Details))
	}
}

func (o *Observer) hardware(header func(string) string, body []byte) {
	if header("class") == "hardware-message" {
		o.note(HardwareTold, false, "%s of class hardware-message", header("notification-type"))
		return
	}
	var b struct {
		Reports []struct {
			Name string `json:"property-name"`
		} `json:"change-reports"`
	}
	if json.Unmarshal(body, &b) != nil {
		return
	}
	for _, r := range b.Reports {
		switch r.Name {
		case "hardware-messages":
			o.note(HardwareTold, false, "property-change of hardware-messages")
		case "has-hardware-messages":
			o.note(HardwareTold, true, "property-change of has-hardware-messages")
		}
	}
}
