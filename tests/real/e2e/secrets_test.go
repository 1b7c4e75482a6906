//go:build real

package e2e_test

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/activemq"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/certs"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/consumer"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/daemon"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/program"
)

// secrets are what must never be seen, by a name that may.
type secrets struct {
	mu     sync.Mutex
	values map[string]string
}

func (s *secrets) add(name, value string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.values == nil {
		s.values = map[string]string{}
	}
	if _, taken := s.values[name]; taken {
		name = fmt.Sprint(name, " ", len(s.values)+1)
	}
	s.values[name] = value
	return value
}

// random makes a secret with a text in it that no other text has.
func (s *secrets) random(name string) string { return s.add(name, rand.Text()) }

// session adds what a session is known by.
func (s *secrets) session(name string, info hmcsim.SessionInfo) {
	s.add(name+"'s session id", info.SessionID)
	s.add(name+"'s session credential", info.Credential)
}

// find returns the names of the secrets of which a text holds a half or more,
// as they are or in base64.
func (s *secrets) find(text string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []string
	for name, value := range s.values {
		half := len(value) / 2
		for _, part := range []string{value[:half], value[half:], base64.StdEncoding.EncodeToString([]byte(value[:half/3*3]))} {
			if strings.Contains(text, part) && !slices.Contains(found, name) {
				found = append(found, name)
			}
		}
	}
	slices.Sort(found)
	return found
}

// quoting answers with a status and with everything it was sent, as error
// pages do.
func quoting(tb testing.TB, status int) string {
	tb.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Location", r.URL.String())
		w.WriteHeader(status)
		_, _ = fmt.Fprintf(w, "cannot %s http://%s%s (%s?%s) for %v", r.Method, r.Host, r.RequestURI, r.URL.Path, r.URL.RawQuery, r.Header)
	}))
	tb.Cleanup(srv.Close)
	return srv.URL
}

// TestNoSecretIsSeen runs the daemon at debug level through every failure
// whose text a password, a token or a session could be part of, and looks for
// them in all that it prints, serves and stores.
func TestNoSecretIsSeen(t *testing.T) {
	var hidden secrets
	odd := func(name string) string { return hidden.random(name) + `:"\é` } // what is odd may be written otherwise
	// One build for all the runs of check-config.
	t.Setenv(daemon.BinaryVariable, daemon.Binary(t))

	// A real broker, which knows the session of the first HMC and of no other:
	// it repeats who was refused.
	good := startConsole(t, "good", consoleOptions{
		sim:    hmcsim.Options{Partitions: 1, Userid: "hmcuser", Password: odd("the good password")},
		broker: activemq.Options{Approved: []string{"hmcuser.*"}}, // and no channel of OS messages
		extra:  ", os_messages: [{cpc: .*, partition: .*}], topics: [object, security]",
	})
	simulate := func(name string, opts hmcsim.Options) *hmcsim.HMC {
		opts.Name, opts.Partitions = name, -1
		opts.OnLogon = func(s hmcsim.SessionInfo) { hidden.session(name, s) }
		if opts.Certificate == nil {
			opts.Certificate = good.certificate
		}
		sim, err := hmcsim.Start(opts)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = sim.Close() })
		return sim
	}
	entry := func(name string, sim *hmcsim.HMC, keys string) string {
		return fmt.Sprintf("- {name: %s, hosts: [%q], rest_port: %d, stomp_port: %d, tls: {ca_file: %q}, rest_requests_per_minute: 1000, stomp: %s, %s}\n",
			name, sim.Host(), sim.RESTPort(), good.broker.Port(), good.ca, quickStomp, keys)
	}
	login := func(password string) string { return "userid: hmcuser, password: " + quoted(password) }

	refusedPassword := odd("the refused password")
	wrong := simulate("wrong-password", hmcsim.Options{Userid: "hmcuser", Password: "another"})
	quotesPassword := odd("the quoted password")
	quotes := simulate("quotes-password", hmcsim.Options{Password: quotesPassword, Userid: "hmcuser", RESTFaults: []hmcsim.RESTFault{
		{Kind: hmcsim.RESTFaultStatus, Operation: "logon", Status: 403, Message: "hmcuser has no password " + quotesPassword},
	}})
	strange := certs.NewAuthority(t).Issue(t, certs.Request{}).ServerConfig(t).Certificates[0]
	strangePassword := odd("the password for an HMC with a bad certificate")
	bad := simulate("bad-certificate", hmcsim.Options{Certificate: &strange, Userid: "hmcuser", Password: strangePassword})
	unknownPassword := odd("the password for an HMC whose broker refuses")
	unknown := simulate("unknown-to-broker", hmcsim.Options{Userid: "hmcuser", Password: unknownPassword})
	given := simulate("given-session", hmcsim.Options{})
	session, err := given.NewSession(hmcsim.DefaultUserid)
	if err != nil {
		t.Fatal(err)
	}
	hidden.session("given-session", session)
	ended := simulate("ended-session", hmcsim.Options{})
	quotesSession := simulate("quotes-session", hmcsim.Options{})
	second, err := quotesSession.NewSession(hmcsim.DefaultUserid)
	if err != nil {
		t.Fatal(err)
	}
	hidden.session("quotes-session", second)
	quotesSession.FaultREST(hmcsim.RESTFault{
		Kind: hmcsim.RESTFaultStatus, Operation: "get-notification-topics", Status: 500,
		Message: "session " + second.SessionID + " with credential " + second.Credential,
	})

	whsec := "whsec_" + base64.StdEncoding.EncodeToString([]byte(hidden.random("the key of the signature")))
	hidden.add("the signature's secret", strings.TrimPrefix(whsec, "whsec_"))
	hook := consumer.Start(t)
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = log.New(io.Discard, "", 0) // it tells of each handshake that fails
	secure.StartTLS()
	t.Cleanup(secure.Close)
	files := map[string]string{"secret": whsec + "\n"}
	sinks := ""
	addSink := func(name, base string) {
		files[name+".url"] = base + "/services/" + hidden.random("the path of "+name) + "/x?key=" + hidden.random("the query of "+name) + "\n"
		sinks += fmt.Sprintf("- {name: %[1]s, webhook: {url_file: %[1]s.url, secret_file: secret}, retry: {initial: 100ms, max: 1s}}\n", name)
	}
	addSink("dead", fmt.Sprintf("http://127.0.0.1:%d", program.FreePort(t)))
	addSink("busy", quoting(t, http.StatusServiceUnavailable))
	addSink("refusing", quoting(t, http.StatusBadRequest))
	addSink("redirecting", quoting(t, http.StatusFound))
	addSink("untrusted", secure.URL)
	addSink("no-http", fmt.Sprintf("http://127.0.0.1:%d", good.broker.Port()))
	sinks += fmt.Sprintf("- {name: good, webhook: {url: %q}}\n- {name: file, log: {output: events.log}}\n- {name: out, log: {output: stdout}}\n", hook.URL)

	config := "hmcs:\n" + good.entry +
		entry("wrong-password", wrong, login(refusedPassword)) +
		entry("quotes-password", quotes, login(quotesPassword)) +
		entry("bad-certificate", bad, login(strangePassword)) +
		entry("unknown-to-broker", unknown, login(unknownPassword)) +
		entry("given-session", given, fmt.Sprintf("session: {id: %s, credential: %s}", session.SessionID, session.Credential)) +
		entry("ended-session", ended, fmt.Sprintf("session: {id: %s, credential_file: credential}", hidden.random("the ended session's id"))) +
		entry("quotes-session", quotesSession, fmt.Sprintf("session: {id: %s, credential: %s}", second.SessionID, second.Credential)) +
		good.byTopicName("by-name", "topic_names: [hmcuser.1], "+login(odd("the password that the broker refuses"))) +
		"sinks:\n" + sinks
	files["credential"] = hidden.random("the ended session's credential") + "\n"
	d := daemon.Start(t, daemon.Options{Config: config, Files: files, Flags: []string{"--log.level=debug"}})

	// Everything has failed as it should.
	var served strings.Builder
	page := func(method, path string) string {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, d.URL+path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.Close = true
		req.Header.Set("Accept", "application/openmetrics-text;version=1.0.0,*/*;q=0.1")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprintf("%s %s: %d %v\n%s\n", method, path, resp.StatusCode, resp.Header, body)
		served.WriteString(text)
		return text
	}
	problems := map[string]string{
		"wrong-password": "Login failed", "quotes-password": "not shown because it repeats a secret", "bad-certificate": "unknown authority",
		"unknown-to-broker": "is invalid", "given-session": "is invalid", "ended-session": "has ended", "quotes-session": "not shown because",
		"by-name": "User name [hmcuser]", "good": "osm.",
	}
	await(t, d, func(s status) error {
		for name, part := range problems {
			if got := strings.Join(s.hmc(name).Problems, "; "); !strings.Contains(got, part) {
				return fmt.Errorf("%s: %q", name, got)
			}
		}
		return nil
	})
	for _, info := range good.sim.SessionInfos() {
		hidden.session("good", info)
	}
	streamed := follow(t, d)
	good.notify(t, good.topics(t)[hmcsim.TopicObject][0], "hello")
	hook.Await(t, within, 1, marked("good", "hello"))
	d.Process.Await(t, within, func() error {
		_, body := d.Get(t, "/api/v1/status")
		var s struct {
			Sinks []struct {
				Name        string
				Stuck       bool
				DeadLetters int    `json:"dead_letters"`
				LastError   string `json:"last_error"`
			}
		}
		if err := json.Unmarshal([]byte(body), &s); err != nil {
			return err
		}
		for _, k := range s.Sinks {
			ok := true
			switch k.Name {
			case "dead", "busy", "untrusted", "no-http", "redirecting":
				ok = k.Stuck && k.LastError != ""
			case "refusing":
				ok = k.DeadLetters > 0
			}
			if !ok {
				return fmt.Errorf("sink %+v", k)
			}
		}
		return nil
	})
	for _, path := range []string{"/", "/metrics", "/api/v1/status", "/-/ready", "/-/healthy", "/api/v1/events?typ=x", "/no/such/page"} {
		page(http.MethodGet, path)
	}
	page(http.MethodDelete, "/-/reload")
	page(http.MethodPost, "/-/reload")

	// Nor does a file that is wrong show what it holds.
	password := hidden.random("the password in a wrong file")
	for what, text := range map[string]string{
		"unknown key":      "hmcs:\n- {name: a, hosts: [h], userid: u, pasword: " + password + "}\n",
		"mapping":          "hmcs:\n- {name: a, hosts: [h], userid: u, password: {" + password + ": 1}}\n",
		"list":             "hmcs:\n- {name: a, hosts: [h], userid: u, password: [" + password + "]}\n",
		"tag":              "hmcs:\n- {name: a, hosts: [h], userid: u, password: !!int " + password + "}\n",
		"own tag":          "hmcs:\n- {name: a, hosts: [h], userid: u, password: !" + password + " x}\n",
		"no mapping":       "hmcs:\n- {name: a, hosts: [h], session: " + password + "}\n",
		"unknown alias":    "hmcs:\n- {name: a, hosts: [h], userid: u, password: *" + password + "}\n",
		"no end":           "hmcs:\n- {name: a, hosts: [h], userid: u, password: \"" + password + "}\n",
		"tab":              "hmcs:\n- name: a\n\tpassword: " + password + "\n",
		"bad escape":       "hmcs:\n- {name: a, hosts: [h], userid: u, password: \"\\" + password + "\"}\n",
		"twice":            "hmcs:\n- {name: a, hosts: [h], userid: u, password: x, password: " + password + "}\n",
		"line end":         "hmcs:\n- {name: a, hosts: [h], userid: u, password: \"" + password + "\\n\"}\n",
		"blank":            "hmcs:\n- {name: a, hosts: [h], userid: u, password: \" " + password + "\"}\n",
		"with session":     "hmcs:\n- {name: a, hosts: [h], userid: u, password: " + password + ", session: {id: " + password + "}}\n",
		"userid in URL":    "sinks:\n- {name: a, webhook: {url: \"http://u:" + password + "@127.0.0.1/\"}}\n",
		"no URL":           "sinks:\n- {name: a, webhook: {url: \"http://[::1/" + password + "\"}}\n",
		"control in URL":   "sinks:\n- {name: a, webhook: {url: \"http://h/" + password + "\\x7f\"}}\n",
		"no scheme":        "sinks:\n- {name: a, webhook: {url: \"hooks.example.com/" + password + "\"}}\n",
		"other scheme":     "sinks:\n- {name: a, webhook: {url: \"ftp://h/" + password + "\"}}\n",
		"bad port":         "sinks:\n- {name: a, webhook: {url: \"http://h:" + password + "/\"}}\n",
		"bad host":         "sinks:\n- {name: a, webhook: {url: \"http:///" + password + "\"}}\n",
		"fragment":         "sinks:\n- {name: a, webhook: {url: \"http://h/#" + password + "\"}}\n",
		"bad secret":       "sinks:\n- {name: a, webhook: {url: \"http://h/\", secret: \"whsec_!" + password + "\"}}\n",
		"short secret":     "sinks:\n- {name: a, webhook: {url: \"http://h/\", secret: \"whsec_" + base64.StdEncoding.EncodeToString([]byte(password[:14])) + "\"}}\n",
		"two of a kind":    "sinks:\n- {name: a, webhook: {url: \"http://h/" + password + "\", url_file: x, secret: " + password + ", secret_file: y}}\n",
		"password as file": password + "\n",
		"document":         "hmcs: " + password + "\n",
	} {
		d.WriteConfig(t, text)
		code, body := d.Reload(t)
		for code == http.StatusTooManyRequests { // at most ten changes a second
			time.Sleep(100 * time.Millisecond)
			code, body = d.Reload(t)
		}
		fmt.Fprintf(&served, "reload of a file with %s: %d\n%s\n", what, code, body)
		if code != http.StatusInternalServerError || !strings.Contains(body, "hmcnotifyd.yaml:") {
			t.Errorf("reload of a file with %s: %d\n%s", what, code, body)
		}
		out, status := daemon.Run(t, within, "check-config", inDir(d, "hmcnotifyd.yaml"))
		fmt.Fprintf(&served, "check of a file with %s: %d\n%s\n", what, status, out)
	}
	page(http.MethodGet, "/")
	page(http.MethodGet, "/api/v1/status")
	d.WriteConfig(t, config)
	page(http.MethodPost, "/-/reload")
	out, status := daemon.Run(t, within, "--log.level=debug", "check-config", "--online", inDir(d, "hmcnotifyd.yaml"))
	fmt.Fprintf(&served, "check-config --online: %d\n%s", status, out)
	if status != 1 || !strings.Contains(out, "good") || !strings.Contains(out, "untrusted") {
		t.Errorf("check-config --online: %d\n%s", status, out)
	}
	d.Stop(t)

	look := func(where, text, known string) {
		t.Helper()
		if !strings.Contains(text, known) {
			t.Errorf("%s does not hold %q: is it the right text?", where, known)
		}
		for _, name := range hidden.find(text) {
			t.Errorf("%s shows %s", where, name)
		}
	}
	look("what was printed", d.Process.Output(), "quotes-session")
	look("what was served", served.String(), "quotes-session")
	look("the stream of events", streamed(), "hello")
	look("the log sink's file", readFile(t, inDir(d, "events.log")), "hello")
	stored := 0
	err = filepath.WalkDir(d.Storage, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			stored++
			look("the stored file "+entry.Name(), readFile(t, path), "")
		}
		return err
	})
	if err != nil || stored == 0 {
		t.Errorf("%d files are stored, %v", stored, err)
	}
	if n := len(hidden.values); n < 30 {
		t.Errorf("only %d secrets were looked for", n)
	}
}

// follow reads the stream of live events along. What it returns waits for the daemon's end, and returns what came.
func follow(t *testing.T, d *daemon.Daemon) func() string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, d.URL+"/api/v1/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	var text []byte
	done := make(chan error, 1)
	go func() {
		var err error
		text, err = io.ReadAll(resp.Body)
		done <- err
	}()
	return func() string {
		t.Helper()
		if err := <-done; err != nil {
			t.Error(err)
		}
		return string(text)
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
