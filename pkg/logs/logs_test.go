package logs

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
)

// No line has the nanoseconds of something that took minutes.
func TestDurationsAreRounded(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 999: "999ns", 106488122: "106ms", 1234567890: "1.23s", 59999 * time.Millisecond: "1m0s", 100*time.Minute + 7*time.Second + 300: "1h40m7s", -1234567: "-1.23ms",
	} {
		var out bytes.Buffer
		log, err := New(&out, "info", "json")
		if err != nil {
			t.Fatal(err)
		}
		log.Info("x", zap.Duration("took", d))
		if !strings.Contains(out.String(), `"took":"`+want+`"`) {
			t.Errorf("%d: want %s in %s", d, want, out.String())
		}
	}
}
