package receiver_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
)

// These tests run against the simulator's broker, which behaves as the Apache ActiveMQ inside an HMC. Faults that it
// does not have are in the other tests.

func startBroker(t *testing.T, o hmcsim.BrokerOptions) *hmcsim.Broker {
	t.Helper()
	b, err := hmcsim.StartBroker(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// simOptions connects to b, with short sleeps.
func simOptions(b *hmcsim.Broker, topics ...string) receiver.Options {
	config := receiver.DefaultStompRetryTimeoutConfig()
	config.ConnectTimeout = time.Second
	config.ReconnectSleepInitial = time.Millisecond
	config.ReconnectSleepMax = 20 * time.Millisecond
	config.ConnectRetries = -1
	return receiver.Options{
		Topics: topics, Host: b.Host(), Port: b.Port(), TLS: b.CA().ClientTLS(),
		Userid: hmcsim.DefaultUserid, Password: hmcsim.DefaultPassword, Config: &config,
		Limits: receiver.Limits{Body: 1 << 20},
	}
}

func newReceiver(t *testing.T, o receiver.Options) *receiver.Receiver {
	t.Helper()
	r, err := receiver.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

// publishing publishes on a topic again and again, until the test ends.
func publishing(t *testing.T, b *hmcsim.Broker, topic string) {
	t.Helper()
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	wg.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			b.Publish(topic, []hmcsim.Header{{Name: "notification-type", Value: "status-change"}}, []byte(strconv.Itoa(i)))
			select {
			case <-ctx.Done():
			case <-time.After(2 * time.Millisecond):
			}
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
}

// TestFaults has each fault of the simulator on the first two links: notifications come nevertheless, at the latest on the third.
func TestFaults(t *testing.T) {
	for _, kind := range hmcsim.FaultKinds() {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			b := startBroker(t, hmcsim.BrokerOptions{Topics: []string{"u.1"}})
			fault := hmcsim.Fault{Kind: kind, Size: 3 << 20}
			b.Script([]hmcsim.Fault{fault}, []hmcsim.Fault{fault})
			publishing(t, b, "u.1")
			o := simOptions(b, "u.1")
			if kind == hmcsim.FaultBadLogin || kind == hmcsim.FaultNone {
				o.Config.ConnectTimeout = time.Minute // what is to be seen is no timeout
			}
			r := newReceiver(t, o)
			var dropping sync.WaitGroup
			defer dropping.Wait()
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			if kind == hmcsim.FaultSilence { // an HMC with nothing to say: only its end can help
				dropping.Go(func() {
					for pause := 700 * time.Millisecond; ; pause *= 2 {
						select {
						case <-ctx.Done():
							return
						case <-time.After(pause):
							b.DropLinks()
						}
					}
				})
			}
			got, losses, refusals := 0, 0, 0
			for got < 5 {
				for n, err := range r.Notifications(ctx) {
					var (
						lost *receiver.ConnectionError
						jms  *receiver.JMSError
					)
					switch {
					case err == nil:
						if n.Topic != "u.1" || n.Headers.Get("notification-type") != "status-change" {
							t.Fatalf("got %+v", n)
						}
						got++
					case errors.As(err, &lost) && lost.Reason == receiver.ReasonAuthorization:
						refusals++
					case errors.As(err, &lost):
						losses++
						if lost.Reason != receiver.ReasonBroker && lost.Reason != receiver.ReasonTimeout {
							t.Errorf("loss for reason %q: %v", lost.Reason, err)
						}
					case errors.As(err, new(*receiver.SubscriptionError)):
						// Asked for again on another link, it will be had.
						b.DropLinks()
						for r.Connected() {
							time.Sleep(time.Millisecond)
						}
						if err := r.Subscribe(ctx, "u.1"); err != nil {
							t.Fatal(err)
						}
					case errors.As(err, &jms):
					default:
						t.Fatal(err)
					}
					if got == 5 {
						break
					}
				}
			}
			if kind == hmcsim.FaultBadLogin && refusals != 2 {
				t.Errorf("%d refusals of the logon were reported, want 2", refusals)
			}
			if kind == hmcsim.FaultNone && losses != 0 {
				t.Errorf("%d losses without a fault", losses)
			}
		})
	}
}

// TestFlood receives a lot as fast as it can and misses nothing.
func TestFlood(t *testing.T) {
	const frames = 50000
	b := startBroker(t, hmcsim.BrokerOptions{Topics: []string{"u.1"}})
	o := simOptions(b, "u.1")
	o.OnMissed = func(string) { t.Error("missed a notification") }
	o.Limits.HandoverWait = time.Minute
	r := newReceiver(t, o)
	if err := r.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	var sender sync.WaitGroup
	defer sender.Wait()
	sender.Go(func() {
		if _, err := b.Flood(t.Context(), hmcsim.FloodOptions{Topic: "u.1", Frames: frames}); err != nil {
			t.Error(err)
		}
	})
	last, got := int64(0), 0
	for n, err := range r.Notifications(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		seq, err := strconv.ParseInt(n.Headers.Get("session-sequence-nr"), 10, 64)
		if err != nil || (got > 0 && seq != last+1) {
			t.Fatalf("sequence number %d after %d, %v", seq, last, err)
		}
		last = seq
		if got++; got == frames {
			break
		}
	}
}

// TestRestarts restarts the broker again and again: the receiver is there again each time, with all its topics, and nothing
// is left of its former links.
func TestRestarts(t *testing.T) {
	t.Parallel()
	b := startBroker(t, hmcsim.BrokerOptions{AnyTopic: true})
	r := newReceiver(t, simOptions(b, "u.1", "u.2"))
	for round := range 5 {
		added := fmt.Sprintf("u.%d", 3+round)
		if err := r.Subscribe(t.Context(), added); err != nil {
			t.Fatal(err)
		}
		if err := r.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, topic := range r.Topics() {
			if !r.Subscribed(topic) || b.Subscribers(topic) != 1 {
				t.Errorf("round %d: topic %s: subscribed %v, %d subscribers", round, topic, r.Subscribed(topic), b.Subscribers(topic))
			}
		}
		if len(r.Topics()) != 3+round {
			t.Errorf("round %d: topics %v", round, r.Topics())
		}
		b.Publish(added, nil, []byte("1"))
		restarted := false
		var last error
		for n, err := range r.Notifications(t.Context()) {
			switch last = err; {
			case err == nil && n.Topic == added && !restarted:
				restarted = true
				if err := b.Restart(10 * time.Millisecond); err != nil {
					t.Fatal(err)
				}
			case err == nil:
				t.Errorf("round %d: got %+v", round, n)
			}
		}
		if !errors.As(last, new(*receiver.ConnectionError)) {
			t.Errorf("round %d: the link ended with %v", round, last)
		}
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if stats := b.Stats(); stats.Links != 0 || stats.Subscriptions != 0 {
		t.Errorf("%d links and %d subscriptions are left", stats.Links, stats.Subscriptions)
	}
}

// TestHalfOpen has an HMC vanish without a word while it is connected.
func TestHalfOpen(t *testing.T) {
	t.Parallel()
	b := startBroker(t, hmcsim.BrokerOptions{Topics: []string{"u.1"}})
	o := simOptions(b, "u.1")
	o.Config.HeartbeatSendCycle, o.Config.HeartbeatReceiveCycle = 200*time.Millisecond, 200*time.Millisecond
	o.Config.HeartbeatReceiveCheck = 4
	r := newReceiver(t, o)
	if err := r.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := b.FaultNow(hmcsim.Fault{Kind: hmcsim.FaultHalfOpen}); n != 1 {
		t.Fatalf("%d links are half-open", n)
	}
	for _, err := range r.Notifications(t.Context()) {
		if lost, ok := errors.AsType[*receiver.ConnectionError](err); !ok || lost.Reason != receiver.ReasonTimeout {
			t.Errorf("got %v", err)
		}
	}
	if r.Connected() {
		t.Error("still connected")
	}
	if err := r.Connect(t.Context()); err != nil || !r.Subscribed("u.1") {
		t.Errorf("connected again: %v, subscribed: %v", err, r.Subscribed("u.1"))
	}
}

// TestSpecialPassword logs on with a password that STOMP's escaping would spoil.
func TestSpecialPassword(t *testing.T) {
	const password = `a:b\c"d é€\n`
	b := startBroker(t, hmcsim.BrokerOptions{Topics: []string{"u.1"}, Userid: hmcsim.DefaultUserid, Password: password, Addrs: []string{"[::1]:0"}})
	o := simOptions(b, "u.1")
	o.Host = net.ParseIP(o.Host).String()
	o.Password = password
	r := newReceiver(t, o)
	if err := r.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if send, receive := r.HeartBeat(); send != 5*time.Second || receive != 5*time.Second {
		t.Errorf("heart-beats %v, %v", send, receive)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if n := b.Stats().Disconnects; n != 1 {
		t.Errorf("%d disconnects", n)
	}
}
