package hostile_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/daemon"
	"github.com/hmcnotifyd/hmcnotifyd/tests/soak"
)

// messagesOf makes the body of a notification with so many OS messages, numbered from a number on.
func messagesOf(from, n int, text string) []byte {
	var body bytes.Buffer
	body.WriteString(`{"os-messages":[`)
	for i := range n {
		if i > 0 {
			body.WriteByte(',')
		}
		fmt.Fprintf(&body, `{"sequence-number":%d,"message-text":%q,"is-refresh":false}`, from+i, text)
	}
	body.WriteString("]}")
	return body.Bytes()
}

// largeHeaders are n headers of 60 kB each, with those that an OS message has.
func largeHeaders(uri string, n int) []hmcsim.Header {
	headers := []hmcsim.Header{
		{Name: "notification-type", Value: "os-message"}, {Name: "class", Value: "partition"}, {Name: "name", Value: "P"}, {Name: "object-uri", Value: uri},
	}
	for i := range n {
		headers = append(headers, hmcsim.Header{Name: fmt.Sprint("x-", i), Value: strings.Repeat("x", 60_000)})
	}
	return headers
}

// One frame of 1.8 MB with 20,000 messages and 16 headers of 60 kB became 20 GB, as each event has all headers. All of them
// are delivered or counted.
func TestOneFrameOfManyParts(t *testing.T) {
	const messages = 20_000
	sim := hmctest.Start(t, hmcsim.Options{Name: "east"})
	v := start(t, daemon.Options{Config: "hmcs:\n" + hmctest.Entry(t, sim, "") + "sinks:\n- {name: none, log: {output: /dev/null}}\n"})
	v.AwaitReady(t, within)
	accounted := func() float64 {
		text := v.Metrics(t)
		n := 0.0
		for _, series := range [][]string{
			{"hmcnotifyd_events_total", "type", "os-message"}, {"hmcnotifyd_notifications_missed_total"},
		} {
			got, err := daemon.Metric(text, series[0], series[1:]...)
			if err != nil {
				t.Fatal(err)
			}
			n += got
		}
		return n
	}
	await := func(frames int) {
		v.Process.Await(t, within, func() error {
			if got := accounted(); got < float64(frames*messages) {
				return fmt.Errorf("%v of %d are delivered or counted", got, frames*messages)
			}
			return nil
		})
	}
	// One is recorded while the next one waits. Where that takes a slow machine long, a third one would be given up as a whole,
	// and be counted as one notification.
	frames, ahead := soak.Count(t, "FRAMES", 3, 100), soak.Count(t, "FRAMES_AHEAD", 2, 100)
	for i := range frames {
		if i >= ahead {
			await(i + 1 - ahead)
		}
		body := messagesOf(1+i*messages, messages, "m")
		if sim.Publish("object", largeHeaders("/api/partitions/p", 16), body) != 1 {
			t.Fatal("nobody has subscribed")
		}
	}
	await(frames)
	t.Logf("%v OS messages stored, %v counted as missed", v.Metric(t, "hmcnotifyd_events_total", "type", "os-message"), v.Metric(t, "hmcnotifyd_notifications_missed_total"))
	v.AwaitReady(t, within) // the link is as it was
	v.end(t)
}

// Six HMCs send bodies as large as they may be at the same time, and larger ones: 1.3 GiB was the result. What is taken is
// stored, what is not is counted, and the others go on.
func TestLargeBodies(t *testing.T) {
	const mib, hmcs = 1 << 20, 6
	fill := func(n int, with string) string { return strings.Repeat(with, n/len(with)) }
	cfg := "hmcs:\n"
	var sims []*hmcsim.HMC
	for i := range hmcs {
		sim := hmctest.Start(t, hmcsim.Options{Name: fmt.Sprint("hmc", i), Partitions: 1})
		sims = append(sims, sim)
		cfg += hmctest.Entry(t, sim, "")
	}
	good := hmctest.Start(t, hmcsim.Options{Name: "good", Rate: 20})
	cfg += hmctest.Entry(t, good, "") + "sinks:\n- {name: none, log: {output: /dev/null}}\n"
	v := start(t, daemon.Options{Config: cfg})
	v.AwaitReady(t, within)
	rounds := soak.Count(t, "LARGE_BODIES", 1, 100)
	headers := []hmcsim.Header{
		{Name: "notification-type", Value: "property-change"}, {Name: "class", Value: "partition"}, {Name: "object-uri", Value: "/api/partitions/p"},
	}
	sent := make([]int, hmcs) // of the forms so far
	for _, form := range []struct {
		name, body string
		lost       bool // it ends the link
	}{
		{name: "as they may be", body: `{"change-reports":["` + fill(4*mib-64, "x") + `"]}`},
		{name: "all escaped", body: `{"change-reports":["` + fill(4*mib-64, "\u009b") + `"]}`},
		{name: "much white space", body: `{"change-reports":[` + fill(4*mib-64, " \n") + `]}`},
		{name: "empty objects", body: `{"change-reports":[{}` + fill(4*mib-64, ",{}") + `]}`},
		{name: "no JSON", body: fill(4*mib-64, "\x01")},
		{name: "no UTF-8", body: `{"change-reports":["` + fill(4*mib-64, "\xff") + `"]}`},
		{name: "larger than they may", body: fill(soak.Count(t, "TOO_LARGE_MIB", 9, 63)*mib, "x"), lost: true},
	} {
		t.Run(form.name, func(t *testing.T) {
			body := []byte(form.body)
			var all sync.WaitGroup
			for i, sim := range sims {
				all.Go(func() {
					for range rounds {
						sent[i] += sim.Publish("object", headers, body)
					}
				})
			}
			all.Wait()
			for i := range sims {
				name := fmt.Sprint("hmc", i)
				v.Process.Await(t, within, func() error {
					text := v.Metrics(t)
					stored, err := daemon.Metric(text, "hmcnotifyd_events_total", "hmc", name, "type", "property-change")
					missed, err2 := daemon.Metric(text, "hmcnotifyd_notifications_missed_total", "hmc", name)
					again, err3 := daemon.Metric(text, "hmcnotifyd_receiver_reconnects_total", "hmc", name)
					switch {
					case errors.Join(err, err2, err3) != nil:
						return errors.Join(err, err2, err3)
					case form.lost && again == 0, !form.lost && stored+missed < float64(sent[i]):
						return fmt.Errorf("%s: %v stored, %v missed, %d sent, %v reconnects", name, stored, missed, sent[i], again)
					case !form.lost && again > 0:
						t.Errorf("%s: the link was lost", name)
					}
					return nil
				})
			}
			t.Logf("%v sent; %v stored, %v missed; peak of memory: %d MiB", sent, v.Metric(t, "hmcnotifyd_events_total", "type", "property-change"),
				v.Metric(t, "hmcnotifyd_notifications_missed_total"), v.peak()>>20)
		})
	}
	if missed := v.Metric(t, "hmcnotifyd_notifications_missed_total", "hmc", "good"); missed > 0 {
		t.Errorf("%v notifications of an HMC that does nothing wrong were missed", missed)
	}
	v.end(t)
}

// SIGTERM ends the daemon while HMCs send more than it can take, and what it has counted is stored. Without a pause they would
// have most of the processors for themselves, and more than waits for the daemon to read makes the attack no harder: it takes the
// memory of this process.
func TestEndsUnderAttack(t *testing.T) {
	pause := time.Duration(soak.Count(t, "ATTACK_PAUSE_MS", 50, 0)) * time.Millisecond
	hmcs := soak.Count(t, "ATTACK_HMCS", 2, 4)
	stored := float64(soak.Count(t, "ATTACK_STORED", 4, 20)) // when SIGTERM comes
	const mib = 1 << 20
	ahead := soak.Count(t, "ATTACK_AHEAD_MB", 16, 256) * mib
	for name, body := range map[string][]byte{
		"small":         []byte(`{"change-reports":[]}`),
		"large":         []byte(`{"change-reports":["` + strings.Repeat("\u009b", (4*mib-64)/2) + `"]}`),
		"many messages": messagesOf(1, 20_000, "m"),
		"no JSON":       bytes.Repeat([]byte{1}, 4*mib-64),
	} {
		t.Run(name, func(t *testing.T) {
			cfg := "hmcs:\n"
			headers := largeHeaders("/api/partitions/p", 8)
			if name != "many messages" {
				headers[0].Value = "property-change"
			}
			var attack sync.WaitGroup
			ended := make(chan struct{})
			var sims []*hmcsim.HMC
			for i := range hmcs {
				sim := hmctest.Start(t, hmcsim.Options{Name: fmt.Sprint("hmc", i), Partitions: 1})
				sims = append(sims, sim)
				cfg += hmctest.Entry(t, sim, "")
			}
			v := start(t, daemon.Options{Config: cfg + "sinks:\n- {name: none, log: {output: /dev/null}}\n"})
			v.AwaitReady(t, within)
			for _, sim := range sims {
				attack.Go(func() {
					for {
						select {
						case <-ended:
							return
						default:
							if sim.Broker().Waiting() < ahead {
								sim.Publish("object", headers, body)
							}
							time.Sleep(pause)
						}
					}
				})
			}
			v.Process.Await(t, within, func() error {
				got, err := daemon.Metric(v.Metrics(t), "hmcnotifyd_events_total", "type", headers[0].Value)
				if err == nil && got < stored {
					err = fmt.Errorf("%v events are stored", got)
				}
				return err
			})
			waiting := int64(0)
			for _, sim := range sims {
				waiting += int64(sim.Broker().Waiting())
			}
			t.Logf("%d MiB wait for the daemon to read", waiting>>20)
			v.end(t)
			close(ended)
			attack.Wait()
		})
	}
}
