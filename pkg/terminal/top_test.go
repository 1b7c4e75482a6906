package terminal

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"charm.land/lipgloss/v2"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
)

func site(now time.Time) *status.Status {
	ago := now.Add(-90 * time.Second)
	minutes := make([]int64, 60)
	minutes[58] = 1234
	down := func(host string) []status.Trouble {
		return []status.Trouble{{Severity: event.SeverityCritical, What: "The link is down: " + host + ": refused.\x1b[2J"}}
	}
	return &status.Status{
		Started: now.Add(-time.Hour), Storage: status.StorageStatus{Bytes: 3 << 20, MaxBytes: 1 << 30}, Held: make([]status.HeldMessage, 2),
		HMCs: []status.HMCStatus{
			{Name: "hmc10", State: status.StateConnected, Connected: true, Since: ago, NotificationsPerMinute: minutes, LastNotification: &ago},
			{Name: "hmc2", State: status.StateConnected, Connected: true, Since: ago},
			{Name: "hmc30", State: status.StateAuthFailed, Since: ago, Host: "a.example.com", Troubles: down("a.example.com")},
			{Name: "hmc31", State: status.StateDisconnected, Since: ago, Host: "b.example.com", Troubles: down("b.example.com")},
		},
		Sinks: []status.SinkStatus{
			{Name: "ops", Kind: "webhook", DeliveredPerMinute: minutes, DeadLetters: 3},
			{Name: "siem", Kind: "splunk", Paused: "unauthorized", Stuck: true, Waiting: status.Waiting{QueueEvents: 7, OldestEventAgeSeconds: 61}},
		},
	}
}

func TestTopShowsWhatThereIs(t *testing.T) {
	now := time.Now()
	got := Once(site(now), TopOptions{Address: "http://x"})
	at := -1
	for _, want := range []string{
		"hmcnotifyd at http://x: not ready  up 1 h  4 HMCs  2 sinks  3.0 MiB of 1.0 GiB stored  2 messages wait for an answer",
		"NEEDS ATTENTION", "critical  HMC hmc30, HMC hmc31: The link is down: …: refused.", "HMC ", "hmc30  auth failed", "hmc31  disconnected", "hmc2 ", "hmc10 ", "1 234",
		"SINK", "siem  splunk   paused", "1 min 1 s", "ops   webhook  accepting",
	} {
		i := strings.Index(got, want)
		if i < 0 || i < at {
			t.Errorf("no %q, or not where it belongs", want)
		}
		at = max(at, i)
	}
	if strings.Contains(got, "\x1b") {
		t.Errorf("%q", got)
	}
	if t.Failed() {
		t.Log(got)
	}
}

// The screen goes on while the daemon does not answer, fits the terminal, moves by keys, and ends.
func TestTopScreen(t *testing.T) {
	s := newTopScreen(site(time.Now()), TopOptions{Color: true})
	view := func(msgs ...tea.Msg) string {
		for _, m := range msgs {
			s.Update(m)
		}
		return s.View().Content
	}
	screen := view(tea.WindowSizeMsg{Width: 70, Height: 8})
	if lines := strings.Split(screen, "\n"); len(lines) != 8 || !strings.Contains(lines[7], "more lines below") {
		t.Errorf("%q", lines)
	}
	key := func(code rune) tea.Msg { return tea.KeyPressMsg{Code: code} }
	if screen = view(key(tea.KeyPgDown), key(tea.KeyPgDown), key(tea.KeyPgDown), key(tea.KeyPgDown)); !strings.Contains(screen, "ops") || strings.Contains(screen, "below") {
		t.Errorf("%q", screen)
	}
	if screen = view(key(tea.KeyUp), key(tea.KeyHome)); !strings.Contains(screen, "hmcnotifyd") {
		t.Errorf("%q", screen)
	}
	if screen = view(topAnswer{err: errors.New("no answer")}); !strings.Contains(screen, "what is shown is old: no answer") {
		t.Errorf("%q", screen)
	}
	if screen = view(topAnswer{status: status.Status{Ready: true, Started: time.Now()}, at: time.Now()}); strings.Contains(screen, "old") || !strings.Contains(screen, "ready") {
		t.Errorf("%q", screen)
	}
	for _, line := range strings.Split(view(tea.WindowSizeMsg{Width: 40, Height: 100}, topAnswer{status: *site(time.Now()), at: time.Now()}), "\n")[1:] {
		if lipgloss.Width(line) > 40 {
			t.Errorf("%q", line)
		}
	}
	if _, cmd := s.Update(tea.KeyPressMsg{Code: 'q', Text: "q"}); cmd == nil {
		t.Error("q does not end it")
	}
}

// A signal ends it without an error.
func TestTopEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	asked := make(chan struct{}, 1000)
	o := TopOptions{Interval: time.Millisecond, Ask: func() (status.Status, error) {
		asked <- struct{}{}
		return *site(time.Now()), nil
	}}
	go func() {
		<-asked
		<-asked
		cancel()
	}()
	if err := Top(ctx, strings.NewReader(""), io.Discard, site(time.Now()), o); err != nil {
		t.Error(err)
	}
}
