package translate

import (
	"bytes"
	"strings"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/estate"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

const (
	// maxElements bounds how many names of elements are remembered.
	maxElements = 10_000
	// soonAfterList is how long after a list the notification of what it showed may still come: it is the first to tell of it.
	soonAfterList = 10 * time.Second
)

// follow keeps the estate true to what an event tells of it, and returns how long the status that ended had lasted; 0: that is
// not known. It marks a status change that tells nothing new.
func (c *Converter) follow(e *event.Event) (lasted time.Duration) {
	r := e.Resource
	if r == nil || r.ObjectURI == "" || r.ElementURI != "" || !estate.Tracked(r.Class) {
		return 0
	}
	switch e.Type {
	case event.TypeStatusChange:
		return c.followStatus(e)
	case event.TypePropertyChange:
		if name, ok := newName(e); ok && name != "" {
			c.Changes = append(c.Changes, c.Estate.Rename(r.ObjectURI, r.Class, name, e.Received))
		}
	case event.TypeInventoryChange:
		switch e.Headers.Get("action") {
		case "add":
			c.Estate.Announce(r.ObjectURI, e.Received)
		case "remove":
			c.Changes = append(c.Changes, c.Estate.Remove(r.ObjectURI, e.Received))
		}
	}
	return 0
}

func (c *Converter) followStatus(e *event.Event) (lasted time.Duration) {
	var from, to string
	reports, same := 0, true
	for report := range event.Elements(event.Member(e.Body, "change-reports")) {
		var before, after string
		var additionalBefore, additionalAfter []byte
		for name, value := range event.Members(report) {
			switch string(name) {
			case "old-status":
				before = event.String(value)
			case "new-status":
				after = event.String(value)
			case "old-additional-status":
				additionalBefore = value
			case "new-additional-status":
				additionalAfter = value
			}
		}
		if reports == 0 {
			from = before
		}
		if after != "" {
			to = after
		}
		// Of several reports that lead back to where they began, those between are news.
		same = same && before == after && bytes.Equal(additionalBefore, additionalAfter)
		if !bytes.Equal(additionalBefore, additionalAfter) {
			reports++ // an additional status is news even where the status is not
		}
		reports++
	}
	if to == "" {
		return 0
	}
	r := e.Resource
	change := c.Estate.SetStatus(r.ObjectURI, r.Class, r.Name, to, e.Time, e.Received)
	c.Changes = append(c.Changes, change)
	was := change.Resource()
	switch {
	case same:
		e.Repeat = true
	case !change.Known():
	case was.Status == to && reports == 1:
		e.Repeat = was.Exact || e.Received.Sub(was.Since) > soonAfterList
	case was.Exact && was.Status == from && e.Time.After(was.Since):
		return e.Time.Sub(was.Since)
	}
	return 0
}

// newName returns the name that a property-change gives.
func newName(e *event.Event) (name string, ok bool) {
	if names := e.Headers.Get("property-names"); names != "" && !strings.Contains(" "+names+" ", " name ") {
		return "", false
	}
	for report := range event.Elements(event.Member(e.Body, "change-reports")) {
		if event.String(event.Member(report, "property-name")) == "name" {
			name, ok = event.String(event.Member(report, "new-value")), true
		}
	}
	return name, ok
}

// element fills in the name of the element that an event is about, where it is known: elements are not listed, but a change of
// its name tells it.
func (c *Converter) element(e *event.Event) {
	r := e.Resource
	if r == nil || r.ElementURI == "" {
		return
	}
	r.ElementName = c.elements[r.ElementURI]
	if e.Type != event.TypePropertyChange {
		return
	}
	if name, ok := newName(e); ok {
		r.ElementName = name
		if c.elements == nil || len(c.elements) >= maxElements {
			c.elements = make(map[string]string)
		}
		c.elements[strings.Clone(r.ElementURI)] = name
	}
}
