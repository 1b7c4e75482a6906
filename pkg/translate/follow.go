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
	// soonAfterList is how long after a list the notification of what it showed may still come:
	// it is the first to tell of it.
	soonAfterList = 10 * time.Second
)

// follow keeps the estate true to what a notification tells, and returns how long the status that
// ended had lasted; 0: that is not known. It marks the event of a status change that tells nothing
// new.
func (c *Converter) follow(n *Notification) (lasted time.Duration) {
	r := &n.Resource
	if r.ObjectURI == "" || r.ElementURI != "" || !estate.Tracked(r.Class) {
		return 0
	}
	switch n.Type {
	case event.TypeStatusChange:
		return c.followStatus(n)
	case event.TypePropertyChange:
		if name, ok := n.newName(); ok && name != "" {
			c.estate.Rename(r.ObjectURI, r.Class, name, n.Received)
		}
	case event.TypeInventoryChange:
		switch n.Headers.Get("action") {
		case "add":
			c.estate.Announce(r.ObjectURI, n.Received)
		case "remove":
			c.estate.Remove(r.ObjectURI, n.Received)
		}
	}
	return 0
}

func (c *Converter) followStatus(n *Notification) (lasted time.Duration) {
	to, same, news := "", true, len(n.Reports)
	for i := range n.Reports {
		r := &n.Reports[i]
		if r.NewStatus != "" {
			to = r.NewStatus
		}
		// Of several reports that lead back to where they began, those between are news.
		same = same && r.OldStatus == r.NewStatus
		if !bytes.Equal(r.OldAdditional, r.NewAdditional) {
			same = false
			news++ // an additional status is news even where the status is not
		}
	}
	if to == "" {
		return 0
	}
	e := &c.event
	was, known := c.estate.SetStatus(n.Resource.ObjectURI, n.Resource.Class, c.resource.Name, to, e.Time, e.Received)
	switch {
	case same:
		e.Repeat = true
	case !known:
	case was.Status == to && news == 1:
		e.Repeat = was.Exact || e.Received.Sub(was.Since) > soonAfterList
	case was.Exact && was.Status == n.Reports[0].OldStatus && e.Time.After(was.Since):
		return e.Time.Sub(was.Since)
	}
	return 0
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
