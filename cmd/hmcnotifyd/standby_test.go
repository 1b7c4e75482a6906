package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
	"github.com/hmcnotifyd/hmcnotifyd/tests/natscluster"
)

// A daemon that waits for its cluster at the start obeys signals: SIGHUP does not end it, and SIGTERM does.
func TestSignalsAtTheStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	config := filepath.Join(dir, "hmcnotifyd.yaml")
	write(t, config, fmt.Sprintf("hmcs: [{name: east, hosts: [127.0.0.1], userid: u, password: p}]\nsinks: [{name: file, log: {output: events.log}}]\n"+
		"storage: {jetstream: {urls: [%q], name: x, replicas: 1}}\n", "nats://"+freeAddress(t)))
	p := start(t, nil, "--config.file="+config, "--storage.path="+filepath.Join(dir, "data"), "--web.listen-address=127.0.0.1:0")
	p.matches("the NATS cluster cannot be used yet")
	p.signal(syscall.SIGHUP)
	p.signal(syscall.SIGTERM)
	if status := p.wait(); status != 0 {
		t.Errorf("exit status %d", status)
	}
	p.matches("hmcnotifyd was ended while it started")
}

// tail and the page of a daemon that stands by show what the one stores that leads, and say so. tail goes on when it leads.
func TestTailOfAStandby(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{Name: "east", CPCs: 1, Partitions: 2})
	dir, url := t.TempDir(), natscluster.Single(t)
	config := filepath.Join(dir, "hmcnotifyd.yaml")
	write(t, config, fmt.Sprintf("hmcs:\n%ssinks: [{name: file, log: {output: events.log}}]\n"+
		"storage: {retain: 1h, jetstream: {urls: [%q], name: x, replicas: 1}}\nha: {lease_ttl: 5s}\n", hmctest.Entry(t, sim, ""), url))
	launch := func(name string) (p *program, addr string) {
		addr = freeAddress(t)
		return start(t, nil, "--config.file="+config, "--storage.path="+filepath.Join(dir, name), "--web.listen-address="+addr), addr
	}
	leader, _ := launch("a")
	leader.matches("connected to the HMC")
	other, addr := launch("b")
	other.matches("this daemon stands by; another one leads")
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	var tail *program
	n := 0
	eventually(t, "it follows", func() bool {
		if tail != nil {
			select {
			case <-tail.exited: // nothing was known of the log yet
				tail = nil
			default:
			}
		}
		if tail == nil {
			tail = start(t, nil, "tail", "--url=http://"+addr)
		}
		n++
		publishChange(t, sim, fmt.Sprintf("FIRST%d", n))
		return strings.Contains(tail.out.String(), "FIRST")
	})
	tail.matches("this daemon stands by, and shows what the one on " + host + " stores")
	leader.signal(os.Interrupt)
	if code := leader.wait(); code != 0 {
		t.Errorf("exit status %d", code)
	}
	tail.matches("the stream was lost, and is made again: this daemon leads from now on")
	tail.matches("connected again; what was stored meanwhile follows")
	tail.matches("bridge-connected .*east")
	publishChange(t, sim, "LATER")
	tail.matches("LATER")
}
