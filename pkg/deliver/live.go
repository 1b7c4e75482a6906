package deliver

import (
	"strings"
)

// Contains says whether a text, in lower case, is part of what a person reads of the event.
func (v *View) Contains(text string) bool {
	if text == "" {
		return true
	}
	in := func(s string) bool { return strings.Contains(strings.ToLower(s), text) }
	if in(v.Summary) || in(v.Type) || in(v.text()) {
		return true
	}
	r := v.Resource
	return r != nil && (in(r.Name) || in(r.CPC) || in(r.ElementName) || in(r.Class))
}
