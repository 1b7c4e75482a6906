package sinks

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

func logEntry(body string, change ...func(*event.Event)) event.Record {
	at := time.Date(2019, 11, 25, 19, 6, 37, 0, time.FixedZone("", 3600))
	e := &event.Event{
		ID: "0123", HMC: "hmc-east", Type: event.TypeLogEntry, Time: at, Received: at, TopicType: event.TopicSecurity,
		Origin: event.OriginLive, Severity: event.SeverityInfo, Summary: "summary", Body: json.RawMessage(body),
	}
	for _, c := range change {
		c(e)
	}
	return event.NewRecord(e)
}

func TestCADF(t *testing.T) {
	logon := `{"event-time":1574705197000,"event-id":"1941","event-name":"","event-message":"User zbc has logged on to Web Services API session Sx1 from location 10.1.1.1",` +
		`"userid":"zbc","user-uri":"/api/users/1","event-data-items":[{"data-item-number":2,"data-item-value":"10.1.1.1","data-item-type":"string"},` +
		`{"data-item-number":0,"data-item-value":"zbc","data-item-type":"string"}],"event-details":[]}`
	const begin = `{"id":"hmcnotifyd:0123","typeURI":"https://schemas.dmtf.org/cloud/audit/1.0/event","eventTime":"2019-11-25T18:06:37.000+00:00","eventType":"activity",`
	for _, test := range []struct {
		name   string
		record event.Record
		want   string
	}{
		{"logon", logEntry(logon), begin + `"action":"authenticate/logon/api","x_eventCategory":"activity/authenticate/logon/api","x_eventType":"zhmc1941","outcome":"success",` +
			`"observer":{"id":"hmc:/api/console","typeURI":"service","name":"hmc-east","x_label":"hmc-east"},` +
			`"x_message":{"number":"1941","log":"security","text":"User zbc has logged on to Web Services API session Sx1 from location 10.1.1.1","var_values":["zbc",null,"10.1.1.1"],"var_types":["string",null,"string"]},` +
			`"initiator":{"id":"hmc:/api/users/1","typeURI":"data/security/account/user","name":"zbc","address":"10.1.1.1"},` +
			`"target":{"id":"hmc:/api/console","typeURI":"service","name":"hmc-east","x_class":"console"}}`},
		{"console by its name", logEntry(`{"event-id":"40","event-message":"off","userid":null,"user-uri":null,"event-data-items":[]}`, func(e *event.Event) {
			e.Resource = &event.Resource{Class: "console", Name: "HMC1", ObjectURI: "/api/console"}
			e.TopicType = event.TopicAudit
		}), begin + `"action":"authenticate/logoff","x_eventCategory":"activity/authenticate/logoff","x_eventType":"zhmc40","outcome":"success",` +
			`"observer":{"id":"hmc:/api/console","typeURI":"service","name":"HMC1","x_label":"hmc-east"},` +
			`"x_message":{"number":"40","log":"audit","text":"off","var_values":[],"var_types":[]},` +
			`"initiator":{"id":"unknown","typeURI":"unknown","name":"unknown","address":"unknown"},` +
			`"target":{"id":"hmc:/api/console","typeURI":"service","name":"HMC1","x_class":"console"}}`},
		{"failed, another target", logEntry(`{"event-id":"5811","event-message":"x","userid":"u","user-uri":"/api/users/2"}`), begin +
			`"action":"update","x_eventCategory":"activity/update","x_eventType":"zhmc5811","outcome":"failed",` +
			`"observer":{"id":"hmc:/api/console","typeURI":"service","name":"hmc-east","x_label":"hmc-east"},` +
			`"x_message":{"number":"5811","log":"security","text":"x","var_values":[],"var_types":[]},` +
			`"initiator":{"id":"hmc:/api/users/2","typeURI":"data/security/account/user","name":"u","address":"unknown"},` +
			`"target":{"id":"unknown","typeURI":"unknown","x_class":"crypto"}}`},
		{"not known", logEntry(`{"event-id":"99999","event-message":"x","userid":""}`), begin +
			`"action":"unknown","x_eventCategory":"activity/unknown","x_eventType":"zhmc99999","outcome":"unknown",` +
			`"observer":{"id":"hmc:/api/console","typeURI":"service","name":"hmc-east","x_label":"hmc-east"},` +
			`"x_message":{"number":"99999","log":"security","text":"x","var_values":[],"var_types":[]},` +
			`"initiator":{"id":"unknown","typeURI":"unknown","name":"unknown","address":"unknown"},"target":{"id":"unknown","typeURI":"unknown"}}`},
		{"of a newer HMC", logEntry(`{"event-id":"88888","event-message":"x","userid":"u","event-data-items":[{"data-item-number":1,"data-item-value":"10.1.1.2"}]}`), begin +
			`"action":"read","x_eventCategory":"activity/read","x_eventType":"zhmc88888","outcome":"success",` +
			`"observer":{"id":"hmc:/api/console","typeURI":"service","name":"hmc-east","x_label":"hmc-east"},` +
			`"x_message":{"number":"88888","log":"security","text":"x","var_values":[null,"10.1.1.2"],"var_types":[null,null]},` +
			`"initiator":{"id":"unknown","typeURI":"data/security/account/user","name":"u","address":"10.1.1.2"},` +
			`"target":{"id":"unknown","typeURI":"compute/machine","x_class":"partition"}}`},
		{"not as the daemon knows it", logEntry(`{"event-id":"1942","event-message":"x","userid":null}`), begin +
			`"action":"authenticate/logoff/other","x_eventCategory":"activity/authenticate/logoff/other","x_eventType":"zhmc1942","outcome":"success",` +
			`"observer":{"id":"hmc:/api/console","typeURI":"service","name":"hmc-east","x_label":"hmc-east"},` +
			`"x_message":{"number":"1942","log":"security","text":"x","var_values":[],"var_types":[]},` +
			`"initiator":{"id":"unknown","typeURI":"unknown","name":"unknown","address":"unknown"},` +
			`"target":{"id":"hmc:/api/console","typeURI":"service","name":"hmc-east","x_class":"console"}}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := syslogFormatOf(t, config.FramingLF, withFormat(config.FormatCADF), func(s *config.Syslog) {
				s.LogMessages = []config.LogMessage{
					{Number: "88888", Action: "read", Outcome: "success", TargetType: "compute/machine", TargetClass: "partition", Address: 1},
					{Number: "1942", Action: "authenticate/logoff/other", Outcome: "success", TargetType: "service", TargetClass: "console", Address: -1},
				}
			})
			m, err := parseSyslog(f.append(nil, &test.record, f.max))
			if err != nil {
				t.Fatal(err)
			}
			if m.text() != test.want {
				t.Errorf("got\n%s\nwant\n%s", m.text(), test.want)
			}
			if m.param("id") != "0123" || *m.MsgID != event.TypeLogEntry {
				t.Errorf("%s", m.raw)
			}
		})
	}
}

// TestCADFAnything never gives up: what is not as expected is left out.
func TestCADFAnything(t *testing.T) {
	for _, body := range []string{
		`null`, `[]`, `""`, `{}`, `{"event-id":1941}`, `{"event-id":{"a":[1,2]}}`, `{"event-data-items":{}}`, `{"event-data-items":[1,null,[]]}`,
		`{"event-data-items":[{"data-item-number":1000000000,"data-item-value":"x"},{"data-item-number":-1},{"data-item-number":"x"},{"data-item-number":3}]}`,
		`{"event-id":"1408","userid":"u","event-data-items":[{"data-item-number":3,"data-item-value":7}]}`,
	} {
		r := logEntry(body)
		e := fieldsOf(&r)
		data := cadfEvent(&e, nil)
		if !json.Valid(data) || len(data) > 4096 || !bytes.Contains(data, []byte(`"id":"hmcnotifyd:0123"`)) {
			t.Errorf("%s: %s", body, data)
		}
	}
}

func TestCADFAddress(t *testing.T) {
	for said, want := range map[string]string{
		`"10.1.1.1"`: "10.1.1.1", `"the console"`: "console", `"an unknown location"`: "unknown", `""`: "unknown", `null`: "unknown", `7`: "unknown",
	} {
		r := logEntry(`{"event-id":"1408","userid":"u","event-data-items":[{"data-item-number":3,"data-item-value":` + said + `}]}`)
		e := fieldsOf(&r)
		if got := string(cadfEvent(&e, nil)); !strings.Contains(got, `"address":"`+want+`"`) {
			t.Errorf("%s: %s", said, got)
		}
	}
}
