package bridge

import (
	"fmt"
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
)

// Labels of an HMC are in each of its events, also in those about the daemon's own sight and in tests, those by rules win, and
// rules and sinks select by them; hmc_info has them with the group.
func TestLabelsOfAnHMC(t *testing.T) {
	t.Parallel()
	a, b := hmctest.Start(t, hmcsim.Options{Partitions: -1}), hmctest.Start(t, hmcsim.Options{Partitions: -1})
	d := &daemon{t: t, dir: t.TempDir(), consumer: newConsumer(t), timing: testTiming()}
	d.start(load(t, d.dir, "hmcs:\n"+hmcYAML(t, "a", a, "labels: {site: DC1, team: z}", "group: both")+hmcYAML(t, "b", b, "labels: {site: DC2, env: test}")+`
rules:
  - {match: [{class: partition, label: {site: DC1}}], labels: {team: linux}}
sinks:
  - {name: all, log: {output: all.log}}
  - {name: file, log: {output: events.log}, match: [{label: {site: DC1}}]}
`))
	d.connected("a")
	d.connected("b")
	publish(a, "P1", "x")
	publish(b, "P2", "y")
	d.test("all")
	of := func(hmc, typ string) (found *event.Event) {
		d.eventually(typ+" of "+hmc, func() bool {
			for _, e := range d.eventsIn("all.log") {
				if e.HMC == hmc && e.Type == typ {
					found = e
				}
			}
			return found != nil
		})
		return found
	}
	for what, test := range map[string]struct {
		e    *event.Event
		want string
	}{
		"a rule wins":       {of("a", event.TypePropertyChange), "[{site DC1} {team linux}]"},
		"the other HMC":     {of("b", event.TypePropertyChange), "[{env test} {site DC2}]"},
		"the daemon itself": {of("b", event.TypeBridgeConnected), "[{env test} {site DC2}]"},
		"a test":            {of("a", event.TypeBridgeTest), "[{site DC1} {team z}]"},
	} {
		if got := fmt.Sprint(test.e.Labels); got != test.want {
			t.Errorf("%s: %s, want %s", what, got, test.want)
		}
	}
	d.eventually("the file has what is of a", func() bool { return len(d.fileEvents()) >= 2 })
	for _, e := range d.fileEvents() {
		if e.HMC != "a" {
			t.Errorf("the file has %s of %s", e.Type, e.HMC)
		}
	}
	for _, series := range []string{
		`hmcnotifyd_hmc_info{env="",group="both",hmc="a",site="DC1",team="z"}`, `hmcnotifyd_hmc_info{env="test",group="b",hmc="b",site="DC2",team=""}`,
	} {
		if got := d.metric(series); got != 1 {
			t.Errorf("%s is %v", series, got)
		}
	}
}
