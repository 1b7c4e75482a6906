package hmc_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
)

var ctx = context.Background()

// exampleSession makes a session on a simulator, which stands for the HMC.
func exampleSession(options hmc.Options) (sim *hmcsim.HMC, client *hmc.Client, session *hmc.Session) {
	sim, err := hmcsim.Start(hmcsim.Options{})
	if err != nil {
		log.Fatal(err)
	}
	options.Hosts, options.Port, options.TLS = []string{sim.Host()}, sim.RESTPort(), sim.CA().ClientTLS()
	client, err = hmc.New(options)
	if err != nil {
		log.Fatal(err)
	}
	session, err = client.Logon(ctx, hmcsim.DefaultUserid, hmcsim.DefaultPassword)
	if err != nil {
		log.Fatal(err)
	}
	return sim, client, session
}

func endExample(sim *hmcsim.HMC, client *hmc.Client, session *hmc.Session) {
	if err := session.Logoff(ctx); err != nil {
		log.Print(err)
	}
	client.Close()
	_ = sim.Close()
}

// Who looks at partitions logs on, and off on every way out: an HMC has a limited number of sessions.
func ExampleClient() {
	sim, err := hmcsim.Start(hmcsim.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer sim.Close()

	client, err := hmc.New(hmc.Options{Hosts: []string{sim.Host()}, Port: sim.RESTPort(), TLS: sim.CA().ClientTLS()})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	session, err := client.Logon(ctx, hmcsim.DefaultUserid, hmcsim.DefaultPassword)
	switch {
	case hmc.LogonRefused(err):
		log.Fatal(err) // never again with this password: the HMC disables the userid
	case err != nil:
		log.Fatal(err) // later again, after a growing delay
	}
	defer session.Logoff(context.WithoutCancel(ctx))
	partitions, err := session.ListPermittedPartitions(ctx)
	fmt.Println(len(partitions) > 0, err)
	// Output: true <nil>
}

// Two hosts that stand in for each other, and no more than a request a second.
func ExampleOptions() {
	client, err := hmc.New(hmc.Options{
		Hosts:             []string{"hmc1.example.com", "hmc2.example.com"},
		RequestsPerMinute: 60,
		Timeout:           time.Minute,
		OnRequest:         func(operation, code string) { fmt.Println(operation, code) },
	})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	fmt.Println(client.Host())
	// Output: hmc1.example.com
}

// What an HMC says of itself needs no logon.
func ExampleVersion() {
	sim, client, session := exampleSession(hmc.Options{})
	defer endExample(sim, client, session)

	version, err := client.QueryAPIVersion(ctx)
	fmt.Println(version.APIMajor, err)
	// Output: 4 <nil>
}

// A session that was idle for six hours is gone, without a word over its link.
func ExampleSession_Ping() {
	sim, client, session := exampleSession(hmc.Options{})
	defer endExample(sim, client, session)

	fmt.Println(session.Ping(ctx))
	sim.ExpireSessions(false)
	fmt.Println(hmc.SessionLost(session.Ping(ctx)))
	// Output:
	// <nil>
	// true
}

func ExampleSession_OpenOSMessageChannel() {
	sim, client, session := exampleSession(hmc.Options{})
	defer endExample(sim, client, session)

	topic, err := session.OpenOSMessageChannel(ctx, sim.Partitions()[0].URI, true)
	fmt.Println(topic != "", err) // for receiver.Options.Topics
	// Output: true <nil>
}

func ExampleTopic() {
	sim, client, session := exampleSession(hmc.Options{})
	defer endExample(sim, client, session)

	topics, err := session.NotificationTopics(ctx)
	if err != nil {
		log.Fatal(err)
	}
	for _, t := range topics {
		if t.Type == hmc.TopicTypeObject {
			fmt.Println(t.Name != "") // for receiver.Options.Topics
		}
	}
	// Output: true
}

func ExampleCPC() {
	sim, client, session := exampleSession(hmc.Options{})
	defer endExample(sim, client, session)

	cpcs, err := session.ListCPCs(ctx)
	if err != nil {
		log.Fatal(err)
	}
	for _, cpc := range cpcs {
		if cpc.HasUnacceptableStatus != nil && *cpc.HasUnacceptableStatus {
			fmt.Println(cpc.Name, "is", cpc.Status)
		}
	}
	// Output:
}

func ExamplePartition() {
	sim, client, session := exampleSession(hmc.Options{})
	defer endExample(sim, client, session)

	partitions, err := session.ListPermittedPartitions(ctx)
	if err != nil {
		log.Fatal(err)
	}
	p := partitions[0]
	fmt.Println(p.Name, "on", p.CPCName, "is", p.Status)
	// Output: PART1 on CPC1 is active
}

func ExampleInfo() {
	sim, client, session := exampleSession(hmc.Options{})
	defer endExample(sim, client, session)

	info, err := session.GetInfo(ctx, sim.Partitions()[0].URI)
	fmt.Println(info.AcceptableStatus, err)
	// Output: [active starting stopping] <nil>
}

func ExampleJob() {
	sim, client, session := exampleSession(hmc.Options{})
	defer endExample(sim, client, session)

	// The URI of a job comes with its completion, or from who has started it.
	_, err := session.QueryJob(ctx, "/api/jobs/00000000-0000-0000-0000-000000000000")
	fmt.Println(hmc.IsStatus(err, http.StatusNotFound))
	// Output: true
}

func ExampleHardwareMessage() {
	sim, client, session := exampleSession(hmc.Options{})
	defer endExample(sim, client, session)
	if _, err := sim.AddHardwareMessage("", "The console's clock battery is low."); err != nil {
		log.Fatal(err)
	}

	messages, _, err := session.ListHardwareMessages(ctx, "/api/console", time.Time{})
	if err != nil {
		log.Fatal(err)
	}
	for _, m := range messages {
		fmt.Println(m.Text)
	}
	// Output: The console's clock battery is low.
}

// The HMC's reason says what to do; the text is for people.
func ExampleHTTPError() {
	sim, client, session := exampleSession(hmc.Options{})
	defer endExample(sim, client, session)

	_, err := session.GetInfo(ctx, "/api/partitions/00000000-0000-0000-0000-000000000000")
	if refused, ok := errors.AsType[*hmc.HTTPError](err); ok {
		fmt.Println(refused.Status, refused.Reason, refused.Method)
	}
	// Output: 404 1 GET
}

// An HMC that has too much to do says for how long it wants to be left alone.
func ExampleBusyError() {
	sim, client, session := exampleSession(hmc.Options{})
	defer endExample(sim, client, session)
	sim.FaultREST(hmcsim.RESTFault{Kind: hmcsim.RESTFaultBusy, Times: 1})

	_, err := session.ListCPCs(ctx)
	busy, ok := errors.AsType[*hmc.BusyError](err)
	fmt.Println(ok && busy.RetryAfter >= 0)
	// Output: true
}

// No answer came: why, in a word that a metric can have.
func ExampleConnectError() {
	client, err := hmc.New(hmc.Options{Hosts: []string{"127.0.0.1"}, Port: 1})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	_, err = client.QueryAPIVersion(ctx)
	if broken, ok := errors.AsType[*hmc.ConnectError](err); ok {
		fmt.Println(broken.Host, broken.Reason)
	}
	// Output: 127.0.0.1 refused
}

func ExampleAnswerError() {
	sim, client, session := exampleSession(hmc.Options{})
	defer endExample(sim, client, session)
	sim.FaultREST(hmcsim.RESTFault{Kind: hmcsim.RESTFaultGarbage, Times: 1})

	_, err := session.ListCPCs(ctx)
	_, ok := errors.AsType[*hmc.AnswerError](err)
	fmt.Println(ok)
	// Output: true
}

// A userid with multi-factor authentication needs a person: the session that one has made is taken instead.
func ExamplePartialLogonError() {
	err := error(&hmc.PartialLogonError{Status: http.StatusCreated, Reason: hmc.NoReason})
	_, ok := errors.AsType[*hmc.PartialLogonError](err)
	fmt.Println(ok, hmc.LogonRefused(err))
	// Output: true true
}

// What comes with this error counts: it is as many as are taken.
func ExampleTooManyError() {
	sim, client, session := exampleSession(hmc.Options{})
	defer endExample(sim, client, session)

	topics, err := session.NotificationTopics(ctx)
	if more, ok := errors.AsType[*hmc.TooManyError](err); ok {
		log.Print("only the first ", more.Taken, " topics")
	} else if err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(topics) <= hmc.MaxTopics)
	// Output: true
}

// All that is said, for who looks for a fault. Request and answer hold secrets.
func ExampleExchange() {
	sim, client, session := exampleSession(hmc.Options{OnExchange: func(e hmc.Exchange) {
		if e.Operation == "list-cpcs" {
			fmt.Println(e.Method, e.URI, e.Status)
		}
	}})
	defer endExample(sim, client, session)

	if _, err := session.ListCPCs(ctx); err != nil {
		log.Fatal(err)
	}
	// Output: GET /api/cpcs 200
}
