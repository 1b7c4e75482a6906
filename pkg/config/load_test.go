package config

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

var update = flag.Bool("update", false, "write the .err files of testdata/bad anew; read them before you commit them")

// secretsOfTestdata stand in the files of testdata/bad where secrets belong. No error may show
// them, or a part of them.
var secretsOfTestdata = []string{"correct", "horse", "battery", "staple", "Y29ycmVjdC1ob3JzZQ"}

// Every wrong file has a neighbor with the exact errors it must give: they are part of the
// interface.
func TestBadFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.yaml")
	if err != nil || len(files) < 35 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			c, err := Load(file)
			if err == nil || c != nil {
				t.Fatalf("no error, config %v", c)
			}
			var errs Errors
			if !errors.As(err, &errs) || len(errs) == 0 {
				t.Fatalf("a %T, want Errors", err)
			}
			got := err.Error() + "\n"
			golden := strings.TrimSuffix(file, ".yaml") + ".err"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%swant\n%s", got, want)
			}
			for _, s := range secretsOfTestdata {
				if strings.Contains(got, s) {
					t.Errorf("the error shows a secret (%s):\n%s", s, got)
				}
			}
			for _, e := range errs {
				if e.Line < 1 || e.Msg == "" || filepath.Dir(e.File) != filepath.Dir(file) {
					t.Errorf("incomplete: %+v", e)
				}
			}
		})
	}
	goldens, _ := filepath.Glob("testdata/bad/*.err")
	if len(goldens) != len(files) {
		t.Errorf("%d .err files for %d .yaml files", len(goldens), len(files))
	}
}

func TestGoodFile(t *testing.T) {
	c, err := Load("testdata/good/full.yaml")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	first, second, mfa, known := c.HMCs[0], c.HMCs[1], c.HMCs[2], c.HMCs[3]
	for name, ok := range map[string]bool{
		"hosts":      slices.Equal(first.Hosts, []string{"hmc1.example.com", "10.1.2.3", "2001:db8::1", "fe80::1%eth0"}),
		"password":   first.Password.Expose() == "correct-horse" && first.PasswordFile == filepath.Join(dir, "bad/files/good.secret"),
		"ca":         first.TLS.CAFile == filepath.Join(dir, "bad/files/ca.pem") && first.TLS.ServerName == "hmc.example.com",
		"defaults":   first.OSMessages[0].IncludeRefreshMessages && !first.OSMessages[1].IncludeRefreshMessages && first.OSMessages[1].Partition.Match("X"),
		"stomp":      first.Stomp.ConnectTimeout == 0 && first.Stomp.ConnectRetries == -1 && first.Stomp.HeartbeatSendCycle == 0 && first.Stomp.HeartbeatReceiveCycle == 5*time.Second,
		"merge":      second.Name == "east-2" && slices.Equal(second.Hosts, []string{"hmc2.example.com"}) && second.Userid == "monitor" && len(second.OSMessages) == 2 && second.Group == "east",
		"empty list": len(second.Topics) == 0,
		"session":    mfa.Session.ID.Expose() == "abc" && mfa.Session.Credential.Expose() == "correct-horse" && mfa.Group == "mfa" && mfa.TLS == first.TLS && len(mfa.Topics) == 2,
		"verbatim":   known.Password.Expose() == "12345",
		"no topics":  len(known.Topics) == 0 && len(known.TopicNames) == 2,
		"null log":   c.Sinks[0].Kind() == "log" && c.Sinks[0].Log.Output == OutputStderr,
		"url":        c.Sinks[1].Kind() == "webhook" && c.Sinks[1].Webhook.URL.Expose() == "https://hooks.example.com/correct-horse",
		"key":        len(c.Sinks[1].Webhook.SigningKeys()) == 1 && len(c.Sinks[1].Webhook.SigningKeys()[0]) == 24,
		"unsigned":   (&Webhook{}).SigningKeys() == nil,
		"match":      len(c.Sinks[1].Match) == 2 && c.Sinks[1].Match[0].Class.Match("cpc") && c.Sinks[1].Match[1].Text.Match("oops!") && !c.Sinks[1].Match[1].Type.IsSet(),
		"durations":  c.Sinks[1].Timeout == 90*time.Second && c.Sinks[1].Retry.MaxAge == 168*time.Hour && c.Sinks[1].Queue.MaxAge == (9*24+12)*time.Hour,
		"size":       c.Sinks[1].Queue.MaxBytes == 3<<29,
		"log file":   c.Sinks[2].Log.Output == filepath.Join(dir, "good/events/hmc.log"),
		"no limit":   c.Storage.MaxBytes == 0 && c.Storage.CommitInterval == 20*time.Millisecond,
		"null":       c.Dedup.MaxIDs == 100_000,
		// Keys are text: an id that YAML would take for a number stays as it is written.
		"severity": maps.Equal(c.Severity.Status, SeverityTable{"stopped": "info", "not-operating": "critical"}) &&
			maps.Equal(c.Severity.EventID, SeverityTable{"1941": "warning", "0522": "info"}),
	} {
		if !ok {
			t.Errorf("%s is wrong: %+v", name, c)
		}
	}
}

// What is allowed but probably not meant.
func TestWarnings(t *testing.T) {
	c, err := loadText(t, `
hmcs:
  - name: a
    hosts: [h]
    userid: u
    password: p
    tls: {insecure_skip_verify: true}
    group: g
    hardware_messages: true
  - {name: b, hosts: [x, H], userid: u, password_file: pw, group: b, tls: {ca_file: old.pem}}
  - {name: c, hosts: [h], rest_port: 7000, userid: u, password_file: env}
sinks:
  - name: s
    webhook: {url: "http://hooks.example.com/token"}
    match: [{type: [job-completed, "status-.*", new-type-of-tomorrow, "status-change | os-message"]}, {class: [lpar, partition, "virtual-.*", ccp, "x.*"]}]
    batch: {max_wait: 1s}
    collapse: true
  - {name: local, webhook: {url: "http://[::1]:8080/"}, collapse: false}
dedup: {max_ids: 5}
flood: {window: 6s, min: 10}
heartbeat_interval: 1m
`, "pw", "x", "env", "${HMC_PASSWORD}\n", "old.pem", string(pemOf(t, newCert(t, certOptions{name: "old-ca", notAfter: time.Now().Add(-48 * time.Hour)}).cert)))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"7: hmcs[0].tls.insecure_skip_verify: the server's certificate is not verified: whoever is on the way can read the password and make up events",
		"10: hmcs[1].hosts[1]: H is a host of hmcs[0] as well: its notifications would arrive twice",
		"10: hmcs[1].tls.ca_file: the certificate of old-ca in old.pem expired on " + time.Now().Add(-48*time.Hour).UTC().Format(time.DateOnly),
		"11: hmcs[2].password_file: " + filepath.Join(filepath.Dir(c.File), "env") + " holds a placeholder, and nothing is put in its place: write the secret into it",
		"14: sinks[0].webhook.url: is http: events and their signature travel unencrypted",
		`15: sinks[0].match[0].type[0]: no event of the type "job-completed" is known, did you mean "job-completion"?`,
		`15: sinks[0].match[0].type[3]: "status-change | os-message" matches no type of events that is known`,
		`15: sinks[0].match[1].class[0]: "lpar" matches no class of resources that HMCs are known to have; is logical-partition meant?`,
		`15: sinks[0].match[1].class[3]: "ccp" matches no class of resources that HMCs are known to have; is cpc meant?`,
		`15: sinks[0].match[1].class[4]: "x.*" matches no class of resources that HMCs are known to have`,
		"16: sinks[0].batch.max_wait: has no effect while max_events is 1",
	}
	got := strings.Split(strings.ReplaceAll(c.Warnings.Error(), c.File+":", ""), "\n")
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// What a shell would have replaced, and blanks that an editor has left, are hardly part of a secret.
func TestSecretsThatAreHardlyMeant(t *testing.T) {
	for secret, said := range map[string]string{
		"<%= a %>": "placeholder", "<the password>": "placeholder", "@HMC_PASSWORD@": "placeholder", "op://vault/hmc/password": "placeholder",
		"ENC[AES256_GCM,data:eA==,type:str]": "placeholder", "age-encryption.org/v1": "placeholder", "$ANSIBLE_VAULT;1.1;AES256": "placeholder",
		`"secret"`: "in quotes", "'secret'": "in quotes", "\u200bsecret": "nobody can see", "sec\u00adret": "nobody can see",
		`"`: "", `""`: "", `"a`: "", "<>": "", "<a1>": "", "a@b": "", "@ab@": "", "ENC[": "", "op:": "",
		"$HMC_PASSWORD": "placeholder", "%HMC_PASSWORD%": "placeholder", "${a}": "placeholder", "$(cat a)": "placeholder", "{{ a }}": "placeholder",
		" secret": "ends with a blank", "secret ": "ends with a blank", "\u00a0secret": "ends with a blank",
		"se cret": "", "$ecret": "", "a$HMC_PASSWORD": "", "%d": "", "100%": "", "$A1": "", "%Ab12%": "",
	} {
		for _, key := range []string{fmt.Sprintf("password: %q", secret), "password_file: pw"} {
			c, err := loadText(t, "hmcs: [{name: a, hosts: [h], userid: u, "+key+"}]\nsinks: [{name: s, log: {output: stderr}}]", "pw", secret+"\n")
			text := fmt.Sprint(err)
			if err == nil {
				text = c.Warnings.Error()
			}
			if strings.Contains(text, "hmcs[0].password") != (said != "") || !strings.Contains(text, said) {
				t.Errorf("%s, %q: %s", key, secret, text)
			}
		}
	}
}

// A scheme that is sent in front of a token anyway, an address or a path that somebody was to complete, and a key of
// signatures that there are not here.
func TestWhatIsHardlyMeantOfSinks(t *testing.T) {
	for sink, said := range map[string]string{
		`webhook: {url: "https://h/x", http_config: {authorization: {credentials: "Bearer abc"}}}`:             `authorization.credentials: begins with "Bearer "`,
		`webhook: {url: "https://h/x", http_config: {authorization: {credentials_file: token}}}`:               `authorization.credentials: begins with "Bearer "`,
		`webhook: {url: "https://h/x", http_config: {bearer_token: "bearer abc"}}`:                             `bearer_token: begins with "Bearer "`,
		`webhook: {url: "https://h/x", http_config: {authorization: {type: ApiKey, credentials: "a b"}}}`:      "",
		`webhook: {url: "https://h/x", http_config: {authorization: {type: ApiKey, credentials: "APIkey a"}}}`: `authorization.credentials: begins with "ApiKey "`,
		`webhook: {url: "https://h/x", http_config: {http_headers: {X-A: {secrets: ["Bearer abc"]}}}}`:         "",
		`webhook: {url: "https://h/x", http_config: {authorization: {credentials_file: env}}}`:                 "credentials_file: env holds a placeholder",
		`webhook: {url: "https://h/x", http_config: {basic_auth: {username: a, password_file: quoted}}}`:       "password_file: quoted stands in quotes",
		`splunk: {url: "https://h", token: "Splunk abc"}`:                                                      `splunk.token: begins with "Splunk "`,
		`splunk: {url: "https://h", token_file: hec}`:                                                          `splunk.token: begins with "Splunk "`,
		`webhook: {url: "https://h/${TOKEN}"}`:                                                                 "webhook.url: holds a placeholder",
		`webhook: {url: "https://h/{{ token }}"}`:                                                              "webhook.url: holds a placeholder",
		`otlp: {url: "https://h/${PATH}/v1/logs"}`:                                                             "otlp.url: holds a placeholder",
		`webhook: {url: "https://h/{a}"}`:                                                                      "",
		`webhook: {url: "https://h/x", secret: "whsk_YWJj"}`:                                                   `webhook.secret: begins with "whsk_"`,
		`webhook: {url: "https://h/x", secret: "whpk_YWJj"}`:                                                   `webhook.secret: begins with "whpk_"`,
		`webhook: {url: "https://h/x", secret: "v1a,YWJj"}`:                                                    `webhook.secret: begins with "v1a,"`,
		`log: {output: STDOUT}`:                          "log.output: must be stderr, stdout, or a path as it is",
		`log: {output: ~/events.log}`:                    "log.output: must be stderr, stdout, or a path as it is",
		`log: {output: "$HOME/a.log"}`:                   "log.output: must be stderr, stdout, or a path as it is",
		`log: {output: a~b.log}`:                         "",
		`log: {output: none/b.log}`:                      "log.output: is in a directory that is not there",
		`splunk: {url: "https://h", token_file: none}`:   "splunk.token_file: what it names cannot be read: no such file",
		`splunk: {url: "https://h", token_file: ./none}`: "none cannot be read: no such file",
	} {
		c, err := loadText(t, "hmcs: [{name: a, hosts: [h], userid: u, password: p}]\nsinks: [{name: s, "+sink+"}]",
			"token", "Bearer abc\n", "env", "${TOKEN}\n", "quoted", "'abc'\n", "hec", "splunk abc\n")
		text := strings.ReplaceAll(fmt.Sprint(err), "http_config.", "")
		if err == nil {
			dir := filepath.Dir(c.File) + string(filepath.Separator)
			text = strings.ReplaceAll(strings.ReplaceAll(c.Warnings.Error(), dir, ""), "http_config.", "")
		}
		if strings.Contains(text, "sinks[0]") != (said != "") || !strings.Contains(text, said) {
			t.Errorf("%s: %s", sink, text)
		}
	}
}

// What is well formed and does nothing.
func TestWarningsOfWhatIsUseless(t *testing.T) {
	c, err := loadText(t, `
hmcs:
  - {name: a, hosts: [h], userid: u, password_file: pw, topics: [audit], log_start: 2999-01-01T00:00:00Z}
  - {name: b, hosts: [i], userid: u, password_file: pw, os_messages: [{cpc: P1}]}
  - {name: c, hosts: [j], userid: u, password_file: pw, topic_names: [u.1]}
sinks:
  - name: one
    log: {}
    match:
      - {type: [hardware-message, "bridge-h.*"]}
      - {type: [status-change, os-message, bridge-heartbeat], hmc: a}
      - {text: panic, hmc: a}
      - {user: root, hmc: b}
      - {property: name, hmc: a}
      - {type: job-completion, hmc: c}
      - {status: [not-operatng, stopped, "no-.*", dreaming]}
      - {status: [stopped, not-activated], class: partition}
      - {status: dreaming, class: nic}
      - {event_id: ["0522", "522"]}
    drop: [{type: hardware-message}]
  - {name: two, log: {output: stdout}, match: [{type: os-message, cpc: P1}], drop: [{type: os-message}]}
  - {name: three, log: {output: stdout}, collapse: true, match: [{event_id: "1941"}]}
  - {name: four, log: {output: stdout}, drop: [{hmc: .*}]}
  - {name: five, log: {output: stdout}, match: [{type: os-message, cpc: P1}, {cpc: P2}], drop: [{type: os-message}]}
  - {name: six, alertmanager: {urls: ["http://[::1]:9093"], statuses: [stoped, stopped]}}
rules:
  - {match: [{text: IXC101I}, {name: "TEST.*"}], severity: critical}
  - {match: [{text: IEA}], runbook: "https://wiki/x"}
  - {match: [{text: IEA}], severity: info}
  - {match: [{text: IXC101I, cpc: P1}, {name: TEST1}], labels: {team: x}}
  - include: zos
  - {match: [{text: IEA, hmc: a}, {text: other}], severity: info}
  - {match: [{text: '\bIXC220W\b', type: os-message, cpc: P1}], severity: info}
  - include: own.rules
severity:
  status:
    lpar/not-operating: critical
    ccp/no-power: critical
    cpc/not-activated: info
    cpc/no-powr: critical
    nic/dreaming: info
    adapter/standby: info
    adapter/not-activ: info
    stoped: info
    dreaming: info
    stopped: info
    adapter/not-active: info
  event_id: {"0522": info, "1941": info, "00": info}
`, "pw", "x", "own.rules", "- {match: [{text: IXC101I}], severity: warning}\n- {match: [{type: hardware-message}], severity: info}\n- {match: [{class: [cpc], type: hardware-message}], severity: info}\n")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(c.File)
	want := []string{
		`3: hmcs[0].log_start: is in the future: the entries until then are never told`,
		`10: sinks[0].match[0]: fits only events that its HMCs are not asked for: bridge-heartbeat (set heartbeat_interval), hardware-message (set hardware_messages: true of an HMC)`,
		`11: sinks[0].match[1].type[1]: its HMCs are not asked for os-message events: name partitions under os_messages of an HMC`,
		`11: sinks[0].match[1].type[2]: its HMCs are not asked for bridge-heartbeat events: set heartbeat_interval`,
		`13: sinks[0].match[3]: fits only events that its HMCs are not asked for: log-entry (add audit or security to the topics of an HMC)`,
		`14: sinks[0].match[4]: fits only events that its HMCs are not asked for: property-change (add object to the topics of an HMC)`,
		`16: sinks[0].match[6].status[0]: "not-operatng" matches no status that HMCs are known to have; is not-operating meant?`,
		`16: sinks[0].match[6].status[3]: "dreaming" matches no status that HMCs are known to have`,
		`17: sinks[0].match[7].status[1]: "not-activated" matches statuses of other classes than those that class selects`,
		`19: sinks[0].match[9].event_id[0]: HMCs write ids without zeros in front: is 522 meant?`,
		`21: sinks[1].drop: leaves nothing of what match selects: the sink gets no event`,
		`22: sinks[2].collapse: is of status-change events, which match leaves out`,
		`23: sinks[3].drop: leaves nothing of what match selects: the sink gets no event`,
		`25: sinks[5].alertmanager.statuses[0]: "stoped" matches no status that HMCs are known to have; is stopped meant?`,
		`30: rules[3]: never counts: rules[0] (27) comes first, and fits whatever it fits`,
		`33: rules[6]: never counts: rules[0] (the ready set zos:11) comes first, and fits whatever it fits`,
		`37: severity.status.lpar/not-operating: "lpar" is no class of resources that HMCs are known to have; is logical-partition meant?`,
		`38: severity.status.ccp/no-power: "ccp" is no class of resources that HMCs are known to have; is cpc meant?`,
		`39: severity.status.cpc/not-activated: "not-activated" is no status of the class cpc: known are active, operating, acceptable, exceptions, degraded, service, service-required, not-operating, no-power, not-communicating, status-check`,
		`40: severity.status.cpc/no-powr: "no-powr" is no status that HMCs are known to have; is no-power meant?`,
		`42: severity.status.adapter/standby: "standby" is no status of the class adapter: known are active, not-active, not-detected, exceptions, ` + strings.Join(event.LinkStatuses, ", "),
		`43: severity.status.adapter/not-activ: "not-activ" is no status that HMCs are known to have; is not-active meant?`,
		`44: severity.status.stoped: "stoped" is no status that HMCs are known to have; is stopped meant?`,
		`45: severity.status.dreaming: "dreaming" is no status that HMCs are known to have`,
		`48: severity.event_id.00: HMCs write ids without zeros in front: is 0 meant?`,
		`48: severity.event_id.0522: HMCs write ids without zeros in front: is 522 meant?`,
		`own.rules:1: rules[0]: never counts: rules[0] (27) comes first, and fits whatever it fits`,
		`own.rules:2: rules[1].match[0]: fits only events that its HMCs are not asked for: hardware-message (set hardware_messages: true of an HMC)`,
		`own.rules:3: rules[2]: never counts: rules[1] (own.rules:2) comes first, and fits whatever it fits`,
	}
	got := strings.Split(strings.ReplaceAll(strings.ReplaceAll(c.Warnings.Error(), c.File+":", ""), dir+"/", ""), "\n")
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// A set whose events nobody sends is told of once, and not for each of its rules.
func TestWarningOfASetThatCannotFit(t *testing.T) {
	for sets, want := range map[string]string{
		"zos, linux": "4: rules[0].include: the ready set zos fits only events that no HMC is asked for: os-message (name partitions under os_messages of an HMC)\n" +
			"5: rules[1].include: the ready set linux fits only events that no HMC is asked for: os-message (name partitions under os_messages of an HMC)",
		"hmc": "",
	} {
		text := "hmcs: [{name: a, hosts: [h], userid: u, password: p}]\nsinks: [{name: s, log: {}}]\nrules:\n"
		for set := range strings.SplitSeq(sets, ", ") {
			text += "  - include: " + set + "\n"
		}
		c, err := loadText(t, text)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.ReplaceAll(c.Warnings.Error(), c.File+":", ""); got != want {
			t.Errorf("%s: got\n%s\nwant\n%s", sets, got, want)
		}
	}
}

func TestWarningsOfReadableSecrets(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "c.yaml")
	write := func(name, text string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(dir, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	write("pw", "x\n", 0o644)
	write("pw2", "x\n", 0o640)
	write("c.yaml", `hmcs:
  - {name: a, hosts: [h], userid: u, password_file: pw}
  - {name: b, hosts: [i], userid: u, password_file: pw2}
  - {name: c, hosts: [j], userid: u, password: x}
sinks: [{name: s, log: {}}]`, 0o644)
	c, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	pw := filepath.Join(dir, "pw")
	want := fmt.Sprintf("%s:2: hmcs[0].password_file: %s can be read by every user of this machine: chmod o-r %s\n", path, pw, pw) +
		fmt.Sprintf("%s:4: hmcs[2].password: stands in a file that every user of this machine can read: chmod o-r %s, or use password_file", path, path)
	if c.Warnings.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", c.Warnings, want)
	}
}

func TestLoadUnreadable(t *testing.T) {
	dir := t.TempDir()
	for name, path := range map[string]string{"missing": filepath.Join(dir, "none.yaml"), "directory": dir} {
		t.Run(name, func(t *testing.T) {
			_, err := Load(path)
			var e *Error
			if !errors.As(err, &e) || e.Line != 0 || e.File != path || !strings.HasPrefix(err.Error(), path+": ") {
				t.Fatalf("%#v: %v", err, err)
			}
		})
	}
}

// Lines of errors that no other test knows: windows line ends, errors far from where a collection
// began.
func TestSyntaxLines(t *testing.T) {
	for name, tc := range map[string]struct {
		text string
		line int
	}{
		"crlf":               {"hmcs:\r\n- name: a\r\n  hosts: [a\r\n  b: c\r\n", 3},
		"first line":         {"hmcs: @\n", 1},
		"key in a long list": {"hmcs:\n- name: a\n  hosts:\n  - a\n  - b\n  userid: u\n  password: 'x' y\n  rest_port: 1\n", 7},
		"root mapping":       {"hmcs:\n- name: a\nsinks:\n- name: b\n stray: 1\n", 5},
		"text after the end": {"hmcs: []\n...\nmore", 3},
		"unclosed brace":     {"hmcs:\n- name: a\n  tls: {ca_file: a\n\n", 3},
		"unclosed quote":     {"hmcs:\n- name: 'a\n\n\n", 2},
		"tag handle":         {"hmcs:\n- name: !x!y z\n", 2},
		"alias":              {"hmcs:\n- name: a\n  password: *p\n", 3},
		"nul":                {"hmcs:\n- name: a\n  password: \x00\n", 3},
		"reserved":           {"hmcs:\n- name: a\n  password: `x\n", 3},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := parse("f", []byte(tc.text), 0)
			var errs Errors
			if !errors.As(err, &errs) || len(errs) != 1 || errs[0].Line != tc.line {
				t.Errorf("line %d wanted: %v", tc.line, err)
			}
		})
	}
}

// Two entries are one HMC where they have both services in common; with topic_names they are two
// sets of topics.
func TestSameHosts(t *testing.T) {
	const entry = "  - {name: %s, hosts: [h], userid: u, password: p, stomp_port: %d%s}\n"
	for name, test := range map[string]struct {
		second string
		warns  bool
	}{
		"the same":       {fmt.Sprintf(entry, "b", 61612, ""), true},
		"another broker": {fmt.Sprintf(entry, "b", 61613, ""), false},
		"topic_names":    {fmt.Sprintf(entry, "b", 61612, ", topic_names: [u.1]"), false},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "hmcnotifyd.yaml")
			text := "hmcs:\n" + fmt.Sprintf(entry, "a", 61612, "") + test.second + "sinks:\n  - {name: s, log: {output: stderr}}\n"
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			c, err := Load(path)
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Contains(fmt.Sprint(c.Warnings), "arrive twice"); got != test.warns {
				t.Errorf("warnings: %v", c.Warnings)
			}
		})
	}
}

// TestLogMessageFile reads the form of zhmc-log-forwarder's file, with what it leaves open.
func TestLogMessageFile(t *testing.T) {
	const file = `---
hmc_version: "2.17.0"
messages:
  -
    number: '7001'  # a comment
    message: "User {0} has logged on from location {2}"
    action: authenticate/logon
    outcome: success
    target_type: service
    target_class: console
  -
    number: 7002
    message: "A web services client on {0} did\nsomething"
    action: "TBD:action"
    outcome: failed
    target_type: TBD
    target_class: "TBD:resource"
  - {number: "7003", action: read, outcome: success}
`
	dir := t.TempDir()
	name := filepath.Join(dir, "messages.yml")
	if err := os.WriteFile(name, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	load := func() *Config {
		c, err := loadText(t, "hmcs: [{name: a, hosts: [h], userid: u, password: p}]\nsinks: [{name: s, syslog: {address: 'udp://h:514', format: cadf, log_message_file: '"+name+"'}}]")
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	c := load()
	want := []LogMessage{
		{"7001", "authenticate/logon", "success", "service", "console", 2},
		{"7002", "unknown", "failed", "unknown", "unknown", 0},
		{"7003", "read", "success", "", "", -1},
	}
	if got := c.Sinks[0].Syslog.LogMessages; !slices.Equal(got, want) {
		t.Errorf("got %+v", got)
	}
	if err := os.WriteFile(name, []byte(strings.Replace(file, "7003", "7004", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if changed := load(); changed.Sinks[0].Equal(&c.Sinks[0]) {
		t.Error("a file that has changed is no change of the sink")
	}
}
