// Package assume has the list of what nobody outside IBM has published about HMCs, and finds
// answers in what goes to and from one. It is fed with requests and frames, keeps no texts of
// them, and knows nothing of who sends them.
package assume

import (
	"bytes"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Question is something about HMCs that is not known.
type Question struct {
	ID string
	// Asks is the question, Shows what in the traffic answers it, Assumed the answer that the
	// daemon is made for first, and Otherwise what it does, or what goes wrong, where the other
	// one is true.
	Asks, Shows, Assumed, Otherwise string
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
	Answered      = "answered-message"
	Wrap          = "numbers-wrap"
	SessionEnd    = "session-end"
	LiveLink      = "live-link"
	BrokerKind    = "broker"
	BrokerRefusal = "broker-refusal"
)

// Questions lists all of them.
func Questions() []Question {
	return []Question{
		{
			MessageID, "Is the message-id of an OS message a string or a number?",
			"message-id in os-messages",
			"either, as it is documented and as it was seen", "the id is left out",
		},
		{
			Sequence, "Does session-sequence-nr count per topic or per session?",
			"session-sequence-nr where topics take turns",
			"per topic", "the numbers of all topics are one sequence, which is known by what comes",
		},
		{
			RefreshAgain, "Are the OS messages that an HMC holds replayed to each subscription, or to the first only?",
			"is-refresh of the first message after a lost link",
			"to each", "they are fetched after a lost link",
		},
		{
			NumbersAtIPL, "Do the numbers of OS messages go on after an IPL?",
			"sequence-number 0 or 1 after a higher one",
			"they go on", "they begin anew; messages are told apart by their text",
		},
		{
			Wrap, "At which number do the numbers of OS messages begin anew by themselves?",
			"sequence-number 0 or 1 after one that is just below a power of 2 or 10",
			"at 2147483647 or a higher one", "they count as begun anew, as after an IPL",
		},
		{
			HeldFilter, "Can OS messages that wait for an answer be listed alone (is-held)?",
			"400 to list-os-messages with is-held=true",
			"for LPARs", "all messages are listed",
		},
		{
			Answered, "What becomes of an OS message that was answered?",
			"list-os-messages after a message that was is-held",
			"it is listed, and not held any more", "it is not listed any more, and counts as answered",
		},
		{
			Bulk, "Does the HMC take several requests in one (Submit Requests)?",
			"404 or 405 to submit-requests",
			"it does", "properties are asked for one by one, which takes more of the budget",
		},
		{
			HardwareTold, "Is each hardware message notified?",
			"class hardware-message, or the property hardware-messages, in notifications",
			"only that there are any", "it is known at once, and not with the next list",
		},
		{
			EntryResource, "Does the notification of a log entry name a resource?",
			"headers name and object-uri of log-entry",
			"it names none", "the resource is in the event",
		},
		{
			EntryDetails, "Are there event-details in log entries?", "event-details in log-entries",
			"there are none", "they are in the event's body, and nowhere else",
		},
		{
			SessionEnd, "What becomes of the link when its session ends?",
			"403.4 or 403.5 while the link lives, or right after it was closed",
			"it falls silent", "it is closed, and made again with another session",
		},
		{
			LiveLink, "Does an HMC leave out notifications of a link that lives, because it is slow?",
			"session-sequence-nr that jumps while the link lives, of an HMC that counts per topic",
			"it does not", "they count as missed, with a gap",
		},
		{
			BrokerKind, "Which broker is in the HMC?", "server of CONNECTED",
			"Apache ActiveMQ 5", "what the broker says is taken as that of ActiveMQ; errors may be named less well",
		},
		{
			BrokerRefusal, "How does the broker refuse a userid or session?",
			"message of an ERROR in place of CONNECTED",
			"as ActiveMQ: User name [...] or password is invalid", "any ERROR there counts as a refusal",
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
	// missed says that some of it was dropped after it had come.
	missed bool
	// read counts its OS messages.
	read int
}

// maxTracked bounds how many topics, partitions, and messages that wait for an answer are told
// apart, maxName the length of the names that they have, in bytes.
const maxTracked, maxName = 10_000, 256

// maxCommas bounds what of a body is taken apart: a list has no more elements than it has commas.
const maxCommas = 100_000

// sampleAfter and sampleEvery say how many OS messages are looked at where Sampled is set: that
// many of each topic, and one in so many of what comes after.
const sampleAfter, sampleEvery = 100, 64

// Observer finds answers in the traffic of one HMC. It is used by one goroutine at a time.
type Observer struct {
	// OnOtherwise is called each time that something is seen which is not as it is assumed to be;
	// times counts that of the question. nil: it is not.
	OnOtherwise func(q Question, evidence string, times int)
	// Sampled has most bodies left unread that a glance tells to be as assumed, which is for those
	// who look at everything that comes, for years.
	Sampled bool

	seen   map[string]*seen
	topics map[string]*topic
	// of the session
	last      int64
	known     bool
	lastTopic string
	numbers   map[string]int64 // of partitions
	// held are the messages that wait for an answer.
	held map[message]bool
	// of the link: whether it is there, when it was lost, and whether the HMC was away since
	linked, away bool
	lostAt       time.Time
}

// NewObserver makes an Observer that has seen nothing.
func NewObserver() *Observer {
	return &Observer{
		seen: make(map[string]*seen), topics: make(map[string]*topic), numbers: make(map[string]int64),
		held: make(map[message]bool),
	}
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
	if asAssumed || o.OnOtherwise == nil {
		return
	}
	for _, q := range Questions() {
		if q.ID == id {
			o.OnOtherwise(q, s.other, s.otherwise)
		}
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
			a.Verdict, a.Evidence = Otherwise, s.other+" ("+times(s.otherwise)+")"
		default:
			a.Verdict, a.Evidence = AsAssumed, s.how+" ("+times(s.asAssumed)+")"
		}
		all = append(all, a)
	}
	return all
}

// Otherwise returns those of Answers that are not as assumed. It costs little while there is none.
func (o *Observer) Otherwise() []Answer {
	for _, s := range o.seen {
		if s.otherwise > 0 {
			return slices.DeleteFunc(o.Answers(), func(a Answer) bool { return a.Verdict != Otherwise })
		}
	}
	return nil
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return strconv.Itoa(n) + " times"
}

// Exchange is a request and how it was answered.
type Exchange struct {
	Operation, URI, Query string
	At                    time.Time
	// Status is that of HTTP; 0: there was no answer.
	Status int
	Answer []byte
}

// Request takes up a request and how it was answered.
func (o *Observer) Request(x Exchange) {
	switch {
	case x.Status == 0:
		o.away = true
	case x.Operation == "submit-requests":
		o.note(Bulk, x.Status != 404 && x.Status != 405, "answered with %d", x.Status)
	case x.Operation == "list-os-messages" && x.Query == "is-held=true":
		o.note(HeldFilter, x.Status != 400, "answered with %d", x.Status)
	case x.Operation == "list-os-messages" && x.Status == 200 && x.Query == "":
		o.listed(strings.TrimSuffix(x.URI, "/operations/list-os-messages"), x.Answer)
	case x.Operation == "logon" && x.Status/100 == 2: // a new session, with topics of its own
		o.known, o.lastTopic = false, ""
		clear(o.topics)
	}
	if x.Status == 403 && x.Operation != "logon" {
		o.sessionUnknown(x)
	}
}

// sessionUnknown takes up an answer that may say that the session has ended. An HMC that was
// restarted says so too, but is away in between.
func (o *Observer) sessionUnknown(x Exchange) {
	const closedBy = 30 * time.Second
	var e struct{ Reason int }
	if json.Unmarshal(x.Answer, &e) != nil || e.Reason != 4 && e.Reason != 5 {
		return
	}
	switch {
	case o.linked:
		o.note(SessionEnd, true, "the session was not known, and the link was still there")
	case !o.lostAt.IsZero() && !o.away && x.At.Sub(o.lostAt) < closedBy:
		o.note(SessionEnd, false, "the link was closed %s before the session was not known",
			x.At.Sub(o.lostAt).Round(time.Millisecond))
	}
	o.lostAt = time.Time{}
}

// message is an OS message, by its partition and number.
type message struct {
	partition string
	nr        int64
}

// listed takes up all OS messages that are held of a partition.
func (o *Observer) listed(partition string, body []byte) {
	held := make(map[int64]bool)
	for m := range o.held {
		if m.partition == partition {
			held[m.nr] = true
		}
	}
	if len(held) == 0 {
		return
	}
	listed := messagesIn(body)
	if listed == nil {
		return
	}
	now := make(map[int64]bool)
	lowest, highest := int64(math.MaxInt64), int64(math.MinInt64)
	for _, m := range listed {
		if m.Sequence == nil {
			continue
		}
		lowest, highest = min(lowest, *m.Sequence), max(highest, *m.Sequence)
		if held[*m.Sequence] {
			now[*m.Sequence] = m.Held
		}
	}
	for nr := range held {
		switch stillHeld, there := now[nr]; {
		case stillHeld, nr > highest: // the list may be older than the message
			continue
		case there:
			o.note(Answered, true, "a message that was held is listed, and is not held")
		case nr < lowest: // it has gone with those before it: by an IPL, or for want of room
		default:
			o.note(Answered, false, "a message that was held is not listed")
		}
		delete(o.held, message{partition, nr})
	}
}

// Frame takes up a frame, by its command, header and body.
func (o *Observer) Frame(command string, header func(string) string, body []byte) {
	topic := strings.TrimPrefix(header("destination"), "/topic/")
	switch command {
	case "CONNECTED":
		o.connected(header)
	case "ERROR":
		o.refused(header)
	case "SUBSCRIBE":
		o.Subscribe(topic)
	case "MESSAGE":
		o.Message(topic, header, body)
	}
}

// connected takes up the answer of the broker to a logon.
func (o *Observer) connected(header func(string) string) {
	o.linked = true
	server := header("server")
	version, known := strings.CutPrefix(server, "ActiveMQ/")
	if !known || strings.Trim(version, "0123456789.") != "" {
		version = "of another name"
	}
	o.note(BrokerKind, known && strings.HasPrefix(version, "5."), "a server %s", version)
}

// refused takes up an ERROR of the broker.
func (o *Observer) refused(header func(string) string) {
	if !o.linked {
		message := header("message")
		asActiveMQ := strings.HasPrefix(message, "User name [") &&
			strings.HasSuffix(message, " or password is invalid.")
		o.note(BrokerRefusal, asActiveMQ,
			"an ERROR in place of CONNECTED, with a message of %d characters", len(message))
	}
}

// LinkEnded takes up the end of a link; lost says that it was not ended from here.
func (o *Observer) LinkEnded(at time.Time, lost bool) {
	if o.linked = false; lost {
		o.lostAt, o.away = at, false
	}
}

// Missed says that a notification of a topic came and was dropped before Message could have it.
func (o *Observer) Missed(name string) {
	if t := o.topics[name]; t != nil {
		t.missed = true
	}
}

// Subscribe takes up a subscription to a topic.
func (o *Observer) Subscribe(name string) {
	t := o.topics[name]
	if t == nil && len(o.topics) < maxTracked && len(name) <= maxName {
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
		t.read++
		if o.Sampled && !t.waiting && t.read > sampleAfter && t.read%sampleEvery != 0 && !beginsAnew(body) &&
			!bytes.Contains(body, []byte(`is-held":true`)) {
			return
		}
		o.osMessages(t, header("object-uri"), body)
	case "log-entry":
		none := header("object-uri") == "" && header("name") == ""
		o.note(EntryResource, none, "headers class %.40q", header("class"))
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
	if t.known && nr != t.last {
		o.onLiveLink(t, nr)
	}
	t.last, t.known = nr, true
	o.last, o.known, o.lastTopic = nr, true, name
}

// onLiveLink looks for notifications that an HMC has left out while the link lived, once it is
// known that the numbers are the topic's own.
func (o *Observer) onLiveLink(t *topic, nr int64) {
	const sure = 3
	s := o.seen[Sequence]
	switch {
	case s == nil || s.asAssumed < sure || s.otherwise > 0:
	case nr == t.last+1:
		if o.seen[LiveLink] == nil { // once is enough
			o.note(LiveLink, true, "number %d after %d", nr, t.last)
		}
	case nr > t.last && !t.missed:
		o.note(LiveLink, false, "number %d after %d", nr, t.last)
	case nr > t.last:
		t.missed = false
	}
}

type osMessage struct {
	ID       json.RawMessage `json:"message-id"`
	Sequence *int64          `json:"sequence-number"`
	Refresh  bool            `json:"is-refresh"`
	Held     bool            `json:"is-held"`
}

func tooMuch(body []byte) bool { return bytes.Count(body, []byte(",")) > maxCommas }

func messagesIn(body []byte) []osMessage {
	var b struct {
		Messages []osMessage `json:"os-messages"`
	}
	if tooMuch(body) || json.Unmarshal(body, &b) != nil {
		return nil
	}
	return b.Messages
}

// wraps says whether a number is just below one at which a counter may end, and whether that is one
// of 31 bits at least.
func wraps(last int64) (limit, high bool) {
	const slack = 1024
	near := func(end int64) bool { return last <= end && end-last < min(slack, end/16) }
	for bits := 15; bits < 64; bits++ {
		if near(math.MaxInt64 >> (63 - bits)) {
			return bits == 15 || bits == 16 || bits >= 31, bits >= 31
		}
	}
	for end := int64(9_999); end < math.MaxInt64/10; end = end*10 + 9 {
		if near(end) {
			return true, end > math.MaxInt32
		}
	}
	return false, false
}

func (o *Observer) osMessages(t *topic, partition string, body []byte) {
	for _, m := range messagesIn(body) {
		if len(m.ID) > 0 {
			kind := kindOf(m.ID)
			o.note(MessageID, kind == "string" || kind == "number", "a %s", kind)
		}
		if t.waiting {
			o.note(RefreshAgain, m.Refresh, "the first message after a further subscription: is-refresh %v", m.Refresh)
			t.waiting = false
		}
		t.refreshed = t.refreshed || m.Refresh
		if m.Sequence == nil || len(partition) > maxName {
			continue
		}
		last, known := o.numbers[partition]
		if known && !m.Refresh && *m.Sequence <= 1 && last > *m.Sequence {
			maps.DeleteFunc(o.held, func(m message, _ bool) bool { return m.partition == partition })
			if limit, high := wraps(last); limit {
				o.note(Wrap, high, "number %d after %d", *m.Sequence, last)
			} else {
				o.note(NumbersAtIPL, false, "number %d after %d", *m.Sequence, last)
			}
		}
		if m.Held && len(o.held) < maxTracked {
			o.held[message{partition, *m.Sequence}] = true
		}
		if known || len(o.numbers) < maxTracked {
			o.numbers[partition] = *m.Sequence
		}
	}
}

// beginsAnew says whether a body, which is compact, may hold one of the first messages of an IPL.
// That takes a fraction of the time that reading the body does.
func beginsAnew(body []byte) bool {
	for rest := range behind(body, `quence-number":`) {
		if len(rest) > 1 && (rest[0] == '0' || rest[0] == '1') && (rest[1] == ',' || rest[1] == '}') {
			return true
		}
	}
	return false
}

// withoutDetails says whether no entry of a body, which is compact, can have event details.
func withoutDetails(body []byte) bool {
	for rest := range behind(body, `-details":`) {
		if !bytes.HasPrefix(rest, []byte("[]")) && !bytes.HasPrefix(rest, []byte("null")) {
			return false
		}
	}
	return true
}

// behind ranges over what is behind each place of a body where a text stands. The rarer the byte
// that the text begins with is in bodies, the faster it is found: a quote or an s is a bad one.
func behind(body []byte, text string) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for {
			i := bytes.Index(body, []byte(text))
			if i < 0 {
				return
			}
			if body = body[i+len(text):]; !yield(body) {
				return
			}
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
	if o.Sampled && withoutDetails(body) { // as almost always; reading the body takes 20 times as long
		o.note(EntryDetails, true, "%d bytes of event-details", len("[]"))
		return
	}
	var b struct {
		Entries []struct {
			Details json.RawMessage `json:"event-details"`
		} `json:"log-entries"`
	}
	if tooMuch(body) || json.Unmarshal(body, &b) != nil {
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
	if !bytes.Contains(body, []byte("hardware-messages")) || tooMuch(body) { // the first as almost always
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
