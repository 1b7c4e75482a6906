package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
)

// Somebody makes eight mistakes, mends after each check what that has named, and is done after three: each check names all that can
// be seen by then.
func TestMistakesAreFound(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{NoSecurityLog: true})
	consumer := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(consumer.Close)
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("hmc-ca.pem", string(sim.CACertPEM()))
	write("password", "guessed\n")
	config := fmt.Sprintf(`hmcs:
  - name: hmc-east
    hosts: ["127.0.0.1"]
    rest_port: %d
    stomp_port: 9
    userid: hmcuser
    password_file: password
    tls: {ca_file: hmc-ca.crt}
    topics: [object, security]
severity:
  status: {"cpx/service-required": warning}
sinks:
  - name: ops
    webhook: {url: "htp://127.0.0.1:1/hmc"}
    match: [{type: status-change, class: partiton}]
`, sim.RESTPort())
	mend := func(from, to string) {
		t.Helper()
		if strings.Count(config, from) != 1 {
			t.Fatalf("%q is not there once", from)
		}
		config = strings.Replace(config, from, to, 1)
	}
	check := func(want int, named ...string) {
		t.Helper()
		write("hmcnotifyd.yaml", config)
		status, stdout, stderr := call("check-config", "--online", filepath.Join(dir, "hmcnotifyd.yaml"))
		if status != want {
			t.Errorf("exit status %d", status)
		}
		for _, text := range named {
			if !strings.Contains(stderr, text) {
				t.Errorf("no %q", text)
			}
		}
		if n := strings.Count(stderr, "\n"); n != len(named) {
			t.Errorf("%d lines instead of %d", n, len(named))
		}
		if t.Failed() {
			t.Fatalf("stdout:\n%sstderr:\n%s", stdout, stderr)
		}
	}
	check(1, "hmc-ca.crt cannot be read: no such file or directory", "sinks[0].webhook.url: must begin with https:// or http://",
		`severity.status.cpx/service-required: "cpx" is no class`, `sinks[0].match[0].class: "partiton" matches no class of resources that HMCs are known to have; is partition meant?`)
	mend("hmc-ca.crt", "hmc-ca.pem")
	mend("htp:", "http:")
	mend("cpx/", "cpc/")
	mend("partiton", "partition")
	check(1, "check password or password_file, and on the HMC whether userid hmcuser is disabled",
		"the link cannot be made: 127.0.0.1:9: dial tcp 127.0.0.1:9: connect: connection refused: nothing listens there", "sink ops: webhook: http://127.0.0.1:1: ")
	write("password", hmcsim.DefaultPassword+"\n")
	mend("stomp_port: 9", fmt.Sprintf("stomp_port: %d", sim.StompPort()))
	mend("http://127.0.0.1:1", consumer.URL)
	check(1, `topic security is not granted to userid hmcuser: it needs the task "View Security Logs"`)
	mend(", security]", "]")
	check(0)
	if sim.RefusedLogons() != 1 || sim.Sessions() != 0 {
		t.Errorf("%d logons were refused, %d sessions are left", sim.RefusedLogons(), sim.Sessions())
	}
}
