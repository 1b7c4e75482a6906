package record

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/estate"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
)

const (
	// maxWaiting bounds how many messages of a partition are known to wait for an answer.
	maxWaiting = 100
	// waitingFor is how long one is taken to wait where the HMC cannot be asked.
	waitingFor = 24 * time.Hour
)

// waits notes that a message waits for an answer.
func (t *tx) waits(e *event.Event, m *event.OSMessage) {
	r := e.Resource
	if r == nil || estate.ClassOf(r.ObjectURI) == "" {
		return
	}
	message := estate.Message{
		ID: e.ID, HMC: t.r.name, Number: m.Number, Time: m.Time, Text: m.PlainText(), Prompt: m.Prompt,
		Since: e.Time, Received: t.now,
	}
	t.g.Estate.Update(r.ObjectURI, estate.ClassOf(r.ObjectURI), r.Name, time.Time{}, func(known *estate.Resource) {
		known.Waiting = append(slices.Clone(known.Waiting), message)
		if n := len(known.Waiting) - maxWaiting; n > 0 {
			known.Waiting = known.Waiting[n:]
		}
	})
}

// Holding returns partitions with messages that wait for an answer and of which this HMC is to be
// asked: those that it has told of, or that it lists and no other one can be asked about now; those
// that were asked about longest ago first.
func (r *Recorder) Holding(limit int) (uris []string) {
	t := r.enter()
	defer t.end()
	for _, one := range slices.Collect(t.g.Estate.Waiting()) {
		if slices.ContainsFunc(one.Waiting, func(m estate.Message) bool {
			o := t.g.members[m.HMC]
			return m.HMC == r.name || (o == nil || !o.tx.link.up) && t.g.Estate.Lists(r.name, one.URI)
		}) {
			uris = append(uris, one.URI)
		}
	}
	slices.SortStableFunc(uris, func(a, b string) int { return t.heldAsked[a].Compare(t.heldAsked[b]) })
	uris = uris[:min(limit, len(uris))]
	for _, uri := range uris { // whatever comes of it, others have their turn
		t.heldAsked[uri] = t.now
	}
	return uris
}

// StillHeld compares the messages of a partition that wait for an answer with those that the HMC
// lists, which it was asked for at a time, and records each that does not wait any more.
func (r *Recorder) StillHeld(ctx context.Context, uri string, messages [][]byte, asked time.Time) {
	t := r.begin(ctx)
	defer t.end()
	listed := make(map[string]bool)
	for _, raw := range messages {
		if m := event.ParseOSMessage(event.CompactValid(raw)); m.Held {
			listed[waitingKey(m.Time, m.PlainText())] = true
		}
	}
	t.answered(uri, func(m *estate.Message) bool {
		if m.Received.After(asked) { // what has come since the list was asked for may not be in it
			return true
		}
		held := listed[waitingKey(m.Time, m.Text)]
		if held && asked.Sub(m.Received) >= time.Hour {
			m.Received = asked // it waits for as long as the HMC says so
		}
		return held
	})
	t.send()
}

// waitingKey tells messages from each other that wait for an answer; another HMC numbers them
// otherwise.
func waitingKey(at int64, text string) string {
	return event.IDOf(text, time.UnixMilli(max(at, 0)).UTC().Format(time.RFC3339Nano)).String()
}

// expireWaiting ends what has waited for so long that nobody can have been asked about it.
func (t *tx) expireWaiting() {
	if t.now.Sub(t.expired) < time.Hour {
		return
	}
	t.expired = t.now
	for _, one := range slices.Collect(t.g.Estate.Waiting()) {
		if slices.ContainsFunc(one.Waiting, func(m estate.Message) bool { return t.now.Sub(m.Received) > waitingFor }) {
			t.answered(one.URI, func(m *estate.Message) bool { return t.now.Sub(m.Received) <= waitingFor })
		}
	}
}

// answered records that messages do not wait any more, all but those that still do.
func (t *tx) answered(uri string, still func(*estate.Message) bool) {
	known, ok := t.g.Estate.Lookup(uri)
	if !ok || len(known.Waiting) == 0 {
		return
	}
	var over []estate.Message
	rest := make([]estate.Message, 0, len(known.Waiting))
	for i := range known.Waiting {
		if m := known.Waiting[i]; still(&m) {
			rest = append(rest, m)
		} else {
			over = append(over, m)
		}
	}
	if slices.Equal(rest, known.Waiting) {
		return
	}
	t.g.Estate.Update(uri, known.Class, known.Name, time.Time{}, func(r *estate.Resource) { r.Waiting = rest })
	for i := range over {
		t.put(t.answer(&known, &over[i]))
	}
}

// afterIPL ends what the system that has run before an IPL has waited for.
func (t *tx) afterIPL(uri string) {
	t.answered(uri, func(m *estate.Message) bool { return !m.Stopped })
}

// answerBody is the body of the event that a message does not wait for an answer any more.
type answerBody struct {
	Number int64  `json:"sequence-number"`
	Text   string `json:"message-text"`
	Prompt string `json:"prompt-text"`
	Held   bool   `json:"is-held"`
	// Answered is the id of the event of the message.
	Answered string `json:"answered"`
}

func (t *tx) answer(r *estate.Resource, m *estate.Message) *event.Event {
	e := t.conv.Fetched(event.TypeOSMessage, "", event.TopicOSMessage, t.now)
	e.Resource = resourceOf(r)
	e.ID = event.NewID(m.ID, "answered")
	e.Body, _ = json.Marshal(answerBody{m.Number, m.Text, m.Prompt, false, m.ID}) // strings, a number and a bool
	t.conv.DescribeAnswer(e, m.Text)
	return e
}

// Informed takes over what the HMC says of resources. An operating system with another token than
// the one before was loaded without anybody having told.
func (r *Recorder) Informed(ctx context.Context, infos []hmc.Info) {
	t := r.begin(ctx)
	defer t.end()
	for i := range infos {
		t.informed(&infos[i])
	}
	t.send()
}

func (t *tx) informed(i *hmc.Info) {
	known, ok := t.g.Estate.Lookup(i.ObjectURI)
	if !ok {
		return
	}
	told := known.System.Merge(estate.System{
		OSName: i.OSName, OSLevel: i.OSLevel, Sysplex: i.Sysplex, IPLToken: i.IPLToken,
		LoadAddress: strings.TrimSpace(i.LoadAddress), LoadParameter: i.LoadParameter,
	})
	if i.OSName != "" { // it tells all of itself
		told.Sysplex = i.Sysplex
	}
	list := i.AcceptableStatus
	other := list != nil && (known.Acceptable == nil || !slices.Equal(list, known.Acceptable))
	if told == known.System && !other {
		return
	}
	before := known.System.IPLToken
	t.g.Estate.Update(i.ObjectURI, known.Class, known.Name, time.Time{}, func(r *estate.Resource) {
		r.System = told
		if other {
			r.Acceptable = list
		}
	})
	if before == "" || told.IPLToken == before || told.OSName == "" {
		return
	}
	if known, ok = t.g.Estate.Lookup(i.ObjectURI); ok {
		e := t.conv.Fetched(event.TypeIPL, "", event.TopicObject, t.now)
		e.Origin = event.OriginReconcile
		e.Resource = resourceOf(&known)
		t.put(t.conv.IPL(e, &known).Event)
		t.afterIPL(known.URI)
	}
}
