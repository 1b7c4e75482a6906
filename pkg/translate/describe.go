package translate

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/estate"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

const (
	// maxPaths bounds how many statuses in a row a summary tells.
	maxPaths = 5
	// maxChanges bounds how many changed properties a summary tells.
	maxChanges = 3
)

// describe sets the summary and the severity of an event that is a whole notification, which leads
// to o.
func (c *Converter) describe(e *event.Event, n *Notification, o *outcome) {
	switch e.Type {
	case event.TypeStatusChange:
		c.describeStatusChange(e, n.Reports, o)
		c.explain(e, n.Reports)
	case event.TypePropertyChange:
		describePropertyChange(e, n.Reports)
		c.ratePropertyChange(e, n.Reports)
	case event.TypeInventoryChange:
		describeInventoryChange(e)
	case event.TypeJobCompletion:
		describeJob(e)
	default:
		e.Summary = withResource(e, e.Type)
	}
	if e.Origin == event.OriginReconcile {
		e.Summary = event.OneLineWith(e.Summary, " (no notification of it was received)")
		return
	}
	e.Summary = event.OneLine(e.Summary)
}

func (c *Converter) describeStatusChange(e *event.Event, reports []event.Report, o *outcome) {
	var last event.Report
	if n := len(reports); n > 0 {
		last = reports[n-1]
	}
	what := pathOf(reports)
	if what == "" && slices.ContainsFunc(reports, func(r event.Report) bool { return r.Judged }) {
		what = "the status " + o.status
		what = strings.TrimSpace(what) + " is acceptable now"
		if o.judged == estate.Unacceptable {
			what = strings.Replace(what, "acceptable", "unacceptable", 1)
		}
	}
	additional := event.String(last.NewAdditional)
	if additional != "" && additional != event.String(last.OldAdditional) {
		what = strings.TrimSpace(what + " (additional status " + additional + ")")
	}
	if o.lasted > 0 {
		what += " (" + reports[0].OldStatus + " for " + roughly(o.lasted) + ")"
	}
	e.Summary = withResource(e, cmp.Or(what, "status changed")) + c.sysplex(e, o)
	if o.judged != estate.Unjudged {
		c.unacceptable = o.judged == estate.Unacceptable
		e.Unacceptable = &c.unacceptable
	}
	e.Severity = c.Severities.OfActivation(classOf(e), o.status, o.judged, o.starting)
}

// sysplex says how many members of a sysplex are down, where an event is about one that is.
func (c *Converter) sysplex(e *event.Event, o *outcome) string {
	if e.Resource == nil || e.Resource.Sysplex == "" || o.status == "" || estate.Runs(o.status) {
		return ""
	}
	down, off, all := c.estate.Members(e.Resource.Sysplex)
	if c.Severities.ignoresJudged() {
		down, off = down+off, 0
	}
	if down == 0 {
		return ""
	}
	text := fmt.Sprintf("; %d of %d members of %s %s down", down, all, e.Resource.Sysplex, are(down))
	if off > 0 {
		text += fmt.Sprintf(", %d %s off, which is acceptable", off, are(off))
	}
	return text
}

func are(n int) string {
	if n == 1 {
		return "is"
	}
	return "are"
}

// classOf is the class of what an event is about.
func classOf(e *event.Event) string {
	if e.Resource == nil {
		return ""
	}
	return e.Resource.Class
}

// pathOf is the way from the first status to the last one, of those that the reports name; "" where
// they name none.
func pathOf(reports []event.Report) string {
	statuses := make([]string, 0, maxPaths) // on the stack, as a rule
	for i := range reports {
		r := &reports[i]
		if len(statuses) == 0 && r.OldStatus != "" {
			statuses = append(statuses, r.OldStatus)
			if r.NewStatus != "" { // also where it is the same
				statuses = append(statuses, r.NewStatus)
			}
		} else if n := len(statuses); r.NewStatus != "" && (n == 0 || r.NewStatus != statuses[n-1]) {
			statuses = append(statuses, r.NewStatus) // HMCs repeat reports
		}
	}
	switch n := len(statuses); {
	case n == 1 && slices.ContainsFunc(reports, func(r event.Report) bool { return r.NewStatus != "" }):
		return "now " + statuses[0]
	case n == 1:
		return "no longer " + statuses[0]
	case n > maxPaths:
		statuses = []string{statuses[0], statuses[n-1]}
	}
	return strings.Join(statuses, " -> ")
}

// roughly is a duration in its two largest units.
func roughly(d time.Duration) string {
	const day = 24 * time.Hour
	for _, u := range []struct {
		large, small time.Duration
		l, s         string
	}{
		{day, time.Hour, "d", "h"},
		{time.Hour, time.Minute, "h", "m"},
		{time.Minute, time.Second, "m", "s"},
		{time.Second, time.Second, "s", ""},
	} {
		if d < u.large {
			continue
		}
		text := strconv.Itoa(int(d/u.large)) + u.l
		if rest := d % u.large / u.small; rest > 0 {
			text += " " + strconv.Itoa(int(rest)) + u.s
		}
		return text
	}
	return "less than 1s"
}

func describePropertyChange(e *event.Event, reports []event.Report) {
	var what strings.Builder
	what.Grow(event.MaxValue)
	for i := range reports[:min(len(reports), maxChanges)] {
		if i > 0 {
			what.WriteString(", ")
		}
		changeInWords(&what, &reports[i])
	}
	switch n := len(reports); {
	case n > maxChanges:
		what.WriteString(" and " + strconv.Itoa(n-maxChanges) + " more")
	case n == 0:
		names := strings.Join(strings.Fields(e.Headers.Get("property-names")), ", ")
		what.WriteString(cmp.Or(names, "properties") + " changed")
	}
	e.Summary = withElement(e, what.String())
}

// changeInWords writes what one report of a property-change says. Of a container the HMC reports
// what was removed from it and what was added, each as an array; of another array all that it had
// and has.
func changeInWords(b *strings.Builder, r *event.Report) {
	b.WriteString(r.Property)
	switch {
	case len(r.OldValue) == 0 && len(r.NewValue) == 0:
		b.WriteString(" changed")
	case (isArray(r.OldValue) || isArray(r.NewValue)) && !haveInCommon(r.OldValue, r.NewValue):
		added, removed := countElements(r.NewValue), countElements(r.OldValue)
		b.WriteString(": ")
		if added > 0 || removed == 0 {
			b.WriteString(strconv.Itoa(added) + " added")
		}
		if removed > 0 {
			if added > 0 {
				b.WriteString(", ")
			}
			b.WriteString(strconv.Itoa(removed) + " removed")
		}
	default:
		b.WriteByte(' ')
		writeShort(b, r.OldValue)
		b.WriteString(" -> ")
		writeShort(b, r.NewValue)
	}
}

func isArray(raw []byte) bool { return len(raw) > 0 && raw[0] == '[' }

// haveInCommon says whether two arrays have an element in common, among the first ones of each.
func haveInCommon(a, b []byte) bool {
	const first = 20
	var of []string
	for element := range event.Elements(a) {
		if of = append(of, string(element)); len(of) == first {
			break
		}
	}
	n := 0
	for element := range event.Elements(b) {
		if n++; n > first || len(of) == 0 {
			break
		}
		if slices.Contains(of, string(element)) {
			return true
		}
	}
	return false
}

func countElements(raw []byte) int {
	n := 0
	for range event.Elements(raw) {
		n++
	}
	return n
}

// describeJob tells of a job what is known: its completion says only which one it was, the rest was
// asked for.
func describeJob(e *event.Event) {
	what := "job "
	if uri := e.Headers.Get("job-uri"); uri != "" {
		what += path.Base(uri) + " "
	}
	var status, results string
	var code, reason int64 // 0: not said, or not as a number
	for name, value := range event.Members(e.Body) {
		switch string(name) {
		case "status":
			status = event.String(value)
		case "job-status-code":
			code = event.Int(value)
		case "job-reason-code":
			reason = event.Int(value)
		case "job-results":
			for key := range event.Members(value) {
				if results != "" {
					results += ", "
				}
				results += string(key)
				if len(results) > event.MaxSummary {
					break
				}
			}
		}
	}
	if status == "" {
		e.Summary = what + "completed"
		return
	}
	what += status
	if code != 0 {
		what += ", status " + strconv.FormatInt(code, 10)
		if code < 200 || code > 299 {
			e.Severity = event.SeverityWarning
			what += ", reason " + strconv.FormatInt(reason, 10)
		}
	}
	if results != "" {
		what += " (results: " + results + ")"
	}
	e.Summary = what
}

// describeOSMessage tells the first line of an operating system's message that says something.
func describeOSMessage(e *event.Event, m *event.OSMessage) {
	what := event.FirstLine(m.Text)
	switch {
	case m.Held:
		what = "held, waits for an answer: " + what
	case m.Priority:
		what = "priority: " + what
	}
	if m.Held || m.Priority || m.Alarm {
		e.Severity = event.SeverityWarning
	}
	e.Summary = event.OneLine(withResource(e, what))
}

// DescribeAnswer tells that a message with this text does not wait for an answer any more.
func (c *Converter) DescribeAnswer(e *event.Event, text string) {
	e.Summary = event.OneLine(withResource(e, "answered, or gone: "+event.FirstLine(text)))
	e.Severity = event.SeverityInfo
}

// describeLogEntry tells who did what, as the HMC puts it, and the id by which the HMC's help and
// the configuration know it.
func describeLogEntry(e *event.Event, l *LogEntry, s *Severities) {
	what, end := event.FirstLine(l.Message), ""
	if what == "" {
		what = strings.TrimSpace("log entry " + l.EventID + " " + l.Name)
	} else if l.EventID != "" {
		end = " [" + l.EventID + "]"
	}
	if l.Userid != "" && !strings.Contains(what, l.Userid) {
		what = l.Userid + ": " + what
	}
	e.Summary = event.OneLineWith(what, end)
	e.Severity = s.ofEventID(l.EventID)
}

func describeInventoryChange(e *event.Event) {
	action := e.Headers.Get("action")
	switch action {
	case "add":
		action = "added" // not "created": the HMC repeats it when it rebuilds its inventory
	case "remove":
		action = "removed"
	case "":
		action = "inventory changed"
	}
	e.Summary = withElement(e, action)
}

// withElement is withResource for what may be about an element of the resource, a NIC for example.
func withElement(e *event.Event, what string) string {
	r := e.Resource
	if r == nil || r.ElementURI == "" {
		return withResource(e, what)
	}
	element := cmp.Or(r.ElementName, path.Base(r.ElementURI))
	what = "element " + path.Base(path.Dir(r.ElementURI)) + "/" + element + " " + what
	// The class is that of the element, the URI that of what holds it, and so is a name that is
	// known by the URI.
	if class := estate.ClassOf(r.ObjectURI); class != "" && e.Headers.Get("name") == "" {
		holder := *r
		holder.Class = class
		return ofResource(&holder, what)
	}
	return ofResource(r, what)
}

// withResource puts the resource in front of what happened: "partition PART1 on CPC1: active ->
// stopped".
func withResource(e *event.Event, what string) string {
	if e.Resource == nil {
		return what
	}
	return ofResource(e.Resource, what)
}

func ofResource(r *event.Resource, what string) string {
	class, name := cmp.Or(r.Class, "resource"), cmp.Or(r.Name, r.ObjectURI)
	switch {
	case name == "":
		return class + ": " + what
	case r.CPC == "" || class == "cpc":
		return class + " " + name + ": " + what
	}
	return class + " " + name + " on " + r.CPC + ": " + what
}

// writeShort writes a JSON value as it stands, cut to a bearable length: a string keeps its quotes,
// for "" is not nothing.
func writeShort(b *strings.Builder, raw []byte) {
	switch {
	case len(raw) == 0:
		b.WriteString("null")
	case len(raw) <= event.MaxValue:
		b.Write(raw)
	default:
		b.WriteString(event.Cut(string(raw), event.MaxValue))
	}
}
