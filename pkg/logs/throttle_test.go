package logs

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// throttledLog is a throttled logger, and what it has written.
func throttledLog() (*zap.Logger, *observer.ObservedLogs) {
	core, logs := observer.New(zap.DebugLevel)
	return zap.New(newThrottled(core)), logs
}

// Who floods the log gets some lines and then their number, and hides nobody else.
func TestLogFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, logs := throttledLog()
		const all = 153_000
		for i := range all {
			log.With(zap.String("hmc", "mad")).Warn("the HMC's broker sent an error", zap.Int("i", i))
			if i%1000 == 0 {
				time.Sleep(time.Second)
			}
		}
		log.With(zap.String("hmc", "good")).Warn("the HMC's broker sent an error")
		log.Warn("the HMC's broker sent an error", zap.String("hmc", "another"))
		log.Warn("something else")
		time.Sleep(lastWindow)
		counted, lines := int64(0), 0
		for _, e := range logs.FilterField(zap.String("hmc", "mad")).All() {
			lines++
			left, _ := e.ContextMap()["lines_left_out"].(int64)
			counted += max(1, left)
		}
		if lines > linesAtOnce+5 || counted != all {
			t.Errorf("%d lines, which tell of %d", lines, counted)
		}
		if n := logs.Len() - lines; n != 3 {
			t.Errorf("%d lines of others", n)
		}
		// It is over: what comes now is written at once.
		time.Sleep(2 * lastWindow)
		before := logs.Len()
		log.Warn("the HMC's broker sent an error", zap.String("hmc", "mad"))
		if logs.Len() != before+1 {
			t.Error("a line long after the flood was left out")
		}
		time.Sleep(2 * lastWindow)
	})
}

// At the end nothing is kept back.
func TestLogFloodIsToldAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, logs := throttledLog()
		for range 100 {
			log.Error("a")
			log.Debug("b") // whoever wants these wants all
		}
		if err := log.Sync(); err != nil {
			t.Fatal(err)
		}
		a := logs.FilterMessage("a").All()
		if len(a) != linesAtOnce+1 || a[linesAtOnce].ContextMap()["lines_left_out"] != int64(100-linesAtOnce) || a[linesAtOnce].Level != zapcore.ErrorLevel {
			t.Errorf("%d lines: %v", len(a), a)
		}
		if n := logs.FilterMessage("b").Len(); n != 100 {
			t.Errorf("%d lines of debug", n)
		}
	})
}

// The kinds of lines are bounded, whatever the outside names.
func TestKindsOfLinesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, logs := throttledLog()
		for i := range 10 * maxKinds {
			log.Warn("x", zap.String("hmc", fmt.Sprint(i)))
		}
		if n := logs.Len(); n > maxKinds+linesAtOnce {
			t.Errorf("%d lines", n)
		}
		time.Sleep(2 * lastWindow)
		core, ok := log.Core().(*throttled)
		if !ok {
			t.Fatalf("a core of type %T", log.Core())
		}
		core.all.mu.Lock()
		defer core.all.mu.Unlock()
		if len(core.all.kinds) != 0 {
			t.Error("kinds that are over are kept")
		}
	})
}
