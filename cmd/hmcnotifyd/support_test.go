package main

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/archive"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
)

// A bundle has what helps, and no secret, name, address, id or text of anybody, in any form.
func TestSupport(t *testing.T) {
	t.Parallel()
	const userid, password = "zebrauser", "wombat-Pw:1/x"
	sim := hmctest.Start(t, hmcsim.Options{Name: "QUOKKA77", Rate: 50, Partitions: 4, Userid: userid, Password: password})
	dir := t.TempDir()
	cfg := daemonConfig(t, dir, sim, password)
	text, err := os.ReadFile(cfg)
	if err != nil {
		t.Fatal(err)
	}
	text = []byte(strings.NewReplacer("userid: hmcuser", "userid: "+userid+"  # ask Wilhelmina", "    hosts:", "    labels: {site: Kalgoorlie}\n    os_messages: [{cpc: \".*\", partition: \".*\"}]\n    hosts:",
		"name: dead", "name: dugong-pager", "127.0.0.1:9/", "127.0.0.1:9/platypus/").Replace(string(text)))
	write(t, cfg, string(text))
	never := []string{
		userid, password, "QUOKKA77", "Wilhelmina", "Kalgoorlie", "dugong", "platypus", "token-in-the-path", "token-in-the-query", "c2VjcmV0LW9mLXRoZS13ZWJob29rLXRlc3Q=",
		"Thylacine", "10.77.66.55",
	}
	for i, p := range sim.Partitions() {
		name := fmt.Sprintf("BANDICOOT%d", i)
		if err := sim.RenamePartition(p.ID, name); err != nil {
			t.Fatal(err)
		}
		never = append(never, name, p.ID)
	}
	for i, c := range sim.CPCs() {
		name := fmt.Sprintf("NUMBAT%d", i)
		if err := sim.RenameCPC(c.ID, name); err != nil {
			t.Fatal(err)
		}
		never = append(never, name, c.ID)
	}
	p, o := startDaemon(t, cfg, dir)
	tell := func(id string) (subscribers int) {
		subscribers, err := sim.OSMessages(id, "the Thylacine is at 10.77.66.55 now")
		if err != nil {
			t.Fatal(err)
		}
		return subscribers
	}
	for _, part := range sim.Partitions() {
		eventually(t, "the daemon hears "+part.Name, func() bool { // unless somebody has stopped it meanwhile
			now, err := sim.Partition(part.ID)
			if err != nil {
				t.Fatal(err)
			}
			return !now.HasOS || tell(part.ID) > 0
		})
	}
	eventually(t, "the text is stored", func() bool {
		for _, part := range sim.Partitions() {
			if part.HasOS {
				tell(part.ID)
			}
		}
		stored, err := os.ReadFile(filepath.Join(dir, "events.log"))
		return err == nil && strings.Contains(string(stored), "Thylacine")
	})
	log := filepath.Join(dir, "daemon.log")
	write(t, log, p.out.String()+`{"level":"warn","msg":"not connected to the HMC","hmc":"east","problem":"dial tcp 10.77.66.55:6794: refused for zebrauser by QUOKKA77"}`+"\nplain QUOKKA77\n")
	bundle := filepath.Join(dir, "bundle.tar.gz")
	args := []string{"--config.file=" + cfg, "support", "--url=" + o.url, "--log=" + log, "--out=" + bundle}
	status, stdout, stderr := call(args...)
	if status != 0 || stderr != "" {
		t.Fatalf("status %d: %s", status, stderr)
	}
	files := archive.Files(t, bundle)
	if files["CONTENTS.txt"] != stdout {
		t.Errorf("it says of itself\n%s\nand not\n%s", files["CONTENTS.txt"], stdout)
	}
	for name, wants := range map[string][]string{
		"version.txt":  {"hmcnotifyd ", "go: go1."},
		"config.yaml":  {"hmcs:\n", "rest_port: ", "password_file: ", "webhook: {url: \"http://", "reconnect_sleep_max: 100ms"},
		"status.json":  {`"state": "connected"`, `"max_bytes": `, `"notifications_per_minute": [`},
		"metrics.txt":  {"# HELP hmcnotifyd_receiver_connected ", "hmcnotifyd_receiver_connected{hmc=\"", `class="partition"`},
		"events.jsonl": {`"type":"status-change"`, `"type":"os-message"`, `"message-text":`},
		"log.jsonl":    {`"msg":"connected to the HMC"`, `"level":"warn"`},
	} {
		for _, want := range wants {
			if !strings.Contains(files[name], want) {
				t.Errorf("%s lacks %q:\n%.2000s", name, want, files[name])
			}
		}
	}
	for name, content := range files {
		lower := strings.ToLower(content)
		for _, word := range never {
			for _, form := range []string{
				word, url.QueryEscape(word), strings.ReplaceAll(word, ":", `\c`), base64.StdEncoding.EncodeToString([]byte(word)), hex.EncodeToString([]byte(word)),
			} {
				if i := strings.Index(lower, strings.ToLower(form)); i >= 0 {
					t.Errorf("%s has %q: %s", name, form, content[max(0, i-100):min(len(content), i+100)])
				}
			}
		}
	}
	if status, _, stderr := call(args...); status != 1 || !strings.Contains(stderr, "is there already, and is not overwritten") {
		t.Errorf("over one that is there: status %d, %s", status, stderr)
	}
	other := filepath.Join(dir, "other.tar.gz")
	write(t, cfg, string(text)+"what: is this\n")
	if status, stdout, _ := call("--config.file="+cfg, "support", "--url="+o.url, "--out="+other); status != 0 ||
		!strings.Contains(stdout, "config.yaml    not there: ") || !strings.Contains(stdout, "log.jsonl      not there: ") {
		t.Errorf("of a configuration with a mistake: status %d\n%s", status, stdout)
	}
	none := filepath.Join(dir, "none.tar.gz")
	if status, _, stderr := call("support", "--url=http://127.0.0.1:9", "--out="+none); status != 1 || !strings.Contains(stderr, "no answer from a daemon") {
		t.Errorf("without a daemon: status %d, %s", status, stderr)
	}
	if _, err := os.Stat(none); err == nil {
		t.Error("a bundle is left of a failure")
	}
}
