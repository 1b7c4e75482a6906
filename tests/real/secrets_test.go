//go:build real

package realtest_test

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/consumer"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/daemon"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/program"
)

// secrets collects what must not appear, and all that was printed.
type secrets struct {
	values  map[string]string // by what it is
	outputs map[string]string // by where it was printed
}

// add makes up a secret, or notes one that something else made up.
func (s *secrets) add(what, value string) string {
	s.values[what] = value
	return value
}

// check looks for each secret as it is and in the forms that a log, a URL, a
// page or a header could give it.
func (s *secrets) check(t *testing.T) {
	t.Helper()
	for what, value := range s.values {
		quoted, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		forms := []string{
			value, strings.Trim(string(quoted), `"`), url.QueryEscape(value), url.PathEscape(value),
			strings.ReplaceAll(value, ":", `\c`), base64.StdEncoding.EncodeToString([]byte(value)),
		}
		for where, output := range s.outputs {
			for _, form := range forms {
				if at := strings.Index(output, form); at >= 0 {
					t.Errorf("%s shows %s: %q", where, what, output[max(0, at-200):min(len(output), at+len(form)+50)])
					break
				}
			}
		}
	}
}

// TestNoSecretIsShown takes the daemon through what makes programs talk: good
// and refused logons, lost links and sessions, failing webhooks, wrong
// configurations; all at log level debug. Nothing it prints may hold a secret.
func TestNoSecretIsShown(t *testing.T) {
	t.Parallel()
	s := &secrets{values: map[string]string{}, outputs: map[string]string{}}
	// A colon and a backslash are escaped differently in each protocol.
	password := s.add("the password", `p:`+rand.Text()+`\x"y`)
	wrong := s.add("the wrong password", "w:"+rand.Text())

	good, goodEntry := simulate(t, "good", hmcsim.Options{Rate: 20, Userid: "hmcuser", Password: password})
	_, refusedEntry := simulate(t, "refused", hmcsim.Options{Userid: "hmcuser", Password: password})
	shared, sharedEntry := simulate(t, "shared", hmcsim.Options{Rate: 5, Userid: "hmcuser", Password: password})
	session, err := shared.NewSession("hmcuser")
	if err != nil {
		t.Fatal(err)
	}
	s.add("the session id", session.SessionID)
	s.add("the session credential", session.Credential)

	hook := consumer.Start(t)
	token := s.add("the token in the webhook's URL", rand.Text())
	key := base64.StdEncoding.EncodeToString([]byte(rand.Text()))
	s.add("the webhook's signing secret", key)
	nobody := program.FreePort(t)

	yaml := "hmcs:\n" +
		strings.Replace(goodEntry, "password: hmcpass", "password_file: good.password", 1) +
		strings.Replace(refusedEntry, "password: hmcpass", fmt.Sprintf("password: %q", wrong), 1) +
		strings.Replace(sharedEntry, "userid: hmcuser, password: hmcpass",
			fmt.Sprintf("session: {id: %q, credential: %q}", session.SessionID, session.Credential), 1) +
		"sinks:\n" +
		fmt.Sprintf("- {name: hook, webhook: {url: %q, secret_file: hook.secret}}\n", hook.URL+"/"+token) +
		fmt.Sprintf("- {name: dead, webhook: {url: %q, secret: %q}, retry: {initial: 100ms, max: 1s}}\n",
			fmt.Sprintf("http://127.0.0.1:%d/%s?token=%s", nobody, token, token), "whsec_"+key) +
		"- {name: out, log: {output: stdout}}\n"
	d := daemon.Start(t, daemon.Options{
		Config: yaml,
		Files:  map[string]string{"good.password": password + "\n", "hook.secret": "whsec_" + key + "\n"},
		Flags:  []string{"--log.level=debug"},
	})
	hook.Await(t, 5*time.Minute, 20)
	d.AwaitMetric(t, 5*time.Minute, 1, "hmcnotifyd_receiver_state", "hmc", "refused", "state", "auth_failed")
	d.AwaitMetric(t, 5*time.Minute, 1, "hmcnotifyd_receiver_connected", "hmc", "shared")
	// The sessions that the daemon made are secrets too.
	pages := func(when string) {
		for _, info := range good.SessionInfos() {
			s.add(fmt.Sprintf("the id of session %d", info.Nr), info.SessionID)
			s.add(fmt.Sprintf("the credential of session %d", info.Nr), info.Credential)
		}
		for _, page := range []string{"/", "/metrics", "/-/ready", "/-/healthy", "/api/v1/status"} {
			_, body := d.Get(t, page)
			s.outputs[page+" "+when] = body
		}
	}
	pages("at first")

	// A refused webhook whose answer repeats what it was sent, as some do.
	hook.Answer(func(consumer.Request) int { return 400 })
	good.ExpireSessions(true)
	if err := shared.Restart(time.Second); err != nil {
		t.Fatal(err)
	}
	d.AwaitMetric(t, 5*time.Minute, 1, "hmcnotifyd_receiver_reconnects_total", "hmc", "good")
	pages("after a loss")
	hook.Answer(nil)

	for name, text := range map[string]string{
		"a secret as a key":     strings.Replace(yaml, "password:", password[:2]+"password:", 1),
		"a key twice":           strings.Replace(yaml, "userid: hmcuser,", "userid: hmcuser, userid: hmcuser,", 1),
		"no YAML":               yaml + "\t: {",
		"a password of a list":  strings.Replace(yaml, fmt.Sprintf("password: %q", wrong), fmt.Sprintf("password: [%q]", wrong), 1),
		"a URL of another kind": strings.Replace(yaml, "http://127.0.0.1", "ftp://user:"+token+"@127.0.0.1", 1),
		"a URL that is none":    strings.Replace(yaml, "http://127.0.0.1", "http://127.0.0.1:x%zz", 1),
	} {
		d.WriteConfig(t, text)
		status, body := d.Reload(t)
		if status == 200 {
			t.Errorf("%s: reloaded", name)
		}
		s.outputs["/-/reload of "+name] = body
		out, exit := daemon.Run(t, 5*time.Minute, "check-config", d.Dir+"/hmcnotifyd.yaml")
		if exit != 1 {
			t.Errorf("check-config of %s: exit status %d", name, exit)
		}
		s.outputs["check-config of "+name] = out
	}
	d.WriteConfig(t, yaml)
	d.Hangup(t)
	s.outputs["check-config --online"], _ = daemon.Run(t, 2*time.Minute, "check-config", "--online", d.Dir+"/hmcnotifyd.yaml")
	pages("at last")
	d.Stop(t)
	s.outputs["the log and the events"] = d.Process.Output()

	// Where nothing is said, nothing is shown.
	for where, said := range map[string]string{
		"/ at last": "refused", "/api/v1/status at last": "auth_failed", "/-/ready at first": "refused", "/metrics at last": "hmcnotifyd_receiver_state",
		"the log and the events": `"level":"debug"`, "check-config of a key twice": "userid", "check-config --online": "shared",
	} {
		if !strings.Contains(s.outputs[where], said) {
			t.Errorf("%s does not say %q: %.500s", where, said, s.outputs[where])
		}
	}
	s.check(t)
}
