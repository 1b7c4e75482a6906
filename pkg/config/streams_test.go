package config

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const streamsHead = "hmcs: [{name: a, hosts: [h], userid: u, password: p}]\nsinks:\n"

// What a file may say about NATS and Kafka, and what becomes of it.
func TestStreams(t *testing.T) {
	const creds = "-----BEGIN NATS USER JWT-----\nxyz\n------END NATS USER JWT------\n-----BEGIN USER NKEY SEED-----\nSUAcorrect-horse\n------END USER NKEY SEED------\n"
	c, err := loadText(t, streamsHead+`
- {name: creds, nats: {servers: ["nats://n1", "nats://[2001:db8::1]:4223/"], credentials_file: n.creds}}
- {name: nkey, nats: {servers: [tls://n1], nkey_file: n.nk, subject: "{hmc}.{type}.{cpc}.{class}.{name}.{severity}", stream: HMC}}
- {name: token, nats: {servers: [nats://localhost], token_file: n.token, tls: {server_name: n}}}
- {name: topic, kafka: {brokers: ["k1:9092", "[2001:db8::1]:9092"], topic: "hmc.{hmc}", compression: zstd, max_message_bytes: 8MiB, tls: {}}}
- {name: defaults, kafka: {brokers: ["k1:9092"]}}
`, "n.creds", creds, "n.nk", "SUAbattery\n", "n.token", "staple\n")
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Warnings) > 0 {
		t.Errorf("warnings:\n%v", c.Warnings)
	}
	byCreds, byNKey, byToken := c.Sinks[0].NATS, c.Sinks[1].NATS, c.Sinks[2].NATS
	topic, defaults := c.Sinks[3].Kafka, c.Sinks[4].Kafka
	for name, ok := range map[string]bool{
		"kinds":         c.Sinks[0].Kind() == "nats" && c.Sinks[3].Kind() == "kafka",
		"subject":       byCreds.Subject == "hmc.{hmc}.{type}" && byCreds.Stream == "" && byNKey.Stream == "HMC",
		"files":         filepath.IsAbs(byCreds.CredentialsFile) && filepath.IsAbs(byNKey.NKeyFile) && byToken.Token.Expose() == "staple",
		"unencrypted":   byCreds.TLS == nil && defaults.TLS == nil,
		"tls by scheme": byNKey.TLS != nil && byNKey.TLS.where == "tls",
		"tls by key":    byToken.TLS.ServerName == "n" && topic.TLS != nil,
		"kafka":         topic.Topic == "hmc.{hmc}" && topic.Compression == CompressionZstd && topic.MaxMessageBytes == 8<<20,
		"defaults": defaults.Topic == "hmc-events" && defaults.ClientID == "hmcnotifyd" && defaults.Compression == CompressionNone &&
			defaults.MaxMessageBytes == 1_000_000 && defaults.SASL == nil,
	} {
		if !ok {
			t.Errorf("%s is wrong: %+v", name, c.Sinks)
		}
	}
	for _, text := range []string{fmt.Sprintf("%+v", byCreds), fmt.Sprintf("%#v", *byNKey), fmt.Sprintf("%v %+v", *byToken, *byCreds)} {
		for _, secret := range []string{"correct-horse", "battery", "staple", "JWT"} {
			if strings.Contains(text, secret) {
				t.Errorf("%s shows %s", text, secret)
			}
		}
	}

	// A file with other keys in it is a change.
	if err := os.WriteFile(byCreds.CredentialsFile, []byte(strings.Replace(creds, "xyz", "abc", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := Load(c.File)
	if err != nil {
		t.Fatal(err)
	}
	if c.Sinks[0].Equal(&again.Sinks[0]) {
		t.Error("a change of the credentials goes unnoticed")
	}
	if !c.Sinks[1].Equal(&again.Sinks[1]) {
		t.Error("the other sink counts as changed")
	}
}

// Passwords on their way without TLS.
func TestStreamWarnings(t *testing.T) {
	c, err := loadText(t, streamsHead+`
- {name: a, nats: {servers: [nats://127.0.0.1, nats://n1], userid: u, password: p}}
- {name: b, nats: {servers: [nats://127.0.0.1, "nats://[::1]", nats://localhost], userid: u, password: p}}
- {name: c, nats: {servers: [nats://n1]}}
- {name: d, nats: {servers: [nats://n1, tls://n2], token: p}}
- {name: e, kafka: {brokers: ["k:9092"], sasl: {mechanism: plain, userid: u, password: p}}}
- {name: f, kafka: {brokers: ["k:9092"], sasl: {mechanism: scram-sha-256, userid: u, password: p}}}
- {name: g, kafka: {brokers: ["k:9092"], sasl: {mechanism: plain, userid: u, password: p}, tls: {}}}
- {name: h, kafka: {brokers: ["localhost:9092"], sasl: {mechanism: plain, userid: u, password: p}}}
`)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, w := range c.Warnings {
		got = append(got, w.Path+": "+w.Msg)
	}
	want := []string{
		"sinks[0].nats.servers: without TLS the password or token may travel unencrypted: write tls:// instead of nats://, or add tls: {}",
		"sinks[4].kafka.sasl.mechanism: without TLS the password travels unencrypted: add tls: {}",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
