//go:build real

package receiver_test

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/activemq"
)

// realOptions connects to a real Apache ActiveMQ, the broker inside an HMC.
func realOptions(b *activemq.Broker, topics ...string) receiver.Options {
	config := receiver.DefaultStompRetryTimeoutConfig()
	config.ReconnectSleepMax = time.Second
	config.ConnectRetries = -1
	return receiver.Options{
		Topics: topics, Host: b.Host(), Port: b.Port(), TLS: b.Authority().ClientConfig(),
		Userid: "hmcuser", Password: "hmcpass", Config: &config,
	}
}

// TestActiveMQ receives what a real broker sends: bodies with and without text, headers that need escapes, over a link whose
// heart-beats keep it up.
func TestActiveMQ(t *testing.T) {
	const password = `a:b\c"d é€\n`
	b := activemq.Start(t, activemq.Options{Users: []activemq.User{{Name: "hmcuser", Password: password}}, Approved: []string{"ensadmin.>"}})
	o := realOptions(b, "ensadmin.145", "nobody.1", "ensadmin.145job")
	o.Password = password
	o.Config.HeartbeatSendCycle, o.Config.HeartbeatReceiveCycle = time.Second, time.Second
	r := newReceiver(t, o)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	if err := r.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(r.Topics(), []string{"ensadmin.145", "ensadmin.145job"}) || !r.Subscribed("ensadmin.145") || !r.Subscribed("ensadmin.145job") {
		t.Errorf("topics %v", r.Topics())
	}
	if send, receive := r.HeartBeat(); send != time.Second || receive != time.Second {
		t.Errorf("heart-beats %v, %v", send, receive)
	}
	headers := map[string]string{"notification-type": "status-change", "name": `a:b\c "ä€"`, "property-names": " x y "}
	p := b.Publisher(t)
	idle := time.AfterFunc(5*time.Second, func() { // longer than silence would be allowed to last
		p.Publish(t, "ensadmin.145", headers, []byte(`{"a":"é"}`))
		p.Publish(t, "ensadmin.145job", headers, nil)
	})
	defer idle.Stop()
	var got []receiver.Notification
	refused := 0
	for n, err := range r.Notifications(ctx) {
		if subscription, ok := errors.AsType[*receiver.SubscriptionError](err); ok && subscription.Topic == "nobody.1" {
			refused++
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, n); len(got) == 2 {
			break
		}
	}
	if refused != 1 || string(got[0].Body) != `{"a":"é"}` || got[0].Topic != "ensadmin.145" || got[1].Body != nil || got[1].Topic != "ensadmin.145job" {
		t.Errorf("%d refusals, got %+v", refused, got)
	}
	for name, want := range headers {
		if got[0].Headers.Get(name) != want {
			t.Errorf("header %s is %q, want %q", name, got[0].Headers.Get(name), want)
		}
	}
	if err := r.Unsubscribe(ctx, "ensadmin.145"); err != nil {
		t.Error(err)
	}
	if err := r.Subscribe(ctx, "ensadmin.145"); err != nil {
		t.Error(err)
	}
	if err := r.Subscribe(ctx, "nobody.2"); !errors.As(err, new(*receiver.SubscriptionError)) {
		t.Errorf("got %v, want a SubscriptionError", err)
	}
	if !r.Connected() || !r.Subscribed("ensadmin.145") {
		t.Error("a refused topic cost the link")
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

func TestActiveMQRefusesLogon(t *testing.T) {
	b := activemq.Start(t, activemq.Options{})
	o := realOptions(b, "u.1")
	o.Password = "wrong"
	r := newReceiver(t, o)
	err := r.Connect(t.Context())
	lost, ok := errors.AsType[*receiver.ConnectionError](err)
	if !ok || lost.Reason != receiver.ReasonAuthorization || lost.Attempts != 1 {
		t.Errorf("got %v", err)
	}
}

// TestActiveMQRestarts kills the broker again and again.
func TestActiveMQRestarts(t *testing.T) {
	b := activemq.Start(t, activemq.Options{})
	r := newReceiver(t, realOptions(b, "u.1"))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	for round := range 3 {
		if err := r.Connect(ctx); err != nil {
			t.Fatal(err)
		}
		p := b.Publisher(t)
		const count = 1000
		for i := range count {
			p.Publish(t, "u.1", nil, []byte(strconv.Itoa(i)))
		}
		got := 0
		var last error
		for n, err := range r.Notifications(ctx) {
			if last = err; err != nil {
				continue
			}
			if string(n.Body) != strconv.Itoa(got) {
				t.Fatalf("round %d: got %s, want %d", round, n.Body, got)
			}
			if got++; got == count {
				if round%2 == 0 {
					b.Kill()
				} else {
					b.Stop(t)
				}
			}
		}
		if lost, ok := errors.AsType[*receiver.ConnectionError](last); !ok || got != count {
			t.Fatalf("round %d: got %d, %v, %v", round, got, last, lost)
		}
		b.Start(t)
	}
}
