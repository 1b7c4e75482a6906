package support

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/tests/archive"
)

// What a configuration declares as a secret is left out, and what it names is replaced, also where it is made of words that
// documents have. A daemon that does not run is no reason to have no bundle.
func TestWithoutDaemon(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cfg := write("hmcnotifyd.yaml", `
hmcs:
- name: monitor
  hosts: [hmc.status.east.com]
  userid: console
  password: alerts-Production
  os_messages: [{cpc: "EAST", partition: "LINUX|PRODUCTION"}]
- {name: other, hosts: [hmc.status.east.com], userid: console, topics: [object, job], password: alerts-Production}
sinks:
- {name: flow, webhook: {url: "https://hooks.example.com/y"}, batch: {max_events: 7, max_wait: 1s}}
- name: hook
  match: [{cpc: EAST, severity: critical}]
  webhook:
    url: https://hooks.example.com/x
    http_config:
      basic_auth:
        username: operations
        password: >-
          start-console-events
          folded-linux-Word
      http_headers:
        X-Pin:
          secrets: ["status-monitor-console", "48213"]
        X-Block:
          secrets:
          - 90417
- name: stream
  kafka: {brokers: ["kafka.monitor.east.com:9092"], topic: production.events}
- name: messages
  syslog: {address: "tcp://events.web.east.com:601", hostname: web.events.status}
`)
	log := write("daemon.log", `{"level":"warn","msg":"the sink does not accept events","sink":"stream","error":"kafka: kafka.monitor.east.com:9092: refused"}`+"\n")
	out := filepath.Join(dir, "bundle.tar.gz")
	o := Options{
		Program: "hmcnotifyd 1.2.3", ConfigFile: cfg, Log: log,
		Get: func(context.Context, string, url.Values) (*http.Response, error) {
			return nil, errors.New("nobody answers")
		},
	}
	var list strings.Builder
	if err := Bundle(t.Context(), out, &list, o); err != nil {
		t.Fatal(err)
	}
	files := archive.Files(t, out)
	for name, text := range files {
		for _, never := range []string{
			"alerts-Production", "start-console-events", "folded-linux", "status-monitor-console", "48213", "90417", "monitor.east", "status.east",
			"web.events", "operations", "EAST", "PRODUCTION", "production.events",
		} {
			if strings.Contains(text, never) {
				t.Errorf("%s has %q:\n%s", name, never, text)
			}
		}
	}
	for _, want := range []string{"severity: critical", "basic_auth:", "syslog:"} {
		if !strings.Contains(files["config.yaml"], want) {
			t.Errorf("the configuration lacks %q:\n%s", want, files["config.yaml"])
		}
	}
	if text := list.String(); !strings.Contains(text, "status.json    not there: nobody answers\n") || files["log.jsonl"] == "" {
		t.Errorf("%s", text)
	}
	for _, want := range []string{"topics: [object, job], password: <secret>", "{max_events: 7, max_wait: 1s}", "os_messages: ", "kafka: {brokers: "} {
		if !strings.Contains(files["config.yaml"], want) {
			t.Errorf("the configuration lacks %q:\n%s", want, files["config.yaml"])
		}
	}
	// Of a configuration that cannot be read it is not known what to leave out.
	o.ConfigFile = filepath.Join(dir, "none.yaml")
	if err := Bundle(t.Context(), filepath.Join(dir, "other.tar.gz"), io.Discard, o); err == nil || !strings.Contains(err.Error(), "nobody answers") {
		t.Errorf("error: %v", err)
	}
}

// What the program says of what is not there stays as it is, but for what may tell whose it is.
func TestOwnWords(t *testing.T) {
	dir := t.TempDir()
	cfg := filepath.Join(dir, "hmcnotifyd.yaml")
	if err := os.WriteFile(cfg, []byte("hmcs: [{name: journal, hosts: [support.example.com], userid: cat, password: x-Q7}]\nsinks: [{name: out, log: {}}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for said, want := range map[string]string{
		"no answer from a daemon at http://127.0.0.1: connection refused (--url names another address)": "",
		"config.yaml:3: hmcs[0].host: unknown key: did you mean hosts?":                                 "",
		"the daemon has answered 403: open it with --web.enable-admin-api":                              "",
		"dial tcp: lookup quokka-17.example.com: no such host":                                          "dial tcp: lookup",
	} {
		var list strings.Builder
		err := Bundle(t.Context(), filepath.Join(t.TempDir(), "b.tar.gz"), &list, Options{
			Program: "hmcnotifyd 1.2.3", ConfigFile: cfg,
			Get: func(context.Context, string, url.Values) (*http.Response, error) { return nil, errors.New(said) },
		})
		if err != nil {
			t.Fatal(err)
		}
		if want == "" {
			want = said + "\n"
		}
		for _, line := range []string{
			"status.json    not there: " + want,
			"log.jsonl      not there: --log names it; from the journal of systemd: journalctl -u hmcnotifyd -o cat | hmcnotifyd support --log - --out FILE\n",
		} {
			if !strings.Contains(list.String(), line) {
				t.Errorf("lacks %q:\n%s", line, list.String())
			}
		}
		if strings.Contains(list.String(), "quokka") {
			t.Errorf("has a name:\n%s", list.String())
		}
	}
}

func TestSecretLines(t *testing.T) {
	for line, secret := range map[string]bool{
		"userid: monitor  # ask somebody": false, "- {name: a, userid: b, topics: [object]}": false, "max_ids: 100": false, "client_id: abc": false,
		"monkey: 17": false, "password_file: x": false, "event_id: 17": false, "hidden: x": false,
		"password: x": true, `session: {id: "x", credential: y}`: true, "id: x": true, "  - id: x": true, `"id": x`: true, "key: x": true,
		"routing_key: x": true, "X-API-Key: x": true, "token: x": true, "hec_token: x": true, "Secret: x": true, "bearer-token: x": true,
	} {
		if is := secretLine.MatchString(line); is != secret {
			t.Errorf("%s: %v", line, is)
		}
	}
}
