package bridge

import (
	"bytes"
	"context"
	"encoding/json"
	"path"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/estate"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
)

const (
	// maxElements bounds how many names of elements are remembered.
	maxElements = 10_000
	// soonAfterList is how long after a list the notification of what it showed may still come: it is the first to tell of it.
	soonAfterList = 10 * time.Second
)

// load takes over what is stored of the group's estate.
func (g *group) load(stored func(prefix string, fn func(key string, value []byte) bool)) (unreadable int) {
	prefix := stateUnit + g.name + "\x00"
	stored(prefix, func(key string, value []byte) bool {
		if !g.estate.Load(key[len(prefix):], value) {
			unreadable++
		}
		return true
	})
	return unreadable
}

// follow keeps the estate true to what an event tells of it, and returns how long the status that ended had lasted; 0: that is
// not known. It marks a status change that tells nothing new.
func (c *converter) follow(e *event.Event) (lasted time.Duration) {
	r := e.Resource
	if r == nil || r.ObjectURI == "" || r.ElementURI != "" || !estate.Tracked(r.Class) {
		return 0
	}
	switch e.Type {
	case event.TypeStatusChange:
		return c.followStatus(e)
	case event.TypePropertyChange:
		if name, ok := newName(e); ok && name != "" {
			c.changes = append(c.changes, c.estate.Rename(r.ObjectURI, r.Class, name, e.Received))
		}
	case event.TypeInventoryChange:
		switch e.Headers.Get("action") {
		case "add":
			c.estate.Announce(r.ObjectURI, e.Received)
		case "remove":
			c.changes = append(c.changes, c.estate.Remove(r.ObjectURI, e.Received))
		}
	}
	return 0
}

func (c *converter) followStatus(e *event.Event) (lasted time.Duration) {
	var from, to string
	reports, same := 0, true
	for report := range event.Elements(event.Member(e.Body, "change-reports")) {
		var before, after string
		var additionalBefore, additionalAfter []byte
		for name, value := range event.Members(report) {
			switch string(name) {
			case "old-status":
				before = event.String(value)
			case "new-status":
				after = event.String(value)
			case "old-additional-status":
				additionalBefore = value
			case "new-additional-status":
				additionalAfter = value
			}
		}
		if reports == 0 {
			from = before
		}
		if after != "" {
			to = after
		}
		// Of several reports that lead back to where they began, those between are news.
		same = same && before == after && bytes.Equal(additionalBefore, additionalAfter)
		if !bytes.Equal(additionalBefore, additionalAfter) {
			reports++ // an additional status is news even where the status is not
		}
		reports++
	}
	if to == "" {
		return 0
	}
	r := e.Resource
	change := c.estate.SetStatus(r.ObjectURI, r.Class, r.Name, to, e.Time, e.Received)
	c.changes = append(c.changes, change)
	was := change.Resource()
	switch {
	case same:
		e.Repeat = true
	case !change.Known():
	case was.Status == to && reports == 1:
		e.Repeat = was.Exact || e.Received.Sub(was.Since) > soonAfterList
	case was.Exact && was.Status == from && e.Time.After(was.Since):
		return e.Time.Sub(was.Since)
	}
	return 0
}

// newName returns the name that a property-change gives.
func newName(e *event.Event) (name string, ok bool) {
	if names := e.Headers.Get("property-names"); names != "" && !strings.Contains(" "+names+" ", " name ") {
		return "", false
	}
	for report := range event.Elements(event.Member(e.Body, "change-reports")) {
		if event.String(event.Member(report, "property-name")) == "name" {
			name, ok = event.String(event.Member(report, "new-value")), true
		}
	}
	return name, ok
}

// element fills in the name of the element that an event is about, where it is known: elements are not listed, but a change of
// its name tells it.
func (c *converter) element(e *event.Event) {
	r := e.Resource
	if r == nil || r.ElementURI == "" {
		return
	}
	r.ElementName = c.elements[r.ElementURI]
	if e.Type != event.TypePropertyChange {
		return
	}
	if name, ok := newName(e); ok {
		r.ElementName = name
		if c.elements == nil || len(c.elements) >= maxElements {
			c.elements = make(map[string]string)
		}
		c.elements[strings.Clone(r.ElementURI)] = name
	}
}

// twin reports whether another HMC of the group has told of the same change of the same object. r.mu is held.
func (r *recorder) twin(typ string, n *receiver.Notification) bool {
	parts := []string{typ, n.Headers.Get("object-uri"), n.Headers.Get("element-uri")}
	if parts[1] == "" {
		return false
	}
	switch typ {
	case event.TypeStatusChange, event.TypePropertyChange:
		// What says the same need not be written the same by two HMCs of different versions.
		for report := range event.Elements(event.Member(event.CompactValid(n.Body), "change-reports")) {
			for _, name := range []string{"property-name", "old-status", "new-status", "new-additional-status", "new-value"} {
				parts = append(parts, string(event.Member(report, name)))
			}
		}
	case event.TypeInventoryChange:
		parts = append(parts, n.Headers.Get("action"))
	default:
		return false
	}
	return r.twinOf(&r.group.changes, event.IDOf(parts...), n.Received, twinWithin)
}

// twinMessage reports whether another HMC of the group has told of the same OS message. Each HMC numbers them itself. r.mu is held.
func (r *recorder) twinMessage(e *event.Event, partition string, within time.Duration) bool {
	if !r.group.messages.shared() {
		return false
	}
	e.SeenBy = []string{r.cfg.Name}
	text := strings.TrimRight(event.String(event.Member(e.Body, "message-text")), " \t\r\n")
	key := event.IDOf(partition, text, string(event.Member(e.Body, "timestamp")))
	return r.twinOf(&r.group.messages, key, e.Received, within)
}

func (r *recorder) twinOf(in *sightings, key event.ID, at time.Time, within time.Duration) bool {
	if in.note(key, r.cfg.Name, at, within) {
		return true
	}
	r.notes.twins = append(r.notes.twins, notedTwin{in, key})
	return false
}

// reconcile compares what an HMC has listed with what is known of the estate, and records each difference as the event that
// would have told of it. again reports that another listing would tell more.
func (r *recorder) reconcile(ctx context.Context, l *estate.Listing) (again bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.awaitSettled()
	now := time.Now()
	differences, again := r.group.estate.Compare(l, now, r.group.inSight)
	for i := range differences {
		d := &differences[i]
		r.notes.before = append(r.notes.before, d.Before)
		r.holdUnit(d.Before.URI())
		e := r.difference(d, now)
		describe(e, 0, r.severities.Load())
		r.put(e)
		r.sight.recovered(event.TopicObject)
		if r.out.full() {
			r.flush(ctx)
		}
	}
	if len(differences) > 0 {
		r.log.Info("the estate is not as it was known: changes were missed", zap.Int("differences", len(differences)))
	}
	if state := r.state(); len(state) > 0 || !r.out.empty() {
		r.send(ctx, state)
	}
	return again
}

// difference makes an event of what changed without a notification.
func (r *recorder) difference(d *estate.Difference, now time.Time) *event.Event {
	res, was := d.Now, d.Before.Resource()
	e := &event.Event{
		HMC: r.cfg.Name, Time: now, Received: now, TopicType: event.TopicObject, Origin: event.OriginReconcile, Severity: event.SeverityInfo,
		Resource: &event.Resource{Class: res.Class, Name: res.Name, ObjectURI: res.URI, ObjectID: path.Base(res.URI), CPC: res.CPC},
	}
	type report map[string]any
	var reports []report
	header := event.Header{}
	switch d.Kind {
	case estate.Moved:
		e.Type = event.TypeStatusChange
		reports = []report{{"old-status": was.Status, "new-status": res.Status}}
	case estate.Renamed:
		e.Type = event.TypePropertyChange
		header = event.Header{Name: "property-names", Value: " name "}
		reports = []report{{"property-name": "name", "old-value": was.Name, "new-value": res.Name}}
	case estate.Added:
		e.Type = event.TypeInventoryChange
		header = event.Header{Name: "action", Value: "add"}
	case estate.Removed:
		e.Type = event.TypeInventoryChange
		header = event.Header{Name: "action", Value: "remove"}
	}
	e.Headers = event.Headers{
		{Name: "notification-type", Value: e.Type},
		{Name: "class", Value: res.Class},
		{Name: "name", Value: res.Name},
		{Name: "object-uri", Value: res.URI},
		{Name: "object-id", Value: path.Base(res.URI)},
	}
	if header.Name != "" {
		e.Headers = append(e.Headers, header)
	}
	if reports != nil {
		e.Body, _ = json.Marshal(map[string]any{"change-reports": reports}) // strings only
	}
	e.ID = event.NewID("reconcile", r.cfg.Name, d.Kind, res.URI, was.Name, was.Status, res.Name, res.Status, strconv.FormatInt(now.UnixNano(), 10))
	return e
}
