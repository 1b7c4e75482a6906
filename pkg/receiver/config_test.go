package receiver

import (
	"math"
	"strings"
	"testing"
	"time"
)

func TestDefaultConfigIsValid(t *testing.T) {
	must(t, DefaultStompRetryTimeoutConfig().Validate())
}

// TestBackoff checks the delays against those computed from zhmcclient's formula for its defaults.
func TestBackoff(t *testing.T) {
	config := DefaultStompRetryTimeoutConfig()
	config.ReconnectSleepJitter = 0
	b := NewBackoff(config)
	for round := range 2 {
		for i, want := range []float64{
			0.1, 0.15, 0.225, 0.3375, 0.50625, 0.759375, 1.1390625, 1.70859375, 2.562890625, 3.8443359375,
			5.76650390625, 8.649755859375, 12.9746337890625, 19.46195068359375, 29.192926025390625, 43.78938903808594, 60, 60, 60,
		} {
			if got := b.Next().Seconds(); math.Abs(got-want) > 1e-6 {
				t.Errorf("round %d: delay after failed attempt %d is %v s, want %v s", round, i+1, got, want)
			}
		}
		b.Reset()
	}
}

func TestBackoffJitter(t *testing.T) {
	config := DefaultStompRetryTimeoutConfig()
	config.ReconnectSleepInitial, config.ReconnectSleepMax = time.Second, time.Second
	b := NewBackoff(config)
	seen := make(map[time.Duration]bool)
	for range 1000 {
		d := b.Next()
		if d < time.Second || d >= 1100*time.Millisecond {
			t.Fatalf("delay %v, want from 1s to below 1.1s", d)
		}
		seen[d] = true
	}
	if len(seen) < 500 {
		t.Errorf("only %d different delays of 1000", len(seen))
	}
}

func TestBackoffExtremes(t *testing.T) {
	config := DefaultStompRetryTimeoutConfig()
	config.ReconnectSleepIncrease, config.ReconnectSleepMax, config.ReconnectSleepJitter = 1e300, math.MaxInt64, 1e300
	b := NewBackoff(config)
	for range 10 {
		if d := b.Next(); d < 0 {
			t.Fatalf("delay %v", d)
		}
	}
	config = DefaultStompRetryTimeoutConfig()
	config.ReconnectSleepInitial, config.ReconnectSleepMax, config.ReconnectSleepJitter = time.Hour, time.Second, 0
	if d := NewBackoff(config).Next(); d != time.Second {
		t.Errorf("delay %v beyond the maximum", d)
	}
}

func TestOverrideWith(t *testing.T) {
	base := DefaultStompRetryTimeoutConfig()
	if got := base.OverrideWith(StompRetryTimeoutOverride{}); got != base {
		t.Errorf("an empty override changed the configuration: %+v", got)
	}
	got := base.OverrideWith(StompRetryTimeoutOverride{
		ConnectTimeout: new(time.Second), ConnectRetries: new(0), ReconnectSleepInitial: new(2 * time.Second),
		ReconnectSleepIncrease: new(3.0), ReconnectSleepMax: new(4 * time.Second), ReconnectSleepJitter: new(0.0),
		Keepalive: new(false), HeartbeatSendCycle: new(time.Duration(0)), HeartbeatReceiveCycle: new(7 * time.Second),
		HeartbeatReceiveCheck: new(0.5),
	})
	want := StompRetryTimeoutConfig{
		ConnectTimeout: time.Second, ReconnectSleepInitial: 2 * time.Second, ReconnectSleepIncrease: 3,
		ReconnectSleepMax: 4 * time.Second, HeartbeatReceiveCycle: 7 * time.Second, HeartbeatReceiveCheck: 0.5,
	}
	if got != want {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	if base != DefaultStompRetryTimeoutConfig() {
		t.Error("OverrideWith changed its receiver")
	}
}

func TestValidateConfig(t *testing.T) {
	for name, set := range map[string]func(*StompRetryTimeoutConfig){
		"connect_timeout":          func(c *StompRetryTimeoutConfig) { c.ConnectTimeout = -1 },
		"connect_retries":          func(c *StompRetryTimeoutConfig) { c.ConnectRetries = -2 },
		"reconnect_sleep_initial":  func(c *StompRetryTimeoutConfig) { c.ReconnectSleepInitial = 0 },
		"reconnect_sleep_increase": func(c *StompRetryTimeoutConfig) { c.ReconnectSleepIncrease = -0.1 },
		"reconnect_sleep_max":      func(c *StompRetryTimeoutConfig) { c.ReconnectSleepMax = 0 },
		"reconnect_sleep_jitter":   func(c *StompRetryTimeoutConfig) { c.ReconnectSleepJitter = math.NaN() },
		"heartbeat_send_cycle":     func(c *StompRetryTimeoutConfig) { c.HeartbeatSendCycle = time.Microsecond },
		"heartbeat_receive_cycle":  func(c *StompRetryTimeoutConfig) { c.HeartbeatReceiveCycle = 1000 * time.Hour },
		"heartbeat_receive_check":  func(c *StompRetryTimeoutConfig) { c.HeartbeatReceiveCheck = math.Inf(1) },
	} {
		t.Run(name, func(t *testing.T) {
			config := DefaultStompRetryTimeoutConfig()
			set(&config)
			err := config.Validate()
			if err == nil || !strings.HasPrefix(err.Error(), name+" must") {
				t.Errorf("got %v, want an error that begins with %q", err, name+" must")
			}
		})
	}
	if err := (StompRetryTimeoutConfig{ConnectTimeout: -1, ConnectRetries: -5}).Validate(); strings.Count(err.Error(), "\n") < 3 {
		t.Errorf("not every problem is named: %v", err)
	}
}
