package deliver

import (
	"encoding/json"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// statusChange is what the gatherer reads of an event. What it cannot read is empty.
type statusChange struct {
	HMC, Time, Origin, Severity string
	Repeat                      bool
	SeenBy                      []string `json:"seen_by"`
	Resource                    event.Resource
	Body                        struct {
		Reports json.RawMessage `json:"change-reports"`
	}

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
	var reports []struct {
		From           string          `json:"old-status"`
		To             string          `json:"new-status"`
		FromAdditional json.RawMessage `json:"old-additional-status"` // some classes have an object
		ToAdditional   json.RawMessage `json:"new-additional-status"`
	}
	_ = json.Unmarshal(c.Body.Reports, &reports)
	// The oldest comes first, so that the last one is how things stand now (facts-hmc.md 4.1).
	for i, report := range reports {
		if i == 0 {
			c.from, c.idle = report.From, true
		}
		c.to = report.To
		c.idle = c.idle && report.To != "" && report.From == report.To &&
			additional(report.FromAdditional) == additional(report.ToAdditional)
	}
	return c
}

// additional is an additional status as it stands; null is the same as none.
func additional(value json.RawMessage) string {
	if string(value) == "null" {
		return ""
	}
	return string(value)
}
