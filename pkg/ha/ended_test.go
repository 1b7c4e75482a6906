package ha

import (
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/cluster"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
	"github.com/hmcnotifyd/hmcnotifyd/tests/natscluster"
)

// A connection that a server ends for good, as the client library takes it, is made anew: servers that
// allow smaller messages from now on do so with the first that is too large.
func TestConnectionEndedForGood(t *testing.T) {
	c := newConsumer()
	var options *server.Options
	s, url := natscluster.SingleServer(t, func(o *server.Options) { options = o })
	sim, text := pairOn(t, url, c, slowAndFast)
	n := start(t, text)
	eventually(t, "it leads", n.leads)

	lower := options.Clone()
	lower.MaxPayload = cluster.LeastPayload
	if err := s.ReloadOptions(lower); err != nil {
		t.Fatal(err)
	}
	describe(sim, 0, strings.Repeat("x", 700<<10))
	const said = "the connection to the NATS cluster was ended, and is made anew"
	eventually(t, "it is said", func() bool { return strings.Contains(n.logs.String(), said) })
	eventually(t, "it leads again", n.leads)
	mark := publish(sim, 1)
	eventually(t, "it delivers", func() bool { return c.has("/fast", mark) })
	if got := strings.Count(n.logs.String(), said); got != 1 || !strings.Contains(n.logs.String(), "Maximum Payload") {
		t.Errorf("it is said %d times", got)
	}
}

// The files that storage.jetstream names are read again for each connection: a password and a CA that
// have changed on the servers need no start.
func TestFilesOfTheClusterChange(t *testing.T) {
	dir := t.TempDir()
	ca, password := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "password")
	// secure makes the servers' side of both, and the daemon's when that is called.
	secure := func(o *server.Options, word string) (write func()) {
		t.Helper()
		authority, err := hmcsim.NewCA()
		if err != nil {
			t.Fatal(err)
		}
		cert, err := authority.Certificate(hmcsim.CertificateGood)
		if err != nil {
			t.Fatal(err)
		}
		o.TLS, o.TLSConfig, o.TLSTimeout = true, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}, natscluster.Patience.Seconds()
		o.Username, o.Password = "hmcnotifyd", word
		return func() {
			if err := errors.Join(os.WriteFile(ca, authority.PEM(), 0o600), os.WriteFile(password, []byte(word+"\n"), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
	}
	var options *server.Options
	var write func()
	s, url := natscluster.SingleServer(t, func(o *server.Options) {
		options = o
		write = secure(o, "the first one")
	})
	write()
	sim := hmctest.Start(t, hmcsim.Options{Name: "east", CPCs: 1, Partitions: 4})
	n := start(t, fmt.Sprintf("hmcs:\n%s\nsinks: [{name: log, log: {}}]\nstorage: {jetstream: {urls: [%q], name: x, replicas: 1, userid: hmcnotifyd, password_file: %q, tls: {ca_file: %q}}}\n",
		hmctest.Entry(t, sim, ""), url, password, ca))
	eventually(t, "it leads", n.leads)

	changed := options.Clone()
	write = secure(changed, "the second one")
	if err := s.ReloadOptions(changed); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the connection is lost", func() bool { return !n.cluster.Load().Connected() })
	eventually(t, "it is said why it does not come back", func() bool { return strings.Contains(n.logs.String(), "unknown authority") })
	write()
	eventually(t, "the connection is back", func() bool { return n.cluster.Load().Connected() })
	eventually(t, "it leads", n.leads)
}
