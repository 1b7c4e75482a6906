package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What the files of a sink hold now is read again, whole and checked; nothing else changes, and a file that cannot be used
// changes nothing.
func TestSinkReread(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	key := func(c string) string { return "whsec_" + strings.Repeat(c, 32) }
	ca := func() string { return string(pemOf(t, newCert(t, certOptions{name: "ca", isCA: true}).cert)) }
	jwt := func(n string) string { return "-----BEGIN NATS USER JWT-----\n" + n }
	files := map[string][2]string{ // what they hold first, and then
		"url": {"https://a.example/1", "https://a.example/2"}, "secret": {key("a"), key("b")}, "further": {key("c"), key("d")},
		"password": {"one", "two"}, "token": {"one", "two"}, "ca.pem": {ca(), ca()}, "creds": {jwt("1"), jwt("2")}, "seed": {"SUAAAA", "SUBBBB"},
	}
	for name, holds := range files {
		write(name, holds[0])
	}
	write("hmcnotifyd.yaml", `
hmcs: [{name: a, hosts: [h], userid: u, password: p, tls: {insecure_skip_verify: true}}]
sinks:
  - {name: address, webhook: {url_file: url}}
  - {name: signed, webhook: {url: "https://a.example/", secret_file: secret}}
  - {name: further, webhook: {url: "https://a.example/", secrets: [whsec_eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee], secret_files: [further]}}
  - {name: password, nats: {servers: ["tls://n"], userid: u, password_file: password}}
  - {name: token, nats: {servers: ["tls://n"], token_file: token}}
  - {name: creds, nats: {servers: ["tls://n"], credentials_file: creds}}
  - {name: seed, nats: {servers: ["tls://n"], nkey_file: seed}}
  - {name: trust, nats: {servers: ["tls://n"], tls: {ca_file: ca.pem}}}
  - {name: sasl, kafka: {brokers: ["k:1"], sasl: {mechanism: plain, userid: u, password_file: password}, tls: {}}}
  - {name: ktrust, kafka: {brokers: ["k:1"], tls: {ca_file: ca.pem}}}
  - {name: hec, splunk: {url: "https://s:8088", token_file: token}}
  - {name: strust, syslog: {address: "tls://s:1", tls: {ca_file: ca.pem}}}
  - {name: none, log: {output: stderr}}
  - {name: alerts, alertmanager: {urls: ["http://localhost:9093"]}}
`)
	file := map[string]string{
		"address": "url", "signed": "secret", "password": "password", "token": "token", "creds": "creds", "seed": "seed", "trust": "ca.pem",
		"sasl": "password", "ktrust": "ca.pem", "strust": "ca.pem", "further": "further", "hec": "token",
	}
	cfg, err := Load(filepath.Join(dir, "hmcnotifyd.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range cfg.Sinks {
		s := &cfg.Sinks[i]
		t.Run(s.Name, func(t *testing.T) {
			if same, err := s.Reread(); err != nil || !same.Equal(s) {
				t.Errorf("without a change: %v", err)
			}
			name := file[s.Name]
			if name == "" {
				return
			}
			defer write(name, files[name][0])
			write(name, files[name][1])
			fresh, err := s.Reread()
			if err != nil || fresh.Equal(s) {
				t.Errorf("with a change: %v", err)
			}
			again, err := Load(filepath.Join(dir, "hmcnotifyd.yaml"))
			if err != nil || !fresh.Equal(&again.Sinks[i]) {
				t.Errorf("it is not what Load reads: %v", err)
			}
			for _, text := range []string{"", "\x00"} { // while it is being written
				write(name, text)
				if got, err := s.Reread(); err == nil || got != nil || !strings.HasPrefix(err.Error(), "sink "+s.Name+": ") {
					t.Errorf("%q: %v", text, err)
				}
			}
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Reread(); err == nil {
				t.Error("without the file")
			}
		})
	}
}
