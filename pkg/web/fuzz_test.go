package web

import (
	"net/url"
	"strings"
	"testing"
)

// The query of a request is read or refused, in one line and without all of it, however it looks.
func FuzzQuery(f *testing.F) {
	for _, q := range []string{
		"type=status-change&hmc=a.*&severity=critical&text=x&sink=ops", "sink=ops&since=1h&limit=10&all=true&id=1&id=2&after=3&to=4",
		"since=2026-11-20T10:00:00Z", "type=(", "limit=-1", "%zz", "a;b", "text=" + strings.Repeat("x", 5000),
	} {
		f.Add(q)
	}
	may := []string{"sink", "since", "after", "to", "all", "limit", "id"}
	f.Fuzz(func(t *testing.T, raw string) {
		_, live := ParseLiveFilter(raw)
		q, letters := parseQuery(raw, may...)
		if letters == nil && (q.limit < 1 || q.limit > maxDeadLettersPage) {
			t.Errorf("limit %d", q.limit)
		}
		values, err := url.ParseQuery(raw)
		if err != nil && (live == nil || letters == nil) {
			t.Errorf("a malformed query was read")
		}
		for name := range values {
			known := false
			for _, n := range LiveFilterParameters() {
				known = known || n == name
			}
			if !known && live == nil {
				t.Errorf("the parameter %q was read as one of live events", name)
			}
		}
	})
}
