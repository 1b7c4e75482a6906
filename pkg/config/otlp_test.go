package config

import (
	"strings"
	"testing"
	"time"
)

// A sink of a kind that has batches gets those, as far as the file says nothing else.
func TestBatchOfAKind(t *testing.T) {
	for text, want := range map[string]Batch{
		"otlp: {url: 'http://localhost:4318/v1/logs'}":                              {MaxEvents: 100, MaxWait: time.Second},
		"otlp: {url: 'http://localhost:4318/v1/logs'}, batch: {max_events: 1}":      {MaxEvents: 1},
		"otlp: {url: 'http://localhost:4318/v1/logs'}, batch: {max_events: 7}":      {MaxEvents: 7},
		"otlp: {url: 'http://localhost:4318/v1/logs'}, batch: {max_wait: 0s}":       {MaxEvents: 100},
		"otlp: {url: 'http://localhost:4318/v1/logs'}, batch: {max_wait: 3s}":       {MaxEvents: 100, MaxWait: 3 * time.Second},
		"webhook: {url: 'http://localhost/'}":                                       {MaxEvents: 1},
		"webhook: {url: 'http://localhost/'}, batch: {max_events: 5, max_wait: 1s}": {MaxEvents: 5, MaxWait: time.Second},
	} {
		c, err := loadText(t, "hmcs: [{name: a, hosts: [h], userid: u, password: p}]\nsinks: [{name: s, "+text+"}]\n")
		if err != nil {
			t.Errorf("%s: %v", text, err)
		} else if got := c.Sinks[0].Batch; got != want {
			t.Errorf("%s: %+v, want %+v", text, got, want)
		}
	}
}

func TestOTLPWarnings(t *testing.T) {
	for address, want := range map[string]string{
		"http://localhost:4318":                "has no path",
		"http://localhost:4317/v1/logs":        "speak gRPC",
		"http://collector.example.com/v1/logs": "unencrypted",
		"https://collector.example.com/logs":   "",
	} {
		c, err := loadText(t, "hmcs: [{name: a, hosts: [h], userid: u, password: p}]\n"+
			"sinks: [{name: s, otlp: {url: '"+address+"', http_config: {authorization: {credentials_file: token}}}}]\n", "token", "t0ken")
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, w := range c.Warnings {
			got = append(got, w.Msg)
		}
		if text := strings.Join(got, "\n"); !strings.Contains(text, want) || (want == "") != (text == "") {
			t.Errorf("%s: %q", address, text)
		}
	}
}
