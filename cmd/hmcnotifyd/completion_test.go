package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/cmdline"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
)

func TestCompletion(t *testing.T) {
	daemon := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/api/v1/status" {
			t.Errorf("asked for %s", r.URL)
		}
		_ = json.NewEncoder(w).Encode(status.Status{
			HMCs: []status.HMCStatus{{Name: "east"}}, Sinks: []status.SinkStatus{{Name: "ops"}, {Name: "journal"}},
		})
	}))
	t.Cleanup(daemon.Close)
	t.Setenv("HMCNOTIFYD_URL", daemon.URL)
	const nobody = "http://127.0.0.1:9"
	for _, test := range []struct {
		words []string // the last one is being typed
		has   []string
		lacks []string
		exact bool // has is all there is
	}{
		{words: []string{""}, has: []string{"run", "send-test", "check-config", "dead-letters", "completion", "help"}, lacks: []string{"--help"}},
		{words: nil, has: []string{"run"}},
		{words: []string{"se"}, has: []string{"send-test"}},
		{words: []string{"--"}, has: []string{"--config.file", "--log.level", "--help"}, lacks: []string{"--completion-bash", "--help-man", "run"}},
		{words: []string{"--log.level", ""}, has: []string{"debug", "info", "warn", "error"}, exact: true},
		{words: []string{"--log.level", "=", "w"}, has: []string{"debug", "info", "warn", "error"}, exact: true},
		{words: []string{"--log.level", "="}, has: []string{"debug", "info", "warn", "error"}, exact: true},
		{words: []string{"--log.format=j"}, has: []string{"--log.format=json", "--log.format=console"}, exact: true},
		{words: []string{"--log.level=debug", ""}, has: []string{"run", "demo"}},
		{words: []string{"--log.level", "debug", ""}, has: []string{"run", "demo"}},
		{words: []string{"--config.file", ""}, has: []string{cmdline.Files}, exact: true},
		{words: []string{"--config.file=h"}, has: []string{cmdline.Files}, exact: true},
		{words: []string{"tail", "--severity", ""}, has: []string{"info", "warning", "critical"}, exact: true},
		{words: []string{"tail", "--type", ""}, has: []string{"status-change", "os-message"}},
		{words: []string{"tail", "--text", ""}, exact: true},
		{words: []string{"simulate", "--ca-out", ""}, has: []string{cmdline.Files}, exact: true},
		{words: []string{"check-config", "--"}, has: []string{"--online", "--event", "--help", "--log.level"}, lacks: []string{"--config.file"}},
		{words: []string{"check-config", "--online", ""}, has: []string{cmdline.Files}, exact: true},
		{words: []string{"check-config", "--", "--o"}, has: []string{cmdline.Files}, exact: true},
		{words: []string{"dead-letters", ""}, has: []string{"list", "show", "replay", "purge"}, exact: true},
		{words: []string{"dead-letters", "--sink", "ops", ""}, has: []string{"list", "show", "replay", "purge"}, exact: true},
		{words: []string{"dead-letters", "replay", "-"}, has: []string{"--to", "--all", "--sink", "--since", "--url", "--log.level"}, lacks: []string{"--storage.path", "--waiting"}},
		{words: []string{"send-test", "--sink", ""}, has: []string{"ops", "journal"}, exact: true},
		{words: []string{"send-test", "--sink=o"}, has: []string{"--sink=ops", "--sink=journal"}, exact: true},
		{words: []string{"dead-letters", "replay", "--to", "="}, has: []string{"ops", "journal"}, exact: true},
		{words: []string{"send-test", "--url", nobody, "--sink", ""}, exact: true},
		{words: []string{"send-test", "--url=" + nobody, "--sink", ""}, exact: true},
		{words: []string{"send-test", "--url=x", "--sink", ""}, exact: true},
		{words: []string{"completion", ""}, has: []string{"bash", "zsh", "fish"}, exact: true},
		{words: []string{"help", ""}, has: []string{"run", "dead-letters"}},
		{words: []string{"help", "dead-letters", ""}, has: []string{"list", "show", "replay", "purge"}, exact: true},
		{words: []string{"nonsense", ""}, exact: true},
	} {
		status, stdout, stderr := call(append([]string{cmdline.CompletionFlag}, test.words...)...)
		got := strings.Fields(stdout)
		if status != 0 || stderr != "" || test.exact && len(got) != len(test.has) {
			t.Errorf("%q: status %d, %q %s", test.words, status, got, stderr)
		}
		for _, want := range test.has {
			if !slices.Contains(got, want) {
				t.Errorf("%q: %q lacks %s", test.words, got, want)
			}
		}
		for _, no := range test.lacks {
			if slices.Contains(got, no) {
				t.Errorf("%q: %q has %s", test.words, got, no)
			}
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if status, stdout, stderr := call("completion", shell); status != 0 || !strings.Contains(stdout, cmdline.CompletionFlag) || stderr != "" {
			t.Errorf("%s: status %d, %s%s", shell, status, stdout, stderr)
		}
	}
	if status, _, _ := call("completion", "tcsh"); status != 2 {
		t.Errorf("tcsh: status %d", status)
	}
}
