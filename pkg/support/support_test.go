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
sinks:
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
	if text := list.String(); !strings.Contains(text, "status.json    not there: ") || files["log.jsonl"] == "" {
		t.Errorf("%s", text)
	}
	// Of a configuration that cannot be read it is not known what to leave out.
	o.ConfigFile = filepath.Join(dir, "none.yaml")
	if err := Bundle(t.Context(), filepath.Join(dir, "other.tar.gz"), io.Discard, o); err == nil || !strings.Contains(err.Error(), "nobody answers") {
		t.Errorf("error: %v", err)
	}
}
