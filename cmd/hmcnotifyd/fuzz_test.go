package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
)

// Whatever is in the file of check-config --event, it is an event whose way is told, or an error of
// one line.
func FuzzEventFile(f *testing.F) {
	dir := f.TempDir()
	file, cfgFile := filepath.Join(dir, "event.json"), filepath.Join(dir, "c.yaml")
	if err := os.WriteFile(cfgFile, []byte(`hmcs: [{name: a, hosts: [h], userid: u, password: p}]
sinks:
  - {name: s, log: {}, match: [{type: status-change, status: stopped, class: partition}, {text: x, user: u, event_id: "1"}, {property: p}], drop: [{name: "T.*", cpc: C}]}
`), 0o600); err != nil {
		f.Fatal(err)
	}
	cfg, err := config.Load(cfgFile)
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{
		`{"hmc":"a","type":"status-change","resource":{"class":"partition","name":"P"},"body":{"change-reports":[{"new-status":"stopped"}]}}`,
		`{"hmc":"a","type":"log-entry","body":{"userid":"u","event-id":"1","event-message":"x"}}`,
		`{"hmc":"a","type":"property-change","body":{"change-reports":[{"property-name":"p"}]}}`,
		`{"hmc":"a","type":"x","body":[[{}]],"headers":{"a":"b"}}`, `{"hmc":1}`, `{}`, `[`, ``,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		err := (&environment{checkEvent: file, stdout: &out}).printRoutes(cfg)
		switch {
		case err != nil && (strings.Contains(err.Error(), "\n") || out.Len() > 0):
			t.Fatalf("%q, %q", err, out.String())
		case err == nil && !strings.HasPrefix(out.String(), "sink s "):
			t.Fatalf("%q", out.String())
		}
	})
}
