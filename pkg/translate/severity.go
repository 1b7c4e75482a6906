package translate

import (
	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// Severities rate statuses and log entries: as the configuration says, else by the built-in table.
// It does not change; nil is the built-in table alone.
type Severities struct{ status, eventID config.SeverityTable }

// NewSeverities returns what the configuration says, besides the built-in table.
func NewSeverities(c config.Severity) *Severities {
	return &Severities{status: c.Status, eventID: c.EventID}
}

// OfStatus rates a new status of a CPC or partition. One that is not listed here is information:
// what nobody has seen before must not wake anybody up.
func (s *Severities) OfStatus(status string) string {
	if s != nil {
		if severity, ok := s.status[status]; ok {
			return severity
		}
	}
	switch status {
	case "communications-not-active", "not-communicating", "status-check", "no-power", "terminated", "exceptions",
		"service-required", "reservation-error":
		return event.SeverityCritical
	case "stopped", "paused", "degraded", "not-operating", "not-activated", "service":
		return event.SeverityWarning
	}
	return event.SeverityInfo
}

// ofEventID rates an entry of the audit or security log. There are hundreds of ids, and which of
// them matter is a site's own matter. Listed are only those by which an HMC says that somebody was
// not let in: their numbers and texts are those of zhmc-log-forwarder's zhmc_log_messages.yml,
// which is of HMC 2.14.1.
func (s *Severities) ofEventID(id string) string {
	if s != nil {
		if severity, ok := s.eventID[id]; ok {
			return severity
		}
	}
	switch id {
	case "136", "137", "138", "522", "1340", "1691", "1692", // a logon failed
		"1286", "1287", "2031", // a userid that is disabled, or not allowed remote access
		"191", "192", "193", "859", "1324": // too many logons failed; a userid is disabled for it
		return event.SeverityWarning
	}
	return event.SeverityInfo
}
