package translate

import (
	"slices"
	"strings"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

const (
	// explainsFor is how long after an operation a status change may be what it led to.
	explainsFor = time.Minute
	// maxOperations bounds how many are remembered.
	maxOperations = 64
	// maxOperationWords bounds how much of an entry's text is.
	maxOperationWords = 60
)

// Operations are what the audit logs of a group have said lately that somebody does to a CPC or
// partition. It belongs to one goroutine at a time.
//
// What an HMC writes for each operation is not public. So an entry counts only where it says all of
// it by itself: who did it, by its userid; what, by the name of an operation of the Web Services
// API; and to what, by the name of the resource, whole. Nothing else is taken for an explanation.
type Operations struct{ list []operation }

type operation struct {
	kind  *operationKind
	user  string
	words []string
	at    time.Time
}

// operationKind is an operation of the Web Services API that changes the status of a CPC, LPAR or
// partition.
type operationKind struct {
	// the forms of its name, in lower case
	forms []string
	done  string // in words: "LP01 was deactivated"
	// the statuses that it leads to
	to []string
}

var operationKinds = []operationKind{
	{
		[]string{"deactivate", "deactivated", "deactivating"},
		"deactivated",
		[]string{"not-activated", "no-power", "stopped"},
	},
	{
		[]string{"activate", "activated", "activating"},
		"activated",
		[]string{"not-operating", "operating", "active", "starting"},
	},
	{[]string{"reset", "reset-clear", "reset-normal"}, "reset", []string{"not-operating"}},
	{[]string{"load", "loaded", "scsi-load", "nvme-load"}, "loaded", []string{"not-operating", "operating"}},
	{[]string{"start", "started", "starting"}, "started", []string{"starting", "active", "operating"}},
	{
		[]string{"stop", "stopped", "stopping"},
		"stopped",
		[]string{"stopping", "stopped", "not-operating", "paused", "terminated"},
	},
}

// otherThings are words of entries about something else than a resource: profiles are activated and
// loaded too, and so is code (zhmc-log-forwarder's messages 28 to 34, 115 to 118, 1235 to 1265).
var otherThings = []string{
	"profile", "profiles", "code", "engineering", "template", "pattern", "password", "certificate", "session", "log",
}

// note remembers an entry of an audit log that tells of an operation.
func (o *Operations) note(l *LogEntry, at time.Time) {
	if l.Userid == "" {
		return
	}
	words := wordsOf(l.Message)
	var kind *operationKind
	for _, w := range words {
		lower := strings.ToLower(w)
		if slices.Contains(otherThings, lower) {
			return
		}
		if kind == nil {
			kind = kindOf(lower)
		}
	}
	if kind == nil {
		return
	}
	for item := range event.Elements([]byte(l.items)) {
		if value := event.String(event.Member(item, "data-item-value")); value != "" {
			words = append(words, value)
		}
	}
	if len(o.list) >= maxOperations {
		o.list = slices.Delete(o.list, 0, 1)
	}
	o.list = append(o.list, operation{kind, strings.Clone(l.Userid), words, at})
}

func kindOf(word string) *operationKind {
	for i := range operationKinds {
		if slices.Contains(operationKinds[i].forms, word) {
			return &operationKinds[i]
		}
	}
	return nil
}

// wordsOf are the words of a text, as names are made of them.
func wordsOf(text string) []string {
	words := strings.FieldsFunc(text, func(r rune) bool {
		return r != '-' && r != '_' && r != '@' && r != '#' && r != '$' && (r < '0' || r > '9') &&
			(r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
	})
	words = words[:min(len(words), maxOperationWords)]
	for i := range words {
		words[i] = strings.Clone(words[i])
	}
	return words
}

// explain says in words who has brought a resource to a status; "": nobody is known to have.
func (o *Operations) explain(name, status string, at time.Time) string {
	if name == "" {
		return ""
	}
	for i := len(o.list) - 1; i >= 0; i-- {
		op := &o.list[i]
		age := at.Sub(op.at)
		if age > explainsFor || age < -explainsFor {
			continue
		}
		if slices.Contains(op.kind.to, status) && slices.Contains(op.words, name) {
			return op.kind.done + " by " + op.user
		}
	}
	return ""
}

// explain marks a status change that somebody wanted.
func (c *Converter) explain(e *event.Event, o *outcome) {
	if c.operations == nil || e.Resource == nil || o.status == "" {
		return
	}
	why := c.operations.explain(e.Resource.Name, o.status, e.Received)
	if why == "" {
		return
	}
	e.Planned = true
	e.Summary = event.OneLine(e.Summary + "; " + why)
}
