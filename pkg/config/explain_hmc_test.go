package config_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
)

// The error of either connection to an HMC leads to the setting to change.
func TestExplainErrorsOfBothConnections(t *testing.T) {
	for kind, want := range map[hmcsim.CertificateKind]string{
		hmcsim.CertificateExpired:    "renew it on the HMC",
		hmcsim.CertificateSelfSigned: "put this certificate into that file",
		hmcsim.CertificateOtherName:  "but for hmc.example.com: connect to one of these names, or set tls.server_name to it",
	} {
		t.Run(string(kind), func(t *testing.T) {
			sim, err := hmcsim.Start(hmcsim.Options{CertificateKind: kind})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = sim.Close() }()
			ca := filepath.Join(t.TempDir(), "ca.pem")
			if err := os.WriteFile(ca, sim.CACertPEM(), 0o600); err != nil {
				t.Fatal(err)
			}
			settings := config.TLS{CAFile: ca}
			tlsConfig, err := settings.ClientConfig()
			if err != nil {
				t.Fatal(err)
			}

			rest, err := hmc.New(hmc.Options{Hosts: []string{sim.Host()}, Port: sim.RESTPort(), TLS: tlsConfig})
			if err != nil {
				t.Fatal(err)
			}
			defer rest.Close()
			_, err = rest.QueryAPIVersion(t.Context())
			if got := settings.Explain(err); !strings.Contains(got, want) {
				t.Errorf("REST: %v\n got %q\nwant %q", err, got, want)
			}

			link, err := receiver.New(receiver.Options{
				Topics: []string{"x"}, Host: sim.Host(), Port: sim.StompPort(), Userid: "hmcuser", Password: "hmcpass", TLS: tlsConfig,
				Config: &receiver.StompRetryTimeoutConfig{
					ConnectTimeout: 10 * time.Second, ReconnectSleepInitial: time.Millisecond, ReconnectSleepMax: time.Millisecond,
				},
			})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = link.Close() }()
			err = link.Connect(t.Context())
			if got := settings.Explain(err); !strings.Contains(got, want) {
				t.Errorf("link: %v\n got %q\nwant %q", err, got, want)
			}
		})
	}
}
