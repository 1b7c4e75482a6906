package deliver

import (
	"bytes"
	"encoding/json"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// statusChange is what the gatherer reads of an event. What it cannot read is empty.
type statusChange struct {
	HMC, Time, Origin, Severity string
	Repeat                      bool
	SeenBy                      []string `json:"seen_by"`
	Labels                      event.Headers
	Resource                    event.Resource
	Body                        json.RawMessage

	// Of a status change: the status before the first report and after the last, and whether
	// nothing has changed.
	from, to string
	idle     bool
}

func readStatusChange(r event.Record) statusChange {
	var c statusChange
	_ = json.Unmarshal(r.JSON, &c)
	if r.Type != event.TypeStatusChange {
		return c
	}
	first := true
	for report := range event.Reports(c.Body) {
		if first {
			c.from, c.idle, first = report.OldStatus, true, false
		}
		c.to = report.NewStatus
		c.idle = c.idle && c.to != "" && report.OldStatus == c.to &&
			bytes.Equal(report.OldAdditional, report.NewAdditional)
	}
	return c
}

// reports are the change reports as they stand.
func (c *statusChange) reports() []byte { return event.Member(c.Body, "change-reports") }
