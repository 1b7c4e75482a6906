// Package hmctest starts simulated HMCs for tests.
package hmctest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
)

// Start starts a simulated HMC. It ends with the test.
func Start(tb testing.TB, opts hmcsim.Options) *hmcsim.HMC {
	tb.Helper()
	sim, err := hmcsim.Start(opts)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := sim.Close(); err != nil {
			tb.Error(err)
		}
	})
	return sim
}

// Entry is a simulated HMC in the list hmcs of a configuration, without limits that make a test
// wait; extra are further keys, each with a comma in front.
func Entry(tb testing.TB, sim *hmcsim.HMC, extra string) string {
	tb.Helper()
	ca := filepath.Join(tb.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, sim.CACertPEM(), 0o600); err != nil {
		tb.Fatal(err)
	}
	return fmt.Sprintf("- {name: %s, hosts: [%q], rest_port: %d, stomp_port: %d, userid: %s, password: %s, tls: {ca_file: %q}, "+
		"rest_requests_per_minute: 10000, stomp: {reconnect_sleep_initial: 20ms, reconnect_sleep_max: 200ms}%s}\n",
		strings.ToLower(sim.Name()), sim.Host(), sim.RESTPort(), sim.StompPort(), hmcsim.DefaultUserid, hmcsim.DefaultPassword, ca, extra)
}
