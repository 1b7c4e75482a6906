package budget

import (
	"runtime"
	"runtime/metrics"
	"testing"
	"time"
)

func TestGarbage(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	for _, c := range []struct {
		made, live uint64
		since      time.Duration
		want       uint64
	}{
		{12 * mib, 6 * mib, time.Minute, leastGarbage},
		{12 * mib, 6 * mib, 100 * time.Millisecond, 24 * mib},
		{12 * mib, 6 * mib, time.Millisecond, mostGarbage},
		{12 * mib, 6 * mib, 0, mostGarbage},
		{12 * mib, 200 * mib, time.Minute, 100 * mib},
		{},
	} {
		if c.want == 0 {
			c.want = leastGarbage
		}
		if got := garbage(c.made, c.live, c.since); got != c.want {
			t.Errorf("%d bytes made in %s, %d in use: %d, want %d", c.made, c.since, c.live, got, c.want)
		}
	}
}

// The percentage follows what is in use, and is the usual one in the end.
func TestPaceCollector(t *testing.T) {
	t.Setenv("GOGC", "")
	stop := PaceCollector()
	percent := func() int {
		sample := []metrics.Sample{{Name: "/gc/gogc:percent"}}
		metrics.Read(sample)
		return int(sample[0].Value.Uint64())
	}
	await := func(what string, ok func(int) bool) {
		t.Helper()
		for end := time.Now().Add(time.Minute); !ok(percent()); runtime.GC() {
			if time.Now().After(end) {
				t.Fatalf("%s: %d", what, percent())
			}
		}
	}
	await("little is in use", func(p int) bool { return p > 150 })
	much := make([]byte, 256<<20)
	await("much is in use", func(p int) bool { return p <= 60 })
	runtime.KeepAlive(much)
	stop()
	stop()
	runtime.GC()
	if p := percent(); p != 100 {
		t.Errorf("in the end: %d", p)
	}
	t.Setenv("GOGC", "80")
	PaceCollector()()
	if p := percent(); p != 100 {
		t.Errorf("with GOGC: %d", p)
	}
}
