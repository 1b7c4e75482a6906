package translate

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/estate"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
)

// An activation leads from not-activated by not-operating to operating: nobody is to be called for that, as long as it takes no
// longer than it does, and no wait state says that it has failed. A system that has operated and stops is another matter.
func TestActivation(t *testing.T) {
	t.Parallel()
	const (
		uri    = "/api/logical-partitions/1"
		failed = "000200008000000000000000000000B1"
		zero   = "00020000800000000000000000000000"
	)
	for _, test := range []struct {
		name, class, path string
		psw               string
		severities        config.Severity
		want              string // at once
		later             bool   // it is told when it lasts
	}{
		{"activation", "logical-partition", "not-activated not-operating", "", config.Severity{}, event.SeverityWarning, true},
		{"activation, told twice", "logical-partition", "not-activated not-operating not-operating", "", config.Severity{}, event.SeverityWarning, true},
		{"activation, not loaded", "logical-partition", "not-activated not-operating", zero, config.Severity{}, event.SeverityWarning, true},
		{"the load has failed", "logical-partition", "not-activated not-operating", failed, config.Severity{}, event.SeverityCritical, false},
		{"failure", "logical-partition", "not-activated not-operating operating not-operating", zero, config.Severity{}, event.SeverityCritical, false},
		{"failure of a part first", "logical-partition", "operating exceptions not-operating", zero, config.Severity{}, event.SeverityCritical, false},
		{"failure in one notification", "logical-partition", "not-activated operating,not-operating", zero, config.Severity{}, event.SeverityCritical, false},
		{"power-on", "cpc", "no-power not-operating", "", config.Severity{}, event.SeverityWarning, true},
		{"CPC down", "cpc", "operating not-operating", "", config.Severity{}, event.SeverityCritical, false},
		{"CPC out of sight", "cpc", "not-communicating not-operating", "", config.Severity{}, event.SeverityCritical, false},
		{
			"as the site says", "logical-partition", "not-activated not-operating", "",
			config.Severity{Status: config.SeverityTable{"not-operating": event.SeverityCritical}},
			event.SeverityCritical, true,
		},
		{"acceptable", "logical-partition", "not-activated not-operating=false", "", config.Severity{}, event.SeverityInfo, true},
		{"known to be something else", "logical-partition", "operating:not-activated not-operating", "", config.Severity{}, event.SeverityWarning, true},
		{"nothing is known", "logical-partition", ":not-activated not-operating", "", config.Severity{}, event.SeverityWarning, true},
		{"nothing is known of one that has operated", "logical-partition", ":operating not-operating", "", config.Severity{}, event.SeverityCritical, false},
		{"known to be at rest, and has operated", "logical-partition", "not-activated:operating not-operating", "", config.Severity{}, event.SeverityCritical, false},
		{"activated anew in one notification", "logical-partition", "operating not-activated,not-operating", "", config.Severity{}, event.SeverityWarning, true},
		{"given up in one notification", "logical-partition", "operating not-activated,not-operating,not-activated", "", config.Severity{}, event.SeverityWarning, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := newConverter()
			c.Severities = NewSeverities(test.severities)
			at := time.Unix(1_700_000_000, 0)
			var e event.Event
			known, path, otherwise := strings.Cut(test.path, ":") // than the first report says
			if !otherwise {
				known, _, _ = strings.Cut(test.path, " ")
				path = test.path
			}
			steps := strings.Fields(path)
			for i, step := range steps[1:] {
				var reports []string
				old := steps[i]
				step, judged, _ := strings.Cut(step, "=")
				if judged != "" {
					judged = `,"has-unacceptable-status":` + judged
				}
				for to := range strings.SplitSeq(step, ",") {
					reports = append(reports, fmt.Sprintf(`{"old-status":%q,"new-status":%q%s}`, old, to, judged))
					old = to
				}
				if i == 0 && known != "" { // what it was before is known
					c.estate.SetStatus(&estate.Resource{URI: uri, Class: test.class, Name: "LP01", Status: known, Since: at}, at)
				}
				var n Notification
				n.Parse(&receiver.Notification{
					Topic: "u.1", Received: at.Add(time.Duration(i) * time.Second), Body: []byte(`{"change-reports":[` + strings.Join(reports, ",") + `]}`),
					Headers: receiver.Headers{
						{Name: "notification-type", Value: "status-change"},
						{Name: "class", Value: test.class},
						{Name: "name", Value: "LP01"},
						{Name: "object-uri", Value: uri},
					},
				}, true)
				c.Convert(&n, event.IDOf("x"), func(p *Part) { e = *p.Event })
			}
			if test.psw != "" {
				c.Stopped(&e, []string{test.psw})
			}
			if e.Severity != test.want {
				t.Errorf("%s: %q", e.Severity, e.Summary)
			}
			starting := c.estate.Starting(at.Add(time.Hour))
			if len(starting) == 1 != test.later {
				t.Fatalf("%d do not operate yet", len(starting))
			}
			if !test.later {
				return
			}
			told := c.Fetched(event.TypeStatusChange, "", event.TopicObject, starting[0].Starting.Add(StartTakes))
			told.Resource = &event.Resource{Class: test.class, Name: "LP01", ObjectURI: uri, CPC: "M90"}
			c.NotStarted(told, &starting[0])
			want, on := event.SeverityCritical, " on M90"
			if test.want == event.SeverityInfo {
				want = event.SeverityInfo
			}
			if test.class == "cpc" {
				on = ""
			}
			if told.Severity != want || told.Repeat || told.Summary != test.class+" LP01"+on+": still not-operating, 5m after its activation" {
				t.Errorf("%s: %q", told.Severity, told.Summary)
			}
			if again := c.estate.Starting(at.Add(time.Hour)); len(again) > 0 {
				t.Error("it would be told again")
			}
		})
	}
}
