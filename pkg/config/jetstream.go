package config

import (
	"strings"
	"time"
)

// JetStream keeps events and dead letters on a NATS JetStream cluster instead of in the directory,
// so that several daemons can share them: one of them leads, the others stand by.
type JetStream struct {
	// required; URLs: nats:// or tls://; some servers of the cluster
	URLs []string `yaml:"urls"`
	// required; what the daemons that share one log have in common, and no others: it begins the
	// names of streams and buckets, such as hmcnotifyd-NAME-log
	Name string `yaml:"name"`
	// of each stream and bucket that is made: 1, 3 or 5, not more than there are servers
	Replicas  int `yaml:"replicas"`
	NATSLogon `yaml:",inline"`
}

func (j *JetStream) setDefaults() { j.Replicas = 3 }

// HA says how daemons that share a log agree on who leads. It matters with JetStream only.
type HA struct {
	// how long a leader is believed to lead that says nothing; the same in all daemons
	LeaseTTL time.Duration `yaml:"lease_ttl"`
	// what a daemon does that does not lead; cold: it has no session with the HMCs; connected: it
	// has one with each, and what a leader that dies has not stored is not lost
	Standby string `yaml:"standby"`
}

// The values of HA.Standby.
const (
	StandbyCold      = "cold"
	StandbyConnected = "connected"
)

func defaultHA() HA { return HA{LeaseTTL: 15 * time.Second, Standby: StandbyCold} }

// maxClusterName bounds JetStream.Name: NATS stores streams in directories of their names.
const maxClusterName = 64

func (d *decoder) cluster(c *Config) {
	within(d, "ha.lease_ttl", c.HA.LeaseTTL, time.Second, 10*time.Minute)
	if c.HA.Standby != StandbyCold && c.HA.Standby != StandbyConnected {
		d.errorf("ha.standby", "must be %s or %s, not %s", StandbyCold, StandbyConnected, quote(c.HA.Standby))
	}
	j, at := c.Storage.JetStream, under("storage.jetstream")
	if j == nil {
		if c.HA != defaultHA() {
			d.warnf("ha", "has no effect without storage.jetstream: the daemon leads alone")
		}
		return
	}
	d.natsServers("storage.jetstream", "urls", j.URLs, &j.NATSLogon)
	switch {
	case j.Name == "":
		d.errorf(at("name"), "is missing: give what the daemons that share one log have in common, such as prod")
	case strings.Trim(j.Name, strings.ReplaceAll(nameCharacters, ".", "")) != "":
		d.errorf(at("name"), "may hold letters, digits, \"_\" and \"-\", not %s", quote(j.Name))
	case len(j.Name) > maxClusterName:
		d.errorf(at("name"), "is longer than %d characters", maxClusterName)
	}
	if j.Replicas != 1 && j.Replicas != 3 && j.Replicas != 5 {
		d.errorf(at("replicas"), "must be 1, 3 or 5, not %d", j.Replicas)
	}
}
