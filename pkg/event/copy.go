package event

import (
	"slices"
	"strings"
)

// Copy returns an event that lasts longer than the notification that this one was made of: it keeps
// nothing of that memory, which may be far larger. Labels, which are never changed, are shared.
func (e *Event) Copy() Event {
	c := *e
	c.Body, c.Headers = slices.Clone(e.Body), slices.Clone(e.Headers)
	size := 0
	for i := range c.Headers {
		size += len(c.Headers[i].Name) + len(c.Headers[i].Value)
	}
	var all strings.Builder
	all.Grow(size)
	own := func(s string) string {
		start := all.Len()
		all.WriteString(s)
		return all.String()[start:]
	}
	for i := range c.Headers {
		h := &c.Headers[i]
		h.Name, h.Value = own(h.Name), own(h.Value)
	}
	c.SessionSequenceNr, c.GlobalSequenceNr = clonePointer(e.SessionSequenceNr), clonePointer(e.GlobalSequenceNr)
	c.Resource, c.Unacceptable = clonePointer(e.Resource), clonePointer(e.Unacceptable)
	return c
}

func clonePointer[T any](p *T) *T {
	if p == nil {
		return nil
	}
	v := *p
	return &v
}
