package playback

import (
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/capture"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/watch"
)

// writeCaptures has the tests that make captures put them into testdata, with the events of the original beside them.
const writeCaptures = "HMCNOTIFYD_WRITE_CAPTURES"

// eventsOf is the shape of events as a text, for a file beside a capture.
func eventsOf(all []event.Event) string {
	live, others := shape(all, false)
	text, err := json.MarshalIndent(map[string]any{"live, of each resource": live, "others": others}, "", " ")
	if err != nil {
		return err.Error()
	}
	return string(text) + "\n"
}

func keepCapture(t *testing.T, file string, original []event.Event) {
	t.Helper()
	if os.Getenv(writeCaptures) == "" {
		return
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join("testdata", strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(t.Name(), "TestReplay"), "/", "-")))
	name = strings.NewReplacer("testdata/-", "testdata/simulator-", "testdata/of", "testdata/").Replace(name)
	for path, data := range map[string][]byte{name + ".gz": data, name + ".events": []byte(eventsOf(original))} {
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// said is what a capture has the HMC say, without what it says again.
type said struct {
	counts map[string]int  // notifications that are events of their own, by type
	texts  map[string]bool // of OS messages and log entries
}

func saidIn(t *testing.T, file string) said {
	t.Helper()
	in, err := capture.Open(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close() }()
	if in.Names {
		t.Error("names are as they were: nobody is to give that away")
	}
	s := said{make(map[string]int), make(map[string]bool)}
	for {
		e, err := in.Next()
		if errors.Is(err, io.EOF) {
			return s
		}
		if err != nil {
			t.Fatal(err)
		}
		if e.Frame == nil || e.Frame.Command != capture.Message {
			continue
		}
		switch kind := e.Frame.Get("notification-type"); kind {
		case "os-message", "log-entry":
			var body struct {
				Messages []map[string]any `json:"os-messages"`
				Entries  []map[string]any `json:"log-entries"`
			}
			_ = json.Unmarshal(e.Frame.Body.Raw(), &body)
			for _, m := range slices.Concat(body.Messages, body.Entries) {
				for _, member := range []string{"message-text", "event-message"} {
					if text, ok := m[member].(string); ok {
						s.texts[text] = true
					}
				}
			}
		default:
			s.counts[kind]++
		}
	}
}

// TestCapturesInTestdata plays each capture that is there to a daemon. All that the HMC says has to become events; where there is a
// file .events beside it, exactly those. A further capture is a test by being there.
func TestCapturesInTestdata(t *testing.T) {
	files, err := filepath.Glob("testdata/*.gz")
	if err != nil || len(files) < 3 {
		t.Fatalf("%v: %d captures; %s=1 go test -tags real -run TestReplay writes three", err, len(files), writeCaptures)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".gz"), func(t *testing.T) {
			t.Parallel()
			want := saidIn(t, file)
			h, err := Start(t.Context(), Options{File: file, Speed: 1})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = h.Close() }()
			d := start(t, h, hmcsim.DefaultUserid, hmcsim.DefaultPassword, watch.Tap{})
			played(t, h)
			exactly, err := os.ReadFile(strings.TrimSuffix(file, ".gz") + ".events")
			if err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
			got := func() said {
				s := said{make(map[string]int), make(map[string]bool)}
				for _, e := range d.all() {
					if e.Origin == "live" && e.Type != "os-message" && e.Type != "log-entry" {
						s.counts[e.Type]++
					}
					s.texts[event.String(event.Member(e.Body, "message-text"))] = true
					s.texts[event.String(event.Member(e.Body, "event-message"))] = true
					if e.BodyText != "" {
						t.Errorf("a body is no JSON: %.200s", e.BodyText)
					}
				}
				// Others are made by the daemon, as of an IPL.
				maps.DeleteFunc(s.counts, func(kind string, _ int) bool { return want.counts[kind] == 0 })
				maps.DeleteFunc(s.texts, func(text string, _ bool) bool { return !want.texts[text] })
				return s
			}
			same := func() bool {
				g := got()
				return maps.Equal(g.counts, want.counts) && maps.Equal(g.texts, want.texts)
			}
			for deadline := time.Now().Add(within / 9); !same() && time.Now().Before(deadline); { // else it is said below
				time.Sleep(5 * time.Millisecond)
			}
			// Gaps, and what is fetched of a log, come when nothing more may be missing; the end of a link comes with that of the daemon.
			all := func(text string) int { return strings.Count(text, "\n") - strings.Count(text, "bridge-disconnected") }
			for deadline := time.Now().Add(within / 9); all(eventsOf(d.all())) < all(string(exactly)) && time.Now().Before(deadline); {
				time.Sleep(5 * time.Millisecond)
			}
			d.stop()
			if g := got(); !maps.Equal(g.counts, want.counts) || !maps.Equal(g.texts, want.texts) {
				t.Errorf("events of %v and %d texts; the HMC says %v and %d texts", g.counts, len(g.texts), want.counts, len(want.texts))
			}
			if text := eventsOf(d.all()); exactly != nil && text != string(exactly) {
				t.Errorf("the events of the capture are\n%s\nand were\n%s", text, exactly)
			}
		})
	}
}
