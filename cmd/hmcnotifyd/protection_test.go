package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
)

// recipe returns the block of docs/recipes.md that begins with a line.
func recipe(t *testing.T, first string) string {
	t.Helper()
	data, err := os.ReadFile("../../docs/recipes.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, found := strings.Cut(string(data), "```yaml\n"+first+"\n")
	block, _, end := strings.Cut(block, "\n```\n")
	if !found || !end {
		t.Fatalf("no block begins with %s", first)
	}
	return block + "\n"
}

// The recipe for the web port, as it stands: whoever has no password gets nothing, sees nothing and
// changes nothing.
func TestProtection(t *testing.T) {
	t.Parallel()
	const password = "correct-horse"
	dir, cfg, ca, hash := protectable(t, password)
	web := recipe(t, "# web.yaml")
	for old, replacement := range map[string]string{`hmcnotifyd\.pem`: "web.crt", `hmcnotifyd\.key`: "web.key", `\$2y\$\S+`: hash} {
		if !regexp.MustCompile(old).MatchString(web) {
			t.Fatalf("the recipe has no %s:\n%s", old, web)
		}
		web = regexp.MustCompile(old).ReplaceAllLiteralString(web, replacement)
	}
	write(t, filepath.Join(dir, "web.yaml"), web)
	p := start(t, nil, "--config.file="+cfg, "--storage.path="+filepath.Join(dir, "data"), "--web.listen-address=127.0.0.1:0",
		"--web.config.file="+filepath.Join(dir, "web.yaml"))
	address := p.matches(`"addresses":\["(127\.0\.0\.1:\d+)"\]`)[1]
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: ca.ClientTLS(), DisableKeepAlives: true}}
	eventually(t, "an answer over TLS", func() bool {
		status, _ := get(t, client, http.MethodGet, "https://"+address+"/")
		return status != 0
	})

	// A mistake in the file would be noticed by whoever could reload it.
	write(t, cfg, "hmcs: 1\n")
	requests := []struct{ method, path string }{
		{http.MethodGet, "/"},
		{http.MethodGet, "/metrics"},
		{http.MethodGet, "/-/healthy"},
		{http.MethodGet, "/-/ready"},
		{http.MethodPost, "/-/reload"},
		{http.MethodPut, "/-/reload"},
		{http.MethodGet, "/api/v1/status"},
		{http.MethodGet, "/api/v1/events"},
		{http.MethodGet, "/api/v1/dead-letters"},
		{http.MethodDelete, "/api/v1/dead-letters?all=true"},
		{http.MethodPost, "/api/v1/dead-letters/replay?all=true"},
		{http.MethodPost, "/api/v1/sinks/ops/replay?since=1h"},
		{http.MethodDelete, "/api/v1/removed-sinks/x"},
		{http.MethodGet, "/debug/pprof/"},
		{http.MethodGet, "/no/such/page"},
	}
	for i, r := range requests {
		logins := []string{"", "prometheus:wrong@"}
		if i < 3 { // a userid that is unknown takes as long as a hash of cost 10, so that nobody sees which ones there are
			logins = append(logins, "nobody:"+password+"@", ":"+password+"@")
		}
		for _, login := range logins {
			if status, body := get(t, client, r.method, "https://"+login+address+r.path); status != http.StatusUnauthorized || strings.Contains(body, "hmcnotifyd") {
				t.Errorf("%s %s as %q: %d %s", r.method, r.path, login, status, body)
			}
		}
		if status, _ := get(t, http.DefaultClient, r.method, "http://prometheus:"+password+"@"+address+r.path); status != http.StatusBadRequest && status != 0 {
			t.Errorf("%s %s without TLS: %d", r.method, r.path, status)
		}
	}
	allowed := "https://prometheus:" + password + "@" + address
	if _, body := get(t, client, http.MethodGet, allowed+"/metrics"); !strings.Contains(body, "hmcnotifyd_config_last_reload_successful 1") {
		t.Errorf("somebody without a password has reloaded:\n%.500s", body)
	}
	if status, _ := get(t, client, http.MethodPost, allowed+"/-/reload"); status != http.StatusInternalServerError {
		t.Errorf("a reload of a wrong file with the password: %d", status)
	}
	// The profiles of Go show memory: they are not served, not even to those who have a
	// password.
	for _, path := range []string{"/debug/pprof/", "/debug/pprof/heap", "/debug/pprof/cmdline", "/debug/vars"} {
		if status, _ := get(t, client, http.MethodGet, allowed+path); status != http.StatusNotFound {
			t.Errorf("%s: %d", path, status)
		}
	}
	p.signal(syscall.SIGTERM)
	if status := p.wait(); status != 0 {
		t.Errorf("exit status %d", status)
	}
	if out := p.out.String(); strings.Contains(out, password) || strings.Contains(out, string(hash)) {
		t.Error("the password, or its hash, was printed")
	}
}

// The example of deploy/package lets nobody in as it is, and those who have the password once it holds
// a hash.
func TestWebConfigExample(t *testing.T) {
	t.Parallel()
	const password = "correct-horse"
	dir, cfg, ca, hash := protectable(t, password)
	data, err := os.ReadFile("../../deploy/package/web.yaml")
	if err != nil {
		t.Fatal(err)
	}
	web := filepath.Join(dir, "web.yaml")
	write(t, web, strings.NewReplacer("hmcnotifyd.pem", "web.crt", "hmcnotifyd.key", "web.key").Replace(string(data)))
	if status, _, stderr := call("--config.file="+cfg, "--web.config.file="+web); status != 1 || !strings.Contains(stderr, "--web.config.file: ") ||
		!strings.Contains(stderr, "bcrypt") {
		t.Errorf("as it is: %d %s", status, stderr)
	}
	filled, err := os.ReadFile(web)
	if err != nil {
		t.Fatal(err)
	}
	write(t, web, regexp.MustCompile(`\$2y\$\S+`).ReplaceAllLiteralString(string(filled), hash))
	p := start(t, nil, "--config.file="+cfg, "--storage.path="+filepath.Join(dir, "data"), "--web.listen-address=127.0.0.1:0", "--web.config.file="+web)
	address := p.matches(`"addresses":\["(127\.0\.0\.1:\d+)"\]`)[1]
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: ca.ClientTLS(), DisableKeepAlives: true}}
	eventually(t, "an answer to who has the password", func() bool {
		status, _ := get(t, client, http.MethodGet, "https://prometheus:"+password+"@"+address+"/metrics")
		return status == http.StatusOK
	})
	for _, login := range []string{"", "prometheus:PUT-THE-HASH-HERE@", "prometheus:@"} {
		if status, _ := get(t, client, http.MethodGet, "https://"+login+address+"/metrics"); status != http.StatusUnauthorized {
			t.Errorf("as %q: %d", login, status)
		}
	}
}

func TestRequestHeaderIsBounded(t *testing.T) {
	t.Parallel()
	dir, cfg, _, _ := protectable(t, "")
	p := start(t, nil, "--config.file="+cfg, "--storage.path="+filepath.Join(dir, "data"), "--web.listen-address=127.0.0.1:0")
	address := p.matches(`"addresses":\["(127\.0\.0\.1:\d+)"\]`)[1]
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for size, want := range map[int]int{30 << 10: http.StatusOK, 64 << 10: http.StatusRequestHeaderFieldsTooLarge} {
		eventually(t, fmt.Sprintf("status %d to a header of %d bytes", want, size), func() bool {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+"/-/healthy", http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("X-Padding", strings.Repeat("x", size))
			resp, err := client.Do(req)
			if err != nil { // the connection was closed while the rest was on its way
				return false
			}
			return resp.Body.Close() == nil && resp.StatusCode == want
		})
	}
}

// The password in the recipe is the one that the page says it is.
func TestRecipePassword(t *testing.T) {
	m := regexp.MustCompile(`(\$2y\$\S+) +# "([^"]+)"`).FindStringSubmatch(recipe(t, "# web.yaml"))
	if m == nil {
		t.Fatal("no password")
	}
	if err := bcrypt.CompareHashAndPassword([]byte(m[1]), []byte(m[2])); err != nil {
		t.Error(err)
	}
}

// What Go prints of all goroutines at SIGQUIT has addresses of texts, not the texts.
func TestDumpHasNoSecret(t *testing.T) {
	const password = "correct-horse-battery-staple"
	sim := hmctest.Start(t, hmcsim.Options{Userid: "hmcuser", Password: password})
	dir := t.TempDir()
	cfg := daemonConfig(t, dir, sim, password)
	p := start(t, []string{"GOTRACEBACK=system"}, "--config.file="+cfg, "--storage.path="+filepath.Join(dir, "data"), "--web.listen-address=127.0.0.1:0", "--log.level=debug")
	p.matches(`"msg":"connected to the HMC"`)
	p.matches(`the sink does not accept events|put aside as dead letters`)
	p.signal(syscall.SIGQUIT)
	if status := p.wait(); status == 0 { // 2, or the signal of a second thread
		t.Errorf("exit status %d", status)
	}
	p.matches(`SIGQUIT: quit`)
	p.matches(`goroutine \d+ .*\[`)
	out := p.out.String()
	secrets := []string{password, "c2VjcmV0LW9mLXRoZS13ZWJob29rLXRlc3Q", "secret-of-the-webhook-test", "token-in-the-path", "token-in-the-query"}
	for _, s := range sim.SessionInfos() {
		secrets = append(secrets, s.SessionID, s.Credential)
	}
	if len(secrets) < 7 {
		t.Error("there is no session")
	}
	for _, secret := range secrets {
		if strings.Contains(out, secret) {
			t.Errorf("the dump shows %s", secret)
		}
	}
}
