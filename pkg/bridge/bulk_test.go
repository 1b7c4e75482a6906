package bridge

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/check"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/deliver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/replay"
	"github.com/hmcnotifyd/hmcnotifyd/tests/elastic"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hec"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
)

// A credential of a sink whose requests have many events is revoked, and mended.
func TestCredentialOfABulkSinkRevoked(t *testing.T) {
	t.Parallel()
	for name, far := range map[string]func(t *testing.T, dir string) guarded{
		"splunk": guardedSplunk, "splunk, acknowledged": acknowledgedSplunk, "elasticsearch": guardedElasticsearch,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			credentialRevoked(t, far)
		})
	}
}

func guardedSplunk(t *testing.T, dir string) guarded {
	return splunkWithAToken(t, dir, hec.New(hec.Settings{Token: "t0ken-1"}), "")
}

func acknowledgedSplunk(t *testing.T, dir string) guarded {
	return splunkWithAToken(t, dir, hec.New(hec.Settings{Token: "t0ken-1", Acknowledge: true, Lag: 1}), ", acknowledge: true")
}

func splunkWithAToken(t *testing.T, dir string, c *hec.Server, more string) guarded {
	server := httptest.NewServer(c)
	t.Cleanup(server.Close)
	path := filepath.Join(dir, "token")
	renew(t, path, "t0ken-1")
	return guarded{
		yaml:   fmt.Sprintf(`splunk: {url: %q, token_file: token%s}, batch: {max_events: 100, max_wait: 10ms}`, server.URL, more),
		revoke: func() { c.Change(func(s *hec.Settings) { s.Token = "t0ken-2" }) },
		mend:   func() { renew(t, path, "t0ken-2") },
		got:    func() []*event.Event { return splunkEvents(t, c) },
	}
}

func splunkEvents(t *testing.T, c *hec.Server) (events []*event.Event) {
	for _, e := range c.Events() {
		events = append(events, decoded(t, e.Event))
	}
	return events
}

func guardedElasticsearch(t *testing.T, dir string) guarded {
	c := elastic.New(elastic.Settings{APIKey: "a2V5LTE="})
	server := httptest.NewServer(c)
	t.Cleanup(server.Close)
	path := filepath.Join(dir, "key")
	renew(t, path, "a2V5LTE=")
	return guarded{
		yaml: fmt.Sprintf(`elasticsearch: {url: %q, http_config: {authorization: {type: ApiKey, credentials_file: key}}}, `+
			`batch: {max_events: 100, max_wait: 10ms}`, server.URL),
		revoke: func() { c.Change(func(s *elastic.Settings) { s.APIKey = "a2V5LTI=" }) },
		mend:   func() { renew(t, path, "a2V5LTI=") },
		got:    func() []*event.Event { return elasticEvents(t, c) },
	}
}

func elasticEvents(t *testing.T, c *elastic.Server) (events []*event.Event) {
	for _, d := range c.Documents() {
		var document struct {
			Event struct {
				Original string `json:"original"`
			} `json:"event"`
		}
		if err := json.Unmarshal(d.Source, &document); err != nil {
			t.Errorf("%v: %s", err, d.Source)
		}
		events = append(events, decoded(t, []byte(document.Event.Original)))
	}
	return events
}

// Of a hundred events one is refused: it alone is a dead letter, with the reason; the others have arrived once, in their order.
func TestOneEventOfABulkIsRefused(t *testing.T) {
	t.Parallel()
	const bad = 33
	isBad := func(text []byte) bool { return strings.Contains(string(text), `"name":"BAD"`) }
	collector := hec.New(hec.Settings{Token: "t0ken", Invalid: func(e hec.Event) bool { return isBad(e.Event) }})
	cluster := elastic.New(elastic.Settings{Refuse: func(d elastic.Document) bool { return isBad(d.Source) }})
	one, two := httptest.NewServer(collector), httptest.NewServer(cluster)
	t.Cleanup(one.Close)
	t.Cleanup(two.Close)

	sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
	d := &daemon{t: t, dir: t.TempDir(), consumer: newConsumer(t), timing: testTiming()}
	d.start(load(t, d.dir, "hmcs:\n"+hmcYAML(t, "a", sim)+fmt.Sprintf(`
sinks:
  - {name: splunk, splunk: {url: %q, token: t0ken}, drop: [{type: ["bridge-.*"]}]}
  - {name: search, elasticsearch: {url: %q}, drop: [{type: ["bridge-.*"]}]}
`, one.URL, two.URL)))
	d.connected("a")
	for i := range 100 {
		name := "P" + strconv.Itoa(i%6)
		if i == bad {
			name = "BAD"
		}
		publish(sim, name, strconv.Itoa(i))
	}
	for name, want := range map[string]struct {
		reason string
		got    func() []*event.Event
	}{
		"splunk": {"Invalid data format", func() []*event.Event { return splunkEvents(t, collector) }},
		"search": {"document_parsing_exception", func() []*event.Event { return elasticEvents(t, cluster) }},
	} {
		d.eventually(name+" is done", func() bool {
			s := d.sink(name)
			return s.QueueEvents == 0 && s.Delivered == 99 && s.DeadLetters == 1
		})
		letters := d.letters(replay.DeadLetterFilter{Sink: name})
		if len(letters) != 1 || letters[0].Status != 400 || !strings.Contains(letters[0].Reason, want.reason) {
			t.Errorf("%s: %+v", name, letters)
		}
		total := 0
		for partition, list := range marks(want.got()) {
			total += len(list)
			last := -1
			for _, mark := range list {
				n, err := strconv.Atoi(mark)
				if err != nil || n <= last || n == bad {
					t.Errorf("%s: %s: %s after %d", name, partition, mark, last)
				}
				last = n
			}
		}
		if total != 99 {
			t.Errorf("%s: %d events have arrived", name, total)
		}
	}
}

// A check with --online and a test event say whether such a sink works, and what to do if not.
func TestBulkSinksAreTried(t *testing.T) {
	t.Parallel()
	collector := hec.New(hec.Settings{Token: "t0ken"})
	cluster := elastic.New(elastic.Settings{APIKey: "a2V5"})
	one, two := httptest.NewServer(collector), httptest.NewServer(cluster)
	t.Cleanup(one.Close)
	t.Cleanup(two.Close)
	sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
	d := &daemon{t: t, dir: t.TempDir(), consumer: newConsumer(t), timing: testTiming()}
	cfg := load(t, d.dir, "hmcs:\n"+hmcYAML(t, "a", sim)+fmt.Sprintf(`
sinks:
  - {name: splunk, splunk: {url: %[1]q, token: t0ken}, match: [{type: ipl}]}
  - {name: token, splunk: {url: %[1]q, token: another}, match: [{type: ipl}]}
  - {name: search, elasticsearch: {url: %[2]q, http_config: {authorization: {type: ApiKey, credentials: a2V5}}}, match: [{type: ipl}]}
  - {name: key, elasticsearch: {url: %[2]q}, match: [{type: ipl}]}
`, one.URL, two.URL))
	var said strings.Builder
	err := check.Run(t.Context(), check.Options{Config: cfg, Version: "test", Out: &said})
	for _, want := range []string{
		"can be reached (POST " + one.URL + "/services/collector/event; no event was sent)",
		"can be reached (POST " + two.URL + "/logs-hmc-default/_bulk; no event was sent)",
	} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("%q is not in\n%s", want, &said)
		}
	}
	for _, want := range []string{"sink token: ", "Invalid token", "(what to do: the consumer does not accept who sends it: check splunk.token", "sink key: ", "check the credentials in elasticsearch.http_config"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
	if n, _, _ := collector.Counts(); n != 0 {
		t.Errorf("%d events", n)
	}

	d.start(cfg)
	d.connected("a")
	for name, outcome := range map[string]string{
		"splunk": deliver.TestDelivered, "search": deliver.TestDelivered, "token": deliver.TestFailed, "key": deliver.TestFailed,
	} {
		if s := d.test(name)[1]; s.Outcome != outcome || (s.Do == "") != (outcome == deliver.TestDelivered) {
			t.Errorf("%s: %+v", name, s)
		}
	}
	for name, got := range map[string][]*event.Event{"splunk": splunkEvents(t, collector), "search": elasticEvents(t, cluster)} {
		if len(got) != 1 || got[0].Type != event.TypeBridgeTest {
			t.Errorf("%s has %+v", name, got)
		}
	}
}
