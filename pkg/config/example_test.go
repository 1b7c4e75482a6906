package config

import (
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	promconfig "github.com/prometheus/common/config"
	"gopkg.in/yaml.v3"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/match"
)

const exampleFile = "../../config.example.yaml"

// alternative is a line of the example that shows a key which is not set: "#key: value", and
// "#  key: value" below it. Prose begins with "# ".
var alternative = regexp.MustCompile(`(?m)^( *)#((?:  +)?(?:- )?\{?[a-z0-9_]+:.*)$`)

// schema lists the path of every key: hmcs.tls.ca_file.
func schema(t reflect.Type, prefix string, into map[string]bool) {
	for _, key := range keysOf(t) {
		field := t.FieldByIndex(indexOf(t, key)).Type
		into[prefix+key] = true
		for field.Kind() == reflect.Pointer || field.Kind() == reflect.Slice {
			field = field.Elem()
		}
		if field == reflect.TypeFor[HTTPConfig]() {
			field = reflect.TypeFor[promconfig.HTTPClientConfig]()
		}
		if field.Kind() == reflect.Struct && !slices.Contains([]reflect.Type{
			reflect.TypeFor[Secret](), reflect.TypeFor[URL](), reflect.TypeFor[match.Pattern](), reflect.TypeFor[regexp.Regexp](), reflect.TypeFor[promconfig.URL](),
		}, field) {
			schema(field, prefix+key+".", into)
		}
	}
}

// keysIn lists the path of every key in a file.
func keysIn(n *yaml.Node, prefix string, into map[string]bool) {
	switch n.Kind {
	case yaml.DocumentNode, yaml.SequenceNode:
		for _, c := range n.Content {
			keysIn(c, prefix, into)
		}
	case yaml.MappingNode:
		for i := 0; i < len(n.Content); i += 2 {
			into[prefix+n.Content[i].Value] = true
			keysIn(n.Content[i+1], prefix+n.Content[i].Value+".", into)
		}
	}
}

func parseKeys(t *testing.T, text string) map[string]bool {
	t.Helper()
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
		t.Fatal(err)
	}
	keys := map[string]bool{}
	keysIn(&doc, "", keys)
	return keys
}

// loadText loads a configuration from a new directory, with the other files it names.
func loadText(t *testing.T, text string, files ...string) (*Config, error) {
	t.Helper()
	dir := t.TempDir()
	files = append(files, "hec.token", "t0ken\n") // which the example names
	for i := 0; i < len(files); i += 2 {
		if err := os.WriteFile(filepath.Join(dir, files[i]), []byte(files[i+1]), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "hmcnotifyd.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load(path)
}

func TestExampleShowsEveryKeyWithItsDefault(t *testing.T) {
	data, err := os.ReadFile(exampleFile)
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	const password = "hmc-east.password"

	want := map[string]bool{}
	schema(reflect.TypeFor[Config](), "", want)
	// The value [] of match and drop makes room for their examples.
	all := parseKeys(t, alternative.ReplaceAllString(regexp.MustCompile(`(?m)^ *(match|drop|rules): \[\]\n`).ReplaceAllString(text, ""), "$1$2"))
	// "drop" takes the same keys as "match", which shows them, and each http_config those of
	// the first one.
	for key := range want {
		for same, shown := range map[string]string{
			"sinks.drop.": "sinks.match.", "rules.match.": "sinks.match.", "sinks.alertmanager.http_config.": "sinks.webhook.http_config.",
			"sinks.splunk.http_config.": "sinks.webhook.http_config.", "sinks.otlp.http_config.": "sinks.webhook.http_config.",
			"sinks.elasticsearch.http_config.": "sinks.webhook.http_config.",
		} {
			if rest, ok := strings.CutPrefix(key, same); ok && all[shown+rest] {
				all[key] = true
			}
		}
	}
	if missing := subtract(want, all); len(missing) > 0 {
		t.Errorf("config.example.yaml does not show %q", missing)
	}
	// Below these the keys are names of whatever somebody sends.
	names := regexp.MustCompile(`\.(http_headers|proxy_connect_header|endpoint_params|claims|labels|label)\.`)
	maps.DeleteFunc(all, func(key string, _ bool) bool { return names.MatchString(key) })
	if extra := subtract(all, want); len(extra) > 0 {
		t.Errorf("config.example.yaml shows %q, which the schema does not have", extra)
	}

	// What is set is either required, or the default: leaving it out gives the same.
	example, err := loadText(t, text, password, "pw\n")
	if err != nil {
		t.Fatalf("the example is not valid:\n%v", err)
	}
	if len(example.Warnings) > 0 {
		t.Errorf("the example has warnings:\n%v", example.Warnings)
	}
	minimal, err := loadText(t, `
hmcs: [{name: hmc-east, hosts: [hmc1.example.com], userid: monitor, password_file: hmc-east.password}]
sinks: [{name: ops, webhook: {url: https://hooks.example.com/hmc}}, {name: journal, log: {}},
  {name: alerts, alertmanager: {urls: ["http://alertmanager.example.com:9093"]}},
  {name: stream, nats: {servers: [nats://nats1.example.com:4222]}}, {name: topic, kafka: {brokers: [kafka1.example.com:9092]}},
  {name: siem, syslog: {address: tls://syslog.example.com:6514}},
  {name: collector, otlp: {url: "https://collector.example.com:4318/v1/logs"}},
  {name: indexer, splunk: {url: "https://splunk.example.com:8088", token_file: hec.token}},
  {name: search, elasticsearch: {url: "https://es.example.com:9200"}}]
`, password, "pw\n")
	if err != nil {
		t.Fatal(err)
	}
	minimal.HMCs[0].PasswordFile = example.HMCs[0].PasswordFile // another directory
	minimal.Sinks[7].Splunk.TokenFile = example.Sinks[7].Splunk.TokenFile
	if !equal(example, minimal) {
		t.Errorf("the example differs from the defaults:\n%+v\n%+v", example, minimal)
	}

	// What is not set is either of the kind that has no default, or an entry of a list.
	free := regexp.MustCompile(`^hmcs\.(password|topic_names|session|os_messages)(\..*)?$|^sinks\.webhook\.(url_file|secret|secret_file|secrets|secret_files|template|template_file)$|^sinks\.webhook\.http_config\.(basic_auth|authorization|bearer_token|bearer_token_file|oauth2|http_headers|proxy_url|no_proxy|proxy_connect_header)(\..*)?$|^sinks\.webhook\.http_config\.tls_config\.(ca|cert|key|cert_file|key_file|min_version|max_version)$|^sinks\.(splunk|elasticsearch)\.(token|index|http_config\..*)$|^sinks\.alertmanager\.statuses$|^sinks\.(alertmanager|otlp)\.http_config\..*$|^(sinks\.(match|drop)|rules)\..*$|^sinks\.(nats|kafka)\.(credentials_file|nkey_file|userid|password|password_file|token|token_file|sasl|tls)(\..*)?$|^storage\.jetstream(\..*)?$|^sinks\.syslog\.(log_message_file|tls\.(cert_file|key_file))$`)
	for key := range all {
		if set := parseKeys(t, text)[key]; set == free.MatchString(key) {
			t.Errorf("%s: set in the example: %v", key, set)
		}
	}
}

// The examples of TLS and of ways to log on to NATS and Kafka, uncommented: what they show of TLS
// are its defaults.
func TestExampleStreams(t *testing.T) {
	data, err := os.ReadFile(exampleFile)
	if err != nil {
		t.Fatal(err)
	}
	_, text, found := strings.Cut(string(data), "\n  - name: stream ")
	if !found {
		t.Fatal("no sink stream")
	}
	text, _, _ = strings.Cut(text, "\nstorage:")
	text = regexp.MustCompile(`(?m)^( *)#((userid|password_file|tls|sasl):|  (mechanism|userid|password_file): |tls: \{).*$`).
		ReplaceAllStringFunc("\n  - name: stream "+text, func(line string) string { return strings.Replace(line, "#", "", 1) })
	c, err := loadText(t, "hmcs: [{name: a, hosts: [h], userid: u, password: p}]\nsinks:"+text, "nats.password", "correct-horse\n", "kafka.password", "battery\n")
	if err != nil {
		t.Fatal(err)
	}
	n, k := c.Sinks[0].NATS, c.Sinks[1].Kafka
	if n.Userid == "" || n.Password.Expose() != "correct-horse" || *n.TLS != (TLS{where: "tls"}) {
		t.Errorf("nats: %+v", n)
	}
	if k.SASL.Userid == "" || k.SASL.Password.Expose() != "battery" || k.SASL.Mechanism != SASLScramSHA512 || *k.TLS != (TLS{where: "tls"}) {
		t.Errorf("kafka: %+v", k)
	}
}

// The entry of os_messages in the example shows the defaults of an entry.
func TestExampleOSMessages(t *testing.T) {
	data, err := os.ReadFile(exampleFile)
	if err != nil {
		t.Fatal(err)
	}
	text := regexp.MustCompile(`(?m)^( *)#(os_messages:|  - \{cpc: .*)$`).ReplaceAllString(string(data), "$1$2")
	example, err := loadText(t, text, "hmc-east.password", "pw")
	if err != nil {
		t.Fatal(err)
	}
	var blank OSMessages
	blank.setDefaults()
	if len(example.HMCs[0].OSMessages) != 1 || !equal(&example.HMCs[0].OSMessages[0], &blank) {
		t.Errorf("the example has %v, the default is %v", example.HMCs[0].OSMessages, blank)
	}
}

// The examples of match, uncommented, select what they say.
func TestExampleMatch(t *testing.T) {
	data, err := os.ReadFile(exampleFile)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer("    match: []\n", "", "    drop: []\n", "").Replace(string(data))
	lines := strings.Split(text, "\n")
	in := false
	for i, l := range lines {
		if strings.HasPrefix(l, "    #match:") {
			in = true
		} else if !strings.HasPrefix(l, "    #") {
			in = false
		}
		if in {
			lines[i] = strings.Replace(l, "#", "", 1)
		}
	}
	c, err := loadText(t, strings.Join(lines, "\n"), "hmc-east.password", "pw")
	if err != nil {
		t.Fatal(err)
	}
	m := c.Sinks[0].Match
	if len(m) != 8 {
		t.Fatalf("%d matchers, want 8", len(m))
	}
	if !m[0].CPC.Match("CPC17") || m[0].CPC.Match("xCPC17") || m[0].CPC.Match("CPC") {
		t.Error("cpc is not anchored")
	}
	if !m[3].Text.Match("end Kernel PANIC - not syncing") {
		t.Error("text does not find what is within a line")
	}
	if !m[2].EventID.Match("1942") || m[2].EventID.Match("19421") {
		t.Error("event_id is not exact")
	}
}

// The names of interface.md's configuration, in the order of the page. A key may be added, none may
// go.
func TestSchemaNames(t *testing.T) {
	have := map[string]bool{}
	schema(reflect.TypeFor[Config](), "", have)
	for key := range strings.FieldsSeq(`
		hmcs hmcs.name hmcs.hosts hmcs.rest_port hmcs.stomp_port hmcs.userid hmcs.password hmcs.password_file
		hmcs.tls.ca_file hmcs.tls.server_name hmcs.tls.insecure_skip_verify hmcs.topics
		hmcs.os_messages.cpc hmcs.os_messages.partition hmcs.os_messages.include_refresh_messages
		hmcs.topic_names hmcs.session.id hmcs.session.credential_file hmcs.hardware_messages hmcs.group
		hmcs.rest_requests_per_minute hmcs.log_start hmcs.stomp.connect_timeout hmcs.stomp.connect_retries
		hmcs.stomp.reconnect_sleep_initial hmcs.stomp.reconnect_sleep_increase hmcs.stomp.reconnect_sleep_max
		hmcs.stomp.reconnect_sleep_jitter hmcs.stomp.keepalive hmcs.stomp.heartbeat_send_cycle
		hmcs.stomp.heartbeat_receive_cycle hmcs.stomp.heartbeat_receive_check
		sinks sinks.name sinks.webhook.url sinks.webhook.format sinks.webhook.secret_file sinks.match.type
		sinks.match.class sinks.match.text sinks.drop.name sinks.timeout sinks.concurrency sinks.batch.max_events
		sinks.batch.max_wait sinks.retry.initial sinks.retry.max sinks.retry.max_age sinks.queue.max_bytes
		sinks.queue.max_age sinks.collapse sinks.log.output storage.commit_interval storage.max_bytes
		dedup.window dedup.max_ids flood.window flood.min estate.max_resources heartbeat_interval`) {
		if !have[key] {
			t.Errorf("the schema has no %s", key)
		}
	}
}

// Every default of the interface, as numbers.
func TestDefaults(t *testing.T) {
	c, err := loadText(t, "hmcs: [{name: a, hosts: [h], userid: u, password: p, os_messages: [{}]}]\nsinks: [{name: s, webhook: {url: https://h}}]")
	if err != nil {
		t.Fatal(err)
	}
	h, s := c.HMCs[0], c.Sinks[0]
	for name, ok := range map[string]bool{
		"ports":       h.RESTPort == 6794 && h.StompPort == 61612,
		"topics":      slices.Equal(h.Topics, []string{"object", "job"}),
		"os messages": h.OSMessages[0].CPC.Match("any\nthing") && h.OSMessages[0].Partition.Match("") && h.OSMessages[0].IncludeRefreshMessages,
		"group":       h.Group == "a",
		"budget":      h.RESTRequestsPerMinute == 60,
		"tls":         h.TLS == TLS{},
		"sink":        s.Timeout == 10*time.Second && s.Concurrency == 4 && s.Batch == Batch{MaxEvents: 1} && s.Webhook.Format == FormatJSON,
		"retry":       s.Retry == Retry{Initial: time.Second, Max: time.Minute, MaxAge: 24 * time.Hour},
		"queue":       s.Queue == Queue{MaxBytes: 1 << 30, MaxAge: 168 * time.Hour},
		"storage":     c.Storage == Storage{MaxBytes: 10 << 30, DeadLettersMaxBytes: 1 << 30},
		"dedup":       c.Dedup == Dedup{Window: 10 * time.Minute, MaxIDs: 100_000},
		"flood":       c.Flood == Flood{Window: 5 * time.Second, Min: 10},
		"estate":      c.Estate == Estate{MaxResources: 10_000},
		"heartbeat":   c.HeartbeatInterval == 0,
	} {
		if !ok {
			t.Errorf("%s: not the default of the interface:\n%+v", name, c)
		}
	}
}

func subtract(a, b map[string]bool) []string {
	var rest []string
	for _, k := range slices.Sorted(maps.Keys(a)) {
		if !b[k] {
			rest = append(rest, k)
		}
	}
	return rest
}
