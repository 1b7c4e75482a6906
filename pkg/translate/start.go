package translate

import (
	"encoding/json"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/estate"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// StartTakes is for how long it is usual that what was activated does not operate: an activation
// ends with a load, for which an HMC waits for one minute unless it is told to wait longer
// (zhmcclient, Lpar.load).
const StartTakes = 5 * time.Minute

// NotStarted makes e the event that a resource does not operate although it was activated some time
// ago: it has the severity that a system has which has stopped.
func (c *Converter) NotStarted(e *event.Event, r *estate.Resource) {
	report := map[string]any{"old-status": r.Status, "new-status": r.Status}
	o := outcome{status: r.Status, judged: r.Judged}
	if r.Judged != estate.Unjudged {
		unacceptable := r.Judged == estate.Unacceptable
		report["has-unacceptable-status"], e.Unacceptable = unacceptable, &unacceptable
	}
	e.Type, e.Origin = event.TypeStatusChange, event.OriginReconcile
	e.Body, _ = json.Marshal(map[string]any{"change-reports": []any{report}}) // strings and a bool
	e.Severity = c.Severities.OfStatus(r.Class, r.Status, r.Judged)
	what := "still " + r.Status + ", " + roughly(e.Received.Sub(r.Starting)) + " after its activation"
	e.Summary = event.OneLine(withResource(e, what) + c.sysplex(e, &o))
	e.ID = event.NewID("not-started", e.HMC, r.URI, r.Starting.UTC().Format(time.RFC3339Nano))
	c.setStarting(r, time.Time{})
}
