package deliver

import "github.com/hmcnotifyd/hmcnotifyd/pkg/event"

// statusChange is what the gatherer reads of an event.
type statusChange struct {
	hmc, class, name, uri, cpc string
	time, origin, severity     string
	element, repeat            bool
	shared                     bool // another HMC sees the same
	reports                    []byte
	from, to                   string // of a status change: before the first report, after the last
	idle                       bool   // of a status change: nothing has changed
}

// readStatusChange reads of an event what the gatherer needs.
func readStatusChange(r event.Record) statusChange {
	var c statusChange
	var body []byte
	for name, value := range event.Members(r.JSON) {
		switch string(name) {
		case "hmc":
			c.hmc = event.String(value)
		case "time":
			c.time = event.String(value)
		case "origin":
			c.origin = event.String(value)
		case "severity":
			c.severity = event.String(value)
		case "repeat":
			c.repeat = event.True(value)
		case "seen_by":
			c.shared = true
		case "body":
			body = value
		case "resource":
			for name, value := range event.Members(value) {
				switch string(name) {
				case "class":
					c.class = event.String(value)
				case "name":
					c.name = event.String(value)
				case "object_uri":
					c.uri = event.String(value)
				case "cpc":
					c.cpc = event.String(value)
				case "element_uri", "element_id":
					c.element = true
				}
			}
		}
	}
	if r.Type == event.TypeStatusChange {
		c.readReports(event.Member(body, "change-reports"))
	}
	return c
}

// readReports reads the reports of a status change: oldest first, so that the last one is how things stand now
// (facts-hmc.md 4.1).
func (c *statusChange) readReports(reports []byte) {
	c.reports = reports
	n := 0
	c.idle = true
	for report := range event.Elements(reports) {
		var from, to, additionalFrom, additionalTo string
		for name, value := range event.Members(report) {
			switch string(name) {
			case "old-status":
				from = event.String(value)
			case "new-status":
				to = event.String(value)
			case "old-additional-status":
				additionalFrom = additionalStatus(value)
			case "new-additional-status":
				additionalTo = additionalStatus(value)
			}
		}
		if n == 0 {
			c.from = from
		}
		c.to = to
		if to == "" || from != to || additionalFrom != additionalTo {
			c.idle = false
		}
		n++
	}
	c.idle = c.idle && n > 0
}

// additionalStatus is a value as it stands, for classes have it in several forms; null is the same as none.
func additionalStatus(value []byte) string {
	if string(value) == "null" {
		return ""
	}
	return string(value)
}
