package sinks

import (
	"cmp"
	"encoding/json"
	"strings"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// cadf is an event of the Cloud Auditing Data Federation (DMTF DSP0262) in the form that zhmc-log-forwarder gives it.
type cadf struct {
	ID            string        `json:"id"`
	TypeURI       string        `json:"typeURI"`
	EventTime     string        `json:"eventTime"`
	EventType     string        `json:"eventType"`
	Action        string        `json:"action"`
	EventCategory string        `json:"x_eventCategory"`
	XEventType    string        `json:"x_eventType"`
	Outcome       string        `json:"outcome"`
	Observer      cadfResource  `json:"observer"`
	Message       cadfMessage   `json:"x_message"`
	Initiator     *cadfResource `json:"initiator,omitempty"` // where the HMC says who it was
	Target        *cadfResource `json:"target,omitempty"`    // where the entry is one that is known
}

type cadfResource struct {
	ID      string `json:"id,omitempty"`
	TypeURI string `json:"typeURI"`
	Name    string `json:"name,omitempty"`
	Address string `json:"address,omitempty"`
	Label   string `json:"x_label,omitempty"`
	Class   string `json:"x_class,omitempty"`
}

// cadfMessage is the entry itself. The lists are in the order of the variables' numbers, with null for one that is missing.
type cadfMessage struct {
	Number string            `json:"number"`
	Log    string            `json:"log"`
	Text   string            `json:"text"`
	Values []json.RawMessage `json:"var_values"`
	Types  []json.RawMessage `json:"var_types"`
}

const (
	cadfService = "service" // the type of the HMC
	cadfUnknown = "unknown"

	// cadfTime is the standard's form, which has no Z.
	cadfTime = "2006-01-02T15:04:05.000-07:00"

	// maxCADFVariable bounds the lists of variables. Messages have fewer than ten.
	maxCADFVariable = 99
)

// cadfEvent returns a log entry as CADF event.
func cadfEvent(e *syslogEvent) []byte {
	var id, userid, user string
	m := cadfMessage{Log: e.topicType, Values: []json.RawMessage{}, Types: []json.RawMessage{}}
	for name, value := range event.Members(e.body) {
		switch string(name) {
		case "event-id":
			id = strings.Trim(string(value), `"`)
		case "event-message":
			m.Text = event.String(value)
		case "userid":
			userid = event.String(value)
		case "user-uri":
			user = event.String(value)
		case "event-data-items":
			for item := range event.Elements(value) {
				m.add(item)
			}
		}
	}
	m.Number = id
	k := cadfKindOf(id)
	consoleURI, consoleName := "/api/console", e.hmc
	if e.class == "console" {
		consoleURI, consoleName = cmp.Or(e.object, consoleURI), cmp.Or(e.name, consoleName)
	}
	c := cadf{
		ID:            "hmcnotifyd:" + e.record.ID,
		TypeURI:       "https://schemas.dmtf.org/cloud/audit/1.0/event",
		EventTime:     e.time.UTC().Format(cadfTime),
		EventType:     "activity",
		Action:        k.action,
		EventCategory: "activity/" + k.action,
		XEventType:    "zhmc" + id,
		Outcome:       k.outcome,
		Observer:      cadfResource{ID: "hmc:" + consoleURI, TypeURI: cadfService, Name: consoleName, Label: e.hmc},
		Message:       m,
	}
	if userid != "" {
		c.Initiator = &cadfResource{ID: "hmc:" + user, TypeURI: "data/security/account/user", Name: userid, Address: m.address(k.address)}
	}
	switch k.class {
	case "":
	case "console":
		c.Target = &cadfResource{ID: c.Observer.ID, TypeURI: cadfService, Name: consoleName, Class: k.class}
	default: // which one it is no entry says in a form for programs
		c.Target = &cadfResource{TypeURI: k.typeURI(), Class: k.class}
	}
	data, err := json.Marshal(c)
	if err != nil { // a body that is no JSON, which no stored event has
		return e.record.JSON
	}
	return data
}

// add puts one element of event-data-items in its place.
func (m *cadfMessage) add(item []byte) {
	number := event.Int(event.Member(item, "data-item-number"))
	if number < 0 || number > maxCADFVariable {
		return
	}
	for int64(len(m.Values)) <= number {
		m.Values = append(m.Values, nil)
		m.Types = append(m.Types, nil)
	}
	m.Values[number] = event.Member(item, "data-item-value")
	m.Types[number] = event.Member(item, "data-item-type")
}

// address returns the variable that says where somebody came from, as zhmc-log-forwarder puts it.
func (m *cadfMessage) address(variable int) string {
	if variable < 0 || variable >= len(m.Values) {
		return cadfUnknown
	}
	address := event.String(m.Values[variable])
	switch {
	case strings.Contains(address, "console"): // "the console"
		return "console"
	case address == "", strings.Contains(address, cadfUnknown): // "an unknown location"
		return cadfUnknown
	}
	return address
}

// cadfKind is what an entry of the audit or security log means to CADF.
type cadfKind struct {
	action, outcome string
	class           string // of the target; "": not known
	address         int    // the number of the variable with the initiator's address; -1: there is none
}

func (k cadfKind) typeURI() string {
	switch k.class {
	case "code", "user_template", "user_pattern", "unknown":
		return cadfService
	}
	return cadfUnknown
}

// cadfKindOf returns what zhmc-log-forwarder's zhmc_log_messages.yml, of HMC 2.14.1, says of an event id: "failed" is its word
// for the standard's "failure". Where that file has a blank to be filled in, it is unknown here.
func cadfKindOf(id string) cadfKind {
	const ok, failed, none = "success", "failed", -1
	switch id {
	case "28", "29", "30", "31", "32", "33", "722", "1235", "1236", "1262", "1263", "1265", "1946", "1947", "1997", "6060":
		return cadfKind{"update", ok, "code", none}
	case "34", "1237", "6061":
		return cadfKind{"update", failed, "code", none}
	case "2007", "6062", "6063":
		return cadfKind{"read", ok, "code", none}

	case "37":
		return cadfKind{"authenticate/logon/service_representative_mode", ok, "console", none}
	case "38":
		return cadfKind{"authenticate/logon/pemode", ok, "console", none}
	case "123":
		return cadfKind{"authenticate/logon/operator_mode", ok, "console", none}
	case "124":
		return cadfKind{"authenticate/logon/advanced_operator_pmode", ok, "console", none}
	case "125":
		return cadfKind{"authenticate/logon/access_administrator_mode", ok, "console", none}
	case "126":
		return cadfKind{"authenticate/logon/system_programmer_mode", ok, "console", none}
	case "216", "257", "1279", "1957", "2042":
		return cadfKind{"authenticate/logon", ok, "console", none}
	case "687":
		return cadfKind{"authenticate/logon/auto", ok, "console", none}
	case "1331":
		return cadfKind{"authenticate/logon/console", ok, "console", none}
	case "1408":
		return cadfKind{"authenticate/logon/gui", ok, "console", 3}
	case "1941":
		return cadfKind{"authenticate/logon/api", ok, "console", 2}
	case "136", "137", "138", "363", "522", "1285", "1286", "1287", "1340", "2031":
		return cadfKind{"authenticate/logon", failed, "console", none}
	case "1691", "1692":
		return cadfKind{"authenticate/logon", failed, "console", 1}
	case "191", "192", "193":
		return cadfKind{"authenticate/logon/threshold_exceeded", failed, "console", none}
	case "859", "1324":
		return cadfKind{"authenticate/consecutive_logons", failed, "console", none}
	case "40", "258", "756", "1280", "2043":
		return cadfKind{"authenticate/logoff", ok, "console", none}
	case "1332":
		return cadfKind{"authenticate/logoff/console", ok, "console", none}
	case "1409":
		return cadfKind{"authenticate/logoff/gui", ok, "console", none}
	case "1942":
		return cadfKind{"authenticate/logoff/api", ok, "console", none}
	case "757", "1283", "1284", "1410":
		return cadfKind{"authenticate/forced_logoff", ok, "console", none}

	case "151", "675", "676", "677", "678", "679", "680", "681", "682", "1268":
		return cadfKind{"remote", failed, "console", none}
	case "152", "673", "674", "734", "6001", "6002":
		return cadfKind{"remote", ok, "console", none}
	case "721":
		return cadfKind{"backup", ok, "console", none}
	case "1330":
		return cadfKind{"monitor", ok, "console", none}
	case "1333":
		return cadfKind{"firewall/blocked", ok, "console", none}
	case "3318", "3319", "3320":
		return cadfKind{"update", ok, "console", 2}
	case "2033":
		return cadfKind{cadfUnknown, ok, "console", none}
	case "4051":
		return cadfKind{"monitor", ok, cadfUnknown, none}

	case "115":
		return cadfKind{"create", ok, "profile", none}
	case "116", "117":
		return cadfKind{"update", ok, "profile", none}
	case "118":
		return cadfKind{"delete", ok, "profile", none}
	case "787", "948", "1067", "1278", "1325":
		return cadfKind{"update", ok, "user", none}
	case "864":
		return cadfKind{cadfUnknown, ok, "user", none}
	case "1801":
		return cadfKind{"create", ok, "user_template", none}
	case "1802":
		return cadfKind{"delete", ok, "user_template", none}
	case "1803":
		return cadfKind{"update", ok, "user_template", none}
	case "1852":
		return cadfKind{"create", ok, "user_pattern", none}
	case "1853":
		return cadfKind{"delete", ok, "user_pattern", none}
	case "1854":
		return cadfKind{"update", ok, "user_pattern", none}

	case "5002", "5003", "5004", "5005", "5006", "5007", "5200":
		return cadfKind{"authenticate/logon", ok, "crypto", none}
	case "5012", "5013", "5014", "5015", "5016", "5017", "5250", "5251":
		return cadfKind{"authenticate/logon", failed, "crypto", none}
	case "5008":
		return cadfKind{"authenticate/logoff", ok, "crypto", none}
	case "5018":
		return cadfKind{"authenticate/logoff", failed, "crypto", none}
	case "5810", "5812":
		return cadfKind{"update", ok, "crypto", none}
	case "5019", "5811", "5813":
		return cadfKind{"update", failed, "crypto", none}
	case "5809":
		return cadfKind{"read", failed, "crypto", none}

	case "5310", "5313":
		return cadfKind{"authenticate/logon", ok, "", none}
	case "5410", "5412":
		return cadfKind{"authenticate/logon", failed, "", none}
	case "5311":
		return cadfKind{"authenticate/logoff", ok, "", none}
	case "5780":
		return cadfKind{"update", ok, "", none}
	case "5781":
		return cadfKind{"update", failed, "", none}
	case "6051", "6052", "6053", "6054", "6055": // a request without the permission for it
		return cadfKind{cadfUnknown, failed, "", 0}
	}
	return cadfKind{cadfUnknown, cadfUnknown, "", none}
}
