package hostile_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/daemon"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/program"
	"github.com/hmcnotifyd/hmcnotifyd/tests/soak"
)

// misleading returns the first character of a text that controls a terminal, ends a line of its own, or changes how what is
// around it looks; "": there is none.
func misleading(text string) string {
	for i, r := range text {
		if unicode.IsControl(r) && r != '\n' && r != '\t' || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp) {
			return fmt.Sprintf("%U in %q", r, text[max(0, i-60):min(len(text), i+60)])
		}
	}
	return ""
}

// Whoever writes on a console, or names a partition, makes no line and no page look like something else: not in any form in
// which a person or a terminal gets to read it.
func TestDeception(t *testing.T) {
	soak.Parallel(t)
	const (
		// a C1 control sequence, ends of lines of Unicode, an override of the direction, an isolate, invisible characters
		nasty  = "PAID \u009b2J\u009d0;x\u0007\u0085<3>forged\u2028CRITICAL\u2029\u202eKO si gnihtyreve\u2066\u200b\u00ad\ufeff\U000e0041\x7f\x1b[2J end"
		marker = "end"
	)
	sim := hmctest.Start(t, hmcsim.Options{Name: "east"})
	partition := sim.Partitions()[0]
	if err := sim.RenamePartition(partition.URI, "P\u202e1\u009b"); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	syslog, err := (&net.ListenConfig{}).ListenPacket(t.Context(), "udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer syslog.Close()
	address := syslog.LocalAddr().(*net.UDPAddr)
	cfg := "hmcs:\n" + hmctest.Entry(t, sim, `, topics: [object, job, audit, security], os_messages: [{cpc: ".*", partition: ".*"}]`) + "sinks:\n"
	for _, format := range []string{"json", "text"} {
		cfg += fmt.Sprintf("- {name: log-%s, log: {output: %q, format: %s}}\n", format, filepath.Join(dir, format), format)
	}
	formats := []string{"json", "text", "cadf", "os-forwarder"}
	for _, format := range formats {
		cfg += fmt.Sprintf("- {name: syslog-%s, syslog: {address: \"udp://127.0.0.1:%d\", format: %s, app_name: %s}}\n",
			format, address.Port, format, format)
	}
	v := start(t, daemon.Options{Config: cfg})
	v.AwaitReady(t, within)
	tails := map[string]*program.Process{}
	for _, flag := range []string{"--json", "--no-json"} {
		tails[flag] = program.Start(t, program.Options{
			Name: "tail", Path: daemon.Binary(t), Args: []string{"tail", "--url=" + v.URL, flag},
		})
	}

	publish := func() {
		if _, err := sim.OSMessages(partition.URI, nasty); err != nil {
			t.Error(err)
		}
		sim.LogEntries("security", hmcsim.LogEntry{EventID: "1941", Name: nasty, Message: nasty, User: nasty})
		change := []hmcsim.Header{
			{Name: "notification-type", Value: "property-change"},
			{Name: "class", Value: "partition"},
			{Name: "name", Value: nasty},
			{Name: "object-uri", Value: partition.URI},
			{Name: "property-names", Value: " " + nasty + " "},
			{Name: nasty, Value: nasty},
		}
		body, err := json.Marshal(map[string]any{"change-reports": []any{map[string]string{"property-name": nasty, "old-value": nasty, "new-value": nasty}}})
		if err != nil {
			t.Fatal(err)
		}
		sim.Publish("object", change, body)
		sim.Publish("object", []hmcsim.Header{{Name: "notification-type", Value: nasty}}, []byte("not JSON: "+nasty))
	}
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	publish()
	got := map[string][]string{}
	v.Process.Await(t, within, func() error {
		if strings.Count(read("json"), marker) < 4 || strings.Count(read("text"), marker) < 3 {
			return errors.New("not all is in the logs")
		}
		return nil
	})
	for _, name := range []string{"json", "text"} {
		got["log sink, "+name] = strings.Split(read(name), "\n")
	}
	messages := 0
	if err := syslog.SetReadDeadline(time.Now().Add(within)); err != nil {
		t.Fatal(err)
	}
	for buf := make([]byte, 64<<10); messages < 4*len(formats); {
		n, _, err := syslog.ReadFrom(buf)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.Replace(string(buf[:n]), "\ufeff", "", 1) // the mark that RFC 5424 wants
		name := strings.Fields(text)[3]
		got["syslog, "+name] = append(got["syslog, "+name], text)
		if strings.Contains(text, marker) || strings.Contains(text, "not JSON") {
			messages++
		}
	}
	for _, path := range []string{"/", "/?q=P&all=1", "/metrics", "/api/v1/status", "/-/ready"} {
		_, body := v.Get(t, path)
		got[path] = []string{body}
	}
	if !strings.Contains(got["/"][0], "P\ufffd1") {
		t.Error("the page does not show the partition")
	}
	if !strings.Contains(got["/metrics"][0], `name="P`+"\ufffd1") {
		t.Error("the metrics do not have the partition")
	}
	for flag, out := range tails {
		v.Process.Await(t, within, func() error {
			if publish(); strings.Count(out.Output(), "\n") < 4 {
				return errors.New("not all was printed")
			}
			return nil
		})
		got["tail "+flag] = []string{out.Output()}
	}
	got["log of the daemon"] = []string{v.Process.Output()}
	for where, texts := range got {
		for _, text := range texts {
			if bad := misleading(text); bad != "" {
				t.Errorf("%s: %s", where, bad)
			}
			if strings.HasPrefix(where, "log sink, json") && text != "" {
				var e map[string]any
				if err := json.Unmarshal([]byte(text), &e); err != nil {
					t.Errorf("%s: %v: %s", where, err, text)
				}
			}
		}
		if where != "/-/ready" && len(texts) == 0 {
			t.Errorf("%s: nothing", where)
		}
	}
	if !strings.Contains(read("json"), `\u202eKO`) {
		t.Error("the log sink's JSON has not the value that came")
	}
}
