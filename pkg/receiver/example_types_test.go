package receiver_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
)

func ExampleNotification() {
	n := receiver.Notification{
		Topic:   "sysprog.163",
		Headers: receiver.Headers{{Name: "notification-type", Value: "inventory-change"}, {Name: "action", Value: "add"}},
	}
	if n.Body == nil { // as with each inventory-change
		fmt.Println(n.Headers.Get("notification-type"), n.Headers.Get("action"))
	}
	// Output: inventory-change add
}

func ExampleHeaders() {
	h := receiver.Headers{{Name: "name", Value: "PART1"}, {Name: "name", Value: "of another"}}
	name, ok := h.Lookup("name")
	_, there := h.Lookup("class")
	fmt.Println(name, ok, there)
	// Output: PART1 true false
}

func ExampleHeader() {
	for _, h := range (receiver.Headers{{Name: "class", Value: "partition"}}) {
		fmt.Println(h.Name, h.Value)
	}
	// Output: class partition
}

// Why there is no link: in a word that a metric can have, and down to its cause.
func ExampleConnectionError() {
	config := receiver.DefaultStompRetryTimeoutConfig()
	config.ConnectRetries = 0
	r, err := receiver.New(receiver.Options{Host: "127.0.0.1", Port: 1, Userid: "u", Password: "p", Config: &config})
	if err != nil {
		log.Fatal(err)
	}
	defer r.Close()
	if broken, ok := errors.AsType[*receiver.ConnectionError](r.Connect(context.Background())); ok {
		fmt.Println(broken.Reason, broken.Attempts)
	}
	// Output: refused 1
}

// A logon that the HMC refuses is not tried again: it disables a userid after a few.
func ExampleJMSError() {
	opts, broker := simulator()
	defer broker.Close()
	opts.Password = "wrong"
	r, err := receiver.New(opts)
	if err != nil {
		log.Fatal(err)
	}
	defer r.Close()
	err = r.Connect(context.Background())
	broken, ok := errors.AsType[*receiver.ConnectionError](err)
	said, told := errors.AsType[*receiver.JMSError](err) // the ERROR frame of the broker
	fmt.Println(ok && broken.Reason == receiver.ReasonAuthorization, told && said.Message != "")
	// Output: true true
}

// A body that is not JSON does not end the iteration.
func ExampleParseError() {
	broker, err := hmcsim.StartBroker(hmcsim.BrokerOptions{
		AnyTopic:    true,
		OnSubscribe: func(_ string, attach func([]hmcsim.Message)) { attach([]hmcsim.Message{{Body: []byte("{not JSON")}}) },
	})
	if err != nil {
		log.Fatal(err)
	}
	defer broker.Close()
	r, err := receiver.New(receiver.Options{
		Host: broker.Host(), Port: broker.Port(), TLS: broker.CA().ClientTLS(),
		Userid: hmcsim.DefaultUserid, Password: hmcsim.DefaultPassword, Topics: []string{"sysprog.163"},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer r.Close()
	for _, err := range r.Notifications(context.Background()) {
		if bad, ok := errors.AsType[*receiver.ParseError](err); ok {
			fmt.Printf("%s\n", bad.Body)
		}
		break
	}
	// Output: {not JSON
}

// A topic that the HMC does not know costs that topic only.
func ExampleSubscriptionError() {
	broker, err := hmcsim.StartBroker(hmcsim.BrokerOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer broker.Close()
	r, err := receiver.New(receiver.Options{
		Host: broker.Host(), Port: broker.Port(), TLS: broker.CA().ClientTLS(),
		Userid: hmcsim.DefaultUserid, Password: hmcsim.DefaultPassword, Topics: []string{"sysprog.163"},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer r.Close()
	for _, err := range r.Notifications(context.Background()) {
		if refused, ok := errors.AsType[*receiver.SubscriptionError](err); ok {
			fmt.Println(refused.Topic, r.Topics())
		}
		break
	}
	// Output: sysprog.163 []
}

func ExampleSubscriptionNotFoundError() {
	opts, broker := simulator()
	defer broker.Close()
	r, err := receiver.New(opts)
	if err != nil {
		log.Fatal(err)
	}
	defer r.Close()
	_, err = r.SubscriptionID("sysprog.1")
	if unknown, ok := errors.AsType[*receiver.SubscriptionNotFoundError](err); ok {
		fmt.Println(unknown.Topic)
	}
	// Output: sysprog.1
}

// A program with little memory, that must rather lose something than hold up the HMC.
func ExampleLimits() {
	opts, broker := simulator()
	defer broker.Close()
	opts.Limits = receiver.Limits{Handover: 1 << 20, Body: 256 << 10}
	opts.HandoverHold = func() bool { return false }
	opts.OnMissed = func(topic string) { log.Print("missed one of ", topic) }
	r, err := receiver.New(opts)
	fmt.Println(err)
	_ = r.Close()
	// Output: <nil>
}

// Only what differs from the defaults, as zhmcclient's class of this name has it.
func ExampleStompRetryTimeoutOverride() {
	config := receiver.DefaultStompRetryTimeoutConfig().OverrideWith(receiver.StompRetryTimeoutOverride{ConnectTimeout: new(5 * time.Second)})
	fmt.Println(config.ConnectTimeout, config.ReconnectSleepMax)
	// Output: 5s 1m0s
}

// The frames of a link, for who looks for a fault.
func ExampleTraffic() {
	opts, broker := simulator()
	defer broker.Close()
	connected := make(chan receiver.Traffic, 1)
	opts.OnTraffic = func(t receiver.Traffic) {
		if t.Command == "CONNECTED" {
			connected <- t
		}
	}
	r, err := receiver.New(opts)
	if err != nil {
		log.Fatal(err)
	}
	defer r.Close()
	if err := r.Connect(context.Background()); err != nil {
		log.Fatal(err)
	}
	t := <-connected
	fmt.Println(t.Command, t.Headers.Get("version"))
	// Output: CONNECTED 1.1
}
