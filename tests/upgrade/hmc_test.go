package upgrade_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
)

// step is one thing that changes what an HMC holds. An HMC to which the same steps are done, at
// the same times by its clock, holds the same.
type step struct {
	At     time.Time `json:"at"`
	HMC    string    `json:"hmc"`
	Do     string    `json:"do"`
	Object string    `json:"object,omitempty"`
	Text   []string  `json:"text,omitempty"`
	Number int64     `json:"number,omitempty"`
}

// What a step does.
const (
	doStatus   = "status"   // of a partition: Text
	doRename   = "rename"   // a partition to Text
	doMessages = "messages" // of a partition's operating system: Text
	doDelete   = "delete"   // the messages that are held of a partition's operating system
	doSequence = "sequence" // the next message of a partition has Number
	doLog      = "log"      // entries of the log Object: Text
	doHardware = "hardware" // a hardware message of the CPC Object, or of the console: Text
)

// console is a simulated HMC.
type console struct {
	sim   *hmcsim.HMC
	now   atomic.Int64 // in Unix milliseconds; 0: the time that it is
	entry string       // address and userid as the configuration has them
}

// startHMC starts one of the HMCs. made is when that was done first: some messages are there from
// the beginning. It ends with the test.
func startHMC(t *testing.T, name string, made time.Time) *console {
	t.Helper()
	c := new(console)
	c.now.Store(made.UnixMilli())
	defer c.now.Store(0)
	opts := hmcsim.Options{Name: name, CPCs: 2, Partitions: 4, Seed: uint64(len(name) + int(name[0])), Now: c.time}
	var err error
	if c.sim, err = hmcsim.Start(opts); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.sim.Close(); err != nil {
			t.Error(err)
		}
	})
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, c.sim.CACertPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	c.entry = fmt.Sprintf("hosts: [%q], rest_port: %d, stomp_port: %d, userid: %s, password: %s, tls: {ca_file: %q},\n"+
		"   rest_requests_per_minute: 10000, stomp: {reconnect_sleep_initial: 20ms, reconnect_sleep_max: 100ms}",
		c.sim.Host(), c.sim.RESTPort(), c.sim.StompPort(), hmcsim.DefaultUserid, hmcsim.DefaultPassword, ca)
	return c
}

func (c *console) time() time.Time {
	if ms := c.now.Load(); ms != 0 {
		return time.UnixMilli(ms)
	}
	return time.Now()
}

// do does a step, at its time.
func (c *console) do(t *testing.T, s step) {
	t.Helper()
	c.now.Store(s.At.UnixMilli())
	defer c.now.Store(0)
	var err error
	switch s.Do {
	case doStatus:
		err = c.sim.SetPartitionStatus(s.Object, s.Text[0])
	case doRename:
		err = c.sim.RenamePartition(s.Object, s.Text[0])
	case doMessages:
		_, err = c.sim.OSMessages(s.Object, s.Text...)
	case doDelete:
		err = c.sim.DeleteOSMessages(s.Object)
	case doSequence:
		err = c.sim.SetOSMessageSequence(s.Object, s.Number)
	case doLog:
		var entries []hmcsim.LogEntry
		for _, text := range s.Text {
			entries = append(entries, hmcsim.LogEntry{EventID: "3101", Name: "Upgrade", Message: text})
		}
		c.sim.LogEntries(s.Object, entries...)
	case doHardware:
		_, err = c.sim.AddHardwareMessage(s.Object, s.Text[0])
	default:
		t.Fatalf("unknown step: %+v", s)
	}
	if err != nil {
		t.Fatalf("%+v: %v", s, err)
	}
}

// change publishes a property change of a partition with a value.
func (c *console) change(p hmcsim.PartitionInfo, value string) {
	c.sim.Publish("object", []hmcsim.Header{
		{Name: "notification-type", Value: "property-change"},
		{Name: "class", Value: p.Class},
		{Name: "name", Value: p.Name},
		{Name: "object-uri", Value: p.URI},
		{Name: "object-id", Value: p.ID},
		{Name: "property-names", Value: " description "},
	}, fmt.Appendf(nil, `{"change-reports":[{"property-name":"description","old-value":null,"new-value":%q}]}`, value))
}

// good is the status of a partition whose operating system runs.
func good(p hmcsim.PartitionInfo) string {
	if p.DPM {
		return "active"
	}
	return "operating"
}

// bad is the status of a partition whose operating system runs, but not well.
func bad(p hmcsim.PartitionInfo) string {
	if p.DPM {
		return "degraded"
	}
	return "exceptions"
}
