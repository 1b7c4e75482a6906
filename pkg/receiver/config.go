package receiver

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"time"
)

// StompRetryTimeoutConfig holds the ten retry and timeout parameters of a link, with the names, the
// meaning and the defaults zhmcclient documents for its class of this name.
type StompRetryTimeoutConfig struct {
	// ConnectTimeout limits one connection attempt from the first packet to the CONNECTED
	// frame, then again the wait for the receipts of the subscriptions. 0: no limit.
	ConnectTimeout time.Duration
	// ConnectRetries is the number of retries after the first attempt: 0 is one attempt only,
	// -1 retries without end.
	ConnectRetries int
	// ReconnectSleepInitial is the delay after the first failed attempt.
	ReconnectSleepInitial time.Duration
	// ReconnectSleepIncrease is by how much each delay is longer than the one before: 0.5 makes
	// it half as long again.
	ReconnectSleepIncrease float64
	// ReconnectSleepMax limits the delay (before jitter).
	ReconnectSleepMax time.Duration
	// ReconnectSleepJitter lengthens each delay by a random part of it: 0.1 by up to a tenth.
	ReconnectSleepJitter float64
	// Keepalive turns TCP keep-alive on. It notices a peer that vanished where no heart-beats
	// were agreed upon.
	Keepalive bool
	// HeartbeatSendCycle is the longest silence that the HMC is promised, in whole
	// milliseconds. 0: no heart-beats are sent.
	HeartbeatSendCycle time.Duration
	// HeartbeatReceiveCycle is the longest silence that the HMC is asked for, in whole
	// milliseconds. 0: none are expected.
	HeartbeatReceiveCycle time.Duration
	// HeartbeatReceiveCheck is the tolerance: the link is lost after a silence of the agreed
	// cycle x (1 + this).
	HeartbeatReceiveCheck float64
}

// DefaultStompRetryTimeoutConfig returns zhmcclient's defaults: 30 s for an attempt, 3 retries,
// delays from 100 ms to 60 s growing by half with a jitter of a tenth, TCP keep-alive, heart-beats
// every 5 s both ways, loss after 10 s of silence.
func DefaultStompRetryTimeoutConfig() StompRetryTimeoutConfig {
	return StompRetryTimeoutConfig{
		ConnectTimeout: 30 * time.Second, ConnectRetries: 3,
		ReconnectSleepInitial: 100 * time.Millisecond, ReconnectSleepIncrease: 0.5,
		ReconnectSleepMax: 60 * time.Second, ReconnectSleepJitter: 0.1, Keepalive: true,
		HeartbeatSendCycle: 5 * time.Second, HeartbeatReceiveCycle: 5 * time.Second, HeartbeatReceiveCheck: 1.0,
	}
}

// StompRetryTimeoutOverride names the parameters to change in a StompRetryTimeoutConfig; nil keeps
// the value there is.
type StompRetryTimeoutOverride struct {
	ConnectTimeout                                                      *time.Duration
	ConnectRetries                                                      *int
	ReconnectSleepInitial, ReconnectSleepMax                            *time.Duration
	ReconnectSleepIncrease, ReconnectSleepJitter, HeartbeatReceiveCheck *float64
	Keepalive                                                           *bool
	HeartbeatSendCycle, HeartbeatReceiveCycle                           *time.Duration
}

// OverrideWith returns a copy of c with every parameter replaced that o names.
func (c StompRetryTimeoutConfig) OverrideWith(o StompRetryTimeoutOverride) StompRetryTimeoutConfig {
	// The fields of both have the same names.
	values := reflect.ValueOf(&c).Elem()
	for field, with := range reflect.ValueOf(o).Fields() {
		if !with.IsNil() {
			values.FieldByName(field.Name).Set(with.Elem())
		}
	}
	return c
}

// maxHeartbeatCycle keeps the milliseconds within what a STOMP server in Java reads them into.
const maxHeartbeatCycle = math.MaxInt32 * time.Millisecond

// Validate returns every problem of c, joined, each named by its parameter as zhmcclient spells it.
func (c StompRetryTimeoutConfig) Validate() error {
	var errs []error
	problem := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	factor := func(name string, v float64) {
		if v < 0 || math.IsNaN(v) || math.IsInf(v, 0) {
			problem("%s must be a number of at least 0, not %v", name, v)
		}
	}
	// A delay of 0 would hammer an HMC that refuses connections; HMCs take that as an attack
	// and call home.
	sleep := func(name string, d time.Duration) {
		if d <= 0 {
			problem("%s must be greater than 0, not %v", name, d)
		}
	}
	cycle := func(name string, d time.Duration) {
		if d < 0 || d > maxHeartbeatCycle || (d > 0 && d < time.Millisecond) {
			problem("%s must be 0 or from 1ms to %v, not %v", name, maxHeartbeatCycle, d)
		}
	}
	if c.ConnectTimeout < 0 {
		problem("connect_timeout must not be negative: %v", c.ConnectTimeout)
	}
	if c.ConnectRetries < -1 {
		problem("connect_retries must be -1 (without end) or at least 0, not %d", c.ConnectRetries)
	}
	sleep("reconnect_sleep_initial", c.ReconnectSleepInitial)
	factor("reconnect_sleep_increase", c.ReconnectSleepIncrease)
	sleep("reconnect_sleep_max", c.ReconnectSleepMax)
	factor("reconnect_sleep_jitter", c.ReconnectSleepJitter)
	cycle("heartbeat_send_cycle", c.HeartbeatSendCycle)
	cycle("heartbeat_receive_cycle", c.HeartbeatReceiveCycle)
	factor("heartbeat_receive_check", c.HeartbeatReceiveCheck)
	return errors.Join(errs...)
}

// Backoff gives the delays between connection attempts. The delay after the n-th failed attempt is
//
//	min(ReconnectSleepMax, ReconnectSleepInitial * (1 + ReconnectSleepIncrease)^(n-1))
//	    * (1 + rand[0,1) * ReconnectSleepJitter)
//
// A Backoff is used by one goroutine at a time.
type Backoff struct {
	initial, factor, limit, jitter float64
	next                           float64
}

// NewBackoff returns a Backoff for the four reconnect_sleep parameters of a valid c.
func NewBackoff(c StompRetryTimeoutConfig) *Backoff {
	b := &Backoff{
		initial: float64(c.ReconnectSleepInitial), factor: 1 + c.ReconnectSleepIncrease,
		limit: float64(c.ReconnectSleepMax), jitter: c.ReconnectSleepJitter,
	}
	b.Reset()
	return b
}

// Next returns the delay before the next attempt and advances the sequence.
func (b *Backoff) Next() time.Duration {
	d := b.next * (1 + rand.Float64()*b.jitter)
	b.next = min(b.limit, b.next*b.factor)
	if d >= math.MaxInt64 {
		return math.MaxInt64
	}
	return time.Duration(d)
}

// Reset starts the sequence over.
func (b *Backoff) Reset() { b.next = min(b.limit, b.initial) }
