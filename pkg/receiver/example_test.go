package receiver_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
)

// simulator starts a broker that sends one notification to each subscriber, for the examples that run. Its Host, Port and TLS
// stand for those of a real HMC.
func simulator() (options receiver.Options, broker *hmcsim.Broker) {
	broker, err := hmcsim.StartBroker(hmcsim.BrokerOptions{
		AnyTopic: true,
		OnSubscribe: func(topic string, attach func([]hmcsim.Message)) {
			attach([]hmcsim.Message{{
				Headers: []hmcsim.Header{{Name: "notification-type", Value: "status-change"}, {Name: "name", Value: "PART1"}},
				Body:    []byte(`{"change-reports":[{"old-status":"starting","new-status":"active"}]}`),
			}})
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	return receiver.Options{
		Host: broker.Host(), Port: broker.Port(), TLS: broker.CA().ClientTLS(),
		Userid: hmcsim.DefaultUserid, Password: hmcsim.DefaultPassword,
	}, broker
}

// One topic: the simplest use.
func Example() {
	opts, broker := simulator()
	defer broker.Close()

	opts.Topics = []string{"sysprog.163"}
	r, err := receiver.New(opts)
	if err != nil {
		log.Fatal(err)
	}
	defer r.Close()
	for n, err := range r.Notifications(context.Background()) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s of %s: %s\n", n.Headers.Get("notification-type"), n.Headers.Get("name"), n.Body)
		break
	}
	// Output: status-change of PART1: {"change-reports":[{"old-status":"starting","new-status":"active"}]}
}

// The certificate of a real HMC is signed by an authority of its owner's, or by itself; either way its PEM file verifies it.
func ExampleOptions() {
	pem, err := os.ReadFile("hmc-ca.pem")
	if err != nil {
		log.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	r, err := receiver.New(receiver.Options{
		Host:     "hmc1.example.com",
		TLS:      &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		Userid:   "monitor",
		Password: os.Getenv("HMC_PASSWORD"),
		Topics:   []string{"monitor.145"},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer r.Close()
}

// Several topics over one link.
func ExampleReceiver_Notifications() {
	opts, broker := simulator()
	defer broker.Close()

	opts.Topics = []string{"sysprog.163", "sysprog.163job"}
	r, err := receiver.New(opts)
	if err != nil {
		log.Fatal(err)
	}
	defer r.Close()
	seen := 0
	for n, err := range r.Notifications(context.Background()) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println("notification on", n.Topic)
		if seen++; seen == 2 {
			break
		}
	}
	// Output:
	// notification on sysprog.163
	// notification on sysprog.163job
}

// Reconnecting for ever: after a loss, ranging again makes a new link with the same topics.
func ExampleReceiver_Notifications_forEver() {
	opts, broker := simulator()
	defer broker.Close()

	config := receiver.DefaultStompRetryTimeoutConfig()
	config.ConnectRetries = -1 // without end, with the delays of the configuration
	opts.Config = &config
	opts.Topics = []string{"sysprog.163"}
	r, err := receiver.New(opts)
	if err != nil {
		log.Fatal(err)
	}
	defer r.Close()

	links := 0
	for links < 3 {
		for n, err := range r.Notifications(context.Background()) {
			var (
				lost    *receiver.ConnectionError
				refused *receiver.SubscriptionError
			)
			switch {
			case err == nil:
				fmt.Println("notification on", n.Topic)
				links++
				broker.DropLinks() // the network fails
			case errors.As(err, &lost) && lost.Reason == receiver.ReasonAuthorization:
				log.Fatal(err) // the HMC disables a userid that is refused again and again
			case errors.As(err, &lost):
				fmt.Println("lost")
			case errors.As(err, &refused):
				log.Print(err) // the topic is gone: its session has ended
			default:
				log.Print(err) // a body that is not JSON, an ERROR of the broker: the link goes on
			}
		}
	}
	// Output:
	// notification on sysprog.163
	// lost
	// notification on sysprog.163
	// lost
	// notification on sysprog.163
	// lost
}

// Adding a topic while the notifications of others are received, and giving it up again.
func ExampleReceiver_Subscribe() {
	opts, broker := simulator()
	defer broker.Close()

	opts.Topics = []string{"sysprog.163"}
	r, err := receiver.New(opts)
	if err != nil {
		log.Fatal(err)
	}
	defer r.Close()
	ctx := context.Background()
	const console = "sysprog.163osm.e12121dac50331178e79c46bd3531b90"
	for n, err := range r.Notifications(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println("notification on", n.Topic)
		if n.Topic == console {
			break
		}
		if err := r.Subscribe(ctx, console); err != nil { // from any goroutine, at any time
			log.Fatal(err)
		}
		id, err := r.SubscriptionID(console)
		fmt.Println(r.Subscribed(console), id, err)
	}
	fmt.Println(r.Unsubscribe(ctx, console), r.Topics())
	// Output:
	// notification on sysprog.163
	// true sub-2 <nil>
	// notification on sysprog.163osm.e12121dac50331178e79c46bd3531b90
	// <nil> [sysprog.163]
}

// Logging on with a session of the Web Services API, which works with and without multi-factor authentication.
func ExampleOptions_session() {
	sessionID, credential := os.Getenv("HMC_SESSION"), os.Getenv("HMC_CREDENTIAL") // api-session and session-credential of a logon
	r, err := receiver.New(receiver.Options{
		Host:              "hmc1.example.com",
		SessionID:         sessionID,
		SessionCredential: credential,
		Topics:            []string{"monitor.145"},
	})
	if err != nil {
		log.Print(err)
		return
	}
	defer r.Close()
}

// Changing some of the ten parameters.
func ExampleStompRetryTimeoutConfig_OverrideWith() {
	config := receiver.DefaultStompRetryTimeoutConfig().OverrideWith(receiver.StompRetryTimeoutOverride{
		ConnectRetries:        new(-1),
		HeartbeatReceiveCycle: new(10 * time.Second),
	})
	fmt.Println(config.ConnectTimeout, config.ConnectRetries, config.HeartbeatReceiveCycle, config.Validate())
	// Output: 30s -1 10s <nil>
}

// The delays between attempts with the default configuration, without jitter.
func ExampleBackoff() {
	backoff := receiver.NewBackoff(receiver.DefaultStompRetryTimeoutConfig().OverrideWith(receiver.StompRetryTimeoutOverride{
		ReconnectSleepJitter: new(0.0),
	}))
	for range 5 {
		fmt.Println(backoff.Next())
	}
	// Output:
	// 100ms
	// 150ms
	// 225ms
	// 337.5ms
	// 506.25ms
}
