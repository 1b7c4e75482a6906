package config

import (
	"strings"
	"testing"
	"time"
)

const oneOfEach = "hmcs: [{name: a, hosts: [h], userid: u, password: p}]\nsinks: [{name: s, log: {}}]\n"

// Where the log is on a cluster, and what a file may say wrongly about it.
func TestJetStream(t *testing.T) {
	t.Parallel()
	c, err := loadText(t, oneOfEach+`
storage:
  jetstream: {urls: ["tls://n1:4222", "tls://n2:4222"], name: prod, userid: u, password_file: nats.password}
ha: {lease_ttl: 5s}
`, "nats.password", "correct-horse\n")
	if err != nil {
		t.Fatal(err)
	}
	j := c.Storage.JetStream
	if j.Name != "prod" || j.Replicas != 3 || j.Password.Expose() != "correct-horse" || j.TLS == nil ||
		c.HA != (HA{LeaseTTL: 5 * time.Second, Standby: StandbyCold}) {
		t.Errorf("%+v %+v", j, c.HA)
	}
	other := c.Storage
	other.JetStream = new(*j)
	if !c.Storage.Equal(&other) {
		t.Error("a copy is not equal")
	}
	if other.JetStream.Replicas = 1; c.Storage.Equal(&other) {
		t.Error("another number of replicas is the same")
	}
	for text, want := range map[string]string{
		"storage: {jetstream: {name: a}}":                                          "storage.jetstream.urls: is missing",
		"storage: {jetstream: {urls: ['http://n'], name: a}}":                      "storage.jetstream.urls[0]: must begin with nats:// or tls://",
		"storage: {jetstream: {urls: ['nats://n']}}":                               "storage.jetstream.name: is missing",
		"storage: {jetstream: {urls: ['nats://n'], name: a.b}}":                    "storage.jetstream.name: may hold letters",
		"storage: {jetstream: {urls: ['nats://n'], name: a, replicas: 2}}":         "storage.jetstream.replicas: must be 1, 3 or 5, not 2",
		"storage: {jetstream: {urls: ['nats://n'], name: a, token: b, userid: c}}": "a second way to log on",
		"storage: {jetstream: {urls: ['nats://n'], name: a, url: b}}":              `unknown key "url"`,
		"ha: {lease_ttl: 10ms}":                                                    "ha.lease_ttl: must be between 1s and 10m",
		"ha: {standby: warm}":                                                      "ha.standby: must be cold or connected, not \"warm\"",
	} {
		if _, err := loadText(t, oneOfEach+text+"\n"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s:\ngot  %v\nwant %s", text, err, want)
		}
	}
	c, err = loadText(t, oneOfEach+"ha: {lease_ttl: 5s}\n")
	if err != nil || len(c.Warnings) != 1 || !strings.Contains(c.Warnings[0].Error(), "has no effect without storage.jetstream") {
		t.Error(err, c)
	}
}
