package bridge

import (
	"bytes"
	"encoding/json"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/ledger"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/record"
)

// strict decodes JSON that may have no field which v does not.
func strict(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	return d.Decode(v)
}

// jsonNames lists the names of a struct's fields in JSON.
func jsonNames(t reflect.Type) []string {
	var names []string
	for f := range t.Fields() {
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); f.IsExported() && name != "-" {
			names = append(names, name)
		}
	}
	return names
}

// docs/events.md has an example of each type of event that is one, and tells of each field.
func TestDocsEvents(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../../docs/events.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(data)
	bodies := map[string]any{
		event.TypeBridgeConnected: new(record.Connection), event.TypeBridgeDisconnected: new(record.Disconnection),
		event.TypeBridgeGap: new(ledger.Gap), event.TypeBridgeHeartbeat: new(record.Heartbeat),
	}
	types := slices.Concat(event.NotificationTypes(), []string{
		event.TypeBridgeConnected, event.TypeBridgeDisconnected, event.TypeBridgeGap, event.TypeBridgeHeartbeat, event.TypeBridgeTest,
		event.TypeStatusChangeSummary, event.TypeHardwareMessage,
	})
	told := func(section string, names []string) {
		for _, name := range names {
			if !regexp.MustCompile("(?m)^\\|.*`" + name + "`").MatchString(section) {
				t.Errorf("nothing is said of %s:\n%.60s", name, section)
			}
		}
	}
	fields, sections, _ := strings.Cut(page, "\n## What an HMC tells\n")
	told(fields, jsonNames(reflect.TypeFor[event.Event]()))
	told(fields, jsonNames(reflect.TypeFor[event.Resource]()))

	for _, typ := range types {
		_, section, found := strings.Cut(sections, "\n### "+typ+"\n")
		section, _, _ = strings.Cut(section, "\n### ")
		_, block, hasExample := strings.Cut(section, "\n```json\n")
		block, _, _ = strings.Cut(block, "\n```\n")
		if !found || !hasExample {
			t.Errorf("%s has no section with an example", typ)
			continue
		}
		var e event.Event
		if err := strict([]byte(block), &e); err != nil || e.Type != typ || e.ID == "" || e.Severity == "" || e.Time.IsZero() || e.Received.IsZero() {
			t.Errorf("%s: %v in\n%s", typ, err, block)
		}
		if body := bodies[typ]; body != nil {
			if err := strict(e.Body, body); err != nil {
				t.Errorf("%s: body: %v", typ, err)
			}
			told(section, jsonNames(reflect.TypeOf(body).Elem()))
		}
	}
}
