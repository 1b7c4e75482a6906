package hostile_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/daemon"
	"github.com/hmcnotifyd/hmcnotifyd/tests/soak"
)

// An HMC, and the broker in it, repeat the password, the session's id and its credential in all their errors, in every form: none
// of them is in the log, the status, the metrics, on the page, in an event or in what is stored. The link uses the session: the
// password is one that the broker was never sent.
func TestRepeatedSecrets(t *testing.T) {
	soak.Parallel(t)
	const password = `p&ss"<w%rd>'+/1`
	sim := hmctest.Start(t, hmcsim.Options{Name: "east", Userid: hmcsim.DefaultUserid, Password: password})
	quoted, err := json.Marshal(password)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "events.log")
	config := strings.ReplaceAll("hmcs:\n"+hmctest.Entry(t, sim, ""), "password: "+hmcsim.DefaultPassword, "password: "+string(quoted)) +
		fmt.Sprintf("sinks:\n- {name: file, log: {output: %q}}\n", file)
	v := start(t, daemon.Options{Config: config, Flags: []string{"--log.level=debug"}})
	v.AwaitReady(t, within)
	forms := func(secret string) map[string]string {
		inJSON, err := json.Marshal(secret)
		if err != nil {
			t.Fatal(err)
		}
		return map[string]string{
			"as it is": secret, "percent-encoded": url.QueryEscape(secret), "percent-encoded, path": url.PathEscape(secret),
			"JSON of Go": strings.Trim(string(inJSON), `"`), "JSON": strings.ReplaceAll(secret, `"`, `\"`),
			"JSON in JSON": strings.Trim(strconv.Quote(strings.Trim(string(inJSON), `"`)), `"`), "HTML": html.EscapeString(secret),
		}
	}
	seen := func(marker string) {
		t.Helper()
		v.Process.Await(t, within, func() error {
			text, err := os.ReadFile(file)
			if err == nil && !strings.Contains(string(text), marker) {
				err = fmt.Errorf("no event says %q", marker)
			}
			return err
		})
	}
	var secrets []string
	session := func() (info hmcsim.SessionInfo) {
		t.Helper()
		v.Process.Await(t, within, func() error {
			infos := sim.SessionInfos()
			if len(infos) != 1 {
				return fmt.Errorf("%d sessions", len(infos))
			}
			info = infos[0]
			return nil
		})
		return info
	}
	// again waits for another link than that of before. What cuts a link that is still being made is in no event.
	again := func(before float64) {
		t.Helper()
		v.Process.Await(t, within, func() error {
			if got := v.Metric(t, "hmcnotifyd_receiver_reconnects_total"); got <= before {
				return fmt.Errorf("%v reconnects after %v", got, before)
			}
			return nil
		})
		v.AwaitReady(t, within)
	}
	// refusals are the answers of status 500 so far; where there is no such series, none.
	refusals := func() float64 {
		n, _ := daemon.Metric(v.Metrics(t), "hmcnotifyd_hmc_rest_requests_total", "code", "500")
		return n
	}
	n := 0
	for _, name := range []string{"password", "id", "credential"} {
		for form := range forms("") {
			n++
			info, before := session(), v.Metric(t, "hmcnotifyd_receiver_reconnects_total")
			secret := map[string]string{"password": password, "id": info.SessionID, "credential": info.Credential}[name]
			secrets = append(secrets, secret)
			marker, refused := fmt.Sprint("frame-", n, "-"), refusals()
			sim.FaultREST(hmcsim.RESTFault{ // for what it asks when the link is gone
				Kind: hmcsim.RESTFaultStatus, Status: 500, Times: 2, Message: fmt.Sprint("answer-", n, "- repeats ", forms(secret)[form]),
			})
			message := marker + " repeats " + forms(secret)[form] + " here"
			v.Process.Await(t, within, func() error {
				if sim.Broker().FaultNow(hmcsim.Fault{Kind: hmcsim.FaultError, Message: message, Close: true}) == 0 {
					return errors.New("there is no link")
				}
				return nil
			})
			v.Process.Await(t, within, func() error {
				if refusals() <= refused {
					return errors.New("no such answer has come")
				}
				return nil
			})
			sim.ClearRESTFaults()
			again(before)
			seen(marker)
		}
	}
	if !strings.Contains(v.Process.Output(), "not shown because it repeats a secret") {
		t.Error("no message was hidden")
	}
	shown := map[string]string{"the log": v.Process.Output()}
	for _, path := range []string{"/", "/metrics", "/api/v1/status"} {
		_, body, err := ask(t.Context(), newClient(t), http.MethodGet, v.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		shown[path] = body
	}
	v.end(t)
	for _, root := range []string{dir, v.Storage} {
		err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() || strings.Contains(path, "sessions") { // those hold the ids until the logoff
				return err
			}
			text, err := os.ReadFile(path)
			shown[path] = string(text)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for where, text := range shown {
		for _, secret := range secrets {
			for form, shape := range forms(secret) {
				if i := strings.Index(text, shape); i >= 0 {
					t.Errorf("%s shows a secret, %s: %.200q", where, form, text[max(0, i-100):])
				}
			}
		}
	}
}
