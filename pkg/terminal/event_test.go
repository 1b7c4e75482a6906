package terminal

import (
	"errors"
	"strings"
	"testing"
	"time"

	"charm.land/lipgloss/v2"
)

const critical = `{"time":"2026-11-20T10:00:00Z","type":"status-change","hmc":"east","severity":"critical","repeat":true,` +
	`"summary":"partition PART1 on CPC1: active -> not-operating\u001b[2J since some time that nobody knows, and there is more to say of it"}`

func TestEventLines(t *testing.T) {
	t.Setenv("TZ", "UTC")
	time.Local = time.UTC
	plain := NewEvents(0, false).Line([]byte(critical))
	if want := "2026-11-20 10:00:00.000  critical  status-change        east          partition PART1 on CPC1: active -> not-operating [2J since some time that nobody knows, and there is more to say of it (repeated)"; plain != want {
		t.Errorf("%q", plain)
	}
	for _, width := range []int{40, 80, 100, 200} {
		for _, color := range []bool{false, true} {
			got := NewEvents(width, color).Line([]byte(critical))
			if strings.Contains(got, "\x1b[2J") || strings.Contains(got, "\x1b") != color {
				t.Errorf("%d, %v: %q", width, color, got)
			}
			words := ""
			for i, line := range strings.Split(got, "\n") {
				if w := lipgloss.Width(line); w > width && (i > 0 || width >= 100) {
					t.Errorf("%d columns of %d: %q", w, width, line)
				}
				words += line + " "
			}
			if !color {
				if got, want := strings.Join(strings.Fields(words), " "), strings.Join(strings.Fields(plain), " "); got != want {
					t.Errorf("%d: %s", width, got)
				}
			}
		}
	}
	if got := NewEvents(80, true).Line([]byte("no\x1bJSON")); got != "no JSON" {
		t.Errorf("%q", got)
	}
	if got := NewEvents(0, false).Line([]byte(`{"origin":"refresh","planned":true}`)); !strings.HasSuffix(got, "(planned, replayed by the HMC)") {
		t.Errorf("%q", got)
	}
}

func TestNoColor(t *testing.T) {
	for name, want := range map[string]bool{"NO_COLOR=1": false, "TERM=dumb": false, "TERM=xterm": true} {
		t.Setenv("NO_COLOR", "")
		t.Setenv("TERM", "xterm")
		key, value, _ := strings.Cut(name, "=")
		t.Setenv(key, value)
		if WantsColor() != want {
			t.Errorf("%s: %v", name, !want)
		}
	}
}

func TestReadStream(t *testing.T) {
	text := ": hello\n\nid: 1\ndata: a\n\nevent: lost\ndata:b\n\ndata: c\nid: 2\n\nid: 3\n\ndata: cut"
	var got []Sent
	alive := 0
	if err := ReadStream(strings.NewReader(text), "0", func() { alive++ }, func(s Sent) error {
		got = append(got, s)
		return nil
	}); err != nil || alive != 14 {
		t.Errorf("%v, %d lines", err, alive)
	}
	want := []Sent{{"", "1", []byte("a")}, {"lost", "1", []byte("b")}, {"", "2", []byte("c")}}
	if len(got) != len(want) {
		t.Fatalf("%q", got)
	}
	for i, s := range got {
		if s.Kind != want[i].Kind || s.ID != want[i].ID || string(s.Data) != string(want[i].Data) {
			t.Errorf("%q", s)
		}
	}
	enough := errors.New("enough")
	if err := ReadStream(strings.NewReader(text), "", func() {}, func(Sent) error { return enough }); !errors.Is(err, enough) {
		t.Error(err)
	}
}
