package sinks

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// snippets returns the blocks of docs/sinks.md in one language.
func snippets(t *testing.T, language string) []string {
	t.Helper()
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "sinks.md"))
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	rest := string(doc)
	for {
		_, after, ok := strings.Cut(rest, "\n```"+language+"\n")
		if !ok {
			break
		}
		block, next, ok := strings.Cut(after, "\n```\n")
		if !ok {
			t.Fatalf("a block of %s does not end", language)
		}
		found, rest = append(found, block+"\n"), "\n"+next
	}
	if len(found) == 0 {
		t.Fatalf("no block of %s", language)
	}
	return found
}

var (
	yamlBlock = regexp.MustCompile("(?ms)^( *)```yaml\n(.*?)^ *```$")
	// configKey is a key of the configuration itself; without one a block is a file of another program.
	configKey = regexp.MustCompile(`(?m)^(hmcs|sinks|storage|dedup|severity|flood|estate|heartbeat_interval):`)
	namesFile = regexp.MustCompile(`_files?: \[?([^\s,}\]]+)`)
)

// configurations returns every piece of configuration in the documents, by where it is.
func configurations(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/*/*.md"} {
		files, err := filepath.Glob(filepath.Join("..", "..", pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range yamlBlock.FindAllStringSubmatchIndex(string(data), -1) {
				indent, text := string(data[m[2]:m[3]]), string(data[m[4]:m[5]])
				text = strings.ReplaceAll("\n"+text, "\n"+indent, "\n")[1:]
				if configKey.MatchString(text) {
					found[fmt.Sprintf("%s:%d", file, 1+bytes.Count(data[:m[0]], []byte("\n")))] = text
				}
			}
		}
	}
	if len(found) < 30 {
		t.Fatalf("only %d pieces of configuration in the documents", len(found))
	}
	return found
}

// TestDocsConfiguration reads every piece of configuration in the documents, and makes its sinks.
func TestDocsConfiguration(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	_, _, cert, key := certificate(t, "hmcnotifyd", nil, nil)
	// What the files that a configuration names hold, by the ends of their names.
	contents := map[string]string{
		".secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n", ".pem": cert, ".key": key, ".url": "https://hooks.slack.com/services/T0/B0/x\n",
		".creds": "-----BEGIN NATS USER JWT-----\nx\n------END NATS USER JWT------\n-----BEGIN USER NKEY SEED-----\nx\n------END USER NKEY SEED------\n",
	}
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	server := newTLSServer(t)
	authority, err := os.ReadFile(caFile(t, server))
	if err != nil {
		t.Fatal(err)
	}
	write("company-ca.pem", string(authority))
	write("hmc-ca.pem", string(authority))
	write("new.secret", "whsec_YW5vdGhlciBzZWNyZXQgb2YgdGhlIHNpbms=\n")
	write("ops.api-key", "x\n")
	for place, text := range configurations(t) {
		text = strings.ReplaceAll(text, "/var/log/hmcnotifyd", dir)
		for _, m := range namesFile.FindAllStringSubmatch(text, -1) {
			name := strings.Trim(m[1], `"`)
			if _, err := os.Stat(filepath.Join(dir, name)); err == nil || strings.HasPrefix(name, "/") {
				continue
			}
			content := contents[filepath.Ext(name)]
			switch {
			case filepath.Ext(name) == ".tmpl":
				content = ready(t, name)
			case content == "":
				content = "x\n"
			}
			write(name, content)
		}
		if !regexp.MustCompile(`(?m)^hmcs:`).MatchString(text) {
			text += "hmcs: [{name: hmc-east, hosts: [hmc1.example.com], userid: monitor, password: secret}]\n"
		}
		if !regexp.MustCompile(`(?m)^sinks:`).MatchString(text) {
			text += "sinks: [{name: journal, log: {}}]\n"
		}
		name := "hmcnotifyd.yaml"
		write(name, text)
		cfg, err := config.Load(filepath.Join(dir, name))
		if err != nil {
			t.Errorf("%s: %v\n%s", place, err, text)
			continue
		}
		for _, c := range cfg.Sinks {
			s, err := New(c, Options{})
			if err != nil {
				t.Errorf("%s: %v\n%s", place, err, text)
				continue
			}
			_ = s.Close()
		}
	}
}

// TestDocsConsumers runs the consumers of the documentation: what the sink signs they accept, anything else they do not.
func TestDocsConsumers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	t.Run("Python", func(t *testing.T) {
		python, err := exec.LookPath("python3")
		if err != nil {
			t.Skip(err)
		}
		source := filepath.Join(dir, "consumer.py")
		if err := os.WriteFile(source, []byte(snippets(t, "python")[0]), 0o600); err != nil {
			t.Fatal(err)
		}
		testDocsConsumer(t, python, source)
	})
	t.Run("Go", func(t *testing.T) {
		compiler, err := exec.LookPath("go")
		if err != nil {
			t.Skip(err)
		}
		source, program := filepath.Join(dir, "consumer.go"), filepath.Join(dir, "consumer")
		if err := os.WriteFile(source, []byte(snippets(t, "go")[0]), 0o600); err != nil {
			t.Fatal(err)
		}
		build := exec.CommandContext(t.Context(), compiler, "build", "-ldflags=-s -w", "-o", program, source)
		build.Dir = dir
		// For this machine, also where the test runs emulated.
		build.Env = append(os.Environ(), "GOOS=", "GOARCH=", "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		testDocsConsumer(t, program)
	})
}

func testDocsConsumer(t *testing.T, command ...string) {
	t.Helper()
	const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	address := rawPeerAddress(t)
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	child := exec.CommandContext(t.Context(), command[0], command[1:]...)
	child.Env = append(os.Environ(), "PORT="+port, "WEBHOOK_SECRET="+secret)
	child.Stdout = &out
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	end := func() {
		_ = child.Process.Kill()
		_ = child.Wait()
	}
	defer end()

	signed := webhookTo(t, "http://"+address, func(c *config.Sink) { c.Webhook.Secret = config.NewSecret(secret) })
	eventually(t, "the consumer listens", func() bool { return signed.Probe(t.Context()) == nil })
	rs := append(records(0, 20), recordWithBody(20, `{"text":"Überlauf"}`))
	for i := range rs {
		if err := signed.Send(t.Context(), rs[i:i+1]); err != nil {
			t.Fatal(err)
		}
	}
	refused := func(what string, err error) {
		t.Helper()
		if e, ok := errors.AsType[*PausedError](err); !ok || e.Status != http.StatusUnauthorized {
			t.Errorf("%s: %v", what, err)
		}
	}
	unsigned := webhookTo(t, "http://"+address)
	refused("without a signature", unsigned.Send(t.Context(), rs[:1]))
	other := webhookTo(t, "http://"+address, func(c *config.Sink) {
		c.Webhook.Secret = config.NewSecret("whsec_YW5vdGhlciBzZWNyZXQgb2YgYW5vdGhlciBzaW5r")
	})
	refused("with another secret", other.Send(t.Context(), rs[:1]))

	// The right signature of another time, and of several keys.
	for _, test := range []struct {
		age    time.Duration
		format string
		want   int
	}{
		{0, "%s", http.StatusNoContent},
		{0, "v1,b2xk %s v2,bmV3", http.StatusNoContent},
		{-4 * time.Minute, "%s", http.StatusNoContent},
		{10 * time.Minute, "%s", http.StatusUnauthorized},
		{-10 * time.Minute, "%s", http.StatusUnauthorized},
		{1 << 62, "%s", http.StatusUnauthorized},
	} {
		stamp := strconv.FormatInt(time.Now().Add(-test.age).Unix(), 10)
		req := signed.newForm(t.Context(), false).fill(rs[0].ID, time.Now(), rs[0].JSON)
		req.Header.Set("webhook-timestamp", stamp)
		req.Header.Set("webhook-signature", fmt.Sprintf(test.format, sign(signed.keys, rs[0].ID, stamp, rs[0].JSON)))
		resp, err := signed.client.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != test.want {
			t.Errorf("%s old, signature as %q: status %d, want %d", test.age, test.format, resp.StatusCode, test.want)
		}
	}

	end()
	if n := strings.Count(out.String(), "hmc-east "+event.TypeStatusChange); n != len(rs)+3 {
		t.Errorf("the consumer printed %d events, want %d:\n%s", n, len(rs)+3, out.String())
	}
}
