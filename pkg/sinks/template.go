package sinks

import (
	"fmt"
	"net/http"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/render"
)

// templateBody returns what makes bodies by a template. Its errors are permanent: the same event
// fails again, until somebody changes the template and replays the dead letter.
func templateBody(
	text, contentType string, batch bool, group func(hmc string) string,
) (func([]event.Record) ([]byte, error), error) {
	t, err := render.New(text, render.Options{Batch: batch, ContentType: contentType, Group: group})
	if err != nil {
		return nil, fmt.Errorf("template: %w", err)
	}
	return func(records []event.Record) ([]byte, error) {
		body, err := t.Execute(records)
		if err == nil {
			return body, nil
		}
		refusal := &PermanentError{Err: fmt.Errorf("webhook: nothing was sent, the template failed: %w", err)}
		if len(records) > 1 {
			// One of them is too much for the template, the others may be fine: the
			// status for that has a batch taken apart.
			refusal.Status = http.StatusUnprocessableEntity
		}
		return nil, refusal
	}, nil
}
