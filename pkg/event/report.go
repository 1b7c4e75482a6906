package event

import (
	"cmp"
	"iter"
)

// Report is one element of the change-reports of a status-change or property-change notification.
// What it does not tell is zero; a null counts as not told, for HMCs do not tell the two apart.
type Report struct {
	OldStatus, NewStatus string
	// OldAdditional and NewAdditional are JSON: classes have the additional status in several
	// forms. One that is empty is none, as null is.
	OldAdditional, NewAdditional []byte
	// Unacceptable is has-unacceptable-status, the HMC's own judgement of the new status;
	// Judged says that it is told.
	Unacceptable, Judged bool

	Property string
	// OldValue and NewValue are JSON. Of a property that cannot be read, a password, neither is
	// told.
	OldValue, NewValue []byte
}

// changeReports is what the reports are called in the body of a notification.
const changeReports = "change-reports"

// Reports ranges over the change-reports in the body of a notification, which has to be valid JSON,
// the oldest first: the last one is how things stand.
func Reports(body []byte) iter.Seq[Report] {
	return func(yield func(Report) bool) {
		for o := ObjectsIn(body, changeReports); o.Next(); {
			if !yield(readReport(&o)) {
				return
			}
		}
	}
}

// AppendReports appends what Reports ranges over; where dst would become longer than limit the last
// one takes the place of the one before.
func AppendReports(dst []Report, body []byte, limit int) []Report {
	for report := range Reports(body) {
		if len(dst) == limit {
			dst = dst[:limit-1]
		}
		dst = append(dst, report)
	}
	return dst
}

func readReport(o *Objects) (r Report) {
	for o.Member() {
		if string(o.Value) != "null" {
			r.set(o.Name, o.Value)
		}
	}
	return r
}

func (r *Report) set(name, value []byte) {
	switch string(name) {
	case "old-status":
		r.OldStatus = String(value)
	case "new-status":
		r.NewStatus = String(value)
	case "old-additional-status":
		r.OldAdditional = unlessEmpty(value)
	case "new-additional-status":
		r.NewAdditional = unlessEmpty(value)
	case "has-unacceptable-status":
		r.Unacceptable, r.Judged = Bool(value)
	case "property-name":
		r.Property = String(value)
	case "old-value":
		r.OldValue = value
	case "new-value":
		r.NewValue = value
	}
}

// unlessEmpty returns a JSON value; nil: it is an empty string.
func unlessEmpty(value []byte) []byte {
	if string(value) == `""` {
		return nil
	}
	return value
}

// IsStatus says whether a property is a status by another name: of a storage group whether its
// storage is there, of an adapter or a port whether its link works.
func IsStatus(class, property string) bool {
	switch property {
	case "fulfillment-state":
		return class == "storage-group"
	case "physical-channel-status":
		return true
	}
	return false
}

// FromTo returns the status before the first report of a status-change and the one after the
// last, of those that are told.
func FromTo(body []byte) (from, to string) {
	for r := range Reports(body) {
		from, to = cmp.Or(from, r.OldStatus), cmp.Or(r.NewStatus, to)
	}
	return from, to
}

// StatusProperty returns the property of a property-change that is a status, with the value before
// its first report and the one after its last; "": there is none.
func StatusProperty(class string, body []byte) (property, from, to string) {
	for r := range Reports(body) {
		if !IsStatus(class, r.Property) || property != "" && property != r.Property {
			continue
		}
		if property == "" {
			property, from = r.Property, String(r.OldValue)
		}
		to = String(r.NewValue)
	}
	return property, from, to
}
