package record

import (
	"context"
	"encoding/json"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/estate"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/translate"
)

// Reconcile compares what an HMC has listed with what is known of the estate, and records each
// difference as the event that would have told of it. again reports that another listing would tell
// more. It does nothing, and reports that it is too early, while something that was received before
// due is not recorded yet: that may be what tells of a difference.
func (r *Recorder) Reconcile(ctx context.Context, l *estate.Listing, due time.Time) (again, early bool) {
	t := r.begin(ctx)
	defer t.end()
	if !t.recorded(due) {
		return false, true
	}
	differences, again := t.g.Estate.Compare(l, t.now, t.inSight)
	// All in one batch, for the estate is stored with the first of them.
	for i := range differences {
		e := t.difference(&differences[i])
		if ask := t.conv.Describe(e); !t.ask(e, ask) {
			t.put(e)
		}
		t.gaps.Recovered(event.TopicObject, t.now)
	}
	if len(differences) > 0 {
		r.log.Info("the estate is not as it was known: changes were missed", zap.Int("differences", len(differences)))
	}
	t.send()
	return again, false
}

// recorded reports whether all that was received before at is recorded. What waits while storing
// takes long may tell what follows here from the time that has passed without it.
func (t *tx) recorded(at time.Time) bool {
	_, handedOn := t.r.watcher.LastContact()
	return handedOn || !t.link.received.Before(at)
}

// difference makes an event of what changed without a notification.
func (t *tx) difference(d *estate.Difference) *event.Event {
	res, was := d.Now, d.Was
	e := &event.Event{
		HMC: t.r.name, Time: t.now, Received: t.now, TopicType: event.TopicObject,
		Origin: event.OriginReconcile, Severity: event.SeverityInfo,
		Resource: resourceOf(&res),
	}
	var report map[string]any
	header := event.Header{}
	switch d.Kind {
	case estate.Moved, estate.Judged:
		e.Type = event.TypeStatusChange
		report = make(map[string]any)
		if d.Kind == estate.Moved {
			report["old-status"], report["new-status"] = was.Status, res.Status
		}
		if res.Judged != estate.Unjudged {
			report["has-unacceptable-status"] = res.Judged == estate.Unacceptable
		}
	case estate.Renamed:
		e.Type = event.TypePropertyChange
		header = event.Header{Name: "property-names", Value: " name "}
		report = map[string]any{"property-name": "name", "old-value": was.Name, "new-value": res.Name}
	case estate.Added:
		e.Type = event.TypeInventoryChange
		header = event.Header{Name: "action", Value: "add"}
	case estate.Removed:
		e.Type = event.TypeInventoryChange
		header = event.Header{Name: "action", Value: "remove"}
	}
	e.Headers = headersOf(e)
	if header.Name != "" {
		e.Headers = append(e.Headers, header)
	}
	if report != nil {
		e.Body, _ = json.Marshal(map[string]any{"change-reports": []any{report}}) // strings and a bool
	}
	e.ID = event.NewID("reconcile", t.r.name, d.Kind, res.URI, was.Name, was.Status, res.Name, res.Status,
		strconv.FormatInt(t.now.UnixNano(), 10))
	return e
}

// resourceOf is a resource as events have it.
func resourceOf(r *estate.Resource) *event.Resource {
	return &event.Resource{
		Class: r.Class, Name: r.Name, ObjectURI: r.URI, ObjectID: event.LastSegment(r.URI), CPC: r.CPC,
		OSName: r.System.OSName, OSLevel: r.System.OSLevel, Sysplex: r.System.Sysplex,
	}
}

// headersOf are those that a notification of an event would have.
func headersOf(e *event.Event) event.Headers {
	r := e.Resource
	return event.Headers{
		{Name: "notification-type", Value: e.Type},
		{Name: "class", Value: r.Class},
		{Name: "name", Value: r.Name},
		{Name: "object-uri", Value: r.ObjectURI},
		{Name: "object-id", Value: r.ObjectID},
	}
}

// notStarted records what does not operate for longer than is usual after it was activated. Nothing
// is said while it is in doubt what is known.
func (t *tx) notStarted() {
	settled := t.now.Add(-t.r.timing.Settle)
	if !t.link.up || t.gaps.Pending() || settled.Before(t.started) || !t.recorded(settled) {
		return
	}
	t.started = t.now
	for _, r := range t.g.Estate.Starting(t.now.Add(-translate.StartTakes)) {
		e := t.conv.Fetched(event.TypeStatusChange, "", event.TopicObject, t.now)
		e.Resource = resourceOf(&r)
		e.Headers = headersOf(e)
		t.conv.NotStarted(e, &r)
		t.put(e)
	}
}
