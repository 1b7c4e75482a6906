package sinks

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/render"
)

// recipe returns the configuration under a heading of docs/recipes.md.
func recipe(t *testing.T, heading string) string {
	t.Helper()
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "recipes.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, text, ok := strings.Cut(string(doc), "\n## "+heading+"\n")
	if !ok {
		t.Fatalf("docs/recipes.md has no %s", heading)
	}
	text, _, _ = strings.Cut(text, "\n## ")
	m := yamlBlock.FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("%s has no configuration", heading)
	}
	return m[2]
}

// recipeAddress is where a recipe sends events.
var recipeAddress = regexp.MustCompile(`\b(?:https?|tcp|tls)://[^\s"']+`)

// TestRecipes sends every sample by the configurations of docs/recipes.md, as they stand there but for address, certificates and
// passwords, and reads what arrives as the receiver's documentation says.
func TestRecipes(t *testing.T) {
	t.Parallel()
	for heading, check := range map[string]func(*testing.T, []byte, *event.Event){
		"Netcool/OMNIbus":             checkNetcool,
		"Grafana Loki":                checkLoki,
		"ServiceNow Event Management": checkServiceNow,
		"QRadar":                      readBy(parseLEEF),
		"Microsoft Sentinel":          readBy(parseCEF),
	} {
		t.Run(heading, func(t *testing.T) {
			t.Parallel()
			requests := make(chan request, 1)
			server := consumer(t, requests)
			text, address := recipe(t, heading), server.URL
			var logs *syslogServer
			if strings.Contains(text, "syslog:") {
				framing := config.FramingOctetCounting
				if strings.Contains(text, "framing: lf") {
					framing = config.FramingLF
				}
				logs = newSyslogServer(t, "tcp", framing)
				address = logs.address
			}
			dir := t.TempDir()
			text = recipeAddress.ReplaceAllString(text, address)
			text = regexp.MustCompile(`(?m)^ +tls: .*\n`).ReplaceAllString(text, "")
			write := func(name, content string) {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			for _, m := range namesFile.FindAllStringSubmatch(text, -1) {
				if strings.HasSuffix(m[1], ".tmpl") {
					write(m[1], ready(t, m[1]))
				} else {
					write(m[1], "secret\n")
				}
			}
			write("c.yaml", text+"hmcs: [{name: hmc-east, hosts: [hmc1.example.com], userid: monitor, password: secret}]\n")
			cfg, err := config.Load(filepath.Join(dir, "c.yaml"))
			if err != nil {
				t.Fatalf("%v\n%s", err, text)
			}
			s, err := New(cfg.Sinks[0], Options{Version: "v1.2.3"})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = s.Close() }()
			for i, sample := range render.Samples() {
				e, err := sample.Record.Event()
				if err != nil {
					t.Fatal(err)
				}
				if err := s.Send(t.Context(), []event.Record{sample.Record}); err != nil {
					t.Fatal(err)
				}
				if logs == nil {
					got := <-requests
					body, err := readBody(got.http(t))
					if err != nil {
						t.Fatal(err)
					}
					check(t, body, e)
					continue
				}
				eventually(t, "the event has arrived", func() bool { return len(logs.received()) > i })
				check(t, []byte(logs.received()[i].text()), e)
			}
		})
	}
}

// readBy checks that a parser finds the id of the event in a message.
func readBy(parse func(string) (siemMessage, error)) func(*testing.T, []byte, *event.Event) {
	return func(t *testing.T, body []byte, e *event.Event) {
		m, err := parse(string(body))
		if err == nil && m.attributes["id"]+m.attributes["externalId"] != e.ID {
			err = errors.New("another event")
		}
		if err != nil {
			t.Errorf("%v\n%s", err, body)
		}
	}
}
