package translate

import (
	"slices"
	"strings"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/estate"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

const (
	// explainsFor is how long after an operation a status change may be what it led to.
	explainsFor = time.Minute
	// maxOperations bounds how many are remembered.
	maxOperations = 64
	// maxOperationWords bounds how much of an entry's text is.
	maxOperationWords = 60
	// maxPast bounds how many statuses of a resource an operation may be followed by.
	maxPast = 16
)

// Operations are what the audit logs of a group have said lately that somebody does to a CPC or
// partition. It belongs to one goroutine at a time.
//
// What an HMC writes for each operation is not public. So an entry counts only where it says all of
// it by itself: who did it, by its userid; what, by the name of an operation of the Web Services
// API; and to what, by the name of the resource, whole, and that of its CPC where another resource
// has the name too. Nothing else is taken for an explanation.
type Operations struct{ list []operation }

type operation struct {
	kind  *operationKind
	user  string
	words []string
	at    time.Time
	// past are the statuses that have come since, by the URI of what is named.
	past map[string][]string
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
	o.list = append(o.list, operation{kind, strings.Clone(l.Userid), words, at, make(map[string][]string)})
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

// leads says whether the operation may have led to the last of the statuses that a resource has
// come to: to each once, and to none after the one in which the system runs that it was to bring
// up. Whatever else happens in that minute is no work of it.
func (op *operation) leads(uri string, path []string) bool {
	past := op.past[uri]
	switch n := len(past) - len(path); {
	case n >= 0 && slices.Equal(past[n:], path): // told once more
		past = past[:n]
	case len(past)+len(path) <= maxPast:
		op.past[strings.Clone(uri)] = append(past, path...)
	default:
		return false
	}
	last := len(path) - 1
	wanted := func(status string) bool { return slices.Contains(op.kind.to, status) }
	return wanted(path[last]) && !slices.ContainsFunc(slices.Concat(past, path[:last]), func(before string) bool {
		return before == path[last] || wanted(before) && estate.Runs(before)
	})
}

// explain says in words who has brought a resource to a status, by a path of one or more; "":
// nobody is known to have. shared says whether another resource has its name.
func (o *Operations) explain(r *event.Resource, path []string, at time.Time, shared func() bool) (why string) {
	if r.Name == "" || len(path) == 0 {
		return ""
	}
	for i := len(o.list) - 1; i >= 0; i-- {
		op := &o.list[i]
		age := at.Sub(op.at)
		if age > explainsFor || age < -explainsFor || !slices.Contains(op.words, r.Name) ||
			!slices.Contains(op.words, r.CPC) && shared() {
			continue
		}
		if op.leads(r.ObjectURI, path) && why == "" {
			why = op.kind.done + " by " + op.user
		}
	}
	return why
}

// explain marks a status change that somebody wanted.
func (c *Converter) explain(e *event.Event, reports []event.Report) {
	if c.operations == nil || len(c.operations.list) == 0 || e.Resource == nil {
		return
	}
	var path []string
	for i := range reports {
		if s := reports[i].NewStatus; s != "" && (len(path) == 0 || path[len(path)-1] != s) {
			path = append(path, strings.Clone(s))
		}
	}
	r := e.Resource
	shared := func() bool { return c.estate.SharesName(r.ObjectURI, r.Name) }
	why := c.operations.explain(r, path, e.Received, shared)
	if why == "" {
		return
	}
	e.Planned = true
	e.Summary = event.OneLine(e.Summary + "; " + why)
}
