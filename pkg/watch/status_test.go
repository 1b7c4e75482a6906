package watch

import (
	"testing"
	"time"
)

// An outage that comes in many attempts is one; only the last ones are kept.
func TestOutages(t *testing.T) {
	h := hmcStatus{since: time.Unix(1_000, 0)}
	h.endOutage(time.Unix(1_001, 0)) // there was none
	h.noteOutage("first")
	h.noteOutage("second")
	h.endOutage(time.Unix(2_000, 0))
	h.endOutage(time.Unix(3_000, 0))
	if len(h.outages) != 1 || h.outages[0].From.Unix() != 1_000 || h.outages[0].To.Unix() != 2_000 || h.outages[0].Cause != "first" ||
		h.outages[0].LastProblem != "second" || h.outages[0].Attempts != 1 {
		t.Errorf("%+v", h.outages)
	}
	for i := range 3 * maxOutages {
		h.since = time.Unix(int64(10_000+i), 0)
		h.noteOutage("more")
		h.endOutage(h.since)
	}
	if len(h.outages) != maxOutages || h.outages[maxOutages-1].From.Unix() != 10_000+3*maxOutages-1 || cap(h.outages) > 4*maxOutages {
		t.Errorf("%d, %d: %+v", len(h.outages), cap(h.outages), h.outages)
	}
}
