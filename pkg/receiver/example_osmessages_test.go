package receiver_test

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
)

// console says whose console to follow, and where.
type console struct {
	host                string
	restPort, stompPort int
	tls                 *tls.Config
	userid, password    string
	cpc, partition      string
	// how often the session is asked whether it lives: an HMC ends one that has long been idle, and the link is silent then
	pingEvery time.Duration
}

// followForEver shows the OS messages of a partition until ctx ends, whatever happens to the network and the HMC.
func (c *console) followForEver(ctx context.Context, show func(text string)) error {
	backoff := receiver.NewBackoff(receiver.DefaultStompRetryTimeoutConfig())
	for {
		started := time.Now()
		err := c.follow(ctx, show)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case hmc.LogonRefused(err):
			return err // the HMC disables a userid that is refused again and again
		case time.Since(started) > time.Minute:
			backoff.Reset() // it worked for a while
		}
		delay := backoff.Next()
		log.Printf("%v; trying again in %v", err, delay)
		select {
		case <-ctx.Done():
		case <-time.After(delay):
		}
	}
}

// follow logs on, opens the partition's OS message channel and shows its messages until something is lost. A restart of the
// HMC ends the session and the topic with the link, so the next round begins with a logon.
func (c *console) follow(ctx context.Context, show func(text string)) error {
	client, err := hmc.New(hmc.Options{Hosts: []string{c.host}, Port: c.restPort, TLS: c.tls})
	if err != nil {
		return err
	}
	defer client.Close()
	session, err := client.Logon(ctx, c.userid, c.password)
	if err != nil {
		return err
	}
	defer func() { // also when ctx has ended: an HMC has a limited number of sessions
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		if err := session.Logoff(ctx); err != nil {
			log.Print(err)
		}
	}()
	uri, err := c.partitionURI(ctx, session)
	if err != nil {
		return err
	}
	topic, err := session.OpenOSMessageChannel(ctx, uri, true) // true: begin with the messages the HMC still holds
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	var pinging sync.WaitGroup
	defer pinging.Wait()
	defer cancel(nil)
	pinging.Go(func() { cancel(c.ping(ctx, session)) })
	r, err := receiver.New(receiver.Options{
		Host: c.host, Port: c.stompPort, TLS: c.tls,
		SessionID: session.ID(), SessionCredential: session.Credential(),
		Topics: []string{topic},
	})
	if err != nil {
		return err
	}
	defer r.Close()
	for n, err := range r.Notifications(ctx) {
		if _, ok := errors.AsType[*receiver.ParseError](err); ok {
			log.Print(err)
			continue
		}
		if err != nil {
			return cmp.Or(context.Cause(ctx), err) // the session or the link is lost, or the HMC refuses the topic
		}
		var body struct {
			Messages []struct {
				Text string `json:"message-text"`
			} `json:"os-messages"`
		}
		if err := json.Unmarshal(n.Body, &body); err != nil {
			log.Print(err)
		}
		for _, m := range body.Messages {
			show(strings.TrimSpace(m.Text))
		}
	}
	return context.Cause(ctx)
}

// ping keeps the session alive, and returns when it is lost.
func (c *console) ping(ctx context.Context, session *hmc.Session) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(c.pingEvery):
		}
		if err := session.Ping(ctx); err != nil {
			return err
		}
	}
}

// partitionURI finds a DPM partition or a classic LPAR by its names.
func (c *console) partitionURI(ctx context.Context, session *hmc.Session) (string, error) {
	for _, list := range []func(context.Context) ([]hmc.Partition, error){session.ListPermittedPartitions, session.ListPermittedLogicalPartitions} {
		partitions, err := list(ctx)
		if err != nil {
			return "", err
		}
		for _, p := range partitions {
			if p.CPCName == c.cpc && p.Name == c.partition {
				return p.ObjectURI, nil
			}
		}
	}
	return "", fmt.Errorf("there is no partition %s on %s, or the userid may not see it", c.partition, c.cpc)
}

// The messages a partition's operating system writes to its console, for ever: log on to the Web Services API, open the OS
// message channel, receive, and all of it again after any loss.
func Example_osMessages() {
	// A simulator stands for the HMC.
	sim, err := hmcsim.Start(hmcsim.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer sim.Close()
	partition := sim.Partitions()[0]
	if _, err := sim.OSMessages(partition.Name, "Kernel panic - not syncing: Fatal exception in interrupt"); err != nil {
		log.Fatal(err)
	}

	c := &console{
		host: sim.Host(), restPort: sim.RESTPort(), stompPort: sim.StompPort(), tls: sim.CA().ClientTLS(),
		userid: hmcsim.DefaultUserid, password: hmcsim.DefaultPassword,
		cpc: partition.CPC, partition: partition.Name, pingEvery: time.Minute,
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	err = c.followForEver(ctx, func(text string) {
		if strings.HasPrefix(text, "Kernel panic") {
			fmt.Println(text)
			cancel()
		}
	})
	fmt.Println(err, sim.Sessions())
	// Output:
	// Kernel panic - not syncing: Fatal exception in interrupt
	// context canceled 0
}

// The session ends, as by its idle timeout, and the example goes on with another one.
func TestExampleSurvivesItsSession(t *testing.T) {
	sim, err := hmcsim.Start(hmcsim.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sim.Close() }()
	partition := sim.Partitions()[0]
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	say := func(text string) {
		if _, err := sim.OSMessages(partition.Name, text); err != nil {
			t.Error(err)
		}
	}
	c := &console{
		host: sim.Host(), restPort: sim.RESTPort(), stompPort: sim.StompPort(), tls: sim.CA().ClientTLS(), userid: hmcsim.DefaultUserid,
		password: hmcsim.DefaultPassword, cpc: partition.CPC, partition: partition.Name, pingEvery: 20 * time.Millisecond,
	}
	say("before")
	var shown []string
	_ = c.followForEver(ctx, func(text string) {
		switch shown = append(shown, text); text {
		case "before":
			if sim.ExpiredSessions() == 0 {
				sim.ExpireSessions(false)
				say("after")
			}
		case "after":
			cancel()
		}
	})
	if sim.ExpiredSessions() == 0 || !slices.Contains(shown, "after") {
		t.Errorf("%q", shown)
	}
}
