package sinks

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// A test makes an alert fire that takes the way of the others and ends by itself.
func TestAlertmanagerTest(t *testing.T) {
	one, two := startAlertmanager(t), startAlertmanager(t)
	cfg := alertmanagerConfig(one, two)
	cfg.Alertmanager.Labels = map[string]string{"team": "z"}
	a := startAlerting(t, cfg, Options{})
	now := time.Now()
	test := func() error {
		return a.sink.(Tester).Test(t.Context(), event.NewRecord(&event.Event{
			ID: "1", HMC: "a", Type: event.TypeBridgeTest, Time: now, Received: now, Origin: event.OriginBridge, Severity: event.SeverityInfo, Summary: "a test",
		}))
	}
	if err := test(); err != nil {
		t.Fatal(err)
	}
	for _, f := range []*fakeAlertmanager{one, two} {
		all := f.all()
		if len(all) != 1 || all[0].Labels["alertname"] != AlertTest || all[0].Labels["team"] != "z" || all[0].Annotations["summary"] != "a test" ||
			!all[0].EndsAt.Equal(all[0].StartsAt.Add(testLasts)) {
			t.Errorf("%+v", all)
		}
	}
	a.repeat()
	if n := len(one.all()); n != 1 {
		t.Errorf("it is repeated: %d", n)
	}
	two.state.Store(int32(busy))
	if partial, ok := errors.AsType[*PartialError](test()); !ok || !strings.Contains(partial.Error(), two.server.URL) {
		t.Errorf("%v", partial)
	}
	one.state.Store(int32(refuse))
	two.state.Store(int32(refuse))
	if _, ok := errors.AsType[*PermanentError](test()); !ok {
		t.Error("it was refused")
	}
	if err := a.sink.(Tester).Test(t.Context(), event.Record{JSON: json.RawMessage("{")}); err == nil {
		t.Error("that was no event")
	}
	if err := a.sink.Close(); err != nil {
		t.Fatal(err)
	}
	if err := test(); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}
