package bridge

import (
	"fmt"
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
)

// A reload rates what comes after it, and the link to the HMC stays.
func TestSeveritiesAreReloaded(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
	yaml := hmcYAML(t, "a", sim)
	d := startDaemon(t, yaml)
	d.connected("a")
	stopped := func(name string) string {
		sim.Publish("object-notification", []hmcsim.Header{
			{Name: "notification-type", Value: event.TypeStatusChange},
			{Name: "class", Value: "partition"},
			{Name: "name", Value: name},
			{Name: "object-uri", Value: "/api/partitions/" + name},
		}, []byte(`{"change-reports":[{"old-status":"active","new-status":"stopped"}]}`))
		var severity string
		d.eventually(name, func() bool {
			for _, e := range d.consumer.got() {
				if e.Resource != nil && e.Resource.Name == name {
					severity = e.Severity
				}
			}
			return severity != ""
		})
		return severity
	}
	if got := stopped("P1"); got != event.SeverityWarning {
		t.Errorf("by the built-in table: %s", got)
	}
	for i, want := range []string{event.SeverityCritical, event.SeverityInfo} {
		cfg := d.config(yaml)
		cfg.Severity.Status = config.SeverityTable{"stopped": want}
		if err := d.bridge.Reload(cfg); err != nil {
			t.Fatal(err)
		}
		if got := stopped(fmt.Sprint("P", i+2)); got != want {
			t.Errorf("configured as %s: %s", want, got)
		}
	}
	if err := d.bridge.Reload(d.config(yaml)); err != nil {
		t.Fatal(err)
	}
	if got := stopped("P9"); got != event.SeverityWarning {
		t.Errorf("by the built-in table again: %s", got)
	}
	if sim.Logons() != 1 || d.hmc("a").Reconnects != 0 {
		t.Error("the HMC was connected anew")
	}
}
