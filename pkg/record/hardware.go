package record

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/ledger"
)

// What has hardware messages.
const (
	ConsoleURI   = "/api/console"
	ClassConsole = "console"
	ClassCPC     = "cpc"
)

// HardwareParent is the console or a CPC.
type HardwareParent struct {
	URI, Class, Name string
}

// Label names it as a person knows it.
func (p *HardwareParent) Label() string {
	if p.Class == ClassConsole {
		return "console " + p.Name
	}
	return "CPC " + p.Name
}

// HardwareChange is what a list says that is not known.
type HardwareChange struct {
	// oldest first
	Added []hmc.HardwareMessage
	// element URIs
	Gone []string
	// Origin is that of what was added.
	Origin string
}

// CompareHardware returns what a list says that is not known. Only a complete one says what is
// gone.
func (r *Recorder) CompareHardware(parent string, messages []hmc.HardwareMessage, complete bool) HardwareChange {
	t := r.enter()
	defer t.end()
	change := HardwareChange{Origin: event.OriginLive}
	listed := make(map[string]bool, len(messages))
	for _, m := range messages {
		if !listed[m.ElementURI] && t.hardware.IsNew(parent, m.ElementURI, m.Timestamp) {
			change.Added = append(change.Added, m)
		}
		listed[m.ElementURI] = true
	}
	if complete {
		change.Gone = t.hardware.Gone(parent, listed)
	}
	slices.SortStableFunc(change.Added, func(a, b hmc.HardwareMessage) int {
		return cmp.Or(a.Timestamp.Compare(b.Timestamp), cmp.Compare(a.ElementURI, b.ElementURI))
	})
	return change
}

// RecordHardware records what has changed of the hardware messages of a console or CPC, and returns
// how many there are.
func (r *Recorder) RecordHardware(ctx context.Context, p *HardwareParent, change HardwareChange) (known int) {
	t := r.begin(ctx)
	defer t.end()
	h := t.hardware
	if !h.Listed(p.URI) { // at the very first time all of them are told as they stand
		change.Origin = event.OriginLive
	}
	// What was known may have been loaded since the comparison.
	for _, m := range change.Added {
		if h.IsNew(p.URI, m.ElementURI, m.Timestamp) {
			h.Add(p.URI, m.ElementURI, m.Timestamp, m.Text)
			t.putHardware(p, &event.Event{
				ID: event.NewID(event.TypeHardwareMessage, r.name, m.ElementURI), Time: m.Timestamp,
				Origin: change.Origin, Severity: event.SeverityWarning, Body: event.CompactValid(m.Raw),
				Summary: "hardware message on " + p.Label(),
			}, m.ElementURI, m.ElementID, m.Text)
		}
	}
	for _, uri := range change.Gone {
		if m, known := h.Get(p.URI, uri); known {
			h.Remove(p.URI, uri)
			t.deletedHardware(p, uri, m)
		}
	}
	known = h.Complete(p.URI)
	t.send()
	return known
}

// deletedHardware is the body of the event that a hardware message is gone.
type deletedHardware struct {
	ElementURI string `json:"element-uri"`
	Text       string `json:"text"` // its beginning
	Timestamp  int64  `json:"timestamp,omitempty"`
	Deleted    bool   `json:"deleted"`
}

func (t *tx) deletedHardware(p *HardwareParent, uri string, m ledger.HardwareMessage) {
	body, err := json.Marshal(deletedHardware{ElementURI: uri, Text: m.Text, Timestamp: m.At, Deleted: true})
	if err != nil {
		t.r.log.Error("the event of a deleted hardware message could not be made", zap.Error(err))
		return
	}
	t.putHardware(p, &event.Event{
		ID:     event.NewID(event.TypeHardwareMessage, t.r.name, uri, "deleted"),
		Origin: event.OriginLive, Severity: event.SeverityInfo, Body: body,
		Summary: "hardware message on " + p.Label() + " was deleted",
	}, uri, "", m.Text)
}

// repeatsHardware reports whether another HMC of the group has reported the same of a CPC. Whether
// it names the message the same is not known.
func (t *tx) repeatsHardware(p *HardwareParent, e *event.Event, text string) bool {
	if p.URI == ConsoleURI || !t.g.messages.Shared() {
		return false
	}
	e.SeenBy = t.r.seenBy
	parts := []string{e.Type, p.URI, event.Beginning(text, ledger.HardwareText)}
	deleted := string(event.Member(e.Body, "deleted"))
	if deleted == "" { // else when that was is not known
		at := int64(0)
		if !e.Time.IsZero() {
			at = e.Time.UnixMilli()
		}
		parts = append(parts, strconv.FormatInt(at, 10))
	}
	key := event.IDOf(append(parts, deleted)...)
	return t.repeats(t.g.messages, &sighting{key: key, kind: event.TopicOther, at: e.Received, lasting: true})
}

// putHardware completes the event of a message with this text and puts it into the outbox.
func (t *tx) putHardware(p *HardwareParent, e *event.Event, uri, id, text string) {
	e.HMC, e.Type, e.Received = t.r.name, event.TypeHardwareMessage, t.now
	e.Time = OrTime(e.Time, e.Received)
	if line := event.FirstLine(text); line != "" {
		e.Summary = event.OneLine(e.Summary + ": " + line)
	}
	e.Resource = &event.Resource{
		Class: p.Class, Name: p.Name, ObjectURI: p.URI, ElementURI: uri, ElementID: cmp.Or(id, event.LastSegment(uri)),
	}
	if p.Class == ClassCPC {
		e.Resource.CPC, e.Resource.ObjectID = p.Name, event.LastSegment(p.URI)
	}
	if t.repeatsHardware(p, e, text) {
		t.r.metrics.duplicate(e.Type)
		return
	}
	t.putKnown(e)
	if t.g.out.full() {
		t.send()
	}
}

// OrTime returns the first that is a time.
func OrTime(a, b time.Time) time.Time {
	if a.IsZero() {
		return b
	}
	return a
}
