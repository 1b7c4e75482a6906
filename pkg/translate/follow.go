package translate

import (
	"bytes"
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/estate"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

const (
	// maxElements bounds how many names of elements are remembered.
	maxElements = 10_000
	// soonAfterList is how long after a list the notification of what it showed may still come:
	// it is the first to tell of it.
	soonAfterList = 10 * time.Second
	// repeatedWithin is how much later an HMC may report the same change once more.
	repeatedWithin = 10 * time.Minute
)

// outcome is what a notification leads to.
type outcome struct {
	// the status that the resource has now; "": that is not known
	status string
	// what the HMC thinks of it
	judged estate.Judgement
	// how long the status that ended had lasted; 0: that is not known
	lasted time.Duration
	// ipl says that it tells of an IPL.
	ipl bool
	// starting says that the resource was activated and does not operate yet, which is usual.
	starting bool
}

// outcomeOf is what the reports of a status change say, the oldest first. What the HMC thought of a
// status that is over counts no more.
func outcomeOf(reports []event.Report) (o outcome) {
	for i := range reports {
		r := &reports[i]
		if r.NewStatus != "" && r.NewStatus != o.status {
			o.status, o.judged = r.NewStatus, estate.Unjudged
		}
		if r.Judged {
			o.judged = estate.JudgementOf(r.Unacceptable)
		}
	}
	return o
}

// complete adds what is known of the resource itself.
func (o *outcome) complete(r *estate.Resource) {
	if o.status == "" || o.status == r.Status {
		o.status, o.judged = r.Status, cmp.Or(o.judged, r.Judged)
		o.starting = !r.Starting.IsZero()
	}
}

// follow keeps the estate true to what a notification tells, and returns what that leads to. It
// marks the event of a status change that tells nothing new.
func (c *Converter) follow(n *Notification) (o outcome) {
	r := &n.Resource
	if n.Type == event.TypeStatusChange {
		o = outcomeOf(n.Reports)
	}
	if r.ObjectURI == "" || r.ElementURI != "" || !estate.Tracked(r.Class) {
		c.followOther(n, &o)
		return o
	}
	switch n.Type {
	case event.TypeStatusChange:
		c.followStatus(n, &o)
	case event.TypePropertyChange:
		o.ipl = c.followProperties(n)
	case event.TypeInventoryChange:
		switch n.Headers.Get("action") {
		case "add":
			c.estate.Announce(r.ObjectURI, n.Received)
		case "remove":
			c.estate.Remove(r.ObjectURI, n.Received)
		}
	}
	return o
}

// followOther marks the event of a status change that tells nothing new of what is not tracked.
func (c *Converter) followOther(n *Notification, o *outcome) {
	r := &n.Resource
	if o.status == "" || !estate.OnCPC(r.ObjectURI) {
		return
	}
	e, last := &c.event, &n.Reports[len(n.Reports)-1]
	before, told := c.estate.Turned(cmp.Or(r.ElementURI, r.ObjectURI), o.status, e.Received)
	if last.OldStatus != "" && e.Received.Sub(told) > repeatedWithin {
		before = "" // what was between was missed
	}
	e.Repeat = len(n.Reports) == 1 && bytes.Equal(last.OldAdditional, last.NewAdditional) &&
		(before == o.status || last.OldStatus == o.status)
}

func (c *Converter) followStatus(n *Notification, o *outcome) {
	if o.status == "" && o.judged == estate.Unjudged {
		known, ok := c.estate.Lookup(n.Resource.ObjectURI)
		if ok && !ended(n.Reports, known.Status) { // the status is what it was
			o.complete(&known)
		}
		return
	}
	told, same, news := o.status != "", true, len(n.Reports)
	for i := range n.Reports {
		r := &n.Reports[i]
		// Of several reports that lead back to where they began, those between are news.
		same = same && r.OldStatus == r.NewStatus
		if !bytes.Equal(r.OldAdditional, r.NewAdditional) {
			same = false
			news++ // an additional status is news even where the status is not
		}
	}
	e := &c.event
	was, is, known := c.estate.SetStatus(&estate.Resource{
		URI: n.Resource.ObjectURI, Class: n.Resource.Class, Name: c.resource.Name,
		Status: o.status, Judged: o.judged, Since: e.Time,
	}, e.Received)
	if since := started(n, &is, was.Status != is.Status); !since.Equal(is.Starting) {
		is.Starting = since
		c.setStarting(&is, since)
	}
	o.complete(&is)
	// That the same status is acceptable now, or not any more, is news too.
	if known && was.Judged != is.Judged && was.Judged != estate.Unjudged && is.Judged != estate.Unjudged {
		same = false
		news++
	}
	switch {
	case !told:
	case same:
		e.Repeat = true
	case !known:
	case was.Status == o.status && news == 1 && happenedAgain(&was, e, n.Reports[0].OldStatus):
		c.estate.Update(is.URI, is.Class, is.Name, time.Time{}, func(r *estate.Resource) {
			r.Since, r.Exact = e.Time, true
		})
	case was.Status == o.status && news == 1:
		e.Repeat = was.Exact || e.Received.Sub(was.Since) > soonAfterList
	case was.Exact && was.Status == n.Reports[0].OldStatus && e.Time.After(was.Since):
		o.lasted = e.Time.Sub(was.Since)
	}
}

// ended says whether reports that name no new status tell that this one is over.
func ended(reports []event.Report, status string) bool {
	return slices.ContainsFunc(reports, func(r event.Report) bool { return r.OldStatus != "" && r.OldStatus == status })
}

// happenedAgain says whether a change to the status that is known is another one: it comes from
// another status, and too late to be the same once more. What was between was missed.
func happenedAgain(was *estate.Resource, e *event.Event, from string) bool {
	at := e.Received
	if was.Exact {
		at = e.Time
	}
	return from != "" && from != was.Status && at.Sub(was.Since) > repeatedWithin
}

// started returns since when a resource has been activated and has not operated yet. What its HMC
// reports counts more than what was known before; news says that it has another status now.
func started(n *Notification, known *estate.Resource, news bool) time.Time {
	since := known.Starting
	for i := range n.Reports {
		r := &n.Reports[i]
		switch {
		case estate.Activated(known.Class, r.OldStatus, r.NewStatus):
			if news {
				since = n.Received
			}
		case estate.Runs(r.OldStatus), r.NewStatus != "" && r.NewStatus != notOperating:
			since, news = time.Time{}, true
		}
	}
	return since
}

func (c *Converter) setStarting(r *estate.Resource, since time.Time) {
	c.estate.Update(r.URI, r.Class, r.Name, time.Time{}, func(known *estate.Resource) { known.Starting = since })
}

// followProperties takes over what a property-change says of what is known of a resource, and
// returns whether it tells of an IPL.
func (c *Converter) followProperties(n *Notification) (ipl bool) {
	var (
		told       estate.System
		acceptable []string
		some, list bool
	)
	for i := range n.Reports {
		switch r := &n.Reports[i]; r.Property {
		case "acceptable-status":
			acceptable, list, some = statuses(r.NewValue), true, true
		case "os-name":
			told.OSName, some = textOf(r.NewValue), true
		case "os-level", "os-version":
			told.OSLevel, some = textOf(r.NewValue), true
		case "sysplex-name":
			told.Sysplex, some = textOf(r.NewValue), true
		case "os-ipl-token":
			told.IPLToken, some = tokenOf(textOf(r.NewValue)), true
			// None before it is one as well, where the HMC says so.
			ipl = told.IPLToken != "" && len(r.OldValue) > 0 && tokenOf(textOf(r.OldValue)) != told.IPLToken
		case "last-used-load-address":
			told.LoadAddress, some = textOf(r.NewValue), true
		case "last-used-load-parameter":
			told.LoadParameter, some = textOf(r.NewValue), true
		}
	}
	name, named := n.newName()
	named = named && name != ""
	if !some && !named {
		return false
	}
	r := &n.Resource
	c.estate.Update(r.ObjectURI, r.Class, cmp.Or(name, r.Name), n.Received, func(known *estate.Resource) {
		if list {
			known.Acceptable = acceptable
		}
		if named {
			known.Name = strings.Clone(name)
		}
		before := known.System
		known.System = before.Merge(told)
		ipl = known.System.IPLToken != before.IPLToken && (ipl || before.IPLToken != "")
	})
	return ipl
}

// textOf is a copy of a JSON string without the blanks that HMCs fill up with.
func textOf(raw []byte) string { return strings.Clone(strings.TrimSpace(event.String(raw))) }

// tokenOf is an IPL token; "": none was set.
func tokenOf(text string) string {
	if strings.Trim(text, "0") == "" {
		return ""
	}
	return text
}

// statuses reads an array of statuses; nil: it is none.
func statuses(raw []byte) []string {
	if !isArray(raw) {
		return nil
	}
	list := make([]string, 0, 4)
	for element := range event.Elements(raw) {
		list = append(list, event.String(element))
	}
	return list
}

// element fills in the name of the element that an event is about, where it is known: elements are
// not listed, but a change of its name tells it.
func (c *Converter) element(n *Notification) {
	if n.Resource.ElementURI == "" {
		return
	}
	c.resource.ElementName = c.elements[n.Resource.ElementURI]
	if n.Type != event.TypePropertyChange {
		return
	}
	if name, ok := n.newName(); ok {
		c.resource.ElementName = name
		if c.elements == nil || len(c.elements) >= maxElements {
			c.elements = make(map[string]string)
		}
		c.elements[strings.Clone(n.Resource.ElementURI)] = name
	}
}
