package console

import (
	"strconv"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/tests/clock"
)

// sets are by how much the machine's clock is set.
var sets = []time.Duration{-200 * time.Hour, -time.Hour, time.Hour, 200 * time.Hour}

// All that a system writes when it is loaded is new, though the clock says that it has just written the same, or will.
func TestIPLWhenTheClockIsSet(t *testing.T) {
	for _, by := range sets {
		now, o, fresh := time.Now(), NewOSMessages("a"), 0
		for life := range 3 {
			at := clock.Set(t, now.Add(time.Duration(life)*5*time.Second), time.Duration(life)*by)
			for i := range 20 {
				m := OSMessage{Number: int64(i), Text: TextHash("boot " + strconv.Itoa(i))}
				if !o.Live("P", "h", m, at).Duplicate {
					fresh++
				}
			}
		}
		if fresh != 60 {
			t.Errorf("set by %s: %d of three times 20 messages are new", by, fresh)
		}
	}
}
