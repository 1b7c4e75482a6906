package config

import (
	"strings"
	"testing"
	"time"
)

// What is not given of a sink whose requests have many events, and what wins over it.
func TestBulkDefaults(t *testing.T) {
	const head = "hmcs: [{name: a, hosts: [h], userid: u, password: p}]\nsinks: [{name: s, "
	for _, test := range []struct {
		text       string
		batch      Batch
		timeout    time.Duration
		data, name string // data stream and index
	}{
		{`splunk: {url: "https://s:8088", token: t}`, Batch{100, time.Second}, 10 * time.Second, "", ""},
		{`splunk: {url: "https://s:8088", token: t, acknowledge: true}`, Batch{100, time.Second}, time.Minute, "", ""},
		{`splunk: {url: "https://s:8088", token: t, acknowledge: true}, timeout: 5m`, Batch{100, time.Second}, 5 * time.Minute, "", ""},
		{`splunk: {url: "https://s:8088", token: t}, batch: {max_events: 1}`, Batch{1, 0}, 10 * time.Second, "", ""},
		{`elasticsearch: {url: "https://e:9200"}`, Batch{100, time.Second}, 10 * time.Second, "logs-hmc-default", ""},
		{`elasticsearch: {url: "https://e:9200", data_stream: logs-z-prod}`, Batch{100, time.Second}, 10 * time.Second, "logs-z-prod", ""},
		{`elasticsearch: {url: "https://e:9200", index: hmc-events}`, Batch{100, time.Second}, 10 * time.Second, "", "hmc-events"},
		{`elasticsearch: {url: "https://e:9200"}, batch: {max_events: 500}`, Batch{500, 0}, 10 * time.Second, "logs-hmc-default", ""},
		{`webhook: {url: "https://w"}`, Batch{1, 0}, 10 * time.Second, "", ""},
	} {
		c, err := loadText(t, head+test.text+"}]")
		if err != nil {
			t.Errorf("%s: %v", test.text, err)
			continue
		}
		s := c.Sinks[0]
		if s.Batch != test.batch || s.Timeout != test.timeout {
			t.Errorf("%s: %+v, timeout %s", test.text, s.Batch, s.Timeout)
		}
		if e := s.Elasticsearch; e != nil && (e.DataStream != test.data || e.Index != test.name) {
			t.Errorf("%s: %+v", test.text, e)
		}
	}
}

// Credentials that would travel unencrypted are warned of.
func TestBulkUnencrypted(t *testing.T) {
	for text, want := range map[string]bool{
		`splunk: {url: "http://s:8088", token: t}`:                                                     true,
		`splunk: {url: "http://localhost:8088", token: t}`:                                             false,
		`splunk: {url: "https://s:8088", token: t}`:                                                    false,
		`elasticsearch: {url: "http://e:9200"}`:                                                        false,
		`elasticsearch: {url: "http://e:9200", http_config: {basic_auth: {username: u, password: p}}}`: true,
	} {
		c, err := loadText(t, "hmcs: [{name: a, hosts: [h], userid: u, password: p}]\nsinks: [{name: s, "+text+"}]")
		if err != nil {
			t.Fatal(err)
		}
		if got := len(c.Warnings) > 0 && strings.Contains(c.Warnings[0].Error(), "unencrypted"); got != want {
			t.Errorf("%s: %v", text, c.Warnings)
		}
	}
}
